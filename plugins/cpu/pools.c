/* SPDX-License-Identifier: Apache-2.0 */
/* pools.c - all memory of a program: bookkeeping, buffers, workspace, weights, blocks, slots.
 *
 * The workspace is laid out by one function that is run twice: without memory to learn the
 * size, and again to set the pointers. */
#include "program.h"

/* --------------------------------------------------------------------------- bookkeeping */

typedef struct cpu_piece {
    _Alignas(64) struct cpu_piece *next;
} cpu_piece;

void *cpu_take(cpu_program *p, uint64_t count, uint64_t size)
{
    const tn_host *h = p->dev->host;
    uint64_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes) || bytes > UINT64_MAX - sizeof(cpu_piece))
        return NULL;
    cpu_piece *piece = h->alloc(h->ctx, sizeof *piece + bytes);
    if (piece == NULL)
        return NULL;
    memset(piece, 0, sizeof *piece + bytes);
    piece->next = p->pieces;
    p->pieces = piece;
    return piece + 1;
}

void cpu_release(cpu_program *p)
{
    const tn_host *h = p->dev->host;
    cpu_region_close(&p->weights);
    cpu_region_close(&p->work);
    cpu_region_close(&p->cache_memory);
    cpu_region_close(&p->state_memory);
    cpu_region_close(&p->stash_memory);
    for (cpu_piece *piece = p->pieces, *next; piece != NULL; piece = next) {
        next = piece->next;
        h->release(h->ctx, piece);
    }
    h->release(h->ctx, p);
}

/* ------------------------------------------------------------------------ sharing memory */

/* Buffers that are never needed at the same time share memory. A buffer is needed from the
 * command that writes it anew to the last one that reads what was written; a model writes the
 * same few buffers anew in every layer. The commands that need a buffer are bits, and two
 * buffers may share when their bits do not meet:
 *
 *     command   0  1  2  3  4  5  6  7
 *     x         #  #  #  #  #  #  #  #     added to in every layer
 *     qkv       .  #  #  #  .  #  #  #     attention
 *     ff        .  .  .  .  #  .  .  .     may lie where qkv does
 *
 * With limits.profile nothing is shared, for peek may ask for any buffer; nor with several
 * sections, which see what others left. */

#define SHARE_MAX 2048u           /* beyond this many buffers placing them is left simple */

typedef struct bits {
    uint64_t *word;               /* [nbuffer, nword] bit c: command c needs the buffer */
    uint64_t nword;
} bits;

static void set(const bits *b, uint32_t buffer, uint32_t cmd)
{
    b->word[buffer * b->nword + cmd / 64] |= 1ull << cmd % 64;
}

static bool meet(const bits *b, uint32_t x, uint32_t y)
{
    for (uint64_t i = 0; i < b->nword; i++)
        if ((b->word[x * b->nword + i] & b->word[y * b->nword + i]) != 0)
            return true;
    return false;
}

/* What a command does with one buffer. */
typedef struct touch {
    bool used, read;
    uint64_t written;             /* columns written and not read */
} touch;

static touch touch_of(const cpu_cmd *c, uint32_t buffer)
{
    touch t = {0};
    for (uint32_t i = 0; i < c->nop; i++)
        for (uint32_t u = 0; u < c->first[i].nuse; u++) {
            const cpu_use *use = &c->first[i].use[u];
            if (use->buffer != buffer)
                continue;
            t.used = true;
            t.read = t.read || (use->mode & CPU_READ) != 0;
            t.written += use->mode == CPU_WRITE ? use->width : 0;
        }
    return t;
}

/* Backwards: before a command the buffer is needed when the command reads it, or when it is
 * needed afterwards and the command does not write all of it. Columns of one operation do not
 * overlap (checks.c), so their widths add up. */
static void find_needs(const cpu_program *p, uint32_t buffer, const bits *b)
{
    bool keep = (p->buffer[buffer].flags & TN_BUF_KEEP) != 0, needed = keep;
    for (uint32_t c = p->ncmd; c-- > 0;) {
        touch t = touch_of(&p->cmd[c], buffer);
        if (t.used || needed)
            set(b, buffer, c);
        needed = keep || t.read || (needed && t.written < p->buffer[buffer].width);
    }
}

