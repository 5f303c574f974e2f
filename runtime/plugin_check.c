/* SPDX-License-Identifier: Apache-2.0 */
/* plugin_check.c - the parts of `tenon plugin check` that all kinds share: the file alone, a
 * child process per check, a hundred lives. */
#include "plugin_check.h"

#include "buf.h"
#include "conf.h"
#include "elffile.h"
#include "guard.h"
#include "log.h"
#include "metric.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <netinet/in.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LIVES 100u
#define LIVES_SECONDS 60
#define CHILD_SECONDS 300
#define GROWTH_PAGES 64L      /* resident pages from life 20 to life 100 */

/* ---------------------------------------------------------------------------------- lines */

static void say(const tn_check *c, const char *verdict, const char *fmt, va_list ap)
{
    tn_buf b;
    tn_buf_open(&b, 4096);
    tn_buf_puts(&b, verdict);
    tn_buf_vprintf(&b, fmt, ap);
    tn_buf_putc(&b, '\n');
    for (size_t done = 0; b.data != NULL && done < b.len;) {
        ssize_t n = write(c->out, b.data + done, b.len - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break; /* the counts still tell */
        done += (size_t)n;
    }
    tn_buf_close(&b);
}

void tn_check_ok(tn_check *c, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    say(c, "ok    ", fmt, ap);
    va_end(ap);
    c->nok++;
}

void tn_check_fail(tn_check *c, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    say(c, "FAIL  ", fmt, ap);
    va_end(ap);
    c->nfail++;
}

void tn_check_skip(tn_check *c, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    say(c, "skip  ", fmt, ap);
    va_end(ap);
    c->nskip++;
}

uint64_t tn_check_random(uint64_t *seed)
{
    uint64_t z = *seed += 0x9e3779b97f4a7c15ull; /* splitmix64 */
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

double tn_check_uniform(uint64_t *seed)
{
    return (double)(tn_check_random(seed) >> 11) / 4503599627370496.0 - 1;
}

/* --------------------------------------------------------------------------------- one room */

/* A port that is free now: a frontend under check must not meet the one that serves. */
static unsigned free_port(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof a) == 0)
        (void)!getsockname(fd, (struct sockaddr *)&a, &size);
    if (fd >= 0)
        close(fd);
    return ntohs(a.sin_port);
}

static const tn_option *option_of(const tn_guest *g, const char *key)
{
    for (uint32_t i = 0; i < g->noption; i++)
        if (strcmp(g->options[i].key, key) == 0)
            return &g->options[i];
    return NULL;
}

static tn_status set_options(const tn_check *c, const tn_guest *g, tn_conf *conf, tn_err *err)
{
    char key[80], port[16];
    const tn_option *o = option_of(g, "port");
    tn_status st = TN_OK;
    if (g->kind == TN_KIND_FRONT && o != NULL && o->type == TN_OPT_INT) {
        snprintf(port, sizeof port, "%u", free_port());
        st = tn_conf_set(conf, TN_CONF_PLUGIN, c->name, "port", port, "command line", err);
    }
    for (uint32_t i = 0; st == TN_OK && i < c->nset; i++) {
        size_t n = strcspn(c->set[i], "=");
        if (c->set[i][n] == 0 || n >= sizeof key)
            return tn_fail(err, TN_USAGE, "command line --set %.64s; expected KEY=VALUE",
                           c->set[i]);
        memcpy(key, c->set[i], n);
        key[n] = 0;
        st = tn_conf_set(conf, TN_CONF_PLUGIN, c->name, key, c->set[i] + n + 1,
                         "command line --set", err);
    }
    return st;
}

static tn_status configure(const tn_check *c, tn_check_room *r, tn_err *err)
{
    tn_conf *conf;
    tn_status st = tn_conf_new(&conf, err);
    if (st != TN_OK)
        return st;
    st = set_options(c, r->guest, conf, err);
    if (st == TN_OK)
        st = tn_wall_configure(r->wall, conf, err);
    tn_conf_close(conf);
    return st;
}

/* By the file's name without .so, as plugins are named. */
static tn_status load_device(const tn_check *c, tn_check_room *r, tn_err *err)
{
    char name[40];
    const char *base = strrchr(c->device, '/');
    snprintf(name, sizeof name, "%s", base != NULL ? base + 1 : c->device);
    name[strcspn(name, ".")] = 0;
    return tn_wall_load(r->wall, name, c->device, true, "check", err);
}

