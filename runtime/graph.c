/* SPDX-License-Identifier: Apache-2.0 */
/* graph.c - the frame of the forward pass: embedding, layers, head. */
#include "graph.h"

#include <stdio.h>

uint32_t tn_graph_buffer(tn_graph *g, uint32_t *slot, uint32_t width, uint32_t dtype,
                         const char *name)
{
    if (*slot == TN_NONE)
        *slot = tn_draft_buffer(g->d, TN_ROWS_TOKENS, width, dtype, name);
    return *slot;
}

static uint32_t bias_of(const tn_graph *g, bool named, uint64_t n, const char *module)
{
    char name[160];
    tn_tensor t;
    snprintf(name, sizeof name, "%s.bias", module);
    if (!named && (g->view == NULL || !g->view->find(g->view, name, &t)))
        return TN_NONE;
    return tn_draft_vector(g->d, n, "%s", name);
}

tn_part tn_graph_part(tn_graph *g, const tn_graph_layer *l, const char *module, uint64_t n,
                      uint64_t k, bool bias, uint32_t out, uint32_t col)
{
    char name[128];
    tn_part p = {.out = out, .col = col};
    snprintf(name, sizeof name, "%s.%s", l->path, module);
    p.w = tn_draft_matrix(g->d, TN_ROLE_DENSE, n, k, "%s", name);
    p.bias = bias_of(g, bias, n, name);
    return p;
}

static void add_norm(const tn_graph *g, uint32_t layer, uint32_t in, uint32_t out, uint32_t w,
                     const char *name)
{
    tn_op_norm op = {.size = sizeof op, .in = in, .out = out, .w = w, .width = g->c->hidden,
                     .groups = 1, .eps = g->c->eps, .offset = g->c->norm_offset};
    tn_draft_op(g->d, TN_OP_NORM, layer, &op, "%s", name);
}

void tn_graph_norm(tn_graph *g, const tn_graph_layer *l, const char *name, uint32_t in,
                   uint32_t out, const char *op)
{
    char label[96];
    snprintf(label, sizeof label, "%s.%s", l->label, op);
    add_norm(g, l->index, in, out,
             tn_draft_vector(g->d, g->c->hidden, "%s.%s.weight", l->path, name), label);
}

void tn_graph_layer_add(tn_graph *g, const tn_graph_layer *l)
{
    tn_graph_norm(g, l, "input_layernorm", g->x, g->h, "mixer_norm");
    if (l->mixer == TN_MIXER_DELTA)
        tn_graph_delta(g, l);
    else
        tn_graph_attention(g, l);
    tn_graph_norm(g, l, "post_attention_layernorm", g->x, g->h, "mlp_norm");
    if (l->mlp == TN_MLP_EXPERTS)
        tn_graph_experts(g, l);
    else
        tn_graph_mlp(g, l);
}

static void add_layers(tn_graph *g)
{
    const tn_model_conf *c = g->c;
    for (uint32_t i = 0; i < c->layers; i++) {
        tn_graph_layer l = {
            .path = tn_draft_name(g->d, "%slayers.%u", c->prefix, i),
            .label = tn_draft_name(g->d, "layers.%u", i),
            .index = i, .window = c->window[i], .mixer = c->mixer[i], .mlp = c->mlp[i],
        };
        if (!g->d->failed)
            tn_graph_layer_add(g, &l);
    }
}

static void add_head(const tn_graph *g, uint32_t embed)
{
    tn_draft *d = g->d;
    const tn_model_conf *c = g->c;
    uint32_t xo = tn_draft_buffer(d, TN_ROWS_OUTS, c->hidden, TN_F32, "x_out");
    uint32_t ho = tn_draft_buffer(d, TN_ROWS_OUTS, c->hidden, g->act_dtype, "h_out");
    uint32_t y = tn_draft_buffer(d, TN_ROWS_OUTS, c->vocab, TN_F32, "logits");
    tn_op_pick pick = {.size = sizeof pick, .in = g->x, .out = xo, .width = c->hidden};
    tn_draft_op(d, TN_OP_PICK, TN_NONE, &pick, "pick");
    add_norm(g, TN_NONE, xo, ho, tn_draft_vector(d, c->hidden, "%snorm.weight", c->prefix),
             "norm");
    uint32_t w = embed;
    if (c->tied && embed != TN_NONE)
        d->weight[embed].flags |= TN_WEIGHT_TIED;
    else
        w = tn_draft_matrix(d, TN_ROLE_HEAD, c->vocab, c->hidden, "lm_head");
    tn_op_linear head = {.size = sizeof head, .in = ho, .nparts = 1};
    head.part[0] = (tn_part){.w = w, .bias = TN_NONE, .out = y};
    tn_draft_op(d, TN_OP_LINEAR, TN_NONE, &head, "head");
    tn_op_logits logits = {.size = sizeof logits, .x = y, .vocab = c->vocab, .valid = c->vocab};
    tn_draft_op(d, TN_OP_LOGITS, TN_NONE, &logits, "logits");
    tn_op_sample sample = {.size = sizeof sample, .x = y, .vocab = c->vocab};
    tn_draft_op(d, TN_OP_SAMPLE, TN_NONE, &sample, "sample");
}

tn_status tn_graph_build(const tn_model_conf *c, const tn_view *view, uint32_t act_dtype,
                         uint32_t npos, tn_draft *d, tn_err *err)
{
    tn_draft_open(d, c->type, act_dtype, c->vocab);
    tn_graph g = {
        .d = d, .c = c, .view = view, .act_dtype = act_dtype,
        .x = tn_draft_buffer(d, TN_ROWS_TOKENS, c->hidden, TN_F32, "x"),
        .h = tn_draft_buffer(d, TN_ROWS_TOKENS, c->hidden, act_dtype, "h"),
        .qkv = TN_NONE, .att = TN_NONE, .mix = TN_NONE, .delta = TN_NONE, .gu = TN_NONE,
        .ff = TN_NONE, .route = TN_NONE, .ids = TN_NONE, .weights = TN_NONE,
        .shared_gu = TN_NONE, .shared_ff = TN_NONE, .shared = TN_NONE,
        .rope = tn_draft_rope(d, c, npos),
    };
    uint32_t embed = tn_draft_matrix(d, TN_ROLE_EMBED, c->vocab, c->hidden, "%sembed_tokens",
                                     c->prefix);
    tn_op_embed op = {.size = sizeof op, .w = embed, .out = g.x, .scale = 1};
    tn_draft_op(d, TN_OP_EMBED, TN_NONE, &op, "embed");
    add_layers(&g);
    add_head(&g, embed);
    tn_draft_section(d, "model");
    return tn_draft_finish(d, err);
}
