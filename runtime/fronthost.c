/* SPDX-License-Identifier: Apache-2.0 */
/* fronthost.c - what frontends are lent: models, requests, tokens, health, metrics. */
#include "house.h"

#include "buf.h"
#include "frontsession.h"

#include <stdlib.h>
#include <string.h>

#define METRICS_MAX ((size_t)64 << 20)
#define TEXT_MAX ((size_t)1 << 30)

static tn_house *house_of(void *ctx)
{
    return tn_wall_user(ctx);
}

/* The refusal names what there is, some of it where that is much. */
static tn_status no_model(const tn_house *h, const char *given, tn_err *err)
{
    char names[512] = "";
    size_t n = 0;
    for (uint32_t m = 0; m < h->nserved; m++) {
        const char *name;
        for (uint32_t i = 0; (name = tn_served_name(&h->served[m], i)) != NULL; i++)
            if (n < sizeof names)
                n += (size_t)snprintf(names + n, sizeof names - n, "%s%s", n > 0 ? ", " : "", name);
    }
    tn_status st = tn_fail(err, TN_NOINPUT, "The model `%.64s` does not exist; expected %s%s",
                           given != NULL ? given : "", n > 0 ? names : "one of GET /v1/models",
                           n < sizeof names ? "" : "... (GET /v1/models has all)");
    snprintf(err->code, sizeof err->code, "model_not_found");
    snprintf(err->param, sizeof err->param, "model");
    return st;
}

static const char *last_part(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash != NULL && slash[1] != 0 ? slash + 1 : path;
}

/* Every name of every model is an entry of its own. */
static tn_status host_model(void *ctx, uint32_t i, tn_model_info *out)
{
    tn_house *h = house_of(ctx);
    for (uint32_t m = 0; m < h->nserved; m++) {
        const tn_served *s = &h->served[m];
        const char *name;
        for (uint32_t j = 0; (name = tn_served_name(s, j)) != NULL; j++)
            if (i-- == 0) {
                *out = (tn_model_info){
                    .size = sizeof *out, .context_max = s->limits.context_max,
                    .vocab = s->conf.vocab, .created = s->created, .name = name,
                    .flags = TN_MODEL_READY | (s->chat != NULL ? TN_MODEL_CHAT : 0),
                    .root = last_part(s->settings->path), .queue_max = s->settings->queue};
                return TN_OK;
            }
    }
    return TN_NOINPUT;
}

static tn_status host_submit(void *ctx, const tn_ask *ask, tn_request **out, tn_err *err)
{
    tn_served *s = tn_house_find(house_of(ctx), ask->model);
    return s != NULL ? tn_engine_submit(s->engine, ask, out, err)
                     : no_model(house_of(ctx), ask->model, err);
}

static void host_cancel(void *ctx, tn_request *r)
{
    (void)ctx;
    tn_engine_cancel(r->engine, r); /* frontends stop before engines do */
}

static void host_release(void *ctx, tn_request *r)
{
    (void)ctx;
    tn_request_release(r);
}

static tn_status host_tokenize(void *ctx, const char *model, const tn_prompt *p, int32_t **ids,
                               uint64_t *nid, tn_err *err)
{
    tn_served *s = tn_house_find(house_of(ctx), model);
    return s != NULL ? tn_engine_tokenize(s->engine, p, ids, nid, err)
                     : no_model(house_of(ctx), model, err);
}

static tn_status host_detokenize(void *ctx, const char *model, const int32_t *ids, uint64_t nid,
                                 uint32_t keep_special, char **text, uint64_t *size, tn_err *err)
{
    tn_served *s = tn_house_find(house_of(ctx), model);
    if (s == NULL)
        return no_model(house_of(ctx), model, err);
    tn_buf out;
    tn_buf_open(&out, TEXT_MAX);
    tn_status st = tn_tok_decode(s->tok, ids, nid, keep_special != 0, &out, err);
    if (st == TN_OK && out.failed)
        st = tn_fail(err, TN_NO_MEMORY, "no memory for the text");
    if (st == TN_OK) {
        *size = out.len;
        *text = tn_buf_take(&out);
        st = *text != NULL ? TN_OK : tn_fail(err, TN_NO_MEMORY, "no memory for the text");
    }
    tn_buf_close(&out);
    return st;
}

static const char *host_token_text(void *ctx, const char *model, int32_t id, uint32_t *size)
{
    tn_served *s = tn_house_find(house_of(ctx), model);
    return s != NULL ? tn_tok_spelling(s->tok, id, size) : NULL;
}

static void host_give(void *ctx, void *p)
{
    (void)ctx;
    free(p);
}

/* The worst of all models: one dead engine makes the server unfit. */
static void host_health(void *ctx, tn_health *out)
{
    tn_house *h = house_of(ctx);
    tn_health all = {.size = sizeof all, .live = 1, .ready = 1, .why = "ok"};
    for (uint32_t i = 0; i < h->nserved; i++) {
        tn_health one = {.size = sizeof one};
        tn_engine_health(h->served[i].engine, &one);
        all.running += one.running;
        all.waiting += one.waiting;
        if (one.retry_after > all.retry_after)
            all.retry_after = one.retry_after;
        if ((!one.live && all.live) || (!one.ready && all.ready))
            all.why = one.why;
        all.live &= one.live;
        all.ready &= one.ready;
    }
    *out = all;
}

static tn_status host_metrics(void *ctx, char **text, uint64_t *size, tn_err *err)
{
    tn_buf out;
    tn_buf_open(&out, METRICS_MAX);
    tn_metrics_print(house_of(ctx)->metrics, &out);
    tn_status st = out.failed ? tn_fail(err, TN_NO_MEMORY, "no memory for the metrics") : TN_OK;
    *size = out.len;
    *text = st == TN_OK ? tn_buf_take(&out) : NULL;
    tn_buf_close(&out);
    return st;
}

static const char *host_version(void *ctx)
{
    (void)ctx;
    return TN_VERSION;
}

static tn_status host_session(void *ctx, tn_session *given, tn_err *err,
                              tn_status (*call)(tn_served *served, tn_session *s, tn_err *err))
{
    tn_session s = {0}; /* members that an older frontend lacks read as 0 */
    memcpy(&s, given, given->size < sizeof s ? given->size : sizeof s);
    tn_served *served = tn_house_find(house_of(ctx), s.model);
    if (served == NULL)
        return no_model(house_of(ctx), s.model, err);
    err->code[0] = err->param[0] = 0; /* what is set below is its own */
    tn_status st = call(served, &s, err);
    given->tokens = s.tokens;
    given->cached_tokens = s.cached_tokens;
    return st;
}

static tn_status host_session_save(void *ctx, tn_session *s, tn_err *err)
{
    return host_session(ctx, s, err, tn_front_session_save);
}

static tn_status host_session_restore(void *ctx, tn_session *s, tn_err *err)
{
    return host_session(ctx, s, err, tn_front_session_restore);
}

static tn_status host_session_fork(void *ctx, tn_session *s, tn_err *err)
{
    return host_session(ctx, s, err, tn_front_session_fork);
}

const tn_front_host *tn_house_front_host(void)
{
    static const tn_front_host host = {
        .size = sizeof host, .model = host_model, .submit = host_submit, .cancel = host_cancel,
        .release = host_release, .tokenize = host_tokenize, .detokenize = host_detokenize,
        .token_text = host_token_text, .give = host_give, .health = host_health,
        .metrics = host_metrics, .version = host_version,
        .session_save = host_session_save, .session_restore = host_session_restore,
        .session_fork = host_session_fork,
    };
    return &host;
}
