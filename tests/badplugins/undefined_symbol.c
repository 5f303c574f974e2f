/* SPDX-License-Identifier: Apache-2.0 */
/* undefined_symbol.c - needs a symbol that nobody has. */
#include <tenon/plugin.h>

int tn_secret_of_the_core(void);
static tn_status init(const tn_host *h, void **self, tn_err *err)
{
    return tn_secret_of_the_core();
}
#define INIT init
#include "good.h"
