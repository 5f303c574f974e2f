/* SPDX-License-Identifier: Apache-2.0 */
/* init_segfault.c - L10: init crashes. */
#include <tenon/plugin.h>

static tn_status init(const tn_host *h, void **self, tn_err *err)
{
    *(volatile int *)8 = 1;
    return TN_OK;
}
#define INIT init
#include "good.h"
