/* SPDX-License-Identifier: Apache-2.0 */
/* name_reserved.c - L05: a word that settings need. */
#define NAME "auto"
#include "good.h"
