/* SPDX-License-Identifier: Apache-2.0 */
/* test_cpu_kernels.c - every level of the cpu device's kernels that this processor runs, held
 * against sums in double made here from the same weights.
 *
 * Self-contained (no test library), so that it can be carried to a machine that has wider
 * vectors than the one it was written on: it prints each level with its verdict. Arguments name
 * the levels to test; none: all. bench_cpu_kernels has their speed. */
#include "kernel_oracle.h"
#include "kernel.h"

#include <math.h>
#include <stdlib.h>

/* ------------------------------------------------------------------------ products */

/* The product against double, then the same bits alone, in pieces, and added. */
static void check_product(const cpu_kernels *ker, const weight *w, const float *x, uint32_t m,
                          bool quant, double bound)
{
    const cpu_matrix *p = &w->packed;
    uint64_t n = w->n, ldy = n + 3;
    cpu_act a;
    act_open(&a, p->cols, m + 1);
    ker->prepare(&a, x, w->k, w->k, p->perm, 0, m / 2, quant);
    ker->prepare(&a, x, w->k, w->k, p->perm, m / 2, m, quant);
    if (quant)
        check_quantized(w, &a, x, m);
    float *y = take((m + 1) * ldy * 4), *again = take((m + 1) * ldy * 4);
    double *want = take((m + 1) * n * sizeof *want);
    ker->multiply(p, &a, m, 0, p->nstrip, quant, y, ldy, false);
    want_product(w, &a, x, m, quant, want);
    double err = 0.0;
    uint64_t spilt = 0, changed = 0;
    for (uint64_t i = 0; i < m; i++) {
        err = fmax(err, relative_l2(y + i * ldy, want + i * n, n));
        for (uint64_t r = n; r < ldy; r++)
            spilt += bits_of(y[i * ldy + r]) != 0x5a5a5a5au;
    }
    CHECK(err <= bound, "n %d k %d m %d kind %d group %d quant %d: error %.2e, wanted %.2e",
          (int)n, (int)w->k, (int)m, (int)p->kind, (int)p->group, quant, err, bound);
    CHECK(spilt == 0, "%d values past n written", (int)spilt);
    for (uint32_t i = 0; i < m; i++) {           /* alone, strip by strip, added to 1 */
        cpu_act one = {a.cols, a.x + i * a.cols, a.q + i * a.cols,
                       a.scale + i * (a.cols / 32), a.sum + i * (a.cols / 32), NULL};
        for (uint64_t r = 0; r < n; r++)
            again[r] = 1.0f;
        for (uint64_t s = 0; s < p->nstrip; s++)
            ker->multiply(p, &one, 1, s, s + 1, quant, again, ldy, true);
        for (uint64_t r = 0; r < n; r++)
            changed += bits_of(again[r]) != bits_of(1.0f + y[i * ldy + r]);
    }
    CHECK(changed == 0, "n %d k %d m %d kind %d quant %d: %d results change with the batch",
          (int)n, (int)w->k, (int)m, (int)p->kind, quant, (int)changed);
    free(y);
    free(again);
    free(want);
    act_close(&a);
}

static float *normal_rows(uint64_t m, uint64_t k)
{
    float *x = take((m + 1) * k * sizeof *x);
    for (uint64_t i = 0; i < m * k; i++)
        x[i] = normal();
    return x;
}

static void check_rows(const cpu_kernels *ker, const weight *w)
{
    float *out = take(w->k * sizeof *out);
    uint64_t wrong = 0;
    for (uint64_t r = 0; r < w->n; r++) {
        ker->row(&w->packed, r, out);
        for (uint64_t j = 0; j < w->f.cols; j++) {
            int64_t to = input_of(w, j);
            if (to >= 0 && (uint64_t)to < w->k)
                wrong += out[to] != (float)value_at(w, r, j);
        }
    }
    CHECK(wrong == 0, "n %d k %d kind %d: %d values differ", (int)w->n, (int)w->k,
          (int)w->packed.kind, (int)wrong);
    free(out);
}

static void test_shapes(const cpu_kernels *ker)
{
    static const recipe all[] = {
        {TN_FORM_W4G, 32, 0, 0, 48, 64, f16_value, true},
        {TN_FORM_W4G, 32, TN_FORM_ZEROS, 0, 64, 576, f16_value, true},
        {TN_FORM_W4G, 64, TN_FORM_ZEROS, 0, 100, 576, bf16_value, true},
        {TN_FORM_W4G, 128, TN_FORM_ZEROS, 0, 16, 2048, f16_value, true},
        {TN_FORM_W4G, 128, 0, 0, 17, 4096, as_is, true},
        {TN_FORM_W4G, 128, TN_FORM_ZEROS, 0, 33, 512, f16_value, false},
        {TN_FORM_W4G, 32, TN_FORM_ZEROS | TN_FORM_PERM, 0, 48, 100, f16_value, true},
        {TN_FORM_W4G, 128, TN_FORM_PERM, 0, 31, 500, f16_value, true},
        {TN_FORM_W4G, 200, TN_FORM_ZEROS, 0, 20, 200, f16_value, true},
        {TN_FORM_W4G, 8, TN_FORM_ZEROS, 0, 20, 72, f16_value, true},
        {TN_FORM_W4G, 16, TN_FORM_ZEROS | TN_FORM_PERM, 0, 20, 80, f16_value, true},
        {TN_FORM_W4G, 48, 0, 0, 20, 96, f16_value, true},
        {TN_FORM_W8G, 32, 0, 0, 48, 576, f16_value, true},
        {TN_FORM_W8G, 32, TN_FORM_ZEROS, 0, 1000, 64, bf16_value, true},
        {TN_FORM_W8G, 128, TN_FORM_ZEROS, 0, 40, 5120, f16_value, true},
        {TN_FORM_W8G, 24, TN_FORM_ZEROS, 0, 40, 72, f16_value, true},
        {TN_FORM_F32, 0, 0, 0, 33, 100, as_is, true},
        {TN_FORM_F16, 0, 0, 0, 64, 576, as_is, true},
        {TN_FORM_F16, 0, 0, 0, 1, 1, as_is, true},
        {TN_FORM_BF16, 0, 0, 0, 50, 577, as_is, true},
    };
    static const uint32_t batches[] = {1, 2, 3, 5, 6, 7, 8, 9, 15, 16, 17, 63, 64, 65, 127, 129};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        weight w;
        weight_open(&w, &all[i]);
        pack(&w, &all[i]);
        check_rows(ker, &w);
        bool ints = w.packed.kind == TN_FORM_W4G || w.packed.kind == TN_FORM_W8G;
        for (size_t b = 0; b < sizeof batches / sizeof batches[0]; b++) {
            if (batches[b] > 17 && w.n * w.k > 70000)
                continue;
            float *x = normal_rows(batches[b], w.k);
            check_product(ker, &w, x, batches[b], false, 2e-5);
            if (ints)
                check_product(ker, &w, x, batches[b], true, 2e-5);
            free(x);
        }
        weight_close(&w);
    }
}

