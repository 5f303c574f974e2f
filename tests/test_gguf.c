/* SPDX-License-Identifier: Apache-2.0 */
/* test_gguf.c - the GGUF reader, and every block type against sums computed elsewhere. */
#include "gguf.h"
#include "ggufmake.h"

#include <setjmp.h>

#include <cmocka.h>

#define COUNT(a) (sizeof(a) / sizeof(a)[0])

static tn_gguf *opened(scratch *s, const ggufmake *m)
{
    tn_gguf *g = NULL;
    tn_err err;
    gm_write(m, s, "m.gguf");
    if (tn_gguf_open(scratch_path(s, "m.gguf"), &g, &err) != TN_OK)
        fail_msg("%s", err.text);
    return g;
}

static void refused_file(scratch *s, tn_status want, const char *part)
{
    tn_gguf *g = NULL;
    tn_err err = {.text = ""};
    tn_status st = tn_gguf_open(scratch_path(s, "m.gguf"), &g, &err);
    if (st != want || strstr(err.text, part) == NULL || strstr(err.text, "m.gguf") == NULL)
        fail_msg("status %d, \"%s\"; expected %d and \"%s\"", st, err.text, want, part);
    assert_null(g);
}

static void refused(scratch *s, const ggufmake *m, const char *part)
{
    gm_write(m, s, "m.gguf");
    refused_file(s, TN_DATA, part);
}

/* ------------------------------------------------------------------------------ metadata */

