/* SPDX-License-Identifier: Apache-2.0 */
/* modelconf_layers.c - what each layer is made of: mixers, sliding windows, experts. */
#include "modelconf_layers.h"

#include "json.h"

#include <string.h>

#define EXPERTS_MOST 4096
#define SHARED_USUAL 512 /* wide is the shared expert of hybrids unless the config says */

static bool says(const tn_json *t, const char *word)
{
    return t->type == TN_JSON_TEXT && strcmp(t->text, word) == 0;
}

/* ------------------------------------------------------------------- mixers and windows */

/* layer_types if it is there; null says nothing. */
static tn_status types_list(const tn_json *c, const tn_json **types, tn_err *err)
{
    const tn_json *t = tn_json_find(c, "layer_types");
    *types = t != NULL && t->type == TN_JSON_LIST ? t : NULL;
    if (t != NULL && t->type != TN_JSON_NULL && t->type != TN_JSON_LIST)
        return tn_fail(err, TN_DATA, TN_CONFIG_FILE ": layer_types: no list; expected a kind for "
                       "each layer or null");
    return TN_OK;
}

/* layer_types says it layer by layer. */
static tn_status read_types(const tn_json *types, const tn_family *f, uint32_t window,
                            tn_model_conf *m, tn_err *err)
{
    if (types->count != m->layers)
        return tn_fail(err, TN_DATA, TN_CONFIG_FILE ": layer_types: %u entries; expected "
                       "num_hidden_layers %u", types->count, m->layers);
    uint32_t i = 0;
    for (const tn_json *t = types->child; t != NULL; t = t->next, i++) {
        bool linear = f->hybrid && says(t, "linear_attention");
        bool slides = !f->hybrid && says(t, "sliding_attention");
        if (!linear && !slides && !says(t, "full_attention"))
            return tn_fail(err, TN_DATA, TN_CONFIG_FILE ": layer_types[%u]: unknown; expected "
                           "full_attention or %s", i,
                           f->hybrid ? "linear_attention" : "sliding_attention");
        if (slides && window == 0)
            return tn_fail(err, TN_DATA, TN_CONFIG_FILE ": layer_types[%u]: sliding_attention "
                           "without a sliding_window; expected its size", i);
        m->mixer[i] = linear ? TN_MIXER_DELTA : TN_MIXER_ATTENTION;
        m->window[i] = slides ? window : 0;
    }
    return TN_OK;
}

/* Older configs say it by use_sliding_window and max_window_layers (layers from there on have
 * the window). */
static tn_status read_windows(const tn_json *c, const tn_family *f, tn_model_conf *m, tn_err *err)
{
    uint32_t window = 0, from = 0;
    bool on = f->has_window;
    tn_status st = tn_conf_size(c, "sliding_window", 0, 0, TN_CONF_CONTEXT_MOST, &window, err);
    if (st == TN_OK && f->window_switch)
        st = tn_json_get_bool(c, "use_sliding_window", TN_CONFIG_FILE, false, &on, err);
    if (st == TN_OK && f->window_switch)
        st = tn_conf_size(c, "max_window_layers", 28, 0, TN_CONF_SIZE_MOST, &from, err);
    const tn_json *types = NULL;
    if (st == TN_OK)
        st = types_list(c, &types, err);
    if (st != TN_OK)
        return st;
    if (types != NULL)
        return read_types(types, f, window, m, err);
    for (uint32_t i = 0; on && i < m->layers; i++)
        m->window[i] = i >= from ? window : 0;
    return TN_OK;
}

/* Every full_attention_interval-th layer of a hybrid attends, the others are DeltaNet. */
static tn_status read_interval(const tn_json *c, const tn_family *f, tn_model_conf *m,
                               tn_err *err)
{
    uint32_t every = 0;
    const tn_json *types = NULL;
    tn_status st = types_list(c, &types, err);
    if (st != TN_OK || types != NULL)
        return st == TN_OK ? read_types(types, f, 0, m, err) : st;
    st = tn_conf_size(c, "full_attention_interval", 4, 1, TN_LAYERS_MAX, &every, err);
    for (uint32_t i = 0; st == TN_OK && i < m->layers; i++)
        m->mixer[i] = (i + 1) % every == 0 ? TN_MIXER_ATTENTION : TN_MIXER_DELTA;
    return st;
}

static tn_status read_gate_act(const tn_json *c, tn_delta_conf *t, tn_err *err)
{
    const char *name = NULL;
    tn_status st = tn_json_get_text(c, "output_gate_type", TN_CONFIG_FILE, "silu", &name, err);
    if (st != TN_OK)
        return st;
    bool sigmoid = strcmp(name, "sigmoid") == 0;
    t->gate_act = sigmoid ? TN_ACT_SIGMOID : TN_ACT_SILU;
    if (!sigmoid && strcmp(name, "silu") != 0 && strcmp(name, "swish") != 0)
        return tn_fail(err, TN_DATA, TN_CONFIG_FILE ": output_gate_type: \"%.64s\"; expected silu, "
                       "swish or sigmoid", name);
    return TN_OK;
}

