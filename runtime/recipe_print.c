/* SPDX-License-Identifier: Apache-2.0 */
/* recipe_print.c - the whole model on one screen. */
#include "buf.h"
#include "recipe.h"

#include <string.h>

static const char *const op_name[] = {
    "", "EMBED", "NORM", "LINEAR", "ACT_MUL", "HEADS", "ATTEND", "DELTA", "ROUTE", "EXPERTS",
    "MIX", "CONCAT", "PICK", "SUM", "GATHER", "LOGITS", "SAMPLE",
};
static const char *const dtype_name[] = {"", "f32", "f16", "bf16"};
static const char *const form_name[] = {"plain", "f32", "f16", "bf16", "w4g", "w8g", "private"};
static const char *const rows_name[] = {"", "tokens", "outs", "seqs"};

#define NAME(table, i) ((i) < sizeof(table) / sizeof *(table) ? (table)[i] : "?")

static const char *buffer_name(const tn_recipe *r, uint32_t i)
{
    return i < r->nbuffer ? r->buffer[i].name : "-";
}

static void print_weight(const tn_recipe *r, uint32_t w, tn_buf *out)
{
    if (w >= r->nweight)
        return;
    const tn_weight_spec *s = &r->weight[w];
    tn_buf_printf(out, " %s", NAME(form_name, s->form.kind));
    if (s->form.group > 0)
        tn_buf_printf(out, "/%u", s->form.group);
    if (s->form.flags & TN_FORM_PERM)
        tn_buf_puts(out, "+perm");
    if (s->requant != 0)
        tn_buf_puts(out, "->w8g");
    if (s->nexpert > 1)
        tn_buf_printf(out, "[%u x %llu x %llu]", s->nexpert, (unsigned long long)s->n,
                      (unsigned long long)s->k);
    else
        tn_buf_printf(out, "[%llu x %llu]", (unsigned long long)s->n, (unsigned long long)s->k);
}

static void print_linear(const tn_recipe *r, const tn_op_linear *a, tn_buf *out)
{
    tn_buf_printf(out, "%s ->", buffer_name(r, a->in));
    for (uint32_t i = 0; i < a->nparts && i < TN_LINEAR_PARTS; i++) {
        tn_buf_printf(out, "%s %s", i > 0 ? " |" : "", buffer_name(r, a->part[i].out));
        print_weight(r, a->part[i].w, out);
        if (a->part[i].bias != TN_NONE)
            tn_buf_puts(out, " + bias");
    }
    if (a->add)
        tn_buf_puts(out, " (added)");
}

static void print_args(const tn_recipe *r, const tn_op *op, tn_buf *out)
{
    switch (op->kind) {
    case TN_OP_EMBED: {
        const tn_op_embed *a = op->args;
        tn_buf_printf(out, "ids -> %s", buffer_name(r, a->out));
        print_weight(r, a->w, out);
        break;
    }
    case TN_OP_NORM: {
        const tn_op_norm *a = op->args;
        tn_buf_printf(out, "%s -> %s eps %g%s", buffer_name(r, a->in), buffer_name(r, a->out),
                      (double)a->eps, a->offset != 0 ? " zero-centred" : "");
        break;
    }
    case TN_OP_LINEAR: print_linear(r, op->args, out); break;
    case TN_OP_ACT_MUL: {
        const tn_op_act_mul *a = op->args;
        tn_buf_printf(out, "%s -> %s", buffer_name(r, a->in), buffer_name(r, a->out));
        break;
    }
    case TN_OP_HEADS: {
        const tn_op_heads *a = op->args;
        tn_buf_printf(out, "%s: %u q, %u kv heads of %u%s%s -> cache %u", buffer_name(r, a->x),
                      a->q_heads, a->kv_heads, a->head_dim, a->q_norm != TN_NONE ? ", norm" : "",
                      a->rope != TN_NONE ? ", rope" : "", a->cache);
        break;
    }
    case TN_OP_ATTEND: {
        const tn_op_attend *a = op->args;
        tn_buf_printf(out, "%s, cache %u -> %s", buffer_name(r, a->q), a->cache,
                      buffer_name(r, a->out));
        if (a->window > 0)
            tn_buf_printf(out, ", window %u", a->window);
        break;
    }
    case TN_OP_PICK: {
        const tn_op_pick *a = op->args;
        tn_buf_printf(out, "%s -> %s", buffer_name(r, a->in), buffer_name(r, a->out));
        break;
    }
    default: break;
    }
}

