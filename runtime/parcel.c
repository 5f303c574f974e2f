/* SPDX-License-Identifier: Apache-2.0 */
/* parcel.c - what the cache knows of one conversation, on its way out or in. */
#include "parcel.h"

#include "schedstate.h"

#include <stdlib.h>

struct tn_parcel {
    tn_engine *engine;           /* borrowed */
    const int32_t *ids;          /* borrowed [nid] */
    uint32_t nid;
    tn_parcel_sizes size;
    tn_kv_key root;
    tn_kv_key *key;              /* owned [nid / block_tokens] */
    int32_t *block;              /* owned [nid / block_tokens + 1] */
    void *state;                 /* owned [state_size] */
    uint32_t ntoken, nblock;     /* blocks held, for the first tokens */
    uint32_t nknown;             /* of these, blocks that were in the cache before */
};

/* Blocks [first, first + n) from or to `data`, for a visitor. */
typedef struct portion {
    tn_parcel *p;
    uint32_t first, n;
    uint8_t *to;
    const uint8_t *from;
} portion;

/* ---------------------------------------------------------------- on the step thread: out */

static void let_go(tn_parcel *p, tn_sched *s)
{
    while (p->nblock > 0) /* the beginning is reused last */
        tn_kv_give(s->kv, p->block[--p->nblock]);
    p->ntoken = p->nknown = 0;
    s->nleave++; /* whoever found no room may look again */
}

static tn_status drop_visit(void *user, tn_visit *v, tn_err *err)
{
    (void)err;
    let_go(user, v->sched);
    return TN_OK;
}

static tn_status sizes_visit(void *user, tn_visit *v, tn_err *err)
{
    tn_parcel *p = user;
    const tn_sched *s = v->sched;
    const tn_device *d = v->device;
    bool states = s->states != NULL;
    if (!tn_kv_is_cached(s->kv))
        return tn_fail(err, TN_UNSUPPORTED, "prefix_caching is off; expected it on, to keep "
                       "conversations");
    if (d->block_size == NULL || d->block_read == NULL || d->block_write == NULL ||
        (states && (d->state_size == NULL || d->state_read == NULL || d->state_write == NULL)))
        return tn_fail(err, TN_UNSUPPORTED, "the device does not hand out what it caches; "
                       "expected one that does, to keep conversations");
    p->size = (tn_parcel_sizes){.block_tokens = s->block_tokens,
                                .context_max = s->limits.context_max,
                                .block_size = d->block_size(v->program),
                                .state_size = states ? d->state_size(v->program) : 0};
    return TN_OK;
}

/* Takes the draft rows that count into a snapshot's state, by a step without rows. */
static tn_status settle(tn_visit *v, int32_t slot, tn_err *err)
{
    tn_sched *s = v->sched;
    const tn_results *results = NULL;
    int32_t pending = tn_states_at(s->states, slot)->accepted;
    if (pending == 0)
        return TN_OK;
    const tn_seq seq = {.state_in = slot, .state_out = slot, .accepted = pending};
    tn_step step = s->step;
    step.nseq = 1;
    step.nrow = step.nout = step.nblock = 0;
    step.seq = &seq;
    tn_status st = v->device->run(v->program, &step, err);
    if (st == TN_OK)
        st = v->device->wait(v->program, step.number, 0, &results, err);
    v->lost = st != TN_OK;
    if (st != TN_OK)
        return st;
    s->step.number++;
    tn_states_settled(s->states, slot);
    return TN_OK;
}

/* The snapshot's state and the block behind its full ones. */
static tn_status snapshot_take(tn_parcel *p, tn_visit *v, int32_t slot, tn_err *err)
{
    tn_sched *s = v->sched;
    int32_t tail = tn_states_at(s->states, slot)->block;
    tn_states_touch(s->states, slot);
    tn_status st = settle(v, slot, err);
    if (st == TN_OK)
        st = v->device->state_read(v->program, slot, p->state, err);
    if (st != TN_OK || tail < 0)
        return st;
    tn_kv_hold(s->kv, tail);
    p->block[p->nblock++] = tail;
    return TN_OK;
}

