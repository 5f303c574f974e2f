/* SPDX-License-Identifier: Apache-2.0 */
/* import_tensors.c - the tensors of a GGUF file under their Hugging Face names. */
#include "import_model.h"

#include "names.h"
#include "quote.h"

#include <stdlib.h>
#include <string.h>

/* Sizes a dimension can have; what they come to is the model's. */
enum { NONE, HIDDEN, INTER, Q_ROWS, KV_ROWS, HEAD, VOCAB };

#define NEED 1u       /* every layer has it */
#define NEED_BIAS 2u  /* needed where the family always has q, k and v biases */
#define NEED_NORM 4u  /* needed where the family norms heads, else unknown */
#define OPT_ATTN 8u   /* a bias of attention: all layers have all four, or none has any */
#define OPT_MLP 16u   /* a bias of the MLP: the same with three */
#define PERMUTED 32u  /* rows by heads, interleaved in some families */

typedef struct slot {
    const char *from, *to; /* in a layer: past "blk.N." and "model.layers.N." */
    uint32_t rows, cols;   /* rows NONE: a vector of `cols` */
    uint32_t flags;
} slot;

static const slot outer[] = {
    {"token_embd.weight", "model.embed_tokens.weight", VOCAB, HIDDEN, NEED},
    {"output_norm.weight", "model.norm.weight", NONE, HIDDEN, NEED},
    {"output.weight", "lm_head.weight", VOCAB, HIDDEN, 0},
};
#define NOUTER (sizeof outer / sizeof outer[0])

static const slot layer[] = {
    {"attn_norm.weight", "input_layernorm.weight", NONE, HIDDEN, NEED},
    {"attn_q.weight", "self_attn.q_proj.weight", Q_ROWS, HIDDEN, NEED | PERMUTED},
    {"attn_q.bias", "self_attn.q_proj.bias", NONE, Q_ROWS, NEED_BIAS | OPT_ATTN | PERMUTED},
    {"attn_k.weight", "self_attn.k_proj.weight", KV_ROWS, HIDDEN, NEED | PERMUTED},
    {"attn_k.bias", "self_attn.k_proj.bias", NONE, KV_ROWS, NEED_BIAS | OPT_ATTN | PERMUTED},
    {"attn_v.weight", "self_attn.v_proj.weight", KV_ROWS, HIDDEN, NEED},
    {"attn_v.bias", "self_attn.v_proj.bias", NONE, KV_ROWS, NEED_BIAS | OPT_ATTN},
    {"attn_output.weight", "self_attn.o_proj.weight", HIDDEN, Q_ROWS, NEED},
    {"attn_output.bias", "self_attn.o_proj.bias", NONE, HIDDEN, OPT_ATTN},
    {"attn_q_norm.weight", "self_attn.q_norm.weight", NONE, HEAD, NEED_NORM},
    {"attn_k_norm.weight", "self_attn.k_norm.weight", NONE, HEAD, NEED_NORM},
    {"ffn_norm.weight", "post_attention_layernorm.weight", NONE, HIDDEN, NEED},
    {"ffn_gate.weight", "mlp.gate_proj.weight", INTER, HIDDEN, NEED},
    {"ffn_gate.bias", "mlp.gate_proj.bias", NONE, INTER, OPT_MLP},
    {"ffn_up.weight", "mlp.up_proj.weight", INTER, HIDDEN, NEED},
    {"ffn_up.bias", "mlp.up_proj.bias", NONE, INTER, OPT_MLP},
    {"ffn_down.weight", "mlp.down_proj.weight", HIDDEN, INTER, NEED},
    {"ffn_down.bias", "mlp.down_proj.bias", NONE, HIDDEN, OPT_MLP},
};
#define NLAYER (sizeof layer / sizeof layer[0])

typedef struct builder {
    tn_import_model *m;
    tn_import_tensor *list;
    uint64_t count;
    tn_err *err;
} builder;

