/* SPDX-License-Identifier: Apache-2.0 */
/* test_engine.c - whole requests through both threads, on the fake device. */
#include "engine.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "enginehouse.h"

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

/* P22 */
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
        house_make_long(&h);
        h.running = phase == 0 ? 1 : 8;
        h.device.limits.rows_max = phase == 1 ? 2 : 48;
        atomic_store(&h.device.step_us, phase == 4 ? 0 : 2000);
        house_open(&h);
        fill_ids(ids, 100, 6);
        guest_open(&g[0]);
        guest_open(&g[1]);
        tn_ask by = oracle_ask(ids + 1, 5), ask = oracle_ask(ids, 60);
        by.flags = ask.flags = TN_ASK_IGNORE_EOS;
        by.max_tokens = 200;
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
    house_make_long(&h);
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
    assert_true(p.nstep < steps + 400);
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
        house_make_long(&h);
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

/* P32 */
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
        atomic_store(&h.device.hold, true); /* all have asked before it fails */
        house_open(&h);
        fill_ids(ids, 10, 6);
        tn_ask ask = oracle_ask(ids, 10);
        ask.flags = TN_ASK_IGNORE_EOS;
        ask.n = 2;
        for (int i = 0; i < 12; i++) {
            guest_open(&g[i]);
            house_ask(&h, &ask, &g[i]);
        }
        atomic_store(&h.device.hold, false);
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

/* Those that came during the last step have met no plan yet. */
static void what_comes_as_it_is_lost_ends_too(void **state)
{
    (void)state;
    house h;
    guest *g = calloc(3, sizeof *g);
    int32_t ids[10];
    house_defaults(&h);
    atomic_store(&h.device.fail_wait, 1);
    atomic_store(&h.device.hold, true);
    house_open(&h);
    fill_ids(ids, 10, 6);
    tn_ask ask = oracle_ask(ids, 10);
    for (int i = 0; i < 3; i++) {
        guest_open(&g[i]);
        house_ask(&h, &ask, &g[i]);
        uint64_t end = now_ns() + PATIENCE;
        while (atomic_load(&h.device.nrun) == 0 && now_ns() < end) {
        }
    }
    atomic_store(&h.device.hold, false);
    for (int i = 0; i < 3; i++) {
        guest_wait(&g[i], 0);
        assert_int_equal(g[i].nlast, 1);
        assert_string_equal(g[i].code, "engine_down");
    }
    house_is_empty(&h);
    for (int i = 0; i < 3; i++) {
        tn_request_release(g[i].req);
        guest_close(&g[i]);
    }
    free(g);
    house_close(&h);
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
        house_make_long(&h);
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
    guest *g = calloc(4, sizeof *g);
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
    atomic_store(&h.device.hold, true); /* its two choices are cut while a step runs */
    tn_ask cut = oracle_ask(ids, 20);
    cut.n = 2;
    guest_open(&g[3]);
    house_ask(&h, &cut, &g[3]);
    tn_engine_cancel(h.engine, g[3].req);
    guest_wait(&g[3], 0);
    atomic_store(&h.device.hold, false);
    assert_true(metric(&h, "vllm:request_success_total{model_name=\"tiny\",engine=\"0\","
                           "finished_reason=\"abort\"} ") == 2);
    assert_true(metric(&h, "tenon:requests_cancelled_total" LABELS) == 1);
    tn_request_release(g[3].req);
    guest_close(&g[3]);
    house_is_empty(&h);
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
    tn_tok_close(h.tok);
    fake_close(&h.device);
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
        cmocka_unit_test(what_comes_as_it_is_lost_ends_too),
        cmocka_unit_test(draining_lets_them_finish),
        cmocka_unit_test(draining_cuts_at_its_deadline),
        cmocka_unit_test(a_slow_callback_stops_no_step),
        cmocka_unit_test(a_slow_reader_of_reports),
        cmocka_unit_test(released_early_it_still_ends),
        cmocka_unit_test(cancelled_in_its_last_piece),
        cmocka_unit_test(prompts_become_ids),
        cmocka_unit_test(metrics_count_what_happened),
        cmocka_unit_test(refuses_a_bad_setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
