/* SPDX-License-Identifier: Apache-2.0 */
/* states.h - the books of recurrent states: which slot belongs to whom, and which hold a
 * beginning of text that can be gone on from.
 *
 * Attention can be cut back to any shorter text, a recurrent state cannot: it stands for
 * exactly the tokens it has seen. So a sequence's state is kept at a few places as a snapshot,
 * and a later request goes on from the longest one whose text it begins with.
 *
 *             take                    keep (a running sequence ends or is put back)
 *     free ----------> in use ---------------------------------> snapshot
 *      ^                 |   <--------- take, when none is free:    |
 *      +----- give ------+              the one unused for longest -+
 *
 * A snapshot of n tokens names the blocks it needs by the keys of kv.h: its full blocks must
 * still be found there. What is left over is less than a block; these tokens lie in an open
 * block, which the snapshot pins. Its owner may go on writing behind them.
 *
 * Step thread only. No allocation after open. */
#ifndef TN_STATES_H
#define TN_STATES_H

#include "kv.h"

typedef struct tn_states tn_states;

typedef struct tn_snapshot {
    tn_kv_key key;               /* of its full blocks; the root when there are none */
    const int32_t *tail;         /* [ntoken % block] its last tokens */
    uint32_t ntoken;
    int32_t block;               /* holds the tail; -1 without one */
    int32_t slot;
    int32_t accepted;            /* of the slot's pending rows, how many belong to it */
} tn_snapshot;

/* `kv` is borrowed. `kept` false: nothing is ever kept. */
tn_status tn_states_open(uint32_t nslot, uint32_t block_tokens, tn_kv *kv, bool kept,
                         tn_states **out, tn_err *err);
void tn_states_close(tn_states *s);

/* A slot for one sequence; gives up a snapshot when none is free. -1: all are in use. */
int32_t tn_states_take(tn_states *s);
void tn_states_give(tn_states *s, int32_t slot);

/* Turns a slot in use into a snapshot and pins its block; tail is copied.
 * A snapshot of the same text that exists already is freshened instead, and the slot given. */
void tn_states_keep(tn_states *s, const tn_snapshot *snap);
/* Whether a snapshot of exactly this text exists. */
bool tn_states_has(const tn_states *s, const tn_snapshot *like);

/* The longest snapshot of at most `most` tokens whose text the ids begin with; keys[i] is the
 * key of the first i + 1 blocks. Its blocks may be gone: look. -1: there is none. */
int32_t tn_states_find(const tn_states *s, tn_kv_key root, const tn_kv_key *keys,
                       const int32_t *ids, uint32_t most);
const tn_snapshot *tn_states_at(const tn_states *s, int32_t slot);
void tn_states_touch(tn_states *s, int32_t slot);   /* used now */
void tn_states_settled(tn_states *s, int32_t slot); /* nothing of it is pending any more */
void tn_states_drop(tn_states *s, int32_t slot);    /* its slot is free */
/* Drops the snapshot unused for longest whose block no sequence uses. False: there is none. */
bool tn_states_free_block(tn_states *s);

uint32_t tn_states_used(const tn_states *s);        /* by sequences */
uint32_t tn_states_kept(const tn_states *s);        /* snapshots */

#endif
