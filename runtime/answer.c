/* SPDX-License-Identifier: Apache-2.0 */
/* answer.c - runs one request to its end and keeps all it said. */
#include "answer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define TEXT_MAX ((size_t)1 << 30)

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

tn_ask tn_ask_default(void)
{
    tn_ask a = {.size = sizeof a, .n = 1, .prompt = {.size = sizeof a.prompt}};
    a.temperature = a.top_p = a.min_p = a.repetition = a.frequency = a.presence = NAN;
    a.top_k = INT32_MIN;
    a.max_tokens = -1;
    a.logprobs = a.prompt_logprobs = -1;
    return a;
}

const char *tn_finish_name(uint32_t finish)
{
    static const char *const name[] = {"none", "stop", "length", "abort", "error"};
    return finish < sizeof name / sizeof *name ? name[finish] : "error";
}

tn_status tn_answer_open(tn_answer *c, tn_err *err)
{
    *c = (tn_answer){0};
    tn_buf_open(&c->text, TEXT_MAX);
    if (pthread_mutex_init(&c->lock, NULL) != 0)
        return tn_fail(err, TN_OS, "cannot make a lock");
    if (pthread_cond_init(&c->cond, NULL) != 0) {
        pthread_mutex_destroy(&c->lock);
        return tn_fail(err, TN_OS, "cannot make a condition");
    }
    return TN_OK;
}

void tn_answer_close(tn_answer *c)
{
    if (c->request != NULL)
        tn_request_release(c->request);
    tn_buf_close(&c->text);
    free(c->token);
    free(c->prompt);
    free(c->top);
    pthread_cond_destroy(&c->cond);
    pthread_mutex_destroy(&c->lock);
}

/* Room for `more` elements; false marks the answer. */
static bool reserve(tn_answer *c, void **list, size_t n, size_t *cap, size_t more, size_t size)
{
    if (n + more <= *cap)
        return true;
    size_t want = *cap == 0 ? 256 : *cap;
    while (want < n + more)
        want *= 2;
    void *bigger = realloc(*list, want * size);
    if (bigger == NULL) {
        c->no_memory = true;
        return false;
    }
    *list = bigger;
    *cap = want;
    return true;
}

static void keep_tokens(tn_answer *c, const tn_token *t, uint64_t n, tn_answer_token **list,
                        size_t *count, size_t *cap)
{
    if (!reserve(c, (void **)list, *count, cap, n, sizeof **list))
        return;
    for (uint64_t i = 0; i < n; i++) {
        tn_answer_token k = {.id = t[i].self.token, .logprob = t[i].self.logprob,
                              .top0 = (uint32_t)c->ntop};
        if (t[i].ntop > 0 &&
            reserve(c, (void **)&c->top, c->ntop, &c->ctop, t[i].ntop, sizeof *c->top)) {
            for (uint32_t j = 0; j < t[i].ntop; j++)
                c->top[c->ntop++] = (tn_answer_top){t[i].top[j].token, t[i].top[j].logprob};
            k.ntop = t[i].ntop;
        }
        (*list)[(*count)++] = k;
    }
}

static void on_piece(void *user, const tn_piece *p)
{
    tn_answer *c = user;
    uint64_t now = now_ns();
    if (c->each != NULL)
        c->each(c->user, p);
    pthread_mutex_lock(&c->lock);
    if (p->choice == 0)
        tn_buf_put(&c->text, p->text, p->text_size);
    if (p->nprompt > 0)
        keep_tokens(c, p->prompt, p->nprompt, &c->prompt, &c->nprompt, &c->cprompt);
    if (p->ntoken > 0 && p->choice == 0) {
        keep_tokens(c, p->token, p->ntoken, &c->token, &c->ntoken, &c->ctoken);
        if (c->first_ns == 0) {
            c->first_ns = now;
            c->nfirst = p->ntoken;
        }
        c->last_ns = now;
    }
    if (p->finish != TN_FINISH_NONE && p->choice == 0)
        c->finish = p->finish;
    if ((p->finish == TN_FINISH_ABORT || p->finish == TN_FINISH_ERROR) && c->st == TN_OK) {
        c->st = p->status != TN_OK ? p->status : TN_INTERNAL;
        if (p->err != NULL)
            c->err = *p->err;
    }
    c->prompt_tokens = p->prompt_tokens;
    c->cached_tokens = p->cached_tokens;
    c->reply_tokens = p->reply_tokens;
    if (p->last) {
        c->last = true;
        pthread_cond_broadcast(&c->cond);
    }
    pthread_mutex_unlock(&c->lock);
}

tn_status tn_answer_start(tn_answer *c, tn_engine *e, tn_ask *ask, tn_err *err)
{
    ask->on_piece = on_piece;
    ask->user = c;
    c->engine = e;
    c->begun_ns = now_ns();
    return tn_engine_submit(e, ask, &c->request, err);
}

void tn_answer_cancel(tn_answer *c)
{
    if (c->request != NULL)
        tn_engine_cancel(c->engine, c->request);
}

tn_status tn_answer_wait(tn_answer *c, tn_err *err)
{
    pthread_mutex_lock(&c->lock);
    while (!c->last)
        pthread_cond_wait(&c->cond, &c->lock);
    pthread_mutex_unlock(&c->lock);
    if (c->st != TN_OK) {
        if (err != NULL)
            *err = c->err;
        return c->st;
    }
    if (c->no_memory || c->text.failed)
        return tn_fail(err, TN_NO_MEMORY, "no memory for the reply");
    return TN_OK;
}
