/* SPDX-License-Identifier: Apache-2.0 */
/* test_wall.c - the life of plugins and what the host lends them. */
#include "buf.h"
#include "conf.h"
#include "flags.h"
#include "log.h"
#include "makeso.h"
#include "metric.h"
#include "wall.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define COUNT(a) (sizeof(a) / sizeof(a)[0])

static char dir[] = "/tmp/tenon-wall-XXXXXX";

/* A plugin that writes down what happens to it, in the file its option `diary` names. */
static const char diary_source[] =
    "#include <tenon/plugin.h>\n"
    "#include <stdlib.h>\n"
    "typedef struct me { const tn_host *h; FILE *f; } me;\n"
    "static tn_status probe(const tn_host *h, tn_err *err)\n"
    "{ return h->opt_int(h->ctx, \"probe\") ? TN_OK : tn_fail(err, TN_UNSUPPORTED, \"no\"); }\n"
    "static tn_status init(const tn_host *h, void **self, tn_err *err)\n"
    "{\n"
    "    if (h->opt_int(h->ctx, \"fail\") == 1) return tn_fail(err, TN_NOPERM, \"told to\");\n"
    "    me *m = h->alloc(h->ctx, sizeof *m);\n"
    "    m->h = h;\n"
    "    m->f = fopen(h->opt_text(h->ctx, \"diary\"), \"a\");\n"
    "    fprintf(m->f, \"init \" NAME \"\\n\"); fflush(m->f);\n"
    "    *self = m; return TN_OK;\n"
    "}\n"
    "static tn_status start(void *self, tn_err *err)\n"
    "{\n"
    "    me *m = self;\n"
    "    if (m->h->opt_int(m->h->ctx, \"fail\") == 2) return tn_fail(err, TN_OS, \"told to\");\n"
    "    fprintf(m->f, \"start \" NAME \"\\n\"); fflush(m->f); return TN_OK;\n"
    "}\n"
    "static tn_status drain(void *self, uint32_t ms, tn_err *err)\n"
    "{ me *m = self; fprintf(m->f, \"drain \" NAME \" %u\\n\", ms); fflush(m->f);\n"
    "  return m->h->opt_int(m->h->ctx, \"fail\") == 3 ? TN_CUT : TN_OK; }\n"
    "static void stop(void *self)\n"
    "{ me *m = self; fprintf(m->f, \"stop \" NAME \"\\n\"); fclose(m->f);\n"
    "  m->h->release(m->h->ctx, m); }\n"
    "static const char *address(void *self)\n"
    "{ return ((me *)self)->h->front ? \"front\" : \"none\"; }\n"
    "static uint32_t claims(void *self, const tn_view *v, tn_err *why) { return 7; }\n"
    "static tn_status other() { return TN_OK; }\n"
    "#define OPT(t, k, d) {.size = sizeof(tn_option), .type = t, .key = k, .fallback = d, .help = \"h\"}\n"
    "static const tn_option options[] = {OPT(TN_OPT_PATH, \"diary\", \"\"), OPT(TN_OPT_INT, \"fail\", \"0\"),\n"
    "    OPT(TN_OPT_BOOL, \"probe\", \"yes\")};\n"
    "static const tn_quant quant = {.size = sizeof quant, .claims = claims, .form_of = (void *)other,\n"
    "    .cut = (void *)other, .read = (void *)other};\n"
    "static const tn_front front = {.size = sizeof front, .address = address};\n"
    "const tn_plugin tn_plugin_entry = {.abi_major = 1, .size = sizeof(tn_plugin), .kind = KIND,\n"
    "    .name = NAME, .version = \"1.2\", .summary = \"Keeps a diary.\", .options = options,\n"
    "    .noption = 3, .table = KIND == TN_KIND_FRONT ? (const void *)&front : &quant,\n"
    "    .probe = probe, .init = init, .start = start, .drain = drain, .stop = stop};\n";

