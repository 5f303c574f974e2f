/* SPDX-License-Identifier: Apache-2.0 */
/* import_vocab.c - reads the vocabulary of a GGUF file: tokens, their types, their merges. */
#include "import_vocab.h"

#include "buf.h"
#include "quote.h"
#include "utf8seq.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TOKENS_MAX ((uint64_t)1 << 20)
#define TOKEN_SIZE_MAX 4096u
#define DERIVED_SIZE_MAX 256u    /* bytes of a token whose parts are looked for */
#define MERGES_MAX ((uint64_t)1 << 24)
#define SPARE_SIZE 32u

static tn_status no_memory(const char *file, tn_err *err)
{
    return tn_fail(err, TN_NO_MEMORY, "%s: no memory for its vocabulary", file);
}

/* -------------------------------------------------------------------------------- tokens */

static tn_status read_types(const tn_gguf *g, tn_import_vocab *v, tn_err *err)
{
    const tn_gguf_kv *kv = tn_gguf_find(g, "tokenizer.ggml.token_type");
    v->type = calloc((size_t)v->count + 1, sizeof *v->type);
    if (v->type == NULL)
        return no_memory(tn_gguf_path(g), err);
    if (kv != NULL && (kv->type != TN_GGUF_ARRAY || kv->count != v->count))
        return tn_fail(err, TN_DATA, "%s:%llu: tokenizer.ggml.token_type with %llu values; "
                       "expected one for each of the %llu tokens", tn_gguf_path(g),
                       (unsigned long long)kv->offset, (unsigned long long)kv->count,
                       (unsigned long long)v->count);
    for (uint64_t i = 0; i < v->count; i++) {
        int64_t t = TN_TOKEN_NORMAL;
        if (kv != NULL && (!tn_gguf_item_int(kv, i, &t) || t < 0 || t > TN_TOKEN_BYTE))
            return tn_fail(err, TN_DATA, "%s:%llu: tokenizer.ggml.token_type: value %llu; "
                           "expected an integer from 0 to %d", tn_gguf_path(g),
                           (unsigned long long)kv->offset, (unsigned long long)i, TN_TOKEN_BYTE);
        v->type[i] = (int32_t)t;
    }
    return TN_OK;
}

/* A file without types (the oldest ones) still names its control tokens by id. */
static void guess_types(const tn_import_model *m, tn_import_vocab *v)
{
    const int64_t ids[] = {m->bos, m->eos, m->eot, m->eom, m->pad};
    if (tn_gguf_find(m->g, "tokenizer.ggml.token_type") != NULL)
        return;
    for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++)
        if (ids[i] != TN_IMPORT_NO_ID && (uint64_t)ids[i] < v->count)
            v->type[ids[i]] = TN_TOKEN_CONTROL;
    if (m->unk != TN_IMPORT_NO_ID && (uint64_t)m->unk < v->count)
        v->type[m->unk] = TN_TOKEN_UNKNOWN;
}

/* Writers pad a vocabulary up to the embedding's rows; some leave empty spellings. They get
 * one that nothing in a text can be. */
static tn_status name_empty(tn_import_vocab *v, const char *file, tn_err *err)
{
    uint64_t empty = 0, n = 0;
    for (uint64_t i = 0; i < v->count; i++)
        empty += v->token[i].size == 0;
    if (empty == 0)
        return TN_OK;
    v->spare = calloc((size_t)empty, SPARE_SIZE);
    if (v->spare == NULL)
        return no_memory(file, err);
    for (uint64_t i = 0; i < v->count; i++) {
        if (v->token[i].size != 0)
            continue;
        char *text = v->spare + SPARE_SIZE * n++;
        snprintf(text, SPARE_SIZE, "[EMPTY_%llu]", (unsigned long long)i);
        v->token[i] = (tn_gguf_text){.text = text, .size = strlen(text)};
        v->type[i] = TN_TOKEN_UNUSED;
    }
    return TN_OK;
}

