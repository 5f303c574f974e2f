/* SPDX-License-Identifier: Apache-2.0 */
/* http_reply.c - pieces become JSON: one object at the end, or events as they come. */
#include "http.h"

#include <stdio.h>
#include <string.h>

static const char *finish_name(uint32_t finish)
{
    switch (finish) {
    case TN_FINISH_STOP: return "stop";
    case TN_FINISH_LENGTH: return "length";
    case TN_FINISH_ABORT: return "abort";
    default: return "error";
    }
}

static void put_finish(const http_choice *ch, http_text *out)
{
    http_text_puts(out, "\"finish_reason\":");
    if (ch->finish == TN_FINISH_NONE)
        http_text_puts(out, "null");
    else if (ch->finish == TN_FINISH_STOP && ch->speech.nwhole > 0)
        http_text_puts(out, "\"tool_calls\"");
    else
        http_text_printf(out, "\"%s\"", finish_name(ch->finish));
    http_text_puts(out, ",\"stop_reason\":");
    if (ch->stop_kind == 1)
        http_text_printf(out, "%d", ch->stop_token);
    else if (ch->stop_kind == 2)
        http_text_json(out, ch->stop_text.data, ch->stop_text.len);
    else
        http_text_puts(out, "null");
}

static void put_head(const http_call *c, const char *object, http_text *out)
{
    http_text_printf(out, "{\"id\":\"%s-", c->a.chat ? "chatcmpl" : "cmpl");
    http_text_puts(out, c->id);
    http_text_printf(out, "\",\"object\":\"%s\",\"created\":%lld,\"model\":", object,
                     (long long)c->created);
    http_text_json(out, c->model, strlen(c->model));
}

static void put_usage(const http_call *c, http_text *out)
{
    uint64_t prompt = 0, reply = 0, cached = 0;
    for (uint32_t i = 0; i < c->npart; i++) {
        prompt += c->part[i].prompt_tokens;
        reply += c->part[i].reply_tokens;
        cached += c->part[i].cached_tokens;
    }
    http_text_printf(out, "\"usage\":{\"prompt_tokens\":%llu,\"total_tokens\":%llu,"
                     "\"completion_tokens\":%llu,\"prompt_tokens_details\":",
                     (unsigned long long)prompt, (unsigned long long)(prompt + reply),
                     (unsigned long long)reply);
    if (c->s->opt.usage_details)
        http_text_printf(out, "{\"cached_tokens\":%llu}}", (unsigned long long)cached);
    else
        http_text_puts(out, "null}");
}

static const char *chunk_object(const http_call *c)
{
    return c->a.chat ? "chat.completion.chunk" : "text_completion";
}

static void event_open(http_call *c)
{
    http_text_puts(&c->out, "data: ");
    put_head(c, chunk_object(c), &c->out);
    http_text_puts(&c->out, ",\"choices\":[");
}

static void event_close(http_call *c, bool usage)
{
    http_text_puts(&c->out, "]");
    if (usage) {
        http_text_puts(&c->out, ",");
        put_usage(c, &c->out);
    } else if (c->a.include_usage) {
        http_text_puts(&c->out, ",\"usage\":null");
    }
    http_text_puts(&c->out, "}\n\n");
}

static void put_role_event(http_call *c, uint32_t i)
{
    event_open(c);
    http_text_printf(&c->out, "{\"index\":%u,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},"
                     "\"logprobs\":null,\"finish_reason\":null}", i);
    event_close(c, false);
}

void http_reply_begin(http_call *c)
{
    c->begun_stream = true;
    for (uint32_t i = 0; c->a.chat && i < c->nchoice; i++)
        put_role_event(c, i);
    c->spoke_ns = http_now(c->s);
}

static void put_ids(const tn_piece *p, http_text *out)
{
    for (uint32_t i = 0; i < p->ntoken; i++)
        http_text_printf(out, "%s%d", out->len > 0 && out->data[out->len - 1] != '[' ? "," : "",
                         p->token[i].self.token);
}

