/* SPDX-License-Identifier: Apache-2.0 */
/* specs.c - takes a recipe in: buffers, weights, tables, caches, limits.
 *
 * Everything is copied into structs of our own, so that a table written against an older
 * contract (smaller structs) reads as zero where it says nothing. Sizes and kinds are checked
 * here; what an operation says about them is checks.c's. */
#include "program.h"

#include <math.h>

#define WIDTH_MAX (1u << 24)      /* columns of a buffer */
#define SIDE_MAX (1ull << 31)     /* rows or columns of a weight */
#define ROWS_MAX (1u << 20)
#define COUNT_MAX (1u << 20)      /* of anything in a recipe */
#define DIM_MAX 4096u             /* of a head */

/* Element i of an array whose elements have the size that the first one names. */
static const void *element(const void *array, uint32_t i)
{
    uint32_t size;
    memcpy(&size, array, sizeof size);
    return (const char *)array + (uint64_t)i * size;
}

/* Copies a struct that begins with its size; what its author lacked stays zero. */
static void copy_sized(void *to, const void *from, uint32_t to_size)
{
    uint32_t size;
    memcpy(&size, from, sizeof size);
    memset(to, 0, to_size);
    memcpy(to, from, size < to_size ? size : to_size);
}

static const char *name_or(const char *name)
{
    return name != NULL ? name : "?";
}

/* --------------------------------------------------------------------- the checked parts */

