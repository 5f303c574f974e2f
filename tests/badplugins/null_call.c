/* SPDX-License-Identifier: Apache-2.0 */
/* null_call.c - L08: a table of the kind OF in which only the callback WITHOUT is missing. */
#include <tenon/plugin.h>

static int call(void)
{
    return 0;
}
#define CALL (void *)call

#if OF == 1
static const tn_quant without = {
    .size = sizeof without, .claims = CALL, .form_of = CALL, .cut = CALL, .read = CALL,
    .write_begin = CALL, .write_linear = CALL, .write_end = CALL, .write_drop = CALL,
    .WITHOUT = NULL,
};
#elif OF == 2
static const tn_device without = {
    .size = sizeof without, .open = CALL, .close = CALL, .info = CALL, .compile = CALL,
    .reserve = CALL, .pack = CALL, .release = CALL, .run = CALL, .wait = CALL, .WITHOUT = NULL,
};
#else
static const tn_comm without = {
    .size = sizeof without, .make_id = CALL, .join = CALL, .all_reduce = CALL,
    .all_gather = CALL, .broadcast = CALL, .abort = CALL, .leave = CALL, .WITHOUT = NULL,
};
#endif
#define KIND OF
#define TABLE &without
#include "good.h"
