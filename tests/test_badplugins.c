/* SPDX-License-Identifier: Apache-2.0 */
/* test_badplugins.c - every way we know in which a plugin can be wrong, one row each: which
 * status, which sentence, and that the process lives (or ends with 70 and says who). */
#include "buf.h"
#include "conf.h"
#include "guard.h"
#include "log.h"
#include "makeso.h"
#include "metric.h"
#include "wall.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include <cmocka.h>

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

#define COUNT(a) (sizeof(a) / sizeof(a)[0])

static char dir[] = "/tmp/tenon-bad-XXXXXX";

/* ------------------------------------------------------------------------------- one plugin */

/* Loads FILE as plugin "bad", inits and starts it; the status of the first that fails. */
static tn_status live(const char *file, tn_guard *g, uint32_t patience, tn_wall **out,
                      tn_err *err)
{
    tn_wall *w;
    assert_int_equal(tn_wall_open(NULL, NULL, g, &w, err), TN_OK);
    tn_wall_set_patience(w, patience);
    tn_status st = tn_wall_load(w, "bad", file, true, "t.ini:1", err);
    if (st == TN_OK)
        st = tn_wall_init(w, err);
    if (st == TN_OK)
        st = tn_wall_start(w, 0, err);
    if (st == TN_OK && out != NULL)
        *out = w;
    else
        tn_wall_close(w);
    return st;
}

static void built(char *path, size_t size, const char *source, const char *flags)
{
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)strcspn(source, "."), source);
    char full[128];
    snprintf(full, sizeof full, "badplugins/%s", source);
    snprintf(path, size, "%s/%s.so", dir, name);
    if (make_so(dir, name, full, flags) != 0)
        fail_msg("%s could not be built; is there a compiler in $CC or as cc?", source);
}

typedef struct row {
    const char *source, *flags;
    tn_status st;
    const char *text;
} row;

