/* SPDX-License-Identifier: Apache-2.0 */
/* test_output.c - text of replies: stop strings, held tails, whole characters, pieces. */
#include "output.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "request.h"
#include "tinytok.h"
#include "utf8seq.h"

static tn_tok *tok;

/* ------------------------------------------------------------------- replies, by bytes */

typedef struct run {
    tn_buf text;                 /* what went out */
    int32_t stop;                /* -1: none */
    uint32_t ntoken;             /* taken in */
} run;

/* Sends each id, takes what is ready after every `each` tokens. */
static run reply_run(const int32_t *ids, uint32_t n, const char *const *stop, uint32_t nstop,
                     bool keep_stop, uint32_t min_tokens, uint32_t each)
{
    tn_stops *stops = NULL;
    tn_reply r;
    tn_err err = {0};
    run out = {.stop = -1};
    tn_buf_open(&out.text, 1 << 26);
    tn_buf_puts(&out.text, "");
    if (nstop > 0)
        assert_int_equal(tn_stops_open(stop, nstop, &stops, &err), TN_OK);
    assert_int_equal(tn_reply_open(&r, tok, false, keep_stop, stops, NULL, 0, &err), TN_OK);
    for (uint32_t i = 0; i < n && out.stop < 0; i++) {
        out.stop = tn_reply_push(&r, ids[i], true, i + 1 > min_tokens);
        out.ntoken++;
        if ((i + 1) % each == 0) {
            tn_buf_put(&out.text, r.text.data, r.ready);
            tn_reply_sent(&r);
        }
    }
    if (out.stop < 0)
        out.stop = tn_reply_finish(&r, n > min_tokens);
    tn_buf_put(&out.text, r.text.data, r.ready);
    assert_false(tn_reply_has_failed(&r));
    tn_reply_close(&r);
    tn_stops_close(stops);
    return out;
}

static uint32_t bytes_as_ids(const char *text, int32_t *ids)
{
    uint32_t n = 0;
    for (; text[n] != 0; n++)
        ids[n] = (unsigned char)text[n];
    return n;
}

typedef struct stop_case {
    const char *text;
    const char *stop[4];
    const char *want, *want_kept;
    int32_t stop_at;
} stop_case;

static void stops_are_found(void **state)
{
    (void)state;
    static const stop_case all[] = {
        {"hello world", {"wor"}, "hello ", "hello wor", 0},
        {"hello world", {"x"}, "hello world", "hello world", -1},
        {"hello", {"hello"}, "", "hello", 0},
        {"hello", {"o"}, "hell", "hello", 0},
        {"aaab", {"aab"}, "a", "aaab", 0},
        {"ababac", {"abac"}, "ab", "ababac", 0},
        /* The stop whose last byte comes first wins, ... */
        {"xaab", {"aab", "aa"}, "x", "xaa", 1},
        {"xabcd", {"abcd", "bc"}, "xa", "xabc", 1},
        {"xabcd", {"cd", "ab"}, "x", "xab", 1},
        /* ... and of those that end together the longest. */
        {"xabc", {"c", "bc", "abc", "xyz"}, "x", "xabc", 2},
        {"xabc", {"abc", "c"}, "x", "xabc", 0},
        /* Half a stop at the end is text. */
        {"hello wo", {"wor"}, "hello wo", "hello wo", -1},
        {"a\n\nb", {"\n\n"}, "a", "a\n\n", 0},
        {"na\xc3\xafve", {"\xc3\xaf"}, "na", "na\xc3\xaf", 0},
        {"na\xc3\xafve", {"\xc3\xa9"}, "na\xc3\xafve", "na\xc3\xafve", -1},
    };
    int32_t ids[64];
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        for (int keep = 0; keep < 2; keep++)
            for (uint32_t each = 1; each <= 3; each++) {
                uint32_t nstop = 0, n = bytes_as_ids(all[i].text, ids);
                while (nstop < 4 && all[i].stop[nstop] != NULL)
                    nstop++;
                run got = reply_run(ids, n, all[i].stop, nstop, keep, 0, each);
                assert_string_equal(got.text.data, keep ? all[i].want_kept : all[i].want);
                assert_int_equal(got.stop, all[i].stop_at);
                tn_buf_close(&got.text);
            }
}

