/* SPDX-License-Identifier: Apache-2.0 */
/* modelconf.c - config.json as numbers that have been checked. */
#include "modelconf_layers.h"

#include "json.h"
#include "quote.h"

#include <math.h>
#include <string.h>
#include <strings.h>

#define FILE_NAME TN_CONFIG_FILE
#define SIZE_MOST TN_CONF_SIZE_MOST
#define CONTEXT_MOST TN_CONF_CONTEXT_MOST

#define EXPERT_NAMES .block = "mlp", .gate = "gate_proj", .up = "up_proj", .down = "down_proj"
#define QWEN3_5 \
    .qk_norm = true, .zero_centred = true, .hybrid = true, .split_delta = true, \
    .always_renorm = true, .partial_rotary = 0.25, .prefix = "model.language_model."

static const tn_family families[] = {
    {.type = "llama", .causal = "LlamaForCausalLM"},
    {.type = "mistral", .causal = "MistralForCausalLM", .has_window = true},
    {.type = "mixtral", .causal = "MixtralForCausalLM", .has_window = true, .nexpert_key = "num_local_experts",
     .width_key = "intermediate_size", .nexpert = 8, .always_renorm = true,
     .block = "block_sparse_moe", .gate = "w1", .up = "w3", .down = "w2"},
    {.type = "qwen2", .causal = "Qwen2ForCausalLM", .qkv_bias = true, .window_switch = true},
    {.type = "qwen3", .causal = "Qwen3ForCausalLM", .qk_norm = true, .window_switch = true},
    {.type = "qwen3_moe", .causal = "Qwen3MoeForCausalLM", .qk_norm = true, .window_switch = true, .nexpert_key = "num_experts",
     .width_key = "moe_intermediate_size", EXPERT_NAMES},
    {.type = "qwen3_next", .causal = "Qwen3NextForCausalLM", .qk_norm = true, .zero_centred = true, .hybrid = true,
     .partial_rotary = 0.25, .nexpert_key = "num_experts", .width_key = "moe_intermediate_size",
     .nexpert = 512, EXPERT_NAMES},
    {.type = "qwen3_5", .causal = "Qwen3_5ForCausalLM",
     .whole = "Qwen3_5ForConditionalGeneration", QWEN3_5},
    {.type = "qwen3_5_moe", .causal = "Qwen3_5MoeForCausalLM",
     .whole = "Qwen3_5MoeForConditionalGeneration", QWEN3_5, .nexpert_key = "num_experts",
     .width_key = "moe_intermediate_size", EXPERT_NAMES},
};

tn_status tn_conf_size(const tn_json *c, const char *key, int64_t fallback, int64_t least,
                       int64_t most, uint32_t *out, tn_err *err)
{
    int64_t v = 0;
    tn_status st = tn_json_get_int(c, key, FILE_NAME, fallback, least, most, &v, err);
    if (st != TN_OK)
        return st;
    if (v < least) /* the fallback of a key that must be there */
        return tn_fail(err, TN_DATA, FILE_NAME ": %s: missing; expected %lld to %lld", key,
                       (long long)least, (long long)most);
    *out = (uint32_t)v;
    return TN_OK;
}

/* "qwen3_5_text" is the text part of a "qwen3_5". */
static bool is_type(const char *type, const char *family)
{
    size_t n = strlen(family);
    return strncmp(type, family, n) == 0 && (type[n] == 0 || strcmp(type + n, "_text") == 0);
}

static tn_status read_family(const tn_json *c, const tn_family **f, tn_err *err)
{
    const char *type = NULL;
    tn_status st = tn_json_get_text(c, "model_type", FILE_NAME, "", &type, err);
    if (st != TN_OK)
        return st;
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        if (is_type(type, families[i].type)) {
            *f = &families[i];
            return TN_OK;
        }
    char known[256] = "";
    for (size_t i = 0, at = 0; i < sizeof families / sizeof *families; i++)
        at += (size_t)snprintf(known + at, sizeof known - at, "%s%s", i > 0 ? ", " : "",
                               families[i].type);
    return tn_fail(err, TN_DATA, FILE_NAME ": model_type: \"%.64s\"; expected one of %s", type,
                   known);
}

/* Classifiers, embedders and draft heads have the model_type of the model they were made from;
 * only `architectures` tells them apart. Absent and null say nothing; old files spell LLaMA. */
