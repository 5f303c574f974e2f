/* SPDX-License-Identifier: Apache-2.0 */
/* wall_load.c - finds a plugin's file, reads it, opens it.
 *
 * dlopen is only ever given an absolute path, so neither the working directory nor
 * LD_LIBRARY_PATH decides what runs, and only after the file itself has passed. */
#include "wall_guest.h"

#include "guard.h"
#include "nearest.h"
#include "plain.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <link.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* -------------------------------------------------------------------------- finding a file */

static bool has_dots(const char *path)
{
    for (const char *s = path; (s = strstr(s, "..")) != NULL; s += 2)
        if ((s == path || s[-1] == '/') && (s[2] == '/' || s[2] == 0))
            return true;
    return false;
}

/* The real path of `file`, owned by the caller. */
static tn_status resolve(const char *file, const char *origin, char **out, tn_err *err)
{
    struct stat s;
    char shown[256];
    snprintf(shown, sizeof shown, "%.250s", file);
    tn_plain_make(shown, sizeof shown);
    if (file[0] != '/' || has_dots(file))
        return tn_fail(err, TN_CONFIG, "%s: plugin file %s; expected an absolute path without ..",
                       origin, shown);
    char *real = realpath(file, NULL);
    if (real == NULL)
        return tn_fail(err, TN_CONFIG, "%s: plugin file %s: %s", origin, shown, strerror(errno));
    if (stat(real, &s) != 0 || !S_ISREG(s.st_mode)) {
        free(real);
        return tn_fail(err, TN_CONFIG, "%s: plugin file %s is no regular file", origin, shown);
    }
    *out = real;
    return TN_OK;
}

static void try_folder(tn_nearest *near, const char *folder, char *best, size_t size)
{
    DIR *d = opendir(folder);
    struct dirent *e;
    for (uint32_t i = 0; d != NULL && i < 4096 && (e = readdir(d)) != NULL; i++) {
        char name[64];
        size_t n = strlen(e->d_name);
        if (n < 4 || n >= sizeof name || strcmp(e->d_name + n - 3, ".so") != 0)
            continue;
        memcpy(name, e->d_name, n - 3);
        name[n - 3] = 0;
        near->best = NULL;
        tn_nearest_try(near, name);
        if (near->best != NULL)
            snprintf(best, size, "%s", name);
    }
    if (d != NULL)
        closedir(d);
}

static tn_status say_missing(const tn_wall *w, const char *name, const char *origin, tn_err *err)
{
    char best[64] = "", folders[512] = "";
    tn_nearest near;
    tn_nearest_open(&near, name);
    for (uint32_t i = 0; i < w->nfolder; i++) {
        size_t n = strlen(folders);
        snprintf(folders + n, sizeof folders - n, "%s%.200s", n ? ", " : "", w->folder[i]);
        try_folder(&near, w->folder[i], best, sizeof best);
    }
    tn_plain_make(best, sizeof best);
    return tn_fail(err, TN_CONFIG, "%s: no %s.so in plugin_path (%s)%s%s", origin, name,
                   folders[0] ? folders : "empty", best[0] ? "; nearest: " : "", best);
}

static tn_status find_file(const tn_wall *w, const char *name, const char *origin, char **out,
                           tn_err *err)
{
    char path[PATH_MAX];
    for (uint32_t i = 0; i < w->nfolder; i++) {
        int n = snprintf(path, sizeof path, "%s/%s.so", w->folder[i], name);
        if (n > 0 && (size_t)n < sizeof path && access(path, F_OK) == 0)
            return resolve(path, origin, out, err);
    }
    return say_missing(w, name, origin, err);
}

/* ----------------------------------------------------------------------------- opening it */

static tn_status check_same_file(const guest *g, const char *origin, tn_err *err)
{
    const tn_wall *w = g->wall;
    for (uint32_t i = 0; i < w->n; i++)
        if (w->guest[i]->handle != NULL && w->guest[i]->dev == g->dev
            && w->guest[i]->ino == g->ino)
            return tn_fail(err, TN_CONFIG, "%s: plugin file %s is loaded already, as %s from %s",
                           origin, g->file, w->guest[i]->name, w->guest[i]->file);
    return TN_OK;
}

