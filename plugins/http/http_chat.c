/* SPDX-License-Identifier: Apache-2.0 */
/* http_chat.c - the shape of a conversation: its messages, and what is asked of the reply. */
#include "http.h"

#include <stdio.h>
#include <string.h>

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

/* Arguments are an object, or text that the template's side will read as JSON: it is read here
 * too, so that what is no JSON is refused whatever the template makes of it. */
static tn_status check_arguments(const http_server *s, const tn_json *v, const char *param,
                                 tn_err *err)
{
    tn_json_doc *doc = NULL;
    tn_err why = {{0}, {0}, {0}};
    if (v == NULL || v->type == TN_JSON_OBJECT || (v->type == TN_JSON_TEXT && v->count == 0))
        return TN_OK;
    if (v->type != TN_JSON_TEXT)
        return bad_type(err, param, "an object in JSON, as a string");
    tn_status st = s->h->json_open(s->h->ctx, v->text, v->count, "text", HTTP_JSON_DEPTH, &doc,
                                   &why);
    if (st == TN_OK)
        s->h->json_close(s->h->ctx, doc);
    else if (st == TN_DATA)
        return http_refuse(err, why.code[0] != 0 ? why.code : "invalid_json", param, "%s; "
                           "expected an object in JSON", why.text);
    else
        *err = why;
    return st;
}

static tn_status check_call(const http_server *s, const tn_json *c, const char *param,
                            tn_err *err)
{
    char where[120];
    const tn_json *f = present(c, "function"), *name = present(f, "name");
    const tn_json *id = present(c, "id"), *type = present(c, "type");
    if (name == NULL || name->type != TN_JSON_TEXT)
        return bad_type(err, param, "a tool call with function.name");
    if (type != NULL && !http_is_text(type, "function"))
        return http_refuse(err, "value_out_of_range", param, "a call of another type; expected "
                           "\"function\"");
    snprintf(where, sizeof where, "%s.id", param);
    if (id != NULL && id->type != TN_JSON_TEXT)
        return bad_type(err, where, "a string");
    snprintf(where, sizeof where, "%s.function.arguments", param);
    return check_arguments(s, present(f, "arguments"), where, err);
}

static tn_status check_calls(const http_server *s, const tn_json *calls, const char *param,
                             tn_err *err)
{
    char where[96];
    uint32_t i = 0;
    if (calls->type != TN_JSON_LIST)
        return bad_type(err, param, "a list of tool calls");
    for (const tn_json *c = calls->child; c != NULL; c = c->next, i++) {
        snprintf(where, sizeof where, "%s[%u]", param, i);
        tn_status st = check_call(s, c, where, err);
        if (st != TN_OK)
            return st;
    }
    return TN_OK;
}

static tn_status check_message(const http_server *s, const tn_json *m, uint32_t i, tn_err *err)
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
    tn_status st = calls != NULL ? check_calls(s, calls, param, err) : TN_OK;
    if (st != TN_OK)
        return st;
    const tn_json *answers = present(m, "tool_call_id");
    snprintf(param, sizeof param, "messages[%u].tool_call_id", i);
    if (strcmp(role->text, "tool") == 0 && answers == NULL)
        return http_refuse(err, "missing_field", param, "missing; expected the id of the call "
                           "that is answered");
    if (answers != NULL && answers->type != TN_JSON_TEXT)
        return bad_type(err, param, "a string");
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

static tn_status check_messages(const http_server *s, const tn_json *body, const tn_json **out,
                                tn_err *err)
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
        tn_status st = check_message(s, m, i, err);
        if (st != TN_OK)
            return st;
    }
    *out = list;
    return TN_OK;
}

/* Whether the text leaves a thought open. */
static bool is_thinking(const char *text, size_t size)
{
    static const char open[] = "<think>", close[] = "</think>";
    bool thinks = false;
    for (size_t i = 0; i < size; i++) {
        if (size - i >= sizeof open - 1 && memcmp(text + i, open, sizeof open - 1) == 0)
            thinks = true;
        if (size - i >= sizeof close - 1 && memcmp(text + i, close, sizeof close - 1) == 0)
            thinks = false;
    }
    return thinks;
}

/* Whether the reply begins inside a thought. A message that is continued shows it itself; a
 * reply of its own does, save for models that are told not to think. */
static bool begins_in_thought(const http_server *s, const tn_prompt *p)
{
    const tn_json *last = p->messages->child, *content;
    if (s->opt.reasoning == HTTP_REASONING_NONE)
        return false;
    if (p->continue_final) {
        while (last->next != NULL)
            last = last->next;
        content = present(last, "content");
        return content != NULL && content->type == TN_JSON_TEXT &&
               is_thinking(content->text, content->count);
    }
    const tn_json *enable = tn_json_find(p->kwargs, "enable_thinking");
    return s->opt.reasoning != HTTP_REASONING_QWEN3 || enable == NULL ||
           enable->type != TN_JSON_FALSE;
}

tn_status http_chat_shape(const http_server *s, http_ask *a, tn_prompt *p, tn_err *err)
{
    bool generation = true, go_on = false, special = false, reasoning = true;
    const tn_json *b = a->body, *kwargs = present(b, "chat_template_kwargs");
    p->kind = TN_PROMPT_CHAT;
    tn_status st = check_messages(s, b, &p->messages, err);
    if (st == TN_OK)
        st = http_offer_shape(&s->opt, a, &p->tools, err);
    if (st == TN_OK)
        st = http_get_bool(b, "include_reasoning", &reasoning, err);
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
    a->reasons = begins_in_thought(s, p);
    a->hides_reasoning = !reasoning;
    return TN_OK;
}
