/* SPDX-License-Identifier: Apache-2.0 */
/* test_cpu_delta.c - Gated DeltaNet of the cpu device, row after row and in chunks, against the
 * same in double precision: gates at their ends, keys that are all the same, every length of a
 * tail, and 100,000 rows one behind the other. */
#include "kernel.h"
#include "step_script.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

extern const tn_plugin tn_plugin_entry;

#define TABLE 211u                /* different rows */
#define ROWS_MOST 200
#define NSLOT 4u
/* Relative L2 of outputs and states. Operands here are fp32, so a chunk may be off by far
 * less than on a device with fp16 operands (2e-3). */
#define CLOSE 1e-5

enum keys { KEYS_RANDOM, KEYS_SAME, KEYS_OPPOSITE };

/* What the rows of a fixture hold. Gates are drawn from one of two ranges, by turns: a goes
 * through softplus and times exp(a_log) into the decay, b through a sigmoid into beta. */
typedef struct shape {
    const char *name;
    uint32_t k_heads, v_heads, k_dim, v_dim;
    enum keys keys;
    float a_log, a[2][2], b[2][2], v_size;
} shape;

static const shape shapes[] = {
    {"usual", 2, 4, 16, 32, KEYS_RANDOM, 0, {{-3, 1}, {-3, 1}}, {{-2, 2}, {-2, 2}}, 1},
    {"odd", 3, 3, 20, 37, KEYS_RANDOM, 0, {{-5, 1}, {-2, 0}}, {{-2, 2}, {0, 4}}, 1},
    {"of 128", 1, 2, 128, 128, KEYS_RANDOM, 0, {{-5, -2}, {-3, 1}}, {{-2, 2}, {0, 4}}, 1},
    {"g 0, beta 1", 1, 2, 16, 16, KEYS_RANDOM, 0, {{-200, -200}, {-200, -200}},
     {{200, 200}, {200, 200}}, 1},
    {"g 0, beta 0 or 1", 1, 2, 16, 16, KEYS_RANDOM, 0, {{-200, -200}, {-200, -200}},
     {{200, 200}, {-200, -200}}, 1},
    {"one key", 1, 2, 16, 16, KEYS_SAME, 0, {{-200, -200}, {-12, -8}}, {{200, 200}, {-1, 1}}, 1},
    {"one key, beta 1", 1, 1, 16, 16, KEYS_SAME, 0, {{-200, -200}, {-200, -200}},
     {{200, 200}, {200, 200}}, 1},
    {"a key and its opposite", 1, 2, 16, 16, KEYS_OPPOSITE, 0, {{-200, -200}, {-9, -4}},
     {{200, 200}, {0, 9}}, 1},
    {"g -100", 1, 2, 16, 16, KEYS_RANDOM, 0, {{100, 100}, {-7, -4}}, {{-1, 1}, {-1, 1}}, 1},
    {"g -7000 beside -0.001", 1, 2, 16, 16, KEYS_RANDOM, 2, {{1000, 1000}, {-9, -6}},
     {{-1, 1}, {-1, 1}}, 1},
    {"g without end", 1, 2, 16, 16, KEYS_RANDOM, 80, {{1e38f, 1e38f}, {-89, -80}},
     {{-1, 1}, {-1, 1}}, 1},
    {"values of 1e5", 1, 2, 16, 16, KEYS_RANDOM, 0, {{-9, -6}, {-4, -2}}, {{-1, 1}, {2, 9}}, 1e5f},
    {"values of 1e-15", 1, 2, 16, 16, KEYS_RANDOM, 0, {{-9, -6}, {-4, -2}}, {{-1, 1}, {2, 9}},
     1e-15f},
};
#define NSHAPE (sizeof shapes / sizeof *shapes)

static uint32_t channels_of(const shape *c)
{
    return 2 * c->k_heads * c->k_dim + c->v_heads * c->v_dim;
}

