/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_lex.c - cuts a template's source into tokens, one at a time. */
#include "jinja_lex.h"

#include "quote.h"

#include <stdio.h>
#include <string.h>

enum { STATE_TEXT, STATE_BLOCK, STATE_VARIABLE };

static const char *const names[] = {
    [TN_JTOK_EOF] = "end of template", [TN_JTOK_DATA] = "template text",
    [TN_JTOK_VAR_BEGIN] = "{{", [TN_JTOK_VAR_END] = "}}",
    [TN_JTOK_BLOCK_BEGIN] = "{%", [TN_JTOK_BLOCK_END] = "%}",
    [TN_JTOK_NAME] = "name", [TN_JTOK_STRING] = "string", [TN_JTOK_INT] = "integer",
    [TN_JTOK_FLOAT] = "float", [TN_JTOK_ADD] = "+", [TN_JTOK_SUB] = "-", [TN_JTOK_MUL] = "*",
    [TN_JTOK_DIV] = "/", [TN_JTOK_FLOORDIV] = "//", [TN_JTOK_MOD] = "%", [TN_JTOK_POW] = "**",
    [TN_JTOK_TILDE] = "~", [TN_JTOK_LBRACKET] = "[", [TN_JTOK_RBRACKET] = "]",
    [TN_JTOK_LPAREN] = "(", [TN_JTOK_RPAREN] = ")", [TN_JTOK_LBRACE] = "{",
    [TN_JTOK_RBRACE] = "}", [TN_JTOK_EQ] = "==", [TN_JTOK_NE] = "!=", [TN_JTOK_GT] = ">",
    [TN_JTOK_GE] = ">=", [TN_JTOK_LT] = "<", [TN_JTOK_LE] = "<=", [TN_JTOK_ASSIGN] = "=",
    [TN_JTOK_DOT] = ".", [TN_JTOK_COLON] = ":", [TN_JTOK_PIPE] = "|", [TN_JTOK_COMMA] = ",",
    [TN_JTOK_SEMICOLON] = ";",
};

const char *tn_jtok_name(tn_jtok type)
{
    return names[type];
}

bool tn_jlex_fail(const tn_jlex *x, uint32_t line, uint32_t column, const char *fmt, ...)
{
    char text[600];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    tn_fail(x->err, TN_DATA, "%s:%u:%u: %s", x->what, line, column, text);
    if (x->err != NULL)
        snprintf(x->err->code, sizeof x->err->code, "template_error");
    return false;
}

/* ---------------------------------------------------------------------------- the source */

static void where(const char *source, size_t at, uint32_t *line, uint32_t *column)
{
    *line = 1;
    *column = 1;
    for (size_t i = 0; i < at; i++) {
        *column += ((unsigned char)source[i] & 0xc0) != 0x80;
        if (source[i] == '\n') {
            *line += 1;
            *column = 1;
        }
    }
}

tn_status tn_jlex_open(tn_jlex *x, const char *source, size_t size, const char *what,
                       tn_arena *arena, tn_err *err)
{
    *x = (tn_jlex){.what = what, .arena = arena, .err = err, .line = 1, .column = 1,
                   .line_starting = true};
    if (size > TN_JINJA_SOURCE_MAX)
        return tn_fail(err, TN_DATA, "%s: the template has %zu bytes; expected at most %zu", what,
                       size, TN_JINJA_SOURCE_MAX);
    size_t bad = tn_jutf_bad(source, size);
    if (bad < size) {
        uint32_t line, column;
        where(source, bad, &line, &column);
        return tn_fail(err, TN_DATA, "%s:%u:%u: byte 0x%02x; expected UTF-8", what, line, column,
                       (unsigned char)source[bad]);
    }
    char *copy = tn_arena_take(arena, size + 1);
    if (copy == NULL)
        return tn_fail(err, TN_NO_MEMORY, "%s: no memory for its %zu bytes", what, size);
    size_t n = 0;
    for (size_t i = 0; i < size; i++) {
        if (source[i] == '\r') {
            i += i + 1 < size && source[i + 1] == '\n';
            copy[n++] = '\n';
        } else {
            copy[n++] = source[i];
        }
    }
    if (n > 0 && copy[n - 1] == '\n')
        n--;
    copy[n] = 0;
    x->src = copy;
    x->size = n;
    return TN_OK;
}

