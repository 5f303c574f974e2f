/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_number.c - numbers read and written as Python does, the same in every locale. */
#include "jinja_value.h"

#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DIGITS_MAX 17          /* enough to tell any two doubles apart */
#define NUMBER_TEXT_MAX 1100u  /* longer decimals are no numbers a template reads */

/* -------------------------------------------------------------------------------- writing */

/* The digits and the exponent of v (d.ddd x 10^exp) with `n` digits, correctly rounded. */
static void digits_of(double v, int n, char digits[DIGITS_MAX + 1], int *exp)
{
    char text[48];
    snprintf(text, sizeof text, "%.*e", n - 1, v);
    int used = 0;
    const char *p = text;
    for (; *p != 0 && *p != 'e'; p++)
        if (*p >= '0' && *p <= '9')
            digits[used++] = *p;
    digits[used] = 0;
    *exp = *p == 'e' ? (int)strtol(p + 1, NULL, 10) : 0;
}

/* What the digits read back as; composed anew, so the locale's decimal sign plays no part. */
static double value_of(const char *digits, int exp)
{
    char text[48];
    snprintf(text, sizeof text, "%se%d", digits, exp - (int)strlen(digits) + 1);
    return strtod(text, NULL);
}

/* The next decimal upwards with as many digits. */
static void count_up(char *digits, int *exp)
{
    size_t i = strlen(digits);
    while (i > 0 && digits[i - 1] == '9')
        digits[--i] = '0';
    if (i > 0) {
        digits[i - 1]++;
        return;
    }
    digits[0] = '1';
    *exp += 1;
}

/* The fewest digits that read back as v. A power of two lies closer to its lower neighbour, so
 * the nearest decimal may miss where the next one up still hits. */
static void shortest(double v, char digits[DIGITS_MAX + 1], int *exp)
{
    int unused;
    bool power = frexp(v, &unused) == 0.5;
    for (int n = 1; n <= DIGITS_MAX; n++) {
        digits_of(v, n, digits, exp);
        if (value_of(digits, *exp) == v)
            return;
        if (!power)
            continue;
        char up[DIGITS_MAX + 1];
        int up_exp = *exp;
        memcpy(up, digits, sizeof up);
        count_up(up, &up_exp);
        if (value_of(up, up_exp) == v) {
            memcpy(digits, up, sizeof up);
            *exp = up_exp;
            return;
        }
    }
}

size_t tn_jfloat_repr(double v, char out[32])
{
    char digits[DIGITS_MAX + 1];
    int exp = 0, n = 0;
    if (isnan(v))
        return (size_t)snprintf(out, 32, "nan");
    if (isinf(v))
        return (size_t)snprintf(out, 32, v < 0 ? "-inf" : "inf");
    if (signbit(v))
        out[n++] = '-';
    if (v == 0)
        memcpy(digits, "0", 2);
    else
        shortest(fabs(v), digits, &exp);
    int count = (int)strlen(digits);
    if (exp < -4 || exp >= 16) {
        out[n++] = digits[0];
        if (count > 1)
            n += snprintf(out + n, 32 - (size_t)n, ".%s", digits + 1);
        n += snprintf(out + n, 32 - (size_t)n, "e%c%02d", exp < 0 ? '-' : '+', abs(exp));
    } else if (exp < 0) {
        n += snprintf(out + n, 32 - (size_t)n, "0.%.*s%s", -exp - 1, "0000", digits);
    } else if (count <= exp + 1) {
        n += snprintf(out + n, 32 - (size_t)n, "%s%.*s.0", digits, exp + 1 - count,
                      "0000000000000000");
    } else {
        n += snprintf(out + n, 32 - (size_t)n, "%.*s.%s", exp + 1, digits, digits + exp + 1);
    }
    return (size_t)n;
}

/* -------------------------------------------------------------------------------- reading */

/* Blanks around are allowed, other scripts' digits count, one underscore may stand between
 * two digits. The plain ASCII goes to `out`; 0: it is no number or too long. */
