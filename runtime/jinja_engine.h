/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_engine.h - a Jinja2 interpreter, as transformers sets Jinja2 up for chat templates.
 *
 * The environment is the immutable sandbox with trim_blocks, lstrip_blocks, break, continue
 * and {% generation %}. A template is compiled once and then rendered from any thread; a
 * render has one arena, a number of steps and a size of output it may not pass.
 *
 * Differences to jinja2, all meant: filters, tests and functions that do not exist are refused
 * when the template is loaded, wherever they stand; integers have 64 bits; include, import
 * and extends are refused; self, cycler, lipsum and the filters attr, random and urlize do
 * not exist; "\N{name}" is no escape; striptags knows the common entities only; objects whose
 * text in Python is an address print without it; a slice of a constant that has none is an
 * error also where jinja2 folds it into an undefined. */
#ifndef TN_JINJA_ENGINE_H
#define TN_JINJA_ENGINE_H

#include "jinja_value.h"

struct tn_buf;

/* Compiles. `what` names the template in messages and is copied. Failures are TN_DATA,
 * "WHAT:LINE:COLUMN: sentence". */
tn_status tn_jinja_open(const char *source, size_t size, const char *what, tn_jinja **out,
                        tn_err *err);
void tn_jinja_close(tn_jinja *t);

/* One render: open, set variables, print, close. The run may not move in between. */
bool tn_jrun_open(tn_jrun *r, const tn_jinja *t, int64_t now, tn_err *err);
void tn_jrun_close(tn_jrun *r);
bool tn_jrun_set(tn_jrun *r, const char *name, tn_jval value);   /* name is a literal */
/* What is printed stays in the run: *out is a STR. */
bool tn_jrun_render(tn_jrun *r, tn_jval *out);

/* A JSON tree as values; strings and keys are borrowed from it. */
bool tn_jval_of_json(tn_jrun *r, const tn_json *json, tn_jval *out);

#endif
