/* SPDX-License-Identifier: Apache-2.0 */
/* teamstart.c - how the ranks of a team find each other.
 *
 * On one host rank 0 starts the others: the same program, the same command line, TENON_RANK and
 * one end of a socket pair. Under a launcher (mpirun, srun) all are there already: rank 0 listens
 * at MASTER_ADDR:MASTER_PORT and the others come with the key of the team. */
#include "teamparts.h"

#include "siphash.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define RANK_FD 3                /* where a started rank finds its socket */
#define ARGUMENTS_MAX ((size_t)1 << 20)
#define HELLO_MS 2000u
#define COME_AGAIN_MS 100u
#define KEY_MIN 16u

extern char **environ;

/* ------------------------------------------------------------------------ who we are */

static bool number_of(const char *name, uint32_t *out)
{
    const char *text = getenv(name);
    char *end;
    if (text == NULL || *text < '0' || *text > '9')
        return false;
    unsigned long v = strtoul(text, &end, 10);
    if (*end != 0 || v > 65535)
        return false;
    *out = (uint32_t)v;
    return true;
}

static tn_status place_started(const char *text, tn_team_place *out, tn_err *err)
{
    int n = 0;
    if (sscanf(text, "%u/%u/%u/%d%n", &out->model, &out->rank, &out->nrank, &out->fd, &n) != 4 ||
        text[n] != 0 || out->rank == 0 || out->rank >= out->nrank || out->nrank > 65536)
        return tn_fail(err, TN_CONFIG, "TENON_RANK: \"%.64s\"; it is set by tenon itself, for the "
                       "ranks that it starts", text);
    out->local = out->rank;
    out->nlocal = out->nrank;
    return TN_OK;
}

tn_status tn_team_place_read(tn_team_place *out, tn_err *err)
{
    static const char *const names[][4] = {
        {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
         "OMPI_COMM_WORLD_LOCAL_SIZE"},
        {"PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"},
        {"SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE"},
    };
    *out = (tn_team_place){.nlocal = 1, .fd = -1};
    const char *started = getenv("TENON_RANK");
    if (started != NULL)
        return place_started(started, out, err);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        tn_team_place p = {.fd = -1};
        bool step = strncmp(names[i][0], "SLURM", 5) != 0 || getenv("SLURM_STEP_ID") != NULL;
        if (!step || !number_of(names[i][0], &p.rank) || !number_of(names[i][1], &p.nrank) ||
            p.nrank < 2) /* a batch script of Slurm's sees the former two, srun's tasks all */
            continue;
        if (p.rank >= p.nrank)
            return tn_fail(err, TN_CONFIG, "%s is %u and %s is %u; expected a rank below the number "
                           "of ranks", names[i][0], p.rank, names[i][1], p.nrank);
        if (!number_of(names[i][2], &p.local))
            p.local = p.rank;
        if (!number_of(names[i][3], &p.nlocal) || p.nlocal <= p.local)
            p.nlocal = p.local + 1 > p.nrank ? p.local + 1 : p.nrank;
        *out = p;
        return TN_OK;
    }
    return TN_OK;
}

static cpu_set_t all_cores;
static bool cores_shared;

void tn_team_cores_share(uint32_t local, uint32_t nlocal)
{
    cpu_set_t mine;
    if (nlocal < 2 || sched_getaffinity(0, sizeof all_cores, &all_cores) != 0)
        return;
    uint32_t n = (uint32_t)CPU_COUNT(&all_cores), seen = 0;
    uint32_t from = n >= nlocal ? local * n / nlocal : local % n;
    uint32_t to = n >= nlocal ? (local + 1) * n / nlocal : from + 1;
    CPU_ZERO(&mine);
    for (int c = 0; c < CPU_SETSIZE; c++)
        if (CPU_ISSET(c, &all_cores) && seen++ >= from && seen <= to)
            CPU_SET(c, &mine);
    cores_shared = sched_setaffinity(0, sizeof mine, &mine) == 0;
}

void tn_team_cores_restore(void)
{
    if (cores_shared)
        (void)sched_setaffinity(0, sizeof all_cores, &all_cores);
    cores_shared = false;
}

/* ----------------------------------------------------------------- ranks that we start */

