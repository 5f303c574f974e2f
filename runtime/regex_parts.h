/* SPDX-License-Identifier: Apache-2.0 */
/* regex_parts.h - what regex_read.c and regex_set.c share: a pattern while it is read. */
#ifndef TN_REGEX_PARTS_H
#define TN_REGEX_PARTS_H

#include "buf.h"
#include "newer.h"

#include <tenon/plugin.h>

#define TN_REGEX_DEPTH_MAX 64u

typedef struct tn_regex_reader {
    const char *begin, *at, *end;
    const char *what;
    tn_newer newer;     /* owned; looked up when first needed */
    bool has_newer;
    tn_err *err;
} tn_regex_reader;

/* "<what>: pattern "...": <why> at its byte N; expected <wanted>", TN_DATA. */
tn_status tn_regex_refuse(const tn_regex_reader *r, const char *why, const char *wanted);
bool tn_regex_next_is(const tn_regex_reader *r, const char *text);
bool tn_regex_take(tn_regex_reader *r, const char *text);
uint32_t tn_regex_take_char(tn_regex_reader *r);
void tn_regex_put_char(tn_buf *out, uint32_t cp);

/* The character an escape stands for, r->at behind the backslash. *is: false when the escape
 * is of another sort; then r->at has not moved. */
tn_status tn_regex_escaped(tn_regex_reader *r, uint32_t *cp, bool *is);
/* \s \d \w \h \p and their complements outside a class, r->at on the letter. */
tn_status tn_regex_read_set(tn_regex_reader *r, tn_buf *out);
/* A class, r->at behind its '['. */
tn_status tn_regex_read_class(tn_regex_reader *r, uint32_t depth, tn_buf *out);
/* \b, or \B when `is` is false. */
void tn_regex_put_boundary(tn_regex_reader *r, bool is, tn_buf *out);

#endif