/* Uses everything the host lends; speaks through `claims`, whose text it fills. */
static const char user_source[] =
    "#include <tenon/plugin.h>\n"
    "typedef struct me { const tn_host *h; char said[900]; } me;\n"
    "static me one;\n"
    "static tn_status init(const tn_host *h, void **self, tn_err *err)\n"
    "{\n"
    "    one.h = h; *self = &one;\n"
    "    tn_json_doc *doc; tn_err e;\n"
    "    char *a = h->alloc(h->ctx, 100), *b = h->alloc(h->ctx, 0);\n"
    "    int aligned = a && b && (uintptr_t)a % 64 == 0 && (uintptr_t)b % 64 == 0 && a != b;\n"
    "    memset(a, 1, 100);\n"
    "    h->release(h->ctx, b); h->release(h->ctx, NULL);\n"
    "    void *huge = h->alloc(h->ctx, UINT64_MAX - 5);\n"
    "    uint32_t c = h->metric(h->ctx, TN_METRIC_COUNTER, \"user_things\", \"Things.\", \"k=\\\"v\\\"\", NULL, 0);\n"
    "    uint32_t bad = h->metric(h->ctx, TN_METRIC_COUNTER, \"no name\", \"\", NULL, NULL, 0);\n"
    "    h->metric_put(h->ctx, c, 3); h->metric_put(h->ctx, bad, 3);\n"
    "    tn_status j = h->json_open(h->ctx, \"{\\\"a\\\": [1, 2]}\", 13, \"test\", 8, &doc, &e);\n"
    "    int n = j ? -1 : (int)tn_json_find(h->json_root(h->ctx, doc), \"a\")->count;\n"
    "    if (!j) h->json_close(h->ctx, doc);\n"
    "    tn_status k = h->json_open(h->ctx, \"{\", 1, \"test\", 8, &doc, &e);\n"
    "    h->log(h->ctx, TN_LOG_WARN, \"two\\nlines\"); h->log(h->ctx, 99, NULL);\n"
    "    uint64_t t = h->clock(h->ctx);\n"
    "    snprintf(one.said, sizeof one.said, \"%d %d %d %d %d %s|%g|%lld|%lld|%u|%s|%s|%lld|%s\", aligned,\n"
    "        huge == NULL, n, k != TN_OK, t > 0 && h->clock(h->ctx) >= t, h->opt_text(h->ctx, \"word\"),\n"
    "        h->opt_float(h->ctx, \"share\"), (long long)h->opt_int(h->ctx, \"room\"),\n"
    "        (long long)h->opt_int(h->ctx, \"deep\"), h->opt_count(h->ctx, \"names\"),\n"
    "        h->opt_item(h->ctx, \"names\", 1), h->opt_item(h->ctx, \"names\", 9),\n"
    "        (long long)h->opt_int(h->ctx, \"no_such\"), h->opt_text(h->ctx, \"share\"));\n"
    "    h->release(h->ctx, a + 64);\n"
    "    return TN_OK;\n"
    "}\n"
    "static tn_status start(void *self, tn_err *err) { return TN_OK; }\n"
    "static void stop(void *self) { }\n"
    "static uint32_t claims(void *self, const tn_view *v, tn_err *why)\n"
    "{ snprintf(why->text, sizeof why->text, \"%s\", one.said); return 0; }\n"
    "static tn_status other() { return TN_OK; }\n"
    "#define OPT(t, k, d) {.size = sizeof(tn_option), .type = t, .key = k, .fallback = d, .help = \"h\"}\n"
    "static const tn_option options[] = {OPT(TN_OPT_TEXT, \"word\", \"w\"), OPT(TN_OPT_FLOAT, \"share\", \"0.5\"),\n"
    "    OPT(TN_OPT_SIZE, \"room\", \"1K\"), OPT(TN_OPT_BOOL, \"deep\", \"yes\"), OPT(TN_OPT_LIST, \"names\", \"a, b\")};\n"
    "static const tn_quant quant = {.size = sizeof quant, .claims = claims, .form_of = (void *)other,\n"
    "    .cut = (void *)other, .read = (void *)other};\n"
    "const tn_plugin tn_plugin_entry = {.abi_major = 1, .size = sizeof(tn_plugin), .kind = 1,\n"
    "    .name = \"user\", .version = \"1\", .summary = \"Uses the host.\", .options = options,\n"
    "    .noption = 5, .table = &quant, .init = init, .start = start, .stop = stop};\n";

