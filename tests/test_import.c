/* SPDX-License-Identifier: Apache-2.0 */
/* test_import.c - small GGUF files of every kind become folders, or are refused by name. */
#include "checkpoint.h"
#include "ggufmake.h"
#include "import.h"
#include "import_vocab.h"
#include "json.h"

#include <math.h>
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

static bool skipped(const variant *v, const char *name)
{
    return v->skip != NULL && strcmp(v->skip, name) == 0;
}

/* Row r of a tensor is r * 1.0 + weight everywhere, so that its place shows. */
static void tensor(ggufmake *m, const variant *v, const char *name, uint64_t cols, uint64_t rows,
                   uint32_t type)
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

static void key(ggufmake *m, const variant *v, const char *name, uint32_t value)
{
    char full[96];
    snprintf(full, sizeof full, "%s.%s", v->arch, name);
    if (!skipped(v, name))
        gm_u32(m, full, value);
}

static void usual_vocab(ggufmake *m)
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

static void layer(ggufmake *m, const variant *v, int i)
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

static void make(scratch *s, const variant *v)
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

static tn_status run(scratch *s, tn_import_options *o, tn_err *err)
{
    char dir[128];
    snprintf(dir, sizeof dir, "%s/out", s->dir);
    return tn_import(scratch_path(s, "m.gguf"), dir, o, err);
}

static void imported(scratch *s, const variant *v, tn_import_options *o)
{
    tn_err err = {.text = ""};
    scratch_open(s);
    make(s, v);
    if (run(s, o, &err) != TN_OK)
        fail_msg("%s", err.text);
}

static void refused(const variant *v, tn_status want, const char *part)
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

static tn_json_doc *json_of(scratch *s, const char *name)
{
    tn_json_doc *doc = NULL;
    tn_err err;
    if (tn_json_open_file(scratch_path(s, name), 1u << 24, &doc, &err) != TN_OK)
        fail_msg("%s", err.text);
    return doc;
}

static double number(const tn_json *o, const char *name)
{
    const tn_json *v = tn_json_find(o, name);
    if (v == NULL || (v->type != TN_JSON_INT && v->type != TN_JSON_FLOAT))
        fail_msg("%s is no number", name);
    return v->f;
}

static void is_text(const tn_json *o, const char *name, const char *want)
{
    const tn_json *v = tn_json_find(o, name);
    if (v == NULL || v->type != TN_JSON_TEXT)
        fail_msg("%s is no text", name);
    assert_string_equal(v->text, want);
}

static tn_ckpt *folder(scratch *s)
{
    tn_ckpt *c = NULL;
    tn_err err;
    if (tn_ckpt_open(scratch_path(s, "out"), 0, &c, &err) != TN_OK)
        fail_msg("%s", err.text);
    return c;
}

/* Every value of row r of the tensor must be want(r) + `add`. */
static void rows_are(const tn_ckpt *c, const char *name, uint64_t rows, uint64_t cols,
                     uint64_t (*want)(uint64_t r), float add)
{
    float *v = calloc((size_t)(rows * cols), sizeof *v);
    tn_err err;
    if (v == NULL || tn_ckpt_floats(c, name, rows * cols, v, &err) != TN_OK)
        fail_msg("%s: %s", name, err.text);
    for (uint64_t r = 0; r < rows; r++)
        for (uint64_t k = 0; k < cols; k++)
            if (v[r * cols + k] != (float)want(r) + add)
                fail_msg("%s row %d: %g, expected %g", name, (int)r, (double)v[r * cols + k],
                         (double)((float)want(r) + add));
    free(v);
}

static uint64_t in_place(uint64_t r)
{
    return r;
}

/* Row p * HEAD / 2 + i of a head comes from row 2 i + p of the file. */
static uint64_t from_pairs(uint64_t r)
{
    uint64_t in = r % HEAD;
    return r - in + 2 * (in % (HEAD / 2)) + in / (HEAD / 2);
}

/* ------------------------------------------------------------------------- architectures */

static void a_llama(void **state)
{
    static const variant v = {.arch = "llama"};
    tn_import_options o = {.dtype = TN_F32};
    scratch s;
    (void)state;
    imported(&s, &v, &o);
    tn_ckpt *c = folder(&s);
    const tn_view *view = tn_ckpt_view(c);
    assert_int_equal(view->ntensor, 2 + 9 * LAYERS);
    assert_null(tn_ckpt_note(c));
    rows_are(c, "model.layers.1.self_attn.q_proj.weight", HEADS * HEAD, HIDDEN, from_pairs, 0);
    rows_are(c, "model.layers.0.self_attn.k_proj.weight", KV * HEAD, HIDDEN, from_pairs, 0);
    rows_are(c, "model.layers.0.self_attn.v_proj.weight", KV * HEAD, HIDDEN, in_place, 0);
    rows_are(c, "model.layers.0.self_attn.o_proj.weight", HIDDEN, HEADS * HEAD, in_place, 0);
    rows_are(c, "model.layers.0.mlp.down_proj.weight", HIDDEN, INTER, in_place, 0);
    rows_are(c, "model.layers.0.mlp.gate_proj.weight", INTER, HIDDEN, in_place, 0);
    rows_are(c, "model.layers.0.input_layernorm.weight", HIDDEN, 1, in_place, 0);
    rows_are(c, "model.embed_tokens.weight", VOCAB, HIDDEN, in_place, 0);
    const tn_json *j = view->config;
    is_text(j, "model_type", "llama");
    is_text(j, "torch_dtype", "float32");
    assert_string_equal(tn_json_find(j, "architectures")->child->text, "LlamaForCausalLM");
    assert_int_equal((int)number(j, "hidden_size"), HIDDEN);
    assert_int_equal((int)number(j, "intermediate_size"), INTER);
    assert_int_equal((int)number(j, "num_hidden_layers"), LAYERS);
    assert_int_equal((int)number(j, "num_attention_heads"), HEADS);
    assert_int_equal((int)number(j, "num_key_value_heads"), KV);
    assert_int_equal((int)number(j, "head_dim"), HEAD);
    assert_int_equal((int)number(j, "vocab_size"), VOCAB);
    assert_int_equal((int)number(j, "max_position_embeddings"), 512);
    assert_int_equal((int)number(j, "eos_token_id"), 1);
    assert_true(number(j, "rms_norm_eps") == 1e-6); /* not 9.99999997e-07 */
    assert_true(number(j, "rope_theta") == 10000);
    assert_int_equal(tn_json_find(j, "rope_scaling")->type, TN_JSON_NULL);
    assert_int_equal(tn_json_find(j, "tie_word_embeddings")->type, TN_JSON_TRUE);
    assert_int_equal(tn_json_find(j, "attention_bias")->type, TN_JSON_FALSE);
    assert_int_equal((int)number(tn_ckpt_generation(c), "pad_token_id"), 8);
    tn_ckpt_close(c);
    assert_false(scratch_has(&s, "out/chat_template.jinja"));
    scratch_close(&s);
}

