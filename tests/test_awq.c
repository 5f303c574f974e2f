/* SPDX-License-Identifier: Apache-2.0 */
/* test_awq.c - the awq plugin's reader: worked examples of the formats, every layout against
 * a plain dequantizer written from their description, rectangles of all kinds, and what must
 * be refused. */
#include "fakeview.h"

#include <math.h>
#include <setjmp.h>
#include <stdlib.h>

#include <cmocka.h>

#define GEMM "{\"quantization_config\": {\"quant_method\": \"awq\", \"bits\": 4, " \
             "\"group_size\": %d, \"zero_point\": true, \"version\": \"%s\"}}"
#define PACKED "{\"quantization_config\": {\"quant_method\": \"compressed-tensors\", " \
               "\"format\": \"pack-quantized\", \"config_groups\": {\"group_0\": {\"targets\": " \
               "[\"Linear\"], \"weights\": {\"num_bits\": %d, \"type\": \"int\", \"symmetric\": " \
               "%s, \"strategy\": \"%s\", \"group_size\": %s, \"actorder\": %s}}}, \"ignore\": " \
               "[\"lm_head\"], \"version\": \"0.19.0\"}}"

#define IN " in model.safetensors, wanted "
#define OPEN(b, ...) fake_bench_open(b, &tn_plugin_entry, __VA_ARGS__)

/* The whole module as values; fails the test when the plugin refuses. */
static tn_form whole(fake_bench *b, uint64_t n, uint64_t k, float *out)
{
    tn_err err = {{0}, {0}, {0}};
    tn_form f;
    const tn_module m = {.size = sizeof m, .name = "l", .n = n, .k = k};
    const tn_rect r = {0, n, 0, k};
    if (fake_matrix(b->q, b->self, &b->view.view, &m, &r, n, &f, out, &err) != TN_OK)
        fail_msg("%s", err.text);
    return f;
}

/* ---------------------------------------------------------------------------- examples */

static const uint16_t example_scales[8] = {0x2C00, 0x2800, 0x2E66, 0x2A66,
                                           0x251F, 0x2266, 0x3400, 0x23AE};

static void test_example_gemm(void **state)
{
    static const uint32_t q[4] = {0x75316420, 0x8ACE9BDF, 0x88887777, 0xA6C059F3};
    static const uint32_t z[1] = {0x88677988};
    static const uint16_t k0[8] = {0xB800, 0xB200, 0xB8CC, 0xB0CC, 0xAE67, 0xA8CC, 0xB400, 0xA3AE};
    static const uint16_t k3[8] = {0xB500, 0xB300, 0x3999, 0x34CC, 0x0000, 0xA666, 0xB800, 0x27AE};
    float w[32];
    fake_bench b;
    (void)state;
    OPEN(&b, GEMM, 4, "GEMM");
    fake_view_put(&b.view, "l.qweight", TN_I32, 2, 4, 1, q);
    fake_view_put(&b.view, "l.qzeros", TN_I32, 2, 1, 1, z);
    fake_view_put(&b.view, "l.scales", TN_F16, 2, 1, 8, example_scales);
    tn_form f = whole(&b, 8, 4, w);
    for (int n = 0; n < 8; n++) {
        assert_int_equal(fake_half(w[n * 4]), k0[n]);
        assert_int_equal(fake_half(w[n * 4 + 3]), k3[n]);
    }
    assert_int_equal(f.kind, TN_FORM_W4G);
    assert_int_equal(f.group, 4);
    assert_int_equal(f.flags, TN_FORM_ZEROS);
    assert_int_equal(f.bits, 4);
    assert_int_equal(f.file_bytes, 16 + 4 + 16);
    assert_int_equal(fake_bench_close(&b), 0);
}

/* q(n, k) = (n + k) mod 16 gives these half-words. */
static void test_example_gemv_fast(void **state)
{
    static const uint16_t expect[][2] = {{0, 0x8080},  {1, 0x9191},  {2, 0xA2A2},  {3, 0xB3B3},
                                         {8, 0x8080},  {9, 0x9191},  {16, 0x9191}, {17, 0xA2A2}};
    uint16_t q[64] = {0}, one[32];
    float w[256];
    fake_bench b;
    (void)state;
    for (uint32_t n = 0; n < 4; n++)
        for (uint32_t k = 0; k < 64; k++) {
            uint32_t h = k / 32, p = k / 8 % 4, re = k % 8;
            q[16 * n + 8 * h + re] |= (uint16_t)((n + k) % 16 << 4 * p);
        }
    for (size_t i = 0; i < sizeof expect / sizeof *expect; i++)
        assert_int_equal(q[expect[i][0]], expect[i][1]);
    for (int i = 0; i < 32; i++)
        one[i] = 0x3C00;
    OPEN(&b, GEMM, 64, "gemv_fast");
    fake_view_put(&b.view, "l.qweight", TN_I16, 2, 1, 64, q);
    /* One group pads to two words of eight: 16 rows of 4. */
    uint16_t s[64], z[64] = {0};
    for (int i = 0; i < 64; i++)
        s[i] = one[0];
    fake_view_put(&b.view, "l.scales", TN_F16, 2, 16, 4, s);
    fake_view_put(&b.view, "l.qzeros", TN_F16, 2, 16, 4, z);
    whole(&b, 4, 64, w);
    for (int n = 0; n < 4; n++)
        for (int k = 0; k < 64; k++)
            assert_true(w[n * 64 + k] == (float)((n + k) % 16));
    assert_int_equal(fake_bench_close(&b), 0);
}

