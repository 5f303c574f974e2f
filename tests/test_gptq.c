/* SPDX-License-Identifier: Apache-2.0 */
/* test_gptq.c - the gptq plugin's reader: worked examples of the format, every width and both
 * zero conventions against a plain dequantizer written from the description, act-order, and
 * what must be refused. */
#include "fakeview.h"

#include <setjmp.h>
#include <stdlib.h>

#include <cmocka.h>

#define OPEN(b, ...) fake_bench_open(b, &tn_plugin_entry, __VA_ARGS__)
#define CLOSE(b) assert_int_equal(fake_bench_close(b), 0)
#define GPTQ "{\"quantization_config\": {\"quant_method\": \"gptq\", \"bits\": %d, " \
             "\"group_size\": %d, \"desc_act\": %s, \"sym\": %s, \"checkpoint_format\": \"%s\"}}"

/* ---------------------------------------------------------------------------- examples */

static void check_whole(fake_bench *b, uint64_t n, uint64_t k, const float *w)
{
    tn_err err;
    if (fake_rects(b, n, k, w, &err) != TN_OK)
        fail_msg("%s", err.text);
}

/* Q13, as the next one. 3-bit: q_i = (5 i + 3) mod 8 in three words; 32 rows of it. */
static void test_example_3_bit(void **state)
{
    static const uint32_t word[3] = {0x43C67543, 0x7543C675, 0xC67543C6};
    static const float head[8] = {-0.25f, -1, 0.25f, -0.5f, 0.75f, 0, -0.75f, 0.5f};
    uint32_t q[96], z[3] = {0xDB6DB6DB, 0xB6DB6DB6, 0x6DB6DB6D};
    uint16_t s[32];
    float w[32 * 32];
    fake_bench b;
    (void)state;
    for (int i = 0; i < 96; i++)
        q[i] = word[i / 32];
    for (int i = 0; i < 32; i++)
        s[i] = 0x3400;
    for (int i = 0; i < 32 * 32; i++)
        w[i] = head[i % 8];
    OPEN(&b, GPTQ, 3, 32, "false", "true", "gptq");
    fake_view_put(&b.view, "l.qweight", TN_I32, 2, 3, 32, q);
    fake_view_put(&b.view, "l.qzeros", TN_I32, 2, 1, 3, z);
    fake_view_put(&b.view, "l.scales", TN_F16, 2, 1, 32, s);
    check_whole(&b, 32, 32, w);
    CLOSE(&b);
    /* v2 of the same file. */
    static const uint32_t z2[3] = {0x24924924, 0x49249249, 0x92492492};
    OPEN(&b, GPTQ, 3, 32, "false", "true", "gptq_v2");
    fake_view_put(&b.view, "l.qweight", TN_I32, 2, 3, 32, q);
    fake_view_put(&b.view, "l.qzeros", TN_I32, 2, 1, 3, z2);
    fake_view_put(&b.view, "l.scales", TN_F16, 2, 1, 32, s);
    check_whole(&b, 32, 32, w);
    CLOSE(&b);
}

