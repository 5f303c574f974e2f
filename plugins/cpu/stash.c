/* SPDX-License-Identifier: Apache-2.0 */
/* stash.c - experts that stay in the file (TN_PLACE_MAPPED): packed when a row first chooses
 * them, kept while there is room.
 *
 * The stash is cut into slots, each for one expert of one EXPERTS operation, up then down. Of
 * all operations together the expert that was chosen longest ago makes room for a new one:
 *
 *     newest -> slot -> slot -> ... -> oldest      (linked both ways; slots in use by the
 *                                                   portion that runs now are `pinned`)
 *
 * When all slots are pinned, the expert is computed straight: every worker packs the strips it
 * is about to multiply into memory of its own and forgets them. So a stash of any size, even
 * of none, gives the same bits; it only decides how often the file is read.
 *
 * Reading may fail, then the step does: the first failure is the step's, and what was being
 * packed leaves the stash again. Nothing here takes memory of its own while a step runs; the
 * reader may, and it may wait for a disk. */
#include "program.h"

#define FILL_STRIPS 16u           /* strips packed a claim */

static uint64_t kept_size(const cpu_weight *w)
{
    return w->mapped ? cpu_matrix_bytes(&w->matrix[0]) : 0;
}

/* -------------------------------------------------------------------------------- opening */

void cpu_stash_need(cpu_program *p, const cpu_weight *w)
{
    uint64_t pull = cpu_matrix_pull_size(&w->matrix[0], &w->spec.form);
    uint64_t strips = CPU_STRAIGHT_STRIPS * w->matrix[0].strip_size;
    p->pull_size = pull > p->pull_size ? pull : p->pull_size;
    p->straight_size = strips > p->straight_size ? strips : p->straight_size;
    p->mapped_size += w->spec.nexpert * w->piece_size;
}

tn_status cpu_shelf_open(cpu_program *p, const tn_op_experts *a, cpu_shelf **out, tn_err *err)
{
    cpu_weight *up = &p->weight[a->w_up], *down = &p->weight[a->w_down];
    *out = NULL;
    if (!up->mapped && !down->mapped)
        return TN_OK;
    cpu_shelf *s = cpu_take(p, 1, sizeof *s);
    uint32_t *slot = cpu_take(p, a->nexpert, sizeof *slot);
    if (s == NULL || slot == NULL)
        return tn_fail(err, TN_NO_MEMORY, "cpu: no memory for %u experts", a->nexpert);
    for (uint32_t i = 0; i < a->nexpert; i++)
        slot[i] = TN_NONE;
    *s = (cpu_shelf){.up = up, .down = down, .slot = slot, .next = p->shelf};
    p->shelf = *out = s;
    return TN_OK;
}

tn_status cpu_stash_open(cpu_program *p, tn_err *err)
{
    cpu_stash *t = &p->stash;
    for (const cpu_shelf *s = p->shelf; s != NULL; s = s->next) {
        uint64_t size = kept_size(s->up) + kept_size(s->down);
        t->slot_size = size > t->slot_size ? size : t->slot_size;
    }
    uint64_t n = t->slot_size > 0 ? p->stash_memory.size / t->slot_size : 0;
    t->nslot = n < TN_NONE ? (uint32_t)n : TN_NONE - 1;
    t->slot = cpu_take(p, t->nslot, sizeof *t->slot);
    if (t->slot == NULL)
        return tn_fail(err, TN_NO_MEMORY, "cpu: no memory to keep %u experts", t->nslot);
    for (uint32_t i = 0; i < t->nslot; i++)
        t->slot[i] = (cpu_slot){.newer = i > 0 ? i - 1 : TN_NONE,
                                .older = i + 1 < t->nslot ? i + 1 : TN_NONE};
    t->newest = t->nslot > 0 ? 0 : TN_NONE;
    t->oldest = t->nslot > 0 ? t->nslot - 1 : TN_NONE;
    return TN_OK;
}

/* ---------------------------------------------------------------------------------- slots */

static void make_newest(cpu_stash *t, uint32_t i)
{
    cpu_slot *s = &t->slot[i];
    s->pinned = t->turn;
    if (t->newest == i)
        return;
    t->slot[s->newer].older = s->older;
    if (s->older != TN_NONE)
        t->slot[s->older].newer = s->newer;
    else
        t->oldest = s->newer;
    s->newer = TN_NONE;
    s->older = t->newest;
    t->slot[t->newest].newer = i;
    t->newest = i;
}

static void point(cpu_shelf *s, uint32_t expert, uint8_t *data)
{
    if (s->up->mapped)
        s->up->matrix[expert].data = data;
    if (s->down->mapped)
        s->down->matrix[expert].data = data != NULL ? data + kept_size(s->up) : NULL;
}

static void drop(cpu_stash *t, uint32_t i)
{
    cpu_slot *s = &t->slot[i];
    if (s->shelf == NULL)
        return;
    point(s->shelf, s->expert, NULL);
    s->shelf->slot[s->expert] = TN_NONE;
    s->shelf = NULL;
}