static void every_type(void **state)
{
    static const char *const words[] = {"a", "", "c d"};
    static const int32_t ints[] = {-1, 0, 70000};
    static const float floats[] = {0.5f, -1e20f};
    scratch s;
    ggufmake m;
    tn_err err;
    uint64_t u = 0;
    int64_t i = 0;
    double d = 0;
    bool b = false;
    tn_gguf_text t, *list = NULL;
    (void)state;
    scratch_open(&s);
    for (uint32_t version = 2; version <= 3; version++) {
        gm_open(&m);
        m.version = version;
        gm_scalar(&m, "u8", TN_GGUF_U8, 200, 1);
        gm_scalar(&m, "i8", TN_GGUF_I8, 0xff, 1);
        gm_scalar(&m, "u16", TN_GGUF_U16, 60000, 2);
        gm_scalar(&m, "i16", TN_GGUF_I16, 0x8000, 2);
        gm_u32(&m, "u32", 4000000000u);
        gm_scalar(&m, "i32", TN_GGUF_I32, 7, 4);
        gm_scalar(&m, "u64", TN_GGUF_U64, UINT64_MAX, 8);
        gm_scalar(&m, "i64", TN_GGUF_I64, 12345678901u, 8);
        gm_f32(&m, "f32", 0.25f);
        gm_scalar(&m, "f64", TN_GGUF_F64, 0x3fb999999999999au, 8);
        gm_bool(&m, "bool", true);
        gm_text(&m, "text", "two words");
        gm_texts(&m, "words", words, 3);
        gm_i32s(&m, "ints", ints, 3);
        gm_f32s(&m, "floats", floats, 2);
        gm_array(&m, "nested", TN_GGUF_ARRAY, 2);
        for (int k = 0; k < 2; k++) {
            gm_int(&m.keys, TN_GGUF_U8, 4);
            gm_int(&m.keys, 1, 8);
            gm_int(&m.keys, 5, 1);
        }
        gm_array(&m, "nothing", TN_GGUF_TEXT, 0);
        gm_u32(&m, "last", 1);
        tn_gguf *g = opened(&s, &m);
        assert_int_equal(tn_gguf_keys(g), 18);
        assert_string_equal(tn_gguf_key_at(g, 17)->key, "last");
        assert_null(tn_gguf_key_at(g, 18));
        assert_int_equal(tn_gguf_get_uint(g, "u8", 0, 255, &u, &err), TN_OK);
        assert_int_equal(u, 200);
        assert_int_equal(tn_gguf_get_uint(g, "u16", 0, 65535, &u, &err), TN_OK);
        assert_int_equal(u, 60000);
        assert_int_equal(tn_gguf_get_uint(g, "u32", 0, UINT32_MAX, &u, &err), TN_OK);
        assert_int_equal(u, 4000000000u);
        assert_int_equal(tn_gguf_get_uint(g, "i32", 0, 7, &u, &err), TN_OK);
        assert_int_equal(u, 7);
        assert_int_equal(tn_gguf_get_uint(g, "i64", 0, UINT64_MAX, &u, &err), TN_OK);
        assert_int_equal(u, 12345678901u);
        assert_int_equal(tn_gguf_get_uint(g, "u64", 0, UINT64_MAX, &u, &err), TN_OK);
        assert_true(u == UINT64_MAX);
        assert_int_equal(tn_gguf_get_uint(g, "none", 42, 50, &u, &err), TN_OK);
        assert_int_equal(u, 42);
        assert_int_equal(tn_gguf_get_uint(g, "i8", 0, 255, &u, &err), TN_DATA);
        assert_non_null(strstr(err.text, "is -1; expected 0 to 255"));
        assert_int_equal(tn_gguf_get_uint(g, "i16", 0, 255, &u, &err), TN_DATA);
        assert_non_null(strstr(err.text, "is -32768"));
        assert_int_equal(tn_gguf_get_uint(g, "u8", 0, 199, &u, &err), TN_DATA);
        assert_int_equal(tn_gguf_get_uint(g, "f32", 0, 199, &u, &err), TN_DATA);
        assert_non_null(strstr(err.text, "of type float32; expected an integer"));
        assert_int_equal(tn_gguf_get_float(g, "f32", 0, &d, &err), TN_OK);
        assert_true(d == 0.25);
        assert_int_equal(tn_gguf_get_float(g, "f64", 0, &d, &err), TN_OK);
        assert_true(d == 0.1);
        assert_int_equal(tn_gguf_get_float(g, "u8", 0, &d, &err), TN_DATA);
        assert_int_equal(tn_gguf_get_bool(g, "bool", false, &b, &err), TN_OK);
        assert_true(b);
        assert_int_equal(tn_gguf_get_bool(g, "u8", false, &b, &err), TN_DATA);
        assert_int_equal(tn_gguf_get_text(g, "text", &t, &err), TN_OK);
        assert_int_equal(t.size, 9);
        assert_memory_equal(t.text, "two words", 9);
        assert_int_equal(tn_gguf_get_text(g, "none", &t, &err), TN_OK);
        assert_null(t.text);
        assert_int_equal(tn_gguf_get_text(g, "words", &t, &err), TN_DATA);
        assert_int_equal(tn_gguf_texts(g, tn_gguf_find(g, "words"), &list, &err), TN_OK);
        assert_int_equal(list[1].size, 0);
        assert_memory_equal(list[2].text, "c d", 3);
        free(list);
        assert_int_equal(tn_gguf_texts(g, tn_gguf_find(g, "ints"), &list, &err), TN_DATA);
        assert_true(tn_gguf_item_int(tn_gguf_find(g, "ints"), 0, &i) && i == -1);
        assert_true(tn_gguf_item_int(tn_gguf_find(g, "ints"), 2, &i) && i == 70000);
        assert_false(tn_gguf_item_int(tn_gguf_find(g, "ints"), 3, &i));
        assert_false(tn_gguf_item_int(tn_gguf_find(g, "floats"), 0, &i));
        assert_true(tn_gguf_item_float(tn_gguf_find(g, "floats"), 0, &d) && d == 0.5);
        assert_false(tn_gguf_item_float(tn_gguf_find(g, "nested"), 0, &d));
        assert_false(tn_gguf_item_float(tn_gguf_find(g, "words"), 0, &d));
        tn_gguf_close(g);
        gm_close(&m);
    }
    scratch_close(&s);
}

