/* SPDX-License-Identifier: Apache-2.0 */
/* http_speech.h - the text of one choice, parted into reasoning, content and tool calls.
 *
 *     text -> reason -> content -> tools -> content, calls
 *
 * In a stream every part becomes a delta as it comes; else it is gathered for the message. A
 * call that breaks after it began comes back as content: whole in a message, and in a stream
 * behind the deltas of the call, which nothing can take back. Only calls that ended well make
 * a reply end with "tool_calls". */
#ifndef HTTP_SPEECH_H
#define HTTP_SPEECH_H

#include <tenon/plugin.h>

#include "http_reason.h"
#include "http_tools.h"

#define HTTP_CALL_ID_SIZE 48u

typedef struct http_speech_setup {
    bool reasons;                /* the reply begins inside a thought */
    bool hides;                  /* reasoning is left out */
    bool streams;
    bool parallel;               /* more than one call may come */
    uint32_t forms;              /* HTTP_FORM_*; 0: calls are not looked for */
    const tn_json *tools;        /* borrowed; for the types of parameters */
    void *ctx;
    void (*make_id)(void *ctx, char id[HTTP_CALL_ID_SIZE]);
} http_speech_setup;

typedef struct http_speech {
    http_speech_setup how;
    http_reason reason;
    http_tools tools;
    uint32_t nbegun, nwhole;     /* calls that were told */
    bool mute;                   /* the call under way is not told */
    /* In a stream: objects in JSON, each terminated. */
    http_text deltas;
    /* Else: texts, and calls as items of a list in JSON. */
    http_text content, reasoning, calls, arguments;
    size_t call_at;              /* where the call under way begins in `calls` */
} http_speech;

/* `p` stays where it is until closed. */
void http_speech_open(http_speech *p, const http_speech_setup *how);
void http_speech_close(http_speech *p);
void http_speech_put(http_speech *p, const char *text, size_t size);
/* No text follows. */
void http_speech_end(http_speech *p);
/* The members content, reasoning and tool_calls of a message, without a comma around them. */
void http_speech_message(const http_speech *p, http_text *out);
bool http_speech_has_failed(const http_speech *p);
/* HTTP_MAY_* of a function's parameter, from the schemas in `tools`. */
uint32_t http_speech_types(const tn_json *tools, const char *function, const char *parameter);

#endif
