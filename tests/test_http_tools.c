/* SPDX-License-Identifier: Apache-2.0 */
/* test_http_tools.c - what of a reply is reasoning, content and tool calls.
 *
 * Each case is a text and what must come of it, written as the events joined: content as it
 * is, a call as [NAME|ARGUMENTS] when it is whole and [NAME|ARGUMENTS!TEXT] when it broke,
 * reasoning as {TEXT}. Every case is cut at every place, at every pair of places, into single
 * bytes and at random, and must come out the same. */
#include "http_speech.h"
#include "json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define HERMES HTTP_FORM_HERMES
#define XML HTTP_FORM_XML
#define CALL(body) "<tool_call>\n" body "\n</tool_call>"
#define F(parameters) "<tool_call>\n<function=f>\n" parameters "</function>\n</tool_call>"
#define P(name, value) "<parameter=" name ">\n" value "\n</parameter>\n"

typedef struct heard {
    http_text text;
    bool in_call;
} heard;

static void hear(void *ctx, uint32_t kind, const char *text, size_t size)
{
    static const char *const before[] = {"", "[", "", "]", "!"};
    heard *h = ctx;
    bool inside = kind != HTTP_SAYS_CONTENT && kind != HTTP_SAYS_BEGIN;
    assert_int_equal(h->in_call, inside); /* nothing comes between */
    http_text_puts(&h->text, before[kind]);
    http_text_put(&h->text, text, size);
    if (kind == HTTP_SAYS_BEGIN)
        http_text_puts(&h->text, "|");
    if (kind == HTTP_SAYS_BROKEN)
        http_text_puts(&h->text, "]");
    h->in_call = kind == HTTP_SAYS_BEGIN || kind == HTTP_SAYS_ARGUMENTS;
}

static uint32_t types(void *ctx, const char *function, const char *parameter)
{
    static const struct { const char *name; uint32_t may; } all[] = {
        {"text", HTTP_MAY_TEXT}, {"maybe", HTTP_MAY_TEXT | HTTP_MAY_NULL},
        {"flag", HTTP_MAY_BOOL}, {"n", HTTP_MAY_OTHER}, {"none", HTTP_MAY_OTHER | HTTP_MAY_NULL},
    };
    (void)ctx;
    (void)function;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (strcmp(parameter, all[i].name) == 0)
            return all[i].may;
    return 0;
}

/* The text in pieces that end at the given places, and at the end. */
static void listen(uint32_t forms, const char *text, size_t size, const size_t *cut, size_t ncut,
                   heard *h)
{
    http_tools t;
    size_t from = 0;
    *h = (heard){.in_call = false};
    http_text_open(&h->text, (size_t)64 << 20);
    http_tools_open(&t, forms, &(http_tools_sink){.ctx = h, .event = hear, .types = types});
    for (size_t i = 0; i <= ncut; i++) {
        size_t to = i < ncut ? cut[i] : size;
        http_tools_put(&t, text + from, to - from);
        from = to;
    }
    http_tools_end(&t);
    assert_false(http_tools_has_failed(&t));
    assert_false(h->in_call);
    http_tools_close(&t);
}

static void agree(uint32_t forms, const char *text, const size_t *cut, size_t ncut,
                  const char *wanted)
{
    heard h;
    listen(forms, text, strlen(text), cut, ncut, &h);
    const char *found = h.text.data != NULL ? h.text.data : "";
    if (strcmp(found, wanted) != 0)
        fail_msg("of\n%s\ncut at %zu (of %zu)\n%s\ninstead of\n%s", text, ncut > 0 ? cut[0] : 0,
                 ncut, found, wanted);
    http_text_close(&h.text);
}

