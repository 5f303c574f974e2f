/* SPDX-License-Identifier: Apache-2.0 */
/* intake.c - from an ask to a request: checked, rendered, tokenized, everything allocated. */
#include "intake.h"

#include <math.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

#define PROMPT_SIZE_MAX ((size_t)16 << 20) /* a rendered chat */
#define ECHO_SIZE_MAX ((size_t)64 << 20)
#define PRIME_TOKENS 64u /* of the prompt that the decoder may look back at */

/* --------------------------------------------------------------------------- the prompt */

static const char *prompt_field(const tn_prompt *p)
{
    return p->kind == TN_PROMPT_CHAT ? "messages" : "prompt";
}

/* Tokenizer and template know the cause, but not the field it came in. */
static tn_status name_field(tn_status st, const tn_prompt *p, tn_err *err)
{
    if (st == TN_REFUSED && err != NULL && err->param[0] == 0)
        snprintf(err->param, sizeof err->param, "%s", prompt_field(p));
    return st;
}

static tn_status ids_append(tn_ids *ids, const int32_t *id, uint64_t n, tn_err *err)
{
    ids->id = malloc(n * sizeof *ids->id + 1);
    if (ids->id == NULL)
        return tn_fail(err, TN_NO_MEMORY, "prompt: no memory for %llu tokens",
                       (unsigned long long)n);
    if (n > 0)
        memcpy(ids->id, id, n * sizeof *ids->id);
    ids->n = ids->cap = n;
    return TN_OK;
}

static tn_status prompt_from_ids(const tn_intake *in, const tn_prompt *p, tn_ids *ids,
                                 tn_err *err)
{
    uint64_t n = p->nid, from = 0;
    if (n > SIZE_MAX / sizeof *p->ids || (n > 0 && p->ids == NULL))
        return tn_refuse(err, "value_out_of_range", "prompt", "%llu ids; expected a list",
                         (unsigned long long)n);
    for (uint64_t i = 0; i < n; i++)
        if (p->ids[i] < 0 || (uint32_t)p->ids[i] >= in->vocab)
            return tn_refuse(err, "value_out_of_range", "prompt",
                             "token %d at %llu; expected an id from 0 to %u", p->ids[i],
                             (unsigned long long)i, in->vocab - 1);
    if (p->truncate > 0 && n > p->truncate)
        from = n - p->truncate;
    else if (n > in->context_max) /* too long for anything: no need to copy it all */
        n = (uint64_t)in->context_max + 1;
    return ids_append(ids, p->ids + from, n - from, err);
}

static tn_status need_tokenizer(const tn_intake *in, const tn_prompt *p, tn_err *err)
{
    if (in->tok != NULL)
        return TN_OK;
    return tn_refuse(err, "wrong_type", prompt_field(p), "text; expected token ids, this model "
                     "is served without a tokenizer");
}

static tn_status prompt_from_text(const tn_intake *in, const tn_prompt *p, tn_ids *ids,
                                  tn_err *err)
{
    tn_status st = need_tokenizer(in, p, err);
    if (st != TN_OK)
        return st;
    if (p->text_size == 0 || p->text == NULL)
        return TN_OK;
    return tn_tok_encode(in->tok, p->text, p->text_size,
                         p->add_special ? TN_TOK_ADD_SPECIAL : 0, NULL, 0, ids, err);
}

