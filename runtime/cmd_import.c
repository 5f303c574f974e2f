/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_import.c - `tenon import MODEL.gguf DIR`. */
#include "buf.h"
#include "command.h"
#include "flags.h"
#include "import.h"
#include "progress.h"

#include <stdio.h>
#include <string.h>

static const tn_flag own[] = {
    {"plain", NULL, 1, "Type of the weights that are written: float16, bfloat16 or float32."},
    {"overwrite", NULL, 0, "Replaces a model that the folder holds already."},
    {"help", "-h", 0, "Prints this text."},
};
#define NOWN (sizeof own / sizeof *own)

static int on_progress(void *ctx, const char *what, uint64_t done, uint64_t total)
{
    (void)what;
    tn_progress_step(ctx, done, total);
    return 0;
}

static void on_note(void *ctx, const char *text)
{
    (void)ctx;
    fprintf(stderr, "tenon: note: %s\n", text);
}

static tn_status read_dtype(const tn_flags *f, uint32_t *out, tn_err *err)
{
    static const struct { const char *name; uint32_t dtype; } known[] = {
        {"float16", TN_F16}, {"half", TN_F16}, {"bfloat16", TN_BF16}, {"float32", TN_F32},
    };
    const char *text = tn_flags_value(f, "plain");
    *out = TN_F16;
    for (size_t i = 0; text != NULL && i < sizeof known / sizeof *known; i++)
        if (strcmp(text, known[i].name) == 0) {
            *out = known[i].dtype;
            return TN_OK;
        }
    return text == NULL ? TN_OK : tn_fail(err, TN_USAGE, "--plain: \"%.64s\"; expected float16, "
                                          "bfloat16 or float32", text);
}

static tn_status run(const tn_flags *f, tn_err *err)
{
    uint32_t dtype;
    tn_status st = read_dtype(f, &dtype, err);
    if (st != TN_OK)
        return st;
    if (f->nword != 2)
        return tn_fail(err, TN_USAGE, "import: %u words; expected MODEL.gguf DIR", f->nword);
    tn_progress bar;
    tn_progress_open(&bar, "importing", true);
    tn_import_options o = {.dtype = dtype, .overwrite = tn_flags_value(f, "overwrite") != NULL,
                           .progress = on_progress, .note = on_note, .ctx = &bar};
    st = tn_import(f->word[0], f->word[1], &o, err);
    tn_progress_close(&bar);
    return st;
}

int tn_cmd_import(int argc, char *const *argv)
{
    tn_err err = {{0}, {0}, {0}};
    tn_flags *f = NULL;
    tn_status st = tn_flags_parse(argc, argv, own, NOWN, NULL, 0, &f, &err);
    if (st == TN_OK && tn_flags_value(f, "help") != NULL) {
        tn_buf out;
        tn_buf_open(&out, 65536);
        tn_buf_puts(&out, "tenon import MODEL.gguf DIR - writes a Hugging Face folder from a GGUF "
                          "file.\n\n");
        tn_flags_help(own, NOWN, NULL, 0, &out);
        st = tn_command_print(out.data, out.len, &err);
        tn_buf_close(&out);
    } else if (st == TN_OK) {
        st = run(f, &err);
    }
    tn_flags_close(f);
    return st == TN_OK ? 0 : tn_command_fail(st, &err);
}
