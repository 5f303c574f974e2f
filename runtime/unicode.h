/* SPDX-License-Identifier: Apache-2.0 */
/* unicode.h - what kind of character a code point is, and UTF-8.
 *
 * The tables are the program's own: token ids may not depend on which Unicode version the
 * machine's libraries follow. */
#ifndef TN_UNICODE_H
#define TN_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TN_UNICODE_END 0x110000u

/* General categories, the low five bits of tn_uc_class. */
enum {
    TN_UC_CN, TN_UC_LU, TN_UC_LL, TN_UC_LT, TN_UC_LM, TN_UC_LO, TN_UC_MN, TN_UC_MC, TN_UC_ME,
    TN_UC_ND, TN_UC_NL, TN_UC_NO, TN_UC_PC, TN_UC_PD, TN_UC_PS, TN_UC_PE, TN_UC_PI, TN_UC_PF,
    TN_UC_PO, TN_UC_SM, TN_UC_SC, TN_UC_SK, TN_UC_SO, TN_UC_ZS, TN_UC_ZL, TN_UC_ZP, TN_UC_CC,
    TN_UC_CF, TN_UC_CO, TN_UC_CS
};
#define TN_UC_CATEGORY 31u
#define TN_UC_NUMERIC 32u     /* a digit to the Digits pre-tokenizer */
#define TN_UC_PUNCTUATION 64u /* punctuation to the Punctuation pre-tokenizer */

/* TN_UF_: the code point may change, or change a neighbour, in that normal form. */
#define TN_UF_NFC 1u
#define TN_UF_NFD 2u
#define TN_UF_NFKC 4u
#define TN_UF_NFKD 8u
#define TN_UF_ORDERED 16u   /* has a combining class */
#define TN_UF_SPLIT 32u     /* is no longer itself in NFC: never the result of a composition */
#define TN_UF_ACCENT 64u    /* dropped by StripAccents */

/* Bits of tn_kinds. UPPER and LOWER are the two runs of a word in the o200k pattern: letters
 * without case and marks stand in both. */
#define TN_KIND_LETTER 1u
#define TN_KIND_NUMBER 2u
#define TN_KIND_MARK 4u
#define TN_KIND_SPACE 8u    /* White_Space */
#define TN_KIND_UPPER 16u   /* Lu Lt Lm Lo M */
#define TN_KIND_LOWER 32u   /* Ll Lm Lo M */
#define TN_KIND_PUNCT 64u   /* P or S */
#define TN_KIND_NUMERIC 128u

/* One byte of TN_KIND_ bits a code point, filled once: TN_UNICODE_END bytes, owned, malloc.
 * NULL when memory is short. */
uint8_t *tn_kinds_new(void);

uint32_t tn_uc_class(uint32_t cp); /* category and TN_UC_ bits */
uint32_t tn_uc_form(uint32_t cp);  /* TN_UF_ bits */
bool tn_uc_is_space(uint32_t cp);
bool tn_uc_is_word(uint32_t cp);   /* \w: letters, marks, digits, connectors */

/* Offset of the first malformed byte, `size` when there is none. */
size_t tn_utf8_check(const uint8_t *text, size_t size);
size_t tn_utf8_put(uint8_t out[4], uint32_t cp);
/* Length of the longest start of a well-formed sequence at p, at least 1: what one U+FFFD
 * stands for. `unfinished` answers whether the text ends inside it. */
size_t tn_utf8_bad_size(const uint8_t *p, const uint8_t *end, bool *unfinished);

/* The code point of the well-formed sequence at *p, which moves past it. */
static inline uint32_t tn_utf8_next(const uint8_t **p)
{
    const uint8_t *s = *p;
    if (s[0] < 0x80) {
        *p += 1;
        return s[0];
    }
    if (s[0] < 0xe0) {
        *p += 2;
        return (s[0] & 31u) << 6 | (s[1] & 63u);
    }
    if (s[0] < 0xf0) {
        *p += 3;
        return (s[0] & 15u) << 12 | (s[1] & 63u) << 6 | (s[2] & 63u);
    }
    *p += 4;
    return (s[0] & 7u) << 18 | (s[1] & 63u) << 12 | (s[2] & 63u) << 6 | (s[3] & 63u);
}

/* Where the sequence that ends before p begins. */
static inline const uint8_t *tn_utf8_back(const uint8_t *p)
{
    do
        p--;
    while ((*p & 0xc0) == 0x80);
    return p;
}

extern const uint32_t tn_unicode_class[], tn_unicode_form[];
extern const uint32_t tn_unicode_class_count, tn_unicode_form_count;

#endif
