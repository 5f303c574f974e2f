/* SPDX-License-Identifier: Apache-2.0 */
/* normalize.c - rewrites a text before it is cut: normal forms, replacements, prefixes.
 *
 * Each step reads one text and writes another; a step that finds nothing to do passes its
 * text on untouched. Origins follow Hugging Face's alignments: what is put in front belongs
 * to the first character, what replaces a match to the match's last. */
#include "normalize.h"

#include "bpe.h"
#include "json.h"
#include "quote.h"
#include "unicode.h"

#include <stdlib.h>
#include <utf8proc.h>

#define DEPTH_MAX 16u
#define TEXT_MAX (UINT32_MAX / 2) /* bytes of a normalized text */
#define GROWTH_MAX 32u            /* times as long as it was; normal forms reach 11 */

enum step_kind { FORM, LOWERCASE, STRIP, STRIP_ACCENTS, PREPEND, REPLACE, NMT, MAP_BYTES };

typedef struct tn_normalize_step {
    enum step_kind kind;
    bool left, right;      /* STRIP */
    tn_normalform form;    /* FORM */
    tn_pattern pattern;    /* REPLACE */
    char *content;         /* owned; PREPEND, REPLACE */
    size_t content_size;
} step;

/* ---- opening ---- */

typedef struct opener {
    tn_normalizer *n;
    const uint8_t *kinds;
    const char *what;
    tn_err *err;
} opener;

static tn_status add_step(opener *o, enum step_kind kind, step **out)
{
    if (o->n->n == TN_NORMALIZE_STEPS_MAX)
        return tn_fail(o->err, TN_DATA, "%s: more than %u steps; expected fewer", o->what,
                       TN_NORMALIZE_STEPS_MAX);
    *out = &o->n->step[o->n->n++];
    **out = (step){.kind = kind};
    return TN_OK;
}

static tn_status open_form(opener *o, const char *type)
{
    step *s = NULL;
    tn_status st = add_step(o, FORM, &s);
    if (st == TN_OK && !tn_normalform_open(&s->form, type[2] == 'K', strchr(type, 'C') != NULL))
        st = tn_fail(o->err, TN_NO_MEMORY, "%s: no memory", o->what);
    return st;
}

static tn_status take_content(opener *o, const tn_json *spec, const char *key, step *s)
{
    const tn_json *text = tn_json_find(spec, key);
    if (text == NULL || text->type != TN_JSON_TEXT || text->count > 4096)
        return tn_fail(o->err, TN_DATA, "%s: %s is no text of at most 4096 bytes", o->what, key);
    s->content = malloc(text->count + 1u);
    if (s->content == NULL)
        return tn_fail(o->err, TN_NO_MEMORY, "%s: no memory", o->what);
    memcpy(s->content, text->text, text->count);
    s->content_size = text->count;
    return TN_OK;
}

static tn_status open_replace(opener *o, const tn_json *spec)
{
    step *s = NULL;
    tn_status st = add_step(o, REPLACE, &s);
    if (st == TN_OK)
        st = tn_pattern_open(&s->pattern, tn_json_find(spec, "pattern"), o->kinds, o->what,
                             o->err);
    return st == TN_OK ? take_content(o, spec, "content", s) : st;
}

static tn_status open_prepend(opener *o, const tn_json *spec)
{
    step *s = NULL;
    tn_status st = add_step(o, PREPEND, &s);
    return st == TN_OK ? take_content(o, spec, "prepend", s) : st;
}

static tn_status open_strip(opener *o, const tn_json *spec)
{
    step *s = NULL;
    tn_status st = add_step(o, STRIP, &s);
    if (st == TN_OK)
        st = tn_json_get_bool(spec, "strip_left", o->what, true, &s->left, o->err);
    if (st == TN_OK)
        st = tn_json_get_bool(spec, "strip_right", o->what, true, &s->right, o->err);
    return st;
}

static tn_status open_any(opener *o, const tn_json *spec, uint32_t depth);

static tn_status open_sequence(opener *o, const tn_json *spec, uint32_t depth)
{
    const tn_json *list = tn_json_find(spec, "normalizers");
    if (list == NULL || list->type != TN_JSON_LIST || depth >= DEPTH_MAX)
        return tn_fail(o->err, TN_DATA, "%s: Sequence without a list of normalizers, or nested "
                       "deeper than %u", o->what, DEPTH_MAX);
    tn_status st = TN_OK;
    for (const tn_json *m = list->child; m != NULL && st == TN_OK; m = m->next)
        st = open_any(o, m, depth + 1);
    return st;
}

