/* SPDX-License-Identifier: Apache-2.0 */
/* test_sampling.c - what an ask may say, and what becomes of it row by row. */
#include "sampling.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tinytok.h"

static tn_tok *tok;

static tn_sampler_facts facts_plain(void)
{
    return (tn_sampler_facts){
        .vocab = TINY_VOCAB, .eos = TINY_END, .max_logprobs = 20, .tok = tok,
        .defaults = {.temperature = NAN, .top_p = NAN, .min_p = NAN, .repetition = NAN,
                     .top_k = INT32_MIN},
    };
}

static tn_ask ask_plain(void)
{
    return (tn_ask){
        .size = sizeof(tn_ask), .n = 1, .temperature = NAN, .top_p = NAN, .min_p = NAN,
        .repetition = NAN, .frequency = NAN, .presence = NAN, .top_k = INT32_MIN,
        .max_tokens = -1, .logprobs = -1, .prompt_logprobs = -1,
    };
}

/* -------------------------------------------------------------------------- refusals */

typedef struct number_case {
    size_t offset;               /* of a float in tn_ask */
    float value;
    const char *param;           /* NULL: accepted */
} number_case;

#define TEMPERATURE offsetof(tn_ask, temperature)
#define TOP_P offsetof(tn_ask, top_p)
#define MIN_P offsetof(tn_ask, min_p)
#define REPETITION offsetof(tn_ask, repetition)
#define FREQUENCY offsetof(tn_ask, frequency)
#define PRESENCE offsetof(tn_ask, presence)

/* P01, P02, P04, P05 */
static void checks_numbers(void **state)
{
    (void)state;
    static const number_case all[] = {
        {TEMPERATURE, -1, "temperature"}, {TEMPERATURE, 2.0001f, "temperature"},
        {TEMPERATURE, INFINITY, "temperature"}, {TEMPERATURE, -INFINITY, "temperature"},
        {TEMPERATURE, 1e38f, "temperature"}, {TEMPERATURE, -0.0f, NULL},
        {TEMPERATURE, 0, NULL}, {TEMPERATURE, 2, NULL}, {TEMPERATURE, NAN, NULL},
        {TOP_P, 0, "top_p"}, {TOP_P, -1, "top_p"}, {TOP_P, 1.0001f, "top_p"},
        {TOP_P, INFINITY, "top_p"}, {TOP_P, 1, NULL}, {TOP_P, 1e-30f, NULL},
        {MIN_P, -1, "min_p"}, {MIN_P, 2, "min_p"}, {MIN_P, 0, NULL}, {MIN_P, 1, NULL},
        {REPETITION, 0, "repetition_penalty"}, {REPETITION, -1, "repetition_penalty"},
        {REPETITION, INFINITY, "repetition_penalty"}, {REPETITION, 1e-30f, "repetition_penalty"},
        {REPETITION, 0.5f, NULL}, {REPETITION, 2, NULL},
        {FREQUENCY, 2.0001f, "frequency_penalty"}, {FREQUENCY, -2.0001f, "frequency_penalty"},
        {FREQUENCY, 2, NULL}, {FREQUENCY, -2, NULL},
        {PRESENCE, 2.0001f, "presence_penalty"}, {PRESENCE, -INFINITY, "presence_penalty"},
        {PRESENCE, -2, NULL},
    };
    tn_sampler_facts f = facts_plain();
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        tn_ask ask = ask_plain();
        tn_err err = {0};
        memcpy((char *)&ask + all[i].offset, &all[i].value, sizeof(float));
        tn_status st = tn_sampler_check(&ask, &f, &err);
        if (all[i].param == NULL) {
            assert_int_equal(st, TN_OK);
            continue;
        }
        assert_int_equal(st, TN_REFUSED);
        assert_string_equal(err.param, all[i].param);
        assert_string_equal(err.code, "value_out_of_range");
        size_t n = strlen(all[i].param);
        assert_memory_equal(err.text, all[i].param, n);
        assert_memory_equal(err.text + n, ": ", 2);
        assert_non_null(strstr(err.text, "; expected "));
    }
}

