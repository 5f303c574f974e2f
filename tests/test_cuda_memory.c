/* SPDX-License-Identifier: Apache-2.0 */
/* test_cuda_memory.c - what the host part of the plugin cuda keeps and for how long: memory of the
 * card beside the budget, captured graphs, histories longer than a parcel, buffers that fusion
 * leaves out. */
#include "step_script.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

extern const tn_plugin tn_plugin_entry;

static const fx_llama small = {.layers = 2, .hidden = 64, .ffn = 96, .q_heads = 2, .kv_heads = 1,
                               .dim = 64, .vocab = 200, .context = 1 << 20, .form = TN_FORM_W4G,
                               .group = 32, .flags = FX_ZEROS, .head_form = TN_FORM_F16};

static uint64_t memory_free(const fx_device *d)
{
    tn_device_info info = {.size = sizeof info};
    tn_err err;
    if (d->table->info(d->dev, &info, &err) != TN_OK)
        fail_msg("info: %s", err.text);
    return info.memory_free;
}

static model *open_small(const tn_limits *l)
{
    return model_open(&tn_plugin_entry, &small, 2, NULL, l);
}

static tn_limits plain_limits(void)
{
    tn_limits l = script_limits();
    l.profile = 0;
    return l;
}

/* ---------------------------------------------------------------------------------- reserve */

/* A reserve that fails gives back what it took; the next one works. */
static void test_reserve_again(void **state)
{
    fx_device d = {0};
    fixture *f = fx_new(1);
    tn_limits l = plain_limits();
    tn_err err;
    tn_need need;
    void *program;
    (void)state;
    fx_build_llama(f, &small);
    fx_device_open(&d, &tn_plugin_entry, 1, NULL);
    uint64_t before = memory_free(&d);
    assert_int_equal(d.table->compile(d.dev, &f->recipe, &l, &program, &need, &err), TN_OK);
    assert_int_equal(memory_free(&d), before);
    tn_pools too_many = {.size = sizeof too_many, .nblock = 1 << 24};
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(d.table->reserve(program, &too_many, &err), TN_NO_MEMORY);
        assert_int_equal(memory_free(&d), before);
    }
    tn_pools pools = {.size = sizeof pools, .nblock = 8};
    assert_int_equal(d.table->reserve(program, &pools, &err), TN_OK);
    uint64_t taken = before - memory_free(&d);
    uint64_t said = need.weight_bytes + need.workspace_bytes + 8 * need.block_bytes;
    assert_true(taken >= said && taken <= said + 4096);
    assert_int_equal(d.table->reserve(program, &pools, &err), TN_INTERNAL);
    d.table->release(program);
    assert_int_equal(memory_free(&d), before);
    fx_device_close(&d);
    fx_free(f);
}

/* ---------------------------------------------------------------------------------- packing */

typedef struct watched {
    tn_reader inner;
    fx_device *d;
    uint64_t least;
} watched;

static tn_status read_watched(void *ctx, uint32_t expert, uint64_t row0, uint64_t row1,
                              tn_block *out, tn_err *err)
{
    watched *w = ctx;
    uint64_t free = memory_free(w->d);
    w->least = free < w->least ? free : w->least;
    return w->inner.rows(w->inner.ctx, expert, row0, row1, out, err);
}

/* All that packing needs of the card was in the budget, and its traces are gone at the first
 * step: a program packed in another order, twice, gives the same numbers. */
static void test_packing_takes_nothing(void **state)
{
    tn_limits l = plain_limits();
    tn_err err;
    float logit[2][200];
    (void)state;
    for (uint32_t turn = 0; turn < 2; turn++) {
        model *m = open_small(&l);
        uint64_t free = memory_free(&m->d);
        watched w = {.d = &m->d, .least = free};
        for (uint32_t i = m->f->recipe.nweight; turn == 1 && i-- > 0;) {
            w.inner = fx_reader(m->f, i);
            tn_reader reader = {.size = sizeof reader, .ctx = &w, .rows = read_watched};
            assert_int_equal(m->d.table->pack(m->program, i, &reader, &err), TN_OK);
        }
        assert_int_equal(w.least, free);
        script_open(&m->s, 0);
        script_add(&m->s, (const int32_t[]){1, 2, 3}, 3, 0, NULL, SCRIPT_NBLOCK);
        script_out(&m->s, 2);
        script_run(&m->d, m->program, &m->s.step);
        assert_int_equal(m->d.table->peek(m->program, m->logits, 0, 1, logit[turn], &err), TN_OK);
        assert_int_equal(memory_free(&m->d), free);
        model_close(m);
    }
    assert_memory_equal(logit[0], logit[1], sizeof logit[0]);
}

