/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_delta.cpp - DELTA of the device cuda against a twin in double, written from the rule.
 *
 * A world is a model's layer with slots on the device and in the twin; steps are run on both and
 * everything is compared: outputs, S, columns and pending rows of every slot, and that nothing
 * else was touched. Numbers come from a generator with a fixed seed. With --bench: times.
 *
 *     g++ -DTN_CUDASIM ... delta.cu delta_prompt.cu delta_chunk.cu cudasim.cpp   without a card
 *     nvcc -x cu ...                                                             on one */
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
    for (const tn_seq &q : w->seq)
        if (q.nrow > 0 || q.accepted != 0)
            twin_seq(w, q, &after[q.state_out], &out);
    w->twin = after;
    return out;
}

/* --------------------------------------------------------------------------------- compare */

struct worst {
    const char *name;
    double out, s;
    int steps, bad;
};

static void complain(worst *b, const char *what, double found, double wanted)
{
    failures++;
    if (b->bad++ < 5)
        printf("FAIL %s step %d: %s found %.9g wanted %.9g\n", b->name, b->steps, what, found, wanted);
}

static bool same(float a, float b)
{
    return a == b || (a != a && b != b);
}

/* Relative L2 of found against wanted; infinite when one is not finite and the other is. */
static double distance(const float *found, const double *wanted, uint64_t n)
{
    double err = 0, all = 0;
    for (uint64_t i = 0; i < n; i++) {
        if (!std::isfinite(wanted[i]) && !std::isfinite(found[i]))
            continue;
        err += ((double)found[i] - wanted[i]) * ((double)found[i] - wanted[i]);
        all += wanted[i] * wanted[i];
    }
    if (!(err < 1e300))
        return INFINITY;
    return err == 0 ? 0 : sqrt(err / (all > 1e-60 ? all : 1e-60));
}

static void compare_out(world *w, const doubles &wanted, double bound, worst *b)
{
    floats found = get_span(w->a.out, w->rows_max);
    const uint32_t stride = w->a.out.stride;
    for (uint64_t r = 0; r < w->rows_max; r++) {
        bool inside = r < w->row_seq.size();
        if (inside && w->pos[r] >= 0) {
            double d = 0;
            for (uint32_t h = 0; h < w->z.v_heads; h++)
                d = fmax(d, distance(&found[r * stride + h * w->z.v_dim],
                                     &wanted[r * w->value + h * w->z.v_dim], w->z.v_dim));
            b->out = d > b->out ? d : b->out;
            if (!(d <= bound))
                complain(b, "out of a row", d, bound);
        }
        for (uint32_t i = inside && w->pos[r] >= 0 ? w->value : 0; i < stride; i++) {
            float want = inside && i < w->value ? 0.0f : UNTOUCHED;
            if (found[r * stride + i] != want)
                complain(b, inside ? "padding or beyond" : "a row beyond", found[r * stride + i], want);
        }
    }
}

static floats get_slot(const world *w, uint32_t i)
{
    floats all(w->a.state.slot_floats);
    cudaMemcpy(all.data(), w->a.state.data + i * all.size(), all.size() * 4,
               cudaMemcpyDeviceToHost);
    return all;
}

static void compare_slots(world *w, double bound, worst *b)
{
    for (uint32_t i = 0; i < w->slots; i++) {
        const slot &t = w->twin[i];
        floats all = get_slot(w, i);
        const float *columns = &all[t.s.size()], *pending = columns + t.columns.size();
        const uint64_t head = (uint64_t)w->z.k_dim * w->z.v_dim;
        for (uint32_t h = 0; h < w->z.v_heads; h++) {
            double d = distance(&all[h * head], &t.s[h * head], head);
            b->s = d > b->s ? d : b->s;
            if (!(d <= bound))
                complain(b, "S of a head", d, bound);
        }
        for (uint64_t j = 0; j < t.columns.size(); j++)
            if (!same(columns[j], t.columns[j]))
                complain(b, "a column", columns[j], t.columns[j]);
        for (uint64_t j = 0; j < t.pending.size(); j++)
            if (!same(pending[j], t.pending[j]))
                complain(b, "a pending row", pending[j], t.pending[j]);
    }
    floats work(w->work_floats + 64);
    cudaMemcpy(work.data(), w->a.work, work.size() * 4, cudaMemcpyDeviceToHost);
    for (uint64_t j = w->work_floats; j < work.size(); j++)
        if (work[j] != UNTOUCHED)
            complain(b, "behind the workspace", work[j], UNTOUCHED);
    std::vector<uint32_t> meet(w->a.meet != NULL ? w->seqs_max * w->z.k_heads : 0);
    if (w->a.meet != NULL)
        cudaMemcpy(meet.data(), w->a.meet, meet.size() * 4, cudaMemcpyDeviceToHost);
    for (uint32_t n : meet)
        if (n != 0)
            complain(b, "a counter", n, 0);
}

