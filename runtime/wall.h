/* SPDX-License-Identifier: Apache-2.0 */
/* wall.h - the plugin host: loads plugins, negotiates, and leads them through their lives.
 *
 * Order: open; load (adopts: reads the file, then dlopen; nothing of the plugin but its
 * constructors has run); configure (the INI's and the command line's values, checked against
 * the plugins' own options); init (probe, then init); start; drain; stop; close. Each step
 * that fails is undone by stop and close, whole or half done, in the reverse order of doing.
 *
 * Control thread only, except for what the host table lends (marked [any] in plugin.h). */
#ifndef TN_WALL_H
#define TN_WALL_H

#include <tenon/plugin.h>

#include <stdbool.h>

struct tn_buf;
struct tn_conf;
struct tn_flag_source;
struct tn_guard;
struct tn_log;
struct tn_metrics;
struct tn_values;

typedef struct tn_wall tn_wall;

/* A plugin as the core sees it. Borrowed from the wall until close; the tables are the
 * core's own copies, so that a member an older author lacked reads as NULL. */
typedef struct tn_guest {
    const char *name, *version, *summary;
    const char *file;          /* real path */
    uint32_t kind;             /* TN_KIND_* */
    uint32_t abi_minor;        /* as compiled */
    bool up;                   /* init succeeded, stop has not been called */
    bool live;                 /* start succeeded */
    const char *away;          /* why it was set aside (not required, or a lenient wall), or NULL */
    tn_status fault;           /* with `away`: what a required one would have failed with */
    void *self;                /* while up */
    const tn_quant *quant;     /* one of these four, by kind */
    const tn_device *device;
    const tn_comm *comm;
    const tn_front *front;
    const tn_option *options;  /* the core's copies, stepping by sizeof(tn_option) */
    uint32_t noption;
} tn_guest;

/* All borrowed until close; each may be NULL. */
tn_status tn_wall_open(struct tn_log *log, struct tn_metrics *metrics, struct tn_guard *guard,
                       tn_wall **out, tn_err *err);
/* Stops what is up and unloads everything. */
void tn_wall_close(tn_wall *w);

/* Seconds one call of the life cycle may take; 30 unless set, 0: no limit. */
void tn_wall_set_patience(tn_wall *w, uint32_t seconds);
/* Whatever is wrong with a plugin sets it aside, required or not. Before load. */
void tn_wall_set_lenient(tn_wall *w);
/* What frontends get: host->front, and what tn_wall_user(ctx) answers. Before init. */
void tn_wall_set_front(tn_wall *w, const tn_front_host *front, void *user);
/* The user pointer behind the ctx that a tn_front_host call is given. */
void *tn_wall_user(void *ctx);
/* The name of the plugin behind a host's ctx. */
const char *tn_wall_name(void *ctx);

/* Where plugins are looked for: absolute folders, copied. */
tn_status tn_wall_set_path(tn_wall *w, char *const *folder, uint32_t n, tn_err *err);
/* Adopts NAME.so from the path, or `file` (absolute). `origin` begins the messages about the
 * section ("tenon.ini:3"). `required` false: what cannot be loaded here, or whose probe
 * refuses, is set aside with a line in the log. TN_CONFIG: a bad or missing file or name, one
 * loaded twice; TN_UNAVAILABLE: a file that is no plugin for this core. */
tn_status tn_wall_load(tn_wall *w, const char *name, const char *file, bool required,
                       const char *origin, tn_err *err);
/* tn_wall_load for every [plugin NAME], by its keys `file` and `required`. */
tn_status tn_wall_load_all(tn_wall *w, const struct tn_conf *c, tn_err *err);
/* Gives every plugin its values; unknown keys of its section are refused here. */
tn_status tn_wall_configure(tn_wall *w, const struct tn_conf *c, tn_err *err);
/* Whether `c` could be given to configure; nobody's values change. */
tn_status tn_wall_check(const tn_wall *w, const struct tn_conf *c, tn_err *err);

tn_status tn_wall_init(tn_wall *w, tn_err *err);
/* Only those of one kind; 0: all. */
tn_status tn_wall_init_kind(tn_wall *w, uint32_t kind, tn_err *err);
/* kind 0: all that are up and not live, frontends last. */
tn_status tn_wall_start(tn_wall *w, uint32_t kind, tn_err *err);
/* Asks the live ones (of a kind, or all) to finish; the first failure is told, all are asked. */
tn_status tn_wall_drain(tn_wall *w, uint32_t kind, uint32_t ms, tn_err *err);
/* Stops a kind, or all (0), in the reverse order of their init. */
void tn_wall_stop(tn_wall *w, uint32_t kind);

uint32_t tn_wall_count(const tn_wall *w);
const tn_guest *tn_wall_at(const tn_wall *w, uint32_t i);
/* The i-th plugin of a kind that was not set aside; NULL past the end. */
const tn_guest *tn_wall_of(const tn_wall *w, uint32_t kind, uint32_t i);
const tn_guest *tn_wall_find(const tn_wall *w, uint32_t kind, const char *name);
const char *tn_wall_kind_name(uint32_t kind);   /* "quant", "device", "comm", "front" */

/* Bytes the plugin holds of what it took through its host. */
uint64_t tn_wall_held(const tn_guest *g);
/* The option tables for tn_flags_parse; `out` has room for tn_wall_count entries. */
uint32_t tn_wall_flags(const tn_wall *w, struct tn_flag_source *out);
/* Every [plugin ...] section with values and origins, as an INI. After configure. */
void tn_wall_print(const tn_wall *w, struct tn_buf *out);

#endif
