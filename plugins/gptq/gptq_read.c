/* SPDX-License-Identifier: Apache-2.0 */
/* gptq_read.c - form_of, cut and read: a module's rectangle in one of the neutral forms.
 *
 * Codes whose columns leave as they lie are unpacked straight into the caller's rows. Others
 * (act-order, padding, a column cut inside a word) go through a few rows of scratch and are
 * gathered from there. */
#include "gptq.h"

#define SCRATCH_ROWS 16u

static tn_status check_rect(const gptq_linear *l, const tn_rect *r, tn_err *err)
{
    if (r->row0 < r->row1 && r->row1 <= l->n && r->col0 < r->col1 && r->col1 <= l->k)
        return TN_OK;
    return tn_fail(err, TN_INTERNAL,
                   "%s: asked for rows %llu to %llu and columns %llu to %llu of [%llu, %llu]",
                   l->name, (unsigned long long)r->row0, (unsigned long long)r->row1,
                   (unsigned long long)r->col0, (unsigned long long)r->col1,
                   (unsigned long long)l->n, (unsigned long long)l->k);
}

/* Zero points that the config promised not to be there, unless a rule of this module's own
 * may say otherwise; and fields whose meaning depends on who wrote the file. */
static tn_status check_zeros(gptq_self *self, const tn_view *v, const gptq_linear *l,
                             bool wrapped, tn_err *err)
{
    gptq_config c;
    char text[512];
    tn_status st = gptq_config_read(v->quant, v->quant_file, &c, err);
    if (st == TN_OK && wrapped) {
        snprintf(text, sizeof text,
                 "%.300s.qzeros: holds the greatest field of a v1 file; it is read as zero point "
                 "0, which some writers stored otherwise",
                 l->name);
        gptq_warn(self, v, GPTQ_WARN_WRAPPED, text);
    }
    if (st != TN_OK || !c.scheme.symmetric || c.dynamic != NULL || c.extra != NULL)
        return st;
    return gptq_disagree(self, v, GPTQ_WARN_ZEROS, err,
                         "%s.qzeros: has zero points off the middle, but the config says sym",
                         l->name);
}

tn_status gptq_form_of(void *self, const tn_view *v, const tn_module *m, const tn_rect *r,
                      tn_form *out, tn_err *err)
{
    gptq_self *s = self;
    gptq_linear l;
    tn_status st = gptq_linear_open(v, m, &l, err);
    if (st == TN_OK)
        st = check_rect(&l, r, err);
    if (st == TN_OK && !l.plain)
        st = gptq_linear_compare(s, v, &l, err);
    if (st != TN_OK)
        return st;
    tn_form f = {.size = sizeof f,
                 .kind = gptq_linear_kind(&l),
                 .bits = l.bits,
                 .rows = r->row1 - r->row0,
                 .cols = r->col1 - r->col0,
                 .file_bytes = l.file_bytes};
    if (!l.plain) {
        gptq_cols c;
        bool wrapped;
        st = gptq_cols_open(s->h, &l, r->col0, r->col1, true, &c, err);
        if (st != TN_OK)
            return st;
        f.group = (uint32_t)c.group;
        f.cols = c.cols;
        f.flags = c.permuted ? TN_FORM_PERM : 0;
        bool zeros = gptq_zero_differs(&l, &c, r->row0, r->row1, &wrapped);
        gptq_cols_close(s->h, &c);
        if (zeros) {
            f.flags |= TN_FORM_ZEROS;
            st = check_zeros(s, v, &l, wrapped, err);
        }
    }
    if (st == TN_OK)
        *out = f;
    return st;
}

/* Any cut works: a cut inside a group only makes the form's group smaller, and one inside a
 * word is gathered. */
tn_status gptq_cut(void *self, const tn_view *v, const tn_module *m, uint64_t *row_unit,
                  uint64_t *col_unit, tn_err *err)
{
    gptq_linear l;
    (void)self;
    tn_status st = gptq_linear_open(v, m, &l, err);
    if (st == TN_OK)
        *row_unit = *col_unit = 1;
    return st;
}

/* ------------------------------------------------------------------------------- read */

static void read_plain(const gptq_linear *l, const tn_rect *r, uint64_t row0, uint64_t row1,
                       void *codes)
{
    size_t size = gptq_dtype_size(l->code.dtype), width = (size_t)(r->col1 - r->col0) * size;
    const uint8_t *src = (const uint8_t *)l->code.data + r->col0 * size;
    for (uint64_t i = row0; i < row1; i++)
        memcpy((uint8_t *)codes + (i - row0) * width, src + i * l->k * size, width);
}

/* Scratch for rows that are gathered. */
typedef struct scratch {
    uint64_t from, to;     /* columns that are unpacked: the rectangle's, on whole units */
    uint64_t width;        /* to - from */
    size_t stride;         /* bytes of an unpacked row */
    uint8_t *rows;         /* [SCRATCH_ROWS, stride] */
    uint8_t *zero;         /* [SCRATCH_ROWS, ngroup] */
    uint8_t *code;         /* [width + ngroup] one row, a byte a code, then its zeros */
    uint32_t *pick;        /* [cols] where in `code` each column of the form comes from */
} scratch;

/* Padding picks the zero of its group, so that it stands for nothing. */
static void fill_pick(const gptq_cols *c, scratch *s)
{
    uint32_t skip = (uint32_t)(c->col0 - s->from);
    for (uint64_t i = 0, j = 0; i < c->ngroup; i++)
        for (uint64_t end = j + c->group; j < end; j++) {
            int32_t col = c->perm != NULL ? c->perm[j] : (int32_t)j;
            s->pick[j] = col < 0 ? (uint32_t)(s->width + i) : skip + (uint32_t)col;
        }
}