static tn_status prompt_from_chat(const tn_intake *in, const tn_prompt *p, tn_ids *ids,
                                  tn_err *err)
{
    tn_buf text;
    size_t *plain = NULL, nplain = 0;
    tn_status st = need_tokenizer(in, p, err);
    if (st != TN_OK)
        return st;
    if (in->chat == NULL)
        return tn_refuse(err, "template_error", "messages", "a conversation; expected a prompt, "
                         "this model has no chat template");
    if (p->messages == NULL)
        return tn_refuse(err, "missing_field", "messages", "nothing; expected a list");
    if (p->add_generation && p->continue_final)
        return tn_refuse(err, "value_out_of_range", "continue_final_message", "true together "
                         "with add_generation_prompt; expected one of them");
    const tn_chat_ask ask = {
        .messages = p->messages, .tools = p->tools, .kwargs = p->kwargs,
        .add_generation = p->add_generation != 0, .continue_final = p->continue_final != 0,
        .now = (int64_t)time(NULL), .guard = in->guard, .nguard = in->nguard,
    };
    tn_buf_open(&text, PROMPT_SIZE_MAX);
    st = tn_chat_render(in->chat, &ask, &text, &plain, &nplain, err);
    if (st == TN_OK && text.failed)
        st = tn_fail(err, TN_NO_MEMORY, "messages: no memory to render them");
    if (st == TN_OK && text.len > 0)
        st = tn_tok_encode(in->tok, text.data, text.len,
                           p->add_special ? TN_TOK_ADD_SPECIAL : 0, plain, nplain, ids, err);
    free(plain);
    tn_buf_close(&text);
    return st;
}

static void truncate_front(tn_ids *ids, uint32_t keep)
{
    if (keep == 0 || ids->n <= keep)
        return;
    memmove(ids->id, ids->id + ids->n - keep, keep * sizeof *ids->id);
    ids->n = keep;
}

tn_status tn_intake_prompt(const tn_intake *in, const tn_prompt *p, tn_ids *ids, tn_err *err)
{
    tn_status st;
    *ids = (tn_ids){0};
    if (p->kind == TN_PROMPT_IDS)
        st = prompt_from_ids(in, p, ids, err);
    else if (p->kind == TN_PROMPT_TEXT)
        st = prompt_from_text(in, p, ids, err);
    else if (p->kind == TN_PROMPT_CHAT)
        st = prompt_from_chat(in, p, ids, err);
    else
        st = tn_refuse(err, "wrong_type", "prompt", "kind %u; expected chat, text or ids",
                       p->kind);
    if (st != TN_OK) {
        tn_ids_close(ids);
        *ids = (tn_ids){0};
        return name_field(st, p, err);
    }
    truncate_front(ids, p->truncate);
    return TN_OK;
}

/* ------------------------------------------------------------------------------ lengths */

static bool is_prompt_only(const tn_ask *ask)
{
    return (ask->flags & (TN_ASK_ECHO | TN_ASK_PROMPT_IDS)) != 0 || ask->prompt_logprobs >= 0;
}

static tn_status too_long(const tn_intake *in, const tn_ask *ask, uint64_t nprompt,
                          uint64_t nreply, tn_err *err)
{
    const char *field = prompt_field(&ask->prompt);
    bool capped = ask->prompt.kind == TN_PROMPT_IDS && ask->prompt.truncate == 0;
    if (capped)
        nprompt = ask->prompt.nid;
    return tn_refuse(err, "context_length_exceeded", field,
                     "this model's maximum context length is %u tokens, but %llu were requested "
                     "(%llu in the %s, %llu in the completion); expected a shorter prompt or a "
                     "smaller max_tokens", in->context_max,
                     (unsigned long long)(nprompt + nreply), (unsigned long long)nprompt, field,
                     (unsigned long long)nreply);
}

static tn_status lengths_settle(const tn_intake *in, const tn_ask *ask, uint64_t nprompt,
                                uint32_t *max_tokens, tn_err *err)
{
    if (nprompt == 0)
        return tn_refuse(err, "value_out_of_range", prompt_field(&ask->prompt),
                         "no tokens; expected at least one");
    uint64_t least = ask->max_tokens < 0 ? 1 : (uint64_t)ask->max_tokens;
    if (nprompt > in->context_max || least > in->context_max - nprompt)
        return too_long(in, ask, nprompt, least, err);
    uint64_t most = in->context_max - nprompt;
    int64_t usual = in->facts.defaults.max_new_tokens;
    if (ask->max_tokens >= 0)
        most = least;
    else if (usual > 0 && (uint64_t)usual < most)
        most = (uint64_t)usual;
    if (ask->min_tokens > (int64_t)most)
        return tn_refuse(err, "value_out_of_range", "min_tokens",
                         "%lld; expected at most max_tokens, here %llu",
                         (long long)ask->min_tokens, (unsigned long long)most);
    *max_tokens = (uint32_t)most;
    return TN_OK;
}