static void refused_with_a_sentence(void **state)
{
    static const row rows[] = {
        {"no_entry.c", "", TN_UNAVAILABLE, "does not export tn_plugin_entry"},
        {"function_entry.c", "", TN_UNAVAILABLE, "tn_plugin_entry is no data"},
        {"writable_entry.c", "", TN_UNAVAILABLE, "can be written to"},
        {"short_entry.c", "", TN_UNAVAILABLE, "has 16 bytes; expected"},
        {"newer_major.c", "", TN_UNAVAILABLE, "built for contract 2."},
        {"newer_minor.c", "", TN_UNAVAILABLE, "built for contract 1.99; expected 1.0 to 1."},
        {"size_lies.c", "", TN_UNAVAILABLE, "says 100000 bytes"},
        {"size_small.c", "", TN_UNAVAILABLE, "says 24 bytes"},
        {"kind_unknown.c", "", TN_CONFIG, "of kind 77"},
        {"name_empty.c", "", TN_CONFIG, "calls itself \"\""},
        {"name_null.c", "", TN_CONFIG, "calls itself \"\""},
        {"name_long.c", "", TN_CONFIG, "calls itself \"aaaa"},
        {"name_slash.c", "", TN_CONFIG, "calls itself \"../bad\""},
        {"name_newline.c", "", TN_CONFIG, "calls itself \"bad?error"},
        {"name_reserved.c", "", TN_CONFIG, "calls itself \"auto\""},
        {"name_other.c", "", TN_CONFIG, "calls itself good; expected bad"},
        {"version_null.c", "", TN_UNAVAILABLE, "its version is missing"},
        {"table_null.c", "", TN_UNAVAILABLE, "has no table of its kind"},
        {"table_small.c", "", TN_UNAVAILABLE, "its quant table says 32 bytes"},
        {"null_init.c", "", TN_UNAVAILABLE, "has no init; expected a function"},
        {"null_stop.c", "", TN_UNAVAILABLE, "has no stop; expected a function"},
        {"null_read.c", "", TN_UNAVAILABLE, "has no read; expected a function"},
        {"half_writer.c", "", TN_UNAVAILABLE, "has no quant table's write_linear"},
        {"bad_multiply.c", "", TN_UNAVAILABLE, "has a multiply without device or function"},
        {"option_twice.c", "", TN_UNAVAILABLE, "options 0 and 1 are both a"},
        {"option_reserved.c", "", TN_UNAVAILABLE, "a key that the core keeps for itself"},
        {"option_fallback.c", "", TN_UNAVAILABLE, "its fallback \"0\" breaks its own rule"},
        {"undefined_symbol.c", "", TN_UNAVAILABLE, "tn_secret_of_the_core"},
        {"init_silent.c", "", TN_UNAVAILABLE, "init failed with status 69 and no word why"},
        {"init_binary.c", "", TN_UNAVAILABLE, "init: no ???[2J? wayyy"},
        {"init_spills.c", "", TN_UNAVAILABLE, "wrote past the end of its error message"},
        {"init_locale.c", "", TN_UNAVAILABLE, "its init changed the locale from C to"},
        {"init_signal.c", "", TN_UNAVAILABLE, "its init changed the handler of signal 15"},
        {"init_mask.c", "", TN_UNAVAILABLE, "its init changed the signal mask (signal 15)"},
        {"init_umask.c", "", TN_UNAVAILABLE, "its init changed the umask from 022 to 000"},
        {"init_cwd.c", "", TN_UNAVAILABLE, "its init changed the working directory"},
        {"init_rounding.c", "", TN_UNAVAILABLE, "its init changed the rounding mode"},
        {"probe_refuses.c", "", TN_UNAVAILABLE, "probe: no such hardware"},
        {"run_path.c", "-Wl,-rpath,/usr/lib:", TN_UNAVAILABLE, "RPATH has an empty element"},
        {"run_path.c", "-Wl,-rpath,lib", TN_UNAVAILABLE, "searches the working directory"},
        /* L21 */
        {"run_path.c", "-Wl,-z,nodlopen", TN_UNAVAILABLE, "linked with -z nodlopen"},
        {"run_path.c", "-Wl,-rpath,/usr/lib", TN_OK, ""},
        {"leaks.c", "", TN_OK, ""},
    };
    umask(022);
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        char path[256];
        tn_err err = {.text = ""};
        tn_wall *w = NULL;
        built(path, sizeof path, rows[i].source, rows[i].flags);
        tn_status st = live(path, NULL, 30, &w, &err);
        if (st != rows[i].st || strstr(err.text, rows[i].text) == NULL)
            fail_msg("%s: status %d: %s", rows[i].source, st, err.text);
        if (st != TN_OK && strstr(err.text, "bad") == NULL)
            fail_msg("%s: names no plugin: %s", rows[i].source, err.text);
        for (const char *c = err.text; *c != 0; c++)
            assert_true((unsigned char)*c >= 0x20 && (unsigned char)*c < 0x7f);
        tn_wall_close(w);
    }
}

static void flushing_tiny_numbers(void **state)
{
    char path[256];
    tn_err err = {.text = ""};
    (void)state;
#if !defined(__x86_64__)
    skip();
#endif
    built(path, sizeof path, "fast_math.c", "-ffast-math");
    tn_status st = live(path, NULL, 30, NULL, &err);
    if (st == TN_OK)
        skip(); /* this compiler leaves the mode alone */
    assert_int_equal(st, TN_UNAVAILABLE);
    assert_non_null(strstr(err.text, "its loading changed the floating-point mode"));
    volatile float tiny = 1e-38f;
    assert_true(tiny / 16 > 0); /* put back */
}

/* L22 */
static void built_for_a_sanitizer(void **state)
{
    char path[256];
    tn_err err = {.text = ""};
    (void)state;
    if (SANITIZED)
        skip();
    built(path, sizeof path, "leaks.c", "-fsanitize=address");
    assert_int_equal(live(path, NULL, 30, NULL, &err), TN_UNAVAILABLE);
    assert_non_null(strstr(err.text, "built with -fsanitize=address"));
}

