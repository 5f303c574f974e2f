/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_doctor.c - `tenon doctor`: do the plugins of the INI work here, and what are the devices?
 *
 * Every plugin is loaded and told its settings; all but frontends, whose ports may be in use,
 * are initialised, and devices are opened and asked about themselves. Whatever fails is told
 * and the others go on; the first failure decides the exit code. */
#include "buf.h"
#include "command.h"
#include "conf.h"
#include "flags.h"
#include "guard.h"
#include "plain.h"
#include "settings.h"
#include "wall.h"

#include <stdlib.h>
#include <math.h>
#include <string.h>

#define SECONDS_MOST 60u          /* that a device may take to open, or to answer */
#define DEVICES_MOST 64u          /* cards looked at */

static const tn_flag own[] = {
    {"config", NULL, 1, "The INI to read instead of the installed one."},
    {"device", NULL, 1, "Looks at this device plugin alone, be it in the INI or not."},
    {"json", NULL, 0, "Prints one JSON object."},
    {"help", "-h", 0, "Prints this text."},
};
#define NOWN ((uint32_t)(sizeof own / sizeof own[0]))

typedef struct doctor {
    tn_conf *conf;
    tn_settings settings;
    tn_flags *flags;
    tn_guard *guard;
    tn_wall *wall;
    bool json;
    uint32_t nfact;
    tn_buf out;
    tn_status fault;           /* the first, TN_OK: none */
    tn_err why;
} doctor;

/* ----------------------------------------------------------------------------- bringing up */

static void note(doctor *d, tn_status st, const tn_err *why)
{
    if (st == TN_OK || d->fault != TN_OK)
        return;
    d->fault = st;
    d->why = *why;
}

static tn_status load(doctor *d, const char *only, tn_err *err)
{
    if (only == NULL)
        return tn_wall_load_all(d->wall, d->conf, err);
    if (!tn_conf_is_name(TN_CONF_PLUGIN, only))
        return tn_fail(err, TN_USAGE, "doctor: --device %.64s; expected a plugin's name", only);
    const char *origin = tn_conf_origin(d->conf, TN_CONF_PLUGIN, only);
    const char *file = tn_conf_get(d->conf, TN_CONF_PLUGIN, only, "file", NULL);
    return tn_wall_load(d->wall, only, file != NULL && file[0] != 0 ? file : NULL, true,
                        origin != NULL ? origin : "command line --device", err);
}

static tn_status take_flags(doctor *d, int argc, char *const *argv, tn_err *err)
{
    tn_flag_source *source = calloc(tn_wall_count(d->wall) + 1u, sizeof *source);
    if (source == NULL)
        return tn_fail(err, TN_NO_MEMORY, "no memory");
    uint32_t n = tn_wall_flags(d->wall, source);
    tn_status st = tn_flags_parse(argc, argv, own, NOWN, source, n, &d->flags, err);
    free(source);
    if (st == TN_OK && d->flags->nword > 0)
        return tn_fail(err, TN_USAGE, "doctor: unexpected word \"%.64s\"", d->flags->word[0]);
    return st == TN_OK ? tn_flags_apply(d->flags, d->conf, err) : st;
}

static tn_status open_conf(doctor *d, int argc, char *const *argv, tn_err *err)
{
    const char *path = tn_flags_early(argc, argv, "config");
    tn_status st = tn_conf_open(path != NULL ? path : TN_CONF_FILE, &d->conf, err);
    const char *folders = st == TN_OK ? tn_flags_early(argc, argv, "plugin-path") : NULL;
    if (folders != NULL)
        st = tn_conf_set(d->conf, TN_CONF_TENON, NULL, "plugin_path", folders,
                         "command line --plugin-path", err);
    return st == TN_OK ? tn_settings_open(d->conf, &d->settings, err) : st;
}

static tn_status bring_up(doctor *d, int argc, char *const *argv, tn_err *err)
{
    tn_status st = tn_guard_open(&d->guard, err);
    if (st == TN_OK)
        st = tn_wall_open(NULL, NULL, d->guard, &d->wall, err);
    if (st == TN_OK)
        st = tn_wall_set_path(d->wall, d->settings.plugin_path, d->settings.nplugin_path, err);
    if (st != TN_OK)
        return st;
    tn_wall_set_lenient(d->wall);
    st = load(d, tn_flags_early(argc, argv, "device"), err);
    if (st == TN_OK)
        st = take_flags(d, argc, argv, err);
    if (st == TN_OK)
        st = tn_wall_configure(d->wall, d->conf, err);
    for (uint32_t kind = TN_KIND_QUANT; st == TN_OK && kind < TN_KIND_FRONT; kind++)
        st = tn_wall_init_kind(d->wall, kind, err);
    return st == TN_OK ? tn_wall_start(d->wall, TN_KIND_DEVICE, err) : st;
}