static const uint32_t example_packed[4] = {0x76543210, 0xFEDCBA98, 0xA4D7B08F, 0x581C3E69};
static const uint16_t example_packed_scale[4] = {0x3C4D, 0x3E80, 0x3DCD, 0x3CF6};

static void put_example_packed(fake_bench *b)
{
    static const int64_t shape[2] = {2, 16};
    fake_view_put(&b->view, "l.weight_packed", TN_I32, 2, 2, 2, example_packed);
    fake_view_put(&b->view, "l.weight_scale", TN_BF16, 2, 2, 2, example_packed_scale);
    fake_view_put(&b->view, "l.weight_shape", TN_I64, 1, 2, 0, shape);
}

static void check_bf16(const float *found, const double *wanted, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (fake_bfloat(found[i]) != fake_bfloat((float)wanted[i]))
            fail_msg("value %zu: found %.9g, wanted %.9g", i, (double)found[i], wanted[i]);
}

static void test_example_packed(void **state)
{
    static const double sym[32] = {
        -0.10009765625, -0.08740234375, -0.0751953125, -0.0625, -0.050048828125, -0.03759765625,
        -0.0250244140625, -0.01251220703125, 0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75,
        0.69921875, 0, -0.80078125, 0.30078125, -0.10009765625, 0.5, -0.400390625, 0.2001953125,
        0.030029296875, -0.06005859375, 0.1796875, -0.150390625, 0.1201171875, -0.2099609375, 0,
        -0.08984375};
    static const double asym[32] = {
        -0.0625, -0.050048828125, -0.03759765625, -0.0250244140625, -0.01251220703125, 0,
        0.01251220703125, 0.0250244140625, -0.5, -0.25, 0, 0.25, 0.5, 0.75, 1, 1.25,
        0.69921875, 0, -0.80078125, 0.30078125, -0.10009765625, 0.5, -0.400390625, 0.2001953125,
        0.26953125, 0.1796875, 0.419921875, 0.08984375, 0.359375, 0.030029296875, 0.240234375,
        0.150390625};
    static const uint32_t zero[2] = {0x85, 0x0A};
    float w[32];
    fake_bench b;
    (void)state;
    OPEN(&b, PACKED, 4, "true", "group", "8", "null");
    put_example_packed(&b);
    tn_form f = whole(&b, 2, 16, w);
    check_bf16(w, sym, 32);
    assert_int_equal(f.flags, 0);
    assert_int_equal(f.group, 8);
    assert_int_equal(fake_bench_close(&b), 0);

    OPEN(&b, PACKED, 4, "false", "group", "8", "null");
    put_example_packed(&b);
    fake_view_put(&b.view, "l.weight_zero_point", TN_I32, 2, 1, 2, zero);
    f = whole(&b, 2, 16, w);
    check_bf16(w, asym, 32);
    assert_int_equal(f.flags, TN_FORM_ZEROS);
    assert_int_equal(fake_bench_close(&b), 0);
}

static void test_example_packed_8(void **state)
{
    static const uint32_t q[2] = {0x807F0100, 0xFFFE8281};
    static const double wanted[8] = {-1, -0.9921875, -0.0078125, 0, 0.0078125, 0.015625, 0.984375,
                                     0.9921875};
    static const uint16_t scale = 0x3C00;   /* bf16 2^-7 */
    float w[8];
    fake_bench b;
    (void)state;
    OPEN(&b, PACKED, 8, "true", "channel", "null", "null");
    fake_view_put(&b.view, "l.weight_packed", TN_I32, 2, 1, 2, q);
    fake_view_put(&b.view, "l.weight_scale", TN_BF16, 2, 1, 1, &scale);
    tn_form f = whole(&b, 1, 8, w);
    assert_int_equal(f.kind, TN_FORM_W8G);
    for (int i = 0; i < 8; i++)
        assert_true((double)w[i] == wanted[i]);
    assert_int_equal(fake_bench_close(&b), 0);
}

/* ------------------------------------------------- layouts against their description */

/* A random module "l" in one layout, and its values by the description of the format. */
typedef struct made {
    uint64_t n, k;
    float *w;   /* [n, k] */
} made;

static float random_scale(uint32_t *seed, uint16_t *half)
{
    *half = fake_half(0.001f + (float)(fake_random(seed) % 1000) * 1e-4f);
    return fake_from_half(*half);
}

static made made_new(uint64_t n, uint64_t k)
{
    made m = {n, k, malloc(n * k * sizeof *m.w)};
    assert_non_null(m.w);
    return m;
}

