/* SPDX-License-Identifier: Apache-2.0 */
/* http_session.c - POST /v1/sessions/save, restore and fork.
 *
 * A conversation may be gigabytes, so each call has a thread of its own while its connection
 * sleeps; few of them run at once, for they share one disk. */
#include "http.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SESSIONS_MAX 4u          /* calls at once */

typedef tn_status (*session_call)(void *ctx, tn_session *s, tn_err *err);

typedef struct job {
    http_call *c;
    session_call run;
    tn_session s;
    char owner[33 + HTTP_SALT_MAX + 2];
} job;

static const char *const fields[] = {
    "model", "session", "to", "messages", "prompt", "cache_salt", "add_special_tokens",
    "add_generation_prompt", "continue_final_message", "chat_template_kwargs", "tools",
    "tool_choice",
};

static const tn_json *given(const tn_json *body, const char *key)
{
    const tn_json *v = tn_json_find(body, key);
    return v != NULL && v->type != TN_JSON_NULL ? v : NULL;
}

/* What the route asks of the host; NULL: an older one, or one that keeps no files. */
static session_call call_of(const http_call *c)
{
    const tn_front_host *f = c->s->front;
    if (f->size < offsetof(tn_front_host, session_fork) + sizeof f->session_fork)
        return NULL;
    if (strcmp(c->route->name, "session_save") == 0)
        return f->session_save;
    return strcmp(c->route->name, "session_restore") == 0 ? f->session_restore : f->session_fork;
}

/* -------- the body */

/* messages, or prompt as one text or one list of ids. */
static tn_status read_prompt(const http_server *s, http_ask *a, tn_err *err)
{
    bool special = true;
    const tn_json *prompt = given(a->body, "prompt"), *messages = given(a->body, "messages");
    if (prompt != NULL && messages != NULL)
        return http_refuse(err, "value_out_of_range", "prompt", "given beside messages; expected "
                           "one of them");
    if (prompt == NULL)
        return http_chat_shape(s, a, &a->ask.prompt, err);
    if (prompt->type != TN_JSON_TEXT && prompt->type != TN_JSON_LIST)
        return http_refuse(err, "wrong_type", "prompt", "wrong type; expected a text or a list of "
                           "token ids");
    tn_status st = http_get_bool(a->body, "add_special_tokens", &special, err);
    if (st != TN_OK)
        return st;
    a->ask.prompt.add_special = special;
    a->prompt[a->nprompt++] = prompt;
    return http_ask_prompt(a, 0, err);
}

static tn_status read_name(const tn_json *body, const char *key, const char **out, tn_err *err)
{
    tn_status st = http_get_text(body, key, out, err);
    if (st == TN_OK && *out == NULL)
        return http_refuse(err, "missing_field", key, "missing; expected a name");
    return st;
}

/* The key's files, narrowed by the request's own cache_salt as its cache is. */
static void name_owner(job *j)
{
    const http_call *c = j->c;
    const char *own = strchr(c->cache_salt, '/'), *key = "";
    for (uint32_t i = 0; i < c->s->nkey; i++)
        if (c->salt[0] != 0 && strcmp(c->s->key[i].salt, c->salt) == 0)
            key = c->s->key[i].owner;
    snprintf(j->owner, sizeof j->owner, "%s%s", key, own != NULL ? own : "");
    j->s.owner = j->owner[0] != 0 ? j->owner : NULL;
}

static tn_status read_body(job *j, tn_err *err)
{
    http_call *c = j->c;
    http_ask *a = &c->a;
    tn_status st = http_body_open(c, fields, sizeof fields / sizeof *fields, a, &j->s.model, err);
    a->ask.prompt.size = sizeof a->ask.prompt;
    if (st == TN_OK)
        st = read_name(a->body, "session", &j->s.name, err);
    if (st == TN_OK && strcmp(c->route->name, "session_fork") == 0)
        st = read_name(a->body, "to", &j->s.to, err);
    if (st == TN_OK && strcmp(c->route->name, "session_save") == 0) {
        st = read_prompt(c->s, a, err);
        j->s.prompt = &a->ask.prompt;
    }
    if (st == TN_OK)
        st = http_call_salt(c, err);
    if (st != TN_OK)
        return st;
    j->s.cache_salt = c->cache_salt[0] != 0 ? c->cache_salt : NULL;
    name_owner(j);
    return TN_OK;
}

