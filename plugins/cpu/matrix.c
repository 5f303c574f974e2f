/* SPDX-License-Identifier: Apache-2.0 */
/* matrix.c - turns a form into the strips that the kernels read; see kernel.h for the layout.
 *
 * Three roads: plain values and codes keep their bits; a plain form with requant W8G is
 * rounded to int8 with one scale every 32 columns; codes in groups that do not line up with
 * blocks of 32 are expanded to F32. Rows are pulled a strip at a time, so a matrix is never
 * held twice. */
#include "kernel.h"
#include "half16.h"

#include <math.h>
#include <stdlib.h>

#define ROW_MAX (1ull << 32)  /* rows or columns of one matrix */

static uint64_t round_up(uint64_t x, uint64_t unit)
{
    return (x + unit - 1) / unit * unit;
}

static bool is_plain(uint32_t kind)
{
    return kind == TN_FORM_F32 || kind == TN_FORM_F16 || kind == TN_FORM_BF16;
}

static bool is_coded(uint32_t kind)
{
    return kind == TN_FORM_W4G || kind == TN_FORM_W8G;
}

static uint64_t plain_size(uint32_t kind)
{
    return kind == TN_FORM_F32 ? 4 : 2;
}

/* ------------------------------------------------------------------------- planning */

static void lay_out(cpu_matrix *w)
{
    if (is_plain(w->kind)) {
        w->strip_size = w->cols * CPU_STRIP * plain_size(w->kind);
        return;
    }
    uint64_t scale_size = w->scale_kind == TN_F32 ? 4 : 2;
    uint64_t block_size = w->kind == TN_FORM_W4G ? 256 : 512;
    w->zero_at = round_up(w->ngroup * CPU_STRIP * scale_size, 64);
    w->code_at = w->zero_at + (w->zeros ? round_up(w->ngroup * CPU_STRIP, 64) : 0);
    w->strip_size = w->code_at + w->cols / CPU_BLOCK * block_size;
}

static bool form_is_possible(const tn_form *f, uint64_t n, uint64_t k)
{
    if (n == 0 || k == 0 || n > ROW_MAX || k > ROW_MAX || f->cols == 0 || f->cols > ROW_MAX)
        return false;
    if (is_plain(f->kind))
        return f->cols >= k;
    return is_coded(f->kind) && f->group != 0 && f->cols % f->group == 0 &&
           (f->kind == TN_FORM_W8G || f->cols % 2 == 0);
}

bool cpu_matrix_plan(const tn_form *f, uint64_t n, uint64_t k, uint32_t requant, cpu_matrix *out)
{
    if (!form_is_possible(f, n, k))
        return false;
    cpu_matrix w = {.kind = f->kind, .n = n, .k = k, .cols = round_up(f->cols, CPU_BLOCK),
                    .nstrip = round_up(n, CPU_STRIP) / CPU_STRIP};
    if (is_plain(f->kind) && requant == TN_FORM_W8G) {
        w.kind = TN_FORM_W8G;
        w.group = CPU_BLOCK;
        w.scale_kind = TN_BF16;
    } else if (is_coded(f->kind) && (f->group % CPU_BLOCK == 0 || f->group == f->cols)) {
        w.group = (uint32_t)round_up(f->group, CPU_BLOCK);
        w.scale_kind = TN_F32;
        w.zeros = (f->flags & TN_FORM_ZEROS) != 0;
    } else if (is_coded(f->kind)) {
        w.kind = TN_FORM_F32;
    }
    if (is_coded(w.kind))
        w.ngroup = w.cols / w.group;
    lay_out(&w);
    *out = w;
    return true;
}

uint64_t cpu_matrix_bytes(const cpu_matrix *w)
{
    return w->nstrip * w->strip_size;
}

/* ---------------------------------------------------------------- scales and columns */

typedef struct exact16 {
    bool f16, bf16;  /* every scale so far is exact in it */
} exact16;

static void look_at_scales(exact16 *e, const float *scale, uint64_t n)
{
    for (uint64_t i = 0; i < n && (e->f16 || e->bf16); i++) {
        uint32_t bits = half_bits(scale[i]);
        e->f16 = e->f16 && half_bits(half_from_f16(half_to_f16(scale[i]))) == bits;
        e->bf16 = e->bf16 && (bits & 0xffffu) == 0;
    }
}

