/* SPDX-License-Identifier: Apache-2.0 */
/* plugin_check_device.c - every operation a device says it knows, over odd shapes, against the
 * reference: once with limits.exact, where only the order of sums may differ, once as it
 * works every day, where 16-bit (and for coded weights 8-bit) rounding is allowed for. */
#include "plugin_stand.h"

#include <math.h>

#define F32 {.kind = TN_FORM_F32}

/* A case: builds the operation behind buffer x of the lab and returns the buffer it fills. */
typedef uint32_t (*build_fn)(tn_stand *s, uint32_t variant);

static tn_lab_args *op(tn_stand *s, uint32_t kind, const char *name)
{
    return tn_lab_op(&s->lab, kind, name);
}

static uint32_t token_buffer(tn_stand *s, uint32_t width)
{
    return tn_lab_buffer(&s->lab, TN_ROWS_TOKENS, width, TN_F32);
}

/* y = x . W^T with a plain weight: how the cases make the inputs they need. */
static uint32_t project(tn_stand *s, uint32_t x, uint32_t n, const char *name)
{
    uint32_t k = s->lab.buffer[x].width, y = token_buffer(s, n);
    uint32_t w = tn_lab_weight_of(&s->lab, TN_ROLE_DENSE, 1, n, k, (tn_lab_form)F32);
    op(s, TN_OP_LINEAR, name)->linear =
        (tn_op_linear){.size = sizeof(tn_op_linear), .in = x, .nparts = 1,
                       .part = {{.w = w, .bias = TN_NONE, .out = y}}};
    return y;
}

/* ------------------------------------------------------------------------------ the cases */

static uint32_t build_embed(tn_stand *s, uint32_t v)
{
    static const uint32_t kind[] = {TN_FORM_F32, TN_FORM_F16, TN_FORM_BF16, TN_FORM_F32};
    static const uint32_t width[] = {48, 33, 64, 37};
    uint32_t x = tn_stand_begin(s, 10 + v, 16), y = token_buffer(s, width[v]);
    (void)x;
    uint64_t n = v == 3 ? 40 : TN_STAND_VOCAB; /* the last one is a shard of the vocabulary */
    uint32_t w = tn_lab_weight_of(&s->lab, TN_ROLE_EMBED, 1, n, width[v],
                                  (tn_lab_form){.kind = kind[v]});
    op(s, TN_OP_EMBED, "embed again")->embed =
        (tn_op_embed){.size = sizeof(tn_op_embed), .w = w, .out = y, .first = v == 3 ? 8 : 0,
                      .scale = v == 2 ? 2.5f : 1};
    return y;
}

static uint32_t build_norm(tn_stand *s, uint32_t v)
{
    static const uint32_t width[] = {48, 33, 16, 40};
    uint32_t groups = v == 2 ? 4 : 1;
    uint32_t x = tn_stand_begin(s, 20 + v, width[v] * groups + (v == 3 ? 8 : 0));
    uint32_t y = token_buffer(s, s->lab.buffer[x].width), w = TN_NONE;
    if (v != 3)
        w = tn_lab_vector(&s->lab, 1, width[v], v == 1 ? 0 : 1);
    if (v == 3) /* the columns beside the piece must stay what they are */
        op(s, TN_OP_MIX, "copy")->mix =
            (tn_op_mix){.size = sizeof(tn_op_mix), .in = x, .out = y,
                        .width = s->lab.buffer[x].width, .gate = TN_NONE, .scale = 1};
    op(s, TN_OP_NORM, "norm")->norm =
        (tn_op_norm){.size = sizeof(tn_op_norm), .in = x, .out = y, .w = w, .width = width[v],
                     .groups = groups, .eps = 1e-5f, .offset = v == 1 ? 1 : 0,
                     .in_col = v == 3 ? 8 : 0, .out_col = v == 3 ? 4 : 0};
    return y;
}

typedef struct linear_variant {
    uint32_t n, k;
    tn_lab_form form;
} linear_variant;