static void fill_row(fixture *f, const shape *c, uint32_t row, float *x)
{
    uint32_t key = c->k_heads * c->k_dim, value = c->v_heads * c->v_dim;
    for (uint32_t i = 0; i < 2 * key; i++)
        x[i] = fx_uniform(f, -2, 2);
    for (uint32_t i = key; c->keys != KEYS_RANDOM && i < 2 * key; i++) /* SiLU of little: x / 2 */
        x[i] = (c->keys == KEYS_OPPOSITE && row % 3 == 1 ? -0.01f : 0.01f) * (float)(1 + i % 5);
    for (uint32_t i = 0; i < value; i++)
        x[2 * key + i] = fx_uniform(f, -2, 2) * c->v_size;
    for (uint32_t i = 0; i < value; i++)
        x[2 * key + value + i] = fx_uniform(f, -2, 2);
    for (uint32_t i = 0; i < c->v_heads; i++) {
        x[2 * key + 2 * value + i] = fx_uniform(f, c->a[row % 2][0], c->a[row % 2][1]);
        x[2 * key + 2 * value + c->v_heads + i] = fx_uniform(f, c->b[row % 2][0],
                                                             c->b[row % 2][1]);
    }
}

/* EMBED of the table, DELTA. The convolution mixes rows unless keys must stay what they are. */
static fixture *delta_fixture(const shape *c, uint64_t seed, uint32_t *y)
{
    uint32_t channels = channels_of(c), value = c->v_heads * c->v_dim;
    uint32_t width = channels + value + 2 * c->v_heads;
    fixture *f = fx_new(seed);
    f->recipe.vocab = TABLE;
    uint32_t x = fx_buffer(f, TN_ROWS_TOKENS, width, "x");
    *y = fx_buffer(f, TN_ROWS_TOKENS, value, "y");
    tn_op_embed e = {.size = sizeof e, .out = x, .scale = 1};
    e.w = fx_matrix(f, TN_ROLE_EMBED, TABLE, width, TN_FORM_F32, 0, 0);
    for (uint32_t i = 0; i < TABLE; i++)
        fill_row(f, c, i, f->data[e.w].value + (uint64_t)i * width);
    memcpy(f->data[e.w].codes, f->data[e.w].value, (uint64_t)TABLE * width * sizeof(float));
    fx_op(f, TN_OP_EMBED, &e, "embed");
    f->state[0] = (tn_state_spec){.size = sizeof(tn_state_spec), .heads = c->v_heads,
                                  .k_dim = c->k_dim, .v_dim = c->v_dim,
                                  .conv_width = channels, .conv_keep = 3};
    f->recipe.nstate = 1;
    tn_op_delta op = {.size = sizeof op, .qkv = x, .z = x, .z_col = channels, .a = x,
                      .a_col = channels + value, .b = x, .b_col = channels + value + c->v_heads,
                      .out = *y, .k_heads = c->k_heads, .v_heads = c->v_heads,
                      .k_dim = c->k_dim, .v_dim = c->v_dim, .w_conv_bias = TN_NONE,
                      .gate_act = TN_ACT_SILU, .eps = 1e-6f};
    float mixes = c->keys == KEYS_RANDOM ? 0.3f : 0;
    op.w_conv = fx_vector(f, 4 * (uint64_t)channels, TN_FORM_F32, -mixes, mixes);
    for (uint32_t i = 0; i < channels; i++)
        f->data[op.w_conv].value[4 * i + 3] = 1;
    memcpy(f->data[op.w_conv].codes, f->data[op.w_conv].value, 16 * (uint64_t)channels);
    op.w_a_log = fx_vector(f, c->v_heads, TN_FORM_F32, c->a_log, c->a_log);
    op.w_dt_bias = fx_vector(f, c->v_heads, TN_FORM_F32, 0, 0);
    op.w_norm = fx_vector(f, c->v_dim, TN_FORM_F32, 0.5f, 1.5f);
    fx_op(f, TN_OP_DELTA, &op, "delta");
    fx_section(f);
    return f;
}

/* ------------------------------------------------------------------------------ comparing */

/* A device with one form of the rule. */
typedef struct form {
    fx_device d;
    void *program;
    uint64_t number;              /* of the next step */
    float *y;                     /* [256, width] */
    float *s;                     /* a slot */
} form;

static void form_open(form *m, fixture *f, const char *delta, uint32_t y)
{
    tn_limits l = script_limits();
    *m = (form){.d = {.delta = delta}};
    fx_device_open(&m->d, &tn_plugin_entry, 2, "auto");
    m->program = fx_program(&m->d, f, &l, 1, NSLOT);
    m->y = calloc((uint64_t)l.rows_max * f->buffer[y].width, sizeof *m->y);
    m->s = calloc(1, m->d.table->state_size(m->program));
}

