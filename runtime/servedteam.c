/* SPDX-License-Identifier: Apache-2.0 */
/* servedteam.c - what bringing up a model adds when several ranks share it. */
#include "servedteam.h"

#include "servedparts.h"
#include "servedstats.h"
#include "servedalike.h"
#include "share.h"

#include <stdlib.h>
#include <string.h>


/* Where rank 0 is met, unless it starts all. */
static void write_address(const tn_model_settings *m, char *out, size_t size)
{
    const char *host = getenv("MASTER_ADDR"), *port = getenv("MASTER_PORT");
    char number[16];
    snprintf(number, sizeof number, "%u", m->master_port);
    snprintf(out, size, "%s:%s", m->master_addr[0] != 0 ? m->master_addr
             : host != NULL ? host : "127.0.0.1", m->master_port != 0 ? number
             : port != NULL ? port : "29501");
}

tn_status tn_served_team(tn_served *s, const tn_served_setup *setup, tn_err *err)
{
    const tn_model_settings *m = s->settings;
    uint32_t wanted = m->tensor_parallel_size;
    char address[300];
    s->place = setup->place;
    if (wanted < 2 || s->place.nrank == 0)
        s->place = (tn_team_place){.nrank = wanted, .nlocal = wanted, .starts = wanted - 1, .fd = -1};
    else if (s->place.nrank != wanted)
        return tn_fail(err, TN_CONFIG, "[model %s]: tensor_parallel_size: %u, but %u ranks were "
                       "started; expected as many", m->name, wanted, s->place.nrank);
    if (wanted < 2 || (setup->flags & TN_SERVED_NO_ENGINE))
        return TN_OK;
    write_address(m, address, sizeof address);
    const tn_team_setup t = {.place = s->place, .model = setup->model, .address = address,
                             .patience = m->rank_patience, .silence = m->rank_timeout, .log = s->log};
    return tn_team_start(&t, &s->team, err);
}

/* Ranks beyond the last card share cards from the first on. A rank's own comes first: a card that
 * was once opened keeps some memory for the process, so the first is opened to count them only by
 * ranks that have none of their own. */
tn_status tn_served_open_card(tn_served *s, const tn_device_ref *d, tn_err *err)
{
    tn_device_info info = {.size = sizeof info};
    tn_err other;
    if (s->place.local == 0)
        return d->table->open(d->self, 0, &s->dev, err);
    if (d->table->open(d->self, s->place.local, &s->dev, err) == TN_OK)
        return TN_OK;
    s->dev = NULL;
    tn_status st = d->table->open(d->self, 0, &s->dev, err);
    if (st == TN_OK)
        st = d->table->info(s->dev, &info, &other);
    if (st != TN_OK)
        return st;
    uint32_t index = info.ndevice > 0 ? s->place.local % info.ndevice : 0;
    if (index == 0)
        return TN_OK;
    d->table->close(s->dev);
    s->dev = NULL;
    return d->table->open(d->self, index, &s->dev, err);
}

static bool is_to_choose(const tn_served *s, const tn_served_setup *setup)
{
    return strcmp(s->settings->communicator, "auto") == 0
        && tn_comm_fitting(setup->comm, setup->ncomm,
                           s->info.host_memory ? TN_COMM_HOST : TN_COMM_DEVICE) > 1;
}

static tn_status round_of(void *team, tn_status mine, const void *data, uint64_t size, void *all,
                          tn_err *err)
{
    return tn_team_round(team, mine, data, size, all, err);
}

static tn_status share_of(void *team, void *data, uint64_t size, tn_err *err)
{
    return tn_team_share(team, data, size, err);
}

/* Of several that fit, the fastest by size. */
static tn_status choose_comm(tn_served *s, const tn_served_setup *setup, tn_err *err)
{
    const tn_choice_setup c = {
        .comm = setup->comm, .ncomm = setup->ncomm, .rank = s->place.rank, .nrank = s->place.nrank,
        .flag = s->info.host_memory ? TN_COMM_HOST : TN_COMM_DEVICE, .card = s->place.local,
        .join_ms = s->settings->rank_patience * 1000u, .device = s->device->table, .dev = s->dev,
        .round = round_of, .share = share_of, .team = s->team, .log = s->log};
    return tn_comm_choose(&c, &s->comm, &s->group, err);
}

static tn_status join_comm(tn_served *s, uint8_t *id, tn_err *err)
{
    tn_status st = tn_team_share(s->team, id, TN_COMM_ID_SIZE, err);
    return st != TN_OK ? st
        : s->comm->table->join(s->comm->self, id, s->place.rank, s->place.nrank, s->place.local,
                               s->settings->rank_patience * 1000u, &s->group, err);
}

/* The named communicator, or with "auto" the first that works on the device's memory: the only one,
 * or else the one to compare with the other ranks' before choosing. */