static uint64_t floats_of(const cpu_program *p, uint32_t buffer)
{
    const cpu_buffer *b = &p->buffer[buffer];
    return b->formed ? cpu_rows_max(p, b->rows) * b->stride : 0;
}

/* The lowest place for a buffer beside the n that have theirs. */
static uint64_t lowest_place(const cpu_program *p, const uint32_t *placed, uint32_t n,
                             uint32_t buffer, const bits *b)
{
    uint64_t at = 0, size = floats_of(p, buffer);
    for (bool moved = true; moved;) {
        moved = false;
        for (uint32_t i = 0; i < n; i++) {
            uint64_t from = p->buffer[placed[i]].at, end = from + floats_of(p, placed[i]);
            if (at < end && from < at + size && meet(b, buffer, placed[i])) {
                at = end;
                moved = true;
            }
        }
    }
    return at;
}

static void note_end(cpu_program *p, uint32_t buffer)
{
    uint64_t end = p->buffer[buffer].at + floats_of(p, buffer);
    p->buffer_floats = end > p->buffer_floats ? end : p->buffer_floats;
}

/* Largest first, each as low as it fits. */
static void place_shared(cpu_program *p, uint32_t *order, const bits *b)
{
    for (uint32_t i = 0; i < p->nbuffer; i++) {
        uint32_t at = i;
        for (; at > 0 && floats_of(p, order[at - 1]) < floats_of(p, i); at--)
            order[at] = order[at - 1];
        order[at] = i;
        find_needs(p, i, b);
    }
    for (uint32_t i = 0; i < p->nbuffer; i++) {
        p->buffer[order[i]].at = lowest_place(p, order, i, order[i], b);
        note_end(p, order[i]);
    }
}

tn_status cpu_place_buffers(cpu_program *p, tn_err *err)
{
    if (p->lim.profile != 0 || p->nsection > 1 || p->nbuffer > SHARE_MAX) {
        for (uint32_t i = 0; i < p->nbuffer; i++) {
            p->buffer[i].at = p->buffer_floats;
            note_end(p, i);
        }
        return TN_OK;
    }
    bits b = {.nword = (p->ncmd + 63) / 64};
    uint32_t *order = cpu_take(p, p->nbuffer, sizeof *order);
    b.word = cpu_take(p, p->nbuffer * b.nword, sizeof *b.word);
    if (order == NULL || b.word == NULL)
        return tn_fail(err, TN_NO_MEMORY, "cpu: no memory to place buffers");
    place_shared(p, order, &b);
    return TN_OK;
}

/* ----------------------------------------------------------------------------- workspace */

/* Hands out 64-byte aligned pieces, or counts them when there is no base. */
typedef struct cursor {
    uint8_t *base;
    uint64_t at;
} cursor;

static void *place(cursor *c, uint64_t count, uint64_t size)
{
    void *p = c->base != NULL ? c->base + c->at : NULL;
    c->at += cpu_round(count * size, 64);
    return p;
}

static void place_worker(cpu_program *p, cursor *c, cpu_worker *w)
{
    uint64_t queries = (uint64_t)CPU_QUERIES * p->dim_max;
    *w = (cpu_worker){.row = place(c, p->row_floats, 4)};
    w->wide = place(c, CPU_WIDE, 4);
    w->room = place(c, CPU_ROOM_BYTES, 1);
    w->act = place(c, p->act_row_size, 1);
    w->query = place(c, queries, 4);
    w->acc = place(c, queries, 4);
    w->part = place(c, queries, 4);
    w->max = place(c, 2 * CPU_QUERIES, 4);
    w->sum = place(c, 2 * CPU_QUERIES, 4);
    w->first = place(c, CPU_QUERIES, 4);
    w->limit = place(c, CPU_QUERIES, 4);
    w->delta = place(c, p->delta_floats, 4);
    w->pair = place(c, p->pair_floats, 4);
    w->pull = place(c, p->pull_size, 1);
    w->straight = place(c, p->straight_size, 1);
}

