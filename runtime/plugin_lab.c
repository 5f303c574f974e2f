/* SPDX-License-Identifier: Apache-2.0 */
/* plugin_lab.c - builds small recipes with random weights in every form. */
#include "plugin_lab.h"

#include "floats.h"
#include "plugin_check.h"

#include <math.h>
#include <stdlib.h>

void tn_lab_open(tn_lab *l, uint64_t seed)
{
    memset(l, 0, sizeof *l);
    l->seed = seed;
    l->recipe = (tn_recipe){.size = sizeof l->recipe, .name = "check", .act_dtype = TN_F32};
}

void tn_lab_close(tn_lab *l)
{
    for (uint32_t i = 0; i < TN_LAB_WEIGHTS; i++) {
        free(l->data[i].w);
        free(l->data[i].codes);
        free(l->data[i].scale);
        free(l->data[i].zero);
        free(l->data[i].perm);
    }
    for (uint32_t i = 0; i < TN_LAB_BUFFERS; i++)
        free(l->value[i]);
    free(l->k_cache);
    free(l->v_cache);
    free(l->s_state);
    free(l->columns);
    memset(l, 0, sizeof *l);
}

uint32_t tn_lab_buffer(tn_lab *l, uint32_t rows, uint32_t width, uint32_t dtype)
{
    static const char *const names[TN_LAB_BUFFERS] = {
        "b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8", "b9", "b10", "b11", "b12", "b13",
        "b14", "b15"};
    uint32_t i = l->recipe.nbuffer;
    if (i == TN_LAB_BUFFERS) {
        l->failed = true;
        return 0;
    }
    l->buffer[i] = (tn_buffer){.size = sizeof l->buffer[i], .rows = rows, .width = width,
                               .dtype = dtype, .name = names[i]};
    l->recipe.nbuffer++;
    return i;
}

tn_lab_args *tn_lab_op(tn_lab *l, uint32_t kind, const char *name)
{
    static const uint32_t size[] = {
        [TN_OP_EMBED] = sizeof(tn_op_embed), [TN_OP_NORM] = sizeof(tn_op_norm),
        [TN_OP_LINEAR] = sizeof(tn_op_linear), [TN_OP_ACT_MUL] = sizeof(tn_op_act_mul),
        [TN_OP_HEADS] = sizeof(tn_op_heads), [TN_OP_ATTEND] = sizeof(tn_op_attend),
        [TN_OP_DELTA] = sizeof(tn_op_delta), [TN_OP_ROUTE] = sizeof(tn_op_route),
        [TN_OP_EXPERTS] = sizeof(tn_op_experts), [TN_OP_MIX] = sizeof(tn_op_mix),
        [TN_OP_CONCAT] = sizeof(tn_op_concat), [TN_OP_PICK] = sizeof(tn_op_pick),
        [TN_OP_LOGITS] = sizeof(tn_op_logits), [TN_OP_SAMPLE] = sizeof(tn_op_sample)};
    uint32_t i = l->recipe.nop;
    if (i == TN_LAB_OPS) {
        l->failed = true;
        i--;
    } else {
        l->recipe.nop++;
    }
    l->op[i] = (tn_op){.size = sizeof l->op[i], .kind = kind, .layer = TN_NONE,
                       .args = &l->args[i], .name = name};
    memcpy(&l->args[i], &size[kind], sizeof size[kind]); /* size is the first member of all */
    return &l->args[i];
}

const tn_recipe *tn_lab_recipe(tn_lab *l)
{
    tn_recipe *r = &l->recipe;
    l->section = (tn_section){.size = sizeof l->section, .nop = r->nop, .name = "check"};
    r->buffer = l->buffer;
    r->weight = l->weight;
    r->op = l->op;
    r->rope = &l->rope;
    r->cache = &l->cache;
    r->state = &l->state;
    r->section = &l->section;
    r->nsection = 1;
    r->nrope = l->rope.size ? 1 : 0;
    r->ncache = l->cache.size ? 1 : 0;
    r->nstate = l->state.size ? 1 : 0;
    return r;
}

/* -------------------------------------------------------------------------------- weights */

