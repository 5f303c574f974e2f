/* SPDX-License-Identifier: Apache-2.0 */
/* test_scheduler.c - steps planned and taken in by hand, without threads: the tokens are the
 * oracle's whatever runs beside a request, and every block comes back. */
#include "scheduler.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "schedrig.h"

/* ------------------------------------------------------------------------------- cases */

static void one_alone(void **state)
{
    (void)state;
    rig r = {0};
    int32_t ids[10];
    fake_defaults(&r.device);
    rig_open(&r, (rig_setup){.cached = true, .eos = -1});
    fill_ids(ids, 10, 1, 97);
    tn_ask ask = oracle_ask(ids, 10);
    ask.max_tokens = 20;
    tn_request *req = rig_make(&r, &ask);
    tn_sched_add(r.sched, req);
    rig_run(&r);
    check_request(&r, req);
    assert_int_equal(r.nstep, 20); /* the prompt fits one step, which draws the first token */
    rig_free(req);
    rig_close(&r);
}

static void sixteen_together(void **state)
{
    (void)state;
    rig r = {0};
    int32_t ids[16][40];
    tn_request *req[16];
    fake_defaults(&r.device);
    rig_open(&r, (rig_setup){.cached = true, .eos = 3});
    for (uint32_t i = 0; i < 16; i++) {
        fill_ids(ids[i], 40, i / 2, 97); /* pairs begin alike */
        tn_ask ask = oracle_ask(ids[i], 5 + 2 * i);
        ask.temperature = i % 3 == 0 ? 0 : 0.7f;
        ask.seed = i;
        ask.has_seed = 1;
        ask.frequency = i % 4 == 1 ? 0.5f : 0;
        ask.max_tokens = 30;
        req[i] = rig_make(&r, &ask);
        tn_sched_add(r.sched, req[i]);
    }
    rig_run(&r);
    for (uint32_t i = 0; i < 16; i++) {
        check_request(&r, req[i]);
        rig_free(req[i]);
    }
    assert_true(atomic_load(&r.device.seqs_most) > 8);
    rig_close(&r);
}

static void prompts_come_in_pieces(void **state)
{
    (void)state;
    rig r = {0};
    int32_t ids[100];
    fake_defaults(&r.device);
    r.device.limits.rows_max = 7;
    rig_open(&r, (rig_setup){.cached = false, .eos = -1});
    fill_ids(ids, 100, 5, 97);
    tn_ask ask = oracle_ask(ids, 100);
    ask.max_tokens = 3;
    tn_request *req = rig_make(&r, &ask);
    tn_sched_add(r.sched, req);
    rig_run(&r);
    check_request(&r, req);
    assert_int_equal(r.nstep, 15 + 2);
    rig_free(req);
    rig_close(&r);
}

static void decoding_goes_before_prompts(void **state)
{
    (void)state;
    rig r = {0};
    int32_t ids[120];
    fake_defaults(&r.device);
    r.device.limits.rows_max = 8;
    rig_open(&r, (rig_setup){.cached = false, .eos = -1});
    fill_ids(ids, 120, 5, 97);
    tn_ask early = oracle_ask(ids, 4), late = oracle_ask(ids, 100);
    early.max_tokens = 10;
    late.max_tokens = 2;
    tn_request *a = rig_make(&r, &early), *b = rig_make(&r, &late);
    tn_sched_add(r.sched, a);
    tn_sched_add(r.sched, b);
    for (uint32_t i = 1; i <= 10; i++) {
        rig_step(&r, true);
        assert_int_equal(atomic_load(&a->choice[0].nready), i); /* no step without its token */
    }
    assert_true(b->choice[0].ncomputed > 60);
    rig_run(&r);
    check_request(&r, a);
    check_request(&r, b);
    rig_free(a);
    rig_free(b);
    rig_close(&r);
}

