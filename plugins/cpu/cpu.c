/* SPDX-License-Identifier: Apache-2.0 */
/* cpu.c - the device plugin "cpu": the processor's own cores and memory.
 *
 * It runs everywhere, is fast with AVX2 or better, and with limits.exact is the oracle that
 * other devices are compared with. run() does the whole step before it returns. */
#include "program.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

typedef struct plugin {
    const tn_host *host;          /* borrowed until stop */
    const cpu_kernels *kernels;   /* as the options ask */
    uint32_t nthread, spin_us, huge, chunked;
} plugin;

/* ------------------------------------------------------------------------------ life cycle */

static tn_status cpu_init(const tn_host *h, void **self, tn_err *err)
{
    const char *isa = h->opt_text(h->ctx, "isa");
    const cpu_kernels *k = cpu_kernels_pick(strcmp(isa, "auto") == 0 ? NULL : isa);
    if (k == NULL)
        return tn_fail(err, TN_UNAVAILABLE, "cpu: isa: this processor or build does not run %s",
                       isa);
    plugin *p = h->alloc(h->ctx, sizeof *p);
    if (p == NULL)
        return tn_fail(err, TN_NO_MEMORY, "cpu: no memory for the plugin");
    *p = (plugin){.host = h, .kernels = k};
    p->nthread = (uint32_t)h->opt_int(h->ctx, "threads");
    if (p->nthread == 0)
        p->nthread = cpu_cores_allowed();
    if (p->nthread > CPU_THREADS_MAX)
        p->nthread = CPU_THREADS_MAX;
    p->spin_us = (uint32_t)h->opt_int(h->ctx, "spin_us");
    p->huge = h->opt_int(h->ctx, "huge_pages") != 0;
    p->chunked = strcmp(h->opt_text(h->ctx, "delta"), "chunked") == 0;
    *self = p;
    return TN_OK;
}

static tn_status cpu_start(void *self, tn_err *err)
{
    (void)self;
    (void)err;
    return TN_OK;
}

static void cpu_stop(void *self)
{
    plugin *p = self;
    p->host->release(p->host->ctx, p);
}

static void warn_oversubscribed(const plugin *p)
{
    char text[160];
    uint32_t cores = cpu_cores_allowed();
    if (p->nthread <= cores)
        return;
    snprintf(text, sizeof text, "threads: %u on %u allowed cores; more threads than cores are "
             "slower", p->nthread, cores);
    p->host->log(p->host->ctx, TN_LOG_WARN, text);
}

static tn_status cpu_open(void *self, uint32_t index, void **dev, tn_err *err)
{
    plugin *p = self;
    if (index != 0)
        return tn_fail(err, TN_UNAVAILABLE, "cpu: device %u; there is only device 0", index);
    cpu_dev *d = p->host->alloc(p->host->ctx, sizeof *d);
    if (d == NULL)
        return tn_fail(err, TN_NO_MEMORY, "cpu: no memory for the device");
    *d = (cpu_dev){.host = p->host, .kernels = p->kernels, .nthread = p->nthread,
                   .huge = p->huge, .chunked = p->chunked};
    tn_status st = cpu_pool_open(p->host, p->nthread, p->spin_us, &d->pool, err);
    if (st != TN_OK) {
        p->host->release(p->host->ctx, d);
        return st;
    }
    warn_oversubscribed(p);
    *dev = d;
    return TN_OK;
}

static void cpu_close(void *dev)
{
    cpu_dev *d = dev;
    cpu_pool_close(d->pool);
    d->host->release(d->host->ctx, d);
}

/* ------------------------------------------------------------------------------------ facts */

/* The processor's name from /proc/cpuinfo; "CPU" when it gives none. */
static void model_name(char *out, size_t size)
{
    char line[256];
    FILE *f = fopen("/proc/cpuinfo", "re");
    snprintf(out, size, "CPU");
    if (f == NULL)
        return;
    while (fgets(line, sizeof line, f) != NULL) {
        char *value = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || value == NULL)
            continue;
        value += 1 + strspn(value + 1, " ");
        value[strcspn(value, "\n")] = 0;
        snprintf(out, size, "%s", value);
        break;
    }
    fclose(f);
}

