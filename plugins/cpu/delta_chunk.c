/* SPDX-License-Identifier: Apache-2.0 */
/* delta_chunk.c - the gated delta rule for up to 64 rows at a time, in fp32: the form that a
 * device with matrix units computes, written out plainly so that it can be held against this.
 *
 * The rows of a chunk are t = 1 ... C, the state before it is S, and G_t = g_1 + ... + g_t. What
 * delta.c takes from each row in turn, d_t = beta_t (v_t - S_t' k_t), is one triangular system,
 * for what a row finds in the state is S and what the rows before it wrote:
 *
 *     A_ts = -beta_t exp(G_t - G_s) (k_t . k_s)          s < t, else 0
 *     T    = (1 - A)^-1                                  unit lower triangular
 *     D    = T (beta (V - exp(G) K S))                   [C, v_dim], all d at once
 *     O    = exp(G) Q S + P D
 *     P_ts =         exp(G_t - G_s) (q_t . k_s)          s <= t, else 0
 *     S   <- exp(G_C) S + K' (exp(G_C - G) D)
 *
 * (T beta V and T beta exp(G) K, the U and W of the papers, need no S and can be made for all
 * chunks side by side; one after the other, T times the difference is less work.)
 *
 * Decays meet only as differences of logarithms, the later row's minus the earlier row's: such
 * a factor is at most 1, and 0 where it is too small for a number. exp(G_t) / exp(G_s) would be
 * 0 / 0 there. G is kept in double, or the slow decays behind a row that forgets everything
 * would be lost in its digits.
 *
 * A row sees nothing of the rows behind it, not even a NaN times 0: sums end where the triangles
 * do. Sources: Yang et al., arXiv 2406.06484 (the delta rule in chunks, the inverse T) and arXiv
 * 2412.06464 (with decays). */
#include "delta.h"

#include <math.h>

#define C CPU_DELTA_CHUNK
#define COLUMNS 32u               /* of a product that are summed together */
#define G_LEAST (-1e4)            /* exp of less is 0 as well, and sums stay exact */

typedef struct chunk {
    uint32_t n;                   /* rows */
    uint32_t k_dim, v_dim;
    float *s;                     /* [k_dim, v_dim] */
    double g[C];                  /* G */
    float beta[C];
    float *q, *k;                 /* [C, k_dim] */
    float *kt;                    /* [k_dim, C] K' */
    float *v, *d, *o;             /* [C, v_dim]; v ends as the right side of the system */
    float *t, *p;                 /* [C, C] A, then T; P */
} chunk;

uint32_t cpu_delta_chunk_floats(const tn_op_delta *a)
{
    return C * (3 * a->k_dim + 3 * a->v_dim + 2 * C);
}

static void open_chunk(chunk *c, const cpu_delta *h, uint32_t n, float *memory)
{
    uint32_t k = h->a->k_dim, v = h->a->v_dim;
    *c = (chunk){.n = n, .k_dim = k, .v_dim = v, .s = h->s};
    c->t = memory;
    c->p = c->t + C * C;
    c->q = c->p + C * C;
    c->k = c->q + C * k;
    c->kt = c->k + C * k;
    c->v = c->kt + C * k;
    c->d = c->v + C * v;
    c->o = c->d + C * v;
}

static void take_rows(const cpu_program *p, const cpu_delta *h, int32_t row, chunk *c)
{
    double sum = 0;
    for (uint32_t t = 0; t < c->n; t++) {
        float *k = c->k + t * c->k_dim;
        cpu_delta_gates gates = cpu_delta_take(p, h, row + (int32_t)t, c->q + t * c->k_dim, k,
                                               c->v + t * c->v_dim);
        sum += (double)gates.g < G_LEAST ? G_LEAST : (double)gates.g;
        c->g[t] = sum;
        c->beta[t] = gates.beta;
        for (uint32_t i = 0; i < c->k_dim; i++)
            c->kt[i * C + t] = k[i];
    }
}

/* What is left at row `to` of what was there behind row `from`. */
static float decay(const chunk *c, uint32_t from, uint32_t to)
{
    return expf((float)(c->g[to] - c->g[from]));
}

/* ------------------------------------------------------------------------------- products */

/* out = factor out + a[0] b[0] + a[1] b[1] + ..., n columns of `depth` rows of b. Unrolled, the
 * sums are registers and not memory: three times as fast. */
static inline void add_block(float factor, const float *a, uint32_t depth, const float *b,
                             uint32_t ldb, uint32_t n, float *restrict out)
{
    float sum[COLUMNS];
#pragma GCC unroll 32
    for (uint32_t j = 0; j < n; j++)
        sum[j] = factor * out[j];
    for (uint32_t i = 0; i < depth; i++) {
#pragma GCC unroll 32
        for (uint32_t j = 0; j < n; j++)
            sum[j] += a[i] * b[(uint64_t)i * ldb + j];
    }
#pragma GCC unroll 32
    for (uint32_t j = 0; j < n; j++)
        out[j] = sum[j];
}