/* Enough tokens and columns that multiply cuts the batch into chunks. */
static void test_long_batch(const cpu_kernels *ker)
{
    const recipe o = {TN_FORM_W4G, 64, TN_FORM_ZEROS, 0, 20, 1536, f16_value, true};
    weight w;
    weight_open(&w, &o);
    pack(&w, &o);
    float *x = normal_rows(300, w.k);
    check_product(ker, &w, x, 300, true, 2e-5);
    check_product(ker, &w, x, 300, false, 2e-5);
    free(x);
    weight_close(&w);
}

/* No rows ask for nothing and touch nothing. */
static void test_no_rows(const cpu_kernels *ker)
{
    const recipe o = {TN_FORM_W4G, 32, 0, 0, 16, 64, f16_value, true};
    weight w;
    weight_open(&w, &o);
    pack(&w, &o);
    float y = 7.0f;
    cpu_act a;
    act_open(&a, w.packed.cols, 1);
    ker->prepare(&a, &y, 64, 64, NULL, 0, 0, true);
    ker->multiply(&w.packed, &a, 0, 0, 1, true, &y, 16, false);
    ker->multiply(&w.packed, &a, 1, 1, 1, true, &y, 16, false);
    CHECK(y == 7.0f, "wrote %g", (double)y);
    act_close(&a);
    weight_close(&w);
}

/* int8 activations against what was given, and a plain weight rounded to int8. */
static void test_rounding(const cpu_kernels *ker)
{
    const recipe o[] = {{TN_FORM_W4G, 128, TN_FORM_ZEROS, 0, 256, 2048, f16_value, true},
                        {TN_FORM_F16, 0, 0, TN_FORM_W8G, 256, 576, as_is, true},
                        {TN_FORM_BF16, 0, 0, TN_FORM_W8G, 250, 570, as_is, false},
                        {TN_FORM_F32, 0, 0, TN_FORM_W8G, 250, 570, as_is, false}};
    for (size_t i = 0; i < sizeof o / sizeof o[0]; i++) {
        weight w;
        weight_open(&w, &o[i]);
        pack(&w, &o[i]);
        CHECK(i == 0 || w.packed.kind == TN_FORM_W8G, "kind %d", (int)w.packed.kind);
        float *x = normal_rows(2, w.k), *y = take(2 * w.n * sizeof *y);
        double *want = take(2 * w.n * sizeof *want);
        cpu_act a;
        act_open(&a, w.packed.cols, 2);
        ker->prepare(&a, x, w.k, w.k, NULL, 0, 2, true);
        ker->prepare(&a, x, w.k, w.k, NULL, 0, 2, false);
        want_product(&w, &a, x, 2, false, want);
        for (int quant = 0; quant < 2; quant++) {
            ker->multiply(&w.packed, &a, 2, 0, w.packed.nstrip, quant, y, w.n, false);
            double err = relative_l2(y, want, 2 * w.n), bound = i == 0 && !quant ? 2e-5 : 1.2e-2;
            CHECK(err <= bound, "weight %d quant %d: %.2e", (int)i, quant, err);
        }
        for (uint64_t r = 0; i > 0 && r < w.n; r++) {     /* every row, to half a step */
            float row[577];
            uint64_t wrong = 0;
            ker->row(&w.packed, r, row);
            for (uint64_t b = 0; b < w.k; b += 32) {
                double top = 0.0;
                for (uint64_t j = b; j < w.k && j < b + 32; j++)
                    top = fmax(top, fabs(value_at(&w, r, j)));
                for (uint64_t j = b; j < w.k && j < b + 32; j++)
                    wrong += fabs(row[j] - value_at(&w, r, j)) > top / 127.0 * 0.51;
            }
            CHECK(wrong == 0, "row %d: %d values", (int)r, (int)wrong);
        }
        act_close(&a);
        free(x);
        free(y);
        free(want);
        weight_close(&w);
    }
}

/* ----------------------------------------------------------------------- bad inputs */

static void product(const cpu_kernels *ker, const weight *w, const float *x, uint32_t m,
                    bool quant, float *y)
{
    cpu_act a;
    act_open(&a, w->packed.cols, m);
    ker->prepare(&a, x, w->k, w->k, w->packed.perm, 0, m, quant);
    ker->multiply(&w->packed, &a, m, 0, w->packed.nstrip, quant, y, w->n, false);
    act_close(&a);
}

/* All codes and all zeros alike, with the largest inputs: the widest sums there are. Zeros past
 * 15 occur in files (a stored 15, plus one) or are nonsense that must still come out exact. */
