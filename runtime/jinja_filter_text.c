/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_filter_text.c - filters that change a text. */
#include "jinja_filters.h"

#include "jinja_ast.h"
#include "jinja_iter.h"

#include <stdio.h>
#include <string.h>

#define LEEWAY 5            /* how much too long a text may be before truncate cuts it */

static bool cased(tn_jrun *r, tn_jval v, tn_jcase to, tn_jval *out)
{
    tn_jval s;
    TN_TRY(tn_jval_soft(r, v, &s) && tn_jstr_case(r, s, to, out));
    out->safe = s.safe;
    return true;
}

static bool f_upper(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    return cased(r, a[0], TN_JCASE_UPPER, out);
}

static bool f_lower(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    (void)all;
    return cased(r, a[0], TN_JCASE_LOWER, out);
}

static bool f_capitalize(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    tn_jval s;
    (void)all;
    TN_TRY(tn_jval_soft(r, a[0], &s) && tn_jstr_capitalize(r, s, out));
    out->safe = s.safe;
    return true;
}

static bool begins_word(uint32_t cp)
{
    return cp == '-' || cp == '(' || cp == '{' || cp == '[' || cp == '<' || tn_jchar_is_space(cp);
}

/* One word of a title: its first character raised, the rest lowered on its own. */
static bool put_word(tn_jrun *r, tn_jval s, const char *from, const char *to, tn_jtext *t)
{
    uint32_t up[3];
    tn_jval rest;
    const char *p = from;
    uint32_t n = tn_jchar_case(tn_jutf_next(&p), TN_JCASE_UPPER, up);
    for (uint32_t i = 0; i < n; i++)
        tn_jtext_put_cp(t, up[i]);
    TN_TRY(tn_jstr_part(r, s, (size_t)(p - s.as.s->p), (size_t)(to - p), &rest));
    TN_TRY(tn_jstr_case(r, rest, TN_JCASE_LOWER, &rest));
    tn_jtext_put_str(t, rest);
    return !t->failed;
}

static bool f_title(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    tn_jval s;
    tn_jtext t;
    (void)all;
    TN_TRY(tn_jval_str(r, a[0], &s));
    tn_jtext_open(&t, r, s.as.s->size);
    const char *p = s.as.s->p, *end = p + s.as.s->size;
    while (p < end) {
        const char *from = p, *q = p;
        bool apart = begins_word(tn_jutf_next(&q));
        p = q;
        while (p < end && begins_word(tn_jutf_next(&q)) == apart)
            p = q;
        if (apart)
            tn_jtext_put(&t, from, (size_t)(p - from));
        else
            TN_TRY(put_word(r, s, from, p, &t));
        q = p;
    }
    return tn_jtext_close(&t, out);
}

static bool f_trim(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    tn_jval s;
    (void)all;
    return tn_jval_soft(r, a[0], &s) && tn_jstr_strip(r, s, a[1], 3, out);
}

static bool f_replace(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    tn_jval s = a[0], old, new_;
    int64_t count = -1;
    (void)all;
    if (a[3].type != TN_J_NONE)
        TN_TRY(tn_jarg_int(r, "the count", a[3], -1, &count));
    bool soft = r->escaping;
    if (soft && (a[1].safe || (a[2].safe && !a[0].safe)))
        TN_TRY(tn_jval_escape(r, s, &s));
    TN_TRY(soft ? tn_jval_soft(r, s, &s) : tn_jval_str(r, s, &s));
    TN_TRY(tn_jval_str(r, a[1], &old) && tn_jval_soft(r, a[2], &new_));
    if (s.safe)
        TN_TRY(tn_jval_escape(r, new_, &new_));
    TN_TRY(tn_jstr_replace(r, s, old, new_, count, out));
    out->safe = s.safe;
    return true;
}

static bool f_center(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    tn_jval s;
    int64_t width;
    (void)all;
    TN_TRY(tn_jval_soft(r, a[0], &s) && tn_jarg_int(r, "the width", a[1], 80, &width));
    TN_TRY(tn_jstr_center(r, s, width, ' ', out));
    out->safe = s.safe;
    return true;
}

