/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_delta_world.h - a DeltaNet layer with its slots on the device and in a twin in double, for
 * cuda_delta.cpp: making it, giving it a step, running the step on either side. */
#ifndef TN_CUDA_DELTA_WORLD_H
#define TN_CUDA_DELTA_WORLD_H

#include "gpu.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cuda_fp16.h>
#include <vector>

typedef std::vector<float> floats;
typedef std::vector<double> doubles;

static int failures;

static void require(cudaError_t e, const char *what)
{
    if (e == cudaSuccess)
        return;
    printf("FAIL %s: %s\n", what, cudaGetErrorString(e));
    exit(1);
}

/* --------------------------------------------------------------------------------- numbers */

static uint64_t seed = 88172645463325252u;

static double uniform()
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (double)(seed >> 11) / 9007199254740992.0;
}

static float normal()
{
    double sum = 0;
    for (int i = 0; i < 12; i++)
        sum += uniform();
    return (float)(sum - 6);
}

static float half_rounded(float x)
{
    return __half2float(__float2half_rn(x));
}

/* ----------------------------------------------------------------------------------- world */

#define PAD 64                    /* columns of a buffer that belong to someone else */
#define UNTOUCHED -777.0f

struct sizes {
    uint32_t k_heads, v_heads, k_dim, v_dim, keep, drafts, act, type;
    bool meet, bias;
};

struct slot {
    doubles s;                    /* [v_heads][v_dim][k_dim] */
    floats columns;               /* [keep][width] */
    floats pending;               /* [drafts + 1][width + 2 v_heads] */
};

struct world {
    /* [rows][v_heads] how many times what S could give is more than what the row's o came to:
     * errors of S are that much larger in o, and the norm hides it. Filled by the twin. */
    mutable doubles reach;
    sizes z;
    uint32_t width, value, slots, rows_max, seqs_max, key;
    gpu_delta a;
    gpu_step step;
    floats w_conv, bias, a_log, dt_bias, w_norm;
    floats qkv, zed, ab;          /* [rows][..], what the device reads */
    std::vector<slot> twin;
    std::vector<int> verdict;
    std::vector<tn_seq> seq;
    std::vector<int32_t> row_seq, pos;
    std::vector<void *> taken;
    uint64_t work_floats;
};

template <typename T>
static T *take(world *w, uint64_t n)
{
    void *p = NULL;
    require(cudaMalloc(&p, (n > 0 ? n : 1) * sizeof(T)), "cudaMalloc");
    w->taken.push_back(p);
    return (T *)p;
}

template <typename T>
static void put(T *to, const T *from, uint64_t n)
{
    require(cudaMemcpy(to, from, n * sizeof(T), cudaMemcpyHostToDevice), "copy");
}

static float *vector_of(world *w, const floats &x)
{
    float *p = take<float>(w, x.size());
    put(p, x.data(), x.size());
    return p;
}

static gpu_span span_of(world *w, uint32_t cols, uint32_t type)
{
    uint32_t stride = (cols + PAD + 63) / 64 * 64;
    uint64_t size = (uint64_t)w->rows_max * stride * (type == TN_F32 ? 4 : 2);
    return gpu_span{take<uint8_t>(w, size), stride, type};
}

static uint64_t settled_floats(const world *w)
{
    return (uint64_t)w->z.v_heads * w->z.v_dim * w->z.k_dim + (uint64_t)w->z.keep * w->width;
}

static void take_states(world *w)
{
    const sizes &z = w->z;
    uint64_t row = w->width + 2 * z.v_heads, rows = z.drafts > 0 ? z.drafts + 1 : 0;
    uint64_t floats_all = (settled_floats(w) + row * rows + 3) / 4 * 4;
    w->a.state = gpu_state{take<float>(w, floats_all * w->slots), floats_all, z.v_heads, z.k_dim,
                           z.v_dim, w->width, z.keep, (uint32_t)rows};
    w->twin.resize(w->slots);
    for (slot &s : w->twin) {
        s.s.assign((uint64_t)z.v_heads * z.v_dim * z.k_dim, 0);
        s.columns.assign((uint64_t)z.keep * w->width, 0);
        s.pending.assign(row * rows, 0);
    }
}

