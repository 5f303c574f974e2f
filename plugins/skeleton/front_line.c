/* SPDX-License-Identifier: Apache-2.0 */
/* front_line.c - the smallest frontend: one line of prompt in, the reply's text out.
 *
 *   $ printf 'Once upon a time\n' | nc 127.0.0.1 7000
 *
 * One thread takes one connection at a time. Pieces arrive on the core's thread, which must
 * not wait for a client: they are copied into a reply that the connection's thread sends. */
#include <tenon/plugin.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define LINE_MAX_BYTES 65536u
#define REPLY_MAX_BYTES (1u << 20)
#define CLIENT_SECONDS 10

typedef struct front {
    const tn_host *h;
    pthread_mutex_t lock;      /* guards what follows it */
    pthread_cond_t changed;
    char *text;                /* [REPLY_MAX_BYTES] of the reply under way */
    size_t text_size;
    bool finished;
    tn_request *request;       /* under way, or NULL */
    bool stopping;
    int listener, wake[2];     /* -1: closed */
    pthread_t thread;
    bool running;
    char address[80];
} front;

/* ------------------------------------------------------------------------------- requests */

static void on_piece(void *user, const tn_piece *p)
{
    front *f = user;
    pthread_mutex_lock(&f->lock);
    size_t n = p->text_size, room = REPLY_MAX_BYTES - f->text_size;
    memcpy(f->text + f->text_size, p->text ? p->text : "", n < room ? n : room);
    f->text_size += n < room ? n : room;
    f->finished = p->last != 0;
    pthread_cond_signal(&f->changed);
    pthread_mutex_unlock(&f->lock);
}

/* Sends what has come until the last piece; a client that is gone cancels. */
static void send_reply(front *f, int client)
{
    size_t sent = 0;
    bool gone = false;
    pthread_mutex_lock(&f->lock);
    while (!f->finished || sent < f->text_size) {
        if (sent == f->text_size) {
            pthread_cond_wait(&f->changed, &f->lock);
            continue;
        }
        size_t n = f->text_size - sent;
        pthread_mutex_unlock(&f->lock); /* text[0, sent + n) does not change any more */
        if (!gone && send(client, f->text + sent, n, MSG_NOSIGNAL) != (ssize_t)n) {
            gone = true;
            f->h->front->cancel(f->h->ctx, f->request);
        }
        sent += n;
        pthread_mutex_lock(&f->lock);
    }
    pthread_mutex_unlock(&f->lock);
}

static tn_status submit(front *f, const char *prompt, size_t size, tn_err *err)
{
    tn_ask ask = {.size = sizeof ask, .n = 1, .temperature = NAN, .top_p = NAN, .min_p = NAN,
                  .repetition = NAN, .frequency = NAN, .presence = NAN, .top_k = INT32_MIN,
                  .max_tokens = f->h->opt_int(f->h->ctx, "max_tokens"), .logprobs = -1,
                  .prompt_logprobs = -1, .on_piece = on_piece, .user = f};
    ask.prompt = (tn_prompt){.size = sizeof ask.prompt, .kind = TN_PROMPT_TEXT, .text = prompt,
                             .text_size = size, .add_special = 1};
    pthread_mutex_lock(&f->lock);
    f->text_size = 0;
    f->finished = false;
    bool stopping = f->stopping;
    pthread_mutex_unlock(&f->lock);
    if (stopping)
        return tn_fail(err, TN_UNAVAILABLE, "stopping");
    tn_request *r = NULL;
    tn_status st = f->h->front->submit(f->h->ctx, &ask, &r, err);
    if (st != TN_OK)
        return st;
    pthread_mutex_lock(&f->lock);
    f->request = r;
    stopping = f->stopping; /* stop came meanwhile and saw no request to cancel */
    pthread_mutex_unlock(&f->lock);
    if (stopping)
        f->h->front->cancel(f->h->ctx, r);
    return TN_OK;
}

static void serve_line(front *f, int client, const char *line, size_t size)
{
    tn_err err;
    if (submit(f, line, size, &err) != TN_OK) {
        size_t n = strnlen(err.text, sizeof err.text);
        (void)!send(client, err.text, n, MSG_NOSIGNAL);
        return;
    }
    send_reply(f, client);
    pthread_mutex_lock(&f->lock);
    tn_request *r = f->request;
    f->request = NULL;
    pthread_mutex_unlock(&f->lock);
    f->h->front->release(f->h->ctx, r);
}

