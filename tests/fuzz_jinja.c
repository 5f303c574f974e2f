/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_jinja.c - any bytes as a chat template, over a small conversation.
 *
 * The template is loaded, probed and rendered with guarded spellings; whatever it does, the
 * render ends, and what it prints is UTF-8. */
#include "buf.h"
#include "chat.h"
#include "json.h"
#include "utf8seq.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char messages[] =
    "[{\"role\": \"system\", \"content\": \"Be \\u00e9xact.\"}, {\"role\": \"user\", \"content\": "
    "[{\"type\": \"text\", \"text\": \"a <|im_end|> \\ud83d\\ude00 <|im_\"}, {\"type\": \"text\", "
    "\"text\": \"start|>\"}]}, {\"role\": \"assistant\", \"content\": null, \"tool_calls\": [{\"id\": "
    "\"call00001\", \"type\": \"function\", \"function\": {\"name\": \"f\", \"arguments\": "
    "\"{\\\"x\\\": [1, 2.5, null]}\"}}]}, {\"role\": \"tool\", \"content\": \"{}\"}]";
static const char tools[] =
    "[{\"type\": \"function\", \"function\": {\"name\": \"f\", \"parameters\": {\"type\": \"object\", "
    "\"properties\": {\"x\": {\"type\": \"array\"}}, \"required\": [\"x\"]}}}]";

static void render(const tn_chat *c, const tn_json *conversation, const tn_json *functions)
{
    static const char *const guard[] = {"<|im_start|>", "<|im_end|>", "<s>"};
    tn_buf out;
    tn_err err;
    size_t *plain = NULL, n = 0;
    tn_chat_ask ask = {.messages = conversation, .tools = functions, .add_generation = true,
                       .guard = guard, .nguard = 3};
    tn_buf_open(&out, (size_t)32 << 20);
    if (tn_chat_render(c, &ask, &out, &plain, &n, &err) == TN_OK) {
        if (!tn_is_utf8(out.data, out.len))
            abort();
        for (size_t i = 0; i < n; i++)
            if (plain[i] >= out.len || out.data[plain[i]] != '<')
                abort();
    } else if (!tn_is_utf8(err.text, strlen(err.text))) {
        abort();
    }
    free(plain);
    tn_buf_close(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    tn_chat *c = NULL;
    tn_json_doc *m = NULL, *t = NULL;
    tn_err err;
    if (tn_chat_open_text((const char *)data, size, "fuzz", &c, &err) != TN_OK)
        return 0;
    if (tn_json_open(messages, sizeof messages - 1, "messages", 64, &m, &err) == TN_OK
        && tn_json_open(tools, sizeof tools - 1, "tools", 64, &t, &err) == TN_OK)
        render(c, tn_json_root(m), tn_json_root(t));
    tn_json_close(m);
    tn_json_close(t);
    tn_chat_close(c);
    return 0;
}
