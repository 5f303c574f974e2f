/* SPDX-License-Identifier: Apache-2.0 */
/* peer_join.c - a group from its id to its end: mailboxes, and which way they are reached.
 *
 *     meet on the page  ->  own mailbox on the card  ->  open the others'  ->  try all calls
 *
 * Where one rank cannot open another's, or the trial fails (links may claim to work and hang), all
 * go over to mailboxes in the host's memory, and try again. */
#include "peer.h"

#include <cuda_runtime.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define HOST_BLOCKS 8u         /* enough for a bus; host mailboxes stay small */
#define TRIAL_MS 3000u
#define PART_MS 500u           /* for the others to let go of this rank's mailbox */

_Static_assert(sizeof(cudaIpcMemHandle_t) == PEER_HANDLE, "a handle has 64 bytes");

tn_status peer_say(int code, const char *what, tn_err *err)
{
    tn_status st = code == cudaErrorMemoryAllocation ? TN_NO_MEMORY : TN_UNAVAILABLE;
    cudaGetLastError(); /* it would be the next call's, too */
    return tn_fail(err, st, "peer: %s: %s (CUDA error %d)", what,
                   cudaGetErrorString((cudaError_t)code), code);
}

static uint64_t head_size(void)
{
    return (sizeof(peer_page) + PEER_PAGE - 1) / PEER_PAGE * PEER_PAGE;
}

static uint64_t host_box_size(uint32_t nrank)
{
    uint64_t size = peer_box_size(nrank, HOST_BLOCKS);
    return (size + PEER_PAGE - 1) / PEER_PAGE * PEER_PAGE;
}

/* --------------------------------------------------------------------------------- the card */

static void *on_card(const void *p, tn_status *st, tn_err *err)
{
    void *out = NULL;
    int code = cudaHostGetDevicePointer(&out, (void *)(uintptr_t)p, 0);
    if (code != cudaSuccess && *st == TN_OK)
        *st = peer_say(code, "pinned memory", err);
    return out;
}

static tn_status pin(void *p, uint64_t size, bool *is_pinned, tn_err *err)
{
    int code = cudaHostRegister(p, size, cudaHostRegisterPortable | cudaHostRegisterMapped);
    *is_pinned = code == cudaSuccess;
    return code == cudaSuccess ? TN_OK : peer_say(code, "pinning shared memory", err);
}

/* Blocks of a kernel that surely run at once, when `nshare` ranks have one card. */
static uint32_t blocks_at_once(int device, uint32_t nshare)
{
    int nsm = 0, nthread = 0;
    cudaDeviceGetAttribute(&nsm, cudaDevAttrMultiProcessorCount, device);
    cudaDeviceGetAttribute(&nthread, cudaDevAttrMaxThreadsPerMultiProcessor, device);
    uint32_t n = (uint32_t)nsm * ((uint32_t)nthread / PEER_THREADS) / nshare;
    return n > PEER_BLOCKS_MAX ? PEER_BLOCKS_MAX : n > 0 ? n : 1;
}

/* Ranks beyond the last card share cards from the first on. The page's head is seen by the card,
 * which looks there whether to give up. */
static tn_status take_card(peer_group *g, tn_err *err)
{
    peer_seat *me = &g->page->seat[g->rank];
    cudaStream_t stream = NULL;
    int n = 0, code = cudaGetDeviceCount(&n);
    g->device = n > 0 ? g->device % n : 0;
    if (code == cudaSuccess)
        code = cudaSetDevice(g->device);
    if (code == cudaSuccess)
        code = cudaDeviceGetPCIBusId(me->bus, PEER_BUS, g->device);
    if (code == cudaSuccess)
        code = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    g->stream = stream;
    if (code == cudaSuccess)
        code = peer_load_kernels();
    if (code == cudaSuccess)
        code = cudaMalloc((void **)&g->state, sizeof *g->state);
    if (code != cudaSuccess)
        return peer_say(code, "the card", err);
    tn_status st = pin(g->page, head_size(), &g->is_pinned, err);
    if (st != TN_OK)
        return st;
    g->view.state = g->state;
    g->view.limit_ns = g->timeout_s * 1000000000ull;
    g->view.rank = g->rank;
    g->view.nrank = g->nrank;
    g->view.stop = on_card(&g->page->stop, &st, err);
    g->view.missed = on_card((void *)&me->missed, &st, err);
    return st;
}

