/* SPDX-License-Identifier: Apache-2.0 */
/* nccl.c - joins cards through NCCL, on the device's stream.
 *
 * Sums are NCCL's. For one algorithm it reduces each element in one place, or along one fixed way,
 * and hands the result on, so ranks get the same bits; which algorithm is taken follows from
 * size and machine, and its order is not that of the ranks. */
#include "nccl_group.h"

static int type_of(uint32_t dtype)
{
    static const int8_t type[] = {
        [TN_F32] = NCCL_F32 + 1, [TN_F16] = NCCL_F16 + 1, [TN_BF16] = NCCL_BF16 + 1,
        [TN_F64] = NCCL_F64 + 1, [TN_I8] = NCCL_I8 + 1, [TN_U8] = NCCL_U8 + 1,
        [TN_I32] = NCCL_I32 + 1, [TN_U32] = NCCL_U32 + 1, [TN_I64] = NCCL_I64 + 1,
        [TN_U64] = NCCL_U64 + 1,
    };
    return dtype < sizeof type ? type[dtype] - 1 : -1;
}

static uint32_t size_of(uint32_t dtype)
{
    static const uint8_t size[] = {
        [TN_F32] = 4, [TN_F16] = 2, [TN_BF16] = 2, [TN_F64] = 8, [TN_I8] = 1, [TN_U8] = 1,
        [TN_I16] = 2, [TN_U16] = 2, [TN_I32] = 4, [TN_U32] = 4, [TN_I64] = 8, [TN_U64] = 8,
        [TN_BOOL] = 1, [TN_F8_E4M3] = 1, [TN_F8_E5M2] = 1,
    };
    return dtype < sizeof size ? size[dtype] : 0;
}

/* The group's communicator while it is there; unlocked by `leave_call`. */
static tn_status enter_call(nccl_group *g, tn_err *err)
{
    tn_status st = nccl_check(g, err);
    if (st != TN_OK)
        return st;
    pthread_mutex_lock(&g->lock);
    if (g->comm != NULL) {
        nccl_page_call(g);
        return TN_OK;
    }
    pthread_mutex_unlock(&g->lock);
    return tn_fail(err, TN_CANCELLED, "nccl: the group was aborted");
}

static tn_status leave_call(nccl_group *g, int code, const char *what, tn_err *err)
{
    tn_status st = nccl_settle(g, g->comm, code, 0, what, err);
    pthread_mutex_unlock(&g->lock);
    return st;
}

static tn_status all_reduce(void *group, void *x, uint64_t count, uint32_t dtype, void *stream,
                            tn_err *err)
{
    nccl_group *g = group;
    if (type_of(dtype) < 0)
        return tn_fail(err, TN_UNSUPPORTED, "nccl: a sum of data type %u is not offered", dtype);
    tn_status st = enter_call(g, err);
    if (st != TN_OK)
        return st;
    return leave_call(g, g->lib->reduce(x, x, count, type_of(dtype), NCCL_SUM, g->comm, stream),
                      "all_reduce", err);
}

static tn_status all_gather(void *group, const void *in, void *out, uint64_t count,
                            uint32_t dtype, void *stream, tn_err *err)
{
    nccl_group *g = group;
    if (size_of(dtype) == 0)
        return tn_fail(err, TN_UNSUPPORTED, "nccl: a gather of data type %u is not offered", dtype);
    tn_status st = enter_call(g, err);
    if (st != TN_OK)
        return st;
    return leave_call(g, g->lib->gather(in, out, count * size_of(dtype), NCCL_U8, g->comm, stream),
                      "all_gather", err);
}

static tn_status broadcast(void *group, void *x, uint64_t bytes, uint32_t root, void *stream,
                           tn_err *err)
{
    nccl_group *g = group;
    if (root >= g->nrank)
        return tn_fail(err, TN_INTERNAL, "nccl: root %u of %u ranks", root, g->nrank);
    tn_status st = enter_call(g, err);
    if (st != TN_OK)
        return st;
    return leave_call(g, g->lib->broadcast(x, x, bytes, NCCL_U8, (int)root, g->comm, stream),
                      "broadcast", err);
}

