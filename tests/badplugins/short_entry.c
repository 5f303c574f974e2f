/* SPDX-License-Identifier: Apache-2.0 */
/* short_entry.c - the symbol is smaller than any descriptor. */
#include <stdint.h>

__attribute__((visibility("default"))) const uint32_t tn_plugin_entry[4] = {1, 0, 16, 1};
