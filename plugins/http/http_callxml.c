/* SPDX-License-Identifier: Apache-2.0 */
/* http_callxml.c - a call in the qwen3_coder form: a function, its parameters between tags.
 *
 * A parameter that is text goes on as it comes, escaped; what may be something else waits for
 * its end, since only the whole shows whether it is JSON. */
#include "http_tools.h"

#include <string.h>
#include <strings.h>

#define PARAMETERS_MAX HTTP_VALUE_KEYS

static const char function_tag[] = "<function=", parameter_tag[] = "<parameter=";
static const char function_end[] = "</function>", parameter_end[] = "\n</parameter>";

/*  FUNCTION -> NAME -> NEXT -<-> TAG -> PARAMETER -> VALUE -> NEXT
 *                                  +--> the end                     */
enum { FUNCTION, NAME, NEXT, TAG, PARAMETER, VALUE };

void http_callxml_open(http_tools *t)
{
    t->place = FUNCTION;
    t->tag = function_tag;
    t->matched = 0;
    t->nparameter = 0;
    t->names.len = 0;
}

/* A name up to '>'; 1 at its end, 0 within, -1: it is none. */
static int in_name(char *name, uint32_t *size, char c)
{
    if (c == '>') {
        name[*size] = 0;
        return *size > 0 ? 1 : -1;
    }
    if ((unsigned char)c <= ' ' || c == '<' || *size == HTTP_CALL_NAME_MAX)
        return -1;
    name[(*size)++] = c;
    return 0;
}

static uint32_t in_function_name(http_tools *t, char c)
{
    uint32_t size = t->parameter_size; /* the name counts as known at its end only */
    int how = in_name(t->name, &size, c);
    t->parameter_size = size;
    if (how < 0)
        return HTTP_VALUE_BAD;
    if (how == 0)
        return HTTP_VALUE_MORE;
    t->name_size = size;
    t->ready = true;
    t->place = NEXT;
    http_text_put(&t->out, "{", 1);
    return HTTP_VALUE_MORE;
}

/* ----------------------------------------------------------------------------- parameters */

static bool is_streamed(const http_tools *t)
{
    return t->may == 0 || (t->may & (HTTP_MAY_TEXT | HTTP_MAY_NULL)) == HTTP_MAY_TEXT;
}

/* False when the function has this parameter already, or too many. */
static bool add_name(http_tools *t)
{
    for (size_t at = 0; at < t->names.len; at += strlen(t->names.data + at) + 1)
        if (strcmp(t->names.data + at, t->parameter) == 0)
            return false;
    http_text_put(&t->names, t->parameter, t->parameter_size + 1u);
    return ++t->nparameter <= PARAMETERS_MAX;
}

static uint32_t in_parameter_name(http_tools *t, char c)
{
    int how = in_name(t->parameter, &t->parameter_size, c);
    if (how < 0 || (how > 0 && !add_name(t)))
        return HTTP_VALUE_BAD;
    if (how == 0)
        return HTTP_VALUE_MORE;
    t->may = t->to.types != NULL ? t->to.types(t->to.ctx, t->name, t->parameter) : 0;
    http_text_puts(&t->out, t->nparameter > 1 ? ", \"" : "\"");
    http_value_escape(t->parameter, t->parameter_size, &t->out);
    http_text_puts(&t->out, is_streamed(t) ? "\": \"" : "\": ");
    t->held.len = 0;
    t->tail_size = 0;
    t->value_begun = false;
    t->place = VALUE;
    return HTTP_VALUE_MORE;
}

static void put_text(http_tools *t)
{
    http_text_put(&t->out, "\"", 1);
    http_value_escape(t->held.data, t->held.len, &t->out);
    http_text_put(&t->out, "\"", 1);
}

static bool held_is(const http_tools *t, const char *word)
{
    size_t n = strlen(word);
    return t->held.len == n && strncasecmp(t->held.data, word, n) == 0;
}

/* What was held, as the schema would have it; text when it is no JSON. */
static void put_held(http_tools *t)
{
    if ((t->may & HTTP_MAY_NULL) != 0 && held_is(t, "null"))
        http_text_puts(&t->out, "null");
    else if ((t->may & HTTP_MAY_TEXT) != 0)
        put_text(t);
    else if ((t->may & HTTP_MAY_BOOL) != 0 && held_is(t, "true"))
        http_text_puts(&t->out, "true");
    else if ((t->may & HTTP_MAY_BOOL) != 0 && held_is(t, "false"))
        http_text_puts(&t->out, "false");
    else if (!http_value_text(t->held.data, t->held.len, HTTP_VALUE_DEPTH - 1, &t->out))
        put_text(t);
}

static void end_value(http_tools *t)
{
    if (is_streamed(t))
        http_text_put(&t->out, "\"", 1);
    else
        put_held(t);
    t->place = NEXT;
}

/* The tail's first byte is the value's own after all. */
static void release(http_tools *t)
{
    if (is_streamed(t))
        http_value_escape(t->tail, 1, &t->out);
    else
        http_text_put(&t->held, t->tail, 1);
    memmove(t->tail, t->tail + 1, --t->tail_size);
}

/* Whether the tail may yet become the closing tag, with or without the newline before it. */
static bool may_close(const http_tools *t)
{
    return strncmp(t->tail, parameter_end, t->tail_size) == 0 ||
           strncmp(t->tail, parameter_end + 1, t->tail_size) == 0;
}

static uint32_t in_value(http_tools *t, char c)
{
    bool first = !t->value_begun;
    t->value_begun = true;
    if (first && c == '\n')
        return HTTP_VALUE_MORE;
    t->tail[t->tail_size++] = c;
    while (!may_close(t))
        release(t);
    uint32_t whole = (uint32_t)sizeof parameter_end - 1;
    bool newline = t->tail_size > 0 && t->tail[0] == '\n';
    if (t->tail_size == (newline ? whole : whole - 1))
        end_value(t);
    return HTTP_VALUE_MORE;
}

/* ------------------------------------------------------------------------------------ tags */

static uint32_t end_tag(http_tools *t)
{
    if (t->tag == function_end) {
        http_text_put(&t->out, "}", 1);
        return HTTP_VALUE_DONE;
    }
    t->parameter_size = 0;
    t->place = t->tag == function_tag ? NAME : PARAMETER;
    return HTTP_VALUE_MORE;
}

static uint32_t in_tag(http_tools *t, char c)
{
    if (t->matched == 1 && c == '/' && t->place == TAG)
        t->tag = function_end;
    if (c != t->tag[t->matched])
        return HTTP_VALUE_BAD;
    return t->tag[++t->matched] == 0 ? end_tag(t) : HTTP_VALUE_MORE;
}

static uint32_t in_between(http_tools *t, char c)
{
    if (c == ' ' || c == '\n' || c == '\r' || c == '\t')
        return HTTP_VALUE_MORE;
    if (c != '<')
        return HTTP_VALUE_BAD;
    t->place = TAG;
    t->tag = parameter_tag;
    t->matched = 1;
    return HTTP_VALUE_MORE;
}

static uint32_t take(http_tools *t, char c)
{
    switch (t->place) {
    case NAME: return in_function_name(t, c);
    case NEXT: return in_between(t, c);
    case PARAMETER: return in_parameter_name(t, c);
    case VALUE: return in_value(t, c);
    default: return in_tag(t, c);
    }
}

uint32_t http_callxml_put(http_tools *t, char c)
{
    uint32_t how = take(t, c);
    if (how != HTTP_VALUE_BAD)
        t->limit = t->out.len;
    return how;
}