/* ----------------------------------------------------------------------------------- graphs */

static double replays(const model *m)
{
    return fx_metric(&m->d, "cuda_graph_steps_total{card=\"0\"}");
}

static double dropped(const model *m)
{
    return fx_metric(&m->d, "cuda_graphs_dropped_total{card=\"0\"}");
}

/* A step of `rows` sequences of one row, the first behind `context` tokens, with `outs` outputs. */
static int32_t step_of(model *m, int32_t rows, int32_t outs, int32_t context)
{
    script_open(&m->s, m->number++);
    for (int32_t i = 0; i < rows; i++) {
        const int32_t block = 64 + i, token = 5 + i;
        script_add(&m->s, &token, 1, i == 0 ? context : 0, i == 0 ? NULL : &block,
                   i == 0 ? SCRIPT_NBLOCK : 1);
    }
    for (int32_t i = 0; i < outs; i++)
        script_out(&m->s, i);
    const tn_results *r = script_run(&m->d, m->program, &m->s.step);
    for (int32_t i = 1; i < outs; i++)
        assert_true(r->result[i].token >= 0 && r->result[i].token < 200);
    return r->result[0].token;
}

/* More shapes than there are places: the longest unused is dropped, the step that is run in
 * between all others keeps its graph, and all of them still compute the same. */
static void test_graphs_make_room(void **state)
{
    static const int32_t size[] = {1, 2, 4, 8, 12, 16, 24, 32};
    tn_limits l = plain_limits();
    (void)state;
    model *m = open_small(&l);
    int32_t first = step_of(m, 1, 1, 0);
    double steps = 1;
    for (int32_t i = 71; i >= 0; i--) {
        int32_t rows = 0, outs = i / 2;
        while (outs > rows)
            outs -= ++rows;
        step_of(m, size[rows], size[outs], i % 2 * 600);
        assert_int_equal(step_of(m, 1, 1, 0), first);
        steps += 2;
    }
    assert_true(replays(m) == steps);
    double before = dropped(m);
    assert_true(before > 0);
    assert_int_equal(step_of(m, 1, 1, 0), first);
    step_of(m, 2, 1, 0);
    assert_true(dropped(m) == before);
    step_of(m, 32, 32, 600);   /* long gone: it is made anew */
    assert_true(dropped(m) == before + 1);
    model_close(m);
}

/* --------------------------------------------------------------------------------- histories */

#define LONG 120000

/* Token `t` forbidden by a history of n entries of it; n may be more than a parcel holds. */
static void ask_without(model *m, const int32_t *history, uint32_t n, const tn_bias *bias)
{
    for (uint32_t o = 0; o < 3; o++) {
        tn_sampling *p = script_out(&m->s, 0);
        p->presence = 1000;
        p->repetition = 1;
        p->history = history + o * LONG;
        p->nhistory = n;
        p->bias = o == 1 ? bias : NULL;
        p->nbias = o == 1 ? 2 : 0;
    }
}

