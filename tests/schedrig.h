/* SPDX-License-Identifier: Apache-2.0 */
/* schedrig.h - a scheduler on the fake device, stepped by hand: no threads, no engine. */
#ifndef TN_TESTS_SCHEDRIG_H
#define TN_TESTS_SCHEDRIG_H

#include "fakedevice.h"
#include "oracle.h"
#include "scheduler.h"

typedef struct rig {
    fake_device device;
    tn_kv *kv;
    tn_sched *sched;
    tn_intake intake;
    uint32_t nstep;
    uint32_t nblock_copy, nstate_copy;
    bool lose_block_copies, lose_state_copies; /* planted: every fifth is forgotten */
    char wrong[128];             /* of the last request that was not right */
} rig;

typedef struct rig_setup {
    uint32_t running;
    bool cached;
    int32_t eos;
    uint32_t drafts;
    uint32_t every;              /* tokens between snapshots of a prompt's states */
} rig_setup;

/* r->device holds its limits already. */
void rig_open(rig *r, rig_setup setup);
/* Every block has come back, and the contract was kept. */
void rig_close(rig *r);
tn_request *rig_make(rig *r, const tn_ask *ask);
void rig_free(tn_request *req);
/* Stands for the output thread: it has seen everything. */
void rig_see(rig *r);
/* One step; false when there was nothing to do. */
bool rig_step(rig *r, bool see);
void rig_run(rig *r);
/* The request said what the oracle says. */
bool request_is_right(rig *r, tn_request *req);
void check_request(rig *r, tn_request *req);
void check_scores(rig *r, const tn_request *req);
void fill_ids(int32_t *ids, uint32_t n, uint64_t seed, uint32_t vocab);

#endif
