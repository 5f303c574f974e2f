/* SPDX-License-Identifier: Apache-2.0 */
/* wall_guest.h - what the wall's own files share about one plugin. */
#ifndef TN_WALL_GUEST_H
#define TN_WALL_GUEST_H

#include "elffile.h"
#include "option.h"
#include "wall.h"

#include <pthread.h>
#include <stdatomic.h>

#define TN_MULTIPLIES_MAX 16u

typedef struct guest {
    tn_guest pub;
    tn_wall *wall;
    void *handle;               /* of dlopen, NULL once unloaded */
    uint64_t dev, ino;
    char *name, *version, *summary, *file; /* owned */
    char *away;                 /* owned, NULL: usable */
    bool required;
    tn_plugin plugin;           /* copy; tables below */
    union {
        tn_quant quant;
        tn_device device;
        tn_comm comm;
        tn_front front;
    } table;
    tn_multiply *multiply;      /* owned, [table.quant.nmultiply] */
    tn_option *options;         /* owned, strings in the library */
    tn_values *values;          /* owned */
    tn_host host;
    pthread_mutex_t lock;       /* guards `held` */
    struct tn_held *held;       /* blocks taken through the host and not given back */
    _Atomic uint64_t held_bytes, held_blocks;
    uint32_t memory_gauge;      /* metric */
} guest;

struct tn_wall {
    struct tn_log *log;
    struct tn_metrics *metrics;
    struct tn_guard *guard;
    const tn_front_host *front;
    void *user;
    uint32_t patience;
    bool lenient;
    char **folder;              /* owned */
    uint32_t nfolder;
    struct guest **guest;       /* owned, in the order of loading */
    uint32_t n;
    struct guest **order;       /* those up, in the order of init */
    uint32_t norder;
};

/* wall_adopt.c. The file: what can be told before anything of it runs. The descriptor in
 * memory: everything, and fills the copies in g. */
tn_status tn_wall_adopt_file(guest *g, const tn_elf *elf, tn_err *err);
tn_status tn_wall_adopt(guest *g, const tn_plugin *entry, const tn_elf *elf, tn_err *err);
void tn_wall_disown(guest *g);

/* wall_load.c: a guest from its file to adoption, and back. `file` NULL: from the path. */
tn_status tn_guest_new(tn_wall *w, const char *name, bool required, guest **out, tn_err *err);
tn_status tn_guest_load(guest *g, const char *file, const char *origin, tn_err *err);
void tn_guest_drop(guest *g);

/* wall_host.c: the host table of one plugin. */
void tn_wall_lend(guest *g);
void tn_wall_reclaim(guest *g);   /* frees what the plugin still holds; nothing of it runs */

/* wall_visit.c: one call of the life cycle, guarded and looked after. */
typedef struct visit visit;
tn_status tn_visit_open(tn_wall *w, const char *plugin, const char *phase, uint32_t seconds,
                        visit **out, tn_err *err);
tn_err *tn_visit_err(visit *v);   /* for the plugin to write into */
/* Ends the visit: st is what the plugin answered. Returns TN_OK, or a status fit for an exit
 * code with one safe sentence in err. */
tn_status tn_visit_close(visit *v, tn_status st, tn_err *err);

#endif
