/* SPDX-License-Identifier: Apache-2.0 */
/* enginehouse.c - an engine on the fake device, the guests that ask it, and what must come. */
#include "enginehouse.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

void nap_us(uint32_t us)
{
    struct timespec t = {.tv_sec = us / 1000000, .tv_nsec = (long)(us % 1000000) * 1000};
    nanosleep(&t, NULL);
}

/* ------------------------------------------------------------------------------ guests */

void guest_open(guest *g)
{
    memset(g, 0, sizeof *g);
    pthread_mutex_init(&g->lock, NULL);
    pthread_cond_init(&g->done, NULL);
    for (uint32_t i = 0; i < TN_CHOICES_MAX; i++) {
        tn_buf_open(&g->text[i], 1 << 20);
        tn_buf_puts(&g->text[i], "");
    }
}

void guest_close(guest *g)
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
        if (g->ntoken[c] == GUEST_TOKENS_MAX)
            abort(); /* far more than any context here */
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

void guest_piece(void *user, const tn_piece *p)
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

bool guest_waits(guest *g, uint32_t npiece)
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

void guest_wait(guest *g, uint32_t npiece)
{
    if (!guest_waits(g, npiece))
        fail_msg("no piece for a minute");
}

/* ------------------------------------------------------------------------------- house */

void house_defaults(house *h)
{
    tn_err err = {0};
    memset(h, 0, sizeof *h);
    h->tok = tiny_open(&err);
    if (h->tok == NULL)
        fail_msg("tokenizer: %s", err.text);
    fake_defaults(&h->device);
    h->device.vocab = TINY_VOCAB;
    h->eos = TINY_END;
    h->queue_max = 1000;
}

void house_make_long(house *h)
{
    h->device.limits.context_max = 1024;
    h->device.limits.blocks_max = 4096;
    h->device.pools.nblock = 2048;
}

tn_engine_setup house_setup(house *h)
{
    return (tn_engine_setup){
        .device = fake_table(), .program = &h->device, .limits = &h->device.limits,
        .pools = &h->device.pools, .step_first = h->device.step_first, .tok = h->tok, .name = "tiny",
        .vocab = h->device.vocab, .eos = h->eos,
        .defaults = {.temperature = NAN, .top_p = NAN, .min_p = NAN, .repetition = NAN,
                     .top_k = INT32_MIN},
        .max_running = h->running, .queue_max = h->queue_max,
        .request_timeout_ms = h->timeout_ms, .max_logprobs = 5,
        .prefix_caching = !h->uncached, .has_states = h->device.has_states,
        .drafts = h->drafts, .metrics = h->metrics, .prefix_check = h->prefix_check,
        .snapshot_every = h->snapshot_every, .log = h->log,
    };
}

void house_open(house *h)
{
    tn_err err = {0};
    assert_true(fake_open(&h->device));
    assert_int_equal(tn_metrics_open(&h->metrics, &err), TN_OK);
    const tn_engine_setup setup = house_setup(h);
    if (tn_engine_open(&setup, &h->engine, &err) != TN_OK)
        fail_msg("%s", err.text);
    h->intake = (tn_intake){
        .tok = h->tok, .context_max = h->device.limits.context_max, .vocab = h->device.vocab,
        .timeout_ms = 1000,
        .facts = {.vocab = h->device.vocab, .eos = h->eos, .max_logprobs = 5, .tok = h->tok,
                  .defaults = setup.defaults},
    };
    assert_int_equal(tn_intake_open(&h->intake, &err), TN_OK);
}

void house_is_empty(house *h)
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

void house_close(house *h)
{
    tn_engine_close(h->engine);
    tn_intake_close(&h->intake);
    tn_metrics_close(h->metrics);
    tn_tok_close(h->tok);
    if (atomic_load(&h->device.nbreach) > 0)
        fail_msg("contract: %s", h->device.breach);
    fake_close(&h->device);
}

void house_ask(house *h, tn_ask *ask, guest *g)
{
    tn_err err = {0};
    ask->on_piece = guest_piece;
    ask->user = g;
    /* The last piece may be here before the call returns, and cancels g->req. */
    pthread_mutex_lock(&g->lock);
    tn_status st = tn_engine_submit(h->engine, ask, &g->req, &err);
    pthread_mutex_unlock(&g->lock);
    if (st != TN_OK)
        fail_msg("%s", err.text);
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

void check_choice(house *h, const tn_ask *ask, const guest *g, uint32_t c, bool whole)
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

void check_guest(house *h, const tn_ask *ask, const guest *g)
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

void fill_ids(int32_t *ids, uint32_t n, uint64_t seed)
{
    for (uint32_t i = 0; i < n; i++)
        ids[i] = (int32_t)oracle_random(&seed, 256);
}