static const linear_variant linears[] = {
    {40, 48, F32},
    {33, 37, {.kind = TN_FORM_F16}},
    {17, 64, {.kind = TN_FORM_BF16}},
    {50, 96, {.kind = TN_FORM_W4G, .group = 32}},
    {48, 128, {.kind = TN_FORM_W4G, .group = 64, .zeros = true}},
    {35, 96, {.kind = TN_FORM_W4G, .group = 32, .zeros = true, .perm = true}},
    {20, 80, {.kind = TN_FORM_W4G, .group = 32, .perm = true}},
    {24, 96, {.kind = TN_FORM_W4G, .group = 96}},
    {40, 256, {.kind = TN_FORM_W4G, .group = 128, .zeros = true}},
    {50, 96, {.kind = TN_FORM_W8G, .group = 32}},
    {19, 128, {.kind = TN_FORM_W8G, .group = 128, .zeros = true, .perm = true}},
};

static uint32_t build_linear(tn_stand *s, uint32_t v)
{
    const linear_variant *t = &linears[v];
    uint32_t x = tn_stand_begin(s, 30 + v, t->k), y = token_buffer(s, t->n);
    uint32_t w = tn_lab_weight_of(&s->lab, TN_ROLE_DENSE, 1, t->n, t->k, t->form);
    op(s, TN_OP_LINEAR, "linear")->linear =
        (tn_op_linear){.size = sizeof(tn_op_linear), .in = x, .nparts = 1,
                       .part = {{.w = w, .bias = TN_NONE, .out = y}}};
    return y;
}

/* Three weights side by side with biases, then one added to what is there. */
static uint32_t build_parts(tn_stand *s, uint32_t v)
{
    static const uint32_t n[] = {24, 8, 17};
    uint32_t x = tn_stand_begin(s, 50 + v, 64), y = token_buffer(s, 64), col = 0;
    tn_lab_form form = {.kind = v ? TN_FORM_W4G : TN_FORM_F16, .group = v ? 32 : 0};
    tn_op_linear o = {.size = sizeof o, .in = x, .nparts = 3};
    for (uint32_t i = 0; i < 3; i++) {
        o.part[i] = (tn_part){
            .w = tn_lab_weight_of(&s->lab, TN_ROLE_DENSE, 1, n[i], 64, form),
            .bias = i == 1 ? TN_NONE : tn_lab_vector(&s->lab, 1, n[i], 0), .out = y, .col = col};
        col += n[i];
    }
    op(s, TN_OP_LINEAR, "parts")->linear = o;
    uint32_t back = tn_lab_weight_of(&s->lab, TN_ROLE_DENSE, 1, 64, col, (tn_lab_form)F32);
    op(s, TN_OP_LINEAR, "residual")->linear =
        (tn_op_linear){.size = sizeof o, .in = y, .nparts = 1, .add = 1,
                       .part = {{.w = back, .bias = TN_NONE, .out = x}}};
    return x;
}

static uint32_t build_act_mul(tn_stand *s, uint32_t v)
{
    static const uint32_t act[] = {TN_ACT_SILU, TN_ACT_GELU, TN_ACT_GELU_TANH, TN_ACT_SILU};
    uint32_t width = v == 3 ? 33 : 48, x = tn_stand_begin(s, 60 + v, 40);
    uint32_t u = project(s, x, 2 * width, "gate and up"), y = token_buffer(s, width);
    op(s, TN_OP_ACT_MUL, "act_mul")->act_mul =
        (tn_op_act_mul){.size = sizeof(tn_op_act_mul), .in = u, .a_col = 0, .b_col = width,
                        .out = y, .width = width, .act = act[v]};
    return y;
}

typedef struct attend_variant {
    uint32_t q_heads, kv_heads, dim, rope_dims, pairing, window;
    bool norms, gate;
    float softcap;
    bool far;
} attend_variant;

static const attend_variant attends[] = {
    {2, 2, 16, 0, 0, 0, false, false, 0, false},
    {4, 2, 32, 32, TN_ROPE_HALF, 0, true, false, 0, false},
    {4, 1, 32, 16, TN_ROPE_HALF, 0, true, true, 0, false},
    {6, 2, 16, 16, TN_ROPE_PAIRS, 5, false, false, 0, false},
    {2, 1, 64, 64, TN_ROPE_HALF, 0, false, false, 3, false},
    {2, 1, 32, 32, TN_ROPE_HALF, 0, false, false, 0, true},
};

