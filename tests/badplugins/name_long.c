/* SPDX-License-Identifier: Apache-2.0 */
/* name_long.c - L05: a name of a kilobyte. */
#define T16 "aaaaaaaaaaaaaaaa"
#define T256 T16 T16 T16 T16 T16 T16 T16 T16 T16 T16 T16 T16 T16 T16 T16 T16
#define NAME T256 T256 T256 T256
#include "good.h"
