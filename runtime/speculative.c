/* SPDX-License-Identifier: Apache-2.0 */
/* speculative.c - speculative_config, turned into the keys drafts and draft_path. */
#include "speculative.h"

#include "json.h"
#include "quote.h"

#include <stdio.h>

#define DRAFTS_LEAST 1
#define DRAFTS_MOST 4
#define COUNT(a) (sizeof(a) / sizeof(a)[0])

/* Members that tune somebody else's drafting. What they say never changes a reply. */
static const char *const without_effect[] = {
    "draft_tensor_parallel_size", "max_model_len", "quantization", "revision", "code_revision",
    "enforce_eager", "disable_by_batch_size", "disable_padded_drafter_batch",
};

static tn_status check_members(const tn_json *o, const char *what, tn_err *err)
{
    tn_quoted quoted;
    for (const tn_json *m = o->child; m != NULL; m = m->next) {
        bool known = tn_json_is_key(m, "method") || tn_json_is_key(m, "model") ||
                     tn_json_is_key(m, "num_speculative_tokens");
        for (size_t i = 0; i < COUNT(without_effect) && !known; i++)
            known = tn_json_is_key(m, without_effect[i]);
        if (!known)
            return tn_fail(err, TN_CONFIG, "%s: unknown member %s; expected method, "
                           "num_speculative_tokens or model", what, tn_quote_text(&quoted, m->key));
    }
    return TN_OK;
}

/* Drafting is the work of a multi-token prediction module: the model's own, or a folder's. */
static tn_status check_method(const char *method, bool has_model, const char *what, tn_err *err)
{
    tn_quoted quoted;
    if (strcmp(method, "mtp") == 0 || strcmp(method, "qwen3_next_mtp") == 0)
        return TN_OK;
    if (method[0] == 0 && has_model)
        return TN_OK;
    if (method[0] == 0)
        return tn_fail(err, TN_CONFIG, "%s: neither method nor model; expected the method mtp or "
                       "qwen3_next_mtp", what);
    return tn_fail(err, TN_CONFIG, "%s: method %s is not offered; expected mtp or qwen3_next_mtp",
                   what, tn_quote_text(&quoted, method));
}

/* Both may be given when they say the same: what --print-config prints can be read again. */
static tn_status set(tn_values *v, const char *key, const char *written, const char *what,
                     tn_err *err)
{
    const tn_value *old = tn_values_find(v, key);
    tn_quoted here, there;
    if (old->origin != NULL && strcmp(old->written, written) != 0)
        return tn_fail(err, TN_CONFIG, "%s: says %s where %s is %s (%s); expected one of them",
                       what, tn_quote_text(&here, written), key,
                       tn_quote_text(&there, old->written), old->origin);
    char origin[200];
    const char *from = tn_values_find(v, "speculative_config")->origin;
    snprintf(origin, sizeof origin, "%s", from != NULL ? from : "speculative_config");
    return tn_values_set(v, key, written, origin, TN_CONFIG, err);
}

static tn_status apply(tn_values *v, const tn_json *o, const char *what, tn_err *err)
{
    const char *method, *model;
    char drafts[16];
    int64_t n;
    if (o->type != TN_JSON_OBJECT)
        return tn_fail(err, TN_CONFIG, "%s: no JSON object; expected {\"method\": \"mtp\", "
                       "\"num_speculative_tokens\": 2}", what);
    tn_status st = check_members(o, what, err);
    if (st == TN_OK)
        st = tn_json_get_text(o, "method", what, "", &method, err);
    if (st == TN_OK)
        st = tn_json_get_text(o, "model", what, "", &model, err);
    if (st == TN_OK)
        st = check_method(method, model[0] != 0, what, err);
    if (st == TN_OK)
        st = tn_json_get_int(o, "num_speculative_tokens", what, DRAFTS_LEAST, DRAFTS_LEAST,
                             DRAFTS_MOST, &n, err);
    if (st != TN_OK)
        return st;
    snprintf(drafts, sizeof drafts, "%d", (int)n);
    st = set(v, "drafts", drafts, what, err);
    if (st == TN_OK && model[0] != 0)
        st = set(v, "draft_path", model, what, err);
    return st;
}

tn_status tn_speculative_apply(tn_values *v, tn_err *err)
{
    const tn_value *given = tn_values_find(v, "speculative_config");
    if (given->text[0] == 0)
        return TN_OK;
    char what[320];
    snprintf(what, sizeof what, "%s: [%s] speculative_config",
             given->origin != NULL ? given->origin : "default", v->section);
    tn_json_doc *doc;
    tn_status st = tn_json_open(given->text, strlen(given->text), what, 4, &doc, err);
    if (st == TN_OK) {
        st = apply(v, tn_json_root(doc), what, err);
        tn_json_close(doc);
    }
    return st == TN_OK || st == TN_NO_MEMORY ? st : TN_CONFIG;
}
