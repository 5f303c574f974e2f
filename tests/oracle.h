/* SPDX-License-Identifier: Apache-2.0 */
/* oracle.h - what a request must say on the fake device, worked out alone and step by step. */
#ifndef TN_TESTS_ORACLE_H
#define TN_TESTS_ORACLE_H

#include "fakedevice.h"
#include "intake.h"

/* An ask with every field at "default"; prompt ids are borrowed. */
tn_ask oracle_ask(const int32_t *ids, uint32_t nid);

/* The tokens of one choice before stop strings. */
typedef struct oracle_reply {
    int32_t *token;              /* owned [n] */
    float *logprob;              /* owned [n] */
    uint32_t n;
    uint32_t finish;             /* STOP, LENGTH, or ERROR for NaN and bugs */
    uint32_t stop_kind;
    int32_t stop_token;
} oracle_reply;

/* `r` is a request as intake makes it; it is only read, but for its scratch. Greedy or seeded. */
void oracle_run(const fake_device *d, tn_request *r, uint32_t choice, oracle_reply *out);
void oracle_close(oracle_reply *o);

/* Deterministic numbers for tests: the next of a stream, below `n`. */
uint32_t oracle_random(uint64_t *stream, uint32_t n);

#endif