/* The oldest slot becomes the expert's, unless this very portion needs it. */
static bool take_slot(cpu_program *p, cpu_shelf *s, uint32_t expert)
{
    cpu_stash *t = &p->stash;
    uint32_t i = t->oldest;
    if (i == TN_NONE || t->slot[i].pinned == t->turn)
        return false;
    drop(t, i);
    make_newest(t, i);
    t->slot[i].shelf = s;
    t->slot[i].expert = expert;
    s->slot[expert] = i;
    point(s, expert, p->stash_memory.data + i * t->slot_size);
    return true;
}

/* A hint for the disk: what is about to be read of an expert. */
static void announce(const cpu_weight *w, uint32_t expert)
{
    tn_err err;
    tn_block nothing = {.size = sizeof nothing};
    if (w->mapped)
        (void)w->reader.rows(w->reader.ctx, expert, 0, w->spec.n, &nothing, &err);
}

uint32_t cpu_stash_want(cpu_program *p, cpu_shelf *s, const uint32_t *active, uint32_t n,
                        uint32_t *fresh)
{
    uint32_t nfresh = 0;
    p->stash.turn++;
    for (uint32_t i = 0; i < n; i++)
        if (s->slot[active[i]] != TN_NONE)
            make_newest(&p->stash, s->slot[active[i]]);
    for (uint32_t i = 0; i < n; i++)
        if (s->slot[active[i]] == TN_NONE && take_slot(p, s, active[i]))
            fresh[nfresh++] = active[i];
    for (uint32_t i = 0; i < nfresh; i++) {
        announce(s->up, fresh[i]);
        announce(s->down, fresh[i]);
    }
    return nfresh;
}

void cpu_stash_drop(cpu_program *p, cpu_shelf *s, const uint32_t *fresh, uint32_t nfresh)
{
    for (uint32_t i = 0; i < nfresh; i++)
        drop(&p->stash, s->slot[fresh[i]]);
}

/* -------------------------------------------------------------------------------- packing */

static void give_up(cpu_program *p, uint32_t cmd, tn_status st, const tn_err *err)
{
    uint32_t not_yet = 0;
    if (!atomic_compare_exchange_strong(&p->failed, &not_yet, cmd + 1))
        return;
    p->status = st;
    if (p->err != NULL)
        *p->err = *err;
}

static void pack_strips(cpu_program *p, uint32_t cmd, const cpu_weight *w, uint32_t expert,
                        uint64_t s0, uint64_t s1, uint8_t *to, uint32_t worker)
{
    tn_err err = {.text = ""};
    tn_status st = cpu_matrix_pack_to(&w->matrix[expert], &w->spec.form, &w->reader, expert, s0,
                                      s1, p->worker[worker].pull, to, &err);
    if (st != TN_OK)
        give_up(p, cmd, st, &err);
}

static uint64_t runs_of(const cpu_weight *w)
{
    return w->mapped ? (w->matrix[0].nstrip + FILL_STRIPS - 1) / FILL_STRIPS : 0;
}

void cpu_stash_fill(cpu_program *p, uint32_t cmd, cpu_shelf *s, const uint32_t *fresh,
                    uint32_t nfresh, uint32_t worker)
{
    uint64_t nup = runs_of(s->up), each = nup + runs_of(s->down), n;
    while (cpu_claim(p, worker, nfresh * each, &n)) {
        uint32_t expert = fresh[n / each];
        const cpu_weight *w = n % each < nup ? s->up : s->down;
        const cpu_matrix *m = &w->matrix[expert];
        uint64_t s0 = (n % each < nup ? n % each : n % each - nup) * FILL_STRIPS;
        uint64_t s1 = s0 + FILL_STRIPS < m->nstrip ? s0 + FILL_STRIPS : m->nstrip;
        if (atomic_load_explicit(&p->failed, memory_order_relaxed) == 0)
            pack_strips(p, cmd, w, expert, s0, s1, m->data + s0 * m->strip_size, worker);
    }
}

void cpu_stash_strips(cpu_program *p, uint32_t cmd, const cpu_weight *w, uint32_t expert,
                      const cpu_set *set, const cpu_act *a, uint64_t m, uint64_t s0, uint64_t s1,
                      float *y, uint64_t ldy, uint32_t worker)
{
    cpu_matrix part = w->matrix[expert];
    part.data = p->worker[worker].straight;
    for (uint64_t s = s0; s < s1; s += CPU_STRAIGHT_STRIPS) {
        uint64_t end = s + CPU_STRAIGHT_STRIPS < s1 ? s + CPU_STRAIGHT_STRIPS : s1;
        uint64_t rows = w->spec.n - s * CPU_STRIP;
        if (atomic_load_explicit(&p->failed, memory_order_relaxed) == 0)
            pack_strips(p, cmd, w, expert, s, end, part.data, worker);
        part.nstrip = end - s;
        part.n = rows < part.nstrip * CPU_STRIP ? rows : part.nstrip * CPU_STRIP;
        p->k->multiply(&part, a, (uint32_t)m, 0, part.nstrip, set->quant != 0,
                       y + (s - s0) * CPU_STRIP, ldy, false);
    }
}
