/* SPDX-License-Identifier: Apache-2.0 */
/* option_reserved.c - a key that is the host's own. */
#include <tenon/plugin.h>

static const tn_option options[] = {{.size = sizeof(tn_option), .type = TN_OPT_PATH,
                                     .key = "file", .fallback = "", .help = "h"}};
#define OPTIONS options
#define NOPTION 1
#include "good.h"
