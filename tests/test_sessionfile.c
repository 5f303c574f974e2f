/* SPDX-License-Identifier: Apache-2.0 */
/* test_sessionfile.c - a conversation in a file: every byte counts, nothing half is seen. */
#include "sessionfile.h"
#include "scratchdir.h"
#include "siphash.h"

#include <dirent.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <cmocka.h>

#define HEAD 256

static tn_session_head a_head(void)
{
    return (tn_session_head){.fingerprint = {1, 2}, .owner = {3, 4}, .block_size = 40,
                             .state_size = 24, .note_size = 5, .block_tokens = 4, .nid = 11,
                             .ncached = 10, .nblock = 3, .created = 1, .model = "tiny"};
}

/* 11 ids, "hello", 3 blocks of 40, a state of 24: bytes 0, 1, 2, ... */
static void fill(uint8_t *parts, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        parts[i] = (uint8_t)i;
}

static void write_file(const char *path, const tn_session_head *h)
{
    uint8_t parts[4096];
    tn_session_file *f = NULL;
    tn_err err = {0};
    uint64_t n = tn_session_parts_size(h);
    fill(parts, n);
    assert_int_equal(tn_session_create(path, "it", h, &f, &err), TN_OK);
    assert_int_equal(tn_session_put(f, parts, 7, &err), TN_OK);
    assert_int_equal(tn_session_put(f, parts + 7, n - 7, &err), TN_OK);
    assert_int_equal(tn_session_put(f, parts, 1, &err), TN_INTERNAL);
    if (tn_session_commit(f, true, &err) != TN_OK)
        fail_msg("%s", err.text);
    tn_session_close(f);
}

/* All of it, in portions; what it comes to. */
static tn_status read_file(const char *path, tn_err *err)
{
    tn_session_file *f = NULL;
    tn_session_head h;
    uint8_t parts[4096], want[4096];
    tn_status st = tn_session_open(path, "it", &f, &h, err);
    if (st != TN_OK)
        return st;
    uint64_t n = tn_session_parts_size(&h), at = 0;
    for (uint64_t k; at < n && st == TN_OK; at += k) {
        k = n - at < 13 ? n - at : 13;
        st = tn_session_get(f, parts + at, k, err);
    }
    if (st == TN_OK)
        st = tn_session_check(f, err);
    fill(want, n);
    if (st == TN_OK)
        assert_memory_equal(parts, want, n);
    tn_session_close(f);
    return st;
}

static uint32_t count_files(const char *dir)
{
    uint32_t n = 0;
    DIR *d = opendir(dir);
    for (struct dirent *e; (e = readdir(d)) != NULL;)
        n += e->d_name[0] != '.' || strlen(e->d_name) > 2;
    closedir(d);
    return n;
}

static size_t load(const char *path, uint8_t *bytes, size_t max)
{
    FILE *f = fopen(path, "rb");
    size_t n = fread(bytes, 1, max, f);
    fclose(f);
    return n;
}

static void test_round_trip(void **state)
{
    (void)state;
    scratch s;
    tn_err err = {0};
    struct stat st;
    tn_session_head h = a_head();
    scratch_open(&s);
    const char *path = scratch_path(&s, "talk");
    write_file(path, &h);
    assert_int_equal(read_file(path, &err), TN_OK);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal((uint64_t)st.st_size, tn_session_file_size(&h));
    write_file(path, &h); /* in the place of the first */
    assert_int_equal(count_files(s.dir), 1);
    scratch_close(&s);
}

/* A writer that is given up, at any place, leaves what was there. */
static void test_given_up(void **state)
{
    (void)state;
    scratch s;
    tn_err err = {0};
    tn_session_head h = a_head();
    tn_session_file *f = NULL;
    uint8_t part[64] = {0};
    scratch_open(&s);
    const char *path = scratch_path(&s, "talk");
    write_file(path, &h);
    assert_int_equal(tn_session_create(path, "it", &h, &f, &err), TN_OK);
    assert_int_equal(count_files(s.dir), 2);
    assert_int_equal(tn_session_put(f, part, 64, &err), TN_OK);
    assert_int_equal(tn_session_commit(f, true, &err), TN_INTERNAL); /* not whole */
    tn_session_close(f);
    assert_int_equal(count_files(s.dir), 1);
    assert_int_equal(read_file(path, &err), TN_OK);
    scratch_close(&s);
}

