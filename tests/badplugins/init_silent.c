/* SPDX-License-Identifier: Apache-2.0 */
/* init_silent.c - L09: init fails and says nothing. */
#include <tenon/plugin.h>

static tn_status init(const tn_host *h, void **self, tn_err *err)
{
    return TN_UNAVAILABLE;
}
#define INIT init
#include "good.h"