/* Is layer `op->layer` of the same make as the one before, so that it may be folded? Compared
 * by what would be printed. */
static size_t layer_ops(const tn_recipe *r, size_t i)
{
    size_t n = 0;
    while (i + n < r->nop && r->op[i + n].layer == r->op[i].layer)
        n++;
    return n;
}

static void print_ops(const tn_recipe *r, size_t i, size_t n, tn_buf *out)
{
    for (size_t j = i; j < i + n; j++) {
        const char *name = r->op[j].name, *dot = NULL;
        if (r->op[j].layer != TN_NONE && (dot = strchr(name, '.')) != NULL)
            dot = strchr(dot + 1, '.');
        tn_buf_printf(out, "  %-10s %-8s ", dot != NULL ? dot + 1 : name,
                      NAME(op_name, r->op[j].kind));
        print_args(r, &r->op[j], out);
        tn_buf_putc(out, '\n');
    }
}

/* Caches count up layer by layer; a folded range shows the first layer's. */
static bool same_make(const tn_recipe *r, size_t a, size_t b, size_t n)
{
    if (layer_ops(r, b) != n)
        return false;
    for (size_t j = 0; j < n; j++) {
        const tn_op *x = &r->op[a + j], *y = &r->op[b + j];
        if (x->kind != y->kind)
            return false;
        tn_buf p, q;
        tn_buf_open(&p, 4096);
        tn_buf_open(&q, 4096);
        bool cached = x->kind == TN_OP_HEADS || x->kind == TN_OP_ATTEND;
        if (!cached) {
            print_args(r, x, &p);
            print_args(r, y, &q);
        } else if (x->kind == TN_OP_ATTEND) {
            tn_buf_printf(&p, "%u", ((const tn_op_attend *)x->args)->window);
            tn_buf_printf(&q, "%u", ((const tn_op_attend *)y->args)->window);
        }
        bool same = p.len == q.len && (p.len == 0 || memcmp(p.data, q.data, p.len) == 0);
        tn_buf_close(&p);
        tn_buf_close(&q);
        if (!same)
            return false;
    }
    return true;
}

static void print_layers(const tn_recipe *r, size_t *at, tn_buf *out)
{
    size_t first = *at, n = layer_ops(r, first), next = first + n;
    uint32_t from = r->op[first].layer, to = from;
    while (next < r->nop && r->op[next].layer != TN_NONE && same_make(r, first, next, n)) {
        to = r->op[next].layer;
        next += n;
    }
    if (from == to)
        tn_buf_printf(out, " layer %u\n", from);
    else
        tn_buf_printf(out, " layers %u to %u, each\n", from, to);
    print_ops(r, first, n, out);
    *at = next;
}

void tn_recipe_print(const tn_recipe *r, tn_buf *out)
{
    tn_buf_printf(out, "recipe %s: %u operations, %u weights, %u caches, %u states\n", r->name,
                  r->nop, r->nweight, r->ncache, r->nstate);
    for (uint32_t i = 0; i < r->nbuffer; i++)
        tn_buf_printf(out, " buffer %-10s [%s, %u] %s\n", r->buffer[i].name,
                      NAME(rows_name, r->buffer[i].rows), r->buffer[i].width,
                      NAME(dtype_name, r->buffer[i].dtype));
    for (size_t i = 0; i < r->nop;) {
        if (r->op[i].layer != TN_NONE) {
            print_layers(r, &i, out);
        } else {
            print_ops(r, i, 1, out);
            i++;
        }
    }
}