tn_status tn_check_enter(const tn_check *c, bool init, const tn_front_host *front, void *user,
                         tn_check_room *r, tn_err *err)
{
    *r = (tn_check_room){.log = NULL};
    tn_status st = tn_guard_open(&r->guard, err);
    if (st == TN_OK)
        st = tn_log_open(STDERR_FILENO, TN_LOG_WARN, false, &r->log, err);
    if (st == TN_OK)
        st = tn_metrics_open(&r->metrics, err);
    if (st == TN_OK)
        st = tn_wall_open(r->log, r->metrics, r->guard, &r->wall, err);
    if (st == TN_OK) {
        tn_wall_set_front(r->wall, front, user);
        st = tn_wall_load(r->wall, c->name, c->file, true, "check", err);
    }
    if (st == TN_OK && c->device != NULL)
        st = load_device(c, r, err);
    if (st == TN_OK) {
        r->guest = tn_wall_at(r->wall, 0);
        r->device = c->device != NULL ? tn_wall_at(r->wall, 1) : NULL;
        st = configure(c, r, err);
    }
    if (st == TN_OK && init)
        st = tn_wall_init(r->wall, err);
    if (st != TN_OK)
        tn_check_leave(r);
    return st;
}

void tn_check_leave(tn_check_room *r)
{
    tn_wall_close(r->wall);
    tn_metrics_close(r->metrics);
    tn_log_close(r->log);
    tn_guard_close(r->guard);
    *r = (tn_check_room){.log = NULL};
}

/* ------------------------------------------------------------------------------- children */

static int wait_for(pid_t pid, int seconds)
{
    struct timespec nap = {.tv_nsec = 20000000};
    int status = 0;
    for (int i = 0; i < seconds * 50; i++) {
        pid_t got = waitpid(pid, &status, WNOHANG);
        if (got == pid)
            return status;
        if (got < 0 && errno != EINTR)
            return -1;
        nanosleep(&nap, NULL);
    }
    kill(pid, SIGKILL);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return -1;
}

/* Runs one check in a child; its counts come back through a pipe. */
static void in_child(tn_check *c, const char *what, void (*check)(tn_check *))
{
    int to[2];
    uint32_t count[3] = {0};
    if (pipe(to) != 0) {
        tn_check_fail(c, "%s: no pipe: %s", what, strerror(errno));
        return;
    }
    pid_t pid = fork();
    if (pid == 0) {
        tn_check mine = *c;
        close(to[0]);
        mine.nok = mine.nfail = mine.nskip = 0;
        check(&mine);
        count[0] = mine.nok;
        count[1] = mine.nfail;
        count[2] = mine.nskip;
        (void)!write(to[1], count, sizeof count);
        _exit(0);
    }
    close(to[1]);
    int status = pid < 0 ? -1 : wait_for(pid, CHILD_SECONDS);
    bool told = read(to[0], count, sizeof count) == (ssize_t)sizeof count;
    close(to[0]);
    c->nok += told ? count[0] : 0;
    c->nfail += told ? count[1] : 0;
    c->nskip += told ? count[2] : 0;
    if (pid < 0 || status == -1)
        tn_check_fail(c, "%s: no end in %d seconds", what, CHILD_SECONDS);
    else if (WIFSIGNALED(status))
        tn_check_fail(c, "%s: ended by signal %d", what, WTERMSIG(status));
    else if (!told || WEXITSTATUS(status) != 0)
        tn_check_fail(c, "%s: ended with %d", what, WEXITSTATUS(status));
}

/* ------------------------------------------------------------------------------ the file */

static void check_symbols(tn_check *c, const tn_elf *e)
{
    uint32_t ours = 0, others = 0;
    const char *first = "";
    for (uint32_t i = 0; i < e->nundefined; i++)
        if (strncmp(e->undefined[i], "tn_", 3) == 0) {
            tn_check_fail(c, "needs the symbol %s; the core lends everything through tn_host "
                          "(link with -Wl,-z,defs)", e->undefined[i]);
            ours++;
        }
    if (ours == 0)
        tn_check_ok(c, "needs no symbol of the core");
    for (uint32_t i = 0; i < e->nexported; i++)
        if (strcmp(e->exported[i], "tn_plugin_entry") != 0 && e->exported[i][0] != '_') {
            first = others++ == 0 ? e->exported[i] : first;
        }
    if (others > 0)
        tn_check_skip(c, "exports %u names besides tn_plugin_entry, such as %s; "
                      "-fvisibility=hidden keeps them in", others, first);
    else
        tn_check_ok(c, "exports tn_plugin_entry alone");
}

static void check_file(tn_check *c)
{
    tn_elf e;
    tn_err err;
    if (tn_elf_open(c->file, &e, &err) != TN_OK) {
        tn_check_fail(c, "%s", err.text);
        return;
    }
    tn_check_ok(c, "a shared object of this machine with a constant tn_plugin_entry of %llu "
                "bytes", (unsigned long long)e.entry_size);
    tn_check_ok(c, "contract %u.%u, descriptor of %u bytes, table of %u", e.entry.abi_major,
                e.entry.abi_minor, e.entry.size, e.table_size);
    check_symbols(c, &e);
    if (e.run_path[0] != 0)
        tn_check_ok(c, "looks for its libraries in %s too", e.run_path);
    tn_elf_close(&e);
}