/* Bounds for S; an output rounded to f16 has its own. */
static void run_both(world *w, double bound, worst *b)
{
    b->steps++;
    run_device(w);
    doubles wanted = run_twin(w);
    compare_out(w, wanted, w->z.type == TN_F16 ? fmax(bound * 20, 6e-4) : bound * 20, b);
    compare_slots(w, bound, b);
}

/* kernels.md 5.2 for chunks: over all rows of a sequence and head 2e-3, S too. Only, a row whose o
 * is small beside what S held is normed up with the errors of that; `bound` says how far. */
static void run_chunks(world *w, double bound, worst *b)
{
    b->steps++;
    run_device(w);
    doubles wanted = run_twin(w), all;
    floats found = get_span(w->a.out, w->row_seq.size()), some;
    for (const tn_seq &q : w->seq)
        for (uint32_t h = 0; h < w->z.v_heads; h++) {
            all.clear();
            some.clear();
            for (int i = 0; i < q.nrow * (int)w->z.v_dim; i++) {
                uint64_t row = (uint64_t)(q.row0 + i / (int)w->z.v_dim);
                uint32_t col = h * w->z.v_dim + (uint32_t)i % w->z.v_dim;
                all.push_back(wanted[row * w->value + col]);
                some.push_back(found[row * w->a.out.stride + col]);
            }
            double d = distance(some.data(), all.data(), all.size());
            b->out = d > b->out ? d : b->out;
            if (!(d <= bound))
                complain(b, "out of a sequence", d, bound);
        }
    worst rows = *b;
    compare_out(w, wanted, 0.1, &rows);
    b->bad = rows.bad;
    compare_slots(w, 2e-3, b);
}

static void done(const worst &b)
{
    if (b.bad == 0)
        printf("ok %s: %d steps, out %.1e, S %.1e\n", b.name, b.steps, b.out, b.s);
    fflush(stdout);
}

/* ----------------------------------------------------------------------------------- cases */

static const sizes SMALL = {2, 4, 64, 64, 3, 4, TN_ACT_SILU, TN_F32, true, false};

/* Fresh, moved and idle sequences of 0 to 16 rows with padding in between. */
static void few_rows(world *w, worst *b)
{
    for (int round = 0; round < 3; round++) {
        begin_step(w);
        add_padding(w, round);
        add_seq(w, 1, 0, 0, 0, 0);
        add_seq(w, 1, 3, 1, 0, 0);                 /* moves; slot 3 stays */
        add_padding(w, 1);
        add_seq(w, 0, 2, 2, 0, 0);                 /* nothing to do */
        add_seq(w, 2 + round, 4, 4, 0, TN_SEQ_FRESH);
        add_seq(w, 16 - 7 * round, 3, 5, 0, 0);    /* shares its origin */
        add_padding(w, 2);
        random_rows(w);
        run_both(w, 3e-6, b);
    }
}

static void case_few_rows()
{
    static const uint32_t dims[][2] = {{64, 64}, {128, 128}, {32, 32}, {128, 64}, {40, 8}, {16, 40}};
    worst b = {"few rows", 0, 0, 0, 0};
    for (const uint32_t *d : dims)
        for (int how = 0; how < 4; how++) {
            sizes z = SMALL;
            z.k_dim = d[0];
            z.v_dim = d[1];
            z.k_heads = how == 2 ? 1 : 2;
            z.v_heads = how == 1 ? 2 : how == 2 ? 3 : 4;
            z.meet = how != 3;
            z.type = how & 1 ? TN_F16 : TN_F32;
            z.act = how & 2 ? TN_ACT_SIGMOID : TN_ACT_SILU;
            z.bias = how == 2;
            z.drafts = how == 0 ? 0 : 3;
            world *w = world_open(z, 40, 8, 7);
            few_rows(w, &b);
            world_close(w);
        }
    done(b);
}