static void take_down(doctor *d)
{
    tn_wall_close(d->wall);
    tn_guard_close(d->guard);
    tn_flags_close(d->flags);
    tn_settings_close(&d->settings);
    tn_conf_close(d->conf);
    tn_buf_close(&d->out);
}

/* ---------------------------------------------------------------------------------- plugins */

static void put_text(doctor *d, const char *key, const char *text)
{
    tn_buf_printf(&d->out, ", \"%s\": ", key);
    if (text != NULL)
        tn_buf_put_json(&d->out, text, strlen(text));
    else
        tn_buf_puts(&d->out, "null");
}

static void put_plugin(doctor *d, const tn_guest *g)
{
    const char *kind = g->kind != 0 ? tn_wall_kind_name(g->kind) : "-";
    if (!d->json) {
        tn_buf_printf(&d->out, "  %-16s %-7s %-8s %s\n", g->name, kind,
                      g->away != NULL ? "fails" : g->up ? "opens" : "loads",
                      g->away != NULL ? g->away : g->file);
        return;
    }
    tn_buf_printf(&d->out, "%s{\"name\": \"%s\"", d->nfact++ > 0 ? ", " : "", g->name);
    put_text(d, "kind", kind);
    put_text(d, "file", g->file);
    put_text(d, "version", g->version);
    tn_buf_printf(&d->out, ", \"works\": %s", g->away == NULL ? "true" : "false");
    put_text(d, "why", g->away);
    tn_buf_putc(&d->out, '}');
}

static void put_plugins(doctor *d)
{
    const tn_guest *g;
    tn_buf_puts(&d->out, d->json ? "\"plugins\": [" : "plugins\n");
    for (uint32_t i = 0; (g = tn_wall_at(d->wall, i)) != NULL; i++) {
        tn_err why = {{0}, {0}, {0}};
        snprintf(why.text, sizeof why.text, "%s", g->away != NULL ? g->away : "");
        note(d, g->away != NULL ? g->fault : TN_OK, &why);
        put_plugin(d, g);
    }
    tn_buf_puts(&d->out, d->json ? "]" : "");
}

/* ---------------------------------------------------------------------------------- devices */

/* A fact's line in the table, or its member of "facts". `user` is the doctor. */
static void put_fact(void *user, const char *key, const char *text)
{
    doctor *d = user;
    char name[48], value[512];
    snprintf(name, sizeof name, "%s", key != NULL ? key : "");
    snprintf(value, sizeof value, "%s", text != NULL ? text : "");
    tn_plain_make(name, sizeof name);
    tn_plain_make(value, sizeof value);
    if (d->json) {
        tn_buf_puts(&d->out, d->nfact++ > 0 ? ", " : "");
        tn_buf_put_json(&d->out, name, strlen(name));
        tn_buf_puts(&d->out, ": ");
        tn_buf_put_json(&d->out, value, strlen(value));
        return;
    }
    for (char *s = name; *s != 0; s++)
        *s = *s == '_' ? ' ' : *s;
    tn_buf_printf(&d->out, "  %-20s %s\n", name, value);
}

static void put_info(doctor *d, const char *plugin, uint32_t index, const tn_device_info *in,
                     double rate)
{
    char text[96];
    if (d->json) {
        tn_buf_printf(&d->out, "{\"plugin\": \"%s\", \"index\": %u", plugin, index);
        put_text(d, "name", in->name);
        put_text(d, "arch", in->arch);
        tn_buf_printf(&d->out, ", \"memory_total\": %llu, \"memory_free\": %llu, \"bandwidth\": "
                      "%.0f, \"facts\": {", (unsigned long long)in->memory_total,
                      (unsigned long long)in->memory_free, isfinite(rate) ? rate : 0.0);
        return;
    }
    tn_buf_printf(&d->out, "\n%s %u: %s\n", plugin, index, in->name);
    put_fact(d, "arch", in->arch);
    snprintf(text, sizeof text, "%.2f GiB, %.2f GiB free", (double)in->memory_total / 0x1p30,
             (double)in->memory_free / 0x1p30);
    put_fact(d, "memory", text);
    snprintf(text, sizeof text, "%.1f GB/s, measured now", rate * 1e-9);
    if (rate > 0)
        put_fact(d, "bandwidth", text);
}

