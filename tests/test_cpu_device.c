/* SPDX-License-Identifier: Apache-2.0 */
/* test_cpu_device.c - every operation of the cpu device against recipe_reference.c, over odd
 * shapes, in steps of one row, of a few and of many, beside padding. */
#include "step_script.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

extern const tn_plugin tn_plugin_entry;

#define NSLOT 16u
#define PER_SEQ 40u              /* blocks of a sequence */

/* ------------------------------------------------------------------------------ comparing */

/* |device - reference| / |reference| over all rows of a buffer. */
static double distance(fx_device *d, void *program, const fixture *f, const reference *r,
                       uint32_t buffer, uint32_t rows)
{
    tn_err err;
    uint32_t width = f->buffer[buffer].width;
    float *x = malloc(((uint64_t)rows * width + 1) * sizeof *x);
    double diff = 0, size = 0;
    if (d->table->peek(program, buffer, 0, rows, x, &err) != TN_OK)
        fail_msg("peek: %s", err.text);
    for (uint32_t i = 0; i < rows; i++)
        for (uint32_t j = 0; j < width; j++) {
            double want = ref_row(r, buffer, i)[j], got = (double)x[(uint64_t)i * width + j];
            if (isinf(want) && got == want)
                continue;
            diff += (want - got) * (want - got);
            size += want * want;
        }
    free(x);
    if (!isfinite(diff))
        return INFINITY;
    return size > 0 ? sqrt(diff / size) : sqrt(diff);
}

static void check_near(fx_device *d, void *program, const fixture *f, const reference *r,
                       uint32_t buffer, uint32_t rows, double bound)
{
    double got = distance(d, program, f, r, buffer, rows);
    if (!(got <= bound))
        fail_msg("buffer %s, %u rows, %u wide, %s: off by %g, at most %g",
                 f->buffer[buffer].name, rows, f->buffer[buffer].width, d->isa, got, bound);
}

/* Runs the recipe of `f` on rows of random tokens, `sizes` of them per sequence with 0 ending
 * the list, and holds buffer `out` against the reference. The step is run three times, each
 * behind the one before; odd sequences move to another state slot the second time. `d` says how
 * the device is opened. */
static void check_op_on(fx_device d, fixture *f, uint32_t out, const int32_t *sizes,
                        uint32_t exact, double bound, int64_t threads, const char *isa)
{
    tn_limits l = script_limits();
    l.exact = exact;
    fx_section(f);
    fx_device_open(&d, &tn_plugin_entry, threads, isa);
    void *program = fx_program(&d, f, &l, PER_SEQ * 6, NSLOT);
    reference *r = ref_new(f, l.rows_max, SCRIPT_BLOCK, PER_SEQ * 6, NSLOT);
    script *s = calloc(1, sizeof *s);
    uint32_t vocab = f->recipe.vocab > 0 ? f->recipe.vocab : 64;
    for (uint64_t turn = 0; turn < 3; turn++) {
        script_open(s, turn);
        for (uint32_t i = 0; sizes[i] != 0; i++) {
            int32_t token[256], blocks[PER_SEQ];
            int32_t n = sizes[i] < 0 ? 1 : sizes[i], context = n * (int32_t)turn;
            for (int32_t j = 0; j < n; j++)
                token[j] = (int32_t)(fx_bits(f) % vocab);
            for (uint32_t j = 0; j < PER_SEQ; j++)
                blocks[j] = (int32_t)(i * PER_SEQ + (j * 7 + 3) % PER_SEQ);
            if (sizes[i] < 0) {
                script_pad(s, token[0]);
                continue;
            }
            tn_seq *q = script_add(s, token, n, context, blocks, PER_SEQ);
            q->state_in = turn == 0 ? -1 : (int32_t)(turn > 1 && i % 2 == 1 ? i + 8 : i);
            q->state_out = (int32_t)(turn > 0 && i % 2 == 1 ? i + 8 : i);
            q->flags = turn > 0 ? 0 : TN_SEQ_FRESH;
            script_out(s, q->row0);
            script_out(s, q->row0 + n - 1);
        }
        ref_step(r, &s->step);
        script_run(&d, program, &s->step);
        uint32_t kind = f->buffer[out].rows;
        check_near(&d, program, f, r, out, kind == TN_ROWS_TOKENS ? s->step.nrow : s->step.nout,
                   bound);
    }
    free(s);
    ref_free(r);
    d.table->release(program);
    fx_device_close(&d);
    fx_free(f);
}

static void check_op(fixture *f, uint32_t out, const int32_t *sizes, uint32_t exact,
                     double bound, int64_t threads, const char *isa)
{
    check_op_on((fx_device){0}, f, out, sizes, exact, bound, threads, isa);
}

static const int32_t one[] = {1, 0}, few[] = {3, -1, 1, 2, 0}, many[] = {37, 1, -1, 64, 5, 0};
static const int32_t longs[] = {70, 180, 0}; /* over several runs of attention */
static const int32_t *const batches[] = {one, few, many, longs};

/* A recipe that begins with random rows in buffer x. */
static fixture *with_input(uint64_t seed, uint32_t width, uint32_t *x)
{
    fixture *f = fx_new(seed);
    f->recipe.vocab = 64;
    *x = fx_buffer(f, TN_ROWS_TOKENS, width, "x");
    tn_op_embed op = {.size = sizeof op, .out = *x, .scale = 4};
    op.w = fx_matrix(f, TN_ROLE_EMBED, 64, width, TN_FORM_F32, 0, 0);
    fx_op(f, TN_OP_EMBED, &op, "embed");
    return f;
}

/* ----------------------------------------------------------------------------- operations */