static uint64_t size_of(const tn_import_model *m, uint32_t what)
{
    switch (what) {
    case HIDDEN: return m->hidden;
    case INTER: return m->inter;
    case Q_ROWS: return m->heads * m->head_dim;
    case KV_ROWS: return m->kv_heads * m->head_dim;
    case HEAD: return m->head_dim;
    case VOCAB: return m->vocab;
    default: return 1;
    }
}

static tn_status check_tensor(const builder *b, const slot *s, const tn_gguf_tensor *t)
{
    tn_quoted q;
    uint64_t rows = size_of(b->m, s->rows), cols = size_of(b->m, s->cols);
    if (t->dim[0] != cols || t->rows != rows || t->dim[1] != rows)
        return tn_fail(b->err, TN_DATA, "%s:%llu: tensor %s is %llu x %llu; expected %llu x %llu "
                       "by the metadata", tn_gguf_path(b->m->g), (unsigned long long)t->offset,
                       tn_quote_text(&q, t->name), (unsigned long long)t->dim[0],
                       (unsigned long long)t->rows, (unsigned long long)cols,
                       (unsigned long long)rows);
    if (t->type->read == NULL)
        return tn_fail(b->err, TN_UNSUPPORTED, "%s:%llu: tensor %s is of type %s; expected %s",
                       tn_gguf_path(b->m->g), (unsigned long long)t->offset,
                       tn_quote_text(&q, t->name), t->type->name, tn_ggml_types_read());
    return TN_OK;
}

static tn_status add_tensor(builder *b, const slot *s, const tn_gguf_tensor *t,
                            const char *prefix)
{
    tn_status st = check_tensor(b, s, t);
    if (st != TN_OK)
        return st;
    tn_import_tensor *to = &b->list[b->count++];
    uint64_t cols = size_of(b->m, s->cols);
    *to = (tn_import_tensor){.from = t, .ndim = s->rows == NONE ? 1 : 2};
    to->dim[0] = s->rows == NONE ? cols : size_of(b->m, s->rows);
    to->dim[1] = s->rows == NONE ? 1 : cols;
    to->head_dim = (s->flags & PERMUTED) != 0 && b->m->family.permuted ? b->m->head_dim : 0;
    snprintf(to->name, sizeof to->name, "%s%s", prefix, s->to);
    return TN_OK;
}

static tn_status missing(const builder *b, const char *prefix, const char *name)
{
    return tn_fail(b->err, TN_DATA, "%s: no tensor \"%s%s\"; expected it in a model of "
                   "architecture %s with %llu layers", tn_gguf_path(b->m->g), prefix, name,
                   b->m->family.arch, (unsigned long long)b->m->layers);
}

static tn_status add_outer(builder *b, size_t i)
{
    const tn_gguf_tensor *t = tn_gguf_tensor_find(b->m->g, outer[i].from);
    if (t != NULL)
        return add_tensor(b, &outer[i], t, "");
    return (outer[i].flags & NEED) != 0 ? missing(b, "", outer[i].from) : TN_OK;
}

static tn_status add_layer(builder *b, uint64_t n, uint32_t *attn, uint32_t *mlp)
{
    const tn_import_family *f = &b->m->family;
    char from[48], to[48], name[96];
    snprintf(from, sizeof from, "blk.%llu.", (unsigned long long)n);
    snprintf(to, sizeof to, "model.layers.%llu.", (unsigned long long)n);
    for (size_t i = 0; i < NLAYER; i++) {
        const slot *s = &layer[i];
        bool need = (s->flags & NEED) != 0 || ((s->flags & NEED_BIAS) != 0 && f->qkv_bias) ||
                    ((s->flags & NEED_NORM) != 0 && f->qk_norm);
        if ((s->flags & NEED_NORM) != 0 && !f->qk_norm)
            continue; /* stays unclaimed and is refused if it is there */
        snprintf(name, sizeof name, "%s%s", from, s->from);
        const tn_gguf_tensor *t = tn_gguf_tensor_find(b->m->g, name);
        if (t == NULL && need)
            return missing(b, from, s->from);
        if (t == NULL)
            continue;
        *attn += (s->flags & OPT_ATTN) != 0;
        *mlp += (s->flags & OPT_MLP) != 0;
        tn_status st = add_tensor(b, s, t, to);
        if (st != TN_OK)
            return st;
    }
    return TN_OK;
}

