/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_lex.h - cuts a template's source into tokens, one at a time.
 *
 * Whitespace control happens here, as transformers sets it up: a block or comment swallows the
 * newline behind it and the blanks before it on its line, unless a '+' says otherwise; a '-'
 * swallows all whitespace on its side. */
#ifndef TN_JINJA_LEX_H
#define TN_JINJA_LEX_H

#include "jinja_value.h"

#define TN_JLEX_OPEN_MAX 256u   /* brackets open at once */

typedef enum tn_jtok {
    TN_JTOK_EOF,
    TN_JTOK_DATA,
    TN_JTOK_VAR_BEGIN, TN_JTOK_VAR_END,
    TN_JTOK_BLOCK_BEGIN, TN_JTOK_BLOCK_END,
    TN_JTOK_NAME, TN_JTOK_STRING, TN_JTOK_INT, TN_JTOK_FLOAT,
    TN_JTOK_ADD, TN_JTOK_SUB, TN_JTOK_MUL, TN_JTOK_DIV, TN_JTOK_FLOORDIV, TN_JTOK_MOD,
    TN_JTOK_POW, TN_JTOK_TILDE,
    TN_JTOK_LBRACKET, TN_JTOK_RBRACKET, TN_JTOK_LPAREN, TN_JTOK_RPAREN,
    TN_JTOK_LBRACE, TN_JTOK_RBRACE,
    TN_JTOK_EQ, TN_JTOK_NE, TN_JTOK_GT, TN_JTOK_GE, TN_JTOK_LT, TN_JTOK_LE,
    TN_JTOK_ASSIGN, TN_JTOK_DOT, TN_JTOK_COLON, TN_JTOK_PIPE, TN_JTOK_COMMA,
    TN_JTOK_SEMICOLON
} tn_jtok;

typedef struct tn_jtoken {
    tn_jtok type;
    uint32_t line, column;
    const char *p;        /* NAME, STRING, DATA: the text; else as written */
    uint32_t size;
    int64_t i;
    double f;
} tn_jtoken;

typedef struct tn_jlex {
    const char *what;     /* names the template in errors; borrowed */
    tn_arena *arena;      /* decoded strings live here; borrowed */
    tn_err *err;
    const char *src;      /* newlines are \n, a last one is gone; in the arena */
    size_t size, pos;
    uint8_t state;        /* between tags, in a block, in a variable */
    bool line_starting;   /* what was read last ended with a newline */
    size_t seen;          /* line and column are those of this byte */
    uint32_t line, column;
    uint32_t nopen;
    char open[TN_JLEX_OPEN_MAX];
} tn_jlex;

/* `source` is checked for UTF-8 and copied into the arena. TN_DATA with line:column. */
tn_status tn_jlex_open(tn_jlex *x, const char *source, size_t size, const char *what,
                       tn_arena *arena, tn_err *err);
bool tn_jlex_next(tn_jlex *x, tn_jtoken *out);   /* false: err says why */
const char *tn_jtok_name(tn_jtok type);          /* for messages */
/* Writes "WHAT:LINE:COLUMN: sentence" as TN_DATA; always returns false. */
bool tn_jlex_fail(const tn_jlex *x, uint32_t line, uint32_t column, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

#endif
