/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_driver.c - renders templates for tests/templates.py.
 *
 * Reads one JSON object a line from standard input and answers with one a line:
 *
 *   {"source": "...", "vars": {...}, "now": 0}      {"ok": true, "text": "..."}
 *   {"source": "...", "chat": {...}, "now": 0}      {"ok": false, "error": "...", "load": true}
 *
 * "vars" are the template's variables and nothing else; "chat" goes through tn_chat_render and
 * holds messages, tools, kwargs, guard, add_generation, continue_final; "dir" instead of
 * "source" opens a model folder. */
#include "buf.h"
#include "chat.h"
#include "jinja_engine.h"
#include "json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LINE_MAX_BYTES ((size_t)64 << 20)
#define GUARD_MAX 64

static const char *text_of(const tn_json *o, const char *key)
{
    const tn_json *v = tn_json_find(o, key);
    return v != NULL && v->type == TN_JSON_TEXT ? v->text : NULL;
}

static bool flag_of(const tn_json *o, const char *key)
{
    const tn_json *v = tn_json_find(o, key);
    return v != NULL && v->type == TN_JSON_TRUE;
}

static int64_t now_of(const tn_json *o)
{
    const tn_json *v = tn_json_find(o, "now");
    return v != NULL && v->type == TN_JSON_INT ? v->i : 0;
}

static void put_error(tn_buf *out, const tn_err *err, bool load)
{
    tn_buf_puts(out, "{\"ok\": false, \"error\": ");
    tn_buf_put_json(out, err->text, strlen(err->text));
    tn_buf_puts(out, ", \"code\": ");
    tn_buf_put_json(out, err->code, strlen(err->code));
    tn_buf_puts(out, ", \"param\": ");
    tn_buf_put_json(out, err->param, strlen(err->param));
    tn_buf_printf(out, ", \"load\": %s}\n", load ? "true" : "false");
}

static void put_text(tn_buf *out, const char *text, size_t size)
{
    tn_buf_puts(out, "{\"ok\": true, \"text\": ");
    tn_buf_put_json(out, text, size);
}

static void render_vars(const tn_json *ask, const tn_json *source, tn_buf *out)
{
    tn_err err = {.text = ""};
    tn_jinja *t = NULL;
    tn_jrun r;
    tn_jval v, text;
    if (tn_jinja_open(source->text, source->count, "template", &t, &err) != TN_OK) {
        put_error(out, &err, true);
        return;
    }
    bool ok = tn_jrun_open(&r, t, now_of(ask), &err);
    const tn_json *vars = tn_json_find(ask, "vars");
    for (const tn_json *c = vars != NULL ? vars->child : NULL; c != NULL && ok; c = c->next)
        ok = tn_jval_of_json(&r, c, &v) && tn_jrun_set(&r, c->key, v);
    if (ok && tn_jrun_render(&r, &text)) {
        put_text(out, text.as.s->p, text.as.s->size);
        tn_buf_puts(out, "}\n");
    } else {
        put_error(out, &err, false);
    }
    tn_jrun_close(&r);
    tn_jinja_close(t);
}

static void render_chat(const tn_json *ask, const tn_json *chat, tn_buf *out)
{
    tn_err err = {.text = ""};
    tn_chat *c = NULL;
    const tn_json *source = tn_json_find(ask, "source");
    tn_status st = source != NULL
                       ? tn_chat_open_text(source->text, source->count, "template", &c, &err)
                       : tn_chat_open(text_of(ask, "dir"), &c, &err);
    if (st != TN_OK) {
        put_error(out, &err, true);
        return;
    }
    const char *guard[GUARD_MAX];
    size_t nguard = 0, *plain = NULL, nplain = 0;
    const tn_json *g = tn_json_find(chat, "guard");
    for (const tn_json *s = g != NULL ? g->child : NULL; s != NULL && nguard < GUARD_MAX; s = s->next)
        guard[nguard++] = s->text;
    tn_chat_ask a = {.messages = tn_json_find(chat, "messages"),
                     .tools = tn_json_find(chat, "tools"),
                     .kwargs = tn_json_find(chat, "kwargs"),
                     .add_generation = flag_of(chat, "add_generation"),
                     .continue_final = flag_of(chat, "continue_final"),
                     .now = now_of(ask), .guard = guard, .nguard = nguard};
    tn_buf text;
    tn_buf_open(&text, (size_t)64 << 20);
    if (tn_chat_render(c, &a, &text, &plain, &nplain, &err) == TN_OK) {
        put_text(out, text.data, text.len);
        tn_buf_puts(out, ", \"plain\": [");
        for (size_t i = 0; i < nplain; i++)
            tn_buf_printf(out, "%s%zu", i > 0 ? ", " : "", plain[i]);
        tn_buf_puts(out, "]}\n");
    } else {
        put_error(out, &err, false);
    }
    free(plain);
    tn_buf_close(&text);
    tn_chat_close(c);
}

static void answer(const char *line, size_t size, tn_buf *out)
{
    tn_err err = {.text = ""};
    tn_json_doc *doc = NULL;
    if (tn_json_open(line, size, "line", 200, &doc, &err) != TN_OK) {
        put_error(out, &err, true);
        return;
    }
    const tn_json *ask = tn_json_root(doc);
    const tn_json *chat = tn_json_find(ask, "chat"), *source = tn_json_find(ask, "source");
    if (chat != NULL)
        render_chat(ask, chat, out);
    else if (source != NULL)
        render_vars(ask, source, out);
    tn_json_close(doc);
}

int main(void)
{
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    while ((n = getline(&line, &cap, stdin)) > 0) {
        tn_buf out;
        tn_buf_open(&out, LINE_MAX_BYTES);
        answer(line, (size_t)n, &out);
        fwrite(out.data != NULL ? out.data : "{}\n", 1, out.len > 0 ? out.len : 3, stdout);
        fflush(stdout);
        tn_buf_close(&out);
    }
    free(line);
    return 0;
}
