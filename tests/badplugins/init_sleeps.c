/* SPDX-License-Identifier: Apache-2.0 */
/* init_sleeps.c - L10: init sleeps for a minute. */
#include <unistd.h>
#include <tenon/plugin.h>

static tn_status init(const tn_host *h, void **self, tn_err *err)
{
    sleep(60);
    return TN_OK;
}
#define INIT init
#include "good.h"