static uint32_t next_random(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

/* The text whole, in every two and three pieces, in single bytes, and in random pieces. */
static void agree_however_cut(uint32_t forms, const char *text, const char *wanted)
{
    size_t n = strlen(text), cut[4096], ncut;
    uint32_t seed = 7;
    assert_true(n < sizeof cut / sizeof *cut);
    agree(forms, text, NULL, 0, wanted);
    for (cut[0] = 0; cut[0] <= n; cut[0]++)
        for (cut[1] = cut[0]; cut[1] <= n; cut[1]++)
            agree(forms, text, cut, 2, wanted);
    for (ncut = 0; ncut < n; ncut++)
        cut[ncut] = ncut;
    agree(forms, text, cut, ncut, wanted);
    for (int round = 0; round < 50; round++) {
        ncut = 0;
        for (size_t at = 0; at < n; at += next_random(&seed) % 9)
            cut[ncut++] = at;
        agree(forms, text, cut, ncut < 4000 ? ncut : 4000, wanted);
    }
}

typedef struct example {
    const char *text, *wanted;
} example;

static void agree_all(uint32_t forms, const example *e, size_t n)
{
    for (size_t i = 0; i < n; i++)
        agree_however_cut(forms, e[i].text, e[i].wanted);
}
#define AGREE(forms, list) agree_all(forms, list, sizeof(list) / sizeof *(list))

/* --------------------------------------------------------------------------------- hermes */

static void test_hermes(void **state)
{
    static const example good[] = {
        {"", ""},
        {"Hello <there>.", "Hello <there>."},
        {"  \n", "  \n"},
        {CALL("{\"name\": \"f\", \"arguments\": {\"a\": 1}}"), "[f|{\"a\": 1}]"},
        {"<tool_call>{\"name\":\"f\",\"arguments\":{\"a\":1,\"b\":[1,{}]}}</tool_call>",
         "[f|{\"a\": 1, \"b\": [1, {}]}]"},
        {"I look.\n" CALL("{\"name\": \"f\", \"arguments\": {}}") "\n", "I look.\n[f|{}]"},
        {"\n\n" CALL("{\"name\": \"f\", \"arguments\": {}}"), "[f|{}]"},
        {CALL("{\"name\": \"f\", \"arguments\": {}}") "\n"
         CALL("{\"name\": \"g-2\", \"arguments\": {\"x\": null}}"), "[f|{}][g-2|{\"x\": null}]"},
        {CALL("{\"name\": \"f\", \"arguments\": {}}") "\n and then ", "[f|{}]\n and then "},
        {CALL("{\"name\": \"f\", \"arguments\": {}}") " x <tool_call>",
         "[f|{}] x <tool_call>"},
        /* members in any order, further ones, none */
        {CALL("{\"arguments\": {\"a\": [true, false]}, \"id\": 5, \"name\": \"f\"}"),
         "[f|{\"a\": [true, false]}]"},
        {CALL("{\"type\": {\"name\": \"x\", \"arguments\": {}}, \"name\": \"f\"}"), "[f|{}]"},
        {CALL("{\"name\": \"f\"}"), "[f|{}]"},
        {CALL("{\"name\": \"f\", \"arguments\": null}"), "[f|{}]"},
        {CALL("{\"arguments\": null , \"name\": \"f\"}"), "[f|{}]"},
        /* strings: escapes are undone or put in, nothing inside is a tag */
        {CALL("{\"name\": \"f\", \"arguments\": {\"s\": \"\\u00e9\\ud83d\\ude42\\/\\\"\\\\\\n\"}}"),
         "[f|{\"s\": \"\xc3\xa9\xf0\x9f\x99\x82/\\\"\\\\\\n\"}]"},
        {CALL("{\"name\": \"f\", \"arguments\": {\"s\": \"a\nb\t\x01\"}}"),
         "[f|{\"s\": \"a\\nb\\t\\u0001\"}]"},
        {CALL("{\"name\": \"f\", \"arguments\": {\"s\": \"</tool_call><tool_call>{}\"}}"),
         "[f|{\"s\": \"</tool_call><tool_call>{}\"}]"},
        {CALL("{\"name\": \"f\", \"arguments\": {\"n\": [0, -1.5e+3, 12345678901234567890]}}"),
         "[f|{\"n\": [0, -1.5e+3, 12345678901234567890]}]"},
        /* the closing tag that length cut off */
        {"<tool_call>\n{\"name\": \"f\", \"arguments\": {}}", "[f|{}]"},
        {"<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_", "[f|{}]"},
        /* nearly a tag */
        {"<tool_call", "<tool_call"},
        {"<<tool_call><tool_call", "<<tool_call><tool_call"},
        {"<tool_<tool_call>{\"name\": \"f\"}</tool_call>", "<tool_[f|{}]"},
        {"</tool_call>", "</tool_call>"},
    };
    (void)state;
    AGREE(HERMES, good);
    AGREE(HERMES | XML, good);
}

/* What is wrong before a call can begin is content, afterwards the call is broken. */
static void test_hermes_malformed(void **state)
{
#define SAME(text) {text, text}
    static const example bad[] = {
        SAME(CALL("")), SAME(CALL("x")), SAME(CALL("[]")), SAME(CALL("{}")),
        SAME(CALL("{\"name\": \"\"}")), SAME(CALL("{\"name\": 5}")),
        SAME(CALL("{\"name\": \"a\\nb\"}")), SAME(CALL("{\"name\": \"f\", \"arguments\": []}")),
        SAME(CALL("{\"name\": \"f\", \"arguments\": \"{}\"}")),
        SAME(CALL("{\"name\": \"f\", \"arguments\": nul}")),
        SAME(CALL("{\"arguments\": {\"a\": 1}}")), SAME(CALL("{'name': 'f'}")),
        SAME(CALL("{\"name\": \"f\" \"arguments\": {}}")),
        SAME(CALL("[{\"name\": \"f\", \"arguments\": {}}]")),
        SAME("<tool_call>"), SAME("<tool_call>\n{\"name\": \"f\""),
        SAME("a<tool_call>b<tool_call>c"), SAME(CALL(F(""))),
        {"<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\"", "[f|{\"a\"!<tool_call>\n{\"name\": "
         "\"f\", \"arguments\": {\"a\"]"},
        {CALL("{\"name\": \"f\", \"arguments\": {\"a\": 1}") " z",
         "[f|{\"a\": 1}!<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}\n]</tool_call> z"},
        {"<tool_call>{\"name\": \"f\", \"arguments\": {}}} </tool_call>",
         "[f|{}!<tool_call>{\"name\": \"f\", \"arguments\": {}}]} </tool_call>"},
        {"<tool_call>{\"name\": \"f\", \"arguments\": {a}}</tool_call>",
         "[f|{!<tool_call>{\"name\": \"f\", \"arguments\": {]a}}</tool_call>"},
        {"<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": True}}",
         "[f|{\"a\": !<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": ]True}}"},
        {"<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1, \"\\u0061\": 2}}",
         "[f|{\"a\": 1, \"a!<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1, \"\\u0061]\": 2}}"},
        {"<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"\\ud800\"}}",
         "[f|{\"a\": \"!<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"\\ud800]\"}}"},
        {"<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1e999}}",
         "[f|{\"a\": !<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1e999]}}"},
        /* a call that is right comes after one that is wrong */
        {"<tool_call>{x<tool_call>{\"name\": \"f\"}</tool_call>", "<tool_call>{x[f|{}]"},
        {"<tool_call>{\"name\": \"g\", \"arguments\": {<tool_call>{\"name\": \"f\"}</tool_call>",
         "[g|{!<tool_call>{\"name\": \"g\", \"arguments\": {][f|{}]"},
    };
    (void)state;
    AGREE(HERMES, bad);
}