static tn_status scratch_open(const tn_host *h, const gptq_linear *l, const gptq_cols *c,
                              uint64_t per, scratch *s, tn_err *err)
{
    uint64_t unit = gptq_unpack_unit(l);
    s->from = c->col0 / unit * unit;
    s->to = (c->col1 + unit - 1) / unit * unit;
    s->width = s->to - s->from;
    s->stride = (size_t)(s->width / per);
    s->pick = h->alloc(h->ctx, c->cols * 4 + SCRATCH_ROWS * (s->stride + c->ngroup) + s->width +
                                   c->ngroup);
    if (s->pick == NULL)
        return tn_fail(err, TN_NO_MEMORY, "%s: no memory for %u rows", l->name, SCRATCH_ROWS);
    s->rows = (uint8_t *)(s->pick + c->cols);
    s->zero = s->rows + SCRATCH_ROWS * s->stride;
    s->code = s->zero + SCRATCH_ROWS * c->ngroup;
    fill_pick(c, s);
    return TN_OK;
}

/* Row `i` of the scratch as one row of the form. */
static void gather(const gptq_cols *c, const scratch *s, uint64_t i, uint64_t per, uint8_t *to)
{
    const uint8_t *row = s->rows + i * s->stride;
    for (size_t j = 0; per == 2 && j < s->stride; j++) {
        s->code[2 * j] = row[j] & 15;
        s->code[2 * j + 1] = row[j] >> 4;
    }
    if (per == 1)
        memcpy(s->code, row, s->stride);
    memcpy(s->code + s->width, s->zero + i * c->ngroup, (size_t)c->ngroup);
    for (uint64_t j = 0; per == 2 && j < c->cols; j += 2)
        to[j / 2] = (uint8_t)(s->code[s->pick[j]] | s->code[s->pick[j + 1]] << 4);
    for (uint64_t j = 0; per == 1 && j < c->cols; j++)
        to[j] = s->code[s->pick[j]];
}

static tn_status read_gathered(const tn_host *h, const gptq_linear *l, const gptq_cols *c,
                               uint64_t row0, uint64_t row1, uint64_t per, uint8_t *codes,
                               tn_err *err)
{
    scratch s = {0};
    tn_status st = scratch_open(h, l, c, per, &s, err);
    if (st != TN_OK)
        return st;
    for (uint64_t r = row0; r < row1; r += SCRATCH_ROWS) {
        uint64_t n = row1 - r < SCRATCH_ROWS ? row1 - r : SCRATCH_ROWS;
        gptq_zero_rows(l, c, r, r + n, s.zero);
        gptq_unpack_codes(l, r, r + n, s.from, s.to, s.rows, s.stride);
        for (uint64_t i = 0; i < n; i++, codes += c->cols / per)
            gather(c, &s, i, per, codes);
    }
    h->release(h->ctx, s.pick);
    return st;
}

static tn_status read_codes(const tn_host *h, const gptq_linear *l, const gptq_cols *c,
                            uint64_t row0, uint64_t row1, void *codes, tn_err *err)
{
    uint64_t unit = gptq_unpack_unit(l), per = gptq_linear_kind(l) == TN_FORM_W4G ? 2 : 1;
    if (c->permuted || c->col0 % unit != 0 || c->col1 % unit != 0)
        return read_gathered(h, l, c, row0, row1, per, codes, err);
    gptq_unpack_codes(l, row0, row1, c->col0, c->col1, codes, (size_t)(c->cols / per));
    return TN_OK;
}

static tn_status read_quantized(const tn_host *h, const gptq_linear *l, const tn_rect *r,
                                uint64_t row0, uint64_t row1, tn_block *out, tn_err *err)
{
    gptq_cols c;
    tn_status st = gptq_cols_open(h, l, r->col0, r->col1, true, &c, err);
    if (st != TN_OK)
        return st;
    if (out->codes != NULL)
        st = read_codes(h, l, &c, row0, row1, out->codes, err);
    if (st == TN_OK && out->scale != NULL)
        st = gptq_scale_rows(l, &c, row0, row1, out->scale, err);
    if (st == TN_OK && out->zero != NULL)
        gptq_zero_rows(l, &c, row0, row1, out->zero);
    if (st == TN_OK && out->perm != NULL)
        for (uint64_t j = 0; j < c.cols; j++)
            out->perm[j] = c.perm != NULL ? c.perm[j] : (int32_t)j;
    gptq_cols_close(h, &c);
    return st;
}

tn_status gptq_read(void *self, const tn_view *v, const tn_module *m, const tn_rect *r,
                   uint64_t row0, uint64_t row1, tn_block *out, tn_err *err)
{
    gptq_self *s = self;
    gptq_linear l;
    tn_status st = gptq_linear_open(v, m, &l, err);
    if (st == TN_OK)
        st = check_rect(&l, r, err);
    if (st == TN_OK && (row0 < r->row0 || row0 >= row1 || row1 > r->row1))
        st = tn_fail(err, TN_INTERNAL, "%s: asked for rows %llu to %llu outside the rectangle",
                     l.name, (unsigned long long)row0, (unsigned long long)row1);
    if (st != TN_OK)
        return st;
    if (!l.plain)
        return read_quantized(s->h, &l, r, row0, row1, out, err);
    if (out->codes != NULL)
        read_plain(&l, r, row0, row1, out->codes);
    return TN_OK;
}
