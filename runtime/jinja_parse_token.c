/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_parse_token.c - the parser's place among the tokens: what stands there, steps, refusals,
 * and memory for what is made of them. */
#include "jinja_parse.h"

#include "quote.h"

#include <stdio.h>
#include <string.h>

bool tn_jparse_next(tn_jparser *p)
{
    if (p->has_ahead) {
        p->cur = p->ahead;
        p->has_ahead = false;
        return true;
    }
    return tn_jlex_next(&p->lex, &p->cur);
}

bool tn_jparse_look(tn_jparser *p, tn_jtoken *out)
{
    if (!p->has_ahead)
        TN_TRY(tn_jlex_next(&p->lex, &p->ahead));
    p->has_ahead = true;
    *out = p->ahead;
    return true;
}

bool tn_jtok_is(const tn_jtoken *t, const char *name)
{
    return t->type == TN_JTOK_NAME && t->size == strlen(name)
           && memcmp(t->p, name, t->size) == 0;
}

bool tn_jparse_at(const tn_jparser *p, const char *name)
{
    return tn_jtok_is(&p->cur, name);
}

bool tn_jparse_fail(tn_jparser *p, const char *expected)
{
    tn_quoted q;
    const tn_jtoken *t = &p->cur;
    bool written = t->type == TN_JTOK_NAME || t->type == TN_JTOK_INT || t->type == TN_JTOK_FLOAT
                   || t->type == TN_JTOK_STRING;
    const char *found = written ? tn_quote(&q, t->p, t->size) : tn_jtok_name(t->type);
    return tn_jlex_fail(&p->lex, t->line, t->column, "unexpected %s; expected %s", found,
                        expected);
}

bool tn_jparse_fail_at(tn_jparser *p, const tn_jnode *n, const char *fmt, ...)
{
    char text[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return tn_jlex_fail(&p->lex, n->line, n->column, "%s", text);
}

bool tn_jparse_expect(tn_jparser *p, tn_jtok type)
{
    if (p->cur.type != type)
        return tn_jparse_fail(p, tn_jtok_name(type));
    return tn_jparse_next(p);
}

bool tn_jparse_expect_name(tn_jparser *p, const char *name)
{
    return tn_jparse_at(p, name) ? tn_jparse_next(p) : tn_jparse_fail(p, name);
}

void *tn_jparse_take(tn_jparser *p, size_t size)
{
    void *mem = tn_arena_take(&p->t->arena, size);
    if (mem == NULL)
        tn_jlex_fail(&p->lex, p->cur.line, p->cur.column,
                     "the template needs more than %zu MiB of memory",
                     TN_JINJA_COMPILED_MAX >> 20);
    return mem;
}

tn_jnode *tn_jparse_node(tn_jparser *p, tn_jkind kind, const tn_jtoken *from)
{
    tn_jnode *n = tn_jparse_take(p, sizeof *n);
    if (n == NULL)
        return NULL;
    n->kind = (uint8_t)kind;
    n->height = 1;
    n->line = from->line;
    n->column = from->column;
    return n;
}

bool tn_jparse_text(tn_jparser *p, const char *text, size_t size, tn_jval *out)
{
    tn_jstr *s = tn_jparse_take(p, sizeof *s);
    if (s == NULL)
        return false;
    *s = (tn_jstr){.p = text, .size = (uint32_t)size,
                   .chars = (uint32_t)tn_jutf_chars(text, size)};
    *out = (tn_jval){.type = TN_J_STR, .as.s = s};
    return true;
}

bool tn_jparse_deeper(tn_jparser *p)
{
    if (p->depth >= TN_JINJA_DEPTH_MAX)
        return tn_jlex_fail(&p->lex, p->cur.line, p->cur.column,
                            "nested deeper than %u; expected at most that",
                            TN_JINJA_DEPTH_MAX);
    p->depth++;
    return true;
}
