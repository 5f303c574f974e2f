/* SPDX-License-Identifier: Apache-2.0 */
/* modelconf.h - config.json as numbers that have been checked.
 *
 * Covers the dense decoders llama, mistral, qwen2 and qwen3, the mixtures of experts mixtral and
 * qwen3_moe, and the hybrids qwen3_next, qwen3_5 and qwen3_5_moe (of the latter two the text
 * part). Every size is bounded so that no product of them wraps; a key that the model type does
 * not know is ignored, a value that it cannot run is refused by name. */
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

/* What mixes the tokens of a layer, and what follows it. */
#define TN_MIXER_ATTENTION 0u
#define TN_MIXER_DELTA 1u
#define TN_MLP_DENSE 0u
#define TN_MLP_EXPERTS 1u

/* Gated DeltaNet. Source: transformers' qwen3_next; arXiv 2412.06464. */
typedef struct tn_delta_conf {
    uint32_t k_heads, v_heads;   /* v_heads is a multiple of k_heads */
    uint32_t k_dim, v_dim;
    uint32_t kernel;             /* of the convolution, the current token included */
    uint32_t gate_act;           /* TN_ACT_SILU or TN_ACT_SIGMOID */
    bool split;                  /* in_proj_qkv, _z, _b, _a instead of in_proj_qkvz, _ba */
} tn_delta_conf;

typedef struct tn_moe_conf {
    uint32_t nexpert, ntop;
    uint32_t width, shared;      /* of a routed and of the shared expert; shared 0: none */
    bool renorm;                 /* the chosen probabilities are scaled to sum to 1 */
    const char *block;           /* "mlp" or "block_sparse_moe" */
    const char *gate, *up, *down; /* names of an expert's matrices */
} tn_moe_conf;

typedef struct tn_model_conf {
    char type[32];               /* model_type */
    const char *prefix;          /* of the decoder's tensors: "model." */
    uint32_t hidden, layers, heads, kv_heads, head_dim, inter, vocab;
    uint32_t context;            /* max_position_embeddings, stretched by the scaling */
    uint32_t rope_dims;
    double rope_theta;
    tn_scaling scaling;
    float eps, norm_offset;      /* offset 1: zero-centred norm weights */
    uint32_t act;                /* TN_ACT_* */
    bool tied;                   /* lm_head shares the embedding */
    bool qk_norm, qkv_bias, o_bias, mlp_bias;
    bool attn_gate;              /* q_proj holds an output gate beside every query head */
    uint32_t window[TN_LAYERS_MAX]; /* sliding window of each layer, 0: full */
    uint8_t mixer[TN_LAYERS_MAX], mlp[TN_LAYERS_MAX]; /* TN_MIXER_*, TN_MLP_* */
    tn_delta_conf delta;         /* of layers with TN_MIXER_DELTA */
    tn_moe_conf moe;             /* of layers with TN_MLP_EXPERTS */
    uint32_t dtype;              /* TN_F16, TN_BF16, TN_F32: of the checkpoint; 0: not said */
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