static void place_head(cpu_program *p, cursor *c)
{
    uint64_t nsegment = (p->vocab_max + CPU_SEGMENT - 1) / CPU_SEGMENT;
    p->logits = place(c, p->logits_floats, sizeof *p->logits);
    p->segment = place(c, p->logits_rows * nsegment, sizeof *p->segment);
    for (uint32_t i = 0; i < p->ndraw; i++) {
        cpu_scratch s = {.z = place(c, p->vocab_max, 4)};
        s.value = place(c, p->vocab_max, 4);
        s.id = place(c, p->vocab_max, 4);
        s.segment = place(c, nsegment, sizeof *s.segment);
        s.racer = place(c, nsegment, sizeof *s.racer);
        p->scratch[i] = s;
    }
}

static void place_outcome(cpu_program *p, cursor *c, cpu_outcome *o)
{
    uint64_t outs = p->lim.outs_max, top = outs * p->lim.top_max;
    o->result = place(c, outs, sizeof *o->result);
    o->top_token = place(c, top, sizeof *o->top_token);
    o->top_logprob = place(c, top, sizeof *o->top_logprob);
    o->op_ns = place(c, p->nop_max, sizeof *o->op_ns);
}

static void place_step(cpu_program *p, cursor *c)
{
    uint64_t rows = p->lim.rows_max;
    p->token = place(c, rows, sizeof *p->token);
    p->pos = place(c, rows, sizeof *p->pos);
    for (uint32_t i = 0; i < p->nrope; i++) {
        p->rope[i].cos = place(c, rows * (p->rope[i].dims / 2), 4);
        p->rope[i].sin = place(c, rows * (p->rope[i].dims / 2), 4);
    }
    for (uint32_t i = 0; i < p->ntiling; i++)
        p->tiling[i].tile = place(c, rows, sizeof *p->tiling[i].tile);
}

static uint64_t most_rows(const cpu_program *p)
{
    uint64_t n = p->lim.rows_max;
    n = p->lim.outs_max > n ? p->lim.outs_max : n;
    return cpu_round(p->lim.seqs_max > n ? p->lim.seqs_max : n, 16);
}

uint64_t cpu_workspace(cpu_program *p, uint8_t *base)
{
    cursor c = {.base = base};
    p->buffer_data = place(&c, p->buffer_floats, sizeof(float));
    p->act = place(&c, most_rows(p) * p->act_row_size, 1);
    p->experts = place(&c, p->experts_size, 1);
    p->split = place(&c, p->split_floats, sizeof(float));
    p->gather = place(&c, p->gather_floats, sizeof(float));
    place_head(p, &c);
    place_step(p, &c);
    for (uint32_t i = 0; i < 2; i++)
        place_outcome(p, &c, &p->outcome[i]);
    for (uint32_t i = 0; i < p->nthread; i++)
        place_worker(p, &c, &p->worker[i]);
    for (uint32_t i = 0; i < p->nbuffer; i++)
        if (p->buffer[i].formed && base != NULL)
            p->buffer[i].data = p->buffer_data + p->buffer[i].at;
    return c.at;
}

uint64_t cpu_block_bytes(const cpu_program *p)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < p->ncache; i++)
        n += cpu_cache_block_size(&p->cache[i]);
    return n;
}

uint64_t cpu_neutral_bytes(const cpu_program *p)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < p->ncache; i++)
        n += cpu_cache_neutral_size(&p->cache[i]);
    return n;
}

uint64_t cpu_slot_bytes(const cpu_program *p)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < p->nstate; i++)
        n += p->state[i].slot_floats * sizeof(float);
    return n;
}

uint64_t cpu_settled_bytes(const cpu_program *p)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < p->nstate; i++)
        n += p->state[i].settled_floats * sizeof(float);
    return n;
}

/* ------------------------------------------------------------------------------- reserve */