static void case_kernels()
{
    worst b = {"convolution of 2 to 8", 0, 0, 0, 0};
    for (uint32_t keep = 1; keep <= 7; keep++) {
        sizes z = SMALL;
        z.k_heads = 1;
        z.v_heads = 2;
        z.keep = keep;
        z.meet = keep & 1;
        z.bias = keep & 2;
        world *w = world_open(z, 60, 8, 7);
        few_rows(w, &b);
        begin_step(w);
        add_seq(w, 20, 0, 0, 0, 0);
        add_seq(w, 33, 1, 1, 0, TN_SEQ_FRESH);
        random_rows(w);
        run_both(w, 3e-6, &b);
        world_close(w);
    }
    done(b);
}

/* Draft steps one after the other, each with another count of rows that stand. */
static void case_drafts()
{
    worst b = {"drafts", 0, 0, 0, 0};
    for (int how = 0; how < 4; how++) {
        sizes z = SMALL;
        z.k_heads = how == 1 ? 1 : 2;
        z.v_heads = 2 * z.k_heads;
        z.k_dim = z.v_dim = how == 1 ? 128 : 64;
        z.meet = how != 2;
        z.keep = how == 3 ? 6 : 3;
        z.type = how == 1 ? TN_F16 : TN_F32;
        world *w = world_open(z, 64, 8, 8);
        for (int accepted = 0; accepted <= 5; accepted++) {
            for (int i = 0; i < 8; i++)
                w->verdict[i] = (accepted + i) % 6;
            begin_step(w);
            add_seq(w, 5, 0, 0, accepted, TN_SEQ_DRAFT);
            add_seq(w, 1 + accepted % 5, 1, 1, -1, TN_SEQ_DRAFT);
            add_padding(w, 1);
            add_seq(w, 3, 2, 3, accepted, TN_SEQ_DRAFT); /* 2 keeps its pending rows */
            add_seq(w, 0, 4, 4, accepted, 0);            /* settles */
            add_seq(w, 2, 5, 5, -1, 0);                  /* goes on without drafts */
            add_seq(w, 0, 6, 7, -1, 0);
            random_rows(w);
            run_both(w, 1e-5, &b);
        }
        begin_step(w);
        add_seq(w, 4, 0, 0, 0, TN_SEQ_DRAFT | TN_SEQ_FRESH);
        add_seq(w, 21, 1, 1, 3, 0);                      /* a prompt behind pending rows */
        add_seq(w, 18, 2, 4, -1, 0);
        add_seq(w, 0, 3, 3, 2, TN_SEQ_DRAFT);
        random_rows(w);
        run_both(w, 1e-5, &b);
        world_close(w);
    }
    done(b);
}

static void case_prompts()
{
    static const uint32_t dims[][2] = {{64, 64}, {128, 128}, {24, 36}};
    worst b = {"prompts", 0, 0, 0, 0};
    for (const uint32_t *d : dims)
        for (int how = 0; how < 2; how++) {
            sizes z = SMALL;
            z.k_dim = d[0];
            z.v_dim = d[1];
            z.k_heads = 1;
            z.v_heads = 2;
            z.meet = how;
            z.type = how ? TN_F16 : TN_F32;
            world *w = world_open(z, 200, 8, 8);
            begin_step(w);
            add_seq(w, 17, 0, 0, 0, TN_SEQ_FRESH);
            add_padding(w, 3);
            add_seq(w, 41, 1, 2, 0, 0);
            add_seq(w, 1, 3, 3, 0, 0);
            add_seq(w, 5, 4, 4, 2, TN_SEQ_DRAFT);
            add_seq(w, 0, 5, 5, 1, 0);
            add_seq(w, 100 + how, 6, 6, 0, 0);
            add_padding(w, 1);
            random_rows(w);
            run_both(w, 5e-6, &b);
            world_close(w);
        }
    done(b);
}

/* More rows than a segment of delta_prompt.cu, two sequences across its border. */
static void case_segments()
{
    worst b = {"segments", 0, 0, 0, 0};
    sizes z = SMALL;
    z.k_dim = z.v_dim = 16;
    z.k_heads = z.v_heads = 1;
    world *w = world_open(z, 2200, 8, 8);
    begin_step(w);
    add_seq(w, 1990, 0, 0, 0, 0);
    add_padding(w, 1);
    add_seq(w, 96, 1, 1, 2, 0);
    add_seq(w, 2, 2, 2, 0, 0);
    add_seq(w, 90, 3, 3, 0, TN_SEQ_FRESH);
    random_rows(w);
    run_both(w, 2e-5, &b);
    world_close(w);
    done(b);
}