/* ---------------------------------------------------------------------------- qwen3_coder */

static void test_xml(void **state)
{
    static const example good[] = {
        {F(""), "[f|{}]"},
        {"<tool_call><function=f></function></tool_call>", "[f|{}]"},
        {F(P("text", "Paris")), "[f|{\"text\": \"Paris\"}]"},
        {"So:\n" F(P("text", "a") P("n", "3")) "\n" F(P("n", "[1,2]")),
         "So:\n[f|{\"text\": \"a\", \"n\": 3}][f|{\"n\": [1, 2]}]"},
        /* text as it is, save for one newline on each side */
        {F(P("text", "3")), "[f|{\"text\": \"3\"}]"},
        {F(P("unknown", "3")), "[f|{\"unknown\": \"3\"}]"},
        {F(P("text", "\n\n a\n<b>\"\\\n\n")), "[f|{\"text\": \"\\n\\n a\\n<b>\\\"\\\\\\n\\n\"}]"},
        {F(P("text", "")), "[f|{\"text\": \"\"}]"},
        {F("<parameter=text>x</parameter>"), "[f|{\"text\": \"x\"}]"},
        {F("<parameter=text></parameter>"), "[f|{\"text\": \"\"}]"},
        {F("<parameter=text>\n</parameter>"), "[f|{\"text\": \"\"}]"},
        {F(P("text", "</par</parameter\n</tool_call>\n")),
         "[f|{\"text\": \"</par</parameter\\n</tool_call>\\n\"}]"},
        {F(P("text", "\xc3\xa9\xf0\x9f\x99\x82")), "[f|{\"text\": \"\xc3\xa9\xf0\x9f\x99\x82\"}]"},
        /* the other types; what is no JSON stays text */
        {F(P("n", " -1.50 ")), "[f|{\"n\": -1.50}]"},
        {F(P("n", "{\"a\":\n[1,\"x\"]}")), "[f|{\"n\": {\"a\": [1, \"x\"]}}]"},
        {F(P("n", "12]")), "[f|{\"n\": \"12]\"}]"},
        {F(P("n", "1 2")), "[f|{\"n\": \"1 2\"}]"},
        {F(P("n", "")), "[f|{\"n\": \"\"}]"},
        {F(P("n", "seven")), "[f|{\"n\": \"seven\"}]"},
        {F(P("n", "\"seven\"")), "[f|{\"n\": \"seven\"}]"},
        {F(P("flag", "True")), "[f|{\"flag\": true}]"},
        {F(P("flag", "false")), "[f|{\"flag\": false}]"},
        {F(P("flag", "yes")), "[f|{\"flag\": \"yes\"}]"},
        {F(P("maybe", "null")), "[f|{\"maybe\": null}]"},
        {F(P("maybe", "nullify")), "[f|{\"maybe\": \"nullify\"}]"},
        {F(P("none", "null")), "[f|{\"none\": null}]"},
        {F(P("none", "4")), "[f|{\"none\": 4}]"},
        {F(P("a\"b", "4")), "[f|{\"a\\\"b\": \"4\"}]"},
        {"<tool_call>\n<function=f>\n</function>\n", "[f|{}]"},
    };
    static const example bad[] = {
        SAME("<tool_call>\n<function>\n</function>\n</tool_call>"),
        SAME("<tool_call>\n<function=>\n</function>\n</tool_call>"),
        SAME("<tool_call>\n<function=f"), SAME("<tool_call>\n<function=a b></function>"),
        SAME(CALL("{\"name\": \"f\", \"arguments\": {}}")),
        SAME("<function=f>\n</function>"),
        {"<tool_call><function=f>", "[f|{!<tool_call><function=f>]"},
        {"<tool_call><function=f>x", "[f|{!<tool_call><function=f>]x"},
        {"<tool_call><function=f><parameter=text>ab</tool_call>",
         "[f|{\"text\": \"ab</tool_call>!<tool_call><function=f><parameter=text>ab</tool_call>]"},
        {"<tool_call><function=f><parameter=n>1</parameter><parameter=n>",
         "[f|{\"n\": 1!<tool_call><function=f><parameter=n>1</parameter><parameter=n]>"},
        {"<tool_call><function=f></function></function>",
         "[f|{}!<tool_call><function=f></function></]function>"},
    };
    (void)state;
    AGREE(XML, good);
    AGREE(HERMES | XML, good);
    AGREE(XML, bad);
}