static void biases_and_output(void **state)
{
    static const variant v = {.arch = "llama", .type = 8, .biases = true, .o_bias = true,
                              .mlp_bias = true, .output = true};
    scratch s;
    (void)state;
    imported(&s, &v, NULL);
    tn_ckpt *c = folder(&s);
    tn_tensor t;
    const tn_view *view = tn_ckpt_view(c);
    rows_are(c, "model.layers.1.self_attn.q_proj.bias", HEADS * HEAD, 1, from_pairs, 0);
    rows_are(c, "model.layers.1.self_attn.k_proj.bias", KV * HEAD, 1, from_pairs, 0);
    rows_are(c, "model.layers.1.self_attn.v_proj.bias", KV * HEAD, 1, in_place, 0);
    rows_are(c, "model.layers.1.self_attn.q_proj.weight", HEADS * HEAD, HIDDEN, from_pairs, 0);
    rows_are(c, "lm_head.weight", VOCAB, HIDDEN, in_place, 0);
    assert_int_equal(view->find(view, "lm_head.weight", &t), 1);
    assert_int_equal(t.dtype, TN_F16);
    assert_int_equal(tn_json_find(view->config, "tie_word_embeddings")->type, TN_JSON_FALSE);
    assert_int_equal(tn_json_find(view->config, "attention_bias")->type, TN_JSON_TRUE);
    assert_int_equal(tn_json_find(view->config, "mlp_bias")->type, TN_JSON_TRUE);
    tn_ckpt_close(c);
    scratch_close(&s);
}

static void qwens(void **state)
{
    static const variant two = {.arch = "qwen2", .biases = true};
    static const variant three = {.arch = "qwen3", .qk_norm = true};
    tn_import_options o = {.dtype = TN_BF16};
    scratch s;
    tn_tensor t;
    (void)state;
    imported(&s, &two, &o);
    tn_ckpt *c = folder(&s);
    const tn_view *view = tn_ckpt_view(c);
    rows_are(c, "model.layers.1.self_attn.q_proj.weight", HEADS * HEAD, HIDDEN, in_place, 0);
    rows_are(c, "model.layers.1.self_attn.k_proj.bias", KV * HEAD, 1, in_place, 0);
    is_text(view->config, "model_type", "qwen2");
    is_text(view->config, "torch_dtype", "bfloat16");
    assert_null(tn_json_find(view->config, "attention_bias"));
    assert_int_equal(view->find(view, "model.norm.weight", &t), 1);
    assert_int_equal(t.dtype, TN_BF16);
    tn_ckpt_close(c);
    scratch_close(&s);
    imported(&s, &three, NULL);
    c = folder(&s);
    view = tn_ckpt_view(c);
    rows_are(c, "model.layers.1.self_attn.q_norm.weight", HEAD, 1, in_place, 0);
    rows_are(c, "model.layers.0.self_attn.k_proj.weight", KV * HEAD, HIDDEN, in_place, 0);
    is_text(view->config, "model_type", "qwen3");
    tn_ckpt_close(c);
    scratch_close(&s);
}

static void window(ggufmake *m)
{
    gm_u32(m, "llama.attention.sliding_window", 128);
}

static void temperature(ggufmake *m)
{
    gm_f32(m, "mistral3.attention.temperature_scale", 0.1f);
    gm_text(m, "mistral3.rope.scaling.type", "yarn");
    gm_f32(m, "mistral3.rope.scaling.factor", 16);
    gm_u32(m, "mistral3.rope.scaling.original_context_length", 16384);
    gm_f32(m, "mistral3.rope.scaling.yarn_beta_fast", 32);
    gm_f32(m, "mistral3.rope.scaling.yarn_log_multiplier", 1);
}

