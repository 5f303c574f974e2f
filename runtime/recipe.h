/* SPDX-License-Identifier: Apache-2.0 */
/* recipe.h - building a recipe piece by piece, checking it, and printing it.
 *
 * A draft owns everything the finished recipe points to. Adding never fails on the spot: the
 * first lack of memory marks the draft, and tn_draft_finish reports it. */
#ifndef TN_RECIPE_H
#define TN_RECIPE_H

#include "arena.h"
#include "modelconf.h"

#include <stdbool.h>

struct tn_buf;

/* Rows [row0, row1) of a module in the files, as the next rows of a weight. */
typedef struct tn_slice {
    const char *module;         /* the name without ".weight"; the whole name when `bare` */
    uint64_t n, k;              /* of the whole module; leading dimensions are multiplied in */
    uint64_t row0, row1;
    bool bare;
    bool quantized;             /* read by the quantization plugin, else by the core */
    bool second;                /* from the second folder, which brings the drafting module */
} tn_slice;

/* Where a weight's numbers come from: the rows of each expert in turn, top to bottom. */
typedef struct tn_source {
    tn_slice *slice;            /* [nexpert * nslice] */
    uint32_t nslice;
    uint64_t col0, col1;        /* this rank's columns */
} tn_source;

typedef struct tn_draft {
    tn_arena arena;
    tn_recipe recipe;
    tn_source *source;          /* [recipe.nweight] */
    tn_buffer *buffer;
    tn_weight_spec *weight;
    tn_op *op;
    tn_rope *rope;
    tn_cache_spec *cache;
    tn_state_spec *state;
    tn_section *section;
    uint32_t cap_buffer, cap_weight, cap_op, cap_rope, cap_cache, cap_state, cap_section;
    bool failed;
} tn_draft;

void tn_draft_open(tn_draft *d, const char *name, uint32_t act_dtype, uint32_t vocab);
void tn_draft_close(tn_draft *d);

/* Each returns the new index, or TN_NONE once the draft has failed. Names are printf'd. */
uint32_t tn_draft_buffer(tn_draft *d, uint32_t rows, uint32_t width, uint32_t dtype,
                         const char *name);
uint32_t tn_draft_matrix(tn_draft *d, uint32_t role, uint64_t n, uint64_t k, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
uint32_t tn_draft_vector(tn_draft *d, uint64_t k, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* A weight whose rows come from `nslice` places in the files for each of its experts: the
 * caller sets slices 0 .. nexpert * nslice - 1. */
uint32_t tn_draft_stack(tn_draft *d, uint32_t role, uint32_t nexpert, uint32_t nslice, uint64_t n,
                        uint64_t k, const char *fmt, ...) __attribute__((format(printf, 7, 8)));
void tn_draft_slice(tn_draft *d, uint32_t w, uint32_t i, const tn_slice *slice);
/* Of each slice's module only columns [col0, col1) are this rank's. */
void tn_draft_columns(tn_draft *d, uint32_t w, uint64_t col0, uint64_t col1);
/* A name that lives as long as the draft. */
const char *tn_draft_name(tn_draft *d, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
uint32_t tn_draft_rope(tn_draft *d, const tn_model_conf *c, uint32_t npos);
uint32_t tn_draft_cache(tn_draft *d, uint32_t heads, uint32_t k_dim, uint32_t v_dim);
/* A state of `k_heads` and `v_heads` of this rank; the other sizes are the model's. */
uint32_t tn_draft_state(tn_draft *d, const tn_delta_conf *c, uint32_t k_heads, uint32_t v_heads);
/* Copies args (its first member is its size). */
void tn_draft_op(tn_draft *d, uint32_t kind, uint32_t layer, const void *args, const char *fmt,
                 ...) __attribute__((format(printf, 5, 6)));
/* Everything added since the last call becomes one section. */
void tn_draft_section(tn_draft *d, const char *name);

/* TN_OK and d->recipe is whole, or TN_NO_MEMORY. */
tn_status tn_draft_finish(tn_draft *d, tn_err *err);

/* The whole model on one screen: buffers, then one line per operation (layers that repeat are
 * folded), with weights, shapes and forms. */
void tn_recipe_print(const tn_recipe *r, struct tn_buf *out);

#endif
