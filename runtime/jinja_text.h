/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_text.h - UTF-8 text seen as Python sees it: as code points with properties.
 *
 * Everything here takes valid UTF-8 (tn_jutf_bad finds where it is not) and knows no
 * template; lengths are bytes unless a name says chars. */
#ifndef TN_JINJA_TEXT_H
#define TN_JINJA_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Properties of a code point, named for the Python predicate they answer. */
#define TN_JCHAR_ALPHA 1u
#define TN_JCHAR_DECIMAL 2u
#define TN_JCHAR_DIGIT 4u
#define TN_JCHAR_NUMERIC 8u
#define TN_JCHAR_LOWER 16u
#define TN_JCHAR_UPPER 32u
#define TN_JCHAR_TITLE 64u       /* titlecase letter, neither lower nor upper */
#define TN_JCHAR_PRINT 128u
#define TN_JCHAR_IGNORABLE 256u  /* a final sigma looks through it */
#define TN_JCHAR_START 512u      /* begins an identifier */
#define TN_JCHAR_CONTINUE 1024u
#define TN_JCHAR_CASED (TN_JCHAR_LOWER | TN_JCHAR_UPPER | TN_JCHAR_TITLE)
#define TN_JCHAR_ALNUM (TN_JCHAR_ALPHA | TN_JCHAR_DECIMAL | TN_JCHAR_DIGIT | TN_JCHAR_NUMERIC)

/* The tables of jinja_unicode.c. */
typedef struct tn_jcase_run {
    uint32_t first;
    uint16_t count, stride;
    int32_t delta;
} tn_jcase_run;

typedef struct tn_jcase_special {
    uint32_t cp;
    uint32_t to[3];              /* ends with 0 when shorter */
} tn_jcase_special;

extern const uint32_t tn_jchar_table[];
extern const size_t tn_jchar_table_count;
extern const tn_jcase_run tn_jcase_upper[], tn_jcase_lower[];
extern const size_t tn_jcase_upper_count, tn_jcase_lower_count;
extern const tn_jcase_special tn_jcase_upper_special[], tn_jcase_lower_special[],
    tn_jcase_title_special[], tn_jcase_fold_special[];
extern const size_t tn_jcase_upper_special_count, tn_jcase_lower_special_count,
    tn_jcase_title_special_count, tn_jcase_fold_special_count;

/* TN_JCHAR_ bits. */
uint32_t tn_jchar_bits(uint32_t cp);
bool tn_jchar_is_space(uint32_t cp);             /* str.isspace, and \s of a regex */
bool tn_jchar_is_word(uint32_t cp);              /* \w of a regex */
int tn_jchar_digit(uint32_t cp);                 /* value of a decimal digit, else -1 */

typedef enum tn_jcase { TN_JCASE_UPPER, TN_JCASE_LOWER, TN_JCASE_TITLE, TN_JCASE_FOLD } tn_jcase;
/* Up to three code points; returns how many. */
uint32_t tn_jchar_case(uint32_t cp, tn_jcase to, uint32_t out[3]);

/* Offset of the first byte that is not UTF-8 (surrogates refused), or `size`. */
size_t tn_jutf_bad(const char *p, size_t size);
size_t tn_jutf_chars(const char *p, size_t size);
/* Decodes at *p and steps over it; *p must be below the end of valid text. */
uint32_t tn_jutf_next(const char **p);
/* Steps back over the code point that ends at *p and decodes it. */
uint32_t tn_jutf_prev(const char **p);
size_t tn_jutf_encode(uint32_t cp, char out[4]);
size_t tn_jutf_skip(const char *p, size_t size, size_t chars); /* bytes of the first `chars` */
/* Where `what` begins in the text, or NULL. */
const char *tn_jutf_find(const char *p, size_t size, const char *what, size_t what_size);
/* `scratch` has room for what_size numbers; without it a long needle may cost its length at
 * every byte. */
const char *tn_jutf_find_last(const char *p, size_t size, const char *what, size_t what_size,
                               uint32_t *scratch);

#endif