/* 4-bit with zero points 8 7 8 6 9 1 15 8, as v1 and as v2 store them. */
static void test_example_4_bit(void **state)
{
    static const uint16_t s[8] = {0x2C00, 0x2800, 0x2E66, 0x2A66, 0x251F, 0x2266, 0x3400, 0x23AE};
    static const uint32_t q[8] = {0x52FC9630, 0xAD951D95, 0xF1C794FA, 0x45F0AB5F,
                                  0x99922BB4, 0xEDCB3219, 0x31FDB97E, 0x852FC963};
    static const uint32_t z[2] = {0x7E085767, 0x8F196878};
    static const struct { int k; double w[8]; } rows[] = {
        {0, {-0.5, -0.0625, 0.19995117, 0.44995117, -0.10003662, 0.09997559, -0.25, -0.07501221}},
        {1, {-0.3125, 0.0625, 0.69970703, -0.04998779, 0.04000854, 0, -2, -0.02999878}},
        {5, {0.4375, 0.0625, 0.39990234, 0.44995117, 0, 0.13745117, 0, -0.08996582}},
        {7, {-0.1875, 0.09375, 0.69970703, -0.09997559, 0, 0.16247559, -3, 0}}};
    (void)state;
    for (int v = 0; v < 2; v++) {
        const tn_module m = {.size = sizeof m, .name = "l", .n = 8, .k = 8};
        const tn_rect r = {0, 8, 0, 8};
        float w[64];
        tn_err err;
        tn_form f;
        fake_bench b;
        OPEN(&b, GPTQ, 4, 8, "false", "false", v == 0 ? "gptq" : "gptq_v2");
        fake_view_put(&b.view, "l.qweight", TN_I32, 2, 1, 8, q);
        fake_view_put(&b.view, "l.qzeros", TN_I32, 2, 1, 1, &z[v]);
        fake_view_put(&b.view, "l.scales", TN_F16, 2, 1, 8, s);
        if (fake_matrix(b.q, b.self, &b.view.view, &m, &r, 3, &f, w, &err) != TN_OK)
            fail_msg("%s", err.text);
        for (size_t i = 0; i < 4; i++)
            for (int n = 0; n < 8; n++)
                if (fake_half(w[n * 8 + rows[i].k]) != fake_half((float)rows[i].w[n]))
                    fail_msg("v%d k %d n %d: found %.9g, wanted %.9g", v + 1, rows[i].k, n,
                             (double)w[n * 8 + rows[i].k], rows[i].w[n]);
        assert_int_equal(f.flags, TN_FORM_ZEROS);
        assert_int_equal(f.bits, 4);
        CLOSE(&b);
    }
}

static void test_example_8_bit(void **state)
{
    static const uint32_t q = 0x64FF0080, z = 0x7F7F7F7F;
    static const float w[4] = {0, -0.5f, 0.49609375f, -0.109375f};
    static const uint16_t s[4] = {0x1C00, 0x1C00, 0x1C00, 0x1C00};
    uint32_t all[4] = {q, q, q, q};
    float whole[16];
    fake_bench b;
    (void)state;
    for (int i = 0; i < 16; i++)
        whole[i] = w[i % 4];
    OPEN(&b, GPTQ, 8, 4, "false", "true", "gptq");
    fake_view_put(&b.view, "l.qweight", TN_I32, 2, 1, 4, all);
    fake_view_put(&b.view, "l.qzeros", TN_I32, 2, 1, 1, &z);
    fake_view_put(&b.view, "l.scales", TN_F16, 2, 1, 4, s);
    check_whole(&b, 4, 4, whole);
    CLOSE(&b);
}

static void test_example_2_bit(void **state)
{
    static const float w[16] = {-1, -0.5f, 0, 0.5f, 0.5f, 0, -0.5f, -1,
                                -0.5f, -0.5f, 0, 0, 0.5f, -1, 0.5f, -1};
    uint32_t q[16], z = 0x55555555;
    uint16_t s[16];
    float whole[256];
    fake_bench b;
    (void)state;
    for (int i = 0; i < 16; i++) {
        q[i] = 0x33A51BE4;
        s[i] = 0x3800;
    }
    for (int i = 0; i < 256; i++)
        whole[i] = w[i % 16];
    OPEN(&b, GPTQ, 2, 16, "false", "true", "gptq");
    fake_view_put(&b.view, "l.qweight", TN_I32, 2, 1, 16, q);
    fake_view_put(&b.view, "l.qzeros", TN_I32, 2, 1, 1, &z);
    fake_view_put(&b.view, "l.scales", TN_F16, 2, 1, 16, s);
    check_whole(&b, 16, 16, whole);
    CLOSE(&b);
}