static void test_long_histories(void **state)
{
    tn_limits l = plain_limits();
    int32_t token[2][3];
    int32_t *history = calloc(3 * LONG, sizeof *history);
    const tn_bias bias[2] = {{3, 0.25f}, {150, 2000}};
    uint32_t *mask = calloc(7, sizeof *mask);
    (void)state;
    l.context_max = 1 << 20;
    l.outs_max = 4;
    model *m = open_small(&l);
    for (uint32_t turn = 0; turn < 2; turn++) {
        for (uint32_t o = 0; o < 3; o++)   /* what stands at the end alone matters */
            for (uint32_t i = 0; i < LONG; i++)
                history[o * LONG + i] = turn == 0 || i + 50 >= LONG ? (int32_t)(o * 50 + i % 50) : -1;
        script_open(&m->s, m->number++);
        script_add(&m->s, (const int32_t[]){7}, 1, 0, NULL, SCRIPT_NBLOCK);
        ask_without(m, turn == 0 ? history + LONG - 50 : history, turn == 0 ? 50 : LONG, bias);
        tn_sampling *p = script_out(&m->s, 0);
        memset(mask, 0, 7 * sizeof *mask);
        mask[5] = 1u << 20;
        p->mask = mask;
        const tn_results *r = script_run(&m->d, m->program, &m->s.step);
        for (uint32_t o = 0; o < 3; o++)
            token[turn][o] = r->result[o].token;
        assert_int_equal(r->result[3].token, 5 * 32 + 20);
    }
    assert_int_equal(token[1][1], 150);
    for (uint32_t o = 0; o < 3; o++) {
        assert_int_equal(token[0][o], token[1][o]);
        assert_true(o == 1 || token[1][o] / 50 != (int32_t)o);
    }
    model_close(m);
    free(history);
    free(mask);
}

/* What goes beside the parcel costs pinned memory no longer. */
static void test_pinned_memory_is_bounded(void **state)
{
    fx_device d = {0};
    fixture *f = fx_new(1);
    tn_err err;
    tn_need need;
    void *program;
    (void)state;
    fx_build_llama(f, &small);
    fx_device_open(&d, &tn_plugin_entry, 1, NULL);
    tn_limits l = plain_limits();
    l.context_max = 262144;
    l.outs_max = 64;
    assert_int_equal(d.table->compile(d.dev, &f->recipe, &l, &program, &need, &err), TN_OK);
    assert_true(need.host_bytes < 64u << 20);
    d.table->release(program);
    fx_device_close(&d);
    fx_free(f);
}

/* ----------------------------------------------------------------------- experts of the host */

static const fx_llama mixture = {.layers = 2, .hidden = 128, .ffn = 64, .q_heads = 2, .kv_heads = 1,
                                 .dim = 64, .vocab = 200, .context = 1024, .form = TN_FORM_W4G,
                                 .group = 32, .flags = FX_ZEROS | FX_PERM,
                                 .head_form = TN_FORM_F16, .nexpert = 8, .ntop = 2};

/* What the card and the host say a program takes, and what it computes. */
typedef struct taken {
    tn_need need;
    uint64_t card;             /* taken by reserve */
    float logit[3][200];
} taken;

static void run_mixture(uint32_t place, uint32_t role, uint32_t kib, taken *t)
{
    fx_device d = {.mapped_kib = kib};
    tn_limits l = plain_limits();
    tn_err err;
    void *program;
    fixture *f = fx_new(21);
    fx_build_llama(f, &mixture);
    for (uint32_t i = 0; i < f->recipe.nweight; i++)
        if (f->weight[i].role == role)
            f->weight[i].place = place;
    fx_device_open(&d, &tn_plugin_entry, 2, NULL);
    t->need = (tn_need){.size = sizeof t->need};
    assert_int_equal(d.table->compile(d.dev, &f->recipe, &l, &program, &t->need, &err), TN_OK);
    d.table->release(program);
    uint64_t before = memory_free(&d);
    program = fx_program(&d, f, &l, 8, 0);
    t->card = before - memory_free(&d) - 8 * t->need.block_bytes;
    script *s = calloc(1, sizeof *s);
    int32_t token[40];
    script_tokens(token, 40, 200);
    script_open(s, 0);
    script_add(s, token, 37, 0, NULL, 8);
    script_out(s, 0);
    script_out(s, 35);
    script_out(s, 36);
    script_run(&d, program, &s->step);
    assert_int_equal(d.table->peek(program, fx_buffer_named(f, "logits"), 0, 3, t->logit[0], &err),
                     TN_OK);
    free(s);
    d.table->release(program);
    assert_int_equal(memory_free(&d), before);
    fx_device_close(&d);
    fx_free(f);
}

