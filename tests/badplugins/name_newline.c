/* SPDX-License-Identifier: Apache-2.0 */
/* name_newline.c - L05: a name that would forge a log line. */
#define NAME "bad\nerror core: all is lost"
#include "good.h"
