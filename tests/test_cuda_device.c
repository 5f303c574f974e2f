/* SPDX-License-Identifier: Apache-2.0 */
/* test_cuda_device.c - every operation of the cuda device against recipe_reference.c, in steps
 * of one row, of a few and of many, beside padding; with graphs and without.
 *
 * Linked with the kernels for cudasim it runs in `make check`; linked with nvcc's objects the
 * same program runs on a card. Buffers are f16 or f32 as a recipe of the
 * core has them, so bounds are those of f16 activations. */
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
#define ROUNDED 2e-3             /* results that were rounded to f16 once or twice */

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

/* Bounds of a case: least > 0 where something must be lost, cache as limits have it. */
typedef struct bounds {
    double least, most;
    uint32_t cache;
} bounds;

static void check_near(fx_device *d, void *program, const fixture *f, const reference *r,
                       uint32_t buffer, uint32_t rows, bounds b, const char *what, uint32_t n)
{
    double got = distance(d, program, f, r, buffer, rows);
    if (!(got >= b.least && got <= b.most))
        fail_msg("%s, case %u: buffer %s, %u rows, %u wide: off by %g, at most %g, at least %g",
                 what, n, f->buffer[buffer].name, rows, f->buffer[buffer].width, got, b.most,
                 b.least);
}

/* Rows of random tokens, sizes[i] of sequence i (-1: a row of padding), behind what the turns
 * before left. */
static void fill_step(script *s, fixture *f, const int32_t *sizes, uint64_t turn)
{
    uint32_t vocab = f->recipe.vocab > 0 ? f->recipe.vocab : 64;
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
}

/* Runs the recipe three times, each step behind the one before, and holds buffer `out` against
 * the reference. Without a profile small steps run as graphs and gate and up are one. */
static void check_bounds(fixture *f, uint32_t out, const int32_t *sizes, uint32_t profile,
                         bounds b, const char *what, uint32_t n)
{
    fx_device d = {0};
    tn_limits l = script_limits();
    l.profile = profile;
    l.cache_dtype = b.cache;
    fx_section(f);
    fx_device_open(&d, &tn_plugin_entry, 1, NULL);
    void *program = fx_program(&d, f, &l, PER_SEQ * 6, NSLOT);
    reference *r = ref_new(f, l.rows_max, SCRIPT_BLOCK, PER_SEQ * 6, NSLOT);
    script *s = calloc(1, sizeof *s);
    for (uint64_t turn = 0; turn < 3; turn++) {
        fill_step(s, f, sizes, turn);
        ref_step(r, &s->step);
        script_run(&d, program, &s->step);
        bool tokens = f->buffer[out].rows == TN_ROWS_TOKENS;
        check_near(&d, program, f, r, out, tokens ? s->step.nrow : s->step.nout, b, what, n);
    }
    free(s);
    ref_free(r);
    d.table->release(program);
    fx_device_close(&d);
    fx_free(f);
}

static void check_op(fixture *f, uint32_t out, const int32_t *sizes, uint32_t profile,
                     double most, const char *what, uint32_t n)
{
    check_bounds(f, out, sizes, profile, (bounds){.most = most}, what, n);
}

static const int32_t one[] = {1, 0}, few[] = {3, -1, 1, 2, 0}, many[] = {37, 1, -1, 64, 5, 0};
static const int32_t sixteen[] = {16, 0}, lots[] = {150, 20, 0};
static const int32_t *const batches[] = {one, few, many, sixteen, lots};
#define NBATCH (sizeof batches / sizeof *batches)

/* A recipe that begins with random rows in buffer x, of dtype F16 where `half`. */
static fixture *with_input(uint64_t seed, uint32_t width, bool half, uint32_t *x)
{
    fixture *f = fx_new(seed);
    f->recipe.vocab = 64;
    *x = fx_buffer(f, TN_ROWS_TOKENS, width, "x");
    f->buffer[*x].dtype = half ? TN_F16 : TN_F32;
    tn_op_embed op = {.size = sizeof op, .out = *x, .scale = 4};
    op.w = fx_matrix(f, TN_ROLE_EMBED, 64, width, TN_FORM_F32, 0, 0);
    fx_op(f, TN_OP_EMBED, &op, "embed");
    return f;
}

/* ----------------------------------------------------------------------------- operations */

