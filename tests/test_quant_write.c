/* SPDX-License-Identifier: Apache-2.0 */
/* test_quant_write.c - the quantizations' other direction: what a writer writes is read back
 * through its reader and compared with rounding done here from the formats' conventions. */
#include "fakeview.h"
#include "quant_entries.h"

#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdlib.h>

#include <cmocka.h>

#define CLOSE(b) assert_int_equal(fake_bench_close(b), 0)

/* ---------------------------------------------------------------------------- rounding */

/* How a format chooses its numbers. */
typedef enum { AWQ_ASYM, AWQ_SYM, CT_ASYM, CT_SYM, GPTQ_ASYM, GPTQ_SYM } habit;

static float store(float v, bool bf16)
{
    uint32_t bits = (uint32_t)fake_bfloat(v) << 16;
    float f;
    memcpy(&f, &bits, 4);
    f = bf16 ? f : fake_from_half(fake_half(v));
    return f == 0 ? 0x1p-24f : f;
}

/* One group by the table of conventions; codes unsigned. */
static void round_group(habit how, uint32_t bits, bool bf16, const float *w, const uint32_t *cols,
                        uint64_t count, float *out, float *scale, int *zero, int *code)
{
    int top = (1 << bits) - 1, half = (top + 1) / 2;
    float lo = w[cols[0]], hi = lo, s = 0;
    for (uint64_t i = 0; i < count; i++) {
        lo = fminf(lo, w[cols[i]]);
        hi = fmaxf(hi, w[cols[i]]);
    }
    float most = fmaxf(fabsf(lo), fabsf(hi)), lo0 = fminf(lo, 0), hi0 = fmaxf(hi, 0);
    bool empty = lo0 == 0 && hi0 == 0;
    if (how == AWQ_ASYM)
        s = fmaxf(hi - lo, 1e-5f) / (float)top;
    else if (how == AWQ_SYM)
        s = fmaxf(most, 1e-5f) / 7;
    else if (how == CT_SYM)
        s = most / ((float)top / 2);
    else if (how == CT_ASYM || how == GPTQ_ASYM)
        s = (hi0 - lo0) / (float)top;
    else
        s = 2 * most / (float)top;
    if (empty && (how == GPTQ_ASYM || how == GPTQ_SYM)) {
        lo0 = -1;
        s = 2.0f / (float)top;
    } else if (empty && (how == CT_ASYM || how == CT_SYM)) {
        s = 1;
    }
    s = store(s, bf16);
    *zero = half;
    if (how == AWQ_ASYM)
        *zero = (int)fminf(fmaxf(-rintf(lo / s), 0), (float)top);
    if (how == CT_ASYM)
        *zero = (int)fminf(fmaxf(rintf((float)-half - lo0 / s), (float)-half), (float)half - 1) +
                half;
    if (how == GPTQ_ASYM)
        *zero = (int)fminf(fmaxf(rintf(-lo0 / s), 0), (float)top);
    *scale = s;
    for (uint64_t i = 0; i < count; i++) {
        float q = fminf(fmaxf(rintf(w[cols[i]] / s) + (float)*zero, 0), (float)top);
        if (code != NULL)
            code[i] = (int)q;
        if (out != NULL)
            out[cols[i]] = (q - (float)*zero) * s;
    }
}

/* A whole matrix; `order` tells the sequence in which columns fall into groups. */
static void round_matrix(habit how, uint32_t bits, bool bf16, const float *w, uint64_t n,
                         uint64_t k, uint64_t group, const uint32_t *order, float *out)
{
    for (uint64_t r = 0; r < n; r++)
        for (uint64_t g = 0; g < k; g += group) {
            float scale;
            int zero;
            round_group(how, bits, bf16, w + r * k, order + g, group < k - g ? group : k - g,
                        out + r * k, &scale, &zero, NULL);
        }
}

/* ----------------------------------------------------------------------------- writing */

typedef struct write_case {
    const tn_plugin *plugin;
    const char *variant;
    uint64_t n, k;
    tn_write_options o;
    habit how;
    bool bf16;
} write_case;

