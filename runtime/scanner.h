/* SPDX-License-Identifier: Apache-2.0 */
/* scanner.h - hand-written matchers for the patterns that published tokenizers split by.
 *
 * Each does exactly what its regular expression does at one place, many times faster and in
 * linear time; a pattern is recognised by its whole text. */
#ifndef TN_SCANNER_H
#define TN_SCANNER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes matched at p, 0 for no match; p < end, whole characters of valid UTF-8. `kinds`: see
 * tn_kinds_new. */
typedef size_t (*tn_scan_at)(const uint8_t *kinds, const uint8_t *p, const uint8_t *end);

typedef struct tn_scanner {
    const char *pattern;
    tn_scan_at match;
    uint8_t begin;    /* a match begins with a character of one of these kinds; 0: any */
    bool fails_whole; /* where it fails it fails for all characters of the run of that kind */
} tn_scanner;

extern const tn_scanner tn_scanners[];   /* the first is GPT-2's, that of ByteLevel */
extern const size_t tn_scanner_count;

const tn_scanner *tn_scanner_find(const char *pattern, size_t size); /* NULL: not known */

/* The leftmost match in text from `from` on; *start = SIZE_MAX: none. */
void tn_scanner_next(const tn_scanner *s, const uint8_t *kinds, const uint8_t *text,
                     size_t size, size_t from, size_t *start, size_t *stop);

#endif
