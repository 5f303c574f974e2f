/* SPDX-License-Identifier: Apache-2.0 */
/* test_cuda_ranks.c - the cuda device as one rank of several: sums and gathers on its stream, in
 * graphs and without, and what becomes of a step whose peers are lost.
 *
 * The communicator here has one rank and plays two: a sum doubles, and the second rank gives the
 * negative of what the first does. So what a step makes is known from a step of a lone rank. */
#include "step_script.h"

#include "cuda_runtime.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

extern const tn_plugin tn_plugin_entry;

#define NBLOCK 128u
#define CALLS 64u

/* --------------------------------------------------------------------------- a second rank */

typedef struct twin_call {
    struct twin *t;
    const float *in;
    float *out;
    uint64_t count;
} twin_call;

typedef struct twin {
    twin_call call[CALLS];
    uint32_t ncall;              /* made, of which graphs keep some */
    uint32_t sums, gathers;      /* done */
    uint32_t healths, aborts;
    cudasim_queue *stream;
    bool is_lost;                /* the next sum never ends */
} twin;

static void do_sum(void *user)
{
    const twin_call *c = user;
    c->t->sums++;
    for (uint64_t i = 0; i < c->count; i++)
        c->out[i] *= 2;
}

static void do_gather(void *user)
{
    const twin_call *c = user;
    c->t->gathers++;
    for (uint64_t i = 0; i < c->count; i++) {
        c->out[i] = c->in[i];
        c->out[c->count + i] = -c->in[i];
    }
}

static tn_status give_call(twin *t, const float *in, float *out, uint64_t count, void *stream,
                           tn_err *err)
{
    if (t->ncall == CALLS)
        return tn_fail(err, TN_INTERNAL, "too many calls for this test");
    twin_call *c = &t->call[t->ncall++];
    *c = (twin_call){.t = t, .in = in, .out = out, .count = count};
    t->stream = stream;
    t->stream->give(stream, in == NULL ? do_sum : do_gather, c);
    t->stream->held = t->is_lost;
    return TN_OK;
}

static tn_status twin_sum(void *group, void *x, uint64_t count, uint32_t dtype, void *stream,
                          tn_err *err)
{
    assert_int_equal(dtype, TN_F32);
    return give_call(group, NULL, x, count, stream, err);
}

static tn_status twin_gather(void *group, const void *in, void *out, uint64_t count,
                             uint32_t dtype, void *stream, tn_err *err)
{
    assert_int_equal(dtype, TN_F32);
    return give_call(group, in, out, count, stream, err);
}

static tn_status twin_health(void *group, tn_err *err)
{
    twin *t = group;
    t->healths++;
    return t->is_lost ? tn_fail(err, TN_TIMEOUT, "twin: rank 1 has ended") : TN_OK;
}

static void twin_abort(void *group)
{
    twin *t = group;
    t->aborts++;
    if (t->stream != NULL)
        t->stream->held = 0;
}

static tn_comm twin_table(uint32_t flags)
{
    return (tn_comm){.size = sizeof(tn_comm), .flags = flags, .all_reduce = twin_sum,
                     .all_gather = twin_gather, .health = twin_health, .abort = twin_abort};
}

/* ------------------------------------------------------------------------------- the model */

/* x = sum(embed), each rank's half of the "logits" are the picked rows: 80 wide, in strides of
 * 128. */
typedef struct small {
    fixture *f;
    uint32_t x, some, all;
} small;

static small small_new(uint32_t nrank)
{
    small m = {.f = fx_new(3)};
    m.f->recipe.vocab = 64;
    m.x = fx_buffer(m.f, TN_ROWS_TOKENS, 80, "x");
    m.some = fx_buffer(m.f, TN_ROWS_OUTS, 80, "some");
    m.all = fx_buffer(m.f, TN_ROWS_OUTS, nrank * 80, "all");
    tn_op_embed embed = {.size = sizeof embed, .out = m.x, .scale = 1};
    embed.w = fx_matrix(m.f, TN_ROLE_EMBED, 64, 80, TN_FORM_F16, 0, 0);
    fx_op(m.f, TN_OP_EMBED, &embed, "embed");
    tn_op_sum sum = {.size = sizeof sum, .x = m.x, .width = 80};
    fx_op(m.f, TN_OP_SUM, &sum, "sum");
    tn_op_pick pick = {.size = sizeof pick, .in = m.x, .out = m.some, .width = 80};
    fx_op(m.f, TN_OP_PICK, &pick, "pick");
    tn_op_gather gather = {.size = sizeof gather, .in = m.some, .out = m.all, .width = 80};
    fx_op(m.f, TN_OP_GATHER, &gather, "gather");
    fx_section(m.f);
    return m;
}

