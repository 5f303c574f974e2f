/* SPDX-License-Identifier: Apache-2.0 */
/* plugin_check_front.c - a frontend's start, stop and restart before a small house of straw.
 *
 * The house serves one model, "check", whose every reply is "ok." in three pieces from a
 * thread of its own, so that a client of the frontend under check gets an answer. */
#include "plugin_check.h"

#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <netdb.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define RESTARTS 5

typedef struct straw {
    pthread_mutex_t lock;
    pthread_cond_t idle;
    uint32_t running;   /* replies under way */
    uint32_t submitted, released;
} straw;

struct tn_request {
    straw *house;
    void (*on_piece)(void *user, const tn_piece *p);
    void *user;
    pthread_mutex_t lock;
    bool cancelled;
    uint32_t holds;     /* the frontend's and the reply's */
};

static straw *house_of(void *ctx)
{
    return tn_wall_user(ctx);
}

static void drop(tn_request *r)
{
    pthread_mutex_lock(&r->lock);
    bool last = --r->holds == 0;
    pthread_mutex_unlock(&r->lock);
    if (last) {
        pthread_mutex_destroy(&r->lock);
        free(r);
    }
}

static void *reply(void *user)
{
    static const char *const text[] = {"o", "k", "."};
    struct timespec nap = {.tv_nsec = 2000000};
    tn_request *r = user;
    straw *house = r->house;
    bool over = false;
    for (uint32_t i = 0; i < 3 && !over; i++) {
        nanosleep(&nap, NULL);
        pthread_mutex_lock(&r->lock);
        over = r->cancelled || i == 2;
        tn_err why = {.text = "cancelled"};
        tn_piece p = {.size = sizeof p, .text = r->cancelled ? "" : text[i],
                      .text_size = r->cancelled ? 0 : 1, .last = over,
                      .finish = r->cancelled ? TN_FINISH_ABORT
                              : over ? TN_FINISH_STOP : TN_FINISH_NONE,
                      .prompt_tokens = 3, .reply_tokens = i + 1, .err = &why,
                      .status = r->cancelled ? TN_CANCELLED : TN_OK};
        pthread_mutex_unlock(&r->lock);
        r->on_piece(r->user, &p);
    }
    drop(r);
    pthread_mutex_lock(&house->lock);
    if (--house->running == 0)
        pthread_cond_signal(&house->idle);
    pthread_mutex_unlock(&house->lock);
    return NULL;
}

static tn_status front_submit(void *ctx, const tn_ask *ask, tn_request **out, tn_err *err)
{
    straw *house = house_of(ctx);
    pthread_t t;
    tn_request *r = calloc(1, sizeof *r);
    if (r == NULL)
        return tn_fail(err, TN_NO_MEMORY, "out of memory");
    *r = (tn_request){.house = house, .on_piece = ask->on_piece, .user = ask->user, .holds = 2};
    pthread_mutex_init(&r->lock, NULL);
    *out = r;
    pthread_mutex_lock(&house->lock);
    house->running++;
    house->submitted++;
    pthread_mutex_unlock(&house->lock);
    if (pthread_create(&t, NULL, reply, r) == 0) {
        pthread_detach(t);
        return TN_OK;
    }
    pthread_mutex_lock(&house->lock);
    house->running--;
    house->submitted--;
    pthread_mutex_unlock(&house->lock);
    drop(r);
    drop(r);
    return tn_fail(err, TN_BUSY, "no thread");
}

static void front_cancel(void *ctx, tn_request *r)
{
    (void)ctx;
    pthread_mutex_lock(&r->lock);
    r->cancelled = true;
    pthread_mutex_unlock(&r->lock);
}

static void front_release(void *ctx, tn_request *r)
{
    straw *house = house_of(ctx);
    pthread_mutex_lock(&house->lock);
    house->released++;
    pthread_mutex_unlock(&house->lock);
    drop(r);
}

static tn_status front_model(void *ctx, uint32_t i, tn_model_info *out)
{
    (void)ctx;
    if (i > 0)
        return TN_NOINPUT;
    *out = (tn_model_info){.size = sizeof *out, .context_max = 4096, .vocab = 256,
                           .flags = TN_MODEL_CHAT | TN_MODEL_READY, .created = 1700000000,
                           .name = "check", .root = "check"};
    return TN_OK;
}

static tn_status front_tokenize(void *ctx, const char *model, const tn_prompt *p, int32_t **ids,
                                uint64_t *nid, tn_err *err)
{
    (void)ctx;
    (void)model;
    uint64_t n = p->kind == TN_PROMPT_TEXT ? p->text_size : 1;
    *ids = malloc((size_t)(n + 1) * sizeof **ids);
    if (*ids == NULL)
        return tn_fail(err, TN_NO_MEMORY, "out of memory");
    for (uint64_t i = 0; i < n; i++)
        (*ids)[i] = p->kind == TN_PROMPT_TEXT ? (unsigned char)p->text[i] : 1;
    *nid = n;
    return TN_OK;
}

static tn_status give_text(const char *text, char **out, uint64_t *size, tn_err *err)
{
    *out = strdup(text);
    if (*out == NULL)
        return tn_fail(err, TN_NO_MEMORY, "out of memory");
    *size = strlen(text);
    return TN_OK;
}

static tn_status front_detokenize(void *ctx, const char *model, const int32_t *ids, uint64_t nid,
                                  uint32_t keep_special, char **text, uint64_t *size, tn_err *err)
{
    (void)ctx;
    (void)model;
    (void)ids;
    (void)nid;
    (void)keep_special;
    return give_text("text", text, size, err);
}

