/* SPDX-License-Identifier: Apache-2.0 */
/* recipe.c - building a recipe piece by piece. */
#include "recipe.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void tn_draft_open(tn_draft *d, const char *name, uint32_t act_dtype, uint32_t vocab)
{
    *d = (tn_draft){0};
    tn_arena_open(&d->arena, 0);
    d->recipe = (tn_recipe){.size = sizeof d->recipe, .act_dtype = act_dtype, .vocab = vocab};
    d->recipe.name = tn_arena_text(&d->arena, name, strlen(name));
    d->failed = d->recipe.name == NULL;
}

void tn_draft_close(tn_draft *d)
{
    tn_arena_close(&d->arena);
    *d = (tn_draft){0};
}

static const char *format_name(tn_draft *d, const char *fmt, va_list ap)
{
    char text[256];
    int n = vsnprintf(text, sizeof text, fmt, ap);
    const char *copy = n >= 0 ? tn_arena_text(&d->arena, text, strlen(text)) : NULL;
    if (copy == NULL)
        d->failed = true;
    return copy;
}

/* Room for one more element of `size` bytes in *list; the old array stays in the arena. */
static void *grow(tn_draft *d, void *list, uint32_t used, uint32_t *cap, size_t size)
{
    if (d->failed || used < *cap)
        return list;
    uint32_t more = *cap == 0 ? 64 : *cap * 2;
    void *bigger = tn_arena_array(&d->arena, more, size);
    if (bigger == NULL) {
        d->failed = true;
        return list;
    }
    if (used > 0)
        memcpy(bigger, list, used * size);
    *cap = more;
    return bigger;
}

uint32_t tn_draft_buffer(tn_draft *d, uint32_t rows, uint32_t width, uint32_t dtype,
                         const char *name)
{
    uint32_t i = d->recipe.nbuffer;
    d->buffer = grow(d, d->buffer, i, &d->cap_buffer, sizeof *d->buffer);
    const char *copy = tn_arena_text(&d->arena, name, strlen(name));
    if (d->failed || copy == NULL) {
        d->failed = true;
        return TN_NONE;
    }
    d->buffer[i] = (tn_buffer){.size = sizeof *d->buffer, .rows = rows, .width = width,
                               .dtype = dtype, .name = copy};
    d->recipe.nbuffer++;
    return i;
}

static uint32_t add_weight(tn_draft *d, const tn_weight_spec *spec, uint32_t nslice)
{
    uint32_t i = d->recipe.nweight, cap = d->cap_weight;
    d->weight = grow(d, d->weight, i, &d->cap_weight, sizeof *d->weight);
    d->source = grow(d, d->source, i, &cap, sizeof *d->source);
    tn_slice *slice = tn_arena_array(&d->arena, (size_t)spec->nexpert * nslice, sizeof *slice);
    if (d->failed || slice == NULL) {
        d->failed = true;
        return TN_NONE;
    }
    memset(slice, 0, (size_t)spec->nexpert * nslice * sizeof *slice);
    d->weight[i] = *spec;
    d->source[i] = (tn_source){.slice = slice, .nslice = nslice, .col1 = spec->k};
    d->recipe.nweight++;
    return i;
}

void tn_draft_slice(tn_draft *d, uint32_t w, uint32_t i, const tn_slice *slice)
{
    if (!d->failed)
        d->source[w].slice[i] = *slice;
}

void tn_draft_columns(tn_draft *d, uint32_t w, uint64_t col0, uint64_t col1)
{
    if (d->failed)
        return;
    d->source[w].col0 = col0;
    d->source[w].col1 = col1;
    d->weight[w].k = col1 - col0;
}

static uint32_t add_whole(tn_draft *d, uint32_t role, uint64_t n, uint64_t k, const char *name)
{
    tn_weight_spec spec = {.size = sizeof spec, .role = role, .nexpert = 1, .n = n, .k = k,
                           .name = name};
    uint32_t w = add_weight(d, &spec, 1);
    tn_slice whole = {.module = name, .n = n, .k = k, .row1 = n, .bare = role == TN_ROLE_VECTOR};
    tn_draft_slice(d, w, 0, &whole);
    return w;
}

uint32_t tn_draft_matrix(tn_draft *d, uint32_t role, uint64_t n, uint64_t k, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    const char *name = format_name(d, fmt, ap);
    va_end(ap);
    return add_whole(d, role, n, k, name);
}

uint32_t tn_draft_vector(tn_draft *d, uint64_t k, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    const char *name = format_name(d, fmt, ap);
    va_end(ap);
    return add_whole(d, TN_ROLE_VECTOR, 1, k, name);
}