/* Frequencies so fast that few tokens turn as far as a million would: an angle in fp32 shows. */
static void make_rope(tn_lab *l, const attend_variant *t)
{
    const double fast = t->far ? 50001.25 : 1;
    l->rope = (tn_rope){.size = sizeof l->rope, .pairing = t->pairing, .dims = t->rope_dims,
                        .npos = 4096, .scale = t->gate ? 1.25 : 1, .inv_freq = l->inv_freq};
    for (uint32_t i = 0; i < t->rope_dims / 2; i++)
        l->inv_freq[i] = fast * pow(10000, -2.0 * i / t->rope_dims);
}

static uint32_t build_attend(tn_stand *s, uint32_t v)
{
    const attend_variant *t = &attends[v];
    uint32_t q = t->q_heads * t->dim, kv = t->kv_heads * t->dim;
    uint32_t x = tn_stand_begin(s, 70 + v, 48), m = project(s, x, 2 * q + 2 * kv, "qkv");
    uint32_t y = token_buffer(s, q);
    s->lab.cache = (tn_cache_spec){.size = sizeof s->lab.cache, .heads = t->kv_heads,
                                   .k_dim = t->dim, .v_dim = t->dim};
    if (t->rope_dims > 0)
        make_rope(&s->lab, t);
    op(s, TN_OP_HEADS, "heads")->heads = (tn_op_heads){
        .size = sizeof(tn_op_heads), .x = m, .q_col = 0, .k_col = q, .v_col = q + kv,
        .q_heads = t->q_heads, .kv_heads = t->kv_heads, .head_dim = t->dim,
        .rope = t->rope_dims > 0 ? 0 : TN_NONE, .eps = 1e-6f, .offset = t->gate ? 1 : 0,
        .q_norm = t->norms ? tn_lab_vector(&s->lab, 1, t->dim, t->gate ? 0 : 1) : TN_NONE,
        .k_norm = t->norms ? tn_lab_vector(&s->lab, 1, t->dim, t->gate ? 0 : 1) : TN_NONE};
    op(s, TN_OP_ATTEND, "attend")->attend = (tn_op_attend){
        .size = sizeof(tn_op_attend), .q = m, .out = y, .q_heads = t->q_heads,
        .kv_heads = t->kv_heads, .head_dim = t->dim, .window = t->window,
        .gate = t->gate ? m : TN_NONE, .gate_col = q + 2 * kv,
        .scale = 1 / sqrtf((float)t->dim), .softcap = t->softcap};
    return y;
}

static uint32_t build_delta(tn_stand *s, uint32_t v)
{
    uint32_t hk = v == 1 ? 1 : 2, hv = v == 2 ? 2 : 4, dk = 16, dv = v == 1 ? 32 : 16;
    uint32_t x = tn_stand_begin(s, 80 + v, 48), width = 2 * hk * dk + hv * dv;
    uint32_t m = project(s, x, width, "qkv"), z = project(s, x, hv * dv, "z");
    uint32_t ab = project(s, x, 2 * hv, "a and b"), y = token_buffer(s, hv * dv);
    s->lab.state = (tn_state_spec){.size = sizeof s->lab.state, .heads = hv, .k_dim = dk,
                                   .v_dim = dv, .conv_width = width, .conv_keep = 3};
    op(s, TN_OP_DELTA, "delta")->delta = (tn_op_delta){
        .size = sizeof(tn_op_delta), .qkv = m, .z = z, .a = ab, .b = ab, .b_col = hv, .out = y,
        .k_heads = hk, .v_heads = hv, .k_dim = dk, .v_dim = dv, .eps = 1e-6f,
        .w_conv = tn_lab_vector(&s->lab, width, 4, 0),
        .w_conv_bias = v == 2 ? tn_lab_vector(&s->lab, 1, width, 0) : TN_NONE,
        .w_a_log = tn_lab_vector(&s->lab, 1, hv, 0), .w_dt_bias = tn_lab_vector(&s->lab, 1, hv, 0),
        .w_norm = tn_lab_vector(&s->lab, 1, dv, 1),
        .gate_act = v == 1 ? TN_ACT_SIGMOID : TN_ACT_SILU};
    return y;
}

