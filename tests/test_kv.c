/* SPDX-License-Identifier: Apache-2.0 */
/* test_kv.c - the block books: users, the idle queue, sealed blocks and their keys. */
#include "kv.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#define BLOCK 4u

static tn_kv *open_kv(uint32_t nblock, bool cached)
{
    tn_kv *kv = NULL;
    tn_err err = {0};
    assert_int_equal(tn_kv_open(nblock, BLOCK, cached, &kv, &err), TN_OK);
    return kv;
}

static tn_kv_key key_of(const tn_kv *kv, const char *salt, int32_t first)
{
    const int32_t ids[BLOCK] = {first, first + 1, first + 2, first + 3};
    return tn_kv_next(kv, tn_kv_root(kv, salt), ids);
}

static bool same(tn_kv_key a, tn_kv_key b)
{
    return a.word[0] == b.word[0] && a.word[1] == b.word[1];
}

static void takes_until_empty(void **state)
{
    (void)state;
    tn_kv *kv = open_kv(3, true);
    bool seen[3] = {false};
    for (int i = 0; i < 3; i++) {
        int32_t b = tn_kv_take(kv);
        assert_in_range(b, 0, 2);
        assert_false(seen[b]);
        seen[b] = true;
    }
    assert_int_equal(tn_kv_take(kv), -1);
    assert_int_equal(tn_kv_used(kv), 3);
    tn_kv_give(kv, 1);
    assert_int_equal(tn_kv_idle(kv), 1);
    assert_int_equal(tn_kv_take(kv), 1);
    tn_kv_close(kv);
}

static void shares_by_count(void **state)
{
    (void)state;
    tn_kv *kv = open_kv(2, true);
    int32_t b = tn_kv_take(kv);
    tn_kv_hold(kv, b);
    tn_kv_hold(kv, b);
    tn_kv_give(kv, b);
    tn_kv_give(kv, b);
    assert_int_equal(tn_kv_used(kv), 1);
    assert_false(tn_kv_is_idle(kv, b));
    tn_kv_give(kv, b);
    assert_int_equal(tn_kv_used(kv), 0);
    assert_true(tn_kv_is_idle(kv, b));
    tn_kv_close(kv);
}

static void finds_sealed_until_reused(void **state)
{
    (void)state;
    tn_kv *kv = open_kv(3, true);
    tn_kv_key k0 = key_of(kv, NULL, 10), k1 = key_of(kv, NULL, 20);
    int32_t a = tn_kv_take(kv), b = tn_kv_take(kv), c = tn_kv_take(kv);
    assert_int_equal(tn_kv_find(kv, k0), -1);
    tn_kv_seal(kv, a, k0);
    tn_kv_seal(kv, b, k1);
    assert_int_equal(tn_kv_find(kv, k0), a);
    tn_kv_give(kv, a);
    tn_kv_give(kv, b);
    tn_kv_give(kv, c);
    assert_int_equal(tn_kv_find(kv, k0), a); /* idle, still known */
    assert_int_equal(tn_kv_take(kv), c);     /* the one that holds nothing goes first */
    assert_int_equal(tn_kv_take(kv), a);     /* then the one idle for longest */
    assert_int_equal(tn_kv_find(kv, k0), -1);
    assert_int_equal(tn_kv_find(kv, k1), b);
    tn_kv_hold(kv, b);                       /* a later prompt begins the same way */
    assert_int_equal(tn_kv_take(kv), -1);
    tn_kv_give(kv, b);
    assert_int_equal(tn_kv_find(kv, k1), b);
    tn_kv_close(kv);
}

static void use_makes_young(void **state)
{
    (void)state;
    tn_kv *kv = open_kv(2, true);
    tn_kv_key k0 = key_of(kv, NULL, 1), k1 = key_of(kv, NULL, 2);
    int32_t a = tn_kv_take(kv), b = tn_kv_take(kv);
    tn_kv_seal(kv, a, k0);
    tn_kv_seal(kv, b, k1);
    tn_kv_give(kv, a);
    tn_kv_give(kv, b);
    tn_kv_hold(kv, a);
    tn_kv_give(kv, a);
    assert_int_equal(tn_kv_take(kv), b);
    assert_int_equal(tn_kv_find(kv, k0), a);
    tn_kv_close(kv);
}

static void second_of_a_key_stays_private(void **state)
{
    (void)state;
    tn_kv *kv = open_kv(2, true);
    tn_kv_key k = key_of(kv, NULL, 5);
    int32_t a = tn_kv_take(kv), b = tn_kv_take(kv);
    tn_kv_seal(kv, a, k);
    tn_kv_seal(kv, b, k);
    assert_int_equal(tn_kv_find(kv, k), a);
    tn_kv_give(kv, b);
    tn_kv_give(kv, a);
    assert_int_equal(tn_kv_take(kv), b); /* it was never sealed */
    assert_int_equal(tn_kv_take(kv), a);
    assert_int_equal(tn_kv_find(kv, k), -1);
    tn_kv_close(kv);
}

