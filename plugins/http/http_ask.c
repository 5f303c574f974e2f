/* SPDX-License-Identifier: Apache-2.0 */
/* http_ask.c - the JSON body of a generation request, checked for shape.
 *
 * Types are checked here, ranges by the core's submit, which every frontend shares. A null is
 * as if the field were absent; a field that is unknown is ignored unless `strict` is set. */
#include "http.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define USER_MAX 1024u
#define METADATA_MAX 16u
#define LIST_MAX 4096u       /* entries of any list of ids; the core's own limits are lower */

static const char *const known_fields[] = {
    "model", "messages", "prompt", "temperature", "top_p", "top_k", "min_p", "presence_penalty",
    "frequency_penalty", "repetition_penalty", "n", "best_of", "seed", "stop", "stop_token_ids",
    "include_stop_str_in_output", "ignore_eos", "min_tokens", "max_tokens",
    "max_completion_tokens", "logit_bias", "allowed_token_ids", "bad_words",
    "skip_special_tokens", "spaces_between_special_tokens", "truncate_prompt_tokens",
    "prompt_logprobs", "return_tokens_as_token_ids", "return_token_ids", "request_id",
    "cache_salt", "logprobs", "top_logprobs", "stream", "stream_options", "response_format",
    "tools", "tool_choice", "parallel_tool_calls", "add_generation_prompt",
    "continue_final_message", "add_special_tokens", "chat_template_kwargs", "echo", "suffix",
    "user", "metadata", "store", "service_tier", "reasoning_effort", "include_reasoning",
    "priority", "documents", "chat_template", "typical_p", "length_penalty", "use_beam_search",
    "structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar",
};

tn_status http_refuse(tn_err *err, const char *code, const char *param, const char *fmt, ...)
{
    int n = snprintf(err->text, sizeof err->text, "%s%s", param, param[0] != 0 ? ": " : "");
    size_t at = n > 0 && (size_t)n < sizeof err->text ? (size_t)n : 0;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(err->text + at, sizeof err->text - at, fmt, ap);
    va_end(ap);
    snprintf(err->code, sizeof err->code, "%s", code);
    snprintf(err->param, sizeof err->param, "%s", param);
    return TN_REFUSED;
}

static const char *type_of(const tn_json *v)
{
    static const char *const name[] = {"null", "false", "true", "an integer", "a number",
                                       "a string", "a list", "an object"};
    return v->type < sizeof name / sizeof *name ? name[v->type] : "unknown";
}

static tn_status wrong_type(tn_err *err, const char *key, const tn_json *v, const char *wanted)
{
    return http_refuse(err, "wrong_type", key, "%s; expected %s", type_of(v), wanted);
}

static const tn_json *present(const tn_json *o, const char *key)
{
    const tn_json *v = tn_json_find(o, key);
    return v != NULL && v->type != TN_JSON_NULL ? v : NULL;
}

bool http_is_text(const tn_json *v, const char *text)
{
    size_t n = strlen(text);
    return v->type == TN_JSON_TEXT && v->count == n && memcmp(v->text, text, n) == 0;
}

tn_status http_get_bool(const tn_json *o, const char *key, bool *out, tn_err *err)
{
    const tn_json *v = present(o, key);
    if (v == NULL)
        return TN_OK;
    if (v->type != TN_JSON_TRUE && v->type != TN_JSON_FALSE)
        return wrong_type(err, key, v, "true or false");
    *out = v->type == TN_JSON_TRUE;
    return TN_OK;
}

tn_status http_get_int(const tn_json *o, const char *key, int64_t *out, tn_err *err)
{
    const tn_json *v = present(o, key);
    if (v == NULL)
        return TN_OK;
    if (v->type == TN_JSON_FLOAT && v->f == floor(v->f) && fabs(v->f) > 9e18)
        return http_refuse(err, "value_out_of_range", key, "%g; expected a 64-bit integer", v->f);
    if (v->type != TN_JSON_INT)
        return wrong_type(err, key, v, "an integer");
    *out = v->i;
    return TN_OK;
}

/* Ranges end at whole numbers: what rounds to one stays on its own side of it, so that
 * 2.00000001 is above 2 and -1e-300 below 0. 1e308 becomes infinity. */
