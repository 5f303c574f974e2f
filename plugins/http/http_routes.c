/* SPDX-License-Identifier: Apache-2.0 */
/* http_routes.c - the routing table and the handlers that answer at once.
 *
 * One look-up decides route, key and handler together, on the path as MHD decoded it once. */
#include "http.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define JSON_TYPE "application/json"
#define MODEL_PREFIX "/v1/models/"

static void put_model(const tn_model_info *m, http_text *t)
{
    long long created = (long long)m->created;
    http_text_puts(t, "{\"id\":");
    http_text_json(t, m->name, strlen(m->name));
    http_text_printf(t, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"tenon\",\"root\":",
                     created);
    http_text_json(t, m->root, strlen(m->root));
    http_text_printf(t, ",\"parent\":null,\"max_model_len\":%u,\"permission\":[{\"id\":"
                     "\"modelperm-%016llx\",\"object\":\"model_permission\",\"created\":%lld,",
                     m->context_max, (unsigned long long)created, created);
    http_text_puts(t, "\"allow_create_engine\":false,\"allow_sampling\":true,"
                      "\"allow_logprobs\":true,\"allow_search_indices\":false,"
                      "\"allow_view\":true,\"allow_fine_tuning\":false,\"organization\":\"*\","
                      "\"group\":null,\"is_blocking\":false}]}");
}

static enum MHD_Result finish_text(http_call *c, http_text *t)
{
    tn_err err = {{0}, {0}, {0}};
    enum MHD_Result r = t->failed
                            ? http_answer_error(c, tn_fail(&err, TN_NO_MEMORY, "no memory"), &err)
                            : http_answer(c, MHD_HTTP_OK, JSON_TYPE, t->data, t->len);
    http_text_close(t);
    return r;
}

static enum MHD_Result run_models(http_call *c)
{
    http_text t;
    http_text_open(&t, HTTP_REPLY_MAX);
    http_text_puts(&t, "{\"object\":\"list\",\"data\":[");
    tn_model_info m = {.size = sizeof m};
    for (uint32_t i = 0; c->s->front->model(c->s->h->ctx, i, &m) == TN_OK; i++) {
        http_text_puts(&t, i > 0 ? "," : "");
        put_model(&m, &t);
    }
    http_text_puts(&t, "]}");
    return finish_text(c, &t);
}

static enum MHD_Result run_model(http_call *c)
{
    char names[512] = "";
    size_t n = 0;
    tn_model_info m = {.size = sizeof m};
    for (uint32_t i = 0; c->s->front->model(c->s->h->ctx, i, &m) == TN_OK; i++) {
        if (strcmp(m.name, c->model) != 0) {
            if (n < sizeof names)
                n += (size_t)snprintf(names + n, sizeof names - n, "%s%s", n > 0 ? ", " : "",
                                      m.name);
            continue;
        }
        http_text t;
        http_text_open(&t, HTTP_REPLY_MAX);
        put_model(&m, &t);
        return finish_text(c, &t);
    }
    tn_err err = {{0}, {0}, {0}};
    tn_fail(&err, TN_NOINPUT, "The model `%.64s` does not exist; expected %s%s", c->model, names,
            n < sizeof names ? "" : "... (GET /v1/models has all)");
    snprintf(err.code, sizeof err.code, "model_not_found");
    snprintf(err.param, sizeof err.param, "model");
    return http_answer_error(c, TN_NOINPUT, &err);
}

static enum MHD_Result run_health(http_call *c)
{
    tn_health h = {.size = sizeof h};
    c->s->front->health(c->s->h->ctx, &h);
    if (h.live && h.ready && !atomic_load(&c->s->draining))
        return http_answer(c, MHD_HTTP_OK, JSON_TYPE, "", 0);
    tn_err err = {{0}, {0}, {0}};
    const char *why = atomic_load(&c->s->draining) ? "draining" : h.why;
    tn_fail(&err, TN_UNAVAILABLE, "not ready: %s", why);
    snprintf(err.code, sizeof err.code, "%s", why);
    return http_answer_error(c, TN_UNAVAILABLE, &err);
}

static enum MHD_Result run_version(http_call *c)
{
    char text[128];
    int n = snprintf(text, sizeof text, "{\"version\":\"%s\"}",
                     c->s->front->version(c->s->h->ctx));
    return http_answer(c, MHD_HTTP_OK, JSON_TYPE, text, (size_t)n);
}

static enum MHD_Result run_load(http_call *c)
{
    char text[64];
    int n = snprintf(text, sizeof text, "{\"server_load\":%u}", atomic_load(&c->s->ncall));
    return http_answer(c, MHD_HTTP_OK, JSON_TYPE, text, (size_t)n);
}

static enum MHD_Result run_metrics(http_call *c)
{
    char *text = NULL;
    uint64_t size = 0;
    tn_err err = {{0}, {0}, {0}};
    tn_status st = c->s->front->metrics(c->s->h->ctx, &text, &size, &err);
    if (st != TN_OK)
        return http_answer_error(c, st, &err);
    enum MHD_Result r = http_answer(c, MHD_HTTP_OK, "text/plain; version=0.0.4; charset=utf-8",
                                    text, size);
    c->s->front->give(c->s->h->ctx, text);
    return r;
}