static void messages_give_the_number(void **state)
{
    (void)state;
    static const struct {
        float given;
        const char *text;
    } all[] = {{2.0001f, "temperature: 2.0001; expected a number from 0 to 2"},
               {-1, "temperature: -1; expected a number from 0 to 2"},
               {1e38f, "temperature: 1e+38; expected a number from 0 to 2"},
               {-1e-40f, NULL},
               {INFINITY, "temperature: Infinity; expected a number from 0 to 2"}};
    tn_sampler_facts f = facts_plain();
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        tn_ask ask = ask_plain();
        tn_err err = {0};
        ask.temperature = all[i].given;
        assert_int_equal(tn_sampler_check(&ask, &f, &err), TN_REFUSED);
        if (all[i].text != NULL)
            assert_string_equal(err.text, all[i].text);
    }
}

static void refuse_case(const tn_ask *ask, const char *param)
{
    tn_sampler_facts f = facts_plain();
    tn_err err = {0};
    if (tn_sampler_check(ask, &f, &err) != TN_REFUSED)
        fail_msg("accepted; expected %s to be refused", param);
    assert_string_equal(err.param, param);
    assert_string_equal(err.code, "value_out_of_range");
    assert_non_null(strstr(err.text, "; expected "));
}

static void accept_case(const tn_ask *ask)
{
    tn_sampler_facts f = facts_plain();
    tn_err err = {0};
    if (tn_sampler_check(ask, &f, &err) != TN_OK)
        fail_msg("%s", err.text);
}

/* P09, P12 */
static void checks_counts(void **state)
{
    (void)state;
    const uint32_t n[] = {0, 9, 1000000000, UINT32_MAX};
    tn_ask ask = ask_plain();
    for (int i = 0; i < 4; i++) {
        ask.n = n[i];
        refuse_case(&ask, "n");
    }
    ask.n = 8;
    accept_case(&ask);
    ask.top_k = -2;
    refuse_case(&ask, "top_k");
    ask.top_k = -1;
    accept_case(&ask);
    ask.top_k = INT32_MAX;
    accept_case(&ask);
    ask.min_tokens = -1;
    refuse_case(&ask, "min_tokens");
    ask.min_tokens = 0;
    ask.logprobs = 21;
    refuse_case(&ask, "logprobs");
    ask.logprobs = -2;
    refuse_case(&ask, "logprobs");
    ask.logprobs = 20;
    accept_case(&ask);
    ask.prompt_logprobs = (int32_t)TINY_VOCAB;
    refuse_case(&ask, "prompt_logprobs");
    ask.prompt_logprobs = 0;
    accept_case(&ask);
}

static void checks_stops(void **state)
{
    (void)state;
    char full[257], over[258];
    const char *stop[17];
    tn_ask ask = ask_plain();
    memset(full, 's', 256);
    memset(over, 's', 257);
    full[256] = over[257] = 0;
    for (int i = 0; i < 17; i++)
        stop[i] = full;
    ask.stop = stop;
    ask.nstop = 16;
    accept_case(&ask);
    ask.nstop = 17;
    refuse_case(&ask, "stop");
    ask.nstop = 3;
    stop[2] = over;
    refuse_case(&ask, "stop[2]");
    stop[2] = "";
    refuse_case(&ask, "stop[2]");
    stop[2] = NULL;
    refuse_case(&ask, "stop[2]");
}

/* P14, P16 */
static void checks_tokens(void **state)
{
    (void)state;
    int32_t id[129];
    const int32_t bad[] = {-1, (int32_t)TINY_VOCAB, INT32_MAX, INT32_MIN};
    tn_ask ask = ask_plain();
    for (int i = 0; i < 129; i++)
        id[i] = i;
    ask.stop_token = id;
    ask.nstop_token = 128;
    accept_case(&ask);
    ask.nstop_token = 129;
    refuse_case(&ask, "stop_token_ids");
    for (int i = 0; i < 4; i++) {
        ask.nstop_token = 3;
        id[2] = bad[i];
        refuse_case(&ask, "stop_token_ids");
        ask.nstop_token = 0;
        ask.allowed = id;
        ask.nallowed = 3;
        refuse_case(&ask, "allowed_token_ids");
        ask.nallowed = 0;
        const tn_bias bias = {.token = bad[i], .value = 1};
        ask.bias = &bias;
        ask.nbias = 1;
        refuse_case(&ask, "logit_bias");
        ask.nbias = 0;
    }
}

