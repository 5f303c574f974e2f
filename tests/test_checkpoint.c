/* SPDX-License-Identifier: Apache-2.0 */
/* test_checkpoint.c - model folders, whole and contradictory. */
#include "buf.h"
#include "checkpoint.h"
#include "floats.h"
#include "scratchdir.h"

#include <setjmp.h>

#include <cmocka.h>

#define COUNT(a) (sizeof(a) / sizeof(a)[0])

#define TENSOR(name) "{\"" name "\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}"

static void tensor_file(scratch *s, const char *file, const char *header)
{
    scratch_safetensors(s, file, header, strlen(header), strcmp(header, "{}") == 0 ? 0 : 4);
}

/* A folder with two shards, a in the first, b in the second, and an index. */
static void two_shards(scratch *s, const char *index)
{
    scratch_open(s);
    scratch_text(s, "config.json", "{\"model_type\": \"llama\"}");
    tensor_file(s, "one.safetensors", TENSOR("a"));
    tensor_file(s, "two.safetensors", TENSOR("b"));
    scratch_text(s, "model.safetensors.index.json", index);
}

static tn_ckpt *opened(const scratch *s, uint32_t flags)
{
    tn_ckpt *c = NULL;
    tn_err err;
    if (tn_ckpt_open(s->dir, flags, &c, &err) != TN_OK)
        fail_msg("%s", err.text);
    return c;
}

static void refused_with(const scratch *s, uint32_t flags, tn_status want, const char *part)
{
    tn_ckpt *c = NULL;
    tn_err err = {.text = ""};
    tn_status st = tn_ckpt_open(s->dir, flags, &c, &err);
    if (st != want || strstr(err.text, part) == NULL)
        fail_msg("status %d, \"%s\"; expected %d and \"%s\"", st, err.text, want, part);
    assert_null(c);
}

static void refused(const scratch *s, tn_status want, const char *part)
{
    refused_with(s, 0, want, part);
}