static void test_embed(void **state)
{
    const struct { uint32_t form, group, flags, requant; double bound; } c[] = {
        {TN_FORM_F32, 0, 0, 0, 1e-3}, {TN_FORM_F16, 0, 0, 0, 1e-6}, {TN_FORM_BF16, 0, 0, 0, 1e-4},
        {TN_FORM_W4G, 32, FX_ZEROS, 0, 1e-3}, {TN_FORM_W8G, 64, FX_SCALE16, 0, 1e-4},
        {TN_FORM_F16, 0, 0, TN_FORM_W8G, 6e-3}, {TN_FORM_W4G, 64, FX_ZEROS, 0, 1e-3},
    };
    (void)state;
    for (uint32_t i = 0; i < sizeof c / sizeof c[0]; i++) {
        fixture *f = fx_new(i);
        uint32_t k = c[i].group > 0 ? 128 : 70;
        f->recipe.vocab = 100;    /* tokens below 20 and from 83 on belong to other ranks */
        uint32_t x = fx_buffer(f, TN_ROWS_TOKENS, k, "x");
        tn_op_embed op = {.size = sizeof op, .out = x, .scale = 3, .first = 20};
        op.w = fx_matrix(f, TN_ROLE_EMBED, 63, k, c[i].form, c[i].group, c[i].flags);
        f->weight[op.w].requant = c[i].requant;
        fx_op(f, TN_OP_EMBED, &op, "embed");
        check_op(f, x, batches[i % NBATCH], i % 2, c[i].bound, "embed", i);
    }
}

static void test_norm(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t x;
        fixture *f = with_input(i, i == 3 ? 1500 : 120, i == 1, &x);
        uint32_t y = fx_buffer(f, TN_ROWS_TOKENS, i == 3 ? 1500 : 125, "y");
        tn_op_norm fill = {.size = sizeof fill, .in = x, .out = y, .w = TN_NONE, .width = 120,
                           .groups = 1, .eps = 1e-6f};
        fx_op(f, TN_OP_NORM, &fill, "fill");
        tn_op_norm op = {.size = sizeof op, .in = x, .in_col = 8, .out = y, .out_col = 5,
                         .width = i == 0 ? 112 : i == 3 ? 1400 : 16, .groups = i % 3 == 0 ? 1 : 7,
                         .eps = 1e-5f, .offset = i == 2 ? 1 : 0, .w = TN_NONE};
        if (i > 0)
            op.w = fx_vector(f, op.width, TN_FORM_BF16, -0.5f, 0.5f);
        fx_op(f, TN_OP_NORM, &op, "norm");
        check_op(f, y, batches[i], i % 2, i == 1 ? ROUNDED : 1e-3, "norm", i);
    }
}

typedef struct linear_case {
    uint32_t form, group, flags, n, k;
} linear_case;

static const linear_case linears[] = {
    {TN_FORM_F32, 0, 0, 33, 70},
    {TN_FORM_F16, 0, 0, 16, 64},
    {TN_FORM_BF16, 0, 0, 100, 33},
    {TN_FORM_W4G, 32, FX_ZEROS, 48, 96},
    {TN_FORM_W4G, 64, FX_SCALE16, 17, 128},
    {TN_FORM_W4G, 128, FX_ZEROS | FX_PERM | FX_SCALE16, 80, 256},
    {TN_FORM_W4G, 32, FX_ZEROS | FX_PERM | FX_PADDING, 64, 100},
    {TN_FORM_W8G, 32, FX_ZEROS, 50, 64},
    {TN_FORM_W8G, 128, FX_PERM, 16, 128},
    {TN_FORM_W4G, 576, 0, 40, 576},
    {TN_FORM_W4G, 64, FX_ZEROS, 130, 1088},
    {TN_FORM_F16, 0, 0, 1000, 640},
    {TN_FORM_W4G, 16, FX_ZEROS, 40, 64},
};
#define NLINEAR (sizeof linears / sizeof *linears)

