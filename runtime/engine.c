/* SPDX-License-Identifier: Apache-2.0 */
/* engine.c - one served model: a queue of requests in, pieces of text out.
 *
 * One lock guards what crosses between threads: the inbox, the outlet, the list of live
 * requests and the flags. It is held for a few pointer moves, never across a step, a callback
 * or the making of a request.
 *
 * A request is live from submit until its last piece is out and the step thread has retired
 * it; then the engine's hold ends. Whoever has news of it puts it in the outlet, once. */
#include "engine.h"

#include <assert.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

#include "intake.h"
#include "kv.h"
#include "output.h"
#include "prefix.h"
#include "recheck.h"
#include "scheduler.h"
#include "servestats.h"

#define TIMEOUT_MS 300000u
#define QUEUE_FACTOR 4u
#define RETRY_LEAST 1u
#define RETRY_MOST 60u
#define NEVER UINT64_MAX

/* Somebody who waits to be called on the step thread; lives on his stack. */
typedef struct visit_call {
    tn_status (*visitor)(void *user, tn_visit *v, tn_err *err);
    void *user;
    tn_status st;
    tn_err err;
    bool done;
    struct visit_call *next;
} visit_call;

struct tn_engine {
    tn_device device;            /* the table, copied */
    void *program;               /* borrowed */
    tn_log *log;                 /* borrowed, may be NULL */
    char name[128];
    uint32_t max_running, queue_max, nblock, drafts;
    tn_kv *kv;                   /* step thread, but for its key functions */
    tn_sched *sched;             /* step thread */
    tn_intake intake;            /* read-only */
    tn_seeds seeds;              /* of requests that bring none */
    bool has_intake;
    tn_serve_stats stats;
    tn_output output;            /* output thread */
    double check_share, check_due; /* output thread: of cache hits to run again, and so far due */
    tn_sched_counts told;        /* step thread: what the stats know */

    pthread_mutex_t lock;
    pthread_cond_t work, outlet, quiet; /* for the step thread, the output thread, drain */
    pthread_cond_t visited;      /* for those who wait to be called */
    pthread_t step_thread, output_thread;
    bool has_lock, has_step_thread, has_output_thread;

    /* under the lock */
    tn_request *inbox_first, *inbox_last;
    tn_request *outlet_first, *outlet_last;
    visit_call *visit_first, *visit_last;
    tn_request *live;            /* doubly linked */
    uint32_t nlive, nopen;       /* live ones; those whose last piece is not out */
    uint64_t nsubmit;            /* accepted by submit so far */
    uint64_t kick;               /* counts what may let the step thread go on */
    uint64_t next_deadline;      /* not later than the earliest of an open request */
    bool step_asleep, step_gone, draining, cut, closing, dead;

    /* atomics that anybody reads */
    _Atomic uint64_t nbegun, nstep, step_begun, step_done, npreempt, mean_ns;
    atomic_uint blocks_used, running;
    atomic_uint sweep_all;       /* 1: some request is over, look at waiting ones too */
};

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static struct timespec time_of(uint64_t ns)
{
    return (struct timespec){.tv_sec = (time_t)(ns / 1000000000u),
                             .tv_nsec = (long)(ns % 1000000000u)};
}

static tn_status refuse_with(tn_err *err, tn_status st, const char *code, const char *text)
{
    tn_fail(err, st, "%s", text);
    if (err != NULL)
        snprintf(err->code, sizeof err->code, "%s", code);
    return st;
}

/* --------------------------------------------------------- lists, all under the lock */

static void outlet_put(tn_engine *e, tn_request *r)
{
    if (r->outlet_queued)
        return;
    r->outlet_queued = true;
    r->outlet_next = NULL;
    if (e->outlet_last != NULL)
        e->outlet_last->outlet_next = r;
    else
        e->outlet_first = r;
    e->outlet_last = r;
    pthread_cond_signal(&e->outlet);
}

static tn_request *outlet_take(tn_engine *e)
{
    tn_request *r = e->outlet_first;
    if (r == NULL)
        return NULL;
    e->outlet_first = r->outlet_next;
    if (e->outlet_first == NULL)
        e->outlet_last = NULL;
    r->outlet_queued = false;
    return r;
}

static void inbox_put(tn_engine *e, tn_request *r)
{
    r->inbox_next = NULL;
    if (e->inbox_last != NULL)
        e->inbox_last->inbox_next = r;
    else
        e->inbox_first = r;
    e->inbox_last = r;
}

