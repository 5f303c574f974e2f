/* SPDX-License-Identifier: Apache-2.0 */
/* added.c - finds added tokens in a text, in linear time. */
#include "added.h"

#include "unicode.h"

#include <stdlib.h>

typedef struct tn_added_node {
    uint32_t child, sibling;  /* 0: none */
    uint32_t fail;            /* the longest proper end of this path that is a path too */
    uint32_t shorter;         /* the nearest node along `fail` that ends a token, 0: none */
    int32_t token;            /* index of the token whose spelling ends here, -1: none */
    uint8_t byte;
} node;

typedef struct tn_added_hit {
    size_t start;
    int32_t token;
} hit;

void tn_added_open(tn_added *a)
{
    *a = (tn_added){0};
}

void tn_added_close(tn_added *a)
{
    free(a->token);
    free(a->raw.node);
    free(a->normal.node);
    *a = (tn_added){0};
}

bool tn_added_put(tn_added *a, const tn_added_token *t)
{
    if (a->n == a->cap) {
        uint32_t cap = a->cap == 0 ? 64 : a->cap * 2;
        tn_added_token *token = realloc(a->token, cap * sizeof *token);
        if (token == NULL)
            return false;
        a->token = token;
        a->cap = cap;
    }
    a->token[a->n++] = *t;
    a->total += t->size;
    return true;
}

/* ---- building ---- */

static uint32_t new_node(tn_added_set *s, uint8_t byte)
{
    if (s->nnode == s->cap) {
        uint32_t cap = s->cap == 0 ? 256 : s->cap * 2;
        node *n = realloc(s->node, cap * sizeof *n);
        if (n == NULL)
            return 0;
        s->node = n;
        s->cap = cap;
    }
    s->node[s->nnode] = (node){.token = -1, .byte = byte};
    return s->nnode++;
}

static uint32_t child_of(const tn_added_set *s, uint32_t at, uint8_t byte)
{
    if (at == 0)
        return s->start[byte];
    uint32_t c = s->node[at].child;
    while (c != 0 && s->node[c].byte != byte)
        c = s->node[c].sibling;
    return c;
}

/* Adds a spelling from its last byte to its first. */
static bool add_path(tn_added_set *s, const tn_added_token *t, int32_t index, uint32_t *twin)
{
    uint32_t at = 0;
    for (uint32_t i = t->size; i-- > 0;) {
        uint8_t byte = (uint8_t)t->text[i];
        uint32_t next = child_of(s, at, byte);
        if (next == 0) {
            next = new_node(s, byte);
            if (next == 0)
                return false;
            s->node[next].sibling = s->node[at].child;
            s->node[at].child = next;
            if (at == 0)
                s->start[byte] = next;
        }
        at = next;
    }
    if (s->node[at].token >= 0) {
        *twin = (uint32_t)index;
        return false;
    }
    s->node[at].token = index;
    return true;
}

static uint32_t step(const tn_added_set *s, uint32_t at, uint8_t byte)
{
    for (;;) {
        uint32_t next = child_of(s, at, byte);
        if (next != 0 || at == 0)
            return next;
        at = s->node[at].fail;
    }
}

/* Breadth first, so that a node's fail is known before its children need it. */
static bool link_nodes(tn_added_set *s)
{
    uint32_t *queue = malloc(s->nnode * sizeof *queue), head = 0, tail = 0;
    if (queue == NULL)
        return false;
    queue[tail++] = 0;
    while (head < tail) {
        uint32_t at = queue[head++];
        for (uint32_t c = s->node[at].child; c != 0; c = s->node[c].sibling) {
            uint32_t fail = at == 0 ? 0 : step(s, s->node[at].fail, s->node[c].byte);
            s->node[c].fail = fail;
            s->node[c].shorter = s->node[fail].token >= 0 ? fail : s->node[fail].shorter;
            queue[tail++] = c;
        }
    }
    free(queue);
    return true;
}

bool tn_added_ready(tn_added *a, uint32_t *twin)
{
    *twin = TN_NONE;
    for (uint32_t i = 0; i < a->n; i++) {
        tn_added_set *s = a->token[i].normalized ? &a->normal : &a->raw;
        if (s->nnode == 0) {
            (void)new_node(s, 0); /* the root, which is node 0 */
            if (s->nnode == 0)
                return false;
        }
        if (!add_path(s, &a->token[i], (int32_t)i, twin))
            return false;
    }
    return (a->raw.nnode == 0 || link_nodes(&a->raw)) &&
           (a->normal.nnode == 0 || link_nodes(&a->normal));
}

/* ---- finding ---- */

void tn_added_work_close(tn_added_work *w)
{
    free(w->hit);
    free(w->match);
    *w = (tn_added_work){0};
}

