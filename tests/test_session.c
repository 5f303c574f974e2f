/* SPDX-License-Identifier: Apache-2.0 */
/* test_session.c - conversations between engines by way of files: whatever was restored, every
 * reply is the oracle's, and nothing that was saved is computed again. */
#include "parcel.h"
#include "scratchdir.h"
#include "session.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "enginehouse.h"

static const uint64_t print[2] = {11, 12};
/* The fake device's block: the tokens it was told, then those that drafting was told. */
static const tn_cache_spec cells = {.size = sizeof cells, .heads = 1, .k_dim = 1, .v_dim = 1};
static const tn_recipe recipe = {.size = sizeof recipe, .ncache = 1, .cache = &cells};

typedef struct kind {
    bool states;
    uint32_t drafts;
} kind;

static void open_house(house *h, kind k, uint32_t nblock)
{
    house_defaults(h);
    h->device.has_states = k.states;
    h->device.guess_wrong = 3;
    h->device.pools.nblock = nblock;
    h->running = 4;
    h->drafts = k.drafts;
    house_open(h);
}

static tn_session_place place_in(const house *h, const char *path)
{
    return (tn_session_place){.engine = h->engine, .fingerprint = print, .model = "tiny",
                              .recipe = &recipe, .path = path, .what = "it", .salt = NULL, .owner = "me"};
}

/* Runs ids for `max` tokens, checks the reply and appends it. Returns the cached tokens. */
static uint64_t say(house *h, int32_t *ids, uint32_t *n, uint32_t max, const char *salt)
{
    guest g;
    tn_ask ask = oracle_ask(ids, *n);
    ask.max_tokens = max;
    ask.temperature = 0;
    ask.flags = TN_ASK_IGNORE_EOS;
    ask.cache_salt = salt;
    guest_open(&g);
    house_ask(h, &ask, &g);
    guest_wait(&g, 0);
    check_guest(h, &ask, &g);
    for (uint32_t i = 0; i < g.ntoken[0]; i++)
        ids[(*n)++] = g.token[0][i];
    uint64_t cached = g.ncached;
    tn_request_release(g.req);
    house_is_empty(h);
    guest_close(&g);
    return cached;
}

static uint32_t save(house *h, const char *path, int32_t *ids, uint32_t n)
{
    const tn_session_place p = place_in(h, path);
    const tn_session_talk talk = {.id = ids, .nid = n, .note = (char *)(uintptr_t)"hi",
                                  .note_size = 2};
    uint32_t cached = 0;
    tn_err err = {0};
    if (tn_session_save(&p, &talk, &cached, &err) != TN_OK)
        fail_msg("%s", err.text);
    house_is_empty(h);
    return cached;
}

static tn_status restore(house *h, const char *path, uint32_t *cached, tn_err *err)
{
    const tn_session_place p = place_in(h, path);
    tn_session_talk talk = {0};
    tn_status st = tn_session_restore(&p, &talk, cached, err);
    if (st == TN_OK)
        assert_string_equal(talk.note, "hi");
    tn_session_talk_close(&talk);
    house_is_empty(h);
    return st;
}

/* Five turns, each in an engine of its own. */
static void one_kind(kind k)
{
    scratch s;
    house h;
    tn_err err = {0};
    int32_t ids[256];
    uint32_t n = 13, saved = 0, known = 0;
    scratch_open(&s);
    const char *path = scratch_path(&s, "talk");
    fill_ids(ids, n, 7 + k.drafts);
    for (uint32_t turn = 0; turn < 5; turn++) {
        open_house(&h, k, 64);
        if (turn > 0) {
            if (restore(&h, path, &known, &err) != TN_OK)
                fail_msg("%s", err.text);
            assert_int_equal(known, saved);
        }
        fill_ids(ids + n, 3, turn);
        n += 3;
        assert_int_equal(say(&h, ids, &n, 9, NULL), saved);
        saved = save(&h, path, ids, n);
        assert_int_equal(saved, k.states ? n - 1 : (n - 1) / 4 * 4);
        house_close(&h);
    }
    scratch_close(&s);
}