static void live_add(tn_engine *e, tn_request *r)
{
    r->live_prev = NULL;
    r->live_next = e->live;
    if (e->live != NULL)
        e->live->live_prev = r;
    e->live = r;
    r->is_live = true;
    e->nlive++;
    e->nopen++;
}

static void live_remove(tn_engine *e, tn_request *r)
{
    if (r->live_prev != NULL)
        r->live_prev->live_next = r->live_next;
    else
        e->live = r->live_next;
    if (r->live_next != NULL)
        r->live_next->live_prev = r->live_prev;
    r->is_live = false;
    e->nlive--;
}

static void wake_step(tn_engine *e)
{
    e->kick++;
    if (e->step_asleep)
        pthread_cond_signal(&e->work);
}

/* --------------------------------------------------------------------- the step thread */

/* Waits for work unless something came since `kick`. Returns the inbox, *kick is updated;
 * *stop when it is time to leave. */
static tn_request *inbox_take(tn_engine *e, bool idle, uint64_t *kick, bool *stop)
{
    pthread_mutex_lock(&e->lock);
    while (idle && e->inbox_first == NULL && e->kick == *kick && !e->closing) {
        e->step_asleep = true;
        pthread_cond_wait(&e->work, &e->lock);
        e->step_asleep = false;
    }
    tn_request *r = e->inbox_first;
    e->inbox_first = e->inbox_last = NULL;
    *kick = e->kick;
    *stop = e->closing && e->nopen == 0;
    pthread_mutex_unlock(&e->lock);
    return r;
}

static void inbox_add(tn_engine *e, tn_request *r)
{
    while (r != NULL) {
        tn_request *next = r->inbox_next;
        tn_sched_add(e->sched, r);
        r = next;
    }
}

/* Hands the scheduler's news over. From here on a retired request belongs to the output
 * thread alone. */
static void news_publish(tn_engine *e)
{
    tn_request *r = tn_sched_news(e->sched);
    if (r == NULL)
        return;
    pthread_mutex_lock(&e->lock);
    for (; r != NULL; r = tn_sched_news(e->sched)) {
        r->retired = r->nopen == 0;
        outlet_put(e, r);
    }
    pthread_mutex_unlock(&e->lock);
}

static void counts_publish(tn_engine *e)
{
    tn_sched_counts c;
    uint32_t used = tn_kv_used(e->kv);
    tn_sched_count(e->sched, &c);
    atomic_store(&e->nbegun, c.nbegun);
    atomic_store(&e->npreempt, c.npreempt);
    atomic_store(&e->running, c.running);
    atomic_store(&e->blocks_used, used);
}

static void stats_tell(tn_engine *e, uint32_t rows)
{
    tn_sched_counts c;
    tn_sched_count(e->sched, &c);
    tn_stats_step step = {
        .running = c.running,
        .waiting = c.waiting,
        .cache_usage = (double)tn_kv_used(e->kv) / e->nblock,
        .rows = rows,
        .npreempt = (uint32_t)(c.npreempt - e->told.npreempt),
        .cache_queries = c.cache_queries - e->told.cache_queries,
        .cache_hits = c.cache_hits - e->told.cache_hits,
        .states_used = c.states_used,
        .states_kept = c.states_kept,
        .ndrafted = c.ndrafted - e->told.ndrafted,
        .ndraft = c.ndraft - e->told.ndraft,
        .nstood = c.nstood - e->told.nstood,
    };
    for (int i = 0; i < 4; i++)
        step.stood_at[i] = c.stood_at[i] - e->told.stood_at[i];
    tn_stats_put_step(&e->stats, &step);
    e->told = c;
}

static tn_status copies_run(tn_engine *e, tn_err *err)
{
    uint32_t n;
    tn_status st = TN_OK;
    const tn_copy *copy = tn_sched_block_copies(e->sched, &n);
    for (uint32_t i = 0; i < n && st == TN_OK; i++)
        st = e->device.block_copy(e->program, copy[i].from, copy[i].to, err);
    copy = tn_sched_state_copies(e->sched, &n);
    for (uint32_t i = 0; i < n && st == TN_OK; i++)
        st = e->device.state_copy(e->program, copy[i].from, copy[i].to, err);
    return st;
}

