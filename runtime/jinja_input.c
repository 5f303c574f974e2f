/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_input.c - a request's messages and tools as the values a template expects. */
#include "jinja_input.h"

#include "jinja_engine.h"
#include "json.h"
#include "quote.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct tn_jparsed {
    tn_json_doc *doc;
    struct tn_jparsed *next;   /* in the arena */
};

/* Where in the request something stands, for messages about it. */
typedef struct place {
    uint32_t message, part;
    const char *inside;        /* ".content", ... */
    bool has_part;
} place;

void tn_jinput_close(tn_jinput *in)
{
    for (struct tn_jparsed *p = in->parsed; p != NULL; p = p->next)
        tn_json_close(p->doc);
    in->parsed = NULL;
}

/* Refuses the request itself: no template line plays a part. */
static bool refuse(tn_jinput *in, place at, const char *code, const char *what)
{
    tn_jrun *r = in->r;
    if (r->failed)
        return false;
    r->failed = true;
    char where[96];
    if (at.has_part)
        snprintf(where, sizeof where, "messages[%u]%s[%u]", at.message, at.inside, at.part);
    else
        snprintf(where, sizeof where, "messages[%u]%s", at.message, at.inside);
    tn_fail(r->err, TN_REFUSED, "%s: %s", where, what);
    if (r->err != NULL) {
        snprintf(r->err->code, sizeof r->err->code, "%s", code);
        snprintf(r->err->param, sizeof r->err->param, "%s", where);
    }
    return false;
}

/* ------------------------------------------------------------------------------ plain values */

static bool list_value(tn_jinput *in, const tn_json *v, tn_jval *out)
{
    tn_jval *at = tn_jlist_new(in->r, TN_J_LIST, v->count, out);
    if (at == NULL)
        return false;
    for (const tn_json *c = v->child; c != NULL; c = c->next)
        TN_TRY(tn_jinput_value(in, c, at++));
    return true;
}

static bool key_value(tn_jinput *in, const tn_json *v, tn_jval *out)
{
    return tn_jguard_text(in->r, &in->guard, v->key, v->key_size, out);
}

static bool dict_value(tn_jinput *in, const tn_json *v, tn_jval *out)
{
    tn_jdict *d = tn_jdict_new(in->r, v->count);
    if (d == NULL)
        return false;
    for (const tn_json *c = v->child; c != NULL; c = c->next) {
        tn_jval key, val;
        TN_TRY(key_value(in, c, &key) && tn_jinput_value(in, c, &val));
        TN_TRY(tn_jdict_set(in->r, d, key, val));
    }
    *out = (tn_jval){.type = TN_J_DICT, .as.d = d};
    return true;
}

bool tn_jinput_value(tn_jinput *in, const tn_json *v, tn_jval *out)
{
    if (v->type == TN_JSON_TEXT)
        return tn_jguard_text(in->r, &in->guard, v->text, v->count, out);
    if (v->type != TN_JSON_LIST && v->type != TN_JSON_OBJECT)
        return tn_jval_of_json(in->r, v, out);
    TN_TRY(tn_jrun_enter(in->r));
    bool ok = v->type == TN_JSON_LIST ? list_value(in, v, out) : dict_value(in, v, out);
    tn_jrun_leave(in->r);
    return ok;
}

/* ---------------------------------------------------------------------------------- content */

/* The text of a part: {"type": "text", "text": ...}, or the plain string some clients send.
 * NULL: another kind of part. */
static const tn_json *part_text(const tn_json *part)
{
    if (part->type == TN_JSON_TEXT)
        return part;
    const tn_json *type = tn_json_find(part, "type"), *text = tn_json_find(part, "text");
    if (type != NULL && type->type == TN_JSON_TEXT && strcmp(type->text, "refusal") == 0)
        text = tn_json_find(part, "refusal");
    else if (type != NULL
             && (type->type != TN_JSON_TEXT
                 || (strcmp(type->text, "text") != 0 && strcmp(type->text, "input_text") != 0
                     && strcmp(type->text, "output_text") != 0)))
        return NULL;
    return text != NULL && text->type == TN_JSON_TEXT ? text : NULL;
}

static bool check_parts(tn_jinput *in, const tn_json *content, place at)
{
    at.has_part = true;
    at.part = 0;
    for (const tn_json *c = content->child; c != NULL; c = c->next, at.part++)
        if (part_text(c) == NULL)
            return refuse(in, at, "wrong_type",
                          "this model reads text only; expected a part of type text");
    return true;
}

/* With the tag, when there is one, in plain text behind what the user wrote. */
static bool tagged(tn_jinput *in, const char *p, size_t size, bool tag, tn_jval *out)
{
    tn_jval text;
    TN_TRY(tn_jguard_text(in->r, &in->guard, p, size, out));
    if (!tag)
        return true;
    in->final = *out;
    return tn_jstr_text(in->r, TN_JCONTINUE_TAG, &text) && tn_jstr_concat(in->r, *out, text, out);
}

