/* SPDX-License-Identifier: Apache-2.0 */
/* mpi.c - joins ranks that mpirun or srun started, on one host or on many.
 *
 * Small sums: every rank sends its numbers to all and adds up what it gets, in the order of the
 * ranks. Large ones, piece by piece: every rank adds up its slice of the piece and sends that to
 * all. An element is summed in the same order, once, whoever does it: all get the same bits. */
#include "mpi_group.h"

#include <dlfcn.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

#define SLICES_FROM 32768u     /* bytes; below, a second trip costs more than it saves */
#define END_MS 5000u           /* for all processes to end MPI */

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static char *slot(const mpi_group *g, uint32_t rank)
{
    return g->room + (rank + 1) * g->piece;
}

static tn_status type_refused(const char *what, uint32_t dtype, tn_err *err)
{
    return tn_fail(err, TN_UNSUPPORTED, "mpi: %s of data type %u is not offered", what, dtype);
}

/* ------------------------------------------------------------------------------------- sums */

typedef struct sum_job {
    mpi_sum sum;
    uint32_t size;             /* of an element */
} sum_job;

/* What is at the beginning of the room goes to all; what they send comes into their slots. */
static tn_status swap_all(mpi_group *g, uint64_t bytes, tn_err *err)
{
    tn_status st = TN_OK;
    for (uint32_t i = 1; st == TN_OK && i < g->nrank; i++)
        st = mpi_receive(g, (g->rank + i) % g->nrank, slot(g, (g->rank + i) % g->nrank), bytes,
                         err);
    for (uint32_t i = 1; st == TN_OK && i < g->nrank; i++)
        st = mpi_send(g, (g->rank + i) % g->nrank, g->room, bytes, err);
    return st == TN_OK ? mpi_wait(g, err) : st;
}

static void all_slots(const mpi_group *g, const void *mine, const void **from)
{
    for (uint32_t r = 0; r < g->nrank; r++)
        from[r] = r == g->rank ? mine : slot(g, r);
}

static tn_status reduce_at_once(mpi_group *g, const sum_job *j, void *x, uint64_t n, tn_err *err)
{
    const void *from[GROUP_RANKS_MAX];
    memcpy(g->room, x, n * j->size);
    tn_status st = swap_all(g, n * j->size, err);
    if (st != TN_OK)
        return st;
    all_slots(g, g->room, from);
    j->sum(from, g->nrank, x, n);
    return TN_OK;
}

/* The beginning and size of a rank's slice, in bytes. */
static uint64_t slice(const mpi_group *g, const sum_job *j, uint64_t n, uint32_t rank,
                      uint64_t *begin)
{
    uint64_t each = (n + g->nrank - 1) / g->nrank;
    *begin = least(n, each * rank) * j->size;
    return least(n * j->size - *begin, each * j->size);
}

/* First every rank's slice goes to that rank, then its sum to all. The slices of the others are
 * received at the beginning of their slots, sums into their places in the last slot but own. */
static tn_status reduce_in_slices(mpi_group *g, const sum_job *j, void *x, uint64_t n, tn_err *err)
{
    const void *from[GROUP_RANKS_MAX];
    uint64_t begin, mine = slice(g, j, n, g->rank, &begin), at;
    tn_status st = TN_OK;
    memcpy(g->room, x, n * j->size);
    for (uint32_t r = 0; st == TN_OK && r < g->nrank; r++)
        if (r != g->rank)
            st = mpi_receive(g, r, slot(g, r), mine, err);
    for (uint32_t i = 1; st == TN_OK && i < g->nrank; i++) {
        uint32_t r = (g->rank + i) % g->nrank;
        uint64_t bytes = slice(g, j, n, r, &at);
        st = mpi_send(g, r, g->room + at, bytes, err);
    }
    if (st != TN_OK || (st = mpi_wait(g, err)) != TN_OK)
        return st;
    all_slots(g, g->room + begin, from);
    j->sum(from, g->nrank, slot(g, g->rank), mine / j->size);
    for (uint32_t r = 0; st == TN_OK && r < g->nrank; r++)
        if (r != g->rank) {
            uint64_t bytes = slice(g, j, n, r, &at);
            st = mpi_receive(g, r, g->room + at, bytes, err);
        }
    for (uint32_t i = 1; st == TN_OK && i < g->nrank; i++)
        st = mpi_send(g, (g->rank + i) % g->nrank, slot(g, g->rank), mine, err);
    if (st != TN_OK || (st = mpi_wait(g, err)) != TN_OK)
        return st;
    memcpy(g->room + begin, slot(g, g->rank), mine);
    memcpy(x, g->room, n * j->size);
    return TN_OK;
}

static tn_status all_reduce(void *group, void *x, uint64_t count, uint32_t dtype, void *stream,
                            tn_err *err)
{
    mpi_group *g = group;
    sum_job j = {.sum = mpi_sum_of(dtype), .size = mpi_size_of(dtype)};
    tn_status st = mpi_check(g, err);
    (void)stream;
    if (st == TN_OK && j.sum == NULL)
        return type_refused("a sum", dtype, err);
    for (uint64_t done = 0, n; st == TN_OK && g->nrank > 1 && done < count; done += n) {
        char *at = (char *)x + done * j.size;
        n = least(count - done, g->piece / j.size);
        st = n * j.size < SLICES_FROM || g->nrank == 2 ? reduce_at_once(g, &j, at, n, err)
                                                       : reduce_in_slices(g, &j, at, n, err);
    }
    return st;
}

/* ------------------------------------------------------------------------ gather, broadcast */

