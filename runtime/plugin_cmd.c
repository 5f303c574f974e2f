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
    {"ranks", NULL, 1, "bench: how many; 2 unless said."},
    {"device", NULL, 1, "check, bench: the file of a device plugin, for communicators that work on its memory."},
    {"cards", NULL, 1, "with --device: over how many cards ranks are spread; 1 unless said."},
    {"launcher", NULL, 1, "check, bench: command that starts {n} ranks of a communicator, such as "
     "'mpirun -n {n}'."},
    {"kind", NULL, 1, "new: quant, device, comm or front."},
    {"help", "-h", 0, "Prints this text."},
};
#define NOWN ((uint32_t)(sizeof own / sizeof own[0]))

static const char usage[] =
    "tenon plugin list                     plugins in plugin_path\n"
    "tenon plugin info NAME                one of them, with its options\n"
    "tenon plugin check [--run] FILE.so    does it keep the contract?\n"
    "tenon plugin bench FILE.so            how long does a communicator take?\n"
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

/* What check, bench and rank need to know. The strings are freed by bench_close. */
typedef struct bench {
    tn_check c;
    char *file, *device, *program;
} bench;

static void bench_close(bench *b)
{
    free(b->file);
    free(b->device);
    free(b->program);
}

static tn_status number_of(const desk *d, const char *key, uint32_t fallback, uint32_t *out,
                           tn_err *err)
{
    const char *text = tn_flags_value(d->flags, key);
    char *end;
    *out = fallback;
    if (text == NULL)
        return TN_OK;
    unsigned long n = strtoul(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != 0 || n == 0 || n > 1024)
        return tn_fail(err, TN_USAGE, "plugin: --%s %.64s; expected a number from 1 on", key, text);
    *out = (uint32_t)n;
    return TN_OK;
}

static tn_status bench_open(const desk *d, const char *file, bench *b, tn_err *err)
{
    const char *device = tn_flags_value(d->flags, "device");
    *b = (bench){.c = {.set = d->set, .nset = d->nset, .out = STDOUT_FILENO,
                       .launcher = tn_flags_value(d->flags, "launcher")}};
    b->file = realpath(file, NULL);
    if (b->file == NULL)
        return tn_fail(err, TN_NOINPUT, "plugin: %.200s: %s", file, strerror(errno));
    if (device != NULL && (b->device = realpath(device, NULL)) == NULL)
        return tn_fail(err, TN_NOINPUT, "plugin: --device %.200s: %s", device, strerror(errno));
    b->program = realpath("/proc/self/exe", NULL);
    if (b->program == NULL)
        return tn_fail(err, TN_OS, "plugin: /proc/self/exe: %s", strerror(errno));
    b->c.file = b->file;
    b->c.device = b->device;
    b->c.program = b->program;
    const char *base = strrchr(b->file, '/') + 1;
    size_t n = strlen(base);
    if (n < 4 || strcmp(base + n - 3, ".so") != 0 || n - 3 >= sizeof b->c.name)
        return tn_fail(err, TN_USAGE, "plugin: %.200s; expected NAME.so", file);
    memcpy(b->c.name, base, n - 3);
    return number_of(d, "cards", 1, &b->c.ncard, err);
}

static tn_status check(const desk *d, const char *file, tn_err *err)
{
    bench b;
    tn_status st = bench_open(d, file, &b, err);
    if (st == TN_OK && !tn_check_plugin(&b.c, tn_flags_value(d->flags, "run") != NULL))
        st = tn_fail(err, TN_UNAVAILABLE, "plugin %s: %u checks failed, %u passed, %u skipped",
                     b.c.name, b.c.nfail, b.c.nok, b.c.nskip);
    bench_close(&b);
    return st;
}

static tn_status measure(const desk *d, const char *file, tn_err *err)
{
    bench b;
    uint32_t n = 0;
    tn_status st = bench_open(d, file, &b, err);
    if (st == TN_OK)
        st = number_of(d, "ranks", 2, &n, err);
    if (st == TN_OK)
        st = tn_check_times(&b.c, n, err);
    bench_close(&b);
    return st;
}

/* What check and bench start through a launcher. */
static tn_status be_rank(const desk *d, const char *file, const char *board, tn_err *err)
{
    bench b;
    tn_status st = bench_open(d, file, &b, err);
    if (st == TN_OK)
        st = tn_check_rank(&b.c, board, err);
    bench_close(&b);
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
        return be_rank(d, f->word[1], f->word[2], err);
    if (f->nword != (is_list ? 1u : 2u))
        return tn_fail(err, TN_USAGE, "plugin: expected list, info NAME, check FILE.so, bench "
                       "FILE.so or new NAME --kind KIND");
    if (is_list)
        return list(d, out, err);
    if (strcmp(word, "info") == 0)
        return info(d, f->word[1], out, err);
    if (strcmp(word, "check") == 0)
        return check(d, f->word[1], err);
    if (strcmp(word, "bench") == 0)
        return measure(d, f->word[1], err);
    if (strcmp(word, "new") == 0)
        return begin_new(d, f->word[1], out, err);
    return tn_fail(err, TN_USAGE, "plugin: unknown word %.64s; expected list, info, check, bench or "
                   "new",
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
