/* SPDX-License-Identifier: Apache-2.0 */
/* manners.c - has a plugin's call changed what belongs to the whole process? */
#include "manners.h"

#include <fenv.h>
#include <limits.h>
#include <locale.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define FDS_MAX 1024
#define SIGNALS 65
#define LOCALE_MAX_BYTES 1024

typedef struct open_file {
    dev_t dev;
    ino_t ino;
    bool open;
} open_file;

struct tn_manners {
    char locale[LOCALE_MAX_BYTES];
    char cwd[PATH_MAX];
    mode_t umask;
    int rounding;
    uint32_t float_mode;
    bool has_signal[SIGNALS];
    struct sigaction signal[SIGNALS];
    sigset_t mask;
    open_file file[FDS_MAX];
};

/* The bits that decide about rounding, traps and tiny numbers, without the sticky flags. */
static uint32_t float_mode(void)
{
#if defined(__x86_64__)
    return __builtin_ia32_stmxcsr() & ~0x3fu;
#elif defined(__aarch64__)
    uint64_t v;
    __asm__ volatile("mrs %0, fpcr" : "=r"(v));
    return (uint32_t)v;
#else
    return (uint32_t)fegetround();
#endif
}

static void set_float_mode(uint32_t mode)
{
#if defined(__x86_64__)
    __builtin_ia32_ldmxcsr(mode);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)mode));
#else
    (void)mode;
#endif
}

static mode_t current_umask(void)
{
    mode_t m = umask(022);
    umask(m);
    return m;
}

static void current_locale(char *out)
{
    const char *l = setlocale(LC_ALL, NULL);
    snprintf(out, LOCALE_MAX_BYTES, "%s", l ? l : "C");
}

static void current_cwd(char *out)
{
    if (getcwd(out, PATH_MAX) == NULL) /* deleted or unreadable: both times the same */
        out[0] = 0;
}

static open_file file_at(int fd)
{
    struct stat s;
    if (fstat(fd, &s) != 0)
        return (open_file){.open = false};
    return (open_file){.dev = s.st_dev, .ino = s.st_ino, .open = true};
}

void tn_manners_note(tn_manners *m, bool files)
{
    current_locale(m->locale);
    current_cwd(m->cwd);
    m->umask = current_umask();
    m->rounding = fegetround();
    m->float_mode = float_mode();
    for (int i = 1; i < SIGNALS; i++)
        m->has_signal[i] = sigaction(i, NULL, &m->signal[i]) == 0;
    pthread_sigmask(SIG_SETMASK, NULL, &m->mask);
    for (int i = 0; i < FDS_MAX; i++)
        m->file[i] = files ? file_at(i) : (open_file){.open = false};
}

static bool locale_kept(const tn_manners *m, char *what, size_t size)
{
    char now[LOCALE_MAX_BYTES];
    current_locale(now);
    if (strcmp(now, m->locale) == 0)
        return true;
    setlocale(LC_ALL, m->locale);
    snprintf(what, size, "changed the locale from %.60s to %.60s", m->locale, now);
    return false;
}

static bool cwd_kept(const tn_manners *m, char *what, size_t size)
{
    char now[PATH_MAX];
    current_cwd(now);
    if (strcmp(now, m->cwd) == 0)
        return true;
    int back = m->cwd[0] != 0 ? chdir(m->cwd) : 0;
    snprintf(what, size, "changed the working directory%s",
             back == 0 ? "" : " and left no way back");
    return false;
}

static bool modes_kept(const tn_manners *m, char *what, size_t size)
{
    mode_t mask = current_umask();
    if (mask != m->umask) {
        umask(m->umask);
        snprintf(what, size, "changed the umask from %03o to %03o", (unsigned)m->umask,
                 (unsigned)mask);
        return false;
    }
    if (fegetround() != m->rounding) {
        fesetround(m->rounding);
        set_float_mode(m->float_mode);
        snprintf(what, size, "changed the rounding mode");
        return false;
    }
    if (float_mode() != m->float_mode) {
        set_float_mode(m->float_mode);
        snprintf(what, size, "changed the floating-point mode (linked with -ffast-math?)");
        return false;
    }
    return true;
}

static bool same_handler(const struct sigaction *a, const struct sigaction *b)
{
    if ((a->sa_flags & SA_SIGINFO) != (b->sa_flags & SA_SIGINFO))
        return false;
    return (a->sa_flags & SA_SIGINFO) ? a->sa_sigaction == b->sa_sigaction
                                      : a->sa_handler == b->sa_handler;
}

static bool signals_kept(const tn_manners *m, char *what, size_t size)
{
    struct sigaction now;
    sigset_t mask;
    int changed = 0;
    for (int i = 1; i < SIGNALS; i++)
        if (m->has_signal[i] && sigaction(i, NULL, &now) == 0
            && !same_handler(&now, &m->signal[i])) {
            sigaction(i, &m->signal[i], NULL);
            if (changed == 0)
                changed = i;
        }
    if (changed != 0) {
        snprintf(what, size, "changed the handler of signal %d", changed);
        return false;
    }
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    for (int i = 1; i < SIGNALS; i++)
        if (sigismember(&mask, i) != sigismember(&m->mask, i)) {
            pthread_sigmask(SIG_SETMASK, &m->mask, NULL);
            snprintf(what, size, "changed the signal mask (signal %d)", i);
            return false;
        }
    return true;
}

static bool files_kept(const tn_manners *m, char *what, size_t size)
{
    for (int i = 0; i < FDS_MAX; i++) {
        if (!m->file[i].open)
            continue;
        open_file now = file_at(i);
        if (!now.open || now.dev != m->file[i].dev || now.ino != m->file[i].ino) {
            snprintf(what, size, "%s file descriptor %d that is not its own",
                     now.open ? "replaced" : "closed", i);
            return false;
        }
    }
    return true;
}

bool tn_manners_kept(tn_manners *m, char *what, size_t size)
{
    /* From the last to the first, so that all is put back and the first one is told. */
    bool kept = files_kept(m, what, size);
    kept = signals_kept(m, what, size) && kept;
    kept = modes_kept(m, what, size) && kept;
    kept = cwd_kept(m, what, size) && kept;
    return locale_kept(m, what, size) && kept;
}

tn_status tn_manners_open(tn_manners **out, tn_err *err)
{
    tn_manners *m = calloc(1, sizeof *m);
    if (m == NULL)
        return tn_fail(err, TN_OS, "plugins: out of memory");
    *out = m;
    return TN_OK;
}

void tn_manners_close(tn_manners *m)
{
    free(m);
}
