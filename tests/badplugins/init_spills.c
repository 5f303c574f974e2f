/* SPDX-License-Identifier: Apache-2.0 */
/* init_spills.c - L09: init fails with a message of 64 KiB. */
#include <tenon/plugin.h>

static tn_status init(const tn_host *h, void **self, tn_err *err)
{
    volatile char *to = err->text; /* deliberately past the end */
    for (int i = 0; i < 65536; i++)
        to[i] = 'x';
    return TN_UNAVAILABLE;
}
#define INIT init
#include "good.h"
