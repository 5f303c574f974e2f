/* SPDX-License-Identifier: Apache-2.0 */
/* pattern.h - what a tokenizer.json looks for in a text: a string, a regular expression (by
 * hand where it is a known one, else by PCRE2), or any character of a sort. */
#ifndef TN_PATTERN_H
#define TN_PATTERN_H

#include "regex.h"
#include "scanner.h"

#include <stdbool.h>

typedef bool (*tn_char_test)(const uint8_t *kinds, uint32_t cp);

typedef struct tn_pattern {
    char *string;              /* owned, or NULL */
    size_t string_size;
    const tn_scanner *scanner; /* or NULL */
    tn_regex *regex;           /* owned, or NULL */
    tn_char_test test;         /* or NULL: matches one character */
    const uint8_t *kinds;      /* borrowed */
} tn_pattern;

/* {"String": "..."} or {"Regex": "..."}. TN_DATA. */
tn_status tn_pattern_open(tn_pattern *p, const tn_json *spec, const uint8_t *kinds,
                          const char *what, tn_err *err);
tn_status tn_pattern_open_string(tn_pattern *p, const char *string, size_t size,
                                 const char *what, tn_err *err);
void tn_pattern_close(tn_pattern *p);

/* One walk over the matches of a text. Zero it, set `text`, `size`, and for regular
 * expressions `*work`, which is made when first needed and belongs to the caller. */
typedef struct tn_pattern_walk {
    const uint8_t *text;
    size_t size;
    size_t from, last_stop;    /* last_stop: end of the last match + 1, 0: none yet */
    tn_regex_work **work;
    size_t work_size;          /* bytes of the whole text, for the regex's ceiling */
} tn_pattern_walk;

/* The next match; *start = SIZE_MAX: no more. An empty match right behind the last one does
 * not count. TN_REFUSED, TN_NO_MEMORY. */
tn_status tn_pattern_next(const tn_pattern *p, tn_pattern_walk *walk, size_t *start,
                          size_t *stop, tn_err *err);

#endif
