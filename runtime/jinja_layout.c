/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_layout.c - the filter wordwrap, as Python's textwrap breaks lines.
 *
 * A paragraph is cut into chunks: runs of blanks, words, parts of hyphenated words, long
 * dashes. Lines are filled with whole chunks; a chunk longer than a line is cut. */
#include "jinja_filters.h"

#include <string.h>

typedef struct wrapper {
    tn_jrun *r;
    const uint32_t *c;        /* the paragraph */
    size_t n;
    size_t width;
    bool break_long, break_hyphens;
    tn_jtext *out;
    tn_jval newline;
    size_t lines;             /* written so far */
} wrapper;

static bool is_blank(uint32_t c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool is_letter(uint32_t c)
{
    return tn_jchar_is_word(c) && tn_jchar_digit(c) < 0;
}

static bool is_word_end(uint32_t c)
{
    return tn_jchar_is_word(c) || (c != 0 && c < 0x80 && strchr("!\"'&.,?", (int)c) != NULL);
}

static uint32_t at(const wrapper *w, size_t i)
{
    return i < w->n ? w->c[i] : 0;
}

/* The end of two or more dashes at i that a word follows, or i. */
static size_t long_dash(const wrapper *w, size_t i)
{
    size_t j = i;
    while (at(w, j) == '-')
        j++;
    return j - i >= 2 && j < w->n && tn_jchar_is_word(w->c[j]) ? j : i;
}

/* A hyphen at j inside a word: two letters before it, or one and another hyphen; behind it two
 * letters, perhaps with one more hyphen between. */
static bool hyphen_inside(const wrapper *w, size_t j)
{
    if (at(w, j) != '-' || j < 2)
        return false;
    bool before = is_letter(w->c[j - 2]) && is_letter(w->c[j - 1]);
    if (j >= 3 && is_letter(w->c[j - 3]) && w->c[j - 2] == '-')
        before = before || is_word_end(w->c[j - 1]);
    return before && j + 1 < w->n && is_letter(w->c[j + 1])
           && (is_letter(at(w, j + 2)) || (at(w, j + 2) == '-' && is_letter(at(w, j + 3))));
}

/* Where the chunk that begins at i ends. */
static size_t chunk_end(const wrapper *w, size_t i)
{
    size_t j = i;
    if (is_blank(w->c[i])) {
        while (j < w->n && is_blank(w->c[j]))
            j++;
        return j;
    }
    if (!w->break_hyphens) {
        while (j < w->n && !is_blank(w->c[j]))
            j++;
        return j;
    }
    if (i > 0 && is_word_end(w->c[i - 1]) && long_dash(w, i) > i)
        return long_dash(w, i);
    for (j = i + 1; j < w->n; j++) {
        if (hyphen_inside(w, j))
            return j + 1;
        if (is_blank(w->c[j]) || (is_word_end(w->c[j - 1]) && long_dash(w, j) > j))
            return j;
    }
    return j;
}

static bool all_space(const wrapper *w, size_t from, size_t to)
{
    for (; from < to; from++)
        if (!tn_jchar_is_space(w->c[from]))
            return false;
    return true;
}

static void put_line(wrapper *w, size_t from, size_t to)
{
    if (w->lines++ > 0)
        tn_jtext_put_str(w->out, w->newline);
    for (; from < to; from++)
        tn_jtext_put_cp(w->out, w->c[from]);
}

/* Where a chunk [from, to) too long for its line is cut, with `room` characters left. */
static size_t cut(const wrapper *w, size_t from, size_t to, size_t room)
{
    size_t end = from + room;
    if (!w->break_hyphens || to - from <= room)
        return end < to ? end : to;
    for (size_t h = end; h-- > from + 1;) {
        if (w->c[h] != '-')
            continue;
        for (size_t k = from; k < h; k++)
            if (w->c[k] != '-')
                return h + 1;
        break;
    }
    return end;
}

/* Where all chunks end, in order. */
static uint32_t *find_chunks(wrapper *w, uint32_t *n)
{
    uint32_t *end = tn_jrun_array(w->r, w->n + 1, sizeof *end);
    *n = 0;
    for (size_t i = 0; end != NULL && i < w->n;) {
        i = chunk_end(w, i);
        end[(*n)++] = (uint32_t)i;
    }
    return end;
}

static bool wrap_paragraph(wrapper *w)
{
    uint32_t nchunk, i = 0;
    size_t pos = 0; /* chunk i begins here, or what is left of it */
    const uint32_t *end = find_chunks(w, &nchunk);
    if (end == NULL)
        return false;
    w->lines = 0;
    while (i < nchunk) {
        if (w->lines > 0 && all_space(w, pos, end[i])) {
            pos = end[i++];
            if (i == nchunk)
                break;
        }
        size_t from = pos, last = pos; /* the line, and the last chunk on it, begin here */
        while (i < nchunk && end[i] - from <= w->width) {
            last = pos;
            pos = end[i++];
        }
        if (i < nchunk && end[i] - pos > w->width) {
            if (w->break_long) {
                last = pos;
                pos = cut(w, pos, end[i], w->width - (pos - from));
            } else if (pos == from) {
                pos = end[i++];
            }
        }
        size_t shown = pos > last && all_space(w, last, pos) ? last : pos;
        if (shown > from)
            put_line(w, from, shown);
        TN_TRY(!w->out->failed && tn_jrun_burn(w->r, TN_JSTEP_NODE));
    }
    return true;
}

static bool paragraph(wrapper *w, tn_jval line)
{
    const tn_jstr *s = line.as.s;
    uint32_t *c = tn_jrun_array(w->r, (size_t)s->chars + 1, sizeof *c);
    if (c == NULL)
        return false;
    w->c = c;
    w->n = s->chars;
    for (const char *p = s->p, *end = p + s->size; p < end;)
        *c++ = tn_jutf_next(&p);
    return tn_jrun_burn_bytes(w->r, (size_t)s->size * 16) && wrap_paragraph(w);
}

static bool f_wordwrap(tn_jrun *r, const tn_jval *a, const tn_jargs *all, tn_jval *out)
{
    int64_t width;
    tn_jval lines;
    tn_jtext t;
    (void)all;
    TN_TRY(tn_jarg_text(r, "the value", a[0]) && tn_jarg_int(r, "the width", a[1], 79, &width));
    wrapper w = {.r = r, .out = &t, .newline = tn_jarg_or_none(a[3]),
                 .break_long = a[2].type == TN_J_MISSING || tn_jval_truth(a[2]),
                 .break_hyphens = a[4].type == TN_J_MISSING || tn_jval_truth(a[4])};
    if (w.newline.type == TN_J_NONE)
        TN_TRY(tn_jstr_text(r, "\n", &w.newline));
    TN_TRY(tn_jarg_text(r, "wrapstring", w.newline));
    TN_TRY(tn_jstr_splitlines(r, a[0], false, &lines));
    if (width <= 0 && lines.as.l->n > 0)
        return tn_jrun_fail(r, "invalid width %lld (must be > 0)", (long long)width);
    w.width = (size_t)width;
    tn_jtext_open(&t, r, 0);
    for (uint32_t i = 0; i < lines.as.l->n; i++) {
        if (i > 0)
            tn_jtext_put_str(&t, w.newline);
        TN_TRY(paragraph(&w, lines.as.l->at[i]));
    }
    return tn_jtext_close(&t, out);
}

const tn_jbuiltin tn_jfilter_layout[] = {
    {.name = "wordwrap",
     .params = "s width? break_long_words? wrapstring? break_on_hyphens?",
     .fn = f_wordwrap},
};
const size_t tn_jfilter_layout_count = sizeof tn_jfilter_layout / sizeof tn_jfilter_layout[0];
