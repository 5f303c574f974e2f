/* SPDX-License-Identifier: Apache-2.0 */
/* plugin_check_comm.h - what the two halves of a communicator's check share: ranks that are
 * processes, and a board in shared memory on which they leave what they saw.
 *
 * plugin_check_comm.c holds what must come out right, plugin_check_loss.c what must not hang:
 * an abort, and ranks that are killed, stopped, absent or one too many. */
#ifndef TN_PLUGIN_CHECK_COMM_H
#define TN_PLUGIN_CHECK_COMM_H

#include "plugin_check.h"

#include <sys/types.h>

#define TN_CHECK_RANKS_MAX 8u
#define TN_CHECK_DTYPES 4u
#define TN_CHECK_JOIN_MS 20000u

typedef struct tn_comm_board {
    uint8_t id[TN_COMM_ID_SIZE];
    volatile uint32_t has_id;                          /* 1: id is there; 2: make_id failed */
    volatile uint32_t is_over;                         /* the last rank of a loss may go */
    volatile uint32_t has_joined[TN_CHECK_RANKS_MAX];
    volatile uint32_t has_ended[TN_CHECK_RANKS_MAX];   /* well */
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

/* What a rank does between join and leave; false with a text when it found something wrong. */
typedef bool (*tn_comm_part)(tn_comm_rank *r);

/* Writes "rank 1 of 2: WHAT: ..." on the board, and is false. */
bool tn_comm_failed(tn_comm_rank *r, const char *what, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Rank `rank` of `n` in a child: loads, joins, plays its part, leaves. */
pid_t tn_comm_fork(const tn_check *c, tn_comm_board *b, uint32_t rank, uint32_t n,
                   tn_comm_part part);
/* Loads, inits and starts the plugin in this process. */
tn_status tn_comm_enter(tn_comm_rank *r, tn_err *err);
/* Waits for a child up to `seconds`, then ends it. */
void tn_comm_reap(pid_t pid, int seconds);
/* Whether all (but `lost`, or TN_NONE) came to a good end; the first text fails or skips. */
bool tn_comm_judge(tn_check *c, const tn_comm_board *b, uint32_t n, uint32_t lost);

/* In a rank, after everything else: ends with an abort. */
bool tn_comm_part_abort(tn_comm_rank *r);
/* Groups that lose a rank, and joins that must fail. */
void tn_check_comm_loss(tn_check *c, tn_comm_board *b);

#endif
