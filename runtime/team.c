/* SPDX-License-Identifier: Apache-2.0 */
/* team.c - the ranks that share a model: coming together, and the rounds of bringing up. */
#include "teamparts.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LEAVE_MS 5000u

uint64_t tn_team_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void tn_team_phase(const tn_team *t, const char *what)
{
    if (t != NULL)
        tn_log_put(t->log, TN_LOG_DEBUG, "core", NULL, "rank %u of %u: %s", t->rank, t->nrank, what);
}

uint32_t tn_team_rank(const tn_team *t)
{
    return t->rank;
}

uint32_t tn_team_size(const tn_team *t)
{
    return t->nrank;
}

void tn_team_steps(const tn_team *t, uint64_t *steps, uint64_t *ns)
{
    *steps = atomic_load_explicit(&t->steps, memory_order_relaxed);
    *ns = atomic_load_explicit(&t->step_ns, memory_order_relaxed);
}

void tn_team_count(tn_team *t, uint64_t begun)
{
    atomic_fetch_add_explicit(&t->steps, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&t->step_ns, tn_team_now() - begun, memory_order_relaxed);
}

tn_status tn_team_send(tn_team *t, uint32_t r, uint32_t kind, uint32_t status, const void *a,
                       uint64_t na, const void *b, uint64_t nb, tn_err *err)
{
    const tn_frame f = {.kind = kind, .status = status};
    pthread_mutex_lock(&t->sending);
    tn_status st = tn_wire_send(t->peer[r].fd, &f, a, na, b, nb, t->silence * 1000u, err);
    pthread_mutex_unlock(&t->sending);
    return st;
}

void tn_team_seat(tn_team *t, uint32_t r, int fd)
{
    pthread_mutex_lock(&t->lock);
    t->peer[r].fd = fd;
    pthread_mutex_unlock(&t->lock);
}

/* ------------------------------------------------------------------------------- faults */

void tn_team_obituary(tn_team *t, uint32_t rank, const tn_err *how, tn_err *out)
{
    int status = 0;
    pid_t pid = t->peer[rank].pid;
    bool ended = false;
    for (uint32_t i = 0; pid > 0 && i < 50 && !ended; i++) {
        ended = waitpid(pid, &status, WNOHANG) == pid;
        const struct timespec nap = {.tv_nsec = 2000000};
        if (!ended)
            nanosleep(&nap, NULL);
    }
    if (ended)
        t->peer[rank].pid = 0;
    if (ended && WIFSIGNALED(status))
        tn_fail(out, TN_UNAVAILABLE, "rank %u (process %d) was ended by signal %d (%s)", rank,
                (int)pid, WTERMSIG(status), strsignal(WTERMSIG(status)));
    else if (ended)
        tn_fail(out, TN_UNAVAILABLE, "rank %u (process %d) ended with exit code %d", rank, (int)pid,
                WEXITSTATUS(status));
    else
        tn_fail(out, TN_UNAVAILABLE, "rank %u is lost: %.800s", rank, how->text);
}

void tn_team_lose(tn_team *t, const tn_err *why)
{
    pthread_mutex_lock(&t->lock);
    bool first = !t->lost && !t->closing, tells = first && t->work.on_lost != NULL;
    if (first) {
        t->lost = true;
        t->why = *why;
    }
    t->telling = t->telling || tells;
    pthread_cond_broadcast(&t->news);
    pthread_mutex_unlock(&t->lock);
    if (first && t->work.comm != NULL && t->work.comm->abort != NULL && t->work.group != NULL)
        t->work.comm->abort(t->work.group);
    if (!tells)
        return;
    t->work.on_lost(t->work.user, why);
    pthread_mutex_lock(&t->lock);
    t->telling = false;
    pthread_cond_broadcast(&t->news);
    pthread_mutex_unlock(&t->lock);
}

void tn_team_hush(tn_team *t)
{
    if (t == NULL)
        return;
    pthread_mutex_lock(&t->lock);
    while (t->telling)
        pthread_cond_wait(&t->news, &t->lock);
    t->work.on_lost = NULL;
    pthread_mutex_unlock(&t->lock);
}

