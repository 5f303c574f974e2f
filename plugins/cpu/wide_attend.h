/* SPDX-License-Identifier: Apache-2.0 */
/* wide_attend.h - attention of query rows over one run of cached tokens, in lanes.
 *
 * Up to four queries form a tile that reads every key and value once. Tokens come in pieces
 * of 32 counted from the run's start: scores of a piece, one step of the online softmax, then
 * the weighted values token by token. A query's result depends on its own tokens only, in the
 * same order with the same roundings, however queries are grouped: scores are reduced by one
 * fixed tree, and tokens that only some queries of a tile see are added query by query, never
 * with weight zero, so that a NaN behind a query's limit cannot reach it. */
#ifndef TN_CPU_WIDE_ATTEND_H
#define TN_CPU_WIDE_ATTEND_H

#include "kernel.h"
#include "wide_vector.h"

#define PIECE 32
#define QUERIES 4

/* One tile and one piece. Token numbers count from t0. */
typedef struct piece {
    const cpu_attend *a;
    uint32_t query0;
    uint32_t t0, ntoken;               /* tokens that some query of the tile sees end here */
    int32_t from[QUERIES], to[QUERIES]; /* visible tokens [from, to) of the piece */
    float keep[QUERIES];               /* factor of what was summed before */
    float p[QUERIES][PIECE + 8];       /* scores, then weights */
} piece;

WIDE uint32_t cache_size(const uint32_t dtype)
{
    return dtype == TN_F32 ? 4 : 2;
}

/* Lanes of one token from element d on. */
WIDE vf cache_load(const uint32_t dtype, const uint8_t *token, size_t d)
{
    if (dtype == TN_F32)
        return f_load((const float *)token + d);
    const uint16_t *h = (const uint16_t *)token + d;
    return dtype == TN_F16 ? f_load_f16(h) : f_load_bf16(h);
}

/* The last 8 elements of a head, where a vector has 16 lanes. */
WIDE vf cache_load_8(const uint32_t dtype, const uint8_t *token, size_t d)
{
    if (dtype == TN_F32)
        return f_load_n((const float *)token + d, 8);
    uint16_t h[LANES] = {0};
    memcpy(h, (const uint16_t *)token + d, 8 * sizeof h[0]);
    return dtype == TN_F16 ? f_load_f16(h) : f_load_bf16(h);
}

/* ------------------------------------------------------------------------- scores */

/* What the score loops need, in registers: stores of scores could change what lies behind a
 * pointer for all the compiler knows. */
typedef struct scoring {
    size_t dim, step;          /* step: bytes from token to token */
    const float *q;            /* the tile's first query */
    const uint8_t *k;          /* the piece's first token */
    float *p;                  /* scores, PIECE + 8 a query */
} scoring;

/* nq queries against nt tokens from t on; tokens past `last` are read as `last`. */
WIDE void score_block(const int nq, const int nt, const uint32_t dtype, const scoring x,
                      uint32_t t, uint32_t last)
{
    const size_t body = x.dim / LANES * LANES;
    const uint8_t *k[8];
    vf s[8];
    float out[8];
    UNROLL for (int i = 0; i < 8; i++)
        s[i] = f_zero();
    UNROLL for (int j = 0; j < nt; j++)
        k[j] = x.k + (t + (uint32_t)j < last ? t + (uint32_t)j : last) * x.step;
    for (size_t d = 0; d < body; d += LANES) {
        vf kj[8];
        UNROLL for (int j = 0; j < nt; j++)
            kj[j] = cache_load(dtype, k[j], d);
        UNROLL for (int i = 0; i < nq; i++) {
            vf qi = f_held(f_load(x.q + (size_t)i * x.dim + d));
            UNROLL for (int j = 0; j < nt; j++)
                s[i * nt + j] = f_fma(qi, kj[j], s[i * nt + j]);
        }
    }
    if (LANES > 8 && body < x.dim)
        UNROLL for (int i = 0; i < nq; i++)
            UNROLL for (int j = 0; j < nt; j++)
                s[i * nt + j] = f_fma(f_load_n(x.q + (size_t)i * x.dim + body, 8),
                                      cache_load_8(dtype, k[j], body), s[i * nt + j]);
    f_store_sums8(out, s);
    UNROLL for (int i = 0; i < nq; i++)
        memcpy(x.p + i * (PIECE + 8) + t, out + i * nt, (size_t)nt * sizeof out[0]);
}

