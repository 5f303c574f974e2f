/* SPDX-License-Identifier: Apache-2.0 */
/* plugin_lab_ref.c - what every operation of a recipe means, in double, row after row. */
#include "plugin_lab.h"

#include <math.h>
#include <stdlib.h>

#define L2_EPS 1e-6   /* inside the root of DELTA's norms */

bool tn_lab_reserve(tn_lab *l, uint32_t rows_max, uint32_t block_tokens, uint32_t nblock,
                    uint32_t nslot)
{
    const tn_cache_spec *c = &l->cache;
    const tn_state_spec *s = &l->state;
    size_t tokens = (size_t)nblock * block_tokens * c->heads + 1;
    bool ok = true;
    l->rows_max = rows_max;
    l->block_tokens = block_tokens;
    l->nblock = nblock;
    l->nslot = nslot;
    for (uint32_t i = 0; i < l->recipe.nbuffer; i++) {
        l->value[i] = calloc((size_t)rows_max * l->buffer[i].width, sizeof(double));
        ok = ok && l->value[i] != NULL;
    }
    l->k_cache = calloc(tokens * (c->k_dim + 1), sizeof(double));
    l->v_cache = calloc(tokens * (c->v_dim + 1), sizeof(double));
    l->s_state = calloc((size_t)nslot * s->heads * s->k_dim * s->v_dim + 1, sizeof(double));
    l->columns = calloc((size_t)nslot * s->conv_keep * s->conv_width + 1, sizeof(double));
    return ok && l->k_cache && l->v_cache && l->s_state && l->columns;
}

double *tn_lab_row(const tn_lab *l, uint32_t buffer, uint32_t row)
{
    return l->value[buffer] + (size_t)row * l->buffer[buffer].width;
}

uint32_t tn_lab_rows(const tn_lab *l, const tn_step *s, uint32_t buffer)
{
    uint32_t kind = l->buffer[buffer].rows;
    return kind == TN_ROWS_OUTS ? s->nout : kind == TN_ROWS_SEQS ? s->nseq : s->nrow;
}

static const double *weight_row(const tn_lab *l, uint32_t w, uint64_t row)
{
    return l->data[w].w + row * l->weight[w].k;
}

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

static double act(uint32_t kind, double x)
{
    switch (kind) {
    case TN_ACT_SILU:
        return x * sigmoid(x);
    case TN_ACT_GELU:
        return 0.5 * x * (1 + erf(x * M_SQRT1_2));
    case TN_ACT_GELU_TANH:
        return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    default:
        return sigmoid(x);
    }
}