static void form_close(form *m)
{
    free(m->y);
    free(m->s);
    m->d.table->release(m->program);
    fx_device_close(&m->d);
}

/* One sequence in slot 1, of which `done` rows were taken before. */
static void put_rows(script *s, const int32_t *token, int32_t n, int32_t done)
{
    script_open(s, 0);
    tn_seq *q = script_add(s, token, n, done > 0 ? 1 : 0, NULL, 1);
    q->state_in = q->state_out = 1;
    q->flags = done == 0 ? TN_SEQ_FRESH : 0;
}

static void form_run(form *m, script *s, uint32_t y)
{
    tn_err err;
    s->step.number = m->number++;
    script_run(&m->d, m->program, &s->step);
    if (m->d.table->peek(m->program, y, 0, s->step.nrow, m->y, &err) != TN_OK ||
        m->d.table->state_read(m->program, 1, m->s, &err) != TN_OK)
        fail_msg("%s", err.text);
}

/* |got - want| / |want|; where want is nothing to a float, |got|. Infinite when a number is not
 * finite. */
static double distance(const float *got, const double *want, uint64_t n)
{
    double diff = 0, size = 0;
    for (uint64_t i = 0; i < n; i++) {
        diff += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
        size += want[i] * want[i];
    }
    if (!isfinite(diff))
        return INFINITY;
    return size > 1e-60 ? sqrt(diff / size) : sqrt(diff);
}

static double state_distance(const form *m, const reference *r, const shape *c)
{
    return distance(m->s, ref_state(r, 0, 1), (uint64_t)c->v_heads * c->k_dim * c->v_dim);
}

static double out_distance(const form *m, const reference *r, const shape *c, uint32_t y,
                           uint32_t rows)
{
    uint64_t width = (uint64_t)c->v_heads * c->v_dim;
    double *want = calloc(rows * width, sizeof *want), off;
    for (uint32_t i = 0; i < rows; i++)
        memcpy(want + i * width, ref_row(r, y, i), width * sizeof *want);
    off = distance(m->y, want, rows * width);
    free(want);
    return off;
}

static void hold(const form *m, const reference *r, const shape *c, uint32_t y, uint32_t rows,
                 int32_t done)
{
    double out = out_distance(m, r, c, y, rows), state = state_distance(m, r, c);
    if (!(out <= CLOSE && state <= CLOSE))
        fail_msg("%s, %s, %u rows behind %d: outputs off by %g, state by %g; at most %g each",
                 c->name, m->d.delta, rows, done, out, state, CLOSE);
}

/* ----------------------------------------------------------------------------------- tests */

/* Every length from 1 to 200 (of the first shape; every third of the others), then some rows more
 * behind it. */
static void test_lengths(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < NSHAPE; i++) {
        uint32_t y;
        const shape *c = &shapes[i];
        fixture *f = delta_fixture(c, i, &y);
        reference *r = ref_new(f, 256, SCRIPT_BLOCK, 1, NSLOT);
        script *s = calloc(1, sizeof *s);
        form form[2];
        form_open(&form[0], f, "recurrent", y);
        form_open(&form[1], f, "chunked", y);
        int32_t least = c->k_dim == 128 ? 60 : 1, step = c->k_dim == 128 ? 35 : i > 0 ? 3 : 1;
        for (int32_t n = least; n <= ROWS_MOST; n += step) {
            int32_t token[ROWS_MOST], more = 1 + n * 37 % 140;
            for (int32_t turn = 0; turn < 2; turn++) {
                int32_t rows = turn == 0 ? n : more;
                for (int32_t j = 0; j < rows; j++)
                    token[j] = (int32_t)(fx_bits(f) % TABLE);
                put_rows(s, token, rows, turn * n);
                ref_step(r, &s->step);
                for (uint32_t j = 0; j < 2; j++) {
                    form_run(&form[j], s, y);
                    hold(&form[j], r, c, y, (uint32_t)rows, turn * n);
                }
            }
        }
        form_close(&form[0]);
        form_close(&form[1]);
        free(s);
        ref_free(r);
        fx_free(f);
    }
}

/* Chunks are chunks only where the option says so, and single rows never are one: the same bits
 * as row after row. */
