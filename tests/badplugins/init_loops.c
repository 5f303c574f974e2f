/* SPDX-License-Identifier: Apache-2.0 */
/* init_loops.c - L10: init never ends. */
#include <tenon/plugin.h>

static tn_status init(const tn_host *h, void **self, tn_err *err)
{
    for (volatile int i = 0;; i++)
        ;
}
#define INIT init
#include "good.h"
