/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_format.c - "{} {name.attr[0]!r:>8}".format(...), through the sandbox's lookups. */
#include "jinja_strings.h"

#include <string.h>

#define SPEC_DEPTH 2      /* a specification may hold fields, those may not */

typedef struct formatter {
    tn_jrun *r;
    const tn_jargs *args;
    const tn_jval *map;   /* format_map's mapping, or NULL */
    int64_t next;         /* automatic number */
    int numbering;        /* 0 not yet, 1 automatic, 2 by hand */
    bool escaping;        /* the format is markup */
} formatter;

/* One replacement field, cut up. */
typedef struct field {
    const char *name, *spec;
    size_t name_size, spec_size;
    char conversion;      /* 0: none */
} field;

static bool is_digits(const char *p, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (p[i] < '0' || p[i] > '9')
            return false;
    return size > 0;
}

static bool number_field(formatter *f, const char *p, size_t size, tn_jval *out)
{
    int64_t i = f->next;
    int numbering = size == 0 ? 1 : 2;
    if (f->numbering != 0 && f->numbering != numbering)
        return tn_jrun_fail(f->r, "cannot mix automatic field numbering and numbers by hand");
    f->numbering = numbering;
    if (size == 0)
        f->next++;
    else if (tn_jint_parse(p, size, 10, &i) != TN_JPARSE_OK)
        return tn_jrun_fail(f->r, "too many decimal digits in format string");
    if (f->map != NULL || i >= f->args->n)
        return tn_jrun_fail(f->r, "Replacement index %lld out of range for positional args tuple",
                            (long long)i);
    *out = f->args->at[i];
    return true;
}

static bool first_value(formatter *f, const char *p, size_t size, tn_jval *out)
{
    tn_jval key;
    if (size == 0 || is_digits(p, size))
        return number_field(f, p, size, out);
    TN_TRY(tn_jstr_copy(f->r, p, size, &key));
    if (f->map != NULL) {
        TN_TRY(tn_jval_getitem(f->r, *f->map, key, out));
        if (out->type != TN_J_UNDEF)
            return true;
    } else {
        for (uint32_t i = 0; i < f->args->nkw; i++) {
            if (tn_jstr_same(f->args->kw[i].key.as.s, p, size)) {
                *out = f->args->kw[i].val;
                return true;
            }
        }
    }
    return tn_jrun_fail(f->r, "format() has no argument named '%.*s'",
                        (int)(size > 64 ? 64 : size), p);
}

/* name, then any of .attr and [key]. */
static bool field_value(formatter *f, const field *d, tn_jval *out)
{
    const char *p = d->name, *end = p + d->name_size;
    size_t n = 0;
    while (p + n < end && p[n] != '.' && p[n] != '[')
        n++;
    TN_TRY(first_value(f, p, n, out));
    for (p += n; p < end; p += n) {
        tn_jval key;
        bool attr = *p++ == '.';
        for (n = 0; p + n < end && (attr ? p[n] != '.' && p[n] != '[' : p[n] != ']');)
            n++;
        if (n == 0)
            return tn_jrun_fail(f->r, "Empty attribute in format string");
        if (!attr && p + n == end)
            return tn_jrun_fail(f->r, "Missing ']' in format string");
        int64_t i;
        if (!attr && is_digits(p, n) && tn_jint_parse(p, n, 10, &i) == TN_JPARSE_OK)
            key = tn_jint(i);
        else
            TN_TRY(tn_jstr_copy(f->r, p, n, &key));
        TN_TRY(attr ? tn_jval_getattr(f->r, *out, key, out)
                    : tn_jval_getitem(f->r, *out, key, out));
        n += !attr;
        if (!attr && p + n < end && p[n] != '.' && p[n] != '[')
            return tn_jrun_fail(f->r, "Only '.' or '[' may follow ']' in format field specifier");
    }
    return true;
}

