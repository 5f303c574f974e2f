/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_text.c - UTF-8 text seen as Python sees it. */
#include "jinja_text.h"

#include "utf8seq.h"

#include <string.h>

#define TABLE_SHIFT 11u
#define TABLE_MASK 0x7ffu

uint32_t tn_jchar_bits(uint32_t cp)
{
    size_t low = 0, high = tn_jchar_table_count;
    while (high - low > 1) {
        size_t mid = (low + high) / 2;
        if (tn_jchar_table[mid] >> TABLE_SHIFT <= cp)
            low = mid;
        else
            high = mid;
    }
    return tn_jchar_table[low] & TABLE_MASK;
}

bool tn_jchar_is_space(uint32_t cp)
{
    if (cp < 0x80)
        return cp == ' ' || (cp >= 0x09 && cp <= 0x0d) || (cp >= 0x1c && cp <= 0x1f);
    return cp == 0x85 || cp == 0xa0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200a)
           || cp == 0x2028 || cp == 0x2029 || cp == 0x202f || cp == 0x205f || cp == 0x3000;
}

bool tn_jchar_is_word(uint32_t cp)
{
    return cp == '_' || (tn_jchar_bits(cp) & TN_JCHAR_ALNUM) != 0;
}

int tn_jchar_digit(uint32_t cp)
{
    if (cp < 0x80)
        return cp >= '0' && cp <= '9' ? (int)(cp - '0') : -1;
    if ((tn_jchar_bits(cp) & TN_JCHAR_DECIMAL) == 0)
        return -1;
    /* Digits stand ten in a row from zero; neighbouring rows begin at a zero too. */
    uint32_t first = cp;
    while ((tn_jchar_bits(first - 1) & TN_JCHAR_DECIMAL) != 0)
        first--;
    return (int)((cp - first) % 10);
}

static const tn_jcase_special *special_of(const tn_jcase_special *table, size_t count,
                                          uint32_t cp)
{
    size_t low = 0, high = count;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (table[mid].cp == cp)
            return &table[mid];
        if (table[mid].cp < cp)
            low = mid + 1;
        else
            high = mid;
    }
    return NULL;
}

/* Runs are sorted by their first code point but may interleave by one stride, so a few runs
 * before the last candidate are looked at as well. */
static uint32_t mapped(const tn_jcase_run *table, size_t count, uint32_t cp)
{
    size_t low = 0, high = count;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (table[mid].first <= cp)
            low = mid + 1;
        else
            high = mid;
    }
    for (size_t back = 0; back < 4 && low > back; back++) {
        const tn_jcase_run *r = &table[low - 1 - back];
        uint32_t off = cp - r->first;
        if (off <= (uint32_t)(r->count - 1) * r->stride && off % r->stride == 0)
            return (uint32_t)((int64_t)cp + r->delta);
    }
    return cp;
}

static uint32_t spread(const tn_jcase_special *s, uint32_t out[3])
{
    uint32_t n = 0;
    while (n < 3 && s->to[n] != 0) {
        out[n] = s->to[n];
        n++;
    }
    return n;
}

uint32_t tn_jchar_case(uint32_t cp, tn_jcase to, uint32_t out[3])
{
    const tn_jcase_special *s = NULL;
    if (cp < 0x80) {
        bool up = to == TN_JCASE_UPPER || to == TN_JCASE_TITLE;
        if (up && cp >= 'a' && cp <= 'z')
            cp -= 'a' - 'A';
        else if (!up && cp >= 'A' && cp <= 'Z')
            cp += 'a' - 'A';
        out[0] = cp;
        return 1;
    }
    if (to == TN_JCASE_TITLE)
        s = special_of(tn_jcase_title_special, tn_jcase_title_special_count, cp);
    else if (to == TN_JCASE_FOLD)
        s = special_of(tn_jcase_fold_special, tn_jcase_fold_special_count, cp);
    if (s != NULL)
        return spread(s, out);
    if (to == TN_JCASE_UPPER || to == TN_JCASE_TITLE) {
        s = special_of(tn_jcase_upper_special, tn_jcase_upper_special_count, cp);
        out[0] = mapped(tn_jcase_upper, tn_jcase_upper_count, cp);
    } else {
        s = special_of(tn_jcase_lower_special, tn_jcase_lower_special_count, cp);
        out[0] = mapped(tn_jcase_lower, tn_jcase_lower_count, cp);
    }
    return s != NULL ? spread(s, out) : 1;
}

