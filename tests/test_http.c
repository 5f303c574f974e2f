/* SPDX-License-Identifier: Apache-2.0 */
/* test_http.c - the HTTP frontend against a fake host, over real sockets.
 *
 * The dialect is tested end to end elsewhere; here is what needs a host that can be held up:
 * who may ask, and that stop waits for whatever still uses the frontend. */
#include "http.h"
#include "json.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define PATIENCE_MS 5000

static struct fake {
    tn_host host;
    tn_front_host front;
    tn_ask ask;                  /* the latest that was submitted; only its callback is good */
    atomic_uint nsubmit, ncancel;
    atomic_uint close_ms;        /* how long closing a body takes */
    atomic_uint nopen;           /* bodies that are open */
    atomic_uint ntokenize;       /* calls that came, of which `hold` 1 keeps each */
    atomic_uint hold;
} fake;

static void rest(uint32_t ms)
{
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    nanosleep(&t, NULL);
}

static bool reaches(atomic_uint *count, uint32_t wanted)
{
    for (uint32_t ms = 0; ms < PATIENCE_MS && atomic_load(count) < wanted; ms++)
        rest(1);
    return atomic_load(count) >= wanted;
}

/* ---------------------------------------------------------------------------- the host */

static void host_log(void *ctx, uint32_t level, const char *text)
{
    (void)ctx;
    (void)level;
    (void)text;
}

static int64_t host_int(void *ctx, const char *key)
{
    static const struct { const char *key; int64_t value; } all[] = {
        {"body_limit", 1 << 20}, {"connection_limit", 16}, {"http_threads", 2},
        {"body_timeout", 60}, {"idle_timeout", 60}, {"write_timeout", 30},
    };
    (void)ctx;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (strcmp(key, all[i].key) == 0)
            return all[i].value;
    return 0;
}

static const char *host_text(void *ctx, const char *key)
{
    (void)ctx;
    return strcmp(key, "host") == 0 ? "127.0.0.1" : "";
}

static uint32_t host_count(void *ctx, const char *key)
{
    (void)ctx;
    return strcmp(key, "allowed_hosts") == 0;
}

static const char *host_item(void *ctx, const char *key, uint32_t i)
{
    (void)ctx;
    (void)key;
    (void)i;
    return "models.example";
}

static uint32_t host_metric(void *ctx, uint32_t type, const char *name, const char *help,
                            const char *labels, const double *bounds, uint32_t nbound)
{
    (void)ctx;
    (void)type;
    (void)name;
    (void)help;
    (void)labels;
    (void)bounds;
    (void)nbound;
    return TN_NONE;
}

static void host_metric_put(void *ctx, uint32_t id, double value)
{
    (void)ctx;
    (void)id;
    (void)value;
}

static tn_status host_json_open(void *ctx, const char *text, uint64_t size, const char *what,
                                uint32_t depth_max, tn_json_doc **doc, tn_err *err)
{
    (void)ctx;
    tn_status st = tn_json_open(text, (size_t)size, what, depth_max, doc, err);
    if (st == TN_OK)
        atomic_fetch_add(&fake.nopen, 1);
    return st;
}

static const tn_json *host_json_root(void *ctx, const tn_json_doc *doc)
{
    (void)ctx;
    return tn_json_root(doc);
}

static void host_json_close(void *ctx, tn_json_doc *doc)
{
    (void)ctx;
    rest(atomic_load(&fake.close_ms));
    tn_json_close(doc);
    atomic_fetch_sub(&fake.nopen, 1);
}

