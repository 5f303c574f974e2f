/* SPDX-License-Identifier: Apache-2.0 */
/* tokfile.c - reads tokenizer.json.
 *
 * The vocabulary and the merges, nearly all of the file, are read as they stand in it; the
 * small rest goes through the JSON tree. Order matters only at the end: added tokens are
 * normalized, and the symbols of the merges depend on the pre-tokenizer. */
#include "filemap.h"
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
    tn_scan merges;        /* stands before the merges, when they wait for the vocabulary */
    tn_buf word[2];        /* unescaped */
    tn_buf joined;
    tn_buf unk;
    extent part[NPART];
    uint32_t joined_id;    /* what the last merge made */
    uint32_t seen;         /* bit a key of the model */
    bool has_model, has_vocab, merges_wait, has_unk;
    tn_err *err;
} reader;

/* ---- texts ---- */

static uint32_t hex4(const char *p)
{
    uint32_t v = 0;
    for (int i = 0; i < 4; i++)
        v = v * 16 + ((uint32_t)p[i] & 15u) + (p[i] > '9' ? 9u : 0u);
    return v;
}

/* A text without its escapes, which the scan has checked. NULs are text here. */
static void unescape(const tn_scan_text *in, tn_buf *out)
{
    static const char names[] = "bfnrt", values[] = "\b\f\n\r\t";
    const char *p = in->text, *end = p + in->size;
    tn_buf_reset(out);
    while (p < end) {
        const char *slash = memchr(p, '\\', (size_t)(end - p));
        const char *stop = slash != NULL ? slash : end;
        tn_buf_put(out, p, (size_t)(stop - p));
        if (slash == NULL)
            break;
        p = slash + 2;
        if (slash[1] != 'u') {
            const char *known = strchr(names, slash[1]);
            tn_buf_putc(out, known != NULL ? values[known - names] : slash[1]);
            continue;
        }
        uint32_t cp = hex4(p);
        p += 4;
        if (cp >= 0xd800 && cp < 0xdc00) { /* the scan saw to it that the other half follows */
            cp = 0x10000 + ((cp - 0xd800) << 10) + (hex4(p + 2) - 0xdc00);
            p += 6;
        }
        tn_buf_put_utf8(out, cp);
    }
}

typedef struct word {
    const char *text;
    size_t size;
} word;

/* The text as a word: in place when it has no escapes, else in `room`. */
static word word_of(const tn_scan_text *in, tn_buf *room)
{
    if (in->raw)
        return (word){in->text, in->size};
    unescape(in, room);
    return (word){room->data != NULL ? room->data : "", room->len};
}

static tn_status no_memory(const reader *r)
{
    return tn_fail(r->err, TN_NO_MEMORY, "%s: no memory for its tokens", r->path);
}

/* ---- the model ---- */

static tn_status read_vocab(reader *r)
{
    tn_scan *s = &r->scan;
    tn_quoted q, q2;
    bool first = true, more = true;
    /* Files spend some 70 bytes on a token and its merge: a guess that saves moving words. */
    if (!tn_lexicon_reserve(&r->t->vocab, (size_t)(s->end - s->begin) / 72))
        return no_memory(r);
    tn_status st = tn_scan_expect(s, '{');
    while (st == TN_OK) {
        tn_scan_text key;
        uint64_t id = 0;
        uint32_t other_size;
        st = tn_scan_more(s, '}', &first, &more);
        if (st != TN_OK || !more)
            break;
        st = tn_scan_key(s, &key);
        if (st != TN_OK)
            return st;
        word w = word_of(&key, &r->word[0]);
        (void)tn_scan_peek(s);
        const char *at = s->at;
        if (tn_scan_uint(s, &id) != TN_OK || id >= r->id_max)
            return tn_scan_refuse(s, at, "the id of token %s is out of range; expected an "
                                  "integer from 0 to %u", tn_quote(&q, w.text, w.size),
                                  r->id_max - 1);
        if (r->t->vocab.used == TN_LEXICON_MAX)
            return tn_scan_refuse(s, at, "more than %u tokens", TN_LEXICON_MAX);
        const char *other = tn_lexicon_word(&r->t->vocab, (int32_t)id, &other_size);
        if (other != NULL)
            return tn_scan_refuse(s, at, "tokens %s and %s share id %llu; expected one id a token",
                                  tn_quote(&q, w.text, w.size), tn_quote(&q2, other, other_size),
                                  (unsigned long long)id);
        int32_t twin;
        if (!tn_lexicon_put(&r->t->vocab, (uint32_t)id, w.text, w.size, &twin))
            return no_memory(r);
        if (twin >= 0)
            return tn_scan_refuse(s, at, "token %s stands twice in the vocabulary",
                                  tn_quote(&q, w.text, w.size));
    }
    if (st == TN_OK && r->t->vocab.used == 0)
        return tn_scan_refuse(s, NULL, "the vocabulary is empty; expected tokens");
    r->has_vocab = true;
    return st;
}

