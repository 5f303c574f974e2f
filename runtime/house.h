/* SPDX-License-Identifier: Apache-2.0 */
/* house.h - everything that is up: configuration, log, plugins, models, frontends.
 *
 * A command opens the house with its flags, uses the models and closes it. Bringing up runs
 * INI -> log -> plugins -> flags -> models -> frontends; tearing down runs it backwards,
 * whole or half done. */
#ifndef TN_HOUSE_H
#define TN_HOUSE_H

#include "conf.h"
#include "flags.h"
#include "log.h"
#include "metric.h"
#include "progress.h"
#include "served.h"
#include "settings.h"
#include "wall.h"

#define TN_HOUSE_FRONTS 1u       /* also load frontends (serve) */
#define TN_HOUSE_NO_MODELS 2u    /* plugins only */
#define TN_HOUSE_PLAN 4u         /* models up to the budget: nothing is reserved */
#define TN_HOUSE_PROFILE 8u
#define TN_HOUSE_QUIET 16u       /* the log is at "warn" unless the INI or a flag says more */
#define TN_HOUSE_MODEL_WORD 32u  /* the first word is a model folder */
#define TN_HOUSE_CHECK 64u       /* stop once the configuration is known to be good */
#define TN_HOUSE_PARTS 128u      /* models' files and devices alone; with PLAN */

typedef struct tn_house_setup {
    const char *command;         /* for usage texts */
    const char *words;           /* behind it there; NULL: MODEL_DIR where the first word is one */
    const char *const *usual;    /* keys that --help shows, ends with NULL; NULL: a model's */
    int argc;                    /* arguments behind the command's name */
    char *const *argv;
    const tn_flag *own;          /* the command's flags */
    uint32_t nown;
    uint32_t words_most;         /* words that are no flags, the model included */
    uint32_t flags;
    struct tn_guard *guard;      /* borrowed, may be NULL */
    const char *const *set;      /* pairs KEY, VALUE for every [model], ends with NULL */
    /* Pairs FLAG, KEY, ends with NULL: own flags whose value goes to the option KEY of every device
     * plugin that has one. Where the first is given, such a plugin is the device of models that
     * name none. */
    const char *const *pass;
} tn_house_setup;

typedef struct tn_house {
    tn_conf *conf;
    tn_flags *flags;
    tn_settings settings;
    tn_log *log;
    tn_metrics *metrics;
    tn_wall *wall;
    tn_quant_ref *quant;         /* owned [nquant] */
    tn_device_ref *device;       /* owned [ndevice] */
    tn_comm_ref *comm;           /* owned [ncomm] */
    uint32_t nquant, ndevice, ncomm;
    tn_team_place place;         /* of this process among the ranks of a model */
    tn_model_settings *model;    /* owned [nmodel] */
    tn_served *served;           /* owned [nserved] */
    uint32_t nmodel, nserved;
    bool has_settings, is_live;  /* live: frontends were started */
    const char *command;
} tn_house;

tn_status tn_house_open(const tn_house_setup *setup, tn_house *h, tn_err *err);
/* Whether `c` is a configuration that the loaded plugins understand; nothing is changed. The
 * keys of a plugin that is not loaded are unknown, not wrong. */
tn_status tn_house_check(const tn_house *h, const tn_conf *c, tn_err *err);
/* Frontends go live; the models are up. */
tn_status tn_house_start(tn_house *h, tn_err *err);
/* No new work; what runs has `ms`. TN_CUT when something had to be cut off; the log has it. */
tn_status tn_house_drain(tn_house *h, uint32_t ms, tn_err *err);
void tn_house_close(tn_house *h);

/* The model called `name` (NULL: the first), or NULL. */
tn_served *tn_house_find(const tn_house *h, const char *name);
/* The effective configuration as an INI, with where each value came from. */
void tn_house_print_config(const tn_house *h, struct tn_buf *out);

/* fronthost.c: what frontends are lent; ctx is the wall's, whose user is the house. */
const tn_front_host *tn_house_front_host(void);

#endif
