/* SPDX-License-Identifier: Apache-2.0 */
/* http_reason.h - parts a reply into what the model thought and what it says.
 *
 * Some models open their thought themselves (<think>), for some the prompt has opened it; both
 * close it with </think>. So a reply begins inside the thought: a leading <think> is taken
 * out, all up to </think> is reasoning, the rest content. Without </think> all is reasoning.
 * What is said together does not depend on how the text was cut into pieces. */
#ifndef HTTP_REASON_H
#define HTTP_REASON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct http_reason_sink {
    void *ctx;
    void (*text)(void *ctx, bool reasoning, const char *text, size_t size);
} http_reason_sink;

typedef struct http_reason {
    http_reason_sink to;
    uint32_t state;              /* private */
    uint32_t held;               /* bytes of `tag` that have come */
    const char *tag;
} http_reason;

void http_reason_open(http_reason *r, const http_reason_sink *to);
void http_reason_put(http_reason *r, const char *text, size_t size);
/* No text follows. */
void http_reason_end(http_reason *r);

#endif