static uint64_t row_bytes(const tn_form *f)
{
    return f->kind == TN_FORM_F32 ? f->cols * 4 : f->kind == TN_FORM_W4G ? f->cols / 2
         : f->kind == TN_FORM_W8G ? f->cols : f->cols * 2;
}

static bool is_coded(const tn_form *f)
{
    return f->kind == TN_FORM_W4G || f->kind == TN_FORM_W8G;
}

/* One plain value, rounded to its form so that both sides know the same number. */
static double put_plain(uint32_t kind, uint8_t *codes, uint64_t i, double v)
{
    float f = (float)v;
    uint16_t h = kind == TN_FORM_F16 ? tn_f32_to_f16(f) : tn_f32_to_bf16(f);
    if (kind == TN_FORM_F32) {
        memcpy(codes + i * 4, &f, 4);
        return (double)f;
    }
    memcpy(codes + i * 2, &h, 2);
    return (double)(kind == TN_FORM_F16 ? tn_f16_to_f32(h) : tn_bf16_to_f32(h));
}

/* A shuffle of [0, k) over `cols` columns, the rest of them padding. */
static void make_perm(int32_t *perm, uint64_t k, uint64_t cols, uint64_t *seed)
{
    for (uint64_t c = 0; c < cols; c++)
        perm[c] = c < k ? (int32_t)c : -1;
    for (uint64_t c = cols - 1; c > 0; c--) {
        uint64_t d = tn_check_random(seed) % (c + 1);
        int32_t t = perm[c];
        perm[c] = perm[d];
        perm[d] = t;
    }
}

/* Fills row `row` of a coded weight; returns nothing, sets codes, scales, zeros and w. */
static void fill_coded_row(tn_lab *l, const tn_weight_spec *s, tn_lab_weight *d, uint64_t row,
                           bool zeros)
{
    const tn_form *f = &s->form;
    uint64_t groups = f->cols / f->group;
    int most = f->kind == TN_FORM_W4G ? 15 : 255, middle = (most + 1) / 2;
    for (uint64_t g = 0; g < groups; g++) {
        double size = (1.2 + 0.8 * tn_check_uniform(&l->seed)) / (middle * sqrt((double)s->k));
        d->scale[row * groups + g] = tn_f16_to_f32(tn_f32_to_f16((float)size));
        int zero = middle;
        if (zeros)
            zero += (int)(tn_check_random(&l->seed) % 5) - 2;
        d->zero[row * groups + g] = (uint8_t)zero;
    }
    for (uint64_t c = 0; c < f->cols; c++) {
        uint64_t g = row * groups + c / f->group;
        int64_t at = d->perm ? d->perm[c] : (int64_t)c;
        int code = at < 0 ? d->zero[g] : (int)(tn_check_random(&l->seed) % (unsigned)(most + 1));
        uint8_t *to = d->codes + row * row_bytes(f) + (most == 15 ? c / 2 : c);
        if (most == 255)
            *to = (uint8_t)code;
        else
            *to = (uint8_t)(c % 2 ? (*to & 15) | code << 4 : code);
        if (at >= 0)
            d->w[row * s->k + (uint64_t)at] = (double)(code - d->zero[g]) * (double)d->scale[g];
    }
}

static bool take_data(const tn_weight_spec *s, tn_lab_weight *d, bool perm)
{
    uint64_t rows = s->nexpert * s->n, groups = s->form.group ? s->form.cols / s->form.group : 0;
    d->w = calloc(rows * s->k, sizeof *d->w);
    d->codes = calloc(rows, row_bytes(&s->form));
    d->scale = calloc(rows * groups + 1, sizeof *d->scale);
    d->zero = calloc(rows * groups + 1, sizeof *d->zero);
    d->perm = perm ? calloc(s->form.cols, sizeof *d->perm) : NULL;
    return d->w && d->codes && d->scale && d->zero && (!perm || d->perm);
}

