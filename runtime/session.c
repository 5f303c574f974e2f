/* SPDX-License-Identifier: Apache-2.0 */
/* session.c - conversations kept in files: saved from the cache and put back into it. */
#include "session.h"

#include "parcel.h"
#include "siphash.h"

#include <stdlib.h>
#include <time.h>

#define PORTION (UINT64_C(4) << 20) /* bytes moved in one visit, or one block */

void tn_session_owner(const char *owner, uint64_t out[2])
{
    static const uint64_t secret[2] = {UINT64_C(0x72656e776f), 3}; /* the same everywhere */
    tn_sip s;
    out[0] = out[1] = 0;
    if (owner == NULL || owner[0] == 0)
        return;
    tn_sip_open(&s, secret);
    tn_sip_put(&s, owner, strlen(owner));
    tn_sip_done(&s, out);
}

void tn_session_talk_close(tn_session_talk *talk)
{
    free(talk->id);
    free(talk->note);
    *talk = (tn_session_talk){0};
}

/* Memory for a few blocks, and how many. */
static uint8_t *portion_new(uint64_t block_size, uint32_t nblock, uint32_t *n, tn_err *err)
{
    uint64_t fit = block_size > 0 ? PORTION / block_size : nblock;
    *n = fit < 1 ? 1 : fit < nblock ? (uint32_t)fit : nblock;
    uint8_t *data = malloc(*n * block_size + 1);
    if (data == NULL)
        tn_fail(err, TN_NO_MEMORY, "no memory for %u cache blocks of %llu bytes", *n,
                (unsigned long long)block_size);
    return data;
}

/* --------------------------------------------------------------------------------- save */

/* Zeroes the rows behind the `used` first tokens of a block, in its neutral order: they hold
 * what was in the memory before, which may be somebody else's. */
static tn_status tail_clear(const tn_session_head *head, const tn_session_place *p, uint8_t *block,
                            uint32_t used, tn_err *err)
{
    const tn_recipe *r = p->recipe;
    uint64_t nrank = p->nrank > 0 ? p->nrank : 1, row = 0; /* elements of a token on a rank */
    for (uint32_t i = 0; i < r->ncache; i++)
        row += (uint64_t)r->cache[i].heads * (r->cache[i].k_dim + r->cache[i].v_dim);
    uint64_t rows = row * head->block_tokens * nrank, size = rows > 0 ? head->block_size / rows : 0;
    if (rows * size != head->block_size)
        return tn_fail(err, TN_INTERNAL, "the device's cache blocks have %llu bytes; expected a "
                       "multiple of %llu", (unsigned long long)head->block_size,
                       (unsigned long long)rows);
    for (uint64_t i = 0; i < nrank * 2 * r->ncache; i++) {
        const tn_cache_spec *c = &r->cache[i / 2 % r->ncache];
        uint64_t one = (uint64_t)c->heads * (i % 2 == 0 ? c->k_dim : c->v_dim) * size;
        memset(block + used * one, 0, (head->block_tokens - used) * one);
        block += head->block_tokens * one;
    }
    return TN_OK;
}

static tn_status blocks_save(tn_parcel *parcel, const tn_session_place *p,
                             const tn_session_head *head, tn_session_file *file, tn_err *err)
{
    uint32_t most, used = head->block_tokens > 0 ? head->ncached % head->block_tokens : 0;
    uint8_t *data = portion_new(head->block_size, head->nblock, &most, err);
    tn_status st = data != NULL ? TN_OK : TN_NO_MEMORY;
    for (uint32_t i = 0, n; i < head->nblock && st == TN_OK; i += n) {
        n = head->nblock - i < most ? head->nblock - i : most;
        st = tn_parcel_read(parcel, i, n, data, err);
        if (st == TN_OK && i + n == head->nblock && used > 0)
            st = tail_clear(head, p, data + (n - 1) * head->block_size, used, err);
        if (st == TN_OK)
            st = tn_session_put(file, data, n * head->block_size, err);
    }
    free(data);
    return st;
}