/* All counts and mailboxes of this rank as if nothing had ever been sent. */
static tn_status clear(peer_group *g, void *box, uint64_t size, tn_err *err)
{
    int code = cudaMemsetAsync(g->state, 0, sizeof *g->state, g->stream);
    if (code == cudaSuccess && g->way == PEER_WAY_CARDS)
        code = cudaMemsetAsync(box, 0, size, g->stream);
    else
        memset(box, 0, size);
    if (code == cudaSuccess)
        code = cudaStreamSynchronize(g->stream);
    return code == cudaSuccess ? TN_OK : peer_say(code, "the mailbox", err);
}

/* ----------------------------------------------------------------------- mailboxes on the cards */

static uint32_t ranks_on(const peer_group *g, const char *bus)
{
    uint32_t n = 0;
    for (uint32_t r = 0; r < g->nrank; r++)
        n += strcmp(g->page->seat[r].bus, bus) == 0;
    return n;
}

/* The least that any card holds; known when all have said where they are. */
static tn_status agree_on_blocks(peer_group *g, uint64_t deadline, tn_err *err)
{
    peer_seat *me = &g->page->seat[g->rank];
    me->nblock = blocks_at_once(g->device, ranks_on(g, me->bus));
    tn_status st = peer_meet(g, TN_OK, deadline, err);
    g->view.nblock = PEER_BLOCKS_MAX;
    for (uint32_t r = 0; r < g->nrank; r++)
        if (g->page->seat[r].nblock < g->view.nblock)
            g->view.nblock = g->page->seat[r].nblock;
    if (g->way == PEER_WAY_HOST && g->view.nblock > HOST_BLOCKS)
        g->view.nblock = HOST_BLOCKS;
    return st;
}

static bool can_reach(const peer_group *g, uint32_t rank)
{
    int other = -1, can = 0;
    if (cudaDeviceGetByPCIBusId(&other, g->page->seat[rank].bus) != cudaSuccess) {
        cudaGetLastError();
        return false;      /* hidden from this process */
    }
    return other == g->device
        || (cudaDeviceCanAccessPeer(&can, g->device, other) == cudaSuccess && can);
}

static bool open_box(peer_group *g, uint32_t rank)
{
    cudaIpcMemHandle_t handle;
    if (!can_reach(g, rank))
        return false;
    memcpy(&handle, g->page->seat[rank].handle, sizeof handle);
    if (cudaIpcOpenMemHandle(&g->open[rank], handle, cudaIpcMemLazyEnablePeerAccess)
        != cudaSuccess) {
        cudaGetLastError();
        g->open[rank] = NULL;
        return false;
    }
    g->view.box[rank] = g->open[rank];
    return true;
}

/* What a meeting is held for besides being there; true: all voted for it. */
static tn_status vote(peer_group *g, bool mine, uint64_t deadline, bool *all, tn_err *err)
{
    *all = true;
    g->page->seat[g->rank].vote = mine;
    tn_status st = peer_meet(g, TN_OK, deadline, err);
    for (uint32_t r = 0; r < g->nrank; r++)
        *all = *all && g->page->seat[r].vote != 0;
    return st == TN_OK ? peer_meet(g, TN_OK, deadline, err) : st; /* all have counted */
}

static tn_status use_cards(peer_group *g, uint64_t deadline, bool *can, tn_err *err)
{
    cudaIpcMemHandle_t handle;
    uint64_t size = peer_box_size(g->nrank, g->view.nblock);
    g->way = PEER_WAY_CARDS;
    int code = cudaMalloc(&g->box, size);
    tn_status st = code == cudaSuccess ? clear(g, g->box, size, err)
                                       : peer_say(code, "a mailbox on the card", err);
    st = peer_meet(g, st, deadline, err);
    if (st != TN_OK)
        return st;
    bool good = cudaIpcGetMemHandle(&handle, g->box) == cudaSuccess;
    if (good)
        memcpy(g->page->seat[g->rank].handle, &handle, sizeof handle);
    else
        cudaGetLastError();
    g->view.box[g->rank] = g->box;
    st = vote(g, good, deadline, can, err);
    for (uint32_t r = 0; st == TN_OK && *can && good && r < g->nrank; r++)
        good = r == g->rank || open_box(g, r);
    return st == TN_OK && *can ? vote(g, good, deadline, can, err) : st;
}