/* Calls those who wait for it. Not TN_OK: the device was lost with one of them. */
static tn_status visits_run(tn_engine *e, tn_err *err)
{
    tn_visit v = {.sched = e->sched, .device = &e->device, .program = e->program};
    pthread_mutex_lock(&e->lock);
    visit_call *c = e->visit_first;
    e->visit_first = e->visit_last = NULL;
    pthread_mutex_unlock(&e->lock);
    while (c != NULL) {
        visit_call *next = c->next;
        atomic_store(&e->step_begun, now_ns());
        c->st = v.lost ? refuse_with(&c->err, TN_UNAVAILABLE, "engine_down",
                                     "engine: stopped after its device failed")
                       : c->visitor(c->user, &v, &c->err);
        atomic_store(&e->step_begun, 0);
        if (v.lost && err->text[0] == 0)
            *err = c->err;
        pthread_mutex_lock(&e->lock);
        c->done = true; /* from here on it may be gone */
        pthread_cond_broadcast(&e->visited);
        pthread_mutex_unlock(&e->lock);
        c = next;
    }
    return v.lost ? TN_UNAVAILABLE : TN_OK;
}

/* The step thread is about to end: nobody will be called any more. Under the lock. */
static void visits_refuse(tn_engine *e)
{
    for (visit_call *c = e->visit_first, *next; c != NULL; c = next) {
        next = c->next;
        c->st = refuse_with(&c->err, TN_UNAVAILABLE, "engine_down", "engine: stopped");
        c->done = true;
    }
    e->visit_first = e->visit_last = NULL;
    pthread_cond_broadcast(&e->visited);
}

static tn_status results_check(const tn_results *r, const tn_step *step, tn_err *err)
{
    if (r == NULL || r->nout != step->nout || (r->nout > 0 && r->result == NULL))
        return tn_fail(err, TN_INTERNAL, "the device gave %u results; expected %u",
                       r != NULL ? r->nout : 0, step->nout);
    return TN_OK;
}

static tn_status step_run(tn_engine *e, const tn_step *step, tn_err *err)
{
    const tn_results *results = NULL;
    atomic_store(&e->step_begun, now_ns());
    tn_status st = e->device.run(e->program, step, err);
    if (st == TN_OK)
        st = e->device.wait(e->program, step->number, 0, &results, err);
    if (st == TN_OK)
        st = results_check(results, step, err);
    if (st == TN_OK) {
        tn_sched_apply(e->sched, results, now_ns());
        st = copies_run(e, err);
    }
    atomic_store(&e->step_done, now_ns());
    atomic_store(&e->step_begun, 0);
    atomic_fetch_add(&e->nstep, 1);
    return st;
}

/* Behind a step, whose tokens are on their way out already. */
static tn_status drafts_run(tn_engine *e, tn_err *err)
{
    const tn_step *step;
    tn_status st = TN_OK;
    while (st == TN_OK && (step = tn_sched_draft(e->sched, now_ns())) != NULL) {
        const tn_results *results = NULL;
        atomic_store(&e->step_begun, now_ns());
        st = e->device.run(e->program, step, err);
        if (st == TN_OK)
            st = e->device.wait(e->program, step->number, 0, &results, err);
        if (st == TN_OK)
            st = results_check(results, step, err);
        if (st == TN_OK)
            tn_sched_drafted(e->sched, results);
        atomic_store(&e->step_done, now_ns());
        atomic_store(&e->step_begun, 0);
    }
    return st;
}

/* The device is lost: nothing new comes in, everything that is in ends. */
static void die(tn_engine *e, const tn_err *why)
{
    tn_log_put(e->log, TN_LOG_ERROR, "engine", NULL, "%s: stopped, its device failed: %s",
               e->name, why->text);
    pthread_mutex_lock(&e->lock);
    e->dead = true;
    tn_request *r = e->inbox_first;
    e->inbox_first = e->inbox_last = NULL;
    pthread_mutex_unlock(&e->lock);
    inbox_add(e, r);
    tn_sched_fail(e->sched);
}

