/* SPDX-License-Identifier: Apache-2.0 */
/* peer_try.c - a trial of every kind of call, and the size from which two shots are the faster.
 *
 * Links between cards may claim to work and then hang or mix up what goes over them; so nothing is
 * relied on that has not carried sums, and the wait for them has an end. */
#include "peer.h"

#include <cuda_runtime.h>
#include <sched.h>
#include <time.h>

#define TRIAL_BYTES 140004u    /* more than a launch of letters; no multiple of anything */
#define TRIALS 3u              /* each mailbox comes in turn */
#define ROUNDS 8u
#define NSIZE 7u              /* 4 KiB and on, each twice the one before */
#define SIZE_LEAST 4096u

/* Small integers: exact in any order. */
static float value_of(uint32_t rank, uint32_t i, uint32_t round)
{
    return (float)((i * 7 + rank * 13 + round) % 31);
}

/* Everything on the stream is done, or the deadline has passed. */
static tn_status settle(const peer_group *g, uint64_t deadline, tn_err *err)
{
    int code;
    while ((code = cudaStreamQuery(g->stream)) == cudaErrorNotReady) {
        if (peer_ms(g) > deadline)
            return tn_fail(err, TN_TIMEOUT, "peer: a trial did not end in time");
        sched_yield();
    }
    return code == cudaSuccess ? TN_OK : peer_say(code, "a trial", err);
}

typedef struct trial {
    float *host;               /* [count] */
    float *x;                  /* [count], the card's */
    float *all;                /* [nrank, count] */
} trial;

static tn_status move(const peer_group *g, void *to, const void *from, uint64_t bytes,
                      uint64_t deadline, tn_err *err)
{
    int code = cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, g->stream);
    return code == cudaSuccess ? settle(g, deadline, err) : peer_say(code, "a trial", err);
}

static tn_status compare(const peer_group *g, const trial *t, uint32_t n, uint32_t from,
                         uint32_t to, uint32_t round, const char *what, tn_err *err)
{
    uint32_t missed = atomic_load(&g->page->seat[g->rank].missed);
    if (missed != 0)
        return tn_fail(err, TN_TIMEOUT, "peer: in a trial of %s nothing came from rank %u in time",
                       what, missed - 1);
    for (uint32_t i = 0; i < n; i++) {
        float want = 0;
        for (uint32_t r = from; r < to; r++)
            want += value_of(r, i, round);
        if (t->host[i] != want)
            return tn_fail(err, TN_UNAVAILABLE, "peer: in a trial of %s element %u is %g; expected "
                           "%g", what, i, (double)t->host[i], (double)want);
    }
    return TN_OK;
}

static tn_status try_sum(const peer_group *g, const trial *t, uint32_t bytes, uint64_t once,
                         uint32_t round, uint64_t deadline, tn_err *err)
{
    uint32_t n = bytes / 4;
    for (uint32_t i = 0; i < n; i++)
        t->host[i] = value_of(g->rank, i, round);
    tn_status st = move(g, t->x, t->host, bytes, deadline, err);
    if (st == TN_OK)
        st = peer_sum(g, t->x, bytes, TN_F32, once, g->stream, err);
    if (st == TN_OK)
        st = move(g, t->host, t->x, bytes, deadline, err);
    return st == TN_OK ? compare(g, t, n, 0, g->nrank, round, "sums", err) : st;
}

static tn_status try_gather(const peer_group *g, const trial *t, uint32_t bytes, uint32_t round,
                            uint64_t deadline, tn_err *err)
{
    uint32_t n = bytes / 4;
    for (uint32_t i = 0; i < n; i++)
        t->host[i] = value_of(g->rank, i, round);
    tn_status st = move(g, t->x, t->host, bytes, deadline, err);
    if (st == TN_OK)
        st = peer_gather(g, t->x, t->all, bytes, g->stream, err);
    for (uint32_t r = 0; st == TN_OK && r < g->nrank; r++) {
        st = move(g, t->host, t->all + (uint64_t)r * n, bytes, deadline, err);
        if (st == TN_OK)
            st = compare(g, t, n, r, r + 1, round, "gathers", err);
    }
    return st;
}

static tn_status take(const peer_group *g, uint64_t bytes, trial *t, tn_err *err)
{
    *t = (trial){.host = g->h->alloc(g->h->ctx, bytes)};
    if (t->host == NULL)
        return tn_fail(err, TN_NO_MEMORY, "peer: out of memory");
    int code = cudaMalloc((void **)&t->x, bytes);
    if (code == cudaSuccess)
        code = cudaMalloc((void **)&t->all, bytes * g->nrank);
    return code == cudaSuccess ? TN_OK : peer_say(code, "memory for a trial", err);
}

/* After a kernel that hangs, freeing would hang too. */
static void give(const peer_group *g, trial *t, tn_status st)
{
    if (st != TN_TIMEOUT) {
        cudaFree(t->x);
        cudaFree(t->all);
    }
    if (t->host != NULL)
        g->h->release(g->h->ctx, t->host);
}