static void mistrals(void **state)
{
    static const variant slides = {.arch = "llama", .more = window};
    static const variant three = {.arch = "mistral3"};
    static const variant mini = {.arch = "mistral3", .more = temperature};
    scratch s;
    (void)state;
    imported(&s, &slides, NULL);
    tn_ckpt *c = folder(&s);
    is_text(tn_ckpt_view(c)->config, "model_type", "mistral");
    assert_int_equal((int)number(tn_ckpt_view(c)->config, "sliding_window"), 128);
    tn_ckpt_close(c);
    scratch_close(&s);
    imported(&s, &three, NULL);
    c = folder(&s);
    is_text(tn_ckpt_view(c)->config, "model_type", "mistral");
    assert_int_equal(tn_json_find(tn_ckpt_view(c)->config, "sliding_window")->type, TN_JSON_NULL);
    rows_are(c, "model.layers.0.self_attn.q_proj.weight", HEADS * HEAD, HIDDEN, from_pairs, 0);
    tn_ckpt_close(c);
    scratch_close(&s);
    imported(&s, &mini, NULL);
    c = folder(&s);
    is_text(tn_ckpt_view(c)->config, "model_type", "ministral3");
    const tn_json *rope = tn_json_find(tn_ckpt_view(c)->config, "rope_scaling");
    is_text(rope, "rope_type", "yarn");
    assert_true(number(rope, "factor") == 16);
    assert_true(number(rope, "llama_4_scaling_beta") == 0.1);
    assert_true(number(rope, "mscale_all_dim") == 1);
    assert_true(number(rope, "beta_fast") == 32);
    assert_int_equal((int)number(rope, "original_max_position_embeddings"), 16384);
    tn_ckpt_close(c);
    scratch_close(&s);
}

/* -------------------------------------------------------------------------------- rotary */

static void linear(ggufmake *m)
{
    gm_text(m, "llama.rope.scaling.type", "linear");
    gm_f32(m, "llama.rope.scaling.factor", 2.5f);
    gm_f32(m, "llama.rope.freq_base", 500000);
}

static void old_linear(ggufmake *m)
{
    gm_f32(m, "llama.rope.scale_linear", 4);
}

static void none(ggufmake *m)
{
    gm_text(m, "llama.rope.scaling.type", "none");
}

static void longrope(ggufmake *m)
{
    gm_text(m, "llama.rope.scaling.type", "longrope");
}

/* With heads of 8 there are four frequencies: base and lengths are chosen so that two of them
 * lie in the blended range. */
static void llama3(ggufmake *m)
{
    float f[HEAD / 2];
    const double theta = 10000, factor = 32, low = 1, high = 4, original = 2048;
    for (int i = 0; i < HEAD / 2; i++) {
        double x = original * pow(theta, -2.0 * i / HEAD) / 6.283185307179586;
        double blend = (x - low) / (high - low);
        f[i] = (float)(x > high ? 1 : x < low ? factor
                       : 1 / ((1 - blend) / factor + blend));
    }
    gm_tensor(m, "rope_freqs.weight", HEAD / 2, 0, 0, f, sizeof f);
}

static void odd_freqs(ggufmake *m)
{
    static const float f[HEAD / 2] = {1, 3, 2, 8};
    gm_tensor(m, "rope_freqs.weight", HEAD / 2, 0, 0, f, sizeof f);
}

static void plain_freqs(ggufmake *m)
{
    static const float f[HEAD / 2] = {1, 1, 1, 1};
    gm_tensor(m, "rope_freqs.weight", HEAD / 2, 0, 0, f, sizeof f);
}

static void ropes(void **state)
{
    static const struct {
        void (*more)(ggufmake *m);
        const char *kind; /* NULL: none */
        double factor, theta;
    } rows[] = {
        {linear, "linear", 2.5, 500000},
        {old_linear, "linear", 4, 10000},
        {none, NULL, 0, 10000},
        {plain_freqs, NULL, 0, 10000},
    };
    scratch s;
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        variant v = {.arch = "llama", .more = rows[i].more};
        imported(&s, &v, NULL);
        tn_ckpt *c = folder(&s);
        const tn_json *j = tn_ckpt_view(c)->config, *rope = tn_json_find(j, "rope_scaling");
        assert_true(number(j, "rope_theta") == rows[i].theta);
        if (rows[i].kind == NULL) {
            assert_int_equal(rope->type, TN_JSON_NULL);
        } else {
            is_text(rope, "rope_type", rows[i].kind);
            assert_true(number(rope, "factor") == rows[i].factor);
        }
        tn_ckpt_close(c);
        scratch_close(&s);
    }
    variant v = {.arch = "llama", .more = longrope};
    refused(&v, TN_UNSUPPORTED, "is \"longrope\"; expected none, linear or yarn");
    v.more = odd_freqs;
    refused(&v, TN_UNSUPPORTED, "frequencies that no known rule gives");
    v.more = llama3; /* too few blended frequencies at this size: never guessed */
    refused(&v, TN_UNSUPPORTED, "frequencies that no known rule gives");
}

/* The parameters come back from the factors that published models carry. */
static void llama3_factors(void **state)
{
    static const struct {
        uint32_t dims;
        double theta, factor, low, high, original;
    } rows[] = {
        {128, 500000, 8, 1, 4, 8192},   {64, 500000, 32, 1, 4, 8192},
        {128, 500000, 32, 1, 4, 8192},  {128, 10000, 4, 1, 2, 4096},
        {256, 1000000, 16, 1, 8, 32768},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        float f[128];
        uint32_t n = rows[i].dims / 2;
        for (uint32_t k = 0; k < n; k++) { /* in single precision, as converters do */
            float freq = 1.0f / (float)pow(rows[i].theta, 2.0 * k / rows[i].dims);
            float wave = 2 * 3.14159265358979f / freq;
            float blend = ((float)rows[i].original / wave - (float)rows[i].low) /
                          (float)(rows[i].high - rows[i].low);
            f[k] = wave < (float)(rows[i].original / rows[i].high) ? 1
                   : wave > (float)(rows[i].original / rows[i].low) ? (float)rows[i].factor
                   : 1 / ((1 - blend) / (float)rows[i].factor + blend);
        }
        tn_import_rope r = {0};
        tn_err err;
        if (tn_import_llama3(f, n, rows[i].theta, &r, &err) != TN_OK)
            fail_msg("row %zu: %s", i, err.text);
        assert_int_equal(r.kind, TN_IMPORT_ROPE_LLAMA3);
        if (r.factor != rows[i].factor || r.low != rows[i].low || r.high != rows[i].high ||
            r.original != rows[i].original)
            fail_msg("row %zu: factor %g, low %g, high %g, original %g", i, r.factor, r.low, r.high,
                     r.original);
        f[n / 2] *= 1.01f;
        assert_int_equal(tn_import_llama3(f, n, rows[i].theta, &r, &err), TN_UNSUPPORTED);
    }
}

