/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_parse.c - reads the statements of a template. */
#include "jinja_parse.h"

#include "jinja_engine.h"
#include "quote.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Up to three names end a body. */
typedef struct endings {
    const char *name[3];
} endings;

static bool body(tn_jparser *p, endings ends, tn_jnode **out);

static bool at_ending(const tn_jparser *p, const endings *ends)
{
    for (int i = 0; i < 3 && ends->name[i] != NULL; i++)
        if (tn_jparse_at(p, ends->name[i]))
            return true;
    return false;
}

/* A body that one name ends; steps over that name. */
static bool body_until(tn_jparser *p, const char *end, tn_jnode **out)
{
    TN_TRY(body(p, (endings){{end}}, out));
    return tn_jparse_next(p);
}

static bool for_statement(tn_jparser *p, tn_jnode **out)
{
    tn_jnode *n = tn_jparse_node(p, TN_JN_FOR, &p->cur);
    if (n == NULL || (n->as.loop = tn_jparse_take(p, sizeof *n->as.loop)) == NULL)
        return false;
    *out = n;
    TN_TRY(tn_jparse_next(p));
    TN_TRY(tn_jparse_target(p, (tn_jtuple_rules){.targets = true}, &n->as.loop->target));
    TN_TRY(tn_jparse_expect_name(p, "in"));
    TN_TRY(tn_jparse_tuple(p, (tn_jtuple_rules){.no_cond = true}, &n->as.loop->iter));
    if (tn_jparse_at(p, "if")) {
        TN_TRY(tn_jparse_next(p));
        TN_TRY(tn_jparse_expr(p, &n->as.loop->test));
    }
    n->as.loop->recursive = tn_jparse_at(p, "recursive");
    if (n->as.loop->recursive)
        TN_TRY(tn_jparse_next(p));
    p->loops++;
    TN_TRY(body(p, (endings){{"endfor", "else"}}, &n->as.loop->body));
    p->loops--;
    bool has_else = tn_jparse_at(p, "else");
    TN_TRY(tn_jparse_next(p));
    return !has_else || body_until(p, "endfor", &n->as.loop->orelse);
}

static bool branch(tn_jparser *p, bool tested, tn_jnode **out)
{
    tn_jnode *b = tn_jparse_node(p, TN_JN_BRANCH, &p->cur);
    if (b == NULL)
        return false;
    *out = b;
    if (!tested)
        return body(p, (endings){{"endif"}}, &b->as.branch.body);
    TN_TRY(tn_jparse_tuple(p, (tn_jtuple_rules){.no_cond = true}, &b->as.branch.test));
    return body(p, (endings){{"elif", "else", "endif"}}, &b->as.branch.body);
}

static bool if_statement(tn_jparser *p, tn_jnode **out)
{
    tn_jnode *n = tn_jparse_node(p, TN_JN_IF, &p->cur);
    if (n == NULL)
        return false;
    *out = n;
    tn_jnode **link = &n->as.list.first;
    for (bool tested = true;;) {
        TN_TRY(tn_jparse_next(p));
        TN_TRY(branch(p, tested, link));
        n->as.list.n++;
        link = &(*link)->next;
        if (tn_jparse_at(p, "endif"))
            return tn_jparse_next(p);
        tested = tn_jparse_at(p, "elif");
    }
}

static bool set_statement(tn_jparser *p, tn_jnode **out)
{
    tn_jtoken from = p->cur;
    tn_jnode *target;
    TN_TRY(tn_jparse_next(p));
    TN_TRY(tn_jparse_target(p, (tn_jtuple_rules){.ns = true}, &target));
    if (p->cur.type == TN_JTOK_ASSIGN) {
        *out = tn_jparse_node(p, TN_JN_SET, &from);
        if (*out == NULL)
            return false;
        (*out)->as.set.target = target;
        TN_TRY(tn_jparse_next(p));
        return tn_jparse_tuple(p, (tn_jtuple_rules){.targets = false}, &(*out)->as.set.value);
    }
    tn_jnode *n = tn_jparse_node(p, TN_JN_SETBLOCK, &from);
    if (n == NULL || (n->as.capture = tn_jparse_take(p, sizeof *n->as.capture)) == NULL)
        return false;
    *out = n;
    n->as.capture->target = target;
    TN_TRY(tn_jparse_filters(p, NULL, false, &n->as.capture->filter));
    return body_until(p, "endset", &n->as.capture->body);
}

