/* SPDX-License-Identifier: Apache-2.0 */
/* null_init.c - L08: no init. */
#define INIT NULL
#include "good.h"