static void *step_main(void *arg)
{
    tn_engine *e = arg;
    uint64_t kick = 0;
    bool idle = false, stop = false;
    while (!stop) {
        tn_err err = {0};
        tn_status st = TN_OK;
        inbox_add(e, inbox_take(e, idle, &kick, &stop));
        tn_sched_sweep(e->sched, atomic_exchange(&e->sweep_all, 0) != 0);
        st = visits_run(e, &err);
        const tn_step *step = st == TN_OK ? tn_sched_plan(e->sched, now_ns()) : NULL;
        counts_publish(e);
        if (st == TN_OK)
            st = copies_run(e, &err);
        if (st == TN_OK && step != NULL)
            st = step_run(e, step, &err);
        if (st == TN_OK && step != NULL && e->drafts > 0) {
            news_publish(e);
            st = drafts_run(e, &err);
        }
        if (st != TN_OK)
            die(e, &err);
        counts_publish(e);
        stats_tell(e, step != NULL ? step->nrow : 0);
        news_publish(e);
        idle = step == NULL;
        stop = stop || st != TN_OK;
    }
    pthread_mutex_lock(&e->lock);
    e->step_gone = true;
    visits_refuse(e);
    pthread_cond_signal(&e->outlet);
    pthread_mutex_unlock(&e->lock);
    return NULL;
}

/* ------------------------------------------------------------------- the output thread */

/* Queues every open request whose time is up, or all of them when cutting. Under the lock. */
static void deadlines_look(tn_engine *e, uint64_t now)
{
    e->next_deadline = NEVER;
    for (tn_request *r = e->live; r != NULL; r = r->live_next) {
        if (r->end != TN_END_NONE)
            continue;
        if (e->cut || r->deadline_ns <= now)
            outlet_put(e, r);
        else if (r->deadline_ns < e->next_deadline)
            e->next_deadline = r->deadline_ns;
    }
}

/* The next request that there is something to do for; NULL: leave. Under the lock. */
static tn_request *outlet_wait(tn_engine *e)
{
    for (;;) {
        uint64_t now = now_ns();
        if (now >= e->next_deadline)
            deadlines_look(e, now);
        tn_request *r = outlet_take(e);
        if (r != NULL)
            return r;
        if (e->closing && e->step_gone && e->nlive == 0)
            return NULL;
        if (e->next_deadline == NEVER) {
            pthread_cond_wait(&e->outlet, &e->lock);
        } else {
            struct timespec until = time_of(e->next_deadline);
            pthread_cond_timedwait(&e->outlet, &e->lock, &until);
        }
    }
}

static void log_end(tn_engine *e, const tn_request *r)
{
    static const char *const word[] = {
        [TN_END_DONE] = "done", [TN_END_CANCELLED] = "cancelled", [TN_END_TIMEOUT] = "timed out",
        [TN_END_CUT] = "cut off", [TN_END_NAN] = "failed: NaN or infinity in its logits",
        [TN_END_ENGINE] = "failed: engine down", [TN_END_MEMORY] = "failed: no memory",
        [TN_END_BUG] = "failed: the device drew no token",
    };
    static const char *const miss[] = {
        [TN_MISS_NONE] = "", [TN_MISS_TEXT] = " (new text from token ",
        [TN_MISS_STATE] = " (no state was kept past token ",
        [TN_MISS_BLOCK] = " (a block it needs was reused, at token ", [TN_MISS_OFF] = "",
    };
    uint32_t level = r->end >= TN_END_NAN ? TN_LOG_WARN : TN_LOG_DEBUG;
    char where[64] = "";
    if (miss[r->miss_seen][0] != 0)
        snprintf(where, sizeof where, "%s%u)", miss[r->miss_seen], r->miss_at_seen);
    if (tn_log_wants(e->log, level))
        tn_log_put(e->log, level, "engine", r->id, "%s; %u prompt tokens, %u of them cached%s, "
                   "%llu reply tokens", word[r->end], r->nprompt, r->ncached_seen, where,
                   (unsigned long long)r->nreply);
}

/* A running mean of how long requests take, for retry_after. */
static void mean_update(tn_engine *e, const tn_request *r, uint64_t now)
{
    uint64_t mean = atomic_load(&e->mean_ns), took = now - r->arrival_ns;
    atomic_store(&e->mean_ns, mean == 0 ? took : mean - mean / 8 + took / 8);
}

/* Makes pieces of a request outside the lock. True when its last piece went out just now. */
static bool request_work(tn_engine *e, tn_request *r, bool cut)
{
    if (r->end != TN_END_NONE)
        return false;
    bool over = tn_output_pump(&e->output, r);
    uint64_t now = now_ns();
    if (!over && (cut || now >= r->deadline_ns)) {
        tn_output_end(&e->output, r, cut ? TN_END_CUT : TN_END_TIMEOUT);
        over = true;
    }
    if (over) {
        log_end(e, r);
        mean_update(e, r, now);
    }
    return over;
}

