/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_filters.c - filters on single values: numbers, defaults, JSON, markup. */
#include "jinja_filters.h"

#include "jinja_ast.h"
#include "jinja_iter.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static bool f_default(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    bool use = a[0].type == TN_J_UNDEF || (tn_jarg_flag(a[2]) && !tn_jval_truth(a[0]));
    if (use && a[1].type == TN_J_MISSING)
        return tn_jstr_text(r, "", out);
    *out = use ? a[1] : a[0];
    return true;
}

static bool f_length(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    int64_t n = tn_jval_len(a[0]);
    (void)all;
    if (n < 0)
        return tn_jrun_fail(r, "object of type '%s' has no len()", tn_jval_kind(a[0]));
    if (a[0].type == TN_J_STR && r->mark != 0) { /* marks are not the user's */
        const char *p = a[0].as.s->p, *end = p + a[0].as.s->size;
        TN_TRY(tn_jrun_burn_bytes(r, a[0].as.s->size));
        while (p < end)
            n -= tn_jutf_next(&p) == r->mark;
    }
    *out = tn_jint(n);
    return true;
}

static bool f_string(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    return tn_jval_soft(r, a[0], out);
}

static bool f_safe(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    TN_TRY(tn_jval_soft(r, a[0], out));
    out->safe = 1;
    return true;
}

static bool f_escape(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    return tn_jval_escape(r, a[0], out);
}

static bool f_forceescape(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    TN_TRY(tn_jval_str(r, a[0], out));
    return tn_jval_escape(r, *out, out);
}

/* -------------------------------------------------------------------------------- numbers */

static bool f_abs(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    if (!tn_jval_is_number(a[0]))
        return tn_jrun_fail(r, "bad operand type for abs(): '%s'", tn_jval_kind(a[0]));
    if (a[0].type == TN_J_FLOAT)
        *out = tn_jfloat(fabs(a[0].as.f));
    else if (tn_jval_int(a[0]) < 0)
        return tn_jval_signed(r, true, a[0], out);
    else
        *out = tn_jint(tn_jval_int(a[0]));
    return true;
}

/* "42.7" is 42; what is no number at all is the default. */
static bool int_of_text(tn_jrun *r, tn_jval text, int64_t base, tn_jval fallback, tn_jval *out)
{
    int64_t i;
    double f;
    const tn_jstr *s = text.as.s;
    tn_jparse got = TN_JPARSE_BAD;
    if (base >= 0 && base <= 36)
        got = tn_jint_parse(s->p, s->size, (int)base, &i);
    if (got == TN_JPARSE_HUGE)
        return tn_jrun_fail(r, "integer overflow; expected a value of 64 bits");
    if (got == TN_JPARSE_OK) {
        *out = tn_jint(i);
        return true;
    }
    if (tn_jfloat_parse(s->p, s->size, &f) && isfinite(f)) {
        TN_TRY(tn_jint_of_float(r, f, &i));
        *out = tn_jint(i);
        return true;
    }
    *out = fallback;
    return true;
}

static bool f_int(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    int64_t base = 10, i;
    tn_jval fallback = a[1].type == TN_J_MISSING ? tn_jint(0) : a[1];
    (void)all;
    if (a[0].type == TN_J_UNDEF)
        return tn_jundef_fail(r, a[0]);
    if (a[0].type == TN_J_STR) {
        TN_TRY(tn_jarg_int(r, "the base", a[2], 10, &base));
        return int_of_text(r, a[0], base, fallback, out);
    }
    *out = fallback;
    if (a[0].type == TN_J_FLOAT && !isnan(a[0].as.f)) {
        TN_TRY(tn_jint_of_float(r, a[0].as.f, &i));
        *out = tn_jint(i);
    } else if (tn_jval_is_int(a[0])) {
        *out = tn_jint(tn_jval_int(a[0]));
    }
    return true;
}

static bool f_float(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    double f;
    (void)all;
    if (a[0].type == TN_J_UNDEF)
        return tn_jundef_fail(r, a[0]);
    *out = a[1].type == TN_J_MISSING ? tn_jfloat(0) : a[1];
    if (a[0].type == TN_J_STR && tn_jfloat_parse(a[0].as.s->p, a[0].as.s->size, &f))
        *out = tn_jfloat(f);
    else if (tn_jval_is_number(a[0]))
        *out = tn_jfloat(tn_jval_float(a[0]));
    return true;
}

