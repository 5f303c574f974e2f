/* SPDX-License-Identifier: Apache-2.0 */
/* plugin_stand.h - a device on the test stand: a lab's recipe compiled, packed and run beside
 * the reference, buffer by buffer and token by token. */
#ifndef TN_PLUGIN_STAND_H
#define TN_PLUGIN_STAND_H

#include "plugin_check.h"
#include "plugin_lab.h"

#define TN_STAND_VOCAB 64u
#define TN_STAND_OUTS 16u
#define TN_STAND_ROWS 48u
#define TN_STAND_TOP 5u

/* How the recipe ends; the fullest that the device offers. */
#define TN_TAIL_LOGITS 0u   /* PICK, LINEAR, LOGITS, SAMPLE */
#define TN_TAIL_SAMPLE 1u   /* PICK, LINEAR, SAMPLE */
#define TN_TAIL_NONE 2u     /* nothing: buffers are peeked at */

typedef struct tn_stand {
    tn_check *c;
    const tn_device *d;
    void *dev;
    tn_device_info info;
    uint32_t tail;
    bool exact;             /* fp32 throughout */
    /* Of the case under test. */
    tn_lab lab;
    void *program;
    uint32_t block_tokens;
    uint32_t logits;        /* buffer, TN_NONE without a tail */
    uint64_t number;        /* of the next step */
    double tolerance;       /* relative to a buffer's greatest value */
    const tn_results *results; /* of the last step */
    int32_t drawn[TN_STAND_OUTS];
    uint32_t compared;      /* values */
} tn_stand;

/* Begins a recipe: EMBED into a buffer of `width`. Returns that buffer. */
uint32_t tn_stand_begin(tn_stand *s, uint64_t seed, uint32_t width);
/* Ends it behind buffer `y` and brings it up to run. TN_UNSUPPORTED: not offered. */
tn_status tn_stand_up(tn_stand *s, uint32_t y, float softcap, uint32_t valid, tn_err *err);
void tn_stand_down(tn_stand *s);
/* Runs the step on both sides and compares every buffer the device lets see. */
tn_status tn_stand_step(tn_stand *s, tn_step *step, tn_err *err);
/* Several sequences over several steps, long and short, with padding, sampled tokens fed
 * back, blocks and states copied; all compared. */
tn_status tn_stand_play(tn_stand *s, tn_err *err);

/* plugin_check_sample.c: LOGITS and SAMPLE on their own. */
void tn_check_sampling(tn_stand *s);

#endif
