/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_spec.c - format(value, spec): Python's format specification.
 *
 * [[fill]align][sign][z][#][0][width][, or _][.precision][type] */
#include "jinja_strings.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PRECISION_MAX 100000
#define DIGITS_ROOM 512       /* what a double may need besides its precision */
#define SMALL_ROOM 72

typedef struct spec {
    uint32_t fill;
    char align, sign, type, group;
    bool alt, no_minus_zero, has_width;
    int64_t width, precision;     /* precision -1: none */
} spec;

/* ------------------------------------------------------------------------------- digits */

/* Whatever stands for the decimal point in the process's locale becomes a point. */
static size_t tidy_point(char *text)
{
    size_t n = 0;
    bool inside = false;
    for (const char *p = text; *p != 0; p++) {
        bool point = strchr("0123456789+-eEinfaxINFA", *p) == NULL;
        if (!point)
            text[n++] = *p;
        else if (!inside)
            text[n++] = '.';
        inside = point;
    }
    text[n] = 0;
    return n;
}

static bool fits(tn_jrun *r, int64_t precision)
{
    return precision <= PRECISION_MAX
           || tn_jrun_fail(r, "a precision of %" PRId64 "; expected at most %d", precision,
                           PRECISION_MAX);
}

bool tn_jfloat_put(tn_jtext *t, double v, char kind, int64_t precision, bool alt)
{
    bool up = kind >= 'A' && kind <= 'Z';
    v = fabs(v);
    if (!isfinite(v)) {
        tn_jtext_puts(t, isnan(v) ? up ? "NAN" : "nan" : up ? "INF" : "inf");
        return true;
    }
    TN_TRY(fits(t->r, precision));
    size_t room = (size_t)precision + DIGITS_ROOM;
    char *text = tn_jrun_take(t->r, room);
    if (text == NULL)
        return false;
    char fmt[8] = {'%', '#', '.', '*', kind, 0};
    if (!alt)
        memmove(fmt + 1, fmt + 2, 5);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    snprintf(text, room, fmt, (int)precision, v);
#pragma GCC diagnostic pop
    tidy_point(text);
    tn_jtext_puts(t, text);
    return true;
}

/* What format() does without a type: like g, but never like an integer, so that one digit
 * less fits before it changes to an exponent. */
static bool put_untyped(tn_jtext *t, double v, int64_t precision, bool alt)
{
    TN_TRY(fits(t->r, precision));
    int64_t most = precision > 0 ? precision : 1, n = 0;
    char *digits = tn_jrun_take(t->r, (size_t)most + DIGITS_ROOM);
    if (digits == NULL)
        return false;
    snprintf(digits, (size_t)most + DIGITS_ROOM, "%.*e", (int)most - 1, v);
    char *e = strchr(digits, 'e');
    int64_t point = (e != NULL ? strtol(e + 1, NULL, 10) : 0) + 1, exp = point - 1;
    for (const char *p = digits; p != e && *p != 0; p++)
        if (*p >= '0' && *p <= '9')
            digits[n++] = *p;
    while (n > 1 && digits[n - 1] == '0')
        n--;
    bool use_exp = point <= -4 || point > most - 1;
    int64_t end = alt ? most : n;
    point = use_exp ? 1 : point;
    end = end > point ? end : point + !use_exp;
    for (int64_t i = point <= 0 ? point - 1 : 0; i < end; i++) {
        if (i == point)
            tn_jtext_putc(t, '.');
        tn_jtext_putc(t, i >= 0 && i < n ? digits[i] : '0');
    }
    if (end == point && alt)
        tn_jtext_putc(t, '.');
    char tail[32];
    snprintf(tail, sizeof tail, "e%c%02d", exp < 0 ? '-' : '+', abs((int)exp));
    if (use_exp)
        tn_jtext_puts(t, tail);
    return !t->failed;
}

/* repr, with a point in any case when `alt`. */
static void put_repr(tn_jtext *t, double v, bool alt)
{
    char text[32];
    size_t n = tn_jfloat_repr(v, text), whole = strcspn(text, ".einf");
    tn_jtext_put(t, text, whole);
    if (alt && text[whole] == 'e')
        tn_jtext_putc(t, '.');
    tn_jtext_put(t, text + whole, n - whole);
}

/* ------------------------------------------------------------------------------- reading */

static bool is_align(uint32_t cp)
{
    return cp == '<' || cp == '>' || cp == '=' || cp == '^';
}

static bool number(tn_jrun *r, const char **p, const char *end, int64_t *out)
{
    *out = 0;
    for (; *p < end && **p >= '0' && **p <= '9'; ++*p)
        if (__builtin_mul_overflow(*out, 10, out)
            || __builtin_add_overflow(*out, **p - '0', out))
            return tn_jrun_fail(r, "too many decimal digits in format string");
    return true;
}

static bool take(const char **p, const char *end, char c)
{
    if (*p == end || **p != c)
        return false;
    ++*p;
    return true;
}

static void read_align(spec *s, const char **p, const char *end)
{
    const char *q = *p;
    if (q == end)
        return;
    uint32_t first = tn_jutf_next(&q);
    if (q < end && is_align((unsigned char)*q)) {
        s->fill = first;
        s->align = *q;
        *p = q + 1;
    } else if (is_align(first)) {
        s->align = (char)first;
        *p = q;
    }
}

static bool read_spec(tn_jrun *r, const char *p, size_t size, bool is_number, spec *s)
{
    const char *end = p + size;
    *s = (spec){.fill = ' ', .precision = -1};
    read_align(s, &p, end);
    if (p < end && (*p == '+' || *p == '-' || *p == ' '))
        s->sign = *p++;
    s->no_minus_zero = take(&p, end, 'z');
    s->alt = take(&p, end, '#');
    if (take(&p, end, '0')) {
        if (s->align == 0) {
            s->fill = '0';
            s->align = is_number ? '=' : '<';
        } else if (s->fill == ' ') {
            s->fill = '0';
        }
    }
    const char *digits = p;
    TN_TRY(number(r, &p, end, &s->width));
    s->has_width = p > digits;
    if (p < end && (*p == ',' || *p == '_'))
        s->group = *p++;
    if (p < end && (*p == ',' || *p == '_'))
        return tn_jrun_fail(r, "Cannot specify both ',' and '_'.");
    if (take(&p, end, '.')) {
        digits = p;
        TN_TRY(number(r, &p, end, &s->precision));
        if (p == digits)
            return tn_jrun_fail(r, "Format specifier missing precision");
    }
    if (end - p > 1)
        return tn_jrun_fail(r, "Invalid format specifier");
    if (p < end)
        s->type = *p;
    return true;
}

/* -------------------------------------------------------------------------------- writing */

static void put_padded(tn_jtext *t, const spec *s, char align, const char *p, size_t size,
                       uint64_t chars)
{
    uint64_t room = s->width > 0 && (uint64_t)s->width > chars ? (uint64_t)s->width - chars : 0;
    uint64_t left = align == '>' ? room : align == '^' ? room / 2 : 0;
    tn_jtext_fill(t, s->fill, left);
    tn_jtext_put(t, p, size);
    tn_jtext_fill(t, s->fill, room - left);
}

static bool unknown_type(tn_jrun *r, const spec *s, tn_jval v)
{
    return tn_jrun_fail(r, "Unknown format code '%c' for object of type '%s'",
                        s->type >= ' ' ? s->type : '?', tn_jval_kind(v));
}

static bool format_text(tn_jrun *r, tn_jval v, const spec *s, tn_jtext *t)
{
    const tn_jstr *str = v.as.s;
    if (s->type != 0 && s->type != 's')
        return unknown_type(r, s, v);
    if (s->sign != 0)
        return tn_jrun_fail(r, "Sign not allowed in string format specifier");
    if (s->alt)
        return tn_jrun_fail(r, "Alternate form (#) not allowed in string format specifier");
    if (s->align == '=')
        return tn_jrun_fail(r, "'=' alignment not allowed in string format specifier");
    if (s->group != 0 || s->no_minus_zero)
        return tn_jrun_fail(r, "Cannot specify '%c' with 's'.", s->group != 0 ? s->group : 'z');
    size_t size = str->size;
    uint64_t chars = str->chars;
    if (s->precision >= 0 && (uint64_t)s->precision < chars) {
        chars = (uint64_t)s->precision;
        size = tn_jutf_skip(str->p, str->size, (size_t)chars);
    }
    put_padded(t, s, s->align != 0 ? s->align : '<', str->p, size, chars);
    return tn_jrun_burn_bytes(r, size);
}

/* Sign, prefix and digits; `whole` of them are before a point or exponent and are grouped. */
static bool put_number(tn_jtext *t, const spec *s, bool negative, const char *prefix,
                       const char *digits, size_t whole, uint32_t every)
{
    char sign = negative ? '-' : s->sign == '+' || s->sign == ' ' ? s->sign : 0;
    size_t head = (sign != 0) + strlen(prefix), size = strlen(digits);
    uint64_t zeros = 0, width = s->width > 0 ? (uint64_t)s->width : 0;
    bool inside = s->align == '=';
    if (s->group != 0 && inside && s->fill == '0') {
        /* Padding zeros are grouped with the digits, and a group never begins the number. */
        uint64_t want = width > head + size - whole ? width - head - (size - whole) : 0;
        uint64_t n = whole;
        if (want > TN_JINJA_MEMORY_MAX)
            return tn_jrun_fail(t->r, "a width of %" PRId64 " is too large", s->width);
        while (n + (n - 1) / every < want)
            n++;
        zeros = n - whole;
    }
    uint64_t n = whole + zeros, marks = s->group != 0 && n > 0 ? (n - 1) / every : 0;
    uint64_t total = head + n + marks + (size - whole);
    uint64_t room = width > total ? width - total : 0;
    char align = s->align != 0 ? s->align : '>';
    uint64_t left = align == '>' ? room : align == '^' ? room / 2 : 0;
    tn_jtext_fill(t, s->fill, left);
    if (sign != 0)
        tn_jtext_putc(t, sign);
    tn_jtext_puts(t, prefix);
    if (align == '=')
        tn_jtext_fill(t, s->fill, room);
    for (uint64_t i = 0; i < n && !t->failed; i++) {
        if (marks > 0 && i > 0 && (n - i) % every == 0)
            tn_jtext_putc(t, s->group);
        tn_jtext_putc(t, i < zeros ? '0' : digits[i - zeros]);
    }
    tn_jtext_puts(t, digits + whole);
    if (align == '<' || align == '^')
        tn_jtext_fill(t, s->fill, room - left);
    return true;
}

static size_t int_digits(uint64_t u, unsigned base, bool upper, char out[SMALL_ROOM])
{
    const char *set = upper ? "0123456789ABCDEF" : "0123456789abcdef";
    char back[SMALL_ROOM];
    size_t n = 0;
    do {
        back[n++] = set[u % base];
        u /= base;
    } while (u > 0);
    for (size_t i = 0; i < n; i++)
        out[i] = back[n - 1 - i];
    out[n] = 0;
    return n;
}

static bool format_char(tn_jrun *r, int64_t i, const spec *s, tn_jtext *t)
{
    char buf[4];
    if (s->sign != 0 || s->alt)
        return tn_jrun_fail(r, "Sign and # are not allowed with integer format specifier 'c'");
    if (i < 0 || i >= 0x110000 || (i >= 0xd800 && i <= 0xdfff))
        return tn_jrun_fail(r, "%%c arg not in range(0x110000)");
    size_t n = tn_jutf_encode((uint32_t)i, buf);
    put_padded(t, s, s->align != 0 && s->align != '=' ? s->align : '>', buf, n, 1);
    return true;
}

static bool format_float(tn_jrun *r, tn_jval v, const spec *s, tn_jtext *t);

static bool format_int(tn_jrun *r, tn_jval v, const spec *s, tn_jtext *t)
{
    char digits[SMALL_ROOM];
    int64_t i = tn_jval_int(v);
    unsigned base = 10;
    const char *prefix = "";
    switch (s->type) {
    case 0:
    case 'd':
    case 'n': break;
    case 'b': base = 2; prefix = "0b"; break;
    case 'o': base = 8; prefix = "0o"; break;
    case 'x': base = 16; prefix = "0x"; break;
    case 'X': base = 16; prefix = "0X"; break;
    case 'c': break;
    case 'e':
    case 'E':
    case 'f':
    case 'F':
    case 'g':
    case 'G':
    case '%': return format_float(r, tn_jfloat((double)i), s, t);
    default: return unknown_type(r, s, v);
    }
    if (s->precision >= 0)
        return tn_jrun_fail(r, "Precision not allowed in integer format specifier");
    if (s->no_minus_zero)
        return tn_jrun_fail(r, "Negative zero coercion (z) not allowed in integer format");
    if (s->group != 0 && (s->type == 'n' || s->type == 'c' || (s->group == ',' && base != 10)))
        return tn_jrun_fail(r, "Cannot specify '%c' with '%c'.", s->group, s->type);
    if (s->type == 'c')
        return format_char(r, i, s, t);
    size_t n = int_digits(i < 0 ? 0 - (uint64_t)i : (uint64_t)i, base, s->type == 'X', digits);
    return put_number(t, s, i < 0, s->alt ? prefix : "", digits, n, base == 10 ? 3 : 4);
}

static bool format_float(tn_jrun *r, tn_jval v, const spec *s, tn_jtext *t)
{
    double f = v.as.f;
    char type = s->type;
    int64_t precision = s->precision < 0 ? 6 : s->precision;
    tn_jtext digits;
    tn_jval text;
    tn_jtext_open(&digits, r, 0);
    if (type == 'n' && s->group != 0)
        return tn_jrun_fail(r, "Cannot specify '%c' with 'n'.", s->group);
    if (type == 0 && (s->precision < 0 || !isfinite(f))) {
        put_repr(&digits, fabs(f), s->alt);
    } else if (type == 0) {
        TN_TRY(put_untyped(&digits, fabs(f), precision, s->alt));
    } else if (type == '%') {
        TN_TRY(tn_jfloat_put(&digits, f * 100, 'f', precision, s->alt));
        tn_jtext_putc(&digits, '%');
    } else if (strchr("eEfFgGn", type) != NULL) {
        TN_TRY(tn_jfloat_put(&digits, f, type == 'n' ? 'g' : type, precision, s->alt));
    } else {
        return unknown_type(r, s, v);
    }
    tn_jtext_putc(&digits, 0); /* a terminator for put_number */
    TN_TRY(tn_jtext_close(&digits, &text));
    const char *p = text.as.s->p;
    bool negative = signbit(f) && !isnan(f);
    if (negative && s->no_minus_zero && strspn(p, "0.%") == strlen(p))
        negative = false;
    spec used = *s;
    if (!isfinite(f) && used.fill == '0' && used.align == '=')
        used.group = 0;
    return put_number(t, &used, negative, "", p, strspn(p, "0123456789"), 3);
}

bool tn_jval_format_spec(tn_jrun *r, tn_jval v, const char *p, size_t size, tn_jtext *t)
{
    tn_jval text;
    spec s;
    if (size == 0) {
        TN_TRY(tn_jval_str(r, v, &text));
        tn_jtext_put_str(t, text);
        return !t->failed;
    }
    if (v.type != TN_J_STR && !tn_jval_is_number(v))
        return tn_jrun_fail(r, "unsupported format string passed to %s.__format__",
                            tn_jval_kind(v));
    TN_TRY(read_spec(r, p, size, v.type != TN_J_STR, &s));
    if (v.type == TN_J_STR)
        TN_TRY(format_text(r, v, &s, t));
    else
        TN_TRY(v.type == TN_J_FLOAT ? format_float(r, v, &s, t) : format_int(r, v, &s, t));
    return !t->failed;
}

bool tn_jval_ascii(tn_jrun *r, tn_jval v, tn_jval *out)
{
    tn_jtext t;
    tn_jval plain;
    tn_jtext_open(&t, r, 0);
    TN_TRY(tn_jval_repr(r, v, &t) && tn_jtext_close(&t, &plain));
    if (tn_jstr_ascii(plain.as.s)) {
        *out = plain;
        return true;
    }
    tn_jtext_open(&t, r, 0);
    for (const char *p = plain.as.s->p, *end = p + plain.as.s->size; p < end && !t.failed;) {
        uint32_t cp = tn_jutf_next(&p);
        if (cp < 0x80 || cp == r->mark)
            tn_jtext_put_cp(&t, cp);
        else
            tn_jtext_put_hex(&t, cp);
    }
    return tn_jtext_close(&t, out);
}
