/* SPDX-License-Identifier: Apache-2.0 */
/* test_option.c - numbers, nearest names, option tables, settings and flags. */
#include "buf.h"
#include "flags.h"
#include "nearest.h"
#include "number.h"
#include "option.h"
#include "settings.h"

#include <locale.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#define COUNT(a) (sizeof(a) / sizeof(a)[0])

/* -------------------------------------------------------------------------------- numbers */

static void whole_numbers(void **state)
{
    static const struct {
        const char *text;
        int64_t value;
    } good[] = {{"0", 0}, {"-1", -1}, {"+7", 7}, {"32k", 32000}, {"32K", 32768},
                {"1M", 1048576}, {"25.6k", 25600}, {"0.5K", 512}, {"-2k", -2000},
                {"9223372036854775807", INT64_MAX}, {"-9223372036854775808", INT64_MIN}};
    static const char *const bad[] = {"", " 1", "1 ", "1.5", "0x10", "1e3", "k", "1kk", "1Ki",
        "1KiB", "9223372036854775808", "-9223372036854775809", "99999999999999999999",
        "9000000000000000T", "1,5", "1.", ".5", "--1", "\xd9\xa1", "1.0000001M"};
    (void)state;
    for (size_t i = 0; i < COUNT(good); i++) {
        int64_t v = 99;
        assert_true(tn_number_int(good[i].text, &v));
        assert_true(v == good[i].value);
    }
    for (size_t i = 0; i < COUNT(bad); i++) {
        int64_t v = 99;
        if (tn_number_int(bad[i], &v))
            fail_msg("%s was read as %lld", bad[i], (long long)v);
        assert_true(v == 99);
    }
}

static void sizes(void **state)
{
    static const struct {
        const char *text;
        int64_t value;
    } good[] = {{"0", 0}, {"-0", 0}, {"512", 512}, {"512B", 512}, {"4G", 4294967296},
                {"4GiB", 4294967296}, {"4GB", 4000000000}, {"1.5GiB", 1610612736},
                {"1k", 1000}, {"1kB", 1000}, {"1K", 1024}, {"0.0001K", 0},
                {"8388607T", 9223370937343148032}};
    static const char *const bad[] = {"", "-1", "1GIB", "1Gib", "1 G", "G", "8388608T",
                                      "1P", "1BB", "nan"};
    (void)state;
    for (size_t i = 0; i < COUNT(good); i++) {
        int64_t v = 99;
        assert_true(tn_number_size(good[i].text, &v));
        assert_true(v == good[i].value);
    }
    for (size_t i = 0; i < COUNT(bad); i++) {
        int64_t v = 99;
        if (tn_number_size(bad[i], &v))
            fail_msg("%s was read as %lld", bad[i], (long long)v);
    }
}

static void floats_in_any_locale(void **state)
{
    static const char *const bad[] = {"", "nan", "inf", "0x1p3", "1,5", "1.5 ", " 1", "1e",
                                      "1e+", ".", "1e999", "-", "1.5f"};
    static const char *const locales[] = {"C", "de_DE.UTF-8", "tr_TR.UTF-8"};
    (void)state;
    for (size_t l = 0; l < COUNT(locales); l++) {
        double v = 0;
        setlocale(LC_ALL, locales[l]); /* absent ones stay C: nothing to see then */
        assert_true(tn_number_float("1.5", &v) && v == 1.5);
        assert_true(tn_number_float("-.25e1", &v) && v == -2.5);
        assert_true(tn_number_float("1e-400", &v) && v == 0);
        for (size_t i = 0; i < COUNT(bad); i++)
            if (tn_number_float(bad[i], &v))
                fail_msg("%s was read as %g", bad[i], v);
        bool b = false;
        assert_true(tn_number_bool("TRUE", &b) && b);
        assert_true(tn_number_bool("Off", &b) && !b);
        assert_false(tn_number_bool("oui", &b) || tn_number_bool("", &b));
    }
    setlocale(LC_ALL, "C");
}

/* --------------------------------------------------------------------------- nearest names */

