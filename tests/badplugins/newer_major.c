/* SPDX-License-Identifier: Apache-2.0 */
/* newer_major.c - another major version of the contract. */
#define ABI_MAJOR 2
#include "good.h"