tn_status cpu_matrix_settle(cpu_matrix *w, const tn_form *f, const tn_reader *r,
                            uint32_t nexpert, tn_err *err)
{
    if (!is_coded(w->kind) || !is_coded(f->kind))
        return TN_OK;
    uint64_t ngroup = f->cols / f->group;
    float *scale = malloc(CPU_STRIP * ngroup * sizeof *scale);
    if (scale == NULL)
        return tn_fail(err, TN_NO_MEMORY, "cpu: no memory to look at a weight's scales");
    exact16 e = {true, true};
    tn_status st = TN_OK;
    tn_block out = {.size = sizeof out, .scale = scale};
    for (uint32_t x = 0; x < nexpert && (e.f16 || e.bf16); x++)
        for (uint64_t r0 = 0; r0 < w->n && (e.f16 || e.bf16); r0 += CPU_STRIP) {
            uint64_t r1 = r0 + CPU_STRIP < w->n ? r0 + CPU_STRIP : w->n;
            st = r->rows(r->ctx, x, r0, r1, &out, err);
            if (st != TN_OK)
                goto give_back;
            look_at_scales(&e, scale, (r1 - r0) * ngroup);
        }
    w->scale_kind = e.f16 ? TN_F16 : e.bf16 ? TN_BF16 : TN_F32;
    lay_out(w);
give_back:
    free(scale);
    return st;
}

tn_status cpu_matrix_perm(const cpu_matrix *w, const tn_form *f, const tn_reader *r,
                          uint32_t expert, int32_t *perm, tn_err *err)
{
    tn_block out = {.size = sizeof out, .perm = perm};
    tn_status st = r->rows(r->ctx, expert, 0, 1, &out, err);
    if (st != TN_OK)
        return st;
    for (uint64_t j = 0; j < f->cols; j++)
        if (perm[j] < -1 || (perm[j] >= 0 && (uint64_t)perm[j] >= w->k))
            return tn_fail(err, TN_DATA,
                           "cpu: permutation entry %llu is %ld, wanted -1 to %llu",
                           (unsigned long long)j, (long)perm[j], (unsigned long long)w->k - 1);
    for (uint64_t j = f->cols; j < w->cols; j++)
        perm[j] = -1;
    return TN_OK;
}

/* -------------------------------------------------------------------------- packing */

/* One strip's rows in the form, and one row unpacked. */
typedef struct pull {
    const tn_form *f;
    uint64_t ngroup;   /* of the form */
    uint64_t row_size; /* bytes of codes a row */
    uint8_t *codes;    /* [16, row_size] */
    float *scale;      /* [16, ngroup] */
    uint8_t *zero;     /* [16, ngroup] */
    uint8_t *byte;     /* [cols] codes of a row, one a byte, padded with the last zero */
    float *value;      /* [cols] values of a row, padded with 0 */
} pull;

static uint64_t form_row_size(const tn_form *f)
{
    if (f->kind == TN_FORM_W4G)
        return f->cols / 2;
    return f->kind == TN_FORM_W8G ? f->cols : f->cols * plain_size(f->kind);
}

/* Lays the arrays out in `base`; the bytes they take. */
static uint64_t pull_open(pull *p, const cpu_matrix *w, const tn_form *f, uint8_t *base)
{
    bool coded = is_coded(f->kind);
    *p = (pull){.f = f, .ngroup = coded ? f->cols / f->group : 1,
                .row_size = form_row_size(f)};
    const struct { void *to; uint64_t size; } part[] = {
        {&p->codes, CPU_STRIP * p->row_size}, {&p->scale, CPU_STRIP * p->ngroup * 4},
        {&p->zero, CPU_STRIP * p->ngroup}, {&p->byte, w->cols}, {&p->value, w->cols * 4},
    };
    uint64_t at = 0;
    for (uint32_t i = 0; i < sizeof part / sizeof part[0]; i++) {
        uint8_t *place = base != NULL ? base + at : NULL;
        memcpy(part[i].to, &place, sizeof place);
        at += round_up(part[i].size, 64);
    }
    return at;
}

