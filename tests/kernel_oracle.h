/* SPDX-License-Identifier: Apache-2.0 */
/* kernel_oracle.h - random numbers, weights and activations for test_cpu_kernels.c, and what
 * a kernel should make of them, in double precision. Everything is static: one test includes
 * it. */
#ifndef KERNEL_ORACLE_H
#define KERNEL_ORACLE_H

#include "kernel.h"
#include <math.h>
#include <stdlib.h>
#include <time.h>

static struct {
    const char *level;
    uint64_t checks, failed;
} tally;

#define CHECK(fact, ...)                                             \
    do {                                                             \
        tally.checks++;                                              \
        if (!(fact) && tally.failed++ < 20) {                        \
            printf("%s: %s:%d: ", tally.level, __func__, __LINE__);  \
            printf(__VA_ARGS__);                                     \
            printf("\n");                                            \
        }                                                            \
    } while (0)

/* ------------------------------------------------------------------------- numbers */

static uint64_t seed = 88172645463325252u;

static uint64_t dice(uint64_t n)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (seed >> 11) % n;
}

static float uniform(float a, float b)
{
    return a + (b - a) * (float)dice(1u << 24) / (float)(1u << 24);
}

static float normal(void)
{
    float sum = 0.0f;
    for (int i = 0; i < 12; i++)
        sum += uniform(0.0f, 1.0f);
    return sum - 6.0f;
}