static tn_status parts_save(tn_parcel *parcel, const tn_session_place *p,
                            const tn_session_talk *talk, const tn_session_head *head,
                            tn_session_file *file, tn_err *err)
{
    tn_status st = tn_session_put(file, talk->id, (uint64_t)talk->nid * sizeof *talk->id, err);
    if (st == TN_OK)
        st = tn_session_put(file, talk->note, talk->note_size, err);
    if (st == TN_OK)
        st = blocks_save(parcel, p, head, file, err);
    if (st == TN_OK)
        st = tn_session_put(file, tn_parcel_state(parcel), head->state_size, err);
    return st == TN_OK ? tn_session_commit(file, true, err) : st;
}

static tn_status too_long(const tn_session_place *p, uint32_t found, uint32_t most, tn_err *err)
{
    tn_status st = tn_fail(err, TN_REFUSED, "%s: %u tokens; expected at most %u, the model's "
                           "context here", p->what, found, most);
    snprintf(err->code, sizeof err->code, "session_too_large");
    return st;
}

tn_status tn_session_save(const tn_session_place *p, const tn_session_talk *talk,
                          uint32_t *ncached, tn_err *err)
{
    tn_parcel *parcel = NULL;
    tn_session_file *file = NULL;
    tn_session_head head = {.fingerprint = {p->fingerprint[0], p->fingerprint[1]},
                            .nid = talk->nid, .note_size = talk->note_size,
                            .created = (int64_t)time(NULL)};
    snprintf(head.model, sizeof head.model, "%s", p->model);
    tn_session_owner(p->owner, head.owner);
    tn_status st = tn_parcel_open(p->engine, talk->id, talk->nid, p->salt, &parcel, err);
    if (st != TN_OK)
        return st;
    const tn_parcel_sizes *size = tn_parcel_size(parcel);
    if (talk->nid > size->context_max)
        st = too_long(p, talk->nid, size->context_max, err);
    if (st == TN_OK)
        st = tn_parcel_find(parcel, &head.ncached, &head.nblock, err);
    head.block_tokens = size->block_tokens;
    head.block_size = size->block_size;
    head.state_size = head.ncached > 0 ? size->state_size : 0;
    if (st == TN_OK)
        st = tn_session_create(p->path, p->what, &head, &file, err);
    if (st == TN_OK)
        st = parts_save(parcel, p, talk, &head, file, err);
    tn_session_close(file);
    tn_parcel_close(parcel);
    if (st == TN_OK)
        *ncached = head.ncached;
    return st;
}

/* ------------------------------------------------------------------------------ restore */

static tn_status mismatch(tn_err *err)
{
    snprintf(err->code, sizeof err->code, "session_mismatch");
    return TN_DATA;
}

/* Another owner's file is none. */
static tn_status head_fits(const tn_session_place *p, const tn_session_head *h, tn_err *err)
{
    uint64_t owner[2];
    tn_session_owner(p->owner, owner);
    if (p->owner != NULL && (owner[0] != h->owner[0] || owner[1] != h->owner[1]))
        return tn_fail(err, TN_NOINPUT, "%s: does not exist; expected a saved conversation",
                       p->what);
    if (h->fingerprint[0] == p->fingerprint[0] && h->fingerprint[1] == p->fingerprint[1])
        return TN_OK;
    tn_fail(err, TN_DATA, "%s: saved from another model or cache layout, \"%s\" %016llx; expected "
            "\"%s\" %016llx: the same weights, ranks, drafts (on or off), dtypes and block size", p->what, h->model, (unsigned long long)h->fingerprint[0], p->model,
            (unsigned long long)p->fingerprint[0]);
    return mismatch(err);
}

