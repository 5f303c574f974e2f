/* SPDX-License-Identifier: Apache-2.0 */
/* wide_vector.h - the row-wise kernels of the vector levels: norm, activations, rope,
 * conversions, and the searches over logits. Written in lanes of one width.
 *
 * exp is a polynomial of degree 6 around the nearest power of two, within 2 ulp, right down
 * to the smallest subnormal. Nothing here calls libm inside a loop. */
#ifndef TN_CPU_WIDE_VECTOR_H
#define TN_CPU_WIDE_VECTOR_H

#include "kernel.h"

#include <math.h>

/* The first n lanes of memory; all when n is LANES. */
WIDE vf part_load(const float *p, uint32_t n)
{
    return n == LANES ? f_load(p) : f_load_n(p, n);
}

WIDE void part_store(float *p, uint32_t n, vf v)
{
    if (n == LANES)
        f_store(p, v);
    else
        f_store_n(p, n, v);
}

/* e^x. NaN stays NaN, +inf gives +inf, what is below the smallest subnormal gives 0. */
WIDE vf f_exp(vf x)
{
    x = f_min(f_set(89.0f), f_max(f_set(-104.0f), x)); /* in this order NaN survives */
    vf n = f_round(f_mul(x, f_set(1.44269504f)));
    vf r = f_fnma(n, f_set(0.693359375f), x);          /* ln 2 = 0.693359375 - 2.12194e-4 */
    r = f_fnma(n, f_set(-2.12194440e-4f), r);
    vf p = f_set(1.392632562e-3f);
    p = f_fma(p, r, f_set(8.363292753e-3f));
    p = f_fma(p, r, f_set(4.166655376e-2f));
    p = f_fma(p, r, f_set(1.666657631e-1f));
    p = f_fma(p, r, f_set(0.5f));
    p = f_fma(f_mul(p, r), r, r);
    p = f_add(p, f_set(1.0f));
    /* 2^n in two factors: n from -150 to 128 does not fit one exponent */
    vi i = i_from_f(n), half = i_right_signed(i, 1), bias = i_set(127);
    vf a = f_bits(i_left(i_add(half, bias), 23));
    vf b = f_bits(i_left(i_add(i_sub(i, half), bias), 23));
    return f_mul(f_mul(p, a), b);
}

WIDE vf f_sigmoid(vf x)
{
    return f_div(f_set(1.0f), f_add(f_set(1.0f), f_exp(f_sub(f_zero(), x))));
}

/* erfc(z) / t for z >= 0, with t = 1 / (1 + z / 2): exp(-z^2 + P(t)), P of degree 9 fitted
 * where erfc does not vanish in f32. Relative error below 1e-5 where it counts. */
WIDE vf f_erfc_positive(vf z)
{
    vf t = f_div(f_set(1.0f), f_fma(z, f_set(0.5f), f_set(1.0f)));
    vf p = f_set(0.162216509f);
    p = f_fma(p, t, f_set(-0.7735308569f));
    p = f_fma(p, t, f_set(1.371054795f));
    p = f_fma(p, t, f_set(-0.9757168795f));
    p = f_fma(p, t, f_set(0.1454376762f));
    p = f_fma(p, t, f_set(-0.11539792f));
    p = f_fma(p, t, f_set(0.07304037724f));
    p = f_fma(p, t, f_set(0.3788860683f));
    p = f_fma(p, t, f_set(0.9994990129f));
    p = f_fma(p, t, f_set(-1.26548872f));
    return f_mul(t, f_exp(f_fnma(z, z, p)));
}

WIDE vf f_gelu(vf x)   /* x / 2 erfc(-x / sqrt 2) */
{
    vf z = f_mul(f_abs(x), f_set(0.70710678f));
    vf tail = f_mul(f_set(0.5f), f_erfc_positive(z));
    return f_mul(x, f_pick_less(x, f_zero(), tail, f_sub(f_set(1.0f), tail)));
}

