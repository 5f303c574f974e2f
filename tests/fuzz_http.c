/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_http.c - any bytes as the body of a chat or completion request, up to the ask that
 * would be submitted. fuzz: plugin http */
#include "http.h"
#include "json.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static tn_status open_json(void *ctx, const char *text, uint64_t size, const char *what,
                           uint32_t depth_max, tn_json_doc **doc, tn_err *err)
{
    (void)ctx;
    return tn_json_open(text, size, what, depth_max, doc, err);
}

static const tn_json *root_json(void *ctx, const tn_json_doc *doc)
{
    (void)ctx;
    return tn_json_root(doc);
}

static void close_json(void *ctx, tn_json_doc *doc)
{
    (void)ctx;
    tn_json_close(doc);
}

static uint64_t count(const tn_json *v)
{
    uint64_t n = 1;
    uint32_t children = 0;
    for (const tn_json *e = v->child; e != NULL; e = e->next, children++)
        n += count(e) + e->key_size;
    if (children != (v->type >= TN_JSON_LIST ? v->count : 0))
        abort();
    return n;
}

/* Everything that submit would read. */
static uint64_t touch(const http_ask *a)
{
    uint64_t sum = a->ask.n + a->ask.nbias;
    for (uint32_t i = 0; i < a->ask.nstop; i++)
        sum += strlen(a->ask.stop[i]);
    for (uint32_t i = 0; i < a->ask.nstop_token; i++)
        sum += (uint64_t)a->ask.stop_token[i];
    for (uint32_t i = 0; i < a->ask.nallowed; i++)
        sum += (uint64_t)a->ask.allowed[i];
    for (uint32_t i = 0; i < a->ask.nbias; i++)
        sum += (uint64_t)a->ask.bias[i].token;
    for (uint64_t i = 0; i < a->ask.prompt.nid; i++)
        sum += (uint64_t)a->ask.prompt.ids[i];
    for (uint64_t i = 0; i < a->ask.prompt.text_size; i++)
        sum += (unsigned char)a->ask.prompt.text[i];
    if (a->ask.prompt.tools != NULL)
        sum += count(a->ask.prompt.tools);
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const tn_host host = {.size = sizeof host, .json_open = open_json,
                                 .json_root = root_json, .json_close = close_json};
    if (size == 0)
        return 0;
    http_server s = {.h = &host, .opt = {.strict = (data[0] & 2) != 0,
                                        .auto_tools = (data[0] & 4) != 0,
                                        .exclude_tools = (data[0] & 8) != 0,
                                        .tool_forms = data[0] >> 4 & 3,
                                        .reasoning = data[0] >> 6}};
    http_ask a;
    tn_err err = {{0}, {0}, {0}};
    bool chat = data[0] & 1;
    volatile uint64_t sum = 0;
    tn_status st = http_ask_open(&s, (const char *)data + 1, size - 1, chat, &a, &err);
    for (uint32_t i = 0; st == TN_OK && i < a.nprompt; i++) {
        st = chat ? TN_OK : http_ask_prompt(&a, i, &err);
        if (st == TN_OK)
            sum += touch(&a);
    }
    if (st != TN_OK) { /* a refusal is always a sentence, and its reply is made of it */
        if (err.text[0] == 0)
            abort();
        http_text t;
        http_text_open(&t, 65536);
        http_reply_error(&t, st, &err, chat);
        http_text_close(&t);
    }
    http_ask_close(&s, &a);
    return 0;
}
