/* SPDX-License-Identifier: Apache-2.0 */
/* mpi_wait.c - waiting for messages, and for why they do not come.
 *
 * MPI does not tell of a peer that died (Open MPI 4.1 never completes the request), so a wait
 * looks for itself: processes of this host are watched by pidfds, all others are given up after
 * the timeout. Ranks that abort or leave say so in a notice of their own. */
#include "mpi_group.h"

#include <poll.h>
#include <sched.h>
#include <time.h>

#define YIELDS 200u
#define NAP_NS 20000
#define LOOK_NS 10000000ull       /* between two looks at the peers */
#define LOOK_COUNTS_NS 100000000ull /* longer: we were stopped, not the others */
#define LAST_WORDS_NS 30000000ull
#define PATIENCE_LOOKS 20u        /* for the last message of one who left */

static tn_status say_mpi(int e, const char *what, tn_err *err)
{
    char text[MPI_MAX_ERROR_STRING] = "";
    int n = 0;
    MPI_Error_string(e, text, &n);
    return tn_fail(err, TN_UNAVAILABLE, "mpi: %s: %.700s", what, text);
}

/* --------------------------------------------------------------------------------- faults */

static void set_fault(mpi_group *g, uint32_t what, uint32_t rank)
{
    uint32_t sound = FAULT_SOUND;
    atomic_compare_exchange_strong(&g->fault, &sound, what << 16 | rank);
    atomic_store(&g->self->is_torn, 1);
}

static tn_status say_fault(const mpi_group *g, uint32_t fault, tn_err *err)
{
    uint32_t r = fault & 0xffffu;
    int pid = g->peer[r].pid;
    switch (fault >> 16) {
    case FAULT_DEAD:
        return tn_fail(err, TN_UNAVAILABLE, "mpi: rank %u (process %d) has ended", r, pid);
    case FAULT_GONE:
        return tn_fail(err, TN_UNAVAILABLE, "mpi: rank %u (process %d) has left the group", r, pid);
    case FAULT_HUNG:
        return tn_fail(err, TN_TIMEOUT, "mpi: rank %u (process %d) did not come in time "
                       "(timeout = %u s)", r, pid, g->timeout_s);
    case FAULT_UNEQUAL:
        return tn_fail(err, TN_INTERNAL, "mpi: rank %u sends another number of bytes than rank %u "
                       "expects", r, g->rank);
    default:
        return tn_fail(err, TN_UNAVAILABLE, "mpi: a message to or from rank %u failed", r);
    }
}

tn_status mpi_check(const mpi_group *g, tn_err *err)
{
    uint32_t fault = atomic_load(&g->fault);
    tn_err why;
    if (!atomic_load(&g->aborted))
        return fault == FAULT_SOUND ? TN_OK : say_fault(g, fault, err);
    if (fault == FAULT_SOUND)
        return tn_fail(err, TN_CANCELLED, "mpi: the group was aborted");
    say_fault(g, fault, &why);
    return tn_fail(err, TN_CANCELLED, "%.900s, and the group was aborted", why.text);
}

/* --------------------------------------------------------------------------------- notices */

tn_status mpi_listen(mpi_group *g, tn_err *err)
{
    int e = MPI_Irecv(&g->notice, 1, MPI_INT, MPI_ANY_SOURCE, g->tag + TAG_NOTICE,
                      MPI_COMM_WORLD, &g->ear);
    return e == MPI_SUCCESS ? TN_OK : say_mpi(e, "cannot listen for notices", err);
}

static void take_notice(mpi_group *g, int world)
{
    if (g->notice == NOTICE_ABORT) {
        atomic_store(&g->aborted, 1);
        atomic_store(&g->self->is_torn, 1);
    }
    for (uint32_t r = 0; r < g->nrank; r++)
        if (g->peer[r].world == world && g->notice == NOTICE_LEFT)
            atomic_store(&g->peer[r].has_left, 1);
}