static tn_status request_enter(tn_engine *e, tn_request *r, tn_err *err);

/* Runs a share of the requests that found something in the cache again without it. One that
 * there is no room or memory for is not: it was a spot check. */
static void check_begin(tn_engine *e, tn_request *r)
{
    tn_request *again = NULL;
    if (e->check_share <= 0 || !tn_recheck_fits(r))
        return;
    e->check_due += e->check_share;
    if (e->check_due < 1)
        return;
    e->check_due -= 1;
    if (tn_recheck_new(r, e->log, &e->stats, now_ns(), &again, NULL) != TN_OK)
        return;
    again->engine = e;
    tn_stats_outcome(&e->stats, TN_OUTCOME_ACCEPTED);
    if (request_enter(e, again, NULL) == TN_OK)
        return;
    tn_stats_outcome(&e->stats, TN_OUTCOME_REJECTED);
    tn_recheck_drop(again);
}

static void *output_main(void *arg)
{
    tn_engine *e = arg;
    tn_request *r;
    pthread_mutex_lock(&e->lock);
    while ((r = outlet_wait(e)) != NULL) {
        bool retired = r->retired, cut = e->cut;
        pthread_mutex_unlock(&e->lock);
        bool ended = request_work(e, r, cut);
        if (ended)
            check_begin(e, r);
        pthread_mutex_lock(&e->lock);
        if (ended) {
            atomic_store(&e->sweep_all, 1);
            if (--e->nopen == 0)
                pthread_cond_broadcast(&e->quiet);
        }
        wake_step(e);
        /* When it was queued again meanwhile, that turn lets go of it. */
        if (!retired || r->outlet_queued)
            continue;
        assert(r->end != TN_END_NONE);
        live_remove(e, r);
        pthread_mutex_unlock(&e->lock);
        tn_request_release(r);
        pthread_mutex_lock(&e->lock);
    }
    pthread_mutex_unlock(&e->lock);
    return NULL;
}

/* -------------------------------------------------------------------------- the outside */

static uint32_t retry_after(const tn_engine *e, uint64_t waiting)
{
    uint64_t each = atomic_load(&e->mean_ns) / e->max_running;
    uint64_t seconds = (each / 1000000u * (waiting + 1) + 999) / 1000;
    if (seconds < RETRY_LEAST)
        return RETRY_LEAST;
    return seconds < RETRY_MOST ? (uint32_t)seconds : RETRY_MOST;
}

/* Under the lock. */
static tn_status door_check(tn_engine *e, tn_err *err)
{
    if (e->dead)
        return refuse_with(err, TN_UNAVAILABLE, "engine_down",
                           "engine: stopped after its device failed");
    if (e->draining || e->closing)
        return refuse_with(err, TN_UNAVAILABLE, "draining",
                           "engine: shutting down, no new requests are taken");
    uint64_t waiting = e->nsubmit - atomic_load(&e->nbegun);
    if (waiting < e->queue_max)
        return TN_OK;
    tn_fail(err, TN_BUSY, "queue: %llu requests wait; expected fewer than %u, try again in "
            "%u s", (unsigned long long)waiting, e->queue_max, retry_after(e, waiting));
    if (err != NULL)
        snprintf(err->code, sizeof err->code, "queue_full");
    return TN_BUSY;
}

static tn_status request_enter(tn_engine *e, tn_request *r, tn_err *err)
{
    pthread_mutex_lock(&e->lock);
    tn_status st = door_check(e, err);
    if (st == TN_OK) {
        e->nsubmit++;
        live_add(e, r);
        inbox_put(e, r);
        wake_step(e);
        if (r->deadline_ns < e->next_deadline) {
            e->next_deadline = r->deadline_ns;
            pthread_cond_signal(&e->outlet);
        }
    }
    pthread_mutex_unlock(&e->lock);
    return st;
}

