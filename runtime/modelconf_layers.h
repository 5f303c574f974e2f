/* SPDX-License-Identifier: Apache-2.0 */
/* modelconf_layers.h - the parts of config.json that say what each layer is made of: mixers,
 * sliding windows, experts. Called by modelconf.c, which has read the sizes. */
#ifndef TN_MODELCONF_LAYERS_H
#define TN_MODELCONF_LAYERS_H

#include "modelconf.h"

#define TN_CONFIG_FILE "config.json"
#define TN_CONF_SIZE_MOST (1 << 24)    /* any single size: products of three stay below 2^64 */
#define TN_CONF_CONTEXT_MOST (1 << 27)

/* What a model_type means where its config says nothing. */
typedef struct tn_family {
    const char *type;
    const char *causal;     /* the one of its classes in `architectures` that writes text */
    const char *whole;      /* the class of a model that sees as well, or NULL */
    bool qk_norm;
    bool qkv_bias;          /* when the config does not say */
    bool has_window;        /* sliding_window alone switches the window on (mistral) */
    bool window_switch;     /* use_sliding_window decides (qwen2, qwen3) */
    bool zero_centred;      /* norms multiply by 1 + w */
    bool hybrid;            /* some layers are Gated DeltaNet, attention is gated */
    bool split_delta;       /* its projections are told apart in the files */
    bool always_renorm;     /* no norm_topk_prob: chosen probabilities always sum to 1 */
    double partial_rotary;  /* when the config does not say */
    const char *nexpert_key; /* NULL: no experts */
    const char *width_key;  /* of a routed expert */
    uint32_t nexpert;       /* when the config does not say; 0: it must */
    const char *prefix;     /* of the decoder's tensors */
    const char *block, *gate, *up, *down; /* names of an expert's parts */
} tn_family;

/* A number in range. A fallback below `least` means that the key must be there. */
tn_status tn_conf_size(const tn_json *c, const char *key, int64_t fallback, int64_t least,
                       int64_t most, uint32_t *out, tn_err *err);

/* mixer, window and mlp of every layer, and the sizes of what they are. */
tn_status tn_conf_layers(const tn_json *c, const tn_family *f, tn_model_conf *m, tn_err *err);

#endif