WIDE void scores(const int nq, const uint32_t dtype, piece *c)
{
    const cpu_attend *a = c->a;
    const uint32_t nt = nq == 3 ? 2 : 8 / nq, last = c->ntoken - 1;
    const size_t step = (size_t)a->stride * cache_size(dtype);
    const scoring x = {a->dim, step, a->q + (size_t)c->query0 * a->dim,
                       (const uint8_t *)a->k + c->t0 * step, c->p[0]};
    uint32_t t = 0;
    for (; t + nt <= c->ntoken; t += nt)
        score_block(nq, (int)nt, dtype, x, t, UINT32_MAX);
    if (t <= last)
        score_block(nq, (int)nt, dtype, x, t, last);
}

/* ------------------------------------------------------------------------- softmax */

/* s = softcap * tanh(s * scale / softcap) over the piece. */
static void cap_scores(piece *c, uint32_t nq)
{
    const vf cap = f_set(c->a->softcap), one = f_set(1.0f);
    const vf twice = f_set(2.0f * c->a->scale / c->a->softcap);
    for (uint32_t i = 0; i < nq; i++)
        for (unsigned v = 0; v < PIECE; v += LANES) {
            vf e = f_exp(f_mul(f_load(c->p[i] + v), twice));
            vf tanh = f_sub(one, f_div(f_set(2.0f), f_add(e, one)));
            f_store(c->p[i] + v, f_mul(cap, tanh));
        }
}

/* e^x for x <= 0 as weights need it: 0 below -87, no subnormals. 2^r by a polynomial. */
WIDE vf f_exp_below(vf x)
{
    vf t = f_mul(x, f_set(1.44269504f)), n = f_round(t), r = f_sub(t, n);
    vf p = f_set(1.545326241e-4f);
    p = f_fma(p, r, f_set(1.339097825e-3f));
    p = f_fma(p, r, f_set(9.618082371e-3f));
    p = f_fma(p, r, f_set(5.550356899e-2f));
    p = f_fma(p, r, f_set(2.402265076e-1f));
    p = f_fma(p, r, f_set(6.931471881e-1f));
    p = f_fma(p, r, f_set(1.0f));
    p = f_bits(i_add(i_bits(p), i_left(i_from_f(n), 23)));
    return f_pick_less(x, f_set(-87.0f), f_zero(), p);
}

/* Scales and masks query i's scores and gives the largest so far. */
WIDE float soften_scores(piece *c, uint32_t i, float scale)
{
    const vf none = f_set(-INFINITY), factor = f_set(scale);
    vf most = none;
    UNROLL for (unsigned v = 0; v < PIECE / LANES; v++) {
        vf s = f_mul(f_load(c->p[i] + v * LANES), factor);
        if (c->from[i] > 0 || c->to[i] < PIECE) {
            vf at = f_add(f_count(), f_set((float)(v * LANES)));
            s = f_pick_less(at, f_set((float)c->from[i]), none, s);
            s = f_pick_less(at, f_set((float)c->to[i]), s, none);
        }
        f_store(c->p[i] + v * LANES, s);
        most = f_max(s, most);
    }
    float top = f_top(most), before = c->a->m[c->query0 + i];
    return top > before ? top : before;
}