/* A float of the file is printed as the number that was meant. */
static void floats_in_json(void **state)
{
    static const struct {
        float v;
        const char *text;
    } rows[] = {
        {1e-5f, "1e-05"},   {1e-6f, "1e-06"},       {0.1f, "0.1"},      {100000.0f, "100000.0"},
        {0, "0.0"},         {0.70710677f, "0.70710677"}, {2.5f, "2.5"}, {-0.02f, "-0.02"},
        {1e20f, "1e+20"},   {1.1754944e-38f, NULL}, {16777217.0f, "16777216.0"},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        tn_buf b;
        tn_buf_open(&b, 100);
        tn_import_put_float(&b, (double)rows[i].v);
        assert_non_null(b.data);
        if (rows[i].text != NULL)
            assert_string_equal(b.data, rows[i].text);
        assert_true(strtof(b.data, NULL) == rows[i].v);
        tn_buf_close(&b);
    }
}

/* -------------------------------------------------------------------------------- refusals */

static void experts_tensor(ggufmake *m)
{
    static const float zero[32];
    gm_tensor(m, "blk.0.ffn_gate_exps.weight", 32, 1, 0, zero, sizeof zero);
}

static void parts(ggufmake *m)
{
    gm_scalar(m, "split.count", TN_GGUF_U16, 3, 2);
}

static void partial_rope(ggufmake *m)
{
    gm_u32(m, "llama.rope.dimension_count", 4);
}

static void odd_heads(ggufmake *m)
{
    gm_u32(m, "llama.attention.key_length", 7);
}

static void mixed_layers(ggufmake *m)
{
    static const int32_t n[] = {2, 1};
    gm_i32s(m, "llama.attention.head_count_kv", n, 2);
}

static void alike_layers(ggufmake *m)
{
    static const int32_t n[] = {KV, KV};
    gm_i32s(m, "llama.attention.head_count_kv", n, 2);
}

static void far_bos(ggufmake *m)
{
    gm_u32(m, "tokenizer.ggml.eot_token_id", 4000);
}

static void refusals(void **state)
{
    static const struct {
        variant v;
        tn_status status;
        const char *part;
    } rows[] = {
        {{.arch = "gemma3"}, TN_UNSUPPORTED, "architecture \"gemma3\"; expected llama"},
        {{.arch = "llama", .skip = "general.architecture"}, TN_DATA, "general.architecture"},
        {{.arch = "llama", .skip = "block_count"}, TN_DATA, "llama.block_count"},
        {{.arch = "llama", .skip = "embedding_length"}, TN_DATA, "llama.embedding_length"},
        {{.arch = "llama", .skip = "attention.head_count"}, TN_DATA, "head_count"},
        {{.arch = "llama", .skip = "token_embd.weight"}, TN_DATA, "token_embd.weight"},
        {{.arch = "llama", .skip = "output_norm.weight"}, TN_DATA, "output_norm.weight"},
        {{.arch = "llama", .skip = "blk.1.ffn_up.weight"}, TN_DATA, "blk.1.ffn_up.weight"},
        {{.arch = "qwen2"}, TN_DATA, "attn_q.bias"},
        {{.arch = "qwen3"}, TN_DATA, "attn_q_norm.weight"},
        {{.arch = "llama", .qk_norm = true}, TN_UNSUPPORTED,
         "\"blk.0.attn_q_norm.weight\" has no place"},
        {{.arch = "llama", .biases = true}, TN_UNSUPPORTED, "6 biases in attention"},
        {{.arch = "qwen2", .biases = true, .o_bias = true}, TN_UNSUPPORTED,
         "8 biases in attention"},
        {{.arch = "llama", .mlp_bias = true, .skip = "blk.0.ffn_up.bias"}, TN_UNSUPPORTED,
         "5 in MLPs"},
        {{.arch = "llama", .experts = true}, TN_UNSUPPORTED, "a mixture of 8 experts"},
        {{.arch = "llama", .more = experts_tensor}, TN_UNSUPPORTED,
         "ffn_gate_exps.weight\" has no place"},
        {{.arch = "llama", .more = parts}, TN_UNSUPPORTED, "one of 3 parts"},
        {{.arch = "llama", .more = partial_rope}, TN_UNSUPPORTED, "4 of 8 dimensions"},
        {{.arch = "llama", .more = odd_heads}, TN_DATA, "heads of 7 values"},
        {{.arch = "llama", .more = mixed_layers, .skip = "attention.head_count_kv"},
         TN_UNSUPPORTED, "2 in layer 0 but 1 in layer 1"},
        {{.arch = "llama", .more = far_bos}, TN_DATA, "eot_token_id\" is 4000"},
        {{.arch = "llama", .weight = 65520}, TN_DATA, "at most 65504 for float16"},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++)
        refused(&rows[i].v, rows[i].status, rows[i].part);
    variant alike = {.arch = "llama", .more = alike_layers, .skip = "attention.head_count_kv"};
    scratch s;
    imported(&s, &alike, NULL);
    scratch_close(&s);
}

