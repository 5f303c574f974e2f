/* SPDX-License-Identifier: Apache-2.0 */
/* states.c - the books of recurrent states: which slot belongs to whom, and which hold a
 * beginning of text that can be gone on from.
 *
 * A few hundred snapshots at most, looked through one by one: an admission compares a key each,
 * which is less than hashing one block of its prompt. */
#include "states.h"

#include <assert.h>
#include <stdlib.h>

#define FREE 0u
#define IN_USE 1u
#define KEPT 2u

typedef struct slot {
    tn_snapshot snap;            /* when KEPT */
    uint64_t used_at;            /* turn of the clock of its latest use */
    uint32_t state;
} slot;

struct tn_states {
    tn_kv *kv;                   /* borrowed */
    slot *slot;                  /* owned [nslot] */
    int32_t *tail;               /* owned [nslot, block_tokens] */
    uint32_t nslot, block_tokens, nused, nkept;
    uint64_t clock;
    bool kept;
};

tn_status tn_states_open(uint32_t nslot, uint32_t block_tokens, tn_kv *kv, bool kept,
                         tn_states **out, tn_err *err)
{
    tn_states *s = calloc(1, sizeof *s);
    if (s == NULL)
        return tn_fail(err, TN_NO_MEMORY, "states: no memory");
    *s = (tn_states){.kv = kv, .nslot = nslot, .block_tokens = block_tokens, .kept = kept};
    s->slot = calloc((size_t)nslot + 1, sizeof *s->slot);
    s->tail = calloc((size_t)nslot * block_tokens + 1, sizeof *s->tail);
    if (s->slot == NULL || s->tail == NULL) {
        tn_states_close(s);
        return tn_fail(err, TN_NO_MEMORY, "states: no memory to keep %u slots", nslot);
    }
    *out = s;
    return TN_OK;
}

void tn_states_close(tn_states *s)
{
    if (s == NULL)
        return;
    free(s->slot);
    free(s->tail);
    free(s);
}

const tn_snapshot *tn_states_at(const tn_states *s, int32_t i)
{
    assert(i >= 0 && (uint32_t)i < s->nslot && s->slot[i].state == KEPT);
    return &s->slot[i].snap;
}

void tn_states_touch(tn_states *s, int32_t i)
{
    s->slot[i].used_at = ++s->clock;
}

void tn_states_settled(tn_states *s, int32_t i)
{
    assert(s->slot[i].state == KEPT);
    s->slot[i].snap.accepted = 0;
}

void tn_states_drop(tn_states *s, int32_t i)
{
    const tn_snapshot *snap = tn_states_at(s, i);
    if (snap->block >= 0)
        tn_kv_unpin(s->kv, snap->block);
    s->slot[i].state = FREE;
    s->nkept--;
}

/* The snapshot unused for longest, -1 without one. */
static int32_t oldest(const tn_states *s, bool with_block)
{
    int32_t best = -1;
    for (uint32_t i = 0; i < s->nslot; i++)
        if (s->slot[i].state == KEPT &&
            (!with_block || (s->slot[i].snap.block >= 0 &&
                             tn_kv_is_pinned_only(s->kv, s->slot[i].snap.block))) &&
            (best < 0 || s->slot[i].used_at < s->slot[best].used_at))
            best = (int32_t)i;
    return best;
}

int32_t tn_states_take(tn_states *s)
{
    int32_t i = 0;
    while ((uint32_t)i < s->nslot && s->slot[i].state != FREE)
        i++;
    if ((uint32_t)i == s->nslot) {
        i = oldest(s, false);
        if (i < 0)
            return -1;
        tn_states_drop(s, i);
    }
    s->slot[i].state = IN_USE;
    s->nused++;
    return i;
}

void tn_states_give(tn_states *s, int32_t i)
{
    assert(i >= 0 && (uint32_t)i < s->nslot && s->slot[i].state == IN_USE);
    s->slot[i].state = FREE;
    s->nused--;
}

bool tn_states_free_block(tn_states *s)
{
    int32_t i = oldest(s, true);
    if (i >= 0)
        tn_states_drop(s, i);
    return i >= 0;
}

/* ------------------------------------------------------------------------- snapshots */

static bool same_key(tn_kv_key a, tn_kv_key b)
{
    return a.word[0] == b.word[0] && a.word[1] == b.word[1];
}

static bool same_text(const tn_states *s, const tn_snapshot *a, const tn_snapshot *b)
{
    return a->ntoken == b->ntoken && same_key(a->key, b->key) &&
           memcmp(a->tail, b->tail, a->ntoken % s->block_tokens * sizeof *a->tail) == 0;
}

static int32_t find_same(const tn_states *s, const tn_snapshot *like)
{
    for (uint32_t i = 0; i < s->nslot; i++)
        if (s->slot[i].state == KEPT && same_text(s, &s->slot[i].snap, like))
            return (int32_t)i;
    return -1;
}

bool tn_states_has(const tn_states *s, const tn_snapshot *like)
{
    return find_same(s, like) >= 0;
}

void tn_states_keep(tn_states *s, const tn_snapshot *snap)
{
    int32_t same = s->kept ? find_same(s, snap) : -1;
    if (same >= 0)
        tn_states_touch(s, same);
    if (same >= 0 || !s->kept) {
        tn_states_give(s, snap->slot);
        return;
    }
    slot *to = &s->slot[snap->slot];
    assert(to->state == IN_USE);
    int32_t *tail = s->tail + (size_t)snap->slot * s->block_tokens;
    memcpy(tail, snap->tail, snap->ntoken % s->block_tokens * sizeof *tail);
    to->snap = *snap;
    to->snap.tail = tail;
    to->state = KEPT;
    if (snap->block >= 0)
        tn_kv_pin(s->kv, snap->block);
    s->nused--;
    s->nkept++;
    tn_states_touch(s, snap->slot);
}

int32_t tn_states_find(const tn_states *s, tn_kv_key root, const tn_kv_key *keys,
                       const int32_t *ids, uint32_t most)
{
    int32_t best = -1;
    for (uint32_t i = 0; i < s->nslot; i++) {
        const tn_snapshot *p = &s->slot[i].snap;
        if (s->slot[i].state != KEPT || p->ntoken > most ||
            (best >= 0 && p->ntoken <= s->slot[best].snap.ntoken))
            continue;
        uint32_t full = p->ntoken / s->block_tokens, rest = p->ntoken % s->block_tokens;
        if (same_key(p->key, full > 0 ? keys[full - 1] : root) &&
            memcmp(p->tail, ids + (size_t)full * s->block_tokens, rest * sizeof *ids) == 0)
            best = (int32_t)i;
    }
    return best;
}

uint32_t tn_states_used(const tn_states *s)
{
    return s->nused;
}

uint32_t tn_states_kept(const tn_states *s)
{
    return s->nkept;
}