static void test_embed(void **state)
{
    const struct { uint32_t form, group, flags, requant; double bound; } c[] = {
        {TN_FORM_F32, 0, 0, 0, 1e-7}, {TN_FORM_F16, 0, 0, 0, 1e-7}, {TN_FORM_BF16, 0, 0, 0, 1e-7},
        {TN_FORM_W4G, 32, FX_ZEROS, 0, 1e-6}, {TN_FORM_W8G, 64, FX_SCALE16, 0, 1e-6},
        {TN_FORM_F16, 0, 0, TN_FORM_W8G, 6e-3},
    };
    (void)state;
    for (uint32_t i = 0; i < sizeof c / sizeof c[0]; i++) {
        fixture *f = fx_new(i);
        f->recipe.vocab = 100;    /* tokens below 20 and from 83 on belong to other ranks */
        uint32_t x = fx_buffer(f, TN_ROWS_TOKENS, 70, "x");
        tn_op_embed op = {.size = sizeof op, .out = x, .scale = 3, .first = 20};
        op.w = fx_matrix(f, TN_ROLE_EMBED, 63, 70, c[i].form, c[i].group, c[i].flags);
        f->weight[op.w].requant = c[i].requant;
        fx_op(f, TN_OP_EMBED, &op, "embed");
        check_op(f, x, batches[i % 3], 0, c[i].bound, 2, "auto");
    }
}

static void test_norm(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 3; i++) {
        uint32_t x;
        fixture *f = with_input(i, 120, &x);
        uint32_t y = fx_buffer(f, TN_ROWS_TOKENS, 125, "y");
        tn_op_norm fill = {.size = sizeof fill, .in = x, .out = y, .w = TN_NONE, .width = 120,
                           .groups = 1, .eps = 1e-6f};
        fx_op(f, TN_OP_NORM, &fill, "fill");
        tn_op_norm op = {.size = sizeof op, .in = x, .in_col = 8, .out = y, .out_col = 5,
                         .width = i == 0 ? 112 : 16, .groups = i == 0 ? 1 : 7, .eps = 1e-5f,
                         .offset = i == 2 ? 1 : 0, .w = TN_NONE};
        if (i > 0)
            op.w = fx_vector(f, op.width, TN_FORM_BF16, -0.5f, 0.5f);
        fx_op(f, TN_OP_NORM, &op, "norm");
        check_op(f, y, batches[i], 0, 1e-6, 2, "auto");
    }
}

typedef struct linear_case {
    uint32_t form, group, flags, n, k;
    double exact, fast;
} linear_case;

static const linear_case linears[] = {
    {TN_FORM_F32, 0, 0, 33, 70, 1e-6, 1e-6},
    {TN_FORM_F16, 0, 0, 16, 64, 1e-6, 1e-6},
    {TN_FORM_BF16, 0, 0, 100, 33, 1e-6, 1e-6},
    {TN_FORM_W4G, 32, FX_ZEROS, 48, 96, 1e-6, 1.5e-2},
    {TN_FORM_W4G, 64, FX_SCALE16, 17, 128, 1e-6, 1.5e-2},
    {TN_FORM_W4G, 128, FX_ZEROS | FX_PERM | FX_SCALE16, 80, 256, 1e-6, 1.5e-2},
    {TN_FORM_W4G, 32, FX_ZEROS | FX_PERM | FX_PADDING, 64, 100, 1e-6, 1.5e-2},
    {TN_FORM_W8G, 32, FX_ZEROS, 50, 64, 1e-6, 1.5e-2},
    {TN_FORM_W8G, 128, FX_PERM, 16, 128, 1e-6, 1.5e-2},
    {TN_FORM_PRIVATE, 0, 0, 37, 65, 1e-6, 1e-6},
};

/* Two parts with different forms beside each other, bias, residual. */
static void build_linear(fixture *f, const linear_case *a, const linear_case *b, uint32_t x,
                         uint32_t y, bool bias, bool add)
{
    tn_op_linear op = {.size = sizeof op, .in = x, .in_col = 3, .nparts = 2, .add = add};
    op.part[0] = (tn_part){.out = y, .col = 2, .bias = TN_NONE};
    op.part[0].w = fx_matrix(f, TN_ROLE_DENSE, a->n, a->k, a->form, a->group, a->flags);
    op.part[1] = (tn_part){.out = y, .col = 2 + a->n, .bias = TN_NONE};
    op.part[1].w = fx_matrix(f, TN_ROLE_DENSE, 24, a->k,
                             b->group > 0 && a->k % b->group != 0 ? TN_FORM_F16 : b->form,
                             b->group, b->flags);
    if (bias)
        op.part[1].bias = fx_vector(f, 24, TN_FORM_F32, -1, 1);
    if (bias)
        op.part[0].bias = fx_vector(f, a->n, TN_FORM_F16, -1, 1);
    fx_op(f, TN_OP_LINEAR, &op, "linear");
}

static void test_linear(void **state)
{
    (void)state;
    const uint32_t n = sizeof linears / sizeof linears[0];
    for (uint32_t i = 0; i < n * 6; i++) {
        const linear_case *a = &linears[i % n], *b = &linears[(i * 7 + i / n) % n];
        bool norm = i % 2 == 0, exact = i / n % 2 == 0, bias = i % 3 == 0, add = i % 5 < 2;
        uint32_t x, h;
        fixture *f = with_input(i, a->k + 9, &x);
        uint32_t y = fx_buffer(f, TN_ROWS_TOKENS, a->n + 30, "y");
        tn_op_mix fill = {.size = sizeof fill, .in = x, .out = y, .width = 1, .gate = TN_NONE,
                          .scale = 1};
        fx_op(f, TN_OP_MIX, &fill, "fill");
        h = norm ? fx_buffer(f, TN_ROWS_TOKENS, a->k + 9, "h") : x;
        if (norm) {
            tn_op_norm op = {.size = sizeof op, .in = x, .in_col = 1, .out = h, .out_col = 3,
                             .width = a->k, .groups = 1, .eps = 1e-6f, .w = TN_NONE};
            fx_op(f, TN_OP_NORM, &op, "norm");
        }
        build_linear(f, a, b, h, y, bias, add);
        double bound = exact ? 2e-6 : 1.5e-2;
        check_op(f, y, batches[i % 3], exact, bound, 1 + i % 3, "auto");
    }
}

