/* SPDX-License-Identifier: Apache-2.0 */
/* payoff.h - whether drafting pays, by what was measured.
 *
 * A cycle is a step and the drafting behind it. For each size of batch the time of a cycle and
 * the tokens a sequence gains in it are kept as running means, with drafts and without; the
 * better way is gone, and the other is looked at again from time to time. What is drawn does
 * not depend on it. */
#ifndef TN_PAYOFF_H
#define TN_PAYOFF_H

#include <stdbool.h>
#include <stdint.h>

#define TN_PAYOFF_SIZES 11u      /* batches of 1, 2-3, 4-7, ... sequences */

typedef struct tn_payoff_way {
    double ns;                   /* a cycle takes; 0: not known yet */
    double tokens;               /* a sequence gains in it */
    uint32_t seen;               /* cycles */
} tn_payoff_way;

typedef struct tn_payoff {
    tn_payoff_way way[TN_PAYOFF_SIZES][2]; /* without drafts, with them */
    uint32_t turn[TN_PAYOFF_SIZES];
} tn_payoff;

/* Should the sequences of this batch draft now? */
bool tn_payoff_drafts(tn_payoff *p, uint32_t nseq);
/* A cycle that went one way throughout took `ns` and gave `tokens` in all. */
void tn_payoff_put(tn_payoff *p, uint32_t nseq, bool drafts, uint64_t ns, uint32_t tokens);

#endif