/* P14 */
static void checks_bias(void **state)
{
    (void)state;
    tn_bias *bias = calloc(1025, sizeof *bias);
    const float bad[] = {100.1f, -100.1f, NAN, INFINITY, -INFINITY};
    tn_ask ask = ask_plain();
    ask.bias = bias;
    ask.nbias = 1024;
    accept_case(&ask);
    ask.nbias = 1025;
    refuse_case(&ask, "logit_bias");
    ask.nbias = 1;
    for (int i = 0; i < 5; i++) {
        bias[0].value = bad[i];
        refuse_case(&ask, "logit_bias");
    }
    bias[0].value = -100;
    accept_case(&ask);
    bias[0].value = 100;
    accept_case(&ask);
    free(bias);
}

static void checks_bad_words_without_tokenizer(void **state)
{
    (void)state;
    const char *const words[] = {"q"};
    tn_sampler_facts f = facts_plain();
    tn_ask ask = ask_plain();
    tn_err err = {0};
    f.tok = NULL;
    assert_int_equal(tn_sampler_check(&ask, &f, &err), TN_OK);
    ask.bad_words = words;
    ask.nbad_words = 1;
    assert_int_equal(tn_sampler_check(&ask, &f, &err), TN_REFUSED);
    assert_string_equal(err.param, "bad_words");
}

static void checks_defaults_too(void **state)
{
    (void)state;
    tn_sampler_facts f = facts_plain();
    tn_ask ask = ask_plain();
    tn_err err = {0};
    f.defaults.temperature = 3;
    assert_int_equal(tn_sampler_check(&ask, &f, &err), TN_REFUSED);
    ask.temperature = 1; /* the request's own value goes first */
    assert_int_equal(tn_sampler_check(&ask, &f, &err), TN_OK);
}

/* --------------------------------------------------------------------------- building */

typedef struct made {
    tn_arena arena;
    tn_sampler s;
} made;

static void make(made *m, const tn_ask *ask, const tn_sampler_facts *f)
{
    tn_err err = {0};
    tn_arena_open(&m->arena, 0);
    assert_int_equal(tn_sampler_check(ask, f, &err), TN_OK);
    if (tn_sampler_build(ask, f, &m->arena, &m->s, &err) != TN_OK)
        fail_msg("%s", err.text);
}

static void defaults_in_their_order(void **state)
{
    (void)state;
    tn_sampler_facts f = facts_plain();
    tn_ask ask = ask_plain();
    made m;
    make(&m, &ask, &f);
    assert_true(m.s.base.temperature == 1 && m.s.base.top_p == 1 && m.s.base.min_p == 0);
    assert_true(m.s.base.repetition == 1 && m.s.base.frequency == 0 && m.s.base.presence == 0);
    assert_int_equal(m.s.base.top_k, 0);
    assert_int_equal(m.s.base.flags, 0);
    assert_false(m.s.penalties);
    tn_arena_close(&m.arena);
    f.defaults = (tn_generation){.temperature = 0.7f, .top_p = 0.8f, .min_p = 0.1f,
                                 .repetition = 1.05f, .top_k = 20};
    ask.top_p = 0.5f;
    make(&m, &ask, &f);
    assert_true(m.s.base.temperature == 0.7f && m.s.base.top_p == 0.5f);
    assert_true(m.s.base.min_p == 0.1f && m.s.base.repetition == 1.05f);
    assert_int_equal(m.s.base.top_k, 20);
    assert_true(m.s.penalties);
    tn_arena_close(&m.arena);
    ask.top_k = -1; /* off, whatever the model says */
    make(&m, &ask, &f);
    assert_int_equal(m.s.base.top_k, 0);
    tn_arena_close(&m.arena);
}

