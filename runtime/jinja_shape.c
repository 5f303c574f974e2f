/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_shape.c - what a chat template expects of its messages, read off its tree.
 *
 * The question whether content is looped over is answered as vLLM answers it: names assigned
 * from `messages` are messages too, loop variables over those are single messages, and a loop
 * over one's `content` (or over a variable called content) takes parts. */
#include "jinja_shape.h"

#include "jinja_call.h"
#include "jinja_walk.h"

#include <string.h>

#define NAMES_MAX 32u

/* Names that stand for the same thing. */
typedef struct aliases {
    tn_jval name[NAMES_MAX];
    uint32_t n;
} aliases;

typedef struct look {
    aliases lists, messages;
    tn_jshape shape;
    bool grown;              /* a name was added on this walk */
} look;

static bool among(const aliases *a, const tn_jnode *n)
{
    if (n->kind != TN_JN_NAME)
        return false;
    for (uint32_t i = 0; i < a->n; i++)
        if (tn_jstr_same(a->name[i].as.s, n->as.name.text.as.s->p, n->as.name.text.as.s->size))
            return true;
    return false;
}

static void add(look *l, aliases *a, const tn_jnode *target)
{
    if (target->kind != TN_JN_NAME || among(a, target) || a->n == NAMES_MAX)
        return;
    a->name[a->n++] = target->as.name.text;
    l->grown = true;
}

/* What is left without filters, tests and slices around it. */
static const tn_jnode *bare(const tn_jnode *n)
{
    for (;;) {
        if ((n->kind == TN_JN_FILTER || n->kind == TN_JN_TEST) && n->as.call.on != NULL)
            n = n->as.call.on;
        else if (n->kind == TN_JN_GETITEM && n->as.item.arg->kind == TN_JN_SLICE)
            n = n->as.item.obj;
        else
            return n;
    }
}

static bool is_content_of(const aliases *messages, const tn_jnode *n)
{
    if (n->kind == TN_JN_GETATTR)
        return tn_jstr_is(n->as.attr.name, "content") && among(messages, n->as.attr.obj);
    return n->kind == TN_JN_GETITEM && n->as.item.arg->kind == TN_JN_CONST
           && tn_jstr_is(n->as.item.arg->as.value, "content") && among(messages, n->as.item.obj);
}

static tn_jwalk see(const tn_jnode *n, void *ctx)
{
    look *l = ctx;
    if (n->kind == TN_JN_SET && among(&l->lists, bare(n->as.set.value))) {
        add(l, &l->lists, n->as.set.target);
    } else if (n->kind == TN_JN_FOR) {
        const tn_jnode *over = bare(n->as.loop->iter);
        if (among(&l->lists, over))
            add(l, &l->messages, n->as.loop->target);
        if (is_content_of(&l->messages, over)
            || (n->as.loop->iter->kind == TN_JN_NAME
                && tn_jstr_is(n->as.loop->iter->as.name.text, "content")))
            l->shape.parts = true;
    } else if (n->kind == TN_JN_TEST) {
        l->shape.tests_string = l->shape.tests_string || strcmp(n->as.call.fn->name, "string") == 0;
    } else if (n->kind == TN_JN_CONST) {
        l->shape.developer = l->shape.developer || tn_jstr_is(n->as.value, "developer");
    }
    return TN_JWALK_ON;
}

tn_jshape tn_jshape_of(const tn_jinja *t)
{
    static const tn_jstr messages = {.p = "messages", .size = 8, .chars = 8};
    look l = {.lists = {.name = {{.type = TN_J_STR, .as.s = &messages}}, .n = 1}};
    /* A name may be used before the assignment that explains it is seen. */
    do {
        l.grown = false;
        tn_jwalk_list(t->body, see, &l);
    } while (l.grown);
    return l.shape;
}
