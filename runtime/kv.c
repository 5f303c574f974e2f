/* SPDX-License-Identifier: Apache-2.0 */
/* kv.c - the paged cache's books: which block belongs to whom, which can be found again. */
#include "kv.h"

#include <assert.h>
#include <stdlib.h>
#include <sys/random.h>

#define NOWHERE (-1)

typedef struct block {
    tn_kv_key key;               /* when sealed */
    uint32_t users, pins;
    int32_t before, after;       /* idle queue, while users is 0 */
    int32_t chain;               /* next sealed block of the same bucket */
    bool sealed;
} block;

struct tn_kv {
    block *block;                /* owned [nblock] */
    int32_t *bucket;             /* owned [nbucket], first of each chain; NULL: not cached */
    uint32_t nblock, nbucket, tokens;
    int32_t first, last;         /* idle queue: taken from the front */
    uint32_t nidle;
    uint32_t npinned;            /* blocks without a user that are pinned */
    uint64_t secret[2];
};

/* ---------------------------------------------------------------- SipHash-2-4, 128 bits
 * Source: Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012. */

typedef struct sip {
    uint64_t a, b, c, d;
} sip;

static uint64_t turn(uint64_t x, int n)
{
    return x << n | x >> (64 - n);
}

static void sip_round(sip *s)
{
    s->a += s->b;
    s->b = turn(s->b, 13) ^ s->a;
    s->a = turn(s->a, 32);
    s->c += s->d;
    s->d = turn(s->d, 16) ^ s->c;
    s->a += s->d;
    s->d = turn(s->d, 21) ^ s->a;
    s->c += s->b;
    s->b = turn(s->b, 17) ^ s->c;
    s->c = turn(s->c, 32);
}

static void sip_open(sip *s, const uint64_t secret[2])
{
    s->a = secret[0] ^ UINT64_C(0x736f6d6570736575);
    s->b = secret[1] ^ UINT64_C(0x646f72616e646f6d) ^ 0xee;
    s->c = secret[0] ^ UINT64_C(0x6c7967656e657261);
    s->d = secret[1] ^ UINT64_C(0x7465646279746573);
}

static void sip_word(sip *s, uint64_t word)
{
    s->d ^= word;
    sip_round(s);
    sip_round(s);
    s->a ^= word;
}

static tn_kv_key sip_close(sip *s, uint64_t size)
{
    tn_kv_key key;
    sip_word(s, size << 56);
    s->c ^= 0xee;
    for (int i = 0; i < 4; i++)
        sip_round(s);
    key.word[0] = s->a ^ s->b ^ s->c ^ s->d;
    s->b ^= 0xdd;
    for (int i = 0; i < 4; i++)
        sip_round(s);
    key.word[1] = s->a ^ s->b ^ s->c ^ s->d;
    return key;
}

/* ------------------------------------------------------------------------------- keys */

tn_kv_key tn_kv_root(const tn_kv *kv, const char *salt)
{
    size_t size = salt != NULL ? strlen(salt) : 0;
    sip s;
    sip_open(&s, kv->secret);
    sip_word(&s, salt != NULL);
    sip_word(&s, size);
    for (size_t at = 0; at < size; at += 8) {
        uint64_t word = 0;
        memcpy(&word, salt + at, size - at < 8 ? size - at : 8);
        sip_word(&s, word);
    }
    return sip_close(&s, size);
}

tn_kv_key tn_kv_next(const tn_kv *kv, tn_kv_key before, const int32_t *ids)
{
    sip s;
    sip_open(&s, kv->secret);
    sip_word(&s, before.word[0]);
    sip_word(&s, before.word[1]);
    for (uint32_t i = 0; i < kv->tokens; i += 2) {
        uint64_t word = (uint32_t)ids[i];
        if (i + 1 < kv->tokens)
            word |= (uint64_t)(uint32_t)ids[i + 1] << 32;
        sip_word(&s, word);
    }
    return sip_close(&s, kv->tokens);
}

/* ------------------------------------------------------------------------- idle queue */

static void idle_put_first(tn_kv *kv, int32_t i)
{
    kv->block[i].before = NOWHERE;
    kv->block[i].after = kv->first;
    if (kv->first != NOWHERE)
        kv->block[kv->first].before = i;
    else
        kv->last = i;
    kv->first = i;
    kv->nidle++;
}

static void idle_put_last(tn_kv *kv, int32_t i)
{
    kv->block[i].after = NOWHERE;
    kv->block[i].before = kv->last;
    if (kv->last != NOWHERE)
        kv->block[kv->last].after = i;
    else
        kv->first = i;
    kv->last = i;
    kv->nidle++;
}

static void idle_remove(tn_kv *kv, int32_t i)
{
    block *b = &kv->block[i];
    if (b->before != NOWHERE)
        kv->block[b->before].after = b->after;
    else
        kv->first = b->after;
    if (b->after != NOWHERE)
        kv->block[b->after].before = b->before;
    else
        kv->last = b->before;
    kv->nidle--;
}

/* ------------------------------------------------------------------------ sealed blocks */

static int32_t *bucket_of(const tn_kv *kv, tn_kv_key key)
{
    return &kv->bucket[key.word[0] & (kv->nbucket - 1)];
}

int32_t tn_kv_find(const tn_kv *kv, tn_kv_key key)
{
    if (kv->bucket == NULL)
        return NOWHERE;
    int32_t i = *bucket_of(kv, key);
    while (i != NOWHERE && (kv->block[i].key.word[0] != key.word[0] ||
                            kv->block[i].key.word[1] != key.word[1]))
        i = kv->block[i].chain;
    return i;
}

