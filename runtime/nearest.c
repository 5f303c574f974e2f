/* SPDX-License-Identifier: Apache-2.0 */
/* nearest.c - the known name that a mistyped one most likely meant. */
#include "nearest.h"

#include <string.h>

#define WORD_MAX_BYTES 64u

static char folded(char c)
{
    if (c >= 'A' && c <= 'Z')
        return (char)(c - 'A' + 'a');
    return c == '_' ? '-' : c;
}

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

uint32_t tn_nearest_distance(const char *a, const char *b, uint32_t limit)
{
    size_t na = strnlen(a, WORD_MAX_BYTES + 1), nb = strnlen(b, WORD_MAX_BYTES + 1);
    uint32_t row[3][WORD_MAX_BYTES + 1];
    if (na > WORD_MAX_BYTES || nb > WORD_MAX_BYTES)
        return limit + 1;
    for (uint32_t j = 0; j <= nb; j++)
        row[0][j] = j;
    for (uint32_t i = 1; i <= na; i++) { /* row[i % 3] from the two before it */
        uint32_t *now = row[i % 3], *last = row[(i + 2) % 3], *before = row[(i + 1) % 3];
        now[0] = i;
        for (uint32_t j = 1; j <= nb; j++) {
            char ca = folded(a[i - 1]), cb = folded(b[j - 1]);
            now[j] = least(last[j - 1] + (ca != cb), least(last[j], now[j - 1]) + 1);
            if (i > 1 && j > 1 && ca == folded(b[j - 2]) && folded(a[i - 2]) == cb)
                now[j] = least(now[j], before[j - 2] + 1);
        }
    }
    return least(row[na % 3][nb], limit + 1);
}

void tn_nearest_open(tn_nearest *n, const char *word)
{
    /* More than a third of the letters wrong is another word, not a slip. */
    size_t size = strnlen(word, WORD_MAX_BYTES + 1);
    *n = (tn_nearest){.word = word, .cost = 2 + (uint32_t)size / 3};
}

void tn_nearest_try(tn_nearest *n, const char *name)
{
    uint32_t cost = tn_nearest_distance(n->word, name, n->cost);
    if (cost < n->cost) {
        n->cost = cost;
        n->best = name;
    }
}
