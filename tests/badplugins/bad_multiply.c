/* SPDX-License-Identifier: Apache-2.0 */
/* bad_multiply.c - a multiply without a function. */
#include <tenon/plugin.h>

static const tn_multiply multiplies[] = {{.size = sizeof(tn_multiply), .device = "cpu"}};
#define MULTIPLY multiplies
#define NMULTIPLY 1
#include "good.h"
