/* SPDX-License-Identifier: Apache-2.0 */
/* entry_awq.c - the awq plugin under a name of its own, for programs that link several. */
#define tn_plugin_entry awq_plugin_entry
#include "../plugins/awq/awq.c"
