/* SPDX-License-Identifier: Apache-2.0 */
/* shared_join.c - how the ranks find each other.
 *
 * The id is 128 random bits that name a socket without a file (an abstract UNIX one). Rank 0
 * listens there while it joins; the others knock until it is there:
 *
 *     rank r    hello (who I am)  ->            <- seat (and the memory), or no (and why)
 *               ready             ->            <- go, when all are ready, or no
 *
 * Both sides ask the kernel whose process is at the other end: it must be the same user's, and
 * the process that it says it is. A knock that is none is dropped. */
#include "shared.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define PREFIX "tenon-shared-"
#define ID_BYTES 16u
#define VERSION 1u
#define PLACE_AT 128u           /* in the id */
#define PLACE_SIZE 64u
#define KNOCKS_MAX (2 * SHARED_RANKS_MAX)
#define KNOCK_NS 1000000       /* between two knocks at a door that is not there yet */
#define PAGE 4096u

enum { HELLO = 0x736801, SEAT = 0x736802, READY = 0x736803, GO = 0x736804, NO = 0x736805 };

typedef struct letter {
    uint32_t kind, version;
    uint32_t rank, nrank;
    int32_t pid;
    uint32_t reserved;
    uint64_t piece_size;       /* SEAT */
    char why[256];             /* NO */
} letter;

/* Rank 0's view of those who knock. */
typedef struct knock {
    int fd;                    /* -1: free */
    uint32_t rank;             /* TN_NONE before hello */
    bool is_ready;
} knock;

typedef struct door {
    int fd, memory;
    uint32_t nready;
    knock at[KNOCKS_MAX];
} door;

/* ---------------------------------------------------------------------------------- helpers */

static uint64_t ms_now(const shared_group *g)
{
    return g->h->clock(g->h->ctx) / 1000000;
}

static int ms_left(const shared_group *g, uint64_t deadline)
{
    uint64_t t = ms_now(g);
    return t >= deadline ? 0 : deadline - t < 1000 ? (int)(deadline - t) : 1000;
}

static struct sockaddr_un address_of(const uint8_t *id, socklen_t *size)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    size_t n = strlen((const char *)id);
    memcpy(a.sun_path + 1, id, n); /* a first byte of zero: no file */
    *size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + n);
    return a;
}

static bool is_ours(const uint8_t *id)
{
    size_t n = sizeof PREFIX - 1;
    return memcmp(id, PREFIX, n) == 0 && id[n + 2 * ID_BYTES] == 0
        && strlen((const char *)id) == n + 2 * ID_BYTES;
}

/* The process at the other end, when it is this user's; 0 otherwise. */
static int32_t caller(int fd)
{
    struct ucred who;
    socklen_t size = sizeof who;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) != 0 || who.uid != geteuid())
        return 0;
    return who.pid;
}

static bool post(int fd, const letter *l, int memory)
{
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(int))];
    } c;
    struct iovec v = {.iov_base = (void *)(uintptr_t)l, .iov_len = sizeof *l};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
    if (memory >= 0) {
        memset(&c, 0, sizeof c);
        m.msg_control = c.space;
        m.msg_controllen = sizeof c.space;
        struct cmsghdr *h = CMSG_FIRSTHDR(&m);
        *h = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET,
                              .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(h), &memory, sizeof memory);
    }
    return sendmsg(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)sizeof *l;
}

/* One whole letter; *memory is the descriptor that came with it, -1 without. */
static bool fetch(int fd, letter *l, int *memory)
{
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(int))];
    } c;
    struct iovec v = {.iov_base = l, .iov_len = sizeof *l};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = c.space,
                       .msg_controllen = sizeof c.space};
    ssize_t n;
    *memory = -1;
    do
        n = recvmsg(fd, &m, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    struct cmsghdr *h = n < 0 ? NULL : CMSG_FIRSTHDR(&m);
    if (h != NULL && h->cmsg_level == SOL_SOCKET && h->cmsg_type == SCM_RIGHTS)
        memcpy(memory, CMSG_DATA(h), sizeof *memory);
    if (n != (ssize_t)sizeof *l || memchr(l->why, 0, sizeof l->why) == NULL) {
        if (*memory >= 0)
            close(*memory);
        *memory = -1;
        return false;
    }
    return true;
}

static letter letter_of(const shared_group *g, uint32_t kind)
{
    return (letter){.kind = kind, .version = VERSION, .rank = g->rank, .nrank = g->nrank,
                    .pid = (int32_t)getpid(), .piece_size = g->piece_size};
}