static made make_gemm(fake_bench *b, uint64_t n, uint64_t k, uint64_t group, bool symmetric)
{
    static const uint32_t order[8] = {0, 2, 4, 6, 1, 3, 5, 7};
    uint32_t seed = (uint32_t)(n * 31 + k);
    made m = made_new(n, k);
    uint64_t g, ng = k / group, words = n / 8;
    uint32_t *q = calloc(k * words, 4), *z = calloc(ng * words, 4);
    uint16_t *s = calloc(ng * n, 2);
    uint8_t *zero = calloc(ng * n, 1);
    for (g = 0; g < ng; g++)
        for (uint64_t c = 0; c < words; c++)
            for (uint32_t i = 0; i < 8; i++) {
                uint64_t col = 8 * c + order[i];
                zero[g * n + col] = symmetric ? 8 : fake_random(&seed) & 15;
                z[g * words + c] |= (uint32_t)zero[g * n + col] << 4 * i;
                random_scale(&seed, &s[g * n + col]);
            }
    for (uint64_t r = 0; r < k; r++)
        for (uint64_t c = 0; c < words; c++)
            for (uint32_t i = 0; i < 8; i++) {
                uint32_t code = fake_random(&seed) & 15;
                uint64_t col = 8 * c + order[i];
                q[r * words + c] |= code << 4 * i;
                g = r / group;
                m.w[col * k + r] =
                    (float)((int)code - zero[g * n + col]) * fake_from_half(s[g * n + col]);
            }
    fake_view_put(&b->view, "l.qweight", TN_I32, 2, k, words, q);
    fake_view_put(&b->view, "l.qzeros", TN_I32, 2, ng, words, z);
    fake_view_put(&b->view, "l.scales", TN_F16, 2, ng, n, s);
    free(q);
    free(z);
    free(s);
    free(zero);
    return m;
}

static uint64_t zero_words(uint64_t k, uint64_t group)
{
    uint64_t unit = group >= 128 ? 1 : group == 64 ? 2 : 4, words = (k / group + 7) / 8;
    return (words + unit - 1) / unit * unit;
}

static made make_gemv(fake_bench *b, uint64_t n, uint64_t k, uint64_t group, bool fast)
{
    uint32_t seed = (uint32_t)(n + k * 7);
    made m = made_new(n, k);
    uint64_t zw = zero_words(k, group);
    uint32_t *q = calloc(n * k / 8, 4), *z = calloc(n * zw, 4);
    uint16_t *qf = calloc(n / 4 * k, 2), *s = calloc(n * zw * 8, 2), *zf = calloc(n * zw * 8, 2);
    for (uint64_t r = 0; r < n; r++)
        for (uint64_t c = 0; c < k; c++) {
            uint64_t g = c / group, at = fast ? g * n + r : r * zw * 8 + g;
            if (c % group == 0) {
                uint32_t zero = fake_random(&seed) & 15;
                float scale = random_scale(&seed, &s[at]);
                z[r * zw + g / 8] |= zero << 4 * (g % 8);
                zf[at] = fake_half(-scale * (float)zero);
            }
            uint32_t code = fake_random(&seed) & 15;
            uint32_t zero = z[r * zw + g / 8] >> 4 * (g % 8) & 15;
            q[r * (k / 8) + c / 8] |= code << 4 * (c % 8);
            qf[r / 4 * k + c / 64 * 64 + r % 4 * 16 + c / 32 % 2 * 8 + c % 8] |=
                (uint16_t)(code << 4 * (c / 8 % 4));
            m.w[r * k + c] = (float)((int)code - (int)zero) * fake_from_half(s[at]);
        }
    if (fast) {
        fake_view_put(&b->view, "l.qweight", TN_I16, 2, n / 4, k, qf);
        fake_view_put(&b->view, "l.qzeros", TN_F16, 2, zw * 8, n, zf);
        fake_view_put(&b->view, "l.scales", TN_F16, 2, zw * 8, n, s);
    } else {
        fake_view_put(&b->view, "l.qweight", TN_I32, 2, n, k / 8, q);
        fake_view_put(&b->view, "l.qzeros", TN_I32, 2, n, zw, z);
        fake_view_put(&b->view, "l.scales", TN_F16, 2, n, zw * 8, s);
    }
    free(q);
    free(z);
    free(qf);
    free(zf);
    free(s);
    return m;
}

#define ZERO_NONE 0
#define ZERO_WORDS 1
#define ZERO_BYTES 2

typedef struct packed_case {
    uint64_t n, k, group;   /* group 0: channel */
    uint32_t bits;
    int zeros;
    int order;              /* 0: none; 1: g_idx as c / group; 2: shuffled; 3: all -1 */
    bool one_scale;         /* strategy tensor */
} packed_case;

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

