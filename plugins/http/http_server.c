/* SPDX-License-Identifier: Apache-2.0 */
/* http_server.c - sockets, framing and bodies, on libmicrohttpd.
 *
 * MHD calls the handler once when the headers are in, then with pieces of the body, then once
 * more; a handler that has nothing to say yet suspends the connection and is called again
 * after it was resumed. What is refused by its headers alone is answered in the first call,
 * so that its body is never read. */
#include "http.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CONNECTION_MEMORY 32768u
#define STREAM_CHUNK 16384u
#define SPARE_FILES 64u
#define QUERY_ITEMS_MAX 64u      /* no path of ours looks at any */
#define ANSWERS_NS UINT64_C(1000000000) /* that a stop waits for replies to be read */
#define JSON_TYPE "application/json"

static const uint32_t counted[HTTP_STATUS_COUNT] = {200, 204, 400, 401, 403, 404, 405, 408, 409,
                                                    413, 415, 429, 500, 503, 504};

static void count(http_call *c, uint32_t status)
{
    if (c->route == NULL)
        return;
    uint32_t r = (uint32_t)(c->route - http_route_at(0));
    for (uint32_t i = 0; i < HTTP_STATUS_COUNT; i++)
        if (counted[i] == status)
            c->s->h->metric_put(c->s->h->ctx, c->s->series[r * HTTP_STATUS_COUNT + i], 1);
}

static void declare_series(http_server *s)
{
    for (uint32_t r = 0; r < http_route_count(); r++)
        for (uint32_t i = 0; i < HTTP_STATUS_COUNT; i++) {
            char labels[160];
            const http_route *route = http_route_at(r);
            snprintf(labels, sizeof labels, "handler=\"%s\",method=\"%s\",status=\"%u\"",
                     route->path, route->method, counted[i]);
            s->series[r * HTTP_STATUS_COUNT + i] =
                counted[i] == 0 ? TN_NONE
                                : s->h->metric(s->h->ctx, TN_METRIC_COUNTER, "http_requests_total",
                                               "HTTP requests answered.", labels, NULL, 0);
        }
}

static void add_headers(http_call *c, struct MHD_Response *r)
{
    const char *origin = http_guard_origin(c->s, c->connection);
    if (origin != NULL) {
        MHD_add_response_header(r, "Access-Control-Allow-Origin", origin);
        MHD_add_response_header(r, "Vary", "Origin");
    }
    if (c->s->opt.request_id_header)
        MHD_add_response_header(r, "X-Request-Id", c->id);
}

static enum MHD_Result queue(http_call *c, uint32_t status, struct MHD_Response *r)
{
    add_headers(c, r);
    pthread_mutex_lock(&c->lock); /* the watcher reads it */
    c->answered = true;
    pthread_mutex_unlock(&c->lock);
    c->status = status;
    count(c, status);
    enum MHD_Result ok = MHD_queue_response(c->connection, status, r);
    MHD_destroy_response(r);
    return ok;
}

enum MHD_Result http_answer(http_call *c, uint32_t status, const char *type, const char *text,
                            size_t size)
{
    struct MHD_Response *r =
        MHD_create_response_from_buffer(size, (void *)(uintptr_t)text, MHD_RESPMEM_MUST_COPY);
    if (r == NULL)
        return MHD_NO;
    if (size > 0)
        MHD_add_response_header(r, "Content-Type", type);
    return queue(c, status, r);
}

static uint32_t retry_after(const http_call *c)
{
    tn_health h = {.size = sizeof h};
    c->s->front->health(c->s->h->ctx, &h);
    return h.retry_after < 1 ? 1 : h.retry_after > 60 ? 60 : h.retry_after;
}

