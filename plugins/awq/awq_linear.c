/* SPDX-License-Identifier: Apache-2.0 */
/* awq_linear.c - opens one module: which tensors it has, what layout that makes, and whether
 * every one of them has the shape that n and k demand.
 *
 * After this no other file doubts a shape. Values inside the tensors (group indices, scales,
 * zero points) are checked where they are read. */
#include "awq.h"

static tn_status missing(const char *module, const char *suffix, const char *beside, tn_err *err)
{
    return tn_fail(err, TN_DATA, "%s.%s: is missing, wanted beside %s.%s", module, suffix, module,
                   beside);
}

/* ceil(a * b / c) without overflow for the sizes of weights (below 2^40). */
static uint64_t mul_div_up(uint64_t a, uint64_t b, uint64_t c)
{
    return (a * b + c - 1) / c;
}

/* ------------------------------------------------------------------------------ plain */

static tn_status open_plain(const tn_view *v, const tn_module *m, awq_linear *l, tn_err *err)
{
    tn_tensor scale;
    uint32_t d = l->code.dtype;
    if (awq_find(v, m->name, "weight_scale", &scale))
        return tn_fail(err, TN_DATA,
                       "%s.weight: is %s with a weight_scale beside it, wanted weight_packed "
                       "(int-quantized and float-quantized files are not read)",
                       m->name, awq_dtype_name(d));
    if (d != TN_F32 && d != TN_F16 && d != TN_BF16)
        return tn_fail(err, TN_DATA, "%s.weight: found %s, wanted F32, F16 or BF16", m->name,
                       awq_dtype_name(d));
    l->layout = AWQ_PLAIN;
    l->bits = awq_dtype_size(d) * 8;
    l->file_bytes = l->code.data_size;
    return awq_check(m->name, "weight", &l->code, d, 2, m->n, m->k, "n and k of the model", err);
}

/* ---------------------------------------------------------------------------- AutoAWQ */

static tn_status need_scales_and_zeros(const tn_view *v, const tn_module *m, awq_linear *l,
                                       tn_err *err)
{
    if (!awq_find(v, m->name, "scales", &l->scale))
        return missing(m->name, "scales", "qweight", err);
    if (!awq_find(v, m->name, "qzeros", &l->zero))
        return missing(m->name, "qzeros", "qweight", err);
    l->file_bytes = l->code.data_size + l->scale.data_size + l->zero.data_size;
    return TN_OK;
}

static tn_status open_gemm(awq_self *self, const tn_view *v, const tn_module *m,
                           const awq_config *c, awq_linear *l, tn_err *err)
{
    uint64_t groups = l->scale.ndim == 2 && l->scale.dim[1] == m->n ? l->scale.dim[0] : 0;
    if (m->n % 8 != 0)
        return tn_fail(err, TN_DATA, "%s: n is %llu, wanted a multiple of 8 for AWQ gemm", m->name,
                       (unsigned long long)m->n);
    tn_status st = awq_check(m->name, "qweight", &l->code, TN_I32, 2, m->k, m->n / 8,
                             "k and n / 8, AWQ gemm", err);
    if (st != TN_OK)
        return st;
    if (groups == 0 || groups > m->k || m->k % groups != 0)
        groups = mul_div_up(m->k, 1, c->scheme[0].group != 0 ? c->scheme[0].group : m->k);
    st = awq_check_scale(m->name, "scales", &l->scale, 2, groups, m->n, "groups and n", err);
    if (st == TN_OK)
        st = awq_check(m->name, "qzeros", &l->zero, TN_I32, 2, groups, m->n / 8,
                       "groups and n / 8", err);
    if (st == TN_OK && m->k % groups != 0)
        st = tn_fail(err, TN_DATA,
                     "%s.scales: has %llu groups for %llu columns, wanted a number that divides "
                     "them: AWQ gemm has no short last group",
                     m->name, (unsigned long long)groups, (unsigned long long)m->k);
    if (st != TN_OK)
        return st;
    l->layout = AWQ_GEMM;
    l->zeros = AWQ_ZERO_GEMM;
    l->scales = AWQ_SCALE_GROUPS;
    l->ngroup = groups;
    l->group = m->k / groups;
    l->scale_stride = m->n;
    l->zero_stride = m->n / 8;
    if (c->scheme[0].group == l->group || (c->scheme[0].group == 0 && groups == 1))
        return TN_OK;
    return awq_disagree(self, v, AWQ_WARN_GROUP, err,
                        "%s.scales: has %llu groups of %llu columns, but the config says "
                        "group_size %lld",
                        m->name, (unsigned long long)groups, (unsigned long long)l->group,
                        c->scheme[0].group == 0 ? -1LL : (long long)c->scheme[0].group);
}