/* Something that is not text cannot have a newline added, as in Python. */
static bool needs_text(tn_jrun *r, tn_jval v)
{
    tn_jval newline, unused;
    if (v.type == TN_J_STR)
        return true;
    return tn_jstr_text(r, "\n", &newline) && tn_jval_binary(r, TN_JOP_ADD, v, newline, &unused)
           && tn_jrun_fail(r, "'%s' is no text", tn_jval_kind(v));
}

static bool f_indent(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    tn_jval pad, lines, s;
    tn_jtext t;
    bool blank = tn_jarg_flag(a[3]);
    (void)all;
    TN_TRY(needs_text(r, a[0]));
    if (a[1].type == TN_J_STR) {
        pad = a[1];
    } else {
        int64_t width;
        TN_TRY(tn_jarg_int(r, "the width", a[1], 4, &width) && tn_jstr_text(r, " ", &pad));
        TN_TRY(tn_jval_binary(r, TN_JOP_MUL, pad, tn_jint(width), &pad));
    }
    TN_TRY(tn_jstr_text(r, "\n", &s) && tn_jstr_concat(r, a[0], s, &s));
    TN_TRY(tn_jstr_splitlines(r, s, false, &lines));
    tn_jtext_open(&t, r, 0);
    if (tn_jarg_flag(a[2]))
        tn_jtext_put_str(&t, pad);
    for (uint32_t i = 0; i < lines.as.l->n && !t.failed; i++) {
        tn_jval line = lines.as.l->at[i];
        if (i > 0)
            tn_jtext_putc(&t, '\n');
        if (i > 0 && (blank || line.as.s->size > 0))
            tn_jtext_put_str(&t, pad);
        tn_jtext_put_str(&t, line);
        TN_TRY(tn_jrun_burn_bytes(r, pad.as.s->size));
    }
    TN_TRY(tn_jtext_close(&t, out));
    out->safe = a[0].safe;
    return true;
}

static bool f_truncate(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    int64_t length, leeway, n = tn_jval_len(a[0]);
    tn_jval end = a[3], parts, one;
    (void)all;
    TN_TRY(tn_jarg_int(r, "the length", a[1], 255, &length));
    TN_TRY(tn_jarg_int(r, "the leeway", a[4].type == TN_J_NONE ? (tn_jval){.type = TN_J_MISSING}
                                                              : a[4], LEEWAY, &leeway));
    if (end.type == TN_J_MISSING)
        TN_TRY(tn_jstr_text(r, "...", &end));
    if (tn_jval_len(end) < 0 || n < 0)
        return tn_jrun_fail(r, "object of type '%s' has no len()",
                            tn_jval_kind(n < 0 ? a[0] : end));
    if (length < tn_jval_len(end))
        return tn_jrun_fail(r, "expected length >= %lld, got %lld", (long long)tn_jval_len(end),
                            (long long)length);
    if (leeway < 0)
        return tn_jrun_fail(r, "expected leeway >= 0, got %lld", (long long)leeway);
    if (length >= n || n - length <= leeway) {
        *out = a[0];
        return true;
    }
    TN_TRY(tn_jval_slice(r, a[0], tn_jnone(), tn_jint(length - tn_jval_len(end)), tn_jnone(), out));
    if (!tn_jarg_flag(a[2])) {
        TN_TRY(tn_jarg_text(r, "the value", *out) && tn_jstr_text(r, " ", &one));
        TN_TRY(tn_jstr_split(r, *out, one, 1, true, &parts));
        *out = parts.as.l->at[0];
    }
    return tn_jval_binary(r, TN_JOP_ADD, *out, end, out);
}

static bool f_wordcount(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    tn_jval s;
    int64_t n = 0;
    bool inside = false;
    (void)all;
    TN_TRY(tn_jval_soft(r, a[0], &s));
    for (const char *p = s.as.s->p, *end = p + s.as.s->size; p < end;) {
        bool word = tn_jchar_is_word(tn_jutf_next(&p));
        n += word && !inside;
        inside = word;
    }
    *out = tn_jint(n);
    return tn_jrun_burn_bytes(r, (size_t)s.as.s->size * 4);
}

/* ----------------------------------------------------------------------------- for the web */

static bool is_unreserved(unsigned char c, bool slash)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9')
           || strchr("_.-~", c) != NULL || (slash && c == '/');
}