static float to_float(double v)
{
    float f = (float)v;
    if (!isfinite(f) || f != floorf(f) || (double)f == v)
        return f;
    return nextafterf(f, v > (double)f ? INFINITY : -INFINITY);
}

tn_status http_get_float(const tn_json *o, const char *key, float *out, tn_err *err)
{
    const tn_json *v = present(o, key);
    if (v == NULL)
        return TN_OK;
    if (v->type != TN_JSON_INT && v->type != TN_JSON_FLOAT)
        return wrong_type(err, key, v, "a number");
    *out = to_float(v->f);
    return TN_OK;
}

tn_status http_get_text(const tn_json *o, const char *key, const char **out, tn_err *err)
{
    const tn_json *v = present(o, key);
    if (v == NULL)
        return TN_OK;
    if (v->type != TN_JSON_TEXT)
        return wrong_type(err, key, v, "a string");
    if (strlen(v->text) != v->count)
        return http_refuse(err, "value_out_of_range", key, "holds U+0000; expected text without "
                           "it");
    *out = v->text;
    return TN_OK;
}

void *http_ask_keep(http_ask *a, void *p)
{
    if (p == NULL || a->nblock == sizeof a->block / sizeof *a->block) {
        free(p);
        return NULL;
    }
    a->block[a->nblock++] = p;
    return p;
}

static tn_status no_memory(tn_err *err)
{
    return tn_fail(err, TN_NO_MEMORY, "no memory for the request");
}

/* A list of token ids; *n stays 0 when absent. */
static tn_status get_ids(http_ask *a, const char *key, const int32_t **out, uint32_t *n,
                         bool may_be_empty, tn_err *err)
{
    const tn_json *v = present(a->body, key);
    if (v == NULL)
        return TN_OK;
    if (v->type != TN_JSON_LIST)
        return wrong_type(err, key, v, "a list of token ids");
    if (v->count > LIST_MAX || (v->count == 0 && !may_be_empty))
        return http_refuse(err, "value_out_of_range", key, "%u entries; expected 1 to %u",
                           v->count, LIST_MAX);
    int32_t *ids = http_ask_keep(a, calloc(v->count + 1u, sizeof *ids));
    if (ids == NULL)
        return no_memory(err);
    for (const tn_json *e = v->child; e != NULL; e = e->next) {
        if (e->type != TN_JSON_INT)
            return wrong_type(err, key, e, "a token id");
        if (e->i < 0 || e->i > INT32_MAX)
            return http_refuse(err, "value_out_of_range", key, "%lld; expected a token id",
                               (long long)e->i);
        ids[(*n)++] = (int32_t)e->i;
    }
    *out = ids;
    return TN_OK;
}

/* A text or a list of texts. */
static tn_status get_texts(http_ask *a, const char *key, const char *const **out, uint32_t *n,
                           tn_err *err)
{
    const tn_json *v = present(a->body, key);
    if (v == NULL)
        return TN_OK;
    bool list = v->type == TN_JSON_LIST;
    if (!list && v->type != TN_JSON_TEXT)
        return wrong_type(err, key, v, "a string or a list of strings");
    if (list && v->count > LIST_MAX)
        return http_refuse(err, "value_out_of_range", key, "%u entries; expected fewer",
                           v->count);
    const char **texts = http_ask_keep(a, calloc(list ? v->count + 1u : 1u, sizeof *texts));
    if (texts == NULL)
        return no_memory(err);
    for (const tn_json *e = list ? v->child : v; e != NULL; e = list ? e->next : NULL) {
        if (e->type != TN_JSON_TEXT)
            return wrong_type(err, key, e, "a string");
        if (strlen(e->text) != e->count)
            return http_refuse(err, "value_out_of_range", key, "holds U+0000; expected text "
                               "without it");
        texts[(*n)++] = e->text;
    }
    *out = texts;
    return TN_OK;
}

static int by_token(const void *a, const void *b)
{
    int32_t x = ((const tn_bias *)a)->token, y = ((const tn_bias *)b)->token;
    return (x > y) - (x < y);
}

