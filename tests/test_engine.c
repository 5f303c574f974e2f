/* SPDX-License-Identifier: Apache-2.0 */
/* test_engine.c - whole requests through both threads, on the fake device. */
#include "engine.h"

#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#include "buf.h"
#include "fakedevice.h"
#include "oracle.h"
#include "tinytok.h"

#define SECOND 1000000000u
#define PATIENCE (60u * (uint64_t)SECOND)

static tn_tok *tok;

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static void nap_us(uint32_t us)
{
    struct timespec t = {.tv_sec = us / 1000000, .tv_nsec = (long)(us % 1000000) * 1000};
    nanosleep(&t, NULL);
}

/* ------------------------------------------------------------------------------ guests */

/* One request as its frontend sees it. */
typedef struct guest {
    pthread_mutex_t lock;
    pthread_cond_t done;
    tn_buf text[TN_CHOICES_MAX];
    int32_t token[TN_CHOICES_MAX][512];
    float logprob[TN_CHOICES_MAX][512];
    uint32_t ntoken[TN_CHOICES_MAX], finish[TN_CHOICES_MAX], stop_kind[TN_CHOICES_MAX];
    int32_t stop_token[TN_CHOICES_MAX];
    uint32_t npiece, nlast, ntop;
    uint64_t nprompt, ncached, nreply, nprompt_data;
    float *prompt_logprob;       /* owned [nprompt_data] */
    bool late;                   /* a piece came after the last */
    tn_status status;
    char code[48];
    uint32_t slow_us;            /* how long the callback takes */
    tn_engine *cancels;          /* from inside its last piece */
    tn_request *req;
} guest;

static void guest_open(guest *g)
{
    memset(g, 0, sizeof *g);
    pthread_mutex_init(&g->lock, NULL);
    pthread_cond_init(&g->done, NULL);
    for (uint32_t i = 0; i < TN_CHOICES_MAX; i++) {
        tn_buf_open(&g->text[i], 1 << 20);
        tn_buf_puts(&g->text[i], "");
    }
}

static void guest_close(guest *g)
{
    for (uint32_t i = 0; i < TN_CHOICES_MAX; i++)
        tn_buf_close(&g->text[i]);
    free(g->prompt_logprob);
    pthread_mutex_destroy(&g->lock);
    pthread_cond_destroy(&g->done);
}

static void guest_take(guest *g, const tn_piece *p)
{
    uint32_t c = p->choice;
    g->late = g->late || g->nlast > 0;
    g->npiece++;
    tn_buf_put(&g->text[c], p->text, p->text_size);
    for (uint32_t i = 0; i < p->ntoken; i++) {
        g->logprob[c][g->ntoken[c]] = p->token[i].self.logprob;
        g->token[c][g->ntoken[c]++] = p->token[i].self.token;
        g->ntop += p->token[i].ntop;
    }
    if (p->finish != TN_FINISH_NONE) {
        g->finish[c] = p->finish;
        g->stop_kind[c] = p->stop_kind;
        g->stop_token[c] = p->stop_token;
    }
    if (p->prompt != NULL) {
        g->nprompt_data += p->nprompt;
        g->prompt_logprob = calloc(p->nprompt, sizeof(float));
        for (uint64_t i = 0; i < p->nprompt; i++)
            g->prompt_logprob[i] = p->prompt[i].self.logprob;
    }
    if (p->err != NULL) {
        g->status = p->status;
        snprintf(g->code, sizeof g->code, "%s", p->err->code);
    }
    g->nprompt = p->prompt_tokens;
    g->ncached = p->cached_tokens;
    g->nreply = p->reply_tokens;
    g->nlast += p->last;
}

static void guest_piece(void *user, const tn_piece *p)
{
    guest *g = user;
    pthread_mutex_lock(&g->lock);
    uint32_t slow_us = g->slow_us;
    guest_take(g, p);
    if (g->cancels != NULL && p->last)
        tn_engine_cancel(g->cancels, g->req);
    pthread_cond_broadcast(&g->done);
    pthread_mutex_unlock(&g->lock); /* after the last piece the guest may be gone */
    if (slow_us > 0)
        nap_us(slow_us);
}

/* Until the last piece, or until there are `npiece`; false after a minute. */
static bool guest_waits(guest *g, uint32_t npiece)
{
    struct timespec until;
    int st = 0;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += PATIENCE / SECOND;
    pthread_mutex_lock(&g->lock);
    while (g->nlast == 0 && (npiece == 0 || g->npiece < npiece) && st == 0)
        st = pthread_cond_timedwait(&g->done, &g->lock, &until);
    pthread_mutex_unlock(&g->lock);
    return st == 0;
}

static void guest_wait(guest *g, uint32_t npiece)
{
    if (!guest_waits(g, npiece))
        fail_msg("no piece for a minute");
}

/* ------------------------------------------------------------------------------- house */

typedef struct house {
    fake_device device;
    tn_engine *engine;
    tn_metrics *metrics;
    tn_intake intake;            /* for the oracle: the same facts, no cache */
    uint32_t queue_max, timeout_ms, running;
    bool uncached;
    int32_t eos;
} house;

static void house_defaults(house *h)
{
    memset(h, 0, sizeof *h);
    fake_defaults(&h->device);
    h->device.vocab = TINY_VOCAB;
    h->eos = TINY_END;
    h->queue_max = 1000;
}

static tn_engine_setup house_setup(house *h)
{
    return (tn_engine_setup){
        .device = fake_table(), .program = &h->device, .limits = &h->device.limits,
        .pools = &h->device.pools, .step_first = h->device.step_first, .tok = tok, .name = "tiny",
        .vocab = h->device.vocab, .eos = h->eos,
        .defaults = {.temperature = NAN, .top_p = NAN, .min_p = NAN, .repetition = NAN,
                     .top_k = INT32_MIN},
        .max_running = h->running, .queue_max = h->queue_max,
        .request_timeout_ms = h->timeout_ms, .max_logprobs = 5,
        .prefix_caching = !h->uncached, .has_states = h->device.has_states,
        .metrics = h->metrics,
    };
}