static void indexes(void **state) /* W18 */
{
    static const struct {
        const char *text;
        tn_status status;
        const char *part;
    } rows[] = {
        {"{\"metadata\": {\"total_size\": 8}, \"weight_map\": {\"a\": \"one.safetensors\", "
         "\"b\": \"two.safetensors\"}}", TN_OK, NULL},
        {"{\"weight_map\": {\"a\": \"one.safetensors\", \"b\": \"two.safetensors\"}}", TN_OK, NULL},
        {"{\"metadata\": {\"total_size\": 8.5e0, \"x\": [1, {}]}, \"weight_map\": {"
         "\"\\u0061\": \"one.safetensors\", \"b\": \"tw\\u006f.safetensors\"}, \"y\": null}", TN_OK,
         NULL},
        {"{\"metadata\": {\"total_size\": 9}, \"weight_map\": {\"a\": \"one.safetensors\", "
         "\"b\": \"two.safetensors\"}}", TN_DATA, "total_size is 9; expected 8"},
        {"{\"weight_map\": {\"a\": \"one.safetensors\", \"b\": \"gone.safetensors\"}}", TN_NOINPUT,
         "gone.safetensors"},
        {"{\"weight_map\": {\"a\": \"one.safetensors\", \"b\": \"one.safetensors\"}}", TN_DATA,
         "\"b\"; expected it in one.safetensors"},
        {"{\"weight_map\": {\"a\": \"one.safetensors\", \"b\": \"three.safetensors\"}}", TN_DATA,
         "three.safetensors:10: tensor \"a\", which is in one.safetensors too"},
        {"{\"weight_map\": {\"a\": \"loop.safetensors\"}}", TN_DATA,
         "loop.safetensors: a loop of links"},
        {"{\"weight_map\": {\"a\": \"one.safetensors/x\"}}", TN_NOINPUT, "one.safetensors/x"},
        {"{\"metadata\": {\"total_size\": 18446744073709551615}, \"weight_map\": {\"a\": "
         "\"one.safetensors\"}}", TN_DATA, "total_size is 18446744073709551615; expected 4"},
        {"{\"metadata\": {\"total_size\": -1}, \"weight_map\": {\"a\": \"one.safetensors\"}}", TN_DATA,
         "total_size is -1; expected 4"},
        {"{\"metadata\": {\"total_size\": 4x}, \"weight_map\": {\"a\": \"one.safetensors\"}}", TN_DATA,
         "index.json:"},
        {"{\"weight_map\": {\"a\": \"two.safetensors\", \"b\": \"one.safetensors\"}}", TN_DATA,
         "is said to be in two.safetensors; found in one.safetensors"},
        {"{\"weight_map\": {\"a\": \"one.safetensors\", \"c\": \"two.safetensors\"}}", TN_DATA,
         "\"c\""},
        {"{\"weight_map\": {\"a\": \"one.safetensors\", \"a\": \"one.safetensors\"}}", TN_DATA,
         "a second time"},
        {"{\"weight_map\": {\"a\": \"../one.safetensors\"}}", TN_DATA, "leaves the folder"},
        {"{\"weight_map\": {\"a\": \"x/../../one.safetensors\"}}", TN_DATA, "leaves the folder"},
        {"{\"weight_map\": {\"a\": \"/etc/passwd\"}}", TN_DATA, "leaves the folder"},
        {"{\"weight_map\": {\"a\": \"\"}}", TN_DATA, "leaves the folder"},
        {"{\"weight_map\": {\"a\": \"./one.safetensors\"}}", TN_DATA, "leaves the folder"},
        {"{\"weight_map\": {\"a\": \"one.safetensors/\"}}", TN_DATA, "leaves the folder"},
        {"{\"weight_map\": {\"a\": 1}}", TN_DATA, "expected a string"},
        {"{\"weight_map\": {\"\": \"one.safetensors\"}}", TN_DATA, "tensor name of 0 bytes"},
        {"{\"weight_map\": {}}", TN_DATA, "no \"weight_map\""},
        {"{}", TN_DATA, "no \"weight_map\""},
        {"[]", TN_DATA, "expected '{'"},
        {"", TN_DATA, "expected '{'"},
        {"{\"weight_map\": {\"a\": \"one.safetensors\"}", TN_DATA, "ends here"},
        {"{\"weight_map\": {\"a\": \"one.safetensors\"}, \"weight_map\": {}}", TN_DATA,
         "a second time"},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        scratch s;
        two_shards(&s, rows[i].text);
        tensor_file(&s, "three.safetensors", TENSOR("a"));
        assert_int_equal(symlink("loop.safetensors", scratch_path(&s, "loop.safetensors")), 0);
        if (rows[i].status != TN_OK) {
            refused(&s, rows[i].status, rows[i].part);
        } else {
            tn_ckpt *c = opened(&s, 0);
            assert_int_equal(tn_ckpt_view(c)->ntensor, 2);
            assert_null(tn_ckpt_note(c));
            tn_ckpt_close(c);
        }
        scratch_close(&s);
    }
}

/* W18: what an index may not hold more of. */
static void limits_of_an_index(void **state)
{
    enum { FILES = 4096, LONG = 1 << 20 };
    scratch s;
    tn_buf b;
    char *name = malloc(LONG + 1);
    (void)state;
    assert_non_null(name);
    memset(name, 'x', LONG);
    name[LONG] = 0;
    tn_buf_open(&b, 1u << 24);
    for (int more = 0; more < 2; more++) {
        tn_buf_reset(&b);
        tn_buf_puts(&b, "{\"weight_map\": {");
        for (int i = 0; i < FILES + more; i++)
            tn_buf_printf(&b, "%s\"t%d\": \"f%d\"", i > 0 ? ", " : "", i, i);
        tn_buf_puts(&b, "}}");
        two_shards(&s, b.data);
        refused(&s, more ? TN_DATA : TN_NOINPUT, more ? "more than 4096 files" : "the shard f0");
        scratch_close(&s);
    }
    tn_buf_reset(&b);
    tn_buf_printf(&b, "{\"weight_map\": {\"%s\": \"one.safetensors\"}}", name);
    two_shards(&s, b.data);
    refused(&s, TN_DATA, "a tensor name of 1048576 bytes");
    name[256] = 0;
    tn_buf_reset(&b);
    tn_buf_printf(&b, "{\"weight_map\": {\"a\": \"%s\"}}", name);
    scratch_text(&s, "model.safetensors.index.json", b.data);
    refused(&s, TN_DATA, "a file name of 256 bytes");
    scratch_text(&s, "model.safetensors.index.json", "{\"weight_map\": {\"a\": \"o\\u0000\"}}");
    refused(&s, TN_DATA, "NUL");
    scratch_text(&s, "model.safetensors.index.json", "{\"x\": [[[[[[[[[[[[[[[[[[[[[[[[");
    refused(&s, TN_DATA, "nested deeper");
    assert_int_equal(truncate(scratch_path(&s, "model.safetensors.index.json"), (512 << 20) + 1), 0);
    refused(&s, TN_DATA, "536870913 bytes; expected at most 536870912");
    tn_buf_close(&b);
    free(name);
    scratch_close(&s);
}