static void reuses_the_longest_beginning(void **state)
{
    (void)state;
    const bool cached[2] = {false, true};
    for (int k = 0; k < 2; k++) {
        rig r = {0};
        int32_t ids[40];
        fake_defaults(&r.device);
        rig_open(&r, (rig_setup){.cached = cached[k], .eos = -1});
        fill_ids(ids, 40, 9, 97);
        tn_ask ask = oracle_ask(ids, 24);
        ask.max_tokens = 9;
        tn_request *a = rig_make(&r, &ask);
        tn_sched_add(r.sched, a);
        rig_run(&r);
        uint64_t rows = atomic_load(&r.device.nrow);
        tn_request *b = rig_make(&r, &ask);
        tn_sched_add(r.sched, b);
        rig_run(&r);
        check_request(&r, a);
        check_request(&r, b);
        /* 24 tokens are 6 full blocks, of which the last token's is computed again. */
        assert_int_equal(b->ncached, cached[k] ? 20 : 0);
        assert_int_equal(atomic_load(&r.device.nrow) - rows, cached[k] ? rows - 20 : rows);
        rig_free(a);
        rig_free(b);
        rig_close(&r);
    }
}

static void replies_can_be_found_again(void **state)
{
    (void)state;
    rig r = {0};
    int32_t ids[64];
    fake_defaults(&r.device);
    rig_open(&r, (rig_setup){.cached = true, .eos = -1});
    fill_ids(ids, 8, 9, 97);
    tn_ask ask = oracle_ask(ids, 8);
    ask.max_tokens = 13;
    tn_request *a = rig_make(&r, &ask);
    tn_sched_add(r.sched, a);
    rig_run(&r);
    memcpy(ids, a->choice[0].token, 21 * sizeof *ids); /* the next turn of a conversation */
    fill_ids(ids + 21, 10, 3, 97);
    ask = oracle_ask(ids, 31);
    ask.max_tokens = 5;
    tn_request *b = rig_make(&r, &ask);
    tn_sched_add(r.sched, b);
    rig_run(&r);
    check_request(&r, b);
    assert_int_equal(b->ncached, 20);
    rig_free(a);
    rig_free(b);
    rig_close(&r);
}

static void salts_do_not_share(void **state)
{
    (void)state;
    rig r = {0};
    int32_t ids[24];
    fake_defaults(&r.device);
    rig_open(&r, (rig_setup){.cached = true, .eos = -1});
    fill_ids(ids, 24, 9, 97);
    const char *salt[4] = {NULL, "one", "two", "one"};
    const uint32_t found[4] = {0, 0, 0, 20};
    for (int i = 0; i < 4; i++) {
        tn_ask ask = oracle_ask(ids, 24);
        ask.max_tokens = 2;
        ask.cache_salt = salt[i];
        tn_request *req = rig_make(&r, &ask);
        tn_sched_add(r.sched, req);
        rig_run(&r);
        check_request(&r, req);
        assert_int_equal(req->ncached, found[i]);
        rig_free(req);
    }
    rig_close(&r);
}

/* Few blocks: sequences push each other out, and say the same as ever. */
static void preemption_changes_nothing(void **state)
{
    (void)state;
    for (int cached = 0; cached < 2; cached++)
        for (int states = 0; states < 2 - cached; states++) {
            rig r = {0};
            int32_t ids[12][30];
            tn_request *req[12];
            tn_sched_counts c;
            fake_defaults(&r.device);
            r.device.has_states = states;
            r.device.pools.nblock = 34;
            rig_open(&r, (rig_setup){.cached = cached, .eos = -1});
            for (uint32_t i = 0; i < 12; i++) {
                fill_ids(ids[i], 30, i, 97);
                tn_ask ask = oracle_ask(ids[i], 6 + i);
                ask.temperature = 1;
                ask.has_seed = 1;
                ask.seed = 11;
                ask.presence = i % 2 ? 1 : 0;
                ask.max_tokens = 40 + i;
                ask.logprobs = i % 3 == 0 ? 2 : -1;
                req[i] = rig_make(&r, &ask);
                tn_sched_add(r.sched, req[i]);
            }
            rig_run(&r);
            for (uint32_t i = 0; i < 12; i++) {
                check_request(&r, req[i]);
                rig_free(req[i]);
            }
            tn_sched_count(r.sched, &c);
            assert_true(c.npreempt > 3);
            rig_close(&r);
        }
}