static void keys_tell_apart(void **state)
{
    (void)state;
    tn_kv *kv = open_kv(1, true), *other = open_kv(1, true);
    const int32_t ids[BLOCK] = {1, 2, 3, 4}, swapped[BLOCK] = {2, 1, 3, 4};
    tn_kv_key root = tn_kv_root(kv, NULL);
    tn_kv_key one = tn_kv_next(kv, root, ids);
    assert_true(same(one, tn_kv_next(kv, root, ids)));
    assert_false(same(one, tn_kv_next(kv, root, swapped)));
    assert_false(same(one, tn_kv_next(kv, one, ids)));
    assert_false(same(root, tn_kv_root(kv, "")));
    assert_false(same(tn_kv_root(kv, "a"), tn_kv_root(kv, "b")));
    assert_false(same(tn_kv_root(kv, "12345678"), tn_kv_root(kv, "123456789")));
    assert_true(same(tn_kv_root(kv, "key of one"), tn_kv_root(kv, "key of one")));
    assert_false(same(root, tn_kv_root(other, NULL))); /* each cache has its own secret */
    tn_kv_close(kv);
    tn_kv_close(other);
}

static void uncached_never_finds(void **state)
{
    (void)state;
    tn_kv *kv = open_kv(2, false);
    tn_kv_key k = key_of(kv, NULL, 5);
    int32_t a = tn_kv_take(kv);
    tn_kv_seal(kv, a, k);
    assert_false(tn_kv_is_cached(kv));
    assert_int_equal(tn_kv_find(kv, k), -1);
    tn_kv_close(kv);
}

static void refuses_sizes(void **state)
{
    (void)state;
    tn_kv *kv;
    tn_err err = {0};
    assert_int_equal(tn_kv_open(0, 4, true, &kv, &err), TN_CONFIG);
    assert_int_equal(tn_kv_open(4, 0, true, &kv, &err), TN_CONFIG);
    assert_int_equal(tn_kv_open(0x80000000u, 4, true, &kv, &err), TN_CONFIG);
}

/* Random work against plain counts. The model remembers which block carries which key. */
#define MODEL_BLOCKS 24u
#define MODEL_KEYS 64

static void agrees_with_a_model(void **state)
{
    (void)state;
    tn_kv *kv = open_kv(MODEL_BLOCKS, true);
    uint32_t users[MODEL_BLOCKS] = {0}, used = 0;
    int32_t owner[MODEL_KEYS]; /* block that carries key i, -1: none */
    int32_t carries[MODEL_BLOCKS];
    memset(owner, -1, sizeof owner);
    memset(carries, -1, sizeof carries);
    srand(7);
    for (int turn = 0; turn < 200000; turn++) {
        int32_t b = rand() % (int)MODEL_BLOCKS, k = rand() % MODEL_KEYS;
        tn_kv_key key = key_of(kv, NULL, k * 100);
        switch (rand() % 4) {
        case 0:
            b = tn_kv_take(kv);
            assert_int_equal(b < 0, used == MODEL_BLOCKS);
            if (b < 0)
                break;
            assert_int_equal(users[b], 0);
            if (carries[b] >= 0)
                owner[carries[b]] = -1;
            carries[b] = -1;
            users[b] = 1;
            used++;
            break;
        case 1:
            if (users[b] == 0)
                break;
            tn_kv_give(kv, b);
            used -= --users[b] == 0;
            break;
        case 2:
            if (users[b] == 0)
                break;
            tn_kv_seal(kv, b, key);
            if (owner[k] < 0 && carries[b] < 0) {
                owner[k] = b;
                carries[b] = k;
            }
            break;
        default:
            assert_int_equal(tn_kv_find(kv, key), owner[k]);
            if (owner[k] < 0)
                break;
            used += users[owner[k]]++ == 0;
            tn_kv_hold(kv, owner[k]);
        }
        assert_int_equal(tn_kv_used(kv), used);
        assert_int_equal(tn_kv_idle(kv), MODEL_BLOCKS - used);
    }
    tn_kv_close(kv);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_until_empty),
        cmocka_unit_test(shares_by_count),
        cmocka_unit_test(finds_sealed_until_reused),
        cmocka_unit_test(use_makes_young),
        cmocka_unit_test(second_of_a_key_stays_private),
        cmocka_unit_test(keys_tell_apart),
        cmocka_unit_test(uncached_never_finds),
        cmocka_unit_test(refuses_sizes),
        cmocka_unit_test(agrees_with_a_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
