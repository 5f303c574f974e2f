/* SPDX-License-Identifier: Apache-2.0 */
/* flags_apply.c - the command line written over the configuration, and its help text. */
#include "flags.h"

#include "buf.h"
#include "option.h"
#include "settings.h"

/* ------------------------------------------------------------------------------- applying */

static tn_status set_models(tn_conf *c, const char *key, const char *value, const char *origin,
                            tn_err *err)
{
    uint32_t n = tn_conf_count(c, TN_CONF_MODEL);
    if (n == 0)
        return tn_conf_set(c, TN_CONF_MODEL, "default", key, value, origin, err);
    if (n > 1 && strcmp(key, "path") == 0)
        return tn_fail(err, TN_USAGE, "%s: names one model where the INI names %u; expected no "
                       "model or an INI with one", origin, n);
    tn_status st = TN_OK;
    for (uint32_t i = 0; st == TN_OK && i < n; i++)
        st = tn_conf_set(c, TN_CONF_MODEL, tn_conf_name(c, TN_CONF_MODEL, i), key, value,
                         origin, err);
    return st;
}

tn_status tn_flags_apply(const tn_flags *f, tn_conf *c, tn_err *err)
{
    tn_status st = TN_OK;
    for (uint32_t i = 0; st == TN_OK && i < f->ngiven; i++) {
        const tn_given *g = &f->given[i];
        if (g->where == TN_GIVEN_TENON)
            st = tn_conf_set(c, TN_CONF_TENON, "", g->key, g->value, g->origin, err);
        else if (g->where == TN_GIVEN_PLUGIN)
            st = tn_conf_set(c, TN_CONF_PLUGIN, g->plugin, g->key, g->value, g->origin, err);
        else if (g->where == TN_GIVEN_MODEL)
            st = set_models(c, g->key, g->value, g->origin, err);
    }
    return st;
}

tn_status tn_flags_set_model(const char *path, tn_conf *c, tn_err *err)
{
    return set_models(c, "path", path, "command line MODEL", err);
}

/* ------------------------------------------------------------------------------------ help */

static void put_option(const tn_option *o, tn_buf *out)
{
    tn_buf_puts(out, o->type == TN_OPT_BOOL ? "  --[no-]" : "  --");
    for (const char *k = o->key; *k != 0; k++)
        tn_buf_putc(out, *k == '_' ? '-' : *k);
    if (o->type == TN_OPT_ENUM)
        for (uint32_t i = 0; o->choices[i] != NULL; i++)
            tn_buf_printf(out, "%s%s", i ? "|" : " ", o->choices[i]);
    else if (o->type != TN_OPT_BOOL)
        tn_buf_puts(out, " V");
    tn_buf_printf(out, "\n        %s", o->help);
    if (o->fallback[0] != 0)
        tn_buf_printf(out, " [%s]", o->fallback);
    tn_buf_putc(out, '\n');
}

void tn_options_help(const tn_option *table, uint32_t n, struct tn_buf *out)
{
    for (uint32_t i = 0; i < n; i++) {
        tn_option o = tn_option_at(table, i);
        put_option(&o, out);
    }
}

static void put_table(const char *title, const tn_option *table, uint32_t n, tn_buf *out)
{
    if (n > 0)
        tn_buf_printf(out, "\n%s:\n", title);
    tn_options_help(table, n, out);
}

static bool put_named(const char *key, const tn_option *table, uint32_t n, tn_buf *out)
{
    for (uint32_t i = 0; i < n; i++) {
        tn_option o = tn_option_at(table, i);
        if (strcmp(o.key, key) == 0) {
            put_option(&o, out);
            return true;
        }
    }
    return false;
}

/* The keys in `only`, looked for where a flag of that name would go. */
static void put_some(const tn_flag_source *source, uint32_t nsource, const char *const *only,
                     tn_buf *out)
{
    uint32_t nmodel, ntenon;
    const tn_option *model = tn_model_options(&nmodel), *tenon = tn_settings_options(&ntenon);
    for (; *only != NULL; only++) {
        bool found = put_named(*only, model, nmodel, out) || put_named(*only, tenon, ntenon, out);
        for (uint32_t i = 0; i < nsource && !found; i++)
            found = put_named(*only, source[i].options, source[i].noption, out);
    }
}

void tn_flags_help(const tn_flag *own, uint32_t nown, struct tn_buf *out)
{
    for (uint32_t i = 0; i < nown; i++)
        tn_buf_printf(out, "  --%s%s%s%s\n        %s\n", own[i].name, own[i].takes ? " V" : "",
                      own[i].brief ? ", " : "", own[i].brief ? own[i].brief : "", own[i].help);
}

void tn_flags_help_keys(const tn_flag_source *source, uint32_t nsource, const char *const *only,
                        struct tn_buf *out)
{
    uint32_t n;
    char title[80];
    if (only != NULL) {
        put_some(source, nsource, only, out);
        return;
    }
    const tn_option *table = tn_model_options(&n);
    put_table("keys of [model NAME]", table, n, out);
    table = tn_settings_options(&n);
    put_table("keys of [tenon]", table, n, out);
    for (uint32_t i = 0; i < nsource; i++) {
        snprintf(title, sizeof title, "options of [plugin %s]", source[i].plugin);
        put_table(title, source[i].options, source[i].noption, out);
    }
}
