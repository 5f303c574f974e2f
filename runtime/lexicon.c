/* SPDX-License-Identifier: Apache-2.0 */
/* lexicon.c - the words of a vocabulary: id to bytes and bytes to id. */
#include "lexicon.h"

#include <tenon/plugin.h>

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

typedef struct tn_lexicon_slot {
    uint32_t tag;  /* high half of the hash, the low bits of it say where the slot is */
    uint32_t id1;  /* id + 1, 0: free */
} slot;

typedef struct tn_lexicon_word {
    uint32_t at, size; /* size TN_NONE: no such id */
} entry;

void tn_random_key(uint64_t key[2])
{
    if (getrandom(key, 16, GRND_NONBLOCK) != 16) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        key[0] = (uint64_t)now.tv_nsec * 0x9e3779b97f4a7c15u ^ (uint64_t)(uintptr_t)key;
        key[1] = (uint64_t)now.tv_sec * 0xc2b2ae3d27d4eb4fu ^ (uint64_t)now.tv_nsec;
    }
    key[0] |= 1; /* a factor of zero would mix nothing */
    key[1] |= 1;
}

void tn_lexicon_open(tn_lexicon *l)
{
    *l = (tn_lexicon){0};
    tn_random_key(l->key);
}

void tn_lexicon_close(tn_lexicon *l)
{
    free(l->blob);
    free(l->word);
    free(l->slot);
    *l = (tn_lexicon){0};
}

/* Eight bytes a turn, the last eight overlapping; short words in one or two reads. */
static uint32_t hash(const tn_lexicon *l, const char *word, size_t size)
{
    uint64_t h = l->key[0] ^ size * 0x9e3779b97f4a7c15u, a = 0, b = 0;
    if (size >= 8) {
        size_t i = 0;
        for (; i + 16 < size; i += 16) {
            memcpy(&a, word + i, 8);
            memcpy(&b, word + i + 8, 8);
            h = tn_mix(a ^ l->key[1], b ^ h);
        }
        memcpy(&a, size - i > 8 ? word + i : word + size - 8, 8);
        memcpy(&b, word + size - 8, 8);
    } else if (size >= 4) {
        uint32_t x, y;
        memcpy(&x, word, 4);
        memcpy(&y, word + size - 4, 4);
        a = x;
        b = y;
    } else if (size > 0) {
        a = (uint8_t)word[0] | (uint64_t)(uint8_t)word[size / 2] << 8;
        b = (uint8_t)word[size - 1];
    }
    h = tn_mix(a ^ l->key[1], b ^ h);
    return (uint32_t)(tn_mix(h, l->key[0]) >> 32);
}

static bool resize_slots(tn_lexicon *l, uint32_t cap)
{
    slot *s = calloc(cap, sizeof *s);
    if (s == NULL)
        return false;
    for (uint32_t i = 0; l->slot != NULL && i <= l->mask; i++) {
        if (l->slot[i].id1 == 0)
            continue;
        uint32_t at = l->slot[i].tag & (cap - 1);
        while (s[at].id1 != 0)
            at = (at + 1) & (cap - 1);
        s[at] = l->slot[i];
    }
    free(l->slot);
    l->slot = s;
    l->mask = cap - 1;
    return true;
}

static bool grow_ids(tn_lexicon *l, uint32_t id)
{
    uint32_t cap = l->cap == 0 ? 1024 : l->cap;
    while (cap <= id)
        cap *= 2;
    if (cap == l->cap)
        return true;
    entry *word = realloc(l->word, cap * sizeof *word);
    if (word == NULL)
        return false;
    l->word = word;
    for (uint32_t i = l->cap; i < cap; i++)
        l->word[i].size = TN_NONE;
    l->cap = cap;
    return true;
}

/* Three slots in four may be taken: the tags keep the walk past a taken one cheap. */
static bool fits(const tn_lexicon *l, size_t count)
{
    return l->slot != NULL && count <= (l->mask + 1u) / 4 * 3;
}

bool tn_lexicon_reserve(tn_lexicon *l, size_t count)
{
    if (count > TN_LEXICON_MAX)
        count = TN_LEXICON_MAX;
    uint32_t cap = 1024;
    while (count > cap / 4 * 3)
        cap *= 2;
    return count == 0 || fits(l, count) || resize_slots(l, cap);
}

static bool grow_blob(tn_lexicon *l, size_t more)
{
    if (l->blob_cap - l->blob_used >= more)
        return true;
    size_t cap = l->blob_cap * 2 > l->blob_used + more ? l->blob_cap * 2
                                                       : l->blob_used + more + 4096;
    char *blob = realloc(l->blob, cap);
    if (blob == NULL)
        return false;
    l->blob = blob;
    l->blob_cap = cap;
    return true;
}

/* The slot of the word, or the free one where it belongs. */
static uint32_t slot_of(const tn_lexicon *l, uint32_t tag, const char *word, size_t size)
{
    uint32_t at = tag & l->mask;
    for (; l->slot[at].id1 != 0; at = (at + 1) & l->mask) {
        if (l->slot[at].tag != tag)
            continue;
        const entry *e = &l->word[l->slot[at].id1 - 1];
        if (e->size == size && memcmp(l->blob + e->at, word, size) == 0)
            break;
    }
    return at;
}

bool tn_lexicon_put(tn_lexicon *l, uint32_t id, const char *word, size_t size, int32_t *other)
{
    if (size >= UINT32_MAX - 1 - l->blob_used || !grow_ids(l, id) || !grow_blob(l, size + 1))
        return false;
    if (!fits(l, l->used + 1u) && !resize_slots(l, l->slot == NULL ? 1024 : (l->mask + 1) * 2))
        return false;
    uint32_t tag = hash(l, word, size), at = slot_of(l, tag, word, size);
    *other = (int32_t)l->slot[at].id1 - 1;
    if (*other >= 0)
        return true;
    l->slot[at] = (slot){tag, id + 1};
    l->word[id] = (entry){(uint32_t)l->blob_used, (uint32_t)size};
    if (size > 0)
        memcpy(l->blob + l->blob_used, word, size);
    l->blob[l->blob_used + size] = 0;
    l->blob_used += size + 1;
    l->used++;
    if (id >= l->count)
        l->count = id + 1;
    if (size > l->longest)
        l->longest = (uint32_t)size;
    return true;
}

int32_t tn_lexicon_find(const tn_lexicon *l, const char *word, size_t size)
{
    if (size > l->longest || l->slot == NULL)
        return -1;
    return (int32_t)l->slot[slot_of(l, hash(l, word, size), word, size)].id1 - 1;
}

const char *tn_lexicon_word(const tn_lexicon *l, int32_t id, uint32_t *size)
{
    if (id < 0 || (uint32_t)id >= l->count || l->word[id].size == TN_NONE)
        return NULL;
    *size = l->word[id].size;
    return l->blob + l->word[id].at;
}
