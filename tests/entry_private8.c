/* SPDX-License-Identifier: Apache-2.0 */
/* entry_private8.c - the private8 plugin under a name of its own, for programs that link several. */
#define tn_plugin_entry private8_plugin_entry
#include "../plugins/skeleton/private8.c"
