/* SPDX-License-Identifier: Apache-2.0 */
/* awq_config.c - reads quantization_config, in AutoAWQ's and compressed-tensors' spelling.
 *
 * Every key that would change how a weight is computed is either honoured or refused by
 * name. Keys that only record how the file was made (meta, observer, ...) are passed over. */
#include "awq.h"

#include <fcntl.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#define TWIN_SIZE_MAX ((off_t)1 << 20)
#define GROUP_MAX ((int64_t)1 << 31)

/* Absent and null are the same everywhere in these configs. */
static const tn_json *find(const tn_json *o, const char *key)
{
    const tn_json *v = tn_json_find(o, key);
    return v == NULL || v->type == TN_JSON_NULL ? NULL : v;
}

static const tn_json *find_either(const tn_json *o, const char *key, const char *alias,
                                  const char **spelled)
{
    const tn_json *v = find(o, key);
    *spelled = v == NULL && find(o, alias) != NULL ? alias : key;
    return v != NULL ? v : find(o, alias);
}

static bool is_text(const tn_json *v, const char *text)
{
    return v != NULL && v->type == TN_JSON_TEXT && v->count == strlen(text) &&
           strncasecmp(v->text, text, v->count) == 0;
}

static bool is_text_of(const tn_json *v, const char *const *choices)
{
    for (; *choices != NULL; choices++)
        if (is_text(v, *choices))
            return true;
    return false;
}

static bool is_bool(const tn_json *v)
{
    return v->type == TN_JSON_TRUE || v->type == TN_JSON_FALSE;
}

/* A value for a message, cut short. */
static const char *show(const tn_json *v, char *out, size_t size)
{
    if (v == NULL || v->type == TN_JSON_NULL)
        snprintf(out, size, "null");
    else if (v->type == TN_JSON_TEXT)
        snprintf(out, size, "\"%.40s\"", v->text);
    else if (v->type == TN_JSON_INT)
        snprintf(out, size, "%lld", (long long)v->i);
    else if (v->type == TN_JSON_FLOAT)
        snprintf(out, size, "a fraction");
    else if (is_bool(v))
        snprintf(out, size, "%s", v->type == TN_JSON_TRUE ? "true" : "false");
    else
        snprintf(out, size, "%s", v->type == TN_JSON_LIST ? "a list" : "an object");
    return out;
}

static tn_status refuse(const char *file, const char *key, const tn_json *v, const char *wanted,
                        tn_err *err)
{
    char found[64];
    return tn_fail(err, TN_DATA, "%s: quantization_config: %s is %s, wanted %s", file, key,
                   show(v, found, sizeof found), wanted);
}

/* ---------------------------------------------------------------------------- method */

static bool is_auto_round(const tn_json *quant)
{
    return is_text(find(quant, "quant_method"), "auto-round");
}

/* AutoAWQ's own quant_config.json has no quant_method. */
static bool is_nameless_awq(const tn_json *quant)
{
    return find(quant, "quant_method") == NULL && find(quant, "w_bit") != NULL &&
           find(quant, "q_group_size") != NULL;
}

bool awq_config_is_ours(const tn_json *quant, const char *file, tn_err *why)
{
    static const char *const packings[] = {"auto_round:auto_awq", "auto_round:awq", NULL};
    char found[64];
    if (quant == NULL || quant->type != TN_JSON_OBJECT) {
        tn_fail(why, TN_DATA, "the checkpoint has no quantization_config");
        return false;
    }
    const tn_json *method = find(quant, "quant_method");
    if (is_text(method, "awq") || is_text(method, "compressed-tensors") ||
        is_nameless_awq(quant))
        return true;
    if (is_auto_round(quant)) {
        const tn_json *packing = find(quant, "packing_format");
        if (is_text_of(packing, packings))
            return true;
        tn_fail(why, TN_DATA,
                "%s: quant_method is auto-round with packing_format %s; this plugin reads "
                "auto_round:auto_awq",
                file, show(packing, found, sizeof found));
        return false;
    }
    tn_fail(why, TN_DATA,
            "%s: quant_method is %s; this plugin reads awq, compressed-tensors and auto-round",
            file, show(method, found, sizeof found));
    return false;
}

/* --------------------------------------------------------------------------- AutoAWQ */

