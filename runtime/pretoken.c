/* SPDX-License-Identifier: Apache-2.0 */
/* pretoken.c - cuts a text into the pieces that are tokenized one by one. */
#include "pretoken.h"

#include "bpe.h"
#include "buf.h"
#include "json.h"
#include "quote.h"
#include "unicode.h"
#include "utf8seq.h"

#include <stdlib.h>

#define DEPTH_MAX 16u /* of Sequences */

enum step_kind {
    SPLIT,
    REPLACE_BLANKS, /* ' ' becomes the Metaspace character, which may be put in front too */
    PREFIX_BLANK,   /* ' ' in front unless there is one */
    MAP_BYTES       /* every byte becomes the character that stands for it */
};

enum behavior { REMOVED, ISOLATED, MERGED_WITH_PREVIOUS, MERGED_WITH_NEXT, CONTIGUOUS };
enum scheme { FIRST, NEVER, ALWAYS };

typedef struct tn_pretoken_step {
    enum step_kind kind;
    enum behavior behavior;
    bool invert;
    enum scheme scheme;
    tn_pattern pattern;
    char mark[4];        /* the Metaspace character */
    uint32_t mark_size;
} step;

typedef struct tn_pretoken_room {
    tn_buf text;
    tn_regex_work *regex;
} room;

/* ---- opening ---- */

static bool is_numeric(const uint8_t *kinds, uint32_t cp)
{
    return kinds[cp] & TN_KIND_NUMERIC;
}

static bool is_space(const uint8_t *kinds, uint32_t cp)
{
    return kinds[cp] & TN_KIND_SPACE;
}

static bool is_punctuation(const uint8_t *kinds, uint32_t cp)
{
    (void)kinds;
    return tn_uc_class(cp) & TN_UC_PUNCTUATION;
}

static bool is_word(const uint8_t *kinds, uint32_t cp)
{
    (void)kinds;
    return tn_uc_is_word(cp);
}

typedef struct opener {
    tn_pretoken *p;
    const uint8_t *kinds;
    const char *what;
    tn_err *err;
} opener;

static tn_status add_step(opener *o, enum step_kind kind, step **out)
{
    if (o->p->n == TN_PRETOKEN_STEPS_MAX)
        return tn_fail(o->err, TN_DATA, "%s: more than %u steps; expected fewer", o->what,
                       TN_PRETOKEN_STEPS_MAX);
    *out = &o->p->step[o->p->n++];
    **out = (step){.kind = kind};
    return TN_OK;
}

static tn_status add_test(opener *o, tn_char_test test, enum behavior behavior)
{
    step *s = NULL;
    tn_status st = add_step(o, SPLIT, &s);
    if (st != TN_OK)
        return st;
    s->behavior = behavior;
    s->pattern = (tn_pattern){.test = test, .kinds = o->kinds};
    return TN_OK;
}

static tn_status read_behavior(opener *o, const tn_json *spec, const char *fallback,
                               enum behavior *out)
{
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious",
                                        "MergedWithNext", "Contiguous"};
    const char *name = NULL;
    tn_quoted q;
    tn_status st = tn_json_get_text(spec, "behavior", o->what, fallback, &name, o->err);
    if (st != TN_OK)
        return st;
    for (int i = 0; name != NULL && i < 5; i++) {
        if (strcmp(name, names[i]) == 0) {
            *out = (enum behavior)i;
            return TN_OK;
        }
    }
    return tn_fail(o->err, TN_DATA, "%s: behavior %s; expected Removed, Isolated, "
                   "MergedWithPrevious, MergedWithNext or Contiguous", o->what,
                   name != NULL ? tn_quote_text(&q, name) : "absent");
}

static tn_status open_split(opener *o, const tn_json *spec)
{
    step *s = NULL;
    tn_status st = add_step(o, SPLIT, &s);
    if (st == TN_OK)
        st = read_behavior(o, spec, NULL, &s->behavior);
    if (st == TN_OK)
        st = tn_json_get_bool(spec, "invert", o->what, false, &s->invert, o->err);
    if (st == TN_OK)
        st = tn_pattern_open(&s->pattern, tn_json_find(spec, "pattern"), o->kinds, o->what,
                             o->err);
    return st;
}

static tn_status open_byte_level(opener *o, const tn_json *spec)
{
    bool prefix = true, regex = true;
    step *s = NULL;
    tn_status st = tn_json_get_bool(spec, "add_prefix_space", o->what, true, &prefix, o->err);
    if (st == TN_OK)
        st = tn_json_get_bool(spec, "use_regex", o->what, true, &regex, o->err);
    if (st == TN_OK && prefix)
        st = add_step(o, PREFIX_BLANK, &s);
    if (st == TN_OK && regex) {
        st = add_step(o, SPLIT, &s);
        if (st == TN_OK) {
            s->behavior = ISOLATED;
            s->pattern = (tn_pattern){.scanner = &tn_scanners[0], .kinds = o->kinds};
        }
    }
    return st == TN_OK ? add_step(o, MAP_BYTES, &s) : st;
}

