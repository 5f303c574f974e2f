/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_sample_twin.h - LOGITS and SAMPLE written from their definitions: rows are sorted whole,
 * sums and races are in double. For cuda_sample.cpp. */
#ifndef TN_CUDA_SAMPLE_TWIN_H
#define TN_CUDA_SAMPLE_TWIN_H

#include "gpu.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

/* One output row and all it asks for. */
struct ask {
    std::vector<float> x;
    gpu_out out;
    std::vector<int32_t> history;
    std::vector<tn_bias> bias;
    std::vector<uint32_t> mask;
};

struct head {
    uint32_t vocab, valid;
    float softcap;
};

struct answer {
    tn_result r;
    int32_t usual;                 /* r.token as the definition alone has it */
    std::vector<int32_t> also;     /* tokens that rounding may put in the place of r.token */
    std::vector<int32_t> top;
    std::vector<double> top_logprob;
};

/* ------------------------------------------------------------------------------ randomness */

static uint64_t twin_mix(uint64_t z)
{
    z ^= z >> 30;
    z *= 0xbf58476d1ce4e5b9ull;
    z ^= z >> 27;
    z *= 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

static uint64_t twin_bits(uint64_t seed, uint64_t draw, uint32_t token)
{
    const uint64_t step = 0x9e3779b97f4a7c15ull;
    uint64_t a = twin_mix(seed + step), b = twin_mix(a ^ twin_mix(draw + step * 2));
    uint64_t z = b + token * step;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull ^ twin_mix(a + b);
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

/* -log(E) of a token. */
static double twin_gumbel(uint64_t seed, uint64_t draw, uint32_t token)
{
    uint64_t z = twin_bits(seed, draw, token);
    return -std::log(-std::log1p(-std::ldexp((double)(z >> 11) + 0.5, -53)));
}

/* -------------------------------------------------------------------------------- one row */

static bool twin_finite(const std::vector<float> &x)
{
    bool some = false;
    for (float v : x) {
        if (!(v < INFINITY))
            return false;
        some = some || v > -INFINITY;
    }
    return some;
}

/* The n best of these, best first, of equals the lower id. */
template <typename T>
static std::vector<int32_t> twin_best(const std::vector<T> &x, std::vector<int32_t> id, size_t n)
{
    n = n < id.size() ? n : id.size();
    std::partial_sort(id.begin(), id.begin() + (long)n, id.end(), [&](int32_t a, int32_t b) {
        return x[a] > x[b] || (x[a] == x[b] && a < b);
    });
    id.resize(n);
    return id;
}

/* All that are not at -inf. */
template <typename T>
static std::vector<int32_t> twin_some(const std::vector<T> &x)
{
    std::vector<int32_t> id;
    for (size_t i = 0; i < x.size(); i++)
        if (x[i] > -INFINITY)
            id.push_back((int32_t)i);
    return id;
}

template <typename T>
static std::vector<int32_t> twin_sort(const std::vector<T> &x)
{
    std::vector<int32_t> id = twin_some(x);
    std::stable_sort(id.begin(), id.end(), [&](int32_t a, int32_t b) { return x[a] > x[b]; });
    return id;
}

static std::vector<float> twin_capped(const head &h, const ask &a)
{
    std::vector<float> x(a.x.begin(), a.x.begin() + h.vocab);
    for (uint32_t i = 0; i < h.vocab; i++) {
        if (h.softcap > 0)
            x[i] = h.softcap * std::tanh(x[i] / h.softcap);
        if (i >= h.valid)
            x[i] = -INFINITY;
    }
    return x;
}

/* Masks, bias, penalties, in single precision as the contract has them. */
static std::vector<float> twin_changed(const ask &a, std::vector<float> z)
{
    const gpu_out &w = a.out;
    for (size_t i = 0; i < z.size() && !a.mask.empty(); i++)
        if ((a.mask[i / 32] >> i % 32 & 1) == 0)
            z[i] = -INFINITY;
    for (const tn_bias &b : a.bias)
        if (b.token >= 0 && (size_t)b.token < z.size())
            z[b.token] += b.value;
    std::vector<int> seen(z.size()), count(z.size());
    for (size_t i = 0; i < a.history.size(); i++) {
        int32_t t = a.history[i];
        if (t < 0 || (size_t)t >= z.size())
            continue;
        seen[t] = 1;
        count[t] += i >= w.nprompt;
    }
    for (size_t t = 0; t < z.size(); t++) {
        if (!seen[t])
            continue;
        if (w.repetition != 1)
            z[t] = z[t] > 0 ? z[t] / w.repetition : z[t] * w.repetition;
        if (count[t] > 0) {
            float frequency = w.frequency * (float)count[t];
            float both = frequency + w.presence;
            z[t] = z[t] - both;
        }
    }
    return z;
}

/* The k-th greatest of z. */
static float twin_kth(const std::vector<float> &z, size_t k)
{
    std::vector<float> some;
    for (float v : z)
        if (v > -INFINITY)
            some.push_back(v);
    std::nth_element(some.begin(), some.begin() + (long)k - 1, some.end(),
                     [](float a, float b) { return a > b; });
    return some[k - 1];
}

/* What may be drawn, best first where top_p cuts. `bend` moves the mass that top_p asks for. */
static std::vector<int32_t> twin_left(const gpu_out &w, const std::vector<float> &z,
                                      const std::vector<double> &v, double bend)
{
    std::vector<int32_t> id = twin_some(v), left;
    double kth = -INFINITY, all = 0, before = 0;
    if (w.top_k > 0 && (size_t)w.top_k <= id.size())
        kth = twin_kth(z, (size_t)w.top_k);
    for (int32_t i : id)
        if (z[i] >= kth && (!(w.min_p > 0) || v[i] >= std::log((double)w.min_p)))
            left.push_back(i);
    if (!(w.top_p < 1))
        return left;
    std::stable_sort(left.begin(), left.end(), [&](int32_t a, int32_t b) { return v[a] > v[b]; });
    for (int32_t i : left)
        all += std::exp(v[i]);
    id.clear();
    for (int32_t i : left) {
        if (before >= all * w.top_p + all * bend && !id.empty())
            break;
        before += std::exp(v[i]);
        id.push_back(i);
    }
    return id;
}

/* The winner, and who comes so close that rounding may decide. */
static void twin_race(const gpu_out &w, const std::vector<int32_t> &left,
                      const std::vector<double> &v, std::vector<int32_t> *winners)
{
    std::vector<double> score(left.size());
    double best = -INFINITY;
    size_t at = 0;
    for (size_t i = 0; i < left.size(); i++) {
        score[i] = v[left[i]] + twin_gumbel(w.seed, w.draw, (uint32_t)left[i]);
        if (score[i] > best) {
            best = score[i];
            at = i;
        }
    }
    winners->push_back(left[at]);
    for (size_t i = 0; i < left.size(); i++)
        if (i != at && score[i] >= best - 2e-5)
            winners->push_back(left[i]);
}

static std::vector<double> twin_values(const gpu_out &w, const std::vector<float> &z)
{
    std::vector<double> v(z.size());
    double top = *std::max_element(z.begin(), z.end());
    for (size_t i = 0; i < z.size(); i++)
        v[i] = z[i] > -INFINITY ? ((double)z[i] - top) / (double)w.temperature : -INFINITY;
    return v;
}

static void twin_draw(const ask &a, const std::vector<float> &x, answer *out)
{
    const gpu_out &w = a.out;
    std::vector<float> z = twin_changed(a, x);
    if (!twin_finite(z)) {
        out->r.token = -1;
        return;
    }
    if ((w.flags & TN_SAMPLE_GREEDY) != 0 || !(w.temperature > 0)) {
        out->r.token = (int32_t)(std::max_element(z.begin(), z.end()) - z.begin());
        return;
    }
    std::vector<double> v = twin_values(w, z);
    std::vector<int32_t> winners;
    for (double bend : {0.0, -2e-6, 2e-6})
        if (bend == 0 || w.top_p < 1)
            twin_race(w, twin_left(w, z, v, bend), v, &winners);
    out->r.token = winners[0];
    for (int32_t t : winners)
        if (t != winners[0])
            out->also.push_back(t);
}

/* What is reported of `token`. */
static void twin_report(const ask &a, const std::vector<float> &x, int32_t token, answer *out)
{
    std::vector<int32_t> id = twin_best(x, twin_some(x), a.out.ntop);
    double max = *std::max_element(x.begin(), x.end()), sum = 0;
    for (float v : x)
        sum += std::exp((double)v - max);
    out->r.token = token;
    out->r.logprob = (float)((double)x[token] - max - std::log(sum));
    out->r.rank = 0;
    if (a.out.ntop > 0 || (a.out.flags & TN_SAMPLE_SCORE) != 0) {
        out->r.rank = 1;
        for (float y : x)
            out->r.rank += y > x[token];
    }
    out->top.clear();
    out->top_logprob.clear();
    for (size_t i = 0; i < a.out.ntop && i < id.size(); i++) {
        out->top.push_back(id[i]);
        out->top_logprob.push_back((double)x[id[i]] - max - std::log(sum));
    }
}

/* `drawn`: what the device says; it is taken for the report where rounding allows it. */
static answer twin_answer(const head &h, const ask &a, int32_t drawn)
{
    answer out = answer();
    std::vector<float> x = twin_capped(h, a);
    out.r.token = -1;
    if (twin_finite(x)) {
        if ((a.out.flags & TN_SAMPLE_SCORE) != 0)
            out.r.token = a.out.target;
        else
            twin_draw(a, x, &out);
    }
    out.usual = out.r.token;
    if (out.r.token < 0) {
        out.r.flags = TN_RESULT_NONFINITE;
        out.r.logprob = NAN;
        return out;
    }
    bool close = std::find(out.also.begin(), out.also.end(), drawn) != out.also.end();
    twin_report(a, x, close ? drawn : out.r.token, &out);
    return out;
}

#endif
