/* SPDX-License-Identifier: Apache-2.0 */
/* graph.c - the frame of the forward pass: embedding, layers, head. */
#include "graph.h"

#include <stdio.h>

uint32_t tn_graph_buffer(tn_graph *g, uint32_t *slot, uint32_t width, uint32_t dtype,
                         const char *name)
{
    if (*slot == TN_NONE)
        *slot = tn_draft_buffer(g->d, g->rows, width, dtype, name);
    return *slot;
}

void tn_graph_span(tn_graph *g, tn_spans *s, uint64_t row0, uint64_t rows)
{
    s->rows += rows;
    if (s->n > 0 && s->at[s->n - 1].row1 == row0) {
        s->at[s->n - 1].row1 += rows;
        return;
    }
    if (s->n == s->cap) {
        uint32_t cap = s->cap > 0 ? 2 * s->cap : 4;
        tn_span *more = tn_arena_array(&g->d->arena, cap, sizeof *more);
        if (more == NULL) {
            g->d->failed = true;
            return;
        }
        for (uint32_t i = 0; i < s->n; i++)
            more[i] = s->at[i];
        s->at = more;
        s->cap = cap;
    }
    s->at[s->n++] = (tn_span){row0, row0 + rows};
}

tn_spans tn_graph_spans(tn_graph *g, uint64_t row0, uint64_t rows)
{
    tn_spans s = {0};
    tn_graph_span(g, &s, row0, rows);
    return s;
}

/* A weight called `name` of rows of a module. */
static uint32_t stack_rows(tn_graph *g, uint32_t role, const tn_slice *module,
                           const tn_spans *rows, const char *name)
{
    tn_slice p = *module;
    uint32_t w = tn_draft_stack(g->d, role, 1, rows->n, rows->rows, p.k, "%s", name);
    for (uint32_t i = 0; i < rows->n; i++) {
        p.row0 = rows->at[i].row0;
        p.row1 = rows->at[i].row1;
        tn_draft_slice(g->d, w, i, &p);
    }
    return w;
}

uint32_t tn_graph_rows(tn_graph *g, const tn_graph_layer *l, uint32_t role, const tn_slice *module,
                       const tn_spans *rows, const char *part)
{
    char name[160];
    tn_slice p = *module;
    p.module = tn_draft_name(g->d, "%s.%s", l->path, module->module);
    snprintf(name, sizeof name, part != NULL ? "%s.%s" : "%s", p.module, part);
    return stack_rows(g, role, &p, rows, name);
}

static uint32_t bias_of(tn_graph *g, bool named, uint64_t n, const tn_spans *rows,
                        const char *module)
{
    tn_tensor t;
    tn_slice p = {.module = tn_draft_name(g->d, "%s.bias", module), .n = n, .k = 1, .bare = true};
    if (p.module == NULL ||
        (!named && (g->view == NULL || !g->view->find(g->view, p.module, &t))))
        return TN_NONE;
    return stack_rows(g, TN_ROLE_VECTOR, &p, rows, p.module);
}

tn_part tn_graph_part(tn_graph *g, const tn_graph_layer *l, const char *module, uint64_t n,
                      uint64_t k, const tn_spans *rows, bool bias, uint32_t out, uint32_t col)
{
    tn_part p = {.out = out, .col = col};
    tn_slice whole = {.module = module, .n = n, .k = k};
    char name[160];
    snprintf(name, sizeof name, "%s.%s", l->path, module);
    p.w = tn_graph_rows(g, l, TN_ROLE_DENSE, &whole, rows, NULL);
    p.bias = bias_of(g, bias, n, rows, name);
    return p;
}

/* ------------------------------------------------------------------ back to the residual */

uint32_t tn_graph_target(tn_graph *g)
{
    if (g->s.nrank == 1)
        return g->x;
    return tn_graph_buffer(g, &g->part, g->c->hidden, TN_F32, "part");
}

