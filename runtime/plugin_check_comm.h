/* SPDX-License-Identifier: Apache-2.0 */
/* plugin_check_comm.h - what the two halves of a communicator's check share: ranks that are
 * processes, and a board in shared memory on which they leave what they saw.
 *
 * plugin_check_comm.c holds what must come out right, plugin_check_loss.c what must not hang:
 * an abort, and ranks that are killed, stopped, absent or one too many. */
#ifndef TN_PLUGIN_CHECK_COMM_H
#define TN_PLUGIN_CHECK_COMM_H

#include "plugin_check.h"

#include <stdatomic.h>
#include <sys/types.h>

#define TN_CHECK_RANKS_MAX 8u
#define TN_CHECK_DTYPES 4u
#define TN_CHECK_JOIN_MS 20000u

/* What a rank does between join and leave. */
enum {
    TN_PART_CALLS = 0, TN_PART_KILLED = 1, TN_PART_STOPPED = 2, TN_PART_LEFT = 3,
    TN_PART_CROWDED = 4, TN_PARTS = 5
};

typedef struct tn_comm_board {
    uint32_t nrank, part;
    _Atomic uint32_t nstarted;                         /* launched ranks number themselves */
    uint8_t id[TN_COMM_ID_SIZE];
    volatile uint32_t has_id;                          /* 1: id is there; 2: make_id failed */
    volatile uint32_t is_over;                         /* the crowd has gone */
    volatile int32_t pid[TN_CHECK_RANKS_MAX];
    volatile uint32_t has_joined[TN_CHECK_RANKS_MAX];
    volatile uint32_t has_ended[TN_CHECK_RANKS_MAX];   /* well */
    volatile uint32_t is_done[TN_CHECK_RANKS_MAX];     /* well or not */
    uint32_t is_refused[TN_CHECK_RANKS_MAX];           /* join answered TN_UNSUPPORTED */
    char text[TN_CHECK_RANKS_MAX][1024];               /* the first failure */
    char seen[TN_CHECK_RANKS_MAX][1024];               /* the error that was hoped for */
    uint64_t hash[TN_CHECK_RANKS_MAX][TN_CHECK_DTYPES]; /* of sums that round; 0: not offered */
} tn_comm_board;

typedef struct tn_comm_rank {
    const tn_check *c;
    tn_comm_board *b;
    uint32_t rank, nrank;
    tn_check_room room;
    const tn_comm *comm;
    void *group;
} tn_comm_rank;

/* The processes of a group: a child per rank, or the launcher alone. */
typedef struct tn_comm_cast {
    pid_t pid[TN_CHECK_RANKS_MAX];
    uint32_t npid;
} tn_comm_cast;

/* Writes "rank 1 of 2: WHAT: ..." on the board, and is false. */
bool tn_comm_failed(tn_comm_rank *r, const char *what, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Clears the board and starts n ranks that play a part. */
void tn_comm_start(const tn_check *c, tn_comm_board *b, uint32_t n, uint32_t part,
                   tn_comm_cast *k);
/* Waits until all but `lost` (TN_NONE: all) are done, then ends who is left; the lost one is
 * not waited for before, so it stays a zombie. */
void tn_comm_end(tn_comm_cast *k, const tn_comm_board *b, uint32_t lost, int seconds);
/* Loads, inits and starts the plugin in this process. */
tn_status tn_comm_enter(tn_comm_rank *r, tn_err *err);
/* Waits for a child up to `seconds`, then ends it. */
void tn_comm_reap(pid_t pid, int seconds);
/* Whether all (but `lost`, or TN_NONE) came to a good end; the first text fails or skips. */
bool tn_comm_judge(tn_check *c, const tn_comm_board *b, uint32_t n, uint32_t lost);

/* Parts of plugin_check_loss.c; false with a text when something was wrong. */
bool tn_comm_part_killed(tn_comm_rank *r);
bool tn_comm_part_stopped(tn_comm_rank *r);
bool tn_comm_part_left(tn_comm_rank *r);
bool tn_comm_part_crowded(tn_comm_rank *r);
/* In a rank, after everything else: ends with an abort. */
bool tn_comm_part_abort(tn_comm_rank *r);
/* Groups that lose a rank, and joins that must fail. */
void tn_check_comm_loss(tn_check *c, tn_comm_board *b);

#endif