/* The twin's slots to the device. */
static void put_states(world *w)
{
    for (uint32_t i = 0; i < w->slots; i++) {
        floats all(w->a.state.slot_floats, UNTOUCHED);
        const slot &s = w->twin[i];
        for (uint64_t j = 0; j < s.s.size(); j++)
            all[j] = (float)s.s[j];
        std::copy(s.columns.begin(), s.columns.end(), all.begin() + (long)s.s.size());
        std::copy(s.pending.begin(), s.pending.end(), all.begin() + (long)settled_floats(w));
        put(w->a.state.data + i * w->a.state.slot_floats, all.data(), all.size());
    }
}

static void random_states(world *w, float size)
{
    for (slot &s : w->twin) {
        for (double &x : s.s)
            x = normal() * size;
        for (float &x : s.columns)
            x = normal();
        for (float &x : s.pending)
            x = normal();
    }
    put_states(w);
}

static world *world_open(sizes z, uint32_t rows_max, uint32_t seqs_max, uint32_t slots)
{
    world *w = new world;
    w->z = z;
    w->key = z.k_heads * z.k_dim;
    w->value = z.v_heads * z.v_dim;
    w->width = 2 * w->key + w->value;
    w->slots = slots;
    w->rows_max = rows_max;
    w->seqs_max = seqs_max;
    memset(&w->a, 0, sizeof w->a);
    for (uint32_t i = 0; i < w->width * (z.keep + 1); i++)
        w->w_conv.push_back(normal() * 0.6f);
    for (uint32_t i = 0; i < w->width; i++)
        w->bias.push_back(normal() * 0.2f);
    for (uint32_t i = 0; i < z.v_heads; i++) {
        w->a_log.push_back((float)(uniform() * 2 - 2));
        w->dt_bias.push_back(normal());
    }
    for (uint32_t i = 0; i < z.v_dim; i++)
        w->w_norm.push_back(1 + normal() * 0.2f);
    gpu_delta *a = &w->a;
    a->qkv = span_of(w, w->width, z.type);
    a->z = span_of(w, w->value, z.type);
    a->a = span_of(w, z.v_heads, TN_F32);
    a->b = span_of(w, z.v_heads, TN_F32);
    a->out = span_of(w, w->value, z.type);
    a->k_heads = z.k_heads;
    a->v_heads = z.v_heads;
    a->k_dim = z.k_dim;
    a->v_dim = z.v_dim;
    a->w_conv = vector_of(w, w->w_conv);
    a->conv_bias = z.bias ? vector_of(w, w->bias) : NULL;
    a->a_log = vector_of(w, w->a_log);
    a->dt_bias = vector_of(w, w->dt_bias);
    a->w_norm = vector_of(w, w->w_norm);
    a->gate_act = z.act;
    a->eps = 1e-6f;
    take_states(w);
    tn_limits l;
    memset(&l, 0, sizeof l);
    l.size = sizeof l;
    l.rows_max = rows_max;
    l.seqs_max = seqs_max;
    l.drafts_max = z.drafts;
    w->work_floats = gpu_delta_floats(a, &l);
    floats guard(w->work_floats + 64, UNTOUCHED);
    a->work = vector_of(w, guard);
    if (z.meet) {
        a->meet = take<uint32_t>(w, seqs_max * z.k_heads);
        require(cudaMemset(a->meet, 0, seqs_max * z.k_heads * sizeof(uint32_t)), "memset");
    }
    memset(&w->step, 0, sizeof w->step);
    w->step.count = take<uint32_t>(w, 4);
    w->step.row_seq = take<int32_t>(w, rows_max);
    w->step.pos = take<int32_t>(w, rows_max);
    w->step.seq = take<tn_seq>(w, seqs_max);
    w->step.verdict = take<int32_t>(w, slots);
    w->verdict.assign(slots, 0);
    random_states(w, 1);
    return w;
}

static void world_close(world *w)
{
    for (void *p : w->taken)
        cudaFree(p);
    delete w;
}

