/* SPDX-License-Identifier: Apache-2.0 */
/* pool.h - the threads of the cpu device: one job at a time, run by all of them.
 *
 * Worker 0 is whoever calls cpu_pool_run; the others wait for it. A wait spins for a moment
 * and then sleeps on a futex, so that phases of some microseconds cost tens of nanoseconds
 * while an idle pool costs nothing. A worker that had to sleep spins less the next time: when
 * other programs want our cores, a sleeping thread leaves its core to whom it waits for,
 * which a spinning one does not.
 *
 *     run     caller publishes the job, all workers run it, the last one out ends it
 *     barrier inside a job: nobody passes before all have come; orders memory like a lock */
#ifndef TN_CPU_POOL_H
#define TN_CPU_POOL_H

#include <tenon/plugin.h>

#define CPU_THREADS_MAX 256u

typedef struct cpu_pool cpu_pool;

typedef void (*cpu_job)(void *arg, uint32_t worker);

/* Cores this process may use: its affinity, cut to the cgroup's quota; at least 1. */
uint32_t cpu_cores_allowed(void);

/* Starts nthread - 1 threads. `spin_us`: how long a worker spins before it sleeps. */
tn_status cpu_pool_open(const tn_host *h, uint32_t nthread, uint32_t spin_us, cpu_pool **out,
                        tn_err *err);
void cpu_pool_close(cpu_pool *p);
uint32_t cpu_pool_size(const cpu_pool *p);

/* Runs job(arg, worker) on every worker and returns when all are done. Callable from several
 * threads: they take turns. Takes no memory. */
void cpu_pool_run(cpu_pool *p, cpu_job job, void *arg);
/* Inside a job only, by every worker equally often. */
void cpu_pool_barrier(cpu_pool *p, uint32_t worker);

#endif
