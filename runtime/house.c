/* SPDX-License-Identifier: Apache-2.0 */
/* house.c - everything that is up, and in what order. */
#include "house.h"

#include "buf.h"
#include "cleanenv.h"
#include "command.h"
#include "json.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const tn_flag shared[] = {
    {"config", NULL, 1, "The INI to read instead of the installed one."},
    {"help", "-h", 0, "Prints this text."},
    {"help-all", NULL, 0, "Prints it with all keys of the INI, which are flags too."},
};
static const char *const usual_keys[] = {"quant", "device", "threads", "max_model_len", "memory",
                                         "chat_template", "log_level", NULL};
#define NSHARED (sizeof shared / sizeof *shared)
#define FLAGS_MAX 64u

/* The INI named by --config must exist; without it the installed one. */
static tn_status open_conf(const tn_house_setup *setup, tn_house *h, tn_err *err)
{
    const char *path = tn_flags_early(setup->argc, setup->argv, "config");
    if (path == NULL && setup->argc > 0 &&
        strcmp(setup->argv[setup->argc - 1], "--config") == 0)
        return tn_fail(err, TN_USAGE, "command line: --config wants a value");
    tn_status st = tn_conf_open(path != NULL ? path : TN_CONF_FILE, &h->conf, err);
    if (st != TN_NOINPUT || path != NULL)
        return st;
    return tn_fail(err, TN_NOINPUT, "%s: cannot open: %s; expected the installed INI, or --config "
                   "FILE", TN_CONF_FILE, strerror(ENOENT));
}

/* The keys of [tenon] are needed before flags can be parsed in full. */
static tn_status set_early(const tn_house_setup *setup, tn_house *h, tn_err *err)
{
    static const char *const key[][2] = {{"plugin_path", "plugin-path"},
                                         {"log_level", "log-level"},
                                         {"log_format", "log-format"},
                                         {"keep_environment", "keep-environment"},
                                         {"drain_timeout", "drain-timeout"}};
    for (size_t i = 0; i < sizeof key / sizeof *key; i++) {
        const char *v = tn_flags_early(setup->argc, setup->argv, key[i][1]);
        char origin[64];
        snprintf(origin, sizeof origin, "command line --%s", key[i][1]);
        tn_status st = v != NULL ? tn_conf_set(h->conf, TN_CONF_TENON, NULL, key[i][0], v, origin,
                                               err)
                                 : TN_OK;
        if (st != TN_OK)
            return st;
    }
    if ((setup->flags & TN_HOUSE_QUIET) &&
        tn_conf_get(h->conf, TN_CONF_TENON, NULL, "log_level", NULL) == NULL)
        return tn_conf_set(h->conf, TN_CONF_TENON, NULL, "log_level", "warn", "this command",
                           err);
    return TN_OK;
}

static tn_status open_tools(const tn_house_setup *setup, tn_house *h, tn_err *err)
{
    tn_status st = set_early(setup, h, err);
    if (st == TN_OK)
        st = tn_settings_open(h->conf, &h->settings, err);
    if (st != TN_OK)
        return st;
    h->has_settings = true;
    st = tn_log_open(STDERR_FILENO, h->settings.log_level, h->settings.log_json, &h->log, err);
    if (st == TN_OK)
        st = tn_metrics_open(&h->metrics, err);
    return st;
}

static tn_status load_plugins(const tn_house_setup *setup, tn_house *h, tn_err *err)
{
    tn_env_clean(h->settings.keep_environment, h->settings.nkeep_environment, h->log);
    tn_status st = tn_wall_open(h->log, h->metrics, setup->guard, &h->wall, err);
    if (st == TN_OK)
        st = tn_wall_set_path(h->wall, h->settings.plugin_path, h->settings.nplugin_path, err);
    if (st == TN_OK) {
        tn_wall_set_front(h->wall, tn_house_front_host(), h);
        st = tn_wall_load_all(h->wall, h->conf, err);
    }
    return st;
}

static tn_status print_help(const tn_house_setup *setup, const tn_flag *own, uint32_t nown,
                            const tn_flag_source *source, uint32_t nsource, bool all,
                            tn_err *err)
{
    tn_buf out;
    tn_buf_open(&out, (size_t)1 << 20);
    const char *words = setup->words != NULL ? setup->words
                        : setup->flags & TN_HOUSE_MODEL_WORD ? " MODEL_DIR" : "";
    const char *const *some = setup->usual != NULL ? setup->usual : usual_keys;
    tn_buf_printf(&out, "tenon %s%s [FLAGS]\n\n", setup->command, words);
    tn_flags_help(own, nown, &out);
    if (!all && some[0] != NULL)
        tn_buf_puts(&out, "\nof the keys of the INI, which are flags too (--help-all lists all):\n");
    tn_flags_help_keys(source, nsource, all ? NULL : some, &out);
    tn_status st = tn_command_print(out.data != NULL ? out.data : "", out.len, err);
    tn_buf_close(&out);
    return st == TN_OK ? TN_CANCELLED : st; /* nothing else is to be done */
}

