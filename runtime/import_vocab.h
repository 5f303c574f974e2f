/* SPDX-License-Identifier: Apache-2.0 */
/* import_vocab.h - the vocabulary of a GGUF file, and tokenizer.json made from it. */
#ifndef TN_IMPORT_VOCAB_H
#define TN_IMPORT_VOCAB_H

#include "import_model.h"
#include "names.h"

struct tn_buf;

/* tokenizer.ggml.token_type */
#define TN_TOKEN_NORMAL 1
#define TN_TOKEN_UNKNOWN 2
#define TN_TOKEN_CONTROL 3
#define TN_TOKEN_USER 4
#define TN_TOKEN_UNUSED 5
#define TN_TOKEN_BYTE 6

#define TN_PRE_SPLITS 6u

/* How a named vocabulary cuts text before merging. */
typedef struct tn_import_pre {
    const char *name[12];             /* values of tokenizer.ggml.pre, ends with NULL */
    const char *split[TN_PRE_SPLITS]; /* expressions cut out one after another */
    bool digits_first, digits_last;   /* every digit a piece, before or after the splits */
    bool gpt2;                        /* at last the GPT-2 expression */
    bool nfc;                         /* text is composed first */
    bool ignore_merges;               /* a piece that is a token needs no merges */
    bool add_bos;                     /* when the file does not say */
} tn_import_pre;

/* NULL: not known. */
const tn_import_pre *tn_import_pre_find(const char *name, uint64_t size);
void tn_import_pre_list(struct tn_buf *out); /* the known names, for a message */

typedef struct tn_import_merge {
    uint32_t left, right, made; /* token ids */
} tn_import_merge;

typedef struct tn_import_vocab {
    tn_gguf_text *token;        /* owned; [count], valid UTF-8 */
    int32_t *type;              /* owned; [count] TN_TOKEN_* */
    uint64_t count;
    uint64_t listed;            /* without the placeholders at the end that pad the embedding */
    tn_names index;             /* spelling -> id */
    tn_import_merge *merge;     /* owned, by falling priority */
    uint64_t nmerge;
    const tn_import_pre *pre;   /* NULL: a SentencePiece vocabulary */
    bool byte_fallback;         /* SentencePiece: all 256 byte tokens are there */
    bool add_bos, add_eos, add_space;
    int64_t unk;                /* named by id, else the first of its type */
    char *spare;                /* owned: spellings made up for empty tokens */
} tn_import_vocab;

tn_status tn_import_vocab_read(const tn_import_model *m, tn_import_vocab *out, tn_err *err);
void tn_import_vocab_close(tn_import_vocab *v);

/* Merges of a SentencePiece vocabulary, whose tokens only have scores: every way to put a
 * token together from two others, by falling score, then the longer left and right part, then
 * in the order of ids. score: [count]. */
tn_status tn_import_derive_merges(tn_import_vocab *v, const float *score, const char *file,
                                  tn_err *err);

/* The files of the folder. `templates`: further named chat templates go into the config. */
tn_status tn_import_tokenizer(const tn_import_model *m, const tn_import_vocab *v,
                              struct tn_buf *out, tn_err *err);
void tn_import_special_map(const tn_import_model *m, const tn_import_vocab *v,
                           struct tn_buf *out);
tn_status tn_import_tokenizer_config(const tn_import_model *m, const tn_import_vocab *v,
                                     struct tn_buf *out, tn_err *err);

#endif