/* What can be seen wrong before the prompt is looked at. */
static tn_status ask_check(const tn_intake *in, const tn_ask *ask, tn_err *err)
{
    tn_status st = tn_sampler_check(ask, &in->facts, err);
    if (st != TN_OK)
        return st;
    if (ask->on_piece == NULL)
        return tn_fail(err, TN_INTERNAL, "submit: on_piece is NULL");
    if (ask->max_tokens == 0 && !is_prompt_only(ask))
        return tn_refuse(err, "value_out_of_range", "max_tokens",
                         "0; expected at least 1, or echo or prompt_logprobs with it");
    if (ask->max_tokens >= 0 && ask->min_tokens > ask->max_tokens)
        return tn_refuse(err, "value_out_of_range", "min_tokens",
                         "%lld; expected at most max_tokens, here %lld",
                         (long long)ask->min_tokens, (long long)ask->max_tokens);
    return TN_OK;
}

/* -------------------------------------------------------------------------- the request */

static tn_status id_set(const tn_ask *ask, tn_request *r, tn_err *err)
{
    uint64_t word;
    if (ask->request_id != NULL && ask->request_id[0] != 0) {
        size_t n = 0;
        for (; n + 1 < sizeof r->id && ask->request_id[n] != 0; n++) {
            char c = ask->request_id[n]; /* it goes into logs */
            r->id[n] = c > ' ' && c <= '~' ? c : '_';
        }
        return TN_OK;
    }
    if (getrandom(&word, sizeof word, 0) != (ssize_t)sizeof word)
        return tn_fail(err, TN_OS, "request_id: the system gave no random bytes");
    snprintf(r->id, sizeof r->id, "%016llx", (unsigned long long)word);
    return TN_OK;
}

/* The keys of the prompt's full blocks are made here, off the step thread, once. */
static void keys_set(const tn_intake *in, const tn_ask *ask, tn_request *r)
{
    if (in->block_tokens == 0)
        return;
    tn_choice *c = &r->choice[0];
    uint32_t n = r->nprompt / in->block_tokens;
    tn_kv_key key = r->root = tn_kv_root(in->kv, ask->cache_salt);
    for (uint32_t i = 0; i < n; i++)
        c->key[i] = key = tn_kv_next(in->kv, key, c->token + (size_t)i * in->block_tokens);
    for (uint32_t i = 0; i < r->nchoice; i++) {
        r->choice[i].nkey = n;
        if (i > 0 && n > 0)
            memcpy(r->choice[i].key, c->key, n * sizeof *c->key);
    }
}

static bool ends_turn(const tn_intake *in, int32_t id)
{
    bool ends = id == in->facts.eos;
    for (uint32_t i = 0; i < in->facts.neos_more; i++)
        ends = ends || id == in->facts.eos_more[i];
    return ends;
}

/* The places in the prompt behind which a turn of the chat has ended: the first, for it closes
 * what many chats share, and the last few, for the next request repeats them. */
static void turns_set(const tn_intake *in, tn_request *r)
{
    const int32_t *token = r->choice[0].token;
    for (uint32_t i = 0; i + 1 < r->nprompt; i++) {
        if (!ends_turn(in, token[i]))
            continue;
        if (r->nturn == TN_TURNS_MAX)
            memmove(&r->turn[1], &r->turn[2], (--r->nturn - 1) * sizeof *r->turn);
        r->turn[r->nturn++] = i + 1;
    }
}

