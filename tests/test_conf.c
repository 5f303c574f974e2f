/* SPDX-License-Identifier: Apache-2.0 */
/* test_conf.c - the INI reader: what it takes, what it refuses, and with which line. */
#include "buf.h"
#include "conf.h"
#include "option.h"

#include <locale.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define COUNT(a) (sizeof(a) / sizeof(a)[0])

static tn_conf *opened(const char *text)
{
    tn_conf *c = NULL;
    tn_err err;
    if (tn_conf_open_text(text, strlen(text), "t.ini", &c, &err) != TN_OK)
        fail_msg("%s", err.text);
    return c;
}

static const char *value(const tn_conf *c, const char *plugin, const char *key)
{
    const char *v = tn_conf_get(c, TN_CONF_PLUGIN, plugin, key, NULL);
    return v ? v : "(none)";
}

static void the_example(void **state)
{
    tn_conf *c = opened("[tenon]\nplugin_path = /usr/local/lib/tenon\n[plugin cuda]\n"
                        "[plugin  http ] ; the front\nhost = 127.0.0.1\nport=8000\n\n"
                        "# a comment\n; another = one\n[model default]\n"
                        "quant = auto            ; or awq, gptq, any loaded quant plugin\n"
                        "  dtype = float16\n");
    const char *origin = NULL;
    (void)state;
    assert_int_equal(tn_conf_count(c, TN_CONF_PLUGIN), 2);
    assert_string_equal(tn_conf_name(c, TN_CONF_PLUGIN, 0), "cuda");
    assert_string_equal(tn_conf_name(c, TN_CONF_PLUGIN, 1), "http");
    assert_null(tn_conf_name(c, TN_CONF_PLUGIN, 2));
    assert_string_equal(tn_conf_origin(c, TN_CONF_PLUGIN, "http"), "t.ini:4");
    assert_null(tn_conf_origin(c, TN_CONF_PLUGIN, "nccl"));
    assert_string_equal(value(c, "http", "host"), "127.0.0.1");
    assert_string_equal(value(c, "http", "port"), "8000");
    assert_string_equal(tn_conf_get(c, TN_CONF_MODEL, "default", "quant", &origin), "auto");
    assert_string_equal(origin, "t.ini:11");
    assert_string_equal(tn_conf_get(c, TN_CONF_MODEL, "default", "dtype", NULL), "float16");
    assert_string_equal(tn_conf_get(c, TN_CONF_TENON, "", "plugin_path", NULL),
                        "/usr/local/lib/tenon");
    tn_conf_close(c);
}

/* I01 */
static void shapes_of_files(void **state)
{
    static const char *const good[] = {
        "\xef\xbb\xbf[plugin a]\nk = v\n",
        "[plugin a]\r\nk = v\r\n",
        "[plugin a]\nk = v",
        "\n\n[plugin a]\n\tk\t=\tv\t\n",
        "[plugin a]\nk:v\n",
        "[plugin a]\nk = v ; x = y\n",
        "[plugin a]\nk = v\t;\n",
    };
    (void)state;
    for (size_t i = 0; i < COUNT(good); i++) {
        tn_conf *c = opened(good[i]);
        assert_string_equal(value(c, "a", "k"), "v");
        tn_conf_close(c);
    }
    tn_conf_close(opened(""));
    tn_conf_close(opened("\xef\xbb\xbf"));
    tn_conf_close(opened("; nothing"));
}

static void values_keep_what_they_hold(void **state)
{
    tn_conf *c = opened("[plugin a]\nempty =\nsemi = a;b;;c\nhash = a # b\nequals = a = b : c\n"
                        "quotes = \"a b\"\nutf8 = \xc3\xa4\xe2\x82\xac\njson = {\"a\": [1, 2]}\n"
                        "brackets = [x]\n");
    (void)state;
    assert_string_equal(value(c, "a", "empty"), "");
    assert_string_equal(value(c, "a", "semi"), "a;b;;c");
    assert_string_equal(value(c, "a", "hash"), "a # b");
    assert_string_equal(value(c, "a", "equals"), "a = b : c");
    assert_string_equal(value(c, "a", "quotes"), "\"a b\"");
    assert_string_equal(value(c, "a", "utf8"), "\xc3\xa4\xe2\x82\xac");
    assert_string_equal(value(c, "a", "json"), "{\"a\": [1, 2]}");
    assert_string_equal(value(c, "a", "brackets"), "[x]");
    tn_conf_close(c);
}

/* Values around every size at which a line is cut into pieces, of letters that a careless
 * joint would lose. */
