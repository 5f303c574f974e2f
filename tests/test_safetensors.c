/* SPDX-License-Identifier: Apache-2.0 */
/* test_safetensors.c - the reader against headers nobody should write, and the writer's files
 * read back. */
#include "safetensors.h"
#include "scratchdir.h"
#include "stwriter.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/time.h>

#include <cmocka.h>

#define COUNT(a) (sizeof(a) / sizeof(a)[0])

static tn_status add(scratch *s, const char *name, tn_st **set, tn_err *err)
{
    *set = NULL;
    tn_status st = tn_st_open(set, err);
    return st == TN_OK ? tn_st_add(*set, s->dir, name, s->dir, err) : st;
}

static void refused(scratch *s, const char *name, tn_status want, const char *part)
{
    tn_st *set = NULL;
    tn_err err = {.text = ""};
    tn_status st = add(s, name, &set, &err);
    tn_st_close(set);
    if (st != want || strstr(err.text, part) == NULL)
        fail_msg("%s: status %d, \"%s\"; expected %d and \"%s\"", name, st, err.text, want, part);
    if (strstr(err.text, name) == NULL)
        fail_msg("no file name in \"%s\"", err.text);
}

#define ONE(name) "{\"" name "\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}"
#define SHAPED(dtype, shape, span) \
    "{\"a\":{\"dtype\":\"" dtype "\",\"shape\":[" shape "],\"data_offsets\":[" span "]}}"