static tn_status echo_set(const tn_intake *in, const tn_ask *ask, tn_request *r, tn_err *err)
{
    const tn_prompt *p = &ask->prompt;
    tn_buf text;
    tn_status st = TN_OK;
    if ((ask->flags & TN_ASK_ECHO) == 0)
        return TN_OK;
    tn_buf_open(&text, ECHO_SIZE_MAX);
    tn_buf_puts(&text, "");
    if (p->kind == TN_PROMPT_TEXT && p->truncate == 0)
        tn_buf_put(&text, p->text, p->text_size);
    else if (in->tok != NULL)
        st = tn_tok_decode(in->tok, r->choice[0].token, r->nprompt,
                           (ask->flags & TN_ASK_KEEP_SPECIAL) != 0, &text, err);
    if (st == TN_OK && text.failed)
        st = tn_fail(err, TN_NO_MEMORY, "echo: no memory for the prompt's text");
    r->echo_size = text.len;
    if (st == TN_OK)
        r->echo = text.data != NULL ? tn_buf_take(&text) : calloc(1, 1);
    tn_buf_close(&text);
    if (st == TN_OK && r->echo == NULL)
        st = tn_fail(err, TN_NO_MEMORY, "echo: no memory for the prompt's text");
    return st;
}

static tn_status replies_open(const tn_intake *in, const tn_ask *ask, tn_request *r,
                              tn_err *err)
{
    uint32_t nscratch = tn_sampler_scratch(&r->sampler);
    uint32_t nbefore = r->nprompt < PRIME_TOKENS ? r->nprompt : PRIME_TOKENS;
    for (uint32_t i = 0; i < r->nchoice; i++) {
        tn_choice *c = &r->choice[i];
        tn_status st = tn_reply_open(&c->reply, in->tok, (ask->flags & TN_ASK_KEEP_SPECIAL) != 0,
                                     (ask->flags & TN_ASK_KEEP_STOP) != 0, r->stops,
                                     c->token + r->nprompt - nbefore, nbefore, err);
        if (st != TN_OK)
            return st;
        if (nscratch == 0)
            continue;
        c->scratch = calloc(nscratch, sizeof *c->scratch);
        if (c->scratch == NULL)
            return tn_fail(err, TN_NO_MEMORY, "request: no memory for its bad_words");
    }
    return TN_OK;
}

static tn_status request_fill(const tn_intake *in, const tn_ask *ask, uint64_t now_ns,
                              tn_request *r, tn_err *err)
{
    uint32_t timeout = in->timeout_ms;
    if (ask->timeout_ms > 0 && ask->timeout_ms < timeout)
        timeout = ask->timeout_ms;
    r->flags = ask->flags;
    r->arrival_ns = now_ns;
    r->deadline_ns = now_ns + (uint64_t)timeout * 1000000u;
    r->on_piece = ask->on_piece;
    r->user = ask->user;
    tn_status st = id_set(ask, r, err);
    if (st == TN_OK)
        st = tn_sampler_build(ask, &in->facts, &r->arena, &r->sampler, err);
    if (st == TN_OK && ask->nstop > 0)
        st = tn_stops_open(ask->stop, ask->nstop, &r->stops, err);
    if (st == TN_OK)
        st = echo_set(in, ask, r, err);
    if (st == TN_OK)
        st = replies_open(in, ask, r, err);
    if (st == TN_OK)
        keys_set(in, ask, r);
    if (st == TN_OK)
        turns_set(in, r);
    return st;
}

/* The prompt with "all that fit" as a number; 0, where nothing would, leaves it to be refused. */
static tn_prompt prompt_fitted(const tn_intake *in, const tn_ask *ask)
{
    tn_prompt p = ask->prompt;
    uint64_t reply = ask->max_tokens < 0 ? 1 : (uint64_t)ask->max_tokens;
    if (p.truncate == UINT32_MAX)
        p.truncate = reply < in->context_max ? in->context_max - (uint32_t)reply : 0;
    return p;
}

