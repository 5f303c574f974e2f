/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_quantize.c - `tenon quantize DIR --quant NAME --output DIR2`.
 *
 * The table names what the plugins of this tree offer; what another offers its refusal says. */
#include "command.h"
#include "house.h"
#include "quantize.h"

#include <stdio.h>
#include <string.h>

static const tn_flag own[] = {
    {"quant", "-q", 1, "The format to write: a quantization plugin that is loaded."},
    {"group-size", "-g", 1, "Columns that share a scale; -1: the whole row (64)."},
    {"bits", "-b", 1, "Bits a weight (4): 4, pack-quantized also 8, gptq and gptq_v2 also 2, 3, 8."},
    {"output", "-o", 1, "The folder to write."},
    {"symmetric", NULL, 0, "No zero points; pack-quantized has none anyhow."},
    {"variant", NULL, 1, "File layout, the format's first unless named: gemm, gemv, gemv_fast, "
     "pack-quantized; gptq, gptq_v2."},
};

static const char *const usual[] = {"log_level", NULL};

static tn_status read_options(const tn_flags *f, tn_write_options *o, tn_err *err)
{
    int64_t bits = 4, group = 64;
    tn_status st = tn_command_int(f, "bits", 4, 1, 8, &bits, err);
    if (st == TN_OK)
        st = tn_command_int(f, "group-size", 64, -1, 1 << 20, &group, err);
    if (st == TN_OK && group == 0)
        st = tn_fail(err, TN_USAGE, "--group-size: 0; expected -1 or a positive number");
    *o = (tn_write_options){.size = sizeof *o, .bits = (uint32_t)bits, .group = (int32_t)group,
                            .symmetric = tn_flags_value(f, "symmetric") != NULL,
                            .variant = tn_flags_value(f, "variant")};
    return st;
}

static const tn_quant_ref *find_quant(const tn_house *h, const char *name)
{
    for (uint32_t i = 0; i < h->nquant; i++)
        if (strcmp(h->quant[i].name, name) == 0)
            return &h->quant[i];
    return NULL;
}

static const char *quant_name(const tn_house *h)
{
    const char *name = tn_flags_value(h->flags, "quant");
    if (name == NULL && tn_conf_count(h->conf, TN_CONF_MODEL) > 0) /* --quantization became a key */
        name = tn_conf_get(h->conf, TN_CONF_MODEL, tn_conf_name(h->conf, TN_CONF_MODEL, 0),
                           "quant", NULL);
    return name;
}

static tn_status run(tn_house *h, tn_err *err)
{
    tn_write_options options;
    tn_status st = read_options(h->flags, &options, err);
    if (st != TN_OK)
        return st;
    const char *to = tn_flags_value(h->flags, "output"), *name = quant_name(h);
    if (h->flags->nword != 1 || to == NULL || name == NULL)
        return tn_fail(err, TN_USAGE, "quantize: %s; expected MODEL_DIR --quant NAME --output DIR",
                       h->flags->nword != 1 ? "no model"
                       : to == NULL ? "no --output" : "no --quant");
    const tn_quant_ref *q = find_quant(h, name);
    if (q == NULL)
        return tn_fail(err, TN_USAGE, "quantize: --quant %.64s: no such quantization is loaded",
                       name);
    char what[160];
    tn_progress bar;
    snprintf(what, sizeof what, "quantizing (%s, %u bits)", q->name, options.bits);
    tn_progress_open(&bar, what, false);
    tn_quantize job = {.from = h->flags->word[0], .to = to, .quant = q, .options = options,
                       .progress = tn_progress_step, .user = &bar};
    st = tn_quantize_run(&job, err);
    tn_progress_close(&bar);
    return st == TN_UNSUPPORTED || st == TN_REFUSED ? TN_USAGE : st;
}

int tn_cmd_quantize(int argc, char *const *argv)
{
    tn_err err = {{0}, {0}, {0}};
    tn_house h;
    tn_house_setup setup = {.command = "quantize", .argc = argc, .argv = argv, .own = own,
                            .nown = sizeof own / sizeof *own, .words_most = 1,
                            .words = " MODEL_DIR --quant NAME --output DIR", .usual = usual,
                            .flags = TN_HOUSE_QUIET | TN_HOUSE_NO_MODELS};
    tn_status st = tn_house_open(&setup, &h, &err);
    if (st == TN_CANCELLED)
        return 0;
    if (st != TN_OK)
        return tn_command_fail(st, &err);
    st = run(&h, &err);
    tn_house_close(&h);
    return st == TN_OK ? 0 : tn_command_fail(st, &err);
}