static made make_packed(fake_bench *b, const packed_case *p)
{
    uint32_t seed = (uint32_t)(p->n * 3 + p->k + p->bits), bits = p->bits;
    int half = 1 << (bits - 1);
    uint64_t n = p->n, k = p->k, group = p->group != 0 ? p->group : k;
    uint64_t ng = (k + group - 1) / group, words = (k * bits + 31) / 32;
    uint64_t zrows = (n * bits + 31) / 32;
    made m = made_new(n, k);
    uint32_t *q = calloc(n * words, 4), *z = calloc(zrows * ng, 4);
    uint16_t *s = calloc(n * ng, 2);
    int8_t *zero = calloc(n * ng, 1);
    int32_t *g_idx = calloc(k, 4), *used = calloc(k, 4);
    const int64_t shape[2] = {(int64_t)n, (int64_t)k};
    for (uint64_t c = 0; c < k; c++)
        used[c] = g_idx[c] = (int32_t)(c / group);
    if (p->order == 2) {
        shuffle(g_idx, k, &seed);
        memcpy(used, g_idx, k * 4);
    }
    for (uint64_t c = 0; c < k && p->order == 3; c++)
        g_idx[c] = -1;
    for (uint64_t i = 0; i < n * ng; i++) {
        s[i] = fake_bfloat(0.01f + (float)(fake_random(&seed) % 100) * 1e-3f);
        if (p->one_scale)
            s[i] = s[0];
        if (p->zeros != ZERO_NONE)
            zero[i] = (int8_t)((int)(fake_random(&seed) % (2u * half)) - half);
        put_stream(z + i % ng, ng, i / ng, bits, (uint32_t)(zero[i] + half));
    }
    for (uint64_t r = 0; r < n; r++)
        for (uint64_t c = 0; c < k; c++) {
            uint32_t code = fake_random(&seed) % (2u * half), sbits;
            uint64_t i = r * ng + (uint64_t)used[c];
            float scale;
            put_stream(q + r * words, 1, c, bits, code);
            sbits = (uint32_t)s[i] << 16;
            memcpy(&scale, &sbits, 4);
            m.w[r * k + c] = (float)((int)code - half - zero[i]) * scale;
        }
    fake_view_put(&b->view, "l.weight_packed", TN_I32, 2, n, words, q);
    if (p->one_scale)
        fake_view_put(&b->view, "l.weight_scale", TN_BF16, 1, 1, 0, s);
    else
        fake_view_put(&b->view, "l.weight_scale", TN_BF16, 2, n, ng, s);
    fake_view_put(&b->view, "l.weight_shape", TN_I64, 1, 2, 0, shape);
    if (p->zeros == ZERO_WORDS)
        fake_view_put(&b->view, "l.weight_zero_point", TN_I32, 2, zrows, ng, z);
    if (p->zeros == ZERO_BYTES)
        fake_view_put(&b->view, "l.weight_zero_point", TN_I8, 2, n, ng, zero);
    if (p->order != 0)
        fake_view_put(&b->view, "l.weight_g_idx", TN_I32, 1, k, 0, g_idx);
    free(q);
    free(z);
    free(s);
    free(zero);
    free(g_idx);
    free(used);
    return m;
}

/* The module and many rectangles of it equal `m`, exactly. */
static void check_rects(fake_bench *b, const made *m, const char *what)
{
    tn_err err;
    if (fake_rects(b, m->n, m->k, m->w, &err) != TN_OK)
        fail_msg("%s: %s", what, err.text);
}

static void test_gemm(void **state)
{
    static const struct { uint64_t n, k, group; } all[] = {
        {8, 4, 4},     {8, 8, 8},      {192, 576, 64}, {64, 128, 32}, {256, 256, 128},
        {136, 320, 64}, {48, 576, 576}, {16, 24, 24},   {264, 96, 32}, {8, 6, 3},
        {24, 9, 3},     {16, 45, 45}};
    (void)state;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        fake_bench b;
        char what[64];
        snprintf(what, sizeof what, "gemm n %d k %d group %d", (int)all[i].n, (int)all[i].k,
                 (int)all[i].group);
        OPEN(&b, GEMM, (int)all[i].group, "gemm");
        made m = make_gemm(&b, all[i].n, all[i].k, all[i].group, false);
        check_rects(&b, &m, what);
        assert_int_equal(b.host.nlog, 0);
        free(m.w);
        assert_int_equal(fake_bench_close(&b), 0);
    }
}

static void test_gemv(void **state)
{
    static const struct { uint64_t n, k, group; } all[] = {
        {64, 128, 32}, {8, 512, 128}, {12, 2048, 64}, {256, 256, 32}, {20, 192, 64}, {4, 640, 640}};
    (void)state;
    for (size_t i = 0; i < 2 * sizeof all / sizeof *all; i++) {
        fake_bench b;
        char what[64];
        bool fast = i % 2 == 1;
        snprintf(what, sizeof what, "gemv%s n %d k %d group %d", fast ? "_fast" : "",
                 (int)all[i / 2].n, (int)all[i / 2].k, (int)all[i / 2].group);
        OPEN(&b, GEMM, (int)all[i / 2].group, fast ? "gemv_fast" : "gemv");
        made m = make_gemv(&b, all[i / 2].n, all[i / 2].k, all[i / 2].group, fast);
        check_rects(&b, &m, what);
        assert_int_equal(b.host.nlog, 0);
        free(m.w);
        assert_int_equal(fake_bench_close(&b), 0);
    }
}

static const packed_case packed_cases[] = {
    {64, 128, 32, 4, ZERO_NONE, 0, false},   {192, 576, 64, 4, ZERO_WORDS, 0, false},
    {10, 36, 0, 4, ZERO_NONE, 0, false},     {9, 33, 11, 4, ZERO_WORDS, 0, false},
    {16, 9, 0, 8, ZERO_NONE, 0, false},      {24, 96, 32, 8, ZERO_WORDS, 0, false},
    {24, 96, 32, 8, ZERO_BYTES, 0, false},   {13, 64, 16, 4, ZERO_BYTES, 0, false},
    {32, 256, 0, 8, ZERO_NONE, 0, true},     {40, 256, 64, 4, ZERO_WORDS, 2, false},
    {40, 256, 64, 4, ZERO_NONE, 1, false},   {40, 256, 64, 8, ZERO_WORDS, 2, false},
    {40, 256, 64, 4, ZERO_NONE, 3, false},   {16, 100, 32, 4, ZERO_NONE, 0, false},
    {16, 128, 32, 3, ZERO_WORDS, 0, false},  {16, 128, 32, 2, ZERO_NONE, 0, false},
    {16, 128, 32, 1, ZERO_WORDS, 0, false},  {16, 128, 32, 5, ZERO_WORDS, 0, false},
    {17, 120, 40, 6, ZERO_WORDS, 0, false},  {16, 128, 64, 7, ZERO_NONE, 2, false},
    {5, 20, 4, 3, ZERO_NONE, 0, false},      {1, 8, 0, 4, ZERO_NONE, 0, false},
};

