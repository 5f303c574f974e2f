/* SPDX-License-Identifier: Apache-2.0 */
/* import_model.c - the numbers of a GGUF file's metadata, checked. */
#include "import_model.h"

#include "quote.h"

#include <math.h>
#include <string.h>

#define SIZE_MOST ((uint64_t)1 << 24)
#define LAYERS_MOST 1024u
#define CONTEXT_MOST ((uint64_t)1 << 27)
#define IDS_MOST ((uint64_t)1 << 20)

static const tn_import_family families[] = {
    {.arch = "llama", .model_type = "llama", .class_name = "LlamaForCausalLM", .permuted = true},
    {.arch = "mistral3", .model_type = "mistral", .class_name = "MistralForCausalLM",
     .permuted = true},
    {.arch = "qwen2", .model_type = "qwen2", .class_name = "Qwen2ForCausalLM", .qkv_bias = true},
    {.arch = "qwen3", .model_type = "qwen3", .class_name = "Qwen3ForCausalLM", .qk_norm = true},
};

/* "<arch>.<name>" in a buffer that lives as long as the expression's block. */
typedef struct arch_key {
    char text[160];
} arch_key;

static const char *key_of(arch_key *k, const tn_import_model *m, const char *name)
{
    snprintf(k->text, sizeof k->text, "%s.%s", m->family.arch, name);
    return k->text;
}

static tn_status read_family(tn_import_model *m, tn_err *err)
{
    tn_gguf_text arch;
    tn_quoted q;
    tn_status st = tn_gguf_get_text(m->g, "general.architecture", &arch, err);
    if (st != TN_OK)
        return st;
    if (arch.text == NULL)
        return tn_fail(err, TN_DATA, "%s: no key \"general.architecture\"; expected a model",
                       tn_gguf_path(m->g));
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++)
        if (strlen(families[i].arch) == arch.size &&
            memcmp(families[i].arch, arch.text, (size_t)arch.size) == 0) {
            m->family = families[i];
            return TN_OK;
        }
    return tn_fail(err, TN_UNSUPPORTED, "%s: architecture %s; expected llama, mistral3, qwen2 or "
                   "qwen3", tn_gguf_path(m->g), tn_quote(&q, arch.text, (size_t)arch.size));
}

static tn_status missing(const tn_import_model *m, const char *key, tn_err *err)
{
    return tn_fail(err, TN_DATA, "%s: no key \"%s\"; expected it in a model of architecture %s",
                   tn_gguf_path(m->g), key, m->family.arch);
}

/* A size of the architecture. Some writers give a list with one value per layer: it is taken
 * when all are the same. 0 when the key is absent. */
static tn_status read_size(const tn_import_model *m, const char *name, uint64_t most,
                           uint64_t *out, tn_err *err)
{
    arch_key k;
    const char *key = key_of(&k, m, name);
    const tn_gguf_kv *kv = tn_gguf_find(m->g, key);
    if (kv == NULL || kv->type != TN_GGUF_ARRAY)
        return tn_gguf_get_uint(m->g, key, 0, most, out, err);
    int64_t first = 0, v = 0;
    for (uint64_t i = 0; i < kv->count; i++) {
        if (!tn_gguf_item_int(kv, i, &v) || v < 0 || (uint64_t)v > most)
            return tn_fail(err, TN_DATA, "%s:%llu: key \"%s\": value %llu of the list; expected "
                           "an integer from 0 to %llu", tn_gguf_path(m->g),
                           (unsigned long long)kv->offset, key, (unsigned long long)i,
                           (unsigned long long)most);
        if (i == 0)
            first = v;
        if (v != first)
            return tn_fail(err, TN_UNSUPPORTED, "%s:%llu: key \"%s\": %lld in layer 0 but %lld in "
                           "layer %llu; expected layers that are all alike", tn_gguf_path(m->g),
                           (unsigned long long)kv->offset, key, (long long)first, (long long)v,
                           (unsigned long long)i);
    }
    *out = (uint64_t)first;
    return TN_OK;
}

