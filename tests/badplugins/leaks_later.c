/* SPDX-License-Identifier: Apache-2.0 */
/* leaks_later.c - L14: keeps 1 KiB of every call. */
#include <tenon/plugin.h>

static tn_status read_it(void *self, const tn_view *v, const tn_module *m, const tn_rect *r,
                         uint64_t row0, uint64_t row1, tn_block *out, tn_err *err)
{
    const tn_host *h = self;
    return h->alloc(h->ctx, 1024) != NULL ? TN_OK : TN_NO_MEMORY;
}
#define READ read_it
#include "good.h"