/* Words of zero points a row in the gemv layouts; 0 for a group they cannot have. */
static uint64_t gemv_words(uint64_t k, uint64_t group)
{
    uint64_t unit = group >= 128 ? 1 : group == 64 ? 2 : group == 32 ? 4 : 0;
    uint64_t words = mul_div_up(k / group, 1, 8);
    return unit == 0 ? 0 : (words + unit - 1) / unit * unit;
}

static tn_status open_gemv(const tn_module *m, const awq_config *c, bool fast, awq_linear *l,
                           tn_err *err)
{
    uint64_t group = c->scheme[0].group != 0 ? c->scheme[0].group : m->k;
    uint64_t words = m->k % group == 0 ? gemv_words(m->k, group) : 0;
    if (words == 0)
        return tn_fail(err, TN_DATA,
                       "%s: group_size %llu does not fit k %llu, wanted a divisor of k that is "
                       "32, 64 or at least 128 for AWQ gemv",
                       m->name, (unsigned long long)group, (unsigned long long)m->k);
    uint64_t unit = fast ? 64 : 8;
    if (m->k % unit != 0 || (fast && m->n % 4 != 0))
        return tn_fail(err, TN_DATA, "%s: n %llu and k %llu, wanted k a multiple of %llu%s",
                       m->name, (unsigned long long)m->n, (unsigned long long)m->k,
                       (unsigned long long)unit, fast ? " and n one of 4" : "");
    l->ngroup = m->k / group;
    l->group = group;
    tn_status st;
    if (fast) {
        l->layout = AWQ_GEMV_FAST;
        l->zeros = AWQ_ZERO_FAST;
        l->scales = AWQ_SCALE_GROUPS;
        l->scale_stride = l->zero_stride = m->n;
        st = awq_check(m->name, "qweight", &l->code, TN_I16, 2, m->n / 4, m->k,
                       "n / 4 and k, AWQ gemv_fast", err);
        if (st == TN_OK)
            st = awq_check_scale(m->name, "scales", &l->scale, 2, words * 8, m->n,
                                 "padded groups and n", err);
        return st != TN_OK ? st
                           : awq_check_scale(m->name, "qzeros", &l->zero, 2, words * 8, m->n,
                                             "padded groups and n", err);
    }
    l->layout = AWQ_GEMV;
    l->zeros = AWQ_ZERO_GEMV;
    l->scales = AWQ_SCALE_ROWS;
    l->scale_stride = words * 8;
    l->zero_stride = words;
    st = awq_check(m->name, "qweight", &l->code, TN_I32, 2, m->n, m->k / 8,
                   "n and k / 8, AWQ gemv", err);
    if (st == TN_OK)
        st = awq_check_scale(m->name, "scales", &l->scale, 2, m->n, words * 8,
                             "n and padded groups", err);
    return st != TN_OK ? st
                       : awq_check(m->name, "qzeros", &l->zero, TN_I32, 2, m->n, words,
                                   "n and padded groups / 8", err);
}

/* gemm and gemv are told apart by shape; where n equals k, by the shape of the scales, and
 * where a shape fits neither, the config says which one to hold it against. */
static bool looks_gemv(const tn_module *m, const awq_config *c, const awq_linear *l)
{
    const uint64_t *q = l->code.dim, *s = l->scale.dim;
    bool gemm = q[0] == m->k && q[1] == m->n / 8, gemv = q[0] == m->n && q[1] == m->k / 8;
    if (l->code.ndim != 2 || gemm == gemv)
        gemv = l->scale.ndim == 2 && s[0] != s[1] && (s[0] == m->n || s[1] == m->n)
                   ? s[0] == m->n
                   : c->natural;
    return gemv;
}

