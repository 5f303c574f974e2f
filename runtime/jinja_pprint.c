/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_pprint.c - the filter pprint: values on lines of 80 columns, as Python's pprint.
 *
 * A value that fits what is left of its line is written as repr writes it (keys sorted);
 * a longer list or dictionary gets a line for each item, a longer text one for each piece. */
#include "jinja_filters.h"

#include <string.h>

#define WIDTH 80

typedef struct printer {
    tn_jrun *r;
    tn_jtext t;
} printer;

static bool print(printer *p, tn_jval v, int64_t indent, int64_t allowance, int level);

/* Keys in order; of two that have none between them, the one whose type's name is less. */
static bool sorted_pairs(tn_jrun *r, const tn_jdict *d, const tn_jpair **out)
{
    tn_jval *keys = tn_jrun_array(r, d->n + 1, sizeof *keys);
    tn_jval *places = keys != NULL ? tn_jrun_array(r, d->n + 1, sizeof *places) : NULL;
    tn_jpair *at = places != NULL ? tn_jrun_array(r, d->n + 1, sizeof *at) : NULL;
    if (at == NULL)
        return false;
    for (uint32_t i = 0; i < d->n; i++) {
        tn_jval *key = tn_jlist_new(r, TN_J_LIST, 2, &keys[i]);
        if (key == NULL)
            return false;
        bool number = tn_jval_is_number(d->at[i].key);
        TN_TRY(tn_jstr_text(r, number ? "int" : tn_jval_kind(d->at[i].key), &key[0]));
        key[1] = number || d->at[i].key.type == TN_J_STR ? d->at[i].key : tn_jnone();
        places[i] = tn_jint(i);
    }
    TN_TRY(tn_jval_sort(r, places, keys, d->n, false));
    for (uint32_t i = 0; i < d->n; i++)
        at[i] = d->at[places[i].as.i];
    *out = at;
    return true;
}

/* The same value with every dictionary's keys in order. */
static bool ordered(tn_jrun *r, tn_jval v, tn_jval *out)
{
    *out = v;
    if (v.type != TN_J_DICT && !tn_jval_is_seq(v))
        return true;
    TN_TRY(tn_jrun_enter(r));
    if (v.type == TN_J_DICT) {
        const tn_jpair *at;
        tn_jdict *d = tn_jdict_new(r, v.as.d->n);
        TN_TRY(d != NULL && sorted_pairs(r, v.as.d, &at));
        for (uint32_t i = 0; i < v.as.d->n; i++) {
            tn_jval val;
            TN_TRY(ordered(r, at[i].val, &val) && tn_jdict_set(r, d, at[i].key, val));
        }
        *out = (tn_jval){.type = TN_J_DICT, .as.d = d};
    } else {
        tn_jval *at = tn_jlist_new(r, (tn_jtype)v.type, v.as.l->n, out);
        if (at == NULL)
            return false;
        for (uint32_t i = 0; i < v.as.l->n; i++)
            TN_TRY(ordered(r, v.as.l->at[i], &at[i]));
    }
    tn_jrun_leave(r);
    return true;
}

static bool repr_of(tn_jrun *r, tn_jval v, tn_jval *out)
{
    tn_jtext t;
    tn_jtext_open(&t, r, 0);
    return tn_jval_repr(r, v, &t) && tn_jtext_close(&t, out);
}

static void new_line(printer *p, int64_t indent)
{
    tn_jtext_putc(&p->t, '\n');
    tn_jtext_fill(&p->t, ' ', indent > 0 ? (uint64_t)indent : 0);
}

static bool print_items(printer *p, const tn_jlist *l, int64_t indent, int64_t allowance, int level)
{
    for (uint32_t i = 0; i < l->n; i++) {
        if (i > 0) {
            tn_jtext_putc(&p->t, ',');
            new_line(p, indent + 1);
        }
        TN_TRY(print(p, l->at[i], indent + 1, i + 1 == l->n ? allowance : 1, level));
    }
    return true;
}

static bool print_dict(printer *p, const tn_jdict *d, int64_t indent, int64_t allowance, int level)
{
    tn_jtext_putc(&p->t, '{');
    for (uint32_t i = 0; i < d->n; i++) {
        tn_jval key;
        if (i > 0) {
            tn_jtext_putc(&p->t, ',');
            new_line(p, indent + 1);
        }
        TN_TRY(repr_of(p->r, d->at[i].key, &key));
        tn_jtext_put_str(&p->t, key);
        tn_jtext_puts(&p->t, ": ");
        TN_TRY(print(p, d->at[i].val, indent + 1 + key.as.s->chars + 2,
                     i + 1 == d->n ? allowance + 1 : 1, level));
    }
    tn_jtext_putc(&p->t, '}');
    return true;
}

/* ------------------------------------------------------------------------------------- texts */

typedef struct pieces {
    tn_jrun *r;
    tn_jlist_maker made;
    const tn_jstr *line;
    int64_t width;            /* of a piece; the text's last one has less */
    int64_t last_width;
} pieces;

