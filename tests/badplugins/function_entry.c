/* SPDX-License-Identifier: Apache-2.0 */
/* function_entry.c - L02: the entry is a function. */
#include <stdint.h>

__attribute__((visibility("default"))) int tn_plugin_entry(void)
{
    return 0;
}
