/* SPDX-License-Identifier: Apache-2.0 */
/* dummy.h - the numbers of a model that has a config.json and no files (load_format = dummy).
 *
 * For work on speed and memory: every weight has the form that a real checkpoint would give it,
 * and random values that keep activations bounded through any number of layers and spread the
 * choice of experts. A value is a function of the module's name, its row and its column, so two
 * runs agree, whoever reads which rows first; nothing is kept.
 *
 * What config.json's quantization_config says of `bits` and `group_size` (num_bits in
 * compressed-tensors, w_bit and q_group_size in old AWQ) decides the form: up to 4 bits W4G,
 * else W8G, with zero points unless the scheme is symmetric. A model with routed experts has
 * only these quantized, as the published builds have; a dense model all its linears but the
 * head. Everything else, and all without a quantization_config, is in the config's dtype.
 * Act-order is not imitated. */
#ifndef TN_DUMMY_H
#define TN_DUMMY_H

#include "recipe.h"

typedef struct tn_dummy {
    uint32_t plain;       /* TN_FORM_F32, F16 or BF16 */
    uint32_t coded;       /* TN_FORM_W4G or W8G; 0: nothing is quantized */
    uint32_t bits;
    uint32_t group;       /* columns a scale, 0: the whole row */
    uint32_t role;        /* TN_ROLE_* of what is quantized */
    uint32_t layers;      /* of the model */
    bool zeros, tied;
    float norm_offset;
} tn_dummy;

/* TN_DATA when a quantization_config is there and does not say what is needed. */
tn_status tn_dummy_open(const tn_view *v, const tn_model_conf *c, tn_dummy *out, tn_err *err);
/* The form of a slice's module in columns [col0, col1), for a weight of this role. */
tn_status tn_dummy_form(const tn_dummy *d, uint32_t role, const tn_slice *p, uint64_t col0,
                        uint64_t col1, tn_form *out, tn_err *err);
/* Rows [row0, row1) of the slice's module in that form; col0 as there. [any] */
void tn_dummy_rows(const tn_dummy *d, const tn_form *f, const tn_slice *p, uint64_t col0,
                   uint64_t row0, uint64_t row1, tn_block *out);

#endif
