/* SPDX-License-Identifier: Apache-2.0 */
/* wide_attend.h - attention of query rows over one run of cached tokens, in lanes.
 *
 * Up to QUERIES queries form a tile that reads every key and value once. Tokens come in pieces
 * of 32 counted from the run's start: scores of a piece, one step of the online softmax, then
 * the weighted values token by token. Keys lie in strips of 16 tokens, so that a vector of one
 * dim's keys has tokens for lanes and meets that dim of a query in all lanes: scores need no
 * sums across lanes. A query's result depends on its own tokens only, in the same order with
 * the same roundings, however queries are grouped: a score is one chain over the dims in its
 * lane, and tokens that only some queries of a tile see are added query by query, never with
 * weight zero, so that a NaN behind a query's limit cannot reach it. */
#ifndef TN_CPU_WIDE_ATTEND_H
#define TN_CPU_WIDE_ATTEND_H

#include "kernel.h"
#include "wide_vector.h"

#define PIECE 32
#define QUERIES_SMALL 6 /* what a tile has when it has no QUERIES, or less */

/* One tile and one piece. Token numbers count from t0. */
typedef struct piece {
    const cpu_attend *a;
    uint32_t query0;
    uint32_t t0, ntoken;               /* tokens that some query of the tile sees end here */
    int32_t from[QUERIES], to[QUERIES]; /* visible tokens [from, to) of the piece */
    float keep[QUERIES];               /* factor of what was summed before */
    float p[QUERIES][PIECE];           /* scores, then weights */
} piece;

WIDE uint32_t cache_size(const uint32_t dtype)
{
    return dtype == TN_F32 ? 4 : 2;
}

/* LANES elements from `at` on. */
WIDE vf cache_load(const uint32_t dtype, const uint8_t *at)
{
    if (dtype == TN_F32)
        return f_load((const float *)at);
    const uint16_t *h = (const uint16_t *)at;
    return dtype == TN_F16 ? f_load_f16(h) : f_load_bf16(h);
}

/* The first n of them, zeros in the other lanes: a head's last dims. */
WIDE vf cache_load_n(const uint32_t dtype, const uint8_t *at, uint32_t n)
{
    if (dtype == TN_F32)
        return f_load_n((const float *)at, n);
    uint16_t h[LANES] = {0};
    if (n == 8)
        memcpy(h, at, 8 * sizeof h[0]);
    else
        memcpy(h, at, n * sizeof h[0]);
    return dtype == TN_F16 ? f_load_f16(h) : f_load_bf16(h);
}

/* Vectors that nq queries are multiplied with at a time: together they keep the multipliers
 * busy and fit the registers. */
WIDE int vectors_of(const int nq)
{
    return nq > 3 ? 2 : 4;
}

/* ------------------------------------------------------------------------- scores */

/* What the score loops need, in registers: stores of scores could change what lies behind a
 * pointer for all the compiler knows. */
typedef struct scoring {
    size_t dim;
    const float *q;            /* the tile's first query */
    const uint8_t *k;          /* the piece's first strip */
    const float *scale;        /* read when it is wanted: the loops have no register for it */
    float *p;                  /* scores, PIECE a query */
} scoring;

/* nq queries against nv vectors of tokens from t on; strips past the one of token `last` are
 * read as that one. */
