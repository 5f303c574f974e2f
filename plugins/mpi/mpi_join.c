/* SPDX-License-Identifier: Apache-2.0 */
/* mpi_join.c - how the ranks find each other.
 *
 * mpirun or srun started the processes, so MPI knows them all; which rank of ours each of them is
 * they tell each other in a hello, and that they mean the same group. The id is random; messages
 * of a group have tags that follow from it.
 *
 * MPI is begun at the first join and ended at stop. Beginning it takes until all processes do
 * so; a thread of its own does it, so that it can be given up. */
#include "mpi_group.h"

#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PREFIX "tenon-mpi-"
#define ID_BYTES 16u
#define TAG_LEAST 64
#define TAG_GROUPS 2000u       /* tags up to 32767 are promised */
#define SETTLE_MS 200u

typedef struct hello {
    uint8_t id[TN_COMM_ID_SIZE];
    uint32_t rank, nrank;
    int32_t pid;
    uint32_t reserved;
    uint64_t piece;
    char host[64];             /* the kernel's boot id and the process name space */
} hello;

static uint64_t ms_now(const tn_host *h)
{
    return h->clock(h->ctx) / 1000000;
}

static void short_nap(void)
{
    struct timespec nap = {.tv_nsec = 500000};
    nanosleep(&nap, NULL);
}

/* -------------------------------------------------------------------------- beginning MPI */

/* Alone, Open MPI starts a daemon and still cannot reach others that are alone. */
tn_status mpi_launched(tn_err *err)
{
    static const char *const marks[] = {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK",
                                        "PMI2_RANK", "MPI_LOCALRANKID"};
    for (size_t i = 0; i < sizeof marks / sizeof marks[0]; i++)
        if (getenv(marks[i]) != NULL)
            return TN_OK;
    return tn_fail(err, TN_UNSUPPORTED, "mpi: this process was not started by mpirun or srun, and "
                   "MPI joins only what one of them started together; expected that, or the "
                   "communicator shared for ranks of one host");
}

typedef struct starter {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int level, code;
    bool is_done, is_given_up; /* who comes last frees it */
} starter;

static void free_starter(starter *s)
{
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

/* Open MPI takes over the handlers of crashes, which are the core's. */
static void *begin_mpi(void *user)
{
    static const int crashes[] = {SIGABRT, SIGBUS, SIGFPE, SIGSEGV, SIGILL, SIGTRAP};
    enum { NCRASH = sizeof crashes / sizeof crashes[0] };
    struct sigaction keep[NCRASH];
    starter *s = user;
    for (int i = 0; i < NCRASH; i++)
        sigaction(crashes[i], NULL, &keep[i]);
    int level = MPI_THREAD_SINGLE, code = MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &level);
    for (int i = 0; i < NCRASH; i++)
        sigaction(crashes[i], &keep[i], NULL);
    pthread_mutex_lock(&s->lock);
    s->code = code;
    s->level = level;
    s->is_done = true;
    bool last = s->is_given_up;
    pthread_cond_signal(&s->changed);
    pthread_mutex_unlock(&s->lock);
    if (last)
        free_starter(s);
    return NULL;
}

static tn_status wait_begun(starter *s, uint32_t timeout_ms, tn_err *err)
{
    struct timespec end;
    tn_status st = TN_OK;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += timeout_ms / 1000;
    end.tv_nsec += timeout_ms % 1000 * 1000000l;
    if (end.tv_nsec >= 1000000000l) {
        end.tv_nsec -= 1000000000l;
        end.tv_sec++;
    }
    pthread_mutex_lock(&s->lock);
    for (int e = 0; !s->is_done && e != ETIMEDOUT;)
        e = pthread_cond_timedwait(&s->changed, &s->lock, &end);
    bool done = s->is_done;
    if (!done)
        st = tn_fail(err, TN_UNAVAILABLE, "mpi: MPI_Init waited %u ms for the other processes",
                     timeout_ms);
    else if (s->code != MPI_SUCCESS)
        st = tn_fail(err, TN_UNAVAILABLE, "mpi: MPI_Init failed with %d", s->code);
    else if (s->level < MPI_THREAD_MULTIPLE)
        st = tn_fail(err, TN_UNAVAILABLE, "mpi: this MPI library serves threads at level %d; "
                     "expected %d (MPI_THREAD_MULTIPLE)", s->level, MPI_THREAD_MULTIPLE);
    s->is_given_up = !done;
    pthread_mutex_unlock(&s->lock);
    if (done)
        free_starter(s);
    return st;
}

