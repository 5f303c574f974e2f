/* SPDX-License-Identifier: Apache-2.0 */
/* graph_mixer.c - what mixes the tokens of a layer: attention or Gated DeltaNet.
 *
 * Checkpoints of Qwen3-Next interleave the rows of their projections:
 *
 *     q_proj        per head      query [head_dim] | output gate [head_dim]
 *     in_proj_qkvz  per k-head    q [k_dim] | k [k_dim] | v [r v_dim] | z [r v_dim]
 *     in_proj_ba    per k-head    b [r] | a [r]                r = v_heads / k_heads
 *
 * They are told apart row by row while they are read, so a device sees q | k | v, z, b and a
 * as matrices of their own, in every form. */
#include "graph.h"

#include <math.h>

/* -------------------------------------------------------------------------- attention */

/* One half of q_proj: the queries, or the output gates of all heads. */
static tn_part half_of_q(tn_graph *g, const tn_graph_layer *l, bool gate, uint32_t col)
{
    const tn_model_conf *c = g->c;
    uint64_t n = 2 * (uint64_t)c->heads * c->head_dim, pair = 2 * (uint64_t)c->head_dim;
    const char *which = gate ? "gate" : "query";
    tn_spans rows = {0};
    for (uint32_t i = 0; i < g->s.q.count; i++)
        tn_graph_span(g, &rows, (g->s.q.first + i) * pair + (gate ? c->head_dim : 0), c->head_dim);
    tn_slice q = {.module = "self_attn.q_proj", .n = n, .k = c->hidden};
    tn_slice b = {.module = "self_attn.q_proj.bias", .n = n, .k = 1, .bare = true};
    tn_part part = {.out = g->qkv, .col = col, .bias = TN_NONE};
    part.w = tn_graph_rows(g, l, TN_ROLE_DENSE, &q, &rows, which);
    if (c->qkv_bias)
        part.bias = tn_graph_rows(g, l, TN_ROLE_VECTOR, &b, &rows, which);
    return part;
}

/* Rows of the heads that this rank's heads share, of `dim` rows each, the first at `row0`. */
static void shared_rows(tn_graph *g, const tn_heads *h, uint64_t row0, uint32_t dim, tn_spans *to)
{
    for (uint32_t i = 0; i < h->shared; i++)
        tn_graph_span(g, to, row0 + (uint64_t)tn_heads_shared(h, i) * dim, dim);
}

static void add_qkv(tn_graph *g, const tn_graph_layer *l, uint32_t nq, uint32_t nkv)
{
    const tn_model_conf *c = g->c;
    uint32_t width = nq + 2 * nkv + (c->attn_gate ? nq : 0);
    tn_graph_buffer(g, &g->qkv, width, g->act_dtype, "qkv");
    tn_op_linear op = {.size = sizeof op, .in = g->h, .nparts = 3};
    uint64_t all_q = (uint64_t)c->heads * c->head_dim, all_kv = (uint64_t)c->kv_heads * c->head_dim;
    const tn_spans q = tn_graph_spans(g, (uint64_t)g->s.q.first * c->head_dim, nq);
    tn_spans kv = {0};
    shared_rows(g, &g->s.q, 0, c->head_dim, &kv);
    op.part[0] = c->attn_gate ? half_of_q(g, l, false, 0)
                              : tn_graph_part(g, l, "self_attn.q_proj", all_q, c->hidden, &q,
                                              c->qkv_bias, g->qkv, 0);
    op.part[1] = tn_graph_part(g, l, "self_attn.k_proj", all_kv, c->hidden, &kv, c->qkv_bias,
                               g->qkv, nq);
    op.part[2] = tn_graph_part(g, l, "self_attn.v_proj", all_kv, c->hidden, &kv, c->qkv_bias,
                               g->qkv, nq + nkv);
    if (c->attn_gate)
        op.part[op.nparts++] = half_of_q(g, l, true, nq + 2 * nkv);
    tn_draft_op(g->d, TN_OP_LINEAR, l->index, &op, "%s.qkv", l->label);
}