static void bad_metadata(void **state)
{
    scratch s;
    ggufmake m;
    (void)state;
    scratch_open(&s);
    gm_open(&m);
    gm_key(&m, "x", 13);
    refused(&s, &m, "of type 13; expected 0 to 12");
    gm_again(&m);
    gm_u32(&m, "x", 1);
    gm_u32(&m, "x", 1);
    refused(&s, &m, "key \"x\" a second time");
    gm_again(&m);
    gm_u32(&m, "", 1);
    refused(&s, &m, "a key of 0 bytes");
    gm_again(&m);
    gm_int(&m.keys, 3, 8);
    tn_buf_put(&m.keys, "a\0b", 3);
    gm_int(&m.keys, 0, 5);
    m.nkey = 1;
    refused(&s, &m, "NUL");
    gm_again(&m);
    gm_array(&m, "x", TN_GGUF_U64, UINT64_MAX / 8 + 1);
    refused(&s, &m, "an array of 2305843009213693952 values");
    gm_again(&m);
    gm_array(&m, "x", TN_GGUF_TEXT, 1000);
    refused(&s, &m, "an array of 1000 values of type string");
    gm_again(&m);
    gm_array(&m, "x", 99, 1);
    gm_int(&m.keys, 0, 8);
    refused(&s, &m, "an array of type 99");
    gm_again(&m);
    gm_key(&m, "x", TN_GGUF_ARRAY);
    for (int i = 0; i < 100000; i++) {
        gm_int(&m.keys, TN_GGUF_ARRAY, 4);
        gm_int(&m.keys, 1, 8);
    }
    refused(&s, &m, "nested deeper");
    gm_again(&m);
    gm_scalar(&m, "x", TN_GGUF_TEXT, UINT64_MAX, 8);
    refused(&s, &m, "the file ends inside a string");
    static const uint32_t bad_alignments[] = {0, 3, 1u << 21};
    for (size_t i = 0; i < COUNT(bad_alignments); i++) {
        gm_again(&m);
        gm_u32(&m, "general.alignment", bad_alignments[i]);
        refused(&s, &m, "general.alignment");
    }
    gm_close(&m);
    scratch_close(&s);
}

static void bad_heads(void **state)
{
    scratch s;
    ggufmake m;
    (void)state;
    scratch_open(&s);
    refused_file(&s, TN_NOINPUT, "no such file");
    scratch_text(&s, "m.gguf", "");
    refused_file(&s, TN_DATA, "ends inside the magic number");
    scratch_text(&s, "m.gguf", "GGML");
    refused_file(&s, TN_DATA, "begins with \"GGML\"; expected \"GGUF\"");
    scratch_text(&s, "m.gguf", "version https://git-lfs.github.com/spec/v1\n");
    refused_file(&s, TN_DATA, "Git LFS pointer");
    gm_open(&m);
    m.version = 1;
    refused(&s, &m, "version 1");
    m.version = 4;
    refused(&s, &m, "version 4");
    m.version = 3u << 24;
    refused(&s, &m, "big-endian");
    m.version = 3;
    m.nkey = UINT64_MAX;
    refused(&s, &m, "18446744073709551615 keys");
    m.nkey = 1;
    refused(&s, &m, "1 keys");
    m.nkey = 0;
    m.ntensor = (uint64_t)1 << 40;
    refused(&s, &m, "1099511627776 tensors");
    gm_close(&m);
    scratch_close(&s);
}

/* ------------------------------------------------------------------------------- tensors */

