/* SPDX-License-Identifier: Apache-2.0 */
/* test_jinja.c - the template interpreter by itself: what it refuses, where, and its limits.
 *
 * That it prints what jinja2 prints is tests/templates.py's to show. */
#include "buf.h"
#include "jinja_engine.h"
#include "json.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define NTHREAD 64
#if defined(__clang__) || defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) \
    || !defined(__OPTIMIZE__)
#define STACK_SIZE ((size_t)8 << 20) /* their frames are larger */
#else
#define STACK_SIZE ((size_t)1 << 20)
#endif

/* What one render gave. */
typedef struct result {
    bool loaded, ok;
    tn_err err;
    tn_buf text;
} result;

static void render_json(result *res, const char *source, size_t size, const char *vars)
{
    tn_jinja *t = NULL;
    tn_json_doc *doc = NULL;
    tn_jrun r;
    tn_jval v, text;
    *res = (result){.ok = false};
    tn_buf_open(&res->text, (size_t)64 << 20);
    res->loaded = tn_jinja_open(source, size, "T", &t, &res->err) == TN_OK;
    if (!res->loaded)
        return;
    if (vars != NULL)
        assert_int_equal(tn_json_open(vars, strlen(vars), "vars", 100, &doc, &res->err), TN_OK);
    bool ok = tn_jrun_open(&r, t, 0, &res->err);
    for (const tn_json *c = doc != NULL ? tn_json_root(doc)->child : NULL; c != NULL && ok; c = c->next)
        ok = tn_jval_of_json(&r, c, &v) && tn_jrun_set(&r, c->key, v);
    res->ok = ok && tn_jrun_render(&r, &text);
    if (res->ok)
        tn_buf_put(&res->text, text.as.s->p, text.as.s->size);
    tn_jrun_close(&r);
    tn_json_close(doc);
    tn_jinja_close(t);
}

static void render(result *res, const char *source)
{
    render_json(res, source, strlen(source), NULL);
}

static void prints(const char *source, const char *vars, const char *wanted)
{
    result res;
    render_json(&res, source, strlen(source), vars);
    if (!res.ok)
        fail_msg("%s: %s", source, res.err.text);
    assert_string_equal(res.text.data != NULL ? res.text.data : "", wanted);
    tn_buf_close(&res.text);
}

/* Refused when loaded, or while rendering; the message begins with the place. */
static void refuses(const char *source, bool at_load, const char *begins, const char *holds)
{
    result res;
    render(&res, source);
    if (res.ok)
        fail_msg("%s: printed %s", source, res.text.data);
    if (res.loaded == at_load)
        fail_msg("%s: %s while %s", source, res.err.text, res.loaded ? "rendering" : "loading");
    if (strncmp(res.err.text, begins, strlen(begins)) != 0 || strstr(res.err.text, holds) == NULL)
        fail_msg("%s: \"%s\" is not \"%s ... %s\"", source, res.err.text, begins, holds);
    assert_string_equal(res.err.code, "template_error");
    tn_buf_close(&res.text);
}

/* ------------------------------------------------------------------------------- printing */

static void test_prints(void **state)
{
    (void)state;
    prints("a{{ x }}b", "{\"x\": \"\\u00e9\"}", "a\xc3\xa9" "b");
    prints("{{ nothing }}|{{ x.y }}", "{\"x\": {}}", "|");
    prints("{{ [1, 2.0, true, none, 'a', (1,), {'k': x}] }}", "{\"x\": 1e22}",
           "[1, 2.0, True, None, 'a', (1,), {'k': 1e+22}]");
    prints("{{ x|tojson }}", "{\"x\": {\"b\": \"<&'\\u0001\", \"a\": [1, 1.5, null]}}",
           "{\"b\": \"<&'\\u0001\", \"a\": [1, 1.5, null]}");
    prints("{{ 2 ** -44 }} {{ 5e-324 }} {{ 0.1 + 0.2 }} {{ 1e16 }} {{ 123456789012345.6 }}", NULL,
           "5.684341886080802e-14 5e-324 0.30000000000000004 1e+16 123456789012345.6");
    /* M14: user text is never a template. */
    prints("{{ x }}", "{\"x\": \"{{ 7*7 }} {% raw %}\"}", "{{ 7*7 }} {% raw %}");
}