static tn_status read_scheme(opener *o, const tn_json *spec, enum scheme *out)
{
    const char *name = NULL;
    bool prefix = true;
    tn_status st = tn_json_get_text(spec, "prepend_scheme", o->what, "always", &name, o->err);
    if (st == TN_OK)
        st = tn_json_get_bool(spec, "add_prefix_space", o->what, true, &prefix, o->err);
    if (st != TN_OK)
        return st;
    if (strcmp(name, "first") == 0)
        *out = FIRST;
    else if (strcmp(name, "never") == 0)
        *out = NEVER;
    else if (strcmp(name, "always") == 0)
        *out = ALWAYS;
    else
        return tn_fail(o->err, TN_DATA, "%s: prepend_scheme is none; expected first, never or "
                       "always", o->what);
    if (!prefix && *out != NEVER && tn_json_find(spec, "prepend_scheme") != NULL)
        return tn_fail(o->err, TN_DATA, "%s: add_prefix_space false with prepend_scheme %s; "
                       "expected never", o->what, name);
    if (!prefix)
        *out = NEVER;
    return TN_OK;
}

static tn_status open_metaspace(opener *o, const tn_json *spec)
{
    step *s = NULL;
    bool split = true;
    const tn_json *mark = tn_json_find(spec, "replacement");
    if (mark == NULL || mark->type != TN_JSON_TEXT || mark->count == 0 ||
        tn_utf8_size(mark->text, mark->count) != mark->count)
        return tn_fail(o->err, TN_DATA, "%s: replacement is not one character", o->what);
    tn_status st = add_step(o, REPLACE_BLANKS, &s);
    if (st == TN_OK)
        st = read_scheme(o, spec, &s->scheme);
    if (st == TN_OK)
        st = tn_json_get_bool(spec, "split", o->what, true, &split, o->err);
    if (st != TN_OK)
        return st;
    memcpy(s->mark, mark->text, mark->count);
    s->mark_size = mark->count;
    o->p->wants_start = o->p->wants_start || s->scheme == FIRST;
    if (!split)
        return TN_OK;
    st = add_step(o, SPLIT, &s);
    if (st != TN_OK)
        return st;
    s->behavior = MERGED_WITH_NEXT;
    return tn_pattern_open_string(&s->pattern, mark->text, mark->count, o->what, o->err);
}

static tn_status open_digits(opener *o, const tn_json *spec)
{
    bool alone = false;
    tn_status st = tn_json_get_bool(spec, "individual_digits", o->what, false, &alone, o->err);
    return st == TN_OK ? add_test(o, is_numeric, alone ? ISOLATED : CONTIGUOUS) : st;
}

static tn_status open_punctuation(opener *o, const tn_json *spec)
{
    enum behavior behavior;
    tn_status st = read_behavior(o, spec, "Isolated", &behavior);
    return st == TN_OK ? add_test(o, is_punctuation, behavior) : st;
}

/* Runs of word characters and runs of others, without the white space. */
static tn_status open_whitespace(opener *o, const tn_json *spec)
{
    (void)spec;
    tn_status st = add_test(o, is_space, REMOVED);
    return st == TN_OK ? add_test(o, is_word, CONTIGUOUS) : st;
}

static tn_status open_whitespace_split(opener *o, const tn_json *spec)
{
    (void)spec;
    return add_test(o, is_space, REMOVED);
}

static tn_status open_bert(opener *o, const tn_json *spec)
{
    (void)spec;
    tn_status st = add_test(o, is_space, REMOVED);
    return st == TN_OK ? add_test(o, is_punctuation, ISOLATED) : st;
}

static tn_status open_any(opener *o, const tn_json *spec, uint32_t depth);

static tn_status open_sequence(opener *o, const tn_json *spec, uint32_t depth)
{
    const tn_json *list = tn_json_find(spec, "pretokenizers");
    if (list == NULL || list->type != TN_JSON_LIST || depth >= DEPTH_MAX)
        return tn_fail(o->err, TN_DATA, "%s: Sequence without a list of pretokenizers, or "
                       "nested deeper than %u", o->what, DEPTH_MAX);
    tn_status st = TN_OK;
    for (const tn_json *m = list->child; m != NULL && st == TN_OK; m = m->next)
        st = open_any(o, m, depth + 1);
    return st;
}

