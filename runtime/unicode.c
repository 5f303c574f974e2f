/* SPDX-License-Identifier: Apache-2.0 */
/* unicode.c - what kind of character a code point is, and UTF-8. */
#include "unicode.h"

#include <stdlib.h>
#include <string.h>

/* The value of the last entry that begins at or before cp; the first begins at 0. */
static uint32_t look_up(const uint32_t *table, uint32_t count, uint32_t cp)
{
    uint32_t lo = 0, hi = count;
    while (hi - lo > 1) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (table[mid] >> 11 <= cp)
            lo = mid;
        else
            hi = mid;
    }
    return table[lo] & 0x7ff;
}

uint32_t tn_uc_class(uint32_t cp)
{
    return look_up(tn_unicode_class, tn_unicode_class_count, cp);
}

uint32_t tn_uc_form(uint32_t cp)
{
    return look_up(tn_unicode_form, tn_unicode_form_count, cp);
}

bool tn_uc_is_space(uint32_t cp)
{
    if (cp < 0x80)
        return cp == ' ' || (cp >= 9 && cp <= 13);
    return cp == 0x85 || cp == 0xa0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200a) ||
           cp == 0x2028 || cp == 0x2029 || cp == 0x202f || cp == 0x205f || cp == 0x3000;
}

bool tn_uc_is_word(uint32_t cp)
{
    uint32_t c = tn_uc_class(cp) & TN_UC_CATEGORY;
    if ((c >= TN_UC_LU && c <= TN_UC_NL) || c == TN_UC_PC)
        return true;
    /* Other_Alphabetic outside the marks: circled and squared Latin letters; the joiners. */
    return (cp >= 0x24b6 && cp <= 0x24e9) || (cp >= 0x1f130 && cp <= 0x1f149) ||
           (cp >= 0x1f150 && cp <= 0x1f169) || (cp >= 0x1f170 && cp <= 0x1f189) ||
           cp == 0x200c || cp == 0x200d;
}

static uint8_t kinds_of(uint32_t class)
{
    uint32_t c = class & TN_UC_CATEGORY;
    uint32_t k = 0;
    if (c >= TN_UC_LU && c <= TN_UC_LO)
        k |= TN_KIND_LETTER;
    if (c >= TN_UC_MN && c <= TN_UC_ME)
        k |= TN_KIND_MARK | TN_KIND_UPPER | TN_KIND_LOWER;
    if (c >= TN_UC_ND && c <= TN_UC_NO)
        k |= TN_KIND_NUMBER;
    if (c >= TN_UC_PC && c <= TN_UC_SO)
        k |= TN_KIND_PUNCT;
    if (c == TN_UC_LU || c == TN_UC_LT || c == TN_UC_LM || c == TN_UC_LO)
        k |= TN_KIND_UPPER;
    if (c == TN_UC_LL || c == TN_UC_LM || c == TN_UC_LO)
        k |= TN_KIND_LOWER;
    if (class & TN_UC_NUMERIC)
        k |= TN_KIND_NUMERIC;
    return (uint8_t)k;
}

uint8_t *tn_kinds_new(void)
{
    uint8_t *kinds = malloc(TN_UNICODE_END);
    if (kinds == NULL)
        return NULL;
    for (uint32_t i = 0; i < tn_unicode_class_count; i++) {
        uint32_t from = tn_unicode_class[i] >> 11;
        uint32_t to = i + 1 < tn_unicode_class_count ? tn_unicode_class[i + 1] >> 11
                                                     : TN_UNICODE_END;
        memset(kinds + from, kinds_of(tn_unicode_class[i] & 0x7ff), to - from);
    }
    for (uint32_t cp = 0; cp <= 0x3000; cp++)
        if (tn_uc_is_space(cp))
            kinds[cp] |= TN_KIND_SPACE;
    return kinds;
}

/* How many bytes a lead byte promises, and which second bytes may follow it (table 3-7 of the
 * Unicode standard); 0 for a byte that leads nothing. */
static unsigned lead(uint8_t b, uint8_t *low, uint8_t *high)
{
    *low = b == 0xe0 ? 0xa0 : b == 0xf0 ? 0x90 : 0x80;
    *high = b == 0xed ? 0x9f : b == 0xf4 ? 0x8f : 0xbf;
    return b < 0x80 ? 1 : b < 0xc2 ? 0 : b < 0xe0 ? 2 : b < 0xf0 ? 3 : b < 0xf5 ? 4 : 0;
}

/* Bytes at p that begin or are a sequence; *need: how many the whole has, 0 for none. */
static size_t measure(const uint8_t *p, const uint8_t *end, unsigned *need)
{
    uint8_t low, high;
    *need = lead(*p, &low, &high);
    size_t n = 1;
    while (n < *need && p + n < end && p[n] >= low && p[n] <= high) {
        n++;
        low = 0x80;
        high = 0xbf;
    }
    return n;
}

size_t tn_utf8_bad_size(const uint8_t *p, const uint8_t *end, bool *unfinished)
{
    unsigned need;
    size_t n = measure(p, end, &need);
    *unfinished = need > n && p + n == end;
    return n;
}

size_t tn_utf8_check(const uint8_t *text, size_t size)
{
    if (size == 0)
        return 0;
    const uint8_t *p = text, *end = text + size;
    while (p < end) {
        uint64_t word;
        if (*p < 0x80) {
            while (end - p >= 8 && (memcpy(&word, p, 8), (word & 0x8080808080808080u) == 0))
                p += 8;
            while (p < end && *p < 0x80)
                p++;
            continue;
        }
        unsigned need;
        size_t n = measure(p, end, &need);
        if (n != need)
            break;
        p += n;
    }
    return (size_t)(p - text);
}

size_t tn_utf8_put(uint8_t out[4], uint32_t cp)
{
    if (cp < 0x80) {
        out[0] = (uint8_t)cp;
        return 1;
    }
    size_t n = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    static const uint8_t first[5] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = n; i-- > 1; cp >>= 6)
        out[i] = (uint8_t)(0x80 | (cp & 63));
    out[0] = (uint8_t)(first[n] | cp);
    return n;
}
