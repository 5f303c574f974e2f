/* SPDX-License-Identifier: Apache-2.0 */
/* cureport.c - what `tenon doctor` prints of a card.
 *
 * Clocks, links and power are known to NVML alone, a library of the driver. It is opened when
 * the question comes and not before; without it the rest is told, and that it is missing. */
#include "cuprogram.h"

#include <dlfcn.h>

/* The calls of NVML that are asked here, as its manual has them; 0 is success. */
typedef void *nvml_device;
typedef int (*nvml_get)(nvml_device, unsigned *);
typedef int (*nvml_get_of)(nvml_device, unsigned which, unsigned *);
typedef struct nvml_use { unsigned card, memory; } nvml_use; /* percent of the last moments */
typedef struct nvml {
    void *library;
    nvml_device card;
    int (*init)(void);
    int (*shutdown)(void);
    int (*driver)(char *, unsigned);
    int (*find)(const char *, nvml_device *);
    int (*slowed)(nvml_device, unsigned long long *);
    int (*use)(nvml_device, nvml_use *);
    nvml_get pcie, pcie_max, lanes, lanes_max, power, power_max, persistence;
    nvml_get_of clock, clock_max, link, link_version, temperature;
} nvml;

#define CLOCK_SM 1u
#define CLOCK_MEMORY 2u
#define LINKS_MOST 18u

typedef struct reporter {
    void (*put)(void *ctx, const char *key, const char *text);
    void *ctx;
} reporter;