static void test_option(void **state)
{
    uint32_t y;
    const shape *c = &shapes[0];
    fixture *f = delta_fixture(c, 1, &y);
    script *s = calloc(1, sizeof *s);
    form form[3];
    uint64_t size = (uint64_t)c->v_heads * c->v_dim * sizeof(float), n = 130;
    int32_t token[130];
    (void)state;
    form_open(&form[0], f, NULL, y);
    form_open(&form[1], f, "recurrent", y);
    form_open(&form[2], f, "chunked", y);
    script_tokens(token, 130, TABLE);
    for (uint32_t i = 0; i < 3; i++) {
        put_rows(s, token, (int32_t)n, 0);
        form_run(&form[i], s, y);
    }
    assert_memory_equal(form[0].y, form[1].y, n * size);
    assert_true(memcmp(form[2].y, form[1].y, n * size) != 0);
    for (int32_t j = 0; j < 130; j++) {
        put_rows(s, &token[j], 1, j);
        form_run(&form[2], s, y);
        assert_memory_equal(form[2].y, form[1].y + (uint64_t)j * size / sizeof(float), size);
    }
    for (uint32_t i = 0; i < 3; i++)
        form_close(&form[i]);
    free(s);
    fx_free(f);
}

/* A row that is no number spoils what is behind it and nothing before it, and no fresh
 * sequence in the same slot. */
static void test_spoilt_row(void **state)
{
    static const char *const delta[2] = {"recurrent", "chunked"};
    static const float spoilt[2] = {NAN, INFINITY};
    (void)state;
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t y, value = shapes[0].v_heads * shapes[0].v_dim, width = channels_of(&shapes[0]);
        fixture *f = delta_fixture(&shapes[0], 1, &y);
        fixture *g = delta_fixture(&shapes[0], 1, &y);
        float *last = f->data[0].value + (TABLE - 1) * (uint64_t)f->buffer[0].width;
        for (uint32_t j = 0; j < width; j++)
            last[j] = spoilt[i / 2];
        memcpy(f->data[0].codes + (TABLE - 1) * (uint64_t)f->buffer[0].width * sizeof(float),
               last, width * sizeof *last);
        form bad, good;
        script *s = calloc(1, sizeof *s);
        int32_t token[100];
        form_open(&bad, f, delta[i % 2], y);
        form_open(&good, g, delta[i % 2], y);
        script_tokens(token, 100, TABLE - 1);
        token[37] = TABLE - 1;
        put_rows(s, token, 100, 0);
        form_run(&bad, s, y);
        form_run(&good, s, y);
        assert_memory_equal(bad.y, good.y, 37 * value * sizeof(float));
        assert_false(isfinite(bad.y[37 * value]) || isfinite(bad.y[99 * value]));
        token[37] = 0;
        put_rows(s, token, 100, 0);
        form_run(&bad, s, y);
        form_run(&good, s, y);
        assert_memory_equal(bad.y, good.y, 100 * value * sizeof(float));
        form_close(&bad);
        form_close(&good);
        free(s);
        fx_free(f);
        fx_free(g);
    }
}

/* Slow decays and small corrections, so that a state remembers all of 100,000 rows; and decays
 * that are as far from a float's neighbours as they can be, always on the same side. */
static void test_drift(void **state)
{
    static const shape slow[] = {
        {"g -2.7e-6", 1, 1, 16, 16, KEYS_RANDOM, 0, {{-12.84f, -12.84f}, {-12.84f, -12.84f}},
         {{-7, -7}, {-7, -7}}, 1},
        {"g -4.3e-5", 1, 2, 16, 16, KEYS_RANDOM, 0, {{-10.05f, -10.05f}, {-10.05f, -10.05f}},
         {{-9, -6}, {-9, -6}}, 1},
    };
    static const struct { int32_t rows; double most; } bound[] = {
        {1, 1e-6}, {1000, 1e-5}, {64000, 1e-4}, {100000, 1e-4},
    };
    (void)state;
    for (uint32_t i = 0; i < 2; i++) {
        uint32_t y;
        fixture *f = delta_fixture(&slow[i], i, &y);
        reference *r = ref_new(f, 256, SCRIPT_BLOCK, 1, NSLOT);
        script *s = calloc(1, sizeof *s);
        form form[2];
        form_open(&form[0], f, "recurrent", y);
        form_open(&form[1], f, "chunked", y);
        for (int32_t done = 0, next = 0, n; done < 100000; done += n) {
            int32_t token[256];
            n = bound[next].rows - done < 256 ? bound[next].rows - done : 256;
            for (int32_t j = 0; j < n; j++)
                token[j] = (int32_t)(fx_bits(f) % TABLE);
            put_rows(s, token, n, done);
            ref_step(r, &s->step);
            for (uint32_t j = 0; j < 2; j++)
                form_run(&form[j], s, y);
            if (done + n < bound[next].rows)
                continue;
            for (uint32_t j = 0; j < 2; j++) {
                double off = state_distance(&form[j], r, &slow[i]);
                if (!(off <= bound[next].most))
                    fail_msg("%s, %s, state off by %g after %d rows; at most %g", slow[i].name,
                             form[j].d.delta, off, bound[next].rows, bound[next].most);
            }
            next++;
        }
        form_close(&form[0]);
        form_close(&form[1]);
        free(s);
        ref_free(r);
        fx_free(f);
    }
}

