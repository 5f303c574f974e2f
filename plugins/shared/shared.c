/* SPDX-License-Identifier: Apache-2.0 */
/* shared.c - joins the ranks of one host through memory that they share.
 *
 * Small sums take one round: every rank leaves its numbers and adds up all of them, in the order
 * of the ranks. Large ones take two, piece by piece: every rank adds up its slice of the piece and
 * leaves that, then all take all slices; an element is summed by one rank alone. Either way all
 * ranks get the same bits. */
#include "shared.h"

#define TWO_ROUNDS_FROM 4096u  /* bytes; below, a second round costs more than it saves */
#define PIECE "256KiB"

enum { OP_REDUCE = 1, OP_SLICES = 2, OP_GATHER = 3, OP_BROADCAST = 4, OP_BARRIER = 5 };

/* What ranks must agree on: operation and data type, or root. */
static uint32_t op_of(uint32_t op, uint32_t detail)
{
    return op << 16 | detail;
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Line by line: the long string moves of memcpy crawl over lines that another processor has just
 * written (8 times as long on Zen 3). */
static void copy(void *to, const void *from, uint64_t bytes)
{
    char *t = to;
    const char *f = from;
    for (; bytes >= SHARED_LINE; bytes -= SHARED_LINE, t += SHARED_LINE, f += SHARED_LINE)
        memcpy(t, f, SHARED_LINE);
    memcpy(t, f, bytes);
}

static tn_status type_refused(const char *what, uint32_t dtype, tn_err *err)
{
    return tn_fail(err, TN_UNSUPPORTED, "shared: %s of data type %u is not offered", what, dtype);
}

/* ------------------------------------------------------------------------------------- sums */

typedef struct sum_job {
    shared_sum sum;
    uint32_t dtype, size;      /* of an element */
} sum_job;

static void all_pieces(const shared_group *g, uint64_t offset, const void **from)
{
    for (uint32_t r = 0; r < g->nrank; r++)
        from[r] = shared_piece(g, r) + offset;
}

static tn_status reduce_at_once(shared_group *g, const sum_job *j, void *x, uint64_t n, tn_err *err)
{
    const void *from[SHARED_RANKS_MAX];
    copy(shared_piece(g, g->rank), x, n * j->size);
    tn_status st = shared_meet(g, op_of(OP_REDUCE, j->dtype), n, err);
    if (st != TN_OK)
        return st;
    all_pieces(g, 0, from);
    j->sum(from, g->nrank, x, n);
    g->turn ^= 1;
    return TN_OK;
}

/* Elements a rank sums: whole lines, so that no two ranks write into one. */
static uint64_t slice_of(const shared_group *g, const sum_job *j, uint64_t n)
{
    uint64_t line = SHARED_LINE / j->size, each = (n + g->nrank - 1) / g->nrank;
    return (each + line - 1) / line * line;
}

/* The sum of a slice takes the place of this rank's own numbers: nobody else reads those. */
static tn_status reduce_in_slices(shared_group *g, const sum_job *j, void *x, uint64_t n,
                                  tn_err *err)
{
    const void *from[SHARED_RANKS_MAX];
    uint64_t each = slice_of(g, j, n), begin = least(n, each * g->rank);
    uint64_t mine = least(n - begin, each);
    copy(shared_piece(g, g->rank), x, n * j->size);
    tn_status st = shared_meet(g, op_of(OP_REDUCE, j->dtype), n, err);
    if (st != TN_OK)
        return st;
    all_pieces(g, begin * j->size, from);
    j->sum(from, g->nrank, shared_piece(g, g->rank) + begin * j->size, mine);
    st = shared_meet(g, op_of(OP_SLICES, j->dtype), n, err);
    if (st != TN_OK)
        return st;
    for (uint32_t r = 0; r < g->nrank; r++) {
        begin = least(n, each * r) * j->size;
        copy((char *)x + begin, shared_piece(g, r) + begin,
               least(n * j->size - begin, each * j->size));
    }
    g->turn ^= 1;
    return TN_OK;
}

static tn_status all_reduce(void *group, void *x, uint64_t count, uint32_t dtype, void *stream,
                            tn_err *err)
{
    shared_group *g = group;
    sum_job j = {.sum = shared_sum_of(dtype), .dtype = dtype, .size = shared_size_of(dtype)};
    tn_status st = TN_OK;
    (void)stream;
    if (j.sum == NULL)
        return type_refused("a sum", dtype, err);
    for (uint64_t done = 0, n; st == TN_OK && done < count; done += n) {
        char *at = (char *)x + done * j.size;
        n = least(count - done, g->piece_size / j.size);
        st = n * j.size < TWO_ROUNDS_FROM || g->nrank == 2 ? reduce_at_once(g, &j, at, n, err)
                                          : reduce_in_slices(g, &j, at, n, err);
    }
    return st;
}

/* ------------------------------------------------------------------------ gather, broadcast */

static tn_status all_gather(void *group, const void *in, void *out, uint64_t count,
                            uint32_t dtype, void *stream, tn_err *err)
{
    shared_group *g = group;
    uint64_t size = count * shared_size_of(dtype);
    (void)stream;
    if (shared_size_of(dtype) == 0)
        return type_refused("a gather", dtype, err);
    for (uint64_t done = 0, n; done < size; done += n) {
        n = least(size - done, g->piece_size);
        copy(shared_piece(g, g->rank), (const char *)in + done, n);
        tn_status st = shared_meet(g, op_of(OP_GATHER, dtype), size - done, err);
        if (st != TN_OK)
            return st;
        for (uint32_t r = 0; r < g->nrank; r++)
            copy((char *)out + r * size + done, shared_piece(g, r), n);
        g->turn ^= 1;
    }
    return TN_OK;
}

static tn_status broadcast(void *group, void *x, uint64_t bytes, uint32_t root, void *stream,
                           tn_err *err)
{
    shared_group *g = group;
    (void)stream;
    if (root >= g->nrank)
        return tn_fail(err, TN_INTERNAL, "shared: root %u of %u ranks", root, g->nrank);
    for (uint64_t done = 0, n; done < bytes; done += n) {
        n = least(bytes - done, g->piece_size);
        if (g->rank == root)
            copy(shared_piece(g, root), (char *)x + done, n);
        tn_status st = shared_meet(g, op_of(OP_BROADCAST, root), bytes - done, err);
        if (st != TN_OK)
            return st;
        if (g->rank != root)
            copy((char *)x + done, shared_piece(g, root), n);
        g->turn ^= 1;
    }
    return TN_OK;
}

static tn_status barrier(void *group, tn_err *err)
{
    return shared_meet(group, op_of(OP_BARRIER, 0), 0, err);
}

/* ------------------------------------------------------------------------------ the plugin */

static tn_status init(const tn_host *h, void **self, tn_err *err)
{
    (void)err;
    *self = (void *)(uintptr_t)h; /* nothing else to remember */
    return TN_OK;
}

static void stop(void *self)
{
    (void)self;
}

static const tn_option options[] = {
    {.size = sizeof(tn_option), .type = TN_OPT_INT, .key = "timeout", .fallback = "30", .least = 1,
     .greatest = 86400, .help = "Seconds after which a rank that does not come is given up."},
    {.size = sizeof(tn_option), .type = TN_OPT_INT, .key = "spin_us", .fallback = "100",
     .greatest = 1000000, .help = "Microseconds a waiting rank spins before it sleeps; ranks that "
     "outnumber the processors never spin."},
    {.size = sizeof(tn_option), .type = TN_OPT_SIZE, .key = "piece", .fallback = PIECE,
     .least = 4096, .greatest = 67108864,
     .help = "Bytes that are exchanged at once; a rank takes two pieces of shared memory."},
};

static const tn_comm table = {
    .size = sizeof(tn_comm),
    .flags = TN_COMM_HOST,
    .make_id = shared_make_id,
    .join = shared_join,
    .all_reduce = all_reduce,
    .all_gather = all_gather,
    .broadcast = broadcast,
    .barrier = barrier,
    .abort = shared_abort,
    .health = shared_health,
    .leave = shared_leave,
};

const tn_plugin tn_plugin_entry = {
    .abi_major = TN_ABI_MAJOR,
    .abi_minor = TN_ABI_MINOR,
    .size = sizeof(tn_plugin),
    .kind = TN_KIND_COMM,
    .name = "shared",
    .version = "1.0",
    .summary = "Joins the ranks of one host through memory that they share.",
    .options = options,
    .noption = sizeof options / sizeof options[0],
    .table = &table,
    .init = init,
    .stop = stop,
};
