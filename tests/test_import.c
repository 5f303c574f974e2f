/* SPDX-License-Identifier: Apache-2.0 */
/* test_import.c - GGUF models of every architecture become folders, or are refused by name. */
#include "import_model.h"
#include "importmake.h"

#include <math.h>

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
    scratch_text(&s, "out/quantize_config.json", "{\"bits\": 4}");
    scratch_text(&s, "out/chat_template.jinja", "stale");
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
    assert_false(scratch_has(&s, "out/model.safetensors"));
    assert_false(scratch_has(&s, "out/model-00001-of-00002.safetensors"));
    assert_false(scratch_has(&s, "out/quantize_config.json"));
    assert_false(scratch_has(&s, "out/chat_template.jinja"));
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
        cmocka_unit_test(a_llama),          cmocka_unit_test(biases_and_output),
        cmocka_unit_test(qwens),            cmocka_unit_test(mistrals),
        cmocka_unit_test(ropes),            cmocka_unit_test(llama3_factors),
        cmocka_unit_test(floats_in_json),   cmocka_unit_test(refusals),
        cmocka_unit_test(types_and_shapes), cmocka_unit_test(the_folder),
        cmocka_unit_test(odd_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
