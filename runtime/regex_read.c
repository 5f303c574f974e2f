/* SPDX-License-Identifier: Apache-2.0 */
/* regex_read.c - a regular expression from Oniguruma's Ruby dialect to PCRE2's.
 *
 * Where both write the same thing and mean the same, it passes; where they differ the PCRE2
 * text spells out what Oniguruma means. Groups never capture, for nothing refers to them. */
#include "regex.h"

#include "quote.h"
#include "regex_parts.h"
#include "unicode.h"

#define COUNT_MAX 1000u        /* greatest number in {n,m} */
#define REPEAT_VARIABLE_MAX 8u /* a body of varying length may repeat so often */
#define ENDLESS UINT32_MAX

typedef tn_regex_reader reader;

/* How many characters an expression may match, ENDLESS and more being one. */
typedef struct shape {
    uint64_t least, most;
    bool atomic;  /* never gives back what it matched */
    bool width;   /* false for anchors and look-arounds, which may not repeat */
} shape;

tn_status tn_regex_refuse(const reader *r, const char *why, const char *wanted)
{
    tn_quoted q;
    return tn_fail(r->err, TN_DATA, "%s: pattern %s: %s at its byte %zu; expected %s", r->what,
                   tn_quote(&q, r->begin, (size_t)(r->end - r->begin)), why,
                   (size_t)(r->at - r->begin), wanted);
}

bool tn_regex_next_is(const reader *r, const char *text)
{
    size_t n = strlen(text);
    return (size_t)(r->end - r->at) >= n && memcmp(r->at, text, n) == 0;
}

bool tn_regex_take(reader *r, const char *text)
{
    bool is = tn_regex_next_is(r, text);
    if (is)
        r->at += strlen(text);
    return is;
}

uint32_t tn_regex_take_char(reader *r)
{
    const uint8_t *p = (const uint8_t *)r->at;
    uint32_t cp = tn_utf8_next(&p);
    r->at = (const char *)p;
    return cp;
}

void tn_regex_put_char(tn_buf *out, uint32_t cp)
{
    tn_buf_printf(out, "\\x{%x}", cp);
}

/* ---- atoms ---- */

static tn_status read_alternatives(reader *r, uint32_t depth, tn_buf *out, shape *sh);

static tn_status read_escape(reader *r, tn_buf *out, shape *sh)
{
    if (++r->at == r->end)
        return tn_regex_refuse(r, "a lone backslash", "an escape");
    char c = *r->at;
    if (c != 0 && strchr("pPsSdDwWhH", c) != NULL)
        return tn_regex_read_set(r, out);
    if (c == 'A' || c == 'z' || c == 'Z' || c == 'b' || c == 'B') {
        r->at++;
        sh->least = sh->most = 0;
        sh->width = false;
        if (c == 'b' || c == 'B')
            tn_regex_put_boundary(r, c == 'b', out);
        else
            tn_buf_printf(out, "\\%c", c);
        return TN_OK;
    }
    uint32_t cp = 0;
    bool is_char = false;
    tn_status st = tn_regex_escaped(r, &cp, &is_char);
    if (st == TN_OK && !is_char)
        return tn_regex_refuse(r, "an unknown escape or a reference to a group",
                      "a character, \\s \\d \\w \\h \\p \\b \\A \\z or \\Z");
    if (st == TN_OK)
        tn_regex_put_char(out, cp);
    return st;
}

/* (?imx-imx) and (?imx-imx: with r->at behind the '?'. Ruby's m is what PCRE2 calls s. */
static tn_status read_options(reader *r, tn_buf *out)
{
    tn_buf_puts(out, "(?");
    for (; r->at < r->end && *r->at != ')' && *r->at != ':'; r->at++) {
        if (*r->at != 'i' && *r->at != 'm' && *r->at != '-')
            return tn_regex_refuse(r,
                                   "an unknown group or option (groups that look behind, recur or "
                             "are conditions are none)",
                          "(?: (?> (?= (?! (?<name> or the options i and m");
        tn_buf_putc(out, *r->at == 'm' ? 's' : *r->at);
    }
    tn_buf_puts(out, ":");
    return TN_OK;
}

static tn_status skip_name(reader *r)
{
    while (r->at < r->end && *r->at != '>')
        r->at++;
    return tn_regex_take(r, ">") ? TN_OK : tn_regex_refuse(r, "an unfinished group name", ">");
}

