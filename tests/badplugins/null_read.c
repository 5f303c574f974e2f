/* SPDX-License-Identifier: Apache-2.0 */
/* null_read.c - L08: a quantization that cannot read. */
#define READ NULL
#include "good.h"
