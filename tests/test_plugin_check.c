/* SPDX-License-Identifier: Apache-2.0 */
/* test_plugin_check.c - the checker passes what is right, and finds what was made wrong. */
#include "makeso.h"
#include "plugin_check.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define COUNT(a) (sizeof(a) / sizeof(a)[0])
#define LINK "-Wl,-z,defs -lm -lpthread -lrt"

static char dir[] = "/tmp/tenon-check-XXXXXX";

/* Builds and checks; what was said is left in `said`. Without a source it is a plugin of the
 * product, and built already. */
static bool checked(const char *name, const char *source, const char *flags, bool run,
                    char *said, size_t size)
{
    char file[PATH_MAX], log[256];
    tn_check c = {.nset = 0};
    const char *build = getenv("TENON_BUILD");
    snprintf(file, sizeof file, "%s/%s.so", dir, name);
    snprintf(log, sizeof log, "%s/said", dir);
    snprintf(c.name, sizeof c.name, "%s", name);
    c.file = file;
    if (source == NULL)
        snprintf(file, sizeof file, "%s/.libs/%s.so", build != NULL ? build : ".", name);
    else if (make_so(dir, name, source, flags) != 0)
        fail_msg("%s could not be built; is there a compiler in $CC or as cc?", source);
    c.out = open(log, O_RDWR | O_CREAT | O_TRUNC | O_APPEND, 0600);
    assert_true(c.out >= 0);
    int keep = dup(2), null = open("/dev/null", O_WRONLY);
    dup2(null, 2); /* plugins that die say so there */
    bool good = tn_check_plugin(&c, run);
    dup2(keep, 2);
    close(keep);
    close(null);
    ssize_t n = pread(c.out, said, size - 1, 0);
    said[n > 0 ? n : 0] = 0;
    close(c.out);
    assert_int_equal(good, c.nfail == 0);
    return good;
}

typedef struct check_case {
    const char *name, *source, *flags; /* source NULL: a plugin of the product */
    bool run, good;
    const char *text; /* said somewhere */
} check_case;

static void run_cases(const check_case *k, size_t n)
{
    static char said[65536];
    for (size_t i = 0; i < n; i++) {
        bool good = checked(k[i].name, k[i].source, k[i].flags, k[i].run, said, sizeof said);
        if (good != k[i].good || strstr(said, k[i].text) == NULL)
            fail_msg("case %zu, %s: %s\n%s", i, k[i].source != NULL ? k[i].source : k[i].name,
                     good ? "passed" : "failed", said);
        assert_true(good == (strstr(said, "FAIL") == NULL));
    }
}

#define SKELETON "../plugins/skeleton/"

static void devices(void **state)
{
    static const check_case cases[] = {
        {"device_plain", SKELETON "device_plain.c", LINK, true, true,
         "ok    LINEAR, exact: 11 of 11 variants"},
        {"device_plain", SKELETON "device_plain.c", LINK " -Dsqrtf=cbrtf", true, false,
         "FAIL  NORM, exact, variant 0: step 1, buffer b1, row 0"},
        {"device_plain", SKELETON "device_plain.c", LINK " -Derff=tanhf", true, false,
         "FAIL  ACT_MUL, exact, variant 1"},
        {"device_plain", SKELETON "device_plain.c", LINK " -DROWS_AT_ONCE=1000u", true, true,
         "ok    LINEAR, exact: 11 of 11 variants"},
    };
    (void)state;
    run_cases(cases, COUNT(cases));
}

static void quantizations(void **state)
{
    static const check_case cases[] = {
        {"w4demo", SKELETON "w4demo.c", LINK, true, true,
         "ok    4 bits, group 32, symmetric: written, read back whole"},
        {"private8", SKELETON "private8.c", LINK, true, true,
         "ok    8 bits, group a whole row, symmetric: written, read back whole"},
        {"w4demo", "badplugins/quant_other.c", LINK " -DOFFERED=16", true, true,
         "ok    4 bits, group 16, symmetric: written, read back whole"},
        {"w4demo", "badplugins/quant_other.c", LINK " -DOFFERED=64", true, true,
         "ok    4 bits, group 64, symmetric: written, read back whole"},
        {"w4demo", "badplugins/quant_other.c", LINK " -DOFFERED=0", true, true,
         "skip  its writer offers none of 2, 3, 4, 5, 6 and 8 bits in groups of 16, 32, 64, 128 and a "
         "whole row: w4demo: wanted group 0"},
        {"w4demo", "badplugins/quant_sloppy.c", LINK, true, false,
         "FAIL  4 bits, group 32, symmetric: model.layers.0.self_attn.q_proj row 0 column"},
        {"w4demo", "badplugins/quant_wide.c", LINK, true, false,
         "read wrote past the end of a buffer"},
    };
    (void)state;
    run_cases(cases, COUNT(cases));
}