/* {"token id": bias}: keys are decimal ids. */
static tn_status get_bias(http_ask *a, tn_err *err)
{
    const tn_json *v = present(a->body, "logit_bias");
    if (v == NULL)
        return TN_OK;
    if (v->type != TN_JSON_OBJECT)
        return wrong_type(err, "logit_bias", v, "an object from token ids to numbers");
    if (v->count > LIST_MAX)
        return http_refuse(err, "value_out_of_range", "logit_bias", "%u entries; expected fewer",
                           v->count);
    tn_bias *bias = http_ask_keep(a, calloc(v->count + 1u, sizeof *bias));
    if (bias == NULL)
        return no_memory(err);
    uint32_t n = 0;
    for (const tn_json *e = v->child; e != NULL; e = e->next, n++) {
        int64_t id = 0;
        bool digits = e->key_size > 0 && e->key_size <= 10;
        for (uint32_t i = 0; digits && i < e->key_size; i++) {
            digits = e->key[i] >= '0' && e->key[i] <= '9';
            id = id * 10 + (e->key[i] - '0');
        }
        if (!digits || id > INT32_MAX)
            return http_refuse(err, "value_out_of_range", "logit_bias", "key \"%.64s\"; expected "
                               "a token id", e->key);
        if (e->type != TN_JSON_INT && e->type != TN_JSON_FLOAT)
            return wrong_type(err, "logit_bias", e, "a number");
        bias[n] = (tn_bias){.token = (int32_t)id, .value = to_float(e->f)};
    }
    qsort(bias, n, sizeof *bias, by_token);
    for (uint32_t i = 1; i < n; i++)
        if (bias[i].token == bias[i - 1].token)
            return http_refuse(err, "duplicate_key", "logit_bias", "token %d is named twice; "
                               "expected each once", bias[i].token);
    a->ask.bias = bias;
    a->ask.nbias = n;
    return TN_OK;
}

/* max_tokens and its newer name; both may be given when they agree. */
static tn_status get_max_tokens(http_ask *a, tn_err *err)
{
    const tn_json *body = a->body;
    bool has_new = a->chat && present(body, "max_completion_tokens") != NULL;
    bool has_old = present(body, "max_tokens") != NULL;
    int64_t old = 0, new = 0;
    tn_status st = http_get_int(body, "max_tokens", &old, err);
    if (st == TN_OK && has_new)
        st = http_get_int(body, "max_completion_tokens", &new, err);
    if (st != TN_OK)
        return st;
    if (has_old && has_new && old != new)
        return http_refuse(err, "value_out_of_range", "max_tokens", "%lld; expected the same as "
                           "max_completion_tokens, %lld", (long long)old, (long long)new);
    const char *key = has_new ? "max_completion_tokens" : "max_tokens";
    int64_t v = has_new ? new : old;
    if (!has_new && !has_old) {
        a->ask.max_tokens = a->chat ? -1 : 16;
        return TN_OK;
    }
    if (v < (a->chat ? 1 : 0))
        return http_refuse(err, "value_out_of_range", key, "%lld; expected at least 1",
                           (long long)v);
    a->ask.max_tokens = v;
    return TN_OK;
}

static tn_status get_counts(http_ask *a, tn_err *err)
{
    const tn_json *body = a->body;
    bool has_best = present(body, "best_of") != NULL, has_top_k = present(body, "top_k") != NULL;
    int64_t n = 1, best = 1, top_k = INT32_MIN, priority = 0;
    tn_status st = http_get_int(body, "n", &n, err);
    if (st == TN_OK)
        st = http_get_int(body, "best_of", &best, err);
    if (st == TN_OK)
        st = http_get_int(body, "top_k", &top_k, err);
    if (st == TN_OK)
        st = http_get_int(body, "priority", &priority, err);
    if (st == TN_OK)
        st = http_get_int(body, "min_tokens", &a->ask.min_tokens, err);
    if (st != TN_OK)
        return st;
    if (n < 1 || n > HTTP_CHOICES_MAX)
        return http_refuse(err, "value_out_of_range", "n", "%lld; expected 1 to %u",
                           (long long)n, HTTP_CHOICES_MAX);
    if (has_best && best != n)
        return http_refuse(err, "value_out_of_range", "best_of", "%lld; expected n, %lld",
                           (long long)best, (long long)n);
    if (has_top_k && (top_k < -1 || top_k > INT32_MAX))
        return http_refuse(err, "value_out_of_range", "top_k", "%lld; expected -1 or more",
                           (long long)top_k);
    if (priority != 0)
        return http_refuse(err, "value_out_of_range", "priority", "%lld; expected 0: requests "
                           "are served in the order they come", (long long)priority);
    a->ask.n = (uint32_t)n;
    a->ask.top_k = (int32_t)top_k;
    return TN_OK;
}