static tn_weight_spec *new_spec(tn_lab *l, uint32_t role, uint32_t nexpert, uint64_t n,
                                uint64_t k, tn_lab_form form)
{
    uint32_t i = l->recipe.nweight;
    if (i == TN_LAB_WEIGHTS) {
        l->failed = true;
        return NULL;
    }
    snprintf(l->name[i], sizeof l->name[i], "w%u", i);
    uint64_t cols = form.group ? (k + form.group - 1) / form.group * form.group : k;
    l->weight[i] = (tn_weight_spec){
        .size = sizeof l->weight[i], .role = role, .nexpert = nexpert, .n = n, .k = k,
        .name = l->name[i],
        .form = {.size = sizeof(tn_form), .kind = form.kind, .group = form.group, .rows = n,
                 .cols = cols, .bits = form.kind == TN_FORM_W4G ? 4 : 8,
                 .flags = (form.zeros ? TN_FORM_ZEROS : 0)
                        | (form.perm ? TN_FORM_PERM : 0)}};
    return &l->weight[i];
}

uint32_t tn_lab_weight_of(tn_lab *l, uint32_t role, uint32_t nexpert, uint64_t n, uint64_t k,
                          tn_lab_form form)
{
    tn_weight_spec *s = new_spec(l, role, nexpert, n, k, form);
    uint32_t i = l->recipe.nweight;
    if (s == NULL || !take_data(s, &l->data[i], form.perm)) {
        l->failed = true;
        return 0;
    }
    l->recipe.nweight++;
    tn_lab_weight *d = &l->data[i];
    if (form.perm)
        make_perm(d->perm, k, s->form.cols, &l->seed);
    for (uint64_t row = 0; row < nexpert * n; row++) {
        if (is_coded(&s->form)) {
            fill_coded_row(l, s, d, row, form.zeros);
            continue;
        }
        double size = role == TN_ROLE_EMBED ? 1 : 1.7 / sqrt((double)k);
        for (uint64_t c = 0; c < k; c++)
            d->w[row * k + c] = put_plain(form.kind, d->codes, row * k + c,
                                          size * tn_check_uniform(&l->seed));
    }
    return i;
}

uint32_t tn_lab_vector(tn_lab *l, uint64_t n, uint64_t k, double around)
{
    tn_weight_spec *s = new_spec(l, TN_ROLE_VECTOR, 1, n, k, (tn_lab_form){.kind = TN_FORM_F32});
    uint32_t i = l->recipe.nweight;
    if (s == NULL || !take_data(s, &l->data[i], false)) {
        l->failed = true;
        return 0;
    }
    l->recipe.nweight++;
    for (uint64_t c = 0; c < n * k; c++)
        l->data[i].w[c] = put_plain(TN_FORM_F32, l->data[i].codes, c,
                                    around + 0.5 * tn_check_uniform(&l->seed));
    return i;
}

/* --------------------------------------------------------------------------------- reader */

static tn_status read_rows(void *ctx, uint32_t expert, uint64_t row0, uint64_t row1,
                           tn_block *out, tn_err *err)
{
    const tn_lab_reader *r = ctx;
    const tn_weight_spec *s = &r->lab->weight[r->w];
    const tn_lab_weight *d = &r->lab->data[r->w];
    if (expert >= s->nexpert || row0 > row1 || row1 > s->n)
        return tn_fail(err, TN_INTERNAL, "weight %s: rows %llu to %llu of expert %u asked for; it "
                       "has %llu rows and %u experts", s->name, (unsigned long long)row0,
                       (unsigned long long)row1, expert, (unsigned long long)s->n, s->nexpert);
    uint64_t first = expert * s->n + row0, n = row1 - row0, bytes = row_bytes(&s->form);
    uint64_t groups = s->form.group ? s->form.cols / s->form.group : 0;
    if (out->codes != NULL)
        memcpy(out->codes, d->codes + first * bytes, n * bytes);
    if (out->scale != NULL && groups)
        memcpy(out->scale, d->scale + first * groups, n * groups * sizeof *d->scale);
    if (out->zero != NULL && groups)
        memcpy(out->zero, d->zero + first * groups, n * groups);
    for (uint64_t c = 0; out->perm != NULL && c < s->form.cols; c++)
        out->perm[c] = d->perm ? d->perm[c] : (int32_t)c;
    return TN_OK;
}

void tn_lab_read(const tn_lab *l, uint32_t w, tn_lab_reader *out)
{
    *out = (tn_lab_reader){.lab = l, .w = w};
    out->reader = (tn_reader){.size = sizeof out->reader, .ctx = out, .rows = read_rows};
}
