/* SPDX-License-Identifier: Apache-2.0 */
/* http_text.h - a growing text for replies, with what JSON needs.
 *
 * Once memory or the ceiling is reached it turns `failed` and takes no more. */
#ifndef HTTP_TEXT_H
#define HTTP_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct http_text {
    char *data;  /* owned, terminated when not NULL */
    size_t len, cap, max;
    bool failed;
} http_text;

void http_text_open(http_text *t, size_t max);
void http_text_close(http_text *t);
void http_text_put(http_text *t, const void *data, size_t len);
void http_text_puts(http_text *t, const char *s);
void http_text_printf(http_text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* A JSON string with its quotes. Bytes that are no valid UTF-8 become U+FFFD. */
void http_text_json(http_text *t, const char *s, size_t len);
/* A JSON number; what JSON cannot say becomes `otherwise` ("null", "-9999.0"). */
void http_text_number(http_text *t, double v, const char *otherwise);
/* Forgets the first n bytes. */
void http_text_drop(http_text *t, size_t n);

/* Length of the valid UTF-8 character at s, 0 when there is none. */
size_t http_utf8_len(const char *s, size_t left);

#endif