static tn_status get_seed(http_ask *a, tn_err *err)
{
    int64_t seed = -1;
    tn_status st = http_get_int(a->body, "seed", &seed, err);
    if (st != TN_OK)
        return st;
    if (seed < -1)
        return http_refuse(err, "value_out_of_range", "seed", "%lld; expected -1 (random) to "
                           "2^63 - 1", (long long)seed);
    a->ask.has_seed = seed >= 0;
    a->ask.seed = seed;
    return TN_OK;
}

static tn_status get_sampling(http_ask *a, tn_err *err)
{
    static const struct { const char *key; size_t at; } number[] = {
        {"temperature", offsetof(tn_ask, temperature)},
        {"top_p", offsetof(tn_ask, top_p)},
        {"min_p", offsetof(tn_ask, min_p)},
        {"repetition_penalty", offsetof(tn_ask, repetition)},
        {"frequency_penalty", offsetof(tn_ask, frequency)},
        {"presence_penalty", offsetof(tn_ask, presence)},
    };
    for (size_t i = 0; i < sizeof number / sizeof *number; i++) {
        float *to = (float *)((char *)&a->ask + number[i].at);
        *to = NAN;
        tn_status st = http_get_float(a->body, number[i].key, to, err);
        if (st != TN_OK)
            return st;
    }
    float typical = 1;
    tn_status st = http_get_float(a->body, "typical_p", &typical, err);
    if (st == TN_OK && typical != 1)
        st = http_refuse(err, "unsupported", "typical_p", "%g; expected 1: it is not offered",
                         (double)typical);
    return st;
}

static tn_status get_switches(http_ask *a, tn_err *err)
{
    bool ignore_eos = false, keep_stop = false, skip_special = true, spaces = true;
    const tn_json *b = a->body;
    tn_status st = http_get_bool(b, "ignore_eos", &ignore_eos, err);
    if (st == TN_OK)
        st = http_get_bool(b, "include_stop_str_in_output", &keep_stop, err);
    if (st == TN_OK)
        st = http_get_bool(b, "skip_special_tokens", &skip_special, err);
    if (st == TN_OK)
        st = http_get_bool(b, "spaces_between_special_tokens", &spaces, err);
    if (st == TN_OK)
        st = http_get_bool(b, "echo", &a->echo, err);
    if (st == TN_OK)
        st = http_get_bool(b, "return_token_ids", &a->token_ids, err);
    if (st == TN_OK)
        st = http_get_bool(b, "return_tokens_as_token_ids", &a->tokens_as_ids, err);
    a->ask.flags |= (ignore_eos ? TN_ASK_IGNORE_EOS : 0) | (keep_stop ? TN_ASK_KEEP_STOP : 0) |
                    (skip_special ? 0 : TN_ASK_KEEP_SPECIAL) |
                    (a->token_ids ? TN_ASK_PROMPT_IDS : 0);
    return st;
}

static tn_status get_stream(http_ask *a, tn_err *err)
{
    tn_status st = http_get_bool(a->body, "stream", &a->stream, err);
    const tn_json *o = present(a->body, "stream_options"), *best = present(a->body, "best_of");
    if (st == TN_OK && a->stream && best != NULL && best->i > 1)
        return http_refuse(err, "value_out_of_range", "best_of", "%lld with stream; expected 1, or "
                           "a request that does not stream", (long long)best->i);
    if (st != TN_OK || o == NULL)
        return st;
    if (o->type != TN_JSON_OBJECT)
        return wrong_type(err, "stream_options", o, "an object");
    if (!a->stream)
        return http_refuse(err, "value_out_of_range", "stream_options", "given without stream; "
                           "expected stream true");
    st = http_get_bool(o, "include_usage", &a->include_usage, err);
    if (st == TN_OK)
        st = http_get_bool(o, "continuous_usage_stats", &a->continuous_usage, err);
    return st;
}

