/* SPDX-License-Identifier: Apache-2.0 */
/* test_json.c - the strict reader: what it takes, what it refuses and where, and cJSON as a
 * second opinion on valid documents. */
#include "buf.h"
#include "json.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

typedef struct refusal {
    const char *text;
    size_t size; /* 0: strlen */
    const char *code;
    int offset;
} refusal;

/* J01, J04, J06, J12 and J13, with the byte that is at fault. */
static const refusal refusals[] = {
    {"", 0, "invalid_json", 0},
    {"   ", 0, "invalid_json", 3},
    {"\xEF\xBB\xBF{}", 0, "invalid_json", 0},
    {"{} x", 0, "invalid_json", 3},
    {"{}{}", 0, "invalid_json", 2},
    {"[1,]", 0, "invalid_json", 3},
    {"{\"a\":1,}", 0, "invalid_json", 7},
    {"{'a':1}", 0, "invalid_json", 1},
    {"[1 2]", 0, "invalid_json", 3},
    {"// c\n1", 0, "invalid_json", 0},
    {"NaN", 0, "invalid_json", 0},
    {"Infinity", 0, "invalid_json", 0},
    {"-Infinity", 0, "invalid_json", 0},
    {"0x10", 0, "invalid_json", 1},
    {"01", 0, "invalid_json", 0},
    {"+1", 0, "invalid_json", 0},
    {"1.", 0, "invalid_json", 0},
    {".5", 0, "invalid_json", 0},
    {"1e", 0, "invalid_json", 0},
    {"1e999", 0, "invalid_json", 0},
    {"-", 0, "invalid_json", 0},
    {"tru", 0, "invalid_json", 0},
    {"\"a", 0, "invalid_json", 0},
    {"\"\\", 0, "invalid_json", 1},
    {"\"\\x\"", 0, "invalid_json", 1},
    {"\"\\u12g4\"", 0, "invalid_json", 1},
    {"\"\\ud800\"", 0, "invalid_json", 1},
    {"\"\\udc00\\ud800\"", 0, "invalid_json", 1},
    {"\"\\ud83d", 0, "invalid_json", 1},
    {"\"\\ud83d\\u0041\"", 0, "invalid_json", 1},
    {"\"a\nb\"", 0, "invalid_json", 2},
    {"\"\xC0\x80\"", 0, "invalid_utf8", 1},
    {"\"ab\xED\xA0\x80\"", 0, "invalid_utf8", 3},
    {"\"\xF5\x80\x80\x80\"", 0, "invalid_utf8", 1},
    {"\"\xE2\x82\"", 0, "invalid_utf8", 1},
    {"\"\x80\"", 0, "invalid_utf8", 1},
    {"\"a\0b\"", 5, "invalid_json", 2},
    {"{\"a\":1,\"a\":2}", 0, "duplicate_key", 7},
    {"[{\"x\":{\"k\":1,\"\\u006b\":2}}]", 0, "duplicate_key", 13},
    {"{\"\":1,\"\":2}", 0, "duplicate_key", 6},
    {"{\"a\\u0000b\":1,\"a\\u0000b\":2}", 0, "duplicate_key", 14},
    {"\"\\ud83d\\ud83d\\ude00\"", 0, "invalid_json", 1},
    {"\"\\ud83d\\ude0\"", 0, "invalid_json", 1},
    {"\"\xC1\xBF\"", 0, "invalid_utf8", 1},
    {"\"\xE0\x9F\xBF\"", 0, "invalid_utf8", 1},
    {"\"\xF0\x8F\xBF\xBF\"", 0, "invalid_utf8", 1},
    {"\"\xF4\x90\x80\x80\"", 0, "invalid_utf8", 1},
    {"\"\xE2\x82", 0, "invalid_utf8", 1},
    {"{\"\xFF\":1}", 0, "invalid_utf8", 2},
    {"\xFF\xFE{\0}\0", 6, "invalid_json", 0},
    {"{\0}\0", 4, "invalid_json", 1},
    {"[1]\0", 4, "invalid_json", 3},
};

static void refuses_with_code_and_offset(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        const refusal *r = &refusals[i];
        tn_err err = {{0}, {0}, {0}};
        tn_json_doc *doc = NULL;
        size_t size = r->size != 0 ? r->size : strlen(r->text);
        tn_status st = tn_json_open(r->text, size, "doc", 64, &doc, &err);
        char at[32];
        snprintf(at, sizeof at, "doc: byte %d:", r->offset);
        if (st != TN_DATA || strcmp(err.code, r->code) != 0 ||
            strncmp(err.text, at, strlen(at)) != 0)
            fail_msg("case %zu <%s>: status %d, code %s, text %s; wanted %s %s", i, r->text, st,
                     err.code, err.text, r->code, at);
    }
}