static void test_goes_on(void **state)
{
    (void)state;
    one_kind((kind){0});
    one_kind((kind){.states = true});
    one_kind((kind){.drafts = 2});
    one_kind((kind){.states = true, .drafts = 1});
    one_kind((kind){.states = true, .drafts = 4});
}

/* What the memory of a block held before is nobody's to save. */
static void test_no_leak(void **state)
{
    (void)state;
    scratch s;
    house h;
    tn_session_head head;
    tn_session_file *f = NULL;
    tn_err err = {0};
    int32_t ids[256];
    uint32_t n = 13;
    uint8_t data[4096];
    scratch_open(&s);
    const char *path = scratch_path(&s, "talk");
    open_house(&h, (kind){.states = true}, 64);
    size_t ncell = (size_t)64 * h.device.limits.block_tokens, cell = sizeof *h.device.cell;
    memset(h.device.cell, 0x5a, ncell * cell);
    memset(h.device.guess_cell, 0x5a, ncell * cell);
    fill_ids(ids, n, 3);
    say(&h, ids, &n, 9, NULL);
    uint32_t saved = save(&h, path, ids, n), tokens = h.device.limits.block_tokens;
    assert_int_equal(saved, n - 1);
    uint32_t used = saved % tokens;
    assert_true(used > 0);
    assert_int_equal(tn_session_open(path, "it", &f, &head, &err), TN_OK);
    assert_int_equal(tn_session_get(f, data, (uint64_t)n * 4 + head.note_size, &err), TN_OK);
    for (uint32_t i = 0; i < head.nblock; i++)
        assert_int_equal(tn_session_get(f, data, head.block_size, &err), TN_OK);
    for (size_t i = 0; i < head.block_size; i++) { /* two sides, the open rows behind each */
        bool open = i % (tokens * cell) >= used * cell;
        if (open && data[i] != 0)
            fail_msg("byte %zu of the last block is %02x", i, data[i]);
    }
    assert_memory_equal(data, ids + saved / tokens * tokens, used * cell);
    tn_session_close(f);
    house_close(&h);
    scratch_close(&s);
}

/* Restored beside what is known already, only the rest is written; under another salt nothing
 * of it is known. */
static void test_known_blocks_and_salts(void **state)
{
    (void)state;
    scratch s;
    house h;
    tn_err err = {0};
    int32_t ids[256], other[256];
    uint32_t n = 40, known, m = 40;
    scratch_open(&s);
    const char *path = scratch_path(&s, "talk");
    open_house(&h, (kind){0}, 64);
    fill_ids(ids, n, 1);
    memcpy(other, ids, sizeof *ids * 40);
    say(&h, ids, &n, 8, NULL);
    save(&h, path, ids, n);
    assert_int_equal(restore(&h, path, &known, &err), TN_OK);
    assert_int_equal(atomic_load(&h.device.nwritten), 0);
    assert_int_equal(say(&h, other, &m, 8, "somebody"), 0);
    house_close(&h);
    open_house(&h, (kind){0}, 64);
    m = 17;
    say(&h, other, &m, 1, NULL); /* four blocks of it */
    assert_int_equal(restore(&h, path, &known, &err), TN_OK);
    assert_int_equal(atomic_load(&h.device.nwritten), known / 4 - 4);
    house_close(&h);
    scratch_close(&s);
}

