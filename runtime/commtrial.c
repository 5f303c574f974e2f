/* SPDX-License-Identifier: Apache-2.0 */
/* commtrial.c - one communicator's sums of one size: are they right, and how long do they take? */
#include "commtrial.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define FREED_MS 3000u         /* within which an abort has to free who waits */
#define NAP_NS 200000

/* What the thread works on; its own memory, since it may outlive the trial. */
typedef struct work {
    tn_trial t;
    tn_trial_room room;
    void *stream;
    double us;
    tn_status st;
    tn_err err;
    _Atomic uint32_t is_done;
} work;

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Small integers: exact in any order. */
static float value_of(uint32_t rank, uint64_t i)
{
    return (float)((i * 5 + rank * 11) % 29);
}

/* Copying waits for what the stream was given before. */
static tn_status settle(work *w)
{
    float first;
    return w->room.device->mem_copy(w->room.dev, &first, w->room.mem, sizeof first, &w->err);
}

static tn_status sum(work *w)
{
    return w->t.comm->all_reduce(w->t.group, w->room.mem, w->t.bytes / sizeof(float), TN_F32,
                                 w->stream, &w->err);
}

static tn_status check(work *w)
{
    const tn_device *d = w->room.device;
    float *x = w->room.host;
    uint64_t n = w->t.bytes / sizeof *x;
    for (uint64_t i = 0; i < n; i++)
        x[i] = value_of(w->t.rank, i);
    tn_status st = d->mem_copy(w->room.dev, w->room.mem, x, w->t.bytes, &w->err);
    if (st == TN_OK)
        st = sum(w);
    if (st == TN_OK)
        st = d->mem_copy(w->room.dev, x, w->room.mem, w->t.bytes, &w->err);
    for (uint64_t i = 0; st == TN_OK && i < n; i++) {
        float want = 0;
        for (uint32_t r = 0; r < w->t.nrank; r++)
            want += value_of(r, i);
        if (x[i] != want)
            st = tn_fail(&w->err, TN_DATA, "element %llu of a sum of %llu bytes is %g; expected %g",
                         (unsigned long long)i, (unsigned long long)w->t.bytes, (double)x[i],
                         (double)want);
    }
    return st;
}

/* Of zeros, which stay so however often they are summed. */
static tn_status measure(work *w)
{
    memset(w->room.host, 0, w->t.bytes);
    tn_status st = w->room.device->mem_copy(w->room.dev, w->room.mem, w->room.host, w->t.bytes,
                                            &w->err);
    if (st == TN_OK)
        st = sum(w);           /* all ranks are there when it ends */
    if (st == TN_OK)
        st = settle(w);
    uint64_t began = now_ns();
    for (uint32_t i = 0; st == TN_OK && i < w->t.calls; i++)
        st = sum(w);
    if (st == TN_OK)
        st = settle(w);
    w->us = (double)(now_ns() - began) / 1000 / w->t.calls;
    return st;
}

static void *work_on(void *user)
{
    work *w = user;
    w->st = check(w);
    if (w->st == TN_OK)
        w->st = measure(w);
    atomic_store(&w->is_done, 1);
    return NULL;
}

static bool is_done_by(work *w, uint64_t end_ns, tn_status *health, tn_err *err)
{
    const tn_comm *c = w->t.comm;
    struct timespec nap = {.tv_nsec = NAP_NS};
    while (!atomic_load(&w->is_done)) {
        if (now_ns() > end_ns)
            return false;
        nanosleep(&nap, NULL);
        if (health != NULL && c->health != NULL && *health == TN_OK
            && (*health = c->health(w->t.group, err)) != TN_OK)
            return false;
    }
    return true;
}

static tn_status verdict(work *w, tn_err *err)
{
    const tn_comm *c = w->t.comm;
    if (w->st != TN_OK)
        return tn_fail(err, w->st, "%.900s", w->err.text);
    /* A call that was given up on a device ends like any other. */
    return c->health != NULL ? c->health(w->t.group, err) : TN_OK;
}

tn_status tn_trial_run(const tn_trial *t, const tn_trial_room *room, double *us, bool *stuck,
                       tn_err *err)
{
    tn_status health = TN_OK;
    pthread_t thread;
    work *w = calloc(1, sizeof *w);
    *stuck = false;
    if (w == NULL || room->mem == NULL) {
        free(w);
        return tn_fail(err, TN_NO_MEMORY, "out of memory");
    }
    w->t = *t;
    w->room = *room;
    w->stream = room->device->stream != NULL ? room->device->stream(room->dev) : NULL;
    if (pthread_create(&thread, NULL, work_on, w) != 0) {
        free(w);
        return tn_fail(err, TN_OS, "no thread");
    }
    tn_status st = TN_OK;
    if (!is_done_by(w, now_ns() + t->limit_ms * 1000000ull, &health, err)) {
        st = health != TN_OK ? health
            : tn_fail(err, TN_TIMEOUT, "a sum of %llu bytes did not end within %u ms",
                      (unsigned long long)t->bytes, t->limit_ms);
        if (t->comm->abort != NULL)
            t->comm->abort(t->group);
        *stuck = !is_done_by(w, now_ns() + FREED_MS * 1000000ull, NULL, NULL);
    }
    if (*stuck) {
        pthread_detach(thread);
        return st;             /* what it works on stays */
    }
    pthread_join(thread, NULL);
    if (st == TN_OK)
        st = verdict(w, err);
    if (st == TN_OK)
        *us = w->us;
    else if (t->comm->abort != NULL)
        t->comm->abort(t->group); /* the others wait for this rank's next call */
    free(w);
    return st;
}

tn_status tn_trial_open(const tn_device *device, void *dev, uint64_t size, tn_trial_room *out,
                        tn_err *err)
{
    *out = (tn_trial_room){.device = device, .dev = dev, .size = size};
    if (device->mem_take == NULL || device->mem_give == NULL || device->mem_copy == NULL)
        return tn_fail(err, TN_UNSUPPORTED, "the device lends no memory");
    out->host = malloc(size);
    if (out->host == NULL)
        return tn_fail(err, TN_NO_MEMORY, "out of memory");
    tn_status st = device->mem_take(dev, size, &out->mem, err);
    if (st != TN_OK) {
        free(out->host);
        out->host = NULL;
        out->mem = NULL;
    }
    return st;
}

void tn_trial_close(tn_trial_room *room)
{
    if (room->mem != NULL)
        room->device->mem_give(room->dev, room->mem);
    free(room->host);
    *room = (tn_trial_room){.device = NULL};
}