/* -------- /tokenize and /detokenize */

static void put_ids(const int32_t *ids, uint64_t n, http_text *t)
{
    for (uint64_t i = 0; i < n; i++)
        http_text_printf(t, "%s%d", i > 0 ? "," : "", ids[i]);
}

static void put_spellings(http_call *c, const char *model, const int32_t *ids, uint64_t n,
                          http_text *t)
{
    for (uint64_t i = 0; i < n; i++) {
        uint32_t size = 0;
        const char *s = c->s->front->token_text(c->s->h->ctx, model, ids[i], &size);
        http_text_puts(t, i > 0 ? "," : "");
        http_text_json(t, s != NULL ? s : "", s != NULL ? size : 0);
    }
}

static uint32_t context_of(http_call *c, const char *model)
{
    tn_model_info m = {.size = sizeof m};
    for (uint32_t i = 0; c->s->front->model(c->s->h->ctx, i, &m) == TN_OK; i++)
        if (model == NULL || strcmp(m.name, model) == 0)
            return m.context_max;
    return 0;
}

/* A null is as if the field were not there. */
static const tn_json *given(const tn_json *body, const char *key)
{
    const tn_json *v = tn_json_find(body, key);
    return v != NULL && v->type != TN_JSON_NULL ? v : NULL;
}

/* The prompt of a /tokenize body: a text, or a conversation. */
static tn_status tokenize_prompt(const http_server *s, http_ask *a, tn_prompt *p, bool *strings,
                                 tn_err *err)
{
    bool special = true;
    const tn_json *text = given(a->body, "prompt");
    tn_status st = http_get_bool(a->body, "return_token_strs", strings, err);
    if (st == TN_OK && text == NULL)
        return http_chat_shape(s, a, p, err);
    if (st == TN_OK)
        st = http_get_bool(a->body, "add_special_tokens", &special, err);
    if (st != TN_OK)
        return st;
    if (text->type != TN_JSON_TEXT)
        return http_refuse(err, "wrong_type", "prompt", "not a string; expected text");
    if (given(a->body, "messages") != NULL)
        return http_refuse(err, "value_out_of_range", "prompt", "given beside messages; expected "
                           "one of them");
    p->kind = TN_PROMPT_TEXT;
    p->text = text->text;
    p->text_size = text->count;
    p->add_special = special;
    return TN_OK;
}

static const char *const tokenize_fields[] = {
    "model", "prompt", "messages", "add_special_tokens", "return_token_strs",
    "add_generation_prompt", "continue_final_message", "chat_template", "chat_template_kwargs",
    "tools", "tool_choice",
};
static const char *const detokenize_fields[] = {"model", "tokens"};
#define COUNT(a) (sizeof(a) / sizeof(a)[0])

tn_status http_body_open(http_call *c, const char *const *known, size_t nknown, http_ask *a,
                         const char **model, tn_err *err)
{
    *a = (http_ask){0};
    tn_status st = c->s->h->json_open(c->s->h->ctx, c->body.data != NULL ? c->body.data : "",
                                      c->body.len, "body", HTTP_JSON_DEPTH, &a->doc, err);
    if (st != TN_OK)
        return st == TN_DATA ? TN_REFUSED : st;
    a->body = c->s->h->json_root(c->s->h->ctx, a->doc);
    if (a->body->type != TN_JSON_OBJECT)
        return http_refuse(err, "invalid_json", "", "body: not an object; expected an object");
    st = c->s->opt.strict ? http_check_known(a->body, known, nknown, err) : TN_OK;
    return st == TN_OK ? http_get_text(a->body, "model", model, err) : st;
}

/* The reply of a route without pieces is whole. */
static tn_status finish_work(http_call *c, tn_err *err)
{
    pthread_mutex_lock(&c->lock);
    c->finished = true;
    pthread_mutex_unlock(&c->lock);
    return c->out.failed ? tn_fail(err, TN_NO_MEMORY, "no memory for the reply") : TN_OK;
}

static tn_status tokenize(http_call *c, tn_err *err)
{
    http_ask a;
    const char *model = NULL;
    bool strings = false;
    int32_t *ids = NULL;
    uint64_t n = 0;
    tn_prompt p = {.size = sizeof p};
    tn_status st = http_body_open(c, tokenize_fields, COUNT(tokenize_fields), &a, &model, err);
    if (st == TN_OK)
        st = tokenize_prompt(c->s, &a, &p, &strings, err);
    if (st == TN_OK)
        st = c->s->front->tokenize(c->s->h->ctx, model, &p, &ids, &n, err);
    if (st == TN_OK) {
        http_text *t = &c->out;
        http_text_printf(t, "{\"count\":%llu,\"max_model_len\":%u,\"tokens\":[",
                         (unsigned long long)n, context_of(c, model));
        put_ids(ids, n, t);
        http_text_puts(t, strings ? "],\"token_strs\":[" : "],\"token_strs\":null");
        if (strings)
            put_spellings(c, model, ids, n, t);
        http_text_puts(t, strings ? "]}" : "}");
        st = finish_work(c, err);
    }
    c->s->front->give(c->s->h->ctx, ids);
    http_ask_close(c->s, &a);
    return st;
}

