/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_tools.c - any reply, cut anywhere: its parts do not depend on the cuts, none of its text
 * is lost, and the arguments of every whole call are JSON that the house reads.
 * fuzz: plugin http */
#include "http_speech.h"
#include "json.h"

#include <stdlib.h>
#include <string.h>

#define SIZE_MOST ((size_t)1 << 16)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void need(bool holds)
{
    if (!holds)
        abort();
}

/* What was heard: the events joined, and the text that came back as text. */
typedef struct heard {
    http_text events, content, arguments;
    bool in_call;
} heard;

static void check_arguments(const http_text *t)
{
    tn_json_doc *doc = NULL;
    tn_err err = {{0}, {0}, {0}};
    tn_status st = tn_json_open(t->data, t->len, "arguments", TN_JSON_DEPTH_REQUEST, &doc, &err);
    /* Invalid UTF-8 goes through as it came; the reply's writer mends it. */
    need(st == TN_OK || strcmp(err.code, "invalid_utf8") == 0);
    if (st == TN_OK) {
        need(tn_json_root(doc)->type == TN_JSON_OBJECT);
        tn_json_close(doc);
    }
}

static void hear(void *ctx, uint32_t kind, const char *text, size_t size)
{
    static const char mark[] = {'c', 'b', 'a', 'e', 'x'};
    heard *h = ctx;
    need(h->in_call == (kind != HTTP_SAYS_CONTENT && kind != HTTP_SAYS_BEGIN));
    h->in_call = kind == HTTP_SAYS_BEGIN || kind == HTTP_SAYS_ARGUMENTS;
    bool joins = kind == HTTP_SAYS_CONTENT || kind == HTTP_SAYS_ARGUMENTS;
    if (!joins)
        http_text_put(&h->events, &mark[kind], 1);
    http_text_put(&h->events, text, size);
    if (kind == HTTP_SAYS_BEGIN)
        h->arguments.len = 0;
    if (kind == HTTP_SAYS_ARGUMENTS)
        http_text_put(&h->arguments, text, size);
    if (kind == HTTP_SAYS_CONTENT || kind == HTTP_SAYS_BROKEN)
        http_text_put(&h->content, text, size);
    if (kind == HTTP_SAYS_END)
        check_arguments(&h->arguments);
}

static uint32_t types(void *ctx, const char *function, const char *parameter)
{
    (void)ctx;
    return ((unsigned char)function[0] + (unsigned char)parameter[0]) & 15;
}

static uint32_t listen(uint32_t forms, const char *text, size_t size, const uint8_t *cuts,
                       heard *h)
{
    http_tools t;
    *h = (heard){.in_call = false};
    http_text_open(&h->events, (size_t)64 << 20);
    http_text_open(&h->content, (size_t)64 << 20);
    http_text_open(&h->arguments, (size_t)64 << 20);
    http_tools_open(&t, forms, &(http_tools_sink){.ctx = h, .event = hear, .types = types});
    for (size_t at = 0; at < size;) {
        size_t n = cuts != NULL ? cuts[at % 16] % 7 + 1u : size;
        n = n < size - at ? n : size - at;
        http_tools_put(&t, text + at, n);
        at += n;
    }
    http_tools_end(&t);
    uint32_t nwhole = t.nwhole;
    need(!http_tools_has_failed(&t) && !h->in_call);
    http_tools_close(&t);
    return nwhole;
}

static void forget(heard *h)
{
    http_text_close(&h->events);
    http_text_close(&h->content);
    http_text_close(&h->arguments);
}

static bool is_same(const http_text *a, const http_text *b)
{
    return a->len == b->len && (a->len == 0 || memcmp(a->data, b->data, a->len) == 0);
}

static void make_id(void *ctx, char id[HTTP_CALL_ID_SIZE])
{
    (void)ctx;
    memcpy(id, "id", sizeof "id");
}

/* The whole way, to a message that is JSON. */
static void speak(uint8_t how, const char *text, size_t size)
{
    http_speech p;
    http_text out;
    http_speech_setup setup = {.reasons = how & 4, .hides = how & 8, .streams = how & 16,
                               .parallel = how & 32, .forms = how & 3, .make_id = make_id};
    tn_json_doc *doc = NULL;
    tn_err err = {{0}, {0}, {0}};
    http_text_open(&out, (size_t)64 << 20);
    http_speech_open(&p, &setup);
    http_speech_put(&p, text, size / 2);
    http_speech_put(&p, text + size / 2, size - size / 2);
    http_speech_end(&p);
    http_text_puts(&out, "{");
    http_speech_message(&p, &out);
    http_text_puts(&out, "}");
    if (!setup.streams) {
        need(tn_json_open(out.data, out.len, "message", 64, &doc, &err) == TN_OK);
        tn_json_close(doc);
    }
    http_speech_close(&p);
    http_text_close(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 17 || size > SIZE_MOST)
        return 0;
    const char *text = (const char *)data + 17;
    heard whole, cut;
    size -= 17;
    uint32_t n = listen(data[16] & 3, text, size, NULL, &whole);
    need(listen(data[16] & 3, text, size, data, &cut) == n);
    need(is_same(&whole.events, &cut.events) && is_same(&whole.content, &cut.content));
    if (n == 0) /* nothing was taken out, so nothing is missing */
        need(whole.content.len == size &&
             (size == 0 || memcmp(whole.content.data, text, size) == 0));
    forget(&whole);
    forget(&cut);
    speak(data[16], text, size);
    return 0;
}
