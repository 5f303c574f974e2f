/* SPDX-License-Identifier: Apache-2.0 */
/* output.c - from drawn tokens to pieces: text, stop strings, finish reasons, usage. */
#include "output.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <time.h>

#include "request.h"

#define TEXT_MAX ((size_t)16 << 20) /* of one choice, decoded and not yet sent */
#define TOPS_LEAST 4096u            /* alternatives a piece can carry */

/* ------------------------------------------------------------------------- stop strings */

typedef struct stop {
    char *text;                  /* owned, terminated */
    uint32_t size;
    uint32_t *back;              /* owned [size + 1]: longest proper border of each prefix */
} stop;

struct tn_stops {
    uint32_t n;
    stop stop[TN_REPLY_STOPS_MAX];
};

/* back[k]: how many bytes still match when byte k + 1 fails (Knuth, Morris, Pratt). */
static void borders_make(stop *s)
{
    uint32_t k = 0;
    s->back[0] = 0;
    s->back[1] = 0;
    for (uint32_t i = 1; i < s->size; i++) {
        while (k > 0 && s->text[i] != s->text[k])
            k = s->back[k];
        k += s->text[i] == s->text[k];
        s->back[i + 1] = k;
    }
}

tn_status tn_stops_open(const char *const *text, uint32_t n, tn_stops **out, tn_err *err)
{
    assert(n <= TN_REPLY_STOPS_MAX);
    tn_stops *s = calloc(1, sizeof *s);
    for (uint32_t i = 0; s != NULL && i < n; i++) {
        stop *p = &s->stop[s->n++];
        p->size = (uint32_t)strlen(text[i]);
        p->text = malloc((size_t)p->size + 1);
        p->back = malloc(((size_t)p->size + 1) * sizeof *p->back);
        if (p->text == NULL || p->back == NULL) {
            tn_stops_close(s);
            s = NULL;
            break;
        }
        memcpy(p->text, text[i], (size_t)p->size + 1);
        borders_make(p);
    }
    if (s == NULL)
        return tn_fail(err, TN_NO_MEMORY, "request: no memory for its stop strings");
    *out = s;
    return TN_OK;
}

void tn_stops_close(tn_stops *s)
{
    if (s == NULL)
        return;
    for (uint32_t i = 0; i < s->n; i++) {
        free(s->stop[i].text);
        free(s->stop[i].back);
    }
    free(s);
}

const char *tn_stops_text(const tn_stops *s, uint32_t i)
{
    return s->stop[i].text;
}

/* One byte more: the new count of matching bytes; `size` when the stop is complete. */
static uint32_t stop_step(const stop *s, uint32_t state, char byte)
{
    while (state > 0 && (state == s->size || s->text[state] != byte))
        state = s->back[state];
    return state + (s->text[state] == byte);
}

/* ----------------------------------------------------------------------- text of a choice */

tn_status tn_reply_open(tn_reply *r, const tn_tok *tok, bool keep_special, bool keep_stop,
                        const tn_stops *stops, const int32_t *before, size_t nbefore,
                        tn_err *err)
{
    *r = (tn_reply){.stops = stops, .keep_stop = keep_stop};
    tn_buf_open(&r->text, TEXT_MAX);
    if (tok == NULL)
        return TN_OK;
    tn_status st = tn_detok_open(tok, keep_special, &r->detok, err);
    if (st != TN_OK) {
        r->detok = NULL;
        return st;
    }
    tn_detok_prime(r->detok, before, nbefore);
    return TN_OK;
}

void tn_reply_close(tn_reply *r)
{
    if (r->detok != NULL)
        tn_detok_close(r->detok);
    r->detok = NULL;
    tn_buf_close(&r->text);
}

/* Cuts the text at the stop that ends at `end`. */
static void cut_at(tn_reply *r, size_t end, uint32_t stop_size)
{
    r->text.len = r->keep_stop ? end : end - stop_size;
    r->text.data[r->text.len] = 0;
    r->looked = r->text.len;
    r->ready = r->text.len;
}