static const char *nearest_of(const char *word)
{
    static const char *const names[] = {"port", "host", "max_model_len", "max_num_seqs"};
    tn_nearest n;
    tn_nearest_open(&n, word);
    for (size_t i = 0; i < COUNT(names); i++)
        tn_nearest_try(&n, names[i]);
    return n.best ? n.best : "";
}

static void nearest_names(void **state)
{
    char monster[5000];
    (void)state;
    assert_string_equal(nearest_of("prot"), "port");
    assert_string_equal(nearest_of("PORT"), "port");
    assert_string_equal(nearest_of("max-model-length"), "max_model_len");
    assert_string_equal(nearest_of("max_nun_seq"), "max_num_seqs");
    assert_string_equal(nearest_of("zzzzzzzz"), "");
    memset(monster, 'a', sizeof monster - 1);
    monster[sizeof monster - 1] = 0;
    assert_string_equal(nearest_of(monster), "");
    assert_int_equal(tn_nearest_distance("kitten", "sitting", 9), 3);
    assert_int_equal(tn_nearest_distance("ab", "ba", 9), 1);
    assert_int_equal(tn_nearest_distance("", "abc", 9), 3);
    assert_int_equal(tn_nearest_distance("abcdef", "ghijkl", 2), 3);
}

/* ---------------------------------------------------------------------------------- tables */

static const char *const colours[] = {"red", "green", NULL};
#define HEAD(t, k, d) .size = sizeof(tn_option), .type = t, .key = k, .fallback = d, .help = "h"
static const tn_option table[] = {
    {HEAD(TN_OPT_INT, "port", "8000"), .least = 1, .greatest = 65535},
    {HEAD(TN_OPT_SIZE, "memory", "1G"), .least = 1048576, .greatest = 1099511627776.0},
    {HEAD(TN_OPT_FLOAT, "share", "0.9"), .least = 0, .greatest = 1},
    {HEAD(TN_OPT_BOOL, "deep", "no")},
    {HEAD(TN_OPT_ENUM, "colour", "red"), .choices = colours},
    {HEAD(TN_OPT_TEXT, "note", "")},
    {HEAD(TN_OPT_LIST, "keys", "")},
};

static tn_values *opened(void)
{
    tn_values *v = NULL;
    tn_err err;
    assert_int_equal(tn_values_open("plugin x", &v, &err), TN_OK);
    assert_int_equal(tn_values_add(v, table, COUNT(table), &err), TN_OK);
    return v;
}

static void values_and_their_rules(void **state)
{
    static const struct {
        const char *key, *value, *want;
    } bad[] = {
        {"port", "70000", "a.ini:3: [plugin x] port = \"70000\"; expected a whole number from 1 to 65535"},
        {"port", "", "a.ini:3: [plugin x] port = \"\"; expected a whole number from 1 to 65535"},
        {"memory", "1K", "a.ini:3: [plugin x] memory = \"1K\"; expected a size such as 512MiB or 4G from 1 MiB to 1 TiB"},
        {"share", "1.5", "a.ini:3: [plugin x] share = \"1.5\"; expected a number from 0 to 1"},
        {"deep", "maybe", "a.ini:3: [plugin x] deep = \"maybe\"; expected yes or no"},
        {"colour", "grene", "a.ini:3: [plugin x] colour = \"grene\"; expected one of red, green (nearest: green)"},
        {"keys", "a,,b", "a.ini:3: [plugin x] keys = \"a,,b\"; expected names with commas between them, none empty"},
        {"prot", "1", "a.ini:3: unknown key \"prot\" in [plugin x]; expected one of its 7 keys, nearest: port"},
    };
    tn_values *v = opened();
    tn_err err;
    (void)state;
    for (size_t i = 0; i < COUNT(bad); i++) {
        assert_int_equal(tn_values_set(v, bad[i].key, bad[i].value, "a.ini:3", TN_CONFIG, &err),
                         TN_CONFIG);
        assert_string_equal(err.text, bad[i].want);
    }
    assert_int_equal(tn_values_find(v, "port")->i, 8000);
    assert_null(tn_values_find(v, "port")->origin);
    assert_int_equal(tn_values_set(v, "port", "9k", "a.ini:3", TN_CONFIG, &err), TN_OK);
    assert_int_equal(tn_values_find(v, "port")->i, 9000);
    assert_string_equal(tn_values_find(v, "port")->origin, "a.ini:3");
    assert_int_equal(tn_values_set(v, "keys", " a , b c,d ", "x", TN_CONFIG, &err), TN_OK);
    const tn_value *keys = tn_values_find(v, "keys");
    assert_int_equal(keys->count, 3);
    assert_string_equal(keys->item[0], "a");
    assert_string_equal(keys->item[1], "b c");
    assert_string_equal(keys->item[2], "d");
    assert_int_equal(tn_values_set(v, "deep", "yes", "x", TN_CONFIG, &err), TN_OK);
    assert_int_equal(tn_values_find(v, "deep")->i, 1);
    tn_values_close(v);
}

