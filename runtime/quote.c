/* SPDX-License-Identifier: Apache-2.0 */
/* quote.c - a stranger's bytes made fit for a message. */
#include "quote.h"

#include "utf8seq.h"

#include <string.h>

#define SHOWN_MAX 64u
#define PATH_SHOWN_MAX 200u

/* Bytes of the printable sequence at p, 0 when there is none: C0 and C1 controls are not. */
static size_t printable_size(const char *p, size_t left)
{
    unsigned char c = (unsigned char)p[0];
    if (c < 0x20 || c == 0x7f || (c == 0xc2 && left > 1 && (unsigned char)p[1] < 0xa0))
        return 0;
    return tn_utf8_size(p, left);
}

const char *tn_quote(tn_quoted *q, const char *text, size_t len)
{
    static const char hex[] = "0123456789abcdef";
    const unsigned char *p = (const unsigned char *)text;
    const size_t room = sizeof q->text - 6; /* closing quote, dots, terminator */
    size_t n = 0, i = 0;
    q->text[n++] = '"';
    while (i < len && i < SHOWN_MAX) {
        size_t k = printable_size(text + i, len - i);
        if (n + (k > 0 ? k : 4) > room)
            break;
        if (k == 0) {
            const char esc[4] = {'\\', 'x', hex[p[i] >> 4], hex[p[i] & 15]};
            memcpy(q->text + n, esc, 4);
            n += 4;
            i++;
            continue;
        }
        memcpy(q->text + n, p + i, k);
        n += k;
        i += k;
    }
    if (i < len) {
        memcpy(q->text + n, "...", 3);
        n += 3;
    }
    q->text[n++] = '"';
    q->text[n] = 0;
    return q->text;
}

const char *tn_quote_text(tn_quoted *q, const char *text)
{
    return tn_quote(q, text, strlen(text));
}

const char *tn_path_tail(const char *path)
{
    size_t n = strlen(path);
    if (n <= PATH_SHOWN_MAX)
        return path;
    const char *tail = path + n - PATH_SHOWN_MAX;
    const char *slash = strchr(tail, '/');
    return slash != NULL ? slash + 1 : tail;
}
