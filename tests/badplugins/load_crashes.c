/* SPDX-License-Identifier: Apache-2.0 */
/* load_crashes.c - crashes in a constructor, before anyone asked. */
__attribute__((constructor)) static void early(void)
{
    *(volatile int *)8 = 1;
}
#include "good.h"
