/* SPDX-License-Identifier: Apache-2.0 */
/* scheduler.h - decides what the next step computes, and takes in what it drew.
 *
 * Continuous batching under one budget of token rows. First come, first served throughout:
 *   1. running sequences that need one row (decoding),
 *   2. running sequences that need more (their prompt, or what preemption lost), as long a
 *      piece as fits,
 *   3. waiting sequences, while rows, slots and blocks last.
 * When blocks run out, the newest sequence not yet in this step goes back to the queue: its
 * blocks are freed, its reply is kept and computed again later, so nothing changes but time.
 * The oldest sequence can always have all blocks, so there is always one that moves.
 *
 * A sequence that came with a cached beginning starts behind it, but always computes its last
 * token, for its logits. The choices of a request rest until the first of them has the
 * prompt computed; that step draws a token for each of them from the same row, they hold the
 * prompt's full blocks together and get a copy of the open one. A choice for which there is
 * no room just then queues like a sequence of its own.
 *
 * Drafts: behind each step the recipe's second section may be run to guess what a sequence says
 * next (tn_sched_draft); the guesses are further rows of its next step. A row draws what it
 * would have drawn without, so the reply is the same; as long as that is the guess, the row
 * behind it counts as well.
 *
 * One thread, no clock, no lock, no allocation after open. The order of calls:
 *   add*, sweep, plan, copies, (device runs), apply, copies, and again. */
#ifndef TN_SCHEDULER_H
#define TN_SCHEDULER_H

#include <tenon/plugin.h>

#include "kv.h"
#include "request.h"

#define TN_DRAFTS_MAX 4u

typedef struct tn_sched tn_sched;

/* Copied. */
typedef struct tn_sched_setup {
    const tn_limits *limits;
    const tn_pools *pools;
    tn_kv *kv;                   /* borrowed */
    uint32_t max_running;        /* at most limits.seqs_max */
    uint32_t vocab;
    bool has_states;             /* every running sequence has a state slot */
    uint32_t snapshot_every;     /* tokens between snapshots of a prompt's states, 0: none */
    uint32_t drafts;             /* most drafts a sequence in a step, 0: none; the recipe has
                                    the section for them */
    bool can_copy_blocks, can_copy_states; /* false: choices that would need it queue */
    uint64_t step_first;
} tn_sched_setup;

/* TN_CONFIG when even one sequence of full context could not run; names what is short. */
tn_status tn_sched_open(const tn_sched_setup *setup, tn_sched **out, tn_err *err);
void tn_sched_close(tn_sched *s);

/* Takes a request in. One that needs no computing at all ends here. */
void tn_sched_add(tn_sched *s, tn_request *r);
/* Drops what is over or dropped. `all`: looks at waiting sequences too. */
void tn_sched_sweep(tn_sched *s, bool all);
/* The next step, valid until apply; NULL when there is nothing to do. `now` marks when
 * requests begin. */
const tn_step *tn_sched_plan(tn_sched *s, uint64_t now);
void tn_sched_apply(tn_sched *s, const tn_results *results, uint64_t now);
/* Behind an apply, and only with drafts: the next step that drafts, NULL: none is left. */
const tn_step *tn_sched_draft(tn_sched *s, uint64_t now);
void tn_sched_drafted(tn_sched *s, const tn_results *results);
/* Ends everything with TN_END_ENGINE, between steps or with a step that was lost. */
void tn_sched_fail(tn_sched *s);

/* What the last plan or apply wants copied before the next run, in this order; from and to are
 * blocks, or slots. To be asked for after each of the two. */
typedef struct tn_copy {
    int32_t from, to;
} tn_copy;
const tn_copy *tn_sched_block_copies(const tn_sched *s, uint32_t *n);
const tn_copy *tn_sched_state_copies(const tn_sched *s, uint32_t *n);

/* Requests with something new for the output thread, each once; NULL when there are none.
 * One without open choices (nopen 0) appears a last time and is not touched afterwards. */
tn_request *tn_sched_news(tn_sched *s);

typedef struct tn_sched_counts {
    uint32_t running, waiting;   /* sequences */
    uint32_t rows;               /* of the last plan */
    uint64_t npreempt;           /* all since open */
    uint64_t nbegun;             /* requests that left the queue */
    uint64_t cache_queries, cache_hits; /* tokens */
    uint32_t states_used, states_kept; /* slots of sequences, and of snapshots */
    uint64_t ndrafted;           /* sequences' turns that verified drafts */
    uint64_t ndraft, nstood;     /* drafts verified, and those that stood */
    uint64_t stood_at[TN_DRAFTS_MAX]; /* by place in their turn */
} tn_sched_counts;
void tn_sched_count(const tn_sched *s, tn_sched_counts *out);

#endif