static tn_status need_size(const tn_import_model *m, const char *name, uint64_t most,
                           uint64_t *out, tn_err *err)
{
    arch_key k;
    tn_status st = read_size(m, name, most, out, err);
    return st == TN_OK && *out == 0 ? missing(m, key_of(&k, m, name), err) : st;
}

static tn_status read_positive(const tn_import_model *m, const char *name, double fallback,
                               double *out, tn_err *err)
{
    arch_key k;
    const char *key = key_of(&k, m, name);
    tn_status st = tn_gguf_get_float(m->g, key, fallback, out, err);
    if (st == TN_OK && !(*out >= 0 && *out < 1e12))
        return tn_fail(err, TN_DATA, "%s: key \"%s\" is %g; expected a positive number",
                       tn_gguf_path(m->g), key, *out);
    return st;
}

static tn_status read_heads(tn_import_model *m, tn_err *err)
{
    uint64_t key_length = 0, value_length = 0, rope_dims = 0;
    tn_status st = need_size(m, "attention.head_count", SIZE_MOST, &m->heads, err);
    if (st == TN_OK)
        st = read_size(m, "attention.head_count_kv", SIZE_MOST, &m->kv_heads, err);
    if (st == TN_OK)
        st = read_size(m, "attention.key_length", SIZE_MOST, &key_length, err);
    if (st == TN_OK)
        st = read_size(m, "attention.value_length", SIZE_MOST, &value_length, err);
    if (st == TN_OK)
        st = read_size(m, "rope.dimension_count", SIZE_MOST, &rope_dims, err);
    if (st != TN_OK)
        return st;
    if (m->kv_heads == 0)
        m->kv_heads = m->heads;
    m->head_dim = key_length > 0 ? key_length : m->hidden / m->heads;
    const char *file = tn_gguf_path(m->g);
    if (m->head_dim == 0 || m->head_dim % 2 != 0)
        return tn_fail(err, TN_DATA, "%s: heads of %llu values; expected an even number", file,
                       (unsigned long long)m->head_dim);
    if (m->heads % m->kv_heads != 0)
        return tn_fail(err, TN_DATA, "%s: %llu heads and %llu key-value heads; expected a "
                       "multiple", file, (unsigned long long)m->heads,
                       (unsigned long long)m->kv_heads);
    if (value_length > 0 && value_length != m->head_dim)
        return tn_fail(err, TN_UNSUPPORTED, "%s: keys of %llu and values of %llu a head; expected "
                       "one size", file, (unsigned long long)m->head_dim,
                       (unsigned long long)value_length);
    if (rope_dims > 0 && rope_dims != m->head_dim)
        return tn_fail(err, TN_UNSUPPORTED, "%s: %llu of %llu dimensions of a head are rotated; "
                       "expected all", file, (unsigned long long)rope_dims,
                       (unsigned long long)m->head_dim);
    return TN_OK;
}

/* -------------------------------------------------------------------------------- rotary */

static tn_status read_yarn(tn_import_model *m, tn_err *err)
{
    tn_import_rope *r = &m->rope;
    double other = 0;
    tn_status st = read_positive(m, "rope.scaling.yarn_attn_factor", 0, &r->attention, err);
    if (st == TN_OK)
        st = read_positive(m, "rope.scaling.attn_factor", 0, &other, err);
    if (st == TN_OK)
        st = read_positive(m, "rope.scaling.yarn_beta_fast", 0, &r->beta_fast, err);
    if (st == TN_OK)
        st = read_positive(m, "rope.scaling.yarn_beta_slow", 0, &r->beta_slow, err);
    if (st == TN_OK)
        st = read_positive(m, "rope.scaling.yarn_log_multiplier", 0, &r->mscale, err);
    if (r->attention == 0)
        r->attention = other;
    return st;
}