static void add_rows(float factor, const float *a, uint32_t depth, const float *b, uint32_t ldb,
                     uint32_t n, float *out)
{
    uint32_t j = 0;
    for (; j + COLUMNS <= n; j += COLUMNS) /* a constant the compiler can unroll for */
        add_block(factor, a, depth, b + j, ldb, COLUMNS, out + j);
    for (; j < n; j++)
        add_block(factor, a, depth, b + j, ldb, 1, out + j);
}

/* --------------------------------------------------------------------------------- steps */

/* v <- beta (V - exp(G) K S), the right side. */
static void ask_state(chunk *c)
{
    for (uint32_t t = 0; t < c->n; t++) {
        float *v = c->v + t * c->v_dim, *ks = c->d + t * c->v_dim;
        memset(ks, 0, c->v_dim * sizeof *ks);
        add_rows(0, c->k + t * c->k_dim, c->k_dim, c->s, c->v_dim, c->v_dim, ks);
        float left = expf((float)c->g[t]);
        for (uint32_t j = 0; j < c->v_dim; j++)
            v[j] = c->beta[t] * (v[j] - left * ks[j]);
    }
}

/* t <- A, p <- P. They are made in whole blocks; what lies above the diagonal is never looked
 * at, nor are rows that the chunk does not have. */
static void compare_rows(chunk *c)
{
    for (uint32_t t = 0; t < c->n; t++) {
        float *a = c->t + t * C, *p = c->p + t * C;
        uint32_t width = (t / COLUMNS + 1) * COLUMNS;
        memset(a, 0, width * sizeof *a);
        memset(p, 0, width * sizeof *p);
        add_rows(0, c->k + t * c->k_dim, c->k_dim, c->kt, C, width, a);
        add_rows(0, c->q + t * c->k_dim, c->k_dim, c->kt, C, width, p);
        for (uint32_t s = 0; s <= t; s++) {
            float left = decay(c, s, t);
            a[s] *= -c->beta[t] * left;
            p[s] *= left;
        }
    }
}

/* T from A, in place and row by row, without the ones on its diagonal: T_t = A_t + sum over
 * m < t of A_tm T_m. T_m reaches up to m, so A_tm is still there when its turn comes. */
static void invert(chunk *c)
{
    for (uint32_t t = 0; t < c->n; t++)
        for (uint32_t m = 0; m < t; m++) {
            float a = c->t[t * C + m];
            for (uint32_t s = 0; s < m; s++)
                c->t[t * C + s] += a * c->t[m * C + s];
        }
}

static void solve(chunk *c)
{
    for (uint32_t t = 0; t < c->n; t++) {
        float *d = c->d + t * c->v_dim;
        memcpy(d, c->v + t * c->v_dim, c->v_dim * sizeof *d);
        add_rows(1, c->t + t * C, t, c->v, c->v_dim, c->v_dim, d);
    }
}

static void read_out(chunk *c)
{
    for (uint32_t t = 0; t < c->n; t++) {
        float *o = c->o + t * c->v_dim;
        memset(o, 0, c->v_dim * sizeof *o);
        add_rows(0, c->q + t * c->k_dim, c->k_dim, c->s, c->v_dim, c->v_dim, o);
        add_rows(expf((float)c->g[t]), c->p + t * C, t + 1, c->d, c->v_dim, c->v_dim, o);
    }
}

static void write_state(chunk *c)
{
    uint32_t last = c->n - 1;
    for (uint32_t t = 0; t < c->n; t++) {
        float left = decay(c, t, last);
        for (uint32_t j = 0; j < c->v_dim; j++)
            c->d[t * c->v_dim + j] *= left;
    }
    float left = expf((float)c->g[last]);
    for (uint32_t i = 0; i < c->k_dim; i++)
        add_rows(left, c->kt + i * C, c->n, c->d, c->v_dim, c->v_dim, c->s + i * c->v_dim);
}

void cpu_delta_chunk(const cpu_program *p, const cpu_delta *h, int32_t row, uint32_t n,
                     float *memory)
{
    chunk c;
    open_chunk(&c, h, n, memory);
    take_rows(p, h, row, &c);
    ask_state(&c);
    compare_rows(&c);
    invert(&c);
    solve(&c);
    read_out(&c);
    write_state(&c);
    for (uint32_t t = 0; t < n; t++)
        cpu_delta_put(p, h, row + (int32_t)t, c.o + t * c.v_dim);
}