/* ------------------------------------------------------------------------- sizes and JSON */

static char *repeated(const char *head, const char *part, size_t n, const char *tail)
{
    http_text t;
    http_text_open(&t, (size_t)64 << 20);
    http_text_puts(&t, head);
    for (size_t i = 0; i < n; i++)
        http_text_puts(&t, part);
    http_text_puts(&t, tail);
    assert_false(t.failed);
    return t.data;
}

/* `n` parts in the middle: whole or not. */
static void holds(uint32_t forms, const char *head, const char *part, size_t n, const char *tail,
                  bool whole)
{
    heard h;
    char *text = repeated(head, part, n, tail);
    listen(forms, text, strlen(text), NULL, 0, &h);
    bool is_whole = strchr(h.text.data, '!') == NULL && h.text.data[0] == '[';
    if (is_whole != whole)
        fail_msg("%zu of %s: whole %d, expected %d", n, part, is_whole, whole);
    http_text_close(&h.text);
    free(text);
}

static void test_limits(void **state)
{
    static const char head[] = "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": ";
    (void)state;
    holds(HERMES, "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"", "x", HTTP_CALL_MAX - 100,
          "\"}}</tool_call>", true);
    holds(HERMES, "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"", "x", HTTP_CALL_MAX,
          "\"}}</tool_call>", false);
    holds(XML, "<tool_call><function=f><parameter=text>", "\x01", HTTP_CALL_MAX - 100,
          "</parameter></function></tool_call>", true);
    holds(XML, "<tool_call><function=f><parameter=n>", "\x01", HTTP_CALL_MAX,
          "</parameter></function></tool_call>", false);
    holds(HERMES, "<tool_call>{\"name\": \"", "f", HTTP_CALL_NAME_MAX, "\"}</tool_call>", true);
    holds(HERMES, "<tool_call>{\"name\": \"", "f", HTTP_CALL_NAME_MAX + 1, "\"}</tool_call>",
          false);
    holds(HERMES, head, "1", HTTP_VALUE_NUMBER, "}}</tool_call>", true);
    holds(HERMES, head, "1", HTTP_VALUE_NUMBER + 1, "}}</tool_call>", false);
    holds(HERMES, "", " ", 4096, "<tool_call>{\"name\": \"f\"}</tool_call>", true);
    holds(HERMES, "", " ", 4097, "<tool_call>{\"name\": \"f\"}</tool_call>", false);
    holds(HERMES, "<tool_call>", " ", (size_t)4 << 20, "x", false);
    holds(HERMES, "<tool_call>{\"name\": \"f\"}", "\n", (size_t)4 << 20, "</tool_call>", false);
    holds(HERMES, "<tool_call>", "{\"a\":", 100000, "x", false);
}

