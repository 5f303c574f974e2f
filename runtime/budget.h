/* SPDX-License-Identifier: Apache-2.0 */
/* budget.h - how a model's memory is shared out before any of it is taken. */
#ifndef TN_BUDGET_H
#define TN_BUDGET_H

#include <tenon/plugin.h>

#include <stdbool.h>

struct tn_buf;

/* What the operator allows; zeros mean "decide". */
typedef struct tn_budget_ask {
    uint64_t memory;        /* weights, workspace and cache together */
    uint64_t cache;         /* cache alone */
    uint32_t seqs;          /* sequences that should fit at full length */
    uint32_t context;       /* tokens a sequence */
    uint32_t block_tokens;
    uint32_t slots;         /* state slots, of models that have states */
    uint64_t free_memory;   /* of the device now: what there is to share out */
    bool whole;             /* and all of it may be taken; else half of what the cache could have */
    uint32_t blocks;        /* of the cache, whatever there is; 0: as the memory says */
    bool mapped;            /* experts stay in the files: need.host_bytes is what copies take */
    bool host;              /* they stay in the host's memory where the device has no room */
    uint64_t experts;       /* copies of these at most; 0: what is left beside the cache */
    uint64_t host_memory;   /* of the host's, for the others of `host`; 0: no limit */
} tn_budget_ask;

typedef struct tn_budget {
    uint64_t weights, workspace, states, cache;
    uint64_t total;         /* of the device's memory, experts included */
    uint64_t host;          /* pinned beside it */
    uint64_t experts;       /* copies of mapped experts that are kept, or those of `host` on the
                               device; whole KiB */
    uint64_t mapped;        /* what copies of all would take; 0: none are mapped */
    bool in_host;           /* `mapped` is for experts that may stay in the host's memory */
    uint32_t nblock, block_tokens, nslot;
    uint64_t block_bytes, slot_bytes;
    uint32_t context_fits;  /* longest sequence the cache holds, at most ask.context */
} tn_budget;

/* Ranks agree on one need: of each part the most that one of them has. True when `with` has more
 * of some part than `n` had. */
bool tn_need_keep_most(tn_need *n, const tn_need *with);
/* TN_UNAVAILABLE with the table in one sentence when not even one block fits. */
tn_status tn_budget_make(const tn_budget_ask *ask, const tn_need *need, tn_budget *out,
                         tn_err *err);
/* "weights 101.2 MiB + workspace 8.0 MiB + states ... + cache ... = ..." */
void tn_budget_print(const tn_budget *b, struct tn_buf *out);
/* What a process may take of a device: `share` of it (0: 0.9 of a card, of a host what is free), less
 * what is in use already. *whole is tn_budget_ask's. */
uint64_t tn_budget_room(const tn_device_info *info, double share, bool *whole);
/* "1.50 GiB" */
void tn_budget_bytes(uint64_t bytes, char out[32]);

#endif
