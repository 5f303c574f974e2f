/* SPDX-License-Identifier: Apache-2.0 */
/* gptq_config.c - reads quantization_config as AutoGPTQ, GPTQModel and auto-round spell it.
 *
 * Every key that would change how a weight is computed is either honoured or refused by
 * name. Keys that only record how the file was made (meta, damp_percent, ...) are passed over. */
#include "gptq.h"

#include <fcntl.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#define TWIN_SIZE_MAX ((off_t)1 << 20)
#define TWIN_NAME "quantize_config.json"
#define GROUP_MAX ((int64_t)1 << 31)

/* Absent and null are the same everywhere in these configs. */
static const tn_json *find(const tn_json *o, const char *key)
{
    const tn_json *v = tn_json_find(o, key);
    return v == NULL || v->type == TN_JSON_NULL ? NULL : v;
}

static bool is_text(const tn_json *v, const char *text)
{
    return v != NULL && v->type == TN_JSON_TEXT && v->count == strlen(text) &&
           strncasecmp(v->text, text, v->count) == 0;
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

static bool is_auto_round(const tn_json *quant)
{
    return is_text(find(quant, "quant_method"), "auto-round");
}

/* AutoGPTQ's own quantize_config.json has no quant_method. */
static bool is_nameless_gptq(const tn_json *quant)
{
    return find(quant, "quant_method") == NULL && find(quant, "bits") != NULL &&
           find(quant, "group_size") != NULL && find(quant, "desc_act") != NULL;
}

bool gptq_config_is_ours(const tn_json *quant, const char *file, tn_err *why)
{
    char found[64];
    if (quant == NULL || quant->type != TN_JSON_OBJECT) {
        tn_fail(why, TN_DATA, "the checkpoint has no quantization_config");
        return false;
    }
    const tn_json *method = find(quant, "quant_method");
    if (is_text(method, "gptq") || is_nameless_gptq(quant))
        return true;
    if (is_auto_round(quant)) {
        const tn_json *packing = find(quant, "packing_format");
        if (packing == NULL || is_text(packing, "auto_round:auto_gptq") ||
            is_text(packing, "auto_round:gptq"))
            return true;
        tn_fail(why, TN_DATA,
                "%s: quant_method is auto-round with packing_format %s; this plugin reads "
                "auto_round:auto_gptq",
                file, show(packing, found, sizeof found));
        return false;
    }
    tn_fail(why, TN_DATA, "%s: quant_method is %s; this plugin reads gptq and auto-round", file,
            show(method, found, sizeof found));
    return false;
}

/* ------------------------------------------------------------------------------- read */

static tn_status read_bool(const tn_json *o, const char *key, const char *file, bool *out,
                           tn_err *err)
{
    const tn_json *v = find(o, key);
    if (v == NULL)
        return TN_OK;
    if (!is_bool(v))
        return refuse(file, key, v, "true or false", err);
    *out = v->type == TN_JSON_TRUE;
    return TN_OK;
}

tn_status gptq_config_override(const tn_json *o, const char *file, gptq_scheme *s, tn_err *err)
{
    const tn_json *bits = find(o, "bits"), *group = find(o, "group_size");
    if (bits != NULL && (bits->type != TN_JSON_INT ||
                         (bits->i != 2 && bits->i != 3 && bits->i != 4 && bits->i != 8)))
        return refuse(file, "bits", bits, "2, 3, 4 or 8", err);
    if (group != NULL && (group->type != TN_JSON_INT || group->i < -1 || group->i == 0 ||
                          group->i >= GROUP_MAX))
        return refuse(file, "group_size", group, "-1 or a positive number of columns", err);
    if (bits != NULL)
        s->bits = (uint32_t)bits->i;
    if (group != NULL)
        s->group = group->i < 0 ? 0 : (uint64_t)group->i;
    tn_status st = read_bool(o, "sym", file, &s->symmetric, err);
    return st != TN_OK ? st : read_bool(o, "desc_act", file, &s->ordered, err);
}

/* v1 or v2: the only thing that tensors cannot tell. */
static tn_status read_format(const tn_json *quant, const char *file, gptq_config *out, tn_err *err)
{
    static const char *const keys[] = {"checkpoint_format", "format"};
    const tn_json *first = NULL;
    for (size_t i = 0; i < 2 && !is_auto_round(quant); i++) {
        const tn_json *v = find(quant, keys[i]);
        if (v == NULL)
            continue;
        bool v2 = is_text(v, "gptq_v2");
        if (!v2 && !is_text(v, "gptq"))
            return refuse(file, keys[i], v, "gptq or gptq_v2", err);
        if (first != NULL && v2 != out->v2)
            return refuse(file, keys[i], v, "the same as checkpoint_format", err);
        first = v;
        out->v2 = v2;
    }
    return TN_OK;
}

static tn_status read_lists(const tn_json *quant, const char *file, gptq_config *out, tn_err *err)
{
    out->dynamic = find(quant, "dynamic");
    if (out->dynamic != NULL && out->dynamic->type != TN_JSON_OBJECT)
        return refuse(file, "dynamic", out->dynamic, "an object of patterns", err);
    out->blocks = find(quant, "modules_in_block_to_quantize");
    if (out->blocks != NULL && out->blocks->type != TN_JSON_LIST)
        return refuse(file, "modules_in_block_to_quantize", out->blocks, "a list", err);
    out->extra = is_auto_round(quant) ? find(quant, "extra_config") : NULL;
    if (out->extra != NULL && out->extra->type != TN_JSON_OBJECT)
        return refuse(file, "extra_config", out->extra, "an object of modules", err);
    return TN_OK;
}

tn_status gptq_config_read(const tn_json *quant, const char *file, gptq_config *out, tn_err *err)
{
    tn_err why;
    bool marlin = false;
    file = file != NULL ? file : "config.json";
    memset(out, 0, sizeof *out);
    if (!gptq_config_is_ours(quant, file, &why))
        return tn_fail(err, TN_DATA, "%s", why.text);
    if (find(quant, "bits") == NULL)
        return refuse(file, "bits", NULL, "2, 3, 4 or 8", err);
    if (find(quant, "group_size") == NULL)
        return refuse(file, "group_size", NULL, "-1 or a positive number of columns", err);
    tn_status st = gptq_config_override(quant, file, &out->scheme, err);
    if (st == TN_OK)
        st = read_bool(quant, "lm_head", file, &out->lm_head, err);
    if (st == TN_OK)
        st = read_bool(quant, "is_marlin_format", file, &marlin, err);
    if (st != TN_OK)
        return st;
    if (marlin)
        return refuse(file, "is_marlin_format", find(quant, "is_marlin_format"),
                      "false: repacked files are not read", err);
    const tn_json *word = find(quant, "pack_dtype");
    if (word != NULL && !is_text(word, "int32"))
        return refuse(file, "pack_dtype", word, "int32", err);
    const tn_json *type = find(quant, "data_type");
    if (type != NULL && !is_text(type, "int"))
        return refuse(file, "data_type", type, "int", err);
    st = read_format(quant, file, out, err);
    return st != TN_OK ? st : read_lists(quant, file, out, err);
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

static tn_status compare(const tn_json *quant, const char *file, const tn_json *twin, tn_err *err)
{
    static const char *const keys[] = {"bits", "group_size", "desc_act", "sym",
                                       "checkpoint_format", "quant_method"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        char a_text[64], b_text[64];
        const tn_json *a = find(quant, keys[i]), *b = find(twin, keys[i]);
        if (a != NULL && b != NULL && !same(a, b))
            return tn_fail(err, TN_DATA,
                           "%s says %s %s, but " TWIN_NAME " says %s; wanted one value", file,
                           keys[i], show(a, a_text, sizeof a_text), show(b, b_text, sizeof b_text));
    }
    return TN_OK;
}

tn_status gptq_config_twin(const tn_host *h, const tn_view *v, tn_err *err)
{
    char path[4096];
    size_t size = 0;
    const char *file = v->quant_file != NULL ? v->quant_file : "config.json";
    int n = snprintf(path, sizeof path, "%s/" TWIN_NAME, v->dir != NULL ? v->dir : "");
    if (v->dir == NULL || n < 0 || (size_t)n >= sizeof path || strstr(file, TWIN_NAME) != NULL)
        return TN_OK;
    char *text = slurp(h, path, &size);
    if (text == NULL)
        return TN_OK;
    tn_json_doc *doc = NULL;
    tn_status st = h->json_open(h->ctx, text, size, TWIN_NAME, 64, &doc, err);
    if (st == TN_OK) {
        st = compare(v->quant, file, h->json_root(h->ctx, doc), err);
        h->json_close(h->ctx, doc);
    }
    h->release(h->ctx, text);
    return st;
}