static tn_status write_one(fake_bench *b, const tn_write_options *o, const tn_write_linear *l,
                           const char *config, tn_err *err)
{
    void *writer;
    fake_view_config(&b->view, config);
    tn_status st = b->q->write_begin(b->self, o, b->view.view.config, &b->view.sink, &writer, err);
    if (st != TN_OK)
        return st;
    st = b->q->write_linear(writer, l, err);
    if (st == TN_OK)
        st = b->q->write_end(writer, err);
    b->q->write_drop(writer);
    return st;
}

static float *random_weights(uint64_t n, uint64_t k)
{
    uint32_t seed = (uint32_t)(n * 7 + k);
    float *w = malloc(n * k * sizeof *w);
    for (uint64_t i = 0; i < n * k; i++) {
        float u = (float)(fake_random(&seed) % 20001) / 10000 - 1;
        w[i] = u * u * u * (float)(1 + i / k % 5);
        if (i / k % 11 == 3)   /* rows of one sign, and of zeros: odd zero points */
            w[i] = fabsf(w[i]) + 0.01f;
        if (i / k % 11 == 5)
            w[i] = -fabsf(w[i]);
        if (i / k % 11 == 7)
            w[i] = 0;
    }
    return w;
}

/* Writes, claims, reads back, compares; nothing may be logged on the way. */
static void check_case(const write_case *c, const float *importance)
{
    fake_bench b;
    tn_err err = {{0}, {0}, {0}};
    uint64_t group = c->o.group < 0 ? c->k : (uint64_t)c->o.group;
    float *w = random_weights(c->n, c->k), *wanted = malloc(c->n * c->k * sizeof *wanted);
    uint32_t *order = malloc(c->k * sizeof *order);
    for (uint64_t i = 0; i < c->k; i++)
        order[i] = (uint32_t)i;
    for (uint64_t i = 1; i < c->k && importance != NULL; i++)   /* a stable insertion sort */
        for (uint64_t j = i; j > 0 && importance[order[j]] > importance[order[j - 1]]; j--) {
            uint32_t t = order[j];
            order[j] = order[j - 1];
            order[j - 1] = t;
        }
    round_matrix(c->how, c->o.bits, c->bf16, w, c->n, c->k, group, order, wanted);

    fake_bench_open(&b, c->plugin, "{}");
    tn_write_options o = c->o;
    o.size = sizeof o;
    o.variant = c->variant;
    const tn_write_linear l = {.size = sizeof l, .name = "l", .n = c->n, .k = c->k, .w = w,
                               .act_mean = importance};
    const char *what = c->variant != NULL ? c->variant : c->plugin->name;
    if (write_one(&b, &o, &l, c->bf16 ? "{\"dtype\": \"bfloat16\"}" : "{\"dtype\": \"float16\"}",
                  &err) != TN_OK ||
        fake_rects(&b, c->n, c->k, wanted, &err) != TN_OK ||
        b.q->claims(b.self, &b.view.view, &err) != 100)
        fail_msg("%s bits %u group %d sym %u n %d k %d: %s", what, o.bits, o.group, o.symmetric,
                 (int)c->n, (int)c->k, err.text);
    if (b.host.nlog != 0 && strstr(b.host.log, "greatest field") == NULL)
        fail_msg("%s: %s", what, b.host.log);
    free(w);
    free(wanted);
    free(order);
    CLOSE(&b);
}

static void test_awq(void **state)
{
    static const char *const variants[] = {NULL, "gemm", "gemv", "gemv_fast"};
    static const struct { uint64_t n, k; int32_t group; } shapes[] = {
        {192, 576, 64}, {16, 256, 128}, {64, 128, 32}, {24, 640, -1}};
    (void)state;
    for (size_t v = 0; v < 4; v++)
        for (size_t s = 0; s < 4; s++)
            for (uint32_t sym = 0; sym < 2; sym++) {
                const write_case c = {&awq_plugin_entry, variants[v], shapes[s].n, shapes[s].k,
                                      {.bits = 4, .group = shapes[s].group, .symmetric = sym},
                                      sym ? AWQ_SYM : AWQ_ASYM, false};
                check_case(&c, NULL);
            }
    const write_case small = {&awq_plugin_entry, "gemm", 8, 8, {.bits = 4, .group = -1}, AWQ_ASYM,
                              false};
    check_case(&small, NULL);
}

