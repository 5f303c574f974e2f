/* SPDX-License-Identifier: Apache-2.0 */
/* name_null.c - L05: no name at all. */
#define NAME NULL
#include "good.h"
