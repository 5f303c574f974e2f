/* SPDX-License-Identifier: Apache-2.0 */
/* main.c - `tenon COMMAND ...`. */
#include "command.h"
#include "nearest.h"
#include "plain.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef struct command {
    const char *name;
    int (*run)(int argc, char *const *argv);
    const char *help;
} command;

static const command commands[] = {
    {"serve", tn_cmd_serve, "Serves models to OpenAI clients."},
    {"chat", tn_cmd_chat, "Talks to a model on the terminal."},
    {"complete", tn_cmd_complete, "Completes one prompt."},
    {"eval", tn_cmd_eval, "Measures how well a model predicts a text."},
    {"bench", tn_cmd_bench, "Measures latency or throughput."},
    {"import", tn_cmd_import, "Turns a GGUF file into a model folder."},
    {"quantize", tn_cmd_quantize, "Writes a model in a quantization's format."},
    {"session", tn_cmd_session, "Prints what a saved conversation holds."},
    {"plan", tn_cmd_plan, "Says whether a model fits, and how much of it."},
    {"doctor", tn_cmd_doctor, "Looks at plugins and devices: do they work here?"},
    {"plugin", tn_cmd_plugin, "Lists, checks and begins plugins."},
};
#define NCOMMAND (sizeof commands / sizeof *commands)

static int finish(FILE *to)
{
    if (fflush(to) == 0 && !ferror(to))
        return 0;
    fprintf(stderr, "tenon: standard output: %s\n", strerror(errno));
    return TN_IO;
}

static int print_usage(FILE *to)
{
    fputs("tenon COMMAND [ARGUMENTS]\n\n", to);
    for (size_t i = 0; i < NCOMMAND; i++)
        fprintf(to, "  %-10s %s\n", commands[i].name, commands[i].help);
    fputs("\n`tenon COMMAND --help` lists the flags of one; `tenon --version` prints the "
          "version.\n", to);
    return finish(to);
}

static int unknown_command(const char *given)
{
    char name[65];
    tn_nearest n;
    snprintf(name, sizeof name, "%s", given);
    tn_plain_make(name, sizeof name); /* it goes to a terminal */
    tn_nearest_open(&n, name);
    for (size_t i = 0; i < NCOMMAND; i++)
        tn_nearest_try(&n, commands[i].name);
    const char *near = n.best;
    fprintf(stderr, "tenon: unknown command \"%s\"%s%s%s\n", name,
            near != NULL ? "; did you mean " : "; `tenon --help` lists them",
            near != NULL ? near : "", near != NULL ? "?" : "");
    return TN_USAGE;
}

/* A process that was started without standard files would give their numbers to its sockets,
 * and write its log into them. */
static void fill_standard_files(void)
{
    int fd;
    do
        fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0)
        close(fd);
}

int main(int argc, char **argv)
{
    fill_standard_files();
    signal(SIGPIPE, SIG_IGN); /* a closed pipe is a write error, not a death */
    signal(SIGXFSZ, SIG_IGN); /* and so is a limit on the size of files */
    if (argc < 2) {
        print_usage(stderr);
        return TN_USAGE;
    }
    const char *name = argv[1];
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0)
        return print_usage(stdout);
    if (strcmp(name, "--version") == 0 || strcmp(name, "version") == 0) {
        printf("tenon %s\n", TN_VERSION);
        return finish(stdout);
    }
    for (size_t i = 0; i < NCOMMAND; i++)
        if (strcmp(name, commands[i].name) == 0)
            return commands[i].run(argc - 2, argv + 2);
    return unknown_command(name);
}