/* M13: newlines of any kind. */
static void test_newlines(void **state)
{
    (void)state;
    prints("a\r\n{% if true %}\r\nb\r{% endif %}\r\nc", NULL, "a\nb\nc");
    result res;
    render_json(&res, "a\xff", 2, NULL);
    assert_false(res.loaded);
    assert_string_equal(res.err.text, "T:1:2: byte 0xff; expected UTF-8");
    tn_buf_close(&res.text);
}

/* -------------------------------------------------------------------------------- refusing */

static void test_syntax_errors(void **state)
{
    (void)state;
    refuses("{% if x %}\n  {{ y }", true, "T:2:8:", "unexpected");
    refuses("abc {{ 1 + }}", true, "T:1:12:", "unexpected }}; expected an expression");
    refuses("a\nb {% endif %}", true, "T:2:6:", "expected a statement");
    refuses("{% for x in y %}", true, "T:1:17:", "unexpected end of template; expected endfor");
    refuses("{# abc", true, "T:1:3:", "comment");
    refuses("{{ 'abc }}", true, "T:1:4:", "closing quote");
    refuses("{{ (1] }}", true, "T:1:6:", "expected ')'");
    refuses("{{ 99999999999999999999 }}", true, "T:1:4:", "64 bits");
    refuses("{{ '\\ud800' }}", true, "T:1:4:", "escape");
    refuses("\xc3\xa9\xc3\xa9{{ ! }}", true, "T:1:6:", "unexpected character \"!\"");
}

/* M05, M06, M08: what does not exist is refused before anything is rendered, also where it
 * would never run. */
static void test_unknown_names(void **state)
{
    (void)state;
    refuses("{{ x|nope }}", true, "T:1:6:", "no filter is named \"nope\"");
    refuses("{% if false %}\n{{ x|nope(1) }}{% endif %}", true, "T:2:6:", "no filter");
    refuses("{{ x is nope }}", true, "T:1:9:", "no test is named \"nope\"");
    refuses("{{ nope(1) }}", true, "T:1:4:", "no function is named \"nope\"");
    refuses("{% if false %}{{ cycler(1) }}{% endif %}", true, "T:1:18:", "no function");
    refuses("{{ lipsum() }}", true, "T:1:4:", "no function is named \"lipsum\"");
    refuses("{{ x|attr('y') }}", true, "T:1:6:", "no filter is named \"attr\"");
    refuses("{{ x|random }}", true, "T:1:6:", "no filter");
    refuses("{% include 'x' %}", true, "T:1:4:", "one file");
    refuses("{% import 'x' as y %}", true, "T:1:4:", "one file");
    refuses("{% extends 'x' %}", true, "T:1:4:", "one file");
    /* A template that asks whether a function exists knows what it does. */
    prints("{% if nope is defined %}{{ nope(1) }}{% else %}no{% endif %}", NULL, "no");
}

static void test_sandbox(void **state) /* M06, M16 */
{
    (void)state;
    prints("{{ x.__class__ }}{{ x['__globals__'] }}{{ ''.__class__ }}{{ self }}", "{\"x\": {}}", "");
    prints("{{ namespace.__init__ }}{{ raise_exception.__globals__ }}{{ range.__class__ }}"
           "{{ ''['__class__'] }}{{ '{0.__class__}'.format('a') }}{{ cycler }}{{ lipsum }}"
           "{% macro m() %}{% endmacro %}{{ m.__globals__ }}{{ m.__code__ }}", NULL, "");
    refuses("{{ ().__class__.__base__ }}", false, "T:1:17:", "unsafe");
    refuses("{{ ['a']|map('attr', '__class__')|list }}", false, "T:1:", "no filter is named \"attr\"");
    refuses("{{ ''.__class__.__mro__ }}", false, "T:1:17:", "unsafe");
    refuses("{{ self.x }}", false, "T:1:9:", "'self' is undefined");
    refuses("{% set l = [] %}{{ l.append(1) }}", false, "T:1:22:", "unsafe");
    refuses("{{ {}.update({}) }}", false, "T:1:7:", "unsafe");
    refuses("{{ {}.pop('a') }}", false, "T:1:7:", "unsafe");
    refuses("{{ '{0.__class__.x}'.format(1) }}", false, "T:1:", "unsafe");
}

