/* SPDX-License-Identifier: Apache-2.0 */
/* test_prefix.c - what is reused of a sequence's beginning when the model has recurrent states:
 * every reply is the oracle's, whatever was reused, put back, evicted or shared. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "payoff.h"
#include "prefix.h"
#include "schedrig.h"

#define EOS 3

static void open_drafting(rig *r, uint32_t nslot, uint32_t every, uint32_t drafts)
{
    r->device.has_states = true;
    r->device.pools.nslot = nslot;
    rig_open(r, (rig_setup){.running = 4, .cached = true, .eos = EOS, .every = every,
                            .drafts = drafts});
}

static void open_hybrid(rig *r, uint32_t nslot, uint32_t every)
{
    open_drafting(r, nslot, every, 0);
}

/* Text without the token that ends a turn. */
static void fill_plain(int32_t *ids, uint32_t n, uint64_t seed)
{
    for (uint32_t i = 0; i < n; i++)
        ids[i] = 4 + (int32_t)oracle_random(&seed, 90);
}

static tn_request *run_one(rig *r, const int32_t *ids, uint32_t n, uint32_t max_tokens)
{
    tn_ask ask = oracle_ask(ids, n);
    ask.max_tokens = max_tokens;
    ask.flags = TN_ASK_IGNORE_EOS;
    tn_request *req = rig_make(r, &ask);
    tn_sched_add(r->sched, req);
    rig_run(r);
    check_request(r, req);
    return req;
}

/* A conversation: each turn computes what is new, and the one token that a reply ended with. */
static void a_reply_is_never_computed_again(void **state)
{
    (void)state;
    rig r = {0};
    int32_t ids[128];
    uint32_t n = 7;
    fake_defaults(&r.device);
    open_hybrid(&r, 8, 0);
    fill_plain(ids, n, 1);
    for (uint32_t turn = 0, before = 0; turn < 6; turn++) {
        uint64_t rows = atomic_load(&r.device.nrow);
        tn_request *req = run_one(&r, ids, n, 5);
        assert_int_equal(req->ncached, before);
        assert_int_equal(atomic_load(&r.device.nrow) - rows, n + 4 - before);
        before = n + 4; /* the last token of a reply is drawn, not computed */
        memcpy(ids, req->choice[0].token, (n + 5) * sizeof *ids);
        fill_plain(ids + n + 5, 3, turn + 20);
        n += 5 + 3;
        rig_free(req);
    }
    rig_close(&r);
}

/* Another chat with the same first turn goes on behind it, though it ends inside a block. */
static void turns_are_shared(void **state)
{
    (void)state;
    rig r = {0};
    int32_t ids[40];
    fake_defaults(&r.device);
    open_hybrid(&r, 8, 0);
    fill_plain(ids, 40, 1);
    ids[9] = EOS; /* ten tokens: two blocks of four and a half */
    tn_request *a = run_one(&r, ids, 20, 3);
    assert_int_equal(a->ncached, 0);
    fill_plain(ids + 10, 20, 2);
    tn_request *b = run_one(&r, ids, 20, 3);
    assert_int_equal(b->ncached, 10);
    assert_int_equal(b->miss, TN_MISS_TEXT);
    assert_int_equal(b->miss_at, 10);
    rig_free(a);
    rig_free(b);
    rig_close(&r);
}

static void long_prompts_leave_snapshots(void **state)
{
    (void)state;
    rig r = {0};
    int32_t ids[120];
    fake_defaults(&r.device);
    open_hybrid(&r, 16, 16);
    fill_plain(ids, 120, 1);
    rig_free(run_one(&r, ids, 100, 2));
    fill_plain(ids + 70, 50, 2);
    tn_request *b = run_one(&r, ids, 100, 2);
    assert_int_equal(b->ncached, 64);
    assert_int_equal(b->miss, TN_MISS_STATE); /* blocks are known up to 68 */
    assert_int_equal(b->miss_at, 64);
    rig_free(b);
    rig_close(&r);
}

/* A NaN that came once: whatever state lies behind a beginning of its text may hold it. */
static void a_spoilt_state_is_not_found(void **state)
{
    (void)state;
    rig r = {0};
    int32_t ids[12];
    fake_defaults(&r.device);
    open_hybrid(&r, 16, 3);
    fill_plain(ids, 12, 1);
    tn_ask ask = oracle_ask(ids, 12);
    ask.max_tokens = 2;
    r.device.nan_token = ids[10];
    tn_request *a = rig_make(&r, &ask);
    tn_sched_add(r.sched, a);
    rig_run(&r);
    assert_int_equal(atomic_load(&a->failed), TN_END_NAN);
    rig_free(a);
    r.device.nan_token = -1;
    tn_request *b = run_one(&r, ids, 12, 2);
    assert_int_equal(b->ncached, 0);
    rig_free(b);
    rig_close(&r);
}