static uint64_t host_clock(void *ctx)
{
    struct timespec t;
    (void)ctx;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static tn_status front_model(void *ctx, uint32_t i, tn_model_info *out)
{
    (void)ctx;
    if (i > 0)
        return TN_NOINPUT;
    *out = (tn_model_info){.size = sizeof *out, .context_max = 64, .name = "m", .root = "m"};
    return TN_OK;
}

static tn_status front_submit(void *ctx, const tn_ask *ask, tn_request **out, tn_err *err)
{
    (void)ctx;
    (void)err;
    fake.ask = *ask;
    *out = (tn_request *)(void *)&fake; /* never looked into */
    atomic_fetch_add(&fake.nsubmit, 1);
    return TN_OK;
}

static void front_cancel(void *ctx, tn_request *r)
{
    (void)ctx;
    (void)r;
    atomic_fetch_add(&fake.ncancel, 1);
}

static void front_release(void *ctx, tn_request *r)
{
    (void)ctx;
    (void)r;
}

static void front_health(void *ctx, tn_health *out)
{
    (void)ctx;
    *out = (tn_health){.size = sizeof *out, .live = 1, .ready = 1, .why = "ok"};
}

/* As slow as a prompt of many megabytes, for as long as the test wants. */
static tn_status front_tokenize(void *ctx, const char *model, const tn_prompt *p, int32_t **ids,
                                uint64_t *nid, tn_err *err)
{
    (void)ctx;
    (void)model;
    (void)p;
    atomic_fetch_add(&fake.ntokenize, 1);
    while (atomic_load(&fake.hold) != 0)
        rest(1);
    *ids = calloc(1, sizeof **ids);
    *nid = 1;
    return *ids != NULL ? TN_OK : tn_fail(err, TN_NO_MEMORY, "fake");
}

static void front_give(void *ctx, void *p)
{
    (void)ctx;
    free(p);
}

static const char *front_version(void *ctx)
{
    (void)ctx;
    return "0";
}

/* Starts the frontend on a free port, which goes to *port. */
static void *server_open(uint16_t *port)
{
    void *self = NULL;
    tn_err err = {{0}, {0}, {0}};
    memset(&fake, 0, sizeof fake);
    fake.front = (tn_front_host){.size = sizeof fake.front, .model = front_model,
                                 .submit = front_submit, .cancel = front_cancel,
                                 .release = front_release, .give = front_give,
                                 .health = front_health, .version = front_version,
                                 .tokenize = front_tokenize};
    fake.host = (tn_host){.size = sizeof fake.host, .log = host_log, .opt_int = host_int,
                          .opt_text = host_text, .opt_count = host_count,
                          .opt_item = host_item, .metric = host_metric,
                          .metric_put = host_metric_put, .json_open = host_json_open,
                          .json_root = host_json_root, .json_close = host_json_close,
                          .clock = host_clock, .front = &fake.front};
    if (tn_plugin_entry.init(&fake.host, &self, &err) != TN_OK ||
        tn_plugin_entry.start(self, &err) != TN_OK)
        fail_msg("%s", err.text);
    const tn_front *table = tn_plugin_entry.table;
    const char *colon = strrchr(table->address(self), ':');
    *port = (uint16_t)strtoul(colon + 1, NULL, 10);
    return self;
}

/* -------------------------------------------------------------------------- the client */

static int dial(uint16_t port)
{
    const struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port),
                                   .sin_addr = {htonl(INADDR_LOOPBACK)}};
    const struct timeval patience = {.tv_sec = PATIENCE_MS / 1000};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience), 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&to, sizeof to), 0);
    return fd;
}

static void say(int fd, const char *text)
{
    assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
}

/* Sends a body of `size` bytes, blanks behind `json`. */
static void post(int fd, const char *path, const char *json, size_t size)
{
    size_t n = strlen(json);
    char *text = malloc(size + 256);
    assert_true(text != NULL && n <= size);
    int head = snprintf(text, 256, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
                        "application/json\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n",
                        path, size);
    memcpy(text + head, json, n);
    memset(text + head + n, ' ', size - n);
    text[(size_t)head + size] = 0;
    say(fd, text);
    free(text);
}

/* The reply's status, its text to `text`; 0 when there was none. */
static uint32_t hear(int fd, char *text, size_t max)
{
    size_t at = 0;
    for (ssize_t n; at + 1 < max && (n = recv(fd, text + at, max - 1 - at, 0)) > 0;)
        at += (size_t)n;
    text[at] = 0;
    return strncmp(text, "HTTP/1.1 ", 9) == 0 ? (uint32_t)strtoul(text + 9, NULL, 10) : 0;
}

