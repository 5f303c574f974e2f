/* SPDX-License-Identifier: Apache-2.0 */
/* init_exit.c - L10: init ends the process and calls it success. */
#include <stdlib.h>
#include <tenon/plugin.h>

static tn_status init(const tn_host *h, void **self, tn_err *err)
{
    exit(0);
}
#define INIT init
#include "good.h"
