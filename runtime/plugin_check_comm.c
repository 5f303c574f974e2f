/* SPDX-License-Identifier: Apache-2.0 */
/* plugin_check_comm.c - a communicator's sums over 1 to 8 ranks, each a process.
 *
 * The ranks compare what they got with the sum in double; hashes of sums that round, left on the
 * board, tell the parent whether all ranks got the same bits. */
#include "plugin_check_comm.h"

#include "floats.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define COUNT_MOST 70001u      /* of every type and call */
#define COUNT_LONG 4194301u    /* one sum of f32, over few ranks */
#define LONG_RANKS_MAX 4u
#define LIFE_SECONDS 90
#define GRACE_SECONDS 10       /* for a launcher to clean up */
#define WORDS_MAX 64u          /* of a launcher's command */
#define SETS_MAX 66u

static const uint64_t counts[] = {1, 7, 1000, COUNT_MOST};
#define NCOUNT (sizeof counts / sizeof counts[0])

static const uint32_t dtypes[TN_CHECK_DTYPES] = {TN_F32, TN_F16, TN_BF16, TN_I32};
static const char *const dtype_names[TN_CHECK_DTYPES] = {"f32", "f16", "bf16", "i32"};

/* Small integers over 8: exact in every type, their sums too. Integers are those eighths. */
static float value_of(uint32_t rank, uint64_t i)
{
    return (float)((int)((i * 7 + rank * 13) % 31) - 15) / 8;
}

static size_t size_of(uint32_t dtype)
{
    return dtype == TN_F32 || dtype == TN_I32 ? 4 : 2;
}

static void store(uint32_t dtype, uint8_t *at, float v)
{
    uint16_t h = dtype == TN_F16 ? tn_f32_to_f16(v) : tn_f32_to_bf16(v);
    int32_t i = (int32_t)(v * 8);
    if (dtype == TN_F32)
        memcpy(at, &v, 4);
    else if (dtype == TN_I32)
        memcpy(at, &i, 4);
    else
        memcpy(at, &h, 2);
}

static float load(uint32_t dtype, const uint8_t *at)
{
    float v;
    int32_t i;
    uint16_t h;
    memcpy(&h, at, 2);
    if (dtype == TN_F16 || dtype == TN_BF16)
        return dtype == TN_F16 ? tn_f16_to_f32(h) : tn_bf16_to_f32(h);
    memcpy(&v, at, 4);
    memcpy(&i, at, 4);
    return dtype == TN_F32 ? v : (float)i / 8;
}

bool tn_comm_failed(tn_comm_rank *r, const char *what, const char *fmt, ...)
{
    char *text = r->b->text[r->rank];
    size_t size = sizeof r->b->text[0];
    va_list ap;
    int n = snprintf(text, size, "rank %u of %u: %s: ", r->rank, r->nrank, what);
    va_start(ap, fmt);
    vsnprintf(text + n, size - (size_t)n, fmt, ap);
    va_end(ap);
    return false;
}

static bool differs(tn_comm_rank *r, const char *what, uint64_t i, float found, float wanted)
{
    return tn_comm_failed(r, what, "element %llu is %g; expected %g", (unsigned long long)i,
                          (double)found, (double)wanted);
}

/* --------------------------------------------------------------------------- in every rank */

static tn_status sum(tn_comm_rank *r, tn_comm_buffer *x, uint64_t n, uint32_t dtype, tn_err *err)
{
    if (!tn_comm_push(r, x, n * size_of(dtype)))
        return TN_INTERNAL;
    tn_status st = r->comm->all_reduce(r->group, x->mem, n, dtype, r->stream, err);
    return tn_comm_settle(r, st, x, err);
}

static bool check_sum(tn_comm_rank *r, uint32_t dtype, uint64_t n, tn_comm_buffer *x)
{
    tn_err err = {.text = ""};
    size_t size = size_of(dtype);
    for (uint64_t i = 0; i < n; i++)
        store(dtype, x->host + i * size, value_of(r->rank, i));
    tn_status st = sum(r, x, n, dtype, &err);
    if (st == TN_UNSUPPORTED && dtype != TN_F32)
        return true; /* said so, on all ranks alike: they would hang else */
    if (st != TN_OK)
        return tn_comm_failed(r, "all_reduce", "%.800s", err.text);
    if (!tn_comm_pull(r, x, n * size))
        return false;
    for (uint64_t i = 0; i < n; i++) {
        float want = 0, found = load(dtype, x->host + i * size);
        for (uint32_t q = 0; q < r->nrank; q++)
            want += value_of(q, i);
        if (found != want)
            return differs(r, "all_reduce", i, found, want);
    }
    return true;
}

