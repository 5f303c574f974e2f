/* SPDX-License-Identifier: Apache-2.0 */
/* size_small.c - the descriptor says fewer bytes than version 1.0. */
#define SIZE 24
#include "good.h"
