/* SPDX-License-Identifier: Apache-2.0 */
/* init_abort.c - L10: init aborts. */
#include <stdlib.h>
#include <tenon/plugin.h>

static tn_status init(const tn_host *h, void **self, tn_err *err)
{
    abort();
}
#define INIT init
#include "good.h"