static uint64_t hash_of(const uint8_t *x, size_t size)
{
    uint64_t h = 0xcbf29ce484222325ull; /* FNV-1a */
    for (size_t i = 0; i < size; i++)
        h = (h ^ x[i]) * 0x100000001b3ull;
    return h | 1;
}

/* Sums that round: the same bits everywhere is all that can be asked. */
static bool leave_hashes(tn_comm_rank *r, tn_comm_buffer *x)
{
    tn_err err = {.text = ""};
    for (uint32_t t = 0; t < TN_CHECK_DTYPES; t++) {
        size_t size = size_of(dtypes[t]);
        for (uint64_t i = 0; i < COUNT_MOST; i++)
            store(dtypes[t], x->host + i * size,
                  1.0f / (float)(1 + (i * 31 + r->rank * 17) % 101));
        tn_status st = sum(r, x, COUNT_MOST, dtypes[t], &err);
        if (st != TN_OK && (st != TN_UNSUPPORTED || dtypes[t] == TN_F32))
            return tn_comm_failed(r, "all_reduce", "%.800s", err.text);
        if (st == TN_OK && !tn_comm_pull(r, x, COUNT_MOST * size))
            return false;
        r->b->hash[r->rank][t] = st == TN_OK ? hash_of(x->host, COUNT_MOST * size) : 0;
    }
    return true;
}

static bool check_gather(tn_comm_rank *r, uint64_t n, tn_comm_buffer *in, tn_comm_buffer *out)
{
    tn_err err = {.text = ""};
    for (uint64_t i = 0; i < n; i++)
        store(TN_F32, in->host + i * 4, value_of(r->rank, i));
    if (!tn_comm_push(r, in, n * 4))
        return false;
    tn_status st = r->comm->all_gather(r->group, in->mem, out->mem, n, TN_F32, r->stream, &err);
    if (tn_comm_settle(r, st, out, &err) != TN_OK)
        return tn_comm_failed(r, "all_gather", "%.800s", err.text);
    if (!tn_comm_pull(r, out, n * 4 * r->nrank))
        return false;
    for (uint64_t i = 0; i < n * r->nrank; i++) {
        float want = value_of((uint32_t)(i / n), i % n), found = load(TN_F32, out->host + i * 4);
        if (found != want)
            return differs(r, "all_gather", i, found, want);
    }
    return true;
}

static bool check_broadcast(tn_comm_rank *r, uint64_t bytes, uint32_t root, tn_comm_buffer *x)
{
    tn_err err = {.text = ""};
    for (uint64_t i = 0; i < bytes; i++)
        x->host[i] = (uint8_t)(r->rank == root ? i * 3 + root : 0);
    if (!tn_comm_push(r, x, bytes))
        return false;
    tn_status st = r->comm->broadcast(r->group, x->mem, bytes, root, r->stream, &err);
    if (tn_comm_settle(r, st, x, &err) != TN_OK)
        return tn_comm_failed(r, "broadcast", "%.800s", err.text);
    if (!tn_comm_pull(r, x, bytes))
        return false;
    for (uint64_t i = 0; i < bytes; i++)
        if (x->host[i] != (uint8_t)(i * 3 + root))
            return differs(r, "broadcast", i, x->host[i], (uint8_t)(i * 3 + root));
    return true;
}

static bool check_rest(tn_comm_rank *r)
{
    tn_err err = {.text = ""};
    if (r->comm->barrier != NULL && r->comm->barrier(r->group, &err) != TN_OK)
        return tn_comm_failed(r, "barrier", "%.800s", err.text);
    if (r->comm->health != NULL && r->comm->health(r->group, &err) != TN_OK)
        return tn_comm_failed(r, "health", "%.800s", err.text);
    return true;
}

