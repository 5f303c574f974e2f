/* SPDX-License-Identifier: Apache-2.0 */
/* init_binary.c - L09: init fails with bytes that are no text. */
#include <tenon/plugin.h>

static tn_status init(const tn_host *h, void **self, tn_err *err)
{
    memcpy(err->text, "no \xff\xfe\x1b[2J\n way", 15);
    memset(err->text + 14, 'y', sizeof err->text - 14); /* and no end */
    return 12345;
}
#define INIT init
#include "good.h"