uint64_t cpu_matrix_pull_size(const cpu_matrix *w, const tn_form *f)
{
    pull p;
    return pull_open(&p, w, f, NULL);
}

static tn_status pull_rows(pull *p, const tn_reader *r, uint32_t expert, uint64_t row0,
                           uint64_t row1, tn_err *err)
{
    bool coded = is_coded(p->f->kind), zeros = coded && (p->f->flags & TN_FORM_ZEROS) != 0;
    tn_block out = {.size = sizeof out, .codes = p->codes, .scale = coded ? p->scale : NULL,
                    .zero = zeros ? p->zero : NULL};
    if (coded && !zeros)
        memset(p->zero, p->f->kind == TN_FORM_W4G ? 8 : 128, CPU_STRIP * p->ngroup);
    return r->rows(r->ctx, expert, row0, row1, &out, err);
}

/* The codes of row i, one a byte. */
static void row_codes(pull *p, const cpu_matrix *w, uint64_t i)
{
    const uint8_t *from = p->codes + i * p->row_size;
    if (p->f->kind == TN_FORM_W4G) {
        for (uint64_t j = 0; j < p->row_size; j++) {
            p->byte[2 * j] = from[j] & 15;
            p->byte[2 * j + 1] = from[j] >> 4;
        }
    } else {
        memcpy(p->byte, from, p->row_size);
    }
    uint8_t last = p->zero[(i + 1) * p->ngroup - 1]; /* 16 in some 4-bit files: no code */
    memset(p->byte + p->f->cols, w->kind == TN_FORM_W4G ? last & 15 : last,
           w->cols - p->f->cols);
}

/* The values of row i as f32, exact when the scale has 16 bits. */
static void row_values(pull *p, const cpu_matrix *w, uint64_t i)
{
    const tn_form *f = p->f;
    const uint8_t *from = p->codes + i * p->row_size;
    if (is_coded(f->kind)) {
        row_codes(p, w, i);
        for (uint64_t j = 0; j < f->cols; j++) {
            uint64_t g = i * p->ngroup + j / f->group;
            p->value[j] = (float)(p->byte[j] - p->zero[g]) * p->scale[g];
        }
    } else if (f->kind == TN_FORM_F32) {
        memcpy(p->value, from, p->row_size);
    } else {
        for (uint64_t j = 0; j < f->cols; j++) {
            uint16_t h;
            memcpy(&h, from + 2 * j, sizeof h);
            p->value[j] = f->kind == TN_FORM_F16 ? half_from_f16(h) : half_from_bf16(h);
        }
    }
    memset(p->value + f->cols, 0, (w->cols - f->cols) * sizeof *p->value);
}

static void put_scale(const cpu_matrix *w, uint8_t *strip, uint64_t g, uint32_t lane, float s)
{
    uint64_t at = g * CPU_STRIP + lane;
    uint16_t h = w->scale_kind == TN_F16 ? half_to_f16(s) : (uint16_t)(half_bits(s) >> 16);
    if (w->scale_kind == TN_F32)
        memcpy(strip + 4 * at, &s, sizeof s);
    else
        memcpy(strip + 2 * at, &h, sizeof h);
}

static void put_codes(const cpu_matrix *w, uint8_t *strip, uint32_t lane, const uint8_t *code)
{
    uint8_t *to = strip + w->code_at + lane * 4;
    if (w->kind == TN_FORM_W8G) {
        for (uint64_t j = 0; j < w->cols; j += 4)
            memcpy(to + j * CPU_STRIP, code + j, 4);
        return;
    }
    for (uint64_t b = 0; b < w->cols; b += CPU_BLOCK, to += 256)
        for (uint32_t c = 0; c < 16; c++)
            to[c / 4 * 64 + c % 4] = (uint8_t)(code[b + c] | code[b + 16 + c] << 4);
}

static void put_plain(const cpu_matrix *w, uint8_t *strip, uint32_t lane, const pull *p,
                      uint64_t i)
{
    if (w->kind == TN_FORM_F32) {
        for (uint64_t j = 0; j < w->cols; j++)
            memcpy(strip + (j * CPU_STRIP + lane) * 4, p->value + j, 4);
        return;
    }
    const uint8_t *from = p->codes + i * p->row_size;
    for (uint64_t j = 0; j < p->f->cols; j++)
        memcpy(strip + (j * CPU_STRIP + lane) * 2, from + 2 * j, 2);
}

