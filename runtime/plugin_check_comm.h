/* SPDX-License-Identifier: Apache-2.0 */
/* plugin_check_comm.h - what the parts of a communicator's check share: ranks that are
 * processes, and a board in shared memory on which they leave what they saw.
 *
 * plugin_check_comm.c holds what must come out right, plugin_check_loss.c what must not hang:
 * an abort, and ranks that are killed, stopped, absent or one too many; plugin_check_times.c
 * measures. */
#ifndef TN_PLUGIN_CHECK_COMM_H
#define TN_PLUGIN_CHECK_COMM_H

#include "plugin_check.h"

#include <stdatomic.h>
#include <sys/types.h>

#define TN_CHECK_RANKS_MAX 8u
#define TN_CHECK_DTYPES 4u
#define TN_CHECK_SIZES 9u
#define TN_CHECK_JOIN_MS 20000u

/* What a rank does between join and leave. */
enum {
    TN_PART_CALLS = 0, TN_PART_KILLED = 1, TN_PART_STOPPED = 2, TN_PART_LEFT = 3,
    TN_PART_CROWDED = 4, TN_PART_TIMES = 5, TN_PARTS = 6
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
    int32_t signal[TN_CHECK_RANKS_MAX];                /* that ended it, of children */
    uint32_t is_refused[TN_CHECK_RANKS_MAX];           /* join answered TN_UNSUPPORTED */
    char text[TN_CHECK_RANKS_MAX][1024];               /* the first failure */
    char seen[TN_CHECK_RANKS_MAX][1024];               /* the error that was hoped for */
    uint64_t hash[TN_CHECK_RANKS_MAX][TN_CHECK_DTYPES]; /* of sums that round; 0: not offered */
    double us[TN_CHECK_SIZES][3];                      /* sum, gather, broadcast; on rank 0 */
} tn_comm_board;

typedef struct tn_comm_rank {
    const tn_check *c;
    tn_comm_board *b;
    uint32_t rank, nrank;
    tn_check_room room;
    const tn_comm *comm;
    void *group;
    const tn_device *device;   /* whose memory the buffers are in; NULL: the host's */
    void *dev, *stream;
} tn_comm_rank;

/* What is made and looked at on the host, and where the communicator works on it: the same
 * memory when that is the host's. */
typedef struct tn_comm_buffer {
    uint8_t *host;
    void *mem;
} tn_comm_buffer;

/* The processes of a group: a child per rank, or the launcher alone. */
typedef struct tn_comm_cast {
    pid_t pid[TN_CHECK_RANKS_MAX];
    uint32_t npid;
} tn_comm_cast;

/* Writes "rank 1 of 2: WHAT: ..." on the board, and is false. */
bool tn_comm_failed(tn_comm_rank *r, const char *what, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* A board with a path that lives as long as this process; NULL with errno. Closed by munmap
 * and close. */
tn_comm_board *tn_comm_new_board(int *fd, char *path, size_t size);
/* Clears the board and starts n ranks that play a part. */
void tn_comm_start(const tn_check *c, tn_comm_board *b, uint32_t n, uint32_t part,
                   tn_comm_cast *k);
/* Waits until all but `lost` (TN_NONE: all) are done, then ends who is left; the lost one is
 * not waited for before, so it stays a zombie. */
void tn_comm_end(tn_comm_cast *k, tn_comm_board *b, uint32_t lost, int seconds);
/* Loads, inits and starts the plugin in this process. */
tn_status tn_comm_enter(tn_comm_rank *r, tn_err *err);
/* Waits for a child up to `seconds`, then ends it. */
void tn_comm_reap(pid_t pid, int seconds);
/* Whether all (but `lost`, or TN_NONE) came to a good end; the first text fails or skips. */
bool tn_comm_judge(tn_check *c, const tn_comm_board *b, uint32_t n, uint32_t lost);

/* plugin_check_memory.c: false with a text on failure. */
bool tn_comm_open_device(tn_comm_rank *r, uint32_t index);
void tn_comm_close_device(tn_comm_rank *r);
bool tn_comm_take(tn_comm_rank *r, size_t size, tn_comm_buffer *b);
void tn_comm_give(tn_comm_rank *r, tn_comm_buffer *b);
bool tn_comm_push(tn_comm_rank *r, const tn_comm_buffer *b, size_t size);
bool tn_comm_pull(tn_comm_rank *r, tn_comm_buffer *b, size_t size);
/* Waits for a call that returned `st`: on a device calls are only begun. Asks for the group's
 * health meanwhile and aborts when it is bad, as whoever waits for a step has to. */
tn_status tn_comm_settle(tn_comm_rank *r, tn_status st, tn_comm_buffer *b, tn_err *err);

/* plugin_check_times.c: the part that measures. */
bool tn_comm_part_times(tn_comm_rank *r);

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
