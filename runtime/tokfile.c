/* SPDX-License-Identifier: Apache-2.0 */
/* tokfile.c - reads tokenizer.json.
 *
 * tokmodel.c reads the model as it comes by; the small rest goes through the JSON tree once the
 * whole file has been seen, for its parts need each other: added tokens are normalized, and
 * the symbols of the merges depend on the pre-tokenizer. */
#include "json.h"
#include "jsonscan.h"
#include "quote.h"
#include "tokparts.h"
#include "unicode.h"

#include <stdlib.h>

#define PART_MAX (8u << 20) /* bytes of anything but the model */

enum { ADDED, NORMALIZER, PRETOKENIZER, PROCESSOR, DECODER, NPART };
static const char *const part_names[NPART] = {"added_tokens", "normalizer", "pre_tokenizer",
                                              "post_processor", "decoder"};

typedef struct extent {
    const char *begin, *end; /* borrowed from the map; NULL: absent */
} extent;

typedef struct reader {
    tn_tok *t;
    const char *path;
    uint32_t id_max;       /* ids are below this */
    tn_scan scan;
    extent part[NPART];
    bool has_model;
    tn_err *err;
} reader;

static tn_status no_memory(const reader *r)
{
    return tn_fail(r->err, TN_NO_MEMORY, "%s: no memory for its tokens", r->path);
}

/* ---- added tokens ---- */

static tn_status refuse_added(const reader *r, const tn_json *a, const char *why)
{
    tn_quoted q;
    const tn_json *content = tn_json_find(a, "content");
    bool named = content != NULL && content->type == TN_JSON_TEXT;
    return tn_fail(r->err, TN_DATA, "%s: added token %s %s", r->path,
                   named ? tn_quote(&q, content->text, content->count) : "without content", why);
}

/* Gives a token that the model lacks its place; checks one that it has. */
static tn_status place_added(reader *r, const tn_json *a, const tn_json *content, int64_t id)
{
    tn_tok *t = r->t;
    uint32_t size;
    char why[128];
    int32_t has = tn_lexicon_find(&t->vocab, content->text, content->count);
    snprintf(why, sizeof why, "has id %lld, but the vocabulary gives it %d", (long long)id, has);
    if (has >= 0 && has != id)
        return refuse_added(r, a, why);
    if (tn_lexicon_find(&t->extra, content->text, content->count) >= 0)
        return refuse_added(r, a, "stands twice");
    snprintf(why, sizeof why, "has id %lld, which another token has", (long long)id);
    if (tn_lexicon_word(&t->extra, (int32_t)id, &size) != NULL ||
        (has < 0 && tn_lexicon_word(&t->vocab, (int32_t)id, &size) != NULL))
        return refuse_added(r, a, why);
    if (has < 0 && t->vocab.used + t->extra.used >= TN_LEXICON_MAX)
        return refuse_added(r, a, "is one too many; expected at most 2^20 tokens");
    int32_t twin = -1;
    if (has < 0 && !tn_lexicon_put(&t->extra, (uint32_t)id, content->text, content->count, &twin))
        return no_memory(r);
    return TN_OK;
}

/* A token that is looked for after normalization is looked for as normalization leaves it. */
static tn_status spell_added(reader *r, const tn_json *a, const tn_json *content,
                             tn_normalize_work *w, tn_added_token *out)
{
    const uint8_t *text = (const uint8_t *)content->text;
    size_t size = content->count;
    if (out->normalized) {
        tn_status st = tn_normalize_run(&r->t->normalizer, w, text, size, false, r->err);
        if (st != TN_OK)
            return st;
        text = w->text;
        size = w->size;
    }
    if (size == 0)
        return refuse_added(r, a, "is empty once it is normalized; expected some text");
    if (size > TN_ADDED_SIZE_MAX || r->t->added.total + size > TN_ADDED_TOTAL_MAX)
        return refuse_added(r, a, "is too long once it is normalized");
    out->text = tn_arena_text(&r->t->arena, (const char *)text, size);
    out->size = (uint32_t)size;
    return out->text != NULL ? TN_OK : no_memory(r);
}

static tn_status read_added_token(reader *r, const tn_json *a, tn_normalize_work *w)
{
    const tn_json *content = tn_json_find(a, "content");
    tn_added_token out = {0};
    int64_t id = 0;
    char what[700];
    snprintf(what, sizeof what, "%s: added_tokens", tn_path_tail(r->path));
    if (content == NULL || content->type != TN_JSON_TEXT || content->count == 0)
        return refuse_added(r, a, "is empty; expected some text");
    if (content->count > TN_ADDED_SIZE_MAX)
        return refuse_added(r, a, "is too long; expected at most 4096 bytes");
    const tn_json *given = tn_json_find(a, "id");
    if (given == NULL || given->type != TN_JSON_INT || given->i < 0 || given->i >= r->id_max) {
        char why[96];
        snprintf(why, sizeof why, "has no id from 0 to %u", r->id_max - 1);
        return refuse_added(r, a, why);
    }
    id = given->i;
    out.id = (int32_t)id;
    tn_status st = tn_json_get_bool(a, "special", what, false, &out.special, r->err);
    if (st == TN_OK)
        st = tn_json_get_bool(a, "normalized", what, !out.special, &out.normalized, r->err);
    if (st == TN_OK)
        st = tn_json_get_bool(a, "single_word", what, false, &out.single_word, r->err);
    if (st == TN_OK)
        st = tn_json_get_bool(a, "lstrip", what, false, &out.lstrip, r->err);
    if (st == TN_OK)
        st = tn_json_get_bool(a, "rstrip", what, false, &out.rstrip, r->err);
    if (st == TN_OK)
        st = place_added(r, a, content, id);
    if (st == TN_OK)
        st = spell_added(r, a, content, w, &out);
    if (st == TN_OK && !tn_added_put(&r->t->added, &out))
        st = no_memory(r);
    return st;
}