static tn_status cpu_info(void *dev, tn_device_info *out, tn_err *err)
{
    const cpu_dev *d = dev;
    char name[80];
    (void)err;
    *out = (tn_device_info){.size = sizeof *out, .ndevice = 1, .block_tokens = 32,
                            .host_memory = 1};
    out->forms = 1u << TN_FORM_F32 | 1u << TN_FORM_F16 | 1u << TN_FORM_BF16 |
                 1u << TN_FORM_W4G | 1u << TN_FORM_W8G | 1u << TN_FORM_PRIVATE;
    out->act_dtypes = 1u << TN_F32 | 1u << TN_F16 | 1u << TN_BF16;
    cpu_memory(&out->memory_total, &out->memory_free);
    model_name(name, sizeof name);
    snprintf(out->name, sizeof out->name, "%s, %u thread%s, %s", name, d->nthread,
             d->nthread == 1 ? "" : "s", d->kernels->name);
    snprintf(out->arch, sizeof out->arch, "%s", d->kernels->name);
    return TN_OK;
}

/* ------------------------------------------------------------------------------- bandwidth */

#define PASS_MAX 12u
#define PASS_NS 500000000u        /* no pass begins later than this */

typedef struct reading {
    cpu_dev *dev;
    uint8_t *data;
    uint64_t share;               /* bytes a worker */
    uint64_t sum[CPU_THREADS_MAX];
    bool fill;
} reading;

