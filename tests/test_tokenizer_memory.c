/* SPDX-License-Identifier: Apache-2.0 */
/* test_tokenizer_memory.c - every allocation fails once: opening, encoding and decoding say so
 * and leave nothing behind. */
#include "tokfixture.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#endif

#ifndef SANITIZED

/* The C library's own allocator, behind one that counts and fails on demand. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *p, size_t size);
void __libc_free(void *p);

static long live;           /* blocks handed out and not given back */
static long fail_in = -1;   /* allocations until one fails, -1: none does */

static bool fails(void)
{
    if (fail_in < 0)
        return false;
    return fail_in-- == 0;
}

void *malloc(size_t size)
{
    void *p = fails() ? NULL : __libc_malloc(size);
    live += p != NULL;
    return p;
}

void *calloc(size_t count, size_t size)
{
    void *p = fails() ? NULL : __libc_calloc(count, size);
    live += p != NULL;
    return p;
}

void *realloc(void *old, size_t size)
{
    void *p = fails() ? NULL : __libc_realloc(old, size);
    live += p != NULL && old == NULL;
    return p;
}

void free(void *p)
{
    live -= p != NULL;
    __libc_free(p);
}

static const fixture fixtures[] = {
    {.pre = "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":"
            "\"\\\\p{L}+[a&&b]|[^\\\\w]|x\"},\"behavior\":\"Isolated\",\"invert\":false}," LEVEL "]}",
     .normalizer = "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFKC\"},{\"type\":\"Replace\","
                   "\"pattern\":{\"Regex\":\"q|r\"},\"content\":\"s\"}]}",
     .decoder = LEVEL,
     .added = "[{\"id\":300,\"content\":\"<e>\",\"special\":true,\"normalized\":false},"
              "{\"id\":301,\"content\":\"<n>\",\"special\":true,\"normalized\":true}]",
     .post = "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"b\"}},"
             "{\"Sequence\":{\"id\":\"A\"}}],\"special_tokens\":{\"b\":{\"ids\":[300]}}}"},
    {.sentence_piece = true, .normalizer = SPM_NORMALIZER, .decoder = SPM_DECODER,
     .options = "\"byte_fallback\":true,"},
    {.sentence_piece = true, .decoder = "{\"type\":\"BPEDecoder\",\"suffix\":\"e\"}",
     .pre = "{\"type\":\"Metaspace\",\"replacement\":\"" LOW "\"}",
     .options = "\"unk_token\":\"<unk>\","}};
#define NFIXTURE (sizeof fixtures / sizeof *fixtures)

/* False when fewer allocations than n were made. One that PCRE2's compiler to machine code
 * misses is no failure: it interprets then. */
static bool open_failing(const char *text, long n)
{
    tn_err err;
    tn_tok *t = NULL;
    fail_in = n;
    tn_status st = tn_tok_open_text(text, strlen(text), "file", 0, &t, &err);
    bool hit = fail_in < 0;
    fail_in = -1;
    if (st != TN_OK && st != TN_NO_MEMORY)
        fail_msg("allocation %ld: status %d: %s", n, st, err.text);
    if (!hit)
        assert_int_equal(st, TN_OK);
    tn_tok_close(t);
    return hit;
}

static void opening(void **state)
{
    (void)state;
    for (size_t i = 0; i < NFIXTURE; i++) {
        char *text = fixture_text(&fixtures[i]);
        long n = 0;
        (void)open_failing(text, 1000000); /* what libraries keep, they have now */
        for (bool hit = true; hit; n++) {
            long before = live;
            hit = open_failing(text, n);
            assert_int_equal(live, before);
        }
        assert_true(n > 30);
        free(text);
    }
}

static tn_status use(const tn_tok *t, tn_err *err)
{
    static const char text[] = "the then <e>in <n> e\xcc\x81 q \xe4\xbd\xa0\xe5\xa5\xbd  aaaa";
    tn_ids ids = {0};
    tn_buf out;
    tn_detok *d = NULL;
    const size_t plain[] = {9};
    tn_buf_open(&out, 1u << 20);
    tn_status st = tn_tok_encode(t, text, sizeof text - 1, TN_TOK_ADD_SPECIAL, plain, 1, &ids, err);
    if (st == TN_OK)
        st = tn_tok_decode(t, ids.id, ids.n, true, &out, err);
    if (st == TN_OK)
        st = tn_detok_open(t, false, &d, err);
    for (size_t i = 0; st == TN_OK && i < ids.n; i++)
        tn_detok_push(d, ids.id[i], &out);
    if (st == TN_OK)
        tn_detok_finish(d, &out);
    if (st == TN_OK && out.failed)
        st = TN_NO_MEMORY;
    tn_detok_close(d);
    tn_buf_close(&out);
    tn_ids_close(&ids);
    return st;
}

static void using(void **state)
{
    (void)state;
    for (size_t i = 0; i < NFIXTURE; i++) {
        tn_err err;
        tn_tok *t = fixture_open(&fixtures[i], &err);
        assert_non_null(t);
        assert_int_equal(use(t, &err), TN_OK);
        long n = 0;
        for (bool hit = true; hit; n++) {
            long before = live;
            fail_in = n;
            tn_status st = use(t, &err);
            hit = fail_in < 0;
            fail_in = -1;
            if (st != TN_NO_MEMORY && (st != TN_OK || hit))
                fail_msg("allocation %ld: status %d: %s", n, st, err.text);
            assert_int_equal(live, before);
        }
        assert_true(n > 5);
        tn_tok_close(t);
    }
}

#else

static void opening(void **state)
{
    (void)state;
    skip(); /* the sanitizer has an allocator of its own */
}
#define using opening

#endif

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(opening), cmocka_unit_test(using)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
