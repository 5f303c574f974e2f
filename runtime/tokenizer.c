/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer.c - text to token ids and back, from a Hugging Face tokenizer.json.
 *
 *     text -> added tokens -> normalizer -> added tokens -> pre-tokenizer -> merges -> frame
 *
 * Each arrow hands its parts to the next as soon as it has them. */
#include "tokenizer.h"

#include "filemap.h"
#include "ids.h"
#include "json.h"
#include "quote.h"
#include "tokparts.h"
#include "unicode.h"

#include <stdlib.h>

#define TEXT_MAX (1u << 30)          /* bytes of one text */
#define CONFIG_MAX (16u << 20)       /* bytes of tokenizer_config.json */

/* ---- ids ---- */

bool tn_ids_reserve(tn_ids *ids, size_t more)
{
    if (ids->cap - ids->n >= more)
        return true;
    size_t cap = ids->cap + ids->cap / 2 + more + 16;
    int32_t *id = realloc(ids->id, cap * sizeof *id);
    if (id == NULL)
        return false;
    ids->id = id;
    ids->cap = cap;
    return true;
}

void tn_ids_close(tn_ids *ids)
{
    free(ids->id);
    *ids = (tn_ids){0};
}

/* ---- opening ---- */

void tn_tok_close(tn_tok *t)
{
    if (t == NULL)
        return;
    tn_bpe_close(&t->bpe);
    tn_lexicon_close(&t->vocab);
    tn_lexicon_close(&t->extra);
    tn_lexicon_close(&t->words);
    tn_added_close(&t->added);
    tn_normalizer_close(&t->normalizer);
    tn_pretoken_close(&t->pretoken);
    tn_decoder_close(&t->decoder);
    tn_arena_close(&t->arena);
    free(t->kinds);
    free(t->added_at);
    free(t->skipped);
    free(t->special);
    free(t->text);
    free(t->text_at);
    free(t->frame);
    free(t);
}

/* "bos_token": "<s>", or {"content": "<s>", ...}, or null. */
static tn_status read_named(const tn_tok *t, const tn_json *config, const char *key,
                            const char *path, const char *config_path, int32_t *out,
                            tn_err *err)
{
    tn_quoted q;
    const tn_json *v = tn_json_find(config, key);
    *out = -1;
    if (v == NULL || v->type == TN_JSON_NULL)
        return TN_OK;
    if (v->type == TN_JSON_OBJECT)
        v = tn_json_find(v, "content");
    if (v == NULL || v->type != TN_JSON_TEXT)
        return tn_fail(err, TN_DATA, "%s: %s is neither a token nor null", config_path, key);
    int32_t id = tn_lexicon_find(&t->extra, v->text, v->count);
    if (id < 0)
        id = tn_lexicon_find(&t->vocab, v->text, v->count);
    if (id < 0)
        return tn_fail(err, TN_DATA, "%s: %s is %s, which %s does not have", config_path, key,
                       tn_quote(&q, v->text, v->count), path);
    *out = id;
    return TN_OK;
}

static tn_status read_config(tn_tok *t, const char *dir, const char *path, tn_err *err)
{
    tn_buf name;
    tn_json_doc *doc = NULL;
    tn_buf_open(&name, 8192);
    tn_buf_printf(&name, "%s/tokenizer_config.json", dir);
    tn_status st = name.failed ? tn_fail(err, TN_NO_MEMORY, "%s: no memory", path)
                               : tn_json_open_file(name.data, CONFIG_MAX, &doc, err);
    if (st == TN_OK) {
        const tn_json *root = tn_json_root(doc);
        if (root->type != TN_JSON_OBJECT)
            st = tn_fail(err, TN_DATA, "%s: not an object; expected settings", name.data);
        if (st == TN_OK)
            st = read_named(t, root, "bos_token", path, name.data, &t->bos, err);
        if (st == TN_OK)
            st = read_named(t, root, "eos_token", path, name.data, &t->eos, err);
        tn_json_close(doc);
    } else if (st == TN_NOINPUT) {
        st = TN_OK;
    }
    tn_buf_close(&name);
    return st;
}

tn_status tn_tok_open_text(const char *json, size_t size, const char *what, uint32_t vocab_max,
                           tn_tok **out, tn_err *err)
{
    tn_tok *t = calloc(1, sizeof *t);
    if (t == NULL)
        return tn_fail(err, TN_NO_MEMORY, "%s: no memory for its tokenizer", what);
    t->bos = t->eos = -1;
    tn_status st = tn_tokfile_read(t, json, size, what, vocab_max, err);
    if (st == TN_OK)
        *out = t;
    else
        tn_tok_close(t);
    return st;
}

