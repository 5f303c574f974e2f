/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_globals.c - range, namespace, dict, joiner, raise_exception and strftime_now. */
#include "jinja_globals.h"

#include "jinja_call.h"
#include "jinja_methods.h"

#include <stdlib.h>
#include <locale.h>
#include <string.h>
#include <time.h>

#define TIME_FORMAT_MAX 1024u
#define TIME_WIDTH_MAX 256

/* ---------------------------------------------------------------------------------- range */

static bool range_length(tn_jrun *r, tn_jrange *g)
{
    if (g->step == 0)
        return tn_jrun_fail(r, "range() arg 3 must not be zero");
    __int128 span = g->step > 0 ? (__int128)g->stop - g->start : (__int128)g->start - g->stop;
    __int128 step = g->step > 0 ? (__int128)g->step : -(__int128)g->step;
    __int128 n = span > 0 ? (span - 1) / step + 1 : 0;
    if (n > TN_JINJA_RANGE_MAX)
        return tn_jrun_fail(r, "range too big; expected at most %d items", TN_JINJA_RANGE_MAX);
    g->n = (int64_t)n;
    return true;
}

static bool range(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    tn_jrange *g = tn_jrun_take(r, sizeof *g);
    if (g == NULL)
        return false;
    g->step = 1;
    if (all->n == 1) {
        TN_TRY(tn_jval_index(r, a[0], "range()'s argument", &g->stop));
    } else {
        TN_TRY(tn_jval_index(r, a[0], "range()'s argument", &g->start));
        TN_TRY(tn_jval_index(r, a[1], "range()'s argument", &g->stop));
        if (all->n == 3)
            TN_TRY(tn_jval_index(r, a[2], "range()'s argument", &g->step));
    }
    TN_TRY(range_length(r, g));
    *out = (tn_jval){.type = TN_J_RANGE, .as.r = g};
    return true;
}

/* -------------------------------------------------------------------------------- objects */

static bool make_dict(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    tn_jdict *d;
    (void)a;
    TN_TRY(tn_jdict_make(r, all, &d));
    *out = (tn_jval){.type = TN_J_DICT, .as.d = d};
    return true;
}

static bool make_namespace(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    TN_TRY(make_dict(r, a, all, out));
    out->type = TN_J_SPACE;
    return true;
}

static bool make_joiner(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    tn_jjoiner *j = tn_jrun_take(r, sizeof *j);
    if (j == NULL)
        return false;
    j->sep = a[0];
    if (j->sep.type == TN_J_MISSING)
        TN_TRY(tn_jstr_text(r, ", ", &j->sep));
    *out = (tn_jval){.type = TN_J_JOINER, .as.joiner = j};
    return true;
}

static bool raise_exception(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    tn_jval text;
    (void)all;
    (void)out;
    TN_TRY(tn_jval_str(r, a[0], &text));
    uint32_t size = text.as.s->size;
    return tn_jrun_fail(r, "%.*s", (int)(size > 700 ? 700 : size), text.as.s->p);
}

/* ----------------------------------------------------------------------------------- time */

/* One conversion of strftime at p, with its flags, width and modifier; 0: there is none. */
static size_t conversion(const char *p, size_t left, long *width)
{
    size_t n = 1;
    n += strspn(p + n, "_-0^#");
    *width = 0;
    for (; n < left && p[n] >= '0' && p[n] <= '9'; n++)
        *width = *width > TIME_WIDTH_MAX ? *width : *width * 10 + (p[n] - '0');
    n += n < left && (p[n] == 'E' || p[n] == 'O');
    return n < left && strchr("aAbBcCdDeFgGhHIjklmMnpPrRsStTuUVwWxXyYzZ%+f", p[n]) != NULL
                   && p[n] != 0
               ? n + 1
               : 0;
}