static tn_status start_beginning(uint32_t timeout_ms, tn_err *err)
{
    pthread_condattr_t a;
    pthread_t t;
    starter *s = calloc(1, sizeof *s); /* outlives the plugin when it is given up */
    if (s == NULL)
        return tn_fail(err, TN_NO_MEMORY, "mpi: out of memory");
    pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    pthread_cond_init(&s->changed, &a);
    pthread_condattr_destroy(&a);
    if (pthread_create(&t, NULL, begin_mpi, s) != 0) {
        free_starter(s);
        return tn_fail(err, TN_OS, "mpi: no thread");
    }
    pthread_detach(t);
    return wait_begun(s, timeout_ms, err);
}

/* What MPI loads stays loaded: its own parts look for its symbols, and it cannot be begun again. */
static void pin(void *symbol)
{
    Dl_info i;
    if (dladdr(symbol, &i) != 0 && i.dli_fname != NULL)
        dlopen(i.dli_fname, RTLD_NOW | RTLD_GLOBAL | RTLD_NODELETE);
}

static tn_status ensure_mpi(mpi_self *m, uint32_t timeout_ms, tn_err *err)
{
    int begun = 0, ended = 0;
    tn_status st = mpi_launched(err);
    if (st != TN_OK)
        return st;
    MPI_Initialized(&begun);
    MPI_Finalized(&ended);
    if (ended)
        return tn_fail(err, TN_UNAVAILABLE, "mpi: MPI was ended in this process and cannot begin "
                       "again");
    if (!begun) {
        pin((void *)(uintptr_t)MPI_Init_thread);
        pin((void *)(uintptr_t)mpi_join);
        st = start_beginning(timeout_ms, err);
        if (st != TN_OK)
            return st;
        atomic_store(&m->is_ours, 1);
    }
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    return TN_OK;
}

/* ----------------------------------------------------------------------------------- hellos */

static bool is_ours(const uint8_t *id)
{
    size_t n = sizeof PREFIX - 1;
    return memcmp(id, PREFIX, n) == 0 && id[n + 2 * ID_BYTES] == 0
        && strlen((const char *)id) == n + 2 * ID_BYTES;
}

static int tag_of(const uint8_t *id)
{
    uint32_t h = 2166136261u; /* FNV-1a */
    for (size_t i = 0; id[i] != 0; i++)
        h = (h ^ id[i]) * 16777619u;
    return TAG_LEAST + (int)(h % TAG_GROUPS) * TAGS_A_GROUP;
}

/* Processes with the same text see each other's pids. */
static void host_of(char *text, size_t size)
{
    char boot[37] = "", space[24] = "";
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "r");
    if (f != NULL) {
        (void)!fread(boot, 1, sizeof boot - 1, f);
        fclose(f);
    }
    ssize_t n = readlink("/proc/self/ns/pid", space, sizeof space - 1);
    space[n > 0 ? n : 0] = 0;
    snprintf(text, size, "%.36s %.20s", boot, space);
}

static hello hello_of(const mpi_group *g, const uint8_t *id)
{
    hello x = {.rank = g->rank, .nrank = g->nrank, .pid = (int32_t)getpid(), .piece = g->piece};
    memcpy(x.id, id, sizeof x.id);
    host_of(x.host, sizeof x.host);
    return x;
}

/* Room for the hellos of all processes; MPI writes there until all have come. */
typedef struct meeting {
    hello mine, of[GROUP_RANKS_MAX];
    MPI_Request in[GROUP_RANKS_MAX], out[GROUP_RANKS_MAX];
    bool has[GROUP_RANKS_MAX];
    int me, size;              /* of MPI_COMM_WORLD */
} meeting;

static tn_status say_missing(const meeting *m, uint32_t timeout_ms, tn_err *err)
{
    char list[300] = "";
    size_t n = 0;
    uint32_t came = 1;
    for (int w = 0; w < m->size; w++)
        if (w != m->me && !m->has[w] && n < sizeof list - 8)
            n += (size_t)snprintf(list + n, sizeof list - n, "%s%d", n > 0 ? ", " : "", w);
        else
            came += w != m->me;
    return tn_fail(err, TN_UNAVAILABLE, "mpi: %u of %d processes joined within %u ms; missing: MPI's "
                   "ranks %s", came, m->size, timeout_ms, list);
}