/* A damaged file, another model's, another owner's, one too large: nothing changes. */
static void test_refusals(void **state)
{
    (void)state;
    scratch s;
    house h;
    tn_err err = {0};
    int32_t ids[256];
    uint32_t n = 60, known;
    scratch_open(&s);
    char path[512];
    snprintf(path, sizeof path, "%s", scratch_path(&s, "talk"));
    open_house(&h, (kind){.states = true}, 64);
    fill_ids(ids, n, 1);
    say(&h, ids, &n, 8, NULL);
    save(&h, path, ids, n);
    house_close(&h);
    for (uint32_t i = 0; i < 4; i++) {
        open_house(&h, (kind){.states = i != 3}, 64);
        tn_session_place p = place_in(&h, path);
        const uint64_t wrong[2] = {11, 13};
        tn_session_talk talk = {0};
        if (i == 0)
            p.owner = "you";
        if (i == 1)
            p.fingerprint = wrong;
        if (i == 2) {
            FILE *f = fopen(path, "r+b");
            fseek(f, -30, SEEK_END);
            fputc('!', f);
            fclose(f);
        }
        tn_status st = tn_session_restore(&p, &talk, &known, &err);
        assert_int_equal(st, i == 0 ? TN_NOINPUT : TN_DATA);
        assert_string_equal(err.code, i == 1 || i == 3 ? "session_mismatch" : "");
        house_is_empty(&h);
        uint32_t m = 60;
        assert_int_equal(say(&h, ids, &m, 8, NULL), 0);
        house_close(&h);
    }
    scratch_close(&s);
}

/* While a sequence holds most of the cache, a conversation that does not fit beside it waits
 * outside, and the sequence never notices. */
static void test_no_room(void **state)
{
    (void)state;
    scratch s;
    house h;
    guest g;
    tn_err err = {0};
    int32_t ids[256], long_ids[256];
    uint32_t n = 100, known;
    scratch_open(&s);
    const char *path = scratch_path(&s, "talk");
    open_house(&h, (kind){0}, 40);
    fill_ids(ids, n, 1);
    say(&h, ids, &n, 8, NULL);
    save(&h, path, ids, n);
    house_close(&h);
    open_house(&h, (kind){0}, 40);
    fill_ids(long_ids, 80, 5);
    tn_ask ask = oracle_ask(long_ids, 80);
    ask.max_tokens = 40;
    ask.temperature = 0;
    ask.flags = TN_ASK_IGNORE_EOS;
    atomic_store(&h.device.step_us, 20000);
    guest_open(&g);
    house_ask(&h, &ask, &g);
    guest_wait(&g, 1);
    const tn_session_place p = place_in(&h, path);
    tn_session_talk talk = {0};
    assert_int_equal(tn_session_restore(&p, &talk, &known, &err), TN_BUSY);
    assert_string_equal(err.code, "cache_full");
    assert_non_null(strstr(err.text, "needs 26 cache blocks"));
    atomic_store(&h.device.step_us, 0);
    guest_wait(&g, 0);
    check_guest(&h, &ask, &g);
    tn_request_release(g.req);
    guest_close(&g);
    assert_int_equal(restore(&h, path, &known, &err), TN_OK);
    house_close(&h);
    scratch_close(&s);
}

/* A device that cannot be read fails the save and nothing else; a dead one is told apart. */
static void test_device_fails(void **state)
{
    (void)state;
    scratch s;
    house h;
    tn_err err = {0};
    int32_t ids[256];
    uint32_t n = 30, known;
    scratch_open(&s);
    const char *path = scratch_path(&s, "talk");
    open_house(&h, (kind){0}, 64);
    fill_ids(ids, n, 1);
    say(&h, ids, &n, 8, NULL);
    const tn_session_place p = place_in(&h, path);
    const tn_session_talk talk = {.id = ids, .nid = n};
    atomic_store(&h.device.fail_read, true);
    assert_int_equal(tn_session_save(&p, &talk, &known, &err), TN_UNAVAILABLE);
    assert_int_not_equal(access(path, F_OK), 0);
    atomic_store(&h.device.fail_read, false);
    house_is_empty(&h);
    assert_true(say(&h, ids, &n, 4, NULL) > 0);
    save(&h, path, ids, n);
    house_close(&h);
    scratch_close(&s);
}

