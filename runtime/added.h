/* SPDX-License-Identifier: Apache-2.0 */
/* added.h - finds added tokens ("<|im_start|>", "<think>") in a text, in linear time.
 *
 * Two sets: those that stand in the text as it came, and those that are looked for after
 * normalization, in their own normalized spelling. In each the leftmost match wins, the
 * longest at one place. Built by one thread, then read-only. */
#ifndef TN_ADDED_H
#define TN_ADDED_H

#include <tenon/plugin.h>

#include <stdbool.h>
#include <stddef.h>

#define TN_ADDED_SIZE_MAX 4096u            /* bytes of one spelling */
#define TN_ADDED_TOTAL_MAX (4u << 20)      /* bytes of all */

typedef struct tn_added_token {
    int32_t id;
    uint32_t size;
    const char *text;      /* borrowed: what is looked for */
    bool single_word;      /* only between characters that are no word characters */
    bool lstrip, rstrip;   /* takes the white space before, behind it */
    bool normalized, special;
} tn_added_token;

/* A set, as an automaton that reads the text from its end: so it knows at every place the
 * longest token that begins there. */
typedef struct tn_added_set {
    struct tn_added_node *node; /* owned; 0 is the root */
    uint32_t nnode, cap;
    uint32_t start[256];        /* the root's children by byte, 0: none */
} tn_added_set;

typedef struct tn_added {
    tn_added_token *token;      /* owned */
    uint32_t n, cap;
    size_t total;
    tn_added_set raw, normal;
} tn_added;

typedef struct tn_added_match {
    size_t start, stop;
    int32_t token;              /* index in tn_added.token; -1: text between matches */
} tn_added_match;

typedef struct tn_added_work {
    struct tn_added_hit *hit;   /* owned */
    size_t nhit, hit_cap;
    tn_added_match *match;      /* owned: covers the text in order */
    size_t nmatch, match_cap;
} tn_added_work;

/* Which control tokens of a text are to be taken as plain text. */
typedef struct tn_plain {
    bool all;
    const size_t *at;           /* sorted offsets in the request's text */
    size_t n;
    size_t base;                /* offset of the searched text in the request's */
    const uint32_t *origin;     /* of each byte of the searched text in the text before
                                 * normalization, [size + 1]; NULL: it is that text */
} tn_plain;

void tn_added_open(tn_added *a);
void tn_added_close(tn_added *a);
bool tn_added_put(tn_added *a, const tn_added_token *t); /* false when memory is short */
/* After the last put. A spelling that two tokens of one set share comes back in *twin as an
 * index (TN_NONE: none); of false with TN_NONE memory is short. */
bool tn_added_ready(tn_added *a, uint32_t *twin);

/* Fills w->match. False when memory is short. */
bool tn_added_find(const tn_added *a, bool normal, const uint8_t *text, size_t size,
                   const tn_plain *plain, tn_added_work *w);
void tn_added_work_close(tn_added_work *w);

#endif
