/* SPDX-License-Identifier: Apache-2.0 */
/* graph_mlp.c - what follows the mixer of a layer: one MLP, or experts of which each token
 * chooses a few, with or without one that all share:
 *
 *     x += sum over the choice of weight * down(act(gate(h)) * up(h))
 *     x += sigmoid(shared_expert_gate(h)) * shared_expert(h)                              */
#include "graph.h"

#include <stdio.h>

/* ff = act(gate(h)) * up(h) for these of the `all` columns of the module PATH.NAME. */
static void add_gate_up(tn_graph *g, const tn_graph_layer *l, const char *module, uint32_t all,
                        tn_run own, bool bias, uint32_t gu, uint32_t ff, const char *op)
{
    char gate[64], up[64];
    const uint32_t width = own.ncol;
    const tn_spans rows = tn_graph_spans(g, own.col0, width);
    snprintf(gate, sizeof gate, "%s.gate_proj", module);
    snprintf(up, sizeof up, "%s.up_proj", module);
    tn_op_linear in = {.size = sizeof in, .in = g->h, .nparts = 2};
    in.part[0] = tn_graph_part(g, l, gate, all, g->c->hidden, &rows, bias, gu, 0);
    in.part[1] = tn_graph_part(g, l, up, all, g->c->hidden, &rows, bias, gu, width);
    tn_draft_op(g->d, TN_OP_LINEAR, l->index, &in, "%s.%sgate_up", l->label, op);
    tn_op_act_mul act = {.size = sizeof act, .in = gu, .b_col = width, .out = ff, .width = width,
                         .act = g->c->act};
    tn_draft_op(g->d, TN_OP_ACT_MUL, l->index, &act, "%s.%sact", l->label, op);
}

void tn_graph_mlp(tn_graph *g, const tn_graph_layer *l)
{
    const tn_model_conf *c = g->c;
    const tn_run own = g->s.inter;
    if (own.ncol > 0) {
        tn_graph_buffer(g, &g->gu, 2 * own.ncol, g->act_dtype, "gate_up");
        tn_graph_buffer(g, &g->ff, own.ncol, g->act_dtype, "ff");
        add_gate_up(g, l, "mlp", c->inter, own, c->mlp_bias, g->gu, g->ff, "");
        const tn_graph_way way = {.module = "mlp.down_proj", .op = "down", .k = c->inter,
                                  .cols = own, .in = g->ff, .bias = c->mlp_bias};
        tn_graph_back(g, l, &way);
    } else {
        tn_graph_nothing(g, l, "down");
    }
    tn_graph_join(g, l, "down");
}

/* ---------------------------------------------------------------------------- experts */

static bool is_fused(const tn_graph *g, const tn_graph_layer *l)
{
    char name[160];
    tn_tensor t;
    snprintf(name, sizeof name, "%s.%s.experts.gate_up_proj", l->path, g->c->moe.block);
    return g->view != NULL && g->view->find(g->view, name, &t);
}

/* A stack from one tensor that holds all experts, [nexpert, nrun * all, k]: of each `all` rows
 * the run that is this rank's. */
static uint32_t fused_stack(tn_graph *g, const tn_graph_layer *l, const char *module,
                            uint64_t all, const tn_run *own, uint32_t nrun, uint64_t k)
{
    const tn_moe_conf *m = &g->c->moe;
    tn_slice p = {.module = tn_draft_name(g->d, "%s.%s.experts.%s", l->path, m->block, module),
                  .n = m->nexpert * nrun * all, .k = k, .bare = true};
    uint32_t w = tn_draft_stack(g->d, TN_ROLE_EXPERTS, m->nexpert, nrun, nrun * own->ncol, k,
                                "%s", p.module);
    for (uint32_t i = 0; i < m->nexpert * nrun; i++) {
        p.row0 = i * all + own->col0;
        p.row1 = i * all + own->col0 + own->ncol;
        tn_draft_slice(g->d, w, i, &p);
    }
    return w;
}

/* A stack whose experts are modules of their own; `part` names the one or two of them whose
 * rows follow each other, of each the run that is this rank's. */
static uint32_t module_stack(tn_graph *g, const tn_graph_layer *l, const char *const *part,
                             uint32_t npart, const char *name, uint64_t all, const tn_run *own,
                             uint64_t k)
{
    const tn_moe_conf *m = &g->c->moe;
    uint32_t w = tn_draft_stack(g->d, TN_ROLE_EXPERTS, m->nexpert, npart, npart * own->ncol, k,
                                "%s.%s.experts.%s", l->path, m->block, name);
    for (uint32_t e = 0; e < m->nexpert; e++)
        for (uint32_t i = 0; i < npart; i++) {
            tn_slice p = {.n = all, .k = k, .row0 = own->col0, .row1 = own->col0 + own->ncol};
            p.module = tn_draft_name(g->d, "%s.%s.experts.%u.%s", l->path, m->block, e, part[i]);
            tn_draft_slice(g->d, w, e * npart + i, &p);
        }
    return w;
}