static tn_status check_class(const tn_json *c, const tn_family *f, tn_err *err)
{
    const tn_json *list = tn_json_find(c, "architectures"), *said = NULL;
    tn_quoted q;
    if (list == NULL || list->type == TN_JSON_NULL)
        return TN_OK;
    for (const tn_json *e = list->type == TN_JSON_LIST ? list->child : NULL; e != NULL;
         e = e->next) {
        if (e->type == TN_JSON_TEXT &&
            (strcasecmp(e->text, f->causal) == 0 ||
             (f->whole != NULL && strcmp(e->text, f->whole) == 0)))
            return TN_OK;
        if (e->type == TN_JSON_TEXT && said == NULL)
            said = e;
    }
    return tn_fail(err, TN_DATA, FILE_NAME ": architectures: %s; expected a list with %s, for "
                   "model_type is \"%s\"",
                   said != NULL ? tn_quote(&q, said->text, said->count) : "no name of a class",
                   f->causal, f->type);
}

static tn_status read_shape(const tn_json *c, const tn_family *f, tn_model_conf *m, tn_err *err)
{
    static const struct { const char *key; size_t at; int64_t most; } size[] = {
        {"hidden_size", offsetof(tn_model_conf, hidden), SIZE_MOST},
        {"num_hidden_layers", offsetof(tn_model_conf, layers), TN_LAYERS_MAX},
        {"num_attention_heads", offsetof(tn_model_conf, heads), 65536},
        {"vocab_size", offsetof(tn_model_conf, vocab), SIZE_MOST},
        {"max_position_embeddings", offsetof(tn_model_conf, context), CONTEXT_MOST},
    };
    for (size_t i = 0; i < sizeof size / sizeof *size; i++) {
        tn_status st = tn_conf_size(c, size[i].key, -1, 1, size[i].most,
                                 (uint32_t *)((char *)m + size[i].at), err);
        if (st != TN_OK)
            return st;
    }
    tn_status st = tn_conf_size(c, "num_key_value_heads", m->heads, 1, 65536, &m->kv_heads, err);
    if (st == TN_OK)
        st = tn_conf_size(c, "intermediate_size", f->nexpert_key != NULL ? 0 : -1,
                          f->nexpert_key != NULL ? 0 : 1, SIZE_MOST, &m->inter, err);
    if (st != TN_OK)
        return st;
    st = tn_conf_size(c, "head_dim", m->hidden / m->heads, 1, 4096, &m->head_dim, err);
    if (st != TN_OK)
        return st;
    if (m->heads % m->kv_heads != 0)
        return tn_fail(err, TN_DATA, FILE_NAME ": num_key_value_heads: %u; expected a divisor of "
                       "num_attention_heads %u", m->kv_heads, m->heads);
    if (m->head_dim % 2 != 0)
        return tn_fail(err, TN_DATA, FILE_NAME ": head_dim: %u; expected an even number",
                       m->head_dim);
    return TN_OK;
}

static tn_status read_act(const tn_json *c, tn_model_conf *m, tn_err *err)
{
    static const struct { const char *name; uint32_t act; } known[] = {
        {"silu", TN_ACT_SILU}, {"swish", TN_ACT_SILU}, {"gelu", TN_ACT_GELU},
        {"gelu_pytorch_tanh", TN_ACT_GELU_TANH}, {"gelu_new", TN_ACT_GELU_TANH},
    };
    const char *name = NULL;
    tn_status st = tn_json_get_text(c, "hidden_act", FILE_NAME, "silu", &name, err);
    if (st != TN_OK)
        return st;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(name, known[i].name) == 0) {
            m->act = known[i].act;
            return TN_OK;
        }
    return tn_fail(err, TN_DATA, FILE_NAME ": hidden_act: \"%.64s\"; expected silu, gelu, "
                   "gelu_new or gelu_pytorch_tanh", name);
}

static tn_status read_dtype(const tn_json *c, tn_model_conf *m, tn_err *err)
{
    static const struct { const char *name; uint32_t dtype; } known[] = {
        {"float16", TN_F16}, {"bfloat16", TN_BF16}, {"float32", TN_F32},
        {"torch.float16", TN_F16}, {"torch.bfloat16", TN_BF16}, {"torch.float32", TN_F32},
    };
    const char *key = tn_json_find(c, "dtype") != NULL ? "dtype" : "torch_dtype", *name = NULL;
    tn_status st = tn_json_get_text(c, key, FILE_NAME, NULL, &name, err);
    if (st != TN_OK || name == NULL)
        return st;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(name, known[i].name) == 0) {
            m->dtype = known[i].dtype;
            return TN_OK;
        }
    return tn_fail(err, TN_DATA, FILE_NAME ": %s: \"%.64s\"; expected float16, bfloat16 or "
                   "float32", key, name);
}