tn_status tn_tok_open(const char *dir, uint32_t vocab_max, tn_tok **out, tn_err *err)
{
    tn_buf path;
    tn_filemap map;
    tn_tok *t = NULL;
    tn_buf_open(&path, 8192);
    tn_buf_printf(&path, "%s/tokenizer.json", dir);
    tn_status st = path.failed ? tn_fail(err, TN_DATA, "%s: too long a path", tn_path_tail(dir))
                               : tn_filemap_open(&map, path.data, NULL, TN_TOK_FILE_MAX, err);
    if (st != TN_OK)
        goto close_path;
    if (tn_filemap_is_pointer(&map))
        st = tn_fail(err, TN_DATA, "%s:0: a Git LFS pointer instead of the tokenizer; expected its "
                     "JSON (run git lfs pull)", tn_path_tail(path.data));
    else
        st = tn_tok_open_text(map.size > 0 ? (const char *)map.data : "", map.size, path.data,
                              vocab_max, &t, err);
    tn_filemap_close(&map);
    if (st == TN_OK)
        st = read_config(t, dir, path.data, err);
    if (st == TN_OK)
        *out = t;
    else
        tn_tok_close(t);
close_path:
    tn_buf_close(&path);
    return st;
}

/* ---- looking up ---- */

uint32_t tn_tok_count(const tn_tok *t)
{
    return t->count;
}

const char *tn_tok_spelling(const tn_tok *t, int32_t id, uint32_t *size)
{
    const char *w = tn_lexicon_word(&t->extra, id, size);
    return w != NULL ? w : tn_lexicon_word(&t->vocab, id, size);
}

const char *tn_tok_decoded(const tn_tok *t, int32_t id, uint32_t *size)
{
    if (id < 0 || (uint32_t)id >= t->count)
        return NULL;
    if (t->added_at[id] == TN_NONE)
        return tn_lexicon_word(&t->vocab, id, size);
    *size = t->added.token[t->added_at[id]].size;
    return t->added.token[t->added_at[id]].text;
}

const char *tn_tok_bytes(const tn_tok *t, int32_t id, uint32_t *size)
{
    uint32_t n;
    if (tn_tok_spelling(t, id, &n) == NULL)
        return NULL;
    *size = (uint32_t)(t->text_at[id + 1] - t->text_at[id] - 1);
    return t->text + t->text_at[id];
}

int32_t tn_tok_find(const tn_tok *t, const char *spelling)
{
    size_t size = strlen(spelling);
    int32_t id = tn_lexicon_find(&t->extra, spelling, size);
    return id >= 0 ? id : tn_lexicon_find(&t->vocab, spelling, size);
}

bool tn_tok_is_special(const tn_tok *t, int32_t id)
{
    return id >= 0 && (uint32_t)id < t->count && t->added_at[id] != TN_NONE &&
           t->added.token[t->added_at[id]].special;
}

const char *tn_tok_special_at(const tn_tok *t, uint32_t i, uint32_t *size)
{
    return i < t->nspecial ? tn_tok_spelling(t, (int32_t)t->special[i], size) : NULL;
}

int32_t tn_tok_bos(const tn_tok *t)
{
    return t->bos;
}

int32_t tn_tok_eos(const tn_tok *t)
{
    return t->eos;
}

/* ---- encoding ---- */

/* One call of encode. The rooms grow with the longest part and go when it ends. */
typedef struct session {
    const tn_tok *t;
    tn_plain plain;
    tn_added_work raw, normal;
    tn_normalize_work normalized;
    tn_pretoken_work pieces;
    tn_bpe_work merges;
    tn_ids *ids;
    tn_err *err;
} session;

static tn_status no_memory(tn_err *err)
{
    return tn_fail(err, TN_NO_MEMORY, "no memory to tokenize a text");
}

static tn_status put_piece(void *ctx, const uint8_t *text, size_t size, tn_err *err)
{
    session *s = ctx;
    return tn_bpe_encode(&s->t->bpe, &s->merges, text, size, s->ids) ? TN_OK : no_memory(err);
}

/* Text without added tokens, as normalized. */
static tn_status encode_plain(session *s, const uint8_t *text, size_t size, size_t base,
                              const uint32_t *origin)
{
    tn_pretoken_text part = {.text = text, .size = size, .base = base, .origin = origin};
    return tn_pretoken_run(&s->t->pretoken, &s->pieces, &part, put_piece, s, s->err);
}