static void open_packed(fake_bench *b, const packed_case *p)
{
    char group[32] = "null";
    if (p->group != 0)
        snprintf(group, sizeof group, "%d", (int)p->group);
    OPEN(b, PACKED, (int)p->bits, p->zeros == ZERO_NONE ? "true" : "false",
                p->one_scale ? "tensor" : p->group != 0 ? "group" : "channel", group,
                p->order == 1 || p->order == 2 ? "\"group\"" : "null");
}

static void test_packed(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof packed_cases / sizeof *packed_cases; i++) {
        const packed_case *p = &packed_cases[i];
        fake_bench b;
        char what[80];
        snprintf(what, sizeof what, "packed case %d: n %d k %d bits %d", (int)i, (int)p->n,
                 (int)p->k, (int)p->bits);
        open_packed(&b, p);
        made m = make_packed(&b, p);
        check_rects(&b, &m, what);
        if (b.host.nlog != 0)
            fail_msg("%s: %s", what, b.host.log);
        free(m.w);
        assert_int_equal(fake_bench_close(&b), 0);
    }
}

/* ------------------------------------------------------------------------------- forms */

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

/* The group that comes out of cuts, and when a permutation is needed at all. */
static void test_groups(void **state)
{
    static const struct { uint64_t k, group, col0, col1, wanted; } gemm[] = {
        {512, 128, 0, 512, 128}, {512, 128, 64, 128, 64},  {512, 128, 96, 288, 32},
        {576, 576, 0, 576, 576}, {576, 576, 0, 72, 8},     {256, 128, 0, 80, 16},
        {640, 128, 0, 640, 128}, {24, 24, 0, 24, 8},       {96, 96, 0, 96, 96}};
    fake_bench b;
    (void)state;
    for (size_t i = 0; i < sizeof gemm / sizeof *gemm; i++) {
        OPEN(&b, GEMM, (int)gemm[i].group, "gemm");
        made m = make_gemm(&b, 8, gemm[i].k, gemm[i].group, false);
        tn_form f = form(&b, 8, gemm[i].k, gemm[i].col0, gemm[i].col1);
        assert_int_equal(f.group, gemm[i].wanted);
        assert_int_equal(f.flags, TN_FORM_ZEROS);
        assert_int_equal(f.cols, gemm[i].col1 - gemm[i].col0);
        free(m.w);
        assert_int_equal(fake_bench_close(&b), 0);
    }
    /* Whole act-order groups need no padding; a shard's do, and not much. */
    const packed_case p = {8, 1024, 128, 4, ZERO_NONE, 2, false};
    open_packed(&b, &p);
    made m = make_packed(&b, &p);
    tn_form f = form(&b, 8, 1024, 0, 1024);
    assert_int_equal(f.group, 128);
    assert_int_equal(f.cols, 1024);
    assert_int_equal(f.flags, TN_FORM_PERM);
    f = form(&b, 8, 1024, 256, 512);
    assert_int_equal(f.group, 16);
    assert_int_equal(f.cols, 368);   /* (256 + 8 * 15) in sixteens, whatever the order */
    assert_int_equal(f.flags, TN_FORM_PERM);
    free(m.w);
    assert_int_equal(fake_bench_close(&b), 0);
    /* Groups that are already in order are no permutation. */
    const packed_case sorted = {8, 256, 64, 4, ZERO_NONE, 1, false};
    open_packed(&b, &sorted);
    m = make_packed(&b, &sorted);
    assert_int_equal(form(&b, 8, 256, 0, 256).flags, 0);
    free(m.w);
    assert_int_equal(fake_bench_close(&b), 0);
    /* Zero points of 8 throughout are no zero points. */
    OPEN(&b, GEMM, 32, "gemm");
    m = make_gemm(&b, 64, 64, 32, true);
    assert_int_equal(form(&b, 64, 64, 0, 64).flags, 0);
    free(m.w);
    assert_int_equal(fake_bench_close(&b), 0);
}

static void test_plain(void **state)
{
    static const uint32_t kinds[3] = {TN_FORM_F32, TN_FORM_F16, TN_FORM_BF16};
    static const uint32_t dtypes[3] = {TN_F32, TN_F16, TN_BF16};
    uint32_t seed = 5;
    (void)state;
    for (int t = 0; t < 3; t++) {
        fake_bench b;
        uint16_t half[15];
        float full[15];
        made m = made_new(3, 5);
        for (int i = 0; i < 15; i++) {
            full[i] = (float)(fake_random(&seed) % 256) - 100;   /* exact in all three */
            half[i] = t == 1 ? fake_half(full[i]) : fake_bfloat(full[i]);
            m.w[i] = full[i];
        }
        OPEN(&b, GEMM, 128, "gemm");
        fake_view_put(&b.view, "l.weight", dtypes[t], 2, 3, 5, t == 0 ? (void *)full : half);
        check_rects(&b, &m, "plain");
        tn_form f = form(&b, 3, 5, 0, 5);
        assert_int_equal(f.kind, kinds[t]);
        assert_int_equal(f.bits, t == 0 ? 32 : 16);
        assert_int_equal(f.group, 0);
        free(m.w);
        assert_int_equal(fake_bench_close(&b), 0);
    }
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
    if (wanted == TN_OK)
        return;
    /* What form_of refuses, read refuses or serves, but it ends. */
    uint8_t codes[8192], zero[1024];
    float scale[1024];
    tn_block out = {.size = sizeof out, .codes = codes, .scale = scale, .zero = zero};
    if (n * k <= sizeof codes)
        b->q->read(b->self, &b->view.view, &m, &r, 0, n, &out, &err);
}

