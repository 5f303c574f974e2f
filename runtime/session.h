/* SPDX-License-Identifier: Apache-2.0 */
/* session.h - conversations kept in files: saved from the cache and put back into it.
 *
 * A restored conversation is no running thing: it is a beginning that the cache knows, as if
 * it had just been computed here. A request whose prompt begins with its tokens goes on behind
 * it; under pressure it is forgotten like any other. */
#ifndef TN_SESSION_H
#define TN_SESSION_H

#include "engine.h"
#include "sessionfile.h"

/* Where a conversation lies and whom it belongs to. All borrowed. */
typedef struct tn_session_place {
    tn_engine *engine;
    const uint64_t *fingerprint; /* [2] of the served model */
    const char *model;           /* its name, for people */
    const tn_recipe *recipe;     /* whose caches lie in a block, rank after rank */
    uint32_t nrank;              /* 0 means 1 */
    const char *path;
    const char *what;            /* the file in messages */
    const char *salt;            /* name space in the cache; NULL: the common one */
    const char *owner;           /* must be the same to restore; NULL: whoever has the file,
                                    "": nobody's in particular */
} tn_session_place;

/* What was said. */
typedef struct tn_session_talk {
    int32_t *id;                 /* [nid] */
    uint32_t nid;
    char *note;                  /* [note_size], terminated */
    uint64_t note_size;
} tn_session_talk;

/* Saves the whole talk, with blocks and state for as much of its beginning as the cache knows:
 * *ncached tokens. An older file is replaced. TN_BUSY, TN_UNAVAILABLE and TN_UNSUPPORTED as in
 * parcel.h, and what writing can fail with. */
tn_status tn_session_save(const tn_session_place *p, const tn_session_talk *talk,
                          uint32_t *ncached, tn_err *err);
/* Puts it back. *talk is the caller's to close. TN_DATA: the file is damaged, or was saved from
 * another model ("session_mismatch"); TN_NOINPUT: there is none, or none of this owner's. */
tn_status tn_session_restore(const tn_session_place *p, tn_session_talk *talk,
                             uint32_t *ncached, tn_err *err);
void tn_session_talk_close(tn_session_talk *talk);

/* A hash of the owner's name that is the same in every process; zeros for NULL and "". */
void tn_session_owner(const char *owner, uint64_t out[2]);

#endif