/* Act-order; the example's one row stands in all eight that a word of zeros needs. */
static void test_example_order(void **state)
{
    static const int32_t g_idx[8] = {0, 1, 0, 1, 1, 0, 0, 1};
    static const float w[8] = {-3.5f, -1.5f, -2.5f, -1, -0.75f, -1, -0.5f, 0};
    static const int32_t perm[8] = {0, 2, 5, 6, 1, 3, 4, 7};
    uint32_t q[8], z[2] = {0x77777777, 0x77777777};
    uint16_t s[16];
    float whole[64], scale[16];
    uint8_t codes[32], zero[16];
    int32_t found[8];
    fake_bench b;
    (void)state;
    for (int i = 0; i < 8; i++) {
        q[i] = 0x87654321;
        s[i] = 0x3800;
        s[8 + i] = 0x3400;
    }
    for (int i = 0; i < 64; i++)
        whole[i] = w[i % 8];
    OPEN(&b, GPTQ, 4, 4, "true", "true", "gptq");
    fake_view_put(&b.view, "l.qweight", TN_I32, 2, 1, 8, q);
    fake_view_put(&b.view, "l.qzeros", TN_I32, 2, 2, 1, z);
    fake_view_put(&b.view, "l.scales", TN_F16, 2, 2, 8, s);
    fake_view_put(&b.view, "l.g_idx", TN_I32, 1, 8, 0, g_idx);
    check_whole(&b, 8, 8, whole);
    const tn_module m = {.size = sizeof m, .name = "l", .n = 8, .k = 8};
    const tn_rect r = {0, 8, 0, 8};
    tn_block out = {.size = sizeof out, .codes = codes, .scale = scale, .zero = zero,
                    .perm = found};
    tn_err err;
    tn_form f;
    assert_int_equal(b.q->form_of(b.self, &b.view.view, &m, &r, &f, &err), TN_OK);
    assert_int_equal(f.cols, 8);
    assert_int_equal(f.group, 4);
    assert_int_equal(f.flags, TN_FORM_PERM);
    assert_int_equal(b.q->read(b.self, &b.view.view, &m, &r, 0, 8, &out, &err), TN_OK);
    for (int i = 0; i < 8; i++)
        assert_int_equal(found[i], perm[i]);
    CLOSE(&b);
}

/* ---------------------------------------------------- widths against the description */

typedef struct made_case {
    uint64_t n, k, group;   /* group 0: -1 */
    uint32_t bits;
    bool v2, symmetric;
    int order;              /* 0: no g_idx; 1: as k / group; 2: shuffled; 3: all 0 */
} made_case;

static void put_stream(uint32_t *words, uint64_t step, uint64_t at, uint32_t bits, uint32_t v)
{
    for (uint32_t i = 0; i < bits; i++) {
        uint64_t bit = at * bits + i;
        words[bit / 32 * step] |= (v >> i & 1) << bit % 32;
    }
}

static void shuffle(int32_t *v, uint64_t count, uint32_t *seed)
{
    for (uint64_t i = count; i > 1; i--) {
        uint64_t j = fake_random(seed) % i;
        int32_t t = v[i - 1];
        v[i - 1] = v[j];
        v[j] = t;
    }
}

