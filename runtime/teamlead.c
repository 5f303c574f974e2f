/* SPDX-License-Identifier: Apache-2.0 */
/* teamlead.c - rank 0 while it serves: a device whose every call all ranks do.
 *
 * Calls go out first and are then done here, so that all ranks are at it together. They are
 * answered by nobody, but for reads out of a cache and, where it is asked for, the hash of a
 * step's results. A thread hears what the others say. */
#include "teamparts.h"

#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#define LOOK_MS 1000u
#define LATE_MS 2000u            /* who looks that much later than meant was stopped itself */
#define REPLY_MS 30000u
#define REASON_MS 1000u          /* how long a step that failed here waits for the cause */

static tn_status lost_with(const tn_team *t, tn_err *err)
{
    *err = t->why;
    return TN_UNAVAILABLE;
}

/* ------------------------------------------------------------------------ the watch */

static void put_fail(const tn_peer *p, uint32_t r, tn_err *out)
{
    tn_fail(out, TN_UNAVAILABLE, "rank %u: %.*s", r, (int)(p->data.len < 900 ? p->data.len : 900),
            p->data.data != NULL ? p->data.data : "");
}

/* Reads one frame of rank r. A reply stays in its buffer, and the rank unheard, until it is
 * taken. */
static bool hear_one(tn_team *t, uint32_t r)
{
    tn_peer *p = &t->peer[r];
    tn_err err, why;
    tn_frame f;
    tn_status st = tn_wire_recv(p->fd, &f, &p->data, t->silence * 1000u, &err);
    if (st != TN_OK || f.kind == TN_WIRE_FAIL) {
        if (st == TN_OK)
            put_fail(p, r, &why);
        else
            tn_team_obituary(t, r, &err, &why);
        tn_team_lose(t, &why);
        return false;
    }
    p->heard = tn_team_now();
    if (f.kind == TN_WIRE_BEAT && p->data.len == sizeof(tn_rank_stats) && t->work.hear != NULL) {
        tn_rank_stats stats;
        memcpy(&stats, p->data.data, sizeof stats);
        t->work.hear(t->work.user, r, &stats);
    }
    if (f.kind != TN_WIRE_REPLY)
        return true;
    pthread_mutex_lock(&t->lock);
    p->reply = f;
    pthread_cond_broadcast(&t->news);
    pthread_mutex_unlock(&t->lock);
    return true;
}

static bool check_silence(tn_team *t, uint32_t r)
{
    tn_err why;
    pid_t pid = t->peer[r].pid;
    if (tn_team_now() - t->peer[r].heard < (uint64_t)t->silence * 1000000000u)
        return true;
    tn_fail(&why, TN_UNAVAILABLE, "rank %u (process %d) was not heard of for %u s", r, (int)pid,
            t->silence);
    tn_team_lose(t, &why);
    if (pid > 0)
        kill(pid, SIGKILL); /* it would answer nothing else */
    return false;
}

/* Silence while this process stood still says nothing of the others. */
static uint64_t look_again(tn_team *t, uint64_t last)
{
    uint64_t now = tn_team_now();
    for (uint32_t r = 1; r < t->nrank && now - last > (LOOK_MS + LATE_MS) * 1000000u; r++)
        t->peer[r].heard = now;
    return now;
}

static void *watch_main(void *arg)
{
    tn_team *t = arg;
    struct pollfd p[TN_RANKS_MAX];
    bool go = true;
    uint64_t last = tn_team_now();
    uint32_t ms = t->silence * 1000u / 4 < LOOK_MS ? t->silence * 1000u / 4 : LOOK_MS;
    p[0] = (struct pollfd){.fd = t->wake, .events = POLLIN};
    for (uint32_t r = 1; r < t->nrank; r++)
        t->peer[r].heard = tn_team_now();
    while (go) {
        uint64_t woken;
        pthread_mutex_lock(&t->lock);
        for (uint32_t r = 1; r < t->nrank; r++)
            p[r] = (struct pollfd){.fd = t->peer[r].reply.kind == 0 ? t->peer[r].fd : -1,
                                   .events = POLLIN};
        go = !t->closing;
        pthread_mutex_unlock(&t->lock);
        (void)poll(p, t->nrank, (int)ms);
        last = look_again(t, last);
        if (p[0].revents != 0)
            (void)!read(t->wake, &woken, sizeof woken);
        for (uint32_t r = 1; r < t->nrank && go; r++)
            go = p[r].revents != 0 ? hear_one(t, r) : p[r].fd < 0 || check_silence(t, r);
    }
    return NULL;
}