static tn_status read_added(reader *r, const tn_json *list)
{
    tn_tok *t = r->t;
    tn_normalize_work w;
    uint32_t twin = TN_NONE;
    tn_quoted q;
    if (list == NULL || list->type == TN_JSON_NULL)
        return TN_OK;
    if (list->type != TN_JSON_LIST)
        return tn_fail(r->err, TN_DATA, "%s: added_tokens is not a list", r->path);
    if (!tn_normalize_work_open(&w, &t->normalizer, TN_ADDED_SIZE_MAX))
        return no_memory(r);
    tn_status st = TN_OK;
    for (const tn_json *a = list->child; a != NULL && st == TN_OK; a = a->next)
        st = read_added_token(r, a, &w);
    tn_normalize_work_close(&w);
    if (st != TN_OK || tn_added_ready(&t->added, &twin))
        return st;
    if (twin == TN_NONE)
        return no_memory(r);
    return tn_fail(r->err, TN_DATA, "%s: two added tokens are both %s once they are normalized",
                   r->path, tn_quote(&q, t->added.token[twin].text, t->added.token[twin].size));
}

/* ---- what follows from all parts ---- */

/* Byte-level tokens as the bytes they stand for; others never appear in a piece. */
static tn_status make_words(reader *r)
{
    tn_tok *t = r->t;
    bool bytes = t->pretoken.bytes;
    uint8_t *room = malloc(t->vocab.longest + 1u);
    bool ok = room != NULL && (!bytes || tn_lexicon_reserve(&t->words, t->vocab.used));
    for (uint32_t id = 0; ok && bytes && id < t->vocab.count; id++) {
        uint32_t size;
        int32_t twin;
        const char *w = tn_lexicon_word(&t->vocab, (int32_t)id, &size);
        size_t n = w != NULL && size > 0 ? tn_word_bytes(w, size, room) : SIZE_MAX;
        if (n != SIZE_MAX)
            ok = tn_lexicon_put(&t->words, id, (const char *)room, n, &twin);
    }
    free(room);
    ok = ok && tn_bpe_ready(&t->bpe, bytes ? &t->words : &t->vocab, bytes);
    return ok ? TN_OK : no_memory(r);
}

static bool names_special(const tn_tok *t, const char *text, uint32_t size)
{
    int32_t id = tn_lexicon_find(&t->extra, text, size);
    if (id < 0)
        id = tn_lexicon_find(&t->vocab, text, size);
    return tn_tok_is_special(t, id);
}

static tn_status make_tables(reader *r)
{
    tn_tok *t = r->t;
    tn_buf text;
    tn_decoder_room room;
    t->count = t->vocab.count > t->extra.count ? t->vocab.count : t->extra.count;
    t->added_at = malloc(t->count * sizeof *t->added_at);
    t->skipped = calloc(t->count, 1);
    t->text_at = malloc((t->count + 1) * sizeof *t->text_at);
    t->special = malloc((t->added.n + 1) * sizeof *t->special);
    if (t->added_at == NULL || t->skipped == NULL || t->text_at == NULL || t->special == NULL)
        return no_memory(r);
    memset(t->added_at, 0xff, t->count * sizeof *t->added_at);
    for (uint32_t i = 0; i < t->added.n; i++)
        t->added_at[t->added.token[i].id] = i;
    for (uint32_t i = 0; i < t->added.n; i++) {
        const tn_added_token *a = &t->added.token[i];
        t->skipped[a->id] = names_special(t, a->text, a->size);
    }
    tn_buf_open(&text, SIZE_MAX / 2);
    tn_decoder_room_open(&room);
    tn_status st = TN_OK;
    for (uint32_t id = 0; id < t->count && st == TN_OK; id++) {
        uint32_t size;
        const char *w = tn_tok_decoded(t, (int32_t)id, &size);
        t->text_at[id] = text.len;
        if (tn_tok_is_special(t, (int32_t)id))
            t->special[t->nspecial++] = id;
        if (w != NULL)
            st = tn_decoder_token(&t->decoder, &room, w, size, &text, r->err);
        tn_buf_putc(&text, 0); /* each is terminated; its size does not count that */
    }
    tn_decoder_room_close(&room);
    t->text_at[t->count] = text.len;
    if (st == TN_OK && text.failed)
        st = no_memory(r);
    t->text = st == TN_OK ? tn_buf_take(&text) : NULL;
    tn_buf_close(&text);
    return st;
}