static tn_status open_any(opener *o, const tn_json *spec, uint32_t depth)
{
    static const struct {
        const char *type;
        tn_status (*open)(opener *o, const tn_json *spec);
    } types[] = {{"ByteLevel", open_byte_level},   {"Split", open_split},
                 {"Metaspace", open_metaspace},    {"Digits", open_digits},
                 {"Whitespace", open_whitespace},  {"WhitespaceSplit", open_whitespace_split},
                 {"Punctuation", open_punctuation}, {"BertPreTokenizer", open_bert}};
    tn_quoted q;
    const char *type = NULL;
    tn_status st = tn_json_get_text(spec, "type", o->what, NULL, &type, o->err);
    if (st != TN_OK)
        return st;
    if (type != NULL && strcmp(type, "Sequence") == 0)
        return open_sequence(o, spec, depth);
    for (size_t i = 0; type != NULL && i < sizeof types / sizeof *types; i++)
        if (strcmp(type, types[i].type) == 0)
            return types[i].open(o, spec);
    return tn_fail(o->err, TN_DATA, "%s: type %s; expected ByteLevel, Split, Metaspace, Digits, "
                   "Whitespace, WhitespaceSplit, Punctuation, BertPreTokenizer or Sequence",
                   o->what, type != NULL ? tn_quote_text(&q, type) : "absent");
}

tn_status tn_pretoken_open(tn_pretoken *p, const tn_json *spec, const uint8_t *kinds,
                           const char *what, tn_err *err)
{
    *p = (tn_pretoken){0};
    if (spec == NULL || spec->type == TN_JSON_NULL)
        return TN_OK;
    p->step = calloc(TN_PRETOKEN_STEPS_MAX, sizeof *p->step);
    if (p->step == NULL)
        return tn_fail(err, TN_NO_MEMORY, "%s: no memory", what);
    opener o = {.p = p, .kinds = kinds, .what = what, .err = err};
    tn_status st = open_any(&o, spec, 0);
    if (st != TN_OK) {
        tn_pretoken_close(p);
        return st;
    }
    if (p->n > 0 && p->step[p->n - 1].kind == MAP_BYTES) {
        p->bytes = true; /* the last step need not be carried out: bytes are symbols too */
        p->n--;
    }
    return TN_OK;
}

void tn_pretoken_close(tn_pretoken *p)
{
    for (uint32_t i = 0; i < p->n; i++)
        tn_pattern_close(&p->step[i].pattern);
    free(p->step);
    *p = (tn_pretoken){0};
}

bool tn_pretoken_work_open(tn_pretoken_work *w, const tn_pretoken *p, size_t work_size)
{
    *w = (tn_pretoken_work){.n = p->n, .work_size = work_size};
    w->room = calloc(p->n + 1, sizeof *w->room);
    for (uint32_t i = 0; w->room != NULL && i < p->n; i++)
        tn_buf_open(&w->room[i].text, SIZE_MAX / 2);
    return w->room != NULL;
}

void tn_pretoken_work_close(tn_pretoken_work *w)
{
    for (uint32_t i = 0; w->room != NULL && i < w->n; i++) {
        tn_buf_close(&w->room[i].text);
        tn_regex_work_free(w->room[i].regex);
    }
    free(w->room);
    *w = (tn_pretoken_work){0};
}

/* ---- running ---- */

typedef struct run {
    const tn_pretoken *p;
    tn_pretoken_work *w;
    const tn_pretoken_text *whole;
    tn_piece_sink sink;
    void *ctx;
    tn_err *err;
} run;

typedef struct piece {
    const uint8_t *text;
    size_t size;
    bool start;   /* stands at offset 0 of the request */
    bool moved;   /* some step has rewritten it: no longer part of the whole text */
} piece;

static tn_status pass(const run *r, uint32_t at, const piece *in);

static tn_status pass_part(const run *r, uint32_t at, const piece *in, size_t from, size_t to)
{
    if (from == to)
        return TN_OK;
    if (at == r->p->n)
        return r->sink(r->ctx, in->text + from, to - from, r->err);
    piece out = {.text = in->text + from, .size = to - from, .moved = in->moved};
    if (in->moved || r->whole->origin == NULL)
        out.start = in->start && from == 0;
    else
        out.start = r->whole->base == 0 && r->whole->origin[out.text - r->whole->text] == 0;
    return pass(r, at, &out);
}

/* What a split does with the parts between and in matches, one after the other. `held` waits
 * for the part behind it, which may join it. */
typedef struct splitter {
    size_t from, to;
    bool holds, held_match;
    bool last_match;
} splitter;