/* The id of a + b. Vocabularies list tokens in the order of their merges, so it is most often
 * the one behind the last. */
static int32_t find_joined(reader *r, word a, word b)
{
    const tn_lexicon *v = &r->t->vocab;
    uint32_t size, guess = r->joined_id + 1;
    const char *w = tn_lexicon_word(v, (int32_t)guess, &size);
    if (w == NULL || size != a.size + b.size || memcmp(w, a.text, a.size) != 0 ||
        memcmp(w + a.size, b.text, b.size) != 0) {
        tn_buf_reset(&r->joined);
        tn_buf_put(&r->joined, a.text, a.size);
        tn_buf_put(&r->joined, b.text, b.size);
        guess = (uint32_t)tn_lexicon_find(v, r->joined.data, r->joined.len);
    }
    if ((int32_t)guess >= 0)
        r->joined_id = guess;
    return (int32_t)guess;
}

static tn_status add_merge(reader *r, tn_scan *s, const char *at, word a, word b)
{
    tn_quoted q;
    const tn_lexicon *v = &r->t->vocab;
    if (a.size == 0 || b.size == 0)
        return tn_scan_refuse(s, at, "merge %u has an empty side", r->t->bpe.nmerge);
    int32_t left = tn_lexicon_find(v, a.text, a.size);
    int32_t right = tn_lexicon_find(v, b.text, b.size);
    int32_t both = find_joined(r, a, b);
    if (left < 0 || right < 0 || both < 0) {
        word missing = left < 0 ? a : right < 0 ? b : (word){r->joined.data, r->joined.len};
        return tn_scan_refuse(s, at, "merge %u: %s is not in the vocabulary", r->t->bpe.nmerge,
                              tn_quote(&q, missing.text, missing.size));
    }
    if (r->t->bpe.nmerge == TN_BPE_MERGES_MAX)
        return tn_scan_refuse(s, at, "more than %u merges", TN_BPE_MERGES_MAX);
    const uint8_t *last = tn_utf8_back((const uint8_t *)a.text + a.size);
    const uint8_t *first = (const uint8_t *)b.text;
    bool ok = tn_bpe_add(&r->t->bpe, left, right, both, tn_utf8_next(&last), tn_utf8_next(&first));
    return ok && !r->joined.failed ? TN_OK : no_memory(r);
}

/* "a b": two words with one blank between. */
static tn_status read_merge_text(reader *r, tn_scan *s)
{
    tn_scan_text text;
    const char *at = s->at;
    tn_status st = tn_scan_string(s, &text);
    if (st != TN_OK)
        return st;
    word w = word_of(&text, &r->word[0]);
    if (w.size >= 8 && memcmp(w.text, "#version", 8) == 0)
        return TN_OK;
    const char *blank = w.size > 0 ? memchr(w.text, ' ', w.size) : NULL;
    size_t left = blank != NULL ? (size_t)(blank - w.text) : 0;
    if (blank == NULL || memchr(blank + 1, ' ', w.size - left - 1) != NULL)
        return tn_scan_refuse(s, at, "merge %u is not two tokens with a blank between",
                              r->t->bpe.nmerge);
    return add_merge(r, s, at, (word){w.text, left}, (word){blank + 1, w.size - left - 1});
}

/* ["a", "b"] */
static tn_status read_merge_pair(reader *r, tn_scan *s)
{
    tn_scan_text side[2];
    const char *at = s->at;
    tn_status st = tn_scan_expect(s, '[');
    if (st == TN_OK)
        st = tn_scan_string(s, &side[0]);
    if (st == TN_OK)
        st = tn_scan_expect(s, ',');
    if (st == TN_OK)
        st = tn_scan_string(s, &side[1]);
    if (st == TN_OK)
        st = tn_scan_expect(s, ']');
    if (st != TN_OK)
        return st;
    word a = word_of(&side[0], &r->word[0]), b = word_of(&side[1], &r->word[1]);
    return add_merge(r, s, at, a, b);
}

static tn_status read_merges(reader *r, tn_scan *s)
{
    bool first = true, more = true;
    tn_status st = tn_scan_expect(s, '[');
    while (st == TN_OK) {
        st = tn_scan_more(s, ']', &first, &more);
        if (st != TN_OK || !more)
            break;
        st = tn_scan_peek(s) == '[' ? read_merge_pair(r, s) : read_merge_text(r, s);
    }
    return st;
}

