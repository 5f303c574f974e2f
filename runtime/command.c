/* SPDX-License-Identifier: Apache-2.0 */
/* command.c - what the commands share. */
#include "command.h"

#include "buf.h"
#include "flags.h"
#include "number.h"
#include "plain.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int tn_command_exit(tn_status st)
{
    if (st == TN_OK || (st >= TN_USAGE && st <= TN_CONFIG))
        return st;
    switch (st) {
    case TN_REFUSED: return TN_DATA;
    case TN_UNSUPPORTED: return TN_UNAVAILABLE;
    case TN_NO_MEMORY: return TN_OS;
    case TN_BUSY:
    case TN_CANCELLED:
    case TN_TIMEOUT: return TN_CUT;
    default: return TN_INTERNAL;
    }
}

void tn_command_tell(const tn_err *err)
{
    tn_err plain = *err; /* a model's files may have put line ends or escapes into it */
    tn_plain_make(plain.text, sizeof plain.text);
    fprintf(stderr, "tenon: %s\n", plain.text[0] != 0 ? plain.text : "failed without a reason");
}

int tn_command_fail(tn_status st, const tn_err *err)
{
    tn_command_tell(err);
    return tn_command_exit(st);
}

tn_status tn_command_print(const char *text, size_t size, tn_err *err)
{
    while (size > 0) {
        ssize_t n = write(STDOUT_FILENO, text, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return tn_fail(err, TN_IO, "standard output: %s", strerror(errno));
        text += n;
        size -= (size_t)n;
    }
    return TN_OK;
}

tn_status tn_command_int(const tn_flags *f, const char *name, int64_t fallback, int64_t least,
                         int64_t greatest, int64_t *out, tn_err *err)
{
    const char *text = tn_flags_value(f, name);
    int64_t v = fallback;
    if (text != NULL && (!tn_number_int(text, &v) || v < least || v > greatest))
        return tn_fail(err, TN_USAGE, "--%s: \"%.64s\"; expected a whole number from %lld to %lld",
                       name, text, (long long)least, (long long)greatest);
    *out = v;
    return TN_OK;
}

/* Ranges end at whole numbers: what rounds to one stays on its own side of it. */
static float to_float(double v)
{
    float f = (float)v;
    if (!isfinite(f) || f != floorf(f) || (double)f == v)
        return f;
    return nextafterf(f, v > (double)f ? INFINITY : -INFINITY);
}

tn_status tn_command_float(const tn_flags *f, const char *name, float fallback, float *out,
                           tn_err *err)
{
    const char *text = tn_flags_value(f, name);
    double v = (double)fallback;
    if (text != NULL && !tn_number_float(text, &v))
        return tn_fail(err, TN_USAGE, "--%s: \"%.64s\"; expected a number", name, text);
    *out = text != NULL ? to_float(v) : fallback;
    return TN_OK;
}

tn_status tn_command_read(const char *path, size_t max, char **text, size_t *size, tn_err *err)
{
    FILE *f = strcmp(path, "-") == 0 ? stdin : fopen(path, "rbe");
    if (f == NULL)
        return tn_fail(err, errno == EACCES ? TN_NOPERM : TN_NOINPUT, "%s: cannot open: %s", path,
                       strerror(errno));
    size_t cap = 65536, n = 0;
    char *data = malloc(cap + 1);
    tn_status st = TN_OK;
    while (data != NULL) {
        n += fread(data + n, 1, cap - n, f);
        if (n < cap || n >= max)
            break;
        cap = cap * 2 < max ? cap * 2 : max;
        char *bigger = realloc(data, cap + 1);
        if (bigger == NULL)
            free(data);
        data = bigger;
    }
    if (data == NULL)
        st = tn_fail(err, TN_NO_MEMORY, "%s: no memory to read it", path);
    else if (ferror(f))
        st = tn_fail(err, TN_IO, "%s: cannot read: %s", path, strerror(errno));
    if (f != stdin)
        fclose(f);
    if (st != TN_OK) {
        free(data);
        return st;
    }
    data[n] = 0;
    *text = data;
    *size = n;
    return TN_OK;
}

static tn_status print_help(const tn_flag *own, uint32_t nown, const char *title, tn_err *err)
{
    tn_buf out;
    tn_buf_open(&out, 65536);
    tn_buf_printf(&out, "%s\n\n", title);
    tn_flags_help(own, nown, &out);
    tn_status st = tn_command_print(out.data, out.len, err);
    tn_buf_close(&out);
    return st;
}

int tn_command_alone(int argc, char *const *argv, const tn_flag *own, uint32_t nown,
                     const char *title, tn_status (*run)(const tn_flags *f, tn_err *err))
{
    tn_err err = {{0}, {0}, {0}};
    tn_flags *f = NULL;
    tn_status st = tn_flags_parse(argc, argv, own, nown, NULL, 0, &f, &err);
    if (st == TN_OK)
        st = tn_flags_value(f, "help") != NULL ? print_help(own, nown, title, &err) : run(f, &err);
    tn_flags_close(f);
    return st == TN_OK ? 0 : tn_command_fail(st, &err);
}