/* Kernels give up a while before the trial does, so that they have ended by then. */
static uint64_t limit_of(const peer_group *g, uint64_t deadline)
{
    uint64_t now = peer_ms(g);
    return deadline > now ? (deadline - now) * 500000 : 1;
}

tn_status peer_try(peer_group *g, uint64_t deadline, tn_err *err)
{
    static const uint32_t odd[] = {4, 4100, TRIAL_BYTES};
    uint64_t usual = g->view.limit_ns, all = UINT64_MAX;
    trial t;
    tn_status st = take(g, TRIAL_BYTES, &t, err);
    g->view.limit_ns = limit_of(g, deadline);
    for (uint32_t i = 0; st == TN_OK && i < TRIALS; i++)
        for (uint32_t k = 0; st == TN_OK && k < sizeof odd / sizeof odd[0]; k++) {
            st = try_sum(g, &t, odd[k], all, i, deadline, err);
            if (st == TN_OK)
                st = try_sum(g, &t, odd[k], 0, i + 1, deadline, err);
            if (st == TN_OK)
                st = try_gather(g, &t, odd[k], i, deadline, err);
        }
    g->view.limit_ns = usual;
    give(g, &t, st);
    return st;
}

/* -------------------------------------------------------------------------------- measuring */

static double us_now(const peer_group *g)
{
    return (double)g->h->clock(g->h->ctx) / 1000;
}

static tn_status time_sum(const peer_group *g, void *x, uint64_t bytes, uint64_t once,
                          uint64_t deadline, double *us, tn_err *err)
{
    tn_status st = peer_sum(g, x, bytes, TN_F32, once, g->stream, err);
    if (st == TN_OK)
        st = settle(g, deadline, err);
    double t = us_now(g);
    for (uint32_t i = 0; st == TN_OK && i < ROUNDS; i++)
        st = peer_sum(g, x, bytes, TN_F32, once, g->stream, err);
    if (st == TN_OK)
        st = settle(g, deadline, err);
    *us = (us_now(g) - t) / ROUNDS;
    return st;
}

static void tell(const peer_group *g, const double *once, const double *twice)
{
    char line[300];
    uint32_t last = NSIZE - 1;
    snprintf(line, sizeof line, "%u ranks through the memory of %s: one shot up to %llu KiB (%.1f us "
             "for 4 KiB), two shots above (%.1f us for %u KiB)", g->nrank,
             g->way == PEER_WAY_CARDS ? "the cards" : "the host",
             (unsigned long long)g->one_shot_max / 1024, once[0], twice[last],
             SIZE_LEAST << last >> 10);
    g->h->log(g->h->ctx, TN_LOG_INFO, line);
}

/* The greatest size up to which one shot wins at every step. */
static uint32_t best_of(const double *once, const double *twice)
{
    uint32_t best = SIZE_LEAST;
    for (uint32_t i = 0; i < NSIZE && once[i] <= twice[i]; i++)
        best = SIZE_LEAST << i;
    return best;
}

/* All take rank 0's wish; false: it has none. */
static tn_status agree_on_wish(peer_group *g, uint64_t deadline, bool *is_set, tn_err *err)
{
    if (g->rank == 0)
        g->page->once = (uint32_t)g->h->opt_int(g->h->ctx, "one_shot");
    tn_status st = peer_meet(g, TN_OK, deadline, err);
    g->one_shot_max = atomic_load(&g->page->once);
    *is_set = g->one_shot_max > 0;
    return st == TN_OK ? peer_meet(g, TN_OK, deadline, err) : st;
}

tn_status peer_measure(peer_group *g, uint64_t deadline, tn_err *err)
{
    double once[NSIZE], twice[NSIZE];
    bool is_set;
    trial t;
    tn_status st = agree_on_wish(g, deadline, &is_set, err);
    if (st != TN_OK || is_set)
        return st;
    st = take(g, SIZE_LEAST << (NSIZE - 1), &t, err);
    if (st == TN_OK) {
        int code = cudaMemsetAsync(t.x, 0, SIZE_LEAST << (NSIZE - 1), g->stream);
        st = code == cudaSuccess ? TN_OK : peer_say(code, "a trial", err);
    }
    st = peer_meet(g, st, deadline, err);
    for (uint32_t i = 0; st == TN_OK && i < NSIZE; i++) {
        st = time_sum(g, t.x, SIZE_LEAST << i, UINT64_MAX, deadline, &once[i], err);
        if (st == TN_OK)
            st = time_sum(g, t.x, SIZE_LEAST << i, 0, deadline, &twice[i], err);
    }
    if (st == TN_OK && g->rank == 0)
        g->page->once = best_of(once, twice);
    give(g, &t, st);
    st = peer_meet(g, st, deadline, err);
    g->one_shot_max = atomic_load(&g->page->once);
    if (st == TN_OK && g->rank == 0)
        tell(g, once, twice);
    return st;
}