static void close_boxes(peer_group *g)
{
    for (uint32_t r = 0; r < PEER_RANKS_MAX; r++)
        if (g->open[r] != NULL) {
            cudaIpcCloseMemHandle(g->open[r]);
            g->open[r] = NULL;
        }
}

/* ----------------------------------------------------------------------- mailboxes on the host */

static tn_status use_host(peer_group *g, uint64_t deadline, tn_err *err)
{
    unsigned char *first = (unsigned char *)g->page + head_size(), *seen;
    uint64_t each = host_box_size(g->nrank);
    tn_status st;
    g->way = PEER_WAY_HOST;
    if (g->view.nblock > HOST_BLOCKS)
        g->view.nblock = HOST_BLOCKS;
    st = peer_page_claim(g, head_size() + g->rank * each, each, err);
    st = peer_meet(g, st, deadline, err); /* all have theirs before any pins them all */
    if (st == TN_OK)
        st = pin(first, g->nrank * each, &g->is_host_pinned, err);
    seen = st == TN_OK ? on_card(first, &st, err) : NULL;
    for (uint32_t r = 0; r < g->nrank; r++)
        g->view.box[r] = seen != NULL ? seen + r * each : NULL;
    if (st == TN_OK)
        st = clear(g, first + g->rank * each, each, err);
    return peer_meet(g, st, deadline, err);
}

/* ---------------------------------------------------------------------------- join and leave */

static uint32_t way_wanted(const peer_group *g)
{
    const char *way = g->h->opt_text(g->h->ctx, "way");
    return strcmp(way, "host") == 0 ? PEER_WAY_HOST
        : strcmp(way, "cards") == 0 ? PEER_WAY_CARDS : PEER_WAY_AUTO;
}

/* All take rank 0's wish. */
static tn_status agree_on_way(peer_group *g, uint64_t deadline, uint32_t *way, tn_err *err)
{
    g->page->seat[g->rank].vote = way_wanted(g);
    tn_status st = peer_meet(g, TN_OK, deadline, err);
    *way = g->page->seat[0].vote;
    return st == TN_OK ? peer_meet(g, TN_OK, deadline, err) : st;
}

