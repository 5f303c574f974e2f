/* SPDX-License-Identifier: Apache-2.0 */
/* test_metric.c - sums stay exact, names stay unique, the text is Prometheus'. */
#include "buf.h"
#include "metric.h"

#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static tn_metrics *opened(void)
{
    tn_metrics *m = NULL;
    tn_err err;
    assert_int_equal(tn_metrics_open(&m, &err), TN_OK);
    return m;
}

static char *printed(const tn_metrics *m)
{
    tn_buf b;
    tn_buf_open(&b, 1 << 20);
    tn_metrics_print(m, &b);
    assert_false(b.failed);
    return tn_buf_take(&b);
}

static uint32_t counter(tn_metrics *m, const char *name, const char *labels)
{
    return tn_metrics_add(m, TN_METRIC_COUNTER, name, "help", labels, NULL, 0);
}

static void the_page(void **state)
{
    static const double bounds[] = {0.5, 1, 2.5};
    tn_metrics *m = opened();
    (void)state;
    uint32_t c = tn_metrics_add(m, TN_METRIC_COUNTER, "tokens", "Tokens\\\nin all.", "",
                                NULL, 0);
    uint32_t g = tn_metrics_add(m, TN_METRIC_GAUGE, "running", "Now.", "rank=\"0\"", NULL, 0);
    uint32_t h = tn_metrics_add(m, TN_METRIC_HISTOGRAM, "wait", "Waits.", "m=\"a\\\"b\"",
                                bounds, 3);
    uint32_t d = counter(m, "tokens_total", "rank=\"1\"");
    tn_metrics_put(m, c, 3);
    tn_metrics_put(m, c, 0.25);
    tn_metrics_put(m, d, 7);
    tn_metrics_put(m, g, -1.5);
    tn_metrics_put(m, h, 0.5);
    tn_metrics_put(m, h, 2);
    tn_metrics_put(m, h, 100);
    char *text = printed(m);
    assert_string_equal(text, "# HELP tokens_total Tokens\\\\\\nin all.\n"
                              "# TYPE tokens_total counter\n"
                              "tokens_total 3.25\n"
                              "tokens_total{rank=\"1\"} 7\n"
                              "# HELP running Now.\n"
                              "# TYPE running gauge\n"
                              "running{rank=\"0\"} -1.5\n"
                              "# HELP wait Waits.\n"
                              "# TYPE wait histogram\n"
                              "wait_bucket{m=\"a\\\"b\",le=\"0.5\"} 1\n"
                              "wait_bucket{m=\"a\\\"b\",le=\"1\"} 1\n"
                              "wait_bucket{m=\"a\\\"b\",le=\"2.5\"} 2\n"
                              "wait_bucket{m=\"a\\\"b\",le=\"+Inf\"} 3\n"
                              "wait_sum{m=\"a\\\"b\"} 102.5\n"
                              "wait_count{m=\"a\\\"b\"} 3\n");
    assert_true(tn_metrics_get(m, h) == 3);
    free(text);
    tn_metrics_close(m);
}

static void same_series_same_id(void **state)
{
    tn_metrics *m = opened();
    (void)state;
    uint32_t a = counter(m, "a", "x=\"1\"");
    assert_int_equal(counter(m, "a", "x=\"1\""), a);
    assert_int_equal(counter(m, "a_total", "x=\"1\""), a);
    assert_int_not_equal(counter(m, "a", "x=\"2\""), a);
    tn_metrics_close(m);
}