/* Router, choice and experts together: without ids there is nothing to sum. */
static uint32_t build_experts(tn_stand *s, uint32_t v)
{
    static const tn_lab_form form[] = {F32, {.kind = TN_FORM_F16},
                                       {.kind = TN_FORM_W4G, .group = 32, .zeros = true}};
    uint32_t e = v == 1 ? 5 : 8, top = v == 0 ? 1 : 3, width = 32, k = 64;
    uint32_t x = tn_stand_begin(s, 90 + v, k), y = token_buffer(s, k);
    uint32_t router = tn_lab_buffer(&s->lab, TN_ROWS_TOKENS, e, TN_F32);
    uint32_t ids = tn_lab_buffer(&s->lab, TN_ROWS_TOKENS, top, TN_I32);
    uint32_t weights = tn_lab_buffer(&s->lab, TN_ROWS_TOKENS, top, TN_F32);
    uint32_t w = tn_lab_weight_of(&s->lab, TN_ROLE_ROUTER, 1, e, k, (tn_lab_form)F32);
    op(s, TN_OP_LINEAR, "router")->linear =
        (tn_op_linear){.size = sizeof(tn_op_linear), .in = x, .nparts = 1,
                       .part = {{.w = w, .bias = TN_NONE, .out = router}}};
    op(s, TN_OP_ROUTE, "route")->route = (tn_op_route){
        .size = sizeof(tn_op_route), .in = router, .ids = ids, .weights = weights, .nexpert = e,
        .ntop = top, .kind = v == 1 ? TN_ROUTE_SIGMOID : TN_ROUTE_SOFTMAX, .renorm = v != 0,
        .bias = v == 1 ? tn_lab_vector(&s->lab, 1, e, 0) : TN_NONE, .scale = v == 1 ? 2.5f : 1};
    op(s, TN_OP_EXPERTS, "experts")->experts = (tn_op_experts){
        .size = sizeof(tn_op_experts), .in = x, .ids = ids, .weights = weights, .out = y,
        .nexpert = e, .ntop = top, .width = width, .act = TN_ACT_SILU,
        .w_up = tn_lab_weight_of(&s->lab, TN_ROLE_EXPERTS, e, 2 * width, k, form[v]),
        .w_down = tn_lab_weight_of(&s->lab, TN_ROLE_EXPERTS, e, k, width, form[v])};
    return y;
}

static uint32_t build_mix(tn_stand *s, uint32_t v)
{
    uint32_t x = tn_stand_begin(s, 100 + v, 40), y = project(s, x, 40, "in");
    op(s, TN_OP_MIX, "mix")->mix =
        (tn_op_mix){.size = sizeof(tn_op_mix), .in = x, .out = y, .width = v == 2 ? 17 : 40,
                    .in_col = v == 2 ? 3 : 0, .out_col = v == 2 ? 20 : 0,
                    .gate = v == 0 ? TN_NONE : x, .gate_col = 5, .add = v != 1,
                    .scale = v == 0 ? 0.5f : 1};
    return y;
}

static uint32_t build_concat(tn_stand *s, uint32_t v)
{
    uint32_t x = tn_stand_begin(s, 110 + v, 40), u = project(s, x, 24, "b");
    uint32_t a = v ? 17 : 40, b = v ? 9 : 24, y = token_buffer(s, a + b);
    op(s, TN_OP_CONCAT, "concat")->concat =
        (tn_op_concat){.size = sizeof(tn_op_concat), .a = x, .a_col = v ? 5 : 0, .a_width = a,
                       .b = u, .b_col = v ? 3 : 0, .b_width = b, .out = y};
    return y;
}

static const struct {
    const char *name;
    build_fn build;
    uint32_t variants;
    bool exact_only; /* a choice may fall the other way under rounding */
} cases[] = {
    {"EMBED", build_embed, 4, false},
    {"NORM", build_norm, 4, false},
    {"LINEAR", build_linear, sizeof linears / sizeof linears[0], false},
    {"LINEAR of several parts", build_parts, 2, false},
    {"ACT_MUL", build_act_mul, 4, false},
    {"HEADS and ATTEND", build_attend, sizeof attends / sizeof attends[0], false},
    {"DELTA", build_delta, 3, false},
    {"ROUTE and EXPERTS", build_experts, 3, true},
    {"MIX", build_mix, 3, false},
    {"CONCAT", build_concat, 2, false},
};

/* -------------------------------------------------------------------------------- running */