void tn_graph_back(tn_graph *g, const tn_graph_layer *l, const tn_graph_way *way)
{
    const tn_spans all = tn_graph_spans(g, 0, g->c->hidden);
    tn_slice whole = {.module = way->module, .n = g->c->hidden, .k = way->k};
    char name[160];
    tn_part p = {.out = tn_graph_target(g), .bias = TN_NONE};
    snprintf(name, sizeof name, "%s.%s", l->path, way->module);
    p.w = tn_graph_rows(g, l, TN_ROLE_DENSE, &whole, &all, NULL);
    tn_draft_columns(g->d, p.w, way->cols.col0, way->cols.col0 + way->cols.ncol);
    if (way->cols.col0 == 0) /* once in the sum */
        p.bias = bias_of(g, way->bias, g->c->hidden, &all, name);
    tn_op_linear linear = {.size = sizeof linear, .in = way->in, .in_col = way->in_col,
                           .nparts = 1, .add = g->s.nrank == 1, .part = {p}};
    tn_draft_op(g->d, TN_OP_LINEAR, l->index, &linear, "%s.%s", l->label, way->op);
}

void tn_graph_nothing(tn_graph *g, const tn_graph_layer *l, const char *op)
{
    tn_op_mix mix = {.size = sizeof mix, .in = g->h, .out = tn_graph_target(g),
                     .width = g->c->hidden, .gate = TN_NONE, .scale = 0};
    tn_draft_op(g->d, TN_OP_MIX, l->index, &mix, "%s.%s", l->label, op);
}

static void add_sum(tn_graph *g, uint32_t layer, uint32_t buffer, const char *name)
{
    tn_op_sum sum = {.size = sizeof sum, .x = buffer, .width = g->c->hidden};
    tn_draft_op(g->d, TN_OP_SUM, layer, &sum, "%s", name);
}

