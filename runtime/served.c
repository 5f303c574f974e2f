/* SPDX-License-Identifier: Apache-2.0 */
/* served.c - one model brought up. */
#include "served.h"

#include "buf.h"
#include "filemap.h"
#include "fingerprint.h"
#include "graph.h"
#include "json.h"
#include "plain.h"
#include "safetensors.h"
#include "servedplan.h"
#include "servedstats.h"
#include "sessionfile.h"
#include "servedteam.h"

#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define OUTS_LEAST 64u     /* rows of prompt scoring a step, however few sequences run */
#define TEMPLATE_MOST ((size_t)1 << 20)
#define GENCONF_MOST ((size_t)1 << 20)
#define BLOCK_TOKENS_MAX 4096u
#define EXPERTS_PADDING 1024u  /* bytes, a stack of experts */
#define NEED_MAX (UINT64_C(1) << 56)  /* bytes that a device may ask for */
#define BLOCK_MAX (UINT64_C(1) << 32) /* of these, one for every block or slot */

const char *tn_served_name(const tn_served *s, uint32_t i)
{
    const tn_model_settings *m = s->settings;
    if (m->nserved_name == 0)
        return i == 0 ? m->name : NULL;
    return i < m->nserved_name ? m->served_name[i] : NULL;
}

static tn_status check_session_dir(const tn_model_settings *m, tn_err *err)
{
    struct stat st;
    if (m->session_dir[0] == 0 || (stat(m->session_dir, &st) == 0 && S_ISDIR(st.st_mode)))
        return TN_OK;
    return tn_fail(err, TN_CONFIG, "[model %s]: session_dir: %s is no folder; expected one that "
                   "is there", m->name, m->session_dir);
}

/* Where config.json does not name a type: that of most bytes of the plain weights. */
static void find_dtype(tn_served *s, const tn_view *v)
{
    static const uint32_t types[] = {TN_F16, TN_BF16, TN_F32};
    uint64_t bytes[3] = {0};
    const char *name;
    tn_tensor t;
    for (uint64_t i = 0; v->at(v, i, &name, &t); i++)
        for (uint32_t k = 0; k < 3; k++)
            bytes[k] += t.dtype == types[k] ? t.data_size : 0;
    uint32_t best = 0;
    for (uint32_t k = 1; k < 3; k++)
        best = bytes[k] > bytes[best] ? k : best;
    s->conf.dtype = types[best];
    tn_log_put(s->log, TN_LOG_INFO, "core", NULL, "model %s: config.json names no dtype: taken to be "
               "%s, as most of the weights are", s->settings->name,
               tn_st_dtype_name(s->conf.dtype));
}

/* The plugin that reads a folder's quantized weights; NULL for a plain one. */
static tn_status pick_quant(const tn_served_setup *setup, const tn_view *v, const char *wanted,
                            const tn_quant_ref **out, tn_err *err)
{
    uint32_t q = TN_NONE;
    tn_status st = tn_loader_pick(v, setup->quant, setup->nquant, wanted, &q, err);
    if (st == TN_OK)
        *out = q != TN_NONE ? &setup->quant[q] : NULL;
    return st;
}

static tn_status open_files(tn_served *s, const tn_served_setup *setup, tn_err *err)
{
    const tn_model_settings *m = s->settings;
    if (m->path[0] == 0)
        return tn_fail(err, TN_CONFIG, "[model %s]: path: missing; expected a model folder",
                       m->name);
    uint32_t flags = (m->allow_links ? TN_CKPT_FOLLOW : 0) | (m->lax_index ? TN_CKPT_LAX : 0) |
                     (m->dummy ? TN_CKPT_NO_WEIGHTS : 0);
    tn_status st = tn_ckpt_open(m->path, flags, &s->ckpt, err);
    if (st != TN_OK)
        return st;
    if (tn_ckpt_note(s->ckpt) != NULL)
        tn_log_put(s->log, TN_LOG_WARN, "core", NULL, "model %s: %s", m->name,
                   tn_ckpt_note(s->ckpt));
    const tn_view *v = tn_ckpt_view(s->ckpt);
    st = tn_model_conf_read(v->config, &s->conf, err);
    if (st == TN_OK && s->conf.dtype == 0 && m->dummy)
        s->conf.dtype = TN_F16; /* there are no weights to ask */
    else if (st == TN_OK && s->conf.dtype == 0)
        find_dtype(s, v);
    if (st == TN_OK && m->dummy)
        return tn_dummy_open(v, &s->conf, &s->dummy, err);
    if (st != TN_OK)
        return st;
    return pick_quant(setup, v, m->quant, &s->quant, err);
}