/* The third in line enters when the first leaves, not when the house is empty. */
static void room_is_used_when_it_comes(void **state)
{
    (void)state;
    rig r = {0};
    int32_t ids[70];
    fake_defaults(&r.device);
    r.device.pools.nblock = 40;
    rig_open(&r, (rig_setup){.cached = true, .eos = -1});
    fill_ids(ids, 70, 2, 97);
    const uint32_t nprompt[3] = {60, 40, 50}, nreply[3] = {8, 60, 8};
    tn_request *req[3];
    for (uint32_t i = 0; i < 3; i++) {
        tn_ask ask = oracle_ask(ids + 3 * i, nprompt[i]);
        ask.max_tokens = nreply[i];
        req[i] = rig_make(&r, &ask);
        tn_sched_add(r.sched, req[i]);
    }
    while (req[0]->nopen > 0)
        rig_step(&r, true);
    assert_int_equal(req[2]->choice[0].state, TN_CHOICE_WAITING);
    rig_step(&r, true);
    assert_int_equal(req[1]->choice[0].state, TN_CHOICE_RUNNING);
    assert_int_equal(req[2]->choice[0].state, TN_CHOICE_RUNNING);
    rig_run(&r);
    for (uint32_t i = 0; i < 3; i++) {
        check_request(&r, req[i]);
        rig_free(req[i]);
    }
    rig_close(&r);
}

static void choices_share_the_prompt(void **state)
{
    (void)state;
    for (int cached = 0; cached < 2; cached++)
        for (uint32_t nprompt = 11; nprompt <= 12; nprompt++) { /* an open block, none */
            rig r = {0};
            int32_t ids[12];
            fake_defaults(&r.device);
            rig_open(&r, (rig_setup){.cached = cached, .eos = 3});
            fill_ids(ids, 12, 4, 97);
            tn_ask ask = oracle_ask(ids, nprompt);
            ask.n = 8;
            ask.temperature = 1;
            ask.has_seed = 1;
            ask.seed = 40;
            ask.max_tokens = 30;
            tn_request *req = rig_make(&r, &ask);
            tn_sched_add(r.sched, req);
            rig_step(&r, true);
            assert_int_equal(tn_kv_used(r.kv), nprompt == 11 ? 2 + 8 : 3);
            assert_int_equal(atomic_load(&r.device.ncopy), nprompt == 11 ? 7 : 0);
            for (int i = 0; i < 8; i++)
                assert_int_equal(atomic_load(&req->choice[i].nready), 1);
            rig_run(&r);
            check_request(&r, req);
            rig_free(req);
            rig_close(&r);
        }
}

static void choices_queue_without_room(void **state)
{
    (void)state;
    for (int cached = 0; cached < 2; cached++) {
        rig r = {0};
        int32_t ids[31];
        fake_defaults(&r.device);
        r.device.pools.nblock = 33; /* one context and a little */
        rig_open(&r, (rig_setup){.running = 3, .cached = cached, .eos = -1});
        fill_ids(ids, 31, 4, 97);
        tn_ask ask = oracle_ask(ids, 31);
        ask.n = 8;
        ask.temperature = 1;
        ask.has_seed = 1;
        ask.max_tokens = 50;
        tn_request *req = rig_make(&r, &ask);
        tn_sched_add(r.sched, req);
        rig_run(&r);
        check_request(&r, req);
        rig_free(req);
        rig_close(&r);
    }
}

static void greedy_choices_are_equal(void **state)
{
    (void)state;
    rig r = {0};
    int32_t ids[9];
    fake_defaults(&r.device);
    rig_open(&r, (rig_setup){.running = 2, .cached = true, .eos = -1});
    fill_ids(ids, 9, 4, 97);
    tn_ask ask = oracle_ask(ids, 9);
    ask.n = 4;
    ask.max_tokens = 12;
    tn_request *req = rig_make(&r, &ask);
    tn_sched_add(r.sched, req);
    rig_run(&r);
    check_request(&r, req);
    for (int i = 1; i < 4; i++)
        assert_memory_equal(req->choice[0].token, req->choice[i].token, 21 * sizeof(int32_t));
    rig_free(req);
    rig_close(&r);
}

