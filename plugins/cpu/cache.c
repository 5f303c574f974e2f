/* SPDX-License-Identifier: Apache-2.0 */
/* cache.c - the memory of sequences: layout, single tokens, whole blocks. */
#include "cache.h"

#define STRIP CPU_STRIP           /* tokens whose keys lie side by side */

void cpu_cache_init(cpu_cache *c, const tn_cache_spec *s, uint32_t tokens, uint32_t dtype)
{
    *c = (cpu_cache){.heads = s->heads, .k_dim = s->k_dim, .v_dim = s->v_dim,
                     .tokens = tokens, .dtype = dtype, .elem = dtype == TN_F32 ? 4 : 2};
    c->k_size = ((uint64_t)tokens + STRIP - 1) / STRIP * STRIP * s->k_dim * c->elem;
    c->piece_size = c->k_size + (uint64_t)tokens * s->v_dim * c->elem;
}

uint64_t cpu_cache_block_size(const cpu_cache *c)
{
    return c->heads * c->piece_size;
}

uint64_t cpu_cache_neutral_size(const cpu_cache *c)
{
    return (uint64_t)c->heads * c->tokens * (c->k_dim + c->v_dim) * c->elem;
}

/* ------------------------------------------------------------------------- single tokens */

static void convert(const cpu_cache *c, const cpu_kernels *k, const float *x, uint32_t n,
                    void *to)
{
    if (c->dtype == TN_F32)
        memcpy(to, x, n * sizeof *x);
    else if (c->dtype == TN_F16)
        k->to_f16(x, n, to);
    else
        k->to_bf16(x, n, to);
}

/* Where element 0 of a token's key lies; the next ones are STRIP elements apart. */
static uint8_t *key_at(const cpu_cache *c, int32_t block, uint32_t token, uint32_t head)
{
    uint64_t strip = token / STRIP, lane = token % STRIP;
    return cpu_cache_k(c, block, head) + (strip * c->k_dim * STRIP + lane) * c->elem;
}

/* The n elements of `row` to every STRIP-th place from `to` on. */
static void scatter(const cpu_cache *c, const uint8_t *row, uint32_t n, uint8_t *to)
{
    if (c->elem == 4)
        for (uint32_t d = 0; d < n; d++, row += 4, to += STRIP * 4)
            memcpy(to, row, 4);
    else
        for (uint32_t d = 0; d < n; d++, row += 2, to += STRIP * 2)
            memcpy(to, row, 2);
}

static void gather(const cpu_cache *c, const uint8_t *from, uint32_t n, uint8_t *row)
{
    if (c->elem == 4)
        for (uint32_t d = 0; d < n; d++, row += 4, from += STRIP * 4)
            memcpy(row, from, 4);
    else
        for (uint32_t d = 0; d < n; d++, row += 2, from += STRIP * 2)
            memcpy(row, from, 2);
}

void cpu_cache_put(const cpu_cache *c, const cpu_kernels *k, int32_t block, uint32_t token,
                   uint32_t head, const float *key, const float *value)
{
    uint8_t *to = key_at(c, block, token, head);
    float some[64];
    for (uint32_t d = 0, n; d < c->k_dim; d += n, to += n * STRIP * c->elem) {
        n = c->k_dim - d < 64 ? c->k_dim - d : 64;
        convert(c, k, key + d, n, some);
        scatter(c, (const uint8_t *)some, n, to);
    }
    convert(c, k, value, c->v_dim,
            cpu_cache_v(c, block, head) + (uint64_t)token * c->v_dim * c->elem);
}

/* -------------------------------------------------------------------------- whole blocks */

void cpu_cache_copy(const cpu_cache *c, int32_t from, int32_t to)
{
    if (from != to)
        memcpy(cpu_cache_k(c, to, 0), cpu_cache_k(c, from, 0), cpu_cache_block_size(c));
}

/* In the neutral order, token t of head h lies at data + (t * heads + h) * size, on one side
 * of a block after the other. */
uint8_t *cpu_cache_read(const cpu_cache *c, int32_t block, uint8_t *out)
{
    const uint64_t k_size = (uint64_t)c->k_dim * c->elem, v_size = (uint64_t)c->v_dim * c->elem;
    for (uint32_t t = 0; t < c->tokens; t++)
        for (uint32_t h = 0; h < c->heads; h++, out += k_size)
            gather(c, key_at(c, block, t, h), c->k_dim, out);
    for (uint32_t t = 0; t < c->tokens; t++)
        for (uint32_t h = 0; h < c->heads; h++, out += v_size)
            memcpy(out, cpu_cache_v(c, block, h) + t * v_size, v_size);
    return out;
}

const uint8_t *cpu_cache_write(const cpu_cache *c, int32_t block, const uint8_t *in)
{
    const uint64_t k_size = (uint64_t)c->k_dim * c->elem, v_size = (uint64_t)c->v_dim * c->elem;
    for (uint32_t t = 0; t < c->tokens; t++)
        for (uint32_t h = 0; h < c->heads; h++, in += k_size)
            scatter(c, in, c->k_dim, key_at(c, block, t, h));
    for (uint32_t t = 0; t < c->tokens; t++)
        for (uint32_t h = 0; h < c->heads; h++, in += v_size)
            memcpy(cpu_cache_v(c, block, h) + t * v_size, in, v_size);
    return in;
}

/* -------------------------------------------------------------------------------- states */

void cpu_state_init(cpu_state *s, const tn_state_spec *spec, uint32_t drafts_max)
{
    *s = (cpu_state){.heads = spec->heads, .k_dim = spec->k_dim, .v_dim = spec->v_dim,
                     .width = spec->conv_width, .keep = spec->conv_keep};
    s->pending_max = drafts_max > 0 ? 1 + drafts_max : 0;
    s->settled_floats = (uint64_t)s->heads * s->k_dim * s->v_dim + (uint64_t)s->keep * s->width;
    s->slot_floats = s->settled_floats + s->pending_max * cpu_state_pending_floats(s);
}
