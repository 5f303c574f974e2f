/* SPDX-License-Identifier: Apache-2.0 */
/* nccl_end.c - ending a communicator without being held up by it.
 *
 * NCCL does not let go of a communicator, nor of whoever ends or aborts it, while a captured graph
 * holds one of its calls. An abort frees the kernels that wait all the same, so it is called in a
 * thread of its own, and so is a peaceful end; when that takes too long the thread is left to
 * itself and ends when the graphs do. */
#include "nccl_group.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <time.h>

struct nccl_end {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    const nccl_lib lib;
    void *ctx, *comm;
    pthread_t thread;
    bool is_abort, is_done, is_given_up; /* who comes last frees it */
};

static void free_end(nccl_end *e)
{
    pthread_cond_destroy(&e->changed);
    pthread_mutex_destroy(&e->lock);
    free(e);
}

/* One that does not block says how far it is. */
static int finalize(const nccl_end *e)
{
    struct timespec nap = {.tv_nsec = 100000};
    int code = e->lib.finalize(e->comm);
    while (code == NCCL_IN_PROGRESS && e->lib.state(e->comm, &code) == NCCL_SUCCESS
           && code == NCCL_IN_PROGRESS)
        nanosleep(&nap, NULL);
    return code;
}

static void call(const nccl_end *e)
{
    void *ctx;
    bool pushed = e->lib.cu_push(e->ctx) == 0;
    if (e->is_abort || finalize(e) != NCCL_SUCCESS)
        e->lib.abort(e->comm);
    else
        e->lib.destroy(e->comm);
    if (pushed)
        e->lib.cu_pop(&ctx);
}

static void *live(void *user)
{
    nccl_end *e = user;
    call(e);
    pthread_mutex_lock(&e->lock);
    e->is_done = true;
    bool last = e->is_given_up;
    pthread_cond_signal(&e->changed);
    pthread_mutex_unlock(&e->lock);
    if (last)
        free_end(e);
    return NULL;
}

nccl_end *nccl_end_begin(const nccl_lib *lib, void *ctx, void *comm, bool is_abort)
{
    pthread_condattr_t a;
    nccl_end *e = malloc(sizeof *e);
    if (e == NULL)
        return NULL;
    nccl_end init = {.lib = *lib, .ctx = ctx, .comm = comm, .is_abort = is_abort};
    memcpy(e, &init, sizeof init);
    pthread_mutex_init(&e->lock, NULL);
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    pthread_cond_init(&e->changed, &a);
    pthread_condattr_destroy(&a);
    if (pthread_create(&e->thread, NULL, live, e) == 0)
        return e;
    free_end(e);
    return NULL;
}

/* A thread that is left to itself may outlive the plugin, so the plugin's code has to stay. */
static void pin(void *function)
{
    Dl_info i;
    if (dladdr(function, &i) != 0 && i.dli_fname != NULL)
        dlopen(i.dli_fname, RTLD_NOW | RTLD_NODELETE);
}

bool nccl_end_wait(nccl_end *e, uint32_t ms)
{
    struct timespec end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += ms / 1000;
    pthread_mutex_lock(&e->lock);
    for (int code = 0; !e->is_done && code != ETIMEDOUT;)
        code = pthread_cond_timedwait(&e->changed, &e->lock, &end);
    bool done = e->is_done;
    if (!done) {
        pin((void *)(uintptr_t)live);
        pthread_detach(e->thread);
    }
    e->is_given_up = !done;
    pthread_mutex_unlock(&e->lock);
    if (done) {
        pthread_join(e->thread, NULL); /* it may still be at its last lines */
        free_end(e);
    }
    return done;
}
