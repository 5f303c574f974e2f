/* SPDX-License-Identifier: Apache-2.0 */
/* init_mask.c - L13: blocks a signal. */
#include <signal.h>
#include <tenon/plugin.h>

static tn_status init(const tn_host *h, void **self, tn_err *err)
{
    sigset_t s;
    sigemptyset(&s);
    sigaddset(&s, SIGTERM);
    sigprocmask(SIG_BLOCK, &s, NULL);
    return TN_OK;
}
#define INIT init
#include "good.h"