/* config.json can only say that all linears of a kind have a bias, or that none has. qwen2
 * always has three of attention's four. */
static tn_status check_biases(builder *b, uint64_t attn, uint64_t mlp)
{
    tn_import_model *m = b->m;
    uint64_t all = m->family.qkv_bias ? 3 : 4;
    if ((attn != 0 && attn != all * m->layers) || (mlp != 0 && mlp != 3 * m->layers))
        return tn_fail(b->err, TN_UNSUPPORTED, "%s: %llu biases in attention and %llu in MLPs of "
                       "%llu layers; expected none or %llu, and none or %llu", tn_gguf_path(m->g),
                       (unsigned long long)attn, (unsigned long long)mlp,
                       (unsigned long long)m->layers, (unsigned long long)(all * m->layers),
                       (unsigned long long)(3 * m->layers));
    m->attention_bias = attn != 0;
    m->mlp_bias = mlp != 0;
    return TN_OK;
}

/* A tensor without a place would be lost in silence. Frequencies went into the metadata. */
static tn_status check_claimed(const builder *b)
{
    tn_names taken;
    tn_quoted q;
    uint32_t found;
    tn_status st = TN_OK;
    tn_names_open(&taken);
    for (uint64_t i = 0; i < b->count && st == TN_OK; i++) {
        const char *name = b->list[i].from->name;
        if (!tn_names_add(&taken, name, strlen(name), 0, &found))
            st = tn_fail(b->err, TN_NO_MEMORY, "%s: no memory for its tensors",
                         tn_gguf_path(b->m->g));
    }
    for (uint64_t i = 0; i < tn_gguf_tensors(b->m->g) && st == TN_OK; i++) {
        const tn_gguf_tensor *t = tn_gguf_tensor_at(b->m->g, i);
        if (tn_names_find(&taken, t->name, strlen(t->name)) == TN_NAMES_NONE &&
            strcmp(t->name, "rope_freqs.weight") != 0)
            st = tn_fail(b->err, TN_UNSUPPORTED, "%s:%llu: tensor %s has no place in a model of "
                         "architecture %s with %llu layers", tn_gguf_path(b->m->g),
                         (unsigned long long)t->offset, tn_quote_text(&q, t->name),
                         b->m->family.arch, (unsigned long long)b->m->layers);
    }
    tn_names_close(&taken);
    return st;
}

tn_status tn_import_tensors(tn_import_model *m, tn_import_tensor **out, uint64_t *count,
                            tn_err *err)
{
    builder b = {.m = m, .err = err};
    uint64_t attn = 0, mlp = 0;
    b.list = calloc((size_t)(NOUTER + NLAYER * m->layers), sizeof *b.list);
    if (b.list == NULL)
        return tn_fail(err, TN_NO_MEMORY, "%s: no memory for its tensors", tn_gguf_path(m->g));
    tn_status st = add_outer(&b, 0);
    for (uint64_t i = 0; i < m->layers && st == TN_OK; i++) {
        uint32_t a = 0, l = 0;
        st = add_layer(&b, i, &a, &l);
        attn += a;
        mlp += l;
    }
    for (size_t i = 1; i < NOUTER && st == TN_OK; i++)
        st = add_outer(&b, i);
    if (st == TN_OK)
        st = check_biases(&b, attn, mlp);
    if (st == TN_OK)
        st = check_claimed(&b);
    if (st != TN_OK) {
        free(b.list);
        return st;
    }
    *out = b.list;
    *count = b.count;
    return TN_OK;
}
