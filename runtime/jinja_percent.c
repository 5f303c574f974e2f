/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_percent.c - "%s is %05.1f" % values. */
#include "jinja_strings.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct percent {
    tn_jrun *r;
    const char *p, *end;
    const tn_jval *at;       /* values by position */
    uint32_t n, used;
    const tn_jval *map;      /* values by name, or NULL */
    bool by_name;            /* the current conversion has a name */
    bool escaping;
    tn_jtext t;
} percent;

typedef struct conversion {
    bool minus, plus, blank, alt, zero;
    int64_t width, precision;    /* precision -1: none */
    char kind;
    tn_jval named;
} conversion;

static bool next_value(percent *f, const conversion *c, tn_jval *out)
{
    if (f->by_name) {
        *out = c->named;
        return true;
    }
    if (f->used >= f->n)
        return tn_jrun_fail(f->r, "not enough arguments for format string");
    *out = f->at[f->used++];
    return true;
}

static bool more(percent *f)
{
    return f->p < f->end || tn_jrun_fail(f->r, "incomplete format");
}

/* (name), whose parentheses may nest. */
static bool read_name(percent *f, conversion *c)
{
    if (*f->p != '(')
        return true;
    if (f->map == NULL)
        return tn_jrun_fail(f->r, "format requires a mapping");
    const char *from = ++f->p;
    for (uint32_t open = 1; f->p < f->end; f->p++) {
        open += *f->p == '(';
        open -= *f->p == ')';
        if (open == 0)
            break;
    }
    if (f->p == f->end)
        return tn_jrun_fail(f->r, "incomplete format key");
    size_t size = (size_t)(f->p++ - from);
    tn_jval key;
    TN_TRY(tn_jstr_copy(f->r, from, size, &key));
    c->named = (tn_jval){.type = TN_J_MISSING};
    if (f->map->type == TN_J_DICT)
        TN_TRY(tn_jdict_get(f->r, f->map->as.d, key, &c->named));
    if (c->named.type == TN_J_MISSING)
        return tn_jrun_fail(f->r, "the format's mapping has no key '%.*s'",
                            (int)(size > 64 ? 64 : size), from);
    f->by_name = true;
    return more(f);
}

static bool read_flags(percent *f, conversion *c)
{
    for (;; f->p++) {
        TN_TRY(more(f));
        switch (*f->p) {
        case '-': c->minus = true; break;
        case '+': c->plus = true; break;
        case ' ': c->blank = true; break;
        case '#': c->alt = true; break;
        case '0': c->zero = true; break;
        default: return true;
        }
    }
}

static bool read_number(percent *f, const conversion *c, int64_t *out)
{
    if (*f->p == '*') {
        tn_jval v;
        TN_TRY(next_value(f, c, &v));
        if (!tn_jval_is_int(v))
            return tn_jrun_fail(f->r, "* wants int");
        *out = tn_jval_int(v);
        f->p++;
        return more(f);
    }
    *out = 0;
    for (; f->p < f->end && *f->p >= '0' && *f->p <= '9'; f->p++)
        if (__builtin_mul_overflow(*out, 10, out)
            || __builtin_add_overflow(*out, *f->p - '0', out))
            return tn_jrun_fail(f->r, "width or precision too big");
    return more(f);
}

static bool read_conversion(percent *f, conversion *c)
{
    *c = (conversion){.precision = -1};
    f->by_name = false;
    TN_TRY(more(f) && read_name(f, c) && read_flags(f, c) && read_number(f, c, &c->width));
    if (c->width < 0) {
        c->minus = true;
        c->width = c->width == INT64_MIN ? INT64_MAX : -c->width;
    }
    if (*f->p == '.') {
        f->p++;
        TN_TRY(more(f) && read_number(f, c, &c->precision));
        c->precision = c->precision < 0 ? 0 : c->precision;
    }
    if (*f->p == 'h' || *f->p == 'l' || *f->p == 'L') {
        f->p++;
        TN_TRY(more(f));
    }
    c->kind = *f->p++;
    return true;
}