static void house_open(house *h)
{
    tn_err err = {0};
    assert_true(fake_open(&h->device));
    assert_int_equal(tn_metrics_open(&h->metrics, &err), TN_OK);
    const tn_engine_setup setup = house_setup(h);
    if (tn_engine_open(&setup, &h->engine, &err) != TN_OK)
        fail_msg("%s", err.text);
    h->intake = (tn_intake){
        .tok = tok, .context_max = h->device.limits.context_max, .vocab = h->device.vocab,
        .timeout_ms = 1000,
        .facts = {.vocab = h->device.vocab, .eos = h->eos, .max_logprobs = 5, .tok = tok,
                  .defaults = setup.defaults},
    };
    assert_int_equal(tn_intake_open(&h->intake, &err), TN_OK);
}

static void house_is_empty(house *h)
{
    tn_pulse p;
    for (uint64_t end = now_ns() + PATIENCE;; nap_us(200)) {
        tn_engine_pulse(h->engine, &p);
        if (p.blocks_used == 0)
            break;
        if (now_ns() > end)
            fail_msg("%u blocks are still in use", p.blocks_used);
    }
    assert_int_equal(p.accepted,
                     p.completed + p.cancelled + p.timed_out + p.failed + p.rejected);
}

static void house_close(house *h)
{
    tn_engine_close(h->engine);
    tn_intake_close(&h->intake);
    tn_metrics_close(h->metrics);
    if (atomic_load(&h->device.nbreach) > 0)
        fail_msg("contract: %s", h->device.breach);
    fake_close(&h->device);
}

static void house_ask(house *h, tn_ask *ask, guest *g)
{
    tn_err err = {0};
    ask->on_piece = guest_piece;
    ask->user = g;
    if (tn_engine_submit(h->engine, ask, &g->req, &err) != TN_OK)
        fail_msg("%s", err.text);
}

static void refused(house *h, tn_ask *ask, tn_status st, const char *param, const char *code)
{
    tn_err err = {0};
    tn_request *req = NULL;
    ask->on_piece = guest_piece;
    if (tn_engine_submit(h->engine, ask, &req, &err) != st)
        fail_msg("expected status %d for %s %s: %s", st, param, code, err.text);
    assert_null(req);
    assert_string_equal(err.param, param);
    assert_string_equal(err.code, code);
    assert_true(err.text[0] != 0);
}

/* -------------------------------------------------------------- what must come of an ask */

typedef struct expected {
    oracle_reply reply;          /* tokens up to the one that ended it */
    tn_buf text;
    uint32_t finish, stop_kind, ntoken;
} expected;

static void expected_open(house *h, const tn_ask *ask, uint32_t choice, expected *x)
{
    tn_request *r;
    tn_err err = {0};
    tn_ask plain = *ask;
    if (tn_intake_request(&h->intake, &plain, 0, &r, &err) != TN_OK)
        fail_msg("%s", err.text);
    oracle_run(&h->device, r, choice, &x->reply);
    tn_reply *reply = &r->choice[choice].reply;
    int32_t found = -1;
    x->finish = x->reply.finish;
    x->stop_kind = x->reply.stop_kind;
    for (x->ntoken = 0; x->ntoken < x->reply.n && found < 0; x->ntoken++) {
        bool end = x->finish == TN_FINISH_STOP && x->ntoken + 1 == x->reply.n;
        found = tn_reply_push(reply, x->reply.token[x->ntoken],
                              !end || (ask->flags & TN_ASK_KEEP_STOP),
                              x->ntoken + 1 > (uint32_t)ask->min_tokens);
    }
    if (found < 0)
        found = tn_reply_finish(reply, x->ntoken > (uint32_t)ask->min_tokens);
    if (found >= 0) {
        x->finish = TN_FINISH_STOP;
        x->stop_kind = 2;
    }
    tn_buf_open(&x->text, 1 << 20);
    tn_buf_put(&x->text, reply->text.data, reply->ready);
    tn_buf_puts(&x->text, "");
    tn_request_release(r);
    tn_request_release(r);
}

static void expected_close(expected *x)
{
    oracle_close(&x->reply);
    tn_buf_close(&x->text);
}

/* `whole`: the reply must be finished, else what came must be its beginning. */
static void check_choice(house *h, const tn_ask *ask, const guest *g, uint32_t c, bool whole)
{
    expected x;
    expected_open(h, ask, c, &x);
    assert_true(g->ntoken[c] <= x.ntoken);
    for (uint32_t i = 0; i < g->ntoken[c]; i++) {
        if (g->token[c][i] != x.reply.token[i])
            fail_msg("choice %u, token %u: %d, expected %d", c, i, g->token[c][i],
                     x.reply.token[i]);
        if (ask->logprobs >= 0)
            assert_true(g->logprob[c][i] == x.reply.logprob[i]);
    }
    if (whole) {
        assert_int_equal(g->ntoken[c], x.ntoken);
        assert_int_equal(g->finish[c], x.finish);
        assert_int_equal(g->stop_kind[c], x.stop_kind);
        assert_int_equal(g->text[c].len, x.text.len);
        assert_string_equal(g->text[c].data, x.text.data);
    } else {
        assert_true(g->text[c].len <= x.text.len);
        assert_memory_equal(g->text[c].data, x.text.data, g->text[c].len);
    }
    expected_close(&x);
}

