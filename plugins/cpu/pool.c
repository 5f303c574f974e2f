/* SPDX-License-Identifier: Apache-2.0 */
/* pool.c - the threads of the cpu device.
 *
 * One word, `turn`, counts barriers passed; whoever waits watches it change. `nwaiting`
 * counts sleepers, so that a barrier without sleepers makes no system call. Both sides use
 * sequentially consistent operations: the sleeper announces itself and then looks at `turn`
 * (inside the futex call), the waker changes `turn` and then looks for sleepers. */
#include "pool.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define LINE 64

/* A word that threads wait on, alone on its cache line. */
typedef struct gate {
    _Alignas(LINE) _Atomic uint32_t turn;
    _Alignas(LINE) _Atomic uint32_t nwaiting;
} gate;

typedef struct worker {
    _Alignas(LINE) struct cpu_pool *pool;
    pthread_t thread;
    uint32_t index;
    uint32_t spin_ns;             /* what this worker spins now, at most the pool's */
} worker;

struct cpu_pool {
    gate start;                   /* a job was published */
    gate barrier;
    _Alignas(LINE) _Atomic uint32_t narrived;
    _Alignas(LINE) _Atomic uint32_t owner; /* 0 free, 1 taken, 2 taken and waited for */
    _Alignas(LINE) const tn_host *host;
    cpu_job job;                  /* NULL: the threads end */
    void *arg;
    uint32_t size;
    uint32_t spin_ns;
    uint32_t nstarted;
    worker *worker;               /* [size] */
};

/* --------------------------------------------------------------------------- waiting */

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void futex_wait(_Atomic uint32_t *word, uint32_t seen)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int n)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

/* True when the word moved on from `seen` within about `ns`. */
static bool gate_spin(gate *g, uint32_t seen, uint64_t ns)
{
    for (uint32_t i = 0; i < 64; i++) {   /* the usual case needs no clock */
        if (atomic_load_explicit(&g->turn, memory_order_acquire) != seen)
            return true;
        relax();
    }
    uint64_t end = now_ns() + ns;
    do {
        for (uint32_t i = 0; i < 32; i++) {
            if (atomic_load_explicit(&g->turn, memory_order_acquire) != seen)
                return true;
            relax();
        }
    } while (now_ns() < end);
    return false;
}

static void gate_sleep(gate *g, uint32_t seen)
{
    atomic_fetch_add(&g->nwaiting, 1);
    while (atomic_load(&g->turn) == seen)
        futex_wait(&g->turn, seen);
    atomic_fetch_sub(&g->nwaiting, 1);
}

static void gate_open(gate *g)
{
    atomic_fetch_add(&g->turn, 1);
    if (atomic_load(&g->nwaiting) != 0)
        futex_wake(&g->turn, 0x7fffffff);
}

/* Spins, then sleeps. Who had to sleep halves its patience, who had not regains it. */
static void gate_wait(gate *g, uint32_t seen, worker *w, uint32_t patience)
{
    uint32_t least = w->pool->spin_ns / 16;
    if (gate_spin(g, seen, (uint64_t)w->spin_ns * patience)) {
        if (w->spin_ns < w->pool->spin_ns)
            w->spin_ns += w->pool->spin_ns / 256 + 1;
        return;
    }
    w->spin_ns = w->spin_ns / 2 > least ? w->spin_ns / 2 : least;
    gate_sleep(g, seen);
}

/* ----------------------------------------------------------------------------- taking */

static void owner_take(cpu_pool *p)
{
    uint32_t free = 0;
    if (atomic_compare_exchange_strong(&p->owner, &free, 1))
        return;
    while (atomic_exchange(&p->owner, 2) != 0)
        futex_wait(&p->owner, 2);
}

static void owner_give(cpu_pool *p)
{
    if (atomic_exchange(&p->owner, 0) == 2)
        futex_wake(&p->owner, 1);
}

void cpu_pool_barrier(cpu_pool *p, uint32_t worker)
{
    if (p->size == 1)
        return;
    uint32_t seen = atomic_load_explicit(&p->barrier.turn, memory_order_relaxed);
    if (atomic_fetch_add(&p->narrived, 1) + 1 == p->size) {
        atomic_store_explicit(&p->narrived, 0, memory_order_relaxed);
        gate_open(&p->barrier);
        return;
    }
    gate_wait(&p->barrier, seen, &p->worker[worker], 1);
}

void cpu_pool_run(cpu_pool *p, cpu_job job, void *arg)
{
    owner_take(p);
    p->job = job;
    p->arg = arg;
    if (p->size > 1)
        gate_open(&p->start);
    job(arg, 0);
    cpu_pool_barrier(p, 0);
    owner_give(p);
}

/* ------------------------------------------------------------------------- life cycle */

