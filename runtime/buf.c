/* SPDX-License-Identifier: Apache-2.0 */
/* buf.c - a byte string that grows, under a ceiling. */
#include "buf.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void tn_buf_open(tn_buf *b, size_t max)
{
    *b = (tn_buf){.max = max};
}

void tn_buf_close(tn_buf *b)
{
    free(b->data);
    *b = (tn_buf){0};
}

void tn_buf_reset(tn_buf *b)
{
    b->len = 0;
    b->failed = false;
    if (b->data != NULL)
        b->data[0] = 0;
}

/* Makes room for `more` bytes and the terminator, or turns the buffer failed. */
static bool grow(tn_buf *b, size_t more)
{
    if (b->failed)
        return false;
    if (more > b->max || b->len > b->max - more) {
        b->failed = true;
        return false;
    }
    size_t want = b->len + more + 1;
    if (want <= b->cap)
        return true;
    size_t cap = b->cap < 64 ? 64 : b->cap;
    while (cap < want)
        cap = cap > SIZE_MAX / 2 ? want : cap * 2;
    char *data = realloc(b->data, cap);
    if (data == NULL) {
        b->failed = true;
        return false;
    }
    b->data = data;
    b->cap = cap;
    return true;
}

bool tn_buf_room(tn_buf *b, size_t more)
{
    return grow(b, more);
}

void tn_buf_put(tn_buf *b, const void *data, size_t len)
{
    if (!grow(b, len))
        return;
    if (len > 0)
        memcpy(b->data + b->len, data, len);
    b->len += len;
    b->data[b->len] = 0;
}

void tn_buf_puts(tn_buf *b, const char *text)
{
    tn_buf_put(b, text, strlen(text));
}

void tn_buf_putc(tn_buf *b, char c)
{
    tn_buf_put(b, &c, 1);
}

void tn_buf_vprintf(tn_buf *b, const char *fmt, va_list ap)
{
    char small[256];
    va_list again;
    va_copy(again, ap);
    int n = vsnprintf(small, sizeof small, fmt, ap);
    if (n < 0) {
        b->failed = true;
    } else if ((size_t)n < sizeof small) {
        tn_buf_put(b, small, (size_t)n);
    } else if (grow(b, (size_t)n)) {
        vsnprintf(b->data + b->len, (size_t)n + 1, fmt, again);
        b->len += (size_t)n;
    }
    va_end(again);
}

void tn_buf_printf(tn_buf *b, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    tn_buf_vprintf(b, fmt, ap);
    va_end(ap);
}

void tn_buf_put_utf8(tn_buf *b, unsigned code)
{
    unsigned char c[4];
    size_t n;
    if (code < 0x80) {
        c[0] = (unsigned char)code;
        n = 1;
    } else if (code < 0x800) {
        c[0] = (unsigned char)(0xC0 | code >> 6);
        c[1] = (unsigned char)(0x80 | (code & 63));
        n = 2;
    } else if (code < 0x10000) {
        c[0] = (unsigned char)(0xE0 | code >> 12);
        c[1] = (unsigned char)(0x80 | (code >> 6 & 63));
        c[2] = (unsigned char)(0x80 | (code & 63));
        n = 3;
    } else {
        c[0] = (unsigned char)(0xF0 | code >> 18);
        c[1] = (unsigned char)(0x80 | (code >> 12 & 63));
        c[2] = (unsigned char)(0x80 | (code >> 6 & 63));
        c[3] = (unsigned char)(0x80 | (code & 63));
        n = 4;
    }
    tn_buf_put(b, c, n);
}

void tn_buf_put_json(tn_buf *b, const char *text, size_t len)
{
    static const char hex[] = "0123456789abcdef";
    size_t from = 0;
    tn_buf_putc(b, '"');
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        tn_buf_put(b, text + from, i - from);
        from = i + 1;
        char esc[6] = {'\\', (char)c, 0, 0, 0, 0};
        size_t n = 2;
        switch (c) {
        case '\n': esc[1] = 'n'; break;
        case '\r': esc[1] = 'r'; break;
        case '\t': esc[1] = 't'; break;
        case '\b': esc[1] = 'b'; break;
        case '\f': esc[1] = 'f'; break;
        case '"':
        case '\\': break;
        default:
            memcpy(esc, "\\u00", 4);
            esc[4] = hex[c >> 4];
            esc[5] = hex[c & 15];
            n = 6;
        }
        tn_buf_put(b, esc, n);
    }
    tn_buf_put(b, text + from, len - from);
    tn_buf_putc(b, '"');
}

void tn_buf_put_double(tn_buf *b, double v)
{
    char text[40];
    if (!isfinite(v)) { /* JSON has no such number; the caller decides before */
        tn_buf_puts(b, isnan(v) ? "NaN" : v > 0 ? "Infinity" : "-Infinity");
        return;
    }
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        double back = strtod(text, NULL); /* same locale on both sides */
        if (back == v)
            break;
    }
    for (char *p = text; *p != 0; p++) /* a locale's decimal comma */
        if (*p == ',')
            *p = '.';
    tn_buf_puts(b, text);
}

char *tn_buf_take(tn_buf *b)
{
    if (b->data == NULL)
        grow(b, 0);
    if (b->data != NULL)
        b->data[b->len] = 0;
    char *data = b->data;
    size_t max = b->max;
    *b = (tn_buf){.max = max};
    return data;
}
