/* SPDX-License-Identifier: Apache-2.0 */
/* wide_rule.h - one step of the gated delta rule, in lanes: columns of S are lanes, and a few
 * vectors of them walk down the rows twice, with what they gather in registers. */
#ifndef TN_CPU_WIDE_RULE_H
#define TN_CPU_WIDE_RULE_H

#include "kernel.h"

#define RULE_VECS 4

/* nv vectors of columns from j on; `n` lanes of the last one count, when it is not LANES. */
WIDE void rule_columns(const cpu_rule *r, const int nv, const bool slow, uint64_t j, uint32_t n)
{
    const uint64_t step = r->cols;
    const vf fade = f_set(r->fade), beta = f_set(r->beta);
    vf u[RULE_VECS], out[RULE_VECS];
    UNROLL for (int v = 0; v < nv; v++)
        u[v] = out[v] = f_zero();
    float *s = r->s + j;
    for (uint32_t i = 0; i < r->rows; i++, s += step) {
        const vf k = f_copy(r->k + i);
        UNROLL for (int v = 0; v < nv; v++) {
            vf x = part_load(s + v * LANES, n);
            x = slow ? f_fma(x, fade, x) : f_mul(x, fade);
            part_store(s + v * LANES, n, x);
            u[v] = f_fma(x, k, u[v]);
        }
    }
    UNROLL for (int v = 0; v < nv; v++)
        u[v] = f_mul(beta, f_sub(part_load(r->v + j + v * LANES, n), u[v]));
    s = r->s + j;
    for (uint32_t i = 0; i < r->rows; i++, s += step) {
        const vf k = f_copy(r->k + i), q = f_copy(r->q + i);
        UNROLL for (int v = 0; v < nv; v++) {
            vf x = f_fma(k, u[v], part_load(s + v * LANES, n));
            part_store(s + v * LANES, n, x);
            out[v] = f_fma(x, q, out[v]);
        }
    }
    UNROLL for (int v = 0; v < nv; v++)
        part_store(r->o + j + v * LANES, n, out[v]);
}

WIDE void rule_all(const cpu_rule *r, const bool slow)
{
    uint64_t j = 0;
    for (; j + RULE_VECS * LANES <= r->cols; j += RULE_VECS * LANES)
        rule_columns(r, RULE_VECS, slow, j, LANES);
    for (; j + LANES <= r->cols; j += LANES)
        rule_columns(r, 1, slow, j, LANES);
    if (j < r->cols)
        rule_columns(r, 1, slow, j, (uint32_t)(r->cols - j));
}

static void wide_rule(const cpu_rule *r)
{
    if (r->slow)
        rule_all(r, true);
    else
        rule_all(r, false);
}

#endif
