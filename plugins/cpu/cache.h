/* SPDX-License-Identifier: Apache-2.0 */
/* cache.h - the memory of sequences: paged keys and values, and states of recurrent layers.
 *
 * Paged cache, one array per attention layer:
 *
 *     layer     [block][head] pieces
 *     piece     K strips of 16 tokens, [k_dim][16] each, then V [block_tokens, v_dim]
 *
 * so one head's run of tokens is contiguous, and the blocks of a layer lie together. Where
 * block_tokens is no multiple of 16, the last strip has room for tokens that never come. States,
 * one array per recurrent layer: [slot] of S f32 [heads, k_dim, v_dim] then columns
 * f32 [keep, width], oldest column first - the neutral order of the contract - then, where
 * drafts are run, the raw inputs of pending rows f32 [1 + drafts_max, width | a | b], which S and
 * the columns have not seen: how many of them count is known only at the next step. */
#ifndef TN_CPU_CACHE_H
#define TN_CPU_CACHE_H

#include "cpu.h"

typedef struct cpu_cache {
    uint32_t heads, k_dim, v_dim;
    uint32_t tokens;          /* a block */
    uint32_t dtype;           /* TN_F16, TN_BF16, TN_F32 */
    uint32_t elem;            /* bytes an element */
    uint64_t k_size;          /* bytes of a piece's K */
    uint64_t piece_size;      /* bytes of one head of one block */
    uint8_t *data;            /* [nblock, heads] pieces */
} cpu_cache;

typedef struct cpu_state {
    uint32_t heads, k_dim, v_dim, width, keep;
    uint32_t pending_max;     /* rows a slot; 0: no drafts */
    uint64_t settled_floats;  /* S and columns */
    uint64_t slot_floats;
    float *data;              /* [nslot, slot_floats] */
} cpu_state;

void cpu_cache_init(cpu_cache *c, const tn_cache_spec *s, uint32_t tokens, uint32_t dtype);
uint64_t cpu_cache_block_size(const cpu_cache *c);
uint64_t cpu_cache_neutral_size(const cpu_cache *c);   /* of a block */

static inline uint8_t *cpu_cache_k(const cpu_cache *c, int32_t block, uint32_t head)
{
    return c->data + ((uint64_t)block * c->heads + head) * c->piece_size;
}

static inline uint8_t *cpu_cache_v(const cpu_cache *c, int32_t block, uint32_t head)
{
    return cpu_cache_k(c, block, head) + c->k_size;
}

/* Writes one token's K and V of one head. */
void cpu_cache_put(const cpu_cache *c, const cpu_kernels *k, int32_t block, uint32_t token,
                   uint32_t head, const float *key, const float *value);

void cpu_cache_copy(const cpu_cache *c, int32_t from, int32_t to);
/* To and from the neutral order; return the byte behind what was written or read. */
uint8_t *cpu_cache_read(const cpu_cache *c, int32_t block, uint8_t *out);
const uint8_t *cpu_cache_write(const cpu_cache *c, int32_t block, const uint8_t *in);

void cpu_state_init(cpu_state *s, const tn_state_spec *spec, uint32_t drafts_max);

static inline float *cpu_state_slot(const cpu_state *s, int32_t slot)
{
    return s->data + (uint64_t)slot * s->slot_floats;
}

static inline uint64_t cpu_state_pending_floats(const cpu_state *s)
{
    return (uint64_t)s->width + 2 * s->heads;
}

/* A pending row of a slot. */
static inline float *cpu_state_pending(const cpu_state *s, int32_t slot, uint32_t row)
{
    return cpu_state_slot(s, slot) + s->settled_floats + row * cpu_state_pending_floats(s);
}

#endif
