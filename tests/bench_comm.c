/* SPDX-License-Identifier: Apache-2.0 */
/* bench_comm.c - how long communicators take: bench_comm [-n RANKS] [-s KEY=VALUE]... FILE.so...
 *
 * Each rank is a process. A line is one size; a column one operation: the time of a call on
 * rank 0, the median of many, in microseconds. Rates are bytes of one rank's buffer a second. */
#include "plugin_check.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define RANKS_MAX 64u
#define CALLS_MAX 4001u
#define SETS_MAX 16u
#define COUNT_MAX (4u << 20)   /* f32 */

static const uint64_t counts[] = {1, 256, 2048, 4096, 16384, 65536, 262144, COUNT_MAX};
#define NCOUNT (sizeof counts / sizeof counts[0])

typedef struct board {
    uint8_t id[TN_COMM_ID_SIZE];
    volatile uint32_t has_id;  /* 2: failed */
} board;

typedef struct rank {
    tn_check c;
    board *b;
    uint32_t rank, nrank;
    tn_check_room room;
    const tn_comm *comm;
    void *group;
    float *x, *y;
    double ns[CALLS_MAX];
} rank;

static double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void give_up(const rank *r, const char *what, const tn_err *err)
{
    fprintf(stderr, "bench_comm: rank %u: %s: %s\n", r->rank, what, err->text);
    _exit(1);
}

/* ------------------------------------------------------------------------------ the timings */

typedef tn_status (*operation)(rank *r, uint64_t n, tn_err *err);

static tn_status reduce(rank *r, uint64_t n, tn_err *err)
{
    return r->comm->all_reduce(r->group, r->x, n, TN_F32, NULL, err);
}

static tn_status gather(rank *r, uint64_t n, tn_err *err)
{
    return r->comm->all_gather(r->group, r->x, r->y, n, TN_F32, NULL, err);
}

static tn_status broadcast(rank *r, uint64_t n, tn_err *err)
{
    return r->comm->broadcast(r->group, r->x, n * sizeof(float), 0, NULL, err);
}

static double median_us(rank *r, operation run, uint64_t n)
{
    tn_err err = {.text = ""};
    uint32_t calls = n <= 4096 ? CALLS_MAX : n <= 65536 ? 401 : 21;
    for (uint32_t i = 0; i < calls; i++) {
        double t = now_ns();
        if (run(r, n, &err) != TN_OK)
            give_up(r, "call", &err);
        r->ns[i] = now_ns() - t;
    }
    qsort(r->ns, calls, sizeof r->ns[0], by_size);
    return r->ns[calls / 2] / 1000;
}

static void time_size(rank *r, uint64_t n)
{
    double us[3];
    static const operation run[] = {reduce, gather, broadcast};
    for (size_t i = 0; i < 3; i++) {
        memset(r->x, 0, n * sizeof(float)); /* or sums of sums end as infinities */
        us[i] = median_us(r, run[i], n);
    }
    if (r->rank == 0)
        printf("%10llu %12.2f %12.2f %12.2f %10.2f\n", (unsigned long long)(n * sizeof(float)),
               us[0], us[1], us[2], (double)(n * sizeof(float)) / us[0] / 1000);
}

static void join(rank *r)
{
    struct timespec nap = {.tv_nsec = 1000000};
    tn_err err = {.text = ""};
    if (tn_check_enter(&r->c, true, NULL, NULL, &r->room, &err) != TN_OK
        || tn_wall_start(r->room.wall, 0, &err) != TN_OK)
        give_up(r, "start", &err);
    r->comm = r->room.guest->comm;
    void *self = r->room.guest->self;
    if (r->rank == 0)
        r->b->has_id = r->comm->make_id(self, r->b->id, &err) == TN_OK ? 1 : 2;
    while (r->b->has_id == 0)
        nanosleep(&nap, NULL);
    if (r->b->has_id != 1
        || r->comm->join(self, r->b->id, r->rank, r->nrank, 0, 20000, &r->group, &err) != TN_OK)
        give_up(r, "join", &err);
}

static void live_as_rank(rank *r)
{
    r->x = calloc(COUNT_MAX, sizeof(float));
    r->y = calloc((size_t)COUNT_MAX * r->nrank, sizeof(float));
    if (r->x == NULL || r->y == NULL) {
        fprintf(stderr, "bench_comm: out of memory\n");
        _exit(1);
    }
    join(r);
    for (size_t i = 0; i < NCOUNT; i++)
        time_size(r, counts[i]);
    r->comm->leave(r->group);
    tn_check_leave(&r->room);
    fflush(stdout);
    _exit(0);
}

/* ------------------------------------------------------------------------------- the parent */

static void bench(const rank *plan, const char *file)
{
    const char *base = strrchr(file, '/');
    int status;
    rank *r = malloc(sizeof *r);
    board *b = mmap(NULL, sizeof *b, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (r == NULL || b == MAP_FAILED) {
        fprintf(stderr, "bench_comm: out of memory\n");
        exit(1);
    }
    *r = *plan;
    r->b = b;
    r->c.file = file;
    snprintf(r->c.name, sizeof r->c.name, "%s", base != NULL ? base + 1 : file);
    r->c.name[strcspn(r->c.name, ".")] = 0;
    printf("%s, %u ranks: microseconds a call, f32\n%10s %12s %12s %12s %10s\n", r->c.name,
           r->nrank, "bytes", "all_reduce", "all_gather", "broadcast", "GB/s (sum)");
    fflush(stdout);
    for (r->rank = 0; r->rank < r->nrank; r->rank++)
        if (fork() == 0)
            live_as_rank(r);
    while (wait(&status) > 0 || errno == EINTR)
        ;
    munmap(b, sizeof *b);
    free(r);
}

int main(int argc, char **argv)
{
    static rank plan;
    static const char *set[SETS_MAX];
    int o;
    plan.nrank = 2;
    plan.c.out = STDERR_FILENO;
    while ((o = getopt(argc, argv, "n:s:")) != -1)
        if (o == 'n' && atol(optarg) > 0 && atol(optarg) <= (long)RANKS_MAX)
            plan.nrank = (uint32_t)atol(optarg);
        else if (o == 's' && plan.c.nset < SETS_MAX)
            set[plan.c.nset++] = optarg;
        else
            optind = argc;
    plan.c.set = set;
    if (optind >= argc) {
        fprintf(stderr, "usage: bench_comm [-n RANKS] [-s KEY=VALUE]... FILE.so...\n");
        return 64;
    }
    for (int i = optind; i < argc; i++)
        bench(&plan, argv[i]);
    return 0;
}