static tn_status pick_comm(tn_served *s, const tn_served_setup *setup, tn_err *err)
{
    const char *wanted = s->settings->communicator;
    uint32_t flag = s->info.host_memory ? TN_COMM_HOST : TN_COMM_DEVICE;
    bool any = strcmp(wanted, "auto") == 0;
    for (uint32_t i = 0; i < setup->ncomm && s->comm == NULL; i++)
        if (any ? (setup->comm[i].table->flags & flag) != 0
                : strcmp(setup->comm[i].name, wanted) == 0)
            s->comm = &setup->comm[i];
    if (s->comm == NULL)
        return tn_fail(err, TN_CONFIG, "[model %s]: tensor_parallel_size: %u wants a communicator; "
                       "%s: no such plugin is loaded that works on %s memory", s->settings->name,
                       s->place.nrank, wanted, s->info.host_memory ? "host" : "device");
    if ((s->comm->table->flags & flag) == 0)
        return tn_fail(err, TN_CONFIG, "[model %s]: communicator: %s does not work on the memory of "
                       "the device %s", s->settings->name, wanted, s->device->name);
    return TN_OK;
}

/* What must be the same on all ranks before anything is joined. */
typedef struct facts {
    char version[32], comm[160], device[33], arch[32], quant[33];
    uint32_t abi;
} facts;

/* The one that was picked, or all that are to be chosen from, in their order. */
static void name_comms(const tn_served *s, const tn_served_setup *setup, char *out, size_t size)
{
    uint32_t flag = s->info.host_memory ? TN_COMM_HOST : TN_COMM_DEVICE;
    snprintf(out, size, "%s", s->comm->name);
    for (uint32_t i = 0; is_to_choose(s, setup) && i < setup->ncomm; i++)
        if ((setup->comm[i].table->flags & flag) != 0 && &setup->comm[i] != s->comm)
            snprintf(out + strlen(out), size - strlen(out), " or %s", setup->comm[i].name);
}

static facts facts_of(const tn_served *s, const tn_served_setup *setup)
{
    facts f;
    memset(&f, 0, sizeof f);
    f.abi = TN_ABI_MAJOR << 16 | TN_ABI_MINOR;
    snprintf(f.version, sizeof f.version, "%s", TN_VERSION);
    name_comms(s, setup, f.comm, sizeof f.comm);
    snprintf(f.device, sizeof f.device, "%s", s->device->name);
    snprintf(f.arch, sizeof f.arch, "%s", s->info.arch);
    snprintf(f.quant, sizeof f.quant, "%s", s->quant != NULL ? s->quant->name : "none");
    return f;
}

static tn_status compare_facts(const facts *all, uint32_t nrank, tn_err *err)
{
    for (uint32_t r = 1; r < nrank; r++) {
        const facts *a = &all[0], *b = &all[r];
        const struct { const char *what, *mine, *theirs; } text[] = {
            {"version of tenon", a->version, b->version}, {"communicator", a->comm, b->comm},
            {"device", a->device, b->device}, {"instruction set", a->arch, b->arch},
            {"quantization", a->quant, b->quant},
        };
        for (size_t i = 0; i < sizeof text / sizeof *text; i++)
            if (strcmp(text[i].mine, text[i].theirs) != 0)
                return tn_fail(err, TN_CONFIG, "rank %u: %s: %.150s; rank 0 has %.150s", r,
                               text[i].what, text[i].theirs, text[i].mine);
        if (a->abi != b->abi)
            return tn_fail(err, TN_CONFIG, "rank %u: plugin ABI %u.%u; rank 0 has %u.%u", r,
                           b->abi >> 16, b->abi & 0xffff, a->abi >> 16, a->abi & 0xffff);
    }
    return TN_OK;
}

static tn_status compare_files(tn_served *s, tn_err *err)
{
    tn_alike a;
    tn_alike_files(&a, s);
    tn_status st = tn_alike_compare(s->team, &a, true, err);
    tn_alike_close(&a);
    return st;
}

tn_status tn_served_join(tn_served *s, const tn_served_setup *setup, tn_status mine, tn_err *err)
{
    tn_team *t = s->team;
    uint8_t id[TN_COMM_ID_SIZE] = {0};
    facts all[TN_RANKS_MAX], own;
    memset(&own, 0, sizeof own);
    tn_status st = mine;
    if (t == NULL) /* a plan joins nobody */
        return st;
    if (st == TN_OK)
        st = pick_comm(s, setup, err);
    if (st != TN_OK)
        return tn_team_round(t, st, NULL, 0, NULL, err);
    tn_team_phase(t, "shaking hands");
    own = facts_of(s, setup);
    bool chooses = is_to_choose(s, setup);
    if (s->place.rank == 0 && !chooses)
        st = s->comm->table->make_id(s->comm->self, id, err);
    st = tn_team_round(t, st, &own, sizeof own, all, err);
    if (st != TN_OK)
        return st;
    st = s->place.rank == 0 ? compare_facts(all, s->place.nrank, err) : TN_OK;
    st = tn_team_round(t, st, NULL, 0, NULL, err);
    if (st == TN_OK)
        st = compare_files(s, err);
    if (st != TN_OK)
        return st;
    st = chooses ? choose_comm(s, setup, err) : join_comm(s, id, err);
    if (st == TN_OK && s->info.host_memory)
        tn_comm_count_open(&s->count, s->comm->table, s->group);
    return tn_team_round(t, st, NULL, 0, NULL, err);
}

