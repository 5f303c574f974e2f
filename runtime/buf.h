/* SPDX-License-Identifier: Apache-2.0 */
/* buf.h - a byte string that grows, under a ceiling.
 *
 * Writing never fails half-way: once an append would pass `max` or memory runs out, the
 * buffer turns `failed`, keeps what it held and ignores later appends; the writer looks
 * once at the end. The text is always NUL-terminated (data is NULL only while empty). */
#ifndef TN_BUF_H
#define TN_BUF_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct tn_buf {
    char *data;   /* owned; data[len] is 0 when data is not NULL */
    size_t len;
    size_t cap;
    size_t max;   /* largest len allowed */
    bool failed;  /* an append was refused */
} tn_buf;

void tn_buf_open(tn_buf *b, size_t max);
void tn_buf_close(tn_buf *b);
void tn_buf_reset(tn_buf *b);                       /* empty, keeps the memory */
/* Room behind len for `more` bytes that the caller writes there himself. */
bool tn_buf_room(tn_buf *b, size_t more);
void tn_buf_put(tn_buf *b, const void *data, size_t len);
void tn_buf_puts(tn_buf *b, const char *text);
void tn_buf_putc(tn_buf *b, char c);
void tn_buf_printf(tn_buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void tn_buf_vprintf(tn_buf *b, const char *fmt, va_list ap);
void tn_buf_put_utf8(tn_buf *b, unsigned code);     /* one code point, encoded */
/* A JSON string with its quotes: escapes only what JSON demands (quote, backslash,
 * controls); `text` must be valid UTF-8 and is otherwise copied as it is. */
void tn_buf_put_json(tn_buf *b, const char *text, size_t len);
/* The shortest decimal that reads back as `v`; independent of the locale. */
void tn_buf_put_double(tn_buf *b, double v);
/* Hands the memory to the caller (free() it) and leaves the buffer empty. */
char *tn_buf_take(tn_buf *b);

#endif
