/* SPDX-License-Identifier: Apache-2.0 */
/* version_null.c - no version. */
#define VERSION NULL
#include "good.h"
