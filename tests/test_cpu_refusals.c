/* SPDX-License-Identifier: Apache-2.0 */
/* test_cpu_refusals.c - what the cpu device says no to: recipes, limits and steps that do not
 * fit, memory that is not there, readers that fail. Recipes and steps are also changed at
 * random: each is refused with a sentence or runs without touching what it should not (which
 * is for the sanitizers to see). */
#include "step_script.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

extern const tn_plugin tn_plugin_entry;

static const fx_llama tiny = {
    .layers = 1, .hidden = 32, .ffn = 48, .q_heads = 4, .kv_heads = 2, .dim = 8, .vocab = 70,
    .context = 128, .form = TN_FORM_W8G, .group = 16, .head_form = TN_FORM_F16,
};

static tn_limits small_limits(void)
{
    tn_limits l = script_limits();
    l.rows_max = 24;
    l.seqs_max = 4;
    l.outs_max = 6;
    l.blocks_max = 64;
    l.context_max = 128;
    l.profile = 0;
    return l;
}

/* Everything in one recipe: attention, delta rule, experts, and all small operations. */
static fixture *everything(uint64_t seed)
{
    fixture *f = fx_new(seed);
    fx_llama m = tiny;
    m.nexpert = 5;
    m.ntop = 2;
    m.qk_norm = 1;
    fx_build_llama(f, &m);
    f->recipe.nsection = 0;
    uint32_t nhead = 5, head0 = f->recipe.nop - nhead; /* pick .. sample go behind the rest */
    tn_op head[5];
    memcpy(head, f->op + head0, sizeof head);
    f->recipe.nop = head0;
    uint32_t x = fx_buffer_named(f, "x");
    uint32_t qkv = fx_buffer(f, TN_ROWS_TOKENS, 4 * 8 + 2 * 16 + 16 + 4, "delta_in");
    uint32_t out = fx_buffer(f, TN_ROWS_TOKENS, 16, "delta_out");
    uint32_t wide = fx_buffer(f, TN_ROWS_TOKENS, 48, "wide");
    uint32_t copy = fx_buffer(f, TN_ROWS_TOKENS, 48, "copy");
    tn_op_linear in = {.size = sizeof in, .in = x, .nparts = 1};
    in.part[0] = (tn_part){.out = qkv, .bias = TN_NONE};
    in.part[0].w = fx_matrix(f, TN_ROLE_DENSE, f->buffer[qkv].width, 32, TN_FORM_F16, 0, 0);
    fx_op(f, TN_OP_LINEAR, &in, "delta_in");
    f->state[0] = (tn_state_spec){.size = sizeof(tn_state_spec), .heads = 2, .k_dim = 8,
                                  .v_dim = 8, .conv_width = 48, .conv_keep = 3};
    f->recipe.nstate = 1;
    tn_op_delta d = {.size = sizeof d, .qkv = qkv, .z = qkv, .z_col = 48, .a = qkv, .a_col = 64,
                     .b = qkv, .b_col = 66, .out = out, .k_heads = 2, .v_heads = 2, .k_dim = 8,
                     .v_dim = 8, .w_conv_bias = TN_NONE, .gate_act = TN_ACT_SILU, .eps = 1e-6f};
    d.w_conv = fx_vector(f, 48 * 4, TN_FORM_F32, -0.5f, 0.5f);
    d.w_a_log = fx_vector(f, 2, TN_FORM_F32, -1, 1);
    d.w_dt_bias = fx_vector(f, 2, TN_FORM_F32, -1, 1);
    d.w_norm = fx_vector(f, 8, TN_FORM_F32, 0.5f, 1.5f);
    fx_op(f, TN_OP_DELTA, &d, "delta");
    tn_op_concat cat = {.size = sizeof cat, .a = x, .a_width = 32, .b = out, .b_width = 16,
                        .out = wide};
    fx_op(f, TN_OP_CONCAT, &cat, "concat");
    tn_op_gather gather = {.size = sizeof gather, .in = wide, .width = 48, .out = copy};
    fx_op(f, TN_OP_GATHER, &gather, "gather");
    tn_op_mix mix = {.size = sizeof mix, .in = copy, .in_col = 16, .out = x, .width = 32,
                     .gate = out, .add = 1, .scale = 0.1f};
    fx_op(f, TN_OP_MIX, &mix, "mix");
    memcpy(f->op + f->recipe.nop, head, sizeof head);
    f->recipe.nop += nhead;
    fx_section(f);
    return f;
}

