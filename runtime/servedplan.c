/* SPDX-License-Identifier: Apache-2.0 */
/* servedplan.c - what a model would take, and whether it would be served. */
#include "servedplan.h"

#include <string.h>

/* ------------------------------------------------------------------ a communicator for nobody */

static tn_status refuse(tn_err *err)
{
    return tn_fail(err, TN_INTERNAL, "a plan joins nobody");
}

static tn_status no_reduce(void *g, void *x, uint64_t n, uint32_t type, void *stream, tn_err *err)
{
    (void)g, (void)x, (void)n, (void)type, (void)stream;
    return refuse(err);
}

static tn_status no_gather(void *g, const void *in, void *out, uint64_t n, uint32_t type,
                           void *stream, tn_err *err)
{
    (void)g, (void)in, (void)out, (void)n, (void)type, (void)stream;
    return refuse(err);
}

static tn_status no_broadcast(void *g, void *x, uint64_t bytes, uint32_t root, void *stream,
                              tn_err *err)
{
    (void)g, (void)x, (void)bytes, (void)root, (void)stream;
    return refuse(err);
}

static tn_status no_wait(void *g, tn_err *err)
{
    (void)g;
    return refuse(err);
}

static void no_abort(void *g)
{
    (void)g;
}

static const tn_comm nobody = {
    .size = sizeof nobody, .flags = TN_COMM_HOST | TN_COMM_DEVICE | TN_COMM_CAPTURABLE,
    .all_reduce = no_reduce, .all_gather = no_gather, .broadcast = no_broadcast,
    .barrier = no_wait, .health = no_wait, .abort = no_abort,
};

const tn_comm *tn_plan_nobody(void)
{
    return &nobody;
}

/* ------------------------------------------------------------------------------ needs of ranks */

void tn_plan_pretend(tn_served *s, uint64_t bytes)
{
    if (s->info.memory_total == bytes)
        return;
    s->info.memory_total = s->info.memory_free = bytes;
    s->room = tn_budget_room(&s->info, s->settings->gpu_memory_utilization, &s->whole);
}

/* Compiles every rank that matters, and leaves the greatest need in p->s->need. */
static tn_status count(tn_planner *p, uint32_t context, tn_plan *plan, tn_err *err)
{
    tn_served *s = p->s;
    const tn_model_settings *m = s->settings;
    bool known = p->of == m && p->nrank == m->tensor_parallel_size;
    tn_need need = {.size = sizeof need};
    uint64_t weights = 0;
    for (uint32_t r = 0; r < m->tensor_parallel_size; r++) {
        if (known && !p->most[r])
            continue;
        s->place.rank = r;
        tn_status st = tn_served_compile(s, context, 0, err);
        if (st != TN_OK) {
            tn_served_drop(s);
            return st;
        }
        if (r == 0 || s->need.weight_bytes + s->need.host_bytes > weights) {
            weights = s->need.weight_bytes + s->need.host_bytes;
            plan->rank = r;
            tn_loader_sum(&s->loader, s->device->table, s->program, &plan->sizes);
        }
        need.cache_dtype = s->need.cache_dtype;
        p->most[r] = tn_need_keep_most(&need, &s->need) || r == 0;
        tn_served_drop(s);
    }
    p->of = m;
    p->nrank = m->tensor_parallel_size;
    s->need = need;
    return TN_OK;
}

tn_status tn_plan_make(tn_planner *p, const tn_model_settings *m, uint32_t context, tn_plan *out,
                       tn_err *err)
{
    tn_served *s = p->s;
    tn_err why = {{0}, {0}, {0}};
    uint32_t n = m->tensor_parallel_size, local = m->nnodes > 1 ? n / m->nnodes : n;
    *out = (tn_plan){.context = context};
    s->settings = m;
    s->place = (tn_team_place){.nrank = n, .nlocal = local, .fd = -1};
    s->memory_free = s->room / tn_served_sharers(s);
    tn_status st = count(p, context, out, err);
    if (st != TN_OK)
        return st;
    st = tn_served_share_out(s, context, &why);
    if (st != TN_OK && st != TN_UNAVAILABLE) {
        *err = why;
        return st;
    }
    out->need = s->need;
    out->limits = s->limits;
    out->memory = m->memory != 0 ? m->memory : s->memory_free;
    out->budget = s->budget;
    out->fits = st == TN_OK;
    snprintf(out->why, sizeof out->why, "%.500s", why.text);
    return TN_OK;
}

/* -------------------------------------------------------------------------------- the verdict */

static uint64_t blocks_of(const tn_plan *p, uint32_t context)
{
    return ((uint64_t)context + p->limits.block_tokens - 1) / p->limits.block_tokens;
}

