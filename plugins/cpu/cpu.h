/* SPDX-License-Identifier: Apache-2.0 */
/* cpu.h - the opened device: kernels, threads and the big pieces of memory.
 *
 * A region is memory straight from the operating system, zeroed, given back whole; pages are
 * only taken when first touched. Small things come from the host's counted allocator. */
#ifndef TN_CPU_H
#define TN_CPU_H

#include "kernel.h"
#include "pool.h"

typedef struct cpu_region {
    uint8_t *data;            /* 64-byte aligned (page aligned); NULL: empty */
    uint64_t size;
} cpu_region;

typedef struct cpu_dev {
    const tn_host *host;      /* borrowed */
    const cpu_kernels *kernels;
    cpu_pool *pool;
    uint32_t nthread;
    uint32_t huge;            /* ask for huge pages */
    uint32_t chunked;         /* prompts go through DELTA in chunks */
} cpu_dev;

/* `what` names the memory in the error. Size 0 gives an empty region. */
tn_status cpu_region_open(cpu_region *r, uint64_t size, uint32_t huge, const char *what,
                          tn_err *err);
void cpu_region_close(cpu_region *r);

/* Bytes of memory this process may use at most and could still take now: the machine's, or
 * the cgroup's where that is less. */
void cpu_memory(uint64_t *total, uint64_t *free);

/* report.c: what a doctor may want to know of the processor and its memory. */
tn_status cpu_report(void *dev, void (*put)(void *ctx, const char *key, const char *text),
                     void *ctx, tn_err *err);

#endif