/* Puts a random module "l" and returns its values [n, k]. */
static float *make(fake_bench *b, const made_case *c)
{
    uint32_t seed = (uint32_t)(c->n + 5 * c->k + c->bits), bits = c->bits, levels = 1u << bits;
    uint64_t n = c->n, k = c->k, group = c->group != 0 ? c->group : k, ng = (k + group - 1) / group;
    uint32_t *q = calloc(k * bits / 32 * n, 4), *z = calloc(ng * (n * bits / 32), 4);
    uint32_t *zero = calloc(ng * n, 4);
    uint16_t *s = calloc(ng * n, 2);
    int32_t *g_idx = calloc(k, 4);
    float *w = malloc(n * k * sizeof *w);
    for (uint64_t i = 0; i < k; i++)
        g_idx[i] = c->order == 3 ? 0 : (int32_t)(i / group);
    if (c->order == 2)
        shuffle(g_idx, k, &seed);
    for (uint64_t g = 0; g < ng; g++)
        for (uint64_t r = 0; r < n; r++) {
            uint32_t v = c->symmetric ? levels / 2 : fake_random(&seed) % levels;
            zero[g * n + r] = v;
            put_stream(z + g * (n * bits / 32), 1, r, bits, (v - (c->v2 ? 0 : 1)) & (levels - 1));
            s[g * n + r] = fake_half(0.001f + (float)(fake_random(&seed) % 999) * 1e-4f);
        }
    for (uint64_t r = 0; r < n; r++)
        for (uint64_t i = 0; i < k; i++) {
            uint32_t code = fake_random(&seed) % levels;
            uint64_t at = (uint64_t)g_idx[i] * n + r;
            put_stream(q + r, n, i, bits, code);
            w[r * k + i] = (float)((int)code - (int)zero[at]) * fake_from_half(s[at]);
        }
    fake_view_put(&b->view, "l.qweight", TN_I32, 2, k * bits / 32, n, q);
    fake_view_put(&b->view, "l.qzeros", TN_I32, 2, ng, n * bits / 32, z);
    fake_view_put(&b->view, "l.scales", TN_F16, 2, ng, n, s);
    if (c->order != 0)
        fake_view_put(&b->view, "l.g_idx", TN_I32, 1, k, 0, g_idx);
    free(q);
    free(z);
    free(zero);
    free(s);
    free(g_idx);
    return w;
}

static void open_case(fake_bench *b, const made_case *c)
{
    OPEN(b, GPTQ, (int)c->bits, c->group != 0 ? (int)c->group : -1,
         c->order >= 2 ? "true" : "false", c->symmetric ? "true" : "false",
         c->v2 ? "gptq_v2" : "gptq");
}

static const made_case cases[] = {
    {8, 8, 8, 4, false, true, 0},       {192, 576, 64, 4, false, true, 1},
    {64, 256, 128, 4, true, false, 0},  {40, 256, 32, 4, false, true, 2},
    {40, 256, 64, 4, true, false, 2},   {24, 96, 0, 4, false, true, 3},
    {24, 96, 0, 4, false, true, 0},     {16, 576, 128, 4, false, true, 0},
    {16, 576, 128, 4, true, false, 2},  {8, 24, 0, 4, true, false, 0},
    {64, 128, 32, 8, false, true, 0},   {12, 76, 4, 8, true, false, 0},
    {36, 128, 64, 8, false, true, 2},   {32, 128, 32, 3, false, true, 0},
    {64, 192, 64, 3, true, false, 2},   {96, 96, 0, 3, true, false, 0},
    {16, 64, 16, 2, false, true, 0},    {48, 320, 64, 2, true, false, 2},
    {32, 1024, 128, 4, false, true, 2}, {8, 56, 24, 4, true, false, 0},
};

static void test_widths(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const made_case *c = &cases[i];
        fake_bench b;
        tn_err err;
        open_case(&b, c);
        float *w = make(&b, c);
        if (fake_rects(&b, c->n, c->k, w, &err) != TN_OK)
            fail_msg("case %zu: %s", i, err.text);
        if (b.host.nlog != 0)
            fail_msg("case %zu: %s", i, b.host.log);
        free(w);
        CLOSE(&b);
    }
}

static tn_form form(fake_bench *b, uint64_t n, uint64_t k, uint64_t col0, uint64_t col1)
{
    const tn_module m = {.size = sizeof m, .name = "l", .n = n, .k = k};
    const tn_rect r = {0, n, col0, col1};
    tn_err err;
    tn_form f;
    if (b->q->form_of(b->self, &b->view.view, &m, &r, &f, &err) != TN_OK)
        fail_msg("%s", err.text);
    return f;
}