/* Joined before it is marked: a spelling may cross the seam. */
static bool joined(tn_jinput *in, const tn_json *content, bool tag, tn_jval *out)
{
    tn_jtext t;
    tn_jval all;
    tn_jtext_open(&t, in->r, 0);
    for (const tn_json *c = content->child; c != NULL; c = c->next) {
        const tn_json *text = part_text(c);
        if (c != content->child)
            tn_jtext_putc(&t, '\n');
        tn_jtext_put(&t, text->text, text->count);
    }
    return tn_jtext_close(&t, &all) && tagged(in, all.as.s->p, all.as.s->size, tag, out);
}

/* {"type": "text", "text": text} */
static bool text_part(tn_jinput *in, tn_jval text, tn_jval *out)
{
    tn_jdict *d = tn_jdict_new(in->r, 2);
    tn_jval key, type;
    if (d == NULL)
        return false;
    TN_TRY(tn_jstr_text(in->r, "type", &key) && tn_jstr_text(in->r, "text", &type));
    TN_TRY(tn_jdict_set(in->r, d, key, type) && tn_jdict_set(in->r, d, type, text));
    *out = (tn_jval){.type = TN_J_DICT, .as.d = d};
    return true;
}

static bool as_parts(tn_jinput *in, const tn_json *content, bool tag, tn_jval *out)
{
    tn_jval *at = tn_jlist_new(in->r, TN_J_LIST, content->count, out);
    if (at == NULL)
        return false;
    for (const tn_json *c = content->child; c != NULL; c = c->next) {
        const tn_json *text = part_text(c);
        tn_jval v;
        TN_TRY(tagged(in, text->text, text->count, tag && c->next == NULL, &v));
        TN_TRY(text_part(in, v, at++));
    }
    return true;
}

static bool no_content(tn_jinput *in, tn_jval *out)
{
    if (in->shape.parts && !in->shape.tests_string)
        return tn_jlist_new(in->r, TN_J_LIST, 0, out) != NULL;
    return tn_jstr_text(in->r, "", out);
}

static bool content_value(tn_jinput *in, const tn_json *v, place at, bool tag, tn_jval *out)
{
    at.inside = ".content";
    bool none = v == NULL || v->type == TN_JSON_NULL;
    if (none || (v->type == TN_JSON_LIST && v->count == 0)) {
        if (tag)
            return refuse(in, at, "template_error", "there is no text; expected text to continue");
        return no_content(in, out);
    }
    if (v->type == TN_JSON_TEXT) {
        TN_TRY(tagged(in, v->text, v->count, tag, out));
        if (!in->shape.parts || in->shape.tests_string)
            return true;
        tn_jval list;
        tn_jval *one = tn_jlist_new(in->r, TN_J_LIST, 1, &list);
        TN_TRY(one != NULL && text_part(in, *out, one));
        *out = list;
        return true;
    }
    if (v->type != TN_JSON_LIST)
        return refuse(in, at, "wrong_type", "expected text or a list of parts");
    TN_TRY(check_parts(in, v, at));
    return in->shape.parts ? as_parts(in, v, tag, out) : joined(in, v, tag, out);
}

/* -------------------------------------------------------------------------------- tool calls */

static bool parse_arguments(tn_jinput *in, const tn_json *v, place at, tn_jval *out)
{
    struct tn_jparsed *p = tn_jrun_take(in->r, sizeof *p);
    tn_err err;
    if (p == NULL)
        return false;
    if (tn_json_open(v->text, v->count, "arguments", TN_JSON_DEPTH_REQUEST, &p->doc, &err)
        != TN_OK)
        return refuse(in, at, err.code[0] != 0 ? err.code : "invalid_json", err.text);
    p->next = in->parsed;
    in->parsed = p;
    const tn_json *root = tn_json_root(p->doc);
    /* An escape may spell the very mark, which was chosen without seeing it. */
    if (in->r->mark != 0 && (tn_jmarks_in_json(root) >> (in->r->mark - TN_JMARK_FIRST) & 1) != 0)
        return refuse(in, at, "template_error", "an escaped noncharacter; expected plain text");
    return root->type == TN_JSON_OBJECT ? tn_jinput_value(in, root, out)
                                        : tn_jinput_value(in, v, out);
}

static bool arguments_value(tn_jinput *in, const tn_json *v, place at, tn_jval *out)
{
    if (in->shape.text_arguments && v->type == TN_JSON_TEXT)
        return tn_jinput_value(in, v, out);
    bool none = v->type == TN_JSON_NULL || (v->type == TN_JSON_TEXT && v->count == 0);
    if (none) {
        tn_jdict *d = tn_jdict_new(in->r, 0);
        *out = (tn_jval){.type = TN_J_DICT, .as.d = d};
        return d != NULL;
    }
    return v->type == TN_JSON_TEXT ? parse_arguments(in, v, at, out) : tn_jinput_value(in, v, out);
}