static void serve(front *f, int client)
{
    static const char too_long[] = "the line is longer than 65536 bytes\n";
    struct timeval limit = {.tv_sec = CLIENT_SECONDS};
    setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(client, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    char *line = f->h->alloc(f->h->ctx, LINE_MAX_BYTES);
    size_t n = 0;
    const char *end = NULL;
    while (line != NULL && end == NULL && n < LINE_MAX_BYTES) {
        ssize_t got = recv(client, line + n, LINE_MAX_BYTES - n, 0);
        if (got <= 0)
            break;
        end = memchr(line + n, '\n', (size_t)got);
        n += (size_t)got;
    }
    if (end != NULL)
        serve_line(f, client, line, (size_t)(end - line));
    else if (n == LINE_MAX_BYTES)
        (void)!send(client, too_long, sizeof too_long - 1, MSG_NOSIGNAL);
    f->h->release(f->h->ctx, line);
}

static void *take_clients(void *user)
{
    front *f = user;
    struct pollfd p[2] = {{.fd = f->listener, .events = POLLIN},
                          {.fd = f->wake[0], .events = POLLIN}};
    for (;;) {
        if (poll(p, 2, -1) < 0 && errno != EINTR)
            return NULL;
        if (p[1].revents != 0)
            return NULL;
        if (p[0].revents == 0)
            continue;
        int client = accept4(f->listener, NULL, NULL, SOCK_CLOEXEC);
        if (client >= 0) {
            serve(f, client);
            close(client);
        }
    }
}

/* ----------------------------------------------------------------------------------- life */

static tn_status open_port(front *f, tn_err *err)
{
    const char *host = f->h->opt_text(f->h->ctx, "host");
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)f->h->opt_int(f->h->ctx, "port"))};
    socklen_t size = sizeof a;
    int yes = 1;
    if (inet_pton(AF_INET, host, &a.sin_addr) != 1)
        return tn_fail(err, TN_CONFIG, "front_line: host %s; expected an IPv4 address", host);
    f->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (f->listener < 0)
        return tn_fail(err, TN_OS, "front_line: no socket: %s", strerror(errno));
    setsockopt(f->listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(f->listener, (struct sockaddr *)&a, sizeof a) != 0 || listen(f->listener, 16) != 0)
        return tn_fail(err, errno == EACCES ? TN_NOPERM : TN_UNAVAILABLE,
                       "front_line: %s port %u: %s", host, ntohs(a.sin_port), strerror(errno));
    if (getsockname(f->listener, (struct sockaddr *)&a, &size) == 0)
        snprintf(f->address, sizeof f->address, "line://%.40s:%u", host, ntohs(a.sin_port));
    return TN_OK;
}

static tn_status start(void *self, tn_err *err)
{
    front *f = self;
    if (f->h->front == NULL)
        return tn_fail(err, TN_INTERNAL, "front_line: the host lends no requests");
    tn_status st = open_port(f, err);
    if (st != TN_OK)
        return st;
    if (pipe2(f->wake, O_CLOEXEC) != 0)
        return tn_fail(err, TN_OS, "front_line: no pipe: %s", strerror(errno));
    int rc = pthread_create(&f->thread, NULL, take_clients, f);
    if (rc != 0)
        return tn_fail(err, TN_OS, "front_line: no thread: %s", strerror(rc));
    f->running = true;
    return TN_OK;
}

static void close_all(int *fd, int n)
{
    for (int i = 0; i < n; i++) {
        if (fd[i] >= 0)
            close(fd[i]);
        fd[i] = -1;
    }
}

/* No new client; the one being served is left to finish. */
static void stop_taking(front *f)
{
    if (!f->running)
        return;
    (void)!write(f->wake[1], "x", 1);
    pthread_join(f->thread, NULL);
    f->running = false;
}

static tn_status drain(void *self, uint32_t ms, tn_err *err)
{
    (void)ms;
    (void)err;
    stop_taking(self);
    return TN_OK;
}

static void stop(void *self)
{
    front *f = self;
    const tn_host *h = f->h;
    pthread_mutex_lock(&f->lock);
    f->stopping = true;
    if (f->request != NULL)
        h->front->cancel(h->ctx, f->request);
    pthread_mutex_unlock(&f->lock);
    stop_taking(f);
    close_all(&f->listener, 1);
    close_all(f->wake, 2);
    pthread_cond_destroy(&f->changed);
    pthread_mutex_destroy(&f->lock);
    h->release(h->ctx, f->text);
    h->release(h->ctx, f);
}

static tn_status init(const tn_host *h, void **self, tn_err *err)
{
    front *f = h->alloc(h->ctx, sizeof *f);
    char *text = h->alloc(h->ctx, REPLY_MAX_BYTES);
    if (f == NULL || text == NULL) {
        h->release(h->ctx, f);
        h->release(h->ctx, text);
        return tn_fail(err, TN_NO_MEMORY, "front_line: out of memory");
    }
    *f = (front){.h = h, .text = text, .listener = -1, .wake = {-1, -1}};
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->changed, NULL);
    *self = f;
    return TN_OK;
}

static const char *address(void *self)
{
    const front *f = self;
    return f->address[0] != 0 ? f->address : NULL;
}

static const tn_option options[] = {
    {.size = sizeof(tn_option), .type = TN_OPT_TEXT, .key = "host", .fallback = "127.0.0.1",
     .help = "IPv4 address to listen on."},
    {.size = sizeof(tn_option), .type = TN_OPT_INT, .key = "port", .fallback = "7000",
     .least = 0, .greatest = 65535, .help = "Port to listen on; 0 takes a free one."},
    {.size = sizeof(tn_option), .type = TN_OPT_INT, .key = "max_tokens", .fallback = "64",
     .least = 1, .greatest = 1048576, .help = "Tokens of a reply at most."},
};

static const tn_front table = {
    .size = sizeof(tn_front),
    .address = address,
};

const tn_plugin tn_plugin_entry = {
    .abi_major = TN_ABI_MAJOR,
    .abi_minor = TN_ABI_MINOR,
    .size = sizeof(tn_plugin),
    .kind = TN_KIND_FRONT,
    .name = "front_line",
    .version = "1.0",
    .summary = "One line of prompt in, the reply's text out.",
    .options = options,
    .noption = sizeof options / sizeof options[0],
    .table = &table,
    .init = init,
    .start = start,
    .drain = drain,
    .stop = stop,
};