/* Waits for rank r's reply and leaves it in the peer's buffer; let_go ends its use. */
static tn_status reply_wait(tn_team *t, uint32_t r, tn_err *err)
{
    tn_peer *p = &t->peer[r];
    struct timespec until;
    tn_status st = TN_OK;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += REPLY_MS / 1000;
    pthread_mutex_lock(&t->lock);
    while (p->reply.kind == 0 && !t->lost && st == TN_OK)
        if (pthread_cond_timedwait(&t->news, &t->lock, &until) != 0)
            st = tn_fail(err, TN_TIMEOUT, "rank %u gave no answer within %u s", r,
                         REPLY_MS / 1000);
    if (st == TN_OK && t->lost)
        st = lost_with(t, err);
    pthread_mutex_unlock(&t->lock);
    return st;
}

static void reply_let_go(tn_team *t, uint32_t r)
{
    pthread_mutex_lock(&t->lock);
    t->peer[r].reply.kind = 0;
    t->peer[r].heard = tn_team_now();
    pthread_mutex_unlock(&t->lock);
    tn_team_wake(t);
}

/* ------------------------------------------------------------------------- the calls */

/* Rank r's part of `a`, or the same for all when `stride` is 0. */
static tn_status tell(tn_team *t, uint32_t kind, const void *a, uint64_t na, const char *b,
                      uint64_t nb, uint64_t stride, tn_err *err)
{
    pthread_mutex_lock(&t->lock);
    tn_status st = t->lost ? lost_with(t, err) : TN_OK;
    pthread_mutex_unlock(&t->lock);
    for (uint32_t r = 1; r < t->nrank && st == TN_OK; r++)
        st = tn_team_send(t, r, kind, 0, a, na, b != NULL ? b + r * stride : NULL, nb, err);
    return st;
}

/* A call that failed here, most likely because another rank did: its end is the better news. */
static tn_status explain(tn_team *t, tn_status st, tn_err *err)
{
    struct timespec until;
    if (st == TN_OK || st == TN_BUSY)
        return st;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += REASON_MS / 1000;
    pthread_mutex_lock(&t->lock);
    while (!t->lost && pthread_cond_timedwait(&t->news, &t->lock, &until) == 0)
        ;
    if (t->lost)
        st = lost_with(t, err);
    pthread_mutex_unlock(&t->lock);
    return st;
}

static tn_status lead_run(void *program, const tn_step *step, tn_err *err)
{
    tn_team *t = program;
    t->begun[step->number % 2] = tn_team_now();
    tn_status st = tn_team_step_put(step, t->work.vocab, &t->step, err);
    if (st == TN_OK)
        st = tell(t, TN_WIRE_STEP, t->step.data, t->step.len, NULL, 0, 0, err);
    if (st == TN_OK)
        st = t->work.device->run(t->work.program, step, err);
    return explain(t, st, err);
}

static tn_status compare(tn_team *t, uint64_t number, tn_err *err)
{
    for (uint32_t r = 1; r < t->nrank; r++) {
        uint64_t theirs = 0;
        tn_status st = reply_wait(t, r, err);
        if (st != TN_OK)
            return st;
        if (t->peer[r].data.len == sizeof theirs)
            memcpy(&theirs, t->peer[r].data.data, sizeof theirs);
        reply_let_go(t, r);
        if (theirs != t->hash)
            return tn_fail(err, TN_INTERNAL, "step %llu: the results of rank %u differ from those "
                           "of rank 0", (unsigned long long)number, r);
    }
    return TN_OK;
}

static tn_status lead_wait(void *program, uint64_t number, uint32_t poll, const tn_results **out,
                           tn_err *err)
{
    tn_team *t = program;
    const tn_results *results = NULL;
    tn_status st = t->work.device->wait(t->work.program, number, poll, &results, err);
    if (st == TN_OK)
        tn_team_count(t, t->begun[number % 2]);
    if (st == TN_OK && t->work.check) {
        t->hash = tn_team_hash(results);
        st = compare(t, number, err);
    }
    if (st == TN_OK)
        *out = results;
    return explain(t, st, err);
}

static tn_status lead_block_copy(void *program, int32_t from, int32_t to, tn_err *err)
{
    tn_team *t = program;
    const int32_t pair[2] = {from, to};
    tn_status st = tell(t, TN_WIRE_BLOCK_COPY, pair, sizeof pair, NULL, 0, 0, err);
    return st == TN_OK ? t->work.device->block_copy(t->work.program, from, to, err) : st;
}

