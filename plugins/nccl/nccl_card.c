/* SPDX-License-Identifier: Apache-2.0 */
/* nccl_card.c - which card a rank takes, and ranks that share one.
 *
 * NCCL refuses two ranks on one card of one host. It takes them for ranks of different hosts, which
 * reach each other by network, when each but the first has an NCCL_HOSTID of its own; so a card can
 * be shared to try things out. Which card a rank is on stands in its seat of the page. */
#include "nccl_group.h"

#include <stdlib.h>
#include <time.h>

#define PATIENCE_MS 3000u      /* for the ranks of this host that come first */

tn_status nccl_card_of(const nccl_group *g, uint32_t device, int *out, tn_err *err)
{
    int n = 0, code = g->lib->cu_count(&n);
    if (code != 0 || n < 1)
        return tn_fail(err, TN_UNAVAILABLE, "nccl: the driver finds no card (code %d)", code);
    *out = (int)(device % (uint32_t)n);
    return TN_OK;
}

/* Its place on the bus, which is what NCCL compares; 0: not told. */
static uint64_t card_id(const nccl_group *g)
{
    char text[32] = "";
    unsigned domain, bus, slot;
    int d;
    if (g->lib->cu_device(&d, g->device) != 0 || g->lib->cu_bus(text, sizeof text, d) != 0 ||
        sscanf(text, "%x:%x:%x", &domain, &bus, &slot) != 3)
        return 0;
    return 1ull << 63 | (uint64_t)domain << 32 | (uint64_t)bus << 8 | slot;
}

/* True: a rank before this one has its card. *all: every rank before it has told. */
static bool is_taken(const nccl_group *g, uint64_t card, bool *all)
{
    *all = true;
    for (uint32_t r = 0; r < g->rank; r++) {
        uint64_t theirs = atomic_load(&g->page->seat[r].card);
        if (theirs == card)
            return true;
        *all = *all && theirs != 0;
    }
    return false;
}

/* Only a rank that is counted beyond the last card may find its card taken, unless each sees a card
 * of its own; then, with ranks of other hosts before it, it waits for nothing and a little while. */
void nccl_card_share(nccl_group *g, uint32_t device, const char *name)
{
    const struct timespec nap = {.tv_nsec = 1000000};
    uint64_t card = card_id(g), end = g->h->clock(g->h->ctx) / 1000000 + PATIENCE_MS;
    char id[80], line[120];
    bool all = false, taken = false;
    atomic_store(&g->page->seat[g->rank].card, card);
    if (device == (uint32_t)g->device || card == 0 || getenv("NCCL_HOSTID") != NULL)
        return;
    while (!(taken = is_taken(g, card, &all)) && !all && g->h->clock(g->h->ctx) / 1000000 < end)
        nanosleep(&nap, NULL);
    if (!taken)
        return;
    snprintf(id, sizeof id, "%.60s-%u", name + 1, g->rank);
    setenv("NCCL_HOSTID", id, 0);
    snprintf(line, sizeof line, "rank %u shares its card: sums go by network, as NCCL_HOSTID %.40s...",
             g->rank, id);
    g->h->log(g->h->ctx, TN_LOG_INFO, line);
}
