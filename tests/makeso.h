/* SPDX-License-Identifier: Apache-2.0 */
/* makeso.h - tests build the plugins they need: one small C file, one compiler call.
 *
 * The compiler is $CC, else cc. Sources are found beside the tests ($srcdir, as make check
 * sets it, else where this file was compiled). */
#ifndef TN_TEST_MAKESO_H
#define TN_TEST_MAKESO_H

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* The folder of the tests' sources: $srcdir may be it or the one above. */
static const char *source_dir(void)
{
    static char dir[PATH_MAX];
    static const char *const below[] = {"", "/tests"};
    const char *srcdir = getenv("srcdir");
    for (int i = 0; i < 2; i++) {
        char probe[PATH_MAX + 32];
        snprintf(dir, sizeof dir, "%.4000s%s", srcdir ? srcdir : ".", below[i]);
        snprintf(probe, sizeof probe, "%s/badplugins/good.h", dir);
        if (access(probe, R_OK) == 0)
            return dir;
    }
    snprintf(dir, sizeof dir, "%s", __FILE__);
    char *slash = strrchr(dir, '/');
    if (slash != NULL)
        *slash = 0;
    return dir;
}

/* Runs a shell command line without output; its exit status. */
static int run_quietly(const char *command)
{
    pid_t pid = fork();
    int status = 0;
    if (pid == 0) {
        int fd = open("/dev/null", O_WRONLY);
        if (getenv("TN_TEST_LOUD") == NULL && fd >= 0) {
            dup2(fd, 1);
            dup2(fd, 2);
        }
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
        return -1;
    return WEXITSTATUS(status);
}

/* Builds DIR/NAME.so from SOURCE (relative to the tests, or absolute); flags may be "". */
static int make_so(const char *dir, const char *name, const char *source, const char *flags)
{
    static char command[4 * PATH_MAX];
    const char *cc = getenv("CC"), *tests = source_dir();
    snprintf(command, sizeof command,
             "%s -std=c11 -D_GNU_SOURCE -O1 -w -shared -fPIC -fvisibility=hidden "
             "-I%s/../include -I%s/badplugins %s%s%s -o %s/%s.so -Wl,-z,relro %s",
             cc && *cc ? cc : "cc", tests, tests, source[0] == '/' ? "" : tests,
             source[0] == '/' ? "" : "/", source, dir, name, flags);
    return run_quietly(command);
}

#endif
