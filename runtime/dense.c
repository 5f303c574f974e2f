/* SPDX-License-Identifier: Apache-2.0 */
/* dense.c - the forward pass of llama, mistral, qwen2 and qwen3, as a recipe.
 *
 *     x = embed(token)
 *     per layer:  x += o(attend(heads(qkv(norm(x)))))
 *                 x += down(act(gate(norm(x))) * up(norm(x)))
 *     logits = head(norm(x at the rows that want one))
 *
 * The residual x stays in fp32; everything between is in the operator's dtype. */
#include "recipe.h"

#include <math.h>
#include <stdio.h>

typedef struct build {
    tn_draft *d;
    const tn_model_conf *c;
    const tn_view *view;             /* may be NULL: nothing is known of the files */
    uint32_t x, h, qkv, att, gu, ff; /* token rows */
    uint32_t xo, ho, logits;         /* output rows */
    uint32_t rope;
} build;

/* A bias that the config names must be there; one that only the file holds is used as well
 * (some quantizers write them for every linear). */
static uint32_t bias_of(const build *b, bool named, uint64_t n, uint32_t layer,
                        const char *module)
{
    char name[128];
    tn_tensor t;
    snprintf(name, sizeof name, "model.layers.%u.%s.bias", layer, module);
    if (!named && (b->view == NULL || !b->view->find(b->view, name, &t)))
        return TN_NONE;
    return tn_draft_vector(b->d, n, "%s", name);
}

static tn_part part_of(const build *b, uint32_t layer, const char *module, uint64_t n,
                       uint64_t k, bool bias, uint32_t out, uint32_t col)
{
    tn_part p = {.out = out, .col = col};
    p.w = tn_draft_matrix(b->d, TN_ROLE_DENSE, n, k, "model.layers.%u.%s", layer, module);
    p.bias = bias_of(b, bias, n, layer, module);
    return p;
}

static void add_norm(const build *b, uint32_t in, uint32_t out, uint32_t w,
                     uint32_t layer, const char *name)
{
    tn_op_norm op = {.size = sizeof op, .in = in, .out = out, .w = w,
                     .width = b->c->hidden, .groups = 1, .eps = b->c->eps,
                     .offset = b->c->norm_offset};
    if (layer == TN_NONE)
        tn_draft_op(b->d, TN_OP_NORM, layer, &op, "%s", name);
    else
        tn_draft_op(b->d, TN_OP_NORM, layer, &op, "layers.%u.%s", layer, name);
}

static void add_attention(const build *b, uint32_t layer)
{
    tn_draft *d = b->d;
    const tn_model_conf *c = b->c;
    uint32_t nq = c->heads * c->head_dim, nkv = c->kv_heads * c->head_dim;
    add_norm(b, b->x, b->h,
             tn_draft_vector(d, c->hidden, "model.layers.%u.input_layernorm.weight", layer),
             layer, "attn_norm");
    tn_op_linear qkv = {.size = sizeof qkv, .in = b->h, .nparts = 3};
    qkv.part[0] = part_of(b, layer, "self_attn.q_proj", nq, c->hidden, c->qkv_bias, b->qkv, 0);
    qkv.part[1] = part_of(b, layer, "self_attn.k_proj", nkv, c->hidden, c->qkv_bias, b->qkv, nq);
    qkv.part[2] = part_of(b, layer, "self_attn.v_proj", nkv, c->hidden, c->qkv_bias, b->qkv,
                          nq + nkv);
    tn_draft_op(d, TN_OP_LINEAR, layer, &qkv, "layers.%u.qkv", layer);

    uint32_t cache = tn_draft_cache(d, c->kv_heads, c->head_dim, c->head_dim);
    tn_op_heads heads = {.size = sizeof heads, .x = b->qkv, .k_col = nq, .v_col = nq + nkv,
                         .q_heads = c->heads, .kv_heads = c->kv_heads, .head_dim = c->head_dim,
                         .rope = b->rope, .q_norm = TN_NONE, .k_norm = TN_NONE, .eps = c->eps,
                         .offset = c->norm_offset, .cache = cache};
    if (c->qk_norm) {
        heads.q_norm = tn_draft_vector(d, c->head_dim, "model.layers.%u.self_attn.q_norm.weight",
                                       layer);
        heads.k_norm = tn_draft_vector(d, c->head_dim, "model.layers.%u.self_attn.k_norm.weight",
                                       layer);
    }
    tn_draft_op(d, TN_OP_HEADS, layer, &heads, "layers.%u.heads", layer);

    tn_op_attend attend = {.size = sizeof attend, .q = b->qkv, .out = b->att,
                           .q_heads = c->heads, .kv_heads = c->kv_heads, .head_dim = c->head_dim,
                           .cache = cache, .window = c->window[layer], .gate = TN_NONE};
    attend.scale = (float)(1 / sqrt(c->head_dim));
    tn_draft_op(d, TN_OP_ATTEND, layer, &attend, "layers.%u.attend", layer);

    tn_op_linear out = {.size = sizeof out, .in = b->att, .nparts = 1, .add = 1};
    out.part[0] = part_of(b, layer, "self_attn.o_proj", c->hidden, nq, c->o_bias, b->x, 0);
    tn_draft_op(d, TN_OP_LINEAR, layer, &out, "layers.%u.o", layer);
}

