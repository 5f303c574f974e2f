/* SPDX-License-Identifier: Apache-2.0 */
/* http_offer.c - the tools that a request offers the model, and how it may use them.
 *
 * Templates print each tool as JSON, so the tree they are given has members in one order,
 * whatever order the client wrote: type, function {name, description, parameters}, then what
 * else there was. It is built beside the body's tree and shares its leaves. */
#include "http.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
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

/* ----------------------------------------------------------------------------- their shape */

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

static tn_status check_function(const tn_json *f, uint32_t i, tn_err *err)
{
    char param[64];
    const tn_json *name = present(f, "name"), *text = present(f, "description");
    const tn_json *parameters = present(f, "parameters"), *strict = present(f, "strict");
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
    if (parameters != NULL && parameters->type != TN_JSON_OBJECT)
        return bad_type(err, param, "a JSON schema object");
    snprintf(param, sizeof param, "tools[%u].function.strict", i);
    if (strict != NULL && strict->type != TN_JSON_TRUE && strict->type != TN_JSON_FALSE)
        return bad_type(err, param, "true or false");
    return TN_OK;
}

static tn_status check_tool(const tn_json *t, uint32_t i, tn_err *err)
{
    char param[64];
    snprintf(param, sizeof param, "tools[%u]", i);
    const tn_json *type = present(t, "type");
    if (type == NULL || !http_is_text(type, "function"))
        return http_refuse(err, "value_out_of_range", param, "no type \"function\"; expected "
                           "{\"type\": \"function\", \"function\": {...}}");
    return check_function(present(t, "function"), i, err);
}

static const char *name_of(const tn_json *tool)
{
    return tn_json_find(tn_json_find(tool, "function"), "name")->text;
}

static tn_status check_unique(const tn_json *tools, tn_err *err)
{
    for (const tn_json *a = tools->child; a != NULL; a = a->next)
        for (const tn_json *b = tools->child; b != a; b = b->next)
            if (strcmp(name_of(a), name_of(b)) == 0)
                return http_refuse(err, "value_out_of_range", "tools", "two functions called "
                                   "\"%.64s\"; expected each once", name_of(a));
    return TN_OK;
}

static tn_status check_tools(const tn_json *tools, tn_err *err)
{
    if (tools->count > HTTP_TOOLS_MAX)
        return http_refuse(err, "value_out_of_range", "tools", "%u tools; expected at most %u",
                           tools->count, HTTP_TOOLS_MAX);
    uint32_t i = 0;
    for (const tn_json *t = tools->child; t != NULL; t = t->next, i++) {
        tn_status st = check_tool(t, i, err);
        if (st != TN_OK)
            return st;
    }
    return check_unique(tools, err);
}

/* --------------------------------------------------------------------------- their use */

/* The model is left free, and its reply searched for calls. */
static tn_status choose_auto(const http_options *o, http_ask *a, tn_err *err)
{
    if (!o->auto_tools || o->tool_forms == 0)
        return http_refuse(err, "unsupported", "tool_choice", "\"auto\", which needs a server run "
                           "with --enable-auto-tool-choice and --tool-call-parser; expected "
                           "\"none\" here");
    a->tool_forms = o->tool_forms;
    return TN_OK;
}

/* {"type": "function", "function": {"name": ...}} with a name that is offered. */
static tn_status choose_named(const tn_json *choice, const tn_json *tools, tn_err *err)
{
    const tn_json *type = present(choice, "type");
    const tn_json *name = present(present(choice, "function"), "name");
    if (type == NULL || !http_is_text(type, "function") || name == NULL ||
        name->type != TN_JSON_TEXT)
        return http_refuse(err, "value_out_of_range", "tool_choice", "an object without type "
                           "\"function\" and function.name; expected both");
    for (const tn_json *t = tools->child; t != NULL; t = t->next)
        if (http_is_text(name, name_of(t)))
            return http_refuse(err, "unsupported", "tool_choice", "one function by name, which "
                               "needs constrained output, which is not offered; expected "
                               "\"auto\" or \"none\"");
    return http_refuse(err, "value_out_of_range", "tool_choice", "a function that is not among "
                       "tools; expected one of them");
}