/* Two parts with different forms beside each other, bias, residual. */
static void build_linear(fixture *f, const linear_case *a, const linear_case *b, uint32_t x,
                         uint32_t col, uint32_t y, bool bias, bool add)
{
    tn_op_linear op = {.size = sizeof op, .in = x, .in_col = col, .nparts = 2, .add = add};
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
    for (uint32_t i = 0; i < NLINEAR * 3; i++) {
        const linear_case *a = &linears[i % NLINEAR], *b = &linears[(i * 7 + i / NLINEAR) % NLINEAR];
        bool half = i % 2 == 0, bias = i % 3 == 0, add = i % 5 < 2;
        uint32_t x, col = i % 4 == 0 ? 8 : i % 4 == 1 ? 3 : 0;
        fixture *f = with_input(i, a->k + 9, half, &x);
        uint32_t y = fx_buffer(f, TN_ROWS_TOKENS, a->n + 30, "y");
        tn_op_mix fill = {.size = sizeof fill, .in = x, .out = y, .width = 1, .gate = TN_NONE,
                          .scale = 1};
        fx_op(f, TN_OP_MIX, &fill, "fill");
        build_linear(f, a, b, x, col, y, bias, add);
        check_op(f, y, batches[(i + i / NLINEAR) % NBATCH], i % 2, ROUNDED, "linear", i);
    }
}

/* dense = int8, head = int8: 16-bit weights that the device packs in 8 bits, groups of 32. */
static void test_requantized(void **state)
{
    static const struct { uint32_t form, n, k, role; } c[] = {
        {TN_FORM_F16, 33, 128, TN_ROLE_DENSE}, {TN_FORM_BF16, 100, 70, TN_ROLE_DENSE},
        {TN_FORM_F32, 16, 640, TN_ROLE_DENSE}, {TN_FORM_BF16, 1000, 256, TN_ROLE_HEAD},
    };
    (void)state;
    for (uint32_t i = 0; i < 4 * 3; i++) {
        uint32_t x, j = i % 4;
        fixture *f = with_input(i, c[j].k, i % 2 == 0, &x);
        uint32_t y = fx_buffer(f, TN_ROWS_TOKENS, c[j].n, "y");
        tn_op_linear op = {.size = sizeof op, .in = x, .nparts = 1};
        op.part[0] = (tn_part){.out = y, .bias = TN_NONE};
        op.part[0].w = fx_matrix(f, c[j].role, c[j].n, c[j].k, c[j].form, 0, 0);
        f->weight[op.part[0].w].requant = TN_FORM_W8G;
        fx_op(f, TN_OP_LINEAR, &op, "linear");
        check_op(f, y, batches[i % NBATCH], i % 2, 8e-3, "requantized", i);
    }
}

/* A NaN among 16-bit weights that become int8 stays one: of its row's outputs, and of no other. */
static void test_requantized_nan(void **state)
{
    static const uint16_t odd[] = {0x7fff, 0xff80}; /* NaN and -infinity, in bf16 */
    (void)state;
    for (uint32_t i = 0; i < 2; i++) {
        uint32_t x;
        float y[48];
        tn_err err;
        fx_device d = {0};
        tn_limits l = script_limits();
        fixture *f = with_input(i, 128, true, &x);
        uint32_t out = fx_buffer(f, TN_ROWS_TOKENS, 48, "y");
        tn_op_linear op = {.size = sizeof op, .in = x, .nparts = 1};
        op.part[0] = (tn_part){.out = out, .bias = TN_NONE};
        op.part[0].w = fx_matrix(f, TN_ROLE_DENSE, 48, 128, TN_FORM_BF16, 0, 0);
        f->weight[op.part[0].w].requant = TN_FORM_W8G;
        fx_op(f, TN_OP_LINEAR, &op, "linear");
        fx_section(f);
        memcpy(f->data[op.part[0].w].codes + (21 * 128 + 70) * 2, &odd[i], 2);
        fx_device_open(&d, &tn_plugin_entry, 1, NULL);
        void *program = fx_program(&d, f, &l, PER_SEQ * 6, NSLOT);
        script *s = calloc(1, sizeof *s);
        fill_step(s, f, one, 0);
        script_run(&d, program, &s->step);
        assert_int_equal(d.table->peek(program, out, 0, 1, y, &err), TN_OK);
        for (uint32_t j = 0; j < 48; j++)
            if ((isfinite(y[j]) != 0) != (j != 21))
                fail_msg("case %u: output %u is %g", i, j, (double)y[j]);
        free(s);
        d.table->release(program);
        fx_device_close(&d);
        fx_free(f);
    }
}

/* gate and up as two matrices or as one, with a width that ends inside a tile; fused without a
 * profile, and then against the same numbers. */