void tn_graph_join(tn_graph *g, const tn_graph_layer *l, const char *op)
{
    char name[96];
    if (g->s.nrank == 1)
        return;
    snprintf(name, sizeof name, "%s.%s_sum", l->label, op);
    add_sum(g, l->index, g->part, name);
    tn_op_mix mix = {.size = sizeof mix, .in = g->part, .out = g->x, .width = g->c->hidden,
                     .gate = TN_NONE, .add = 1, .scale = 1};
    tn_draft_op(g->d, TN_OP_MIX, l->index, &mix, "%s.%s_add", l->label, op);
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

static uint32_t add_pick(const tn_graph *g, const tn_graph_layer *l, uint32_t in, uint32_t width,
                         uint32_t dtype, const char *name)
{
    tn_op_pick pick = {.size = sizeof pick, .in = in, .width = width};
    pick.out = tn_draft_buffer(g->d, TN_ROWS_OUTS, width, dtype, name);
    tn_draft_op(g->d, TN_OP_PICK, l->index, &pick, "%s.%s", l->label, name);
    return pick.out;
}

/* Keys, values and states need every row of the last layer, what comes after them does not: of a
 * prompt that is one row, so a model of 30 layers saves nearly one of them. */
uint32_t tn_graph_narrow(tn_graph *g, const tn_graph_layer *l, uint32_t in, uint32_t width)
{
    if (!l->end)
        return in;
    g->rows = TN_ROWS_OUTS;
    g->part = g->gu = g->ff = g->route = g->ids = g->weights = TN_NONE;
    g->shared_gu = g->shared_ff = g->shared = TN_NONE;
    g->x = add_pick(g, l, g->x, g->c->hidden, TN_F32, "x_out");
    g->h = tn_draft_buffer(g->d, TN_ROWS_OUTS, g->c->hidden, g->act_dtype, "mlp_out");
    return add_pick(g, l, in, width, g->act_dtype, "mixer_out");
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

/* x = the rows of the step's tokens. */
void tn_graph_embed(tn_graph *g, const char *name)
{
    tn_op_embed op = {.size = sizeof op, .w = g->embed, .out = g->x, .scale = 1,
                      .first = g->s.rank * g->s.vocab};
    tn_draft_op(g->d, TN_OP_EMBED, TN_NONE, &op, "%s", name);
    if (g->s.nrank > 1) /* zeros for tokens of other ranks */
        add_sum(g, TN_NONE, g->x, name);
}

static void add_layers(tn_graph *g)
{
    const tn_model_conf *c = g->c;
    for (uint32_t i = 0; i < c->layers; i++) {
        tn_graph_layer l = {
            .path = tn_draft_name(g->d, "%slayers.%u", c->prefix, i),
            .label = tn_draft_name(g->d, "layers.%u", i),
            .index = i, .window = c->window[i], .mixer = c->mixer[i], .mlp = c->mlp[i],
            .end = i + 1 == c->layers && g->last == TN_NONE,
        };
        if (!g->d->failed)
            tn_graph_layer_add(g, &l);
    }
}

/* Logits of the output rows from h_out, and the draw: every rank draws, and the same, since each
 * gathers all of the logits. */
void tn_graph_head(tn_graph *g)
{
    tn_draft *d = g->d;
    uint32_t vocab = g->s.nrank * g->s.vocab, y = g->logits;
    tn_op_linear head = {.size = sizeof head, .in = g->h_out, .nparts = 1};
    head.part[0] = (tn_part){.w = g->head, .bias = TN_NONE,
                             .out = g->s.nrank > 1 ? g->some_logits : y};
    tn_draft_op(d, TN_OP_LINEAR, TN_NONE, &head, "head");
    tn_op_gather gather = {.size = sizeof gather, .in = g->some_logits, .width = g->s.vocab,
                           .out = y};
    if (g->s.nrank > 1)
        tn_draft_op(d, TN_OP_GATHER, TN_NONE, &gather, "head_gather");
    tn_op_logits logits = {.size = sizeof logits, .x = y, .vocab = vocab, .valid = g->c->vocab};
    tn_draft_op(d, TN_OP_LOGITS, TN_NONE, &logits, "logits");
    tn_op_sample sample = {.size = sizeof sample, .x = y, .vocab = vocab};
    tn_draft_op(d, TN_OP_SAMPLE, TN_NONE, &sample, "sample");
}

/* This rank's rows of the embedding or the head. */
static uint32_t vocab_rows(tn_graph *g, uint32_t role, const char *module)
{
    const tn_spans rows = tn_graph_spans(g, (uint64_t)g->s.rank * g->s.vocab, g->s.vocab_own);
    tn_slice whole = {.module = module, .n = g->c->vocab, .k = g->c->hidden};
    return stack_rows(g, role, &whole, &rows, module);
}

/* Drafting wants the last norm of all rows; else only those whose logits are wanted came here. */
static void add_end(tn_graph *g)
{
    tn_draft *d = g->d;
    const tn_model_conf *c = g->c;
    char norm[96];
    snprintf(norm, sizeof norm, "%snorm.weight", c->prefix);
    g->h_out = tn_draft_buffer(d, TN_ROWS_OUTS, c->hidden, g->act_dtype, "h_out");
    g->logits = tn_draft_buffer(d, TN_ROWS_OUTS, g->s.nrank * g->s.vocab, TN_F32, "logits");
    if (g->s.nrank > 1)
        g->some_logits = tn_draft_buffer(d, TN_ROWS_OUTS, g->s.vocab, TN_F32, "some_logits");
    tn_op_pick pick = {.size = sizeof pick, .in = g->last, .out = g->h_out, .width = c->hidden};
    if (g->last != TN_NONE) {
        tn_graph_norm_named(g, g->x, g->last, norm, "norm");
        tn_draft_op(d, TN_OP_PICK, TN_NONE, &pick, "pick");
    } else {
        tn_graph_norm_named(g, g->x, g->h_out, norm, "norm");
    }
    g->head = g->embed;
    if (c->tied && g->embed != TN_NONE)
        d->weight[g->embed].flags |= TN_WEIGHT_TIED;
    else
        g->head = vocab_rows(g, TN_ROLE_HEAD, "lm_head");
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
    tn_share share;
    tn_draft_open(d, c->type, act, c->vocab);
    tn_status st = tn_share_make(c, ask->rank, ask->nrank > 0 ? ask->nrank : 1, &share, err);
    if (st != TN_OK)
        return st;
    tn_graph g = {
        .d = d, .c = c, .view = ask->view, .s = share, .act_dtype = act, .rows = TN_ROWS_TOKENS,
        .part = TN_NONE, .some_logits = TN_NONE,
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
    g.embed = vocab_rows(&g, TN_ROLE_EMBED, tn_draft_name(d, "%sembed_tokens", c->prefix));
    tn_graph_embed(&g, "embed");
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