static void check_code_extremes(const cpu_kernels *ker, uint32_t kind, uint32_t code,
                                uint32_t zero, bool largest, uint32_t m)
{
    const recipe o = {kind, 64, TN_FORM_ZEROS, 0, 24, 256, f16_value, true};
    weight w;
    weight_open(&w, &o);
    memset(w.codes, code == 0 ? 0x00 : 0xff, w.n * row_size(&w.f));
    memset(w.zero, (int)zero, w.n * w.ngroup);
    pack(&w, &o);
    float *x = normal_rows(m, w.k), *y = take(m * w.n * sizeof *y);
    for (uint64_t i = 0; largest && i < m * w.k; i++)
        x[i] = i < 2 * w.k ? 127.0f : -127.0f;
    for (int quant = 0; quant < 2; quant++) {
        check_product(ker, &w, x, m, quant, 2e-5);
        product(ker, &w, x, m, quant, y);
        uint64_t wrong = 0;
        for (uint64_t i = 0; zero == code && i < m * w.n; i++)
            wrong += y[i] != 0.0f;
        CHECK(wrong == 0, "codes equal zeros: %d sums are not 0", (int)wrong);
    }
    free(x);
    free(y);
    weight_close(&w);
}

static void test_code_extremes(const cpu_kernels *ker)
{
    static const uint32_t four_bits[] = {0, 8, 15, 16, 17, 255}, eight_bits[] = {0, 128, 255};
    for (uint32_t c = 0; c < 2; c++)
        for (uint32_t m = 3; m <= 35; m += 16)
            for (int largest = 0; largest < 2; largest++) {
                for (size_t z = 0; z < sizeof four_bits / sizeof four_bits[0]; z++)
                    check_code_extremes(ker, TN_FORM_W4G, c * 15, four_bits[z], largest, m);
                for (size_t z = 0; z < sizeof eight_bits / sizeof eight_bits[0]; z++)
                    check_code_extremes(ker, TN_FORM_W8G, c * 255, eight_bits[z], largest, m);
            }
}

/* Every height of a prompt's tiles, blocks past one unpacking, passes past one, and rows so
 * wide that few tiles fit. */
static void test_many_tokens(const cpu_kernels *ker)
{
    static const struct { uint64_t k; uint32_t first, last, step; } all[] = {
        {96, 14, 50, 1}, {1056, 16, 31, 5}, {2080, 60, 62, 1}, {128, 285, 293, 2},
        {64, 590, 600, 5}, {20480, 16, 40, 8},
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        for (int zeros = 0; zeros < 2; zeros++) {
            const recipe o = {TN_FORM_W4G, 32, zeros ? TN_FORM_ZEROS : 0, 0, 20, all[i].k,
                              f16_value, true};
            weight w;
            weight_open(&w, &o);
            if (zeros)
                w.zero[17 * w.ngroup + 1] = 99; /* the second strip takes the other road */
            pack(&w, &o);
            for (uint32_t m = all[i].first; m <= all[i].last; m += all[i].step) {
                float *x = normal_rows(m, w.k);
                check_product(ker, &w, x, m, true, 2e-5);
                free(x);
            }
            weight_close(&w);
        }
}

static void test_scale_extremes(const cpu_kernels *ker)
{
    static const float scales[] = {0.0f, 0x1p-24f, 0x1.8p-23f, 65504.0f, -65504.0f, 1.0f};
    for (size_t s = 0; s < sizeof scales / sizeof scales[0]; s++)
        for (int big = 0; big < 4; big++) {
            const recipe o = {TN_FORM_W4G, 32, TN_FORM_ZEROS, 0, 20, 96, f16_value, true};
            weight w;
            weight_open(&w, &o);
            for (uint64_t i = 0; i < w.n * w.ngroup; i++)
                w.scale[i] = scales[s];
            pack(&w, &o);
            CHECK(w.packed.scale_kind == TN_F16, "scale %g: kind %d", (double)scales[s],
                  (int)w.packed.scale_kind);
            check_rows(ker, &w);
            float *x = normal_rows(4, w.k);
            for (uint64_t i = 0; i < 4 * w.k; i++) {
                if (big == 1)
                    x[i] *= 65504.0f / 6.0f;
                if (big == 2)
                    x[i] *= 0x1p-130f;
                if (big == 3)
                    x[i] *= i % w.k == 11 ? 1e3f : 1e-3f;
            }
            double bound = big == 2 ? 1e-2 : 2e-5;   /* subnormal sums have few digits */
            if (!(big == 2 && s < 3))
                check_product(ker, &w, x, 4, true, bound);
            if (!(big == 2 && s < 3))
                check_product(ker, &w, x, 4, false, bound);
            free(x);
            weight_close(&w);
        }
}

static void test_scale_kinds(void)
{
    float (*const make[])(float) = {f16_value, bf16_value, as_is};
    static const uint32_t kind[] = {TN_F16, TN_BF16, TN_F32};
    for (int i = 0; i < 3; i++) {
        const recipe o = {TN_FORM_W8G, 32, 0, 0, 40, 96, make[i], true};
        weight w;
        weight_open(&w, &o);
        w.scale[39 * w.ngroup + 2] = make[i](i == 1 ? 1e-12f : 0.0123456789f);
        pack(&w, &o);
        CHECK(w.packed.scale_kind == kind[i], "found %d, wanted %d", (int)w.packed.scale_kind,
              (int)kind[i]);
        weight_close(&w);
    }
}

static void test_unit_vectors(const cpu_kernels *ker)
{
    const recipe o[] = {{TN_FORM_W4G, 32, TN_FORM_ZEROS | TN_FORM_PERM, 0, 20, 150, f16_value, true},
                        {TN_FORM_W8G, 64, TN_FORM_ZEROS, 0, 20, 192, f16_value, true},
                        {TN_FORM_F16, 0, 0, 0, 20, 70, as_is, true}};
    for (size_t i = 0; i < sizeof o / sizeof o[0]; i++) {
        weight w;
        weight_open(&w, &o[i]);
        pack(&w, &o[i]);
        float x[192], y[20];
        for (uint64_t j = 0; j < w.f.cols; j++) {
            if (input_of(&w, j) < 0)
                continue;
            memset(x, 0, sizeof x);
            x[input_of(&w, j)] = 1.0f;
            for (int quant = 0; quant < (coded(&w.f) ? 2 : 1); quant++) {
                product(ker, &w, x, 1, quant, y);
                uint64_t wrong = 0;
                for (uint64_t r = 0; r < w.n; r++)
                    wrong += fabs(y[r] - value_at(&w, r, j)) > 1e-6 * fabs(value_at(&w, r, j));
                CHECK(wrong == 0, "column %d quant %d: %d rows", (int)j, quant, (int)wrong);
            }
        }
        weight_close(&w);
    }
}

static void test_not_finite(const cpu_kernels *ker)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    static const uint32_t kinds[] = {TN_FORM_W4G, TN_FORM_W8G, TN_FORM_F16};
    for (int q = 0; q < 3; q++)
        for (int b = 0; b < 3; b++)
            for (uint32_t m = 1; m <= 21; m += 4) {
                const recipe o = {kinds[q], q < 2 ? 32 : 0, 0, 0, 40, 128, f16_value, true};
                weight w;
                weight_open(&w, &o);
                pack(&w, &o);
                float *x = normal_rows(m, w.k), *y = take(m * w.n * 4), *z = take(m * w.n * 4);
                for (int quant = 0; quant < (q < 2 ? 2 : 1); quant++) {
                    uint32_t hit = m / 2;
                    uint64_t poisoned = 0, finite = 0;
                    float kept = x[hit * w.k + 77];
                    product(ker, &w, x, m, quant, y);
                    x[hit * w.k + 77] = bad[b];
                    product(ker, &w, x, m, quant, z);
                    x[hit * w.k + 77] = kept;
                    for (uint64_t i = 0; i < m * w.n; i++) {
                        if (i / w.n == hit)
                            finite += quant ? !isnan(z[i]) : isfinite(z[i]) != 0;
                        else
                            poisoned += bits_of(z[i]) != bits_of(y[i]);
                    }
                    CHECK(finite == 0, "%g quant %d: %d finite results", (double)bad[b], quant,
                          (int)finite);
                    CHECK(poisoned == 0, "%g quant %d: %d neighbours changed", (double)bad[b],
                          quant, (int)poisoned);
                }
                free(x);
                free(y);
                free(z);
                weight_close(&w);
            }
}