static tn_status read_ids(const http_ask *a, int32_t **out, uint64_t *n, tn_err *err)
{
    const tn_json *list = given(a->body, "tokens");
    if (list == NULL || list->type != TN_JSON_LIST)
        return http_refuse(err, list == NULL ? "missing_field" : "wrong_type", "tokens",
                           "no list; expected a list of token ids");
    int32_t *ids = malloc((list->count + 1u) * sizeof *ids);
    if (ids == NULL)
        return tn_fail(err, TN_NO_MEMORY, "no memory for the ids");
    for (const tn_json *e = list->child; e != NULL; e = e->next) {
        if (e->type != TN_JSON_INT || e->i < 0 || e->i > INT32_MAX) {
            free(ids);
            return http_refuse(err, "value_out_of_range", "tokens", "entry %llu is no token id; "
                               "expected one", (unsigned long long)*n);
        }
        ids[(*n)++] = (int32_t)e->i;
    }
    *out = ids;
    return TN_OK;
}

static tn_status detokenize(http_call *c, tn_err *err)
{
    http_ask a;
    const char *model = NULL;
    int32_t *ids = NULL;
    char *text = NULL;
    uint64_t n = 0, size = 0;
    tn_status st = http_body_open(c, detokenize_fields, COUNT(detokenize_fields), &a, &model, err);
    if (st == TN_OK)
        st = read_ids(&a, &ids, &n, err);
    if (st == TN_OK)
        st = c->s->front->detokenize(c->s->h->ctx, model, ids, n, 1, &text, &size, err);
    if (st == TN_REFUSED && err->param[0] == 0) { /* the core does not know the field's name */
        tn_err why = *err;
        http_refuse(err, why.code, "tokens", "%.900s", why.text);
    }
    if (st == TN_OK) {
        http_text_puts(&c->out, "{\"prompt\":");
        http_text_json(&c->out, text, size);
        http_text_puts(&c->out, "}");
        st = finish_work(c, err);
    }
    free(ids);
    c->s->front->give(c->s->h->ctx, text);
    http_ask_close(c->s, &a);
    return st;
}

static const http_route routes[] = {
    {"/v1/chat/completions", "POST", "chat", false, true, http_work, http_call_generate},
    {"/v1/completions", "POST", "completions", false, true, http_work, http_call_generate},
    {"/v1/models", "GET", "models", false, false, run_models, NULL},
    {MODEL_PREFIX, "GET", "model", false, false, run_model, NULL},
    {"/v1/sessions/save", "POST", "session_save", false, true, http_session, NULL},
    {"/v1/sessions/restore", "POST", "session_restore", false, true, http_session, NULL},
    {"/v1/sessions/fork", "POST", "session_fork", false, true, http_session, NULL},
    {"/tokenize", "POST", "tokenize", false, true, http_work, tokenize},
    {"/detokenize", "POST", "detokenize", false, true, http_work, detokenize},
    {"/health", "GET", "health", true, false, run_health, NULL},
    {"/ping", "GET", "ping", true, false, run_health, NULL},
    {"/ping", "POST", "ping", true, false, run_health, NULL},
    {"/version", "GET", "version", false, false, run_version, NULL},
    {"/load", "GET", "load", false, false, run_load, NULL},
    {"/metrics", "GET", "metrics", false, false, run_metrics, NULL},
};
#define ROUTES (sizeof routes / sizeof *routes)

uint32_t http_route_count(void)
{
    return ROUTES;
}

const http_route *http_route_at(uint32_t i)
{
    return &routes[i];
}

static bool path_fits(const http_route *r, const char *path)
{
    size_t n = strlen(MODEL_PREFIX);
    if (strcmp(r->path, MODEL_PREFIX) == 0)
        return strncmp(path, MODEL_PREFIX, n) == 0 && path[n] != 0;
    return strcmp(path, r->path) == 0;
}

const http_route *http_route_find(const char *path, const char *method, bool *path_exists,
                                  char allow[64])
{
    const char *wanted = strcmp(method, "HEAD") == 0 ? "GET" : method;
    const http_route *hit = NULL;
    *path_exists = false;
    allow[0] = 0;
    for (size_t i = 0; i < ROUTES; i++) {
        if (!path_fits(&routes[i], path))
            continue;
        *path_exists = true;
        size_t at = strlen(allow);
        snprintf(allow + at, 64 - at, "%s%s", at > 0 ? ", " : "", routes[i].method);
        if (strcmp(wanted, routes[i].method) == 0)
            hit = &routes[i];
    }
    return hit;
}
