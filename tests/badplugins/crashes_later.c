/* SPDX-License-Identifier: Apache-2.0 */
/* crashes_later.c - L12: aborts in a call of its table, after all went well. */
#include <stdlib.h>
#include <tenon/plugin.h>

static tn_status read_it(void *self, const tn_view *v, const tn_module *m, const tn_rect *r,
                         uint64_t row0, uint64_t row1, tn_block *out, tn_err *err)
{
    if (row0 == 0)
        abort();
    *(volatile int *)8 = 1;
    return TN_OK;
}
#define READ read_it
#include "good.h"