/* func(value * 10**precision) / 10**precision, worked out as Python would. */
static bool round_to(tn_jrun *r, tn_jval v, int64_t precision, bool up, tn_jval *out)
{
    tn_jval ten, scaled;
    int64_t i;
    TN_TRY(tn_jval_binary(r, TN_JOP_POW, tn_jint(10), tn_jint(precision), &ten));
    TN_TRY(tn_jval_binary(r, TN_JOP_MUL, v, ten, &scaled));
    if (scaled.type == TN_J_FLOAT) {
        TN_TRY(tn_jint_of_float(r, up ? ceil(scaled.as.f) : floor(scaled.as.f), &i));
        scaled = tn_jint(i);
    }
    return tn_jval_binary(r, TN_JOP_DIV, scaled, ten, out);
}

static bool f_round(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    int64_t precision;
    (void)all;
    bool common = a[2].type == TN_J_MISSING || tn_jstr_is(a[2], "common");
    bool up = tn_jstr_is(a[2], "ceil");
    if (!common && !up && !tn_jstr_is(a[2], "floor"))
        return tn_jrun_fail(r, "method must be common, ceil or floor");
    TN_TRY(tn_jarg_int(r, "the precision", a[1], 0, &precision));
    if (!tn_jval_is_number(a[0])) {
        if (a[0].type == TN_J_UNDEF && !common)
            return tn_jundef_fail(r, a[0]);
        return tn_jrun_fail(r, "type %s doesn't define __round__ method", tn_jval_kind(a[0]));
    }
    return common ? tn_jval_round(r, a[0], precision, out)
                  : round_to(r, a[0], precision, up, out);
}

static bool f_filesizeformat(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    static const char letters[] = "kMGTPEZY";
    bool binary = tn_jarg_flag(a[1]);
    double base = binary ? 1024 : 1000, bytes = 0, unit = base;
    tn_jtext t;
    (void)all;
    if (a[0].type == TN_J_UNDEF)
        return tn_jundef_fail(r, a[0]);
    bool ok = tn_jval_is_number(a[0]);
    if (ok)
        bytes = tn_jval_float(a[0]);
    else if (a[0].type == TN_J_STR)
        ok = tn_jfloat_parse(a[0].as.s->p, a[0].as.s->size, &bytes);
    if (!ok)
        return tn_jrun_fail(r, "could not convert '%s' to float", tn_jval_kind(a[0]));
    tn_jtext_open(&t, r, 0);
    if (bytes == 1) {
        tn_jtext_puts(&t, "1 Byte");
    } else if (bytes < base) {
        char text[40];
        snprintf(text, sizeof text, "%lld Bytes", (long long)bytes);
        tn_jtext_puts(&t, text);
    } else {
        int i = 0;
        for (unit = base * base; bytes >= unit && i < 7; i++)
            unit *= base;
        TN_TRY(tn_jfloat_put(&t, base * bytes / unit, 'f', 1, false));
        tn_jtext_putc(&t, ' ');
        tn_jtext_putc(&t, binary && i == 0 ? 'K' : letters[i]);
        tn_jtext_puts(&t, binary ? "iB" : "B");
    }
    return tn_jtext_close(&t, out);
}

/* ---------------------------------------------------------------------------- JSON and format */

static bool indent_of(tn_jrun *r, tn_jval v, tn_jval *out)
{
    *out = v;
    if (v.type == TN_J_MISSING || v.type == TN_J_NONE || v.type == TN_J_STR) {
        out->type = v.type == TN_J_STR ? TN_J_STR : TN_J_NONE;
        return true;
    }
    int64_t n;
    tn_jval blank;
    TN_TRY(tn_jval_index(r, v, "indent", &n) && tn_jstr_text(r, " ", &blank));
    return tn_jval_binary(r, TN_JOP_MUL, blank, tn_jint(n), out);
}