static void greedy_turns_the_cuts_off(void **state)
{
    (void)state;
    const float zero[] = {0, -0.0f};
    tn_sampler_facts f = facts_plain();
    f.defaults.top_k = 20;
    f.defaults.top_p = 0.8f;
    for (int i = 0; i < 2; i++) {
        tn_ask ask = ask_plain();
        made m;
        ask.temperature = zero[i];
        ask.min_p = 0.3f;
        make(&m, &ask, &f);
        assert_int_equal(m.s.base.flags, TN_SAMPLE_GREEDY);
        assert_int_equal(m.s.base.top_k, 0);
        assert_true(m.s.base.top_p == 1 && m.s.base.min_p == 0);
        assert_false(signbit(m.s.base.temperature));
        tn_arena_close(&m.arena);
    }
    tn_ask ask = ask_plain();
    made m;
    ask.temperature = 0.001f;
    make(&m, &ask, &f);
    assert_int_equal(m.s.base.flags, 0);
    assert_true(m.s.base.temperature == TN_TEMPERATURE_LEAST);
    tn_arena_close(&m.arena);
}

static void choices_have_their_seeds(void **state)
{
    (void)state;
    tn_sampler_facts f = facts_plain();
    tn_ask ask = ask_plain();
    tn_sampling row;
    made m, other;
    const int32_t token[5] = {1, 2, 3, 4, 5};
    ask.has_seed = 1;
    ask.seed = 40;
    make(&m, &ask, &f);
    tn_sampler_fill(&m.s, 3, token, 2, 5, NULL, &row);
    assert_int_equal(row.seed, 43);
    assert_int_equal(row.draw, 3);
    tn_arena_close(&m.arena);
    ask.has_seed = 0;
    make(&m, &ask, &f);
    make(&other, &ask, &f);
    assert_true(m.s.seed != other.s.seed);
    tn_arena_close(&m.arena);
    tn_arena_close(&other.arena);
}

/* A server's own seed: the n-th request draws the same in every run. */
static void a_base_gives_the_same_seeds(void **state)
{
    (void)state;
    uint64_t seed[3][4];
    for (uint64_t run = 0; run < 3; run++) {
        tn_seeds seeds = {.base = run < 2 ? 7 : 8};
        tn_sampler_facts f = facts_plain();
        tn_ask ask = ask_plain();
        f.seeds = &seeds;
        for (uint32_t i = 0; i < 4; i++) {
            made m;
            make(&m, &ask, &f);
            seed[run][i] = m.s.seed;
            tn_arena_close(&m.arena);
        }
    }
    for (uint32_t i = 0; i < 4; i++) {
        assert_true(seed[0][i] == seed[1][i]);
        assert_true(seed[0][i] != seed[2][i]);
        assert_true(i == 0 || seed[0][i] != seed[0][i - 1]);
    }
}

static void history_only_with_penalties(void **state)
{
    (void)state;
    tn_sampler_facts f = facts_plain();
    tn_ask ask = ask_plain();
    tn_sampling row;
    made m;
    const int32_t token[4] = {1, 2, 3, 4};
    make(&m, &ask, &f);
    tn_sampler_fill(&m.s, 0, token, 3, 4, NULL, &row);
    assert_null(row.history);
    tn_arena_close(&m.arena);
    ask.presence = 1;
    make(&m, &ask, &f);
    tn_sampler_fill(&m.s, 0, token, 3, 4, NULL, &row);
    assert_ptr_equal(row.history, token);
    assert_int_equal(row.nhistory, 4);
    assert_int_equal(row.nprompt, 3);
    tn_arena_close(&m.arena);
}

static void ends_and_their_kinds(void **state)
{
    (void)state;
    static const int32_t more[] = {TINY_END, TINY_START}, stop[] = {'z', 'a', 'z', TINY_START};
    tn_sampler_facts f = facts_plain();
    tn_ask ask = ask_plain();
    made m;
    f.eos_more = more;
    f.neos_more = 2;
    ask.stop_token = stop;
    ask.nstop_token = 4;
    make(&m, &ask, &f);
    assert_int_equal(m.s.nend, 4);
    assert_int_equal(tn_sampler_end(&m.s, TINY_END)->kind, 0); /* the tokenizer's own */
    assert_int_equal(tn_sampler_end(&m.s, TINY_START)->kind, 1);
    assert_int_equal(tn_sampler_end(&m.s, 'a')->kind, 1);
    assert_null(tn_sampler_end(&m.s, 'b'));
    tn_arena_close(&m.arena);
    ask.flags = TN_ASK_IGNORE_EOS;
    make(&m, &ask, &f);
    assert_null(tn_sampler_end(&m.s, TINY_END));
    assert_non_null(tn_sampler_end(&m.s, TINY_START)); /* asked for by id */
    tn_arena_close(&m.arena);
}