static uint64_t sooner(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* `can` of use_cards, and a trial. What waits in a link that hangs ends with the trial's limit. */
static tn_status try_cards(peer_group *g, uint64_t deadline, bool *good, tn_err *err)
{
    tn_err why = {.text = "they cannot open each other's memory"};
    tn_status st = use_cards(g, deadline, good, err);
    if (st != TN_OK)
        return st;
    bool mine = *good && peer_try(g, sooner(deadline, peer_ms(g) + TRIAL_MS), &why) == TN_OK;
    st = vote(g, mine, deadline, good, err);
    if (st == TN_OK && !*good)
        atomic_store(&g->page->seat[g->rank].missed, 0); /* a trial's, no fault */
    if (st == TN_OK && !*good && g->rank == 0) {
        char line[400];
        snprintf(line, sizeof line, "cards do not reach each other (%.250s): mailboxes go to the "
                 "host's memory", mine ? "another rank found that" : why.text);
        g->h->log(g->h->ctx, TN_LOG_WARN, line);
    }
    return st;
}

static tn_status settle_way(peer_group *g, uint64_t deadline, tn_err *err)
{
    uint32_t way;
    bool good = false;
    tn_status st = agree_on_way(g, deadline, &way, err);
    if (st == TN_OK && way != PEER_WAY_HOST)
        st = try_cards(g, deadline, &good, err);
    if (st != TN_OK || good)
        return st;
    if (way == PEER_WAY_CARDS)
        return tn_fail(err, TN_UNAVAILABLE, "peer: the cards of %u ranks do not reach each other; "
                       "expected so with way = cards", g->nrank);
    st = use_host(g, deadline, err);
    if (st == TN_OK)
        st = peer_meet(g, peer_try(g, sooner(deadline, peer_ms(g) + TRIAL_MS), err), deadline, err);
    return st;
}

static tn_status begin(peer_group *g, const uint8_t *id, uint64_t deadline, tn_err *err)
{
    tn_status st = peer_meet(g, TN_OK, deadline, err);
    peer_page_unlink(id);
    if (st != TN_OK)
        return st;
    peer_watch(g);
    st = peer_meet(g, take_card(g, err), deadline, err);
    if (st != TN_OK || g->nrank == 1)
        return st;
    st = agree_on_blocks(g, deadline, err);
    if (st == TN_OK)
        st = settle_way(g, deadline, err);
    return st == TN_OK ? peer_measure(g, deadline, err) : st;
}

static peer_group *new_group(const tn_host *h, uint32_t rank, uint32_t nrank, uint32_t device)
{
    peer_group *g = h->alloc(h->ctx, sizeof *g);
    if (g == NULL)
        return NULL;
    *g = (peer_group){.h = h, .rank = rank, .nrank = nrank, .device = (int)device, .fd = -1};
    g->timeout_s = (uint32_t)h->opt_int(h->ctx, "timeout");
    g->page_size = head_size() + (nrank > 1 ? nrank * host_box_size(nrank) : 0);
    for (uint32_t r = 0; r < PEER_RANKS_MAX; r++)
        g->watch[r] = -1;
    return g;
}

/* A mailbox is given back when the others, if they are leaving too, write into it no more. */
static void await_others(const peer_group *g)
{
    struct timespec nap = {.tv_nsec = 1000000};
    for (uint32_t i = 0, here = 1; i < PART_MS && here > 0; i++) {
        here = 0;
        for (uint32_t r = 0; r < g->nrank; r++)
            here += r != g->rank && atomic_load(&g->page->seat[r].state) == PEER_HERE;
        if (here > 0 && !atomic_load(&g->page->stop))
            nanosleep(&nap, NULL);
        else
            break;
    }
}

void peer_leave(void *group)
{
    peer_group *g = group;
    const tn_host *h = g->h;
    int before = -1;
    bool has_device = cudaGetDevice(&before) == cudaSuccess;
    if (g->stream != NULL || g->state != NULL)
        cudaSetDevice(g->device);
    close_boxes(g);
    if (g->page != NULL) {
        atomic_store(&g->page->seat[g->rank].state, PEER_GONE);
        await_others(g);
    }
    if (g->box != NULL)
        cudaFree(g->box);
    if (g->state != NULL)
        cudaFree(g->state);
    if (g->stream != NULL)
        cudaStreamDestroy(g->stream);
    if (g->is_host_pinned)
        cudaHostUnregister((char *)g->page + head_size());
    if (g->is_pinned)
        cudaHostUnregister(g->page);
    peer_page_close(g);
    if (has_device)
        cudaSetDevice(before);
    cudaGetLastError();
    h->release(h->ctx, g);
}

tn_status peer_join(void *self, const uint8_t id[TN_COMM_ID_SIZE], uint32_t rank, uint32_t nrank,
                    uint32_t device, uint32_t timeout_ms, void **out, tn_err *err)
{
    const tn_host *h = self;
    int before = -1;
    if (nrank == 0 || nrank > PEER_RANKS_MAX || rank >= nrank)
        return tn_fail(err, TN_UNSUPPORTED, "peer: rank %u of %u; expected 1 to %u ranks", rank,
                       nrank, PEER_RANKS_MAX);
    if (!peer_is_id(id))
        return tn_fail(err, TN_UNAVAILABLE, "peer: the id is not one of its make_id");
    peer_group *g = new_group(h, rank, nrank, device);
    if (g == NULL)
        return tn_fail(err, TN_NO_MEMORY, "peer: out of memory");
    bool has_device = cudaGetDevice(&before) == cudaSuccess;
    tn_status st = peer_page_open(g, id, err);
    if (st == TN_OK)
        st = begin(g, id, peer_ms(g) + timeout_ms, err);
    if (has_device)
        cudaSetDevice(before);
    if (st != TN_OK) {
        peer_leave(g);
        return st;
    }
    g->is_joined = true;
    *out = g;
    return TN_OK;
}
