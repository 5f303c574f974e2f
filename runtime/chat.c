/* SPDX-License-Identifier: Apache-2.0 */
/* chat.c - turns a conversation into a prompt with the model's own chat template.
 *
 * Variables are those of transformers' apply_chat_template: messages, tools, documents (none),
 * add_generation_prompt, the special tokens, and whatever the request adds. */
#include "chat.h"

#include "buf.h"
#include "jinja_engine.h"
#include "jinja_input.h"
#include "jinja_strings.h"
#include "json.h"
#include "quote.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CONFIG_SIZE_MAX ((size_t)64 << 20)  /* tokenizer_config.json lists every added token */
#define PATH_MAX_BYTES 4096u
#define TEMPLATES_MAX 64u                   /* named ones in a list */

typedef struct chat_template {
    tn_jinja *t;
    tn_jshape shape;
} chat_template;

typedef struct special {
    char *name, *text;       /* owned */
} special;

struct tn_chat {
    chat_template plain, tool_use; /* tool_use.t NULL: the plain one does both */
    special *special;        /* bos_token and friends, owned */
    size_t nspecial;
    char **extra;            /* additional_special_tokens, owned */
    size_t nextra;
    uint32_t marks;          /* noncharacters that are taken (jinja_guard.h) */
};

static tn_status no_memory(tn_err *err)
{
    return tn_fail(err, TN_NO_MEMORY, "chat template: no memory");
}

/* --------------------------------------------------------------------------- one template */

static tn_status probe(const tn_chat *c, const chat_template *t, const char *arguments,
                       tn_buf *out, tn_err *err);

/* A template that fails on arguments as an object, or prints them as Python would, but takes
 * them as text, was written for text. */
static tn_status probe_arguments(const tn_chat *c, chat_template *t, tn_err *err)
{
    tn_buf object, text;
    tn_err unused;
    tn_buf_open(&object, TN_JINJA_OUTPUT_MAX);
    tn_buf_open(&text, TN_JINJA_OUTPUT_MAX);
    tn_status st = probe(c, t, "{\"probe_key\": \"probe_value\"}", &object, &unused);
    if (st == TN_REFUSED || (st == TN_OK && strstr(object.data, "{'probe_key'") != NULL)) {
        t->shape.text_arguments = true;
        st = probe(c, t, "\"{\\\"probe_key\\\": \\\"probe_value\\\"}\"", &text, &unused);
        t->shape.text_arguments = st == TN_OK && strstr(text.data, "{\"probe_key\"") != NULL;
    }
    tn_buf_close(&object);
    tn_buf_close(&text);
    return st == TN_NO_MEMORY ? no_memory(err) : TN_OK;
}

static tn_status template_open(tn_chat *c, const char *source, size_t size, const char *what,
                               chat_template *t, tn_err *err)
{
    tn_status st = tn_jinja_open(source, size, what, &t->t, err);
    if (st != TN_OK)
        return st;
    t->shape = tn_jshape_of(t->t);
    c->marks |= tn_jmarks_in(source, size);
    return probe_arguments(c, t, err);
}

tn_status tn_chat_open_text(const char *source, size_t size, const char *what, tn_chat **out,
                            tn_err *err)
{
    tn_chat *c = calloc(1, sizeof *c);
    if (c == NULL)
        return tn_fail(err, TN_NO_MEMORY, "%s: no memory for a template", what);
    tn_status st = template_open(c, source, size, what, &c->plain, err);
    if (st != TN_OK) {
        tn_chat_close(c);
        return st;
    }
    *out = c;
    return TN_OK;
}

void tn_chat_close(tn_chat *c)
{
    if (c == NULL)
        return;
    tn_jinja_close(c->plain.t);
    tn_jinja_close(c->tool_use.t);
    for (size_t i = 0; i < c->nspecial; i++) {
        free(c->special[i].name);
        free(c->special[i].text);
    }
    for (size_t i = 0; i < c->nextra; i++)
        free(c->extra[i]);
    free(c->special);
    free(c->extra);
    free(c);
}

