/* SPDX-License-Identifier: Apache-2.0 */
/* decode.h - the text that a row of tokens stands for, token by token.
 *
 * A decoder is a list of stages, and each reads tokens and writes tokens. Here they run as a
 * stream: a stage passes on what no later token can change and keeps the rest, so decoding
 * piece by piece and all at once are the same code and give the same text. */
#ifndef TN_DECODE_H
#define TN_DECODE_H

#include "buf.h"
#include "pattern.h"

#define TN_DECODE_STAGES_MAX 32u

typedef struct tn_decoder {
    struct tn_decode_stage *stage; /* owned */
    uint32_t n;
} tn_decoder;

typedef struct tn_decoding {
    const tn_decoder *d;           /* borrowed */
    struct tn_decode_room *room;   /* owned, one a stage */
    tn_buf *out;                   /* where text goes now; NULL: nowhere */
    bool no_memory;
} tn_decoding;

/* `spec` NULL or null: tokens are joined with blanks. `what` names the place. TN_DATA. */
tn_status tn_decoder_open(tn_decoder *d, const tn_json *spec, const uint8_t *kinds,
                          const char *what, tn_err *err);
void tn_decoder_close(tn_decoder *d);

/* Appends the bytes of one token as it appears in the middle of a text. */
typedef struct tn_decoder_room {
    tn_buf side[2];
} tn_decoder_room;
void tn_decoder_room_open(tn_decoder_room *room);
void tn_decoder_room_close(tn_decoder_room *room);
tn_status tn_decoder_token(const tn_decoder *d, tn_decoder_room *room, const char *token,
                           size_t size, tn_buf *out, tn_err *err);

bool tn_decoding_open(tn_decoding *s, const tn_decoder *d); /* false: memory */
void tn_decoding_close(tn_decoding *s);
/* The three append what has become certain to s->out. A regular expression that gives up on a
 * token leaves it as it is. */
void tn_decoding_push(tn_decoding *s, const char *token, size_t size);
void tn_decoding_finish(tn_decoding *s);
/* What was pushed so far is the reader's already: forgets kept text, but for the start of a
 * character that the next tokens may complete. */
void tn_decoding_forget(tn_decoding *s);

#endif
