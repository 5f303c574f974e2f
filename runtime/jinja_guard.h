/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_guard.h - follows the spellings of control tokens that users wrote through a render.
 *
 * Before the render a mark goes behind the first character of each such spelling in user text;
 * the mark is a Unicode noncharacter that nothing in the render contains. Whatever a template
 * does to the text (trim, split, join, tojson, slices), the mark moves along. Afterwards the
 * marks are taken out and the places where a spelling still begins are reported.
 *
 * What a text ends with may become a spelling with the text that follows, so a beginning of
 * one at a text's end is marked too. A template that compares or replaces the spelling itself
 * no longer finds it in user text; nothing else changes. */
#ifndef TN_JINJA_GUARD_H
#define TN_JINJA_GUARD_H

#include "jinja_value.h"

struct tn_buf;

#define TN_JMARK_FIRST 0xfdd0u

typedef struct tn_jguard {
    const tn_jstr *spell;     /* sorted, in the run's arena */
    uint32_t n;
    bool first[256];          /* a spelling begins with this byte */
} tn_jguard;

/* Bits of the noncharacters U+FDD0 to U+FDEF a text holds. */
uint32_t tn_jmarks_in(const char *p, size_t size);
uint32_t tn_jmarks_in_json(const tn_json *v);

/* `used`: marks that are taken. Sets r->mark when there is anything to guard. */
bool tn_jguard_open(tn_jrun *r, const char *const *spell, size_t n, uint32_t used, tn_jguard *out);
/* The text with its marks; borrowed when it needs none. */
bool tn_jguard_text(tn_jrun *r, const tn_jguard *g, const char *p, size_t size, tn_jval *out);
/* Appends the text without marks; *at (malloc, may be NULL) are offsets into out->data. */
bool tn_jguard_strip(tn_jrun *r, const tn_jguard *g, const char *p, size_t size,
                     struct tn_buf *out, size_t **at, size_t *nat);

#endif