static void test_bad_gemm(void **state) /* Q06, Q08 */
{
    fake_bench b;
    (void)state;
    OPEN(&b, GEMM, 32, "gemm");
    expect(&b, 16, 64, TN_NOINPUT, "has no tensor");
    made m = make_gemm(&b, 16, 64, 32, false);
    expect(&b, 16, 64, TN_OK, "");
    expect(&b, 16, 32, TN_DATA, "l.qweight: found I32 [64, 2]" IN "I32 [32, 2]");
    expect(&b, 12, 64, TN_DATA, "n is 12, wanted a multiple of 8");
    expect(&b, 0, 64, TN_DATA, "n 0");

    fake_view_put(&b.view, "l.scales", TN_F16, 2, 16, 2, NULL);   /* transposed */
    expect(&b, 16, 64, TN_DATA, "l.scales: found F16 [16, 2]" IN "F16, BF16 or F32 [2, 16]");
    fake_view_put(&b.view, "l.scales", TN_I32, 2, 2, 16, NULL);
    expect(&b, 16, 64, TN_DATA, "l.scales: found I32");
    fake_view_put(&b.view, "l.scales", TN_F16, 2, 3, 16, NULL);   /* 64 is no multiple of 3 */
    expect(&b, 16, 64, TN_DATA, "wanted F16, BF16 or F32 [2, 16]");
    fake_view_put(&b.view, "l.scales", TN_F16, 2, 2, 16, NULL);
    fake_view_put(&b.view, "l.qzeros", TN_I32, 2, 2, 3, NULL);
    expect(&b, 16, 64, TN_DATA, "l.qzeros: found I32 [2, 3]" IN "I32 [2, 2]");
    fake_view_drop(&b.view, "l.qzeros");
    expect(&b, 16, 64, TN_DATA, "l.qzeros: is missing");
    fake_view_put(&b.view, "l.qzeros", TN_I32, 2, 2, 2, NULL);
    fake_view_drop(&b.view, "l.scales");
    expect(&b, 16, 64, TN_DATA, "l.scales: is missing");
    fake_view_put(&b.view, "l.scales", TN_F16, 2, 2, 16, NULL);
    fake_view_put(&b.view, "l.weight", TN_F16, 2, 16, 64, NULL);
    expect(&b, 16, 64, TN_DATA, "has weight beside qweight");
    fake_view_drop(&b.view, "l.qweight");
    fake_view_put(&b.view, "l.weight", TN_F16, 2, 64, 16, NULL);
    expect(&b, 16, 64, TN_DATA, "l.weight: found F16 [64, 16]" IN "F16 [16, 64]");
    fake_view_put(&b.view, "l.weight", TN_I8, 2, 16, 64, NULL);
    expect(&b, 16, 64, TN_DATA, "found I8, wanted F32, F16 or BF16");
    fake_view_drop(&b.view, "l.weight");
    fake_view_put(&b.view, "l.weight_packed", TN_I32, 2, 16, 8, NULL);
    expect(&b, 16, 64, TN_DATA, "quant_method is not compressed-tensors");
    free(m.w);
    assert_int_equal(fake_bench_close(&b), 0);

    OPEN(&b, GEMM, 48, "gemm");   /* as many groups as 48, 48 and 8 columns would make */
    fake_view_put(&b.view, "l.qweight", TN_I32, 2, 104, 1, NULL);
    fake_view_put(&b.view, "l.scales", TN_F16, 2, 3, 8, NULL);
    fake_view_put(&b.view, "l.qzeros", TN_I32, 2, 3, 1, NULL);
    expect(&b, 8, 104, TN_DATA, "l.scales: has 3 groups for 104 columns");
    assert_int_equal(fake_bench_close(&b), 0);
}

static void test_bad_values(void **state)
{
    static const uint16_t wrong[3] = {0x7C00, 0xFC01, 0xFC00};
    const tn_module mod = {.size = sizeof mod, .name = "l", .n = 16, .k = 64};
    const tn_rect r = {0, 16, 0, 64};
    fake_bench b;
    (void)state;
    for (int i = 0; i < 3; i++) {
        float w[16 * 64];
        tn_err err;
        tn_form f;
        OPEN(&b, GEMM, 32, "gemm");
        made m = make_gemm(&b, 16, 64, 32, false);
        memcpy((char *)fake_view_data(&b.view, "l.scales") + 2 * (16 + 5), &wrong[i], 2);
        tn_status st = fake_matrix(b.q, b.self, &b.view.view, &mod, &r, 16, &f, w, &err);
        assert_int_equal(st, TN_DATA);
        assert_non_null(strstr(err.text, "l.scales"));
        assert_non_null(strstr(err.text, "group 1"));
        free(m.w);
        assert_int_equal(fake_bench_close(&b), 0);
    }
}

