/* SPDX-License-Identifier: Apache-2.0 */
/* peer.c - joins the cards of one host by kernels that write into each other's mailboxes.
 *
 * A small sum is one shot: every rank sends its numbers to all and adds up what comes. A large one
 * takes two: every rank adds up its part, then all get all parts. Either way in the order of the
 * ranks, so all get the same bits. Calls are kernels alone and can be captured. */
#include "peer.h"

#include <cuda_runtime.h>

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static bool is_summed(uint32_t dtype)
{
    return dtype == TN_F32 || dtype == TN_F16 || dtype == TN_BF16 || dtype == TN_I32
        || dtype == TN_U32;
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

/* Pieces are whole units, so all but the last keep the alignment of x. */
tn_status peer_sum(const peer_group *g, void *x, uint64_t bytes, uint32_t dtype, uint64_t once_max,
                   void *stream, tn_err *err)
{
    const peer_view *v = &g->view;
    uint32_t type = dtype == TN_U32 ? TN_I32 : dtype;
    bool once = bytes <= once_max;
    uint64_t most = once ? peer_note_max(v) : peer_sum_max(v);
    int code = 0;
    for (uint64_t done = 0, n; code == 0 && done < bytes; done += n) {
        char *at = (char *)x + done;
        n = least(bytes - done, most);
        code = once ? peer_one_shot(v, at, n, type, stream) : peer_two_shot(v, at, n, type, stream);
    }
    return code == 0 ? TN_OK : peer_say(code, "all_reduce", err);
}

tn_status peer_gather(const peer_group *g, const void *in, void *out, uint64_t bytes, void *stream,
                      tn_err *err)
{
    int code = 0;
    for (uint64_t done = 0, n; code == 0 && done < bytes; done += n) {
        n = least(bytes - done, peer_spread_max(&g->view));
        code = peer_spread(&g->view, (const char *)in + done, (char *)out + done, bytes, n, TN_NONE,
                           stream);
    }
    return code == 0 ? TN_OK : peer_say(code, "all_gather", err);
}

/* The current device is a thread's own, and this plugin's runtime is not the device plugin's. */
static tn_status enter(peer_group *g, tn_err *err)
{
    int now = -1;
    tn_status st = peer_check(g, err);
    if (st != TN_OK)
        return st;
    if (cudaGetDevice(&now) != cudaSuccess || now != g->device) {
        int code = cudaSetDevice(g->device);
        if (code != cudaSuccess)
            return peer_say(code, "the card", err);
    }
    atomic_store_explicit(&g->page->seat[g->rank].calls, ++g->calls, memory_order_relaxed);
    return TN_OK;
}

static tn_status all_reduce(void *group, void *x, uint64_t count, uint32_t dtype, void *stream,
                            tn_err *err)
{
    peer_group *g = group;
    if (!is_summed(dtype))
        return tn_fail(err, TN_UNSUPPORTED, "peer: a sum of data type %u is not offered", dtype);
    tn_status st = enter(g, err);
    if (st != TN_OK || g->nrank == 1)
        return st;
    return peer_sum(g, x, count * size_of(dtype), dtype, g->one_shot_max, stream, err);
}

static tn_status all_gather(void *group, const void *in, void *out, uint64_t count,
                            uint32_t dtype, void *stream, tn_err *err)
{
    peer_group *g = group;
    uint64_t bytes = count * size_of(dtype);
    if (size_of(dtype) == 0)
        return tn_fail(err, TN_UNSUPPORTED, "peer: a gather of data type %u is not offered", dtype);
    tn_status st = enter(g, err);
    if (st != TN_OK)
        return st;
    if (g->nrank > 1)
        return peer_gather(g, in, out, bytes, stream, err);
    int code = in == out ? 0 : cudaMemcpyAsync(out, in, bytes, cudaMemcpyDeviceToDevice, stream);
    return code == 0 ? TN_OK : peer_say(code, "all_gather", err);
}

static tn_status broadcast(void *group, void *x, uint64_t bytes, uint32_t root, void *stream,
                           tn_err *err)
{
    peer_group *g = group;
    int code = 0;
    if (root >= g->nrank)
        return tn_fail(err, TN_INTERNAL, "peer: root %u of %u ranks", root, g->nrank);
    tn_status st = enter(g, err);
    if (st != TN_OK || g->nrank == 1)
        return st;
    for (uint64_t done = 0, n; code == 0 && done < bytes; done += n) {
        char *at = (char *)x + done;
        n = least(bytes - done, peer_spread_max(&g->view));
        code = peer_spread(&g->view, at, at, 0, n, root, stream);
    }
    return code == 0 ? TN_OK : peer_say(code, "broadcast", err);
}

static tn_status barrier(void *group, tn_err *err)
{
    peer_group *g = group;
    tn_status st = peer_check(g, err);
    if (st != TN_OK)
        return st;
    return peer_meet(g, TN_OK, peer_ms(g) + g->timeout_s * 1000ull, err);
}

/* ------------------------------------------------------------------------------ the plugin */

static tn_status probe(const tn_host *h, tn_err *err)
{
    int n = 0, code = cudaGetDeviceCount(&n);
    (void)h;
    if (code != cudaSuccess || n == 0)
        return tn_fail(err, TN_UNAVAILABLE, "peer: no card is found: %s",
                       code != cudaSuccess ? cudaGetErrorString(code) : "there is none");
    return TN_OK;
}

static tn_status init(const tn_host *h, void **self, tn_err *err)
{
    (void)err;
    *self = (void *)(uintptr_t)h; /* nothing else to remember */
    return TN_OK;
}

static void stop(void *self)
{
    (void)self;
}

static const char *const ways[] = {"auto", "cards", "host", NULL};

static const tn_option options[] = {
    {.size = sizeof(tn_option), .type = TN_OPT_INT, .key = "timeout", .fallback = "30", .least = 1,
     .greatest = 86400, .help = "Seconds after which a rank that does not come is given up."},
    {.size = sizeof(tn_option), .type = TN_OPT_ENUM, .key = "way", .fallback = "auto",
     .choices = ways, .help = "Where mailboxes lie: cards (their own memory), host (pinned memory), "
     "auto (cards where all reach each other and a trial succeeds, else host)."},
    {.size = sizeof(tn_option), .type = TN_OPT_SIZE, .key = "one_shot", .fallback = "0",
     .greatest = 1073741824, .help = "Bytes up to which sums are made in one shot, not in two; "
     "0: as measured when joining. Rank 0's counts."},
};

static const tn_comm table = {
    .size = sizeof(tn_comm),
    .flags = TN_COMM_DEVICE | TN_COMM_CAPTURABLE,
    .make_id = peer_make_id,
    .join = peer_join,
    .all_reduce = all_reduce,
    .all_gather = all_gather,
    .broadcast = broadcast,
    .barrier = barrier,
    .abort = peer_abort,
    .health = peer_health,
    .leave = peer_leave,
};

const tn_plugin tn_plugin_entry = {
    .abi_major = TN_ABI_MAJOR,
    .abi_minor = TN_ABI_MINOR,
    .size = sizeof(tn_plugin),
    .kind = TN_KIND_COMM,
    .name = "peer",
    .version = "1.0",
    .summary = "Joins the cards of one host through each other's memory, or the host's.",
    .options = options,
    .noption = sizeof options / sizeof options[0],
    .table = &table,
    .probe = probe,
    .init = init,
    .stop = stop,
};
