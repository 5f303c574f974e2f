/* SPDX-License-Identifier: Apache-2.0 */
/* gptq.c - the plugin: what it claims, its options and its descriptor.
 *
 * Claiming is also where the config as a whole is held against the checkpoint's list of
 * tensors: the tensors decide, and the config is believed about nothing it gets wrong. */
#include "gptq.h"

void gptq_warn(gptq_self *self, const tn_view *v, uint32_t kind, const char *text)
{
    uintptr_t about = (uintptr_t)v->quant;
    if (atomic_exchange(&self->warned[kind], about) != about)
        self->h->log(self->h->ctx, TN_LOG_WARN, text);
}

tn_status gptq_disagree(gptq_self *self, const tn_view *v, uint32_t kind, tn_err *err,
                        const char *fmt, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (self->strict)
        return tn_fail(err, TN_DATA, "%s (strict = yes refuses it)", text);
    gptq_warn(self, v, kind, text);
    return TN_OK;
}

/* ----------------------------------------------------------------------------- claims */

/* What a walk over all tensor names found. */
typedef struct tally {
    uint64_t unexpected;   /* quantized modules that the config keeps plain */
    uint64_t plain;        /* plain modules that the config names as quantized */
    char unexpected_name[256], plain_name[256];
} tally;

/* Strips ".suffix"; false when `name` does not end so or does not fit. */
static bool strip(const char *name, const char *suffix, char *module, size_t size)
{
    size_t n = strlen(name), s = strlen(suffix);
    if (n <= s || n - s >= size || strcmp(name + n - s, suffix) != 0)
        return false;
    memcpy(module, name, n - s);
    module[n - s] = 0;
    return true;
}

/* AWQ packs along the output: its qweight is narrower than its scales, or as tall. */
static bool is_awq_like(const tn_tensor *q, const tn_tensor *scales)
{
    if (q->ndim != 2 || scales->ndim != 2 || scales->dim[1] == q->dim[1])
        return false;
    return q->dtype == TN_I16 || scales->dim[1] == 8 * q->dim[1] || scales->dim[0] == q->dim[0];
}

static tn_status check_family(const tn_view *v, const char *module, const tn_tensor *code,
                              tn_err *why)
{
    tn_tensor scales;
    if (!gptq_find(v, module, "scales", &scales) || !is_awq_like(code, &scales))
        return TN_OK;
    return tn_fail(why, TN_DATA,
                   "%s.qweight: is packed as AWQ does, [%llu, %llu] beside scales [%llu, %llu], "
                   "but quant_method is gptq; wanted quant_method awq and the awq plugin",
                   module, (unsigned long long)code->dim[0], (unsigned long long)code->dim[1],
                   (unsigned long long)scales.dim[0], (unsigned long long)scales.dim[1]);
}

/* Most plain modules are none of the config's business; a warning is due about those that it
 * names. */
static tn_status look_at_plain(gptq_rules *rules, const char *module, tally *out, tn_err *why)
{
    bool quantized = false;
    gptq_scheme s;
    if (!gptq_rules_name(rules, module))
        return TN_OK;
    tn_status st = gptq_rules_match(rules, module, &quantized, &s, why);
    if (st == TN_OK && quantized && out->plain++ == 0)
        snprintf(out->plain_name, sizeof out->plain_name, "%.255s", module);
    return st;
}

static tn_status look_at(const tn_view *v, gptq_rules *rules, const char *name,
                         const tn_tensor *t, tally *out, tn_err *why)
{
    char module[GPTQ_NAME_MAX];
    bool quantized;
    gptq_scheme s;
    if (strip(name, ".weight_packed", module, sizeof module))
        return tn_fail(why, TN_DATA,
                       "%s: found, but quant_method is gptq; wanted compressed-tensors", name);
    if (t->ndim == 2 && strip(name, ".weight", module, sizeof module))
        return look_at_plain(rules, module, out, why);
    if (!strip(name, ".qweight", module, sizeof module))
        return TN_OK;
    tn_status st = check_family(v, module, t, why);
    if (st == TN_OK)
        st = gptq_rules_match(rules, module, &quantized, &s, why);
    if (st == TN_OK && !quantized && out->unexpected++ == 0)
        snprintf(out->unexpected_name, sizeof out->unexpected_name, "%.255s", module);
    return st;
}