static void test_bad_packed(void **state) /* Q04, Q05, Q06 */
{
    const packed_case p = {16, 64, 32, 4, ZERO_WORDS, 2, false};
    int32_t g_idx[64] = {0};
    int64_t shape[2] = {16, 60};
    int8_t zero[32] = {0};
    fake_bench b;
    (void)state;
    open_packed(&b, &p);
    made m = make_packed(&b, &p);
    expect(&b, 16, 64, TN_OK, "");
    expect(&b, 16, 72, TN_DATA, "l.weight_packed: found I32 [16, 8]" IN "I32 [16, 9]");
    expect(&b, 24, 64, TN_DATA, "wanted I32 [24, 8]");

    g_idx[5] = 2;
    fake_view_put(&b.view, "l.weight_g_idx", TN_I32, 1, 64, 0, g_idx);
    expect(&b, 16, 64, TN_DATA, "l.weight_g_idx: entry 5 is 2, wanted 0 to 1");
    g_idx[5] = -1;
    fake_view_put(&b.view, "l.weight_g_idx", TN_I32, 1, 64, 0, g_idx);
    expect(&b, 16, 64, TN_DATA, "entry 5 is -1");
    g_idx[0] = -1;
    fake_view_put(&b.view, "l.weight_g_idx", TN_I32, 1, 64, 0, g_idx);
    expect(&b, 16, 64, TN_DATA, "entry 0 is -1 but entry 1 is 0");
    fake_view_put(&b.view, "l.weight_g_idx", TN_I32, 1, 63, 0, NULL);
    expect(&b, 16, 64, TN_DATA, "l.weight_g_idx: found I32 [63]" IN "I32 [64]");
    fake_view_put(&b.view, "l.weight_g_idx", TN_I64, 1, 64, 0, NULL);
    expect(&b, 16, 64, TN_DATA, "found I64");
    fake_view_drop(&b.view, "l.weight_g_idx");
    expect(&b, 16, 64, TN_DATA, "l.weight_g_idx: is missing");
    fake_view_put(&b.view, "l.weight_g_idx", TN_I32, 1, 64, 0, NULL);

    fake_view_put(&b.view, "l.weight_shape", TN_I64, 1, 2, 0, shape);
    expect(&b, 16, 64, TN_DATA, "l.weight_shape: says [16, 60], wanted [16, 64]");
    fake_view_drop(&b.view, "l.weight_shape");
    zero[2] = -9;
    fake_view_put(&b.view, "l.weight_zero_point", TN_I8, 2, 16, 2, zero);
    expect(&b, 16, 64, TN_DATA, "l.weight_zero_point: row 1, group 0 is -9, wanted -8 to 7");
    fake_view_put(&b.view, "l.weight_zero_point", TN_I32, 2, 2, 16, NULL);
    expect(&b, 16, 64, TN_DATA, "l.weight_zero_point: found I32 [2, 16]" IN "I32 [2, 2]");
    fake_view_drop(&b.view, "l.weight_zero_point");
    expect(&b, 16, 64, TN_DATA, "l.weight_zero_point: is missing");
    fake_view_put(&b.view, "l.weight_zero_point", TN_I32, 2, 2, 2, NULL);
    fake_view_put(&b.view, "l.weight_scale", TN_BF16, 2, 2, 16, NULL);
    expect(&b, 16, 64, TN_DATA, "l.weight_scale: found BF16 [2, 16]" IN "F16, BF16 or F32 [16, 2]");
    fake_view_drop(&b.view, "l.weight_scale");
    expect(&b, 16, 64, TN_DATA, "l.weight_scale: is missing");
    fake_view_drop(&b.view, "l.weight_packed");
    fake_view_put(&b.view, "l.qweight", TN_I32, 2, 64, 2, NULL);
    expect(&b, 16, 64, TN_DATA, "quant_method is compressed-tensors");
    fake_view_drop(&b.view, "l.qweight");
    fake_view_put(&b.view, "l.weight", TN_BF16, 2, 16, 64, NULL);
    fake_view_put(&b.view, "l.weight_scale", TN_BF16, 2, 16, 1, NULL);
    expect(&b, 16, 64, TN_DATA, "with a weight_scale beside it");
    free(m.w);
    assert_int_equal(fake_bench_close(&b), 0);
}

static void test_bad_gemv(void **state)
{
    static const uint16_t half_zero = 0xB100;   /* with a scale of 1/4: zero 0.625 */
    fake_bench b;
    (void)state;
    OPEN(&b, GEMM, 48, "gemv");
    made m = make_gemv(&b, 8, 192, 64, false);
    expect(&b, 8, 192, TN_DATA, "group_size 48 does not fit k 192");
    free(m.w);
    assert_int_equal(fake_bench_close(&b), 0);
    OPEN(&b, GEMM, 128, "gemv");
    m = make_gemv(&b, 8, 512, 64, false);
    expect(&b, 8, 512, TN_DATA, "l.scales: found F16 [8, 16]" IN "F16, BF16 or F32 [8, 8]");
    free(m.w);
    assert_int_equal(fake_bench_close(&b), 0);
    OPEN(&b, GEMM, 64, "gemv_fast");
    m = make_gemv(&b, 8, 128, 64, true);
    uint16_t quarter = 0x3400;
    memcpy(fake_view_data(&b.view, "l.scales"), &quarter, 2);
    memcpy(fake_view_data(&b.view, "l.qzeros"), &half_zero, 2);
    expect(&b, 8, 128, TN_DATA, "l.qzeros: row 0, group 0");
    free(m.w);
    assert_int_equal(fake_bench_close(&b), 0);
}

