/* SPDX-License-Identifier: Apache-2.0 */
/* nccl_join.c - a group of NCCL's, from its id to its end.
 *
 * It is joined without blocking, so that a rank that never comes can be given up. NCCL runs every
 * call of such a communicator in a thread that it makes for it, so calls are made on a child
 * that blocks, split off when all are there; a library without split keeps the first. */
#include "nccl_group.h"

#include <errno.h>
#include <sched.h>
#include <sys/random.h>
#include <time.h>

#define NAME_AT NCCL_ID_SIZE   /* in the id: the name of the page */
#define PREFIX "/tenon-nccl-"
#define NAME_BYTES 16u
#define MAGIC 0xcafebeefu      /* of a config */
#define VERSION 21400u
#define WARM_COUNT (1u << 22)  /* f32; the way of large sums is laid, too */
#define END_MS 5000u
#define LOCK_NS 500000000l     /* for a call that is being made when the group is aborted */

static uint64_t ms_now(const nccl_group *g)
{
    return g->h->clock(g->h->ctx) / 1000000;
}

static void nap(uint32_t *turns)
{
    struct timespec t = {.tv_nsec = 100000};
    if (++*turns < 1000)
        sched_yield();
    else
        nanosleep(&t, NULL);
}

/* -------------------------------------------------------------------------------- waiting */

tn_status nccl_settle(nccl_group *g, void *comm, int code, uint64_t deadline_ms, const char *what,
                      tn_err *err)
{
    uint64_t end = deadline_ms > 0 ? deadline_ms : ms_now(g) + g->timeout_s * 1000ull;
    uint32_t turns = 0;
    while (code == NCCL_IN_PROGRESS) {
        tn_status st = nccl_check(g, err);
        if (st != TN_OK)
            return st;
        if (ms_now(g) > end)
            return nccl_say_missing(g, what, err);
        nap(&turns);
        int e = g->lib->state(comm, &code);
        if (e != NCCL_SUCCESS)
            code = e;
    }
    if (code == NCCL_SUCCESS)
        return TN_OK;
    atomic_store(&g->code, code);
    nccl_fault(g, FAULT_NCCL, g->rank);
    return nccl_say(g->lib, code, what, err);
}

tn_status nccl_meet(nccl_group *g, uint64_t count, uint64_t deadline_ms, tn_err *err)
{
    uint64_t end = deadline_ms > 0 ? deadline_ms : ms_now(g) + g->timeout_s * 1000ull;
    uint32_t turns = 0;
    void *x = (void *)(uintptr_t)g->scratch;
    tn_status st = nccl_settle(g, g->comm, g->lib->reduce(x, x, count, NCCL_F32, NCCL_SUM, g->comm,
                                                         g->stream), end, "all_reduce", err);
    for (int e; st == TN_OK && (e = g->lib->cu_query(g->stream)) != 0;) {
        if (e != CUDA_NOT_READY)
            return tn_fail(err, TN_UNAVAILABLE, "nccl: the card answers with %d", e);
        if (ms_now(g) > end)
            return tn_fail(err, TN_TIMEOUT, "nccl: not all of %u ranks came in time", g->nrank);
        nap(&turns);
        if (turns % 64 == 0)
            nccl_look(g);
        st = nccl_check(g, err);
    }
    return st;
}

/* ------------------------------------------------------------------------------------- ids */

static const char *page_name(const uint8_t *id)
{
    return (const char *)id + NAME_AT;
}

static bool is_ours(const uint8_t *id)
{
    size_t n = sizeof PREFIX - 1;
    const char *name = page_name(id);
    return memcmp(name, PREFIX, n) == 0 && memchr(name, 0, TN_COMM_ID_SIZE - NAME_AT) != NULL
        && strlen(name) == n + 2 * NAME_BYTES && strchr(name + 1, '/') == NULL;
}

