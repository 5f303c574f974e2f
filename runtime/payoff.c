/* SPDX-License-Identifier: Apache-2.0 */
/* payoff.c - whether drafting pays, by what was measured. */
#include "payoff.h"

#define LEARN 6u                 /* cycles of each way before the first comparison */
#define LOOK_EVERY 256u          /* turns after which the other way is looked at again, */
#define LOOK_FOR 4u              /* for so many: the first of them is between the two */
#define MEMORY 0.1               /* share of the newest cycle in a mean */

static uint32_t size_of(uint32_t nseq)
{
    uint32_t i = 0;
    while (nseq > 1 && i + 1 < TN_PAYOFF_SIZES) {
        nseq /= 2;
        i++;
    }
    return i;
}

bool tn_payoff_drafts(tn_payoff *p, uint32_t nseq)
{
    uint32_t i = size_of(nseq);
    const tn_payoff_way *plain = &p->way[i][0], *drafts = &p->way[i][1];
    uint32_t turn = p->turn[i]++;
    if (drafts->seen < LEARN)
        return true;
    if (plain->seen < LEARN)
        return false;
    bool better = drafts->tokens * plain->ns > plain->tokens * drafts->ns;
    return turn % LOOK_EVERY < LOOK_FOR ? !better : better;
}

void tn_payoff_put(tn_payoff *p, uint32_t nseq, bool drafts, uint64_t ns, uint32_t tokens)
{
    tn_payoff_way *w = &p->way[size_of(nseq)][drafts];
    double gain = (double)tokens / nseq, share = w->seen == 0 ? 1 : MEMORY;
    if (nseq == 0)
        return;
    w->ns += share * ((double)ns - w->ns);
    w->tokens += share * (gain - w->tokens);
    w->seen++;
}