static void hear(mpi_group *g)
{
    MPI_Status s;
    int has = 1;
    if (atomic_flag_test_and_set(&g->is_listening))
        return; /* another thread does */
    while (g->ear != MPI_REQUEST_NULL && MPI_Test(&g->ear, &has, &s) == MPI_SUCCESS && has) {
        take_notice(g, s.MPI_SOURCE);
        if (mpi_listen(g, NULL) != TN_OK)
            break;
    }
    atomic_flag_clear(&g->is_listening);
}

/* Short enough to be gone at once; nobody waits for it. */
void mpi_tell_all(mpi_group *g, int notice)
{
    static const int what[] = {0, NOTICE_ABORT, NOTICE_LEFT};
    for (uint32_t r = 0; r < g->nrank; r++) {
        MPI_Request q;
        if (r != g->rank && MPI_Isend(&what[notice], 1, MPI_INT, g->peer[r].world,
                                      g->tag + TAG_NOTICE, MPI_COMM_WORLD, &q) == MPI_SUCCESS)
            MPI_Request_free(&q);
    }
}

void mpi_abort(void *group)
{
    mpi_group *g = group;
    if (atomic_exchange(&g->aborted, 1) != 0)
        return;
    if (g->nrank > 1) {
        atomic_store(&g->self->is_torn, 1);
        mpi_tell_all(g, NOTICE_ABORT);
    }
}

/* -------------------------------------------------------------------------------- messages */

static tn_status posted(mpi_group *g, int e, uint32_t peer, uint64_t expect, tn_err *err)
{
    if (e != MPI_SUCCESS) {
        set_fault(g, FAULT_BROKEN, peer);
        return say_mpi(e, "a message", err);
    }
    g->expect[g->nreq] = expect;
    g->from[g->nreq] = peer;
    g->nreq++;
    return TN_OK;
}

tn_status mpi_send(mpi_group *g, uint32_t to, const void *bytes, uint64_t size, tn_err *err)
{
    int e = MPI_Isend(bytes, (int)size, MPI_BYTE, g->peer[to].world, g->tag + TAG_DATA,
                      MPI_COMM_WORLD, &g->req[g->nreq]);
    return posted(g, e, to, 0, err);
}

/* One byte more than expected would be an error of MPI's: truncation. */
tn_status mpi_receive(mpi_group *g, uint32_t from, void *bytes, uint64_t size, tn_err *err)
{
    int e = MPI_Irecv(bytes, (int)size, MPI_BYTE, g->peer[from].world, g->tag + TAG_DATA,
                      MPI_COMM_WORLD, &g->req[g->nreq]);
    return posted(g, e, from, size, err);
}

/* --------------------------------------------------------------------------------- waiting */

static uint64_t now(const mpi_group *g)
{
    return g->h->clock(g->h->ctx);
}

/* MPI_Testall leaves all requests as they are until the last is done, so each is asked. */
static bool is_awaited(const mpi_group *g, uint32_t rank)
{
    for (uint32_t i = 0; i < g->nreq; i++) {
        int done = 1;
        if (g->from[i] == rank && g->req[i] != MPI_REQUEST_NULL
            && MPI_Request_get_status(g->req[i], &done, MPI_STATUS_IGNORE) == MPI_SUCCESS && !done)
            return true;
    }
    return false;
}

/* A rank whose process has ended; TN_NONE: none. A rank that left may end as it likes. */
static uint32_t ended_now(const mpi_group *g)
{
    struct pollfd p[GROUP_RANKS_MAX];
    for (uint32_t r = 0; r < g->nrank; r++)
        p[r] = (struct pollfd){.fd = g->peer[r].watch, .events = POLLIN}; /* -1 is passed over */
    if (poll(p, g->nrank, 0) > 0)
        for (uint32_t r = 0; r < g->nrank; r++)
            if (p[r].revents != 0 && !atomic_load(&g->peer[r].has_left))
                return r;
    return TN_NONE;
}