/* The command line, as the system keeps it: NULL-terminated list over `text`. */
static char **own_arguments(tn_buf *text)
{
    FILE *f = fopen("/proc/self/cmdline", "re");
    char part[4096];
    size_t n;
    tn_buf_open(text, ARGUMENTS_MAX);
    while (f != NULL && (n = fread(part, 1, sizeof part, f)) > 0)
        tn_buf_put(text, part, n);
    if (f != NULL)
        fclose(f);
    size_t count = 0;
    for (size_t i = 0; i < text->len; i++)
        count += text->data[i] == 0;
    char **list = text->failed || count == 0 ? NULL : calloc(count + 1, sizeof *list);
    for (size_t i = 0, at = 0; list != NULL && i < count; i++) {
        list[i] = text->data + at;
        at += strlen(text->data + at) + 1;
    }
    return list;
}

/* The environment with TENON_RANK. */
static char **own_environment(char *rank)
{
    size_t n = 0;
    while (environ[n] != NULL)
        n++;
    char **list = calloc(n + 2, sizeof *list);
    if (list == NULL)
        return NULL;
    memcpy(list, environ, n * sizeof *list);
    list[n] = rank;
    return list;
}

/* In the child of a process with threads: nothing but system calls. Its output goes where errors
 * go, since standard output is the command's. Whatever happens to rank 0, it ends as well. */
static _Noreturn void become_rank(int fd, pid_t parent, char **argv, char **envp)
{
    int nothing = open("/dev/null", O_RDONLY);
    if (nothing >= 0)
        dup2(nothing, STDIN_FILENO);
    dup2(STDERR_FILENO, STDOUT_FILENO);
    if (fd != RANK_FD)
        dup2(fd, RANK_FD);
    else
        fcntl(fd, F_SETFD, 0);
    close_range(RANK_FD + 1, UINT_MAX, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setpgid(0, 0); /* the terminal's Ctrl-C is for rank 0 */
    if (getppid() == parent)
        execve("/proc/self/exe", argv, envp);
    _exit(TN_OS);
}

static tn_status start_one(tn_team *t, uint32_t r, uint32_t model, char **argv, tn_err *err)
{
    int pair[2];
    char rank[64];
    snprintf(rank, sizeof rank, "TENON_RANK=%u/%u/%u/%d", model, r, t->nrank, RANK_FD);
    char **envp = own_environment(rank);
    if (envp == NULL)
        return tn_fail(err, TN_NO_MEMORY, "no memory to start rank %u", r);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
        free(envp);
        return tn_fail(err, TN_OS, "cannot start rank %u: socketpair: %s", r, strerror(errno));
    }
    pid_t parent = getpid(), pid = fork();
    if (pid == 0)
        become_rank(pair[1], parent, argv, envp);
    int why = errno;
    free(envp);
    close(pair[1]);
    t->peer[r].fd = pair[0];
    if (pid < 0)
        return tn_fail(err, TN_OS, "cannot start rank %u: fork: %s", r, strerror(why));
    t->peer[r].pid = pid;
    return tn_wire_ready(pair[0], err);
}

static tn_status start_all(tn_team *t, uint32_t model, tn_err *err)
{
    tn_buf text;
    tn_status st = TN_OK;
    char **argv = own_arguments(&text);
    if (argv == NULL)
        st = tn_fail(err, TN_OS, "cannot start other ranks: /proc/self/cmdline: %s",
                     strerror(errno));
    for (uint32_t r = 1; r < t->nrank && st == TN_OK; r++)
        st = start_one(t, r, model, argv, err);
    free(argv);
    tn_buf_close(&text);
    return st;
}

/* ---------------------------------------------------- ranks that a launcher has started */

/* What the two sides of a connection show each other: the key is never sent. */
typedef struct hello {
    uint64_t nonce[2];           /* of rank 0 */
    uint64_t proof[2];           /* of the key over nonce, rank and nrank */
    uint32_t rank, nrank;
} hello;

static void prove(const char *key, hello *h)
{
    const uint64_t secret[2] = {0x74656e6f6e207465, 0x616d206b65792031};
    tn_sip s;
    tn_sip_open(&s, secret);
    tn_sip_put(&s, key, strlen(key));
    uint64_t derived[2];
    tn_sip_done(&s, derived);
    tn_sip_open(&s, derived);
    tn_sip_put(&s, h->nonce, sizeof h->nonce);
    tn_sip_put(&s, &h->rank, sizeof h->rank);
    tn_sip_put(&s, &h->nrank, sizeof h->nrank);
    tn_sip_done(&s, h->proof);
}