uint32_t tn_draft_stack(tn_draft *d, uint32_t role, uint32_t nexpert, uint32_t nslice, uint64_t n,
                        uint64_t k, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    const char *name = format_name(d, fmt, ap);
    va_end(ap);
    tn_weight_spec spec = {.size = sizeof spec, .role = role, .nexpert = nexpert, .n = n, .k = k,
                           .name = name};
    return add_weight(d, &spec, nslice);
}

const char *tn_draft_name(tn_draft *d, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    const char *name = format_name(d, fmt, ap);
    va_end(ap);
    return name;
}

uint32_t tn_draft_rope(tn_draft *d, const tn_model_conf *c, uint32_t npos)
{
    uint32_t i = d->recipe.nrope;
    d->rope = grow(d, d->rope, i, &d->cap_rope, sizeof *d->rope);
    double *inv = tn_arena_array(&d->arena, c->rope_dims / 2, sizeof *inv);
    if (d->failed || inv == NULL) {
        d->failed = true;
        return TN_NONE;
    }
    double scale = tn_rope_fill(c, inv);
    d->rope[i] = (tn_rope){.size = sizeof *d->rope, .pairing = TN_ROPE_HALF,
                           .dims = c->rope_dims, .npos = npos, .scale = scale, .inv_freq = inv};
    d->recipe.nrope++;
    return i;
}

uint32_t tn_draft_cache(tn_draft *d, uint32_t heads, uint32_t k_dim, uint32_t v_dim)
{
    uint32_t i = d->recipe.ncache;
    d->cache = grow(d, d->cache, i, &d->cap_cache, sizeof *d->cache);
    if (d->failed)
        return TN_NONE;
    d->cache[i] = (tn_cache_spec){.size = sizeof *d->cache, .heads = heads, .k_dim = k_dim,
                                  .v_dim = v_dim};
    d->recipe.ncache++;
    return i;
}

uint32_t tn_draft_state(tn_draft *d, const tn_delta_conf *c, uint32_t k_heads, uint32_t v_heads)
{
    uint32_t i = d->recipe.nstate;
    d->state = grow(d, d->state, i, &d->cap_state, sizeof *d->state);
    if (d->failed)
        return TN_NONE;
    d->state[i] = (tn_state_spec){
        .size = sizeof *d->state,
        .heads = v_heads,
        .k_dim = c->k_dim,
        .v_dim = c->v_dim,
        .conv_width = 2 * k_heads * c->k_dim + v_heads * c->v_dim,
        .conv_keep = c->kernel - 1,
    };
    d->recipe.nstate++;
    return i;
}

void tn_draft_op(tn_draft *d, uint32_t kind, uint32_t layer, const void *args, const char *fmt,
                 ...)
{
    va_list ap;
    va_start(ap, fmt);
    const char *name = format_name(d, fmt, ap);
    va_end(ap);
    uint32_t i = d->recipe.nop, size;
    memcpy(&size, args, sizeof size);
    d->op = grow(d, d->op, i, &d->cap_op, sizeof *d->op);
    void *copy = tn_arena_take(&d->arena, size);
    if (d->failed || copy == NULL) {
        d->failed = true;
        return;
    }
    memcpy(copy, args, size);
    d->op[i] = (tn_op){.size = sizeof *d->op, .kind = kind, .layer = layer, .args = copy,
                       .name = name};
    d->recipe.nop++;
}

void tn_draft_section(tn_draft *d, const char *name)
{
    uint32_t i = d->recipe.nsection, from = 0;
    if (i > 0)
        from = d->section[i - 1].op0 + d->section[i - 1].nop;
    d->section = grow(d, d->section, i, &d->cap_section, sizeof *d->section);
    const char *copy = tn_arena_text(&d->arena, name, strlen(name));
    if (d->failed || copy == NULL) {
        d->failed = true;
        return;
    }
    d->section[i] = (tn_section){.size = sizeof *d->section, .op0 = from,
                                 .nop = d->recipe.nop - from, .name = copy};
    d->recipe.nsection++;
}

tn_status tn_draft_finish(tn_draft *d, tn_err *err)
{
    if (d->failed)
        return tn_fail(err, TN_NO_MEMORY, "recipe: no memory");
    d->recipe.buffer = d->buffer;
    d->recipe.weight = d->weight;
    d->recipe.op = d->op;
    d->recipe.rope = d->rope;
    d->recipe.cache = d->cache;
    d->recipe.state = d->state;
    d->recipe.section = d->section;
    return TN_OK;
}