/* ------------------------------------------------------------------------- a model's folder */

static bool path_of(char path[PATH_MAX_BYTES], const char *dir, const char *name)
{
    int n = snprintf(path, PATH_MAX_BYTES, "%s/%s", dir, name);
    return n > 0 && (size_t)n < PATH_MAX_BYTES;
}

static tn_status read_whole(int fd, const char *path, tn_buf *out, tn_err *err)
{
    char block[16384];
    for (;;) {
        ssize_t n = read(fd, block, sizeof block);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return tn_fail(err, TN_IO, "%s: %s", tn_path_tail(path), strerror(errno));
        if (n == 0)
            return TN_OK;
        tn_buf_put(out, block, (size_t)n);
        if (out->failed)
            return tn_fail(err, TN_DATA, "%s: larger than %zu bytes; expected at most that",
                           tn_path_tail(path), out->max);
    }
}

/* TN_NOINPUT: there is no such file. */
static tn_status read_file(const char *dir, const char *name, tn_buf *out, tn_err *err)
{
    char path[PATH_MAX_BYTES];
    struct stat s;
    if (!path_of(path, dir, name))
        return tn_fail(err, TN_NOINPUT, "%s: the path is too long", tn_path_tail(dir));
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return tn_fail(err, errno == ENOENT || errno == ENOTDIR ? TN_NOINPUT : TN_NOPERM, "%s: %s",
                       tn_path_tail(path), strerror(errno));
    tn_status st = TN_OK;
    if (fstat(fd, &s) != 0 || !S_ISREG(s.st_mode))
        st = tn_fail(err, TN_DATA, "%s: no regular file", tn_path_tail(path));
    else
        st = read_whole(fd, path, out, err);
    close(fd);
    return st;
}

/* ------------------------------------------------------------------------- special tokens */

/* A token is its text, or an object with the text as its content; NULL: it is neither. */
static const tn_json *token_text(const tn_json *v)
{
    if (v->type == TN_JSON_OBJECT)
        v = tn_json_find(v, "content");
    return v != NULL && v->type == TN_JSON_TEXT ? v : NULL;
}

static char *copy_text(const char *p, size_t size)
{
    char *copy = malloc(size + 1);
    if (copy != NULL) {
        memcpy(copy, p, size);
        copy[size] = 0;
    }
    return copy;
}

static bool has_special(const tn_chat *c, const char *name, size_t size)
{
    for (size_t i = 0; i < c->nspecial; i++)
        if (strlen(c->special[i].name) == size && memcmp(c->special[i].name, name, size) == 0)
            return true;
    return false;
}

static tn_status add_special(tn_chat *c, const char *name, size_t size, const tn_json *text,
                             tn_err *err)
{
    special *wider = realloc(c->special, (c->nspecial + 1) * sizeof *wider);
    if (wider == NULL)
        return no_memory(err);
    c->special = wider;
    special s = {.name = copy_text(name, size), .text = copy_text(text->text, text->count)};
    if (s.name == NULL || s.text == NULL) {
        free(s.name);
        free(s.text);
        return no_memory(err);
    }
    c->special[c->nspecial++] = s;
    c->marks |= tn_jmarks_in(text->text, text->count);
    return TN_OK;
}

static tn_status add_extras(tn_chat *c, const tn_json *list, tn_err *err)
{
    if (c->nextra > 0 || list->count == 0)
        return TN_OK;
    c->extra = calloc(list->count, sizeof *c->extra);
    if (c->extra == NULL)
        return no_memory(err);
    for (const tn_json *v = list->child; v != NULL; v = v->next) {
        const tn_json *text = token_text(v);
        if (text == NULL)
            continue;
        c->extra[c->nextra] = copy_text(text->text, text->count);
        if (c->extra[c->nextra] == NULL)
            return no_memory(err);
        c->nextra++;
        c->marks |= tn_jmarks_in(text->text, text->count);
    }
    return TN_OK;
}