enum MHD_Result http_answer_error(http_call *c, tn_status st, const tn_err *err)
{
    const char *type, *code;
    uint32_t status = http_error_status(st, err, &type, &code);
    http_text t;
    http_text_open(&t, 65536);
    http_reply_error(&t, st, err, false);
    struct MHD_Response *r = MHD_create_response_from_buffer(
        t.len, t.data != NULL ? t.data : (char[1]){0}, MHD_RESPMEM_MUST_COPY);
    http_text_close(&t);
    if (r == NULL)
        return MHD_NO;
    char number[16];
    MHD_add_response_header(r, "Content-Type", JSON_TYPE);
    if (status == 401)
        MHD_add_response_header(r, "WWW-Authenticate", "Bearer");
    if (status == 429 || status == 503) {
        snprintf(number, sizeof number, "%u", retry_after(c));
        MHD_add_response_header(r, "Retry-After", number);
    }
    if (status == 500) { /* it would fail again */
        MHD_add_response_header(r, "x-should-retry", "false");
        if (err->text[0] != 0)
            c->s->h->log(c->s->h->ctx, TN_LOG_ERROR, err->text);
    }
    return queue(c, status, r);
}

void http_raw_reply(int fd, uint32_t status, const char *reason, const char *code,
                    const char *message)
{
    char body[512], all[1024];
    int n = snprintf(body, sizeof body, "{\"error\":{\"message\":\"%s\",\"type\":\"%s\",\"param\":"
                     "null,\"code\":\"%s\"}}", message,
                     status == 408 ? "timeout_error" : "invalid_request_error", code);
    int m = snprintf(all, sizeof all, "HTTP/1.1 %u %s\r\nContent-Type: " JSON_TYPE "\r\n"
                     "Content-Length: %d\r\nConnection: close\r\n\r\n%s", status, reason, n, body);
    if (fd >= 0 && m > 0) { /* fits any socket's buffer; failing, the client is gone anyway */
        ssize_t sent = send(fd, all, (size_t)m, MSG_NOSIGNAL | MSG_DONTWAIT);
        (void)sent;
        shutdown(fd, SHUT_RDWR);
    }
}

/* Gives MHD what has been written; suspends when there is nothing. */
static ssize_t read_stream(void *user, uint64_t pos, char *to, size_t max)
{
    http_call *c = user;
    (void)pos;
    ssize_t n = 0;
    pthread_mutex_lock(&c->lock);
    if (c->gone) {
        n = MHD_CONTENT_READER_END_WITH_ERROR;
    } else if (c->out.len > 0) {
        n = (ssize_t)(c->out.len < max ? c->out.len : max);
        memcpy(to, c->out.data, (size_t)n);
        http_text_drop(&c->out, (size_t)n);
        c->progress_ns = http_now(c->s);
    } else if (c->finished) {
        n = MHD_CONTENT_READER_END_OF_STREAM;
    } else {
        c->suspended = true;
        MHD_suspend_connection(c->connection);
    }
    pthread_mutex_unlock(&c->lock);
    return n;
}

static enum MHD_Result queue_stream(http_call *c)
{
    struct MHD_Response *r = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_CHUNK,
                                                               read_stream, c, NULL);
    if (r == NULL)
        return MHD_NO;
    MHD_add_response_header(r, "Content-Type", "text/event-stream; charset=utf-8");
    MHD_add_response_header(r, "Cache-Control", "no-cache");
    MHD_add_response_header(r, "X-Accel-Buffering", "no");
    return queue(c, MHD_HTTP_OK, r);
}

/* What can be answered now? With the lock held a connection that must wait is suspended. */
static enum MHD_Result go_on(http_call *c)
{
    enum { WAIT, LEAVE, FAIL, STREAM, WHOLE } next = WAIT;
    pthread_mutex_lock(&c->lock);
    if (c->gone)
        next = LEAVE;
    else if (c->at_desk)
        next = WAIT;
    else if (c->refused)
        next = FAIL;
    else if (c->begun_stream)
        next = STREAM;
    else if (c->st != TN_OK)
        next = FAIL;
    else if (c->finished)
        next = c->streaming ? STREAM : WHOLE;
    if (next == WAIT) {
        c->suspended = true;
        MHD_suspend_connection(c->connection);
    }
    pthread_mutex_unlock(&c->lock);
    switch (next) {
    case WAIT: return MHD_YES;
    case STREAM: return queue_stream(c);
    case FAIL: return http_answer_error(c, c->st, &c->err);
    case WHOLE: return http_answer(c, MHD_HTTP_OK, JSON_TYPE, c->out.data, c->out.len);
    default: return MHD_NO;
    }
}

