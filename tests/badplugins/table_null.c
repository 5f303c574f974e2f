/* SPDX-License-Identifier: Apache-2.0 */
/* table_null.c - no table of its kind. */
#define TABLE NULL
#include "good.h"