static void closes_a_descriptor(void **state)
{
    static const char *const rows[][2] = {
        {"init_closes.c", "its init closed file descriptor 0"},
        {"init_replaces.c", "its init replaced file descriptor 0"},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        char path[256];
        tn_err err = {.text = ""};
        built(path, sizeof path, rows[i][0], "");
        int keep = dup(0), pair[2];
        assert_int_equal(pipe(pair), 0);
        dup2(pair[0], 0); /* surely not what the plugin opens */
        tn_status st = live(path, NULL, 30, NULL, &err);
        dup2(keep, 0);
        close(keep);
        close(pair[0]);
        close(pair[1]);
        assert_int_equal(st, TN_UNAVAILABLE);
        if (strstr(err.text, rows[i][1]) == NULL)
            fail_msg("%s: %s", rows[i][0], err.text);
    }
}

/* L08: every callback of every kind that the contract requires, missing one at a time. */
static void every_missing_callback_is_named(void **state)
{
    static const struct {
        uint32_t kind;
        const char *call;
        bool required;
    } rows[] = {
        {1, "claims", true}, {1, "form_of", true}, {1, "read", true}, {1, "write_linear", true},
        {1, "write_end", true}, {1, "write_drop", true}, {2, "open", true}, {2, "close", true},
        {2, "info", true}, {2, "compile", true}, {2, "reserve", true}, {2, "pack", true},
        {2, "release", true}, {2, "run", true}, {2, "wait", true}, {2, "peek", false},
        {2, "weight_bytes", false}, {2, "bandwidth", false}, {3, "make_id", true},
        {3, "join", true}, {3, "all_reduce", true}, {3, "all_gather", true},
        {3, "broadcast", true}, {3, "abort", true}, {3, "leave", true}, {3, "barrier", false},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        char path[256], flags[64], want[300];
        tn_err err = {.text = ""};
        snprintf(flags, sizeof flags, "-DOF=%u -DWITHOUT=%s", rows[i].kind, rows[i].call);
        built(path, sizeof path, "null_call.c", flags);
        tn_status st = live(path, NULL, 30, NULL, &err);
        if (!rows[i].required && st == TN_OK)
            continue;
        snprintf(want, sizeof want, "plugin %s: has no ", path);
        if (!rows[i].required || st != TN_UNAVAILABLE ||
            strncmp(err.text, want, strlen(want)) != 0 ||
            strstr(err.text, rows[i].call) == NULL)
            fail_msg("%s: status %d: %s", flags, st, err.text);
    }
}

/* L14: what a plugin keeps carries its name, request by request. */
static void a_leak_is_counted(void **state)
{
    char path[256];
    tn_metrics *metrics;
    tn_wall *w;
    tn_err err;
    tn_buf text;
    (void)state;
    built(path, sizeof path, "leaks_later.c", "");
    assert_int_equal(tn_metrics_open(&metrics, &err), TN_OK);
    assert_int_equal(tn_wall_open(NULL, metrics, NULL, &w, &err), TN_OK);
    assert_int_equal(tn_wall_load(w, "bad", path, true, "t", &err), TN_OK);
    assert_int_equal(tn_wall_init(w, &err), TN_OK);
    const tn_guest *g = tn_wall_at(w, 0);
    for (int i = 1; i <= 1000; i++) {
        assert_int_equal(g->quant->read(g->self, NULL, NULL, NULL, 0, 0, NULL, &err), TN_OK);
        assert_int_equal(tn_wall_held(g), i * 1024);
    }
    tn_buf_open(&text, 65536);
    tn_metrics_print(metrics, &text);
    assert_non_null(strstr(text.data, "\ntenon_plugin_memory_bytes{plugin=\"bad\"} 1024000\n"));
    tn_buf_close(&text);
    tn_wall_close(w); /* takes it all back: the sanitizer would tell */
    tn_metrics_close(metrics);
}

/* ---------------------------------------------------------------------------- deadly plugins */