static tn_status lead_state_copy(void *program, int32_t from, int32_t to, tn_err *err)
{
    tn_team *t = program;
    const int32_t pair[2] = {from, to};
    tn_status st = tell(t, TN_WIRE_STATE_COPY, pair, sizeof pair, NULL, 0, 0, err);
    return st == TN_OK ? t->work.device->state_copy(t->work.program, from, to, err) : st;
}

/* A block or state of the team: rank after rank, each in its device's neutral order. */
static uint64_t lead_block_size(void *program)
{
    tn_team *t = program;
    return t->nrank * t->work.device->block_size(t->work.program);
}

static uint64_t lead_state_size(void *program)
{
    tn_team *t = program;
    return t->nrank * t->work.device->state_size(t->work.program);
}

/* What rank 1 and above have read out, behind what rank 0 has. */
static tn_status collect(tn_team *t, char *data, uint64_t one, tn_err *err)
{
    for (uint32_t r = 1; r < t->nrank; r++) {
        tn_status st = reply_wait(t, r, err);
        if (st != TN_OK)
            return st;
        bool fits = t->peer[r].data.len == one;
        if (fits)
            memcpy(data + r * one, t->peer[r].data.data, one);
        reply_let_go(t, r);
        if (!fits)
            return tn_fail(err, TN_UNAVAILABLE, "rank %u read out another number of bytes than "
                           "rank 0", r);
    }
    return TN_OK;
}

static tn_status lead_block_read(void *program, int32_t block, void *data, tn_err *err)
{
    tn_team *t = program;
    uint64_t one = t->work.device->block_size(t->work.program);
    tn_status st = tell(t, TN_WIRE_BLOCK_READ, &block, sizeof block, NULL, 0, 0, err);
    if (st == TN_OK)
        st = t->work.device->block_read(t->work.program, block, data, err);
    return st == TN_OK ? collect(t, data, one, err) : st;
}

static tn_status lead_block_write(void *program, int32_t block, const void *data, tn_err *err)
{
    tn_team *t = program;
    uint64_t one = t->work.device->block_size(t->work.program);
    tn_status st = tell(t, TN_WIRE_BLOCK_WRITE, &block, sizeof block, data, one, one, err);
    return st == TN_OK ? t->work.device->block_write(t->work.program, block, data, err) : st;
}

static tn_status lead_state_read(void *program, int32_t slot, void *data, tn_err *err)
{
    tn_team *t = program;
    uint64_t one = t->work.device->state_size(t->work.program);
    tn_status st = tell(t, TN_WIRE_STATE_READ, &slot, sizeof slot, NULL, 0, 0, err);
    if (st == TN_OK)
        st = t->work.device->state_read(t->work.program, slot, data, err);
    return st == TN_OK ? collect(t, data, one, err) : st;
}

static tn_status lead_state_write(void *program, int32_t slot, const void *data, tn_err *err)
{
    tn_team *t = program;
    uint64_t one = t->work.device->state_size(t->work.program);
    tn_status st = tell(t, TN_WIRE_STATE_WRITE, &slot, sizeof slot, data, one, one, err);
    return st == TN_OK ? t->work.device->state_write(t->work.program, slot, data, err) : st;
}

tn_status tn_team_lead(tn_team *t, const tn_team_work *w, const tn_device **device, tn_err *err)
{
    const tn_device *d = w->device;
    pthread_mutex_lock(&t->lock);
    t->work = *w;                /* the beat looks at it */
    pthread_mutex_unlock(&t->lock);
    t->face = (tn_device){.size = sizeof t->face, .run = lead_run, .wait = lead_wait};
    if (d->block_copy != NULL)
        t->face.block_copy = lead_block_copy;
    if (d->state_copy != NULL)
        t->face.state_copy = lead_state_copy;
    if (d->block_size != NULL && d->block_read != NULL && d->block_write != NULL) {
        t->face.block_size = lead_block_size;
        t->face.block_read = lead_block_read;
        t->face.block_write = lead_block_write;
    }
    if (d->state_size != NULL && d->state_read != NULL && d->state_write != NULL) {
        t->face.state_size = lead_state_size;
        t->face.state_read = lead_state_read;
        t->face.state_write = lead_state_write;
    }
    *device = &t->face;
    return tn_team_thread(&t->watch, &t->has_watch, watch_main, t, err);
}
