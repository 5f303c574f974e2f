/* SPDX-License-Identifier: Apache-2.0 */
/* http_text.c - a growing text for replies. */
#include "http_text.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void http_text_open(http_text *t, size_t max)
{
    *t = (http_text){.max = max};
}

void http_text_close(http_text *t)
{
    free(t->data);
    *t = (http_text){0};
}

void http_text_put(http_text *t, const void *data, size_t len)
{
    if (t->failed || len > t->max || t->len > t->max - len) {
        t->failed = true;
        return;
    }
    if (t->len + len + 1 > t->cap) {
        size_t cap = t->cap < 256 ? 256 : t->cap;
        while (cap < t->len + len + 1)
            cap *= 2;
        char *bigger = realloc(t->data, cap);
        if (bigger == NULL) {
            t->failed = true;
            return;
        }
        t->data = bigger;
        t->cap = cap;
    }
    if (len > 0)
        memcpy(t->data + t->len, data, len);
    t->len += len;
    t->data[t->len] = 0;
}

void http_text_puts(http_text *t, const char *s)
{
    http_text_put(t, s, strlen(s));
}

void http_text_printf(http_text *t, const char *fmt, ...)
{
    char small[512];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(small, sizeof small, fmt, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= sizeof small) /* callers print short things only */
        t->failed = true;
    else
        http_text_put(t, small, (size_t)n);
}

size_t http_utf8_len(const char *s, size_t left)
{
    const unsigned char *p = (const unsigned char *)s;
    size_t n = p[0] < 0x80 ? 1 : p[0] < 0xC2 ? 0 : p[0] < 0xE0 ? 2 : p[0] < 0xF0 ? 3
               : p[0] < 0xF5 ? 4 : 0;
    if (n == 0 || n > left)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((p[i] & 0xC0) != 0x80)
            return 0;
    if ((p[0] == 0xE0 && p[1] < 0xA0) || (p[0] == 0xED && p[1] > 0x9F) ||
        (p[0] == 0xF0 && p[1] < 0x90) || (p[0] == 0xF4 && p[1] > 0x8F))
        return 0;
    return n;
}

static void put_escaped(http_text *t, unsigned char c)
{
    char esc[8];
    switch (c) {
    case '"': http_text_puts(t, "\\\""); break;
    case '\\': http_text_puts(t, "\\\\"); break;
    case '\n': http_text_puts(t, "\\n"); break;
    case '\r': http_text_puts(t, "\\r"); break;
    case '\t': http_text_puts(t, "\\t"); break;
    default:
        snprintf(esc, sizeof esc, "\\u%04x", c);
        http_text_puts(t, esc);
    }
}

void http_text_json(http_text *t, const char *s, size_t len)
{
    size_t from = 0;
    http_text_put(t, "\"", 1);
    for (size_t i = 0; i < len;) {
        unsigned char c = (unsigned char)s[i];
        size_t n = http_utf8_len(s + i, len - i);
        bool plain = n > 1 || (n == 1 && c >= 0x20 && c != '"' && c != '\\' && c != 0x7f);
        if (plain) {
            i += n;
            continue;
        }
        http_text_put(t, s + from, i - from);
        if (n == 0)
            http_text_puts(t, "\xEF\xBF\xBD");
        else
            put_escaped(t, c);
        i++;
        from = i;
    }
    http_text_put(t, s + from, len - from);
    http_text_put(t, "\"", 1);
}

void http_text_number(http_text *t, double v, const char *otherwise)
{
    char text[40];
    if (!isfinite(v)) {
        http_text_puts(t, otherwise);
        return;
    }
    snprintf(text, sizeof text, "%.9g", v);
    for (char *p = text; *p != 0; p++) /* a locale's decimal comma */
        if (*p == ',')
            *p = '.';
    http_text_puts(t, text);
}

void http_text_drop(http_text *t, size_t n)
{
    memmove(t->data, t->data + n, t->len - n);
    t->len -= n;
    t->data[t->len] = 0;
}