static void long_values_come_back_whole(void **state)
{
    static const char *const fills[] = {"a", "#", "; ", " x", "=", "[]", "  \t y"};
    static char text[5100], want[5000];
    (void)state;
    for (size_t f = 0; f < COUNT(fills); f++)
        for (size_t n = 150; n < 4090; n = n < 420 ? n + 1 : n + 97) {
            size_t m = strlen(fills[f]);
            for (size_t i = 0; i < n; i++)
                want[i] = fills[f][i % m] == ';' ? ':' : fills[f][i % m];
            want[0] = 'b';
            want[n - 1] = 'e';
            want[n] = 0;
            snprintf(text, sizeof text, "[plugin a]\nk = %s ; tail\n", want);
            if (n + 11 > TN_CONF_LINE_MAX)
                snprintf(text, sizeof text, "[plugin a]\nk = %s\n", want);
            tn_conf *c = opened(text);
            assert_string_equal(value(c, "a", "k"), want);
            tn_conf_close(c);
        }
}

typedef struct bad_case {
    const char *text, *want;
} bad_case;

/* I02 */
static void refused(void **state)
{
    static const bad_case bad[] = {
        {"k = v\n", "t.ini:1: key k before any section; expected [tenon]"},
        {"[tenon\nk = v\n", "t.ini:1: a [ without its ]"},
        {"[tenon] x\n", "t.ini:1: text after the ]"},
        {"[tenon]]\n", "t.ini:1: text after the ]"},
        {"[tenon]\nword\n", "t.ini:2: \"word\"; expected key = value"},
        {"[tenon]\n= v\n", "t.ini:2: a key that is empty"},
        {"[tenon]\n: v\n", "t.ini:2: a key that is empty"},
        {"[tenon]\nK = v\n", "t.ini:2: key \"K\"; expected small letters"},
        {"[tenon]\na b = v\n", "t.ini:2: key \"a b\"; expected small"},
        {"[tenon]\na = 1\na = 2\n", "t.ini:3: key a a second time; expected it once, it stands at t.ini:2"},
        {"[plugin a]\n[tenon]\n[plugin a]\n", "t.ini:3: section [plugin a] a second time; expected it once, it stands at t.ini:1"},
        {"[tenon]\n[tenon]\n", "t.ini:2: section [tenon] a second time"},
        {"[plugni a]\n", "t.ini:1: unknown section [\"plugni\"]; expected [tenon], [plugin NAME] or [model NAME], nearest: plugin"},
        {"[]\n", "t.ini:1: unknown section [\"\"]"},
        {"[ ]\n", "t.ini:1: unknown section [\"\"]"},
        {"[plugin]\n", "t.ini:1: [plugin] with the name \"\"; expected [a-z]"},
        {"[plugin A]\n", "t.ini:1: [plugin] with the name \"A\""},
        {"[plugin a/b]\n", "t.ini:1: [plugin] with the name \"a/b\""},
        {"[plugin a b]\n", "t.ini:1: [plugin] with the name \"a b\""},
        {"[plugin abcdefghijklmnopqrstuvwxyzabcdefg]\n", "t.ini:1: [plugin] with the name"},
        {"[tenon x]\n", "t.ini:1: [tenon] with the name \"x\"; expected no name"},
        {"[model a\"b]\n", "t.ini:1: [model] with the name"},
        {"[tenon]\na = \x01\n", "t.ini:2: control character 0x01"},
        {"[tenon]\na = \xff\n", "t.ini:2: bytes that are not UTF-8"},
        {"[tenon]\na = \xc2\x85\n", "t.ini:2: control character 0x85"},
        {"[tenon]\r\rk = v\n", "t.ini:1: control character 0x0d"},
        {"\x7f" "ELF\x02", "t.ini:1: control character 0x7f"},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(bad); i++) {
        tn_conf *c = NULL;
        tn_err err = {.text = ""};
        tn_status st = tn_conf_open_text(bad[i].text, strlen(bad[i].text), "t.ini", &c, &err);
        if (st != TN_CONFIG || strncmp(err.text, bad[i].want, strlen(bad[i].want)) != 0)
            fail_msg("%s: status %d: %s", bad[i].text, st, err.text);
        assert_null(c);
    }
}

static void a_nul_is_no_text(void **state)
{
    static const char text[] = "[tenon]\nlog_level = in\0fo\n";
    tn_conf *c;
    tn_err err;
    (void)state;
    assert_int_equal(tn_conf_open_text(text, sizeof text - 1, "t.ini", &c, &err), TN_CONFIG);
    assert_string_equal(err.text, "t.ini:2: control character 0x00; expected text");
}

static tn_status open_buf(tn_buf *b, tn_err *err)
{
    tn_conf *c;
    assert_false(b->failed);
    tn_status st = tn_conf_open_text(b->data, b->len, "t.ini", &c, err);
    if (st == TN_OK)
        tn_conf_close(c);
    tn_buf_close(b);
    return st;
}

