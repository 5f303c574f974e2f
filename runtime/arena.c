/* SPDX-License-Identifier: Apache-2.0 */
/* arena.c - memory that is given back all at once. */
#include "arena.h"

#include <stdalign.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_LEAST 4096u
#define BLOCK_MOST ((size_t)1 << 20) /* doubling stops here: large blocks waste their tails */
#define ALIGN 16u

struct tn_arena_block {
    struct tn_arena_block *next;
    size_t size, used;
    alignas(ALIGN) unsigned char data[];
};

void tn_arena_open(tn_arena *a, size_t max)
{
    *a = (tn_arena){.max = max};
}

void tn_arena_close(tn_arena *a)
{
    for (struct tn_arena_block *b = a->head; b != NULL;) {
        struct tn_arena_block *next = b->next;
        free(b);
        b = next;
    }
    a->head = NULL;
    a->used = 0;
}

void tn_arena_reset(tn_arena *a)
{
    struct tn_arena_block *keep = a->head;
    if (keep == NULL)
        return;
    a->head = keep->next;
    tn_arena_close(a);
    keep->next = NULL;
    keep->used = 0;
    a->head = keep;
}

static struct tn_arena_block *block_new(tn_arena *a, size_t least)
{
    size_t size = a->head != NULL ? a->head->size * 2 : BLOCK_LEAST;
    if (size > BLOCK_MOST)
        size = BLOCK_MOST;
    if (size < least)
        size = least;
    struct tn_arena_block *b = malloc(sizeof *b + size);
    if (b == NULL)
        return NULL;
    b->size = size;
    b->used = 0;
    b->next = a->head;
    a->head = b;
    return b;
}

void *tn_arena_take(tn_arena *a, size_t size)
{
    if (size > SIZE_MAX / 2 || (a->max != 0 && size > a->max - a->used))
        return NULL;
    size_t room = (size + ALIGN - 1) & ~(size_t)(ALIGN - 1);
    struct tn_arena_block *b = a->head;
    if (b == NULL || b->size - b->used < room) {
        b = block_new(a, room);
        if (b == NULL)
            return NULL;
    }
    void *p = b->data + b->used;
    b->used += room;
    a->used += size;
    memset(p, 0, room);
    return p;
}

void *tn_arena_array(tn_arena *a, size_t count, size_t size)
{
    if (size != 0 && count > SIZE_MAX / size)
        return NULL;
    return tn_arena_take(a, count * size);
}

char *tn_arena_text(tn_arena *a, const char *text, size_t len)
{
    if (len == SIZE_MAX)
        return NULL;
    char *p = tn_arena_take(a, len + 1);
    if (p != NULL && len > 0)
        memcpy(p, text, len);
    return p;
}
