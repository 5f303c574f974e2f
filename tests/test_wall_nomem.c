/* SPDX-License-Identifier: Apache-2.0 */
/* test_wall_nomem.c - the n-th allocation fails, for every n: reading the configuration and
 * the command line, loading, a whole life, unloading. Each ends well or with a sentence, and
 * a sanitizer sees nothing leaked.
 *
 * Linked with --wrap for malloc, calloc, realloc, aligned_alloc, strdup and strndup. */
#include "buf.h"
#include "conf.h"
#include "flags.h"
#include "log.h"
#include "makeso.h"
#include "metric.h"
#include "settings.h"
#include "wall.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t size);
void *__real_aligned_alloc(size_t align, size_t size);
char *__real_strdup(const char *s);
char *__real_strndup(const char *s, size_t n);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t size);
void *__wrap_aligned_alloc(size_t align, size_t size);
char *__wrap_strdup(const char *s);
char *__wrap_strndup(const char *s, size_t n);

static long countdown = -1; /* the call that takes it to 0 fails; below 0: none */
static bool did_fail;

static bool fails(void)
{
    if (countdown <= 0 || --countdown > 0)
        return false;
    did_fail = true;
    return true;
}

void *__wrap_malloc(size_t size)
{
    return fails() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return fails() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t size)
{
    return fails() ? NULL : __real_realloc(p, size);
}

void *__wrap_aligned_alloc(size_t align, size_t size)
{
    return fails() ? NULL : __real_aligned_alloc(align, size);
}

char *__wrap_strdup(const char *s)
{
    return fails() ? NULL : __real_strdup(s);
}

char *__wrap_strndup(const char *s, size_t n)
{
    return fails() ? NULL : __real_strndup(s, n);
}

static char dir[] = "/tmp/tenon-nomem-XXXXXX";

static const char ini[] = "[tenon]\nlog_level = error\n[plugin device_plain]\n"
                          "[plugin front_line]\nport = 0\n[plugin absent]\nrequired = no\n"
                          "[model m]\npath = /m\nserved_name = a, b\n";

typedef struct life {
    tn_conf *conf;
    tn_flags *flags;
    tn_settings settings;
    tn_model_settings model;
    tn_log *log;
    tn_metrics *metrics;
    tn_wall *wall;
} life;

static tn_status read_command_line(life *l, tn_err *err)
{
    char *argv[] = {"--host", "127.0.0.1", "--seed=3", "--served-model-name", "x", "y",
                    "--enforce-eager", "--override-generation-config.top-p", "0.5", "word"};
    tn_flag_source source[4];
    uint32_t n = tn_wall_flags(l->wall, source);
    tn_status st = tn_flags_parse(10, argv, NULL, 0, source, n, &l->flags, err);
    return st == TN_OK ? tn_flags_apply(l->flags, l->conf, err) : st;
}

static tn_status live(life *l, tn_err *err)
{
    char *folder[] = {dir};
    tn_buf b;
    tn_status st = tn_conf_open_text(ini, sizeof ini - 1, "t.ini", &l->conf, err);
    if (st == TN_OK)
        st = tn_settings_open(l->conf, &l->settings, err);
    if (st == TN_OK)
        st = tn_log_open(2, TN_LOG_ERROR, false, &l->log, err);
    if (st == TN_OK)
        st = tn_metrics_open(&l->metrics, err);
    if (st == TN_OK)
        st = tn_wall_open(l->log, l->metrics, NULL, &l->wall, err);
    if (st == TN_OK)
        st = tn_wall_set_path(l->wall, folder, 1, err);
    if (st == TN_OK)
        st = tn_wall_load_all(l->wall, l->conf, err);
    if (st == TN_OK)
        st = read_command_line(l, err);
    if (st == TN_OK)
        st = tn_model_settings_open(l->conf, "m", &l->model, err);
    if (st == TN_OK)
        st = tn_wall_configure(l->wall, l->conf, err);
    if (st == TN_OK)
        st = tn_wall_init(l->wall, err);
    if (st == TN_OK)
        st = tn_wall_start(l->wall, TN_KIND_DEVICE, err);
    if (st != TN_OK)
        return st;
    tn_buf_open(&b, 65536);
    tn_wall_print(l->wall, &b);
    tn_metrics_print(l->metrics, &b);
    tn_buf_close(&b);
    return tn_wall_drain(l->wall, 0, 1, err);
}

static void end(life *l)
{
    tn_wall_close(l->wall);
    tn_metrics_close(l->metrics);
    tn_log_close(l->log);
    tn_model_settings_close(&l->model);
    tn_settings_close(&l->settings);
    tn_flags_close(l->flags);
    tn_conf_close(l->conf);
}

static void every_allocation_fails_once(void **state)
{
    uint32_t ended = 0;
    (void)state;
    for (long n = 1;; n++) {
        life l = {.conf = NULL};
        tn_err err = {.text = ""};
        did_fail = false;
        countdown = n;
        tn_status st = live(&l, &err);
        countdown = -1;
        end(&l);
        if (!did_fail) {
            assert_int_equal(st, TN_OK);
            assert_true(n > 100);
            break;
        }
        if (st != TN_OK && err.text[0] == 0)
            fail_msg("allocation %ld: status %d without a word", n, st);
        if (st != TN_OK && st != TN_OS && st != TN_UNAVAILABLE)
            fail_msg("allocation %ld: status %d: %s", n, st, err.text);
        ended += st != TN_OK;
    }
    assert_true(ended > 50);
}

static int make_all(void **state)
{
    (void)state;
    if (mkdtemp(dir) == NULL
        || make_so(dir, "device_plain", "../plugins/skeleton/device_plain.c", "-lm") != 0
        || make_so(dir, "front_line", "../plugins/skeleton/front_line.c", "-lpthread") != 0)
        return -1;
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
        cmocka_unit_test(every_allocation_fails_once),
    };
    return cmocka_run_group_tests(tests, make_all, drop_all);
}
