/* SPDX-License-Identifier: Apache-2.0 */
/* delta.c - DELTA: the gated delta rule, row after row, in fp32.
 *
 * A worker takes one v-head of one sequence through all rows of the step. Per row:
 *
 *     q, k, v = silu(conv(columns before, this row))      its k-head's and its own channels
 *     q, k    = q / |q| / sqrt(k_dim), k / |k|
 *     S      <- exp(g) S;  d = beta (v - S'k);  S <- S + k d';  o = S'q
 *     out     = norm(o) w_norm act(z)
 *
 * The convolution of q and k is done once for each v-head that shares the k-head: a hundredth
 * of the work on S. The columns that the convolution will want next are written behind a
 * barrier, when nobody reads the old ones any more. Cutting a prompt anywhere changes no bit,
 * which prefix caching and drafting rely on; with the option `delta = chunked` the rows of a
 * prompt are taken 64 at a time instead (delta_chunk.c), and then a cut shows in the last bits.
 *
 * A slow decay is no number that fp32 can hold: beside 1 it is off by up to 3e-8, row after row
 * in the same direction, 5e-4 of S after 64,000 rows. So S fades by S (exp(g) - 1), whose own
 * rounding is as likely up as down.
 *
 * Drafts: which of a draft step's rows count is known only later, and a rule cannot be undone.
 * So such a step goes on with a copy of S and leaves the raw inputs of its rows in the slot,
 * pending; the next step first takes in those that count, with the same arithmetic:
 *
 *     columns  | pending rows that count |  rows of this step
 *              S -----------------------> S, settled ---------> S after the step; with drafts
 *                                                               thrown away                   */
#include "delta.h"

#include <math.h>

#define NORM_EPS 1e-6f            /* of the l2 norms, inside the root */

uint32_t cpu_delta_floats(const cpu_program *p, const tn_op_delta *a)
{
    uint32_t most = a->k_dim > a->v_dim ? a->k_dim : a->v_dim;
    uint32_t copy = p->lim.drafts_max > 0 ? a->k_dim * a->v_dim : 0;
    uint32_t chunk = p->dev->chunked ? cpu_delta_chunk_floats(a) : 0;
    /* a sequence with drafts is not chunked: the two are never wanted together */
    return 5 * (uint32_t)cpu_round(most, 16) + (copy > chunk ? copy : chunk);
}

/* How many pending rows of the slot that a sequence comes from belong to it. */
static int32_t pending_rows(const cpu_program *p, const tn_seq *seq)
{
    return seq->accepted >= 0 ? seq->accepted : p->verdict[seq->state_in];
}

/* The raw input `back` rows before row `row`, from channel `channel` on; NULL: before the
 * beginning. */
static const float *raw_row(const cpu_program *p, const cpu_delta *h, int32_t row, uint32_t back,
                            uint32_t channel)
{
    int32_t at = row - (int32_t)back;
    if (at >= 0)
        return cpu_row(p, h->a->qkv, (uint64_t)(h->seq->row0 + at), h->a->qkv_col + channel);
    at += h->npending;
    if (at >= 0)
        return cpu_state_pending(h->state, h->seq->state_in, (uint32_t)at) + channel;
    if (h->columns == NULL)
        return NULL;
    return h->columns + (uint64_t)((int32_t)h->state->keep + at) * h->state->width + channel;
}

/* Raw a and b of the head in a row. */
static void raw_gates(const cpu_program *p, const cpu_delta *h, int32_t row, float *a, float *b)
{
    if (row >= 0) {
        uint64_t at = (uint64_t)(h->seq->row0 + row);
        *a = *cpu_row(p, h->a->a, at, h->a->a_col + h->index);
        *b = *cpu_row(p, h->a->b, at, h->a->b_col + h->index);
        return;
    }
    const float *gates = cpu_state_pending(h->state, h->seq->state_in,
                                           (uint32_t)(row + h->npending)) + h->state->width;
    *a = gates[h->index];
    *b = gates[h->state->heads + h->index];
}

/* silu(conv) of n channels. */
static void convolve(const cpu_program *p, const cpu_delta *h, int32_t row, uint32_t channel,
                     uint32_t n, float *out)
{
    uint32_t kernel = h->state->keep + 1;
    const float *w = p->weight[h->a->w_conv].vector + (uint64_t)channel * kernel;
    for (uint32_t i = 0; i < n; i++)
        out[i] = 0;
    for (uint32_t j = 0; j < kernel; j++) {
        const float *x = raw_row(p, h, row, kernel - 1 - j, channel);
        for (uint32_t i = 0; x != NULL && i < n; i++)
            out[i] += w[(uint64_t)i * kernel + j] * x[i];
    }
    if (h->a->w_conv_bias != TN_NONE)
        p->k->add(out, p->weight[h->a->w_conv_bias].vector + channel, n);
    p->k->act_mul(out, h->ones, TN_ACT_SILU, n, out);
}