/* -------------------------------------------------------------------------------- writing */

static bool put_padded(percent *f, const conversion *c, const char *p, size_t size, uint64_t chars)
{
    uint64_t room = (uint64_t)c->width > chars ? (uint64_t)c->width - chars : 0;
    if (!c->minus)
        tn_jtext_fill(&f->t, ' ', room);
    tn_jtext_put(&f->t, p, size);
    if (c->minus)
        tn_jtext_fill(&f->t, ' ', room);
    return !f->t.failed;
}

/* Zeros go between sign and digits. */
static bool put_number(percent *f, const conversion *c, bool negative, const char *prefix,
                       const char *digits, size_t size, uint64_t least)
{
    char sign = negative ? '-' : c->plus ? '+' : c->blank ? ' ' : 0;
    uint64_t zeros = least > size ? least - size : 0;
    uint64_t total = (sign != 0) + strlen(prefix) + size + zeros;
    uint64_t room = (uint64_t)c->width > total ? (uint64_t)c->width - total : 0;
    if (c->zero && !c->minus) {
        zeros += room;
        room = 0;
    }
    if (!c->minus)
        tn_jtext_fill(&f->t, ' ', room);
    if (sign != 0)
        tn_jtext_putc(&f->t, sign);
    tn_jtext_puts(&f->t, prefix);
    tn_jtext_fill(&f->t, '0', zeros);
    tn_jtext_put(&f->t, digits, size);
    if (c->minus)
        tn_jtext_fill(&f->t, ' ', room);
    return !f->t.failed;
}

static bool put_int(percent *f, const conversion *c, tn_jval v)
{
    char digits[400];
    int64_t i = 0;
    bool based = c->kind == 'x' || c->kind == 'X' || c->kind == 'o';
    if (v.type == TN_J_FLOAT && !based) {
        /* However large: printed from the float itself. */
        if (!isfinite(v.as.f))
            return tn_jrun_fail(f->r, "cannot convert float infinity or NaN to integer");
        snprintf(digits, sizeof digits, "%.0f", trunc(fabs(v.as.f)));
        return put_number(f, c, v.as.f <= -1, "", digits, strlen(digits),
                          c->precision > 0 ? (uint64_t)c->precision : 0);
    }
    if (v.type == TN_J_UNDEF && !based)
        return tn_jundef_fail(f->r, v);
    else if (!tn_jval_is_int(v))
        return tn_jrun_fail(f->r, "%%%c format: %s is required, not %s", c->kind,
                            based ? "an integer" : "a real number", tn_jval_kind(v));
    else
        i = tn_jval_int(v);
    uint64_t u = i < 0 ? 0 - (uint64_t)i : (uint64_t)i;
    const char *prefix = "";
    switch (c->kind) {
    case 'x': snprintf(digits, sizeof digits, "%" PRIx64, u); prefix = "0x"; break;
    case 'X': snprintf(digits, sizeof digits, "%" PRIX64, u); prefix = "0X"; break;
    case 'o': snprintf(digits, sizeof digits, "%" PRIo64, u); prefix = "0o"; break;
    default: snprintf(digits, sizeof digits, "%" PRIu64, u);
    }
    return put_number(f, c, i < 0, c->alt ? prefix : "", digits, strlen(digits),
                      c->precision > 0 ? (uint64_t)c->precision : 0);
}

static bool put_float(percent *f, const conversion *c, tn_jval v)
{
    tn_jtext digits;
    tn_jval text;
    if (v.type == TN_J_UNDEF)
        return tn_jundef_fail(f->r, v);
    if (!tn_jval_is_number(v))
        return tn_jrun_fail(f->r, "must be real number, not %s", tn_jval_kind(v));
    double d = tn_jval_float(v);
    tn_jtext_open(&digits, f->r, 0);
    TN_TRY(tn_jfloat_put(&digits, d, c->kind, c->precision < 0 ? 6 : c->precision, c->alt));
    TN_TRY(tn_jtext_close(&digits, &text));
    return put_number(f, c, signbit(d) && !isnan(d), "", text.as.s->p, text.as.s->size, 0);
}