static tn_status find_visit(void *user, tn_visit *v, tn_err *err)
{
    tn_parcel *p = user;
    tn_sched *s = v->sched;
    tn_request r = {.root = p->root};
    tn_choice c = {.req = &r, .token = (int32_t *)(uintptr_t)p->ids, .key = p->key,
                   .nkey = p->nid / p->size.block_tokens};
    tn_found found;
    tn_status st = TN_OK;
    tn_prefix_find(&s->prefix, &c, p->nid, p->block, &found);
    for (; p->nblock < found.nfull; p->nblock++)
        tn_kv_hold(s->kv, p->block[p->nblock]);
    if (found.snapshot >= 0)
        st = snapshot_take(p, v, found.snapshot, err);
    if (st != TN_OK)
        let_go(p, s);
    else
        p->ntoken = found.ntoken;
    return st;
}

static tn_status read_visit(void *user, tn_visit *v, tn_err *err)
{
    const portion *x = user;
    tn_status st = TN_OK;
    for (uint32_t i = 0; i < x->n && st == TN_OK; i++)
        st = v->device->block_read(v->program, x->p->block[x->first + i],
                                   x->to + i * x->p->size.block_size, err);
    return st;
}

/* ----------------------------------------------------------------- on the step thread: in */

static tn_status refuse_full(const tn_parcel *p, tn_sched *s, uint32_t need, tn_err *err)
{
    uint32_t all = tn_kv_used(s->kv) + tn_kv_spare(s->kv), spare = tn_kv_spare(s->kv);
    bool never = need + p->nblock > all;
    tn_status st = tn_fail(err, never ? TN_REFUSED : TN_BUSY, "the conversation needs %u cache "
                           "blocks; expected at most %u%s", need + p->nblock,
                           never ? all : spare + p->nblock,
                           never ? ", all there are" : ", what running requests leave");
    snprintf(err->code, sizeof err->code, "%s", never ? "session_too_large" : "cache_full");
    return st;
}

static tn_status room_visit(void *user, tn_visit *v, tn_err *err)
{
    tn_parcel *p = user;
    tn_sched *s = v->sched;
    uint32_t full = p->ntoken / p->size.block_tokens, all = tn_sched_blocks_for(s, p->ntoken);
    int32_t b;
    while (p->nblock < full && (b = tn_kv_find(s->kv, p->key[p->nblock])) >= 0) {
        tn_kv_hold(s->kv, b);
        p->block[p->nblock++] = b;
    }
    p->nknown = p->nblock;
    tn_status st = TN_OK;
    if (all - p->nblock > tn_kv_spare(s->kv))
        st = refuse_full(p, s, all - p->nblock, err);
    while (st == TN_OK && p->nblock < all) {
        if ((b = tn_sched_block_take(s)) >= 0)
            p->block[p->nblock++] = b;
        else
            st = refuse_full(p, s, all - p->nblock, err);
    }
    if (st != TN_OK)
        let_go(p, s);
    return st;
}

static tn_status write_visit(void *user, tn_visit *v, tn_err *err)
{
    const portion *x = user;
    tn_status st = TN_OK;
    for (uint32_t i = 0; i < x->n && st == TN_OK; i++)
        if (x->first + i >= x->p->nknown)
            st = v->device->block_write(v->program, x->p->block[x->first + i],
                                        x->from + i * x->p->size.block_size, err);
    return st;
}

/* A slot is taken here and not earlier: there is one for each running sequence, and what is
 * beyond is a snapshot that may be asked back any time. */
static tn_status snapshot_keep(const tn_parcel *p, tn_visit *v, tn_err *err)
{
    tn_sched *s = v->sched;
    uint32_t full = p->ntoken / p->size.block_tokens;
    tn_snapshot snap = {
        .key = full > 0 ? p->key[full - 1] : p->root,
        .tail = p->ids + (size_t)full * p->size.block_tokens,
        .ntoken = p->ntoken,
        .block = p->nblock > full ? p->block[full] : -1,
        .slot = tn_states_take(s->states),
    };
    if (snap.slot < 0) {
        tn_fail(err, TN_BUSY, "all %u states are in use; expected one to be left",
                tn_states_used(s->states));
        snprintf(err->code, sizeof err->code, "cache_full");
        return TN_BUSY;
    }
    tn_status st = v->device->state_write(v->program, snap.slot, p->state, err);
    if (st == TN_OK)
        tn_states_keep(s->states, &snap);
    else
        tn_states_give(s->states, snap.slot);
    return st;
}