/* Beyond this machine the key must be a secret. On it a launcher's own name of the job will do
 * to tell teams apart. */
static tn_status find_key(const struct sockaddr *to, const char **key, tn_err *err)
{
    static const char *const jobs[] = {"PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid",
                                       "SLURM_JOB_ID", "PMI_KVS"};
    bool local = to->sa_family == AF_INET
                     ? (ntohl(((const struct sockaddr_in *)to)->sin_addr.s_addr) >> 24) == 127
                     : IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)to)->sin6_addr);
    *key = getenv("TENON_TEAM_KEY");
    if (*key != NULL && strlen(*key) >= KEY_MIN)
        return TN_OK;
    if (*key != NULL || !local)
        return tn_fail(err, TN_CONFIG, "TENON_TEAM_KEY: %s; ranks on several hosts prove to each "
                       "other that they belong together; expected the same secret of at least %u "
                       "characters on all of them", *key != NULL ? "too short" : "not set", KEY_MIN);
    for (size_t i = 0; i < sizeof jobs / sizeof *jobs && *key == NULL; i++)
        *key = getenv(jobs[i]);
    if (*key == NULL)
        *key = "";
    return TN_OK;
}

static tn_status resolve(const char *address, struct addrinfo **out, tn_err *err)
{
    char host[256];
    const char *colon = strrchr(address, ':');
    size_t n = colon != NULL ? (size_t)(colon - address) : 0;
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    if (n == 0 || n >= sizeof host)
        return tn_fail(err, TN_CONFIG, "master_addr: \"%.200s\"; expected HOST:PORT", address);
    memcpy(host, address, n);
    host[n] = 0;
    int e = getaddrinfo(host, colon + 1, &hints, out);
    return e == 0 ? TN_OK : tn_fail(err, TN_CONFIG, "master_addr: %.200s: %s", address,
                                    gai_strerror(e));
}

static void set_nodelay(int fd)
{
    int one = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
}

static tn_status listen_at(const struct addrinfo *a, const char *address, int *out, tn_err *err)
{
    int one = 1, fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0)
        (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (fd < 0 || bind(fd, a->ai_addr, a->ai_addrlen) != 0 || listen(fd, 64) != 0) {
        tn_status st = tn_fail(err, TN_UNAVAILABLE, "rank 0: cannot listen for other ranks at "
                               "%.200s: %s", address, strerror(errno));
        if (fd >= 0)
            close(fd);
        return st;
    }
    *out = fd;
    return tn_wire_ready(fd, err);
}

/* One who connected: a rank of the team with its proof, or somebody else, who is dropped. */
static void admit(tn_team *t, int fd, const char *key)
{
    tn_err err;
    tn_frame f;
    tn_buf b;
    hello asked = {.nrank = t->nrank}, h;
    const tn_frame question = {.kind = TN_WIRE_HELLO};
    tn_buf_open(&b, sizeof h + 1);
    if (getentropy(asked.nonce, sizeof asked.nonce) != 0 || tn_wire_ready(fd, &err) != TN_OK ||
        tn_wire_send(fd, &question, &asked, sizeof asked, NULL, 0, HELLO_MS, &err) != TN_OK ||
        tn_wire_recv(fd, &f, &b, HELLO_MS, &err) != TN_OK || f.kind != TN_WIRE_HELLO ||
        b.len != sizeof h)
        goto drop;
    memcpy(&h, b.data, sizeof h);
    hello wanted = {.rank = h.rank, .nrank = t->nrank};
    memcpy(wanted.nonce, asked.nonce, sizeof wanted.nonce);
    prove(key, &wanted);
    if (memcmp(wanted.proof, h.proof, sizeof h.proof) != 0 || h.rank == 0 || h.rank >= t->nrank ||
        t->peer[h.rank].fd >= 0)
        goto drop;
    set_nodelay(fd);
    t->peer[h.rank].fd = fd;
    tn_buf_close(&b);
    return;
drop:
    tn_log_put(t->log, TN_LOG_WARN, "core", NULL, "somebody connected to the ranks' port who is no "
               "rank of this team: dropped");
    close(fd);
    tn_buf_close(&b);
}

