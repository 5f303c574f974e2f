/* SPDX-License-Identifier: Apache-2.0 */
/* bpe.h - byte pair encoding: one piece of text to the ids of its tokens.
 *
 * A piece becomes symbols (its bytes or its characters), and the pair of neighbours with the
 * lowest rank merges, the leftmost first among equals, until no pair has a rank. Three things
 * keep that fast and never quadratic: a piece that is itself a token whose merges lead to it
 * is found at once; a piece is cut wherever no merge can ever join the two sides; long
 * pieces merge through a heap.
 *
 * Built by one thread, then read-only but for a memo of atomics; each encoding thread brings
 * its own tn_bpe_work. */
#ifndef TN_BPE_H
#define TN_BPE_H

#include "lexicon.h"
#include "tokenizer.h"

#define TN_BPE_MERGES_MAX 0xfffffeu

typedef struct tn_bpe {
    const tn_lexicon *vocab;  /* borrowed: spellings */
    const tn_lexicon *words;  /* borrowed: tokens as they look in a piece */
    uint64_t *pair;           /* owned: left << 44 | right << 24 | rank, ~0: free */
    uint64_t pair_mask, pair_used;
    int32_t *merged;          /* owned, [nmerge]: the id a rank makes */
    uint32_t nmerge, merged_cap;
    uint64_t key[2];
    int32_t first[256];       /* the symbol of a byte, or of an ASCII character; -1: none */
    int32_t fallback[256];    /* <0x00> .. <0xFF>, -1: none */
    int32_t unk;              /* -1: unknown characters vanish */
    bool bytes;               /* symbols are bytes; words hold raw bytes */
    bool byte_fallback, fuse_unk, ignore_merges;
    bool cuts;                /* pieces may be cut where nothing joins */
    uint8_t joint[8192];      /* bit a << 8 | b: some merge joins byte (ASCII) a to b */
    uint64_t *joint_pair;     /* owned: pairs of characters that join, a << 21 | b, 0: free */
    uint64_t joint_mask, joint_used;
    _Atomic uint8_t *whole;   /* owned, [words->count]: do its merges lead to a token? */
} tn_bpe;

typedef struct tn_bpe_work {
    int32_t *sym;             /* all owned, [cap] */
    uint32_t *rank, *prev, *next;
    uint64_t *heap;
    size_t n, cap;
    size_t nheap, heap_cap;
} tn_bpe_work;

/* Takes the spellings; set the options (unk, fallback, flags) before ready. */
void tn_bpe_open(tn_bpe *b, const tn_lexicon *vocab);
void tn_bpe_close(tn_bpe *b);
/* Makes room for `count` merges. False when memory is short. */
bool tn_bpe_reserve(tn_bpe *b, uint32_t count);
/* Makes left and right merge into `result`, ranked behind all before; `last` and `first` are
 * the characters that meet there. A pair given twice keeps its last rank. False when memory is
 * short. */
bool tn_bpe_add(tn_bpe *b, int32_t left, int32_t right, int32_t result, uint32_t last,
                uint32_t first);
/* After the last add. `bytes`: pieces are raw bytes that stand for the byte alphabet, and
 * `words` holds each token so; else pieces are spelled as in the vocabulary and `words` is it. */
bool tn_bpe_ready(tn_bpe *b, const tn_lexicon *words, bool bytes);

/* Appends the ids of one piece of valid UTF-8 (in byte mode: any bytes). False when memory
 * is short. */
bool tn_bpe_encode(const tn_bpe *b, tn_bpe_work *w, const uint8_t *text, size_t size,
                   tn_ids *out);
void tn_bpe_work_close(tn_bpe_work *w);

/* The character that stands for a byte in byte-level vocabularies, and back (-1: none). */
uint32_t tn_byte_char(uint8_t byte);
int tn_char_byte(uint32_t cp);
/* A whole word of such characters to its bytes, at most `size` of them. SIZE_MAX when some
 * character is none. */
size_t tn_word_bytes(const char *word, size_t size, uint8_t *out);

#endif