/* However tokens cut the text, the outcome is the same. */
static void stops_ignore_token_bounds(void **state)
{
    (void)state;
    const int32_t bytes[] = {'x', 'a', 'b', 'c', 'd'}, words[] = {'x', TINY_ABC, 'd'},
                  mixed[] = {'x', TINY_AB, 'c', 'd'};
    const char *const stop[] = {"bc"};
    const struct {
        const int32_t *ids;
        uint32_t n, taken;
    } all[] = {{bytes, 5, 4}, {words, 3, 2}, {mixed, 4, 3}};
    for (int i = 0; i < 3; i++) {
        run got = reply_run(all[i].ids, all[i].n, stop, 1, false, 0, 1);
        assert_string_equal(got.text.data, "xa");
        assert_int_equal(got.stop, 0);
        assert_int_equal(got.ntoken, all[i].taken);
        tn_buf_close(&got.text);
    }
}

static void tail_is_held_and_let_go(void **state)
{
    (void)state;
    const char *const stop[] = {"END"};
    tn_stops *stops;
    tn_reply r;
    tn_err err;
    assert_int_equal(tn_stops_open(stop, 1, &stops, &err), TN_OK);
    assert_int_equal(tn_reply_open(&r, tok, false, false, stops, NULL, 0, &err), TN_OK);
    const struct {
        int32_t id;
        size_t ready;
    } all[] = {{'a', 1}, {'E', 1}, {'N', 1}, {'E', 3}, {'x', 5}, {'E', 5}, {'N', 5}};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        assert_int_equal(tn_reply_push(&r, all[i].id, true, true), -1);
        assert_int_equal(r.ready, all[i].ready);
    }
    assert_int_equal(tn_reply_finish(&r, true), -1);
    assert_int_equal(r.ready, 7);
    assert_string_equal(r.text.data, "aENExEN");
    tn_reply_close(&r);
    tn_stops_close(stops);
}

static void first_tokens_are_not_searched(void **state)
{
    (void)state;
    int32_t ids[16];
    const char *const stop[] = {"ab"};
    uint32_t n = bytes_as_ids("abxabyab", ids);
    const struct {
        uint32_t min;
        const char *want;
    } all[] = {{0, ""}, {1, "abx"}, {2, "abx"}, {3, "abx"}, {4, "abxaby"}, {5, "abxaby"},
               {7, "abxabyab"}, {8, "abxabyab"}};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        run got = reply_run(ids, n, stop, 1, false, all[i].min, 1);
        assert_string_equal(got.text.data, all[i].want);
        tn_buf_close(&got.text);
    }
}

/* J22 */
static void characters_stay_whole(void **state)
{
    (void)state;
    tn_reply r;
    tn_err err;
    assert_int_equal(tn_reply_open(&r, tok, false, false, NULL, NULL, 0, &err), TN_OK);
    const int32_t smile[] = {0xf0, 0x9f, 0x98, 0x80};
    for (int i = 0; i < 4; i++) {
        assert_int_equal(tn_reply_push(&r, smile[i], true, true), -1);
        assert_int_equal(r.ready, i == 3 ? 4 : 0);
    }
    tn_reply_sent(&r);
    tn_reply_push(&r, 0xf0, true, true);
    tn_reply_push(&r, 0x9f, true, true);
    tn_reply_finish(&r, true);
    assert_int_equal(r.ready, 3);
    assert_string_equal(r.text.data, "\xef\xbf\xbd"); /* cut off: one replacement */
    tn_reply_close(&r);
}

