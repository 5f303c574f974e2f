/* SPDX-License-Identifier: Apache-2.0 */
/* awq_pack.c - lays a quantized matrix out as the files do, tensor by tensor.
 *
 * The layouts are drawn in awq_unpack.c and awq_linear.c, which read them. Writing happens
 * once a model, so these loops are kept plain: one code at a time. */
#include "awq.h"

/* Zeroed memory for a tensor of `count` elements. */
static void *take(const tn_host *h, uint64_t count, uint64_t size)
{
    uint64_t total;
    if (__builtin_mul_overflow(count, size, &total))
        return NULL;
    void *p = h->alloc(h->ctx, total);
    if (p != NULL)
        memset(p, 0, (size_t)total);
    return p;
}

static tn_status no_memory(const char *name, tn_err *err)
{
    return tn_fail(err, TN_NO_MEMORY, "%s: no memory to pack it", name);
}

/* Hands over one tensor and frees it. */
static tn_status put(const tn_host *h, const tn_sink *sink, const char *module,
                     const char *suffix, uint32_t dtype, uint64_t d0, uint64_t d1, void *data,
                     tn_err *err)
{
    char name[AWQ_NAME_MAX];
    const uint64_t dim[2] = {d0, d1};
    int n = snprintf(name, sizeof name, "%s.%s", module, suffix);
    tn_status st;
    if (data == NULL)
        return no_memory(module, err);
    if (n < 0 || (size_t)n >= sizeof name)
        st = tn_fail(err, TN_UNSUPPORTED, "%.100s...: a name of %d bytes, wanted less than %u",
                     module, n, AWQ_NAME_MAX);
    else
        st = sink->tensor(sink->ctx, name, dtype, d1 == 0 ? 1 : 2, dim, data, err);
    h->release(h->ctx, data);
    return st;
}

static void set_nibble(uint32_t *word, uint32_t field, uint32_t v)
{
    *word |= v << 4 * field;
}

/* ------------------------------------------------------------------------------- gemm */

/* The field of its word that output column c of eight takes. */
static const uint32_t gemm_field[8] = {0, 4, 1, 5, 2, 6, 3, 7};

static uint32_t *gemm_codes(const tn_host *h, const awq_matrix *m)
{
    uint32_t *w = take(h, m->k * (m->n / 8), 4);
    for (uint64_t r = 0; w != NULL && r < m->n; r++)
        for (uint64_t c = 0; c < m->k; c++)
            set_nibble(&w[c * (m->n / 8) + r / 8], gemm_field[r % 8], m->code[r * m->k + c]);
    return w;
}

static uint32_t *gemm_zeros(const tn_host *h, const awq_matrix *m)
{
    uint32_t *w = take(h, m->ngroup * (m->n / 8), 4);
    for (uint64_t r = 0; w != NULL && r < m->n; r++)
        for (uint64_t g = 0; g < m->ngroup; g++)
            set_nibble(&w[g * (m->n / 8) + r / 8], gemm_field[r % 8], m->zero[r * m->ngroup + g]);
    return w;
}

/* Scales [n, ngroup] as [rows of groups, n]; rows past the groups stay zero. */
static uint16_t *scales_by_group(const tn_host *h, const awq_matrix *m, uint64_t rows)
{
    uint16_t *s = take(h, rows * m->n, 2);
    for (uint64_t r = 0; s != NULL && r < m->n; r++)
        for (uint64_t g = 0; g < m->ngroup; g++)
            s[g * m->n + r] = m->scale[r * m->ngroup + g];
    return s;
}

static tn_status pack_gemm(const tn_host *h, const tn_sink *sink, const char *name,
                           const awq_matrix *m, tn_err *err)
{
    tn_status st = put(h, sink, name, "qweight", TN_I32, m->k, m->n / 8, gemm_codes(h, m), err);
    if (st == TN_OK)
        st = put(h, sink, name, "qzeros", TN_I32, m->ngroup, m->n / 8, gemm_zeros(h, m), err);
    if (st == TN_OK)
        st = put(h, sink, name, "scales", TN_F16, m->ngroup, m->n,
                 scales_by_group(h, m, m->ngroup), err);
    return st;
}

/* ------------------------------------------------------------------------------- gemv */

/* Words of zero points a row; the caller has checked that the group is one of these. */
static uint64_t zero_words(const awq_matrix *m)
{
    uint64_t group = m->k / m->ngroup, unit = group >= 128 ? 1 : group == 64 ? 2 : 4;
    uint64_t words = (m->ngroup + 7) / 8;
    return (words + unit - 1) / unit * unit;
}

static uint32_t *gemv_codes(const tn_host *h, const awq_matrix *m)
{
    uint32_t *w = take(h, m->n * (m->k / 8), 4);
    for (uint64_t r = 0; w != NULL && r < m->n; r++)
        for (uint64_t c = 0; c < m->k; c++)
            set_nibble(&w[r * (m->k / 8) + c / 8], c % 8, m->code[r * m->k + c]);
    return w;
}

static uint32_t *gemv_zeros(const tn_host *h, const awq_matrix *m)
{
    uint64_t words = zero_words(m);
    uint32_t *z = take(h, m->n * words, 4);
    for (uint64_t r = 0; z != NULL && r < m->n; r++)
        for (uint64_t g = 0; g < m->ngroup; g++)
            set_nibble(&z[r * words + g / 8], g % 8, m->zero[r * m->ngroup + g]);
    return z;
}