static void limits(void **state)
{
    tn_buf b;
    tn_err err;
    (void)state;
    for (size_t extra = 0; extra < 2; extra++) { /* a line of 4,096 and of 4,097 bytes */
        tn_buf_open(&b, 1 << 22);
        tn_buf_puts(&b, "[plugin a]\nk = ");
        for (size_t i = 0; i < TN_CONF_LINE_MAX - 4 + extra; i++)
            tn_buf_putc(&b, 'x');
        assert_int_equal(open_buf(&b, &err), extra ? TN_CONFIG : TN_OK);
    }
    assert_string_equal(err.text, "t.ini:2: a line of 4097 bytes; expected at most 4096");
    for (uint32_t extra = 0; extra < 2; extra++) { /* 64 and 65 plugins */
        tn_buf_open(&b, 1 << 22);
        for (uint32_t i = 0; i < TN_CONF_PLUGINS_MAX + extra; i++)
            tn_buf_printf(&b, "[plugin p%u]\n", i);
        assert_int_equal(open_buf(&b, &err), extra ? TN_CONFIG : TN_OK);
    }
    assert_string_equal(err.text, "t.ini:65: one [plugin NAME] too many; expected at most 64");
    for (uint32_t extra = 0; extra < 2; extra++) { /* 512 and 513 keys */
        tn_buf_open(&b, 1 << 22);
        tn_buf_puts(&b, "[plugin a]\n");
        for (uint32_t i = 0; i < 512 + extra; i++)
            tn_buf_printf(&b, "k%u = %u\n", i, i);
        assert_int_equal(open_buf(&b, &err), extra ? TN_CONFIG : TN_OK);
    }
    for (uint32_t extra = 0; extra < 2; extra++) { /* 1 MiB, 1 MiB + 1 */
        tn_buf_open(&b, 1 << 22);
        while (b.len < TN_CONF_FILE_MAX + extra)
            tn_buf_putc(&b, '\n');
        assert_int_equal(open_buf(&b, &err), extra ? TN_CONFIG : TN_OK);
    }
    tn_buf_open(&b, 1 << 22); /* a line of a mebibyte */
    while (b.len < TN_CONF_FILE_MAX)
        tn_buf_putc(&b, 'x');
    assert_int_equal(open_buf(&b, &err), TN_CONFIG);
}

static void long_keys(void **state)
{
    tn_buf b;
    tn_err err;
    (void)state;
    for (size_t n = 62; n < 300; n++) {
        tn_buf_open(&b, 4096);
        tn_buf_puts(&b, "[plugin a]\n");
        for (size_t i = 0; i < n; i++)
            tn_buf_putc(&b, 'k');
        tn_buf_puts(&b, " = v\n");
        assert_int_equal(open_buf(&b, &err), n > TN_OPTION_KEY_MAX ? TN_CONFIG : TN_OK);
    }
    tn_buf_open(&b, 4096); /* blanks do not hide a value */
    tn_buf_puts(&b, "[plugin a]\nk =");
    for (int i = 0; i < 300; i++)
        tn_buf_putc(&b, ' ');
    tn_buf_puts(&b, "v\n");
    assert_int_equal(open_buf(&b, &err), TN_CONFIG);
}

/* I01 */
static void files(void **state)
{
    char dir[] = "/tmp/tenon-conf-XXXXXX", path[64];
    tn_conf *c;
    tn_err err;
    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/none.ini", dir);
    assert_int_equal(tn_conf_open(path, &c, &err), TN_NOINPUT);
    assert_non_null(strstr(err.text, "none.ini: cannot be opened"));
    assert_int_equal(tn_conf_open(dir, &c, &err), TN_CONFIG);
    assert_non_null(strstr(err.text, "not a regular file"));
    snprintf(path, sizeof path, "%s/pipe.ini", dir);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(tn_conf_open(path, &c, &err), TN_CONFIG);
    unlink(path);
    snprintf(path, sizeof path, "%s/big.ini", dir);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs("[plugin a]\nk = v\n", f);
    fclose(f);
    assert_int_equal(tn_conf_open(path, &c, &err), TN_OK);
    assert_string_equal(value(c, "a", "k"), "v");
    tn_conf_close(c);
    assert_int_equal(truncate(path, 1ll << 30), 0); /* a gibibyte of NULs, sparse */
    assert_int_equal(tn_conf_open(path, &c, &err), TN_CONFIG);
    unlink(path);
    rmdir(dir);
}

