/* SPDX-License-Identifier: Apache-2.0 */
/* wall_visit.c - one call into a plugin's life cycle: guarded against death and silence, its
 * message made safe, its manners looked at. */
#include "wall_guest.h"

#include "guard.h"
#include "manners.h"
#include "plain.h"

#include <stdlib.h>

#define SPILL (64u << 10)

struct visit {
    tn_wall *wall;
    const char *plugin, *phase;
    tn_manners *manners;
    tn_err err;
    /* A plugin that writes a long message past the end of err writes here, into memory that
     * is ours and empty, and is found out. */
    char spill[SPILL];
};

/* From start on a plugin has descriptors of its own, which it may close. */
static bool owns_files(const char *phase)
{
    return strcmp(phase, "start") == 0 || strcmp(phase, "drain") == 0;
}

tn_status tn_visit_open(tn_wall *w, const char *plugin, const char *phase, uint32_t seconds,
                        visit **out, tn_err *err)
{
    visit *v = calloc(1, sizeof *v);
    if (v == NULL)
        return tn_fail(err, TN_OS, "plugin %s: out of memory", plugin);
    tn_status st = tn_manners_open(&v->manners, err);
    if (st != TN_OK) {
        free(v);
        return st;
    }
    v->wall = w;
    v->plugin = plugin;
    v->phase = phase;
    tn_manners_note(v->manners, !owns_files(phase));
    tn_guard_enter(w->guard, plugin, phase, seconds);
    *out = v;
    return TN_OK;
}

tn_err *tn_visit_err(visit *v)
{
    return &v->err;
}

static bool is_spilled(const visit *v)
{
    for (size_t i = 0; i < SPILL; i++)
        if (v->spill[i] != 0)
            return true;
    return false;
}

/* A status that the contract knows and a command may end with; anything else is "the plugin
 * does not work here". */
static tn_status exit_status(tn_status st)
{
    static const tn_status known[] = {TN_USAGE, TN_DATA, TN_NOINPUT, TN_UNAVAILABLE, TN_INTERNAL,
                                      TN_OS, TN_CANTCREATE, TN_IO, TN_CUT, TN_NOPERM, TN_CONFIG,
                                      TN_CANCELLED, TN_TIMEOUT, TN_UNSUPPORTED};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (st == known[i])
            return st == TN_UNSUPPORTED ? TN_UNAVAILABLE : st;
    return st == TN_NO_MEMORY ? TN_OS : TN_UNAVAILABLE;
}

static tn_status judge(visit *v, tn_status st, tn_err *err)
{
    char what[256];
    if (!tn_manners_kept(v->manners, what, sizeof what))
        return tn_fail(err, TN_UNAVAILABLE, "plugin %s: its %s %s; expected it untouched",
                       v->plugin, v->phase, what);
    if (is_spilled(v))
        return tn_fail(err, TN_UNAVAILABLE, "plugin %s: its %s wrote past the end of its error "
                       "message; expected at most %zu bytes", v->plugin, v->phase,
                       sizeof v->err.text);
    if (st == TN_OK)
        return TN_OK;
    tn_plain_make(v->err.text, sizeof v->err.text);
    if (v->err.text[0] == 0)
        return tn_fail(err, exit_status(st), "plugin %s: %s failed with status %d and no word "
                       "why", v->plugin, v->phase, st);
    return tn_fail(err, exit_status(st), "plugin %s: %s: %.900s", v->plugin, v->phase,
                   v->err.text);
}

tn_status tn_visit_close(visit *v, tn_status st, tn_err *err)
{
    tn_guard_leave(v->wall->guard);
    st = judge(v, st, err);
    tn_manners_close(v->manners);
    free(v);
    return st;
}
