/* SPDX-License-Identifier: Apache-2.0 */
/* awq_tensor.c - finds a module's tensors and holds them against the shape they must have.
 *
 * A failed check names the tensor, its file, and both shapes: that sentence is all a user
 * gets to repair a broken download or a wrong config. */
#include "awq.h"

typedef struct dtype_row {
    uint32_t dtype;
    uint32_t size;
    const char *name;
} dtype_row;

static const dtype_row dtypes[] = {
    {TN_F32, 4, "F32"},   {TN_F16, 2, "F16"},         {TN_BF16, 2, "BF16"},
    {TN_F64, 8, "F64"},   {TN_I8, 1, "I8"},           {TN_U8, 1, "U8"},
    {TN_I16, 2, "I16"},   {TN_U16, 2, "U16"},         {TN_I32, 4, "I32"},
    {TN_U32, 4, "U32"},   {TN_I64, 8, "I64"},         {TN_U64, 8, "U64"},
    {TN_BOOL, 1, "BOOL"}, {TN_F8_E4M3, 1, "F8_E4M3"}, {TN_F8_E5M2, 1, "F8_E5M2"},
};

static const dtype_row *dtype_find(uint32_t dtype)
{
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (dtypes[i].dtype == dtype)
            return &dtypes[i];
    return NULL;
}

uint32_t awq_dtype_size(uint32_t dtype)
{
    const dtype_row *d = dtype_find(dtype);
    return d == NULL ? 0 : d->size;
}

const char *awq_dtype_name(uint32_t dtype)
{
    const dtype_row *d = dtype_find(dtype);
    return d == NULL ? "an unknown type" : d->name;
}

bool awq_find(const tn_view *v, const char *module, const char *suffix, tn_tensor *out)
{
    char name[AWQ_NAME_MAX];
    int n = snprintf(name, sizeof name, "%s.%s", module, suffix);
    if (n < 0 || (size_t)n >= sizeof name)
        return false;
    memset(out, 0, sizeof *out);
    return v->find(v, name, out) == 1;
}

/* "[128, 192]" */
static void shape_text(const uint64_t *dim, uint32_t ndim, char *out, size_t size)
{
    size_t at = 0;
    out[0] = 0;
    for (uint32_t i = 0; i < ndim && i < 8; i++) {
        int n = snprintf(out + at, size - at, "%s%llu", i == 0 ? "[" : ", ",
                         (unsigned long long)dim[i]);
        if (n < 0 || (size_t)n >= size - at)
            return;
        at += (size_t)n;
    }
    snprintf(out + at, size - at, "%s", ndim == 0 ? "[]" : "]");
}

static bool shape_is(const tn_tensor *t, uint32_t ndim, const uint64_t *dim)
{
    if (t->ndim != ndim)
        return false;
    for (uint32_t i = 0; i < ndim; i++)
        if (t->dim[i] != dim[i])
            return false;
    return true;
}

/* `type` is what is wanted, in words; `fits` whether the tensor's own type is that. */
static tn_status check(const char *module, const char *suffix, const tn_tensor *t,
                       const char *type, bool fits, uint32_t ndim, const uint64_t *dim,
                       const char *why, tn_err *err)
{
    if (!fits || !shape_is(t, ndim, dim)) {
        char found[200], wanted[64];
        shape_text(t->dim, t->ndim, found, sizeof found);
        shape_text(dim, ndim, wanted, sizeof wanted);
        return tn_fail(err, TN_DATA, "%s.%s: found %s %s in %s, wanted %s %s (%s)", module,
                       suffix, awq_dtype_name(t->dtype), found,
                       t->file != NULL ? t->file : "the checkpoint", type, wanted, why);
    }
    uint64_t size = awq_dtype_size(t->dtype);
    bool wraps = false;
    for (uint32_t i = 0; i < ndim; i++)
        wraps |= __builtin_mul_overflow(size, dim[i], &size);
    if (wraps || size != t->data_size || t->data == NULL)
        return tn_fail(err, TN_DATA, "%s.%s: holds %llu bytes, wanted %llu for its shape",
                       module, suffix, (unsigned long long)t->data_size,
                       (unsigned long long)size);
    return TN_OK;
}

tn_status awq_check(const char *module, const char *suffix, const tn_tensor *t, uint32_t dtype,
                    uint32_t ndim, uint64_t d0, uint64_t d1, const char *why, tn_err *err)
{
    const uint64_t dim[2] = {d0, d1};
    return check(module, suffix, t, awq_dtype_name(dtype), t->dtype == dtype, ndim, dim, why,
                 err);
}

tn_status awq_check_scale(const char *module, const char *suffix, const tn_tensor *t,
                          uint32_t ndim, uint64_t d0, uint64_t d1, const char *why, tn_err *err)
{
    const uint64_t dim[2] = {d0, d1};
    bool fits = t->dtype == TN_F16 || t->dtype == TN_BF16 || t->dtype == TN_F32;
    return check(module, suffix, t, "F16, BF16 or F32", fits, ndim, dim, why, err);
}
