/* SPDX-License-Identifier: Apache-2.0 */
/* wall.c - the plugin host: who is loaded, and in which state of life. */
#include "wall_guest.h"

#include "buf.h"
#include "conf.h"
#include "flags.h"
#include "guard.h"
#include "log.h"

#include <stdlib.h>

#define PATIENCE 30u

/* ------------------------------------------------------------------------- open and close */

tn_status tn_wall_open(struct tn_log *log, struct tn_metrics *metrics, struct tn_guard *guard,
                       tn_wall **out, tn_err *err)
{
    tn_wall *w = calloc(1, sizeof *w);
    if (w != NULL) {
        w->guest = calloc(TN_CONF_PLUGINS_MAX, sizeof(struct guest *));
        w->order = calloc(TN_CONF_PLUGINS_MAX, sizeof(struct guest *));
    }
    if (w == NULL || w->guest == NULL || w->order == NULL) {
        if (w != NULL) {
            free(w->guest);
            free(w->order);
        }
        free(w);
        return tn_fail(err, TN_OS, "plugins: out of memory");
    }
    w->log = log;
    w->metrics = metrics;
    w->guard = guard;
    w->patience = PATIENCE;
    *out = w;
    return TN_OK;
}

static void free_path(tn_wall *w)
{
    for (uint32_t i = 0; i < w->nfolder; i++)
        free(w->folder[i]);
    free(w->folder);
    w->folder = NULL;
    w->nfolder = 0;
}

void tn_wall_close(tn_wall *w)
{
    if (w == NULL)
        return;
    tn_wall_stop(w, 0);
    while (w->n > 0)
        tn_guest_drop(w->guest[--w->n]);
    free_path(w);
    free(w->guest);
    free(w->order);
    free(w);
}

void tn_wall_set_patience(tn_wall *w, uint32_t seconds)
{
    w->patience = seconds;
}

void tn_wall_set_front(tn_wall *w, const tn_front_host *front, void *user)
{
    w->front = front;
    w->user = user;
    for (uint32_t i = 0; i < w->n; i++)
        if (w->guest[i]->pub.kind == TN_KIND_FRONT)
            w->guest[i]->host.front = front;
}

tn_status tn_wall_set_path(tn_wall *w, char *const *folder, uint32_t n, tn_err *err)
{
    free_path(w);
    w->folder = calloc(n ? n : 1, sizeof *w->folder);
    for (uint32_t i = 0; w->folder != NULL && i < n; i++) {
        w->folder[i] = strdup(folder[i]);
        if (w->folder[i] == NULL)
            break;
        w->nfolder++;
    }
    return w->nfolder == n ? TN_OK : tn_fail(err, TN_OS, "plugins: out of memory");
}

/* --------------------------------------------------------------------------------- loading */

static tn_status check_twice(const tn_wall *w, const char *name, const char *origin,
                             tn_err *err)
{
    if (w->n == TN_CONF_PLUGINS_MAX)
        return tn_fail(err, TN_CONFIG, "%s: one plugin too many; expected at most %u", origin,
                       TN_CONF_PLUGINS_MAX);
    for (uint32_t i = 0; i < w->n; i++)
        if (strcmp(w->guest[i]->name, name) == 0)
            return tn_fail(err, TN_CONFIG, "%s: plugin %s is loaded already, from %s", origin,
                           name, w->guest[i]->file);
    return TN_OK;
}

void tn_wall_set_lenient(tn_wall *w)
{
    w->lenient = true;
}

static bool may_spare(const tn_wall *w, const guest *g, tn_status st)
{
    return (!g->required || w->lenient) && st != TN_OS;
}

static void set_aside(tn_wall *w, guest *g, tn_status st, const tn_err *why)
{
    g->away = strdup(why->text);
    g->pub.away = g->away ? g->away : "out of memory";
    g->pub.fault = st;
    tn_log_put(w->log, TN_LOG_WARN, "core", NULL, "plugin %s set aside: %s", g->name,
               why->text);
}