static void add_stacks(tn_graph *g, const tn_graph_layer *l, tn_op_experts *op)
{
    const tn_moe_conf *m = &g->c->moe;
    const char *const up[] = {m->gate, m->up}, *const down[] = {m->down};
    uint32_t hidden = g->c->hidden;
    const tn_run width = g->s.width, all = {0, hidden};
    if (is_fused(g, l)) {
        op->w_up = fused_stack(g, l, "gate_up_proj", m->width, &width, 2, hidden);
        op->w_down = fused_stack(g, l, "down_proj", hidden, &all, 1, m->width);
    } else {
        op->w_up = module_stack(g, l, up, 2, "gate_up", m->width, &width, hidden);
        op->w_down = module_stack(g, l, down, 1, "down", hidden, &all, m->width);
    }
    tn_draft_columns(g->d, op->w_down, width.col0, width.col0 + width.ncol);
}

/* Router logits and, in the column behind them, the shared expert's gate; then the choice. */
static void add_choice(tn_graph *g, const tn_graph_layer *l)
{
    tn_draft *d = g->d;
    const tn_moe_conf *m = &g->c->moe;
    tn_graph_buffer(g, &g->route, m->nexpert + (m->shared > 0), TN_F32, "route");
    tn_graph_buffer(g, &g->ids, m->ntop, TN_I32, "expert_ids");
    tn_graph_buffer(g, &g->weights, m->ntop, TN_F32, "expert_weights");
    tn_op_linear in = {.size = sizeof in, .in = g->h, .nparts = 1};
    uint32_t w = tn_draft_matrix(d, TN_ROLE_ROUTER, m->nexpert, g->c->hidden, "%s.%s.gate",
                                 l->path, m->block);
    in.part[0] = (tn_part){.w = w, .bias = TN_NONE, .out = g->route};
    if (m->shared > 0) {
        w = tn_draft_matrix(d, TN_ROLE_ROUTER, 1, g->c->hidden, "%s.%s.shared_expert_gate",
                            l->path, m->block);
        in.part[in.nparts++] = (tn_part){.w = w, .bias = TN_NONE, .out = g->route,
                                         .col = m->nexpert};
    }
    tn_draft_op(d, TN_OP_LINEAR, l->index, &in, "%s.router", l->label);
    tn_op_route route = {.size = sizeof route, .in = g->route, .ids = g->ids,
                         .weights = g->weights, .nexpert = m->nexpert, .ntop = m->ntop,
                         .kind = TN_ROUTE_SOFTMAX, .renorm = m->renorm, .bias = TN_NONE,
                         .scale = 1};
    tn_draft_op(d, TN_OP_ROUTE, l->index, &route, "%s.route", l->label);
}

static void add_shared(tn_graph *g, const tn_graph_layer *l)
{
    const tn_model_conf *c = g->c;
    const tn_moe_conf *m = &c->moe;
    char module[64], down_name[80];
    snprintf(module, sizeof module, "%s.shared_expert", m->block);
    snprintf(down_name, sizeof down_name, "%s.down_proj", module);
    const tn_run own = g->s.shared;
    const tn_spans all = tn_graph_spans(g, 0, c->hidden);
    tn_graph_buffer(g, &g->shared_gu, 2 * own.ncol, g->act_dtype, "shared_gate_up");
    tn_graph_buffer(g, &g->shared_ff, own.ncol, g->act_dtype, "shared_ff");
    tn_graph_buffer(g, &g->shared, c->hidden, g->act_dtype, "shared");
    add_gate_up(g, l, module, m->shared, own, false, g->shared_gu, g->shared_ff, "shared_");
    tn_op_linear down = {.size = sizeof down, .in = g->shared_ff, .nparts = 1};
    down.part[0] = tn_graph_part(g, l, down_name, c->hidden, m->shared, &all, false, g->shared, 0);
    tn_draft_columns(g->d, down.part[0].w, own.col0, own.col0 + own.ncol);
    if (own.col0 > 0)
        down.part[0].bias = TN_NONE; /* once in the sum */
    tn_draft_op(g->d, TN_OP_LINEAR, l->index, &down, "%s.shared_down", l->label);
    tn_op_mix mix = {.size = sizeof mix, .in = g->shared, .out = tn_graph_target(g), .width = c->hidden,
                     .gate = g->route, .gate_col = m->nexpert, .scale = 1,
                     .add = g->s.nrank == 1 || g->s.width.ncol > 0};
    tn_draft_op(g->d, TN_OP_MIX, l->index, &mix, "%s.shared_mix", l->label);
}

void tn_graph_experts(tn_graph *g, const tn_graph_layer *l)
{
    const tn_model_conf *c = g->c;
    const tn_moe_conf *m = &c->moe;
    const tn_share *s = &g->s;
    if (s->width.ncol + s->shared.ncol > 0)
        add_choice(g, l);
    else
        tn_graph_nothing(g, l, "experts");
    tn_op_experts op = {.size = sizeof op, .in = g->h, .ids = g->ids, .weights = g->weights,
                        .out = tn_graph_target(g), .add = s->nrank == 1,
                        .nexpert = m->nexpert, .ntop = m->ntop, .width = s->width.ncol,
                        .act = c->act};
    if (s->width.ncol > 0) {
        add_stacks(g, l, &op);
        tn_draft_op(g->d, TN_OP_EXPERTS, l->index, &op, "%s.experts", l->label);
    }
    if (s->shared.ncol > 0)
        add_shared(g, l);
    tn_graph_join(g, l, "mlp");
}