/* Every NAME_token of a configuration; what came first stays. */
static tn_status add_specials(tn_chat *c, const tn_json *config, tn_err *err)
{
    static const char tail[] = "_token";
    for (const tn_json *v = config != NULL ? config->child : NULL; v != NULL; v = v->next) {
        tn_status st = TN_OK;
        const tn_json *text = token_text(v);
        size_t n = v->key_size, t = sizeof tail - 1;
        if (v->type == TN_JSON_LIST && tn_json_is_key(v, "additional_special_tokens"))
            st = add_extras(c, v, err);
        else if (v->type == TN_JSON_OBJECT && tn_json_is_key(v, "extra_special_tokens"))
            st = add_specials(c, v, err);
        else if (text != NULL && n > t && memcmp(v->key + n - t, tail, t) == 0
                 && !has_special(c, v->key, n))
            st = add_special(c, v->key, n, text, err);
        if (st != TN_OK)
            return st;
    }
    return TN_OK;
}

/* ---------------------------------------------------------------- templates of a folder */

/* One of several templates, by name. */
static tn_status named_template(tn_chat *c, const tn_json *name, const tn_json *source,
                                const char *what, tn_err *err)
{
    char inside[200];
    if (name == NULL || name->type != TN_JSON_TEXT || source == NULL
        || source->type != TN_JSON_TEXT)
        return tn_fail(err, TN_DATA, "%s: a template without name and text; expected both", what);
    bool plain = strcmp(name->text, "default") == 0, tools = strcmp(name->text, "tool_use") == 0;
    if (!plain && !tools)
        return TN_OK;
    chat_template *t = plain ? &c->plain : &c->tool_use;
    snprintf(inside, sizeof inside, "%s (%s)", what, name->text);
    return template_open(c, source->text, source->count, inside, t, err);
}

/* Names stand once, also those of templates that nobody asks for. */
static tn_status check_twin(const tn_json *list, const tn_json *e, const char *what, tn_err *err)
{
    tn_quoted q;
    const tn_json *name = tn_json_find(e, "name");
    if (list->count > TEMPLATES_MAX)
        return tn_fail(err, TN_DATA, "%s: %u templates; expected at most %u", what, list->count,
                       TEMPLATES_MAX);
    for (const tn_json *b = list->child; b != e && name != NULL; b = b->next) {
        const tn_json *other = tn_json_find(b, "name");
        if (other != NULL && name->type == TN_JSON_TEXT && other->type == TN_JSON_TEXT
            && name->count == other->count && memcmp(name->text, other->text, name->count) == 0)
            return tn_fail(err, TN_DATA, "%s: two templates are named %s; expected one", what,
                           tn_quote(&q, name->text, name->count));
    }
    return TN_OK;
}

static tn_status templates_of(tn_chat *c, const tn_json *v, const char *what, tn_err *err)
{
    if (v->type == TN_JSON_TEXT)
        return template_open(c, v->text, v->count, what, &c->plain, err);
    if (v->type != TN_JSON_LIST)
        return tn_fail(err, TN_DATA, "%s: chat_template is neither text nor a list", what);
    for (const tn_json *e = v->child; e != NULL; e = e->next) {
        tn_status st = check_twin(v, e, what, err);
        if (st != TN_OK)
            return st;
        st = named_template(c, tn_json_find(e, "name"), tn_json_find(e, "template"), what,
                                      err);
        if (st != TN_OK)
            return st;
    }
    if (c->plain.t == NULL)
        return tn_fail(err, TN_DATA, "%s: no template is named default; expected one", what);
    return TN_OK;
}

