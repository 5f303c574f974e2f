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

WIDE vf cache_load(const uint32_t dtype, const void *base, uint64_t at)
{
    if (dtype == TN_F32)
        return f_load((const float *)base + at);
    const uint16_t *h = (const uint16_t *)base + at;
    return dtype == TN_F16 ? f_load_f16(h) : f_load_bf16(h);
}

/* The last 8 elements of a head, where a vector has 16 lanes. */
WIDE vf cache_load_8(const uint32_t dtype, const void *base, uint64_t at)
{
    if (dtype == TN_F32)
        return f_load_n((const float *)base + at, 8);
    uint16_t h[LANES] = {0};
    memcpy(h, (const uint16_t *)base + at, 8 * sizeof h[0]);
    return dtype == TN_F16 ? f_load_f16(h) : f_load_bf16(h);
}

/* ------------------------------------------------------------------------- scores */

/* nq queries against nt tokens from t on; tokens past the piece repeat its last. */
WIDE void score_block(const int nq, const int nt, const uint32_t dtype, piece *c, uint32_t t)
{
    const cpu_attend *a = c->a;
    const float *q = a->q + (size_t)c->query0 * a->dim;
    const uint32_t body = a->dim / LANES * LANES;
    uint64_t row[8];
    vf s[8];
    float out[8];
    UNROLL for (int i = 0; i < 8; i++)
        s[i] = f_zero();
    UNROLL for (int j = 0; j < nt; j++) {
        uint32_t at = t + (uint32_t)j < c->ntoken ? t + (uint32_t)j : c->ntoken - 1;
        row[j] = (uint64_t)(c->t0 + at) * a->stride;
    }
    for (uint32_t d = 0; d < body; d += LANES) {
        vf k[8];
        UNROLL for (int j = 0; j < nt; j++)
            k[j] = cache_load(dtype, a->k, row[j] + d);
        UNROLL for (int i = 0; i < nq; i++) {
            vf qi = f_load(q + (size_t)i * a->dim + d);
            UNROLL for (int j = 0; j < nt; j++)
                s[i * nt + j] = f_fma(qi, k[j], s[i * nt + j]);
        }
    }
    if (LANES > 8 && body < a->dim)
        UNROLL for (int i = 0; i < nq; i++)
            UNROLL for (int j = 0; j < nt; j++)
                s[i * nt + j] = f_fma(f_load_n(q + (size_t)i * a->dim + body, 8),
                                      cache_load_8(dtype, a->k, row[j] + body),
                                      s[i * nt + j]);
    f_store_sums8(out, s);
    UNROLL for (int i = 0; i < nq; i++)
        memcpy(&c->p[i][t], out + i * nt, (size_t)nt * sizeof out[0]);
}

WIDE void scores(const int nq, const uint32_t dtype, piece *c)
{
    const int nt = nq == 3 ? 2 : 8 / nq;
    for (uint32_t t = 0; t < c->ntoken; t += (uint32_t)nt)
        score_block(nq, nt, dtype, c, t);
}

/* ------------------------------------------------------------------------- softmax */

WIDE vf capped(vf s, float softcap)   /* softcap * tanh(s / softcap) */
{
    vf e = f_exp(f_mul(s, f_set(2.0f / softcap)));
    vf tanh = f_sub(f_set(1.0f), f_div(f_set(2.0f), f_add(e, f_set(1.0f))));
    return f_mul(f_set(softcap), tanh);
}

/* Turns query i's scores into weights and moves its maximum and its sum. */
static void soften(piece *c, uint32_t i)
{
    const cpu_attend *a = c->a;
    const vf none = f_set(-INFINITY);
    const vf from = f_set((float)c->from[i]), to = f_set((float)c->to[i]);
    vf s[PIECE / LANES], most = none, sum = f_zero();
    float *m = a->m + c->query0 + i, *l = a->l + c->query0 + i;
    UNROLL for (unsigned v = 0; v < PIECE / LANES; v++) {
        vf at = f_add(f_count(), f_set((float)(v * LANES)));
        s[v] = f_mul(f_load(c->p[i] + v * LANES), f_set(a->scale));
        if (a->softcap > 0.0f)
            s[v] = capped(s[v], a->softcap);
        s[v] = f_pick_less(at, to, f_pick_less(at, from, none, s[v]), none);
        most = f_max(s[v], most);
    }
    float top = f_top(most);
    top = top > *m ? top : *m;
    vf base = f_set(top > -INFINITY ? top : 0.0f);
    c->keep[i] = f_first(f_exp(f_sub(f_set(*m), base)));
    UNROLL for (unsigned v = 0; v < PIECE / LANES; v++) {
        s[v] = f_exp(f_sub(s[v], base));
        f_store(c->p[i] + v * LANES, s[v]);
        sum = f_add(sum, s[v]);
    }
    *m = top;
    *l = *l * c->keep[i] + f_sum(sum);
}

