/* SPDX-License-Identifier: Apache-2.0 */
/* loader.h - from a checkpoint's tensors to a device's packed weights.
 *
 * Finds the quantization that owns the checkpoint, asks it for the form of every matrix of a
 * recipe draft, and feeds the rows to the device while it packs. Plain tensors (and plain
 * checkpoints) are the core's own. What the file holds decides; config.json only explains. */
#ifndef TN_LOADER_H
#define TN_LOADER_H

#include "dummy.h"
#include "log.h"
#include "recipe.h"

#include <stdatomic.h>

struct tn_buf;

/* A loaded quantization plugin. */
typedef struct tn_quant_ref {
    const char *name;
    const tn_quant *table; /* the core's own copy */
    void *self;
} tn_quant_ref;

/* Who reads this checkpoint? `wanted` is a plugin's name or "auto". *out is TN_NONE for a plain
 * checkpoint. TN_DATA names the checkpoint's method and the plugins that were asked. */
tn_status tn_loader_pick(const tn_view *v, const tn_quant_ref *q, uint32_t nq,
                         const char *wanted, uint32_t *out, tn_err *err);

/* Progress: `done` of `all` file bytes. */
typedef void (*tn_loader_progress)(void *user, uint64_t done, uint64_t all);

typedef struct tn_loader {
    const tn_view *view;     /* borrowed */
    const tn_view *second;   /* borrowed; the folder of the drafting module, or NULL */
    const tn_quant_ref *q;   /* borrowed, NULL: plain */
    const tn_quant_ref *second_q; /* the same for `second` */
    const tn_dummy *dummy;   /* borrowed; not NULL: no file is read, its numbers are served */
    tn_draft *draft;         /* borrowed; forms are written into its weights */
    uint32_t requant_head, requant_dense; /* 0 or TN_FORM_W8G */
    uint64_t file_bytes;     /* of all weights, once forms are known */
    _Atomic uint64_t read;   /* bytes of the files that were handed over, so far */
    bool mapped;             /* routed experts are placed MAPPED: loader, draft and views stay */
    bool host;               /* they are placed HOST */
    uint32_t nhost;          /* how many weights were, once forms are known */
    bool strict;             /* refuse plain weights that are NaN or infinite */
    uint64_t odd;            /* how many of this rank's were, once all is packed; quantizations check their own,
                                and mapped ones are only looked at when strict */
} tn_loader;

/* The quantization of the folder that a slice lies in; NULL: plain. */
const tn_quant_ref *tn_loader_quant(const tn_loader *l, const tn_slice *p);
/* Fills in the form of every weight and checks shapes. */
tn_status tn_loader_forms(tn_loader *l, tn_err *err);
/* Packs everything; device order: compile and reserve came before. `progress` may be NULL. */
tn_status tn_loader_pack(tn_loader *l, const tn_device *device, void *program,
                         tn_loader_progress progress, void *user, tn_err *err);
/* Bytes a decoded token reads of the device's packed weights: all but the embedding that is only looked
 * up, and of the routed experts those that it chooses; `here` is the part of those placed HOST that
 * lies on the device, and which ones do is the device's secret: it is the mean. */
uint64_t tn_loader_token_bytes(const tn_loader *l, const tn_device *device, void *program, double here);
/* Packed bytes by role (TN_ROLE_*) of what is placed on the device; 0 where it does not tell. */
typedef struct tn_loader_sizes {
    uint64_t role[TN_ROLE_VECTOR + 1];
    uint64_t elsewhere;      /* of the experts: placed MAPPED or HOST, in none of `role` */
    uint32_t nelsewhere;     /* and how many weights they are */
    uint64_t files;          /* bytes that all of them take in the files: what a rank reads */
} tn_loader_sizes;
void tn_loader_sum(const tn_loader *l, const tn_device *device, void *program,
                   tn_loader_sizes *out);
/* One line a weight: tensor, form, owner, bytes in the file and packed (0 before reserve). */
void tn_loader_print(const tn_loader *l, const tn_device *device, void *program,
                     struct tn_buf *out);

#endif