/* A step of the visitor's own is lost: the engine ends, and whoever comes later is told. */
static void test_settling_fails(void **state)
{
    (void)state;
    scratch s;
    house h;
    tn_err err = {0};
    int32_t ids[256];
    uint32_t n = 13, known;
    scratch_open(&s);
    open_house(&h, (kind){.states = true, .drafts = 2}, 64);
    fill_ids(ids, n, 9);
    say(&h, ids, &n, 9, NULL);
    atomic_store(&h.device.fail_run, atomic_load(&h.device.nrun) + 1);
    const tn_session_place p = place_in(&h, scratch_path(&s, "talk"));
    const tn_session_talk talk = {.id = ids, .nid = n};
    tn_status st = tn_session_save(&p, &talk, &known, &err);
    if (st != TN_OK) { /* rows were pending, as they are with these tokens */
        assert_int_equal(st, TN_UNAVAILABLE);
        assert_int_equal(tn_session_save(&p, &talk, &known, &err), TN_UNAVAILABLE);
        assert_string_equal(err.code, "engine_down");
    } else {
        fail_msg("nothing was pending");
    }
    house_close(&h);
    scratch_close(&s);
}

typedef struct mover {
    house *h;
    const char *path, *again;    /* restored from the one, saved to the other */
    int32_t *ids;
    uint32_t n, nmove, nfull;
    atomic_bool stop;
} mover;

static void *move(void *arg)
{
    mover *m = arg;
    const tn_session_place from = place_in(m->h, m->path), to = place_in(m->h, m->again);
    const tn_session_talk talk = {.id = m->ids, .nid = m->n};
    tn_err err = {0};
    while (!atomic_load(&m->stop) || m->nmove == 0) { /* alone it has room in any case */
        tn_session_talk read = {0};
        uint32_t known;
        tn_status st = tn_session_restore(&from, &read, &known, &err);
        m->nfull += st == TN_BUSY;
        if (st == TN_OK)
            st = tn_session_save(&to, &talk, &known, &err);
        m->nmove += st == TN_OK;
        tn_session_talk_close(&read);
        if (st != TN_OK && st != TN_BUSY)
            abort();
    }
    return NULL;
}

/* Conversations come and go beside requests that fill the cache: every reply is right, none
 * stays without room, and every block comes back. */
static void storm(kind k)
{
    scratch s;
    house h;
    pthread_t thread;
    int32_t ids[256], text[8][64];
    char path[512], again[512];
    uint32_t n = 60;
    scratch_open(&s);
    snprintf(path, sizeof path, "%s", scratch_path(&s, "talk"));
    snprintf(again, sizeof again, "%s", scratch_path(&s, "again"));
    open_house(&h, k, 48);
    fill_ids(ids, n, 1);
    say(&h, ids, &n, 8, NULL);
    save(&h, path, ids, n);
    mover m = {.h = &h, .path = path, .again = again, .ids = ids, .n = n};
    assert_int_equal(pthread_create(&thread, NULL, move, &m), 0);
    for (uint32_t round = 0; round < 12; round++) {
        guest g[8];
        tn_ask ask[8];
        for (uint32_t i = 0; i < 8; i++) {
            fill_ids(text[i], 50, round * 8 + i);
            memcpy(text[i], ids, 20 * sizeof *ids); /* they begin as the conversation does */
            ask[i] = oracle_ask(text[i], 30 + 2 * i);
            ask[i].max_tokens = 30;
            ask[i].temperature = 0;
            ask[i].flags = TN_ASK_IGNORE_EOS;
            guest_open(&g[i]);
            house_ask(&h, &ask[i], &g[i]);
        }
        for (uint32_t i = 0; i < 8; i++) {
            guest_wait(&g[i], 0);
            check_guest(&h, &ask[i], &g[i]);
            tn_request_release(g[i].req);
            guest_close(&g[i]);
        }
    }
    atomic_store(&m.stop, true);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_true(m.nmove > 0);
    house_is_empty(&h);
    house_close(&h);
    scratch_close(&s);
}

static void test_storm(void **state)
{
    (void)state;
    storm((kind){0});
    storm((kind){.states = true, .drafts = 2});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_leak), cmocka_unit_test(test_goes_on),   cmocka_unit_test(test_known_blocks_and_salts),
        cmocka_unit_test(test_refusals),  cmocka_unit_test(test_no_room),
        cmocka_unit_test(test_device_fails), cmocka_unit_test(test_settling_fails),
        cmocka_unit_test(test_storm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
