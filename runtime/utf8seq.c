/* SPDX-License-Identifier: Apache-2.0 */
/* utf8seq.c - is this UTF-8? One sequence at a time, or a whole text. */
#include "utf8seq.h"

size_t tn_utf8_size(const char *text, size_t left)
{
    const unsigned char *p = (const unsigned char *)text;
    if (left == 0)
        return 0;
    if (p[0] < 0x80)
        return 1;
    size_t n = p[0] >= 0xc2 && p[0] <= 0xdf ? 2 : (p[0] & 0xf0) == 0xe0 ? 3
               : p[0] >= 0xf0 && p[0] <= 0xf4 ? 4 : 0;
    if (n == 0 || n > left)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    bool bad = (p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
               (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f);
    return bad ? 0 : n;
}

bool tn_is_utf8(const char *text, size_t size)
{
    for (size_t i = 0; i < size;) {
        size_t n = tn_utf8_size(text + i, size - i);
        if (n == 0)
            return false;
        i += n;
    }
    return true;
}
