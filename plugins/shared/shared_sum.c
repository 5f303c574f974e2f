/* SPDX-License-Identifier: Apache-2.0 */
/* shared_sum.c - sums over ranks, in the order of the ranks, in fp32 (integers: modulo 2^32).
 *
 * Tiles of a fixed number of elements, because compilers make vectors of loops whose end they
 * know; the conversions have no branches for the same reason. A tile is the same code whatever
 * rank runs it, so every rank gets the same bits, NaNs included. */
#include "shared.h"

#define TILE 32u

static inline uint32_t bits_of(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static inline float float_of(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* Shifted into place, exponent and mantissa of a half are 2^-112 of its value; that is exact for
 * subnormals too. Infinities and NaNs get the greatest exponent. */
static inline float from_f16(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, a = (uint32_t)(h & 0x7fffu) << 13;
    uint32_t finite = bits_of(float_of(a) * 0x1p112f);
    return float_of(sign | (a >= 0x0f800000u ? a | 0x7f800000u : finite));
}

/* Below 2^-14 the sum with 0.5 rounds to a multiple of 2^-24, which is the subnormals' step. */
static inline uint16_t to_f16(float x)
{
    uint32_t u = bits_of(x), a = u & 0x7fffffffu;
    uint32_t small = bits_of(float_of(a) + 0.5f) - 0x3f000000u;
    uint32_t usual = (a - 0x38000000u + 0xfffu + (a >> 13 & 1u)) >> 13;
    uint32_t h = a < 0x38800000u ? small : usual;
    h = a >= 0x477ff000u ? 0x7c00u : h;
    h = a > 0x7f800000u ? 0x7e00u : h;
    return (uint16_t)(u >> 16 & 0x8000u) | (uint16_t)h;
}

static inline float from_bf16(uint16_t h)
{
    return float_of((uint32_t)h << 16);
}

static inline uint16_t to_bf16(float x)
{
    uint32_t u = bits_of(x), up = (u + 0x7fffu + (u >> 16 & 1u)) >> 16;
    return (uint16_t)((u & 0x7fffffffu) > 0x7f800000u ? u >> 16 | 0x40u : up);
}

static void tile_f32(const void *const *from, uint32_t n, uint64_t at, void *to)
{
    float sum[TILE];
    memcpy(sum, (const float *)from[0] + at, sizeof sum);
    for (uint32_t r = 1; r < n; r++) {
        const float *x = (const float *)from[r] + at;
        for (uint32_t i = 0; i < TILE; i++)
            sum[i] += x[i];
    }
    memcpy(to, sum, sizeof sum);
}

static void tile_i32(const void *const *from, uint32_t n, uint64_t at, void *to)
{
    uint32_t sum[TILE];
    memcpy(sum, (const uint32_t *)from[0] + at, sizeof sum);
    for (uint32_t r = 1; r < n; r++) {
        const uint32_t *x = (const uint32_t *)from[r] + at;
        for (uint32_t i = 0; i < TILE; i++)
            sum[i] += x[i];
    }
    memcpy(to, sum, sizeof sum);
}

static void tile_f16(const void *const *from, uint32_t n, uint64_t at, void *to)
{
    float sum[TILE];
    uint16_t *y = to;
    for (uint32_t i = 0; i < TILE; i++)
        sum[i] = from_f16(((const uint16_t *)from[0] + at)[i]);
    for (uint32_t r = 1; r < n; r++) {
        const uint16_t *x = (const uint16_t *)from[r] + at;
        for (uint32_t i = 0; i < TILE; i++)
            sum[i] += from_f16(x[i]);
    }
    for (uint32_t i = 0; i < TILE; i++)
        y[i] = to_f16(sum[i]);
}

static void tile_bf16(const void *const *from, uint32_t n, uint64_t at, void *to)
{
    float sum[TILE];
    uint16_t *y = to;
    for (uint32_t i = 0; i < TILE; i++)
        sum[i] = from_bf16(((const uint16_t *)from[0] + at)[i]);
    for (uint32_t r = 1; r < n; r++) {
        const uint16_t *x = (const uint16_t *)from[r] + at;
        for (uint32_t i = 0; i < TILE; i++)
            sum[i] += from_bf16(x[i]);
    }
    for (uint32_t i = 0; i < TILE; i++)
        y[i] = to_bf16(sum[i]);
}

typedef void (*tile_sum)(const void *const *from, uint32_t n, uint64_t at, void *to);

/* Whole tiles, then the odd elements in a tile of their own. */
static inline void add_up(tile_sum tile, uint32_t size, const void *const *from, uint32_t n,
                          void *to, uint64_t count)
{
    uint32_t last[SHARED_RANKS_MAX][TILE], sum[TILE];
    const void *at[SHARED_RANKS_MAX];
    uint64_t rest = count % TILE, whole = count - rest;
    for (uint64_t i = 0; i < whole; i += TILE)
        tile(from, n, i, (char *)to + i * size);
    if (rest == 0)
        return;
    for (uint32_t r = 0; r < n; r++) {
        memset(last[r], 0, sizeof last[r]);
        memcpy(last[r], (const char *)from[r] + whole * size, rest * size);
        at[r] = last[r];
    }
    tile(at, n, 0, sum);
    memcpy((char *)to + whole * size, sum, rest * size);
}

static void sum_f32(const void *const *from, uint32_t n, void *to, uint64_t count)
{
    add_up(tile_f32, 4, from, n, to, count);
}

static void sum_f16(const void *const *from, uint32_t n, void *to, uint64_t count)
{
    add_up(tile_f16, 2, from, n, to, count);
}

static void sum_bf16(const void *const *from, uint32_t n, void *to, uint64_t count)
{
    add_up(tile_bf16, 2, from, n, to, count);
}

static void sum_i32(const void *const *from, uint32_t n, void *to, uint64_t count)
{
    add_up(tile_i32, 4, from, n, to, count);
}

shared_sum shared_sum_of(uint32_t dtype)
{
    switch (dtype) {
    case TN_F32: return sum_f32;
    case TN_F16: return sum_f16;
    case TN_BF16: return sum_bf16;
    case TN_I32:
    case TN_U32: return sum_i32;
    default: return NULL;
    }
}

uint32_t shared_size_of(uint32_t dtype)
{
    static const uint8_t size[] = {
        [TN_F32] = 4, [TN_F16] = 2, [TN_BF16] = 2, [TN_F64] = 8, [TN_I8] = 1, [TN_U8] = 1,
        [TN_I16] = 2, [TN_U16] = 2, [TN_I32] = 4, [TN_U32] = 4, [TN_I64] = 8, [TN_U64] = 8,
        [TN_BOOL] = 1, [TN_F8_E4M3] = 1, [TN_F8_E5M2] = 1,
    };
    return dtype < sizeof size ? size[dtype] : 0;
}
