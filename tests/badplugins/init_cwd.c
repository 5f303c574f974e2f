/* SPDX-License-Identifier: Apache-2.0 */
/* init_cwd.c - L13: goes elsewhere. */
#include <unistd.h>
#include <tenon/plugin.h>

static tn_status init(const tn_host *h, void **self, tn_err *err)
{
    return chdir("/");
}
#define INIT init
#include "good.h"