static bool check_all(tn_comm_rank *r, tn_comm_buffer *x, tn_comm_buffer *y)
{
    for (uint32_t t = 0; t < TN_CHECK_DTYPES; t++)
        for (size_t i = 0; i < NCOUNT; i++)
            if (!check_sum(r, dtypes[t], counts[i], x))
                return false;
    for (size_t i = 0; i < NCOUNT; i++)
        if (!check_gather(r, counts[i], x, y))
            return false;
    for (uint32_t root = 0; root < r->nrank; root++)
        if (!check_broadcast(r, 100003, root, x) || !check_broadcast(r, 1, root, x))
            return false;
    return check_rest(r) && leave_hashes(r, x)
        && (r->nrank > LONG_RANKS_MAX || check_sum(r, TN_F32, COUNT_LONG, x));
}

static bool part_calls(tn_comm_rank *r)
{
    tn_comm_buffer x = {.host = NULL}, y = {.host = NULL};
    bool good = tn_comm_take(r, (size_t)COUNT_LONG * 4, &x)
        && tn_comm_take(r, (size_t)COUNT_MOST * 4 * r->nrank, &y) && check_all(r, &x, &y);
    tn_comm_give(r, &x);
    tn_comm_give(r, &y);
    /* A group of one has nobody who waits. */
    return good && (r->nrank == 1 || tn_comm_part_abort(r));
}

/* --------------------------------------------------------------------------------- processes */

typedef bool (*comm_part)(tn_comm_rank *r);

static bool get_id(tn_comm_rank *r, tn_err *err)
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

tn_status tn_comm_enter(tn_comm_rank *r, tn_err *err)
{
    tn_status st = tn_check_enter(r->c, true, NULL, NULL, &r->room, err);
    if (st == TN_OK)
        st = tn_wall_start(r->room.wall, 0, err);
    if (st == TN_OK)
        r->comm = r->room.guest->comm;
    if (st == TN_OK && r->c->device != NULL && !tn_comm_open_device(r, r->rank % r->c->ncard))
        st = tn_fail(err, TN_UNAVAILABLE, "%.900s", r->b->text[r->rank]);
    return st;
}

static void live_as_rank(tn_comm_rank *r, comm_part part)
{
    tn_err err = {.text = ""};
    r->b->pid[r->rank] = (int32_t)getpid();
    if (tn_comm_enter(r, &err) != TN_OK) {
        tn_comm_failed(r, "life", "%.800s", err.text);
        return;
    }
    if (!get_id(r, &err)) {
        tn_comm_failed(r, "make_id", "%.800s", err.text);
        return;
    }
    tn_status st = r->comm->join(r->room.guest->self, r->b->id, r->rank, r->nrank,
                                 r->c->device != NULL ? r->rank % r->c->ncard : 0,
                                 TN_CHECK_JOIN_MS, &r->group, &err);
    r->b->is_refused[r->rank] = st == TN_UNSUPPORTED;
    if (st != TN_OK) {
        tn_comm_failed(r, "join", "%.800s", err.text);
        return;
    }
    r->b->has_joined[r->rank] = 1;
    bool good = part(r);
    r->comm->leave(r->group);
    tn_comm_close_device(r);
    tn_check_leave(&r->room);
    r->b->has_ended[r->rank] = good;
}

static void play(const tn_check *c, tn_comm_board *b, uint32_t rank)
{
    static const comm_part parts[TN_PARTS] = {
        [TN_PART_CALLS] = part_calls,
        [TN_PART_KILLED] = tn_comm_part_killed,
        [TN_PART_STOPPED] = tn_comm_part_stopped,
        [TN_PART_LEFT] = tn_comm_part_left,
        [TN_PART_CROWDED] = tn_comm_part_crowded,
        [TN_PART_TIMES] = tn_comm_part_times,
    };
    tn_comm_rank me = {.c = c, .b = b, .rank = rank, .nrank = b->nrank};
    live_as_rank(&me, parts[b->part]);
    b->is_done[rank] = 1;
}

