/* SPDX-License-Identifier: Apache-2.0 */
/* import_config.c - config.json and generation_config.json of an imported model. */
#include "import_model.h"

#include "buf.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A decimal of d digits is m * 10^e; while m and the power of ten are exact doubles, one
 * division or product gives the double nearest to it, whose shortest form it then is. */
void tn_import_put_float(tn_buf *out, double v)
{
    float f = (float)v;
    double a = fabs(v), best = v;
    if (a < 1e15 && v == rint(v)) { /* as Python writes a float */
        tn_buf_printf(out, "%lld.0", (long long)v);
        return;
    }
    if (!isfinite(v) || (double)f != v) {
        tn_buf_put_double(out, v);
        return;
    }
    int top = (int)floor(log10(a)); /* exponent of the leading digit */
    for (int digits = 1; digits <= 9; digits++) {
        int e = top - digits + 1;
        if (e < -22 || e > 22)
            continue;
        double ten = pow(10, abs(e));
        double whole = rint(e < 0 ? a * ten : a / ten);
        double r = e < 0 ? whole / ten : whole * ten;
        if ((float)r == fabsf(f)) {
            best = v < 0 ? -r : r;
            break;
        }
    }
    tn_buf_put_double(out, best);
}

static void put_key(tn_buf *b, const char *key)
{
    tn_buf_printf(b, ",\n  \"%s\": ", key);
}

static void put_int(tn_buf *b, const char *key, uint64_t v)
{
    put_key(b, key);
    tn_buf_printf(b, "%llu", (unsigned long long)v);
}

static void put_bool(tn_buf *b, const char *key, bool v)
{
    put_key(b, key);
    tn_buf_puts(b, v ? "true" : "false");
}

static void put_float(tn_buf *b, const char *key, double v)
{
    put_key(b, key);
    tn_import_put_float(b, v);
}

static void put_text(tn_buf *b, const char *key, const char *v)
{
    put_key(b, key);
    tn_buf_printf(b, "\"%s\"", v);
}

static void put_id(tn_buf *b, const char *key, int64_t id)
{
    if (id == TN_IMPORT_NO_ID)
        return;
    put_key(b, key);
    tn_buf_printf(b, "%lld", (long long)id);
}

/* Generation stops at the end of the text, of a turn and of a message: one id, or a list. */
static void put_eos(tn_buf *b, const tn_import_model *m)
{
    const int64_t all[] = {m->eos, m->eot, m->eom};
    int64_t ids[3];
    uint32_t n = 0;
    for (uint32_t i = 0; i < 3; i++) {
        bool known = all[i] == TN_IMPORT_NO_ID;
        for (uint32_t j = 0; j < n; j++)
            known = known || ids[j] == all[i];
        if (!known)
            ids[n++] = all[i];
    }
    if (n == 0)
        return;
    put_key(b, "eos_token_id");
    for (uint32_t i = 0; i < n; i++)
        tn_buf_printf(b, "%s%lld", i > 0 ? ", " : n > 1 ? "[" : "", (long long)ids[i]);
    if (n > 1)
        tn_buf_putc(b, ']');
}

static void put_pair(tn_buf *b, const char *key, double v)
{
    tn_buf_printf(b, ", \"%s\": ", key);
    tn_import_put_float(b, v);
}

static void put_whole(tn_buf *b, const char *key, double v)
{
    if (v == rint(v))
        tn_buf_printf(b, ", \"%s\": %llu", key, (unsigned long long)v);
    else
        put_pair(b, key, v);
}

static void put_rope(tn_buf *b, const tn_import_model *m)
{
    const tn_import_rope *r = &m->rope;
    put_float(b, "rope_theta", r->theta);
    put_key(b, "rope_scaling");
    if (r->kind == TN_IMPORT_ROPE_PLAIN) {
        tn_buf_puts(b, "null");
        return;
    }
    const char *kind = r->kind == TN_IMPORT_ROPE_LINEAR ? "linear"
                       : r->kind == TN_IMPORT_ROPE_YARN ? "yarn" : "llama3";
    tn_buf_printf(b, "{\"rope_type\": \"%s\"", kind);
    put_pair(b, "factor", r->factor);
    if (r->kind == TN_IMPORT_ROPE_LLAMA3) {
        put_pair(b, "low_freq_factor", r->low);
        put_pair(b, "high_freq_factor", r->high);
    }
    if (r->original > 0)
        put_whole(b, "original_max_position_embeddings", r->original);
    if (r->attention > 0)
        put_pair(b, "attention_factor", r->attention);
    if (r->beta_fast > 0)
        put_pair(b, "beta_fast", r->beta_fast);
    if (r->beta_slow > 0)
        put_pair(b, "beta_slow", r->beta_slow);
    if (r->mscale > 0) { /* equal ones cancel: the factor on cos and sin is 1 */
        put_pair(b, "mscale", r->mscale);
        put_pair(b, "mscale_all_dim", r->mscale);
    }
    if (m->temperature > 0)
        put_pair(b, "llama_4_scaling_beta", m->temperature);
    tn_buf_putc(b, '}');
}

