/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_parse.h - from tokens to the tree of jinja_ast.h.
 *
 * jinja_parse_token.c steps from token to token, jinja_parse_expr.c reads expressions,
 * jinja_parse.c statements; both refuse what is nested deeper than TN_JINJA_DEPTH_MAX. */
#ifndef TN_JINJA_PARSE_H
#define TN_JINJA_PARSE_H

#include "jinja_ast.h"
#include "jinja_lex.h"

#define TN_JEXPR_HEIGHT_MAX 400u  /* a.b.c.d and a|b|c grow a tree too */

typedef struct tn_jblock_name {
    tn_jval text;
    struct tn_jblock_name *next;
} tn_jblock_name;

typedef struct tn_jparser {
    tn_jinja *t;
    tn_jlex lex;
    tn_jtoken cur, ahead;
    bool has_ahead;
    uint32_t depth;       /* constructs open now */
    uint32_t loops;       /* loops around, within the function */
    tn_jblock_name *blocks;
} tn_jparser;

/* Tokens. */
bool tn_jparse_next(tn_jparser *p);                      /* the current one is done */
bool tn_jparse_look(tn_jparser *p, tn_jtoken *out);      /* the one behind the current */
bool tn_jtok_is(const tn_jtoken *t, const char *name);    /* a name, and this one */
bool tn_jparse_at(const tn_jparser *p, const char *name); /* the current one is this name */
bool tn_jparse_expect(tn_jparser *p, tn_jtok type);      /* and steps over it */
bool tn_jparse_expect_name(tn_jparser *p, const char *name);
bool tn_jparse_fail(tn_jparser *p, const char *expected); /* unexpected current token */
bool tn_jparse_fail_at(tn_jparser *p, const tn_jnode *n, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void *tn_jparse_take(tn_jparser *p, size_t size);
tn_jnode *tn_jparse_node(tn_jparser *p, tn_jkind kind, const tn_jtoken *from);
bool tn_jparse_text(tn_jparser *p, const char *text, size_t size, tn_jval *out);
bool tn_jparse_deeper(tn_jparser *p);                    /* pair with p->depth-- */

/* Expressions. */
typedef struct tn_jtuple_rules {
    bool targets;         /* only names and literals */
    bool no_cond;         /* no `x if y` */
    bool parens;          /* () is a tuple */
    bool ns;              /* a.b is a namespace's attribute */
} tn_jtuple_rules;

bool tn_jparse_expr(tn_jparser *p, tn_jnode **out);
bool tn_jparse_tuple(tn_jparser *p, tn_jtuple_rules rules, tn_jnode **out);
bool tn_jparse_target(tn_jparser *p, tn_jtuple_rules rules, tn_jnode **out);
bool tn_jparse_target_name(tn_jparser *p, tn_jnode **out);
/* |name(...)|..., the first one without its bar when `started`; on may be NULL. */
bool tn_jparse_filters(tn_jparser *p, tn_jnode *on, bool started, tn_jnode **out);

/* The whole template into p->t. */
bool tn_jparse_template(tn_jparser *p);
/* jinja_scope.c: gives every name of the tree its slot. */
bool tn_jscope_bind(tn_jparser *p);

#endif