static const struct {
    const char *header;
    size_t data;
    const char *part; /* of the refusal; NULL: legal */
} headers[] = {
    {ONE("a"), 4, NULL},
    {"{}", 0, NULL},
    {"{}   \n", 0, NULL},
    {"{\"__metadata__\":{\"format\":\"pt\"}}", 0, NULL},
    {" {}", 0, "does not begin with"},
    {"[]", 0, "does not begin with"},
    {"{} x", 0, "expected the end"},
    {"{ ", 0, "ends here"},
    {"{,}", 0, "expected a string"},
    {"{\"a\":1,}", 0, "expected '{'"},
    {"{}\x01", 0, "expected the end"},
    /* W05: names */
    {"{\"\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0, "name of 0 bytes"},
    {ONE("a\\u0000b"), 4, "NUL"},
    {ONE("\\u0061"), 4, NULL},
    {ONE("\\ud83d\\ude42"), 4, NULL},
    {ONE("\\ud83d"), 4, "escape"},
    {ONE("\\x"), 4, "escape"},
    {ONE("\x01"), 4, "control character"},
    {ONE("\xff"), 4, "UTF-8"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
     "\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[2,4]}}", 4, "a second time"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
     "\"\\u0061\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[2,4]}}", 4, "a second time"},
    /* W05, W06: metadata */
    {"{\"__metadata__\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", 4,
     "expected a string"},
    {"{\"__metadata__\":{\"a\":1}}", 0, "expected a string"},
    {"{\"__metadata__\":{\"a\":null}}", 0, "expected a string"},
    {"{\"__metadata__\":{\"a\":true}}", 0, "expected a string"},
    {"{\"__metadata__\":{\"a\":[]}}", 0, "expected a string"},
    {"{\"__metadata__\":{\"a\":{}}}", 0, "expected a string"},
    {"{\"\\u005f_metadata__\":{\"a\":1}}", 0, "expected a string"},
    {"{\"__metadata__\":[]}", 0, "expected '{'"},
    {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "a second time"},
    /* members */
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4]}}", 4, "no \"data_offsets\""},
    {"{\"a\":{\"shape\":[4],\"data_offsets\":[0,4]}}", 4, "no \"dtype\""},
    {"{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,4]}}", 4, "no \"shape\""},
    {"{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", 4,
     "a second time"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4],\"new\":{\"x\":[1e5,-0.5]}}}",
     4, NULL},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4],\"new\":[01]}}", 4,
     "expected ','"},
    {"{\"a\":[]}", 0, "expected '{'"},
    {"{\"a\":{\"dtype\":null,\"shape\":[4],\"data_offsets\":[0,4]}}", 4, "expected a string"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":null,\"data_offsets\":[0,4]}}", 4, "expected '['"},
    /* W21: types */
    {SHAPED("Q4", "4", "0,4"), 4, "dtype \"Q4\""},
    {SHAPED("f16", "2", "0,4"), 4, "dtype"},
    {SHAPED("F16", "2", "0,4"), 4, NULL},
    {SHAPED("F4", "8", "0,4"), 4, NULL},
    {SHAPED("F4", "7", "0,4"), 4, "inside a byte"},
    {SHAPED("F6_E2M3", "3", "0,3"), 3, "inside a byte"},
    {SHAPED("F6_E2M3", "4", "0,3"), 3, NULL},
    /* W08: shapes */
    {SHAPED("U8", "", "0,1"), 1, NULL},
    {SHAPED("U8", "4,0", "0,0"), 0, NULL},
    {SHAPED("U8", "-4", "0,4"), 4, "expected an integer"},
    {SHAPED("U8", "-0", "0,0"), 0, "expected an integer"},
    {SHAPED("U8", "1.5", "0,4"), 4, "fraction"},
    {SHAPED("U8", "4.0", "0,4"), 4, "fraction"},
    {SHAPED("U8", "4e0", "0,4"), 4, "fraction"},
    {SHAPED("U8", "04", "0,4"), 4, "out of range"},
    {SHAPED("U8", "\"4\"", "0,4"), 4, "expected an integer"},
    {SHAPED("U8", "9223372036854775807", "0,4"), 4, "beyond 2^63 bits"},
    {SHAPED("U8", "1152921504606846975", "0,4"), 4, "span 4 bytes"},
    {SHAPED("U8", "9223372036854775808", "0,4"), 4, "out of range"},
    {SHAPED("U8", "18446744073709551616", "0,4"), 4, "out of range"},
    {SHAPED("U8", "4294967296,4294967296", "0,0"), 0, "beyond 2^63"},
    {SHAPED("F64", "2305843009213693952", "0,0"), 0, "beyond 2^63"},
    {SHAPED("U8", "1,1,1,1,1,1,1,4", "0,4"), 4, NULL},
    {SHAPED("U8", "1,1,1,1,1,1,1,1,4", "0,4"), 4, "more than 8 dimensions"},
    {SHAPED("U8", "1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,"
                  "1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,4", "0,4"), 4,
     "more than 8 dimensions"},
    /* W09, W10, W12: offsets */
    {SHAPED("U8", "4", "0"), 4, "expected ','"},
    {SHAPED("U8", "4", "0,4,8"), 4, "expected ']'"},
    {SHAPED("U8", "4", ""), 4, "expected an integer"},
    {SHAPED("U8", "4", "0.0,4"), 4, "fraction"},
    {SHAPED("U8", "4", "\"0\",4"), 4, "expected an integer"},
    {SHAPED("U8", "4", "18446744073709551612,18446744073709551616"), 4, "out of range"},
    {SHAPED("U8", "4", "9223372036854775804,9223372036854775807"), 4, "span 3 bytes"},
    {SHAPED("U8", "3", "9223372036854775804,9223372036854775807"), 4, "no owner"},
    {SHAPED("U8", "4", "-4,0"), 4, "expected an integer"},
    {SHAPED("U8", "4", "4,0"), 4, "not behind the end"},
    {SHAPED("U8", "4", "0,18446744073709551615"), 4, "out of range"},
    {SHAPED("U8", "4", "0,5"), 5, "expected 4 by its shape"},
    {SHAPED("U8", "4", "0,4"), 3, "\"a\" ends at byte 65 of the file, which has 64"},
    {SHAPED("U8", "4", "1,5"), 5, "no owner"},
    {SHAPED("U8", "4", "0,4"), 5, "of which the tensors own 4"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
     "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[2,6]}}", 6, "overlaps"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
     "\"b\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[2,2]}}", 4, "overlaps"},
    {"{\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[4,6]},"
     "\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", 6, NULL},
    /* W14: a begin that its type would not like: legal, data may be unaligned */
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
     "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[1,5]}}", 5, NULL},
};

static void every_header(void **state)
{
    scratch s;
    (void)state;
    scratch_open(&s);
    for (size_t i = 0; i < COUNT(headers); i++) {
        scratch_safetensors(&s, "m.safetensors", headers[i].header, strlen(headers[i].header),
                            headers[i].data);
        if (headers[i].part != NULL) {
            refused(&s, "m.safetensors", TN_DATA, headers[i].part);
            continue;
        }
        tn_st *set = NULL;
        tn_err err;
        if (add(&s, "m.safetensors", &set, &err) != TN_OK)
            fail_msg("%s: %s", headers[i].header, err.text);
        tn_st_close(set);
    }
    scratch_close(&s);
}

