/* SPDX-License-Identifier: Apache-2.0 */
/* http_reason.c - parts a reply into what the model thought and what it says. */
#include "http_reason.h"

static const char open_tag[] = "<think>", close_tag[] = "</think>";

enum { LEAD, THOUGHT, CONTENT }; /* LEAD: only blanks so far, <think> may come */

void http_reason_open(http_reason *r, const http_reason_sink *to)
{
    *r = (http_reason){.to = *to, .state = LEAD, .tag = close_tag};
}

static void tell(http_reason *r, bool reasoning, const char *text, size_t size)
{
    if (size > 0)
        r->to.text(r->to.ctx, reasoning, text, size);
}

/* What looked like a tag is thought. */
static void drop_tag(http_reason *r)
{
    tell(r, true, r->tag, r->held);
    r->held = 0;
    r->state = THOUGHT;
}

/* A byte of a tag, or not: then it is looked at again. */
static bool in_tag(http_reason *r, char c)
{
    if (r->held == 1 && r->state == LEAD && c == open_tag[1])
        r->tag = open_tag;
    if (c != r->tag[r->held]) {
        drop_tag(r);
        return false;
    }
    if (r->tag[++r->held] != 0)
        return true;
    r->state = r->tag == open_tag ? THOUGHT : CONTENT;
    r->held = 0;
    return true;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

/* Where the first tag may begin. */
static size_t plain_size(http_reason *r, const char *text, size_t size)
{
    size_t n = 0;
    for (; n < size && text[n] != '<'; n++)
        if (r->state == LEAD && !is_blank(text[n]))
            r->state = THOUGHT;
    return n;
}

void http_reason_put(http_reason *r, const char *text, size_t size)
{
    size_t i = 0;
    while (i < size && r->state != CONTENT) {
        if (r->held > 0) {
            i += in_tag(r, text[i]);
            continue;
        }
        size_t n = plain_size(r, text + i, size - i);
        tell(r, true, text + i, n);
        i += n;
        if (i < size) {
            r->tag = close_tag;
            r->held = 1;
            i++;
        }
    }
    tell(r, false, text + i, size - i);
}

void http_reason_end(http_reason *r)
{
    if (r->held > 0)
        drop_tag(r);
}