/* J22: whatever bytes a model draws, every piece that goes out is valid UTF-8. */
static void any_bytes_become_utf8(void **state)
{
    (void)state;
    static const int32_t likely[] = {0xe2, 0x82, 0xac, 0xf0, 0x9f, 0x98, 0x80, 0xc0, 0xed, 0xa0,
                                     0xf5, 0xff, 0xc3, 0xa9, 'a', 'b'};
    static const char *const stop[] = {"a\xc3\xa9", "\xe2\x82\xac\xf0\x9f\x98\x80", "bb"};
    uint64_t seed = 22;
    for (int round = 0; round < 4000; round++) {
        tn_stops *stops = NULL;
        tn_reply r;
        tn_err err;
        int32_t found = -1;
        if (round % 2 != 0)
            assert_int_equal(tn_stops_open(stop, 3, &stops, &err), TN_OK);
        assert_int_equal(tn_reply_open(&r, tok, false, false, stops, NULL, 0, &err), TN_OK);
        for (int i = 0; i < 24 && found < 0; i++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            uint32_t draw = (uint32_t)(seed >> 33);
            int32_t id = draw % 4 == 0 ? (int32_t)(draw / 4 % 256) : likely[draw / 4 % 16];
            found = tn_reply_push(&r, id, true, true);
            if (!tn_is_utf8(r.text.data != NULL ? r.text.data : "", r.ready))
                fail_msg("round %d: \"%.*s\"", round, (int)r.ready, r.text.data);
            tn_reply_sent(&r);
        }
        if (found < 0)
            tn_reply_finish(&r, true);
        assert_true(tn_is_utf8(r.text.data != NULL ? r.text.data : "", r.ready));
        tn_reply_close(&r);
        tn_stops_close(stops);
    }
}

static void special_tokens_are_skipped_or_kept(void **state)
{
    (void)state;
    const int32_t ids[] = {'a', TINY_START, 'b'};
    for (int keep = 0; keep < 2; keep++) {
        tn_reply r;
        tn_err err;
        assert_int_equal(tn_reply_open(&r, tok, keep, false, NULL, NULL, 0, &err), TN_OK);
        for (int i = 0; i < 3; i++)
            tn_reply_push(&r, ids[i], true, true);
        tn_reply_finish(&r, true);
        assert_string_equal(r.text.data, keep ? "a<|start|>b" : "ab");
        tn_reply_close(&r);
    }
}

/* A padded vocabulary has ids that no token carries; a model may draw them. */
static void ids_without_text_say_nothing(void **state)
{
    (void)state;
    tn_reply r;
    tn_err err;
    assert_int_equal(tn_reply_open(&r, tok, false, false, NULL, NULL, 0, &err), TN_OK);
    const int32_t ids[] = {'a', (int32_t)TINY_VOCAB, 100000, 'b'};
    for (int i = 0; i < 4; i++)
        assert_int_equal(tn_reply_push(&r, ids[i], true, true), -1);
    tn_reply_finish(&r, true);
    assert_string_equal(r.text.data, "ab");
    tn_reply_close(&r);
}

/* Where a naive search over the whole text would cut. */
static size_t naive_end(const char *text, size_t size, const char *const *stop, uint32_t nstop,
                        int32_t *which)
{
    for (size_t end = 1; end <= size; end++) {
        *which = -1;
        for (uint32_t i = 0; i < nstop; i++) {
            size_t n = strlen(stop[i]);
            if (n <= end && memcmp(text + end - n, stop[i], n) == 0 &&
                (*which < 0 || n > strlen(stop[*which])))
                *which = (int32_t)i;
        }
        if (*which >= 0)
            return end - strlen(stop[*which]);
    }
    return size;
}

static void agrees_with_a_naive_search(void **state)
{
    (void)state;
    srand(3);
    for (int turn = 0; turn < 3000; turn++) {
        char text[40], stops[4][8];
        const char *list[4];
        int32_t ids[40], which;
        uint32_t nstop = 1 + (uint32_t)rand() % 4, n = (uint32_t)rand() % 39;
        for (uint32_t i = 0; i < n; i++)
            text[i] = (char)('a' + rand() % 2);
        text[n] = 0;
        for (uint32_t i = 0; i < nstop; i++) {
            uint32_t size = 1 + (uint32_t)rand() % 7;
            for (uint32_t k = 0; k < size; k++)
                stops[i][k] = (char)('a' + rand() % 2);
            stops[i][size] = 0;
            list[i] = stops[i];
        }
        size_t want = naive_end(text, n, list, nstop, &which);
        run got = reply_run(ids, bytes_as_ids(text, ids), list, nstop, false, 0,
                            1 + (uint32_t)rand() % 5);
        assert_int_equal(got.text.len, want);
        assert_memory_equal(got.text.data, text, want);
        if (want < n && which >= 0)
            assert_string_equal(list[got.stop], list[which]);
        tn_buf_close(&got.text);
    }
}

