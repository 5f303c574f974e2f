/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_globals.h - the functions a template finds without being given them. */
#ifndef TN_JINJA_GLOBALS_H
#define TN_JINJA_GLOBALS_H

#include "jinja_value.h"

bool tn_jglobals_set(tn_jrun *r);    /* range, namespace, dict, ... into r->vars */
/* datetime.strftime of the render's clock, local time. */
bool tn_jtime_format(tn_jrun *r, tn_jval format, tn_jval *out);

#endif