/* Searches what was appended since the last look. */
static int32_t search(tn_reply *r)
{
    const tn_stops *s = r->stops;
    for (; r->looked < r->text.len; r->looked++) {
        int32_t found = -1;
        for (uint32_t i = 0; i < s->n; i++) {
            r->state[i] = stop_step(&s->stop[i], r->state[i], r->text.data[r->looked]);
            if (r->state[i] == s->stop[i].size &&
                (found < 0 || s->stop[i].size > s->stop[found].size))
                found = (int32_t)i;
        }
        if (found >= 0) {
            cut_at(r, r->looked + 1, s->stop[found].size);
            return found;
        }
    }
    return -1;
}

/* Everything but the longest beginning of a stop at the text's end may go out. */
static void settle(tn_reply *r)
{
    uint32_t held = 0;
    for (uint32_t i = 0; r->stops != NULL && i < r->stops->n; i++)
        if (r->state[i] > held)
            held = r->state[i];
    r->ready = r->text.len - held;
}

static int32_t look_or_skip(tn_reply *r, bool look)
{
    if (look && r->stops != NULL)
        return search(r);
    r->looked = r->text.len;
    memset(r->state, 0, sizeof r->state);
    return -1;
}

int32_t tn_reply_push(tn_reply *r, int32_t id, bool say, bool look)
{
    if (r->detok == NULL || !say)
        return -1;
    tn_detok_push(r->detok, id, &r->text);
    int32_t found = look_or_skip(r, look);
    if (found < 0)
        settle(r);
    return found;
}

int32_t tn_reply_finish(tn_reply *r, bool look)
{
    if (r->detok == NULL)
        return -1;
    tn_detok_finish(r->detok, &r->text);
    int32_t found = look_or_skip(r, look);
    if (found < 0)
        r->ready = r->text.len;
    return found;
}

void tn_reply_sent(tn_reply *r)
{
    if (r->ready == 0)
        return;
    r->text.len -= r->ready;
    memmove(r->text.data, r->text.data + r->ready, r->text.len + 1);
    r->looked -= r->ready;
    r->ready = 0;
}

bool tn_reply_has_failed(const tn_reply *r)
{
    return r->text.failed;
}

/* --------------------------------------------------------------------- tokens of a piece */

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

tn_status tn_output_open(tn_output *o, const tn_tok *tok, uint32_t top_max,
                         tn_serve_stats *stats, tn_err *err)
{
    *o = (tn_output){.tok = tok, .stats = stats, .clock = now_ns};
    o->ntop = top_max > TOPS_LEAST ? top_max : TOPS_LEAST;
    o->token = calloc(TN_PIECE_TOKENS, sizeof *o->token);
    o->top = calloc(o->ntop, sizeof *o->top);
    if (o->token != NULL && o->top != NULL)
        return TN_OK;
    tn_output_close(o);
    return tn_fail(err, TN_NO_MEMORY, "engine: no memory for its output");
}

void tn_output_close(tn_output *o)
{
    free(o->token);
    free(o->top);
    o->token = NULL;
    o->top = NULL;
}

static tn_logprob logprob_make(const tn_output *o, int32_t id, float logprob, int32_t rank)
{
    tn_logprob l = {.token = id, .rank = rank, .logprob = logprob};
    if (o->tok != NULL)
        l.text = tn_tok_bytes(o->tok, id, &l.text_size);
    if (l.text == NULL) {
        l.text = "";
        l.text_size = 0;
    }
    return l;
}

/* `report` NULL: log-probabilities were not asked for. The alternatives go to `space`. */
static tn_token token_make(const tn_output *o, int32_t id, const tn_report *report,
                           const tn_top *top, tn_logprob *space)
{
    tn_token t = {0};
    if (report == NULL) {
        t.self = logprob_make(o, id, NAN, 0);
        return t;
    }
    t.self = logprob_make(o, id, report->logprob, report->rank);
    t.ntop = report->ntop;
    t.top = space;
    for (uint32_t i = 0; i < report->ntop; i++)
        space[i] = logprob_make(o, top[i].token, top[i].logprob, (int32_t)i + 1);
    return t;
}

static uint32_t tokens_a_piece(const tn_output *o, uint32_t ntop)
{
    uint32_t n = ntop > 0 ? o->ntop / ntop : TN_PIECE_TOKENS;
    if (n > TN_PIECE_TOKENS)
        n = TN_PIECE_TOKENS;
    return n > 0 ? n : 1;
}

