/* SPDX-License-Identifier: Apache-2.0 */
/* newer.h - characters that our tables know and PCRE2's do not.
 *
 * PCRE2 comes with the machine and may follow an older Unicode. What it takes for unassigned
 * is spelled out in the patterns that it gets, so that \p{L} means the same everywhere. */
#ifndef TN_NEWER_H
#define TN_NEWER_H

#include <stdbool.h>
#include <stdint.h>

typedef struct tn_newer_range {
    uint32_t from, to;  /* both inside */
    uint32_t category;  /* TN_UC_ */
} tn_newer_range;

typedef struct tn_newer {
    tn_newer_range *range; /* owned */
    uint32_t n, cap;
} tn_newer;

bool tn_newer_open(tn_newer *w); /* false when memory is short */
void tn_newer_close(tn_newer *w);

#endif
