/* SPDX-License-Identifier: Apache-2.0 */
/* region.c - big pieces of memory, and how much of it there is. */
#include "cpu.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define HUGE_SIZE ((uint64_t)2 << 20)

/* With huge pages the mapping is one larger than asked for, so that the part in use can begin
 * on a huge page; the rest is given back at once. */
static uint8_t *map_aligned(uint64_t size, uint64_t align)
{
    uint8_t *p = mmap(NULL, size + align, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    uint64_t before = (align - (uintptr_t)p % align) % align;
    if (before > 0)
        munmap(p, before);
    if (align > before)
        munmap(p + before + size, align - before);
    return p + before;
}

tn_status cpu_region_open(cpu_region *r, uint64_t size, uint32_t huge, const char *what,
                          tn_err *err)
{
    *r = (cpu_region){0};
    if (size == 0)
        return TN_OK;
    uint64_t page = huge && size >= HUGE_SIZE ? HUGE_SIZE : (uint64_t)sysconf(_SC_PAGESIZE);
    if (size > UINT64_MAX / 4)
        return tn_fail(err, TN_NO_MEMORY, "cpu: %s: %llu bytes is more than any machine has", what,
                       (unsigned long long)size);
    size = (size + page - 1) / page * page;
    uint64_t total, free;
    cpu_memory(&total, &free);
    if (total > 0 && size > total)
        return tn_fail(err, TN_NO_MEMORY, "cpu: %s needs %.1f MiB, this machine has %.1f MiB", what,
                       (double)size / 1048576.0, (double)total / 1048576.0);
    uint8_t *p = map_aligned(size, page);
    if (p == NULL)
        return tn_fail(err, TN_NO_MEMORY, "cpu: %s: cannot take %.1f MiB: %s", what,
                       (double)size / 1048576.0, strerror(errno));
    if (page == HUGE_SIZE)
        madvise(p, size, MADV_HUGEPAGE); /* a wish: small pages work as well */
    r->data = p;
    r->size = size;
    return TN_OK;
}

void cpu_region_close(cpu_region *r)
{
    if (r->data != NULL)
        munmap(r->data, r->size);
    *r = (cpu_region){0};
}

/* ------------------------------------------------------------------ how much there is */

/* A number in a file, 0 when there is none ("max" is none). */
static uint64_t file_number(const char *path)
{
    unsigned long long v = 0;
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return 0;
    if (fscanf(f, "%llu", &v) != 1)
        v = 0;
    fclose(f);
    return v;
}

/* The value of "KEY:  123 kB" in /proc/meminfo, in bytes; 0 when absent. */
static uint64_t meminfo(const char *key)
{
    char line[160];
    unsigned long long kib = 0;
    size_t n = strlen(key);
    FILE *f = fopen("/proc/meminfo", "re");
    if (f == NULL)
        return 0;
    while (fgets(line, sizeof line, f) != NULL)
        if (strncmp(line, key, n) == 0 && line[n] == ':') {
            kib = strtoull(line + n + 1, NULL, 10);
            break;
        }
    fclose(f);
    return kib * 1024;
}

void cpu_memory(uint64_t *total, uint64_t *free)
{
    *total = meminfo("MemTotal");
    *free = meminfo("MemAvailable");
    uint64_t limit = file_number("/sys/fs/cgroup/memory.max");
    uint64_t used = file_number("/sys/fs/cgroup/memory.current");
    if (limit == 0) {
        limit = file_number("/sys/fs/cgroup/memory/memory.limit_in_bytes");
        used = file_number("/sys/fs/cgroup/memory/memory.usage_in_bytes");
    }
    if (limit == 0 || limit > *total)
        return;
    *total = limit;
    uint64_t rest = limit > used ? limit - used : 0;
    *free = rest < *free ? rest : *free;
}