/* Status of a GET with this Host; 0 when there was no answer. */
static uint32_t status_for_host(uint16_t port, const char *host)
{
    char text[512];
    int fd = dial(port);
    snprintf(text, sizeof text, "GET /v1/models HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n"
             "\r\n", host);
    say(fd, text);
    ssize_t n = recv(fd, text, sizeof text - 1, 0);
    close(fd);
    text[n > 0 ? n : 0] = 0;
    return strncmp(text, "HTTP/1.1 ", 9) == 0 ? (uint32_t)strtoul(text + 9, NULL, 10) : 0;
}

/* ---------------------------------------------------------------------------- the tests */

/* On loopback a page anywhere can reach us under a name that its owner lets point here. */
static void test_hosts(void **state)
{
    static const struct { const char *host; uint32_t status; } cases[] = {
        {"127.0.0.1", 200}, {"127.0.0.1:80", 200}, {"127.8.9.10", 200}, {"localhost:1", 200},
        {"LOCALHOST", 200}, {"[::1]", 200}, {"[::1]:8000", 200}, {"models.example", 200},
        {"127.0.0.1.evil.example", 403}, {"127.evil.example", 403}, {"127.0.0.1x", 403},
        {"127.", 403}, {"128.0.0.1", 403}, {"evil.example", 403},
        {"localhost.evil.example", 403}, {"models.example.evil.example", 403},
    };
    uint16_t port;
    void *self = server_open(&port);
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint32_t status = status_for_host(port, cases[i].host);
        if (status != cases[i].status)
            fail_msg("Host %s: status %u, expected %u", cases[i].host, status, cases[i].status);
    }
    tn_plugin_entry.stop(self);
}

typedef struct stopper {
    void *self;
    uint32_t nopen;              /* bodies still open when stop returned */
} stopper;

static void *stop_main(void *arg)
{
    stopper *s = arg;
    tn_plugin_entry.stop(s->self);
    s->nopen = atomic_load(&fake.nopen);
    return NULL;
}

/* The call's last use ends on the core's thread, long after its connection is gone: stop may
 * not return, and free what the call hangs on, before the call is taken down. */
static void test_stop_waits_for_calls(void **state)
{
    static const char body[] = "{\"model\":\"m\",\"prompt\":\"x\",\"max_tokens\":1}";
    const tn_piece last = {.size = sizeof last, .finish = TN_FINISH_ABORT, .last = 1, .text = "",
                           .status = TN_CANCELLED};
    char text[512];
    uint16_t port;
    pthread_t thread;
    stopper s = {.self = server_open(&port)};
    (void)state;
    int fd = dial(port);
    snprintf(text, sizeof text, "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
             "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
             sizeof body - 1, body);
    say(fd, text);
    assert_true(reaches(&fake.nsubmit, 1));
    assert_int_equal(pthread_create(&thread, NULL, stop_main, &s), 0);
    assert_true(reaches(&fake.ncancel, 1));
    rest(100); /* the connection's own use ends */
    atomic_store(&fake.close_ms, 200);
    fake.ask.on_piece(fake.ask.user, &last);
    assert_int_equal(pthread_join(thread, NULL), 0);
    close(fd);
    assert_int_equal(s.nopen, 0);
}

/* Clients that leave while their request is being taken apart: the watcher looks at a call whose
 * parts are being made. Every request is refused behind that, so no piece is waited for. */
static void test_leavers(void **state)
{
    char body[512] = "{\"n\":8,\"prompt\":[", text[1024];
    uint16_t port;
    void *self = server_open(&port);
    (void)state;
    for (int i = 0; i < 64; i++)
        strcat(body, i < 63 ? "\"\"," : "\"\"]}");
    snprintf(text, sizeof text, "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
             "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s", strlen(body), body);
    for (int i = 0; i < 300; i++) {
        const struct linger at_once = {.l_onoff = i % 2};
        int fd = dial(port);
        ssize_t sent = send(fd, text, strlen(text), MSG_NOSIGNAL);
        (void)sent; /* beyond the limit of connections it is closed at once */
        assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once), 0);
        close(fd);
    }
    uint32_t status = 0;
    for (uint32_t ms = 0; ms < PATIENCE_MS && status != 200; ms += 10) {
        rest(10);
        status = status_for_host(port, "localhost");
    }
    assert_int_equal(status, 200);
    tn_plugin_entry.stop(self);
    assert_int_equal(atomic_load(&fake.nopen), 0);
    assert_int_equal(atomic_load(&fake.nsubmit), 0);
}

