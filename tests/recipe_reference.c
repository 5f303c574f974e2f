/* SPDX-License-Identifier: Apache-2.0 */
/* recipe_reference.c - a recipe in double precision. */
#include "recipe_reference.h"

#include <math.h>
#include <stdlib.h>

struct reference {
    fixture *f;
    uint32_t rows_max, block_tokens, nblock, nslot;
    double **buffer;              /* [nbuffer] of [rows_max, width] */
    double **k, **v;              /* [ncache] of [nblock, block_tokens, heads, dim] */
    double **s, **columns;        /* [nstate] of [nslot, ...] */
    const tn_step *step;
};

static void *take(uint64_t count, uint64_t size)
{
    void *p = calloc(count > 0 ? count : 1, size);
    if (p == NULL)
        abort();
    return p;
}

reference *ref_new(fixture *f, uint32_t rows_max, uint32_t block_tokens, uint32_t nblock,
                   uint32_t nslot)
{
    reference *r = take(1, sizeof *r);
    *r = (reference){.f = f, .rows_max = rows_max, .block_tokens = block_tokens,
                     .nblock = nblock, .nslot = nslot};
    r->buffer = take(f->recipe.nbuffer, sizeof *r->buffer);
    r->k = take(f->recipe.ncache, sizeof *r->k);
    r->v = take(f->recipe.ncache, sizeof *r->v);
    r->s = take(f->recipe.nstate, sizeof *r->s);
    r->columns = take(f->recipe.nstate, sizeof *r->columns);
    for (uint32_t i = 0; i < f->recipe.nbuffer; i++)
        r->buffer[i] = take((uint64_t)rows_max * f->buffer[i].width, sizeof(double));
    for (uint32_t i = 0; i < f->recipe.ncache; i++) {
        uint64_t n = (uint64_t)nblock * block_tokens * f->cache[i].heads * f->cache[i].k_dim;
        r->k[i] = take(n, sizeof(double));
        r->v[i] = take(n, sizeof(double));
    }
    for (uint32_t i = 0; i < f->recipe.nstate; i++) {
        const tn_state_spec *t = &f->state[i];
        r->s[i] = take((uint64_t)nslot * t->heads * t->k_dim * t->v_dim, sizeof(double));
        r->columns[i] = take((uint64_t)nslot * t->conv_keep * t->conv_width, sizeof(double));
    }
    return r;
}

void ref_free(reference *r)
{
    for (uint32_t i = 0; i < r->f->recipe.nbuffer; i++)
        free(r->buffer[i]);
    for (uint32_t i = 0; i < r->f->recipe.ncache; i++) {
        free(r->k[i]);
        free(r->v[i]);
    }
    for (uint32_t i = 0; i < r->f->recipe.nstate; i++) {
        free(r->s[i]);
        free(r->columns[i]);
    }
    free(r->buffer);
    free(r->k);
    free(r->v);
    free(r->s);
    free(r->columns);
    free(r);
}

static double *at(const reference *r, uint32_t buffer, uint64_t row, uint32_t col)
{
    return r->buffer[buffer] + row * r->f->buffer[buffer].width + col;
}

const double *ref_row(const reference *r, uint32_t buffer, uint32_t row)
{
    return at(r, buffer, row, 0);
}

const double *ref_state(const reference *r, uint32_t state, uint32_t slot)
{
    const tn_state_spec *t = &r->f->state[state];
    return r->s[state] + (uint64_t)slot * t->heads * t->k_dim * t->v_dim;
}

static uint32_t rows_of(const reference *r, uint32_t buffer)
{
    uint32_t kind = r->f->buffer[buffer].rows;
    return kind == TN_ROWS_TOKENS ? r->step->nrow : kind == TN_ROWS_OUTS ? r->step->nout
                                                                        : r->step->nseq;
}

static const float *vector(const reference *r, uint32_t w)
{
    return r->f->data[w].value;
}

double ref_dot(const reference *r, uint32_t w, uint32_t expert, uint64_t row, const double *x)
{
    const tn_weight_spec *s = &r->f->weight[w];
    const float *v = r->f->data[w].value + (expert * s->n + row) * s->k;
    double sum = 0;
    for (uint64_t i = 0; i < s->k; i++)
        sum += (double)v[i] * x[i];
    return sum;
}

/* ------------------------------------------------------------------------------ functions */

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