static bool at(const tn_jlex *x, size_t pos, const char *what)
{
    size_t n = strlen(what);
    return x->size - pos >= n && memcmp(x->src + pos, what, n) == 0;
}

static size_t skip_space(const tn_jlex *x, size_t pos)
{
    while (pos < x->size) {
        const char *p = x->src + pos;
        if (!tn_jchar_is_space(tn_jutf_next(&p)))
            break;
        pos = (size_t)(p - x->src);
    }
    return pos;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Counts on to `pos`, never back, so positions cost one pass over the source. */
static void locate(tn_jlex *x, size_t pos)
{
    for (; x->seen < pos; x->seen++) {
        x->column += ((unsigned char)x->src[x->seen] & 0xc0) != 0x80;
        if (x->src[x->seen] == '\n') {
            x->line++;
            x->column = 1;
        }
    }
}

static void step_to(tn_jlex *x, size_t pos)
{
    if (pos > x->pos)
        x->line_starting = x->src[pos - 1] == '\n';
    x->pos = pos;
}

static bool fail_here(tn_jlex *x, const char *what)
{
    locate(x, x->pos);
    return tn_jlex_fail(x, x->line, x->column, "%s", what);
}

/* ------------------------------------------------------------------ text between the tags */

/* Where a comment's, block's or raw tag's end at `pos` leads, 0 when none is there. `sign` is
 * what stands before the closing characters. */
static size_t after_end(const tn_jlex *x, size_t pos, const char *close)
{
    if (at(x, pos, close)) {
        pos += 2;
        return pos < x->size && x->src[pos] == '\n' ? pos + 1 : pos;
    }
    if (x->size - pos < 3 || !at(x, pos + 1, close))
        return 0;
    if (x->src[pos] == '-')
        return skip_space(x, pos + 3);
    return x->src[pos] == '+' ? pos + 3 : 0;
}

/* The text up to `end`, cut as the tag that begins there wants it. */
static size_t text_end(const tn_jlex *x, size_t end, char sign, bool variable)
{
    size_t start = x->pos;
    if (sign == '-') {
        const char *p = x->src + end;
        while (p > x->src + start) {
            const char *before = p;
            if (!tn_jchar_is_space(tn_jutf_prev(&before)))
                break;
            p = before;
        }
        return (size_t)(p - x->src);
    }
    if (sign == '+' || variable)
        return end;
    size_t line = end;
    while (line > start && x->src[line - 1] != '\n')
        line--;
    if (line == start && !x->line_starting)
        return end;
    return skip_space(x, line) >= end ? line : end;
}

static bool data_token(tn_jlex *x, size_t end, tn_jtoken *out)
{
    locate(x, x->pos);
    *out = (tn_jtoken){.type = TN_JTOK_DATA, .line = x->line, .column = x->column,
                       .p = x->src + x->pos, .size = (uint32_t)(end - x->pos)};
    return end > x->pos;
}

static char sign_at(const tn_jlex *x, size_t pos)
{
    return pos < x->size && (x->src[pos] == '-' || x->src[pos] == '+') ? x->src[pos] : 0;
}

static bool comment(tn_jlex *x)
{
    const char *end = tn_jutf_find(x->src + x->pos, x->size - x->pos, "#}", 2);
    if (end == NULL)
        return fail_here(x, "a comment begins here; expected its end #}");
    size_t pos = (size_t)(end - x->src);
    if (pos > x->pos && sign_at(x, pos - 1) != 0)
        pos--;
    step_to(x, after_end(x, pos, "#}"));
    return true;
}

/* {% raw %} at `pos`: where its text begins, 0 when it is another tag. */
static size_t raw_begin(const tn_jlex *x, size_t pos)
{
    pos += 2;
    pos = skip_space(x, pos + (sign_at(x, pos) != 0));
    if (!at(x, pos, "raw"))
        return 0;
    pos = skip_space(x, pos + 3);
    if (at(x, pos, "-%}"))
        return skip_space(x, pos + 3);
    return at(x, pos, "%}") ? pos + 2 : 0;
}

/* {% endraw %} at `pos`: where it ends, 0 when it is another tag. */
static size_t raw_end(const tn_jlex *x, size_t pos)
{
    pos += 2;
    pos = skip_space(x, pos + (sign_at(x, pos) != 0));
    return at(x, pos, "endraw") ? after_end(x, skip_space(x, pos + 6), "%}") : 0;
}

/* *got: there is text to hand out. */
static bool raw_text(tn_jlex *x, bool *got, tn_jtoken *out)
{
    size_t pos = x->pos, after = 0;
    for (;; pos += 2) {
        const char *p = tn_jutf_find(x->src + pos, x->size - pos, "{%", 2);
        if (p == NULL)
            return fail_here(x, "a raw block begins here; expected {% endraw %}");
        pos = (size_t)(p - x->src);
        after = raw_end(x, pos);
        if (after != 0)
            break;
    }
    *got = data_token(x, text_end(x, pos, sign_at(x, pos + 2), false), out);
    step_to(x, after);
    return true;
}

static size_t next_tag(const tn_jlex *x)
{
    size_t pos = x->pos;
    for (;; pos++) {
        const char *p = pos < x->size ? memchr(x->src + pos, '{', x->size - pos) : NULL;
        if (p == NULL)
            return x->size;
        pos = (size_t)(p - x->src);
        if (pos + 1 < x->size && strchr("{%#", x->src[pos + 1]) != NULL && x->src[pos + 1] != 0)
            return pos;
    }
}

/* One piece of text and the tag behind it. The text is handed out first; the begin of the tag
 * is what the next call finds, because the state has changed and `pos` stands on it. */
static bool text(tn_jlex *x, bool *got, tn_jtoken *out)
{
    size_t tag = next_tag(x);
    if (tag == x->size) {
        *got = data_token(x, tag, out);
        step_to(x, tag);
        return true;
    }
    char kind = x->src[tag + 1], sign = sign_at(x, tag + 2);
    size_t raw = kind == '%' ? raw_begin(x, tag) : 0;
    *got = data_token(x, text_end(x, tag, sign, kind == '{'), out);
    if (*got) {
        x->pos = tag;                 /* come back for the tag, its text is done */
        x->line_starting = false;
        return true;
    }
    if (raw != 0) {
        step_to(x, raw);
        return raw_text(x, got, out);
    }
    locate(x, tag);
    if (kind == '#') {
        x->pos = tag + 2 + (sign != 0);
        return comment(x);
    }
    *out = (tn_jtoken){.type = kind == '%' ? TN_JTOK_BLOCK_BEGIN : TN_JTOK_VAR_BEGIN,
                       .line = x->line, .column = x->column, .p = x->src + tag, .size = 2};
    step_to(x, tag + 2 + (sign != 0));
    x->state = kind == '%' ? STATE_BLOCK : STATE_VARIABLE;
    *got = true;
    return true;
}

/* ---------------------------------------------------------------------- inside the tags */

static size_t digits(const tn_jlex *x, size_t pos)
{
    while (pos < x->size && is_digit(x->src[pos])) {
        pos++;
        if (pos + 1 < x->size && x->src[pos] == '_' && is_digit(x->src[pos + 1]))
            pos++;
    }
    return pos;
}

static size_t exponent(const tn_jlex *x, size_t pos)
{
    if (pos >= x->size || (x->src[pos] != 'e' && x->src[pos] != 'E'))
        return 0;
    pos++;
    pos += sign_at(x, pos) != 0;
    size_t end = digits(x, pos);
    return end > pos ? end : 0;
}

static size_t float_end(const tn_jlex *x, size_t pos)
{
    if (pos > 0 && x->src[pos - 1] == '.')
        return 0;
    size_t end = digits(x, pos);
    if (end == pos)
        return 0;
    if (end + 1 < x->size && x->src[end] == '.' && is_digit(x->src[end + 1])) {
        end = digits(x, end + 1);
        size_t more = exponent(x, end);
        return more != 0 ? more : end;
    }
    return exponent(x, end);
}

static bool is_digit_of(char c, int base)
{
    if (is_digit(c))
        return c - '0' < base;
    char low = (char)(c | 0x20);
    return base == 16 && low >= 'a' && low <= 'f';
}

static size_t based_end(const tn_jlex *x, size_t pos, int base)
{
    size_t end = pos;
    for (;;) {
        size_t i = end + (end < x->size && x->src[end] == '_');
        if (i >= x->size || !is_digit_of(x->src[i], base))
            return end;
        end = i + 1;
    }
}

/* Where the integer at `pos` ends; a zero is followed by zeros only. */
static size_t int_end(const tn_jlex *x, size_t pos, int *base)
{
    *base = 10;
    if (x->src[pos] == '0') {
        char kind = pos + 1 < x->size ? (char)(x->src[pos + 1] | 0x20) : 0;
        int b = kind == 'b' ? 2 : kind == 'o' ? 8 : kind == 'x' ? 16 : 0;
        if (b != 0 && based_end(x, pos + 2, b) > pos + 2) {
            *base = b;
            return based_end(x, pos + 2, b);
        }
        size_t end = pos + 1;
        for (;;) {
            size_t i = end + (end < x->size && x->src[end] == '_');
            if (i >= x->size || x->src[i] != '0')
                return end;
            end = i + 1;
        }
    }
    return digits(x, pos);
}

static bool number(tn_jlex *x, tn_jtoken *out)
{
    int base = 10;
    size_t end = float_end(x, x->pos);
    out->type = end != 0 ? TN_JTOK_FLOAT : TN_JTOK_INT;
    if (end == 0)
        end = int_end(x, x->pos, &base);
    out->size = (uint32_t)(end - x->pos);
    char *plain = tn_arena_take(x->arena, out->size + 1);
    if (plain == NULL)
        return fail_here(x, "no memory for a number");
    size_t n = 0;
    for (size_t i = x->pos; i < end; i++)
        if (x->src[i] != '_')
            plain[n++] = x->src[i];
    if (out->type == TN_JTOK_FLOAT) {
        if (!tn_jfloat_parse(plain, n, &out->f))
            return fail_here(x, "a number that cannot be read");
    } else if (tn_jint_parse(plain, n, base, &out->i) != TN_JPARSE_OK) {
        return fail_here(x, "an integer that does not fit 64 bits");
    }
    step_to(x, end);
    return true;
}

static bool name(tn_jlex *x, tn_jtoken *out)
{
    const char *p = x->src + x->pos, *end = x->src + x->size;
    while (p < end) {
        const char *q = p;
        if ((tn_jchar_bits(tn_jutf_next(&q)) & TN_JCHAR_CONTINUE) == 0)
            break;
        p = q;
    }
    out->type = TN_JTOK_NAME;
    out->size = (uint32_t)(p - out->p);
    step_to(x, (size_t)(p - x->src));
    return true;
}

static int hex_value(char c)
{
    if (is_digit(c))
        return c - '0';
    char low = (char)(c | 0x20);
    return low >= 'a' && low <= 'f' ? low - 'a' + 10 : -1;
}

/* \xNN, \uNNNN, \UNNNNNNNN behind the letter; -1 when the digits are not there. */
static int64_t hex_digits(const char *p, const char *end, int count)
{
    int64_t v = 0;
    for (int i = 0; i < count; i++) {
        int d = p + i < end ? hex_value(p[i]) : -1;
        if (d < 0)
            return -1;
        v = v * 16 + d;
    }
    return v;
}

/* What one escape means, in *cp, and how many bytes it takes behind the backslash. 0 bytes: it
 * is no escape, the backslash stands for itself. False: it is a broken one. */
static bool escape(const char *p, const char *end, int64_t *cp, size_t *taken)
{
    static const char letters[] = "abfnrtv\\'\"", means[] = "\a\b\f\n\r\t\v\\'\"";
    const char *hit = *p != 0 ? strchr(letters, *p) : NULL;
    *taken = 1;
    if (hit != NULL) {
        *cp = means[hit - letters];
        return true;
    }
    if (*p >= '0' && *p <= '7') {
        int64_t v = 0;
        size_t n = 0;
        for (; n < 3 && p + n < end && p[n] >= '0' && p[n] <= '7'; n++)
            v = v * 8 + (p[n] - '0');
        *cp = v;
        *taken = n;
        return true;
    }
    int count = *p == 'x' ? 2 : *p == 'u' ? 4 : *p == 'U' ? 8 : 0;
    if (count == 0) {
        *taken = 0;
        return *p != 'N';
    }
    *cp = hex_digits(p + 1, end, count);
    *taken = (size_t)count + 1;
    return *cp >= 0 && *cp < 0x110000 && (*cp < 0xd800 || *cp > 0xdfff);
}

/* Python takes a string apart byte by byte after writing what is not ASCII as escapes, so a
 * backslash before such a character guards the escape: "\é" is \xe9 in four characters. */
static size_t guarded(char *to, const char **p)
{
    uint32_t cp = tn_jutf_next(p);
    const char *fmt = cp < 0x100 ? "\\x%02x" : cp < 0x10000 ? "\\u%04x" : "\\U%08x";
    char buf[16];
    int n = snprintf(buf, sizeof buf, fmt, cp);
    memcpy(to, buf, (size_t)n);
    return (size_t)n;
}

static bool unescape(tn_jlex *x, const char *p, const char *end, tn_jtoken *out)
{
    /* Only a guarded character grows: \ and 2 to 4 bytes become 4, 6 or 10. */
    char *to = tn_arena_take(x->arena, (size_t)(end - p) * 3 + 1);
    size_t n = 0;
    if (to == NULL)
        return fail_here(x, "no memory for a string");
    while (p < end) {
        if (*p != '\\') {
            to[n++] = *p++;
            continue;
        }
        int64_t cp = 0;
        size_t taken = 0;
        if (!escape(p + 1, end, &cp, &taken))
            return fail_here(x, "an escape in this string that has no character");
        if (taken > 0) {
            n += tn_jutf_encode((uint32_t)cp, to + n);
            p += 1 + taken;
        } else if (p[1] == '\n') {
            p += 2;
        } else if ((unsigned char)p[1] >= 0x80) {
            p++;
            n += guarded(to + n, &p);
        } else {
            to[n++] = *p++;
            to[n++] = *p++;
        }
    }
    out->p = to;
    out->size = (uint32_t)n;
    return true;
}

static bool string(tn_jlex *x, tn_jtoken *out)
{
    char quote = x->src[x->pos];
    size_t end = x->pos + 1;
    bool plain = true;
    while (end < x->size && x->src[end] != quote) {
        plain = plain && x->src[end] != '\\';
        end += 1 + (x->src[end] == '\\');
    }
    if (end >= x->size)
        return fail_here(x, "a string begins here; expected its closing quote");
    out->type = TN_JTOK_STRING;
    out->p = x->src + x->pos + 1;
    out->size = (uint32_t)(end - x->pos - 1);
    if (!plain && !unescape(x, out->p, x->src + end, out))
        return false;
    step_to(x, end + 1);
    return true;
}

/* Brackets are matched here so that }} and %} inside them are operators. */
static bool balance(tn_jlex *x, char c)
{
    if (c == '(' || c == '[' || c == '{') {
        if (x->nopen == TN_JLEX_OPEN_MAX)
            return fail_here(x, "brackets are nested too deep");
        x->open[x->nopen++] = c == '(' ? ')' : c == '[' ? ']' : '}';
        return true;
    }
    if (c != ')' && c != ']' && c != '}')
        return true;
    if (x->nopen == 0)
        return tn_jlex_fail(x, x->line, x->column, "unexpected '%c'", c);
    char wanted = x->open[--x->nopen];
    return c == wanted
           || tn_jlex_fail(x, x->line, x->column, "unexpected '%c'; expected '%c'", c, wanted);
}

static bool operator(tn_jlex *x, tn_jtoken *out)
{
    for (size_t n = 2; n >= 1; n--)
        for (int t = TN_JTOK_ADD; t <= TN_JTOK_SEMICOLON; t++)
            if (strlen(names[t]) == n && at(x, x->pos, names[t])) {
                out->type = (tn_jtok)t;
                out->size = (uint32_t)n;
                if (n == 1 && !balance(x, names[t][0]))
                    return false;
                step_to(x, x->pos + n);
                return true;
            }
    tn_quoted q;
    const char *p = x->src + x->pos, *from = p;
    tn_jutf_next(&p);
    return tn_jlex_fail(x, x->line, x->column, "unexpected character %s",
                        tn_quote(&q, from, (size_t)(p - from)));
}

/* The end of the tag at `pos`: where it leads, 0 when it goes on. */
static size_t tag_end(const tn_jlex *x)
{
    if (x->nopen > 0)
        return 0;
    if (x->state == STATE_BLOCK)
        return after_end(x, x->pos, "%}");
    if (at(x, x->pos, "-}}"))
        return skip_space(x, x->pos + 3);
    return at(x, x->pos, "}}") ? x->pos + 2 : 0;
}

static bool inside(tn_jlex *x, tn_jtoken *out)
{
    size_t end = 0;
    for (;;) {
        if (x->pos >= x->size) {
            locate(x, x->size);
            *out = (tn_jtoken){.type = TN_JTOK_EOF, .line = x->line, .column = x->column};
            return true;
        }
        end = tag_end(x);
        size_t blank = skip_space(x, x->pos);
        if (end != 0 || blank == x->pos)
            break;
        step_to(x, blank);
    }
    locate(x, x->pos);
    *out = (tn_jtoken){.line = x->line, .column = x->column, .p = x->src + x->pos};
    if (end != 0) {
        out->type = x->state == STATE_BLOCK ? TN_JTOK_BLOCK_END : TN_JTOK_VAR_END;
        out->size = 2;
        step_to(x, end);
        x->state = STATE_TEXT;
        return true;
    }
    char c = x->src[x->pos];
    const char *p = x->src + x->pos;
    if (is_digit(c))
        return number(x, out);
    if ((tn_jchar_bits(tn_jutf_next(&p)) & TN_JCHAR_START) != 0)
        return name(x, out);
    if (c == '"' || c == '\'')
        return string(x, out);
    return operator(x, out);
}

bool tn_jlex_next(tn_jlex *x, tn_jtoken *out)
{
    if (x->state != STATE_TEXT)
        return inside(x, out);
    for (;;) {
        bool got = false;
        if (x->pos >= x->size && x->state == STATE_TEXT) {
            locate(x, x->size);
            *out = (tn_jtoken){.type = TN_JTOK_EOF, .line = x->line, .column = x->column};
            return true;
        }
        if (!text(x, &got, out))
            return false;
        if (got)
            return true;
    }
}