tn_status tn_wall_load(tn_wall *w, const char *name, const char *file, bool required,
                       const char *origin, tn_err *err)
{
    guest *g = NULL;
    tn_err why;
    tn_status st = check_twice(w, name, origin, err);
    if (st == TN_OK)
        st = tn_guest_new(w, name, required, &g, err);
    if (st != TN_OK)
        return st;
    st = tn_guest_load(g, file, origin, &why);
    if (st != TN_OK && !may_spare(w, g, st)) {
        tn_guest_drop(g);
        if (err != NULL)
            *err = why;
        return st;
    }
    if (st != TN_OK)
        set_aside(w, g, st, &why);
    w->guest[w->n++] = g;
    return TN_OK;
}

static const tn_option host_keys[] = {
    {.size = sizeof(tn_option), .type = TN_OPT_PATH, .key = "file", .fallback = "",
     .help = "The plugin's file, an absolute path; empty: NAME.so from plugin_path."},
    {.size = sizeof(tn_option), .type = TN_OPT_BOOL, .key = "required", .fallback = "yes",
     .help = "no: go on without the plugin where it cannot work."},
};
#define NHOST_KEYS ((uint32_t)(sizeof host_keys / sizeof host_keys[0]))

/* The section's values: the host's own keys first, then the plugin's once it is known. */
static tn_status read_values(const guest *g, const char *name, const tn_conf *c, tn_values **out,
                             tn_err *err)
{
    char section[64];
    tn_values *v;
    snprintf(section, sizeof section, "plugin %s", name);
    tn_status st = tn_values_open(section, &v, err);
    if (st != TN_OK)
        return st;
    st = tn_values_add(v, host_keys, NHOST_KEYS, err);
    if (st == TN_OK && g != NULL)
        st = tn_values_add(v, g->options, g->plugin.noption, err);
    /* Of a plugin that was set aside the keys are unknown, not wrong. */
    if (st == TN_OK)
        st = tn_conf_fill(c, TN_CONF_PLUGIN, name, g == NULL || g->away != NULL, v, err);
    if (st != TN_OK) {
        tn_values_close(v);
        return st;
    }
    *out = v;
    return TN_OK;
}

static tn_status load_section(tn_wall *w, const tn_conf *c, const char *name, tn_err *err)
{
    tn_values *v;
    tn_status st = read_values(NULL, name, c, &v, err);
    if (st != TN_OK)
        return st;
    const tn_value *file = tn_values_find(v, "file");
    st = tn_wall_load(w, name, file->text[0] ? file->text : NULL,
                      tn_values_find(v, "required")->i != 0,
                      file->origin ? file->origin : tn_conf_origin(c, TN_CONF_PLUGIN, name),
                      err);
    tn_values_close(v);
    return st;
}

tn_status tn_wall_load_all(tn_wall *w, const tn_conf *c, tn_err *err)
{
    tn_status st = TN_OK;
    uint32_t n = tn_conf_count(c, TN_CONF_PLUGIN);
    for (uint32_t i = 0; st == TN_OK && i < n; i++)
        st = load_section(w, c, tn_conf_name(c, TN_CONF_PLUGIN, i), err);
    return st;
}

tn_status tn_wall_check(const tn_wall *w, const tn_conf *c, tn_err *err)
{
    const char *name;
    for (uint32_t i = 0; (name = tn_conf_name(c, TN_CONF_PLUGIN, i)) != NULL; i++) {
        const guest *g = NULL;
        tn_values *v;
        for (uint32_t k = 0; k < w->n; k++)
            if (strcmp(w->guest[k]->name, name) == 0)
                g = w->guest[k];
        tn_status st = read_values(g, name, c, &v, err);
        if (st != TN_OK)
            return st;
        tn_values_close(v);
    }
    return TN_OK;
}

