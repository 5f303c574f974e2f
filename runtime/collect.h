/* SPDX-License-Identifier: Apache-2.0 */
/* collect.h - runs one request to its end and keeps all it said; for the commands. */
#ifndef TN_COLLECT_H
#define TN_COLLECT_H

#include "buf.h"
#include "engine.h"

#include <pthread.h>

typedef struct tn_collect_token {
    int32_t id;
    float logprob;          /* NaN: not asked for */
    uint32_t top0, ntop;    /* range in `top` */
} tn_collect_token;

typedef struct tn_collect_top {
    int32_t id;
    float logprob;
} tn_collect_top;

typedef struct tn_collect {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool last;
    tn_buf text;            /* choice 0 */
    tn_collect_token *token, *prompt; /* owned */
    size_t ntoken, ctoken, nprompt, cprompt;
    tn_collect_top *top;    /* owned */
    size_t ntop, ctop;
    uint32_t finish;
    uint64_t prompt_tokens, cached_tokens, reply_tokens;
    uint64_t begun_ns, first_ns, last_ns; /* monotonic: submit, first token, last token */
    tn_status st;
    tn_err err;
    bool no_memory;
    /* Called for every piece from the output thread; may be NULL. */
    void (*each)(void *user, const tn_piece *p);
    void *user;
    tn_engine *engine;
    tn_request *request;
} tn_collect;

tn_status tn_collect_open(tn_collect *c, tn_err *err);
void tn_collect_close(tn_collect *c);
/* Fills ask->on_piece and ask->user and submits. */
tn_status tn_collect_start(tn_collect *c, tn_engine *e, tn_ask *ask, tn_err *err);
void tn_collect_cancel(tn_collect *c);
/* Waits for the last piece; the request's own failure is the result. */
tn_status tn_collect_wait(tn_collect *c, tn_err *err);

/* An ask with every field at its default. */
tn_ask tn_ask_default(void);
const char *tn_finish_name(uint32_t finish);

#endif
