/* SPDX-License-Identifier: Apache-2.0 */
/* number.c - numbers as people write them in settings, the same in every locale. */
#include "number.h"

#include <locale.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define FRACTION_DIGITS 6u    /* times 2^40 still fits 64 bits */
#define FLOAT_MAX_BYTES 400u

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* What stands before a suffix: whole.fraction, the fraction in millionths. */
typedef struct decimal {
    uint64_t whole;
    uint64_t fraction;
    bool negative;
} decimal;

static const char *read_decimal(const char *s, decimal *d)
{
    *d = (decimal){.negative = *s == '-'};
    if (*s == '-' || *s == '+')
        s++;
    if (!is_digit(*s))
        return NULL;
    for (; is_digit(*s); s++)
        if (__builtin_mul_overflow(d->whole, 10u, &d->whole)
            || __builtin_add_overflow(d->whole, (uint64_t)(*s - '0'), &d->whole))
            return NULL;
    if (*s != '.')
        return s;
    uint32_t n = 0;
    for (s++; is_digit(*s); s++, n++)
        if (n < FRACTION_DIGITS)
            d->fraction = d->fraction * 10 + (uint64_t)(*s - '0');
        else
            return NULL;
    for (uint32_t i = n; i < FRACTION_DIGITS; i++)
        d->fraction *= 10;
    return n > 0 ? s : NULL;
}

/* The factor of a suffix, 0 when it is none. Bytes may spell KB and KiB. */
static uint64_t factor_of(const char *s, bool bytes)
{
    static const char letters[] = "kmgt";
    uint64_t base;
    if (*s == 0 || (bytes && strcmp(s, "B") == 0))
        return 1;
    char low = *s >= 'A' && *s <= 'Z' ? (char)(*s - 'A' + 'a') : *s;
    const char *at = strchr(letters, low);
    if (at == NULL)
        return 0;
    if (s[1] == 0)
        base = *s == low ? 1000 : 1024;
    else if (bytes && strcmp(s + 1, "B") == 0)
        base = 1000;
    else if (bytes && strcmp(s + 1, "iB") == 0)
        base = 1024;
    else
        return 0;
    uint64_t factor = 1;
    for (ptrdiff_t i = 0; i <= at - letters; i++)
        factor *= base;
    return factor;
}

static bool read_scaled(const char *text, bool bytes, int64_t *out)
{
    decimal d;
    uint64_t value;
    const char *end = read_decimal(text, &d);
    if (end == NULL)
        return false;
    uint64_t factor = factor_of(end, bytes);
    if (factor == 0 || __builtin_mul_overflow(d.whole, factor, &value))
        return false;
    uint64_t part = d.fraction * factor;
    if (!bytes && part % 1000000 != 0)
        return false;
    if (__builtin_add_overflow(value, part / 1000000, &value))
        return false;
    uint64_t most = (uint64_t)INT64_MAX + (d.negative ? 1 : 0);
    if (value > most || (bytes && d.negative && value != 0))
        return false;
    *out = d.negative ? (int64_t)(0 - value) : (int64_t)value;
    return true;
}

bool tn_number_int(const char *text, int64_t *out)
{
    return read_scaled(text, false, out);
}

bool tn_number_size(const char *text, int64_t *out)
{
    return read_scaled(text, true, out);
}

/* strtod would also take hexadecimal, infinities and NaNs. */
static bool is_float(const char *s)
{
    size_t digits = 0;
    if (strnlen(s, FLOAT_MAX_BYTES + 1) > FLOAT_MAX_BYTES)
        return false;
    s += *s == '-' || *s == '+';
    for (; is_digit(*s); s++)
        digits++;
    if (*s == '.')
        for (s++; is_digit(*s); s++)
            digits++;
    if (digits == 0)
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

bool tn_number_float(const char *text, double *out)
{
    if (!is_float(text))
        return false;
    locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    if (c == (locale_t)0)
        return false;
    double v = strtod_l(text, NULL, c);
    freelocale(c);
    if (!isfinite(v))
        return false;
    *out = v;
    return true;
}

/* strcasecmp follows the locale: a Turkish I is no i. */
static bool is_word(const char *text, const char *lower)
{
    for (; *text != 0 && *lower != 0; text++, lower++)
        if ((*text >= 'A' && *text <= 'Z' ? *text - 'A' + 'a' : *text) != *lower)
            return false;
    return *text == 0 && *lower == 0;
}

bool tn_number_bool(const char *text, bool *out)
{
    static const char *const word[2][4] = {{"no", "off", "false", "0"},
                                           {"yes", "on", "true", "1"}};
    for (int v = 0; v < 2; v++)
        for (int i = 0; i < 4; i++)
            if (is_word(text, word[v][i])) {
                *out = v == 1;
                return true;
            }
    return false;
}
