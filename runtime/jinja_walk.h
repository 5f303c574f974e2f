/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_walk.h - looks at every node of a tree, in jinja2's order.
 *
 * Parents come before children, children in the order of jinja2's fields. The name a macro is
 * stored under and the object of ns.attr are no nodes in jinja2 and are not shown. */
#ifndef TN_JINJA_WALK_H
#define TN_JINJA_WALK_H

#include "jinja_ast.h"

typedef enum tn_jwalk { TN_JWALK_ON, TN_JWALK_SKIP, TN_JWALK_STOP } tn_jwalk;
typedef tn_jwalk (*tn_jwalk_see)(const tn_jnode *n, void *ctx);

/* The list that begins at n; true when `see` stopped it. */
bool tn_jwalk_list(const tn_jnode *n, tn_jwalk_see see, void *ctx);

#endif
