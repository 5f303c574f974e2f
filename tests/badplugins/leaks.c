/* SPDX-License-Identifier: Apache-2.0 */
/* leaks.c - L14: keeps what it took. */
#include <tenon/plugin.h>

static tn_status init(const tn_host *h, void **self, tn_err *err)
{
    h->alloc(h->ctx, 1000);
    h->alloc(h->ctx, 24);
    return TN_OK;
}
#define INIT init
#include "good.h"
