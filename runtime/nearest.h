/* SPDX-License-Identifier: Apache-2.0 */
/* nearest.h - the known name that a mistyped one most likely meant.
 *
 * The distance counts inserted, lost, changed and swapped letters; case and the difference
 * between '-' and '_' cost nothing. Words past 64 bytes are near nothing. */
#ifndef TN_NEAREST_H
#define TN_NEAREST_H

#include <stdbool.h>
#include <stdint.h>

typedef struct tn_nearest {
    const char *word;  /* borrowed */
    const char *best;  /* borrowed from the tries; NULL while nothing is near */
    uint32_t cost;
} tn_nearest;

void tn_nearest_open(tn_nearest *n, const char *word);
void tn_nearest_try(tn_nearest *n, const char *name);
/* Edits from a to b, at most `limit` + 1. */
uint32_t tn_nearest_distance(const char *a, const char *b, uint32_t limit);

#endif
