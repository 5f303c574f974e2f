/* SPDX-License-Identifier: Apache-2.0 */
/* commtrial.h - one communicator's sums of one size: are they right, and how long do they take?
 *
 * They run in a thread, while the caller asks for the group's health and looks at the clock: a
 * communicator that hangs is aborted, and if that does not free it, left to itself. */
#ifndef TN_COMMTRIAL_H
#define TN_COMMTRIAL_H

#include <tenon/plugin.h>

#include <stdbool.h>

/* Memory to sum in, the device's and the host's. */
typedef struct tn_trial_room {
    const tn_device *device;
    void *dev;
    uint64_t size;
    void *mem;
    float *host;
} tn_trial_room;

tn_status tn_trial_open(const tn_device *device, void *dev, uint64_t size, tn_trial_room *out,
                        tn_err *err);
/* Not one that a stuck trial may still be in: that is lost. */
void tn_trial_close(tn_trial_room *room);

typedef struct tn_trial {
    const tn_comm *comm;
    void *group;
    uint32_t rank, nrank;
    uint64_t bytes;              /* of a sum of f32; at most the room's */
    uint32_t calls;              /* that are timed */
    uint32_t limit_ms;
} tn_trial;

/* *us a call. TN_DATA: a wrong sum. TN_TIMEOUT: it hung; *stuck: it hangs on. What fails is aborted;
 * TN_CANCELLED: another rank did. */
tn_status tn_trial_run(const tn_trial *t, const tn_trial_room *room, double *us, bool *stuck,
                       tn_err *err);

#endif
