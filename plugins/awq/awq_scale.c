/* SPDX-License-Identifier: Apache-2.0 */
/* awq_scale.c - scales and zero points of some rows, one a form group.
 *
 * Files keep them along n or along k; forms want [rows, groups]. Arithmetic on 16-bit floats
 * is done on their bits, so that a thread that flushes subnormals reads the same numbers. */
#include "awq.h"

#define ROWS 32u   /* rows turned at a time: their output lines stay in the first cache */

static float from_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* `bad` gathers whether any was infinite or not a number. */
static inline float from_f16(uint16_t h, uint32_t *bad)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, rest = h & 0x7fffu;
    *bad |= rest >= 0x7c00u;
    if (rest < 0x0400u) {
        float f = (float)rest * 0x1p-24f;
        return sign != 0 ? -f : f;
    }
    return from_bits(sign | ((rest << 13) + 0x38000000u));
}

static inline float from_f32(uint32_t bits, uint32_t *bad)
{
    *bad |= (bits & 0x7f800000u) == 0x7f800000u;
    return from_bits(bits);
}

/* Elements [first, first + count) of `t`, `count` steps apart by one. */
static uint32_t convert_run(const tn_tensor *t, uint64_t first, uint64_t count, float *out)
{
    uint32_t bad = 0;
    const uint8_t *p = (const uint8_t *)t->data + first * awq_dtype_size(t->dtype);
    if (t->dtype == TN_F16)
        for (uint64_t i = 0; i < count; i++)
            out[i] = from_f16(awq_load16(p + 2 * i), &bad);
    else if (t->dtype == TN_BF16)
        for (uint64_t i = 0; i < count; i++)
            out[i] = from_f32((uint32_t)awq_load16(p + 2 * i) << 16, &bad);
    else
        for (uint64_t i = 0; i < count; i++)
            out[i] = from_f32(awq_load32(p + 4 * i), &bad);
    return bad;
}

static tn_status not_finite(const awq_linear *l, uint64_t row, uint64_t group, tn_err *err)
{
    return tn_fail(err, TN_DATA,
                   "%s.%s: the scale of row %llu, group %llu is infinite or not a number, wanted "
                   "a finite one",
                   l->name, l->layout == AWQ_PACKED ? "weight_scale" : "scales",
                   (unsigned long long)row, (unsigned long long)group);
}

/* [groups, n]: a run along n for each form group, dealt out over the rows. */
static tn_status scales_by_group(const awq_linear *l, const awq_cols *c, uint64_t row0,
                                 uint64_t row1, float *out, tn_err *err)
{
    float run[ROWS];
    for (uint64_t r = row0; r < row1; r += ROWS) {
        uint64_t n = row1 - r < ROWS ? row1 - r : ROWS;
        float *to = out + (r - row0) * c->ngroup;
        for (uint64_t i = 0; i < c->ngroup; i++) {
            if (convert_run(&l->scale, c->source[i] * l->scale_stride + r, n, run))
                return not_finite(l, r, c->source[i], err);
            for (uint64_t j = 0; j < n; j++)
                to[j * c->ngroup + i] = run[j];
        }
    }
    return TN_OK;
}

/* [n, stride]: runs of form groups that follow one another in the file. */
static tn_status scales_by_row(const awq_linear *l, const awq_cols *c, uint64_t row0,
                               uint64_t row1, float *out, tn_err *err)
{
    for (uint64_t r = row0; r < row1; r++, out += c->ngroup)
        for (uint64_t i = 0, n; i < c->ngroup; i += n) {
            for (n = 1; i + n < c->ngroup && c->source[i + n] == c->source[i] + n;)
                n++;
            if (convert_run(&l->scale, r * l->scale_stride + c->source[i], n, out + i))
                return not_finite(l, r, c->source[i], err);
        }
    return TN_OK;
}