static void test_packed(void **state)
{
    static const struct { uint64_t n, k; int32_t group; } shapes[] = {
        {192, 576, 64}, {10, 36, -1}, {64, 128, 32}, {7, 24, 8}, {1, 8, -1}};
    (void)state;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (uint32_t i = 0; i < 8; i++) {
            bool sym = (i & 1) != 0;
            const write_case c = {&awq_plugin_entry, "pack-quantized", shapes[s].n, shapes[s].k,
                                  {.bits = i & 2 ? 8 : 4, .group = shapes[s].group,
                                   .symmetric = sym},
                                  sym ? CT_SYM : CT_ASYM, (i & 4) != 0};
            check_case(&c, NULL);
        }
}

static void test_gptq(void **state)
{
    static const uint32_t widths[4] = {2, 3, 4, 8};
    static const struct { uint64_t n, k; int32_t group; } shapes[] = {
        {192, 576, 64}, {32, 96, -1}, {64, 128, 32}, {32, 576, 128}};
    (void)state;
    for (size_t s = 0; s < 4; s++)
        for (uint32_t i = 0; i < 16; i++) {
            bool sym = (i & 4) != 0;
            const write_case c = {&gptq_plugin_entry, i & 8 ? "gptq_v2" : NULL, shapes[s].n,
                                  shapes[s].k,
                                  {.bits = widths[i & 3], .group = shapes[s].group,
                                   .symmetric = sym},
                                  sym ? GPTQ_SYM : GPTQ_ASYM, false};
            check_case(&c, NULL);
        }
    const write_case small = {&gptq_plugin_entry, "gptq", 8, 8, {.bits = 4, .group = -1},
                              GPTQ_ASYM, false};
    check_case(&small, NULL);
}

static void test_act_order(void **state)
{
    float importance[576];
    uint32_t seed = 11;
    (void)state;
    for (int i = 0; i < 576; i++)
        importance[i] = (float)(fake_random(&seed) % 100);   /* with ties */
    for (uint32_t i = 0; i < 4; i++) {
        const write_case c = {&gptq_plugin_entry, i & 1 ? "gptq_v2" : "gptq", 32, 576,
                              {.bits = 4, .group = i & 2 ? 64 : 128, .act_order = 1},
                              GPTQ_ASYM, false};
        check_case(&c, importance);
    }
}

/* ------------------------------------------------------------------------- conventions */

/* The worked example: one group of eight, by each habit. */
static void test_example(void **state)
{
    static const float w[8] = {-0.62f, 0.11f, 0.35f, -0.08f, 0, 0.27f, -0.41f, 0.9f};
    static const struct {
        const tn_plugin *plugin;
        const char *variant;
        uint32_t symmetric;
        float scale;
        uint8_t zero;
        uint8_t code[8];
    } all[] = {
        {&awq_plugin_entry, "gemm", 0, 0.1013333f, 6, {0, 7, 9, 5, 6, 9, 2, 15}},
        {&gptq_plugin_entry, "gptq", 0, 0.1013333f, 6, {0, 7, 9, 5, 6, 9, 2, 15}},
        {&awq_plugin_entry, "pack-quantized", 0, 0.1013333f, 6, {0, 7, 9, 5, 6, 9, 2, 15}},
        {&gptq_plugin_entry, "gptq", 1, 0.12f, 8, {3, 9, 11, 7, 8, 10, 5, 15}},
        {&awq_plugin_entry, "pack-quantized", 1, 0.12f, 8, {3, 9, 11, 7, 8, 10, 5, 15}},
    };
    (void)state;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const tn_module m = {.size = sizeof m, .name = "l", .n = 8, .k = 8};
        const tn_rect r = {0, 8, 0, 8};
        const tn_write_options o = {.size = sizeof o, .bits = 4, .group = 8,
                                    .symmetric = all[i].symmetric, .variant = all[i].variant};
        float rows[64], scale[8];
        uint8_t codes[32], zero[8];
        tn_block out = {.size = sizeof out, .codes = codes, .scale = scale, .zero = zero};
        const tn_write_linear l = {.size = sizeof l, .name = "l", .n = 8, .k = 8, .w = rows};
        fake_bench b;
        tn_err err;
        for (int j = 0; j < 64; j++)
            rows[j] = w[j % 8];
        fake_bench_open(&b, all[i].plugin, "{}");
        if (write_one(&b, &o, &l, "{\"torch_dtype\": \"float16\"}", &err) != TN_OK ||
            b.q->read(b.self, &b.view.view, &m, &r, 0, 8, &out, &err) != TN_OK)
            fail_msg("%s", err.text);
        for (int j = 0; j < 64; j++)
            assert_int_equal(codes[j / 2] >> 4 * (j & 1) & 15, all[i].code[j % 8]);
        for (int j = 0; j < 8; j++) {
            assert_int_equal(zero[j], all[i].zero);
            assert_true(scale[j] == fake_from_half(fake_half(all[i].scale)));
        }
        CLOSE(&b);
    }
}

