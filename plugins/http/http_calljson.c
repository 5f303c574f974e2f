/* SPDX-License-Identifier: Apache-2.0 */
/* http_calljson.c - a call in the hermes form: {"name": NAME, "arguments": {...}}.
 *
 * The whole body is one JSON value; `out` has it as written anew, so the name and the
 * arguments are ranges of `out`. */
#include "http_tools.h"

#include <string.h>

enum { NOTHING, NAME, ARGUMENTS, OTHER };

void http_calljson_open(http_tools *t)
{
    http_value_close(&t->value);
    http_value_open(&t->value, HTTP_VALUE_DEPTH + 1); /* the arguments are one level down */
    t->member = NOTHING;
    t->has_arguments = t->arguments_end = false;
}

static bool is_key(const http_tools *t, const char *name)
{
    size_t size;
    const char *key = http_value_key(&t->value, &size);
    return size == strlen(name) && memcmp(key, name, size) == 0;
}

/* A member's value begins with `c`; false when it cannot be that member's. Null arguments are
 * as if absent: what begins with n is null or no JSON. */
static bool begin_member(http_tools *t, char c)
{
    t->member = is_key(t, "name") ? NAME : is_key(t, "arguments") ? ARGUMENTS : OTHER;
    t->member_at = t->out.len;
    if (t->member == NAME)
        return c == '"';
    if (t->member != ARGUMENTS)
        return true;
    t->has_arguments = c == '{';
    if (t->has_arguments)
        t->sent = t->limit = t->out.len;
    return c == '{' || c == 'n';
}

static bool take_name(http_tools *t)
{
    const char *name = t->out.data + t->member_at + 1;
    size_t size = t->out.len - t->member_at - 2;
    if (size == 0 || size > HTTP_CALL_NAME_MAX || memchr(name, '\\', size) != NULL)
        return false;
    memcpy(t->name, name, size);
    t->name[size] = 0;
    t->name_size = (uint32_t)size;
    return true;
}

static bool end_member(http_tools *t)
{
    bool good = t->member != NAME || take_name(t);
    t->arguments_end = t->arguments_end || (t->member == ARGUMENTS && t->has_arguments);
    t->member = NOTHING;
    return good;
}

/* The body is over: it names a function, and arguments that are not there are {}. */
static uint32_t end_body(http_tools *t)
{
    if (t->name_size == 0)
        return HTTP_VALUE_BAD;
    if (!t->has_arguments) {
        t->sent = t->out.len;
        http_text_put(&t->out, "{}", 2);
        t->limit = t->out.len;
    }
    t->ready = true;
    return HTTP_VALUE_DONE;
}

uint32_t http_calljson_put(http_tools *t, char c)
{
    http_value *v = &t->value;
    bool blank = c == ' ' || c == '\n' || c == '\r' || c == '\t';
    if (v->depth == 1 && http_value_is_due(v) && !blank && !begin_member(t, c))
        return HTTP_VALUE_BAD;
    uint32_t how = http_value_put(v, c, &t->out);
    if (how == HTTP_VALUE_BAD || t->out.failed)
        return HTTP_VALUE_BAD;
    if (t->has_arguments && !t->arguments_end)
        t->limit = t->out.len;
    if (v->depth == 1 && http_value_has_ended(v) && t->member != NOTHING && !end_member(t))
        return HTTP_VALUE_BAD;
    if (how == HTTP_VALUE_DONE)
        return end_body(t);
    t->ready = t->name_size > 0 && t->has_arguments;
    return HTTP_VALUE_MORE;
}
