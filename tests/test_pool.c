/* SPDX-License-Identifier: Apache-2.0 */
/* test_pool.c - the threads of the cpu device: everybody runs every job, nobody passes a
 * barrier early, callers take turns, sleepers wake. */
#include "pool.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

static void *host_alloc(void *ctx, uint64_t size)
{
    int *left = ctx;
    if (left != NULL && (*left)-- == 0)
        return NULL;
    return aligned_alloc(64, (size + 63) / 64 * 64);
}

static void host_release(void *ctx, void *p)
{
    (void)ctx;
    free(p);
}

static tn_host host(int *left)
{
    return (tn_host){.size = sizeof(tn_host), .ctx = left, .alloc = host_alloc,
                     .release = host_release};
}

static cpu_pool *pool_open(const tn_host *h, uint32_t nthread, uint32_t spin_us)
{
    cpu_pool *p = NULL;
    tn_err err;
    if (cpu_pool_open(h, nthread, spin_us, &p, &err) != TN_OK)
        fail_msg("%s", err.text);
    assert_int_equal(cpu_pool_size(p), nthread);
    return p;
}

typedef struct job {
    cpu_pool *pool;
    uint32_t rounds;
    uint32_t seen[16];            /* rounds that a worker has begun; not atomic on purpose */
    uint32_t early;               /* how often somebody was not yet there */
    uint32_t slow;                /* this worker dawdles, 99: nobody */
} job;

/* Between two barriers every worker looks at all others: plain memory must be up to date. */
static void rounds(void *arg, uint32_t worker)
{
    job *j = arg;
    uint32_t early = 0;
    for (uint32_t i = 1; i <= j->rounds; i++) {
        if (worker == j->slow && i % 16 == 0)
            usleep(300);
        j->seen[worker] = i;
        cpu_pool_barrier(j->pool, worker);
        for (uint32_t w = 0; w < cpu_pool_size(j->pool); w++)
            early += j->seen[w] != i;
        cpu_pool_barrier(j->pool, worker);
    }
    __atomic_add_fetch(&j->early, early, __ATOMIC_RELAXED);
}

static void test_barrier(void **state)
{
    (void)state;
    tn_host h = host(NULL);
    for (uint32_t n = 1; n <= 5; n++)
        for (uint32_t spin = 0; spin <= 50; spin += 25) {
            job j = {.pool = pool_open(&h, n, spin), .rounds = 200, .slow = 99};
            for (uint32_t i = 0; i < 4; i++) {
                memset(j.seen, 0, sizeof j.seen);
                cpu_pool_run(j.pool, rounds, &j);
                for (uint32_t w = 0; w < n; w++)
                    assert_int_equal(j.seen[w], 200);
            }
            assert_int_equal(j.early, 0);
            cpu_pool_close(j.pool);
        }
}

/* A worker that is late lets the others fall asleep; they must wake, and so must the pool
 * after a pause between jobs. */
static void test_sleep(void **state)
{
    (void)state;
    tn_host h = host(NULL);
    for (uint32_t slow = 0; slow < 3; slow++) {
        job j = {.pool = pool_open(&h, 3, 5), .rounds = 64, .slow = slow};
        for (uint32_t i = 0; i < 3; i++) {
            cpu_pool_run(j.pool, rounds, &j);
            usleep(2000);
        }
        assert_int_equal(j.early, 0);
        cpu_pool_close(j.pool);
    }
}

typedef struct count {
    _Atomic uint32_t running, overlaps, done;
    cpu_pool *pool;
} count;

static void one_at_a_time(void *arg, uint32_t worker)
{
    count *c = arg;
    if (worker == 0 && atomic_fetch_add(&c->running, 1) != 0)
        atomic_fetch_add(&c->overlaps, 1);
    cpu_pool_barrier(c->pool, worker);
    atomic_fetch_add(&c->done, 1);
    cpu_pool_barrier(c->pool, worker);
    if (worker == 0)
        atomic_fetch_sub(&c->running, 1);
}

static void *caller(void *arg)
{
    count *c = arg;
    for (uint32_t i = 0; i < 200; i++)
        cpu_pool_run(c->pool, one_at_a_time, c);
    return NULL;
}

/* Two models of one process share the pool: their steps do not mix. */
static void test_callers(void **state)
{
    (void)state;
    tn_host h = host(NULL);
    count c = {.pool = pool_open(&h, 3, 20)};
    pthread_t thread[3];
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, caller, &c), 0);
    for (uint32_t i = 0; i < 3; i++)
        pthread_join(thread[i], NULL);
    assert_int_equal(atomic_load(&c.overlaps), 0);
    assert_int_equal(atomic_load(&c.done), 3 * 200 * 3);
    cpu_pool_close(c.pool);
}

/* Opened and closed without a job, and with every allocation failing in turn. */
static void test_open(void **state)
{
    (void)state;
    tn_host h = host(NULL);
    tn_err err;
    cpu_pool *p = NULL;
    for (uint32_t i = 0; i < 20; i++)
        cpu_pool_close(pool_open(&h, 1 + i % 4, 10));
    for (int at = 0; at < 2; at++) {
        int left = at;
        tn_host poor = host(&left);
        assert_int_equal(cpu_pool_open(&poor, 2, 10, &p, &err), TN_NO_MEMORY);
    }
    assert_int_equal(cpu_pool_open(&h, 0, 10, &p, &err), TN_CONFIG);
    assert_int_equal(cpu_pool_open(&h, CPU_THREADS_MAX + 1, 10, &p, &err), TN_CONFIG);
    assert_null(p);
    cpu_pool_close(NULL);
    assert_in_range(cpu_cores_allowed(), 1, 4096);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_barrier), cmocka_unit_test(test_sleep),
        cmocka_unit_test(test_callers), cmocka_unit_test(test_open),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
