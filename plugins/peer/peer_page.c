/* SPDX-License-Identifier: Apache-2.0 */
/* peer_page.c - the page on which the ranks meet, and who of them is lost.
 *
 * Kernels wait for other ranks only until the page's `stop` is set, or for the timeout; then they
 * leave on the page whom they missed. Processes are watched by pidfds. Whoever waits for the
 * device asks for the group's health, and aborts when it is bad. */
#include "peer.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PREFIX "/tenon-peer-"
#define NAME_BYTES 16u
#define VERSION 1u
#define GONE_NS 2000000000ull
#define TURNS_AWAKE 1000u      /* of a meeting, before it naps between looks */
#define TURNS_A_LOOK 64u

uint64_t peer_ms(const peer_group *g)
{
    return g->h->clock(g->h->ctx) / 1000000;
}

static uint64_t name_space(void)
{
    struct stat s;
    return stat("/proc/self/ns/pid", &s) == 0 ? (uint64_t)s.st_ino : 0;
}

/* ------------------------------------------------------------------------------------- ids */

bool peer_is_id(const uint8_t *id)
{
    size_t n = sizeof PREFIX - 1;
    if (memcmp(id, PREFIX, n) != 0)
        return false;
    for (uint32_t i = 0; i < 2 * NAME_BYTES; i++)
        if (id[n + i] == 0 || strchr("0123456789abcdef", id[n + i]) == NULL)
            return false;
    return id[n + 2 * NAME_BYTES] == 0;
}

tn_status peer_make_id(void *self, uint8_t id[TN_COMM_ID_SIZE], tn_err *err)
{
    uint8_t bits[NAME_BYTES];
    (void)self;
    if (getrandom(bits, sizeof bits, 0) != sizeof bits)
        return tn_fail(err, TN_OS, "peer: no random bits: %s", strerror(errno));
    memset(id, 0, TN_COMM_ID_SIZE);
    char *name = (char *)id;
    int n = snprintf(name, TN_COMM_ID_SIZE, "%s", PREFIX);
    for (uint32_t i = 0; i < NAME_BYTES; i++)
        n += snprintf(name + n, TN_COMM_ID_SIZE - (size_t)n, "%02x", bits[i]);
    return TN_OK;
}

/* ------------------------------------------------------------------------------------ the page */

/* Memory that is not there when it is touched would end the process. */
tn_status peer_page_claim(const peer_group *g, uint64_t at, uint64_t size, tn_err *err)
{
    int code = posix_fallocate(g->fd, (off_t)at, (off_t)size);
    return code == 0 ? TN_OK : tn_fail(err, TN_OS, "peer: %llu bytes of shared memory (/dev/shm): %s",
                                       (unsigned long long)size, strerror(code));
}

/* All ranks make it, whoever comes first; fresh memory reads as zeros. Behind the head nothing
 * is taken until the host's mailboxes are. */
