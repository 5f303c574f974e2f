/* SPDX-License-Identifier: Apache-2.0 */
/* jsonscan.h - strict JSON read in one pass, without a tree, for files with 10^6 members.
 *
 * The caller knows what it expects and asks for it piece by piece; what is not asked for is
 * stepped over, checked all the same. A refusal names the source and the byte offset. Keys
 * are not compared with each other: a caller that must not see one twice keeps a set. */
#ifndef TN_JSONSCAN_H
#define TN_JSONSCAN_H

#include <tenon/plugin.h>

#include <stdbool.h>

struct tn_arena;

typedef struct tn_scan {
    const char *begin, *at, *end;
    const char *what;   /* the source, for messages */
    uint64_t base;      /* added to offsets in messages: where `begin` lies in the file */
    uint32_t depth_max;
    uint32_t reserved;
    tn_err *err;
} tn_scan;

/* A text inside the source. `raw` texts hold no escapes and can be used as they are. */
typedef struct tn_scan_text {
    const char *text; /* between the quotes, borrowed, not terminated */
    size_t size;      /* bytes in the source */
    bool raw;
} tn_scan_text;

/* "<what>:<offset>: <text>", TN_DATA. `at` NULL: where the scan stands. */
tn_status tn_scan_refuse(const tn_scan *s, const char *at, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

char tn_scan_peek(tn_scan *s);                        /* next byte past blanks, 0 at the end */
tn_status tn_scan_expect(tn_scan *s, char c);         /* past blanks */
/* After '{' or '[' with *first true: is there another member? Takes the comma, or the closing
 * `close`. */
tn_status tn_scan_more(tn_scan *s, char close, bool *first, bool *more);
tn_status tn_scan_key(tn_scan *s, tn_scan_text *key); /* a text and its colon */
tn_status tn_scan_string(tn_scan *s, tn_scan_text *out);
/* Digits only, no sign, no leading zero, fraction or exponent; up to 2^63 - 1. */
tn_status tn_scan_uint(tn_scan *s, uint64_t *out);
tn_status tn_scan_skip(tn_scan *s);                   /* any value, to depth_max */
tn_status tn_scan_end(tn_scan *s);                    /* nothing but blanks is left */

/* The text with escapes resolved, terminated, in the arena; a NUL inside is refused. */
tn_status tn_scan_copy(tn_scan *s, const tn_scan_text *text, struct tn_arena *arena,
                       const char **out, size_t *size);
bool tn_scan_is(const tn_scan_text *text, const char *word); /* escapes count as different */

#endif
