/* SPDX-License-Identifier: Apache-2.0 */
/* cuda.c - the device plugin "cuda": one NVIDIA card, compute capability 7.5 or later.
 *
 * The CUDA runtime is linked in, so the plugin loads on machines without a driver; probe then
 * says in one sentence what is missing and the other devices go on working. */
#include "cuprogram.h"

#include <stdlib.h>
#include <unistd.h>

typedef struct plugin {
    const tn_host *host;          /* borrowed until stop */
    uint32_t device, threads;
    bool graphs;
    cu_planned planned;
} plugin;

#define CAPABILITY_LEAST 75

static tn_status count_cards(int *n, tn_err *err)
{
    cudaError_t e = cudaGetDeviceCount(n);
    if (e == cudaSuccess && *n > 0)
        return TN_OK;
    cudaGetLastError();
    if (e == cudaErrorInsufficientDriver)
        return tn_fail(err, TN_UNAVAILABLE, "cuda: no NVIDIA driver, or one too old for CUDA %d.%d "
                       "(%s)", CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10,
                       cudaGetErrorString(e));
    return tn_fail(err, TN_UNAVAILABLE, "cuda: no card was found: %s",
                   e == cudaSuccess ? "the driver lists none" : cudaGetErrorString(e));
}

/* ------------------------------------------------------------------------------ life cycle */

static tn_status cuda_probe(const tn_host *h, tn_err *err)
{
    int n = 0;
    return h->opt_int(h->ctx, "plan_memory") > 0 ? TN_OK : count_cards(&n, err);
}

static tn_status cuda_init(const tn_host *h, void **self, tn_err *err)
{
    plugin *p = h->alloc(h->ctx, sizeof *p);
    if (p == NULL)
        return tn_fail(err, TN_NO_MEMORY, "cuda: no memory for the plugin");
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    *p = (plugin){.host = h, .device = (uint32_t)h->opt_int(h->ctx, "device"),
                  .threads = (uint32_t)h->opt_int(h->ctx, "pack_threads"),
                  .graphs = h->opt_int(h->ctx, "graphs") != 0};
    p->planned = (cu_planned){.memory = (uint64_t)h->opt_int(h->ctx, "plan_memory"),
                              .kept = (uint64_t)h->opt_int(h->ctx, "plan_kept"),
                              .arch = h->opt_text(h->ctx, "plan_arch"),
                              .nsm = (uint32_t)h->opt_int(h->ctx, "plan_multiprocessors")};
    if (p->threads == 0)
        p->threads = cores > 0 ? (uint32_t)cores : 1;
    *self = p;
    return TN_OK;
}

static tn_status cuda_start(void *self, tn_err *err)
{
    (void)self;
    (void)err;
    return TN_OK;
}

static void cuda_stop(void *self)
{
    plugin *p = self;
    p->host->release(p->host->ctx, p);
}

static tn_status open_card(cu_dev *d, tn_err *err)
{
    struct cudaDeviceProp prop;
    int sms = 0;
    cudaError_t e = cudaSetDevice(d->index);
    if (e == cudaSuccess)
        e = cudaGetDeviceProperties(&prop, d->index);
    if (e == cudaSuccess)
        e = cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, d->index);
    if (e != cudaSuccess)
        return cu_fail(err, e, "opening the card");
    d->major = (uint32_t)prop.major;
    d->minor = (uint32_t)prop.minor;
    d->nsm = (uint32_t)sms;
    snprintf(d->name, sizeof d->name, "%.100s", prop.name);
    if (d->major * 10 + d->minor < CAPABILITY_LEAST)
        return tn_fail(err, TN_UNAVAILABLE, "cuda: card %d, %s, has compute capability %u.%u; "
                       "expected 7.5 or later", d->index, d->name, d->major, d->minor);
    e = cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking);
    return e == cudaSuccess ? TN_OK : cu_fail(err, e, "opening the card");
}

static void declare_metrics(cu_dev *d)
{
    const tn_host *h = d->host;
    char labels[32];
    d->graph_steps = d->graphs_dropped = TN_NONE;
    if (h->metric == NULL || h->metric_put == NULL)
        return;
    snprintf(labels, sizeof labels, "card=\"%d\"", d->index);
    d->graph_steps = h->metric(h->ctx, TN_METRIC_COUNTER, "cuda_graph_steps_total",
                               "Steps that ran as a captured graph.", labels, NULL, 0);
    d->graphs_dropped = h->metric(h->ctx, TN_METRIC_COUNTER, "cuda_graphs_dropped_total",
                                  "Captured graphs that made room for others.", labels, NULL, 0);
}