void tn_graph_attention(tn_graph *g, const tn_graph_layer *l)
{
    tn_draft *d = g->d;
    const tn_model_conf *c = g->c;
    uint32_t heads_q = g->s.q.count, heads_kv = g->s.q.shared;
    uint32_t nq = heads_q * c->head_dim, nkv = heads_kv * c->head_dim;
    add_qkv(g, l, nq, nkv);

    uint32_t cache = tn_draft_cache(d, heads_kv, c->head_dim, c->head_dim);
    tn_op_heads heads = {.size = sizeof heads, .x = g->qkv, .k_col = nq, .v_col = nq + nkv,
                         .q_heads = heads_q, .kv_heads = heads_kv, .head_dim = c->head_dim,
                         .rope = g->rope, .q_norm = TN_NONE, .k_norm = TN_NONE, .eps = c->eps,
                         .offset = c->norm_offset, .cache = cache};
    if (c->qk_norm) {
        heads.q_norm = tn_draft_vector(d, c->head_dim, "%s.self_attn.q_norm.weight", l->path);
        heads.k_norm = tn_draft_vector(d, c->head_dim, "%s.self_attn.k_norm.weight", l->path);
    }
    tn_draft_op(d, TN_OP_HEADS, l->index, &heads, "%s.heads", l->label);

    tn_graph_buffer(g, &g->att, nq, g->act_dtype, "att");
    tn_op_attend attend = {.size = sizeof attend, .q = g->qkv, .out = g->att,
                           .q_heads = heads_q, .kv_heads = heads_kv, .head_dim = c->head_dim,
                           .cache = cache, .window = l->window, .gate = TN_NONE};
    attend.scale = (float)(1 / sqrt(c->head_dim));
    if (c->attn_gate) {
        attend.gate = g->qkv;
        attend.gate_col = nq + 2 * nkv;
    }
    tn_draft_op(d, TN_OP_ATTEND, l->index, &attend, "%s.attend", l->label);

    const tn_graph_way way = {.module = "self_attn.o_proj", .op = "o",
                              .in = tn_graph_narrow(g, l, g->att, nq),
                              .cols = g->s.q.cols, .in_col = g->s.q.skip, .bias = c->o_bias,
                              .k = (uint64_t)c->heads * c->head_dim};
    tn_graph_back(g, l, &way);
    tn_graph_join(g, l, "o");
}

/* ---------------------------------------------------------------------- Gated DeltaNet */

/* The columns of the buffer `mix`. */
typedef struct mix_cols {
    uint32_t z, b, a, width;
} mix_cols;

static mix_cols mix_layout(const tn_delta_conf *t, const tn_share *s)
{
    uint32_t value = s->v.count * t->v_dim;
    mix_cols m = {.z = 2 * s->v.shared * t->k_dim + value};
    m.b = m.z + value;
    m.a = m.b + s->v.count;
    m.width = m.a + s->v.count;
    return m;
}

/* This rank's rows of q, k and v where all of the three lie one below the other. */
static tn_spans qkv_rows(tn_graph *g)
{
    const tn_delta_conf *t = &g->c->delta;
    uint64_t key = (uint64_t)t->k_heads * t->k_dim;
    tn_spans rows = {0};
    shared_rows(g, &g->s.v, 0, t->k_dim, &rows);
    shared_rows(g, &g->s.v, key, t->k_dim, &rows);
    tn_graph_span(g, &rows, 2 * key + (uint64_t)g->s.v.first * t->v_dim,
                  (uint64_t)g->s.v.count * t->v_dim);
    return rows;
}

/* The rows of an interleaved projection: each k-head has `group` of them, and of these each of
 * its v-heads `dim` from `at` on. */
static void value_rows(tn_graph *g, uint64_t group, uint64_t at, uint64_t dim, tn_spans *to)
{
    const tn_heads *h = &g->s.v;
    for (uint32_t i = h->first; i < h->first + h->count; i++)
        tn_graph_span(g, to, i / h->group * group + at + i % h->group * dim, dim);
}

static void key_rows(tn_graph *g, uint64_t group, uint64_t at, tn_spans *to)
{
    for (uint32_t i = 0; i < g->s.v.shared; i++)
        tn_graph_span(g, to, tn_heads_shared(&g->s.v, i) * group + at, g->c->delta.k_dim);
}

/* b and a are small and decide how fast a state forgets: never requantized, like a router. */
static void parts_interleaved(tn_graph *g, const tn_graph_layer *l, mix_cols m, tn_op_linear *op)
{
    const tn_delta_conf *t = &g->c->delta;
    uint64_t r = t->v_heads / t->k_heads, kd = t->k_dim, vd = r * t->v_dim;
    uint64_t group = 2 * kd + 2 * vd;
    tn_spans qkv = {0}, z = {0}, b = {0}, a = {0};
    key_rows(g, group, 0, &qkv);
    key_rows(g, group, kd, &qkv);
    value_rows(g, group, 2 * kd, t->v_dim, &qkv);
    value_rows(g, group, 2 * kd + vd, t->v_dim, &z);
    value_rows(g, 2 * r, 0, 1, &b);
    value_rows(g, 2 * r, r, 1, &a);
    tn_slice qkvz = {.module = "linear_attn.in_proj_qkvz", .n = t->k_heads * group,
                     .k = g->c->hidden};
    tn_slice ba = {.module = "linear_attn.in_proj_ba", .n = 2 * (uint64_t)t->v_heads,
                   .k = g->c->hidden};
    uint32_t w[] = {
        tn_graph_rows(g, l, TN_ROLE_DENSE, &qkvz, &qkv, "qkv"),
        tn_graph_rows(g, l, TN_ROLE_DENSE, &qkvz, &z, "z"),
        tn_graph_rows(g, l, TN_ROLE_ROUTER, &ba, &b, "b"),
        tn_graph_rows(g, l, TN_ROLE_ROUTER, &ba, &a, "a"),
    };
    const uint32_t col[] = {0, m.z, m.b, m.a};
    for (op->nparts = 0; op->nparts < 4; op->nparts++)
        op->part[op->nparts] = (tn_part){.w = w[op->nparts], .bias = TN_NONE, .out = g->mix,
                                         .col = col[op->nparts]};
}

