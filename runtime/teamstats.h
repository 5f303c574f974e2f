/* SPDX-License-Identifier: Apache-2.0 */
/* teamstats.h - what each rank tells of itself, and the series that rank 0 makes of it.
 *
 * The others' numbers come with their beats, every other second; rank 0's own, and those of a
 * process alone, are put by whoever serves. All counts are since the start. */
#ifndef TN_TEAMSTATS_H
#define TN_TEAMSTATS_H

#include "metric.h"

#include <pthread.h>
#include <stdbool.h>

#define TN_TEAM_BEAT_SECONDS 2u

/* What a device may say of itself (tn_device.report) under these keys. */
enum {
    TN_RANK_UTILIZATION, TN_RANK_TEMPERATURE, TN_RANK_CLOCK, TN_RANK_MEMORY_CLOCK, TN_RANK_POWER,
    TN_RANK_FACTS
};

/* Crosses the wire as it lies: ranks are of one build. */
typedef struct tn_rank_stats {
    uint64_t resident;           /* bytes of the process */
    uint64_t memory_total, memory_free; /* of the device; total 0: not known */
    uint64_t steps, step_ns;     /* steps done, and the time from their call to their end */
    uint64_t comm_calls, comm_bytes, comm_ns; /* calls 0: not counted, see commcount.h */
    double fact[TN_RANK_FACTS];  /* NaN: not known */
} tn_rank_stats;

/* Takes a line of a device's report: the number that `text` begins with, where `key` is one of
 * the facts. */
void tn_rank_stats_fact(tn_rank_stats *s, const char *key, const char *text);
/* Nothing is known. */
void tn_rank_stats_open(tn_rank_stats *s);
/* Fills in `resident`. */
void tn_rank_stats_process(tn_rank_stats *s);

typedef struct tn_rank_board tn_rank_board;

/* TN_CONFIG when the name is too long for a label. `metrics` is borrowed, may be NULL. */
tn_status tn_rank_board_open(tn_metrics *metrics, const char *model, uint32_t nrank,
                             tn_rank_board **out, tn_err *err);
void tn_rank_board_close(tn_rank_board *b);
/* Rank r's news. A series begins to be there with the first number for it. [any] */
void tn_rank_board_put(tn_rank_board *b, uint32_t r, const tn_rank_stats *s);

#endif
