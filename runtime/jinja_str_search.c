/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_str_search.c - str methods that look for a text inside another. */
#include "jinja_strings.h"

#include <string.h>

#define SCRATCH_FROM 32u    /* needles shorter than this are searched backwards plainly */

bool tn_jarg_text(tn_jrun *r, const char *what, tn_jval v)
{
    if (v.type == TN_J_STR)
        return true;
    if (v.type == TN_J_UNDEF)
        return tn_jundef_fail(r, v);
    return tn_jrun_fail(r, "%s must be str, not %s", what, tn_jval_kind(v));
}

bool tn_jarg_int(tn_jrun *r, const char *what, tn_jval v, int64_t fallback, int64_t *out)
{
    *out = fallback;
    return v.type == TN_J_MISSING || tn_jval_index(r, v, what, out);
}

/* -------------------------------------------------------------------------- parts of a text */

/* The part between two bounds, which count characters and may be negative or left out. */
typedef struct span {
    const char *p;
    size_t size;
    int64_t first;       /* characters before p */
    bool none;           /* the bounds leave nothing, not even an empty text */
} span;

static bool bound(tn_jrun *r, tn_jval v, int64_t fallback, int64_t n, int64_t *out)
{
    *out = fallback;
    if (v.type == TN_J_MISSING || v.type == TN_J_NONE)
        return true;
    TN_TRY(tn_jval_index(r, v, "slice indices", out));
    if (*out < 0)
        *out = *out < -n ? 0 : *out + n;
    return true;
}

static bool span_of(tn_jrun *r, tn_jval s, tn_jval start, tn_jval end, span *out)
{
    const tn_jstr *t = s.as.s;
    int64_t from, to, n = t->chars;
    TN_TRY(bound(r, start, 0, n, &from) && bound(r, end, n, n, &to));
    TN_TRY(tn_jrun_burn_bytes(r, t->size));
    to = to > n ? n : to;
    *out = (span){.p = t->p, .size = 0, .first = from, .none = from > to};
    if (out->none)
        return true;
    size_t a = (size_t)from, b = (size_t)to;
    if (!tn_jstr_ascii(t)) {
        a = tn_jutf_skip(t->p, t->size, (size_t)from);
        b = a + tn_jutf_skip(t->p + a, t->size - a, (size_t)(to - from));
    }
    out->p = t->p + a;
    out->size = b - a;
    return true;
}

static bool last_in(tn_jrun *r, const span *s, const tn_jstr *what, const char **at)
{
    uint32_t *scratch = NULL;
    if (what->size >= SCRATCH_FROM
        && (scratch = tn_jrun_array(r, what->size, sizeof *scratch)) == NULL)
        return false;
    TN_TRY(tn_jrun_burn_bytes(r, s->size * (scratch == NULL ? 4 : 8)));
    *at = tn_jutf_find_last(s->p, s->size, what->p, what->size, scratch);
    return true;
}

/* -------------------------------------------------------------------------- find and index */

static bool find(tn_jrun *r, const tn_jval *a, bool last, int64_t *out)
{
    span s;
    const char *at = NULL;
    *out = -1;
    TN_TRY(tn_jarg_text(r, "the text to look for", a[1]));
    TN_TRY(span_of(r, a[0], a[2], a[3], &s));
    if (s.none)
        return true;
    const tn_jstr *what = a[1].as.s;
    if (last)
        TN_TRY(last_in(r, &s, what, &at));
    else
        at = tn_jutf_find(s.p, s.size, what->p, what->size);
    if (at == NULL)
        return true;
    *out = s.first
           + (int64_t)(tn_jstr_ascii(a[0].as.s) ? (size_t)(at - s.p)
                                                : tn_jutf_chars(s.p, (size_t)(at - s.p)));
    return true;
}

static bool find_or(tn_jrun *r, const tn_jval *a, bool last, bool must, tn_jval *out)
{
    int64_t i;
    TN_TRY(find(r, a, last, &i));
    if (i < 0 && must)
        return tn_jrun_fail(r, "substring not found");
    *out = tn_jint(i);
    return true;
}

static bool str_find(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    return find_or(r, a, false, false, out);
}

