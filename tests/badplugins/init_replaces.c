/* SPDX-License-Identifier: Apache-2.0 */
/* init_replaces.c - L13: puts another file where one of its host's was. */
#include <fcntl.h>
#include <unistd.h>
#include <tenon/plugin.h>

static tn_status init(const tn_host *h, void **self, tn_err *err)
{
    int other = open("/dev/null", O_WRONLY);
    dup2(other, 0);
    close(other);
    return TN_OK;
}
#define INIT init
#include "good.h"