tn_status nccl_make_id(void *self, uint8_t id[TN_COMM_ID_SIZE], tn_err *err)
{
    const nccl_self *s = self;
    uint8_t bits[NAME_BYTES];
    nccl_id theirs;
    int code = s->lib.unique_id(&theirs);
    if (code != NCCL_SUCCESS)
        return nccl_say(&s->lib, code, "no id", err);
    if (getrandom(bits, sizeof bits, 0) != sizeof bits)
        return tn_fail(err, TN_OS, "nccl: no random bits: %s", strerror(errno));
    memset(id, 0, TN_COMM_ID_SIZE);
    memcpy(id, theirs.bytes, sizeof theirs.bytes);
    char *name = (char *)id + NAME_AT;
    int n = snprintf(name, TN_COMM_ID_SIZE - NAME_AT, "%s", PREFIX);
    for (uint32_t i = 0; i < NAME_BYTES; i++)
        n += snprintf(name + n, TN_COMM_ID_SIZE - NAME_AT - (size_t)n, "%02x", bits[i]);
    return TN_OK;
}

/* --------------------------------------------------------------------------- join and leave */

static nccl_config config_of(int blocking)
{
    return (nccl_config){.size = sizeof(nccl_config), .magic = MAGIC, .version = VERSION,
                         .blocking = blocking};
}

/* The primary context is the one that the device plugin's runtime uses. */
static tn_status take_card(nccl_group *g, tn_err *err)
{
    int d, code = g->lib->cu_device(&d, g->device);
    void *ctx = NULL;
    if (code == 0)
        code = g->lib->cu_retain(&ctx, d);
    if (code != 0)
        return tn_fail(err, TN_UNAVAILABLE, "nccl: card %d cannot be taken (code %d)", g->device,
                       code);
    g->ctx = ctx;
    code = g->lib->cu_push(ctx);
    if (code == 0)
        code = g->lib->cu_stream(&g->stream, 1); /* does not wait for the default stream */
    if (code == 0)
        code = g->lib->cu_take(&g->scratch, WARM_COUNT * sizeof(float));
    return code == 0 ? TN_OK : tn_fail(err, TN_UNAVAILABLE, "nccl: card %d has no room (code %d)",
                                       g->device, code);
}

/* A call's own success says little while the communicator does not block: its state does. */
static tn_status settle_new(nccl_group *g, void *comm, int code, uint64_t end, const char *what,
                            tn_err *err)
{
    return nccl_settle(g, comm, code == NCCL_SUCCESS ? NCCL_IN_PROGRESS : code, end, what, err);
}

/* Puts a communicator that blocks in place of the first, which stays until the group ends when
 * something goes wrong here. */
static tn_status split(nccl_group *g, uint64_t end, tn_err *err)
{
    nccl_config c = config_of(1);
    void *child = NULL;
    int code = g->lib->split(g->comm, 0, (int)g->rank, &child, &c);
    tn_status st = settle_new(g, g->comm, code, end, "split", err);
    if (st != TN_OK)
        return st;
    g->first = g->comm;
    g->comm = child;
    st = settle_new(g, g->first, g->lib->finalize(g->first), end, "end of the first", err);
    if (st != TN_OK)
        return st;
    g->lib->destroy(g->first);
    g->first = NULL;
    return TN_OK;
}

static tn_status begin(nccl_group *g, const uint8_t *id, uint64_t end, tn_err *err)
{
    nccl_config c = config_of(0);
    nccl_id theirs;
    memcpy(theirs.bytes, id, sizeof theirs.bytes);
    int code = g->lib->init(&g->comm, (int)g->nrank, theirs, (int)g->rank, &c);
    tn_status st = settle_new(g, g->comm, code, end, "join", err);
    if (st == TN_OK && g->lib->split != NULL && g->h->opt_int(g->h->ctx, "split"))
        st = split(g, end, err);
    if (st == TN_OK)
        st = nccl_meet(g, 1, end, err);
    return st == TN_OK ? nccl_meet(g, WARM_COUNT, end, err) : st;
}

static nccl_group *new_group(nccl_self *s, uint32_t rank, uint32_t nrank)
{
    const tn_host *h = s->h;
    nccl_group *g = h->alloc(h->ctx, sizeof *g);
    if (g == NULL)
        return NULL;
    *g = (nccl_group){.h = h, .lib = &s->lib, .rank = rank, .nrank = nrank};
    g->timeout_s = (uint32_t)h->opt_int(h->ctx, "timeout");
    pthread_mutex_init(&g->lock, NULL);
    for (uint32_t r = 0; r < GROUP_RANKS_MAX; r++)
        g->watch[r] = -1;
    return g;
}

