/* SPDX-License-Identifier: Apache-2.0 */
/* test_files_nomem.c - the n-th allocation fails, for every n, while files are opened, written
 * and imported: each time one sentence, nothing leaked, nothing left under a final name.
 *
 * Linked with --wrap for malloc, calloc, realloc, strdup and free. */
#include "importmake.h"

#include "stwriter.h"

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t size);
char *__real_strdup(const char *text);
void __real_free(void *p);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t size);
char *__wrap_strdup(const char *text);
void __wrap_free(void *p);

static long countdown = -1; /* the call that takes it to 0 fails; below 0: none */
static long failed, live;

static bool fails(void)
{
    if (countdown < 0 || countdown-- > 0)
        return false;
    failed++;
    return true;
}

static void *counted(void *p)
{
    live += p != NULL;
    return p;
}

void *__wrap_malloc(size_t size)
{
    return fails() ? NULL : counted(__real_malloc(size));
}

void *__wrap_calloc(size_t n, size_t size)
{
    return fails() ? NULL : counted(__real_calloc(n, size));
}

void *__wrap_realloc(void *p, size_t size)
{
    if (fails())
        return NULL;
    void *made = __real_realloc(p, size);
    live += p == NULL && made != NULL;
    return made;
}

char *__wrap_strdup(const char *text)
{
    return fails() ? NULL : counted(__real_strdup(text));
}

void __wrap_free(void *p)
{
    live -= p != NULL;
    __real_free(p);
}

/* Runs `work` with the first, second, ... allocation failing until it gets through. */
static void every_allocation(tn_status (*work)(scratch *s, tn_err *err), scratch *s, long least)
{
    for (long n = 0;; n++) {
        tn_err err = {.text = ""};
        long before = live;
        failed = 0;
        countdown = n;
        tn_status st = work(s, &err);
        countdown = -1;
        if (live != before)
            fail_msg("allocation %ld: %ld blocks are left", n, live - before);
        if (failed == 0) {
            if (st != TN_OK)
                fail_msg("%s", err.text);
            if (n < least)
                fail_msg("only %ld allocations; expected %ld", n, least);
            return;
        }
        if (st != TN_NO_MEMORY || strstr(err.text, "no memory") == NULL)
            fail_msg("allocation %ld: status %d, \"%s\"", n, st, err.text);
    }
}

static tn_status open_folder(scratch *s, tn_err *err)
{
    tn_ckpt *c = NULL;
    tn_status st = tn_ckpt_open(s->dir, TN_CKPT_FOLLOW, &c, err);
    tn_ckpt_close(st == TN_OK ? c : NULL);
    return st;
}

static void a_folder(void **state)
{
    static const char one[] = "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}";
    static const char two[] = "{\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}";
    scratch s;
    (void)state;
    scratch_open(&s);
    scratch_text(&s, "config.json", "{\"quantization_config\": {\"bits\": 4}}");
    scratch_text(&s, "quantize_config.json", "{\"bits\": 4}");
    scratch_text(&s, "generation_config.json", "{\"top_k\": 4}");
    scratch_safetensors(&s, "one.safetensors", one, sizeof one - 1, 4);
    scratch_safetensors(&s, "two.safetensors", two, sizeof two - 1, 4);
    scratch_text(&s, "model.safetensors.index.json", "{\"weight_map\": {\"a\": \"one.safetensors\","
                 "\"b\": \"two.safetensors\"}}");
    every_allocation(open_folder, &s, 20);
    unlink(scratch_path(&s, "model.safetensors.index.json"));
    unlink(scratch_path(&s, "two.safetensors"));
    every_allocation(open_folder, &s, 15);
    scratch_close(&s);
}

static tn_status write_folder(scratch *s, tn_err *err)
{
    static const uint64_t dim[] = {8};
    tn_stw *w = NULL;
    tn_status st = tn_stw_open(s->dir, 20, &w, err);
    if (st == TN_OK)
        st = tn_stw_tensor(w, "a", TN_U8, 1, dim, "12345678", err);
    if (st == TN_OK)
        st = tn_stw_tensor(w, "b", TN_F16, 1, dim, "1234567890123456", err);
    if (st == TN_OK)
        st = tn_stw_tensor(w, "c", TN_U8, 1, dim, "12345678", err);
    if (st == TN_OK)
        st = tn_stw_file(w, "config.json", "{}", 2, err);
    if (st == TN_OK)
        st = tn_stw_finish(w, true, err);
    tn_stw_close(w);
    return st;
}

static void a_writer(void **state)
{
    scratch s;
    (void)state;
    scratch_open(&s);
    every_allocation(write_folder, &s, 20);
    assert_true(scratch_has(&s, "model.safetensors.index.json"));
    assert_false(scratch_has(&s, "model-shard-00001.part"));
    scratch_close(&s);
}

static tn_status import_again(scratch *s, tn_err *err)
{
    tn_import_options o = {.overwrite = true};
    return run(s, &o, err);
}

static void an_import(void **state)
{
    static const variant v = {.arch = "llama", .output = true};
    scratch s;
    (void)state;
    scratch_open(&s);
    make(&s, &v);
    every_allocation(import_again, &s, 50);
    tn_ckpt *c = folder(&s);
    assert_int_equal(tn_ckpt_view(c)->ntensor, 3 + 9 * LAYERS);
    tn_ckpt_close(c);
    scratch_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_folder),
        cmocka_unit_test(a_writer),
        cmocka_unit_test(an_import),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