/* An author of a later version: longer structs, in which our part means the same. */
static const char newer_source[] =
    "#include <tenon/plugin.h>\n"
    "static uint32_t claims(void *self, const tn_view *v, tn_err *why) { return 42; }\n"
    "static tn_status other() { return TN_OK; }\n"
    "static struct { tn_quant q; void *more[8]; } const quant = {.q = {.size = sizeof quant,\n"
    "    .nmultiply = 2, .claims = claims, .form_of = (void *)other, .cut = (void *)other,\n"
    "    .read = (void *)other, .multiply = 0}};\n"
    "typedef struct wide { tn_multiply m; uint64_t more[3]; } wide;\n"
    "static const wide many[] = {{{sizeof(wide), 0, \"cpu\", (void *)claims}}, {{sizeof(wide), 0, \"cuda\", (void *)claims}}};\n"
    "static struct { tn_quant q; void *more[8]; } const quant2 = {.q = {.size = sizeof quant2,\n"
    "    .nmultiply = 2, .claims = claims, .form_of = (void *)other, .cut = (void *)other,\n"
    "    .read = (void *)other, .multiply = &many[0].m}};\n"
    "static tn_status init(const tn_host *h, void **self, tn_err *err) { return TN_OK; }\n"
    "static tn_status start(void *self, tn_err *err) { return TN_OK; }\n"
    "static void stop(void *self) { }\n"
    "static const struct { tn_plugin p; void *more[16]; } whole = {{0}};\n"
    "const tn_plugin tn_plugin_entry = {.abi_major = 1, .size = sizeof(tn_plugin), .kind = 1,\n"
    "    .name = \"newer\", .version = \"1\", .summary = \"s\", .table = &quant2.q, .init = init,\n"
    "    .start = start, .stop = stop};\n";

static void make(const char *name, const char *source, const char *flags)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s.c", dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(source, f);
    fclose(f);
    if (make_so(dir, name, path, flags) != 0)
        fail_msg("%s could not be built; is there a compiler in $CC or as cc?", name);
}

typedef struct room {
    tn_log *log;
    tn_metrics *metrics;
    tn_wall *wall;
    tn_conf *conf;
    int logged;  /* file */
} room;

static void room_open(room *r, const char *ini)
{
    tn_err err;
    char path[256];
    char *folder[1] = {dir};
    snprintf(path, sizeof path, "%s/log", dir);
    r->logged = open(path, O_RDWR | O_CREAT | O_TRUNC | O_APPEND, 0600);
    snprintf(path, sizeof path, "%s/diary", dir);
    unlink(path);
    assert_int_equal(tn_log_open(r->logged, TN_LOG_DEBUG, false, &r->log, &err), TN_OK);
    assert_int_equal(tn_metrics_open(&r->metrics, &err), TN_OK);
    assert_int_equal(tn_wall_open(r->log, r->metrics, NULL, &r->wall, &err), TN_OK);
    assert_int_equal(tn_wall_set_path(r->wall, folder, 1, &err), TN_OK);
    if (tn_conf_open_text(ini, strlen(ini), "t.ini", &r->conf, &err) != TN_OK)
        fail_msg("%s", err.text);
}

static void room_close(room *r)
{
    tn_wall_close(r->wall);
    tn_conf_close(r->conf);
    tn_metrics_close(r->metrics);
    tn_log_close(r->log);
    close(r->logged);
}

static const char *read_file(const char *name)
{
    static char text[16384];
    char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "r");
    size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;
    text[n] = 0;
    if (f != NULL)
        fclose(f);
    return text;
}

static tn_status up(room *r, tn_err *err)
{
    tn_status st = tn_wall_load_all(r->wall, r->conf, err);
    if (st == TN_OK)
        st = tn_wall_configure(r->wall, r->conf, err);
    if (st == TN_OK)
        st = tn_wall_init(r->wall, err);
    if (st == TN_OK)
        st = tn_wall_start(r->wall, 0, err);
    return st;
}

#define DIARY "diary = %s/diary\n"

static const char *with_dir(const char *ini)
{
    static char text[2048];
    snprintf(text, sizeof text, ini, dir, dir, dir);
    return text;
}

static void a_whole_life(void **state)
{
    room r;
    tn_err err = {.text = ""};
    tn_front_host front = {.size = sizeof front};
    (void)state;
    room_open(&r, with_dir("[plugin web]\n" DIARY "[plugin qa]\n" DIARY "[plugin qb]\n" DIARY));
    tn_wall_set_front(r.wall, &front, &r);
    if (up(&r, &err) != TN_OK)
        fail_msg("%s", err.text);
    assert_int_equal(tn_wall_count(r.wall), 3);
    const tn_guest *qa = tn_wall_find(r.wall, TN_KIND_QUANT, "qa");
    const tn_guest *web = tn_wall_of(r.wall, TN_KIND_FRONT, 0);
    assert_ptr_equal(tn_wall_of(r.wall, TN_KIND_QUANT, 0), qa);
    assert_non_null(tn_wall_of(r.wall, TN_KIND_QUANT, 1));
    assert_null(tn_wall_of(r.wall, TN_KIND_QUANT, 2));
    assert_null(tn_wall_find(r.wall, TN_KIND_DEVICE, "qa"));
    assert_string_equal(qa->version, "1.2");
    assert_true(qa->up && qa->live && qa->device == NULL && qa->front == NULL);
    assert_int_equal(qa->quant->claims(qa->self, NULL, &err), 7);
    assert_null(qa->quant->write_begin);
    assert_string_equal(web->front->address(web->self), "front");
    assert_true(tn_wall_held(qa) >= 16);
    assert_int_equal(tn_wall_drain(r.wall, 0, 50, &err), TN_OK);
    tn_wall_stop(r.wall, TN_KIND_FRONT);
    tn_wall_stop(r.wall, 0);
    assert_false(qa->up || qa->live);
    assert_int_equal(tn_wall_held(qa), 0);
    assert_string_equal(read_file("diary"),
                        "init web\ninit qa\ninit qb\nstart qa\nstart qb\nstart web\n"
                        "drain qb 50\ndrain qa 50\ndrain web 50\n"
                        "stop web\nstop qb\nstop qa\n");
    room_close(&r);
}

