/* SPDX-License-Identifier: Apache-2.0 */
/* fakedevice.h - a device for tests whose model is a hash of what it can see.
 *
 * It keeps token ids where a real device keeps keys and values, and draws the next token from
 * a hash of all tokens that a row sees through its block table (and, with states, through its
 * state slot). So a wrong block, a missed copy, a stale prefix or a lost row comes out as a
 * wrong token. Its second section guesses well, from what it was told of each position before.
 * Every step is checked against the contract in plugin.h; breaches are counted
 * and the first is kept as text.
 *
 * fake_next is the same model as a plain function: what a request must say, alone. */
#ifndef TN_TESTS_FAKEDEVICE_H
#define TN_TESTS_FAKEDEVICE_H

#include <tenon/plugin.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#define FAKE_PENDING 5

typedef struct fake_device {
    /* set before use */
    tn_limits limits;
    tn_pools pools;
    uint32_t vocab;
    uint64_t step_first;
    bool has_states;
    bool ignore_fresh;           /* a planted fault: a fresh sequence goes on with what it finds */
    bool ignore_accepted;        /* a planted fault: all pending rows count */
    uint32_t guess_wrong;        /* every n-th guess of the drafting section is wrong, 0: none */
    int32_t nan_token;           /* a context that holds it gives NaN; -1: never */
    int32_t bug_token;           /* a context that holds it draws token -7; -1: never */
    _Atomic uint32_t step_us;    /* how long a step takes */
    _Atomic uint64_t fail_run;   /* the run with this count (from 1) fails; 0: never */
    _Atomic uint64_t fail_wait;
    atomic_bool hold;            /* wait does not return while it is set */
    atomic_bool fail_read;       /* blocks cannot be read */

    /* seen; after the engine is closed, or as hints before */
    _Atomic uint64_t nrun, nwait, nrow, ncopy, nwritten;
    _Atomic uint32_t rows_most, seqs_most, outs_most;
    _Atomic uint32_t nbreach;
    char breach[256];

    /* own */
    int32_t *cell;               /* [nblock, block_tokens], -1: never written */
    int32_t *guess_cell;         /* [nblock, block_tokens] token behind a position, of drafting */
    uint64_t *state;             /* [nslot] */
    int32_t (*pending)[FAKE_PENDING]; /* [nslot] rows that the state has not seen */
    int32_t *npending;           /* [nslot] */
    uint64_t nguess;
    tn_result *result[2];        /* two steps' worth */
    int32_t *top_token[2];
    float *top_logprob[2];
    tn_results results[2];
    uint64_t number;
    bool open_step;
} fake_device;

/* Fills in usual values: small enough to hurt. */
void fake_defaults(fake_device *d);
/* Takes memory by limits and pools; false: none. */
bool fake_open(fake_device *d);
void fake_close(fake_device *d);
/* The table; the program is the fake_device itself. */
const tn_device *fake_table(void);

/* One result of the model for the context ids[0 .. n). `top` may be NULL. */
tn_result fake_next(const fake_device *d, const int32_t *ids, uint32_t n, const tn_sampling *s,
                    int32_t *top_token, float *top_logprob);

#endif