/* chat: logprobs is a switch and top_logprobs a number; completions: logprobs is the number. */
static tn_status get_logprobs(http_ask *a, tn_err *err)
{
    bool on = false, has_prompt = present(a->body, "prompt_logprobs") != NULL;
    int64_t top = 0, prompt = 0;
    tn_status st = http_get_int(a->body, "prompt_logprobs", &prompt, err);
    if (st == TN_OK && a->chat) {
        st = http_get_bool(a->body, "logprobs", &on, err);
        if (st == TN_OK)
            st = http_get_int(a->body, "top_logprobs", &top, err);
        if (st == TN_OK && top != 0 && !on)
            return http_refuse(err, "value_out_of_range", "top_logprobs", "%lld; expected "
                               "logprobs true beside it", (long long)top);
    } else if (st == TN_OK && present(a->body, "logprobs") != NULL) {
        on = true;
        st = http_get_int(a->body, "logprobs", &top, err);
    }
    if (st != TN_OK)
        return st;
    const char *key = a->chat ? "top_logprobs" : "logprobs";
    if (top < 0 || top > INT32_MAX)
        return http_refuse(err, "value_out_of_range", key, "%lld; expected 0 or more",
                           (long long)top);
    if (has_prompt && (prompt < 0 || prompt > INT32_MAX))
        return http_refuse(err, "value_out_of_range", "prompt_logprobs", "%lld; expected 0 or "
                           "more", (long long)prompt);
    if (has_prompt && a->stream)
        return http_refuse(err, "value_out_of_range", "prompt_logprobs", "given with stream; "
                           "expected a request that does not stream");
    a->ask.logprobs = a->logprobs = on ? (int32_t)top : -1;
    a->ask.prompt_logprobs = has_prompt ? (int32_t)prompt : -1;
    return TN_OK;
}

static tn_status get_names(http_ask *a, tn_err *err)
{
    const char *user = NULL;
    tn_status st = http_get_text(a->body, "model", &a->ask.model, err);
    if (st == TN_OK)
        st = http_get_text(a->body, "user", &user, err);
    if (st != TN_OK)
        return st;
    if (user != NULL && strlen(user) > USER_MAX)
        return http_refuse(err, "value_out_of_range", "user", "%zu bytes; expected at most %u",
                           strlen(user), USER_MAX);
    const tn_json *meta = present(a->body, "metadata");
    if (meta != NULL && meta->type != TN_JSON_OBJECT)
        return wrong_type(err, "metadata", meta, "an object");
    if (meta != NULL && meta->count > METADATA_MAX)
        return http_refuse(err, "value_out_of_range", "metadata", "%u keys; expected at most %u",
                           meta->count, METADATA_MAX);
    return TN_OK;
}

/* What would shape the reply and is not offered is refused: left out in silence, it would give
 * a reply that looks as if it had been obeyed. */
static tn_status refuse_unoffered(const http_ask *a, tn_err *err)
{
    static const char *const constraints[] = {"structured_outputs", "guided_json", "guided_regex",
                                              "guided_choice", "guided_grammar"};
    const tn_json *format = present(a->body, "response_format"), *type = present(format, "type");
    bool beams = false;
    if (format != NULL && (type == NULL || type->type != TN_JSON_TEXT))
        return http_refuse(err, "missing_field", "response_format", "no type; expected "
                           "{\"type\": \"text\"}");
    if (format != NULL && !http_is_text(type, "text"))
        return http_refuse(err, "unsupported", "response_format", "\"%.64s\"; expected \"text\": "
                           "constrained output is not offered", type->text);
    for (size_t i = 0; i < sizeof constraints / sizeof *constraints; i++)
        if (present(a->body, constraints[i]) != NULL)
            return http_refuse(err, "unsupported", constraints[i], "given; expected none: "
                               "constrained output is not offered");
    tn_status st = http_get_bool(a->body, "use_beam_search", &beams, err);
    if (st == TN_OK && beams)
        return http_refuse(err, "unsupported", "use_beam_search", "true; expected false: it is "
                           "not offered");
    return st;
}