static void which_files(void **state) /* W22 */
{
    static const char both[] =
        "{\"weight_map\": {\"a\": \"one.safetensors\", \"b\": \"two.safetensors\"}}";
    static const char first[] = "{\"weight_map\": {\"a\": \"one.safetensors\"}}";
    scratch s;
    (void)state;
    two_shards(&s, both);
    tensor_file(&s, "model.safetensors", TENSOR("z"));
    tn_ckpt *c = opened(&s, 0); /* the index wins */
    assert_non_null(strstr(tn_ckpt_note(c), "the index is used"));
    tn_tensor t;
    const tn_view *v = tn_ckpt_view(c);
    assert_int_equal(v->find(v, "z", &t), 0);
    assert_int_equal(v->find(v, "b", &t), 1);
    assert_string_equal(t.file, "two.safetensors");
    tn_ckpt_close(c);
    scratch_text(&s, "model.safetensors.index.json", first); /* two.safetensors is not opened */
    c = opened(&s, 0);
    assert_int_equal(tn_ckpt_view(c)->ntensor, 1);
    tn_ckpt_close(c);
    unlink(scratch_path(&s, "model.safetensors.index.json"));
    c = opened(&s, 0); /* then the single file */
    v = tn_ckpt_view(c);
    assert_int_equal(v->ntensor, 1);
    assert_int_equal(v->find(v, "z", &t), 1);
    assert_null(tn_ckpt_note(c));
    tn_ckpt_close(c);
    unlink(scratch_path(&s, "model.safetensors"));
    refused(&s, TN_DATA, "both one.safetensors and two.safetensors");
    unlink(scratch_path(&s, "two.safetensors"));
    c = opened(&s, 0);
    assert_non_null(strstr(tn_ckpt_note(c), "one.safetensors is used"));
    tn_ckpt_close(c);
    unlink(scratch_path(&s, "one.safetensors"));
    refused(&s, TN_NOINPUT, "no weights");
    scratch_text(&s, "pytorch_model.bin", "x");
    refused(&s, TN_NOINPUT, "pytorch_model.bin");
    scratch_close(&s);
}

static void sets_without_an_index(void **state)
{
    scratch s;
    (void)state;
    scratch_open(&s);
    scratch_text(&s, "config.json", "{}");
    tensor_file(&s, "m-00001-of-00002.safetensors", TENSOR("a"));
    refused(&s, TN_NOINPUT, "m-00002-of-00002.safetensors");
    tensor_file(&s, "m-00002-of-00002.safetensors", TENSOR("b"));
    tn_ckpt *c = opened(&s, 0);
    assert_int_equal(tn_ckpt_view(c)->ntensor, 2);
    assert_non_null(strstr(tn_ckpt_note(c), "no index"));
    tn_ckpt_close(c);
    tensor_file(&s, "m-00002-of-00002.safetensors", TENSOR("a"));
    refused(&s, TN_DATA, "which is in m-00001-of-00002.safetensors too");
    scratch_close(&s);
}

