/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer.h - text to token ids and back, from a Hugging Face tokenizer.json.
 *
 * An open tokenizer is read-only and may be used from any number of threads. */
#ifndef TN_TOKENIZER_H
#define TN_TOKENIZER_H

#include <tenon/plugin.h>

#include <stdbool.h>
#include <stddef.h>

struct tn_buf;
typedef struct tn_tok tn_tok;

typedef struct tn_ids {
    int32_t *id;  /* owned, malloc; tn_ids_close gives it back */
    size_t n, cap;
} tn_ids;
void tn_ids_close(tn_ids *ids);

#define TN_TOK_ADD_SPECIAL 1u   /* run the post-processor's template (BOS, EOS) */
#define TN_TOK_PLAIN 2u         /* take control tokens (special = true) in the text as plain text */

/* Reads DIR/tokenizer.json and, where present, DIR/tokenizer_config.json. vocab_max: rows of
 * the embedding, 0 when unknown; a token id at or beyond it is refused. TN_NOINPUT, TN_DATA. */
tn_status tn_tok_open(const char *dir, uint32_t vocab_max, tn_tok **out, tn_err *err);
/* The same from the text of a tokenizer.json; `what` names it in messages. No BOS or EOS. */
tn_status tn_tok_open_text(const char *json, size_t size, const char *what, uint32_t vocab_max,
                           tn_tok **out, tn_err *err);
/* For a model without a tokenizer: ids below 256 are bytes, each other id reads "<id>". */
tn_status tn_tok_open_bytes(uint32_t vocab, tn_tok **out, tn_err *err);
void tn_tok_close(tn_tok *t);

uint32_t tn_tok_count(const tn_tok *t);             /* greatest id + 1 */
/* Appends to `ids`. Text must be valid UTF-8 (TN_REFUSED, code "invalid_utf8"). `plain_at`:
 * sorted byte offsets at which no control token may begin, whatever the text says (user text
 * inside a rendered chat). */
tn_status tn_tok_encode(const tn_tok *t, const char *text, size_t size, uint32_t flags,
                        const size_t *plain_at, size_t nplain, tn_ids *ids, tn_err *err);
/* Decodes whole; invalid sequences become U+FFFD. An id outside the vocabulary: TN_REFUSED. */
tn_status tn_tok_decode(const tn_tok *t, const int32_t *ids, size_t n, bool keep_special,
                        struct tn_buf *out, tn_err *err);
/* The bytes one token stands for in running text (perhaps part of a character); NULL when
 * there is no such id. Borrowed. */
const char *tn_tok_bytes(const tn_tok *t, int32_t id, uint32_t *size);
/* The token's own spelling in the vocabulary. Borrowed, NULL when none. */
const char *tn_tok_spelling(const tn_tok *t, int32_t id, uint32_t *size);
int32_t tn_tok_find(const tn_tok *t, const char *spelling);  /* -1: none */
bool tn_tok_is_special(const tn_tok *t, int32_t id);         /* special = true: a control token */
/* Spellings of all control tokens, for marking user text; i from 0, NULL past the end. */
const char *tn_tok_special_at(const tn_tok *t, uint32_t i, uint32_t *size);
int32_t tn_tok_bos(const tn_tok *t);   /* by tokenizer_config.json, -1: none named */
int32_t tn_tok_eos(const tn_tok *t);

/* Streaming decode of one reply: pieces joined equal the decode of all ids at once. Bytes of
 * an unfinished character (or text the decoder may still change) are held back. */
typedef struct tn_detok tn_detok;
tn_status tn_detok_open(const tn_tok *t, bool keep_special, tn_detok **out, tn_err *err);
void tn_detok_close(tn_detok *d);
/* Ids that stand before the reply, for decoders that look at their left neighbour. */
void tn_detok_prime(tn_detok *d, const int32_t *ids, size_t n);
void tn_detok_push(tn_detok *d, int32_t id, struct tn_buf *out);  /* appends finished text */
void tn_detok_finish(tn_detok *d, struct tn_buf *out);            /* the rest, U+FFFD if cut */

#endif