static void printing(void **state)
{
    tn_values *v = opened();
    tn_err err;
    tn_buf b;
    (void)state;
    tn_values_set(v, "port", "80", "a.ini:3", TN_CONFIG, &err);
    tn_values_set(v, "note", "a ; b", "command line --note", TN_CONFIG, &err);
    tn_buf_open(&b, 4096);
    tn_values_print(v, &b);
    assert_string_equal(b.data, "[plugin x]\n"
                                "port = 80 ; from a.ini:3\n"
                                "memory = 1G ; from default\n"
                                "share = 0.9 ; from default\n"
                                "deep = no ; from default\n"
                                "colour = red ; from default\n"
                                "; note from command line --note holds what an INI cannot: "
                                "\"a ; b\"\n"
                                "keys =  ; from default\n");
    tn_buf_close(&b);
    tn_values_close(v);
}

/* A table of a newer author: each element is longer than ours. */
typedef struct wide_option {
    tn_option o;
    uint64_t more;
} wide_option;

static void tables_step_by_their_own_size(void **state)
{
    wide_option w[2] = {{table[0], ~0ull}, {table[3], ~0ull}};
    tn_err err;
    (void)state;
    w[0].o.size = w[1].o.size = sizeof(wide_option);
    assert_int_equal(tn_option_check(&w[0].o, 2, NULL, "x", &err), TN_OK);
    assert_string_equal(tn_option_at(&w[0].o, 1).key, "deep");
}

static void bad_tables(void **state)
{
    static const char *const reserved[] = {"file", NULL};
    static const char *const none[] = {NULL};
    static const tn_option bad[] = {
        {HEAD(TN_OPT_INT, NULL, "1")}, {HEAD(TN_OPT_INT, "", "1")},
        {HEAD(TN_OPT_INT, "Port", "1")}, {HEAD(TN_OPT_INT, "a-b", "1")},
        {HEAD(TN_OPT_INT, "file", "1")}, {HEAD(TN_OPT_INT, "a", NULL)},
        {HEAD(TN_OPT_INT, "a", "x")}, {HEAD(TN_OPT_INT, "a", "5"), .least = 6, .greatest = 9},
        {HEAD(TN_OPT_INT, "a", "7"), .least = 9, .greatest = 6},
        {HEAD(TN_OPT_FLOAT, "a", "7"), .least = NAN, .greatest = 6},
        {HEAD(0, "a", "1")}, {HEAD(9, "a", "1")}, {HEAD(TN_OPT_ENUM, "a", "red")},
        {HEAD(TN_OPT_ENUM, "a", "blue"), .choices = colours},
        {HEAD(TN_OPT_ENUM, "a", "red"), .choices = none},
        {.size = sizeof(tn_option), .type = TN_OPT_INT, .key = "a", .fallback = "1"},
        {.size = 8, .type = TN_OPT_INT, .key = "a", .fallback = "1", .help = "h"},
    };
    const tn_option twice[] = {table[0], table[0]};
    tn_err err;
    (void)state;
    for (size_t i = 0; i < COUNT(bad); i++) {
        if (tn_option_check(&bad[i], 1, reserved, "x", &err) != TN_UNAVAILABLE)
            fail_msg("bad table %zu passed", i);
        assert_memory_equal(err.text, "x: ", 3);
    }
    assert_int_equal(tn_option_check(twice, 2, NULL, "x", &err), TN_UNAVAILABLE);
    assert_int_equal(tn_option_check(NULL, 2, NULL, "x", &err), TN_UNAVAILABLE);
    assert_int_equal(tn_option_check(table, 1000000, NULL, "x", &err), TN_UNAVAILABLE);
    assert_int_equal(tn_option_check(table, COUNT(table), reserved, "x", &err), TN_OK);
    assert_int_equal(tn_option_check(NULL, 0, NULL, "x", &err), TN_OK);
}