static void fill_step(script *s, uint64_t number)
{
    script_open(s, number);
    for (int32_t i = 0; i < 3; i++) {
        int32_t token[5] = {1, 2, 3, 4, 5}, blocks[2] = {2 * i, 2 * i + 1};
        tn_seq *q = script_add(s, token, i == 1 ? 1 : 5, 0, blocks, 2);
        q->state_in = q->state_out = i;
        q->flags = TN_SEQ_FRESH;
        script_out(s, q->row0);
    }
    script_pad(s, 7);
}

/* --------------------------------------------------------------------------- one by one */

typedef struct bad_recipe {
    void (*spoil)(fixture *f, tn_limits *l);
    const char *words;            /* that the sentence holds, separated by | */
} bad_recipe;

static void *args_of(fixture *f, const char *name)
{
    for (uint32_t i = 0; i < f->recipe.nop; i++)
        if (strcmp(f->op[i].name, name) == 0)
            return (void *)(uintptr_t)f->op[i].args;
    fail_msg("no operation %s", name);
    return NULL;
}

static tn_op *op_named(fixture *f, const char *name)
{
    for (uint32_t i = 0; i < f->recipe.nop; i++)
        if (strcmp(f->op[i].name, name) == 0)
            return &f->op[i];
    fail_msg("no operation %s", name);
    return NULL;
}

#define SPOIL(name, body) static void name(fixture *f, tn_limits *l) { (void)f; (void)l; body; }

SPOIL(unknown_op, op_named(f, "down")->kind = 77)
SPOIL(no_args, free(args_of(f, "down")); op_named(f, "down")->args = NULL)
SPOIL(short_args, ((tn_op_linear *)args_of(f, "qkv"))->size = 12)
SPOIL(bad_buffer, ((tn_op_linear *)args_of(f, "qkv"))->in = 900)
SPOIL(bad_weight, ((tn_op_linear *)args_of(f, "qkv"))->part[1].w = 900)
SPOIL(too_wide, ((tn_op_linear *)args_of(f, "qkv"))->part[2].col = 60)
SPOIL(no_parts, ((tn_op_linear *)args_of(f, "qkv"))->nparts = 0)
SPOIL(other_rows, f->buffer[fx_buffer_named(f, "h")].rows = TN_ROWS_OUTS)
SPOIL(in_place, ((tn_op_linear *)args_of(f, "down"))->part[0].out = fx_buffer_named(f, "ff"))
SPOIL(bad_act, ((tn_op_act_mul *)args_of(f, "act"))->act = 9)
SPOIL(bad_cache, ((tn_op_attend *)args_of(f, "attend"))->cache = 1)
SPOIL(bad_heads, ((tn_op_attend *)args_of(f, "attend"))->kv_heads = 3)
SPOIL(short_rope, f->rope[0].npos = 100)
SPOIL(odd_rope, f->rope[0].dims = 7)
SPOIL(long_rope, f->rope[0].dims = 16)
SPOIL(unwritten, f->op[0].kind = TN_OP_PICK; (void)0)
SPOIL(no_sample, free(args_of(f, "sample")); f->recipe.nop--; f->section[0].nop--)
SPOIL(mapped, f->weight[0].place = TN_PLACE_MAPPED)
SPOIL(f8_cache, l->cache_dtype = TN_F8_E4M3)
SPOIL(no_rows, l->rows_max = 0)
SPOIL(no_comm, l->nrank = 4)
SPOIL(no_section, f->recipe.nsection = 0)
SPOIL(wide_buffer, f->buffer[0].width = 1u << 25)
SPOIL(odd_group, f->weight[2].form.cols = 31)
SPOIL(huge_weight, f->weight[2].n = 1ull << 40)
SPOIL(no_vector, ((tn_op_norm *)args_of(f, "norm"))->w = 0)
SPOIL(lonely_private, f->weight[2].form.kind = TN_FORM_PRIVATE)
SPOIL(unknown_form, f->weight[2].form.kind = 42)
SPOIL(bad_role, f->weight[2].role = 42)
SPOIL(no_array, f->recipe.weight = NULL)