static double squared_error(const float *a, const float *b, uint64_t count)
{
    double sum = 0;
    for (uint64_t i = 0; i < count; i++)
        sum += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
    return sum;
}

/* A search never does worse than plain rounding, and on skewed rows better. One that is told
 * nothing but nonsense about the columns is plain rounding. */
static void test_search(void **state)
{
    static const struct { const tn_plugin *plugin; const char *variant; uint32_t sym; } all[] = {
        {&awq_plugin_entry, "gemm", 0},           {&awq_plugin_entry, "gemm", 1},
        {&awq_plugin_entry, "pack-quantized", 0}, {&awq_plugin_entry, "pack-quantized", 1},
        {&gptq_plugin_entry, "gptq", 0},          {&gptq_plugin_entry, "gptq_v2", 1}};
    (void)state;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        double error[3];
        float nonsense[128];
        for (size_t c = 0; c < 128; c++)
            nonsense[c] = c % 2 != 0 ? INFINITY : NAN;
        for (uint32_t run = 0; run < 3; run++) {
            const tn_module m = {.size = sizeof m, .name = "l", .n = 64, .k = 128};
            const tn_rect r = {0, 64, 0, 128};
            const tn_write_options o = {.size = sizeof o, .bits = 4, .group = 64,
                                        .symmetric = all[i].sym, .search = run > 0,
                                        .variant = all[i].variant};
            float *w = random_weights(64, 128), *back = malloc(64 * 128 * sizeof *back);
            const tn_write_linear l = {.size = sizeof l, .name = "l", .n = 64, .k = 128, .w = w,
                                       .act_mean = run == 2 ? nonsense : NULL};
            fake_bench b;
            tn_err err;
            tn_form f;
            fake_bench_open(&b, all[i].plugin, "{}");
            if (write_one(&b, &o, &l, "{}", &err) != TN_OK ||
                fake_matrix(b.q, b.self, &b.view.view, &m, &r, 64, &f, back, &err) != TN_OK)
                fail_msg("%s", err.text);
            error[run] = squared_error(w, back, 64 * 128);
            free(w);
            free(back);
            CLOSE(&b);
        }
        if (!(error[1] < error[0]))
            fail_msg("%s: %g with a search, %g without", all[i].variant, error[1], error[0]);
        if (error[2] != error[0])
            fail_msg("%s: %g with nonsense, %g without", all[i].variant, error[2], error[0]);
    }
}

/* --------------------------------------------------------------------------- refusals */

