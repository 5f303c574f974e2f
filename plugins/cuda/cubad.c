/* SPDX-License-Identifier: Apache-2.0 */
/* cubad.c - rows that are not finite, layer by layer.
 *
 * A norm adds up the squares of a row anyhow; where that is no number it counts the row, and the
 * counts come to the host with the results, in the same copy. The first layer that counts any is
 * where to look: what it normed is what the layers before it made. */
#include "cuprogram.h"

#define TELL_NS 10000000000ull   /* between two lines of the log */

uint64_t cu_bad_size(const cu_program *p)
{
    return cu_round(p->nbad * sizeof(uint32_t), 64);
}

static void declare(cu_program *p)
{
    const tn_host *h = p->dev->host;
    for (uint32_t i = 0; i < p->nbad; i++) {
        char labels[32] = "layer=\"end\"";
        if (i + 1 < p->nbad)
            snprintf(labels, sizeof labels, "layer=\"%u\"", i);
        p->bad_metric[i] = h->metric == NULL ? TN_NONE
                           : h->metric(h->ctx, TN_METRIC_COUNTER, "cuda_nonfinite_rows_total",
                                       "Rows that were not finite where the layer normed them.",
                                       labels, NULL, 0);
    }
}

tn_status cu_bad_open(cu_program *p, tn_err *err)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < p->nop; i++)
        if (cu_op(p, i)->layer < 4096 && cu_op(p, i)->layer >= n)
            n = cu_op(p, i)->layer + 1;
    p->nbad = n + 1;
    p->bad_seen = cu_take(p, p->nbad, sizeof *p->bad_seen);
    p->bad_metric = cu_take(p, p->nbad, sizeof *p->bad_metric);
    if (p->bad_seen == NULL || p->bad_metric == NULL)
        return tn_fail(err, TN_NO_MEMORY, "cuda: no memory for counts of %u layers", n);
    declare(p);
    return TN_OK;
}

/* Before reserve there is no place yet. */
uint32_t *cu_bad_of(const cu_program *p, uint32_t layer)
{
    return p->bad == NULL ? NULL : p->bad + (layer < p->nbad - 1 ? layer : p->nbad - 1);
}

static void tell(cu_program *p, uint32_t layer, uint32_t rows)
{
    const tn_host *h = p->dev->host;
    uint64_t now = h->clock(h->ctx);
    char text[160], where[32] = "behind the last layer";
    if (p->bad_told != 0 && now - p->bad_told < TELL_NS)
        return;
    p->bad_told = now;
    if (layer + 1 < p->nbad)
        snprintf(where, sizeof where, "at layer %u first", layer);
    snprintf(text, sizeof text, "recipe %.64s: %u rows were not finite, %s", p->name, rows, where);
    h->log(h->ctx, TN_LOG_WARN, text);
}

void cu_bad_look(cu_program *p, const cu_slot *t)
{
    bool told = !t->fetched;
    for (uint32_t i = 0; t->fetched && i < p->nbad; i++) {
        uint32_t more = t->bad[i] - p->bad_seen[i];
        if (more == 0)
            continue;
        p->bad_seen[i] = t->bad[i];
        cu_count(p->dev, p->bad_metric[i], more);
        if (!told)
            tell(p, i, more);
        told = true;
    }
}
