/* SPDX-License-Identifier: Apache-2.0 */
/* cache.c - the memory of sequences: layout, single tokens, whole blocks. */
#include "cache.h"

void cpu_cache_init(cpu_cache *c, const tn_cache_spec *s, uint32_t tokens, uint32_t dtype)
{
    *c = (cpu_cache){.heads = s->heads, .k_dim = s->k_dim, .v_dim = s->v_dim,
                     .tokens = tokens, .dtype = dtype, .elem = dtype == TN_F32 ? 4 : 2};
    c->piece_size = (uint64_t)tokens * (s->k_dim + s->v_dim) * c->elem;
}

uint64_t cpu_cache_block_size(const cpu_cache *c)
{
    return c->heads * c->piece_size;
}

static void put(const cpu_cache *c, const cpu_kernels *k, const float *x, uint32_t n, uint8_t *to)
{
    if (c->dtype == TN_F32)
        memcpy(to, x, n * sizeof *x);
    else if (c->dtype == TN_F16)
        k->to_f16(x, n, (uint16_t *)(void *)to);
    else
        k->to_bf16(x, n, (uint16_t *)(void *)to);
}

void cpu_cache_put(const cpu_cache *c, const cpu_kernels *k, int32_t block, uint32_t token,
                   uint32_t head, const float *key, const float *value)
{
    put(c, k, key, c->k_dim, cpu_cache_k(c, block, head) + (uint64_t)token * c->k_dim * c->elem);
    put(c, k, value, c->v_dim, cpu_cache_v(c, block, head) + (uint64_t)token * c->v_dim * c->elem);
}

void cpu_cache_copy(const cpu_cache *c, int32_t from, int32_t to)
{
    if (from != to)
        memcpy(cpu_cache_k(c, to, 0), cpu_cache_k(c, from, 0), cpu_cache_block_size(c));
}

/* One side of a block as rows: token t of head h lies at data + (t * heads + h) * size in the
 * neutral order. */
uint8_t *cpu_cache_read(const cpu_cache *c, int32_t block, uint8_t *out)
{
    for (uint32_t side = 0; side < 2; side++) {
        uint64_t size = (uint64_t)(side == 0 ? c->k_dim : c->v_dim) * c->elem;
        for (uint32_t t = 0; t < c->tokens; t++)
            for (uint32_t h = 0; h < c->heads; h++, out += size) {
                const uint8_t *piece = side == 0 ? cpu_cache_k(c, block, h)
                                                 : cpu_cache_v(c, block, h);
                memcpy(out, piece + t * size, size);
            }
    }
    return out;
}

const uint8_t *cpu_cache_write(const cpu_cache *c, int32_t block, const uint8_t *in)
{
    for (uint32_t side = 0; side < 2; side++) {
        uint64_t size = (uint64_t)(side == 0 ? c->k_dim : c->v_dim) * c->elem;
        for (uint32_t t = 0; t < c->tokens; t++)
            for (uint32_t h = 0; h < c->heads; h++, in += size) {
                uint8_t *piece = side == 0 ? cpu_cache_k(c, block, h) : cpu_cache_v(c, block, h);
                memcpy(piece + t * size, in, size);
            }
    }
    return in;
}

void cpu_state_init(cpu_state *s, const tn_state_spec *spec, uint32_t drafts_max)
{
    *s = (cpu_state){.heads = spec->heads, .k_dim = spec->k_dim, .v_dim = spec->v_dim,
                     .width = spec->conv_width, .keep = spec->conv_keep};
    s->pending_max = drafts_max > 0 ? 1 + drafts_max : 0;
    s->settled_floats = (uint64_t)s->heads * s->k_dim * s->v_dim + (uint64_t)s->keep * s->width;
    s->slot_floats = s->settled_floats + s->pending_max * cpu_state_pending_floats(s);
}
