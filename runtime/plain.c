/* SPDX-License-Identifier: Apache-2.0 */
/* plain.c - strangers' text made fit for one line of a log or a message. */
#include "plain.h"

#include "utf8seq.h"

#include <string.h>

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
        size_t size = tn_utf8_size(text + i, n - i);
        if (size != 0 && !tn_plain_is_control(text + i, size)) {
            i += size;
            continue;
        }
        size_t bad = size ? size : 1;
        memset(text + i, '?', bad);
        i += bad;
    }
}