#define LONG 70000u              /* bytes that MHD's threads do not work on */

/* More long prompts than there are threads: nobody else waits for them. */
static void test_long_bodies(void **state)
{
    char text[4096];
    uint16_t port;
    int fd[6];
    void *self = server_open(&port);
    (void)state;
    atomic_store(&fake.hold, 1);
    for (int i = 0; i < 6; i++) {
        fd[i] = dial(port);
        post(fd[i], "/tokenize", i == 5 ? "{\"prompt\":\"x\"" : "{\"prompt\":\"x\"}", LONG);
    }
    assert_true(reaches(&fake.ntokenize, 2));
    for (int i = 0; i < 8; i++)
        assert_int_equal(status_for_host(port, "localhost"), 200);
    close(fd[1]); /* two leave, of whom one at least waits */
    close(fd[3]);
    rest(50);
    atomic_store(&fake.hold, 0);
    for (int i = 0; i < 6; i++) {
        if (i == 1 || i == 3)
            continue;
        uint32_t status = hear(fd[i], text, sizeof text);
        if (status != (i == 5 ? 400 : 200) ||
            strstr(text, i == 5 ? "invalid_json" : "\"tokens\":[0]") == NULL)
            fail_msg("connection %d: status %u, %s", i, status, text);
        close(fd[i]);
    }
    tn_plugin_entry.stop(self);
    assert_int_equal(atomic_load(&fake.nopen), 0);
}

/* A long body that generates: its pieces come as ever, and what is refused is told. */
static void test_long_generation(void **state)
{
    const tn_piece last = {.size = sizeof last, .finish = TN_FINISH_LENGTH, .last = 1,
                           .text = "", .prompt_tokens = 1};
    char text[4096];
    uint16_t port;
    void *self = server_open(&port);
    (void)state;
    for (int stream = 0; stream < 2; stream++) {
        int fd = dial(port);
        post(fd, "/v1/completions", stream ? "{\"prompt\":\"x\",\"stream\":true}"
                                           : "{\"prompt\":\"x\"}", LONG);
        assert_true(reaches(&fake.nsubmit, (uint32_t)stream + 1));
        fake.ask.on_piece(fake.ask.user, &last);
        assert_int_equal(hear(fd, text, sizeof text), 200);
        assert_non_null(strstr(text, stream ? "[DONE]" : "\"finish_reason\":\"length\""));
        close(fd);
    }
    int fd = dial(port);
    post(fd, "/v1/chat/completions", "{\"messages\":5}", LONG);
    assert_int_equal(hear(fd, text, sizeof text), 400);
    close(fd);
    tn_plugin_entry.stop(self);
    assert_int_equal(atomic_load(&fake.nopen), 0);
}

/* Stop waits for what is worked on and lets go of what waits. */
static void test_stop_waits_for_the_desk(void **state)
{
    uint16_t port;
    pthread_t thread;
    int fd[5];
    stopper s = {.self = server_open(&port)};
    (void)state;
    atomic_store(&fake.hold, 1);
    for (int i = 0; i < 5; i++) {
        fd[i] = dial(port);
        post(fd[i], "/tokenize", "{\"prompt\":\"x\"}", LONG);
    }
    assert_true(reaches(&fake.ntokenize, 2));
    close(fd[0]);
    assert_int_equal(pthread_create(&thread, NULL, stop_main, &s), 0);
    rest(1500); /* longer than it waits for replies */
    atomic_store(&fake.hold, 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(s.nopen, 0);
    assert_int_equal(atomic_load(&fake.ntokenize), 2);
    for (int i = 1; i < 5; i++)
        close(fd[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hosts),
        cmocka_unit_test(test_stop_waits_for_calls),
        cmocka_unit_test(test_leavers),
        cmocka_unit_test(test_long_bodies),
        cmocka_unit_test(test_long_generation),
        cmocka_unit_test(test_stop_waits_for_the_desk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