/* Whatever depth a call may have, the house's own reader takes it back. */
static void test_depth(void **state)
{
    char text[1024], nested[256];
    tn_err err;
    (void)state;
    for (size_t n = 60; n <= 66; n++) {
        heard h;
        memset(nested, '[', n);
        memset(nested + n, ']', n);
        nested[2 * n] = 0;
        snprintf(text, sizeof text, "<tool_call>{\"name\": \"f\", \"arguments\": {\"n\": %s}}"
                 "</tool_call>", nested);
        listen(HERMES, text, strlen(text), NULL, 0, &h);
        assert_int_equal(strchr(h.text.data, '!') == NULL, n <= 63);
        http_text_close(&h.text);
        snprintf(text, sizeof text, F(P("n", "%s")), nested);
        listen(XML, text, strlen(text), NULL, 0, &h);
        tn_json_doc *doc = NULL;
        const char *arguments = strchr(h.text.data, '|') + 1;
        assert_int_equal(tn_json_open(arguments, strlen(arguments) - 1, "x", 64, &doc, &err), TN_OK);
        uint32_t type = tn_json_find(tn_json_root(doc), "n")->type;
        assert_int_equal(type, n <= 63 ? TN_JSON_LIST : TN_JSON_TEXT);
        tn_json_close(doc);
        http_text_close(&h.text);
    }
}

/* The value's reader agrees with the house's about what is JSON, and writes the same value. */
static void test_value(void **state)
{
    static const char *const texts[] = {
        "1", "-0", "01", "1.", ".5", "1e5", "1e", "1e+", "-", "+1", "1.5E-7", "1e999", "true",
        "tru", "nulll", "null", "false", "True", "\"\"", "\"a", "\"\\x\"", "\"\\u12g4\"",
        "\"\\ud83d\\ude42\"", "\"\\ud83d\"", "\"\\ude42\"", "\"\\ud83dx\"",
        "\"\\ud83d\\u0041\"", "\"\\ud83d\\ud83d\"",
        "\"\\ud83d\\n\"",
        "\"\\u0000\\b\\f\\r\\t\\u001f\\u007f\"", "[]", "[1]", "[1,]", "[,1]", "[1 2]", "[1,2",
        "[1}", "{}", "{\"a\":1}", "{\"a\":1,}", "{\"a\"}", "{\"a\":}", "{a:1}", "{1:1}", "{\"a\":1]",
        "{\"a\":1,\"a\":2}", "{\"a\":{\"a\":1},\"b\":{\"a\":2}}", "[{\"a\":1},{\"a\":1}]",
        "{\"\":1,\"\":2}", "{\"a\":{\"b\":1,\"b\":2}}", " [ 1 , \"x\" , { \"k\" : null } ] ", "",
        " ", "1 1", "{}{}", "[[]", "]", "}", ",", ":", "\"a\"b", "12,", "nullx", "[true,false]",
    };
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        http_text out;
        tn_json_doc *doc = NULL;
        tn_err err;
        http_text_open(&out, 4096);
        tn_status st = tn_json_open(texts[i], strlen(texts[i]), "x", 64, &doc, &err);
        bool taken = http_value_text(texts[i], strlen(texts[i]), 64, &out);
        if (taken != (st == TN_OK))
            fail_msg("%s: taken %d; the house says %d", texts[i], taken, st);
        if (st == TN_OK) {
            tn_json_close(doc);
            assert_int_equal(tn_json_open(out.data, out.len, "x", 64, &doc, &err), TN_OK);
            tn_json_close(doc);
        } else {
            assert_int_equal(out.len, 0);
        }
        http_text_close(&out);
    }
}

