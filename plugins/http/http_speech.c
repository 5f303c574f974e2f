/* SPDX-License-Identifier: Apache-2.0 */
/* http_speech.c - the text of one choice, parted into reasoning, content and tool calls. */
#include "http_speech.h"

#include <string.h>

#define GATHERED_MAX ((size_t)256 << 20)

/* ------------------------------------------------------------------------------- schemas */

static uint32_t type_of(const tn_json *name)
{
    static const struct { const char *name; uint32_t may; } all[] = {
        {"string", HTTP_MAY_TEXT}, {"null", HTTP_MAY_NULL}, {"boolean", HTTP_MAY_BOOL},
        {"integer", HTTP_MAY_OTHER}, {"number", HTTP_MAY_OTHER}, {"object", HTTP_MAY_OTHER},
        {"array", HTTP_MAY_OTHER},
    };
    for (size_t i = 0; name->type == TN_JSON_TEXT && i < sizeof all / sizeof *all; i++)
        if (strcmp(name->text, all[i].name) == 0)
            return all[i].may;
    return 0;
}

static uint32_t types_of(const tn_json *type)
{
    uint32_t may = 0;
    if (type == NULL)
        return 0;
    if (type->type != TN_JSON_LIST)
        return type_of(type);
    for (const tn_json *e = type->child; e != NULL; e = e->next)
        may |= type_of(e);
    return may;
}

/* `type`, and those of the alternatives one level down. */
static uint32_t schema_types(const tn_json *schema)
{
    static const char *const choices[] = {"anyOf", "oneOf", "allOf"};
    uint32_t may = types_of(tn_json_find(schema, "type"));
    for (size_t i = 0; i < sizeof choices / sizeof *choices; i++) {
        const tn_json *list = tn_json_find(schema, choices[i]);
        for (const tn_json *e = list != NULL && list->type == TN_JSON_LIST ? list->child : NULL;
             e != NULL; e = e->next)
            may |= types_of(tn_json_find(e, "type"));
    }
    return may;
}

uint32_t http_speech_types(const tn_json *tools, const char *function, const char *parameter)
{
    for (const tn_json *t = tools != NULL ? tools->child : NULL; t != NULL; t = t->next) {
        const tn_json *f = tn_json_find(t, "function"), *name = tn_json_find(f, "name");
        if (name == NULL || name->type != TN_JSON_TEXT || strcmp(name->text, function) != 0)
            continue;
        const tn_json *schema = tn_json_find(f, "parameters");
        return schema_types(tn_json_find(tn_json_find(schema, "properties"), parameter));
    }
    return 0;
}

static uint32_t ask_types(void *ctx, const char *function, const char *parameter)
{
    const http_speech *p = ctx;
    return http_speech_types(p->how.tools, function, parameter);
}

/* ----------------------------------------------------------------------------- in a stream */

static void delta_text(http_speech *p, const char *key, const char *text, size_t size)
{
    http_text_printf(&p->deltas, "{\"%s\":", key);
    http_text_json(&p->deltas, text, size);
    http_text_put(&p->deltas, "}", 2);
}

/* Under its name of today and the older one. */
static void delta_reasoning(http_speech *p, const char *text, size_t size)
{
    http_text_puts(&p->deltas, "{\"reasoning\":");
    http_text_json(&p->deltas, text, size);
    http_text_puts(&p->deltas, ",\"reasoning_content\":");
    http_text_json(&p->deltas, text, size);
    http_text_put(&p->deltas, "}", 2);
}

static void put_call_head(http_speech *p, const char *name, size_t size, http_text *out)
{
    char id[HTTP_CALL_ID_SIZE];
    p->how.make_id(p->how.ctx, id);
    http_text_printf(out, "\"id\":\"%s\",\"type\":\"function\",\"function\":{\"name\":", id);
    http_text_json(out, name, size);
    http_text_puts(out, ",\"arguments\":");
}

static void delta_begin(http_speech *p, const char *name, size_t size)
{
    http_text_printf(&p->deltas, "{\"tool_calls\":[{\"index\":%u,", p->nbegun);
    put_call_head(p, name, size, &p->deltas);
    http_text_put(&p->deltas, "\"\"}}]}", sizeof "\"\"}}]}");
}

static void delta_arguments(http_speech *p, const char *text, size_t size)
{
    http_text_printf(&p->deltas, "{\"tool_calls\":[{\"index\":%u,\"function\":{\"arguments\":",
                     p->nbegun - 1);
    http_text_json(&p->deltas, text, size);
    http_text_put(&p->deltas, "}}]}", sizeof "}}]}");
}

/* ------------------------------------------------------------------------------ in a message */

static void call_begin(http_speech *p, const char *name, size_t size)
{
    p->call_at = p->calls.len;
    p->arguments.len = 0;
    http_text_puts(&p->calls, p->nwhole > 0 ? ",{" : "{");
    put_call_head(p, name, size, &p->calls);
}

