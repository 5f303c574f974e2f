/* SPDX-License-Identifier: Apache-2.0 */
/* test_chat.c - chat.c: finds templates in model folders, shapes messages, follows user text. */
#include "buf.h"
#include "chat.h"
#include "json.h"
#include "scratchdir.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define NTHREAD 64

static const char chatml[] =
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

static const char *const guard[] = {"<|im_start|>", "<|im_end|>", "<s>", "[INST]"};

typedef struct reply {
    tn_status st;
    tn_err err;
    tn_buf text;
    size_t *plain, nplain;
} reply;

/* `ask` is JSON: {"messages": ..., "tools": ..., "kwargs": ..., "gen": bool, "final": bool}. */
static void render(reply *r, const tn_chat *c, const char *ask, bool guarded)
{
    tn_json_doc *doc = NULL;
    *r = (reply){.st = TN_INTERNAL};
    tn_buf_open(&r->text, (size_t)64 << 20);
    assert_int_equal(tn_json_open(ask, strlen(ask), "ask", 64, &doc, &r->err), TN_OK);
    const tn_json *o = tn_json_root(doc);
    const tn_json *gen = tn_json_find(o, "gen"), *final = tn_json_find(o, "final");
    tn_chat_ask a = {.messages = tn_json_find(o, "messages"), .tools = tn_json_find(o, "tools"),
                     .kwargs = tn_json_find(o, "kwargs"),
                     .add_generation = gen != NULL && gen->type == TN_JSON_TRUE,
                     .continue_final = final != NULL && final->type == TN_JSON_TRUE,
                     .guard = guard, .nguard = guarded ? 4 : 0};
    r->err = (tn_err){.text = ""};
    r->st = tn_chat_render(c, &a, &r->text, &r->plain, &r->nplain, &r->err);
    tn_json_close(doc);
}

static void reply_close(reply *r)
{
    free(r->plain);
    tn_buf_close(&r->text);
}

static tn_chat *open_text(const char *source)
{
    tn_chat *c = NULL;
    tn_err err;
    if (tn_chat_open_text(source, strlen(source), "T", &c, &err) != TN_OK)
        fail_msg("%s: %s", source, err.text);
    return c;
}

static void prints(const char *source, const char *ask, const char *wanted)
{
    tn_chat *c = open_text(source);
    reply r;
    render(&r, c, ask, false);
    if (r.st != TN_OK)
        fail_msg("%s: %s", source, r.err.text);
    assert_string_equal(r.text.data, wanted);
    reply_close(&r);
    tn_chat_close(c);
}

static void refuses(const char *source, const char *ask, const char *code, const char *param,
                    const char *holds)
{
    tn_chat *c = open_text(source);
    reply r;
    render(&r, c, ask, true);
    assert_int_equal(r.st, TN_REFUSED);
    assert_string_equal(r.err.code, code);
    assert_string_equal(r.err.param, param);
    if (strstr(r.err.text, holds) == NULL)
        fail_msg("\"%s\" does not hold \"%s\"", r.err.text, holds);
    assert_int_equal(r.text.len, 0);
    reply_close(&r);
    tn_chat_close(c);
}

/* ---------------------------------------------------------------------------- the messages */

