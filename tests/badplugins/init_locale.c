/* SPDX-License-Identifier: Apache-2.0 */
/* init_locale.c - L13: changes the locale. */
#include <locale.h>
#include <tenon/plugin.h>

static tn_status init(const tn_host *h, void **self, tn_err *err)
{
    if (setlocale(LC_NUMERIC, "C.UTF-8") == NULL)
        setlocale(LC_ALL, "POSIX");
    return TN_OK;
}
#define INIT init
#include "good.h"