static void test_plan_refuses(void)
{
    cpu_matrix w;
    tn_form f = {.size = sizeof f, .kind = TN_FORM_PRIVATE, .cols = 64, .rows = 16};
    CHECK(!cpu_matrix_plan(&f, 16, 64, 0, &w), "private form planned");
    f.kind = TN_FORM_W4G;
    CHECK(!cpu_matrix_plan(&f, 16, 64, 0, &w), "group 0 planned");
    f.group = 48;
    CHECK(!cpu_matrix_plan(&f, 16, 64, 0, &w), "64 columns in groups of 48 planned");
    f.group = 32;
    CHECK(!cpu_matrix_plan(&f, 0, 64, 0, &w), "no rows planned");
    CHECK(!cpu_matrix_plan(&f, UINT64_MAX / 2, 64, 0, &w), "endless rows planned");
    CHECK(cpu_matrix_plan(&f, 16, 64, 0, &w), "a plain 16 x 64 refused");
}

static void test_perm_refuses(void)
{
    static const int32_t bad[] = {-2, 100, INT32_MAX};
    const recipe o = {TN_FORM_W4G, 32, TN_FORM_PERM, 0, 16, 100, f16_value, true};
    for (int i = 0; i < 3; i++) {
        weight w;
        tn_err err = {{0}, {0}, {0}};
        weight_open(&w, &o);
        pack(&w, &o);
        w.perm[5] = bad[i];
        tn_reader r = {.size = sizeof r, .ctx = &w, .rows = read_rows};
        int32_t perm[160];
        tn_status st = cpu_matrix_perm(&w.packed, &w.f, &r, 0, perm, &err);
        CHECK(st == TN_DATA && strstr(err.text, "entry 5") != NULL, "%d: %s", (int)st, err.text);
        weight_close(&w);
    }
}

/* ------------------------------------------------------------------------- vectors */

#define NVEC 203  /* no multiple of any vector */

static double ulp(double x)
{
    int e;
    frexp(x, &e);
    return ldexp(1.0, e - 24 < -149 ? -149 : e - 24);
}

static void test_exp(const cpu_kernels *ker)
{
    double worst = 0.0, at = 0.0;
    for (double x = -104.0; x < 88.72; x += 0.00713) {
        float f = (float)x;
        double want = exp((double)f), got = ker->sum_exp(&f, 0.0f, 1);
        double off = fabs(got - want) / ulp(want);
        if (off > worst) {
            worst = off;
            at = (double)f;
        }
    }
    CHECK(worst < 2.0, "exp(%g) is %.2f ulp off", at, worst);
    const float edge[] = {-INFINITY, -1e30f, 0.0f, 1e30f, NAN};
    CHECK(ker->sum_exp(&edge[0], 0.0f, 1) == 0.0, "exp(-inf)");
    CHECK(ker->sum_exp(&edge[1], 0.0f, 1) == 0.0, "exp(-1e30)");
    CHECK(ker->sum_exp(&edge[2], 0.0f, 1) == 1.0, "exp(0)");
    CHECK(isinf(ker->sum_exp(&edge[3], 0.0f, 1)), "exp(1e30)");
    CHECK(isnan(ker->sum_exp(&edge[4], 0.0f, 1)), "exp(NaN)");
    float x[NVEC];
    double sum = 0.0;
    for (int i = 0; i < NVEC; i++) {
        x[i] = normal() * 5.0f;
        sum += exp((double)x[i] - 3.0);
    }
    double got = ker->sum_exp(x, 3.0f, NVEC);
    CHECK(fabs(got / sum - 1.0) < 1e-6, "sum %g, wanted %g", got, sum);
}

