/* SPDX-License-Identifier: Apache-2.0 */
/* guard.c - names the plugin when the process dies or hangs inside one.
 *
 * What a signal handler reads is atomic or written before the handler can need it; it calls
 * nothing but write, backtrace (warmed up at open, so that it does not allocate) and _exit. */
#include "guard.h"

#include <errno.h>
#include <execinfo.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define RANGES_MAX 256u
#define FRAMES_MAX 64
#define STACK_SIZE 65536u
#define EXIT_CODE 70

static const int fatal[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS};
#define NFATAL (sizeof fatal / sizeof fatal[0])

typedef struct code_range {
    _Atomic uintptr_t lo, hi; /* hi 0: free */
    char plugin[40];
} code_range;

struct tn_guard {
    pid_t pid;
    _Atomic(const char *) plugin; /* NULL outside visits */
    _Atomic(const char *) phase;
    code_range range[RANGES_MAX];
    struct sigaction old[NFATAL];
    stack_t old_stack;
    void *stack;                  /* owned; so that a full stack can still be told */
    pthread_t watchdog;
    pthread_mutex_t lock;         /* guards what follows */
    pthread_cond_t changed;
    struct timespec deadline;
    bool limited, closing;
};

/* One a process, as are the handlers that read it. */
static _Atomic(tn_guard *) the_guard;

/* ------------------------------------------------------------------ safe in a signal handler */

typedef struct message {
    char text[512];
    size_t len;
} message;

static void put(message *m, const char *text)
{
    while (*text != 0 && m->len < sizeof m->text)
        m->text[m->len++] = *text++;
}

static void put_number(message *m, unsigned n)
{
    char digits[12];
    size_t i = sizeof digits - 1;
    digits[i] = 0;
    do
        digits[--i] = (char)('0' + n % 10);
    while ((n /= 10) > 0);
    put(m, digits + i);
}

static void send(const message *m)
{
    ssize_t n = write(STDERR_FILENO, m->text, m->len);
    (void)n; /* nobody is left to be told */
}

/* "tenon: plugin NAME: WHAT while in PHASE of NAME", then the end. */
static _Noreturn void end_in_visit(tn_guard *g, const char *plugin, const char *what,
                                   unsigned number)
{
    message m = {.len = 0};
    put(&m, "tenon: plugin ");
    put(&m, plugin);
    put(&m, ": ");
    put(&m, what);
    if (number != 0)
        put_number(&m, number);
    put(&m, " while in ");
    put(&m, atomic_load(&g->phase));
    put(&m, " of ");
    put(&m, plugin);
    put(&m, "\n");
    send(&m);
    _exit(EXIT_CODE);
}

static const char *owner_of(const tn_guard *g, uintptr_t at)
{
    for (uint32_t i = 0; i < RANGES_MAX; i++) {
        const code_range *r = &g->range[i];
        if (at < atomic_load(&r->hi) && at >= atomic_load(&r->lo))
            return r->plugin;
    }
    return NULL;
}

static uintptr_t place_of(const void *context)
{
    const ucontext_t *u = context;
#if defined(__x86_64__)
    return (uintptr_t)u->uc_mcontext.gregs[REG_RIP];
#elif defined(__aarch64__)
    return (uintptr_t)u->uc_mcontext.pc;
#else
    (void)u;
    return 0;
#endif
}

/* The plugin on whose behalf the thread ran: at the place of the crash, or (abort, memcpy)
 * the nearest caller. */
static const char *culprit(const tn_guard *g, const void *context)
{
    void *frame[FRAMES_MAX];
    const char *plugin = owner_of(g, place_of(context));
    if (plugin != NULL)
        return plugin;
    signal(SIGALRM, SIG_DFL);
    alarm(5); /* unwinding a smashed stack may never end */
    int n = backtrace(frame, FRAMES_MAX);
    alarm(0);
    for (int i = 0; i < n && plugin == NULL; i++)
        plugin = owner_of(g, (uintptr_t)frame[i]);
    return plugin;
}

static void on_fatal(int number, siginfo_t *info, void *context)
{
    tn_guard *g = atomic_load(&the_guard);
    (void)info;
    if (g != NULL && g->pid == getpid()) {
        const char *plugin = atomic_load(&g->plugin);
        if (plugin != NULL)
            end_in_visit(g, plugin, "signal ", (unsigned)number);
        plugin = culprit(g, context);
        if (plugin != NULL) {
            message m = {.len = 0};
            put(&m, "tenon: plugin ");
            put(&m, plugin);
            put(&m, ": signal ");
            put_number(&m, (unsigned)number);
            put(&m, " in its code");
            put(&m, number == SIGBUS ? " (a file was cut short while it was mapped?)\n" : "\n");
            send(&m);
            _exit(EXIT_CODE);
        }
    }
    signal(number, SIG_DFL); /* the usual course: it fires again on return, or here */
    raise(number);
}

static void on_exit_called(void)
{
    tn_guard *g = atomic_load(&the_guard);
    const char *plugin = g != NULL && g->pid == getpid() ? atomic_load(&g->plugin) : NULL;
    if (plugin != NULL)
        end_in_visit(g, plugin, "called exit", 0);
}

/* ------------------------------------------------------------------------------- watchdog */