static void wrong_types(ggufmake *m)
{
    static const uint8_t zero[66];
    static const uint64_t dim[] = {256};
    while (m->data.len % 32 != 0)
        tn_buf_putc(&m->data, 0);
    gm_describe(m, "output_norm.weight", 1, dim, 16, m->data.len);
    tn_buf_put(&m->data, zero, sizeof zero);
}

static void types_and_shapes(void **state)
{
    variant v = {.arch = "llama", .more = wrong_types, .skip = "output_norm.weight"};
    (void)state;
    refused(&v, TN_DATA, "\"output_norm.weight\" is 256 x 1; expected 32 x 1");
}

/* ------------------------------------------------------------------------------ tokenizer */

static const tn_json *added(const tn_json *root, int64_t id)
{
    for (const tn_json *t = tn_json_find(root, "added_tokens")->child; t != NULL; t = t->next)
        if (tn_json_find(t, "id")->i == id)
            return t;
    return NULL;
}

static void gpt2_tokenizer(void **state)
{
    static const variant v = {.arch = "llama"};
    scratch s;
    (void)state;
    imported(&s, &v, NULL);
    tn_json_doc *doc = json_of(&s, "out/tokenizer.json");
    const tn_json *t = tn_json_root(doc), *model = tn_json_find(t, "model");
    assert_int_equal(tn_json_find(t, "added_tokens")->count, 4);
    assert_int_equal(tn_json_find(added(t, 0), "special")->type, TN_JSON_TRUE);
    assert_int_equal(tn_json_find(added(t, 5), "special")->type, TN_JSON_FALSE);
    is_text(added(t, 5), "content", "<think>");
    assert_null(added(t, 2));
    assert_int_equal(tn_json_find(t, "normalizer")->type, TN_JSON_NULL);
    assert_int_equal(tn_json_find(t, "post_processor")->type, TN_JSON_NULL);
    const tn_json *pre = tn_json_find(tn_json_find(t, "pre_tokenizer"), "pretokenizers");
    is_text(pre->child, "type", "Digits");
    is_text(pre->child->next, "type", "ByteLevel");
    assert_int_equal(tn_json_find(pre->child->next, "use_regex")->type, TN_JSON_TRUE);
    is_text(tn_json_find(t, "decoder"), "type", "ByteLevel");
    is_text(model, "type", "BPE");
    const tn_json *vocab = tn_json_find(model, "vocab"), *merges = tn_json_find(model, "merges");
    assert_int_equal(vocab->count, VOCAB);
    assert_int_equal((int)number(vocab, "\u0120a"), 7);
    assert_int_equal(merges->count, 2);
    assert_string_equal(merges->child->next->child->text, "\u0120");
    assert_string_equal(merges->child->next->child->next->text, "a");
    assert_int_equal(tn_json_find(model, "byte_fallback")->type, TN_JSON_FALSE);
    tn_json_close(doc);
    doc = json_of(&s, "out/tokenizer_config.json");
    is_text(tn_json_root(doc), "bos_token", "<s>");
    is_text(tn_json_root(doc), "pad_token", "<|pad|>");
    is_text(tn_json_root(doc), "tokenizer_class", "PreTrainedTokenizerFast");
    assert_non_null(tn_json_find(tn_json_find(tn_json_root(doc), "added_tokens_decoder"), "5"));
    tn_json_close(doc);
    doc = json_of(&s, "out/special_tokens_map.json");
    is_text(tn_json_root(doc), "eos_token", "</s>");
    tn_json_close(doc);
    scratch_close(&s);
}

static void named_pre(ggufmake *m, const char *pre)
{
    static const char *const tokens[] = {"<s>", "a", "b", "ab", "[PAD4]", "[PAD5]"};
    static const int32_t types[] = {3, 1, 1, 1, 5, 5};
    static const char *const merges[] = {"a b"};
    gm_text(m, "tokenizer.ggml.model", "gpt2");
    gm_text(m, "tokenizer.ggml.pre", pre);
    gm_texts(m, "tokenizer.ggml.tokens", tokens, 6);
    gm_i32s(m, "tokenizer.ggml.token_type", types, 6);
    gm_texts(m, "tokenizer.ggml.merges", merges, 1);
    gm_u32(m, "tokenizer.ggml.bos_token_id", 0);
    gm_u32(m, "tokenizer.ggml.eos_token_id", 0);
}

static void llama_bpe(ggufmake *m)
{
    named_pre(m, "llama-bpe");
}

static void qwen2(ggufmake *m)
{
    named_pre(m, "qwen2");
}

static void deepseek(ggufmake *m)
{
    named_pre(m, "deepseek-llm");
    gm_bool(m, "tokenizer.ggml.add_bos_token", true);
    gm_bool(m, "tokenizer.ggml.add_eos_token", true);
}

static void unknown_pre(ggufmake *m)
{
    named_pre(m, "martian");
}