static tn_status submit(tn_engine *e, const tn_ask *given, tn_request **out, tn_err *err)
{
    uint64_t now = now_ns();
    tn_request *r = NULL;
    tn_ask ask = {0}; /* members that an older frontend lacks read as 0 */
    memcpy(&ask, given, given->size < sizeof ask ? given->size : sizeof ask);
    pthread_mutex_lock(&e->lock);
    tn_status st = door_check(e, err); /* before any work is put into it */
    pthread_mutex_unlock(&e->lock);
    if (st == TN_OK)
        st = tn_intake_request(&e->intake, &ask, now, &r, err);
    if (st != TN_OK)
        return st;
    r->engine = e;
    *out = r; /* before a piece can come */
    st = request_enter(e, r, err);
    if (st != TN_OK) {
        *out = NULL;
        tn_request_release(r);
        tn_request_release(r);
    }
    return st;
}

tn_status tn_engine_submit(tn_engine *e, const tn_ask *ask, tn_request **out, tn_err *err)
{
    tn_request *r = NULL;
    tn_stats_outcome(&e->stats, TN_OUTCOME_ACCEPTED);
    tn_status st = submit(e, ask, &r, err);
    if (st != TN_OK)
        tn_stats_outcome(&e->stats, TN_OUTCOME_REJECTED);
    else
        *out = r;
    return st;
}

void tn_engine_cancel(tn_engine *e, tn_request *r)
{
    atomic_store_explicit(&r->cancelled, 1, memory_order_release);
    pthread_mutex_lock(&e->lock);
    if (r->is_live)
        outlet_put(e, r);
    pthread_mutex_unlock(&e->lock);
}

tn_status tn_engine_tokenize(tn_engine *e, const tn_prompt *p, int32_t **ids, uint64_t *nid,
                             tn_err *err)
{
    tn_ids found;
    tn_status st = tn_intake_prompt(&e->intake, p, &found, err);
    if (st != TN_OK)
        return st;
    if (found.id == NULL && (found.id = calloc(1, sizeof *found.id)) == NULL)
        return tn_fail(err, TN_NO_MEMORY, "tokenize: no memory");
    *ids = found.id;
    *nid = found.n;
    return TN_OK;
}

void tn_engine_health(tn_engine *e, tn_health *out)
{
    pthread_mutex_lock(&e->lock);
    bool dead = e->dead, closed = e->draining || e->closing;
    uint64_t waiting = e->nsubmit - atomic_load(&e->nbegun);
    pthread_mutex_unlock(&e->lock);
    *out = (tn_health){
        .size = sizeof *out,
        .live = !dead,
        .ready = !dead && !closed,
        .running = atomic_load(&e->running),
        .waiting = (uint32_t)waiting,
        .why = dead ? "engine_down" : closed ? "draining" : "ok",
    };
    if (!out->ready || waiting >= e->queue_max)
        out->retry_after = retry_after(e, waiting);
}

tn_status tn_engine_visit(tn_engine *e, tn_status (*visitor)(void *user, tn_visit *v, tn_err *err),
                          void *user, tn_err *err)
{
    visit_call c = {.visitor = visitor, .user = user};
    pthread_mutex_lock(&e->lock);
    if (e->dead || e->step_gone || e->closing) {
        pthread_mutex_unlock(&e->lock);
        return refuse_with(err, TN_UNAVAILABLE, "engine_down", "engine: stopped");
    }
    if (e->visit_last != NULL)
        e->visit_last->next = &c;
    else
        e->visit_first = &c;
    e->visit_last = &c;
    wake_step(e);
    while (!c.done)
        pthread_cond_wait(&e->visited, &e->lock);
    pthread_mutex_unlock(&e->lock);
    if (c.st != TN_OK && err != NULL)
        *err = c.err;
    return c.st;
}

const tn_kv *tn_engine_kv(const tn_engine *e)
{
    return e->kv;
}

void tn_engine_pulse(tn_engine *e, tn_pulse *out)
{
    *out = (tn_pulse){
        .nstep = atomic_load(&e->nstep),
        .step_begun = atomic_load(&e->step_begun),
        .step_done = atomic_load(&e->step_done),
        .blocks_used = atomic_load(&e->blocks_used),
        .blocks_all = e->nblock,
        .npreempt = atomic_load(&e->npreempt),
        .accepted = atomic_load(&e->stats.outcome[TN_OUTCOME_ACCEPTED]),
        .completed = atomic_load(&e->stats.outcome[TN_OUTCOME_COMPLETED]),
        .cancelled = atomic_load(&e->stats.outcome[TN_OUTCOME_CANCELLED]),
        .timed_out = atomic_load(&e->stats.outcome[TN_OUTCOME_TIMED_OUT]),
        .failed = atomic_load(&e->stats.outcome[TN_OUTCOME_FAILED]),
        .rejected = atomic_load(&e->stats.outcome[TN_OUTCOME_REJECTED]),
    };
}