static void test_refusals(void **state)
{
    static const struct {
        const tn_plugin *plugin;
        tn_write_options o;
        uint64_t n, k;
        const char *part;
    } all[] = {
        {&awq_plugin_entry, {.bits = 3, .group = 32}, 8, 32, "bits is 3, wanted 4"},
        {&awq_plugin_entry, {.bits = 8, .group = 32}, 8, 32, "bits is 8, wanted 4"},
        {&awq_plugin_entry, {.bits = 4, .group = 0}, 8, 32, "group is 0"},
        {&awq_plugin_entry, {.bits = 4, .group = -7}, 8, 32, "group is -7"},
        {&awq_plugin_entry, {.bits = 4, .group = 32, .act_order = 1}, 8, 32, "act_order is on"},
        {&awq_plugin_entry, {.bits = 4, .group = 32, .search = 9}, 8, 32, "search is 9"},
        {&awq_plugin_entry, {.bits = 4, .group = 32, .variant = "marlin"}, 8, 32,
         "variant is marlin, wanted gemm"},
        {&awq_plugin_entry, {.bits = 4, .group = 32}, 12, 32, "wanted multiples of 8 and 1"},
        {&awq_plugin_entry, {.bits = 4, .group = 32}, 8, 40,
         "k is 40, wanted a multiple of the group 32"},
        {&awq_plugin_entry, {.bits = 4, .group = 16, .variant = "gemv"}, 8, 32, "the group is 16"},
        {&awq_plugin_entry, {.bits = 4, .group = 32, .variant = "gemv_fast"}, 8, 96,
         "wanted multiples of 4 and 64"},
        {&gptq_plugin_entry, {.bits = 5, .group = 32}, 8, 32, "bits is 5, wanted 2, 3, 4 or 8"},
        {&gptq_plugin_entry, {.bits = 4, .group = 0}, 8, 32, "group is 0"},
        {&gptq_plugin_entry, {.bits = 4, .group = 32, .search = 2}, 8, 32, "search is 2"},
        {&gptq_plugin_entry, {.bits = 4, .group = 32, .variant = "marlin"}, 8, 32,
         "variant is marlin"},
        {&gptq_plugin_entry, {.bits = 4, .group = 32, .act_order = 1}, 8, 32,
         "act_order is on but nothing is known"},
        {&gptq_plugin_entry, {.bits = 3, .group = 32}, 32, 40, "wanted multiples of 32 for 3 bits"},
        {&gptq_plugin_entry, {.bits = 4, .group = 32}, 12, 32, "wanted multiples of 8 for 4 bits"},
        {&w4demo_plugin_entry, {.bits = 8, .group = 32}, 8, 32, "wanted bits 4"},
        {&w4demo_plugin_entry, {.bits = 4, .group = 32, .symmetric = 1}, 8, 40, "multiple of 32"},
        {&private8_plugin_entry, {.bits = 4, .group = -1}, 8, 32, "wanted bits 8"},
    };
    static const float w[12 * 96];
    (void)state;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const tn_write_linear l = {.size = sizeof l, .name = "l", .n = all[i].n, .k = all[i].k,
                                   .w = w};
        fake_bench b;
        tn_err err = {{0}, {0}, {0}};
        fake_bench_open(&b, all[i].plugin, "{}");
        tn_status st = write_one(&b, &all[i].o, &l, "{}", &err);
        if (st != TN_UNSUPPORTED || strstr(err.text, all[i].part) == NULL)
            fail_msg("status %d: \"%s\", wanted \"%s\"", st, err.text, all[i].part);
        assert_int_equal(b.view.ntensor, 0);
        CLOSE(&b);
    }
}

static const struct {
    const tn_plugin *plugin;
    const char *variant;
    uint32_t bits;
    int32_t group;
} writers[] = {
    {&awq_plugin_entry, "gemm", 4, 32},           {&awq_plugin_entry, "gemv_fast", 4, 32},
    {&awq_plugin_entry, "pack-quantized", 8, -1}, {&gptq_plugin_entry, "gptq", 4, 32},
    {&w4demo_plugin_entry, NULL, 4, 32},          {&private8_plugin_entry, NULL, 8, -1},
};