static tn_status set_fixed(const tn_house_setup *setup, tn_house *h, tn_err *err)
{
    for (uint32_t i = 0; setup->set != NULL && setup->set[i] != NULL; i += 2)
        for (uint32_t m = 0; m < tn_conf_count(h->conf, TN_CONF_MODEL); m++) {
            const char *name = tn_conf_name(h->conf, TN_CONF_MODEL, m);
            if (tn_conf_get(h->conf, TN_CONF_MODEL, name, setup->set[i], NULL) != NULL)
                continue; /* the operator's own word goes first */
            tn_status st = tn_conf_set(h->conf, TN_CONF_MODEL, name, setup->set[i],
                                       setup->set[i + 1], "this command", err);
            if (st != TN_OK)
                return st;
        }
    return TN_OK;
}

static bool has_option(const tn_guest *g, const char *key)
{
    for (uint32_t i = 0; i < g->noption; i++)
        if (strcmp(g->options[i].key, key) == 0)
            return true;
    return false;
}

/* Models that name no device get this one. */
static tn_status prefer_device(tn_house *h, const char *plugin, const char *origin, tn_err *err)
{
    tn_status st = TN_OK;
    for (uint32_t m = 0; m < tn_conf_count(h->conf, TN_CONF_MODEL) && st == TN_OK; m++) {
        const char *name = tn_conf_name(h->conf, TN_CONF_MODEL, m);
        if (tn_conf_get(h->conf, TN_CONF_MODEL, name, "device", NULL) == NULL)
            st = tn_conf_set(h->conf, TN_CONF_MODEL, name, "device", plugin, origin, err);
    }
    return st;
}

static tn_status pass_flags(const tn_house_setup *setup, tn_house *h, tn_err *err)
{
    const tn_guest *g;
    tn_status st = TN_OK;
    for (uint32_t i = 0; setup->pass != NULL && setup->pass[i] != NULL; i += 2) {
        const char *value = tn_flags_value(h->flags, setup->pass[i]), *key = setup->pass[i + 1];
        char origin[64];
        snprintf(origin, sizeof origin, "command line --%s", setup->pass[i]);
        for (uint32_t d = 0; value != NULL && st == TN_OK &&
                             (g = tn_wall_of(h->wall, TN_KIND_DEVICE, d)) != NULL; d++) {
            if (!has_option(g, key))
                continue;
            st = tn_conf_set(h->conf, TN_CONF_PLUGIN, g->name, key, value, origin, err);
            if (st == TN_OK && i == 0)
                st = prefer_device(h, g->name, origin, err);
        }
    }
    return st;
}

/* The command line over the INI: the command's own flags, then every key as a flag. */
static tn_status take_flags(const tn_house_setup *setup, tn_house *h, tn_err *err)
{
    tn_flag own[FLAGS_MAX];
    uint32_t nown = 0;
    for (uint32_t i = 0; i < setup->nown && nown < FLAGS_MAX; i++)
        own[nown++] = setup->own[i];
    for (uint32_t i = 0; i < NSHARED && nown < FLAGS_MAX; i++)
        own[nown++] = shared[i];
    tn_flag_source *source = calloc(tn_wall_count(h->wall) + 1u, sizeof *source);
    if (source == NULL)
        return tn_fail(err, TN_NO_MEMORY, "no memory");
    uint32_t nsource = tn_wall_flags(h->wall, source);
    tn_status st = tn_flags_parse(setup->argc, setup->argv, own, nown, source, nsource, &h->flags,
                                  err);
    bool all = st == TN_OK && tn_flags_value(h->flags, "help-all") != NULL;
    if (all || (st == TN_OK && tn_flags_value(h->flags, "help") != NULL))
        st = print_help(setup, own, nown, source, nsource, all, err);
    free(source);
    if (st != TN_OK)
        return st;
    for (uint32_t i = 0; i < h->flags->nwarning; i++)
        tn_log_put(h->log, TN_LOG_WARN, "core", NULL, "%s", h->flags->warning[i]);
    if (h->flags->nword > setup->words_most)
        return tn_fail(err, TN_USAGE, "%s: unexpected word \"%.64s\"", setup->command,
                       h->flags->word[setup->words_most]);
    if ((setup->flags & TN_HOUSE_MODEL_WORD) && h->flags->nword > 0)
        st = tn_flags_set_model(h->flags->word[0], h->conf, err);
    if (st == TN_OK)
        st = tn_flags_apply(h->flags, h->conf, err);
    if (st == TN_OK)
        st = set_fixed(setup, h, err);
    return st == TN_OK ? pass_flags(setup, h, err) : st;
}

