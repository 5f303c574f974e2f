/* SPDX-License-Identifier: Apache-2.0 */
/* sampling.c - from what a request asks for to what an output row is told. */
#include "sampling.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <sys/random.h>

#include "buf.h"
#include "share.h"

#define NOT_ALLOWED (-INFINITY)

/* ---------------------------------------------------------------------------- refusals */

tn_status tn_refuse(tn_err *err, const char *code, const char *param, const char *fmt, ...)
{
    char rest[768];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(rest, sizeof rest, fmt, ap);
    va_end(ap);
    tn_status st = tn_fail(err, TN_REFUSED, "%s: %s", param, rest);
    if (err != NULL) {
        snprintf(err->code, sizeof err->code, "%s", code);
        snprintf(err->param, sizeof err->param, "%s", param);
    }
    return st;
}

/* The double with fewest digits that is this float: what the client wrote. */
static double as_written(float given)
{
    double unit = pow(10, 6 - floor(log10(fabs((double)given))));
    double plain = round((double)given * unit) / unit;
    return isfinite(plain) && (float)plain == given ? plain : (double)given;
}

static tn_status out_of_range(const char *param, float given, const char *rule, tn_err *err)
{
    tn_buf text; /* whatever the locale, the number prints the same */
    tn_buf_open(&text, 64);
    if (isfinite(given))
        tn_buf_put_double(&text, as_written(given));
    else
        tn_buf_puts(&text, isnan(given) ? "NaN" : given > 0 ? "Infinity" : "-Infinity");
    tn_status st = tn_refuse(err, "value_out_of_range", param, "%s; expected %s",
                             text.data != NULL ? text.data : "a number", rule);
    tn_buf_close(&text);
    return st;
}

/* ------------------------------------------------------------------------------ checks */

typedef struct range {
    const char *param;
    float given, fallback;       /* given NaN: the fallback is checked */
    float least, greatest;
    bool open;                   /* `least` itself is outside */
    const char *rule;
} range;

static tn_status ranges_check(const tn_ask *ask, const tn_generation *d, tn_err *err)
{
    const range all[] = {
        {"temperature", ask->temperature, d->temperature, 0, 2, false,
         "a number from 0 to 2"},
        {"top_p", ask->top_p, d->top_p, 0, 1, true, "a number above 0 and up to 1"},
        {"min_p", ask->min_p, d->min_p, 0, 1, false, "a number from 0 to 1"},
        {"repetition_penalty", ask->repetition, d->repetition, 0.01f, 100, false,
         "a number from 0.01 to 100"},
        {"frequency_penalty", ask->frequency, 0, -2, 2, false, "a number from -2 to 2"},
        {"presence_penalty", ask->presence, 0, -2, 2, false, "a number from -2 to 2"},
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        float v = isnan(all[i].given) ? all[i].fallback : all[i].given;
        if (isnan(v))
            continue;
        if (v < all[i].least || v > all[i].greatest || (all[i].open && v <= all[i].least))
            return out_of_range(all[i].param, v, all[i].rule, err);
    }
    int32_t top_k = ask->top_k != INT32_MIN ? ask->top_k : d->top_k;
    if (top_k != INT32_MIN && top_k < -1)
        return tn_refuse(err, "value_out_of_range", "top_k",
                         "%d; expected an integer of at least -1", top_k);
    return TN_OK;
}

static tn_status count_check(const char *param, uint32_t n, uint32_t most, const char *what,
                             const void *list, tn_err *err)
{
    if (n > most)
        return tn_refuse(err, "value_out_of_range", param, "%u %s; expected at most %u", n, what,
                         most);
    if (n > 0 && list == NULL)
        return tn_refuse(err, "missing_field", param, "no list; expected %u %s", n, what);
    return TN_OK;
}

static tn_status token_check(const char *param, int64_t id, uint32_t vocab, tn_err *err)
{
    if (id >= 0 && id < vocab)
        return TN_OK;
    return tn_refuse(err, "value_out_of_range", param,
                     "token %lld; expected an id from 0 to %u", (long long)id, vocab - 1);
}

static tn_status tokens_check(const char *param, const int32_t *id, uint32_t n, uint32_t vocab,
                              tn_err *err)
{
    for (uint32_t i = 0; i < n; i++) {
        tn_status st = token_check(param, id[i], vocab, err);
        if (st != TN_OK)
            return st;
    }
    return TN_OK;
}