/* Prompt data of a request, in one allocation that the caller frees; NULL: no memory. */
static tn_token *prompt_make(const tn_output *o, const tn_request *r)
{
    size_t ntop = r->prompt_logprobs > 0 ? (size_t)r->prompt_logprobs : 0;
    size_t each = sizeof(tn_token) + ntop * sizeof(tn_logprob);
    if (r->nprompt > SIZE_MAX / each)
        return NULL;
    tn_token *t = malloc(r->nprompt * each);
    if (t == NULL)
        return NULL;
    tn_logprob *space = (tn_logprob *)(void *)(t + r->nprompt);
    for (uint32_t i = 0; i < r->nprompt; i++) {
        bool known = i > 0 && r->prompt_report != NULL;
        t[i] = token_make(o, r->choice[0].token[i], known ? &r->prompt_report[i] : NULL,
                          known ? r->prompt_top + i * ntop : NULL, space + i * ntop);
    }
    return t;
}

/* -------------------------------------------------------------------------------- pieces */

static bool wants_prompt(const tn_request *r)
{
    return !r->prompt_sent &&
           (r->prompt_report != NULL || (r->flags & TN_ASK_PROMPT_IDS) != 0);
}

static uint32_t choices_open(const tn_request *r)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < r->nchoice; i++)
        n += !r->choice[i].sent_last;
    return n;
}

static void count_end(tn_output *o, const tn_request *r, const tn_choice *c, uint32_t finish,
                      uint64_t now)
{
    bool any = atomic_load_explicit(&c->nready, memory_order_acquire) > 0;
    const tn_stats_end end = {
        .finish = finish,
        .nan = r->end == TN_END_NAN,
        .nprompt = r->nprompt,
        .ncached = r->ncached_seen,
        .nreply = c->nsent,
        .max_tokens = r->max_tokens,
        .nchoice = r->nchoice,
        .arrival_ns = r->arrival_ns,
        .begun_ns = any ? r->begun_ns : 0,
        .first_ns = any ? c->first_ns : 0,
        .last_ns = c->piece_ns,
        .now_ns = now,
    };
    tn_stats_put_end(o->stats, &end);
}

/* The request is over: count it, and let the step thread know. */
static void close_request(tn_output *o, tn_request *r, uint32_t end)
{
    static const uint32_t outcome[] = {
        [TN_END_DONE] = TN_OUTCOME_COMPLETED, [TN_END_CANCELLED] = TN_OUTCOME_CANCELLED,
        [TN_END_TIMEOUT] = TN_OUTCOME_TIMED_OUT, [TN_END_CUT] = TN_OUTCOME_CANCELLED,
        [TN_END_NAN] = TN_OUTCOME_FAILED, [TN_END_ENGINE] = TN_OUTCOME_FAILED,
        [TN_END_MEMORY] = TN_OUTCOME_FAILED, [TN_END_BUG] = TN_OUTCOME_FAILED,
    };
    r->end = end;
    tn_stats_outcome(o->stats, outcome[end]);
    atomic_store_explicit(&r->over, 1, memory_order_release);
}

/* Fills in what all pieces share and calls the frontend. */
static void send(tn_request *r, uint32_t choice, tn_piece *p)
{
    p->size = sizeof *p;
    p->choice = choice;
    p->last = r->end != TN_END_NONE;
    if (p->text == NULL)
        p->text = "";
    p->prompt_tokens = r->nprompt;
    p->cached_tokens = r->ncached_seen;
    p->reply_tokens = r->nreply;
    r->on_piece(r->user, p);
}

/* The prompt's own share of the first piece. False: no memory. */
static bool attach_prompt(tn_output *o, tn_request *r, tn_piece *p, tn_token **owned)
{
    if (!wants_prompt(r))
        return true;
    *owned = prompt_make(o, r);
    if (*owned == NULL)
        return false;
    p->prompt = *owned;
    p->nprompt = r->nprompt;
    r->prompt_sent = true;
    return true;
}

