/* SPDX-License-Identifier: Apache-2.0 */
/* lexicon.h - the words of a vocabulary: id to bytes and bytes to id.
 *
 * Filled once by one thread, read by any number. Hashed with a key drawn at open, so that no
 * file can choose words that make it slow. */
#ifndef TN_LEXICON_H
#define TN_LEXICON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TN_LEXICON_MAX (1u << 20) /* ids are below this */

struct tn_lexicon_slot;
struct tn_lexicon_word;

typedef struct tn_lexicon {
    char *blob;                   /* owned: the words one behind the other, each NUL-terminated */
    size_t blob_used, blob_cap;
    struct tn_lexicon_word *word; /* owned, [cap]: where the word of an id lies */
    uint32_t count, cap;          /* count: greatest id + 1 */
    uint32_t used;                /* ids that have a word */
    uint32_t longest;             /* bytes */
    struct tn_lexicon_slot *slot; /* owned */
    uint32_t mask;
    uint64_t key[2];
} tn_lexicon;

void tn_lexicon_open(tn_lexicon *l);
void tn_lexicon_close(tn_lexicon *l);
/* Makes room for `count` words. False when memory is short. */
bool tn_lexicon_reserve(tn_lexicon *l, size_t count);
/* Gives `id`, which must be new, the word. *other: the id that has the word already (then
 * nothing is done), -1: none. False when memory is short. */
bool tn_lexicon_put(tn_lexicon *l, uint32_t id, const char *word, size_t size, int32_t *other);
int32_t tn_lexicon_find(const tn_lexicon *l, const char *word, size_t size); /* -1: none */
/* NULL when there is no such id. Borrowed, valid until the next put. */
const char *tn_lexicon_word(const tn_lexicon *l, int32_t id, uint32_t *size);
void tn_random_key(uint64_t key[2]); /* for tables that a stranger fills */

/* Mixes two words into one so that every bit of both matters. */
static inline uint64_t tn_mix(uint64_t a, uint64_t b)
{
    __extension__ unsigned __int128 p = (unsigned __int128)a * b;
    return (uint64_t)p ^ (uint64_t)(p >> 64);
}

#endif