static bool put_quoted(tn_jrun *r, tn_jval v, bool query, tn_jtext *t)
{
    tn_jval s;
    TN_TRY(tn_jval_str(r, v, &s));
    for (const char *p = s.as.s->p, *end = p + s.as.s->size; p < end && !t->failed;) {
        const char *from = p;
        unsigned char c = (unsigned char)*p;
        uint32_t cp = tn_jutf_next(&p);
        if (cp != 0 && cp == r->mark) {
            tn_jtext_put_cp(t, cp);
        } else if (c != 0 && c < 0x80 && is_unreserved(c, !query)) {
            tn_jtext_putc(t, (char)c);
        } else if (query && c == ' ') {
            tn_jtext_putc(t, '+');
        } else {
            for (; from < p; from++) {
                char hex[8];
                snprintf(hex, sizeof hex, "%%%02X", (unsigned char)*from);
                tn_jtext_puts(t, hex);
            }
        }
    }
    return !t->failed && tn_jrun_burn_bytes(r, s.as.s->size);
}

static bool put_query(tn_jrun *r, tn_jval pairs, tn_jtext *t)
{
    tn_jcursor c;
    tn_jval pair, two;
    bool more;
    if (pairs.type == TN_J_DICT) {
        tn_jview v = {.d = pairs.as.d, .kind = TN_JVIEW_ITEMS};
        TN_TRY(tn_jval_items(r, (tn_jval){.type = TN_J_VIEW, .as.v = &v}, TN_J_LIST, &pairs));
    }
    TN_TRY(tn_jcursor_open(r, &c, pairs));
    for (bool first = true;; first = false) {
        TN_TRY(tn_jcursor_next(r, &c, &pair, &more));
        if (!more)
            return true;
        TN_TRY(tn_jval_items(r, pair, TN_J_LIST, &two));
        if (two.as.l->n != 2)
            return tn_jrun_fail(r, "a pair to encode has %u values; expected 2", two.as.l->n);
        if (!first)
            tn_jtext_putc(t, '&');
        TN_TRY(put_quoted(r, two.as.l->at[0], true, t));
        tn_jtext_putc(t, '=');
        TN_TRY(put_quoted(r, two.as.l->at[1], true, t));
    }
}

static bool f_urlencode(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    tn_jtext t;
    (void)all;
    tn_jtext_open(&t, r, 0);
    if (a[0].type == TN_J_STR || !tn_jval_is_iterable(a[0]))
        TN_TRY(put_quoted(r, a[0], false, &t));
    else
        TN_TRY(put_query(r, a[0], &t));
    return tn_jtext_close(&t, out);
}

static bool bad_attribute(const tn_jstr *key)
{
    for (uint32_t i = 0; i < key->size; i++)
        if (strchr(" \t\n\r\f\v/>=", key->p[i]) != NULL && key->p[i] != 0)
            return true;
    return false;
}

static bool f_xmlattr(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    tn_jtext t;
    (void)all;
    if (a[0].type == TN_J_UNDEF)
        return tn_jundef_fail(r, a[0]);
    if (a[0].type != TN_J_DICT)
        return tn_jrun_fail(r, "'%s' object has no attribute 'items'", tn_jval_kind(a[0]));
    bool space = a[1].type == TN_J_MISSING || tn_jval_truth(a[1]), some = false;
    tn_jtext_open(&t, r, 0);
    for (uint32_t i = 0; i < a[0].as.d->n; i++) {
        tn_jval key = a[0].as.d->at[i].key, val = a[0].as.d->at[i].val;
        if (val.type == TN_J_NONE || val.type == TN_J_UNDEF)
            continue;
        TN_TRY(tn_jarg_text(r, "an attribute's name", key));
        if (bad_attribute(key.as.s))
            return tn_jrun_fail(r, "invalid character in attribute name");
        TN_TRY(tn_jval_escape(r, key, &key) && tn_jval_escape(r, val, &val));
        if (some || space)
            tn_jtext_putc(&t, ' ');
        some = true;
        tn_jtext_put_str(&t, key);
        tn_jtext_puts(&t, "=\"");
        tn_jtext_put_str(&t, val);
        tn_jtext_putc(&t, '"');
    }
    TN_TRY(tn_jtext_close(&t, out));
    out->safe = r->escaping;
    return true;
}

