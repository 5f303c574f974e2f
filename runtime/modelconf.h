/* SPDX-License-Identifier: Apache-2.0 */
/* modelconf.h - config.json as numbers that have been checked.
 *
 * Covers the dense decoders llama, mistral, qwen2 and qwen3. Every size is bounded so that no
 * product of them wraps; a key that the model type does not know is ignored, a value that it
 * cannot run is refused by name. */
#ifndef TN_MODELCONF_H
#define TN_MODELCONF_H

#include <tenon/plugin.h>

#include <stdbool.h>

#define TN_LAYERS_MAX 1024u
#define TN_EOS_MAX 16u

/* How positions stretch. Sources: the transformers implementations of these rope types;
 * YaRN, arXiv 2309.00071. */
#define TN_SCALING_NONE 0u
#define TN_SCALING_LINEAR 1u
#define TN_SCALING_LLAMA3 2u
#define TN_SCALING_YARN 3u

typedef struct tn_scaling {
    uint32_t kind;
    double factor;
    double original;             /* original_max_position_embeddings */
    double low_freq, high_freq;  /* llama3 */
    double beta_fast, beta_slow; /* yarn */
    double attention;            /* yarn: multiplies cos and sin */
    bool truncate;               /* yarn: round the correction range outwards */
} tn_scaling;

typedef struct tn_model_conf {
    char type[32];               /* model_type */
    uint32_t hidden, layers, heads, kv_heads, head_dim, inter, vocab;
    uint32_t context;            /* max_position_embeddings, stretched by the scaling */
    uint32_t rope_dims;
    double rope_theta;
    tn_scaling scaling;
    float eps, norm_offset;      /* offset 1: zero-centred norm weights */
    uint32_t act;                /* TN_ACT_* */
    bool tied;                   /* lm_head shares the embedding */
    bool qk_norm, qkv_bias, o_bias, mlp_bias;
    uint32_t window[TN_LAYERS_MAX]; /* sliding window of each layer, 0: full */
    uint32_t dtype;              /* TN_F16, TN_BF16, TN_F32: of the checkpoint */
    int32_t bos;                 /* -1: none */
    int32_t eos[TN_EOS_MAX];
    uint32_t neos;
} tn_model_conf;

/* TN_DATA with "config.json: <key>: ...; expected ..."; TN_UNSUPPORTED never: an unknown
 * model_type is TN_DATA too and lists the supported ones. */
tn_status tn_model_conf_read(const tn_json *config, tn_model_conf *out, tn_err *err);

/* Writes the rotary table [rope_dims / 2] and returns the factor on cos and sin. */
double tn_rope_fill(const tn_model_conf *c, double *inv_freq);

#endif