/* gate and up as two matrices or as one, with a width that ends inside a strip. */
static void test_gate_up(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 12; i++) {
        const linear_case *a = &linears[i % (sizeof linears / sizeof linears[0])];
        uint32_t x, width = i % 2 == 0 ? 80 : 75;
        bool stacked = i % 4 == 0;
        fixture *f = with_input(i, a->k, &x);
        uint32_t gu = fx_buffer(f, TN_ROWS_TOKENS, 2 * width, "gu");
        uint32_t y = fx_buffer(f, TN_ROWS_TOKENS, width, "y");
        tn_op_linear op = {.size = sizeof op, .in = x, .nparts = stacked ? 1 : 2};
        for (uint32_t j = 0; j < op.nparts; j++) {
            uint32_t n = stacked ? 2 * width : width;
            op.part[j] = (tn_part){.out = gu, .col = j * width, .bias = TN_NONE};
            op.part[j].w = fx_matrix(f, TN_ROLE_DENSE, n, a->k, a->form, a->group, a->flags);
            if (i % 3 == 0)
                op.part[j].bias = fx_vector(f, n, TN_FORM_F32, -1, 1);
        }
        fx_op(f, TN_OP_LINEAR, &op, "gate_up");
        tn_op_act_mul act = {.size = sizeof act, .in = gu, .out = y, .width = width,
                             .act = 1 + i % 3};
        act.a_col = i % 5 == 0 ? width : 0;
        act.b_col = width - act.a_col;
        fx_op(f, TN_OP_ACT_MUL, &act, "act");
        check_op(f, y, batches[i % 3], 1, 2e-6, 2, "auto");
    }
}

static void test_row_operations(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 3; i++) {
        uint32_t x;
        fixture *f = with_input(i, 96, &x);
        uint32_t y = fx_buffer(f, TN_ROWS_TOKENS, 96, "y");
        uint32_t z = fx_buffer(f, TN_ROWS_TOKENS, 96, "z");
        uint32_t out = fx_buffer(f, TN_ROWS_OUTS, 90, "out");
        uint32_t all = fx_buffer(f, TN_ROWS_OUTS, 90, "all");
        tn_op_act_mul act = {.size = sizeof act, .in = x, .a_col = 10, .b_col = 30, .out = y,
                             .width = 60, .act = 1 + i};
        fx_op(f, TN_OP_ACT_MUL, &act, "act");
        tn_op_mix mix = {.size = sizeof mix, .in = x, .in_col = 5, .out = y, .out_col = 7,
                         .width = 50, .gate = i > 0 ? x : TN_NONE, .gate_col = 95,
                         .add = i != 1, .scale = 0.5f};
        fx_op(f, TN_OP_MIX, &mix, "mix");
        tn_op_concat cat = {.size = sizeof cat, .a = y, .a_col = 3, .a_width = 40, .b = x,
                            .b_col = 20, .b_width = 56, .out = z};
        fx_op(f, TN_OP_CONCAT, &cat, "concat");
        tn_op_pick pick = {.size = sizeof pick, .in = z, .out = out, .width = 90};
        fx_op(f, TN_OP_PICK, &pick, "pick");
        tn_op_sum sum = {.size = sizeof sum, .x = out, .col = 1, .width = 80};
        fx_op(f, TN_OP_SUM, &sum, "sum");
        tn_op_gather gather = {.size = sizeof gather, .in = out, .width = 90, .out = all};
        fx_op(f, TN_OP_GATHER, &gather, "gather");
        check_op(f, all, batches[i], 0, 1e-6, 1 + i, "auto");
    }
}

static void test_attention(void **state)
{
    const struct {
        uint32_t q_heads, kv_heads, dim, dims, pairing, window, norm, gate;
        float softcap;
    } c[] = {
        {1, 1, 16, 16, TN_ROPE_HALF, 0, 0, 0, 0},
        {9, 3, 64, 64, TN_ROPE_HALF, 0, 0, 0, 0},
        {4, 4, 24, 8, TN_ROPE_PAIRS, 0, 1, 0, 0},
        {8, 1, 40, 40, TN_ROPE_HALF, 5, 0, 1, 0},
        {6, 2, 128, 64, TN_ROPE_HALF, 33, 1, 1, 20},
        {16, 2, 80, 0, 0, 16, 0, 0, 3},
    };
    (void)state;
    for (uint32_t i = 0; i < 4 * sizeof c / sizeof c[0]; i++) {
        uint32_t x, j = i % (sizeof c / sizeof c[0]);
        uint32_t nq = c[j].q_heads * c[j].dim, nkv = c[j].kv_heads * c[j].dim;
        fixture *f = with_input(i, 2 * nq + 2 * nkv + 5, &x);
        uint32_t y = fx_buffer(f, TN_ROWS_TOKENS, nq + 3, "y");
        tn_op_mix fill = {.size = sizeof fill, .in = x, .out = y, .width = nq + 3,
                          .gate = TN_NONE, .scale = 0};
        fx_op(f, TN_OP_MIX, &fill, "fill");
        tn_op_heads h = {.size = sizeof h, .x = x, .q_col = 5 + nkv, .k_col = 5,
                         .v_col = 5 + nkv + nq, .q_heads = c[j].q_heads,
                         .kv_heads = c[j].kv_heads, .head_dim = c[j].dim, .rope = TN_NONE,
                         .q_norm = TN_NONE, .k_norm = TN_NONE, .eps = 1e-6f, .offset = 1};
        if (c[j].dims > 0)
            h.rope = fx_rope(f, c[j].dims, c[j].pairing, SCRIPT_NBLOCK * SCRIPT_BLOCK, 1e4);
        if (c[j].norm) {
            h.q_norm = fx_vector(f, c[j].dim, TN_FORM_F32, -0.5f, 0.5f);
            h.k_norm = fx_vector(f, c[j].dim, TN_FORM_F16, -0.5f, 0.5f);
        }
        h.cache = fx_cache(f, c[j].kv_heads, c[j].dim);
        fx_op(f, TN_OP_HEADS, &h, "heads");
        tn_op_attend a = {.size = sizeof a, .q = x, .q_col = h.q_col, .out = y, .out_col = 2,
                          .q_heads = c[j].q_heads, .kv_heads = c[j].kv_heads,
                          .head_dim = c[j].dim, .cache = h.cache, .window = c[j].window,
                          .gate = c[j].gate ? x : TN_NONE, .gate_col = 5 + nq + 2 * nkv,
                          .scale = 0.3f, .softcap = c[j].softcap};
        fx_op(f, TN_OP_ATTEND, &a, "attend");
        check_op(f, y, batches[i / 6], 1, 3e-5, 1 + i % 3, "auto");
    }
}

/* The fixture of the architecture sheet: one head of 2 x 2, three tokens, known numbers. The
 * convolution passes its current input through, times a factor that undoes SiLU. */