/* ------------------------------------------------------------------------------- striptags */

/* Drops what lies between `open` and `close`, as often as both are found. */
static bool drop_between(tn_jrun *r, const tn_jstr *s, const char *open, const char *close,
                         tn_jval *out)
{
    tn_jtext t;
    const char *p = s->p, *end = p + s->size, *from, *to;
    tn_jtext_open(&t, r, 0);
    TN_TRY(tn_jrun_burn_bytes(r, s->size));
    while ((from = tn_jutf_find(p, (size_t)(end - p), open, strlen(open))) != NULL) {
        to = tn_jutf_find(from, (size_t)(end - from), close, strlen(close));
        if (to == NULL)
            break;
        tn_jtext_put(&t, p, (size_t)(from - p));
        p = to + strlen(close);
    }
    tn_jtext_put(&t, p, (size_t)(end - p));
    return tn_jtext_close(&t, out);
}

static bool put_entity(tn_jtext *t, const char *p, size_t size)
{
    static const struct { const char *name; uint32_t cp; } known[] = {
        {"amp", '&'}, {"lt", '<'}, {"gt", '>'}, {"quot", '"'}, {"apos", '\''}, {"nbsp", 0xa0},
    };
    int64_t cp = 0;
    bool hex = size > 1 && (p[1] == 'x' || p[1] == 'X');
    if (size > 1 && p[0] == '#') {
        if (tn_jint_parse(p + 1 + hex, size - 1 - hex, hex ? 16 : 10, &cp) != TN_JPARSE_OK)
            return false;
        bool none = cp <= 0 || cp > 0x10ffff || (cp >= 0xd800 && cp <= 0xdfff);
        tn_jtext_put_cp(t, none ? 0xfffd : (uint32_t)cp);
        return true;
    }
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strlen(known[i].name) == size && memcmp(known[i].name, p, size) == 0) {
            tn_jtext_put_cp(t, known[i].cp);
            return true;
        }
    return false;
}

static bool unescape(tn_jrun *r, const tn_jstr *s, tn_jval *out)
{
    tn_jtext t;
    tn_jtext_open(&t, r, s->size);
    for (const char *p = s->p, *end = p + s->size; p < end && !t.failed;) {
        size_t n = 1;
        if (*p == '&') {
            while (p + n < end && n < 32 && p[n] != ';' && p[n] != '&')
                n++;
            if (p + n < end && p[n] == ';' && put_entity(&t, p + 1, n - 1)) {
                p += n + 1;
                continue;
            }
        }
        tn_jtext_putc(&t, *p++);
    }
    return tn_jtext_close(&t, out);
}

static bool f_striptags(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    tn_jval s, words, blank;
    (void)all;
    TN_TRY(tn_jval_str(r, a[0], &s) && drop_between(r, s.as.s, "<!--", "-->", &s));
    TN_TRY(drop_between(r, s.as.s, "<", ">", &s));
    TN_TRY(tn_jstr_split(r, s, tn_jnone(), -1, false, &words));
    TN_TRY(tn_jstr_text(r, " ", &blank) && tn_jstr_join(r, blank, words, &s));
    return unescape(r, s.as.s, out);
}

const tn_jbuiltin tn_jfilter_text[] = {
    {.name = "capitalize", .params = "s", .fn = f_capitalize},
    {.name = "center", .params = "value width?", .fn = f_center},
    {.name = "indent", .params = "s width? first? blank?", .fn = f_indent},
    {.name = "lower", .params = "s", .fn = f_lower},
    {.name = "replace", .params = "s old new count?", .fn = f_replace},
    {.name = "striptags", .params = "value", .fn = f_striptags},
    {.name = "title", .params = "s", .fn = f_title},
    {.name = "trim", .params = "value chars?", .fn = f_trim},
    {.name = "truncate", .params = "s length? killwords? end? leeway?", .fn = f_truncate},
    {.name = "upper", .params = "s", .fn = f_upper},
    {.name = "urlencode", .params = "value", .fn = f_urlencode},
    {.name = "wordcount", .params = "s", .fn = f_wordcount},
    {.name = "xmlattr", .params = "d autospace?", .fn = f_xmlattr},
};
const size_t tn_jfilter_text_count = sizeof tn_jfilter_text / sizeof tn_jfilter_text[0];
