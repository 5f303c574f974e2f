/* SPDX-License-Identifier: Apache-2.0 */
/* wall_adopt.c - the negotiation: is this descriptor one that the core can work with?
 *
 * The core alone decides: same major, minor not newer than its own, sizes cover at least
 * version 1.0. It then copies the tables into zeroed structs of its own, so that whatever an
 * older author lacked reads as NULL and whatever a newer one added is left out. */
#include "wall_guest.h"

#include "plain.h"

#include <stddef.h>
#include <stdlib.h>

/* A callback that a plugin may not leave out. */
typedef struct callback {
    size_t offset;
    const char *name;
} callback;

#define END(type, member) (offsetof(type, member) + sizeof(((type *)0)->member))
#define MUST(type, member) {offsetof(type, member), #member}

static const callback plugin_calls[] = {
    MUST(tn_plugin, init), MUST(tn_plugin, stop),
};

static const callback quant_calls[] = {
    MUST(tn_quant, claims), MUST(tn_quant, form_of), MUST(tn_quant, read),
};

static const callback writer_calls[] = {
    MUST(tn_quant, write_begin), MUST(tn_quant, write_linear), MUST(tn_quant, write_end),
    MUST(tn_quant, write_drop),
};

static const callback device_calls[] = {
    MUST(tn_device, open), MUST(tn_device, close), MUST(tn_device, info),
    MUST(tn_device, compile), MUST(tn_device, reserve), MUST(tn_device, pack),
    MUST(tn_device, release), MUST(tn_device, run), MUST(tn_device, wait),
};

static const callback comm_calls[] = {
    MUST(tn_comm, make_id), MUST(tn_comm, join), MUST(tn_comm, all_reduce),
    MUST(tn_comm, all_gather), MUST(tn_comm, broadcast), MUST(tn_comm, abort),
    MUST(tn_comm, leave),
};

#define COUNT(a) (sizeof(a) / sizeof(a)[0])

typedef struct kind_rule {
    const char *name;
    size_t least;  /* size of the table in version 1.0 */
    size_t size;   /* as this core knows it */
    const callback *call;
    size_t ncall;
} kind_rule;

static const kind_rule rules[] = {
    [TN_KIND_QUANT] = {"quant", END(tn_quant, write_drop), sizeof(tn_quant), quant_calls,
                       COUNT(quant_calls)},
    [TN_KIND_DEVICE] = {"device", END(tn_device, stream), sizeof(tn_device), device_calls,
                        COUNT(device_calls)},
    [TN_KIND_COMM] = {"comm", END(tn_comm, leave), sizeof(tn_comm), comm_calls,
                      COUNT(comm_calls)},
    [TN_KIND_FRONT] = {"front", END(tn_front, address), sizeof(tn_front), NULL, 0},
};

const char *tn_wall_kind_name(uint32_t kind)
{
    return kind >= TN_KIND_QUANT && kind <= TN_KIND_FRONT ? rules[kind].name : "unknown";
}

static tn_status fail(const guest *g, tn_status st, tn_err *err, const char *what)
{
    return tn_fail(err, st, "plugin %s: %s", g->file, what);
}

/* ------------------------------------------------------------------------------- the head */

/* Names that stand for something else in settings, logs and metrics. */
static bool is_reserved(const char *name)
{
    static const char *const taken[] = {"core", "tenon", "engine", "auto", "none", "all",
                                        "default", "model", "plugin"};
    for (size_t i = 0; i < COUNT(taken); i++)
        if (strcmp(name, taken[i]) == 0)
            return true;
    return false;
}

static bool is_name(const char *s)
{
    size_t n = strnlen(s, 33);
    if (n == 0 || n > 32 || s[0] < 'a' || s[0] > 'z')
        return false;
    for (size_t i = 0; i < n; i++)
        if (!((s[i] >= 'a' && s[i] <= 'z') || (s[i] >= '0' && s[i] <= '9') || s[i] == '_'
              || s[i] == '-'))
            return false;
    return true;
}

