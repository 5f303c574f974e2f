/* SPDX-License-Identifier: Apache-2.0 */
/* recipe_fixture.h - small recipes built by hand, with random weights, for testing devices.
 *
 * A fixture owns a recipe and all it points to. Every weight is kept twice: as the form that
 * a device packs, and as the exact numbers that the form means. Lack of memory aborts: this is
 * test code. fx_device opens a device plugin with a host made for the test. */
#ifndef TN_RECIPE_FIXTURE_H
#define TN_RECIPE_FIXTURE_H

#include <tenon/plugin.h>

#include <stdbool.h>

typedef struct fx_weight {
    const tn_weight_spec *spec;   /* in the same fixture; set by fx_reader */
    float *value;                 /* [nexpert, n, k] what the form means; NULL when lean */
    uint8_t *codes;               /* [nexpert] blocks of the form, rows one after the other */
    float *scale;                 /* [nexpert, n, cols / group] */
    uint8_t *zero;
    int32_t *perm;                /* [nexpert, cols] */
    uint64_t codes_size;          /* of one expert */
    uint64_t reads;               /* rows handed out so far; for tests of the packing */
    int64_t fail_row;             /* reading this row fails; -1: none */
} fx_weight;

#define FX_MAX 2048

typedef struct fixture {
    tn_recipe recipe;
    tn_buffer buffer[FX_MAX];
    tn_weight_spec weight[FX_MAX];
    fx_weight data[FX_MAX];
    tn_op op[FX_MAX];
    tn_rope rope[4];
    tn_cache_spec cache[FX_MAX];
    tn_state_spec state[FX_MAX];
    tn_section section[4];
    uint64_t random;
    bool lean;                    /* keep only the forms of what is added from here on */
} fixture;

fixture *fx_new(uint64_t seed);
void fx_free(fixture *f);

uint64_t fx_bits(fixture *f);                   /* a random number */
float fx_uniform(fixture *f, float least, float most);

#define FX_PERM 1u       /* a random permutation of the input */
#define FX_PADDING 2u    /* with FX_PERM: some columns more, which multiply nothing */
#define FX_ZEROS 4u      /* zero points are random */
#define FX_SCALE16 8u    /* scales are exact in 16 bits */

/* Weights of about unit gain: |W x| is about |x|. group: W4G and W8G only. */
uint32_t fx_stack(fixture *f, uint32_t role, uint32_t nexpert, uint64_t n, uint64_t k,
                  uint32_t form, uint32_t group, uint32_t flags);
uint32_t fx_matrix(fixture *f, uint32_t role, uint64_t n, uint64_t k, uint32_t form,
                   uint32_t group, uint32_t flags);
uint32_t fx_vector(fixture *f, uint64_t count, uint32_t form, float least, float most);
uint32_t fx_buffer(fixture *f, uint32_t rows, uint32_t width, const char *name);
uint32_t fx_ids(fixture *f, uint32_t rows, uint32_t width, const char *name);
uint32_t fx_rope(fixture *f, uint32_t dims, uint32_t pairing, uint32_t npos, double theta);
uint32_t fx_cache(fixture *f, uint32_t heads, uint32_t dim);
void fx_op(fixture *f, uint32_t kind, const void *args, const char *name);
void fx_section(fixture *f);                    /* all operations since the last */

/* A reader of one weight; lives as long as the fixture. */
tn_reader fx_reader(fixture *f, uint32_t weight);

/* A llama-like model. Buffers are named as in the core. */
typedef struct fx_llama {
    uint32_t layers, hidden, ffn, q_heads, kv_heads, dim, vocab, context;
    uint32_t form, group, flags;  /* of the layers' matrices */
    uint32_t head_form;           /* embedding and head, tied unless `untied` */
    uint32_t untied;
    uint32_t head_requant;
    uint32_t window, qk_norm, bias, pairs;
    uint32_t nexpert, ntop;       /* 0: a dense MLP */
} fx_llama;
void fx_build_llama(fixture *f, const fx_llama *m);

#define FX_METRICS 128

/* A device plugin brought up for a test. Options by name; others take their fallback. */
typedef struct fx_device {
    const tn_plugin *plugin;
    const tn_device *table;
    tn_host host;
    void *self, *dev;
    int64_t threads;
    const char *isa;
    uint64_t allocations;         /* made so far */
    uint64_t fail_at;             /* this allocation fails, counted from 1; 0: none */
    int64_t live;                 /* allocations not yet released */
    uint32_t mapped_kib;          /* for copies of weights placed MAPPED; set before opening */
    const char *delta;            /* the option of the plugin cpu; set before opening, or NULL */
    uint32_t nmetric;
    char metric[FX_METRICS][96];  /* name{labels} */
    double value[FX_METRICS];
    uint32_t nwarning;            /* lines of the log at TN_LOG_WARN or worse */
    char warning[512];            /* the last of them */
} fx_device;
/* What a series stands at; NAN when the device never declared it. */
double fx_metric(const fx_device *d, const char *name);

/* threads and isa of the options of the plugin cpu. */
tn_status fx_device_try(fx_device *d, const tn_plugin *plugin, int64_t threads, const char *isa,
                        tn_err *err);
void fx_device_open(fx_device *d, const tn_plugin *plugin, int64_t threads, const char *isa);
void fx_device_close(fx_device *d);

/* Compiles, reserves and packs everything. */
tn_status fx_program_try(fx_device *d, fixture *f, const tn_limits *l, uint32_t nblock,
                         uint32_t nslot, void **program, tn_err *err);
void *fx_program(fx_device *d, fixture *f, const tn_limits *l, uint32_t nblock, uint32_t nslot);

#endif
