/* SPDX-License-Identifier: Apache-2.0 */
/* delta.h - a v-head of a sequence on its way through DELTA: what the two ways to take rows into
 * its state have in common, one after the other (delta.c) and 64 at a time (delta_chunk.c).
 *
 * Rows of the step count from 0, the pending ones before them from -npending. */
#ifndef TN_CPU_DELTA_H
#define TN_CPU_DELTA_H

#include "program.h"

typedef struct cpu_delta {
    const tn_op_delta *a;
    const cpu_state *state;
    const tn_seq *seq;
    const float *columns;         /* [keep, width] before all rows; NULL: zeros */
    int32_t npending;             /* pending rows that count, before the step's own */
    float *s;                     /* [k_dim, v_dim] */
    uint32_t index, k_head;
    float *q, *k, *v, *o, *ones;  /* the worker's memory for one row */
} cpu_delta;

typedef struct cpu_delta_gates {
    float g;                      /* logarithm of the decay, at most 0 */
    float beta;                   /* between 0 and 1 */
} cpu_delta_gates;

/* What row `row` brings to the rule: q [k_dim] and k [k_dim], of length 1 / sqrt(k_dim) and 1,
 * and v [v_dim]. */
cpu_delta_gates cpu_delta_take(const cpu_program *p, const cpu_delta *h, int32_t row, float *q,
                               float *k, float *v);
/* The step's row `row` has read `o` [v_dim] from the state: norms it, in place, gates it and puts
 * it where the operation's output is. */
void cpu_delta_put(const cpu_program *p, const cpu_delta *h, int32_t row, float *o);

#define CPU_DELTA_CHUNK 64u

/* delta_chunk.c: takes rows [row, row + n) of the step into h->s and puts out what they read;
 * n <= CPU_DELTA_CHUNK. `memory` has cpu_delta_chunk_floats. */
uint32_t cpu_delta_chunk_floats(const tn_op_delta *a);
void cpu_delta_chunk(const cpu_program *p, const cpu_delta *h, int32_t row, uint32_t n,
                     float *memory);

#endif
