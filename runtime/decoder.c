/* SPDX-License-Identifier: Apache-2.0 */
/* decoder.c - reads the "decoder" of a tokenizer.json into a list of stages. */
#include "decode_parts.h"
#include "json.h"
#include "quote.h"
#include "utf8seq.h"

#include <stdlib.h>

#define DEPTH_MAX 16u

typedef tn_decode_stage stage;

typedef struct opener {
    tn_decoder *d;
    const uint8_t *kinds;
    const char *what;
    tn_err *err;
} opener;

static tn_status add_stage(opener *o, enum tn_stage_kind kind, stage **out)
{
    if (o->d->n == TN_DECODE_STAGES_MAX)
        return tn_fail(o->err, TN_DATA, "%s: more than %u stages; expected fewer", o->what,
                       TN_DECODE_STAGES_MAX);
    *out = &o->d->stage[o->d->n++];
    **out = (stage){.kind = kind};
    return TN_OK;
}

static tn_status take_text(opener *o, const tn_json *text, const char *key, stage *s)
{
    if (text == NULL || text->type != TN_JSON_TEXT || text->count > 4096)
        return tn_fail(o->err, TN_DATA, "%s: %s is no text of at most 4096 bytes", o->what, key);
    s->content = malloc(text->count + 1u);
    if (s->content == NULL)
        return tn_fail(o->err, TN_NO_MEMORY, "%s: no memory", o->what);
    memcpy(s->content, text->text, text->count);
    s->content_size = text->count;
    return TN_OK;
}

static tn_status take_mark(opener *o, const tn_json *spec, const char *key, stage *s)
{
    const tn_json *mark = tn_json_find(spec, key);
    if (mark == NULL || mark->type != TN_JSON_TEXT || mark->count == 0 ||
        tn_utf8_size(mark->text, mark->count) != mark->count)
        return tn_fail(o->err, TN_DATA, "%s: %s is not one character", o->what, key);
    memcpy(s->mark, mark->text, mark->count);
    s->mark_size = mark->count;
    return TN_OK;
}

static tn_status open_replace(opener *o, const tn_json *spec)
{
    stage *s = NULL;
    tn_status st = add_stage(o, TN_STAGE_REPLACE, &s);
    if (st == TN_OK)
        st = tn_pattern_open(&s->pattern, tn_json_find(spec, "pattern"), o->kinds, o->what,
                             o->err);
    return st == TN_OK ? take_text(o, tn_json_find(spec, "content"), "content", s) : st;
}

static tn_status open_strip(opener *o, const tn_json *spec)
{
    stage *s = NULL;
    int64_t start = 0, stop = 0;
    tn_status st = add_stage(o, TN_STAGE_STRIP, &s);
    if (st == TN_OK)
        st = take_mark(o, spec, "content", s);
    if (st == TN_OK)
        st = tn_json_get_int(spec, "start", o->what, 0, 0, 4096, &start, o->err);
    if (st == TN_OK)
        st = tn_json_get_int(spec, "stop", o->what, 0, 0, 4096, &stop, o->err);
    if (st == TN_OK) {
        s->start = (uint32_t)start;
        s->stop = (uint32_t)stop;
    }
    return st;
}

static tn_status open_metaspace(opener *o, const tn_json *spec)
{
    stage *s = NULL;
    const char *scheme = NULL;
    bool prefix = true;
    tn_status st = add_stage(o, TN_STAGE_METASPACE, &s);
    if (st == TN_OK)
        st = take_mark(o, spec, "replacement", s);
    if (st == TN_OK)
        st = tn_json_get_text(spec, "prepend_scheme", o->what, "always", &scheme, o->err);
    if (st == TN_OK)
        st = tn_json_get_bool(spec, "add_prefix_space", o->what, true, &prefix, o->err);
    if (st == TN_OK)
        s->drop_first = prefix && strcmp(scheme, "never") != 0;
    return st;
}

static tn_status open_suffix(opener *o, const tn_json *spec)
{
    stage *s = NULL;
    tn_status st = add_stage(o, TN_STAGE_SUFFIX, &s);
    if (st == TN_OK)
        st = take_text(o, tn_json_find(spec, "suffix"), "suffix", s);
    if (st == TN_OK)
        st = tn_pattern_open_string(&s->pattern, s->content, s->content_size, o->what, o->err);
    return st;
}

static tn_status open_any(opener *o, const tn_json *spec, uint32_t depth)
{
    static const struct {
        const char *type;
        tn_status (*open)(opener *o, const tn_json *spec);
    } types[] = {{"Replace", open_replace}, {"Strip", open_strip},
                 {"Metaspace", open_metaspace}, {"BPEDecoder", open_suffix}};
    static const struct {
        const char *type;
        enum tn_stage_kind kind;
    } plain[] = {{"ByteLevel", TN_STAGE_BYTE_LEVEL}, {"ByteFallback", TN_STAGE_BYTE_FALLBACK},
                 {"Fuse", TN_STAGE_FUSE}};
    const char *type = NULL;
    tn_quoted q;
    tn_status st = tn_json_get_text(spec, "type", o->what, NULL, &type, o->err);
    if (st != TN_OK)
        return st;
    const tn_json *list = tn_json_find(spec, "decoders");
    if (type != NULL && strcmp(type, "Sequence") == 0) {
        if (list == NULL || list->type != TN_JSON_LIST || depth >= DEPTH_MAX)
            return tn_fail(o->err, TN_DATA, "%s: Sequence without a list of decoders, or nested "
                           "deeper than %u", o->what, DEPTH_MAX);
        for (const tn_json *m = list->child; m != NULL && st == TN_OK; m = m->next)
            st = open_any(o, m, depth + 1);
        return st;
    }
    for (size_t i = 0; type != NULL && i < sizeof types / sizeof *types; i++)
        if (strcmp(type, types[i].type) == 0)
            return types[i].open(o, spec);
    stage *s = NULL;
    for (size_t i = 0; type != NULL && i < sizeof plain / sizeof *plain; i++)
        if (strcmp(type, plain[i].type) == 0)
            return add_stage(o, plain[i].kind, &s);
    return tn_fail(o->err, TN_DATA, "%s: type %s; expected ByteLevel, ByteFallback, Fuse, Strip, "
                   "Replace, Metaspace, BPEDecoder or Sequence", o->what,
                   type != NULL ? tn_quote_text(&q, type) : "absent");
}

tn_status tn_decoder_open(tn_decoder *d, const tn_json *spec, const uint8_t *kinds,
                          const char *what, tn_err *err)
{
    *d = (tn_decoder){0};
    d->stage = calloc(TN_DECODE_STAGES_MAX, sizeof *d->stage);
    if (d->stage == NULL)
        return tn_fail(err, TN_NO_MEMORY, "%s: no memory", what);
    opener o = {.d = d, .kinds = kinds, .what = what, .err = err};
    stage *s = NULL;
    tn_status st = spec == NULL || spec->type == TN_JSON_NULL ? add_stage(&o, TN_STAGE_JOIN, &s)
                                                              : open_any(&o, spec, 0);
    if (st != TN_OK)
        tn_decoder_close(d);
    return st;
}

void tn_decoder_close(tn_decoder *d)
{
    for (uint32_t i = 0; i < d->n; i++) {
        tn_pattern_close(&d->stage[i].pattern);
        free(d->stage[i].content);
    }
    free(d->stage);
    *d = (tn_decoder){0};
}
