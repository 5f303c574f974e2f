/* SPDX-License-Identifier: Apache-2.0 */
/* null_stop.c - L08: no stop. */
#define STOP NULL
#include "good.h"