static void extra_and_lax(void **state) /* W18 */
{
    scratch s;
    (void)state;
    two_shards(&s, "{\"metadata\": {\"total_size\": 4}, \"weight_map\": {\"a\": "
               "\"one.safetensors\"}}");
    static const char more[] =
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
        "\"c\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[4,5]}}";
    scratch_safetensors(&s, "one.safetensors", more, sizeof more - 1, 5);
    tn_ckpt *c = opened(&s, 0);
    assert_non_null(strstr(tn_ckpt_note(c), "1 tensors of the shards are not listed"));
    assert_int_equal(tn_ckpt_view(c)->ntensor, 2);
    tn_ckpt_close(c);
    scratch_text(&s, "model.safetensors.index.json",
                 "{\"metadata\": {\"total_size\": 77}, \"weight_map\": {\"a\": "
                 "\"one.safetensors\"}}");
    refused(&s, TN_DATA, "total_size is 77; expected 4");
    c = opened(&s, TN_CKPT_LAX);
    assert_non_null(strstr(tn_ckpt_note(c), "total_size 77"));
    tn_ckpt_close(c);
    scratch_text(&s, "model.safetensors.index.json", /* nothing else is let pass with it */
                 "{\"metadata\": {\"total_size\": 77}, \"weight_map\": {\"x\": "
                 "\"one.safetensors\"}}");
    refused_with(&s, TN_CKPT_LAX, TN_DATA, "\"x\"");
    scratch_close(&s);
}

static void configs(void **state) /* C01, C14 */
{
    static const struct {
        const char *text;
        tn_status status;
        const char *part;
    } rows[] = {
        {"", TN_DATA, "config.json"},
        {"[]", TN_DATA, "no object"},
        {"1", TN_DATA, "no object"},
        {"{\"a\":1,\"a\":2}", TN_DATA, "config.json"},
        {"{\"quantization_config\":[]}", TN_DATA, "quantization_config is no object"},
        {"{\"text_config\":{\"quantization_config\":3}}", TN_DATA,
         "text_config.quantization_config is no object"},
        {"{\"quantization_config\":null}", TN_OK, NULL},
    };
    scratch s;
    (void)state;
    scratch_open(&s);
    refused(&s, TN_NOINPUT, "config.json: no such file");
    tensor_file(&s, "model.safetensors", TENSOR("a"));
    for (size_t i = 0; i < COUNT(rows); i++) {
        scratch_text(&s, "config.json", rows[i].text);
        if (rows[i].status != TN_OK) {
            refused(&s, rows[i].status, rows[i].part);
            continue;
        }
        tn_ckpt *c = opened(&s, 0);
        assert_null(tn_ckpt_view(c)->quant);
        assert_null(tn_ckpt_view(c)->quant_file);
        assert_null(tn_ckpt_generation(c));
        tn_ckpt_close(c);
    }
    scratch_text(&s, "generation_config.json", "{\"temperature\": 0.5}");
    tn_ckpt *c = opened(&s, 0);
    assert_non_null(tn_json_find(tn_ckpt_generation(c), "temperature"));
    tn_ckpt_close(c);
    static const char *const bad[] = {"[]", "", "{\"a\":1,\"a\":1}", "{\"temperature\":NaN}"};
    for (size_t i = 0; i < COUNT(bad); i++) {
        scratch_text(&s, "generation_config.json", bad[i]);
        refused(&s, TN_DATA, "generation_config.json:");
    }
    unlink(scratch_path(&s, "generation_config.json"));
    unlink(scratch_path(&s, "config.json"));
    assert_int_equal(mkdir(scratch_path(&s, "config.json"), 0700), 0);
    refused(&s, TN_DATA, "config.json: a folder; expected a regular file");
    rmdir(scratch_path(&s, "config.json"));
    assert_int_equal(mkfifo(scratch_path(&s, "config.json"), 0600), 0);
    refused(&s, TN_DATA, "config.json: a FIFO");
    unlink(scratch_path(&s, "config.json"));
    scratch_text(&s, "config.json", "");
    assert_int_equal(truncate(scratch_path(&s, "config.json"), (64 << 20) + 1), 0);
    refused(&s, TN_DATA, "67108865 bytes; expected at most 67108864");
    assert_int_equal(truncate(scratch_path(&s, "config.json"), 64 << 20), 0);
    refused(&s, TN_DATA, "config.json:"); /* read, and no JSON */
    scratch_close(&s);
    refused(&s, TN_NOINPUT, "no such folder");
    scratch_open(&s);
    scratch_text(&s, "model.gguf", "GGUF");
    snprintf(s.path, sizeof s.path, "%s/model.gguf", s.dir);
    tn_err err;
    c = NULL;
    assert_int_equal(tn_ckpt_open(s.path, 0, &c, &err), TN_DATA);
    assert_non_null(strstr(err.text, "expected the folder of a model"));
    scratch_close(&s);
}

