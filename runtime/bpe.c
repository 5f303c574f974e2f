/* SPDX-License-Identifier: Apache-2.0 */
/* bpe.c - byte pair encoding: one piece of text to the ids of its tokens. */
#include "bpe.h"

#include "ids.h"
#include "unicode.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define NO_RANK 0xffffffu
#define FREE_PAIR UINT64_MAX
#define SHORT_MAX 40u /* symbols up to which scanning for the lowest rank beats a heap */

enum { WHOLE_UNKNOWN, WHOLE_YES, WHOLE_NO };

/* Printable Latin-1 stands for itself; the other 68 bytes follow from U+0100 on, in order. */
uint32_t tn_byte_char(uint8_t b)
{
    if ((b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b != 0xad))
        return b;
    return 0x100u + (b <= 0x20 ? b : b <= 0xa0 ? b - 0x7fu + 0x21u : 0x43u);
}

int tn_char_byte(uint32_t cp)
{
    if (cp < 0x100)
        return tn_byte_char((uint8_t)cp) == cp ? (int)cp : -1;
    if (cp > 0x143)
        return -1;
    uint32_t i = cp - 0x100;
    return (int)(i <= 0x20 ? i : i <= 0x42 ? i - 0x21 + 0x7f : 0xad);
}

size_t tn_word_bytes(const char *word, size_t size, uint8_t *out)
{
    const uint8_t *p = (const uint8_t *)word, *end = p + size;
    size_t n = 0;
    while (p < end) {
        int byte = tn_char_byte(tn_utf8_next(&p));
        if (byte < 0)
            return SIZE_MAX;
        out[n++] = (uint8_t)byte;
    }
    return n;
}

/* ---- building ---- */

void tn_bpe_open(tn_bpe *b, const tn_lexicon *vocab)
{
    *b = (tn_bpe){.vocab = vocab, .words = vocab, .unk = -1, .cuts = true};
    tn_random_key(b->key);
    memset(b->first, 0xff, sizeof b->first);
    memset(b->fallback, 0xff, sizeof b->fallback);
}

void tn_bpe_close(tn_bpe *b)
{
    free(b->pair);
    free(b->merged);
    free(b->joint_pair);
    free(b->whole);
    *b = (tn_bpe){0};
}

static inline uint64_t pair_slot(const tn_bpe *b, uint64_t pair)
{
    return tn_mix(pair ^ b->key[0], b->key[1]) & b->pair_mask;
}

static void pair_put(tn_bpe *b, uint64_t entry)
{
    uint64_t pair = entry >> 24, at = pair_slot(b, pair);
    while (b->pair[at] != FREE_PAIR && b->pair[at] >> 24 != pair)
        at = (at + 1) & b->pair_mask;
    b->pair_used += b->pair[at] == FREE_PAIR;
    b->pair[at] = entry;
}

/* Three slots in four may be taken. */
static bool fits(const tn_bpe *b, uint64_t count)
{
    return b->pair != NULL && count <= (b->pair_mask + 1) / 4 * 3;
}

bool tn_bpe_reserve(tn_bpe *b, uint32_t count)
{
    if (fits(b, count))
        return true;
    uint64_t *old = b->pair, old_cap = old == NULL ? 0 : b->pair_mask + 1, cap = 4096;
    while (count > cap / 4 * 3)
        cap *= 2;
    uint64_t *pair = malloc(cap * sizeof *pair);
    if (pair == NULL)
        return false;
    memset(pair, 0xff, cap * sizeof *pair);
    b->pair = pair;
    b->pair_mask = cap - 1;
    b->pair_used = 0;
    for (uint64_t i = 0; i < old_cap; i++)
        if (old[i] != FREE_PAIR)
            pair_put(b, old[i]);
    free(old);
    return true;
}

static bool joint_put(tn_bpe *b, uint64_t key);

