/* SPDX-License-Identifier: Apache-2.0 */
/* newer_minor.c - a newer minor than the core's. */
#define ABI_MINOR 99
#include "good.h"
