/* SPDX-License-Identifier: Apache-2.0 */
/* regex.h - regular expressions out of tokenizer.json, run by PCRE2.
 *
 * They are written in Oniguruma's Ruby dialect. regex_read.c and regex_set.c turn that into
 * PCRE2's, so that \s, \w, \h, \p, nested classes, && and quantifiers mean what they meant;
 * what may take exponential time (a repetition inside a repetition), looks behind or refers
 * to a group is refused. One difference is left: without regard to case one character stands
 * for one (no ss for a sharp s).
 *
 * Matching is bounded too: it sees a window of the text at first, more only while a match
 * would reach past it, and the sum of what failed attempts saw has a ceiling. */
#ifndef TN_REGEX_H
#define TN_REGEX_H

#include <tenon/plugin.h>

#include <stdbool.h>
#include <stddef.h>

#define TN_REGEX_SIZE_MAX 16384u /* bytes of a pattern */

struct tn_buf;
typedef struct tn_regex tn_regex;
typedef struct tn_regex_work tn_regex_work; /* of one thread, for one regex */

/* `what` names the place in messages; the regex is read-only once open. TN_DATA. */
tn_status tn_regex_open(const char *pattern, size_t size, const char *what, tn_regex **out,
                        tn_err *err);
void tn_regex_close(tn_regex *r);

/* NULL when memory is short. `text_size`: of all the text it will work on, for the ceiling. */
tn_regex_work *tn_regex_work_new(const tn_regex *r, size_t text_size);
void tn_regex_work_free(tn_regex_work *w);

/* The leftmost match that begins at `from` or behind it; *start = SIZE_MAX: none. TN_REFUSED,
 * code "pattern_limit", when the text takes the pattern too many steps. */
tn_status tn_regex_find(const tn_regex *r, tn_regex_work *w, const uint8_t *text, size_t size,
                        size_t from, size_t *start, size_t *stop, tn_err *err);

/* regex_read.c: writes the PCRE2 pattern. TN_DATA. */
tn_status tn_regex_translate(const char *pattern, size_t size, const char *what,
                             struct tn_buf *out, tn_err *err);

#endif