/* All variants of one case; the ones the device refuses are named, not failed. */
static void check_case(tn_stand *s, size_t i)
{
    const char *how = s->exact ? "exact" : "everyday";
    uint32_t offered = 0, compared = 0;
    tn_err err = {.text = ""}, refusal = {.text = ""};
    for (uint32_t v = 0; v < cases[i].variants; v++) {
        uint32_t y = cases[i].build(s, v);
        tn_status st = tn_stand_up(s, y, 0, TN_STAND_VOCAB, &err);
        if (st == TN_UNSUPPORTED) {
            refusal = err;
            tn_stand_down(s);
            continue;
        }
        if (st == TN_OK)
            st = tn_stand_play(s, &err);
        compared += s->compared;
        tn_stand_down(s);
        if (st != TN_OK) {
            tn_check_fail(s->c, "%s, %s, variant %u: %s", cases[i].name, how, v, err.text);
            return;
        }
        offered++;
    }
    if (offered == 0)
        tn_check_skip(s->c, "%s, %s: not offered: %s", cases[i].name, how, refusal.text);
    else if (compared == 0)
        tn_check_skip(s->c, "%s, %s: nothing to compare without peek, LOGITS or SAMPLE",
                      cases[i].name, how);
    else
        tn_check_ok(s->c, "%s, %s: %u of %u variants, %u values", cases[i].name, how, offered,
                    cases[i].variants, compared);
}

/* The fullest end of a recipe that the device offers; false when it offers none. */
static bool find_tail(tn_stand *s, tn_err *err)
{
    for (s->tail = TN_TAIL_LOGITS; s->tail <= TN_TAIL_NONE; s->tail++) {
        uint32_t x = tn_stand_begin(s, 1, 48);
        tn_status st = tn_stand_up(s, x, 0, TN_STAND_VOCAB, err);
        tn_stand_down(s);
        if (st == TN_OK)
            return true;
        if (st != TN_UNSUPPORTED) {
            tn_check_fail(s->c, "a recipe of EMBED and its end: %s", err->text);
            return false;
        }
    }
    tn_check_skip(s->c, "offers no operation yet: %s", err->text);
    return false;
}

static void check_all(tn_stand *s)
{
    tn_err err = {.text = ""};
    for (int exact = 1; exact >= 0; exact--) {
        s->exact = exact;
        if (!find_tail(s, &err))
            return;
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
            if (exact || !cases[i].exact_only)
                check_case(s, i);
        if (exact && s->tail == TN_TAIL_LOGITS)
            tn_check_sampling(s);
    }
}

static void check_memory(tn_stand *s)
{
    static const char text[] = "to and fro";
    char back[sizeof text] = "";
    void *p;
    tn_err err;
    if (s->d->mem_take == NULL || s->d->mem_give == NULL || s->d->mem_copy == NULL) {
        tn_check_skip(s->c, "lends no memory to communicators");
        return;
    }
    tn_status st = s->d->mem_take(s->dev, sizeof text, &p, &err);
    if (st == TN_OK) {
        st = s->d->mem_copy(s->dev, p, text, sizeof text, &err);
        if (st == TN_OK)
            st = s->d->mem_copy(s->dev, back, p, sizeof text, &err);
        s->d->mem_give(s->dev, p);
    }
    if (st != TN_OK)
        tn_check_fail(s->c, "memory: %s", err.text);
    else if (memcmp(text, back, sizeof text) != 0)
        tn_check_fail(s->c, "memory: what was copied in did not come back");
    else
        tn_check_ok(s->c, "memory: taken, filled, read back, given back");
}

void tn_check_device(tn_check *c)
{
    tn_check_room r;
    tn_stand s = {.c = c};
    tn_err err = {.text = ""};
    if (tn_check_enter(c, true, NULL, NULL, &r, &err) != TN_OK
        || tn_wall_start(r.wall, 0, &err) != TN_OK) {
        tn_check_fail(c, "%s", err.text);
        return;
    }
    s.d = r.guest->device;
    tn_status st = s.d->open(r.guest->self, 0, &s.dev, &err);
    s.info.size = sizeof s.info;
    if (st == TN_OK)
        st = s.d->info(s.dev, &s.info, &err);
    if (st != TN_OK) {
        tn_check_fail(c, "device 0: %s", err.text);
        return;
    }
    s.info.name[sizeof s.info.name - 1] = 0;
    tn_check_ok(c, "opened device 0 of %u: %s", s.info.ndevice, s.info.name);
    check_memory(&s);
    check_all(&s);
    s.d->close(s.dev);
    tn_check_leave(&r);
}
