/* SPDX-License-Identifier: Apache-2.0 */
/* commcount.c - a communicator on host memory that counts: calls, bytes and the time in them. */
#include "commcount.h"

#include <time.h>

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* One thread counts, others read: no add needs the bus. */
static void add(_Atomic uint64_t *to, uint64_t n)
{
    atomic_store_explicit(to, atomic_load_explicit(to, memory_order_relaxed) + n,
                          memory_order_relaxed);
}

static void count(tn_comm_count *c, uint64_t begun, uint64_t bytes)
{
    add(&c->calls, 1);
    add(&c->bytes, bytes);
    add(&c->ns, now() - begun);
}

static uint64_t size_of(uint32_t dtype)
{
    static const uint8_t size[] = {
        [TN_F32] = 4, [TN_F16] = 2, [TN_BF16] = 2, [TN_F64] = 8, [TN_I8] = 1, [TN_U8] = 1,
        [TN_I16] = 2, [TN_U16] = 2, [TN_I32] = 4, [TN_U32] = 4, [TN_I64] = 8, [TN_U64] = 8,
        [TN_BOOL] = 1, [TN_F8_E4M3] = 1, [TN_F8_E5M2] = 1};
    return dtype < sizeof size ? size[dtype] : 0;
}

static tn_status all_reduce(void *group, void *x, uint64_t n, uint32_t dtype, void *stream,
                            tn_err *err)
{
    tn_comm_count *c = group;
    uint64_t begun = now();
    tn_status st = c->table->all_reduce(c->group, x, n, dtype, stream, err);
    count(c, begun, n * size_of(dtype));
    return st;
}

static tn_status all_gather(void *group, const void *in, void *out, uint64_t n, uint32_t dtype,
                            void *stream, tn_err *err)
{
    tn_comm_count *c = group;
    uint64_t begun = now();
    tn_status st = c->table->all_gather(c->group, in, out, n, dtype, stream, err);
    count(c, begun, n * size_of(dtype));
    return st;
}

static tn_status broadcast(void *group, void *x, uint64_t bytes, uint32_t root, void *stream,
                           tn_err *err)
{
    tn_comm_count *c = group;
    uint64_t begun = now();
    tn_status st = c->table->broadcast(c->group, x, bytes, root, stream, err);
    count(c, begun, bytes);
    return st;
}

static tn_status barrier(void *group, tn_err *err)
{
    tn_comm_count *c = group;
    return c->table->barrier(c->group, err);
}

static void abort_group(void *group)
{
    tn_comm_count *c = group;
    c->table->abort(c->group);
}

static tn_status health(void *group, tn_err *err)
{
    tn_comm_count *c = group;
    return c->table->health(c->group, err);
}

void tn_comm_count_open(tn_comm_count *c, const tn_comm *table, void *group)
{
    c->table = table;
    c->group = group;
    atomic_init(&c->calls, 0);
    atomic_init(&c->bytes, 0);
    atomic_init(&c->ns, 0);
    c->face = (tn_comm){.size = sizeof c->face, .flags = table->flags};
    c->face.all_reduce = table->all_reduce != NULL ? all_reduce : NULL;
    c->face.all_gather = table->all_gather != NULL ? all_gather : NULL;
    c->face.broadcast = table->broadcast != NULL ? broadcast : NULL;
    c->face.barrier = table->barrier != NULL ? barrier : NULL;
    c->face.abort = table->abort != NULL ? abort_group : NULL;
    c->face.health = table->health != NULL ? health : NULL;
}
