/* SPDX-License-Identifier: Apache-2.0 */
/* intake.h - from an ask to a request: checked, rendered, tokenized, everything allocated.
 *
 * Runs on the frontend's thread. All that can be refused is refused here, cheapest checks
 * first, so that what reaches the engine can only end well, be stopped, or meet a fault. */
#ifndef TN_INTAKE_H
#define TN_INTAKE_H

#include <tenon/plugin.h>

#include "buf.h"
#include "chat.h"
#include "kv.h"
#include "request.h"
#include "sampling.h"
#include "tokenizer.h"

/* Fixed facts of a served model; read-only once open, any thread. */
typedef struct tn_intake {
    const tn_tok *tok;           /* borrowed, may be NULL */
    const tn_chat *chat;         /* borrowed, may be NULL */
    const tn_kv *kv;             /* borrowed; makes keys when caching */
    uint32_t context_max, vocab;
    uint32_t block_tokens;       /* 0: no prefix caching */
    uint32_t timeout_ms;
    tn_sampler_facts facts;      /* eos_more is owned */
    const char **guard;          /* owned [nguard], spellings of control tokens */
    size_t nguard;
} tn_intake;

/* Takes the pointers and numbers that `in` holds already, copies facts.eos_more and collects
 * the guard. TN_CONFIG: the model's own defaults are out of range. */
tn_status tn_intake_open(tn_intake *in, tn_err *err);
void tn_intake_close(tn_intake *in);

/* The ids of a prompt, truncated if it asks so, of any length. ids->n may be more than fits. */
tn_status tn_intake_prompt(const tn_intake *in, const tn_prompt *p, tn_ids *ids, tn_err *err);

/* TN_REFUSED with param and code, or TN_NO_MEMORY. */
tn_status tn_intake_request(const tn_intake *in, const tn_ask *ask, uint64_t now_ns,
                            tn_request **out, tn_err *err);

#endif