static void test_delta_numbers(void **state)
{
    static const double want[3][2] = {{0.2121319, 0.4242638}, {-0.2165800, 0.3422443},
                                      {0.2316375, -0.3977464}};
    (void)state;
    /* SiLU cannot be undone by a weight, so q, k, v here are what SiLU makes of their inputs;
     * the inputs below are found by bisection. */
    static const float q[3][2] = {{3, 4}, {1, 0}, {0, 2}}, k[3][2] = {{1, 0}, {3, 4}, {1, 1}};
    static const float v[3][2] = {{1, 2}, {-0.25f, 0.5f}, {2, -0.2f}};
    static const float b[3] = {0, 1, -1}, a[3] = {0.5f, -0.25f, 1};
    double s[2][2] = {{0, 0}, {0, 0}};
    fixture *f = fx_new(1);
    f->recipe.vocab = 3;
    uint32_t x = fx_buffer(f, TN_ROWS_TOKENS, 10, "x"), y = fx_buffer(f, TN_ROWS_TOKENS, 2, "y");
    tn_op_embed e = {.size = sizeof e, .out = x, .scale = 1};
    e.w = fx_matrix(f, TN_ROLE_EMBED, 3, 10, TN_FORM_F32, 0, 0);
    for (uint32_t t = 0; t < 3; t++) {
        float *row = f->data[e.w].value + 10 * t;
        const float *in[3] = {q[t], k[t], v[t]};
        for (uint32_t j = 0; j < 6; j++) {
            double lo = -1.2784645, hi = 10; /* SiLU rises from its least value on */
            for (uint32_t n = 0; n < 60; n++) {
                double mid = (lo + hi) / 2;
                if (mid / (1 + exp(-mid)) < (double)in[j / 2][j % 2])
                    lo = mid;
                else
                    hi = mid;
            }
            row[j] = (float)lo;
        }
        row[6] = row[7] = 30;     /* z: SiLU(30) = 30 */
        row[8] = a[t];
        row[9] = b[t];
        memcpy(f->data[e.w].codes + 40 * t, row, 40);
    }
    fx_op(f, TN_OP_EMBED, &e, "embed");
    f->state[0] = (tn_state_spec){.size = sizeof(tn_state_spec), .heads = 1, .k_dim = 2,
                                  .v_dim = 2, .conv_width = 6, .conv_keep = 3};
    f->recipe.nstate = 1;
    tn_op_delta op = {.size = sizeof op, .qkv = x, .z = x, .z_col = 6, .a = x, .a_col = 8,
                      .b = x, .b_col = 9, .out = y, .k_heads = 1, .v_heads = 1, .k_dim = 2,
                      .v_dim = 2, .w_conv_bias = TN_NONE, .gate_act = TN_ACT_SILU,
                      .eps = 1e-12f};
    op.w_conv = fx_vector(f, 24, TN_FORM_F32, 0, 1);
    op.w_a_log = fx_vector(f, 1, TN_FORM_F32, 0.5f, 0.5f);
    op.w_dt_bias = fx_vector(f, 1, TN_FORM_F32, 0.1f, 0.1f);
    op.w_norm = fx_vector(f, 2, TN_FORM_F32, 1, 1);
    float conv[24] = {0};
    for (uint32_t c = 0; c < 6; c++)
        conv[4 * c + 3] = 1;
    memcpy(f->data[op.w_conv].codes, conv, sizeof conv);
    fx_op(f, TN_OP_DELTA, &op, "delta");
    fx_section(f);
    fx_device d = {0};
    tn_limits l = script_limits();
    tn_err err;
    fx_device_open(&d, &tn_plugin_entry, 1, "auto");
    void *program = fx_program(&d, f, &l, 1, 2);
    script *sc = calloc(1, sizeof *sc);
    float out[6], slot[4 + 18];
    script_open(sc, 0);
    tn_seq *seq = script_add(sc, (const int32_t[]){0, 1, 2}, 3, 0, NULL, 1);
    seq->state_out = 1;
    seq->flags = TN_SEQ_FRESH;
    script_run(&d, program, &sc->step);
    assert_int_equal(d.table->peek(program, y, 0, 3, out, &err), TN_OK);
    assert_int_equal(d.table->state_read(program, 1, slot, &err), TN_OK);
    for (uint32_t t = 0; t < 3; t++) {
        double qn = hypot((double)q[t][0], (double)q[t][1]), kn, o[2], u, g, beta;
        kn = hypot((double)k[t][0], (double)k[t][1]);
        g = -exp(0.5) * log1p(exp((double)a[t] + 0.1));
        beta = 1 / (1 + exp(-(double)b[t]));
        for (uint32_t j = 0; j < 2; j++) {
            u = 0;
            for (uint32_t i = 0; i < 2; i++)
                u += (s[i][j] *= exp(g)) * (double)k[t][i] / kn;
            o[j] = 0;
            for (uint32_t i = 0; i < 2; i++) {
                s[i][j] += (double)k[t][i] / kn * beta * ((double)v[t][j] - u);
                o[j] += s[i][j] * (double)q[t][i] / qn / sqrt(2);
            }
        }
        if (t == 0) {             /* the sheet's first line holds as it stands */
            assert_true(fabs(o[0] - want[0][0]) < 1e-6);
            assert_true(fabs(o[1] - want[0][1]) < 1e-6);
        }
        double rms = sqrt((o[0] * o[0] + o[1] * o[1]) / 2);
        for (uint32_t j = 0; j < 2; j++)
            if (!(fabs((double)out[2 * t + j] - 30 * o[j] / rms) < 1e-3))
                fail_msg("token %u: %g, expected %g", t, (double)out[2 * t + j], 30 * o[j] / rms);
    }
    for (uint32_t i = 0; i < 4; i++)
        assert_true(fabs((double)slot[i] - s[i / 2][i % 2]) < 1e-5);
    free(sc);
    d.table->release(program);
    fx_device_close(&d);
    fx_free(f);
}

typedef struct delta_case {
    uint32_t k_heads, v_heads, k_dim, v_dim, keep, act;
} delta_case;