static void cuts_of_text(void **state)
{
    variant v = {.arch = "llama", .vocab = llama_bpe};
    scratch s;
    (void)state;
    imported(&s, &v, NULL);
    tn_json_doc *doc = json_of(&s, "out/tokenizer.json");
    const tn_json *t = tn_json_root(doc), *model = tn_json_find(t, "model");
    const tn_json *pre = tn_json_find(tn_json_find(t, "pre_tokenizer"), "pretokenizers");
    is_text(pre->child, "type", "Split");
    is_text(tn_json_find(pre->child, "pattern"), "Regex",
            "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
            "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+");
    assert_int_equal(tn_json_find(pre->child->next, "use_regex")->type, TN_JSON_FALSE);
    assert_int_equal(tn_json_find(model, "ignore_merges")->type, TN_JSON_TRUE);
    assert_int_equal(tn_json_find(model, "vocab")->count, 4); /* placeholders at the end go */
    const tn_json *post = tn_json_find(t, "post_processor"); /* this kind begins with BOS */
    is_text(post, "type", "TemplateProcessing");
    is_text(tn_json_find(tn_json_find(post, "single")->child, "SpecialToken"), "id", "<s>");
    tn_json_close(doc);
    scratch_close(&s);
    v.vocab = qwen2;
    imported(&s, &v, NULL);
    doc = json_of(&s, "out/tokenizer.json");
    is_text(tn_json_find(tn_json_root(doc), "normalizer"), "type", "NFC");
    assert_int_equal(tn_json_find(tn_json_root(doc), "post_processor")->type, TN_JSON_NULL);
    tn_json_close(doc);
    scratch_close(&s);
    v.vocab = deepseek;
    imported(&s, &v, NULL);
    doc = json_of(&s, "out/tokenizer.json");
    pre = tn_json_find(tn_json_find(tn_json_root(doc), "pre_tokenizer"), "pretokenizers");
    assert_int_equal(pre->count, 7);
    post = tn_json_find(tn_json_root(doc), "post_processor");
    assert_int_equal(tn_json_find(post, "single")->count, 3);
    assert_int_equal(tn_json_find(post, "pair")->count, 6);
    assert_int_equal(tn_json_find(post, "special_tokens")->count, 1);
    tn_json_close(doc);
    scratch_close(&s);
    v.vocab = unknown_pre;
    refused(&v, TN_UNSUPPORTED, "tokenizer.ggml.pre is \"martian\"; expected one of gpt-2");
}

/* A SentencePiece vocabulary of 9 tokens, too few for byte fallback. */
static void small_spm(ggufmake *m)
{
    static const char *const tokens[VOCAB] = {"<unk>", "<s>", "</s>", "\u2581", "a", "b", "ab",
                                              "\u2581a", "\u2581ab"};
    static const int32_t types[VOCAB] = {2, 3, 3, 1, 1, 1, 1, 1, 1};
    static const float scores[VOCAB] = {0, 0, 0, -20, -21, -22, -2, -1, -3};
    gm_text(m, "tokenizer.ggml.model", "llama");
    gm_texts(m, "tokenizer.ggml.tokens", tokens, VOCAB);
    gm_f32s(m, "tokenizer.ggml.scores", scores, VOCAB);
    gm_i32s(m, "tokenizer.ggml.token_type", types, VOCAB);
    gm_u32(m, "tokenizer.ggml.bos_token_id", 1);
    gm_u32(m, "tokenizer.ggml.eos_token_id", 2);
    gm_u32(m, "tokenizer.ggml.unknown_token_id", 0);
}

static void flat_spm(ggufmake *m)
{
    static const char *const tokens[] = {"<unk>", "a", "b", "ab"};
    static const float scores[] = {0, -1000, -1000, -1000};
    static const int32_t types[] = {2, 1, 1, 1};
    gm_text(m, "tokenizer.ggml.model", "llama");
    gm_texts(m, "tokenizer.ggml.tokens", tokens, 4);
    gm_f32s(m, "tokenizer.ggml.scores", scores, 4);
    gm_i32s(m, "tokenizer.ggml.token_type", types, 4);
}

static void sentencepiece(void **state)
{
    static const char *const want[][2] = {
        {"\u2581", "a"}, {"a", "b"}, {"\u2581a", "b"}, {"\u2581", "ab"}};
    variant v = {.arch = "llama", .vocab = small_spm};
    scratch s;
    (void)state;
    imported(&s, &v, NULL);
    tn_json_doc *doc = json_of(&s, "out/tokenizer.json");
    const tn_json *t = tn_json_root(doc), *model = tn_json_find(t, "model");
    const tn_json *norm = tn_json_find(tn_json_find(t, "normalizer"), "normalizers");
    is_text(norm->child, "type", "Prepend");
    is_text(norm->child->next, "type", "Replace");
    assert_int_equal(tn_json_find(t, "pre_tokenizer")->type, TN_JSON_NULL);
    is_text(tn_json_find(t, "decoder"), "type", "Sequence");
    is_text(model, "unk_token", "<unk>");
    assert_int_equal(tn_json_find(model, "fuse_unk")->type, TN_JSON_TRUE);
    assert_int_equal(tn_json_find(model, "byte_fallback")->type, TN_JSON_FALSE);
    is_text(tn_json_find(t, "post_processor"), "type", "TemplateProcessing");
    const tn_json *m = tn_json_find(model, "merges");
    assert_int_equal(m->count, COUNT(want));
    m = m->child;
    for (size_t i = 0; i < COUNT(want); i++, m = m->next) {
        assert_string_equal(m->child->text, want[i][0]);
        assert_string_equal(m->child->next->text, want[i][1]);
    }
    tn_json_close(doc);
    scratch_close(&s);
    v.vocab = flat_spm;
    refused(&v, TN_UNSUPPORTED, "all tokens have the score -1000");
}

/* Order and content by the conversion of transformers 4.51.3 from the same pieces. Control
 * tokens are not made by merges here, so the <s> that "<" and "s>" would make is left out. */