/* Weights that no format can hold. */
static void test_bad_weights(void **state)
{
    static const float bad[3] = {NAN, INFINITY, -INFINITY};
    (void)state;
    for (size_t i = 0; i < 3 * sizeof writers / sizeof *writers; i++) {
        float w[8 * 64] = {0};
        const tn_write_options o = {.size = sizeof o, .bits = writers[i / 3].bits,
                                    .group = writers[i / 3].group, .symmetric = 1,
                                    .variant = writers[i / 3].variant};
        const tn_write_linear l = {.size = sizeof l, .name = "l", .n = 8, .k = 64, .w = w};
        fake_bench b;
        tn_err err;
        w[3 * 64 + 40] = bad[i % 3];
        w[3 * 64 + 41] = 1;
        fake_bench_open(&b, writers[i / 3].plugin, "{}");
        assert_int_equal(write_one(&b, &o, &l, "{}", &err), TN_DATA);
        assert_non_null(strstr(err.text, "finite"));
        CLOSE(&b);
    }
    /* Finite, but beyond what a 16-bit scale says. */
    for (int i = 0; i < 4; i++) {
        float w[8 * 64] = {0};
        const tn_write_options o = {.size = sizeof o, .bits = writers[i].bits, .group = 32,
                                    .variant = writers[i].variant};
        const tn_write_linear l = {.size = sizeof l, .name = "l", .n = 8, .k = 64, .w = w};
        fake_bench b;
        tn_err err;
        w[5] = i == 2 ? 1e38f : 2e6f;
        w[6] = -w[5];
        fake_bench_open(&b, writers[i].plugin, "{}");
        tn_status st = write_one(&b, &o, &l, "{\"dtype\": \"bfloat16\"}", &err);
        assert_int_equal(st, i == 2 ? TN_OK : TN_DATA);
        CLOSE(&b);
    }
}

/* ------------------------------------------------------------------- the writer's config */

static bool has_text(const tn_json *list, const char *text)
{
    for (const tn_json *e = list != NULL ? list->child : NULL; e != NULL; e = e->next)
        if (e->type == TN_JSON_LIST ? has_text(e, text) : strcmp(e->text, text) == 0)
            return true;
    return false;
}

static void write_names(fake_bench *b, const tn_write_options *o, const char *const *names)
{
    static const float w[8 * 32];
    void *writer;
    tn_err err;
    assert_int_equal(b->q->write_begin(b->self, o, NULL, &b->view.sink, &writer, &err), TN_OK);
    for (; *names != NULL; names++) {
        const tn_write_linear l = {.size = sizeof l, .name = *names, .n = 8, .k = 32, .w = w};
        assert_int_equal(b->q->write_linear(writer, &l, &err), TN_OK);
    }
    assert_int_equal(b->q->write_end(writer, &err), TN_OK);
    b->q->write_drop(writer);
}

/* Modules of which nothing was written are excepted by name. */
static void test_config(void **state)
{
    static const char *const experts[] = {"model.layers.0.mlp.experts.0.up_proj",
                                          "model.layers.11.mlp.experts.12.down_proj", NULL};
    static const char *const dense[] = {"model.layers.0.self_attn.q_proj",
                                        "model.layers.1.mlp.gate_proj", "lm_head", NULL};
    tn_write_options o = {.size = sizeof o, .bits = 4, .group = 32, .symmetric = 1};
    fake_bench b;
    (void)state;
    fake_bench_open(&b, &awq_plugin_entry, "{}");
    write_names(&b, &o, experts);
    const tn_json *plain = tn_json_find(b.view.view.quant, "modules_to_not_convert");
    assert_true(has_text(plain, "lm_head"));
    assert_true(has_text(plain, ".self_attn."));
    assert_true(has_text(plain, ".mlp.gate"));
    assert_false(has_text(plain, ".experts."));
    o.variant = "pack-quantized";
    write_names(&b, &o, dense);
    plain = tn_json_find(b.view.view.quant, "ignore");
    assert_true(has_text(plain, "re:.*\\.mlp\\.gate$"));
    assert_true(has_text(plain, "re:.*\\.experts\\..*"));
    assert_false(has_text(plain, "re:.*\\.self_attn\\..*"));
    assert_false(has_text(plain, "re:.*lm_head$"));
    CLOSE(&b);

    fake_bench_open(&b, &gptq_plugin_entry, "{}");
    o.variant = NULL;
    write_names(&b, &o, experts);
    plain = tn_json_find(b.view.view.quant, "modules_in_block_to_quantize");
    assert_true(has_text(plain, "mlp.experts"));
    assert_int_equal(tn_json_find(b.view.view.quant, "lm_head")->type, TN_JSON_FALSE);
    write_names(&b, &o, dense);
    plain = tn_json_find(b.view.view.quant, "modules_in_block_to_quantize");
    assert_true(has_text(plain, "self_attn.q_proj"));
    assert_true(has_text(plain, "mlp.gate_proj"));
    assert_int_equal(tn_json_find(b.view.view.quant, "lm_head")->type, TN_JSON_TRUE);
    assert_non_null(strstr(b.view.file_text, "\"quant_method\": \"gptq\""));
    CLOSE(&b);
}

