/* SPDX-License-Identifier: Apache-2.0 */
/* shared_wait.c - arriving, waiting, and finding out why the others do not come.
 *
 * A wait spins for a while, gives way a few times, then sleeps in the kernel, a short nap at a
 * time: between two naps it looks whether the others' processes still live (a pidfd says so
 * also of one that nobody has waited for yet) and how long it has slept. Ranks that outnumber the
 * processors do not spin. */
#include "shared.h"

#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SPINS_A_LOOK 64u       /* turns between two looks at the clock */
#define YIELDS 16u
#define NAP_NS 10000000        /* 10 ms */
#define NAP_COUNTS_NS 100000000ull /* a nap that took longer: we were stopped, not the others */

static inline void take_breath(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void sleep_on(_Atomic uint32_t *word, uint32_t seen)
{
    struct timespec nap = {.tv_nsec = NAP_NS};
    syscall(SYS_futex, word, FUTEX_WAIT, seen, &nap, NULL, 0);
}

static void wake_all(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

static bool is_before(uint32_t round, uint32_t other)
{
    return (int32_t)(round - other) < 0;
}

/* --------------------------------------------------------------------------------- faults */

static void set_fault(shared_head *m, uint32_t what, uint32_t rank)
{
    uint32_t sound = SHARED_SOUND;
    atomic_compare_exchange_strong(&m->fault, &sound, what << 16 | rank);
    wake_all(&m->released);
}

static tn_status say_fault(const shared_group *g, uint32_t fault, tn_err *err)
{
    uint32_t r = fault & 0xffffu;
    int pid = r < SHARED_RANKS_MAX ? atomic_load(&g->m->seat[r].pid) : 0;
    switch (fault >> 16) {
    case SHARED_DEAD:
        return tn_fail(err, TN_UNAVAILABLE, "shared: rank %u (process %d) has ended", r, pid);
    case SHARED_LEFT:
        return tn_fail(err, TN_UNAVAILABLE, "shared: rank %u (process %d) has left the group", r,
                       pid);
    case SHARED_HUNG:
        return tn_fail(err, TN_TIMEOUT, "shared: rank %u (process %d) did not come in time "
                       "(timeout = %u s)", r, pid, g->timeout_s);
    default:
        return tn_fail(err, TN_INTERNAL, "shared: rank %u asks for another operation, count or type "
                       "than rank 0", r);
    }
}

static tn_status check_fault(const shared_group *g, tn_err *err)
{
    uint32_t fault = atomic_load(&g->m->fault);
    tn_err why;
    if (!atomic_load(&g->m->aborted))
        return fault == SHARED_SOUND ? TN_OK : say_fault(g, fault, err);
    if (fault == SHARED_SOUND)
        return tn_fail(err, TN_CANCELLED, "shared: the group was aborted");
    say_fault(g, fault, &why);
    return tn_fail(err, TN_CANCELLED, "%.900s, and the group was aborted", why.text);
}

/* Who ended or left, among those who have not entered `round`; TN_NONE: nobody. */
static uint32_t find_lost(const shared_group *g, uint32_t round, uint32_t *what)
{
    struct pollfd p[SHARED_RANKS_MAX];
    for (uint32_t r = 0; r < g->nrank; r++)
        p[r] = (struct pollfd){.fd = g->peer[r], .events = POLLIN}; /* -1 is passed over */
    int n = poll(p, g->nrank, 0);
    for (uint32_t r = 0; r < g->nrank; r++) {
        if (r == g->rank || !is_before(atomic_load(&g->m->seat[r].entered), round))
            continue;
        bool left = atomic_load(&g->m->seat[r].state) == SHARED_GONE;
        if (left || (n > 0 && p[r].revents != 0)) {
            *what = left ? SHARED_LEFT : SHARED_DEAD;
            return r;
        }
    }
    return TN_NONE;
}

static uint32_t first_missing(const shared_group *g, uint32_t round)
{
    for (uint32_t r = 0; r < g->nrank; r++)
        if (is_before(atomic_load(&g->m->seat[r].entered), round))
            return r;
    return g->rank;
}

/* ---------------------------------------------------------------------------------- waiting */

static bool is_over(const shared_group *g)
{
    return !is_before(atomic_load_explicit(&g->m->released, memory_order_acquire), g->round);
}

static bool is_spoilt(const shared_group *g)
{
    return atomic_load_explicit(&g->m->aborted, memory_order_relaxed)
        || atomic_load_explicit(&g->m->fault, memory_order_relaxed) != SHARED_SOUND;
}

static uint64_t now(const shared_group *g)
{
    return g->h->clock(g->h->ctx);
}

/* True when the round is over. */
static bool spin(const shared_group *g)
{
    uint64_t end = g->spin_us > 0 ? now(g) + g->spin_us * 1000ull : 0;
    while (end > 0 && !is_spoilt(g)) {
        for (uint32_t i = 0; i < SPINS_A_LOOK; i++) {
            if (is_over(g))
                return true;
            take_breath();
        }
        if (now(g) >= end)
            break;
    }
    for (uint32_t i = 0; i < YIELDS && !is_spoilt(g); i++) {
        sched_yield();
        if (is_over(g))
            return true;
    }
    return false;
}

static void nap(shared_group *g)
{
    uint32_t seen = atomic_load(&g->m->released);
    atomic_fetch_add(&g->m->asleep, 1);
    if (is_before(seen, g->round) && !is_spoilt(g))
        sleep_on(&g->m->released, seen);
    atomic_fetch_sub(&g->m->asleep, 1);
}

static tn_status wait_round(shared_group *g, tn_err *err)
{
    uint64_t slept = 0, began = now(g);
    uint32_t what = SHARED_SOUND;
    while (!is_over(g)) {
        tn_status st = check_fault(g, err);
        if (st != TN_OK)
            return st;
        nap(g);
        uint64_t t = now(g);
        slept += t - began < NAP_COUNTS_NS ? t - began : NAP_COUNTS_NS;
        began = t;
        uint32_t lost = is_over(g) ? TN_NONE : find_lost(g, g->round, &what);
        if (lost != TN_NONE)
            set_fault(g->m, what, lost);
        else if (slept > g->timeout_s * 1000000000ull && !is_over(g))
            set_fault(g->m, SHARED_HUNG, first_missing(g, g->round));
    }
    return TN_OK;
}

/* The last to arrive opens the round. What it stored before is seen by whoever sees that. */
static void release(shared_group *g)
{
    atomic_store(&g->m->released, g->round);
    if (atomic_load(&g->m->asleep) > 0)
        wake_all(&g->m->released);
}

static tn_status compare(const shared_group *g, tn_err *err)
{
    const shared_seat *seat = g->m->seat;
    uint32_t i = g->round % 2;
    for (uint32_t r = 1; r < g->nrank; r++)
        if (seat[r].op[i] != seat[0].op[i] || seat[r].count[i] != seat[0].count[i]) {
            set_fault(g->m, SHARED_UNEQUAL, r);
            return check_fault(g, err);
        }
    return TN_OK;
}

tn_status shared_meet(shared_group *g, uint32_t op, uint64_t count, tn_err *err)
{
    shared_seat *me = &g->m->seat[g->rank];
    tn_status st = check_fault(g, err);
    if (st != TN_OK)
        return st;
    g->round++;
    me->op[g->round % 2] = op;
    me->count[g->round % 2] = count;
    bool last = atomic_fetch_add(&g->m->arrived, 1) + 1 == g->round * g->nrank;
    /* After the arrival: who ends between the two is missed in this round, not waited for. */
    atomic_store_explicit(&me->entered, g->round, memory_order_release);
    if (last)
        release(g);
    else if (!spin(g) && (st = wait_round(g, err)) != TN_OK)
        return st;
    return compare(g, err);
}

tn_status shared_health(void *group, tn_err *err)
{
    shared_group *g = group;
    uint32_t what = SHARED_SOUND;
    tn_status st = check_fault(g, err);
    if (st != TN_OK)
        return st;
    /* Nobody has entered the round half the numbers away: all are asked for. */
    uint32_t lost = find_lost(g, atomic_load(&g->m->released) + 0x40000000u, &what);
    if (lost == TN_NONE)
        return TN_OK;
    if (what == SHARED_LEFT) /* no fault: the others may be at their last round */
        return say_fault(g, what << 16 | lost, err);
    set_fault(g->m, what, lost);
    return check_fault(g, err);
}

void shared_abort(void *group)
{
    shared_group *g = group;
    atomic_store(&g->m->aborted, 1);
    wake_all(&g->m->released);
}