static double activate(double x, uint32_t act)
{
    if (act == TN_ACT_SILU)
        return x * sigmoid(x);
    if (act == TN_ACT_GELU)
        return x * 0.5 * erfc(-x / sqrt(2));
    if (act == TN_ACT_SIGMOID)
        return sigmoid(x);
    return 0.5 * x * (1 + tanh(sqrt(2 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
}

static void norm(const double *in, const float *w, double offset, double eps, uint32_t n,
                 double *out)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += in[i] * in[i];
    double factor = 1 / sqrt(sum / n + eps);
    for (uint32_t i = 0; i < n; i++)
        out[i] = in[i] * factor * (w != NULL ? (double)w[i] + offset : 1);
}

static void put(double *out, double v, uint32_t add)
{
    *out = add ? *out + v : v;
}

/* ------------------------------------------------------------------------------ operations */

static void do_embed(reference *r, const tn_op_embed *a)
{
    uint64_t k = r->f->weight[a->w].k;
    for (uint32_t i = 0; i < r->step->nrow; i++) {
        int64_t row = (int64_t)r->step->row_token[i] - a->first;
        bool known = row >= 0 && row < (int64_t)r->f->weight[a->w].n;
        for (uint64_t j = 0; j < k; j++)
            at(r, a->out, i, 0)[j] = known ? (double)vector(r, a->w)[(uint64_t)row * k + j] *
                                             (double)a->scale : 0;
    }
}

static void do_norm(reference *r, const tn_op_norm *a)
{
    uint32_t groups = a->groups > 0 ? a->groups : 1;
    for (uint32_t i = 0; i < rows_of(r, a->in); i++)
        for (uint32_t g = 0; g < groups; g++)
            norm(at(r, a->in, i, a->in_col + g * a->width),
                 a->w != TN_NONE ? vector(r, a->w) : NULL, a->offset, a->eps, a->width,
                 at(r, a->out, i, a->out_col + g * a->width));
}

static void do_linear(reference *r, const tn_op_linear *a)
{
    for (uint32_t i = 0; i < rows_of(r, a->in); i++)
        for (uint32_t p = 0; p < a->nparts; p++) {
            const tn_part *part = &a->part[p];
            for (uint64_t n = 0; n < r->f->weight[part->w].n; n++) {
                double y = ref_dot(r, part->w, 0, n, at(r, a->in, i, a->in_col));
                if (part->bias != TN_NONE)
                    y += (double)vector(r, part->bias)[n];
                put(at(r, part->out, i, part->col) + n, y, a->add);
            }
        }
}

static void do_act_mul(reference *r, const tn_op_act_mul *a)
{
    for (uint32_t i = 0; i < rows_of(r, a->in); i++)
        for (uint32_t j = 0; j < a->width; j++)
            at(r, a->out, i, 0)[j] = activate(at(r, a->in, i, a->a_col)[j], a->act) *
                                     at(r, a->in, i, a->b_col)[j];
}

static int32_t pos_of(const reference *r, uint32_t row)
{
    const tn_seq *q = &r->step->seq[r->step->row_seq[row]];
    return q->context + ((int32_t)row - q->row0);
}

/* Where a token's head lies in a cache. */
static uint64_t cached(const reference *r, uint32_t cache, int32_t seq, int32_t pos,
                       uint32_t head)
{
    const tn_cache_spec *c = &r->f->cache[cache];
    uint32_t n = r->block_tokens;
    int32_t block = r->step->block[r->step->seq[seq].block0 + (uint32_t)pos / n];
    return (((uint64_t)block * n + (uint32_t)pos % n) * c->heads + head) * c->k_dim;
}

static void turn(const tn_rope *t, int32_t pos, double *x)
{
    uint32_t half = t->dims / 2;
    for (uint32_t i = 0; i < half; i++) {
        double *p = t->pairing == TN_ROPE_HALF ? x + i : x + 2 * i;
        double *q = t->pairing == TN_ROPE_HALF ? x + half + i : x + 2 * i + 1;
        double a = *p, b = *q, angle = pos * t->inv_freq[i];
        *p = (a * cos(angle) - b * sin(angle)) * t->scale;
        *q = (b * cos(angle) + a * sin(angle)) * t->scale;
    }
}

static void do_heads(reference *r, const tn_op_heads *a)
{
    for (uint32_t i = 0; i < r->step->nrow; i++) {
        if (r->step->row_seq[i] < 0)
            continue;
        for (uint32_t h = 0; h < a->q_heads + a->kv_heads; h++) {
            bool is_q = h < a->q_heads;
            uint32_t head = is_q ? h : h - a->q_heads, w = is_q ? a->q_norm : a->k_norm;
            double *x = at(r, a->x, i, (is_q ? a->q_col : a->k_col) + head * a->head_dim);
            if (w != TN_NONE)
                norm(x, vector(r, w), a->offset, a->eps, a->head_dim, x);
            if (a->rope != TN_NONE)
                turn(&r->f->rope[a->rope], pos_of(r, i), x);
            if (is_q)
                continue;
            uint64_t to = cached(r, a->cache, r->step->row_seq[i], pos_of(r, i), head);
            for (uint32_t d = 0; d < a->head_dim; d++) {
                r->k[a->cache][to + d] = x[d];
                r->v[a->cache][to + d] = at(r, a->x, i, a->v_col + head * a->head_dim)[d];
            }
        }
    }
}

static void attend_head(reference *r, const tn_op_attend *a, uint32_t row, uint32_t head)
{
    int32_t seq = r->step->row_seq[row], pos = pos_of(r, row), first = 0;
    uint32_t kv = head / (a->q_heads / a->kv_heads);
    double *out = at(r, a->out, row, a->out_col + head * a->head_dim);
    const double *q = at(r, a->q, row, a->q_col + head * a->head_dim);
    double *score = take((uint64_t)pos + 1, sizeof *score), top = -INFINITY, sum = 0;
    if (a->window > 0 && pos >= (int32_t)a->window)
        first = pos - (int32_t)a->window + 1;
    for (int32_t t = first; t <= pos; t++) {
        const double *k = r->k[a->cache] + cached(r, a->cache, seq, t, kv);
        for (uint32_t d = 0; d < a->head_dim; d++)
            score[t] += q[d] * k[d];
        score[t] *= a->scale;
        if (a->softcap > 0)
            score[t] = a->softcap * tanh(score[t] / a->softcap);
        top = fmax(top, score[t]);
    }
    for (uint32_t d = 0; d < a->head_dim; d++)
        out[d] = 0;
    for (int32_t t = first; t <= pos; t++) {
        const double *v = r->v[a->cache] + cached(r, a->cache, seq, t, kv);
        double p = exp(score[t] - top);
        sum += p;
        for (uint32_t d = 0; d < a->head_dim; d++)
            out[d] += p * v[d];
    }
    for (uint32_t d = 0; d < a->head_dim; d++) {
        out[d] /= sum;
        if (a->gate != TN_NONE)
            out[d] *= sigmoid(at(r, a->gate, row, a->gate_col + head * a->head_dim)[d]);
    }
    free(score);
}

static void do_attend(reference *r, const tn_op_attend *a)
{
    for (uint32_t i = 0; i < r->step->nrow; i++)
        for (uint32_t h = 0; h < a->q_heads; h++) {
            if (r->step->row_seq[i] >= 0)
                attend_head(r, a, i, h);
            else
                memset(at(r, a->out, i, a->out_col), 0,
                       (uint64_t)a->q_heads * a->head_dim * sizeof(double));
        }
}

/* The convolved channel of one row: columns before the step come from the state. */
static double convolved(const reference *r, const tn_op_delta *a, const double *columns,
                        const tn_seq *q, int32_t row, uint32_t channel)
{
    const tn_state_spec *t = &r->f->state[a->state];
    double sum = a->w_conv_bias != TN_NONE ? (double)vector(r, a->w_conv_bias)[channel] : 0;
    for (int32_t j = 0; j <= (int32_t)t->conv_keep; j++) {
        int32_t back = row - ((int32_t)t->conv_keep - j);
        double w = (double)vector(r, a->w_conv)[channel * (t->conv_keep + 1) + (uint32_t)j];
        sum += w * (back >= 0 ? at(r, a->qkv, (uint64_t)(q->row0 + back), a->qkv_col)[channel]
                  : columns[(uint64_t)((int32_t)t->conv_keep + back) * t->conv_width + channel]);
    }
    return activate(sum, TN_ACT_SILU);
}

static void delta_row(reference *r, const tn_op_delta *a, const double *columns, const tn_seq *q,
                      int32_t row, uint32_t h, double *s)
{
    uint32_t kh = h / (a->v_heads / a->k_heads), key = a->k_heads * a->k_dim;
    uint64_t i = (uint64_t)(q->row0 + row);
    double qq[256], kk[256], u[256], o[256], qn = 0, kn = 0;
    for (uint32_t d = 0; d < a->k_dim; d++) {
        qq[d] = convolved(r, a, columns, q, row, kh * a->k_dim + d);
        kk[d] = convolved(r, a, columns, q, row, key + kh * a->k_dim + d);
        qn += qq[d] * qq[d];
        kn += kk[d] * kk[d];
    }
    for (uint32_t d = 0; d < a->k_dim; d++) {
        qq[d] *= 1 / sqrt(qn + 1e-6) / sqrt(a->k_dim);
        kk[d] *= 1 / sqrt(kn + 1e-6);
    }
    double x = *at(r, a->a, i, a->a_col + h) + (double)vector(r, a->w_dt_bias)[h];
    double g = -exp((double)vector(r, a->w_a_log)[h]) * (x > 20 ? x : log1p(exp(x)));
    double beta = sigmoid(*at(r, a->b, i, a->b_col + h));
    for (uint32_t e = 0; e < a->v_dim; e++) {
        u[e] = 0;
        for (uint32_t d = 0; d < a->k_dim; d++) {
            s[d * a->v_dim + e] *= exp(g);
            u[e] += s[d * a->v_dim + e] * kk[d];
        }
        double v = convolved(r, a, columns, q, row, 2 * key + h * a->v_dim + e);
        o[e] = 0;
        for (uint32_t d = 0; d < a->k_dim; d++) {
            s[d * a->v_dim + e] += kk[d] * beta * (v - u[e]);
            o[e] += s[d * a->v_dim + e] * qq[d];
        }
    }
    double *out = at(r, a->out, i, a->out_col + h * a->v_dim);
    norm(o, vector(r, a->w_norm), 0, a->eps, a->v_dim, out);
    for (uint32_t e = 0; e < a->v_dim; e++)
        out[e] *= activate(at(r, a->z, i, a->z_col + h * a->v_dim)[e], a->gate_act);
}

static void delta_seq(reference *r, const tn_op_delta *a, const tn_seq *q)
{
    const tn_state_spec *t = &r->f->state[a->state];
    uint64_t size = (uint64_t)t->heads * t->k_dim * t->v_dim;
    uint64_t width = (uint64_t)t->conv_keep * t->conv_width;
    double *s = r->s[a->state] + (uint64_t)q->state_out * size;
    double *columns = take(width, sizeof *columns);
    bool fresh = (q->flags & TN_SEQ_FRESH) != 0;
    if (fresh) {
        memset(s, 0, size * sizeof *s);
    } else {
        memmove(s, r->s[a->state] + (uint64_t)q->state_in * size, size * sizeof *s);
        memcpy(columns, r->columns[a->state] + (uint64_t)q->state_in * width,
               width * sizeof *columns);
    }
    for (int32_t row = 0; row < q->nrow; row++)
        for (uint32_t h = 0; h < a->v_heads; h++)
            delta_row(r, a, columns, q, row, h, s + (uint64_t)h * t->k_dim * t->v_dim);
    double *out = r->columns[a->state] + (uint64_t)q->state_out * width;
    for (int32_t j = 0; j < (int32_t)t->conv_keep; j++) {
        int32_t back = q->nrow - (int32_t)t->conv_keep + j;
        for (uint32_t c = 0; c < t->conv_width; c++)
            out[(uint64_t)j * t->conv_width + c] = back >= 0
                ? at(r, a->qkv, (uint64_t)(q->row0 + back), a->qkv_col)[c]
                : columns[(uint64_t)((int32_t)t->conv_keep + back) * t->conv_width + c];
    }
    free(columns);
}

static void do_delta(reference *r, const tn_op_delta *a)
{
    for (uint32_t i = 0; i < r->step->nrow; i++)
        if (r->step->row_seq[i] < 0)
            memset(at(r, a->out, i, a->out_col), 0,
                   (uint64_t)a->v_heads * a->v_dim * sizeof(double));
    for (uint32_t i = 0; i < r->step->nseq; i++)
        if (r->step->seq[i].nrow > 0)
            delta_seq(r, a, &r->step->seq[i]);
}

static void do_route(reference *r, const tn_op_route *a)
{
    for (uint32_t i = 0; i < rows_of(r, a->in); i++) {
        const double *x = at(r, a->in, i, 0);
        double *p = take(a->nexpert, sizeof *p), top = -INFINITY, sum = 0, chosen = 0;
        bool *used = take(a->nexpert, sizeof *used);
        for (uint32_t e = 0; e < a->nexpert; e++)
            top = fmax(top, x[e]);
        for (uint32_t e = 0; e < a->nexpert; e++)
            sum += exp(x[e] - top);
        for (uint32_t e = 0; e < a->nexpert; e++)
            p[e] = a->kind == TN_ROUTE_SOFTMAX ? exp(x[e] - top) / sum : sigmoid(x[e]);
        for (uint32_t j = 0; j < a->ntop; j++) {
            uint32_t best = 0;
            double best_score = -INFINITY;
            for (uint32_t e = 0; e < a->nexpert; e++) {
                double score = p[e];
                if (a->bias != TN_NONE)
                    score += (double)vector(r, a->bias)[e];
                if (!used[e] && score > best_score) {
                    best = e;
                    best_score = score;
                }
            }
            used[best] = true;
            chosen += p[best];
            at(r, a->ids, i, 0)[j] = best;
            at(r, a->weights, i, 0)[j] = p[best];
        }
        for (uint32_t j = 0; j < a->ntop; j++)
            at(r, a->weights, i, 0)[j] *= (double)a->scale / (a->renorm ? chosen : 1);
        free(p);
        free(used);
    }
}

static void do_experts(reference *r, const tn_op_experts *a)
{
    uint64_t n = r->f->weight[a->w_down].n;
    double *hidden = take(a->width, sizeof *hidden);
    for (uint32_t i = 0; i < rows_of(r, a->in); i++) {
        for (uint64_t j = 0; !a->add && j < n; j++)
            at(r, a->out, i, 0)[j] = 0;
        for (uint32_t c = 0; c < a->ntop; c++) {
            uint32_t e = (uint32_t)at(r, a->ids, i, 0)[c];
            const double *x = at(r, a->in, i, 0);
            for (uint32_t j = 0; j < a->width; j++)
                hidden[j] = activate(ref_dot(r, a->w_up, e, j, x), a->act) *
                            ref_dot(r, a->w_up, e, a->width + j, x);
            for (uint64_t j = 0; j < n; j++)
                at(r, a->out, i, 0)[j] += at(r, a->weights, i, 0)[c] *
                                          ref_dot(r, a->w_down, e, j, hidden);
        }
    }
    free(hidden);
}

static void do_mix(reference *r, const tn_op_mix *a)
{
    for (uint32_t i = 0; i < rows_of(r, a->in); i++) {
        double factor = a->scale;
        if (a->gate != TN_NONE)
            factor *= sigmoid(*at(r, a->gate, i, a->gate_col));
        for (uint32_t j = 0; j < a->width; j++)
            put(at(r, a->out, i, a->out_col) + j, factor * at(r, a->in, i, a->in_col)[j],
                a->add);
    }
}

static void do_concat(reference *r, const tn_op_concat *a)
{
    for (uint32_t i = 0; i < rows_of(r, a->out); i++) {
        memcpy(at(r, a->out, i, 0), at(r, a->a, i, a->a_col), a->a_width * sizeof(double));
        memcpy(at(r, a->out, i, a->a_width), at(r, a->b, i, a->b_col),
               a->b_width * sizeof(double));
    }
}

static void do_pick(reference *r, const tn_op_pick *a)
{
    for (uint32_t i = 0; i < r->step->nout; i++)
        memcpy(at(r, a->out, i, 0), at(r, a->in, (uint64_t)r->step->out[i].row, 0),
               a->width * sizeof(double));
}

static void do_gather(reference *r, const tn_op_gather *a)
{
    for (uint32_t i = 0; i < rows_of(r, a->in); i++)
        memcpy(at(r, a->out, i, 0), at(r, a->in, i, 0), a->width * sizeof(double));
}

static void do_logits(reference *r, const tn_op_logits *a)
{
    for (uint32_t i = 0; i < r->step->nout; i++)
        for (uint32_t j = 0; j < a->vocab; j++) {
            double *x = at(r, a->x, i, 0) + j;
            if (a->softcap > 0)
                *x = a->softcap * tanh(*x / a->softcap);
            if (j >= a->valid)
                *x = -INFINITY;
        }
}

void ref_step(reference *r, const tn_step *s)
{
    const tn_section *section = &r->f->section[s->section];
    r->step = s;
    for (uint32_t i = section->op0; i < section->op0 + section->nop; i++) {
        const void *a = r->f->op[i].args;
        switch (r->f->op[i].kind) {
        case TN_OP_EMBED: do_embed(r, a); break;
        case TN_OP_NORM: do_norm(r, a); break;
        case TN_OP_LINEAR: do_linear(r, a); break;
        case TN_OP_ACT_MUL: do_act_mul(r, a); break;
        case TN_OP_HEADS: do_heads(r, a); break;
        case TN_OP_ATTEND: do_attend(r, a); break;
        case TN_OP_DELTA: do_delta(r, a); break;
        case TN_OP_ROUTE: do_route(r, a); break;
        case TN_OP_EXPERTS: do_experts(r, a); break;
        case TN_OP_MIX: do_mix(r, a); break;
        case TN_OP_CONCAT: do_concat(r, a); break;
        case TN_OP_PICK: do_pick(r, a); break;
        case TN_OP_GATHER: do_gather(r, a); break;
        case TN_OP_LOGITS: do_logits(r, a); break;
        default: break;
        }
    }
}