static void states_follow_choices(void **state)
{
    (void)state;
    rig r = {0};
    int32_t ids[9];
    fake_defaults(&r.device);
    r.device.has_states = true;
    rig_open(&r, (rig_setup){.cached = false, .eos = 3});
    fill_ids(ids, 9, 4, 97);
    tn_ask ask = oracle_ask(ids, 9);
    ask.n = 5;
    ask.temperature = 1;
    ask.has_seed = 1;
    tn_request *req = rig_make(&r, &ask);
    tn_sched_add(r.sched, req);
    rig_run(&r);
    check_request(&r, req);
    rig_free(req);
    rig_close(&r);
}

/* Scores of a prompt as long as the context, without a reply: what eval asks for. */
static void scores_a_whole_context(void **state)
{
    (void)state;
    for (uint32_t outs = 3; outs <= 64; outs += 61) {
        rig r = {0};
        int32_t ids[128];
        fake_defaults(&r.device);
        r.device.limits.outs_max = outs;
        r.device.pools.nblock = 32;
        rig_open(&r, (rig_setup){.cached = true, .eos = 3});
        fill_ids(ids, 128, 8, 97);
        tn_ask ask = oracle_ask(ids, 128);
        ask.max_tokens = 0;
        ask.prompt_logprobs = outs == 3 ? 0 : 3;
        for (int again = 0; again < 2; again++) { /* a cached beginning must not hide scores */
            tn_request *req = rig_make(&r, &ask);
            tn_sched_add(r.sched, req);
            rig_run(&r);
            check_scores(&r, req);
            assert_int_equal(req->choice[0].finish, TN_FINISH_LENGTH);
            assert_int_equal(req->choice[0].nfinal, 0);
            rig_free(req);
        }
        assert_true(atomic_load(&r.device.outs_most) <= outs);
        rig_close(&r);
    }
}

static void scores_survive_preemption(void **state)
{
    (void)state;
    rig r = {0};
    int32_t ids[6][90];
    tn_request *req[6];
    fake_defaults(&r.device);
    r.device.limits.rows_max = 9;
    r.device.limits.outs_max = 5;
    r.device.pools.nblock = 33;
    rig_open(&r, (rig_setup){.cached = true, .eos = -1});
    for (uint32_t i = 0; i < 6; i++) {
        fill_ids(ids[i], 90, i % 2, 97);
        tn_ask ask = oracle_ask(ids[i], 20 + 12 * i);
        ask.max_tokens = i % 3 == 0 ? 0 : 30;
        ask.prompt_logprobs = (int32_t)(i % 3);
        req[i] = rig_make(&r, &ask);
        tn_sched_add(r.sched, req[i]);
    }
    rig_run(&r);
    for (uint32_t i = 0; i < 6; i++) {
        if (req[i]->max_tokens > 0)
            check_request(&r, req[i]);
        check_scores(&r, req[i]);
        rig_free(req[i]);
    }
    rig_close(&r);
}

static void nothing_to_compute_ends_at_once(void **state)
{
    (void)state;
    rig r = {0};
    int32_t ids[3] = {1, 2, 3};
    fake_defaults(&r.device);
    rig_open(&r, (rig_setup){.cached = true, .eos = -1});
    tn_ask ask = oracle_ask(ids, 3);
    ask.max_tokens = 0;
    ask.n = 2;
    ask.flags = TN_ASK_ECHO;
    tn_request *req = rig_make(&r, &ask);
    tn_sched_add(r.sched, req);
    assert_int_equal(atomic_load(&req->choice[1].ended), 1);
    assert_ptr_equal(tn_sched_news(r.sched), req);
    assert_null(tn_sched_news(r.sched));
    assert_false(rig_step(&r, true));
    rig_free(req);
    rig_close(&r);
}