/* Narrow widths sit around 8, so a symmetric file needs no zero points at any width. */
static void test_forms(void **state)
{
    static const uint32_t widths[4] = {2, 3, 4, 8};
    (void)state;
    for (int i = 0; i < 4; i++) {
        fake_bench b;
        const made_case c = {32, 128, 32, widths[i], i % 2 == 0, true, 0};
        open_case(&b, &c);
        float *w = make(&b, &c);
        tn_form f = form(&b, 32, 128, 0, 128);
        assert_int_equal(f.flags, 0);
        assert_int_equal(f.kind, widths[i] == 8 ? TN_FORM_W8G : TN_FORM_W4G);
        assert_int_equal(f.bits, widths[i]);
        assert_int_equal(f.group, 32);
        free(w);
        CLOSE(&b);
    }
    fake_bench b;
    const made_case c = {8, 1024, 128, 4, false, true, 2};
    open_case(&b, &c);
    float *w = make(&b, &c);
    tn_form f = form(&b, 8, 1024, 0, 1024);
    assert_int_equal(f.group, 128);
    assert_int_equal(f.cols, 1024);
    assert_int_equal(f.flags, TN_FORM_PERM);
    f = form(&b, 8, 1024, 256, 512);
    assert_int_equal(f.flags, TN_FORM_PERM);
    assert_int_equal(f.group, 16);
    assert_int_equal(f.cols, 368);   /* (256 + 8 * 15) in sixteens, whatever the order */
    free(w);
    CLOSE(&b);
}

/* --------------------------------------------------------------------------- refusals */

static void expect(fake_bench *b, uint64_t n, uint64_t k, tn_status wanted, const char *part)
{
    const tn_module m = {.size = sizeof m, .name = "l", .n = n, .k = k};
    const tn_rect r = {0, n, 0, k};
    tn_err err = {{0}, {0}, {0}};
    tn_form f;
    tn_status st = b->q->form_of(b->self, &b->view.view, &m, &r, &f, &err);
    if (st != wanted || (wanted != TN_OK && strstr(err.text, part) == NULL))
        fail_msg("status %d, wanted %d: \"%s\", wanted \"%s\"", st, wanted, err.text, part);
}

#define IN "in model.safetensors, wanted "

static void test_bad_tensors(void **state) /* Q04, Q05, Q06, Q08 */
{
    const made_case c = {16, 64, 32, 4, false, true, 2};
    int32_t g_idx[64] = {0};
    fake_bench b;
    (void)state;
    open_case(&b, &c);
    expect(&b, 16, 64, TN_NOINPUT, "l: has no tensor");
    float *w = make(&b, &c);
    expect(&b, 16, 64, TN_OK, "");
    expect(&b, 16, 72, TN_DATA, "l.qweight: found I32 [8, 16] " IN "I32 [9, 16]");
    expect(&b, 24, 64, TN_DATA, "l.qweight: found I32 [8, 16] " IN "I32 [8, 24]");
    expect(&b, 16, 60, TN_DATA, "k 60 at 4 bits fill no whole words, wanted multiples of 8");
    expect(&b, 12, 64, TN_DATA, "n 12 and k 64 at 4 bits");

    g_idx[7] = 2;
    fake_view_put(&b.view, "l.g_idx", TN_I32, 1, 64, 0, g_idx);
    expect(&b, 16, 64, TN_DATA, "l.g_idx: entry 7 is 2, wanted 0 to 1");
    g_idx[7] = INT32_MAX;
    fake_view_put(&b.view, "l.g_idx", TN_I32, 1, 64, 0, g_idx);
    expect(&b, 16, 64, TN_DATA, "l.g_idx: entry 7 is 2147483647, wanted 0 to 1");
    g_idx[7] = -1;
    fake_view_put(&b.view, "l.g_idx", TN_I32, 1, 64, 0, g_idx);
    expect(&b, 16, 64, TN_DATA, "l.g_idx: entry 7 is -1");
    fake_view_put(&b.view, "l.g_idx", TN_I32, 1, 65, 0, NULL);
    expect(&b, 16, 64, TN_DATA, "l.g_idx: found I32 [65] " IN "I32 [64]");
    fake_view_put(&b.view, "l.g_idx", TN_I64, 1, 64, 0, NULL);
    expect(&b, 16, 64, TN_DATA, "l.g_idx: found I64 [64] " IN "I32 [64]");
    fake_view_drop(&b.view, "l.g_idx");
    expect(&b, 16, 64, TN_DATA, "l.g_idx: is missing, wanted beside l.qweight because desc_act");
    fake_view_put(&b.view, "l.g_idx", TN_I32, 1, 64, 0, NULL);

    fake_view_put(&b.view, "l.g_idx", TN_I32, 2, 8, 8, NULL);
    expect(&b, 16, 64, TN_DATA, "l.g_idx: found I32 [8, 8] " IN "I32 [64]");
    fake_view_put(&b.view, "l.g_idx", TN_I32, 1, 64, 0, NULL);

    fake_view_put(&b.view, "l.scales", TN_F16, 2, 16, 2, NULL);
    expect(&b, 16, 64, TN_DATA, "l.scales: found F16 [16, 2] " IN "F16, BF16 or F32 [2, 16]");
    fake_view_put(&b.view, "l.scales", TN_F16, 2, 65, 16, NULL);
    expect(&b, 16, 64, TN_DATA, "l.scales: found F16 [65, 16] " IN "F16, BF16 or F32 [2, 16]");
    fake_view_put(&b.view, "l.scales", TN_F64, 2, 2, 16, NULL);
    expect(&b, 16, 64, TN_DATA, "l.scales: found F64");
    fake_view_drop(&b.view, "l.scales");
    expect(&b, 16, 64, TN_DATA, "l.scales: is missing");
    fake_view_put(&b.view, "l.scales", TN_F16, 2, 2, 16, NULL);
    fake_view_put(&b.view, "l.qzeros", TN_I32, 2, 2, 16, NULL);
    expect(&b, 16, 64, TN_DATA, "l.qzeros: found I32 [2, 16] " IN "I32 [2, 2]");
    fake_view_drop(&b.view, "l.qzeros");
    expect(&b, 16, 64, TN_DATA, "l.qzeros: is missing");
    fake_view_put(&b.view, "l.weight", TN_F16, 2, 16, 64, NULL);
    expect(&b, 16, 64, TN_DATA, "has weight beside qweight");
    fake_view_drop(&b.view, "l.qweight");
    expect(&b, 16, 64, TN_OK, "");
    expect(&b, 64, 16, TN_DATA, "l.weight: found F16 [16, 64] " IN "F16 [64, 16]");
    free(w);
    CLOSE(&b);
}

