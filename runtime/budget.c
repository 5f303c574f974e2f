/* SPDX-License-Identifier: Apache-2.0 */
/* budget.c - how a model's memory is shared out before any of it is taken. */
#include "budget.h"

#include "buf.h"

#include <stdio.h>

void tn_budget_bytes(uint64_t bytes, char out[32])
{
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double v = (double)bytes;
    int u = 0;
    for (; v >= 1024 && u < 4; u++)
        v /= 1024;
    snprintf(out, 32, u == 0 ? "%.0f %s" : "%.2f %s", v, unit[u]);
}

#define CARD_SHARE 0.9   /* captured graphs and the driver's own need the rest */

/* Bytes the cache may have. Asked for nothing, it takes what full sequences need, but on a host
 * never more than half of what is free beside the weights: other programs live here too. */
static uint64_t cache_bytes(const tn_budget_ask *a, uint64_t fixed, uint64_t want)
{
    if (a->cache != 0)
        return a->cache;
    if (a->memory != 0)
        return a->memory > fixed ? a->memory - fixed : 0;
    uint64_t left = a->free_memory > fixed ? a->free_memory - fixed : 0;
    if (!a->whole || a->mapped || a->host) /* experts want some of it as well */
        left /= 2;
    return want < left ? want : left;
}

uint64_t tn_budget_room(const tn_device_info *info, double share, bool *whole)
{
    uint64_t total = info->memory_total;
    uint64_t left = info->memory_free < total ? info->memory_free : total, used = total - left;
    if (share <= 0 && !info->host_memory)
        share = CARD_SHARE;
    *whole = share > 0;
    if (!*whole)
        return info->memory_free;
    uint64_t most = (uint64_t)(share * (double)total);
    most = most > used ? most - used : 0;
    return most < left ? most : left;
}

/* Copies of mapped experts, or experts of `host` on the device: what was asked for, else all that
 * `memory` leaves, or of what is free half, for the files' pages want memory as well; of a card
 * nearly all. */
static uint64_t experts_bytes(const tn_budget_ask *a, const tn_need *need, uint64_t taken)
{
    uint64_t all = a->memory != 0 ? a->memory : a->free_memory;
    uint64_t left = all > taken ? all - taken : 0, most = need->host_bytes / 1024 * 1024 + 1024;
    uint64_t bytes = a->experts != 0 ? a->experts : a->memory != 0 || a->whole ? left
                     : a->host      ? left - left / 16 : left / 2;
    if ((!a->mapped && !a->host) || need->host_bytes == 0)
        return 0;
    return (bytes < most ? bytes : most) / 1024 * 1024;
}

static tn_status fail_beside(const tn_budget_ask *a, uint64_t beside, tn_err *err)
{
    char want[32], have[32];
    tn_budget_bytes(beside, want);
    tn_budget_bytes(a->host_memory, have);
    return tn_fail(err, TN_UNAVAILABLE, "cpu_memory: %s; experts that the device has no room for take "
                   "%s of the host's memory", have, want);
}

static void print_experts(const tn_budget *b, tn_buf *out)
{
    char kept[32], all[32];
    tn_budget_bytes(b->experts < b->mapped ? b->experts : b->mapped, kept);
    tn_budget_bytes(b->mapped, all);
    if (b->mapped > 0)
        tn_buf_printf(out, "experts %s (of %s, %s) + ", kept, all,
                      !b->in_host ? "mapped" : b->experts < b->mapped
                      ? "the others in the host's memory" : "none in the host's memory");
}

static bool keep_more(uint64_t *a, uint64_t b)
{
    bool more = b > *a;
    *a = more ? b : *a;
    return more;
}

bool tn_need_keep_most(tn_need *n, const tn_need *with)
{
    bool more = keep_more(&n->weight_bytes, with->weight_bytes);
    more |= keep_more(&n->workspace_bytes, with->workspace_bytes);
    more |= keep_more(&n->block_bytes, with->block_bytes);
    more |= keep_more(&n->slot_bytes, with->slot_bytes);
    more |= keep_more(&n->host_bytes, with->host_bytes);
    return more;
}

tn_status tn_budget_make(const tn_budget_ask *a, const tn_need *need, tn_budget *out,
                         tn_err *err)
{
    tn_budget b = {.weights = need->weight_bytes, .workspace = need->workspace_bytes,
                   .host = a->mapped ? 0 : need->host_bytes, .block_tokens = a->block_tokens,
                   .block_bytes = need->block_bytes, .slot_bytes = need->slot_bytes};
    b.nslot = need->slot_bytes > 0 ? a->slots : 0;
    b.states = b.nslot * need->slot_bytes;
    b.mapped = a->mapped || a->host ? need->host_bytes : 0;
    b.in_host = a->host;
    if (a->experts != 0)
        b.experts = experts_bytes(a, need, 0);
    uint64_t fixed = b.weights + b.workspace + b.states + b.experts;
    uint64_t seq_blocks = ((uint64_t)a->context + a->block_tokens - 1) / a->block_tokens;
    uint64_t most = seq_blocks * a->seqs;
    uint64_t bytes = cache_bytes(a, fixed, most * need->block_bytes);
    uint64_t n = need->block_bytes > 0 ? bytes / need->block_bytes : most;
    if (a->cache == 0 && n > most)
        n = most;
    if (a->blocks != 0)
        n = a->blocks;
    if (n > INT32_MAX)
        n = INT32_MAX;
    b.nblock = (uint32_t)n;
    b.cache = n * need->block_bytes;
    if (a->experts == 0)
        b.experts = experts_bytes(a, need, fixed + b.cache);
    if (a->host)               /* told as experts */
        b.host = 0;
    uint64_t beside = a->host && b.mapped > b.experts ? b.mapped - b.experts : 0;
    if (a->host_memory != 0 && beside > a->host_memory)
        return fail_beside(a, beside, err);
    b.total = b.weights + b.workspace + b.states + b.experts + b.cache;
    uint64_t fits = n * a->block_tokens;
    b.context_fits = fits < a->context ? (uint32_t)fits : a->context;
    if (n > 0) {
        *out = b;
        return TN_OK;
    }
    char w[32], ws[32], s[32], states[48] = "", block[32], have[32];
    tn_budget_bytes(b.weights, w);
    tn_budget_bytes(b.workspace, ws);
    tn_budget_bytes(b.states, s);
    if (b.nslot > 0)
        snprintf(states, sizeof states, ", states %s", s);
    tn_budget_bytes(need->block_bytes, block);
    tn_budget_bytes(a->memory != 0 ? a->memory : a->free_memory, have);
    return tn_fail(err, TN_UNAVAILABLE, "memory: weights %s, workspace %s%s and one cache block of %s "
                   "do not fit; found %s", w, ws, states, block, have);
}

void tn_budget_print(const tn_budget *b, tn_buf *out)
{
    char w[32], ws[32], s[32], c[32], t[32];
    tn_budget_bytes(b->weights, w);
    tn_budget_bytes(b->workspace, ws);
    tn_budget_bytes(b->states, s);
    tn_budget_bytes(b->cache, c);
    tn_budget_bytes(b->total, t);
    tn_buf_printf(out, "weights %s + workspace %s + ", w, ws);
    print_experts(b, out);
    if (b->nslot > 0)
        tn_buf_printf(out, "states %s (%u slots) + ", s, b->nslot);
    tn_buf_printf(out, "cache %s (%u blocks of %u tokens) = %s", c, b->nblock, b->block_tokens,
                  t);
    if (b->host > 0) {
        tn_budget_bytes(b->host, t);
        tn_buf_printf(out, ", beside %s of the host's memory", t);
    }
}