static void dropped_ones_free_their_blocks(void **state)
{
    (void)state;
    rig r = {0};
    int32_t ids[30];
    fake_defaults(&r.device);
    rig_open(&r, (rig_setup){.cached = true, .eos = -1});
    fill_ids(ids, 30, 2, 97);
    tn_ask ask = oracle_ask(ids, 30);
    ask.n = 3;
    tn_request *a = rig_make(&r, &ask), *b = rig_make(&r, &ask);
    tn_sched_add(r.sched, a);
    tn_sched_add(r.sched, b);
    rig_step(&r, true);
    rig_step(&r, true);
    uint32_t used = tn_kv_used(r.kv);
    atomic_store(&a->choice[1].drop, 1); /* a stop string in one choice */
    tn_sched_sweep(r.sched, false);
    assert_true(tn_kv_used(r.kv) < used);
    assert_int_equal(a->nopen, 2);
    atomic_store(&a->over, 1);
    atomic_store(&b->over, 1);
    tn_sched_sweep(r.sched, true);
    assert_int_equal(a->nopen, 0);
    assert_int_equal(b->nopen, 0);
    assert_int_equal(tn_kv_used(r.kv), 0);
    assert_false(rig_step(&r, true));
    rig_free(a);
    rig_free(b);
    rig_close(&r);
}

static void nan_ends_only_its_request(void **state)
{
    (void)state;
    rig r = {0};
    int32_t ids[8], bad[8];
    fake_defaults(&r.device);
    r.device.vocab = 90;
    rig_open(&r, (rig_setup){.cached = true, .eos = -1});
    fill_ids(ids, 8, 2, 80);
    memcpy(bad, ids, sizeof bad);
    bad[6] = 85;
    tn_ask good = oracle_ask(ids, 8), nan = oracle_ask(bad, 8);
    const int32_t allowed[4] = {1, 2, 3, 4};
    good.allowed = nan.allowed = allowed;
    good.nallowed = nan.nallowed = 4;
    good.max_tokens = nan.max_tokens = 20;
    nan.n = 3;
    r.device.nan_token = 85;
    tn_request *a = rig_make(&r, &good), *b = rig_make(&r, &nan), *c = rig_make(&r, &good);
    tn_sched_add(r.sched, a);
    tn_sched_add(r.sched, b);
    tn_sched_add(r.sched, c);
    rig_run(&r);
    check_request(&r, a);
    check_request(&r, c);
    assert_int_equal(atomic_load(&b->failed), TN_END_NAN);
    assert_int_equal(b->nopen, 0);
    assert_true(tn_kv_find(r.kv, a->choice[0].key[1]) >= 0);
    assert_int_equal(tn_kv_find(r.kv, b->choice[0].key[1]), -1); /* nobody goes on behind it */
    rig_free(a);
    rig_free(b);
    rig_free(c);
    rig_close(&r);
}

static void a_wild_token_ends_its_request(void **state)
{
    (void)state;
    rig r = {0};
    const int32_t ids[3] = {1, 2, 85};
    fake_defaults(&r.device);
    r.device.bug_token = 85;
    rig_open(&r, (rig_setup){.cached = true, .eos = -1});
    tn_ask ask = oracle_ask(ids, 3);
    tn_request *req = rig_make(&r, &ask);
    tn_sched_add(r.sched, req);
    rig_run(&r);
    assert_int_equal(atomic_load(&req->failed), TN_END_BUG);
    rig_free(req);
    rig_close(&r);
}

/* The first id that is none. */
static void the_vocabulary_ends_where_it_says(void **state)
{
    (void)state;
    rig r = {0};
    const int32_t ids[3] = {1, 2, 3};
    fake_defaults(&r.device);
    rig_open(&r, (rig_setup){.cached = true, .eos = -1});
    for (int32_t over = 0; over < 2; over++) {
        tn_ask ask = oracle_ask(ids, 3);
        tn_request *req = rig_make(&r, &ask);
        tn_sched_add(r.sched, req);
        assert_non_null(tn_sched_plan(r.sched, 1));
        tn_result drawn = {.token = (int32_t)r.device.vocab - 1 + over};
        const tn_results all = {.size = sizeof all, .nout = 1, .result = &drawn};
        tn_sched_apply(r.sched, &all, 2);
        rig_see(&r);
        assert_int_equal(atomic_load(&req->failed), over ? TN_END_BUG : TN_END_NONE);
        atomic_store(&req->over, 1);
        tn_sched_sweep(r.sched, true);
        rig_see(&r);
        rig_free(req);
    }
    rig_close(&r);
}