static void places(void **state)
{
    static const float data[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    scratch s;
    ggufmake m;
    (void)state;
    scratch_open(&s);
    gm_open(&m);
    m.align = 64;
    gm_u32(&m, "general.alignment", 64);
    gm_tensor(&m, "a", 2, 3, 0, data, 24);
    gm_tensor(&m, "b", 4, 0, 0, data + 4, 16);
    tn_gguf *g = opened(&s, &m);
    tn_err err;
    assert_int_equal(tn_gguf_tensors(g), 2);
    const tn_gguf_tensor *t = tn_gguf_tensor_find(g, "b");
    assert_non_null(t);
    assert_ptr_equal(t, tn_gguf_tensor_at(g, 1));
    assert_null(tn_gguf_tensor_at(g, 2));
    assert_null(tn_gguf_tensor_find(g, "c"));
    assert_memory_equal(t->data, data + 4, 16);
    t = tn_gguf_tensor_find(g, "a");
    assert_int_equal(t->ndim, 2);
    assert_int_equal(t->dim[0], 2);
    assert_int_equal(t->dim[1], 3);
    assert_int_equal(t->dim[2], 1);
    assert_int_equal(t->rows, 3);
    assert_int_equal(t->row_size, 8);
    assert_int_equal(t->data_size, 24);
    assert_string_equal(t->type->name, "F32");
    assert_int_equal(tn_gguf_unchanged(g, &err), TN_OK);
    tn_gguf_close(g);
    gm_close(&m);
    scratch_close(&s);
}

static void bad_tensors(void **state)
{
    static const struct {
        uint32_t ndim, type;
        uint64_t dim[4], offset;
        const char *part;
    } rows[] = {
        {0, 0, {0}, 0, "0 dimensions"},
        {1, 0, {0}, 0, "dimension 0 is 0"},
        {2, 0, {4, 0}, 0, "dimension 1 is 0"},
        {1, 0, {UINT64_MAX}, 0, "a product below 2^63"},
        {2, 0, {(uint64_t)1 << 32, (uint64_t)1 << 32}, 0, "a product below 2^63"},
        {1, 0, {(uint64_t)1 << 62}, 0, "beyond 2^63 bytes"},
        {1, 4, {32}, 0, "of type 4; expected a known type"},
        {1, 1000, {32}, 0, "of type 1000"},
        {1, 3, {33}, 0, "expected a multiple of 32"},
        {1, 12, {128}, 0, "expected a multiple of 256"},
        {1, 0, {4}, 16, "expected a multiple of 32"},
        {1, 0, {17}, 0, "expected them inside the 64 bytes of data"},
        {1, 0, {16}, 32, "expected them inside"},
        {1, 0, {16}, UINT64_MAX - 31, "expected them inside"},
        {1, 0, {(uint64_t)1 << 40}, 0, "cut short"},
    };
    scratch s;
    ggufmake m;
    (void)state;
    scratch_open(&s);
    for (size_t i = 0; i < COUNT(rows); i++) {
        gm_open(&m);
        gm_describe(&m, "t", rows[i].ndim, rows[i].dim, rows[i].type, rows[i].offset);
        for (int k = 0; k < 64; k++)
            tn_buf_putc(&m.data, 0);
        refused(&s, &m, rows[i].part);
        gm_close(&m);
    }
    static const uint64_t five[5] = {1, 1, 1, 1, 1}, eight[1] = {8};
    gm_open(&m);
    gm_describe(&m, "t", 5, five, 0, 0);
    refused(&s, &m, "5 dimensions");
    gm_again(&m);
    gm_describe(&m, "t", 1, eight, 0, 0);
    gm_describe(&m, "t", 1, eight, 0, 32);
    tn_buf_put(&m.data, rows, 64);
    refused(&s, &m, "tensor \"t\" a second time");
    gm_again(&m);
    gm_describe(&m, "t", 1, eight, 0, 0);
    gm_describe(&m, "u", 1, eight, 0, 0);
    tn_buf_put(&m.data, rows, 64);
    refused(&s, &m, "overlaps tensor");
    gm_close(&m);
    scratch_close(&s);
}

/* A whole file cut at every length, and with every byte turned over, ends in a sentence or is
 * read; the sanitizers watch. */
static void cut_and_bent(void **state)
{
    static const char *const words[] = {"a", "bc", ""};
    static const float data[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    scratch s;
    ggufmake m;
    size_t size = 0, read = 0;
    (void)state;
    scratch_open(&s);
    gm_open(&m);
    gm_text(&m, "general.architecture", "llama");
    gm_texts(&m, "words", words, 3);
    gm_u32(&m, "general.alignment", 32);
    gm_tensor(&m, "a", 2, 3, 0, data, 24);
    gm_tensor(&m, "b", 4, 0, 0, data, 16);
    gm_write(&m, &s, "m.gguf");
    char *all = scratch_read(&s, "m.gguf", &size);
    for (size_t n = 0; n < 2 * size; n++) {
        tn_gguf *g = NULL;
        tn_err err = {.text = ""};
        char kept = all[n % size];
        if (n >= size)
            all[n % size] = (char)~kept;
        scratch_write(&s, "cut", all, n < size ? n : size);
        all[n % size] = kept;
        tn_status st = tn_gguf_open(scratch_path(&s, "cut"), &g, &err);
        if (st == TN_OK)
            read++;
        else if (err.text[0] == 0 || st != TN_DATA)
            fail_msg("%zu: status %d, \"%s\"", n, st, err.text);
        if (n < size)
            assert_int_equal(st, TN_DATA);
        tn_gguf_close(g);
    }
    assert_true(read > 40); /* the bytes of the tensors at least */
    free(all);
    gm_close(&m);
    scratch_close(&s);
}

/* --------------------------------------------------------------------------------- blocks */

/* Bytes of a fixed generator; the scales get a modest exponent. Sums and values: FNV-1a over
 * the bits of the floats, and first and last of them, by gguf 0.19.0 with numpy. */
static const struct {
    const char *name;
    uint32_t blocks;
    size_t count;
    uint64_t sum;
    float first, last;
    int scales[2];
} golden[] = {
    {"F32", 64, 64, 0xf0cf1c6fdab2f9abu, 9.201187988611137e-13f, 2.6379285719566158e-20f, {-1, -1}},
    {"F16", 64, 64, 0xcba3d0a6fd47e825u, 0.010833740234375f, 0.039764404296875f, {-1, -1}},
    {"BF16", 64, 64, 0x0af36d5795e70825u, -1.0091872908589116e-31f, 5.661604518536478e-11f,
     {-1, -1}},
    {"Q4_0", 4, 128, 0xbf6534058a447925u, -0.07152557373046875f, -0.02801513671875f, {0, -1}},
    {"Q4_1", 4, 128, 0x91c4cfe6e0d5b465u, 2.3524017333984375f, -0.004425048828125f, {0, 2}},
    {"Q5_0", 4, 128, 0x7e9a3fa9d55e5325u, -1.40478515625f, 0.33837890625f, {0, -1}},
    {"Q5_1", 4, 128, 0x6d8933e9766b097du, -2.185302734375f, 6.21240234375f, {0, 2}},
    {"Q8_0", 4, 128, 0x73af85b6bf7089a5u, -27.6416015625f, 28.564453125f, {0, -1}},
    {"Q4_K", 4, 1024, 0x7dcd0dd362580273u, 42.9970703125f, 336.97918701171875f, {0, 2}},
    {"Q5_K", 4, 1024, 0x0554ff3f7e96e02cu, -6.744659423828125f, -0.287017822265625f, {0, 2}},
    {"Q6_K", 4, 1024, 0xcbcb05f2e405b5d3u, 1869.08203125f, 100.258056640625f, {208, -1}},
};

static void blocks(void **state)
{
    uint8_t bytes[4 * 256];
    float out[1024];
    (void)state;
    for (size_t i = 0; i < COUNT(golden); i++) {
        const tn_ggml_type *t = NULL;
        for (uint32_t id = 0; id < 64 && t == NULL; id++) {
            t = tn_ggml_type_find(id);
            if (t != NULL && strcmp(t->name, golden[i].name) != 0)
                t = NULL;
        }
        assert_non_null(t);
        uint32_t x = t->id + 1;
        for (size_t k = 0; k < golden[i].blocks * t->size; k++) {
            x = x * 1103515245u + 12345u;
            bytes[k] = (uint8_t)(x >> 16);
        }
        for (size_t k = 0; k < golden[i].blocks; k++) {
            uint8_t *b = bytes + k * t->size;
            for (int n = 0; n < 2 && golden[i].scales[n] >= 0; n++)
                b[golden[i].scales[n] + 1] =
                    (uint8_t)((b[golden[i].scales[n] + 1] & 0x9f) | 0x20);
            if (golden[i].scales[0] < 0)
                b[t->size - 1] &= 0xbf;
        }
        assert_int_equal(golden[i].blocks * t->block, golden[i].count);
        t->read(bytes, golden[i].count, out);
        uint64_t sum = 0xcbf29ce484222325u;
        for (size_t k = 0; k < golden[i].count; k++) {
            uint32_t u;
            memcpy(&u, &out[k], 4);
            sum = (sum ^ u) * 0x100000001b3u;
        }
        if (sum != golden[i].sum || out[0] != golden[i].first ||
            out[golden[i].count - 1] != golden[i].last)
            fail_msg("%s: sum %016llx, expected %016llx; %g ... %g, expected %g ... %g", t->name,
                     (unsigned long long)sum, (unsigned long long)golden[i].sum, (double)out[0],
                     (double)out[golden[i].count - 1], (double)golden[i].first,
                     (double)golden[i].last);
        assert_non_null(strstr(tn_ggml_types_read(), t->name));
    }
    assert_null(tn_ggml_type_find(4));
    assert_null(tn_ggml_type_find(UINT32_MAX));
    assert_null(tn_ggml_type_find(16)->read); /* known by name, not read */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type),  cmocka_unit_test(bad_metadata),
        cmocka_unit_test(bad_heads),   cmocka_unit_test(places),
        cmocka_unit_test(bad_tensors), cmocka_unit_test(cut_and_bent),
        cmocka_unit_test(blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
