/* SPDX-License-Identifier: Apache-2.0 */
/* test_teamstats.c - runtime/teamstats.c and commcount.c: what ranks are told of. */
#include "buf.h"
#include "commcount.h"
#include "teamstats.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

static const char *print(const tn_metrics *m, tn_buf *b)
{
    tn_buf_reset(b);
    tn_metrics_print(m, b);
    assert_false(b->failed);
    return b->data != NULL ? b->data : "";
}

static void has(const tn_metrics *m, tn_buf *b, const char *line)
{
    if (strstr(print(m, b), line) == NULL)
        fail_msg("\"%s\" is not in:\n%s", line, b->data);
}

static void has_not(const tn_metrics *m, tn_buf *b, const char *name)
{
    if (strstr(print(m, b), name) != NULL)
        fail_msg("\"%s\" is in:\n%s", name, b->data);
}

/* A device's lines: the number each begins with, in the series' unit. */
static void test_facts(void **state)
{
    static const struct { const char *key, *text; uint32_t fact; double wanted; } one[] = {
        {"temperature", "57 C", TN_RANK_TEMPERATURE, 57},
        {"clock", "1410 MHz of 1980", TN_RANK_CLOCK, 1.41e9},
        {"memory_clock", "2619 MHz of 2619", TN_RANK_MEMORY_CLOCK, 2.619e9},
        {"power", "310 W of 700", TN_RANK_POWER, 310},
        {"utilization", "98 %", TN_RANK_UTILIZATION, 0.98},
        {"temperature", "unknown", TN_RANK_TEMPERATURE, NAN},
        {"temperature", "nan", TN_RANK_TEMPERATURE, NAN},
        {"temperature", "inf", TN_RANK_TEMPERATURE, NAN},
        {"temperature", NULL, TN_RANK_TEMPERATURE, NAN},
        {"temper", "57 C", TN_RANK_TEMPERATURE, NAN},
        {NULL, "57 C", TN_RANK_TEMPERATURE, NAN},
    };
    (void)state;
    for (size_t i = 0; i < sizeof one / sizeof one[0]; i++) {
        tn_rank_stats s;
        tn_rank_stats_open(&s);
        tn_rank_stats_fact(&s, one[i].key, one[i].text);
        double got = s.fact[one[i].fact];
        if (isnan(one[i].wanted) ? !isnan(got) : !(fabs(got - one[i].wanted) < 1e-9 * fabs(got)))
            fail_msg("%s \"%s\": %g, expected %g", one[i].key != NULL ? one[i].key : "-",
                     one[i].text != NULL ? one[i].text : "-", got, one[i].wanted);
    }
}

static void test_process(void **state)
{
    tn_rank_stats s;
    (void)state;
    tn_rank_stats_open(&s);
    tn_rank_stats_process(&s);
    assert_in_range(s.resident, 4096, (uint64_t)1 << 40);
}