static void salts_do_not_share_states(void **state)
{
    (void)state;
    rig r = {0};
    int32_t ids[16];
    fake_defaults(&r.device);
    open_hybrid(&r, 8, 0);
    fill_plain(ids, 16, 9);
    ids[10] = EOS;
    const char *salt[] = {NULL, "one", "two", "one"};
    const uint32_t found[] = {0, 0, 0, 11};
    for (int i = 0; i < 4; i++) {
        tn_ask ask = oracle_ask(ids, 16);
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

/* Snapshots never keep a sequence from running: not by slots, not by blocks. */
static void snapshots_give_way(void **state)
{
    (void)state;
    rig r = {0};
    int32_t ids[100];
    tn_sched_counts c;
    fake_defaults(&r.device);
    r.device.pools.nblock = 40;
    open_hybrid(&r, 20, 4);
    for (uint32_t i = 0; i < 12; i++) {
        fill_plain(ids, 90, i);
        rig_free(run_one(&r, ids, 60 + i, 7));
    }
    tn_sched_count(r.sched, &c);
    assert_int_equal(c.states_used, 0);
    assert_in_range(c.states_kept, 1, 20);
    rig_close(&r);
}

/* A block that a snapshot needs was reused: the snapshot goes, and the reason is told. */
static void a_lost_block_is_told(void **state)
{
    (void)state;
    rig r = {0};
    int32_t ids[100], other[100];
    fake_defaults(&r.device);
    r.device.pools.nblock = 33;
    open_hybrid(&r, 8, 0);
    fill_plain(ids, 100, 1);
    fill_plain(other, 100, 2);
    tn_request *a = run_one(&r, ids, 20, 3);
    rig_free(run_one(&r, other, 100, 20)); /* takes nearly all blocks */
    memcpy(ids, a->choice[0].token, 23 * sizeof *ids);
    tn_request *b = run_one(&r, ids, 30, 3);
    assert_int_equal(b->ncached, 0);
    assert_int_equal(b->miss, TN_MISS_BLOCK);
    rig_free(a);
    rig_free(b);
    rig_close(&r);
}

/* Plays `n` cycles whose drafts cost `draft_ns` instead of 100 and gain `tokens` instead of 1;
 * returns how many of them drafted. */
static uint32_t cycles(tn_payoff *p, uint32_t nseq, uint32_t n, uint64_t draft_ns, uint32_t tokens)
{
    uint32_t ndraft = 0;
    for (uint32_t i = 0; i < n; i++) {
        bool drafts = tn_payoff_drafts(p, nseq);
        tn_payoff_put(p, nseq, drafts, drafts ? draft_ns : 100, nseq * (drafts ? tokens : 1));
        ndraft += drafts;
    }
    return ndraft;
}

/* Drafting goes on where it pays and stops where it does not, for each size of batch alone; a
 * change is noticed. */
static void drafting_must_pay(void **state)
{
    (void)state;
    tn_payoff p = {0};
    cycles(&p, 1, 20, 150, 2);
    cycles(&p, 16, 20, 300, 2);
    assert_true(cycles(&p, 1, 1024, 150, 2) >= 1024 - 16);
    assert_true(cycles(&p, 16, 1024, 300, 2) <= 16);
    cycles(&p, 1, 1024, 300, 2); /* now it costs more than it gains */
    assert_true(cycles(&p, 1, 1024, 300, 2) <= 16);
}

/* ------------------------------------------------------------------------------- storm */

#define GUESTS 24u

typedef struct guest {
    tn_request *req;
    int32_t ids[120];
    bool dropped;
} guest;

/* Half of the arrivals go on with what an earlier one said. */
static void arrive(rig *r, guest *g, const guest *last, uint64_t *dice)
{
    uint32_t nid = 1 + oracle_random(dice, 80);
    uint64_t seed = oracle_random(dice, 4);
    for (uint32_t i = 0; i < nid; i++)
        g->ids[i] = (int32_t)oracle_random(&seed, 97);
    for (uint32_t i = 0; i < nid; i += 1 + oracle_random(dice, 30))
        g->ids[i] = EOS;
    if (last->req != NULL && last->req->nopen == 0 && oracle_random(dice, 2)) {
        const tn_choice *c = &last->req->choice[0];
        uint32_t n = c->ntoken < 90 ? c->ntoken : 90;
        memcpy(g->ids, c->token, n * sizeof *g->ids);
        nid = n + oracle_random(dice, 10);
        for (uint32_t i = n; i < nid; i++)
            g->ids[i] = (int32_t)oracle_random(dice, 97);
    }
    tn_ask ask = oracle_ask(g->ids, nid);
    ask.n = oracle_random(dice, 4) == 0 ? 1 + oracle_random(dice, 4) : 1;
    ask.temperature = oracle_random(dice, 2) ? 0.8f : 0;
    ask.has_seed = 1;
    ask.seed = oracle_random(dice, 3);
    ask.max_tokens = 1 + oracle_random(dice, 128 - nid < 40 ? 128 - nid : 40);
    ask.prompt_logprobs = oracle_random(dice, 8) == 0 ? 1 : -1;
    ask.cache_salt = oracle_random(dice, 6) == 0 ? "other" : NULL;
    g->req = rig_make(r, &ask);
    g->dropped = false;
    tn_sched_add(r->sched, g->req);
}

typedef struct weather {
    uint32_t nrequest, nslot, nblock, rows_max, every, drafts, guess_wrong;
    bool lose_block_copies, lose_state_copies;
    bool stale_slots;            /* planted: a fresh sequence finds an old state there */
    bool keep_fallen;            /* planted: drafts that fell stay in the state */
} weather;

/* Returns how many requests said something else than the oracle. */
static uint32_t storm_run(const weather *w, uint64_t seed, tn_sched_counts *c)
{
    rig r = {0};
    guest *g = calloc(GUESTS, sizeof *g);
    uint32_t come = 0, gone = 0, nwrong = 0, last = 0;
    fake_defaults(&r.device);
    r.device.pools.nblock = w->nblock;
    r.device.limits.rows_max = w->rows_max;
    r.device.ignore_fresh = w->stale_slots;
    r.device.ignore_accepted = w->keep_fallen;
    r.device.guess_wrong = w->guess_wrong;
    open_drafting(&r, w->nslot, w->every, w->drafts);
    r.lose_block_copies = w->lose_block_copies;
    r.lose_state_copies = w->lose_state_copies;
    while (gone < w->nrequest) {
        uint32_t i = oracle_random(&seed, GUESTS);
        if (g[i].req == NULL && come < w->nrequest) {
            arrive(&r, &g[i], &g[last], &seed);
            come++;
        } else if (g[i].req != NULL && oracle_random(&seed, 60) == 0) {
            atomic_store(&g[i].req->over, 1);
            g[i].dropped = true;
        }
        rig_step(&r, oracle_random(&seed, 3) == 0);
        rig_see(&r);
        for (i = 0; i < GUESTS; i++) {
            if (g[i].req == NULL || g[i].req->nopen > 0)
                continue;
            nwrong += !g[i].dropped && !request_is_right(&r, g[i].req);
            last = i;
            if (oracle_random(&seed, 3) == 0) {
                rig_free(g[i].req);
                g[i].req = NULL;
                gone++;
            }
        }
    }
    tn_sched_count(r.sched, c);
    free(g);
    rig_close(&r);
    return nwrong;
}

static void schedules_change_nothing(void **state)
{
    (void)state;
    static const weather w[] = {
        {.nrequest = 1500, .nslot = 12, .nblock = 60, .rows_max = 48, .every = 16},
        {.nrequest = 1500, .nslot = 5, .nblock = 40, .rows_max = 9, .every = 4},
        {.nrequest = 1500, .nslot = 4, .nblock = 34, .rows_max = 30, .every = 0},
        {.nrequest = 1500, .nslot = 40, .nblock = 128, .rows_max = 17, .every = 8},
        {.nrequest = 1500, .nslot = 12, .nblock = 60, .rows_max = 48, .every = 16, .drafts = 1,
         .guess_wrong = 3},
        {.nrequest = 1500, .nslot = 5, .nblock = 40, .rows_max = 20, .every = 4, .drafts = 4,
         .guess_wrong = 4},
        {.nrequest = 1500, .nslot = 9, .nblock = 100, .rows_max = 48, .every = 0, .drafts = 3},
    };
    for (size_t i = 0; i < sizeof w / sizeof *w; i++) {
        tn_sched_counts c;
        assert_int_equal(storm_run(&w[i], i + 1, &c), 0);
        assert_true(c.cache_hits > 0);
        if (w[i].drafts > 0)
            assert_true(c.nstood > 1000 && c.nstood < c.ndraft);
    }
}

/* The storm would see it: forgotten copies, of blocks and of states, a state that was not begun
 * afresh, and one that drafts which fell have touched. */
static void storm_sees_planted_faults(void **state)
{
    (void)state;
    static const weather w[] = {
        {.nrequest = 300, .nslot = 12, .nblock = 60, .rows_max = 48, .every = 16,
         .lose_block_copies = true},
        {.nrequest = 300, .nslot = 12, .nblock = 60, .rows_max = 48, .every = 16,
         .lose_state_copies = true},
        {.nrequest = 300, .nslot = 12, .nblock = 60, .rows_max = 48, .every = 16,
         .stale_slots = true},
        {.nrequest = 300, .nslot = 12, .nblock = 60, .rows_max = 48, .every = 16, .drafts = 2,
         .guess_wrong = 3, .keep_fallen = true},
    };
    for (size_t i = 0; i < sizeof w / sizeof *w; i++) {
        tn_sched_counts c;
        assert_true(storm_run(&w[i], 1, &c) > 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_reply_is_never_computed_again),
        cmocka_unit_test(turns_are_shared),
        cmocka_unit_test(long_prompts_leave_snapshots),
        cmocka_unit_test(a_spoilt_state_is_not_found),
        cmocka_unit_test(salts_do_not_share_states),
        cmocka_unit_test(snapshots_give_way),
        cmocka_unit_test(a_lost_block_is_told),
        cmocka_unit_test(drafting_must_pay),
        cmocka_unit_test(schedules_change_nothing),
        cmocka_unit_test(storm_sees_planted_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