static void refused(void **state)
{
    static const double down[] = {2, 1}, inf[] = {INFINITY};
    static const char *const bad_name[] = {"", "1a", "a-b", "a b", "\xc3\xa4"};
    static const char *const bad_labels[] = {"x", "x=1", "x=\"1", "x=\"1\",", "=\"1\"",
                                             "x=\"\\q\"", "x=\"a\nb\"", "x=\"1\"y=\"2\"",
                                             "a:b=\"1\"", ","};
    tn_metrics *m = opened();
    (void)state;
    for (size_t i = 0; i < sizeof bad_name / sizeof *bad_name; i++)
        assert_int_equal(counter(m, bad_name[i], ""), TN_NONE);
    for (size_t i = 0; i < sizeof bad_labels / sizeof *bad_labels; i++)
        assert_int_equal(counter(m, "a", bad_labels[i]), TN_NONE);
    assert_int_equal(tn_metrics_add(m, TN_METRIC_HISTOGRAM, "h", "", "le=\"1\"", NULL, 0),
                     TN_NONE);
    assert_int_equal(tn_metrics_add(m, TN_METRIC_HISTOGRAM, "h", "", "", down, 2), TN_NONE);
    assert_int_equal(tn_metrics_add(m, TN_METRIC_HISTOGRAM, "h", "", "", inf, 1), TN_NONE);
    assert_int_equal(tn_metrics_add(m, 9, "h", "", "", NULL, 0), TN_NONE);
    assert_int_not_equal(counter(m, "a", NULL), TN_NONE);
    assert_int_equal(tn_metrics_add(m, TN_METRIC_GAUGE, "a_total", "", "", NULL, 0), TN_NONE);
    assert_int_not_equal(tn_metrics_add(m, TN_METRIC_HISTOGRAM, "h", "", "", down, 1), TN_NONE);
    assert_int_equal(tn_metrics_add(m, TN_METRIC_GAUGE, "h_sum", "", "", NULL, 0), TN_NONE);
    assert_int_not_equal(tn_metrics_add(m, TN_METRIC_GAUGE, "g_count", "", "", NULL, 0),
                         TN_NONE);
    assert_int_equal(tn_metrics_add(m, TN_METRIC_HISTOGRAM, "g", "", "", NULL, 0), TN_NONE);
    tn_metrics_put(m, TN_NONE, 1);
    tn_metrics_put(NULL, 0, 1);
    assert_true(tn_metrics_get(NULL, 0) == 0);
    tn_metrics_close(m);
}

static void strange_values(void **state)
{
    tn_metrics *m = opened();
    (void)state;
    uint32_t c = counter(m, "c", ""), g = tn_metrics_add(m, TN_METRIC_GAUGE, "g", "", "", NULL, 0);
    uint32_t h = tn_metrics_add(m, TN_METRIC_HISTOGRAM, "h", "", "", NULL, 0);
    tn_metrics_put(m, c, -1);
    tn_metrics_put(m, c, NAN);
    tn_metrics_put(m, c, INFINITY);
    assert_true(tn_metrics_get(m, c) == 0);
    tn_metrics_put(m, h, NAN);
    tn_metrics_put(m, h, -2.5);
    assert_true(tn_metrics_get(m, h) == 1);
    tn_metrics_put(m, g, NAN);
    char *text = printed(m);
    assert_non_null(strstr(text, "\ng NaN\n"));
    assert_non_null(strstr(text, "\nh_sum -2.5\n"));
    free(text);
    tn_metrics_put(m, g, -INFINITY);
    text = printed(m);
    assert_non_null(strstr(text, "\ng -Inf\n"));
    free(text);
    tn_metrics_close(m);
}

static void counts_past_a_double(void **state)
{
    tn_metrics *m = opened();
    (void)state;
    uint32_t c = counter(m, "c", "");
    for (int i = 0; i < 4; i++)
        tn_metrics_put(m, c, 4503599627370496.0); /* 2^52 each */
    tn_metrics_put(m, c, 1);                      /* 2^54 + 1 is no double */
    char *text = printed(m);
    assert_non_null(strstr(text, "\nc_total 18014398509481985\n"));
    free(text);
    for (int i = 0; i < 10; i++)
        tn_metrics_put(m, c, 0.1);
    text = printed(m);
    assert_non_null(strstr(text, "\nc_total 18014398509481986\n"));
    free(text);
    tn_metrics_close(m);
}

typedef struct job {
    tn_metrics *m;
    uint32_t c, h;
} job;

static void *work(void *user)
{
    job *j = user;
    for (int i = 0; i < 20000; i++) {
        tn_metrics_put(j->m, j->c, 0.5);
        tn_metrics_put(j->m, j->h, i % 3);
    }
    return NULL;
}

static void threads_lose_nothing(void **state)
{
    static const double bounds[] = {0, 1};
    job j = {.m = opened()};
    pthread_t t[4];
    (void)state;
    j.c = counter(j.m, "c", "");
    j.h = tn_metrics_add(j.m, TN_METRIC_HISTOGRAM, "h", "", "", bounds, 2);
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&t[i], NULL, work, &j), 0);
    char name[32]; /* declaring and printing go on beside the puts */
    for (int i = 0; i < 300; i++) {
        snprintf(name, sizeof name, "x%d", i);
        assert_int_not_equal(counter(j.m, name, ""), TN_NONE);
        if (i % 50 == 0)
            free(printed(j.m));
    }
    for (int i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    assert_true(tn_metrics_get(j.m, j.c) == 40000);
    assert_true(tn_metrics_get(j.m, j.h) == 80000);
    tn_metrics_close(j.m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_page),
        cmocka_unit_test(same_series_same_id),
        cmocka_unit_test(refused),
        cmocka_unit_test(strange_values),
        cmocka_unit_test(counts_past_a_double),
        cmocka_unit_test(threads_lose_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