/* --------------------------------------------------------------------------- the end */

/* Everything open ends with TN_END_CUT. Under the lock. */
static void cut(tn_engine *e)
{
    e->cut = true;
    e->next_deadline = 0; /* makes the output thread look */
    pthread_cond_signal(&e->outlet);
}

tn_status tn_engine_drain(tn_engine *e, uint32_t ms, tn_err *err)
{
    struct timespec until = time_of(now_ns() + (uint64_t)ms * 1000000u);
    int waited = 0;
    pthread_mutex_lock(&e->lock);
    e->draining = true;
    while (e->nopen > 0 && waited == 0)
        waited = pthread_cond_timedwait(&e->quiet, &e->lock, &until);
    uint32_t left = e->nopen;
    if (left > 0)
        cut(e);
    while (e->nopen > 0)
        pthread_cond_wait(&e->quiet, &e->lock);
    pthread_mutex_unlock(&e->lock);
    if (left == 0)
        return TN_OK;
    return tn_fail(err, TN_CUT, "engine: %u requests were cut off after %u ms", left, ms);
}

static void threads_end(tn_engine *e)
{
    if (!e->has_lock)
        return;
    pthread_mutex_lock(&e->lock);
    e->draining = e->closing = true;
    e->step_gone = e->step_gone || !e->has_step_thread;
    cut(e);
    pthread_cond_signal(&e->work);
    pthread_mutex_unlock(&e->lock);
    if (e->has_step_thread)
        pthread_join(e->step_thread, NULL);
    if (e->has_output_thread)
        pthread_join(e->output_thread, NULL);
    pthread_mutex_destroy(&e->lock);
    pthread_cond_destroy(&e->work);
    pthread_cond_destroy(&e->outlet);
    pthread_cond_destroy(&e->quiet);
    pthread_cond_destroy(&e->visited);
}

void tn_engine_close(tn_engine *e)
{
    if (e == NULL)
        return;
    threads_end(e);
    tn_output_close(&e->output);
    tn_sched_close(e->sched);
    if (e->has_intake)
        tn_intake_close(&e->intake);
    tn_kv_close(e->kv);
    free(e);
}

/* -------------------------------------------------------------------------- the beginning */

static tn_status locks_open(tn_engine *e, tn_err *err)
{
    pthread_condattr_t attr;
    if (pthread_condattr_init(&attr) != 0)
        return tn_fail(err, TN_OS, "engine: the system gave no lock");
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    if (pthread_mutex_init(&e->lock, NULL) == 0) {
        e->has_lock = pthread_cond_init(&e->work, &attr) == 0 &&
                      pthread_cond_init(&e->outlet, &attr) == 0 &&
                      pthread_cond_init(&e->quiet, &attr) == 0 &&
                      pthread_cond_init(&e->visited, &attr) == 0;
    }
    pthread_condattr_destroy(&attr);
    return e->has_lock ? TN_OK : tn_fail(err, TN_OS, "engine: the system gave no lock");
}

/* Signals are the main thread's business, but for those that tell of a fault: blocked, they would
 * end the process without a word. */
static tn_status threads_begin(tn_engine *e, tn_err *err)
{
    static const int faults[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS};
    sigset_t all, before;
    sigfillset(&all);
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++)
        sigdelset(&all, faults[i]);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    e->has_output_thread = pthread_create(&e->output_thread, NULL, output_main, e) == 0;
    if (e->has_output_thread)
        e->has_step_thread = pthread_create(&e->step_thread, NULL, step_main, e) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (e->has_output_thread && e->has_step_thread)
        return TN_OK;
    return tn_fail(err, TN_OS, "engine: the system gave no thread; expected 2 more");
}