/* Text between the added tokens that are looked for as it came. */
static tn_status encode_section(session *s, const uint8_t *text, size_t size, size_t base)
{
    const tn_tok *t = s->t;
    tn_normalize_work *w = &s->normalized;
    bool track = t->normalizer.n > 0 &&
                 (t->pretoken.wants_start || (t->added.normal.nnode > 0 && s->plain.n > 0));
    tn_status st = tn_normalize_run(&t->normalizer, w, text, size, track, s->err);
    if (st != TN_OK || w->size == 0)
        return st;
    if (t->added.normal.nnode == 0)
        return encode_plain(s, w->text, w->size, base, w->origin);
    tn_plain plain = s->plain;
    plain.base = base;
    plain.origin = w->origin;
    if (!tn_added_find(&t->added, true, w->text, w->size, &plain, &s->normal))
        return no_memory(s->err);
    for (size_t i = 0; i < s->normal.nmatch && st == TN_OK; i++) {
        tn_added_match m = s->normal.match[i];
        const uint32_t *origin = w->origin != NULL ? w->origin + m.start : NULL;
        if (m.token >= 0)
            st = tn_ids_put(s->ids, t->added.token[m.token].id) ? TN_OK : no_memory(s->err);
        else
            st = encode_plain(s, w->text + m.start, m.stop - m.start,
                              origin != NULL ? base : base + m.start, origin);
    }
    return st;
}

static tn_status encode_text(session *s, const uint8_t *text, size_t size)
{
    const tn_tok *t = s->t;
    tn_status st = TN_OK;
    if (!tn_added_find(&t->added, false, text, size, &s->plain, &s->raw))
        return no_memory(s->err);
    for (size_t i = 0; i < s->raw.nmatch && st == TN_OK; i++) {
        tn_added_match m = s->raw.match[i];
        if (m.token >= 0)
            st = tn_ids_put(s->ids, t->added.token[m.token].id) ? TN_OK : no_memory(s->err);
        else
            st = encode_section(s, text + m.start, m.stop - m.start, m.start);
    }
    return st;
}

static tn_status encode_framed(session *s, const uint8_t *text, size_t size, bool special)
{
    tn_status st = TN_OK;
    for (uint32_t i = 0; i < s->t->nframe && st == TN_OK; i++) {
        if (s->t->frame[i] < 0)
            st = encode_text(s, text, size);
        else if (special && !tn_ids_put(s->ids, s->t->frame[i]))
            st = no_memory(s->err);
    }
    return st;
}

static tn_status check_text(const char *text, size_t size, tn_err *err)
{
    size_t good = tn_utf8_check((const uint8_t *)text, size);
    const char *code = good < size ? "invalid_utf8" : "value_out_of_range";
    tn_status st = TN_OK;
    if (good < size)
        st = tn_fail(err, TN_REFUSED, "the text is not UTF-8 at its byte %zu; expected UTF-8",
                     good);
    else if (size > TEXT_MAX)
        st = tn_fail(err, TN_REFUSED, "a text of %zu bytes; expected at most %u", size, TEXT_MAX);
    if (st != TN_OK && err != NULL)
        snprintf(err->code, sizeof err->code, "%s", code);
    return st;
}

tn_status tn_tok_encode(const tn_tok *t, const char *text, size_t size, uint32_t flags,
                        const size_t *plain_at, size_t nplain, tn_ids *ids, tn_err *err)
{
    size_t before = ids->n;
    tn_status st = check_text(text, size, err);
    if (st != TN_OK)
        return st;
    session s = {.t = t, .ids = ids, .err = err,
                 .plain = {.all = flags & TN_TOK_PLAIN, .at = plain_at, .n = nplain}};
    bool ok = tn_normalize_work_open(&s.normalized, &t->normalizer, size);
    ok = tn_pretoken_work_open(&s.pieces, &t->pretoken, size) && ok;
    st = ok ? encode_framed(&s, (const uint8_t *)text, size, flags & TN_TOK_ADD_SPECIAL)
            : no_memory(err);
    tn_added_work_close(&s.raw);
    tn_added_work_close(&s.normal);
    tn_normalize_work_close(&s.normalized);
    tn_pretoken_work_close(&s.pieces);
    tn_bpe_work_close(&s.merges);
    if (st != TN_OK)
        ids->n = before;
    return st;
}