static tn_status cuda_open(void *self, uint32_t index, void **dev, tn_err *err)
{
    plugin *p = self;
    int n = 0;
    bool planned = p->planned.memory > 0;
    tn_status st = planned ? TN_OK : count_cards(&n, err);
    if (st != TN_OK)
        return st;
    uint64_t card = (uint64_t)p->device + index;
    if (!planned && card >= (uint64_t)n)
        return tn_fail(err, TN_UNAVAILABLE, "cuda: card %llu; the driver lists %d",
                       (unsigned long long)card, n);
    cu_dev *d = p->host->alloc(p->host->ctx, sizeof *d);
    if (d == NULL)
        return tn_fail(err, TN_NO_MEMORY, "cuda: no memory for the device");
    *d = (cu_dev){.host = p->host, .index = (int)card, .first = p->device, .threads = p->threads,
                  .graphs = p->graphs};
    if (planned)
        cu_planned_open(d, &p->planned);
    else
        st = open_card(d, err);
    if (st != TN_OK) {
        p->host->release(p->host->ctx, d);
        return st;
    }
    declare_metrics(d);
    *dev = d;
    return TN_OK;
}

static void cuda_close(void *dev)
{
    cu_dev *d = dev;
    if (d->planned.memory == 0)
        cudaStreamDestroy(d->stream);
    d->host->release(d->host->ctx, d);
}

/* ------------------------------------------------------------------------------------ facts */

static tn_status cuda_info(void *dev, tn_device_info *out, tn_err *err)
{
    const cu_dev *d = dev;
    size_t free = 0, total = 0;
    int n = 0;
    bool planned = d->planned.memory > 0;
    cudaError_t e = planned ? cudaSuccess : cudaSetDevice(d->index);
    if (e == cudaSuccess && !planned)
        e = cudaMemGetInfo(&free, &total);
    if (e == cudaSuccess && !planned)
        e = cudaGetDeviceCount(&n);
    if (e != cudaSuccess)
        return cu_fail(err, e, "asking the card");
    *out = (tn_device_info){.size = sizeof *out, .ndevice = (uint32_t)n, .block_tokens = 32,
                            .memory_total = total, .memory_free = free};
    out->forms = 1u << TN_FORM_F32 | 1u << TN_FORM_F16 | 1u << TN_FORM_BF16 |
                 1u << TN_FORM_W4G | 1u << TN_FORM_W8G;
    out->act_dtypes = 1u << TN_F16; /* a recipe of bf16 is run in f16 */
    snprintf(out->name, sizeof out->name, "%s", d->name);
    snprintf(out->arch, sizeof out->arch, "sm_%u%u", d->major, d->minor);
    if (planned)
        cu_planned_info(d, out);
    return TN_OK;
}

#define COPY_SIZE (512ull << 20)
#define COPY_TURNS 8

/* Copies inside the card, read and written: the bound of kernels.md. */
static tn_status cuda_bandwidth(void *dev, double *out, tn_err *err)
{
    cu_dev *d = dev;
    uint8_t *data = NULL;
    cudaEvent_t begin = NULL, end = NULL;
    size_t free = 0, total = 0;
    float ms = 0;
    double best = 0;
    tn_status st = cu_planned_refuse(d, "bandwidth", err);
    if (st != TN_OK)
        return st;
    cudaError_t e = cudaSetDevice(d->index);
    if (e == cudaSuccess)
        e = cudaMemGetInfo(&free, &total);
    uint64_t size = COPY_SIZE < free / 4 ? COPY_SIZE : free / 4 / 4096 * 4096;
    if (e == cudaSuccess)
        e = cudaMalloc((void **)&data, 2 * size + 4096);
    if (e == cudaSuccess)
        e = cudaMemsetAsync(data, 0, 2 * size, d->stream);
    if (e == cudaSuccess)
        e = cudaEventCreateWithFlags(&begin, cudaEventDefault);
    if (e == cudaSuccess)
        e = cudaEventCreateWithFlags(&end, cudaEventDefault);
    for (uint32_t i = 0; i < COPY_TURNS && e == cudaSuccess; i++) {
        e = cudaEventRecord(begin, d->stream);
        if (e == cudaSuccess)
            e = cudaMemcpyAsync(data + size, data, size, cudaMemcpyDeviceToDevice, d->stream);
        if (e == cudaSuccess)
            e = cudaEventRecord(end, d->stream);
        if (e == cudaSuccess)
            e = cudaEventSynchronize(end);
        if (e == cudaSuccess)
            e = cudaEventElapsedTime(&ms, begin, end);
        double rate = ms > 0 ? 2.0 * (double)size / ((double)ms * 1e-3) : 0;
        best = rate > best ? rate : best;
    }
    if (begin != NULL)
        cudaEventDestroy(begin);
    if (end != NULL)
        cudaEventDestroy(end);
    if (data != NULL)
        cudaFree(data);
    if (e != cudaSuccess)
        return cu_fail(err, e, "measuring bandwidth");
    *out = best;
    return TN_OK;
}

