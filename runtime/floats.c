/* SPDX-License-Identifier: Apache-2.0 */
/* floats.c - rows of 16-bit floats to and from f32. */
#include "floats.h"

void tn_f16_row(const void *src, size_t n, float *out)
{
    const char *p = src;
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, p + 2 * i, sizeof h);
        out[i] = tn_f16_to_f32(h);
    }
}

void tn_bf16_row(const void *src, size_t n, float *out)
{
    const char *p = src;
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, p + 2 * i, sizeof h);
        out[i] = tn_bf16_to_f32(h);
    }
}

static uint64_t odd_halves(const char *p, size_t n, uint16_t exponent)
{
    uint64_t odd = 0;
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, p + 2 * i, sizeof h);
        odd += (h & exponent) == exponent;
    }
    return odd;
}

uint64_t tn_f16_odd(const void *src, size_t n)
{
    return odd_halves(src, n, 0x7c00);
}

uint64_t tn_bf16_odd(const void *src, size_t n)
{
    return odd_halves(src, n, 0x7f80);
}

uint64_t tn_f32_odd(const void *src, size_t n)
{
    const char *p = src;
    uint64_t odd = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t v;
        memcpy(&v, p + 4 * i, sizeof v);
        odd += (v & 0x7f800000) == 0x7f800000;
    }
    return odd;
}

void tn_row_f16(const float *src, size_t n, void *out)
{
    char *p = out;
    for (size_t i = 0; i < n; i++) {
        uint16_t h = tn_f32_to_f16(src[i]);
        memcpy(p + 2 * i, &h, sizeof h);
    }
}

void tn_row_bf16(const float *src, size_t n, void *out)
{
    char *p = out;
    for (size_t i = 0; i < n; i++) {
        uint16_t h = tn_f32_to_bf16(src[i]);
        memcpy(p + 2 * i, &h, sizeof h);
    }
}