/* J05 */
static void depth_is_counted(void **state)
{
    (void)state;
    char text[256];
    for (int depth = 63; depth <= 65; depth++) {
        memset(text, '[', (size_t)depth);
        memset(text + depth, ']', (size_t)depth);
        tn_json_doc *doc = NULL;
        tn_err err;
        tn_status st = tn_json_open(text, (size_t)depth * 2, "doc", 64, &doc, &err);
        assert_int_equal(st, depth <= 64 ? TN_OK : TN_DATA);
        if (depth > 64)
            assert_string_equal(err.code, "too_deep");
        tn_json_close(doc);
    }
    char *deep = malloc(100000);
    memset(deep, '[', 100000);
    tn_json_doc *doc = NULL;
    tn_err err;
    assert_int_equal(tn_json_open(deep, 100000, "doc", 64, &doc, &err), TN_DATA);
    assert_string_equal(err.code, "too_deep");
    free(deep);
}

static const tn_json *parse(const char *text, size_t size, tn_json_doc **doc)
{
    tn_err err = {{0}, {0}, {0}};
    if (tn_json_open(text, size, "doc", 64, doc, &err) != TN_OK)
        fail_msg("%s: %s", text, err.text);
    return tn_json_root(*doc);
}

/* J14, and integers at the edges. */
static void values_are_exact(void **state)
{
    (void)state;
    static const char text[] =
        "{\"i\":9007199254740993,\"min\":-9223372036854775808,\"big\":9223372036854775808,"
        "\"f\":1.5e-3,\"z\":-0,\"t\":true,\"n\":null,\"s\":\"a\\u0000b\\n\\ud83d\\ude00\\/\","
        "\"l\":[1,[],{}]}";
    tn_json_doc *doc = NULL;
    const tn_json *o = parse(text, sizeof text - 1, &doc);
    assert_int_equal(o->count, 9);
    assert_true(tn_json_find(o, "i")->i == 9007199254740993);
    assert_true(tn_json_find(o, "min")->i == INT64_MIN);
    assert_int_equal(tn_json_find(o, "big")->type, TN_JSON_FLOAT);
    assert_true(tn_json_find(o, "f")->f == 1.5e-3);
    assert_int_equal(tn_json_find(o, "z")->type, TN_JSON_INT);
    assert_int_equal(tn_json_find(o, "t")->type, TN_JSON_TRUE);
    assert_int_equal(tn_json_find(o, "n")->type, TN_JSON_NULL);
    const tn_json *s = tn_json_find(o, "s");
    assert_int_equal(s->count, 9);
    assert_memory_equal(s->text, "a\0b\n\xF0\x9F\x98\x80/", 10);
    assert_int_equal(tn_json_find(o, "l")->count, 3);
    assert_null(tn_json_find(o, "absent"));
    tn_json_close(doc);
}

static void many_keys_take_linear_time(void **state)
{
    (void)state;
    tn_buf b;
    tn_buf_open(&b, (size_t)1 << 27);
    tn_buf_putc(&b, '{');
    for (int i = 0; i < 1000000; i++)
        tn_buf_printf(&b, "%s\"model.layers.%d.weight\":%d", i > 0 ? "," : "", i, i);
    tn_buf_putc(&b, '}');
    tn_json_doc *doc = NULL;
    const tn_json *o = parse(b.data, b.len, &doc); /* quadratic would take hours */
    assert_int_equal(o->count, 1000000);
    tn_json_close(doc);
    b.len--; /* the same with one key twice, at the very end */
    tn_buf_puts(&b, ",\"model.layers.3.weight\":0}");
    tn_err err;
    assert_int_equal(tn_json_open(b.data, b.len, "doc", 64, &doc, &err), TN_DATA);
    assert_string_equal(err.code, "duplicate_key");
    tn_buf_close(&b);
}

static void compare(const tn_json *a, const cJSON *b)
{
    switch (a->type) {
    case TN_JSON_NULL: assert_true(cJSON_IsNull(b)); break;
    case TN_JSON_FALSE: assert_true(cJSON_IsFalse(b)); break;
    case TN_JSON_TRUE: assert_true(cJSON_IsTrue(b)); break;
    case TN_JSON_INT:
    case TN_JSON_FLOAT: assert_true(a->f == b->valuedouble); break;
    case TN_JSON_TEXT: assert_string_equal(a->text, b->valuestring); break;
    default: {
        const cJSON *d = b->child;
        for (const tn_json *c = a->child; c != NULL; c = c->next, d = d->next) {
            assert_non_null(d);
            if (a->type == TN_JSON_OBJECT)
                assert_string_equal(c->key, d->string);
            compare(c, d);
        }
        assert_null(d);
    }
    }
}