static tn_status keep_visit(void *user, tn_visit *v, tn_err *err)
{
    tn_parcel *p = user;
    tn_sched *s = v->sched;
    uint32_t full = p->ntoken / p->size.block_tokens;
    tn_status st = s->states != NULL && p->ntoken > 0 ? snapshot_keep(p, v, err) : TN_OK;
    for (uint32_t i = 0; i < full && st == TN_OK; i++)
        tn_kv_seal(s->kv, p->block[i], p->key[i]);
    let_go(p, s);
    return st;
}

/* ------------------------------------------------------------------------- the outside */

static tn_status keys_make(tn_parcel *p, const char *salt, tn_err *err)
{
    const tn_kv *kv = tn_engine_kv(p->engine);
    uint32_t full = p->nid / p->size.block_tokens;
    p->key = calloc((size_t)full + 1, sizeof *p->key);
    p->block = calloc((size_t)full + 1, sizeof *p->block);
    p->state = calloc(1, p->size.state_size + 1);
    if (p->key == NULL || p->block == NULL || p->state == NULL)
        return tn_fail(err, TN_NO_MEMORY, "no memory for a conversation of %u tokens", p->nid);
    p->root = tn_kv_root(kv, salt);
    for (uint32_t i = 0; i < full; i++)
        p->key[i] = tn_kv_next(kv, i > 0 ? p->key[i - 1] : p->root,
                               p->ids + (size_t)i * p->size.block_tokens);
    return TN_OK;
}

tn_status tn_parcel_open(tn_engine *e, const int32_t *ids, uint32_t nid, const char *salt,
                         tn_parcel **out, tn_err *err)
{
    tn_parcel *p = calloc(1, sizeof *p);
    if (p == NULL)
        return tn_fail(err, TN_NO_MEMORY, "no memory for a conversation");
    *p = (tn_parcel){.engine = e, .ids = ids, .nid = nid};
    tn_status st = tn_engine_visit(e, sizes_visit, p, err);
    if (st == TN_OK)
        st = keys_make(p, salt, err);
    if (st != TN_OK) {
        tn_parcel_close(p);
        return st;
    }
    *out = p;
    return TN_OK;
}

void tn_parcel_close(tn_parcel *p)
{
    if (p == NULL)
        return;
    if (p->nblock > 0) /* refused, its engine is gone, and the blocks with it */
        (void)tn_engine_visit(p->engine, drop_visit, p, NULL);
    free(p->key);
    free(p->block);
    free(p->state);
    free(p);
}

const tn_parcel_sizes *tn_parcel_size(const tn_parcel *p)
{
    return &p->size;
}

tn_status tn_parcel_find(tn_parcel *p, uint32_t *ntoken, uint32_t *nblock, tn_err *err)
{
    tn_status st = tn_engine_visit(p->engine, find_visit, p, err);
    if (st != TN_OK)
        return st;
    *ntoken = p->ntoken;
    *nblock = p->nblock;
    return TN_OK;
}

static tn_status portion_check(const tn_parcel *p, uint32_t first, uint32_t n, tn_err *err)
{
    if (first <= p->nblock && n <= p->nblock - first)
        return TN_OK;
    return tn_fail(err, TN_INTERNAL, "blocks %u + %u of %u of a conversation", first, n,
                   p->nblock);
}

tn_status tn_parcel_read(tn_parcel *p, uint32_t first, uint32_t n, void *data, tn_err *err)
{
    portion x = {.p = p, .first = first, .n = n, .to = data};
    tn_status st = portion_check(p, first, n, err);
    return st == TN_OK ? tn_engine_visit(p->engine, read_visit, &x, err) : st;
}

void *tn_parcel_state(tn_parcel *p)
{
    return p->state;
}

tn_status tn_parcel_room(tn_parcel *p, uint32_t ntoken, tn_err *err)
{
    if (ntoken > p->nid || p->nblock > 0)
        return tn_fail(err, TN_INTERNAL, "room for %u of %u tokens of a conversation", ntoken,
                       p->nid);
    p->ntoken = ntoken;
    return tn_engine_visit(p->engine, room_visit, p, err);
}

tn_status tn_parcel_write(tn_parcel *p, uint32_t first, uint32_t n, const void *data,
                          tn_err *err)
{
    portion x = {.p = p, .first = first, .n = n, .from = data};
    tn_status st = portion_check(p, first, n, err);
    return st == TN_OK ? tn_engine_visit(p->engine, write_visit, &x, err) : st;
}

tn_status tn_parcel_keep(tn_parcel *p, tn_err *err)
{
    return tn_engine_visit(p->engine, keep_visit, p, err);
}