static tn_status index_tokens(tn_import_vocab *v, const char *file, tn_err *err)
{
    tn_quoted q;
    uint32_t found = TN_NAMES_NONE;
    for (uint64_t i = 0; i < v->count; i++) {
        const tn_gguf_text *t = &v->token[i];
        if (t->size > TOKEN_SIZE_MAX)
            return tn_fail(err, TN_DATA, "%s: token %llu has %llu bytes; expected at most %u",
                           file, (unsigned long long)i, (unsigned long long)t->size,
                           TOKEN_SIZE_MAX);
        if (!tn_is_utf8(t->text, (size_t)t->size))
            return tn_fail(err, TN_DATA, "%s: token %llu is %s; expected valid UTF-8", file,
                           (unsigned long long)i, tn_quote(&q, t->text, (size_t)t->size));
        if (!tn_names_add(&v->index, t->text, (size_t)t->size, (uint32_t)i, &found))
            return no_memory(file, err);
        if (found != TN_NAMES_NONE)
            return tn_fail(err, TN_DATA, "%s: token %s has the ids %u and %llu; expected one",
                           file, tn_quote(&q, t->text, (size_t)t->size), found,
                           (unsigned long long)i);
    }
    v->listed = v->count;
    while (v->listed > 0 && v->type[v->listed - 1] == TN_TOKEN_UNUSED)
        v->listed--;
    return TN_OK;
}

static void find_unknown(const tn_import_model *m, tn_import_vocab *v)
{
    v->unk = m->unk;
    for (uint64_t i = 0; i < v->count && v->unk == TN_IMPORT_NO_ID; i++)
        if (v->type[i] == TN_TOKEN_UNKNOWN)
            v->unk = (int64_t)i;
}

static tn_status read_tokens(const tn_import_model *m, tn_import_vocab *v, tn_err *err)
{
    const tn_gguf_kv *kv = tn_gguf_find(m->g, "tokenizer.ggml.tokens");
    const char *file = tn_gguf_path(m->g);
    if (kv == NULL)
        return tn_fail(err, TN_DATA, "%s: no key \"tokenizer.ggml.tokens\"; expected a "
                       "vocabulary", file);
    if (kv->count == 0 || kv->count > TOKENS_MAX || kv->count > m->vocab)
        return tn_fail(err, TN_DATA, "%s:%llu: %llu tokens; expected 1 to %llu, the rows of "
                       "the embedding", file, (unsigned long long)kv->offset,
                       (unsigned long long)kv->count, (unsigned long long)m->vocab);
    tn_status st = tn_gguf_texts(m->g, kv, &v->token, err);
    if (st != TN_OK)
        return st;
    v->count = kv->count;
    st = read_types(m->g, v, err);
    if (st != TN_OK)
        return st;
    guess_types(m, v);
    find_unknown(m, v);
    st = name_empty(v, file, err);
    return st == TN_OK ? index_tokens(v, file, err) : st;
}

/* -------------------------------------------------------------------------------- merges */

static bool find_token(const tn_import_vocab *v, const char *text, uint64_t size, uint32_t *id)
{
    *id = tn_names_find(&v->index, text, (size_t)size);
    return *id != TN_NAMES_NONE;
}

/* "left right": spellings have no blank of their own, except ones that begin with it. */
static tn_status read_merge(const tn_import_vocab *v, const tn_gguf_text *t, uint64_t i,
                            tn_import_merge *out, const char *file, tn_err *err)
{
    char joined[2 * TOKEN_SIZE_MAX];
    tn_quoted q;
    const char *blank = t->size > 1 ? memchr(t->text + 1, ' ', (size_t)t->size - 1) : NULL;
    if (blank == NULL || t->size > sizeof joined)
        return tn_fail(err, TN_DATA, "%s: merge %llu is %s; expected two tokens and a blank", file,
                       (unsigned long long)i, tn_quote(&q, t->text, (size_t)t->size));
    size_t left = (size_t)(blank - t->text), right = (size_t)t->size - left - 1;
    memcpy(joined, t->text, left);
    memcpy(joined + left, blank + 1, right);
    if (!find_token(v, t->text, left, &out->left) ||
        !find_token(v, blank + 1, right, &out->right) ||
        !find_token(v, joined, left + right, &out->made))
        return tn_fail(err, TN_DATA, "%s: merge %llu is %s; expected both parts and what they "
                       "make to be tokens", file, (unsigned long long)i,
                       tn_quote(&q, t->text, (size_t)t->size));
    return TN_OK;
}

