/* SPDX-License-Identifier: Apache-2.0 */
/* tokparts.h - what an open tokenizer is made of. For tokenizer.c, detok.c
 * and tok*.c only. */
#ifndef TN_TOKPARTS_H
#define TN_TOKPARTS_H

#include "added.h"
#include "arena.h"
#include "bpe.h"
#include "decode.h"
#include "lexicon.h"
#include "normalize.h"
#include "pretoken.h"
#include "tokenizer.h"

#define TN_TOK_FILE_MAX (256u << 20)

struct tn_tok {
    uint8_t *kinds;            /* owned: tn_kinds_new */
    tn_lexicon vocab;          /* the model's tokens as they are spelled */
    tn_lexicon extra;          /* added tokens that the model does not have */
    tn_lexicon words;          /* byte-level: the model's tokens as bytes */
    tn_bpe bpe;
    tn_added added;
    tn_normalizer normalizer;
    tn_pretoken pretoken;
    tn_decoder decoder;
    tn_arena arena;            /* spellings of added tokens, as looked for */
    uint32_t count;            /* greatest id + 1 */
    uint32_t *added_at;        /* owned, [count]: index in `added`, TN_NONE: not added */
    uint8_t *skipped;          /* owned, [count]: 1 when decoding leaves special tokens out */
    uint32_t *special;         /* owned: ids of control tokens, by id */
    uint32_t nspecial;
    char *text;                /* owned: what the tokens stand for, each NUL-terminated */
    size_t *text_at;           /* owned, [count + 1] */
    int32_t *frame;            /* owned: ids around the text; -1: the text */
    uint32_t nframe;
    int32_t bos, eos;
};

/* Fills a zeroed tokenizer from the text of a tokenizer.json; `path` is for messages. What it
 * took stays for tn_tok_close. TN_DATA. */
tn_status tn_tokfile_read(tn_tok *t, const char *text, size_t size, const char *path,
                          uint32_t vocab_max, tn_err *err);

/* The "model" of the file, before which `s` stands: fills vocab and bpe. Ids are below
 * id_max. */
struct tn_scan;
tn_status tn_tokmodel_read(tn_tok *t, struct tn_scan *s, uint32_t id_max, tn_err *err);

/* The "post_processor" of the file: fills frame. Runs once all tokens are known. */
tn_status tn_tokframe_read(tn_tok *t, const tn_json *spec, const char *what, tn_err *err);

/* The token as the decoder reads it: an added one may have been normalized. NULL: none. */
const char *tn_tok_decoded(const tn_tok *t, int32_t id, uint32_t *size);

#endif