static tn_status open_any(opener *o, const tn_json *spec, uint32_t depth)
{
    static const struct {
        const char *type;
        enum step_kind kind;
    } plain[] = {{"Lowercase", LOWERCASE}, {"StripAccents", STRIP_ACCENTS}, {"Nmt", NMT},
                 {"ByteLevel", MAP_BYTES}};
    static const char *const forms[] = {"NFC", "NFD", "NFKC", "NFKD"};
    tn_quoted q;
    step *s;
    const char *type = NULL;
    tn_status st = tn_json_get_text(spec, "type", o->what, NULL, &type, o->err);
    if (st != TN_OK)
        return st;
    for (size_t i = 0; type != NULL && i < 4; i++) {
        if (strcmp(type, forms[i]) == 0)
            return open_form(o, type);
        if (strcmp(type, plain[i].type) == 0)
            return add_step(o, plain[i].kind, &s);
    }
    if (type != NULL && strcmp(type, "Sequence") == 0)
        return open_sequence(o, spec, depth);
    if (type != NULL && strcmp(type, "Replace") == 0)
        return open_replace(o, spec);
    if (type != NULL && strcmp(type, "Prepend") == 0)
        return open_prepend(o, spec);
    if (type != NULL && strcmp(type, "Strip") == 0)
        return open_strip(o, spec);
    return tn_fail(o->err, TN_DATA, "%s: type %s; expected NFC, NFD, NFKC, NFKD, Replace, "
                   "Prepend, Strip, StripAccents, Lowercase, Nmt, ByteLevel or Sequence",
                   o->what, type != NULL ? tn_quote_text(&q, type) : "absent");
}

tn_status tn_normalizer_open(tn_normalizer *n, const tn_json *spec, const uint8_t *kinds,
                             const char *what, tn_err *err)
{
    *n = (tn_normalizer){0};
    if (spec == NULL || spec->type == TN_JSON_NULL)
        return TN_OK;
    n->step = calloc(TN_NORMALIZE_STEPS_MAX, sizeof *n->step);
    if (n->step == NULL)
        return tn_fail(err, TN_NO_MEMORY, "%s: no memory", what);
    opener o = {.n = n, .kinds = kinds, .what = what, .err = err};
    tn_status st = open_any(&o, spec, 0);
    if (st != TN_OK)
        tn_normalizer_close(n);
    return st;
}

void tn_normalizer_close(tn_normalizer *n)
{
    for (uint32_t i = 0; i < n->n; i++) {
        tn_normalform_close(&n->step[i].form);
        tn_pattern_close(&n->step[i].pattern);
        free(n->step[i].content);
    }
    free(n->step);
    *n = (tn_normalizer){0};
}

bool tn_normalize_work_open(tn_normalize_work *w, const tn_normalizer *n, size_t work_size)
{
    *w = (tn_normalize_work){.nregex = n->n, .work_size = work_size};
    size_t most = work_size > TEXT_MAX / GROWTH_MAX ? TEXT_MAX : work_size * GROWTH_MAX + 65536;
    tn_buf_open(&w->side[0].text, most);
    tn_buf_open(&w->side[1].text, most);
    w->regex = calloc(n->n + 1, sizeof *w->regex);
    return w->regex != NULL;
}

void tn_normalize_work_close(tn_normalize_work *w)
{
    for (int i = 0; i < 2; i++) {
        tn_buf_close(&w->side[i].text);
        free(w->side[i].origin);
    }
    tn_normalform_work_close(&w->form);
    for (uint32_t i = 0; w->regex != NULL && i < w->nregex; i++)
        tn_regex_work_free(w->regex[i]);
    free(w->regex);
    *w = (tn_normalize_work){0};
}

/* ---- running ---- */

typedef struct run {
    tn_normalize_work *w;
    const uint8_t *text;     /* what the step reads */
    size_t size;
    const uint32_t *origin;  /* of its bytes, NULL: their own offsets */
    tn_normalize_side *out;
    bool track;
    bool no_memory;
} run;

static uint32_t origin_of(const run *r, size_t at)
{
    return r->origin != NULL ? r->origin[at] : (uint32_t)at;
}