static tn_status read_merges(const tn_gguf *g, const tn_gguf_kv *kv, tn_import_vocab *v,
                             tn_err *err)
{
    tn_gguf_text *text = NULL;
    const char *file = tn_gguf_path(g);
    if (kv->count > MERGES_MAX)
        return tn_fail(err, TN_DATA, "%s:%llu: %llu merges; expected at most %llu", file,
                       (unsigned long long)kv->offset, (unsigned long long)kv->count,
                       (unsigned long long)MERGES_MAX);
    tn_status st = tn_gguf_texts(g, kv, &text, err);
    if (st != TN_OK)
        return st;
    v->merge = calloc((size_t)kv->count + 1, sizeof *v->merge);
    if (v->merge == NULL)
        st = no_memory(file, err);
    for (uint64_t i = 0; i < kv->count && st == TN_OK; i++)
        st = read_merge(v, &text[i], i, &v->merge[i], file, err);
    v->nmerge = st == TN_OK ? kv->count : 0;
    free(text);
    return st;
}

/* Only tokens that text can turn into are put together; a control token never is, so that
 * nobody can type one. */
static bool is_made(const tn_import_vocab *v, uint64_t i)
{
    return (v->type[i] == TN_TOKEN_NORMAL || v->type[i] == 0) &&
           v->token[i].size <= DERIVED_SIZE_MAX;
}

typedef struct candidate {
    tn_import_merge merge;
    float score;
    uint16_t left_chars, right_chars;
    uint64_t order; /* id of the token, then of the left and right part */
} candidate;

static int by_priority(const void *a, const void *b)
{
    const candidate *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    if (x->left_chars != y->left_chars)
        return x->left_chars > y->left_chars ? -1 : 1;
    if (x->right_chars != y->right_chars)
        return x->right_chars > y->right_chars ? -1 : 1;
    if (x->merge.made != y->merge.made)
        return x->merge.made < y->merge.made ? -1 : 1;
    if (x->merge.left != y->merge.left)
        return x->merge.left < y->merge.left ? -1 : 1;
    return x->merge.right != y->merge.right ? (x->merge.right < y->merge.right ? -1 : 1) : 0;
}

static bool push_candidate(candidate **list, uint64_t *count, uint64_t *cap, const candidate *c)
{
    if (*count == *cap) {
        uint64_t more = *cap > 0 ? *cap * 2 : 4096;
        candidate *made = realloc(*list, (size_t)more * sizeof *made);
        if (made == NULL)
            return false;
        *list = made;
        *cap = more;
    }
    (*list)[(*count)++] = *c;
    return true;
}

static bool begins_char(const char *text, uint64_t i)
{
    return ((unsigned char)text[i] & 0xc0) != 0x80;
}

/* All ways to cut token `i` in two tokens. */
static bool cut_token(const tn_import_vocab *v, uint64_t i, float score, candidate **list,
                      uint64_t *count, uint64_t *cap)
{
    const tn_gguf_text *t = &v->token[i];
    uint16_t chars = 0, left = 0;
    for (uint64_t j = 0; j < t->size; j++)
        chars = (uint16_t)(chars + begins_char(t->text, j));
    for (uint64_t j = 1; j < t->size; j++) {
        candidate c = {.score = score, .merge = {.made = (uint32_t)i}};
        left = (uint16_t)(left + begins_char(t->text, j - 1));
        if (!begins_char(t->text, j) || !find_token(v, t->text, j, &c.merge.left) ||
            !find_token(v, t->text + j, t->size - j, &c.merge.right))
            continue;
        c.left_chars = left;
        c.right_chars = (uint16_t)(chars - left);
        if (!push_candidate(list, count, cap, &c))
            return false;
    }
    return true;
}

