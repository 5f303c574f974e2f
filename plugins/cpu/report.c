/* SPDX-License-Identifier: Apache-2.0 */
/* report.c - what `tenon doctor` prints of the processor: cores, levels of the kernels, caches,
 * clocks, huge pages. What the system does not tell is left out. */
#include "cpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

/* The first line of a file without its end; false when there is none. */
static bool read_line(const char *path, char *out, size_t size)
{
    FILE *f = fopen(path, "re");
    bool found = f != NULL && fgets(out, (int)size, f) != NULL;
    if (f != NULL)
        fclose(f);
    if (found)
        out[strcspn(out, "\n")] = 0;
    return found && out[0] != 0;
}

static void report_cores(const reporter *r, const cpu_dev *d)
{
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    uint32_t allowed = cpu_cores_allowed();
    say(r, "cores", "%u of %ld may be used, %u thread%s%s", allowed, online > 0 ? online : 1,
        d->nthread, d->nthread == 1 ? "" : "s", d->nthread > allowed ? ": too many" : "");
    char nodes[64];
    if (read_line("/sys/devices/system/node/online", nodes, sizeof nodes))
        say(r, "memory_nodes", "%s", nodes);
}

static void report_levels(const reporter *r, const cpu_dev *d)
{
    char text[128] = "";
    const cpu_kernels *k;
    for (uint32_t i = 0; (k = cpu_kernels_at(i)) != NULL; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s", i > 0 ? " " : "",
                 k->name);
    say(r, "levels", "%s; %s is used", text, d->kernels->name);
}

static void report_caches(const reporter *r)
{
    long l2 = sysconf(_SC_LEVEL2_CACHE_SIZE), l3 = sysconf(_SC_LEVEL3_CACHE_SIZE);
    if (l2 > 0 || l3 > 0)
        say(r, "caches", "L2 %.1f MiB, L3 %.1f MiB", (double)l2 / 0x1p20, (double)l3 / 0x1p20);
}

static void report_clocks(const reporter *r)
{
    static const char folder[] = "/sys/devices/system/cpu/cpu0/cpufreq/";
    char path[128], now[32], most[32], governor[32];
    snprintf(path, sizeof path, "%sscaling_cur_freq", folder);
    if (!read_line(path, now, sizeof now))
        return;
    snprintf(path, sizeof path, "%scpuinfo_max_freq", folder);
    bool top = read_line(path, most, sizeof most);
    snprintf(path, sizeof path, "%sscaling_governor", folder);
    if (!read_line(path, governor, sizeof governor))
        snprintf(governor, sizeof governor, "?");
    say(r, "clock", "%ld MHz of %ld, governor %s", strtol(now, NULL, 10) / 1000,
        top ? strtol(most, NULL, 10) / 1000 : 0, governor);
}

/* "always [madvise] never": the word in brackets. */
static void report_huge_pages(const reporter *r, const cpu_dev *d)
{
    char line[128], *begin, *end;
    const char *mode = "not offered by the system";
    if (read_line("/sys/kernel/mm/transparent_hugepage/enabled", line, sizeof line) &&
        (begin = strchr(line, '[')) != NULL && (end = strchr(begin, ']')) != NULL) {
        *end = 0;
        mode = begin + 1;
    }
    say(r, "huge_pages", "%s by the plugin, transparent ones: %s%s",
        d->huge ? "wanted" : "not wanted", mode,
        d->huge && strcmp(mode, "never") == 0 ? " (weights then lie in small ones)" : "");
}

tn_status cpu_report(void *dev, void (*put)(void *ctx, const char *key, const char *text),
                     void *ctx, tn_err *err)
{
    const cpu_dev *d = dev;
    const reporter r = {.put = put, .ctx = ctx};
    (void)err;
    report_cores(&r, d);
    report_levels(&r, d);
    report_caches(&r);
    report_clocks(&r);
    report_huge_pages(&r, d);
    return TN_OK;
}
