/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_import.c - `tenon import MODEL.gguf DIR`. */
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
    return tn_command_alone(argc, argv, own, sizeof own / sizeof *own,
                            "tenon import MODEL.gguf DIR - writes a Hugging Face folder from a "
                            "GGUF file.",
                            run);
}