static tn_status kv_and_sched_open(tn_engine *e, const tn_engine_setup *p, tn_err *err)
{
    bool copies = p->device->block_copy != NULL && p->device->state_copy != NULL;
    bool cached = p->prefix_caching != 0 && (p->has_states == 0 || copies);
    tn_status st = tn_kv_open(p->pools->nblock, p->limits->block_tokens, cached, &e->kv, err);
    if (st != TN_OK)
        return st;
    const tn_sched_setup setup = {
        .limits = p->limits,
        .pools = p->pools,
        .kv = e->kv,
        .max_running = e->max_running,
        .vocab = p->vocab,
        .has_states = p->has_states != 0,
        .snapshot_every = p->snapshot_every,
        .drafts = p->drafts,
        .can_copy_blocks = p->device->block_copy != NULL,
        .can_copy_states = p->device->state_copy != NULL,
        .step_first = p->step_first,
    };
    return tn_sched_open(&setup, &e->sched, err);
}

static tn_status intake_open(tn_engine *e, const tn_engine_setup *p, tn_err *err)
{
    uint32_t logprobs = p->max_logprobs < p->limits->top_max ? p->max_logprobs
                                                             : p->limits->top_max;
    e->intake = (tn_intake){
        .tok = p->tok,
        .chat = p->chat,
        .kv = e->kv,
        .context_max = p->limits->context_max,
        .vocab = p->vocab,
        .block_tokens = tn_kv_is_cached(e->kv) ? p->limits->block_tokens : 0,
        .timeout_ms = p->request_timeout_ms > 0 ? p->request_timeout_ms : TIMEOUT_MS,
        .facts = {.vocab = p->vocab, .eos = p->eos, .eos_more = p->eos_more,
                  .neos_more = p->neos_more, .max_logprobs = logprobs, .defaults = p->defaults,
                  .seeds = p->seed != 0 ? &e->seeds : NULL,
                  .tok = p->tok},
    };
    tn_status st = tn_intake_open(&e->intake, err);
    e->has_intake = st == TN_OK;
    return st;
}

static tn_status stats_and_output_open(tn_engine *e, const tn_engine_setup *p, tn_err *err)
{
    const tn_stats_setup setup = {
        .metrics = p->metrics,
        .name = e->name,
        .context_max = p->limits->context_max,
        .block_tokens = p->limits->block_tokens,
        .nblock = p->pools->nblock,
        .cache_dtype = p->limits->cache_dtype,
        .prefix_caching = tn_kv_is_cached(e->kv),
    };
    tn_status st = tn_stats_open(&e->stats, &setup, err);
    if (st == TN_OK)
        st = tn_output_open(&e->output, p->tok, e->intake.facts.max_logprobs, &e->stats, err);
    return st;
}

static tn_status setup_check(const tn_engine_setup *p, tn_err *err)
{
    if (p->device == NULL || p->device->run == NULL || p->device->wait == NULL ||
        p->limits == NULL || p->pools == NULL)
        return tn_fail(err, TN_INTERNAL, "engine: set up without a device");
    if (p->vocab == 0 || p->vocab > INT32_MAX)
        return tn_fail(err, TN_CONFIG, "engine: a vocabulary of %u tokens; expected 1 to %d",
                       p->vocab, INT32_MAX);
    return TN_OK;
}

tn_status tn_engine_open(const tn_engine_setup *p, tn_engine **out, tn_err *err)
{
    tn_status st = setup_check(p, err);
    if (st != TN_OK)
        return st;
    tn_engine *e = calloc(1, sizeof *e);
    if (e == NULL)
        return tn_fail(err, TN_NO_MEMORY, "engine: no memory");
    e->device = *p->device;
    e->program = p->program;
    e->log = p->log;
    e->nblock = p->pools->nblock;
    e->drafts = p->drafts;
    e->check_share = p->prefix_check;
    e->seeds.base = p->seed;
    e->next_deadline = NEVER;
    e->max_running = p->max_running;
    if (e->max_running == 0 || e->max_running > p->limits->seqs_max)
        e->max_running = p->limits->seqs_max;
    e->queue_max = p->queue_max > 0 ? p->queue_max : QUEUE_FACTOR * e->max_running;
    snprintf(e->name, sizeof e->name, "%s", p->name != NULL ? p->name : "model");
    st = kv_and_sched_open(e, p, err);
    if (st == TN_OK)
        st = intake_open(e, p, err);
    if (st == TN_OK)
        st = stats_and_output_open(e, p, err);
    if (st == TN_OK)
        st = locks_open(e, err);
    if (st == TN_OK)
        st = threads_begin(e, err);
    if (st != TN_OK) {
        tn_engine_close(e);
        return st;
    }
    *out = e;
    return TN_OK;
}