static tn_status open_autoawq(awq_self *self, const tn_view *v, const tn_module *m,
                              const awq_config *c, awq_linear *l, tn_err *err)
{
    if (c->method != AWQ_METHOD_AUTOAWQ)
        return tn_fail(err, TN_DATA,
                       "%s.qweight: found, but quant_method is compressed-tensors; wanted "
                       "weight_packed or weight",
                       m->name);
    tn_status st = need_scales_and_zeros(v, m, l, err);
    if (st != TN_OK)
        return st;
    bool fast = l->code.dtype == TN_I16;
    bool gemv = fast || looks_gemv(m, c, l);
    st = gemv ? open_gemv(m, c, fast, l, err) : open_gemm(self, v, m, c, l, err);
    if (st != TN_OK || (gemv == c->natural && fast == c->fast))
        return st;
    return awq_disagree(self, v, AWQ_WARN_LAYOUT, err,
                        "%s.qweight: is laid out as %s, but the config says %s", m->name,
                        fast ? "gemv_fast" : gemv ? "gemv" : "gemm",
                        c->fast ? "gemv_fast" : c->natural ? "gemv" : "gemm");
}

/* ----------------------------------------------------------------- compressed-tensors */

static bool bits_fit(const tn_module *m, const tn_tensor *packed, uint32_t bits)
{
    return packed->ndim == 2 && packed->dim[0] == m->n &&
           packed->dim[1] == mul_div_up(m->k, bits, 32);
}

/* A short row can fit several widths; only then do the config's names have to say. */
static tn_status bits_by_name(awq_self *self, const tn_module *m, const awq_config *c,
                              uint32_t *bits, tn_err *err)
{
    awq_rules *rules;
    const awq_scheme *s;
    tn_status st = awq_rules_open(self->h, c, &rules, err);
    if (st != TN_OK)
        return st;
    st = awq_rules_match(rules, m->name, &s, err);
    awq_rules_close(rules);
    if (st == TN_OK && s == NULL)
        return tn_fail(err, TN_DATA,
                       "%s.weight_packed: fits several config_groups and none names it, wanted "
                       "a target that does",
                       m->name);
    if (st == TN_OK)
        *bits = s->bits;
    return st;
}

/* The width that the packed shape allows among those the config speaks of. */
static tn_status find_bits(awq_self *self, const tn_view *v, const tn_module *m,
                           const awq_config *c, awq_linear *l, tn_err *err)
{
    uint32_t found = 0, distinct = 0;
    for (uint32_t i = 0; i < c->nscheme; i++)
        if (c->scheme[i].bits != found && bits_fit(m, &l->code, c->scheme[i].bits)) {
            found = c->scheme[i].bits;
            distinct++;
        }
    tn_status st = distinct > 1 ? bits_by_name(self, m, c, &found, err) : TN_OK;
    if (st == TN_OK && found == 0 && m->k % 8 == 0) {
        found = bits_fit(m, &l->code, 4) ? 4 : bits_fit(m, &l->code, 8) ? 8 : 0;
        if (found != 0)
            st = awq_disagree(self, v, AWQ_WARN_BITS, err,
                              "%s.weight_packed: is %u bits wide by its shape, but the config "
                              "says num_bits %u",
                              m->name, found, c->scheme[0].bits);
    }
    if (st != TN_OK)
        return st;
    l->bits = found != 0 ? found : c->scheme[0].bits;
    if (32 % l->bits != 0 && c->padded && m->k > 32 / l->bits &&
        mul_div_up(m->k, l->bits, 32) == mul_div_up(m->k, 1, 32 / l->bits))
        return tn_fail(err, TN_DATA,
                       "%s.weight_packed: %u bits packed by a compressed-tensors older than "
                       "0.17, which pads each word; wanted 4 or 8 bits, or a newer file",
                       m->name, l->bits);
    return awq_check(m->name, "weight_packed", &l->code, TN_I32, 2, m->n,
                     mul_div_up(m->k, l->bits, 32), "n and ceil(k * bits / 32)", err);
}