static bool reserve_origin(run *r, size_t more)
{
    tn_normalize_side *o = r->out;
    size_t need = o->text.len + more;
    if (need > o->origin_cap) {
        size_t cap = need + need / 2 + 64;
        uint32_t *origin = realloc(o->origin, cap * sizeof *origin);
        if (origin == NULL) {
            r->no_memory = true;
            return false;
        }
        o->origin = origin;
        o->origin_cap = cap;
    }
    return true;
}

/* Bytes that were not in the text, all of them from the byte at `from`. */
static void put_new(run *r, const void *bytes, size_t n, size_t from)
{
    if (r->track && reserve_origin(r, n))
        for (size_t i = 0; i < n; i++)
            r->out->origin[r->out->text.len + i] = origin_of(r, from);
    tn_buf_put(&r->out->text, bytes, n);
}

static void put_old(run *r, size_t from, size_t to)
{
    if (r->track && reserve_origin(r, to - from))
        for (size_t i = from; i < to; i++)
            r->out->origin[r->out->text.len + (i - from)] = origin_of(r, i);
    tn_buf_put(&r->out->text, r->text + from, to - from);
}

static void put_char(run *r, uint32_t cp, size_t from)
{
    uint8_t utf8[4];
    put_new(r, utf8, tn_utf8_put(utf8, cp), from);
}

/* True when the step changed nothing and wrote nothing. */
static bool form(run *r, const step *s)
{
    size_t at = tn_normalform_span(&s->form, r->text, r->size);
    if (at == r->size)
        return true;
    put_old(r, 0, at);
    while (at < r->size) {
        tn_normalform_work *w = &r->w->form;
        size_t n = tn_normalform_stretch(&s->form, r->text + at, r->size - at, w);
        if (n == 0) {
            r->no_memory = true;
            return false;
        }
        for (size_t i = 0; i < w->n; i++)
            put_char(r, w->cp[i], at);
        at += n;
        size_t span = tn_normalform_span(&s->form, r->text + at, r->size - at);
        put_old(r, at, at + span);
        at += span;
    }
    return false;
}

