/* SPDX-License-Identifier: Apache-2.0 */
/* arena.h - memory that is given back all at once.
 *
 * Blocks double from 4 KiB; what was taken stays valid until reset or close. One thread. */
#ifndef TN_ARENA_H
#define TN_ARENA_H

#include <stddef.h>

typedef struct tn_arena {
    struct tn_arena_block *head; /* owned, newest first */
    size_t used;                 /* bytes handed out */
    size_t max;                  /* ceiling on `used`; 0 = none */
} tn_arena;

void tn_arena_open(tn_arena *a, size_t max);
void tn_arena_close(tn_arena *a);
void tn_arena_reset(tn_arena *a);                 /* forget all, keep one block */
/* 16-byte aligned, zeroed; NULL when memory or the ceiling is reached. */
void *tn_arena_take(tn_arena *a, size_t size);
/* count * size with the overflow checked. */
void *tn_arena_array(tn_arena *a, size_t count, size_t size);
char *tn_arena_text(tn_arena *a, const char *text, size_t len); /* copy, NUL-terminated */

#endif