/* ---- the file ---- */

static tn_status read_version(reader *r)
{
    tn_quoted q;
    tn_scan_text text;
    tn_status st = tn_scan_string(&r->scan, &text);
    if (st == TN_OK && !tn_scan_is(&text, "1.0"))
        return tn_scan_refuse(&r->scan, text.text, "version is %s; expected \"1.0\"",
                              tn_quote(&q, text.text, text.size));
    return st;
}

static tn_status read_member(reader *r, const tn_scan_text *key)
{
    tn_scan *s = &r->scan;
    if (tn_scan_is(key, "version"))
        return read_version(r);
    if (tn_scan_is(key, "model")) {
        if (r->has_model)
            return tn_scan_refuse(s, key->text, "\"model\" stands twice");
        r->has_model = true;
        return tn_tokmodel_read(r->t, s, r->id_max, r->err);
    }
    for (int i = 0; i < NPART; i++) {
        if (!tn_scan_is(key, part_names[i]))
            continue;
        if (r->part[i].begin != NULL)
            return tn_scan_refuse(s, key->text, "\"%s\" stands twice", part_names[i]);
        (void)tn_scan_peek(s);
        r->part[i].begin = s->at;
        tn_status st = tn_scan_skip(s);
        r->part[i].end = s->at;
        if (st == TN_OK && r->part[i].end - r->part[i].begin > PART_MAX)
            return tn_scan_refuse(s, key->text, "\"%s\" is longer than %u bytes", part_names[i],
                                  PART_MAX);
        return st;
    }
    return tn_scan_skip(s);
}

static tn_status read_document(reader *r)
{
    tn_scan *s = &r->scan;
    bool first = true, more = true;
    tn_status st = tn_scan_expect(s, '{');
    while (st == TN_OK) {
        tn_scan_text key;
        st = tn_scan_more(s, '}', &first, &more);
        if (st != TN_OK || !more)
            break;
        st = tn_scan_key(s, &key);
        if (st == TN_OK)
            st = read_member(r, &key);
    }
    if (st == TN_OK)
        st = tn_scan_end(s);
    if (st == TN_OK && !r->has_model)
        return tn_scan_refuse(s, NULL, "\"model\" is missing; expected a BPE model");
    return st;
}

static tn_status read_part(reader *r, int i, const tn_json *spec, const char *what)
{
    tn_tok *t = r->t;
    switch (i) {
    case ADDED: return read_added(r, spec);
    case NORMALIZER: return tn_normalizer_open(&t->normalizer, spec, t->kinds, what, r->err);
    case PRETOKENIZER: return tn_pretoken_open(&t->pretoken, spec, t->kinds, what, r->err);
    case DECODER: return tn_decoder_open(&t->decoder, spec, t->kinds, what, r->err);
    default: return tn_tokframe_read(t, spec, what, r->err);
    }
}

/* Opens the tree of one part, hands it over and lets go of it. */
static tn_status with_part(reader *r, int i)
{
    char what[700];
    const extent *e = &r->part[i];
    tn_json_doc *doc = NULL;
    snprintf(what, sizeof what, "%s: %s", tn_path_tail(r->path), part_names[i]);
    if (e->begin == NULL)
        return read_part(r, i, NULL, what);
    tn_status st = tn_json_open(e->begin, (size_t)(e->end - e->begin), what, TN_JSON_DEPTH_FILE,
                                &doc, r->err);
    if (st != TN_OK)
        return st;
    st = read_part(r, i, tn_json_root(doc), what);
    tn_json_close(doc);
    return st;
}

static tn_status read_all(reader *r)
{
    tn_status st = read_document(r);
    if (st != TN_OK)
        return st;
    r->t->kinds = tn_kinds_new();
    st = r->t->kinds != NULL ? with_part(r, NORMALIZER) : no_memory(r);
    if (st == TN_OK)
        st = with_part(r, PRETOKENIZER);
    if (st == TN_OK)
        st = with_part(r, DECODER);
    if (st == TN_OK)
        st = with_part(r, ADDED);
    if (st == TN_OK)
        st = make_words(r);
    if (st == TN_OK)
        st = make_tables(r);
    return st == TN_OK ? with_part(r, PROCESSOR) : st;
}

tn_status tn_tokfile_read(tn_tok *t, const char *text, size_t size, const char *path,
                          uint32_t vocab_max, tn_err *err)
{
    reader r = {.t = t, .path = path, .err = err,
                .scan = {.begin = text, .at = text, .end = text + size, .what = path,
                         .depth_max = TN_JSON_DEPTH_FILE, .err = err}};
    r.id_max = vocab_max != 0 && vocab_max < TN_LEXICON_MAX ? vocab_max : TN_LEXICON_MAX;
    tn_arena_open(&t->arena, 0);
    tn_lexicon_open(&t->vocab);
    tn_lexicon_open(&t->extra);
    tn_lexicon_open(&t->words);
    tn_bpe_open(&t->bpe, &t->vocab);
    tn_added_open(&t->added);
    return read_all(&r);
}