/* -------------------------------------------------------------------- config, tensors */

/* Which of two config groups a short row belongs to: the more precise target. */
static void test_two_widths(void **state)
{
    static const char *const targets[][2] = {
        {"\"Linear\"", "\"re:l\""}, {"\"Linear\"", "\"l\""}, {"\"re:.*\"", "\"l\""}};
    (void)state;
    for (int i = 0; i < 3; i++) {
        fake_bench b;
        float w[8 * 8];
        OPEN(&b, "{\"quantization_config\": {\"quant_method\": \"compressed-tensors\", "
                        "\"config_groups\": {\"a\": {\"targets\": [%s], \"weights\": "
                        "{\"num_bits\": 4}}, \"b\": {\"targets\": [%s], \"weights\": "
                        "{\"num_bits\": 3}}}}}",
                    targets[i][0], targets[i][1]);
        const packed_case p = {8, 8, 0, 3, ZERO_NONE, 0, false};   /* one word either way */
        made m = make_packed(&b, &p);
        tn_form f = whole(&b, 8, 8, w);
        assert_int_equal(f.bits, 3);
        assert_memory_equal(w, m.w, sizeof w);
        free(m.w);
        assert_int_equal(fake_bench_close(&b), 0);
    }
}

/* Q10: where config and tensors disagree, the tensors are read and it is said once. */
static void test_disagreement(void **state)
{
    fake_bench b;
    tn_err err;
    tn_form f;
    const tn_module mod = {.size = sizeof mod, .name = "l", .n = 16, .k = 64};
    const tn_rect r = {0, 16, 0, 64};
    (void)state;
    OPEN(&b, GEMM, 64, "gemm");   /* the file has groups of 32 */
    made m = make_gemm(&b, 16, 64, 32, false);
    check_rects(&b, &m, "another group");
    assert_int_equal(b.host.nlog, 1);
    assert_non_null(strstr(b.host.log, "l.scales: has 2 groups of 32 columns"));
    fake_bench_restart(&b, 1);
    assert_int_equal(b.q->form_of(b.self, &b.view.view, &mod, &r, &f, &err), TN_DATA);
    free(m.w);
    assert_int_equal(fake_bench_close(&b), 0);

    OPEN(&b, GEMM, 32, "gemv");   /* the file is gemm */
    m = make_gemm(&b, 16, 64, 32, false);
    check_rects(&b, &m, "another version");
    assert_int_equal(b.host.nlog, 1);
    assert_string_equal(b.host.log, "l.qweight: is laid out as gemm, but the config says gemv");
    free(m.w);
    assert_int_equal(fake_bench_close(&b), 0);

    OPEN(&b, GEMM, 32, "gemm");   /* symmetric by config, not by file */
    fake_view_config(&b.view, "{\"quantization_config\": {\"quant_method\": \"awq\", \"bits\": 4, "
                              "\"group_size\": 32, \"zero_point\": false}}");
    m = make_gemm(&b, 16, 64, 32, false);
    check_rects(&b, &m, "another symmetry");
    assert_int_equal(b.host.nlog, 1);
    assert_non_null(strstr(b.host.log, "zero points off the middle"));
    free(m.w);
    assert_int_equal(fake_bench_close(&b), 0);

    OPEN(&b, PACKED, 4, "true", "group", "32", "null");   /* the file has 8 bits */
    const packed_case p = {16, 64, 32, 8, ZERO_NONE, 0, false};
    m = make_packed(&b, &p);
    check_rects(&b, &m, "another width");
    assert_int_equal(b.host.nlog, 1);
    assert_non_null(strstr(b.host.log, "is 8 bits wide by its shape"));
    free(m.w);
    assert_int_equal(fake_bench_close(&b), 0);
}

/* Each allocation fails once: an error, no crash, nothing kept. */
static void test_no_memory(void **state)
{
    const packed_case p = {16, 64, 32, 4, ZERO_WORDS, 2, false};
    const tn_module mod = {.size = sizeof mod, .name = "l", .n = 16, .k = 64};
    const tn_rect r = {0, 16, 0, 32};
    float w[16 * 64];
    fake_bench b;
    (void)state;
    open_packed(&b, &p);
    made m = make_packed(&b, &p);
    int fails = 0;
    for (int i = 0;; i++) {
        tn_err err;
        tn_form f;
        atomic_store(&b.host.countdown, i);
        tn_status st = fake_matrix(b.q, b.self, &b.view.view, &mod, &r, 16, &f, w, &err);
        if (st == TN_OK)
            break;
        assert_int_equal(st, TN_NO_MEMORY);
        fails++;
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
    free(m.w);
    assert_int_equal(fake_bench_close(&b), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_example_gemm),
        cmocka_unit_test(test_example_gemv_fast),
        cmocka_unit_test(test_example_packed),
        cmocka_unit_test(test_example_packed_8),
        cmocka_unit_test(test_gemm),
        cmocka_unit_test(test_gemv),
        cmocka_unit_test(test_packed),
        cmocka_unit_test(test_groups),
        cmocka_unit_test(test_plain),
        cmocka_unit_test(test_bad_gemm),
        cmocka_unit_test(test_bad_values),
        cmocka_unit_test(test_bad_packed),
        cmocka_unit_test(test_bad_gemv),
        cmocka_unit_test(test_two_widths),
        cmocka_unit_test(test_disagreement),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests_name("awq", tests, NULL, NULL);
}