static tn_status read_delta(const tn_json *c, const tn_family *f, tn_model_conf *m, tn_err *err)
{
    tn_delta_conf *t = &m->delta;
    const struct { const char *key; int64_t fallback, least, most; uint32_t *out; } size[] = {
        {"linear_num_key_heads", 16, 1, 4096, &t->k_heads},
        {"linear_num_value_heads", 32, 1, 4096, &t->v_heads},
        {"linear_key_head_dim", 128, 1, 1024, &t->k_dim},
        {"linear_value_head_dim", 128, 1, 1024, &t->v_dim},
        {"linear_conv_kernel_dim", 4, 2, 64, &t->kernel}, /* 1 would keep no columns */
    };
    tn_status st = TN_OK;
    for (size_t i = 0; i < sizeof size / sizeof *size && st == TN_OK; i++)
        st = tn_conf_size(c, size[i].key, size[i].fallback, size[i].least, size[i].most,
                          size[i].out, err);
    if (st == TN_OK && t->v_heads % t->k_heads != 0)
        return tn_fail(err, TN_DATA, TN_CONFIG_FILE ": linear_num_value_heads: %u; expected a "
                       "multiple of linear_num_key_heads %u", t->v_heads, t->k_heads);
    t->split = f->split_delta;
    return st == TN_OK ? read_gate_act(c, t, err) : st;
}

/* ------------------------------------------------------------------------------ experts */

static tn_status read_moe(const tn_json *c, const tn_family *f, tn_model_conf *m, tn_err *err)
{
    tn_moe_conf *e = &m->moe;
    tn_status st = tn_conf_size(c, f->nexpert_key, f->nexpert > 0 ? (int64_t)f->nexpert : -1, 0,
                                EXPERTS_MOST, &e->nexpert, err);
    if (st != TN_OK || e->nexpert == 0)
        return st;
    st = tn_conf_size(c, "num_experts_per_tok", -1, 1, e->nexpert, &e->ntop, err);
    if (st == TN_OK)
        st = tn_conf_size(c, f->width_key, -1, 1, TN_CONF_SIZE_MOST, &e->width, err);
    if (st == TN_OK && f->hybrid)
        st = tn_conf_size(c, "shared_expert_intermediate_size", SHARED_USUAL, 0,
                          TN_CONF_SIZE_MOST, &e->shared, err);
    e->renorm = true;
    if (st == TN_OK && !f->always_renorm)
        st = tn_json_get_bool(c, "norm_topk_prob", TN_CONFIG_FILE, f->hybrid, &e->renorm, err);
    e->block = f->block;
    e->gate = f->gate;
    e->up = f->up;
    e->down = f->down;
    return st;
}

/* A layer has experts unless mlp_only_layers or decoder_sparse_step say otherwise. */
static tn_status read_mlps(const tn_json *c, tn_model_conf *m, tn_err *err)
{
    uint32_t step = 1;
    tn_status st = tn_conf_size(c, "decoder_sparse_step", 1, 1, TN_LAYERS_MAX, &step, err);
    if (st != TN_OK)
        return st;
    for (uint32_t i = 0; i < m->layers; i++)
        m->mlp[i] = m->moe.nexpert > 0 && (i + 1) % step == 0 ? TN_MLP_EXPERTS : TN_MLP_DENSE;
    const tn_json *dense = tn_json_find(c, "mlp_only_layers");
    if (dense == NULL || dense->type == TN_JSON_NULL)
        return TN_OK;
    if (dense->type != TN_JSON_LIST)
        return tn_fail(err, TN_DATA, TN_CONFIG_FILE ": mlp_only_layers: not a list; expected "
                       "layer numbers");
    for (const tn_json *e = dense->child; e != NULL; e = e->next) {
        if (e->type != TN_JSON_INT || e->i < 0 || e->i >= m->layers)
            return tn_fail(err, TN_DATA, TN_CONFIG_FILE ": mlp_only_layers: not a layer; expected "
                           "0 to %u", m->layers - 1);
        m->mlp[e->i] = TN_MLP_DENSE;
    }
    return TN_OK;
}

/* intermediate_size is needed only where some layer has a dense MLP. */
static tn_status check_dense(const tn_model_conf *m, tn_err *err)
{
    for (uint32_t i = 0; i < m->layers; i++)
        if (m->mlp[i] == TN_MLP_DENSE && m->inter == 0)
            return tn_fail(err, TN_DATA, TN_CONFIG_FILE ": intermediate_size: missing; expected it "
                           "for the dense MLP of layer %u", i);
    return TN_OK;
}

tn_status tn_conf_layers(const tn_json *c, const tn_family *f, tn_model_conf *m, tn_err *err)
{
    tn_status st = f->hybrid ? read_interval(c, f, m, err) : read_windows(c, f, m, err);
    if (st == TN_OK && f->hybrid)
        st = read_delta(c, f, m, err);
    if (st == TN_OK && f->nexpert_key != NULL)
        st = read_moe(c, f, m, err);
    if (st == TN_OK && f->nexpert_key != NULL)
        st = read_mlps(c, m, err);
    return st == TN_OK ? check_dense(m, err) : st;
}
