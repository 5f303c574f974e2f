/* SPDX-License-Identifier: Apache-2.0 */
/* pretoken.h - cuts a text into the pieces that are tokenized one by one.
 *
 * A pre-tokenizer is a list of steps. Each works on a piece alone and hands what it makes of
 * it straight to the next, so nothing is kept but the piece in hand. */
#ifndef TN_PRETOKEN_H
#define TN_PRETOKEN_H

#include "pattern.h"

#define TN_PRETOKEN_STEPS_MAX 64u

typedef struct tn_pretoken {
    struct tn_pretoken_step *step; /* owned */
    uint32_t n;
    bool bytes;                    /* pieces come as raw bytes, to be read as byte-level text */
    bool wants_start;              /* some step asks whether a piece begins the text */
} tn_pretoken;

/* The text to be cut. `origin`: where each byte stood before normalization, NULL when nothing
 * moved; `base`: where the text begins in the request. Only offset 0 matters. */
typedef struct tn_pretoken_text {
    const uint8_t *text;
    size_t size, base;
    const uint32_t *origin;
} tn_pretoken_text;

typedef struct tn_pretoken_work {
    struct tn_pretoken_room *room; /* owned, one a step */
    uint32_t n;
    size_t work_size;              /* bytes of the whole request, for regular expressions */
} tn_pretoken_work;

typedef tn_status (*tn_piece_sink)(void *ctx, const uint8_t *text, size_t size, tn_err *err);

/* `spec` NULL or null: no pre-tokenizer, the text is one piece. `what` names the file. TN_DATA. */
tn_status tn_pretoken_open(tn_pretoken *p, const tn_json *spec, const uint8_t *kinds,
                           const char *what, tn_err *err);
void tn_pretoken_close(tn_pretoken *p);

bool tn_pretoken_work_open(tn_pretoken_work *w, const tn_pretoken *p, size_t work_size);
void tn_pretoken_work_close(tn_pretoken_work *w);

/* Calls `sink` with each piece in order; a piece is valid during the call. Stops at the first
 * failure. */
tn_status tn_pretoken_run(const tn_pretoken *p, tn_pretoken_work *w,
                          const tn_pretoken_text *text, tn_piece_sink sink, void *ctx,
                          tn_err *err);

#endif
