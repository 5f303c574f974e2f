/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_guard.c - follows the spellings of control tokens that users wrote through a render. */
#include "jinja_guard.h"

#include "buf.h"

#include <stdlib.h>
#include <string.h>

#define MARK_COUNT 32u
#define MARK_SIZE 3u        /* bytes of a mark: EF B7 90 to EF B7 AF */

/* ------------------------------------------------------------------------------- the marks */

uint32_t tn_jmarks_in(const char *p, size_t size)
{
    uint32_t found = 0;
    const char *end = p + size;
    while ((p = tn_jutf_find(p, (size_t)(end - p), "\xef\xb7", 2)) != NULL
           && end - p >= (ptrdiff_t)MARK_SIZE) {
        unsigned char last = (unsigned char)p[2];
        if (last >= 0x90 && last < 0x90 + MARK_COUNT)
            found |= (uint32_t)1 << (last - 0x90);
        p += 2;
    }
    return found;
}

uint32_t tn_jmarks_in_json(const tn_json *v)
{
    uint32_t found = 0;
    if (v == NULL)
        return 0;
    if (v->type == TN_JSON_TEXT)
        return tn_jmarks_in(v->text, v->count);
    for (const tn_json *c = v->child; c != NULL; c = c->next) {
        if (c->key != NULL)
            found |= tn_jmarks_in(c->key, c->key_size);
        found |= tn_jmarks_in_json(c);
    }
    return found;
}

/* --------------------------------------------------------------------------- the spellings */

static int compare(const void *a, const void *b)
{
    const tn_jstr *x = a, *y = b;
    uint32_t n = x->size < y->size ? x->size : y->size;
    int c = memcmp(x->p, y->p, n);
    return c != 0 ? c : x->size < y->size ? -1 : x->size > y->size;
}

bool tn_jguard_open(tn_jrun *r, const char *const *spell, size_t n, uint32_t used, tn_jguard *out)
{
    *out = (tn_jguard){.n = 0};
    if (n == 0)
        return true;
    tn_jstr *s = tn_jrun_array(r, n, sizeof *s);
    if (s == NULL)
        return false;
    for (size_t i = 0; i < n; i++) {
        size_t size = strlen(spell[i]);
        if (size == 0 || size > UINT32_MAX)
            continue;
        s[out->n++] = (tn_jstr){.p = spell[i], .size = (uint32_t)size};
        out->first[(unsigned char)spell[i][0]] = true;
    }
    qsort(s, out->n, sizeof *s, compare);
    out->spell = s;
    if (used == UINT32_MAX)
        return tn_jrun_fail(r, "the messages hold all 32 noncharacters from U+FDD0 on; expected "
                               "one to be left");
    r->mark = TN_JMARK_FIRST + (uint32_t)__builtin_ctz(~used);
    return true;
}

typedef enum match { MATCH_NONE, MATCH_BEGUN, MATCH_WHOLE } match;

/* The first spelling of [low, high) whose byte at `depth` is at least c; they share what comes
 * before it. */
