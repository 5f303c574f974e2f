/* SPDX-License-Identifier: Apache-2.0 */
/* test_log.c - lines whole, escaped, and dropped rather than waited for. */
#include "log.h"

#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

typedef struct room {
    int to[2];
    tn_log *log;
} room;

static void room_open(room *r, uint32_t level, bool json)
{
    tn_err err;
    assert_int_equal(pipe(r->to), 0);
    assert_int_equal(tn_log_open(r->to[1], level, json, &r->log, &err), TN_OK);
}

static void room_close(room *r)
{
    tn_log_close(r->log);
    close(r->to[0]);
    close(r->to[1]);
}

/* What was logged so far; `out` holds one byte more than it reads. */
static size_t room_read(room *r, char *out, size_t size)
{
    fcntl(r->to[0], F_SETFL, O_NONBLOCK);
    ssize_t n = read(r->to[0], out, size - 1);
    if (n < 0)
        n = 0;
    out[n] = 0;
    return (size_t)n;
}

static void text_line(void **state)
{
    room r;
    char out[8192];
    (void)state;
    room_open(&r, TN_LOG_INFO, false);
    tn_log_put(r.log, TN_LOG_INFO, "http", "req-7", "port %d", 8000);
    size_t n = room_read(&r, out, sizeof out);
    assert_true(n > 24);
    assert_int_equal(out[10], 'T');
    assert_int_equal(out[23], 'Z');
    assert_string_equal(out + 24, " info http [req-7]: port 8000\n");
    room_close(&r);
}

static void json_line(void **state)
{
    room r;
    char out[8192];
    (void)state;
    room_open(&r, TN_LOG_DEBUG, true);
    tn_log_put(r.log, TN_LOG_WARN, "core", NULL, "a \"b\" \\ \n\x01\xff\xc3\xa4");
    room_read(&r, out, sizeof out);
    const char *tail = strstr(out, "\"level\"");
    assert_non_null(tail);
    assert_string_equal(tail, "\"level\":\"warn\",\"part\":\"core\",\"text\":"
                              "\"a \\\"b\\\" \\\\ \\n\\u0001\xef\xbf\xbd\xc3\xa4\"}\n");
    room_close(&r);
}

static void one_event_stays_one_line(void **state)
{
    room r;
    char out[8192];
    (void)state;
    room_open(&r, TN_LOG_INFO, false);
    tn_log_put(r.log, TN_LOG_INFO, "x\ny", "r\x1b[2J", "a\nfake error: b\xc2\x9b\xfe");
    size_t n = room_read(&r, out, sizeof out);
    assert_ptr_equal(strchr(out, '\n'), out + n - 1);
    assert_non_null(strstr(out, "x\\ny [r\\x1b[2J]: a\\nfake error: b\\x9b\\xfe\n"));
    room_close(&r);
}

static void levels(void **state)
{
    room r;
    char out[8192];
    (void)state;
    room_open(&r, TN_LOG_WARN, false);
    assert_true(tn_log_wants(r.log, TN_LOG_ERROR));
    assert_false(tn_log_wants(r.log, TN_LOG_INFO));
    assert_false(tn_log_wants(NULL, TN_LOG_ERROR));
    tn_log_put(r.log, TN_LOG_INFO, "core", NULL, "no");
    tn_log_put(NULL, TN_LOG_ERROR, "core", NULL, "no");
    assert_int_equal(room_read(&r, out, sizeof out), 0);
    room_close(&r);
}

static void long_lines_end(void **state)
{
    static char text[20000];
    room r;
    char out[8192];
    (void)state;
    for (int json = 0; json < 2; json++) {
        memset(text, json ? 1 : 'a', sizeof text - 1); /* controls grow sixfold in JSON */
        room_open(&r, TN_LOG_INFO, json);
        tn_log_put(r.log, TN_LOG_INFO, "core", NULL, "%s", text);
        size_t n = room_read(&r, out, sizeof out);
        assert_true(n <= 4096);
        assert_string_equal(out + n - (json ? 3 : 1), json ? "\"}\n" : "\n");
        room_close(&r);
    }
}

static uint64_t ms_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void a_stuck_reader_costs_one_wait(void **state)
{
    room r;
    static char out[1 << 20];
    (void)state;
    room_open(&r, TN_LOG_INFO, false);
    uint64_t begin = ms_now();
    for (int i = 0; i < 20000; i++)
        tn_log_put(r.log, TN_LOG_INFO, "core", NULL, "line %d", i);
    assert_true(ms_now() - begin < 2000);
    assert_true(tn_log_dropped(r.log) > 10000);
    room_read(&r, out, sizeof out);
    uint64_t dropped = tn_log_dropped(r.log);
    /* The first line after the reader woke finds the way free, the next one tells. */
    tn_log_put(r.log, TN_LOG_INFO, "core", NULL, "awake");
    tn_log_put(r.log, TN_LOG_INFO, "core", NULL, "awake");
    tn_log_put(r.log, TN_LOG_INFO, "core", NULL, "awake");
    room_read(&r, out, sizeof out);
    char want[80];
    snprintf(want, sizeof want, "%llu lines could not", (unsigned long long)dropped);
    assert_non_null(strstr(out, want));
    assert_non_null(strstr(out, "awake"));
    assert_int_equal(tn_log_dropped(r.log), dropped);
    room_close(&r);
}

static void a_closed_pipe_does_not_kill(void **state)
{
    room r;
    (void)state;
    room_open(&r, TN_LOG_INFO, false);
    close(r.to[0]);
    void (*old)(int) = signal(SIGPIPE, SIG_DFL);
    tn_log_put(r.log, TN_LOG_INFO, "core", NULL, "nobody reads");
    signal(SIGPIPE, old);
    assert_int_equal(tn_log_dropped(r.log), 1);
    tn_log_close(r.log);
    close(r.to[1]);
}

static void *shout(void *user)
{
    room *r = user;
    for (int i = 0; i < 200; i++)
        tn_log_put(r->log, TN_LOG_INFO, "thread", NULL, "%0100d", i);
    return NULL;
}

static void threads_do_not_mix_lines(void **state)
{
    room r;
    pthread_t t[4];
    static char out[1 << 20];
    size_t n = 0;
    (void)state;
    char path[] = "/tmp/tenon-log-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    unlink(path);
    tn_err err;
    assert_int_equal(tn_log_open(fd, TN_LOG_INFO, false, &r.log, &err), TN_OK);
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&t[i], NULL, shout, &r), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    n = (size_t)pread(fd, out, sizeof out, 0);
    size_t lines = 0, begin = 0;
    for (size_t i = 0; i < n; i++)
        if (out[i] == '\n') {
            assert_int_equal(i - begin, strlen("2026-01-31T12:00:00.000Z info thread: ") + 100);
            begin = i + 1;
            lines++;
        }
    assert_int_equal(lines, 800);
    tn_log_close(r.log);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_line),
        cmocka_unit_test(json_line),
        cmocka_unit_test(one_event_stays_one_line),
        cmocka_unit_test(levels),
        cmocka_unit_test(long_lines_end),
        cmocka_unit_test(a_stuck_reader_costs_one_wait),
        cmocka_unit_test(a_closed_pipe_does_not_kill),
        cmocka_unit_test(threads_do_not_mix_lines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
