/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_ast.h - a template as its parser leaves it: a tree, read-only once bound.
 *
 * jinja_parse*.c build the tree, jinja_scope.c binds each name to a slot, jinja_exec.c and
 * jinja_eval.c walk it. Chains of operators of one precedence are one node with many children,
 * so that the depth of the tree follows the nesting of the source, not its length.
 *
 * Variables follow jinja2's compiler, which turns a template into Python functions: each
 * macro, block and recursive loop is a function with slots of its own (one environment a
 * call), loops and `with` are scopes inside one. A name belongs to the innermost scope that
 * assigns it; entering a scope loads its names (see tn_jload). */
#ifndef TN_JINJA_AST_H
#define TN_JINJA_AST_H

#include "jinja_value.h"

typedef enum tn_jkind {
    /* expressions */
    TN_JN_CONST, TN_JN_NAME, TN_JN_NSREF, TN_JN_TUPLE, TN_JN_LIST, TN_JN_DICT,
    TN_JN_COND, TN_JN_OR, TN_JN_AND, TN_JN_NOT, TN_JN_COMPARE, TN_JN_BINARY, TN_JN_CONCAT,
    TN_JN_NEG, TN_JN_POS, TN_JN_GETATTR, TN_JN_GETITEM, TN_JN_SLICE,
    TN_JN_CALL, TN_JN_FILTER, TN_JN_TEST,
    /* statements */
    TN_JN_DATA, TN_JN_OUTPUT, TN_JN_FOR, TN_JN_IF, TN_JN_BRANCH, TN_JN_MACRO, TN_JN_CALLBLOCK,
    TN_JN_FILTERBLOCK, TN_JN_SETBLOCK, TN_JN_SET, TN_JN_WITH, TN_JN_BLOCK, TN_JN_AUTOESCAPE,
    TN_JN_BREAK, TN_JN_CONTINUE
} tn_jkind;

/* How an operand is joined to the one on its left. */
typedef enum tn_jop {
    TN_JOP_NONE,
    TN_JOP_ADD, TN_JOP_SUB, TN_JOP_MUL, TN_JOP_DIV, TN_JOP_FLOORDIV, TN_JOP_MOD, TN_JOP_POW,
    TN_JOP_EQ, TN_JOP_NE, TN_JOP_LT, TN_JOP_LE, TN_JOP_GT, TN_JOP_GE, TN_JOP_IN, TN_JOP_NOTIN
} tn_jop;

typedef enum tn_jload_kind {
    TN_JLOAD_PARAM,    /* set by a call or a loop */
    TN_JLOAD_RESOLVE,  /* looked up by name among the variables */
    TN_JLOAD_ALIAS,    /* begins as the outer variable of that name */
    TN_JLOAD_UNSET
} tn_jload_kind;

/* One name of a scope. */
typedef struct tn_jload {
    uint32_t slot;
    uint32_t up, from;    /* ALIAS: the outer slot, `up` functions out */
    uint8_t kind;
    uint8_t stored;       /* the scope assigns it */
    tn_jval name;
} tn_jload;

typedef struct tn_jscope {
    const tn_jload *load;
    uint32_t n;
} tn_jscope;

typedef struct tn_jfunc {
    uint32_t nslot;
    bool captured;        /* holds functions that may outlive a call */
} tn_jfunc;

/* What a macro and a call block have in common. */
typedef struct tn_jsig {
    tn_jnode *args;       /* NAMEs by `next` */
    tn_jnode *defaults;   /* of the last ndefault of them */
    uint32_t nargs, ndefault;
    uint32_t caller, kwargs, varargs;  /* slots, TN_NONE: not used by the body */
    const uint32_t *arg_slot;
    bool names_caller;    /* `caller` is one of the arguments */
    tn_jnode *body;
    tn_jscope scope;
    tn_jfunc func;
} tn_jsig;

/* A value with the name it is passed under. */
typedef struct tn_jkeyword {
    tn_jval name;
    tn_jnode *value;
    struct tn_jkeyword *next;
} tn_jkeyword;