static tn_status barrier(void *group, tn_err *err)
{
    nccl_group *g = group;
    void *ctx;
    tn_status st = enter_call(g, err);
    if (st != TN_OK)
        return st;
    g->lib->cu_push(g->ctx);
    st = nccl_meet(g, 1, 0, err);
    g->lib->cu_pop(&ctx);
    pthread_mutex_unlock(&g->lock);
    return st;
}

static tn_status health(void *group, tn_err *err)
{
    nccl_group *g = group;
    int code = NCCL_SUCCESS;
    nccl_look(g);
    if (pthread_mutex_trylock(&g->lock) == 0) {
        if (g->comm != NULL && g->lib->state(g->comm, &code) == NCCL_SUCCESS
            && code != NCCL_SUCCESS && code != NCCL_IN_PROGRESS) {
            atomic_store(&g->code, code);
            nccl_fault(g, FAULT_NCCL, g->rank);
        }
        pthread_mutex_unlock(&g->lock);
    }
    return nccl_check(g, err);
}

/* ------------------------------------------------------------------------------ the plugin */

static tn_status probe(const tn_host *h, tn_err *err)
{
    nccl_lib lib;
    tn_status st = nccl_open(h, &lib, err);
    if (st == TN_OK)
        nccl_close(&lib);
    return st;
}

static tn_status init(const tn_host *h, void **self, tn_err *err)
{
    int version = 0;
    char line[160];
    nccl_self *s = h->alloc(h->ctx, sizeof *s);
    if (s == NULL)
        return tn_fail(err, TN_NO_MEMORY, "nccl: out of memory");
    s->h = h;
    tn_status st = nccl_open(h, &s->lib, err);
    if (st != TN_OK) {
        h->release(h->ctx, s);
        return st;
    }
    s->lib.version(&version);
    snprintf(line, sizeof line, "NCCL %d.%d.%d", version / 10000, version / 100 % 100,
             version % 100);
    h->log(h->ctx, TN_LOG_INFO, line);
    *self = s;
    return TN_OK;
}

/* The libraries stay open: threads of NCCL's may still be ending. */
static void stop(void *self)
{
    nccl_self *s = self;
    s->h->release(s->h->ctx, s);
}

static const tn_option options[] = {
    {.size = sizeof(tn_option), .type = TN_OPT_TEXT, .key = "library", .fallback = "libnccl.so.2",
     .help = "The NCCL library, by name or path."},
    {.size = sizeof(tn_option), .type = TN_OPT_TEXT, .key = "driver", .fallback = "libcuda.so.1",
     .help = "The driver's library, by name or path."},
    {.size = sizeof(tn_option), .type = TN_OPT_INT, .key = "timeout", .fallback = "30", .least = 1,
     .greatest = 86400, .help = "Seconds after which a rank that does not come is given up."},
    {.size = sizeof(tn_option), .type = TN_OPT_BOOL, .key = "split", .fallback = "yes",
     .help = "Make calls on a communicator that blocks: NCCL makes a thread for each other one."},
};

static const tn_comm table = {
    .size = sizeof(tn_comm),
    .flags = TN_COMM_DEVICE | TN_COMM_CAPTURABLE,
    .make_id = nccl_make_id,
    .join = nccl_join,
    .all_reduce = all_reduce,
    .all_gather = all_gather,
    .broadcast = broadcast,
    .barrier = barrier,
    .abort = nccl_abort,
    .health = health,
    .leave = nccl_leave,
};

const tn_plugin tn_plugin_entry = {
    .abi_major = TN_ABI_MAJOR,
    .abi_minor = TN_ABI_MINOR,
    .size = sizeof(tn_plugin),
    .kind = TN_KIND_COMM,
    .name = "nccl",
    .version = "1.0",
    .summary = "Joins cards through NCCL.",
    .options = options,
    .noption = sizeof options / sizeof options[0],
    .table = &table,
    .probe = probe,
    .init = init,
    .stop = stop,
};
