/* SPDX-License-Identifier: Apache-2.0 */
/* cuplanned.c - a card that is not there: what `tenon plan --gpu-memory` opens.
 *
 * It has the memory and the capability that the options say, and compile counts for it as for any
 * other; that needs neither driver nor card. Nothing can be taken of it or run on it. Of a card's
 * properties only the number of its multiprocessors goes into what compile counts. */
#include "cuprogram.h"

#include <stdlib.h>

/* The most multiprocessors that a card of each capability has. */
static const struct { const char *arch; uint32_t major, minor, nsm; } kind[] = {
    {"7.5", 7, 5, 72},  {"8.0", 8, 0, 108}, {"8.6", 8, 6, 84},   {"8.9", 8, 9, 142},
    {"9.0", 9, 0, 132}, {"10.0", 10, 0, 148}, {"12.0", 12, 0, 188},
};

void cu_planned_open(cu_dev *d, const cu_planned *p)
{
    for (size_t i = 0; i < sizeof kind / sizeof kind[0]; i++)
        if (strcmp(kind[i].arch, p->arch) == 0) {
            d->major = kind[i].major;
            d->minor = kind[i].minor;
            d->nsm = p->nsm != 0 ? p->nsm : kind[i].nsm;
        }
    d->planned = *p;
    snprintf(d->name, sizeof d->name, "a card to plan for");
}

void cu_planned_info(const cu_dev *d, tn_device_info *out)
{
    const cu_planned *p = &d->planned;
    out->ndevice = 64; /* one for each rank */
    out->memory_total = p->memory;
    out->memory_free = p->memory > p->kept ? p->memory - p->kept : 0;
}

tn_status cu_planned_refuse(const cu_dev *d, const char *what, tn_err *err)
{
    if (d->planned.memory == 0)
        return TN_OK;
    return tn_fail(err, TN_UNSUPPORTED, "cuda: %s: plan_memory is set, so there is only a card to plan "
                   "for; expected it in no INI, and on the command line of `tenon plan` alone", what);
}