/* Runs rows [from, to) of a kept input as one sequence; gives what the device wrote. */
static floats run_piece(world *w, const floats all[3], int from, int to, bool fresh)
{
    begin_step(w);
    add_seq(w, to - from, 0, 0, 0, fresh ? TN_SEQ_FRESH : 0);
    random_rows(w);
    uint64_t n = (uint64_t)(to - from), r = (uint64_t)from;
    memcpy(w->qkv.data(), &all[0][r * w->width], n * w->width * 4);
    memcpy(w->zed.data(), &all[1][r * w->value], n * w->value * 4);
    memcpy(w->ab.data(), &all[2][r * 2 * w->z.v_heads], n * 2 * w->z.v_heads * 4);
    run_device(w);
    floats out = get_span(w->a.out, n);
    return out;
}

/* A prompt of n rows in pieces gives the bits that it gives whole. */
static void case_cuts()
{
    static const int pieces[] = {1, 16, 17, 2, 23, 1, 31, 9};
    worst b = {"cuts", 0, 0, 0, 0};
    for (int how = 0; how < 3; how++) {
        sizes z = SMALL;
        z.k_dim = z.v_dim = how == 0 ? 128 : how == 1 ? 64 : 40;
        z.k_heads = 1;
        z.v_heads = 2;
        const int n = 100;
        world *w = world_open(z, n, 4, 2);
        begin_step(w);
        add_seq(w, n, 0, 0, 0, 0);
        random_rows(w);
        floats all[3] = {w->qkv, w->zed, w->ab};
        floats whole = run_piece(w, all, 0, n, true), slot_whole = get_slot(w, 0);
        floats cut;
        for (int at = 0, i = 0; at < n; i++) {
            int to = at + pieces[i] < n ? at + pieces[i] : n;
            floats part = run_piece(w, all, at, to, at == 0);
            cut.insert(cut.end(), part.begin(), part.end());
            at = to;
        }
        b.steps++;
        floats slot_cut = get_slot(w, 0);
        if (memcmp(whole.data(), cut.data(), whole.size() * 4) != 0)
            complain(&b, "outputs of pieces differ", 1, 0);
        if (memcmp(slot_whole.data(), slot_cut.data(), settled_floats(w) * 4) != 0)
            complain(&b, "the state after pieces differs", 1, 0);
        world_close(w);
    }
    done(b);
}

/* Sequences that go in chunks beside others that do not; every length of the last chunk. */
static void case_chunks()
{
    worst b = {"chunks", 0, 0, 0, 0};
#ifdef TN_CUDASIM
    static const int tails[] = {0, 15, 49};
#else
    static int tails[64];
    for (int i = 0; i < 64; i++)
        tails[i] = i;
#endif
    for (int tail : tails)
        for (int how = 0; how < 2; how++) {
            sizes z = SMALL;
            z.k_dim = z.v_dim = how ? 128 : 64;
            z.k_heads = 1;
            z.v_heads = how ? 1 : 2;
            z.type = tail & 2 ? TN_F16 : TN_F32;
            if (how && tail % 16 != 15)
                continue;
            world *w = world_open(z, 400, 8, 8);
            begin_step(w);
            add_seq(w, 128 + tail, 0, 1, 0, 0);
            add_padding(w, 2);
            add_seq(w, 20, 2, 2, 3, 0);
            add_seq(w, 3, 4, 4, 1, TN_SEQ_DRAFT);
            add_seq(w, 129, 3, 3, 2, 0);
            random_rows(w);
            run_chunks(w, 2e-3, &b);
            world_close(w);
        }
    done(b);
}

/* Chunked sequences across the border of a segment. */
static void case_long_chunks()
{
    worst b = {"chunks across segments", 0, 0, 0, 0};
    sizes z = SMALL;
    z.k_heads = z.v_heads = 1;
    world *w = world_open(z, 2300, 8, 8);
    begin_step(w);
    add_seq(w, 300, 2, 2, 0, TN_SEQ_FRESH);
    add_seq(w, 1600, 0, 0, 0, 0);
    add_seq(w, 200, 1, 1, 0, TN_SEQ_FRESH);
    add_seq(w, 140, 3, 4, 2, 0);
    random_rows(w);
    run_chunks(w, 2e-3, &b);
    world_close(w);
    done(b);
}