static void test_bad_scale(void **state)
{
    static const uint16_t nan_half = 0x7E00;
    const made_case c = {16, 64, 32, 4, false, true, 0};
    const tn_module m = {.size = sizeof m, .name = "l", .n = 16, .k = 64};
    const tn_rect r = {0, 16, 0, 64};
    float out[16 * 64];
    fake_bench b;
    tn_err err;
    tn_form f;
    (void)state;
    open_case(&b, &c);
    float *w = make(&b, &c);
    memcpy((char *)fake_view_data(&b.view, "l.scales") + 2 * 17, &nan_half, 2);
    assert_int_equal(fake_matrix(b.q, b.self, &b.view.view, &m, &r, 16, &f, out, &err), TN_DATA);
    assert_non_null(strstr(err.text, "l.scales: group 1 holds a scale that is infinite"));
    free(w);
    CLOSE(&b);
}

/* Q10: config and tensors disagree: the tensors are read, and it is said once. */
static void test_disagreement(void **state)
{
    static const struct {
        const char *config;
        made_case c;
        const char *said;
    } all[] = {
        {"\"bits\": 4, \"group_size\": 32", {32, 64, 32, 8, false, true, 0}, "is 8 bits wide"},
        {"\"bits\": 4, \"group_size\": 64", {32, 64, 16, 4, false, true, 0}, "has 4 groups"},
        {"\"bits\": 4, \"group_size\": 32, \"sym\": true, \"format\": \"gptq_v2\"",
         {32, 64, 32, 4, true, false, 0}, "zero points off the middle"},
        {"\"bits\": 4, \"group_size\": 32, \"sym\": false", {32, 64, 32, 4, false, false, 0},
         "holds the greatest field of a v1 file"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        fake_bench b;
        tn_err err;
        OPEN(&b, "{\"quantization_config\": {\"quant_method\": \"gptq\", %s}}", all[i].config);
        float *w = make(&b, &all[i].c);
        if (fake_rects(&b, all[i].c.n, all[i].c.k, w, &err) != TN_OK)
            fail_msg("case %zu: %s", i, err.text);
        assert_int_equal(b.host.nlog, 1);
        if (strstr(b.host.log, all[i].said) == NULL)
            fail_msg("\"%s\", wanted \"%s\"", b.host.log, all[i].said);
        fake_bench_restart(&b, 1);
        if (i != 3)   /* a hazard is no disagreement */
            assert_int_equal(fake_rects(&b, all[i].c.n, all[i].c.k, w, &err), TN_DATA);
        free(w);
        CLOSE(&b);
    }
}

/* A rule of the module's own is what the tensors are held against. */
static void test_own_rule(void **state)
{
    static const char *const fine[] = {
        "\"dynamic\": {\"-:k\": {}, \"+:l$\": {\"bits\": 8, \"group_size\": 16}}",
        "\"dynamic\": {\"l\": {\"bits\": 8, \"group_size\": 16, \"sym\": false}, \"-:l\": {}}",
        ("\"quant_method\": \"auto-round\", \"extra_config\": {\"l\": {\"bits\": 8, "
         "\"group_size\": 16}}"),
    };
    const made_case c = {32, 64, 16, 8, false, true, 0};
    (void)state;
    for (size_t i = 0; i < sizeof fine / sizeof *fine; i++) {
        fake_bench b;
        tn_err err;
        OPEN(&b, "{\"quantization_config\": {%s \"bits\": 4, \"group_size\": 32, \"desc_act\": "
                 "false, %s}}", i == 2 ? "" : "\"quant_method\": \"gptq\",", fine[i]);
        float *w = make(&b, &c);
        if (fake_rects(&b, c.n, c.k, w, &err) != TN_OK)
            fail_msg("%s: %s", fine[i], err.text);
        if (b.host.nlog != 0)
            fail_msg("%s: %s", fine[i], b.host.log);
        memset(&err, 0, sizeof err);
        assert_int_equal(b.q->claims(b.self, &b.view.view, &err), 100);
        assert_int_equal(b.host.nlog, 0);
        free(w);
        CLOSE(&b);
    }
}

/* Each allocation fails once: an error, no crash, nothing kept. */
static void test_no_memory(void **state)
{
    const made_case c = {16, 64, 32, 4, false, true, 2};
    const tn_module m = {.size = sizeof m, .name = "l", .n = 16, .k = 64};
    const tn_rect r = {0, 16, 0, 32};
    float out[16 * 64];
    fake_bench b;
    int fails = 0;
    (void)state;
    open_case(&b, &c);
    float *w = make(&b, &c);
    for (int i = 0;; i++, fails++) {
        tn_err err;
        tn_form f;
        atomic_store(&b.host.countdown, i);
        tn_status st = fake_matrix(b.q, b.self, &b.view.view, &m, &r, 16, &f, out, &err);
        if (st == TN_OK)
            break;
        assert_int_equal(st, TN_NO_MEMORY);
    }
    assert_true(fails >= 4);
    for (int i = 0; i < 100; i++) {
        tn_err why;
        atomic_store(&b.host.countdown, i);
        if (b.q->claims(b.self, &b.view.view, &why) == 100)
            break;
        assert_true(i < 99);
    }
    atomic_store(&b.host.countdown, -1);
    free(w);
    CLOSE(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_example_3_bit), cmocka_unit_test(test_example_4_bit),
        cmocka_unit_test(test_example_8_bit), cmocka_unit_test(test_example_2_bit),
        cmocka_unit_test(test_example_order), cmocka_unit_test(test_widths),
        cmocka_unit_test(test_forms),         cmocka_unit_test(test_bad_tensors),
        cmocka_unit_test(test_bad_scale),     cmocka_unit_test(test_disagreement),
        cmocka_unit_test(test_own_rule),      cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests_name("gptq", tests, NULL, NULL);
}