enum MHD_Result http_work(http_call *c)
{
    tn_err err = {{0}, {0}, {0}};
    tn_status st = TN_OK;
    bool begun = c->begun;
    c->begun = true;
    if (!begun && c->body.len > HTTP_BODY_LIGHT) {
        st = http_call_admit(c, &err);
        if (st == TN_OK)
            http_desk_put(c);
    } else if (!begun) {
        st = c->route->work(c, &err);
    }
    return st == TN_OK ? go_on(c) : http_answer_error(c, st, &err);
}

/* As generation: begun once, then gone on with when its connection was woken. */
enum MHD_Result http_session(http_call *c)
{
    tn_err err = {{0}, {0}, {0}};
    tn_status st = c->generating ? TN_OK : http_session_begin(c, &err);
    return st == TN_OK ? go_on(c) : http_answer_error(c, st, &err);
}

/* -------- one request, from its headers to its handler */

static enum MHD_Result answer_options(http_call *c, const char *allow)
{
    struct MHD_Response *r = MHD_create_response_from_buffer(0, (char[1]){0},
                                                             MHD_RESPMEM_MUST_COPY);
    if (r == NULL)
        return MHD_NO;
    MHD_add_response_header(r, "Allow", allow);
    if (http_guard_origin(c->s, c->connection) != NULL) {
        MHD_add_response_header(r, "Access-Control-Allow-Methods", allow);
        MHD_add_response_header(r, "Access-Control-Allow-Headers", "authorization, content-type, "
                                "x-request-id");
    }
    return queue(c, MHD_HTTP_NO_CONTENT, r);
}

static enum MHD_Result answer_no_route(http_call *c, bool path_exists, const char *allow)
{
    tn_err err = {{0}, {0}, {0}};
    if (!path_exists) {
        tn_fail(&err, TN_NOINPUT, "no such path; expected one of the API's");
        snprintf(err.code, sizeof err.code, "not_found");
        return http_answer_error(c, TN_NOINPUT, &err);
    }
    tn_fail(&err, TN_REFUSED, "the path does not offer this method; expected %s", allow);
    snprintf(err.code, sizeof err.code, "method_not_allowed");
    http_text t;
    http_text_open(&t, 4096);
    http_reply_error(&t, TN_REFUSED, &err, false);
    struct MHD_Response *r =
        t.data != NULL ? MHD_create_response_from_buffer(t.len, t.data, MHD_RESPMEM_MUST_COPY)
                       : NULL;
    http_text_close(&t);
    if (r == NULL)
        return MHD_NO;
    MHD_add_response_header(r, "Content-Type", JSON_TYPE);
    MHD_add_response_header(r, "Allow", allow);
    return queue(c, MHD_HTTP_METHOD_NOT_ALLOWED, r);
}

static bool body_too_long(const http_call *c)
{
    const char *length = MHD_lookup_connection_value(c->connection, MHD_HEADER_KIND,
                                                     "Content-Length");
    uint64_t v = 0;
    for (const char *p = length; p != NULL && *p >= '0' && *p <= '9'; p++) {
        v = v * 10 + (uint64_t)(*p - '0');
        if (v > c->s->opt.body_max)
            return true;
    }
    return false;
}

static tn_status refuse_length(const http_call *c, tn_err *err)
{
    tn_fail(err, TN_REFUSED, "body: too long; expected at most %llu bytes",
            (unsigned long long)c->s->opt.body_max);
    snprintf(err->code, sizeof err->code, "body_too_large");
    return TN_REFUSED;
}