/* Q12: quantization_config: where it stands, and who is believed. */
static void quant_configs(void **state)
{
    static const struct {
        const char *config, *older, *name;
        const char *part;  /* of the refusal, or NULL */
        const char *file;  /* where it came from */
        int bits;
    } rows[] = {
        {"{\"quantization_config\":{\"bits\":4}}", NULL, NULL, NULL, "config.json", 4},
        {"{\"text_config\":{\"quantization_config\":{\"bits\":3}}}", NULL, NULL, NULL,
         "config.json", 3},
        {"{\"quantization_config\":{\"bits\":4},\"text_config\":{\"quantization_config\":"
         "{\"bits\":4}}}", NULL, NULL, NULL, "config.json", 4},
        {"{\"quantization_config\":{\"bits\":4},\"text_config\":{\"quantization_config\":"
         "{\"bits\":8}}}", NULL, NULL, "bits is 4 in config.json but 8 in", NULL, 0},
        {"{}", "{\"bits\":8}", "quantize_config.json", NULL, "quantize_config.json", 8},
        {"{}", "{\"w_bit\":4}", "quant_config.json", NULL, "quant_config.json", 0},
        {"{\"quantization_config\":{\"bits\":4,\"group_size\":128,\"quant_method\":\"gptq\"}}",
         "{\"bits\":4,\"group_size\":128,\"desc_act\":false}", "quantize_config.json", NULL,
         "config.json", 4},
        {"{\"quantization_config\":{\"bits\":4,\"group_size\":128}}", "{\"bits\":8}",
         "quantize_config.json", "bits is 4 in config.json but 8 in quantize_config.json", NULL, 0},
        {"{\"quantization_config\":{\"bits\":4,\"group_size\":128}}",
         "{\"w_bit\":4,\"q_group_size\":64}", "quant_config.json",
         "group_size is 128 in config.json but 64 in quant_config.json", NULL, 0},
        {"{\"quantization_config\":{\"desc_act\":true}}", "{\"desc_act\":false}",
         "quantize_config.json", "desc_act is true in config.json but false", NULL, 0},
        {"{\"quantization_config\":{\"quant_method\":\"awq\"}}", "{\"quant_method\":\"gptq\"}",
         "quantize_config.json", "quant_method is \"awq\" in config.json but \"gptq\" in", NULL, 0},
        {"{\"quantization_config\":{\"quant_method\":\"awq\",\"bits\":4}}",
         "{\"quant_method\":\"AWQ\"}", "quant_config.json", NULL, "config.json", 4},
        {"{\"quantization_config\":{\"bits\":4}}", "{\"bits\":\"4\"}", "quantize_config.json",
         "bits is 4 in config.json but \"4\" in", NULL, 0},
        {"{\"quantization_config\":{\"bits\":4}}", "{\"bits\":null}", "quantize_config.json", NULL,
         "config.json", 4},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        scratch s;
        scratch_open(&s);
        scratch_text(&s, "config.json", rows[i].config);
        tensor_file(&s, "model.safetensors", TENSOR("a"));
        if (rows[i].older != NULL)
            scratch_text(&s, rows[i].name, rows[i].older);
        if (rows[i].part != NULL) {
            refused(&s, TN_DATA, rows[i].part);
        } else {
            tn_ckpt *c = opened(&s, 0);
            const tn_view *v = tn_ckpt_view(c);
            assert_string_equal(v->quant_file, rows[i].file);
            const tn_json *bits = tn_json_find(v->quant, "bits");
            assert_int_equal(bits != NULL ? bits->i : 0, rows[i].bits);
            tn_ckpt_close(c);
        }
        scratch_close(&s);
    }
}