static tn_status all_gather(void *group, const void *in, void *out, uint64_t count,
                            uint32_t dtype, void *stream, tn_err *err)
{
    mpi_group *g = group;
    uint64_t size = count * mpi_size_of(dtype);
    tn_status st = mpi_check(g, err);
    (void)stream;
    if (st == TN_OK && mpi_size_of(dtype) == 0)
        return type_refused("a gather", dtype, err);
    if (st == TN_OK)
        memcpy((char *)out + g->rank * size, in, size);
    for (uint64_t done = 0, n; st == TN_OK && g->nrank > 1 && done < size; done += n) {
        n = least(size - done, g->piece);
        memcpy(g->room, (const char *)in + done, n);
        st = swap_all(g, n, err);
        for (uint32_t r = 0; st == TN_OK && r < g->nrank; r++)
            if (r != g->rank)
                memcpy((char *)out + r * size + done, slot(g, r), n);
    }
    return st;
}

/* The root sends to each: ranks are few. */
static tn_status broadcast_piece(mpi_group *g, char *x, uint64_t bytes, uint32_t root, tn_err *err)
{
    tn_status st = TN_OK;
    if (g->rank == root)
        memcpy(g->room, x, bytes);
    for (uint32_t r = 0; st == TN_OK && g->rank == root && r < g->nrank; r++)
        if (r != root)
            st = mpi_send(g, r, g->room, bytes, err);
    if (g->rank != root)
        st = mpi_receive(g, root, g->room, bytes, err);
    if (st != TN_OK || (st = mpi_wait(g, err)) != TN_OK)
        return st;
    if (g->rank != root)
        memcpy(x, g->room, bytes);
    return TN_OK;
}

static tn_status broadcast(void *group, void *x, uint64_t bytes, uint32_t root, void *stream,
                           tn_err *err)
{
    mpi_group *g = group;
    tn_status st = mpi_check(g, err);
    (void)stream;
    if (root >= g->nrank)
        return tn_fail(err, TN_INTERNAL, "mpi: root %u of %u ranks", root, g->nrank);
    for (uint64_t done = 0, n; st == TN_OK && g->nrank > 1 && done < bytes; done += n) {
        n = least(bytes - done, g->piece);
        st = broadcast_piece(g, (char *)x + done, n, root, err);
    }
    return st;
}

static tn_status barrier(void *group, tn_err *err)
{
    mpi_group *g = group;
    tn_status st = mpi_check(g, err);
    return st == TN_OK && g->nrank > 1 ? swap_all(g, 1, err) : st;
}

/* ------------------------------------------------------------------------------ the plugin */

static tn_status init(const tn_host *h, void **self, tn_err *err)
{
    mpi_self *m = h->alloc(h->ctx, sizeof *m);
    if (m == NULL)
        return tn_fail(err, TN_NO_MEMORY, "mpi: out of memory");
    *m = (mpi_self){.h = h};
    *self = m;
    return TN_OK;
}

static void *end_mpi(void *user)
{
    MPI_Finalize();
    atomic_store((atomic_int *)user, 1);
    return NULL;
}

/* Ending MPI waits for all processes, and so only after groups that ended well. A process that
 * ends without it takes the others along, which after a fault is what is wanted: also one that
 * MPI saw nothing of, as where another communicator served. So a thread of its own ends it, and
 * is left alone when it takes too long; it looks at nothing but MPI's and the flag. */
static void stop(void *self)
{
    static atomic_int done;
    mpi_self *m = self;
    pthread_t t;
    int ended = 0;
    MPI_Finalized(&ended);
    if (!ended && atomic_load(&m->is_ours) && !atomic_load(&m->is_torn)
        && atomic_load(&m->ngroup) == 0 && pthread_create(&t, NULL, end_mpi, &done) == 0) {
        pthread_detach(t);
        for (uint32_t i = 0; !atomic_load(&done) && i < END_MS; i++) {
            const struct timespec nap = {.tv_nsec = 1000000};
            nanosleep(&nap, NULL);
        }
        Dl_info own; /* whose code the thread may come back to */
        if (!atomic_load(&done) && dladdr(&done, &own) != 0 && own.dli_fname != NULL)
            dlopen(own.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE);
    }
    m->h->release(m->h->ctx, m);
}

static const tn_option options[] = {
    {.size = sizeof(tn_option), .type = TN_OPT_INT, .key = "timeout", .fallback = "30", .least = 1,
     .greatest = 86400, .help = "Seconds after which a rank that does not come is given up."},
    {.size = sizeof(tn_option), .type = TN_OPT_INT, .key = "spin_us", .fallback = "1000",
     .greatest = 1000000, .help = "Microseconds a waiting rank asks MPI without a pause; where ranks "
     "outnumber the processors it always pauses."},
    {.size = sizeof(tn_option), .type = TN_OPT_SIZE, .key = "piece", .fallback = "256KiB",
     .least = 4096, .greatest = 67108864,
     .help = "Bytes that are exchanged at once; a rank takes one more piece than there are ranks."},
};

static const tn_comm table = {
    .size = sizeof(tn_comm),
    .flags = TN_COMM_HOST,
    .make_id = mpi_make_id,
    .join = mpi_join,
    .all_reduce = all_reduce,
    .all_gather = all_gather,
    .broadcast = broadcast,
    .barrier = barrier,
    .abort = mpi_abort,
    .health = mpi_health,
    .leave = mpi_leave,
};

const tn_plugin tn_plugin_entry = {
    .abi_major = TN_ABI_MAJOR,
    .abi_minor = TN_ABI_MINOR,
    .size = sizeof(tn_plugin),
    .kind = TN_KIND_COMM,
    .name = "mpi",
    .version = "1.0",
    .summary = "Joins ranks that mpirun or srun started, on one host or on many.",
    .options = options,
    .noption = sizeof options / sizeof options[0],
    .table = &table,
    .init = init,
    .stop = stop,
};
