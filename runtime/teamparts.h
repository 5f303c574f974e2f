/* SPDX-License-Identifier: Apache-2.0 */
/* teamparts.h - what the team's own files share. */
#ifndef TN_TEAMPARTS_H
#define TN_TEAMPARTS_H

#include "share.h"
#include "team.h"
#include "teamstep.h"
#include "teamwire.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

/* The other end of a connection: of rank 0 each other rank, of those rank 0. */
typedef struct tn_peer {
    int fd;                      /* -1: none */
    pid_t pid;                   /* 0: not ours to wait for */
    uint64_t heard;              /* monotonic ns of the last sign of life, 0: none yet */
    bool gone;                   /* rounds: it is not waited for again */
    tn_buf data;                 /* of the frame that came last */
    tn_frame reply;              /* kind 0: none waits to be taken */
} tn_peer;

struct tn_team {
    uint32_t rank, nrank;
    uint32_t silence, patience;  /* seconds: of one that was here, until the first word */
    tn_log *log;
    tn_peer *peer;               /* owned [nrank]; the entry of this rank itself is empty */
    tn_team_work work;
    tn_device face;              /* rank 0: what the engine sees */
    tn_buf step;                 /* rank 0: the step as bytes */
    uint64_t hash;               /* rank 0: of its own results */
    uint64_t begun[2];           /* rank 0: when a step was called, by its number */
    _Atomic uint64_t steps, step_ns; /* done by this rank */

    pthread_mutex_t sending;     /* one frame at a time: beats come from a thread of their own */
    pthread_mutex_t lock;        /* guards what follows, `work` and the peers' `fd` and `reply` */
    pthread_cond_t news;
    int wake;                    /* rank 0: an eventfd that the watch looks at */
    pthread_t watch;             /* rank 0: reads all others */
    pthread_t beat;              /* says that this rank is there */
    bool has_locks, has_watch, has_beat, closing;
    bool missed;                 /* rank 0, before it serves: somebody was lost, and then `missed_why` */
    tn_err missed_why;
    bool lost;                   /* and then `why` stands */
    bool telling;                /* `on_lost` is being called */
    tn_err why;
};

uint64_t tn_team_now(void);
void tn_team_count(tn_team *t, uint64_t begun); /* a step that is done */
/* What ranks compare of a step (teamfollow.c). */
uint64_t tn_team_hash(const tn_results *r);
/* Notes the first loss, wakes all who wait, aborts the communicator. */
void tn_team_lose(tn_team *t, const tn_err *why);
void tn_team_wake(tn_team *t);
/* teamstart.c: connections to all, by starting them or by awaiting them. */
tn_status tn_team_connect(tn_team *t, const tn_team_setup *setup, tn_err *err);
/* teammeet.c: rank 0 awaits those that have no connection yet, others come to it. */
tn_status tn_team_meet(tn_team *t, const tn_team_setup *setup, tn_err *err);
/* The connection to rank r, which is the team's from now on. */
void tn_team_seat(tn_team *t, uint32_t r, int fd);
/* "rank 2 (process 4711) was ended by signal 9", from what is known. */
void tn_team_obituary(tn_team *t, uint32_t rank, const tn_err *how, tn_err *out);
/* A thread that takes no signals. */
tn_status tn_team_thread(pthread_t *thread, bool *has, void *(*run)(void *), tn_team *t,
                         tn_err *err);
/* teambeat.c: the thread of beats. Every rank beats, so a stopped one is missed by all. */
void *tn_team_beat_main(void *team);
/* A frame to rank r. */
tn_status tn_team_send(tn_team *t, uint32_t r, uint32_t kind, uint32_t status, const void *a,
                       uint64_t na, const void *b, uint64_t nb, tn_err *err);

#endif