/* One eos id, a list of them, or none. */
static tn_status read_eos(const tn_json *c, tn_model_conf *m, tn_err *err)
{
    const tn_json *v = tn_json_find(c, "eos_token_id");
    if (v == NULL || v->type == TN_JSON_NULL)
        return TN_OK;
    bool list = v->type == TN_JSON_LIST;
    for (const tn_json *e = list ? v->child : v; e != NULL; e = list ? e->next : NULL) {
        if (e->type != TN_JSON_INT || e->i < 0 || e->i >= m->vocab)
            return tn_fail(err, TN_DATA, FILE_NAME ": eos_token_id: not a token id; expected 0 to "
                           "%u", m->vocab - 1);
        if (m->neos == TN_EOS_MAX)
            return tn_fail(err, TN_DATA, FILE_NAME ": eos_token_id: %u ids; expected at most %u",
                           v->count, TN_EOS_MAX);
        m->eos[m->neos++] = (int32_t)e->i;
    }
    return TN_OK;
}

static tn_status read_tokens(const tn_json *c, tn_model_conf *m, tn_err *err)
{
    int64_t bos = -1;
    const tn_json *v = tn_json_find(c, "bos_token_id");
    if (v != NULL && v->type != TN_JSON_NULL) {
        tn_status st = tn_json_get_int(c, "bos_token_id", FILE_NAME, -1, 0, m->vocab - 1, &bos,
                                       err);
        if (st != TN_OK)
            return st;
    }
    m->bos = (int32_t)bos;
    return read_eos(c, m, err);
}

/* One of the two objects that may tell of rotary positions; *out NULL when it is not there. */
static tn_status rope_object(const tn_json *c, const char *key, const tn_json **out, tn_err *err)
{
    const tn_json *o = tn_json_find(c, key);
    *out = NULL;
    if (o == NULL || o->type == TN_JSON_NULL)
        return TN_OK;
    if (o->type != TN_JSON_OBJECT)
        return tn_fail(err, TN_DATA, FILE_NAME ": %s: no object; expected {...} or null", key);
    for (const tn_json *m = o->child; m != NULL; m = m->next)
        if (m->type == TN_JSON_OBJECT)
            return tn_fail(err, TN_DATA, FILE_NAME ": %s: \"%.64s\" has values of its own; "
                           "expected one set for all layers", key, m->key);
    *out = o;
    return TN_OK;
}

static tn_status read_positive(const tn_json *o, const char *key, double fallback, double *out,
                               tn_err *err)
{
    tn_status st = tn_json_get_float(o, key, FILE_NAME, fallback, out, err);
    if (st == TN_OK && !(*out > 0 && *out < 1e12))
        return tn_fail(err, TN_DATA, FILE_NAME ": %s: %g; expected a positive number below 1e12", key,
                       *out);
    return st;
}

static tn_status read_yarn(const tn_json *o, tn_scaling *s, tn_err *err)
{
    double mscale = 0, mscale_all = 0;
    tn_status st = read_positive(o, "beta_fast", 32, &s->beta_fast, err);
    if (st == TN_OK)
        st = read_positive(o, "beta_slow", 1, &s->beta_slow, err);
    if (st == TN_OK)
        st = tn_json_get_float(o, "mscale", FILE_NAME, 0, &mscale, err);
    if (st == TN_OK)
        st = tn_json_get_float(o, "mscale_all_dim", FILE_NAME, 0, &mscale_all, err);
    if (st == TN_OK)
        st = tn_json_get_bool(o, "truncate", FILE_NAME, true, &s->truncate, err);
    if (st != TN_OK)
        return st;
    double grow = s->factor > 1 ? log(s->factor) : 0;
    double usual = mscale != 0 && mscale_all != 0
                       ? (0.1 * mscale * grow + 1) / (0.1 * mscale_all * grow + 1)
                       : 0.1 * grow + 1;
    return read_positive(o, "attention_factor", usual, &s->attention, err);
}