/* The last words of one who ended may still be under way: why it did is in them. */
static uint32_t find_ended(mpi_group *g)
{
    uint64_t end = now(g) + LAST_WORDS_NS;
    uint32_t rank = ended_now(g);
    while (rank != TN_NONE && !atomic_load(&g->aborted) && now(g) < end) {
        hear(g);
        rank = ended_now(g);
    }
    return atomic_load(&g->aborted) ? TN_NONE : rank;
}

static void look_around(mpi_group *g, uint32_t looks, uint64_t waited)
{
    uint32_t ended = find_ended(g), late = TN_NONE;
    if (ended != TN_NONE)
        set_fault(g, FAULT_DEAD, ended);
    for (uint32_t r = g->nrank; r-- > 0;)
        if (r != g->rank && is_awaited(g, r)) {
            late = r;
            if (atomic_load(&g->peer[r].has_left) && looks > PATIENCE_LOOKS)
                set_fault(g, FAULT_GONE, r);
        }
    if (late != TN_NONE && waited > g->timeout_s * 1000000000ull)
        set_fault(g, FAULT_HUNG, late);
}

static void give_way(uint32_t *turns)
{
    struct timespec nap = {.tv_nsec = NAP_NS};
    if (++*turns < YIELDS)
        sched_yield();
    else
        nanosleep(&nap, NULL);
}

static tn_status judge(mpi_group *g, int e, const MPI_Status *s, tn_err *err)
{
    for (uint32_t i = 0; i < g->nreq; i++) {
        int got = 0, code = e == MPI_ERR_IN_STATUS ? s[i].MPI_ERROR : MPI_SUCCESS, class = code;
        if (code == MPI_ERR_PENDING)
            continue;
        if (code != MPI_SUCCESS)
            MPI_Error_class(code, &class);
        else if (g->expect[i] > 0)
            MPI_Get_count(&s[i], MPI_BYTE, &got);
        if (class == MPI_ERR_TRUNCATE || (code == MPI_SUCCESS && (uint64_t)got != g->expect[i]))
            set_fault(g, FAULT_UNEQUAL, g->from[i]);
        else if (code != MPI_SUCCESS)
            set_fault(g, FAULT_BROKEN, g->from[i]);
    }
    return mpi_check(g, err);
}

tn_status mpi_wait(mpi_group *g, tn_err *err)
{
    MPI_Status s[2 * GROUP_RANKS_MAX];
    uint64_t begin = now(g), looked = begin, waited = 0;
    uint32_t turns = 0, looks = 0;
    for (;;) {
        int done = 0, e = MPI_Testall((int)g->nreq, g->req, &done, s);
        if (done || e != MPI_SUCCESS) {
            tn_status st = judge(g, e, s, err);
            g->nreq = done ? 0 : g->nreq;
            return st;
        }
        uint64_t t = now(g);
        if (t - begin < g->spin_us * 1000ull)
            continue;
        give_way(&turns);
        if (turns % 16 == 1)
            hear(g);
        if (t - looked >= LOOK_NS) {
            waited += t - looked < LOOK_COUNTS_NS ? t - looked : LOOK_COUNTS_NS;
            looked = t;
            look_around(g, ++looks, waited);
        }
        tn_status st = mpi_check(g, err);
        if (st != TN_OK)
            return st;
    }
}

tn_status mpi_health(void *group, tn_err *err)
{
    mpi_group *g = group;
    if (g->nrank > 1)
        hear(g);
    tn_status st = mpi_check(g, err);
    if (st != TN_OK)
        return st;
    uint32_t ended = find_ended(g);
    if (ended != TN_NONE)
        set_fault(g, FAULT_DEAD, ended);
    for (uint32_t r = 0; r < g->nrank && ended == TN_NONE; r++)
        if (atomic_load(&g->peer[r].has_left)) /* no fault: this rank may be at its last call */
            return say_fault(g, FAULT_GONE << 16 | r, err);
    return mpi_check(g, err);
}
