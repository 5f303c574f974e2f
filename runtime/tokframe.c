/* SPDX-License-Identifier: Apache-2.0 */
/* tokframe.c - the tokens that a post-processor puts around a text (BOS, EOS). */
#include "json.h"
#include "quote.h"
#include "tokparts.h"

#include <stdlib.h>

#define FRAME_MAX 1024u
#define DEPTH_MAX 16u

typedef struct reader {
    tn_tok *t;
    const char *what;
    bool framed;       /* a template has been read: a second one has no meaning */
    tn_err *err;
} reader;

static tn_status put(reader *r, int64_t id)
{
    uint32_t size;
    if (id != -1 && (id < 0 || id >= r->t->count ||
                     tn_tok_spelling(r->t, (int32_t)id, &size) == NULL))
        return tn_fail(r->err, TN_DATA, "%s: special token id %lld is not in the vocabulary",
                       r->what, (long long)id);
    if (r->t->nframe == FRAME_MAX)
        return tn_fail(r->err, TN_DATA, "%s: more than %u parts", r->what, FRAME_MAX);
    r->t->frame[r->t->nframe++] = (int32_t)id;
    return TN_OK;
}

static tn_status put_special(reader *r, const tn_json *piece, const tn_json *specials)
{
    tn_quoted q;
    const char *name = NULL;
    tn_status st = tn_json_get_text(piece, "id", r->what, NULL, &name, r->err);
    if (st != TN_OK)
        return st;
    const tn_json *ids = name != NULL ? tn_json_find(tn_json_find(specials, name), "ids") : NULL;
    if (ids == NULL || ids->type != TN_JSON_LIST)
        return tn_fail(r->err, TN_DATA, "%s: SpecialToken %s is not among its special_tokens",
                       r->what, name != NULL ? tn_quote_text(&q, name) : "without id");
    for (const tn_json *i = ids->child; i != NULL && st == TN_OK; i = i->next) {
        if (i->type != TN_JSON_INT || i->i < 0)
            return tn_fail(r->err, TN_DATA, "%s: special token %s has an id that is no "
                           "integer from 0", r->what, tn_quote_text(&q, name));
        st = put(r, i->i);
    }
    return st;
}

static tn_status begin_frame(reader *r)
{
    if (r->framed)
        return tn_fail(r->err, TN_DATA, "%s: two processors that add tokens; expected one",
                       r->what);
    r->framed = true;
    r->t->nframe = 0;
    return TN_OK;
}

static tn_status read_template(reader *r, const tn_json *spec)
{
    const tn_json *single = tn_json_find(spec, "single");
    if (single == NULL || single->type != TN_JSON_LIST)
        return tn_fail(r->err, TN_DATA, "%s: TemplateProcessing without a list \"single\"",
                       r->what);
    tn_status st = begin_frame(r);
    for (const tn_json *p = single->child; p != NULL && st == TN_OK; p = p->next) {
        const tn_json *special = tn_json_find(p, "SpecialToken");
        const tn_json *id = tn_json_find(tn_json_find(p, "Sequence"), "id");
        if (special != NULL)
            st = put_special(r, special, tn_json_find(spec, "special_tokens"));
        else if (id != NULL && id->type == TN_JSON_TEXT && strcmp(id->text, "A") == 0)
            st = put(r, -1);
        else
            return tn_fail(r->err, TN_DATA, "%s: a part of \"single\" is neither a SpecialToken "
                           "nor Sequence A", r->what);
    }
    return st;
}

/* ["<s>", 0] under "cls" or "sep". */
static tn_status put_named(reader *r, const tn_json *spec, const char *key)
{
    const tn_json *pair = tn_json_find(spec, key);
    const tn_json *id = pair != NULL && pair->count == 2 && pair->type == TN_JSON_LIST
                            ? pair->child->next : NULL;
    if (id == NULL || id->type != TN_JSON_INT || id->i < 0)
        return tn_fail(r->err, TN_DATA, "%s: %s is not [token, id]", r->what, key);
    return put(r, id->i);
}

static tn_status read_pair(reader *r, const tn_json *spec)
{
    tn_status st = begin_frame(r);
    if (st == TN_OK)
        st = put_named(r, spec, "cls");
    if (st == TN_OK)
        st = put(r, -1);
    return st == TN_OK ? put_named(r, spec, "sep") : st;
}

static tn_status read_any(reader *r, const tn_json *spec, uint32_t depth)
{
    tn_quoted q;
    const char *type = NULL;
    tn_status st = tn_json_get_text(spec, "type", r->what, NULL, &type, r->err);
    if (st != TN_OK)
        return st;
    if (type != NULL && strcmp(type, "ByteLevel") == 0)
        return TN_OK; /* moves offsets only */
    if (type != NULL && strcmp(type, "TemplateProcessing") == 0)
        return read_template(r, spec);
    if (type != NULL &&
        (strcmp(type, "RobertaProcessing") == 0 || strcmp(type, "BertProcessing") == 0))
        return read_pair(r, spec);
    const tn_json *list = tn_json_find(spec, "processors");
    if (type != NULL && strcmp(type, "Sequence") == 0 && list != NULL &&
        list->type == TN_JSON_LIST && depth < DEPTH_MAX) {
        for (const tn_json *m = list->child; m != NULL && st == TN_OK; m = m->next)
            st = read_any(r, m, depth + 1);
        return st;
    }
    return tn_fail(r->err, TN_DATA, "%s: type %s; expected TemplateProcessing, ByteLevel, "
                   "BertProcessing, RobertaProcessing or a Sequence of processors", r->what,
                   type != NULL ? tn_quote_text(&q, type) : "absent");
}

tn_status tn_tokframe_read(tn_tok *t, const tn_json *spec, const char *what, tn_err *err)
{
    t->frame = malloc(FRAME_MAX * sizeof *t->frame);
    if (t->frame == NULL)
        return tn_fail(err, TN_NO_MEMORY, "%s: no memory", what);
    t->frame[0] = -1;
    t->nframe = 1;
    reader r = {.t = t, .what = what, .err = err};
    return spec == NULL || spec->type == TN_JSON_NULL ? TN_OK : read_any(&r, spec, 0);
}
