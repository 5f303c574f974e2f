/* SPDX-License-Identifier: Apache-2.0 */
/* mpi_group.h - the communicator `mpi`: what its files share.
 *
 * All messages are sent one to one over MPI_COMM_WORLD, never by MPI's own collectives: those
 * cannot be given up while they wait, and do not promise the order of a sum. What MPI reads and
 * writes lies in the group's own room, because a message cannot be taken back once it is sent:
 * after a fault the room stays until MPI is done with it. */
#ifndef TN_MPI_GROUP_H
#define TN_MPI_GROUP_H

#include <tenon/plugin.h>

#include <mpi.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GROUP_RANKS_MAX 128u

/* Tags of a group, from its base on. */
enum { TAG_HELLO = 0, TAG_DATA = 1, TAG_NOTICE = 2, TAGS_A_GROUP = 4 };

enum { NOTICE_ABORT = 1, NOTICE_LEFT = 2 };

/* What made the group useless; the first to see it wins. */
enum { FAULT_SOUND = 0, FAULT_DEAD = 1, FAULT_GONE = 2, FAULT_HUNG = 3, FAULT_UNEQUAL = 4, FAULT_BROKEN = 5 };

typedef struct mpi_self {
    const tn_host *h;
    _Atomic uint32_t ngroup;   /* joined and not left */
    _Atomic uint32_t is_torn;  /* a group ended with a fault: MPI_Finalize would wait for ever */
    _Atomic uint32_t is_ours;  /* this plugin called MPI_Init */
} mpi_self;

typedef struct mpi_peer {
    int world;                 /* its rank in MPI_COMM_WORLD */
    int pid;                   /* of its process, on whatever host */
    int watch;                 /* a pidfd when it is on this host, else -1 */
    _Atomic uint32_t has_left;
} mpi_peer;

typedef struct mpi_group {
    mpi_self *self;
    const tn_host *h;
    uint32_t rank, nrank;
    int tag;                   /* base */
    uint64_t piece;            /* bytes exchanged at once, the same on all ranks */
    uint32_t spin_us, timeout_s;
    _Atomic uint32_t aborted, fault; /* fault: FAULT_* << 16 | rank */
    char *room;                /* what is sent, then a slot of `piece` bytes per rank */
    uint32_t nreq;             /* messages on their way */
    MPI_Request req[2 * GROUP_RANKS_MAX];
    uint64_t expect[2 * GROUP_RANKS_MAX]; /* bytes, 0 for what is sent */
    uint32_t from[2 * GROUP_RANKS_MAX];   /* whose message it is */
    atomic_flag is_listening;  /* one thread at a time looks at `ear` */
    MPI_Request ear;           /* the next notice */
    int notice;
    mpi_peer peer[GROUP_RANKS_MAX];
} mpi_group;

/* mpi_join.c */
tn_status mpi_make_id(void *self, uint8_t id[TN_COMM_ID_SIZE], tn_err *err);
tn_status mpi_join(void *self, const uint8_t id[TN_COMM_ID_SIZE], uint32_t rank, uint32_t nrank,
                   uint32_t device, uint32_t timeout_ms, void **out, tn_err *err);
void mpi_leave(void *group);
/* Whether a launcher started this process; the one sentence about it otherwise. */
tn_status mpi_launched(tn_err *err);

/* mpi_wait.c: messages are posted, then waited for all together. */
tn_status mpi_send(mpi_group *g, uint32_t to, const void *bytes, uint64_t size, tn_err *err);
tn_status mpi_receive(mpi_group *g, uint32_t from, void *bytes, uint64_t size, tn_err *err);
tn_status mpi_wait(mpi_group *g, tn_err *err);
tn_status mpi_check(const mpi_group *g, tn_err *err);
/* Hears of aborts and ranks that leave. */
tn_status mpi_listen(mpi_group *g, tn_err *err);
void mpi_tell_all(mpi_group *g, int notice);
void mpi_abort(void *group);
tn_status mpi_health(void *group, tn_err *err);

/* mpi_sum.c: to[i] = from[0][i] + from[1][i] + ..., in that order, rounded once to the type. */
typedef void (*mpi_sum)(const void *const *from, uint32_t n, void *to, uint64_t count);
mpi_sum mpi_sum_of(uint32_t dtype);      /* NULL: not summed */
uint32_t mpi_size_of(uint32_t dtype);    /* bytes; 0: no such type */

#endif