/* ----------------------------------------------------------------------------------- speech */

static void make_id(void *ctx, char id[HTTP_CALL_ID_SIZE])
{
    uint32_t *n = ctx;
    snprintf(id, HTTP_CALL_ID_SIZE, "id%u", (*n)++);
}

/* Deltas of a stream, or the message, of a text in pieces of `step` bytes. */
static void speak(const http_speech_setup *how, const char *text, size_t step, http_text *out)
{
    http_speech p;
    uint32_t n = 0;
    http_speech_setup setup = *how;
    setup.ctx = &n;
    setup.make_id = make_id;
    http_text_open(out, 1 << 20);
    http_speech_open(&p, &setup);
    for (size_t at = 0, size = strlen(text); at < size; at += step)
        http_speech_put(&p, text + at, size - at < step ? size - at : step);
    http_speech_end(&p);
    assert_false(http_speech_has_failed(&p));
    for (size_t at = 0; at < p.deltas.len; at += strlen(p.deltas.data + at) + 1)
        http_text_puts(out, p.deltas.data + at);
    if (!how->streams)
        http_speech_message(&p, out);
    http_speech_close(&p);
}

static void says(const http_speech_setup *how, const char *text, const char *wanted)
{
    http_text out;
    speak(how, text, strlen(text) + 1, &out);
    assert_string_equal(out.data, wanted);
    http_text_close(&out);
}