static void test_norm(const cpu_kernels *ker)
{
    static const uint32_t sizes[] = {1, 7, 8, 64, 128, 203, 576};
    static const float magnitudes[] = {1.0f, 1e-3f, 65504.0f, 1e25f, 1e-30f};
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++)
        for (size_t g = 0; g < sizeof magnitudes / sizeof magnitudes[0]; g++)
            for (int has_w = 0; has_w < 2; has_w++) {
                float x[577], w[577], out[577];
                double sum = 0.0, worst = 0.0;
                uint32_t n = sizes[s];
                for (uint32_t i = 0; i < n; i++) {
                    x[i] = normal() * magnitudes[g];
                    w[i] = normal();
                    sum += (double)x[i] * (double)x[i];
                }
                out[n] = 3.0f;
                ker->norm(x, has_w ? w : NULL, has_w ? 1.0f : 0.0f, 1e-6f, n, out);
                for (uint32_t i = 0; i < n; i++) {
                    double want = x[i] / sqrt(sum / n + (double)1e-6f) * (has_w ? w[i] + 1.0f : 1);
                    worst = fmax(worst, fabs(out[i] - want) / (fabs(want) + 1e-30));
                }
                CHECK(worst < 1e-6, "n %d: %.2e", (int)n, worst);
                CHECK(out[n] == 3.0f, "wrote past n %d", (int)n);
                ker->norm(x, has_w ? w : NULL, has_w ? 1.0f : 0.0f, 1e-6f, n, x);
                CHECK(memcmp(x, out, n * sizeof x[0]) == 0, "in place differs");
            }
}

static double want_act(double x, uint32_t act)
{
    switch (act) {
    case TN_ACT_SILU: return x / (1.0 + exp(-x));
    case TN_ACT_GELU: return 0.5 * x * erfc(-x / sqrt(2.0));
    case TN_ACT_GELU_TANH:
        x = x / (1.0 + exp(-2.0 * sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x)));
        return x;
    default: return 1.0 / (1.0 + exp(-x));
    }
}

static void test_activations(const cpu_kernels *ker)
{
    for (uint32_t act = TN_ACT_SILU; act <= TN_ACT_SIGMOID; act++) {
        float a[NVEC], b[NVEC], out[NVEC + 1], gate[NVEC];
        double worst = 0.0;
        for (int i = 0; i < NVEC; i++) {
            a[i] = i < 4 ? (float[]){0.0f, -0.5f, 60000.0f, -9.0f}[i] : normal() * 4.0f;
            b[i] = normal();
        }
        out[NVEC] = 3.0f;
        ker->act_mul(a, b, act, NVEC, out);
        for (int i = 0; i < NVEC; i++) {
            double want = want_act((double)a[i], act) * (double)b[i];
            worst = fmax(worst, fabs(out[i] - want) / (fabs(want) + 1e-12));
        }
        CHECK(worst < 0x1p-13, "act %d: relative error %.2e", (int)act, worst);
        CHECK(out[NVEC] == 3.0f, "wrote past n");
        memcpy(gate, a, sizeof gate);
        memcpy(out, b, sizeof b);
        ker->mul_sigmoid(out, gate, NVEC);
        worst = 0.0;
        for (int i = 0; i < NVEC; i++) {
            double want = (double)b[i] / (1.0 + exp(-(double)a[i]));
            worst = fmax(worst, fabs(out[i] - want) / (fabs(want) + 1e-12));
        }
        CHECK(worst < 1e-6, "mul_sigmoid: %.2e", worst);
        a[5] = NAN;
        ker->act_mul(a, b, act, NVEC, out);
        CHECK(isnan(out[5]) && isfinite(out[4]) && isfinite(out[6]), "NaN lost or spread");
    }
}

static void test_add_rope(const cpu_kernels *ker)
{
    float x[NVEC], y[NVEC], was[NVEC];
    for (int i = 0; i < NVEC; i++) {
        was[i] = x[i] = normal();
        y[i] = normal();
    }
    ker->add(x, y, NVEC);
    uint64_t wrong = 0;
    for (int i = 0; i < NVEC; i++)
        wrong += x[i] != was[i] + y[i];
    CHECK(wrong == 0, "add: %d", (int)wrong);
    static const uint32_t dims[] = {2, 6, 16, 32, 64, 128, 100};
    for (size_t d = 0; d < sizeof dims / sizeof dims[0]; d++)
        for (uint32_t pairing = TN_ROPE_HALF; pairing <= TN_ROPE_PAIRS; pairing++) {
            float c[64], s[64];
            uint32_t half = dims[d] / 2;
            double worst = 0.0;
            for (uint32_t i = 0; i < half; i++) {
                c[i] = (float)cos(1.0 + i);
                s[i] = (float)sin(1.0 + i);
            }
            memcpy(x, was, sizeof x);
            ker->rope(x, c, s, dims[d], pairing);
            for (uint32_t i = 0; i < half; i++) {
                uint32_t p = pairing == TN_ROPE_HALF ? i : 2 * i;
                uint32_t q = pairing == TN_ROPE_HALF ? half + i : 2 * i + 1;
                double a = was[p], b = was[q];
                worst = fmax(worst, fabs(x[p] - (a * c[i] - b * s[i])));
                worst = fmax(worst, fabs(x[q] - (b * c[i] + a * s[i])));
            }
            CHECK(worst < 1e-6, "rope %d: %.2e", (int)dims[d], worst);
            CHECK(x[dims[d]] == was[dims[d]], "rope %d turned too much", (int)dims[d]);
        }
}