static void read_share(void *arg, uint32_t worker)
{
    reading *r = arg;
    if (r->fill)
        memset(r->data + worker * r->share, 1, r->share);
    else
        r->sum[worker] += r->dev->kernels->read(r->data + worker * r->share, r->share);
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Four times the last cache, within reason. */
static uint64_t reading_size(void)
{
    const uint64_t least = 64u << 20, most = 512u << 20;
    long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
    uint64_t size = cache > 0 ? 4 * (uint64_t)cache : 128u << 20, total, free;
    cpu_memory(&total, &free);
    size = size < least ? least : size > most ? most : size;
    return free > 0 && size > free / 4 ? free / 4 : size;
}

static tn_status cpu_bandwidth(void *dev, double *out, tn_err *err)
{
    cpu_dev *d = dev;
    cpu_region region;
    reading *r = d->host->alloc(d->host->ctx, sizeof *r);
    if (r == NULL)
        return tn_fail(err, TN_NO_MEMORY, "cpu: no memory to measure bandwidth");
    tn_status st = cpu_region_open(&region, reading_size(), d->huge, "the bandwidth test", err);
    if (st != TN_OK) {
        d->host->release(d->host->ctx, r);
        return st;
    }
    memset(r, 0, sizeof *r);
    r->dev = d;
    r->data = region.data;
    r->share = region.size / d->nthread / 64 * 64;
    r->fill = true;
    cpu_pool_run(d->pool, read_share, r);
    r->fill = false;
    double best = 0;
    uint64_t begin = now_ns(), end = begin;
    for (uint32_t i = 0; i < PASS_MAX && end - begin < PASS_NS; i++) {
        uint64_t t = now_ns();
        cpu_pool_run(d->pool, read_share, r);
        end = now_ns();
        double rate = (double)(r->share * d->nthread) * 1e9 / (double)(end - t);
        best = rate > best ? rate : best;
    }
    cpu_region_close(&region);
    d->host->release(d->host->ctx, r);
    *out = best;
    return TN_OK;
}

/* ------------------------------------------------------------------ the table's signatures */

static tn_status cpu_compile_recipe(void *dev, const tn_recipe *r, const tn_limits *l,
                                    void **program, tn_need *need, tn_err *err)
{
    cpu_program *p;
    tn_status st = cpu_program_open(dev, r, l, &p, need, err);
    if (st == TN_OK)
        *program = p;
    return st;
}

static tn_status device_reserve(void *program, const tn_pools *pools, tn_err *err)
{
    return cpu_reserve(program, pools, err);
}

static tn_status device_pack(void *program, uint32_t w, const tn_reader *reader, tn_err *err)
{
    return cpu_pack(program, w, reader, err);
}

static uint64_t device_weight_bytes(void *program, uint32_t w)
{
    return cpu_weight_bytes(program, w);
}

static void device_release(void *program)
{
    cpu_release(program);
}

static tn_status device_run(void *program, const tn_step *step, tn_err *err)
{
    return cpu_program_run(program, step, err);
}

/* The step is done when run returns, so there is nothing to poll. */
static tn_status device_wait(void *program, uint64_t number, uint32_t poll,
                             const tn_results **out, tn_err *err)
{
    (void)poll;
    return cpu_program_wait(program, number, out, err);
}

static tn_status device_block_copy(void *program, int32_t from, int32_t to, tn_err *err)
{
    return cpu_block_move(program, from, to, err);
}

static tn_status device_state_copy(void *program, int32_t from, int32_t to, tn_err *err)
{
    return cpu_slot_move(program, from, to, err);
}

static uint64_t device_block_size(void *program)
{
    return cpu_neutral_bytes(program);
}

static tn_status device_block_read(void *program, int32_t block, void *data, tn_err *err)
{
    return cpu_block_get(program, block, data, err);
}

static tn_status device_block_write(void *program, int32_t block, const void *data, tn_err *err)
{
    return cpu_block_set(program, block, data, err);
}

static uint64_t device_state_size(void *program)
{
    return cpu_settled_bytes(program);
}

static tn_status device_state_read(void *program, int32_t slot, void *data, tn_err *err)
{
    return cpu_slot_get(program, slot, data, err);
}

static tn_status device_state_write(void *program, int32_t slot, const void *data, tn_err *err)
{
    return cpu_slot_set(program, slot, data, err);
}

static tn_status device_peek(void *program, uint32_t buffer, uint32_t row0, uint32_t nrow,
                             float *out, tn_err *err)
{
    return cpu_program_peek(program, buffer, row0, nrow, out, err);
}

static tn_status device_mem_take(void *dev, uint64_t size, void **p, tn_err *err)
{
    const cpu_dev *d = dev;
    void *taken = d->host->alloc(d->host->ctx, size);
    if (taken == NULL)
        return tn_fail(err, TN_NO_MEMORY, "cpu: no memory for %llu bytes",
                       (unsigned long long)size);
    *p = taken;
    return TN_OK;
}

static void device_mem_give(void *dev, void *p)
{
    const cpu_dev *d = dev;
    d->host->release(d->host->ctx, p);
}

static tn_status device_mem_copy(void *dev, void *to, const void *from, uint64_t size,
                                 tn_err *err)
{
    (void)dev;
    (void)err;
    memmove(to, from, size);
    return TN_OK;
}

static void *device_stream(void *dev)
{
    (void)dev;
    return NULL;
}

/* -------------------------------------------------------------------------------- the plugin */

static const char *const isa_choices[] = {
    "auto", "scalar", "avx2", "avxvnni", "avx512", "avx512vnni", "avx512amx",
    NULL,
};

static const char *const delta_choices[] = {"recurrent", "chunked", NULL};

static const tn_option options[] = {
    {.size = sizeof(tn_option), .type = TN_OPT_INT, .key = "threads", .fallback = "0",
     .least = 0, .greatest = CPU_THREADS_MAX,
     .help = "Worker threads; 0: one for each core that the process may use."},
    {.size = sizeof(tn_option), .type = TN_OPT_ENUM, .key = "isa", .fallback = "auto",
     .choices = isa_choices,
     .help = "Instruction set of the kernels; auto: the best that the processor runs."},
    {.size = sizeof(tn_option), .type = TN_OPT_BOOL, .key = "huge_pages", .fallback = "yes",
     .help = "Ask the system for huge pages for weights and cache."},
    {.size = sizeof(tn_option), .type = TN_OPT_INT, .key = "spin_us", .fallback = "50",
     .least = 0, .greatest = 1000,
     .help = "Microseconds that a worker spins for the others before it sleeps."},
    {.size = sizeof(tn_option), .type = TN_OPT_ENUM, .key = "delta", .fallback = "recurrent",
     .choices = delta_choices,
     .help = "How Gated DeltaNet reads prompts: recurrent gives the same bits however a prompt "
             "is cut; chunked takes 64 tokens at a time, as GPUs do."},
};

static const tn_device device = {
    .size = sizeof(tn_device),
    .open = cpu_open,
    .close = cpu_close,
    .info = cpu_info,
    .bandwidth = cpu_bandwidth,
    .compile = cpu_compile_recipe,
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
    .report = cpu_report,
};

const tn_plugin tn_plugin_entry = {
    .abi_major = TN_ABI_MAJOR,
    .abi_minor = TN_ABI_MINOR,
    .size = sizeof(tn_plugin),
    .kind = TN_KIND_DEVICE,
    .name = "cpu",
    .version = "1.0",
    .summary = "Runs models on the processor: AVX2, AVX-VNNI, AVX-512 or plain C.",
    .options = options,
    .noption = sizeof options / sizeof options[0],
    .table = &device,
    .init = cpu_init,
    .start = cpu_start,
    .stop = cpu_stop,
};