typedef struct tn_jcallargs {
    tn_jnode *args;       /* by `next` */
    tn_jkeyword *kwargs;
    tn_jnode *star, *star2;  /* *list and **dict, or NULL */
    uint32_t nargs, nkwargs;
} tn_jcallargs;

#define TN_JSTORE_NONE 0u   /* read */
#define TN_JSTORE_SET 1u    /* a target of set or for */
#define TN_JSTORE_PARAM 2u  /* a macro's argument, a target of with */

struct tn_jnode {
    uint8_t kind;         /* tn_jkind */
    uint8_t join;         /* tn_jop: operator between this and the sibling before it */
    uint8_t store;        /* NAME, TUPLE, NSREF: TN_JSTORE_ */
    uint8_t toplevel;     /* SET, SETBLOCK, MACRO: also exports its names */
    uint16_t height;      /* of an expression */
    uint32_t line, column;
    tn_jnode *next;       /* sibling */
    union {
        tn_jval value;                                    /* CONST, DATA */
        struct { tn_jval text; uint32_t id, up, slot; } name; /* NAME */
        struct { tn_jval attr; tn_jnode *base; } ns;      /* NSREF: base is a NAME */
        struct { tn_jnode *first; uint32_t n; } list;     /* TUPLE to DICT (key, value, ...),
                                                             OR, AND, COMPARE, BINARY, CONCAT,
                                                             OUTPUT; IF: BRANCHes */
        struct { tn_jnode *test, *yes, *no; } cond;       /* COND: no may be NULL */
        tn_jnode *one;                                    /* NOT, NEG, POS */
        struct { tn_jnode *obj; tn_jval name; } attr;     /* GETATTR */
        struct { tn_jnode *obj, *arg; } item;             /* GETITEM */
        struct { tn_jnode *start, *stop, *step; } slice;  /* SLICE: any may be NULL */
        struct {
            tn_jnode *on;      /* callee, filtered or tested value; NULL: a filter block's */
            const tn_jbuiltin *fn;   /* FILTER, TEST */
            tn_jcallargs *args;
        } call;
        struct {
            tn_jnode *target, *iter, *test, *body, *orelse;
            tn_jnode *test_target;    /* the target again, as the test's function knows it */
            tn_jscope scope, else_scope, test_scope;
            tn_jfunc func, test_func; /* of a recursive loop; of the test */
            uint32_t loop;            /* slot of `loop`, TN_NONE: not used */
            bool recursive;
        } *loop;                                          /* FOR */
        struct { tn_jnode *test, *body; } branch;         /* BRANCH; test NULL: else */
        struct {
            tn_jnode *name;           /* MACRO: where it is stored; else NULL */
            tn_jnode *call;           /* CALLBLOCK: NULL for {% generation %} */
            tn_jsig *sig;
        } macro;
        struct { tn_jnode *target, *value; } set;         /* SET */
        struct {
            tn_jnode *target;         /* SETBLOCK */
            tn_jnode *filter;         /* innermost FILTER has on == NULL; may be NULL */
            tn_jnode *body;
            tn_jscope scope;
        } *capture;                                       /* FILTERBLOCK, SETBLOCK */
        struct { tn_jnode *targets, *values, *body; tn_jscope scope; } *with; /* WITH */
        struct {
            tn_jval name;
            tn_jnode *body;
            tn_jscope scope;
            tn_jfunc func;
            bool scoped, required;
            const tn_jload *seen;     /* scoped: what it sees of its surroundings */
            uint32_t nseen;
        } *block;                                         /* BLOCK */
        struct { tn_jnode *on, *body; tn_jscope scope; } escape; /* AUTOESCAPE */
    } as;
};

struct tn_jinja {
    char what[256];       /* names the template in errors */
    tn_arena arena;       /* everything below */
    tn_jnode *body;
    tn_jscope scope;
    tn_jfunc func;
    bool has_blocks;      /* exports are worth keeping */
};

#endif
