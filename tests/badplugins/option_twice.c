/* SPDX-License-Identifier: Apache-2.0 */
/* option_twice.c - one key twice. */
#include <tenon/plugin.h>

#define KEY(k) {.size = sizeof(tn_option), .type = TN_OPT_INT, .key = k, .fallback = "1", \
                .help = "h"}
static const tn_option options[] = {KEY("a"), KEY("a")};
#define OPTIONS options
#define NOPTION 2
#include "good.h"