static uint16_t *gemv_scales(const tn_host *h, const awq_matrix *m)
{
    uint64_t width = zero_words(m) * 8;
    uint16_t *s = take(h, m->n * width, 2);
    for (uint64_t r = 0; s != NULL && r < m->n; r++)
        memcpy(s + r * width, m->scale + r * m->ngroup, (size_t)m->ngroup * 2);
    return s;
}

static tn_status pack_gemv(const tn_host *h, const tn_sink *sink, const char *name,
                           const awq_matrix *m, tn_err *err)
{
    uint64_t words = zero_words(m);
    tn_status st = put(h, sink, name, "qweight", TN_I32, m->n, m->k / 8, gemv_codes(h, m), err);
    if (st == TN_OK)
        st = put(h, sink, name, "qzeros", TN_I32, m->n, words, gemv_zeros(h, m), err);
    if (st == TN_OK)
        st = put(h, sink, name, "scales", TN_F16, m->n, words * 8, gemv_scales(h, m), err);
    return st;
}

static uint16_t *fast_codes(const tn_host *h, const awq_matrix *m)
{
    uint16_t *w = take(h, m->n / 4 * m->k, 2);
    for (uint64_t r = 0; w != NULL && r < m->n; r++)
        for (uint64_t c = 0; c < m->k; c++) {
            uint64_t half = c / 32 % 2, p = c / 8 % 4, t = c % 8;
            uint64_t at = r / 4 * m->k + c / 64 * 64 + r % 4 * 16 + half * 8 + t;
            w[at] = (uint16_t)(w[at] | m->code[r * m->k + c] << 4 * p);
        }
    return w;
}

static uint16_t *fast_zeros(const tn_host *h, const awq_matrix *m, uint64_t rows)
{
    uint16_t *z = take(h, rows * m->n, 2);
    for (uint64_t r = 0; z != NULL && r < m->n; r++)
        for (uint64_t g = 0; g < m->ngroup; g++) {
            float s = awq_from_half(m->scale_dtype, m->scale[r * m->ngroup + g]);
            z[g * m->n + r] = awq_to_half(TN_F16, -s * (float)m->zero[r * m->ngroup + g]);
        }
    return z;
}

static tn_status pack_fast(const tn_host *h, const tn_sink *sink, const char *name,
                           const awq_matrix *m, tn_err *err)
{
    uint64_t rows = zero_words(m) * 8;
    tn_status st = put(h, sink, name, "qweight", TN_I16, m->n / 4, m->k, fast_codes(h, m), err);
    if (st == TN_OK)
        st = put(h, sink, name, "qzeros", TN_F16, rows, m->n, fast_zeros(h, m, rows), err);
    if (st == TN_OK)
        st = put(h, sink, name, "scales", TN_F16, rows, m->n, scales_by_group(h, m, rows), err);
    return st;
}

/* ----------------------------------------------------------------------------- packed */

static uint32_t *packed_codes(const tn_host *h, const awq_matrix *m)
{
    uint64_t per = 32 / m->bits, words = (m->k + per - 1) / per;
    uint32_t *w = take(h, m->n * words, 4);
    for (uint64_t r = 0; w != NULL && r < m->n; r++)
        for (uint64_t c = 0; c < m->k; c++)
            w[r * words + c / per] |= (uint32_t)m->code[r * m->k + c] << c % per * m->bits;
    return w;
}

static uint32_t *packed_zeros(const tn_host *h, const awq_matrix *m)
{
    uint64_t per = 32 / m->bits, words = (m->n + per - 1) / per;
    uint32_t *w = take(h, words * m->ngroup, 4);
    for (uint64_t r = 0; w != NULL && r < m->n; r++)
        for (uint64_t g = 0; g < m->ngroup; g++)
            w[r / per * m->ngroup + g] |= (uint32_t)m->zero[r * m->ngroup + g]
                                          << r % per * m->bits;
    return w;
}

static void *copy(const tn_host *h, const void *from, uint64_t count, uint64_t size)
{
    void *p = take(h, count, size);
    if (p != NULL)
        memcpy(p, from, (size_t)(count * size));
    return p;
}

static tn_status pack_packed(const tn_host *h, const tn_sink *sink, const char *name,
                             const awq_matrix *m, tn_err *err)
{
    const int64_t shape[2] = {(int64_t)m->n, (int64_t)m->k};
    uint64_t per = 32 / m->bits;
    tn_status st = put(h, sink, name, "weight_packed", TN_I32, m->n, (m->k + per - 1) / per,
                       packed_codes(h, m), err);
    if (st == TN_OK)
        st = put(h, sink, name, "weight_scale", m->scale_dtype, m->n, m->ngroup,
                 copy(h, m->scale, m->n * m->ngroup, 2), err);
    if (st == TN_OK && m->zero != NULL)
        st = put(h, sink, name, "weight_zero_point", TN_I32, (m->n + per - 1) / per, m->ngroup,
                 packed_zeros(h, m), err);
    if (st == TN_OK)
        st = put(h, sink, name, "weight_shape", TN_I64, 2, 0, copy(h, shape, 2, 8), err);
    return st;
}

tn_status awq_pack(const tn_host *h, const tn_sink *sink, uint32_t layout, const char *name,
                   const awq_matrix *m, tn_err *err)
{
    switch (layout) {
    case AWQ_GEMM:
        return pack_gemm(h, sink, name, m, err);
    case AWQ_GEMV:
        return pack_gemv(h, sink, name, m, err);
    case AWQ_GEMV_FAST:
        return pack_fast(h, sink, name, m, err);
    default:
        return pack_packed(h, sink, name, m, err);
    }
}
