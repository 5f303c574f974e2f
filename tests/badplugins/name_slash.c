/* SPDX-License-Identifier: Apache-2.0 */
/* name_slash.c - L05: a name that is a path. */
#define NAME "../bad"
#include "good.h"