tn_status tn_import_derive_merges(tn_import_vocab *v, const float *score, const char *file,
                                  tn_err *err)
{
    candidate *list = NULL;
    uint64_t count = 0, cap = 0, made = 0;
    float first = 0;
    bool alike = true;
    for (uint64_t i = 0; i < v->count; i++) {
        if (isnan(score[i])) {
            free(list);
            return tn_fail(err, TN_DATA, "%s: the score of token %llu is NaN; expected a number",
                           file, (unsigned long long)i);
        }
        if (!is_made(v, i))
            continue;
        first = made++ == 0 ? score[i] : first;
        alike = alike && score[i] == first;
        if (!cut_token(v, i, score[i], &list, &count, &cap)) {
            free(list);
            return no_memory(file, err);
        }
    }
    v->merge = calloc((size_t)count + 1, sizeof *v->merge);
    if (v->merge == NULL || (alike && made > 1)) {
        bool short_of_memory = v->merge == NULL;
        free(list);
        return short_of_memory ? no_memory(file, err)
                               : tn_fail(err, TN_UNSUPPORTED, "%s: all tokens have the score %g; "
                                         "expected scores that tell which merge goes first", file,
                                         (double)first);
    }
    if (count > 0)
        qsort(list, (size_t)count, sizeof *list, by_priority);
    for (uint64_t i = 0; i < count; i++)
        v->merge[i] = list[i].merge;
    v->nmerge = count;
    free(list);
    return TN_OK;
}

static tn_status read_scores(const tn_gguf *g, tn_import_vocab *v, tn_err *err)
{
    const tn_gguf_kv *kv = tn_gguf_find(g, "tokenizer.ggml.scores");
    const char *file = tn_gguf_path(g);
    if (kv == NULL || kv->type != TN_GGUF_ARRAY || kv->count != v->count)
        return tn_fail(err, TN_DATA, "%s: tokenizer.ggml.scores is %s; expected a list with one "
                       "score for each of the %llu tokens", file, kv == NULL ? "missing" :
                       "of another size", (unsigned long long)v->count);
    float *score = calloc((size_t)v->count + 1, sizeof *score);
    if (score == NULL)
        return no_memory(file, err);
    tn_status st = TN_OK;
    for (uint64_t i = 0; i < v->count && st == TN_OK; i++) {
        double s = 0;
        int64_t n = 0;
        if (tn_gguf_item_float(kv, i, &s))
            score[i] = (float)s;
        else if (tn_gguf_item_int(kv, i, &n))
            score[i] = (float)n;
        else
            st = tn_fail(err, TN_DATA, "%s:%llu: tokenizer.ggml.scores: not a list of numbers",
                         file, (unsigned long long)kv->offset);
    }
    if (st == TN_OK)
        st = tn_import_derive_merges(v, score, file, err);
    free(score);
    return st;
}

/* ----------------------------------------------------------------------------- the whole */

static bool has_all_bytes(const tn_import_vocab *v)
{
    char name[8];
    uint32_t id;
    for (unsigned b = 0; b < 256; b++) {
        snprintf(name, sizeof name, "<0x%02X>", b);
        if (!find_token(v, name, 6, &id))
            return false;
    }
    return true;
}

static tn_status choose_pre(const tn_import_model *m, tn_import_vocab *v, tn_err *err)
{
    tn_gguf_text pre;
    tn_quoted q;
    tn_status st = tn_gguf_get_text(m->g, "tokenizer.ggml.pre", &pre, err);
    if (st != TN_OK)
        return st;
    if (pre.text == NULL) /* older than the key: what GPT-2 did was meant */
        pre = (tn_gguf_text){.text = "default", .size = 7};
    v->pre = tn_import_pre_find(pre.text, pre.size);
    if (v->pre != NULL)
        return TN_OK;
    tn_buf list;
    tn_buf_open(&list, 4096);
    tn_import_pre_list(&list);
    st = tn_fail(err, TN_UNSUPPORTED, "%s: tokenizer.ggml.pre is %s; expected one of %s",
                 tn_gguf_path(m->g), tn_quote(&q, pre.text, (size_t)pre.size),
                 list.data != NULL ? list.data : "?");
    tn_buf_close(&list);
    return st;
}