static tn_status read_version(const tn_json *quant, const char *file, awq_config *out,
                              tn_err *err)
{
    /* marlin and exllama are ways to load a gemm file, not layouts. */
    static const char *const gemm[] = {"gemm", "marlin", "exllama", "exllamav2", NULL};
    static const char *const keys[] = {"version", "format", "checkpoint_format"};
    const tn_json *first = NULL;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const tn_json *v = find(quant, keys[i]);
        if (v == NULL || is_auto_round(quant))
            continue;
        bool natural = is_text(v, "gemv"), fast = is_text(v, "gemv_fast");
        if (!natural && !fast && !is_text_of(v, gemm))
            return refuse(file, keys[i], v, "gemm, gemv, gemv_fast, marlin or exllama", err);
        if (first != NULL && (out->natural != (natural || fast) || out->fast != fast))
            return refuse(file, keys[i], v, "the same as version", err);
        first = v;
        out->natural = natural || fast;
        out->fast = fast;
    }
    return TN_OK;
}

static tn_status read_autoawq(const tn_json *quant, const char *file, awq_config *out,
                              tn_err *err)
{
    const char *key;
    awq_scheme *s = &out->scheme[0];
    out->method = AWQ_METHOD_AUTOAWQ;
    out->nscheme = 1;

    const tn_json *bits = find_either(quant, "bits", "w_bit", &key);
    if (bits == NULL || bits->type != TN_JSON_INT || bits->i != 4)
        return refuse(file, key, bits, "4, the only width of AWQ files", err);
    s->bits = 4;

    const tn_json *group = find_either(quant, "group_size", "q_group_size", &key);
    if (group == NULL || group->type != TN_JSON_INT || group->i == 0 || group->i < -1 ||
        group->i >= GROUP_MAX)
        return refuse(file, key, group, "-1 or a positive number of columns", err);
    s->group = group->i < 0 ? 0 : (uint64_t)group->i;

    const tn_json *zero = find(quant, "zero_point");
    if (zero != NULL && !is_bool(zero))
        return refuse(file, "zero_point", zero, "true or false", err);
    const tn_json *sym = find(quant, "sym");
    if (sym != NULL && !is_bool(sym))
        return refuse(file, "sym", sym, "true or false", err);
    s->symmetric = (zero != NULL && zero->type == TN_JSON_FALSE) ||
                   (sym != NULL && sym->type == TN_JSON_TRUE);

    const tn_json *order = find(quant, "desc_act");
    if (order != NULL && order->type != TN_JSON_FALSE)
        return refuse(file, "desc_act", order, "false, since AWQ has no act-order", err);
    const tn_json *word = find(quant, "pack_dtype");
    if (word != NULL && !is_text(word, "int32"))
        return refuse(file, "pack_dtype", word, "int32", err);

    out->plain = find(quant, is_auto_round(quant) ? "extra_config" : "modules_to_not_convert");
    uint32_t type = is_auto_round(quant) ? TN_JSON_OBJECT : TN_JSON_LIST;
    if (out->plain != NULL && out->plain->type != type)
        return refuse(file, out->plain->key, out->plain,
                      type == TN_JSON_LIST ? "a list of names" : "an object", err);
    return read_version(quant, file, out, err);
}

/* ----------------------------------------------------------------- compressed-tensors */

static tn_status read_weights(const tn_json *w, const char *file, awq_scheme *out, tn_err *err)
{
    static const char *const strategies[] = {"group", "channel", "tensor", NULL};
    static const char *const in_place[] = {"weight", "static", NULL};
    static const char *const ordered[] = {"group", "dynamic", NULL};

    const tn_json *type = find(w, "type");
    if (type != NULL && !is_text(type, "int"))
        return refuse(file, "weights.type", type, "int", err);
    const tn_json *bits = find(w, "num_bits");
    if (bits == NULL || bits->type != TN_JSON_INT || bits->i < 1 || bits->i > 8)
        return refuse(file, "weights.num_bits", bits, "1 to 8", err);
    out->bits = (uint32_t)bits->i;

    const tn_json *sym = find(w, "symmetric");
    if (sym != NULL && !is_bool(sym))
        return refuse(file, "weights.symmetric", sym, "true or false", err);
    out->symmetric = sym == NULL || sym->type == TN_JSON_TRUE;

    const tn_json *strategy = find(w, "strategy");
    if (strategy != NULL && !is_text_of(strategy, strategies))
        return refuse(file, "weights.strategy", strategy, "group, channel or tensor", err);
    const tn_json *group = find(w, "group_size");
    if (group != NULL && (group->type != TN_JSON_INT || group->i < -1 || group->i == 0 ||
                          group->i >= GROUP_MAX))
        return refuse(file, "weights.group_size", group, "-1 or a positive number", err);
    bool grouped = strategy == NULL ? group != NULL && group->i > 0 : is_text(strategy, "group");
    if (grouped && (group == NULL || group->i < 1))
        return refuse(file, "weights.group_size", group, "a positive number", err);
    out->group = grouped ? (uint64_t)group->i : 0;

    const tn_json *order = find(w, "actorder");
    out->ordered = order != NULL && (order->type == TN_JSON_TRUE || is_text_of(order, ordered));
    if (order != NULL && !out->ordered && order->type != TN_JSON_FALSE &&
        !is_text_of(order, in_place))
        return refuse(file, "weights.actorder", order, "group, weight, static or null", err);

    const tn_json *dynamic = find(w, "dynamic");
    if (dynamic != NULL && dynamic->type != TN_JSON_FALSE)
        return refuse(file, "weights.dynamic", dynamic, "false", err);
    const tn_json *block = find(w, "block_structure");
    if (block != NULL)
        return refuse(file, "weights.block_structure", block, "null", err);
    return TN_OK;
}