/* ---------------------------------------------------------------------------------- inputs */

static void begin_step(world *w)
{
    w->seq.clear();
    w->row_seq.clear();
    w->pos.clear();
}

static void add_padding(world *w, int n)
{
    for (; n > 0; n--) {
        w->row_seq.push_back(-1);
        w->pos.push_back(-1);
    }
}

static void add_seq(world *w, int nrow, int in, int out, int accepted, uint32_t flags)
{
    tn_seq s;
    memset(&s, 0, sizeof s);
    s.row0 = (int32_t)w->row_seq.size();
    s.nrow = nrow;
    s.context = 5;
    s.state_in = in;
    s.state_out = out;
    s.accepted = accepted;
    s.flags = flags;
    for (int i = 0; i < nrow; i++) {
        w->row_seq.push_back((int32_t)w->seq.size());
        w->pos.push_back(s.context + i);
    }
    w->seq.push_back(s);
}

static void random_rows(world *w)
{
    uint64_t rows = w->row_seq.size();
    w->qkv.resize(rows * w->width);
    w->zed.resize(rows * w->value);
    w->ab.resize(rows * 2 * w->z.v_heads);
    for (float &x : w->qkv)
        x = normal();
    for (float &x : w->zed)
        x = normal() * 2;
    for (float &x : w->ab)
        x = normal() * 1.5f;
}

static void put_span(const gpu_span &s, const float *from, uint64_t rows, uint32_t cols,
                     uint32_t from_stride)
{
    for (uint64_t r = 0; r < rows; r++) {
        if (s.type == TN_F32) {
            floats row(s.stride, NAN);
            std::copy(from + r * from_stride, from + r * from_stride + cols, row.begin());
            put((float *)s.data + r * s.stride, row.data(), s.stride);
            continue;
        }
        std::vector<__half> row(s.stride, __float2half_rn(NAN));
        for (uint32_t i = 0; i < cols; i++)
            row[i] = __float2half_rn(from[r * from_stride + i]);
        put((__half *)s.data + r * s.stride, row.data(), s.stride);
    }
}

static floats get_span(const gpu_span &s, uint64_t rows)
{
    floats out(rows * s.stride);
    if (s.type == TN_F32) {
        cudaMemcpy(out.data(), s.data, out.size() * 4, cudaMemcpyDeviceToHost);
        return out;
    }
    std::vector<__half> half(out.size());
    cudaMemcpy(half.data(), s.data, half.size() * 2, cudaMemcpyDeviceToHost);
    for (uint64_t i = 0; i < out.size(); i++)
        out[i] = __half2float(half[i]);
    return out;
}

/* What the host would do for a step; ends when it is done. */
static void run_device(world *w)
{
    uint64_t rows = w->row_seq.size();
    if (w->z.type == TN_F16) {
        for (float &x : w->qkv)
            x = half_rounded(x);
        for (float &x : w->zed)
            x = half_rounded(x);
    }
    const uint32_t count[4] = {(uint32_t)rows, (uint32_t)w->seq.size(), 0, 0};
    put((uint32_t *)w->step.count, count, 4);
    put((int32_t *)w->step.row_seq, w->row_seq.data(), rows);
    put((int32_t *)w->step.pos, w->pos.data(), rows);
    put((tn_seq *)w->step.seq, w->seq.data(), w->seq.size());
    put((int32_t *)w->step.verdict, w->verdict.data(), w->verdict.size());
    put_span(w->a.qkv, w->qkv.data(), rows, w->width, w->width);
    put_span(w->a.z, w->zed.data(), rows, w->value, w->value);
    put_span(w->a.a, w->ab.data(), rows, w->z.v_heads, 2 * w->z.v_heads);
    put_span(w->a.b, w->ab.data() + w->z.v_heads, rows, w->z.v_heads, 2 * w->z.v_heads);
    floats fill((uint64_t)w->rows_max * w->a.out.stride, UNTOUCHED);
    put_span(w->a.out, fill.data(), w->rows_max, w->a.out.stride, w->a.out.stride);
    gpu_shape n = {(uint32_t)rows, (uint32_t)w->seq.size(), 0, 0, 0};
    for (const tn_seq &s : w->seq)
        n.seq_rows = n.seq_rows > (uint32_t)s.nrow ? n.seq_rows : (uint32_t)s.nrow;
    /* bounds are bounds: a graph is captured for more than the step has */
    n.rows = n.rows + 3 < w->rows_max ? n.rows + 3 : w->rows_max;
    n.seqs = n.seqs + 1 < w->seqs_max ? n.seqs + 1 : w->seqs_max;
    require(gpu_do_delta(&w->a, &w->step, &n, NULL), "gpu_do_delta");
    require(cudaDeviceSynchronize(), "delta");
}