static void our_own_tables(void **state)
{
    uint32_t n;
    tn_err err;
    (void)state;
    const tn_option *t = tn_model_options(&n);
    if (tn_option_check(t, n, NULL, "model", &err) != TN_OK)
        fail_msg("%s", err.text);
    t = tn_settings_options(&n);
    if (tn_option_check(t, n, NULL, "tenon", &err) != TN_OK)
        fail_msg("%s", err.text);
}

/* ----------------------------------------------------------------------------------- flags */

static const tn_flag own[] = {{"print-config", "-P", 0, "h"}, {"prompt", NULL, 1, "h"}};
static const tn_option device_table[] = {{HEAD(TN_OPT_INT, "threads", "0")},
                                         {HEAD(TN_OPT_BOOL, "pin", "no")}};
static const tn_option front_table[] = {{HEAD(TN_OPT_INT, "port", "8000")},
                                        {HEAD(TN_OPT_INT, "threads", "0")},
                                        {HEAD(TN_OPT_LIST, "api_key", "")},
                                        {HEAD(TN_OPT_TEXT, "tool_call_parser", "")}};
static const tn_flag_source sources[] = {{TN_KIND_DEVICE, "dev", device_table, 2},
                                         {TN_KIND_FRONT, "web", front_table, 4}};
static const tn_flag_source two_fronts[] = {{TN_KIND_FRONT, "web", front_table, 4},
                                            {TN_KIND_FRONT, "net", front_table, 4}};

/* Parses up to 15 words (NULL ends), applies, returns the status. */
static tn_status given(const char *const *words, const tn_flag_source *s, uint32_t ns,
                       tn_flags **f, tn_conf **c, tn_err *err)
{
    char *argv[16];
    int argc = 0;
    for (; words[argc] != NULL && argc < 15; argc++)
        argv[argc] = (char *)(uintptr_t)words[argc];
    *f = NULL;
    *c = NULL;
    tn_status st = tn_flags_parse(argc, argv, own, COUNT(own), s, ns, f, err);
    if (st != TN_OK)
        return st;
    assert_int_equal(tn_conf_new(c, err), TN_OK);
    return tn_flags_apply(*f, *c, err);
}

typedef struct flag_case {
    const char *words[8];
    uint32_t kind;
    const char *section, *key, *value;
} flag_case;