/* Everything that does not follow a pointer: the same for the file and for memory. */
static tn_status check_numbers(const guest *g, const tn_plugin *p, uint64_t room, tn_err *err)
{
    if (p->abi_major != TN_ABI_MAJOR || p->abi_minor > TN_ABI_MINOR)
        return tn_fail(err, TN_UNAVAILABLE, "plugin %s: built for contract %u.%u; expected %u.0 "
                       "to %u.%u", g->file, p->abi_major, p->abi_minor, TN_ABI_MAJOR,
                       TN_ABI_MAJOR, TN_ABI_MINOR);
    if (p->size < END(tn_plugin, stop) || p->size > room)
        return tn_fail(err, TN_UNAVAILABLE, "plugin %s: its descriptor says %u bytes; expected "
                       "%zu to the symbol's %llu", g->file, p->size, END(tn_plugin, stop),
                       (unsigned long long)room);
    if (p->kind < TN_KIND_QUANT || p->kind > TN_KIND_FRONT)
        return tn_fail(err, TN_CONFIG, "plugin %s: of kind %u; expected quant, device, comm or "
                       "front (1 to 4)", g->file, p->kind);
    return TN_OK;
}

static tn_status check_name(const guest *g, const char *name, tn_err *err)
{
    char shown[48];
    if (is_name(name) && !is_reserved(name)) {
        if (strcmp(name, g->name) == 0)
            return TN_OK;
        return tn_fail(err, TN_CONFIG, "plugin %s: calls itself %s; expected %s, as its section "
                       "says", g->file, name, g->name);
    }
    snprintf(shown, sizeof shown, "%.40s", name);
    tn_plain_make(shown, sizeof shown);
    return tn_fail(err, TN_CONFIG, "plugin %s: calls itself \"%s\"; expected [a-z][a-z0-9_-]* of "
                   "at most 32 bytes and no reserved word", g->file, shown);
}

static tn_status check_table_size(const guest *g, uint32_t kind, uint32_t size, tn_err *err)
{
    if (size >= rules[kind].least)
        return TN_OK;
    return tn_fail(err, TN_UNAVAILABLE, "plugin %s: its %s table says %u bytes; expected %zu or "
                   "more", g->file, rules[kind].name, size, rules[kind].least);
}

static const void *member(const void *table, size_t offset)
{
    void *p;
    memcpy(&p, (const char *)table + offset, sizeof p);
    return p;
}

static tn_status check_calls(const guest *g, const char *where, const void *table,
                             const callback *call, size_t n, tn_err *err)
{
    for (size_t i = 0; i < n; i++)
        if (member(table, call[i].offset) == NULL)
            return tn_fail(err, TN_UNAVAILABLE, "plugin %s: has no %s%s; expected a function",
                           g->file, where, call[i].name);
    return TN_OK;
}

static tn_status copy_text(const guest *g, const char *what, const char *text, size_t max,
                           char **out, tn_err *err)
{
    if (text == NULL || text[0] == 0 || strnlen(text, max + 1) > max)
        return tn_fail(err, TN_UNAVAILABLE, "plugin %s: its %s is missing or longer than %zu "
                       "bytes", g->file, what, max);
    char *copy = strdup(text);
    if (copy == NULL)
        return fail(g, TN_OS, err, "out of memory");
    tn_plain_make(copy, strlen(copy) + 1);
    *out = copy;
    return TN_OK;
}

/* ------------------------------------------------------------------------------ the tables */

static tn_status copy_multiplies(guest *g, tn_err *err)
{
    tn_quant *q = &g->table.quant;
    const tn_multiply *from = q->multiply;
    if (q->nmultiply == 0) {
        q->multiply = NULL;
        return TN_OK;
    }
    if (from == NULL || q->nmultiply > TN_MULTIPLIES_MAX
        || from->size < END(tn_multiply, entry) || from->size > 4096)
        return fail(g, TN_UNAVAILABLE, err, "its list of multiplies is malformed");
    g->multiply = calloc(q->nmultiply, sizeof *g->multiply);
    if (g->multiply == NULL)
        return fail(g, TN_OS, err, "out of memory");
    size_t step = from->size, n = step < sizeof *from ? step : sizeof *from;
    for (uint32_t i = 0; i < q->nmultiply; i++) {
        tn_multiply *m = &g->multiply[i];
        memcpy(m, (const char *)from + i * step, n);
        m->size = sizeof *m;
        if (m->device == NULL || !is_name(m->device) || m->entry == NULL)
            return fail(g, TN_UNAVAILABLE, err, "has a multiply without device or function");
    }
    q->multiply = g->multiply;
    return TN_OK;
}

static tn_status check_writer(const guest *g, tn_err *err)
{
    const tn_quant *q = &g->table.quant;
    if (q->write_begin == NULL && q->write_linear == NULL && q->write_end == NULL
        && q->write_drop == NULL)
        return TN_OK;
    return check_calls(g, "quant table's ", q, writer_calls, COUNT(writer_calls), err);
}