/* chat_template.jinja, with a second one for tools in its own folder. */
static tn_status open_jinja(tn_chat *c, const char *dir, tn_err *err)
{
    tn_buf text;
    tn_buf_open(&text, TN_JINJA_SOURCE_MAX);
    tn_status st = read_file(dir, "chat_template.jinja", &text, err);
    if (st == TN_OK)
        st = template_open(c, text.data != NULL ? text.data : "", text.len, "chat_template.jinja",
                           &c->plain, err);
    if (st == TN_OK) {
        tn_buf_reset(&text);
        st = read_file(dir, "additional_chat_templates/tool_use.jinja", &text, err);
        if (st == TN_OK)
            st = template_open(c, text.data != NULL ? text.data : "", text.len, "tool_use.jinja",
                               &c->tool_use, err);
        else if (st == TN_NOINPUT)
            st = TN_OK;
    }
    tn_buf_close(&text);
    return st;
}

static tn_status open_json(tn_chat *c, const char *dir, tn_err *err)
{
    char path[PATH_MAX_BYTES];
    tn_json_doc *doc = NULL;
    if (!path_of(path, dir, "chat_template.json"))
        return TN_NOINPUT;
    tn_status st = tn_json_open_file(path, TN_JINJA_SOURCE_MAX * 4, &doc, err);
    if (st != TN_OK)
        return st;
    const tn_json *v = tn_json_find(tn_json_root(doc), "chat_template");
    st = v != NULL ? templates_of(c, v, "chat_template.json", err)
                   : tn_fail(err, TN_DATA, "chat_template.json: no chat_template; expected one");
    tn_json_close(doc);
    return st;
}

static tn_status find_template(tn_chat *c, const char *dir, const tn_json *config, tn_err *err)
{
    tn_status st = open_jinja(c, dir, err);
    if (st == TN_NOINPUT)
        st = open_json(c, dir, err);
    if (st != TN_NOINPUT)
        return st;
    const tn_json *v = tn_json_find(config, "chat_template");
    if (v != NULL && v->type != TN_JSON_NULL)
        return templates_of(c, v, "tokenizer_config.json", err);
    return tn_fail(err, TN_NOINPUT, "%s: no chat template; expected chat_template.jinja, "
                   "chat_template.json or chat_template in tokenizer_config.json",
                   tn_path_tail(dir));
}

/* Both files that may name special tokens; either may be absent. */
static tn_status open_config(const char *dir, const char *name, tn_json_doc **doc, tn_err *err)
{
    char path[PATH_MAX_BYTES];
    if (!path_of(path, dir, name))
        return tn_fail(err, TN_NOINPUT, "%s: the path is too long", tn_path_tail(dir));
    tn_status st = tn_json_open_file(path, CONFIG_SIZE_MAX, doc, err);
    if (st == TN_OK && tn_json_root(*doc)->type != TN_JSON_OBJECT)
        st = tn_fail(err, TN_DATA, "%s: no object; expected {...}", tn_path_tail(path));
    return st == TN_NOINPUT ? TN_OK : st;
}

tn_status tn_chat_open(const char *dir, tn_chat **out, tn_err *err)
{
    tn_json_doc *config = NULL, *map = NULL;
    tn_chat *c = calloc(1, sizeof *c);
    if (c == NULL)
        return no_memory(err);
    tn_status st = open_config(dir, "tokenizer_config.json", &config, err);
    if (st == TN_OK)
        st = open_config(dir, "special_tokens_map.json", &map, err);
    const tn_json *root = config != NULL ? tn_json_root(config) : NULL;
    if (st == TN_OK)
        st = add_specials(c, root, err);
    if (st == TN_OK && map != NULL)
        st = add_specials(c, tn_json_root(map), err);
    if (st == TN_OK)
        st = find_template(c, dir, root, err);
    tn_json_close(config);
    tn_json_close(map);
    if (st != TN_OK) {
        tn_chat_close(c);
        return st;
    }
    *out = c;
    return TN_OK;
}

/* -------------------------------------------------------------------------------- rendering */