static tn_status texts_check(const char *param, const char *const *text, uint32_t n,
                             uint32_t size_max, tn_err *err)
{
    char item[64];
    for (uint32_t i = 0; i < n; i++) {
        size_t size = text[i] != NULL ? strlen(text[i]) : 0;
        if (size >= 1 && size <= size_max)
            continue;
        snprintf(item, sizeof item, "%s[%u]", param, i);
        return tn_refuse(err, "value_out_of_range", item, "%zu bytes; expected 1 to %u", size,
                         size_max);
    }
    return TN_OK;
}

static tn_status bias_check(const tn_ask *ask, uint32_t vocab, tn_err *err)
{
    tn_status st = count_check("logit_bias", ask->nbias, TN_BIAS_MAX, "entries", ask->bias, err);
    for (uint32_t i = 0; i < ask->nbias && st == TN_OK; i++) {
        float v = ask->bias[i].value;
        st = token_check("logit_bias", ask->bias[i].token, vocab, err);
        if (st == TN_OK && !(v >= -100.0f && v <= 100.0f))
            st = out_of_range("logit_bias", v, "values from -100 to 100", err);
    }
    return st;
}

static tn_status lists_check(const tn_ask *ask, const tn_sampler_facts *f, tn_err *err)
{
    tn_status st = count_check("stop", ask->nstop, TN_STOPS_MAX, "strings", ask->stop, err);
    if (st == TN_OK)
        st = texts_check("stop", ask->stop, ask->nstop, TN_STOP_SIZE_MAX, err);
    if (st == TN_OK)
        st = count_check("stop_token_ids", ask->nstop_token, TN_STOP_TOKENS_MAX, "ids",
                         ask->stop_token, err);
    if (st == TN_OK)
        st = tokens_check("stop_token_ids", ask->stop_token, ask->nstop_token, f->vocab, err);
    if (st == TN_OK)
        st = bias_check(ask, f->vocab, err);
    if (st == TN_OK)
        st = count_check("allowed_token_ids", ask->nallowed, f->vocab, "ids", ask->allowed, err);
    if (st == TN_OK)
        st = tokens_check("allowed_token_ids", ask->allowed, ask->nallowed, f->vocab, err);
    if (st == TN_OK)
        st = count_check("bad_words", ask->nbad_words, TN_BAD_WORDS_MAX, "strings",
                         ask->bad_words, err);
    if (st == TN_OK)
        st = texts_check("bad_words", ask->bad_words, ask->nbad_words, TN_BAD_WORD_SIZE_MAX, err);
    if (st == TN_OK && ask->nbad_words > 0 && f->tok == NULL)
        st = tn_refuse(err, "value_out_of_range", "bad_words", "%u strings; expected none, this "
                       "model is served without a tokenizer", ask->nbad_words);
    return st;
}

static tn_status logprobs_check(const char *param, int32_t given, uint32_t most, tn_err *err)
{
    if (given >= -1 && given <= (int64_t)most)
        return TN_OK;
    return tn_refuse(err, "value_out_of_range", param, "%d; expected an integer from 0 to %u",
                     given, most);
}

tn_status tn_sampler_check(const tn_ask *ask, const tn_sampler_facts *f, tn_err *err)
{
    if (ask->n < 1 || ask->n > TN_CHOICES_MAX)
        return tn_refuse(err, "value_out_of_range", "n", "%u; expected an integer from 1 to %u",
                         ask->n, TN_CHOICES_MAX);
    tn_status st = ranges_check(ask, &f->defaults, err);
    if (st == TN_OK && ask->min_tokens < 0)
        st = tn_refuse(err, "value_out_of_range", "min_tokens",
                       "%lld; expected an integer of at least 0", (long long)ask->min_tokens);
    if (st == TN_OK)
        st = logprobs_check("logprobs", ask->logprobs, f->max_logprobs, err);
    if (st == TN_OK)
        st = logprobs_check("prompt_logprobs", ask->prompt_logprobs, f->max_logprobs, err);
    if (st == TN_OK)
        st = lists_check(ask, f, err);
    return st;
}

/* --------------------------------------------------------------------- building: numbers */

static float first_of(float given, float fallback, float last)
{
    if (!isnan(given))
        return given;
    return isnan(fallback) ? last : fallback;
}

