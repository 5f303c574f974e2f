/* SPDX-License-Identifier: Apache-2.0 */
/* rope.c - rotary frequencies and how a longer context stretches them. */
#include "modelconf.h"

#include <math.h>

static void stretch_llama3(const tn_scaling *s, uint32_t n, double *inv)
{
    double pi = acos(-1.0);
    for (uint32_t i = 0; i < n; i++) {
        double wave = 2 * pi / inv[i];
        if (wave > s->original / s->low_freq) {
            inv[i] /= s->factor;
        } else if (wave >= s->original / s->high_freq) {
            double smooth = (s->original / wave - s->low_freq) / (s->high_freq - s->low_freq);
            inv[i] = (1 - smooth) * inv[i] / s->factor + smooth * inv[i];
        }
    }
}

/* The pair index at which a frequency turns `turns` times within the original context. */
static double yarn_pair(const tn_model_conf *c, double turns)
{
    double pi = acos(-1.0);
    return c->rope_dims * log(c->scaling.original / (turns * 2 * pi)) / (2 * log(c->rope_theta));
}

static void stretch_yarn(const tn_model_conf *c, uint32_t n, double *inv)
{
    const tn_scaling *s = &c->scaling;
    double low = yarn_pair(c, s->beta_fast), high = yarn_pair(c, s->beta_slow);
    if (s->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, c->rope_dims - 1.0);
    if (low == high)
        high += 0.001;
    for (uint32_t i = 0; i < n; i++) {
        double ramp = fmin(fmax((i - low) / (high - low), 0), 1);
        inv[i] = inv[i] * (1 - ramp) + inv[i] / s->factor * ramp;
    }
}

double tn_rope_fill(const tn_model_conf *c, double *inv)
{
    uint32_t n = c->rope_dims / 2;
    for (uint32_t i = 0; i < n; i++)
        inv[i] = pow(c->rope_theta, -2.0 * i / c->rope_dims);
    switch (c->scaling.kind) {
    case TN_SCALING_LINEAR:
        for (uint32_t i = 0; i < n; i++)
            inv[i] /= c->scaling.factor;
        return 1;
    case TN_SCALING_LLAMA3:
        stretch_llama3(&c->scaling, n, inv);
        return 1;
    case TN_SCALING_YARN:
        stretch_yarn(c, n, inv);
        return c->scaling.attention;
    default:
        return 1;
    }
}