tn_status tn_check_rank(const tn_check *c, const char *board, tn_err *err)
{
    int fd = open(board, O_RDWR | O_CLOEXEC);
    off_t size = fd >= 0 ? lseek(fd, 0, SEEK_END) : 0;
    if (size != (off_t)sizeof(tn_comm_board)) {
        if (fd >= 0)
            close(fd);
        return tn_fail(err, TN_NOINPUT, "plugin rank: %.200s is no board of a running check", board);
    }
    tn_comm_board *b = mmap(NULL, sizeof *b, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (b == MAP_FAILED)
        return tn_fail(err, TN_OS, "plugin rank: %s", strerror(errno));
    uint32_t rank = atomic_fetch_add(&b->nstarted, 1);
    if (rank < b->nrank && b->nrank <= TN_CHECK_RANKS_MAX && b->part < TN_PARTS)
        play(c, b, rank);
    munmap(b, sizeof *b);
    return TN_OK;
}

/* The words of the launcher, {n} replaced, then this program as a rank. Never returns. */
static void launch(const tn_check *c, const tn_comm_board *b)
{
    char *word[WORDS_MAX + 2 * SETS_MAX + 12], number[16], cards[32], *save = NULL;
    char *line = strdup(c->launcher);
    size_t n = 0;
    snprintf(number, sizeof number, "%u", b->nrank);
    for (char *w = line != NULL ? strtok_r(line, " ", &save) : NULL; w != NULL && n < WORDS_MAX;
         w = strtok_r(NULL, " ", &save))
        word[n++] = strcmp(w, "{n}") == 0 ? number : w;
    char *const self[] = {(char *)(uintptr_t)c->program, "plugin", "rank",
                          (char *)(uintptr_t)c->file, (char *)(uintptr_t)c->board};
    for (size_t i = 0; i < sizeof self / sizeof self[0]; i++)
        word[n++] = self[i];
    for (uint32_t i = 0; i < c->nset && i < SETS_MAX; i++) {
        word[n++] = "--set";
        word[n++] = (char *)(uintptr_t)c->set[i];
    }
    if (c->device != NULL) {
        word[n++] = "--device";
        word[n++] = (char *)(uintptr_t)c->device;
        snprintf(cards, sizeof cards, "--cards=%u", c->ncard);
        word[n++] = cards;
    }
    word[n] = NULL;
    dup2(STDERR_FILENO, STDOUT_FILENO);
    execvp(word[0], word);
    _exit(127);
}

void tn_comm_start(const tn_check *c, tn_comm_board *b, uint32_t n, uint32_t part,
                   tn_comm_cast *k)
{
    memset(b, 0, sizeof *b);
    b->nrank = n;
    b->part = part;
    k->npid = c->launcher != NULL ? 1 : n;
    for (uint32_t r = 0; r < k->npid; r++) {
        k->pid[r] = fork();
        if (k->pid[r] == 0 && c->launcher != NULL)
            launch(c, b);
        if (k->pid[r] == 0) {
            play(c, b, r);
            _exit(0);
        }
    }
}

static bool all_done(const tn_comm_board *b, uint32_t lost)
{
    for (uint32_t r = 0; r < b->nrank; r++)
        if (r != lost && !b->is_done[r])
            return false;
    return true;
}

/* A child that died is not done and never will be. */
static bool have_died(tn_comm_cast *k, tn_comm_board *b, uint32_t lost)
{
    int status;
    bool died = true;
    for (uint32_t i = 0; i < k->npid; i++) {
        if (i == lost && k->npid > 1)
            continue;
        if (k->pid[i] > 0 && waitpid(k->pid[i], &status, WNOHANG) == k->pid[i]) {
            k->pid[i] = 0;
            b->signal[i] = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
        }
        died = died && k->pid[i] <= 0;
    }
    return died;
}

void tn_comm_end(tn_comm_cast *k, tn_comm_board *b, uint32_t lost, int seconds)
{
    struct timespec nap = {.tv_nsec = 10000000};
    for (int i = 0; i < seconds * 100 && !all_done(b, lost) && !have_died(k, b, lost); i++)
        nanosleep(&nap, NULL);
    for (uint32_t r = 0; r < b->nrank; r++)
        if (b->pid[r] > 0 && !b->is_done[r])
            kill(b->pid[r], SIGKILL);
    for (uint32_t i = 0; i < k->npid; i++)
        tn_comm_reap(k->pid[i], GRACE_SECONDS);
}

void tn_comm_reap(pid_t pid, int seconds)
{
    struct timespec nap = {.tv_nsec = 10000000};
    if (pid <= 0)
        return;
    for (int i = 0; i < seconds * 100; i++) {
        if (waitpid(pid, NULL, WNOHANG) == pid)
            return;
        nanosleep(&nap, NULL);
    }
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

/* ------------------------------------------------------------------------------ the verdict */

bool tn_comm_judge(tn_check *c, const tn_comm_board *b, uint32_t n, uint32_t lost)
{
    for (uint32_t r = 0; r < n; r++)
        if (b->is_refused[r]) {
            tn_check_skip(c, "%s", b->text[r]);
            return false;
        }
    for (uint32_t r = 0; r < n; r++)
        if (b->text[r][0] != 0) {
            tn_check_fail(c, "%s", b->text[r]);
            return false;
        }
    for (uint32_t r = 0; r < n; r++)
        if (r != lost && !b->has_ended[r]) {
            char signal[24] = "";
            if (b->signal[r] != 0)
                snprintf(signal, sizeof signal, ", signal %d", b->signal[r]);
            tn_check_fail(c, "rank %u of %u did not come to an end (it %s%s)", r, n,
                          b->has_joined[r] ? "had joined" : "never joined", signal);
            return false;
        }
    return true;
}

static bool have_same_bits(tn_check *c, const tn_comm_board *b, uint32_t n)
{
    for (uint32_t t = 0; t < TN_CHECK_DTYPES; t++)
        for (uint32_t r = 1; r < n; r++)
            if (b->hash[r][t] != b->hash[0][t]) {
                tn_check_fail(c, "%u ranks: ranks 0 and %u have different bits for one sum of %s",
                              n, r, dtype_names[t]);
                return false;
            }
    return true;
}

static const char *types_summed(const tn_comm_board *b, char *text, size_t size)
{
    size_t at = 0;
    text[0] = 0;
    for (uint32_t t = 0; t < TN_CHECK_DTYPES; t++)
        if (b->hash[0][t] != 0)
            at += (size_t)snprintf(text + at, size - at, "%s%s", at > 0 ? ", " : "",
                                   dtype_names[t]);
    return text;
}

/* False when there is no use in going on. */
static bool check_ranks(tn_check *c, tn_comm_board *b, uint32_t n)
{
    tn_comm_cast k;
    char types[64];
    tn_comm_start(c, b, n, TN_PART_CALLS, &k);
    tn_comm_end(&k, b, TN_NONE, LIFE_SECONDS);
    if (!tn_comm_judge(c, b, n, TN_NONE) || !have_same_bits(c, b, n))
        return false;
    types_summed(b, types, sizeof types);
    if (n == 1)
        tn_check_ok(c, "1 rank: sums of %s, gathers, broadcasts", types);
    else
        tn_check_ok(c, "%u ranks: sums of %s (the same bits on all), gathers, broadcasts, and an "
                    "abort that frees those who wait", n, types);
    return true;
}

tn_comm_board *tn_comm_new_board(int *fd, char *path, size_t size)
{
    *fd = memfd_create("tenon-check", MFD_CLOEXEC);
    if (*fd < 0)
        return NULL;
    snprintf(path, size, "/proc/%d/fd/%d", (int)getpid(), *fd);
    void *b = ftruncate(*fd, sizeof(tn_comm_board)) == 0
        ? mmap(NULL, sizeof(tn_comm_board), PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0)
        : MAP_FAILED;
    if (b != MAP_FAILED)
        return b;
    close(*fd);
    return NULL;
}

void tn_check_comm(tn_check *c)
{
    static const uint32_t ranks[] = {1, 2, 3, 4, TN_CHECK_RANKS_MAX};
    tn_check_room room;
    tn_err err;
    bool good = true;
    if (tn_check_enter(c, false, NULL, NULL, &room, &err) != TN_OK) {
        tn_check_fail(c, "%s", err.text);
        return;
    }
    bool on_host = room.guest->comm->flags & TN_COMM_HOST;
    tn_check_leave(&room);
    if (!on_host && c->device == NULL) {
        tn_check_skip(c, "works on device memory only: checked with --device FILE.so, the plugin of "
                      "that device");
        return;
    }
    char path[64];
    int fd = -1;
    tn_comm_board *b = tn_comm_new_board(&fd, path, sizeof path);
    if (b == NULL) {
        tn_check_fail(c, "no shared memory: %s", strerror(errno));
        return;
    }
    c->board = path;
    for (size_t i = 0; good && i < sizeof ranks / sizeof ranks[0]; i++)
        good = check_ranks(c, b, ranks[i]);
    if (good)
        tn_check_comm_loss(c, b);
    munmap(b, sizeof *b);
    close(fd);
}
