/* SPDX-License-Identifier: Apache-2.0 */
/* half16.h - the two 16-bit float formats in plain C, for packing and for the scalar level.
 *
 * f16: 1 sign, 5 exponent, 10 mantissa bits (IEEE binary16). bf16: the upper half of an f32.
 * Rounding is to nearest, ties to even. NaN stays NaN. */
#ifndef TN_CPU_HALF16_H
#define TN_CPU_HALF16_H

#include <stdint.h>
#include <string.h>

static inline uint32_t half_bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static inline float half_float(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static inline float half_from_bf16(uint16_t h)
{
    return half_float((uint32_t)h << 16);
}

static inline uint16_t half_to_bf16(float x)
{
    uint32_t u = half_bits(x);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(u >> 16 | 0x40u);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

static inline float half_from_f16(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, e = h >> 10 & 31u, m = h & 0x3ffu;
    if (e == 31)
        return half_float(sign | 0x7f800000u | m << 13 | (m != 0 ? 0x400000u : 0));
    if (e == 0) {                          /* subnormal: m * 2^-24, exact in f32 */
        float x = (float)m * 0x1p-24f;
        return half_float(sign | half_bits(x));
    }
    return half_float(sign | (e + 112u) << 23 | m << 13);
}

static inline uint16_t half_to_f16(float x)
{
    uint32_t u = half_bits(x), sign = u >> 16 & 0x8000u, a = u & 0x7fffffffu;
    if (a > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | (a >> 13 & 0x3ffu));
    if (a >= 0x477ff000u)                  /* 65520 and more round to infinity */
        return (uint16_t)(sign | 0x7c00u);
    if (a < 0x38800000u) {                 /* below 2^-14: adding 0.5 rounds to m * 2^-24 */
        float y = half_float(a) + 0.5f;
        return (uint16_t)(sign | (half_bits(y) - 0x3f000000u));
    }
    a += 0xc8000000u + 0xfffu + (a >> 13 & 1u); /* rebias by -112 and round */
    return (uint16_t)(sign | a >> 13);
}

#endif