/* With the fingerprint the sizes agree too, unless two devices lay the cache out differently. */
static tn_status sizes_fit(const tn_session_place *p, const tn_session_head *h,
                           const tn_parcel_sizes *s, tn_err *err)
{
    uint64_t state = h->ncached > 0 ? s->state_size : 0;
    bool whole = s->state_size > 0 || h->ncached % h->block_tokens == 0;
    if (h->nid > s->context_max)
        return too_long(p, h->nid, s->context_max, err);
    if (h->block_tokens == s->block_tokens && h->block_size == s->block_size &&
        h->state_size == state && whole)
        return TN_OK;
    tn_fail(err, TN_DATA, "%s: blocks of %u tokens, %llu bytes, and %llu bytes of state; expected "
            "%u, %llu and %llu", p->what, h->block_tokens, (unsigned long long)h->block_size,
            (unsigned long long)h->state_size, s->block_tokens,
            (unsigned long long)s->block_size, (unsigned long long)state);
    return mismatch(err);
}

static tn_status talk_read(tn_session_file *file, const tn_session_head *h,
                           tn_session_talk *talk, tn_err *err)
{
    *talk = (tn_session_talk){.nid = h->nid, .note_size = h->note_size};
    talk->id = malloc((size_t)h->nid * sizeof *talk->id + 1);
    talk->note = malloc(h->note_size + 1);
    if (talk->id == NULL || talk->note == NULL)
        return tn_fail(err, TN_NO_MEMORY, "no memory for a conversation of %u tokens", h->nid);
    talk->note[h->note_size] = 0;
    tn_status st = tn_session_get(file, talk->id, (uint64_t)h->nid * sizeof *talk->id, err);
    return st == TN_OK ? tn_session_get(file, talk->note, h->note_size, err) : st;
}

static tn_status blocks_restore(tn_parcel *parcel, const tn_session_head *head,
                                tn_session_file *file, tn_err *err)
{
    uint32_t most;
    uint8_t *data = portion_new(head->block_size, head->nblock, &most, err);
    tn_status st = data != NULL ? TN_OK : TN_NO_MEMORY;
    for (uint32_t i = 0, n; i < head->nblock && st == TN_OK; i += n) {
        n = head->nblock - i < most ? head->nblock - i : most;
        st = tn_session_get(file, data, n * head->block_size, err);
        if (st == TN_OK)
            st = tn_parcel_write(parcel, i, n, data, err);
    }
    free(data);
    return st;
}

/* Nothing can be found in the cache before the checksum was seen to be right. */
static tn_status parts_restore(const tn_session_place *p, const tn_session_head *head,
                               tn_session_file *file, tn_parcel *parcel, tn_err *err)
{
    tn_status st = sizes_fit(p, head, tn_parcel_size(parcel), err);
    if (st == TN_OK)
        st = tn_parcel_room(parcel, head->ncached, err);
    if (st == TN_OK)
        st = blocks_restore(parcel, head, file, err);
    if (st == TN_OK)
        st = tn_session_get(file, tn_parcel_state(parcel), head->state_size, err);
    if (st == TN_OK)
        st = tn_session_check(file, err);
    return st == TN_OK ? tn_parcel_keep(parcel, err) : st;
}

tn_status tn_session_restore(const tn_session_place *p, tn_session_talk *talk,
                             uint32_t *ncached, tn_err *err)
{
    tn_parcel *parcel = NULL;
    tn_session_file *file = NULL;
    tn_session_head head;
    tn_session_talk read = {0};
    tn_status st = tn_session_open(p->path, p->what, &file, &head, err);
    if (st == TN_OK)
        st = head_fits(p, &head, err);
    if (st == TN_OK)
        st = talk_read(file, &head, &read, err);
    if (st == TN_OK)
        st = tn_parcel_open(p->engine, read.id, read.nid, p->salt, &parcel, err);
    if (st == TN_OK)
        st = parts_restore(p, &head, file, parcel, err);
    tn_parcel_close(parcel);
    tn_session_close(file);
    if (st != TN_OK) {
        tn_session_talk_close(&read);
        return st;
    }
    *ncached = head.ncached;
    *talk = read;
    return TN_OK;
}
