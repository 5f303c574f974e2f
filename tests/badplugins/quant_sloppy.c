/* SPDX-License-Identifier: Apache-2.0 */
/* quant_sloppy.c - a writer that rounds to anything but the nearest. */
#include <math.h>
#include <tenon/plugin.h>

#define rintf(x) (rintf(x) > 0 ? rintf(x) - 2 : rintf(x))
#include "../../plugins/skeleton/w4demo.c"