static void test_halves(const cpu_kernels *ker)
{
    float *x = take(65536 * 3 * sizeof *x);
    uint16_t *h = take(65536 * 3 * sizeof *h);
    uint64_t wrong = 0;
    for (uint32_t i = 0; i < 65536; i++)
        x[i] = (float)f16_decode((uint16_t)i);
    ker->to_f16(x, 65535, h);
    for (uint32_t i = 0; i < 65535; i++) {
        bool nan = (i & 0x7c00) == 0x7c00 && (i & 1023) != 0;
        wrong += nan ? (h[i] & 0x7c00) != 0x7c00 || (h[i] & 1023) == 0 : h[i] != i;
    }
    CHECK(wrong == 0, "f16: %d of 65535 do not come back", (int)wrong);
    wrong = 0;
    for (uint32_t i = 0; i < 3 * 65536; i++)    /* halfway points, and just beside them */
        x[i] = of_bits(0x32000000u + i * 0xc00u + (uint32_t)dice(3) - 1);
    ker->to_f16(x, 3 * 65536, h);
    for (uint32_t i = 0; i < 3 * 65536; i++) {
        double a = f16_decode(h[i]), off = fabs(a - (double)x[i]);
        double lo = f16_decode((uint16_t)(h[i] - 1)), hi = f16_decode((uint16_t)(h[i] + 1));
        hi = h[i] == 0x7bff ? 65536.0 : hi;
        if (h[i] == 0x7c00) {
            wrong += x[i] < 65520.0f;
            continue;
        }
        bool tie = off == fabs(hi - x[i]) || (h[i] > 0 && off == fabs(lo - x[i]));
        wrong += off > fabs(hi - x[i]) || (h[i] > 0 && off > fabs(lo - x[i])) ||
                 (tie && (h[i] & 1) != 0);
    }
    CHECK(wrong == 0, "f16: %d roundings", (int)wrong);
    wrong = 0;
    for (uint32_t i = 0; i < 65536; i++)
        x[i] = of_bits(i << 16 | (uint32_t)(dice(4) == 0 ? 0x8000 : dice(65536)));
    ker->to_bf16(x, 65533, h);
    for (uint32_t i = 0; i < 65533; i++) {
        uint32_t u = bits_of(x[i]), low = u & 0xffff, up = low > 0x8000 || (low == 0x8000 && (i & 1));
        if ((u & 0x7fffffff) > 0x7f800000)
            wrong += (h[i] & 0x7f80) != 0x7f80 || (h[i] & 0x7f) == 0;
        else
            wrong += h[i] != (uint16_t)(i + up);
    }
    CHECK(wrong == 0, "bf16: %d roundings", (int)wrong);
    free(x);
    free(h);
}

static void test_searches(const cpu_kernels *ker)
{
    for (uint32_t n = 1; n < 90; n++)
        for (int round = 0; round < 8; round++) {
            float x[90];
            uint32_t at = 99, want = 0;
            for (uint32_t i = 0; i < n; i++)
                x[i] = (float)dice(5) - 9.0f;
            if (round == 0)
                for (uint32_t i = 0; i < n; i++)
                    x[i] = -INFINITY;
            for (uint32_t i = 1; i < n; i++)
                want = x[i] > x[want] ? i : want;
            float top = ker->max(x, n, &at);
            CHECK(at == want && top == x[want], "max of %d: at %d, wanted %d", (int)n, (int)at,
                  (int)want);
            CHECK(ker->finite(x, n), "-inf counts as finite");
            if (n > 1) {                               /* max passes over a NaN */
                uint32_t bad = (want + 1 + (uint32_t)dice(n - 1)) % n;
                float kept = x[bad];
                x[bad] = NAN;
                top = ker->max(x, n, &at);
                CHECK(top == x[want] && x[at] == top, "max of %d with a NaN: %g", (int)n,
                      (double)top);
                x[bad] = kept;
            }
            x[dice(n)] = round % 2 == 0 ? NAN : INFINITY;
            CHECK(!ker->finite(x, n), "n %d: missed", (int)n);
        }
    uint8_t bytes[300];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)dice(256);
    for (size_t n = 0; n <= sizeof bytes; n += 13) {
        uint64_t want = 0, word;
        size_t i = 0;
        for (; i + 8 <= n; i += 8) {
            memcpy(&word, bytes + i, 8);
            want += word;
        }
        for (; i < n; i++)
            want += bytes[i];
        CHECK(ker->read(bytes, n) == want, "read %d", (int)n);
    }
}

/* ----------------------------------------------------------------------- attention */

typedef struct cache {
    uint32_t dtype, dim, ntoken, block;
    void *k, *v;   /* strips of 16 keys side by side, [dim][16]; [ntoken, dim] */
} cache;

static uint64_t key_index(const cache *c, uint64_t token, uint32_t d)
{
    return (token / 16 * c->dim + d) * 16 + token % 16;
}

static double cached(const cache *c, const void *base, uint64_t i)
{
    uint16_t h;
    if (c->dtype == TN_F32)
        return ((const float *)base)[i];
    h = ((const uint16_t *)base)[i];
    return c->dtype == TN_F16 ? f16_decode(h) : (double)of_bits((uint32_t)h << 16);
}

static void cache_put(const cache *c, void *base, uint64_t i, float x)
{
    uint16_t b = (uint16_t)(bits_of(x) >> 16);
    /* f16 by its fields, cut off: exact enough for a test's values */
    uint32_t u = bits_of(x), e = (u >> 23 & 255) - 112;
    uint16_t h = (uint16_t)((u >> 16 & 0x8000) | ((u >> 23 & 255) < 113 ? 0 : e << 10 | (u >> 13 & 1023)));
    if ((u & 0x7fffffff) > 0x7f800000)
        h = 0x7e00;
    if (c->dtype == TN_F32)
        ((float *)base)[i] = x;
    else
        ((uint16_t *)base)[i] = c->dtype == TN_F16 ? h : b;
}

