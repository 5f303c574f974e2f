/* SPDX-License-Identifier: Apache-2.0 */
/* fakeview.h - a checkpoint and a host made of memory, for testing quantizations.
 *
 * A fake view holds a config.json and any tensors, each in a block of its own that ends where
 * the tensor ends and begins at an odd address: a reader that trusts alignment or steps past
 * the end is caught by the sanitizers. It is also a sink, so what a writer writes can be read
 * back at once. The fake host counts what it lends and keeps what is logged. */
#ifndef FAKEVIEW_H
#define FAKEVIEW_H

#include <tenon/plugin.h>

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct fake_host {
    tn_host host;
    int64_t strict;           /* what opt_int answers */
    atomic_int live;          /* pieces of memory lent and not returned */
    atomic_int countdown;     /* >= 0: allocations until one fails; -1: none does */
    unsigned nlog;
    char log[1024];           /* the last line */
} fake_host;

void fake_host_open(fake_host *h);

typedef struct fake_tensor {
    char *name;
    tn_tensor t;
    void *block;              /* owned; t.data lies in it */
} fake_tensor;

typedef struct fake_view {
    tn_view view;
    tn_sink sink;             /* puts tensors into this view, config into its quant */
    tn_json_doc *doc;         /* owned */
    fake_tensor *tensor;      /* owned */
    size_t ntensor, room;
    char *file_text;          /* the last file a writer wrote, owned */
} fake_view;

/* `config` is the text of config.json; its quantization_config becomes view.quant. Both stop
 * the program when the text is no JSON: the tests' own fault. */
void fake_view_open(fake_view *v, const char *config);
void fake_view_config(fake_view *v, const char *config);
void fake_view_close(fake_view *v);

/* Adds or replaces a tensor; `data` NULL gives zeros. Unused sizes are ignored. */
void fake_view_put(fake_view *v, const char *name, uint32_t dtype, uint32_t ndim, uint64_t d0,
                   uint64_t d1, const void *data);
void fake_view_drop(fake_view *v, const char *name);
/* The bytes of a tensor, to spoil them; NULL when there is none. */
void *fake_view_data(fake_view *v, const char *name);

/* Form and values W[rows, cols] of a rectangle, through form_of and read; read is asked for
 * `step` rows at a time. Also checks what any form must fulfil (sizes, every column once).
 * `out` has room for the rectangle. */
tn_status fake_matrix(const tn_quant *q, void *self, const tn_view *v, const tn_module *m,
                      const tn_rect *r, uint64_t step, tn_form *form, float *out, tn_err *err);

/* A plugin at work on a fake checkpoint. */
typedef struct fake_bench {
    fake_host host;
    fake_view view;
    const tn_plugin *plugin;
    const tn_quant *q;
    void *self;
} fake_bench;

/* `fmt` prints the text of config.json. Stops the program when the plugin does not start. */
void fake_bench_open(fake_bench *b, const tn_plugin *plugin, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void fake_bench_restart(fake_bench *b, int64_t strict);
/* Pieces of memory that the plugin kept: 0. */
int fake_bench_close(fake_bench *b);

/* Reads the module "l" and some forty rectangles of it and compares with `w` [n, k], exactly;
 * `w` is the whole module's values. */
tn_status fake_rects(fake_bench *b, uint64_t n, uint64_t k, const float *w, tn_err *err);

uint16_t fake_half(float v);      /* nearest fp16 */
float fake_from_half(uint16_t h);
uint16_t fake_bfloat(float v);    /* nearest bf16 */

/* A small deterministic generator: the same numbers on every machine. */
uint32_t fake_random(uint32_t *state);

#endif
