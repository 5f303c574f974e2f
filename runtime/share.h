/* SPDX-License-Identifier: Apache-2.0 */
/* share.h - what of a model is one rank's (tensor parallelism).
 *
 *     attention     the columns of o_proj, run by run; a rank has the whole query heads that its
 *                   run touches, and the KV heads that those look at
 *     DeltaNet      the same: columns of out_proj, their v-heads, the k-heads of these
 *     MLPs, experts their width run by run: gate and up by rows, down by columns
 *     vocabulary    runs of rows of embedding and head; the last may be shorter
 *
 * Runs are equal where that leaves whole units of 16 columns, else some have a unit more; and
 * where an MLP or an expert has fewer units than there are ranks, some have nothing of it. A head
 * that a cut goes through is computed by every rank that has a part of its columns, which is how
 * there can be more ranks than heads. All ranks have as many heads, so their caches are of one
 * size.
 *
 * Whatever writes to the residual sees a part of its input and is summed over the ranks; norms,
 * routers and gates are whole on every rank. Source: Megatron-LM, arXiv 1909.08053. */
#ifndef TN_SHARE_H
#define TN_SHARE_H

#include "modelconf.h"

#define TN_RANKS_MAX 64u
#define TN_VOCAB_UNIT 16u     /* rows that a device likes to take at once */
/* Ranks together have at most so many rows more than there are tokens. */
#define TN_VOCAB_PADDING (TN_RANKS_MAX * (TN_VOCAB_UNIT + 1u))

/* Columns [col0, col0 + ncol), or rows. */
typedef struct tn_run {
    uint32_t col0, ncol;
} tn_run;

/* A rank's heads. Of the model's heads each `group` look at one shared head (KV heads, k-heads);
 * of the rank's own each `own_group`, so that all of its shared heads have as many: where a cut
 * leaves some with fewer, a shared head is there more than once. */
typedef struct tn_heads {
    uint32_t first, count;       /* the model's [first, first + count) */
    uint32_t group, own_group;
    uint32_t shared;             /* count / own_group */
    tn_run cols;                 /* the rank's among the columns of all heads side by side */
    uint32_t skip;               /* columns from the head `first` on that are not the rank's */
} tn_heads;

typedef struct tn_share {
    uint32_t rank, nrank;
    tn_heads q, v;               /* queries of attention; v-heads of DeltaNet */
    tn_run inter, width, shared; /* inside the MLP, a routed and the shared expert; may be empty */
    uint32_t vocab;              /* rows a rank; of the last one vocab_own */
    uint32_t vocab_own;
} tn_share;

/* The shared head of the model that is the rank's i-th. */
uint32_t tn_heads_shared(const tn_heads *h, uint32_t i);
/* TN_CONFIG where the model does not come apart into `nrank`; the sentence names what, and the
 * numbers of ranks that work. */
tn_status tn_share_make(const tn_model_conf *c, uint32_t rank, uint32_t nrank, tn_share *out,
                        tn_err *err);

#endif
