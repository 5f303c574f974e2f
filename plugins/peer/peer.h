/* SPDX-License-Identifier: Apache-2.0 */
/* peer.h - the communicator `peer`: what its host files share.
 *
 * The ranks of one host meet on a page of shared memory that the id names; it is unnamed as soon as
 * all have it. Behind its head lie mailboxes of the host's memory, for cards that cannot reach
 * each other's; otherwise mailboxes are in the cards' memory (peer_card.h draws one). */
#ifndef TN_PEER_H
#define TN_PEER_H

#include <tenon/plugin.h>

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "peer_card.h"

#define PEER_PAGE 4096u
#define PEER_HANDLE 64u        /* bytes of a handle of memory between processes */
#define PEER_BUS 32u

enum { PEER_HERE = 1, PEER_GONE = 2 };      /* a seat's state; 0: nobody came yet */
enum { PEER_SOUND = 0, PEER_DEAD = 1, PEER_LEFT = 2, PEER_LATE = 3, PEER_CARD = 4 }; /* faults */
enum { PEER_WAY_AUTO = 0, PEER_WAY_CARDS = 1, PEER_WAY_HOST = 2 };

typedef struct peer_seat {
    _Atomic uint32_t state;
    _Atomic int32_t pid;
    _Atomic uint64_t space;    /* process name space */
    _Atomic uint32_t stage;    /* meetings of the ranks that this one came to */
    _Atomic uint32_t failed;   /* while joining: it came to the stage with a failure */
    _Atomic uint32_t missed;   /* written by its card: 1 + the rank waited for in vain */
    _Atomic uint64_t calls;    /* made so far; replayed graphs are not counted */
    uint32_t nrank, version;
    uint32_t vote;             /* what the meeting is about, see peer_meet */
    uint32_t nblock;           /* that its card can hold at once */
    unsigned char handle[PEER_HANDLE];
    char bus[PEER_BUS];        /* of its card */
    char why[256];             /* it failed */
} peer_seat;

typedef struct peer_page {
    _Atomic uint32_t stop;     /* kernels give up: aborted, or a fault was found */
    _Atomic uint32_t aborted;
    _Atomic uint32_t fault;    /* PEER_* << 16 | rank */
    _Atomic uint32_t once;     /* rank 0's: bytes from which two shots are the faster */
    _Alignas(64) peer_seat seat[PEER_RANKS_MAX];
} peer_page;

typedef struct peer_group {
    const tn_host *h;
    peer_page *page;
    uint64_t page_size;        /* with the host's mailboxes */
    int fd;                    /* of the page */
    bool is_pinned, is_host_pinned; /* the page's head, the mailboxes behind it */
    bool is_joined;
    peer_view view;            /* what kernels are told */
    void *box;                 /* of the card's memory, or NULL */
    peer_state *state;
    void *open[PEER_RANKS_MAX]; /* others' mailboxes as opened here, or NULL */
    void *stream;              /* for joining */
    uint32_t way;              /* PEER_WAY_CARDS or _HOST */
    uint32_t rank, nrank, timeout_s;
    uint32_t stage;
    int device;
    uint64_t one_shot_max;     /* bytes of a sum in letters */
    uint64_t calls;
    _Atomic uint64_t gone_since; /* the first rank left; 0: none did */
    int watch[PEER_RANKS_MAX]; /* pidfds, -1: none */
} peer_group;

/* peer_page.c: the page, who is lost, and why. */
tn_status peer_make_id(void *self, uint8_t id[TN_COMM_ID_SIZE], tn_err *err);
bool peer_is_id(const uint8_t *id);
tn_status peer_page_open(peer_group *g, const uint8_t *id, tn_err *err);
void peer_page_unlink(const uint8_t *id);
/* Takes the memory of a part of the page. */
tn_status peer_page_claim(const peer_group *g, uint64_t at, uint64_t size, tn_err *err);
void peer_page_close(peer_group *g);
/* Waits for all ranks, who come with a status each; TN_OK when all were. A rank that failed says
 * so with `mine`, and gets it back. */
tn_status peer_meet(peer_group *g, tn_status mine, uint64_t deadline_ms, tn_err *err);
void peer_watch(peer_group *g);
/* TN_OK, or the sentence for what is wrong. */
tn_status peer_check(const peer_group *g, tn_err *err);
void peer_fault(peer_group *g, uint32_t what, uint32_t rank);
tn_status peer_health(void *group, tn_err *err);
void peer_abort(void *group);
uint64_t peer_ms(const peer_group *g);

/* peer_join.c */
tn_status peer_join(void *self, const uint8_t id[TN_COMM_ID_SIZE], uint32_t rank, uint32_t nrank,
                    uint32_t device, uint32_t timeout_ms, void **out, tn_err *err);
void peer_leave(void *group);
tn_status peer_say(int code, const char *what, tn_err *err); /* a code of CUDA's */

/* peer_try.c: runs every kind of call and compares; then measures which sums are faster in one
 * shot, and sets one_shot_max for all ranks. */
tn_status peer_try(peer_group *g, uint64_t deadline_ms, tn_err *err);
tn_status peer_measure(peer_group *g, uint64_t deadline_ms, tn_err *err);

/* peer.c: without looking at the page. */
tn_status peer_sum(const peer_group *g, void *x, uint64_t bytes, uint32_t dtype, uint64_t once_max,
                   void *stream, tn_err *err);
tn_status peer_gather(const peer_group *g, const void *in, void *out, uint64_t bytes, void *stream,
                      tn_err *err);

#endif