/* ------------------------------------------------------------------ the table's signatures */

static tn_status device_compile(void *dev, const tn_recipe *r, const tn_limits *l,
                                void **program, tn_need *need, tn_err *err)
{
    cu_program *p;
    tn_status st = cu_program_open(dev, r, l, &p, need, err);
    if (st == TN_OK)
        *program = p;
    return st;
}

static void use_card(void *program)
{
    const cu_dev *d = ((cu_program *)program)->dev;
    if (d->planned.memory == 0)
        cudaSetDevice(d->index);
}

static tn_status device_reserve(void *program, const tn_pools *pools, tn_err *err)
{
    use_card(program);
    return cu_reserve(program, pools, err);
}

static tn_status device_pack(void *program, uint32_t w, const tn_reader *reader, tn_err *err)
{
    use_card(program);
    return cu_pack(program, w, reader, err);
}

static uint64_t device_weight_bytes(void *program, uint32_t w)
{
    const cu_program *p = program;
    if (w >= p->nweight)
        return 0;
    const cu_weight *t = &p->weight[w];
    if (t->spec.role == TN_ROLE_VECTOR)
        return t->size;
    const gpu_matrix *m = &t->m;
    uint64_t n = m->nexpert * (m->codes_size + m->scale_size + m->zero_size);
    return t->half != 0 ? n / 2 : n;
}

static void device_release(void *program)
{
    use_card(program);
    cu_release(program);
}

static tn_status device_run(void *program, const tn_step *step, tn_err *err)
{
    return cu_run(program, step, err);
}

static tn_status device_wait(void *program, uint64_t number, uint32_t poll,
                             const tn_results **out, tn_err *err)
{
    return cu_wait(program, number, poll != 0, out, err);
}

static tn_status device_block_copy(void *program, int32_t from, int32_t to, tn_err *err)
{
    use_card(program);
    return cu_block_copy(program, from, to, err);
}

static tn_status device_state_copy(void *program, int32_t from, int32_t to, tn_err *err)
{
    use_card(program);
    return cu_state_copy(program, from, to, err);
}

static uint64_t device_block_size(void *program)
{
    return cu_block_bytes(program);
}

static tn_status device_block_read(void *program, int32_t block, void *data, tn_err *err)
{
    use_card(program);
    return cu_block_move(program, block, data, true, err);
}

static tn_status device_block_write(void *program, int32_t block, const void *data, tn_err *err)
{
    use_card(program);
    return cu_block_move(program, block, (void *)(uintptr_t)data, false, err);
}

static uint64_t device_state_size(void *program)
{
    return cu_state_size(program);
}

static tn_status device_state_read(void *program, int32_t slot, void *data, tn_err *err)
{
    use_card(program);
    return cu_state_move(program, slot, data, true, err);
}

static tn_status device_state_write(void *program, int32_t slot, const void *data, tn_err *err)
{
    use_card(program);
    return cu_state_move(program, slot, (void *)(uintptr_t)data, false, err);
}

static tn_status device_peek(void *program, uint32_t buffer, uint32_t row0, uint32_t nrow,
                             float *out, tn_err *err)
{
    use_card(program);
    return cu_peek(program, buffer, row0, nrow, out, err);
}

