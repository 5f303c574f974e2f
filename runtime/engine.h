/* SPDX-License-Identifier: Apache-2.0 */
/* engine.h - one served model: a queue of requests in, pieces of text out.
 *
 * Two threads live inside. The step thread plans, runs and reads back one step after the
 * other; it takes no lock but the queue's and allocates nothing. The output thread turns
 * tokens into text, looks for stop strings, watches the deadlines and calls on_piece. So a
 * slow callback delays pieces, never a step, and a device that hangs delays a step, never
 * the answer "timed out".
 *
 * Every request that submit accepted gets exactly one piece with `last`, whatever happens:
 * finished, cancelled, timed out, failed, engine dead, drained, closed. A request that ends
 * with ABORT or ERROR ends as a whole, all choices at once. Its cache blocks are free at
 * latest one step after that piece.
 *
 *   frontends -- submit --> intake --> inbox --> step thread --> outlet --> output thread
 *             -- cancel ------------------------^                            |  on_piece
 *             <---------------------------------------------------------------+ */
#ifndef TN_ENGINE_H
#define TN_ENGINE_H

#include <tenon/plugin.h>

#include <stdbool.h>

#include "chat.h"
#include "log.h"
#include "metric.h"
#include "request.h"
#include "sampling.h"
#include "tokenizer.h"

typedef struct tn_engine tn_engine;

/* All of it is copied by open, but for what is called borrowed (until close). */
typedef struct tn_engine_setup {
    const tn_device *device;     /* borrowed: the adopted table */
    void *program;               /* borrowed: compiled, reserved and packed */
    const tn_limits *limits;     /* as compiled; context_max is taken from here */
    const tn_pools *pools;       /* as reserved; a whole context must fit the blocks */
    uint64_t step_first;         /* number of the first step, past any warm-up's */
    const tn_tok *tok;           /* borrowed; NULL: prompts are ids, replies have no text */
    const tn_chat *chat;         /* borrowed; NULL: chat prompts are refused */
    const char *name;            /* the model's first name, for metrics and the log */
    uint32_t vocab;              /* columns of the logits: valid ids are below it */
    int32_t eos;                 /* the tokenizer's, -1: none; stops with stop_kind 0 */
    const int32_t *eos_more;     /* generation_config's list; stop with stop_kind 1 */
    uint32_t neos_more;
    tn_generation defaults;
    uint32_t max_running;        /* sequences a step; 0, or above seqs_max: seqs_max */
    uint32_t queue_max;          /* requests not yet begun; 0: 4 x max_running */
    uint32_t request_timeout_ms; /* whole request, queue included; 0: 300,000 */
    uint32_t max_logprobs;       /* greatest logprobs and prompt_logprobs; capped by top_max */
    uint32_t prefix_caching;     /* 1: full blocks are found again by later prompts */
    double prefix_check;         /* share of the requests that hit it to run again without, 0 to 1 */
    uint32_t has_states;         /* 1: every sequence takes a state slot; those beyond
                                    max_running hold snapshots for prefix caching */
    uint64_t seed;               /* where unseeded requests draw theirs from; 0: the system */
    uint32_t drafts;             /* most drafts a sequence in a step, 0: none */
    uint32_t snapshot_every;     /* tokens between snapshots of a prompt's states, 0: none */
    tn_log *log;                 /* borrowed, may be NULL */
    tn_metrics *metrics;         /* borrowed, may be NULL */
} tn_engine_setup;

/* [control] Starts both threads. TN_CONFIG: sizes that cannot work together, by name. */
tn_status tn_engine_open(const tn_engine_setup *setup, tn_engine **out, tn_err *err);
/* [control] Cuts what still runs (their last pieces come first), joins the threads. A request
 * that a frontend still holds stays valid until released. */
void tn_engine_close(tn_engine *e);
/* [control] Refuses new requests and waits up to `ms` for the others; what is left then ends
 * with ABORT, status TN_CUT. TN_OK when nothing had to be cut, else TN_CUT. */
tn_status tn_engine_drain(tn_engine *e, uint32_t ms, tn_err *err);

/* [any] As tn_front_host.submit: TN_OK (pieces follow, perhaps before it returns), TN_REFUSED
 * with err->param and err->code, TN_BUSY "queue_full", TN_UNAVAILABLE "draining" or
 * "engine_down", TN_NO_MEMORY. ask->model is not looked at. */
tn_status tn_engine_submit(tn_engine *e, const tn_ask *ask, tn_request **out, tn_err *err);
/* [any] Asks for the end; the last piece still comes. Harmless when it has come already. The
 * caller holds `r`; to let go of it call tn_request_release (request.h). */
void tn_engine_cancel(tn_engine *e, tn_request *r);

/* [any] Ids of a prompt as submit would make them; free() them. */
tn_status tn_engine_tokenize(tn_engine *e, const tn_prompt *p, int32_t **ids, uint64_t *nid,
                             tn_err *err);
/* [any] Never waits for a step. `running` and `waiting` count sequences and requests. */
void tn_engine_health(tn_engine *e, tn_health *out);

/* What a visitor of the step thread finds there. */
struct tn_sched;
typedef struct tn_visit {
    struct tn_sched *sched;
    const tn_device *device;
    void *program;
    bool lost;                   /* to set when a step of the visitor's own failed: the engine
                                    ends as with any lost step */
} tn_visit;
/* [any but on_piece] Calls `visitor` on the step thread between two steps and waits for it; it
 * delays all requests by the time it takes. Its status, or TN_UNAVAILABLE "engine_down". */
tn_status tn_engine_visit(tn_engine *e, tn_status (*visitor)(void *user, tn_visit *v, tn_err *err),
                          void *user, tn_err *err);
/* [any] The cache's books, for their key functions alone; borrowed until close. */
const struct tn_kv *tn_engine_kv(const tn_engine *e);

/* What a watchdog and the tests look at; all from atomics. */
typedef struct tn_pulse {
    uint64_t nstep;              /* steps done */
    uint64_t step_begun;         /* monotonic ns of the step in the device now, 0: none */
    uint64_t step_done;          /* monotonic ns when the last step ended, 0: none yet */
    uint32_t blocks_used;        /* cache blocks that a sequence holds */
    uint32_t blocks_all;
    uint64_t npreempt;
    /* accepted counts every call of submit, so that at rest
     * accepted = completed + cancelled + timed_out + failed + rejected. */
    uint64_t accepted, completed, cancelled, timed_out, failed, rejected;
} tn_pulse;
void tn_engine_pulse(tn_engine *e, tn_pulse *out);   /* [any] */

#endif
