/* SPDX-License-Identifier: Apache-2.0 */
/* servestats.h - what a served model tells Prometheus, under the names vLLM uses.
 *
 * Dashboards made for vLLM read these series, so names, labels (model_name, engine) and
 * buckets are kept. As there, a request of n choices counts as n in the request_* series.
 * Beside them stand tenon's own outcome counters; accepted counts every call of submit, so
 * at rest accepted = completed + cancelled + timed_out + failed + rejected.
 *
 * The outcome counts are kept here in atomics too, for those who want numbers, not text. */
#ifndef TN_SERVESTATS_H
#define TN_SERVESTATS_H

#include <tenon/plugin.h>

#include <stdatomic.h>
#include <stdbool.h>

#include "metric.h"

#define TN_OUTCOME_ACCEPTED 0u
#define TN_OUTCOME_COMPLETED 1u
#define TN_OUTCOME_CANCELLED 2u
#define TN_OUTCOME_TIMED_OUT 3u
#define TN_OUTCOME_FAILED 4u
#define TN_OUTCOME_REJECTED 5u
#define TN_OUTCOME_COUNT 6u

#define TN_STAT_COUNT 48u

typedef struct tn_serve_stats {
    tn_metrics *metrics;         /* borrowed, may be NULL */
    uint32_t id[TN_STAT_COUNT];
    uint32_t outcome_id[TN_OUTCOME_COUNT];
    _Atomic uint64_t outcome[TN_OUTCOME_COUNT];
} tn_serve_stats;

/* What goes into the info series and the token buckets. */
typedef struct tn_stats_setup {
    tn_metrics *metrics;
    const char *name;            /* model_name */
    uint32_t context_max, block_tokens, nblock, cache_dtype, prefix_caching;
} tn_stats_setup;

tn_status tn_stats_open(tn_serve_stats *s, const tn_stats_setup *setup, tn_err *err);

void tn_stats_outcome(tn_serve_stats *s, uint32_t outcome);                   /* [any] */
/* A reply was run again without the prefix cache (recheck.h). [any] */
void tn_stats_put_check(tn_serve_stats *s, bool differs);

/* One step, told by the step thread. */
typedef struct tn_stats_step {
    uint32_t running, waiting;   /* sequences, after the step */
    double cache_usage;          /* 0 .. 1 */
    uint32_t rows;               /* tokens through the model; 0: nothing ran */
    uint32_t npreempt;           /* since the last call, as the two below */
    uint64_t cache_queries, cache_hits; /* prompt tokens looked up, found */
    uint32_t states_used, states_kept;  /* recurrent states of sequences, and snapshots; now */
    uint64_t ndrafted, ndraft, nstood;  /* turns with drafts, drafts, those that stood */
    uint64_t stood_at[4];        /* by place in their turn */
} tn_stats_step;
void tn_stats_put_step(tn_serve_stats *s, const tn_stats_step *v);

/* The first piece of a request: its prompt is done. */
void tn_stats_put_prompt(tn_serve_stats *s, uint32_t nprompt, uint32_t ncached);
/* Tokens of one choice going out together; gap: ns since its previous piece, or since arrival
 * when `first`. */
void tn_stats_put_tokens(tn_serve_stats *s, uint32_t ntoken, bool first, uint64_t gap_ns);
/* The end of one choice; times on the engine's clock, 0 where it never came so far. */
typedef struct tn_stats_end {
    uint32_t finish;             /* TN_FINISH_* */
    uint32_t nan;                /* 1: for its logits */
    uint32_t nprompt, ncached, nreply, max_tokens, nchoice;
    uint64_t arrival_ns, begun_ns, first_ns, last_ns, now_ns;
} tn_stats_end;
void tn_stats_put_end(tn_serve_stats *s, const tn_stats_end *v);

#endif