/* W01, W12: whatever is cut off a good file, it is refused, at every length. */
static void cut_anywhere(void **state)
{
    static const char header[] =
        "{\"__metadata__\":{\"format\":\"pt\"},"
        "\"b\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[0,8]}}";
    scratch s;
    size_t size = 0;
    (void)state;
    scratch_open(&s);
    scratch_safetensors(&s, "whole", header, sizeof header - 1, 8);
    char *all = scratch_read(&s, "whole", &size);
    for (size_t n = 0; n < size; n++) {
        scratch_write(&s, "cut", all, n);
        refused(&s, "cut", TN_DATA, "");
    }
    free(all);
    scratch_close(&s);
}

static void lengths_of_the_header(void **state) /* W02 */
{
    static const struct {
        uint64_t length;
        const char *part;
    } rows[] = {
        {0, "a header of 0 bytes"},           {1, "a header of 1 bytes"},
        {25, "cut short"},                    {100000001, "expected 2 to 100000000"},
        {(uint64_t)1 << 63, "a header of"},   {UINT64_MAX, "a header of 18446744073709551615"},
        {UINT64_MAX - 7, "a header of"},      {100000000, "cut short"},
    };
    scratch s;
    uint8_t file[32];
    (void)state;
    scratch_open(&s);
    for (size_t i = 0; i < COUNT(rows); i++) {
        memset(file, ' ', sizeof file);
        for (int k = 0; k < 8; k++)
            file[k] = (uint8_t)(rows[i].length >> (8 * k));
        scratch_write(&s, "m", file, sizeof file);
        refused(&s, "m", TN_DATA, rows[i].part);
    }
    scratch_close(&s);
}

static void put_length(FILE *f, uint64_t length)
{
    rewind(f);
    for (int k = 0; k < 8; k++)
        fputc((int)(length >> (8 * k) & 255), f);
}

/* W02: the longest header there may be, nearly all of it blanks, and one blank more. */
static void longest_header(void **state)
{
    enum { LONGEST = 100000000, PART = 1000000 };
    scratch s;
    tn_st *set = NULL;
    tn_err err = {.text = ""};
    char *blanks = malloc(PART);
    (void)state;
    assert_non_null(blanks);
    memset(blanks, ' ', PART);
    scratch_open(&s);
    FILE *f = fopen(scratch_path(&s, "long"), "w+b");
    assert_non_null(f);
    put_length(f, LONGEST);
    fputs("{}", f);
    for (int n = 2; n < LONGEST; n += PART)
        fwrite(blanks, 1, n == 2 ? PART - 2 : PART, f);
    fflush(f);
    if (add(&s, "long", &set, &err) != TN_OK)
        fail_msg("%s", err.text);
    tn_st_close(set);
    fputc(' ', f);
    put_length(f, LONGEST + 1);
    fclose(f);
    refused(&s, "long", TN_DATA, "a header of 100000001 bytes; expected 2 to 100000000");
    free(blanks);
    scratch_close(&s);
}

static void deep_and_long(void **state) /* W04, W05 */
{
    enum { DEPTH = 100000, LONG = 1 << 20 };
    scratch s;
    char *text = malloc(LONG + 256);
    (void)state;
    assert_non_null(text);
    scratch_open(&s);
    memset(text, '[', DEPTH);
    memcpy(text, "{\"a\":{\"x\":", 10);
    scratch_safetensors(&s, "deep", text, DEPTH, 0);
    refused(&s, "deep", TN_DATA, "nested deeper");
    memset(text, 'x', LONG);
    memcpy(text, "{\"", 2);
    snprintf(text + LONG, 256, "\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}");
    scratch_safetensors(&s, "long", text, strlen(text), 0);
    refused(&s, "long", TN_DATA, "a tensor name of");
    free(text);
    scratch_close(&s);
}

