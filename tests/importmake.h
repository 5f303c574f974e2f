/* SPDX-License-Identifier: Apache-2.0 */
/* importmake.h - small models as GGUF files, and their import, for the tests of it. */
#ifndef TN_IMPORTMAKE_H
#define TN_IMPORTMAKE_H

#include "checkpoint.h"
#include "ggufmake.h"
#include "import.h"
#include "json.h"

#include <setjmp.h>

#include <cmocka.h>

#define COUNT(a) (sizeof(a) / sizeof(a)[0])

enum { HIDDEN = 32, INTER = 64, HEADS = 4, KV = 2, HEAD = 8, VOCAB = 9, LAYERS = 2 };

/* What a test changes about the model that make() writes. */
typedef struct variant {
    const char *arch;
    const char *skip;             /* a tensor or key left out */
    uint32_t type;                /* of the weights: 0 F32, 1 F16, 8 Q8_0, ... */
    bool output, biases, o_bias, mlp_bias, qk_norm, experts;
    float weight;                 /* added to every value */
    void (*more)(ggufmake *m);    /* further keys and tensors */
    void (*vocab)(ggufmake *m);   /* instead of the usual vocabulary */
} variant;

static inline bool skipped(const variant *v, const char *name)
{
    return v->skip != NULL && strcmp(v->skip, name) == 0;
}

/* Row r of a tensor is r * 1.0 + weight everywhere, so that its place shows. */
static inline void tensor(ggufmake *m, const variant *v, const char *name, uint64_t cols,
                          uint64_t rows, uint32_t type)
{
    tn_buf b;
    uint64_t n = rows > 0 ? rows : 1;
    if (skipped(v, name))
        return;
    tn_buf_open(&b, 1u << 24);
    for (uint64_t r = 0; r < n; r++)
        for (uint64_t c = 0; c < cols; c += type == 8 ? 32 : 1) {
            float f = (float)(rows > 0 ? r : c) + v->weight;
            uint32_t u;
            memcpy(&u, &f, 4);
            if (type == 8) { /* Q8_0: scale 1, codes r */
                gm_int(&b, 0x3c00, 2);
                for (int k = 0; k < 32; k++)
                    gm_int(&b, r & 127, 1);
            } else {
                gm_int(&b, u, 4);
            }
        }
    gm_tensor(m, name, cols, rows, type, b.data, b.len);
    tn_buf_close(&b);
}

static inline void key(ggufmake *m, const variant *v, const char *name, uint32_t value)
{
    char full[96];
    snprintf(full, sizeof full, "%s.%s", v->arch, name);
    if (!skipped(v, name))
        gm_u32(m, full, value);
}

static inline void usual_vocab(ggufmake *m)
{
    static const char *const tokens[VOCAB] = {"<s>", "</s>", "a", "b", "ab", "<think>", "\u0120",
                                              "\u0120a", "<|pad|>"};
    static const int32_t types[VOCAB] = {3, 3, 1, 1, 1, 4, 1, 1, 3};
    static const char *const merges[] = {"a b", "\u0120 a"};
    gm_text(m, "tokenizer.ggml.model", "gpt2");
    gm_text(m, "tokenizer.ggml.pre", "smollm");
    gm_texts(m, "tokenizer.ggml.tokens", tokens, VOCAB);
    gm_i32s(m, "tokenizer.ggml.token_type", types, VOCAB);
    gm_texts(m, "tokenizer.ggml.merges", merges, 2);
    gm_u32(m, "tokenizer.ggml.bos_token_id", 0);
    gm_u32(m, "tokenizer.ggml.eos_token_id", 1);
    gm_u32(m, "tokenizer.ggml.padding_token_id", 8);
}