static float bias_of(const tn_sampling *row, int32_t token)
{
    float v = 0;
    for (uint32_t i = 0; i < row->nbias; i++) {
        if (i > 0)
            assert_true(row->bias[i - 1].token < row->bias[i].token);
        if (row->bias[i].token == token)
            v = row->bias[i].value;
    }
    return v;
}

static void min_tokens_forbid_the_end(void **state)
{
    (void)state;
    static const int32_t stop[] = {'z'};
    const tn_bias bias[] = {{.token = 'z', .value = 5}, {.token = 'a', .value = -3}};
    tn_sampler_facts f = facts_plain();
    tn_ask ask = ask_plain();
    tn_sampling row;
    made m;
    const int32_t token[6] = {1, 2, 3, 4, 5, 6};
    ask.stop_token = stop;
    ask.nstop_token = 1;
    ask.bias = bias;
    ask.nbias = 2;
    ask.min_tokens = 2;
    make(&m, &ask, &f);
    for (uint32_t n = 2; n <= 6; n++) {
        bool early = n - 2 < 2;
        tn_sampler_fill(&m.s, 0, token, 2, n, NULL, &row);
        assert_true(bias_of(&row, 'z') == (early ? -INFINITY : 5));
        assert_true(bias_of(&row, TINY_END) == (early ? -INFINITY : 0));
        assert_true(bias_of(&row, 'a') == -3);
    }
    tn_arena_close(&m.arena);
}

static void allowed_become_a_mask(void **state)
{
    (void)state;
    static const int32_t allowed[] = {0, 31, 32, 260, 31};
    tn_sampler_facts f = facts_plain();
    tn_ask ask = ask_plain();
    tn_sampling row;
    made m;
    const int32_t token[1] = {1};
    ask.allowed = allowed;
    ask.nallowed = 5;
    make(&m, &ask, &f);
    assert_int_equal(m.s.nleft, 4);
    tn_sampler_fill(&m.s, 0, token, 1, 1, NULL, &row);
    for (int32_t t = 0; t < (int32_t)TINY_VOCAB; t++) {
        bool want = t == 0 || t == 31 || t == 32 || t == 260;
        assert_int_equal(row.mask[t / 32] >> (t % 32) & 1, want);
    }
    tn_arena_close(&m.arena);
}

static void something_must_be_left(void **state)
{
    (void)state;
    static const int32_t only_end[] = {TINY_END};
    tn_sampler_facts f = facts_plain();
    tn_ask ask = ask_plain();
    tn_arena arena;
    tn_sampler s;
    tn_err err = {0};
    tn_arena_open(&arena, 0);
    ask.allowed = only_end;
    ask.nallowed = 1;
    const tn_bias liked = {.token = TINY_END, .value = 5}; /* forbids nothing */
    ask.bias = &liked;
    ask.nbias = 1;
    assert_int_equal(tn_sampler_build(&ask, &f, &arena, &s, &err), TN_OK);
    ask.min_tokens = 1;
    assert_int_equal(tn_sampler_build(&ask, &f, &arena, &s, &err), TN_REFUSED);
    assert_string_equal(err.param, "allowed_token_ids");
    tn_arena_close(&arena);
}