static tn_status read_models(const tn_house_setup *setup, tn_house *h, tn_err *err)
{
    uint32_t n = tn_conf_count(h->conf, TN_CONF_MODEL);
    if (setup->flags & TN_HOUSE_NO_MODELS)
        return TN_OK;
    if (n == 0 && !(setup->flags & TN_HOUSE_CHECK))
        return tn_fail(err, TN_USAGE, "%s: no model; expected a model folder, or a [model NAME] "
                       "section in the INI", setup->command);
    h->model = calloc(n + 1u, sizeof *h->model);
    h->served = calloc(n + 1u, sizeof *h->served);
    if (h->model == NULL || h->served == NULL)
        return tn_fail(err, TN_NO_MEMORY, "no memory");
    for (; h->nmodel < n; h->nmodel++) {
        tn_status st = tn_model_settings_open(h->conf, tn_conf_name(h->conf, TN_CONF_MODEL,
                                                                    h->nmodel),
                                              &h->model[h->nmodel], err);
        if (st != TN_OK)
            return st;
    }
    return TN_OK;
}

/* Names must be unique over all models, or a request could not say which it means. */
static tn_status check_names(const tn_house *h, tn_err *err)
{
    for (uint32_t a = 0; a < h->nmodel; a++)
        for (uint32_t b = 0; b < a; b++) {
            tn_served x = {.settings = &h->model[a]}, y = {.settings = &h->model[b]};
            const char *p, *q;
            for (uint32_t i = 0; (p = tn_served_name(&x, i)) != NULL; i++)
                for (uint32_t j = 0; (q = tn_served_name(&y, j)) != NULL; j++)
                    if (strcmp(p, q) == 0)
                        return tn_fail(err, TN_CONFIG, "[model %s] and [model %s] both answer to "
                                       "the name %s; expected different served_name",
                                       h->model[b].name, h->model[a].name, p);
        }
    return TN_OK;
}

static tn_status list_parts(tn_house *h, tn_err *err)
{
    uint32_t n = tn_wall_count(h->wall) + 1u;
    h->quant = calloc(n, sizeof *h->quant);
    h->device = calloc(n, sizeof *h->device);
    h->comm = calloc(n, sizeof *h->comm);
    if (h->quant == NULL || h->device == NULL || h->comm == NULL)
        return tn_fail(err, TN_NO_MEMORY, "no memory");
    const tn_guest *g;
    for (uint32_t i = 0; (g = tn_wall_of(h->wall, TN_KIND_QUANT, i)) != NULL; i++)
        h->quant[h->nquant++] = (tn_quant_ref){g->name, g->quant, g->self};
    for (uint32_t i = 0; (g = tn_wall_of(h->wall, TN_KIND_DEVICE, i)) != NULL; i++)
        h->device[h->ndevice++] = (tn_device_ref){g->name, g->device, g->self};
    for (uint32_t i = 0; (g = tn_wall_of(h->wall, TN_KIND_COMM, i)) != NULL; i++)
        h->comm[h->ncomm++] = (tn_comm_ref){g->name, g->comm, g->self};
    return TN_OK;
}

/* Frontends come first: a port that is taken is told before anything large is done. Where a
 * model is only planned neither they nor communicators are needed: what serves beside it may
 * have the port, and a plan for cards is made where there are none. */
static tn_status init_parts(const tn_house_setup *setup, tn_house *h, tn_err *err)
{
    static const uint32_t kinds[] = {TN_KIND_FRONT, TN_KIND_QUANT, TN_KIND_DEVICE, TN_KIND_COMM};
    bool plan = (setup->flags & TN_HOUSE_PLAN) != 0;
    uint32_t first = plan || h->place.rank > 0 ? 1 : 0, end = plan ? 3 : 4;
    tn_status st = tn_wall_configure(h->wall, h->conf, err);
    for (uint32_t i = first; st == TN_OK && i < end; i++)
        st = tn_wall_init_kind(h->wall, kinds[i], err);
    return st;
}