static void too_many(void **state) /* W13 */
{
    enum { LIMIT = 1000000, EACH = 80 };
    scratch s;
    tn_st *set = NULL;
    tn_err err = {.text = ""};
    char *text = malloc((size_t)(LIMIT + 2) * EACH);
    size_t n = 1;
    (void)state;
    assert_non_null(text);
    scratch_open(&s);
    text[0] = '{';
    for (int i = 0; i < LIMIT; i++)
        n += (size_t)snprintf(text + n, EACH, "%s\"%x\":{\"dtype\":\"U8\",\"shape\":[0],"
                              "\"data_offsets\":[0,0]}", i > 0 ? "," : "", i);
    text[n] = '}';
    scratch_safetensors(&s, "many", text, n + 1, 0);
    if (add(&s, "many", &set, &err) != TN_OK)
        fail_msg("%s", err.text);
    assert_int_equal(tn_st_count(set), LIMIT);
    scratch_safetensors(&s, "more", ONE("x"), strlen(ONE("x")), 4); /* of all files together */
    assert_int_equal(tn_st_add(set, s.dir, "more", s.dir, &err), TN_DATA);
    assert_non_null(strstr(err.text, "more than 1000000 tensors"));
    tn_st_close(set);
    FILE *f = fopen(scratch_path(&s, "many"), "r+b"); /* and of one file alone */
    assert_non_null(f);
    put_length(f, n + strlen(",\"x\":{}}"));
    fseek(f, (long)(8 + n), SEEK_SET);
    fputs(",\"x\":{}}", f);
    fclose(f);
    refused(&s, "many", TN_DATA, "more than 1000000 tensors");
    free(text);
    scratch_close(&s);
}

/* 1 TiB of nothing. A sanitizer's address space may have no room to map it. */
static void sparse(scratch *s, const char *name, const char *part)
{
    tn_st *set = NULL;
    tn_err err = {.text = ""};
    assert_int_equal(truncate(scratch_path(s, name), (off_t)1 << 40), 0);
    tn_status st = add(s, name, &set, &err);
    tn_st_close(set);
    if (st != TN_NO_MEMORY && (st != TN_DATA || strstr(err.text, part) == NULL))
        fail_msg("status %d, \"%s\"", st, err.text);
}

