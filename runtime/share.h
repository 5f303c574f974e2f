/* SPDX-License-Identifier: Apache-2.0 */
/* share.h - what of a model is one rank's (tensor parallelism).
 *
 *     attention     query heads in equal runs; KV heads likewise, or, where there are fewer than
 *                   ranks, the one that the rank's queries look at
 *     DeltaNet      k-heads in equal runs, each with its v-heads
 *     MLPs, experts their width in equal runs: gate and up by rows, down by columns
 *     vocabulary    runs of rows of embedding and head; the last may be shorter
 *
 * Whatever writes to the residual sees a part of its input and is summed over the ranks; norms,
 * routers and gates are whole on every rank. Source: Megatron-LM, arXiv 1909.08053. */
#ifndef TN_SHARE_H
#define TN_SHARE_H

#include "modelconf.h"

#define TN_RANKS_MAX 64u

typedef struct tn_share {
    uint32_t rank, nrank;
    uint32_t heads, kv_heads;    /* of this rank; its queries begin at rank * heads */
    uint32_t kv_first;           /* its first KV head */
    uint32_t k_heads, v_heads;   /* DeltaNet; they begin at rank * k_heads, rank * v_heads */
    uint32_t inter, width, shared; /* widths of MLP, routed and shared expert */
    uint32_t vocab;              /* rows a rank; of the last one vocab_own */
    uint32_t vocab_own;
} tn_share;

/* TN_CONFIG where the model does not come apart into `nrank`; the sentence names what, and the
 * numbers of ranks that work. */
tn_status tn_share_make(const tn_model_conf *c, uint32_t rank, uint32_t nrank, tn_share *out,
                        tn_err *err);

#endif
