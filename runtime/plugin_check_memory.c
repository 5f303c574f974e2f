/* SPDX-License-Identifier: Apache-2.0 */
/* plugin_check_memory.c - buffers for a communicator's check, in the host's memory or a device's.
 *
 * On a device a call is only begun, and copying waits for the stream, without end when the group
 * is broken. So another thread waits, while this one asks for the group's health. */
#include "plugin_check_comm.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

bool tn_comm_open_device(tn_comm_rank *r, uint32_t index)
{
    tn_err err = {.text = ""};
    r->device = r->room.device->device;
    if (r->device->mem_take == NULL || r->device->mem_give == NULL || r->device->mem_copy == NULL)
        return tn_comm_failed(r, "device", "%s lends no memory", r->room.device->name);
    if (r->device->open(r->room.device->self, index, &r->dev, &err) != TN_OK)
        return tn_comm_failed(r, "device", "%.800s", err.text);
    r->stream = r->device->stream != NULL ? r->device->stream(r->dev) : NULL;
    return true;
}

void tn_comm_close_device(tn_comm_rank *r)
{
    if (r->dev != NULL)
        r->device->close(r->dev);
    r->dev = NULL;
}

bool tn_comm_take(tn_comm_rank *r, size_t size, tn_comm_buffer *b)
{
    tn_err err = {.text = "out of memory"};
    *b = (tn_comm_buffer){.host = malloc(size)};
    if (r->device == NULL)
        b->mem = b->host;
    else if (b->host != NULL && r->device->mem_take(r->dev, size, &b->mem, &err) != TN_OK)
        b->mem = NULL;
    return b->mem != NULL || tn_comm_failed(r, "memory", "%.800s", err.text);
}

void tn_comm_give(tn_comm_rank *r, tn_comm_buffer *b)
{
    if (r->device != NULL && b->mem != NULL)
        r->device->mem_give(r->dev, b->mem);
    free(b->host);
    *b = (tn_comm_buffer){.host = NULL};
}

bool tn_comm_push(tn_comm_rank *r, const tn_comm_buffer *b, size_t size)
{
    tn_err err = {.text = ""};
    return r->device == NULL || r->device->mem_copy(r->dev, b->mem, b->host, size, &err) == TN_OK
        || tn_comm_failed(r, "copy", "%.800s", err.text);
}

bool tn_comm_pull(tn_comm_rank *r, tn_comm_buffer *b, size_t size)
{
    tn_err err = {.text = ""};
    return r->device == NULL || r->device->mem_copy(r->dev, b->host, b->mem, size, &err) == TN_OK
        || tn_comm_failed(r, "copy", "%.800s", err.text);
}

typedef struct waiter {
    tn_comm_rank *r;
    tn_comm_buffer *b;
    tn_status st;
    tn_err err;
    _Atomic uint32_t is_done;
} waiter;

static void *wait_for_stream(void *user)
{
    waiter *w = user;
    uint32_t first;
    w->st = w->r->device->mem_copy(w->r->dev, &first, w->b->mem, sizeof first, &w->err);
    atomic_store(&w->is_done, 1);
    return NULL;
}

tn_status tn_comm_settle(tn_comm_rank *r, tn_status st, tn_comm_buffer *b, tn_err *err)
{
    struct timespec nap = {.tv_nsec = 200000};
    waiter w = {.r = r, .b = b, .err = {.text = ""}};
    pthread_t t;
    if (st != TN_OK || r->device == NULL)
        return st;
    if (pthread_create(&t, NULL, wait_for_stream, &w) != 0)
        return tn_fail(err, TN_OS, "no thread");
    while (!atomic_load(&w.is_done) && st == TN_OK) {
        nanosleep(&nap, NULL);
        if (r->comm->health != NULL)
            st = r->comm->health(r->group, err);
    }
    if (st != TN_OK && r->comm->abort != NULL)
        r->comm->abort(r->group);
    pthread_join(t, NULL);
    if (st == TN_OK && r->comm->health != NULL) /* a call that was given up ends, too */
        st = r->comm->health(r->group, err);
    if (st == TN_OK && w.st != TN_OK)
        return tn_fail(err, w.st, "%.900s", w.err.text);
    return st;
}