/* `n` sequences of one token each, all with an output. */
static void fill(script *s, uint32_t n, uint64_t number)
{
    int32_t token[64];
    script_tokens(token, n, 64);
    script_open(s, number);
    for (uint32_t i = 0; i < n; i++) {
        script_add(s, &token[i], 1, 0, NULL, 0);
        script_out(s, (int32_t)i);
    }
}

static tn_limits limits_of(const tn_comm *comm, twin *t, bool profile)
{
    tn_limits l = script_limits();
    l.profile = profile;
    l.seqs_max = 64;
    if (comm != NULL) {
        l.nrank = 2;
        l.comm = comm;
        l.group = t;
    }
    return l;
}

static void rows_of(fx_device *d, void *program, uint32_t buffer, uint32_t n, float *out)
{
    tn_err err;
    if (d->table->peek(program, buffer, 0, n, out, &err) != TN_OK)
        fail_msg("peek: %s", err.text);
}

/* What a lone rank makes of the same step. */
static void lone_rows(uint32_t n, float *out)
{
    fx_device d = {0};
    small m = small_new(1);
    tn_limits l = limits_of(NULL, NULL, false);
    script *s = calloc(1, sizeof *s);
    fx_device_open(&d, &tn_plugin_entry, 1, NULL);
    void *program = fx_program(&d, m.f, &l, NBLOCK, 1);
    fill(s, n, 0);
    script_run(&d, program, &s->step);
    rows_of(&d, program, m.all, n, out);
    d.table->release(program);
    fx_device_close(&d);
    fx_free(m.f);
    free(s);
}

static void check_rows(const float *alone, const float *x, const float *all, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t c = 0; c < 80; c++) {
            float want = 2 * alone[i * 80 + c];
            if (x[i * 80 + c] != want || all[i * 160 + c] != want || all[i * 160 + 80 + c] != -want)
                fail_msg("%u rows, row %u, column %u: %g, gathered %g and %g; expected %g", n, i, c,
                         (double)x[i * 80 + c], (double)all[i * 160 + c],
                         (double)all[i * 160 + 80 + c], (double)want);
        }
}

/* Three steps of each size: the first makes the graph, the others run it. */
static void check_sizes(uint32_t flags, bool profile, bool captured)
{
    static const uint32_t sizes[] = {1, 5, 32, 33, 64};
    const tn_comm comm = twin_table(flags);
    for (uint32_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        uint32_t n = sizes[i], pieces = n > 32 ? 2 : 1;
        fx_device d = {0};
        twin t = {0};
        small m = small_new(2);
        tn_limits l = limits_of(&comm, &t, profile);
        script *s = calloc(1, sizeof *s);
        float alone[64 * 80], x[64 * 80], all[64 * 160];
        lone_rows(n, alone);
        fx_device_open(&d, &tn_plugin_entry, 1, NULL);
        void *program = fx_program(&d, m.f, &l, NBLOCK, 1);
        for (uint64_t turn = 0; turn < 3; turn++) {
            fill(s, n, turn);
            script_run(&d, program, &s->step);
            rows_of(&d, program, m.x, n, x);
            rows_of(&d, program, m.all, n, all);
            check_rows(alone, x, all, n);
        }
        assert_int_equal(t.sums, 3);
        assert_int_equal(t.gathers, 3 * pieces);
        assert_int_equal(t.ncall, captured ? 1 + pieces : 3 * (1 + pieces));
        assert_int_equal(t.aborts, 0);
        d.table->release(program);
        fx_device_close(&d);
        fx_free(m.f);
        free(s);
    }
}

static void test_one_by_one(void **state)
{
    (void)state;
    check_sizes(TN_COMM_DEVICE | TN_COMM_CAPTURABLE, true, false);
}

static void test_captured(void **state)
{
    (void)state;
    check_sizes(TN_COMM_DEVICE | TN_COMM_CAPTURABLE, false, true);
}

/* A communicator that cannot be captured gets no graphs. */
static void test_not_capturable(void **state)
{
    (void)state;
    check_sizes(TN_COMM_DEVICE, false, false);
}