/* One piece of choice `c` from `n` tokens made ready in o->token, perhaps its last. */
static void send_tokens(tn_output *o, tn_request *r, tn_choice *c, uint32_t n, tn_piece *p)
{
    tn_token *owned = NULL;
    uint64_t now = o->clock();
    if (!attach_prompt(o, r, p, &owned)) {
        tn_output_end(o, r, TN_END_MEMORY);
        return;
    }
    p->token = o->token;
    p->ntoken = n;
    p->text = c->reply.text.data;
    p->text_size = c->reply.ready;
    r->nreply += n;
    if (n > 0) {
        bool first = c->piece_ns == 0;
        tn_stats_put_tokens(o->stats, n, first, now - (first ? r->arrival_ns : c->piece_ns));
        c->piece_ns = now;
    }
    if (p->finish != TN_FINISH_NONE) {
        c->sent_last = true;
        count_end(o, r, c, p->finish, now);
        if (choices_open(r) == 0)
            close_request(o, r, TN_END_DONE);
    }
    send(r, c->index, p);
    free(owned);
    tn_reply_sent(&c->reply);
}

static void send_echo(tn_output *o, tn_request *r, tn_choice *c)
{
    tn_token *owned = NULL;
    tn_piece p = {.text = r->echo, .text_size = r->echo_size};
    if (!attach_prompt(o, r, &p, &owned)) {
        tn_output_end(o, r, TN_END_MEMORY);
        return;
    }
    c->echo_sent = true;
    send(r, c->index, &p);
    free(owned);
}

/* Takes tokens [nsent, ready) in, at most a piece of them, until a stop string ends it.
 * Returns how many. */
static uint32_t take_tokens(tn_output *o, tn_request *r, tn_choice *c, uint32_t ready,
                            bool ended, tn_piece *p)
{
    uint32_t ntop = r->sampler.base.ntop, n = 0, most = tokens_a_piece(o, ntop);
    while (n < most && c->nsent < ready && p->finish == TN_FINISH_NONE) {
        uint32_t at = c->nsent % r->report_cap;
        int32_t id = c->token[r->nprompt + c->nsent];
        bool is_end = ended && c->nsent + 1 == ready && c->finish == TN_FINISH_STOP;
        o->token[n] = token_make(o, id, r->logprobs ? &c->report[at] : NULL,
                                 r->logprobs ? c->top + (size_t)at * ntop : NULL,
                                 o->top + (size_t)n * ntop);
        n++;
        c->nsent++;
        int32_t found = tn_reply_push(&c->reply, id, !is_end || c->reply.keep_stop,
                                      c->nsent > r->sampler.min_tokens);
        if (found >= 0) {
            p->finish = TN_FINISH_STOP;
            p->stop_kind = 2;
            p->stop_text = tn_stops_text(r->stops, (uint32_t)found);
        }
    }
    atomic_store_explicit(&c->nseen, c->nsent, memory_order_release);
    return n;
}

/* No stop string came before the end that the step thread saw. */
static void take_end(tn_request *r, tn_choice *c, tn_piece *p)
{
    int32_t found = tn_reply_finish(&c->reply, c->nsent > r->sampler.min_tokens);
    p->finish = c->finish;
    p->stop_kind = c->stop_kind;
    p->stop_token = c->stop_token;
    if (found >= 0) {
        p->finish = TN_FINISH_STOP;
        p->stop_kind = 2;
        p->stop_text = tn_stops_text(r->stops, (uint32_t)found);
    }
}