tn_status tn_team_health(tn_team *t, tn_err *err)
{
    tn_status st = TN_OK;
    pthread_mutex_lock(&t->lock);
    if (t->lost) {
        *err = t->why;
        st = TN_UNAVAILABLE;
    }
    pthread_mutex_unlock(&t->lock);
    return st;
}

void tn_team_wake(tn_team *t)
{
    const uint64_t one = 1;
    (void)!write(t->wake, &one, sizeof one);
}

tn_status tn_team_thread(pthread_t *thread, bool *has, void *(*run)(void *), tn_team *t,
                         tn_err *err)
{
    static const int faults[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS};
    sigset_t all, before;
    sigfillset(&all);
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++)
        sigdelset(&all, faults[i]);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    *has = pthread_create(thread, NULL, run, t) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return *has ? TN_OK : tn_fail(err, TN_OS, "the system gave no thread to watch other ranks");
}

/* ------------------------------------------------------------------------------- rounds */

static tn_status say_silent(const tn_team *t, uint32_t r, uint32_t seconds, tn_err *err)
{
    if (t->peer[r].heard == 0)
        return tn_fail(err, TN_UNAVAILABLE, "rank %u of %u did not come within %u s", r, t->nrank,
                       seconds);
    return tn_fail(err, TN_UNAVAILABLE, "rank %u (process %d) was not heard of for %u s", r,
                   (int)t->peer[r].pid, seconds);
}

/* The next frame of rank r that is no beat. One that was started may take long to say its first
 * word: its plugins come before that. */
static tn_status receive(tn_team *t, uint32_t r, tn_frame *f, tn_err *err)
{
    tn_peer *p = &t->peer[r];
    uint32_t seconds;
    tn_status st;
    if (p->gone)
        return tn_fail(err, TN_UNAVAILABLE, "rank %u is gone", r);
    do {
        seconds = p->heard == 0 && t->patience > t->silence ? t->patience : t->silence;
        st = tn_wire_recv(p->fd, f, &p->data, seconds * 1000u, err);
        if (st == TN_OK)
            p->heard = tn_team_now();
    } while (st == TN_OK && f->kind == TN_WIRE_BEAT);
    p->gone = st != TN_OK;
    if (st == TN_TIMEOUT && t->rank == 0) {
        st = say_silent(t, r, seconds, err);
        if (p->pid > 0)
            kill(p->pid, SIGKILL); /* it would answer nothing else */
    } else if (st != TN_OK && t->rank == 0) {
        tn_err how = *err;
        tn_team_obituary(t, r, &how, err);
        st = TN_UNAVAILABLE;
    } else if (st != TN_OK) {
        tn_err how = *err;
        st = tn_fail(err, TN_UNAVAILABLE, "rank 0 is gone: %.800s", how.text);
    }
    return st;
}

static tn_status expect(tn_team *t, uint32_t r, uint32_t kind, tn_frame *f, tn_err *err)
{
    tn_status st = receive(t, r, f, err);
    if (st == TN_OK && f->kind != kind)
        st = tn_fail(err, TN_UNAVAILABLE, "rank %u said %#x where rank %u expected %#x", r, f->kind,
                     t->rank, kind);
    return st;
}

/* What rank r brought to the round: a sentence, or its bytes, which matter where rank 0 did well. */
static tn_status hear(tn_team *t, uint32_t r, bool counts, void *to, uint64_t size, tn_err *err)
{
    tn_frame f;
    tn_status st = expect(t, r, TN_WIRE_ROUND, &f, err);
    if (st != TN_OK)
        return st;
    const tn_buf *b = &t->peer[r].data;
    if (f.status != TN_OK)
        return tn_fail(err, (tn_status)f.status, "rank %u: %.*s", r, (int)(b->len < 900 ? b->len : 900),
                       b->data != NULL ? b->data : "");
    if (!counts)
        return TN_OK;
    if (b->len != size)
        return tn_fail(err, TN_UNAVAILABLE, "rank %u brought %zu bytes; expected %llu", r, b->len,
                       (unsigned long long)size);
    if (to != NULL && size > 0)
        memcpy((char *)to + r * size, b->data, size);
    return TN_OK;
}