static uint32_t bits_of(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static float of_bits(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static float bf16_value(float x)
{
    return of_bits(bits_of(x) & 0xffff0000u);
}

/* 11 bits of mantissa, within the range of an f16. */
static float f16_value(float x)
{
    return of_bits(bits_of(x) & 0xffffe000u);
}

/* The value of an f16, from the definition. */
static double f16_decode(uint16_t h)
{
    int e = h >> 10 & 31, m = h & 1023;
    double v = e == 31 ? (m != 0 ? (double)NAN : (double)INFINITY)
             : e == 0  ? ldexp(m, -24)
                       : ldexp(1024 + m, e - 25);
    return h >> 15 ? -v : v;
}

static void *take(size_t size)
{
    void *p = aligned_alloc(64, (size + 127) / 64 * 64);
    if (p == NULL)
        abort();
    memset(p, 0x5a, (size + 127) / 64 * 64);
    return p;
}

static double relative_l2(const float *y, const double *want, uint64_t n)
{
    double top = 0.0, bottom = 0.0;
    for (uint64_t i = 0; i < n; i++) {
        top += (y[i] - want[i]) * (y[i] - want[i]);
        bottom += want[i] * want[i];
    }
    return bottom > 0.0 ? sqrt(top / bottom) : sqrt(top);
}

/* ------------------------------------------------------------------------- weights */

typedef struct weight {
    tn_form f;
    uint64_t n, k, ngroup;
    uint8_t *codes;
    float *scale;
    uint8_t *zero;
    int32_t *perm;
    cpu_matrix packed;
} weight;

typedef struct recipe {
    uint32_t kind, group, flags, requant;
    uint64_t n, k;
    float (*scale)(float);  /* rounds a scale to what its file could hold */
    bool settle;
} recipe;

static uint64_t row_size(const tn_form *f)
{
    switch (f->kind) {
    case TN_FORM_W4G: return f->cols / 2;
    case TN_FORM_W8G: return f->cols;
    case TN_FORM_F32: return f->cols * 4;
    default: return f->cols * 2;
    }
}

static bool coded(const tn_form *f)
{
    return f->kind == TN_FORM_W4G || f->kind == TN_FORM_W8G;
}

static tn_status read_rows(void *ctx, uint32_t expert, uint64_t row0, uint64_t row1,
                           tn_block *out, tn_err *err)
{
    const weight *w = ctx;
    if (row1 > w->n || row0 >= row1 || expert != 0)
        return tn_fail(err, TN_INTERNAL, "rows %d to %d", (int)row0, (int)row1);
    if (out->codes != NULL)
        memcpy(out->codes, w->codes + row0 * row_size(&w->f), (row1 - row0) * row_size(&w->f));
    if (out->scale != NULL)
        memcpy(out->scale, w->scale + row0 * w->ngroup, (row1 - row0) * w->ngroup * 4);
    if (out->zero != NULL)
        memcpy(out->zero, w->zero + row0 * w->ngroup, (row1 - row0) * w->ngroup);
    if (out->perm != NULL)
        memcpy(out->perm, w->perm, w->f.cols * sizeof *w->perm);
    return TN_OK;
}

static uint32_t code_at(const weight *w, uint64_t r, uint64_t j)
{
    const uint8_t *row = w->codes + r * row_size(&w->f);
    if (w->f.kind == TN_FORM_W8G)
        return row[j];
    return j % 2 == 0 ? row[j / 2] & 15 : row[j / 2] >> 4;
}

/* Value of code column j of row r as the form defines it. */
static double value_at(const weight *w, uint64_t r, uint64_t j)
{
    uint16_t h;
    float x;
    if (coded(&w->f)) {
        uint64_t g = r * w->ngroup + j / w->f.group;
        return ((double)code_at(w, r, j) - w->zero[g]) * (double)w->scale[g];
    }
    if (w->f.kind == TN_FORM_F32) {
        memcpy(&x, w->codes + (r * w->f.cols + j) * 4, 4);
        return (double)x;
    }
    memcpy(&h, w->codes + (r * w->f.cols + j) * 2, 2);
    return w->f.kind == TN_FORM_F16 ? f16_decode(h) : (double)of_bits((uint32_t)h << 16);
}

/* Which input a code column multiplies, -1: none. */
static int64_t input_of(const weight *w, uint64_t j)
{
    return w->perm != NULL ? w->perm[j] : (int64_t)j;
}

static void fill_plain(weight *w)
{
    for (uint64_t i = 0; i < w->n * w->f.cols; i++) {
        float x = normal() * 0.05f;
        uint16_t b = (uint16_t)(bits_of(x) >> 16);
        uint16_t h = (uint16_t)(dice(2) << 15 | (6 + dice(8)) << 10 | dice(1024));
        if (w->f.kind == TN_FORM_F32)
            memcpy(w->codes + i * 4, &x, 4);
        else
            memcpy(w->codes + i * 2, w->f.kind == TN_FORM_F16 ? &h : &b, 2);
    }
}

static void fill_coded(weight *w, const recipe *o)
{
    bool four = o->kind == TN_FORM_W4G;
    for (uint64_t i = 0; i < w->n * row_size(&w->f); i++)
        w->codes[i] = (uint8_t)dice(256);
    for (uint64_t i = 0; i < w->n * w->ngroup; i++) {
        w->scale[i] = o->scale(uniform(0.001f, 0.02f) * (dice(9) == 0 ? -1.0f : 1.0f));
        w->zero[i] = four ? 8 : 128;
        if (o->flags & TN_FORM_ZEROS)
            w->zero[i] = (uint8_t)dice(four ? 17 : 256);
    }
}

/* A shuffle of the inputs with padding strewn in when there are more columns than inputs. */
static void fill_perm(weight *w)
{
    for (uint64_t j = 0; j < w->f.cols; j++)
        w->perm[j] = j < w->k ? (int32_t)j : -1;
    for (uint64_t j = w->f.cols - 1; j > 0; j--) {
        uint64_t i = dice(j + 1);
        int32_t t = w->perm[i];
        w->perm[i] = w->perm[j];
        w->perm[j] = t;
    }
    for (uint64_t j = 0; j < w->f.cols; j++)    /* a padding column's code is its zero */
        for (uint64_t r = 0; w->perm[j] < 0 && r < w->n; r++) {
            uint8_t *two = w->codes + r * row_size(&w->f) + j / 2;
            uint8_t *z = w->zero + r * w->ngroup + j / w->f.group;
            *z = *z > 15 ? 15 : *z;
            *two = j % 2 == 0 ? (uint8_t)((*two & 0xf0) | *z) : (uint8_t)((*two & 15) | *z << 4);
        }
}

static void pack(weight *w, const recipe *o)
{
    tn_err err = {{0}, {0}, {0}};
    tn_reader r = {.size = sizeof r, .ctx = w, .rows = read_rows};
    cpu_matrix *p = &w->packed;
    CHECK(cpu_matrix_plan(&w->f, w->n, w->k, o->requant, p), "no plan");
    uint64_t planned = cpu_matrix_bytes(p);
    if (o->settle)
        CHECK(cpu_matrix_settle(p, &w->f, &r, 1, &err) == TN_OK, "%s", err.text);
    CHECK(cpu_matrix_bytes(p) <= planned && planned % 64 == 0, "grew");
    p->data = take(cpu_matrix_bytes(p));
    if (w->perm != NULL) {
        int32_t *perm = take(p->cols * sizeof *perm);
        CHECK(cpu_matrix_perm(p, &w->f, &r, 0, perm, &err) == TN_OK, "%s", err.text);
        p->perm = perm;
    }
    uint64_t half = p->nstrip / 2;
    CHECK(cpu_matrix_pack(p, &w->f, &r, 0, half, p->nstrip, &err) == TN_OK, "%s", err.text);
    CHECK(cpu_matrix_pack(p, &w->f, &r, 0, 0, half, &err) == TN_OK, "%s", err.text);
    CHECK(p->data[cpu_matrix_bytes(p)] == 0x5a, "wrote past the end");
}

static float as_is(float x)
{
    return x;
}

static void weight_open(weight *w, const recipe *o)
{
    uint64_t unit = o->group != 0 ? o->group : 1;
    uint64_t cols = (o->k + unit - 1) / unit * unit + (o->flags & TN_FORM_PERM ? unit : 0);
    *w = (weight){.n = o->n, .k = o->k,
                  .f = {.size = sizeof w->f, .kind = o->kind, .group = o->group,
                        .flags = o->flags, .rows = o->n, .cols = cols}};
    w->ngroup = coded(&w->f) ? cols / o->group : 0;
    w->codes = take(o->n * row_size(&w->f));
    w->scale = take(o->n * w->ngroup * sizeof *w->scale);
    w->zero = take(o->n * w->ngroup);
    if (coded(&w->f))
        fill_coded(w, o);
    else
        fill_plain(w);
    if (o->flags & TN_FORM_PERM) {
        w->perm = take(cols * sizeof *w->perm);
        fill_perm(w);
    }
}

static void weight_close(weight *w)
{
    free(w->codes);
    free(w->scale);
    free(w->zero);
    free(w->perm);
    free(w->packed.data);
    free((void *)(uintptr_t)w->packed.perm);
}

/* --------------------------------------------------------------------- activations */

static void act_open(cpu_act *a, uint64_t cols, uint64_t m)
{
    a->cols = cols;
    a->x = take(m * cols * sizeof *a->x);
    a->q = take(m * cols);
    a->scale = take(m * cols / CPU_BLOCK * sizeof *a->scale);
    a->sum = take(m * cols / CPU_BLOCK * sizeof *a->sum);
    a->room = take(CPU_ROOM_BYTES);
    cpu_room_forget(a->room);
}

static void act_close(cpu_act *a)
{
    free(a->x);
    free(a->q);
    free(a->scale);
    free(a->sum);
    free(a->room);
}

/* The input that packed column j sees, as prepared or as given. */
static double input_at(const weight *w, const cpu_act *a, const float *x, uint64_t i, uint64_t j,
                       bool quant)
{
    if (quant)
        return (double)a->q[i * a->cols + j] *
               (double)a->scale[i * (a->cols / CPU_BLOCK) + j / CPU_BLOCK];
    int64_t from = input_of(w, j);
    return from < 0 ? 0.0 : (double)x[i * w->k + (uint64_t)from];
}

static void want_product(const weight *w, const cpu_act *a, const float *x, uint64_t m,
                         bool quant, double *want)
{
    double *row = take(w->f.cols * sizeof *row);
    for (uint64_t r = 0; r < w->n; r++) {
        for (uint64_t j = 0; j < w->f.cols; j++)
            row[j] = value_at(w, r, j);
        for (uint64_t i = 0; i < m; i++) {
            double sum = 0.0;
            for (uint64_t j = 0; j < w->f.cols; j++)
                if (input_of(w, j) >= 0 && (w->perm != NULL || j < w->k))
                    sum += row[j] * input_at(w, a, x, i, j, quant);
            want[i * w->n + r] = sum;
        }
    }
    free(row);
}

static void check_quantized(const weight *w, const cpu_act *a, const float *x, uint64_t m)
{
    uint64_t nblock = a->cols / CPU_BLOCK, wrong = 0;
    for (uint64_t i = 0; i < m; i++)
        for (uint64_t b = 0; b < nblock; b++) {
            double top = 0.0, sum = 0.0, v[CPU_BLOCK];
            for (uint64_t c = 0; c < CPU_BLOCK; c++) {
                uint64_t j = b * CPU_BLOCK + c;
                v[c] = j < w->f.cols && (w->perm != NULL || j < w->k)
                           ? input_at(w, a, x, i, j, false) : 0.0;
                top = fmax(top, fabs(v[c]));
            }
            double scale = top / 127.0;
            wrong += fabs(a->scale[i * nblock + b] - scale) > 1e-6 * scale + 1e-45;
            for (uint64_t c = 0; c < CPU_BLOCK; c++) {
                int q = a->q[i * a->cols + b * CPU_BLOCK + c];
                wrong += q < -127 || (top > 1e-37 && fabs(v[c] / scale - q) > 0.5001);
                sum += q;
            }
            wrong += sum != (double)a->sum[i * nblock + b];
        }
    CHECK(wrong == 0, "%d values of %d x %d wrong", (int)wrong, (int)m, (int)a->cols);
}

#endif
