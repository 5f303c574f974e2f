/* SPDX-License-Identifier: Apache-2.0 */
/* quant_wide.c - a reader that writes one byte too many. */
#include <string.h>
#include <tenon/plugin.h>

#define memcpy(d, s, n) \
    ((void)memmove(d, s, n), (n) == sizeof(tn_sink) ? NULL : memset((char *)(d) + (n), 0, 1))
#include "../../plugins/skeleton/w4demo.c"