/* All hear the same, also when one of them is lost meanwhile: else some would go on to what the
 * others never begin. The next round finds who is lost; behind the last, tn_team_missed. */
static void tell_all(tn_team *t, uint32_t kind, uint32_t status, const void *data, uint64_t size)
{
    tn_err how;
    for (uint32_t r = 1; r < t->nrank; r++) {
        tn_status st = tn_team_send(t, r, kind, status, data, size, NULL, 0, &how);
        if (st == TN_TIMEOUT)
            t->peer[r].gone = true; /* a frame that was cut */
        if (st != TN_OK && !t->missed)
            tn_team_obituary(t, r, &how, &t->missed_why);
        t->missed = t->missed || st != TN_OK;
    }
}

tn_status tn_team_missed(const tn_team *t, tn_err *err)
{
    if (!t->missed)
        return TN_OK;
    *err = t->missed_why;
    return TN_UNAVAILABLE;
}

static tn_status round_lead(tn_team *t, tn_status mine, const void *data, uint64_t size,
                            void *all, tn_err *err)
{
    tn_status st = mine;
    tn_err other;
    bool more = false;
    if (all != NULL && size > 0 && mine == TN_OK)
        memcpy(all, data, size);
    for (uint32_t r = 1; r < t->nrank; r++) {
        bool known = t->peer[r].gone;
        tn_status s = hear(t, r, mine == TN_OK, all, size, &other);
        bool end = t->peer[r].gone && !known; /* explains what failed here, a join say */
        if (s != TN_OK && (st == TN_OK || end)) {
            st = s;
            *err = other;
        } else if (s != TN_OK && !known && !more && strstr(other.text, err->text) == NULL) {
            /* two sides of one matter */
            tn_err own = *err;
            tn_fail(err, st, "%.480s; %.480s", own.text, other.text);
            more = true;
        }
    }
    tell_all(t, TN_WIRE_VERDICT, (uint32_t)st, err->text, st != TN_OK ? strlen(err->text) : 0);
    return st;
}

static tn_status round_follow(tn_team *t, tn_status mine, const void *data, uint64_t size,
                              tn_err *err)
{
    tn_frame f;
    tn_err other;
    const void *what = mine == TN_OK ? data : err->text;
    tn_status st = tn_team_send(t, 0, TN_WIRE_ROUND, (uint32_t)mine, what,
                                mine == TN_OK ? size : strlen(err->text), NULL, 0, &other);
    if (st == TN_OK)
        st = expect(t, 0, TN_WIRE_VERDICT, &f, &other);
    if (mine != TN_OK)
        return mine;
    if (st != TN_OK)
        *err = other;
    else if ((st = (tn_status)f.status) != TN_OK)
        tn_fail(err, st, "%.*s", (int)t->peer[0].data.len,
                t->peer[0].data.data != NULL ? t->peer[0].data.data : "");
    return st;
}

tn_status tn_team_round(tn_team *t, tn_status mine, const void *data, uint64_t size, void *all,
                        tn_err *err)
{
    return t->rank == 0 ? round_lead(t, mine, data, size, all, err)
                        : round_follow(t, mine, data, size, err);
}

tn_status tn_team_share(tn_team *t, void *data, uint64_t size, tn_err *err)
{
    tn_frame f;
    if (t->rank == 0) {
        tell_all(t, TN_WIRE_SHARE, 0, data, size);
        return TN_OK;
    }
    tn_status st = expect(t, 0, TN_WIRE_SHARE, &f, err);
    if (st == TN_OK && f.size != size)
        return tn_fail(err, TN_UNAVAILABLE, "rank 0 shared %llu bytes; expected %llu",
                       (unsigned long long)f.size, (unsigned long long)size);
    if (st == TN_OK && size > 0)
        memcpy(data, t->peer[0].data.data, size);
    return st;
}

/* ------------------------------------------------------------------- beginning and end */