WIDE void score_vectors(const int nq, const int nv, const uint32_t dtype, const scoring x,
                        uint32_t t, uint32_t last)
{
    const size_t step = CPU_STRIP * cache_size(dtype);
    const uint8_t *k[4];
    vf s[QUERIES][4];
    UNROLL for (int v = 0; v < nv; v++) {
        uint32_t at = t + (uint32_t)v * LANES, strip = (at < last ? at : last) / CPU_STRIP;
        k[v] = x.k + strip * x.dim * step + at % CPU_STRIP * cache_size(dtype);
        UNROLL for (int i = 0; i < nq; i++)
            s[i][v] = f_zero();
    }
    for (size_t d = 0; d < x.dim; d++) {
        vf few[4]; /* queries or keys, whichever are fewer, stay in registers */
        if (nq < nv) {
            UNROLL for (int i = 0; i < nq; i++)
                few[i] = f_held(f_copy(x.q + (size_t)i * x.dim + d));
            UNROLL for (int v = 0; v < nv; v++) {
                vf kv = f_held(cache_load(dtype, k[v] + d * step));
                UNROLL for (int i = 0; i < nq; i++)
                    s[i][v] = f_fma(few[i], kv, s[i][v]);
            }
        } else {
            UNROLL for (int v = 0; v < nv; v++)
                few[v] = f_held(cache_load(dtype, k[v] + d * step));
            UNROLL for (int i = 0; i < nq; i++) {
                vf qi = f_held(f_copy(x.q + (size_t)i * x.dim + d));
                UNROLL for (int v = 0; v < nv; v++)
                    s[i][v] = f_fma(qi, few[v], s[i][v]);
            }
        }
    }
    UNROLL for (int i = 0; i < nq; i++)
        UNROLL for (int v = 0; v < nv; v++)
            f_store(x.p + (size_t)i * PIECE + t + v * LANES, f_mul(s[i][v], f_copy(x.scale)));
}

WIDE void scores(const int nq, const uint32_t dtype, piece *c)
{
    const cpu_attend *a = c->a;
    const int nv = LANES == 8 ? vectors_of(nq) : 2;
    const scoring x = {a->dim, a->q + (size_t)c->query0 * a->dim,
                       (const uint8_t *)a->k + (size_t)c->t0 * a->dim * cache_size(dtype),
                       &a->scale, c->p[0]};
    for (uint32_t t = 0; t < c->ntoken; t += (uint32_t)nv * LANES)
        score_vectors(nq, nv, dtype, x, t, c->ntoken - 1);
}

/* ------------------------------------------------------------------------- softmax */

/* s = softcap * tanh(s / softcap) over the piece. */
static void cap_scores(piece *c, uint32_t nq)
{
    const vf cap = f_set(c->a->softcap), one = f_set(1.0f);
    const vf twice = f_set(2.0f / c->a->softcap);
    for (uint32_t i = 0; i < nq; i++)
        for (unsigned v = 0; v < PIECE; v += LANES) {
            vf e = f_exp(f_mul(f_load(c->p[i] + v), twice));
            vf tanh = f_sub(one, f_div(f_set(2.0f), f_add(e, one)));
            f_store(c->p[i] + v, f_mul(cap, tanh));
        }
}

/* e^x for x <= 0 as weights need it: 0 below -87, no subnormals. Adding 1.5 2^23 rounds to a
 * whole number, which lies in the low bits then and becomes an exponent; 2^r by a polynomial. */
WIDE vf f_exp_below(vf x)
{
    const vf log2e = f_set(1.44269504f), shift = f_set(12582912.0f + 127.0f);
    vf n = f_fma(x, log2e, shift), r = f_fma(x, log2e, f_sub(shift, n));
    vf p = f_set(1.545326241e-4f);
    p = f_fma(p, r, f_set(1.339097825e-3f));
    p = f_fma(p, r, f_set(9.618082371e-3f));
    p = f_fma(p, r, f_set(5.550356899e-2f));
    p = f_fma(p, r, f_set(2.402265076e-1f));
    p = f_fma(p, r, f_set(6.931471881e-1f));
    p = f_fma(p, r, f_set(1.0f));
    p = f_mul(p, f_bits(i_left(i_bits(n), 23)));
    return f_pick_less(x, f_set(-87.0f), f_zero(), p);
}

/* Hides query i's scores of tokens that it does not see. */
static void hide_scores(piece *c, uint32_t i)
{
    const vf none = f_set(-INFINITY);
    for (unsigned v = 0; v < PIECE; v += LANES) {
        vf at = f_add(f_count(), f_set((float)v)), s = f_load(c->p[i] + v);
        s = f_pick_less(at, f_set((float)c->from[i]), none, s);
        f_store(c->p[i] + v, f_pick_less(at, f_set((float)c->to[i]), s, none));
    }
}