static void bad_words_are_forbidden(void **state)
{
    (void)state;
    const char *const words[] = {"q", "abd", "x", "xyz"};
    tn_sampler_facts f = facts_plain();
    tn_ask ask = ask_plain();
    tn_sampling row;
    made m;
    ask.bad_words = words;
    ask.nbad_words = 4;
    const tn_bias liked = {.token = 'z', .value = 5}; /* stands until the word is due */
    ask.bias = &liked;
    ask.nbias = 1;
    make(&m, &ask, &f);
    tn_bias *scratch = calloc(tn_sampler_scratch(&m.s), sizeof *scratch);
    assert_non_null(scratch);
    int32_t token[8] = {TINY_AB, 'm', 'x', 'y'}; /* the prompt does not count */
    tn_sampler_fill(&m.s, 0, token, 4, 4, scratch, &row);
    assert_true(bias_of(&row, 'q') == -INFINITY);
    assert_true(bias_of(&row, 'x') == -INFINITY);
    assert_true(bias_of(&row, TINY_BLANK_X) == -INFINITY); /* as spelled inside a sentence */
    assert_true(bias_of(&row, 'd') == 0);
    assert_true(bias_of(&row, 'z') == 5);
    uint32_t nbias = row.nbias;
    token[4] = TINY_AB;
    tn_sampler_fill(&m.s, 0, token, 4, 5, scratch, &row);
    assert_int_equal(row.nbias, nbias + 1);
    assert_true(bias_of(&row, 'd') == -INFINITY);
    assert_true(bias_of(&row, 'q') == -INFINITY);
    assert_true(bias_of(&row, 'z') == 5);
    assert_true(bias_of(&row, TINY_BLANK_X) == -INFINITY);
    token[5] = TINY_BLANK_X;
    token[6] = 'y';
    tn_sampler_fill(&m.s, 0, token, 4, 6, scratch, &row);
    assert_true(bias_of(&row, 'd') == 0);
    tn_sampler_fill(&m.s, 0, token, 4, 7, scratch, &row);
    assert_true(bias_of(&row, 'z') == -INFINITY);
    assert_int_equal(row.nbias, nbias);
    free(scratch);
    tn_arena_close(&m.arena);
}

static void bad_words_leave_something(void **state)
{
    (void)state;
    static const int32_t allowed[] = {'d'};
    const char *const words[] = {"dd", "ddd"};
    tn_sampler_facts f = facts_plain();
    tn_ask ask = ask_plain();
    tn_sampling row;
    made m;
    const int32_t token[3] = {1, 'd', 'd'};
    ask.bad_words = words;
    ask.nbad_words = 2;
    ask.allowed = allowed;
    ask.nallowed = 1;
    make(&m, &ask, &f);
    tn_bias *scratch = calloc(tn_sampler_scratch(&m.s), sizeof *scratch);
    tn_sampler_fill(&m.s, 0, token, 1, 3, scratch, &row);
    assert_true(bias_of(&row, 'd') == 0);
    free(scratch);
    tn_arena_close(&m.arena);
}

/* A word that ends in what is not allowed anyway takes nothing from what is left. */
static void bad_words_count_what_is_allowed(void **state)
{
    (void)state;
    static const int32_t allowed[] = {'d', 'e'};
    const char *const words[] = {"df", "dd"};
    tn_sampler_facts f = facts_plain();
    tn_ask ask = ask_plain();
    tn_sampling row;
    made m;
    const int32_t token[2] = {1, 'd'};
    ask.bad_words = words;
    ask.nbad_words = 2;
    ask.allowed = allowed;
    ask.nallowed = 2;
    make(&m, &ask, &f);
    tn_bias *scratch = calloc(tn_sampler_scratch(&m.s), sizeof *scratch);
    tn_sampler_fill(&m.s, 0, token, 1, 2, scratch, &row);
    assert_true(bias_of(&row, 'd') == -INFINITY);
    assert_true(bias_of(&row, 'e') == 0);
    free(scratch);
    tn_arena_close(&m.arena);
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
        cmocka_unit_test(checks_numbers),
        cmocka_unit_test(messages_give_the_number),
        cmocka_unit_test(checks_counts),
        cmocka_unit_test(checks_stops),
        cmocka_unit_test(checks_tokens),
        cmocka_unit_test(checks_bias),
        cmocka_unit_test(checks_bad_words_without_tokenizer),
        cmocka_unit_test(checks_defaults_too),
        cmocka_unit_test(defaults_in_their_order),
        cmocka_unit_test(greedy_turns_the_cuts_off),
        cmocka_unit_test(choices_have_their_seeds),
        cmocka_unit_test(a_base_gives_the_same_seeds),
        cmocka_unit_test(history_only_with_penalties),
        cmocka_unit_test(ends_and_their_kinds),
        cmocka_unit_test(min_tokens_forbid_the_end),
        cmocka_unit_test(allowed_become_a_mask),
        cmocka_unit_test(something_must_be_left),
        cmocka_unit_test(bad_words_are_forbidden),
        cmocka_unit_test(bad_words_leave_something),
        cmocka_unit_test(bad_words_count_what_is_allowed),
    };
    return cmocka_run_group_tests(tests, open_tok, close_tok);
}