/* Everything that the headers alone decide. */
static enum MHD_Result take_headers(http_call *c, const char *path, const char *method)
{
    tn_err err = {{0}, {0}, {0}};
    char allow[64];
    bool path_exists = false, options = strcmp(method, "OPTIONS") == 0;
    c->route = http_route_find(path, method, &path_exists, allow);
    tn_status st = http_guard_framing(c->connection, &err);
    if (st == TN_OK)
        st = http_guard_check(c->s, c->connection,
                              options || (c->route != NULL && c->route->open), c->salt, &err);
    if (st != TN_OK)
        return http_answer_error(c, st, &err);
    if (options && path_exists)
        return answer_options(c, allow);
    if (c->route == NULL)
        return answer_no_route(c, path_exists, allow);
    if (strcmp(c->route->name, "model") == 0)
        snprintf(c->model, sizeof c->model, "%s", path + strlen(c->route->path));
    if (c->route->body)
        st = http_guard_body(c->connection, &err);
    if (st == TN_OK && body_too_long(c))
        st = refuse_length(c, &err);
    return st == TN_OK ? MHD_YES : http_answer_error(c, st, &err);
}

/* MHD keeps every item of a query in the connection's memory, and a connection whose memory they
 * fill hangs until it times out. It shows us the line before it takes it apart. */
static void *on_request_line(void *user, const char *uri, struct MHD_Connection *connection)
{
    const char *query = strchr(uri, '?');
    uint32_t n = query != NULL;
    (void)user;
    for (const char *p = query; p != NULL && (p = strchr(p, '&')) != NULL; p++)
        n++;
    if (n <= QUERY_ITEMS_MAX)
        return NULL;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    char text[96];
    snprintf(text, sizeof text, "the query has %u items; expected at most %u", n, QUERY_ITEMS_MAX);
    if (info != NULL)
        http_raw_reply((int)info->connect_fd, 400, "Bad Request", "value_out_of_range", text);
    return NULL;
}

static enum MHD_Result on_request(void *user, struct MHD_Connection *connection, const char *path,
                                  const char *method, const char *version, const char *data,
                                  size_t *size, void **slot)
{
    http_server *s = user;
    http_call *c = *slot;
    (void)version;
    if (c == NULL) {
        c = http_call_new(s, connection);
        if (c == NULL)
            return MHD_NO;
        *slot = c;
        http_watch_add(c);
        return take_headers(c, path, method);
    }
    if (c->answered) { /* the rest of a body whose request was refused */
        *size = 0;
        return MHD_YES;
    }
    if (*size > 0) {
        if (c->route->body)
            http_text_put(&c->body, data, *size);
        *size = 0;
        if (!c->body.failed)
            return MHD_YES;
        http_raw_reply(c->fd, 413, "Content Too Large", "body_too_large", "the body is too long");
        return MHD_NO;
    }
    pthread_mutex_lock(&c->lock); /* the watcher reads it */
    c->handled = true;
    pthread_mutex_unlock(&c->lock);
    return c->route->run(c);
}

/* What is asked again and again by machines says nothing at level info. */
static bool is_probe(const http_route *r)
{
    static const char *const names[] = {"health", "ping", "metrics"};
    for (size_t i = 0; r != NULL && i < sizeof names / sizeof *names; i++)
        if (strcmp(r->name, names[i]) == 0)
            return true;
    return false;
}

/* Of the request only what is ours: a path that no route has is a stranger's text. */
static void log_access(const http_call *c, enum MHD_RequestTerminationCode why)
{
    http_server *s = c->s;
    char who[64] = "?", text[256];
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(c->connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    if (!s->opt.access_log)
        return;
    if (info != NULL && info->client_addr != NULL) {
        const struct sockaddr *a = info->client_addr;
        socklen_t n = a->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6)
                                               : sizeof(struct sockaddr_in);
        (void)getnameinfo(a, n, who, sizeof who, NULL, 0, NI_NUMERICHOST);
    }
    snprintf(text, sizeof text, "%s %s %s %u, %.3f s%s", who, c->route ? c->route->method : "-",
             c->route ? c->route->path : "(no such path)", c->status,
             (double)(http_now(s) - c->begun_ns) / 1e9,
             why == MHD_REQUEST_TERMINATED_COMPLETED_OK ? "" : ", cut off");
    s->h->log(s->h->ctx, is_probe(c->route) ? TN_LOG_DEBUG : TN_LOG_INFO, text);
}