static void half_a_life_is_undone(void **state)
{
    static const struct {
        const char *ini;
        tn_status st;
        const char *text, *diary;
    } cases[] = {
        {"[plugin web]\n" DIARY "[plugin qa]\n" DIARY "fail = 1\n[plugin qb]\n" DIARY, TN_NOPERM,
         "plugin qa: init: told to", "init web\nstop web\n"},
        {"[plugin web]\n" DIARY "[plugin qa]\n" DIARY "fail = 2\n[plugin qb]\n" DIARY, TN_OS,
         "plugin qa: start: told to", "init web\ninit qa\ninit qb\nstop qb\nstop qa\nstop web\n"},
        {"[plugin web]\n" DIARY "[plugin qa]\n" DIARY "probe = no\n", TN_UNAVAILABLE,
         "plugin qa: probe: no", "init web\nstop web\n"},
        {"[plugin web]\n" DIARY "[plugin qa]\n" DIARY "probe = no\nrequired = no\n", TN_OK,
         "", "init web\nstart web\nstop web\n"},
        {"[plugin web]\n" DIARY "[plugin qa]\n" DIARY "dairy = x\n", TN_CONFIG,
         "t.ini:5: unknown key \"dairy\" in [plugin qa]; expected one of its 5 keys, nearest: diary",
         ""},
        {"[plugin web]\n" DIARY "[plugin none]\nrequired = no\nany = x\n", TN_OK, "",
         "init web\nstart web\nstop web\n"},
        {"[plugin weeb]\n" DIARY, TN_CONFIG, "t.ini:1: no weeb.so in plugin_path (", ""},
        {"[plugin qa]\nfile = qa.so\n", TN_CONFIG, "t.ini:2: plugin file qa.so; expected an", ""},
        {"[plugin qa]\nrequired = perhaps\n", TN_CONFIG, "t.ini:2: [plugin qa] required =", ""},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        room r;
        tn_err err = {.text = ""};
        room_open(&r, with_dir(cases[i].ini));
        tn_status st = up(&r, &err);
        if (st != cases[i].st
            || strncmp(err.text, cases[i].text, strlen(cases[i].text)) != 0)
            fail_msg("case %zu: status %d: %s", i, st, err.text);
        room_close(&r);
        assert_string_equal(read_file("diary"), cases[i].diary);
    }
}

static void what_is_set_aside(void **state)
{
    room r;
    tn_err err;
    tn_buf b;
    (void)state;
    room_open(&r, with_dir("[plugin qa]\nrequired = no\nprobe = no\n" DIARY
                           "[plugin none]\nrequired = no\n"));
    assert_int_equal(up(&r, &err), TN_OK);
    assert_int_equal(tn_wall_count(r.wall), 2);
    assert_null(tn_wall_of(r.wall, TN_KIND_QUANT, 0));
    assert_string_equal(tn_wall_at(r.wall, 0)->away, "plugin qa: probe: no");
    assert_non_null(strstr(read_file("log"), "warn core: plugin qa set aside: plugin qa: probe"));
    tn_buf_open(&b, 8192);
    tn_wall_print(r.wall, &b);
    assert_non_null(strstr(b.data, "; set aside: plugin qa: probe: no\n[plugin qa]\n"));
    assert_non_null(strstr(b.data, "probe = no ; from t.ini:3\n"));
    tn_buf_close(&b);
    room_close(&r);
}

static void nearest_file(void **state)
{
    room r;
    tn_err err;
    (void)state;
    room_open(&r, "[plugin usr]\n");
    assert_int_equal(up(&r, &err), TN_CONFIG);
    assert_non_null(strstr(err.text, "; nearest: user"));
    room_close(&r);
}

