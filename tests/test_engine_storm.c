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
    uint32_t each;               /* visits of a thread */
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
    for (uint32_t i = 0; i < s->each; i++) {
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

/* ------------------------------------------------------ the cache that is checked on itself */

static double counted(house *h, const char *result)
{
    char want[128];
    tn_buf text;
    tn_buf_open(&text, 1 << 20);
    tn_metrics_print(h->metrics, &text);
    snprintf(want, sizeof want, "tenon:prefix_checks_total{model_name=\"tiny\",engine=\"0\","
             "result=\"%s\"} ", result);
    const char *at = text.data != NULL ? strstr(text.data, want) : NULL;
    double v = at != NULL ? strtod(at + strlen(want), NULL) : 0;
    tn_buf_close(&text);
    return v;
}

static bool comes_to(house *h, const char *result, double n)
{
    for (uint32_t ms = 0; ms < 10000 && counted(h, result) < n; ms++)
        nap_us(1000);
    return counted(h, result) == n;
}

/* One request; the tokens it found in the cache. `right`: the reply must be the oracle's. */
static uint64_t say(house *h, const int32_t *ids, uint32_t nid, float temperature, bool right)
{
    guest g;
    tn_ask ask = oracle_ask(ids, nid);
    ask.max_tokens = 12;
    ask.temperature = temperature;
    ask.flags = TN_ASK_IGNORE_EOS;
    ask.has_seed = 1;
    ask.seed = 7;
    ask.request_id = "suspect";
    guest_open(&g);
    house_ask(h, &ask, &g);
    guest_wait(&g, 0);
    if (right)
        check_guest(h, &ask, &g);
    uint64_t cached = g.ncached;
    tn_request_release(g.req);
    guest_close(&g);
    return cached;
}

/* Until checks that were begun are over as well. */
static void settle(house *h)
{
    tn_pulse p;
    for (uint32_t ms = 0; ms < 10000; ms++) {
        tn_engine_pulse(h->engine, &p);
        if (p.accepted == p.completed + p.cancelled + p.timed_out + p.failed + p.rejected)
            break;
        nap_us(1000);
    }
    nap_us(2000); /* one that begins with the last piece */
}

/* What the device holds of the block that begins with these ids, or of every state, is spoilt. */
static void plant(house *h, const int32_t *ids)
{
    fake_device *d = &h->device;
    uint32_t tokens = d->limits.block_tokens;
    for (uint32_t b = 0; b < d->pools.nblock && !d->has_states; b++)
        if (memcmp(d->cell + (size_t)b * tokens, ids, tokens * sizeof *ids) == 0)
            d->cell[(size_t)b * tokens + 1] ^= 1;
    for (uint32_t i = 0; i < d->pools.nslot && d->has_states; i++)
        d->state[i] ^= 1;
}

static void planted(bool states)
{
    house h;
    int32_t ids[40];
    char text[4096] = "";
    tn_err err;
    FILE *file = tmpfile();
    assert_non_null(file);
    house_defaults(&h);
    h.device.has_states = states;
    h.snapshot_every = 16;
    h.prefix_check = 1;
    assert_int_equal(tn_log_open(fileno(file), TN_LOG_WARN, false, &h.log, &err), TN_OK);
    house_open(&h);
    fill_ids(ids, 40, 5);
    assert_int_equal(say(&h, ids, 40, 0, true), 0);
    for (int i = 0; i < 3; i++)
        assert_true(say(&h, ids, 40, i == 2 ? 0.9f : 0, true) > 0);
    assert_true(comes_to(&h, "same", 3));
    house_is_empty(&h);
    plant(&h, ids);
    assert_true(say(&h, ids, 40, 0, false) > 0);
    assert_true(comes_to(&h, "different", 1));
    assert_true(comes_to(&h, "same", 3));
    house_is_empty(&h);
    house_close(&h);
    tn_log_close(h.log); /* now it is written */
    rewind(file);
    size_t n = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[n] = 0;
    const char *line = strstr(text, "prefix_check: token ");
    if (line == NULL || strstr(text, "suspect") == NULL || strstr(line, " of 40 prompt tokens from "
        "the cache, and is ") == NULL || strstr(line + 1, "prefix_check") != NULL)
        fail_msg("%s", text);
}

static void faults_are_seen(void **state)
{
    (void)state;
    planted(false);
    planted(true);
}

/* A share of the hits, no more; without it none. */
static void a_share_is_checked(void **state)
{
    (void)state;
    static const struct { double share; double wanted; } cases[] = {{0, 0}, {0.25, 5}, {1, 20}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        house h;
        int32_t ids[40];
        house_defaults(&h);
        h.prefix_check = cases[i].share;
        house_open(&h);
        fill_ids(ids, 40, 5);
        say(&h, ids, 40, 0, true);
        for (int k = 0; k < 20; k++) {
            assert_true(say(&h, ids, 40, 0, true) > 0);
            settle(&h); /* one that finds no room in the queue is left out */
        }
        assert_true(comes_to(&h, "same", cases[i].wanted));
        assert_true(counted(&h, "different") == 0);
        say(&h, ids, 40, 0, true);
        house_close(&h); /* with a check on its way */
    }
}

static void storm_with(uint32_t each, double share)
{
    storm_house s = {.each = each, .lock = PTHREAD_MUTEX_INITIALIZER, .more = PTHREAD_COND_INITIALIZER};
    house *h = &s.h;
    pthread_t thread[STORM_THREADS];
    tn_pulse p;
    uint32_t nabort = 0;
    house_defaults(h);
    h->device.pools.nblock = 36;
    h->device.limits.rows_max = 24;
    h->queue_max = 2;
    h->running = 5;
    h->prefix_check = share;
    atomic_store(&h->device.step_us, 20);
    house_open(h);
    for (uint32_t i = 0; i < STORM_THREADS; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, storm_main, &s), 0);
    for (uint32_t i = 0; i < STORM_THREADS * each; i++)
        nabort += storm_check(&s, storm_take(&s));
    for (uint32_t i = 0; i < STORM_THREADS; i++)
        pthread_join(thread[i], NULL);
    assert_true(nabort > each / 14);
    settle(h);
    house_is_empty(h);
    tn_engine_pulse(h->engine, &p);
    if (share > 0) {
        assert_true(counted(h, "same") > 0);
        assert_true(counted(h, "different") == 0);
        assert_true(p.completed + p.cancelled + p.timed_out > STORM_THREADS * each);
    } else {
        assert_int_equal(p.rejected, atomic_load(&s.nbusy));
        assert_int_equal(p.completed + p.cancelled + p.timed_out, STORM_THREADS * each);
        assert_int_equal(p.cancelled + p.timed_out, nabort);
    }
    assert_true(p.timed_out > 0);
    assert_true(p.npreempt > 0);
    house_close(h);
}

static void storm(void **state)
{
    (void)state;
    storm_with(STORM_EACH, 0);
}

static void storm_checked(void **state)
{
    (void)state;
    storm_with(STORM_EACH / 4, 0.5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(storm),
        cmocka_unit_test(storm_checked),
        cmocka_unit_test(faults_are_seen),
        cmocka_unit_test(a_share_is_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