/* null gives false. */
static tn_status read_bool(tn_scan *s, const char *key, bool *out)
{
    (void)tn_scan_peek(s);
    const char *at = s->at;
    tn_status st = tn_scan_skip(s);
    size_t n = (size_t)(s->at - at);
    *out = st == TN_OK && n == 4 && memcmp(at, "true", 4) == 0;
    bool other = (n == 5 && memcmp(at, "false", 5) == 0) || (n == 4 && memcmp(at, "null", 4) == 0);
    if (st == TN_OK && !*out && !other)
        return tn_scan_refuse(s, at, "model.%s is not true or false", key);
    return st;
}

/* A text, or null: *has says which. */
static tn_status read_text(reader *r, const char *key, tn_buf *out, bool *has)
{
    tn_scan *s = &r->scan;
    tn_scan_text text;
    *has = tn_scan_peek(s) == '"';
    if (*has) {
        tn_status st = tn_scan_string(s, &text);
        if (st == TN_OK)
            unescape(&text, out);
        return st;
    }
    const char *at = s->at;
    tn_status st = tn_scan_skip(s);
    if (st == TN_OK && (s->at - at != 4 || memcmp(at, "null", 4) != 0))
        return tn_scan_refuse(s, at, "model.%s is neither text nor null", key);
    return st;
}

static tn_status read_type(reader *r)
{
    tn_quoted q;
    bool has;
    tn_status st = read_text(r, "type", &r->word[0], &has);
    if (st == TN_OK && (!has || r->word[0].len != 3 || memcmp(r->word[0].data, "BPE", 3) != 0))
        return tn_scan_refuse(&r->scan, NULL, "model.type is %s; expected \"BPE\"",
                              has ? tn_quote(&q, r->word[0].data, r->word[0].len) : "null");
    return st;
}

static tn_status read_affix(reader *r, const char *key)
{
    bool has;
    tn_status st = read_text(r, key, &r->word[0], &has);
    if (st == TN_OK && has && r->word[0].len > 0)
        return tn_scan_refuse(&r->scan, NULL, "model.%s is not empty; expected null, as "
                              "tokens here carry no marks of their place", key);
    return st;
}

static tn_status read_dropout(reader *r)
{
    tn_scan *s = &r->scan;
    (void)tn_scan_peek(s);
    const char *at = s->at;
    tn_status st = tn_scan_skip(s);
    size_t n = (size_t)(s->at - at);
    bool none = (n == 4 && memcmp(at, "null", 4) == 0) || (n == 1 && *at == '0') ||
                (n == 3 && memcmp(at, "0.0", 3) == 0);
    if (st == TN_OK && !none)
        return tn_scan_refuse(s, at, "model.dropout is not 0; expected null, as tokens must not "
                              "depend on chance");
    return st;
}

static tn_status read_model_member(reader *r, uint32_t key)
{
    switch (key) {
    case 0: return read_type(r);
    case 1: return read_dropout(r);
    case 2: return read_text(r, "unk_token", &r->unk, &r->has_unk);
    case 3: return read_affix(r, "continuing_subword_prefix");
    case 4: return read_affix(r, "end_of_word_suffix");
    case 5: return read_bool(&r->scan, "fuse_unk", &r->t->bpe.fuse_unk);
    case 6: return read_bool(&r->scan, "byte_fallback", &r->t->bpe.byte_fallback);
    case 7: return read_bool(&r->scan, "ignore_merges", &r->t->bpe.ignore_merges);
    case 8: return read_vocab(r);
    default:
        if (r->has_vocab)
            return read_merges(r, &r->scan);
        r->merges = r->scan;
        r->merges_wait = true;
        return tn_scan_skip(&r->scan);
    }
}