/* 16 long stops over 100,000 tokens that keep almost matching. */
static void many_stops_stay_linear(void **state)
{
    (void)state;
    static char text[TN_REPLY_STOPS_MAX][257];
    const char *list[TN_REPLY_STOPS_MAX];
    int32_t *ids = malloc(100000 * sizeof *ids);
    for (uint32_t i = 0; i < TN_REPLY_STOPS_MAX; i++) {
        memset(text[i], 'a', 256);
        text[i][255 - i] = 'b';
        list[i] = text[i];
    }
    for (int i = 0; i < 100000; i++)
        ids[i] = 'a';
    run got = reply_run(ids, 100000, list, TN_REPLY_STOPS_MAX, false, 0, 64);
    assert_int_equal(got.text.len, 100000);
    assert_int_equal(got.stop, -1);
    tn_buf_close(&got.text);
    free(ids);
}

/* ----------------------------------------------------------------------------- pieces */

typedef struct ear {
    tn_buf text[TN_CHOICES_MAX];
    uint32_t finish[TN_CHOICES_MAX], ntoken[TN_CHOICES_MAX], stop_kind[TN_CHOICES_MAX];
    char stop_text[TN_CHOICES_MAX][64];
    uint32_t npiece, nlast, nprompt_pieces;
    uint64_t nreply, nprompt, ncached;
    tn_status status;
    char code[48];
    uint32_t last_choice, most_tokens;
    uint64_t nprompt_data;
    bool after_last;
    float logprob_sum;
    float prompt_logprob[3];
    uint32_t prompt_ntop[3], ntop;
    tn_logprob prompt_top, top[5]; /* of prompt token 1; of the latest reply token with any */
} ear;

static void ear_prompt(ear *e, const tn_piece *p)
{
    e->nprompt_pieces++;
    e->nprompt_data = p->nprompt;
    for (uint64_t i = 0; i < p->nprompt && i < 3; i++) {
        e->prompt_logprob[i] = p->prompt[i].self.logprob;
        e->prompt_ntop[i] = p->prompt[i].ntop;
    }
    if (p->nprompt > 1 && p->prompt[1].ntop > 0)
        e->prompt_top = p->prompt[1].top[0];
}

static void ear_piece(void *user, const tn_piece *p)
{
    ear *e = user;
    e->after_last = e->after_last || e->nlast > 0;
    e->npiece++;
    tn_buf_put(&e->text[p->choice], p->text, p->text_size);
    e->ntoken[p->choice] += p->ntoken;
    if (p->ntoken > e->most_tokens)
        e->most_tokens = p->ntoken;
    for (uint32_t i = 0; i < p->ntoken; i++) {
        e->logprob_sum += p->token[i].self.logprob;
        if (p->token[i].ntop > 0)
            e->ntop = p->token[i].ntop;
        for (uint32_t t = 0; t < p->token[i].ntop; t++)
            e->top[t] = p->token[i].top[t];
    }
    if (p->finish != TN_FINISH_NONE) {
        e->finish[p->choice] = p->finish;
        e->stop_kind[p->choice] = p->stop_kind;
        e->last_choice = p->choice;
        if (p->stop_text != NULL)
            snprintf(e->stop_text[p->choice], 64, "%s", p->stop_text);
    }
    if (p->prompt != NULL)
        ear_prompt(e, p);
    e->nlast += p->last;
    e->nreply = p->reply_tokens;
    e->nprompt = p->prompt_tokens;
    e->ncached = p->cached_tokens;
    if (p->err != NULL) {
        e->status = p->status;
        snprintf(e->code, sizeof e->code, "%s", p->err->code);
    }
}

typedef struct bench {
    tn_serve_stats stats;
    tn_output output;
    ear ear;
    tn_request *req;
    tn_stops *stops;
} bench;