static void check_guest(house *h, const tn_ask *ask, const guest *g)
{
    uint64_t nreply = 0;
    assert_int_equal(g->nlast, 1);
    assert_false(g->late);
    for (uint32_t c = 0; c < ask->n; c++) {
        check_choice(h, ask, g, c, true);
        nreply += g->ntoken[c];
    }
    assert_int_equal(g->nreply, nreply);
    assert_int_equal(g->nprompt, ask->prompt.nid);
}

static void fill_ids(int32_t *ids, uint32_t n, uint64_t seed)
{
    for (uint32_t i = 0; i < n; i++)
        ids[i] = (int32_t)oracle_random(&seed, 256);
}

/* ------------------------------------------------------------------------- good requests */

static void alone_and_in_a_crowd(void **state)
{
    (void)state;
    for (int way = 0; way < 4; way++) { /* cached or not, roomy or narrow */
        house h;
        guest *g = calloc(17, sizeof *g);
        int32_t ids[17][60];
        tn_ask ask[17];
        house_defaults(&h);
        h.uncached = way & 1;
        if (way & 2)
            h.device.pools.nblock = 40;
        house_open(&h);
        for (uint32_t i = 0; i < 17; i++) {
            guest_open(&g[i]);
            fill_ids(ids[i], 60, i % 5);
            ask[i] = oracle_ask(ids[i], 8 + 3 * (i % 16));
            ask[i].max_tokens = 40;
            ask[i].logprobs = i % 4 == 0 ? 2 : -1;
        }
        house_ask(&h, &ask[16], &g[16]); /* alone; the same as number 0 */
        guest_wait(&g[16], 0);
        for (uint32_t i = 0; i < 16; i++)
            house_ask(&h, &ask[i], &g[i]);
        for (uint32_t i = 0; i < 17; i++) {
            guest_wait(&g[i], 0);
            check_guest(&h, &ask[i], &g[i]);
            tn_request_release(g[i].req);
        }
        house_is_empty(&h);
        tn_pulse p;
        tn_engine_pulse(h.engine, &p);
        assert_int_equal(p.completed, 17);
        assert_true((way & 2) == 0 || p.npreempt > 0);
        for (uint32_t i = 0; i < 17; i++)
            guest_close(&g[i]);
        free(g);
        house_close(&h);
    }
}

static void choices_and_stop_strings(void **state)
{
    (void)state;
    house h;
    guest *g = calloc(2, sizeof *g);
    int32_t ids[20];
    const char *const stop[] = {"e", "a", "z", "Q"};
    house_defaults(&h);
    house_open(&h);
    fill_ids(ids, 20, 77);
    for (int keep = 0; keep < 2; keep++) {
        guest_open(&g[keep]);
        tn_ask ask = oracle_ask(ids, 20);
        ask.n = 8;
        ask.temperature = 1;
        ask.has_seed = 1;
        ask.seed = 5;
        ask.stop = stop;
        ask.nstop = 4;
        ask.min_tokens = 3;
        ask.max_tokens = 90;
        ask.flags = keep ? TN_ASK_KEEP_STOP : 0;
        house_ask(&h, &ask, &g[keep]);
        guest_wait(&g[keep], 0);
        check_guest(&h, &ask, &g[keep]);
        tn_request_release(g[keep].req);
        guest_close(&g[keep]);
    }
    free(g);
    house_is_empty(&h);
    house_close(&h);
}

static void a_beginning_is_reused(void **state)
{
    (void)state;
    house h;
    guest *g = calloc(3, sizeof *g);
    int32_t ids[50];
    house_defaults(&h);
    house_open(&h);
    fill_ids(ids, 50, 3);
    const char *salt[3] = {"a", "a", "b"};
    const uint64_t cached[3] = {0, 48, 0};
    for (int i = 0; i < 3; i++) {
        guest_open(&g[i]);
        tn_ask ask = oracle_ask(ids, 50);
        ask.max_tokens = 10;
        ask.cache_salt = salt[i];
        house_ask(&h, &ask, &g[i]);
        guest_wait(&g[i], 0);
        check_guest(&h, &ask, &g[i]);
        assert_int_equal(g[i].ncached, cached[i]);
        tn_request_release(g[i].req);
        guest_close(&g[i]);
    }
    free(g);
    house_close(&h);
}

/* eval: log-probabilities of a prompt as long as the context, no reply. */
static void a_prompt_is_scored(void **state)
{
    (void)state;
    house h;
    guest *g = calloc(1, sizeof *g);
    int32_t ids[128];
    house_defaults(&h);
    house_open(&h);
    fill_ids(ids, 128, 3);
    guest_open(g);
    tn_ask ask = oracle_ask(ids, 128);
    ask.max_tokens = 0;
    ask.prompt_logprobs = 0;
    house_ask(&h, &ask, g);
    guest_wait(g, 0);
    assert_int_equal(g->finish[0], TN_FINISH_LENGTH);
    assert_int_equal(g->nprompt_data, 128);
    assert_int_equal(g->nreply, 0);
    assert_true(isnan(g->prompt_logprob[0]));
    for (uint32_t i = 1; i < 128; i++) {
        const tn_sampling s = {.flags = TN_SAMPLE_SCORE, .target = ids[i]};
        assert_true(g->prompt_logprob[i] ==
                    fake_next(&h.device, ids, i, &s, NULL, NULL).logprob);
    }
    tn_request_release(g->req);
    guest_close(g);
    free(g);
    house_is_empty(&h);
    house_close(&h);
}