/* A config group is an object with a scheme, or a preset's name with its list of targets. */
static tn_status read_group(const tn_json *g, const char *file, awq_scheme *out, tn_err *err)
{
    memset(out, 0, sizeof *out);
    if (g->type == TN_JSON_LIST) {
        bool w4 = strcmp(g->key, "W4A16") == 0, w4_asym = strcmp(g->key, "W4A16_ASYM") == 0;
        if (!w4 && !w4_asym && strcmp(g->key, "W8A16") != 0)
            return tn_fail(err, TN_DATA,
                           "%s: quantization_config: config_groups names the preset \"%.60s\", "
                           "wanted W4A16, W4A16_ASYM, W8A16 or an object",
                           file, g->key);
        *out = (awq_scheme){.bits = w4 || w4_asym ? 4u : 8u,
                            .group = 128,
                            .symmetric = !w4_asym,
                            .targets = g};
        return TN_OK;
    }
    static const char *const formats[] = {"pack-quantized", NULL};
    if (g->type != TN_JSON_OBJECT)
        return refuse(file, g->key, g, "an object or a list of targets", err);
    static const char *const acts[] = {"input_activations", "output_activations"};
    for (size_t i = 0; i < 2; i++)
        if (find(g, acts[i]) != NULL)
            return refuse(file, acts[i], find(g, acts[i]), "null: only weights are quantized",
                          err);
    const tn_json *format = find(g, "format");
    if (format != NULL && !is_text_of(format, formats))
        return refuse(file, "config_groups format", format, "pack-quantized", err);
    out->targets = find(g, "targets");
    if (out->targets == NULL || out->targets->type != TN_JSON_LIST)
        return refuse(file, "targets", out->targets, "a list of names", err);
    const tn_json *weights = find(g, "weights");
    if (weights == NULL || weights->type != TN_JSON_OBJECT)
        return refuse(file, "weights", weights, "an object", err);
    return read_weights(weights, file, out, err);
}

/* Libraries before 0.17 padded widths that do not divide 32 instead of streaming them. */
static bool version_pads(const tn_json *version)
{
    if (version == NULL || version->type != TN_JSON_TEXT ||
        strncmp(version->text, "0.", 2) != 0)
        return false;
    uint32_t minor = 0;
    for (const char *p = version->text + 2; *p >= '0' && *p <= '9' && minor < 1000; p++)
        minor = minor * 10 + (uint32_t)(*p - '0');
    return minor < 17;
}

static bool is_empty(const tn_json *v)
{
    return v == NULL || (v->type == TN_JSON_OBJECT && v->count == 0);
}

static tn_status read_packed(const tn_json *quant, const char *file, awq_config *out,
                             tn_err *err)
{
    static const char *const formats[] = {"pack-quantized", "mixed-precision", NULL};
    out->method = AWQ_METHOD_PACKED;
    const tn_json *format = find(quant, "format");
    if (format != NULL && !is_text_of(format, formats))
        return refuse(file, "format", format, "pack-quantized", err);
    const tn_json *sparse = find(quant, "sparsity_config");
    if (!is_empty(sparse) && !is_text(find(sparse, "format"), "dense"))
        return refuse(file, "sparsity_config", sparse, "none", err);
    const tn_json *transform = find(quant, "transform_config");
    if (!is_empty(transform) && !is_empty(find(transform, "config_groups")))
        return refuse(file, "transform_config", transform, "none", err);

    const tn_json *groups = find(quant, "config_groups");
    if (groups == NULL || groups->type != TN_JSON_OBJECT || groups->count == 0)
        return refuse(file, "config_groups", groups, "an object with a group", err);
    for (const tn_json *g = groups->child; g != NULL; g = g->next) {
        if (out->nscheme == AWQ_SCHEMES_MAX)
            return tn_fail(err, TN_DATA,
                           "%s: quantization_config: config_groups holds %u groups, wanted at "
                           "most %u",
                           file, groups->count, AWQ_SCHEMES_MAX);
        tn_status st = read_group(g, file, &out->scheme[out->nscheme], err);
        if (st != TN_OK)
            return st;
        out->nscheme++;
    }
    out->plain = find(quant, "ignore");
    if (out->plain != NULL && out->plain->type != TN_JSON_LIST)
        return refuse(file, "ignore", out->plain, "a list of names", err);
    out->padded = version_pads(find(quant, "version"));
    return TN_OK;
}