static tn_status exchange(meeting *m, const mpi_group *g, uint64_t deadline, uint32_t timeout_ms,
                          tn_err *err)
{
    int left = m->size - 1, e = MPI_SUCCESS;
    for (int w = 0; w < m->size && e == MPI_SUCCESS; w++) {
        if (w == m->me)
            continue;
        e = MPI_Irecv(&m->of[w], sizeof m->of[w], MPI_BYTE, w, g->tag + TAG_HELLO, MPI_COMM_WORLD,
                      &m->in[w]);
        if (e == MPI_SUCCESS)
            e = MPI_Isend(&m->mine, sizeof m->mine, MPI_BYTE, w, g->tag + TAG_HELLO,
                          MPI_COMM_WORLD, &m->out[w]);
    }
    while (e == MPI_SUCCESS && left > 0 && ms_now(g->h) < deadline) {
        for (int w = 0; w < m->size && e == MPI_SUCCESS; w++) {
            int done = 0;
            if (w == m->me || m->has[w])
                continue;
            e = MPI_Test(&m->in[w], &done, MPI_STATUS_IGNORE);
            m->has[w] = done;
            left -= done;
        }
        if (left > 0)
            short_nap();
    }
    if (e != MPI_SUCCESS)
        return tn_fail(err, TN_UNAVAILABLE, "mpi: a hello failed with %d", e);
    return left == 0 ? TN_OK : say_missing(m, timeout_ms, err);
}

static tn_status seat(mpi_group *g, const meeting *m, tn_err *err)
{
    bool taken[GROUP_RANKS_MAX] = {false};
    for (int w = 0; w < m->size; w++) {
        const hello *x = w == m->me ? &m->mine : &m->of[w];
        if (memcmp(x->id, m->mine.id, sizeof x->id) != 0 || x->nrank != g->nrank
            || x->rank >= g->nrank || x->piece != g->piece)
            return tn_fail(err, TN_UNAVAILABLE, "mpi: process %d is rank %u of %u with piece = %llu; "
                           "this one is rank %u of %u with %llu", w, x->rank, x->nrank,
                           (unsigned long long)x->piece, g->rank, g->nrank,
                           (unsigned long long)g->piece);
        if (taken[x->rank])
            return tn_fail(err, TN_UNAVAILABLE, "mpi: two processes are rank %u", x->rank);
        taken[x->rank] = true;
        mpi_peer *p = &g->peer[x->rank];
        p->world = w;
        p->pid = x->pid;
        if (w != m->me && memcmp(x->host, m->mine.host, sizeof x->host) == 0)
            p->watch = (int)syscall(SYS_pidfd_open, x->pid, 0);
    }
    return TN_OK;
}

/* When somebody is missing, what was posted cannot be taken back, and the room for it stays. */
static tn_status meet(mpi_group *g, const uint8_t *id, uint64_t deadline, uint32_t timeout_ms,
                      tn_err *err)
{
    int size = 0;
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    if ((uint32_t)size != g->nrank)
        return tn_fail(err, TN_UNAVAILABLE, "mpi: %d processes were started together; expected %u, "
                       "one a rank", size, g->nrank);
    meeting *m = calloc(1, sizeof *m);
    if (m == NULL)
        return tn_fail(err, TN_NO_MEMORY, "mpi: out of memory");
    m->size = size;
    MPI_Comm_rank(MPI_COMM_WORLD, &m->me);
    m->mine = hello_of(g, id);
    tn_status st = exchange(m, g, deadline, timeout_ms, err);
    if (st != TN_OK) {
        atomic_store(&g->self->is_torn, 1);
        return st;
    }
    m->out[m->me] = MPI_REQUEST_NULL;
    MPI_Waitall(size, m->out, MPI_STATUSES_IGNORE); /* all came, so all listen */
    st = seat(g, m, err);
    free(m);
    return st == TN_OK ? mpi_listen(g, err) : st;
}

/* --------------------------------------------------------------------------- join and leave */

tn_status mpi_make_id(void *self, uint8_t id[TN_COMM_ID_SIZE], tn_err *err)
{
    uint8_t bits[ID_BYTES];
    (void)self;
    if (getrandom(bits, sizeof bits, 0) != sizeof bits)
        return tn_fail(err, TN_OS, "mpi: no random bits: %s", strerror(errno));
    memset(id, 0, TN_COMM_ID_SIZE);
    int n = snprintf((char *)id, TN_COMM_ID_SIZE, "%s", PREFIX);
    for (uint32_t i = 0; i < ID_BYTES; i++)
        n += snprintf((char *)id + n, TN_COMM_ID_SIZE - (size_t)n, "%02x", bits[i]);
    return TN_OK;
}

/* As many as may run at once. */
static uint32_t processors(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? (uint32_t)CPU_COUNT(&set) : 1;
}

