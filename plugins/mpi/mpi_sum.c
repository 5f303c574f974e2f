/* SPDX-License-Identifier: Apache-2.0 */
/* mpi_sum.c - sums over ranks, in the order of the ranks, in fp32 (integers: modulo 2^32).
 *
 * By tiles, so that compilers make vectors of the loops and the sums stay near. */
#include "mpi_group.h"

#define TILE 64u

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

/* In the place of an f32's bits, a half is 2^-112 of its value, subnormals included. */
static inline float from_f16(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, a = (uint32_t)(h & 0x7fffu) << 13;
    uint32_t finite = bits_of(float_of(a) * 0x1p112f);
    return float_of(sign | (a >= 0x0f800000u ? a | 0x7f800000u : finite));
}

static inline uint16_t to_f16(float x)
{
    uint32_t u = bits_of(x), a = u & 0x7fffffffu, sign = u >> 16 & 0x8000u;
    if (a > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u);
    if (a >= 0x477ff000u)                  /* 65520 and more */
        return (uint16_t)(sign | 0x7c00u);
    if (a < 0x38800000u)                   /* below 2^-14: steps of 2^-24, as beside 0.5 */
        return (uint16_t)(sign | (bits_of(float_of(a) + 0.5f) - 0x3f000000u));
    return (uint16_t)(sign | (a - 0x38000000u + 0xfffu + (a >> 13 & 1u)) >> 13);
}

static inline uint16_t to_bf16(float x)
{
    uint32_t u = bits_of(x);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(u >> 16 | 0x40u);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static void sum_f32(const void *const *from, uint32_t n, void *to, uint64_t count)
{
    for (uint64_t at = 0; at < count; at += TILE) {
        uint64_t m = least(TILE, count - at);
        float sum[TILE];
        memcpy(sum, (const float *)from[0] + at, m * sizeof *sum);
        for (uint32_t r = 1; r < n; r++)
            for (uint64_t i = 0; i < m; i++)
                sum[i] += ((const float *)from[r])[at + i];
        memcpy((float *)to + at, sum, m * sizeof *sum);
    }
}

static void sum_i32(const void *const *from, uint32_t n, void *to, uint64_t count)
{
    for (uint64_t at = 0; at < count; at += TILE) {
        uint64_t m = least(TILE, count - at);
        uint32_t sum[TILE];
        memcpy(sum, (const uint32_t *)from[0] + at, m * sizeof *sum);
        for (uint32_t r = 1; r < n; r++)
            for (uint64_t i = 0; i < m; i++)
                sum[i] += ((const uint32_t *)from[r])[at + i];
        memcpy((uint32_t *)to + at, sum, m * sizeof *sum);
    }
}

static void sum_f16(const void *const *from, uint32_t n, void *to, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        float sum = from_f16(((const uint16_t *)from[0])[i]);
        for (uint32_t r = 1; r < n; r++)
            sum += from_f16(((const uint16_t *)from[r])[i]);
        ((uint16_t *)to)[i] = to_f16(sum);
    }
}

static void sum_bf16(const void *const *from, uint32_t n, void *to, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        float sum = float_of((uint32_t)((const uint16_t *)from[0])[i] << 16);
        for (uint32_t r = 1; r < n; r++)
            sum += float_of((uint32_t)((const uint16_t *)from[r])[i] << 16);
        ((uint16_t *)to)[i] = to_bf16(sum);
    }
}

mpi_sum mpi_sum_of(uint32_t dtype)
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

uint32_t mpi_size_of(uint32_t dtype)
{
    static const uint8_t size[] = {
        [TN_F32] = 4, [TN_F16] = 2, [TN_BF16] = 2, [TN_F64] = 8, [TN_I8] = 1, [TN_U8] = 1,
        [TN_I16] = 2, [TN_U16] = 2, [TN_I32] = 4, [TN_U32] = 4, [TN_I64] = 8, [TN_U64] = 8,
        [TN_BOOL] = 1, [TN_F8_E4M3] = 1, [TN_F8_E5M2] = 1,
    };
    return dtype < sizeof size ? size[dtype] : 0;
}
