/* SPDX-License-Identifier: Apache-2.0 */
/* fast_math.c - L13: built so that loading it flushes tiny numbers to zero. */
#include "good.h"