static void echo_without_a_reply(void **state)
{
    (void)state;
    house h;
    guest *g = calloc(1, sizeof *g);
    house_defaults(&h);
    house_open(&h);
    guest_open(g);
    tn_ask ask = oracle_ask(NULL, 0);
    ask.prompt = (tn_prompt){.size = sizeof(tn_prompt), .kind = TN_PROMPT_TEXT,
                             .text = "abc, x", .text_size = 6};
    ask.max_tokens = 0;
    ask.flags = TN_ASK_ECHO;
    house_ask(&h, &ask, g);
    guest_wait(g, 0);
    assert_string_equal(g->text[0].data, "abc, x");
    assert_int_equal(g->nprompt, 3);
    assert_int_equal(g->finish[0], TN_FINISH_LENGTH);
    assert_int_equal(atomic_load(&h.device.nrun), 0);
    tn_request_release(g->req);
    guest_close(g);
    free(g);
    house_is_empty(&h);
    house_close(&h);
}

static void prompts_at_the_edge(void **state)
{
    (void)state;
    house h;
    guest *g = calloc(1, sizeof *g);
    int32_t ids[130];
    house_defaults(&h);
    house_open(&h);
    fill_ids(ids, 130, 3);
    guest_open(g);
    tn_ask ask = oracle_ask(ids, 127);
    ask.flags = TN_ASK_IGNORE_EOS;
    house_ask(&h, &ask, g);
    guest_wait(g, 0);
    check_guest(&h, &ask, g);
    assert_int_equal(g->ntoken[0], 1);
    tn_request_release(g->req);
    for (uint32_t n = 128; n < 130; n++) {
        tn_err err = {0};
        tn_request *req = NULL;
        char given[16];
        ask = oracle_ask(ids, n);
        assert_int_equal(tn_engine_submit(h.engine, &ask, &req, &err), TN_REFUSED);
        assert_string_equal(err.code, "context_length_exceeded");
        assert_non_null(strstr(err.text, "maximum context length is 128 tokens"));
        snprintf(given, sizeof given, "(%u in", n);
        assert_non_null(strstr(err.text, given));
    }
    ask = oracle_ask(ids, 130);
    ask.prompt.truncate = 100;
    ask.max_tokens = 3;
    guest_close(g);
    guest_open(g);
    house_ask(&h, &ask, g);
    guest_wait(g, 0);
    assert_int_equal(g->nprompt, 100);
    check_choice(&h, &ask, g, 0, true);
    tn_request_release(g->req);
    guest_close(g);
    free(g);
    house_is_empty(&h);
    house_close(&h);
}

/* ------------------------------------------------------------------------------ refusals */

static void refusals_name_the_field(void **state)
{
    (void)state;
    house h;
    int32_t ids[4] = {1, 2, 3, 4}, wild[3] = {1, -1, 2}, high[2] = {1, (int32_t)TINY_VOCAB};
    house_defaults(&h);
    house_open(&h);
    tn_ask ask = oracle_ask(ids, 4);
    ask.temperature = 5;
    refused(&h, &ask, TN_REFUSED, "temperature", "value_out_of_range");
    ask = oracle_ask(ids, 4);
    ask.max_tokens = 0;
    refused(&h, &ask, TN_REFUSED, "max_tokens", "value_out_of_range");
    ask = oracle_ask(ids, 4);
    ask.max_tokens = 3;
    ask.min_tokens = 4;
    refused(&h, &ask, TN_REFUSED, "min_tokens", "value_out_of_range");
    ask.max_tokens = -1;
    ask.min_tokens = 125;
    refused(&h, &ask, TN_REFUSED, "min_tokens", "value_out_of_range");
    ask = oracle_ask(ids, 4);
    ask.max_tokens = 125;
    refused(&h, &ask, TN_REFUSED, "prompt", "context_length_exceeded");
    ask.max_tokens = INT64_MAX;
    refused(&h, &ask, TN_REFUSED, "prompt", "context_length_exceeded");
    ask = oracle_ask(ids, 0);
    refused(&h, &ask, TN_REFUSED, "prompt", "value_out_of_range");
    ask = oracle_ask(wild, 3);
    refused(&h, &ask, TN_REFUSED, "prompt", "value_out_of_range");
    ask = oracle_ask(high, 2);
    refused(&h, &ask, TN_REFUSED, "prompt", "value_out_of_range");
    ask = oracle_ask(NULL, 0);
    ask.prompt.kind = TN_PROMPT_TEXT;
    ask.prompt.text = "";
    refused(&h, &ask, TN_REFUSED, "prompt", "value_out_of_range");
    ask.prompt.kind = TN_PROMPT_CHAT;
    refused(&h, &ask, TN_REFUSED, "messages", "template_error");
    ask.prompt.kind = 9;
    refused(&h, &ask, TN_REFUSED, "prompt", "wrong_type");
    tn_pulse p;
    tn_engine_pulse(h.engine, &p);
    assert_int_equal(p.rejected, 12);
    house_is_empty(&h);
    house_close(&h);
}

static void a_full_queue_says_so(void **state)
{
    (void)state;
    house h;
    guest *g = calloc(10, sizeof *g);
    int32_t ids[4] = {1, 2, 3, 4};
    tn_health health;
    house_defaults(&h);
    h.queue_max = 3;
    h.running = 1;
    atomic_store(&h.device.hold, true);
    house_open(&h);
    tn_ask ask = oracle_ask(ids, 4);
    ask.max_tokens = 4;
    guest_open(&g[0]);
    house_ask(&h, &ask, &g[0]);
    while (atomic_load(&h.device.nrun) == 0)
        nap_us(100);
    for (int i = 1; i < 4; i++) {
        guest_open(&g[i]);
        house_ask(&h, &ask, &g[i]);
    }
    uint64_t before = now_ns();
    refused(&h, &ask, TN_BUSY, "", "queue_full");
    assert_true(now_ns() - before < SECOND / 2);
    tn_engine_health(h.engine, &health);
    assert_int_equal(health.live, 1);
    assert_int_equal(health.ready, 1);
    assert_int_equal(health.running, 1);
    assert_int_equal(health.waiting, 3);
    assert_in_range(health.retry_after, 1, 60);
    atomic_store(&h.device.hold, false);
    for (int i = 0; i < 4; i++) {
        guest_wait(&g[i], 0);
        check_guest(&h, &ask, &g[i]);
        tn_request_release(g[i].req);
        guest_close(&g[i]);
    }
    free(g);
    house_is_empty(&h);
    house_close(&h);
}