WIDE vf f_act(vf x, const uint32_t act)
{
    if (act == TN_ACT_GELU)
        return f_gelu(x);
    if (act == TN_ACT_GELU_TANH) {
        vf cube = f_mul(f_mul(x, x), x);
        vf u = f_mul(f_set(1.59576912f), f_fma(cube, f_set(0.044715f), x));
        return f_mul(x, f_sigmoid(u));
    }
    if (act == TN_ACT_SILU)
        return f_div(x, f_add(f_set(1.0f), f_exp(f_sub(f_zero(), x))));
    return f_sigmoid(x);
}

WIDE void act_mul_of(const float *a, const float *b, const uint32_t act, uint32_t n, float *out)
{
    uint32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        f_store(out + i, f_mul(f_act(f_load(a + i), act), f_load(b + i)));
    if (i < n) {
        vf y = f_mul(f_act(f_load_n(a + i, n - i), act), f_load_n(b + i, n - i));
        f_store_n(out + i, n - i, y);
    }
}

static void wide_act_mul(const float *a, const float *b, uint32_t act, uint32_t n, float *out)
{
    switch (act) {
    case TN_ACT_SILU: act_mul_of(a, b, TN_ACT_SILU, n, out); break;
    case TN_ACT_GELU: act_mul_of(a, b, TN_ACT_GELU, n, out); break;
    case TN_ACT_GELU_TANH: act_mul_of(a, b, TN_ACT_GELU_TANH, n, out); break;
    default: act_mul_of(a, b, TN_ACT_SIGMOID, n, out); break;
    }
}

static void wide_mul_sigmoid(float *x, const float *gate, uint32_t n)
{
    uint32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        f_store(x + i, f_mul(f_load(x + i), f_sigmoid(f_load(gate + i))));
    if (i < n) {
        vf y = f_mul(f_load_n(x + i, n - i), f_sigmoid(f_load_n(gate + i, n - i)));
        f_store_n(x + i, n - i, y);
    }
}

static void wide_add(float *x, const float *y, uint32_t n)
{
    uint32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        f_store(x + i, f_add(f_load(x + i), f_load(y + i)));
    if (i < n)
        f_store_n(x + i, n - i, f_add(f_load_n(x + i, n - i), f_load_n(y + i, n - i)));
}

/* Squares are summed in double: rows of any finite f32 have a finite norm. */
static double sum_squares(const float *x, uint32_t n)
{
    vd a = d_zero(), b = d_zero();
    uint32_t i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        a = d_add_square(a, f_load(x + i));
        b = d_add_square(b, f_load(x + i + LANES));
    }
    for (; i + LANES <= n; i += LANES)
        a = d_add_square(a, f_load(x + i));
    if (i < n)
        a = d_add_square(a, f_load_n(x + i, n - i));
    return d_sum(a) + d_sum(b);
}

WIDE vf norm_lanes(vf x, vf factor, vf w, const bool has_w, vf offset)
{
    x = f_mul(x, factor);
    return has_w ? f_mul(x, f_add(w, offset)) : x;
}

static void wide_norm(const float *x, const float *w, float offset, float eps, uint32_t n,
                      float *out)
{
    const bool has_w = w != NULL;
    double mean = sum_squares(x, n) / (double)n;
    vf factor = f_set((float)(1.0 / sqrt(mean + (double)eps))), off = f_set(offset);
    uint32_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vf wi = has_w ? f_load(w + i) : f_zero();
        f_store(out + i, norm_lanes(f_load(x + i), factor, wi, has_w, off));
    }
    if (i < n) {
        vf wi = has_w ? f_load_n(w + i, n - i) : f_zero();
        f_store_n(out + i, n - i, norm_lanes(f_load_n(x + i, n - i), factor, wi, has_w, off));
    }
}

/* Fused as the vector code fuses, so that a pair turns the same wherever it lies. */
static void rotate(float *p, float *q, float c, float s)
{
    float a = *p, b = *q;
    *p = fmaf(-b, s, a * c);
    *q = fmaf(a, s, b * c);
}

