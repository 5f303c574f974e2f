/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_walk.c - looks at every node of a tree, in jinja2's order. */
#include "jinja_walk.h"

static bool walk(const tn_jnode *n, tn_jwalk_see see, void *ctx);

static bool maybe(const tn_jnode *n, tn_jwalk_see see, void *ctx)
{
    return n != NULL && walk(n, see, ctx);
}

bool tn_jwalk_list(const tn_jnode *n, tn_jwalk_see see, void *ctx)
{
    for (; n != NULL; n = n->next)
        if (walk(n, see, ctx))
            return true;
    return false;
}

static bool walk_args(const tn_jcallargs *a, tn_jwalk_see see, void *ctx)
{
    if (tn_jwalk_list(a->args, see, ctx))
        return true;
    for (const tn_jkeyword *k = a->kwargs; k != NULL; k = k->next)
        if (walk(k->value, see, ctx))
            return true;
    return maybe(a->star, see, ctx) || maybe(a->star2, see, ctx);
}

static bool children(const tn_jnode *n, tn_jwalk_see see, void *ctx)
{
    switch ((tn_jkind)n->kind) {
    case TN_JN_TUPLE:
    case TN_JN_LIST:
    case TN_JN_DICT:
    case TN_JN_OR:
    case TN_JN_AND:
    case TN_JN_COMPARE:
    case TN_JN_BINARY:
    case TN_JN_CONCAT:
    case TN_JN_OUTPUT:
    case TN_JN_IF: return tn_jwalk_list(n->as.list.first, see, ctx);
    case TN_JN_BRANCH:
        return maybe(n->as.branch.test, see, ctx) || tn_jwalk_list(n->as.branch.body, see, ctx);
    case TN_JN_COND:
        return walk(n->as.cond.test, see, ctx) || walk(n->as.cond.yes, see, ctx)
               || maybe(n->as.cond.no, see, ctx);
    case TN_JN_NOT:
    case TN_JN_NEG:
    case TN_JN_POS: return walk(n->as.one, see, ctx);
    case TN_JN_GETATTR: return walk(n->as.attr.obj, see, ctx);
    case TN_JN_GETITEM:
        return walk(n->as.item.obj, see, ctx) || walk(n->as.item.arg, see, ctx);
    case TN_JN_SLICE:
        return maybe(n->as.slice.start, see, ctx) || maybe(n->as.slice.stop, see, ctx)
               || maybe(n->as.slice.step, see, ctx);
    case TN_JN_CALL:
    case TN_JN_FILTER:
    case TN_JN_TEST: return maybe(n->as.call.on, see, ctx) || walk_args(n->as.call.args, see, ctx);
    case TN_JN_FOR:
        return walk(n->as.loop->target, see, ctx) || walk(n->as.loop->iter, see, ctx)
               || tn_jwalk_list(n->as.loop->body, see, ctx)
               || tn_jwalk_list(n->as.loop->orelse, see, ctx)
               || maybe(n->as.loop->test, see, ctx);
    case TN_JN_MACRO:
    case TN_JN_CALLBLOCK:
        return maybe(n->as.macro.call, see, ctx) || tn_jwalk_list(n->as.macro.sig->args, see, ctx)
               || tn_jwalk_list(n->as.macro.sig->defaults, see, ctx)
               || tn_jwalk_list(n->as.macro.sig->body, see, ctx);
    case TN_JN_FILTERBLOCK:
        return tn_jwalk_list(n->as.capture->body, see, ctx)
               || walk(n->as.capture->filter, see, ctx);
    case TN_JN_SETBLOCK:
        return walk(n->as.capture->target, see, ctx) || maybe(n->as.capture->filter, see, ctx)
               || tn_jwalk_list(n->as.capture->body, see, ctx);
    case TN_JN_SET: return walk(n->as.set.target, see, ctx) || walk(n->as.set.value, see, ctx);
    case TN_JN_WITH:
        return tn_jwalk_list(n->as.with->targets, see, ctx)
               || tn_jwalk_list(n->as.with->values, see, ctx)
               || tn_jwalk_list(n->as.with->body, see, ctx);
    case TN_JN_BLOCK: return tn_jwalk_list(n->as.block->body, see, ctx);
    case TN_JN_AUTOESCAPE:
        return walk(n->as.escape.on, see, ctx) || tn_jwalk_list(n->as.escape.body, see, ctx);
    case TN_JN_CONST:
    case TN_JN_NAME:
    case TN_JN_NSREF:
    case TN_JN_DATA:
    case TN_JN_BREAK:
    case TN_JN_CONTINUE: return false;
    }
    return false;
}

static bool walk(const tn_jnode *n, tn_jwalk_see see, void *ctx)
{
    tn_jwalk how = see(n, ctx);
    return how == TN_JWALK_STOP || (how == TN_JWALK_ON && children(n, see, ctx));
}