static tn_status find_group(awq_self *self, const tn_view *v, const tn_module *m,
                            const awq_config *c, awq_linear *l, tn_err *err)
{
    const tn_tensor *s = &l->scale;
    l->group = m->k;
    l->ngroup = 1;
    if ((s->ndim == 1 || s->ndim == 2) && s->dim[0] == 1 && (s->ndim == 1 || s->dim[1] == 1)) {
        l->scales = AWQ_SCALE_ONE;
        return awq_check_scale(m->name, "weight_scale", s, s->ndim, 1, 1, "one scale", err);
    }
    l->scales = AWQ_SCALE_ROWS;
    l->scale_stride = 1;
    if (s->ndim == 1)
        return awq_check_scale(m->name, "weight_scale", s, 1, m->n, 1, "one scale a row", err);
    uint64_t groups = s->ndim == 2 && s->dim[0] == m->n ? s->dim[1] : 0, group = 0;
    for (uint32_t i = 0; i < c->nscheme && group == 0; i++)
        if (c->scheme[i].group != 0 && mul_div_up(m->k, 1, c->scheme[i].group) == groups)
            group = c->scheme[i].group;
    if (group == 0 && groups > 1 && groups <= m->k && m->k % groups == 0) {
        group = m->k / groups;
        tn_status st = awq_disagree(self, v, AWQ_WARN_GROUP, err,
                                    "%s.weight_scale: has groups of %llu columns, but no "
                                    "config group has that group_size",
                                    m->name, (unsigned long long)group);
        if (st != TN_OK)
            return st;
    }
    if (group == 0 && groups != 1) {
        uint64_t due = c->scheme[0].group != 0 ? c->scheme[0].group : m->k;
        groups = mul_div_up(m->k, 1, due);
    }
    if (groups > 1) {
        l->group = group;
        l->ngroup = groups;
        l->scale_stride = groups;
    }
    return awq_check_scale(m->name, "weight_scale", s, 2, m->n, groups, "n and groups", err);
}

static tn_status find_packed_zeros(const tn_view *v, const tn_module *m, const awq_config *c,
                                   awq_linear *l, tn_err *err)
{
    bool due = true;
    for (uint32_t i = 0; i < c->nscheme; i++)
        due = due && !c->scheme[i].symmetric;
    l->zeros = AWQ_ZERO_NONE;
    if (!awq_find(v, m->name, "weight_zero_point", &l->zero))
        return due ? missing(m->name, "weight_zero_point", "weight_packed", err) : TN_OK;
    l->file_bytes += l->zero.data_size;
    l->zero_stride = l->ngroup;
    if (l->zero.dtype != TN_I8) {
        l->zeros = AWQ_ZERO_ROWS;
        return awq_check(m->name, "weight_zero_point", &l->zero, TN_I32, 2,
                         mul_div_up(m->n, l->bits, 32), l->ngroup,
                         "ceil(n * bits / 32) and groups", err);
    }
    l->zeros = AWQ_ZERO_BYTES;
    if (l->scales == AWQ_SCALE_ONE) {
        l->zero_stride = 0;
        return awq_check(m->name, "weight_zero_point", &l->zero, TN_I8, l->zero.ndim == 2 ? 2 : 1,
                         1, 1, "one zero point", err);
    }
    return awq_check(m->name, "weight_zero_point", &l->zero, TN_I8, 2, m->n, l->ngroup,
                     "n and groups", err);
}

/* weight_g_idx of -1 throughout means that the quantizer did not use it. */
static tn_status find_order(const tn_view *v, const tn_module *m, const awq_config *c,
                            awq_linear *l, tn_err *err)
{
    tn_tensor t;
    bool due = l->ngroup > 1;
    for (uint32_t i = 0; i < c->nscheme; i++)
        due = due && c->scheme[i].ordered;
    if (!awq_find(v, m->name, "weight_g_idx", &t))
        return due ? missing(m->name, "weight_g_idx", "weight_packed", err) : TN_OK;
    l->file_bytes += t.data_size;
    tn_status st = awq_check(m->name, "weight_g_idx", &t, TN_I32, 1, m->k, 0, "k", err);
    if (st != TN_OK)
        return st;
    if ((int32_t)awq_load32(t.data) != -1) {
        l->order = t.data;
        return TN_OK;
    }
    for (uint64_t i = 1; i < m->k; i++) {
        int32_t g = (int32_t)awq_load32((const uint8_t *)t.data + 4 * i);
        if (g != -1)
            return tn_fail(err, TN_DATA,
                           "%s.weight_g_idx: entry 0 is -1 but entry %llu is %d, wanted -1 in "
                           "all or in none",
                           m->name, (unsigned long long)i, g);
    }
    return TN_OK;
}