static tn_status device_mem_take(void *dev, uint64_t size, void **p, tn_err *err)
{
    const cu_dev *d = dev;
    void *taken = NULL;
    tn_status st = cu_planned_refuse(d, "taking memory", err);
    if (st != TN_OK)
        return st;
    cudaError_t e = cudaSetDevice(d->index);
    if (e == cudaSuccess)
        e = cudaMalloc(&taken, size);
    if (e != cudaSuccess)
        return cu_fail(err, e, "taking memory of the card");
    *p = taken;
    return TN_OK;
}

static void device_mem_give(void *dev, void *p)
{
    (void)dev;
    cudaFree(p);
}

static tn_status device_mem_copy(void *dev, void *to, const void *from, uint64_t size,
                                 tn_err *err)
{
    const cu_dev *d = dev;
    cudaError_t e = cudaSetDevice(d->index);
    if (e == cudaSuccess)
        e = cudaMemcpyAsync(to, from, size, cudaMemcpyDefault, d->stream);
    if (e == cudaSuccess)
        e = cudaStreamSynchronize(d->stream);
    return e == cudaSuccess ? TN_OK : cu_fail(err, e, "copying memory");
}

static void *device_stream(void *dev)
{
    return ((cu_dev *)dev)->stream;
}

/* -------------------------------------------------------------------------------- the plugin */

static const char *const archs[] = {"7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0", NULL};

static const tn_option options[] = {
    {.size = sizeof(tn_option), .type = TN_OPT_INT, .key = "device", .fallback = "0",
     .least = 0, .greatest = 1023, .help = "Number of the first card, as the driver counts."},
    {.size = sizeof(tn_option), .type = TN_OPT_INT, .key = "pack_threads", .fallback = "0",
     .least = 0, .greatest = 64,
     .help = "Threads that read weights while loading; 0: one for each core."},
    {.size = sizeof(tn_option), .type = TN_OPT_BOOL, .key = "graphs", .fallback = "yes",
     .help = "Run steps of few rows as captured graphs."},
    {.size = sizeof(tn_option), .type = TN_OPT_SIZE, .key = "plan_memory", .fallback = "0",
     .least = 0, .greatest = 1125899906842624.0,
     .help = "Only plan (tenon plan --gpu-memory), for a card of this memory that need not be there; "
             "0: cards are real."},
    {.size = sizeof(tn_option), .type = TN_OPT_ENUM, .key = "plan_arch", .fallback = "9.0",
     .choices = archs, .help = "Compute capability of the card to plan for."},
    {.size = sizeof(tn_option), .type = TN_OPT_INT, .key = "plan_multiprocessors", .fallback = "0",
     .least = 0, .greatest = 1024,
     .help = "Multiprocessors of the card to plan for; 0: the most that one of the kind has."},
    {.size = sizeof(tn_option), .type = TN_OPT_SIZE, .key = "plan_kept", .fallback = "1GiB",
     .least = 0, .greatest = 1125899906842624.0,
     .help = "What driver, context, NCCL and captured graphs take of the card to plan for beside "
             "the budget: 0.8 to 1.1 GiB a process were seen."},
};

static const tn_device device = {
    .size = sizeof(tn_device),
    .open = cuda_open,
    .close = cuda_close,
    .info = cuda_info,
    .bandwidth = cuda_bandwidth,
    .compile = device_compile,
    .reserve = device_reserve,
    .pack = device_pack,
    .weight_bytes = device_weight_bytes,
    .release = device_release,
    .run = device_run,
    .wait = device_wait,
    .block_copy = device_block_copy,
    .state_copy = device_state_copy,
    .block_size = device_block_size,
    .block_read = device_block_read,
    .block_write = device_block_write,
    .state_size = device_state_size,
    .state_read = device_state_read,
    .state_write = device_state_write,
    .peek = device_peek,
    .mem_take = device_mem_take,
    .mem_give = device_mem_give,
    .mem_copy = device_mem_copy,
    .stream = device_stream,
    .report = cu_report,
};

const tn_plugin tn_plugin_entry = {
    .abi_major = TN_ABI_MAJOR,
    .abi_minor = TN_ABI_MINOR,
    .size = sizeof(tn_plugin),
    .kind = TN_KIND_DEVICE,
    .name = "cuda",
    .version = "0.1",
    .summary = "Runs models on an NVIDIA card, from the T4 on.",
    .options = options,
    .noption = sizeof options / sizeof options[0],
    .table = &device,
    .probe = cuda_probe,
    .init = cuda_init,
    .start = cuda_start,
    .stop = cuda_stop,
};
