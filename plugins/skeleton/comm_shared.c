/* SPDX-License-Identifier: Apache-2.0 */
/* comm_shared.c - the smallest communicator: ranks of one host meet in shared memory.
 *
 *   | head: joined, aborted, arrivals, pids | slot of rank 0 | slot of rank 1 | ...
 *
 * The id is the name of the memory, 128 random bits, mode 0600, unlinked as soon as all have
 * joined. A barrier is one counter that only grows: round r is over when it has reached
 * r * ranks. A collective copies a piece into the own slot, waits, reads all slots in rank
 * order (so every rank gets the same bits), waits. Values are f32 only. */
#include <tenon/plugin.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define RANKS_MAX 64u
#define SLOT_SIZE 65536u
#define HEAD_SIZE 4096u
#define MARK 0x746e7368u
#define LEFT -1                /* in place of a rank's pid: gone in peace */

typedef struct head {
    _Atomic uint32_t mark;     /* MARK once rank 0 has filled it */
    uint32_t nrank;
    _Atomic uint32_t joined;
    _Atomic uint32_t aborted;
    _Atomic uint64_t arrived;
    _Atomic int32_t pid[RANKS_MAX];
} head;

typedef struct group {
    const tn_host *h;
    head *m;                   /* the mapping */
    size_t size;
    uint32_t rank, nrank;
    uint64_t rounds;           /* barriers passed by this rank */
} group;

static tn_status no_memory(tn_err *err)
{
    return tn_fail(err, TN_NO_MEMORY, "comm_shared: out of memory");
}

static char *slot(const group *g, uint32_t rank)
{
    return (char *)g->m + HEAD_SIZE + (size_t)rank * SLOT_SIZE;
}

/* Gives way to others: at once while the wait is young, later by sleeping. */
static void give_way(uint32_t *turns)
{
    struct timespec nap = {.tv_nsec = 50000};
    if (++*turns < 200)
        sched_yield();
    else
        nanosleep(&nap, NULL);
}

/* True also of a process that has ended and was not waited for: a signal would still reach it. */
static bool has_ended(int32_t pid)
{
    struct pollfd p = {.fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN};
    if (p.fd < 0)
        return errno == ESRCH;
    bool ended = poll(&p, 1, 0) > 0;
    close(p.fd);
    return ended;
}

static tn_status check_peers(group *g, tn_err *err)
{
    if (atomic_load(&g->m->aborted))
        return tn_fail(err, TN_CANCELLED, "comm_shared: the group was aborted");
    for (uint32_t r = 0; r < g->nrank; r++) {
        int32_t pid = atomic_load(&g->m->pid[r]);
        if (r != g->rank && (pid == LEFT || has_ended(pid)))
            return tn_fail(err, TN_UNAVAILABLE, "comm_shared: rank %u is gone", r);
    }
    return TN_OK;
}

/* Who is gone may have arrived before, so the count has the last word. */
static tn_status meet(group *g, tn_err *err)
{
    uint64_t goal = ++g->rounds * g->nrank;
    uint32_t turns = 0;
    atomic_fetch_add(&g->m->arrived, 1);
    while (atomic_load(&g->m->arrived) < goal) {
        tn_status st = turns % 64 == 0 || turns > 200 ? check_peers(g, err) : TN_OK;
        if (st != TN_OK && atomic_load(&g->m->arrived) < goal)
            return st;
        give_way(&turns);
    }
    if (atomic_load(&g->m->aborted))
        return tn_fail(err, TN_CANCELLED, "comm_shared: the group was aborted");
    return TN_OK;
}

/* ------------------------------------------------------------------------ join and leave */

static tn_status make_id(void *self, uint8_t id[TN_COMM_ID_SIZE], tn_err *err)
{
    uint8_t bits[16];
    (void)self;
    if (getrandom(bits, sizeof bits, 0) != sizeof bits)
        return tn_fail(err, TN_OS, "comm_shared: no random bits: %s", strerror(errno));
    memset(id, 0, TN_COMM_ID_SIZE);
    int n = snprintf((char *)id, TN_COMM_ID_SIZE, "/tenon-");
    for (size_t i = 0; i < sizeof bits; i++)
        n += snprintf((char *)id + n, TN_COMM_ID_SIZE - (size_t)n, "%02x", bits[i]);
    return TN_OK;
}

static uint64_t ms_now(const tn_host *h)
{
    return h->clock(h->ctx) / 1000000;
}