/* Bytes that are missing for one sequence of the context that was asked for, or at all. */
static uint64_t lacking(const tn_planner *p, const tn_model_settings *m, const tn_plan *plan)
{
    uint64_t blocks = m->max_model_len > 0 ? blocks_of(plan, plan->context) : 1; /* or it is cut */
    uint64_t cache = blocks * plan->need.block_bytes;
    uint64_t slots = plan->need.slot_bytes > 0 ? m->max_num_seqs + m->state_snapshots : 0;
    uint64_t fixed = plan->need.weight_bytes + plan->need.workspace_bytes +
                     slots * plan->need.slot_bytes + m->experts_memory;
    uint64_t have = plan->memory;
    if (m->kv_cache_memory != 0 && m->kv_cache_memory < cache)
        return cache - m->kv_cache_memory;
    if (m->memory == 0 && !p->s->whole)
        cache *= 2; /* a host gives the cache half of what is left */
    return fixed + cache > have ? fixed + cache - have : 0;
}

/* All is fixed, by words that go before the memory there is. */
static void check_room(const tn_planner *p, const tn_plan *plan, tn_verdict *v)
{
    char want[32], have[32];
    uint64_t room = p->s->memory_free;
    if (plan->budget.total <= room)
        return;
    tn_budget_bytes(plan->budget.total, want);
    tn_budget_bytes(room, have);
    v->yes = false;
    v->lacks = plan->budget.total - room;
    snprintf(v->why, sizeof v->why, "memory: %s are asked for; the device gives a rank %s", want, have);
}

tn_status tn_plan_judge(tn_planner *p, const tn_model_settings *m, tn_verdict *out, tn_err *err)
{
    tn_verdict v = {.yes = true};
    uint32_t context = 0;
    p->s->settings = m;
    tn_status st = tn_served_context(p->s, &context, err);
    if (st == TN_OK)
        st = tn_plan_make(p, m, context, &v.plan, err);
    if (st != TN_OK)
        return st;
    uint32_t fits = v.plan.fits ? v.plan.budget.context_fits : 0;
    if (v.plan.fits && fits < context && m->max_model_len > 0) {
        v.yes = false;
        v.lacks = lacking(p, m, &v.plan);
        snprintf(v.why, sizeof v.why, "max_model_len: %u tokens do not fit the cache; at most %u do",
                 context, fits);
    } else if (v.plan.fits && fits < context) {
        v.cut = true;
        st = tn_plan_make(p, m, fits, &v.plan, err);
    }
    if (st == TN_OK && !v.plan.fits) {
        v.yes = false;
        v.lacks = lacking(p, m, &v.plan);
        snprintf(v.why, sizeof v.why, "%s", v.plan.why);
    }
    if (st == TN_OK && v.yes)
        check_room(p, &v.plan, &v);
    if (st != TN_OK)
        return st;
    uint64_t each = blocks_of(&v.plan, v.plan.context);
    uint64_t all = v.plan.fits && each > 0 ? v.plan.budget.nblock / each : 0;
    v.at_once = all < m->max_num_seqs ? (uint32_t)all : m->max_num_seqs;
    *out = v;
    return TN_OK;
}

/* ------------------------------------------------------------------------- what else would fit */

/* How many tokens each of `seqs` sequences can have in the cache that a plan leaves. */
static uint32_t tokens_each(const tn_planner *p, const tn_plan *plan, uint32_t seqs)
{
    if (!plan->fits || plan->budget.total > p->s->memory_free)
        return 0;
    uint64_t n = plan->budget.nblock / seqs * (uint64_t)plan->limits.block_tokens;
    return n < plan->context ? (uint32_t)n : plan->context;
}

tn_status tn_plan_longest(tn_planner *p, const tn_model_settings *m, uint32_t seqs,
                          uint32_t *context, tn_err *err)
{
    tn_model_settings trial = *m;
    tn_plan plan;
    uint32_t most = 0;
    trial.max_num_seqs = seqs;
    p->of = NULL; /* other settings may lie where these did */
    p->s->settings = &trial;
    tn_status st = tn_served_context(p->s, &most, err);
    /* A shorter context needs no more workspace, so what is left for it can only grow. */
    for (uint32_t before = 0, turn = 0; st == TN_OK && most != before && turn < 3; turn++) {
        before = most;
        st = tn_plan_make(p, &trial, before, &plan, err);
        if (st == TN_OK)
            most = tokens_each(p, &plan, seqs);
        if (most == 0)
            break;
    }
    p->of = NULL;
    p->s->settings = m;
    if (st == TN_OK)
        *context = most;
    return st;
}

tn_status tn_plan_widest(tn_planner *p, const tn_model_settings *m, uint32_t context,
                         uint32_t most, uint32_t *seqs, tn_err *err)
{
    tn_model_settings trial = *m;
    tn_plan plan;
    uint32_t low = 0, high = most + 1; /* low fits, high does not */
    tn_status st = TN_OK;
    p->of = NULL;
    for (uint32_t n = 1; st == TN_OK && low + 1 < high;) {
        trial.max_num_seqs = n;
        st = tn_plan_make(p, &trial, context, &plan, err);
        if (st == TN_OK && tokens_each(p, &plan, n) >= context)
            low = n;
        else
            high = n;
        n = high > most && low * 2 < high ? low * 2 : low + (high - low) / 2;
        n = n > low ? n : low + 1;
    }
    p->of = NULL;
    p->s->settings = m;
    if (st == TN_OK)
        *seqs = low;
    return st;
}