/* --------------------------------------------------------------------- ends on the way */

static void cancel_in_every_phase(void **state)
{
    (void)state;
    /* 0 queued, 1 prompt half computed, 2 replying, 3 several choices, 4 after the end */
    for (int phase = 0; phase < 5; phase++) {
        house h;
        guest *g = calloc(2, sizeof *g);
        int32_t ids[100];
        house_defaults(&h);
        h.running = phase == 0 ? 1 : 8;
        h.device.limits.rows_max = phase == 1 ? 2 : 48;
        atomic_store(&h.device.step_us, phase == 4 ? 0 : 2000);
        house_open(&h);
        fill_ids(ids, 100, 6);
        guest_open(&g[0]);
        guest_open(&g[1]);
        tn_ask by = oracle_ask(ids + 1, 5), ask = oracle_ask(ids, 60);
        by.flags = ask.flags = TN_ASK_IGNORE_EOS;
        by.max_tokens = 60;
        ask.max_tokens = phase == 4 ? 3 : -1;
        ask.n = phase == 3 ? 4 : 1;
        house_ask(&h, &by, &g[0]);
        house_ask(&h, &ask, &g[1]);
        if (phase == 0 || phase == 1)
            guest_wait(&g[0], 4);
        else
            guest_wait(&g[1], phase == 4 ? 0 : 5);
        uint64_t before = now_ns();
        tn_engine_cancel(h.engine, g[1].req);
        guest_wait(&g[1], 0);
        assert_true(now_ns() - before < SECOND);
        tn_engine_cancel(h.engine, g[1].req); /* harmless */
        guest_wait(&g[0], 0);
        assert_int_equal(g[1].nlast, 1);
        assert_false(g[1].late);
        if (phase < 4) {
            assert_int_equal(g[1].status, TN_CANCELLED);
            assert_int_equal(g[1].finish[0], TN_FINISH_ABORT);
            for (uint32_t c = 0; c < ask.n; c++)
                check_choice(&h, &ask, &g[1], c, false);
        }
        check_guest(&h, &by, &g[0]); /* the bystander */
        tn_request_release(g[0].req);
        tn_request_release(g[1].req);
        house_is_empty(&h);
        guest_close(&g[0]);
        guest_close(&g[1]);
        free(g);
        house_close(&h);
    }
}

static void blocks_are_free_soon_after_cancel(void **state)
{
    (void)state;
    house h;
    guest *g = calloc(1, sizeof *g);
    int32_t ids[60];
    tn_pulse p;
    house_defaults(&h);
    atomic_store(&h.device.step_us, 1000);
    house_open(&h);
    fill_ids(ids, 60, 6);
    guest_open(g);
    tn_ask ask = oracle_ask(ids, 60);
    ask.flags = TN_ASK_IGNORE_EOS;
    house_ask(&h, &ask, g);
    guest_wait(g, 3);
    tn_engine_pulse(h.engine, &p);
    assert_true(p.blocks_used > 0);
    tn_engine_cancel(h.engine, g->req);
    guest_wait(g, 0);
    uint64_t steps = p.nstep, end = now_ns() + PATIENCE;
    do
        tn_engine_pulse(h.engine, &p);
    while (p.blocks_used > 0 && now_ns() < end);
    assert_int_equal(p.blocks_used, 0);
    assert_true(p.nstep < steps + 40);
    tn_request_release(g->req);
    guest_close(g);
    free(g);
    house_close(&h);
}

static void time_runs_out(void **state)
{
    (void)state;
    /* 0 the server's limit, 1 the request's, 2 while queued, 3 while the device hangs */
    for (int way = 0; way < 4; way++) {
        house h;
        guest *g = calloc(2, sizeof *g);
        int32_t ids[10];
        house_defaults(&h);
        h.timeout_ms = way == 1 ? 0 : 60;
        h.running = way == 2 ? 1 : 4;
        atomic_store(&h.device.step_us, 3000);
        atomic_store(&h.device.hold, way == 3);
        house_open(&h);
        fill_ids(ids, 10, 6);
        uint32_t n = way == 2 ? 2 : 1;
        tn_ask ask = oracle_ask(ids, 10);
        ask.flags = TN_ASK_IGNORE_EOS;
        ask.timeout_ms = way == 1 ? 60 : 0;
        uint64_t before = now_ns();
        for (uint32_t i = 0; i < n; i++) {
            guest_open(&g[i]);
            house_ask(&h, &ask, &g[i]);
        }
        for (uint32_t i = 0; i < n; i++) {
            guest_wait(&g[i], 0);
            assert_int_equal(g[i].status, TN_TIMEOUT);
            assert_string_equal(g[i].code, "request_timeout");
            assert_int_equal(g[i].finish[0], TN_FINISH_ABORT);
            check_choice(&h, &ask, &g[i], 0, false);
        }
        uint64_t took = now_ns() - before;
        assert_true(took >= 60 * 1000000u);
        assert_true(took < 20 * (uint64_t)SECOND);
        atomic_store(&h.device.hold, false);
        house_is_empty(&h);
        for (uint32_t i = 0; i < n; i++) {
            assert_int_equal(g[i].nlast, 1);
            assert_false(g[i].late);
            tn_request_release(g[i].req);
            guest_close(&g[i]);
        }
        free(g);
        house_close(&h);
    }
}