/* A library built for the address sanitizer ends a process that is not. */
static tn_status check_sanitizer(const guest *g, const tn_elf *elf, tn_err *err)
{
    if (!elf->asan || dlsym(RTLD_DEFAULT, "__asan_init") != NULL)
        return TN_OK;
    return tn_fail(err, TN_UNAVAILABLE, "plugin %s: built with -fsanitize=address; expected it "
                   "without, as the core is", g->file);
}

typedef struct code_search {
    guest *g;
    uintptr_t entry;
} code_search;

static int note_code(struct dl_phdr_info *info, size_t size, void *user)
{
    const code_search *s = user;
    bool ours = false;
    (void)size;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        uintptr_t at = info->dlpi_addr + p->p_vaddr;
        ours = ours || (p->p_type == PT_LOAD && s->entry >= at && s->entry < at + p->p_memsz);
    }
    for (int i = 0; ours && i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        uintptr_t at = info->dlpi_addr + p->p_vaddr;
        if (p->p_type == PT_LOAD && (p->p_flags & PF_X))
            tn_guard_note(s->g->wall->guard, s->g->name, at, at + p->p_memsz);
    }
    return ours;
}

static tn_status open_library(guest *g, const tn_elf *elf, tn_err *err)
{
    visit *v;
    tn_status st = tn_visit_open(g->wall, g->name, "loading", g->wall->patience, &v, err);
    if (st != TN_OK)
        return st;
    g->handle = dlopen(g->file, RTLD_NOW | RTLD_LOCAL);
    if (g->handle == NULL) {
        const char *why = dlerror();
        snprintf(tn_visit_err(v)->text, sizeof tn_visit_err(v)->text, "%s",
                 why ? why : "dlopen failed");
    }
    st = tn_visit_close(v, g->handle ? TN_OK : TN_UNAVAILABLE, err);
    if (st != TN_OK)
        return st;
    const tn_plugin *entry = dlsym(g->handle, "tn_plugin_entry");
    if (entry == NULL)
        return tn_fail(err, TN_UNAVAILABLE, "plugin %s: tn_plugin_entry is gone", g->file);
    code_search s = {.g = g, .entry = (uintptr_t)entry};
    dl_iterate_phdr(note_code, &s);
    return tn_wall_adopt(g, entry, elf, err);
}

tn_status tn_guest_new(tn_wall *w, const char *name, bool required, guest **out, tn_err *err)
{
    guest *g = calloc(1, sizeof *g);
    if (g == NULL || (g->name = strdup(name)) == NULL || (g->file = strdup("")) == NULL) {
        if (g != NULL)
            free(g->name);
        free(g);
        return tn_fail(err, TN_OS, "plugins: out of memory");
    }
    pthread_mutex_init(&g->lock, NULL);
    g->wall = w;
    g->required = required;
    g->pub.name = g->name;
    g->pub.file = g->file;
    g->pub.version = g->pub.summary = "";
    *out = g;
    return TN_OK;
}

static void close_library(guest *g)
{
    if (g->handle == NULL)
        return;
    tn_guard_enter(g->wall->guard, g->name, "unloading", g->wall->patience);
    dlclose(g->handle);
    tn_guard_leave(g->wall->guard);
    tn_guard_forget(g->wall->guard, g->name);
    g->handle = NULL;
}

tn_status tn_guest_load(guest *g, const char *file, const char *origin, tn_err *err)
{
    char *real;
    tn_elf elf;
    tn_status st = file ? resolve(file, origin, &real, err)
                        : find_file(g->wall, g->name, origin, &real, err);
    if (st != TN_OK)
        return st;
    free(g->file);
    g->file = real;
    g->pub.file = real;
    st = tn_elf_open(real, &elf, err);
    if (st != TN_OK)
        return st;
    g->dev = elf.dev;
    g->ino = elf.ino;
    st = check_same_file(g, origin, err);
    if (st == TN_OK)
        st = tn_wall_adopt_file(g, &elf, err);
    if (st == TN_OK)
        st = check_sanitizer(g, &elf, err);
    if (st == TN_OK)
        st = open_library(g, &elf, err);
    tn_elf_close(&elf);
    if (st != TN_OK) {
        close_library(g);
        tn_wall_disown(g);
        return st;
    }
    tn_wall_lend(g);
    return TN_OK;
}

void tn_guest_drop(guest *g)
{
    tn_values_close(g->values); /* borrows from the library */
    close_library(g);
    tn_wall_disown(g);
    tn_wall_reclaim(g);
    pthread_mutex_destroy(&g->lock);
    free(g->name);
    free(g->file);
    free(g->away);
    free(g);
}