static void test_gate_up(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 2 * NLINEAR; i++) {
        const linear_case *a = &linears[i % NLINEAR];
        uint32_t x, width = i % 2 == 0 ? 80 : 75;
        bool stacked = i % 4 == 0;
        fixture *f = with_input(i, a->k, i % 3 == 0, &x);
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
        check_op(f, y, batches[i % NBATCH], i % 3 == 2, 3e-3, "gate_up", i);
    }
}

static void test_row_operations(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 3; i++) {
        uint32_t x;
        fixture *f = with_input(i, 96, false, &x);
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
        check_op(f, all, batches[i], 0, 1e-3, "rows", i);
    }
}

/* Twice over all cases, with the cache and the bounds of `b`. */
static void check_attention(bounds b)
{
    const struct {
        uint32_t q_heads, kv_heads, dim, dims, pairing, window, norm, gate;
        float softcap;
    } c[] = {
        {9, 3, 64, 64, TN_ROPE_HALF, 0, 0, 0, 0},
        {8, 1, 64, 32, TN_ROPE_PAIRS, 5, 0, 1, 0},
        {6, 2, 128, 64, TN_ROPE_HALF, 33, 1, 1, 20},
        {16, 2, 256, 64, TN_ROPE_HALF, 0, 1, 1, 0},
        {3, 3, 96, 0, 0, 16, 0, 0, 3},
    };
    const uint32_t n = sizeof c / sizeof c[0];
    for (uint32_t i = 0; i < 2 * n; i++) {
        uint32_t x, j = i % n;
        uint32_t nq = c[j].q_heads * c[j].dim, nkv = c[j].kv_heads * c[j].dim;
        fixture *f = with_input(i, 2 * nq + 2 * nkv + 8, true, &x);
        uint32_t y = fx_buffer(f, TN_ROWS_TOKENS, nq + 8, "y");
        tn_op_mix fill = {.size = sizeof fill, .in = x, .out = y, .width = nq + 8,
                          .gate = TN_NONE, .scale = 0};
        fx_op(f, TN_OP_MIX, &fill, "fill");
        tn_op_heads h = {.size = sizeof h, .x = x, .q_col = 8 + nkv, .k_col = 8,
                         .v_col = 8 + nkv + nq, .q_heads = c[j].q_heads,
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
        tn_op_attend a = {.size = sizeof a, .q = x, .q_col = h.q_col, .out = y, .out_col = 0,
                          .q_heads = c[j].q_heads, .kv_heads = c[j].kv_heads,
                          .head_dim = c[j].dim, .cache = h.cache, .window = c[j].window,
                          .gate = c[j].gate ? x : TN_NONE, .gate_col = 8 + nq + 2 * nkv,
                          .scale = 0.1f, .softcap = c[j].softcap};
        fx_op(f, TN_OP_ATTEND, &a, "attend");
        check_bounds(f, y, batches[i % 3], i % 2, b, "attention", i);
    }
}

static void test_attention(void **state)
{
    (void)state;
    check_attention((bounds){.most = 4e-3});
}

/* An E4M3 number is off by up to a sixteenth, by about 0.026 of the whole on average. */
static void test_f8_cache(void **state)
{
    (void)state;
    check_attention((bounds){.least = 5e-3, .most = 0.06, .cache = TN_F8_E4M3});
}

/* Blocks go out and in as E4M3, half as large as those of f16, and bytes stay what they were. */
static void test_f8_blocks(void **state)
{
    fx_device d = {0};
    tn_err err;
    uint64_t size[2];
    (void)state;
    for (uint32_t i = 0; i < 2; i++) {
        fixture *f = fx_new(3);
        tn_limits l = script_limits();
        tn_need need = {.size = sizeof need};
        void *program;
        f->recipe.vocab = 64;
        fx_cache(f, 3, 64);
        uint32_t x = fx_buffer(f, TN_ROWS_TOKENS, 64, "x");
        tn_op_embed op = {.size = sizeof op, .out = x, .scale = 1};
        op.w = fx_matrix(f, TN_ROLE_EMBED, 64, 64, TN_FORM_F32, 0, 0);
        fx_op(f, TN_OP_EMBED, &op, "embed");
        fx_section(f);
        l.cache_dtype = i == 0 ? 0 : TN_F8_E4M3;
        fx_device_open(&d, &tn_plugin_entry, 1, NULL);
        assert_int_equal(d.table->compile(d.dev, &f->recipe, &l, &program, &need, &err), TN_OK);
        assert_int_equal(need.cache_dtype, i == 0 ? TN_F16 : TN_F8_E4M3);
        tn_pools pools = {.size = sizeof pools, .nblock = 4};
        assert_int_equal(d.table->reserve(program, &pools, &err), TN_OK);
        size[i] = d.table->block_size(program);
        assert_int_equal(size[i], need.block_bytes);
        uint8_t *in = malloc(size[i]), *out = malloc(size[i]);
        for (uint64_t j = 0; j < size[i]; j++)
            in[j] = (uint8_t)fx_bits(f);
        assert_int_equal(d.table->block_write(program, 2, in, &err), TN_OK);
        assert_int_equal(d.table->block_copy(program, 2, 1, &err), TN_OK);
        assert_int_equal(d.table->block_read(program, 1, out, &err), TN_OK);
        assert_memory_equal(in, out, size[i]);
        free(in);
        free(out);
        d.table->release(program);
        fx_device_close(&d);
        fx_free(f);
    }
    assert_int_equal(size[0], 2 * size[1]);
}

/* What the kernels do not know is refused in one sentence. */
static void test_cache_types(void **state)
{
    static const uint32_t type[] = {TN_BF16, TN_F32, TN_F8_E5M2};
    static const char *const name[] = {"bfloat16", "float32", "this type"};
    fx_device d = {0};
    uint32_t x;
    (void)state;
    fixture *f = with_input(1, 64, true, &x);
    fx_section(f);
    fx_device_open(&d, &tn_plugin_entry, 1, NULL);
    for (uint32_t i = 0; i < 3; i++) {
        tn_limits l = script_limits();
        tn_err err;
        void *program;
        char want[128];
        l.cache_dtype = type[i];
        snprintf(want, sizeof want, "cuda: kv_cache_dtype: %s is not offered; expected float16, fp8 "
                 "or auto", name[i]);
        assert_int_equal(d.table->compile(d.dev, &f->recipe, &l, &program, NULL, &err),
                         TN_UNSUPPORTED);
        assert_string_equal(err.text, want);
    }
    fx_device_close(&d);
    fx_free(f);
}

typedef struct delta_case {
    uint32_t k_heads, v_heads, k_dim, v_dim, keep, act;
} delta_case;

static const delta_case delta_cases[] = {
    {1, 1, 64, 64, 3, TN_ACT_SILU}, {2, 4, 128, 128, 3, TN_ACT_SILU},
    {3, 3, 64, 64, 1, TN_ACT_SIGMOID}, {2, 8, 128, 128, 3, TN_ACT_SILU},
};
#define NDELTA (sizeof delta_cases / sizeof *delta_cases)

static fixture *delta_fixture(uint64_t seed, const delta_case *c, bool bias, uint32_t *y)
{
    uint32_t x, key = c->k_heads * c->k_dim, value = c->v_heads * c->v_dim;
    uint32_t channels = 2 * key + value, kernel = c->keep + 1;
    fixture *f = with_input(seed, channels + value + 2 * c->v_heads + 1, false, &x);
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

static void test_delta(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 2 * NDELTA; i++) {
        uint32_t y;
        fixture *f = delta_fixture(i, &delta_cases[i % NDELTA], i % 2 == 1, &y);
        check_op(f, y, batches[i % 3], i % 2, 3e-3, "delta", i);
    }
}

/* A router, its choice, and experts; *y is what they made. */
static fixture *with_experts(uint32_t i, uint32_t *out)
{
    const linear_case *a = &linears[i % 9];
    uint32_t x, nexpert = i % 3 == 0 ? 5 : 32, ntop = i % 4 == 0 ? 1 : 4;
    uint32_t width = a->group > 0 ? a->group : 48;
    fixture *f = with_input(i, a->k, i % 2 == 0, &x);
    uint32_t y = fx_buffer(f, TN_ROWS_TOKENS, a->n, "y");
    uint32_t scores = fx_buffer(f, TN_ROWS_TOKENS, nexpert, "scores");
    uint32_t ids = fx_ids(f, TN_ROWS_TOKENS, ntop, "ids");
    uint32_t weights = fx_buffer(f, TN_ROWS_TOKENS, ntop, "weights");
    tn_op_linear router = {.size = sizeof router, .in = x, .nparts = 1};
    router.part[0] = (tn_part){.out = scores, .bias = TN_NONE};
    router.part[0].w = fx_matrix(f, TN_ROLE_ROUTER, nexpert, a->k, TN_FORM_F16, 0, 0);
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
    fx_op(f, TN_OP_EXPERTS, &op, "experts");
    *out = y;
    return f;
}

static void test_experts(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 27; i++) {
        uint32_t y;
        fixture *f = with_experts(i, &y);
        check_op(f, y, batches[(i + i / 9) % NBATCH], i % 2, 4e-3, "experts", i);
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
    fx_device_open(&d, &tn_plugin_entry, 1, NULL);
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
    assert_true(fabsf(w[0] - 0.4223188f) < 1e-4f && fabsf(w[2] - 0.1553624f) < 1e-4f);
    assert_true(fabsf(w[4] - 1.0f / 3) < 1e-4f);
    for (uint32_t i = 6; i < 9; i++)
        assert_true(id[i] >= 0 && id[i] < 6);
    assert_true(id[6] != id[7] && id[7] != id[8] && id[6] != id[8]);
    free(s);
    d.table->release(program);
    fx_device_close(&d);
    fx_free(f);
}

/* --------------------------------------------------------------------------------- replays */

static uint64_t hash_of(uint64_t h, const void *data, uint64_t size)
{
    const uint8_t *p = data;
    for (uint64_t i = 0; i < size; i++)
        h = (h ^ p[i]) * 0x100000001b3ull;
    return h;
}

/* The step's numbers again and again, as bits: rows of `buffer`, and what was drawn. */
static uint64_t replay(fx_device *d, void *program, const fixture *f, script *s, uint32_t buffer,
                       uint32_t rows, uint32_t times)
{
    uint64_t first = 0, size = (uint64_t)rows * f->buffer[buffer].width * sizeof(float);
    float *x = malloc(size);
    tn_err err;
    double before = fx_metric(d, "cuda_graph_steps_total{card=\"0\"}");
    for (uint32_t i = 0; i < times; i++) {
        s->step.number = i + 1;
        const tn_results *r = script_run(d, program, &s->step);
        uint64_t h = hash_of(0xcbf29ce484222325ull, r->result, r->nout * sizeof *r->result);
        if (d->table->peek(program, buffer, 0, rows, x, &err) != TN_OK)
            fail_msg("peek: %s", err.text);
        h = hash_of(h, x, size);
        first = i == 0 ? h : first;
        if (h != first)
            fail_msg("replay %u: hash %016llx, the first had %016llx", i, (unsigned long long)h,
                     (unsigned long long)first);
    }
    free(x);
    double replayed = fx_metric(d, "cuda_graph_steps_total{card=\"0\"}") - before;
    if (replayed != times)
        fail_msg("%g of %u steps ran as a graph", replayed, times);
    return first;
}

/* Four sequences of one row in states of their own, read from one slot and left in another. */
static void single_rows(script *s, bool states)
{
    script_open(s, 0);
    for (int32_t i = 0; i < 4; i++) {
        const int32_t token = 11 + 7 * i, block = i;
        tn_seq *q = script_add(s, &token, 1, states ? 0 : 3 + i, &block, 1);
        q->state_in = i;
        q->state_out = 8 + i;
        tn_sampling *p = script_out(s, q->row0);
        p->flags = 0;
        p->temperature = 1;
        p->top_p = 0.95f;
        p->repetition = 1;
        p->seed = (uint64_t)i;
    }
}

static uint64_t replay_delta(uint32_t times)
{
    uint32_t y;
    fx_device d = {0};
    tn_limits l = script_limits();
    l.profile = 0;
    fixture *f = delta_fixture(5, &delta_cases[1], true, &y);
    fx_section(f);
    fx_device_open(&d, &tn_plugin_entry, 1, NULL);
    void *program = fx_program(&d, f, &l, 0, NSLOT);
    script *s = calloc(1, sizeof *s);
    single_rows(s, true);
    for (uint32_t i = 0; i < 4; i++) {   /* something in the states that are read */
        s->seq[i].state_out = (int32_t)i;
        s->seq[i].flags = TN_SEQ_FRESH;
    }
    script_run(&d, program, &s->step);
    single_rows(s, true);
    uint64_t h = replay(&d, program, f, s, y, 4, times);
    free(s);
    d.table->release(program);
    fx_device_close(&d);
    fx_free(f);
    return h;
}

static uint64_t replay_model(uint32_t times)
{
    static const fx_llama experts = {.layers = 3, .hidden = 128, .ffn = 64, .q_heads = 4,
                                     .kv_heads = 1, .dim = 64, .vocab = 5000, .context = 1024,
                                     .form = TN_FORM_W4G, .group = 32, .head_form = TN_FORM_BF16,
                                     .qk_norm = 1, .nexpert = 16, .ntop = 4, .untied = 1};
    tn_limits l = script_limits();
    l.profile = 0;
    model *m = model_open(&tn_plugin_entry, &experts, 1, NULL, &l);
    single_rows(&m->s, false);
    uint64_t h = replay(&m->d, m->program, m->f, &m->s, m->logits, 4, times);
    model_close(m);
    return h;
}

static uint32_t replays = 10;

static void test_replays(void **state)
{
    (void)state;
    uint64_t delta = replay_delta(replays), model = replay_model(replays);
    printf("%u replays each: delta %016llx, attention, experts and sampling %016llx\n", replays,
           (unsigned long long)delta, (unsigned long long)model);
}

/* ---------------------------------------------------------------------------------- models */

/* A llama-like model: greedy tokens and log-probabilities of the device against the reference's
 * logits, a step in pieces against the step as a whole. */
static void test_model(void **state)
{
    static const fx_llama small = {.layers = 2, .hidden = 128, .ffn = 192, .q_heads = 4,
                                   .kv_heads = 2, .dim = 64, .vocab = 500, .context = 1024,
                                   .form = TN_FORM_W4G, .group = 64, .flags = FX_ZEROS,
                                   .head_form = TN_FORM_F16};
    static const fx_llama experts = {.layers = 2, .hidden = 128, .ffn = 64, .q_heads = 4,
                                     .kv_heads = 1, .dim = 64, .vocab = 500, .context = 1024,
                                     .form = TN_FORM_W4G, .group = 32, .head_form = TN_FORM_BF16,
                                     .qk_norm = 1, .nexpert = 16, .ntop = 4, .untied = 1};
    (void)state;
    for (uint32_t i = 0; i < 4; i++) {
        tn_limits l = script_limits();
        int32_t token[70];
        l.profile = i % 2;
        model *m = model_open(&tn_plugin_entry, i < 2 ? &small : &experts, 1, NULL, &l);
        reference *r = ref_new(m->f, l.rows_max, SCRIPT_BLOCK, 2 * SCRIPT_NBLOCK, 1);
        script_tokens(token, 70, 500);
        for (int32_t at = 0, n; at < 70; at += n) {
            n = at == 0 ? 60 : 1 + at % 3;
            n = at + n > 70 ? 70 - at : n;
            script_open(&m->s, m->number++);
            script_add(&m->s, token + at, n, at, NULL, SCRIPT_NBLOCK);
            tn_sampling *p = script_out(&m->s, n - 1);
            p->ntop = 3;
            ref_step(r, &m->s.step);
            const tn_results *got = script_run(&m->d, m->program, &m->s.step);
            const double *want = ref_row(r, m->logits, 0);
            int32_t best = 0;
            double sum = 0;
            for (int32_t t = 1; t < 500; t++)
                best = want[t] > want[best] ? t : best;
            for (int32_t t = 0; t < 500; t++)
                sum += exp(want[t] - want[best]);
            int32_t drawn = got->result[0].token;
            assert_true(drawn >= 0 && drawn < 500);
            if (fabs(want[drawn] - want[best]) > 0.02)
                fail_msg("model %u, %d rows at %d: token %d with %g; the best is %d with %g", i,
                         n, at, drawn, want[drawn], best, want[best]);
            double logprob = want[drawn] - want[best] - log(sum);
            if (!(fabs((double)got->result[0].logprob - logprob) < 0.03))
                fail_msg("model %u, %d rows at %d: log-probability %g, expected %g", i, n, at,
                         (double)got->result[0].logprob, logprob);
            assert_int_equal(got->result[0].ntop, 3);
            assert_int_equal(got->top_token[0], drawn);
        }
        ref_free(r);
        model_close(m);
    }
}

/* A token whose embedding is NaN beside one that is not: the row is counted where it is normed,
 * its output says so, and the neighbour's numbers are those it has alone. */
static void test_bad_rows(void **state)
{
    static const fx_llama small = {.layers = 2, .hidden = 128, .ffn = 192, .q_heads = 4,
                                   .kv_heads = 2, .dim = 64, .vocab = 500, .context = 1024,
                                   .form = TN_FORM_W4G, .group = 64, .head_form = TN_FORM_F32,
                                   .untied = 1};
    static const char *const series[] = {"cuda_nonfinite_rows_total{layer=\"0\"}",
                                         "cuda_nonfinite_rows_total{layer=\"1\"}",
                                         "cuda_nonfinite_rows_total{layer=\"end\"}"};
    tn_limits l = script_limits();
    tn_result good[2];
    float logit[2][500];
    tn_err err;
    (void)state;
    l.profile = 0;
    fixture *f = fx_new(11);
    fx_build_llama(f, &small);
    uint32_t norms = 0;        /* two a layer, then the last */
    for (uint32_t i = 0; i < f->recipe.nop; i++)
        if (f->op[i].kind == TN_OP_NORM)
            f->op[i].layer = norms < 4 ? norms++ / 2 : TN_NONE;
    const tn_op_embed *e = f->op[0].args;
    ((float *)(void *)f->data[e->w].codes)[7 * 128 + 5] = NAN;
    fx_device d = {0};
    fx_device_open(&d, &tn_plugin_entry, 1, NULL);
    void *program = fx_program(&d, f, &l, 2 * SCRIPT_NBLOCK, 0);
    script *s = calloc(1, sizeof *s);
    for (uint32_t turn = 0; turn < 2; turn++) {
        const int32_t block[2] = {1, 2}, token[2] = {9, 7};
        script_open(s, turn);
        for (uint32_t i = 0; i < 1 + turn; i++)
            script_out(s, script_add(s, &token[i], 1, 0, &block[i], 1)->row0);
        const tn_results *r = script_run(&d, program, &s->step);
        good[turn] = r->result[0];
        assert_int_equal(d.table->peek(program, fx_buffer_named(f, "logits"), 0, 1, logit[turn],
                                       &err), TN_OK);
        for (uint32_t i = 0; i < 3; i++)
            assert_true(fx_metric(&d, series[i]) == (turn == 0 ? 0 : i < 2 ? 2 : 1));
        if (turn == 1)
            assert_true(r->result[1].token == -1 && r->result[1].flags == TN_RESULT_NONFINITE);
    }
    assert_memory_equal(logit[0], logit[1], sizeof logit[0]);
    assert_int_equal(good[0].token, good[1].token);
    assert_int_equal(d.nwarning, 2);   /* one for the weight, one for the rows */
    assert_non_null(strstr(d.warning, "2 rows were not finite, at layer 0 first"));
    free(s);
    d.table->release(program);
    fx_device_close(&d);
    fx_free(f);
}

/* --replays N: a captured step N times, and nothing else. --few: for tools that make a card slow.
 * --only PATTERN: tests of such names. */
int main(int argc, char **argv)
{
    const struct CMUnitTest again[] = {cmocka_unit_test(test_replays)};
    const struct CMUnitTest some[] = {
        cmocka_unit_test(test_norm), cmocka_unit_test(test_row_operations),
        cmocka_unit_test(test_route_ties), cmocka_unit_test(test_bad_rows),
        cmocka_unit_test(test_replays),
    };
    if (argc > 2 && strcmp(argv[1], "--replays") == 0) {
        replays = (uint32_t)strtoul(argv[2], NULL, 10);
        return cmocka_run_group_tests_name("replays", again, NULL, NULL);
    }
    if (argc > 2 && strcmp(argv[1], "--only") == 0)
        cmocka_set_test_filter(argv[2]);
    if (argc > 1 && strcmp(argv[1], "--few") == 0)
        return cmocka_run_group_tests_name("few", some, NULL, NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_embed), cmocka_unit_test(test_norm), cmocka_unit_test(test_linear),
        cmocka_unit_test(test_requantized), cmocka_unit_test(test_requantized_nan),
        cmocka_unit_test(test_gate_up), cmocka_unit_test(test_row_operations),
        cmocka_unit_test(test_experts), cmocka_unit_test(test_route_ties),
        cmocka_unit_test(test_attention), cmocka_unit_test(test_f8_cache),
        cmocka_unit_test(test_f8_blocks), cmocka_unit_test(test_cache_types),
        cmocka_unit_test(test_delta),
        cmocka_unit_test(test_model), cmocka_unit_test(test_bad_rows),
        cmocka_unit_test(test_replays),
    };
    return cmocka_run_group_tests_name("cuda device", tests, NULL, NULL);
}