/* -------------------------------------------------------------------------- values */

/* acc[i] += p[i][t] * v[t] for tokens [t, end), vectors [d, d + nv) of the head. */
WIDE void add_values(const int i0, const int i1, const int nv, const uint32_t dtype,
                     const piece *c, int32_t t, int32_t end, uint32_t d, vf acc[][2])
{
    for (; t < end; t++) {
        uint64_t row = (uint64_t)(c->t0 + (uint32_t)t) * c->a->stride + d;
        vf v[2];
        UNROLL for (int n = 0; n < nv; n++)
            v[n] = d + (uint32_t)n * LANES + LANES <= c->a->dim || LANES == 8
                       ? cache_load(dtype, c->a->v, row + (uint32_t)n * LANES)
                       : cache_load_8(dtype, c->a->v, row + (uint32_t)n * LANES);
        UNROLL for (int i = i0; i < i1; i++) {
            vf p = f_copy(&c->p[i][t]);
            UNROLL for (int n = 0; n < nv; n++)
                acc[i][n] = f_fma(p, v[n], acc[i][n]);
        }
    }
}

WIDE vf part_load(const float *p, uint32_t left)
{
    return LANES == 8 || left >= LANES ? f_load(p) : f_load_n(p, left);
}

WIDE void part_store(float *p, uint32_t left, vf v)
{
    if (LANES == 8 || left >= LANES)
        f_store(p, v);
    else
        f_store_n(p, left, v);
}

/* Tokens all queries of the tile see lie between `all` and `end`; the rest goes one by one. */
WIDE void values_at(const int nq, const int nv, const uint32_t dtype, const piece *c,
                    int32_t all, int32_t end, uint32_t d)
{
    const uint32_t dim = c->a->dim;
    float *to = c->a->acc + (size_t)c->query0 * dim + d;
    vf acc[QUERIES][2];
    UNROLL for (int i = 0; i < nq; i++)
        UNROLL for (int n = 0; n < nv; n++)
            acc[i][n] = f_mul(part_load(to + (size_t)i * dim + n * LANES, dim - d - n * LANES),
                              f_set(c->keep[i]));
    UNROLL for (int i = 0; i < nq; i++)
        add_values(i, i + 1, nv, dtype, c, c->from[i], c->to[i] < all ? c->to[i] : all, d, acc);
    add_values(0, nq, nv, dtype, c, all, end, d, acc);
    UNROLL for (int i = 0; i < nq; i++)
        add_values(i, i + 1, nv, dtype, c, c->from[i] > end ? c->from[i] : end, c->to[i], d,
                   acc);
    UNROLL for (int i = 0; i < nq; i++)
        UNROLL for (int n = 0; n < nv; n++)
            part_store(to + (size_t)i * dim + n * LANES, dim - d - n * LANES, acc[i][n]);
}

WIDE void values(const int nq, const uint32_t dtype, const piece *c)
{
    int32_t all = 0, end = PIECE;
    for (int i = 0; i < nq; i++) {
        all = c->from[i] > all ? c->from[i] : all;
        end = c->to[i] < end ? c->to[i] : end;
    }
    if (end < all)
        end = all;
    uint32_t d = 0;
    for (; d + 2 * LANES <= c->a->dim; d += 2 * LANES)
        values_at(nq, 2, dtype, c, all, end, d);
    for (; d < c->a->dim; d += LANES)
        values_at(nq, 1, dtype, c, all, end, d);
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
        for (uint32_t i = 0; i < (uint32_t)nq; i++)
            soften(&c, i);
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