static void unseen_reports_pause_a_choice(void **state)
{
    (void)state;
    rig r = {0};
    int32_t ids[5] = {5, 6, 7, 8, 9};
    fake_defaults(&r.device);
    rig_open(&r, (rig_setup){.cached = true, .eos = -1});
    tn_ask loud = oracle_ask(ids, 5), quiet = oracle_ask(ids, 4);
    loud.logprobs = 3;
    loud.max_tokens = 100;
    quiet.max_tokens = 110;
    tn_request *a = rig_make(&r, &loud), *b = rig_make(&r, &quiet);
    tn_sched_add(r.sched, a);
    tn_sched_add(r.sched, b);
    for (int i = 0; i < 105; i++)
        assert_true(rig_step(&r, false));
    assert_int_equal(atomic_load(&a->choice[0].nready), a->report_cap);
    assert_int_equal(atomic_load(&b->choice[0].nready), 105);
    rig_see(&r);
    rig_run(&r);
    check_request(&r, a);
    check_request(&r, b);
    rig_free(a);
    rig_free(b);
    rig_close(&r);
}

static void failing_ends_all(void **state)
{
    (void)state;
    rig r = {0};
    int32_t ids[12];
    fake_defaults(&r.device);
    rig_open(&r, (rig_setup){.running = 3, .cached = true, .eos = -1});
    fill_ids(ids, 12, 2, 97);
    tn_request *req[6];
    for (int i = 0; i < 6; i++) {
        tn_ask ask = oracle_ask(ids, 11);
        ask.n = 2;
        req[i] = rig_make(&r, &ask);
        tn_sched_add(r.sched, req[i]);
    }
    rig_step(&r, true);
    tn_sched_sweep(r.sched, true);
    assert_non_null(tn_sched_plan(r.sched, 5)); /* a step that never comes back */
    tn_sched_fail(r.sched);
    for (int i = 0; i < 6; i++) {
        assert_int_equal(atomic_load(&req[i]->failed), TN_END_ENGINE);
        assert_int_equal(req[i]->nopen, 0);
    }
    rig_see(&r);
    for (int i = 0; i < 6; i++)
        rig_free(req[i]);
    rig_close(&r);
}

static void refuses_sizes_that_cannot_work(void **state)
{
    (void)state;
    fake_device d;
    tn_kv *kv = NULL;
    tn_sched *s = NULL;
    tn_err err = {0};
    fake_defaults(&d);
    assert_int_equal(tn_kv_open(31, 4, true, &kv, &err), TN_OK);
    d.pools.nblock = 31; /* a context of 128 needs 32 */
    tn_sched_setup setup = {.limits = &d.limits, .pools = &d.pools, .kv = kv, .max_running = 4,
                            .vocab = 97, .step_first = 1};
    assert_int_equal(tn_sched_open(&setup, &s, &err), TN_CONFIG);
    assert_non_null(strstr(err.text, "31"));
    assert_non_null(strstr(err.text, "32"));
    d.pools.nblock = 32;
    setup.max_running = 17;
    assert_int_equal(tn_sched_open(&setup, &s, &err), TN_CONFIG);
    setup.max_running = 16;
    setup.has_states = true;
    d.pools.nslot = 15;
    assert_int_equal(tn_sched_open(&setup, &s, &err), TN_CONFIG);
    tn_kv_close(kv);
}

/* ------------------------------------------------------------------------------- storm */

#define STORM 1500u

typedef struct guest {
    tn_request *req;
    int32_t ids[100];
    bool dropped;
} guest;