static void test_sentences(void **state)
{
    static const bad_recipe bad[] = {
        {unknown_op, "down|77"}, {no_args, "down|LINEAR"}, {bad_buffer, "qkv|LINEAR|900"},
        {short_args, "qkv|12 bytes"},
        {bad_weight, "qkv|900"}, {too_wide, "qkv|64"}, {no_parts, "qkv|0 parts"},
        {other_rows, "h|output rows"}, {in_place, "down|twice"}, {bad_act, "act|9"},
        {bad_cache, "attend|cache 1"}, {bad_heads, "attend|3"}, {short_rope, "100|128"},
        {odd_rope, "rotary|7"}, {long_rope, "16|8"}, {unwritten, "embed"},
        {no_sample, "logits|SAMPLE"}, {mapped, "weight|file map"}, {f8_cache, "f8_e4m3"},
        {no_rows, "rows_max|0"}, {no_comm, "communicator|4"}, {no_section, "sections"},
        {wide_buffer, "width|33554432"}, {odd_group, "31"}, {huge_weight, "impossible shape"},
        {no_vector, "norm|vector"}, {lonely_private, "multiply|cpu"}, {unknown_form, "42"},
        {bad_role, "role"}, {no_array, "weights|array"},
    };
    fx_device d = {0};
    (void)state;
    fx_device_open(&d, &tn_plugin_entry, 1, "auto");
    for (uint32_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        fixture *f = fx_new(1);
        tn_limits l = small_limits();
        tn_need need;
        tn_err err = {.text = ""};
        void *program = NULL;
        char words[64];
        fx_build_llama(f, &tiny);
        bad[i].spoil(f, &l);
        int64_t live = d.live;
        tn_status st = d.table->compile(d.dev, &f->recipe, &l, &program, &need, &err);
        if (st == TN_OK || program != NULL)
            fail_msg("case %u (%s) was compiled", i, bad[i].words);
        assert_int_equal(d.live, live);
        snprintf(words, sizeof words, "%s", bad[i].words);
        for (char *save, *w = strtok_r(words, "|", &save); w; w = strtok_r(NULL, "|", &save))
            if (strstr(err.text, w) == NULL)
                fail_msg("case %u: \"%s\" does not say \"%s\"", i, err.text, w);
        f->op[0].kind = TN_OP_EMBED;
        fx_free(f);
    }
    fx_device_close(&d);
}

