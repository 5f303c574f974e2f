/* SPDX-License-Identifier: Apache-2.0 */
/* init_overflow.c - L10: init runs out of stack. */
#include <tenon/plugin.h>

static int deeper(volatile char *up)
{
    volatile char here[4096];
    here[0] = up[0];
    return deeper(here) + here[0];
}

static tn_status init(const tn_host *h, void **self, tn_err *err)
{
    volatile char c[1] = {0};
    return deeper(c);
}
#define INIT init
#include "good.h"