static tn_status read_scaling(tn_import_model *m, tn_err *err)
{
    arch_key k;
    tn_gguf_text kind;
    tn_quoted q;
    double old_scale = 0;
    uint64_t original = 0;
    tn_status st = tn_gguf_get_text(m->g, key_of(&k, m, "rope.scaling.type"), &kind, err);
    if (st == TN_OK)
        st = read_positive(m, "rope.scaling.factor", 0, &m->rope.factor, err);
    if (st == TN_OK)
        st = read_positive(m, "rope.scale_linear", 0, &old_scale, err);
    if (st == TN_OK)
        st = read_size(m, "rope.scaling.original_context_length", CONTEXT_MOST, &original, err);
    if (st != TN_OK)
        return st;
    m->rope.original = (double)original;
    if (m->rope.factor == 0)
        m->rope.factor = old_scale;
    if (kind.text == NULL) { /* a factor alone is the oldest way to say linear */
        m->rope.kind = m->rope.factor != 0 && m->rope.factor != 1 ? TN_IMPORT_ROPE_LINEAR
                                                                  : TN_IMPORT_ROPE_PLAIN;
        return TN_OK;
    }
    bool linear = kind.size == 6 && memcmp(kind.text, "linear", 6) == 0;
    bool yarn = kind.size == 4 && memcmp(kind.text, "yarn", 4) == 0;
    if (kind.size == 4 && memcmp(kind.text, "none", 4) == 0)
        return TN_OK;
    if (!linear && !yarn)
        return tn_fail(err, TN_UNSUPPORTED, "%s: %s is %s; expected none, linear or yarn",
                       tn_gguf_path(m->g), k.text, tn_quote(&q, kind.text, (size_t)kind.size));
    if (m->rope.factor == 0)
        return missing(m, key_of(&k, m, "rope.scaling.factor"), err);
    m->rope.kind = linear ? TN_IMPORT_ROPE_LINEAR : TN_IMPORT_ROPE_YARN;
    return yarn ? read_yarn(m, err) : TN_OK;
}

static bool is_near(double a, double b)
{
    return fabs(a - b) <= 1e-5 * fabs(b);
}

/* The round number that a measured one stands for, if there is one close by. */
static double snap(double v, double unit)
{
    double r = rint(v / unit) * unit;
    return fabs(v - r) <= 1e-3 * fabs(r) ? r : v;
}

/* The llama3 rule divides frequency w by 1 above high, by `factor` below low, and between
 * them blends: 1 / f = (1 - s) / factor + s, s = (original * w / 2pi - low) / (high - low).
 * s is linear in w, so two blended entries give its line; low, high and original are known
 * up to one common factor, which does not matter, so low = 1 as everybody writes it. */
tn_status tn_import_llama3(const float *f, uint32_t count, double theta, tn_import_rope *rope,
                           tn_err *err)
{
    const double turn = 6.283185307179586;
    double factor = count > 0 ? (double)f[count - 1] : 0;
    double w[2] = {0}, s[2] = {0};
    uint32_t found = 0;
    for (uint32_t i = 0; i < count; i++) {
        double v = (double)f[i];
        if (!(v >= 1 && v <= factor))
            break;
        if (is_near(v, 1) || is_near(v, factor))
            continue;
        uint32_t slot = found == 0 ? 0 : 1; /* the first and the last: farthest apart */
        w[slot] = pow(theta, -2.0 * i / (2.0 * count));
        s[slot] = (1 / v - 1 / factor) / (1 - 1 / factor);
        found++;
    }
    if (found < 2 || factor <= 1)
        goto other;
    double slope = (s[0] - s[1]) / (w[0] - w[1]);
    double at_zero = s[0] - slope * w[0]; /* -low / (high - low) */
    if (!(slope > 0 && at_zero < 0))
        goto other;
    double high = snap(1 - 1 / at_zero, 0.5);
    double original = snap(slope * (high - 1) * turn, 256);
    for (uint32_t i = 0; i < count; i++) {
        double x = original * pow(theta, -2.0 * i / (2.0 * count)) / turn;
        double blend = (x - 1) / (high - 1);
        double want = x > high ? 1 : x < 1 ? factor : 1 / ((1 - blend) / factor + blend);
        if (!(fabs((double)f[i] - want) <= 1e-4 * want))
            goto other;
    }
    rope->kind = TN_IMPORT_ROPE_LLAMA3;
    rope->factor = factor;
    rope->low = 1;
    rope->high = high;
    rope->original = original;
    return TN_OK;
other:
    return tn_fail(err, TN_UNSUPPORTED, "rope_freqs.weight: frequencies that no known rule gives; "
                   "expected those of llama3");
}