/* Lives in a child; its exit code, what it said on standard error. */
static int live_in_child(const char *path, uint32_t patience, bool read_later, char *said,
                         size_t size)
{
    int to[2];
    assert_int_equal(pipe(to), 0);
    pid_t pid = fork();
    if (pid == 0) {
        tn_guard *g;
        tn_err err;
        tn_wall *w;
        dup2(to[1], 2);
        close(to[0]);
        close(to[1]);
        if (tn_guard_open(&g, &err) != TN_OK)
            _exit(99);
        tn_status st = live(path, g, patience, &w, &err);
        if (st == TN_OK && read_later) {
            const tn_guest *b = tn_wall_at(w, 0);
            uint64_t row = patience; /* chooses abort or crash */
            b->quant->read(b->self, NULL, NULL, NULL, row == 30 ? 0 : 1, 0, NULL, &err);
        }
        if (st == TN_OK)
            tn_wall_close(w);
        _exit(st == TN_OK ? 0 : 98);
    }
    close(to[1]);
    size_t n = 0;
    ssize_t got;
    while (n + 1 < size && (got = read(to[0], said + n, size - n - 1)) > 0)
        n += (size_t)got;
    said[n] = 0;
    close(to[0]);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

/* L10 */
static void death_is_named(void **state)
{
    static const struct {
        const char *source, *flags;
        uint32_t patience;
        const char *text; /* behind "tenon: plugin bad: " */
    } rows[] = {
        {"dies.c", "-DIN=1", 30, "signal 11 while in probe of bad"},
        {"dies.c", "-DIN=2", 30, "signal 11 while in start of bad"},
        {"dies.c", "-DIN=3", 30, "signal 11 while in stop of bad"},
        {"dies.c", "-DIN=4", 30, "signal 11 while in unloading of bad"},
        {"init_segfault.c", "", 30, "signal 11 while in init of bad"},
        {"init_overflow.c", "", 30, "signal 11 while in init of bad"},
        {"init_abort.c", "", 30, "signal 6 while in init of bad"},
        {"init_exit.c", "", 30, "called exit while in init of bad"},
        {"init_loops.c", "", 1, "no answer in the time allowed while in init of bad"},
        {"init_sleeps.c", "", 1, "no answer in the time allowed while in init of bad"},
        {"load_crashes.c", "", 30, "signal 11 while in loading of bad"},
        {"load_exits.c", "", 30, "called exit while in loading of bad"},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        char path[256], said[8192], want[200];
        built(path, sizeof path, rows[i].source, rows[i].flags);
        snprintf(want, sizeof want, "tenon: plugin bad: %s\n", rows[i].text);
        int code = live_in_child(path, rows[i].patience, false, said, sizeof said);
        if (code != 70 || strstr(said, want) == NULL)
            fail_msg("%s: exit %d: %s", rows[i].source, code, said);
    }
}

/* L12 */
static void an_exception_is_named(void **state)
{
    char path[256], said[8192], command[2048];
    (void)state;
    const char *cxx = getenv("CXX"), *tests = source_dir();
    snprintf(path, sizeof path, "%s/throws.so", dir);
    snprintf(command, sizeof command, "%s -w -shared -fPIC -fvisibility=hidden -I%s/../include "
             "%s/badplugins/throws.cc -o %s", cxx && *cxx ? cxx : "c++", tests, tests, path);
    if (run_quietly(command) != 0)
        skip(); /* no C++ compiler here */
    assert_int_equal(live_in_child(path, 30, false, said, sizeof said), 70);
    assert_non_null(strstr(said, "tenon: plugin bad: signal 6 while in init of bad\n"));
}

static void death_after_init_is_named(void **state)
{
    char path[256], said[8192];
    (void)state;
    built(path, sizeof path, "crashes_later.c", "");
    assert_int_equal(live_in_child(path, 29, true, said, sizeof said), 70);
    assert_non_null(strstr(said, "tenon: plugin bad: signal 11 in its code\n"));
    assert_int_equal(live_in_child(path, 30, true, said, sizeof said), 70);
    assert_non_null(strstr(said, "tenon: plugin bad: signal 6 in its code\n"));
}

static void our_own_death_takes_its_course(void **state)
{
    (void)state;
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        tn_guard *g;
        tn_err err;
        int null = open("/dev/null", O_WRONLY);
        dup2(null, 2);
        if (tn_guard_open(&g, &err) != TN_OK)
            _exit(99);
        raise(SIGABRT);
        _exit(98);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

/* --------------------------------------------------------------------------------- bad files */

static void write_file(const char *path, const void *data, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    fclose(f);
}

/* L01: a text, another class, order, machine and type, and every cut. */
static void files_that_are_no_plugins(void **state)
{
    static unsigned char whole[1 << 20], copy[1 << 20];
    char path[256], other[256];
    tn_err err;
    (void)state;
    built(path, sizeof path, "leaks.c", "");
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    size_t n = fread(whole, 1, sizeof whole, f);
    fclose(f);
    snprintf(other, sizeof other, "%s/other.so", dir);
    write_file(other, "#!/bin/sh\necho no\n", 18);
    assert_int_equal(live(other, NULL, 30, NULL, &err), TN_UNAVAILABLE);
    char head[300];
    snprintf(head, sizeof head, "plugin %s: ", other);
    assert_memory_equal(err.text, head, strlen(head));
    assert_non_null(strstr(err.text, "no ELF file"));
    static const struct {
        size_t at;
        unsigned char value;
        const char *text;
    } patches[] = {{4, 1, "a 32-bit file"}, {5, 2, "the other byte order"},
                   {18, 8, "built for machine"}, {16, 2, "no shared object"}};
    for (size_t i = 0; i < COUNT(patches); i++) {
        memcpy(copy, whole, n);
        copy[patches[i].at] = patches[i].value;
        write_file(other, copy, n);
        assert_int_equal(live(other, NULL, 30, NULL, &err), TN_UNAVAILABLE);
        if (strncmp(err.text, head, strlen(head)) != 0 ||
            strstr(err.text, patches[i].text) == NULL)
            fail_msg("%s", err.text);
    }
    for (size_t cut = 0; cut < n; cut += 101) { /* its tail holds the section headers */
        write_file(other, whole, cut);
        assert_int_equal(live(other, NULL, 30, NULL, &err), TN_UNAVAILABLE);
        assert_memory_equal(err.text, head, strlen(head));
    }
}

/* Wrong numbers in the headers: any answer but a crash; a file that passes may be opened. */
static void files_with_wrong_headers(void **state)
{
    static unsigned char whole[1 << 20];
    char path[256], other[256];
    tn_err err;
    (void)state;
    built(path, sizeof path, "null_init.c", ""); /* refused in the end, whatever is changed */
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    size_t n = fread(whole, 1, sizeof whole, f), refused = 0;
    fclose(f);
    uint64_t shoff;
    memcpy(&shoff, whole + 40, 8);
    snprintf(other, sizeof other, "%s/other.so", dir);
    for (size_t at = (size_t)shoff; at + 8 <= n; at += 8) {
        uint64_t old, wild = 0xfffffffffffffff0ull;
        memcpy(&old, whole + at, 8);
        memcpy(whole + at, &wild, 8);
        write_file(other, whole, n);
        refused += live(other, NULL, 30, NULL, &err) != TN_OK;
        memcpy(whole + at, &old, 8);
    }
    assert_true(refused > 50);
}

/* I05 and L06: where a plugin may not be, and one file by three names. */
static void paths(void **state)
{
    char path[256], link[256], hard[256], want[400];
    tn_err err;
    tn_wall *w;
    (void)state;
    built(path, sizeof path, "leaks.c", "");
    assert_int_equal(live("leaks.so", NULL, 30, NULL, &err), TN_CONFIG);
    assert_string_equal(err.text, "t.ini:1: plugin file leaks.so; expected an absolute path "
                                  "without ..");
    snprintf(link, sizeof link, "%s/../%s/leaks.so", dir, dir + 5);
    assert_int_equal(live(link, NULL, 30, NULL, &err), TN_CONFIG);
    assert_int_equal(live(dir, NULL, 30, NULL, &err), TN_CONFIG);
    assert_non_null(strstr(err.text, "is no regular file"));
    assert_int_equal(live("/no/such/file.so", NULL, 30, NULL, &err), TN_CONFIG);
    assert_non_null(strstr(err.text, "No such file"));

    snprintf(link, sizeof link, "%s/link.so", dir);
    snprintf(hard, sizeof hard, "%s/hard.so", dir);
    unlink(link);
    unlink(hard);
    assert_int_equal(symlink(path, link), 0);
    (void)!linkat(AT_FDCWD, path, AT_FDCWD, hard, 0);
    assert_int_equal(tn_wall_open(NULL, NULL, NULL, &w, &err), TN_OK);
    assert_int_equal(tn_wall_load(w, "bad", path, true, "t.ini:1", &err), TN_OK);
    assert_int_equal(tn_wall_load(w, "bad", path, true, "t.ini:2", &err), TN_CONFIG);
    assert_non_null(strstr(err.text, "t.ini:2: plugin bad is loaded already"));
    assert_int_equal(tn_wall_load(w, "two", link, true, "t.ini:2", &err), TN_CONFIG);
    snprintf(want, sizeof want, "t.ini:2: plugin file %s is loaded already, as bad from", path);
    assert_memory_equal(err.text, want, strlen(want));
    assert_int_equal(tn_wall_load(w, "two", hard, true, "t.ini:2", &err), TN_CONFIG);
    assert_non_null(strstr(err.text, "is loaded already, as bad"));
    tn_wall_close(w);
}

/* L18 */
static void two_plugins_with_one_global(void **state)
{
    char a[256], b[256];
    tn_err err;
    tn_wall *w;
    (void)state;
    snprintf(a, sizeof a, "%s/bad.so", dir);
    snprintf(b, sizeof b, "%s/bad2.so", dir);
    assert_int_equal(make_so(dir, "bad", "badplugins/same_global.c", ""), 0);
    assert_int_equal(make_so(dir, "bad2", "badplugins/same_global.c", "-DNAME='\"bad2\"'"), 0);
    assert_int_equal(tn_wall_open(NULL, NULL, NULL, &w, &err), TN_OK);
    assert_int_equal(tn_wall_load(w, "bad", a, true, "t", &err), TN_OK);
    assert_int_equal(tn_wall_load(w, "bad2", b, true, "t", &err), TN_OK);
    if (tn_wall_init(w, &err) != TN_OK)
        fail_msg("%s", err.text);
    tn_wall_close(w);
}

static long resident_pages(void)
{
    long all = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f == NULL || fscanf(f, "%ld %ld", &all, &resident) != 2)
        resident = 0;
    if (f != NULL)
        fclose(f);
    return resident;
}

/* L17 */
static void a_thousand_lives(void **state)
{
    char path[256];
    tn_err err;
    long before = 0;
    (void)state;
    built(path, sizeof path, "same_global.c", "");
    int rounds = SANITIZED ? 100 : 1000;
    for (int i = 0; i < rounds; i++) {
        tn_wall *w;
        if (live(path, NULL, 0, &w, &err) != TN_OK)
            fail_msg("round %d: %s", i, err.text);
        tn_wall_close(w);
        if (i == rounds / 10)
            before = resident_pages();
    }
    if (!SANITIZED)
        assert_true(resident_pages() - before <= 64);
}

static int make_dir(void **state)
{
    (void)state;
    return mkdtemp(dir) != NULL ? 0 : -1;
}

static int drop_dir(void **state)
{
    char command[64];
    (void)state;
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return run_quietly(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refused_with_a_sentence),
        cmocka_unit_test(flushing_tiny_numbers),
        cmocka_unit_test(built_for_a_sanitizer),
        cmocka_unit_test(closes_a_descriptor),
        cmocka_unit_test(every_missing_callback_is_named),
        cmocka_unit_test(a_leak_is_counted),
        cmocka_unit_test(death_is_named),
        cmocka_unit_test(an_exception_is_named),
        cmocka_unit_test(death_after_init_is_named),
        cmocka_unit_test(our_own_death_takes_its_course),
        cmocka_unit_test(files_that_are_no_plugins),
        cmocka_unit_test(files_with_wrong_headers),
        cmocka_unit_test(paths),
        cmocka_unit_test(two_plugins_with_one_global),
        cmocka_unit_test(a_thousand_lives),
    };
    return cmocka_run_group_tests(tests, make_dir, drop_dir);
}