static void nan_ends_one_request(void **state)
{
    (void)state;
    house h;
    guest *g = calloc(3, sizeof *g);
    int32_t ids[10], bad[10];
    const int32_t allowed[3] = {'a', 'b', 'c'};
    house_defaults(&h);
    h.device.nan_token = 255;
    house_open(&h);
    fill_ids(ids, 10, 6);
    for (int i = 0; i < 10; i++)
        ids[i] %= 200;
    memcpy(bad, ids, sizeof bad);
    bad[4] = 255;
    for (int i = 0; i < 3; i++) {
        guest_open(&g[i]);
        tn_ask ask = oracle_ask(i == 1 ? bad : ids, 10);
        ask.allowed = allowed;
        ask.nallowed = 3;
        house_ask(&h, &ask, &g[i]);
    }
    for (int i = 0; i < 3; i++) {
        guest_wait(&g[i], 0);
        tn_ask ask = oracle_ask(ids, 10);
        ask.allowed = allowed;
        ask.nallowed = 3;
        if (i != 1)
            check_guest(&h, &ask, &g[i]);
        tn_request_release(g[i].req);
    }
    assert_int_equal(g[1].finish[0], TN_FINISH_ERROR);
    assert_string_equal(g[1].code, "model_nan");
    assert_int_equal(g[1].nlast, 1);
    assert_int_equal(g[1].text[0].len, 0);
    house_is_empty(&h);
    for (int i = 0; i < 3; i++)
        guest_close(&g[i]);
    free(g);
    house_close(&h);
}

static void a_lost_device_ends_everything(void **state)
{
    (void)state;
    for (int way = 0; way < 2; way++) {
        house h;
        guest *g = calloc(12, sizeof *g);
        int32_t ids[10];
        tn_health health;
        house_defaults(&h);
        h.running = 4;
        atomic_store(way == 0 ? &h.device.fail_run : &h.device.fail_wait, 7);
        atomic_store(&h.device.step_us, 500);
        house_open(&h);
        fill_ids(ids, 10, 6);
        tn_ask ask = oracle_ask(ids, 10);
        ask.flags = TN_ASK_IGNORE_EOS;
        ask.n = 2;
        for (int i = 0; i < 12; i++) {
            guest_open(&g[i]);
            house_ask(&h, &ask, &g[i]);
        }
        for (int i = 0; i < 12; i++) {
            guest_wait(&g[i], 0);
            assert_int_equal(g[i].finish[0], TN_FINISH_ERROR);
            assert_string_equal(g[i].code, "engine_down");
            assert_int_equal(g[i].status, TN_UNAVAILABLE);
            check_choice(&h, &ask, &g[i], 0, false);
        }
        tn_engine_health(h.engine, &health);
        assert_int_equal(health.live, 0);
        assert_int_equal(health.ready, 0);
        assert_string_equal(health.why, "engine_down");
        refused(&h, &ask, TN_UNAVAILABLE, "", "engine_down");
        house_is_empty(&h);
        for (int i = 0; i < 12; i++) {
            assert_int_equal(g[i].nlast, 1);
            tn_engine_cancel(h.engine, g[i].req);
            tn_request_release(g[i].req);
            guest_close(&g[i]);
        }
        free(g);
        house_close(&h);
    }
}

static void draining_lets_them_finish(void **state)
{
    (void)state;
    house h;
    guest *g = calloc(6, sizeof *g);
    int32_t ids[10];
    tn_health health;
    tn_err err = {0};
    house_defaults(&h);
    h.running = 2;
    atomic_store(&h.device.step_us, 300);
    house_open(&h);
    fill_ids(ids, 10, 6);
    tn_ask ask = oracle_ask(ids, 10);
    ask.max_tokens = 20;
    for (int i = 0; i < 6; i++) {
        guest_open(&g[i]);
        house_ask(&h, &ask, &g[i]);
    }
    assert_int_equal(tn_engine_drain(h.engine, 60000, &err), TN_OK);
    for (int i = 0; i < 6; i++) {
        check_guest(&h, &ask, &g[i]);
        tn_request_release(g[i].req);
        guest_close(&g[i]);
    }
    tn_engine_health(h.engine, &health);
    assert_int_equal(health.live, 1);
    assert_int_equal(health.ready, 0);
    assert_string_equal(health.why, "draining");
    assert_true(health.retry_after > 0);
    refused(&h, &ask, TN_UNAVAILABLE, "", "draining");
    free(g);
    house_close(&h);
}

static void draining_cuts_at_its_deadline(void **state)
{
    (void)state;
    for (int way = 0; way < 2; way++) { /* by drain, by close */
        house h;
        guest *g = calloc(6, sizeof *g);
        int32_t ids[10];
        tn_err err = {0};
        house_defaults(&h);
        h.running = 2;
        atomic_store(&h.device.step_us, 3000);
        house_open(&h);
        fill_ids(ids, 10, 6);
        tn_ask ask = oracle_ask(ids, 10);
        ask.flags = TN_ASK_IGNORE_EOS;
        for (int i = 0; i < 6; i++) {
            guest_open(&g[i]);
            house_ask(&h, &ask, &g[i]);
        }
        if (way == 0) {
            assert_int_equal(tn_engine_drain(h.engine, 50, &err), TN_CUT);
            assert_non_null(strstr(err.text, "6 requests"));
            house_is_empty(&h);
        } else {
            tn_engine_close(h.engine);
            h.engine = NULL;
        }
        for (int i = 0; i < 6; i++) {
            assert_int_equal(g[i].nlast, 1);
            assert_int_equal(g[i].finish[0], TN_FINISH_ABORT);
            assert_int_equal(g[i].status, TN_CUT);
            assert_string_equal(g[i].code, "draining");
            check_choice(&h, &ask, &g[i], 0, false);
            tn_request_release(g[i].req); /* after the engine is gone, in one case */
            guest_close(&g[i]);
        }
        free(g);
        house_close(&h);
    }
}