static tn_status read_freqs(tn_import_model *m, tn_err *err)
{
    const tn_gguf_tensor *t = tn_gguf_tensor_find(m->g, "rope_freqs.weight");
    float f[1024];
    if (t == NULL)
        return TN_OK;
    if (t->type->id != 0 || t->rows != 1 || t->dim[0] != m->head_dim / 2 ||
        t->dim[0] > sizeof f / sizeof f[0])
        return tn_fail(err, TN_DATA, "%s: tensor \"rope_freqs.weight\" of type %s with %llu "
                       "values; expected F32 and %llu", tn_gguf_path(m->g), t->type->name,
                       (unsigned long long)t->dim[0], (unsigned long long)m->head_dim / 2);
    t->type->read(t->data, (size_t)t->dim[0], f);
    bool plain = true;
    for (uint64_t i = 0; i < t->dim[0]; i++)
        plain = plain && f[i] == 1.0f;
    if (plain)
        return TN_OK;
    if (m->rope.kind != TN_IMPORT_ROPE_PLAIN)
        return tn_fail(err, TN_UNSUPPORTED, "%s: both rope.scaling.type and rope_freqs.weight; "
                       "expected one of them", tn_gguf_path(m->g));
    return tn_import_llama3(f, (uint32_t)t->dim[0], m->rope.theta, &m->rope, err);
}

/* ----------------------------------------------------------------------------- the whole */

static tn_status read_id(const tn_import_model *m, const char *key, int64_t *out, tn_err *err)
{
    uint64_t v = 0;
    *out = TN_IMPORT_NO_ID;
    if (tn_gguf_find(m->g, key) == NULL)
        return TN_OK;
    tn_status st = tn_gguf_get_uint(m->g, key, 0, UINT32_MAX, &v, err);
    if (st == TN_OK && v < m->vocab)
        *out = (int64_t)v;
    else if (st == TN_OK && v != UINT32_MAX) /* all ones: some writers' "none" */
        return tn_fail(err, TN_DATA, "%s: key \"%s\" is %llu; expected a token below %llu",
                       tn_gguf_path(m->g), key, (unsigned long long)v,
                       (unsigned long long)m->vocab);
    return st;
}

static tn_status read_ids(tn_import_model *m, tn_err *err)
{
    tn_status st = read_id(m, "tokenizer.ggml.bos_token_id", &m->bos, err);
    if (st == TN_OK)
        st = read_id(m, "tokenizer.ggml.eos_token_id", &m->eos, err);
    if (st == TN_OK)
        st = read_id(m, "tokenizer.ggml.eot_token_id", &m->eot, err);
    if (st == TN_OK)
        st = read_id(m, "tokenizer.ggml.eom_token_id", &m->eom, err);
    if (st == TN_OK)
        st = read_id(m, "tokenizer.ggml.unknown_token_id", &m->unk, err);
    return st == TN_OK ? read_id(m, "tokenizer.ggml.padding_token_id", &m->pad, err) : st;
}