/* Behind the '('. An option without a colon lasts to the end of the group around it, so the
 * rest of that group becomes the option's own. */
static tn_status read_group(reader *r, uint32_t depth, tn_buf *out, shape *sh)
{
    bool look = false, to_end = false;
    tn_status st = TN_OK;
    if (tn_regex_take(r, "?=") || tn_regex_take(r, "?!")) {
        look = true;
        tn_buf_printf(out, "(?%c", r->at[-1]);
    } else if (tn_regex_take(r, "?>")) {
        sh->atomic = true;
        tn_buf_puts(out, "(?>");
    } else if (tn_regex_next_is(r, "?<=") || tn_regex_next_is(r, "?<!")) {
        return tn_regex_refuse(r, "a look-behind", "a pattern that looks ahead only");
    } else if (tn_regex_take(r, "?<")) {
        st = skip_name(r);
        tn_buf_puts(out, "(?:");
    } else if (tn_regex_take(r, "?")) {
        st = read_options(r, out);
        to_end = st == TN_OK && r->at < r->end && *r->at == ')';
        if (st == TN_OK && !to_end && !tn_regex_take(r, ":"))
            return tn_regex_refuse(r, "an unfinished group", ")");
        if (to_end)
            r->at++;
    } else {
        tn_buf_puts(out, "(?:");
    }
    if (st == TN_OK)
        st = read_alternatives(r, depth + 1, out, sh);
    if (st != TN_OK)
        return st;
    tn_buf_puts(out, ")");
    if (look) {
        sh->least = sh->most = 0;
        sh->width = false;
    }
    if (!to_end && !tn_regex_take(r, ")"))
        return tn_regex_refuse(r, "an unfinished group", ")");
    return TN_OK;
}

static tn_status read_atom(reader *r, uint32_t depth, tn_buf *out, shape *sh)
{
    *sh = (shape){.least = 1, .most = 1, .width = true};
    char c = *r->at;
    if (c == '\\')
        return read_escape(r, out, sh);
    if (c == '[') {
        r->at++;
        return tn_regex_read_class(r, depth, out);
    }
    if (tn_regex_take(r, "("))
        return read_group(r, depth, out, sh);
    if (c == '^' || c == '$') {
        sh->least = sh->most = 0;
        sh->width = false;
        tn_buf_putc(out, c);
        r->at++;
        return TN_OK;
    }
    if (tn_regex_take(r, ".")) {
        tn_buf_puts(out, ".");
        return TN_OK;
    }
    if (c == '*' || c == '+' || c == '?')
        return tn_regex_refuse(r, "nothing to repeat", "a character, class or group before it");
    tn_regex_put_char(out, tn_regex_take_char(r));
    return TN_OK;
}

/* ---- repetition ---- */

static bool take_count(reader *r, uint32_t *out)
{
    const char *from = r->at;
    *out = 0;
    for (; r->at < r->end && *r->at >= '0' && *r->at <= '9'; r->at++)
        if (*out <= COUNT_MAX)
            *out = *out * 10 + (uint32_t)(*r->at - '0');
    return r->at > from;
}

/* {n} {n,} {,m} {n,m}; anything else after a brace is plain text. */
static bool take_counts(reader *r, uint32_t *least, uint32_t *most)
{
    const char *from = r->at;
    if (!tn_regex_take(r, "{"))
        return false;
    bool low = take_count(r, least), comma = tn_regex_take(r, ",");
    bool high = comma && take_count(r, most);
    if ((low || high) && tn_regex_take(r, "}")) {
        if (!comma)
            *most = *least;
        else if (!high)
            *most = ENDLESS;
        return true;
    }
    r->at = from;
    return false;
}

static tn_status check_repeat(const reader *r, const shape *sh, uint32_t least, uint32_t most,
                              bool possessive)
{
    if (!sh->width)
        return tn_regex_refuse(r, "an anchor or look-around that repeats",
                               "something with a width");
    if (least > COUNT_MAX || (most != ENDLESS && (most > COUNT_MAX || most < least)))
        return tn_regex_refuse(r, "a count out of range", "{n,m} with n <= m <= 1000");
    if (sh->least != sh->most && most > REPEAT_VARIABLE_MAX && !sh->atomic && !possessive)
        return tn_regex_refuse(r, "a repetition of what may itself vary in length, which can take "
                         "exponential time", "no repetition inside a repetition");
    return TN_OK;
}

