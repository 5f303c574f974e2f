/* SPDX-License-Identifier: Apache-2.0 */
/* plugin_cmd.c - `tenon plugin list | info NAME | check FILE.so | new NAME`.
 *
 * list and info read files without running anything of them, except for the options that
 * info prints: those are behind pointers, and the plugin is adopted for them. */
#include "command.h"

#include "buf.h"
#include "conf.h"
#include "elffile.h"
#include "flags.h"
#include "guard.h"
#include "log.h"
#include "plugin_check.h"
#include "settings.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

#ifndef TN_CONF_FILE
#define TN_CONF_FILE "/usr/local/etc/tenon/tenon.ini"
#endif

#define FILES_MAX 512u
#define SETS_MAX 64u

static const tn_flag own[] = {
    {"config", NULL, 1, "The INI to read instead of the installed one."},
    {"run", NULL, 0, "check: also run the plugin."},
    {"set", NULL, 1, "check: KEY=VALUE, an option of the plugin; may be repeated."},
    {"launcher", NULL, 1, "check: command that starts {n} ranks of a communicator, such as "
     "'mpirun -n {n}'."},
    {"kind", NULL, 1, "new: quant, device, comm or front."},
    {"help", "-h", 0, "Prints this text."},
};
#define NOWN ((uint32_t)(sizeof own / sizeof own[0]))

static const char usage[] =
    "tenon plugin list                     plugins in plugin_path\n"
    "tenon plugin info NAME                one of them, with its options\n"
    "tenon plugin check [--run] FILE.so    does it keep the contract?\n"
    "tenon plugin new NAME --kind KIND     a C file to begin with\n";

/* The configuration and the folders it names. */
typedef struct desk {
    tn_flags *flags;
    tn_conf *conf;
    tn_settings settings;
    const char *set[SETS_MAX];
    uint32_t nset;
} desk;

static tn_status desk_open(int argc, char *const *argv, desk *d, tn_err *err)
{
    *d = (desk){.nset = 0};
    for (int i = 0; i < argc && d->nset < SETS_MAX; i++) {
        if (strncmp(argv[i], "--set=", 6) == 0)
            d->set[d->nset++] = argv[i] + 6;
        else if (strcmp(argv[i], "--set") == 0 && i + 1 < argc)
            d->set[d->nset++] = argv[++i];
    }
    tn_status st = tn_flags_parse(argc, argv, own, NOWN, NULL, 0, &d->flags, err);
    if (st != TN_OK)
        return st;
    const char *path = tn_flags_value(d->flags, "config");
    st = tn_conf_open(path ? path : TN_CONF_FILE, &d->conf, err);
    if (st == TN_NOINPUT && path == NULL)
        st = tn_conf_new(&d->conf, err);
    if (st == TN_OK)
        st = tn_flags_apply(d->flags, d->conf, err);
    return st == TN_OK ? tn_settings_open(d->conf, &d->settings, err) : st;
}

static void desk_close(desk *d)
{
    tn_settings_close(&d->settings);
    tn_conf_close(d->conf);
    tn_flags_close(d->flags);
}

/* ------------------------------------------------------------------------------------ list */

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Names of the .so files of a folder, sorted; owned by the caller. */
static uint32_t read_folder(const char *folder, char **name)
{
    DIR *d = opendir(folder);
    struct dirent *e;
    uint32_t n = 0;
    while (d != NULL && n < FILES_MAX && (e = readdir(d)) != NULL) {
        size_t size = strlen(e->d_name);
        if (size > 3 && strcmp(e->d_name + size - 3, ".so") == 0
            && (name[n] = strndup(e->d_name, size - 3)) != NULL)
            n++;
    }
    if (d != NULL)
        closedir(d);
    qsort(name, n, sizeof *name, by_text);
    return n;
}

static void put_plugin(tn_buf *out, const desk *d, const char *folder, const char *name)
{
    char path[PATH_MAX];
    tn_elf e;
    tn_err err;
    snprintf(path, sizeof path, "%s/%s.so", folder, name);
    bool named = tn_conf_origin(d->conf, TN_CONF_PLUGIN, name) != NULL;
    if (tn_elf_open(path, &e, &err) != TN_OK) {
        tn_buf_printf(out, "%-16s %-8s %-10s %s\n", name, "-", "no plugin", err.text);
        return;
    }
    tn_buf_printf(out, "%-16s %-8s %-10s contract %u.%u, %s\n", name,
                  tn_wall_kind_name(e.entry.kind), named ? "in the INI" : "", e.entry.abi_major,
                  e.entry.abi_minor, path);
    tn_elf_close(&e);
}

static tn_status list(const desk *d, tn_buf *out, tn_err *err)
{
    char **name = calloc(FILES_MAX, sizeof *name);
    if (name == NULL)
        return tn_fail(err, TN_OS, "plugin list: out of memory");
    for (uint32_t f = 0; f < d->settings.nplugin_path; f++) {
        uint32_t n = read_folder(d->settings.plugin_path[f], name);
        for (uint32_t i = 0; i < n; i++) {
            put_plugin(out, d, d->settings.plugin_path[f], name[i]);
            free(name[i]);
        }
    }
    free(name);
    if (out->len > 0)
        return TN_OK;
    return tn_fail(err, TN_NOINPUT, "plugin list: no .so file in plugin_path; expected plugins in "
                   "%.200s", d->settings.nplugin_path ? d->settings.plugin_path[0] : "a folder");
}

/* ------------------------------------------------------------------------------------ info */