/* In the thread of ending when there is one, else here. */
static nccl_end *begin_end(const nccl_group *g, void *comm, bool is_abort)
{
    nccl_end *e = nccl_end_begin(g->lib, g->ctx, comm, is_abort);
    if (e == NULL)
        g->lib->abort(comm);
    return e;
}

/* Peacefully when all is well; else at once, kernels that run included. */
static void end_comm(nccl_group *g)
{
    tn_err why;
    bool good = nccl_check(g, &why) == TN_OK;
    if (g->first != NULL)
        g->lib->abort(g->first);
    if (g->comm != NULL)
        g->end = begin_end(g, g->comm, !good);
    g->comm = NULL;
    if (g->end != NULL && !nccl_end_wait(g->end, END_MS))
        g->h->log(g->h->ctx, TN_LOG_WARN, "a captured graph still holds calls of a group that was "
                  "left; it should be released before");
    g->end = NULL;
}

void nccl_leave(void *group)
{
    nccl_group *g = group;
    const tn_host *h = g->h;
    void *ctx;
    bool pushed = g->ctx != NULL && g->lib->cu_push(g->ctx) == 0;
    end_comm(g);
    if (g->scratch != 0)
        g->lib->cu_give(g->scratch);
    if (g->stream != NULL)
        g->lib->cu_stream_end(g->stream);
    if (pushed)
        g->lib->cu_pop(&ctx);
    if (g->ctx != NULL)
        g->lib->cu_release(g->device);
    nccl_page_close(g);
    pthread_mutex_destroy(&g->lock);
    h->release(h->ctx, g);
}

/* A call under way ends soon: it looks at the page. If it does not, it is in NCCL, which the
 * abort then frees. */
void nccl_abort(void *group)
{
    nccl_group *g = group;
    struct timespec end;
    atomic_store(&g->page->aborted, 1);
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_nsec += LOCK_NS;
    end.tv_sec += end.tv_nsec / 1000000000l;
    end.tv_nsec %= 1000000000l;
    bool locked = pthread_mutex_timedlock(&g->lock, &end) == 0;
    void *comm = g->comm;
    g->comm = NULL;
    if (comm != NULL)
        g->end = begin_end(g, comm, true);
    if (locked)
        pthread_mutex_unlock(&g->lock);
}

tn_status nccl_join(void *self, const uint8_t id[TN_COMM_ID_SIZE], uint32_t rank, uint32_t nrank,
                    uint32_t device, uint32_t timeout_ms, void **out, tn_err *err)
{
    nccl_self *s = self;
    void *ctx;
    if (nrank == 0 || nrank > GROUP_RANKS_MAX || rank >= nrank)
        return tn_fail(err, TN_UNSUPPORTED, "nccl: rank %u of %u; expected 1 to %u ranks", rank,
                       nrank, GROUP_RANKS_MAX);
    if (!is_ours(id))
        return tn_fail(err, TN_UNAVAILABLE, "nccl: the id is not one of its make_id");
    nccl_group *g = new_group(s, rank, nrank);
    if (g == NULL)
        return tn_fail(err, TN_NO_MEMORY, "nccl: out of memory");
    uint64_t end = ms_now(g) + timeout_ms;
    tn_status st = nccl_page_open(g, page_name(id), err);
    if (st == TN_OK)
        st = nccl_card_of(g, device, &g->device, err);
    if (st == TN_OK)
        st = take_card(g, err);
    if (st == TN_OK)
        nccl_card_share(g, device, page_name(id));
    if (st == TN_OK)
        st = begin(g, id, end, err);
    nccl_page_unlink(page_name(id));
    if (g->ctx != NULL)
        s->lib.cu_pop(&ctx);
    if (st != TN_OK) {
        if (g->page != NULL)
            nccl_fault(g, FAULT_NCCL, rank); /* so that it is not left in peace */
        nccl_leave(g);
        return st;
    }
    nccl_page_watch(g);
    *out = g;
    return TN_OK;
}
