/* SPDX-License-Identifier: Apache-2.0 */
/* plain.c - strangers' text made fit for one line of a log or a message. */
#include "plain.h"

#include <string.h>

size_t tn_plain_size(const char *text, size_t n)
{
    const unsigned char *s = (const unsigned char *)text;
    size_t size = s[0] < 0x80 ? 1 : s[0] >= 0xc2 && s[0] < 0xe0 ? 2
                : (s[0] & 0xf0) == 0xe0 ? 3 : s[0] >= 0xf0 && s[0] < 0xf5 ? 4 : 0;
    if (size == 0 || size > n)
        return 0;
    for (size_t i = 1; i < size; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f)
        || (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
        return 0;
    return size;
}

bool tn_plain_is_control(const char *text, size_t size)
{
    const unsigned char *s = (const unsigned char *)text;
    return s[0] < 0x20 || s[0] == 0x7f || (size == 2 && s[0] == 0xc2 && s[1] < 0xa0);
}

void tn_plain_make(char *text, size_t cap)
{
    text[cap - 1] = 0;
    size_t n = strlen(text);
    for (size_t i = 0; i < n;) {
        size_t size = tn_plain_size(text + i, n - i);
        if (size != 0 && !tn_plain_is_control(text + i, size)) {
            i += size;
            continue;
        }
        size_t bad = size ? size : 1;
        memset(text + i, '?', bad);
        i += bad;
    }
}