static void place_weight(cpu_program *p, cpu_weight *w)
{
    uint8_t *at = p->weights.data + w->at;
    w->perms = at + (w->mapped ? 0 : w->spec.nexpert * w->piece_size);
    if (w->spec.role == TN_ROLE_VECTOR) {
        w->vector = (float *)(void *)at;
    } else if (w->matrix == NULL) {
        w->bytes = at;
    } else {
        for (uint32_t e = 0; e < w->spec.nexpert; e++) {
            w->matrix[e].data = w->mapped ? NULL : at + e * w->piece_size;
            if (w->perm_size > 0)
                w->matrix[e].perm = (const int32_t *)(const void *)(w->perms + e * w->perm_size);
        }
    }
}

static void place_pools(cpu_program *p)
{
    uint8_t *at = p->cache_memory.data;
    for (uint32_t i = 0; i < p->ncache; i++) {
        p->cache[i].data = at;
        at += p->nblock * cpu_cache_block_size(&p->cache[i]);
    }
    float *slot = (float *)(void *)p->state_memory.data;
    for (uint32_t i = 0; i < p->nstate; i++) {
        p->state[i].data = slot;
        slot += p->nslot * p->state[i].slot_floats;
    }
}

static tn_status check_pools(const cpu_program *p, const tn_pools *pools, tn_err *err)
{
    if (p->reserved)
        return tn_fail(err, TN_INTERNAL, "cpu: reserve was called twice");
    if (pools == NULL || pools->size < sizeof *pools)
        return tn_fail(err, TN_INTERNAL, "cpu: pools are missing or too short");
    if (pools->nblock > INT32_MAX || pools->nslot > INT32_MAX)
        return tn_fail(err, TN_CONFIG, "cpu: %u blocks, %u slots; at most %d each",
                       pools->nblock, pools->nslot, INT32_MAX);
    if ((p->ncache > 0 && pools->nblock < 1) || (p->nstate > 0 && pools->nslot < 1))
        return tn_fail(err, TN_CONFIG, "cpu: %u blocks, %u slots; the recipe has %u caches and "
                       "%u states", pools->nblock, pools->nslot, p->ncache, p->nstate);
    return TN_OK;
}

tn_status cpu_reserve(cpu_program *p, const tn_pools *pools, tn_err *err)
{
    tn_status st = check_pools(p, pools, err);
    if (st != TN_OK)
        return st;
    uint32_t huge = p->dev->huge;
    uint64_t blocks, slots;
    p->verdict = cpu_take(p, (uint64_t)pools->nslot + 1, sizeof *p->verdict);
    if (p->verdict == NULL)
        return tn_fail(err, TN_NO_MEMORY, "cpu: no memory to keep %u states", pools->nslot);
    if (__builtin_mul_overflow(cpu_block_bytes(p), (uint64_t)pools->nblock, &blocks) ||
        __builtin_mul_overflow(cpu_slot_bytes(p), (uint64_t)pools->nslot, &slots))
        return tn_fail(err, TN_NO_MEMORY, "cpu: the cache is larger than any memory");
    if ((st = cpu_region_open(&p->weights, p->weight_size, huge, "the weights", err)) != TN_OK)
        return st;
    st = cpu_region_open(&p->work, cpu_workspace(p, NULL), 0, "the workspace", err);
    if (st != TN_OK)
        goto close_weights;
    st = cpu_region_open(&p->cache_memory, blocks, huge, "the cache", err);
    if (st != TN_OK)
        goto close_work;
    st = cpu_region_open(&p->state_memory, slots, huge, "the states", err);
    if (st != TN_OK)
        goto close_cache;
    uint64_t kept = (uint64_t)pools->mapped_kib * 1024;
    kept = kept < p->mapped_size ? kept : p->mapped_size;
    st = cpu_region_open(&p->stash_memory, kept, huge, "the experts kept", err);
    if (st != TN_OK)
        goto close_states;
    p->nblock = pools->nblock;
    p->nslot = pools->nslot;
    cpu_workspace(p, p->work.data);
    for (uint32_t i = 0; i < p->nweight; i++)
        place_weight(p, &p->weight[i]);
    place_pools(p);
    p->reserved = 1;
    return TN_OK;
close_states:
    cpu_region_close(&p->state_memory);
close_cache:
    cpu_region_close(&p->cache_memory);
close_work:
    cpu_region_close(&p->work);
close_weights:
    cpu_region_close(&p->weights);
    return st;
}