static bool set_text(tn_jrun *r, const char *name, const char *text)
{
    tn_jval v;
    return tn_jstr_text(r, text, &v) && tn_jrun_set(r, name, v);
}

static bool set_tokens(tn_jrun *r, const tn_chat *c)
{
    tn_jval list;
    for (size_t i = 0; i < c->nspecial; i++)
        TN_TRY(set_text(r, c->special[i].name, c->special[i].text));
    if (c->nextra == 0)
        return true;
    tn_jval *at = tn_jlist_new(r, TN_J_LIST, (uint32_t)c->nextra, &list);
    if (at == NULL)
        return false;
    for (size_t i = 0; i < c->nextra; i++)
        TN_TRY(tn_jstr_text(r, c->extra[i], &at[i]));
    return tn_jrun_set(r, "additional_special_tokens", list);
}

static bool is_empty(const tn_json *v)
{
    return v == NULL || v->type == TN_JSON_NULL || (v->type == TN_JSON_LIST && v->count == 0);
}

/* The request's own variables may stand over all but the conversation itself. */
static bool set_more(tn_jinput *in, const tn_json *kwargs)
{
    for (const tn_json *c = kwargs != NULL ? kwargs->child : NULL; c != NULL; c = c->next) {
        tn_jval v;
        if (c->key == NULL || strcmp(c->key, "messages") == 0 || strcmp(c->key, "tools") == 0)
            return tn_jrun_fail(in->r, "chat_template_kwargs holds %s; expected other names",
                                c->key != NULL ? c->key : "a list");
        TN_TRY(tn_jinput_value(in, c, &v) && tn_jrun_set(in->r, c->key, v));
    }
    return true;
}

static bool set_variables(tn_jinput *in, const tn_chat *c, const tn_chat_ask *ask)
{
    tn_jval v;
    tn_jrun *r = in->r;
    TN_TRY(set_tokens(r, c));
    TN_TRY(tn_jinput_messages(in, ask->messages, ask->continue_final, &v));
    TN_TRY(tn_jrun_set(r, "messages", v));
    v = tn_jnone();
    if (!is_empty(ask->tools))
        TN_TRY(tn_jinput_value(in, ask->tools, &v));
    TN_TRY(tn_jrun_set(r, "tools", v) && tn_jrun_set(r, "documents", tn_jnone()));
    TN_TRY(tn_jrun_set(r, "add_generation_prompt", tn_jbool(ask->add_generation)));
    return set_more(in, ask->kwargs);
}

/* Leaves the last message open: what the template put behind its text goes, as in
 * transformers. */
static bool cut_final(tn_jinput *in, tn_jval text, size_t *size)
{
    const tn_jstr *s = text.as.s;
    tn_jval blank = tn_jnone(), final;
    size_t tag = sizeof TN_JCONTINUE_TAG - 1;
    TN_TRY(tn_jstr_strip(in->r, in->final, blank, 3, &final));
    const char *at = tn_jutf_find_last(s->p, s->size, TN_JCONTINUE_TAG, tag - 1, NULL);
    if (at == NULL || tn_jutf_find(s->p, s->size, final.as.s->p, final.as.s->size) == NULL)
        return tn_jrun_fail(in->r, "the final message does not appear in the prompt; expected its "
                                   "text to continue");
    *size = (size_t)(at - s->p);
    if (s->size - *size >= tag && at[tag - 1] == ' ')
        return true;
    tn_jval head;
    TN_TRY(tn_jstr_part(in->r, text, 0, *size, &head));
    TN_TRY(tn_jstr_strip(in->r, head, blank, 2, &head));
    *size = head.as.s->size;
    return true;
}

