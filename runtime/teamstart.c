/* SPDX-License-Identifier: Apache-2.0 */
/* teamstart.c - which rank a process is, and ranks that it starts.
 *
 * On one host rank 0 starts the others: the same program, the same command line, TENON_RANK and
 * one end of a socket pair. On several the first rank of each host starts those of its own; they
 * find rank 0 as a launcher's ranks do (teammeet.c). */
#include "teamparts.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define RANK_FD 3                /* where a started rank finds its socket */
#define ARGUMENTS_MAX ((size_t)1 << 20)

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
    if (sscanf(text, "%u/%u/%u/%u/%u/%d%n", &out->model, &out->rank, &out->nrank, &out->local,
               &out->nlocal, &out->fd, &n) != 6 || text[n] != 0 || out->rank == 0 ||
        out->rank >= out->nrank || out->nrank > TN_RANKS_MAX || out->local >= out->nlocal ||
        out->nlocal > out->nrank)
        return tn_fail(err, TN_CONFIG, "TENON_RANK: \"%.64s\"; it is set by tenon itself, for the "
                       "ranks that it starts", text);
    return TN_OK;
}

/* The first rank of a host among several: it starts the others there. */
static tn_status place_on_host(const tn_team_hosts *h, tn_team_place *out, tn_err *err)
{
    if (h->nrank % h->nhost != 0)
        return tn_fail(err, TN_CONFIG, "tensor_parallel_size: %u ranks on %u hosts (nnodes); "
                       "expected a multiple", h->nrank, h->nhost);
    if (h->host >= h->nhost)
        return tn_fail(err, TN_CONFIG, "node_rank: %u of %u hosts (nnodes); expected one from 0 to "
                       "%u", h->host, h->nhost, h->nhost - 1);
    uint32_t each = h->nrank / h->nhost;
    *out = (tn_team_place){.rank = h->host * each, .nrank = h->nrank, .nlocal = each,
                           .starts = each - 1, .fd = -1};
    return TN_OK;
}

static tn_status place_launched(tn_team_place *out, tn_err *err)
{
    static const char *const names[][4] = {
        {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
         "OMPI_COMM_WORLD_LOCAL_SIZE"},
        {"PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"},
        {"SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE"},
    };
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

tn_status tn_team_place_read(const tn_team_hosts *h, tn_team_place *out, tn_err *err)
{
    *out = (tn_team_place){.nlocal = 1, .fd = -1};
    const char *started = getenv("TENON_RANK");
    if (started != NULL)
        return place_started(started, out, err);
    if (h->nhost > 1 && h->starter != TN_TEAM_LAUNCHER)
        return place_on_host(h, out, err);
    tn_status st = h->starter != TN_TEAM_ITSELF ? place_launched(out, err) : TN_OK;
    if (st == TN_OK && h->starter == TN_TEAM_LAUNCHER && out->nrank == 0)
        return tn_fail(err, TN_CONFIG, "distributed_executor_backend: external_launcher, but nobody "
                       "launched this process as one of several; expected mpirun or srun, or mp");
    return st;
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
    if (fd >= 0 && fd != RANK_FD)
        dup2(fd, RANK_FD);
    else if (fd >= 0)
        fcntl(fd, F_SETFD, 0);
    close_range(fd >= 0 ? RANK_FD + 1 : RANK_FD, UINT_MAX, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setpgid(0, 0); /* the terminal's Ctrl-C is for rank 0 */
    if (getppid() == parent)
        execve("/proc/self/exe", argv, envp);
    _exit(TN_OS);
}

/* `pair[1]` is for the new rank, -1: it finds rank 0 by itself. */
static tn_status fork_one(tn_team *t, const tn_team_setup *setup, uint32_t r, char **argv,
                          const int *pair, tn_err *err)
{
    char rank[96];
    uint32_t local = setup->place.local + (r - t->rank);
    snprintf(rank, sizeof rank, "TENON_RANK=%u/%u/%u/%u/%u/%d", setup->model, r, t->nrank, local,
             setup->place.nlocal, pair[1] >= 0 ? RANK_FD : -1);
    char **envp = own_environment(rank);
    if (envp == NULL)
        return tn_fail(err, TN_NO_MEMORY, "no memory to start rank %u", r);
    pid_t parent = getpid(), pid = fork();
    if (pid == 0)
        become_rank(pair[1], parent, argv, envp);
    int why = errno;
    free(envp);
    if (pid < 0)
        return tn_fail(err, TN_OS, "cannot start rank %u: fork: %s", r, strerror(why));
    t->peer[r].pid = pid;
    return TN_OK;
}

static tn_status start_one(tn_team *t, const tn_team_setup *setup, uint32_t r, char **argv,
                           tn_err *err)
{
    int pair[2] = {-1, -1};
    if (t->rank == 0 && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
        return tn_fail(err, TN_OS, "cannot start rank %u: socketpair: %s", r, strerror(errno));
    tn_status st = pair[0] >= 0 ? tn_wire_ready(pair[0], err) : TN_OK;
    if (st == TN_OK)
        st = fork_one(t, setup, r, argv, pair, err);
    if (pair[1] >= 0)
        close(pair[1]);
    if (st == TN_OK && pair[0] >= 0)
        tn_team_seat(t, r, pair[0]);
    else if (pair[0] >= 0)
        close(pair[0]);
    return st;
}

static tn_status start_others(tn_team *t, const tn_team_setup *setup, tn_err *err)
{
    tn_buf text;
    tn_status st = TN_OK;
    char **argv = own_arguments(&text);
    if (argv == NULL)
        st = tn_fail(err, TN_OS, "cannot start other ranks: /proc/self/cmdline: %s",
                     strerror(errno));
    for (uint32_t i = 1; i <= setup->place.starts && st == TN_OK; i++)
        st = start_one(t, setup, t->rank + i, argv, err);
    free(argv);
    tn_buf_close(&text);
    return st;
}

tn_status tn_team_connect(tn_team *t, const tn_team_setup *setup, tn_err *err)
{
    const tn_team_place *p = &setup->place;
    if (t->rank != 0 && p->fd >= 0) {
        tn_status st = tn_wire_ready(p->fd, err);
        tn_team_seat(t, 0, p->fd);
        tn_team_phase(t, "here");
        return st;
    }
    tn_team_phase(t, "meeting the others");
    tn_status st = p->starts > 0 ? start_others(t, setup, err) : TN_OK;
    return st == TN_OK && !(t->rank == 0 && p->starts + 1 == t->nrank) ? tn_team_meet(t, setup, err)
                                                                       : st;
}
