/* SPDX-License-Identifier: Apache-2.0 */
/* team.h - the ranks that share a model, one process each.
 *
 * Rank 0 runs everything that a lone process runs. Each further rank is the same program on the
 * same command line; it brings the model up in step with rank 0 and then follows:
 *
 *     rank 0                                    rank r
 *     tn_team_start (starts or awaits them)     tn_team_start (joins)
 *     tn_team_round, tn_team_share ... the same calls in the same order ...
 *     tn_team_lead: a tn_device whose calls     tn_team_follow: does each of them on its own
 *     are done by all ranks                     program until rank 0 lets go
 *
 * So engine and scheduler know nothing of ranks. Every rank runs every step whole, with the same
 * draws; nothing comes back but failures, and what is read out of caches.
 *
 * Faults. A rank that ends is seen at once (its socket closes), one that stands still or cannot be
 * reached after `silence` seconds (each sends beats). Then the communicator is aborted, so nobody
 * waits on, and `on_lost` is called. A rank whose rank 0 is gone or silent ends by itself. Who was
 * stopped itself counts anew: when all were, as by a container's freezer, all go on. */
#ifndef TN_TEAM_H
#define TN_TEAM_H

#include <tenon/plugin.h>

#include <stdbool.h>

#include "log.h"
#include "teamstats.h"

typedef struct tn_team tn_team;

/* Who this process is. From TENON_RANK, which tenon gives to the ranks it starts; from the number
 * of this host; or from a launcher: OMPI_COMM_WORLD_RANK and _SIZE, PMI_RANK and PMI_SIZE,
 * SLURM_PROCID and SLURM_NTASKS. */
typedef struct tn_team_place {
    uint32_t rank, nrank;        /* nrank 0: nobody says, this is a rank 0 that starts others */
    uint32_t local, nlocal;      /* the same, counted on this host */
    uint32_t starts;             /* ranks behind this one that it starts */
    uint32_t model;              /* started by tenon: which [model] */
    int fd;                      /* and the socket to rank 0; -1: that is met by its address */
} tn_team_place;

enum { TN_TEAM_AUTO, TN_TEAM_ITSELF, TN_TEAM_LAUNCHER }; /* who starts the ranks */

/* What the configuration says of hosts. */
typedef struct tn_team_hosts {
    uint32_t nrank;              /* of the model */
    uint32_t nhost, host;        /* nhost 1: this one alone, or a launcher's */
    uint32_t starter;            /* TN_TEAM_* */
} tn_team_hosts;

/* TN_CONFIG: numbers that contradict each other or are none. */
tn_status tn_team_place_read(const tn_team_hosts *h, tn_team_place *out, tn_err *err);
/* Narrows the process to its share of the processors, so that devices which count them take no
 * more; undone by tn_team_cores_restore. */
void tn_team_cores_share(uint32_t local, uint32_t nlocal);
void tn_team_cores_restore(void);

typedef struct tn_team_setup {
    tn_team_place place;         /* nrank set */
    uint32_t model;              /* index, for the ranks to be started */
    const char *address;         /* rank 0's, where it does not start all: "host:port" */
    uint32_t patience;           /* seconds for all to come */
    uint32_t silence;            /* seconds after which one that says nothing is lost */
    tn_log *log;                 /* borrowed, may be NULL */
} tn_team_setup;

/* Rank 0: TN_UNAVAILABLE names the ranks that did not come in time. */
tn_status tn_team_start(const tn_team_setup *setup, tn_team **out, tn_err *err);
/* Rank 0 lets the others go and waits for them; what does not end is ended. */
void tn_team_close(tn_team *t);
/* Logs (debug) what this rank is at, so that a start which stands still can be told. NULL: alone. */
void tn_team_phase(const tn_team *t, const char *what);
uint32_t tn_team_rank(const tn_team *t);
uint32_t tn_team_size(const tn_team *t);
/* Steps that this rank has done, and the time from their call to their end. [any] */
void tn_team_steps(const tn_team *t, uint64_t *steps, uint64_t *ns);

/* All ranks come with a status of theirs and `size` bytes; all get the first failure (its sentence
 * names the rank), and rank 0 all the bytes, [nrank][size], in `all`. */
tn_status tn_team_round(tn_team *t, tn_status mine, const void *data, uint64_t size, void *all,
                        tn_err *err);
/* Rank 0, behind the last round: TN_UNAVAILABLE when somebody could not be told a verdict. */
tn_status tn_team_missed(const tn_team *t, tn_err *err);
/* All get what rank 0 has. */
tn_status tn_team_share(tn_team *t, void *data, uint64_t size, tn_err *err);

/* What serving needs; all borrowed until close. */
typedef struct tn_team_work {
    const tn_device *device;
    void *program;
    const tn_comm *comm;
    void *group;
    uint32_t vocab;
    bool check;                  /* ranks send a hash of each step's results, rank 0 compares */
    void (*look)(void *user, tn_rank_stats *out); /* [any] others: goes with their beats */
    void (*hear)(void *user, uint32_t rank, const tn_rank_stats *stats); /* [any] rank 0 */
    void (*on_lost)(void *user, const tn_err *why); /* [any] rank 0, once */
    void *user;
} tn_team_work;

/* Rank 0: the device to serve with, whose program is the team. Borrowed until close. */
tn_status tn_team_lead(tn_team *t, const tn_team_work *w, const tn_device **device, tn_err *err);
/* Rank 0: TN_UNAVAILABLE when a rank was lost, and why; also before `on_lost` could do anything
 * about it. [any] */
tn_status tn_team_health(tn_team *t, tn_err *err);
/* From here on nobody calls `on_lost`, which may be under way until this returns. */
void tn_team_hush(tn_team *t);
/* Others: returns when rank 0 lets go (TN_OK) or something failed. */
tn_status tn_team_follow(tn_team *t, const tn_team_work *w, tn_err *err);

#endif