static void communicators(void **state)
{
    static const check_case cases[] = {
        {"comm_shared", SKELETON "comm_shared.c", LINK, true, true,
         "ok    3 ranks, the last gone in peace: after"},
        {"comm_shared", "badplugins/comm_lossy.c", LINK, true, false,
         "FAIL  rank 0 of 1: all_reduce: element 6 is"},
        {"comm_other", "badplugins/comm_other.c", LINK " -DBITS", true, false,
         "FAIL  2 ranks: ranks 0 and 1 have different bits for one sum of f32"},
        {"comm_other", "badplugins/comm_other.c", LINK " -DSTATUS", true, false,
         "abort: the sum of one who waited ended with 69"},
        {"comm_other", "badplugins/comm_other.c", LINK " -DCROWD", true, false,
         "FAIL  rank 0 of 2: rank outside of the group: joined as rank 2 of 2"},
        {"shared", NULL, "", true, true, "ok    4 ranks, the last stopped: after"},
    };
    (void)state;
    run_cases(cases, COUNT(cases));
}

static void frontends(void **state)
{
    static const check_case cases[] = {
        {"front_line", SKELETON "front_line.c", LINK, true, true, "ok    answered at line://127"},
        {"front_line", "badplugins/front_deaf.c", LINK, true, false,
         "FAIL  gave no answer at line://127"},
    };
    (void)state;
    run_cases(cases, COUNT(cases));
}

static void files_and_lives(void **state)
{
    static const check_case cases[] = {
        {"bad", "badplugins/leaks.c", "", false, true, "ok    adopted as bad 1, kind quant"},
        {"bad", "badplugins/leaks.c", "", true, false,
         "FAIL  life 1: keeps 1024 bytes of its host's memory after stop"},
        {"bad", "badplugins/undefined_symbol.c", "", false, false,
         "FAIL  needs the symbol tn_secret_of_the_core"},
        {"bad", "badplugins/same_global.c", "", false, true,
         "skip  exports 1 names besides tn_plugin_entry, such as shared_name"},
        {"bad", "badplugins/no_entry.c", "", true, false, "does not export tn_plugin_entry"},
        {"bad", "badplugins/init_segfault.c", "", true, false, "FAIL  many lives: ended with 70"},
        {"bad", "badplugins/init_exit.c", "", true, false, "FAIL  many lives: ended with 70"},
        {"bad", "badplugins/load_crashes.c", "", false, false, "FAIL  adoption: ended with 70"},
        {"bad", "badplugins/init_umask.c", "", true, false, "changed the umask"},
    };
    (void)state;
    run_cases(cases, COUNT(cases));
}

static void new_plugins_pass(void **state)
{
    static const struct {
        const char *kind, *text;
    } kinds[] = {{"quant", "skip  has no writer"}, {"device", "skip  offers no operation yet"},
                 {"comm", "skip  rank 0 of 2: join: fresh: rank 0 of 2; expected one rank"},
                 {"front", "ok    started, drained and stopped 5 times"}};
    static char said[65536];
    char back[512], source[256];
    tn_err err;
    (void)state;
    assert_non_null(getcwd(back, sizeof back));
    snprintf(source, sizeof source, "%s/fresh.c", dir);
    for (size_t i = 0; i < COUNT(kinds); i++) {
        assert_int_equal(chdir(dir), 0);
        unlink("fresh.c");
        tn_status st = tn_plugin_new("fresh", kinds[i].kind, &err);
        tn_status again = tn_plugin_new("fresh", kinds[i].kind, NULL);
        assert_int_equal(chdir(back), 0);
        assert_int_equal(st, TN_OK);
        assert_int_equal(again, TN_CANTCREATE); /* never over what is there */
        if (!checked("fresh", source, "-Wall -Wextra -Werror " LINK, true, said, sizeof said)
            || strstr(said, kinds[i].text) == NULL)
            fail_msg("%s: %s", kinds[i].kind, said);
    }
    assert_int_equal(tn_plugin_new("Fresh", "quant", &err), TN_USAGE);
    assert_int_equal(tn_plugin_new("fresh", "quantum", &err), TN_USAGE);
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
        cmocka_unit_test(devices),
        cmocka_unit_test(quantizations),
        cmocka_unit_test(communicators),
        cmocka_unit_test(frontends),
        cmocka_unit_test(files_and_lives),
        cmocka_unit_test(new_plugins_pass),
    };
    return cmocka_run_group_tests(tests, make_dir, drop_dir);
}