static void kinds_of_files(void **state) /* W16, W17 */
{
    scratch s;
    (void)state;
    scratch_open(&s);
    refused(&s, "absent", TN_NOINPUT, "no such file");
    scratch_text(&s, "empty", "");
    refused(&s, "empty", TN_DATA, "0 bytes");
    assert_int_equal(mkfifo(scratch_path(&s, "pipe"), 0600), 0);
    refused(&s, "pipe", TN_DATA, "a FIFO");
    assert_int_equal(mkdir(scratch_path(&s, "dir"), 0700), 0);
    refused(&s, "dir", TN_DATA, "a folder");
    scratch_text(&s, "pointer", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n");
    refused(&s, "pointer", TN_DATA, "Git LFS pointer");
    scratch_text(&s, "page", "<!DOCTYPE html><html><body>Not Found</body></html>");
    refused(&s, "page", TN_DATA, "a header of");
    scratch_safetensors(&s, "sparse", "{}", 2, 0);
    sparse(&s, "sparse", "bytes of data, of which the tensors own 0");
    scratch_text(&s, "zeros", "");
    sparse(&s, "zeros", "a header of 0 bytes");
    scratch_safetensors(&s, "secret", "{}", 2, 0);
    assert_int_equal(chmod(scratch_path(&s, "secret"), 0), 0);
    assert_int_equal(chmod(s.dir, 0755), 0);
    if (geteuid() != 0 || seteuid(65534) == 0) { /* root gives up its rights */
        refused(&s, "secret", TN_NOPERM, "no permission");
        if (getuid() == 0)
            assert_int_equal(seteuid(0), 0);
    }
    assert_int_equal(symlink("loop", scratch_path(&s, "loop")), 0);
    refused(&s, "loop", TN_DATA, "a loop of links");
    assert_int_equal(symlink("/dev/zero", scratch_path(&s, "zero")), 0);
    refused(&s, "zero", TN_DATA, "a device");
    scratch_close(&s);
}

static void links(void **state) /* C17 */
{
    scratch in, out;
    tn_st *set = NULL;
    tn_err err;
    char target[256];
    (void)state;
    scratch_open(&in);
    scratch_open(&out);
    scratch_safetensors(&out, "blob", ONE("a"), strlen(ONE("a")), 4);
    snprintf(target, sizeof target, "%s/blob", out.dir);
    assert_int_equal(symlink(target, scratch_path(&in, "away")), 0);
    refused(&in, "away", TN_DATA, "leaves the folder");
    assert_int_equal(tn_st_open(&set, &err), TN_OK);
    assert_int_equal(tn_st_add(set, in.dir, "away", NULL, &err), TN_OK); /* links allowed */
    tn_st_close(set);
    scratch_safetensors(&in, "here", ONE("a"), strlen(ONE("a")), 4);
    assert_int_equal(symlink("here", scratch_path(&in, "near")), 0);
    assert_int_equal(add(&in, "near", &set, &err), TN_OK);
    tn_st_close(set);
    /* a folder whose name only begins like the other's is outside */
    char sibling[128];
    snprintf(sibling, sizeof sibling, "%s-x", in.dir);
    assert_int_equal(mkdir(sibling, 0700), 0);
    snprintf(target, sizeof target, "cp %s/here %s/here", in.dir, sibling);
    assert_int_equal(system(target), 0);
    snprintf(target, sizeof target, "%s/here", sibling);
    assert_int_equal(symlink(target, scratch_path(&in, "beside")), 0);
    refused(&in, "beside", TN_DATA, "leaves the folder");
    unlink(target);
    rmdir(sibling);
    scratch_close(&out);
    scratch_close(&in);
}

static void values_and_views(void **state)
{
    static const char header[] =
        "{\"w\":{\"dtype\":\"F16\",\"shape\":[2,3],\"data_offsets\":[1,13]},"
        "\"k\":{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0,1]},"
        "\"f\":{\"dtype\":\"F4\",\"shape\":[2],\"data_offsets\":[13,14]}}";
    scratch s;
    tn_st *set = NULL;
    tn_err err;
    tn_tensor t;
    const char *name = NULL;
    (void)state;
    scratch_open(&s);
    scratch_safetensors(&s, "m.safetensors", header, sizeof header - 1, 14);
    assert_int_equal(add(&s, "m.safetensors", &set, &err), TN_OK);
    assert_int_equal(tn_st_count(set), 3);
    assert_int_equal(tn_st_data_bytes(set), 14);
    assert_true(tn_st_at(set, tn_st_find(set, "w"), &name, &t));
    assert_string_equal(name, "w");
    assert_string_equal(t.file, "m.safetensors");
    assert_int_equal(t.dtype, TN_F16);
    assert_int_equal(t.ndim, 2);
    assert_int_equal(t.dim[0], 2);
    assert_int_equal(t.dim[1], 3);
    assert_int_equal(t.data_size, 12);
    assert_int_equal(((const uint8_t *)t.data)[0], 1);
    assert_true(tn_st_at(set, tn_st_find(set, "f"), NULL, &t));
    assert_int_equal(t.dtype, 0); /* plugin.h has no number for it */
    assert_int_equal(tn_st_find(set, "absent"), TN_NONE);
    assert_false(tn_st_at(set, TN_NONE, NULL, &t));
    assert_false(tn_st_at(set, 3, NULL, &t));
    assert_int_equal(tn_st_unchanged(set, &err), TN_OK);
    scratch_safetensors(&s, "m.safetensors", "{}", 2, 100);
    assert_int_equal(tn_st_unchanged(set, &err), TN_DATA);
    tn_st_close(set);
    scratch_close(&s);
}

static void two_files(void **state)
{
    scratch s;
    tn_st *set = NULL;
    tn_err err;
    (void)state;
    scratch_open(&s);
    scratch_safetensors(&s, "one.safetensors", ONE("a"), strlen(ONE("a")), 4);
    scratch_safetensors(&s, "two.safetensors", ONE("b"), strlen(ONE("b")), 4);
    scratch_safetensors(&s, "three.safetensors", ONE("a"), strlen(ONE("a")), 4);
    assert_int_equal(add(&s, "one.safetensors", &set, &err), TN_OK);
    assert_int_equal(tn_st_add(set, s.dir, "two.safetensors", s.dir, &err), TN_OK);
    assert_int_equal(tn_st_file_of(set, tn_st_find(set, "b")), 1);
    assert_int_equal(tn_st_files(set), 2);
    assert_int_equal(tn_st_add(set, s.dir, "three.safetensors", s.dir, &err), TN_DATA);
    if (strstr(err.text, "\"a\"") == NULL || strstr(err.text, "one.safetensors") == NULL ||
        strstr(err.text, "three.safetensors:") == NULL)
        fail_msg("%s", err.text);
    tn_st_close(set);
    scratch_close(&s);
}

/* ------------------------------------------------------------------------------- writer */

static void plan_is_written(void **state)
{
    /* Sorted by falling alignment, then by name, whatever the order of the plan. */
    static const char want[] =
        "{\"__metadata__\":{\"format\":\"pt\"},"
        "\"c\":{\"dtype\":\"I32\",\"shape\":[2],\"data_offsets\":[0,8]},"
        "\"a\":{\"dtype\":\"F16\",\"shape\":[3],\"data_offsets\":[8,14]},"
        "\"b\":{\"dtype\":\"F16\",\"shape\":[1,1],\"data_offsets\":[14,16]},"
        "\"d \\\"e\\\"\":{\"dtype\":\"BOOL\",\"shape\":[0],\"data_offsets\":[16,16]}}";
    static const tn_stw_entry plan[] = {
        {.name = "b", .dtype = TN_F16, .ndim = 2, .dim = {1, 1}},
        {.name = "a", .dtype = TN_F16, .ndim = 1, .dim = {3}},
        {.name = "c", .dtype = TN_I32, .ndim = 1, .dim = {2}},
        {.name = "d \"e\"", .dtype = TN_BOOL, .ndim = 1, .dim = {0}},
    };
    scratch s;
    tn_stw *w = NULL;
    tn_err err;
    size_t size = 0;
    (void)state;
    scratch_open(&s);
    assert_int_equal(tn_stw_open(s.dir, 0, &w, &err), TN_OK);
    assert_int_equal(tn_stw_plan(w, plan, COUNT(plan), &err), TN_OK);
    assert_int_equal(tn_stw_put(w, 2, 4, "2222", 4, &err), TN_OK);
    assert_int_equal(tn_stw_put(w, 0, 0, "bb", 2, &err), TN_OK);
    assert_int_equal(tn_stw_put(w, 1, 0, "aaaaaa", 6, &err), TN_OK);
    assert_int_equal(tn_stw_put(w, 1, 5, "aa", 2, &err), TN_INTERNAL); /* past its end */
    tn_stw_close(w);
    assert_false(scratch_has(&s, "model.safetensors"));
    assert_false(scratch_has(&s, "model-shard-00001.part"));
    assert_int_equal(tn_stw_open(s.dir, 0, &w, &err), TN_OK);
    assert_int_equal(tn_stw_plan(w, plan, COUNT(plan), &err), TN_OK);
    assert_int_equal(tn_stw_put(w, 2, 4, "2222", 4, &err), TN_OK);
    assert_int_equal(tn_stw_put(w, 0, 0, "bb", 2, &err), TN_OK);
    assert_int_equal(tn_stw_put(w, 1, 0, "aaaaaa", 6, &err), TN_OK);
    assert_int_equal(tn_stw_finish(w, false, &err), TN_INTERNAL); /* half of c is missing */
    assert_int_equal(tn_stw_put(w, 2, 0, "1111", 4, &err), TN_OK);
    assert_int_equal(tn_stw_finish(w, false, &err), TN_OK);
    tn_stw_close(w);
    char *all = scratch_read(&s, "model.safetensors", &size);
    assert_non_null(all);
    size_t header = (size_t)(unsigned char)all[0] | (size_t)(unsigned char)all[1] << 8;
    assert_int_equal(header % 8, 0);
    assert_memory_equal(all + 8, want, sizeof want - 1);
    for (size_t i = sizeof want - 1; i < header; i++)
        assert_int_equal(all[8 + i], ' ');
    assert_int_equal(size, 8 + header + 16);
    assert_memory_equal(all + 8 + header, "11112222aaaaaabb", 16);
    free(all);
    scratch_close(&s);
}

typedef struct streamer {
    tn_stw *w;
    int first;
} streamer;

static void *stream(void *arg)
{
    const streamer *t = arg;
    tn_err err;
    char name[32];
    uint8_t data[64];
    for (int i = t->first; i < 64; i += 4) {
        uint64_t dim[2] = {4, 8};
        memset(data, i, sizeof data);
        snprintf(name, sizeof name, "t%02d.weight", i);
        if (tn_stw_tensor(t->w, name, TN_F16, 2, dim, data, &err) != TN_OK)
            return (void *)1;
    }
    return NULL;
}

/* Four threads stream 64 tensors of 64 bytes into shards of 1,000 bytes. */
static void streamed_in_shards(void **state)
{
    scratch s;
    streamer t[4];
    pthread_t id[4];
    tn_err err;
    tn_stw *w = NULL;
    (void)state;
    scratch_open(&s);
    scratch_text(&s, "model.safetensors", "stale");
    scratch_text(&s, "model-00009-of-00009.safetensors", "stale");
    assert_int_equal(tn_stw_open(s.dir, 1000, &w, &err), TN_OK);
    for (int i = 0; i < 4; i++) {
        t[i] = (streamer){.w = w, .first = i};
        assert_int_equal(pthread_create(&id[i], NULL, stream, &t[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        void *bad = NULL;
        pthread_join(id[i], &bad);
        assert_null(bad);
    }
    assert_int_equal(tn_stw_file(w, "config.json", "{}", 2, &err), TN_OK);
    assert_false(scratch_has(&s, "config.json"));
    assert_int_equal(tn_stw_bytes(w), 64 * 64);
    assert_int_equal(tn_stw_finish(w, true, &err), TN_OK);
    tn_stw_close(w);
    assert_true(scratch_has(&s, "config.json"));
    assert_false(scratch_has(&s, "model.safetensors"));
    assert_false(scratch_has(&s, "model-00009-of-00009.safetensors"));
    char *index = scratch_read(&s, "model.safetensors.index.json", NULL);
    assert_non_null(index);
    assert_non_null(strstr(index, "\"total_size\": 4096"));
    free(index);
    tn_st *set = NULL;
    assert_int_equal(tn_st_open(&set, &err), TN_OK);
    for (int i = 1; i <= 5; i++) { /* 15 tensors of 64 bytes fit a shard */
        char name[64];
        snprintf(name, sizeof name, "model-%05d-of-00005.safetensors", i);
        if (tn_st_add(set, s.dir, name, s.dir, &err) != TN_OK)
            fail_msg("%s", err.text);
    }
    assert_int_equal(tn_st_count(set), 64);
    for (int i = 0; i < 64; i++) {
        char name[32];
        tn_tensor v;
        snprintf(name, sizeof name, "t%02d.weight", i);
        assert_true(tn_st_at(set, tn_st_find(set, name), NULL, &v));
        for (int k = 0; k < 64; k++)
            assert_int_equal(((const uint8_t *)v.data)[k], i);
    }
    tn_st_close(set);
    scratch_close(&s);
}

/* An odd number of bytes before wider types: the file puts them in order all the same. */
static void streamed_unaligned(void **state)
{
    static const uint64_t three[] = {3}, two[] = {2};
    scratch s;
    tn_err err;
    tn_stw *w = NULL;
    tn_st *set = NULL;
    tn_tensor t;
    (void)state;
    scratch_open(&s);
    assert_int_equal(tn_stw_open(s.dir, 0, &w, &err), TN_OK);
    assert_int_equal(tn_stw_tensor(w, "codes", TN_U8, 1, three, "abc", &err), TN_OK);
    assert_int_equal(tn_stw_tensor(w, "words", TN_I32, 1, two, "12345678", &err), TN_OK);
    assert_int_equal(tn_stw_finish(w, false, &err), TN_OK);
    tn_stw_close(w);
    assert_int_equal(add(&s, "model.safetensors", &set, &err), TN_OK);
    assert_true(tn_st_at(set, tn_st_find(set, "words"), NULL, &t));
    assert_int_equal((uintptr_t)t.data % 4, 0);
    assert_memory_equal(t.data, "12345678", 8);
    assert_true(tn_st_at(set, tn_st_find(set, "codes"), NULL, &t));
    assert_memory_equal(t.data, "abc", 3);
    tn_st_close(set);
    scratch_close(&s);
}

static void writer_refuses(void **state)
{
    static const uint64_t two[] = {2}, huge[] = {UINT64_MAX / 2, 8};
    scratch s;
    tn_err err;
    tn_stw *w = NULL, *other = NULL;
    (void)state;
    scratch_open(&s);
    assert_int_equal(tn_stw_open(s.dir, 0, &w, &err), TN_OK);
    assert_int_equal(tn_stw_tensor(w, "a", TN_U8, 1, two, "ab", &err), TN_OK);
    assert_int_equal(tn_stw_open(s.dir, 0, &other, &err), TN_OK);
    assert_int_equal(tn_stw_tensor(other, "a", TN_U8, 1, two, "ab", &err), TN_CANTCREATE);
    assert_non_null(strstr(err.text, "another process"));
    assert_int_equal(tn_stw_tensor(other, "b", TN_U8, 1, two, "ab", &err), TN_CANTCREATE);
    tn_stw_close(other);
    assert_int_equal(tn_stw_tensor(w, "a", TN_U8, 1, two, "ab", &err), TN_INTERNAL);
    assert_int_equal(tn_stw_tensor(w, "b", 99, 1, two, "ab", &err), TN_INTERNAL);
    assert_int_equal(tn_stw_tensor(w, "c", TN_F32, 2, huge, "ab", &err), TN_INTERNAL);
    assert_int_equal(tn_stw_tensor(w, "__metadata__", TN_U8, 1, two, "ab", &err), TN_INTERNAL);
    assert_int_equal(tn_stw_file(w, "../x", "", 0, &err), TN_INTERNAL);
    assert_int_equal(tn_stw_finish(w, false, &err), TN_INTERNAL); /* after a failure */
    tn_stw_close(w);
    assert_int_equal(tn_stw_open("/nonexistent/folder", 0, &w, &err), TN_OK);
    assert_int_equal(tn_stw_tensor(w, "a", TN_U8, 1, two, "ab", &err), TN_CANTCREATE);
    /* another thread may be at its next tensor before the first failure is known */
    assert_int_equal(tn_stw_tensor(w, "b", TN_U8, 1, two, "ab", &err), TN_CANTCREATE);
    assert_int_equal(tn_stw_file(w, "x", "", 0, &err), TN_CANTCREATE);
    tn_stw_close(w);
    scratch_close(&s);
}

/* A full shard waits for finish without being written to: it is in use all the same. */
static void sealed_shard_is_kept(void **state)
{
    static const uint64_t two[] = {2};
    scratch s;
    tn_err err;
    tn_stw *w = NULL, *other = NULL;
    tn_st *set = NULL;
    tn_tensor t;
    (void)state;
    scratch_open(&s);
    assert_int_equal(tn_stw_open(s.dir, 2, &w, &err), TN_OK);
    assert_int_equal(tn_stw_tensor(w, "a", TN_U8, 1, two, "ab", &err), TN_OK);
    assert_int_equal(tn_stw_tensor(w, "b", TN_U8, 1, two, "cd", &err), TN_OK);
    assert_int_equal(tn_stw_open(s.dir, 2, &other, &err), TN_OK);
    assert_int_equal(tn_stw_tensor(other, "x", TN_U8, 1, two, "xy", &err), TN_CANTCREATE);
    tn_stw_close(other);
    assert_int_equal(tn_stw_finish(w, false, &err), TN_OK);
    tn_stw_close(w);
    assert_int_equal(tn_st_open(&set, &err), TN_OK);
    assert_int_equal(tn_st_add(set, s.dir, "model-00001-of-00002.safetensors", NULL, &err), TN_OK);
    assert_true(tn_st_at(set, tn_st_find(set, "a"), NULL, &t));
    assert_memory_equal(t.data, "ab", 2);
    tn_st_close(set);
    scratch_close(&s);
}

/* A limit on file sizes stands in for a full disk. */
static void disk_full(void **state)
{
    static const uint64_t dim[] = {1 << 16};
    struct rlimit old, small = {1 << 20, RLIM_INFINITY};
    scratch s;
    tn_err err;
    tn_stw *w = NULL;
    uint8_t *data = calloc(1, 1 << 16);
    (void)state;
    assert_non_null(data);
    scratch_open(&s);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small.rlim_max = old.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    assert_int_equal(tn_stw_open(s.dir, 0, &w, &err), TN_OK);
    tn_status st = tn_stw_tensor(w, "a", TN_U8, 1, dim, data, &err);
    tn_stw_close(w);
    setrlimit(RLIMIT_FSIZE, &old);
    assert_int_equal(st, TN_IO);
    assert_non_null(strstr(err.text, "larger than files may be"));
    assert_false(scratch_has(&s, "model-shard-00001.part"));
    free(data);
    scratch_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_header),       cmocka_unit_test(cut_anywhere),
        cmocka_unit_test(lengths_of_the_header), cmocka_unit_test(deep_and_long),
        cmocka_unit_test(longest_header),
        cmocka_unit_test(too_many),           cmocka_unit_test(kinds_of_files),
        cmocka_unit_test(links),              cmocka_unit_test(values_and_views),
        cmocka_unit_test(two_files),          cmocka_unit_test(plan_is_written),
        cmocka_unit_test(streamed_in_shards), cmocka_unit_test(streamed_unaligned),
        cmocka_unit_test(writer_refuses),     cmocka_unit_test(sealed_shard_is_kept),
        cmocka_unit_test(disk_full),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