/* -------- the thread */

/* A save of what was not computed here is no failure: the file keeps the tokens, and replaces
 * what had the name. But whoever expected to save work is told. */
static const char *warning_of(const job *j)
{
    if (strcmp(j->c->route->name, "session_save") != 0 || j->s.cached_tokens > 0)
        return NULL;
    return "nothing of this conversation is in the cache, so the file has its tokens alone and "
           "restoring it saves no computing; expected one that this server has answered, longer "
           "than a cache block";
}

static void put_reply(const job *j, http_text *out)
{
    const char *warning = warning_of(j);
    const char *name = j->s.to != NULL ? j->s.to : j->s.name;
    http_text_puts(out, "{\"object\":\"session\",\"session\":");
    http_text_json(out, name, strlen(name));
    http_text_printf(out, ",\"tokens\":%llu,\"cached_tokens\":%llu",
                     (unsigned long long)j->s.tokens, (unsigned long long)j->s.cached_tokens);
    if (warning != NULL) {
        http_text_puts(out, ",\"warning\":");
        http_text_json(out, warning, strlen(warning));
    }
    http_text_puts(out, "}");
}

static void *job_main(void *arg)
{
    job *j = arg;
    http_call *c = j->c;
    tn_err err = {{0}, {0}, {0}};
    tn_status st = j->run(c->s->h->ctx, &j->s, &err);
    atomic_fetch_sub(&c->s->nsession, 1);
    pthread_mutex_lock(&c->lock);
    c->progress_ns = http_now(c->s);
    if (st == TN_OK)
        put_reply(j, &c->out);
    if (st == TN_OK && c->out.failed)
        st = tn_fail(&err, TN_NO_MEMORY, "no memory for the reply");
    c->st = st;
    c->err = err;
    c->finished = true;
    http_call_wake(c);
    pthread_mutex_unlock(&c->lock);
    free(j);
    http_call_drop(c);
    return NULL;
}

/* Signals are the main thread's business. */
static tn_status job_start(job *j, tn_err *err)
{
    pthread_t thread;
    pthread_attr_t attr;
    sigset_t all, before;
    if (pthread_attr_init(&attr) != 0)
        return tn_fail(err, TN_NO_MEMORY, "the system gave no thread");
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int r = pthread_create(&thread, &attr, job_main, j);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    return r == 0 ? TN_OK : tn_fail(err, TN_NO_MEMORY, "the system gave no thread");
}

static tn_status take_turn(http_server *s, tn_err *err)
{
    if (atomic_fetch_add(&s->nsession, 1) < SESSIONS_MAX)
        return TN_OK;
    atomic_fetch_sub(&s->nsession, 1);
    tn_fail(err, TN_BUSY, "%u conversations are on their way already; expected a retry",
            SESSIONS_MAX);
    snprintf(err->code, sizeof err->code, "queue_full");
    return TN_BUSY;
}

/* From here on the call is counted, and the thread's as well as the connection's. */
static void enter(http_call *c)
{
    http_call_count(c);
    pthread_mutex_lock(&c->lock);
    c->generating = true;
    c->users++;
    pthread_mutex_unlock(&c->lock);
}

static void leave(http_call *c)
{
    pthread_mutex_lock(&c->lock);
    c->users--; /* never the last: the connection holds one */
    pthread_mutex_unlock(&c->lock);
    atomic_fetch_sub(&c->s->nsession, 1);
}

tn_status http_session_begin(http_call *c, tn_err *err)
{
    tn_status st = http_call_admit(c, err);
    job *j = calloc(1, sizeof *j);
    if (j == NULL)
        return tn_fail(err, TN_NO_MEMORY, "no memory for the request");
    *j = (job){.c = c, .run = call_of(c), .s = {.size = sizeof j->s}};
    if (st == TN_OK && j->run == NULL) {
        st = tn_fail(err, TN_UNSUPPORTED, "conversations are not kept in files here");
        snprintf(err->code, sizeof err->code, "sessions_not_offered");
    }
    if (st == TN_OK)
        st = read_body(j, err);
    if (st == TN_OK)
        st = take_turn(c->s, err);
    if (st == TN_OK) {
        enter(c);
        st = job_start(j, err);
        if (st == TN_OK)
            return TN_OK;
        leave(c);
    }
    free(j);
    return st;
}
