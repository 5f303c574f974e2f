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

void tn_graph_norm_named(tn_graph *g, uint32_t in, uint32_t out, const char *name,
                         const char *op)
{
    add_norm(g, TN_NONE, in, out, tn_draft_vector(g->d, g->c->hidden, "%s", name), op);
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

/* Logits of the output rows from h_out, and the draw. */
void tn_graph_head(tn_graph *g)
{
    tn_draft *d = g->d;
    uint32_t vocab = g->c->vocab, y = g->logits;
    tn_op_linear head = {.size = sizeof head, .in = g->h_out, .nparts = 1};
    head.part[0] = (tn_part){.w = g->head, .bias = TN_NONE, .out = y};
    tn_draft_op(d, TN_OP_LINEAR, TN_NONE, &head, "head");
    tn_op_logits logits = {.size = sizeof logits, .x = y, .vocab = vocab, .valid = vocab};
    tn_draft_op(d, TN_OP_LOGITS, TN_NONE, &logits, "logits");
    tn_op_sample sample = {.size = sizeof sample, .x = y, .vocab = vocab};
    tn_draft_op(d, TN_OP_SAMPLE, TN_NONE, &sample, "sample");
}

/* Only rows whose logits are wanted need the last norm, unless drafting wants all. */
static void add_end(tn_graph *g)
{
    tn_draft *d = g->d;
    const tn_model_conf *c = g->c;
    char norm[96];
    snprintf(norm, sizeof norm, "%snorm.weight", c->prefix);
    g->h_out = tn_draft_buffer(d, TN_ROWS_OUTS, c->hidden, g->act_dtype, "h_out");
    g->logits = tn_draft_buffer(d, TN_ROWS_OUTS, c->vocab, TN_F32, "logits");
    tn_op_pick pick = {.size = sizeof pick, .in = g->last, .out = g->h_out, .width = c->hidden};
    if (g->last != TN_NONE) {
        tn_graph_norm_named(g, g->x, g->last, norm, "norm");
        tn_draft_op(d, TN_OP_PICK, TN_NONE, &pick, "pick");
    } else {
        g->x_out = tn_draft_buffer(d, TN_ROWS_OUTS, c->hidden, TN_F32, "x_out");
        pick.in = g->x;
        pick.out = g->x_out;
        tn_draft_op(d, TN_OP_PICK, TN_NONE, &pick, "pick");
        tn_graph_norm_named(g, g->x_out, g->h_out, norm, "norm");
    }
    g->head = g->embed;
    if (c->tied && g->embed != TN_NONE)
        d->weight[g->embed].flags |= TN_WEIGHT_TIED;
    else
        g->head = tn_draft_matrix(d, TN_ROLE_HEAD, c->vocab, c->hidden, "lm_head");
    tn_graph_head(g);
}

/* The drafting module's own tensors lie in the second folder. */
static void mark_second(tn_draft *d, uint32_t from)
{
    for (uint32_t i = from; i < d->recipe.nweight; i++)
        for (uint32_t k = 0; k < d->weight[i].nexpert * d->source[i].nslice; k++)
            d->source[i].slice[k].second = true;
}

tn_status tn_graph_build(const tn_model_conf *c, const tn_graph_ask *ask, tn_draft *d,
                         tn_err *err)
{
    uint32_t act = ask->act_dtype;
    tn_draft_open(d, c->type, act, c->vocab);
    tn_graph g = {
        .d = d, .c = c, .view = ask->view, .act_dtype = act,
        .x = tn_draft_buffer(d, TN_ROWS_TOKENS, c->hidden, TN_F32, "x"),
        .h = tn_draft_buffer(d, TN_ROWS_TOKENS, c->hidden, act, "h"),
        .qkv = TN_NONE, .att = TN_NONE, .mix = TN_NONE, .delta = TN_NONE, .gu = TN_NONE,
        .ff = TN_NONE, .route = TN_NONE, .ids = TN_NONE, .weights = TN_NONE,
        .shared_gu = TN_NONE, .shared_ff = TN_NONE, .shared = TN_NONE, .last = TN_NONE,
        .rope = tn_draft_rope(d, c, ask->npos),
    };
    if (ask->drafting) {
        g.last = tn_draft_buffer(d, TN_ROWS_TOKENS, c->hidden, TN_F32, "last");
        if (!d->failed)
            d->buffer[g.last].flags |= TN_BUF_KEEP;
    }
    g.embed = tn_draft_matrix(d, TN_ROLE_EMBED, c->vocab, c->hidden, "%sembed_tokens", c->prefix);
    tn_op_embed op = {.size = sizeof op, .w = g.embed, .out = g.x, .scale = 1};
    tn_draft_op(d, TN_OP_EMBED, TN_NONE, &op, "embed");
    add_layers(&g);
    add_end(&g);
    tn_draft_section(d, "model");
    uint32_t nweight = d->recipe.nweight;
    if (ask->second != NULL)
        g.view = ask->second;
    if (ask->drafting)
        tn_graph_draft(&g);
    if (ask->second != NULL)
        mark_second(d, nweight);
    return tn_draft_finish(d, err);
}