static tn_status start_parts(const tn_house_setup *setup, tn_house *h, tn_err *err)
{
    tn_status st = init_parts(setup, h, err);
    if (st == TN_OK)
        st = list_parts(h, err);
    if (st == TN_OK)
        st = tn_wall_start(h->wall, TN_KIND_QUANT, err);
    if (st == TN_OK)
        st = tn_wall_start(h->wall, TN_KIND_DEVICE, err);
    if (st == TN_OK)
        st = tn_wall_start(h->wall, TN_KIND_COMM, err);
    return st;
}

/* The model that most ranks share, NULL without models. */
static const tn_model_settings *most_shared(const tn_house *h)
{
    const tn_model_settings *m = NULL;
    for (uint32_t i = 0; i < h->nmodel; i++)
        if (m == NULL || h->model[i].tensor_parallel_size > m->tensor_parallel_size)
            m = &h->model[i];
    return m;
}

/* For a plan: as many processors as the rank has that has most. */
static void plan_place(const tn_house *h)
{
    const tn_model_settings *m = most_shared(h);
    uint32_t nlocal = m == NULL ? 1 : m->tensor_parallel_size / (m->nnodes > 0 ? m->nnodes : 1);
    if (nlocal > 1)
        tn_team_cores_share(nlocal - 1, nlocal);
}

/* Which rank this process is, and its share of the processors: before devices count them. */
static tn_status take_place(tn_house *h, tn_err *err)
{
    const tn_model_settings *m = most_shared(h);
    if (m == NULL)
        return TN_OK;
    const tn_team_hosts hosts = {.nrank = m->tensor_parallel_size, .nhost = m->nnodes,
                                 .host = m->node_rank, .starter = m->rank_starter};
    if (hosts.nrank < 2 && hosts.nhost < 2 && !m->headless)
        return TN_OK;
    tn_status st = tn_team_place_read(&hosts, &h->place, err);
    if (st == TN_OK && m->headless && h->place.rank == 0)
        return tn_fail(err, TN_CONFIG, "headless: this is host 0 (node_rank), which answers clients; "
                       "expected it on the others");
    if (st == TN_OK && h->place.nrank > 1 && h->place.fd < 0 && h->nmodel > 1)
        return tn_fail(err, TN_CONFIG, "%u ranks come from elsewhere for %u models; expected one model "
                       "where a launcher starts the ranks, or several hosts", h->place.nrank, h->nmodel);
    if (st == TN_OK)
        tn_team_cores_share(h->place.local, h->place.nrank > 1 ? h->place.nlocal : hosts.nrank);
    return st;
}

static tn_status open_models(const tn_house_setup *setup, tn_house *h, tn_err *err)
{
    for (uint32_t i = 0; i < h->nmodel; i++) {
        if (h->place.fd >= 0 && h->place.rank > 0 && h->place.model != i)
            continue; /* other ranks serve that one */
        char what[128];
        tn_progress bar;
        snprintf(what, sizeof what, "loading %s", h->model[i].name);
        tn_progress_open(&bar, what, true);
        tn_served_setup s = {
            .settings = &h->model[i], .quant = h->quant, .nquant = h->nquant,
            .device = h->device, .ndevice = h->ndevice, .comm = h->comm, .ncomm = h->ncomm,
            .place = h->place, .model = i, .log = h->log, .metrics = h->metrics,
            .flags = (setup->flags & TN_HOUSE_PROFILE ? TN_SERVED_PROFILE : 0) |
                     (setup->flags & TN_HOUSE_PLAN ? TN_SERVED_NO_ENGINE : 0) |
                     (setup->flags & TN_HOUSE_PARTS ? TN_SERVED_PARTS : 0),
            .progress = tn_progress_step, .user = &bar,
        };
        tn_status st = tn_served_open(&s, &h->served[i], err);
        tn_progress_close(&bar);
        if (st != TN_OK)
            return st;
        h->nserved++;
        if (setup->flags & TN_HOUSE_PARTS)
            continue;
        if (h->served[i].chat == NULL && setup->flags & TN_HOUSE_FRONTS)
            tn_log_put(h->log, TN_LOG_WARN, "core", NULL, "model %s has no chat template: chats "
                       "are refused; expected one in its folder, or chat_template",
                       tn_served_name(&h->served[i], 0));
    }
    return TN_OK;
}

