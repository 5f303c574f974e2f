/* SPDX-License-Identifier: Apache-2.0 */
/* peer_card.h - what the host part of the communicator `peer` and its kernels share. C and C++.
 *
 * Every rank has a mailbox that all others write into and only it reads:
 *
 *   | marks [block][source] | letters [3][block][source][512] | parcels [2][2][block][source][1024] |
 *
 * A block of a kernel talks to the same block of the other ranks alone, so there is nothing that
 * all blocks wait for, and each keeps its own count of calls in its card's memory: a captured
 * graph goes on counting wherever it is replayed.
 *
 * Letters are for small sums. One is 16 bytes: a word, the call's number, a word, the number
 * again. Halves of 8 bytes arrive whole on every link, so a letter needs no other sign, and its
 * reader waits in its own memory. Three sets take turns; who has finished call n has letters of n
 * from all, so all have finished n - 1, and whatever is sent for n + 1 spares what is read in n.
 * The third is being wiped, a letter a call, so that a number that has come round is never met.
 *
 * Parcels are for more: data first, then a fence, then a mark that counts phases (two a call).
 * Two sets take turns. In phase one a rank sends each other its part of the numbers, in phase two
 * the sums of its own part; gathers and broadcasts have phase two alone. */
#ifndef TN_PEER_CARD_H
#define TN_PEER_CARD_H

#include <tenon/plugin.h>

#define PEER_RANKS_MAX 16u
#define PEER_BLOCKS_MAX 32u
#define PEER_THREADS 512u
#define PEER_LETTER 16u        /* bytes, of them 8 of data */
#define PEER_LETTERS PEER_THREADS
#define PEER_LETTER_SETS 3u
#define PEER_NOTE (PEER_LETTERS * 8u) /* bytes that a block sends in letters */
#define PEER_UNIT 16u
#define PEER_UNITS 1024u       /* of a parcel, from one block to one */
#define PEER_PARCEL (PEER_UNITS * PEER_UNIT)
#define PEER_MARKS (PEER_BLOCKS_MAX * PEER_RANKS_MAX * 4u) /* bytes */

/* Numbers of calls with letters run from 1 to this, a multiple of three, and again from 1. */
#define PEER_CALLS_ROUND 3221225472u

/* On the card; what a kernel leaves for the next. */
typedef struct peer_state {
    uint32_t letters[PEER_BLOCKS_MAX]; /* calls so far */
    uint32_t parcels[PEER_BLOCKS_MAX];
    uint32_t is_broken;        /* a wait was given up: nothing is waited for any more */
} peer_state;

/* What kernels are told; pointers are the card's. */
typedef struct peer_view {
    unsigned char *box[PEER_RANKS_MAX];
    peer_state *state;
    const volatile uint32_t *stop; /* in the host's memory: not 0, give up */
    volatile uint32_t *missed; /* in the host's memory: 1 + the rank waited for in vain */
    uint64_t limit_ns;         /* of a wait */
    uint32_t rank, nrank, nblock;
} peer_view;

static inline uint64_t peer_box_size(uint32_t nrank, uint32_t nblock)
{
    return PEER_MARKS + (uint64_t)nrank * nblock
        * (PEER_LETTER_SETS * PEER_LETTERS * PEER_LETTER + 4u * PEER_PARCEL);
}

/* The most that one launch takes. */
static inline uint64_t peer_note_max(const peer_view *v)
{
    return (uint64_t)v->nblock * PEER_NOTE;
}

static inline uint64_t peer_sum_max(const peer_view *v)
{
    return (uint64_t)v->nblock * PEER_PARCEL * v->nrank;
}

static inline uint64_t peer_spread_max(const peer_view *v)
{
    return (uint64_t)v->nblock * PEER_PARCEL;
}

#ifdef __cplusplus
extern "C" {
#endif

/* Each enqueues one kernel on `stream` and returns the error of the launch, 0 for none. Types:
 * TN_F32, TN_F16, TN_BF16, TN_I32; `x` is aligned to its elements. */
int peer_one_shot(const peer_view *v, void *x, uint64_t bytes, uint32_t dtype, void *stream);
int peer_two_shot(const peer_view *v, void *x, uint64_t bytes, uint32_t dtype, void *stream);
/* Each rank's `in` to all others' out + rank * stride; with a root only its, and the others' `in`
 * is not read. */
int peer_spread(const peer_view *v, const void *in, void *out, uint64_t stride, uint64_t bytes,
                uint32_t root, void *stream);
/* Loads all kernels, which is not done while capturing. */
int peer_load_kernels(void);

#ifdef __cplusplus
}
#endif

#endif