static void on_completed(void *user, struct MHD_Connection *connection, void **slot,
                         enum MHD_RequestTerminationCode why)
{
    http_call *c = *slot;
    (void)user;
    (void)connection;
    if (c == NULL)
        return;
    *slot = NULL;
    log_access(c, why);
    http_watch_remove(c);
    pthread_mutex_lock(&c->lock);
    c->suspended = false; /* never resume a connection that is over */
    pthread_mutex_unlock(&c->lock);
    http_call_abandon(c);
    http_call_drop(c);
}

__attribute__((format(printf, 2, 0)))
static void on_mhd_log(void *user, const char *fmt, va_list ap)
{
    http_server *s = user;
    char text[512];
    vsnprintf(text, sizeof text, fmt, ap);
    for (char *p = text; *p != 0; p++)
        if ((unsigned char)*p < 0x20)
            *p = ' ';
    s->h->log(s->h->ctx, TN_LOG_DEBUG, text);
}

/* -------- the listening socket */

static tn_status listen_failed(const http_server *s, int fd, const char *what, tn_err *err)
{
    int e = errno;
    if (fd >= 0)
        close(fd);
    return tn_fail(err, e == EACCES ? TN_NOPERM : TN_UNAVAILABLE, "http: cannot %s %s port %u: %s",
                   what, s->opt.host, s->opt.port, strerror(e));
}

static bool is_loopback(const struct sockaddr *a)
{
    if (a->sa_family == AF_INET)
        return (ntohl(((const struct sockaddr_in *)a)->sin_addr.s_addr) >> 24) == 127;
    return a->sa_family == AF_INET6 &&
           IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)a)->sin6_addr);
}

static void name_address(http_server *s, int fd)
{
    struct sockaddr_storage a;
    socklen_t n = sizeof a;
    char host[256], port[16];
    if (getsockname(fd, (struct sockaddr *)&a, &n) != 0 ||
        getnameinfo((struct sockaddr *)&a, n, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return;
    bool six = strchr(host, ':') != NULL;
    snprintf(s->address, sizeof s->address, "http://%s%s%s:%s", six ? "[" : "", host,
             six ? "]" : "", port);
}

static tn_status resolve(const http_server *s, struct addrinfo **list, tn_err *err)
{
    struct addrinfo hint = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    char port[16];
    snprintf(port, sizeof port, "%u", s->opt.port);
    int e = getaddrinfo(s->opt.host, port, &hint, list);
    if (e == 0)
        return TN_OK;
    return tn_fail(err, TN_CONFIG, "http: host %s: %s; expected an address of this machine",
                   s->opt.host, gai_strerror(e));
}

/* "localhost" means both: the older one goes first. */
static const struct addrinfo *pick_address(const struct addrinfo *list)
{
    for (const struct addrinfo *i = list; i != NULL; i = i->ai_next)
        if (i->ai_family == AF_INET)
            return i;
    return list;
}

/* A model may take minutes to load: that its port is taken is worth knowing before. Whatever
 * else may be wrong with the address is found, and told, when it is taken. */
static tn_status check_port(const http_server *s, const struct addrinfo *a, tn_err *err)
{
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    if (fd < 0)
        return TN_OK;
    bool taken = setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) == 0 &&
                 bind(fd, a->ai_addr, a->ai_addrlen) != 0 && errno == EADDRINUSE;
    if (taken)
        return listen_failed(s, fd, "bind", err);
    close(fd);
    return TN_OK;
}

tn_status http_server_check(const http_server *s, tn_err *err)
{
    struct addrinfo *list = NULL;
    tn_status st = resolve(s, &list, err);
    if (st != TN_OK)
        return st;
    st = check_port(s, pick_address(list), err);
    freeaddrinfo(list);
    return st;
}

static tn_status open_socket(http_server *s, int *out, tn_err *err)
{
    struct addrinfo *list = NULL;
    tn_status st = resolve(s, &list, err);
    if (st != TN_OK)
        return st;
    const struct addrinfo *pick = pick_address(list);
    int fd = socket(pick->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), one = 1;
    if (fd < 0)
        st = listen_failed(s, fd, "make a socket for", err);
    else if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0 ||
             bind(fd, pick->ai_addr, pick->ai_addrlen) != 0)
        st = listen_failed(s, fd, "bind", err);
    else if (listen(fd, 1024) != 0)
        st = listen_failed(s, fd, "listen on", err);
    if (st == TN_OK) {
        s->loopback = is_loopback(pick->ai_addr);
        name_address(s, fd);
        *out = fd;
    }
    freeaddrinfo(list);
    return st;
}