typedef struct bench_setup {
    uint32_t nchoice, max_tokens, flags, min_tokens;
    const char *const *stop;
    uint32_t nstop, ntop;
    bool logprobs;
    int32_t prompt_logprobs;
    const char *echo;
} bench_setup;

static void bench_open(bench *b, bench_setup s)
{
    static const int32_t prompt[] = {'P', 'Q', 'R'};
    tn_err err = {0};
    const tn_stats_setup stats = {.name = "m", .context_max = 100};
    const tn_request_plan plan = {.nchoice = s.nchoice > 0 ? s.nchoice : 1,
                                  .max_tokens = s.max_tokens > 0 ? s.max_tokens : 500,
                                  .ntop = s.ntop, .logprobs = s.logprobs,
                                  .prompt_logprobs = s.prompt_logprobs};
    memset(b, 0, sizeof *b);
    assert_int_equal(tn_stats_open(&b->stats, &stats, &err), TN_OK);
    assert_int_equal(tn_output_open(&b->output, tok, 5, &b->stats, &err), TN_OK);
    assert_int_equal(tn_request_new(&plan, prompt, 3, &b->req, &err), TN_OK);
    tn_request *r = b->req;
    r->on_piece = ear_piece;
    r->user = &b->ear;
    r->flags = s.flags;
    r->sampler.min_tokens = s.min_tokens;
    r->sampler.base.ntop = s.ntop;
    r->ncached = 2;
    if (s.nstop > 0)
        assert_int_equal(tn_stops_open(s.stop, s.nstop, &r->stops, &err), TN_OK);
    if (s.echo != NULL) {
        r->echo_size = strlen(s.echo);
        r->echo = malloc(r->echo_size + 1);
        memcpy(r->echo, s.echo, r->echo_size + 1);
    }
    for (uint32_t i = 0; i < plan.nchoice; i++) {
        tn_buf_open(&b->ear.text[i], 1 << 20);
        tn_buf_puts(&b->ear.text[i], "");
        assert_int_equal(tn_reply_open(&r->choice[i].reply, tok,
                                       (s.flags & TN_ASK_KEEP_SPECIAL) != 0,
                                       (s.flags & TN_ASK_KEEP_STOP) != 0, r->stops, prompt, 3,
                                       &err), TN_OK);
    }
}

static void bench_close(bench *b)
{
    for (uint32_t i = 0; i < b->req->nchoice; i++)
        tn_buf_close(&b->ear.text[i]);
    assert_false(b->ear.after_last);
    tn_request_release(b->req);
    tn_request_release(b->req);
    tn_output_close(&b->output);
}

/* Does the step thread's part: publishes tokens, perhaps the end. */
static void say(tn_choice *c, const int32_t *ids, uint32_t n, uint32_t finish, uint32_t kind,
                int32_t stop_token)
{
    for (uint32_t i = 0; i < n; i++) {
        uint32_t at = (c->ntoken - c->req->nprompt) % c->req->report_cap;
        c->token[c->ntoken++] = ids[i];
        if (c->report != NULL)
            c->report[at] = (tn_report){.logprob = -1, .rank = 1};
    }
    if (finish != TN_FINISH_NONE) {
        c->finish = finish;
        c->stop_kind = kind;
        c->stop_token = stop_token;
        c->nfinal = c->ntoken - c->req->nprompt;
        atomic_store(&c->ended, 1);
    }
    atomic_store(&c->nready, c->ntoken - c->req->nprompt);
}

