/* SPDX-License-Identifier: Apache-2.0 */
/* prefix.h - what of a sequence's beginning is known already, and what of it stays known.
 *
 * Blocks are sealed under the key of their text as they fill (kv.h). A model with recurrent
 * states can only be gone on with where a snapshot of its states was kept (states.h): at the
 * end of every reply, where a sequence was put back, at the ends of turns in a prompt and at
 * coarse distances in it. Step thread only; allocates nothing. */
#ifndef TN_PREFIX_H
#define TN_PREFIX_H

#include "kv.h"
#include "request.h"
#include "states.h"

typedef struct tn_prefix {
    tn_kv *kv;                   /* borrowed */
    tn_states *states;           /* borrowed; NULL: the model has none */
    uint32_t block_tokens;
    uint32_t every;              /* tokens between snapshots of a prompt, 0: none */
} tn_prefix;

/* Why no more of a beginning was found. */
#define TN_MISS_NONE 0u          /* all of it was, but for the last token */
#define TN_MISS_TEXT 1u          /* nobody computed this text beyond */
#define TN_MISS_STATE 2u         /* blocks are known further than states */
#define TN_MISS_BLOCK 3u         /* a state is known further than the blocks it needs */
#define TN_MISS_OFF 4u           /* not looked for: prompt scores are wanted, or caching is off */

typedef struct tn_found {
    uint32_t ntoken;             /* known tokens to go on behind */
    uint32_t nfull;              /* full blocks of them, in the table */
    uint32_t nidle;              /* idle ones among these */
    int32_t snapshot;            /* its slot; -1: none is needed or known */
    uint32_t miss, miss_at;      /* TN_MISS_*, and the first token that is not known */
} tn_found;

/* Writes the full blocks of the longest known beginning of at most `most` tokens to `table`;
 * holds none of them. Snapshots whose blocks are gone are dropped. */
void tn_prefix_find(tn_prefix *p, tn_choice *c, uint32_t most, int32_t *table, tn_found *out);
/* Seals what is full. */
void tn_prefix_seal(tn_prefix *p, tn_choice *c, const int32_t *table);
/* What was computed of c is spoilt: its blocks and every snapshot of its beginning are found no
 * more. */
void tn_prefix_forget(tn_prefix *p, tn_choice *c, const int32_t *table);

/* The number of tokens at which the next piece of a prompt should end for a snapshot;
 * UINT32_MAX: none. */
uint32_t tn_prefix_stop(const tn_prefix *p, const tn_choice *c);
/* After a piece that ended there: a slot to copy the sequence's state to, now a snapshot; -1
 * when there is none to be had or the text is known already. */
int32_t tn_prefix_snap(tn_prefix *p, tn_choice *c, const int32_t *table);
/* The sequence leaves: its state becomes a snapshot, or its slot free. `valid` false: the
 * state does not stand for its tokens. Before its blocks are given. */
void tn_prefix_leave(tn_prefix *p, tn_choice *c, const int32_t *table, bool valid);

#endif
