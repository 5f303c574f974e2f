/* SPDX-License-Identifier: Apache-2.0 */
/* device_odd.c - L16: a device that computes nothing and hands over, as its option `odd` says,
 * counts, texts and tokens that cannot be meant. */
#include <tenon/plugin.h>

#include <stdbool.h>
#include <stdlib.h>

typedef struct odd_device {
    char odd[32];
    uint64_t step;
    tn_result result[4096];
    int32_t top_token[64];
    float top_logprob[64];
    tn_results results;
} odd_device;

static odd_device it;

static bool is_odd(const char *what)
{
    return strcmp(it.odd, what) == 0;
}

static tn_status open_device(void *self, uint32_t index, void **dev, tn_err *err)
{
    *dev = self;
    return TN_OK;
}

static void close_device(void *dev)
{
}

static tn_status info(void *dev, tn_device_info *out, tn_err *err)
{
    *out = (tn_device_info){.size = sizeof *out, .ndevice = 1, .forms = ~0u, .act_dtypes = ~0u,
                            .block_tokens = 16, .host_memory = 1, .memory_total = 1ull << 32,
                            .memory_free = 1ull << 32, .name = "odd", .arch = "none"};
    if (is_odd("name")) { /* no end, and nothing to print */
        memset(out->name, '\x1b', sizeof out->name);
        memset(out->arch, 0xff, sizeof out->arch);
    }
    if (is_odd("block_tokens"))
        out->block_tokens = UINT32_MAX;
    if (is_odd("info"))
        memset(err, 'x', sizeof err->text);
    return is_odd("info") ? -12345 : TN_OK;
}

static tn_status compile(void *dev, const tn_recipe *r, const tn_limits *l, void **program,
                         tn_need *need, tn_err *err)
{
    *program = dev;
    *need = (tn_need){.size = sizeof *need, .cache_dtype = TN_F16, .weight_bytes = 1 << 20,
                      .workspace_bytes = 1 << 20, .block_bytes = 4096};
    if (is_odd("weights"))
        need->weight_bytes = UINT64_MAX;
    if (is_odd("workspace"))
        need->weight_bytes = need->workspace_bytes = UINT64_MAX / 2 + 1;
    if (is_odd("block"))
        need->block_bytes = UINT64_MAX / 1000;
    return TN_OK;
}

static tn_status reserve(void *program, const tn_pools *p, tn_err *err)
{
    return TN_OK;
}

static tn_status pack(void *program, uint32_t w, const tn_reader *reader, tn_err *err)
{
    return TN_OK;
}

static void release(void *program)
{
}

static tn_status run(void *program, const tn_step *step, tn_err *err)
{
    it.results = (tn_results){.size = sizeof it.results, .nout = step->nout, .result = it.result,
                              .top_stride = 4, .top_token = it.top_token,
                              .top_logprob = it.top_logprob};
    for (uint32_t i = 0; i < step->nout; i++)
        it.result[i] = (tn_result){.token = 10, .logprob = -1, .rank = 1, .ntop = 4};
    for (uint32_t i = 0; i < step->nout && is_odd("token"); i++)
        it.result[i].token = i % 2 ? INT32_MIN : INT32_MAX;
    for (uint32_t i = 0; i < step->nout && is_odd("top"); i++)
        it.result[i] = (tn_result){.token = 10, .logprob = 3e38f * 10, .rank = -7,
                                   .ntop = UINT32_MAX};
    for (int i = 0; i < 64 && is_odd("top"); i++) {
        it.top_token[i] = i % 2 ? INT32_MIN : INT32_MAX;
        it.top_logprob[i] = (3e38f * 10) / (3e38f * 10);
    }
    for (uint32_t i = 0; i < step->nout && is_odd("nan"); i++)
        it.result[i] = (tn_result){.token = -1, .flags = TN_RESULT_NONFINITE};
    if (is_odd("few"))
        it.results.nout = 0;
    if (is_odd("many"))
        it.results.nout = UINT32_MAX;
    if (is_odd("run")) {
        memset(err->text, '\n', sizeof err->text);
        return 4711;
    }
    return TN_OK;
}

static tn_status wait_for(void *program, uint64_t number, uint32_t poll, const tn_results **out,
                          tn_err *err)
{
    *out = is_odd("null") ? NULL : &it.results;
    return TN_OK;
}

static tn_status report(void *dev, void (*put)(void *ctx, const char *key, const char *text),
                        void *ctx, tn_err *err)
{
    static char longest[4096];
    if (is_odd("report_crash"))
        abort();
    put(ctx, "plain", "as it is");
    if (!is_odd("report"))
        return TN_OK;
    memset(longest, 'x', sizeof longest - 1);
    put(ctx, NULL, NULL);
    put(ctx, "\"key\"\x1b[2J", "\"\\\r\n\x80\x1b[2J");
    put(ctx, longest, longest);
    return TN_OK;
}

static tn_status probe(const tn_host *h, tn_err *err)
{
    if (strcmp(h->opt_text(h->ctx, "odd"), "probe") == 0)
        return tn_fail(err, TN_UNAVAILABLE, "odd: no card was found");
    return TN_OK;
}

static tn_status init(const tn_host *h, void **self, tn_err *err)
{
    if (strcmp(h->opt_text(h->ctx, "odd"), "init") == 0)
        return tn_fail(err, TN_NOPERM, "odd: may not");
    snprintf(it.odd, sizeof it.odd, "%s", h->opt_text(h->ctx, "odd"));
    *self = &it;
    return TN_OK;
}

static void stop(void *self)
{
}

static const tn_option options[] = {
    {.size = sizeof(tn_option), .type = TN_OPT_TEXT, .key = "odd", .fallback = "nothing",
     .help = "What is odd."},
};

static const tn_device table = {
    .size = sizeof(tn_device), .open = open_device, .close = close_device, .info = info,
    .compile = compile, .reserve = reserve, .pack = pack, .release = release, .run = run,
    .wait = wait_for, .report = report,
};

const tn_plugin tn_plugin_entry = {
    .abi_major = TN_ABI_MAJOR, .abi_minor = TN_ABI_MINOR, .size = sizeof(tn_plugin),
    .kind = TN_KIND_DEVICE, .name = "odd", .version = "1", .summary = "A device for tests.",
    .options = options, .noption = 1, .table = &table, .probe = probe,
    .init = init, .stop = stop,
};
