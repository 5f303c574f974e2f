/* SPDX-License-Identifier: Apache-2.0 */
/* option_fallback.c - a fallback outside its own range. */
#include <tenon/plugin.h>

static const tn_option options[] = {{.size = sizeof(tn_option), .type = TN_OPT_INT,
                                     .key = "port", .fallback = "0", .least = 1,
                                     .greatest = 9, .help = "h"}};
#define OPTIONS options
#define NOPTION 1
#include "good.h"