static void views_and_values(void **state)
{
    static const char header[] =
        "{\"f32\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
        "\"f16\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[8,12]},"
        "\"bf16\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[12,16]},"
        "\"i8\":{\"dtype\":\"I8\",\"shape\":[2],\"data_offsets\":[16,18]}}";
    static const uint8_t data[] = {0, 0, 0x80, 0x3f, 0, 0, 0x80, 0x7f, /* 1, inf */
                                   0, 0x3c, 0, 0x7e,                   /* 1, nan */
                                   0x80, 0x3f, 0, 0xc0, 1, 2};         /* 1, -2 */
    scratch s;
    tn_err err;
    float out[2];
    uint64_t seen = 0;
    const char *name;
    tn_tensor t;
    (void)state;
    scratch_open(&s);
    scratch_text(&s, "config.json", "{}");
    scratch_safetensors(&s, "model.safetensors", header, sizeof header - 1, sizeof data);
    FILE *f = fopen(scratch_path(&s, "model.safetensors"), "r+b");
    assert_non_null(f);
    fseek(f, (long)(8 + sizeof header - 1), SEEK_SET);
    assert_int_equal(fwrite(data, 1, sizeof data, f), sizeof data);
    fclose(f);
    tn_ckpt *c = opened(&s, 0);
    const tn_view *v = tn_ckpt_view(c);
    assert_string_equal(v->dir, s.dir);
    while (v->at(v, seen, &name, &t))
        seen++;
    assert_int_equal(seen, 4);
    assert_int_equal(tn_ckpt_floats(c, "f32", 2, out, &err), TN_OK);
    assert_true(out[0] == 1.0f && out[1] > 3e38f);
    assert_int_equal(tn_ckpt_floats(c, "f16", 2, out, &err), TN_OK);
    assert_true(out[0] == 1.0f && out[1] != out[1]);
    assert_int_equal(tn_ckpt_floats(c, "bf16", 2, out, &err), TN_OK);
    assert_true(out[0] == 1.0f && out[1] == -2.0f);
    assert_int_equal(tn_ckpt_floats(c, "bf16", 3, out, &err), TN_DATA);
    assert_int_equal(tn_ckpt_floats(c, "i8", 2, out, &err), TN_DATA);
    assert_int_equal(tn_ckpt_floats(c, "none", 2, out, &err), TN_NOINPUT);
    tn_ckpt_advise(c, true);
    tn_ckpt_advise(c, false);
    assert_int_equal(tn_ckpt_unchanged(c, &err), TN_OK);
    scratch_text(&s, "config.json.new", "{ }");
    char other[512];
    snprintf(other, sizeof other, "%s/config.json", s.dir);
    assert_int_equal(rename(scratch_path(&s, "config.json.new"), other), 0);
    assert_int_equal(tn_ckpt_unchanged(c, &err), TN_DATA);
    assert_non_null(strstr(err.text, "config.json"));
    tn_ckpt_close(c);
    c = opened(&s, TN_CKPT_NO_WEIGHTS);
    assert_int_equal(tn_ckpt_view(c)->ntensor, 0);
    assert_int_equal(tn_ckpt_bytes(c), 0);
    tn_ckpt_close(c);
    scratch_close(&s);
}

/* Every file that a model is read from. */
static const char *const read_files[] = {
    "config.json", "generation_config.json", "quantize_config.json", "quant_config.json",
    "model.safetensors.index.json", "one.safetensors", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "chat_template.jinja", "chat_template.json",
    "additional_chat_templates/tool_use.jinja",
};

static void whole_folder(scratch *s, const char *without)
{
    scratch_open(s);
    assert_int_equal(mkdir(scratch_path(s, "additional_chat_templates"), 0700), 0);
    for (size_t i = 0; i < COUNT(read_files); i++)
        scratch_text(s, read_files[i], "{}");
    scratch_text(s, "model.safetensors.index.json", "{\"weight_map\": {\"a\": \"one.safetensors\"}}");
    tensor_file(s, "one.safetensors", TENSOR("a"));
    if (without != NULL)
        unlink(scratch_path(s, without));
}