static bool str_index(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    return find_or(r, a, false, true, out);
}

static bool str_rfind(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    return find_or(r, a, true, false, out);
}

static bool str_rindex(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    return find_or(r, a, true, true, out);
}

static bool str_count(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    span s;
    int64_t n = 0;
    (void)all;
    TN_TRY(tn_jarg_text(r, "the text to count", a[1]));
    TN_TRY(span_of(r, a[0], a[2], a[3], &s));
    const tn_jstr *what = a[1].as.s;
    if (s.none) {
        *out = tn_jint(0);
        return true;
    }
    if (what->size == 0) {
        *out = tn_jint((int64_t)tn_jutf_chars(s.p, s.size) + 1);
        return true;
    }
    const char *p = s.p, *end = s.p + s.size;
    while ((p = tn_jutf_find(p, (size_t)(end - p), what->p, what->size)) != NULL) {
        n++;
        p += what->size;
    }
    *out = tn_jint(n);
    return true;
}

/* ------------------------------------------------------------------------ beginnings and ends */

static bool fits(const span *s, const tn_jstr *what, bool at_end)
{
    if (s->none || what->size > s->size)
        return false;
    const char *p = at_end ? s->p + s->size - what->size : s->p;
    return what->size == 0 || memcmp(p, what->p, what->size) == 0;
}

static bool tail_match(tn_jrun *r, const tn_jval *a, bool at_end, tn_jval *out)
{
    span s;
    TN_TRY(span_of(r, a[0], a[2], a[3], &s));
    if (a[1].type == TN_J_STR) {
        *out = tn_jbool(fits(&s, a[1].as.s, at_end));
        return true;
    }
    if (a[1].type != TN_J_TUPLE)
        return tn_jarg_text(r, "the text to compare with", a[1]);
    *out = tn_jbool(false);
    for (uint32_t i = 0; i < a[1].as.l->n && !out->as.b; i++) {
        TN_TRY(tn_jarg_text(r, "a text to compare with", a[1].as.l->at[i]));
        out->as.b = fits(&s, a[1].as.l->at[i].as.s, at_end);
    }
    return true;
}

static bool str_startswith(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    return tail_match(r, a, false, out);
}

static bool str_endswith(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    return tail_match(r, a, true, out);
}

static bool remove_tail(tn_jrun *r, const tn_jval *a, bool at_end, tn_jval *out)
{
    const tn_jstr *s = a[0].as.s;
    TN_TRY(tn_jarg_text(r, "the text to remove", a[1]));
    const tn_jstr *what = a[1].as.s;
    span whole = {.p = s->p, .size = s->size};
    if (!fits(&whole, what, at_end)) {
        *out = a[0];
        return true;
    }
    return tn_jstr_part(r, a[0], at_end ? 0 : what->size, s->size - what->size, out);
}

static bool str_removeprefix(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    return remove_tail(r, a, false, out);
}

static bool str_removesuffix(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    return remove_tail(r, a, true, out);
}

static bool partition(tn_jrun *r, const tn_jval *a, bool last, tn_jval *out)
{
    const tn_jstr *s = a[0].as.s;
    TN_TRY(tn_jarg_text(r, "the separator", a[1]));
    const tn_jstr *sep = a[1].as.s;
    if (sep->size == 0)
        return tn_jrun_fail(r, "empty separator");
    span whole = {.p = s->p, .size = s->size};
    const char *at = NULL;
    TN_TRY(tn_jrun_burn_bytes(r, s->size));
    if (last)
        TN_TRY(last_in(r, &whole, sep, &at));
    else
        at = tn_jutf_find(s->p, s->size, sep->p, sep->size);
    tn_jval *part = tn_jlist_new(r, TN_J_TUPLE, 3, out);
    if (part == NULL)
        return false;
    size_t before = at != NULL ? (size_t)(at - s->p) : last ? 0 : s->size;
    size_t after = at != NULL ? before + sep->size : before;
    TN_TRY(tn_jstr_part(r, a[0], 0, before, &part[0]));
    TN_TRY(at != NULL ? tn_jstr_part(r, a[0], before, sep->size, &part[1])
                      : tn_jstr_text(r, "", &part[1]));
    part[1].safe = a[0].safe;
    return tn_jstr_part(r, a[0], after, s->size - after, &part[2]);
}

