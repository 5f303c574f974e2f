/* SPDX-License-Identifier: Apache-2.0 */
/* commchoice.h - several communicators at once: each call goes to the one that was fastest.
 *
 * What carries a sum best is a property of the machine and of the size, so it is measured when the
 * ranks meet: all candidates that can be joined are, every one has to get sums right, and is timed
 * from 4 KiB to 8 MiB on the memory that serving uses. The slowest rank counts, rank 0 makes the
 * table, and all go by that. A candidate that fails or hangs is left out, with a warning. */
#ifndef TN_COMMCHOICE_H
#define TN_COMMCHOICE_H

#include <tenon/plugin.h>

#include "log.h"

#define TN_CHOICE_MAX 8u         /* candidates; more are not looked at */

typedef struct tn_comm_ref {
    const char *name;
    const tn_comm *table;   /* the core's own copy */
    void *self;
} tn_comm_ref;

typedef struct tn_choice_setup {
    const tn_comm_ref *comm;     /* [ncomm], the same on all ranks; borrowed as long as the group */
    uint32_t ncomm;
    uint32_t flag;               /* TN_COMM_HOST or TN_COMM_DEVICE: others are passed over */
    uint32_t rank, nrank;
    uint32_t card;               /* this rank's, as join wants it */
    uint32_t join_ms;
    uint32_t trial_ms;           /* after which a trial counts as hanging; 0: ten seconds */
    uint32_t measure_ms;         /* larger sizes are left out beyond it; 0: one and a half seconds */
    const tn_device *device;     /* whose memory it is */
    void *dev;
    /* As tn_team_round and tn_team_share. */
    tn_status (*round)(void *team, tn_status mine, const void *data, uint64_t size, void *all,
                       tn_err *err);
    tn_status (*share)(void *team, void *data, uint64_t size, tn_err *err);
    void *team;
    tn_log *log;                 /* borrowed, may be NULL */
} tn_choice_setup;

/* All ranks together. *comm is the one that is left when only one is, else one that chooses, whose
 * join and make_id are NULL; its leave ends it. TN_UNAVAILABLE: none works, with the last reason. */
tn_status tn_comm_choose(const tn_choice_setup *s, const tn_comm_ref **comm, void **group,
                         tn_err *err);
/* How many of a list work on the memory that `flag` names. */
uint32_t tn_comm_fitting(const tn_comm_ref *comm, uint32_t ncomm, uint32_t flag);

#endif