static void a_slow_callback_stops_no_step(void **state)
{
    (void)state;
    house h;
    guest *g = calloc(2, sizeof *g);
    int32_t ids[10];
    tn_pulse p;
    house_defaults(&h);
    house_open(&h);
    fill_ids(ids, 10, 6);
    tn_ask ask = oracle_ask(ids, 10);
    ask.flags = TN_ASK_IGNORE_EOS;
    ask.max_tokens = 100;
    guest_open(&g[0]);
    guest_open(&g[1]);
    g[0].slow_us = 300000;
    house_ask(&h, &ask, &g[0]);
    guest_wait(&g[0], 1); /* its first piece holds the output thread now */
    for (uint64_t end = now_ns() + PATIENCE;; nap_us(100)) {
        tn_engine_pulse(h.engine, &p);
        if (p.nstep == 100 || now_ns() > end)
            break;
    }
    assert_int_equal(p.nstep, 100);
    assert_true(g[0].npiece <= 2);
    guest_wait(&g[0], 0);
    check_guest(&h, &ask, &g[0]);
    tn_request_release(g[0].req);
    house_is_empty(&h);
    guest_close(&g[0]);
    guest_close(&g[1]);
    free(g);
    house_close(&h);
}

/* Reports wait in a short ring: a slow reader pauses its own request, and it goes on. */
static void a_slow_reader_of_reports(void **state)
{
    (void)state;
    house h;
    guest *g = calloc(2, sizeof *g);
    int32_t ids[10];
    house_defaults(&h);
    house_open(&h);
    fill_ids(ids, 10, 6);
    tn_ask slow = oracle_ask(ids, 10), other = oracle_ask(ids + 1, 9);
    slow.flags = other.flags = TN_ASK_IGNORE_EOS;
    slow.max_tokens = 110;
    slow.logprobs = 3;
    slow.n = 2;
    guest_open(&g[0]);
    guest_open(&g[1]);
    g[0].slow_us = 20000;
    house_ask(&h, &slow, &g[0]);
    house_ask(&h, &other, &g[1]);
    guest_wait(&g[0], 0);
    guest_wait(&g[1], 0);
    check_guest(&h, &slow, &g[0]);
    check_guest(&h, &other, &g[1]);
    assert_int_equal(g[0].ntop, 3 * 2 * 110);
    for (int i = 0; i < 2; i++) {
        tn_request_release(g[i].req);
        guest_close(&g[i]);
    }
    free(g);
    house_is_empty(&h);
    house_close(&h);
}

static void released_early_it_still_ends(void **state)
{
    (void)state;
    house h;
    guest *g = calloc(1, sizeof *g);
    int32_t ids[10];
    house_defaults(&h);
    atomic_store(&h.device.step_us, 500);
    house_open(&h);
    fill_ids(ids, 10, 6);
    tn_ask ask = oracle_ask(ids, 10);
    ask.max_tokens = 30;
    guest_open(g);
    house_ask(&h, &ask, g);
    tn_request_release(g->req);
    guest_wait(g, 0);
    check_guest(&h, &ask, g);
    house_is_empty(&h);
    guest_close(g);
    free(g);
    house_close(&h);
}

/* The request is retired already when its last piece is made and cancelled meanwhile. */
static void cancelled_in_its_last_piece(void **state)
{
    (void)state;
    house h;
    guest *g = calloc(2, sizeof *g);
    int32_t ids[10];
    house_defaults(&h);
    house_open(&h);
    fill_ids(ids, 10, 6);
    tn_ask ask = oracle_ask(ids, 10);
    ask.flags = TN_ASK_IGNORE_EOS;
    ask.max_tokens = 20;
    for (int i = 0; i < 2; i++) {
        guest_open(&g[i]);
        g[i].slow_us = i == 0 ? 50000 : 0;
        g[i].cancels = h.engine;
        house_ask(&h, &ask, &g[i]);
    }
    for (int i = 0; i < 2; i++) {
        guest_wait(&g[i], 0);
        check_guest(&h, &ask, &g[i]);
        tn_request_release(g[i].req);
    }
    tn_engine_close(h.engine); /* joins: no callback runs any more */
    h.engine = NULL;
    for (int i = 0; i < 2; i++)
        guest_close(&g[i]);
    free(g);
    house_close(&h);
}

/* ----------------------------------------------------------------------- around requests */

static void prompts_become_ids(void **state)
{
    (void)state;
    house h;
    int32_t *ids = NULL;
    uint64_t n = 0;
    tn_err err = {0};
    house_defaults(&h);
    house_open(&h);
    tn_prompt p = {.size = sizeof p, .kind = TN_PROMPT_TEXT, .text = "abcab", .text_size = 5};
    assert_int_equal(tn_engine_tokenize(h.engine, &p, &ids, &n, &err), TN_OK);
    assert_int_equal(n, 2);
    assert_int_equal(ids[0], TINY_ABC);
    assert_int_equal(ids[1], TINY_AB);
    free(ids);
    p.text_size = 0;
    assert_int_equal(tn_engine_tokenize(h.engine, &p, &ids, &n, &err), TN_OK);
    assert_int_equal(n, 0);
    free(ids);
    house_close(&h);
}

static double metric(house *h, const char *series)
{
    tn_buf text;
    tn_buf_open(&text, 1 << 20);
    tn_metrics_print(h->metrics, &text);
    assert_false(text.failed);
    const char *at = strstr(text.data, series);
    if (at == NULL)
        fail_msg("no series %s", series);
    double v = at != NULL ? strtod(at + strlen(series), NULL) : 0;
    tn_buf_close(&text);
    return v;
}

#define LABELS "{model_name=\"tiny\",engine=\"0\"} "