static void numbers_build(const tn_ask *ask, const tn_generation *d, tn_sampler *s)
{
    tn_sampling *b = &s->base;
    int32_t top_k = ask->top_k != INT32_MIN ? ask->top_k : d->top_k;
    b->temperature = first_of(ask->temperature, d->temperature, 1);
    b->top_p = first_of(ask->top_p, d->top_p, 1);
    b->min_p = first_of(ask->min_p, d->min_p, 0);
    b->top_k = top_k > 0 ? top_k : 0;
    b->repetition = first_of(ask->repetition, d->repetition, 1);
    b->frequency = first_of(ask->frequency, 0, 0);
    b->presence = first_of(ask->presence, 0, 0);
    b->ntop = ask->logprobs > 0 ? (uint32_t)ask->logprobs : 0;
    b->target = -1;
    b->draft = -1;
    if (b->temperature == 0) { /* -0 too */
        b->flags |= TN_SAMPLE_GREEDY;
        b->temperature = 0;
        b->top_p = 1;
        b->top_k = 0;
        b->min_p = 0;
    } else if (b->temperature < TN_TEMPERATURE_LEAST) {
        b->temperature = TN_TEMPERATURE_LEAST;
    }
    s->penalties = b->repetition != 1 || b->frequency != 0 || b->presence != 0;
    s->min_tokens = ask->min_tokens < UINT32_MAX ? (uint32_t)ask->min_tokens : UINT32_MAX;
}

/* splitmix64's finalizer, Steele et al. 2014. */
static uint64_t scatter(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static tn_status seed_build(const tn_ask *ask, const tn_sampler_facts *f, tn_sampler *s,
                            tn_err *err)
{
    s->seed = (uint64_t)ask->seed;
    if (ask->has_seed)
        return TN_OK;
    if (f->seeds != NULL) {
        uint64_t n = atomic_fetch_add_explicit(&f->seeds->ndrawn, 1, memory_order_relaxed);
        s->seed = scatter(f->seeds->base + (n + 1) * UINT64_C(0x9e3779b97f4a7c15));
        return TN_OK;
    }
    if (getrandom(&s->seed, sizeof s->seed, 0) != (ssize_t)sizeof s->seed)
        return tn_fail(err, TN_OS, "seed: the system gave no random bytes");
    return TN_OK;
}

/* ------------------------------------------------------------------ building: end tokens */

static int end_compare(const void *a, const void *b)
{
    const tn_end_token *x = a, *y = b;
    if (x->token != y->token)
        return x->token < y->token ? -1 : 1;
    return x->kind < y->kind ? -1 : x->kind > y->kind;
}

static tn_status ends_build(const tn_ask *ask, const tn_sampler_facts *f, tn_arena *a,
                            tn_sampler *s, tn_err *err)
{
    tn_end_token *end = tn_arena_array(a, (size_t)ask->nstop_token + f->neos_more + 1,
                                       sizeof *end);
    uint32_t n = 0;
    if (end == NULL)
        return tn_fail(err, TN_NO_MEMORY, "request: no memory for its stop tokens");
    bool eos_stops = (ask->flags & TN_ASK_IGNORE_EOS) == 0;
    if (eos_stops && f->eos >= 0)
        end[n++] = (tn_end_token){.token = f->eos, .kind = 0};
    for (uint32_t i = 0; eos_stops && i < f->neos_more; i++)
        end[n++] = (tn_end_token){.token = f->eos_more[i], .kind = 1};
    for (uint32_t i = 0; i < ask->nstop_token; i++)
        end[n++] = (tn_end_token){.token = ask->stop_token[i], .kind = 1};
    qsort(end, n, sizeof *end, end_compare);
    s->nend = 0;
    for (uint32_t i = 0; i < n; i++) /* of one token, the smaller kind stays */
        if (s->nend == 0 || end[s->nend - 1].token != end[i].token)
            end[s->nend++] = end[i];
    s->end = end;
    return TN_OK;
}

const tn_end_token *tn_sampler_end(const tn_sampler *s, int32_t token)
{
    const tn_end_token key = {.token = token};
    uint32_t low = 0, high = s->nend;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (s->end[mid].token < key.token)
            low = mid + 1;
        else
            high = mid;
    }
    return low < s->nend && s->end[low].token == token ? &s->end[low] : NULL;
}

/* ------------------------------------------------------------------- building: bad words */

/* Bad words as token sequences: each word as it stands and after a blank, for that is how it
 * is spelled inside a sentence. */
typedef struct bans {
    tn_word word[2 * TN_BAD_WORDS_MAX];
    uint32_t n;
} bans;

static tn_status ban_add(bans *b, const char *text, const tn_sampler_facts *f, tn_arena *a,
                         tn_err *err)
{
    tn_ids ids = {0};
    tn_status st = tn_tok_encode(f->tok, text, strlen(text), 0, NULL, 0, &ids, err);
    if (st == TN_OK && ids.n > 0) {
        int32_t *copy = tn_arena_array(a, ids.n, sizeof *copy);
        if (copy == NULL) {
            st = tn_fail(err, TN_NO_MEMORY, "request: no memory for its bad_words");
        } else {
            memcpy(copy, ids.id, ids.n * sizeof *copy);
            b->word[b->n++] = (tn_word){.id = copy, .n = (uint32_t)ids.n};
        }
    }
    tn_ids_close(&ids);
    return st;
}