tn_status tn_wall_configure(tn_wall *w, const tn_conf *c, tn_err *err)
{
    for (uint32_t i = 0; i < w->n; i++) {
        guest *g = w->guest[i];
        tn_values *v;
        tn_status st = read_values(g, g->name, c, &v, err);
        if (st != TN_OK)
            return st;
        tn_values_close(g->values);
        g->values = v;
    }
    return TN_OK;
}

/* ------------------------------------------------------------------------------------ life */

/* A plugin that was never configured has its defaults. */
static tn_status ensure_values(guest *g, tn_err *err)
{
    tn_conf *empty;
    if (g->values != NULL)
        return TN_OK;
    tn_status st = tn_conf_new(&empty, err);
    if (st != TN_OK)
        return st;
    st = read_values(g, g->name, empty, &g->values, err);
    tn_conf_close(empty);
    return st;
}

static tn_status probe_one(tn_wall *w, guest *g, tn_err *err)
{
    visit *v;
    if (g->plugin.probe == NULL)
        return TN_OK;
    tn_status st = tn_visit_open(w, g->name, "probe", w->patience, &v, err);
    if (st != TN_OK)
        return st;
    st = g->plugin.probe(&g->host, tn_visit_err(v));
    return tn_visit_close(v, st, err);
}

static tn_status init_one(tn_wall *w, guest *g, tn_err *err)
{
    visit *v;
    void *self = NULL;
    tn_status st = tn_visit_open(w, g->name, "init", w->patience, &v, err);
    if (st != TN_OK)
        return st;
    tn_status answer = g->plugin.init(&g->host, &self, tn_visit_err(v));
    if (answer == TN_OK) { /* stop is owed from here on, even if the visit went badly */
        g->pub.self = self;
        g->pub.up = true;
        w->order[w->norder++] = g;
    }
    return tn_visit_close(v, answer, err);
}

static tn_status bring_up(tn_wall *w, guest *g, tn_err *err)
{
    tn_err why;
    tn_status st = ensure_values(g, err);
    if (st != TN_OK)
        return st;
    st = probe_one(w, g, &why);
    bool spare = st != TN_OK && may_spare(w, g, st);
    if (st == TN_OK) {
        st = init_one(w, g, &why);
        spare = st != TN_OK && w->lenient;
    }
    if (spare)
        set_aside(w, g, st, &why);
    else if (st != TN_OK && err != NULL)
        *err = why;
    return spare ? TN_OK : st;
}

tn_status tn_wall_init_kind(tn_wall *w, uint32_t kind, tn_err *err)
{
    tn_status st = TN_OK;
    for (uint32_t i = 0; st == TN_OK && i < w->n; i++) {
        guest *g = w->guest[i];
        if (!g->pub.up && g->pub.away == NULL && (kind == 0 || g->pub.kind == kind))
            st = bring_up(w, g, err);
    }
    return st;
}

tn_status tn_wall_init(tn_wall *w, tn_err *err)
{
    return tn_wall_init_kind(w, 0, err);
}

static tn_status start_one(tn_wall *w, guest *g, tn_err *err)
{
    visit *v;
    if (g->plugin.start == NULL) { /* nothing to do: it is live */
        g->pub.live = true;
        return TN_OK;
    }
    tn_status st = tn_visit_open(w, g->name, "start", w->patience, &v, err);
    if (st != TN_OK)
        return st;
    st = tn_visit_close(v, g->plugin.start(g->pub.self, tn_visit_err(v)), err);
    g->pub.live = st == TN_OK;
    return st;
}

tn_status tn_wall_start(tn_wall *w, uint32_t kind, tn_err *err)
{
    tn_status st = TN_OK;
    for (int fronts = 0; fronts < 2; fronts++)
        for (uint32_t i = 0; st == TN_OK && i < w->norder; i++) {
            guest *g = w->order[i];
            bool is_front = g->pub.kind == TN_KIND_FRONT;
            if (g->pub.live || g->pub.away != NULL || is_front != (fronts == 1) ||
                (kind != 0 && g->pub.kind != kind))
                continue;
            st = start_one(w, g, err);
        }
    return st;
}

