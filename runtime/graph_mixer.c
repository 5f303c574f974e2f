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
    uint64_t n = (uint64_t)c->heads * c->head_dim;
    tn_slice p = {.module = tn_draft_name(g->d, "%s.self_attn.q_proj", l->path), .n = 2 * n,
                  .k = c->hidden};
    tn_slice b = {.module = tn_draft_name(g->d, "%s.self_attn.q_proj.bias", l->path), .n = 2 * n,
                  .k = 1, .bare = true};
    tn_part part = {.out = g->qkv, .col = col, .bias = TN_NONE};
    part.w = tn_draft_stack(g->d, TN_ROLE_DENSE, 1, c->heads, n, c->hidden, "%s%s", p.module,
                            gate ? ".gate" : ".query");
    if (c->qkv_bias)
        part.bias = tn_draft_stack(g->d, TN_ROLE_VECTOR, 1, c->heads, n, 1, "%s%s", b.module,
                                   gate ? ".gate" : ".query");
    for (uint32_t i = 0; i < c->heads; i++) {
        p.row0 = b.row0 = (2 * (uint64_t)i + gate) * c->head_dim;
        p.row1 = b.row1 = p.row0 + c->head_dim;
        tn_draft_slice(g->d, part.w, i, &p);
        if (part.bias != TN_NONE)
            tn_draft_slice(g->d, part.bias, i, &b);
    }
    return part;
}

static void add_qkv(tn_graph *g, const tn_graph_layer *l, uint32_t nq, uint32_t nkv)
{
    const tn_model_conf *c = g->c;
    uint32_t width = nq + 2 * nkv + (c->attn_gate ? nq : 0);
    tn_graph_buffer(g, &g->qkv, width, g->act_dtype, "qkv");
    tn_op_linear op = {.size = sizeof op, .in = g->h, .nparts = 3};
    op.part[0] = c->attn_gate ? half_of_q(g, l, false, 0)
                              : tn_graph_part(g, l, "self_attn.q_proj", nq, c->hidden,
                                              c->qkv_bias, g->qkv, 0);
    op.part[1] = tn_graph_part(g, l, "self_attn.k_proj", nkv, c->hidden, c->qkv_bias, g->qkv, nq);
    op.part[2] = tn_graph_part(g, l, "self_attn.v_proj", nkv, c->hidden, c->qkv_bias, g->qkv,
                               nq + nkv);
    if (c->attn_gate)
        op.part[op.nparts++] = half_of_q(g, l, true, nq + 2 * nkv);
    tn_draft_op(g->d, TN_OP_LINEAR, l->index, &op, "%s.qkv", l->label);
}

void tn_graph_attention(tn_graph *g, const tn_graph_layer *l)
{
    tn_draft *d = g->d;
    const tn_model_conf *c = g->c;
    uint32_t nq = c->heads * c->head_dim, nkv = c->kv_heads * c->head_dim;
    add_qkv(g, l, nq, nkv);

    uint32_t cache = tn_draft_cache(d, c->kv_heads, c->head_dim, c->head_dim);
    tn_op_heads heads = {.size = sizeof heads, .x = g->qkv, .k_col = nq, .v_col = nq + nkv,
                         .q_heads = c->heads, .kv_heads = c->kv_heads, .head_dim = c->head_dim,
                         .rope = g->rope, .q_norm = TN_NONE, .k_norm = TN_NONE, .eps = c->eps,
                         .offset = c->norm_offset, .cache = cache};
    if (c->qk_norm) {
        heads.q_norm = tn_draft_vector(d, c->head_dim, "%s.self_attn.q_norm.weight", l->path);
        heads.k_norm = tn_draft_vector(d, c->head_dim, "%s.self_attn.k_norm.weight", l->path);
    }
    tn_draft_op(d, TN_OP_HEADS, l->index, &heads, "%s.heads", l->label);

    tn_graph_buffer(g, &g->att, nq, g->act_dtype, "att");
    tn_op_attend attend = {.size = sizeof attend, .q = g->qkv, .out = g->att,
                           .q_heads = c->heads, .kv_heads = c->kv_heads, .head_dim = c->head_dim,
                           .cache = cache, .window = l->window, .gate = TN_NONE};
    attend.scale = (float)(1 / sqrt(c->head_dim));
    if (c->attn_gate) {
        attend.gate = g->qkv;
        attend.gate_col = nq + 2 * nkv;
    }
    tn_draft_op(d, TN_OP_ATTEND, l->index, &attend, "%s.attend", l->label);

    tn_op_linear out = {.size = sizeof out, .in = g->att, .nparts = 1, .add = 1};
    out.part[0] = tn_graph_part(g, l, "self_attn.o_proj", c->hidden, nq, c->o_bias, g->x, 0);
    tn_draft_op(d, TN_OP_LINEAR, l->index, &out, "%s.o", l->label);
}

/* ---------------------------------------------------------------------- Gated DeltaNet */

/* `count` runs of `rows` rows of a module: the i-th begins at first + i * stride. */
typedef struct runs {
    uint64_t first, stride, rows;
    uint32_t count;
} runs;

