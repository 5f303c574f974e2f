/* SPDX-License-Identifier: Apache-2.0 */
/* schedstate.h - what the files of the scheduler share: scheduler.c plans and takes results in,
 * draftsteps.c does the same for the steps that draft. */
#ifndef TN_SCHEDSTATE_H
#define TN_SCHEDSTATE_H

#include "payoff.h"
#include "prefix.h"
#include "scheduler.h"

/* What an output row of the step is for. */
typedef struct tn_note {
    tn_choice *choice;
    uint32_t score;              /* SCORE: the prompt token it reports; 0: a drawn token */
    uint32_t draft;              /* drafts before the row: it counts when all of them stand */
} tn_note;

typedef struct tn_fork {
    tn_choice *choice;
    tn_choice *lead;
} tn_fork;

/* The step that drafts, row for row the model's step before it, and what is known of that. */
typedef struct tn_draft_step {
    uint32_t most;               /* drafts a sequence, 0: none are made */
    uint32_t turn;               /* draft steps since the model's step */
    uint64_t begun_ns;           /* when the model's step was planned */
    bool verified, decoding;     /* the model's step held drafts; nothing but decoding */
    uint32_t gained;             /* tokens drawn in it */
    tn_step step;
    int32_t *row_token, *row_seq, *block;
    tn_seq *seq;
    tn_out *out;
    tn_choice **out_choice;      /* [seqs_max] */
    uint32_t *used;              /* [seqs_max] rows of each sequence that stand */
    tn_payoff payoff;
} tn_draft_step;

struct tn_sched {
    tn_limits limits;
    tn_kv *kv;
    tn_states *states;           /* owned; NULL: the model has none */
    tn_prefix prefix;
    uint32_t block_tokens, per_seq; /* table entries a slot */
    uint32_t max_running, vocab;
    bool can_copy_blocks, can_copy_states;

    int32_t *table;              /* [max_running, per_seq] block numbers by slot */
    uint32_t *slot;              /* [max_running] free slots, the last goes first */
    uint32_t nslot;
    tn_choice **running;         /* [max_running] by order */
    uint32_t nrunning;
    tn_choice *first, *last;     /* waiting, by order */
    uint32_t nwaiting;
    tn_choice *blocked;          /* found no room when `nleave` stood at `blocked_at` */
    uint64_t nleave, blocked_at; /* how often a running sequence left */
    uint64_t nadded;             /* requests so far */

    /* the step; arrays sized by limits */
    tn_step step;
    int32_t *row_token, *row_seq, *block;
    tn_seq *seq;
    tn_choice **seq_choice;
    tn_out *out;
    tn_sampling *sampling;
    tn_note *note;
    tn_fork *fork;                  /* [max_running] choices that begin with this step */
    uint32_t nfork;
    bool has_preempted;

    tn_draft_step draft;

    tn_copy *block_copy, *state_copy; /* [max_running + seqs_max] */
    uint32_t nblock_copy, nstate_copy;
    tn_request *news;
    tn_sched_counts counts;
};

static inline uint32_t tn_sched_blocks_for(const tn_sched *s, uint32_t tokens)
{
    return tokens / s->block_tokens + (tokens % s->block_tokens != 0);
}

static inline int32_t *tn_sched_table(const tn_sched *s, const tn_choice *c)
{
    return s->table + (size_t)c->slot * s->per_seq;
}

/* A block, from a snapshot if none is idle; -1: there is none. */
int32_t tn_sched_block_take(tn_sched *s);

/* draftsteps.c */
bool tn_drafts_open(tn_sched *s, uint32_t most);
void tn_drafts_close(tn_sched *s);
/* The model's step is planned; it is `begun_ns`. */
void tn_drafts_planned(tn_sched *s, uint64_t begun_ns);
/* How many rows of sequence q of the step stand, by what was drawn. */
uint32_t tn_drafts_stand(tn_sched *s, uint32_t q, const tn_results *r);

#endif
