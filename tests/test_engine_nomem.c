/* SPDX-License-Identifier: Apache-2.0 */
/* test_engine_nomem.c - the n-th allocation fails, for every n: opening, submitting, and
 * making pieces end in "no memory", leak nothing, and leave the engine serving.
 *
 * Linked with --wrap for malloc, calloc and realloc. */
#include "engine.h"

#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "fakedevice.h"
#include "oracle.h"
#include "tinytok.h"

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t size);

static atomic_long countdown = -1; /* the call that takes it to 0 fails; below 0: none */
static atomic_long nfailed;

static bool fails(void)
{
    long left = atomic_load(&countdown);
    while (left > 0 && !atomic_compare_exchange_weak(&countdown, &left, left - 1)) {
    }
    if (left != 1)
        return false;
    atomic_fetch_add(&nfailed, 1);
    return true;
}

void *__wrap_malloc(size_t size)
{
    return fails() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return fails() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t size)
{
    return fails() ? NULL : __real_realloc(p, size);
}

static void fail_at(long n)
{
    atomic_store(&nfailed, 0);
    atomic_store(&countdown, n);
}

static bool failed_then(void)
{
    atomic_store(&countdown, -1);
    return atomic_load(&nfailed) > 0;
}

/* -------------------------------------------------------------------------------- rig */

static tn_tok *tok;

typedef struct ear {
    pthread_mutex_t lock;
    pthread_cond_t done;
    uint32_t nlast, finish;
    tn_status status;
} ear;

static void ear_piece(void *user, const tn_piece *p)
{
    ear *e = user;
    pthread_mutex_lock(&e->lock);
    e->nlast += p->last;
    if (p->finish != TN_FINISH_NONE)
        e->finish = p->finish;
    if (p->err != NULL)
        e->status = p->status;
    pthread_cond_signal(&e->done);
    pthread_mutex_unlock(&e->lock);
}

static void ear_wait(ear *e)
{
    pthread_mutex_lock(&e->lock);
    while (e->nlast == 0)
        pthread_cond_wait(&e->done, &e->lock);
    pthread_mutex_unlock(&e->lock);
}

static tn_engine_setup setup_of(fake_device *d, tn_metrics *m)
{
    static const int32_t more[] = {TINY_START};
    return (tn_engine_setup){
        .device = fake_table(), .program = d, .limits = &d->limits, .pools = &d->pools,
        .step_first = d->number, .tok = tok, .name = "tiny", .vocab = d->vocab,
        .eos = TINY_END, .eos_more = more, .neos_more = 1,
        .defaults = {.temperature = NAN, .top_p = NAN, .min_p = NAN, .repetition = NAN,
                     .top_k = INT32_MIN},
        .max_logprobs = 5, .prefix_caching = 1, .metrics = m,
    };
}

/* One of everything, so that every allocation has its turn. */
static tn_ask rich_ask(void)
{
    static const char *const stop[] = {"zzz", "yy"}, *const bad[] = {"abd", "q"};
    static const tn_bias bias[] = {{.token = 'a', .value = 1}};
    static const int32_t allowed[] = {'a', 'b', 'c', 'd', 'e'};
    tn_ask ask = oracle_ask(NULL, 0);
    ask.prompt = (tn_prompt){.size = sizeof(tn_prompt), .kind = TN_PROMPT_TEXT,
                             .text = "abc, abc, x", .text_size = 11};
    ask.n = 2;
    ask.max_tokens = 12;
    ask.logprobs = 2;
    ask.prompt_logprobs = 1;
    ask.stop = stop;
    ask.nstop = 2;
    ask.bad_words = bad;
    ask.nbad_words = 2;
    ask.bias = bias;
    ask.nbias = 1;
    ask.allowed = allowed;
    ask.nallowed = 5;
    ask.flags = TN_ASK_ECHO | TN_ASK_IGNORE_EOS;
    ask.cache_salt = "salt";
    ask.on_piece = ear_piece;
    return ask;
}

static void opening(void **state)
{
    (void)state;
    fake_device d;
    uint32_t nfail = 0;
    fake_defaults(&d);
    d.vocab = TINY_VOCAB;
    assert_true(fake_open(&d));
    for (long n = 1;; n++) {
        tn_engine *e = NULL;
        tn_err err = {0};
        const tn_engine_setup setup = setup_of(&d, NULL);
        fail_at(n);
        tn_status st = tn_engine_open(&setup, &e, &err);
        bool failed = failed_then();
        if (!failed) {
            assert_int_equal(st, TN_OK);
            tn_engine_close(e);
            break;
        }
        nfail++;
        if (st == TN_OK) { /* the system's own, while it starts a thread */
            tn_engine_close(e);
            continue;
        }
        assert_true(st == TN_NO_MEMORY || st == TN_OS);
        assert_true(err.text[0] != 0);
    }
    assert_true(nfail > 15);
    fake_close(&d);
}

/* The allocation fails on the submitting thread, or later on the output thread. */
static void submitting_and_saying(void **state)
{
    (void)state;
    fake_device d;
    tn_engine *e = NULL;
    tn_err err = {0};
    uint32_t nrefused = 0, nbroken = 0, nwhole = 0;
    fake_defaults(&d);
    d.vocab = TINY_VOCAB;
    assert_true(fake_open(&d));
    const tn_engine_setup setup = setup_of(&d, NULL);
    assert_int_equal(tn_engine_open(&setup, &e, &err), TN_OK);
    bool failed = true;
    for (long n = 1; failed; n++) {
        ear ear = {.lock = PTHREAD_MUTEX_INITIALIZER, .done = PTHREAD_COND_INITIALIZER};
        tn_request *r = NULL;
        tn_ask ask = rich_ask();
        ask.user = &ear;
        fail_at(n);
        tn_status st = tn_engine_submit(e, &ask, &r, &err);
        if (st == TN_OK) {
            ear_wait(&ear);
            tn_request_release(r);
        }
        failed = failed_then();
        if (st != TN_OK) {
            assert_int_equal(st, TN_NO_MEMORY);
            nrefused++;
        } else if (ear.status != TN_OK) {
            assert_int_equal(ear.status, TN_NO_MEMORY);
            assert_int_equal(ear.finish, TN_FINISH_ERROR);
            nbroken++;
        } else {
            assert_int_equal(ear.finish, TN_FINISH_LENGTH);
            nwhole++;
        }
        assert_int_equal(ear.nlast, st == TN_OK);
    }
    assert_true(nrefused > 10);
    assert_true(nbroken > 0);
    assert_int_equal(nwhole, 1); /* the last, when nothing failed */
    tn_pulse p;
    tn_engine_pulse(e, &p);
    assert_int_equal(p.accepted, p.completed + p.failed + p.rejected);
    tn_engine_close(e);
    fake_close(&d);
}

static int open_tok(void **state)
{
    tn_err err = {0};
    (void)state;
    tok = tiny_open(&err);
    return tok == NULL;
}

static int close_tok(void **state)
{
    (void)state;
    tn_tok_close(tok);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(opening),
        cmocka_unit_test(submitting_and_saying),
    };
    return cmocka_run_group_tests(tests, open_tok, close_tok);
}
