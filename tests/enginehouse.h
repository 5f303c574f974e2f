/* SPDX-License-Identifier: Apache-2.0 */
/* enginehouse.h - an engine on the fake device, the guests that ask it, and what must come.
 *
 * A guest collects every piece of one request. A house is a device, an engine and an intake of
 * its own, with which the oracle works out the reply. The checks use cmocka's asserts, so they
 * belong to the test's own thread. */
#ifndef TN_TESTS_ENGINEHOUSE_H
#define TN_TESTS_ENGINEHOUSE_H

#include <pthread.h>

#include "buf.h"
#include "engine.h"
#include "fakedevice.h"
#include "oracle.h"
#include "tinytok.h"

#define SECOND 1000000000u
#define GUEST_TOKENS_MAX 1100
#define PATIENCE (60u * (uint64_t)SECOND) /* what takes longer hangs */

uint64_t now_ns(void);
void nap_us(uint32_t us);

/* One request as its frontend sees it. */
typedef struct guest {
    pthread_mutex_t lock;
    pthread_cond_t done;
    tn_buf text[TN_CHOICES_MAX];
    int32_t token[TN_CHOICES_MAX][GUEST_TOKENS_MAX];
    float logprob[TN_CHOICES_MAX][GUEST_TOKENS_MAX];
    uint32_t ntoken[TN_CHOICES_MAX], finish[TN_CHOICES_MAX], stop_kind[TN_CHOICES_MAX];
    int32_t stop_token[TN_CHOICES_MAX];
    uint32_t npiece, nlast, ntop;
    uint64_t nprompt, ncached, nreply, nprompt_data;
    float *prompt_logprob;       /* owned [nprompt_data] */
    bool late;                   /* a piece came after the last */
    tn_status status;
    char code[48];
    uint32_t slow_us;            /* how long the callback takes */
    tn_engine *cancels;          /* from inside its last piece */
    tn_request *req;
} guest;

void guest_open(guest *g);
void guest_close(guest *g);
void guest_piece(void *user, const tn_piece *p);
/* Until the last piece, or until there are `npiece` (0: the last); false after a minute. */
bool guest_waits(guest *g, uint32_t npiece);
void guest_wait(guest *g, uint32_t npiece); /* asserts it */

typedef struct house {
    fake_device device;
    tn_engine *engine;
    tn_metrics *metrics;
    tn_tok *tok;                 /* owned, opened with the defaults */
    tn_intake intake;            /* for the oracle: the same facts, no cache */
    uint32_t queue_max, timeout_ms, running, drafts;
    bool uncached;
    double prefix_check;         /* as in the engine's setup, and so is the next */
    uint32_t snapshot_every;
    tn_log *log;                 /* borrowed, NULL: none */
    int32_t eos;
} house;

void house_defaults(house *h);
/* Room for replies so long that they are still going on whatever the machine is busy with. */
void house_make_long(house *h);
tn_engine_setup house_setup(house *h);
void house_open(house *h);
/* Waits until no block is in use; then the outcomes must add up. */
void house_is_empty(house *h);
void house_close(house *h);     /* the engine may be closed (and NULL) already */
void house_ask(house *h, tn_ask *ask, guest *g);

/* `whole`: the reply must be finished, else what came must be its beginning. */
void check_choice(house *h, const tn_ask *ask, const guest *g, uint32_t c, bool whole);
/* All choices whole, usage right, one last piece. */
void check_guest(house *h, const tn_ask *ask, const guest *g);

void fill_ids(int32_t *ids, uint32_t n, uint64_t seed);

#endif