/* Turns scores into weights relative to `base` and gives their sum. */
WIDE float soften_weights(piece *c, uint32_t i, float base)
{
    vf sum = f_zero();
    UNROLL for (unsigned v = 0; v < PIECE / LANES; v++) {
        vf p = f_exp_below(f_sub(f_load(c->p[i] + v * LANES), f_set(base)));
        f_store(c->p[i] + v * LANES, p);
        sum = f_add(sum, p);
    }
    return f_sum(sum);
}

/* The online softmax of a piece: weights, and how far each query's maximum rose. Two loops,
 * since the chain of one query alone would keep the processor waiting. */
static void soften(piece *c, uint32_t nq)
{
    float *m = c->a->m + c->query0, *l = c->a->l + c->query0, scale = c->a->scale;
    float rise[LANES] = {0}, base[QUERIES];
    if (c->a->softcap > 0.0f) {
        cap_scores(c, nq);
        scale = 1.0f;
    }
    for (uint32_t i = 0; i < nq; i++) {
        float top = soften_scores(c, i, scale);
        base[i] = top > -INFINITY ? top : 0.0f;
        rise[i] = m[i] - base[i];
        m[i] = top;
    }
    f_store(rise, f_exp(f_load(rise)));
    for (uint32_t i = 0; i < nq; i++) {
        c->keep[i] = rise[i];
        l[i] = l[i] * rise[i] + soften_weights(c, i, base[i]);
    }
}

/* -------------------------------------------------------------------------- values */

/* acc[i] += p[i][t] * v[t] for tokens [t, end), nq queries from i0 on, vectors [d, d + nv). */
WIDE void add_values(const int nq, const int nv, const uint32_t dtype, const piece *c,
                     uint32_t i0, int32_t t, int32_t end, size_t d, vf acc[][2])
{
    const size_t step = (size_t)c->a->stride * cache_size(dtype);
    const uint8_t *row = (const uint8_t *)c->a->v + (c->t0 + (size_t)t) * step +
                         d * cache_size(dtype);
    const bool whole = LANES == 8 || d + (size_t)nv * LANES <= c->a->dim;
    for (; t < end; t++, row += step) {
        vf v[2];
        UNROLL for (int n = 0; n < nv; n++)
            v[n] = whole ? cache_load(dtype, row, (size_t)n * LANES)
                         : cache_load_8(dtype, row, (size_t)n * LANES);
        UNROLL for (int i = 0; i < nq; i++) {
            vf p = f_copy(&c->p[i0 + (uint32_t)i][t]);
            UNROLL for (int n = 0; n < nv; n++)
                acc[i][n] = f_fma(p, v[n], acc[i][n]);
        }
    }
}

WIDE vf part_load(const float *p, size_t left)
{
    return LANES == 8 || left >= LANES ? f_load(p) : f_load_n(p, (uint32_t)left);
}

WIDE void part_store(float *p, size_t left, vf v)
{
    if (LANES == 8 || left >= LANES)
        f_store(p, v);
    else
        f_store_n(p, (uint32_t)left, v);
}

/* acc = acc * keep + tokens [t, end). */
WIDE void values_at(const int nq, const int nv, const uint32_t dtype, const piece *c,
                    uint32_t i0, int32_t t, int32_t end, size_t d)
{
    const size_t dim = c->a->dim;
    float *to = c->a->acc + (c->query0 + i0) * dim + d;
    vf acc[QUERIES][2];
    UNROLL for (int i = 0; i < nq; i++)
        UNROLL for (int n = 0; n < nv; n++)
            acc[i][n] = f_mul(part_load(to + (size_t)i * dim + n * LANES, dim - d - n * LANES),
                              f_set(c->keep[i0 + (uint32_t)i]));
    add_values(nq, nv, dtype, c, i0, t, end, d, acc);
    UNROLL for (int i = 0; i < nq; i++)
        UNROLL for (int n = 0; n < nv; n++)
            part_store(to + (size_t)i * dim + n * LANES, dim - d - n * LANES, acc[i][n]);
}