static fixture *delta_fixture(uint64_t seed, const delta_case *c, bool bias, uint32_t *y)
{
    uint32_t x, key = c->k_heads * c->k_dim, value = c->v_heads * c->v_dim;
    uint32_t channels = 2 * key + value, kernel = c->keep + 1;
    fixture *f = with_input(seed, channels + value + 2 * c->v_heads + 1, &x);
    *y = fx_buffer(f, TN_ROWS_TOKENS, value, "y");
    f->state[0] = (tn_state_spec){.size = sizeof(tn_state_spec), .heads = c->v_heads,
                                  .k_dim = c->k_dim, .v_dim = c->v_dim,
                                  .conv_width = channels, .conv_keep = c->keep};
    f->recipe.nstate = 1;
    tn_op_delta op = {.size = sizeof op, .qkv = x, .qkv_col = 1, .z = x,
                      .z_col = 1 + channels, .a = x, .a_col = 1 + channels + value, .b = x,
                      .b_col = 1 + channels + value + c->v_heads, .out = *y,
                      .k_heads = c->k_heads, .v_heads = c->v_heads,
                      .k_dim = c->k_dim, .v_dim = c->v_dim, .w_conv_bias = TN_NONE,
                      .gate_act = c->act, .eps = 1e-6f};
    op.w_conv = fx_vector(f, (uint64_t)channels * kernel, TN_FORM_F32, -0.6f, 0.6f);
    if (bias)
        op.w_conv_bias = fx_vector(f, channels, TN_FORM_F32, -0.1f, 0.1f);
    op.w_a_log = fx_vector(f, c->v_heads, TN_FORM_F32, -1, 1);
    op.w_dt_bias = fx_vector(f, c->v_heads, TN_FORM_F32, -1, 1);
    op.w_norm = fx_vector(f, c->v_dim, TN_FORM_F32, 0.5f, 1.5f);
    fx_op(f, TN_OP_DELTA, &op, "delta");
    return f;
}

static const delta_case delta_cases[] = {
    {1, 1, 16, 16, 3, TN_ACT_SILU}, {2, 4, 32, 24, 3, TN_ACT_SILU},
    {3, 3, 20, 40, 1, TN_ACT_SIGMOID}, {2, 8, 128, 128, 3, TN_ACT_SILU},
};
#define NDELTA (sizeof delta_cases / sizeof *delta_cases)

static void test_delta(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 4 * NDELTA; i++) {
        uint32_t y;
        fx_device d = {.delta = i < 2 * NDELTA ? "recurrent" : "chunked"};
        fixture *f = delta_fixture(i, &delta_cases[i % NDELTA], i % 2 == 1, &y);
        check_op_on(d, f, y, batches[i % 3], 0, 2e-5, 1 + i % 3, "auto");
    }
}

#define DRAFTED 48

/* One sequence of the test below: where its state lies, and what is pending there. */
typedef struct drafted {
    int32_t slot, accepted, done;
} drafted;

/* Runs rows [done, done + n) of the text, of which those from `good` on are replaced, as drafts
 * or for good, and holds the rows that are right against `want`. */
static void draft_step(fx_device *d, void *program, script *s, uint64_t number, drafted *q,
                       const int32_t *text, int32_t n, int32_t good, int32_t to, bool draft,
                       uint32_t y, uint32_t width, const float *want)
{
    int32_t row[8];
    float got[8 * 1024];
    tn_err err;
    for (int32_t i = 0; i < n; i++)
        row[i] = i < good ? text[q->done + i] : (text[q->done + i] + 1) % 64;
    script_open(s, number);
    tn_seq *seq = script_add(s, row, n, q->done, NULL, 1);
    seq->state_in = q->slot;
    seq->state_out = to;
    seq->accepted = q->accepted;
    seq->flags = (draft ? TN_SEQ_DRAFT : 0) | (q->done == 0 ? TN_SEQ_FRESH : 0);
    script_run(d, program, &s->step);
    assert_int_equal(d->table->peek(program, y, 0, (uint32_t)n, got, &err), TN_OK);
    assert_memory_equal(got, want + (size_t)q->done * width, (size_t)good * width * sizeof *got);
    q->slot = to;
    q->accepted = draft ? good : 0;
    q->done += good;
}

/* Drafts that fall leave no trace in the states, whatever step settles them, and wherever the
 * state moves or is copied meanwhile: every bit is that of the rows taken one by one. Where
 * prompts are chunked this holds for draft steps. */
static void test_delta_drafts(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 2 * NDELTA; i++) {
        uint32_t c = i % NDELTA, y, width = delta_cases[c].v_heads * delta_cases[c].v_dim;
        bool chunked = i >= NDELTA;
        fixture *f = delta_fixture(c, &delta_cases[c], c % 2 == 1, &y);
        fx_device d = {.delta = chunked ? "chunked" : NULL};
        tn_limits l = script_limits();
        tn_err err;
        l.drafts_max = 4;
        fx_section(f);
        fx_device_open(&d, &tn_plugin_entry, 1 + c % 3, "auto");
        void *program = fx_program(&d, f, &l, 1, NSLOT);
        script *s = calloc(1, sizeof *s);
        int32_t text[DRAFTED + 8];
        float *want = calloc((size_t)(DRAFTED + 8) * width, sizeof *want);
        uint64_t number = 0, size = d.table->state_size(program);
        drafted plain = {0}, q = {.slot = 1};
        script_tokens(text, DRAFTED + 8, 64);
        for (int32_t j = 0; j < DRAFTED; j++) {
            script_open(s, number++);
            tn_seq *seq = script_add(s, &text[j], 1, j, NULL, 1);
            seq->state_in = seq->state_out = plain.slot;
            seq->flags = j == 0 ? TN_SEQ_FRESH : 0;
            script_run(&d, program, &s->step);
            assert_int_equal(d.table->peek(program, y, 0, 1, want + (size_t)j * width, &err),
                             TN_OK);
        }
        while (q.done + 5 <= DRAFTED) {
            int32_t n = 1 + (int32_t)(fx_bits(f) % 5), good = 1 + (int32_t)(fx_bits(f) % 5);
            bool draft = fx_bits(f) % 3 != 0 || chunked;
            int32_t to = fx_bits(f) % 4 == 0 ? 3 - q.slot : q.slot; /* slots 1 and 2 */
            draft_step(&d, program, s, number++, &q, text, n, !draft || good > n ? n : good, to,
                       draft, y, width, want);
            if (fx_bits(f) % 4 == 0) {
                assert_int_equal(d.table->state_copy(program, q.slot, 3 - q.slot, &err), TN_OK);
                q.slot = 3 - q.slot;
            }
            if (fx_bits(f) % 4 == 0 && q.accepted > 0) /* settled by a step without rows */
                draft_step(&d, program, s, number++, &q, text, 0, 0, q.slot, false, y, width,
                           want);
        }
        while (q.done < DRAFTED)
            draft_step(&d, program, s, number++, &q, text, 1, 1, q.slot, false, y, width, want);
        void *a = calloc(1, size), *b = calloc(1, size);
        assert_int_equal(d.table->state_read(program, plain.slot, a, &err), TN_OK);
        assert_int_equal(d.table->state_read(program, q.slot, b, &err), TN_OK);
        assert_memory_equal(a, b, size);
        free(a);
        free(b);
        free(want);
        free(s);
        d.table->release(program);
        fx_device_close(&d);
        fx_free(f);
    }
}