static bool filter_block(tn_jparser *p, tn_jnode **out)
{
    tn_jnode *n = tn_jparse_node(p, TN_JN_FILTERBLOCK, &p->cur);
    if (n == NULL || (n->as.capture = tn_jparse_take(p, sizeof *n->as.capture)) == NULL)
        return false;
    *out = n;
    TN_TRY(tn_jparse_next(p));
    TN_TRY(tn_jparse_filters(p, NULL, true, &n->as.capture->filter));
    return body_until(p, "endfilter", &n->as.capture->body);
}

static void make_params(tn_jnode *n)
{
    n->store = TN_JSTORE_PARAM;
    for (tn_jnode *c = n->kind == TN_JN_TUPLE ? n->as.list.first : NULL; c != NULL; c = c->next)
        make_params(c);
}

static bool with_statement(tn_jparser *p, tn_jnode **out)
{
    tn_jnode *n = tn_jparse_node(p, TN_JN_WITH, &p->cur);
    if (n == NULL || (n->as.with = tn_jparse_take(p, sizeof *n->as.with)) == NULL)
        return false;
    *out = n;
    tn_jnode **target = &n->as.with->targets, **value = &n->as.with->values;
    TN_TRY(tn_jparse_next(p));
    while (p->cur.type != TN_JTOK_BLOCK_END) {
        if (n->as.with->targets != NULL)
            TN_TRY(tn_jparse_expect(p, TN_JTOK_COMMA));
        TN_TRY(tn_jparse_target(p, (tn_jtuple_rules){.targets = true}, target));
        make_params(*target);
        TN_TRY(tn_jparse_expect(p, TN_JTOK_ASSIGN));
        TN_TRY(tn_jparse_expr(p, value));
        target = &(*target)->next;
        value = &(*value)->next;
    }
    return body_until(p, "endwith", &n->as.with->body);
}

/* ------------------------------------------------------------------- macros and calls */

static bool signature(tn_jparser *p, tn_jsig *s)
{
    tn_jnode **arg = &s->args, **def = &s->defaults;
    TN_TRY(tn_jparse_expect(p, TN_JTOK_LPAREN));
    while (p->cur.type != TN_JTOK_RPAREN) {
        if (s->nargs > 0)
            TN_TRY(tn_jparse_expect(p, TN_JTOK_COMMA));
        TN_TRY(tn_jparse_target_name(p, arg));
        (*arg)->store = TN_JSTORE_PARAM;
        const tn_jstr *name = (*arg)->as.name.text.as.s;
        for (const tn_jnode *o = s->args; o != *arg; o = o->next)
            if (tn_jstr_same(name, o->as.name.text.as.s->p, o->as.name.text.as.s->size))
                return tn_jparse_fail_at(p, *arg, "an argument named twice");
        if (p->cur.type == TN_JTOK_ASSIGN) {
            TN_TRY(tn_jparse_next(p));
            TN_TRY(tn_jparse_expr(p, def));
            def = &(*def)->next;
            s->ndefault++;
        } else if (s->ndefault > 0) {
            return tn_jparse_fail_at(p, *arg, "an argument without a default follows one with");
        }
        arg = &(*arg)->next;
        s->nargs++;
        if (s->nargs > 255)
            return tn_jparse_fail_at(p, s->args, "more than 255 arguments");
    }
    return tn_jparse_next(p);
}

/* The body of a function: loops around it are out of reach of break and continue. */
static bool function_body(tn_jparser *p, const char *end, tn_jnode **out)
{
    uint32_t loops = p->loops;
    p->loops = 0;
    TN_TRY(body_until(p, end, out));
    p->loops = loops;
    return true;
}

static tn_jnode *macro_node(tn_jparser *p, tn_jkind kind)
{
    tn_jnode *n = tn_jparse_node(p, kind, &p->cur);
    if (n == NULL || (n->as.macro.sig = tn_jparse_take(p, sizeof *n->as.macro.sig)) == NULL)
        return NULL;
    return tn_jparse_next(p) ? n : NULL;
}

static bool macro(tn_jparser *p, tn_jnode **out)
{
    tn_jnode *n = macro_node(p, TN_JN_MACRO);
    if (n == NULL)
        return false;
    *out = n;
    return tn_jparse_target_name(p, &n->as.macro.name) && signature(p, n->as.macro.sig)
           && function_body(p, "endmacro", &n->as.macro.sig->body);
}

static bool call_block(tn_jparser *p, tn_jnode **out)
{
    tn_jnode *n = macro_node(p, TN_JN_CALLBLOCK);
    if (n == NULL)
        return false;
    *out = n;
    if (p->cur.type == TN_JTOK_LPAREN)
        TN_TRY(signature(p, n->as.macro.sig));
    TN_TRY(tn_jparse_expr(p, &n->as.macro.call));
    if (n->as.macro.call->kind != TN_JN_CALL)
        return tn_jparse_fail_at(p, n, "this calls nothing; expected a call");
    return function_body(p, "endcall", &n->as.macro.sig->body);
}