/* The model's own choice where it fits the drafting folder too; that may have been quantized in
 * another way. */
static tn_status pick_second_quant(tn_served *s, const tn_served_setup *setup, tn_err *err)
{
    const tn_view *v = tn_ckpt_view(s->second);
    tn_err why;
    if (pick_quant(setup, v, s->settings->quant, &s->second_quant, &why) == TN_OK)
        return TN_OK;
    return pick_quant(setup, v, "auto", &s->second_quant, err);
}

/* Where the drafting module lies, if drafts are wanted; without one the model runs all the same. */
static tn_status open_drafting(tn_served *s, const tn_served_setup *setup, tn_err *err)
{
    const tn_model_settings *m = s->settings;
    tn_status st = TN_OK;
    s->drafts = m->drafts;
    if (m->drafts == 0)
        return TN_OK;
    if (m->draft_path[0] != 0)
        st = tn_ckpt_open(m->draft_path, (m->allow_links ? TN_CKPT_FOLLOW : 0) |
                          (m->lax_index ? TN_CKPT_LAX : 0), &s->second, err);
    if (st == TN_OK && s->second != NULL)
        st = pick_second_quant(s, setup, err);
    if (st != TN_OK)
        return st;
    if (tn_graph_can_draft(tn_ckpt_view(s->second != NULL ? s->second : s->ckpt)))
        return TN_OK;
    if (s->second != NULL)
        return tn_fail(err, TN_DATA, "[model %s]: draft_path: %s: there is no mtp.fc; "
                       "expected a folder with the model's MTP module", m->name, m->draft_path);
    tn_log_put(s->log, TN_LOG_WARN, "core", NULL, "model %s: drafts = %u, but the checkpoint has no "
               "MTP module (mtp.fc): drafting is off; draft_path may name a folder that "
               "has one", m->name, m->drafts);
    s->drafts = 0;
    return TN_OK;
}

/* What a plugin says of itself goes into logs and sums: it is cut to plain text, and refused
 * where it cannot be meant. */
static tn_status check_info(const char *plugin, tn_device_info *i, tn_err *err)
{
    tn_plain_make(i->name, sizeof i->name);
    tn_plain_make(i->arch, sizeof i->arch);
    if (i->block_tokens <= BLOCK_TOKENS_MAX)
        return TN_OK;
    return tn_fail(err, TN_UNAVAILABLE, "plugin %s: its info says %u tokens a cache block; "
                   "expected at most %u", plugin, i->block_tokens, BLOCK_TOKENS_MAX);
}