static void *watch(void *user)
{
    tn_guard *g = user;
    pthread_mutex_lock(&g->lock);
    while (!g->closing) {
        int rc = g->limited ? pthread_cond_timedwait(&g->changed, &g->lock, &g->deadline)
                            : pthread_cond_wait(&g->changed, &g->lock);
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        bool late = now.tv_sec > g->deadline.tv_sec
                 || (now.tv_sec == g->deadline.tv_sec && now.tv_nsec >= g->deadline.tv_nsec);
        const char *plugin = atomic_load(&g->plugin);
        if (rc == ETIMEDOUT && g->limited && late && plugin != NULL)
            end_in_visit(g, plugin, "no answer in the time allowed", 0);
    }
    pthread_mutex_unlock(&g->lock);
    return NULL;
}

static tn_status start_watchdog(tn_guard *g, tn_err *err)
{
    pthread_condattr_t a;
    sigset_t all, old;
    pthread_mutex_init(&g->lock, NULL);
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    pthread_cond_init(&g->changed, &a);
    pthread_condattr_destroy(&a);
    sigfillset(&all);
    for (size_t i = 0; i < NFATAL; i++)
        sigdelset(&all, fatal[i]);
    pthread_sigmask(SIG_SETMASK, &all, &old); /* SIGTERM and friends are main's */
    int rc = pthread_create(&g->watchdog, NULL, watch, g);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc == 0)
        return TN_OK;
    pthread_cond_destroy(&g->changed);
    pthread_mutex_destroy(&g->lock);
    return tn_fail(err, TN_OS, "guard: no thread: %s", strerror(rc));
}

static void stop_watchdog(tn_guard *g)
{
    pthread_mutex_lock(&g->lock);
    g->closing = true;
    pthread_cond_signal(&g->changed);
    pthread_mutex_unlock(&g->lock);
    pthread_join(g->watchdog, NULL);
    pthread_cond_destroy(&g->changed);
    pthread_mutex_destroy(&g->lock);
}

/* --------------------------------------------------------------------------- open and close */

static void take_signals(tn_guard *g)
{
    struct sigaction a = {.sa_sigaction = on_fatal, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    stack_t s = {.ss_sp = g->stack, .ss_size = STACK_SIZE};
    void *frame[2];
    backtrace(frame, 2);
    sigaltstack(&s, &g->old_stack);
    sigemptyset(&a.sa_mask);
    for (size_t i = 0; i < NFATAL; i++)
        sigaction(fatal[i], &a, &g->old[i]);
}

tn_status tn_guard_open(tn_guard **out, tn_err *err)
{
    tn_guard *old = atomic_load(&the_guard);
    bool ours = old != NULL && old->pid == getpid(); /* else it is a parent's, before fork */
    if (ours)
        return tn_fail(err, TN_INTERNAL, "guard: this process already has one");
    tn_guard *g = calloc(1, sizeof *g);
    if (g == NULL || (g->stack = malloc(STACK_SIZE)) == NULL) {
        free(g);
        return tn_fail(err, TN_OS, "guard: out of memory");
    }
    g->pid = getpid();
    tn_status st = start_watchdog(g, err);
    /* Exit handlers survive a fork and cannot be taken back: a parent's does for us too. */
    if (st == TN_OK && old == NULL && atexit(on_exit_called) != 0) {
        stop_watchdog(g);
        st = tn_fail(err, TN_OS, "guard: no room for an exit handler");
    }
    if (st != TN_OK) {
        free(g->stack);
        free(g);
        return st;
    }
    atomic_store(&the_guard, g);
    take_signals(g);
    *out = g;
    return TN_OK;
}

void tn_guard_close(tn_guard *g)
{
    if (g == NULL)
        return;
    for (size_t i = 0; i < NFATAL; i++)
        sigaction(fatal[i], &g->old[i], NULL);
    sigaltstack(&g->old_stack, NULL);
    atomic_store(&the_guard, NULL);
    stop_watchdog(g);
    free(g->stack);
    free(g);
}

/* --------------------------------------------------------------------------------- visits */

void tn_guard_enter(tn_guard *g, const char *plugin, const char *phase, uint32_t seconds)
{
    if (g == NULL)
        return;
    pthread_mutex_lock(&g->lock);
    clock_gettime(CLOCK_MONOTONIC, &g->deadline);
    g->deadline.tv_sec += seconds;
    g->limited = seconds > 0;
    atomic_store(&g->phase, phase);
    atomic_store(&g->plugin, plugin);
    pthread_cond_signal(&g->changed);
    pthread_mutex_unlock(&g->lock);
}

void tn_guard_leave(tn_guard *g)
{
    if (g == NULL)
        return;
    pthread_mutex_lock(&g->lock);
    g->limited = false;
    atomic_store(&g->plugin, NULL);
    pthread_cond_signal(&g->changed);
    pthread_mutex_unlock(&g->lock);
}

void tn_guard_note(tn_guard *g, const char *plugin, uintptr_t lo, uintptr_t hi)
{
    for (uint32_t i = 0; g != NULL && i < RANGES_MAX; i++) {
        code_range *r = &g->range[i];
        if (atomic_load(&r->hi) != 0)
            continue;
        snprintf(r->plugin, sizeof r->plugin, "%s", plugin);
        atomic_store(&r->lo, lo);
        atomic_store(&r->hi, hi);
        return;
    }
}

void tn_guard_forget(tn_guard *g, const char *plugin)
{
    for (uint32_t i = 0; g != NULL && i < RANGES_MAX; i++)
        if (atomic_load(&g->range[i].hi) != 0 && strcmp(g->range[i].plugin, plugin) == 0)
            atomic_store(&g->range[i].hi, 0);
}