static uint64_t seed = 42;

static uint32_t draw(uint32_t n)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 33) % n;
}

static void make_value(tn_buf *b, int depth)
{
    static const char *const leaf[] = {"null", "true", "false", "0", "-17", "3.25", "1e10",
                                       "-2.5E-7", "\"\"", "\"h\\u00e9llo\"", "\"\\\\\\\"\\t\"",
                                       "\"\xE6\x9D\xB1\xE4\xBA\xAC\"", "123456789012"};
    uint32_t kind = draw(depth > 5 ? 1 : 3), n = draw(5);
    if (kind == 0) {
        tn_buf_puts(b, leaf[draw(sizeof leaf / sizeof *leaf)]);
        return;
    }
    tn_buf_puts(b, kind == 1 ? " [" : "{ ");
    for (uint32_t i = 0; i < n; i++) {
        tn_buf_puts(b, i > 0 ? ",\n" : "");
        if (kind == 2)
            tn_buf_printf(b, "\"key%u\" : ", i);
        make_value(b, depth + 1);
    }
    tn_buf_puts(b, kind == 1 ? "]\r\n" : "\t}");
}

static void agrees_with_cjson(void **state)
{
    (void)state;
    for (int i = 0; i < 2000; i++) {
        tn_buf b, back;
        tn_buf_open(&b, (size_t)1 << 24);
        tn_buf_open(&back, (size_t)1 << 24);
        make_value(&b, 0);
        tn_json_doc *doc = NULL, *again = NULL;
        const tn_json *mine = parse(b.data, b.len, &doc);
        cJSON *theirs = cJSON_ParseWithLength(b.data, b.len);
        compare(mine, theirs);
        tn_json_write(mine, i % 2 == 0, i % 3, &back); /* and what is written reads the same */
        compare(parse(back.data, back.len, &again), theirs);
        cJSON_Delete(theirs);
        tn_json_close(doc);
        tn_json_close(again);
        tn_buf_close(&b);
        tn_buf_close(&back);
    }
}

static void typed_reads_name_the_key(void **state)
{
    (void)state;
    static const char text[] = "{\"n\":7,\"f\":1.5,\"s\":\"x\",\"b\":true,\"z\":null,\"nul\":\"a\\u0000\"}";
    tn_json_doc *doc = NULL;
    const tn_json *o = parse(text, sizeof text - 1, &doc);
    int64_t i = 0;
    double f = 0;
    bool b = false;
    const char *s = NULL;
    tn_err err;
    assert_int_equal(tn_json_get_int(o, "n", "c", 1, 0, 10, &i, &err), TN_OK);
    assert_int_equal(i, 7);
    assert_int_equal(tn_json_get_int(o, "z", "c", 3, 0, 10, &i, &err), TN_OK);
    assert_int_equal(i, 3);
    assert_int_equal(tn_json_get_int(o, "n", "c", 1, 0, 6, &i, &err), TN_DATA);
    assert_string_equal(err.text, "c: n: 7; expected 0 to 6");
    assert_string_equal(err.code, "value_out_of_range");
    assert_int_equal(tn_json_get_int(o, "f", "c", 1, 0, 6, &i, &err), TN_DATA);
    assert_string_equal(err.text, "c: f: a number; expected an integer");
    assert_string_equal(err.param, "f");
    assert_int_equal(tn_json_get_float(o, "n", "c", 0, &f, &err), TN_OK);
    assert_true(f == 7);
    assert_int_equal(tn_json_get_bool(o, "s", "c", false, &b, &err), TN_DATA);
    assert_int_equal(tn_json_get_text(o, "s", "c", NULL, &s, &err), TN_OK);
    assert_string_equal(s, "x");
    assert_int_equal(tn_json_get_text(o, "nul", "c", NULL, &s, &err), TN_DATA);
    tn_json_close(doc);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses_with_code_and_offset), cmocka_unit_test(depth_is_counted),
        cmocka_unit_test(values_are_exact), cmocka_unit_test(many_keys_take_linear_time),
        cmocka_unit_test(agrees_with_cjson), cmocka_unit_test(typed_reads_name_the_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
