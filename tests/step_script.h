/* SPDX-License-Identifier: Apache-2.0 */
/* step_script.h - a step of a device put together sequence by sequence, and models to run it. */
#ifndef TN_STEP_SCRIPT_H
#define TN_STEP_SCRIPT_H

#include "recipe_reference.h"

#define SCRIPT_BLOCK 16u         /* tokens a block */
#define SCRIPT_NBLOCK 64u        /* blocks a sequence at most */

/* Greedy, no reports. */
extern const tn_sampling script_greedy;

typedef struct script {
    tn_step step;
    int32_t token[1024], row_seq[1024], block[2048];
    tn_seq seq[64];
    tn_out out[256];
    tn_sampling sampling[256];
} script;

void script_open(script *s, uint64_t number);
/* `n` rows behind `context` tokens. `blocks`: [nblock], or NULL: 0, 1, 2, ... */
tn_seq *script_add(script *s, const int32_t *token, int32_t n, int32_t context,
                   const int32_t *blocks, uint32_t nblock);
/* A row of no sequence. */
void script_pad(script *s, int32_t token);
/* Asks for the logits of a row; greedy until the caller changes what it gets. */
tn_sampling *script_out(script *s, int32_t row);

/* 256 rows, 32 sequences, 64 outputs, profile. */
tn_limits script_limits(void);
/* Runs and waits; a failure fails the test. */
const tn_results *script_run(fx_device *d, void *program, const tn_step *s);

/* Random ids below vocab, the same at every call. */
void script_tokens(int32_t *token, uint32_t n, uint32_t vocab);

/* A llama-like model on a device of its own, with 2 * SCRIPT_NBLOCK blocks. */
typedef struct model {
    fixture *f;
    fx_device d;
    void *program;
    uint64_t number;             /* of the next step */
    uint32_t logits;             /* buffer */
    script s;
} model;

model *model_open(const tn_plugin *plugin, const fx_llama *m, int64_t threads, const char *isa,
                  const tn_limits *l);
void model_close(model *t);
uint32_t fx_buffer_named(const fixture *f, const char *name);

#endif