static void flags_reach_their_keys(void **state)
{
    static const flag_case cases[] = {
        {{"--max-model-len", "32k"}, TN_CONF_MODEL, "default", "max_model_len", "32k"},
        {{"--max_model_len=8192"}, TN_CONF_MODEL, "default", "max_model_len", "8192"},
        {{"--max-model-len", "auto"}, TN_CONF_MODEL, "default", "max_model_len", "0"},
        {{"--max-model-len", "-1"}, TN_CONF_MODEL, "default", "max_model_len", "-1"},
        {{"-tp", "4"}, TN_CONF_MODEL, "default", "tensor_parallel_size", "4"},
        {{"--tensor-parallel-size=2"}, TN_CONF_MODEL, "default", "tensor_parallel_size", "2"},
        {{"-q", "awq"}, TN_CONF_MODEL, "default", "quant", "awq"},
        {{"--model", "/m"}, TN_CONF_MODEL, "default", "path", "/m"},
        {{"--no-enable-prefix-caching"}, TN_CONF_MODEL, "default", "prefix_caching", "no"},
        {{"--prefix-caching"}, TN_CONF_MODEL, "default", "prefix_caching", "yes"},
        {{"--prefix-caching=off"}, TN_CONF_MODEL, "default", "prefix_caching", "no"},
        {{"--no-prefix-caching", "no"}, TN_CONF_MODEL, "default", "prefix_caching", "yes"},
        {{"--cpu-exact"}, TN_CONF_MODEL, "default", "exact", "yes"},
        {{"--served-model-name", "a", "b", "--seed", "-5"}, TN_CONF_MODEL, "default",
         "served_name", "a,b"},
        {{"--seed", "1", "--seed", "2"}, TN_CONF_MODEL, "default", "seed", "2"},
        {{"--log-level", "debug"}, TN_CONF_TENON, "", "log_level", "debug"},
        {{"--port", "9"}, TN_CONF_PLUGIN, "web", "port", "9"},
        {{"--web.threads", "9"}, TN_CONF_PLUGIN, "web", "threads", "9"},
        {{"--threads", "3"}, TN_CONF_PLUGIN, "dev", "threads", "3"},
        {{"--dev.no-such", "3"}, 9, NULL, NULL, "unknown flag"},
        {{"--pin"}, TN_CONF_PLUGIN, "dev", "pin", "yes"},
        {{"--no-pin"}, TN_CONF_PLUGIN, "dev", "pin", "no"},
        {{"--api-key", "a", "--api-key=b"}, TN_CONF_PLUGIN, "web", "api_key", "a,b"},
        {{"--api-key", "[\"x\", \"y\"]"}, TN_CONF_PLUGIN, "web", "api_key", "x,y"},
        {{"--tool-call-parser", "hermes"}, TN_CONF_PLUGIN, "web", "tool_call_parser", "hermes"},
        {{"--override-generation-config.top-p", "0.5",
          "--override-generation-config.stop", "x"}, TN_CONF_MODEL, "default",
         "override_generation_config", "{\"top_p\": 0.5, \"stop\": \"x\"}"},
        {{"--speculative-config", "{\"method\": \"mtp\"}"}, TN_CONF_MODEL, "default",
         "speculative_config", "{\"method\": \"mtp\"}"},
        {{"--speculative_config={}"}, TN_CONF_MODEL, "default", "speculative_config", "{}"},
        {{"-sc", "{}"}, TN_CONF_MODEL, "default", "speculative_config", "{}"},
        {{"--speculative-config.method", "mtp", "--speculative-config.num_speculative_tokens",
          "2"}, TN_CONF_MODEL, "default", "speculative_config",
         "{\"method\": \"mtp\", \"num_speculative_tokens\": 2}"},
        {{"--pipeline-parallel-size", "1"}, 8, NULL, NULL, NULL},
        {{"-pp", "2"}, 9, NULL, NULL, "expected 1"},
        {{"--enable-lora"}, 9, NULL, NULL, "LoRA"},
        {{"--max-modle-len", "1"}, 9, NULL, NULL, "--max-model-len"},
        {{"--prot", "1"}, 9, NULL, NULL, "--port"},
        {{"--port"}, 9, NULL, NULL, "wants a value"},
        {{"--port", "--pin"}, 9, NULL, NULL, "wants a value"},
        {{"--print-config=1"}, 9, NULL, NULL, "takes no value"},
        {{"--no-print-config"}, 9, NULL, NULL, "unknown flag"},
        {{"-Z"}, 9, NULL, NULL, "unknown flag"},
        {{"--host", "0.0.0.0"}, 9, NULL, NULL, "unknown flag"},
        {{"--pin=perhaps"}, 9, NULL, NULL, "yes or no"},
        {{"--seed", "1", "--", "--seed", "2"}, TN_CONF_MODEL, "default", "seed", "1"},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        const flag_case *k = &cases[i];
        tn_flags *f;
        tn_conf *c;
        tn_err err = {.text = ""};
        tn_status st = given(k->words, sources, COUNT(sources), &f, &c, &err);
        if (k->kind == 9) {
            if (st != TN_USAGE || strstr(err.text, k->value) == NULL)
                fail_msg("%s: status %d, %s", k->words[0], st, err.text);
        } else {
            if (st != TN_OK)
                fail_msg("%s: %s", k->words[0], err.text);
            const char *v = k->kind == 8 ? NULL
                : tn_conf_get(c, k->kind, k->section, k->key, NULL);
            if (k->kind != 8 && (v == NULL || strcmp(v, k->value) != 0))
                fail_msg("%s: %s", k->words[0], v ? v : "not set");
        }
        tn_flags_close(f);
        tn_conf_close(c);
    }
}