tn_status awq_config_read(const tn_json *quant, const char *file, awq_config *out, tn_err *err)
{
    tn_err why;
    file = file != NULL ? file : "config.json";
    memset(out, 0, sizeof *out);
    if (!awq_config_is_ours(quant, file, &why))
        return tn_fail(err, TN_DATA, "%s", why.text);
    if (is_text(find(quant, "quant_method"), "compressed-tensors"))
        return read_packed(quant, file, out, err);
    return read_autoawq(quant, file, out, err);
}

/* ------------------------------------------------------------------------------- twin */

/* The file's text, NUL-terminated, from the host; NULL when there is no such plain file. */
static char *slurp(const tn_host *h, const char *path, size_t *size)
{
    char *text = NULL;
    struct stat s;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return NULL;
    if (fstat(fd, &s) != 0 || !S_ISREG(s.st_mode) || s.st_size > TWIN_SIZE_MAX)
        goto close_file;
    text = h->alloc(h->ctx, (uint64_t)s.st_size + 1);
    if (text == NULL)
        goto close_file;
    for (*size = 0; *size < (size_t)s.st_size;) {
        ssize_t n = read(fd, text + *size, (size_t)s.st_size - *size);
        if (n <= 0)
            break;
        *size += (size_t)n;
    }
    text[*size] = 0;
close_file:
    close(fd);
    return text;
}

static bool same(const tn_json *a, const tn_json *b)
{
    if (a->type != b->type)
        return false;
    if (a->type == TN_JSON_INT)
        return a->i == b->i;
    return a->type != TN_JSON_TEXT || is_text(a, b->text);
}

static tn_status compare(const tn_json *quant, const char *file, const tn_json *twin,
                         const char *twin_file, tn_err *err)
{
    static const char *const keys[][2] = {
        {"bits", "w_bit"},           {"group_size", "q_group_size"}, {"zero_point", "zero_point"},
        {"version", "version"},      {"quant_method", "quant_method"},
    };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        char a_text[64], b_text[64];
        const char *a_key, *b_key;
        const tn_json *a = find_either(quant, keys[i][0], keys[i][1], &a_key);
        const tn_json *b = find_either(twin, keys[i][0], keys[i][1], &b_key);
        if (a != NULL && b != NULL && !same(a, b))
            return tn_fail(err, TN_DATA, "%s says %s %s, but %s says %s %s; wanted one value",
                           file, a_key, show(a, a_text, sizeof a_text), twin_file, b_key,
                           show(b, b_text, sizeof b_text));
    }
    return TN_OK;
}

tn_status awq_config_twin(const tn_host *h, const tn_view *v, tn_err *err)
{
    static const char *const names[] = {"quant_config.json", "quantize_config.json"};
    const char *file = v->quant_file != NULL ? v->quant_file : "config.json";
    for (size_t i = 0; v->dir != NULL && i < sizeof names / sizeof *names; i++) {
        char path[4096];
        size_t size = 0;
        int n = snprintf(path, sizeof path, "%s/%s", v->dir, names[i]);
        if (n < 0 || (size_t)n >= sizeof path || strstr(file, names[i]) != NULL)
            continue;
        char *text = slurp(h, path, &size);
        if (text == NULL)
            continue;
        tn_json_doc *doc = NULL;
        tn_status st = h->json_open(h->ctx, text, size, names[i], 64, &doc, err);
        if (st == TN_OK) {
            st = compare(v->quant, file, h->json_root(h->ctx, doc), names[i], err);
            h->json_close(h->ctx, doc);
        }
        h->release(h->ctx, text);
        if (st != TN_OK)
            return st;
    }
    return TN_OK;
}
