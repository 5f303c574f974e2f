/* SPDX-License-Identifier: Apache-2.0 */
/* parcel.h - what the cache knows of one conversation, on its way out or in.
 *
 * Out: find, then read block after block. In: room, write block after block, keep. In between
 * other requests run; the parcel holds its blocks as a sequence would, so they neither change
 * nor go. Each call is one visit of the step thread, so a caller who moves a few blocks at a
 * time holds up nobody for long.
 *
 * The longest known beginning is what the next request with these ids would go on behind
 * (prefix.h): full blocks, and for a model with recurrent states the snapshot that stands
 * furthest in, with the open block behind its last full one. Draft rows that still wait to be
 * taken into that state are settled first. */
#ifndef TN_PARCEL_H
#define TN_PARCEL_H

#include "engine.h"

typedef struct tn_parcel tn_parcel;

typedef struct tn_parcel_sizes {
    uint32_t block_tokens, context_max;
    uint64_t block_size;
    uint64_t state_size;         /* 0: the model has no states */
} tn_parcel_sizes;

/* `ids` is borrowed, the salt is not. TN_UNSUPPORTED: this cache keeps nothing, or its device
 * does not show what it keeps. */
tn_status tn_parcel_open(tn_engine *e, const int32_t *ids, uint32_t nid, const char *salt,
                         tn_parcel **out, tn_err *err);
/* Lets go of what it holds. NULL is closed already. */
void tn_parcel_close(tn_parcel *p);
const tn_parcel_sizes *tn_parcel_size(const tn_parcel *p);

/* The longest known beginning: its tokens and blocks; with states also the state behind it. */
tn_status tn_parcel_find(tn_parcel *p, uint32_t *ntoken, uint32_t *nblock, tn_err *err);
tn_status tn_parcel_read(tn_parcel *p, uint32_t first, uint32_t n, void *data, tn_err *err);
/* The state: found, or to be filled in before keep. [state_size] */
void *tn_parcel_state(tn_parcel *p);

/* Blocks for the first `ntoken` ids. TN_BUSY "cache_full": running sequences hold too many;
 * TN_REFUSED "session_too_large": there are not as many. */
tn_status tn_parcel_room(tn_parcel *p, uint32_t ntoken, tn_err *err);
/* What is known already is left alone. */
tn_status tn_parcel_write(tn_parcel *p, uint32_t first, uint32_t n, const void *data,
                          tn_err *err);
/* From now on requests of that name space find it. */
tn_status tn_parcel_keep(tn_parcel *p, tn_err *err);

#endif