/* One piece of `c`, if there is something to say. */
static bool pump_once(tn_output *o, tn_request *r, tn_choice *c)
{
    tn_piece p = {.stop_token = -1};
    uint32_t ready = atomic_load_explicit(&c->nready, memory_order_acquire);
    bool ended = atomic_load_explicit(&c->ended, memory_order_acquire) != 0;
    if (ended)
        ready = c->nfinal;
    bool broken = ended && c->finish == TN_FINISH_ERROR;
    if (c->sent_last || (c->nsent == ready && (!ended || broken)))
        return false;
    if (!r->prompt_counted) {
        r->prompt_counted = true;
        r->ncached_seen = r->ncached;
        r->miss_seen = r->miss;
        r->miss_at_seen = r->miss_at;
        tn_stats_put_prompt(o->stats, r->nprompt, r->ncached);
    }
    if (r->echo != NULL && !c->echo_sent) {
        send_echo(o, r, c);
        return r->end == TN_END_NONE;
    }
    uint32_t n = take_tokens(o, r, c, ready, ended, &p);
    if (p.finish == TN_FINISH_NONE && ended && !broken && c->nsent == ready)
        take_end(r, c, &p);
    if (tn_reply_has_failed(&c->reply)) {
        tn_output_end(o, r, TN_END_MEMORY);
        return false;
    }
    if (p.finish != TN_FINISH_NONE)
        atomic_store_explicit(&c->drop, 1, memory_order_release);
    send_tokens(o, r, c, n, &p);
    return r->end == TN_END_NONE;
}

bool tn_output_pump(tn_output *o, tn_request *r)
{
    if (r->end == TN_END_NONE && atomic_load_explicit(&r->cancelled, memory_order_acquire))
        tn_output_end(o, r, TN_END_CANCELLED);
    uint32_t failed = atomic_load_explicit(&r->failed, memory_order_acquire);
    for (uint32_t i = 0; i < r->nchoice; i++)
        while (r->end == TN_END_NONE && pump_once(o, r, &r->choice[i])) {
        }
    if (r->end == TN_END_NONE && failed != TN_END_NONE)
        tn_output_end(o, r, failed);
    return r->end != TN_END_NONE;
}

/* ------------------------------------------------------------------- ends before the end */

static tn_status end_describe(uint32_t end, tn_err *err)
{
    static const struct {
        tn_status status;
        const char *code, *text;
    } all[] = {
        [TN_END_CANCELLED] = {TN_CANCELLED, "cancelled", "request: cancelled"},
        [TN_END_TIMEOUT] = {TN_TIMEOUT, "request_timeout",
                            "request: its time was used up before it was finished"},
        [TN_END_CUT] = {TN_CUT, "draining",
                        "request: the server stops and could not finish it in time"},
        [TN_END_NAN] = {TN_INTERNAL, "model_nan",
                        "request: the model's logits held a NaN or an infinity"},
        [TN_END_ENGINE] = {TN_UNAVAILABLE, "engine_down",
                           "request: the engine stopped after its device failed"},
        [TN_END_MEMORY] = {TN_NO_MEMORY, "no_memory",
                           "request: no memory to write the reply"},
        [TN_END_BUG] = {TN_INTERNAL, "bug",
                        "request: the device drew a token outside the vocabulary"},
    };
    tn_fail(err, all[end].status, "%s", all[end].text);
    snprintf(err->code, sizeof err->code, "%s", all[end].code);
    return all[end].status;
}

static bool is_broken(const tn_choice *c)
{
    return atomic_load_explicit(&c->ended, memory_order_acquire) != 0 &&
           c->finish == TN_FINISH_ERROR;
}

/* The choice whose piece says it: the broken one, else the first that is open. */
static uint32_t choice_to_blame(const tn_request *r)
{
    uint32_t open = TN_NONE;
    for (uint32_t i = 0; i < r->nchoice; i++) {
        if (r->choice[i].sent_last)
            continue;
        if (is_broken(&r->choice[i]))
            return i;
        if (open == TN_NONE)
            open = i;
    }
    return open;
}

void tn_output_end(tn_output *o, tn_request *r, uint32_t end)
{
    tn_err err = {0};
    assert(r->end == TN_END_NONE && end != TN_END_NONE && end != TN_END_DONE);
    bool abort = end == TN_END_CANCELLED || end == TN_END_TIMEOUT || end == TN_END_CUT;
    uint32_t blamed = choice_to_blame(r);
    tn_piece p = {.finish = abort ? TN_FINISH_ABORT : TN_FINISH_ERROR, .stop_token = -1};
    p.status = end_describe(end, &err);
    p.err = &err;
    close_request(o, r, end);
    for (uint32_t i = 0; i < r->nchoice; i++)
        if (!r->choice[i].sent_last) {
            r->choice[i].sent_last = true;
            count_end(o, r, &r->choice[i], p.finish, o->clock());
        }
    send(r, blamed, &p);
}