/* Every connection is a file; too few of them would show as clients that cannot connect. */
static tn_status raise_files(const http_server *s, tn_err *err)
{
    struct rlimit l;
    rlim_t need = s->opt.connections + SPARE_FILES;
    if (getrlimit(RLIMIT_NOFILE, &l) != 0 || l.rlim_cur >= need)
        return TN_OK;
    if (l.rlim_max != RLIM_INFINITY && l.rlim_max < need)
        return tn_fail(err, TN_OS, "http: %llu open files are allowed; expected %llu for "
                       "connection_limit = %u", (unsigned long long)l.rlim_max,
                       (unsigned long long)need, s->opt.connections);
    l.rlim_cur = need;
    if (setrlimit(RLIMIT_NOFILE, &l) != 0)
        return tn_fail(err, TN_OS, "http: cannot allow %llu open files: %s",
                       (unsigned long long)need, strerror(errno));
    return TN_OK;
}

tn_status http_server_start(http_server *s, tn_err *err)
{
    int fd = -1;
    tn_status st = raise_files(s, err);
    if (st == TN_OK)
        st = open_socket(s, &fd, err);
    if (st == TN_OK)
        st = http_watch_start(s, err);
    if (st == TN_OK)
        st = http_desk_start(s, err);
    if (st != TN_OK) {
        http_watch_stop(s);
        if (fd >= 0)
            close(fd);
        return st;
    }
    declare_series(s);
    unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG;
    s->daemon = MHD_start_daemon(
        flags, 0, NULL, NULL, on_request, s, MHD_OPTION_EXTERNAL_LOGGER, on_mhd_log, s,
        MHD_OPTION_URI_LOG_CALLBACK, on_request_line, s, MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_NOTIFY_COMPLETED, on_completed, s,
        MHD_OPTION_CONNECTION_LIMIT, s->opt.connections, MHD_OPTION_PER_IP_CONNECTION_LIMIT,
        s->opt.per_address, MHD_OPTION_CONNECTION_TIMEOUT, s->opt.idle_seconds,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY,
        MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_THREAD_POOL_SIZE, s->opt.threads,
        MHD_OPTION_END);
    if (s->daemon == NULL) {
        http_desk_stop(s);
        http_watch_stop(s);
        close(fd);
        return tn_fail(err, TN_UNAVAILABLE, "http: libmicrohttpd %s did not start on %s",
                       MHD_get_version(), s->address);
    }
    return TN_OK;
}

/* Requests that the engine has just cut off are answered already, but not yet sent: whoever
 * reads gets to know. */
static void let_answers_out(http_server *s)
{
    uint64_t until = http_now(s) + ANSWERS_NS;
    while (atomic_load(&s->ncall) > 0 && http_now(s) < until) {
        struct timespec t = {.tv_nsec = 5000000};
        nanosleep(&t, NULL);
    }
}

void http_server_stop(http_server *s)
{
    if (s->daemon == NULL)
        return;
    atomic_store(&s->draining, true);
    let_answers_out(s);
    atomic_store(&s->stopping, true);
    http_watch_each(s, http_call_abandon); /* none may be suspended when MHD stops */
    MHD_stop_daemon(s->daemon);
    http_desk_stop(s);
    http_watch_stop(s);
    s->daemon = NULL;
}
