/* SPDX-License-Identifier: Apache-2.0 */
/* test_engine_storm.c - thousands of requests from several threads through a narrow engine:
 * random arrivals, cancels, timeouts, early releases; every token checked. */
#include "engine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "enginehouse.h"

#define STORM_THREADS 4u
#define STORM_EACH 700u

/* A guest whose request is over, on its way to the checks. */
typedef struct visit {
    guest g;
    tn_ask ask;
    int32_t ids[100];
    tn_status submitted;
    bool waited;
    struct visit *next;
} visit;

/* Threads bring visits, the test's own thread checks them: cmocka's asserts jump, and may
 * only do so there. */
typedef struct storm_house {
    house h;
    pthread_mutex_t lock;
    pthread_cond_t more;
    visit *first;
    atomic_uint nbusy, next;
} storm_house;

static void storm_ask(uint64_t *dice, visit *v)
{
    static const char *const stop[] = {"e", "zz"};
    uint32_t nid = 1 + oracle_random(dice, 80);
    uint64_t seed = oracle_random(dice, 4);
    for (uint32_t i = 0; i < nid; i++)
        v->ids[i] = (int32_t)oracle_random(&seed, 256);
    v->ids[oracle_random(dice, nid)] = (int32_t)oracle_random(dice, 256);
    tn_ask ask = oracle_ask(v->ids, nid);
    ask.n = oracle_random(dice, 4) == 0 ? 1 + oracle_random(dice, 4) : 1;
    ask.temperature = oracle_random(dice, 2) ? 0.8f : 0;
    ask.has_seed = 1;
    ask.seed = oracle_random(dice, 3);
    ask.max_tokens = 1 + oracle_random(dice, 128 - nid);
    ask.min_tokens = oracle_random(dice, 4) == 0 ? 1 : 0;
    ask.logprobs = oracle_random(dice, 4) == 0 ? 2 : -1;
    ask.presence = oracle_random(dice, 5) == 0 ? 0.5f : 0;
    ask.cache_salt = oracle_random(dice, 5) == 0 ? "other" : NULL;
    ask.stop = stop;
    ask.nstop = oracle_random(dice, 3) == 0 ? 2 : 0;
    ask.flags = oracle_random(dice, 4) == 0 ? TN_ASK_KEEP_STOP | TN_ASK_KEEP_SPECIAL : 0;
    ask.timeout_ms = oracle_random(dice, 10) == 0 ? 1 + oracle_random(dice, 4) : 0;
    ask.on_piece = guest_piece;
    ask.user = &v->g;
    v->ask = ask;
}

static void storm_visit(storm_house *s, uint64_t *dice, visit *v)
{
    tn_err err;
    guest *g = &v->g;
    storm_ask(dice, v);
    while ((v->submitted = tn_engine_submit(s->h.engine, &v->ask, &g->req, &err)) == TN_BUSY) {
        atomic_fetch_add(&s->nbusy, 1);
        nap_us(300);
    }
    if (v->submitted != TN_OK)
        return;
    bool early = oracle_random(dice, 9) == 0;
    if (early)
        tn_request_release(g->req);
    else if (oracle_random(dice, 5) == 0) {
        nap_us(oracle_random(dice, 2500));
        tn_engine_cancel(s->h.engine, g->req);
    }
    v->waited = guest_waits(g, 0);
    if (!early)
        tn_request_release(g->req);
}

static void *storm_main(void *arg)
{
    storm_house *s = arg;
    uint64_t dice = atomic_fetch_add(&s->next, 1);
    for (uint32_t i = 0; i < STORM_EACH; i++) {
        visit *v = calloc(1, sizeof *v);
        if (v == NULL)
            return NULL;
        guest_open(&v->g);
        storm_visit(s, &dice, v);
        pthread_mutex_lock(&s->lock);
        v->next = s->first;
        s->first = v;
        pthread_cond_signal(&s->more);
        pthread_mutex_unlock(&s->lock);
    }
    return NULL;
}

static visit *storm_take(storm_house *s)
{
    pthread_mutex_lock(&s->lock);
    while (s->first == NULL)
        pthread_cond_wait(&s->more, &s->lock);
    visit *v = s->first;
    s->first = v->next;
    pthread_mutex_unlock(&s->lock);
    return v;
}

/* True when it was cancelled or timed out. */
static bool storm_check(storm_house *s, visit *v)
{
    assert_int_equal(v->submitted, TN_OK);
    assert_true(v->waited);
    bool aborted = v->g.status != TN_OK;
    if (!aborted)
        check_guest(&s->h, &v->ask, &v->g);
    for (uint32_t c = 0; aborted && c < v->ask.n; c++)
        check_choice(&s->h, &v->ask, &v->g, c, false);
    assert_int_equal(v->g.nlast, 1);
    assert_false(v->g.late);
    guest_close(&v->g);
    free(v);
    return aborted;
}

static void storm(void **state)
{
    (void)state;
    storm_house s = {.lock = PTHREAD_MUTEX_INITIALIZER, .more = PTHREAD_COND_INITIALIZER};
    house *h = &s.h;
    pthread_t thread[STORM_THREADS];
    tn_pulse p;
    uint32_t nabort = 0;
    house_defaults(h);
    h->device.pools.nblock = 36;
    h->device.limits.rows_max = 24;
    h->queue_max = 2;
    h->running = 5;
    atomic_store(&h->device.step_us, 20);
    house_open(h);
    for (uint32_t i = 0; i < STORM_THREADS; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, storm_main, &s), 0);
    for (uint32_t i = 0; i < STORM_THREADS * STORM_EACH; i++)
        nabort += storm_check(&s, storm_take(&s));
    for (uint32_t i = 0; i < STORM_THREADS; i++)
        pthread_join(thread[i], NULL);
    assert_true(nabort > 50);
    house_is_empty(h);
    tn_engine_pulse(h->engine, &p);
    assert_int_equal(p.rejected, atomic_load(&s.nbusy));
    assert_int_equal(p.completed + p.cancelled + p.timed_out, STORM_THREADS * STORM_EACH);
    assert_int_equal(p.cancelled + p.timed_out, nabort);
    assert_true(p.timed_out > 0);
    assert_true(p.npreempt > 0);
    house_close(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(storm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