/* ------------------------------------------------------------------- the rule's kernel */

#define SIDE 160u

/* Deterministic, in (-1, 1). */
static float shaken(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return (float)(int32_t)*state * 0x1p-31f;
}

static void double_rule(const cpu_rule *r, double *s, double *o)
{
    double u[SIDE] = {0};
    for (uint32_t i = 0; i < r->rows; i++)
        for (uint32_t j = 0; j < r->cols; j++) {
            s[i * r->cols + j] *= r->slow ? 1.0 + (double)r->fade : (double)r->fade;
            u[j] += s[i * r->cols + j] * r->k[i];
        }
    for (uint32_t j = 0; j < r->cols; j++) {
        u[j] = r->beta * (r->v[j] - u[j]);
        o[j] = 0.0;
    }
    for (uint32_t i = 0; i < r->rows; i++)
        for (uint32_t j = 0; j < r->cols; j++) {
            s[i * r->cols + j] += r->k[i] * u[j];
            o[j] += s[i * r->cols + j] * r->q[i];
        }
}

/* Every level, every remainder of a vector; what lies behind the last column stays. */
static void hold_rule(const cpu_kernels *ker, uint32_t rows, uint32_t cols, bool slow)
{
    static float s[SIDE * SIDE + 1], q[SIDE], k[SIDE], v[SIDE], o[SIDE + 1];
    static double ds[SIDE * SIDE], want[SIDE];
    uint32_t state = rows * 1000 + cols;
    for (uint32_t i = 0; i < rows * cols; i++)
        ds[i] = s[i] = shaken(&state);
    for (uint32_t i = 0; i < SIDE; i++) {
        q[i] = shaken(&state) * 0.1f;
        k[i] = shaken(&state) * 0.1f;
        v[i] = shaken(&state);
    }
    s[rows * cols] = o[cols] = 77.0f;
    const cpu_rule r = {.s = s, .rows = rows, .cols = cols, .q = q, .k = k, .v = v, .o = o,
                        .slow = slow, .fade = slow ? -1e-3f : 0.25f, .beta = 0.75f};
    for (int step = 0; step < 3; step++) {
        ker->rule(&r);
        double_rule(&r, ds, want);
        for (uint32_t j = 0; j < cols; j++)
            if (fabs(o[j] - want[j]) > 1e-5)
                fail_msg("%s: %u x %u slow %d step %d: o[%u] %g, wanted %g", ker->name, rows, cols,
                         slow, step, j, (double)o[j], want[j]);
    }
    for (uint32_t i = 0; i < rows * cols; i++)
        if (fabs(s[i] - ds[i]) > 1e-5)
            fail_msg("%s: %u x %u slow %d: S[%u] %g, wanted %g", ker->name, rows, cols, slow, i,
                     (double)s[i], ds[i]);
    assert_true(s[rows * cols] == 77.0f && o[cols] == 77.0f);
}

static void test_rule(void **state)
{
    static const uint32_t side[] = {1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 128, 131};
    const cpu_kernels *ker;
    (void)state;
    for (uint32_t l = 0; (ker = cpu_kernels_at(l)) != NULL; l++)
        for (size_t c = 0; c < sizeof side / sizeof side[0]; c++)
            for (uint32_t rows = 1; rows <= 129; rows += 64)
                for (int slow = 0; slow < 2; slow++)
                    hold_rule(ker, rows, side[c], slow);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lengths), cmocka_unit_test(test_option),
        cmocka_unit_test(test_spoilt_row), cmocka_unit_test(test_drift),
        cmocka_unit_test(test_rule),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
