/* SPDX-License-Identifier: Apache-2.0 */
/* floats.h - the 16-bit float formats, one value at a time and in rows.
 *
 * Narrowing rounds to nearest, ties to even; infinities stay, a NaN stays a quiet NaN of the
 * same sign. Plain C without tables, so that every machine computes the same bits. */
#ifndef TN_FLOATS_H
#define TN_FLOATS_H

#include <stdint.h>
#include <string.h>
#include <stddef.h>

#define TN_F16_MAX 65504.0f

static inline float tn_bits_to_f32(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static inline uint32_t tn_f32_to_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static inline float tn_bf16_to_f32(uint16_t h)
{
    return tn_bits_to_f32((uint32_t)h << 16);
}

static inline uint16_t tn_f32_to_bf16(float f)
{
    uint32_t u = tn_f32_to_bits(f);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(u >> 16 | 0x40u);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

/* A subnormal half is its mantissa times 2^-24: the integer m placed into the mantissa of
 * 2^-1 (whose last place is 2^-24), minus that 2^-1, is exact. */
static inline float tn_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t body = (uint32_t)(h & 0x7fffu);
    if (body >= 0x7c00u) /* infinity, NaN (made quiet) */
        return tn_bits_to_f32(sign | 0x7f800000u | (body & 0x3ffu) << 13 |
                              (body > 0x7c00u ? 0x400000u : 0));
    if (body >= 0x400u)
        return tn_bits_to_f32(sign | ((body << 13) + (112u << 23)));
    float f = tn_bits_to_f32(0x3f000000u + body) - 0.5f;
    return tn_bits_to_f32(sign | tn_f32_to_bits(f));
}

static inline uint16_t tn_f32_to_f16(float f)
{
    uint32_t u = tn_f32_to_bits(f);
    uint16_t sign = (uint16_t)(u >> 16 & 0x8000u);
    u &= 0x7fffffffu;
    if (u > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | (u >> 13 & 0x3ffu));
    if (u >= 0x477ff000u) /* 65520: half-way between 65504 and the next step */
        return (uint16_t)(sign | 0x7c00u);
    if (u < 0x38800000u) { /* below 2^-14: adding 2^-1 lets the machine round at 2^-24 */
        float r = tn_bits_to_f32(u) + 0.5f;
        return (uint16_t)(sign | (tn_f32_to_bits(r) - 0x3f000000u));
    }
    u += 0xfffu + (u >> 13 & 1u);
    return (uint16_t)(sign | ((u >> 13) - (112u << 10)));
}

/* Rows. Sources and targets may be unaligned; they do not overlap. */
void tn_f16_row(const void *src, size_t n, float *out);   /* f16 -> f32 */
void tn_bf16_row(const void *src, size_t n, float *out);  /* bf16 -> f32 */
void tn_row_f16(const float *src, size_t n, void *out);   /* f32 -> f16 */
void tn_row_bf16(const float *src, size_t n, void *out);  /* f32 -> bf16 */

/* How many of n values are NaN or infinite: those whose exponent is all ones. */
uint64_t tn_f16_odd(const void *src, size_t n);
uint64_t tn_bf16_odd(const void *src, size_t n);
uint64_t tn_f32_odd(const void *src, size_t n);

#endif