/* Options, devices, order of calls. */
static void test_calls(void **state)
{
    fx_device d = {0};
    tn_err err;
    (void)state;
    assert_int_equal(fx_device_try(&d, &tn_plugin_entry, 1, "quantum", &err), TN_UNAVAILABLE);
    fx_device_open(&d, &tn_plugin_entry, 2, "auto");
    void *dev;
    assert_int_equal(d.table->open(d.self, 1, &dev, &err), TN_UNAVAILABLE);
    fixture *f = everything(1);
    tn_limits l = small_limits();
    tn_need need;
    tn_pools pools = {.size = sizeof pools, .nblock = 8, .nslot = 4}, none = {.size = sizeof none};
    void *program;
    assert_int_equal(d.table->compile(d.dev, &f->recipe, &l, &program, &need, &err), TN_OK);
    assert_int_equal(need.cache_dtype, TN_F16);
    assert_int_equal(need.block_bytes, 16 * 2 * 2 * 8 * 2);
    assert_int_equal(need.slot_bytes, (2 * 8 * 8 + 3 * 48) * 4);
    assert_int_equal(d.table->state_size(program), need.slot_bytes);
    script *s = calloc(1, sizeof *s);
    const tn_results *results;
    tn_reader reader = fx_reader(f, 0);
    fill_step(s, 5);
    assert_int_equal(d.table->pack(program, 0, &reader, &err), TN_INTERNAL);
    assert_int_equal(d.table->run(program, &s->step, &err), TN_INTERNAL);
    assert_int_equal(d.table->reserve(program, &none, &err), TN_CONFIG);
    pools.nblock = 0x7fffffff;
    assert_int_equal(d.table->reserve(program, &pools, &err), TN_NO_MEMORY);
    pools.nblock = 8;
    assert_int_equal(d.table->reserve(program, &pools, &err), TN_OK);
    assert_int_equal(d.table->reserve(program, &pools, &err), TN_INTERNAL);
    assert_int_equal(d.table->run(program, &s->step, &err), TN_INTERNAL);
    assert_non_null(strstr(err.text, "packed"));
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < f->recipe.nweight; i++) {
        reader = fx_reader(f, i);
        assert_int_equal(d.table->pack(program, i, &reader, &err), TN_OK);
        bytes += d.table->weight_bytes(program, i);
    }
    assert_true(bytes > 0 && bytes <= need.weight_bytes);
    assert_int_equal(d.table->pack(program, f->recipe.nweight, &reader, &err), TN_INTERNAL);
    assert_int_equal(d.table->wait(program, 5, 0, &results, &err), TN_INTERNAL);
    script_run(&d, program, &s->step);
    assert_int_equal(d.table->wait(program, 6, 1, &results, &err), TN_INTERNAL);
    float one;
    assert_int_equal(d.table->peek(program, 0, 0, 1, &one, &err), TN_UNSUPPORTED);
    float slot[128 + 144], other[128 + 144];
    assert_int_equal(d.table->state_read(program, 0, slot, &err), TN_OK);
    assert_int_equal(d.table->state_copy(program, 0, 3, &err), TN_OK);
    assert_int_equal(d.table->state_read(program, 3, other, &err), TN_OK);
    assert_memory_equal(slot, other, sizeof slot);
    other[0] += 1;
    assert_int_equal(d.table->state_write(program, 3, other, &err), TN_OK);
    assert_int_equal(d.table->state_read(program, 3, slot, &err), TN_OK);
    assert_memory_equal(slot, other, sizeof slot);
    assert_int_equal(d.table->state_read(program, 4, slot, &err), TN_INTERNAL);
    assert_int_equal(d.table->state_write(program, -1, slot, &err), TN_INTERNAL);
    tn_device_info info = {.size = sizeof info};
    assert_int_equal(d.table->info(d.dev, &info, &err), TN_OK);
    assert_true(info.memory_total > info.memory_free && info.memory_free > 0);
    assert_non_null(strstr(info.name, "2 threads"));
    void *memory;
    assert_int_equal(d.table->mem_take(d.dev, 100, &memory, &err), TN_OK);
    assert_int_equal(d.table->mem_copy(d.dev, memory, slot, 100, &err), TN_OK);
    assert_memory_equal(memory, slot, 100);
    d.table->mem_give(d.dev, memory);
    assert_null(d.table->stream(d.dev));
    free(s);
    d.table->release(program);
    fx_device_close(&d);
    assert_int_equal(d.live, 0);
    fx_free(f);
}

