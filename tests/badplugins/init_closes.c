/* SPDX-License-Identifier: Apache-2.0 */
/* init_closes.c - L13: closes what it did not open. */
#include <unistd.h>
#include <tenon/plugin.h>

static tn_status init(const tn_host *h, void **self, tn_err *err)
{
    close(0);
    return TN_OK;
}
#define INIT init
#include "good.h"