static tn_status name_missing(const tn_team *t, uint32_t seconds, tn_err *err)
{
    char list[160] = "";
    for (uint32_t r = 1; r < t->nrank; r++)
        if (t->peer[r].fd < 0 && strlen(list) + 8 < sizeof list)
            snprintf(list + strlen(list), sizeof list - strlen(list), "%s%u",
                     list[0] != 0 ? ", " : "", r);
    return tn_fail(err, TN_UNAVAILABLE, "ranks %s of %u did not come within %u s", list, t->nrank,
                   seconds);
}

static tn_status await_all(tn_team *t, const tn_team_setup *setup, const struct addrinfo *a,
                           const char *key, tn_err *err)
{
    int fd = -1;
    uint64_t until = tn_team_now() + (uint64_t)setup->patience * 1000000000u;
    tn_status st = listen_at(a, setup->address, &fd, err);
    for (uint32_t come = 1; st == TN_OK && come < t->nrank;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (tn_team_now() > until)
            st = name_missing(t, setup->patience, err);
        else if (poll(&p, 1, COME_AGAIN_MS) > 0) {
            int one = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
            if (one >= 0)
                admit(t, one, key);
        }
        come = 1;
        for (uint32_t r = 1; r < t->nrank; r++)
            come += t->peer[r].fd >= 0;
    }
    if (fd >= 0)
        close(fd);
    return st;
}

static tn_status introduce(tn_team *t, int fd, const char *key, tn_err *err)
{
    tn_frame f;
    tn_buf *b = &t->peer[0].data;
    tn_status st = tn_wire_ready(fd, err);
    if (st == TN_OK)
        st = tn_wire_recv(fd, &f, b, HELLO_MS, err);
    hello h;
    if (st == TN_OK && (f.kind != TN_WIRE_HELLO || b->len != sizeof h))
        st = tn_fail(err, TN_UNAVAILABLE, "who listens there is no rank 0 of tenon's");
    if (st != TN_OK)
        return st;
    memcpy(&h, b->data, sizeof h);
    if (h.nrank != t->nrank)
        return tn_fail(err, TN_UNAVAILABLE, "rank 0 has a team of %u; expected %u", h.nrank,
                       t->nrank);
    h.rank = t->rank;
    prove(key, &h);
    const tn_frame answer = {.kind = TN_WIRE_HELLO};
    return tn_wire_send(fd, &answer, &h, sizeof h, NULL, 0, HELLO_MS, err);
}

/* Rank 0 may come up later: tried again until patience ends. */
static tn_status come_to(tn_team *t, const tn_team_setup *setup, const struct addrinfo *a,
                         const char *key, tn_err *err)
{
    uint64_t until = tn_team_now() + (uint64_t)setup->patience * 1000000000u;
    for (;;) {
        int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0)
            return tn_fail(err, TN_OS, "socket: %s", strerror(errno));
        if (connect(fd, a->ai_addr, a->ai_addrlen) == 0) {
            set_nodelay(fd);
            t->peer[0].fd = fd;
            return introduce(t, fd, key, err);
        }
        int why = errno;
        close(fd);
        if (tn_team_now() > until)
            return tn_fail(err, TN_UNAVAILABLE, "rank %u: no rank 0 at %.200s within %u s: %s",
                           t->rank, setup->address, setup->patience, strerror(why));
        const struct timespec nap = {.tv_nsec = COME_AGAIN_MS * 1000000};
        nanosleep(&nap, NULL);
    }
}

static tn_status meet(tn_team *t, const tn_team_setup *setup, tn_err *err)
{
    struct addrinfo *a = NULL;
    const char *key = NULL;
    tn_status st = resolve(setup->address, &a, err);
    if (st == TN_OK)
        st = find_key(a->ai_addr, &key, err);
    if (st == TN_OK && t->rank == 0)
        st = await_all(t, setup, a, key, err);
    else if (st == TN_OK)
        st = come_to(t, setup, a, key, err);
    if (a != NULL)
        freeaddrinfo(a);
    return st;
}

tn_status tn_team_connect(tn_team *t, const tn_team_setup *setup, tn_err *err)
{
    if (t->rank != 0 && setup->place.fd >= 0) {
        t->peer[0].fd = setup->place.fd;
        return tn_wire_ready(setup->place.fd, err);
    }
    return setup->address != NULL ? meet(t, setup, err) : start_all(t, setup->model, err);
}