static bool grow_joints(tn_bpe *b)
{
    uint64_t *old = b->joint_pair, old_cap = old == NULL ? 0 : b->joint_mask + 1;
    uint64_t cap = old == NULL ? 1024 : old_cap * 2;
    uint64_t *pair = calloc(cap, sizeof *pair);
    if (pair == NULL)
        return false;
    b->joint_pair = pair;
    b->joint_mask = cap - 1;
    b->joint_used = 0;
    for (uint64_t i = 0; i < old_cap; i++)
        if (old[i] != 0)
            joint_put(b, old[i]);
    free(old);
    return true;
}

static bool joint_put(tn_bpe *b, uint64_t key)
{
    if ((b->joint_pair == NULL || b->joint_used >= b->joint_mask / 2) && !grow_joints(b))
        return false;
    uint64_t at = tn_mix(key ^ b->key[0], b->key[1]) & b->joint_mask;
    while (b->joint_pair[at] != 0 && b->joint_pair[at] != key)
        at = (at + 1) & b->joint_mask;
    b->joint_used += b->joint_pair[at] == 0;
    b->joint_pair[at] = key;
    return true;
}

bool tn_bpe_add(tn_bpe *b, int32_t left, int32_t right, int32_t result, uint32_t last,
                uint32_t first)
{
    assert(left >= 0 && right >= 0 && result >= 0 && b->nmerge < TN_BPE_MERGES_MAX);
    if (b->nmerge == b->merged_cap) {
        uint32_t cap = b->merged_cap == 0 ? 4096 : b->merged_cap * 2;
        int32_t *merged = realloc(b->merged, cap * sizeof *merged);
        if (merged == NULL)
            return false;
        b->merged = merged;
        b->merged_cap = cap;
    }
    if (!fits(b, b->pair_used + 1) && !tn_bpe_reserve(b, (uint32_t)b->pair_used * 2 + 1))
        return false;
    if (!joint_put(b, (uint64_t)last << 21 | first))
        return false;
    b->merged[b->nmerge] = result;
    pair_put(b, (uint64_t)left << 44 | (uint64_t)right << 24 | b->nmerge);
    b->nmerge++;
    return true;
}

static inline bool joins(const tn_bpe *b, uint32_t last, uint32_t first)
{
    if ((last | first) < (b->bytes ? 256u : 128u))
        return b->joint[(last << 8 | first) >> 3] >> (first & 7) & 1;
    uint64_t key = (uint64_t)last << 21 | first;
    if (b->joint_pair == NULL)
        return false;
    for (uint64_t at = tn_mix(key ^ b->key[0], b->key[1]) & b->joint_mask;
         b->joint_pair[at] != 0; at = (at + 1) & b->joint_mask)
        if (b->joint_pair[at] == key)
            return true;
    return false;
}

/* Can the symbol stand for text that the vocabulary lacks? Fallback tokens lie together in
 * every vocabulary, so their range is a good first answer. */
static bool is_stand_in(const tn_bpe *b, int32_t id, int32_t least, int32_t greatest)
{
    if (id == b->unk)
        return true;
    for (int i = 0; b->byte_fallback && id >= least && id <= greatest && i < 256; i++)
        if (b->fallback[i] == id)
            return true;
    return false;
}

/* The pairs that meet in one table read: bytes, or ASCII. */
static void map_joints(tn_bpe *b)
{
    for (uint64_t i = 0; b->joint_pair != NULL && i <= b->joint_mask; i++) {
        int last = (int)(b->joint_pair[i] >> 21), first = b->joint_pair[i] & 0x1fffff;
        if (b->joint_pair[i] == 0)
            continue;
        if (b->bytes) {
            last = tn_char_byte((uint32_t)last);
            first = tn_char_byte((uint32_t)first);
        }
        if (last >= 0 && first >= 0 && (last | first) < (b->bytes ? 256 : 128))
            b->joint[(last << 8 | first) >> 3] |= (uint8_t)(1u << (first & 7));
    }
}

static void find_symbols(tn_bpe *b)
{
    for (uint32_t i = 0; i < (b->bytes ? 256u : 128u); i++) {
        uint8_t utf8[4];
        size_t n = tn_utf8_put(utf8, b->bytes ? tn_byte_char((uint8_t)i) : i);
        b->first[i] = tn_lexicon_find(b->vocab, (char *)utf8, n);
        if (b->bytes && b->first[i] < 0)
            b->cuts = false;
    }
}