/* Between jobs a worker is more patient: the next step usually follows at once. */
#define PATIENCE 4

static void *worker_main(void *arg)
{
    worker *w = arg;
    cpu_pool *p = w->pool;
    for (uint32_t seen = 0;; seen++) {
        gate_wait(&p->start, seen, w, PATIENCE);
        if (p->job == NULL)
            return NULL;
        p->job(p->arg, w->index);
        cpu_pool_barrier(p, w->index);
    }
}

void cpu_pool_close(cpu_pool *p)
{
    if (p == NULL)
        return;
    p->job = NULL;
    gate_open(&p->start);
    for (uint32_t i = 1; i <= p->nstarted; i++)
        pthread_join(p->worker[i].thread, NULL);
    p->host->release(p->host->ctx, p->worker);
    p->host->release(p->host->ctx, p);
}

/* The threads take no signals, which belong to the process's own, but for those that tell of a
 * fault of theirs: a file cut short under its map must not end the process without a word. */
static int start_thread(worker *w)
{
    sigset_t all, before;
    static const int faults[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS};
    sigfillset(&all);
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++)
        sigdelset(&all, faults[i]);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&w->thread, NULL, worker_main, w);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

tn_status cpu_pool_open(const tn_host *h, uint32_t nthread, uint32_t spin_us, cpu_pool **out,
                        tn_err *err)
{
    if (nthread < 1 || nthread > CPU_THREADS_MAX)
        return tn_fail(err, TN_CONFIG, "cpu: threads: %u is outside 1 .. %u", nthread,
                       CPU_THREADS_MAX);
    cpu_pool *p = h->alloc(h->ctx, sizeof *p);
    worker *w = h->alloc(h->ctx, nthread * sizeof *w);
    if (p == NULL || w == NULL) {
        h->release(h->ctx, w);
        h->release(h->ctx, p);
        return tn_fail(err, TN_NO_MEMORY, "cpu: no memory for %u threads", nthread);
    }
    memset(p, 0, sizeof *p);
    memset(w, 0, nthread * sizeof *w);
    p->host = h;
    p->size = nthread;
    p->spin_ns = spin_us * 1000u;
    p->worker = w;
    for (uint32_t i = 0; i < nthread; i++)
        w[i] = (worker){.pool = p, .index = i, .spin_ns = p->spin_ns};
    for (uint32_t i = 1; i < nthread; i++) {
        int rc = start_thread(&w[i]);
        if (rc != 0) {
            cpu_pool_close(p);
            return tn_fail(err, TN_OS, "cpu: cannot start thread %u of %u: %s", i + 1, nthread,
                           strerror(rc));
        }
        p->nstarted = i;
    }
    *out = p;
    return TN_OK;
}

uint32_t cpu_pool_size(const cpu_pool *p)
{
    return p->size;
}

/* ------------------------------------------------------------------------------ cores */

/* The first numbers of a small file; returns how many were read. "max" reads as -1. */
static uint32_t read_numbers(const char *path, int64_t *out, uint32_t n)
{
    char text[128];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t len = read(fd, text, sizeof text - 1);
    close(fd);
    text[len > 0 ? len : 0] = 0;
    uint32_t got = 0;
    for (const char *s = text; got < n; got++) {
        char *end;
        s += strspn(s, " \n");
        bool unlimited = strncmp(s, "max", 3) == 0;
        out[got] = unlimited ? -1 : strtoll(s, &end, 10);
        if (!unlimited && end == s)
            return got;
        s = unlimited ? s + 3 : end;
    }
    return got;
}

/* Whole cores that the cgroup's quota gives, rounded up; UINT32_MAX without a quota. */
static uint32_t quota_cores(void)
{
    int64_t v2[2], quota, period;
    if (read_numbers("/sys/fs/cgroup/cpu.max", v2, 2) == 2) {
        quota = v2[0];
        period = v2[1];
    } else if (read_numbers("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", &quota, 1) != 1 ||
               read_numbers("/sys/fs/cgroup/cpu/cpu.cfs_period_us", &period, 1) != 1) {
        return UINT32_MAX;
    }
    if (quota <= 0 || period <= 0)
        return UINT32_MAX;
    int64_t n = (quota + period - 1) / period;
    return n < UINT32_MAX ? (uint32_t)n : UINT32_MAX;
}

uint32_t cpu_cores_allowed(void)
{
    cpu_set_t set;
    uint32_t n = 1, quota = quota_cores();
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        n = (uint32_t)CPU_COUNT(&set);
    else if (sysconf(_SC_NPROCESSORS_ONLN) > 0)
        n = (uint32_t)sysconf(_SC_NPROCESSORS_ONLN);
    if (n > quota)
        n = quota;
    return n < 1 ? 1 : n;
}