static void cache_open(cache *c, uint32_t dtype, uint32_t dim, uint32_t ntoken, uint32_t block)
{
    *c = (cache){dtype, dim, ntoken, block, NULL, NULL};
    uint32_t whole = (ntoken + 15) / 16 * 16;
    c->k = take((size_t)whole * dim * 4);
    c->v = take((size_t)ntoken * dim * 4);
    for (uint64_t t = 0; t < whole; t++)
        for (uint32_t d = 0; d < dim; d++) {
            cache_put(c, c->k, key_index(c, t, d), t < ntoken ? normal() : NAN);
            if (t < ntoken)
                cache_put(c, c->v, t * dim + d, normal());
        }
}

/* `token` begins a strip of keys. */
static const void *cache_at(const cache *c, const void *base, uint64_t token)
{
    return (const uint8_t *)base + token * c->dim * (c->dtype == TN_F32 ? 4 : 2);
}

typedef struct queries {
    uint32_t n;
    float *q, *m, *l, *acc;
    int32_t *first, *limit;   /* over the whole cache */
    float softcap;
} queries;

static void queries_open(queries *s, uint32_t n, uint32_t dim)
{
    *s = (queries){.n = n};
    s->q = take(n * dim * 4);
    s->acc = take(n * dim * 4);
    s->m = take(n * 4);
    s->l = take(n * 4);
    s->first = take(n * 4);
    s->limit = take(n * 4);
    for (uint32_t i = 0; i < n * dim; i++)
        s->q[i] = normal();
}

static void queries_close(queries *s)
{
    free(s->q);
    free(s->acc);
    free(s->m);
    free(s->l);
    free(s->first);
    free(s->limit);
}

/* Queries [i0, i1) over the cache, block by block, as the device does it. */
static void run_attention(const cpu_kernels *ker, const cache *c, queries *s, uint32_t i0,
                          uint32_t i1)
{
    static _Alignas(64) uint8_t room[CPU_ROOM_BYTES];
    int32_t *first = take((i1 - i0) * 4 + 4), *limit = take((i1 - i0) * 4 + 4);
    for (uint32_t i = i0; i < i1; i++) {
        s->m[i] = -INFINITY;
        s->l[i] = 0.0f;
        memset(s->acc + i * c->dim, 0, c->dim * 4);
    }
    for (uint32_t t0 = 0; t0 < c->ntoken; t0 += c->block) {
        uint32_t nt = c->ntoken - t0 < c->block ? c->ntoken - t0 : c->block;
        for (uint32_t i = i0; i < i1; i++) {
            int32_t f = s->first[i] - (int32_t)t0, l = s->limit[i] - (int32_t)t0;
            first[i - i0] = f < 0 ? 0 : f;
            limit[i - i0] = l > (int32_t)nt ? (int32_t)nt : l < 0 ? 0 : l;
        }
        cpu_attend a = {.nquery = i1 - i0, .dim = c->dim, .ntoken = nt,
                        .q = s->q + i0 * c->dim, .k = cache_at(c, c->k, t0),
                        .v = cache_at(c, c->v, t0), .first = first, .limit = limit,
                        .scale = 0.125f, .softcap = s->softcap, .m = s->m + i0, .l = s->l + i0,
                        .acc = s->acc + i0 * c->dim, .room = room};
        (c->dtype == TN_F32 ? ker->attend_f32
         : c->dtype == TN_F16 ? ker->attend_f16 : ker->attend_bf16)(&a);
    }
    for (uint32_t i = i0; i < i1; i++)
        for (uint32_t d = 0; d < c->dim; d++)
            s->acc[i * c->dim + d] /= s->l[i];
    free(first);
    free(limit);
}

static void want_attention(const cache *c, const queries *s, uint32_t i, double *out)
{
    double *p = take(c->ntoken * sizeof *p), top = -INFINITY, sum = 0.0;
    memset(out, 0, c->dim * sizeof *out);
    for (int32_t t = s->first[i]; t < s->limit[i]; t++) {
        p[t] = 0.0;
        for (uint32_t d = 0; d < c->dim; d++)
            p[t] += (double)s->q[i * c->dim + d] *
                    cached(c, c->k, key_index(c, (uint64_t)t, d)) * 0.125;
        if (s->softcap > 0.0f)
            p[t] = s->softcap * tanh(p[t] / s->softcap);
        top = fmax(top, p[t]);
    }
    for (int32_t t = s->first[i]; t < s->limit[i]; t++) {
        p[t] = exp(p[t] - top);
        sum += p[t];
        for (uint32_t d = 0; d < c->dim; d++)
            out[d] += p[t] * cached(c, c->v, (uint64_t)t * c->dim + d);
    }
    for (uint32_t d = 0; d < c->dim; d++)
        out[d] /= sum;
    free(p);
}

static void check_attention(const cpu_kernels *ker, const cache *c, queries *s)
{
    double *want = take(c->dim * sizeof *want);
    float *all = take(s->n * c->dim * 4);
    run_attention(ker, c, s, 0, s->n);
    memcpy(all, s->acc, s->n * c->dim * 4);
    for (uint32_t i = 0; i < s->n; i++) {
        want_attention(c, s, i, want);
        double err = relative_l2(all + i * c->dim, want, c->dim);
        CHECK(err < 1e-5, "type %d dim %d query %d, tokens %d to %d: %.2e", (int)c->dtype,
              (int)c->dim, (int)i, (int)s->first[i], (int)s->limit[i], err);
    }
    for (uint32_t step = 1; step <= 7; step += 2) {   /* other groupings, same bits */
        for (uint32_t i = 0; i < s->n; i += step)
            run_attention(ker, c, s, i, i + step < s->n ? i + step : s->n);
        CHECK(memcmp(all, s->acc, s->n * c->dim * 4) == 0,
              "type %d dim %d: result changes in groups of %d", (int)c->dtype, (int)c->dim,
              (int)step);
    }
    free(want);
    free(all);
}

