/* SPDX-License-Identifier: Apache-2.0 */
/* init_rounding.c - L13: rounds upward. */
#include <fenv.h>
#include <tenon/plugin.h>

static tn_status init(const tn_host *h, void **self, tn_err *err)
{
    fesetround(FE_UPWARD);
    return TN_OK;
}
#define INIT init
#include "good.h"