static void storm_arrive(rig *r, guest *g, uint64_t *dice)
{
    uint32_t family = oracle_random(dice, 5), nid = 1 + oracle_random(dice, 90);
    uint64_t seed = family;
    for (uint32_t i = 0; i < nid; i++)
        g->ids[i] = (int32_t)oracle_random(&seed, 97);
    if (oracle_random(dice, 2))
        g->ids[nid / 2] = 11;
    tn_ask ask = oracle_ask(g->ids, nid);
    ask.n = oracle_random(dice, 4) == 0 ? 1 + oracle_random(dice, 5) : 1;
    ask.temperature = oracle_random(dice, 2) ? 0.8f : 0;
    ask.has_seed = 1;
    ask.seed = oracle_random(dice, 3);
    ask.max_tokens = 1 + oracle_random(dice, 128 - nid);
    ask.min_tokens = oracle_random(dice, 3) == 0 ? (int64_t)oracle_random(dice, 5) : 0;
    if (ask.min_tokens > ask.max_tokens)
        ask.min_tokens = 0;
    ask.logprobs = oracle_random(dice, 4) == 0 ? 2 : -1;
    ask.prompt_logprobs = oracle_random(dice, 8) == 0 ? 1 : -1;
    ask.presence = oracle_random(dice, 5) == 0 ? 0.5f : 0;
    ask.cache_salt = oracle_random(dice, 5) == 0 ? "other" : NULL;
    g->req = rig_make(r, &ask);
    g->dropped = false;
    tn_sched_add(r->sched, g->req);
}

static void storm_leave(rig *r, guest *g)
{
    if (!g->dropped && atomic_load(&g->req->failed) == TN_END_NONE) {
        check_request(r, g->req);
        if (g->req->prompt_report != NULL)
            check_scores(r, g->req);
    }
    rig_free(g->req);
    g->req = NULL;
}

static void storm(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 4; seed++) {
        rig r = {0};
        guest *g = calloc(24, sizeof *g);
        uint64_t dice = seed;
        uint32_t come = 0, gone = 0;
        fake_defaults(&r.device);
        r.device.pools.nblock = 40 + 20 * (uint32_t)(seed % 2);
        r.device.limits.rows_max = 5 + 20 * (uint32_t)(seed / 2);
        r.device.limits.outs_max = 4 + 3 * (uint32_t)seed;
        r.device.limits.blocks_max = seed == 3 ? 33 : 256;
        r.device.has_states = seed == 4;
        rig_open(&r, (rig_setup){.running = 7, .cached = seed != 4, .eos = 3});
        while (gone < STORM) {
            uint32_t i = oracle_random(&dice, 24);
            if (g[i].req == NULL && come < STORM) {
                storm_arrive(&r, &g[i], &dice);
                come++;
            } else if (g[i].req != NULL && oracle_random(&dice, 60) == 0) {
                atomic_store(&g[i].req->over, 1);
                g[i].dropped = true;
            }
            rig_step(&r, oracle_random(&dice, 3) == 0);
            rig_see(&r);
            for (i = 0; i < 24; i++)
                if (g[i].req != NULL && g[i].req->nopen == 0) {
                    storm_leave(&r, &g[i]);
                    gone++;
                }
        }
        tn_sched_counts c;
        tn_sched_count(r.sched, &c);
        assert_true(c.npreempt > 0);
        assert_int_equal(c.nbegun, STORM);
        free(g);
        rig_close(&r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_alone),
        cmocka_unit_test(sixteen_together),
        cmocka_unit_test(prompts_come_in_pieces),
        cmocka_unit_test(decoding_goes_before_prompts),
        cmocka_unit_test(reuses_the_longest_beginning),
        cmocka_unit_test(replies_can_be_found_again),
        cmocka_unit_test(salts_do_not_share),
        cmocka_unit_test(preemption_changes_nothing),
        cmocka_unit_test(room_is_used_when_it_comes),
        cmocka_unit_test(choices_share_the_prompt),
        cmocka_unit_test(choices_queue_without_room),
        cmocka_unit_test(greedy_choices_are_equal),
        cmocka_unit_test(states_follow_choices),
        cmocka_unit_test(scores_a_whole_context),
        cmocka_unit_test(scores_survive_preemption),
        cmocka_unit_test(nothing_to_compute_ends_at_once),
        cmocka_unit_test(dropped_ones_free_their_blocks),
        cmocka_unit_test(nan_ends_only_its_request),
        cmocka_unit_test(a_wild_token_ends_its_request),
        cmocka_unit_test(the_vocabulary_ends_where_it_says),
        cmocka_unit_test(unseen_reports_pause_a_choice),
        cmocka_unit_test(failing_ends_all),
        cmocka_unit_test(refuses_sizes_that_cannot_work),
        cmocka_unit_test(storm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
