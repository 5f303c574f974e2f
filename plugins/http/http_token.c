/* SPDX-License-Identifier: Apache-2.0 */
/* http_token.c - tokens with their log-probabilities, in the two dialects.
 *
 * Chat gathers objects {token, logprob, bytes, top_logprobs}. Completions want four parallel
 * lists, so their entries are gathered as four runs separated by a byte that JSON text cannot
 * hold, and are sorted into lists when the object is closed. */
#include "http.h"

#include <math.h>
#include <string.h>

#define RUN_END "\x1e"  /* between the four parts of a completion's entry */
#define LOWEST "-9999.0"

static void put_text(const http_call *c, const tn_logprob *l, http_text *out)
{
    if (c->a.tokens_as_ids) {
        http_text_printf(out, "\"token_id:%d\"", l->token);
        return;
    }
    http_text_json(out, l->text, l->text_size);
}

static void put_bytes(const tn_logprob *l, http_text *out)
{
    http_text_puts(out, "[");
    for (uint32_t i = 0; i < l->text_size; i++)
        http_text_printf(out, "%s%u", i > 0 ? "," : "", (unsigned char)l->text[i]);
    http_text_puts(out, "]");
}

static void put_chat_entry(const http_call *c, const tn_logprob *l, http_text *out)
{
    http_text_puts(out, "{\"token\":");
    put_text(c, l, out);
    http_text_puts(out, ",\"logprob\":");
    http_text_number(out, (double)l->logprob, LOWEST);
    http_text_puts(out, ",\"bytes\":");
    put_bytes(l, out);
}

static void gather_chat(const http_call *c, const tn_token *t, http_text *out)
{
    if (out->len > 0)
        http_text_puts(out, ",");
    put_chat_entry(c, &t->self, out);
    http_text_puts(out, ",\"top_logprobs\":[");
    uint32_t n = t->ntop < (uint32_t)c->a.logprobs ? t->ntop : (uint32_t)c->a.logprobs;
    for (uint32_t i = 0; i < n; i++) {
        http_text_puts(out, i > 0 ? "," : "");
        put_chat_entry(c, &t->top[i], out);
        http_text_puts(out, "}");
    }
    http_text_puts(out, "]}");
}

/* The chosen token always stands among the alternatives; a spelling that two ids share is
 * listed once, as a JSON object must. */
static void put_top_object(const http_call *c, const tn_token *t, http_text *out)
{
    bool chosen = false, first = true;
    uint32_t n = t->ntop < (uint32_t)c->a.logprobs ? t->ntop : (uint32_t)c->a.logprobs;
    http_text_puts(out, "{");
    for (uint32_t i = 0; i <= n; i++) {
        const tn_logprob *l = i < n ? &t->top[i] : &t->self;
        bool again = i == n && chosen;
        for (uint32_t j = 0; j < i && j < n && !again; j++)
            again = t->top[j].text_size == l->text_size && !c->a.tokens_as_ids &&
                    memcmp(t->top[j].text, l->text, l->text_size) == 0;
        chosen = chosen || l->token == t->self.token;
        if (again)
            continue;
        http_text_puts(out, first ? "" : ",");
        first = false;
        put_text(c, l, out);
        http_text_puts(out, ":");
        http_text_number(out, (double)l->logprob, LOWEST);
    }
    http_text_puts(out, "}");
}

static uint64_t count_characters(const tn_logprob *l)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < l->text_size; i++)
        n += ((unsigned char)l->text[i] & 0xC0) != 0x80;
    return n;
}

static void gather_text(const http_call *c, http_choice *ch, const tn_token *t, http_text *out)
{
    bool known = !isnan(t->self.logprob);
    http_text_printf(out, "%llu" RUN_END, (unsigned long long)ch->offset);
    http_text_number(out, (double)t->self.logprob, known ? LOWEST : "null");
    http_text_puts(out, RUN_END);
    put_text(c, &t->self, out);
    http_text_puts(out, RUN_END);
    if (known)
        put_top_object(c, t, out);
    else
        http_text_puts(out, "null");
    http_text_puts(out, RUN_END);
    ch->offset += count_characters(&t->self);
}

void http_token_gather(http_call *c, http_choice *ch, const tn_token *t, http_text *out)
{
    if (c->a.chat)
        gather_chat(c, t, out);
    else
        gather_text(c, ch, t, out);
}

/* The part `which` (0..3) of every entry, as a list. */
static void put_run(const http_text *entries, uint32_t which, http_text *out)
{
    uint32_t part = 0;
    bool first = true;
    const char *at = entries->data, *end = entries->data + entries->len;
    http_text_puts(out, "[");
    while (at != NULL && at < end) {
        const char *stop = memchr(at, RUN_END[0], (size_t)(end - at));
        if (stop == NULL)
            break;
        if (part == which) {
            http_text_puts(out, first ? "" : ",");
            http_text_put(out, at, (size_t)(stop - at));
            first = false;
        }
        part = (part + 1) % 4;
        at = stop + 1;
    }
    http_text_puts(out, "]");
}

void http_token_close(const http_call *c, const http_text *entries, http_text *out)
{
    if (c->a.logprobs < 0) {
        http_text_puts(out, "\"logprobs\":null");
        return;
    }
    if (c->a.chat) {
        http_text_puts(out, "\"logprobs\":{\"content\":[");
        http_text_put(out, entries->data, entries->len);
        http_text_puts(out, "]}");
        return;
    }
    static const char *const name[] = {"text_offset", "token_logprobs", "tokens",
                                       "top_logprobs"};
    http_text_puts(out, "\"logprobs\":{");
    for (uint32_t i = 0; i < 4; i++) {
        http_text_printf(out, "%s\"%s\":", i > 0 ? "," : "", name[i]);
        put_run(entries, i, out);
    }
    http_text_puts(out, "}");
}

static void put_ranked(const tn_logprob *l, bool first, http_text *out)
{
    http_text_printf(out, "%s\"%d\":{\"logprob\":", first ? "" : ",", l->token);
    http_text_number(out, (double)l->logprob, LOWEST);
    http_text_printf(out, ",\"rank\":%d,\"decoded_token\":", l->rank);
    http_text_json(out, l->text, l->text_size);
    http_text_puts(out, "}");
}

static void put_prompt_token(const tn_token *t, bool first, http_text *out)
{
    http_text_puts(out, first ? "" : ",");
    if (isnan(t->self.logprob)) {
        http_text_puts(out, "null");
        return;
    }
    http_text_puts(out, "{");
    put_ranked(&t->self, true, out);
    for (uint32_t i = 0; i < t->ntop; i++)
        if (t->top[i].token != t->self.token)
            put_ranked(&t->top[i], false, out);
    http_text_puts(out, "}");
}

void http_token_prompt(const http_call *c, http_part *p, const tn_token *t, uint64_t n)
{
    bool logprobs = tn_json_find(c->a.body, "prompt_logprobs") != NULL &&
                    c->a.ask.prompt_logprobs >= 0;
    for (uint64_t i = 0; i < n; i++) {
        if (logprobs)
            put_prompt_token(&t[i], p->prompt_logprobs.len == 0, &p->prompt_logprobs);
        if (c->a.token_ids)
            http_text_printf(&p->prompt_ids, "%s%d", p->prompt_ids.len > 0 ? "," : "",
                             t[i].self.token);
    }
}