static void scale_to_unit(float *x, uint32_t n, float factor)
{
    float sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += x[i] * x[i];
    factor /= sqrtf(sum + NORM_EPS);
    for (uint32_t i = 0; i < n; i++)
        x[i] *= factor;
}

/* Where half or more is forgotten, exp(g) is the number that fp32 holds better. */
static void rule(const cpu_program *p, const cpu_delta *h, cpu_delta_gates gates)
{
    const float half = -0.6931472f;
    const bool slow = gates.g > half;
    const cpu_rule r = {.s = h->s, .rows = h->a->k_dim, .cols = h->a->v_dim, .q = h->q, .k = h->k,
                        .v = h->v, .o = h->o, .slow = slow,
                        .fade = slow ? expm1f(gates.g) : expf(gates.g), .beta = gates.beta};
    p->k->rule(&r);
}

cpu_delta_gates cpu_delta_take(const cpu_program *p, const cpu_delta *h, int32_t row, float *q,
                               float *k, float *v)
{
    const tn_op_delta *t = h->a;
    uint32_t key = t->k_heads * t->k_dim;
    float a, b;
    convolve(p, h, row, h->k_head * t->k_dim, t->k_dim, q);
    convolve(p, h, row, key + h->k_head * t->k_dim, t->k_dim, k);
    convolve(p, h, row, 2 * key + h->index * t->v_dim, t->v_dim, v);
    scale_to_unit(q, t->k_dim, 1.0f / sqrtf((float)t->k_dim));
    scale_to_unit(k, t->k_dim, 1.0f);
    raw_gates(p, h, row, &a, &b);
    float x = a + p->weight[t->w_dt_bias].vector[h->index];
    float softplus = x > 20 ? x : log1pf(expf(x));
    return (cpu_delta_gates){.g = -expf(p->weight[t->w_a_log].vector[h->index]) * softplus,
                             .beta = 1.0f / (1.0f + expf(-b))};
}

void cpu_delta_put(const cpu_program *p, const cpu_delta *h, int32_t row, float *o)
{
    const tn_op_delta *a = h->a;
    uint64_t at = (uint64_t)(h->seq->row0 + row);
    float *out = cpu_row(p, a->out, at, a->out_col + h->index * a->v_dim);
    const float *z = cpu_row(p, a->z, at, a->z_col + h->index * a->v_dim);
    p->k->norm(o, p->weight[a->w_norm].vector, 0, a->eps, a->v_dim, o);
    if (a->gate_act == TN_ACT_SILU) {
        p->k->act_mul(z, o, TN_ACT_SILU, a->v_dim, out);
    } else {
        memcpy(out, o, a->v_dim * sizeof *out);
        p->k->mul_sigmoid(out, z, a->v_dim);
    }
}

/* Takes row `r` into S; leaves what the row reads in h->o. */
static void do_row(const cpu_program *p, const cpu_delta *h, int32_t r)
{
    rule(p, h, cpu_delta_take(p, h, r, h->q, h->k, h->v));
}

/* All rows of the step. Drafts are settled row after row, so they are taken so too; a single
 * row is a chunk already. */
static void do_rows(const cpu_program *p, const cpu_delta *h, float *memory)
{
    bool chunked = p->dev->chunked && (h->seq->flags & TN_SEQ_DRAFT) == 0;
    for (int32_t r = 0, n; r < h->seq->nrow; r += n) {
        n = h->seq->nrow - r < (int32_t)CPU_DELTA_CHUNK ? h->seq->nrow - r
                                                        : (int32_t)CPU_DELTA_CHUNK;
        if (chunked && n > 1) {
            cpu_delta_chunk(p, h, r, (uint32_t)n, memory);
            continue;
        }
        n = 1;
        do_row(p, h, r);
        cpu_delta_put(p, h, r, h->o);
    }
}

/* S moves to the slot that it will be in after the step. */
static void open_state(const cpu_program *p, const cpu_state *s, const tn_seq *seq, cpu_delta *h)
{
    uint64_t size = (uint64_t)s->k_dim * s->v_dim, at = h->index * size;
    bool fresh = (seq->flags & TN_SEQ_FRESH) != 0;
    h->s = cpu_state_slot(s, seq->state_out) + at;
    h->columns = NULL;
    h->npending = fresh ? 0 : pending_rows(p, seq);
    if (fresh) {
        memset(h->s, 0, size * sizeof *h->s);
        return;
    }
    const float *in = cpu_state_slot(s, seq->state_in);
    h->columns = in + s->heads * size;
    if (seq->state_in != seq->state_out)
        memcpy(h->s, in + at, size * sizeof *h->s);
}

