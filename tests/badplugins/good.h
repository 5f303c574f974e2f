/* SPDX-License-Identifier: Apache-2.0 */
/* good.h - a plugin with nothing wrong; each file beside this one spoils one thing.
 *
 * A file defines what it spoils (NAME, KIND, INIT ...) and includes this last. */
#include <tenon/plugin.h>

#include <stdlib.h>

static uint32_t good_claims(void *self, const tn_view *v, tn_err *why)
{
    tn_fail(why, TN_OK, "a test plugin claims nothing");
    return 0;
}

static tn_status good_form_of(void *self, const tn_view *v, const tn_module *m,
                              const tn_rect *r, tn_form *out, tn_err *err)
{
    return tn_fail(err, TN_NOINPUT, "no tensor");
}

static tn_status good_cut(void *self, const tn_view *v, const tn_module *m, uint64_t *row_unit,
                          uint64_t *col_unit, tn_err *err)
{
    *row_unit = *col_unit = 1;
    return TN_OK;
}

static tn_status good_read(void *self, const tn_view *v, const tn_module *m, const tn_rect *r,
                           uint64_t row0, uint64_t row1, tn_block *out, tn_err *err)
{
    return tn_fail(err, TN_NOINPUT, "no tensor");
}

static tn_status good_init(const tn_host *h, void **self, tn_err *err)
{
    *self = (void *)(uintptr_t)h;
    return TN_OK;
}

static tn_status good_start(void *self, tn_err *err)
{
    return TN_OK;
}

static void good_stop(void *self)
{
}

#ifndef ABI_MAJOR
#define ABI_MAJOR TN_ABI_MAJOR
#endif
#ifndef ABI_MINOR
#define ABI_MINOR TN_ABI_MINOR
#endif
#ifndef SIZE
#define SIZE sizeof(tn_plugin)
#endif
#ifndef KIND
#define KIND TN_KIND_QUANT
#endif
#ifndef NAME
#define NAME "bad"
#endif
#ifndef VERSION
#define VERSION "1"
#endif
#ifndef INIT
#define INIT good_init
#endif
#ifndef PROBE
#define PROBE NULL
#endif
#ifndef START
#define START good_start
#endif
#ifndef STOP
#define STOP good_stop
#endif
#ifndef OPTIONS
#define OPTIONS NULL
#define NOPTION 0
#endif
#ifndef TABLE_SIZE
#define TABLE_SIZE sizeof(tn_quant)
#endif
#ifndef READ
#define READ good_read
#endif
#ifndef WRITE_BEGIN
#define WRITE_BEGIN NULL
#endif
#ifndef MULTIPLY
#define MULTIPLY NULL
#define NMULTIPLY 0
#endif

static const tn_quant good_table = {
    .size = TABLE_SIZE,
    .nmultiply = NMULTIPLY,
    .multiply = MULTIPLY,
    .claims = good_claims,
    .form_of = good_form_of,
    .cut = good_cut,
    .read = READ,
    .write_begin = WRITE_BEGIN,
};

#ifndef TABLE
#define TABLE &good_table
#endif

#ifndef NO_ENTRY
const tn_plugin tn_plugin_entry = {
    .abi_major = ABI_MAJOR,
    .abi_minor = ABI_MINOR,
    .size = SIZE,
    .kind = KIND,
    .name = NAME,
    .version = VERSION,
    .summary = "A plugin for tests.",
    .options = OPTIONS,
    .noption = NOPTION,
    .table = TABLE,
    .probe = PROBE,
    .init = INIT,
    .start = START,
    .stop = STOP,
};
#endif
