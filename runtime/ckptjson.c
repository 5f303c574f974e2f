/* SPDX-License-Identifier: Apache-2.0 */
/* ckptjson.c - the JSON files of a model folder, and where quantization_config hides. */
#include "ckptparts.h"

#include "json.h"
#include "quote.h"

#include <stdlib.h>
#include <string.h>

#define JSON_SIZE_MAX ((uint64_t)64 << 20) /* of a config; real ones have kilobytes */

void tn_ckpt_json_close(tn_ckpt_json *j)
{
    tn_json_close(j->doc);
    tn_filemap_close(&j->map);
    *j = (tn_ckpt_json){0};
}

tn_status tn_ckpt_json_open(const tn_ckpt_place *p, const char *name, bool need,
                            tn_ckpt_json *out, tn_err *err)
{
    tn_ckpt_json j = {0};
    size_t size = strlen(p->dir) + strlen(name) + 2;
    char *path = malloc(size);
    if (path == NULL)
        return tn_fail(err, TN_NO_MEMORY, "%s: no memory to open it", name);
    snprintf(path, size, "%s/%s", p->dir, name);
    tn_status st = tn_filemap_open(&j.map, path, p->inside, JSON_SIZE_MAX, err);
    free(path);
    if (st == TN_NOINPUT && !need) {
        *out = (tn_ckpt_json){0};
        return TN_OK;
    }
    if (st != TN_OK)
        return st;
    const char *what = tn_path_tail(j.map.path);
    st = tn_json_open(j.map.data != NULL ? (const char *)j.map.data : "", (size_t)j.map.size, what,
                      TN_JSON_DEPTH_FILE, &j.doc, err);
    if (st == TN_OK && tn_json_root(j.doc)->type != TN_JSON_OBJECT)
        st = tn_fail(err, TN_DATA, "%s:0: no object at the top; expected {...}", what);
    if (st != TN_OK)
        tn_ckpt_json_close(&j);
    else
        *out = j;
    return st;
}

/* ---------------------------------------------------------------- quantization_config */

/* What two descriptions of one quantization must agree on, under all the names it has. */
static const struct {
    const char *name, *alias;
} said[] = {{"quant_method", NULL}, {"bits", "w_bit"}, {"group_size", "q_group_size"},
            {"desc_act", NULL}};

static const tn_json *member(const tn_json *o, const char *name, const char *alias)
{
    const tn_json *v = tn_json_find(o, name);
    if (v == NULL && alias != NULL)
        v = tn_json_find(o, alias);
    return v != NULL && v->type != TN_JSON_NULL ? v : NULL;
}

static bool is_number(const tn_json *v)
{
    return v->type == TN_JSON_INT || v->type == TN_JSON_FLOAT;
}

static bool is_same(const tn_json *a, const tn_json *b)
{
    if (is_number(a) && is_number(b))
        return a->f == b->f;
    if (a->type != b->type)
        return false;
    if (a->type == TN_JSON_TEXT)
        return a->count == b->count && strncasecmp(a->text, b->text, a->count) == 0;
    return true; /* equal words: true, false */
}

static const char *show(tn_quoted *q, const tn_json *v)
{
    if (v->type == TN_JSON_TEXT)
        return tn_quote(q, v->text, v->count);
    if (is_number(v))
        snprintf(q->text, sizeof q->text, v->type == TN_JSON_INT ? "%.0f" : "%g", v->f);
    else
        snprintf(q->text, sizeof q->text, "%s", v->type == TN_JSON_TRUE ? "true" :
                 v->type == TN_JSON_FALSE ? "false" : "no plain value");
    return q->text;
}

static tn_status check_agree(const tn_ckpt_place *p, const tn_json *a, const char *file_a,
                             const tn_json *b, const char *file_b, tn_err *err)
{
    tn_quoted x, y;
    for (size_t i = 0; i < sizeof said / sizeof said[0]; i++) {
        const tn_json *u = member(a, said[i].name, said[i].alias);
        const tn_json *v = member(b, said[i].name, said[i].alias);
        if (u != NULL && v != NULL && !is_same(u, v))
            return tn_fail(err, TN_DATA, "%s: %s is %s in %s but %s in %s; expected one value",
                           tn_path_tail(p->dir), said[i].name, show(&x, u), file_a, show(&y, v),
                           file_b);
    }
    return TN_OK;
}

static const tn_json *object_of(const tn_json *o, const char *key)
{
    const tn_json *v = tn_json_find(o, key);
    return v != NULL && v->type != TN_JSON_NULL ? v : NULL;
}

static tn_status check_object(const tn_ckpt_place *p, const tn_json *v, const char *where,
                              tn_err *err)
{
    if (v == NULL || v->type == TN_JSON_OBJECT)
        return TN_OK;
    return tn_fail(err, TN_DATA, "%s/config.json:%u: %s is no object; expected {...} or null",
                   tn_path_tail(p->dir), v->offset, where);
}

tn_status tn_ckpt_find_quant(const tn_ckpt_place *p, const tn_json *config, tn_ckpt_json *older,
                             const tn_json **quant, const char **file, tn_err *err)
{
    static const char *const files[] = {"quantize_config.json", "quant_config.json"};
    static const char in_config[] = "config.json", in_text[] = "config.json (text_config)";
    const tn_json *top = object_of(config, "quantization_config");
    const tn_json *text = object_of(tn_json_find(config, "text_config"), "quantization_config");
    const char *name = NULL;
    tn_status st = check_object(p, top, "quantization_config", err);
    if (st == TN_OK)
        st = check_object(p, text, "text_config.quantization_config", err);
    if (st == TN_OK && top != NULL && text != NULL)
        st = check_agree(p, top, in_config, text, in_text, err);
    for (size_t i = 0; i < 2 && st == TN_OK && older->doc == NULL; i++) {
        st = tn_ckpt_json_open(p, files[i], false, older, err);
        name = files[i];
    }
    if (st != TN_OK)
        return st;
    const tn_json *said_here = top != NULL ? top : text;
    if (said_here != NULL && older->doc != NULL)
        st = check_agree(p, said_here, top != NULL ? in_config : in_text, tn_json_root(older->doc),
                         name, err);
    if (st != TN_OK)
        return st;
    *quant = said_here != NULL ? said_here : older->doc != NULL ? tn_json_root(older->doc) : NULL;
    *file = said_here != NULL ? in_config : older->doc != NULL ? name : NULL;
    return TN_OK;
}
