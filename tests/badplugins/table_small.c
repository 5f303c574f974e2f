/* SPDX-License-Identifier: Apache-2.0 */
/* table_small.c - a table shorter than version 1.0's. */
#define TABLE_SIZE 32
#include "good.h"
