/* SPDX-License-Identifier: Apache-2.0 */
/* size_lies.c - the descriptor says more bytes than the symbol has. */
#define SIZE 100000
#include "good.h"