static void test_errors_name_their_place(void **state)
{
    (void)state;
    refuses("a\n{{ x.y.z }}", false, "T:2:6:", "'x' is undefined");
    refuses("{% set x = {} %}\n\n  {{ x.y.z }}", false, "T:3:10:",
            "'dict object' has no attribute 'y'");
    refuses("{{ 'a' + 1 }}", false, "T:1:4:", "can only concatenate str");
    refuses("{{ raise_exception('no ' ~ 'way') }}", false, "T:1:4:", "T:1:4: no way");
    refuses("{% macro m() %}\n{{ 1/0 }}{% endmacro %}{{ m() }}", false, "T:2:4:", "division by zero");
}

/* M09, M10 */
static void test_bad_arithmetic(void **state)
{
    (void)state;
    refuses("{{ 1/0 }}", false, "T:", "zero");
    refuses("{{ 1//0 }}", false, "T:", "zero");
    refuses("{{ 1%0 }}", false, "T:", "zero");
    refuses("{{ 'abc'[::0] }}", false, "T:", "zero");
    refuses("{{ range(1, 2, 0) }}", false, "T:", "zero");
    refuses("{{ 9223372036854775807 + 1 }}", false, "T:", "overflow");
    refuses("{{ 3037000500 * 3037000500 }}", false, "T:", "overflow");
    refuses("{{ 10 ** 19 }}", false, "T:", "overflow");
    refuses("{{ -9223372036854775807 - 2 }}", false, "T:", "overflow");
    refuses("{{ '%n' % 1 }}", false, "T:", "unsupported format character");
    refuses("{{ 'a'|wordwrap(0) }}", false, "T:", "width");
    refuses("{{ [1, 'a', none]|sort }}", false, "T:", "not supported between");
    refuses("{{ [1, 2]|slice(0)|list }}", false, "T:", "zero");
}

#define LEAST "(-9223372036854775807 - 1)"
#define MOST "9223372036854775807"

/* M09, M10: numbers at the ends of 64 bits, and formats that ask for too much, reach no
 * arithmetic that cannot hold them: each prints what Python prints, or is refused. */