/* A row that cannot be read ends the packing of its weight with the reader's own words. */
static void test_reader_fails(void **state)
{
    fx_device d = {0};
    (void)state;
    fx_device_open(&d, &tn_plugin_entry, 3, "auto");
    for (uint32_t w = 0; w < 8; w++) {
        fixture *f = everything(w);
        tn_limits l = small_limits();
        tn_err err = {.text = ""};
        void *program;
        int64_t live = d.live;
        f->data[w].fail_row = (int64_t)f->weight[w].n - 1;
        assert_int_equal(fx_program_try(&d, f, &l, 4, 1, &program, &err), TN_DATA);
        assert_non_null(strstr(err.text, "is broken"));
        assert_int_equal(d.live, live);
        fx_free(f);
    }
    fx_device_close(&d);
}

static void test_no_memory(void **state)
{
    (void)state;
    for (uint64_t at = 1;; at++) {
        fx_device d = {.fail_at = at};
        fixture *f = everything(1);
        tn_limits l = small_limits();
        tn_err err;
        void *program;
        tn_status st = fx_device_try(&d, &tn_plugin_entry, 2, "auto", &err);
        bool opened = st == TN_OK;
        if (opened)
            st = fx_program_try(&d, f, &l, 4, 1, &program, &err);
        if (st == TN_OK)
            d.table->release(program);
        else
            assert_int_equal(st, TN_NO_MEMORY);
        if (opened)
            fx_device_close(&d);
        assert_int_equal(d.live, 0);
        fx_free(f);
        if (st == TN_OK) {
            assert_true(at > 20);
            return;
        }
    }
}

/* -------------------------------------------------------------------------------- at random */

static uint32_t odd_number(fixture *f)
{
    static const uint32_t odd[] = {0, 1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 48, 64, 70, 100,
                                   128, 1000, 0x7fffffff, 0x80000000u, TN_NONE, 0xfffffff0u,
                                   0x3f800000, 0x7fc00000};
    uint64_t i = fx_bits(f) % 40;
    return i < sizeof odd / sizeof odd[0] ? odd[i] : (uint32_t)(fx_bits(f) % 20);
}

/* A number near the old one, or any. */
static uint32_t other_number(fixture *f, uint32_t old)
{
    static const int32_t step[] = {1, -1, 2, -2, 8, -8, 16, -16};
    return fx_bits(f) % 2 ? old + (uint32_t)step[fx_bits(f) % 8] : odd_number(f);
}

/* One number in an operation, a buffer, or (shapes only compile) a weight, table or cache. */
static bool spoil_something(fixture *f)
{
    uint32_t size;
    void *args = (void *)(uintptr_t)f->op[fx_bits(f) % f->recipe.nop].args;
    memcpy(&size, args, sizeof size);
    uint32_t *word = (uint32_t *)args + 1 + fx_bits(f) % (size / 4 - 1);
    tn_weight_spec *w = &f->weight[fx_bits(f) % f->recipe.nweight];
    tn_buffer *b = &f->buffer[fx_bits(f) % f->recipe.nbuffer];
    uint32_t *cache = (uint32_t *)&f->cache[0] + 1 + fx_bits(f) % 3;
    uint32_t *slots = (uint32_t *)&f->state[0] + 1 + fx_bits(f) % 5;
    switch (fx_bits(f) % 24) {
    case 0: b->width = other_number(f, b->width); return true;
    case 1: b->rows = other_number(f, b->rows); return true;
    case 2: b->dtype = other_number(f, b->dtype); return true;
    case 3: w->n = other_number(f, (uint32_t)w->n); return false;
    case 4: w->k = other_number(f, (uint32_t)w->k); return false;
    case 5: w->form.group = other_number(f, w->form.group); return false;
    case 6: w->form.cols = other_number(f, (uint32_t)w->form.cols); return false;
    case 7: w->form.kind = other_number(f, w->form.kind); return false;
    case 8: f->rope[0].dims = other_number(f, f->rope[0].dims); return true;
    case 9: *cache = other_number(f, *cache); return true;
    case 10: *slots = other_number(f, *slots); return true;
    case 11: w->nexpert = other_number(f, w->nexpert); return false;
    default: *word = other_number(f, *word); return true;
    }
}

