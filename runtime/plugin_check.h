/* SPDX-License-Identifier: Apache-2.0 */
/* plugin_check.h - `tenon plugin check`: does a plugin keep its side of the contract?
 *
 * Every check says one line: "ok", "FAIL" or "skip", and what. Whatever runs the plugin runs in
 * a child process behind the guard, so a plugin that dies fails its check and nothing else. */
#ifndef TN_PLUGIN_CHECK_H
#define TN_PLUGIN_CHECK_H

#include "wall.h"

#include <stdbool.h>

typedef struct tn_check {
    const char *file;           /* absolute */
    char name[40];              /* of the plugin: the file's name without .so */
    const char *const *set;     /* "key=value" for the plugin's options */
    uint32_t nset;
    const char *launcher;       /* starts {n} ranks of a communicator ("mpirun -n {n}"), or NULL */
    const char *program;        /* with it: tenon, which plays the ranks */
    const char *device;         /* plugin of the device a communicator works on, absolute, or NULL */
    uint32_t ncard;             /* with it: rank r takes card r % ncard */
    const char *board;          /* of the communicator's check under way */
    int out;                    /* file descriptor the lines go to */
    uint32_t nok, nfail, nskip; /* of this process */
} tn_check;

void tn_check_ok(tn_check *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void tn_check_fail(tn_check *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void tn_check_skip(tn_check *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Loads the plugin alone into a wall of its own, configured and, with `init`, inited. A front
 * host may be lent. The log goes to standard error, warnings and errors only. */
typedef struct tn_check_room {
    struct tn_log *log;
    struct tn_metrics *metrics;
    struct tn_guard *guard;
    tn_wall *wall;
    const tn_guest *guest;
    const tn_guest *device;     /* with tn_check.device */
} tn_check_room;
tn_status tn_check_enter(const tn_check *c, bool init, const tn_front_host *front, void *user,
                         tn_check_room *r, tn_err *err);
void tn_check_leave(tn_check_room *r);

/* A deterministic generator for test data. */
uint64_t tn_check_random(uint64_t *seed);
double tn_check_uniform(uint64_t *seed);   /* [-1, 1) */

/* By kind; each in a child of its own, which they may fork further. */
void tn_check_quant(tn_check *c);
void tn_check_device(tn_check *c);
void tn_check_comm(tn_check *c);
void tn_check_front(tn_check *c);

/* plugin_check_times.c: measures a communicator over `nrank` ranks; the table goes to c->out. */
tn_status tn_check_times(tn_check *c, uint32_t nrank, tn_err *err);

/* Plays one rank of a check that runs elsewhere, for a launcher. */
tn_status tn_check_rank(const tn_check *c, const char *board, tn_err *err);

/* The whole check. run: also what needs the plugin's code to run. True when nothing failed. */
bool tn_check_plugin(tn_check *c, bool run);

/* plugin_new.c: writes NAME.c, a plugin of that kind to begin with, and tells how it is built. */
tn_status tn_plugin_new(const char *name, const char *kind, tn_err *err);

#endif
