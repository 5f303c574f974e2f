/* SPDX-License-Identifier: Apache-2.0 */
/* load_exits.c - ends the process in a constructor. */
#include <stdlib.h>

__attribute__((constructor)) static void early(void)
{
    exit(0);
}
#include "good.h"