static tn_status read_scaling(const tn_json *o, tn_model_conf *m, tn_err *err)
{
    tn_scaling *s = &m->scaling;
    const char *kind = NULL;
    const char *key = tn_json_find(o, "rope_type") != NULL ? "rope_type" : "type";
    tn_status st = tn_json_get_text(o, key, FILE_NAME, "default", &kind, err);
    if (st != TN_OK || strcmp(kind, "default") == 0)
        return st;
    if (strcmp(kind, "linear") != 0 && strcmp(kind, "llama3") != 0 && strcmp(kind, "yarn") != 0)
        return tn_fail(err, TN_DATA, FILE_NAME ": %s: \"%.64s\"; expected default, linear, llama3 "
                       "or yarn", key, kind);
    if (tn_json_find(o, "factor") == NULL)
        return tn_fail(err, TN_DATA, FILE_NAME ": factor: missing; expected it for the rope_type "
                       "%s", kind);
    st = read_positive(o, "factor", -1, &s->factor, err);
    if (st == TN_OK)
        st = read_positive(o, "original_max_position_embeddings", m->context, &s->original, err);
    if (st != TN_OK)
        return st;
    if (strcmp(kind, "linear") == 0) {
        s->kind = TN_SCALING_LINEAR;
        return TN_OK;
    }
    if (strcmp(kind, "llama3") == 0) {
        s->kind = TN_SCALING_LLAMA3;
        st = read_positive(o, "low_freq_factor", 1, &s->low_freq, err);
        if (st == TN_OK)
            st = read_positive(o, "high_freq_factor", 4, &s->high_freq, err);
        if (st == TN_OK && !(s->high_freq > s->low_freq))
            return tn_fail(err, TN_DATA, FILE_NAME ": high_freq_factor: %g; expected more than "
                           "low_freq_factor %g", s->high_freq, s->low_freq);
        return st;
    }
    s->kind = TN_SCALING_YARN;
    return read_yarn(o, s, err);
}

/* Devices turn by these in fp32. */
static tn_status check_turns(const tn_model_conf *m, tn_err *err)
{
    double inv[2048]; /* half of the greatest head_dim */
    double scale = tn_rope_fill(m, inv);
    bool fits = scale > 0 && scale < 1e12;
    for (uint32_t i = 0; i < m->rope_dims / 2; i++)
        fits = fits && inv[i] >= 0 && inv[i] < 1e12;
    if (!fits)
        return tn_fail(err, TN_DATA, FILE_NAME ": rope_theta: %g with factor %g; expected rotary "
                       "frequencies below 1e12", m->rope_theta, m->scaling.factor);
    return TN_OK;
}

static const tn_json *one_with(const char *key, const tn_json *first, const tn_json *second,
                               const tn_json *third)
{
    if (tn_json_find(first, key) != NULL)
        return first;
    return tn_json_find(second, key) != NULL ? second : third;
}

/* Old configs keep the stretching in rope_scaling, new ones in rope_parameters; people add the old
 * one to a new config by hand, and then it counts, as in transformers. Two that both stretch, and
 * differ, are refused. */
static tn_status read_stretching(const tn_json *older, const tn_json *newer, tn_model_conf *m,
                                 tn_err *err)
{
    const tn_model_conf plain = *m;
    tn_status st = newer != NULL ? read_scaling(newer, m, err) : TN_OK;
    tn_scaling said = m->scaling;
    if (st != TN_OK || older == NULL)
        return st;
    *m = plain;
    st = read_scaling(older, m, err);
    if (st != TN_OK || said.kind == plain.scaling.kind)
        return st;
    if (m->scaling.kind == plain.scaling.kind) {
        m->scaling = said;
        return TN_OK;
    }
    if (m->scaling.kind != said.kind || m->scaling.factor != said.factor ||
        m->scaling.original != said.original)
        return tn_fail(err, TN_DATA, FILE_NAME ": rope_scaling (factor %g) and rope_parameters "
                       "(factor %g) stretch positions in two ways; expected one of them",
                       m->scaling.factor, said.factor);
    return TN_OK;
}