/* Rank 0 makes the memory, the others wait for it to appear whole. */
static tn_status open_memory(group *g, const char *name, uint64_t deadline, tn_err *err)
{
    struct stat s;
    uint32_t turns = 0;
    int fd;
    int flags = g->rank == 0 ? O_RDWR | O_CREAT | O_EXCL : O_RDWR;
    while ((fd = shm_open(name, flags, 0600)) < 0) {
        if (g->rank == 0 || errno != ENOENT)
            return tn_fail(err, TN_OS, "comm_shared: no shared memory: %s", strerror(errno));
        if (ms_now(g->h) > deadline)
            return tn_fail(err, TN_UNAVAILABLE, "comm_shared: rank 0 did not come in time");
        give_way(&turns);
    }
    if (g->rank == 0 && ftruncate(fd, (off_t)g->size) != 0) {
        close(fd);
        shm_unlink(name);
        return tn_fail(err, TN_OS, "comm_shared: shared memory of %zu bytes: %s", g->size,
                       strerror(errno));
    }
    while (fstat(fd, &s) == 0 && (uint64_t)s.st_size < g->size && ms_now(g->h) <= deadline)
        give_way(&turns);
    void *m = (uint64_t)s.st_size < g->size
        ? MAP_FAILED : mmap(NULL, g->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (m == MAP_FAILED)
        return tn_fail(err, TN_OS, "comm_shared: shared memory cannot be mapped");
    g->m = m;
    return TN_OK;
}

static tn_status gather_ranks(group *g, const char *name, uint64_t deadline, tn_err *err)
{
    uint32_t turns = 0;
    if (g->rank == 0) {
        g->m->nrank = g->nrank;
        atomic_store(&g->m->mark, MARK);
    }
    while (atomic_load(&g->m->mark) != MARK && ms_now(g->h) <= deadline)
        give_way(&turns);
    if (atomic_load(&g->m->mark) != MARK || g->m->nrank != g->nrank)
        return tn_fail(err, TN_UNAVAILABLE, "comm_shared: rank 0 has %u ranks; rank %u expected "
                       "%u", g->m->nrank, g->rank, g->nrank);
    atomic_store(&g->m->pid[g->rank], (int32_t)getpid());
    atomic_fetch_add(&g->m->joined, 1);
    while (atomic_load(&g->m->joined) < g->nrank) {
        if (ms_now(g->h) > deadline)
            return tn_fail(err, TN_UNAVAILABLE, "comm_shared: %u of %u ranks came in time",
                           atomic_load(&g->m->joined), g->nrank);
        give_way(&turns);
    }
    if (g->rank == 0)
        shm_unlink(name);
    return TN_OK;
}

static void leave(void *group_)
{
    group *g = group_;
    const tn_host *h = g->h;
    if (g->m != NULL) {
        atomic_store(&g->m->pid[g->rank], LEFT);
        munmap(g->m, g->size);
    }
    h->release(h->ctx, g);
}

static tn_status join(void *self, const uint8_t id[TN_COMM_ID_SIZE], uint32_t rank,
                      uint32_t nrank, uint32_t device, uint32_t timeout_ms, void **out,
                      tn_err *err)
{
    const tn_host *h = self;
    const char *name = (const char *)id;
    (void)device;
    if (nrank == 0 || nrank > RANKS_MAX || rank >= nrank)
        return tn_fail(err, TN_UNSUPPORTED, "comm_shared: rank %u of %u; expected 1 to %u ranks",
                       rank, nrank, RANKS_MAX);
    if (memchr(id, 0, TN_COMM_ID_SIZE) == NULL || strncmp(name, "/tenon-", 7) != 0
        || strchr(name + 1, '/') != NULL)
        return tn_fail(err, TN_UNAVAILABLE, "comm_shared: the id is not one of ours");
    group *g = h->alloc(h->ctx, sizeof *g);
    if (g == NULL)
        return no_memory(err);
    *g = (group){.h = h, .rank = rank, .nrank = nrank,
                 .size = HEAD_SIZE + (size_t)nrank * SLOT_SIZE};
    uint64_t deadline = ms_now(h) + timeout_ms;
    tn_status st = open_memory(g, name, deadline, err);
    if (st == TN_OK)
        st = gather_ranks(g, name, deadline, err);
    if (st != TN_OK) {
        if (rank == 0)
            shm_unlink(name);
        leave(g);
        return st;
    }
    *out = g;
    return TN_OK;
}

/* ----------------------------------------------------------------------------- collectives */

static tn_status check_type(uint32_t dtype, tn_err *err)
{
    if (dtype == TN_F32)
        return TN_OK;
    return tn_fail(err, TN_UNSUPPORTED, "comm_shared: data type %u; expected f32", dtype);
}

static tn_status all_reduce(void *group_, void *x, uint64_t count, uint32_t dtype, void *stream,
                            tn_err *err)
{
    group *g = group_;
    float *v = x;
    (void)stream;
    tn_status st = check_type(dtype, err);
    while (st == TN_OK && count > 0) {
        uint64_t n = count < SLOT_SIZE / sizeof(float) ? count : SLOT_SIZE / sizeof(float);
        memcpy(slot(g, g->rank), v, n * sizeof(float));
        st = meet(g, err);
        for (uint64_t i = 0; st == TN_OK && i < n; i++) {
            float sum = 0;
            for (uint32_t r = 0; r < g->nrank; r++)
                sum += ((const float *)slot(g, r))[i];
            v[i] = sum;
        }
        if (st == TN_OK)
            st = meet(g, err);
        v += n;
        count -= n;
    }
    return st;
}

static tn_status all_gather(void *group_, const void *in, void *out, uint64_t count,
                            uint32_t dtype, void *stream, tn_err *err)
{
    group *g = group_;
    const float *from = in;
    (void)stream;
    tn_status st = check_type(dtype, err);
    for (uint64_t done = 0, n; st == TN_OK && done < count; done += n) {
        n = count - done < SLOT_SIZE / sizeof(float) ? count - done : SLOT_SIZE / sizeof(float);
        memcpy(slot(g, g->rank), from + done, n * sizeof(float));
        st = meet(g, err);
        for (uint32_t r = 0; st == TN_OK && r < g->nrank; r++)
            memcpy((float *)out + r * count + done, slot(g, r), n * sizeof(float));
        if (st == TN_OK)
            st = meet(g, err);
    }
    return st;
}

static tn_status broadcast(void *group_, void *x, uint64_t bytes, uint32_t root, void *stream,
                           tn_err *err)
{
    group *g = group_;
    tn_status st = TN_OK;
    (void)stream;
    if (root >= g->nrank)
        return tn_fail(err, TN_INTERNAL, "comm_shared: root %u of %u ranks", root, g->nrank);
    for (uint64_t done = 0, n; st == TN_OK && done < bytes; done += n) {
        n = bytes - done < SLOT_SIZE ? bytes - done : SLOT_SIZE;
        if (g->rank == root)
            memcpy(slot(g, root), (char *)x + done, n);
        st = meet(g, err);
        if (st == TN_OK && g->rank != root)
            memcpy((char *)x + done, slot(g, root), n);
        if (st == TN_OK)
            st = meet(g, err);
    }
    return st;
}

static tn_status barrier(void *group_, tn_err *err)
{
    return meet(group_, err);
}

static void abort_group(void *group_)
{
    group *g = group_;
    atomic_store(&g->m->aborted, 1);
}

static tn_status health(void *group_, tn_err *err)
{
    return check_peers(group_, err);
}

/* ------------------------------------------------------------------------------ the plugin */

static tn_status init(const tn_host *h, void **self, tn_err *err)
{
    (void)err;
    *self = (void *)(uintptr_t)h; /* nothing else to remember */
    return TN_OK;
}

static tn_status start(void *self, tn_err *err)
{
    (void)self;
    (void)err;
    return TN_OK;
}

static void stop(void *self)
{
    (void)self;
}

static const tn_comm table = {
    .size = sizeof(tn_comm),
    .flags = TN_COMM_HOST,
    .make_id = make_id,
    .join = join,
    .all_reduce = all_reduce,
    .all_gather = all_gather,
    .broadcast = broadcast,
    .barrier = barrier,
    .abort = abort_group,
    .health = health,
    .leave = leave,
};

const tn_plugin tn_plugin_entry = {
    .abi_major = TN_ABI_MAJOR,
    .abi_minor = TN_ABI_MINOR,
    .size = sizeof(tn_plugin),
    .kind = TN_KIND_COMM,
    .name = "comm_shared",
    .version = "1.0",
    .summary = "Joins the ranks of one host through shared memory.",
    .table = &table,
    .init = init,
    .start = start,
    .stop = stop,
};