static double dot(const double *a, const double *b, uint64_t n)
{
    double sum = 0;
    for (uint64_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

/* ------------------------------------------------------------------------ row by row */

static void embed(const tn_lab *l, const tn_step *s, const tn_op_embed *o)
{
    const tn_weight_spec *w = &l->weight[o->w];
    for (uint32_t r = 0; r < s->nrow; r++) {
        int32_t token = s->row_token[r];
        int64_t at = (int64_t)(token >= 0 ? token : l->drawn[-1 - token]) - o->first;
        bool ours = at >= 0 && (uint64_t)at < w->n;
        for (uint64_t c = 0; c < w->k; c++)
            tn_lab_row(l, o->out, r)[c] =
                ours ? weight_row(l, o->w, (uint64_t)at)[c] * (double)o->scale : 0;
    }
}

static void norm_piece(const double *x, double *y, uint32_t n, const double *w, double offset,
                       double eps)
{
    double f = 1 / sqrt(dot(x, x, n) / n + eps);
    for (uint32_t c = 0; c < n; c++)
        y[c] = x[c] * f * (w ? w[c] + offset : 1);
}

static void norm(const tn_lab *l, const tn_step *s, const tn_op_norm *o)
{
    const double *w = o->w == TN_NONE ? NULL : weight_row(l, o->w, 0);
    for (uint32_t r = 0; r < tn_lab_rows(l, s, o->in); r++)
        for (uint32_t g = 0; g < (o->groups > 1 ? o->groups : 1); g++)
            norm_piece(tn_lab_row(l, o->in, r) + o->in_col + g * o->width,
                       tn_lab_row(l, o->out, r) + o->out_col + g * o->width, o->width, w,
                       (double)o->offset, (double)o->eps);
}

static void linear(const tn_lab *l, const tn_step *s, const tn_op_linear *o)
{
    for (uint32_t j = 0; j < o->nparts; j++) {
        const tn_part *p = &o->part[j];
        const tn_weight_spec *w = &l->weight[p->w];
        for (uint32_t r = 0; r < tn_lab_rows(l, s, o->in); r++)
            for (uint64_t n = 0; n < w->n; n++) {
                double v = dot(tn_lab_row(l, o->in, r) + o->in_col, weight_row(l, p->w, n), w->k);
                double *y = tn_lab_row(l, p->out, r) + p->col + n;
                v += p->bias == TN_NONE ? 0 : weight_row(l, p->bias, 0)[n];
                *y = o->add ? *y + v : v;
            }
    }
}

static void act_mul(const tn_lab *l, const tn_step *s, const tn_op_act_mul *o)
{
    for (uint32_t r = 0; r < tn_lab_rows(l, s, o->in); r++)
        for (uint32_t c = 0; c < o->width; c++) {
            const double *x = tn_lab_row(l, o->in, r);
            tn_lab_row(l, o->out, r)[c] = act(o->act, x[o->a_col + c]) * x[o->b_col + c];
        }
}

static void mix(const tn_lab *l, const tn_step *s, const tn_op_mix *o)
{
    for (uint32_t r = 0; r < tn_lab_rows(l, s, o->in); r++) {
        double f = (double)o->scale;
        if (o->gate != TN_NONE)
            f *= sigmoid(tn_lab_row(l, o->gate, r)[o->gate_col]);
        for (uint32_t c = 0; c < o->width; c++) {
            double *y = tn_lab_row(l, o->out, r) + o->out_col + c;
            double v = f * tn_lab_row(l, o->in, r)[o->in_col + c];
            *y = o->add ? *y + v : v;
        }
    }
}

static void concat(const tn_lab *l, const tn_step *s, const tn_op_concat *o)
{
    for (uint32_t r = 0; r < tn_lab_rows(l, s, o->a); r++) {
        double *y = tn_lab_row(l, o->out, r);
        memcpy(y, tn_lab_row(l, o->a, r) + o->a_col, o->a_width * sizeof *y);
        memcpy(y + o->a_width, tn_lab_row(l, o->b, r) + o->b_col, o->b_width * sizeof *y);
    }
}

static void pick(const tn_lab *l, const tn_step *s, const tn_op_pick *o)
{
    for (uint32_t i = 0; i < s->nout; i++)
        memcpy(tn_lab_row(l, o->out, i), tn_lab_row(l, o->in, (uint32_t)s->out[i].row),
               o->width * sizeof(double));
}

/* ------------------------------------------------------------------------------ attention */

static void rotate(const tn_rope *p, double *x, int64_t position)
{
    uint32_t pairs = p->dims / 2;
    for (uint32_t i = 0; i < pairs; i++) {
        double angle = (double)position * p->inv_freq[i];
        double c = cos(angle) * p->scale, s = sin(angle) * p->scale;
        double *a = p->pairing == TN_ROPE_HALF ? x + i : x + 2 * i;
        double *b = p->pairing == TN_ROPE_HALF ? x + i + pairs : x + 2 * i + 1;
        double u = *a, v = *b;
        *a = u * c - v * s;
        *b = v * c + u * s;
    }
}

/* Where the cache keeps a position of a sequence: index of its first head. */
static size_t place(const tn_lab *l, const tn_step *s, const tn_seq *q, int64_t position)
{
    int32_t block = s->block[q->block0 + (uint64_t)position / l->block_tokens];
    return ((size_t)block * l->block_tokens + (uint64_t)position % l->block_tokens)
         * l->cache.heads;
}

static void heads_of_row(const tn_lab *l, const tn_step *s, const tn_op_heads *o, const tn_seq *q,
                         uint32_t row)
{
    int64_t position = q->context + ((int64_t)row - q->row0);
    double *x = tn_lab_row(l, o->x, row);
    size_t at = place(l, s, q, position);
    for (uint32_t h = 0; h < o->q_heads + o->kv_heads; h++) {
        bool is_q = h < o->q_heads;
        double *v = is_q ? x + o->q_col + h * o->head_dim
                         : x + o->k_col + (h - o->q_heads) * o->head_dim;
        uint32_t w = is_q ? o->q_norm : o->k_norm;
        if (w != TN_NONE)
            norm_piece(v, v, o->head_dim, weight_row(l, w, 0), (double)o->offset, (double)o->eps);
        if (o->rope != TN_NONE)
            rotate(&l->rope, v, position);
    }
    memcpy(l->k_cache + at * l->cache.k_dim, x + o->k_col,
           o->kv_heads * o->head_dim * sizeof *x);
    memcpy(l->v_cache + at * l->cache.v_dim, x + o->v_col,
           o->kv_heads * o->head_dim * sizeof *x);
}

static void heads(const tn_lab *l, const tn_step *s, const tn_op_heads *o)
{
    for (uint32_t i = 0; i < s->nseq; i++)
        for (int32_t r = 0; r < s->seq[i].nrow; r++)
            heads_of_row(l, s, o, &s->seq[i], (uint32_t)(s->seq[i].row0 + r));
}

static void attend_head(const tn_lab *l, const tn_step *s, const tn_op_attend *o,
                        const tn_seq *seq, uint32_t row, uint32_t h)
{
    uint32_t dim = o->head_dim, kv = h / (o->q_heads / o->kv_heads);
    int64_t last = seq->context + ((int64_t)row - seq->row0);
    int64_t first = o->window > 0 && last + 1 > (int64_t)o->window ? last + 1 - o->window : 0;
    const double *q = tn_lab_row(l, o->q, row) + o->q_col + h * dim;
    double *y = tn_lab_row(l, o->out, row) + o->out_col + h * dim, most = -INFINITY, sum = 0;
    for (int pass = 0; pass < 2; pass++) /* the maximum first, then the weighted sum */
        for (int64_t p = first; p <= last; p++) {
            size_t at = place(l, s, seq, p) + kv;
            double score = dot(q, l->k_cache + at * dim, dim) * (double)o->scale;
            if (o->softcap > 0)
                score = (double)o->softcap * tanh(score / (double)o->softcap);
            if (pass == 0) {
                most = fmax(most, score);
                continue;
            }
            double e = exp(score - most);
            for (uint32_t c = 0; c < dim; c++)
                y[c] = (sum == 0 ? 0 : y[c]) + e * l->v_cache[at * dim + c];
            sum += e;
        }
    for (uint32_t c = 0; c < dim; c++) {
        y[c] /= sum;
        if (o->gate != TN_NONE)
            y[c] *= sigmoid(tn_lab_row(l, o->gate, row)[o->gate_col + h * dim + c]);
    }
}

static void attend(const tn_lab *l, const tn_step *s, const tn_op_attend *o)
{
    for (uint32_t i = 0; i < s->nseq; i++)
        for (int32_t r = 0; r < s->seq[i].nrow; r++)
            for (uint32_t h = 0; h < o->q_heads; h++)
                attend_head(l, s, o, &s->seq[i], (uint32_t)(s->seq[i].row0 + r), h);
}

/* ------------------------------------------------------------------------------ DeltaNet */

/* silu(convolution) of one channel; shifts its columns. */
static double convolve(const tn_lab *l, const tn_op_delta *o, double *columns, uint32_t channel,
                       double x)
{
    uint32_t keep = l->state.conv_keep, width = l->state.conv_width;
    const double *w = weight_row(l, o->w_conv, channel);
    double y = w[keep] * x;
    for (uint32_t j = 0; j < keep; j++)
        y += w[j] * columns[j * width + channel];
    for (uint32_t j = 0; j + 1 < keep; j++)
        columns[j * width + channel] = columns[(j + 1) * width + channel];
    if (keep > 0)
        columns[(keep - 1) * width + channel] = x;
    y += o->w_conv_bias == TN_NONE ? 0 : weight_row(l, o->w_conv_bias, 0)[channel];
    return y * sigmoid(y);
}

static void to_unit(const double *x, double *y, uint32_t n, double scale)
{
    double f = scale / sqrt(dot(x, x, n) + L2_EPS);
    for (uint32_t i = 0; i < n; i++)
        y[i] = x[i] * f;
}

/* One v-head of one row: decay, recall, write, read. m: the row after the convolution. */
static void delta_head(const tn_lab *l, const tn_op_delta *o, const double *m, uint32_t row,
                       uint32_t h, double *state)
{
    double q[256], k[256], y[256];
    uint32_t dk = o->k_dim, dv = o->v_dim, kh = h / (o->v_heads / o->k_heads);
    const double *v = m + 2 * o->k_heads * dk + h * dv;
    double a = tn_lab_row(l, o->a, row)[o->a_col + h] + weight_row(l, o->w_dt_bias, 0)[h];
    double decay = exp(-exp(weight_row(l, o->w_a_log, 0)[h]) * log1p(exp(a)));
    double beta = sigmoid(tn_lab_row(l, o->b, row)[o->b_col + h]);
    double *s = state + (size_t)h * dk * dv;
    double *out = tn_lab_row(l, o->out, row) + o->out_col + h * dv;
    to_unit(m + kh * dk, q, dk, 1 / sqrt((double)dk));
    to_unit(m + (o->k_heads + kh) * dk, k, dk, 1);
    for (uint32_t j = 0; j < dv; j++) {
        double recalled = 0, read = 0;
        for (uint32_t i = 0; i < dk; i++)
            recalled += (s[i * dv + j] *= decay) * k[i];
        double d = beta * (v[j] - recalled);
        for (uint32_t i = 0; i < dk; i++)
            read += (s[i * dv + j] += k[i] * d) * q[i];
        y[j] = read;
    }
    norm_piece(y, out, dv, weight_row(l, o->w_norm, 0), 0, (double)o->eps);
    for (uint32_t j = 0; j < dv; j++)
        out[j] *= act(o->gate_act, tn_lab_row(l, o->z, row)[o->z_col + h * dv + j]);
}

static void delta_seq(const tn_lab *l, const tn_op_delta *o, const tn_seq *q)
{
    const tn_state_spec *st = &l->state;
    size_t size = (size_t)st->heads * st->k_dim * st->v_dim;
    size_t kept = (size_t)st->conv_keep * st->conv_width;
    double *state = l->s_state + (size_t)q->state_out * size;
    double *columns = l->columns + (size_t)q->state_out * kept, m[2048];
    if (q->flags & TN_SEQ_FRESH) {
        memset(state, 0, size * sizeof *state);
        memset(columns, 0, kept * sizeof *columns);
    } else if (q->state_in != q->state_out) {
        memcpy(state, l->s_state + (size_t)q->state_in * size, size * sizeof *state);
        memcpy(columns, l->columns + (size_t)q->state_in * kept, kept * sizeof *columns);
    }
    for (int32_t r = 0; r < q->nrow; r++) {
        uint32_t row = (uint32_t)(q->row0 + r);
        for (uint32_t c = 0; c < st->conv_width; c++)
            m[c] = convolve(l, o, columns, c, tn_lab_row(l, o->qkv, row)[o->qkv_col + c]);
        for (uint32_t h = 0; h < o->v_heads; h++)
            delta_head(l, o, m, row, h, state);
    }
}

/* ------------------------------------------------------------------------------- experts */

static void route_row(const tn_lab *l, const tn_op_route *o, uint32_t row)
{
    double p[256], sum = 0, kept = 0, most = -INFINITY;
    const double *x = tn_lab_row(l, o->in, row);
    bool taken[256] = {false};
    for (uint32_t e = 0; e < o->nexpert; e++)
        most = fmax(most, x[e]);
    for (uint32_t e = 0; e < o->nexpert; e++)
        sum += p[e] = o->kind == TN_ROUTE_SOFTMAX ? exp(x[e] - most) : sigmoid(x[e]);
    for (uint32_t e = 0; o->kind == TN_ROUTE_SOFTMAX && e < o->nexpert; e++)
        p[e] /= sum;
    for (uint32_t i = 0; i < o->ntop; i++) {
        uint32_t best = TN_NONE;
        double best_score = 0;
        for (uint32_t e = 0; e < o->nexpert; e++) {
            double score = p[e] + (o->bias == TN_NONE ? 0 : weight_row(l, o->bias, 0)[e]);
            if (!taken[e] && (best == TN_NONE || score > best_score)) {
                best = e;
                best_score = score;
            }
        }
        taken[best] = true;
        tn_lab_row(l, o->ids, row)[i] = best;
        tn_lab_row(l, o->weights, row)[i] = p[best];
        kept += p[best];
    }
    for (uint32_t i = 0; i < o->ntop; i++)
        tn_lab_row(l, o->weights, row)[i] *= (double)o->scale / (o->renorm ? kept : 1);
}

static void experts_row(const tn_lab *l, const tn_op_experts *o, uint32_t row)
{
    const tn_weight_spec *up = &l->weight[o->w_up], *down = &l->weight[o->w_down];
    const double *x = tn_lab_row(l, o->in, row);
    double *y = tn_lab_row(l, o->out, row), mid[512];
    for (uint64_t n = 0; !o->add && n < down->n; n++)
        y[n] = 0;
    for (uint32_t i = 0; i < o->ntop; i++) {
        uint64_t e = (uint64_t)tn_lab_row(l, o->ids, row)[i];
        double f = tn_lab_row(l, o->weights, row)[i];
        for (uint32_t c = 0; c < o->width; c++)
            mid[c] = act(o->act, dot(x, weight_row(l, o->w_up, e * up->n + c), up->k))
                   * dot(x, weight_row(l, o->w_up, e * up->n + o->width + c), up->k);
        for (uint64_t n = 0; n < down->n; n++)
            y[n] += f * dot(mid, weight_row(l, o->w_down, e * down->n + n), o->width);
    }
}

/* --------------------------------------------------------------------------------- a step */

static void run_op(const tn_lab *l, const tn_step *s, const tn_op *op)
{
    const tn_lab_args *a = op->args;
    switch (op->kind) {
    case TN_OP_EMBED:
        embed(l, s, &a->embed);
        break;
    case TN_OP_NORM:
        norm(l, s, &a->norm);
        break;
    case TN_OP_LINEAR:
        linear(l, s, &a->linear);
        break;
    case TN_OP_ACT_MUL:
        act_mul(l, s, &a->act_mul);
        break;
    case TN_OP_HEADS:
        heads(l, s, &a->heads);
        break;
    case TN_OP_ATTEND:
        attend(l, s, &a->attend);
        break;
    case TN_OP_DELTA:
        for (uint32_t i = 0; i < s->nseq; i++)
            delta_seq(l, &a->delta, &s->seq[i]);
        break;
    case TN_OP_ROUTE:
        for (uint32_t r = 0; r < tn_lab_rows(l, s, a->route.in); r++)
            route_row(l, &a->route, r);
        break;
    case TN_OP_EXPERTS:
        for (uint32_t r = 0; r < tn_lab_rows(l, s, a->experts.in); r++)
            experts_row(l, &a->experts, r);
        break;
    case TN_OP_MIX:
        mix(l, s, &a->mix);
        break;
    case TN_OP_CONCAT:
        concat(l, s, &a->concat);
        break;
    case TN_OP_PICK:
        pick(l, s, &a->pick);
        break;
    default: /* LOGITS and SAMPLE are judged by their results */
        break;
    }
}

void tn_lab_run(tn_lab *l, const tn_step *s)
{
    for (uint32_t i = 0; i < l->recipe.nop; i++)
        run_op(l, s, &l->op[i]);
}

void tn_lab_copy_block(tn_lab *l, int32_t from, int32_t to)
{
    size_t k = (size_t)l->block_tokens * l->cache.heads * l->cache.k_dim;
    size_t v = (size_t)l->block_tokens * l->cache.heads * l->cache.v_dim;
    memcpy(l->k_cache + (size_t)to * k, l->k_cache + (size_t)from * k, k * sizeof(double));
    memcpy(l->v_cache + (size_t)to * v, l->v_cache + (size_t)from * v, v * sizeof(double));
}

void tn_lab_copy_state(tn_lab *l, int32_t from, int32_t to)
{
    const tn_state_spec *st = &l->state;
    size_t size = (size_t)st->heads * st->k_dim * st->v_dim;
    size_t kept = (size_t)st->conv_keep * st->conv_width;
    memcpy(l->s_state + (size_t)to * size, l->s_state + (size_t)from * size,
           size * sizeof(double));
    memcpy(l->columns + (size_t)to * kept, l->columns + (size_t)from * kept,
           kept * sizeof(double));
}
