/* SPDX-License-Identifier: Apache-2.0 */
/* wide_table.h - the table of a vector level, from what wide_*.h defined in its unit. */
#ifndef TN_CPU_WIDE_TABLE_H
#define TN_CPU_WIDE_TABLE_H

/* One row of a packed matrix is a walk over memory: plain C does it for every level. */
extern void cpu_scalar_row(const cpu_matrix *w, uint64_t r, float *out);

#define WIDE_TABLE(level)                \
    {                                    \
        .name = (level),                 \
        .prepare = wide_prepare,         \
        .multiply = wide_multiply,       \
        .row = cpu_scalar_row,           \
        .norm = wide_norm,               \
        .act_mul = wide_act_mul,         \
        .add = wide_add,                 \
        .mul_sigmoid = wide_mul_sigmoid, \
        .rope = wide_rope,               \
        .attend_f32 = wide_attend_f32,   \
        .attend_f16 = wide_attend_f16,   \
        .attend_bf16 = wide_attend_bf16, \
        .rule = wide_rule,               \
        .to_f16 = wide_to_f16,           \
        .to_bf16 = wide_to_bf16,         \
        .max = wide_max,                 \
        .sum_exp = wide_sum_exp,         \
        .finite = wide_finite,           \
        .read = wide_read,               \
    }

#endif