static void test_strange_values(void **state)
{
    static const struct {
        const char *source, *wanted; /* NULL: refused while rendering */
    } all[] = {
        {"{{ " LEAST " // -1 }}", NULL}, {"{{ " LEAST " % -1 }}", "0"},
        {"{{ " LEAST "|abs }}", NULL}, {"{{ -" LEAST " }}", NULL}, {"{{ " LEAST " * -1 }}", NULL},
        {"{{ (-2) ** 63 }}", "-9223372036854775808"}, {"{{ 2 ** " MOST " }}", NULL},
        {"{{ 0 ** -1 }}", NULL}, {"{{ 10.0 ** 400 }}", NULL}, {"{{ 1 // 0.0 }}", NULL},
        {"{{ range(" LEAST ", " MOST ", " MOST ")|list }}",
         "[-9223372036854775808, -1, 9223372036854775806]"},
        {"{{ range(" LEAST ", " MOST ", " MOST ")[2] }}", "9223372036854775806"},
        {"{{ range(" LEAST ", " MOST ") }}", NULL},
        {"{{ range(" MOST ", 0, " LEAST ")|list }}", "[9223372036854775807]"},
        {"{{ 0 in range(0, 10, 4611686018427387904)[::4] }}", "True"},
        {"{{ 4 in range(0, 10, 4611686018427387904)[::4] }}", "False"},
        {"{{ [1, 2, 3][1::" MOST "] }}{{ 'abc'[1::" MOST "] }}", "[2]b"},
        {"{{ '\xc3\xa9\xc3\xa8'[1::" MOST "] }}{{ 'abc'[1::" LEAST "] }}", "\xc3\xa8" "b"},
        {"{{ 'abc'[" LEAST ":" MOST "] }}{{ 'abc'[" MOST "] }}", "abc"},
        {"{{ 'abc'|center(" LEAST ") }}{{ 'abc'.ljust(" LEAST ") }}", "abcabc"},
        {"{{ 'a b c'.rsplit(' ', " LEAST ") }}{{ 'a b'.split(none, " LEAST ") }}",
         "['a', 'b', 'c']['a', 'b']"},
        {"{{ 'abc'.replace('', '-', " MOST ") }}", "-a-b-c-"},
        {"{{ 'abc'.find('c', " LEAST ", " MOST ") }}{{ 'abc'.find('', " MOST ") }}", "2-1"},
        {"{{ 'abc'|indent(-1) }}{{ 'abc' * " LEAST " }}{{ '' * " MOST " }}", "abc"},
        {"{{ 'abcdef'|truncate(" LEAST ") }}", NULL}, {"{{ 'abc'|wordwrap(-1) }}", NULL},
        {"{{ 'a\tb'.expandtabs(" LEAST ") }}", "ab"},
        {"{{ [1, 2]|batch(" MOST ", 0)|list }}", NULL}, {"{{ [1, 2]|slice(" MOST ")|list }}", NULL},
        {"{{ 1.5|round(" MOST ", 'ceil') }}", NULL}, {"{{ 1.5|round(1000000000) }}", "1.5"},
        {"{{ 1e300|int }}", NULL}, {"{{ 'inf'|float|int }}", NULL}, {"{{ 'ff'|int(0, 99) }}", "0"},
        {"{{ ('9' * 40)|int }}", NULL}, {"{{ '%d' % ('nan'|float) }}", NULL},
        {"{{ '%x' % " LEAST " }}", "-8000000000000000"}, {"{{ '%c' % 1114112 }}", NULL},
        {"{{ '%c' % 55296 }}", NULL}, {"{{ '%*d' % (" LEAST ", 1) }}", NULL},
        {"{{ '%*d' % (1000000000, 1) }}", NULL}, {"{{ '%99999999999999999999d' % 1 }}", NULL},
        {"{{ '%s' % () }}", NULL}, {"{{ '%(a' % {} }}", NULL}, {"{{ '%' % 1 }}", NULL},
        {"{{ '{:.99999999999999999999f}'.format(1) }}", NULL}, {"{{ '{'.format(1) }}", NULL},
        {"{{ '{99999999999999999999}'.format(1) }}", NULL}, {"{{ '{:c}'.format(-1) }}", NULL},
        {"{{ '{:{:{}}}'.format(1, 2, 3) }}", NULL}, {"{{ [1]|tojson(indent=1000000000) }}", NULL},
        {"{{ 4 is divisibleby(0) }}", NULL}, {"{{ " LEAST " is divisibleby(-1) }}", "True"},
        {"{{ " LEAST "|filesizeformat }}", "-9223372036854775808 Bytes"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (all[i].wanted != NULL)
            prints(all[i].source, NULL, all[i].wanted);
        else
            refuses(all[i].source, false, "T:1:", "");
    }
}

/* --------------------------------------------------------------------------------- limits */

static char *repeated(const char *head, const char *open, const char *middle, const char *close,
                      const char *tail, int n)
{
    tn_buf b;
    tn_buf_open(&b, (size_t)8 << 20);
    tn_buf_puts(&b, head);
    for (int i = 0; i < n; i++)
        tn_buf_puts(&b, open);
    tn_buf_puts(&b, middle);
    for (int i = 0; i < n; i++)
        tn_buf_puts(&b, close);
    tn_buf_puts(&b, tail);
    assert_false(b.failed);
    return tn_buf_take(&b);
}

static void nests(const char *open, const char *middle, const char *close, const char *head,
                  const char *tail, int most)
{
    char *source = repeated(head, open, middle, close, tail, most);
    result res;
    render(&res, source);
    if (!res.ok)
        fail_msg("%d times %s: %s", most, open, res.err.text);
    tn_buf_close(&res.text);
    free(source);
    source = repeated(head, open, middle, close, tail, most + 1);
    refuses(source, true, "T:1:", "nested deeper than 64");
    free(source);
    source = repeated(head, open, middle, close, tail, 10000);
    refuses(source, true, "T:1:", "nested");
    free(source);
}

static void test_depth_of_source(void **state) /* M05 */
{
    (void)state;
    nests("(", "1", ")", "{{ ", " }}", 64);
    nests("[", "", "]", "{{ ", " }}", 64);
    nests("{% if true %}", "x", "{% endif %}", "", "", 64);
    nests("{% for x in [] %}", "", "{% endfor %}", "", "", 63); /* its list is one more */
    nests("not ", "1", "", "{{ ", " }}", 64);
    nests("- ", "1", "", "{{ ", " }}", 64);
    char *source = repeated("{{ x", ".a", "", "", " }}", 100000);
    refuses(source, true, "T:1:", "nested deeper");
    free(source);
    source = repeated("{{ x", "|upper", "", "", " }}", 100000);
    refuses(source, true, "T:1:", "nested deeper");
    free(source);
    /* A long chain of one operator is not deep. */
    source = repeated("{{ 0", " + 1", "", "", " }}", 5000);
    prints(source, NULL, "5000");
    free(source);
}

static void test_depth_of_calls(void **state) /* M05 */
{
    (void)state;
    static const char macro[] = "{%% macro f(n) %%}{%% if n > 1 %%}{{ f(n - 1) }}{%% endif %%}x{%% endmacro %%}"
                                "{{ f(%d)|length }}";
    char source[256];
    snprintf(source, sizeof source, macro, 64);
    prints(source, NULL, "64");
    snprintf(source, sizeof source, macro, 65);
    refuses(source, false, "T:1:", "calls are nested deeper than 64");
    refuses("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", false, "T:1:", "deeper than 64");
    refuses("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", false, "T:1:", "deeper than 64");
    refuses("{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}", false, "T:1:", "nested deeper");
    refuses("{% set ns = namespace(x=[1]) %}{% for i in range(9000) %}{% set ns.x = [ns.x] %}{% endfor %}"
            "{{ ns.x }}", false, "T:1:", "nested deeper");
    refuses("{% set ns = namespace(x=[1]) %}{% for i in range(9000) %}{% set ns.x = ns.x|map('string') %}"
            "{% endfor %}{{ ns.x|list }}", false, "T:1:", "nested deeper");
}

static void test_source_size(void **state) /* M13 */
{
    (void)state;
    result res;
    char *source = malloc(TN_JINJA_SOURCE_MAX + 1);
    memset(source, 'x', TN_JINJA_SOURCE_MAX + 1);
    render_json(&res, source, TN_JINJA_SOURCE_MAX, NULL);
    assert_true(res.ok);
    assert_int_equal(res.text.len, TN_JINJA_SOURCE_MAX);
    tn_buf_close(&res.text);
    render_json(&res, source, TN_JINJA_SOURCE_MAX + 1, NULL);
    assert_false(res.loaded);
    assert_string_equal(res.err.text,
                        "T: the template has 1048577 bytes; expected at most 1048576");
    tn_buf_close(&res.text);
    free(source);
}

static void test_range_and_steps(void **state)
{
    (void)state;
    prints("{{ range(100000)|length }}", NULL, "100000");
    refuses("{{ range(100001) }}", false, "T:1:4:", "expected at most 100000");
    refuses("{{ range(9223372036854775807) }}", false, "T:1:4:", "expected at most 100000");
    prints("{{ range(-1, 99999)|length }}", NULL, "100000");
    prints("{% for i in range(800) %}{% for j in range(1000) %}{% endfor %}{% endfor %}", NULL, "");
    refuses("{% for i in range(1000) %}{% for j in range(1000) %}{% endfor %}{% endfor %}", false,
            "T:1:", "more than 1000000 steps");
}

/* M04, M10, M12: whatever is asked for, the answer comes soon. */
static void test_memory_and_output(void **state)
{
    (void)state;
    static const char *const greedy[] = {
        "{% set ns = namespace(x='x') %}{% for i in range(40) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{{ 'a' * 10**9 }}", "{{ 'a' * 10**18 }}", "{{ [1] * 10**9 }}", "{{ [] * 10**18 }}{{ 1/0 }}",
        "{{ 'a'|center(10**9) }}", "{{ 'a\nb'|indent(10**9) }}", "{{ 'a'.ljust(10**9) }}",
        "{{ '%1000000000d' % 1 }}", "{{ '{:>1000000000}'.format(1) }}", "{{ '{:01000000000,}'.format(1) }}",
        "{{ '%.1000000000f' % 1 }}", "{{ 'a'.zfill(10**9) }}", "{{ '\t'.expandtabs(10**9) }}",
        "{{ ('a' * 10**7).replace('', 'aaaaaaaaaaaaaaaaaaaaa') }}", "{{ ('a' * 10**6)|list|join('b' * 10**6) }}",
        "{% for i in range(100000) %}{{ 'x' * 1000 }}{% endfor %}",
        "{% set ns = namespace(l=[1]) %}{% for i in range(100) %}{% set ns.l = ns.l + ns.l %}{% endfor %}",
        "{% set n = namespace(l=[]) %}{% for i in range(10**7) %}{% set n.l = n.l + [i] %}{% endfor %}",
        "{% set n = namespace(l=[]) %}{% for i in range(9**4) %}{% for j in range(9**4) %}{% set n.l = n.l + [j] %}{% endfor %}{% endfor %}",
        "{{ strftime_now('%1000000000d') }}", "{{ (('a' * 10**6) ~ 'b').strip('a' * 10**6)|length }}{{ 1/0 }}",
        "{{ ('ab' * 10**6).rsplit('ba')|length }}{{ 1/0 }}", "{{ (('a' * 10**6) ~ 'b').rfind('a' * 10**5 ~ 'c') }}{{ 1/0 }}",
        "{{ (('a' * 10**6)).count('a' * 10**3 ~ 'c') }}{{ 1/0 }}", "{{ ('-' * 10**5 ~ 'a')|wordwrap(2)|length }}{{ 1/0 }}",
        "{{ range(100000)|map('string')|unique|list|length }}{{ 1/0 }}", "{{ range(100000)|sort|length }}{{ 1/0 }}",
        "{% for i in range(100000) %}{{ ('é' * 100000)[99999] }}{% endfor %}",
        "{% for i in range(30000) %}{{ ('é' * 10000) == ('é' * 10000) }}{% endfor %}",
        "{{ ('a b ' * 100000)|pprint|length }}{{ 1/0 }}",
    };
    for (size_t i = 0; i < sizeof greedy / sizeof greedy[0]; i++) {
        struct timespec a, b;
        clock_gettime(CLOCK_MONOTONIC, &a);
        refuses(greedy[i], false, "T:", "");
        clock_gettime(CLOCK_MONOTONIC, &b);
        double s = (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9;
        if (s > 20) /* far from what it takes, also on a slow machine with sanitizers */
            fail_msg("%s took %.1f seconds", greedy[i], s);
    }
    result res;
    render(&res, "{% for i in range(16) %}{{ 'x' * 1048576 }}{% endfor %}");
    assert_true(res.ok);
    assert_int_equal(res.text.len, TN_JINJA_OUTPUT_MAX);
    tn_buf_close(&res.text);
    refuses("{% for i in range(16) %}{{ 'x' * 1048576 }}{% endfor %}y", false, "T:1:",
            "the output is longer than 16 MiB");
}

/* M02: a template cut anywhere loads or says where it breaks. */
static void test_cut_templates(void **state)
{
    (void)state;
    static const char whole[] =
        "{% macro m(a, b=2) %}{{ a ~ b }}{% endmacro %}{# c #}{% for x in xs if x %}{{ loop.index }}"
        "{%- if x is mapping and 'k' in x %}{{ x['k'][1:]|join(', ') }}{% elif x %}{{ m(x, b='\\n') }}"
        "{% else %}{% raw %}{{ r }}{% endraw %}{% endif %}{% endfor %}{% set y %}a{% endset %}{{ y }}";
    for (size_t n = 0; n < sizeof whole - 1; n++) {
        result res;
        unsigned line = 0, column = 0;
        render_json(&res, whole, n, NULL);
        if (!res.loaded && sscanf(res.err.text, "T:%u:%u:", &line, &column) != 2)
            fail_msg("cut at %zu: %s", n, res.err.text);
        tn_buf_close(&res.text);
    }
    prints(whole, NULL, "a");
}

/* -------------------------------------------------------------------------------- threads */

static const char crowd_source[] =
    "{% set ns = namespace(n=0) %}{% macro f(x) %}{{ x|upper }}{{ caller() if caller }}{% endmacro %}"
    "{% for m in messages %}{{ loop.index }}{{ m.role }}: {{ f(m.content) }}{{ m|tojson }}"
    "{% set ns.n = ns.n + m.content|length %}{% endfor %}{{ ns.n }}"
    "{{ messages|map(attribute='role')|unique|sort|join(',') }}";
static const char crowd_vars[] =
    "{\"messages\": [{\"role\": \"user\", \"content\": \"h\\u00e9llo\"}, {\"role\": \"assistant\", "
    "\"content\": \"w\\u00f6rld \\ud83d\\ude00\"}]}";

typedef struct crowd {
    const tn_jinja *t;
    const tn_json *vars;
    char *text[NTHREAD];
} crowd;

typedef struct member {
    crowd *c;
    int i;
} member;

static void *run_member(void *arg)
{
    member *m = arg;
    for (int turn = 0; turn < 20; turn++) {
        tn_err err;
        tn_jrun r;
        tn_jval v, text;
        bool ok = tn_jrun_open(&r, m->c->t, 0, &err)
                  && tn_jval_of_json(&r, m->c->vars->child, &v) && tn_jrun_set(&r, "messages", v)
                  && tn_jrun_render(&r, &text);
        free(m->c->text[m->i]);
        m->c->text[m->i] = ok ? strndup(text.as.s->p, text.as.s->size) : NULL;
        tn_jrun_close(&r);
    }
    return NULL;
}

/* M18 */
static void test_threads(void **state)
{
    (void)state;
    tn_err err;
    tn_jinja *t = NULL;
    tn_json_doc *doc = NULL;
    assert_int_equal(tn_jinja_open(crowd_source, sizeof crowd_source - 1, "T", &t, &err), TN_OK);
    assert_int_equal(tn_json_open(crowd_vars, sizeof crowd_vars - 1, "vars", 64, &doc, &err), TN_OK);
    crowd c = {.t = t, .vars = tn_json_root(doc)};
    member m[NTHREAD];
    pthread_t id[NTHREAD];
    for (int i = 0; i < NTHREAD; i++) {
        m[i] = (member){.c = &c, .i = i};
        assert_int_equal(pthread_create(&id[i], NULL, run_member, &m[i]), 0);
    }
    for (int i = 0; i < NTHREAD; i++)
        pthread_join(id[i], NULL);
    assert_non_null(c.text[0]);
    assert_non_null(strstr(c.text[0], "2assistant: W\xc3\x96RLD"));
    for (int i = 0; i < NTHREAD; i++) {
        assert_string_equal(c.text[i], c.text[0]);
        if (i > 0)
            free(c.text[i]);
    }
    free(c.text[0]);
    tn_json_close(doc);
    tn_jinja_close(t);
}

/* The deepest evaluation fits a small stack: macros that call themselves, each from inside
 * many other calls. */
static void *run_deep(void *arg)
{
    bool *refused = arg;
    result res;
    char *calls = repeated("{% macro f(x) %}{% if true %}{{ ", "dict(a=", "f(x)", ")",
                           " }}{% endif %}{% endmacro %}{{ f(1) }}", 50);
    render(&res, calls);
    *refused = res.loaded && !res.ok && strstr(res.err.text, "evaluations are nested") != NULL;
    tn_buf_close(&res.text);
    free(calls);
    return NULL;
}

static void test_small_stack(void **state)
{
    (void)state;
    pthread_attr_t attr;
    pthread_t id;
    bool refused = false;
    pthread_attr_init(&attr);
    assert_int_equal(pthread_attr_setstacksize(&attr, STACK_SIZE), 0);
    assert_int_equal(pthread_create(&id, &attr, run_deep, &refused), 0);
    pthread_join(id, NULL);
    pthread_attr_destroy(&attr);
    assert_true(refused);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prints),
        cmocka_unit_test(test_newlines),
        cmocka_unit_test(test_syntax_errors),
        cmocka_unit_test(test_unknown_names),
        cmocka_unit_test(test_sandbox),
        cmocka_unit_test(test_errors_name_their_place),
        cmocka_unit_test(test_bad_arithmetic),
        cmocka_unit_test(test_strange_values),
        cmocka_unit_test(test_depth_of_source),
        cmocka_unit_test(test_depth_of_calls),
        cmocka_unit_test(test_source_size),
        cmocka_unit_test(test_range_and_steps),
        cmocka_unit_test(test_memory_and_output),
        cmocka_unit_test(test_cut_templates),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_small_stack),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
