/* SPDX-License-Identifier: Apache-2.0 */
/* sample.h - from one row of logits to one token and what is reported about it.
 *
 * The row is looked at in segments of columns, and the work on a row is a chain of stages:
 *
 *     measure   per segment   maximum, sum of exp, finite      (right after the multiply)
 *     begin     once          joins them; many rows end here: greedy, scored, not finite
 *     mask      per segment   copy for changing, with the grammar's mask
 *     adjust    once          bias, penalties
 *     top       per segment   maximum of what is left
 *     join      once          greedy rows end here
 *     scale     per segment   z = (z - top) / temperature and its sum of exp, for top_p alone
 *     cut       once          top_k, top_p: the least column that may still be drawn
 *     race      per segment   the greatest p_i / E_i of the columns that are left
 *     end       once          the winner, its log-probability and rank
 *
 * A stage that a row does not need does nothing. Stages per segment may be run by several
 * workers, a barrier after each; the outcome is the same bits however they are shared. A row
 * on one worker goes through cpu_draw_all.
 *
 * p_i / E_i with E_i exponential from (seed, draw, i): the greatest is a draw from p. So a
 * token drafted by argmax is verified by drawing as if there were no draft and comparing: it
 * stands with probability p(draft), and otherwise the token drawn is distributed as p without
 * the draft, which is the rejection rule. */
#ifndef TN_CPU_SAMPLE_H
#define TN_CPU_SAMPLE_H

#include "kernel.h"
#include "rng.h"

typedef struct cpu_segment {
    double sum;                   /* sum of exp(x - max) */
    float max;
    int32_t at;                   /* its first column */
    uint32_t finite;              /* no NaN, no +inf */
    uint32_t reserved;
} cpu_segment;

/* The fastest column of a segment. */
typedef struct cpu_racer {
    double score;
    int32_t token;                /* -1: none took part */
    uint32_t reserved;
} cpu_racer;

/* Memory of one row in the making. */
typedef struct cpu_scratch {
    float *z;                     /* [vocab] */
    float *value;                 /* [vocab] of columns that top_k or top_p look at */
    int32_t *id;                  /* [vocab] theirs; also counts of penalized tokens */
    cpu_segment *segment;         /* [nsegment] */
    cpu_racer *racer;             /* [nsegment] */
} cpu_scratch;

typedef struct cpu_draw {
    /* set by the caller */
    const cpu_kernels *k;
    const tn_sampling *s;
    const float *raw;             /* [vocab]; what is padding holds -inf */
    const cpu_segment *raw_segment; /* [nsegment], measured */
    uint32_t vocab, segment_width, nsegment;
    cpu_scratch *scratch;         /* for rows that cpu_draw_begin leaves unfinished */

    /* out */
    tn_result result;

    /* between stages */
    uint32_t done;                /* result is final but for reports */
    uint32_t waits;               /* was not done when begun: set once, safe to read beside
                                     workers that finish other rows */
    uint32_t adjusted;            /* z is a changed copy, else the raw row */
    uint32_t scaled;
    const float *z;
    const cpu_segment *segment;   /* maxima of z as it was before scaling */
    float top, inverse;           /* value of column i: (z[i] - top) * inverse */
    float floor;                  /* left are columns with z >= floor and value > least, */
    float least;                  /* or value == least and */
    int32_t last;                 /* column <= last */
    float raw_max;
    int32_t raw_at;
    double raw_log_sum;           /* log of the sum of exp(raw - raw_max) */
    double lead;                  /* score of the best column: nobody below it wins */
    cpu_rng rng;
} cpu_draw;

/* Columns [from, to) of a row. */
void cpu_segment_measure(const cpu_kernels *k, const float *row, uint32_t from, uint32_t to,
                         cpu_segment *out);

void cpu_draw_begin(cpu_draw *d);
void cpu_draw_mask(cpu_draw *d, uint32_t segment0, uint32_t segment1);
void cpu_draw_adjust(cpu_draw *d);
void cpu_draw_top(cpu_draw *d, uint32_t segment0, uint32_t segment1);
void cpu_draw_join(cpu_draw *d);
void cpu_draw_scale(cpu_draw *d, uint32_t segment0, uint32_t segment1);
void cpu_draw_cut(cpu_draw *d);
void cpu_draw_race(cpu_draw *d, uint32_t segment0, uint32_t segment1);
void cpu_draw_end(cpu_draw *d);
/* Everything after begin, on one worker. */
void cpu_draw_all(cpu_draw *d);

/* The s->ntop most probable tokens, best first, of equals the lower id; sets result.ntop. */
void cpu_draw_report(cpu_draw *d, int32_t *token, float *logprob);

#endif
