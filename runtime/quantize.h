/* SPDX-License-Identifier: Apache-2.0 */
/* quantize.h - a model folder rewritten in a quantization's own file format.
 *
 * Every linear of the model (not the embedding, not lm_head) is read in full precision and
 * handed to the plugin's writer; everything else is copied. The result is a whole folder that
 * other tools read. */
#ifndef TN_QUANTIZE_H
#define TN_QUANTIZE_H

#include "loader.h"

typedef struct tn_quantize {
    const char *from, *to;      /* folders; `to` is made, or must be empty of a model */
    const tn_quant_ref *quant;  /* whose writer */
    tn_write_options options;
    uint32_t threads;           /* linears in work at once; 0: one a core */
    tn_loader_progress progress; /* called from any of the threads, one at a time */
    void *user;
} tn_quantize;

/* TN_UNSUPPORTED: the plugin has no writer. TN_DATA: the source is quantized already, or is
 * of a kind that cannot be read. On failure nothing stands under a final name. */
tn_status tn_quantize_run(const tn_quantize *q, tn_err *err);

#endif