static void a_reply_in_pieces(void **state)
{
    (void)state;
    bench b;
    const int32_t one[] = {'H', 'e', 0xc3}, two[] = {0xa9, '!'};
    bench_open(&b, (bench_setup){.prompt_logprobs = -1});
    assert_false(tn_output_pump(&b.output, b.req));
    assert_int_equal(b.ear.npiece, 0);
    say(b.req->choice, one, 3, TN_FINISH_NONE, 0, -1);
    assert_false(tn_output_pump(&b.output, b.req));
    assert_string_equal(b.ear.text[0].data, "He");
    assert_int_equal(b.ear.ncached, 2);
    say(b.req->choice, two, 2, TN_FINISH_LENGTH, 0, -1);
    assert_true(tn_output_pump(&b.output, b.req));
    assert_true(tn_output_pump(&b.output, b.req)); /* harmless */
    assert_string_equal(b.ear.text[0].data, "He\xc3\xa9!");
    assert_int_equal(b.ear.npiece, 2);
    assert_int_equal(b.ear.nlast, 1);
    assert_int_equal(b.ear.finish[0], TN_FINISH_LENGTH);
    assert_int_equal(b.ear.nreply, 5);
    assert_int_equal(b.ear.nprompt, 3);
    assert_int_equal(atomic_load(&b.req->over), 1);
    assert_int_equal(atomic_load(&b.stats.outcome[TN_OUTCOME_COMPLETED]), 1);
    assert_true(isnan(b.ear.logprob_sum)); /* not asked for */
    bench_close(&b);
}

static void the_end_token_is_counted_not_said(void **state)
{
    (void)state;
    const int32_t eos[] = {'a', TINY_END}, word[] = {'a', 'z'};
    const struct {
        const int32_t *ids;
        uint32_t kind, flags;
        const char *want;
    } all[] = {
        {eos, 0, 0, "a"}, {eos, 0, TN_ASK_KEEP_SPECIAL, "a"},
        {eos, 0, TN_ASK_KEEP_SPECIAL | TN_ASK_KEEP_STOP, "a<|end|>"},
        {word, 1, 0, "a"}, {word, 1, TN_ASK_KEEP_STOP, "az"},
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        bench b;
        bench_open(&b, (bench_setup){.prompt_logprobs = -1, .flags = all[i].flags});
        say(b.req->choice, all[i].ids, 2, TN_FINISH_STOP, all[i].kind, all[i].ids[1]);
        assert_true(tn_output_pump(&b.output, b.req));
        assert_string_equal(b.ear.text[0].data, all[i].want);
        assert_int_equal(b.ear.nreply, 2);
        assert_int_equal(b.ear.ntoken[0], 2);
        assert_int_equal(b.ear.finish[0], TN_FINISH_STOP);
        assert_int_equal(b.ear.stop_kind[0], all[i].kind);
        bench_close(&b);
    }
}

static void a_stop_string_ends_it_first(void **state)
{
    (void)state;
    const char *const stop[] = {"cd"};
    const int32_t ids[] = {'b', 'c', 'd', 'e', 'f'};
    for (uint32_t n = 3; n <= 5; n++) { /* the length is reached with it, or ran past it */
        bench b;
        bench_open(&b, (bench_setup){.prompt_logprobs = -1, .stop = stop, .nstop = 1});
        say(b.req->choice, ids, n, n == 4 ? TN_FINISH_NONE : TN_FINISH_LENGTH, 0, -1);
        assert_true(tn_output_pump(&b.output, b.req));
        assert_string_equal(b.ear.text[0].data, "b");
        assert_int_equal(b.ear.finish[0], TN_FINISH_STOP);
        assert_int_equal(b.ear.stop_kind[0], 2);
        assert_string_equal(b.ear.stop_text[0], "cd");
        assert_int_equal(b.ear.nreply, 3); /* what ran past it is not counted */
        assert_int_equal(atomic_load(&b.req->choice[0].drop), 1);
        bench_close(&b);
    }
}

static void choices_end_one_by_one(void **state)
{
    (void)state;
    bench b;
    const int32_t ids[] = {'a', 'b', 'c'};
    bench_open(&b, (bench_setup){.nchoice = 3, .prompt_logprobs = -1});
    say(&b.req->choice[1], ids, 1, TN_FINISH_LENGTH, 0, -1);
    assert_false(tn_output_pump(&b.output, b.req));
    assert_int_equal(b.ear.finish[1], TN_FINISH_LENGTH);
    assert_int_equal(b.ear.nlast, 0);
    say(&b.req->choice[0], ids, 2, TN_FINISH_STOP, 0, 'b');
    assert_false(tn_output_pump(&b.output, b.req));
    say(&b.req->choice[2], ids, 3, TN_FINISH_LENGTH, 0, -1);
    assert_true(tn_output_pump(&b.output, b.req));
    assert_int_equal(b.ear.nlast, 1);
    assert_int_equal(b.ear.last_choice, 2);
    assert_int_equal(b.ear.nreply, 6);
    assert_string_equal(b.ear.text[0].data, "a");
    assert_string_equal(b.ear.text[2].data, "abc");
    bench_close(&b);
}