static tn_status report(gptq_self *self, const tally *t, tn_err *why)
{
    char text[512];
    if (t->unexpected == 0 && t->plain == 0)
        return TN_OK;
    if (t->unexpected != 0)
        snprintf(text, sizeof text,
                 "%llu modules are quantized in the files but not by the config, %s first; the "
                 "files count",
                 (unsigned long long)t->unexpected, t->unexpected_name);
    else if (t->plain > 1)
        snprintf(text, sizeof text,
                 "%llu modules are plain in the files but quantized by the config, %s first; the "
                 "files count",
                 (unsigned long long)t->plain, t->plain_name);
    else
        snprintf(text, sizeof text,
                 "%s is plain in the files but quantized by the config; the files count",
                 t->plain_name);
    if (self->strict)
        return tn_fail(why, TN_DATA, "%s (strict = yes refuses it)", text);
    self->h->log(self->h->ctx, TN_LOG_WARN, text);
    return TN_OK;
}

static tn_status examine(gptq_self *self, const tn_view *v, const gptq_config *c, tn_err *why)
{
    gptq_rules *rules;
    tally found = {0};
    const char *name;
    tn_tensor t;
    tn_status st = gptq_rules_open(self->h, c, &rules, why);
    if (st != TN_OK)
        return st;
    for (uint64_t i = 0; st == TN_OK && i < v->ntensor && v->at(v, i, &name, &t) == 1; i++)
        st = look_at(v, rules, name, &t, &found, why);
    gptq_rules_close(rules);
    return st != TN_OK ? st : report(self, &found, why);
}

static uint32_t claims(void *self, const tn_view *v, tn_err *why)
{
    gptq_config c;
    const char *file = v->quant_file != NULL ? v->quant_file : "config.json";
    if (!gptq_config_is_ours(v->quant, file, why) ||
        gptq_config_read(v->quant, file, &c, why) != TN_OK ||
        gptq_config_twin(((gptq_self *)self)->h, v, why) != TN_OK ||
        examine(self, v, &c, why) != TN_OK)
        return 0;
    return 100;
}

/* ------------------------------------------------------------------------- life cycle */

static tn_status init(const tn_host *h, void **self, tn_err *err)
{
    gptq_self *s = h->alloc(h->ctx, sizeof *s);
    if (s == NULL)
        return tn_fail(err, TN_NO_MEMORY, "gptq: no memory to start");
    s->h = h;
    s->strict = h->opt_int(h->ctx, "strict") != 0;
    for (uint32_t i = 0; i < GPTQ_WARN_COUNT; i++)
        atomic_init(&s->warned[i], 0);
    *self = s;
    return TN_OK;
}

static tn_status start(void *self, tn_err *err)
{
    (void)self;
    (void)err;
    return TN_OK;
}

static void stop(void *self)
{
    const tn_host *h = ((gptq_self *)self)->h;
    h->release(h->ctx, self);
}

static const tn_option options[] = {
    {.size = sizeof(tn_option),
     .type = TN_OPT_BOOL,
     .key = "strict",
     .fallback = "no",
     .help = "Refuse a checkpoint whose quantization_config and tensors disagree, instead of "
             "following the tensors."},
};

static const tn_quant quant = {
    .size = sizeof quant,
    .claims = claims,
    .form_of = gptq_form_of,
    .cut = gptq_cut,
    .read = gptq_read,
    .write_begin = gptq_write_begin,
    .write_linear = gptq_write_linear,
    .write_end = gptq_write_end,
    .write_drop = gptq_write_drop,
};

TN_EXPORT const tn_plugin tn_plugin_entry = {
    .abi_major = TN_ABI_MAJOR,
    .abi_minor = TN_ABI_MINOR,
    .size = sizeof tn_plugin_entry,
    .kind = TN_KIND_QUANT,
    .name = "gptq",
    .version = "1.0",
    .summary = "Reads and writes GPTQ checkpoints: v1 and v2, 2 to 8 bits, with or without "
               "act-order.",
    .options = options,
    .noption = sizeof options / sizeof *options,
    .table = &quant,
    .init = init,
    .start = start,
    .stop = stop,
};