/* ---------------------------------------------------------------------- memory, threads */

static void test_no_memory(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof writers / sizeof *writers; i++) {
        static const float w[8 * 64];
        const tn_write_options o = {.size = sizeof o, .bits = writers[i].bits,
                                    .group = writers[i].group, .symmetric = 1,
                                    .variant = writers[i].variant};
        const tn_write_linear l = {.size = sizeof l, .name = "l", .n = 8, .k = 64, .w = w};
        fake_bench b;
        fake_bench_open(&b, writers[i].plugin, "{}");
        for (int at = 0; at < 100; at++) {
            tn_err err;
            atomic_store(&b.host.countdown, at);
            tn_status st = write_one(&b, &o, &l, "{}", &err);
            if (st == TN_OK)
                break;
            assert_int_equal(st, TN_NO_MEMORY);
            assert_true(at < 99);
        }
        atomic_store(&b.host.countdown, -1);
        CLOSE(&b);
    }
}

typedef struct worker {
    fake_bench *b;
    void *writer;
    int first;
    tn_status st;
} worker;

static void *work(void *arg)
{
    worker *k = arg;
    float *w = random_weights(16, 64);
    for (int i = k->first; i < 40 && k->st == TN_OK; i += 4) {
        char name[32];
        tn_err err;
        snprintf(name, sizeof name, "m.layers.%d.up_proj", i);
        const tn_write_linear l = {.size = sizeof l, .name = name, .n = 16, .k = 64, .w = w};
        k->st = k->b->q->write_linear(k->writer, &l, &err);
    }
    free(w);
    return NULL;
}

/* Modules come from several threads; the sink sees one call at a time. */
static void test_threads(void **state)
{
    (void)state;
    for (size_t i = 0; i < 4; i++) {
        const tn_write_options o = {.size = sizeof o, .bits = writers[i].bits,
                                    .group = writers[i].group, .variant = writers[i].variant};
        pthread_t thread[4];
        worker k[4];
        void *writer;
        fake_bench b;
        tn_err err;
        fake_bench_open(&b, writers[i].plugin, "{}");
        assert_int_equal(b.q->write_begin(b.self, &o, NULL, &b.view.sink, &writer, &err), TN_OK);
        for (int t = 0; t < 4; t++) {
            k[t] = (worker){&b, writer, t, TN_OK};
            assert_int_equal(pthread_create(&thread[t], NULL, work, &k[t]), 0);
        }
        for (int t = 0; t < 4; t++) {
            pthread_join(thread[t], NULL);
            assert_int_equal(k[t].st, TN_OK);
        }
        assert_int_equal(b.q->write_end(writer, &err), TN_OK);
        b.q->write_drop(writer);
        assert_true(b.view.ntensor >= 40 * 3);
        CLOSE(&b);
    }
}

/* ------------------------------------------------------------------ the skeleton's own */

static void test_w4demo(void **state)
{
    const tn_write_options o = {.size = sizeof o, .bits = 4, .group = 32, .symmetric = 1};
    float *w = random_weights(24, 96), *wanted = malloc(24 * 96 * sizeof *wanted);
    const tn_write_linear l = {.size = sizeof l, .name = "l", .n = 24, .k = 96, .w = w};
    fake_bench b;
    tn_err err;
    (void)state;
    for (int g = 0; g < 24 * 3; g++) {
        float step = 0;
        for (int i = 0; i < 32; i++)
            step = fmaxf(step, fabsf(w[32 * g + i]) / 7);
        for (int i = 0; i < 32; i++)
            wanted[32 * g + i] = step > 0 ? rintf(w[32 * g + i] / step) * step : 0;
    }
    fake_bench_open(&b, &w4demo_plugin_entry, "{}");
    assert_int_equal(write_one(&b, &o, &l, "{}", &err), TN_OK);
    assert_int_equal(b.q->claims(b.self, &b.view.view, &err), 100);
    const tn_module m = {.size = sizeof m, .name = "l", .n = 24, .k = 96};
    for (uint64_t col0 = 0; col0 < 96; col0 += 32)
        for (uint64_t col1 = col0 + 32; col1 <= 96; col1 += 32) {
            const tn_rect r = {5, 23, col0, col1};
            float back[24 * 96];
            tn_form f;
            if (fake_matrix(b.q, b.self, &b.view.view, &m, &r, 4, &f, back, &err) != TN_OK)
                fail_msg("%s", err.text);
            uint64_t cols = col1 - col0;
            for (uint64_t i = 0; i < 18 * cols; i++)
                assert_true(back[i] == wanted[(5 + i / cols) * 96 + col0 + i % cols]);
        }
    fake_view_put(&b.view, "l.step", TN_F32, 2, 3, 24, NULL);
    const tn_rect r = {0, 24, 0, 96};
    tn_form f;
    assert_int_equal(b.q->form_of(b.self, &b.view.view, &m, &r, &f, &err), TN_NOINPUT);
    free(w);
    free(wanted);
    CLOSE(&b);
}