/* A router, its choice, and experts; *y is what they made. */
static fixture *with_experts(uint32_t i, uint32_t place, uint32_t *out, uint32_t *w_up)
{
    const linear_case *a = &linears[i % (sizeof linears / sizeof linears[0])];
    uint32_t x, nexpert = i % 3 == 0 ? 5 : 32, ntop = i % 4 == 0 ? 1 : 4;
    uint32_t width = a->group > 0 ? a->group : 48;
    fixture *f = with_input(i, a->k, &x);
    uint32_t y = fx_buffer(f, TN_ROWS_TOKENS, a->n, "y");
    uint32_t scores = fx_buffer(f, TN_ROWS_TOKENS, nexpert, "scores");
    uint32_t ids = fx_ids(f, TN_ROWS_TOKENS, ntop, "ids");
    uint32_t weights = fx_buffer(f, TN_ROWS_TOKENS, ntop, "weights");
    tn_op_linear router = {.size = sizeof router, .in = x, .nparts = 1};
    router.part[0] = (tn_part){.out = scores, .bias = TN_NONE};
    router.part[0].w = fx_matrix(f, TN_ROLE_ROUTER, nexpert, a->k, TN_FORM_F32, 0, 0);
    fx_op(f, TN_OP_LINEAR, &router, "router");
    tn_op_route route = {.size = sizeof route, .in = scores, .ids = ids, .weights = weights,
                         .nexpert = nexpert, .ntop = ntop, .renorm = i % 2, .bias = TN_NONE,
                         .kind = i % 3 == 1 ? TN_ROUTE_SIGMOID : TN_ROUTE_SOFTMAX,
                         .scale = 1.5f};
    if (i % 5 == 1)
        route.bias = fx_vector(f, nexpert, TN_FORM_F32, -0.1f, 0.1f);
    fx_op(f, TN_OP_ROUTE, &route, "route");
    bool add = i % 2 == 0;
    tn_op_mix fill = {.size = sizeof fill, .in = x, .out = y, .width = a->n < a->k ? a->n
                      : a->k, .gate = TN_NONE, .scale = 1};
    if (add)
        fx_op(f, TN_OP_MIX, &fill, "fill");
    tn_op_experts op = {.size = sizeof op, .in = x, .ids = ids, .weights = weights, .out = y,
                        .add = add, .nexpert = nexpert, .ntop = ntop, .width = width,
                        .act = TN_ACT_SILU};
    op.w_up = fx_stack(f, TN_ROLE_EXPERTS, nexpert, 2 * (uint64_t)width, a->k, a->form,
                       a->group, a->flags);
    op.w_down = fx_stack(f, TN_ROLE_EXPERTS, nexpert, a->n, width, a->form, a->group,
                         a->flags);
    if (a->form != TN_FORM_PRIVATE)
        f->weight[op.w_up].place = f->weight[op.w_down].place = place;
    f->buffer[x].width = a->k;
    fx_op(f, TN_OP_EXPERTS, &op, "experts");
    *w_up = op.w_up;
    *out = y;
    return f;
}

static void test_experts(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 12; i++) {
        uint32_t y, w;
        fixture *f = with_experts(i, TN_PLACE_DEVICE, &y, &w);
        check_op(f, y, batches[i % 3], 1, 5e-6, 1 + i % 3, "auto");
    }
}

/* Experts that stay in the file: with room for none, for some and for all. */
static void test_mapped_experts(void **state)
{
    static const uint32_t kib[] = {0, 64, 1 << 20};
    (void)state;
    for (uint32_t i = 0; i < 36; i++) {
        uint32_t y, w;
        fixture *f = with_experts(i % 12, TN_PLACE_MAPPED, &y, &w);
        check_op_on((fx_device){.mapped_kib = kib[i / 12]}, f, y, batches[i % 3], 1, 5e-6,
                    1 + i % 2, "auto");
    }
}

/* A row that cannot be read fails the step by name; the next step reads it again. */
static void test_broken_mapped_experts(void **state)
{
    static const uint32_t kib[] = {0, 1 << 20};
    (void)state;
    for (uint32_t i = 0; i < 2; i++) {
        fx_device d = {.mapped_kib = kib[i]};
        tn_limits l = script_limits();
        tn_err err = {.text = ""};
        uint32_t y, w;
        int32_t token[3] = {1, 2, 3}, blocks[PER_SEQ] = {0};
        l.exact = 1;
        fixture *f = with_experts(0, TN_PLACE_MAPPED, &y, &w);
        fx_section(f);
        fx_device_open(&d, &tn_plugin_entry, 2, "auto");
        void *program = fx_program(&d, f, &l, PER_SEQ, NSLOT);
        reference *r = ref_new(f, l.rows_max, SCRIPT_BLOCK, PER_SEQ, NSLOT);
        script *s = calloc(1, sizeof *s);
        script_open(s, 0);
        tn_seq *q = script_add(s, token, 3, 0, blocks, PER_SEQ);
        q->state_in = -1;
        q->state_out = 0;
        q->flags = TN_SEQ_FRESH;
        script_out(s, q->row0);
        f->data[w].fail_row = 1;
        assert_int_equal(d.table->run(program, &s->step, &err), TN_DATA);
        assert_string_equal(err.text, "fixture: row 1 is broken");
        f->data[w].fail_row = -1;
        ref_step(r, &s->step);
        script_run(&d, program, &s->step);
        check_near(&d, program, f, r, y, 3, 5e-6);
        free(s);
        ref_free(r);
        d.table->release(program);
        fx_device_close(&d);
        fx_free(f);
    }
}