static tn_status choose(const http_options *o, http_ask *a, const tn_json *choice,
                        const tn_json *tools, tn_err *err)
{
    if (choice == NULL || http_is_text(choice, "auto"))
        return choose_auto(o, a, err);
    if (http_is_text(choice, "none"))
        return TN_OK;
    if (http_is_text(choice, "required"))
        return http_refuse(err, "unsupported", "tool_choice", "\"required\", which needs "
                           "constrained output, which is not offered; expected \"auto\" or "
                           "\"none\"");
    if (choice->type == TN_JSON_OBJECT)
        return choose_named(choice, tools, err);
    if (choice->type != TN_JSON_TEXT)
        return bad_type(err, "tool_choice", "\"auto\", \"none\", \"required\" or an object");
    return http_refuse(err, "value_out_of_range", "tool_choice", "\"%.64s\"; expected \"auto\", "
                       "\"none\", \"required\" or an object", choice->text);
}

/* ---------------------------------------------------------------------- what templates see */

typedef struct maker {
    tn_json *at;                 /* free nodes */
    const tn_json **link;        /* where the next member goes */
    tn_json *parent;
} maker;

static tn_json *add(maker *m, const char *key, const tn_json *v)
{
    tn_json *n = m->at++;
    *n = v != NULL ? *v : (tn_json){.type = TN_JSON_NULL};
    n->key = key;
    n->key_size = key != NULL ? (uint32_t)strlen(key) : 0;
    n->next = NULL;
    *m->link = n;
    m->link = &n->next;
    m->parent->count++;
    return n;
}

/* The members named first, null where they are absent, then the others of `o`. */
static void add_members(maker *m, const tn_json *o, const char *const *first, uint32_t nfirst)
{
    for (uint32_t i = 0; i < nfirst; i++)
        add(m, first[i], tn_json_find(o, first[i]));
    for (const tn_json *e = o->child; e != NULL; e = e->next) {
        bool done = false;
        for (uint32_t i = 0; i < nfirst; i++)
            done = done || tn_json_find(o, first[i]) == e;
        if (done)
            continue;
        tn_json *n = add(m, "", e);
        n->key = e->key;
        n->key_size = e->key_size;
    }
}

static maker inside(const maker *m, tn_json *parent)
{
    parent->count = 0;
    parent->child = NULL;
    return (maker){.at = m->at, .link = &parent->child, .parent = parent};
}

static void add_tool(maker *list, const tn_json *tool)
{
    static const char *const outer[] = {"type", "function"};
    static const char *const inner[] = {"name", "description", "parameters"};
    tn_json *copy = add(list, NULL, tool);
    maker members = inside(list, copy);
    add_members(&members, tool, outer, 2);
    tn_json *function = (tn_json *)(uintptr_t)copy->child->next;
    maker parts = inside(&members, function);
    add_members(&parts, tn_json_find(tool, "function"), inner, 3);
    list->at = parts.at;
}

/* The tools as templates see them; NULL when there is no memory. */
static const tn_json *order_tools(http_ask *a, const tn_json *tools)
{
    size_t n = 1;
    for (const tn_json *t = tools->child; t != NULL; t = t->next)
        n += 6 + (size_t)t->count + tn_json_find(t, "function")->count;
    tn_json *node = http_ask_keep(a, calloc(n, sizeof *node));
    if (node == NULL)
        return NULL;
    *node = *tools;
    maker start = {.at = node + 1}, list = inside(&start, node);
    for (const tn_json *t = tools->child; t != NULL; t = t->next)
        add_tool(&list, t);
    return node;
}

tn_status http_offer_shape(const http_options *o, http_ask *a, const tn_json **out, tn_err *err)
{
    const tn_json *tools = present(a->body, "tools"), *choice = present(a->body, "tool_choice");
    a->parallel = true;
    tn_status st = http_get_bool(a->body, "parallel_tool_calls", &a->parallel, err);
    if (st != TN_OK)
        return st;
    bool none = choice != NULL && http_is_text(choice, "none");
    if (tools != NULL && tools->type != TN_JSON_LIST)
        return bad_type(err, "tools", "a list of functions");
    if (tools == NULL || tools->count == 0)
        return choice == NULL || none
                   ? TN_OK
                   : http_refuse(err, "value_out_of_range", "tool_choice", "given without tools; "
                                 "expected tools beside it");
    st = check_tools(tools, err);
    if (st == TN_OK && a->chat) /* for /tokenize they are part of the prompt, no more */
        st = choose(o, a, choice, tools, err);
    if (st != TN_OK || (none && o->exclude_tools))
        return st;
    *out = a->tools = order_tools(a, tools);
    return *out != NULL ? TN_OK : tn_fail(err, TN_NO_MEMORY, "no memory for the request");
}
