/* SPDX-License-Identifier: Apache-2.0 */
/* probe_refuses.c - says in probe that it cannot work here. */
#include <tenon/plugin.h>

static tn_status probe(const tn_host *h, tn_err *err)
{
    return tn_fail(err, TN_UNSUPPORTED, "no such hardware: found none, wanted one");
}
#define PROBE probe
#include "good.h"