/* Sums of these stay far from 2^64. */
static tn_status check_need(const char *plugin, const tn_need *n, tn_err *err)
{
    const struct { const char *what; uint64_t bytes, most; } all[] = {
        {"weights", n->weight_bytes, NEED_MAX}, {"workspace", n->workspace_bytes, NEED_MAX},
        {"host memory", n->host_bytes, NEED_MAX}, {"a cache block", n->block_bytes, BLOCK_MAX},
        {"a state slot", n->slot_bytes, BLOCK_MAX},
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (all[i].bytes > all[i].most)
            return tn_fail(err, TN_UNAVAILABLE, "plugin %s: its compile asks for %llu bytes for "
                           "%s; expected at most %llu", plugin, (unsigned long long)all[i].bytes,
                           all[i].what, (unsigned long long)all[i].most);
    return TN_OK;
}

/* The named device, or with "auto" the first that opens. */
static tn_status open_device(tn_served *s, const tn_served_setup *setup, tn_err *err)
{
    const char *wanted = s->settings->device;
    bool any = strcmp(wanted, "auto") == 0;
    tn_status st = tn_fail(err, TN_CONFIG, "[model %s]: device: %s; no such device plugin is "
                           "loaded", s->settings->name, wanted);
    for (uint32_t i = 0; i < setup->ndevice; i++) {
        const tn_device_ref *d = &setup->device[i];
        if (!any && strcmp(d->name, wanted) != 0)
            continue;
        st = tn_served_open_card(s, d, err);
        if (st != TN_OK && any)
            continue;
        if (st != TN_OK)
            return st;
        s->device = d;
        s->info = (tn_device_info){.size = sizeof s->info};
        st = d->table->info(s->dev, &s->info, err);
        if (st == TN_OK)
            st = check_info(d->name, &s->info, err);
        if (st == TN_OK)
            s->memory_free = s->room =
                tn_budget_room(&s->info, s->settings->gpu_memory_utilization, &s->whole);
        return st;
    }
    return st;
}

uint32_t tn_served_sharers(const tn_served *s)
{
    uint32_t n = s->place.nlocal > 1 ? s->place.nlocal : 1, cards = s->info.ndevice;
    if (s->info.host_memory)
        return n;
    return cards > 0 ? (n + cards - 1) / cards : 1;
}

tn_status tn_served_context(const tn_served *s, uint32_t *context, tn_err *err)
{
    int64_t asked = s->settings->max_model_len;
    if (asked > s->conf.context)
        return tn_fail(err, TN_CONFIG, "[model %s]: max_model_len: %lld; the model's config.json "
                       "allows at most %u (a YaRN rope_scaling would extend it)",
                       s->settings->name, (long long)asked, s->conf.context);
    *context = asked > 0 ? (uint32_t)asked : s->conf.context;
    return TN_OK;
}

static tn_limits make_limits(const tn_served *s, uint32_t context, uint32_t flags)
{
    const tn_model_settings *m = s->settings;
    tn_limits l = {.size = sizeof l, .rows_max = m->max_num_batched_tokens,
                   .seqs_max = m->max_num_seqs, .context_max = context,
                   .rank = s->place.rank, .nrank = s->place.nrank,
                   .comm = s->comm != NULL ? s->comm->table : NULL, .group = s->group,
                   .exact = m->exact, .drafts_max = s->drafts, .profile = flags & TN_SERVED_PROFILE ? 1 : 0};
    if (s->team == NULL && s->place.nrank > 1) { /* nothing will run */
        l.comm = tn_plan_nobody();
        l.group = (void *)(uintptr_t)l.comm;
    }
    if (s->count.table != NULL) { /* ranks that are timed */
        l.comm = &s->count.face;
        l.group = (void *)(uintptr_t)&s->count;
    }
    uint32_t decoding = l.seqs_max * (1 + s->drafts); /* rows when nothing else runs */
    if (l.rows_max < decoding)
        l.rows_max = decoding;
    l.outs_max = decoding > OUTS_LEAST ? decoding : OUTS_LEAST;
    l.block_tokens = m->block_size != 0 ? m->block_size : s->info.block_tokens;
    if (l.block_tokens == 0)
        l.block_tokens = 32;
    uint64_t blocks = ((uint64_t)context + l.block_tokens - 1) / l.block_tokens * l.seqs_max;
    l.blocks_max = blocks < INT32_MAX ? (uint32_t)blocks : INT32_MAX;
    l.top_max = m->max_logprobs;
    l.cache_dtype = m->exact ? TN_F32 : m->kv_cache_dtype;
    return l;
}

/* A type that the operator named is a promise; one that the model names is what its files hold. */
static tn_status check_dtype(const tn_served *s, tn_err *err)
{
    static const char *const name[] = {[TN_F32] = "float32", [TN_F16] = "float16",
                                       [TN_BF16] = "bfloat16"};
    const tn_model_settings *m = s->settings;
    if (m->dtype == 0 || m->exact || (s->info.act_dtypes >> m->dtype & 1) != 0)
        return TN_OK;
    char offered[64] = "";
    for (uint32_t t = TN_F32; t <= TN_BF16; t++)
        if ((s->info.act_dtypes >> t & 1) != 0)
            snprintf(offered + strlen(offered), sizeof offered - strlen(offered), "%s%s",
                     offered[0] != 0 ? " or " : "", name[t]);
    return tn_fail(err, TN_UNSUPPORTED, "[model %s]: dtype: %s; the device %s computes in %s; "
                   "expected that, or auto", m->name, name[m->dtype], s->device->name,
                   offered[0] != 0 ? offered : "none that has a name here");
}

/* What a device says it pins holds buffers for packing too; of the experts alone the budget wants to
 * know. Each of their arrays may begin at an aligned place. */
static void count_experts(tn_served *s)
{
    tn_loader_sizes sizes;
    if (s->loader.nhost == 0 || s->need.host_bytes == 0)
        return;
    tn_loader_sum(&s->loader, s->device->table, s->program, &sizes);
    uint64_t all = sizes.elsewhere + (uint64_t)sizes.nelsewhere * EXPERTS_PADDING;
    if (sizes.elsewhere > 0 && all < s->need.host_bytes)
        s->need.host_bytes = all;
}

tn_status tn_served_compile(tn_served *s, uint32_t context, uint32_t flags, tn_err *err)
{
    const tn_model_settings *m = s->settings;
    const tn_view *v = tn_ckpt_view(s->ckpt);
    uint32_t act = m->dtype != 0 ? m->dtype : s->conf.dtype;
    tn_status st = check_dtype(s, err);
    if (st != TN_OK)
        return st;
    s->has_draft = true;
    tn_graph_ask what = {.view = v, .act_dtype = act, .npos = context, .drafting = s->drafts > 0,
                         .rank = s->place.rank, .nrank = s->place.nrank,
                         .second = s->second != NULL ? tn_ckpt_view(s->second) : NULL};
    st = tn_graph_build(&s->conf, &what, &s->draft, err);
    if (st != TN_OK)
        return st;
    s->loader = (tn_loader){.view = v, .q = s->quant, .draft = &s->draft,
                            .dummy = m->dummy ? &s->dummy : NULL, .mapped = m->mapped,
                            .host = m->host_experts,
                            .second = s->second != NULL ? tn_ckpt_view(s->second) : NULL,
                            .second_q = s->second_quant,
                            .strict = m->strict_weights,
                            .requant_head = m->head_int8 ? TN_FORM_W8G : 0,
                            .requant_dense = m->dense_int8 ? TN_FORM_W8G : 0};
    st = tn_loader_forms(&s->loader, err);
    if (st != TN_OK)
        return st;
    s->limits = make_limits(s, context, flags);
    s->need = (tn_need){.size = sizeof s->need};
    tn_team_phase(s->team, "compiling");
    st = s->device->table->compile(s->dev, &s->draft.recipe, &s->limits, &s->program, &s->need,
                                   err);
    if (st == TN_OK)
        st = check_need(s->device->name, &s->need, err);
    if (st == TN_OK)
        count_experts(s);
    return st;
}

tn_status tn_served_share_out(tn_served *s, uint32_t context, tn_err *err)
{
    const tn_model_settings *m = s->settings;
    tn_budget_ask ask = {.memory = m->memory, .cache = m->kv_cache_memory,
                         .seqs = m->max_num_seqs, .context = context,
                         .block_tokens = s->limits.block_tokens, .slots = m->max_num_seqs + m->state_snapshots,
                         .free_memory = s->memory_free, .whole = s->whole,
                         .blocks = m->num_gpu_blocks_override, .mapped = m->mapped,
                         .host = s->loader.nhost > 0, .experts = m->experts_memory,
                         .host_memory = m->cpu_memory};
    return tn_budget_make(&ask, &s->need, &s->budget, err);
}

static tn_status compile_for(tn_served *s, uint32_t context, uint32_t flags, tn_err *err)
{
    tn_status st = tn_served_compile(s, context, flags, err);
    if (s->team != NULL)
        st = tn_served_agree(s, st, err);
    return st == TN_OK ? tn_served_share_out(s, context, err) : st;
}

/* "weights 1 GiB + ...": what does not leave room for more. */
static void shares_text(const tn_served *s, char *out, size_t size)
{
    tn_buf text;
    tn_buf_open(&text, size - 1);
    tn_budget_print(&s->budget, &text);
    snprintf(out, size, "%s", text.data != NULL ? text.data : "");
    tn_buf_close(&text);
}

void tn_served_drop(tn_served *s)
{
    if (s->program != NULL)
        s->device->table->release(s->program);
    s->program = NULL;
    if (s->has_draft)
        tn_draft_close(&s->draft);
    s->has_draft = false;
}

/* A context that was asked for must fit; one that only config.json names is cut to what does. */
static tn_status compile_model(tn_served *s, uint32_t flags, tn_err *err)
{
    uint32_t context = 0;
    tn_status st = tn_served_context(s, &context, err);
    if (st == TN_OK)
        st = compile_for(s, context, flags, err);
    if (st != TN_OK || s->budget.context_fits >= context)
        return st;
    uint32_t fits = s->budget.context_fits;
    char shares[256];
    shares_text(s, shares, sizeof shares);
    if (s->settings->max_model_len > 0)
        return tn_fail(err, TN_UNAVAILABLE, "[model %s]: max_model_len: %u tokens do not fit the "
                       "cache; expected at most %u, or more kv_cache_memory: %s",
                       s->settings->name, context, fits, shares);
    tn_log_put(s->log, TN_LOG_WARN, "core", NULL, "model %s: context cut from %u to %u tokens: "
               "more does not fit: %s", s->settings->name, context, fits, shares);
    tn_served_drop(s);
    return compile_for(s, fits, flags, err);
}

/* Of experts that may lie in the host's memory, the part that the device holds. */
static double share_here(const tn_served *s)
{
    const tn_budget *b = &s->budget;
    return !b->in_host || b->experts >= b->mapped ? 1 : (double)b->experts / (double)b->mapped;
}

/* What each rank is about to take: said before the first byte is, for loading may fail, or last. */
static void log_budget(const tn_served *s)
{
    tn_buf text;
    char ranks[32] = "";
    tn_buf_open(&text, 4096);
    tn_budget_print(&s->budget, &text);
    if (s->place.nrank > 1)
        snprintf(ranks, sizeof ranks, ", each of %u ranks", s->place.nrank);
    tn_log_put(s->log, TN_LOG_INFO, "core", NULL, "model %s: %s from %s by %s on %s (%s)%s, context "
               "%u; %s", tn_served_name(s, 0), s->conf.type, s->settings->path,
               s->quant != NULL ? s->quant->name : "the core (plain weights)", s->device->name,
               s->info.name, ranks, s->limits.context_max, text.data != NULL ? text.data : "");
    tn_buf_close(&text);
}

static tn_status load_weights(tn_served *s, const tn_served_setup *setup, tn_err *err)
{
    const tn_device *d = s->device->table;
    uint64_t kept = s->budget.experts / 1024;
    tn_pools pools = {.size = sizeof pools, .nblock = s->budget.nblock,
                      .nslot = s->budget.nslot,
                      .mapped_kib = kept < UINT32_MAX ? (uint32_t)kept : UINT32_MAX};
    tn_team_phase(s->team, "loading weights");
    tn_status st = d->reserve(s->program, &pools, err);
    if (st != TN_OK)
        return st;
    if (!s->settings->mapped)
        tn_ckpt_advise(s->ckpt, true);
    st = tn_loader_pack(&s->loader, d, s->program, setup->progress, setup->user, err);
    if (st != TN_OK)
        return st;
    if (s->loader.odd > 0)
        tn_log_put(s->log, TN_LOG_WARN, "core", NULL, "model %s: %llu values of its weights are "
                   "NaN or infinite", s->settings->name, (unsigned long long)s->loader.odd);
    tn_fingerprint(s->loader.view, s->loader.second, &s->draft.recipe, &s->limits,
                   s->need.cache_dtype, s->fingerprint);
    s->token_bytes = tn_loader_token_bytes(&s->loader, d, s->program, share_here(s));
    tn_loader_print(&s->loader, d, s->program, &s->table);
    st = tn_ckpt_unchanged(s->ckpt, err);
    return st == TN_OK && s->second != NULL ? tn_ckpt_unchanged(s->second, err) : st;
}

static tn_status read_override(tn_served *s, tn_err *err)
{
    const char *text = s->settings->override_generation_config;
    if (text[0] == 0)
        return TN_OK;
    tn_json_doc *doc = NULL;
    const char *what = "override_generation_config";
    tn_status st = tn_json_open(text, strlen(text), what, TN_JSON_DEPTH_REQUEST, &doc, err);
    if (st == TN_OK)
        st = tn_genconf_read(&s->gen, tn_json_root(doc), what, s->conf.vocab, err);
    tn_json_close(doc);
    return st == TN_DATA ? TN_CONFIG : st;
}

static tn_status read_generation(tn_served *s, tn_err *err)
{
    const char *from = s->settings->generation_config;
    tn_genconf_open(&s->gen);
    tn_status st = TN_OK;
    if (strcmp(from, "auto") == 0) {
        st = tn_genconf_read(&s->gen, tn_ckpt_generation(s->ckpt), "generation_config.json",
                             s->conf.vocab, err);
    } else if (strcmp(from, "vllm") != 0) {
        char path[4096];
        tn_json_doc *doc = NULL;
        snprintf(path, sizeof path, "%s/generation_config.json", from);
        st = tn_json_open_file(path, GENCONF_MOST, &doc, err);
        if (st == TN_OK)
            st = tn_genconf_read(&s->gen, tn_json_root(doc), path, s->conf.vocab, err);
        tn_json_close(doc);
    }
    for (uint32_t i = 0; i < s->conf.neos; i++)
        tn_genconf_add_eos(&s->gen, s->conf.eos[i]);
    return st == TN_OK ? read_override(s, err) : st;
}

/* chat_template names a file, or is the template itself; without it the model's own. */
static tn_status open_chat(tn_served *s, tn_err *err)
{
    const char *given = s->settings->chat_template;
    if (given[0] == 0) {
        tn_status st = tn_chat_open(s->settings->path, &s->chat, err);
        return st == TN_NOINPUT ? TN_OK : st;
    }
    if (strchr(given, '{') != NULL)
        return tn_chat_open_text(given, strlen(given), "chat_template", &s->chat, err);
    tn_filemap map;
    tn_status st = tn_filemap_open(&map, given, NULL, TEMPLATE_MOST, err);
    if (st != TN_OK)
        return st;
    st = tn_chat_open_text(map.size > 0 ? (const char *)map.data : "", (size_t)map.size, given,
                           &s->chat, err);
    tn_filemap_close(&map);
    return st;
}

static tn_status open_text(tn_served *s, tn_err *err)
{
    tn_status st = tn_tok_open(s->settings->path, s->conf.vocab, &s->tok, err);
    if (st == TN_NOINPUT && s->settings->dummy)
        st = tn_tok_open_bytes(s->conf.vocab, &s->tok, err);
    if (st == TN_OK)
        st = read_generation(s, err);
    if (st == TN_OK)
        st = open_chat(s, err);
    return st;
}

static tn_status open_engine(tn_served *s, const tn_served_setup *setup, tn_err *err)
{
    const tn_model_settings *m = s->settings;
    tn_pools pools = {.size = sizeof pools, .nblock = s->budget.nblock,
                      .nslot = s->budget.nslot};
    int32_t eos = tn_tok_eos(s->tok);
    if (eos < 0 && s->conf.neos > 0)
        eos = s->conf.eos[0];
    if (m->session_dir[0] != 0)
        tn_session_sweep(m->session_dir);
    const tn_device *device = s->device->table;
    void *program = s->program;
    if (s->team != NULL) {
        tn_status st = tn_served_lead(s, &device, err);
        if (st != TN_OK)
            return st;
        program = s->team;
    }
    tn_engine_setup e = {
        .device = device, .program = program, .limits = &s->limits, .pools = &pools,
        .tok = s->tok, .chat = s->chat, .name = tn_served_name(s, 0), .vocab = s->conf.vocab,
        .eos = eos, .eos_more = s->gen.eos, .neos_more = s->gen.neos,
        .defaults = s->gen.defaults, .max_running = m->max_num_seqs, .queue_max = m->queue,
        .request_timeout_ms = m->request_timeout * 1000u, .max_logprobs = m->max_logprobs,
        .prefix_caching = m->prefix_caching, .prefix_check = m->prefix_check, .has_states = s->budget.nslot > 0,
        .snapshot_every = m->snapshot_interval, .drafts = s->drafts,
        .seed = (uint64_t)m->seed, .log = setup->log, .metrics = setup->metrics,
    };
    tn_status st = tn_engine_open(&e, &s->engine, err);
    if (st == TN_OK && s->team != NULL)
        st = tn_team_health(s->team, err); /* a rank may have been lost before there was an engine */
    return st == TN_OK ? tn_served_board(s, setup->metrics, err) : st;
}

/* The maps count as resident: let them go, or, where experts stay in them, their pages. */
static void release_files(tn_served *s)
{
    if (s->settings->mapped) {
        tn_ckpt_advise(s->ckpt, false);
        if (s->second != NULL)
            tn_ckpt_advise(s->second, false);
        return;
    }
    tn_ckpt_close(s->ckpt);
    tn_ckpt_close(s->second);
    s->ckpt = s->second = NULL;
}

tn_status tn_served_open(const tn_served_setup *setup, tn_served *out, tn_err *err)
{
    tn_served *s = out;
    *s = (tn_served){.settings = setup->settings, .log = setup->log,
                     .created = (int64_t)time(NULL)};
    tn_buf_open(&s->table, (size_t)1 << 30);
    tn_status st = tn_served_team(s, setup, err);
    if (st == TN_OK)
        st = check_session_dir(setup->settings, err);
    if (st == TN_OK)
        st = open_files(s, setup, err);
    if (st == TN_OK)
        st = open_drafting(s, setup, err);
    if (st == TN_OK)
        st = open_device(s, setup, err);
    if (st == TN_OK && (setup->flags & TN_SERVED_PARTS))
        return TN_OK;
    if (s->place.nrank > 1)
        st = tn_served_join(s, setup, st, err);
    if (st == TN_OK)
        st = compile_model(s, setup->flags, err);
    if (st == TN_OK && s->place.rank == 0)
        st = open_text(s, err);
    if (st == TN_OK && s->place.rank == 0)
        log_budget(s);
    if (st == TN_OK && (setup->flags & TN_SERVED_NO_ENGINE)) {
        tn_loader_print(&s->loader, s->device->table, s->program, &s->table);
        return TN_OK;
    }
    if (st == TN_OK)
        st = load_weights(s, setup, err);
    st = tn_served_loaded(s, st, err);
    if (st == TN_OK) {
        release_files(s);
        st = s->place.rank == 0 ? open_engine(s, setup, err) : tn_served_follow(s, err);
    }
    if (st != TN_OK)
        tn_served_close(s);
    return st;
}

void tn_served_close(tn_served *s)
{
    tn_team_hush(s->team); /* it may be telling the engine of a lost rank */
    if (s->engine != NULL)
        tn_engine_close(s->engine);
    s->engine = NULL;
    tn_team_close(s->team);
    tn_rank_board_close(s->board);
    tn_served_drop(s);
    if (s->group != NULL)
        s->comm->table->leave(s->group);
    if (s->dev != NULL)
        s->device->table->close(s->dev);
    tn_chat_close(s->chat);
    tn_tok_close(s->tok);
    if (s->ckpt != NULL)
        tn_ckpt_close(s->ckpt);
    if (s->second != NULL)
        tn_ckpt_close(s->second);
    tn_buf_close(&s->table);
    *s = (tn_served){0};
}