static void flags_and_words(void **state)
{
    static const char *const words[] = {"/models/a", "--prompt", "hi there", "-P",
        "--enforce-eager", "--swap-space", "4", "-O3", "--no-enable-chunked-prefill",
        "--compilation-config.mode", "3", "-", "--", "--x", NULL};
    tn_flags *f;
    tn_conf *c;
    tn_err err;
    (void)state;
    tn_status st = given(words, sources, COUNT(sources), &f, &c, &err);
    if (st != TN_OK)
        fail_msg("%s", err.text);
    assert_int_equal(f->nword, 3);
    assert_string_equal(f->word[0], "/models/a");
    assert_string_equal(f->word[1], "-");
    assert_string_equal(f->word[2], "--x");
    assert_string_equal(tn_flags_value(f, "prompt"), "hi there");
    assert_string_equal(tn_flags_value(f, "print-config"), "");
    assert_int_equal(f->nwarning, 5);
    assert_string_equal(f->warning[0],
                        "command line: --enforce-eager is accepted and has no effect here");
    tn_flags_close(f);
    tn_conf_close(c);
}

static void flags_of_two_plugins(void **state)
{
    static const char *const both[] = {"--port", "1", NULL};
    static const char *const one[] = {"--net.port", "1", NULL};
    tn_flags *f;
    tn_conf *c;
    tn_err err;
    (void)state;
    assert_int_equal(given(both, two_fronts, 2, &f, &c, &err), TN_USAGE);
    assert_non_null(strstr(err.text, "--web.port or --net.port"));
    assert_int_equal(given(one, two_fronts, 2, &f, &c, &err), TN_OK);
    assert_string_equal(tn_conf_get(c, TN_CONF_PLUGIN, "net", "port", NULL), "1");
    assert_null(tn_conf_get(c, TN_CONF_PLUGIN, "web", "port", NULL));
    tn_flags_close(f);
    tn_conf_close(c);
}

static void flags_before_loading(void **state)
{
    char *argv[] = {"serve", "--configs", "x", "--config", "a.ini", "--config=b.ini", "--",
                    "--config", "c"};
    char *last[] = {"--config"}, *under[] = {"--log_level=warn"};
    (void)state;
    assert_string_equal(tn_flags_early(9, argv, "config"), "b.ini");
    assert_string_equal(tn_flags_early(5, argv, "config"), "a.ini");
    assert_null(tn_flags_early(3, argv, "config"));
    assert_null(tn_flags_early(1, last, "config"));
    assert_string_equal(tn_flags_early(1, under, "log-level"), "warn");
}

static void flags_write_over_the_ini(void **state)
{
    static const char ini[] = "[model a]\npath = /a\nseed = 1\n[model b]\npath = /b\n";
    char *argv[] = {"--seed", "7"};
    tn_conf *c;
    tn_flags *f;
    tn_err err;
    tn_model_settings s;
    (void)state;
    assert_int_equal(tn_conf_open_text(ini, sizeof ini - 1, "t.ini", &c, &err), TN_OK);
    assert_int_equal(tn_flags_parse(2, argv, NULL, 0, NULL, 0, &f, &err), TN_OK);
    assert_int_equal(tn_flags_apply(f, c, &err), TN_OK);
    assert_int_equal(tn_model_settings_open(c, "a", &s, &err), TN_OK);
    assert_int_equal(s.seed, 7);
    assert_string_equal(s.path, "/a");
    assert_string_equal(tn_values_find(s.values, "seed")->origin, "command line --seed");
    assert_string_equal(tn_values_find(s.values, "path")->origin, "t.ini:2");
    tn_model_settings_close(&s);
    assert_int_equal(tn_flags_set_model("/c", c, &err), TN_USAGE);
    tn_flags_close(f);
    tn_conf_close(c);
}

