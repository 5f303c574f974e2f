/* SPDX-License-Identifier: Apache-2.0 */
/* awq.c - the plugin: what it claims, its options and its descriptor.
 *
 * Claiming is also where the config as a whole is held against the checkpoint's list of
 * tensors: the tensors decide, and the config is believed about nothing it gets wrong. */
#include "awq.h"

tn_status awq_disagree(awq_self *self, const tn_view *v, uint32_t kind, tn_err *err,
                       const char *fmt, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (self->strict)
        return tn_fail(err, TN_DATA, "%s (strict = yes refuses it)", text);
    uintptr_t about = (uintptr_t)v->quant;
    if (atomic_exchange(&self->warned[kind], about) != about)
        self->h->log(self->h->ctx, TN_LOG_WARN, text);
    return TN_OK;
}

/* ----------------------------------------------------------------------------- claims */

/* What a walk over all tensor names found. */
typedef struct tally {
    uint64_t quantized;   /* modules with packed codes */
    uint64_t unexpected;  /* of them, those the config keeps plain */
    uint64_t plain;       /* plain matrices that the config quantizes */
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

/* GPTQ packs along the input: its qweight is as wide as its scales. */
static bool is_gptq_like(const tn_tensor *q, const tn_tensor *scales)
{
    return q->dtype == TN_I32 && q->ndim == 2 && scales->ndim == 2 &&
           scales->dim[1] == q->dim[1] && scales->dim[0] != q->dim[0];
}

static tn_status check_family(const tn_view *v, const awq_config *c, const char *module,
                              bool packed, const tn_tensor *code, tn_err *why)
{
    tn_tensor scales;
    if (packed != (c->method == AWQ_METHOD_PACKED))
        return tn_fail(why, TN_DATA, "%s.%s: found, but quant_method is %s; wanted %s", module,
                       packed ? "weight_packed" : "qweight",
                       packed ? "awq" : "compressed-tensors",
                       packed ? "compressed-tensors" : "awq or gptq");
    if (packed || !awq_find(v, module, "scales", &scales) || !is_gptq_like(code, &scales))
        return TN_OK;
    return tn_fail(why, TN_DATA,
                   "%s.qweight: is packed along the input as GPTQ does, [%llu, %llu] beside "
                   "scales [%llu, %llu], but quant_method is awq; wanted quant_method gptq and "
                   "the gptq plugin",
                   module, (unsigned long long)code->dim[0], (unsigned long long)code->dim[1],
                   (unsigned long long)scales.dim[0], (unsigned long long)scales.dim[1]);
}

/* Matrices that no config means by "Linear", by the words in their names. */
static bool is_no_linear(const char *name)
{
    return strstr(name, "norm") != NULL || strstr(name, "embed") != NULL ||
           strstr(name, "conv") != NULL;
}

static tn_status look_at(const tn_view *v, const awq_config *c, awq_rules *rules,
                         const char *name, const tn_tensor *t, tally *out, tn_err *why)
{
    char module[AWQ_NAME_MAX];
    const awq_scheme *s;
    bool packed = strip(name, ".weight_packed", module, sizeof module);
    if (packed || strip(name, ".qweight", module, sizeof module)) {
        tn_status st = check_family(v, c, module, packed, t, why);
        if (st == TN_OK)
            st = awq_rules_match(rules, module, &s, why);
        if (st == TN_OK && s == NULL && out->unexpected++ == 0)
            snprintf(out->unexpected_name, sizeof out->unexpected_name, "%.255s", module);
        out->quantized++;
        return st;
    }
    if (c->method != AWQ_METHOD_PACKED || t->ndim != 2 || is_no_linear(name) ||
        !strip(name, ".weight", module, sizeof module))
        return TN_OK;
    tn_status st = awq_rules_match(rules, module, &s, why);
    if (st == TN_OK && s != NULL && out->plain++ == 0)
        snprintf(out->plain_name, sizeof out->plain_name, "%.255s", module);
    return st;
}

static tn_status report(awq_self *self, const tally *t, tn_err *why)
{
    char text[512];
    if (t->unexpected == 0 && t->plain == 0)
        return TN_OK;
    if (t->unexpected != 0)
        snprintf(text, sizeof text,
                 "%llu modules are quantized in the files but not by the config, %s first; the "
                 "files count",
                 (unsigned long long)t->unexpected, t->unexpected_name);
    else
        snprintf(text, sizeof text,
                 "%llu modules are plain in the files but quantized by the config, %s first; the "
                 "files count",
                 (unsigned long long)t->plain, t->plain_name);
    if (self->strict)
        return tn_fail(why, TN_DATA, "%s (strict = yes refuses it)", text);
    self->h->log(self->h->ctx, TN_LOG_WARN, text);
    return TN_OK;
}

static tn_status examine(awq_self *self, const tn_view *v, const awq_config *c, tn_err *why)
{
    awq_rules *rules;
    tally found = {0};
    const char *name;
    tn_tensor t;
    tn_status st = awq_rules_open(self->h, c, &rules, why);
    if (st != TN_OK)
        return st;
    for (uint64_t i = 0; st == TN_OK && i < v->ntensor && v->at(v, i, &name, &t) == 1; i++)
        st = look_at(v, c, rules, name, &t, &found, why);
    awq_rules_close(rules);
    return st != TN_OK ? st : report(self, &found, why);
}

static uint32_t claims(void *self, const tn_view *v, tn_err *why)
{
    awq_config c;
    const char *file = v->quant_file != NULL ? v->quant_file : "config.json";
    if (!awq_config_is_ours(v->quant, file, why) ||
        awq_config_read(v->quant, file, &c, why) != TN_OK ||
        awq_config_twin(((awq_self *)self)->h, v, why) != TN_OK ||
        examine(self, v, &c, why) != TN_OK)
        return 0;
    return 100;
}

/* ------------------------------------------------------------------------- life cycle */

static tn_status init(const tn_host *h, void **self, tn_err *err)
{
    awq_self *s = h->alloc(h->ctx, sizeof *s);
    if (s == NULL)
        return tn_fail(err, TN_NO_MEMORY, "awq: no memory to start");
    s->h = h;
    s->strict = h->opt_int(h->ctx, "strict") != 0;
    for (uint32_t i = 0; i < AWQ_WARN_COUNT; i++)
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
    const tn_host *h = ((awq_self *)self)->h;
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
    .form_of = awq_form_of,
    .cut = awq_cut,
    .read = awq_read,
    .write_begin = awq_write_begin,
    .write_linear = awq_write_linear,
    .write_end = awq_write_end,
    .write_drop = awq_write_drop,
};

TN_EXPORT const tn_plugin tn_plugin_entry = {
    .abi_major = TN_ABI_MAJOR,
    .abi_minor = TN_ABI_MINOR,
    .size = sizeof tn_plugin_entry,
    .kind = TN_KIND_QUANT,
    .name = "awq",
    .version = "1.0",
    .summary = "Reads and writes AWQ checkpoints: AutoAWQ and compressed-tensors pack-quantized.",
    .options = options,
    .noption = sizeof options / sizeof *options,
    .table = &quant,
    .init = init,
    .start = start,
    .stop = stop,
};