static tn_status map_page(peer_group *g, const char *name, tn_err *err)
{
    int fd = shm_open(name, O_RDWR | O_CREAT, 0600);
    if (fd < 0)
        return tn_fail(err, TN_OS, "peer: no shared memory: %s", strerror(errno));
    void *p = MAP_FAILED;
    if (ftruncate(fd, (off_t)g->page_size) == 0)
        p = mmap(NULL, g->page_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    int code = errno;
    g->fd = fd;
    if (p == MAP_FAILED)
        return tn_fail(err, TN_OS, "peer: shared memory of %llu bytes: %s",
                       (unsigned long long)g->page_size, strerror(code));
    madvise(p, g->page_size, MADV_DONTDUMP);
    g->page = p;
    return peer_page_claim(g, 0, sizeof *g->page, err);
}

tn_status peer_page_open(peer_group *g, const uint8_t *id, tn_err *err)
{
    uint32_t none = 0;
    tn_status st = map_page(g, (const char *)id, err);
    if (st != TN_OK)
        return st;
    peer_seat *me = &g->page->seat[g->rank];
    if (!atomic_compare_exchange_strong(&me->state, &none, PEER_HERE)) {
        st = tn_fail(err, TN_UNAVAILABLE, "peer: rank %u of this group is there already (process "
                     "%d)", g->rank, atomic_load(&me->pid));
        munmap(g->page, g->page_size); /* the seat is the other's */
        g->page = NULL;
        return st;
    }
    atomic_store(&me->pid, (int32_t)getpid());
    atomic_store(&me->space, name_space());
    me->nrank = g->nrank;
    me->version = VERSION;
    return TN_OK;
}

void peer_page_unlink(const uint8_t *id)
{
    shm_unlink((const char *)id); /* every rank does; the first finds it */
}

void peer_page_close(peer_group *g)
{
    for (uint32_t r = 0; r < PEER_RANKS_MAX; r++)
        if (g->watch[r] >= 0)
            close(g->watch[r]);
    if (g->fd >= 0)
        close(g->fd);
    if (g->page == NULL)
        return;
    atomic_store(&g->page->seat[g->rank].state, PEER_GONE);
    munmap(g->page, g->page_size);
    g->page = NULL;
}

void peer_watch(peer_group *g)
{
    uint64_t space = name_space();
    for (uint32_t r = 0; r < g->nrank; r++)
        if (r != g->rank && atomic_load(&g->page->seat[r].space) == space)
            g->watch[r] = (int)syscall(SYS_pidfd_open, atomic_load(&g->page->seat[r].pid), 0);
}

/* ---------------------------------------------------------------------------------- faults */

void peer_fault(peer_group *g, uint32_t what, uint32_t rank)
{
    uint32_t none = PEER_SOUND;
    atomic_compare_exchange_strong(&g->page->fault, &none, what << 16 | rank);
    atomic_store(&g->page->stop, 1);
}

static tn_status say_fault(const peer_group *g, uint32_t fault, tn_err *err)
{
    uint32_t r = fault & 0xffffu;
    int pid = r < PEER_RANKS_MAX ? atomic_load(&g->page->seat[r].pid) : 0;
    switch (fault >> 16) {
    case PEER_DEAD:
        return tn_fail(err, TN_UNAVAILABLE, "peer: rank %u (process %d) has ended", r, pid);
    case PEER_LEFT:
        return tn_fail(err, TN_UNAVAILABLE, "peer: rank %u (process %d) has left the group", r,
                       pid);
    case PEER_LATE:
        return tn_fail(err, TN_TIMEOUT, "peer: rank %u (process %d) did not come in time "
                       "(timeout = %u s)", r, pid, g->timeout_s);
    default:
        return tn_fail(err, TN_UNAVAILABLE, "peer: the card of rank %u (process %d) failed", r,
                       pid);
    }
}

tn_status peer_check(const peer_group *g, tn_err *err)
{
    uint32_t fault = atomic_load(&g->page->fault);
    tn_err why;
    if (!atomic_load(&g->page->aborted))
        return fault == PEER_SOUND ? TN_OK : say_fault(g, fault, err);
    if (fault == PEER_SOUND)
        return tn_fail(err, TN_CANCELLED, "peer: the group was aborted");
    say_fault(g, fault, &why);
    return tn_fail(err, TN_CANCELLED, "%.900s, and the group was aborted", why.text);
}

/* Who left has made all its calls; that is a fault when it made fewer than this rank. Replayed
 * graphs are not counted, so it is one after a while anyhow. */
static bool is_missed(peer_group *g, uint32_t rank)
{
    uint64_t none = 0, t = g->h->clock(g->h->ctx);
    if (atomic_load(&g->page->seat[rank].state) != PEER_GONE)
        return false;
    atomic_compare_exchange_strong(&g->gone_since, &none, t);
    return atomic_load(&g->page->seat[rank].calls) < atomic_load(&g->page->seat[g->rank].calls)
        || t - atomic_load(&g->gone_since) > GONE_NS;
}

static void find_lost(peer_group *g)
{
    struct pollfd p[PEER_RANKS_MAX];
    for (uint32_t r = 0; r < g->nrank; r++)
        p[r] = (struct pollfd){.fd = g->watch[r], .events = POLLIN}; /* -1 is passed over */
    int n = poll(p, g->nrank, 0);
    for (uint32_t r = 0; r < g->nrank; r++)
        if (r != g->rank && is_missed(g, r))
            peer_fault(g, PEER_LEFT, r);
        else if (n > 0 && p[r].revents != 0 && atomic_load(&g->page->seat[r].state) != PEER_GONE)
            peer_fault(g, PEER_DEAD, r);
    for (uint32_t r = 0; r < g->nrank && g->is_joined; r++) { /* in a trial it is no fault */
        uint32_t missed = atomic_load(&g->page->seat[r].missed);
        if (missed != 0)
            peer_fault(g, PEER_LATE, missed - 1);
    }
}

tn_status peer_health(void *group, tn_err *err)
{
    peer_group *g = group;
    find_lost(g);
    return peer_check(g, err);
}

void peer_abort(void *group)
{
    peer_group *g = group;
    atomic_store(&g->page->aborted, 1);
    atomic_store(&g->page->stop, 1);
}

/* --------------------------------------------------------------------------------- meetings */

static bool is_short_of(const peer_group *g, uint32_t *who)
{
    for (*who = 0; *who < g->nrank; ++*who)
        if ((int32_t)(atomic_load(&g->page->seat[*who].stage) - g->stage) < 0)
            return true;
    return false;
}

static tn_status say_missing(const peer_group *g, tn_err *err)
{
    char list[200] = "";
    size_t n = 0;
    uint32_t nhere = 0;
    for (uint32_t r = 0; r < g->nrank; r++)
        if ((int32_t)(atomic_load(&g->page->seat[r].stage) - g->stage) >= 0)
            nhere++;
        else if (n < sizeof list - 8)
            n += (size_t)snprintf(list + n, sizeof list - n, "%s%u", n > 0 ? ", " : "", r);
    return tn_fail(err, TN_UNAVAILABLE, "peer: %u of %u ranks came in time; missing: %s", nhere,
                   g->nrank, list);
}

static tn_status compare(const peer_group *g, tn_err *err)
{
    const peer_seat *seat = g->page->seat;
    for (uint32_t r = 0; r < g->nrank; r++)
        if (atomic_load(&seat[r].failed))
            return tn_fail(err, TN_UNAVAILABLE, "peer: rank %u (process %d) could not join: %.250s",
                           r, atomic_load(&seat[r].pid), seat[r].why);
    for (uint32_t r = 1; r < g->nrank; r++)
        if (seat[r].nrank != seat[0].nrank || seat[r].version != seat[0].version)
            return tn_fail(err, TN_CONFIG, "peer: rank %u is one of %u (protocol %u); rank 0 is one of "
                           "%u (protocol %u)", r, seat[r].nrank, seat[r].version, seat[0].nrank,
                           seat[0].version);
    return TN_OK;
}

tn_status peer_meet(peer_group *g, tn_status mine, uint64_t deadline_ms, tn_err *err)
{
    struct timespec nap = {.tv_nsec = 100000};
    peer_seat *me = &g->page->seat[g->rank];
    uint32_t turns = 0, who;
    if (mine != TN_OK) {
        snprintf(me->why, sizeof me->why, "%.255s", err->text);
        atomic_store(&me->failed, 1);
    }
    atomic_store(&me->stage, ++g->stage);
    while (mine == TN_OK && is_short_of(g, &who)) {
        if (atomic_load(&g->page->seat[who].state) == PEER_GONE)
            return tn_fail(err, TN_UNAVAILABLE, "peer: rank %u (process %d) has left the group",
                           who, atomic_load(&g->page->seat[who].pid));
        if (peer_ms(g) >= deadline_ms)
            return say_missing(g, err);
        if (++turns % TURNS_A_LOOK == 0)
            find_lost(g);
        tn_status st = peer_check(g, err);
        if (st != TN_OK)
            return st;
        if (turns < TURNS_AWAKE)
            sched_yield();
        else
            nanosleep(&nap, NULL);
    }
    return mine != TN_OK ? mine : compare(g, err);
}