/* The private form against its multiply: y += x . W^T for a shard of rows and columns. */
static void test_private8(void **state)
{
    const tn_write_options o = {.size = sizeof o, .bits = 8, .group = -1, .symmetric = 1};
    float *w = random_weights(24, 40), x[3 * 50], y[3 * 30];
    const tn_write_linear l = {.size = sizeof l, .name = "l", .n = 24, .k = 40, .w = w};
    const tn_module m = {.size = sizeof m, .name = "l", .n = 24, .k = 40};
    const tn_rect r = {4, 20, 8, 40};
    uint8_t bytes[16 * (4 + 32)];
    tn_block out = {.size = sizeof out, .codes = bytes};
    uint32_t seed = 3;
    fake_bench b;
    tn_err err;
    tn_form f;
    (void)state;
    fake_bench_open(&b, &private8_plugin_entry, "{}");
    assert_int_equal(write_one(&b, &o, &l, "{}", &err), TN_OK);
    assert_int_equal(b.q->claims(b.self, &b.view.view, &err), 100);
    assert_int_equal(b.q->form_of(b.self, &b.view.view, &m, &r, &f, &err), TN_OK);
    assert_int_equal(f.kind, TN_FORM_PRIVATE);
    assert_int_equal(f.bytes, sizeof bytes);
    assert_int_equal(b.q->read(b.self, &b.view.view, &m, &r, 4, 20, &out, &err), TN_OK);
    for (int i = 0; i < 150; i++)
        x[i] = (float)(fake_random(&seed) % 1000) / 500 - 1;
    for (int i = 0; i < 90; i++)
        y[i] = 1;
    assert_int_equal(b.q->nmultiply, 1);
    assert_string_equal(b.q->multiply[0].device, "cpu");
    tn_cpu_multiply run = (tn_cpu_multiply)b.q->multiply[0].entry;
    run(b.self, bytes, 16, 32, 3, 11, x, 50, 3, y, 30);
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 30; j++) {
            double sum = 1, most = 0;
            for (int c = 0; c < 32 && j < 8; c++)
                sum += (double)x[i * 50 + c] * (double)w[(4 + 3 + j) * 40 + 8 + c];
            for (int c = 0; c < 40; c++)
                most = fmax(most, fabs((double)w[(7 + j % 8) * 40 + c]));
            /* Steps of the curve are 1/32 of a weight at most. */
            if (!(fabs((double)y[i * 30 + j] - sum) <= (j < 8 ? 0.016 * 32 * most : 0)))
                fail_msg("row %d, output %d: found %g, wanted %g", i, j, (double)y[i * 30 + j],
                         sum);
        }
    free(w);
    CLOSE(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_awq),       cmocka_unit_test(test_packed),
        cmocka_unit_test(test_gptq),      cmocka_unit_test(test_act_order),
        cmocka_unit_test(test_example),   cmocka_unit_test(test_search),
        cmocka_unit_test(test_refusals),  cmocka_unit_test(test_bad_weights),
        cmocka_unit_test(test_config),    cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_threads),   cmocka_unit_test(test_w4demo),
        cmocka_unit_test(test_private8),
    };
    return cmocka_run_group_tests_name("quant write", tests, NULL, NULL);
}