static inline void layer(ggufmake *m, const variant *v, int i)
{
    const struct {
        const char *name;
        uint64_t cols, rows;
        bool wanted;
    } list[] = {
        {"attn_norm.weight", HIDDEN, 0, true},
        {"attn_q.weight", HIDDEN, HEADS * HEAD, true},
        {"attn_k.weight", HIDDEN, KV * HEAD, true},
        {"attn_v.weight", HIDDEN, KV * HEAD, true},
        {"attn_output.weight", HEADS * HEAD, HIDDEN, true},
        {"ffn_norm.weight", HIDDEN, 0, true},
        {"ffn_gate.weight", HIDDEN, INTER, true},
        {"ffn_up.weight", HIDDEN, INTER, true},
        {"ffn_down.weight", INTER, HIDDEN, true},
        {"attn_q.bias", HEADS * HEAD, 0, v->biases},
        {"attn_k.bias", KV * HEAD, 0, v->biases},
        {"attn_v.bias", KV * HEAD, 0, v->biases},
        {"attn_output.bias", HIDDEN, 0, v->o_bias},
        {"ffn_gate.bias", INTER, 0, v->mlp_bias},
        {"ffn_up.bias", INTER, 0, v->mlp_bias},
        {"ffn_down.bias", HIDDEN, 0, v->mlp_bias},
        {"attn_q_norm.weight", HEAD, 0, v->qk_norm},
        {"attn_k_norm.weight", HEAD, 0, v->qk_norm},
    };
    char name[64];
    for (size_t k = 0; k < COUNT(list); k++) {
        snprintf(name, sizeof name, "blk.%d.%s", i, list[k].name);
        if (list[k].wanted)
            tensor(m, v, name, list[k].cols, list[k].rows, list[k].rows > 0 ? v->type : 0);
    }
}

static inline void make(scratch *s, const variant *v)
{
    ggufmake m;
    gm_open(&m);
    if (!skipped(v, "general.architecture"))
        gm_text(&m, "general.architecture", v->arch);
    key(&m, v, "block_count", LAYERS);
    key(&m, v, "context_length", 512);
    key(&m, v, "embedding_length", HIDDEN);
    key(&m, v, "feed_forward_length", INTER);
    key(&m, v, "attention.head_count", HEADS);
    key(&m, v, "attention.head_count_kv", KV);
    if (v->experts)
        key(&m, v, "expert_count", 8);
    char eps[64];
    snprintf(eps, sizeof eps, "%s.attention.layer_norm_rms_epsilon", v->arch);
    gm_f32(&m, eps, 1e-6f);
    (v->vocab != NULL ? v->vocab : usual_vocab)(&m);
    if (v->more != NULL)
        v->more(&m);
    tensor(&m, v, "token_embd.weight", HIDDEN, VOCAB, v->type);
    for (int i = 0; i < LAYERS; i++)
        layer(&m, v, i);
    tensor(&m, v, "output_norm.weight", HIDDEN, 0, 0);
    if (v->output)
        tensor(&m, v, "output.weight", HIDDEN, VOCAB, v->type);
    gm_write(&m, s, "m.gguf");
    gm_close(&m);
}

static inline tn_status run(scratch *s, tn_import_options *o, tn_err *err)
{
    char dir[128];
    snprintf(dir, sizeof dir, "%s/out", s->dir);
    return tn_import(scratch_path(s, "m.gguf"), dir, o, err);
}

static inline void imported(scratch *s, const variant *v, tn_import_options *o)
{
    tn_err err = {.text = ""};
    scratch_open(s);
    make(s, v);
    if (run(s, o, &err) != TN_OK)
        fail_msg("%s", err.text);
}

static inline void refused(const variant *v, tn_status want, const char *part)
{
    scratch s;
    tn_err err = {.text = ""};
    scratch_open(&s);
    make(&s, v);
    tn_status st = run(&s, NULL, &err);
    if (st != want || strstr(err.text, part) == NULL)
        fail_msg("status %d, \"%s\"; expected %d and \"%s\"", st, err.text, want, part);
    assert_false(scratch_has(&s, "out/config.json"));
    assert_false(scratch_has(&s, "out/model.safetensors"));
    assert_false(scratch_has(&s, "out/model-shard-00001.part"));
    scratch_close(&s);
}

static inline tn_json_doc *json_of(scratch *s, const char *name)
{
    tn_json_doc *doc = NULL;
    tn_err err;
    if (tn_json_open_file(scratch_path(s, name), 1u << 24, &doc, &err) != TN_OK)
        fail_msg("%s", err.text);
    return doc;
}

static inline double number(const tn_json *o, const char *name)
{
    const tn_json *v = tn_json_find(o, name);
    if (v == NULL || (v->type != TN_JSON_INT && v->type != TN_JSON_FLOAT))
        fail_msg("%s is no number", name);
    return v->f;
}

static inline void is_text(const tn_json *o, const char *name, const char *want)
{
    const tn_json *v = tn_json_find(o, name);
    if (v == NULL || v->type != TN_JSON_TEXT)
        fail_msg("%s is no text", name);
    assert_string_equal(v->text, want);
}

static inline tn_ckpt *folder(scratch *s)
{
    tn_ckpt *c = NULL;
    tn_err err;
    if (tn_ckpt_open(scratch_path(s, "out"), 0, &c, &err) != TN_OK)
        fail_msg("%s", err.text);
    return c;
}

#endif
