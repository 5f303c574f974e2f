/* SPDX-License-Identifier: Apache-2.0 */
/* no_entry.c - L02: exports nothing the core looks for. */
#define NO_ENTRY
#include "good.h"

TN_EXPORT int something_else(void)
{
    return good_table.size;
}
