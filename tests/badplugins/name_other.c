/* SPDX-License-Identifier: Apache-2.0 */
/* name_other.c - L05: another name than its section's. */
#define NAME "good"
#include "good.h"