bool tn_bpe_ready(tn_bpe *b, const tn_lexicon *words, bool bytes)
{
    b->words = words;
    b->bytes = bytes;
    find_symbols(b);
    int32_t least = INT32_MAX, greatest = -1;
    for (int i = 0; i < 256; i++) {
        least = b->fallback[i] < least ? b->fallback[i] : least;
        greatest = b->fallback[i] > greatest ? b->fallback[i] : greatest;
    }
    map_joints(b);
    bool stand_ins = b->unk >= 0 || b->byte_fallback;
    for (uint64_t i = 0; stand_ins && b->pair != NULL && i <= b->pair_mask; i++) {
        int32_t left = (int32_t)(b->pair[i] >> 44), right = b->pair[i] >> 24 & 0xfffff;
        if (b->pair[i] != FREE_PAIR && (is_stand_in(b, left, least, greatest) ||
                                        is_stand_in(b, right, least, greatest)))
            b->cuts = false; /* merges of what stands for unknown text escape the joints */
    }
    b->whole = calloc(words->count + 1, sizeof *b->whole);
    return b->whole != NULL;
}

/* ---- symbols ---- */

void tn_bpe_work_close(tn_bpe_work *w)
{
    free(w->sym);
    free(w->rank);
    free(w->prev);
    free(w->next);
    free(w->heap);
    *w = (tn_bpe_work){0};
}

static bool resize(void **p, size_t count, size_t size)
{
    void *q = realloc(*p, count * size);
    if (q == NULL)
        return false;
    *p = q;
    return true;
}

static bool work_reserve(tn_bpe_work *w, size_t n)
{
    if (n <= w->cap)
        return true;
    size_t cap = n + n / 4 + 64;
    if (!resize((void **)&w->sym, cap, sizeof *w->sym) ||
        !resize((void **)&w->rank, cap, sizeof *w->rank) ||
        !resize((void **)&w->prev, cap, sizeof *w->prev) ||
        !resize((void **)&w->next, cap, sizeof *w->next))
        return false;
    w->cap = cap;
    return true;
}

/* The symbols of a character that the vocabulary lacks: its bytes, or unk, or none. */
static void put_unknown(const tn_bpe *b, tn_bpe_work *w, const uint8_t *utf8, size_t n,
                        bool *was_unk)
{
    if (b->byte_fallback) {
        for (size_t i = 0; i < n; i++)
            w->sym[w->n++] = b->fallback[utf8[i]];
    } else if (b->unk >= 0 && !(b->fuse_unk && *was_unk)) {
        w->sym[w->n++] = b->unk;
    }
    *was_unk = b->unk >= 0;
}

static inline int32_t symbol_of(const tn_bpe *b, const uint8_t *p, size_t n)
{
    return n == 1 ? b->first[*p] : tn_lexicon_find(b->vocab, (const char *)p, n);
}

/* Fills w->sym from a piece. One byte gives at most two symbols (a byte-level character that
 * falls back to its two UTF-8 bytes). */
static bool symbolize(const tn_bpe *b, tn_bpe_work *w, const uint8_t *text, size_t size)
{
    const uint8_t *p = text, *end = text + size;
    bool was_unk = false;
    w->n = 0;
    if (!work_reserve(w, b->bytes && !b->cuts ? 2 * size : size))
        return false;
    while (p < end) {
        const uint8_t *from = p;
        if (b->bytes)
            p++;
        else
            (void)tn_utf8_next(&p);
        int32_t id = b->bytes ? b->first[*from] : symbol_of(b, from, (size_t)(p - from));
        if (id >= 0) {
            w->sym[w->n++] = id;
            was_unk = false;
        } else if (b->bytes) {
            uint8_t utf8[4];
            put_unknown(b, w, utf8, tn_utf8_put(utf8, tn_byte_char(*from)), &was_unk);
        } else {
            put_unknown(b, w, from, (size_t)(p - from), &was_unk);
        }
    }
    return true;
}

/* ---- merging ---- */