/* Raises query i's maximum to the piece's, if that is more, and tells what is left of the sums
 * before. Most pieces of a long context raise nothing, and a branch that says so is guessed
 * before the scores are known: nothing waits for them. */
WIDE void raise_top(piece *c, uint32_t i)
{
    float *m = c->a->m + c->query0 + i;
    vf most = f_set(-INFINITY);
    UNROLL for (unsigned v = 0; v < PIECE; v += LANES)
        most = f_max(f_load(c->p[i] + v), most);
    c->keep[i] = 1.0f;
    if (f_any_less(f_copy(m), most)) {
        float before = *m;
        *m = f_top(most);
        c->keep[i] = f_first(f_exp(f_set(before - *m)));
    }
}

/* Turns scores into weights relative to `base` and gives their sum. */
WIDE float soften_weights(piece *c, uint32_t i, float base)
{
    vf sum = f_zero();
    UNROLL for (unsigned v = 0; v < PIECE; v += LANES) {
        vf p = f_exp_below(f_sub(f_load(c->p[i] + v), f_set(base)));
        f_store(c->p[i] + v, p);
        sum = f_add(sum, p);
    }
    return f_sum(sum);
}

/* The online softmax of a piece. */
static void soften(piece *c, uint32_t nq)
{
    float *m = c->a->m + c->query0, *l = c->a->l + c->query0;
    if (c->a->softcap > 0.0f)
        cap_scores(c, nq);
    for (uint32_t i = 0; i < nq; i++) {
        if (c->from[i] > 0 || c->to[i] < PIECE)
            hide_scores(c, i);
        raise_top(c, i);
        l[i] = l[i] * c->keep[i] + soften_weights(c, i, m[i] > -INFINITY ? m[i] : 0.0f);
    }
}

/* -------------------------------------------------------------------------- values */

/* Dims [d, d + nv vectors) of the values; `n` lanes of the last one count, when it is not
 * LANES. */
typedef struct span {
    size_t d;
    uint32_t n;
} span;

WIDE vf value_load(const uint32_t dtype, const uint8_t *row, const int v, uint32_t n)
{
    return n == LANES ? cache_load(dtype, row + (size_t)v * LANES * cache_size(dtype))
                      : cache_load_n(dtype, row, n);
}

/* acc[i] += p[i][t] * v[t] for tokens [t, end), nq queries from i0 on. */
WIDE void add_values(const int nq, const int nv, const uint32_t dtype, const piece *c,
                     uint32_t i0, int32_t t, int32_t end, const span x, vf acc[][4])
{
    const size_t step = (size_t)c->a->dim * cache_size(dtype);
    const uint8_t *row = (const uint8_t *)c->a->v + (c->t0 + (size_t)t) * step +
                         x.d * cache_size(dtype);
    for (; t < end; t++, row += step) {
        vf few[4];
        if (nq < nv) {
            UNROLL for (int i = 0; i < nq; i++)
                few[i] = f_held(f_copy(&c->p[i0 + (uint32_t)i][t]));
            UNROLL for (int n = 0; n < nv; n++) {
                vf v = f_held(value_load(dtype, row, n, x.n));
                UNROLL for (int i = 0; i < nq; i++)
                    acc[i][n] = f_fma(few[i], v, acc[i][n]);
            }
        } else {
            UNROLL for (int n = 0; n < nv; n++)
                few[n] = f_held(value_load(dtype, row, n, x.n));
            UNROLL for (int i = 0; i < nq; i++) {
                vf p = f_held(f_copy(&c->p[i0 + (uint32_t)i][t]));
                UNROLL for (int n = 0; n < nv; n++)
                    acc[i][n] = f_fma(p, few[n], acc[i][n]);
            }
        }
    }
}