void tn_kv_seal(tn_kv *kv, int32_t i, tn_kv_key key)
{
    assert(i >= 0 && (uint32_t)i < kv->nblock && kv->block[i].users > 0);
    if (kv->bucket == NULL || kv->block[i].sealed || tn_kv_find(kv, key) != NOWHERE)
        return;
    int32_t *head = bucket_of(kv, key);
    kv->block[i].key = key;
    kv->block[i].sealed = true;
    kv->block[i].chain = *head;
    *head = i;
}

static void unseal(tn_kv *kv, int32_t i)
{
    int32_t *link = bucket_of(kv, kv->block[i].key);
    while (*link != i)
        link = &kv->block[*link].chain;
    *link = kv->block[i].chain;
    kv->block[i].sealed = false;
}

void tn_kv_forget(tn_kv *kv, int32_t i)
{
    if (kv->block[i].sealed)
        unseal(kv, i);
}

/* ------------------------------------------------------------------------------- users */

int32_t tn_kv_take(tn_kv *kv)
{
    int32_t i = kv->first;
    if (i == NOWHERE)
        return NOWHERE;
    idle_remove(kv, i);
    if (kv->block[i].sealed)
        unseal(kv, i);
    kv->block[i].users = 1;
    return i;
}

void tn_kv_hold(tn_kv *kv, int32_t i)
{
    assert(i >= 0 && (uint32_t)i < kv->nblock);
    block *b = &kv->block[i];
    if (b->users++ > 0)
        return;
    if (b->pins > 0) {
        kv->npinned--;
    } else {
        assert(b->sealed);
        idle_remove(kv, i);
    }
}

static void rest(tn_kv *kv, int32_t i)
{
    if (kv->block[i].sealed)
        idle_put_last(kv, i);
    else
        idle_put_first(kv, i); /* holds nothing worth keeping */
}

void tn_kv_give(tn_kv *kv, int32_t i)
{
    assert(i >= 0 && (uint32_t)i < kv->nblock && kv->block[i].users > 0);
    if (--kv->block[i].users > 0)
        return;
    if (kv->block[i].pins > 0)
        kv->npinned++;
    else
        rest(kv, i);
}

void tn_kv_pin(tn_kv *kv, int32_t i)
{
    assert(i >= 0 && (uint32_t)i < kv->nblock && kv->block[i].users > 0);
    kv->block[i].pins++;
}

void tn_kv_unpin(tn_kv *kv, int32_t i)
{
    assert(i >= 0 && (uint32_t)i < kv->nblock && kv->block[i].pins > 0);
    if (--kv->block[i].pins > 0 || kv->block[i].users > 0)
        return;
    kv->npinned--;
    rest(kv, i);
}

bool tn_kv_is_pinned_only(const tn_kv *kv, int32_t i)
{
    return kv->block[i].users == 0 && kv->block[i].pins > 0;
}

bool tn_kv_is_idle(const tn_kv *kv, int32_t i)
{
    return kv->block[i].users == 0 && kv->block[i].pins == 0;
}

uint32_t tn_kv_idle(const tn_kv *kv)
{
    return kv->nidle;
}

uint32_t tn_kv_spare(const tn_kv *kv)
{
    return kv->nidle + kv->npinned;
}

uint32_t tn_kv_used(const tn_kv *kv)
{
    return kv->nblock - kv->nidle - kv->npinned;
}

bool tn_kv_is_cached(const tn_kv *kv)
{
    return kv->bucket != NULL;
}

/* ------------------------------------------------------------------------ open and close */

static tn_status buckets_open(tn_kv *kv, tn_err *err)
{
    kv->nbucket = 1;
    while (kv->nbucket < kv->nblock)
        kv->nbucket *= 2;
    kv->bucket = malloc(kv->nbucket * sizeof *kv->bucket);
    if (kv->bucket == NULL)
        return tn_fail(err, TN_NO_MEMORY, "cache: no memory to index %u blocks", kv->nblock);
    for (uint32_t i = 0; i < kv->nbucket; i++)
        kv->bucket[i] = NOWHERE;
    if (getrandom(kv->secret, sizeof kv->secret, 0) != (ssize_t)sizeof kv->secret)
        return tn_fail(err, TN_OS, "cache: the system gave no random bytes");
    return TN_OK;
}

tn_status tn_kv_open(uint32_t nblock, uint32_t tokens, bool cached, tn_kv **out, tn_err *err)
{
    if (nblock == 0 || nblock > INT32_MAX || tokens == 0)
        return tn_fail(err, TN_CONFIG, "cache: %u blocks of %u tokens; expected 1 to %d of "
                       "at least 1", nblock, tokens, INT32_MAX);
    tn_kv *kv = calloc(1, sizeof *kv);
    if (kv == NULL)
        return tn_fail(err, TN_NO_MEMORY, "cache: no memory");
    *kv = (tn_kv){.nblock = nblock, .tokens = tokens, .first = NOWHERE, .last = NOWHERE};
    kv->block = calloc(nblock, sizeof *kv->block);
    tn_status st = TN_OK;
    if (kv->block == NULL)
        st = tn_fail(err, TN_NO_MEMORY, "cache: no memory to keep %u blocks", nblock);
    else if (cached)
        st = buckets_open(kv, err);
    if (st != TN_OK) {
        tn_kv_close(kv);
        return st;
    }
    for (uint32_t i = 0; i < nblock; i++)
        idle_put_last(kv, (int32_t)i);
    *out = kv;
    return TN_OK;
}

void tn_kv_close(tn_kv *kv)
{
    if (kv == NULL)
        return;
    free(kv->bucket);
    free(kv->block);
    free(kv);
}