/* ------------------------------------------------------------------------------ the memory */

static uint64_t head_size(void)
{
    return (sizeof(shared_head) + PAGE - 1) / PAGE * PAGE;
}

/* Its size is sealed, so that no rank's access can end outside of it. */
static tn_status make_memory(const shared_group *g, int *out, tn_err *err)
{
    int fd = memfd_create("tenon-shared", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return tn_fail(err, TN_OS, "shared: no memory to share: %s", strerror(errno));
    if (ftruncate(fd, (off_t)g->size) != 0
        || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        close(fd);
        return tn_fail(err, TN_OS, "shared: memory of %llu bytes to share: %s",
                       (unsigned long long)g->size, strerror(errno));
    }
    *out = fd;
    return TN_OK;
}

/* Maps the memory and takes this rank's part of it, so that it lies near its processor and no
 * step meets a page that is not there. What is said in it belongs in no core dump. */
static tn_status map_memory(shared_group *g, int fd, tn_err *err)
{
    off_t from = (off_t)(head_size() + 2 * g->piece_size * g->rank);
    bool taken = fallocate(fd, 0, from, (off_t)(2 * g->piece_size)) == 0
        && (g->rank > 0 || fallocate(fd, 0, 0, (off_t)head_size()) == 0);
    void *m = taken ? mmap(NULL, g->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
    if (m == MAP_FAILED)
        return tn_fail(err, TN_OS, "shared: memory of %llu bytes to share: %s",
                       (unsigned long long)g->size, strerror(errno));
    madvise(m, g->size, MADV_DONTDUMP);
    g->m = m;
    g->pieces = (char *)m + head_size();
    return TN_OK;
}

static void touch_memory(const shared_group *g)
{
    const volatile char *at = (const volatile char *)g->m;
    for (uint64_t i = 0; i < g->size; i += PAGE)
        (void)at[i];
}

/* ------------------------------------------------------------------------------ rank 0's side */

static void turn_away(knock *k, const char *why)
{
    letter l = {.kind = NO, .version = VERSION};
    snprintf(l.why, sizeof l.why, "%s", why);
    post(k->fd, &l, -1);
    close(k->fd);
    k->fd = -1;
}

/* Other users get no place: they could take them all. */
static void let_in(door *d)
{
    int fd = accept4(d->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0 && caller(fd) == 0) {
        close(fd);
        return;
    }
    for (uint32_t i = 0; fd >= 0 && i < KNOCKS_MAX; i++)
        if (d->at[i].fd < 0) {
            d->at[i] = (knock){.fd = fd, .rank = TN_NONE};
            return;
        }
    if (fd >= 0)
        close(fd);
}

static bool is_seated(const door *d, uint32_t rank)
{
    for (uint32_t i = 0; i < KNOCKS_MAX; i++)
        if (d->at[i].fd >= 0 && d->at[i].rank == rank)
            return true;
    return rank == 0;
}

static void greet(const shared_group *g, door *d, knock *k, const letter *l)
{
    letter seat = letter_of(g, SEAT);
    char why[200];
    int32_t pid = caller(k->fd);
    if (l->version != VERSION || l->nrank != g->nrank || l->rank >= g->nrank)
        snprintf(why, sizeof why, "rank 0 has %u ranks (protocol %u); this is rank %u of %u "
                 "(protocol %u)", g->nrank, VERSION, l->rank, l->nrank, l->version);
    else if (is_seated(d, l->rank))
        snprintf(why, sizeof why, "rank %u is there already", l->rank);
    else if (pid == 0 || pid != l->pid)
        snprintf(why, sizeof why, "rank %u is process %d there and %d here: another user's, or "
                 "another name space", l->rank, l->pid, pid);
    else if (post(k->fd, &seat, d->memory)) {
        k->rank = l->rank;
        return;
    } else
        snprintf(why, sizeof why, "the memory could not be handed over");
    turn_away(k, why);
}

static void hear(const shared_group *g, door *d, knock *k)
{
    letter l;
    int memory;
    bool whole = fetch(k->fd, &l, &memory);
    if (memory >= 0)
        close(memory);
    if (whole && l.kind == HELLO && k->rank == TN_NONE)
        greet(g, d, k, &l);
    else if (whole && l.kind == READY && k->rank != TN_NONE && !k->is_ready) {
        k->is_ready = true;
        d->nready++;
    } else {               /* it ended, or speaks another language */
        d->nready -= k->is_ready;
        close(k->fd);
        k->fd = -1;
    }
}

static void wait_at(const shared_group *g, door *d, int ms)
{
    struct pollfd p[KNOCKS_MAX + 1] = {{.fd = d->fd, .events = POLLIN}};
    for (uint32_t i = 0; i < KNOCKS_MAX; i++)
        p[i + 1] = (struct pollfd){.fd = d->at[i].fd, .events = POLLIN};
    if (poll(p, KNOCKS_MAX + 1, ms) <= 0)
        return;
    for (uint32_t i = 0; i < KNOCKS_MAX; i++)
        if (d->at[i].fd >= 0 && p[i + 1].revents != 0)
            hear(g, d, &d->at[i]);
    if (p[0].revents != 0)
        let_in(d);
}

static tn_status say_missing(const shared_group *g, const door *d, uint32_t ms, tn_err *err)
{
    char list[200] = "";
    size_t n = 0;
    for (uint32_t r = 1; r < g->nrank; r++) {
        bool ready = false;
        for (uint32_t i = 0; i < KNOCKS_MAX; i++)
            ready = ready || (d->at[i].fd >= 0 && d->at[i].rank == r && d->at[i].is_ready);
        if (!ready && n < sizeof list - 8)
            n += (size_t)snprintf(list + n, sizeof list - n, "%s%u", n > 0 ? ", " : "", r);
    }
    return tn_fail(err, TN_UNAVAILABLE, "shared: %u of %u ranks came within %u ms; missing: %s",
                   d->nready + 1, g->nrank, ms, list);
}

static tn_status host_others(shared_group *g, door *d, uint64_t deadline, uint32_t ms,
                             tn_err *err)
{
    letter go = letter_of(g, GO);
    while (d->nready < g->nrank - 1 && ms_now(g) < deadline)
        wait_at(g, d, ms_left(g, deadline));
    bool all = d->nready == g->nrank - 1;
    tn_status st = all ? TN_OK : say_missing(g, d, ms, err);
    for (uint32_t i = 0; i < KNOCKS_MAX; i++)
        if (d->at[i].fd >= 0 && all && d->at[i].is_ready) {
            post(d->at[i].fd, &go, -1); /* who ended meanwhile is missed in the first round */
            close(d->at[i].fd);
        } else if (d->at[i].fd >= 0)
            turn_away(&d->at[i], all ? "the group is complete" : err->text);
    return st;
}

static tn_status open_door(const uint8_t *id, door *d, tn_err *err)
{
    socklen_t size;
    struct sockaddr_un a = address_of(id, &size);
    d->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (d->fd < 0)
        return tn_fail(err, TN_OS, "shared: no socket: %s", strerror(errno));
    if (bind(d->fd, (struct sockaddr *)&a, size) == 0 && listen(d->fd, SHARED_RANKS_MAX) == 0)
        return TN_OK;
    tn_status st = errno == EADDRINUSE
        ? tn_fail(err, TN_UNAVAILABLE, "shared: rank 0 of this id is there already")
        : tn_fail(err, TN_OS, "shared: cannot listen: %s", strerror(errno));
    close(d->fd);
    return st;
}

static tn_status join_first(shared_group *g, const uint8_t *id, uint64_t deadline, uint32_t ms,
                            tn_err *err)
{
    door *d = g->h->alloc(g->h->ctx, sizeof *d);
    if (d == NULL)
        return tn_fail(err, TN_NO_MEMORY, "shared: out of memory");
    *d = (door){.nready = 0};
    for (uint32_t i = 0; i < KNOCKS_MAX; i++)
        d->at[i].fd = -1;
    tn_status st = open_door(id, d, err);
    if (st != TN_OK)
        goto free_door;
    st = make_memory(g, &d->memory, err);
    if (st != TN_OK)
        goto close_door;
    st = map_memory(g, d->memory, err);
    if (st == TN_OK) {
        atomic_store(&g->m->seat[0].pid, (int32_t)getpid());
        atomic_store(&g->m->seat[0].state, SHARED_HERE);
        st = host_others(g, d, deadline, ms, err);
    }
    close(d->memory);
close_door:
    close(d->fd);
free_door:
    g->h->release(g->h->ctx, d);
    return st;
}

/* --------------------------------------------------------------------------- the others' side */

static tn_status knock_until(const shared_group *g, const uint8_t *id, uint64_t deadline,
                             uint32_t ms, int *out, tn_err *err)
{
    struct timespec pause = {.tv_nsec = KNOCK_NS};
    socklen_t size;
    struct sockaddr_un a = address_of(id, &size);
    for (;;) {
        int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        if (fd < 0)
            return tn_fail(err, TN_OS, "shared: no socket: %s", strerror(errno));
        if (connect(fd, (struct sockaddr *)&a, size) == 0) {
            *out = fd;
            return TN_OK;
        }
        int why = errno;
        close(fd);
        if (why != ECONNREFUSED && why != EINTR && why != EAGAIN)
            return tn_fail(err, TN_OS, "shared: cannot reach rank 0: %s", strerror(why));
        if (ms_now(g) >= deadline)
            return tn_fail(err, TN_UNAVAILABLE, "shared: rank 0 did not come within %u ms (rank %u "
                           "waited for it)", ms, g->rank);
        nanosleep(&pause, NULL);
    }
}

/* The next letter, which must be of one kind. */
static tn_status expect(const shared_group *g, int fd, uint32_t kind, uint64_t deadline, letter *l,
                        int *memory, tn_err *err)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    *memory = -1;
    while (poll(&p, 1, ms_left(g, deadline)) <= 0)
        if (ms_now(g) >= deadline)
            return tn_fail(err, TN_UNAVAILABLE, "shared: rank %u waited for rank 0 and the others in "
                           "vain", g->rank);
    bool whole = fetch(fd, l, memory);
    if (whole && l->kind == kind && (kind != SEAT || *memory >= 0))
        return TN_OK;
    if (*memory >= 0)
        close(*memory);
    if (!whole || l->kind != NO)
        return tn_fail(err, TN_UNAVAILABLE, "shared: rank 0 ended while rank %u joined", g->rank);
    return strncmp(l->why, "shared: ", 8) == 0
        ? tn_fail(err, TN_UNAVAILABLE, "%s", l->why)
        : tn_fail(err, TN_UNAVAILABLE, "shared: rank 0 turned rank %u away: %s", g->rank, l->why);
}

static tn_status take_seat(shared_group *g, int fd, uint64_t deadline, tn_err *err)
{
    letter hello = letter_of(g, HELLO), ready = letter_of(g, READY), l;
    int memory;
    if (caller(fd) == 0)
        return tn_fail(err, TN_UNAVAILABLE, "shared: another user listens in place of rank 0");
    post(fd, &hello, -1); /* if it does not arrive, no answer does */
    tn_status st = expect(g, fd, SEAT, deadline, &l, &memory, err);
    if (st != TN_OK)
        return st;
    g->piece_size = l.piece_size;
    g->size = head_size() + 2 * g->piece_size * g->nrank;
    off_t size = lseek(memory, 0, SEEK_END);
    if (size < 0 || (uint64_t)size != g->size || g->piece_size % PAGE != 0)
        st = tn_fail(err, TN_INTERNAL, "shared: rank 0 hands over %lld bytes; expected %llu",
                     (long long)size, (unsigned long long)g->size);
    else
        st = map_memory(g, memory, err);
    close(memory);
    if (st != TN_OK)
        return st;
    atomic_store(&g->m->seat[g->rank].pid, (int32_t)getpid());
    atomic_store(&g->m->seat[g->rank].state, SHARED_HERE);
    post(fd, &ready, -1);
    return expect(g, fd, GO, deadline, &l, &memory, err);
}

static tn_status join_later(shared_group *g, const uint8_t *id, uint64_t deadline, uint32_t ms,
                            tn_err *err)
{
    int fd = -1;
    tn_status st = knock_until(g, id, deadline, ms, &fd, err);
    if (st != TN_OK)
        return st;
    st = take_seat(g, fd, deadline, err);
    close(fd);
    return st;
}

/* --------------------------------------------------------------------------- join and leave */

/* Where a socket without a file can be reached: this boot of this kernel, and this network name
 * space of it. "" when the system does not say. */
static void write_place(char out[PLACE_SIZE])
{
    char boot[40] = "";
    struct stat net;
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");
    bool known = f != NULL && fgets(boot, sizeof boot, f) != NULL
              && stat("/proc/self/ns/net", &net) == 0;
    if (f != NULL)
        fclose(f);
    out[0] = 0;
    if (known)
        snprintf(out, PLACE_SIZE, "%.36s/%llu", boot, (unsigned long long)net.st_ino);
}

/* The id carries rank 0's place behind its name. Whoever is elsewhere would knock in vain. */
static tn_status check_place(const uint8_t *id, uint32_t rank, tn_err *err)
{
    char mine[PLACE_SIZE], first[PLACE_SIZE];
    memcpy(first, id + PLACE_AT, sizeof first);
    first[PLACE_SIZE - 1] = 0;
    write_place(mine);
    if (mine[0] == 0 || first[0] == 0 || strcmp(mine, first) == 0)
        return TN_OK;
    return tn_fail(err, TN_UNAVAILABLE, "shared: rank %u is on another host than rank 0, or in "
                   "another network name space; expected ranks of one host, or a communicator for "
                   "several (mpi, nccl)", rank);
}

tn_status shared_make_id(void *self, uint8_t id[TN_COMM_ID_SIZE], tn_err *err)
{
    uint8_t bits[ID_BYTES];
    (void)self;
    if (getrandom(bits, sizeof bits, 0) != sizeof bits)
        return tn_fail(err, TN_OS, "shared: no random bits: %s", strerror(errno));
    memset(id, 0, TN_COMM_ID_SIZE);
    int n = snprintf((char *)id, TN_COMM_ID_SIZE, "%s", PREFIX);
    for (uint32_t i = 0; i < ID_BYTES; i++)
        n += snprintf((char *)id + n, TN_COMM_ID_SIZE - (size_t)n, "%02x", bits[i]);
    write_place((char *)id + PLACE_AT);
    return TN_OK;
}

/* Without pidfds (before Linux 5.3) an ended rank is found by its timeout. */
static void watch_peers(shared_group *g)
{
    for (uint32_t r = 0; r < g->nrank; r++)
        if (r != g->rank)
            g->peer[r] = (int)syscall(SYS_pidfd_open, atomic_load(&g->m->seat[r].pid), 0);
}

/* As many as may run at once. */
static uint32_t processors(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? (uint32_t)CPU_COUNT(&set) : 1;
}

static shared_group *new_group(const tn_host *h, uint32_t rank, uint32_t nrank)
{
    shared_group *g = h->alloc(h->ctx, sizeof *g);
    if (g == NULL)
        return NULL;
    *g = (shared_group){.h = h, .rank = rank, .nrank = nrank};
    g->piece_size = ((uint64_t)h->opt_int(h->ctx, "piece") + PAGE - 1) / PAGE * PAGE;
    g->size = head_size() + 2 * g->piece_size * nrank;
    g->timeout_s = (uint32_t)h->opt_int(h->ctx, "timeout");
    g->spin_us = nrank <= processors() ? (uint32_t)h->opt_int(h->ctx, "spin_us") : 0;
    for (uint32_t r = 0; r < SHARED_RANKS_MAX; r++)
        g->peer[r] = -1;
    return g;
}

void shared_leave(void *group)
{
    shared_group *g = group;
    if (g->m != NULL) {
        atomic_store(&g->m->seat[g->rank].state, SHARED_GONE);
        munmap(g->m, g->size);
    }
    for (uint32_t r = 0; r < g->nrank; r++)
        if (g->peer[r] >= 0)
            close(g->peer[r]);
    g->h->release(g->h->ctx, g);
}

tn_status shared_join(void *self, const uint8_t id[TN_COMM_ID_SIZE], uint32_t rank,
                      uint32_t nrank, uint32_t device, uint32_t timeout_ms, void **out,
                      tn_err *err)
{
    const tn_host *h = self;
    (void)device;
    if (nrank == 0 || nrank > SHARED_RANKS_MAX || rank >= nrank)
        return tn_fail(err, TN_UNSUPPORTED, "shared: rank %u of %u; expected 1 to %u ranks", rank,
                       nrank, SHARED_RANKS_MAX);
    if (!is_ours(id))
        return tn_fail(err, TN_UNAVAILABLE, "shared: the id is not one of its make_id");
    tn_status st = check_place(id, rank, err);
    if (st != TN_OK)
        return st;
    shared_group *g = new_group(h, rank, nrank);
    if (g == NULL)
        return tn_fail(err, TN_NO_MEMORY, "shared: out of memory");
    uint64_t deadline = ms_now(g) + timeout_ms;
    st = rank == 0 ? join_first(g, id, deadline, timeout_ms, err)
                   : join_later(g, id, deadline, timeout_ms, err);
    if (st != TN_OK) {
        shared_leave(g);
        return st;
    }
    watch_peers(g);
    touch_memory(g);
    *out = g;
    return TN_OK;
}
