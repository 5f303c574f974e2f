/* SPDX-License-Identifier: Apache-2.0 */
/* sampling.h - from what a request asks for to what an output row is told.
 *
 * A tn_sampler is built once, checked in full before the request owns anything else, and is
 * read-only afterwards; the choices of a request share it. Each step it fills the tn_sampling
 * of one row. What changes along a reply is only
 *   - the draw's index and the history that penalties look at,
 *   - the bias: early (end and stop tokens forbidden) while the reply is shorter than
 *     min_tokens, and the last tokens of those bad words whose beginning has just been said.
 * allowed_token_ids become a mask of one bit a token, one-token bad words a bias.
 *
 * Every refusal reads "<field>: <given>; expected <rule>", with err->param and err->code. */
#ifndef TN_SAMPLING_H
#define TN_SAMPLING_H

#include <tenon/plugin.h>

#include <stdatomic.h>
#include <stdbool.h>

#include "arena.h"
#include "tokenizer.h"

#define TN_CHOICES_MAX 8u
#define TN_STOPS_MAX 16u
#define TN_STOP_SIZE_MAX 256u
#define TN_STOP_TOKENS_MAX 128u
#define TN_BIAS_MAX 1024u
#define TN_BAD_WORDS_MAX 128u
#define TN_BAD_WORD_SIZE_MAX 256u
#define TN_TEMPERATURE_LEAST 0.01f /* what lies between 0 and this is raised to it */

/* What generation_config.json says; the request's own values go first. */
typedef struct tn_generation {
    float temperature, top_p, min_p, repetition; /* NaN: 1, 1, 0, 1 */
    int32_t top_k;                               /* INT32_MIN: off */
    int64_t max_new_tokens;                      /* <= 0: what fits */
} tn_generation;

/* Seeds for requests that bring none: the same for the same base and order of arrival. */
typedef struct tn_seeds {
    uint64_t base;
    _Atomic uint64_t ndrawn;
} tn_seeds;

/* The model as far as sampling goes. */
typedef struct tn_sampler_facts {
    uint32_t vocab;              /* valid ids are below it */
    int32_t eos;                 /* -1: none */
    const int32_t *eos_more;     /* [neos_more], borrowed */
    uint32_t neos_more;
    uint32_t max_logprobs;
    tn_generation defaults;
    const tn_tok *tok;           /* borrowed; NULL: bad_words are refused */
    tn_seeds *seeds;             /* borrowed; NULL: from the system */
} tn_sampler_facts;

/* A token that ends the reply, and how the end is reported. */
typedef struct tn_end_token {
    int32_t token;
    uint32_t kind;               /* a piece's stop_kind: 0 end of sequence, 1 stop token */
} tn_end_token;

typedef struct tn_word {
    const int32_t *id;           /* [n], n > 1 */
    uint32_t n;
} tn_word;

/* All arrays lie in the arena that build was given. */
typedef struct tn_sampler {
    tn_sampling base;            /* flags, temperature, cuts, penalties, ntop; the rest is 0 */
    uint64_t seed;               /* of choice 0; choice i adds i */
    uint32_t min_tokens;
    bool penalties;              /* rows need the history */
    const tn_bias *bias, *early; /* sorted by token, unique */
    uint32_t nbias, nearly;
    const uint32_t *mask;        /* [(vocab + 31) / 32], NULL: all */
    uint32_t nleft;              /* tokens that mask and early bias leave; 0 without a mask */
    const tn_word *word;         /* bad words of several tokens */
    uint32_t nword;
    const tn_end_token *end;     /* sorted by token, unique */
    uint32_t nend;
} tn_sampler;

/* Writes "<param>: <the rest>" and returns TN_REFUSED. */
tn_status tn_refuse(tn_err *err, const char *code, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* Checks the fields that say how tokens are chosen, stop strings included; takes no memory. */
tn_status tn_sampler_check(const tn_ask *ask, const tn_sampler_facts *f, tn_err *err);
/* Builds from a checked ask. TN_REFUSED when bad words cannot be tokenized or nothing is left
 * to say; TN_NO_MEMORY. */
tn_status tn_sampler_build(const tn_ask *ask, const tn_sampler_facts *f, tn_arena *a,
                           tn_sampler *out, tn_err *err);

/* Entries that `scratch` below must hold; 0: it may be NULL. */
uint32_t tn_sampler_scratch(const tn_sampler *s);
/* [step] What the row wants that draws token `ntoken - nprompt` of choice `choice`. `token` is
 * prompt then reply, [ntoken]. `out` points into s, token and scratch. */
void tn_sampler_fill(const tn_sampler *s, uint32_t choice, const int32_t *token,
                     uint32_t nprompt, uint32_t ntoken, tn_bias *scratch, tn_sampling *out);
/* [step] The entry when `token` ends a reply, else NULL. */
const tn_end_token *tn_sampler_end(const tn_sampler *s, int32_t token);

#endif