tn_status tn_intake_request(const tn_intake *in, const tn_ask *ask, uint64_t now_ns,
                            tn_request **out, tn_err *err)
{
    tn_ids ids = {0};
    tn_request *r = NULL;
    const tn_prompt fitted = prompt_fitted(in, ask);
    tn_request_plan plan = {
        .nchoice = ask->n,
        .ntop = ask->logprobs > 0 ? (uint32_t)ask->logprobs : 0,
        .logprobs = ask->logprobs >= 0,
        .prompt_logprobs = ask->prompt_logprobs,
        .block_tokens = in->block_tokens,
    };
    tn_status st = ask_check(in, ask, err);
    if (st == TN_OK)
        st = tn_intake_prompt(in, &fitted, &ids, err);
    if (st == TN_OK)
        st = lengths_settle(in, ask, ids.n, &plan.max_tokens, err);
    if (st == TN_OK)
        st = tn_request_new(&plan, ids.id, (uint32_t)ids.n, &r, err);
    tn_ids_close(&ids);
    if (st != TN_OK)
        return st;
    st = request_fill(in, ask, now_ns, r, err);
    if (st != TN_OK) {
        tn_request_release(r);
        tn_request_release(r); /* the engine's hold: it never got it */
        return st;
    }
    *out = r;
    return TN_OK;
}

/* ------------------------------------------------------------------------ open and close */

static tn_status guard_open(tn_intake *in, tn_err *err)
{
    uint32_t n = 0, size;
    while (in->tok != NULL && tn_tok_special_at(in->tok, n, &size) != NULL)
        n++;
    in->guard = calloc((size_t)n + 1, sizeof *in->guard);
    if (in->guard == NULL)
        return tn_fail(err, TN_NO_MEMORY, "engine: no memory for %u control tokens", n);
    for (; in->nguard < n; in->nguard++)
        in->guard[in->nguard] = tn_tok_special_at(in->tok, (uint32_t)in->nguard, &size);
    return TN_OK;
}

/* An ask that says nothing must be acceptable. */
static tn_status defaults_check(const tn_intake *in, tn_err *err)
{
    tn_err inner = {0};
    const tn_ask plain = {
        .size = sizeof plain, .n = 1, .temperature = NAN, .top_p = NAN, .min_p = NAN,
        .repetition = NAN, .frequency = NAN, .presence = NAN, .top_k = INT32_MIN,
        .max_tokens = -1, .logprobs = -1, .prompt_logprobs = -1,
    };
    if (tn_sampler_check(&plain, &in->facts, &inner) != TN_OK)
        return tn_fail(err, TN_CONFIG, "generation defaults: %s", inner.text);
    for (uint32_t i = 0; i < in->facts.neos_more; i++)
        if (in->facts.eos_more[i] < 0 || (uint32_t)in->facts.eos_more[i] >= in->vocab)
            return tn_fail(err, TN_CONFIG, "generation defaults: eos_token_id: %d; expected an "
                           "id from 0 to %u", in->facts.eos_more[i], in->vocab - 1);
    if (in->facts.eos >= 0 && (uint32_t)in->facts.eos >= in->vocab)
        return tn_fail(err, TN_CONFIG, "tokenizer: eos token %d; expected an id from 0 to %u",
                       in->facts.eos, in->vocab - 1);
    return TN_OK;
}

tn_status tn_intake_open(tn_intake *in, tn_err *err)
{
    uint32_t n = in->facts.neos_more;
    int32_t *more = calloc((size_t)n + 1, sizeof *more);
    if (more != NULL && n > 0)
        memcpy(more, in->facts.eos_more, n * sizeof *more);
    in->facts.eos_more = more;
    in->guard = NULL;
    in->nguard = 0;
    tn_status st = more != NULL ? TN_OK
                                : tn_fail(err, TN_NO_MEMORY, "engine: no memory for end tokens");
    if (st == TN_OK)
        st = defaults_check(in, err);
    if (st == TN_OK)
        st = guard_open(in, err);
    if (st != TN_OK)
        tn_intake_close(in);
    return st;
}

void tn_intake_close(tn_intake *in)
{
    free((void *)(uintptr_t)in->facts.eos_more);
    free((void *)in->guard);
    in->facts.eos_more = NULL;
    in->facts.neos_more = 0;
    in->guard = NULL;
    in->nguard = 0;
}
