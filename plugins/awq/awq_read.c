/* SPDX-License-Identifier: Apache-2.0 */
/* awq_read.c - form_of, cut and read: a module's rectangle in one of the neutral forms.
 *
 * Codes whose columns leave as they lie are unpacked straight into the caller's rows. Others
 * (act-order, padding, a column cut inside a word) go through a few rows of scratch and are
 * gathered from there. */
#include "awq.h"

#define SCRATCH_ROWS 16u

static tn_status check_rect(const awq_linear *l, const tn_rect *r, tn_err *err)
{
    if (r->row0 < r->row1 && r->row1 <= l->n && r->col0 < r->col1 && r->col1 <= l->k)
        return TN_OK;
    return tn_fail(err, TN_INTERNAL,
                   "%s: asked for rows %llu to %llu and columns %llu to %llu of [%llu, %llu]",
                   l->name, (unsigned long long)r->row0, (unsigned long long)r->row1,
                   (unsigned long long)r->col0, (unsigned long long)r->col1,
                   (unsigned long long)l->n, (unsigned long long)l->k);
}

/* Zero points that the config promised not to be there. */
static tn_status check_symmetry(awq_self *self, const tn_view *v, const awq_linear *l,
                                tn_err *err)
{
    awq_config c;
    tn_status st = awq_config_read(v->quant, v->quant_file, &c, err);
    if (st != TN_OK)
        return st;
    for (uint32_t i = 0; i < c.nscheme; i++)
        if (!c.scheme[i].symmetric)
            return TN_OK;
    return awq_disagree(self, v, AWQ_WARN_ZEROS, err,
                        "%s: has zero points off the middle, but the config says symmetric",
                        l->name);
}

tn_status awq_form_of(void *self, const tn_view *v, const tn_module *m, const tn_rect *r,
                      tn_form *out, tn_err *err)
{
    awq_self *s = self;
    awq_linear l;
    tn_status st = awq_linear_open(s, v, m, &l, err);
    if (st == TN_OK)
        st = check_rect(&l, r, err);
    if (st != TN_OK)
        return st;
    tn_form f = {.size = sizeof f,
                 .kind = awq_linear_kind(&l),
                 .bits = l.bits,
                 .rows = r->row1 - r->row0,
                 .cols = r->col1 - r->col0,
                 .file_bytes = l.file_bytes};
    if (l.layout != AWQ_PLAIN) {
        awq_cols c;
        bool zeros = false;
        st = awq_cols_open(s->h, &l, r->col0, r->col1, true, &c, err);
        if (st != TN_OK)
            return st;
        f.group = (uint32_t)c.group;
        f.cols = c.cols;
        f.flags = c.permuted ? TN_FORM_PERM : 0;
        st = awq_zero_differs(&l, &c, r->row0, r->row1, &zeros, err);
        awq_cols_close(s->h, &c);
        if (st == TN_OK && zeros) {
            f.flags |= TN_FORM_ZEROS;
            st = check_symmetry(s, v, &l, err);
        }
    }
    if (st == TN_OK)
        *out = f;
    return st;
}

/* Any cut works: a cut inside a group only makes the form's group smaller, and one inside a
 * word is gathered. */
tn_status awq_cut(void *self, const tn_view *v, const tn_module *m, uint64_t *row_unit,
                  uint64_t *col_unit, tn_err *err)
{
    awq_linear l;
    tn_status st = awq_linear_open(self, v, m, &l, err);
    if (st == TN_OK)
        *row_unit = *col_unit = 1;
    return st;
}

/* ------------------------------------------------------------------------------- read */

static void read_plain(const awq_linear *l, const tn_rect *r, uint64_t row0, uint64_t row1,
                       void *codes)
{
    size_t size = awq_dtype_size(l->code.dtype), width = (size_t)(r->col1 - r->col0) * size;
    const uint8_t *src = (const uint8_t *)l->code.data + r->col0 * size;
    for (uint64_t i = row0; i < row1; i++)
        memcpy((uint8_t *)codes + (i - row0) * width, src + i * l->k * size, width);
}

static inline uint32_t nibble_at(const uint8_t *row, uint64_t col)
{
    return row[col / 2] >> 4 * (col & 1) & 15u;
}

/* One row of the form from one unpacked row that starts `skip` columns before the first.
 * Padding takes the zero of its group, so that it stands for nothing. */
static void gather_nibbles(const awq_cols *c, const uint8_t *from, uint64_t skip,
                           const uint8_t *zero, uint8_t *to)
{
    const int32_t *perm = c->perm;
    for (uint64_t i = 0, j = 0; i < c->ngroup; i++)
        for (uint64_t end = j + c->group; j < end; j += 2) {
            int32_t a = perm != NULL ? perm[j] : (int32_t)j;
            int32_t b = perm != NULL ? perm[j + 1] : (int32_t)j + 1;
            uint32_t lo = a < 0 ? zero[i] : nibble_at(from, skip + (uint32_t)a);
            uint32_t hi = b < 0 ? zero[i] : nibble_at(from, skip + (uint32_t)b);
            to[j / 2] = (uint8_t)(lo | hi << 4);
        }
}

