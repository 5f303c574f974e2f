/* SPDX-License-Identifier: Apache-2.0 */
/* gptq_round.c - chooses scale, zero point and codes for one group of weights, with GPTQ's
 * habits: a range always contains 0, a symmetric one is mirrored.
 *
 * Codes are chosen against the scale as it will be stored in fp16, never the exact one. */
#include "gptq.h"

#include <math.h>

#define SHRINK_STEPS 20u
#define SHRINK_UNIT 0.02f   /* each step narrows the range by this much */

/* Nearest fp16, ties to even, of a positive number. */
static uint16_t to_half(float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    if (!(v < 65520.0f))
        return 0x7c00u;
    if (v < 0x1p-14f)
        return (uint16_t)rintf(v * 0x1p24f);
    return (uint16_t)((bits + 0xfffu + (bits >> 13 & 1u) - 0x38000000u) >> 13);
}

static float from_half(uint16_t h)
{
    uint32_t bits = ((uint32_t)h << 13) + 0x38000000u;
    float f;
    if (h < 0x0400u)
        return (float)h * 0x1p-24f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static float top(const gptq_round *r)
{
    return (float)((1u << r->bits) - 1);
}

/* Scale and zero point for a group that spans lo .. hi, 0 among it. */
static bool fit(const gptq_round *r, float lo, float hi, uint16_t *half, float *scale, float *zero)
{
    if (lo == 0 && hi == 0) {
        lo = -1;
        hi = 1;
    }
    if (r->symmetric) {
        hi = fmaxf(-lo, hi);
        lo = -hi;
    }
    *half = to_half((hi - lo) / top(r));
    if (*half == 0)
        *half = 1;
    if (*half == 0x7c00u)
        return false;
    *scale = from_half(*half);
    *zero = r->symmetric ? (top(r) + 1) / 2 : fminf(fmaxf(rintf(-lo / *scale), 0), top(r));
    return true;
}

float gptq_round_code(const gptq_round *r, float w, float scale, float zero)
{
    return fminf(fmaxf(rintf(w / scale) + zero, 0), top(r));
}

static double group_error(const gptq_round *r, const float *w, const float *importance,
                          uint64_t count, float scale, float zero)
{
    double sum = 0;
    for (uint64_t i = 0; i < count; i++) {
        double e = (double)((gptq_round_code(r, w[i], scale, zero) - zero) * scale) - (double)w[i];
        double a = importance != NULL ? (double)importance[i] : 1.0;
        sum += a * a * e * e;
    }
    return sum;
}

bool gptq_round_group(const gptq_round *r, const float *w, const float *importance,
                      uint64_t count, uint16_t *half, float *scale, float *zero)
{
    float lo = 0, hi = 0;
    double best = HUGE_VAL;
    for (uint64_t i = 0; i < count; i++) {
        if (!isfinite(w[i]))
            return false;
        lo = fminf(lo, w[i]);
        hi = fmaxf(hi, w[i]);
    }
    for (uint32_t step = 0; step <= (r->search != 0 ? SHRINK_STEPS : 0); step++) {
        uint16_t h;
        float s, z, p = 1.0f - (float)step * SHRINK_UNIT;
        if (!fit(r, lo * p, hi * p, &h, &s, &z))
            return false;
        double e = r->search != 0 ? group_error(r, w, importance, count, s, z) : 0;
        if (step > 0 && !(e < best)) /* plain rounding stands, should no error be a number */
            continue;
        best = e;
        *half = h;
        *scale = s;
        *zero = z;
    }
    return true;
}