void tn_import_config(const tn_import_model *m, uint32_t dtype, tn_buf *out)
{
    tn_buf_printf(out, "{\n  \"architectures\": [\"%s\"]", m->family.class_name);
    put_text(out, "model_type", m->family.model_type);
    if (!m->family.qkv_bias) /* a family that always has them has no such key */
        put_bool(out, "attention_bias", m->attention_bias);
    put_float(out, "attention_dropout", 0);
    put_id(out, "bos_token_id", m->bos);
    put_eos(out, m);
    put_id(out, "pad_token_id", m->pad);
    put_int(out, "head_dim", m->head_dim);
    put_text(out, "hidden_act", "silu");
    put_int(out, "hidden_size", m->hidden);
    put_float(out, "initializer_range", 0.02);
    put_int(out, "intermediate_size", m->inter);
    put_int(out, "max_position_embeddings", m->context);
    put_bool(out, "mlp_bias", m->mlp_bias);
    put_int(out, "num_attention_heads", m->heads);
    put_int(out, "num_hidden_layers", m->layers);
    put_int(out, "num_key_value_heads", m->kv_heads);
    put_float(out, "rms_norm_eps", m->eps);
    put_rope(out, m);
    if (m->window > 0 && m->family.permuted)
        put_int(out, "sliding_window", m->window);
    else if (m->family.permuted && m->family.model_type[0] == 'm')
        tn_buf_puts(out, ",\n  \"sliding_window\": null");
    else if (!m->family.permuted)
        put_bool(out, "use_sliding_window", false);
    put_bool(out, "tie_word_embeddings", m->tied);
    put_text(out, "torch_dtype", dtype == TN_BF16 ? "bfloat16" : dtype == TN_F32 ? "float32"
                                                                                 : "float16");
    put_bool(out, "use_cache", true);
    put_int(out, "vocab_size", m->vocab);
    tn_buf_puts(out, "\n}\n");
}

/* Families whose authors recommend a way of sampling on their pages but not in their files: at
 * temperature 1, what a reader takes without a word, a small model wanders. */
static const struct {
    const char *family;          /* how general.basename begins, in lower case */
    double temperature, top_p;
} recommended[] = {{"smollm2", 0.2, 0.9}};

static bool begins_with(const tn_gguf_text *t, const char *lower)
{
    uint64_t n = strlen(lower);
    if (t->text == NULL || t->size < n)
        return false;
    for (uint64_t i = 0; i < n; i++) {
        char c = t->text[i];
        if ((c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c) != lower[i])
            return false;
    }
    return true;
}

static void put_recommended(const tn_import_model *m, tn_buf *out)
{
    tn_err ignored;
    tn_gguf_text name = {0};
    if (tn_gguf_get_text(m->g, "general.basename", &name, &ignored) != TN_OK || name.text == NULL)
        (void)tn_gguf_get_text(m->g, "general.name", &name, &ignored); /* a hint, never an error */
    for (size_t i = 0; i < sizeof recommended / sizeof recommended[0]; i++)
        if (begins_with(&name, recommended[i].family)) {
            put_bool(out, "do_sample", true);
            put_float(out, "temperature", recommended[i].temperature);
            put_float(out, "top_p", recommended[i].top_p);
            return;
        }
}

/* What the file recommends for sampling, under the names of generation_config.json; where it
 * recommends nothing, what is known of its family. */
static tn_status put_sampling(const tn_import_model *m, tn_buf *out, tn_err *err)
{
    static const struct {
        const char *key, *name;
    } floats[] = {{"general.sampling.temp", "temperature"},
                  {"general.sampling.top_p", "top_p"},
                  {"general.sampling.min_p", "min_p"},
                  {"general.sampling.penalty_repeat", "repetition_penalty"}};
    uint64_t top_k = 0;
    size_t before = out->len;
    tn_status st = tn_gguf_get_uint(m->g, "general.sampling.top_k", 0, INT32_MAX, &top_k, err);
    for (size_t i = 0; i < sizeof floats / sizeof floats[0] && st == TN_OK; i++) {
        double v = NAN;
        st = tn_gguf_get_float(m->g, floats[i].key, NAN, &v, err);
        if (st == TN_OK && isfinite(v))
            put_float(out, floats[i].name, v);
    }
    if (st == TN_OK && top_k > 0)
        put_int(out, "top_k", top_k);
    if (out->len == before)
        put_recommended(m, out);
    else
        put_bool(out, "do_sample", true);
    return st;
}

tn_status tn_import_generation(const tn_import_model *m, tn_buf *out, tn_err *err)
{
    tn_buf_puts(out, "{\n  \"_from_model_config\": true");
    put_id(out, "bos_token_id", m->bos);
    put_eos(out, m);
    put_id(out, "pad_token_id", m->pad);
    tn_status st = put_sampling(m, out, err);
    tn_buf_puts(out, "\n}\n");
    return st;
}