static bool render(tn_jinput *in, const tn_chat *c, const tn_chat_ask *ask, uint32_t used,
                   tn_buf *out, size_t **plain_at, size_t *nplain)
{
    tn_jval text;
    TN_TRY(tn_jguard_open(in->r, ask->guard, ask->nguard, used, &in->guard));
    TN_TRY(set_variables(in, c, ask) && tn_jrun_render(in->r, &text));
    size_t size = text.as.s->size;
    if (ask->continue_final)
        TN_TRY(cut_final(in, text, &size));
    if (size == 0)
        return tn_jrun_fail(in->r, "the prompt is empty; expected some text");
    return tn_jguard_strip(in->r, &in->guard, text.as.s->p, size, out, plain_at, nplain);
}

static tn_status render_with(const tn_chat *c, const chat_template *t, const tn_chat_ask *ask,
                             tn_buf *out, size_t **plain_at, size_t *nplain, tn_err *err)
{
    uint32_t used = c->marks;
    if (ask->nguard > 0)
        used |= tn_jmarks_in_json(ask->messages) | tn_jmarks_in_json(ask->tools)
                | tn_jmarks_in_json(ask->kwargs);
    tn_jrun r;
    tn_jinput in = {.r = &r, .shape = t->shape};
    bool ok = tn_jrun_open(&r, t->t, ask->now, err)
              && render(&in, c, ask, used, out, plain_at, nplain);
    tn_jinput_close(&in);
    tn_jrun_close(&r);
    if (ok)
        return TN_OK;
    if (r.no_memory && err != NULL)
        err->code[0] = err->param[0] = 0;
    else if (err != NULL && err->param[0] == 0)
        snprintf(err->param, sizeof err->param, "messages");
    return r.no_memory ? TN_NO_MEMORY : TN_REFUSED;
}

tn_status tn_chat_render(const tn_chat *c, const tn_chat_ask *ask, tn_buf *out, size_t **plain_at,
                         size_t *nplain, tn_err *err)
{
    size_t *unused_at = NULL, unused_n = 0;
    bool tools = c->tool_use.t != NULL && !is_empty(ask->tools);
    if (ask->add_generation && ask->continue_final) {
        tn_status st = tn_fail(err, TN_REFUSED, "continue_final_message: true together with "
                               "add_generation_prompt; expected one of them");
        if (err != NULL) {
            snprintf(err->code, sizeof err->code, "template_error");
            snprintf(err->param, sizeof err->param, "continue_final_message");
        }
        return st;
    }
    tn_status st = render_with(c, tools ? &c->tool_use : &c->plain, ask, out,
                               plain_at != NULL ? plain_at : &unused_at,
                               nplain != NULL ? nplain : &unused_n, err);
    free(unused_at);
    return st;
}

/* ------------------------------------------------------------------------------- probing */

/* Renders a conversation with one tool call whose arguments are as given, in JSON. */
static tn_status probe(const tn_chat *c, const chat_template *t, const char *arguments,
                       tn_buf *out, tn_err *err)
{
    tn_buf text;
    tn_json_doc *doc = NULL;
    size_t *at = NULL, n = 0;
    tn_buf_open(&text, 4096);
    tn_buf_printf(&text,
                  "[{\"role\": \"user\", \"content\": \"a\"}, "
                  "{\"role\": \"assistant\", \"content\": \"\", \"tool_calls\": "
                  "[{\"id\": \"call00001\", \"type\": \"function\", "
                  "\"function\": {\"name\": \"f\", \"arguments\": %s}}]}, {\"role\": \"tool\", "
                  "\"tool_call_id\": \"call00001\", \"name\": \"f\", \"content\": \"b\"}]",
                  arguments);
    tn_status st = TN_NO_MEMORY;
    if (!text.failed)
        st = tn_json_open(text.data, text.len, "probe", TN_JSON_DEPTH_REQUEST, &doc, err);
    if (st == TN_OK) {
        tn_chat_ask ask = {.messages = tn_json_root(doc)};
        st = render_with(c, t, &ask, out, &at, &n, err);
    }
    free(at);
    tn_json_close(doc);
    tn_buf_close(&text);
    return st;
}