size_t tn_jutf_bad(const char *p, size_t size)
{
    size_t i = 0;
    while (i < size) {
        size_t n = tn_utf8_size(p + i, size - i);
        if (n == 0)
            return i;
        i += n;
    }
    return size;
}

size_t tn_jutf_chars(const char *p, size_t size)
{
    size_t n = size, i = 0;
    uint64_t word;
    /* Eight bytes at a time: those that continue a character begin with the bits 10. */
    for (; size - i >= sizeof word; i += sizeof word) {
        memcpy(&word, p + i, sizeof word);
        n -= (size_t)__builtin_popcountll(word >> 7 & ~word >> 6 & 0x0101010101010101u);
    }
    for (; i < size; i++)
        n -= ((unsigned char)p[i] & 0xc0) == 0x80;
    return n;
}

uint32_t tn_jutf_next(const char **p)
{
    const unsigned char *s = (const unsigned char *)*p;
    if (s[0] < 0x80) {
        *p += 1;
        return s[0];
    }
    if (s[0] < 0xe0) {
        *p += 2;
        return (uint32_t)(s[0] & 0x1f) << 6 | (s[1] & 0x3fu);
    }
    if (s[0] < 0xf0) {
        *p += 3;
        return (uint32_t)(s[0] & 0x0f) << 12 | (uint32_t)(s[1] & 0x3f) << 6 | (s[2] & 0x3fu);
    }
    *p += 4;
    return (uint32_t)(s[0] & 0x07) << 18 | (uint32_t)(s[1] & 0x3f) << 12
           | (uint32_t)(s[2] & 0x3f) << 6 | (s[3] & 0x3fu);
}

uint32_t tn_jutf_prev(const char **p)
{
    do {
        *p -= 1;
    } while (((unsigned char)**p & 0xc0) == 0x80);
    const char *at = *p;
    return tn_jutf_next(&at);
}

size_t tn_jutf_encode(uint32_t cp, char out[4])
{
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (char)(0xc0 | cp >> 6);
        out[1] = (char)(0x80 | (cp & 0x3f));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (char)(0xe0 | cp >> 12);
        out[1] = (char)(0x80 | (cp >> 6 & 0x3f));
        out[2] = (char)(0x80 | (cp & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | cp >> 18);
    out[1] = (char)(0x80 | (cp >> 12 & 0x3f));
    out[2] = (char)(0x80 | (cp >> 6 & 0x3f));
    out[3] = (char)(0x80 | (cp & 0x3f));
    return 4;
}

size_t tn_jutf_skip(const char *p, size_t size, size_t chars)
{
    size_t i = 0;
    while (i < size && chars > 0) {
        i++;
        while (i < size && ((unsigned char)p[i] & 0xc0) == 0x80)
            i++;
        chars--;
    }
    return i;
}

const char *tn_jutf_find(const char *p, size_t size, const char *what, size_t what_size)
{
    if (what_size == 0)
        return p;
    return size == 0 ? NULL : memmem(p, size, what, what_size);
}

static const char *find_last_short(const char *p, size_t size, const char *what,
                                   size_t what_size)
{
    for (size_t at = size - what_size + 1; at-- > 0;)
        if (p[at] == what[0] && memcmp(p + at, what, what_size) == 0)
            return p + at;
    return NULL;
}

/* Knuth, Morris and Pratt with both texts read from their ends. */
const char *tn_jutf_find_last(const char *p, size_t size, const char *what, size_t what_size,
                               uint32_t *scratch)
{
    if (what_size == 0)
        return p + size;
    if (what_size > size)
        return NULL;
    if (scratch == NULL)
        return find_last_short(p, size, what, what_size);
    size_t k = 0;
    scratch[0] = 0;
    for (size_t i = 1; i < what_size; i++) {
        while (k > 0 && what[what_size - 1 - i] != what[what_size - 1 - k])
            k = scratch[k - 1];
        k += what[what_size - 1 - i] == what[what_size - 1 - k];
        scratch[i] = (uint32_t)k;
    }
    k = 0;
    for (size_t i = size; i-- > 0;) {
        while (k > 0 && p[i] != what[what_size - 1 - k])
            k = scratch[k - 1];
        k += p[i] == what[what_size - 1 - k];
        if (k == what_size)
            return p + i;
    }
    return NULL;
}
