/* SPDX-License-Identifier: Apache-2.0 */
/* served.h - one model brought up: files, forms, device, cache, tokenizer, engine.
 *
 * Bringing up runs top to bottom in served.c: read the configs, pick the quantization and
 * the device, build the recipe, compile it, make the budget, take the memory, pack, start. */
#ifndef TN_SERVED_H
#define TN_SERVED_H

#include "budget.h"
#include "chat.h"
#include "checkpoint.h"
#include "commchoice.h"
#include "commcount.h"
#include "engine.h"
#include "genconf.h"
#include "loader.h"
#include "log.h"
#include "metric.h"
#include "modelconf.h"
#include "recipe.h"
#include "settings.h"
#include "team.h"
#include "teamstats.h"
#include "tokenizer.h"

#include <time.h>

typedef struct tn_device_ref {
    const char *name;
    const tn_device *table; /* the core's own copy */
    void *self;
} tn_device_ref;

#define TN_SERVED_PROFILE 1u    /* time every operation */
#define TN_SERVED_NO_ENGINE 2u  /* stop before reserving: recipe, forms and budget only */
#define TN_SERVED_PARTS 4u      /* stop before that: files and device are open; with NO_ENGINE */

typedef struct tn_served_setup {
    const tn_model_settings *settings; /* borrowed until close */
    const tn_quant_ref *quant;         /* [nquant], borrowed until close */
    const tn_device_ref *device;       /* [ndevice] */
    const tn_comm_ref *comm;           /* [ncomm] */
    uint32_t nquant, ndevice, ncomm;
    tn_team_place place;               /* this process among the model's ranks */
    uint32_t model;                    /* which [model] this is, for ranks to be started */
    uint32_t flags;
    tn_log *log;                       /* borrowed, may be NULL */
    tn_metrics *metrics;               /* borrowed, may be NULL */
    tn_loader_progress progress;       /* may be NULL */
    void *user;
} tn_served_setup;

typedef struct tn_served {
    const tn_model_settings *settings;
    tn_model_conf conf;
    tn_genconf gen;
    tn_draft draft;
    bool has_draft;
    const tn_quant_ref *quant;         /* NULL: a plain checkpoint */
    const tn_quant_ref *second_quant;  /* the same for the drafting module's folder */
    const tn_device_ref *device;
    void *dev, *program;
    tn_device_info info;
    tn_limits limits;
    tn_need need;
    tn_budget budget;
    tn_team_place place;               /* nrank 1: no others */
    tn_team *team;                     /* the ranks that share it, NULL for one alone */
    const tn_comm_ref *comm;
    void *group;
    tn_comm_count count;               /* before the communicator, where that is on host memory */
    tn_rank_board *board;              /* rank 0: what /metrics says of the ranks */
    tn_rank_stats report;              /* what the device said of itself, and when */
    time_t reported, ticked;
    uint64_t room;                     /* what of its device's memory this rank may take */
    uint64_t memory_free;              /* that of the rank that has least */
    bool whole;                        /* and all of it may be taken */
    uint64_t token_bytes;              /* packed weight bytes that one token reads */
    uint64_t fingerprint[2];           /* of model and cache, see fingerprint.h */
    tn_tok *tok;
    tn_chat *chat;                     /* NULL: no template */
    tn_ckpt *ckpt, *second;            /* open while loading, and after it while
                                          experts stay mapped; the drafting module's, or NULL */
    uint32_t drafts;                   /* drafts a sequence in a step, 0: none */
    tn_dummy dummy;                    /* with load_format = dummy */
    tn_loader loader;
    tn_engine *engine;
    int64_t created;
    tn_log *log;
    tn_buf table;                      /* the loader's table, tn_loader_print */
} tn_served;

/* A rank other than 0 serves until rank 0 lets it go, and answers TN_CANCELLED then. */
tn_status tn_served_open(const tn_served_setup *setup, tn_served *out, tn_err *err);
void tn_served_close(tn_served *s);    /* also a half-open one */
/* The i-th name the model answers to, NULL past the end. */
const char *tn_served_name(const tn_served *s, uint32_t i);

#endif
