/* SPDX-License-Identifier: Apache-2.0 */
/* dies.c - L10: crashes IN a call of its life other than init, or while it is unloaded. */
#include <tenon/plugin.h>

static void die(void)
{
    *(volatile int *)8 = 1;
}

static tn_status on_probe(const tn_host *h, tn_err *err)
{
    die();
    return TN_OK;
}

static tn_status on_start(void *self, tn_err *err)
{
    die();
    return TN_OK;
}

static void on_stop(void *self)
{
    die();
}

#if IN == 1
#define PROBE on_probe
#elif IN == 2
#define START on_start
#elif IN == 3
#define STOP on_stop
#else
__attribute__((destructor)) static void on_unload(void)
{
    die();
}
#endif
#include "good.h"