static tn_status read_flags(const tn_import_model *m, tn_import_vocab *v, tn_err *err)
{
    bool sentence = v->pre == NULL;
    bool bos = sentence || v->pre->add_bos;
    tn_status st = tn_gguf_get_bool(m->g, "tokenizer.ggml.add_bos_token", bos, &v->add_bos, err);
    if (st == TN_OK)
        st = tn_gguf_get_bool(m->g, "tokenizer.ggml.add_eos_token", false, &v->add_eos, err);
    if (st == TN_OK)
        st = tn_gguf_get_bool(m->g, "tokenizer.ggml.add_space_prefix", sentence, &v->add_space,
                              err);
    if (st != TN_OK)
        return st;
    bool no_bos = m->bos == TN_IMPORT_NO_ID || (uint64_t)m->bos >= v->listed;
    bool no_eos = m->eos == TN_IMPORT_NO_ID || (uint64_t)m->eos >= v->listed;
    if (tn_gguf_find(m->g, "tokenizer.ggml.add_bos_token") == NULL && no_bos)
        v->add_bos = false;
    if ((v->add_bos && no_bos) || (v->add_eos && no_eos))
        return tn_fail(err, TN_DATA, "%s: tokenizer.ggml.add_%s_token, but no id of that token; "
                       "expected one", tn_gguf_path(m->g), v->add_bos && no_bos ? "bos" : "eos");
    return TN_OK;
}

static tn_status read_all(const tn_import_model *m, tn_import_vocab *v, tn_err *err)
{
    tn_gguf_text model;
    tn_quoted q;
    tn_status st = tn_gguf_get_text(m->g, "tokenizer.ggml.model", &model, err);
    if (st != TN_OK)
        return st;
    bool gpt2 = model.size == 4 && memcmp(model.text, "gpt2", 4) == 0;
    bool sentence = model.size == 5 && memcmp(model.text, "llama", 5) == 0;
    if (!gpt2 && !sentence)
        return tn_fail(err, TN_UNSUPPORTED, "%s: tokenizer.ggml.model is %s; expected gpt2 or "
                       "llama", tn_gguf_path(m->g), model.text == NULL ? "missing" :
                       tn_quote(&q, model.text, (size_t)model.size));
    st = read_tokens(m, v, err);
    if (st == TN_OK && gpt2)
        st = choose_pre(m, v, err);
    if (st == TN_OK)
        st = read_flags(m, v, err);
    if (st != TN_OK)
        return st;
    const tn_gguf_kv *merges = tn_gguf_find(m->g, "tokenizer.ggml.merges");
    if (merges != NULL)
        return read_merges(m->g, merges, v, err);
    if (gpt2)
        return tn_fail(err, TN_DATA, "%s: no key \"tokenizer.ggml.merges\"; expected it with a "
                       "gpt2 vocabulary", tn_gguf_path(m->g));
    return read_scores(m->g, v, err);
}

tn_status tn_import_vocab_read(const tn_import_model *m, tn_import_vocab *out, tn_err *err)
{
    tn_import_vocab v = {0};
    tn_names_open(&v.index);
    tn_status st = read_all(m, &v, err);
    if (st != TN_OK) {
        tn_import_vocab_close(&v);
        return st;
    }
    v.byte_fallback = v.pre == NULL && has_all_bytes(&v);
    *out = v;
    return TN_OK;
}

void tn_import_vocab_close(tn_import_vocab *v)
{
    free(v->token);
    free(v->type);
    free(v->merge);
    free(v->spare);
    tn_names_close(&v->index);
    *v = (tn_import_vocab){0};
}