static void test_every_byte_and_length(void **state)
{
    (void)state;
    scratch s;
    uint8_t bytes[4096];
    tn_err err = {0};
    tn_session_head h = a_head();
    scratch_open(&s);
    char path[512];
    snprintf(path, sizeof path, "%s", scratch_path(&s, "talk"));
    write_file(path, &h);
    size_t n = load(path, bytes, sizeof bytes);
    for (size_t i = 0; i < n; i++) {
        bytes[i] ^= 0x10;
        scratch_write(&s, "talk", bytes, n);
        err.text[0] = 0;
        if (read_file(path, &err) != TN_DATA || strstr(err.text, "expected") == NULL)
            fail_msg("byte %zu: %s", i, err.text);
        bytes[i] ^= 0x10;
    }
    for (size_t i = 0; i < n; i++) {
        scratch_write(&s, "talk", bytes, i);
        if (read_file(path, &err) != TN_DATA)
            fail_msg("%zu bytes were read", i);
    }
    scratch_write(&s, "talk", bytes, n + 1);
    assert_int_equal(read_file(path, &err), TN_DATA);
    scratch_close(&s);
}

/* Sizes that a writer of ours would never write, with a checksum that is right. */
static void test_absurd_heads(void **state)
{
    static const struct { size_t at, size; uint64_t value; const char *why; } cases[] = {
        {offsetof(tn_session_head, nid), 4, UINT32_MAX, "tokens"},
        {offsetof(tn_session_head, nid), 4, 9, "cached tokens"},
        {offsetof(tn_session_head, ncached), 4, 12, "cached tokens"},
        {offsetof(tn_session_head, nblock), 4, 2, "blocks"},
        {offsetof(tn_session_head, nblock), 4, UINT32_MAX, "blocks"},
        {offsetof(tn_session_head, block_tokens), 4, 0, "tokens a block"},
        {offsetof(tn_session_head, block_tokens), 4, UINT32_MAX, "tokens a block"},
        {offsetof(tn_session_head, block_size), 8, UINT64_MAX, "bytes a block"},
        {offsetof(tn_session_head, block_size), 8, UINT64_MAX / 3 + 1, "bytes a block"},
        {offsetof(tn_session_head, block_size), 8, 41, "by its head"},
        {offsetof(tn_session_head, state_size), 8, UINT64_MAX, "bytes of state"},
        {offsetof(tn_session_head, note_size), 8, UINT64_MAX, "bytes of note"},
        {offsetof(tn_session_head, note_size), 8, UINT64_MAX - 200, "bytes of note"},
        {offsetof(tn_session_head, model), 64, 0, "name has no end"},
    };
    static const uint64_t secret[2] = {UINT64_C(0x6e6f6e6574), 1};
    (void)state;
    scratch s;
    uint8_t bytes[4096], other[4096];
    tn_err err = {0};
    tn_session_head h = a_head();
    scratch_open(&s);
    char path[512];
    snprintf(path, sizeof path, "%s", scratch_path(&s, "talk"));
    write_file(path, &h);
    size_t n = load(path, bytes, sizeof bytes);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint64_t sum[2];
        tn_sip sip;
        memcpy(other, bytes, n);
        if (cases[i].size == 64)
            memset(other + 16 + cases[i].at, 'x', 64);
        else
            memcpy(other + 16 + cases[i].at, &cases[i].value, cases[i].size);
        tn_sip_open(&sip, secret);
        tn_sip_put(&sip, other, HEAD - 16);
        tn_sip_done(&sip, sum);
        memcpy(other + HEAD - 16, sum, sizeof sum);
        scratch_write(&s, "talk", other, n);
        if (read_file(path, &err) != TN_DATA || strstr(err.text, cases[i].why) == NULL)
            fail_msg("case %zu: %s; expected %s", i, err.text, cases[i].why);
    }
    scratch_close(&s);
}

