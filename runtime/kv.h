/* SPDX-License-Identifier: Apache-2.0 */
/* kv.h - the paged cache's books: which block belongs to whom, which can be found again.
 *
 * The device owns the memory; this side hands out block numbers. A block holds `tokens`
 * positions of all layers. Sequences that share a prefix share its full blocks, so a block
 * counts its users; only a block with one user that is not full is ever written.
 *
 * A full block may be sealed under a key, the hash of everything up to its last token and of
 * the name space (cache salt). When its last user leaves, it keeps key and content and waits
 * at the end of the idle queue, so that it can be found until its turn comes to be reused:
 *
 *            take                     seal               give (last user)
 *    idle ----------> used, open ----------> used, sealed ---------> idle, sealed
 *      ^                  |                        ^                    |    |
 *      +------ give ------+                        +------ hold --------+    | take (oldest)
 *                                                                            v  key forgotten
 *
 * Keys are 128 bits of SipHash under a secret drawn at open, so nobody can make two prefixes
 * meet. All calls belong to the step thread, but for the key functions: any thread. */
#ifndef TN_KV_H
#define TN_KV_H

#include <tenon/plugin.h>

#include <stdbool.h>
#include <stddef.h>

typedef struct tn_kv tn_kv;

typedef struct tn_kv_key {
    uint64_t word[2];
} tn_kv_key;

/* `cached` false: nothing is ever sealed. */
tn_status tn_kv_open(uint32_t nblock, uint32_t tokens, bool cached, tn_kv **out, tn_err *err);
void tn_kv_close(tn_kv *kv);

uint32_t tn_kv_idle(const tn_kv *kv);           /* blocks that take can still give */
uint32_t tn_kv_spare(const tn_kv *kv);          /* idle ones, and those only snapshots pin */
uint32_t tn_kv_used(const tn_kv *kv);
bool tn_kv_is_cached(const tn_kv *kv);          /* as opened */

int32_t tn_kv_take(tn_kv *kv);                  /* a block for one user; -1: none idle */
void tn_kv_hold(tn_kv *kv, int32_t block);      /* one user more; may be idle and sealed */
void tn_kv_give(tn_kv *kv, int32_t block);      /* one user less */
bool tn_kv_is_idle(const tn_kv *kv, int32_t block);

/* Keeps the content of a block that has a user, beyond that user, for a snapshot (states.h). A
 * block that is pinned alone counts neither as used nor as idle. */
void tn_kv_pin(tn_kv *kv, int32_t block);
void tn_kv_unpin(tn_kv *kv, int32_t block);
bool tn_kv_is_pinned_only(const tn_kv *kv, int32_t block);

/* The root of a name space, and the key after `tokens` more ids. NULL salt: the common one. */
tn_kv_key tn_kv_root(const tn_kv *kv, const char *salt);
tn_kv_key tn_kv_next(const tn_kv *kv, tn_kv_key before, const int32_t *ids);

/* Makes a full block findable. When the key is taken already, the block stays private. */
void tn_kv_seal(tn_kv *kv, int32_t block, tn_kv_key key);
int32_t tn_kv_find(const tn_kv *kv, tn_kv_key key);  /* -1: unknown; holds nothing */
void tn_kv_forget(tn_kv *kv, int32_t block);         /* it can no longer be found */

#endif