static void do_head(const cpu_program *p, const tn_op_delta *a, const tn_seq *seq,
                    uint32_t index, float *memory)
{
    uint64_t n = cpu_round(a->k_dim > a->v_dim ? a->k_dim : a->v_dim, 16);
    cpu_delta h = {.a = a, .state = &p->state[a->state], .seq = seq, .index = index,
                   .k_head = index / (a->v_heads / a->k_heads), .q = memory, .k = memory + n,
                   .v = memory + 2 * n, .o = memory + 3 * n, .ones = memory + 4 * n};
    for (uint64_t i = 0; i < n; i++)
        h.ones[i] = 1;
    open_state(p, h.state, seq, &h);
    for (int32_t r = -h.npending; r < 0; r++)
        do_row(p, &h, r);
    if ((seq->flags & TN_SEQ_DRAFT) != 0)
        h.s = memcpy(memory + 5 * n, h.s, (uint64_t)a->k_dim * a->v_dim * sizeof *h.s);
    do_rows(p, &h, memory + 5 * n);
}

/* Channels [from, to) of the columns after the step: the last `keep` raw inputs that S has
 * seen. Oldest first, so that moving in place reads a column before it is written. */
static void keep_columns(const cpu_program *p, const cpu_delta *h, uint32_t from, uint32_t to)
{
    const cpu_state *s = h->state;
    int32_t last = (h->seq->flags & TN_SEQ_DRAFT) != 0 ? -1 : h->seq->nrow - 1;
    float *out = cpu_state_slot(s, h->seq->state_out) +
                 (uint64_t)s->heads * s->k_dim * s->v_dim;
    for (uint32_t j = 0; j < s->keep; j++) {
        const float *x = raw_row(p, h, last, s->keep - 1 - j, from);
        float *to_column = out + (uint64_t)j * s->width + from;
        if (x == NULL)
            memset(to_column, 0, (to - from) * sizeof *x);
        else if (x != to_column)
            memcpy(to_column, x, (to - from) * sizeof *x);
    }
}

/* The same channels of the rows that stay pending, and with the first of them a and b. */
static void keep_pending(const cpu_program *p, const cpu_delta *h, uint32_t from, uint32_t to)
{
    const tn_op_delta *a = h->a;
    for (int32_t r = 0; r < h->seq->nrow; r++) {
        float *out = cpu_state_pending(h->state, h->seq->state_out, (uint32_t)r);
        uint64_t row = (uint64_t)(h->seq->row0 + r), size = a->v_heads * sizeof *out;
        memcpy(out + from, cpu_row(p, a->qkv, row, a->qkv_col + from), (to - from) * sizeof *out);
        if (from > 0)
            continue;
        memcpy(out + h->state->width, cpu_row(p, a->a, row, a->a_col), size);
        memcpy(out + h->state->width + a->v_heads, cpu_row(p, a->b, row, a->b_col), size);
    }
}

static void keep_inputs(const cpu_program *p, const tn_op_delta *a, const tn_seq *seq,
                        uint32_t from, uint32_t to)
{
    cpu_delta h = {.a = a, .state = &p->state[a->state], .seq = seq};
    if ((seq->flags & TN_SEQ_FRESH) == 0) {
        h.columns = cpu_state_slot(h.state, seq->state_in) +
                    (uint64_t)h.state->heads * h.state->k_dim * h.state->v_dim;
        h.npending = pending_rows(p, seq);
    }
    keep_columns(p, &h, from, to);
    if ((seq->flags & TN_SEQ_DRAFT) != 0)
        keep_pending(p, &h, from, to);
}

/* Rows of no sequence get zeros. */
static void clear_padding(const cpu_program *p, const tn_op_delta *a, uint32_t worker)
{
    uint64_t from, to;
    cpu_share(p, worker, p->step->nrow, &from, &to);
    for (; from < to; from++)
        if (p->pos[from] < 0)
            memset(cpu_row(p, a->out, from, a->out_col), 0,
                   (uint64_t)a->v_heads * a->v_dim * sizeof(float));
}

/* A sequence without rows settles what is pending. */
static bool has_work(const tn_seq *seq)
{
    return seq->nrow > 0 || seq->accepted != 0;
}

void cpu_do_delta(cpu_program *p, const cpu_cmd *c, uint32_t worker)
{
    const tn_op_delta *a = &c->op->a.delta;
    uint64_t n, from, to;
    clear_padding(p, a, worker);
    while (cpu_claim(p, worker, (uint64_t)p->step->nseq * a->v_heads, &n))
        if (has_work(&p->step->seq[n / a->v_heads]))
            do_head(p, a, &p->step->seq[n / a->v_heads], (uint32_t)(n % a->v_heads),
                    p->worker[worker].delta);
    cpu_sync(p, worker);
    cpu_share(p, worker, p->state[a->state].width, &from, &to);
    for (uint32_t i = 0; from < to && i < p->step->nseq; i++)
        if (has_work(&p->step->seq[i]))
            keep_inputs(p, a, &p->step->seq[i], (uint32_t)from, (uint32_t)to);
}