static void help_names_some(void **state)
{
    static const char *const only[] = {"port", "max_model_len", "nothing", "log_format", NULL};
    tn_buf b;
    (void)state;
    tn_buf_open(&b, 1 << 16);
    tn_flags_help_keys(sources, COUNT(sources), only, &b);
    assert_true(strncmp(b.data, "  --port V\n", 11) == 0);
    assert_non_null(strstr(b.data, "]\n  --max-model-len V\n"));
    assert_non_null(strstr(b.data, "]\n  --log-format text|json\n"));
    assert_null(strstr(b.data, "keys of"));
    assert_null(strstr(b.data, "prefix-caching"));
    tn_buf_close(&b);
}

static void help_names_everything(void **state)
{
    tn_buf b;
    (void)state;
    tn_buf_open(&b, 1 << 16);
    tn_flags_help(own, COUNT(own), &b);
    assert_null(strstr(b.data, "--max-model-len"));
    tn_flags_help_keys(sources, COUNT(sources), NULL, &b);
    assert_non_null(strstr(b.data, "--print-config, -P"));
    assert_non_null(strstr(b.data, "--max-model-len V"));
    assert_non_null(strstr(b.data, "  --[no-]prefix-caching\n"));
    assert_non_null(strstr(b.data, "  --log-format text|json\n"));
    assert_non_null(strstr(b.data, "options of [plugin web]:\n  --port V\n        h [8000]\n"));
    tn_buf_close(&b);
}

/* -------------------------------------------------------------------------------- settings */

static void settings_as_structs(void **state)
{
    static const char ini[] = "[tenon]\nplugin_path = /a, /b\nlog_level = debug\n"
        "log_format = json\n[model m]\npath = /m\ndtype = half\nmax_model_len = 8K\n"
        "memory = 6GiB\nserved_name = x, y\nhead = int8\nmax_num_seqs = 8\n"
        "kv_cache_dtype = float32\n";
    tn_conf *c;
    tn_err err;
    tn_settings t;
    tn_model_settings m;
    (void)state;
    assert_int_equal(tn_conf_open_text(ini, sizeof ini - 1, "t.ini", &c, &err), TN_OK);
    assert_int_equal(tn_settings_open(c, &t, &err), TN_OK);
    assert_int_equal(t.nplugin_path, 2);
    assert_string_equal(t.plugin_path[1], "/b");
    assert_int_equal(t.log_level, TN_LOG_DEBUG);
    assert_true(t.log_json);
    assert_int_equal(tn_model_settings_open(c, "m", &m, &err), TN_OK);
    assert_int_equal(m.dtype, TN_F16);
    assert_int_equal(m.kv_cache_dtype, TN_F32);
    assert_int_equal(m.max_model_len, 8192);
    assert_true(m.memory == 6442450944ull);
    assert_int_equal(m.nserved_name, 2);
    assert_true(m.head_int8 && !m.dense_int8 && m.prefix_caching && !m.exact);
    assert_int_equal(m.queue, 32);
    assert_string_equal(m.quant, "auto");
    tn_settings_close(&t);
    tn_model_settings_close(&m);
    tn_conf_close(c);
}

static void settings_refused(void **state)
{
    static const struct {
        const char *ini, *want;
    } bad[] = {
        {"[tenon]\nplugin_path = lib\n", "t.ini:2: [tenon] plugin_path holds lib"},
        {"[tenon]\nlog_level = loud\n", "t.ini:2: [tenon] log_level = \"loud\"; expected one of"},
        {"[tenon]\nlog_lvel = info\n", "t.ini:2: unknown key \"log_lvel\" in [tenon]"},
    };
    tn_conf *c;
    tn_err err;
    tn_settings t;
    (void)state;
    for (size_t i = 0; i < COUNT(bad); i++) {
        assert_int_equal(tn_conf_open_text(bad[i].ini, strlen(bad[i].ini), "t.ini", &c, &err),
                         TN_OK);
        assert_int_equal(tn_settings_open(c, &t, &err), TN_CONFIG);
        if (strncmp(err.text, bad[i].want, strlen(bad[i].want)) != 0)
            fail_msg("%s", err.text);
        tn_conf_close(c);
    }
}

typedef struct speculative_case {
    const char *ini;             /* lines of [model m] */
    int64_t drafts;              /* 0: refused */
    const char *want;            /* the draft_path, or a part of the refusal */
} speculative_case;