static void derived_merges(void **state)
{
    static const struct {
        const char *text;
        float score;
        int32_t type;
    } pieces[] = {
        {"<s>", 0, 3},       {"<", -30, 1},       {"s>", -31, 1},     {"\u2581", -20, 1},
        {"a", -21, 1},       {"b", -22, 1},       {"\u00e9", -23, 1}, {"ab", -1, 1},
        {"ba", -2, 1},       {"\u2581a", -3, 1},  {"\u2581ab", -4, 1}, {"aba", -4, 1},
        {"abab", -5, 1},     {"\u00e9a", -6, 1},  {"\u2581\u00e9a", -6, 1},
        {"b\u00e9", -6, 1},  {"aab", -7, 1},
    };
    static const char *const want[][2] = {
        {"a", "b"},       {"b", "a"},   {"\u2581", "a"},        {"\u2581a", "b"}, {"ab", "a"},
        {"\u2581", "ab"}, {"a", "ba"},  {"aba", "b"},           {"ab", "ab"},
        {"\u2581", "\u00e9a"}, {"\u00e9", "a"}, {"b", "\u00e9"}, {"a", "ab"},
    };
    tn_import_vocab v = {.count = COUNT(pieces)};
    tn_gguf_text token[COUNT(pieces)];
    int32_t type[COUNT(pieces)];
    float score[COUNT(pieces)];
    tn_err err;
    uint32_t found;
    (void)state;
    v.token = token;
    v.type = type;
    tn_names_open(&v.index);
    for (uint32_t i = 0; i < COUNT(pieces); i++) {
        token[i] = (tn_gguf_text){.text = pieces[i].text, .size = strlen(pieces[i].text)};
        type[i] = pieces[i].type;
        score[i] = pieces[i].score;
        assert_true(tn_names_add(&v.index, token[i].text, token[i].size, i, &found));
    }
    assert_int_equal(tn_import_derive_merges(&v, score, "test", &err), TN_OK);
    assert_int_equal(v.nmerge, COUNT(want));
    for (size_t i = 0; i < COUNT(want); i++) {
        assert_string_equal(token[v.merge[i].left].text, want[i][0]);
        assert_string_equal(token[v.merge[i].right].text, want[i][1]);
    }
    free(v.merge);
    score[5] = NAN;
    assert_int_equal(tn_import_derive_merges(&v, score, "test", &err), TN_DATA);
    tn_names_close(&v.index);
}

static void bad_merge(ggufmake *m)
{
    static const char *const tokens[] = {"a", "b"}, *const merges[] = {"a b"};
    gm_text(m, "tokenizer.ggml.model", "gpt2");
    gm_texts(m, "tokenizer.ggml.tokens", tokens, 2);
    gm_texts(m, "tokenizer.ggml.merges", merges, 1);
}

static void no_blank(ggufmake *m)
{
    static const char *const tokens[] = {"a", "b"}, *const merges[] = {"ab"};
    gm_text(m, "tokenizer.ggml.model", "gpt2");
    gm_texts(m, "tokenizer.ggml.tokens", tokens, 2);
    gm_texts(m, "tokenizer.ggml.merges", merges, 1);
}

static void twice(ggufmake *m)
{
    static const char *const tokens[] = {"a", "a"};
    gm_text(m, "tokenizer.ggml.model", "gpt2");
    gm_texts(m, "tokenizer.ggml.tokens", tokens, 2);
}

static void no_utf8(ggufmake *m)
{
    static const char *const tokens[] = {"a", "\xff"};
    gm_text(m, "tokenizer.ggml.model", "gpt2");
    gm_texts(m, "tokenizer.ggml.tokens", tokens, 2);
}

static void too_many_tokens(ggufmake *m)
{
    static const char *const tokens[] = {"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"};
    gm_text(m, "tokenizer.ggml.model", "gpt2");
    gm_texts(m, "tokenizer.ggml.tokens", tokens, 10);
}

static void few_types(ggufmake *m)
{
    static const char *const tokens[] = {"a", "b"};
    static const int32_t types[] = {1};
    gm_text(m, "tokenizer.ggml.model", "gpt2");
    gm_texts(m, "tokenizer.ggml.tokens", tokens, 2);
    gm_i32s(m, "tokenizer.ggml.token_type", types, 1);
}

static void bert(ggufmake *m)
{
    gm_text(m, "tokenizer.ggml.model", "bert");
}

static void nothing(ggufmake *m)
{
    (void)m;
}

static void bad_vocabularies(void **state)
{
    static const struct {
        void (*vocab)(ggufmake *m);
        tn_status status;
        const char *part;
    } rows[] = {
        {bad_merge, TN_DATA, "merge 0 is \"a b\"; expected both parts and what they make"},
        {no_blank, TN_DATA, "merge 0 is \"ab\"; expected two tokens and a blank"},
        {twice, TN_DATA, "token \"a\" has the ids 0 and 1"},
        {no_utf8, TN_DATA, "token 1 is \"\\xff\"; expected valid UTF-8"},
        {too_many_tokens, TN_DATA, "10 tokens; expected 1 to 9"},
        {few_types, TN_DATA, "token_type with 1 values"},
        {bert, TN_UNSUPPORTED, "tokenizer.ggml.model is \"bert\""},
        {nothing, TN_UNSUPPORTED, "tokenizer.ggml.model is missing"},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        variant v = {.arch = "llama", .vocab = rows[i].vocab};
        refused(&v, rows[i].status, rows[i].part);
    }
}

static void one_template(ggufmake *m)
{
    gm_text(m, "tokenizer.chat_template", "{{ messages }}\n");
    gm_u32(m, "tokenizer.ggml.eot_token_id", 8);
    gm_f32(m, "general.sampling.temp", 0.6f);
    gm_u32(m, "general.sampling.top_k", 20);
}

