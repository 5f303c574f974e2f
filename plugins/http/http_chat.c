/* SPDX-License-Identifier: Apache-2.0 */
/* http_chat.c - the shape of a conversation: messages, tools, and what is asked of the reply. */
#include "http.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#define TOOL_NAME_MAX 64u
#define TOOL_TEXT_MAX (64u * 1024u)

static const tn_json *present(const tn_json *o, const char *key)
{
    const tn_json *v = tn_json_find(o, key);
    return v != NULL && v->type != TN_JSON_NULL ? v : NULL;
}

static tn_status bad_type(tn_err *err, const char *param, const char *wanted)
{
    return http_refuse(err, "wrong_type", param, "wrong type; expected %s", wanted);
}

/* A list of parts; only text is understood, and nothing is dropped in silence. */
static tn_status check_parts(const tn_json *list, const char *param, tn_err *err)
{
    char where[160];
    uint32_t i = 0;
    for (const tn_json *p = list->child; p != NULL; p = p->next, i++) {
        snprintf(where, sizeof where, "%s[%u]", param, i);
        if (p->type != TN_JSON_OBJECT)
            return bad_type(err, where, "an object with type and text");
        const tn_json *type = present(p, "type"), *text = present(p, "text");
        if (type == NULL || type->type != TN_JSON_TEXT)
            return http_refuse(err, "missing_field", where, "no type; expected \"text\"");
        if (!http_is_text(type, "text"))
            return http_refuse(err, "unsupported", where, "a part of type \"%.64s\"; expected "
                               "\"text\": the model reads nothing else", type->text);
        if (text == NULL || text->type != TN_JSON_TEXT)
            return bad_type(err, where, "text as a string");
    }
    return TN_OK;
}

static tn_status check_calls(const tn_json *calls, const char *param, tn_err *err)
{
    if (calls->type != TN_JSON_LIST)
        return bad_type(err, param, "a list of tool calls");
    for (const tn_json *c = calls->child; c != NULL; c = c->next) {
        const tn_json *f = present(c, "function"), *name = present(f, "name");
        if (f == NULL || name == NULL || name->type != TN_JSON_TEXT)
            return bad_type(err, param, "tool calls with function.name");
    }
    return TN_OK;
}

static tn_status check_message(const tn_json *m, uint32_t i, tn_err *err)
{
    static const char *const roles[] = {"system", "developer", "user", "assistant", "tool"};
    char param[64];
    snprintf(param, sizeof param, "messages[%u]", i);
    if (m->type != TN_JSON_OBJECT)
        return bad_type(err, param, "an object");
    const tn_json *role = present(m, "role"), *content = present(m, "content");
    const tn_json *calls = present(m, "tool_calls");
    snprintf(param, sizeof param, "messages[%u].role", i);
    if (role == NULL)
        return http_refuse(err, "missing_field", param, "missing; expected system, user, "
                           "assistant or tool");
    if (role->type != TN_JSON_TEXT)
        return bad_type(err, param, "system, user, assistant or tool");
    bool known = false;
    for (size_t r = 0; r < sizeof roles / sizeof *roles; r++)
        known = known || http_is_text(role, roles[r]);
    if (!known)
        return http_refuse(err, "value_out_of_range", param, "\"%.64s\"; expected system, "
                           "developer, user, assistant or tool", role->text);
    snprintf(param, sizeof param, "messages[%u].tool_calls", i);
    tn_status st = calls != NULL ? check_calls(calls, param, err) : TN_OK;
    if (st != TN_OK)
        return st;
    snprintf(param, sizeof param, "messages[%u].tool_call_id", i);
    if (strcmp(role->text, "tool") == 0 && present(m, "tool_call_id") == NULL)
        return http_refuse(err, "missing_field", param, "missing; expected the id of the call "
                           "that is answered");
    snprintf(param, sizeof param, "messages[%u].content", i);
    if (content == NULL) {
        bool may_be_null = strcmp(role->text, "assistant") == 0 && calls != NULL;
        return may_be_null ? TN_OK
                           : http_refuse(err, "missing_field", param, "missing; expected text");
    }
    if (content->type == TN_JSON_TEXT)
        return TN_OK;
    if (content->type != TN_JSON_LIST)
        return bad_type(err, param, "a string or a list of text parts");
    return check_parts(content, param, err);
}

static tn_status check_messages(const tn_json *body, const tn_json **out, tn_err *err)
{
    const tn_json *list = present(body, "messages");
    if (list == NULL)
        return http_refuse(err, "missing_field", "messages", "missing; expected a list of "
                           "messages");
    if (list->type != TN_JSON_LIST)
        return bad_type(err, "messages", "a list of messages");
    if (list->count == 0 || list->count > HTTP_MESSAGES_MAX)
        return http_refuse(err, "value_out_of_range", "messages", "%u messages; expected 1 to %u",
                           list->count, HTTP_MESSAGES_MAX);
    uint32_t i = 0;
    for (const tn_json *m = list->child; m != NULL; m = m->next, i++) {
        tn_status st = check_message(m, i, err);
        if (st != TN_OK)
            return st;
    }
    *out = list;
    return TN_OK;
}