static void test_random_recipes(void **state)
{
    fx_device d = {0};
    script *s = calloc(1, sizeof *s);
    uint32_t refused = 0, ran = 0;
    (void)state;
    fx_device_open(&d, &tn_plugin_entry, 2, "auto");
    for (uint32_t i = 0; i < 3000; i++) {
        fixture *f = everything(i);
        tn_limits l = small_limits();
        tn_err err = {.text = ""};
        tn_need need;
        void *program = NULL;
        int64_t live = d.live;
        bool runnable = true;
        l.profile = i % 2;
        for (uint32_t n = 1 + fx_bits(f) % 2; n > 0; n--)
            runnable = spoil_something(f) && runnable;
        tn_status st = d.table->compile(d.dev, &f->recipe, &l, &program, &need, &err);
        if (st != TN_OK) {
            assert_true(err.text[0] != 0);
            refused++;
        } else {
            d.table->release(program);
        }
        if (st == TN_OK && runnable && need.workspace_bytes < 64u << 20) {
            st = fx_program_try(&d, f, &l, 8, 4, &program, &err);
            if (st != TN_OK)
                fail_msg("case %u: %s", i, err.text);
            for (uint64_t number = 0; number < 2; number++) {
                fill_step(s, number);
                assert_int_equal(d.table->run(program, &s->step, &err), TN_OK);
            }
            d.table->release(program);
            ran++;
        }
        assert_int_equal(d.live, live);
        fx_free(f);
    }
    if (refused < 500 || ran < 300)
        fail_msg("%u refused, %u ran", refused, ran);
    free(s);
    fx_device_close(&d);
}

static void test_random_steps(void **state)
{
    fx_device d = {0};
    fixture *f = everything(1);
    tn_limits l = small_limits();
    script *s = calloc(1, sizeof *s);
    uint32_t refused = 0, ran = 0;
    (void)state;
    fx_device_open(&d, &tn_plugin_entry, 2, "auto");
    void *program = fx_program(&d, f, &l, 8, 4);
    for (uint32_t i = 0; i < 20000; i++) {
        tn_err err = {.text = ""};
        fill_step(s, i);
        for (uint32_t n = fx_bits(f) % 3; n > 0; n--) {
            int32_t v = (int32_t)odd_number(f);
            tn_seq *q = &s->seq[fx_bits(f) % 3];
            uint32_t r = (uint32_t)(fx_bits(f) % 11), o = (uint32_t)(fx_bits(f) % 3);
            switch (fx_bits(f) % 16) {
            case 0: q->row0 = v; break;
            case 1: q->nrow = v; break;
            case 2: q->context = v; break;
            case 3: q->block0 = (uint32_t)v; break;
            case 4: q->state_in = v; q->flags = 0; break;
            case 5: q->state_out = v; break;
            case 6: q->accepted = v; break;
            case 7: s->block[fx_bits(f) % 6] = v; break;
            case 8: s->token[r] = v; break;
            case 9: s->row_seq[r] = v; break;
            case 10: s->out[o].row = v; break;
            case 11: s->out[o].sampling = NULL; break;
            case 12: s->sampling[o].ntop = (uint32_t)v; break;
            case 13: s->sampling[o].flags = TN_SAMPLE_SCORE; s->sampling[o].target = v; break;
            case 14: ((uint32_t *)&s->step)[1 + fx_bits(f) % 6] = (uint32_t)v; break;
            default: s->sampling[o].top_k = v; s->sampling[o].flags = 0; break;
            }
        }
        tn_status st = d.table->run(program, &s->step, &err);
        assert_true(st == TN_OK || err.text[0] != 0);
        refused += st != TN_OK;
        ran += st == TN_OK;
    }
    assert_true(refused > 3000 && ran > 5000);
    free(s);
    d.table->release(program);
    fx_device_close(&d);
    fx_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sentences), cmocka_unit_test(test_calls),
        cmocka_unit_test(test_reader_fails), cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_random_recipes), cmocka_unit_test(test_random_steps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
