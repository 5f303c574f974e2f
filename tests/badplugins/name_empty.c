/* SPDX-License-Identifier: Apache-2.0 */
/* name_empty.c - L05: no name. */
#define NAME ""
#include "good.h"