static void put_guest(tn_buf *out, const tn_wall *w, const tn_guest *g)
{
    tn_flag_source source;
    tn_buf_printf(out, "%s %s (%s)\n%s\n%s\ncontract %u.%u\n", g->name, g->version,
                  tn_wall_kind_name(g->kind), g->summary, g->file, TN_ABI_MAJOR, g->abi_minor);
    if (tn_wall_flags(w, &source) == 1 && source.noption > 0)
        tn_options_help(source.options, source.noption, out);
}

static tn_status info(const desk *d, const char *name, tn_buf *out, tn_err *err)
{
    tn_wall *w = NULL;
    tn_guard *guard;
    const char *origin = tn_conf_origin(d->conf, TN_CONF_PLUGIN, name);
    const char *file = tn_conf_get(d->conf, TN_CONF_PLUGIN, name, "file", NULL);
    if (!tn_conf_is_name(TN_CONF_PLUGIN, name))
        return tn_fail(err, TN_USAGE, "plugin info: %.64s is no name of a plugin", name);
    tn_status st = tn_guard_open(&guard, err);
    if (st != TN_OK)
        return st;
    st = tn_wall_open(NULL, NULL, guard, &w, err);
    if (st == TN_OK)
        st = tn_wall_set_path(w, d->settings.plugin_path, d->settings.nplugin_path, err);
    if (st == TN_OK)
        st = tn_wall_load(w, name, file && file[0] ? file : NULL, true,
                          origin ? origin : "plugin info", err);
    if (st == TN_OK)
        put_guest(out, w, tn_wall_at(w, 0));
    tn_wall_close(w);
    tn_guard_close(guard);
    return st;
}

/* ----------------------------------------------------------------------------------- check */

/* `board`: that of the check whose rank this process is, or NULL. */
static tn_status check(const desk *d, const char *file, const char *board, tn_err *err)
{
    tn_check c = {.set = d->set, .nset = d->nset, .out = STDOUT_FILENO,
                  .launcher = tn_flags_value(d->flags, "launcher"), .program = "/proc/self/exe"};
    char program[PATH_MAX];
    char *path = realpath(file, NULL);
    if (path == NULL)
        return tn_fail(err, TN_NOINPUT, "plugin check: %.200s: %s", file, strerror(errno));
    const char *base = strrchr(path, '/') + 1;
    size_t n = strlen(base);
    tn_status st = TN_OK;
    if (n < 4 || strcmp(base + n - 3, ".so") != 0 || n - 3 >= sizeof c.name)
        st = tn_fail(err, TN_USAGE, "plugin check: %.200s; expected NAME.so", file);
    ssize_t size = readlink("/proc/self/exe", program, sizeof program - 1);
    if (size > 0) {
        program[size] = 0;
        c.program = program;
    }
    c.file = path;
    if (st == TN_OK)
        memcpy(c.name, base, n - 3);
    if (st == TN_OK && board != NULL)
        st = tn_check_rank(&c, board, err);
    else if (st == TN_OK) {
        bool good = tn_check_plugin(&c, tn_flags_value(d->flags, "run") != NULL);
        if (!good)
            st = tn_fail(err, TN_UNAVAILABLE, "plugin %s: %u checks failed, %u passed, %u skipped",
                         c.name, c.nfail, c.nok, c.nskip);
    }
    free(path);
    return st;
}

/* --------------------------------------------------------------------------------- command */

static tn_status begin_new(const desk *d, const char *name, tn_buf *out, tn_err *err)
{
    const char *kind = tn_flags_value(d->flags, "kind");
    if (kind == NULL)
        return tn_fail(err, TN_USAGE, "plugin new: no --kind; expected quant, device, comm or "
                       "front");
    tn_status st = tn_plugin_new(name, kind, err);
    if (st == TN_OK)
        tn_buf_printf(out, "%s.c is written. To build and check it:\n"
                      "  cc -std=c11 -O2 -shared -fPIC -fvisibility=hidden $(pkg-config --cflags "
                      "tenon) -Wl,-z,defs -Wl,-z,relro %s.c -o %s.so\n"
                      "  tenon plugin check --run %s.so\n", name, name, name, name);
    return st;
}

static tn_status dispatch(const desk *d, tn_buf *out, tn_err *err)
{
    const tn_flags *f = d->flags;
    const char *word = f->nword > 0 ? f->word[0] : "";
    bool is_list = strcmp(word, "list") == 0;
    if (tn_flags_value(f, "help") != NULL) {
        tn_buf_puts(out, usage);
        return TN_OK;
    }
    if (f->nword == 3 && strcmp(word, "rank") == 0)
        return check(d, f->word[1], f->word[2], err); /* what check starts through a launcher */
    if (f->nword != (is_list ? 1u : 2u))
        return tn_fail(err, TN_USAGE, "plugin: expected list, info NAME, check FILE.so or "
                       "new NAME --kind KIND");
    if (is_list)
        return list(d, out, err);
    if (strcmp(word, "info") == 0)
        return info(d, f->word[1], out, err);
    if (strcmp(word, "check") == 0)
        return check(d, f->word[1], NULL, err);
    if (strcmp(word, "new") == 0)
        return begin_new(d, f->word[1], out, err);
    return tn_fail(err, TN_USAGE, "plugin: unknown word %.64s; expected list, info, check or new",
                   word);
}

int tn_cmd_plugin(int argc, char *const *argv)
{
    desk d;
    tn_buf out;
    tn_err err = {.text = ""};
    tn_buf_open(&out, 1 << 20);
    tn_status st = desk_open(argc, argv, &d, &err);
    if (st == TN_OK)
        st = dispatch(&d, &out, &err);
    if (st == TN_OK && out.len > 0)
        st = tn_command_print(out.data, out.len, &err);
    tn_buf_close(&out);
    desk_close(&d);
    return st == TN_OK ? 0 : tn_command_fail(st, &err);
}