static void echo_and_prompt_come_first(void **state)
{
    (void)state;
    bench b;
    const int32_t ids[] = {'a'};
    bench_open(&b, (bench_setup){.nchoice = 2, .prompt_logprobs = 1, .echo = "PQR",
                                 .flags = TN_ASK_ECHO});
    for (int i = 1; i < 3; i++) {
        b.req->prompt_report[i] = (tn_report){.logprob = -2, .rank = 1, .ntop = 1};
        b.req->prompt_top[i] = (tn_top){.token = 'x', .logprob = -1};
    }
    say(&b.req->choice[0], ids, 1, TN_FINISH_LENGTH, 0, -1);
    say(&b.req->choice[1], ids, 1, TN_FINISH_LENGTH, 0, -1);
    assert_true(tn_output_pump(&b.output, b.req));
    assert_string_equal(b.ear.text[0].data, "PQRa");
    assert_string_equal(b.ear.text[1].data, "PQRa");
    assert_int_equal(b.ear.nprompt_pieces, 1);
    assert_int_equal(b.ear.nprompt_data, 3);
    assert_true(isnan(b.ear.prompt_logprob[0])); /* nothing goes before it */
    assert_int_equal(b.ear.prompt_ntop[0], 0);
    for (int i = 1; i < 3; i++) {
        assert_true(b.ear.prompt_logprob[i] == -2);
        assert_int_equal(b.ear.prompt_ntop[i], 1);
    }
    assert_int_equal(b.ear.prompt_top.token, 'x');
    assert_int_equal(b.ear.prompt_top.rank, 1);
    assert_true(b.ear.prompt_top.logprob == -1);
    bench_close(&b);
}

static void a_backlog_is_cut_into_pieces(void **state)
{
    (void)state;
    bench b;
    int32_t ids[200];
    for (int i = 0; i < 200; i++)
        ids[i] = 'a' + i % 26;
    bench_open(&b, (bench_setup){.prompt_logprobs = -1});
    say(b.req->choice, ids, 200, TN_FINISH_LENGTH, 0, -1);
    assert_true(tn_output_pump(&b.output, b.req));
    assert_int_equal(b.ear.npiece, 4);
    assert_int_equal(b.ear.most_tokens, TN_PIECE_TOKENS);
    assert_int_equal(b.ear.nreply, 200);
    assert_int_equal(b.ear.text[0].len, 200);
    bench_close(&b);
}