/* kernels.md 5.3: betas of 0 and 1, no decay, full decay, one key for ever, large numbers. */
static void case_adversarial(bool chunks)
{
    worst b = {chunks ? "adversarial chunks" : "adversarial", 0, 0, 0, 0};
    for (int how = 0; how < 7; how++) {
        sizes z = SMALL;
        z.k_heads = 1;
        z.v_heads = 2;
        z.type = how & 1 ? TN_F16 : TN_F32;
        world *w = world_open(z, 240, 4, 4);
        if (how == 5)
            random_states(w, 1e5f);
        begin_step(w);
        add_seq(w, chunks ? 150 : 50, 0, 0, 0, 0);
        add_seq(w, 7, 1, 1, 0, 0);
        add_seq(w, 1, 2, 2, 0, 0);
        random_rows(w);
        for (uint64_t i = 0; i < w->ab.size(); i += 2 * z.v_heads)
            for (uint32_t h = 0; h < z.v_heads; h++) {
                float *a = &w->ab[i + h], *beta = a + z.v_heads;
                *beta = how == 0 ? -200.0f : how == 1 || how == 4 ? 200.0f : *beta;
                *a = how == 2 || how == 4 ? -200.0f : how == 3 ? 1000.0f : *a;
            }
        for (uint64_t i = 0; how == 4 && i < w->qkv.size(); i++)
            w->qkv[i] = w->qkv[i % w->width];
        for (uint64_t i = 0; how == 6 && i < w->qkv.size(); i++)
            w->qkv[i] *= z.type == TN_F16 ? 1e4f : 1e5f;
        if (chunks)
            run_chunks(w, how == 5 ? 2e-2 : 2e-3, &b); /* 5: S begins at 1e5, v is about 1 */
        else
            run_both(w, 1e-5, &b);
        world_close(w);
    }
    done(b);
}

/* A NaN stays in its sequence; graphs of rows that do not come touch nothing. */
static void case_poison()
{
    worst b = {"poison and empty steps", 0, 0, 0, 0};
    world *w = world_open(SMALL, 170, 4, 4);
    begin_step(w);
    add_seq(w, 2, 0, 0, 0, 0);
    add_seq(w, 30, 1, 1, 0, 0);
    add_seq(w, 130, 3, 3, 0, 0);
    add_seq(w, 3, 2, 2, 0, 0);
    random_rows(w);
    w->qkv[w->width * 1 + 3] = NAN;
    w->qkv[w->width * 10 + 5] = INFINITY;
    w->qkv[w->width * 110 + w->width - 1] = NAN;
    run_device(w);
    floats out = get_span(w->a.out, 165), third = get_slot(w, 2);
    for (uint64_t i = 162 * w->a.out.stride; i < out.size(); i++)
        if (!std::isfinite(out[i]))
            complain(&b, "a row of another sequence", out[i], 0);
    for (int row : {1, 31, 161}) {
        bool finite = true;
        for (uint32_t i = 0; i < w->value; i++)
            finite = finite && std::isfinite(out[(uint64_t)row * w->a.out.stride + i]);
        if (finite)
            complain(&b, "a poisoned row is finite", row, NAN);
    }
    for (uint64_t i = 0; i < settled_floats(w); i++)
        if (!std::isfinite(third[i]))
            complain(&b, "another sequence's state", third[i], 0);
    b.steps++;
    random_states(w, 1);
    begin_step(w);
    add_padding(w, 5);
    random_rows(w);
    run_both(w, 0, &b);
    begin_step(w);
    random_rows(w);
    run_both(w, 0, &b);
    world_close(w);
    done(b);
}

/* Many steps of one row: errors of S do not grow. */
static void case_drift()
{
#ifdef TN_CUDASIM
    const int steps = 60;
#else
    const int steps = 1000;
#endif
    worst b = {"drift", 0, 0, 0, 0};
    sizes z = SMALL;
    z.k_heads = 1;
    z.v_heads = 1;
    world *w = world_open(z, 2, 2, 2);
    for (int i = 0; i < steps; i++) {
        begin_step(w);
        add_seq(w, 1, 0, 0, 0, 0);
        random_rows(w);
        run_both(w, 1e-5, &b);
    }
    world_close(w);
    done(b);
}

static void case_offers()
{
    worst b = {"offers", 0, 0, 1, 0};
    static const uint32_t size[][4] = {{128, 128, 3, 1}, {64, 64, 1, 1}, {16, 40, 7, 1},
                                       {128, 128, 0, 0}, {128, 128, 8, 0}, {256, 128, 3, 0},
                                       {128, 136, 3, 0}, {30, 32, 3, 0}, {0, 32, 3, 0}};
    for (const uint32_t *s : size)
        if ((gpu_delta_offered(s[0], s[1], s[2]) != 0) != (s[3] != 0))
            complain(&b, "offered", !s[3], s[3]);
    done(b);
}