static tn_status ask(doctor *d, const tn_guest *g, uint32_t index, void *dev,
                     tn_device_info *in, tn_err *err)
{
    double rate = 0;
    *in = (tn_device_info){.size = sizeof *in};
    tn_status st = g->device->info(dev, in, err);
    if (st == TN_OK && g->device->bandwidth != NULL)
        st = g->device->bandwidth(dev, &rate, err);
    if (st != TN_OK)
        return st;
    in->name[sizeof in->name - 1] = in->arch[sizeof in->arch - 1] = 0;
    tn_plain_make(in->name, sizeof in->name);
    tn_plain_make(in->arch, sizeof in->arch);
    put_info(d, g->name, index, in, rate);
    d->nfact = 0;
    if (g->device->report != NULL)
        st = g->device->report(dev, put_fact, d, err);
    tn_buf_puts(&d->out, d->json ? "}}" : "");
    return st;
}

/* Device `index` of the plugin, which may tell that there are more. */
static tn_status visit(doctor *d, const tn_guest *g, uint32_t index, uint32_t *ndevice,
                       tn_err *err)
{
    void *dev = NULL;
    tn_device_info in = {0};
    tn_guard_enter(d->guard, g->name, "open", SECONDS_MOST);
    tn_status st = g->device->open(g->self, index, &dev, err);
    tn_guard_leave(d->guard);
    if (st != TN_OK)
        return st;
    tn_guard_enter(d->guard, g->name, "report", SECONDS_MOST);
    st = ask(d, g, index, dev, &in, err);
    g->device->close(dev);
    tn_guard_leave(d->guard);
    if (st == TN_OK && in.ndevice > *ndevice)
        *ndevice = in.ndevice < DEVICES_MOST ? in.ndevice : DEVICES_MOST;
    return st;
}

static void put_failed(doctor *d, const char *plugin, uint32_t index, const char *why)
{
    if (!d->json) {
        tn_buf_printf(&d->out, "\n%s %u: %s\n", plugin, index, why);
        return;
    }
    tn_buf_printf(&d->out, "{\"plugin\": \"%s\", \"index\": %u", plugin, index);
    put_text(d, "why", why);
    tn_buf_puts(&d->out, "}");
}

/* The first device must open. One behind it that does not may be another's, or too old: it is
 * told, and no failure. */
static void put_devices(doctor *d)
{
    const tn_guest *g;
    const char *between = "";
    tn_buf_puts(&d->out, d->json ? ", \"devices\": [" : "");
    for (uint32_t i = 0; (g = tn_wall_of(d->wall, TN_KIND_DEVICE, i)) != NULL; i++) {
        uint32_t ndevice = 1;
        for (uint32_t index = 0; index < ndevice; index++) {
            tn_err why = {{0}, {0}, {0}};
            tn_buf_puts(&d->out, between);
            size_t begin = d->out.len;
            tn_status st = visit(d, g, index, &ndevice, &why);
            tn_plain_make(why.text, sizeof why.text);
            if (st != TN_OK) {
                if (!d->out.failed)
                    d->out.data[d->out.len = begin] = 0;
                put_failed(d, g->name, index, why.text);
            }
            between = d->json ? ", " : "";
            note(d, index == 0 ? st : TN_OK, &why);
        }
    }
    tn_buf_puts(&d->out, d->json ? "]" : "");
}

/* ---------------------------------------------------------------------------------- command */

static void put_help(doctor *d)
{
    tn_buf_puts(&d->out, "tenon doctor [FLAGS] - do the plugins of the INI work here, and what are "
                         "the devices?\n\n");
    tn_flags_help(own, NOWN, &d->out);
}

static void put_report(doctor *d)
{
    d->json = tn_flags_value(d->flags, "json") != NULL;
    tn_buf_printf(&d->out, d->json ? "{\"version\": \"%s\", \"contract\": \"%u.%u\", "
                                   : "tenon %s, contract %u.%u\n\n", TN_VERSION, TN_ABI_MAJOR,
                  TN_ABI_MINOR);
    put_plugins(d);
    put_devices(d);
    if (d->json)
        tn_buf_printf(&d->out, ", \"healthy\": %s}\n", d->fault == TN_OK ? "true" : "false");
}

int tn_cmd_doctor(int argc, char *const *argv)
{
    doctor d = {.fault = TN_OK};
    tn_err err = {{0}, {0}, {0}};
    tn_buf_open(&d.out, (size_t)1 << 20);
    tn_status st = open_conf(&d, argc, argv, &err);
    if (st == TN_OK)
        st = bring_up(&d, argc, argv, &err);
    if (st == TN_OK && tn_flags_value(d.flags, "help") != NULL)
        put_help(&d);
    else if (st == TN_OK)
        put_report(&d);
    if (st == TN_OK)
        st = d.out.failed ? tn_fail(&err, TN_NO_MEMORY, "no memory")
                          : tn_command_print(d.out.data, d.out.len, &err);
    if (st == TN_OK && d.fault != TN_OK) {
        st = d.fault;
        err = d.why;
    }
    take_down(&d);
    return st == TN_OK ? 0 : tn_command_fail(st, &err);
}