static void parts_split(tn_graph *g, const tn_graph_layer *l, mix_cols m, tn_op_linear *op)
{
    const tn_delta_conf *t = &g->c->delta;
    uint32_t hidden = g->c->hidden, out = g->mix;
    uint64_t value = (uint64_t)t->v_heads * t->v_dim;
    const tn_spans qkv = qkv_rows(g), v = tn_graph_spans(g, g->s.v.first, g->s.v.count);
    const tn_spans z = tn_graph_spans(g, (uint64_t)g->s.v.first * t->v_dim,
                                      (uint64_t)g->s.v.count * t->v_dim);
    tn_slice all = {.module = "linear_attn.in_proj_qkv", .k = hidden,
                    .n = 2 * (uint64_t)t->k_heads * t->k_dim + value};
    op->nparts = 4;
    op->part[0] = (tn_part){.bias = TN_NONE, .out = out};
    op->part[0].w = tn_graph_rows(g, l, TN_ROLE_DENSE, &all, &qkv, NULL);
    op->part[1] = tn_graph_part(g, l, "linear_attn.in_proj_z", value, hidden, &z, false, out, m.z);
    op->part[2] = tn_graph_part(g, l, "linear_attn.in_proj_b", t->v_heads, hidden, &v, false, out,
                                m.b);
    op->part[3] = tn_graph_part(g, l, "linear_attn.in_proj_a", t->v_heads, hidden, &v, false, out,
                                m.a);
    for (uint32_t i = 2; i < 4 && !g->d->failed; i++)
        g->d->weight[op->part[i].w].role = TN_ROLE_ROUTER;
}

static tn_op_delta delta_op(tn_graph *g, const tn_graph_layer *l, mix_cols m)
{
    tn_draft *d = g->d;
    const tn_delta_conf *t = &g->c->delta;
    tn_op_delta op = {.size = sizeof op, .qkv = g->mix, .z = g->mix, .z_col = m.z, .a = g->mix,
                      .a_col = m.a, .b = g->mix, .b_col = m.b, .out = g->delta,
                      .k_heads = g->s.v.shared, .v_heads = g->s.v.count, .k_dim = t->k_dim,
                      .v_dim = t->v_dim, .w_conv_bias = TN_NONE, .gate_act = t->gate_act,
                      .eps = g->c->eps};
    tn_slice conv = {.module = "linear_attn.conv1d.weight", .k = t->kernel, .bare = true,
                     .n = 2 * (uint64_t)t->k_heads * t->k_dim + (uint64_t)t->v_heads * t->v_dim};
    tn_slice a_log = {.module = "linear_attn.A_log", .n = t->v_heads, .k = 1, .bare = true};
    tn_slice dt_bias = {.module = "linear_attn.dt_bias", .n = t->v_heads, .k = 1, .bare = true};
    const tn_spans qkv = qkv_rows(g), heads = tn_graph_spans(g, g->s.v.first, g->s.v.count);
    op.w_conv = tn_graph_rows(g, l, TN_ROLE_VECTOR, &conv, &qkv, NULL);
    op.w_a_log = tn_graph_rows(g, l, TN_ROLE_VECTOR, &a_log, &heads, NULL);
    op.w_dt_bias = tn_graph_rows(g, l, TN_ROLE_VECTOR, &dt_bias, &heads, NULL);
    op.w_norm = tn_draft_vector(d, t->v_dim, "%s.linear_attn.norm.weight", l->path);
    op.state = tn_draft_state(d, t, g->s.v.shared, g->s.v.count);
    return op;
}

void tn_graph_delta(tn_graph *g, const tn_graph_layer *l)
{
    const tn_delta_conf *t = &g->c->delta;
    mix_cols m = mix_layout(t, &g->s);
    tn_graph_buffer(g, &g->mix, m.width, g->act_dtype, "mix");
    uint32_t wide = g->s.v.count * t->v_dim;
    tn_graph_buffer(g, &g->delta, wide, g->act_dtype, "delta");
    tn_op_linear in = {.size = sizeof in, .in = g->h};
    if (t->split)
        parts_split(g, l, m, &in);
    else
        parts_interleaved(g, l, m, &in);
    tn_draft_op(g->d, TN_OP_LINEAR, l->index, &in, "%s.in", l->label);
    tn_op_delta op = delta_op(g, l, m);
    tn_draft_op(g->d, TN_OP_DELTA, l->index, &op, "%s.delta", l->label);
    const tn_graph_way way = {.module = "linear_attn.out_proj", .op = "out",
                              .in = tn_graph_narrow(g, l, g->delta, wide),
                              .cols = g->s.v.cols, .in_col = g->s.v.skip,
                              .k = (uint64_t)t->v_heads * t->v_dim};
    tn_graph_back(g, l, &way);
    tn_graph_join(g, l, "out");
}