static tn_status put_part(const run *r, uint32_t at, const step *s, splitter *h,
                          const piece *in, size_t from, size_t to, bool match)
{
    bool join = false;
    switch (s->behavior) {
    case REMOVED:
        return match ? TN_OK : pass_part(r, at + 1, in, from, to);
    case ISOLATED:
        return pass_part(r, at + 1, in, from, to);
    case MERGED_WITH_PREVIOUS: join = match && !h->last_match; break;
    case MERGED_WITH_NEXT: join = h->held_match && !match; break;
    case CONTIGUOUS: join = match == h->last_match; break;
    }
    h->last_match = match;
    if (h->holds && join) {
        h->to = to;
        h->held_match = false;
        return TN_OK;
    }
    tn_status st = h->holds ? pass_part(r, at + 1, in, h->from, h->to) : TN_OK;
    h->from = from;
    h->to = to;
    h->holds = true;
    h->held_match = match;
    return st;
}

static tn_status split(const run *r, uint32_t at, const piece *in)
{
    const step *s = &r->p->step[at];
    splitter h = {0};
    tn_pattern_walk walk = {.text = in->text, .size = in->size,
                            .work = &r->w->room[at].regex, .work_size = r->w->work_size};
    size_t done = 0;
    for (;;) {
        size_t start, stop = 0;
        tn_status st = tn_pattern_next(&s->pattern, &walk, &start, &stop, r->err);
        if (st == TN_OK && start == SIZE_MAX)
            break;
        if (st == TN_OK && start > done)
            st = put_part(r, at, s, &h, in, done, start, s->invert);
        if (st == TN_OK)
            st = put_part(r, at, s, &h, in, start, stop, !s->invert);
        if (st != TN_OK)
            return st;
        done = stop;
    }
    tn_status st = TN_OK;
    if (done < in->size)
        st = put_part(r, at, s, &h, in, done, in->size, s->invert);
    if (st == TN_OK && h.holds)
        st = pass_part(r, at + 1, in, h.from, h.to);
    return st;
}

static tn_status pass_text(const run *r, uint32_t at, const piece *in, const tn_buf *text)
{
    if (text->failed)
        return tn_fail(r->err, TN_NO_MEMORY, "no memory to tokenize");
    piece out = {.text = (const uint8_t *)text->data, .size = text->len, .start = in->start,
                 .moved = true};
    return pass_part(r, at + 1, &out, 0, out.size);
}

static tn_status replace_blanks(const run *r, uint32_t at, const piece *in)
{
    const step *s = &r->p->step[at];
    tn_buf *text = &r->w->room[at].text;
    bool marked = in->text[0] == ' ' || (in->size >= s->mark_size &&
                                         memcmp(in->text, s->mark, s->mark_size) == 0);
    tn_buf_reset(text);
    if (!marked && (s->scheme == ALWAYS || (s->scheme == FIRST && in->start)))
        tn_buf_put(text, s->mark, s->mark_size);
    for (const uint8_t *p = in->text, *end = p + in->size; p < end;) {
        const uint8_t *blank = memchr(p, ' ', (size_t)(end - p));
        const uint8_t *stop = blank != NULL ? blank : end;
        tn_buf_put(text, p, (size_t)(stop - p));
        if (blank != NULL)
            tn_buf_put(text, s->mark, s->mark_size);
        p = stop + (blank != NULL);
    }
    return pass_text(r, at, in, text);
}

static tn_status prefix_blank(const run *r, uint32_t at, const piece *in)
{
    tn_buf *text = &r->w->room[at].text;
    if (in->text[0] == ' ')
        return pass_part(r, at + 1, in, 0, in->size);
    tn_buf_reset(text);
    tn_buf_putc(text, ' ');
    tn_buf_put(text, in->text, in->size);
    return pass_text(r, at, in, text);
}

static tn_status map_bytes(const run *r, uint32_t at, const piece *in)
{
    tn_buf *text = &r->w->room[at].text;
    tn_buf_reset(text);
    for (size_t i = 0; i < in->size; i++)
        tn_buf_put_utf8(text, tn_byte_char(in->text[i]));
    return pass_text(r, at, in, text);
}

static tn_status pass(const run *r, uint32_t at, const piece *in)
{
    switch (r->p->step[at].kind) {
    case SPLIT: return split(r, at, in);
    case REPLACE_BLANKS: return replace_blanks(r, at, in);
    case PREFIX_BLANK: return prefix_blank(r, at, in);
    default: return map_bytes(r, at, in);
    }
}

tn_status tn_pretoken_run(const tn_pretoken *p, tn_pretoken_work *w,
                          const tn_pretoken_text *text, tn_piece_sink sink, void *ctx,
                          tn_err *err)
{
    run r = {.p = p, .w = w, .whole = text, .sink = sink, .ctx = ctx, .err = err};
    piece in = {.text = text->text, .size = text->size, .start = text->base == 0};
    return pass_part(&r, 0, &in, 0, in.size);
}