static void check_adoption(tn_check *c)
{
    tn_check_room r;
    tn_err err;
    if (tn_check_enter(c, false, NULL, NULL, &r, &err) != TN_OK) {
        tn_check_fail(c, "%s", err.text);
        return;
    }
    const tn_guest *g = r.guest;
    tn_check_ok(c, "adopted as %s %s, kind %s: %s", g->name, g->version,
                tn_wall_kind_name(g->kind), g->summary);
    tn_check_ok(c, "%u options, each with a default that keeps its own rule", g->noption);
    tn_check_leave(&r);
}

/* ---------------------------------------------------------------------------- many lives */

static long resident_pages(void)
{
    long all = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f == NULL)
        return 0;
    if (fscanf(f, "%ld %ld", &all, &resident) != 2)
        resident = 0;
    fclose(f);
    return resident;
}

/* Sanitizers keep freed memory back, so growth says nothing in a process built with one. */
static bool is_sanitized(void)
{
    return dlsym(RTLD_DEFAULT, "__asan_init") != NULL || dlsym(RTLD_DEFAULT, "__tsan_init") != NULL;
}

static int open_files(void)
{
    int n = 0;
    DIR *d = opendir("/proc/self/fd");
    while (d != NULL && readdir(d) != NULL)
        n++;
    if (d != NULL)
        closedir(d);
    return n;
}

static tn_status live_once(const tn_check *c, tn_err *err)
{
    tn_check_room r;
    tn_check alone = *c;
    alone.device = NULL;
    tn_status st = tn_check_enter(&alone, true, NULL, NULL, &r, err);
    if (st != TN_OK)
        return st;
    if (r.guest->kind != TN_KIND_FRONT) /* with a host behind them in their own check */
        st = tn_wall_start(r.wall, 0, err);
    if (st == TN_OK)
        tn_wall_stop(r.wall, 0);
    if (st == TN_OK && tn_wall_held(r.guest) > 0)
        st = tn_fail(err, TN_INTERNAL, "keeps %llu bytes of its host's memory after stop",
                     (unsigned long long)tn_wall_held(r.guest));
    tn_check_leave(&r);
    return st;
}

static void check_lives(tn_check *c)
{
    tn_err err;
    long pages = 0;
    int files = 0;
    uint32_t n = 0;
    time_t begin = time(NULL);
    for (; n < LIVES && (n < 2 || time(NULL) - begin < LIVES_SECONDS); n++) {
        if (live_once(c, &err) != TN_OK) {
            tn_check_fail(c, "life %u: %s", n + 1, err.text);
            return;
        }
        if (n == LIVES / 5 || n == 0) {
            pages = resident_pages();
            files = open_files();
        }
    }
    long grown = resident_pages() - pages;
    int more = open_files() - files;
    if (n > LIVES / 5 + 1 && grown > GROWTH_PAGES && !is_sanitized())
        tn_check_fail(c, "%u lives: memory grew by %ld pages since life %u", n, grown, LIVES / 5);
    else if (more > 0)
        tn_check_fail(c, "%u lives: %d file descriptors more", n, more);
    else
        tn_check_ok(c, "loaded, inited, started, stopped and unloaded %u times without growth",
                    n);
}

/* ---------------------------------------------------------------------------------- whole */

static void check_kind(tn_check *c, uint32_t kind)
{
    if (kind == TN_KIND_QUANT)
        in_child(c, "the quantization's check", tn_check_quant);
    else if (kind == TN_KIND_DEVICE)
        in_child(c, "the device's check", tn_check_device);
    else if (kind == TN_KIND_COMM)
        in_child(c, "the communicator's check", tn_check_comm);
    else if (kind == TN_KIND_FRONT)
        in_child(c, "the frontend's check", tn_check_front);
}

bool tn_check_plugin(tn_check *c, bool run)
{
    tn_elf e;
    tn_err err;
    check_file(c);
    if (c->nfail == 0)
        in_child(c, "adoption", check_adoption);
    if (c->nfail > 0 || !run)
        return c->nfail == 0;
    if (tn_elf_open(c->file, &e, &err) != TN_OK) {
        tn_check_fail(c, "%s", err.text);
        return false;
    }
    uint32_t kind = e.entry.kind;
    tn_elf_close(&e);
    in_child(c, "many lives", check_lives);
    check_kind(c, kind);
    return c->nfail == 0;
}