static void metrics_count_what_happened(void **state)
{
    (void)state;
    house h;
    guest *g = calloc(3, sizeof *g);
    int32_t ids[20];
    house_defaults(&h);
    house_open(&h);
    fill_ids(ids, 20, 6);
    uint64_t nreply = 0;
    for (int i = 0; i < 3; i++) {
        tn_ask ask = oracle_ask(ids, 20);
        ask.flags = TN_ASK_IGNORE_EOS;
        ask.max_tokens = 10;
        ask.n = i == 2 ? 2 : 1;
        guest_open(&g[i]);
        house_ask(&h, &ask, &g[i]);
        guest_wait(&g[i], 0);
        nreply += g[i].nreply;
        tn_request_release(g[i].req);
        guest_close(&g[i]);
    }
    house_is_empty(&h);
    tn_ask bad = oracle_ask(ids, 0);
    refused(&h, &bad, TN_REFUSED, "prompt", "value_out_of_range");
    assert_true(metric(&h, "vllm:prompt_tokens_total" LABELS) == 60);
    assert_true(metric(&h, "vllm:generation_tokens_total" LABELS) == (double)nreply);
    assert_true(metric(&h, "vllm:prompt_tokens_cached_total" LABELS) == 32);
    assert_true(metric(&h, "vllm:prefix_cache_hits_total" LABELS) == 32);
    assert_true(metric(&h, "vllm:prefix_cache_queries_total" LABELS) == 60);
    assert_true(metric(&h, "vllm:num_requests_running" LABELS) == 0);
    assert_true(metric(&h, "vllm:num_requests_waiting" LABELS) == 0);
    assert_true(metric(&h, "vllm:kv_cache_usage_perc" LABELS) == 0);
    assert_true(metric(&h, "vllm:request_success_total{model_name=\"tiny\",engine=\"0\","
                           "finished_reason=\"length\"} ") == 4);
    assert_true(metric(&h, "vllm:e2e_request_latency_seconds_count" LABELS) == 4);
    assert_true(metric(&h, "vllm:time_to_first_token_seconds_count" LABELS) == 4);
    assert_true(metric(&h, "vllm:inter_token_latency_seconds_count" LABELS) ==
                (double)nreply - 4);
    assert_true(metric(&h, "vllm:time_per_output_token_seconds_count" LABELS) ==
                (double)nreply - 4);
    assert_true(metric(&h, "vllm:request_generation_tokens_sum" LABELS) == (double)nreply);
    assert_true(metric(&h, "vllm:request_params_n_sum" LABELS) == 1 + 1 + 2 + 2);
    assert_true(metric(&h, "vllm:iteration_tokens_total_count" LABELS) > 0);
    assert_true(metric(&h, "tenon:requests_accepted_total" LABELS) == 4);
    assert_true(metric(&h, "tenon:requests_completed_total" LABELS) == 3);
    assert_true(metric(&h, "tenon:requests_rejected_total" LABELS) == 1);
    free(g);
    house_close(&h);
}

static void refuses_a_bad_setup(void **state)
{
    (void)state;
    house h;
    tn_engine *e = NULL;
    tn_err err = {0};
    house_defaults(&h);
    assert_true(fake_open(&h.device));
    tn_engine_setup s = house_setup(&h);
    h.device.pools.nblock = 31;
    assert_int_equal(tn_engine_open(&s, &e, &err), TN_CONFIG);
    h.device.pools.nblock = 256;
    s.vocab = 0;
    assert_int_equal(tn_engine_open(&s, &e, &err), TN_CONFIG);
    s.vocab = TINY_VOCAB;
    s.defaults.top_p = 0;
    assert_int_equal(tn_engine_open(&s, &e, &err), TN_CONFIG);
    assert_non_null(strstr(err.text, "top_p"));
    s.defaults.top_p = NAN;
    s.eos = (int32_t)TINY_VOCAB;
    assert_int_equal(tn_engine_open(&s, &e, &err), TN_CONFIG);
    s.eos = -1;
    s.device = NULL;
    assert_int_equal(tn_engine_open(&s, &e, &err), TN_INTERNAL);
    assert_null(e);
    fake_close(&h.device);
}

/* ------------------------------------------------------------------------------- storm */

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

static int open_tok(void **state)
{
    tn_err err = {0};
    (void)state;
    tok = tiny_open(&err);
    if (tok == NULL)
        fprintf(stderr, "tokenizer: %s\n", err.text);
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
        cmocka_unit_test(alone_and_in_a_crowd),
        cmocka_unit_test(choices_and_stop_strings),
        cmocka_unit_test(a_beginning_is_reused),
        cmocka_unit_test(a_prompt_is_scored),
        cmocka_unit_test(echo_without_a_reply),
        cmocka_unit_test(prompts_at_the_edge),
        cmocka_unit_test(refusals_name_the_field),
        cmocka_unit_test(a_full_queue_says_so),
        cmocka_unit_test(cancel_in_every_phase),
        cmocka_unit_test(blocks_are_free_soon_after_cancel),
        cmocka_unit_test(time_runs_out),
        cmocka_unit_test(nan_ends_one_request),
        cmocka_unit_test(a_lost_device_ends_everything),
        cmocka_unit_test(draining_lets_them_finish),
        cmocka_unit_test(draining_cuts_at_its_deadline),
        cmocka_unit_test(a_slow_callback_stops_no_step),
        cmocka_unit_test(a_slow_reader_of_reports),
        cmocka_unit_test(released_early_it_still_ends),
        cmocka_unit_test(cancelled_in_its_last_piece),
        cmocka_unit_test(prompts_become_ids),
        cmocka_unit_test(metrics_count_what_happened),
        cmocka_unit_test(refuses_a_bad_setup),
        cmocka_unit_test(storm),
    };
    return cmocka_run_group_tests(tests, open_tok, close_tok);
}