/* Whether forbidding `first` forbids `spaced` too. */
static bool ban_covers(const tn_word *first, const tn_word *spaced)
{
    return spaced->n >= first->n &&
           memcmp(first->id, spaced->id + spaced->n - first->n, first->n * sizeof *first->id) == 0;
}

static tn_status bans_build(const tn_ask *ask, const tn_sampler_facts *f, tn_arena *a, bans *b,
                            tn_err *err)
{
    char spaced[TN_BAD_WORD_SIZE_MAX + 2];
    for (uint32_t i = 0; i < ask->nbad_words; i++) {
        const char *word = ask->bad_words[i];
        uint32_t before = b->n;
        tn_status st = ban_add(b, word, f, a, err);
        if (st == TN_OK && word[0] != ' ') {
            snprintf(spaced, sizeof spaced, " %s", word);
            st = ban_add(b, spaced, f, a, err);
        }
        if (st == TN_REFUSED)
            return tn_refuse(err, "invalid_utf8", "bad_words",
                             "string %u cannot be tokenized; expected valid UTF-8", i);
        if (st != TN_OK)
            return st;
        if (b->n == before + 2 && ban_covers(&b->word[before], &b->word[before + 1]))
            b->n--;
    }
    return TN_OK;
}

/* ------------------------------------------------------------------------ building: bias */

static int bias_compare(const void *a, const void *b)
{
    const tn_bias *x = a, *y = b;
    return x->token < y->token ? -1 : x->token > y->token;
}

/* Sorts, and adds up what is said of one token. */
static uint32_t bias_tidy(tn_bias *bias, uint32_t n)
{
    uint32_t kept = 0;
    if (n > 0)
        qsort(bias, n, sizeof *bias, bias_compare);
    for (uint32_t i = 0; i < n; i++) {
        if (kept > 0 && bias[kept - 1].token == bias[i].token)
            bias[kept - 1].value += bias[i].value;
        else
            bias[kept++] = bias[i];
    }
    return kept;
}

static tn_status bias_build(const tn_ask *ask, const bans *b, tn_arena *a, tn_sampler *s,
                            tn_err *err)
{
    size_t most = (size_t)ask->nbias + b->n + s->nend;
    tn_bias *bias = tn_arena_array(a, most, sizeof *bias);
    tn_bias *early = tn_arena_array(a, most, sizeof *early);
    tn_word *word = tn_arena_array(a, b->n, sizeof *word);
    if (bias == NULL || early == NULL || word == NULL)
        return tn_fail(err, TN_NO_MEMORY, "request: no memory for its logit_bias");
    uint32_t n = 0;
    for (; n < ask->nbias; n++)
        bias[n] = ask->bias[n];
    for (uint32_t i = 0; i < b->n; i++) {
        if (b->word[i].n == 1)
            bias[n++] = (tn_bias){.token = b->word[i].id[0], .value = NOT_ALLOWED};
        else
            word[s->nword++] = b->word[i];
    }
    n = bias_tidy(bias, n);
    if (n > 0)
        memcpy(early, bias, n * sizeof *bias);
    s->nbias = n;
    for (uint32_t i = 0; s->min_tokens > 0 && i < s->nend; i++)
        early[n++] = (tn_bias){.token = s->end[i].token, .value = NOT_ALLOWED};
    s->nearly = bias_tidy(early, n);
    s->bias = bias;
    s->early = early;
    s->word = word;
    return TN_OK;
}

/* ------------------------------------------------------------------------ building: mask */

static bool mask_has(const uint32_t *mask, int32_t token)
{
    return mask == NULL || (mask[token / 32] >> (token % 32) & 1) != 0;
}

/* Devices read a bit for every column of the logits, padding of the ranks' rows included. */
static tn_status mask_build(const tn_ask *ask, const tn_sampler_facts *f, tn_arena *a,
                            tn_sampler *s, tn_err *err)
{
    if (ask->nallowed == 0)
        return TN_OK;
    size_t columns = (size_t)f->vocab + TN_VOCAB_PADDING;
    uint32_t *mask = tn_arena_array(a, (columns + 31) / 32, sizeof *mask);
    if (mask == NULL)
        return tn_fail(err, TN_NO_MEMORY, "request: no memory for its allowed_token_ids");
    for (uint32_t i = 0; i < ask->nallowed; i++) {
        int32_t t = ask->allowed[i];
        s->nleft += !mask_has(mask, t);
        mask[t / 32] |= UINT32_C(1) << (t % 32);
    }
    for (uint32_t i = 0; i < s->nearly; i++)
        if (s->early[i].value == NOT_ALLOWED && mask_has(mask, s->early[i].token))
            s->nleft--;
    s->mask = mask;
    if (s->nleft == 0)
        return tn_refuse(err, "value_out_of_range", "allowed_token_ids", "%u ids, all of them "
                         "forbidden by bad_words or min_tokens; expected one that is not",
                         ask->nallowed);
    return TN_OK;
}