WIDE void values_of(const int nq, const uint32_t dtype, const piece *c, uint32_t i0, int32_t t,
                    int32_t end)
{
    size_t d = 0;
    for (; d + 2 * LANES <= c->a->dim; d += 2 * LANES)
        values_at(nq, 2, dtype, c, i0, t, end, d);
    for (; d < c->a->dim; d += LANES)
        values_at(nq, 1, dtype, c, i0, t, end, d);
}

/* Tokens [t, end) that query i sees and not all of its tile, if any; what came before them is
 * scaled then. */
static void ragged(piece *c, uint32_t dtype, uint32_t i, int32_t t, int32_t end)
{
    if (t >= end)
        return;
    switch (dtype) {
    case TN_F32: values_of(1, TN_F32, c, i, t, end); break;
    case TN_F16: values_of(1, TN_F16, c, i, t, end); break;
    default: values_of(1, TN_BF16, c, i, t, end); break;
    }
    c->keep[i] = 1.0f;
}

/* Tokens that all queries of the tile see lie between `all` and `end`. */
WIDE void values(const int nq, const uint32_t dtype, piece *c)
{
    int32_t all = 0, end = PIECE;
    for (int i = 0; i < nq; i++) {
        all = c->from[i] > all ? c->from[i] : all;
        end = c->to[i] < end ? c->to[i] : end;
    }
    if (end < all)
        end = all;
    for (uint32_t i = 0; i < (uint32_t)nq; i++)
        ragged(c, dtype, i, c->from[i], c->to[i] < all ? c->to[i] : all);
    values_of(nq, dtype, c, 0, all, end);
    for (uint32_t i = 0; i < (uint32_t)nq; i++) {
        c->keep[i] = 1.0f;
        ragged(c, dtype, i, c->from[i] > end ? c->from[i] : end, c->to[i]);
    }
}

/* --------------------------------------------------------------------------- tiles */

/* Visible parts of the piece at t0; false when no query of the tile sees any of it. */
static bool piece_cut(piece *c, uint32_t nq, uint32_t t0)
{
    c->t0 = t0;
    c->ntoken = 0;
    for (uint32_t i = 0; i < nq; i++) {
        int32_t from = c->a->first[c->query0 + i] - (int32_t)t0;
        int32_t to = c->a->limit[c->query0 + i] - (int32_t)t0;
        from = from < 0 ? 0 : from;
        to = to > PIECE ? PIECE : to;
        if (from >= to)
            from = to = 0;
        c->from[i] = from;
        c->to[i] = to;
        if ((uint32_t)to > c->ntoken)
            c->ntoken = (uint32_t)to;
    }
    return c->ntoken > 0;
}

WIDE void attend_tile(const int nq, const uint32_t dtype, const cpu_attend *a, uint32_t query0)
{
    piece c;
    c.a = a;
    c.query0 = query0;
    for (uint32_t t0 = 0; t0 < a->ntoken; t0 += PIECE) {
        if (!piece_cut(&c, (uint32_t)nq, t0))
            continue;
        scores(nq, dtype, &c);
        soften(&c, (uint32_t)nq);
        values(nq, dtype, &c);
    }
}

WIDE void attend(const cpu_attend *a, const uint32_t dtype)
{
    uint32_t i = 0;
    for (; i + 4 <= a->nquery; i += 4)
        attend_tile(4, dtype, a, i);
    switch (a->nquery - i) {
    case 3: attend_tile(3, dtype, a, i); break;
    case 2: attend_tile(2, dtype, a, i); break;
    case 1: attend_tile(1, dtype, a, i); break;
    default: break;
    }
}

static void wide_attend_f32(const cpu_attend *a) { attend(a, TN_F32); }
static void wide_attend_f16(const cpu_attend *a) { attend(a, TN_F16); }
static void wide_attend_bf16(const cpu_attend *a) { attend(a, TN_BF16); }

#endif