static tn_status bad(const cpu_program *p, tn_err *err, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static tn_status bad(const cpu_program *p, tn_err *err, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return tn_fail(err, TN_INTERNAL, "cpu: recipe %s: %s", p->name, text);
}

static tn_status take_buffers(cpu_program *p, const tn_recipe *r, tn_err *err)
{
    p->buffer = cpu_take(p, r->nbuffer, sizeof *p->buffer);
    if (p->buffer == NULL)
        return tn_fail(err, TN_NO_MEMORY, "cpu: no memory for %u buffers", r->nbuffer);
    for (uint32_t i = 0; i < r->nbuffer; i++) {
        tn_buffer b;
        copy_sized(&b, element(r->buffer, i), sizeof b);
        if (b.rows < TN_ROWS_TOKENS || b.rows > TN_ROWS_SEQS)
            return bad(p, err, "buffer %u %s: rows are of kind %u; expected 1 .. 3", i,
                       name_or(b.name), b.rows);
        if (b.width < 1 || b.width > WIDTH_MAX)
            return bad(p, err, "buffer %u %s: width %u is outside 1 .. %u", i, name_or(b.name),
                       b.width, WIDTH_MAX);
        if (b.dtype != TN_F32 && b.dtype != TN_F16 && b.dtype != TN_BF16 && b.dtype != TN_I32)
            return bad(p, err, "buffer %u %s: type %u; expected f32, f16, bf16 or i32", i,
                       name_or(b.name), b.dtype);
        p->buffer[i] = (cpu_buffer){.name = name_or(b.name), .rows = b.rows, .width = b.width,
                                    .dtype = b.dtype, .flags = b.flags,
                                    .stride = cpu_round(b.width, 16)};
    }
    p->nbuffer = r->nbuffer;
    return TN_OK;
}

static tn_status bad_weight(const cpu_program *p, uint32_t i, const tn_weight_spec *s,
                            tn_status st, tn_err *err, const char *what)
{
    return tn_fail(err, st, "cpu: recipe %s: weight %u %s [%llu, %llu]: %s", p->name, i, s->name,
                   (unsigned long long)s->n, (unsigned long long)s->k, what);
}

static tn_cpu_multiply find_multiply(const tn_weight_spec *s)
{
    tn_cpu_multiply f = NULL;
    for (uint32_t i = 0; i < s->nmultiply; i++) {
        const tn_multiply *m = element(s->multiply, i);
        if (m->device != NULL && strcmp(m->device, "cpu") == 0)
            memcpy(&f, &m->entry, sizeof f);
    }
    return f;
}

static tn_status check_private(const cpu_program *p, uint32_t i, cpu_weight *w, tn_err *err)
{
    const tn_weight_spec *s = &w->spec;
    if (s->multiply == NULL || (w->multiply = find_multiply(s)) == NULL)
        return bad_weight(p, i, s, TN_UNSUPPORTED, err,
                          "its private form brings no multiply for the device cpu");
    if (s->role == TN_ROLE_VECTOR)
        return bad_weight(p, i, s, TN_UNSUPPORTED, err, "a vector needs a plain form");
    if (s->form.bytes < 1 || s->form.bytes > 1ull << 44)
        return bad_weight(p, i, s, TN_INTERNAL, err, "its private form has no sensible size");
    w->piece_size = cpu_round(s->form.bytes, 64);
    return TN_OK;
}

static tn_status check_packed(cpu_program *p, uint32_t i, cpu_weight *w, tn_err *err)
{
    const tn_weight_spec *s = &w->spec;
    w->matrix = cpu_take(p, s->nexpert, sizeof *w->matrix);
    if (w->matrix == NULL)
        return tn_fail(err, TN_NO_MEMORY, "cpu: no memory for the %u matrices of %s", s->nexpert,
                       s->name);
    if (!cpu_matrix_plan(&s->form, s->n, s->k, s->requant, &w->matrix[0])) {
        char text[96];
        snprintf(text, sizeof text, "form %u with group %u and %llu columns cannot be packed",
                 s->form.kind, s->form.group, (unsigned long long)s->form.cols);
        return bad_weight(p, i, s, TN_UNSUPPORTED, err, text);
    }
    for (uint32_t e = 1; e < s->nexpert; e++)
        w->matrix[e] = w->matrix[0];
    w->piece_size = cpu_matrix_bytes(&w->matrix[0]);
    if ((s->form.flags & TN_FORM_PERM) != 0)
        w->perm_size = cpu_round(w->matrix[0].cols * sizeof(int32_t), 64);
    return TN_OK;
}

static bool is_plain(uint32_t kind)
{
    return kind == TN_FORM_F32 || kind == TN_FORM_F16 || kind == TN_FORM_BF16;
}

static tn_status check_weight(cpu_program *p, uint32_t i, cpu_weight *w, tn_err *err)
{
    const tn_weight_spec *s = &w->spec;
    if (s->role < TN_ROLE_DENSE || s->role > TN_ROLE_VECTOR)
        return bad_weight(p, i, s, TN_UNSUPPORTED, err, "its role is none of 1 .. 6");
    if (s->n < 1 || s->k < 1 || s->n > SIDE_MAX || s->k > SIDE_MAX || s->n * s->k > 1ull << 40)
        return bad_weight(p, i, s, TN_INTERNAL, err, "impossible shape");
    if (s->nexpert < 1 || s->nexpert > 65536 || (s->nexpert > 1 && s->role != TN_ROLE_EXPERTS))
        return bad_weight(p, i, s, TN_INTERNAL, err, "impossible number of experts");
    if (s->place == TN_PLACE_MAPPED &&
        (s->role != TN_ROLE_EXPERTS || s->form.kind == TN_FORM_PRIVATE))
        return bad_weight(p, i, s, TN_UNSUPPORTED, err,
                          "only experts in a neutral form can be left in the file map");
    if (s->place > TN_PLACE_MAPPED)
        return bad_weight(p, i, s, TN_UNSUPPORTED, err, "unknown place");
    if (s->role == TN_ROLE_VECTOR) {
        if (!is_plain(s->form.kind))
            return bad_weight(p, i, s, TN_UNSUPPORTED, err, "a vector needs a plain form");
        w->piece_size = cpu_round(s->n * s->k * sizeof(float), 64);
        return TN_OK;
    }
    if (s->form.kind == TN_FORM_PRIVATE)
        return check_private(p, i, w, err);
    tn_status st = check_packed(p, i, w, err);
    w->mapped = st == TN_OK && s->place == TN_PLACE_MAPPED;
    if (w->mapped)
        cpu_stash_need(p, w);
    return st;
}

static tn_status take_weights(cpu_program *p, const tn_recipe *r, tn_err *err)
{
    p->weight = cpu_take(p, r->nweight, sizeof *p->weight);
    if (p->weight == NULL)
        return tn_fail(err, TN_NO_MEMORY, "cpu: no memory for %u weights", r->nweight);
    for (uint32_t i = 0; i < r->nweight; i++) {
        cpu_weight *w = &p->weight[i];
        copy_sized(&w->spec, element(r->weight, i), sizeof w->spec);
        w->spec.name = name_or(w->spec.name);
        tn_status st = check_weight(p, i, w, err);
        if (st != TN_OK)
            return st;
        w->at = p->weight_size;
        w->size = w->spec.nexpert * ((w->mapped ? 0 : w->piece_size) + w->perm_size);
        p->weight_size += w->size;
    }
    p->nweight = r->nweight;
    return TN_OK;
}

static tn_status take_ropes(cpu_program *p, const tn_recipe *r, tn_err *err)
{
    p->rope = cpu_take(p, r->nrope, sizeof *p->rope);
    if (p->rope == NULL)
        return tn_fail(err, TN_NO_MEMORY, "cpu: no memory for %u rotary tables", r->nrope);
    for (uint32_t i = 0; i < r->nrope; i++) {
        tn_rope t;
        copy_sized(&t, element(r->rope, i), sizeof t);
        if (t.dims < 2 || t.dims % 2 != 0 || t.dims > DIM_MAX || t.inv_freq == NULL ||
            t.pairing > TN_ROPE_PAIRS || t.npos < 1 || !isfinite(t.scale))
            return bad(p, err, "rotary table %u: %u dims, pairing %u, %u positions; expected an "
                       "even number up to %u, 0 or 1, and at least 1", i, t.dims, t.pairing,
                       t.npos, DIM_MAX);
        cpu_rotary *to = &p->rope[i];
        *to = (cpu_rotary){.dims = t.dims, .pairing = t.pairing, .npos = t.npos,
                           .scale = t.scale};
        to->inv_freq = cpu_take(p, t.dims / 2, sizeof *to->inv_freq);
        if (to->inv_freq == NULL)
            return tn_fail(err, TN_NO_MEMORY, "cpu: no memory for a rotary table");
        memcpy(to->inv_freq, t.inv_freq, t.dims / 2 * sizeof *to->inv_freq);
        for (uint32_t j = 0; j < t.dims / 2; j++)
            if (!isfinite(t.inv_freq[j]))
                return bad(p, err, "rotary table %u: frequency %u is not finite", i, j);
    }
    p->nrope = r->nrope;
    return TN_OK;
}

static tn_status take_caches(cpu_program *p, const tn_recipe *r, tn_err *err)
{
    p->cache = cpu_take(p, r->ncache, sizeof *p->cache);
    p->state = cpu_take(p, r->nstate, sizeof *p->state);
    if (p->cache == NULL || p->state == NULL)
        return tn_fail(err, TN_NO_MEMORY, "cpu: no memory for caches and states");
    for (uint32_t i = 0; i < r->ncache; i++) {
        tn_cache_spec c;
        copy_sized(&c, element(r->cache, i), sizeof c);
        if (c.heads < 1 || c.heads > 65536 || c.k_dim < 1 || c.k_dim > DIM_MAX || c.v_dim < 1 ||
            c.v_dim > DIM_MAX)
            return bad(p, err, "cache %u: %u heads of %u and %u dims; expected 1 .. 65536 of "
                       "1 .. %u", i, c.heads, c.k_dim, c.v_dim, DIM_MAX);
        cpu_cache_init(&p->cache[i], &c, p->lim.block_tokens, p->cache_dtype);
    }
    for (uint32_t i = 0; i < r->nstate; i++) {
        tn_state_spec s;
        copy_sized(&s, element(r->state, i), sizeof s);
        if (s.heads < 1 || s.heads > 65536 || s.k_dim < 1 || s.k_dim > DIM_MAX || s.v_dim < 1 ||
            s.v_dim > DIM_MAX || s.conv_width < 1 || s.conv_width > WIDTH_MAX ||
            s.conv_keep < 1 || s.conv_keep > 64)
            return bad(p, err, "state %u: %u heads of %u x %u, %u channels, %u columns kept; "
                       "expected 1 .. 65536 of 1 .. %u, 1 .. %u, 1 .. 64", i, s.heads, s.k_dim,
                       s.v_dim, s.conv_width, s.conv_keep, DIM_MAX, WIDTH_MAX);
        cpu_state_init(&p->state[i], &s, p->lim.drafts_max);
    }
    p->ncache = r->ncache;
    p->nstate = r->nstate;
    return TN_OK;
}

static const uint32_t args_size[] = {
    0, sizeof(tn_op_embed), sizeof(tn_op_norm), sizeof(tn_op_linear), sizeof(tn_op_act_mul),
    sizeof(tn_op_heads), sizeof(tn_op_attend), sizeof(tn_op_delta), sizeof(tn_op_route),
    sizeof(tn_op_experts), sizeof(tn_op_mix), sizeof(tn_op_concat), sizeof(tn_op_pick),
    sizeof(tn_op_sum), sizeof(tn_op_gather), sizeof(tn_op_logits), sizeof(tn_op_sample),
};

static tn_status take_ops(cpu_program *p, const tn_recipe *r, tn_err *err)
{
    p->op = cpu_take(p, r->nop, sizeof *p->op);
    if (p->op == NULL)
        return tn_fail(err, TN_NO_MEMORY, "cpu: no memory for %u operations", r->nop);
    for (uint32_t i = 0; i < r->nop; i++) {
        tn_op o;
        copy_sized(&o, element(r->op, i), sizeof o);
        cpu_op *to = &p->op[i];
        to->kind = o.kind;
        to->index = i;
        to->name = name_or(o.name);
        if (o.kind < TN_OP_EMBED || o.kind > TN_OP_SAMPLE)
            return tn_fail(err, TN_UNSUPPORTED, "cpu: recipe %s: operation %u %s: kind %u is not "
                           "known to this device", p->name, i, to->name, o.kind);
        uint32_t size = 0;
        if (o.args != NULL)
            memcpy(&size, o.args, sizeof size);
        if (size < args_size[o.kind])
            return cpu_bad_op(p, to, TN_INTERNAL, err, "%u bytes of arguments; expected %u", size,
                              args_size[o.kind]);
        memcpy(&to->a, o.args, args_size[o.kind]);
    }
    p->nop = r->nop;
    return TN_OK;
}

static tn_status take_sections(cpu_program *p, const tn_recipe *r, tn_err *err)
{
    p->section = cpu_take(p, r->nsection, sizeof *p->section);
    if (p->section == NULL)
        return tn_fail(err, TN_NO_MEMORY, "cpu: no memory for sections");
    uint64_t next = 0;
    for (uint32_t i = 0; i < r->nsection; i++) {
        tn_section s;
        copy_sized(&s, element(r->section, i), sizeof s);
        if (s.op0 != next || s.nop < 1 || (uint64_t)s.op0 + s.nop > r->nop)
            return bad(p, err, "section %u %s: operations %u + %u; expected to begin at %llu and "
                       "to end by %u", i, name_or(s.name), s.op0, s.nop,
                       (unsigned long long)next, r->nop);
        p->section[i] = (cpu_section){.op0 = s.op0, .nop = s.nop};
        p->nop_max = s.nop > p->nop_max ? s.nop : p->nop_max;
        next = (uint64_t)s.op0 + s.nop;
    }
    if (next != r->nop)
        return bad(p, err, "operations from %llu on belong to no section",
                   (unsigned long long)next);
    p->nsection = r->nsection;
    return TN_OK;
}

/* ------------------------------------------------------------------------------- limits */

static tn_status check_cache_dtype(cpu_program *p, tn_err *err)
{
    static const char *const name[] = {"?", "f32", "f16", "bf16", "f64", "i8", "u8", "i16",
                                       "u16", "i32", "u32", "i64", "u64", "bool", "f8_e4m3",
                                       "f8_e5m2"};
    uint32_t d = p->lim.cache_dtype;
    if (p->lim.exact != 0 && (d == 0 || d == TN_F32)) {
        p->cache_dtype = TN_F32;
        return TN_OK;
    }
    p->cache_dtype = d == 0 ? TN_F16 : d;
    if (d == 0 || d == TN_F16 || d == TN_BF16 || d == TN_F32)
        return TN_OK;
    return tn_fail(err, TN_UNSUPPORTED, "cpu: a cache of type %s is not offered; expected f16, "
                   "bf16 or f32", d <= TN_F8_E5M2 ? name[d] : "?");
}

static tn_status check_number(const char *name, uint64_t v, uint64_t least, uint64_t most,
                              tn_err *err)
{
    if (v >= least && v <= most)
        return TN_OK;
    return tn_fail(err, TN_CONFIG, "cpu: limit %s: %llu is outside %llu .. %llu", name,
                   (unsigned long long)v, (unsigned long long)least, (unsigned long long)most);
}

static tn_status take_limits(cpu_program *p, const tn_recipe *r, const tn_limits *l, tn_err *err)
{
    copy_sized(&p->lim, l, sizeof p->lim);
    if (p->lim.nrank == 0)
        p->lim.nrank = 1;
    const struct { const char *name; uint64_t v, least, most; } bound[] = {
        {"rows_max", p->lim.rows_max, 1, ROWS_MAX},
        {"seqs_max", p->lim.seqs_max, 1, ROWS_MAX},
        {"outs_max", p->lim.outs_max, 1, ROWS_MAX},
        {"blocks_max", p->lim.blocks_max, r->ncache > 0, INT32_MAX},
        {"block_tokens", p->lim.block_tokens, r->ncache > 0, 4096},
        {"context_max", p->lim.context_max, 1, INT32_MAX - 1},
        {"top_max", p->lim.top_max, 0, 1u << 20},
        {"rank", p->lim.rank, 0, p->lim.nrank - 1},
        {"nrank", p->lim.nrank, 1, 65536},
    };
    for (uint32_t i = 0; i < sizeof bound / sizeof bound[0]; i++) {
        tn_status st = check_number(bound[i].name, bound[i].v, bound[i].least, bound[i].most, err);
        if (st != TN_OK)
            return st;
    }
    const tn_comm *comm = p->lim.comm;
    if (p->lim.nrank > 1 && (comm == NULL || comm->all_reduce == NULL ||
                             comm->all_gather == NULL || p->lim.group == NULL))
        return tn_fail(err, TN_CONFIG, "cpu: %u ranks need a communicator", p->lim.nrank);
    if (p->lim.nrank > 1 && (comm->flags & TN_COMM_HOST) == 0)
        return tn_fail(err, TN_UNSUPPORTED, "cpu: the communicator does not work on host memory");
    return check_cache_dtype(p, err);
}

/* Arrays that are announced must be there. */
static tn_status check_arrays(const cpu_program *p, const tn_recipe *r, tn_err *err)
{
    const struct { const char *name; uint32_t n; const void *array; } part[] = {
        {"buffers", r->nbuffer, r->buffer}, {"weights", r->nweight, r->weight},
        {"operations", r->nop, r->op}, {"rotary tables", r->nrope, r->rope},
        {"caches", r->ncache, r->cache}, {"states", r->nstate, r->state},
        {"sections", r->nsection, r->section},
    };
    for (uint32_t i = 0; i < sizeof part / sizeof part[0]; i++)
        if (part[i].n > COUNT_MAX || (part[i].n > 0 && part[i].array == NULL))
            return bad(p, err, "%u %s %s; at most %u", part[i].n, part[i].name,
                       part[i].array == NULL ? "without an array" : "announced", COUNT_MAX);
    if (r->nsection < 1 || r->nop < 1)
        return bad(p, err, "%u operations in %u sections; expected at least one", r->nop,
                   r->nsection);
    return TN_OK;
}

tn_status cpu_take_specs(cpu_program *p, const tn_recipe *r, const tn_limits *l, tn_err *err)
{
    if (r == NULL || r->size < sizeof *r || l == NULL || l->size < sizeof *l)
        return tn_fail(err, TN_INTERNAL, "cpu: recipe or limits are missing or too short");
    p->name = name_or(r->name);
    tn_status st = check_arrays(p, r, err);
    if (st == TN_OK)
        st = take_limits(p, r, l, err);
    tn_status (*const take[])(cpu_program *, const tn_recipe *, tn_err *) = {
        take_buffers, take_weights, take_ropes, take_caches, take_ops, take_sections,
    };
    for (uint32_t i = 0; st == TN_OK && i < sizeof take / sizeof take[0]; i++)
        st = take[i](p, r, err);
    return st;
}