static mpi_group *new_group(mpi_self *m, const uint8_t *id, uint32_t rank, uint32_t nrank)
{
    const tn_host *h = m->h;
    mpi_group *g = h->alloc(h->ctx, sizeof *g);
    if (g == NULL)
        return NULL;
    *g = (mpi_group){.self = m, .h = h, .rank = rank, .nrank = nrank, .ear = MPI_REQUEST_NULL,
                     .is_listening = ATOMIC_FLAG_INIT};
    g->tag = tag_of(id);
    g->piece = ((uint64_t)h->opt_int(h->ctx, "piece") + 63) / 64 * 64;
    g->timeout_s = (uint32_t)h->opt_int(h->ctx, "timeout");
    g->spin_us = (uint32_t)h->opt_int(h->ctx, "spin_us");
    for (uint32_t r = 0; r < GROUP_RANKS_MAX; r++)
        g->peer[r].watch = -1;
    if (nrank == 1)
        return g;
    g->room = h->alloc(h->ctx, (nrank + 1) * g->piece);
    if (g->room == NULL) {
        h->release(h->ctx, g);
        return NULL;
    }
    memset(g->room, 0, (nrank + 1) * g->piece);
    return g;
}

/* Ranks of this host that outnumber its processors give way at once. */
static void choose_spin(mpi_group *g)
{
    uint32_t here = 1;
    for (uint32_t r = 0; r < g->nrank; r++)
        here += g->peer[r].watch >= 0;
    if (here > processors())
        g->spin_us = 0;
}

/* True when MPI has let go of the room. */
static bool settle(mpi_group *g)
{
    uint64_t end = ms_now(g->h) + SETTLE_MS;
    int done = 0;
    for (uint32_t i = 0; i < g->nreq; i++)
        if (g->expect[i] > 0 && g->req[i] != MPI_REQUEST_NULL)
            MPI_Cancel(&g->req[i]);
    if (g->ear != MPI_REQUEST_NULL)
        MPI_Cancel(&g->ear);
    while (!done && ms_now(g->h) < end) {
        int all = 0, ear = 0;
        MPI_Testall((int)g->nreq, g->req, &all, MPI_STATUSES_IGNORE);
        MPI_Test(&g->ear, &ear, MPI_STATUS_IGNORE);
        done = all && ear;
        if (!done)
            short_nap();
    }
    return done;
}

void mpi_leave(void *group)
{
    mpi_group *g = group;
    const tn_host *h = g->h;
    bool is_begun = g->ear != MPI_REQUEST_NULL;
    if (is_begun)
        mpi_tell_all(g, NOTICE_LEFT);
    bool settled = g->nrank == 1 || !is_begun || settle(g);
    for (uint32_t r = 0; r < GROUP_RANKS_MAX; r++)
        if (g->peer[r].watch >= 0)
            close(g->peer[r].watch);
    if (is_begun)
        atomic_fetch_sub(&g->self->ngroup, 1);
    if (!settled) {
        h->log(h->ctx, TN_LOG_DEBUG, "a message is still under way; its memory is kept");
        return;
    }
    if (g->room != NULL)
        h->release(h->ctx, g->room);
    h->release(h->ctx, g);
}

tn_status mpi_join(void *self, const uint8_t id[TN_COMM_ID_SIZE], uint32_t rank, uint32_t nrank,
                   uint32_t device, uint32_t timeout_ms, void **out, tn_err *err)
{
    mpi_self *m = self;
    (void)device;
    if (nrank == 0 || nrank > GROUP_RANKS_MAX || rank >= nrank)
        return tn_fail(err, TN_UNSUPPORTED, "mpi: rank %u of %u; expected 1 to %u ranks", rank,
                       nrank, GROUP_RANKS_MAX);
    if (!is_ours(id))
        return tn_fail(err, TN_UNAVAILABLE, "mpi: the id is not one of its make_id");
    uint64_t deadline = ms_now(m->h) + timeout_ms;
    tn_status st = nrank == 1 ? TN_OK : ensure_mpi(m, timeout_ms, err);
    if (st != TN_OK)
        return st;
    mpi_group *g = new_group(m, id, rank, nrank);
    if (g == NULL)
        return tn_fail(err, TN_NO_MEMORY, "mpi: out of memory");
    st = nrank == 1 ? TN_OK : meet(g, id, deadline, timeout_ms, err);
    if (st != TN_OK) {
        mpi_leave(g);
        return st;
    }
    if (nrank > 1) {
        choose_spin(g);
        atomic_fetch_add(&m->ngroup, 1);
    }
    *out = g;
    return TN_OK;
}