static bool separators_of(tn_jrun *r, tn_jval v, tn_jdumps *how)
{
    tn_jval pair;
    if (v.type == TN_J_MISSING || v.type == TN_J_NONE)
        return tn_jstr_text(r, how->indent.type == TN_J_STR ? "," : ", ", &how->item_sep)
               && tn_jstr_text(r, ": ", &how->key_sep);
    TN_TRY(tn_jval_items(r, v, TN_J_LIST, &pair));
    if (pair.as.l->n != 2)
        return tn_jrun_fail(r, "separators has %u values; expected 2", pair.as.l->n);
    how->item_sep = pair.as.l->at[0];
    how->key_sep = pair.as.l->at[1];
    return tn_jarg_text(r, "a separator", how->item_sep)
           && tn_jarg_text(r, "a separator", how->key_sep);
}

/* transformers' own, which escapes nothing for HTML and takes ensure_ascii first. */
static bool f_tojson(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    tn_jdumps how = {.ascii = tn_jarg_flag(a[1]), .sort_keys = tn_jarg_flag(a[4])};
    (void)all;
    TN_TRY(indent_of(r, a[2], &how.indent) && separators_of(r, a[3], &how));
    return tn_jval_dumps(r, a[0], &how, out);
}

static bool f_format(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    tn_jval format, values;
    if (all->n > 0 && all->nkw > 0)
        return tn_jrun_fail(r, "can't handle positional and keyword arguments at the same time");
    TN_TRY(tn_jval_soft(r, a[0], &format));
    if (all->nkw > 0) {
        tn_jdict *d = tn_jdict_new(r, all->nkw);
        if (d == NULL)
            return false;
        for (uint32_t i = 0; i < all->nkw; i++)
            TN_TRY(tn_jdict_set(r, d, all->kw[i].key, all->kw[i].val));
        values = (tn_jval){.type = TN_J_DICT, .as.d = d};
    } else {
        tn_jval *at = tn_jlist_new(r, TN_J_TUPLE, all->n, &values);
        if (at == NULL)
            return false;
        for (uint32_t i = 0; i < all->n; i++)
            at[i] = all->at[i];
    }
    return tn_jval_percent(r, format, values, out);
}

static bool f_pprint(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    return tn_jval_pprint(r, a[0], out);
}

const tn_jbuiltin tn_jfilter_value[] = {
    {.name = "abs", .params = "/x", .fn = f_abs},
    {.name = "count", .params = "/obj", .fn = f_length},
    {.name = "d", .params = "value default_value? boolean?", .fn = f_default},
    {.name = "default", .params = "value default_value? boolean?", .fn = f_default},
    {.name = "e", .params = "/s", .fn = f_escape},
    {.name = "escape", .params = "/s", .fn = f_escape},
    {.name = "filesizeformat", .params = "value binary?", .fn = f_filesizeformat},
    {.name = "float", .params = "value default?", .fn = f_float},
    {.name = "forceescape", .params = "value", .fn = f_forceescape},
    {.name = "format", .params = "value *", .fn = f_format},
    {.name = "int", .params = "value default? base?", .fn = f_int},
    {.name = "length", .params = "/obj", .fn = f_length},
    {.name = "pprint", .params = "value", .fn = f_pprint},
    {.name = "round", .params = "value precision? method?", .fn = f_round},
    {.name = "safe", .params = "value", .fn = f_safe},
    {.name = "string", .params = "/s", .fn = f_string},
    {.name = "tojson", .params = "x ensure_ascii? indent? separators? sort_keys?",
     .fn = f_tojson},
};
const size_t tn_jfilter_value_count = sizeof tn_jfilter_value / sizeof tn_jfilter_value[0];

const tn_jbuiltin *tn_jfilter_find(const char *name, size_t size)
{
    const struct {
        const tn_jbuiltin *table;
        size_t n;
    } tables[] = {
        {tn_jfilter_value, tn_jfilter_value_count},
        {tn_jfilter_text, tn_jfilter_text_count},
        {tn_jfilter_seq, tn_jfilter_seq_count},
        {tn_jfilter_lazy, tn_jfilter_lazy_count},
        {tn_jfilter_layout, tn_jfilter_layout_count},
    };
    for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++) {
        const tn_jbuiltin *fn = tn_jbuiltin_find(tables[i].table, tables[i].n, name, size);
        if (fn != NULL)
            return fn;
    }
    return NULL;
}
