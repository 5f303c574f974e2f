/* SPDX-License-Identifier: Apache-2.0 */
/* plugin_check_comm.c - a communicator's sums over 2 to 4 ranks, each a process, and its abort.
 *
 * The ranks leave what they got in shared memory, where the parent compares them: values to
 * the sum in double, and bit for bit with each other. */
#include "plugin_check.h"

#include "floats.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define RANKS_MAX 4u
#define COUNT_MAX 70001u
#define JOIN_MS 20000u
#define ABORT_SECONDS 10

static const uint64_t counts[] = {1, 7, 1000, COUNT_MAX};
#define NCOUNT (sizeof counts / sizeof counts[0])

/* What the ranks share with their parent. */
typedef struct board {
    uint8_t id[TN_COMM_ID_SIZE];
    volatile uint32_t has_id;     /* 1: id is there; 2: make_id failed */
    volatile uint32_t stage[RANKS_MAX];
    uint32_t refused[RANKS_MAX];  /* join answered TN_UNSUPPORTED */
    char text[RANKS_MAX][1024];   /* the first failure */
    uint8_t result[RANKS_MAX][COUNT_MAX * 4];
} board;

typedef struct rank {
    const tn_check *c;
    board *b;
    uint32_t rank, nrank;
    tn_check_room room;
    const tn_comm *comm;
    void *group;
} rank;

/* Small integers over 8: exact in every type, their sums too. */
static float value_of(uint32_t rank, uint64_t i)
{
    return (float)((int)((i * 7 + rank * 13) % 31) - 15) / 8;
}

static size_t size_of(uint32_t dtype)
{
    return dtype == TN_F32 ? 4 : 2;
}

static void store(uint32_t dtype, uint8_t *at, float v)
{
    uint16_t h = dtype == TN_F16 ? tn_f32_to_f16(v) : tn_f32_to_bf16(v);
    if (dtype == TN_F32)
        memcpy(at, &v, 4);
    else
        memcpy(at, &h, 2);
}

static float load(uint32_t dtype, const uint8_t *at)
{
    float v;
    uint16_t h;
    memcpy(&v, at, dtype == TN_F32 ? 4 : 2);
    memcpy(&h, at, 2);
    return dtype == TN_F32 ? v : dtype == TN_F16 ? tn_f16_to_f32(h) : tn_bf16_to_f32(h);
}

static bool failed(rank *r, const char *what, const tn_err *err)
{
    snprintf(r->b->text[r->rank], sizeof r->b->text[0], "rank %u of %u: %s: %.900s", r->rank,
             r->nrank, what, err->text);
    return false;
}

static bool differs(rank *r, const char *what, uint64_t i, float found, float wanted)
{
    snprintf(r->b->text[r->rank], sizeof r->b->text[0],
             "rank %u of %u: %s: element %llu is %g; expected %g", r->rank, r->nrank, what,
             (unsigned long long)i, (double)found, (double)wanted);
    return false;
}

/* --------------------------------------------------------------------------- in every rank */

static bool check_sum(rank *r, uint32_t dtype, uint64_t n, uint8_t *x)
{
    tn_err err = {.text = ""};
    size_t size = size_of(dtype);
    for (uint64_t i = 0; i < n; i++)
        store(dtype, x + i * size, value_of(r->rank, i));
    tn_status st = r->comm->all_reduce(r->group, x, n, dtype, NULL, &err);
    if (st == TN_UNSUPPORTED && dtype != TN_F32)
        return true; /* said so, on all ranks alike: they would hang else */
    if (st != TN_OK)
        return failed(r, "all_reduce", &err);
    for (uint64_t i = 0; i < n; i++) {
        float want = 0;
        for (uint32_t q = 0; q < r->nrank; q++)
            want += value_of(q, i);
        if (load(dtype, x + i * size) != want)
            return differs(r, "all_reduce", i, load(dtype, x + i * size), want);
    }
    return true;
}

/* Sums that round: the same bits everywhere is all that can be asked. */
static bool leave_bits(rank *r)
{
    tn_err err = {.text = ""};
    float *x = (float *)(void *)r->b->result[r->rank];
    for (uint64_t i = 0; i < COUNT_MAX; i++)
        x[i] = 1.0f / (float)(1 + (i * 31 + r->rank * 17) % 101);
    if (r->comm->all_reduce(r->group, x, COUNT_MAX, TN_F32, NULL, &err) != TN_OK)
        return failed(r, "all_reduce", &err);
    return true;
}