static tn_status open_locks(tn_team *t, tn_err *err)
{
    pthread_condattr_t attr;
    if (pthread_condattr_init(&attr) != 0)
        return tn_fail(err, TN_OS, "ranks: the system gave no lock");
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    if (pthread_mutex_init(&t->lock, NULL) == 0 && pthread_mutex_init(&t->sending, NULL) == 0)
        t->has_locks = pthread_cond_init(&t->news, &attr) == 0;
    pthread_condattr_destroy(&attr);
    if (!t->has_locks)
        return tn_fail(err, TN_OS, "ranks: the system gave no lock");
    t->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return t->wake >= 0 ? TN_OK : tn_fail(err, TN_OS, "ranks: eventfd: %s", strerror(errno));
}

tn_status tn_team_start(const tn_team_setup *setup, tn_team **out, tn_err *err)
{
    tn_team *t = calloc(1, sizeof *t);
    if (t != NULL)
        t->peer = calloc(setup->place.nrank, sizeof *t->peer);
    if (t == NULL || t->peer == NULL) {
        free(t);
        return tn_fail(err, TN_NO_MEMORY, "no memory for %u ranks", setup->place.nrank);
    }
    t->wake = -1;
    t->rank = setup->place.rank;
    t->nrank = setup->place.nrank;
    t->silence = setup->silence;
    t->patience = setup->patience;
    t->log = setup->log;
    tn_buf_open(&t->step, TN_WIRE_SIZE_MAX);
    for (uint32_t r = 0; r < t->nrank; r++) {
        t->peer[r].fd = -1;
        tn_buf_open(&t->peer[r].data, TN_WIRE_SIZE_MAX);
    }
    tn_status st = open_locks(t, err);
    if (st == TN_OK) /* who has come already hears of rank 0 while it waits for the others */
        st = tn_team_thread(&t->beat, &t->has_beat, tn_team_beat_main, t, err);
    if (st == TN_OK)
        st = tn_team_connect(t, setup, err);
    if (st != TN_OK) {
        tn_team_close(t);
        return st;
    }
    *out = t;
    return TN_OK;
}

/* Those that were started here end within LEAVE_MS, one way or the other. */
static void bury(tn_team *t)
{
    uint64_t until = tn_team_now() + (uint64_t)LEAVE_MS * 1000000u;
    for (uint32_t r = 0; r < t->nrank; r++) {
        pid_t pid = t->peer[r].pid;
        int status;
        const struct timespec nap = {.tv_nsec = 2000000};
        while (pid > 0 && waitpid(pid, &status, WNOHANG) == 0) {
            if (tn_team_now() > until)
                kill(pid, SIGKILL);
            nanosleep(&nap, NULL);
        }
    }
}

/* No thread of the team's runs any more when this returns. */
static void stop_threads(tn_team *t)
{
    if (!t->has_locks)
        return;
    pthread_mutex_lock(&t->lock);
    t->closing = true;
    pthread_cond_broadcast(&t->news);
    pthread_mutex_unlock(&t->lock);
    if (t->wake >= 0)
        tn_team_wake(t);
    if (t->has_beat)
        pthread_join(t->beat, NULL);
    if (t->has_watch)
        pthread_join(t->watch, NULL);
    pthread_cond_destroy(&t->news);
    pthread_mutex_destroy(&t->sending);
    pthread_mutex_destroy(&t->lock);
}

void tn_team_close(tn_team *t)
{
    tn_err err;
    if (t == NULL)
        return;
    stop_threads(t);
    for (uint32_t r = 1; t->rank == 0 && r < t->nrank; r++)
        if (t->peer[r].fd >= 0)
            (void)tn_wire_send(t->peer[r].fd, &(tn_frame){.kind = TN_WIRE_BYE}, NULL, 0, NULL, 0, 100, &err);
    if (t->wake >= 0)
        close(t->wake);
    for (uint32_t r = 0; r < t->nrank; r++) {
        if (t->peer[r].fd >= 0)
            close(t->peer[r].fd);
        tn_buf_close(&t->peer[r].data);
    }
    bury(t);
    tn_buf_close(&t->step);
    free(t->peer);
    free(t);
}
