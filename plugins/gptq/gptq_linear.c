/* SPDX-License-Identifier: Apache-2.0 */
/* gptq_linear.c - opens one module: which tensors it has, how wide its codes are, and whether
 * every tensor has the shape that n and k demand.
 *
 * After this no other file doubts a shape. Values inside the tensors (group indices, scales)
 * are checked where they are read. */
#include "gptq.h"

static tn_status missing(const char *module, const char *suffix, tn_err *err)
{
    return tn_fail(err, TN_DATA, "%s.%s: is missing, wanted beside %s.qweight", module, suffix,
                   module);
}

static tn_status open_plain(const tn_module *m, gptq_linear *l, tn_err *err)
{
    uint32_t d = l->code.dtype;
    if (d != TN_F32 && d != TN_F16 && d != TN_BF16)
        return tn_fail(err, TN_DATA, "%s.weight: found %s, wanted F32, F16 or BF16", m->name,
                       gptq_dtype_name(d));
    l->plain = true;
    l->bits = gptq_dtype_size(d) * 8;
    l->file_bytes = l->code.data_size;
    return gptq_check(m->name, "weight", &l->code, d, 2, m->n, m->k, "n and k of the model", err);
}

/* The packed rows tell the width; a shape that fits none is held against the config's. */
static tn_status find_bits(const tn_module *m, const gptq_config *c, gptq_linear *l, tn_err *err)
{
    static const uint32_t widths[] = {4, 8, 3, 2};
    l->bits = c->scheme.bits;
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
        if (l->code.ndim == 2 && l->code.dim[0] <= m->k &&
            l->code.dim[0] * 32 == m->k * widths[i])
            l->bits = widths[i];
    if (m->k * l->bits % 32 != 0 || m->n * l->bits % 32 != 0)
        return tn_fail(err, TN_DATA,
                       "%s: n %llu and k %llu at %u bits fill no whole words, wanted multiples "
                       "of %u",
                       m->name, (unsigned long long)m->n, (unsigned long long)m->k, l->bits,
                       l->bits == 3 ? 32 : 32 / l->bits);
    return gptq_check(m->name, "qweight", &l->code, TN_I32, 2, m->k * l->bits / 32, m->n,
                      "k * bits / 32 and n", err);
}

/* The number of groups is the scales' first size. Without a g_idx it must also divide the
 * columns: by the config's group_size, or evenly. */
static tn_status find_groups(const tn_view *v, const tn_module *m, const gptq_config *c,
                             gptq_linear *l, tn_err *err)
{
    tn_tensor order;
    uint64_t due = c->scheme.group != 0 ? c->scheme.group : m->k;
    uint64_t groups = l->scale.ndim == 2 && l->scale.dim[1] == m->n ? l->scale.dim[0] : 0;
    bool ordered = gptq_find(v, m->name, "g_idx", &order);
    l->group = due;
    if ((m->k + due - 1) / due != groups && groups != 0 && groups <= m->k && m->k % groups == 0)
        l->group = m->k / groups;
    l->ngroup = (m->k + l->group - 1) / l->group;
    if (ordered && groups != 0 && groups <= m->k)
        l->ngroup = groups;
    if (!ordered)
        return TN_OK;
    l->order = order.data;
    l->file_bytes += order.data_size;
    return gptq_check(m->name, "g_idx", &order, TN_I32, 1, m->k, 0, "k", err);
}

static tn_status open_quantized(const tn_view *v, const tn_module *m, gptq_linear *l, tn_err *err)
{
    gptq_config c;
    tn_status st = gptq_config_read(v->quant, v->quant_file, &c, err);
    if (st != TN_OK)
        return st;
    l->v2 = c.v2;
    if (!gptq_find(v, m->name, "scales", &l->scale))
        return missing(m->name, "scales", err);
    if (!gptq_find(v, m->name, "qzeros", &l->zero))
        return missing(m->name, "qzeros", err);
    l->file_bytes = l->code.data_size + l->scale.data_size + l->zero.data_size;
    st = find_bits(m, &c, l, err);
    if (st == TN_OK)
        st = find_groups(v, m, &c, l, err);
    if (st == TN_OK)
        st = gptq_check_scale(m->name, "scales", &l->scale, 2, l->ngroup, m->n, "groups and n",
                              err);
    if (st == TN_OK)
        st = gptq_check(m->name, "qzeros", &l->zero, TN_I32, 2, l->ngroup, m->n * l->bits / 32,
                        "groups and n * bits / 32", err);
    return st;
}

