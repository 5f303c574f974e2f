/* SPDX-License-Identifier: Apache-2.0 */
/* http_tools.c - finds the tool calls in a reply: the text around them and their tags. */
#include "http_tools.h"

#include <string.h>

#define OPEN_TAG "<tool_call>"
#define CLOSE_TAG "</tool_call>"
#define BLANKS_MAX 4096u            /* held before a call; more are content */
#define TEXT_MAX ((size_t)256 << 20)

/*   TEXT --<--> TAG ----> FORM --{ or <--> BODY ----> CLOSE --tag--> TEXT
 *    ^           | no tag  |               | wrong    | other text
 *    +-----------+---------+---------------+----------+                   */
enum { TEXT, TAG, FORM, BODY, CLOSE };

void http_tools_open(http_tools *t, uint32_t forms, const http_tools_sink *to)
{
    *t = (http_tools){.to = *to, .forms = forms, .state = TEXT, .fresh = true};
    http_text_open(&t->said, TEXT_MAX);
    http_text_open(&t->raw, HTTP_CALL_MAX + BLANKS_MAX);
    http_text_open(&t->out, 8 * (size_t)HTTP_CALL_MAX); /* a byte is escaped by 6 at most */
    http_text_open(&t->held, HTTP_CALL_MAX);
    http_text_open(&t->names, HTTP_CALL_MAX);
    http_value_open(&t->value, HTTP_VALUE_DEPTH);
}

void http_tools_close(http_tools *t)
{
    http_text_close(&t->said);
    http_text_close(&t->raw);
    http_text_close(&t->out);
    http_text_close(&t->held);
    http_text_close(&t->names);
    http_value_close(&t->value);
}

bool http_tools_has_failed(const http_tools *t)
{
    return t->said.failed || t->raw.failed || t->out.failed || t->held.failed ||
           t->names.failed || t->value.keys.failed;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

/* ----------------------------------------------------------------------- what is handed on */

static void tell(http_tools *t, uint32_t kind, const char *text, size_t size)
{
    t->to.event(t->to.ctx, kind, text, size);
}

static void tell_said(http_tools *t)
{
    if (t->said.len > 0)
        tell(t, HTTP_SAYS_CONTENT, t->said.data, t->said.len);
    t->said.len = 0;
}

/* BEGIN once it is sure, and the arguments so far. */
static void tell_call(http_tools *t)
{
    if (t->ready && !t->begun) {
        tell_said(t);
        tell(t, HTTP_SAYS_BEGIN, t->name, t->name_size);
        t->begun = true;
    }
    if (t->begun && t->limit > t->sent)
        tell(t, HTTP_SAYS_ARGUMENTS, t->out.data + t->sent, t->limit - t->sent);
    if (t->begun)
        t->sent = t->limit;
}

/* What was taken for a call, or for blanks before one, is content. */
static void say_raw(http_tools *t)
{
    http_text_put(&t->said, t->raw.data, t->raw.len);
    t->raw.len = 0;
    t->fresh = false;
    t->state = TEXT;
}

static void break_call(http_tools *t)
{
    tell_call(t);
    if (t->begun) {
        tell(t, HTTP_SAYS_BROKEN, t->raw.data, t->raw.len);
        t->raw.len = 0;
    }
    say_raw(t);
}

static void end_call(http_tools *t)
{
    tell_call(t);
    tell(t, HTTP_SAYS_END, "", 0);
    t->nwhole++;
    t->raw.len = 0;
    t->fresh = true;
    t->state = TEXT;
}

/* ------------------------------------------------------------------------- byte by byte */

static void keep(http_tools *t, char c)
{
    http_text_put(&t->raw, &c, 1);
}

static void in_text(http_tools *t, char c)
{
    if (c == '<') {
        keep(t, c);
        t->state = TAG;
        t->matched = 1;
        return;
    }
    if (t->fresh && is_blank(c)) {
        keep(t, c);
        if (t->raw.len > BLANKS_MAX)
            say_raw(t);
        return;
    }
    if (t->fresh)
        say_raw(t);
    http_text_put(&t->said, &c, 1);
}

/* The functions from here on answer whether they took the byte; if not, it is text. */
static bool in_tag(http_tools *t, char c)
{
    if (c != OPEN_TAG[t->matched]) {
        say_raw(t);
        return false;
    }
    keep(t, c);
    if (++t->matched == sizeof OPEN_TAG - 1)
        t->state = FORM;
    return true;
}

static void open_call(http_tools *t, bool xml)
{
    t->xml = xml;
    t->ready = t->begun = false;
    t->name_size = 0;
    t->out.len = t->sent = t->limit = 0;
    t->state = BODY;
    if (xml)
        http_callxml_open(t);
    else
        http_calljson_open(t);
}

static bool in_body(http_tools *t, char c)
{
    uint32_t how = t->xml ? http_callxml_put(t, c) : http_calljson_put(t, c);
    if (how == HTTP_VALUE_BAD) {
        break_call(t);
        return false;
    }
    keep(t, c);
    if (t->ready && !t->begun)
        tell_call(t);
    if (t->raw.len > HTTP_CALL_MAX) {
        break_call(t);
    } else if (how == HTTP_VALUE_DONE) {
        t->state = CLOSE;
        t->matched = 0;
    }
    return true;
}

static bool in_form(http_tools *t, char c)
{
    bool json = c == '{' && (t->forms & HTTP_FORM_HERMES) != 0;
    bool xml = c == '<' && (t->forms & HTTP_FORM_XML) != 0;
    if (json || xml) {
        open_call(t, xml);
        return in_body(t, c);
    }
    if (!is_blank(c) || t->raw.len > HTTP_CALL_MAX) {
        say_raw(t);
        return false;
    }
    keep(t, c);
    return true;
}

static bool in_close(http_tools *t, char c)
{
    bool blank = t->matched == 0 && is_blank(c) && t->raw.len <= HTTP_CALL_MAX;
    if (!blank && c != CLOSE_TAG[t->matched]) {
        break_call(t);
        return false;
    }
    keep(t, c);
    if (!blank && ++t->matched == sizeof CLOSE_TAG - 1)
        end_call(t);
    return true;
}

static bool take(http_tools *t, char c)
{
    switch (t->state) {
    case TAG: return in_tag(t, c);
    case FORM: return in_form(t, c);
    case BODY: return in_body(t, c);
    case CLOSE: return in_close(t, c);
    default: in_text(t, c); return true;
    }
}

void http_tools_put(http_tools *t, const char *text, size_t size)
{
    for (size_t i = 0; i < size && !http_tools_has_failed(t); i++)
        if (!take(t, text[i]))
            in_text(t, text[i]);
    tell_said(t);
    if (t->state == BODY || t->state == CLOSE)
        tell_call(t);
}

void http_tools_end(http_tools *t)
{
    if (t->state == CLOSE)
        end_call(t);
    else if (t->state == BODY)
        break_call(t);
    else if (t->state != TEXT || t->nwhole == 0 || !t->fresh)
        say_raw(t);
    t->raw.len = 0;
    tell_said(t);
}