static bool add_piece(pieces *s, size_t from, size_t to)
{
    tn_jval part, repr;
    tn_jval line = {.type = TN_J_STR, .as.s = s->line};
    return tn_jstr_part(s->r, line, from, to - from, &part) && repr_of(s->r, part, &repr)
           && tn_jlist_add(&s->made, repr);
}

static bool fits(pieces *s, size_t from, size_t to, int64_t width, bool *yes)
{
    tn_jval part, repr;
    tn_jval line = {.type = TN_J_STR, .as.s = s->line};
    TN_TRY(tn_jstr_part(s->r, line, from, to - from, &part) && repr_of(s->r, part, &repr));
    *yes = repr.as.s->chars <= width;
    return true;
}

/* The end of a word and the blanks behind it. */
static size_t word_end(const tn_jstr *s, size_t from)
{
    const char *p = s->p + from, *end = s->p + s->size, *q;
    while (p < end && (q = p, !tn_jchar_is_space(tn_jutf_next(&q))))
        p = q;
    while (p < end && (q = p, tn_jchar_is_space(tn_jutf_next(&q))))
        p = q;
    return (size_t)(p - s->p);
}

static bool cut_line(pieces *s, bool last_line)
{
    size_t from = 0, at = 0;
    bool yes;
    TN_TRY(fits(s, 0, s->line->size, last_line ? s->last_width : s->width, &yes));
    if (yes)
        return add_piece(s, 0, s->line->size);
    while (at < s->line->size) {
        size_t end = word_end(s->line, at);
        bool last = last_line && end == s->line->size;
        TN_TRY(fits(s, from, end, last ? s->last_width : s->width, &yes));
        if (!yes) {
            if (at > from)
                TN_TRY(add_piece(s, from, at));
            from = at;
        }
        at = end;
    }
    return from == at || add_piece(s, from, at);
}

static bool print_text(printer *p, tn_jval v, int64_t indent, int64_t allowance, int level)
{
    tn_jval lines;
    pieces s = {.r = p->r};
    if (level == 1) {
        indent++;
        allowance++;
    }
    s.width = WIDTH - indent;
    s.last_width = s.width - allowance;
    tn_jlist_open(&s.made, p->r);
    TN_TRY(tn_jstr_splitlines(p->r, v, true, &lines));
    for (uint32_t i = 0; i < lines.as.l->n; i++) {
        s.line = lines.as.l->at[i].as.s;
        TN_TRY(cut_line(&s, i + 1 == lines.as.l->n));
    }
    bool parens = level == 1 && s.made.n > 1;
    if (parens)
        tn_jtext_putc(&p->t, '(');
    for (uint32_t i = 0; i < s.made.n; i++) {
        if (i > 0)
            new_line(p, indent);
        tn_jtext_put_str(&p->t, s.made.at[i]);
    }
    if (parens)
        tn_jtext_putc(&p->t, ')');
    return true;
}

/* ------------------------------------------------------------------------------------ values */

static bool print_parts(printer *p, tn_jval v, int64_t indent, int64_t allowance, int level)
{
    switch (v.type) {
    case TN_J_DICT: return print_dict(p, v.as.d, indent, allowance, level);
    case TN_J_LIST:
        tn_jtext_putc(&p->t, '[');
        TN_TRY(print_items(p, v.as.l, indent, allowance + 1, level));
        tn_jtext_putc(&p->t, ']');
        return true;
    default:
        tn_jtext_putc(&p->t, '(');
        TN_TRY(print_items(p, v.as.l, indent, allowance + (v.as.l->n == 1 ? 2 : 1), level));
        tn_jtext_puts(&p->t, v.as.l->n == 1 ? ",)" : ")");
        return true;
    }
}

static bool print(printer *p, tn_jval v, int64_t indent, int64_t allowance, int level)
{
    tn_jval repr;
    TN_TRY(repr_of(p->r, v, &repr));
    bool parts = v.type == TN_J_DICT || tn_jval_is_seq(v) || (v.type == TN_J_STR && !v.safe);
    if (repr.as.s->chars <= WIDTH - indent - allowance || !parts || tn_jval_len(v) == 0) {
        tn_jtext_put_str(&p->t, repr);
        return !p->t.failed;
    }
    if (v.type == TN_J_STR)
        return print_text(p, v, indent, allowance, level + 1);
    TN_TRY(tn_jrun_enter(p->r));
    TN_TRY(print_parts(p, v, indent, allowance, level + 1));
    tn_jrun_leave(p->r);
    return !p->t.failed;
}

bool tn_jval_pprint(tn_jrun *r, tn_jval v, tn_jval *out)
{
    printer p = {.r = r};
    TN_TRY(ordered(r, v, &v));
    tn_jtext_open(&p.t, r, 0);
    return print(&p, v, 0, 0, 0) && tn_jtext_close(&p.t, out);
}