static bool is_tool_name(const tn_json *name)
{
    if (name->count == 0 || name->count > TOOL_NAME_MAX)
        return false;
    for (uint32_t i = 0; i < name->count; i++) {
        unsigned char c = (unsigned char)name->text[i];
        if (!isalnum(c) && c != '_' && c != '-')
            return false;
    }
    return true;
}

static tn_status check_tool(const tn_json *t, uint32_t i, tn_err *err)
{
    char param[64];
    snprintf(param, sizeof param, "tools[%u]", i);
    const tn_json *type = present(t, "type"), *f = present(t, "function");
    if (type == NULL || !http_is_text(type, "function"))
        return http_refuse(err, "value_out_of_range", param, "no type \"function\"; expected "
                           "{\"type\": \"function\", \"function\": {...}}");
    const tn_json *name = present(f, "name"), *text = present(f, "description");
    snprintf(param, sizeof param, "tools[%u].function.name", i);
    if (name == NULL || name->type != TN_JSON_TEXT || !is_tool_name(name))
        return http_refuse(err, "value_out_of_range", param, "not a name; expected 1 to %u "
                           "letters, digits, _ or -", TOOL_NAME_MAX);
    snprintf(param, sizeof param, "tools[%u].function.description", i);
    if (text != NULL && text->type != TN_JSON_TEXT)
        return bad_type(err, param, "a string");
    if (text != NULL && text->count > TOOL_TEXT_MAX)
        return http_refuse(err, "value_out_of_range", param, "%u bytes; expected at most %u",
                           text->count, TOOL_TEXT_MAX);
    snprintf(param, sizeof param, "tools[%u].function.parameters", i);
    const tn_json *parameters = present(f, "parameters");
    if (parameters != NULL && parameters->type != TN_JSON_OBJECT)
        return bad_type(err, param, "a JSON schema object");
    return TN_OK;
}

static tn_status check_unique(const tn_json *tools, tn_err *err)
{
    for (const tn_json *a = tools->child; a != NULL; a = a->next)
        for (const tn_json *b = tools->child; b != a; b = b->next)
            if (strcmp(present(present(a, "function"), "name")->text,
                       present(present(b, "function"), "name")->text) == 0)
                return http_refuse(err, "value_out_of_range", "tools", "two functions called "
                                   "\"%.64s\"; expected each once",
                                   present(present(a, "function"), "name")->text);
    return TN_OK;
}

/* Tools are rendered into the prompt; reading calls back out of the reply needs a parser,
 * which this server does not have, so only tool_choice "none" is honest. */
static tn_status check_tools(const tn_json *body, const tn_json **out, tn_err *err)
{
    const tn_json *tools = present(body, "tools"), *choice = present(body, "tool_choice");
    if (tools != NULL && tools->type != TN_JSON_LIST)
        return bad_type(err, "tools", "a list of functions");
    bool none = choice != NULL && http_is_text(choice, "none");
    if (tools == NULL || tools->count == 0)
        return choice == NULL || none
                   ? TN_OK
                   : http_refuse(err, "value_out_of_range", "tool_choice", "given without tools; "
                                 "expected tools beside it");
    if (tools->count > HTTP_TOOLS_MAX)
        return http_refuse(err, "value_out_of_range", "tools", "%u tools; expected at most %u",
                           tools->count, HTTP_TOOLS_MAX);
    uint32_t i = 0;
    for (const tn_json *t = tools->child; t != NULL; t = t->next, i++) {
        tn_status st = check_tool(t, i, err);
        if (st != TN_OK)
            return st;
    }
    tn_status st = check_unique(tools, err);
    if (st != TN_OK)
        return st;
    if (!none)
        return http_refuse(err, "unsupported", "tool_choice", "the reply would have to be parsed "
                           "for calls, which is not offered; expected \"none\"");
    *out = tools;
    return TN_OK;
}

tn_status http_chat_shape(const http_ask *a, tn_prompt *p, tn_err *err)
{
    bool generation = true, go_on = false, special = false;
    const tn_json *b = a->body, *kwargs = present(b, "chat_template_kwargs");
    p->kind = TN_PROMPT_CHAT;
    tn_status st = check_messages(b, &p->messages, err);
    if (st == TN_OK)
        st = check_tools(b, &p->tools, err);
    if (st == TN_OK)
        st = http_get_bool(b, "add_generation_prompt", &generation, err);
    if (st == TN_OK)
        st = http_get_bool(b, "continue_final_message", &go_on, err);
    if (st == TN_OK)
        st = http_get_bool(b, "add_special_tokens", &special, err);
    if (st != TN_OK)
        return st;
    if (present(b, "chat_template") != NULL)
        return http_refuse(err, "unsupported", "chat_template", "given; expected none: a request "
                           "may not bring its own template");
    if (kwargs != NULL && kwargs->type != TN_JSON_OBJECT)
        return bad_type(err, "chat_template_kwargs", "an object");
    if (go_on && tn_json_find(b, "add_generation_prompt") != NULL && generation)
        return http_refuse(err, "value_out_of_range", "continue_final_message", "true together "
                           "with add_generation_prompt; expected one of them");
    p->kwargs = kwargs;
    p->add_generation = generation && !go_on;
    p->continue_final = go_on;
    p->add_special = special;
    return TN_OK;
}