static void wide_rope(float *x, const float *cos, const float *sin, uint32_t dims,
                      uint32_t pairing)
{
    uint32_t half = dims / 2, i = 0;
    if (pairing != TN_ROPE_HALF) {
        for (; i < half; i++)
            rotate(x + 2 * i, x + 2 * i + 1, cos[i], sin[i]);
        return;
    }
    for (; i + LANES <= half; i += LANES) {
        vf a = f_load(x + i), b = f_load(x + half + i), c = f_load(cos + i), s = f_load(sin + i);
        f_store(x + i, f_fnma(b, s, f_mul(a, c)));
        f_store(x + half + i, f_fma(a, s, f_mul(b, c)));
    }
    for (; i < half; i++)
        rotate(x + i, x + half + i, cos[i], sin[i]);
}

/* --------------------------------------------------------------------- conversions */

static void wide_to_f16(const float *x, uint32_t n, uint16_t *out)
{
    uint32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        f_store_f16(out + i, f_load(x + i));
    if (i < n) {
        uint16_t some[LANES];
        f_store_f16(some, f_load_n(x + i, n - i));
        memcpy(out + i, some, (n - i) * sizeof *out);
    }
}

static void wide_to_bf16(const float *x, uint32_t n, uint16_t *out)
{
    uint32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        f_store_bf16(out + i, f_load(x + i));
    if (i < n) {
        uint16_t some[LANES];
        f_store_bf16(some, f_load_n(x + i, n - i));
        memcpy(out + i, some, (n - i) * sizeof *out);
    }
}

/* ------------------------------------------------------------------ over the logits */

static float wide_max(const float *x, uint32_t n, uint32_t *at)
{
    vf top = f_set(-INFINITY), next = top;
    uint32_t i = 0, body = n / LANES * LANES;
    for (; i + 2 * LANES <= body; i += 2 * LANES) {
        top = f_max(f_load(x + i), top);       /* NaN loses */
        next = f_max(f_load(x + i + LANES), next);
    }
    if (i < body)
        top = f_max(f_load(x + i), top);
    float most = f_top(f_max(next, top));
    for (i = body; i < n; i++)
        if (x[i] > most)
            most = x[i];
    *at = 0;
    for (i = 0; i < body; i += LANES) {
        uint32_t hit = f_equal(f_load(x + i), f_set(most));
        if (hit != 0) {
            *at = i + (uint32_t)__builtin_ctz(hit);
            return most;
        }
    }
    for (; i < n; i++)
        if (x[i] == most) {
            *at = i;
            return most;
        }
    return most;
}

static double wide_sum_exp(const float *x, float max, uint32_t n)
{
    vd sum = d_zero();
    vf top = f_set(max);
    uint32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        sum = d_add(sum, f_exp(f_sub(f_load(x + i), top)));
    if (i < n) {
        float some[LANES];
        for (uint32_t j = 0; j < LANES; j++)
            some[j] = i + j < n ? x[i + j] : -INFINITY;
        sum = d_add(sum, f_exp(f_sub(f_load(some), top)));
    }
    return d_sum(sum);
}

static bool wide_finite(const float *x, uint32_t n)
{
    const vf limit = f_set(INFINITY);
    bool fine = true;
    uint32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        fine = fine && f_all_less(f_load(x + i), limit);
    for (; i < n; i++)
        fine = fine && x[i] < INFINITY;
    return fine;
}

static uint64_t sum_words(vi v)
{
    uint64_t word[sizeof(vi) / 8], sum = 0;
    i_store(word, v);
    for (unsigned i = 0; i < sizeof(vi) / 8; i++)
        sum += word[i];
    return sum;
}

static uint64_t wide_read(const void *p, size_t size)
{
    const uint8_t *b = p;
    vi s[4] = {i_zero(), i_zero(), i_zero(), i_zero()};
    for (; size >= 4 * sizeof(vi); size -= 4 * sizeof(vi), b += 4 * sizeof(vi)) {
        fetch(b + 4096);
        fetch(b + 4096 + 64);
        UNROLL for (unsigned i = 0; i < 4; i++)
            s[i] = i_add64(s[i], i_load(b + i * sizeof(vi)));
    }
    uint64_t sum = sum_words(i_add64(i_add64(s[0], s[1]), i_add64(s[2], s[3]))), word;
    for (; size >= sizeof word; size -= sizeof word, b += sizeof word) {
        memcpy(&word, b, sizeof word);
        sum += word;
    }
    while (size-- > 0)
        sum += *b++;
    return sum;
}

#endif