/* C16: whichever file is replaced, written or taken away while a model is loaded, by name. */
static void replaced_meanwhile(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(read_files); i++)
        for (int how = 0; how < 3; how++) {
            scratch s;
            tn_err err = {.text = ""};
            char other[512];
            whole_folder(&s, NULL);
            tn_ckpt *c = opened(&s, 0);
            assert_int_equal(tn_ckpt_unchanged(c, &err), TN_OK);
            snprintf(other, sizeof other, "%s/%s", s.dir, read_files[i]);
            char *same = scratch_read(&s, read_files[i], NULL);
            scratch_text(&s, "other", how == 0 ? same : "{ }");
            free(same);
            if (how < 2)
                assert_int_equal(rename(scratch_path(&s, "other"), other), 0);
            else
                unlink(other);
            if (tn_ckpt_unchanged(c, &err) != TN_DATA || strstr(err.text, read_files[i]) == NULL)
                fail_msg("%s, %d: \"%s\"", read_files[i], how, err.text);
            tn_ckpt_close(c);
            scratch_close(&s);
        }
}

/* C17: none of them may be a link out of the folder, unless that is allowed. */
static void links_out(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(read_files); i++) {
        scratch s, out;
        char target[512];
        whole_folder(&out, NULL);
        whole_folder(&s, read_files[i]);
        snprintf(target, sizeof target, "%s/%s", out.dir, read_files[i]);
        assert_int_equal(symlink(target, scratch_path(&s, read_files[i])), 0);
        refused(&s, TN_DATA, read_files[i]);
        refused(&s, TN_DATA, "leaves the folder of the model");
        tn_ckpt_close(opened(&s, TN_CKPT_FOLLOW));
        scratch_close(&s);
        scratch_close(&out);
    }
}

/* What may not be read is said to be that: exit code 77. Root gives up its rights for it. */
static void no_permission(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(read_files); i++) {
        scratch s;
        whole_folder(&s, NULL);
        assert_int_equal(chmod(s.dir, 0755), 0);
        assert_int_equal(chmod(scratch_path(&s, "additional_chat_templates"), 0755), 0);
        assert_int_equal(chmod(scratch_path(&s, read_files[i]), 0), 0);
        if (geteuid() != 0 || seteuid(65534) == 0) {
            refused(&s, TN_NOPERM, read_files[i]);
            if (getuid() == 0)
                assert_int_equal(seteuid(0), 0);
        }
        assert_int_equal(chmod(s.dir, 0), 0);
        if (geteuid() != 0 || seteuid(65534) == 0) {
            refused(&s, TN_NOPERM, "no permission");
            if (getuid() == 0)
                assert_int_equal(seteuid(0), 0);
        }
        assert_int_equal(chmod(s.dir, 0700), 0);
        scratch_close(&s);
    }
}

/* The hub keeps blobs beside its snapshots and links to them. */
static void a_hub_cache(void **state)
{
    scratch s, snapshot;
    (void)state;
    scratch_open(&s);
    assert_int_equal(mkdir(scratch_path(&s, "blobs"), 0700), 0);
    assert_int_equal(mkdir(scratch_path(&s, "snap"), 0700), 0);
    scratch_text(&s, "blobs/c", "{}");
    tensor_file(&s, "blobs/m", TENSOR("a"));
    assert_int_equal(symlink("../blobs/c", scratch_path(&s, "snap/config.json")), 0);
    assert_int_equal(symlink("../blobs/m", scratch_path(&s, "snap/model.safetensors")), 0);
    snprintf(snapshot.dir, sizeof snapshot.dir, "%.50s/snap", s.dir);
    refused(&snapshot, TN_DATA, "leaves the folder");
    tn_ckpt *c = opened(&snapshot, TN_CKPT_FOLLOW);
    assert_int_equal(tn_ckpt_view(c)->ntensor, 1);
    tn_ckpt_close(c);
    /* the folder itself may be a link */
    assert_int_equal(symlink("blobs", scratch_path(&s, "alias")), 0);
    char from[512];
    snprintf(from, sizeof from, "%s/blobs/c", s.dir);
    assert_int_equal(rename(from, scratch_path(&s, "blobs/config.json")), 0);
    snprintf(from, sizeof from, "%s/blobs/m", s.dir);
    assert_int_equal(rename(from, scratch_path(&s, "blobs/model.safetensors")), 0);
    snprintf(snapshot.dir, sizeof snapshot.dir, "%.50s/alias", s.dir);
    c = opened(&snapshot, 0);
    tn_ckpt_close(c);
    scratch_close(&s);
}