/* ------------------------------------------------------------------------------------ twin */

static double silu(double x)
{
    return x / (1 + exp(-x));
}

/* The sequence's raw inputs in order: columns, pending rows that count, rows of the step. */
struct tape {
    floats raw;                   /* [n][width] */
    floats gates;                 /* [n][2 v_heads] */
    int n, before;                /* before: columns */
};

static void tape_add(tape *t, const float *raw, const float *gates, uint32_t width, uint32_t n)
{
    t->raw.insert(t->raw.end(), raw, raw + width);
    if (gates != NULL)
        t->gates.insert(t->gates.end(), gates, gates + n);
    else
        t->gates.insert(t->gates.end(), n, 0.0f);
    t->n++;
}

static doubles conv(const world *w, const tape &t, int at, uint32_t channel, uint32_t n)
{
    doubles out(n);
    uint32_t kernel = w->z.keep + 1;
    for (uint32_t i = 0; i < n; i++) {
        double y = w->z.bias ? w->bias[channel + i] : 0;
        for (uint32_t j = 0; j < kernel; j++)
            y += (double)w->w_conv[(channel + i) * kernel + j] *
                 t.raw[(uint64_t)(at - (int)w->z.keep + (int)j) * w->width + channel + i];
        out[i] = silu(y);
    }
    return out;
}

static void unit(doubles *x, double factor)
{
    double sum = 1e-6;
    for (double y : *x)
        sum += y * y;
    for (double &y : *x)
        y *= factor / sqrt(sum);
}

/* One head through one row of the tape; gives o. */
static doubles twin_head(const world *w, const tape &t, int at, uint32_t h, double *s)
{
    const sizes &z = w->z;
    uint32_t kh = h / (z.v_heads / z.k_heads);
    doubles q = conv(w, t, at, kh * z.k_dim, z.k_dim);
    doubles k = conv(w, t, at, w->key + kh * z.k_dim, z.k_dim);
    doubles v = conv(w, t, at, 2 * w->key + h * z.v_dim, z.v_dim), o(z.v_dim);
    unit(&q, 1 / sqrt((double)z.k_dim));
    unit(&k, 1);
    double x = (double)t.gates[(uint64_t)at * 2 * z.v_heads + h] + w->dt_bias[h];
    double softplus = x > 20 ? x : log1p(exp(x));
    double decay = exp(-exp((double)w->a_log[h]) * softplus);
    double beta = 1 / (1 + exp(-(double)t.gates[(uint64_t)at * 2 * z.v_heads + z.v_heads + h]));
    for (uint32_t i = 0; i < z.v_dim; i++) {
        double *row = s + (uint64_t)i * z.k_dim, sum = 0;
        for (uint32_t j = 0; j < z.k_dim; j++)
            sum += (row[j] *= decay) * k[j];
        double d = beta * (v[i] - sum);
        for (uint32_t j = 0; j < z.k_dim; j++)
            o[i] += (row[j] += k[j] * d) * q[j];
    }
    return o;
}

static void twin_out(const world *w, const doubles &o, uint64_t row, uint32_t h, doubles *out)
{
    const sizes &z = w->z;
    double sum = 0;
    for (double x : o)
        sum += x * x;
    double factor = 1 / sqrt(sum / z.v_dim + w->a.eps);
    for (uint32_t i = 0; i < z.v_dim; i++) {
        double g = w->zed[row * w->value + h * z.v_dim + i];
        double gate = z.act == TN_ACT_SILU ? silu(g) : 1 / (1 + exp(-g));
        (*out)[row * w->value + h * z.v_dim + i] = o[i] * factor * w->w_norm[i] * gate;
    }
}

