/* SPDX-License-Identifier: Apache-2.0 */
/* names.c - a table from names to numbers, for as many names as a stranger's file holds.
 *
 * Open addressing with linear probing, at most three quarters full. A slot keeps half of the
 * hash, so a probe compares bytes only where the names are most likely equal. */
#include "names.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#define CAP_LEAST 64u
#define CAP_MOST (1u << 31)

struct tn_name_slot {
    const char *name; /* NULL: free */
    uint32_t len;
    uint32_t value;
    uint64_t hash;
};

static uint64_t turn(uint64_t x, int n)
{
    return x << n | x >> (64 - n);
}

static void sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[1] = turn(v[1], 13) ^ v[0];
    v[0] = turn(v[0], 32);
    v[2] += v[3];
    v[3] = turn(v[3], 16) ^ v[2];
    v[0] += v[3];
    v[3] = turn(v[3], 21) ^ v[0];
    v[2] += v[1];
    v[1] = turn(v[1], 17) ^ v[2];
    v[2] = turn(v[2], 32);
}

/* SipHash-1-3 (Aumasson and Bernstein, 2012). */
static uint64_t hash_of(const tn_names *t, const char *name, size_t len)
{
    uint64_t v[4] = {t->key[0] ^ 0x736f6d6570736575u, t->key[1] ^ 0x646f72616e646f6du,
                     t->key[0] ^ 0x6c7967656e657261u, t->key[1] ^ 0x7465646279746573u};
    size_t i = 0;
    for (; i + 8 <= len; i += 8) {
        uint64_t m;
        memcpy(&m, name + i, 8);
        v[3] ^= m;
        sip_round(v);
        v[0] ^= m;
    }
    uint64_t last = (uint64_t)len << 56;
    for (size_t j = 0; i + j < len; j++)
        last |= (uint64_t)(unsigned char)name[i + j] << (8 * j);
    v[3] ^= last;
    sip_round(v);
    v[0] ^= last;
    v[2] ^= 0xff;
    sip_round(v);
    sip_round(v);
    sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

void tn_names_open(tn_names *t)
{
    *t = (tn_names){0};
    if (getrandom(t->key, sizeof t->key, GRND_NONBLOCK) == (ssize_t)sizeof t->key)
        return;
    struct timespec now; /* a kernel without randomness yet: hard to guess is enough */
    clock_gettime(CLOCK_MONOTONIC, &now);
    t->key[0] = (uint64_t)now.tv_nsec * 0x9e3779b97f4a7c15u;
    t->key[1] = (uint64_t)(uintptr_t)t ^ (uint64_t)now.tv_sec;
}

void tn_names_close(tn_names *t)
{
    free(t->slot);
    *t = (tn_names){0};
}

/* The slot that holds the name, else the free one where it belongs. */
static struct tn_name_slot *probe(const tn_names *t, const char *name, size_t len, uint64_t hash)
{
    for (uint32_t i = (uint32_t)hash & (t->cap - 1);; i = (i + 1) & (t->cap - 1)) {
        struct tn_name_slot *s = &t->slot[i];
        if (s->name == NULL ||
            (s->hash == hash && s->len == len && memcmp(s->name, name, len) == 0))
            return s;
    }
}

static bool resize(tn_names *t, uint32_t cap)
{
    struct tn_name_slot *old = t->slot;
    uint32_t old_cap = t->cap;
    struct tn_name_slot *made = calloc(cap, sizeof *made);
    if (made == NULL)
        return false;
    t->slot = made;
    t->cap = cap;
    for (uint32_t i = 0; i < old_cap; i++)
        if (old[i].name != NULL)
            *probe(t, old[i].name, old[i].len, old[i].hash) = old[i];
    free(old);
    return true;
}

bool tn_names_reserve(tn_names *t, uint32_t count)
{
    uint64_t cap = t->cap > 0 ? t->cap : CAP_LEAST;
    while (cap / 4 * 3 <= count)
        cap *= 2;
    if (cap > CAP_MOST)
        return false;
    return cap == t->cap || resize(t, (uint32_t)cap);
}

bool tn_names_add(tn_names *t, const char *name, size_t len, uint32_t value, uint32_t *found)
{
    if (len > UINT32_MAX || !tn_names_reserve(t, t->used + 1))
        return false;
    uint64_t hash = hash_of(t, name, len);
    struct tn_name_slot *s = probe(t, name, len, hash);
    *found = s->name != NULL ? s->value : TN_NAMES_NONE;
    if (s->name == NULL) {
        *s = (struct tn_name_slot){
            .name = name, .len = (uint32_t)len, .value = value, .hash = hash};
        t->used++;
    }
    return true;
}

uint32_t tn_names_find(const tn_names *t, const char *name, size_t len)
{
    if (t->cap == 0)
        return TN_NAMES_NONE;
    const struct tn_name_slot *s = probe(t, name, len, hash_of(t, name, len));
    return s->name != NULL ? s->value : TN_NAMES_NONE;
}