static void say(const reporter *r, const char *key, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static void say(const reporter *r, const char *key, const char *fmt, ...)
{
    char text[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    r->put(r->ctx, key, text);
}

/* ------------------------------------------------------------------------------------- NVML */

static bool find_calls(nvml *n)
{
    const struct { const char *name; void *to; bool must; } call[] = {
        {"nvmlInit_v2", &n->init, true},
        {"nvmlShutdown", &n->shutdown, true},
        {"nvmlDeviceGetHandleByPciBusId_v2", &n->find, true},
        {"nvmlSystemGetDriverVersion", &n->driver, false},
        {"nvmlDeviceGetCurrentClocksThrottleReasons", &n->slowed, false},
        {"nvmlDeviceGetUtilizationRates", &n->use, false},
        {"nvmlDeviceGetCurrPcieLinkGeneration", &n->pcie, false},
        {"nvmlDeviceGetMaxPcieLinkGeneration", &n->pcie_max, false},
        {"nvmlDeviceGetCurrPcieLinkWidth", &n->lanes, false},
        {"nvmlDeviceGetMaxPcieLinkWidth", &n->lanes_max, false},
        {"nvmlDeviceGetPowerUsage", &n->power, false},
        {"nvmlDeviceGetEnforcedPowerLimit", &n->power_max, false},
        {"nvmlDeviceGetPersistenceMode", &n->persistence, false},
        {"nvmlDeviceGetClockInfo", &n->clock, false},
        {"nvmlDeviceGetMaxClockInfo", &n->clock_max, false},
        {"nvmlDeviceGetNvLinkState", &n->link, false},
        {"nvmlDeviceGetNvLinkVersion", &n->link_version, false},
        {"nvmlDeviceGetTemperature", &n->temperature, false},
    };
    for (size_t i = 0; i < sizeof call / sizeof call[0]; i++) {
        void *f = dlsym(n->library, call[i].name);
        if (f == NULL && call[i].must)
            return false;
        memcpy(call[i].to, &f, sizeof f);
    }
    return true;
}

/* False with the reason in `why`. */
static bool open_nvml(nvml *n, int card, const char **why)
{
    char bus[32] = "";
    *n = (nvml){0};
    n->library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    *why = "libnvidia-ml.so.1 is not there: clocks, links and power are not known";
    if (n->library == NULL)
        return false;
    *why = "libnvidia-ml.so.1 does not answer: clocks, links and power are not known";
    if (find_calls(n) && cudaDeviceGetPCIBusId(bus, sizeof bus, card) == cudaSuccess &&
        n->init() == 0) {
        if (n->find(bus, &n->card) == 0)
            return true;
        n->shutdown();
    }
    dlclose(n->library);
    return false;
}

static void close_nvml(nvml *n)
{
    n->shutdown();
    dlclose(n->library);
}

static bool get(const nvml *n, nvml_get f, unsigned *v)
{
    return f != NULL && f(n->card, v) == 0;
}

static bool get_of(const nvml *n, nvml_get_of f, unsigned which, unsigned *v)
{
    return f != NULL && f(n->card, which, v) == 0;
}

static void report_links(const reporter *r, const nvml *n)
{
    unsigned gen, gen_max, lanes, lanes_max, on, up = 0, known = 0, version = 0;
    if (get(n, n->pcie, &gen) && get(n, n->pcie_max, &gen_max) && get(n, n->lanes, &lanes) &&
        get(n, n->lanes_max, &lanes_max))
        say(r, "pcie", "generation %u of %u, %u of %u lanes", gen, gen_max, lanes, lanes_max);
    for (unsigned i = 0; i < LINKS_MOST; i++)
        if (get_of(n, n->link, i, &on)) {
            known++;
            up += on == 1;
            if (on == 1)
                get_of(n, n->link_version, i, &version);
        }
    if (known == 0)
        say(r, "nvlink", "none");
    else
        say(r, "nvlink", "%u of %u links up, version %u", up, known, version);
}

/* A pause is no fault; the others say why a card is slower than it could be. */
static void report_slowed(const reporter *r, const nvml *n)
{
    static const struct { unsigned long long bit; const char *word; } reason[] = {
        {0x1, "idle"}, {0x2, "clocks set by the operator"}, {0x4, "power cap"},
        {0x8, "hardware slowdown"}, {0x10, "sync boost"}, {0x20, "heat (software)"},
        {0x40, "heat (hardware)"}, {0x80, "power brake"}, {0x100, "display clocks"},
    };
    unsigned long long bits = 0;
    char text[200] = "";
    if (n->slowed == NULL || n->slowed(n->card, &bits) != 0)
        return;
    for (size_t i = 0; i < sizeof reason / sizeof reason[0]; i++)
        if ((bits & reason[i].bit) != 0)
            snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s",
                     text[0] != 0 ? ", " : "", reason[i].word);
    say(r, "slowed_by", "%s", text[0] != 0 ? text : "nothing");
}

static void report_clocks(const reporter *r, const nvml *n)
{
    unsigned now, most, watts, watts_most, degrees, on;
    nvml_use use;
    if (n->use != NULL && n->use(n->card, &use) == 0)
        say(r, "utilization", "%u %%, of its memory's time %u %%", use.card, use.memory);
    if (get_of(n, n->clock, CLOCK_SM, &now) && get_of(n, n->clock_max, CLOCK_SM, &most))
        say(r, "clock", "%u MHz of %u", now, most);
    if (get_of(n, n->clock, CLOCK_MEMORY, &now) && get_of(n, n->clock_max, CLOCK_MEMORY, &most))
        say(r, "memory_clock", "%u MHz of %u", now, most);
    report_slowed(r, n);
    if (get(n, n->power, &watts) && get(n, n->power_max, &watts_most))
        say(r, "power", "%u W of %u", watts / 1000, watts_most / 1000);
    if (get_of(n, n->temperature, 0, &degrees))
        say(r, "temperature", "%u C", degrees);
    if (get(n, n->persistence, &on))
        say(r, "persistence", "%s", on == 1 ? "on" : "off: the first start of a process is slow");
}

static void report_nvml(const reporter *r, const cu_dev *d)
{
    nvml n;
    const char *why;
    char driver[96];
    if (!open_nvml(&n, d->index, &why)) {
        say(r, "nvml", "%s", why);
        return;
    }
    if (n.driver != NULL && n.driver(driver, sizeof driver) == 0) {
        driver[sizeof driver - 1] = 0;
        say(r, "driver", "%s", driver);
    }
    report_links(r, &n);
    report_clocks(r, &n);
    close_nvml(&n);
}

/* ------------------------------------------------------------------------------------- CUDA */

static void report_versions(const reporter *r)
{
    int driver = 0, runtime = 0;
    if (cudaDriverGetVersion(&driver) == cudaSuccess && driver > 0)
        say(r, "cuda_driver", "%d.%d", driver / 1000, driver % 1000 / 10);
    if (cudaRuntimeGetVersion(&runtime) == cudaSuccess)
        say(r, "cuda_runtime", "%d.%d", runtime / 1000, runtime % 1000 / 10);
}

/* Code that was made for a card's own architecture begins at once and is faster. */
static void report_code(const reporter *r, const cu_dev *d)
{
    int binary = 0, ptx = 0;
    int own = (int)(d->major * 10 + d->minor);
    if (gpu_code(&binary, &ptx) != cudaSuccess) {
        cudaGetLastError();
        say(r, "kernels", "none that this card runs; expected a build for sm_%d", own);
        return;
    }
    if (ptx >= own)
        say(r, "kernels", "sm_%d, compiled for this card", binary);
    else
        say(r, "kernels", "sm_%d, from code for compute_%d: slower than a build for sm_%d", binary,
            ptx, own);
}

tn_status cu_report(void *dev, void (*put)(void *ctx, const char *key, const char *text),
                    void *ctx, tn_err *err)
{
    const cu_dev *d = dev;
    const reporter r = {.put = put, .ctx = ctx};
    int l2 = 0;
    tn_status st = cu_planned_refuse(d, "a report", err);
    if (st != TN_OK)
        return st;
    cudaError_t e = cudaSetDevice(d->index);
    if (e == cudaSuccess)
        e = cudaDeviceGetAttribute(&l2, cudaDevAttrL2CacheSize, d->index);
    if (e != cudaSuccess)
        return cu_fail(err, e, "asking the card");
    say(&r, "card", "%d, as the driver counts", d->index);
    say(&r, "compute_capability", "%u.%u", d->major, d->minor);
    say(&r, "multiprocessors", "%u, L2 cache %.1f MiB", d->nsm, (double)l2 / 0x1p20);
    report_versions(&r);
    report_code(&r, d);
    report_nvml(&r, d);
    return TN_OK;
}