static void test_conversation(void **state)
{
    (void)state;
    prints(chatml, "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}], \"gen\": true}",
           "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
    prints("{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}{{ x }}{{ bos_token }}",
           "{\"messages\": [], \"tools\": [], \"kwargs\": {\"x\": [1]}}", "TrueTrueFalse[1]");
    prints("{{ tools[0].a }}{{ add_generation_prompt }}",
           "{\"messages\": [], \"tools\": [{\"a\": 1}], \"kwargs\": {\"add_generation_prompt\": 7}}", "17");
}

/* What a template that never loops over content gets is one text. */
static void test_content_parts(void **state)
{
    (void)state;
    static const char parts[] = "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"text\", "
                                "\"text\": \"one\"}, {\"type\": \"text\", \"text\": \"two\"}]}]}";
    static const char plain[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"one\"}]}";
    static const char none[] = "{\"messages\": [{\"role\": \"assistant\", \"content\": null}, {\"role\": \"user\"}]}";
    static const char loops[] = "{% for m in messages[0:] %}{% for p in m['content'] %}({{ p.type }} {{ p.text }})"
                                "{% endfor %}{% endfor %}.";
    static const char asks[] = "{% set all = messages %}{% for m in all %}{% if m.content is string %}{{ m.content }}"
                               "{% else %}{% for p in m.content %}({{ p.text }}){% endfor %}{% endif %}{% endfor %}.";
    prints("{{ messages[0].content }}", parts, "one\ntwo");
    prints(loops, parts, "(text one)(text two).");
    prints(loops, plain, "(text one).");
    prints(loops, none, ".");
    prints(asks, parts, "(one)(two).");
    prints(asks, plain, "one.");
    prints("{% for m in messages %}[{{ m.content }}{{ m.content + '' }}]{% endfor %}", none, "[][]");
    prints("{% macro show(content) %}{% for p in content %}({{ p.text }}){% endfor %}{% endmacro %}"
           "{{ show(messages[0].content) }}", parts, "(one)(two)");
    refuses("x", "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"a\"}, "
            "{\"type\": \"image_url\", \"image_url\": {\"url\": \"http://x\"}}]}]}", "wrong_type",
            "messages[0].content[1]", "expected a part of type text");
    refuses("x", "{\"messages\": [{\"role\": \"user\", \"content\": 5}]}", "wrong_type", "messages[0].content",
            "expected text or a list of parts");
    refuses("x", "{\"messages\": [5]}", "wrong_type", "messages[0]", "expected an object");
}

static void test_roles_and_reasoning(void **state)
{
    (void)state;
    static const char developer[] = "{\"messages\": [{\"role\": \"developer\", \"content\": \"x\"}]}";
    prints("{{ messages[0].role }}", developer, "system");
    prints("{% if messages[0].role == 'developer' %}D{% endif %}", developer, "D");
    prints("{{ messages[0].reasoning_content }}|{{ messages[0].thinking }}|{{ messages[0].reasoning }}",
           "{\"messages\": [{\"role\": \"assistant\", \"content\": \"x\", \"reasoning\": \"r\"}]}", "r|r|r");
    prints("{{ messages[0].reasoning_content }}|{{ messages[0].thinking }}|{{ messages[0].reasoning }}",
           "{\"messages\": [{\"role\": \"assistant\", \"content\": \"x\", \"thinking\": \"t\"}]}", "t|t|");
}

#define CALL(arguments)                                                                        \
    "{\"messages\": [{\"role\": \"assistant\", \"content\": \"\", \"tool_calls\": [{\"function\": " \
    "{\"name\": \"f\", \"arguments\": " arguments "}}]}]}"

static void test_tool_arguments(void **state)
{
    (void)state;
    static const char object[] = "{{ messages[0].tool_calls[0].function.arguments|tojson }}";
    static const char text[] = "{% for m in messages if m.tool_calls %}{{ 'a' + m.tool_calls[0].function.arguments }}{% endfor %}.";
    prints(object, CALL("\"{\\\"a\\\": [1, 2]}\""), "{\"a\": [1, 2]}");
    prints(object, CALL("{\"a\": 1}"), "{\"a\": 1}");
    prints(object, CALL("\"\""), "{}");
    prints(object, CALL("\"[1]\""), "\"[1]\"");
    /* A template that joins them with text was written for text. */
    prints(text, CALL("\"{\\\"a\\\": 1}\""), "a{\"a\": 1}.");
    prints("{{ messages|map(attribute='tool_calls')|select|map('first')|map(attribute='function.arguments')|join }}",
           CALL("\"{\\\"a\\\": 1}\""), "{\"a\": 1}");
    refuses(object, CALL("\"{\\\"a\\\": \""), "invalid_json", "messages[0].tool_calls[0]",
            "arguments: byte 6: the text ends; expected a JSON value");
    tn_buf deep;
    tn_buf_open(&deep, 4096);
    tn_buf_puts(&deep, "{\"messages\": [{\"role\": \"assistant\", \"tool_calls\": [{\"function\": "
                       "{\"arguments\": \"");
    for (int i = 0; i < 200; i++)
        tn_buf_putc(&deep, '[');
    tn_buf_puts(&deep, "\"}}]}]}");
    refuses(object, deep.data, "too_deep", "messages[0].tool_calls[0]", "");
    tn_buf_close(&deep);
}

static void test_continue_final(void **state)
{
    (void)state;
#define FINAL(content) \
    "{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}, {\"role\": \"assistant\", \"content\": " content "}], \"final\": true}"
    prints(chatml, FINAL("\"so far \""), "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\nso far ");
    prints("{% for m in messages %}[{{ m.content|trim }}]{% endfor %}", FINAL("\"so far \\n\""), "[q][so far");
    prints("{% for m in messages %}{% for p in m.content %}({{ p.text }}){% endfor %}{% endfor %}",
           FINAL("[{\"type\": \"text\", \"text\": \"a\"}, {\"type\": \"text\", \"text\": \"b\"}]"), "(q)(a)(b");
    refuses(chatml, FINAL("null"), "template_error", "messages[1].content", "expected text to continue");
    refuses("x", FINAL("\"abc\""), "template_error", "messages", "does not appear");
    refuses(chatml, "{\"messages\": [], \"gen\": true, \"final\": true}", "template_error",
            "continue_final_message", "expected one of them");
}

/* M04, M16, M17 and their like, as a request sees them. */
static void test_refusals(void **state)
{
    (void)state;
    static const char ask[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}";
    refuses("{% if false %}x{% endif %}", ask, "template_error", "messages", "the prompt is empty");
    refuses("{{ raise_exception('no ' ~ messages[0].role) }}", ask, "template_error", "messages", "T:1:4: no user");
    refuses("{{ messages.append(1) }}", ask, "template_error", "messages", "unsafe");
    refuses("{{ messages[0].update({}) }}", ask, "template_error", "messages", "unsafe");
    refuses("{% set ns = namespace(x='x') %}{% for i in range(40) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}", ask,
            "template_error", "messages", "memory");
    refuses("x", "{\"messages\": [], \"kwargs\": {\"messages\": []}}", "template_error", "messages", "kwargs");
}

/* M16: what a template sets is its own: the next render of the same request gives the same. */
static void test_request_is_unchanged(void **state)
{
    (void)state;
    static const char source[] =
        "{% set messages = messages + [{'role': 'x', 'content': 'more'}] %}"
        "{% for message in messages %}{% set message = {'content': 'other'} %}{{ message.content }}"
        "{% endfor %}{{ messages|length }}{% set add_generation_prompt = true %}"
        "{% for key, value in messages[0].items() %}{{ key }}={{ value }} {% endfor %}";
    static const char ask[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}";
    static const char wanted[] = "otherother2role=user content=a ";
    tn_json_doc *doc = NULL;
    tn_err err;
    tn_chat *c = open_text(source);
    assert_int_equal(tn_json_open(ask, strlen(ask), "ask", 64, &doc, &err), TN_OK);
    tn_chat_ask a = {.messages = tn_json_find(tn_json_root(doc), "messages")};
    for (int i = 0; i < 3; i++) {
        tn_buf text;
        tn_buf_open(&text, 4096);
        if (tn_chat_render(c, &a, &text, NULL, NULL, &err) != TN_OK)
            fail_msg("%s", err.text);
        assert_string_equal(text.data, wanted);
        tn_buf_close(&text);
        assert_int_equal(a.messages->count, 1);
        assert_string_equal(tn_json_find(a.messages->child, "content")->text, "a");
    }
    tn_json_close(doc);
    tn_chat_close(c);
}

/* ------------------------------------------------------------------------------ user text */

/* Where the places are, in the prompt's text with a ^ in front of each. */
static void marks(const char *source, const char *ask, const char *wanted)
{
    tn_chat *c = open_text(source);
    reply r;
    tn_buf shown;
    render(&r, c, ask, true);
    if (r.st != TN_OK)
        fail_msg("%s: %s", source, r.err.text);
    tn_buf_open(&shown, 4096);
    for (size_t i = 0, k = 0; i < r.text.len; i++) {
        if (k < r.nplain && r.plain[k] == i) {
            tn_buf_putc(&shown, '^');
            k++;
        }
        tn_buf_putc(&shown, r.text.data[i]);
    }
    assert_string_equal(shown.data, wanted);
    tn_buf_close(&shown);
    reply_close(&r);
    tn_chat_close(c);
}

static void test_user_text_is_followed(void **state)
{
    (void)state;
    static const char ask[] = "{\"messages\": [{\"role\": \"user\", \"content\": \" a<|im_end|> x <s>b \"}]}";
#define C "messages[0].content"
    marks(chatml, ask, "<|im_start|>user\n a^<|im_end|> x ^<s>b <|im_end|>\n");
    marks("{{ " C "|trim }}", ask, "a^<|im_end|> x ^<s>b");
    marks("{{ " C ".split('x')|join('y') }}", ask, " a^<|im_end|> y ^<s>b ");
    marks("{{ " C "|replace('b', 'c') }}", ask, " a^<|im_end|> x ^<s>c ");
    marks("{{ " C "|tojson }}", ask, "\" a^<|im_end|> x ^<s>b \"");
    marks("{{ " C "|tojson(ensure_ascii=true) }}", ask, "\" a^<|im_end|> x ^<s>b \"");
    marks("{{ [" C "] }}", ask, "[' a^<|im_end|> x ^<s>b ']");
    marks("{{ " C "[2:] }}", ask, "^<|im_end|> x ^<s>b ");
    marks("{{ " C "[4:] }}", ask, "|im_end|> x ^<s>b "); /* its first character is gone */
    marks("{{ '<s>' ~ " C " ~ '<|im_end|>' }}", ask, "<s> a^<|im_end|> x ^<s>b <|im_end|>");
    marks("{% set x %}{{ " C " }}{% endset %}{{ x }}{{ x }}", ask, " a^<|im_end|> x ^<s>b  a^<|im_end|> x ^<s>b ");
    marks("{{ " C "|length }}", ask, "20");
    marks("{{ messages[0]|tojson }}", ask, "{\"role\": \"user\", \"content\": \" a^<|im_end|> x ^<s>b \"}");
    marks("{{ " C "|upper|lower }}", ask, " a^<|im_end|> x ^<s>b ");
}

/* A spelling that user texts form only together, and ones in keys, tools and arguments. */
static void test_user_text_in_pieces(void **state)
{
    (void)state;
    static const char parts[] = "{% for m in messages %}{% for p in m.content %}{{ p.text|trim }}{% endfor %}{% endfor %}";
    marks(parts, "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"a <|im_ \"}, "
                 "{\"type\": \"text\", \"text\": \"end|> b\"}]}]}", "a ^<|im_end|> b");
    marks(parts, "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"<\"}, "
                 "{\"type\": \"text\", \"text\": \"s>\"}]}]}", "^<s>");
    marks("{{ messages[0].content }}|im_end|>", "{\"messages\": [{\"role\": \"user\", \"content\": \"a <\"}]}",
          "a ^<|im_end|>");
    marks("{{ messages[0].tool_calls[0].function.arguments|tojson }}",
          CALL("\"{\\\"a<s>\\\": \\\"\\\\u003c|im_end|>\\\"}\""), "{\"a^<s>\": \"^<|im_end|>\"}");
    marks("{{ tools|tojson }}{{ x }}", "{\"messages\": [], \"tools\": [{\"d\": \"<s>\"}], \"kwargs\": {\"x\": \"[INST]\"}}",
          "[{\"d\": \"^<s>\"}]^[INST]");
    /* The mark is a noncharacter that is not in use. */
    marks("{{ messages[0].content }}", "{\"messages\": [{\"role\": \"user\", \"content\": \"\\ufdd0<s>\\ufdd1\"}]}",
          "\xef\xb7\x90^<s>\xef\xb7\x91");
    tn_buf all;
    tn_buf_open(&all, 4096);
    tn_buf_puts(&all, "{\"messages\": [{\"role\": \"user\", \"content\": \"");
    for (unsigned i = 0; i < 32; i++)
        tn_buf_printf(&all, "\\ufd%02x", 0xd0 + i);
    tn_buf_puts(&all, "\"}]}");
    refuses("x", all.data, "template_error", "messages", "noncharacters");
    tn_buf_close(&all);
    refuses("{{ raise_exception(messages[0].content) }}", "{\"messages\": [{\"role\": \"user\", \"content\": \"<s>\"}]}",
            "template_error", "messages", "T:1:4: <s>");
}

/* ------------------------------------------------------------------------------- folders */

static void opens(const char *dir, const char *ask, const char *wanted)
{
    tn_chat *c = NULL;
    tn_err err;
    reply r;
    if (tn_chat_open(dir, &c, &err) != TN_OK)
        fail_msg("%s", err.text);
    render(&r, c, ask, false);
    if (r.st != TN_OK)
        fail_msg("%s", r.err.text);
    assert_string_equal(r.text.data, wanted);
    reply_close(&r);
    tn_chat_close(c);
}

static void stays_closed(const char *dir, tn_status st, const char *holds)
{
    tn_chat *c = NULL;
    tn_err err = {.text = ""};
    tn_status found = tn_chat_open(dir, &c, &err);
    if (found != st || strstr(err.text, holds) == NULL)
        fail_msg("status %d, \"%s\"; expected %d and \"%s\"", found, err.text, st, holds);
}

static void test_folder(void **state)
{
    (void)state;
    scratch s;
    scratch_open(&s);
    const char *dir = s.dir;
    static const char ask[] = "{\"messages\": []}", with_tools[] = "{\"messages\": [], \"tools\": [{}]}";
    stays_closed(dir, TN_NOINPUT, "no chat template");
    scratch_text(&s, "tokenizer_config.json",
               "{\"bos_token\": \"<s>\", \"eos_token\": {\"content\": \"</s>\", \"lstrip\": false}, "
               "\"unk_token\": null, \"image_token\": \"<img>\", \"additional_special_tokens\": [\"<a>\", "
               "{\"content\": \"<b>\"}], \"chat_template\": \"config {{ bos_token }}{{ eos_token }}{{ unk_token }}"
               "{{ pad_token }}{{ image_token }}{{ additional_special_tokens }}\"}");
    scratch_text(&s, "special_tokens_map.json", "{\"bos_token\": \"other\", \"pad_token\": \"<pad>\"}");
    opens(dir, ask, "config <s></s><pad><img>['<a>', '<b>']");
    scratch_text(&s, "chat_template.json", "{\"chat_template\": \"json {{ bos_token }}\"}");
    opens(dir, ask, "json <s>");
    scratch_text(&s, "chat_template.jinja", "jinja {{ eos_token }}\n");
    opens(dir, with_tools, "jinja </s>");
    assert_int_equal(mkdir(scratch_path(&s, "additional_chat_templates"), 0700), 0);
    scratch_text(&s, "additional_chat_templates/tool_use.jinja", "tools");
    opens(dir, with_tools, "tools");
    opens(dir, ask, "jinja </s>");
    scratch_text(&s, "chat_template.jinja", "{{ x|nope }}");
    stays_closed(dir, TN_DATA, "chat_template.jinja:1:6: no filter is named \"nope\"");
    /* M13: invalid UTF-8, CRLF, 1 MiB, one byte more and 10 MiB; M02: cut; and no file at all */
    scratch_text(&s, "chat_template.jinja", "a\r\nb\xff");
    stays_closed(dir, TN_DATA, "chat_template.jinja:2:2: byte 0xff; expected UTF-8");
    scratch_text(&s, "chat_template.jinja", "a\r\n{{ eos_token }}\r\n");
    opens(dir, ask, "a\n</s>");
    scratch_text(&s, "chat_template.jinja", "{% for m in messages %}{{ m");
    stays_closed(dir, TN_DATA, "chat_template.jinja:1:28:");
    for (int more = 0; more < 3; more++) {
        size_t size = more == 2 ? 10u << 20 : (1u << 20) + (size_t)more;
        char *long_text = malloc(size);
        assert_non_null(long_text);
        memset(long_text, 'x', size);
        scratch_write(&s, "chat_template.jinja", long_text, size);
        if (more == 0) {
            tn_chat *c = NULL;
            tn_err err;
            assert_int_equal(tn_chat_open(dir, &c, &err), TN_OK);
            tn_chat_close(c);
        } else {
            stays_closed(dir, TN_DATA, "chat_template.jinja: larger than 1048576 bytes");
        }
        free(long_text);
    }
    unlink(scratch_path(&s, "chat_template.jinja"));
    assert_int_equal(mkfifo(scratch_path(&s, "chat_template.jinja"), 0600), 0);
    stays_closed(dir, TN_DATA, "chat_template.jinja");
    unlink(scratch_path(&s, "chat_template.jinja"));
    assert_int_equal(mkdir(scratch_path(&s, "chat_template.jinja"), 0700), 0);
    stays_closed(dir, TN_DATA, "chat_template.jinja");
    rmdir(scratch_path(&s, "chat_template.jinja"));
    scratch_text(&s, "chat_template.jinja", "fine");
    scratch_text(&s, "additional_chat_templates/tool_use.jinja", "{{ x|nope }}");
    stays_closed(dir, TN_DATA, "tool_use.jinja:1:6:");
    unlink(scratch_path(&s, "additional_chat_templates/tool_use.jinja"));
    assert_int_equal(mkdir(scratch_path(&s, "additional_chat_templates/tool_use.jinja"), 0700), 0);
    stays_closed(dir, TN_DATA, "tool_use.jinja");
    scratch_close(&s);
}

/* M01 */
static void test_named_templates(void **state)
{
    (void)state;
    scratch s;
    scratch_open(&s);
    const char *dir = s.dir;
    static const char ask[] = "{\"messages\": []}", with_tools[] = "{\"messages\": [], \"tools\": [{}]}";
    scratch_text(&s, "tokenizer_config.json",
               "{\"chat_template\": [{\"name\": \"default\", \"template\": \"plain\"}, {\"name\": \"rag\", "
               "\"template\": \"{{ x|nope }}\"}, {\"name\": \"tool_use\", \"template\": \"tools\"}]}");
    opens(dir, ask, "plain");
    opens(dir, with_tools, "tools");
    scratch_text(&s, "tokenizer_config.json",
               "{\"chat_template\": [{\"name\": \"default\", \"template\": \"a\"}, {\"name\": \"default\", "
               "\"template\": \"b\"}]}");
    stays_closed(dir, TN_DATA, "two templates are named \"default\"");
    scratch_text(&s, "tokenizer_config.json", "{\"chat_template\": [{\"name\": \"rag\", \"template\": \"a\"}]}");
    stays_closed(dir, TN_DATA, "no template is named default");
    scratch_text(&s, "tokenizer_config.json", "{\"chat_template\": 5}");
    stays_closed(dir, TN_DATA, "neither text nor a list");
    scratch_text(&s, "tokenizer_config.json", "{\"chat_template\": []}");
    stays_closed(dir, TN_DATA, "no template is named default");
    scratch_text(&s, "tokenizer_config.json", "{\"chat_template\": [5]}");
    stays_closed(dir, TN_DATA, "without name and text");
    scratch_text(&s, "tokenizer_config.json", "{\"chat_template\": [{\"name\": \"default\"}]}");
    stays_closed(dir, TN_DATA, "without name and text");
    scratch_text(&s, "tokenizer_config.json", "{\"chat_template\": [{\"name\": \"default\", "
                 "\"template\": \"a\"}, {\"name\": \"rag\", \"template\": \"b\"}, {\"name\": "
                 "\"rag\", \"template\": \"c\"}]}");
    stays_closed(dir, TN_DATA, "two templates are named \"rag\"");
    scratch_text(&s, "tokenizer_config.json", "[]");
    stays_closed(dir, TN_DATA, "tokenizer_config.json");
    scratch_text(&s, "tokenizer_config.json", "{\"chat_template\": ");
    stays_closed(dir, TN_DATA, "tokenizer_config.json");
    scratch_close(&s);
}

/* ------------------------------------------------------------------------------- threads */

typedef struct member {
    const tn_chat *c;
    char *text;
    size_t places;
} member;

static void *run_member(void *arg)
{
    member *m = arg;
    for (int i = 0; i < 10; i++) {
        reply r;
        render(&r, m->c, "{\"messages\": [{\"role\": \"user\", \"content\": \"a<s>b\"}], \"gen\": true}", true);
        free(m->text);
        m->text = r.st == TN_OK ? strdup(r.text.data) : NULL;
        m->places = r.nplain;
        reply_close(&r);
    }
    return NULL;
}

static void test_threads(void **state)
{
    (void)state;
    tn_chat *c = open_text(chatml);
    member m[NTHREAD];
    pthread_t id[NTHREAD];
    for (int i = 0; i < NTHREAD; i++) {
        m[i] = (member){.c = c};
        assert_int_equal(pthread_create(&id[i], NULL, run_member, &m[i]), 0);
    }
    for (int i = 0; i < NTHREAD; i++) {
        pthread_join(id[i], NULL);
        assert_string_equal(m[i].text, "<|im_start|>user\na<s>b<|im_end|>\n<|im_start|>assistant\n");
        assert_int_equal(m[i].places, 1);
        free(m[i].text);
    }
    tn_chat_close(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_conversation),
        cmocka_unit_test(test_content_parts),
        cmocka_unit_test(test_roles_and_reasoning),
        cmocka_unit_test(test_tool_arguments),
        cmocka_unit_test(test_continue_final),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_request_is_unchanged),
        cmocka_unit_test(test_user_text_is_followed),
        cmocka_unit_test(test_user_text_in_pieces),
        cmocka_unit_test(test_folder),
        cmocka_unit_test(test_named_templates),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