tn_status awq_scale_rows(const awq_linear *l, const awq_cols *c, uint64_t row0, uint64_t row1,
                         float *out, tn_err *err)
{
    if (l->scales == AWQ_SCALE_GROUPS)
        return scales_by_group(l, c, row0, row1, out, err);
    if (l->scales == AWQ_SCALE_ROWS)
        return scales_by_row(l, c, row0, row1, out, err);
    float one;
    if (convert_run(&l->scale, 0, 1, &one))
        return not_finite(l, 0, 0, err);
    for (uint64_t i = 0; i < (row1 - row0) * c->ngroup; i++)
        out[i] = one;
    return TN_OK;
}

/* ------------------------------------------------------------------------------ zeros */

static uint32_t middle(const awq_linear *l)
{
    return l->bits <= 4 ? 8 : 128;
}

static uint32_t zero_gemm(const awq_linear *l, uint64_t row, uint64_t group)
{
    static const uint32_t field[8] = {0, 4, 1, 5, 2, 6, 3, 7};
    const uint8_t *p = l->zero.data;
    return awq_load32(p + 4 * (group * l->zero_stride + row / 8)) >> 4 * field[row % 8] & 15u;
}

static uint32_t zero_gemv(const awq_linear *l, uint64_t row, uint64_t group)
{
    const uint8_t *p = l->zero.data;
    return p[4 * row * l->zero_stride + group / 2] >> 4 * (group & 1) & 15u;
}

/* Fields of `bits` along n; those that do not divide 32 run on into the next word row. */
static uint32_t zero_rows(const awq_linear *l, uint64_t row, uint64_t group)
{
    const uint8_t *p = l->zero.data;
    uint64_t at = row * l->bits, word = at / 32, v;
    uint32_t shift = at % 32;
    v = awq_load32(p + 4 * (word * l->zero_stride + group));
    if (shift + l->bits > 32)
        v |= (uint64_t)awq_load32(p + 4 * ((word + 1) * l->zero_stride + group)) << 32;
    return (uint32_t)(v >> shift & ((1u << l->bits) - 1)) + middle(l) - (1u << (l->bits - 1));
}

static tn_status zero_bytes(const awq_linear *l, uint64_t row, uint64_t group, uint32_t *out,
                            tn_err *err)
{
    int32_t half = 1 << (l->bits - 1);
    int32_t z = ((const int8_t *)l->zero.data)[row * l->zero_stride + group];
    if (z < -half || z >= half)
        return tn_fail(err, TN_DATA,
                       "%s.weight_zero_point: row %llu, group %llu is %d, wanted %d to %d",
                       l->name, (unsigned long long)row, (unsigned long long)group, z, -half,
                       half - 1);
    *out = (uint32_t)(z + (int32_t)middle(l));
    return TN_OK;
}

/* gemv_fast stores -scale * zero in 16 bits: the quotient is a whole number but for that
 * rounding. A group whose scale is 0 is all zeros, whatever its zero point was. */
static tn_status zero_fast(const awq_linear *l, uint64_t row, uint64_t group, uint32_t *out,
                           tn_err *err)
{
    float s, sz;
    uint64_t at = group * l->zero_stride + row;
    if (convert_run(&l->scale, at, 1, &s))
        return not_finite(l, row, group, err);
    uint32_t bad = convert_run(&l->zero, at, 1, &sz);
    float z = s != 0 ? -sz / s : sz == 0 ? 8.0f : -1.0f;
    uint32_t whole = z > 0 && z < 15.5f ? (uint32_t)(z + 0.5f) : 0;
    float off = z - (float)whole;
    if (bad || !(off < 0.25f && off > -0.25f))
        return tn_fail(err, TN_DATA,
                       "%s.qzeros: row %llu, group %llu is %g beside a scale of %g, wanted "
                       "-scale times 0 to 15",
                       l->name, (unsigned long long)row, (unsigned long long)group, (double)sz,
                       (double)s);
    *out = whole;
    return TN_OK;
}

static tn_status zero_at(const awq_linear *l, uint64_t row, uint64_t group, uint32_t *out,
                         tn_err *err)
{
    switch (l->zeros) {
    case AWQ_ZERO_GEMM:
        *out = zero_gemm(l, row, group);
        return TN_OK;
    case AWQ_ZERO_GEMV:
        *out = zero_gemv(l, row, group);
        return TN_OK;
    case AWQ_ZERO_FAST:
        return zero_fast(l, row, group, out, err);
    case AWQ_ZERO_ROWS:
        *out = zero_rows(l, row, group);
        return TN_OK;
    default:
        return zero_bytes(l, row, group, out, err);
    }
}