static size_t plain_number(const char *p, size_t size, char out[NUMBER_TEXT_MAX])
{
    const char *end = p + size, *q;
    size_t n = 0;
    while (p < end && (q = p, tn_jchar_is_space(tn_jutf_next(&q))))
        p = q;
    while (end > p && (q = end, tn_jchar_is_space(tn_jutf_prev(&q))))
        end = q;
    bool after_digit = false;
    while (p < end) {
        uint32_t cp = tn_jutf_next(&p);
        int digit = tn_jchar_digit(cp);
        if (cp == '_') {
            q = p;
            if (!after_digit || p >= end || !tn_jchar_is_word(tn_jutf_next(&q)))
                return 0;
            after_digit = false;
            continue;
        }
        if (n == NUMBER_TEXT_MAX - 1 || (digit < 0 && cp >= 0x80))
            return 0;
        out[n++] = digit >= 0 ? (char)('0' + digit) : (char)cp;
        after_digit = digit >= 0 || (cp >= 'a' && cp <= 'z') || (cp >= 'A' && cp <= 'Z');
    }
    out[n] = 0;
    return n;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool word_is(const char *s, const char *word)
{
    for (; *s != 0 && *word != 0; s++, word++)
        if ((*s | 0x20) != *word)
            return false;
    return *s == 0 && *word == 0;
}

static bool is_decimal(const char *s)
{
    size_t count = 0;
    for (; is_digit(*s); s++)
        count++;
    if (*s == '.')
        for (s++; is_digit(*s); s++)
            count++;
    if (count == 0)
        return false;
    if (*s == 'e' || *s == 'E') {
        s++;
        s += *s == '-' || *s == '+';
        if (!is_digit(*s))
            return false;
        while (is_digit(*s))
            s++;
    }
    return *s == 0;
}

bool tn_jfloat_parse(const char *p, size_t size, double *out)
{
    char text[NUMBER_TEXT_MAX];
    size_t n = plain_number(p, size, text);
    if (n == 0 || strlen(text) != n)
        return false;
    const char *s = text + (*text == '-' || *text == '+');
    if (word_is(s, "inf") || word_is(s, "infinity")) {
        *out = *text == '-' ? -HUGE_VAL : HUGE_VAL;
        return true;
    }
    if (word_is(s, "nan")) {
        *out = NAN;
        return true;
    }
    if (!is_decimal(s))
        return false;
    locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    if (c == (locale_t)0)
        return false;
    *out = strtod_l(text, NULL, c);
    freelocale(c);
    return true;
}

static int digit_of(char c)
{
    if (is_digit(c))
        return c - '0';
    char low = (char)(c | 0x20);
    return low >= 'a' && low <= 'z' ? low - 'a' + 10 : 36;
}

/* The base of a prefix such as 0x, 0 when there is none. */
static int prefix_base(const char *s)
{
    if (s[0] != '0')
        return 0;
    char low = (char)(s[1] | 0x20);
    return low == 'x' ? 16 : low == 'o' ? 8 : low == 'b' ? 2 : 0;
}

tn_jparse tn_jint_parse(const char *p, size_t size, int base, int64_t *out)
{
    char text[NUMBER_TEXT_MAX];
    if (base != 0 && (base < 2 || base > 36))
        return TN_JPARSE_BAD;
    size_t n = plain_number(p, size, text);
    if (n == 0 || strlen(text) != n)
        return n == 0 && size >= NUMBER_TEXT_MAX ? TN_JPARSE_HUGE : TN_JPARSE_BAD;
    const char *s = text + (*text == '-' || *text == '+');
    int prefix = prefix_base(s);
    if (prefix != 0 && (base == 0 || base == prefix) && digit_of(s[2]) < prefix) {
        s += 2;
        base = prefix;
    }
    if (base == 0) {
        base = 10;
        if (s[0] == '0' && strspn(s, "0") != strlen(s))
            return TN_JPARSE_BAD;
    }
    int64_t v = 0;
    bool huge = false;
    if (*s == 0)
        return TN_JPARSE_BAD;
    for (; *s != 0; s++) {
        int d = digit_of(*s);
        if (d >= base)
            return TN_JPARSE_BAD;
        if (__builtin_mul_overflow(v, base, &v)
            || __builtin_add_overflow(v, *text == '-' ? -d : d, &v))
            huge = true;
    }
    *out = v;
    return huge ? TN_JPARSE_HUGE : TN_JPARSE_OK;
}

bool tn_jint_of_float(tn_jrun *r, double f, int64_t *out)
{
    if (isnan(f))
        return tn_jrun_fail(r, "cannot convert float NaN to integer");
    if (isinf(f))
        return tn_jrun_fail(r, "cannot convert float infinity to integer");
    if (f >= 9223372036854775808.0 || f < -9223372036854775808.0)
        return tn_jrun_fail(r, "integer overflow; expected a value of 64 bits");
    *out = (int64_t)f;
    return true;
}

/* ------------------------------------------------------------------------------- rounding */

/* round(integer, -digits): to the even multiple when it lies half way. */
static bool round_int(tn_jrun *r, int64_t v, int64_t digits, tn_jval *out)
{
    if (digits >= 0) {
        *out = tn_jint(v);
        return true;
    }
    if (digits < -19) {
        *out = tn_jint(0);
        return true;
    }
    __int128 unit = 1, whole = v;
    for (int64_t i = digits; i < 0; i++)
        unit *= 10;
    __int128 rest = whole % unit;
    if (rest < 0)
        rest += unit;
    whole -= rest;
    if (rest * 2 > unit || (rest * 2 == unit && whole / unit % 2 != 0))
        whole += unit;
    if (whole > INT64_MAX || whole < INT64_MIN)
        return tn_jrun_fail(r, "integer overflow; expected a value of 64 bits");
    *out = tn_jint((int64_t)whole);
    return true;
}

static int exponent_of(double f)
{
    char text[48];
    snprintf(text, sizeof text, "%.*e", 20, f); /* so many that it does not round up */
    return (int)strtol(strchr(text, 'e') + 1, NULL, 10);
}

/* printf rounds the exact value half to even, as Python's round does; what it writes is read
 * back under the same locale. */
static bool round_float(tn_jrun *r, double f, int64_t digits, tn_jval *out)
{
    char text[400];
    *out = tn_jfloat(f);
    if (!isfinite(f) || f == 0 || digits > 323)
        return true;
    int64_t kept = exponent_of(f) + 1 + digits; /* significant digits that stay, about */
    if (kept > 18)
        return true; /* more than a double has */
    if (kept < 0) {
        *out = tn_jfloat(copysign(0.0, f));
        return true;
    }
    if (digits >= 0)
        snprintf(text, sizeof text, "%.*f", (int)digits, f);
    else if (kept > 0)
        snprintf(text, sizeof text, "%.*e", (int)kept - 1, f);
    else
        snprintf(text, sizeof text, "%se%d", fabs(f) > 5 * pow(10, (double)-digits - 1) ? "1" : "0",
                 (int)-digits);
    double v = strtod(text, NULL);
    *out = tn_jfloat(kept == 0 && digits < 0 ? copysign(v, f) : v);
    return isfinite(v) || tn_jrun_fail(r, "rounded value too large to represent");
}

bool tn_jval_round(tn_jrun *r, tn_jval v, int64_t digits, tn_jval *out)
{
    if (tn_jval_is_int(v))
        return round_int(r, tn_jval_int(v), digits, out);
    return round_float(r, v.as.f, digits, out);
}
