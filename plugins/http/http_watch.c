/* SPDX-License-Identifier: Apache-2.0 */
/* http_watch.c - clients that leave and deadlines that pass.
 *
 * MHD does not look at the socket of a suspended connection, so a client that hangs up while
 * the model works would go unseen. This thread waits for EPOLLRDHUP on the socket of every
 * call and once a second looks at the clocks. A client that only closes its sending side
 * counts as gone as well. */
#include "http.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define SECOND 1000000000ull
#define BEGIN_AFTER (10 * SECOND)   /* a stream without a token yet begins all the same */
#define HEARTBEAT (15 * SECOND)
#define EVENTS 64

struct http_watch {
    http_server *s;
    pthread_t thread;
    pthread_mutex_t lock;  /* taken before a call's lock, never after */
    http_call *head;
    uint64_t nticket;      /* calls so far; ticket 0 is the wake-up's */
    int epoll, wake;
    bool stop;
};

/* The call that an event is about; NULL when it was removed before the event was looked at. A
 * pointer in the event would not tell: the next call may lie where that one lay. */
static http_call *call_of(const struct http_watch *w, uint64_t ticket)
{
    http_call *c = w->head;
    while (c != NULL && c->ticket != ticket)
        c = c->next;
    return c;
}

static void keep_alive(http_call *c, uint64_t now)
{
    if (!c->streaming || !c->generating || c->finished || c->refused || c->st != TN_OK)
        return;
    if (!c->begun_stream && now - c->begun_ns > BEGIN_AFTER) {
        http_reply_begin(c);
        c->progress_ns = now;
        http_call_wake(c);
    } else if (c->begun_stream && now - c->spoke_ns > HEARTBEAT && c->out.len == 0) {
        http_text_puts(&c->out, ": waiting\n\n");
        c->spoke_ns = c->progress_ns = now;
        http_call_wake(c);
    }
}

static void look_at_clock(http_call *c, uint64_t now)
{
    const http_options *o = &c->s->opt;
    pthread_mutex_lock(&c->lock);
    bool slow_body = !c->handled && !c->answered && now - c->begun_ns > o->body_seconds * SECOND;
    bool stalled = c->generating && c->out.len > 0 && c->begun_stream &&
                   now - c->progress_ns > o->write_seconds * SECOND;
    if (!c->gone)
        keep_alive(c, now);
    bool gone = c->gone;
    pthread_mutex_unlock(&c->lock);
    if (slow_body && !gone) {
        http_raw_reply(c->fd, 408, "Request Timeout", "request_read_timeout",
                       "the body did not arrive in time");
        http_call_abandon(c);
    } else if (stalled && !gone) {
        http_call_abandon(c);
        shutdown(c->fd, SHUT_RDWR);
    }
}

static void take_event(struct http_watch *w, uint64_t ticket)
{
    http_call *c = call_of(w, ticket);
    if (c == NULL)
        return;
    epoll_ctl(w->epoll, EPOLL_CTL_DEL, c->fd, NULL);
    http_call_abandon(c);
}

static void *watch(void *user)
{
    struct http_watch *w = user;
    struct epoll_event event[EVENTS];
    uint64_t looked = http_now(w->s);
    for (;;) {
        int n = epoll_wait(w->epoll, event, EVENTS, 1000);
        pthread_mutex_lock(&w->lock);
        if (w->stop) {
            pthread_mutex_unlock(&w->lock);
            return NULL;
        }
        for (int i = 0; i < n; i++)
            take_event(w, event[i].data.u64);
        uint64_t now = http_now(w->s);
        for (http_call *c = w->head; c != NULL && now - looked >= SECOND; c = c->next)
            look_at_clock(c, now);
        if (now - looked >= SECOND)
            looked = now;
        pthread_mutex_unlock(&w->lock);
    }
}

tn_status http_watch_start(http_server *s, tn_err *err)
{
    struct http_watch *w = calloc(1, sizeof *w);
    if (w == NULL)
        return tn_fail(err, TN_NO_MEMORY, "http: no memory for the watcher");
    w->s = s;
    w->epoll = epoll_create1(EPOLL_CLOEXEC);
    w->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event e = {.events = EPOLLIN, .data = {.u64 = 0}};
    pthread_mutex_init(&w->lock, NULL);
    if (w->epoll < 0 || w->wake < 0 || epoll_ctl(w->epoll, EPOLL_CTL_ADD, w->wake, &e) != 0 ||
        pthread_create(&w->thread, NULL, watch, w) != 0) {
        tn_status st = tn_fail(err, TN_OS, "http: cannot start the watcher: %s",
                               strerror(errno));
        if (w->epoll >= 0)
            close(w->epoll);
        if (w->wake >= 0)
            close(w->wake);
        pthread_mutex_destroy(&w->lock);
        free(w);
        return st;
    }
    s->watch = w;
    return TN_OK;
}

void http_watch_stop(http_server *s)
{
    struct http_watch *w = s->watch;
    if (w == NULL)
        return;
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    pthread_mutex_unlock(&w->lock);
    uint64_t one = 1;
    ssize_t n = write(w->wake, &one, sizeof one); /* if it fails, the next second wakes it */
    (void)n;
    pthread_join(w->thread, NULL);
    close(w->epoll);
    close(w->wake);
    pthread_mutex_destroy(&w->lock);
    free(w);
    s->watch = NULL;
}

void http_watch_add(http_call *c)
{
    struct http_watch *w = c->s->watch;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(c->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    c->fd = info != NULL ? (int)info->connect_fd : -1;
    pthread_mutex_lock(&w->lock);
    c->ticket = ++w->nticket;
    struct epoll_event e = {.events = EPOLLRDHUP | EPOLLONESHOT, .data = {.u64 = c->ticket}};
    c->next = w->head;
    if (w->head != NULL)
        w->head->prev = c;
    w->head = c;
    if (c->fd >= 0)
        epoll_ctl(w->epoll, EPOLL_CTL_ADD, c->fd, &e); /* failing, only hang-ups go unseen */
    pthread_mutex_unlock(&w->lock);
}

void http_watch_remove(http_call *c)
{
    struct http_watch *w = c->s->watch;
    pthread_mutex_lock(&w->lock);
    if (c->fd >= 0)
        epoll_ctl(w->epoll, EPOLL_CTL_DEL, c->fd, NULL);
    if (c->prev != NULL)
        c->prev->next = c->next;
    else
        w->head = c->next;
    if (c->next != NULL)
        c->next->prev = c->prev;
    pthread_mutex_unlock(&w->lock);
}

void http_watch_each(http_server *s, void (*each)(http_call *c))
{
    struct http_watch *w = s->watch;
    if (w == NULL)
        return;
    pthread_mutex_lock(&w->lock);
    for (http_call *c = w->head; c != NULL; c = c->next)
        each(c);
    pthread_mutex_unlock(&w->lock);
}