static tn_status read_model(reader *r)
{
    static const char *const keys[] = {
        "type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
        "fuse_unk", "byte_fallback", "ignore_merges", "vocab", "merges"};
    const uint32_t nkey = sizeof keys / sizeof *keys;
    tn_scan *s = &r->scan;
    bool first = true, more = true;
    tn_status st = tn_scan_expect(s, '{');
    while (st == TN_OK) {
        tn_scan_text key;
        uint32_t i = 0;
        st = tn_scan_more(s, '}', &first, &more);
        if (st != TN_OK || !more)
            break;
        st = tn_scan_key(s, &key);
        if (st != TN_OK)
            break;
        while (i < nkey && !tn_scan_is(&key, keys[i]))
            i++;
        if (i < nkey && r->seen >> i & 1)
            return tn_scan_refuse(s, key.text, "model.%s stands twice", keys[i]);
        if (i < nkey && i > 7 && (r->seen & 1) == 0)
            return tn_scan_refuse(s, key.text, "model.type is missing before model.%s; expected "
                                  "\"BPE\"", keys[i]);
        st = i < nkey ? read_model_member(r, i) : tn_scan_skip(s);
        if (i < nkey)
            r->seen |= 1u << i;
    }
    if (st == TN_OK && r->merges_wait && r->has_vocab)
        st = read_merges(r, &r->merges);
    if (st == TN_OK && (r->seen & 1) == 0)
        return tn_scan_refuse(s, NULL, "model.type is missing; expected \"BPE\"");
    if (st == TN_OK && (!r->has_vocab || (r->seen >> 9 & 1) == 0))
        return tn_scan_refuse(s, NULL, "model.vocab or model.merges is missing");
    r->has_model = true;
    return st;
}

/* What stands for text that the vocabulary lacks. */
static tn_status find_stand_ins(reader *r)
{
    tn_bpe *b = &r->t->bpe;
    tn_quoted q;
    if (r->has_unk) {
        const char *unk = r->unk.len > 0 ? r->unk.data : "";
        b->unk = tn_lexicon_find(&r->t->vocab, unk, r->unk.len);
        if (b->unk < 0)
            return tn_fail(r->err, TN_DATA, "%s: model.unk_token %s is not in the vocabulary",
                           r->path, tn_quote(&q, unk, r->unk.len));
    }
    for (unsigned i = 0; b->byte_fallback && i < 256; i++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", i);
        b->fallback[i] = tn_lexicon_find(&r->t->vocab, name, 6);
        if (b->fallback[i] < 0)
            return tn_fail(r->err, TN_DATA, "%s: model.byte_fallback is on, but token %s is not "
                           "in the vocabulary; expected <0x00> to <0xFF>", r->path, name);
    }
    return TN_OK;
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
    bool has;
    tn_quoted q;
    tn_status st = read_text(r, "version", &r->word[0], &has);
    if (st == TN_OK && (!has || r->word[0].len != 3 || memcmp(r->word[0].data, "1.0", 3) != 0))
        return tn_scan_refuse(&r->scan, NULL, "version is %s; expected \"1.0\"",
                              has ? tn_quote(&q, r->word[0].data, r->word[0].len) : "null");
    return st;
}

static tn_status read_member(reader *r, const tn_scan_text *key)
{
    tn_scan *s = &r->scan;
    if (tn_scan_is(key, "version"))
        return read_version(r);
    if (tn_scan_is(key, "model"))
        return r->has_model ? tn_scan_refuse(s, key->text, "\"model\" stands twice")
                            : read_model(r);
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
    if (st == TN_OK)
        st = find_stand_ins(r);
    if (st == TN_OK)
        st = with_part(r, NORMALIZER);
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

tn_status tn_tokfile_read(tn_tok *t, const char *path, uint32_t vocab_max, tn_err *err)
{
    tn_filemap map;
    tn_status st = tn_filemap_open(&map, path, NULL, TN_TOK_FILE_MAX, err);
    if (st != TN_OK)
        return st;
    const char *text = map.size > 0 ? (const char *)map.data : "";
    reader r = {.t = t, .path = path, .err = err,
                .scan = {.begin = text, .at = text, .end = text + map.size, .what = path,
                         .depth_max = TN_JSON_DEPTH_FILE, .err = err}};
    r.id_max = vocab_max != 0 && vocab_max < TN_LEXICON_MAX ? vocab_max : TN_LEXICON_MAX;
    tn_buf_open(&r.word[0], TN_TOK_FILE_MAX);
    tn_buf_open(&r.word[1], TN_TOK_FILE_MAX);
    tn_buf_open(&r.joined, TN_TOK_FILE_MAX);
    tn_buf_open(&r.unk, TN_TOK_FILE_MAX);
    tn_arena_open(&t->arena, 0);
    tn_lexicon_open(&t->vocab);
    tn_lexicon_open(&t->extra);
    tn_lexicon_open(&t->words);
    tn_bpe_open(&t->bpe, &t->vocab);
    tn_added_open(&t->added);
    t->kinds = tn_kinds_new();
    st = t->kinds != NULL ? read_all(&r) : no_memory(&r);
    tn_buf_close(&r.word[0]);
    tn_buf_close(&r.word[1]);
    tn_buf_close(&r.joined);
    tn_buf_close(&r.unk);
    tn_filemap_close(&map);
    return st;
}