static void call_end(http_speech *p)
{
    http_text_json(&p->calls, p->arguments.data, p->arguments.len);
    http_text_puts(&p->calls, "}}");
}

/* ---------------------------------------------------------------------------------- the parts */

static void say_content(http_speech *p, const char *text, size_t size)
{
    if (p->how.streams)
        delta_text(p, "content", text, size);
    else
        http_text_put(&p->content, text, size);
}

static void begin_call(http_speech *p, const char *name, size_t size)
{
    p->mute = !p->how.parallel && p->nwhole > 0;
    if (p->mute)
        return;
    if (p->how.streams)
        delta_begin(p, name, size);
    else
        call_begin(p, name, size);
    p->nbegun++;
}

static void add_arguments(http_speech *p, const char *text, size_t size)
{
    if (p->mute)
        return;
    if (p->how.streams)
        delta_arguments(p, text, size);
    else
        http_text_put(&p->arguments, text, size);
}

static void end_call(http_speech *p)
{
    if (!p->mute && !p->how.streams)
        call_end(p);
    if (!p->mute)
        p->nwhole++;
}

static void break_call(http_speech *p, const char *text, size_t size)
{
    if (!p->mute && !p->how.streams)
        p->calls.len = p->call_at;
    say_content(p, text, size);
}

static void on_tools(void *ctx, uint32_t kind, const char *text, size_t size)
{
    http_speech *p = ctx;
    switch (kind) {
    case HTTP_SAYS_CONTENT: say_content(p, text, size); break;
    case HTTP_SAYS_BEGIN: begin_call(p, text, size); break;
    case HTTP_SAYS_ARGUMENTS: add_arguments(p, text, size); break;
    case HTTP_SAYS_END: end_call(p); break;
    case HTTP_SAYS_BROKEN: break_call(p, text, size); break;
    }
}

static void on_reason(void *ctx, bool reasoning, const char *text, size_t size)
{
    http_speech *p = ctx;
    if (!reasoning && p->how.forms != 0)
        http_tools_put(&p->tools, text, size);
    else if (!reasoning)
        say_content(p, text, size);
    else if (p->how.hides)
        return;
    else if (p->how.streams)
        delta_reasoning(p, text, size);
    else
        http_text_put(&p->reasoning, text, size);
}

void http_speech_open(http_speech *p, const http_speech_setup *how)
{
    *p = (http_speech){.how = *how};
    const http_tools_sink tools = {.ctx = p, .event = on_tools, .types = ask_types};
    const http_reason_sink reason = {.ctx = p, .text = on_reason};
    http_reason_open(&p->reason, &reason);
    http_tools_open(&p->tools, how->forms, &tools);
    http_text_open(&p->deltas, GATHERED_MAX);
    http_text_open(&p->content, GATHERED_MAX);
    http_text_open(&p->reasoning, GATHERED_MAX);
    http_text_open(&p->calls, GATHERED_MAX);
    http_text_open(&p->arguments, GATHERED_MAX);
}

void http_speech_close(http_speech *p)
{
    http_tools_close(&p->tools);
    http_text_close(&p->deltas);
    http_text_close(&p->content);
    http_text_close(&p->reasoning);
    http_text_close(&p->calls);
    http_text_close(&p->arguments);
}

void http_speech_put(http_speech *p, const char *text, size_t size)
{
    if (p->how.reasons)
        http_reason_put(&p->reason, text, size);
    else if (size > 0)
        on_reason(p, false, text, size);
}

void http_speech_end(http_speech *p)
{
    if (p->how.reasons)
        http_reason_end(&p->reason);
    if (p->how.forms != 0)
        http_tools_end(&p->tools);
}

static void put_text(const char *key, const http_text *text, bool or_null, http_text *out)
{
    http_text_printf(out, "\"%s\":", key);
    if (text->len == 0 && or_null)
        http_text_puts(out, "null");
    else
        http_text_json(out, text->data != NULL ? text->data : "", text->len);
}

void http_speech_message(const http_speech *p, http_text *out)
{
    bool silent = p->nwhole > 0 || p->how.reasons;
    put_text("content", &p->content, silent, out);
    http_text_puts(out, ",");
    put_text("reasoning", &p->reasoning, true, out);
    if (p->how.reasons) {
        http_text_puts(out, ",");
        put_text("reasoning_content", &p->reasoning, true, out);
    }
    if (p->nwhole == 0)
        return;
    http_text_puts(out, ",\"tool_calls\":[");
    http_text_put(out, p->calls.data, p->calls.len);
    http_text_puts(out, "]");
}

bool http_speech_has_failed(const http_speech *p)
{
    return p->deltas.failed || p->content.failed || p->reasoning.failed || p->calls.failed ||
           p->arguments.failed || http_tools_has_failed(&p->tools);
}