static const char *front_token_text(void *ctx, const char *model, int32_t id, uint32_t *size)
{
    (void)ctx;
    (void)model;
    *size = 1;
    return id >= 0 && id < 256 ? "x" : NULL;
}

static void front_give(void *ctx, void *p)
{
    (void)ctx;
    free(p);
}

static void front_health(void *ctx, tn_health *out)
{
    (void)ctx;
    *out = (tn_health){.size = sizeof *out, .live = 1, .ready = 1, .why = "ok"};
}

static tn_status front_metrics(void *ctx, char **text, uint64_t *size, tn_err *err)
{
    (void)ctx;
    return give_text("# none\n", text, size, err);
}

static const char *front_version(void *ctx)
{
    (void)ctx;
    return "check";
}

static const tn_front_host front_host = {
    .size = sizeof(tn_front_host),
    .model = front_model,
    .submit = front_submit,
    .cancel = front_cancel,
    .release = front_release,
    .tokenize = front_tokenize,
    .detokenize = front_detokenize,
    .token_text = front_token_text,
    .give = front_give,
    .health = front_health,
    .metrics = front_metrics,
    .version = front_version,
};

/* --------------------------------------------------------------------------------- clients */

/* "anything://1.2.3.4:56" or "anything://[::1]:56": a connection, or -1. */
static int connect_to(const char *address)
{
    char host[128], *port;
    struct addrinfo want = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM,
                            .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV}, *found;
    const char *at = strstr(address, "://");
    snprintf(host, sizeof host, "%s", at ? at + 3 : address);
    host[strcspn(host, "/")] = 0;
    port = strrchr(host, ':');
    if (port == NULL)
        return -1;
    *port++ = 0;
    char *name = host[0] == '[' ? host + 1 : host;
    name[strcspn(name, "]")] = 0;
    if (strcmp(name, "0.0.0.0") == 0)
        snprintf(host, 10, "127.0.0.1");
    if (getaddrinfo(name, port, &want, &found) != 0)
        return -1;
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval limit = {.tv_sec = 5};
    if (fd >= 0) {
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
        if (connect(fd, found->ai_addr, found->ai_addrlen) != 0) {
            close(fd);
            fd = -1;
        }
    }
    freeaddrinfo(found);
    return fd;
}

/* A line that most text protocols answer somehow, if only with a refusal. */
static bool is_answered(int fd)
{
    static const char line[] = "GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n";
    char c;
    if (send(fd, line, sizeof line - 1, MSG_NOSIGNAL) != (ssize_t)sizeof line - 1)
        return false;
    return recv(fd, &c, 1, 0) == 1;
}

/* ------------------------------------------------------------------------------------ check */

static bool is_all_given_back(straw *house)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 5;
    pthread_mutex_lock(&house->lock);
    while (house->running > 0
           && pthread_cond_timedwait(&house->idle, &house->lock, &until) != ETIMEDOUT)
        ;
    bool all = house->running == 0 && house->submitted == house->released;
    pthread_mutex_unlock(&house->lock);
    return all;
}

static tn_status serve_once(const tn_check *c, straw *house, bool *answered, char *address,
                            size_t size, tn_err *err)
{
    tn_check_room r;
    tn_status st = tn_check_enter(c, true, &front_host, house, &r, err);
    if (st != TN_OK)
        return st;
    const tn_front *f = r.guest->front;
    st = tn_wall_start(r.wall, 0, err);
    int held = -1;
    if (st == TN_OK) {
        const char *a = f->address ? f->address(r.guest->self) : NULL;
        snprintf(address, size, "%s", a ? a : "");
        int fd = connect_to(address);
        *answered = fd >= 0 && is_answered(fd);
        if (fd >= 0)
            close(fd);
        held = connect_to(address); /* stays open and silent across drain and stop */
        st = tn_wall_drain(r.wall, 0, 2000, err);
    }
    tn_wall_stop(r.wall, 0);
    is_all_given_back(house); /* the last piece's call may still be on its way out of the code */
    if (held >= 0)
        close(held);
    if (st == TN_OK && tn_wall_held(r.guest) > 0)
        st = tn_fail(err, TN_INTERNAL, "keeps %llu bytes of its host's memory after stop",
                     (unsigned long long)tn_wall_held(r.guest));
    tn_check_leave(&r);
    return st;
}

void tn_check_front(tn_check *c)
{
    straw house = {.running = 0};
    tn_err err = {.text = ""};
    char address[256] = "";
    bool answered = false;
    pthread_mutex_init(&house.lock, NULL);
    pthread_cond_init(&house.idle, NULL);
    for (int i = 0; i < RESTARTS; i++)
        if (serve_once(c, &house, &answered, address, sizeof address, &err) != TN_OK) {
            tn_check_fail(c, "start %d: %s", i + 1, err.text);
            return;
        }
    tn_check_ok(c, "started, drained and stopped %d times, a silent client notwithstanding",
                RESTARTS);
    if (address[0] == 0)
        tn_check_skip(c, "tells no address, so nobody called");
    else if (!answered)
        tn_check_fail(c, "gave no answer at %s", address);
    else
        tn_check_ok(c, "answered at %s", address);
    if (is_all_given_back(&house))
        tn_check_ok(c, "%u requests submitted, all released", house.submitted);
    else
        tn_check_fail(c, "%u requests submitted, %u released", house.submitted, house.released);
}