static void put_repeat(tn_buf *out, uint32_t least, uint32_t most, char kind)
{
    if (most == ENDLESS)
        tn_buf_printf(out, "{%u,}", least);
    else
        tn_buf_printf(out, "{%u,%u}", least, most);
    if (kind != 0)
        tn_buf_putc(out, kind);
}

/* Puts a group around what was written from `at` on. */
static void wrap(tn_buf *out, size_t at)
{
    size_t n = out->len - at;
    tn_buf_puts(out, "(?:)");
    if (out->failed)
        return;
    memmove(out->data + at + 3, out->data + at, n);
    memcpy(out->data + at, "(?:", 3);
    out->data[out->len - 1] = ')';
}

/* What follows an atom, which was written from `at` on. In Ruby's dialect a '+' behind {n,m}
 * is no sign of possession but repeats once more: X{1,3}+ is X+ then, where X has one width;
 * and X{3}* is (?:X{3})*. */
static tn_status read_repeat(reader *r, tn_buf *out, size_t at, shape *sh)
{
    uint32_t least = 1, most = 1;
    bool counted = false, lazy = false, possessive = false;
    if (tn_regex_take(r, "*"))
        least = 0, most = ENDLESS;
    else if (tn_regex_take(r, "+"))
        most = ENDLESS;
    else if (tn_regex_take(r, "?"))
        least = 0;
    else if (take_counts(r, &least, &most))
        counted = true;
    else
        return TN_OK;
    if (counted && least <= 1 && least < most && sh->least == sh->most && tn_regex_take(r, "+"))
        most = ENDLESS;
    else if (!counted && tn_regex_take(r, "+"))
        possessive = true;
    else if (!(counted && least == most) && tn_regex_take(r, "?"))
        lazy = true;
    bool again = r->at < r->end && (*r->at == '?' || *r->at == '*' || *r->at == '+');
    if (again && !(counted && least == most))
        return tn_regex_refuse(r, "a repetition of a repetition", "one repetition");
    tn_status st = check_repeat(r, sh, least, most, possessive);
    if (st != TN_OK)
        return st;
    put_repeat(out, least, most, possessive ? '+' : lazy ? '?' : 0);
    sh->least *= least;
    sh->most = sh->most >= ENDLESS || most == ENDLESS ? ENDLESS : sh->most * most;
    if (sh->most > ENDLESS)
        sh->most = ENDLESS;
    if (sh->least > ENDLESS)
        sh->least = ENDLESS;
    sh->atomic = sh->atomic || possessive;
    if (!again)
        return TN_OK;
    wrap(out, at);
    return read_repeat(r, out, at, sh);
}

static tn_status read_sequence(reader *r, uint32_t depth, tn_buf *out, shape *sh)
{
    *sh = (shape){.width = true};
    while (r->at < r->end && *r->at != '|' && *r->at != ')') {
        shape atom;
        size_t at = out->len;
        tn_status st = read_atom(r, depth, out, &atom);
        if (st == TN_OK)
            st = read_repeat(r, out, at, &atom);
        if (st != TN_OK)
            return st;
        sh->least += atom.least;
        sh->most = sh->most + atom.most > ENDLESS ? ENDLESS : sh->most + atom.most;
    }
    return TN_OK;
}

static tn_status read_alternatives(reader *r, uint32_t depth, tn_buf *out, shape *sh)
{
    if (depth > TN_REGEX_DEPTH_MAX)
        return tn_regex_refuse(r, "too deep a nesting", "at most 64 levels");
    bool atomic = sh->atomic;
    tn_status st = read_sequence(r, depth, out, sh);
    while (st == TN_OK && tn_regex_take(r, "|")) {
        shape next;
        tn_buf_puts(out, "|");
        st = read_sequence(r, depth, out, &next);
        sh->least = next.least < sh->least ? next.least : sh->least;
        sh->most = next.most > sh->most ? next.most : sh->most;
    }
    sh->atomic = atomic;
    return st;
}

tn_status tn_regex_translate(const char *pattern, size_t size, const char *what,
                             struct tn_buf *out, tn_err *err)
{
    reader r = {.begin = pattern, .at = pattern, .end = pattern + size, .what = what,
                .err = err};
    shape sh = {0};
    tn_status st = read_alternatives(&r, 0, out, &sh);
    if (st == TN_OK && r.at < r.end)
        st = tn_regex_refuse(&r, "a ')' too many", "balanced groups");
    tn_newer_close(&r.newer);
    return st;
}
