/* SPDX-License-Identifier: Apache-2.0 */
/* same_global.c - L18: shares a global's name with another plugin. */
#include <tenon/plugin.h>

__attribute__((visibility("default"))) int shared_name;

static tn_status init(const tn_host *h, void **self, tn_err *err)
{
    if (shared_name != 0)
        return tn_fail(err, TN_INTERNAL, "another plugin wrote into this one");
    shared_name = 1;
    return TN_OK;
}
#define INIT init
#include "good.h"