/* The embedding's rows are the vocabulary, whatever vocab_size says. */
static tn_status read_vocab(tn_import_model *m, tn_err *err)
{
    const tn_gguf_tensor *t = tn_gguf_tensor_find(m->g, "token_embd.weight");
    if (t == NULL)
        return tn_fail(err, TN_DATA, "%s: no tensor \"token_embd.weight\"; expected a model with "
                       "weights", tn_gguf_path(m->g));
    if (t->ndim != 2 || t->dim[0] != m->hidden || t->dim[1] > IDS_MOST)
        return tn_fail(err, TN_DATA, "%s:%llu: tensor \"token_embd.weight\" is %llu x %llu; "
                       "expected %llu values a token and at most %llu tokens",
                       tn_gguf_path(m->g), (unsigned long long)t->offset,
                       (unsigned long long)t->dim[0], (unsigned long long)t->dim[1],
                       (unsigned long long)m->hidden, (unsigned long long)IDS_MOST);
    m->vocab = t->dim[1];
    m->tied = tn_gguf_tensor_find(m->g, "output.weight") == NULL;
    return TN_OK;
}

static tn_status refuse_other_kinds(const tn_import_model *m, tn_err *err)
{
    uint64_t experts = 0, parts = 0;
    tn_status st = tn_gguf_get_uint(m->g, "split.count", 0, 65535, &parts, err);
    if (st == TN_OK && parts > 1)
        return tn_fail(err, TN_UNSUPPORTED, "%s: one of %llu parts; expected a whole file (merge "
                       "the parts first)", tn_gguf_path(m->g), (unsigned long long)parts);
    if (st == TN_OK)
        st = read_size(m, "expert_count", SIZE_MOST, &experts, err);
    if (st == TN_OK && experts > 0)
        return tn_fail(err, TN_UNSUPPORTED, "%s: a mixture of %llu experts; expected a dense model",
                       tn_gguf_path(m->g), (unsigned long long)experts);
    return st;
}

/* Names of config.json follow what the file has: a sliding window makes a llama a mistral,
 * a temperature of positions makes a mistral3 a ministral3. */
static void choose_type(tn_import_model *m)
{
    if (m->temperature > 0) {
        m->family.model_type = "ministral3";
        m->family.class_name = "Ministral3ForCausalLM";
    } else if (m->window > 0 && m->family.permuted) {
        m->family.model_type = "mistral";
        m->family.class_name = "MistralForCausalLM";
    }
}

tn_status tn_import_model_read(const tn_gguf *g, tn_import_model *out, tn_err *err)
{
    tn_import_model m = {.g = g};
    tn_status st = read_family(&m, err);
    if (st == TN_OK)
        st = refuse_other_kinds(&m, err);
    if (st == TN_OK)
        st = need_size(&m, "block_count", LAYERS_MOST, &m.layers, err);
    if (st == TN_OK)
        st = need_size(&m, "embedding_length", SIZE_MOST, &m.hidden, err);
    if (st == TN_OK)
        st = need_size(&m, "feed_forward_length", SIZE_MOST, &m.inter, err);
    if (st == TN_OK)
        st = need_size(&m, "context_length", CONTEXT_MOST, &m.context, err);
    if (st == TN_OK)
        st = read_heads(&m, err);
    if (st == TN_OK)
        st = read_size(&m, "attention.sliding_window", CONTEXT_MOST, &m.window, err);
    if (st == TN_OK)
        st = read_positive(&m, "attention.layer_norm_rms_epsilon", 1e-5, &m.eps, err);
    if (st == TN_OK)
        st = read_positive(&m, "attention.temperature_scale", 0, &m.temperature, err);
    if (st == TN_OK)
        st = read_positive(&m, "rope.freq_base", 10000, &m.rope.theta, err);
    if (st == TN_OK && (m.eps == 0 || m.rope.theta == 0))
        return tn_fail(err, TN_DATA, "%s: %s is 0; expected a positive number", tn_gguf_path(g),
                       m.eps == 0 ? "attention.layer_norm_rms_epsilon" : "rope.freq_base");
    if (st == TN_OK)
        st = read_scaling(&m, err);
    if (st == TN_OK)
        st = read_freqs(&m, err);
    if (st == TN_OK)
        st = read_vocab(&m, err);
    if (st == TN_OK)
        st = read_ids(&m, err);
    if (st != TN_OK)
        return st;
    choose_type(&m);
    *out = m;
    return TN_OK;
}
