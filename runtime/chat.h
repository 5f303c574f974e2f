/* SPDX-License-Identifier: Apache-2.0 */
/* chat.h - turns a conversation into a prompt with the model's own chat template.
 *
 * A template is compiled once, is read-only afterwards and renders from any thread. */
#ifndef TN_CHAT_H
#define TN_CHAT_H

#include <tenon/plugin.h>

#include <stdbool.h>
#include <stddef.h>

struct tn_buf;
typedef struct tn_chat tn_chat;

/* chat_template.jinja, else chat_template.json, else tokenizer_config.json's chat_template
 * (text, or a list of named ones: "default", and "tool_use" when tools are given). TN_NOINPUT:
 * the folder has none. Unknown filters, tests and functions and syntax errors are TN_DATA with
 * line:column.
 * bos_token, eos_token and friends come from tokenizer_config.json. */
tn_status tn_chat_open(const char *dir, tn_chat **out, tn_err *err);
tn_status tn_chat_open_text(const char *source, size_t size, const char *what, tn_chat **out,
                            tn_err *err);
void tn_chat_close(tn_chat *c);

typedef struct tn_chat_ask {
    const tn_json *messages;    /* list of objects, borrowed, never changed */
    const tn_json *tools;       /* or NULL */
    const tn_json *kwargs;      /* object of further variables, or NULL */
    bool add_generation;
    bool continue_final;        /* leave the last message open: cut what follows its content */
    int64_t now;                /* seconds since 1970 for strftime_now, local time */
    /* Spellings that user text must not be able to form (control tokens). Their occurrences in
     * string values of messages and tools are reported in plain_at. */
    const char *const *guard;
    size_t nguard;
} tn_chat_ask;

/* Appends the prompt to `out`. `plain_at` (malloc, may come back NULL) lists the byte offsets
 * in out->data at which a guarded spelling from user text begins. Fails with TN_REFUSED, code
 * "template_error". */
tn_status tn_chat_render(const tn_chat *c, const tn_chat_ask *ask, struct tn_buf *out,
                         size_t **plain_at, size_t *nplain, tn_err *err);

#endif