/* An object whose member `inner` is made by `make`, the others as they are. */
typedef bool (*make_value)(tn_jinput *in, const tn_json *v, place at, tn_jval *out);

static bool with_member(tn_jinput *in, const tn_json *o, const char *inner, make_value make,
                        place at, tn_jval *out)
{
    if (o->type != TN_JSON_OBJECT)
        return tn_jinput_value(in, o, out);
    tn_jdict *d = tn_jdict_new(in->r, o->count);
    if (d == NULL)
        return false;
    for (const tn_json *c = o->child; c != NULL; c = c->next) {
        tn_jval key, val;
        TN_TRY(key_value(in, c, &key));
        TN_TRY(tn_json_is_key(c, inner) ? make(in, c, at, &val) : tn_jinput_value(in, c, &val));
        TN_TRY(tn_jdict_set(in->r, d, key, val));
    }
    *out = (tn_jval){.type = TN_J_DICT, .as.d = d};
    return true;
}

static bool function_value(tn_jinput *in, const tn_json *v, place at, tn_jval *out)
{
    return with_member(in, v, "arguments", arguments_value, at, out);
}

static bool calls_value(tn_jinput *in, const tn_json *v, place at, tn_jval *out)
{
    if (v->type != TN_JSON_LIST)
        return tn_jinput_value(in, v, out);
    tn_jval *made = tn_jlist_new(in->r, TN_J_LIST, v->count, out);
    if (made == NULL)
        return false;
    at.inside = ".tool_calls";
    at.has_part = true;
    at.part = 0;
    for (const tn_json *c = v->child; c != NULL; c = c->next, at.part++)
        TN_TRY(with_member(in, c, "function", function_value, at, made++));
    return true;
}

/* ---------------------------------------------------------------------------------- messages */

static bool role_value(tn_jinput *in, const tn_json *v, tn_jval *out)
{
    bool developer = v->type == TN_JSON_TEXT && strcmp(v->text, "developer") == 0;
    return developer && !in->shape.developer ? tn_jstr_text(in->r, "system", out)
                                             : tn_jinput_value(in, v, out);
}

static bool set_text_key(tn_jinput *in, tn_jdict *d, const char *key, tn_jval val)
{
    tn_jval k;
    return tn_jstr_text(in->r, key, &k) && tn_jdict_set(in->r, d, k, val);
}

/* Fills reasoning_content and thinking from whichever name the reasoning came under. */
static bool alias_reasoning(tn_jinput *in, tn_jdict *d)
{
    static const char *const names[] = {"reasoning_content", "thinking", "reasoning"};
    const tn_jval *found = NULL;
    for (size_t i = 0; i < 3 && found == NULL; i++) {
        const tn_jval *v = tn_jdict_text(d, names[i]);
        if (v != NULL && v->type != TN_J_NONE)
            found = v;
    }
    if (found == NULL)
        return true;
    tn_jval text = *found;
    if (tn_jdict_text(d, "thinking") == NULL)
        TN_TRY(set_text_key(in, d, "thinking", text));
    return set_text_key(in, d, "reasoning_content", text);
}

static bool message_value(tn_jinput *in, const tn_json *m, place at, bool tag, tn_jval *out)
{
    if (m->type != TN_JSON_OBJECT)
        return refuse(in, at, "wrong_type", "expected an object");
    tn_jdict *d = tn_jdict_new(in->r, m->count + 2);
    if (d == NULL)
        return false;
    for (const tn_json *c = m->child; c != NULL; c = c->next) {
        tn_jval key, val;
        TN_TRY(key_value(in, c, &key));
        if (tn_json_is_key(c, "role"))
            TN_TRY(role_value(in, c, &val));
        else if (tn_json_is_key(c, "content"))
            TN_TRY(content_value(in, c, at, tag, &val));
        else if (tn_json_is_key(c, "tool_calls"))
            TN_TRY(calls_value(in, c, at, &val));
        else
            TN_TRY(tn_jinput_value(in, c, &val));
        TN_TRY(tn_jdict_set(in->r, d, key, val));
    }
    if (tn_json_find(m, "content") == NULL) {
        tn_jval val;
        TN_TRY(content_value(in, NULL, at, tag, &val) && set_text_key(in, d, "content", val));
    }
    *out = (tn_jval){.type = TN_J_DICT, .as.d = d};
    return alias_reasoning(in, d);
}

bool tn_jinput_messages(tn_jinput *in, const tn_json *messages, bool continue_final, tn_jval *out)
{
    place at = {.inside = ""};
    if (messages == NULL || messages->type != TN_JSON_LIST)
        return refuse(in, at, "wrong_type", "expected a list of messages");
    tn_jval *made = tn_jlist_new(in->r, TN_J_LIST, messages->count, out);
    if (made == NULL)
        return false;
    for (const tn_json *c = messages->child; c != NULL; c = c->next, at.message++)
        TN_TRY(message_value(in, c, at, continue_final && c->next == NULL, made++));
    return true;
}