static tn_status get_common(http_ask *a, tn_err *err)
{
    tn_ask *k = &a->ask;
    tn_status st = get_names(a, err);
    if (st == TN_OK)
        st = refuse_unoffered(a, err);
    if (st == TN_OK)
        st = get_counts(a, err);
    if (st == TN_OK)
        st = get_max_tokens(a, err);
    if (st == TN_OK)
        st = get_sampling(a, err);
    if (st == TN_OK)
        st = get_seed(a, err);
    if (st == TN_OK)
        st = get_switches(a, err);
    if (st == TN_OK)
        st = get_stream(a, err);
    if (st == TN_OK)
        st = get_logprobs(a, err);
    if (st == TN_OK)
        st = get_texts(a, "stop", &k->stop, &k->nstop, err);
    if (st == TN_OK)
        st = get_texts(a, "bad_words", &k->bad_words, &k->nbad_words, err);
    if (st == TN_OK)
        st = get_ids(a, "stop_token_ids", &k->stop_token, &k->nstop_token, true, err);
    if (st == TN_OK)
        st = get_ids(a, "allowed_token_ids", &k->allowed, &k->nallowed, false, err);
    if (st == TN_OK)
        st = get_bias(a, err);
    return st;
}

/* A stranger's key as errors show it: its first 64 bytes in whole characters, none of them a
 * control character. */
static void show_key(const tn_json *m, char shown[65])
{
    size_t n = 0;
    while (n < m->key_size) {
        size_t len = http_utf8_len(m->key + n, m->key_size - n);
        unsigned char c = (unsigned char)m->key[n];
        if (len == 0 || n + len > 64)
            break;
        memcpy(shown + n, c < 0x20 || c == 0x7f ? "?" : m->key + n, len);
        n += len;
    }
    shown[n] = 0;
}

tn_status http_check_known(const tn_json *body, const char *const *known, size_t n, tn_err *err)
{
    for (const tn_json *m = body->child; m != NULL; m = m->next) {
        bool found = false;
        char shown[65];
        for (size_t i = 0; !found && i < n; i++)
            found = m->key_size == strlen(known[i]) && memcmp(m->key, known[i], m->key_size) == 0;
        if (found)
            continue;
        show_key(m, shown);
        return http_refuse(err, "unknown_field", shown, "unknown field; expected one that is "
                           "documented");
    }
    return TN_OK;
}

static bool is_id(const tn_json *v)
{
    return v->type == TN_JSON_INT;
}

/* prompt: a text, a list of texts, a list of ids, or a list of lists of ids. */
static tn_status get_prompts(http_ask *a, tn_err *err)
{
    const tn_json *p = present(a->body, "prompt");
    if (p == NULL)
        return http_refuse(err, "missing_field", "prompt", "missing; expected a text, a list of "
                           "texts, or token ids");
    bool list = p->type == TN_JSON_LIST;
    if (!list && p->type != TN_JSON_TEXT)
        return wrong_type(err, "prompt", p, "a text, a list of texts, or token ids");
    if (list && p->count == 0)
        return http_refuse(err, "value_out_of_range", "prompt", "empty list; expected at least "
                           "one entry");
    if (!list || is_id(p->child)) {
        a->prompt[a->nprompt++] = p;
        return TN_OK;
    }
    if (p->count > HTTP_PROMPTS_MAX)
        return http_refuse(err, "value_out_of_range", "prompt", "%u prompts; expected at most %u",
                           p->count, HTTP_PROMPTS_MAX);
    for (const tn_json *e = p->child; e != NULL; e = e->next) {
        if (e->type != p->child->type || (e->type != TN_JSON_TEXT && e->type != TN_JSON_LIST))
            return wrong_type(err, "prompt", e, "all texts or all lists of token ids");
        a->prompt[a->nprompt++] = e;
    }
    return TN_OK;
}

