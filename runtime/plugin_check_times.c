/* SPDX-License-Identifier: Apache-2.0 */
/* plugin_check_times.c - `tenon plugin bench`: how long a communicator's calls take.
 *
 * On the host every call is timed and the median told; on a device calls are begun in a row and
 * the time until the last is done is shared out among them. Rank 0's clock counts. */
#include "plugin_check_comm.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define CALLS_MAX 4001u
#define TIMES_SECONDS 280
#define DEVICE_CALLS 200u

static const uint64_t counts[TN_CHECK_SIZES] = {1, 256, 2048, 4096, 16384, 65536, 262144, 1048576,
                                                4194304}; /* f32 */

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

typedef tn_status (*operation)(tn_comm_rank *r, tn_comm_buffer *x, tn_comm_buffer *y, uint64_t n,
                               tn_err *err);

static tn_status reduce(tn_comm_rank *r, tn_comm_buffer *x, tn_comm_buffer *y, uint64_t n,
                        tn_err *err)
{
    (void)y;
    return r->comm->all_reduce(r->group, x->mem, n, TN_F32, r->stream, err);
}

static tn_status gather(tn_comm_rank *r, tn_comm_buffer *x, tn_comm_buffer *y, uint64_t n,
                        tn_err *err)
{
    return r->comm->all_gather(r->group, x->mem, y->mem, n, TN_F32, r->stream, err);
}

static tn_status broadcast(tn_comm_rank *r, tn_comm_buffer *x, tn_comm_buffer *y, uint64_t n,
                           tn_err *err)
{
    (void)y;
    return r->comm->broadcast(r->group, x->mem, n * sizeof(float), 0, r->stream, err);
}

static bool median(tn_comm_rank *r, operation run, tn_comm_buffer *x, tn_comm_buffer *y, uint64_t n,
                   double *us)
{
    static double each[CALLS_MAX];
    tn_err err = {.text = ""};
    uint32_t calls = n <= 4096 ? CALLS_MAX : n <= 65536 ? 401 : 21;
    for (uint32_t i = 0; i < calls; i++) {
        double t = now_us();
        if (run(r, x, y, n, &err) != TN_OK)
            return tn_comm_failed(r, "call", "%.800s", err.text);
        each[i] = now_us() - t;
    }
    qsort(each, calls, sizeof each[0], by_size);
    *us = each[calls / 2];
    return true;
}

static bool in_a_row(tn_comm_rank *r, operation run, tn_comm_buffer *x, tn_comm_buffer *y,
                     uint64_t n, double *us)
{
    tn_err err = {.text = ""};
    uint32_t calls = n <= 65536 ? DEVICE_CALLS : DEVICE_CALLS / 10;
    tn_status st = tn_comm_settle(r, run(r, x, y, n, &err), x, &err);
    double t = now_us();
    for (uint32_t i = 0; st == TN_OK && i < calls; i++)
        st = run(r, x, y, n, &err);
    st = tn_comm_settle(r, st, x, &err);
    *us = (now_us() - t) / calls;
    return st == TN_OK || tn_comm_failed(r, "call", "%.800s", err.text);
}

static bool time_all(tn_comm_rank *r, tn_comm_buffer *x, tn_comm_buffer *y)
{
    static const operation run[3] = {reduce, gather, broadcast};
    for (size_t i = 0; i < TN_CHECK_SIZES; i++)
        for (size_t o = 0; o < 3; o++) {
            double us = 0;
            memset(x->host, 0, counts[i] * sizeof(float)); /* or sums end as infinities */
            if (!tn_comm_push(r, x, counts[i] * sizeof(float)))
                return false;
            bool good = r->device != NULL ? in_a_row(r, run[o], x, y, counts[i], &us)
                                          : median(r, run[o], x, y, counts[i], &us);
            if (!good)
                return false;
            if (r->rank == 0)
                r->b->us[i][o] = us;
        }
    return true;
}

bool tn_comm_part_times(tn_comm_rank *r)
{
    tn_comm_buffer x = {.host = NULL}, y = {.host = NULL};
    size_t size = counts[TN_CHECK_SIZES - 1] * sizeof(float);
    bool good = tn_comm_take(r, size, &x) && tn_comm_take(r, size * r->nrank, &y)
        && time_all(r, &x, &y);
    tn_comm_give(r, &x);
    tn_comm_give(r, &y);
    return good;
}

static void print_table(const tn_check *c, const tn_comm_board *b)
{
    dprintf(c->out, "%s, %u ranks: microseconds a call of f32; a rank's bytes, GB/s of the sum\n"
            "%10s %12s %12s %12s %8s\n", c->name, b->nrank, "bytes", "all_reduce", "all_gather",
            "broadcast", "GB/s");
    for (size_t i = 0; i < TN_CHECK_SIZES; i++) {
        uint64_t bytes = counts[i] * sizeof(float);
        dprintf(c->out, "%10llu %12.2f %12.2f %12.2f %8.2f\n", (unsigned long long)bytes,
                b->us[i][0], b->us[i][1], b->us[i][2], (double)bytes / b->us[i][0] / 1000);
    }
}

tn_status tn_check_times(tn_check *c, uint32_t nrank, tn_err *err)
{
    char path[64];
    int fd = -1;
    tn_comm_cast k;
    if (nrank == 0 || nrank > TN_CHECK_RANKS_MAX)
        return tn_fail(err, TN_USAGE, "plugin bench: --ranks %u; expected 1 to %u", nrank,
                       TN_CHECK_RANKS_MAX);
    tn_comm_board *b = tn_comm_new_board(&fd, path, sizeof path);
    if (b == NULL)
        return tn_fail(err, TN_OS, "plugin bench: no shared memory: %s", strerror(errno));
    c->board = path;
    tn_comm_start(c, b, nrank, TN_PART_TIMES, &k);
    tn_comm_end(&k, b, TN_NONE, TIMES_SECONDS);
    tn_status st = TN_OK;
    for (uint32_t r = 0; r < nrank && st == TN_OK; r++)
        if (!b->has_ended[r])
            st = tn_fail(err, TN_UNAVAILABLE, "plugin bench: %.900s",
                         b->text[r][0] != 0 ? b->text[r] : "a rank came to no end");
    if (st == TN_OK)
        print_table(c, b);
    munmap(b, sizeof *b);
    close(fd);
    return st;
}