static bool check_gather(rank *r, uint64_t n, uint8_t *in, uint8_t *out)
{
    tn_err err = {.text = ""};
    for (uint64_t i = 0; i < n; i++)
        store(TN_F32, in + i * 4, value_of(r->rank, i));
    if (r->comm->all_gather(r->group, in, out, n, TN_F32, NULL, &err) != TN_OK)
        return failed(r, "all_gather", &err);
    for (uint64_t i = 0; i < n * r->nrank; i++) {
        float want = value_of((uint32_t)(i / n), i % n);
        if (load(TN_F32, out + i * 4) != want)
            return differs(r, "all_gather", i, load(TN_F32, out + i * 4), want);
    }
    return true;
}

static bool check_broadcast(rank *r, uint64_t bytes, uint32_t root, uint8_t *x)
{
    tn_err err = {.text = ""};
    for (uint64_t i = 0; i < bytes; i++)
        x[i] = (uint8_t)(r->rank == root ? i * 3 + root : 0);
    if (r->comm->broadcast(r->group, x, bytes, root, NULL, &err) != TN_OK)
        return failed(r, "broadcast", &err);
    for (uint64_t i = 0; i < bytes; i++)
        if (x[i] != (uint8_t)(i * 3 + root))
            return differs(r, "broadcast", i, x[i], (uint8_t)(i * 3 + root));
    return true;
}

static bool check_calls(rank *r)
{
    static const uint32_t dtypes[] = {TN_F32, TN_F16, TN_BF16};
    tn_err err = {.text = ""};
    uint8_t *x = malloc(COUNT_MAX * 4), *y = malloc(COUNT_MAX * 4 * RANKS_MAX);
    bool good = x != NULL && y != NULL;
    for (size_t t = 0; t < 3; t++)
        for (size_t i = 0; good && i < NCOUNT; i++)
            good = check_sum(r, dtypes[t], counts[i], x);
    for (size_t i = 0; good && i < NCOUNT; i++)
        good = check_gather(r, counts[i], x, y);
    for (uint32_t root = 0; good && root < r->nrank; root++)
        good = check_broadcast(r, 100003, root, x) && check_broadcast(r, 1, root, x);
    if (good && r->comm->barrier != NULL && r->comm->barrier(r->group, &err) != TN_OK)
        good = failed(r, "barrier", &err);
    if (good && r->comm->health != NULL && r->comm->health(r->group, &err) != TN_OK)
        good = failed(r, "health", &err);
    good = good && leave_bits(r);
    free(x);
    free(y);
    return good;
}

static void *abort_soon(void *user)
{
    rank *r = user;
    struct timespec nap = {.tv_nsec = 300000000};
    nanosleep(&nap, NULL);
    r->comm->abort(r->group);
    return NULL;
}

/* Rank 0 never comes to the sum but aborts; the others must not wait for ever. */
static bool check_abort(rank *r)
{
    tn_err err = {.text = ""};
    float x = 1;
    pthread_t t;
    if (r->rank == 0) {
        if (pthread_create(&t, NULL, abort_soon, r) != 0)
            return false;
        pthread_join(t, NULL);
    }
    tn_status st = r->comm->all_reduce(r->group, &x, 1, TN_F32, NULL, &err);
    if (st == TN_OK) {
        tn_fail(&err, TN_INTERNAL, "a sum succeeded after abort; expected an error");
        return failed(r, "abort", &err);
    }
    return true;
}

static bool get_id(rank *r, tn_err *err)
{
    struct timespec nap = {.tv_nsec = 1000000};
    if (r->rank == 0) {
        tn_status st = r->comm->make_id(r->room.guest->self, r->b->id, err);
        r->b->has_id = st == TN_OK ? 1 : 2;
        return st == TN_OK;
    }
    for (int i = 0; i < 30000 && r->b->has_id == 0; i++)
        nanosleep(&nap, NULL);
    if (r->b->has_id != 1)
        tn_fail(err, TN_UNAVAILABLE, "rank 0 made no id");
    return r->b->has_id == 1;
}

