/* SPDX-License-Identifier: Apache-2.0 */
/* request.h - one accepted request and its choices, from the queue to the last piece.
 *
 * A choice is what the scheduler runs: prompt and reply as one array of tokens that grows at
 * its end. Two threads share it, and each field belongs to one of them:
 *   - fixed: written before the request enters the inbox, read by all;
 *   - step: the step thread's alone;
 *   - crossing: published by one side with a release store, read by the other;
 *   - output: the output thread's alone.
 *
 * A choice on the step thread:
 *
 *    RESTING --(choice 0 has its prompt computed)--> RUNNING
 *       |                                             |  ^
 *       +--> WAITING <------- preempted --------------+  |
 *               +---------------- admitted --------------+
 *    any of them --> DONE
 *
 * Memory is given back when the frontend let go, the last piece went out and the step thread
 * has retired the request. */
#ifndef TN_REQUEST_H
#define TN_REQUEST_H

#include <tenon/plugin.h>

#include <stdatomic.h>
#include <stdbool.h>

#include "arena.h"
#include "kv.h"
#include "output.h"
#include "sampling.h"

#define TN_REQUEST_ID_SIZE 64u
#define TN_TURNS_MAX 4u

/* How a request ended as a whole. */
#define TN_END_NONE 0u
#define TN_END_DONE 1u       /* every choice finished */
#define TN_END_CANCELLED 2u
#define TN_END_TIMEOUT 3u
#define TN_END_CUT 4u        /* drain deadline or close */
#define TN_END_NAN 5u
#define TN_END_ENGINE 6u
#define TN_END_MEMORY 7u     /* no memory while making a piece */
#define TN_END_BUG 8u        /* the device drew what is no token */

#define TN_CHOICE_RESTING 0u
#define TN_CHOICE_WAITING 1u
#define TN_CHOICE_RUNNING 2u
#define TN_CHOICE_DONE 3u

/* What the model said about one token. The alternatives stand in an array beside it. */
typedef struct tn_report {
    float logprob;
    int32_t rank;
    uint32_t ntop;
} tn_report;

typedef struct tn_top {
    int32_t token;
    float logprob;
} tn_top;

typedef struct tn_choice {
    /* fixed */
    struct tn_request *req;
    uint32_t index;
    uint64_t order;              /* first come, first served: smaller goes first */

    /* step, but for token[] and report[]: entries below `nready` are anybody's to read */
    int32_t *token;              /* [nprompt + max_tokens], prompt then reply */
    tn_kv_key *key;              /* of each full block; NULL without prefix caching */
    tn_bias *scratch;            /* for tn_sampler_fill */
    uint32_t state;              /* TN_CHOICE_* */
    uint32_t ntoken;
    uint32_t ncomputed;          /* tokens whose keys and values lie in the blocks */
    uint32_t nkey, nsealed;      /* keys known; blocks sealed or found sealed */
    uint32_t nblock;             /* blocks held; their numbers lie in the scheduler's table */
    uint32_t slot;               /* TN_NONE while not running */
    int32_t rslot;               /* slot of its recurrent state, -1: none */
    uint32_t pending;            /* rows of a draft step that count but are not in it yet */
    uint32_t ndraft;             /* drafts that stand in token[] behind ntoken */
    uint32_t nstand;             /* drafts of the step that stood */
    uint32_t planned;            /* rows in this step, 0: none */
    struct tn_choice *prev, *next; /* waiting list */

    /* crossing: step -> output */
    tn_report *report;           /* ring [report_cap], NULL: no log-probabilities */
    tn_top *top;                 /* ring [report_cap, ntop] */
    atomic_uint nready;          /* reply tokens published */
    atomic_uint ended;           /* 1: the five below stand; stored before the last nready */
    uint32_t nfinal;             /* reply tokens in all */
    uint32_t finish, stop_kind;
    int32_t stop_token;
    uint64_t first_ns;           /* when the first token was drawn; with it */
    /* crossing: output -> step */
    atomic_uint nseen;           /* reply tokens whose reports may be overwritten */
    atomic_uint drop;            /* 1: a stop string ended it, run it no further */

    /* output */
    tn_reply reply;
    uint32_t nsent;              /* reply tokens that were turned into pieces */
    bool echo_sent, sent_last;
    uint64_t piece_ns;           /* when its latest piece went out */
} tn_choice;