/* acc = acc * keep + tokens [t, end). */
WIDE void values_at(const int nq, const int nv, const uint32_t dtype, const piece *c,
                    uint32_t i0, int32_t t, int32_t end, const span x)
{
    const size_t dim = c->a->dim;
    float *to = c->a->acc + (c->query0 + i0) * dim + x.d;
    vf acc[QUERIES][4];
    UNROLL for (int i = 0; i < nq; i++)
        UNROLL for (int n = 0; n < nv; n++)
            acc[i][n] = f_mul(part_load(to + (size_t)i * dim + n * LANES, x.n),
                              f_set(c->keep[i0 + (uint32_t)i]));
    add_values(nq, nv, dtype, c, i0, t, end, x, acc);
    UNROLL for (int i = 0; i < nq; i++)
        UNROLL for (int n = 0; n < nv; n++)
            part_store(to + (size_t)i * dim + n * LANES, x.n, acc[i][n]);
}

WIDE void values_of(const int nq, const uint32_t dtype, const piece *c, uint32_t i0, int32_t t,
                    int32_t end)
{
    const int nv = vectors_of(nq);
    const size_t dim = c->a->dim;
    size_t d = 0;
    for (; d + (size_t)nv * LANES <= dim; d += (size_t)nv * LANES)
        values_at(nq, nv, dtype, c, i0, t, end, (span){d, LANES});
    for (; d + LANES <= dim; d += LANES)
        values_at(nq, 1, dtype, c, i0, t, end, (span){d, LANES});
    if (d < dim)
        values_at(nq, 1, dtype, c, i0, t, end, (span){d, (uint32_t)(dim - d)});
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
    for (; i + QUERIES <= a->nquery; i += QUERIES)
        attend_tile(QUERIES, dtype, a, i);
    for (; QUERIES > QUERIES_SMALL && i + QUERIES_SMALL <= a->nquery; i += QUERIES_SMALL)
        attend_tile(QUERIES_SMALL, dtype, a, i);
    switch (a->nquery - i) {
    case 5: attend_tile(5, dtype, a, i); break;
    case 4: attend_tile(4, dtype, a, i); break;
    case 3: attend_tile(3, dtype, a, i); break;
    case 2: attend_tile(2, dtype, a, i); break;
    case 1: attend_tile(1, dtype, a, i); break;
    default: break;
    }
}

static void wide_attend_f32(const cpu_attend *a) { attend(a, TN_F32); }

/* --------------------------------------------------------------- a run for many tiles */

#define TILES_MANY 3 /* that read the same run: from here on it is turned to f32 once */

WIDE float *run_part(const uint32_t dtype, const uint8_t *from, uint64_t n, float *to)
{
    uint64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        f_store(to + i, cache_load(dtype, from + i * 2));
    if (i < n)
        f_store_n(to + i, (uint32_t)(n - i), cache_load_n(dtype, from + i * 2, (uint32_t)(n - i)));
    return to;
}

/* The same numbers, so the same results: only the conversions are fewer. */
WIDE void attend_half(const cpu_attend *a, const uint32_t dtype)
{
    uint64_t strips = ((uint64_t)a->ntoken + CPU_STRIP - 1) / CPU_STRIP * CPU_STRIP;
    uint64_t nk = strips * a->dim, nv = (uint64_t)a->ntoken * a->dim;
    if (a->nquery < TILES_MANY * QUERIES || a->room == NULL ||
        (nk + nv) * sizeof(float) > CPU_ROOM_BYTES - CPU_ROOM_MEMORY) {
        attend(a, dtype);
        return;
    }
    cpu_attend b = *a;
    float *room = (float *)a->room + CPU_ROOM_MEMORY / sizeof(float);
    cpu_room_forget(a->room);
    b.k = run_part(dtype, a->k, nk, room);
    b.v = run_part(dtype, a->v, nv, room + nk);
    wide_attend_f32(&b);
}

static void wide_attend_f16(const cpu_attend *a) { attend_half(a, TN_F16); }
static void wide_attend_bf16(const cpu_attend *a) { attend_half(a, TN_BF16); }

#endif