static tn_status check_weight_shape(const tn_view *v, const tn_module *m, awq_linear *l,
                                    tn_err *err)
{
    tn_tensor t;
    if (!awq_find(v, m->name, "weight_shape", &t))
        return TN_OK;
    l->file_bytes += t.data_size;
    tn_status st = awq_check(m->name, "weight_shape", &t, TN_I64, 1, 2, 0, "n and k", err);
    if (st != TN_OK)
        return st;
    uint64_t n = awq_load64(t.data), k = awq_load64((const uint8_t *)t.data + 8);
    if (n != m->n || k != m->k)
        return tn_fail(err, TN_DATA, "%s.weight_shape: says [%lld, %lld], wanted [%llu, %llu]",
                       m->name, (long long)n, (long long)k, (unsigned long long)m->n,
                       (unsigned long long)m->k);
    return TN_OK;
}

static tn_status open_packed(awq_self *self, const tn_view *v, const tn_module *m,
                             const awq_config *c, awq_linear *l, tn_err *err)
{
    if (c->method != AWQ_METHOD_PACKED)
        return tn_fail(err, TN_DATA,
                       "%s.weight_packed: found, but quant_method is not compressed-tensors; "
                       "wanted qweight or weight",
                       m->name);
    l->layout = AWQ_PACKED;
    if (!awq_find(v, m->name, "weight_scale", &l->scale))
        return missing(m->name, "weight_scale", "weight_packed", err);
    l->file_bytes = l->code.data_size + l->scale.data_size;
    tn_status st = find_bits(self, v, m, c, l, err);
    if (st == TN_OK)
        st = find_group(self, v, m, c, l, err);
    if (st == TN_OK)
        st = find_packed_zeros(v, m, c, l, err);
    if (st == TN_OK)
        st = find_order(v, m, c, l, err);
    return st != TN_OK ? st : check_weight_shape(v, m, l, err);
}

/* ------------------------------------------------------------------------------- open */

tn_status awq_linear_open(awq_self *self, const tn_view *v, const tn_module *m, awq_linear *out,
                          tn_err *err)
{
    tn_tensor plain, q, packed;
    awq_linear l = {.name = m->name, .n = m->n, .k = m->k};
    if (m->n == 0 || m->k == 0 || m->n >> 31 != 0 || m->k >> 31 != 0)
        return tn_fail(err, TN_DATA, "%s: n %llu and k %llu, wanted 1 to 2147483647", m->name,
                       (unsigned long long)m->n, (unsigned long long)m->k);
    bool has_plain = awq_find(v, m->name, "weight", &plain);
    bool has_q = awq_find(v, m->name, "qweight", &q);
    bool has_packed = awq_find(v, m->name, "weight_packed", &packed);
    if (has_plain + has_q + has_packed > 1)
        return tn_fail(err, TN_DATA, "%s: has %s beside %s, wanted one weight", m->name,
                       has_plain ? "weight" : "qweight", has_packed ? "weight_packed" : "qweight");
    if (!has_plain && !has_q && !has_packed)
        return tn_fail(err, TN_NOINPUT,
                       "%s: has no tensor, wanted weight, qweight or weight_packed", m->name);
    tn_status st;
    if (has_plain) {
        l.code = plain;
        st = open_plain(v, m, &l, err);
    } else {
        awq_config c;
        st = awq_config_read(v->quant, v->quant_file, &c, err);
        if (st != TN_OK)
            return st;
        l.code = has_q ? q : packed;
        l.bits = 4;
        st = has_q ? open_autoawq(self, v, m, &c, &l, err) : open_packed(self, v, m, &c, &l, err);
    }
    if (st == TN_OK)
        *out = l;
    return st;
}

uint32_t awq_linear_kind(const awq_linear *l)
{
    if (l->layout != AWQ_PLAIN)
        return l->bits <= 4 ? TN_FORM_W4G : TN_FORM_W8G;
    return l->code.dtype == TN_F32 ? TN_FORM_F32
           : l->code.dtype == TN_F16 ? TN_FORM_F16
                                     : TN_FORM_BF16;
}