static tn_status read_rope(const tn_json *c, const tn_family *f, tn_model_conf *m, tn_err *err)
{
    const tn_json *older = NULL, *newer = NULL;
    double usual = f->partial_rotary > 0 ? f->partial_rotary : 1, partial = 1;
    tn_status st = rope_object(c, "rope_scaling", &older, err);
    if (st == TN_OK)
        st = rope_object(c, "rope_parameters", &newer, err);
    if (st == TN_OK)
        st = read_positive(one_with("rope_theta", newer, older, c), "rope_theta", 10000,
                           &m->rope_theta, err);
    if (st == TN_OK)
        st = read_positive(one_with("partial_rotary_factor", newer, older, c),
                           "partial_rotary_factor", usual, &partial, err);
    if (st != TN_OK)
        return st;
    m->rope_dims = partial <= 1 ? (uint32_t)(m->head_dim * partial) : 0;
    if (m->rope_dims % 2 != 0 || m->rope_dims == 0)
        return tn_fail(err, TN_DATA, FILE_NAME ": partial_rotary_factor: %g; expected an even "
                       "number of rotated dimensions out of head_dim %u", partial, m->head_dim);
    st = read_stretching(older, newer, m, err);
    if (st != TN_OK)
        return st;
    /* transformers keeps max_position_embeddings at the stretched length for llama3; for
     * linear and yarn configs in the wild it is the original one. */
    double reach = m->scaling.original * m->scaling.factor;
    if ((m->scaling.kind == TN_SCALING_YARN || m->scaling.kind == TN_SCALING_LINEAR) &&
        reach > m->context && reach <= CONTEXT_MOST)
        m->context = (uint32_t)reach;
    return check_turns(m, err);
}

static tn_status read_switches(const tn_json *c, const tn_family *f, tn_model_conf *m, tn_err *err)
{
    double eps = 0;
    bool bias = false;
    tn_status st = tn_json_get_float(c, "rms_norm_eps", FILE_NAME, 1e-6, &eps, err);
    if (st == TN_OK && !((float)eps > 0 && eps < 1)) /* 1e-50 is 0 once it is a float */
        return tn_fail(err, TN_DATA, FILE_NAME ": rms_norm_eps: %g; expected between 0 and 1",
                       eps);
    if (st == TN_OK)
        st = tn_json_get_bool(c, "attention_bias", FILE_NAME, false, &bias, err);
    if (st == TN_OK)
        st = tn_json_get_bool(c, "mlp_bias", FILE_NAME, false, &m->mlp_bias, err);
    m->eps = (float)eps;
    m->norm_offset = f->zero_centred ? 1 : 0;
    m->qk_norm = f->qk_norm;
    m->attn_gate = f->hybrid;
    m->qkv_bias = f->qkv_bias || bias;
    m->o_bias = bias && !f->qkv_bias;
    return st;
}

tn_status tn_model_conf_read(const tn_json *config, tn_model_conf *out, tn_err *err)
{
    if (config == NULL || config->type != TN_JSON_OBJECT)
        return tn_fail(err, TN_DATA, FILE_NAME ": not an object; expected a model configuration");
    tn_model_conf m = {.bos = -1};
    const tn_family *f = NULL;
    tn_status st = read_family(config, &f, err);
    /* Models that see as well keep the language model's numbers in an object of their own. */
    const tn_json *text = tn_json_find(config, "text_config"), *outer = config;
    bool nested = text != NULL && text->type == TN_JSON_OBJECT;
    if (nested)
        config = text;
    if (st == TN_OK)
        st = check_class(outer, f, err);
    if (st == TN_OK)
        st = read_shape(config, f, &m, err);
    if (st == TN_OK)
        st = read_act(config, &m, err);
    if (st == TN_OK)
        st = read_dtype(config, &m, err);
    if (st == TN_OK && m.dtype == 0)
        st = read_dtype(outer, &m, err);
    if (st == TN_OK)
        st = read_tokens(config, &m, err);
    if (st == TN_OK)
        st = read_rope(config, f, &m, err);
    if (st == TN_OK)
        st = tn_conf_layers(config, f, &m, err);
    if (st == TN_OK)
        st = read_switches(config, f, &m, err);
    if (st == TN_OK)
        st = tn_json_get_bool(tn_json_find(config, "tie_word_embeddings") != NULL ? config : outer,
                              "tie_word_embeddings", FILE_NAME, false, &m.tied, err);
    if (st != TN_OK)
        return st;
    m.prefix = nested && f->prefix != NULL ? f->prefix : "model.";
    snprintf(m.type, sizeof m.type, "%s", f->type);
    *out = m;
    return TN_OK;
}