static void test_what_is_no_file(void **state)
{
    (void)state;
    scratch s;
    tn_err err = {0};
    tn_session_head h = a_head();
    tn_session_file *f = NULL;
    scratch_open(&s);
    assert_int_equal(read_file(scratch_path(&s, "absent"), &err), TN_NOINPUT);
    assert_int_equal(read_file(s.dir, &err), TN_DATA);
    assert_int_equal(mkfifo(scratch_path(&s, "pipe"), 0600), 0);
    assert_int_equal(read_file(s.path, &err), TN_DATA);
    assert_int_equal(tn_session_create(scratch_path(&s, "no/talk"), "it", &h, &f, &err),
                     TN_CANTCREATE);
    assert_int_equal(tn_session_create(scratch_path(&s, ".."), "it", &h, &f, &err),
                     TN_CANTCREATE);
    assert_int_equal(tn_session_create(scratch_path(&s, ""), "it", &h, &f, &err), TN_CANTCREATE);
    h.nblock = 9; /* our own mistake is not written either */
    assert_int_equal(tn_session_create(scratch_path(&s, "x"), "it", &h, &f, &err), TN_DATA);
    assert_int_equal(count_files(s.dir), 1);
    scratch_close(&s);
}

/* Writers that were killed half-way: the next of that name removes what they left, and the start
 * of a server all with its ending. What a living one writes stays, and what is something else. */
