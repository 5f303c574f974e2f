/* SPDX-License-Identifier: Apache-2.0 */
/* entry_w4demo.c - the w4demo plugin under a name of its own, for programs that link several. */
#define tn_plugin_entry w4demo_plugin_entry
#include "../plugins/skeleton/w4demo.c"
