/* SPDX-License-Identifier: Apache-2.0 */
/* plugin_lab.h - a small recipe with random weights, and what it must compute, in double.
 *
 * The checker builds one recipe per operation, hands it to the device and runs the same steps
 * here. Nothing is fast and nothing is shared with any device: every operation is written
 * down from plugin.h. Caches and states are kept by block and slot, as a device keeps them. */
#ifndef TN_PLUGIN_LAB_H
#define TN_PLUGIN_LAB_H

#include <tenon/plugin.h>

#include <stdbool.h>

#define TN_LAB_BUFFERS 16u
#define TN_LAB_WEIGHTS 24u
#define TN_LAB_OPS 16u
#define TN_LAB_ROPE_PAIRS 64u

/* How a weight is made. */
typedef struct tn_lab_form {
    uint32_t kind;    /* TN_FORM_F32 .. W8G */
    uint32_t group;   /* W4G, W8G */
    bool zeros;       /* zero points other than the middle */
    bool perm;        /* a permutation; with k no multiple of the group also padding */
} tn_lab_form;

typedef struct tn_lab_weight {
    double *w;        /* [nexpert][n][k], owned */
    uint8_t *codes;   /* neutral rows of all experts, owned */
    float *scale;
    uint8_t *zero;
    int32_t *perm;
} tn_lab_weight;

typedef union tn_lab_args {
    tn_op_embed embed;
    tn_op_norm norm;
    tn_op_linear linear;
    tn_op_act_mul act_mul;
    tn_op_heads heads;
    tn_op_attend attend;
    tn_op_delta delta;
    tn_op_route route;
    tn_op_experts experts;
    tn_op_mix mix;
    tn_op_concat concat;
    tn_op_pick pick;
    tn_op_logits logits;
    tn_op_sample sample;
} tn_lab_args;

typedef struct tn_lab {
    uint64_t seed;
    bool failed;                 /* out of memory or room; looked at once, after building */
    tn_recipe recipe;
    tn_buffer buffer[TN_LAB_BUFFERS];
    tn_weight_spec weight[TN_LAB_WEIGHTS];
    tn_lab_weight data[TN_LAB_WEIGHTS];
    char name[TN_LAB_WEIGHTS][16];
    tn_op op[TN_LAB_OPS];
    tn_lab_args args[TN_LAB_OPS];
    tn_rope rope;
    double inv_freq[TN_LAB_ROPE_PAIRS];
    tn_cache_spec cache;
    tn_state_spec state;
    tn_section section;
    /* What a run needs; owned, made by tn_lab_reserve. */
    uint32_t rows_max, block_tokens, nblock, nslot;
    double *value[TN_LAB_BUFFERS]; /* [rows_max][width] */
    double *k_cache, *v_cache;     /* [nblock][block_tokens][heads][dim] */
    double *s_state;               /* [nslot][heads][k_dim][v_dim] */
    double *columns;               /* [nslot][keep][width] */
    const int32_t *drawn;          /* tokens of the step before, borrowed */
} tn_lab;

void tn_lab_open(tn_lab *l, uint64_t seed);
void tn_lab_close(tn_lab *l);

/* Building; every index fits what was declared before it. */
uint32_t tn_lab_buffer(tn_lab *l, uint32_t rows, uint32_t width, uint32_t dtype);
uint32_t tn_lab_weight_of(tn_lab *l, uint32_t role, uint32_t nexpert, uint64_t n, uint64_t k,
                          tn_lab_form form);
/* A VECTOR [n, k], f32. `around`: mean of its values. */
uint32_t tn_lab_vector(tn_lab *l, uint64_t n, uint64_t k, double around);
/* Zeroed arguments of a new operation; size is set. */
tn_lab_args *tn_lab_op(tn_lab *l, uint32_t kind, const char *name);
const tn_recipe *tn_lab_recipe(tn_lab *l);
/* Serves the rows of weight `w`; valid while the lab is. */
typedef struct tn_lab_reader {
    tn_reader reader;
    const tn_lab *lab;
    uint32_t w;
} tn_lab_reader;
void tn_lab_read(const tn_lab *l, uint32_t w, tn_lab_reader *out);

/* plugin_lab_ref.c: runs. */
bool tn_lab_reserve(tn_lab *l, uint32_t rows_max, uint32_t block_tokens, uint32_t nblock,
                    uint32_t nslot);
void tn_lab_run(tn_lab *l, const tn_step *s);
double *tn_lab_row(const tn_lab *l, uint32_t buffer, uint32_t row);
uint32_t tn_lab_rows(const tn_lab *l, const tn_step *s, uint32_t buffer);
void tn_lab_copy_block(tn_lab *l, int32_t from, int32_t to);
void tn_lab_copy_state(tn_lab *l, int32_t from, int32_t to);

#endif