static inline uint32_t rank_of(const tn_bpe *b, int32_t left, int32_t right)
{
    uint64_t pair = (uint64_t)(uint32_t)left << 20 | (uint32_t)right;
    for (uint64_t at = pair_slot(b, pair); b->pair[at] != FREE_PAIR;
         at = (at + 1) & b->pair_mask)
        if (b->pair[at] >> 24 == pair)
            return b->pair[at] & 0xffffff;
    return NO_RANK;
}

static void merge_short(const tn_bpe *b, tn_bpe_work *w)
{
    int32_t *sym = w->sym;
    uint32_t *rank = w->rank;
    size_t n = w->n;
    for (size_t i = 0; i + 1 < n; i++)
        rank[i] = rank_of(b, sym[i], sym[i + 1]);
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (rank[i] < rank[best])
                best = i;
        if (rank[best] == NO_RANK)
            break;
        sym[best] = b->merged[rank[best]];
        n--;
        memmove(sym + best + 1, sym + best + 2, (n - best - 1) * sizeof *sym);
        memmove(rank + best, rank + best + 1, (n - best - 1) * sizeof *rank);
        if (best > 0)
            rank[best - 1] = rank_of(b, sym[best - 1], sym[best]);
        if (best + 1 < n)
            rank[best] = rank_of(b, sym[best], sym[best + 1]);
    }
    w->n = n;
}

/* A heap of four children a node over rank << 32 | position: one comparison orders both. */
static void sift_down(uint64_t *heap, size_t n, size_t at, uint64_t item)
{
    for (;;) {
        size_t child = at * 4 + 1, least = child;
        if (child >= n)
            break;
        size_t last = child + 4 < n ? child + 4 : n;
        for (size_t i = child + 1; i < last; i++)
            if (heap[i] < heap[least])
                least = i;
        if (heap[least] >= item)
            break;
        heap[at] = heap[least];
        at = least;
    }
    heap[at] = item;
}

static bool heap_put(tn_bpe_work *w, uint64_t item)
{
    if (w->nheap == w->heap_cap) {
        size_t cap = w->heap_cap * 2 + 64;
        if (!resize((void **)&w->heap, cap, sizeof *w->heap))
            return false;
        w->heap_cap = cap;
    }
    size_t at = w->nheap++;
    for (; at > 0 && w->heap[(at - 1) / 4] > item; at = (at - 1) / 4)
        w->heap[at] = w->heap[(at - 1) / 4];
    w->heap[at] = item;
    return true;
}

static uint64_t heap_take(tn_bpe_work *w)
{
    uint64_t top = w->heap[0];
    w->nheap--;
    if (w->nheap > 0)
        sift_down(w->heap, w->nheap, 0, w->heap[w->nheap]);
    return top;
}

/* Ranks the pair that begins at position i. */
static bool rank_pair(const tn_bpe *b, tn_bpe_work *w, uint32_t i)
{
    w->rank[i] = w->next[i] == TN_NONE ? NO_RANK : rank_of(b, w->sym[i], w->sym[w->next[i]]);
    return w->rank[i] == NO_RANK || heap_put(w, (uint64_t)w->rank[i] << 32 | i);
}

/* Symbols stay where they are and are chained; an entry of the heap counts only while its
 * rank is still that of its position. */
static bool merge_long(const tn_bpe *b, tn_bpe_work *w)
{
    uint32_t n = (uint32_t)w->n;
    w->nheap = 0;
    for (uint32_t i = 0; i < n; i++) {
        w->prev[i] = i - 1; /* the first wraps to TN_NONE */
        w->next[i] = i + 1 < n ? i + 1 : TN_NONE;
        if (!rank_pair(b, w, i))
            return false;
    }
    while (w->nheap > 0) {
        uint64_t top = heap_take(w);
        uint32_t i = (uint32_t)top, rank = (uint32_t)(top >> 32);
        if (w->rank[i] != rank)
            continue;
        uint32_t gone = w->next[i];
        w->sym[i] = b->merged[rank];
        w->rank[gone] = NO_RANK;
        w->next[i] = w->next[gone];
        if (w->next[i] != TN_NONE)
            w->prev[w->next[i]] = i;
        if (!rank_pair(b, w, i) || (w->prev[i] != TN_NONE && !rank_pair(b, w, w->prev[i])))
            return false;
    }
    w->n = 0;
    for (uint32_t i = 0, next; i != TN_NONE && n > 0; i = next) {
        next = w->next[i];
        w->sym[w->n++] = w->sym[i];
    }
    return true;
}