/* What stands behind an event's text: the tokens, and whether the choice has ended. */
static void put_behind(http_call *c, http_choice *ch, const tn_piece *p)
{
    http_text_puts(&c->out, ",");
    if (p->ntoken > 0 || (c->a.echo && p->nprompt > 0 && c->a.logprobs >= 0))
        http_token_close(c, &ch->logprobs, &c->out);
    else
        http_text_puts(&c->out, "\"logprobs\":null");
    ch->logprobs.len = 0;
    http_text_puts(&c->out, ",");
    put_finish(ch, &c->out);
    if (c->a.token_ids) {
        http_text_puts(&c->out, ",\"token_ids\":[");
        put_ids(p, &c->out);
        http_text_puts(&c->out, "]");
    }
}

/* An event of one delta; the last one of a piece also says what is behind it. */
static void put_delta(http_call *c, http_choice *ch, uint32_t index, const char *delta,
                      const tn_piece *last)
{
    event_open(c);
    http_text_printf(&c->out, "{\"index\":%u,\"delta\":", index);
    http_text_puts(&c->out, delta);
    if (last != NULL)
        put_behind(c, ch, last);
    else
        http_text_puts(&c->out, ",\"logprobs\":null,\"finish_reason\":null");
    http_text_puts(&c->out, "}");
    event_close(c, c->a.continuous_usage);
}

/* An event for each delta of the piece; one without text when there is none. */
static void put_deltas(http_call *c, http_choice *ch, uint32_t index, const tn_piece *p)
{
    http_text *deltas = &ch->speech.deltas;
    if (deltas->len == 0)
        put_delta(c, ch, index, "{\"content\":\"\"}", p);
    for (size_t at = 0; at < deltas->len;) {
        size_t next = at + strlen(deltas->data + at) + 1;
        put_delta(c, ch, index, deltas->data + at, next < deltas->len ? NULL : p);
        at = next;
    }
    deltas->len = 0;
}

static void put_text(http_call *c, http_choice *ch, uint32_t index, const tn_piece *p)
{
    event_open(c);
    http_text_printf(&c->out, "{\"index\":%u,\"text\":", index);
    http_text_json(&c->out, p->text, p->text_size);
    put_behind(c, ch, p);
    http_text_puts(&c->out, "}");
    event_close(c, c->a.continuous_usage);
}

/* A piece without text, tokens to report or an end says nothing. */
static void put_events(http_call *c, http_choice *ch, uint32_t index, const tn_piece *p)
{
    bool reports = c->a.logprobs >= 0 || c->a.token_ids;
    size_t size = c->a.chat ? ch->speech.deltas.len : p->text_size;
    if (size == 0 && p->finish == TN_FINISH_NONE && !(reports && p->ntoken > 0))
        return;
    if (c->a.chat)
        put_deltas(c, ch, index, p);
    else
        put_text(c, ch, index, p);
    c->spoke_ns = http_now(c->s);
}

/* The text of a chat's choice goes through its speech. */
static void gather_speech(http_call *c, http_choice *ch, const tn_piece *p)
{
    http_speech_put(&ch->speech, p->text, p->text_size);
    if (p->finish == TN_FINISH_STOP || p->finish == TN_FINISH_LENGTH)
        http_speech_end(&ch->speech);
    if (http_speech_has_failed(&ch->speech))
        c->out.failed = true;
}

static void gather(http_call *c, http_part *part, http_choice *ch, const tn_piece *p)
{
    part->prompt_tokens = p->prompt_tokens;
    part->cached_tokens = p->cached_tokens;
    part->reply_tokens = p->reply_tokens;
    if (p->nprompt > 0)
        http_token_prompt(c, part, p->prompt, p->nprompt);
    if (c->a.logprobs >= 0) {
        for (uint64_t i = 0; c->a.echo && i < p->nprompt; i++)
            http_token_gather(c, ch, &p->prompt[i], &ch->logprobs);
        for (uint32_t i = 0; i < p->ntoken; i++)
            http_token_gather(c, ch, &p->token[i], &ch->logprobs);
    }
    if (p->finish != TN_FINISH_NONE && ch->finish == TN_FINISH_NONE) {
        ch->finish = p->finish;
        ch->stop_kind = p->stop_kind;
        ch->stop_token = p->stop_token;
        if (p->stop_kind == 2 && p->stop_text != NULL)
            http_text_puts(&ch->stop_text, p->stop_text);
        c->ndone++;
    }
    if (c->a.chat)
        gather_speech(c, ch, p);
    else if (!c->streaming)
        http_text_put(&ch->text, p->text, p->text_size);
    if (!c->streaming && c->a.token_ids)
        put_ids(p, &ch->ids);
}

