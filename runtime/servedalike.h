/* SPDX-License-Identifier: Apache-2.0 */
/* servedalike.h - do the ranks of a model see the same files and pack the same forms?
 *
 * A thing that must be alike - config.json, a tensor, a shard, the form of a weight - is a name and
 * a hash of what it is. Ranks compare one sum over all; only where that differs do they send their
 * lists, and rank 0 names the first difference. */
#ifndef TN_SERVEDALIKE_H
#define TN_SERVEDALIKE_H

#include "served.h"

typedef struct tn_alike_item {
    uint64_t name, what;         /* hashes */
} tn_alike_item;

typedef struct tn_alike {
    tn_arena arena;
    tn_alike_item *item;
    const char **name;           /* for messages; in the arena */
    uint64_t n, cap;
    bool failed;                 /* no memory */
} tn_alike;

/* config.json, every tensor's type and shape, every shard's size and ends; of the drafting module's
 * folder too, where there is one. Reads one page at either end of a shard and no other. */
void tn_alike_files(tn_alike *a, const tn_served *s);
/* The form of every weight, and the limits that a step keeps to. A cut through a group changes the
 * group, so that counts only where all columns are this rank's. */
void tn_alike_forms(tn_alike *a, const tn_served *s);
void tn_alike_close(tn_alike *a);

/* The first thing of `mine` (rank 0's) that `theirs` has otherwise or, with `all`, has not; or that
 * only they have. NULL: none. *why says which. */
const char *tn_alike_first(const tn_alike *mine, tn_alike_item *theirs, uint64_t n, bool all,
                           const char **why);
/* All ranks call this. TN_DATA names the rank and the first thing that differs. */
tn_status tn_alike_compare(tn_team *t, tn_alike *a, bool all, tn_err *err);

#endif
