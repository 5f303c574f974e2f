/* SPDX-License-Identifier: Apache-2.0 */
/* loader_table.c - what became of every weight: a table, and what a token reads of it. */
#include "loader.h"

#include "buf.h"

/* 0 where the device does not tell. */
static uint64_t packed_bytes(const tn_device *device, void *program, uint32_t w)
{
    return program != NULL && device->weight_bytes != NULL ? device->weight_bytes(program, w) : 0;
}

/* Of a stack of experts, those that one token chooses. */
static uint64_t chosen_bytes(const tn_recipe *r, uint32_t w, uint64_t bytes)
{
    for (uint32_t i = 0; i < r->nop; i++) {
        const tn_op_experts *a = r->op[i].args;
        if (r->op[i].kind == TN_OP_EXPERTS && (a->w_up == w || a->w_down == w))
            return bytes / a->nexpert * a->ntop;
    }
    return bytes;
}

uint64_t tn_loader_token_bytes(const tn_loader *l, const tn_device *device, void *program, double here)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < l->draft->recipe.nweight; i++) {
        const tn_weight_spec *w = &l->draft->weight[i];
        uint64_t bytes = packed_bytes(device, program, i);
        if (w->place == TN_PLACE_HOST)
            bytes = (uint64_t)((double)bytes * here);
        if (w->role == TN_ROLE_EXPERTS)
            sum += chosen_bytes(&l->draft->recipe, i, bytes);
        else if (w->role != TN_ROLE_EMBED || (w->flags & TN_WEIGHT_TIED))
            sum += bytes;
    }
    return sum;
}

void tn_loader_sum(const tn_loader *l, const tn_device *device, void *program,
                   tn_loader_sizes *out)
{
    *out = (tn_loader_sizes){.files = l->file_bytes};
    for (uint32_t i = 0; i < l->draft->recipe.nweight; i++) {
        const tn_weight_spec *w = &l->draft->weight[i];
        uint64_t bytes = packed_bytes(device, program, i);
        if (w->place != TN_PLACE_DEVICE) {
            out->elsewhere += bytes;
            out->nelsewhere++;
        } else if (w->role <= TN_ROLE_VECTOR) {
            out->role[w->role] += bytes;
        }
    }
}

void tn_loader_print(const tn_loader *l, const tn_device *device, void *program,
                     struct tn_buf *out)
{
    static const char *const name[] = {"?", "f32", "f16", "bf16", "w4g", "w8g", "private"};
    tn_buf_printf(out, "%-52s %-12s %-20s %-10s %12s %12s\n", "tensor", "form", "shape", "owner",
                  "file bytes", "packed bytes");
    for (uint32_t i = 0; i < l->draft->recipe.nweight; i++) {
        const tn_weight_spec *w = &l->draft->weight[i];
        char form[32], shape[48];
        uint32_t kind = w->form.kind <= TN_FORM_PRIVATE ? w->form.kind : 0;
        int n = snprintf(form, sizeof form, "%s", name[kind]);
        if (w->form.group > 0)
            snprintf(form + n, sizeof form - (size_t)n, "/%u%s%s", w->form.group,
                     w->form.flags & TN_FORM_ZEROS ? "z" : "",
                     w->form.flags & TN_FORM_PERM ? "p" : "");
        snprintf(shape, sizeof shape, "%llu x %llu", (unsigned long long)w->n,
                 (unsigned long long)w->k);
        const tn_slice *first = &l->draft->source[i].slice[0];
        const char *owner = l->dummy != NULL ? "dummy" : !first->quantized ? "core"
                            : tn_loader_quant(l, first)->name;
        tn_buf_printf(out, "%-52s %-12s %-20s %-10s %12llu %12llu\n", w->name, form, shape,
                      owner, (unsigned long long)w->form.file_bytes,
                      (unsigned long long)packed_bytes(device, program, i));
    }
}
