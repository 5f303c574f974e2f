/* SPDX-License-Identifier: Apache-2.0 */
/* http_call.c - one HTTP request and the generation requests behind it. */
#include "http.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

uint64_t http_now(const http_server *s)
{
    return s->h->clock(s->h->ctx);
}

static bool is_id_char(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           c == '-' || c == '_' || c == '.';
}

/* The k-th number of a sequence that does not repeat and that nobody guesses. */
static uint64_t draw(const http_server *s, uint64_t k)
{
    uint64_t v = (k + 1) * 0x9E3779B97F4A7C15u;
    v ^= s->id_salt;
    v = (v ^ v >> 31) * 0xBF58476D1CE4E5B9u;
    return v ^ v >> 29;
}

/* The client's own X-Request-Id when it is a plain word, else a number nobody guesses. */
static void make_id(http_call *c)
{
    const char *given = MHD_lookup_connection_value(c->connection, MHD_HEADER_KIND,
                                                    "X-Request-Id");
    size_t n = given != NULL ? strlen(given) : 0;
    bool plain = n > 0 && n < HTTP_ID_SIZE;
    for (size_t i = 0; plain && i < n; i++)
        plain = is_id_char(given[i]);
    if (plain) {
        memcpy(c->id, given, n + 1);
        return;
    }
    uint64_t k = atomic_fetch_add(&c->s->next_id, 1);
    snprintf(c->id, sizeof c->id, "%016llx%08llx", (unsigned long long)draw(c->s, k),
             (unsigned long long)(k & 0xffffffffu));
}

void http_call_tool_id(void *ctx, char id[HTTP_CALL_ID_SIZE])
{
    const http_call *c = ctx;
    uint64_t k = atomic_fetch_add(&c->s->next_id, 1);
    snprintf(id, HTTP_CALL_ID_SIZE, "chatcmpl-tool-%016llx%016llx",
             (unsigned long long)draw(c->s, k), (unsigned long long)k);
}

http_call *http_call_new(http_server *s, struct MHD_Connection *connection)
{
    http_call *c = calloc(1, sizeof *c);
    if (c == NULL)
        return NULL;
    if (pthread_mutex_init(&c->lock, NULL) != 0) {
        free(c);
        return NULL;
    }
    c->s = s;
    c->connection = connection;
    c->users = 1;
    c->begun_ns = http_now(s);
    c->created = (int64_t)time(NULL);
    c->fd = -1;
    http_text_open(&c->body, s->opt.body_max);
    http_text_open(&c->out, HTTP_REPLY_MAX);
    make_id(c);
    return c;
}

static void free_choices(http_call *c)
{
    for (uint32_t i = 0; c->choice != NULL && i < c->nchoice; i++) {
        http_text_close(&c->choice[i].text);
        http_speech_close(&c->choice[i].speech);
        http_text_close(&c->choice[i].logprobs);
        http_text_close(&c->choice[i].ids);
        http_text_close(&c->choice[i].stop_text);
    }
    for (uint32_t i = 0; c->part != NULL && i < c->npart; i++) {
        http_text_close(&c->part[i].prompt_logprobs);
        http_text_close(&c->part[i].prompt_ids);
    }
    free(c->choice);
    free(c->part);
}

static void free_call(http_call *c)
{
    http_server *s = c->s;
    bool counted = c->counted;
    for (uint32_t i = 0; c->part != NULL && i < c->npart; i++)
        if (c->part[i].request != NULL)
            s->front->release(s->h->ctx, c->part[i].request);
    free_choices(c);
    http_ask_close(s, &c->a);
    http_text_close(&c->body);
    http_text_close(&c->out);
    pthread_mutex_destroy(&c->lock);
    free(c);
    if (counted) /* last: stop waits for this count and then takes the server away */
        atomic_fetch_sub(&s->ncall, 1);
}

void http_call_count(http_call *c)
{
    if (!c->counted)
        atomic_fetch_add(&c->s->ncall, 1);
    c->counted = true;
}

void http_call_drop(http_call *c)
{
    pthread_mutex_lock(&c->lock);
    bool last = --c->users == 0;
    pthread_mutex_unlock(&c->lock);
    if (last)
        free_call(c);
}

void http_call_wake(http_call *c)
{
    if (!c->suspended)
        return;
    c->suspended = false;
    MHD_resume_connection(c->connection);
}

/* All parts have said their last piece: what is left to write is written now. */
static void finish(http_call *c)
{
    c->finished = true;
    if (c->gone || c->refused)
        return;
    if (c->streaming && c->begun_stream) {
        if (c->st == TN_OK)
            http_reply_end(c);
    } else if (c->st == TN_OK && !c->streaming) {
        http_reply_whole(c);
    }
    if (c->out.failed && c->st == TN_OK) {
        c->st = tn_fail(&c->err, TN_NO_MEMORY, "no memory for the reply");
        c->out.len = 0;
    }
}

static bool all_last(const http_call *c)
{
    for (uint32_t i = 0; i < c->npart; i++)
        if (!c->part[i].last)
            return false;
    return true;
}