static uint32_t bound(const tn_jguard *g, uint32_t low, uint32_t high, uint32_t depth, unsigned c)
{
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if ((unsigned char)g->spell[mid].p[depth] < c)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

/* Does a spelling begin at p? BEGUN: as far as the text goes. */
static match match_at(const tn_jguard *g, const char *p, const char *end)
{
    uint32_t low = 0, high = g->n;
    for (uint32_t depth = 0; low < high; depth++) {
        if (g->spell[low].size == depth)
            return MATCH_WHOLE;
        if (p + depth == end)
            return MATCH_BEGUN;
        unsigned c = (unsigned char)p[depth];
        low = bound(g, low, high, depth, c);
        high = bound(g, low, high, depth, c + 1);
    }
    return MATCH_NONE;
}

/* ------------------------------------------------------------------------------- marking */

/* Trailing blanks may be trimmed away, so a text also ends before them. */
static const char *trimmed_end(const char *p, const char *end)
{
    while (end > p) {
        const char *q = end;
        if (!tn_jchar_is_space(tn_jutf_prev(&q)))
            break;
        end = q;
    }
    return end;
}

/* The next place at or behind p where a mark is due, or end. */
static const char *next_place(const tn_jguard *g, const char *p, const char *trimmed,
                              const char *end)
{
    for (; p < end; p++) {
        if (!g->first[(unsigned char)*p])
            continue;
        if (match_at(g, p, end) != MATCH_NONE
            || (p < trimmed && match_at(g, p, trimmed) != MATCH_NONE))
            return p;
    }
    return end;
}

bool tn_jguard_text(tn_jrun *r, const tn_jguard *g, const char *p, size_t size, tn_jval *out)
{
    const char *end = p + size, *trimmed = trimmed_end(p, end), *from = p, *at;
    tn_jtext t;
    if (g->n == 0)
        return tn_jstr_borrow(r, p, size, out);
    TN_TRY(tn_jrun_burn_bytes(r, size));
    tn_jtext_open(&t, r, 0);
    while ((at = next_place(g, p, trimmed, end)) < end) {
        p = at;
        tn_jutf_next(&p);
        tn_jtext_put(&t, from, (size_t)(p - from));
        tn_jtext_put_cp(&t, r->mark);
        from = p;
    }
    if (t.size == 0 && !t.failed)
        return tn_jstr_borrow(r, end - size, size, out);
    tn_jtext_put(&t, from, (size_t)(end - from));
    return tn_jtext_close(&t, out);
}

/* ------------------------------------------------------------------------------ stripping */

typedef struct places {
    size_t *at;
    size_t n, cap;
} places;

static bool add_place(tn_jrun *r, places *s, size_t at)
{
    if (s->n > 0 && s->at[s->n - 1] == at)
        return true;
    if (s->n == s->cap) {
        size_t cap = s->cap == 0 ? 16 : s->cap * 2;
        size_t *wider = realloc(s->at, cap * sizeof *wider);
        if (wider == NULL) {
            r->no_memory = true;
            return tn_jrun_fail(r, "no memory for the places of user text");
        }
        s->at = wider;
        s->cap = cap;
    }
    s->at[s->n++] = at;
    return true;
}

/* Keeps the places where a whole spelling begins. */
static void check_places(const tn_jguard *g, const tn_buf *out, places *s)
{
    size_t kept = 0;
    for (size_t i = 0; i < s->n; i++) {
        const char *p = out->data + s->at[i];
        if (match_at(g, p, out->data + out->len) == MATCH_WHOLE)
            s->at[kept++] = s->at[i];
    }
    s->n = kept;
}

static size_t last_char(const tn_buf *out)
{
    size_t at = out->len;
    do {
        at--;
    } while (at > 0 && ((unsigned char)out->data[at] & 0xc0) == 0x80);
    return at;
}

bool tn_jguard_strip(tn_jrun *r, const tn_jguard *g, const char *p, size_t size, tn_buf *out,
                     size_t **at, size_t *nat)
{
    char mark[4];
    places s = {.n = 0};
    const char *end = p + size, *next;
    size_t start = out->len;
    *at = NULL;
    *nat = 0;
    if (r->mark != 0) {
        tn_jutf_encode(r->mark, mark);
        while ((next = tn_jutf_find(p, (size_t)(end - p), mark, MARK_SIZE)) != NULL) {
            tn_buf_put(out, p, (size_t)(next - p));
            p = next + MARK_SIZE;
            if (!out->failed && out->len > start && !add_place(r, &s, last_char(out))) {
                free(s.at);
                return false;
            }
        }
    }
    tn_buf_put(out, p, (size_t)(end - p));
    if (out->failed) {
        free(s.at);
        r->no_memory = true;
        return tn_jrun_fail(r, "no memory for a prompt of %zu bytes", size);
    }
    check_places(g, out, &s);
    if (s.n == 0) {
        free(s.at);
        return true;
    }
    *at = s.at;
    *nat = s.n;
    return true;
}