tn_status tn_sampler_build(const tn_ask *ask, const tn_sampler_facts *f, tn_arena *a,
                           tn_sampler *out, tn_err *err)
{
    tn_sampler s = {.base = {.repetition = 1}};
    bans *b = calloc(1, sizeof *b);
    if (b == NULL)
        return tn_fail(err, TN_NO_MEMORY, "request: no memory for its bad_words");
    numbers_build(ask, &f->defaults, &s);
    tn_status st = seed_build(ask, f, &s, err);
    if (st == TN_OK)
        st = ends_build(ask, f, a, &s, err);
    if (st == TN_OK)
        st = bans_build(ask, f, a, b, err);
    if (st == TN_OK)
        st = bias_build(ask, b, a, &s, err);
    if (st == TN_OK)
        st = mask_build(ask, f, a, &s, err);
    free(b);
    if (st == TN_OK)
        *out = s;
    return st;
}

/* -------------------------------------------------------------------------------- a step */

uint32_t tn_sampler_scratch(const tn_sampler *s)
{
    return s->nword > 0 ? s->nearly + s->nword : 0;
}

/* Whether the reply ends with all of the word but its last token. */
static bool word_is_due(const tn_word *w, const int32_t *token, uint32_t nprompt,
                        uint32_t ntoken)
{
    uint32_t lead = w->n - 1;
    return ntoken - nprompt >= lead &&
           memcmp(token + ntoken - lead, w->id, lead * sizeof *token) == 0;
}

/* Forbids `token` in a sorted list; returns its new length. */
static uint32_t bias_forbid(tn_bias *bias, uint32_t n, int32_t token)
{
    uint32_t at = n;
    while (at > 0 && bias[at - 1].token > token)
        at--;
    if (at > 0 && bias[at - 1].token == token) {
        bias[at - 1].value = NOT_ALLOWED;
        return n;
    }
    memmove(bias + at + 1, bias + at, (n - at) * sizeof *bias);
    bias[at] = (tn_bias){.token = token, .value = NOT_ALLOWED};
    return n + 1;
}

static bool bias_forbids(const tn_bias *bias, uint32_t n, int32_t token)
{
    uint32_t low = 0, high = n;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (bias[mid].token < token)
            low = mid + 1;
        else
            high = mid;
    }
    return low < n && bias[low].token == token && bias[low].value == NOT_ALLOWED;
}

static void words_forbid(const tn_sampler *s, const int32_t *token, uint32_t nprompt,
                         uint32_t ntoken, tn_bias *scratch, tn_sampling *out)
{
    const tn_bias *bias = out->bias;
    uint32_t n = out->nbias, left = s->nleft;
    for (uint32_t i = 0; i < s->nword; i++) {
        const tn_word *w = &s->word[i];
        int32_t last = w->id[w->n - 1];
        if (!word_is_due(w, token, nprompt, ntoken) || bias_forbids(bias, n, last))
            continue;
        if (s->mask != NULL && mask_has(s->mask, last) && left-- == 1)
            return; /* nothing would be left to say: then the words may be said */
        if (bias != scratch && n > 0)
            memcpy(scratch, bias, n * sizeof *scratch);
        bias = scratch;
        n = bias_forbid(scratch, n, last);
    }
    out->bias = bias;
    out->nbias = n;
}

void tn_sampler_fill(const tn_sampler *s, uint32_t choice, const int32_t *token,
                     uint32_t nprompt, uint32_t ntoken, tn_bias *scratch, tn_sampling *out)
{
    uint32_t nreply = ntoken - nprompt;
    *out = s->base;
    out->seed = s->seed + choice;
    out->draw = nreply;
    if (s->penalties) {
        out->history = token;
        out->nhistory = ntoken;
        out->nprompt = nprompt;
    }
    bool early = nreply < s->min_tokens;
    out->bias = early ? s->early : s->bias;
    out->nbias = early ? s->nearly : s->nbias;
    out->mask = s->mask;
    if (s->nword > 0)
        words_forbid(s, token, nprompt, ntoken, scratch, out);
}