/* {% generation %} marks what the assistant said, for training; it prints its body. */
static bool generation(tn_jparser *p, tn_jnode **out)
{
    *out = macro_node(p, TN_JN_CALLBLOCK);
    return *out != NULL && function_body(p, "endgeneration", &(*out)->as.macro.sig->body);
}

/* ------------------------------------------------------------------------------- blocks */

static bool only_blank(const tn_jnode *n)
{
    for (; n != NULL; n = n->next) {
        if (n->kind != TN_JN_DATA)
            return false;
        const char *c = n->as.value.as.s->p, *end = c + n->as.value.as.s->size;
        while (c < end)
            if (!tn_jchar_is_space(tn_jutf_next(&c)))
                return false;
    }
    return true;
}

static bool new_block_name(tn_jparser *p, tn_jnode *n)
{
    for (const tn_jblock_name *b = p->blocks; b != NULL; b = b->next)
        if (tn_jstr_same(b->text.as.s, p->cur.p, p->cur.size))
            return tn_jparse_fail_at(p, n, "a block defined twice");
    tn_jblock_name *b = tn_jparse_take(p, sizeof *b);
    if (b == NULL)
        return false;
    TN_TRY(tn_jparse_text(p, p->cur.p, p->cur.size, &b->text));
    b->next = p->blocks;
    p->blocks = b;
    n->as.block->name = b->text;
    return true;
}

static bool block(tn_jparser *p, tn_jnode **out)
{
    tn_jnode *n = tn_jparse_node(p, TN_JN_BLOCK, &p->cur);
    if (n == NULL || (n->as.block = tn_jparse_take(p, sizeof *n->as.block)) == NULL)
        return false;
    *out = n;
    p->t->has_blocks = true;
    TN_TRY(tn_jparse_next(p));
    if (p->cur.type != TN_JTOK_NAME)
        return tn_jparse_fail(p, "a name");
    TN_TRY(new_block_name(p, n));
    TN_TRY(tn_jparse_next(p));
    n->as.block->scoped = tn_jparse_at(p, "scoped");
    if (n->as.block->scoped)
        TN_TRY(tn_jparse_next(p));
    n->as.block->required = tn_jparse_at(p, "required");
    if (n->as.block->required)
        TN_TRY(tn_jparse_next(p));
    TN_TRY(function_body(p, "endblock", &n->as.block->body));
    if (n->as.block->required && !only_blank(n->as.block->body))
        return tn_jparse_fail_at(p, n, "a required block may hold nothing but blanks");
    const tn_jstr *name = n->as.block->name.as.s;
    if (p->cur.type == TN_JTOK_NAME && tn_jstr_same(name, p->cur.p, p->cur.size))
        return tn_jparse_next(p);
    return true;
}

static bool autoescape(tn_jparser *p, tn_jnode **out)
{
    *out = tn_jparse_node(p, TN_JN_AUTOESCAPE, &p->cur);
    return *out != NULL && tn_jparse_next(p) && tn_jparse_expr(p, &(*out)->as.escape.on)
           && body_until(p, "endautoescape", &(*out)->as.escape.body);
}

static bool print_statement(tn_jparser *p, tn_jnode **out)
{
    *out = tn_jparse_node(p, TN_JN_OUTPUT, &p->cur);
    if (*out == NULL)
        return false;
    tn_jnode **link = &(*out)->as.list.first;
    TN_TRY(tn_jparse_next(p));
    while (p->cur.type != TN_JTOK_BLOCK_END) {
        if ((*out)->as.list.n > 0)
            TN_TRY(tn_jparse_expect(p, TN_JTOK_COMMA));
        TN_TRY(tn_jparse_expr(p, link));
        link = &(*link)->next;
        (*out)->as.list.n++;
    }
    return true;
}

static bool leave_loop(tn_jparser *p, tn_jkind kind, tn_jnode **out)
{
    *out = tn_jparse_node(p, kind, &p->cur);
    if (*out == NULL)
        return false;
    if (p->loops == 0)
        return tn_jparse_fail_at(p, *out, "break or continue outside of a loop");
    return tn_jparse_next(p);
}

static bool break_statement(tn_jparser *p, tn_jnode **out)
{
    return leave_loop(p, TN_JN_BREAK, out);
}

static bool continue_statement(tn_jparser *p, tn_jnode **out)
{
    return leave_loop(p, TN_JN_CONTINUE, out);
}

