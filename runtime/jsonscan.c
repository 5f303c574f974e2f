/* SPDX-License-Identifier: Apache-2.0 */
/* jsonscan.c - strict JSON read in one pass, without a tree, for files with 10^6 members. */
#include "jsonscan.h"

#include "arena.h"
#include "quote.h"
#include "utf8seq.h"

#include <stdarg.h>

tn_status tn_scan_refuse(const tn_scan *s, const char *at, const char *fmt, ...)
{
    char what[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    uint64_t offset = s->base + (uint64_t)((at != NULL ? at : s->at) - s->begin);
    return tn_fail(s->err, TN_DATA, "%s:%llu: %s", s->what, (unsigned long long)offset, what);
}

static void skip_blank(tn_scan *s)
{
    while (s->at < s->end && (*s->at == ' ' || *s->at == '\n' || *s->at == '\t' || *s->at == '\r'))
        s->at++;
}

char tn_scan_peek(tn_scan *s)
{
    skip_blank(s);
    return s->at < s->end ? *s->at : 0;
}

static tn_status unexpected(const tn_scan *s, const char *wanted)
{
    tn_quoted q;
    if (s->at >= s->end)
        return tn_scan_refuse(s, NULL, "the JSON ends here; expected %s", wanted);
    return tn_scan_refuse(s, NULL, "%s; expected %s", tn_quote(&q, s->at, 1), wanted);
}

tn_status tn_scan_expect(tn_scan *s, char c)
{
    const char wanted[4] = {'\'', c, '\'', 0};
    if (tn_scan_peek(s) != c || s->at >= s->end)
        return unexpected(s, wanted);
    s->at++;
    return TN_OK;
}

tn_status tn_scan_more(tn_scan *s, char close, bool *first, bool *more)
{
    bool was_first = *first;
    *first = false;
    if (tn_scan_peek(s) == close && s->at < s->end) {
        s->at++;
        *more = false;
        return TN_OK;
    }
    *more = true;
    return was_first ? TN_OK : tn_scan_expect(s, ',');
}

static bool hex4(const char *p, const char *end, unsigned *out)
{
    unsigned v = 0;
    if (end - p < 4)
        return false;
    for (int i = 0; i < 4; i++) {
        unsigned char c = (unsigned char)p[i];
        if (c >= '0' && c <= '9')
            v = v * 16 + (c - '0');
        else if ((c | 32) >= 'a' && (c | 32) <= 'f')
            v = v * 16 + ((c | 32) - 'a' + 10);
        else
            return false;
    }
    *out = v;
    return true;
}

/* Reads the escape that begins at p (a backslash): its code point and its length in the
 * source, 0 when it is none. Surrogates must come as a pair. */
static size_t escape_at(const char *p, const char *end, unsigned *code)
{
    static const char names[] = "\"\\/bfnrt";
    static const char values[] = "\"\\/\b\f\n\r\t";
    if (end - p < 2)
        return 0;
    const char *found = p[1] != 0 ? strchr(names, p[1]) : NULL;
    if (found != NULL) {
        *code = (unsigned char)values[found - names];
        return 2;
    }
    unsigned low = 0;
    if (p[1] != 'u' || !hex4(p + 2, end, code))
        return 0;
    if (*code < 0xd800 || *code > 0xdfff)
        return 6;
    if (*code > 0xdbff || end - p < 12 || p[6] != '\\' || p[7] != 'u' ||
        !hex4(p + 8, end, &low) || low < 0xdc00 || low > 0xdfff)
        return 0;
    *code = 0x10000 + ((*code - 0xd800) << 10) + (low - 0xdc00);
    return 12;
}

tn_status tn_scan_string(tn_scan *s, tn_scan_text *out)
{
    if (tn_scan_peek(s) != '"')
        return unexpected(s, "a string");
    const char *p = s->at + 1;
    *out = (tn_scan_text){.text = p, .raw = true};
    while (p < s->end && *p != '"') {
        unsigned code = 0;
        size_t n = 1;
        if (*p == '\\') {
            n = escape_at(p, s->end, &code);
            out->raw = false;
            if (n == 0)
                return tn_scan_refuse(s, p, "an invalid escape; expected one of JSON's, "
                                      "surrogates in pairs");
        } else if ((unsigned char)*p < 0x20) {
            return tn_scan_refuse(s, p, "a control character in a string; expected an escape");
        } else if ((unsigned char)*p >= 0x80) {
            n = tn_utf8_size(p, (size_t)(s->end - p));
            if (n == 0)
                return tn_scan_refuse(s, p, "invalid UTF-8 in a string");
        }
        p += n;
    }
    if (p >= s->end)
        return tn_scan_refuse(s, NULL, "a string without its closing quote");
    out->size = (size_t)(p - out->text);
    s->at = p + 1;
    return TN_OK;
}

tn_status tn_scan_key(tn_scan *s, tn_scan_text *key)
{
    tn_status st = tn_scan_string(s, key);
    return st == TN_OK ? tn_scan_expect(s, ':') : st;
}

static bool is_digit(const tn_scan *s, const char *p)
{
    return p < s->end && *p >= '0' && *p <= '9';
}

tn_status tn_scan_uint(tn_scan *s, uint64_t *out)
{
    static const char wanted[] = "an integer from 0 to 9223372036854775807";
    (void)tn_scan_peek(s);
    const char *from = s->at, *p = from;
    uint64_t v = 0;
    if (!is_digit(s, p))
        return unexpected(s, wanted);
    for (; is_digit(s, p); p++) {
        uint64_t d = (uint64_t)(*p - '0');
        if (v > (INT64_MAX - d) / 10 || (p > from && *from == '0'))
            return tn_scan_refuse(s, from, "a number out of range; expected %s", wanted);
        v = v * 10 + d;
    }
    if (p < s->end && (*p == '.' || *p == 'e' || *p == 'E'))
        return tn_scan_refuse(s, from, "a number with fraction or exponent; expected %s", wanted);
    s->at = p;
    *out = v;
    return TN_OK;
}

/* -?(0|[1-9][0-9]*)(.[0-9]+)?([eE][+-]?[0-9]+)? */
static tn_status skip_number(tn_scan *s)
{
    const char *p = s->at;
    if (*p == '-')
        p++;
    bool ok = is_digit(s, p);
    if (ok && *p == '0')
        p++;
    else
        while (is_digit(s, p))
            p++;
    if (ok && p < s->end && *p == '.') {
        p++;
        ok = is_digit(s, p);
        while (is_digit(s, p))
            p++;
    }
    if (ok && p < s->end && (*p == 'e' || *p == 'E')) {
        p++;
        if (p < s->end && (*p == '+' || *p == '-'))
            p++;
        ok = is_digit(s, p);
        while (is_digit(s, p))
            p++;
    }
    if (!ok)
        return unexpected(s, "a value");
    s->at = p;
    return TN_OK;
}

static tn_status skip_word(tn_scan *s)
{
    static const char *const words[] = {"true", "false", "null"};
    for (size_t i = 0; i < 3; i++) {
        size_t n = strlen(words[i]);
        if ((size_t)(s->end - s->at) >= n && memcmp(s->at, words[i], n) == 0) {
            s->at += n;
            return TN_OK;
        }
    }
    return unexpected(s, "a value");
}

static tn_status skip_at(tn_scan *s, uint32_t depth)
{
    char c = tn_scan_peek(s);
    tn_scan_text text;
    if (c == '"')
        return tn_scan_string(s, &text);
    if (c == '-' || (c >= '0' && c <= '9'))
        return skip_number(s);
    if (c != '{' && c != '[')
        return skip_word(s);
    if (depth >= s->depth_max)
        return tn_scan_refuse(s, NULL, "nested deeper than %u", s->depth_max);
    s->at++;
    bool first = true, more = true;
    for (;;) {
        tn_status st = tn_scan_more(s, c == '{' ? '}' : ']', &first, &more);
        if (st != TN_OK || !more)
            return st;
        if (c == '{')
            st = tn_scan_key(s, &text);
        if (st == TN_OK)
            st = skip_at(s, depth + 1);
        if (st != TN_OK)
            return st;
    }
}

tn_status tn_scan_skip(tn_scan *s)
{
    return skip_at(s, 0);
}

tn_status tn_scan_end(tn_scan *s)
{
    skip_blank(s);
    return s->at >= s->end ? TN_OK : unexpected(s, "the end of the JSON");
}

static size_t put_utf8(char *out, unsigned code)
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    size_t n = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    static const unsigned char lead[5] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = n; i-- > 1; code >>= 6)
        out[i] = (char)(0x80 | (code & 63));
    out[0] = (char)(lead[n] | code);
    return n;
}

tn_status tn_scan_copy(tn_scan *s, const tn_scan_text *text, struct tn_arena *arena,
                       const char **out, size_t *size)
{
    char *copy = tn_arena_take(arena, text->size + 1);
    if (copy == NULL)
        return tn_fail(s->err, TN_NO_MEMORY, "%s: no memory for its names", s->what);
    size_t n = 0;
    if (text->raw) {
        memcpy(copy, text->text, text->size);
        n = text->size;
    } else {
        const char *p = text->text, *end = p + text->size;
        while (p < end) {
            unsigned code = 0;
            size_t step = *p == '\\' ? escape_at(p, end, &code) : 0;
            if (step > 0 && code == 0)
                return tn_scan_refuse(s, p, "a NUL inside a name");
            if (step > 0) {
                n += put_utf8(copy + n, code);
                p += step;
            } else {
                copy[n++] = *p++;
            }
        }
    }
    copy[n] = 0;
    *out = copy;
    *size = n;
    return TN_OK;
}

bool tn_scan_is(const tn_scan_text *text, const char *word)
{
    return text->raw && text->size == strlen(word) && memcmp(text->text, word, text->size) == 0;
}