static bool str_partition(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    return partition(r, a, false, out);
}

static bool str_rpartition(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    return partition(r, a, true, out);
}

/* -------------------------------------------------------------------------------- replacing */

/* An empty text is found before every character and at the end. */
static bool replace_nothing(tn_jrun *r, const tn_jstr *s, const tn_jstr *with, uint64_t count,
                            tn_jval *out)
{
    tn_jtext t;
    const char *p = s->p, *end = s->p + s->size;
    tn_jtext_open(&t, r, 0);
    for (uint64_t done = 0; done < count && !t.failed; done++) {
        tn_jtext_put(&t, with->p, with->size);
        if (p == end)
            break;
        const char *from = p;
        tn_jutf_next(&p);
        tn_jtext_put(&t, from, (size_t)(p - from));
        TN_TRY(tn_jrun_burn_bytes(r, with->size + 8));
    }
    tn_jtext_put(&t, p, (size_t)(end - p));
    return tn_jtext_close(&t, out);
}

bool tn_jstr_replace(tn_jrun *r, tn_jval str, tn_jval old, tn_jval new_, int64_t count,
                     tn_jval *out)
{
    const tn_jstr *s = str.as.s, *what = old.as.s, *with = new_.as.s;
    uint64_t most = count < 0 ? UINT64_MAX : (uint64_t)count;
    TN_TRY(tn_jrun_burn_bytes(r, s->size));
    if (what->size == 0)
        return replace_nothing(r, s, with, most, out);
    const char *p = s->p, *end = s->p + s->size, *at;
    tn_jtext t;
    tn_jtext_open(&t, r, 0);
    for (uint64_t done = 0; done < most && !t.failed; done++) {
        at = tn_jutf_find(p, (size_t)(end - p), what->p, what->size);
        if (at == NULL)
            break;
        tn_jtext_put(&t, p, (size_t)(at - p));
        tn_jtext_put(&t, with->p, with->size);
        TN_TRY(tn_jrun_burn_bytes(r, with->size + 8));
        p = at + what->size;
    }
    if (p == s->p) {
        *out = str;
        return true;
    }
    tn_jtext_put(&t, p, (size_t)(end - p));
    return tn_jtext_close(&t, out);
}

static bool str_replace(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    int64_t count;
    tn_jval with = a[2];
    (void)all;
    TN_TRY(tn_jarg_text(r, "replace() argument 1", a[1]));
    TN_TRY(tn_jarg_text(r, "replace() argument 2", a[2]));
    TN_TRY(tn_jarg_int(r, "replace() argument 3", a[3], -1, &count));
    if (a[0].safe)
        TN_TRY(tn_jval_escape(r, with, &with));
    return tn_jstr_replace(r, a[0], a[1], with, count, out);
}

const tn_jbuiltin tn_jstr_search_methods[] = {
    {.name = "count", .params = "/self /sub /start? /end?", .fn = str_count},
    {.name = "endswith", .params = "/self /suffix /start? /end?", .fn = str_endswith},
    {.name = "find", .params = "/self /sub /start? /end?", .fn = str_find},
    {.name = "index", .params = "/self /sub /start? /end?", .fn = str_index},
    {.name = "partition", .params = "/self /sep", .fn = str_partition, .safe = 1},
    {.name = "removeprefix", .params = "/self /prefix", .fn = str_removeprefix, .safe = 1},
    {.name = "removesuffix", .params = "/self /suffix", .fn = str_removesuffix, .safe = 1},
    {.name = "replace", .params = "/self /old /new /count?", .fn = str_replace, .safe = 1},
    {.name = "rfind", .params = "/self /sub /start? /end?", .fn = str_rfind},
    {.name = "rindex", .params = "/self /sub /start? /end?", .fn = str_rindex},
    {.name = "rpartition", .params = "/self /sep", .fn = str_rpartition, .safe = 1},
    {.name = "startswith", .params = "/self /prefix /start? /end?", .fn = str_startswith},
};
const size_t tn_jstr_search_count =
    sizeof tn_jstr_search_methods / sizeof tn_jstr_search_methods[0];