/* Equal scores go to the lower index; a row of NaN still names valid experts. */
static void test_route_ties(void **state)
{
    (void)state;
    fixture *f = fx_new(1);
    f->recipe.vocab = 3;
    uint32_t x = fx_buffer(f, TN_ROWS_TOKENS, 6, "x"), ids = fx_ids(f, TN_ROWS_TOKENS, 3, "ids");
    uint32_t weights = fx_buffer(f, TN_ROWS_TOKENS, 3, "weights");
    tn_op_embed e = {.size = sizeof e, .out = x, .scale = 1};
    e.w = fx_matrix(f, TN_ROLE_EMBED, 3, 6, TN_FORM_F32, 0, 0);
    const float rows[18] = {1, 3, -2, 3, 0.5f, 2, 7, 7, 7, 7, 7, 7, NAN, NAN, NAN, NAN, NAN, NAN};
    memcpy(f->data[e.w].codes, rows, sizeof rows);
    fx_op(f, TN_OP_EMBED, &e, "embed");
    tn_op_route op = {.size = sizeof op, .in = x, .ids = ids, .weights = weights, .nexpert = 6,
                      .ntop = 3, .kind = TN_ROUTE_SOFTMAX, .renorm = 1, .bias = TN_NONE,
                      .scale = 1};
    fx_op(f, TN_OP_ROUTE, &op, "route");
    fx_section(f);
    fx_device d = {0};
    tn_limits l = script_limits();
    tn_err err;
    float id[9], w[9];
    fx_device_open(&d, &tn_plugin_entry, 1, "auto");
    void *program = fx_program(&d, f, &l, 0, 0);
    script *s = calloc(1, sizeof *s);
    script_open(s, 0);
    script_add(s, (const int32_t[]){0, 1, 2}, 3, 0, NULL, 0);
    script_run(&d, program, &s->step);
    assert_int_equal(d.table->peek(program, ids, 0, 3, id, &err), TN_OK);
    assert_int_equal(d.table->peek(program, weights, 0, 3, w, &err), TN_OK);
    const float want[6] = {1, 3, 5, 0, 1, 2};
    for (uint32_t i = 0; i < 6; i++)
        assert_true(id[i] == want[i]);
    assert_true(fabsf(w[0] - 0.4223188f) < 1e-6f && fabsf(w[2] - 0.1553624f) < 1e-6f);
    assert_true(fabsf(w[4] - 1.0f / 3) < 1e-6f);
    for (uint32_t i = 6; i < 9; i++)
        assert_true(id[i] >= 0 && id[i] < 6);
    assert_true(id[6] != id[7] && id[7] != id[8] && id[6] != id[8]);
    free(s);
    d.table->release(program);
    fx_device_close(&d);
    fx_free(f);
}

/* Softcap, padding columns, and which token is greatest; fused and not. */
static void test_logits(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 6; i++) {
        uint32_t x, vocab = i % 2 ? 1100 : 90, valid = vocab - i * 3;
        fixture *f = with_input(i, 48, &x);
        uint32_t xo = fx_buffer(f, TN_ROWS_OUTS, 48, "xo");
        uint32_t logits = fx_buffer(f, TN_ROWS_OUTS, vocab, "logits");
        tn_op_pick pick = {.size = sizeof pick, .in = x, .out = xo, .width = 48};
        fx_op(f, TN_OP_PICK, &pick, "pick");
        tn_op_linear head = {.size = sizeof head, .in = xo, .nparts = 1};
        head.part[0] = (tn_part){.out = logits, .bias = TN_NONE};
        head.part[0].w = fx_matrix(f, TN_ROLE_HEAD, vocab, 48, TN_FORM_F16, 0, 0);
        if (i % 3 == 0)
            head.part[0].bias = fx_vector(f, vocab, TN_FORM_F32, -3, 3);
        fx_op(f, TN_OP_LINEAR, &head, "head");
        tn_op_logits op = {.size = sizeof op, .x = logits, .vocab = vocab, .valid = valid,
                           .softcap = i % 3 == 1 ? 2.5f : 0};
        fx_op(f, TN_OP_LOGITS, &op, "logits");
        tn_op_sample sample = {.size = sizeof sample, .x = logits, .vocab = vocab};
        fx_op(f, TN_OP_SAMPLE, &sample, "sample");
        fx_section(f);
        fx_device d = {0};
        tn_limits l = script_limits();
        l.profile = i >= 3;
        fx_device_open(&d, &tn_plugin_entry, 2, "auto");
        void *program = fx_program(&d, f, &l, 0, 0);
        reference *r = ref_new(f, l.rows_max, 1, 0, 0);
        script *s = calloc(1, sizeof *s);
        int32_t token[40];
        script_tokens(token, 40, 64);
        script_open(s, 0);
        script_add(s, token, 40, 0, NULL, 0);
        for (int32_t row = 0; row < 40; row++)
            script_out(s, 39 - row);
        ref_step(r, &s->step);
        const tn_results *got = script_run(&d, program, &s->step);
        for (uint32_t o = 0; o < 40; o++) {
            const double *want = ref_row(r, logits, o);
            double top = -INFINITY, sum = 0;
            for (uint32_t j = 0; j < vocab; j++)
                top = fmax(top, want[j]);
            for (uint32_t j = 0; j < vocab; j++)
                sum += exp(want[j] - top);
            int32_t t = got->result[o].token;
            assert_in_range(t, 0, valid - 1);
            assert_true(top - want[t] < 1e-4);
            assert_true(fabs((double)got->result[o].logprob + log(sum)) < 1e-4);
        }
        if (l.profile)
            check_near(&d, program, f, r, logits, 40, 1e-5);
        free(s);
        ref_free(r);
        d.table->release(program);
        fx_device_close(&d);
        fx_free(f);
    }
}