/* A request that failed or was cut: before the reply began it decides the HTTP status, after
 * that it is an event without [DONE], so that nobody takes the half for the whole. */
static void take_failure(http_call *c, const tn_piece *p)
{
    if (c->st != TN_OK)
        return;
    c->st = p->status != TN_OK ? p->status : TN_INTERNAL;
    if (p->err != NULL)
        c->err = *p->err;
    else
        tn_fail(&c->err, c->st, "the request ended early");
    if (c->begun_stream)
        http_reply_error(&c->out, c->st, &c->err, true);
}

void http_reply_piece(http_call *c, http_part *part, const tn_piece *p)
{
    uint32_t index = part->index * c->a.ask.n + p->choice;
    http_choice *ch = index < c->nchoice ? &c->choice[index] : NULL;
    if (ch == NULL || c->finished)
        return;
    bool failed = p->finish == TN_FINISH_ABORT || p->finish == TN_FINISH_ERROR;
    gather(c, part, ch, p);
    if (failed) {
        take_failure(c, p);
        return;
    }
    if (!c->streaming || c->st != TN_OK)
        return;
    if (!c->begun_stream)
        http_reply_begin(c);
    put_events(c, ch, index, p);
}

void http_reply_end(http_call *c)
{
    if (c->a.include_usage) {
        http_text_puts(&c->out, "data: ");
        put_head(c, chunk_object(c), &c->out);
        http_text_puts(&c->out, ",\"choices\":[],");
        put_usage(c, &c->out);
        http_text_puts(&c->out, "}\n\n");
    }
    http_text_puts(&c->out, "data: [DONE]\n\n");
}

static void put_list_or_null(const char *key, const http_text *items, http_text *out)
{
    http_text_printf(out, ",\"%s\":", key);
    if (items->len == 0) {
        http_text_puts(out, "null");
        return;
    }
    http_text_puts(out, "[");
    http_text_put(out, items->data, items->len);
    http_text_puts(out, "]");
}

static void put_choice(http_call *c, uint32_t i)
{
    http_choice *ch = &c->choice[i];
    const http_part *part = &c->part[i / c->a.ask.n];
    http_text *out = &c->out;
    http_text_printf(out, "%s{\"index\":%u,", i > 0 ? "," : "", i);
    if (c->a.chat) {
        http_text_puts(out, "\"message\":{\"role\":\"assistant\",\"refusal\":null,"
                            "\"annotations\":null,\"audio\":null,\"function_call\":null,");
        http_speech_message(&ch->speech, out);
        http_text_puts(out, "},");
    } else {
        http_text_puts(out, "\"text\":");
        http_text_json(out, ch->text.data != NULL ? ch->text.data : "", ch->text.len);
        http_text_puts(out, ",");
    }
    http_token_close(c, &ch->logprobs, out);
    http_text_puts(out, ",");
    put_finish(ch, out);
    put_list_or_null("token_ids", &ch->ids, out);
    if (!c->a.chat) {
        put_list_or_null("prompt_logprobs", &part->prompt_logprobs, out);
        put_list_or_null("prompt_token_ids", &part->prompt_ids, out);
    }
    http_text_puts(out, "}");
}

void http_reply_whole(http_call *c)
{
    http_text *out = &c->out;
    put_head(c, c->a.chat ? "chat.completion" : "text_completion", out);
    http_text_puts(out, ",\"choices\":[");
    for (uint32_t i = 0; i < c->nchoice; i++)
        put_choice(c, i);
    http_text_puts(out, "],\"service_tier\":null,\"system_fingerprint\":null,");
    put_usage(c, out);
    if (c->a.chat) {
        put_list_or_null("prompt_logprobs", &c->part[0].prompt_logprobs, out);
        put_list_or_null("prompt_token_ids", &c->part[0].prompt_ids, out);
    }
    http_text_puts(out, ",\"kv_transfer_params\":null}");
}