static void gather_bytes(const awq_cols *c, const uint8_t *from, uint64_t skip,
                         const uint8_t *zero, uint8_t *to)
{
    if (c->perm == NULL) {
        memcpy(to, from + skip, (size_t)c->cols);
        return;
    }
    for (uint64_t i = 0, j = 0; i < c->ngroup; i++)
        for (uint64_t end = j + c->group; j < end; j++)
            to[j] = c->perm[j] < 0 ? zero[i] : from[skip + (uint32_t)c->perm[j]];
}

static tn_status read_gathered(const tn_host *h, const awq_linear *l, const awq_cols *c,
                               uint64_t row0, uint64_t row1, uint8_t *codes, tn_err *err)
{
    uint64_t unit = awq_unpack_unit(l), per = awq_linear_kind(l) == TN_FORM_W4G ? 2 : 1;
    uint64_t from = c->col0 / unit * unit, to = (c->col1 + unit - 1) / unit * unit;
    size_t stride = (size_t)((to - from) / per), width = (size_t)(c->cols / per);
    uint8_t *rows = h->alloc(h->ctx, SCRATCH_ROWS * (stride + c->ngroup));
    if (rows == NULL)
        return tn_fail(err, TN_NO_MEMORY, "%s: no memory for %u rows", l->name, SCRATCH_ROWS);
    uint8_t *zero = rows + SCRATCH_ROWS * stride;
    tn_status st = TN_OK;
    for (uint64_t r = row0; r < row1 && st == TN_OK; r += SCRATCH_ROWS) {
        uint64_t n = row1 - r < SCRATCH_ROWS ? row1 - r : SCRATCH_ROWS;
        st = awq_zero_rows(l, c, r, r + n, zero, err);
        if (st != TN_OK)
            break;
        awq_unpack_codes(l, r, r + n, from, to, rows, stride);
        for (uint64_t i = 0; i < n; i++, codes += width)
            if (per == 2)
                gather_nibbles(c, rows + i * stride, c->col0 - from, zero + i * c->ngroup, codes);
            else
                gather_bytes(c, rows + i * stride, c->col0 - from, zero + i * c->ngroup, codes);
    }
    h->release(h->ctx, rows);
    return st;
}

static tn_status read_codes(const tn_host *h, const awq_linear *l, const awq_cols *c,
                            uint64_t row0, uint64_t row1, void *codes, tn_err *err)
{
    uint64_t unit = awq_unpack_unit(l), per = awq_linear_kind(l) == TN_FORM_W4G ? 2 : 1;
    if (c->permuted || c->col0 % unit != 0 || c->col1 % unit != 0)
        return read_gathered(h, l, c, row0, row1, codes, err);
    awq_unpack_codes(l, row0, row1, c->col0, c->col1, codes, (size_t)(c->cols / per));
    return TN_OK;
}

static tn_status read_quantized(const tn_host *h, const awq_linear *l, const tn_rect *r,
                                uint64_t row0, uint64_t row1, tn_block *out, tn_err *err)
{
    awq_cols c;
    tn_status st = awq_cols_open(h, l, r->col0, r->col1, true, &c, err);
    if (st != TN_OK)
        return st;
    if (out->codes != NULL)
        st = read_codes(h, l, &c, row0, row1, out->codes, err);
    if (st == TN_OK && out->scale != NULL)
        st = awq_scale_rows(l, &c, row0, row1, out->scale, err);
    if (st == TN_OK && out->zero != NULL)
        st = awq_zero_rows(l, &c, row0, row1, out->zero, err);
    if (st == TN_OK && out->perm != NULL)
        for (uint64_t j = 0; j < c.cols; j++)
            out->perm[j] = c.perm != NULL ? c.perm[j] : (int32_t)j;
    awq_cols_close(h, &c);
    return st;
}

tn_status awq_read(void *self, const tn_view *v, const tn_module *m, const tn_rect *r,
                   uint64_t row0, uint64_t row1, tn_block *out, tn_err *err)
{
    awq_self *s = self;
    awq_linear l;
    tn_status st = awq_linear_open(s, v, m, &l, err);
    if (st == TN_OK)
        st = check_rect(&l, r, err);
    if (st == TN_OK && (row0 < r->row0 || row0 >= row1 || row1 > r->row1))
        st = tn_fail(err, TN_INTERNAL, "%s: asked for rows %llu to %llu outside the rectangle",
                     l.name, (unsigned long long)row0, (unsigned long long)row1);
    if (st != TN_OK)
        return st;
    if (l.layout != AWQ_PLAIN)
        return read_quantized(s->h, &l, r, row0, row1, out, err);
    if (out->codes != NULL)
        read_plain(&l, r, row0, row1, out->codes);
    return TN_OK;
}