static void twin_reach(const world *w, const double *s, const doubles &o, uint64_t at)
{
    double all = 0, sum = 1e-60;
    for (uint64_t i = 0; i < (uint64_t)w->z.v_dim * w->z.k_dim; i++)
        all += s[i] * s[i];
    for (double x : o)
        sum += x * x;
    w->reach[at] = sqrt(all / w->z.k_dim / sum);
}

static tape tape_of(const world *w, const tn_seq &q, int *pending)
{
    const uint32_t gates = 2 * w->z.v_heads, line = w->width + gates;
    const bool fresh = (q.flags & TN_SEQ_FRESH) != 0;
    const floats nothing(w->width, 0);
    tape t;
    t.n = 0;
    t.before = (int)w->z.keep;
    for (uint32_t i = 0; i < w->z.keep; i++)
        tape_add(&t, fresh ? nothing.data() : &w->twin[q.state_in].columns[i * w->width], NULL,
                 w->width, gates);
    *pending = fresh ? 0 : q.accepted >= 0 ? q.accepted : w->verdict[q.state_in];
    for (int i = 0; i < *pending; i++) {
        const float *p = &w->twin[q.state_in].pending[(uint64_t)i * line];
        tape_add(&t, p, p + w->width, w->width, gates);
    }
    for (int i = 0; i < q.nrow; i++) {
        uint64_t row = (uint64_t)(q.row0 + i);
        tape_add(&t, &w->qkv[row * w->width], &w->ab[row * gates], w->width, gates);
    }
    return t;
}

static void twin_seq(const world *w, const tn_seq &q, slot *after, doubles *out)
{
    const sizes &z = w->z;
    const bool fresh = (q.flags & TN_SEQ_FRESH) != 0, draft = (q.flags & TN_SEQ_DRAFT) != 0;
    int npending, keep = (int)z.keep;
    tape t = tape_of(w, q, &npending);
    doubles s(after->s.size(), 0);
    if (!fresh)
        s = w->twin[q.state_in].s;
    after->s = s;
    for (int i = keep; i < t.n; i++) {
        for (uint32_t h = 0; h < z.v_heads; h++) {
            doubles o = twin_head(w, t, i, h, &s[(uint64_t)h * z.v_dim * z.k_dim]);
            if (i >= keep + npending)
                twin_reach(w, &s[(uint64_t)h * z.v_dim * z.k_dim], o,
                           (uint64_t)(q.row0 + i - keep - npending) * z.v_heads + h);
            if (i >= keep + npending)
                twin_out(w, o, (uint64_t)(q.row0 + i - keep - npending), h, out);
        }
        if (!draft || i < keep + npending)
            after->s = s;
    }
    int last = draft ? keep + npending : t.n;
    after->columns.assign(t.raw.begin() + (long)(last - keep) * w->width,
                          t.raw.begin() + (long)last * w->width);
    for (int i = 0; draft && i < q.nrow; i++) {
        float *p = &after->pending[(uint64_t)i * (w->width + 2 * z.v_heads)];
        memcpy(p, &w->qkv[(uint64_t)(q.row0 + i) * w->width], w->width * sizeof *p);
        memcpy(p + w->width, &w->ab[(uint64_t)(q.row0 + i) * 2 * z.v_heads],
               2 * z.v_heads * sizeof *p);
    }
}

/* Outputs of all rows; zeros for padding. */
static doubles run_twin(world *w)
{
    doubles out(w->row_seq.size() * w->value, 0);
    std::vector<slot> after = w->twin;
    w->reach.assign(w->row_seq.size() * w->z.v_heads, 1);
    for (const tn_seq &q : w->seq)
        if (q.nrow > 0 || q.accepted != 0)
            twin_seq(w, q, &after[q.state_out], &out);
    w->twin = after;
    return out;
}

#endif
