/* SPDX-License-Identifier: Apache-2.0 */
/* test_import_vocab.c - vocabularies of GGUF files become tokenizer.json and its companions. */
#include "import_vocab.h"
#include "importmake.h"

#include <math.h>

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

static void smollm2(ggufmake *m)
{
    gm_text(m, "general.basename", "SmolLM2");
}

static void smollm2_with_its_own(ggufmake *m)
{
    gm_text(m, "general.name", "Smollm2 135M");
    gm_f32(m, "general.sampling.temp", 0.6f);
}

static void odd_name(ggufmake *m)
{
    gm_u32(m, "general.basename", 2); /* a hint that is none */
    gm_text(m, "general.name", "smollm2 135M");
}

static void other_family(ggufmake *m)
{
    gm_text(m, "general.basename", "smol");
}

/* Sampling comes from the file, or from what is known of the family, or is left open. */
static void samplings(void **state)
{
    static const struct {
        void (*more)(ggufmake *m);
        double temperature, top_p; /* 0: not written */
    } rows[] = {{smollm2, 0.2, 0.9}, {odd_name, 0.2, 0.9}, {smollm2_with_its_own, 0.6, 0},
                {other_family, 0, 0}, {NULL, 0, 0}};
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        variant v = {.arch = "llama", .more = rows[i].more};
        scratch s;
        imported(&s, &v, NULL);
        tn_json_doc *doc = json_of(&s, "out/generation_config.json");
        const tn_json *o = tn_json_root(doc);
        if (rows[i].temperature > 0)
            assert_true(number(o, "temperature") == rows[i].temperature);
        else
            assert_null(tn_json_find(o, "temperature"));
        if (rows[i].top_p > 0)
            assert_true(number(o, "top_p") == rows[i].top_p);
        else
            assert_null(tn_json_find(o, "top_p"));
        assert_int_equal(tn_json_find(o, "do_sample") != NULL, rows[i].temperature > 0);
        tn_json_close(doc);
        scratch_close(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gpt2_tokenizer), cmocka_unit_test(cuts_of_text),
        cmocka_unit_test(sentencepiece),  cmocka_unit_test(derived_merges),
        cmocka_unit_test(bad_vocabularies), cmocka_unit_test(templates),
        cmocka_unit_test(samplings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