/* Microseconds and the zone are Python's to fill in: the time has neither. */
static bool put_conversion(tn_jtext *t, const char *p, size_t n, const struct tm *tm, locale_t c)
{
    char spec[64], text[TIME_WIDTH_MAX + 128];
    char kind = p[n - 1];
    if (kind == 'z' || kind == 'Z')
        return true;
    if (n >= sizeof spec)
        return tn_jrun_fail(t->r, "a time format with a conversion that is too long");
    if (kind == 'f') {
        tn_jtext_puts(t, "000000");
        return true;
    }
    memcpy(spec, p, n);
    spec[n] = 0;
    tn_jtext_put(t, text, strftime_l(text, sizeof text, spec, tm, c));
    return true;
}

static bool put_time(tn_jtext *t, const char *p, size_t size, const struct tm *tm, locale_t c)
{
    const char *end = p + size;
    while (p < end && !t->failed) {
        const char *next = memchr(p, '%', (size_t)(end - p));
        if (next == NULL) {
            tn_jtext_put(t, p, (size_t)(end - p));
            break;
        }
        tn_jtext_put(t, p, (size_t)(next - p));
        long width = 0;
        size_t n = conversion(next, (size_t)(end - next), &width);
        if (width > TIME_WIDTH_MAX)
            return tn_jrun_fail(t->r, "a time format with a width of %ld; expected at most %d",
                                width, TIME_WIDTH_MAX);
        if (n == 0) { /* left as it stands, as glibc leaves it */
            tn_jtext_putc(t, '%');
            p = next + 1;
            continue;
        }
        TN_TRY(put_conversion(t, next, n, tm, c));
        p = next + n;
    }
    return true;
}

bool tn_jtime_format(tn_jrun *r, tn_jval format, tn_jval *out)
{
    if (format.type != TN_J_STR)
        return tn_jrun_fail(r, "strftime() argument 1 must be str, not %s", tn_jval_kind(format));
    const tn_jstr *s = format.as.s;
    if (s->size > TIME_FORMAT_MAX)
        return tn_jrun_fail(r, "a time format of %u bytes; expected at most %u", s->size,
                            TIME_FORMAT_MAX);
    char text[TIME_FORMAT_MAX + 1]; /* terminated, so that looking ahead is safe */
    if (s->size > 0)
        memcpy(text, s->p, s->size);
    text[s->size] = 0;
    time_t now = (time_t)r->now;
    struct tm tm;
    if (localtime_r(&now, &tm) == NULL)
        return tn_jrun_fail(r, "the clock has no date");
    locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    if (c == (locale_t)0)
        return tn_jrun_fail(r, "no memory for a date");
    tn_jtext t;
    tn_jtext_open(&t, r, 0);
    bool ok = put_time(&t, text, s->size, &tm, c);
    freelocale(c);
    return ok && tn_jtext_close(&t, out);
}

static bool strftime_now(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    return tn_jtime_format(r, a[0], out);
}

/* --------------------------------------------------------------------------------- table */

static const tn_jbuiltin functions[] = {
    {.name = "dict", .params = "*", .fn = make_dict},
    {.name = "joiner", .params = "sep?", .fn = make_joiner},
    {.name = "namespace", .params = "*", .fn = make_namespace},
    {.name = "raise_exception", .params = "message", .fn = raise_exception},
    {.name = "range", .params = "/start /stop? /step?", .fn = range},
    {.name = "strftime_now", .params = "format", .fn = strftime_now},
};

#define NFUNCTION (sizeof functions / sizeof functions[0])

const tn_jbuiltin *tn_jglobal_find(const char *name, size_t size)
{
    return tn_jbuiltin_find(functions, NFUNCTION, name, size);
}

bool tn_jglobals_set(tn_jrun *r)
{
    for (size_t i = 0; i < NFUNCTION; i++) {
        tn_jval key;
        TN_TRY(tn_jstr_text(r, functions[i].name, &key));
        TN_TRY(tn_jdict_set(r, r->vars, key,
                            (tn_jval){.type = TN_J_FUNC, .as.f1 = &functions[i]}));
    }
    return true;
}