typedef struct tn_request {
    /* fixed */
    atomic_uint holds;           /* frontend and engine */
    struct tn_engine *engine;    /* whose it is; borrowed, gone once the last piece is out */
    tn_arena arena;              /* small things; the large arrays are allocated one by one */
    char id[TN_REQUEST_ID_SIZE];
    tn_choice *choice;           /* [nchoice], in the arena */
    uint32_t nchoice;
    uint32_t nprompt, max_tokens;
    uint32_t flags;              /* TN_ASK_* */
    bool logprobs;               /* report[] is wanted */
    int32_t prompt_logprobs;     /* -1: none */
    uint32_t report_cap;
    tn_kv_key root;              /* of its cache name space */
    uint32_t turn[TN_TURNS_MAX]; /* prompt tokens after which a turn of a chat ends, rising */
    uint32_t nturn;
    tn_sampler sampler;
    tn_stops *stops;             /* owned, NULL: none */
    char *echo;                  /* owned, the prompt's text; NULL unless asked for */
    size_t echo_size;
    uint64_t arrival_ns, deadline_ns;
    void (*on_piece)(void *user, const tn_piece *p);
    void *user;

    /* step */
    uint32_t nopen;              /* choices that are not DONE */
    uint32_t nscored;            /* prompt tokens 1 .. nscored have their reports */
    bool begun;                  /* has been scheduled: no longer in the queue's count */
    bool news;                   /* in the scheduler's list of requests to tell about */
    struct tn_request *news_next;

    /* crossing: step -> output */
    tn_report *prompt_report;    /* [nprompt], entry 0 unused; NULL unless asked for */
    tn_top *prompt_top;          /* [nprompt, prompt_logprobs] */
    uint32_t ncached;            /* prompt tokens found in the cache; with the first token */
    uint32_t miss, miss_at;      /* why no more of them were (prefix.h); with ncached */
    uint64_t begun_ns;           /* first scheduled; with the first token */
    atomic_uint failed;          /* TN_END_NAN, TN_END_ENGINE or TN_END_BUG */
    /* crossing: any -> both */
    atomic_uint cancelled;
    atomic_uint over;            /* the last piece went out: free its blocks */

    /* under the engine's lock */
    struct tn_request *inbox_next;
    struct tn_request *outlet_next;
    bool outlet_queued;
    bool retired;                /* the step thread knows it no more */
    bool is_live;                /* in the engine's list */
    struct tn_request *live_prev, *live_next;

    /* output */
    uint32_t end;                /* TN_END_*, NONE while it goes on */
    bool prompt_sent, prompt_counted;
    uint32_t ncached_seen;       /* ncached, once it may be read */
    uint32_t miss_seen, miss_at_seen; /* and why no more of them were */
    uint64_t nreply;             /* reply tokens of all choices */
} tn_request;

/* What a request takes, known once the ask was checked and the prompt tokenized. */
typedef struct tn_request_plan {
    uint32_t nchoice, max_tokens;
    uint32_t ntop;               /* alternatives of a reply token */
    bool logprobs;
    int32_t prompt_logprobs;
    uint32_t block_tokens;       /* 0: no keys */
} tn_request_plan;

/* Copies `prompt` ([nprompt]) into each choice. TN_NO_MEMORY. The caller fills in the other
 * fixed fields and opens the replies. Held once by the frontend, once by the engine. */
tn_status tn_request_new(const tn_request_plan *plan, const int32_t *prompt, uint32_t nprompt,
                         tn_request **out, tn_err *err);
/* [any] Lets go of one hold; the last one frees. A frontend calls it exactly once, whenever it
 * likes: pieces keep coming until the last, so `user` must outlive that, not the hold. */
void tn_request_release(tn_request *r);

#endif