/* The field that begins behind its brace; *p moves behind the closing one. */
static bool cut_field(tn_jrun *r, const char **p, const char *end, field *d)
{
    const char *at = *p;
    uint32_t open = 1;
    *d = (field){.name = at};
    bool bracket = false;
    while (at < end && ((*at != ':' && *at != '!') || bracket)) {
        if (*at == '{')
            return tn_jrun_fail(r, "unexpected '{' in field name");
        if (*at == '}' && !bracket)
            break;
        bracket = *at == '[' || (bracket && *at != ']');
        at++;
    }
    d->name_size = (size_t)(at - d->name);
    if (at < end && *at == '!') {
        if (end - at < 2)
            return tn_jrun_fail(r, "end of string while looking for conversion specifier");
        d->conversion = at[1];
        at += 2;
        if (at < end && *at != ':' && *at != '}')
            return tn_jrun_fail(r, "expected ':' after conversion specifier");
    }
    if (at < end && *at == ':')
        at++;
    d->spec = at;
    for (; at < end; at++) {
        open += *at == '{';
        open -= *at == '}';
        if (open == 0)
            break;
    }
    if (at >= end)
        return tn_jrun_fail(r, "expected '}' before end of string");
    d->spec_size = (size_t)(at - d->spec);
    *p = at + 1;
    return true;
}

static bool convert(formatter *f, char kind, tn_jval *v)
{
    tn_jtext t;
    switch (kind) {
    case 0: return true;
    case 's': return tn_jval_str(f->r, *v, v);
    case 'r':
        tn_jtext_open(&t, f->r, 0);
        return tn_jval_repr(f->r, *v, &t) && tn_jtext_close(&t, v);
    case 'a': return tn_jval_ascii(f->r, *v, v);
    default: return tn_jrun_fail(f->r, "Unknown conversion specifier %c", kind > ' ' ? kind : '?');
    }
}

static bool put_all(formatter *f, const char *p, size_t size, int depth, tn_jtext *t);

static bool put_value(formatter *f, tn_jval v, const char *spec, size_t size, tn_jtext *t)
{
    tn_jtext plain;
    tn_jval text;
    if (!f->escaping)
        return tn_jval_format_spec(f->r, v, spec, size, t);
    if (v.type == TN_J_STR && v.safe) {
        if (size > 0)
            return tn_jrun_fail(f->r, "Unsupported format specification for Markup.");
        tn_jtext_put_str(t, v);
        return true;
    }
    tn_jtext_open(&plain, f->r, 0);
    TN_TRY(tn_jval_format_spec(f->r, v, spec, size, &plain) && tn_jtext_close(&plain, &text));
    TN_TRY(tn_jval_escape(f->r, text, &text));
    tn_jtext_put_str(t, text);
    return true;
}

static bool put_field(formatter *f, const field *d, int depth, tn_jtext *t)
{
    tn_jval v, spec;
    tn_jtext made;
    TN_TRY(field_value(f, d, &v) && convert(f, d->conversion, &v));
    if (memchr(d->spec, '{', d->spec_size) == NULL && memchr(d->spec, '}', d->spec_size) == NULL)
        return put_value(f, v, d->spec, d->spec_size, t);
    tn_jtext_open(&made, f->r, 0);
    TN_TRY(put_all(f, d->spec, d->spec_size, depth - 1, &made) && tn_jtext_close(&made, &spec));
    return put_value(f, v, spec.as.s->p, spec.as.s->size, t);
}

static bool put_all(formatter *f, const char *p, size_t size, int depth, tn_jtext *t)
{
    const char *end = p + size;
    if (depth == 0)
        return tn_jrun_fail(f->r, "Max string recursion exceeded");
    while (p < end && !t->failed) {
        size_t plain = 0;
        while (p + plain < end && p[plain] != '{' && p[plain] != '}')
            plain++;
        tn_jtext_put(t, p, plain);
        p += plain;
        if (p == end)
            break;
        char brace = *p++;
        if (p < end && *p == brace) {
            tn_jtext_putc(t, brace);
            p++;
            continue;
        }
        if (brace == '}' || p == end)
            return tn_jrun_fail(f->r, "Single '%c' encountered in format string", brace);
        field d;
        TN_TRY(tn_jrun_burn(f->r, TN_JSTEP_NODE) && cut_field(f->r, &p, end, &d));
        TN_TRY(put_field(f, &d, depth, t));
    }
    return !t->failed;
}

bool tn_jval_format(tn_jrun *r, tn_jval format, const tn_jargs *args, bool map, tn_jval *out)
{
    const tn_jstr *s = format.as.s;
    tn_jtext t;
    formatter f = {.r = r, .args = args, .map = map ? &args->at[0] : NULL, .escaping = format.safe};
    tn_jtext_open(&t, r, 0);
    TN_TRY(tn_jrun_burn_bytes(r, s->size));
    TN_TRY(put_all(&f, s->p, s->size, SPEC_DEPTH, &t) && tn_jtext_close(&t, out));
    out->safe = format.safe;
    return true;
}