/* What a rank takes and has. */
typedef struct means {
    tn_need need;
    uint64_t memory;
    uint32_t block_tokens;
} means;

static tn_status compare_forms(tn_served *s, tn_err *err)
{
    tn_alike a;
    tn_alike_forms(&a, s);
    /* a rank may have nothing of an expert */
    tn_status st = tn_alike_compare(s->team, &a, false, err);
    tn_alike_close(&a);
    return st;
}

tn_status tn_served_agree(tn_served *s, tn_status mine, tn_err *err)
{
    means all[TN_RANKS_MAX], m = {.need = s->need, .memory = s->room,
                                  .block_tokens = s->limits.block_tokens};
    m.memory /= tn_served_sharers(s);
    if (s->place.rank == 0 && tn_served_sharers(s) > 1 && !s->info.host_memory)
        tn_log_put(s->log, TN_LOG_WARN, "core", NULL, "model %s: up to %u of its %u ranks share a "
                   "card: that is for trying things out, a card each is faster", s->settings->name,
                   tn_served_sharers(s), s->place.nrank);
    tn_status st = tn_team_round(s->team, mine, &m, sizeof m, all, err);
    for (uint32_t r = 1; st == TN_OK && s->place.rank == 0 && r < s->place.nrank; r++) {
        (void)tn_need_keep_most(&m.need, &all[r].need);
        m.memory = all[r].memory < m.memory ? all[r].memory : m.memory;
    }
    if (st == TN_OK)
        st = tn_team_share(s->team, &m, sizeof m, err);
    if (st == TN_OK) {
        s->need = m.need;
        s->memory_free = m.memory;
        st = compare_forms(s, err);
    }
    return st;
}

tn_status tn_served_loaded(tn_served *s, tn_status mine, tn_err *err)
{
    uint64_t all[TN_RANKS_MAX], own = atomic_load(&s->loader.read);
    char read[32], files[32];
    tn_status st = s->team != NULL ? tn_team_round(s->team, mine, &own, sizeof own, all, err) : mine;
    if (st == TN_OK && s->team != NULL)
        st = tn_team_missed(s->team, err);
    if (st != TN_OK || s->place.rank > 0)
        return st;
    uint64_t bytes = tn_ckpt_bytes(s->ckpt) + (s->second != NULL ? tn_ckpt_bytes(s->second) : 0);
    tn_budget_bytes(bytes, files);
    for (uint32_t r = 0; r < s->place.nrank; r++) {
        char who[24] = "";
        uint64_t n = s->team != NULL ? all[r] : own;
        if (s->team != NULL)
            snprintf(who, sizeof who, "rank %u: ", r);
        tn_budget_bytes(n, read);
        tn_log_put(s->log, TN_LOG_INFO, "core", NULL, "model %s: %sread %s (%llu bytes) of %s in "
                   "the files", s->settings->name, who, read, (unsigned long long)n, files);
    }
    return st;
}

static tn_team_work work_of(tn_served *s)
{
    tn_share share;
    tn_err unused;
    uint32_t columns = s->conf.vocab; /* of the logits */
    if (tn_share_make(&s->conf, s->place.rank, s->place.nrank, &share, &unused) == TN_OK)
        columns = share.nrank * share.vocab;
    return (tn_team_work){.device = s->device->table, .program = s->program,
                          .comm = s->comm->table, .group = s->group,
                          .vocab = columns, .check = s->settings->rank_check,
                          .look = tn_served_look, .hear = tn_served_hear, .user = s};
}

static tn_status lose(void *user, tn_visit *v, tn_err *err)
{
    *err = *(const tn_err *)user;
    v->lost = true;
    return TN_UNAVAILABLE;
}

/* Also while no step runs: the engine ends, and says why. */
static void on_lost(void *user, const tn_err *why)
{
    tn_served *s = user;
    tn_err copy = *why, err;
    if (s->engine != NULL)
        (void)tn_engine_visit(s->engine, lose, &copy, &err);
}

tn_status tn_served_lead(tn_served *s, const tn_device **device, tn_err *err)
{
    tn_team_work w = work_of(s);
    w.on_lost = on_lost;
    tn_team_phase(s->team, "serving");
    return tn_team_lead(s->team, &w, device, err);
}

tn_status tn_served_follow(tn_served *s, tn_err *err)
{
    tn_team_work w = work_of(s);
    tn_team_phase(s->team, "following");
    tn_status st = tn_team_follow(s->team, &w, err);
    if (st != TN_OK)
        return st;
    err->text[0] = 0;
    return TN_CANCELLED;
}
