/* SPDX-License-Identifier: Apache-2.0 */
/* prefix.c - what of a sequence's beginning is known already, and what of it stays known. */
#include "prefix.h"

#define SNAPSHOTS_A_PROMPT 8u

/* Keys of the first n full blocks of c. */
static void keys_make(const tn_prefix *p, tn_choice *c, uint32_t n)
{
    for (; c->nkey < n; c->nkey++)
        c->key[c->nkey] = tn_kv_next(p->kv, c->nkey > 0 ? c->key[c->nkey - 1] : c->req->root,
                                     c->token + (size_t)c->nkey * p->block_tokens);
}

/* -------------------------------------------------------------------------- finding */

/* How many of the first `most` full blocks are known, one after the other. */
static uint32_t blocks_find(const tn_prefix *p, const tn_choice *c, uint32_t most, int32_t *table)
{
    uint32_t n = 0;
    for (; n < most; n++) {
        table[n] = tn_kv_find(p->kv, c->key[n]);
        if (table[n] < 0)
            break;
    }
    return n;
}

/* With states: the longest snapshot whose blocks are all known. */
static void snapshot_find(tn_prefix *p, const tn_choice *c, uint32_t most, uint32_t nknown,
                          tn_found *out)
{
    int32_t slot;
    out->miss = TN_MISS_TEXT;
    while ((slot = tn_states_find(p->states, c->req->root, c->key, c->token, most)) >= 0) {
        const tn_snapshot *s = tn_states_at(p->states, slot);
        if (s->ntoken / p->block_tokens <= nknown) {
            out->snapshot = slot;
            out->ntoken = s->ntoken;
            break;
        }
        out->miss = TN_MISS_BLOCK; /* what it needs was reused: it will never serve again */
        out->miss_at = nknown * p->block_tokens;
        tn_states_drop(p->states, slot);
    }
    if (out->miss == TN_MISS_BLOCK)
        return;
    out->miss_at = out->ntoken;
    if (out->ntoken == most)
        out->miss = TN_MISS_NONE;
    else if (nknown > out->ntoken / p->block_tokens)
        out->miss = TN_MISS_STATE;
}

void tn_prefix_find(tn_prefix *p, tn_choice *c, uint32_t most, int32_t *table, tn_found *out)
{
    *out = (tn_found){.snapshot = -1, .miss = TN_MISS_OFF};
    if (c->key == NULL)
        return;
    uint32_t full = most / p->block_tokens;
    keys_make(p, c, full);
    uint32_t nknown = blocks_find(p, c, full, table);
    if (p->states != NULL) {
        snapshot_find(p, c, most, nknown, out);
    } else {
        out->ntoken = nknown * p->block_tokens;
        out->miss = nknown == full ? TN_MISS_NONE : TN_MISS_TEXT;
        out->miss_at = out->ntoken;
    }
    out->nfull = out->ntoken / p->block_tokens;
    for (uint32_t i = 0; i < out->nfull; i++)
        out->nidle += tn_kv_is_idle(p->kv, table[i]);
}

void tn_prefix_seal(tn_prefix *p, tn_choice *c, const int32_t *table)
{
    uint32_t full = c->ncomputed / p->block_tokens;
    if (c->key == NULL)
        return;
    keys_make(p, c, full);
    for (; c->nsealed < full; c->nsealed++)
        tn_kv_seal(p->kv, table[c->nsealed], c->key[c->nsealed]);
}

void tn_prefix_forget(tn_prefix *p, tn_choice *c, const int32_t *table)
{
    int32_t slot;
    for (uint32_t i = 0; i < c->nsealed && i < c->nblock; i++)
        tn_kv_forget(p->kv, table[i]);
    if (c->key == NULL || p->states == NULL)
        return;
    keys_make(p, c, c->ncomputed / p->block_tokens);
    while ((slot = tn_states_find(p->states, c->req->root, c->key, c->token, c->ncomputed)) >= 0)
        tn_states_drop(p->states, slot);
}

/* -------------------------------------------------------------------------- keeping */

/* What a snapshot of c as it stands would hold, but for the slot. */
static tn_snapshot snapshot_of(const tn_prefix *p, tn_choice *c, const int32_t *table)
{
    uint32_t full = c->ncomputed / p->block_tokens;
    bool open = c->ncomputed % p->block_tokens != 0;
    keys_make(p, c, full);
    return (tn_snapshot){
        .key = full > 0 ? c->key[full - 1] : c->req->root,
        .tail = c->token + (size_t)full * p->block_tokens,
        .ntoken = c->ncomputed,
        .block = open ? table[full] : -1,
        .slot = c->rslot,
        .accepted = (int32_t)c->pending,
    };
}

uint32_t tn_prefix_stop(const tn_prefix *p, const tn_choice *c)
{
    const tn_request *r = c->req;
    if (p->states == NULL || c->key == NULL || c->index != 0 || c->ncomputed >= r->nprompt)
        return UINT32_MAX;
    uint32_t stop = UINT32_MAX;
    if (p->every > 0) {
        uint32_t step = r->nprompt / SNAPSHOTS_A_PROMPT / p->every * p->every;
        step = step < p->every ? p->every : step;
        stop = (c->ncomputed / step + 1) * step;
    }
    for (uint32_t i = 0; i < r->nturn; i++)
        if (r->turn[i] > c->ncomputed && r->turn[i] < stop)
            stop = r->turn[i];
    return stop < r->nprompt ? stop : UINT32_MAX;
}

int32_t tn_prefix_snap(tn_prefix *p, tn_choice *c, const int32_t *table)
{
    tn_snapshot s = snapshot_of(p, c, table);
    if (tn_states_has(p->states, &s))
        return -1;
    s.slot = tn_states_take(p->states);
    if (s.slot >= 0)
        tn_states_keep(p->states, &s);
    return s.slot;
}

void tn_prefix_leave(tn_prefix *p, tn_choice *c, const int32_t *table, bool valid)
{
    if (p->states == NULL || c->rslot < 0)
        return;
    if (valid && c->key != NULL && c->ncomputed > 0) {
        tn_snapshot s = snapshot_of(p, c, table);
        tn_states_keep(p->states, &s);
    } else {
        tn_states_give(p->states, c->rslot);
    }
    c->rslot = -1;
}
