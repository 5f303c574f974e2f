/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_plan.c - `tenon plan DIR`: would the model be served, with which context and batch?
 *
 * Nothing is loaded: the files' headers tell the weights' forms, the device's compile counts, and
 * the budget is that of serving. With --gpu-memory a device plugin that can do without its
 * device (an option plan_memory) counts for one of that size; what another device counts is held
 * against that size. */
#include "buf.h"
#include "command.h"
#include "house.h"
#include "number.h"
#include "servedplan.h"

#include <stdlib.h>
#include <string.h>

#define SEQS_MOST 1024u          /* as max_num_seqs */

static const tn_flag own[] = {
    {"gpu-memory", NULL, 1, "Plans for cards of this memory, a rank each, which need not be there; on "
     "another device, for so much of its memory."},
    {"gpu-arch", NULL, 1, "And of this compute capability: 8.0, say."},
    {"json", NULL, 0, "Prints one JSON object."},
};
static const char *const pass[] = {"gpu-memory", "plan_memory", "gpu-arch", "plan_arch", NULL};
static const char *const usual[] = {
    "tensor_parallel_size", "device", "quant", "max_model_len", "max_num_seqs", "memory",
    "gpu_memory_utilization", "kv_cache_memory", "kv_cache_dtype", "experts", "dense", "head",
    "load_format", NULL};

/* How many sequences: the longest context is looked for. */
static const uint32_t widths[] = {1, 4, 8, 16, 32, 64};
#define NWIDTH (sizeof widths / sizeof widths[0])

#define CHANGES_MAX 8u
typedef struct change {
    char text[64];               /* "max_num_seqs = 4" */
} change;

typedef struct plan {
    tn_house *h;
    tn_planner planner;
    const tn_model_settings *m;
    tn_verdict v;
    uint32_t longest[NWIDTH];
    uint32_t widest;             /* sequences of the whole context */
    change would[CHANGES_MAX];
    uint32_t nwould;
} plan;

/* ----------------------------------------------------------------------- what else would fit */

/* True and noted where the changed settings would be served; what the device or the model does
 * not offer would not. */