static void two_templates(ggufmake *m)
{
    static const char *const names[] = {"tool_use"};
    gm_text(m, "tokenizer.chat_template", "plain \"one\"");
    gm_text(m, "tokenizer.chat_template.tool_use", "tools");
    gm_texts(m, "tokenizer.chat_templates", names, 1);
}

static void templates(void **state)
{
    variant v = {.arch = "llama", .more = one_template};
    scratch s;
    (void)state;
    imported(&s, &v, NULL);
    char *text = scratch_read(&s, "out/chat_template.jinja", NULL);
    assert_string_equal(text, "{{ messages }}\n");
    free(text);
    tn_json_doc *doc = json_of(&s, "out/generation_config.json");
    const tn_json *eos = tn_json_find(tn_json_root(doc), "eos_token_id");
    assert_int_equal(eos->type, TN_JSON_LIST); /* end of text and end of turn */
    assert_int_equal(eos->child->i, 1);
    assert_int_equal(eos->child->next->i, 8);
    assert_true(number(tn_json_root(doc), "temperature") == 0.6);
    assert_int_equal((int)number(tn_json_root(doc), "top_k"), 20);
    tn_json_close(doc);
    scratch_close(&s);
    v.more = two_templates;
    imported(&s, &v, NULL);
    assert_false(scratch_has(&s, "out/chat_template.jinja"));
    doc = json_of(&s, "out/tokenizer_config.json");
    const tn_json *list = tn_json_find(tn_json_root(doc), "chat_template");
    assert_int_equal(list->count, 2);
    is_text(list->child, "name", "default");
    is_text(list->child, "template", "plain \"one\"");
    is_text(list->child->next, "name", "tool_use");
    tn_json_close(doc);
    scratch_close(&s);
}

/* -------------------------------------------------------------------------------- folder */

typedef struct watcher {
    uint32_t calls, stop_at, notes;
    uint64_t done, total;
} watcher;

static int watch(void *ctx, const char *what, uint64_t done, uint64_t total)
{
    watcher *w = ctx;
    assert_non_null(what);
    assert_true(done >= w->done && done <= total);
    w->done = done;
    w->total = total;
    return ++w->calls == w->stop_at;
}

static void listen(void *ctx, const char *text)
{
    watcher *w = ctx;
    assert_true(strlen(text) > 0);
    w->notes++;
}

static void the_folder(void **state)
{
    static const variant v = {.arch = "llama", .output = true};
    scratch s;
    tn_err err;
    watcher w = {0};
    tn_import_options o = {.progress = watch, .note = listen, .ctx = &w};
    (void)state;
    imported(&s, &v, &o);
    assert_true(w.calls > 20);
    assert_true(w.done == w.total && w.total > 0);
    assert_int_equal(w.notes, 0);
    assert_int_equal(run(&s, &o, &err), TN_CANTCREATE); /* a model is there */
    assert_non_null(strstr(err.text, "holds a model already"));
    scratch_text(&s, "out/model-00001-of-00002.safetensors", "stale");
    w = (watcher){.stop_at = 5};
    o.overwrite = true;
    assert_int_equal(run(&s, &o, &err), TN_CANCELLED);
    assert_true(scratch_has(&s, "out/config.json")); /* the old one is whole */
    assert_false(scratch_has(&s, "out/model-shard-00001.part"));
    w = (watcher){0};
    o.shard_max = 3000;
    assert_int_equal(run(&s, &o, &err), TN_OK);
    tn_ckpt *c = folder(&s); /* now in shards, the old single file gone */
    assert_null(tn_ckpt_note(c));
    assert_int_equal(tn_ckpt_view(c)->ntensor, 3 + 9 * LAYERS);
    tn_ckpt_close(c);
    assert_true(scratch_has(&s, "out/model.safetensors.index.json"));
    o.dtype = 77;
    assert_int_equal(run(&s, &o, &err), TN_USAGE);
    scratch_close(&s);
    scratch_open(&s);
    make(&s, &v);
    scratch_text(&s, "out", "a file");
    assert_int_equal(run(&s, NULL, &err), TN_CANTCREATE);
    assert_int_equal(tn_import(scratch_path(&s, "m.gguf"), "/nonexistent/a/b", NULL, &err),
                     TN_CANTCREATE);
    assert_int_equal(tn_import("/nonexistent.gguf", s.dir, NULL, &err), TN_NOINPUT);
    scratch_close(&s);
}

/* Infinite weights stay infinite and are told. */
static void odd_values(void **state)
{
    variant v = {.arch = "llama", .weight = INFINITY};
    scratch s;
    watcher w = {0};
    tn_import_options o = {.note = listen, .ctx = &w};
    (void)state;
    imported(&s, &v, &o);
    assert_int_equal(w.notes, 1);
    scratch_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_llama),         cmocka_unit_test(biases_and_output),
        cmocka_unit_test(qwens),           cmocka_unit_test(mistrals),
        cmocka_unit_test(ropes),           cmocka_unit_test(refusals),
        cmocka_unit_test(llama3_factors),  cmocka_unit_test(floats_in_json),
        cmocka_unit_test(derived_merges),
        cmocka_unit_test(types_and_shapes), cmocka_unit_test(gpt2_tokenizer),
        cmocka_unit_test(cuts_of_text),    cmocka_unit_test(sentencepiece),
        cmocka_unit_test(bad_vocabularies), cmocka_unit_test(templates),
        cmocka_unit_test(the_folder),      cmocka_unit_test(odd_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