static bool put_hit(tn_added_work *w, size_t start, int32_t token)
{
    if (w->nhit == w->hit_cap) {
        size_t cap = w->hit_cap * 2 + 64;
        hit *h = realloc(w->hit, cap * sizeof *h);
        if (h == NULL)
            return false;
        w->hit = h;
        w->hit_cap = cap;
    }
    w->hit[w->nhit++] = (hit){start, token};
    return true;
}

static bool put_match(tn_added_work *w, size_t start, size_t stop, int32_t token)
{
    if (w->nmatch == w->match_cap) {
        size_t cap = w->match_cap * 2 + 64;
        tn_added_match *m = realloc(w->match, cap * sizeof *m);
        if (m == NULL)
            return false;
        w->match = m;
        w->match_cap = cap;
    }
    w->match[w->nmatch++] = (tn_added_match){start, stop, token};
    return true;
}

/* The longest token that begins at each place, the last place first. */
static bool collect(const tn_added_set *s, const uint8_t *text, size_t size, tn_added_work *w)
{
    uint32_t at = 0;
    for (size_t i = size; i-- > 0;) {
        if (at == 0 && s->start[text[i]] == 0)
            continue;
        at = step(s, at, text[i]);
        uint32_t found = s->node[at].token >= 0 ? at : s->node[at].shorter;
        if (found != 0 && !put_hit(w, i, s->node[found].token))
            return false;
    }
    return true;
}

static bool has_offset(const tn_plain *p, size_t from, size_t to)
{
    size_t lo = 0, hi = p->n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (p->at[mid] < from)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < p->n && p->at[lo] < to;
}

/* Where normalization moved bytes about, a token is plain as soon as it covers an offset. */
static bool is_plain(const tn_plain *p, const tn_added_token *t, size_t start, size_t stop)
{
    if (!t->special)
        return false;
    if (p->all || p->n == 0)
        return p->all;
    if (p->origin == NULL)
        return has_offset(p, p->base + start, p->base + start + 1);
    return has_offset(p, p->base + p->origin[start], p->base + p->origin[stop - 1] + 1);
}

static bool is_alone(const uint8_t *text, size_t size, size_t start, size_t stop)
{
    const uint8_t *p = text + start;
    if (start > 0) {
        p = tn_utf8_back(p);
        if (tn_uc_is_word(tn_utf8_next(&p)))
            return false;
    }
    p = text + stop;
    return stop == size || !tn_uc_is_word(tn_utf8_next(&p));
}

/* Where the white space that ends at `start` begins, not before `least`. */
static size_t space_before(const uint8_t *text, size_t least, size_t start)
{
    const uint8_t *p = text + start;
    while (p > text + least) {
        const uint8_t *q = tn_utf8_back(p), *r = q;
        if (!tn_uc_is_space(tn_utf8_next(&r)))
            break;
        p = q;
    }
    return (size_t)(p - text);
}

/* Where the white space that begins at `stop` ends. Tokens made of white space may ask from
 * every place of one long run, so the end of the last run is kept. */
static size_t space_behind(const uint8_t *text, size_t size, size_t stop, size_t *run)
{
    if (run[0] <= stop && stop < run[1])
        return run[1];
    const uint8_t *p = text + stop, *end = text + size;
    while (p < end) {
        const uint8_t *q = p;
        if (!tn_uc_is_space(tn_utf8_next(&q)))
            break;
        p = q;
    }
    run[0] = stop;
    run[1] = (size_t)(p - text);
    return run[1];
}

bool tn_added_find(const tn_added *a, bool normal, const uint8_t *text, size_t size,
                   const tn_plain *plain, tn_added_work *w)
{
    const tn_added_set *s = normal ? &a->normal : &a->raw;
    size_t past = 0, done = 0, run[2] = {0, 0};
    w->nhit = w->nmatch = 0;
    if (s->nnode > 0 && !collect(s, text, size, w))
        return false;
    while (w->nhit > 0) {
        hit h = w->hit[--w->nhit];
        const tn_added_token *t = &a->token[h.token];
        size_t start = h.start, stop = h.start + t->size;
        if (start < past)
            continue; /* inside the match before it */
        past = stop;
        if (is_plain(plain, t, start, stop))
            continue;
        if (t->single_word && !is_alone(text, size, start, stop))
            continue;
        if (t->lstrip)
            start = start > done ? space_before(text, done, start) : done;
        if (t->rstrip)
            stop = space_behind(text, size, stop, run);
        if (done < start && !put_match(w, done, start, -1))
            return false;
        if (!put_match(w, start, stop, h.token))
            return false;
        done = stop;
    }
    return done == size || put_match(w, done, size, -1);
}
