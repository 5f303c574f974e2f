/* SPDX-License-Identifier: Apache-2.0 */
/* output.h - from drawn tokens to pieces: text, stop strings, finish reasons, usage.
 *
 * Stop strings. Text is searched byte by byte as it is decoded, so the outcome does not depend
 * on how tokens cut it. The stop whose last byte comes first wins; of several that end on the
 * same byte, the longest. Text goes out up to the point where a stop could still be in the
 * making; the held tail follows as soon as it cannot, or with the end. Text of the first
 * min_tokens tokens is not searched, nor is echoed text. The work is linear in the text,
 * whatever the stops. The step thread hears of a stop a step or two later; what it drew in
 * between is dropped here and counted nowhere.
 *
 * The token that ends a reply (end of sequence, stop token) is counted and reported, but its
 * text is left out unless TN_ASK_KEEP_STOP is set. A stop string found in the same token that
 * reaches the length, or ends the sequence, goes before the other reason.
 *
 * Usage: prompt_tokens once a request, reply_tokens over all choices up to and including the
 * token that ended each. With TN_ASK_ECHO a choice begins with a piece of the prompt's text
 * and no token. Prompt data comes in the request's first piece. */
#ifndef TN_OUTPUT_H
#define TN_OUTPUT_H

#include <tenon/plugin.h>

#include <stdbool.h>

#include "buf.h"
#include "servestats.h"
#include "tokenizer.h"

#define TN_REPLY_STOPS_MAX 16u
#define TN_PIECE_TOKENS 64u      /* most tokens in one piece */

/* -------- stop strings, compiled; read-only, shared by the choices of a request */
typedef struct tn_stops tn_stops;

/* At most TN_REPLY_STOPS_MAX, none empty. Copied. TN_NO_MEMORY. */
tn_status tn_stops_open(const char *const *stop, uint32_t nstop, tn_stops **out, tn_err *err);
void tn_stops_close(tn_stops *s);
const char *tn_stops_text(const tn_stops *s, uint32_t i);

/* -------- the text of one choice */
typedef struct tn_reply {
    tn_detok *detok;             /* owned, NULL: no text */
    const tn_stops *stops;       /* borrowed, NULL: none */
    bool keep_stop;
    uint32_t state[TN_REPLY_STOPS_MAX]; /* bytes of stop i that the text ends with */
    tn_buf text;                 /* decoded, not yet sent */
    size_t looked;               /* bytes of it that were searched */
    size_t ready;                /* bytes of it that may go out */
} tn_reply;

/* tok NULL: the reply has no text. `before`: the last ids of the prompt. */
tn_status tn_reply_open(tn_reply *r, const tn_tok *tok, bool keep_special, bool keep_stop,
                        const tn_stops *stops, const int32_t *before, size_t nbefore,
                        tn_err *err);
void tn_reply_close(tn_reply *r);
/* Takes a token in. `say` false: it has no text. `look` false: its text is not searched.
 * Returns the stop that was found, -1: none; then `ready` is all there is to send. */
int32_t tn_reply_push(tn_reply *r, int32_t id, bool say, bool look);
/* No token follows: everything becomes ready. May still find a stop. */
int32_t tn_reply_finish(tn_reply *r, bool look);
void tn_reply_sent(tn_reply *r);       /* forgets the bytes that were ready */
bool tn_reply_has_failed(const tn_reply *r); /* out of memory */

/* -------- pieces */
struct tn_request;
struct tn_top;

/* What the output thread works with; one per engine, one thread. */
typedef struct tn_output {
    const tn_tok *tok;           /* borrowed, may be NULL */
    tn_serve_stats *stats;       /* borrowed */
    uint64_t (*clock)(void);
    tn_token *token;             /* owned [TN_PIECE_TOKENS] */
    tn_logprob *top;             /* owned [ntop] */
    uint32_t ntop;
} tn_output;

tn_status tn_output_open(tn_output *o, const tn_tok *tok, uint32_t top_max,
                         tn_serve_stats *stats, tn_err *err);
void tn_output_close(tn_output *o);
/* Makes pieces of what the step thread has published and calls on_piece. True when the last
 * piece is out (now or before). */
bool tn_output_pump(tn_output *o, struct tn_request *r);
/* Ends a request whose last piece is not out yet, with TN_END_* other than DONE. */
void tn_output_end(tn_output *o, struct tn_request *r, uint32_t end);

#endif