/* What is not known is not there; counts add up over messages; the skew wants all ranks. */
static void test_board(void **state)
{
    tn_metrics *m;
    tn_rank_board *board;
    tn_err err;
    tn_buf b;
    tn_rank_stats s;
    (void)state;
    tn_buf_open(&b, 1 << 20);
    assert_int_equal(tn_metrics_open(&m, &err), TN_OK);
    assert_int_equal(tn_rank_board_open(m, "a \"b\"", 2, &board, &err), TN_OK);
    tn_rank_stats_open(&s);
    s.resident = 8192;
    tn_rank_board_put(board, 0, &s);
    has(m, &b, "tenon_rank_resident_bytes{model_name=\"a \\\"b\\\"\",rank=\"0\"} 8192\n");
    has_not(m, &b, "device");
    has_not(m, &b, "steps");
    s.memory_total = 1000;
    s.memory_free = 400;
    s.fact[TN_RANK_TEMPERATURE] = 57;
    s.steps = 10;
    s.step_ns = 2000000000;
    tn_rank_board_put(board, 1, &s);
    has(m, &b, "rank=\"1\",kind=\"used\"} 600\n");
    has(m, &b, "tenon_rank_device_temperature_celsius{model_name=\"a \\\"b\\\"\",rank=\"1\"} 57\n");
    has(m, &b, "tenon_rank_steps_total{model_name=\"a \\\"b\\\"\",rank=\"1\"} 10\n");
    has_not(m, &b, "comm");
    s.comm_calls = 20;
    s.comm_bytes = 640;
    s.comm_ns = 500000000;
    s.steps = 26;
    s.step_ns = 4000000000;
    tn_rank_board_put(board, 1, &s);
    has(m, &b, "tenon_rank_steps_total{model_name=\"a \\\"b\\\"\",rank=\"1\"} 26\n");
    has(m, &b, "tenon_rank_comm_share{model_name=\"a \\\"b\\\"\",rank=\"1\"} 0.25\n");
    has_not(m, &b, "skew");
    s.steps = 32;
    s.comm_ns = 2000000000;
    tn_rank_board_put(board, 0, &s); /* 1/16 s a step; the other was 1/32 s in calls a step */
    has(m, &b, "tenon_rank_skew_seconds{model_name=\"a \\\"b\\\"\"} 0.03125\n");
    s.steps = 1;                     /* goes back: nothing is added */
    s.comm_calls = 1;
    tn_rank_board_put(board, 0, &s);
    has(m, &b, "tenon_rank_steps_total{model_name=\"a \\\"b\\\"\",rank=\"0\"} 32\n");
    tn_rank_board_put(board, 2, &s); /* no such rank */
    has_not(m, &b, "rank=\"2\"");
    tn_rank_board_close(board);
    tn_metrics_close(m);
    tn_buf_close(&b);
}

static void test_names(void **state)
{
    char name[1100];
    tn_rank_board *board;
    tn_rank_stats s;
    tn_err err;
    (void)state;
    memset(name, 'x', sizeof name - 1);
    name[sizeof name - 1] = 0;
    assert_int_equal(tn_rank_board_open(NULL, name, 1, &board, &err), TN_CONFIG);
    assert_non_null(strstr(err.text, "too long"));
    assert_int_equal(tn_rank_board_open(NULL, "", 1, &board, &err), TN_OK);
    tn_rank_stats_open(&s);
    tn_rank_board_put(board, 0, &s);
    tn_rank_board_close(board);
    tn_rank_board_close(NULL);
}

/* --------------------------------------------------------------------------- the counter */

typedef struct behind {
    uint64_t count;
    uint32_t aborts;
    tn_status answer;
} behind;

static tn_status reduce(void *group, void *x, uint64_t n, uint32_t dtype, void *stream, tn_err *err)
{
    behind *b = group;
    const struct timespec nap = {.tv_nsec = 2000000};
    (void)x;
    (void)dtype;
    (void)stream;
    nanosleep(&nap, NULL);
    b->count += n;
    return b->answer == TN_OK ? TN_OK : tn_fail(err, b->answer, "cut");
}

static void stop(void *group)
{
    ((behind *)group)->aborts++;
}

static void test_counter(void **state)
{
    const tn_comm table = {.size = sizeof table, .flags = TN_COMM_HOST, .all_reduce = reduce,
                           .abort = stop};
    behind b = {.answer = TN_OK};
    tn_comm_count c;
    tn_err err;
    (void)state;
    tn_comm_count_open(&c, &table, &b);
    assert_int_equal(c.face.flags, TN_COMM_HOST);
    assert_null((void *)(uintptr_t)c.face.all_gather);
    assert_null((void *)(uintptr_t)c.face.broadcast);
    assert_int_equal(c.face.all_reduce(&c, NULL, 100, TN_F32, NULL, &err), TN_OK);
    assert_int_equal(c.face.all_reduce(&c, NULL, 10, TN_F16, NULL, &err), TN_OK);
    assert_int_equal(b.count, 110);
    assert_int_equal(c.calls, 2);
    assert_int_equal(c.bytes, 420);
    assert_in_range(c.ns, 4000000, 10000000000);
    b.answer = TN_CANCELLED;
    assert_int_equal(c.face.all_reduce(&c, NULL, 1, TN_F32, NULL, &err), TN_CANCELLED);
    assert_string_equal(err.text, "cut");
    c.face.abort(&c);
    assert_int_equal(b.aborts, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_facts),
        cmocka_unit_test(test_process),
        cmocka_unit_test(test_board),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_counter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
