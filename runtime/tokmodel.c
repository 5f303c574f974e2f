/* SPDX-License-Identifier: Apache-2.0 */
/* tokmodel.c - reads the "model" of a tokenizer.json: vocabulary and merges.
 *
 * They are nearly all of the file, so they are read as they stand in it, in one pass. Merges
 * that stand before the vocabulary wait for it. */
#include "jsonscan.h"
#include "quote.h"
#include "tokparts.h"
#include "unicode.h"

#include <stdlib.h>

typedef struct reader {
    tn_tok *t;
    tn_scan scan;
    tn_scan merges;        /* stands before the merges, when they wait for the vocabulary */
    uint32_t id_max;       /* ids are below this */
    uint32_t joined_id;    /* what the last merge made */
    uint32_t seen;         /* bit a key of the model */
    tn_buf word[2];        /* unescaped */
    tn_buf joined;
    tn_buf unk;
    bool has_vocab, merges_wait, has_unk;
    tn_err *err;
} reader;

static tn_status no_memory(const reader *r)
{
    return tn_fail(r->err, TN_NO_MEMORY, "%s: no memory for its tokens", r->scan.what);
}

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
        if (r->word[0].failed)
            return no_memory(r);
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
    if (r->joined.failed)
        return no_memory(r);
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
    return ok ? TN_OK : no_memory(r);
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
    if (r->word[0].failed)
        return no_memory(r);
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
    if (r->word[0].failed || r->word[1].failed)
        return no_memory(r);
    return add_merge(r, s, at, a, b);
}

static tn_status read_merges(reader *r, tn_scan *s)
{
    bool first = true, more = true;
    if (!tn_bpe_reserve(&r->t->bpe, r->t->vocab.used)) /* mostly one merge a token */
        return no_memory(r);
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
        return st == TN_OK && out->failed ? no_memory(r) : st;
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
                           r->scan.what, tn_quote(&q, unk, r->unk.len));
    }
    for (unsigned i = 0; b->byte_fallback && i < 256; i++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", i);
        b->fallback[i] = tn_lexicon_find(&r->t->vocab, name, 6);
        if (b->fallback[i] < 0)
            return tn_fail(r->err, TN_DATA, "%s: model.byte_fallback is on, but token %s is not "
                           "in the vocabulary; expected <0x00> to <0xFF>", r->scan.what, name);
    }
    return TN_OK;
}

tn_status tn_tokmodel_read(tn_tok *t, tn_scan *s, uint32_t id_max, tn_err *err)
{
    reader r = {.t = t, .scan = *s, .id_max = id_max, .err = err};
    tn_buf_open(&r.word[0], TN_TOK_FILE_MAX);
    tn_buf_open(&r.word[1], TN_TOK_FILE_MAX);
    tn_buf_open(&r.joined, TN_TOK_FILE_MAX);
    tn_buf_open(&r.unk, TN_TOK_FILE_MAX);
    tn_status st = read_model(&r);
    if (st == TN_OK)
        st = find_stand_ins(&r);
    *s = r.scan;
    tn_buf_close(&r.word[0]);
    tn_buf_close(&r.word[1]);
    tn_buf_close(&r.joined);
    tn_buf_close(&r.unk);
    return st;
}
