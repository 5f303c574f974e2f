/* SPDX-License-Identifier: Apache-2.0 */
/* servedstats.h - what the ranks of a served model are told of in /metrics (teamstats.h). */
#ifndef TN_SERVEDSTATS_H
#define TN_SERVEDSTATS_H

#include "served.h"

/* This rank's numbers now, as the beats of a team carry them. One thread at a time. */
void tn_served_look(void *served, tn_rank_stats *out);
/* Rank 0: makes the series and takes in what other ranks send. */
tn_status tn_served_board(tn_served *s, tn_metrics *metrics, tn_err *err);
void tn_served_hear(void *served, uint32_t rank, const tn_rank_stats *stats); /* [any] */
/* Puts rank 0's own numbers when it is time for them: called every now and then. [control] */
void tn_served_tick(tn_served *s);

#endif
