/* SPDX-License-Identifier: Apache-2.0 */
/* entry_gptq.c - the gptq plugin under a name of its own, for programs that link several. */
#define tn_plugin_entry gptq_plugin_entry
#include "../plugins/gptq/gptq.c"