static void live_as_rank(rank *r)
{
    tn_err err = {.text = ""};
    if (tn_check_enter(r->c, true, NULL, NULL, &r->room, &err) != TN_OK
        || tn_wall_start(r->room.wall, 0, &err) != TN_OK) {
        failed(r, "life", &err);
        return;
    }
    r->comm = r->room.guest->comm;
    if (!get_id(r, &err)) {
        failed(r, "make_id", &err);
        return;
    }
    tn_status st = r->comm->join(r->room.guest->self, r->b->id, r->rank, r->nrank, 0, JOIN_MS,
                                 &r->group, &err);
    r->b->refused[r->rank] = st == TN_UNSUPPORTED;
    if (st != TN_OK) {
        failed(r, "join", &err);
        return;
    }
    r->b->stage[r->rank] = 1;
    bool good = check_calls(r);
    r->b->stage[r->rank] = good ? 2 : 1;
    if (good && check_abort(r))
        r->b->stage[r->rank] = 3;
    r->comm->leave(r->group);
    tn_check_leave(&r->room);
}

/* ------------------------------------------------------------------------------ the parent */

static void reap(pid_t *pid, uint32_t n, int seconds)
{
    struct timespec nap = {.tv_nsec = 20000000};
    uint32_t left = n;
    for (int i = 0; left > 0 && i < seconds * 50; i++) {
        for (uint32_t r = 0; r < n; r++)
            if (pid[r] > 0 && waitpid(pid[r], NULL, WNOHANG) == pid[r]) {
                pid[r] = 0;
                left--;
            }
        nanosleep(&nap, NULL);
    }
    for (uint32_t r = 0; r < n; r++)
        if (pid[r] > 0) {
            kill(pid[r], SIGKILL);
            waitpid(pid[r], NULL, 0);
        }
}

static void judge(tn_check *c, board *b, uint32_t n)
{
    bool refused = false;
    for (uint32_t r = 0; r < n; r++)
        refused = refused || b->refused[r] != 0;
    for (uint32_t r = 0; r < n; r++) {
        if (refused && b->refused[r]) {
            tn_check_skip(c, "%s", b->text[r]);
            return;
        }
        if (!refused && b->text[r][0] != 0) {
            tn_check_fail(c, "%s", b->text[r]);
            return;
        }
        if (!refused && b->stage[r] < 3) {
            tn_check_fail(c, "rank %u of %u did not come to an end (stage %u of 3)", r, n,
                          b->stage[r]);
            return;
        }
    }
    for (uint32_t r = 1; r < n; r++)
        if (memcmp(b->result[0], b->result[r], sizeof b->result[0]) != 0) {
            tn_check_fail(c, "%u ranks: ranks 0 and %u have different bits for one sum", n, r);
            return;
        }
    tn_check_ok(c, "%u ranks: sums (the same bits on all), gathers, broadcasts, and an abort that "
                "frees those who wait", n);
}

static void check_ranks(tn_check *c, board *b, uint32_t n)
{
    pid_t pid[RANKS_MAX] = {0};
    memset(b, 0, sizeof *b);
    for (uint32_t r = 0; r < n; r++) {
        pid[r] = fork();
        if (pid[r] == 0) {
            rank me = {.c = c, .b = b, .rank = r, .nrank = n};
            live_as_rank(&me);
            _exit(0);
        }
    }
    reap(pid, n, 60 + ABORT_SECONDS);
    judge(c, b, n);
}

void tn_check_comm(tn_check *c)
{
    tn_check_room room;
    tn_err err;
    if (tn_check_enter(c, false, NULL, NULL, &room, &err) != TN_OK) {
        tn_check_fail(c, "%s", err.text);
        return;
    }
    bool on_host = room.guest->comm->flags & TN_COMM_HOST;
    tn_check_leave(&room);
    if (!on_host) {
        tn_check_skip(c, "works on device memory only: its sums are checked by running a model");
        return;
    }
    board *b = mmap(NULL, sizeof *b, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (b == MAP_FAILED) {
        tn_check_fail(c, "no shared memory: %s", strerror(errno));
        return;
    }
    for (uint32_t n = 2; n <= RANKS_MAX; n++)
        check_ranks(c, b, n);
    munmap(b, sizeof *b);
}