tn_status gptq_linear_open(const tn_view *v, const tn_module *m, gptq_linear *out, tn_err *err)
{
    tn_tensor plain, q;
    gptq_linear l = {.name = m->name, .n = m->n, .k = m->k};
    if (m->n == 0 || m->k == 0 || m->n >> 31 != 0 || m->k >> 31 != 0)
        return tn_fail(err, TN_DATA, "%s: n %llu and k %llu, wanted 1 to 2147483647", m->name,
                       (unsigned long long)m->n, (unsigned long long)m->k);
    bool has_plain = gptq_find(v, m->name, "weight", &plain);
    bool has_q = gptq_find(v, m->name, "qweight", &q);
    if (has_plain && has_q)
        return tn_fail(err, TN_DATA, "%s: has weight beside qweight, wanted one of them", m->name);
    if (!has_plain && !has_q)
        return tn_fail(err, TN_NOINPUT, "%s: has no tensor, wanted weight or qweight", m->name);
    l.code = has_q ? q : plain;
    tn_status st = has_q ? open_quantized(v, m, &l, err) : open_plain(m, &l, err);
    if (st == TN_OK)
        *out = l;
    return st;
}

/* ---------------------------------------------------------------------------- compare */

/* The config's word about this very module; its rules are compiled only for that. */
static tn_status scheme_of(const tn_host *h, const gptq_config *c, const char *module,
                           gptq_scheme *out, tn_err *err)
{
    gptq_rules *rules;
    bool quantized;
    tn_status st = gptq_rules_open(h, c, &rules, err);
    if (st != TN_OK)
        return st;
    st = gptq_rules_match(rules, module, &quantized, out, err);
    gptq_rules_close(rules);
    return st;
}

static bool groups_differ(const gptq_linear *l, const gptq_scheme *s)
{
    uint64_t due = s->group != 0 ? s->group : l->k;
    return (l->k + due - 1) / due != l->ngroup;
}

tn_status gptq_linear_compare(gptq_self *self, const tn_view *v, const gptq_linear *l,
                              tn_err *err)
{
    gptq_config c;
    tn_status st = gptq_config_read(v->quant, v->quant_file, &c, err);
    if (st != TN_OK)
        return st;
    gptq_scheme s = c.scheme;
    bool unordered = l->order == NULL && l->ngroup > 1;
    if ((c.dynamic != NULL || c.extra != NULL) &&
        (s.bits != l->bits || groups_differ(l, &s) || (s.ordered && unordered)))
        st = scheme_of(self->h, &c, l->name, &s, err);
    if (st == TN_OK && s.ordered && unordered)
        return tn_fail(err, TN_DATA,
                       "%s.g_idx: is missing, wanted beside %s.qweight because desc_act is true",
                       l->name, l->name);
    if (st == TN_OK && s.bits != l->bits)
        st = gptq_disagree(self, v, GPTQ_WARN_BITS, err,
                           "%s.qweight: is %u bits wide by its shape, but the config says %u",
                           l->name, l->bits, s.bits);
    if (st == TN_OK && groups_differ(l, &s))
        st = gptq_disagree(self, v, GPTQ_WARN_GROUP, err,
                           "%s.scales: has %llu groups for %llu columns, but the config says "
                           "group_size %lld",
                           l->name, (unsigned long long)l->ngroup, (unsigned long long)l->k,
                           s.group == 0 ? -1LL : (long long)s.group);
    return st;
}

uint32_t gptq_linear_kind(const gptq_linear *l)
{
    if (!l->plain)
        return l->bits <= 4 ? TN_FORM_W4G : TN_FORM_W8G;
    return l->code.dtype == TN_F32 ? TN_FORM_F32
           : l->code.dtype == TN_F16 ? TN_FORM_F16
                                     : TN_FORM_BF16;
}
