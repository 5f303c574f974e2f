/* SPDX-License-Identifier: Apache-2.0 */
/* simcomm.c - a communicator for simulated cards: `shared`, whose calls take their turn on a
 * stream of cudasim and are captured with it. Linked with plugins/shared, whose entry is called
 * simcomm_shared here. */
#undef tn_plugin_entry
#include "cuda_runtime.h"
#include "shared.h"

extern const tn_plugin simcomm_shared;

typedef struct sim_group sim_group;

enum { SIM_SUM, SIM_GATHER, SIM_BROADCAST };

/* One call; those of captured graphs stay until the group is left. */
typedef struct sim_call {
    struct sim_call *next;
    sim_group *g;
    uint32_t kind, detail;       /* data type, or root */
    const void *in;
    void *out;
    uint64_t count;
} sim_call;

struct sim_group {
    const tn_host *h;
    void *shared;
    sim_call *kept;
};

static const tn_comm *shared_table(void)
{
    return simcomm_shared.table;
}

/* Of what fails the group's health tells. */
static void do_call(void *user)
{
    const sim_call *c = user;
    tn_err err;
    if (c->kind == SIM_SUM)
        (void)shared_table()->all_reduce(c->g->shared, c->out, c->count, c->detail, NULL, &err);
    else if (c->kind == SIM_GATHER)
        (void)shared_table()->all_gather(c->g->shared, c->in, c->out, c->count, c->detail, NULL,
                                         &err);
    else
        (void)shared_table()->broadcast(c->g->shared, c->out, c->count, c->detail, NULL, &err);
}

static tn_status give_call(sim_group *g, const sim_call *call, void *stream, tn_err *err)
{
    cudasim_queue *q = stream;
    sim_call *c = g->h->alloc(g->h->ctx, sizeof *c);
    if (c == NULL)
        return tn_fail(err, TN_NO_MEMORY, "simcomm: out of memory");
    *c = *call;
    if (q->give(stream, do_call, c)) {
        c->next = g->kept;
        g->kept = c;
    } else {
        g->h->release(g->h->ctx, c);
    }
    return TN_OK;
}

static tn_status all_reduce(void *group, void *x, uint64_t count, uint32_t dtype, void *stream,
                            tn_err *err)
{
    sim_call c = {.g = group, .kind = SIM_SUM, .out = x, .count = count, .detail = dtype};
    return give_call(group, &c, stream, err);
}

static tn_status all_gather(void *group, const void *in, void *out, uint64_t count,
                            uint32_t dtype, void *stream, tn_err *err)
{
    sim_call c = {.g = group, .kind = SIM_GATHER, .in = in, .out = out, .count = count,
                  .detail = dtype};
    return give_call(group, &c, stream, err);
}

static tn_status broadcast(void *group, void *x, uint64_t bytes, uint32_t root, void *stream,
                           tn_err *err)
{
    sim_call c = {.g = group, .kind = SIM_BROADCAST, .out = x, .count = bytes, .detail = root};
    return give_call(group, &c, stream, err);
}

static tn_status barrier(void *group, tn_err *err)
{
    return shared_table()->barrier(((sim_group *)group)->shared, err);
}

static void sim_abort(void *group)
{
    shared_table()->abort(((sim_group *)group)->shared);
}

static tn_status health(void *group, tn_err *err)
{
    return shared_table()->health(((sim_group *)group)->shared, err);
}

static tn_status join(void *self, const uint8_t id[TN_COMM_ID_SIZE], uint32_t rank,
                      uint32_t nrank, uint32_t device, uint32_t timeout_ms, void **out,
                      tn_err *err)
{
    const tn_host *h = self;     /* that is what `shared` remembers */
    sim_group *g = h->alloc(h->ctx, sizeof *g);
    if (g == NULL)
        return tn_fail(err, TN_NO_MEMORY, "simcomm: out of memory");
    *g = (sim_group){.h = h};
    tn_status st = shared_table()->join(self, id, rank, nrank, device, timeout_ms, &g->shared, err);
    if (st != TN_OK) {
        h->release(h->ctx, g);
        return st;
    }
    *out = g;
    return TN_OK;
}

static void leave(void *group)
{
    sim_group *g = group;
    for (sim_call *c = g->kept, *next; c != NULL; c = next) {
        next = c->next;
        g->h->release(g->h->ctx, c);
    }
    shared_table()->leave(g->shared);
    g->h->release(g->h->ctx, g);
}

static tn_status make_id(void *self, uint8_t id[TN_COMM_ID_SIZE], tn_err *err)
{
    return shared_table()->make_id(self, id, err);
}

static tn_status init(const tn_host *h, void **self, tn_err *err)
{
    return simcomm_shared.init(h, self, err);
}

static void stop(void *self)
{
    simcomm_shared.stop(self);
}

static const tn_option options[] = {
    {.size = sizeof(tn_option), .type = TN_OPT_INT, .key = "timeout", .fallback = "30", .least = 1,
     .greatest = 86400, .help = "As of shared."},
    {.size = sizeof(tn_option), .type = TN_OPT_INT, .key = "spin_us", .fallback = "100",
     .greatest = 1000000, .help = "As of shared."},
    {.size = sizeof(tn_option), .type = TN_OPT_SIZE, .key = "piece", .fallback = "256KiB",
     .least = 4096, .greatest = 67108864, .help = "As of shared."},
};

static const tn_comm table = {
    .size = sizeof(tn_comm),
    .flags = TN_COMM_DEVICE | TN_COMM_CAPTURABLE,
    .make_id = make_id,
    .join = join,
    .all_reduce = all_reduce,
    .all_gather = all_gather,
    .broadcast = broadcast,
    .barrier = barrier,
    .abort = sim_abort,
    .health = health,
    .leave = leave,
};

extern TN_EXPORT const tn_plugin tn_plugin_entry;
const tn_plugin tn_plugin_entry = {
    .abi_major = TN_ABI_MAJOR,
    .abi_minor = TN_ABI_MINOR,
    .size = sizeof(tn_plugin),
    .kind = TN_KIND_COMM,
    .name = "simcomm",
    .version = "1.0",
    .summary = "Joins simulated cards.",
    .options = options,
    .noption = sizeof options / sizeof options[0],
    .table = &table,
    .init = init,
    .stop = stop,
};