static bool try_change(plan *p, const tn_model_settings *m, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static bool try_change(plan *p, const tn_model_settings *m, const char *fmt, ...)
{
    tn_verdict v;
    tn_err err;
    va_list ap;
    p->planner.of = NULL;
    tn_status st = tn_plan_judge(&p->planner, m, &v, &err);
    p->planner.of = NULL;
    if (st != TN_OK || !v.yes || p->nwould >= CHANGES_MAX)
        return false;
    va_start(ap, fmt);
    vsnprintf(p->would[p->nwould].text, sizeof p->would[0].text, fmt, ap);
    va_end(ap);
    p->nwould++;
    return true;
}

static void try_fewer(plan *p)
{
    tn_model_settings m = *p->m;
    for (uint32_t n = m.max_num_seqs / 2; n > 0; n /= 2) {
        m.max_num_seqs = n;
        if (try_change(p, &m, "max_num_seqs = %u", n))
            return;
    }
}

static void try_shorter(plan *p)
{
    tn_model_settings m = *p->m;
    tn_verdict v;
    tn_err err;
    m.max_model_len = 0;
    p->planner.of = NULL;
    if (p->m->max_model_len <= 0 || tn_plan_judge(&p->planner, &m, &v, &err) != TN_OK || !v.yes)
        return;
    m.max_model_len = v.plan.context;
    (void)try_change(p, &m, "max_model_len = %u", v.plan.context);
}

static void try_ranks(plan *p)
{
    tn_model_settings m = *p->m;
    if (p->h->served[0].info.host_memory)
        return; /* ranks of a host share its memory */
    for (uint32_t n = m.tensor_parallel_size + 1; n <= TN_RANKS_MAX; n++) {
        tn_share share;
        tn_err err;
        if (tn_share_make(&p->h->served[0].conf, 0, n, &share, &err) != TN_OK)
            continue;
        m.tensor_parallel_size = n;
        if (try_change(p, &m, "tensor_parallel_size = %u", n))
            return;
    }
}

static void try_changes(plan *p)
{
    tn_model_settings m = *p->m;
    bool host = p->h->served[0].info.host_memory != 0;
    try_fewer(p);
    try_shorter(p);
    if (m.kv_cache_dtype != TN_F8_E4M3 && !m.exact) {
        m.kv_cache_dtype = TN_F8_E4M3;
        (void)try_change(p, &m, "kv_cache_dtype = fp8");
        m = *p->m;
    }
    if (!m.dense_int8) {
        m.dense_int8 = m.head_int8 = true;
        (void)try_change(p, &m, "dense = int8, head = int8");
        m = *p->m;
    }
    if (m.state_snapshots > 0 && p->v.plan.need.slot_bytes > 0) {
        m.state_snapshots = 0;
        (void)try_change(p, &m, "state_snapshots = 0");
        m = *p->m;
    }
    if (!m.host_experts && !m.mapped) {
        m.host_experts = !host;
        m.mapped = host;
        (void)try_change(p, &m, "experts = %s", host ? "mapped" : "host");
    }
    try_ranks(p);
}

/* ------------------------------------------------------------------------------------- asking */

static tn_status look_up(plan *p, tn_err *err)
{
    tn_status st = tn_plan_judge(&p->planner, p->m, &p->v, err);
    for (size_t i = 0; i < NWIDTH && st == TN_OK; i++)
        st = tn_plan_longest(&p->planner, p->m, widths[i], &p->longest[i], err);
    if (st == TN_OK)
        st = tn_plan_widest(&p->planner, p->m, p->v.plan.context, SEQS_MOST, &p->widest, err);
    if (st == TN_OK && !p->v.yes)
        try_changes(p);
    return st;
}

static tn_status read_memory(plan *p, tn_err *err)
{
    const char *text = tn_flags_value(p->h->flags, "gpu-memory");
    int64_t bytes;
    if (text == NULL)
        return TN_OK;
    if (!tn_number_size(text, &bytes) || bytes <= 0)
        return tn_fail(err, TN_USAGE, "plan: --gpu-memory %.64s; expected a size such as 16GiB", text);
    tn_plan_pretend(&p->h->served[0], (uint64_t)bytes);
    return TN_OK;
}

/* ----------------------------------------------------------------------------------- printing */

static uint64_t slots_of(const plan *p)
{
    return p->v.plan.need.slot_bytes > 0 ? p->m->max_num_seqs + p->m->state_snapshots : 0;
}

static void put_bytes(tn_buf *out, const char *name, uint64_t bytes, const char *more)
{
    char text[32];
    tn_budget_bytes(bytes, text);
    tn_buf_printf(out, "%-20s %12s%s%s\n", name, text, more[0] != 0 ? "  " : "", more);
}

static uint64_t rounding_of(const tn_plan *t)
{
    uint64_t sum = 0;
    for (uint32_t r = 0; r <= TN_ROLE_VECTOR; r++)
        sum += t->sizes.role[r];
    return t->need.weight_bytes > sum ? t->need.weight_bytes - sum : 0;
}

static void put_weights(const plan *p, tn_buf *out)
{
    const tn_plan *t = &p->v.plan;
    char who[64] = "";
    if (p->m->tensor_parallel_size > 1)
        snprintf(who, sizeof who, "of rank %u, which has most", t->rank);
    put_bytes(out, "weights", t->need.weight_bytes, who);
    put_bytes(out, "  experts", t->sizes.role[TN_ROLE_EXPERTS], "");
    put_bytes(out, "  dense", t->sizes.role[TN_ROLE_DENSE] + t->sizes.role[TN_ROLE_ROUTER], "");
    put_bytes(out, "  head, embedding", t->sizes.role[TN_ROLE_HEAD] + t->sizes.role[TN_ROLE_EMBED], "");
    put_bytes(out, "  vectors, rounding", t->sizes.role[TN_ROLE_VECTOR] + rounding_of(t), "");
    put_bytes(out, "read of the files", t->sizes.files, "");
    if (t->sizes.elsewhere > 0)
        put_bytes(out, "experts elsewhere", t->sizes.elsewhere, p->m->mapped ? "in the files" :
                  "in the host's memory, but for those that the device has room for");
}

static void put_memory(const plan *p, tn_buf *out)
{
    const tn_served *s = &p->h->served[0];
    const tn_plan *t = &p->v.plan;
    char more[96];
    put_bytes(out, "workspace", t->need.workspace_bytes, "");
    snprintf(more, sizeof more, "a token; blocks of %u tokens", t->limits.block_tokens);
    put_bytes(out, "cache", t->need.block_bytes / t->limits.block_tokens, more);
    snprintf(more, sizeof more, "a sequence; %llu slots, %u of them snapshots",
             (unsigned long long)slots_of(p), p->m->state_snapshots);
    if (slots_of(p) > 0)
        put_bytes(out, "states", t->need.slot_bytes, more);
    put_bytes(out, "memory", s->info.memory_total, "of the device");
    put_bytes(out, "  kept back", s->info.memory_total - (s->room < s->info.memory_total ? s->room :
              s->info.memory_total), s->whole ? "for the driver, captured graphs and other programs"
                                              : "in use by other programs");
    put_bytes(out, "  of a rank", t->memory, "");
    if (t->fits) {
        put_bytes(out, "  left free", t->memory > t->budget.total ? t->memory - t->budget.total : 0, "");
        tn_buf_puts(out, "budget               ");
        tn_budget_print(&t->budget, out);
        tn_buf_putc(out, '\n');
    }
}

static void put_verdict(const plan *p, tn_buf *out)
{
    const tn_verdict *v = &p->v;
    char lacks[32];
    if (v->yes) {
        tn_buf_printf(out, "\nyes: context %u%s, %u sequence%s; %u of the whole context at once\n",
                      v->plan.context, v->cut ? ", cut to what fits" : "", p->m->max_num_seqs,
                      p->m->max_num_seqs == 1 ? "" : "s", v->at_once);
        return;
    }
    tn_budget_bytes(v->lacks, lacks);
    tn_buf_printf(out, "\nno: %s; %s are missing\n", v->why, lacks);
    for (uint32_t i = 0; i < p->nwould; i++)
        tn_buf_printf(out, "  %s %s\n", i == 0 ? "would fit:" : "or:       ", p->would[i].text);
    if (p->nwould == 0)
        tn_buf_puts(out, "  no single change of sequences, context, cache, weights or ranks is enough\n");
}

static void put_table(const plan *p, tn_buf *out)
{
    tn_buf_puts(out, "\nsequences at once    longest context\n");
    for (size_t i = 0; i < NWIDTH; i++)
        if (p->longest[i] > 0)
            tn_buf_printf(out, "%17u    %15u\n", widths[i], p->longest[i]);
        else
            tn_buf_printf(out, "%17u    %15s\n", widths[i], "-");
    if (p->widest > 0)
        tn_buf_printf(out, "%17u    %15u  (the most for it)\n", p->widest, p->v.plan.context);
}

static void put_text(const plan *p, tn_buf *out)
{
    const tn_served *s = &p->h->served[0];
    bool told = strstr(s->info.name, s->info.arch) != NULL;
    tn_buf_printf(out, "model                %s: %s by %s, on %s (%s%s%s), %u rank%s\n",
                  p->m->path, s->conf.type, s->quant != NULL ? s->quant->name : p->m->dummy
                  ? "dummy weights" : "the core (plain weights)", s->device->name, s->info.name,
                  told ? "" : ", ", told ? "" : s->info.arch, p->m->tensor_parallel_size,
                  p->m->tensor_parallel_size == 1 ? "" : "s");
    put_weights(p, out);
    put_memory(p, out);
    put_verdict(p, out);
    put_table(p, out);
}

static void put_number(tn_buf *out, const char *key, uint64_t n)
{
    tn_buf_printf(out, ", \"%s\": %llu", key, (unsigned long long)n);
}

static void put_member(tn_buf *out, const char *key, const char *text)
{
    tn_buf_printf(out, ", \"%s\": ", key);
    tn_buf_put_json(out, text, strlen(text));
}

static void put_json_memory(const plan *p, tn_buf *out)
{
    const tn_plan *t = &p->v.plan;
    const tn_budget *b = &t->budget;
    tn_buf_printf(out, ", \"weights\": {\"experts\": %llu, \"dense\": %llu, \"head_embedding\": %llu, "
                  "\"vectors\": %llu, \"rounding\": %llu, \"elsewhere\": %llu}",
                  (unsigned long long)t->sizes.role[TN_ROLE_EXPERTS],
                  (unsigned long long)(t->sizes.role[TN_ROLE_DENSE] + t->sizes.role[TN_ROLE_ROUTER]),
                  (unsigned long long)(t->sizes.role[TN_ROLE_HEAD] + t->sizes.role[TN_ROLE_EMBED]),
                  (unsigned long long)t->sizes.role[TN_ROLE_VECTOR],
                  (unsigned long long)rounding_of(t), (unsigned long long)t->sizes.elsewhere);
    put_number(out, "file_bytes", t->sizes.files);
    put_number(out, "weight_bytes", t->need.weight_bytes);
    put_number(out, "workspace_bytes", t->need.workspace_bytes);
    put_number(out, "block_bytes", t->need.block_bytes);
    put_number(out, "block_tokens", t->limits.block_tokens);
    put_number(out, "slot_bytes", t->need.slot_bytes);
    put_number(out, "slots", slots_of(p));
    put_number(out, "device_memory", p->h->served[0].info.memory_total);
    put_number(out, "rank_memory", t->memory);
    if (t->fits) {
        put_number(out, "blocks", b->nblock);
        put_number(out, "cache_bytes", b->cache);
        put_number(out, "states_bytes", b->states);
        put_number(out, "experts_bytes", b->experts);
        put_number(out, "total_bytes", b->total);
    }
}

static void put_json(const plan *p, tn_buf *out)
{
    const tn_served *s = &p->h->served[0];
    const tn_verdict *v = &p->v;
    tn_buf_printf(out, "{\"fits\": %s", v->yes ? "true" : "false");
    put_member(out, "model", p->m->path);
    put_member(out, "type", s->conf.type);
    put_member(out, "device", s->device->name);
    put_member(out, "device_name", s->info.name);
    put_member(out, "arch", s->info.arch);
    put_number(out, "ranks", p->m->tensor_parallel_size);
    put_number(out, "rank", v->plan.rank);
    put_json_memory(p, out);
    put_number(out, "context", v->plan.context);
    put_number(out, "sequences", p->m->max_num_seqs);
    put_number(out, "full_sequences", v->at_once);
    put_number(out, "most_full_sequences", p->widest);
    tn_buf_puts(out, ", \"longest_context\": {");
    for (size_t i = 0; i < NWIDTH; i++)
        tn_buf_printf(out, "%s\"%u\": %u", i > 0 ? ", " : "", widths[i], p->longest[i]);
    tn_buf_puts(out, "}");
    if (!v->yes) {
        put_member(out, "why", v->why);
        put_number(out, "missing_bytes", v->lacks);
        tn_buf_puts(out, ", \"would_fit\": [");
        for (uint32_t i = 0; i < p->nwould; i++)
            tn_buf_printf(out, "%s\"%s\"", i > 0 ? ", " : "", p->would[i].text);
        tn_buf_puts(out, "]");
    }
    tn_buf_puts(out, "}\n");
}

/* ------------------------------------------------------------------------------------ command */

static tn_status run(plan *p, tn_err *err)
{
    tn_buf out;
    tn_status st = read_memory(p, err);
    if (st == TN_OK)
        st = look_up(p, err);
    if (st != TN_OK)
        return st;
    tn_buf_open(&out, (size_t)1 << 20);
    (tn_flags_value(p->h->flags, "json") != NULL ? put_json : put_text)(p, &out);
    st = out.failed ? tn_fail(err, TN_NO_MEMORY, "no memory for the output")
                    : tn_command_print(out.data, out.len, err);
    tn_buf_close(&out);
    return st;
}

int tn_cmd_plan(int argc, char *const *argv)
{
    tn_err err = {{0}, {0}, {0}};
    tn_house h;
    bool yes = false;
    tn_house_setup setup = {.command = "plan", .argc = argc, .argv = argv, .own = own,
                            .nown = sizeof own / sizeof *own, .words_most = 1, .usual = usual,
                            .pass = pass, .flags = TN_HOUSE_QUIET | TN_HOUSE_MODEL_WORD |
                                                   TN_HOUSE_PLAN | TN_HOUSE_PARTS};
    tn_status st = tn_house_open(&setup, &h, &err);
    if (st == TN_CANCELLED)
        return 0; /* --help */
    if (st != TN_OK)
        return tn_command_fail(st, &err);
    if (h.nserved != 1)
        st = tn_fail(&err, TN_USAGE, "plan: the INI has %u models; expected a model folder", h.nserved);
    plan *p = st == TN_OK ? calloc(1, sizeof *p) : NULL;
    if (p != NULL) {
        *p = (plan){.h = &h, .m = &h.model[0], .planner = {.s = &h.served[0]}};
        st = run(p, &err);
        yes = p->v.yes;
    } else if (st == TN_OK) {
        st = tn_fail(&err, TN_NO_MEMORY, "no memory");
    }
    free(p);
    tn_house_close(&h);
    if (st != TN_OK)
        return tn_command_fail(st, &err);
    return yes ? 0 : tn_command_exit(TN_UNAVAILABLE); /* what was printed says why */
}