static void cancel_parts(http_call *c)
{
    for (uint32_t i = 0; i < c->npart; i++)
        if (!c->part[i].last && c->part[i].request != NULL)
            c->s->front->cancel(c->s->h->ctx, c->part[i].request);
}

/* From the core's output thread. A part's use of the call ends with its last piece. */
static void on_piece(void *user, const tn_piece *p)
{
    http_part *part = user;
    http_call *c = part->call;
    pthread_mutex_lock(&c->lock);
    if (!c->gone && !c->refused) {
        if (c->out.len == 0)
            c->progress_ns = http_now(c->s);
        http_reply_piece(c, part, p);
        if (c->streaming && c->out.len > HTTP_QUEUE_MAX) /* nobody reads it */
            c->gone = true;
        if (c->gone || c->st != TN_OK)
            cancel_parts(c);
    }
    bool done = false;
    if (p->last) {
        part->last = true;
        done = all_last(c);
    }
    if (done)
        finish(c);
    if (done || (c->streaming && (c->out.len > 0 || c->st != TN_OK)) || c->gone)
        http_call_wake(c);
    pthread_mutex_unlock(&c->lock);
    if (p->last)
        http_call_drop(c);
}

void http_call_abandon(http_call *c)
{
    pthread_mutex_lock(&c->lock);
    if (!c->gone) {
        c->gone = true;
        cancel_parts(c);
        http_call_wake(c);
    }
    pthread_mutex_unlock(&c->lock);
}

static http_speech_setup speech_setup(http_call *c)
{
    const http_ask *a = &c->a;
    return (http_speech_setup){.reasons = a->reasons, .hides = a->hides_reasoning,
                               .streams = a->stream, .parallel = a->parallel,
                               .forms = a->tool_forms, .tools = a->tools, .ctx = c,
                               .make_id = http_call_tool_id};
}

/* The watcher may look at the call's parts at any time: they are shown to it once whole. */
static void show_parts(http_call *c, http_part *part, http_choice *choice)
{
    pthread_mutex_lock(&c->lock);
    c->part = part;
    c->choice = choice;
    c->npart = c->a.nprompt;
    c->nchoice = c->a.nprompt * c->a.ask.n;
    pthread_mutex_unlock(&c->lock);
}

static tn_status make_parts(http_call *c, tn_err *err)
{
    const http_speech_setup how = speech_setup(c);
    uint32_t npart = c->a.nprompt, nchoice = npart * c->a.ask.n;
    http_part *part = calloc(npart, sizeof *part);
    http_choice *choice = calloc(nchoice, sizeof *choice);
    if (part == NULL || choice == NULL) {
        free(part);
        free(choice);
        return tn_fail(err, TN_NO_MEMORY, "no memory for the reply");
    }
    for (uint32_t i = 0; i < npart; i++) {
        part[i] = (http_part){.call = c, .index = i};
        http_text_open(&part[i].prompt_logprobs, HTTP_REPLY_MAX);
        http_text_open(&part[i].prompt_ids, HTTP_REPLY_MAX);
    }
    for (uint32_t i = 0; i < nchoice; i++) {
        http_choice *ch = &choice[i];
        http_text_open(&ch->text, HTTP_REPLY_MAX);
        http_speech_open(&ch->speech, &how);
        http_text_open(&ch->logprobs, HTTP_REPLY_MAX);
        http_text_open(&ch->ids, HTTP_REPLY_MAX);
        http_text_open(&ch->stop_text, 4096);
    }
    show_parts(c, part, choice);
    return TN_OK;
}

/* The name that replies carry: as asked for, else the first model's. */
static void name_model(http_call *c)
{
    tn_model_info m = {.size = sizeof m};
    const char *name = c->a.ask.model;
    if (name == NULL && c->s->front->model(c->s->h->ctx, 0, &m) == TN_OK)
        name = m.name;
    snprintf(c->model, sizeof c->model, "%s", name != NULL ? name : "");
}

/* A list of prompts is a request each, all of them queued at once: more than the queue can hold
 * would be told to try again for ever. */
static tn_status check_prompts(const http_call *c, tn_err *err)
{
    const char *name = c->a.ask.model;
    tn_model_info m = {.size = sizeof m};
    for (uint32_t i = 0; c->s->front->model(c->s->h->ctx, i, &m) == TN_OK; i++) {
        if (name != NULL && strcmp(m.name, name) != 0)
            continue;
        if (m.queue_max == 0 || c->a.nprompt <= m.queue_max)
            return TN_OK;
        return http_refuse(err, "value_out_of_range", "prompt", "%u prompts; expected at most %u, "
                           "what the queue can hold", c->a.nprompt, m.queue_max);
    }
    return TN_OK; /* no such model: submit says so */
}