/* Every half there is: to f32 and back is the identity, and values between two halves go to
 * the nearer one, at the middle to the even one. */
static void halves(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x10000; h++) {
        float f = tn_f16_to_f32((uint16_t)h);
        bool nan = (h & 0x7fff) > 0x7c00;
        uint16_t back = tn_f32_to_f16(f), want = (uint16_t)(nan ? h | 0x200 : h);
        if (back != want)
            fail_msg("%04x: back %04x, expected %04x", h, back, want);
        if ((h & 0x7fff) >= 0x7bff)
            continue;
        double up = (double)tn_f16_to_f32((uint16_t)(h + 1)), mid = ((double)f + up) / 2;
        uint16_t even = (uint16_t)(h % 2 == 0 ? h : h + 1);
        if (tn_f32_to_f16((float)mid) != even)
            fail_msg("%04x: the middle rounds to %04x", h, tn_f32_to_f16((float)mid));
        if (tn_f32_to_f16((float)(mid + (up - mid) / 64)) != (uint16_t)(h + 1) ||
            tn_f32_to_f16((float)(mid - (up - mid) / 64)) != (uint16_t)h)
            fail_msg("%04x: beside the middle", h);
    }
    assert_int_equal(tn_f32_to_f16(65519.996f), 0x7bff);
    assert_int_equal(tn_f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(tn_f32_to_f16(1e-10f), 0);
    assert_int_equal(tn_f32_to_f16(-1e-10f), 0x8000);
    assert_int_equal(tn_f32_to_bf16(1.00390625f), 0x3f80); /* a tie: to even */
    assert_int_equal(tn_f32_to_bf16(1.01171875f), 0x3f82);
    assert_int_equal(tn_f32_to_bf16(3.4e38f), 0x7f80);
    assert_int_equal(tn_f32_to_bf16(tn_bits_to_f32(0x7f800001u)), 0x7fc0);
}

/* W20: what is counted as no number. */
static void odd_values(void **state)
{
    static const uint32_t f32[] = {0, 0x7f7fffff, 0x7f800000, 0xff800000, 0x7fc00000, 0x7f800001};
    static const uint16_t f16[] = {0, 0x7bff, 0x7c00, 0xfc00, 0x7e00, 0xfc01};
    static const uint16_t bf16[] = {0, 0x7f7f, 0x7f80, 0xff80, 0x7fc0, 0xff81};
    char room[32];
    (void)state;
    for (size_t shift = 0; shift < 4; shift++) { /* data may be unaligned */
        memcpy(room + shift, f32, sizeof f32);
        assert_int_equal(tn_f32_odd(room + shift, 6), 4);
        assert_int_equal(tn_f32_odd(room + shift, 2), 0);
        memcpy(room + shift, f16, sizeof f16);
        assert_int_equal(tn_f16_odd(room + shift, 6), 4);
        memcpy(room + shift, bf16, sizeof bf16);
        assert_int_equal(tn_bf16_odd(room + shift, 6), 4);
        assert_int_equal(tn_bf16_odd(room + shift, 2), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(indexes),       cmocka_unit_test(which_files),
        cmocka_unit_test(limits_of_an_index),
        cmocka_unit_test(sets_without_an_index), cmocka_unit_test(extra_and_lax),
        cmocka_unit_test(configs),       cmocka_unit_test(quant_configs),
        cmocka_unit_test(views_and_values), cmocka_unit_test(a_hub_cache),
        cmocka_unit_test(halves),        cmocka_unit_test(replaced_meanwhile),
        cmocka_unit_test(links_out),     cmocka_unit_test(no_permission),
        cmocka_unit_test(odd_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