static bool put_char(percent *f, const conversion *c, tn_jval v)
{
    char buf[4];
    if (v.type == TN_J_STR && v.as.s->chars == 1)
        return put_padded(f, c, v.as.s->p, v.as.s->size, 1);
    if (!tn_jval_is_int(v))
        return tn_jrun_fail(f->r, "%%c requires int or char");
    int64_t i = tn_jval_int(v);
    if (i < 0 || i >= 0x110000 || (i >= 0xd800 && i <= 0xdfff))
        return tn_jrun_fail(f->r, "%%c arg not in range(0x110000)");
    size_t n = tn_jutf_encode((uint32_t)i, buf);
    return put_padded(f, c, buf, n, 1);
}

static bool put_text(percent *f, const conversion *c, tn_jval v)
{
    tn_jval text;
    tn_jtext t;
    if (c->kind == 's') {
        TN_TRY(tn_jval_soft(f->r, v, &text));
    } else if (c->kind == 'a') {
        TN_TRY(tn_jval_ascii(f->r, v, &text));
    } else {
        tn_jtext_open(&t, f->r, 0);
        TN_TRY(tn_jval_repr(f->r, v, &t) && tn_jtext_close(&t, &text));
    }
    if (f->escaping)
        TN_TRY(tn_jval_escape(f->r, text, &text));
    const tn_jstr *s = text.as.s;
    size_t size = s->size;
    uint64_t chars = s->chars;
    if (c->precision >= 0 && (uint64_t)c->precision < chars) {
        chars = (uint64_t)c->precision;
        size = tn_jutf_skip(s->p, s->size, (size_t)chars);
    }
    return put_padded(f, c, s->p, size, chars);
}

static bool put_one(percent *f)
{
    conversion c;
    tn_jval v;
    TN_TRY(read_conversion(f, &c));
    if (c.kind == '%') {
        tn_jtext_putc(&f->t, '%');
        return true;
    }
    if (strchr("sradiuoxXeEfFgGc", c.kind) == NULL || c.kind == 0)
        return tn_jrun_fail(f->r, "unsupported format character '%c'",
                            c.kind > ' ' && c.kind < 0x7f ? c.kind : '?');
    TN_TRY(next_value(f, &c, &v));
    switch (c.kind) {
    case 's':
    case 'r':
    case 'a': return put_text(f, &c, v);
    case 'c': return put_char(f, &c, v);
    case 'd':
    case 'i':
    case 'u':
    case 'o':
    case 'x':
    case 'X': return put_int(f, &c, v);
    default: return put_float(f, &c, v);
    }
}

bool tn_jval_percent(tn_jrun *r, tn_jval format, tn_jval args, tn_jval *out)
{
    const tn_jstr *s = format.as.s;
    percent f = {.r = r, .p = s->p, .end = s->p + s->size, .escaping = format.safe};
    if (args.type == TN_J_TUPLE) {
        f.at = args.as.l->at;
        f.n = args.as.l->n;
    } else {
        f.at = &args;
        f.n = 1;
        if (args.type == TN_J_DICT || args.type == TN_J_LIST || args.type == TN_J_RANGE
            || args.type == TN_J_UNDEF)
            f.map = &args;
    }
    tn_jtext_open(&f.t, r, 0);
    TN_TRY(tn_jrun_burn_bytes(r, s->size));
    while (f.p < f.end && !f.t.failed) {
        const char *at = memchr(f.p, '%', (size_t)(f.end - f.p));
        size_t plain = (size_t)((at != NULL ? at : f.end) - f.p);
        tn_jtext_put(&f.t, f.p, plain);
        f.p += plain;
        if (at == NULL)
            break;
        f.p++;
        TN_TRY(tn_jrun_burn(r, TN_JSTEP_NODE) && put_one(&f));
    }
    if (f.used < f.n && f.map == NULL)
        return tn_jrun_fail(r, "not all arguments converted during string formatting");
    TN_TRY(tn_jtext_close(&f.t, out));
    out->safe = format.safe;
    return true;
}