static tn_status copy_table(guest *g, const void *table, tn_err *err)
{
    uint32_t size, known;
    const kind_rule *rule = &rules[g->plugin.kind];
    if (table == NULL)
        return fail(g, TN_UNAVAILABLE, err, "has no table of its kind");
    memcpy(&size, table, sizeof size);
    tn_status st = check_table_size(g, g->plugin.kind, size, err);
    if (st != TN_OK)
        return st;
    known = size < rule->size ? size : (uint32_t)rule->size;
    memset(&g->table, 0, sizeof g->table);
    memcpy(&g->table, table, known);
    known = (uint32_t)rule->size;
    memcpy(&g->table, &known, sizeof known); /* our struct, our size */
    st = check_calls(g, "", &g->table, rule->call, rule->ncall, err);
    if (st != TN_OK || g->plugin.kind != TN_KIND_QUANT)
        return st;
    st = check_writer(g, err);
    return st == TN_OK ? copy_multiplies(g, err) : st;
}

static tn_status copy_options(guest *g, const tn_plugin *p, tn_err *err)
{
    static const char *const reserved[] = {"file", "required", NULL};
    char who[300];
    snprintf(who, sizeof who, "plugin %.280s", g->file);
    tn_status st = tn_option_check(p->options, p->noption, reserved, who, err);
    if (st != TN_OK || p->noption == 0)
        return st;
    g->options = calloc(p->noption, sizeof *g->options);
    if (g->options == NULL)
        return fail(g, TN_OS, err, "out of memory");
    for (uint32_t i = 0; i < p->noption; i++) {
        g->options[i] = tn_option_at(p->options, i);
        g->options[i].size = sizeof g->options[i];
    }
    return TN_OK;
}

static void publish(guest *g)
{
    g->pub = (tn_guest){
        .name = g->name, .version = g->version, .summary = g->summary, .file = g->file,
        .kind = g->plugin.kind, .abi_minor = g->plugin.abi_minor,
        .options = g->options, .noption = g->plugin.noption,
    };
    if (g->plugin.kind == TN_KIND_QUANT)
        g->pub.quant = &g->table.quant;
    else if (g->plugin.kind == TN_KIND_DEVICE)
        g->pub.device = &g->table.device;
    else if (g->plugin.kind == TN_KIND_COMM)
        g->pub.comm = &g->table.comm;
    else
        g->pub.front = &g->table.front;
}

tn_status tn_wall_adopt_file(guest *g, const tn_elf *elf, tn_err *err)
{
    tn_status st = check_numbers(g, &elf->entry, elf->entry_size, err);
    if (st == TN_OK && elf->name[0] != 0)
        st = check_name(g, elf->name, err);
    if (st == TN_OK && elf->table_size != 0)
        st = check_table_size(g, elf->entry.kind, elf->table_size, err);
    return st;
}

tn_status tn_wall_adopt(guest *g, const tn_plugin *entry, const tn_elf *elf, tn_err *err)
{
    tn_status st = check_numbers(g, entry, elf->entry_size, err);
    if (st != TN_OK)
        return st;
    memset(&g->plugin, 0, sizeof g->plugin);
    memcpy(&g->plugin, entry, entry->size < sizeof g->plugin ? entry->size : sizeof g->plugin);
    st = check_name(g, g->plugin.name ? g->plugin.name : "", err);
    if (st == TN_OK)
        st = copy_text(g, "version", g->plugin.version, 64, &g->version, err);
    if (st == TN_OK)
        st = copy_text(g, "summary", g->plugin.summary, 512, &g->summary, err);
    if (st == TN_OK)
        st = check_calls(g, "", &g->plugin, plugin_calls, COUNT(plugin_calls), err);
    if (st == TN_OK)
        st = copy_table(g, g->plugin.table, err);
    if (st == TN_OK)
        st = copy_options(g, &g->plugin, err);
    if (st == TN_OK)
        publish(g);
    return st;
}

void tn_wall_disown(guest *g)
{
    free(g->version);
    free(g->summary);
    free(g->multiply);
    free(g->options);
    g->version = g->summary = NULL;
    g->multiply = NULL;
    g->options = NULL;
    g->plugin = (tn_plugin){.size = 0};
    g->pub = (tn_guest){.name = g->name, .version = "", .summary = "", .file = g->file};
}
