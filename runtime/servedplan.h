/* SPDX-License-Identifier: Apache-2.0 */
/* servedplan.h - what a model would take, and whether it would be served: nothing is reserved.
 *
 * The device's own compile counts, rank by rank; the budget is the one of serving. Settings may be
 * varied from question to question, a rank's share of the memory with them. */
#ifndef TN_SERVEDPLAN_H
#define TN_SERVEDPLAN_H

#include "servedparts.h"
#include "share.h"

/* Brought up with TN_SERVED_PARTS. */
typedef struct tn_planner {
    tn_served *s;                /* borrowed; its settings are those asked for */
    const tn_model_settings *of; /* whose ranks are known: those that any of the needs is most of */
    uint32_t nrank;
    bool most[TN_RANKS_MAX];
} tn_planner;

/* One question's answer. */
typedef struct tn_plan {
    uint32_t context, rank;      /* rank: the one with most weights, whose `sizes` these are */
    tn_need need;                /* the greatest of all ranks, part by part */
    tn_loader_sizes sizes;
    tn_limits limits;
    uint64_t memory;             /* what a rank may take: of `memory`, or of its device */
    tn_budget budget;            /* with fits */
    bool fits;                   /* memory for all parts and one cache block */
    char why[512];               /* else */
} tn_plan;

/* A communicator for ranks that are only planned: devices compile for several only with one. */
const tn_comm *tn_plan_nobody(void);
/* A device of so many bytes, of which all is free, in the place of the one that is there; not where
 * the device itself says that it has them. */
void tn_plan_pretend(tn_served *s, uint64_t bytes);
/* For `m`, of the same folder and device, and one context length. A status other than TN_OK is a
 * fault, or what the device or the model does not offer. */
tn_status tn_plan_make(tn_planner *p, const tn_model_settings *m, uint32_t context, tn_plan *out,
                       tn_err *err);

/* Would it be served? */
typedef struct tn_verdict {
    bool yes;
    bool cut;                    /* to plan.context, which nobody asked for in full */
    tn_plan plan;
    uint32_t at_once;            /* sequences of that length that the cache holds together */
    uint64_t lacks;              /* bytes, when the answer is no */
    char why[768];
} tn_verdict;
tn_status tn_plan_judge(tn_planner *p, const tn_model_settings *m, tn_verdict *out, tn_err *err);
/* The longest context that `seqs` sequences can all have at once; 0: none. */
tn_status tn_plan_longest(tn_planner *p, const tn_model_settings *m, uint32_t seqs,
                          uint32_t *context, tn_err *err);
/* The most sequences, up to `most`, that can all have that context at once. */
tn_status tn_plan_widest(tn_planner *p, const tn_model_settings *m, uint32_t context,
                         uint32_t most, uint32_t *seqs, tn_err *err);

#endif
