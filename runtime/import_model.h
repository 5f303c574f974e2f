/* SPDX-License-Identifier: Apache-2.0 */
/* import_model.h - what a GGUF file says about its model, checked, and how it is told to
 * others: config.json and the list of tensors. */
#ifndef TN_IMPORT_MODEL_H
#define TN_IMPORT_MODEL_H

#include "gguf.h"

struct tn_arena;
struct tn_buf;

#define TN_IMPORT_NO_ID (-1)

typedef struct tn_import_family {
    const char *arch;        /* general.architecture */
    const char *model_type;  /* of config.json */
    const char *class_name;
    bool permuted;           /* rows of q and k interleave the halves of a head */
    bool qkv_bias;           /* always there */
    bool qk_norm;
} tn_import_family;

#define TN_IMPORT_ROPE_PLAIN 0u
#define TN_IMPORT_ROPE_LINEAR 1u
#define TN_IMPORT_ROPE_YARN 2u
#define TN_IMPORT_ROPE_LLAMA3 3u

typedef struct tn_import_rope {
    uint32_t kind;
    double theta, factor, original; /* original: 0 when the file does not say */
    double low, high;               /* llama3 */
    double attention;               /* yarn: factor on cos and sin, 0: not given */
    double beta_fast, beta_slow;    /* yarn, 0: not given */
    double mscale;                  /* yarn: mscale_all_dim, 0: not given */
} tn_import_rope;

typedef struct tn_import_model {
    const tn_gguf *g;                /* borrowed */
    tn_import_family family;         /* a copy: a window turns llama into mistral */
    uint64_t layers, hidden, inter, heads, kv_heads, head_dim, context, vocab;
    uint64_t window;                 /* sliding window, 0: none */
    double eps;
    double temperature;              /* of positions (mistral3), 0: none */
    tn_import_rope rope;
    bool tied, attention_bias, mlp_bias;
    int64_t bos, eos, eot, eom, unk, pad; /* token ids, TN_IMPORT_NO_ID: not named */
} tn_import_model;

/* One tensor of the folder and where it comes from. */
typedef struct tn_import_tensor {
    const tn_gguf_tensor *from;      /* borrowed */
    char name[120];
    uint32_t ndim;
    uint64_t dim[2];                 /* slowest first */
    uint64_t head_dim;               /* rows to be put back in order by heads of this; 0: none */
} tn_import_tensor;

tn_status tn_import_model_read(const tn_gguf *g, tn_import_model *out, tn_err *err);
/* Every tensor of the file, in the order of the model; each shape held against the metadata
 * and nothing missing. Fills the bias flags of `m`. The list is malloc'ed; free() it. */
tn_status tn_import_tensors(tn_import_model *m, tn_import_tensor **out, uint64_t *count,
                            tn_err *err);
/* The frequencies of rope_freqs.weight as the parameters of the llama3 rule, where they obey
 * it; else TN_UNSUPPORTED. */
tn_status tn_import_llama3(const float *factors, uint32_t count, double theta,
                           tn_import_rope *rope, tn_err *err);

void tn_import_config(const tn_import_model *m, uint32_t dtype, struct tn_buf *out);
tn_status tn_import_generation(const tn_import_model *m, struct tn_buf *out, tn_err *err);

/* A float of the file as the shortest decimal that is still that float. */
void tn_import_put_float(struct tn_buf *out, double v);

#endif
