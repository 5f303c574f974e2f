/* SPDX-License-Identifier: Apache-2.0 */
/* awq_round.c - chooses scale, zero point and codes for one group of weights.
 *
 * Each file family has its own habits about the range a scale spans; they are kept, so that a
 * file written here is what its usual tool would have written. Codes are chosen against the
 * scale as it will be stored in 16 bits, never against the exact one. */
#include "awq.h"

#include <math.h>

#define SHRINK_STEPS 20u
#define SHRINK_UNIT 0.02f   /* each step narrows the range by this much */

float awq_from_half(uint32_t dtype, uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, rest = h & 0x7fffu, bits;
    float f;
    if (dtype == TN_BF16)
        bits = (uint32_t)h << 16;
    else if (rest < 0x0400u)
        return sign != 0 ? -(float)rest * 0x1p-24f : (float)rest * 0x1p-24f;
    else
        bits = sign | ((rest << 13) + (rest >= 0x7c00u ? 0x70000000u : 0x38000000u));
    memcpy(&f, &bits, sizeof f);
    return f;
}

uint16_t awq_to_half(uint32_t dtype, float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    if (dtype == TN_BF16)
        return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);
    float a = fabsf(v);
    if (!(a < 65520.0f))
        return (uint16_t)(sign | 0x7c00u);
    if (a < 0x1p-14f)
        return (uint16_t)(sign | (uint16_t)rintf(a * 0x1p24f));
    bits &= 0x7fffffffu;
    return (uint16_t)(sign | ((bits + 0xfffu + (bits >> 13 & 1u) - 0x38000000u) >> 13));
}

/* The greatest code. */
static float top(const awq_round *r)
{
    return (float)((1u << r->bits) - 1);
}

/* The exact scale for a group that spans lo .. hi. */
static float wanted_scale(const awq_round *r, float lo, float hi)
{
    float a = fmaxf(-lo, hi);
    switch (r->how) {
    case AWQ_ROUND_AWQ:
        return fmaxf(hi - lo, 1e-5f) / top(r);
    case AWQ_ROUND_AWQ_SYM:
        return fmaxf(a, 1e-5f) / 7.0f;
    case AWQ_ROUND_PACKED:
        return (fmaxf(hi, 0) - fminf(lo, 0)) / top(r);
    default:
        return a / (top(r) / 2);
    }
}

/* Rounds the scale to its type; false when it is too large. A scale that would round to
 * nothing becomes the least there is, and a group of zeros takes 1. */
static bool store_scale(const awq_round *r, float wanted, uint16_t *bits, float *scale)
{
    *bits = awq_to_half(r->scale_dtype, wanted > 0 ? wanted : 1.0f);
    if (*bits == 0)
        *bits = 1;
    *scale = awq_from_half(r->scale_dtype, *bits);
    return isfinite(*scale);
}

static float wanted_zero(const awq_round *r, float lo, float scale)
{
    float half = (top(r) + 1) / 2;
    switch (r->how) {
    case AWQ_ROUND_AWQ:
        return fminf(fmaxf(-rintf(lo / scale), 0), top(r));
    case AWQ_ROUND_PACKED:
        return fminf(fmaxf(rintf(-half - fminf(lo, 0) / scale), -half), half - 1) + half;
    default:
        return half;
    }
}

static float code_of(const awq_round *r, float w, float scale, float zero)
{
    return fminf(fmaxf(rintf(w / scale) + zero, 0), top(r));
}

static double group_error(const awq_round *r, const float *w, const float *importance,
                          uint64_t count, float scale, float zero)
{
    double sum = 0;
    for (uint64_t i = 0; i < count; i++) {
        double e = (double)((code_of(r, w[i], scale, zero) - zero) * scale) - (double)w[i];
        double a = importance != NULL ? (double)importance[i] : 1.0;
        sum += a * a * e * e;
    }
    return sum;
}

bool awq_round_group(const awq_round *r, const float *w, const float *importance,
                     uint64_t count, uint8_t *codes, uint16_t *scale, uint8_t *zero)
{
    float lo = w[0], hi = w[0], s, z, best_s = 0, best_z = 0;
    double best = HUGE_VAL;
    bool finite = true;
    for (uint64_t i = 0; i < count; i++) {
        finite = finite && isfinite(w[i]);
        lo = fminf(lo, w[i]);
        hi = fmaxf(hi, w[i]);
    }
    if (!finite)
        return false;
    for (uint32_t step = 0; step <= (r->search != 0 ? SHRINK_STEPS : 0); step++) {
        uint16_t bits;
        float p = 1.0f - (float)step * SHRINK_UNIT;
        if (!store_scale(r, wanted_scale(r, lo * p, hi * p), &bits, &s))
            return false;
        z = wanted_zero(r, lo * p, s);
        double e = r->search != 0 ? group_error(r, w, importance, count, s, z) : 0;
        if (step > 0 && !(e < best)) /* plain rounding stands, should no error be a number */
            continue;
        best = e;
        best_s = s;
        best_z = z;
        *scale = bits;
    }
    *zero = (uint8_t)best_z;
    for (uint64_t i = 0; i < count; i++)
        codes[i] = (uint8_t)code_of(r, w[i], best_s, best_z);
    return true;
}