static void ends_before_the_end(void **state)
{
    (void)state;
    static const struct {
        uint32_t end, finish, outcome;
        tn_status status;
        const char *code;
    } all[] = {
        {TN_END_CANCELLED, TN_FINISH_ABORT, TN_OUTCOME_CANCELLED, TN_CANCELLED, "cancelled"},
        {TN_END_TIMEOUT, TN_FINISH_ABORT, TN_OUTCOME_TIMED_OUT, TN_TIMEOUT, "request_timeout"},
        {TN_END_CUT, TN_FINISH_ABORT, TN_OUTCOME_CANCELLED, TN_CUT, "draining"},
        {TN_END_NAN, TN_FINISH_ERROR, TN_OUTCOME_FAILED, TN_INTERNAL, "model_nan"},
        {TN_END_ENGINE, TN_FINISH_ERROR, TN_OUTCOME_FAILED, TN_UNAVAILABLE, "engine_down"},
        {TN_END_BUG, TN_FINISH_ERROR, TN_OUTCOME_FAILED, TN_INTERNAL, "bug"},
    };
    const int32_t ids[] = {'a', 'b'};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        bench b;
        bench_open(&b, (bench_setup){.nchoice = 3, .prompt_logprobs = -1});
        say(&b.req->choice[0], ids, 1, TN_FINISH_LENGTH, 0, -1);
        say(&b.req->choice[1], ids, 2, TN_FINISH_NONE, 0, -1);
        assert_false(tn_output_pump(&b.output, b.req));
        if (all[i].end == TN_END_CANCELLED) {
            atomic_store(&b.req->cancelled, 1);
        } else if (all[i].finish == TN_FINISH_ERROR) {
            say(&b.req->choice[2], ids, 1, TN_FINISH_ERROR, 0, -1);
            atomic_store(&b.req->failed, all[i].end);
        } else {
            tn_output_end(&b.output, b.req, all[i].end);
        }
        assert_true(tn_output_pump(&b.output, b.req));
        assert_int_equal(b.ear.nlast, 1);
        assert_int_equal(b.ear.status, all[i].status);
        assert_string_equal(b.ear.code, all[i].code);
        uint32_t blamed = all[i].finish == TN_FINISH_ERROR ? 2 : 1;
        assert_int_equal(b.ear.last_choice, blamed);
        assert_int_equal(b.ear.finish[blamed], all[i].finish);
        assert_int_equal(b.ear.finish[0], TN_FINISH_LENGTH);
        assert_int_equal(b.ear.ntoken[2], all[i].finish == TN_FINISH_ERROR ? 1 : 0);
        assert_int_equal(atomic_load(&b.stats.outcome[all[i].outcome]), 1);
        assert_int_equal(atomic_load(&b.req->over), 1);
        bench_close(&b);
    }
}

static void reports_come_with_their_tokens(void **state)
{
    (void)state;
    bench b;
    const int32_t ids[] = {'a', TINY_ABC};
    bench_open(&b, (bench_setup){.prompt_logprobs = -1, .logprobs = true, .ntop = 2});
    b.req->choice[0].top[2] = (tn_top){.token = 'x', .logprob = -0.5f}; /* of the second token */
    b.req->choice[0].top[3] = (tn_top){.token = TINY_AB, .logprob = -0.75f};
    say(b.req->choice, ids, 2, TN_FINISH_LENGTH, 0, -1);
    b.req->choice[0].report[1].ntop = 2;
    assert_true(tn_output_pump(&b.output, b.req));
    assert_true(b.ear.logprob_sum == -2);
    assert_int_equal(b.ear.ntop, 2);
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(b.ear.top[i].token, i == 0 ? 'x' : TINY_AB);
        assert_int_equal(b.ear.top[i].rank, i + 1);
        assert_true(b.ear.top[i].logprob == (i == 0 ? -0.5f : -0.75f));
        assert_int_equal(b.ear.top[i].text_size, i + 1);
        assert_memory_equal(b.ear.top[i].text, i == 0 ? "x" : "ab", i + 1);
    }
    assert_int_equal(atomic_load(&b.req->choice[0].nseen), 2);
    bench_close(&b);
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
        cmocka_unit_test(stops_are_found),
        cmocka_unit_test(stops_ignore_token_bounds),
        cmocka_unit_test(tail_is_held_and_let_go),
        cmocka_unit_test(first_tokens_are_not_searched),
        cmocka_unit_test(characters_stay_whole),
        cmocka_unit_test(any_bytes_become_utf8),
        cmocka_unit_test(special_tokens_are_skipped_or_kept),
        cmocka_unit_test(ids_without_text_say_nothing),
        cmocka_unit_test(agrees_with_a_naive_search),
        cmocka_unit_test(many_stops_stay_linear),
        cmocka_unit_test(a_reply_in_pieces),
        cmocka_unit_test(the_end_token_is_counted_not_said),
        cmocka_unit_test(a_stop_string_ends_it_first),
        cmocka_unit_test(choices_end_one_by_one),
        cmocka_unit_test(echo_and_prompt_come_first),
        cmocka_unit_test(a_backlog_is_cut_into_pieces),
        cmocka_unit_test(ends_before_the_end),
        cmocka_unit_test(reports_come_with_their_tokens),
    };
    return cmocka_run_group_tests(tests, open_tok, close_tok);
}