static bool refuse_files(tn_jparser *p, tn_jnode **out)
{
    (void)out;
    tn_quoted q;
    return tn_jlex_fail(&p->lex, p->cur.line, p->cur.column,
                        "%s reads other templates; expected a template of one file",
                        tn_quote(&q, p->cur.p, p->cur.size));
}

static const struct statement {
    const char *name;
    bool (*read)(tn_jparser *p, tn_jnode **out);
} statements[] = {
    {"autoescape", autoescape}, {"block", block}, {"break", break_statement},
    {"call", call_block}, {"continue", continue_statement}, {"extends", refuse_files},
    {"filter", filter_block}, {"for", for_statement}, {"from", refuse_files},
    {"generation", generation}, {"if", if_statement}, {"import", refuse_files},
    {"include", refuse_files}, {"macro", macro}, {"print", print_statement},
    {"set", set_statement}, {"with", with_statement},
};

static bool statement(tn_jparser *p, tn_jnode **out)
{
    for (size_t i = 0; i < sizeof statements / sizeof statements[0]; i++)
        if (tn_jparse_at(p, statements[i].name)) {
            TN_TRY(tn_jparse_deeper(p));
            TN_TRY(statements[i].read(p, out));
            p->depth--;
            return true;
        }
    return tn_jparse_fail(p, "a statement");
}

/* ------------------------------------------------------------------------------ bodies */

static bool output(tn_jparser *p, tn_jnode **out)
{
    TN_TRY(tn_jparse_next(p));
    *out = tn_jparse_node(p, TN_JN_OUTPUT, &p->cur);
    if (*out == NULL)
        return false;
    TN_TRY(tn_jparse_tuple(p, (tn_jtuple_rules){.targets = false}, &(*out)->as.list.first));
    (*out)->as.list.n = 1;
    return tn_jparse_expect(p, TN_JTOK_VAR_END);
}

static bool data(tn_jparser *p, tn_jnode **out)
{
    *out = tn_jparse_node(p, TN_JN_DATA, &p->cur);
    return *out != NULL && tn_jparse_text(p, p->cur.p, p->cur.size, &(*out)->as.value)
           && tn_jparse_next(p);
}

/* Statements until one of `ends` (left as the current token), or until the end of the
 * template when there is none. */
static bool statements_until(tn_jparser *p, const endings *ends, tn_jnode **out)
{
    for (tn_jnode **link = out;; link = &(*link)->next) {
        switch (p->cur.type) {
        case TN_JTOK_DATA: TN_TRY(data(p, link)); break;
        case TN_JTOK_VAR_BEGIN: TN_TRY(output(p, link)); break;
        case TN_JTOK_BLOCK_BEGIN:
            TN_TRY(tn_jparse_next(p));
            if (ends != NULL && at_ending(p, ends))
                return true;
            TN_TRY(statement(p, link));
            TN_TRY(tn_jparse_expect(p, TN_JTOK_BLOCK_END));
            break;
        default:
            return ends == NULL || tn_jparse_fail(p, ends->name[0]);
        }
    }
}

static bool body(tn_jparser *p, endings ends, tn_jnode **out)
{
    if (p->cur.type == TN_JTOK_COLON)
        TN_TRY(tn_jparse_next(p));
    TN_TRY(tn_jparse_expect(p, TN_JTOK_BLOCK_END));
    return statements_until(p, &ends, out);
}

bool tn_jparse_template(tn_jparser *p)
{
    return tn_jparse_next(p) && statements_until(p, NULL, &p->t->body);
}

/* --------------------------------------------------------------------------- the whole */

tn_status tn_jinja_open(const char *source, size_t size, const char *what, tn_jinja **out,
                        tn_err *err)
{
    tn_jinja *t = calloc(1, sizeof *t);
    if (t == NULL)
        return tn_fail(err, TN_NO_MEMORY, "%s: no memory for a template", what);
    snprintf(t->what, sizeof t->what, "%s", what);
    tn_arena_open(&t->arena, TN_JINJA_COMPILED_MAX);
    tn_jparser p = {.t = t};
    tn_status st = tn_jlex_open(&p.lex, source, size, t->what, &t->arena, err);
    if (st != TN_OK)
        goto close_template;
    st = tn_jparse_template(&p) && tn_jscope_bind(&p) ? TN_OK : TN_DATA;
    if (st != TN_OK)
        goto close_template;
    *out = t;
    return TN_OK;
close_template:
    tn_jinja_close(t);
    return st;
}

void tn_jinja_close(tn_jinja *t)
{
    if (t == NULL)
        return;
    tn_arena_close(&t->arena);
    free(t);
}