static void add_mlp(const build *b, uint32_t layer)
{
    tn_draft *d = b->d;
    const tn_model_conf *c = b->c;
    add_norm(b, b->x, b->h,
             tn_draft_vector(d, c->hidden, "model.layers.%u.post_attention_layernorm.weight",
                             layer), layer, "mlp_norm");
    tn_op_linear up = {.size = sizeof up, .in = b->h, .nparts = 2};
    up.part[0] = part_of(b, layer, "mlp.gate_proj", c->inter, c->hidden, c->mlp_bias, b->gu, 0);
    up.part[1] = part_of(b, layer, "mlp.up_proj", c->inter, c->hidden, c->mlp_bias, b->gu,
                         c->inter);
    tn_draft_op(d, TN_OP_LINEAR, layer, &up, "layers.%u.gate_up", layer);
    tn_op_act_mul act = {.size = sizeof act, .in = b->gu, .b_col = c->inter, .out = b->ff,
                         .width = c->inter, .act = c->act};
    tn_draft_op(d, TN_OP_ACT_MUL, layer, &act, "layers.%u.act", layer);
    tn_op_linear down = {.size = sizeof down, .in = b->ff, .nparts = 1, .add = 1};
    down.part[0] = part_of(b, layer, "mlp.down_proj", c->hidden, c->inter, c->mlp_bias, b->x, 0);
    tn_draft_op(d, TN_OP_LINEAR, layer, &down, "layers.%u.down", layer);
}

static void add_head(const build *b, uint32_t embed)
{
    tn_draft *d = b->d;
    const tn_model_conf *c = b->c;
    tn_op_pick pick = {.size = sizeof pick, .in = b->x, .out = b->xo, .width = c->hidden};
    tn_draft_op(d, TN_OP_PICK, TN_NONE, &pick, "pick");
    add_norm(b, b->xo, b->ho, tn_draft_vector(d, c->hidden, "model.norm.weight"), TN_NONE,
             "norm");
    uint32_t w = embed;
    if (c->tied && embed != TN_NONE)
        d->weight[embed].flags |= TN_WEIGHT_TIED;
    else
        w = tn_draft_matrix(d, TN_ROLE_HEAD, c->vocab, c->hidden, "lm_head");
    tn_op_linear head = {.size = sizeof head, .in = b->ho, .nparts = 1};
    head.part[0] = (tn_part){.w = w, .bias = TN_NONE, .out = b->logits};
    tn_draft_op(d, TN_OP_LINEAR, TN_NONE, &head, "head");
    tn_op_logits logits = {.size = sizeof logits, .x = b->logits, .vocab = c->vocab,
                           .valid = c->vocab};
    tn_draft_op(d, TN_OP_LOGITS, TN_NONE, &logits, "logits");
    tn_op_sample sample = {.size = sizeof sample, .x = b->logits, .vocab = c->vocab};
    tn_draft_op(d, TN_OP_SAMPLE, TN_NONE, &sample, "sample");
}

tn_status tn_dense_build(const tn_model_conf *c, const tn_view *view, uint32_t act,
                         uint32_t npos, tn_draft *d, tn_err *err)
{
    uint32_t nq = c->heads * c->head_dim, nkv = c->kv_heads * c->head_dim;
    tn_draft_open(d, c->type, act, c->vocab);
    build b = {
        .d = d,
        .c = c,
        .view = view,
        .x = tn_draft_buffer(d, TN_ROWS_TOKENS, c->hidden, TN_F32, "x"),
        .h = tn_draft_buffer(d, TN_ROWS_TOKENS, c->hidden, act, "h"),
        .qkv = tn_draft_buffer(d, TN_ROWS_TOKENS, nq + 2 * nkv, act, "qkv"),
        .att = tn_draft_buffer(d, TN_ROWS_TOKENS, nq, act, "att"),
        .gu = tn_draft_buffer(d, TN_ROWS_TOKENS, 2 * c->inter, act, "gate_up"),
        .ff = tn_draft_buffer(d, TN_ROWS_TOKENS, c->inter, act, "ff"),
        .xo = tn_draft_buffer(d, TN_ROWS_OUTS, c->hidden, TN_F32, "x_out"),
        .ho = tn_draft_buffer(d, TN_ROWS_OUTS, c->hidden, act, "h_out"),
        .logits = tn_draft_buffer(d, TN_ROWS_OUTS, c->vocab, TN_F32, "logits"),
        .rope = tn_draft_rope(d, c, npos),
    };
    uint32_t embed = tn_draft_matrix(d, TN_ROLE_EMBED, c->vocab, c->hidden, "model.embed_tokens");
    tn_op_embed op = {.size = sizeof op, .w = embed, .out = b.x, .scale = 1};
    tn_draft_op(d, TN_OP_EMBED, TN_NONE, &op, "embed");
    for (uint32_t i = 0; i < c->layers; i++) {
        add_attention(&b, i);
        add_mlp(&b, i);
    }
    add_head(&b, embed);
    tn_draft_section(d, "model");
    return tn_draft_finish(d, err);
}
