/* SPDX-License-Identifier: Apache-2.0 */
/* schedrig.c - a scheduler on the fake device, stepped by hand. */
#include "schedrig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

void rig_open(rig *r, rig_setup setup)
{
    tn_err err = {0};
    assert_true(fake_open(&r->device));
    assert_int_equal(tn_kv_open(r->device.pools.nblock, r->device.limits.block_tokens,
                                setup.cached, &r->kv, &err), TN_OK);
    const tn_sched_setup s = {
        .limits = &r->device.limits, .pools = &r->device.pools, .kv = r->kv,
        .max_running = setup.running > 0 ? setup.running : r->device.limits.seqs_max,
        .vocab = r->device.vocab, .has_states = r->device.has_states,
        .can_copy_blocks = true, .can_copy_states = true, .step_first = 1,
        .snapshot_every = setup.every, .drafts = setup.drafts,
    };
    if (tn_sched_open(&s, &r->sched, &err) != TN_OK)
        fail_msg("%s", err.text);
    r->intake = (tn_intake){
        .kv = r->kv, .context_max = r->device.limits.context_max, .vocab = r->device.vocab,
        .block_tokens = setup.cached ? r->device.limits.block_tokens : 0, .timeout_ms = 1000,
        .facts = {.vocab = r->device.vocab, .eos = setup.eos, .max_logprobs = 5,
                  .defaults = {.temperature = 1, .top_p = 1, .min_p = 0, .repetition = 1}},
    };
    assert_int_equal(tn_intake_open(&r->intake, &err), TN_OK);
}

void rig_close(rig *r)
{
    assert_int_equal(tn_kv_used(r->kv), 0);
    if (atomic_load(&r->device.nbreach) > 0)
        fail_msg("contract: %s", r->device.breach);
    tn_sched_close(r->sched);
    tn_intake_close(&r->intake);
    tn_kv_close(r->kv);
    fake_close(&r->device);
}

tn_request *rig_make(rig *r, const tn_ask *ask)
{
    tn_request *req = NULL;
    tn_err err = {0};
    if (tn_intake_request(&r->intake, ask, 0, &req, &err) != TN_OK)
        fail_msg("%s", err.text);
    return req;
}

void rig_free(tn_request *req)
{
    tn_request_release(req);
    tn_request_release(req);
}

void rig_see(rig *r)
{
    tn_request *req;
    while ((req = tn_sched_news(r->sched)) != NULL)
        for (uint32_t i = 0; i < req->nchoice; i++)
            atomic_store(&req->choice[i].nseen, atomic_load(&req->choice[i].nready));
}

static void rig_copies(rig *r)
{
    uint32_t n;
    tn_err err = {0};
    const tn_copy *copy = tn_sched_block_copies(r->sched, &n);
    for (uint32_t i = 0; i < n; i++)
        if (++r->nblock_copy % 5 != 0 || !r->lose_block_copies)
            fake_table()->block_copy(&r->device, copy[i].from, copy[i].to, &err);
    copy = tn_sched_state_copies(r->sched, &n);
    for (uint32_t i = 0; i < n; i++)
        if (++r->nstate_copy % 5 != 0 || !r->lose_state_copies)
            fake_table()->state_copy(&r->device, copy[i].from, copy[i].to, &err);
}

static void rig_drafts(rig *r)
{
    const tn_step *step;
    tn_err err = {0};
    while ((step = tn_sched_draft(r->sched, 3)) != NULL) {
        const tn_results *results = NULL;
        if (fake_table()->run(&r->device, step, &err) != TN_OK ||
            fake_table()->wait(&r->device, step->number, 0, &results, &err) != TN_OK)
            fail_msg("%s; %s", err.text, r->device.breach);
        tn_sched_drafted(r->sched, results);
    }
}

bool rig_step(rig *r, bool see)
{
    const tn_results *results = NULL;
    tn_err err = {0};
    tn_sched_sweep(r->sched, true);
    const tn_step *step = tn_sched_plan(r->sched, 1);
    rig_copies(r);
    if (step != NULL) {
        if (fake_table()->run(&r->device, step, &err) != TN_OK ||
            fake_table()->wait(&r->device, step->number, 0, &results, &err) != TN_OK)
            fail_msg("%s; %s", err.text, r->device.breach);
        tn_sched_apply(r->sched, results, 2);
        rig_copies(r);
        r->nstep++;
        rig_drafts(r);
    }
    if (see)
        rig_see(r);
    return step != NULL;
}

void rig_run(rig *r)
{
    for (uint32_t i = 0; rig_step(r, true); i++)
        assert_true(i < 100000);
    tn_sched_counts c;
    tn_sched_count(r->sched, &c);
    assert_int_equal(c.running, 0);
    assert_int_equal(c.waiting, 0);
}

static bool choice_is_right(rig *r, tn_request *req, uint32_t i)
{
    oracle_reply want;
    const tn_choice *c = &req->choice[i];
    oracle_run(&r->device, req, i, &want);
    bool right = atomic_load(&c->ended) == 1 && c->nfinal == want.n && c->finish == want.finish &&
                 c->stop_kind == want.stop_kind && c->stop_token == want.stop_token &&
                 req->nopen == 0;
    uint32_t k = 0;
    while (right && k < want.n && c->token[req->nprompt + k] == want.token[k])
        k++;
    if (k < want.n)
        snprintf(r->wrong, sizeof r->wrong, "choice %u, token %u of %u: %d, expected %d of %u", i,
                 k, c->nfinal, c->token[req->nprompt + k], want.token[k], want.n);
    right = right && k == want.n;
    oracle_close(&want);
    return right;
}

bool request_is_right(rig *r, tn_request *req)
{
    for (uint32_t i = 0; i < req->nchoice; i++)
        if (!choice_is_right(r, req, i))
            return false;
    return true;
}

void check_request(rig *r, tn_request *req)
{
    snprintf(r->wrong, sizeof r->wrong, "finish");
    if (!request_is_right(r, req))
        fail_msg("%s", r->wrong);
}

void fill_ids(int32_t *ids, uint32_t n, uint64_t seed, uint32_t vocab)
{
    for (uint32_t i = 0; i < n; i++)
        ids[i] = (int32_t)oracle_random(&seed, vocab);
}

void check_scores(rig *r, const tn_request *req)
{
    int32_t top[5];
    float logprob[5];
    uint32_t ntop = (uint32_t)req->prompt_logprobs;
    for (uint32_t i = 1; i < req->nprompt; i++) {
        const tn_sampling s = {.flags = TN_SAMPLE_SCORE, .ntop = ntop,
                               .target = req->choice[0].token[i]};
        tn_result want = fake_next(&r->device, req->choice[0].token, i, &s, top, logprob);
        assert_true(req->prompt_report[i].logprob == want.logprob);
        assert_int_equal(req->prompt_report[i].rank, want.rank);
        assert_int_equal(req->prompt_report[i].ntop, ntop);
        for (uint32_t k = 0; k < ntop; k++) {
            assert_int_equal(req->prompt_top[(size_t)i * ntop + k].token, top[k]);
            assert_true(req->prompt_top[(size_t)i * ntop + k].logprob == logprob[k]);
        }
    }
}