/* A token a million positions in: angles are as exact as at the beginning. */
static void test_far_position(void **state)
{
    (void)state;
    enum { FAR = 1000005, NBLOCK = FAR / 16 + 2 };
    uint32_t x;
    fixture *f = with_input(1, 96, &x);
    uint32_t y = fx_buffer(f, TN_ROWS_TOKENS, 32, "y");
    tn_op_heads h = {.size = sizeof h, .x = x, .k_col = 32, .v_col = 64, .q_heads = 1,
                     .kv_heads = 1, .head_dim = 32, .q_norm = TN_NONE, .k_norm = TN_NONE};
    h.rope = fx_rope(f, 32, TN_ROPE_HALF, FAR + 100, 1e7);
    f->rope[0].scale = 1.25;
    h.cache = fx_cache(f, 1, 32);
    fx_op(f, TN_OP_HEADS, &h, "heads");
    tn_op_attend a = {.size = sizeof a, .q = x, .out = y, .q_heads = 1, .kv_heads = 1,
                      .head_dim = 32, .cache = h.cache, .window = 4, .gate = TN_NONE,
                      .scale = 0.2f};
    fx_op(f, TN_OP_ATTEND, &a, "attend");
    fx_section(f);
    fx_device d = {0};
    tn_limits l = script_limits();
    l.exact = 1;
    l.context_max = FAR + 50;
    l.blocks_max = NBLOCK;
    fx_device_open(&d, &tn_plugin_entry, 2, "auto");
    void *program = fx_program(&d, f, &l, 2, 0);
    reference *r = ref_new(f, l.rows_max, 16, 2, 0);
    script *s = calloc(1, sizeof *s);
    int32_t *blocks = calloc(NBLOCK, sizeof *blocks), token[7];
    script_tokens(token, 7, 64);
    for (uint32_t i = 0; i < NBLOCK; i++)
        blocks[i] = (int32_t)(i % 2);
    script_open(s, 0);
    script_add(s, token, 7, FAR - 3, NULL, 0);
    s->step.block = blocks;
    s->step.nblock = NBLOCK;
    ref_step(r, &s->step);
    script_run(&d, program, &s->step);
    check_near(&d, program, f, r, x, 7, 1e-6);
    check_near(&d, program, f, r, y, 7, 1e-5);
    free(blocks);
    free(s);
    ref_free(r);
    d.table->release(program);
    fx_device_close(&d);
    fx_free(f);
}

/* What a head is turned by, at positions up to the last of a stretched Qwen3-Next: every cosine
 * and sine is within a rounding of the true one. A head of ones and zeros turns into them. */
static void test_rotary_numbers(void **state)
{
    enum { DIMS = 64, HALF = DIMS / 2, LAST = 1009999, NBLOCK = LAST / 16 + 2 };
    static const int32_t position[] = {0, 1, 4095, 65537, 262143, 262144, 777777, LAST - 1};
    const double scale = 1.1386294361119891; /* of YaRN with factor 4 */
    (void)state;
    fixture *f = fx_new(1);
    f->recipe.vocab = 1;
    uint32_t x = fx_buffer(f, TN_ROWS_TOKENS, 3 * DIMS, "x");
    tn_op_embed e = {.size = sizeof e, .out = x, .scale = 1};
    e.w = fx_matrix(f, TN_ROLE_EMBED, 1, 3 * DIMS, TN_FORM_F32, 0, 0);
    for (uint32_t i = 0; i < 3 * DIMS; i++)
        f->data[e.w].value[i] = i % DIMS < HALF ? 1 : 0;
    memcpy(f->data[e.w].codes, f->data[e.w].value, 3 * DIMS * sizeof(float));
    fx_op(f, TN_OP_EMBED, &e, "embed");
    tn_op_heads h = {.size = sizeof h, .x = x, .k_col = DIMS, .v_col = 2 * DIMS, .q_heads = 1,
                     .kv_heads = 1, .head_dim = DIMS, .q_norm = TN_NONE, .k_norm = TN_NONE};
    h.rope = fx_rope(f, DIMS, TN_ROPE_HALF, LAST + 1, 1e7);
    f->rope[0].scale = scale;
    h.cache = fx_cache(f, 1, DIMS);
    fx_op(f, TN_OP_HEADS, &h, "heads");
    fx_section(f);
    fx_device d = {0};
    tn_limits l = script_limits();
    tn_err err;
    l.context_max = LAST + 1;
    l.blocks_max = NBLOCK;
    fx_device_open(&d, &tn_plugin_entry, 2, "auto");
    void *program = fx_program(&d, f, &l, 1, 0);
    script *s = calloc(1, sizeof *s);
    int32_t *blocks = calloc(NBLOCK, sizeof *blocks); /* all the same: only q is looked at */
    for (uint32_t i = 0; i < sizeof position / sizeof *position; i++) {
        float got[2][3 * DIMS];
        script_open(s, i);
        script_add(s, (const int32_t[]){0, 0}, 2, position[i], NULL, 0);
        s->step.block = blocks;
        s->step.nblock = NBLOCK;
        script_run(&d, program, &s->step);
        assert_int_equal(d.table->peek(program, x, 0, 2, got[0], &err), TN_OK);
        for (uint32_t j = 0; j < DIMS; j++) {
            long double a = powl(1e7L, -2.0L * (j % HALF) / DIMS) * (position[i] + 1);
            long double want = (long double)scale * (j < HALF ? cosl(a) : sinl(a));
            if (!(fabsl((long double)got[1][j] - want) < 7e-8L))
                fail_msg("position %d, number %u: %.9g, expected %.9Lg", position[i] + 1, j,
                         (double)got[1][j], want);
        }
    }
    free(blocks);
    free(s);
    d.table->release(program);
    fx_device_close(&d);
    fx_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_embed), cmocka_unit_test(test_norm),
        cmocka_unit_test(test_linear), cmocka_unit_test(test_gate_up),
        cmocka_unit_test(test_row_operations), cmocka_unit_test(test_attention),
        cmocka_unit_test(test_delta_numbers), cmocka_unit_test(test_delta),
        cmocka_unit_test(test_delta_drafts),
        cmocka_unit_test(test_experts), cmocka_unit_test(test_mapped_experts),
        cmocka_unit_test(test_broken_mapped_experts), cmocka_unit_test(test_route_ties),
        cmocka_unit_test(test_logits), cmocka_unit_test(test_far_position),
        cmocka_unit_test(test_rotary_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
