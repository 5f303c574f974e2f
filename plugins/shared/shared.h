/* SPDX-License-Identifier: Apache-2.0 */
/* shared.h - the communicator `shared`: what the ranks of one host have in common.
 *
 * The memory is a memfd, so it has no name and ends with the last rank, however that ends:
 *
 *   | head: rounds, fault, a seat per rank | piece 0, piece 1 of rank 0 | ... of rank 1 | ...
 *
 * Every collective is made of rounds. In a round each rank leaves something in one of its two
 * pieces, arrives, and goes on when all have arrived; whoever comes last releases the others.
 * The two pieces take turns: nobody can be two rounds ahead, so what was left in a round is
 * not written again before all have read it. */
#ifndef TN_SHARED_H
#define TN_SHARED_H

#include <tenon/plugin.h>

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SHARED_RANKS_MAX 64u
#define SHARED_LINE 64u        /* bytes that processors pass among themselves at once */

/* What made the group useless; the first to see it wins. */
enum { SHARED_SOUND = 0, SHARED_DEAD = 1, SHARED_LEFT = 2, SHARED_HUNG = 3, SHARED_UNEQUAL = 4 };

enum { SHARED_HERE = 1, SHARED_GONE = 2 };  /* a seat's state; 0: nobody came yet */

typedef struct shared_seat {
    _Alignas(SHARED_LINE) _Atomic uint32_t entered; /* the last round of this rank */
    _Atomic uint32_t state;
    _Atomic int32_t pid;
    uint32_t op[2];            /* what the rank is at, to be compared; rounds take turns */
    uint64_t count[2];
} shared_seat;

/* Rounds are counted modulo 2^32. */
typedef struct shared_head {
    _Alignas(SHARED_LINE) _Atomic uint32_t arrived;  /* ranks, over all rounds */
    _Alignas(SHARED_LINE) _Atomic uint32_t released; /* the last whole round; a futex */
    _Atomic uint32_t aborted;
    _Atomic uint32_t fault;    /* SHARED_* << 16 | rank */
    _Alignas(SHARED_LINE) _Atomic uint32_t asleep;   /* ranks that wait in the kernel */
    shared_seat seat[SHARED_RANKS_MAX];
} shared_head;

typedef struct shared_group {
    const tn_host *h;
    shared_head *m;
    char *pieces;              /* behind the head */
    uint64_t size;             /* of the mapping */
    uint64_t piece_size;       /* the same on all ranks: rank 0 says it */
    uint32_t rank, nrank;
    uint32_t round;            /* of this rank */
    uint32_t turn;             /* which of the two pieces comes next */
    uint32_t spin_us, timeout_s;
    int peer[SHARED_RANKS_MAX]; /* descriptors of the ranks' processes, -1: none */
} shared_group;

/* The piece of a rank that is in turn. */
static inline char *shared_piece(const shared_group *g, uint32_t rank)
{
    return g->pieces + (2 * (uint64_t)rank + g->turn) * g->piece_size;
}

/* shared_join.c: rank 0 hands the memory to the others through a socket named by the id. */
tn_status shared_make_id(void *self, uint8_t id[TN_COMM_ID_SIZE], tn_err *err);
tn_status shared_join(void *self, const uint8_t id[TN_COMM_ID_SIZE], uint32_t rank,
                      uint32_t nrank, uint32_t device, uint32_t timeout_ms, void **out,
                      tn_err *err);
void shared_leave(void *group);

/* shared_wait.c: a round. `op` and `count` say what the caller is at; ranks that differ are
 * told so. Everything written before is seen by all after. */
tn_status shared_meet(shared_group *g, uint32_t op, uint64_t count, tn_err *err);
/* TN_OK while every rank is there and nothing went wrong. [any] */
tn_status shared_health(void *group, tn_err *err);
void shared_abort(void *group);

/* shared_sum.c: to[i] = from[0][i] + from[1][i] + ..., in that order, rounded once to the type.
 * `to` may be one of `from`. */
typedef void (*shared_sum)(const void *const *from, uint32_t n, void *to, uint64_t count);
shared_sum shared_sum_of(uint32_t dtype);   /* NULL: not summed */
uint32_t shared_size_of(uint32_t dtype);    /* bytes; 0: no such type */

#endif