static tn_status drain_one(tn_wall *w, guest *g, uint32_t ms, tn_err *err)
{
    visit *v;
    uint32_t seconds = w->patience ? w->patience + ms / 1000 : 0;
    tn_status st = tn_visit_open(w, g->name, "drain", seconds, &v, err);
    if (st != TN_OK)
        return st;
    return tn_visit_close(v, g->plugin.drain(g->pub.self, ms, tn_visit_err(v)), err);
}

tn_status tn_wall_drain(tn_wall *w, uint32_t kind, uint32_t ms, tn_err *err)
{
    tn_status first = TN_OK;
    for (uint32_t i = w->norder; i-- > 0;) {
        guest *g = w->order[i];
        tn_err why;
        if (!g->pub.live || g->plugin.drain == NULL || (kind != 0 && g->pub.kind != kind))
            continue;
        tn_status st = drain_one(w, g, ms, &why);
        if (st == TN_OK)
            continue;
        tn_log_put(w->log, TN_LOG_WARN, "core", NULL, "%s", why.text);
        if (first == TN_OK && err != NULL)
            *err = why;
        first = first == TN_OK ? st : first;
    }
    return first;
}

static void stop_one(tn_wall *w, guest *g)
{
    tn_guard_enter(w->guard, g->name, "stop", w->patience);
    g->plugin.stop(g->pub.self);
    tn_guard_leave(w->guard);
    g->pub.up = g->pub.live = false;
    g->pub.self = NULL;
    uint64_t bytes = atomic_load(&g->held_bytes), blocks = atomic_load(&g->held_blocks);
    if (blocks > 0)
        tn_log_put(w->log, TN_LOG_DEBUG, "core", NULL,
                   "plugin %s keeps %llu bytes in %llu blocks after its stop", g->name,
                   (unsigned long long)bytes, (unsigned long long)blocks);
}

void tn_wall_stop(tn_wall *w, uint32_t kind)
{
    for (uint32_t i = w->norder; i-- > 0;) {
        guest *g = w->order[i];
        if (kind != 0 && g->pub.kind != kind)
            continue;
        stop_one(w, g);
        memmove(&w->order[i], &w->order[i + 1], (w->norder - i - 1) * sizeof(struct guest *));
        w->norder--;
    }
}

/* --------------------------------------------------------------------------------- asking */

uint32_t tn_wall_count(const tn_wall *w)
{
    return w->n;
}

const tn_guest *tn_wall_at(const tn_wall *w, uint32_t i)
{
    return i < w->n ? &w->guest[i]->pub : NULL;
}

const tn_guest *tn_wall_of(const tn_wall *w, uint32_t kind, uint32_t want)
{
    for (uint32_t i = 0; i < w->n; i++) {
        const tn_guest *g = &w->guest[i]->pub;
        if (g->kind == kind && g->away == NULL && want-- == 0)
            return g;
    }
    return NULL;
}

const tn_guest *tn_wall_find(const tn_wall *w, uint32_t kind, const char *name)
{
    const tn_guest *g;
    for (uint32_t i = 0; (g = tn_wall_of(w, kind, i)) != NULL; i++)
        if (strcmp(g->name, name) == 0)
            return g;
    return NULL;
}

uint32_t tn_wall_flags(const tn_wall *w, tn_flag_source *out)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < w->n; i++) {
        const tn_guest *g = &w->guest[i]->pub;
        if (g->away == NULL)
            out[n++] = (tn_flag_source){g->kind, g->name, g->options, g->noption};
    }
    return n;
}

void tn_wall_print(const tn_wall *w, struct tn_buf *out)
{
    for (uint32_t i = 0; i < w->n; i++) {
        const guest *g = w->guest[i];
        if (g->away != NULL)
            tn_buf_printf(out, "; set aside: %.800s\n", g->away);
        if (g->values != NULL)
            tn_values_print(g->values, out);
    }
}
