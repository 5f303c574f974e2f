/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_methods.h - methods and fields of what is not text. */
#ifndef TN_JINJA_METHODS_H
#define TN_JINJA_METHODS_H

#include "jinja_call.h"

/* The method a dictionary, list, number ... has under this name, or NULL. */
const tn_jbuiltin *tn_jmethod_find(tn_jval obj, const char *name, size_t size);
/* Values that are no functions: (1).real, range(3).stop. MISSING: there is none. */
bool tn_jval_field(tn_jrun *r, tn_jval obj, tn_jval name, tn_jval *out);
/* jinja_macro.c */
bool tn_jmacro_attr(tn_jrun *r, const tn_jmacro *m, tn_jval name, tn_jval *out);
/* dict(...), as Python's: a mapping or pairs, then names. */
bool tn_jdict_make(tn_jrun *r, const tn_jargs *args, tn_jdict **out);

#endif