/* None of the experts on the card, some, all: the budget says where they are, reserve takes what
 * it says, and the numbers are those of a card that holds everything. */
static void test_experts_in_host_memory(void **state)
{
    static taken all, t;
    const uint64_t slack = 8192;
    (void)state;
    run_mixture(TN_PLACE_DEVICE, TN_ROLE_EXPERTS, 0, &all);
    assert_true(all.card <= all.need.weight_bytes + all.need.workspace_bytes + slack);
    run_mixture(TN_PLACE_HOST, TN_ROLE_EXPERTS, 0, &t);
    uint64_t experts = all.need.weight_bytes - t.need.weight_bytes;
    assert_true(experts > 2 * 8 * (128 * 64 * 3) / 2);
    assert_int_equal(t.need.host_bytes - all.need.host_bytes, experts);
    assert_true(t.card + experts <= all.card + slack && t.card + experts + slack >= all.card);
    assert_memory_equal(t.logit, all.logit, sizeof t.logit);
    run_mixture(TN_PLACE_HOST, TN_ROLE_EXPERTS, (uint32_t)(experts / 2048), &t);
    assert_true(t.card + experts / 4 < all.card && t.card + experts * 3 / 4 > all.card - slack);
    assert_memory_equal(t.logit, all.logit, sizeof t.logit);
    run_mixture(TN_PLACE_HOST, TN_ROLE_EXPERTS, (uint32_t)(experts / 1024 + 1), &t);
    assert_true(t.card <= all.card + slack && t.card + slack >= all.card);
    assert_memory_equal(t.logit, all.logit, sizeof t.logit);
}

/* Other weights, and experts that are to stay in their file, are refused. */
static void test_other_places(void **state)
{
    static const struct { uint32_t place, role; const char *words; } c[] = {
        {TN_PLACE_HOST, TN_ROLE_DENSE, "is to stay outside the card"},
        {TN_PLACE_MAPPED, TN_ROLE_EXPERTS, "is to stay in its file"},
    };
    (void)state;
    for (uint32_t k = 0; k < 2; k++) {
        fx_device d = {0};
        tn_limits l = plain_limits();
        tn_err err;
        void *program;
        fixture *f = fx_new(21);
        fx_build_llama(f, &mixture);
        for (uint32_t i = 0; i < f->recipe.nweight; i++)
            if (f->weight[i].role == c[k].role)
                f->weight[i].place = c[k].place;
        fx_device_open(&d, &tn_plugin_entry, 1, NULL);
        assert_int_equal(d.table->compile(d.dev, &f->recipe, &l, &program, NULL, &err),
                         TN_UNSUPPORTED);
        assert_non_null(strstr(err.text, c[k].words));
        fx_device_close(&d);
        fx_free(f);
    }
}

/* -------------------------------------------------------------------------------------- peek */

static void test_peek_at_what_is_fused(void **state)
{
    (void)state;
    for (uint32_t profile = 0; profile < 2; profile++) {
        tn_limits l = plain_limits();
        tn_err err;
        float x[256];
        l.profile = profile;
        model *m = open_small(&l);
        step_of(m, 1, 1, 0);
        uint32_t gate_up = fx_buffer_named(m->f, "gu");
        tn_status st = m->d.table->peek(m->program, gate_up, 0, 1, x, &err);
        assert_int_equal(st, profile != 0 ? TN_OK : TN_UNSUPPORTED);
        assert_true(profile != 0 || strstr(err.text, "gu is never formed") != NULL);
        assert_int_equal(m->d.table->peek(m->program, m->logits, 0, 1, x, &err), TN_OK);
        model_close(m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reserve_again), cmocka_unit_test(test_packing_takes_nothing),
        cmocka_unit_test(test_graphs_make_room), cmocka_unit_test(test_long_histories),
        cmocka_unit_test(test_pinned_memory_is_bounded),
        cmocka_unit_test(test_experts_in_host_memory), cmocka_unit_test(test_other_places),
        cmocka_unit_test(test_peek_at_what_is_fused),
    };
    return cmocka_run_group_tests_name("cuda memory", tests, NULL, NULL);
}