/* The common layout by the word: eight rows at once. */
static void zeros_gemm(const awq_linear *l, const awq_cols *c, uint64_t row0, uint64_t row1,
                       uint8_t *out)
{
    static const uint32_t field[8] = {0, 4, 1, 5, 2, 6, 3, 7};
    for (uint64_t word = row0 / 8; word * 8 < row1; word++) {
        uint64_t from = word * 8 < row0 ? row0 % 8 : 0;
        uint64_t to = row1 - word * 8 < 8 ? row1 - word * 8 : 8;
        const uint8_t *src = (const uint8_t *)l->zero.data + 4 * word;
        uint8_t *dst = out + (word * 8 + from - row0) * c->ngroup;
        for (uint64_t i = 0; i < c->ngroup; i++) {
            uint32_t w = awq_load32(src + 4 * c->source[i] * l->zero_stride);
            for (uint64_t j = from; j < to; j++)
                dst[(j - from) * c->ngroup + i] = (uint8_t)(w >> 4 * field[j] & 15u);
        }
    }
}

tn_status awq_zero_rows(const awq_linear *l, const awq_cols *c, uint64_t row0, uint64_t row1,
                        uint8_t *out, tn_err *err)
{
    if (l->zeros == AWQ_ZERO_NONE) {
        memset(out, (int)middle(l), (size_t)((row1 - row0) * c->ngroup));
        return TN_OK;
    }
    if (l->zeros == AWQ_ZERO_GEMM) {
        zeros_gemm(l, c, row0, row1, out);
        return TN_OK;
    }
    for (uint64_t r = row0; r < row1; r++)
        for (uint64_t i = 0; i < c->ngroup; i++) {
            uint32_t z;
            tn_status st = zero_at(l, r, c->source[i], &z, err);
            if (st != TN_OK)
                return st;
            *out++ = (uint8_t)z;
        }
    return TN_OK;
}

/* Whole words of AutoAWQ's 8s are passed over eight rows at a time. */
static bool gemm_differs(const awq_linear *l, const awq_cols *c, uint64_t row0, uint64_t row1)
{
    for (uint64_t i = 0; i < c->ngroup; i++) {
        if (i > 0 && c->source[i] == c->source[i - 1])
            continue;
        const uint8_t *src = (const uint8_t *)l->zero.data + 4 * c->source[i] * l->zero_stride;
        for (uint64_t word = row0 / 8; word * 8 < row1; word++) {
            if (awq_load32(src + 4 * word) == 0x88888888u)
                continue;
            uint64_t to = row1 < word * 8 + 8 ? row1 : word * 8 + 8;
            for (uint64_t r = word * 8 < row0 ? row0 : word * 8; r < to; r++)
                if (zero_gemm(l, r, c->source[i]) != 8)
                    return true;
        }
    }
    return false;
}

tn_status awq_zero_differs(const awq_linear *l, const awq_cols *c, uint64_t row0,
                           uint64_t row1, bool *out, tn_err *err)
{
    *out = false;
    if (l->zeros == AWQ_ZERO_NONE)
        return TN_OK;
    if (l->zeros == AWQ_ZERO_GEMM) {
        *out = gemm_differs(l, c, row0, row1);
        return TN_OK;
    }
    /* Two kinds may hold impossible values further on, so all of those are looked at. */
    bool all = l->zeros == AWQ_ZERO_FAST || l->zeros == AWQ_ZERO_BYTES;
    for (uint64_t r = row0; r < row1 && (all || !*out); r++)
        for (uint64_t i = 0; i < c->ngroup; i++) {
            uint32_t z;
            if (i > 0 && c->source[i] == c->source[i - 1])
                continue;
            tn_status st = zero_at(l, r, c->source[i], &z, err);
            if (st != TN_OK)
                return st;
            *out = *out || z != middle(l);
        }
    return TN_OK;
}