static void test_attention(const cpu_kernels *ker)
{
    static const uint32_t dims[] = {64, 128, 256, 8, 24, 72, 80};
    for (uint32_t dtype = TN_F32; dtype <= TN_BF16; dtype++)
        for (size_t d = 0; d < sizeof dims / sizeof dims[0]; d++)
            for (uint32_t ctx = 1; ctx <= 150; ctx += ctx < 34 ? 11 : 58) {
                cache c;
                queries s;
                uint32_t n = 9 + (uint32_t)dice(20);
                cache_open(&c, dtype, dims[d], ctx, dice(2) ? 32 : 64);
                queries_open(&s, n, dims[d]);
                for (uint32_t i = 0; i < n; i++) {      /* three queries a row, causal */
                    int32_t limit = (int32_t)ctx - (int32_t)((n - 1 - i) / 3);
                    s.limit[i] = limit < 1 ? 1 : limit;
                    s.first[i] = ctx % 2 == 0 && s.limit[i] > 20 ? s.limit[i] - 20 : 0;
                }
                s.softcap = d == 1 ? 5.0f : 0.0f;
                check_attention(ker, &c, &s);
                queries_close(&s);
                free(c.k);
                free(c.v);
            }
}

/* A NaN that a query must not see does not reach it; one that it sees does. */
static void test_attention_poison(const cpu_kernels *ker)
{
    for (int where = 0; where < 2; where++)
        for (int32_t at = 0; at < 70; at += 23) {
            cache c;
            queries s;
            cache_open(&c, TN_F16, 64, 70, 32);
            queries_open(&s, 70, 64);
            for (int32_t i = 0; i < 70; i++) {
                s.first[i] = 0;
                s.limit[i] = i + 1;
            }
            cache_put(&c, where ? c.k : c.v,
                      where ? key_index(&c, (uint64_t)at, 5) : (uint64_t)at * c.dim + 5, NAN);
            run_attention(ker, &c, &s, 0, 70);
            uint64_t wrong = 0;
            for (int32_t i = 0; i < 70; i++)
                wrong += (isnan(s.acc[i * 64 + 5]) != 0) != (i >= at);
            CHECK(wrong == 0, "NaN at token %d: %d queries wrong", (int)at, (int)wrong);
            queries_close(&s);
            free(c.k);
            free(c.v);
        }
}

/* Equal keys give the mean; huge scores do not overflow. */
static void test_attention_extremes(const cpu_kernels *ker)
{
    cache c;
    queries s;
    cache_open(&c, TN_F32, 64, 100, 32);
    queries_open(&s, 5, 64);
    for (uint32_t i = 0; i < 5; i++) {
        s.first[i] = 0;
        s.limit[i] = 100;
    }
    for (uint64_t i = 0; i < 112ull * c.dim; i++)
        ((float *)c.k)[i] = 0.25f;
    check_attention(ker, &c, &s);
    for (uint64_t t = 0; t < 100; t++)
        for (uint32_t d = 0; d < c.dim; d++)
            ((float *)c.k)[key_index(&c, t, d)] = (float)t * 30.0f;
    run_attention(ker, &c, &s, 0, 5);
    CHECK(ker->finite(s.acc, 5 * 64), "huge scores overflow");
    queries_close(&s);
    free(c.k);
    free(c.v);
}

/* ---------------------------------------------------------------------------- main */

static void test_level(const cpu_kernels *ker)
{
    test_shapes(ker);
    test_long_batch(ker);
    test_no_rows(ker);
    test_rounding(ker);
    test_code_extremes(ker);
    test_many_tokens(ker);
    test_scale_extremes(ker);
    test_unit_vectors(ker);
    test_not_finite(ker);
    test_exp(ker);
    test_norm(ker);
    test_activations(ker);
    test_add_rope(ker);
    test_halves(ker);
    test_searches(ker);
    test_attention(ker);
    test_attention_poison(ker);
    test_attention_extremes(ker);
}

static bool given(const char *word, int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], word) == 0)
            return true;
    return false;
}

int main(int argc, char **argv)
{
    uint64_t failed = 0;
    uint32_t levels_passed = 0, levels_failed = 0;
    bool all = argc < 2;
    tally.level = "matrix";
    test_scale_kinds();
    test_plan_refuses();
    test_perm_refuses();
    CHECK(cpu_kernels_pick("no such level") == NULL, "an unknown level was found");
    CHECK(cpu_kernels_pick("scalar") == cpu_kernels_at(0), "scalar is not the worst level");
    failed += tally.failed;
    levels_passed += tally.failed == 0; /* packing counts as one, beside the levels */
    levels_failed += tally.failed != 0;
    for (uint32_t i = 0; cpu_kernels_at(i) != NULL; i++) {
        const cpu_kernels *ker = cpu_kernels_at(i);
        if (!all && !given(ker->name, argc, argv))
            continue;
        tally.level = ker->name;
        tally.checks = tally.failed = 0;
        CHECK(cpu_kernels_pick(ker->name) == ker, "not found by its name");
        test_level(ker);
        printf("%-10s %s: %llu checks, %llu failed\n", ker->name,
               tally.failed == 0 ? "pass" : "FAIL", (unsigned long long)tally.checks,
               (unsigned long long)tally.failed);
        fflush(stdout);
        failed += tally.failed;
        levels_passed += tally.failed == 0;
        levels_failed += tally.failed != 0;
    }
    printf("%u passed, %u failed\n", levels_passed, levels_failed);
    return failed == 0 ? 0 : 1;
}
