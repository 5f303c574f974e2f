/* SPDX-License-Identifier: Apache-2.0 */
/* answer.h - runs one request to its end and keeps all it said; for the commands. */
#ifndef TN_ANSWER_H
#define TN_ANSWER_H

#include "buf.h"
#include "engine.h"

#include <pthread.h>

typedef struct tn_answer_token {
    int32_t id;
    float logprob;          /* NaN: not asked for */
    uint32_t top0, ntop;    /* range in `top` */
} tn_answer_token;

typedef struct tn_answer_top {
    int32_t id;
    float logprob;
} tn_answer_top;

typedef struct tn_answer {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool last;
    tn_buf text;            /* choice 0 */
    tn_answer_token *token, *prompt; /* owned */
    size_t ntoken, ctoken, nprompt, cprompt;
    tn_answer_top *top;    /* owned */
    size_t ntop, ctop;
    uint32_t finish;
    uint64_t prompt_tokens, cached_tokens, reply_tokens;
    size_t nfirst;          /* tokens in the first piece that had any */
    uint64_t begun_ns, first_ns, last_ns; /* monotonic: submit, first token, last token */
    tn_status st;
    tn_err err;
    bool no_memory;
    /* Called for every piece from the output thread; may be NULL. */
    void (*each)(void *user, const tn_piece *p);
    void *user;
    tn_engine *engine;
    tn_request *request;
} tn_answer;

tn_status tn_answer_open(tn_answer *c, tn_err *err);
void tn_answer_close(tn_answer *c);
/* Fills ask->on_piece and ask->user and submits. */
tn_status tn_answer_start(tn_answer *c, tn_engine *e, tn_ask *ask, tn_err *err);
void tn_answer_cancel(tn_answer *c);
/* Waits for the last piece; the request's own failure is the result. */
tn_status tn_answer_wait(tn_answer *c, tn_err *err);

/* An ask with every field at its default. */
tn_ask tn_ask_default(void);
const char *tn_finish_name(uint32_t finish);

#endif