/* Whether the model's tokenizer has the tag as a special token, so that replies lack it. */
static bool is_hidden(const http_call *c, const char *tag)
{
    const tn_front_host *f = c->s->front;
    void *x = c->s->h->ctx;
    const tn_prompt p = {.size = sizeof p, .kind = TN_PROMPT_TEXT, .text = tag,
                         .text_size = strlen(tag)};
    int32_t *ids = NULL;
    uint64_t n = 0, size = 0;
    char *text = NULL;
    tn_err unused;
    bool hidden = f->tokenize != NULL &&
                  f->tokenize(x, c->a.ask.model, &p, &ids, &n, &unused) == TN_OK &&
                  f->detokenize(x, c->a.ask.model, ids, n, 0, &text, &size, &unused) == TN_OK &&
                  size == 0;
    f->give(x, ids);
    f->give(x, text);
    return hidden;
}

/* What is looked for in a reply must be in it. */
static void show_tags(http_call *c)
{
    if ((c->a.tool_forms != 0 && is_hidden(c, "<tool_call>")) ||
        (c->a.reasons && is_hidden(c, "</think>")))
        c->a.ask.flags |= TN_ASK_KEEP_SPECIAL;
}

/* The prefix cache's name space: the key's own, narrowed by what the request names. */
tn_status http_call_salt(http_call *c, tn_err *err)
{
    const tn_json *v = tn_json_find(c->a.body, "cache_salt");
    const char *own = v != NULL && v->type != TN_JSON_NULL ? "" : NULL;
    tn_status st = http_get_text(c->a.body, "cache_salt", &own, err);
    if (st != TN_OK)
        return st;
    if (own != NULL && (own[0] == 0 || strlen(own) > HTTP_SALT_MAX))
        return http_refuse(err, "value_out_of_range", "cache_salt", "%zu bytes; expected 1 to %u",
                           strlen(own), HTTP_SALT_MAX);
    snprintf(c->cache_salt, sizeof c->cache_salt, "%s%s%s", c->salt, own != NULL ? "/" : "",
             own != NULL ? own : "");
    return TN_OK;
}

/* Submits part i. Its pieces may come before this returns, so the use is counted first and
 * c->part[i].request is set under the lock; a piece that wants to cancel finds it or not,
 * and http_call_generate looks again. */
static tn_status submit_part(http_call *c, uint32_t i, tn_err *err)
{
    tn_ask ask = c->a.ask;
    tn_request *r = NULL;
    ask.on_piece = on_piece;
    ask.user = &c->part[i];
    ask.request_id = c->id;
    ask.cache_salt = c->cache_salt[0] != 0 ? c->cache_salt : NULL;
    pthread_mutex_lock(&c->lock);
    c->users++;
    pthread_mutex_unlock(&c->lock);
    tn_status st = c->s->front->submit(c->s->h->ctx, &ask, &r, err);
    pthread_mutex_lock(&c->lock);
    if (st == TN_OK) {
        c->part[i].request = r;
        if (c->gone || c->st != TN_OK)
            cancel_parts(c);
    } else {
        c->users--; /* never the last: the connection holds one */
        c->part[i].last = true;
    }
    pthread_mutex_unlock(&c->lock);
    return st;
}

/* Some parts run and one was refused: cancel those and let their last pieces come. */
static void give_up_rest(http_call *c, uint32_t from)
{
    pthread_mutex_lock(&c->lock);
    for (uint32_t i = from; i < c->npart; i++)
        c->part[i].last = true;
    c->refused = true; /* pieces are not gathered any more */
    cancel_parts(c);
    pthread_mutex_unlock(&c->lock);
}

tn_status http_call_admit(const http_call *c, tn_err *err)
{
    if (!atomic_load(&c->s->draining))
        return TN_OK;
    tn_fail(err, TN_UNAVAILABLE, "the server is shutting down; expected a retry elsewhere");
    snprintf(err->code, sizeof err->code, "draining");
    return TN_UNAVAILABLE;
}

tn_status http_call_generate(http_call *c, tn_err *err)
{
    bool chat = strcmp(c->route->name, "chat") == 0;
    tn_status st = http_call_admit(c, err);
    if (st == TN_OK)
        st = http_ask_open(c->s, c->body.data != NULL ? c->body.data : "", c->body.len, chat,
                           &c->a, err);
    if (st == TN_OK)
        st = check_prompts(c, err);
    if (st == TN_OK)
        st = make_parts(c, err);
    if (st != TN_OK)
        return st;
    name_model(c);
    show_tags(c);
    st = http_call_salt(c, err);
    if (st != TN_OK)
        return st;
    http_call_count(c);
    pthread_mutex_lock(&c->lock); /* from here on the watcher keeps the stream alive */
    c->streaming = c->a.stream;
    c->generating = true;
    pthread_mutex_unlock(&c->lock);
    for (uint32_t i = 0; i < c->npart; i++) {
        st = chat ? TN_OK : http_ask_prompt(&c->a, i, err);
        if (st == TN_OK)
            st = submit_part(c, i, err);
        if (st != TN_OK) {
            give_up_rest(c, i);
            return st;
        }
    }
    return TN_OK;
}