/* Pairs that came with Unicode 15.1 to 17, for older versions of utf8proc. */
static uint32_t newer_lowercase(uint32_t cp)
{
    static const struct {
        uint32_t from, to;
        int32_t add;
        uint32_t step; /* 1: all of them, 2: every other, from the first on */
    } pairs[] = {{0x1c89, 0x1c89, 1, 1},          {0xa7cb, 0xa7cb, 0x264 - 0xa7cb, 1},
                 {0xa7cc, 0xa7ce, 1, 2},          {0xa7d2, 0xa7d4, 1, 2},
                 {0xa7da, 0xa7da, 1, 1},          {0xa7dc, 0xa7dc, 0x19b - 0xa7dc, 1},
                 {0x10d50, 0x10d65, 0x20, 1},     {0x16ea0, 0x16eb8, 0x1b, 1}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        if (cp >= pairs[i].from && cp <= pairs[i].to && (cp - pairs[i].from) % pairs[i].step == 0)
            return (uint32_t)((int32_t)cp + pairs[i].add);
    return cp;
}

static uint32_t lower(uint32_t cp)
{
    if (cp < 0x80)
        return cp >= 'A' && cp <= 'Z' ? cp + 32 : cp;
    uint32_t known = (uint32_t)utf8proc_tolower((int32_t)cp);
    return known != cp ? known : newer_lowercase(cp);
}

static bool lowercase(run *r)
{
    for (const uint8_t *p = r->text, *end = p + r->size; p < end;) {
        size_t at = (size_t)(p - r->text);
        uint32_t cp = tn_utf8_next(&p);
        if (cp == 0x130) { /* the one letter whose small form has two characters */
            put_new(r, "i\xcc\x87", 3, at);
            continue;
        }
        put_char(r, lower(cp), at);
    }
    return false;
}

static bool strip(run *r, const step *s)
{
    const uint8_t *from = r->text, *to = r->text + r->size;
    while (s->left && from < to) {
        const uint8_t *q = from;
        if (!tn_uc_is_space(tn_utf8_next(&q)))
            break;
        from = q;
    }
    while (s->right && to > from) {
        const uint8_t *back = tn_utf8_back(to), *q = back;
        if (!tn_uc_is_space(tn_utf8_next(&q)))
            break;
        to = back;
    }
    put_old(r, (size_t)(from - r->text), (size_t)(to - r->text));
    return false;
}

static bool strip_accents(run *r)
{
    for (const uint8_t *p = r->text, *end = p + r->size; p < end;) {
        size_t at = (size_t)(p - r->text);
        if ((tn_uc_form(tn_utf8_next(&p)) & TN_UF_ACCENT) == 0)
            put_old(r, at, (size_t)(p - r->text));
    }
    return false;
}

static uint32_t nmt_char(uint32_t cp, bool *drop)
{
    *drop = (cp >= 1 && cp <= 8) || cp == 0xb || (cp >= 0xe && cp <= 0x1f) || cp == 0x7f ||
            cp == 0x8f || cp == 0x9f;
    bool blank = cp == 9 || cp == 0xa || cp == 0xc || cp == 0xd || cp == 0x1680 ||
                 (cp >= 0x200b && cp <= 0x200f) || cp == 0x2028 || cp == 0x2029 ||
                 cp == 0x2581 || cp == 0xfeff || cp == 0xfffd;
    return blank ? ' ' : cp;
}

static bool nmt(run *r)
{
    for (const uint8_t *p = r->text, *end = p + r->size; p < end;) {
        size_t at = (size_t)(p - r->text);
        bool drop;
        uint32_t cp = nmt_char(tn_utf8_next(&p), &drop);
        if (!drop)
            put_char(r, cp, at);
    }
    return false;
}

static bool map_bytes(run *r)
{
    for (size_t i = 0; i < r->size; i++)
        put_char(r, tn_byte_char(r->text[i]), i);
    return false;
}

static tn_status replace(run *r, const step *s, uint32_t index, bool *same, tn_err *err)
{
    tn_pattern_walk walk = {.text = r->text, .size = r->size, .work = &r->w->regex[index],
                            .work_size = r->w->work_size};
    size_t done = 0;
    *same = true;
    for (;;) {
        size_t start, stop = 0;
        tn_status st = tn_pattern_next(&s->pattern, &walk, &start, &stop, err);
        if (st != TN_OK || start == SIZE_MAX) {
            if (st == TN_OK && !*same)
                put_old(r, done, r->size);
            return st;
        }
        *same = false;
        put_old(r, done, start);
        const uint8_t *last = r->text + stop;
        if (stop > 0)
            last = tn_utf8_back(last);
        put_new(r, s->content, s->content_size, (size_t)(last - r->text));
        done = stop;
    }
}

static tn_status run_step(run *r, const step *s, uint32_t index, bool *same, tn_err *err)
{
    switch (s->kind) {
    case FORM: *same = form(r, s); break;
    case LOWERCASE: *same = lowercase(r); break;
    case STRIP: *same = strip(r, s); break;
    case STRIP_ACCENTS: *same = strip_accents(r); break;
    case PREPEND:
        put_new(r, s->content, s->content_size, 0);
        put_old(r, 0, r->size);
        break;
    case REPLACE: return replace(r, s, index, same, err);
    case NMT: *same = nmt(r); break;
    case MAP_BYTES: *same = map_bytes(r); break;
    }
    return TN_OK;
}

tn_status tn_normalize_run(const tn_normalizer *n, tn_normalize_work *w, const uint8_t *text,
                           size_t size, bool want_origin, tn_err *err)
{
    run r = {.w = w, .text = text, .size = size, .track = want_origin};
    for (uint32_t i = 0; i < n->n && r.size > 0; i++) {
        bool same = false;
        r.out = r.text == (const uint8_t *)w->side[0].text.data ? &w->side[1] : &w->side[0];
        tn_buf_reset(&r.out->text);
        tn_status st = run_step(&r, &n->step[i], i, &same, err);
        if (st != TN_OK)
            return st;
        if (r.no_memory || r.out->text.failed)
            return tn_fail(err, TN_NO_MEMORY, "no memory to normalize %zu bytes", size);
        if (same)
            continue;
        r.text = (const uint8_t *)r.out->text.data;
        r.size = r.out->text.len;
        r.origin = want_origin ? r.out->origin : NULL;
    }
    w->text = r.text;
    w->size = r.size;
    w->origin = r.origin;
    return TN_OK;
}