static void test_reason(void **state)
{
    static const struct { const char *text, *reasoning, *content; } cases[] = {
        {"<think>\nhm\n</think>\n\nYes.", "\\nhm\\n", "\\n\\nYes."},
        {"hm</think>Yes.", "hm", "Yes."},
        {"\n <think>hm</think>Yes", "\\n hm", "Yes"},
        {"</think>Yes", "", "Yes"},
        {"<think></think>", "", ""},
        {"still <think> thinking", "still <think> thinking", ""},
        {"a <b </thin</think></think>", "a <b </thin", "</think>"},
        {"<think><think>x</think>", "<think>x", ""},
        {"<thi", "<thi", ""},
        {"x</think", "x</think", ""},
        {"<", "<", ""},
        {"", "", ""},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (size_t step = 1; step < 30; step++) {
            char wanted[512], thought[100], said[100];
            http_text out;
            snprintf(thought, sizeof thought, cases[i].reasoning[0] ? "\"%s\"" : "null%s",
                     cases[i].reasoning);
            snprintf(said, sizeof said, cases[i].content[0] ? "\"%s\"" : "null%s",
                     cases[i].content);
            snprintf(wanted, sizeof wanted, "\"content\":%s,\"reasoning\":%s,"
                     "\"reasoning_content\":%s", said, thought, thought);
            speak(&(http_speech_setup){.reasons = true}, cases[i].text, step, &out);
            assert_string_equal(out.data, wanted);
            http_text_close(&out);
        }
}

static void test_message(void **state)
{
    static const http_speech_setup plain = {.parallel = true},
        tools = {.parallel = true, .forms = HERMES}, one = {.forms = HERMES},
        both = {.parallel = true, .forms = HERMES, .reasons = true},
        hidden = {.parallel = true, .forms = HERMES, .reasons = true, .hides = true};
#define CALL_0 "{\"id\":\"id0\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":" \
               "\"{\\\"a\\\": 1}\"}}"
#define CALL_1 "{\"id\":\"id1\",\"type\":\"function\",\"function\":{\"name\":\"g\",\"arguments\":" \
               "\"{}\"}}"
    static const char a[] = CALL("{\"name\": \"f\", \"arguments\": {\"a\": 1}}");
    static const char ab[] = CALL("{\"name\": \"f\", \"arguments\": {\"a\": 1}}") "\n"
                             CALL("{\"name\": \"g\"}");
    (void)state;
    says(&plain, a, "\"content\":\"<tool_call>\\n{\\\"name\\\": \\\"f\\\", \\\"arguments\\\": {"
         "\\\"a\\\": 1}}\\n</tool_call>\",\"reasoning\":null");
    says(&plain, "", "\"content\":\"\",\"reasoning\":null");
    says(&tools, a, "\"content\":null,\"reasoning\":null,\"tool_calls\":[" CALL_0 "]");
    says(&tools, ab, "\"content\":null,\"reasoning\":null,\"tool_calls\":[" CALL_0 "," CALL_1 "]");
    says(&one, ab, "\"content\":null,\"reasoning\":null,\"tool_calls\":[" CALL_0 "]");
    says(&tools, "<tool_call>{\"name\": \"f\", \"arguments\": {x",
         "\"content\":\"<tool_call>{\\\"name\\\": \\\"f\\\", \\\"arguments\\\": {x\","
         "\"reasoning\":null");
    says(&both, "<think><tool_call></think>ok <tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1}}",
         "\"content\":\"ok \",\"reasoning\":\"<tool_call>\",\"reasoning_content\":\"<tool_call>\","
         "\"tool_calls\":[" CALL_0 "]");
    says(&hidden, "hm</think>ok", "\"content\":\"ok\",\"reasoning\":null,\"reasoning_content\":null");
    /* the broken call's id is gone with it */
    says(&tools, "<tool_call>{\"name\": \"x\", \"arguments\": {<tool_call>{\"name\": \"g\"}",
         "\"content\":\"<tool_call>{\\\"name\\\": \\\"x\\\", \\\"arguments\\\": {\","
         "\"reasoning\":null,\"tool_calls\":[" CALL_1 "]");
}

static void test_deltas(void **state)
{
    static const http_speech_setup how = {.parallel = true, .forms = HERMES, .reasons = true,
                                          .streams = true};
    (void)state;
    says(&how, "hm</think>\nok <tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1}}</tool_call>"
               "<tool_call>{\"name\": \"g\", \"arguments\": {}}</tool_call>",
         "{\"reasoning\":\"hm\",\"reasoning_content\":\"hm\"}{\"content\":\"\\nok \"}"
         "{\"tool_calls\":[{\"index\":0,\"id\":\"id0\",\"type\":\"function\",\"function\":"
         "{\"name\":\"f\",\"arguments\":\"\"}}]}"
         "{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"{\"}}]}"
         "{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"\\\"a\\\": 1}\"}}]}"
         "{\"tool_calls\":[{\"index\":1,\"id\":\"id1\",\"type\":\"function\",\"function\":"
         "{\"name\":\"g\",\"arguments\":\"\"}}]}"
         "{\"tool_calls\":[{\"index\":1,\"function\":{\"arguments\":\"{\"}}]}"
         "{\"tool_calls\":[{\"index\":1,\"function\":{\"arguments\":\"}\"}}]}");
}

static void test_types(void **state)
{
    static const char tools[] =
        "[{\"function\": {\"name\": \"e\"}}, {\"function\": {\"name\": \"f\", \"parameters\": "
        "{\"properties\": {\"s\": {\"type\": \"string\"}, \"n\": {\"type\": [\"integer\", "
        "\"null\"]}, \"o\": {\"anyOf\": [{\"type\": \"string\"}, {\"type\": \"null\"}, 3]}, "
        "\"x\": 5, \"b\": {\"type\": \"boolean\"}, \"u\": {\"enum\": [1]}}}}}]";
    static const struct { const char *function, *parameter; uint32_t may; } cases[] = {
        {"f", "s", HTTP_MAY_TEXT}, {"f", "n", HTTP_MAY_OTHER | HTTP_MAY_NULL},
        {"f", "o", HTTP_MAY_TEXT | HTTP_MAY_NULL}, {"f", "x", 0}, {"f", "b", HTTP_MAY_BOOL},
        {"f", "u", 0}, {"f", "none", 0}, {"e", "s", 0}, {"g", "s", 0},
    };
    tn_json_doc *doc;
    tn_err err;
    (void)state;
    assert_int_equal(tn_json_open(tools, sizeof tools - 1, "tools", 64, &doc, &err), TN_OK);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(http_speech_types(tn_json_root(doc), cases[i].function,
                                           cases[i].parameter), cases[i].may);
    tn_json_close(doc);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hermes), cmocka_unit_test(test_hermes_malformed),
        cmocka_unit_test(test_xml), cmocka_unit_test(test_limits), cmocka_unit_test(test_depth),
        cmocka_unit_test(test_value), cmocka_unit_test(test_reason),
        cmocka_unit_test(test_message), cmocka_unit_test(test_deltas), cmocka_unit_test(test_types),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
