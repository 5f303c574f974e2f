/* SPDX-License-Identifier: Apache-2.0 */
/* commcount.h - a communicator on host memory that counts: calls, bytes and the time in them.
 *
 * It passes every call of a step on to the one behind it, between two looks at the clock. Whoever
 * waits for another rank waits in such a call, so the time holds both the work and the waiting.
 * Calls on a device's stream only begin there; counting those would say nothing. */
#ifndef TN_COMMCOUNT_H
#define TN_COMMCOUNT_H

#include <tenon/plugin.h>

#include <stdatomic.h>

typedef struct tn_comm_count {
    tn_comm face;                /* the table to hand out, whose group this struct is */
    const tn_comm *table;        /* borrowed: the one behind it, and its group */
    void *group;
    _Atomic uint64_t calls, bytes, ns; /* since the start, written by one thread */
} tn_comm_count;

/* `c` stays where it is until the last call. */
void tn_comm_count_open(tn_comm_count *c, const tn_comm *table, void *group);

#endif