tn_status http_ask_prompt(http_ask *a, uint32_t i, tn_err *err)
{
    const tn_json *p = a->prompt[i];
    tn_prompt *out = &a->ask.prompt;
    if (p->type == TN_JSON_TEXT) {
        if (p->count == 0)
            return http_refuse(err, "value_out_of_range", "prompt", "empty; expected text");
        out->kind = TN_PROMPT_TEXT;
        out->text = p->text;
        out->text_size = p->count;
        return TN_OK;
    }
    if (p->count == 0)
        return http_refuse(err, "value_out_of_range", "prompt", "empty list; expected token ids");
    int32_t *ids = malloc(p->count * sizeof *ids);
    if (ids == NULL)
        return no_memory(err);
    uint64_t n = 0;
    for (const tn_json *e = p->child; e != NULL; e = e->next) {
        if (e->type != TN_JSON_INT || e->i < 0 || e->i > INT32_MAX) {
            free(ids);
            return e->type != TN_JSON_INT
                       ? wrong_type(err, "prompt", e, "a token id")
                       : http_refuse(err, "value_out_of_range", "prompt", "%lld; expected a "
                                     "token id", (long long)e->i);
        }
        ids[n++] = (int32_t)e->i;
    }
    free((void *)out->ids); /* of the prompt before; submit has copied them */
    out->kind = TN_PROMPT_IDS;
    out->ids = ids;
    out->nid = n;
    return TN_OK;
}

static tn_status get_completion(http_ask *a, tn_err *err)
{
    const tn_json *suffix = present(a->body, "suffix");
    bool add_special = true;
    if (suffix != NULL)
        return http_refuse(err, "unsupported", "suffix", "given; expected none: filling in the "
                           "middle is not offered");
    tn_status st = http_get_bool(a->body, "add_special_tokens", &add_special, err);
    if (st == TN_OK)
        st = get_prompts(a, err);
    if (st != TN_OK)
        return st;
    a->ask.prompt.add_special = add_special;
    if (a->echo) {
        a->ask.flags |= TN_ASK_ECHO;
        if (a->logprobs >= 0 && a->ask.prompt_logprobs < a->logprobs)
            a->ask.prompt_logprobs = a->logprobs;
    }
    return TN_OK;
}

static tn_status get_truncate(http_ask *a, tn_err *err)
{
    int64_t keep = 0;
    tn_status st = http_get_int(a->body, "truncate_prompt_tokens", &keep, err);
    if (st != TN_OK)
        return st;
    if (keep < -1 || keep > INT32_MAX)
        return http_refuse(err, "value_out_of_range", "truncate_prompt_tokens", "%lld; expected "
                           "-1 or more", (long long)keep);
    a->ask.prompt.truncate = keep == -1 ? UINT32_MAX : (uint32_t)keep;
    return TN_OK;
}

tn_status http_ask_open(http_server *s, const char *body, size_t size, bool chat, http_ask *a,
                        tn_err *err)
{
    *a = (http_ask){.chat = chat, .logprobs = -1};
    a->ask = (tn_ask){.size = sizeof a->ask, .prompt = {.size = sizeof a->ask.prompt}};
    tn_status st = s->h->json_open(s->h->ctx, body, size, "body", HTTP_JSON_DEPTH, &a->doc, err);
    if (st != TN_OK)
        return st == TN_DATA ? TN_REFUSED : st;
    a->body = s->h->json_root(s->h->ctx, a->doc);
    if (a->body->type != TN_JSON_OBJECT)
        return http_refuse(err, "invalid_json", "", "body: %s; expected an object",
                           type_of(a->body));
    if (s->opt.strict)
        st = http_check_known(a->body, known_fields, sizeof known_fields / sizeof *known_fields,
                              err);
    if (st == TN_OK)
        st = get_common(a, err);
    if (st == TN_OK)
        st = get_truncate(a, err);
    if (st != TN_OK)
        return st;
    if (!chat)
        return get_completion(a, err);
    a->nprompt = 1;
    return http_chat_shape(s, a, &a->ask.prompt, err);
}

void http_ask_close(http_server *s, http_ask *a)
{
    for (uint32_t i = 0; i < a->nblock; i++)
        free(a->block[i]);
    free((void *)a->ask.prompt.ids);
    if (a->doc != NULL)
        s->h->json_close(s->h->ctx, a->doc);
    *a = (http_ask){0};
}