static void drafting_as_others_say_it(void **state)
{
    static const speculative_case cases[] = {
        {"speculative_config = {\"method\": \"mtp\", \"num_speculative_tokens\": 3}", 3, ""},
        {"speculative_config = {\"method\": \"qwen3_next_mtp\"}", 1, ""},
        {"speculative_config = {\"model\": \"/m t p\", \"num_speculative_tokens\": 2}", 2, "/m t p"},
        {"speculative_config = {\"method\": \"mtp\", \"draft_tensor_parallel_size\": 1}", 1, ""},
        {"drafts = 2\nspeculative_config = {\"method\": \"mtp\", \"num_speculative_tokens\": 2}", 2,
         ""},
        {"drafts = 1\nspeculative_config = {\"method\": \"mtp\", \"num_speculative_tokens\": 2}", 0,
         "says \"2\" where drafts is \"1\" (t.ini:2); expected one of them"},
        {"draft_path = /a\nspeculative_config = {\"model\": \"/b\"}", 0, "draft_path"},
        {"speculative_config = {\"method\": \"ngram\", \"num_speculative_tokens\": 2}", 0,
         "t.ini:2: [model m] speculative_config: method \"ngram\" is not offered; expected mtp or "
         "qwen3_next_mtp"},
        {"speculative_config = {\"method\": \"draft_model\", \"model\": \"/b\"}", 0, "\"draft_model\""},
        {"speculative_config = {\"num_speculative_tokens\": 2}", 0, "neither method nor model"},
        {"speculative_config = {\"method\": \"mtp\", \"num_speculative_tokens\": 5}", 0,
         "num_speculative_tokens: 5; expected 1 to 4"},
        {"speculative_config = {\"method\": \"mtp\", \"num_speculative_tokens\": 0}", 0, "0; expected"},
        {"speculative_config = {\"method\": \"mtp\", \"num_speculative_tokens\": \"2\"}", 0,
         "an integer"},
        {"speculative_config = {\"method\": 1}", 0, "method"},
        {"speculative_config = {\"methud\": \"mtp\"}", 0, "unknown member \"methud\""},
        {"speculative_config = [1]", 0, "no JSON object"},
        {"speculative_config = {\"method\": ", 0, "speculative_config"},
        {"speculative_config = mtp", 0, "speculative_config"},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        char ini[512];
        tn_conf *c;
        tn_err err;
        tn_model_settings m;
        snprintf(ini, sizeof ini, "[model m]\n%s\n", cases[i].ini);
        assert_int_equal(tn_conf_open_text(ini, strlen(ini), "t.ini", &c, &err), TN_OK);
        tn_status st = tn_model_settings_open(c, "m", &m, &err);
        if (cases[i].drafts == 0) {
            if (st != TN_CONFIG || strstr(err.text, cases[i].want) == NULL)
                fail_msg("%s: status %d, %s", cases[i].ini, st, st != TN_OK ? err.text : "");
        } else {
            if (st != TN_OK)
                fail_msg("%s: %s", cases[i].ini, err.text);
            assert_int_equal(m.drafts, cases[i].drafts);
            assert_string_equal(m.draft_path, cases[i].want);
            assert_non_null(tn_values_find(m.values, "drafts")->origin);
            tn_model_settings_close(&m);
        }
        tn_conf_close(c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whole_numbers),
        cmocka_unit_test(sizes),
        cmocka_unit_test(floats_in_any_locale),
        cmocka_unit_test(nearest_names),
        cmocka_unit_test(values_and_their_rules),
        cmocka_unit_test(printing),
        cmocka_unit_test(tables_step_by_their_own_size),
        cmocka_unit_test(bad_tables),
        cmocka_unit_test(our_own_tables),
        cmocka_unit_test(drafting_as_others_say_it),
        cmocka_unit_test(flags_reach_their_keys),
        cmocka_unit_test(flags_and_words),
        cmocka_unit_test(flags_of_two_plugins),
        cmocka_unit_test(flags_before_loading),
        cmocka_unit_test(flags_write_over_the_ini),
        cmocka_unit_test(help_names_some), cmocka_unit_test(help_names_everything),
        cmocka_unit_test(settings_as_structs),
        cmocka_unit_test(settings_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
