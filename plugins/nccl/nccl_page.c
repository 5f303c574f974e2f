/* SPDX-License-Identifier: Apache-2.0 */
/* nccl_page.c - what ranks of one host tell each other beside NCCL.
 *
 * NCCL's kernels wait for their peers without end, and a rank whose process dies on the same host
 * is no error to it. So each rank has a seat in a page of shared memory: an abort is written
 * there, processes are watched by pidfds, and a rank whose count of calls stays behind for the
 * timeout is given up. Ranks of other hosts have a page of their own; of those NCCL's network
 * tells. Whoever waits for the device asks for the group's health, and aborts when it is bad. */
#include "nccl_group.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define GONE_NS 2000000000ull
#define STOPPED_NS 5000000000ull

static uint64_t now_ns(const nccl_group *g)
{
    return g->h->clock(g->h->ctx);
}

static uint64_t name_space(void)
{
    struct stat s;
    return stat("/proc/self/ns/pid", &s) == 0 ? (uint64_t)s.st_ino : 0;
}

/* All ranks of a host make it, whoever comes first; fresh memory reads as zeros. */
tn_status nccl_page_open(nccl_group *g, const char *name, tn_err *err)
{
    int fd = shm_open(name, O_RDWR | O_CREAT, 0600);
    if (fd < 0 || ftruncate(fd, sizeof(nccl_page)) != 0) {
        tn_status st = tn_fail(err, TN_OS, "nccl: no shared memory: %s", strerror(errno));
        if (fd >= 0)
            close(fd);
        return st;
    }
    void *p = mmap(NULL, sizeof(nccl_page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (p == MAP_FAILED)
        return tn_fail(err, TN_OS, "nccl: shared memory: %s", strerror(errno));
    g->page = p;
    nccl_seat *me = &g->page->seat[g->rank];
    atomic_store(&me->pid, (int32_t)getpid());
    atomic_store(&me->space, name_space());
    atomic_store(&me->state, PAGE_HERE);
    return TN_OK;
}

void nccl_page_unlink(const char *name)
{
    shm_unlink(name); /* every rank does; the first finds it */
}

void nccl_page_watch(nccl_group *g)
{
    uint64_t space = name_space();
    for (uint32_t r = 0; r < g->nrank; r++) {
        const nccl_seat *s = &g->page->seat[r];
        if (r != g->rank && atomic_load(&s->state) == PAGE_HERE && atomic_load(&s->space) == space)
            g->watch[r] = (int)syscall(SYS_pidfd_open, atomic_load(&s->pid), 0);
    }
}

tn_status nccl_say_missing(const nccl_group *g, const char *what, tn_err *err)
{
    char list[200] = "";
    size_t n = 0;
    for (uint32_t r = 0; r < g->nrank; r++)
        if (atomic_load(&g->page->seat[r].state) == 0 && n < sizeof list - 8)
            n += (size_t)snprintf(list + n, sizeof list - n, "%s%u", n > 0 ? ", " : "", r);
    return tn_fail(err, TN_UNAVAILABLE, "nccl: %s: not all of %u ranks came in time%s%s", what,
                   g->nrank, n > 0 ? "; not seen on this host: " : "", list);
}

void nccl_page_close(nccl_group *g)
{
    for (uint32_t r = 0; r < GROUP_RANKS_MAX; r++)
        if (g->watch[r] >= 0)
            close(g->watch[r]);
    if (g->page == NULL)
        return;
    atomic_store(&g->page->seat[g->rank].state, PAGE_GONE);
    munmap(g->page, sizeof *g->page);
}

void nccl_page_call(nccl_group *g)
{
    atomic_store_explicit(&g->page->seat[g->rank].calls, ++g->calls, memory_order_relaxed);
}

void nccl_fault(nccl_group *g, uint32_t what, uint32_t rank)
{
    uint32_t none = FAULT_NONE;
    atomic_compare_exchange_strong(&g->page->fault, &none, what << 16 | rank);
}

static tn_status say_fault(const nccl_group *g, uint32_t fault, tn_err *err)
{
    uint32_t r = fault & 0xffffu;
    int pid = r < GROUP_RANKS_MAX ? atomic_load(&g->page->seat[r].pid) : 0;
    switch (fault >> 16) {
    case FAULT_DEAD:
        return tn_fail(err, TN_UNAVAILABLE, "nccl: rank %u (process %d) has ended", r, pid);
    case FAULT_GONE:
        return tn_fail(err, TN_UNAVAILABLE, "nccl: rank %u (process %d) has left the group", r,
                       pid);
    case FAULT_HUNG:
        return tn_fail(err, TN_TIMEOUT, "nccl: rank %u (process %d) did not come in time "
                       "(timeout = %u s)", r, pid, g->timeout_s);
    default:
        return nccl_say(g->lib, atomic_load(&g->code), "a rank reports", err);
    }
}

tn_status nccl_check(const nccl_group *g, tn_err *err)
{
    uint32_t fault = atomic_load(&g->page->fault);
    tn_err why;
    if (!atomic_load(&g->page->aborted))
        return fault == FAULT_NONE ? TN_OK : say_fault(g, fault, err);
    if (fault == FAULT_NONE)
        return tn_fail(err, TN_CANCELLED, "nccl: the group was aborted");
    say_fault(g, fault, &why);
    return tn_fail(err, TN_CANCELLED, "%.900s, and the group was aborted", why.text);
}

/* The rank of this host that made fewest calls. */
static uint32_t slowest(const nccl_group *g, uint64_t *calls)
{
    uint32_t least = g->rank;
    *calls = atomic_load(&g->page->seat[g->rank].calls);
    for (uint32_t r = 0; r < g->nrank; r++) {
        uint64_t n = atomic_load(&g->page->seat[r].calls);
        if (atomic_load(&g->page->seat[r].state) == PAGE_HERE && n < *calls) {
            least = r;
            *calls = n;
        }
    }
    return least;
}

/* Who has not looked for long was stopped, and the others perhaps with it. */
static void look_for_late(nccl_group *g)
{
    uint64_t calls, t = now_ns(g);
    bool stopped = t - atomic_exchange(&g->last_look, t) > STOPPED_NS;
    uint32_t r = slowest(g, &calls);
    if (stopped || r == g->rank || calls != atomic_load(&g->least_calls)) {
        atomic_store(&g->least_calls, calls);
        atomic_store(&g->least_since, t);
    } else if (t - atomic_load(&g->least_since) > g->timeout_s * 1000000000ull)
        nccl_fault(g, FAULT_HUNG, r);
}

/* Who left has made all its calls; that is a fault when it made fewer than this rank. Replayed
 * graphs are not counted, so it is one after a while anyhow. */
static bool is_missed(nccl_group *g, uint32_t rank)
{
    uint64_t none = 0, t = now_ns(g);
    if (atomic_load(&g->page->seat[rank].state) != PAGE_GONE)
        return false;
    atomic_compare_exchange_strong(&g->gone_since, &none, t);
    return atomic_load(&g->page->seat[rank].calls) < atomic_load(&g->page->seat[g->rank].calls)
        || t - atomic_load(&g->gone_since) > GONE_NS;
}

void nccl_look(nccl_group *g)
{
    struct pollfd p[GROUP_RANKS_MAX];
    for (uint32_t r = 0; r < g->nrank; r++)
        p[r] = (struct pollfd){.fd = g->watch[r], .events = POLLIN}; /* -1 is passed over */
    int n = poll(p, g->nrank, 0);
    for (uint32_t r = 0; r < g->nrank; r++)
        if (r != g->rank && is_missed(g, r))
            nccl_fault(g, FAULT_GONE, r);
        else if (n > 0 && p[r].revents != 0
                 && atomic_load(&g->page->seat[r].state) != PAGE_GONE)
            nccl_fault(g, FAULT_DEAD, r);
    look_for_late(g);
}
