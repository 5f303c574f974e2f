/* SPDX-License-Identifier: Apache-2.0 */
/* kind_unknown.c - L04: a kind that does not exist. */
#define KIND 77
#include "good.h"