/* int8 codes around 128 for one block. The scale is rounded up to bf16, so that the largest
 * value stays inside 127 steps. A block that is not finite keeps that as a NaN scale. */
static float requant_block(const float *x, uint8_t *code)
{
    float top = 0.0f;
    bool finite = true;
    for (uint32_t c = 0; c < CPU_BLOCK; c++) {
        finite = finite && isfinite(x[c]);
        top = fmaxf(top, fabsf(x[c]));
    }
    float scale = half_float((half_bits(top / 127.0f) + 0xffffu) & 0xffff0000u);
    for (uint32_t c = 0; c < CPU_BLOCK; c++)
        code[c] = finite && scale > 0.0f ? (uint8_t)(128 + (int)rintf(x[c] / scale)) : 128;
    return finite ? scale : NAN;
}

static void pack_row(const cpu_matrix *w, uint8_t *strip, uint32_t lane, pull *p)
{
    if (is_plain(w->kind)) {
        if (w->kind == TN_FORM_F32)
            row_values(p, w, lane);
        put_plain(w, strip, lane, p, lane);
        return;
    }
    if (is_plain(p->f->kind)) {
        row_values(p, w, lane);
        for (uint64_t b = 0; b < w->ngroup; b++) {
            uint64_t j = b * CPU_BLOCK;
            put_scale(w, strip, b, lane, requant_block(p->value + j, p->byte + j));
        }
    } else {
        row_codes(p, w, lane);
        for (uint64_t g = 0; g < w->ngroup; g++) {
            put_scale(w, strip, g, lane, p->scale[lane * p->ngroup + g]);
            if (w->zeros)
                strip[w->zero_at + g * CPU_STRIP + lane] = p->zero[lane * p->ngroup + g];
        }
    }
    put_codes(w, strip, lane, p->byte);
}

/* A lane past the last row: scale 0, and codes that equal their zero. */
static void pack_nothing(const cpu_matrix *w, uint8_t *strip, uint32_t lane, pull *p)
{
    uint8_t zero = w->kind == TN_FORM_W4G ? 8 : 128;
    memset(p->byte, zero, w->cols);
    for (uint64_t g = 0; w->zeros && g < w->ngroup; g++)
        strip[w->zero_at + g * CPU_STRIP + lane] = zero;
    put_codes(w, strip, lane, p->byte);
}

tn_status cpu_matrix_pack_to(const cpu_matrix *w, const tn_form *f, const tn_reader *r,
                             uint32_t expert, uint64_t strip0, uint64_t strip1, void *memory,
                             uint8_t *to, tn_err *err)
{
    pull p;
    tn_status st = TN_OK;
    pull_open(&p, w, f, memory);
    for (uint64_t s = strip0; s < strip1 && st == TN_OK; s++, to += w->strip_size) {
        uint64_t r0 = s * CPU_STRIP, nr = w->n - r0 < CPU_STRIP ? w->n - r0 : CPU_STRIP;
        memset(to, 0, w->strip_size);
        st = pull_rows(&p, r, expert, r0, r0 + nr, err);
        for (uint32_t lane = 0; lane < nr && st == TN_OK; lane++)
            pack_row(w, to, lane, &p);
        for (uint32_t lane = (uint32_t)nr; lane < CPU_STRIP && is_coded(w->kind); lane++)
            pack_nothing(w, to, lane, &p);
    }
    return st;
}

tn_status cpu_matrix_pack(cpu_matrix *w, const tn_form *f, const tn_reader *r, uint32_t expert,
                          uint64_t strip0, uint64_t strip1, tn_err *err)
{
    void *memory = malloc(cpu_matrix_pull_size(w, f));
    if (memory == NULL)
        return tn_fail(err, TN_NO_MEMORY, "cpu: no memory to pack a strip of %llu columns",
                       (unsigned long long)w->cols);
    tn_status st = cpu_matrix_pack_to(w, f, r, expert, strip0, strip1, memory,
                                      w->data + strip0 * w->strip_size, err);
    free(memory);
    return st;
}