static bool merge(const tn_bpe *b, tn_bpe_work *w)
{
    if (w->n < 2 || b->pair == NULL)
        return true;
    if (w->n > SHORT_MAX)
        return merge_long(b, w);
    merge_short(b, w);
    return true;
}

/* ---- pieces ---- */

/* Do the merges of token `id` lead to it? Asked once a token, whoever asks first works it out;
 * two threads come to the same answer. */
static bool is_whole(const tn_bpe *b, tn_bpe_work *w, int32_t id, bool *ok)
{
    uint8_t is = atomic_load_explicit(&b->whole[id], memory_order_relaxed);
    if (is == WHOLE_UNKNOWN) {
        uint32_t size;
        const char *word = tn_lexicon_word(b->words, id, &size);
        if (!symbolize(b, w, (const uint8_t *)word, size) || !merge(b, w)) {
            *ok = false;
            return false;
        }
        is = w->n == 1 && w->sym[0] == id ? WHOLE_YES : WHOLE_NO;
        atomic_store_explicit(&b->whole[id], is, memory_order_relaxed);
    }
    return is == WHOLE_YES;
}

/* A stretch whose neighbours it can never merge with. */
static bool encode_stretch(const tn_bpe *b, tn_bpe_work *w, const uint8_t *text, size_t size,
                           tn_ids *out)
{
    bool ok = true;
    int32_t id = tn_lexicon_find(b->words, (const char *)text, size);
    if (id >= 0 && is_whole(b, w, id, &ok))
        return tn_ids_put(out, id);
    if (!ok || !symbolize(b, w, text, size) || !merge(b, w))
        return false;
    if (out->cap - out->n < w->n && !tn_ids_reserve(out, w->n))
        return false;
    if (w->n > 0)
        memcpy(out->id + out->n, w->sym, w->n * sizeof *w->sym);
    out->n += w->n;
    return true;
}

/* Where the stretch that begins at p ends: before the first byte that never joins. */
static const uint8_t *stretch_of_bytes(const tn_bpe *b, const uint8_t *p, const uint8_t *end)
{
    for (p++; p < end && joins(b, p[-1], *p); p++)
        ;
    return p;
}

/* The same for characters. One that the vocabulary lacks and that has no bytes to fall back
 * on may vanish or fuse, so nothing is cut next to it. */
static const uint8_t *stretch_of_chars(const tn_bpe *b, const uint8_t *p, const uint8_t *end)
{
    const uint8_t *before = p;
    uint32_t last = tn_utf8_next(&p);
    while (p < end) {
        const uint8_t *at = p;
        uint32_t cp = tn_utf8_next(&p);
        if (!joins(b, last, cp) &&
            (b->byte_fallback || (symbol_of(b, before, (size_t)(at - before)) >= 0 &&
                                  symbol_of(b, at, (size_t)(p - at)) >= 0)))
            return at;
        before = at;
        last = cp;
    }
    return p;
}

bool tn_bpe_encode(const tn_bpe *b, tn_bpe_work *w, const uint8_t *text, size_t size,
                   tn_ids *out)
{
    if (size == 0)
        return true;
    bool ok = true;
    int32_t id = tn_lexicon_find(b->words, (const char *)text, size);
    if (id >= 0 && (b->ignore_merges || is_whole(b, w, id, &ok)))
        return tn_ids_put(out, id);
    if (!ok)
        return false;
    const uint8_t *p = text, *end = text + size;
    while (p < end) {
        const uint8_t *stop = !b->cuts ? end : b->bytes ? stretch_of_bytes(b, p, end)
                                                        : stretch_of_chars(b, p, end);
        if (!encode_stretch(b, w, p, (size_t)(stop - p), out))
            return false;
        p = stop;
    }
    return true;
}