static uint32_t stack_of_runs(tn_graph *g, const tn_graph_layer *l, const char *module,
                              uint64_t n, const runs *r, uint32_t nr, uint32_t role,
                              const char *part)
{
    uint32_t nslice = 0, at = 0;
    uint64_t rows = 0;
    for (uint32_t i = 0; i < nr; i++) {
        nslice += r[i].count;
        rows += r[i].count * r[i].rows;
    }
    tn_slice p = {.module = tn_draft_name(g->d, "%s.linear_attn.%s", l->path, module), .n = n,
                  .k = g->c->hidden};
    uint32_t w = tn_draft_stack(g->d, role, 1, nslice, rows, g->c->hidden, "%s.%s", p.module,
                                part);
    for (uint32_t i = 0; i < nr; i++)
        for (uint32_t j = 0; j < r[i].count; j++) {
            p.row0 = r[i].first + j * r[i].stride;
            p.row1 = p.row0 + r[i].rows;
            tn_draft_slice(g->d, w, at++, &p);
        }
    return w;
}

/* The columns of the buffer `mix`. */
typedef struct mix_cols {
    uint32_t z, b, a, width;
} mix_cols;

static mix_cols mix_layout(const tn_delta_conf *t)
{
    mix_cols m = {.z = 2 * t->k_heads * t->k_dim + t->v_heads * t->v_dim};
    m.b = m.z + t->v_heads * t->v_dim;
    m.a = m.b + t->v_heads;
    m.width = m.a + t->v_heads;
    return m;
}

/* b and a are small and decide how fast a state forgets: never requantized, like a router. */
static void parts_interleaved(tn_graph *g, const tn_graph_layer *l, mix_cols m, tn_op_linear *op)
{
    const tn_delta_conf *t = &g->c->delta;
    uint64_t r = t->v_heads / t->k_heads, kd = t->k_dim, vd = r * t->v_dim;
    uint64_t group = 2 * kd + 2 * vd;
    const runs qkv[] = {{0, group, kd, t->k_heads}, {kd, group, kd, t->k_heads},
                        {2 * kd, group, vd, t->k_heads}};
    const runs z = {2 * kd + vd, group, vd, t->k_heads};
    const runs b = {0, 2 * r, r, t->k_heads}, a = {r, 2 * r, r, t->k_heads};
    uint64_t n = t->k_heads * group, nba = 2 * (uint64_t)t->v_heads;
    uint32_t w[] = {
        stack_of_runs(g, l, "in_proj_qkvz", n, qkv, 3, TN_ROLE_DENSE, "qkv"),
        stack_of_runs(g, l, "in_proj_qkvz", n, &z, 1, TN_ROLE_DENSE, "z"),
        stack_of_runs(g, l, "in_proj_ba", nba, &b, 1, TN_ROLE_ROUTER, "b"),
        stack_of_runs(g, l, "in_proj_ba", nba, &a, 1, TN_ROLE_ROUTER, "a"),
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
    op->nparts = 4;
    op->part[0] = tn_graph_part(g, l, "linear_attn.in_proj_qkv", m.z, hidden, false, out, 0);
    op->part[1] = tn_graph_part(g, l, "linear_attn.in_proj_z", m.b - m.z, hidden, false, out, m.z);
    op->part[2] = tn_graph_part(g, l, "linear_attn.in_proj_b", t->v_heads, hidden, false, out,
                                m.b);
    op->part[3] = tn_graph_part(g, l, "linear_attn.in_proj_a", t->v_heads, hidden, false, out,
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
                      .k_heads = t->k_heads, .v_heads = t->v_heads, .k_dim = t->k_dim,
                      .v_dim = t->v_dim, .w_conv_bias = TN_NONE, .gate_act = t->gate_act,
                      .eps = g->c->eps};
    op.w_conv = tn_draft_vector(d, (uint64_t)m.z * t->kernel, "%s.linear_attn.conv1d.weight",
                                l->path);
    op.w_a_log = tn_draft_vector(d, t->v_heads, "%s.linear_attn.A_log", l->path);
    op.w_dt_bias = tn_draft_vector(d, t->v_heads, "%s.linear_attn.dt_bias", l->path);
    op.w_norm = tn_draft_vector(d, t->v_dim, "%s.linear_attn.norm.weight", l->path);
    op.state = tn_draft_state(d, t);
    return op;
}

void tn_graph_delta(tn_graph *g, const tn_graph_layer *l)
{
    const tn_delta_conf *t = &g->c->delta;
    mix_cols m = mix_layout(t);
    uint32_t value = t->v_heads * t->v_dim;
    tn_graph_buffer(g, &g->mix, m.width, g->act_dtype, "mix");
    tn_graph_buffer(g, &g->delta, value, g->act_dtype, "delta");
    tn_op_linear in = {.size = sizeof in, .in = g->h};
    if (t->split)
        parts_split(g, l, m, &in);
    else
        parts_interleaved(g, l, m, &in);
    tn_draft_op(g->d, TN_OP_LINEAR, l->index, &in, "%s.in", l->label);
    tn_op_delta op = delta_op(g, l, m);
    tn_draft_op(g->d, TN_OP_DELTA, l->index, &op, "%s.delta", l->label);
    tn_op_linear out = {.size = sizeof out, .in = g->delta, .nparts = 1, .add = 1};
    out.part[0] = tn_graph_part(g, l, "linear_attn.out_proj", g->c->hidden, value, false, g->x, 0);
    tn_draft_op(g->d, TN_OP_LINEAR, l->index, &out, "%s.out", l->label);
}