static void drains_that_cut(void **state)
{
    room r;
    tn_err err = {.text = ""};
    (void)state;
    room_open(&r, with_dir("[plugin qa]\nfail = 3\n" DIARY "[plugin qb]\n" DIARY));
    assert_int_equal(up(&r, &err), TN_OK);
    assert_int_equal(tn_wall_drain(r.wall, TN_KIND_QUANT, 7, &err), TN_CUT);
    assert_string_equal(err.text, "plugin qa: drain failed with status 75 and no word why");
    assert_non_null(strstr(read_file("diary"), "drain qb 7\ndrain qa 7\n")); /* both were asked */
    room_close(&r);
}

static void the_host_table(void **state)
{
    room r;
    tn_err err = {.text = ""};
    tn_buf b;
    (void)state;
    room_open(&r, "[plugin user]\nword = hello\nroom = 2K\nnames = x, y z\n");
    if (up(&r, &err) != TN_OK)
        fail_msg("%s", err.text);
    const tn_guest *g = tn_wall_of(r.wall, TN_KIND_QUANT, 0);
    g->quant->claims(g->self, NULL, &err);
    assert_string_equal(err.text, "1 1 2 1 1 hello|0.5|2048|1|2|y z||0|");
    assert_int_equal(tn_wall_held(g), 100);
    tn_buf_open(&b, 65536);
    tn_metrics_print(r.metrics, &b);
    assert_non_null(strstr(b.data, "\nuser_things_total{plugin=\"user\",k=\"v\"} 3\n"));
    assert_non_null(strstr(b.data, "\ntenon_plugin_memory_bytes{plugin=\"user\"} 100\n"));
    tn_buf_close(&b);
    tn_wall_stop(r.wall, 0);
    const char *log = read_file("log");
    assert_non_null(strstr(log, " warn user: two\\nlines\n"));
    assert_non_null(strstr(log, " debug user: (null)\n"));
    assert_non_null(strstr(log, "asks for an option it does not declare: no_such"));
    assert_non_null(strstr(log, "by another type than it declares: share"));
    assert_non_null(strstr(log, "declares a metric that is refused: no name"));
    assert_non_null(strstr(log, "releases memory it never took"));
    assert_non_null(strstr(log, "plugin user keeps 100 bytes in 1 blocks after its stop"));
    room_close(&r);
}

static void a_newer_author(void **state)
{
    room r;
    tn_err err = {.text = ""};
    (void)state;
    room_open(&r, "[plugin newer]\n");
    if (up(&r, &err) != TN_OK)
        fail_msg("%s", err.text);
    const tn_guest *g = tn_wall_of(r.wall, TN_KIND_QUANT, 0);
    assert_int_equal(g->quant->size, sizeof(tn_quant));
    assert_int_equal(g->quant->nmultiply, 2);
    assert_int_equal(g->quant->multiply[1].size, sizeof(tn_multiply));
    assert_string_equal(g->quant->multiply[1].device, "cuda");
    assert_int_equal(g->quant->claims(NULL, NULL, NULL), 42);
    room_close(&r);
}

static void options_as_flags(void **state)
{
    room r;
    tn_err err;
    tn_flag_source s[4];
    (void)state;
    room_open(&r, "[plugin qa]\n[plugin web]\n");
    assert_int_equal(tn_wall_load_all(r.wall, r.conf, &err), TN_OK);
    assert_int_equal(tn_wall_flags(r.wall, s), 2);
    assert_int_equal(s[1].kind, TN_KIND_FRONT);
    assert_string_equal(s[1].plugin, "web");
    assert_int_equal(s[1].noption, 3);
    assert_string_equal(tn_wall_kind_name(s[1].kind), "front");
    room_close(&r);
}

static int make_all(void **state)
{
    (void)state;
    if (mkdtemp(dir) == NULL)
        return -1;
    make("qa", diary_source, "-DNAME='\"qa\"' -DKIND=TN_KIND_QUANT");
    make("qb", diary_source, "-DNAME='\"qb\"' -DKIND=TN_KIND_QUANT");
    make("web", diary_source, "-DNAME='\"web\"' -DKIND=TN_KIND_FRONT");
    make("user", user_source, "");
    make("newer", newer_source, "");
    return 0;
}

static int drop_all(void **state)
{
    char command[64];
    (void)state;
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return run_quietly(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_whole_life),
        cmocka_unit_test(half_a_life_is_undone),
        cmocka_unit_test(what_is_set_aside),
        cmocka_unit_test(nearest_file),
        cmocka_unit_test(drains_that_cut),
        cmocka_unit_test(the_host_table),
        cmocka_unit_test(a_newer_author),
        cmocka_unit_test(options_as_flags),
    };
    return cmocka_run_group_tests(tests, make_all, drop_all);
}