tn_status tn_house_open(const tn_house_setup *setup, tn_house *out, tn_err *err)
{
    tn_house *h = out;
    *h = (tn_house){.command = setup->command};
    tn_status st = open_conf(setup, h, err);
    if (st == TN_OK)
        st = open_tools(setup, h, err);
    if (st == TN_OK)
        st = load_plugins(setup, h, err);
    if (st == TN_OK)
        st = take_flags(setup, h, err);
    if (st == TN_OK)
        st = read_models(setup, h, err);
    if (st == TN_OK)
        st = check_names(h, err);
    if (st == TN_OK && !(setup->flags & (TN_HOUSE_CHECK | TN_HOUSE_PLAN)))
        st = take_place(h, err);
    if (st == TN_OK && (setup->flags & TN_HOUSE_PARTS))
        plan_place(h);
    if (st == TN_OK && (setup->flags & TN_HOUSE_CHECK))
        st = tn_wall_configure(h->wall, h->conf, err);
    else if (st == TN_OK)
        st = start_parts(setup, h, err);
    if (st == TN_OK && !(setup->flags & TN_HOUSE_CHECK))
        st = open_models(setup, h, err);
    tn_team_cores_restore();
    if (st != TN_OK && h->place.fd >= 0 && h->place.rank > 0) {
        st = TN_CANCELLED; /* rank 0 has been told, and tells */
        err->text[0] = 0;
    }
    if (st != TN_OK)
        tn_house_close(h);
    return st;
}

tn_status tn_house_check(const tn_house *h, const tn_conf *c, tn_err *err)
{
    tn_settings settings;
    const char *name;
    tn_status st = tn_settings_open(c, &settings, err);
    if (st != TN_OK)
        return st;
    tn_settings_close(&settings);
    for (uint32_t i = 0; (name = tn_conf_name(c, TN_CONF_MODEL, i)) != NULL; i++) {
        tn_model_settings m;
        st = tn_model_settings_open(c, name, &m, err);
        if (st != TN_OK)
            return st;
        tn_model_settings_close(&m);
    }
    return tn_wall_check(h->wall, c, err);
}

tn_status tn_house_start(tn_house *h, tn_err *err)
{
    tn_status st = tn_wall_start(h->wall, TN_KIND_FRONT, err);
    const tn_guest *g;
    for (uint32_t i = 0; st == TN_OK && (g = tn_wall_of(h->wall, TN_KIND_FRONT, i)) != NULL; i++) {
        const char *at = g->front->address != NULL ? g->front->address(g->self) : NULL;
        tn_log_put(h->log, TN_LOG_INFO, g->name, NULL, "listening on %s", at != NULL ? at : "?");
    }
    h->is_live = st == TN_OK;
    return st;
}

tn_status tn_house_drain(tn_house *h, uint32_t ms, tn_err *err)
{
    tn_status st = tn_wall_drain(h->wall, TN_KIND_FRONT, ms, err);
    for (uint32_t i = 0; i < h->nserved; i++) {
        tn_err other = {{0}, {0}, {0}};
        if (h->served[i].engine == NULL)
            continue;
        tn_status e = tn_engine_drain(h->served[i].engine, st == TN_OK ? ms : 0, &other);
        if (e != TN_OK && st == TN_OK) { /* the wall has told what frontends cut off */
            st = e;
            *err = other;
            tn_log_put(h->log, TN_LOG_WARN, "core", NULL, "%s", other.text);
        }
    }
    return st;
}

void tn_house_close(tn_house *h)
{
    if (h->wall != NULL)
        tn_wall_stop(h->wall, TN_KIND_FRONT);
    for (uint32_t i = h->nserved; i-- > 0;)
        tn_served_close(&h->served[i]);
    for (uint32_t i = h->nmodel; i-- > 0;)
        tn_model_settings_close(&h->model[i]);
    if (h->wall != NULL)
        tn_wall_close(h->wall);
    free(h->served);
    free(h->model);
    free(h->quant);
    free(h->device);
    free(h->comm);
    tn_flags_close(h->flags);
    if (h->metrics != NULL)
        tn_metrics_close(h->metrics);
    if (h->is_live)
        tn_log_put(h->log, TN_LOG_INFO, "core", NULL, "stopped");
    if (h->log != NULL)
        tn_log_close(h->log);
    if (h->has_settings)
        tn_settings_close(&h->settings);
    if (h->conf != NULL)
        tn_conf_close(h->conf);
    *h = (tn_house){0};
}

tn_served *tn_house_find(const tn_house *h, const char *name)
{
    if (name == NULL)
        return h->nserved > 0 ? &h->served[0] : NULL;
    for (uint32_t i = 0; i < h->nserved; i++) {
        const char *n;
        for (uint32_t j = 0; (n = tn_served_name(&h->served[i], j)) != NULL; j++)
            if (strcmp(n, name) == 0)
                return &h->served[i];
    }
    return NULL;
}

void tn_house_print_config(const tn_house *h, tn_buf *out)
{
    tn_values_print(h->settings.values, out);
    tn_wall_print(h->wall, out);
    for (uint32_t i = 0; i < h->nmodel; i++)
        tn_values_print(h->model[i].values, out);
}