/* -------------------------------------------------------------------------------- a lost rank */

/* Whoever waits is told, by the group's own sentence, and the group is aborted. */
static void test_lost(void **state)
{
    const tn_comm comm = twin_table(TN_COMM_DEVICE);
    (void)state;
    for (uint32_t poll = 0; poll < 2; poll++) {
        fx_device d = {0};
        twin t = {0};
        small m = small_new(2);
        tn_limits l = limits_of(&comm, &t, false);
        script *s = calloc(1, sizeof *s);
        const tn_results *results;
        tn_err err = {.text = ""};
        fx_device_open(&d, &tn_plugin_entry, 1, NULL);
        void *program = fx_program(&d, m.f, &l, NBLOCK, 1);
        fill(s, 4, 0);
        script_run(&d, program, &s->step);
        assert_true(t.healths > 0);
        t.is_lost = true;
        fill(s, 4, 1);
        assert_int_equal(d.table->run(program, &s->step, &err), TN_OK);
        tn_status st = TN_BUSY;
        for (uint64_t i = 0; st == TN_BUSY && i < 1000000000; i++)
            st = d.table->wait(program, 1, poll, &results, &err);
        assert_int_equal(st, TN_UNAVAILABLE);
        assert_string_equal(err.text, "twin: rank 1 has ended");
        assert_int_equal(t.aborts, 1);
        d.table->release(program);
        fx_device_close(&d);
        fx_free(m.f);
        free(s);
    }
}

/* A rank that is lost while a step runs is found also when the step has ended: what it left is
 * worth nothing. */
static void test_lost_but_done(void **state)
{
    const tn_comm comm = twin_table(TN_COMM_DEVICE);
    fx_device d = {0};
    twin t = {0};
    small m = small_new(2);
    tn_limits l = limits_of(&comm, &t, false);
    script *s = calloc(1, sizeof *s);
    const tn_results *results;
    tn_err err;
    (void)state;
    fx_device_open(&d, &tn_plugin_entry, 1, NULL);
    void *program = fx_program(&d, m.f, &l, NBLOCK, 1);
    fill(s, 4, 0);
    assert_int_equal(d.table->run(program, &s->step, &err), TN_OK);
    t.is_lost = true;            /* nothing is held: the stream has done all */
    assert_int_equal(d.table->wait(program, 0, 0, &results, &err), TN_UNAVAILABLE);
    assert_int_equal(t.aborts, 1);
    d.table->release(program);
    fx_device_close(&d);
    fx_free(m.f);
    free(s);
}

/* ----------------------------------------------------------------------------------- refusals */

static void check_refused(fixture *f, const tn_limits *l, tn_status want, const char *words)
{
    fx_device d = {0};
    tn_err err = {.text = ""};
    void *program = NULL;
    fx_device_open(&d, &tn_plugin_entry, 1, NULL);
    tn_status st = fx_program_try(&d, f, l, NBLOCK, 1, &program, &err);
    if (st != want || strstr(err.text, words) == NULL)
        fail_msg("%d, %s; expected %d, %s", st, err.text, want, words);
    fx_device_close(&d);
}

static void test_refusals(void **state)
{
    const tn_comm comm = twin_table(TN_COMM_DEVICE), host = twin_table(TN_COMM_HOST);
    twin t = {0};
    small m = small_new(2);
    tn_limits l = limits_of(&comm, &t, false);
    (void)state;
    l.comm = NULL;
    check_refused(m.f, &l, TN_CONFIG, "2 ranks need a communicator");
    l.comm = &host;
    check_refused(m.f, &l, TN_UNSUPPORTED, "does not work on the card's memory");
    l.comm = &comm;
    l.group = NULL;
    check_refused(m.f, &l, TN_CONFIG, "rank 0 of 2 has joined no group");
    l.group = &t;
    l.rank = 2;
    check_refused(m.f, &l, TN_CONFIG, "rank 2 of 2");
    l.rank = 0;
    tn_op_sum *sum = (tn_op_sum *)(uintptr_t)m.f->op[1].args;
    sum->col = 8;
    sum->width = 16;
    check_refused(m.f, &l, TN_UNSUPPORTED, "columns 8 + 16 of buffer x, which has 80; expected whole");
    fx_free(m.f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_by_one),     cmocka_unit_test(test_captured),
        cmocka_unit_test(test_not_capturable), cmocka_unit_test(test_lost),
        cmocka_unit_test(test_lost_but_done),  cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
