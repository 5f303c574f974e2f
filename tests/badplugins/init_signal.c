/* SPDX-License-Identifier: Apache-2.0 */
/* init_signal.c - L13: takes a signal. */
#include <signal.h>
#include <tenon/plugin.h>

static void mine(int number)
{
}

static tn_status init(const tn_host *h, void **self, tn_err *err)
{
    signal(SIGTERM, mine);
    return TN_OK;
}
#define INIT init
#include "good.h"