static void dead_writer(const char *path)
{
    tn_session_head h = a_head();
    tn_session_file *f = NULL;
    tn_err err = {0};
    uint8_t part[64] = {0};
    int status;
    pid_t child = fork();
    if (child == 0) {
        if (tn_session_create(path, "it", &h, &f, &err) == TN_OK &&
            tn_session_put(f, part, sizeof part, &err) == TN_OK)
            raise(SIGKILL);
        _exit(1);
    }
    assert_true(child > 0 && waitpid(child, &status, 0) == child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void test_dead_writers(void **state)
{
    static const char *const others[] = {".talk.txt", ".talk.0123456789abcdeg", "talk.0123456789abcdef",
                                         ".talks.0123456789abcdef", ".0123456789abcdef", ".talk"};
    (void)state;
    scratch s;
    tn_err err = {0};
    tn_session_head h = a_head();
    tn_session_file *f = NULL;
    char path[512];
    scratch_open(&s);
    snprintf(path, sizeof path, "%s", scratch_path(&s, "talk"));
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        scratch_text(&s, others[i], "x");
    size_t n = sizeof others / sizeof *others;
    write_file(path, &h);
    dead_writer(path);
    assert_int_equal(count_files(s.dir), n + 2);
    assert_int_equal(read_file(path, &err), TN_OK); /* the older file is whole */
    assert_int_equal(tn_session_create(path, "it", &h, &f, &err), TN_OK);
    assert_int_equal(count_files(s.dir), n + 2); /* the dead one's is gone, ours is there */
    dead_writer(path); /* sweeps beside the living one, and leaves its own */
    assert_int_equal(count_files(s.dir), n + 3);
    dead_writer(scratch_path(&s, "a.session"));
    dead_writer(scratch_path(&s, ".session"));
    assert_int_equal(count_files(s.dir), n + 5);
    tn_session_sweep(s.dir);
    assert_int_equal(count_files(s.dir), n + 3);
    tn_session_close(f);
    write_file(path, &h);
    assert_int_equal(count_files(s.dir), n + 1);
    scratch_close(&s);
}

/* A disk that is full, at every length of the file: one sentence, and the older file stays. */
static void test_full_disk(void **state)
{
    (void)state;
    scratch s;
    tn_session_head h = a_head();
    struct rlimit old, small;
    scratch_open(&s);
    const char *path = scratch_path(&s, "talk");
    write_file(path, &h);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    for (uint64_t most = 0; most < tn_session_file_size(&h); most += 7) {
        tn_session_file *f = NULL;
        tn_err err = {0};
        small = (struct rlimit){most, old.rlim_max};
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
        uint8_t parts[4096];
        fill(parts, tn_session_parts_size(&h));
        tn_status st = tn_session_create(path, "it", &h, &f, &err);
        if (st == TN_OK)
            st = tn_session_put(f, parts, tn_session_parts_size(&h), &err);
        if (st == TN_OK)
            st = tn_session_commit(f, true, &err);
        tn_session_close(f);
        setrlimit(RLIMIT_FSIZE, &old);
        if (st != TN_IO || strstr(err.text, "it: cannot write: ") == NULL)
            fail_msg("%llu bytes: status %d, %s", (unsigned long long)most, st, err.text);
        assert_int_equal(count_files(s.dir), 1);
        assert_int_equal(read_file(path, &err), TN_OK);
    }
    scratch_close(&s);
}

static void test_copies(void **state)
{
    (void)state;
    scratch s;
    uint8_t a[4096], b[4096];
    char from[512], to[512];
    tn_err err = {0};
    tn_session_head h = a_head();
    scratch_open(&s);
    snprintf(from, sizeof from, "%s", scratch_path(&s, "talk"));
    snprintf(to, sizeof to, "%s", scratch_path(&s, "fork"));
    write_file(from, &h);
    assert_int_equal(tn_session_copy(from, "it", to, "other", &err), TN_OK);
    size_t n = load(from, a, sizeof a);
    assert_int_equal(load(to, b, sizeof b), n);
    assert_memory_equal(a, b, n);
    assert_int_equal(tn_session_copy(from, "it", to, "other", &err), TN_REFUSED);
    assert_string_equal(err.code, "session_exists");
    assert_int_equal(count_files(s.dir), 2);
    a[n - 20] ^= 1;
    scratch_write(&s, "talk", a, n);
    assert_int_equal(tn_session_copy(from, "it", scratch_path(&s, "third"), "x", &err), TN_DATA);
    assert_int_equal(count_files(s.dir), 2); /* a damaged file has no children */
    scratch_close(&s);
}

/* The published vector: key 00 .. 0f, input 00 .. 0e and shorter, in any portions. */
static void test_siphash(void **state)
{
    static const struct { uint32_t n; uint64_t a, b; } cases[] = {
        {0, UINT64_C(0xe6a825ba047f81a3), UINT64_C(0x930255c71472f66d)},
        {1, UINT64_C(0x44af996bd8c187da), UINT64_C(0x45fc229b11597634)},
        {15, UINT64_C(0x11a8b03399e99354), UINT64_C(0xd9c3cf970fec087e)},
    };
    static const uint64_t key[2] = {UINT64_C(0x0706050403020100), UINT64_C(0x0f0e0d0c0b0a0908)};
    uint8_t in[64];
    (void)state;
    fill(in, sizeof in);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (uint32_t cut = 0; cut <= cases[i].n; cut++) {
            uint64_t out[2];
            tn_sip s;
            tn_sip_open(&s, key);
            tn_sip_put(&s, in, cut);
            tn_sip_put(&s, in + cut, cases[i].n - cut);
            tn_sip_done(&s, out);
            if (out[0] != cases[i].a || out[1] != cases[i].b)
                fail_msg("%u bytes, cut at %u: %016llx %016llx", cases[i].n, cut,
                         (unsigned long long)out[0], (unsigned long long)out[1]);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),       cmocka_unit_test(test_given_up),
        cmocka_unit_test(test_every_byte_and_length), cmocka_unit_test(test_absurd_heads),
        cmocka_unit_test(test_what_is_no_file),  cmocka_unit_test(test_copies),
        cmocka_unit_test(test_siphash),          cmocka_unit_test(test_dead_writers),
        cmocka_unit_test(test_full_disk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
