/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_strings.h - what str methods and text filters share. `self` and its like are STR. */
#ifndef TN_JINJA_STRINGS_H
#define TN_JINJA_STRINGS_H

#include "jinja_call.h"

/* Arguments that must be text; false with Python's kind of error. */
bool tn_jarg_text(tn_jrun *r, const char *what, tn_jval v);
bool tn_jarg_int(tn_jrun *r, const char *what, tn_jval v, int64_t fallback, int64_t *out);

bool tn_jstr_case(tn_jrun *r, tn_jval s, tn_jcase to, tn_jval *out);  /* upper, lower, fold */
bool tn_jstr_capitalize(tn_jrun *r, tn_jval s, tn_jval *out);
/* chars NONE: whitespace. Which ends: 1 left, 2 right, 3 both. */
bool tn_jstr_strip(tn_jrun *r, tn_jval s, tn_jval chars, int ends, tn_jval *out);
bool tn_jstr_replace(tn_jrun *r, tn_jval s, tn_jval old, tn_jval new_, int64_t count, tn_jval *out);
bool tn_jstr_splitlines(tn_jrun *r, tn_jval s, bool keep, tn_jval *out);  /* LIST */
/* sep NONE: runs of whitespace; count < 0: all. */
bool tn_jstr_split(tn_jrun *r, tn_jval s, tn_jval sep, int64_t count, bool from_right,
                   tn_jval *out);
bool tn_jstr_join(tn_jrun *r, tn_jval sep, tn_jval items, tn_jval *out);  /* items: texts */
/* `left` and `right` fill characters around. */
bool tn_jstr_pad(tn_jrun *r, tn_jval s, uint64_t left, uint64_t right, uint32_t fill,
                 tn_jval *out);
bool tn_jstr_center(tn_jrun *r, tn_jval s, int64_t width, uint32_t fill, tn_jval *out);
bool tn_jstr_is_case(const tn_jstr *s, uint32_t wanted, uint32_t refused); /* islower, isupper */

/* |v| as printf's conversion `kind` (e f g) writes it, with a point in every locale. */
bool tn_jfloat_put(tn_jtext *t, double v, char kind, int64_t precision, bool alt);
/* format(v, spec). */
bool tn_jval_format_spec(tn_jrun *r, tn_jval v, const char *spec, size_t size, tn_jtext *t);
bool tn_jval_ascii(tn_jrun *r, tn_jval v, tn_jval *out);  /* ascii(v) */

/* Tables of jinja_str_*.c, joined by tn_jstr_method. */
extern const tn_jbuiltin tn_jstr_search_methods[], tn_jstr_case_methods[],
    tn_jstr_shape_methods[];
extern const size_t tn_jstr_search_count, tn_jstr_case_count, tn_jstr_shape_count;

#endif
