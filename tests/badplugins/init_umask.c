/* SPDX-License-Identifier: Apache-2.0 */
/* init_umask.c - L13: changes the umask. */
#include <sys/stat.h>
#include <tenon/plugin.h>

static tn_status init(const tn_host *h, void **self, tn_err *err)
{
    umask(0);
    return TN_OK;
}
#define INIT init
#include "good.h"
