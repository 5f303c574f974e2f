/* SPDX-License-Identifier: Apache-2.0 */
/* teambeat.c - the thread in which a rank says that it is there.
 *
 * Ranks other than 0 beat to rank 0, rank 0 to all of them. A beat is not sent where the other
 * side has not read for long: what lies there says the same, and steps need the room. */
#include "teamparts.h"

#include <poll.h>
#include <time.h>
#include <unistd.h>

#define LEAVE_SECONDS 1          /* for the thread that follows to notice, and end in good order */

/* What a beat brings along once this rank serves. The lock is held, but not while it looks. */
static uint64_t look(tn_team *t, tn_rank_stats *stats)
{
    const tn_team_work w = t->work;
    if (w.look == NULL || t->rank == 0)
        return 0;
    pthread_mutex_unlock(&t->lock);
    w.look(w.user, stats);
    pthread_mutex_lock(&t->lock);
    return sizeof *stats;
}

/* False when nobody hears it. A socket that takes anything takes a whole beat. */
static bool beat_to(tn_team *t, uint32_t r, const tn_rank_stats *stats, uint64_t n)
{
    tn_err err;
    pthread_mutex_lock(&t->lock);
    struct pollfd p = {.fd = t->closing ? -1 : t->peer[r].fd, .events = POLLOUT};
    pthread_mutex_unlock(&t->lock);
    if (p.fd < 0 || pthread_mutex_trylock(&t->sending) != 0)
        return true; /* not there yet, or just being spoken to */
    bool heard = true;
    if (poll(&p, 1, 0) > 0) {
        heard = (p.revents & (POLLERR | POLLHUP)) == 0;
        if (heard && (p.revents & POLLOUT) != 0)
            heard = tn_wire_send(p.fd, &(tn_frame){.kind = TN_WIRE_BEAT}, stats, n, NULL, 0,
                                 t->silence * 1000u, &err) == TN_OK;
    }
    pthread_mutex_unlock(&t->sending);
    return heard;
}

/* Returns early when the team closes. The lock is held. */
static void rest(tn_team *t, uint64_t ms)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t)(ms / 1000);
    until.tv_nsec += (long)(ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    while (!t->closing && pthread_cond_timedwait(&t->news, &t->lock, &until) == 0)
        ;
}

static bool beat_all(tn_team *t, const tn_rank_stats *stats, uint64_t n)
{
    if (t->rank != 0)
        return beat_to(t, 0, stats, n);
    for (uint32_t r = 1; r < t->nrank; r++)
        (void)beat_to(t, r, stats, n); /* the watch, or a round, sees who is gone */
    return true;
}

/* When nobody hears it rank 0 is gone, and so is the reason to live: a step in the device may
 * never end by itself. */
void *tn_team_beat_main(void *team)
{
    tn_team *t = team;
    uint64_t ms = TN_TEAM_BEAT_SECONDS * 1000u;
    bool heard = true;
    if (t->silence * 1000u / 4 < ms)
        ms = t->silence * 1000u / 4;
    pthread_mutex_lock(&t->lock);
    while (!t->closing && heard) {
        tn_rank_stats stats;
        uint64_t n = look(t, &stats);
        pthread_mutex_unlock(&t->lock);
        heard = beat_all(t, &stats, n);
        pthread_mutex_lock(&t->lock);
        if (heard)
            rest(t, ms);
    }
    if (!heard)
        rest(t, LEAVE_SECONDS * 1000u);
    bool orphan = !t->closing;
    pthread_mutex_unlock(&t->lock);
    if (orphan) {
        tn_log_put(t->log, TN_LOG_WARN, "core", NULL, "rank %u: rank 0 is gone: ending", t->rank);
        _exit(TN_UNAVAILABLE);
    }
    return NULL;
}
