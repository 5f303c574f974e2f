/* SPDX-License-Identifier: Apache-2.0 */
/* http_desk.c - where long bodies are worked on.
 *
 * Parsing and tokenizing some megabytes takes seconds, and a thread of MHD that does it serves
 * none of its other connections meanwhile, /health included. Such calls sleep in a queue; the
 * desk's few threads take them in turn, run their route's work and wake them. A call has a use
 * for as long as the desk knows it, so its connection may end at any time. */
#include "http.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#define DESK_THREADS 2u

struct http_desk {
    pthread_mutex_t lock;        /* of what is below; never held with a call's lock */
    pthread_cond_t work;
    pthread_t thread[DESK_THREADS];
    uint32_t nthread;
    http_call *first, *last;     /* waiting, linked by desk_next */
    bool stop;
};

static http_call *take(struct http_desk *d)
{
    pthread_mutex_lock(&d->lock);
    while (d->first == NULL && !d->stop)
        pthread_cond_wait(&d->work, &d->lock);
    http_call *c = d->first;
    if (c != NULL)
        d->first = c->desk_next;
    if (d->first == NULL)
        d->last = NULL;
    pthread_mutex_unlock(&d->lock);
    return c;
}

static bool is_gone(http_call *c)
{
    pthread_mutex_lock(&c->lock);
    bool gone = c->gone;
    pthread_mutex_unlock(&c->lock);
    return gone;
}

static void work(http_call *c)
{
    tn_err err = {{0}, {0}, {0}};
    tn_status st = TN_OK;
    if (!is_gone(c)) /* nobody waits for it any more */
        st = c->route->work(c, &err);
    pthread_mutex_lock(&c->lock);
    if (st != TN_OK) {
        c->refused = true;
        c->st = st;
        c->err = err;
    }
    c->at_desk = false;
    http_call_wake(c);
    pthread_mutex_unlock(&c->lock);
    http_call_drop(c);
}

static void *desk_main(void *arg)
{
    http_call *c;
    while ((c = take(arg)) != NULL)
        work(c);
    return NULL;
}

/* Signals are the main thread's business. */
static void threads_begin(struct http_desk *d)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (d->nthread < DESK_THREADS &&
           pthread_create(&d->thread[d->nthread], NULL, desk_main, d) == 0)
        d->nthread++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

tn_status http_desk_start(http_server *s, tn_err *err)
{
    struct http_desk *d = calloc(1, sizeof *d);
    if (d == NULL)
        return tn_fail(err, TN_NO_MEMORY, "http: no memory for its threads");
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->work, NULL);
    s->desk = d;
    threads_begin(d);
    if (d->nthread == DESK_THREADS)
        return TN_OK;
    http_desk_stop(s);
    return tn_fail(err, TN_OS, "http: the system gave no thread; expected %u more", DESK_THREADS);
}

void http_desk_stop(http_server *s)
{
    struct http_desk *d = s->desk;
    if (d == NULL)
        return;
    pthread_mutex_lock(&d->lock);
    d->stop = true; /* what waits is taken all the same: its clients are gone */
    pthread_cond_broadcast(&d->work);
    pthread_mutex_unlock(&d->lock);
    for (uint32_t i = 0; i < d->nthread; i++)
        pthread_join(d->thread[i], NULL);
    pthread_cond_destroy(&d->work);
    pthread_mutex_destroy(&d->lock);
    free(d);
    s->desk = NULL;
}

void http_desk_put(http_call *c)
{
    struct http_desk *d = c->s->desk;
    http_call_count(c);
    pthread_mutex_lock(&c->lock);
    c->at_desk = true;
    c->users++;
    pthread_mutex_unlock(&c->lock);
    pthread_mutex_lock(&d->lock);
    c->desk_next = NULL;
    if (d->last != NULL)
        d->last->desk_next = c;
    else
        d->first = c;
    d->last = c;
    pthread_cond_signal(&d->work);
    pthread_mutex_unlock(&d->lock);
}