static void overrides(void **state)
{
    tn_conf *c = opened("[plugin a]\nk = v\n");
    const char *origin;
    tn_err err;
    (void)state;
    assert_int_equal(tn_conf_set(c, TN_CONF_PLUGIN, "a", "k", "w", "command line --k", &err),
                     TN_OK);
    assert_string_equal(tn_conf_get(c, TN_CONF_PLUGIN, "a", "k", &origin), "w");
    assert_string_equal(origin, "command line --k");
    assert_int_equal(tn_conf_set(c, TN_CONF_MODEL, "m", "path", "/m", "command line", &err),
                     TN_OK);
    assert_int_equal(tn_conf_count(c, TN_CONF_MODEL), 1);
    assert_int_equal(tn_conf_set(c, TN_CONF_MODEL, "a b", "path", "/m", "command line", &err),
                     TN_USAGE);
    assert_int_equal(tn_conf_set(c, TN_CONF_MODEL, "m", "path", "\xff", "command line", &err),
                     TN_USAGE);
    tn_conf_close(c);
}

static const tn_option table[] = {
    {.size = sizeof(tn_option), .type = TN_OPT_INT, .key = "port", .fallback = "1", .help = "h"},
    {.size = sizeof(tn_option), .type = TN_OPT_FLOAT, .key = "share", .fallback = "1",
     .help = "h"},
};

static tn_status filled(const tn_conf *c, bool known_only, tn_values **v, tn_err *err)
{
    assert_int_equal(tn_values_open("plugin a", v, err), TN_OK);
    assert_int_equal(tn_values_add(*v, table, COUNT(table), err), TN_OK);
    return tn_conf_fill(c, TN_CONF_PLUGIN, "a", known_only, *v, err);
}

static void filling(void **state)
{
    tn_values *v;
    tn_err err;
    tn_conf *c = opened("[plugin a]\nport = 80\nprot = 81\n");
    (void)state;
    assert_int_equal(filled(c, false, &v, &err), TN_CONFIG);
    assert_string_equal(err.text, "t.ini:3: unknown key \"prot\" in [plugin a]; expected one "
                                  "of its 2 keys, nearest: port");
    tn_values_close(v);
    assert_int_equal(filled(c, true, &v, &err), TN_OK);
    assert_int_equal(tn_values_find(v, "port")->i, 80);
    tn_values_close(v);
    assert_int_equal(tn_conf_set(c, TN_CONF_PLUGIN, "a", "port", "x", "command line --port",
                                 &err), TN_OK);
    assert_int_equal(filled(c, true, &v, &err), TN_USAGE);
    assert_string_equal(err.text, "command line --port: [plugin a] port = \"x\"; expected a "
                                  "whole number");
    tn_values_close(v);
    tn_conf_close(c);
}

static void what_is_printed_reads_back(void **state)
{
    tn_values *v, *again;
    tn_conf *c = opened("[plugin a]\nport = 80\nshare = 0.5\n");
    tn_err err;
    tn_buf b;
    (void)state;
    assert_int_equal(filled(c, false, &v, &err), TN_OK);
    tn_buf_open(&b, 4096);
    tn_values_print(v, &b);
    tn_conf *back = opened(b.data);
    assert_int_equal(filled(back, false, &again, &err), TN_OK);
    assert_int_equal(tn_values_find(again, "port")->i, 80);
    assert_true(tn_values_find(again, "share")->f == 0.5);
    tn_buf_close(&b);
    tn_values_close(v);
    tn_values_close(again);
    tn_conf_close(c);
    tn_conf_close(back);
}

/* I10 */
static void any_locale(void **state)
{
    static const char *const locales[] = {"de_DE.UTF-8", "tr_TR.UTF-8", "C"};
    (void)state;
    for (size_t i = 0; i < COUNT(locales); i++) {
        tn_values *v;
        tn_err err;
        setlocale(LC_ALL, locales[i]);
        tn_conf *c = opened("[plugin a]\nshare = 0.25\n");
        assert_int_equal(filled(c, false, &v, &err), TN_OK);
        assert_true(tn_values_find(v, "share")->f == 0.25);
        tn_values_close(v);
        tn_conf_close(c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_example),
        cmocka_unit_test(shapes_of_files),
        cmocka_unit_test(values_keep_what_they_hold),
        cmocka_unit_test(long_values_come_back_whole),
        cmocka_unit_test(refused),
        cmocka_unit_test(a_nul_is_no_text),
        cmocka_unit_test(limits),
        cmocka_unit_test(long_keys),
        cmocka_unit_test(files),
        cmocka_unit_test(overrides),
        cmocka_unit_test(filling),
        cmocka_unit_test(what_is_printed_reads_back),
        cmocka_unit_test(any_locale),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
