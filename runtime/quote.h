/* SPDX-License-Identifier: Apache-2.0 */
/* quote.h - a stranger's bytes made fit for a message.
 *
 * Names out of files may hold anything: control characters, half a UTF-8 sequence, a
 * megabyte. In a message they appear cut to a length that leaves room for the sentence. */
#ifndef TN_QUOTE_H
#define TN_QUOTE_H

#include <stddef.h>

typedef struct tn_quoted {
    char text[112];
} tn_quoted;

/* Fills `q` and returns q->text: the bytes between double quotes, cut to 64 with "..." when
 * longer, everything but printable ASCII and valid UTF-8 as \xNN. */
const char *tn_quote(tn_quoted *q, const char *text, size_t len);
const char *tn_quote_text(tn_quoted *q, const char *text); /* NUL-terminated text */
/* A path keeps its end instead: "...tail" when longer than about 200 bytes; borrowed. */
const char *tn_path_tail(const char *path);

#endif