/* ----------------------------------------------------------------------------------- bench */

#ifndef TN_CUDASIM
static double median_ms(cudaGraphExec_t graph, cudaStream_t stream, double *least)
{
    std::vector<float> ms;
    cudaEvent_t from, to;
    cudaEventCreate(&from);
    cudaEventCreate(&to);
    for (int i = 0; i < 25; i++) {
        float t;
        cudaEventRecord(from, stream);
        cudaGraphLaunch(graph, stream);
        cudaEventRecord(to, stream);
        cudaEventSynchronize(to);
        cudaEventElapsedTime(&t, from, to);
        if (i >= 5)
            ms.push_back(t);
    }
    for (size_t i = 1; i < ms.size(); i++)
        for (size_t j = i; j > 0 && ms[j] < ms[j - 1]; j--)
            std::swap(ms[j], ms[j - 1]);
    *least = ms[0];
    cudaEventDestroy(from);
    cudaEventDestroy(to);
    return ms[ms.size() / 2];
}

/* `seqs` sequences of `rows` rows; `layers` sets of slots, so that the cache stays cold. */
static void bench(uint32_t seqs, uint32_t rows, bool meet)
{
    const sizes z = {16, 32, 128, 128, 3, 0, TN_ACT_SILU, TN_F16, meet, false};
    const uint64_t state = 2u << 20;
    uint32_t layers = (uint32_t)((256u << 20) / (state * seqs)) + 1;
    layers = layers < 2 ? 2 : layers;
    const int launches = rows > 16 ? 2 : 60;
    world *w = world_open(z, seqs * rows, seqs, seqs * layers);
    begin_step(w);
    for (uint32_t i = 0; i < seqs; i++)
        add_seq(w, (int)rows, (int)i, (int)i, 0, 0);
    random_rows(w);
    run_device(w);
    gpu_shape n = {seqs * rows, seqs, 0, rows, 0};
    cudaStream_t stream;
    cudaGraph_t g;
    cudaGraphExec_t graph;
    require(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
    require(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
    for (int i = 0; i < launches; i++) {
        gpu_delta a = w->a;
        a.state.data += (uint64_t)(i % (int)layers) * seqs * a.state.slot_floats;
        require(gpu_do_delta(&a, &w->step, &n, stream), "gpu_do_delta");
    }
    require(cudaStreamEndCapture(stream, &g), "end of capture");
    require(cudaGraphInstantiate(&graph, g, 0), "graph");
    double least, ms = median_ms(graph, stream, &least);
    double us = ms * 1e3 / launches, bytes = 2.0 * (double)state * seqs;
    printf("bench %3u x %5u rows%s: %9.2f us a layer (least %.2f), %.0f GB/s of state, "
           "%.3f us a row\n", seqs, rows, meet ? "" : ", no counters", us, least * 1e3 / launches,
           bytes / us * 1e-3, us / rows / seqs);
    cudaGraphExecDestroy(graph);
    cudaGraphDestroy(g);
    cudaStreamDestroy(stream);
    world_close(w);
}

static void bench_all()
{
    static const uint32_t batch[] = {1, 2, 4, 8, 16, 32, 64, 128, 256};
    for (uint32_t n : batch)
        bench(n, 1, true);
    bench(1, 1, false);
    bench(16, 1, false);
    for (uint32_t n : batch)
        if (n <= 64)
            bench(n, 4, true);
    bench(1, 16, true);
    bench(1, 17, true);
    bench(1, 128, true);
    bench(1, 1024, true);
    bench(1, 4096, true);
    bench(1, 8192, true);
    bench(4, 2048, true);
    bench(8, 1000, true);
}
#endif

int main(int argc, char **argv)
{
    case_offers();
    case_few_rows();
    case_kernels();
    case_drafts();
    case_prompts();
    case_segments();
    case_cuts();
    case_chunks();
    case_long_chunks();
    case_adversarial(false);
    case_adversarial(true);
    case_poison();
    case_drift();
#ifndef TN_CUDASIM
    if (argc > 1 && strcmp(argv[1], "--bench") == 0)
        bench_all();
#endif
    (void)argc;
    (void)argv;
    if (failures > 0)
        printf("%d failures\n", failures);
    return failures > 0;
}
