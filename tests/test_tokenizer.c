/* SPDX-License-Identifier: Apache-2.0 */
/* test_tokenizer.c - text to ids and back, control tokens, streams, long texts, many threads. */
#include "tokfixture.h"

#include <limits.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <unistd.h>

#include <cmocka.h>

#define TOKEN(id, text, more) "{\"id\":" #id ",\"content\":\"" text "\"," more "}"
#define CONTROL "\"special\":true,\"normalized\":false"
#define PLAIN "\"special\":false,\"normalized\":false"

static tn_tok *must_open(const fixture *f)
{
    tn_err err;
    tn_tok *t = fixture_open(f, &err);
    if (t == NULL)
        fail_msg("%s", err.text);
    return t;
}

/* Ids as text, "256 257 ". */
static char *encode(const tn_tok *t, const char *text, size_t size, uint32_t flags,
                    const size_t *plain, size_t nplain)
{
    tn_err err;
    tn_ids ids = {0};
    tn_buf b;
    tn_buf_open(&b, 1u << 20);
    tn_buf_puts(&b, "");
    if (tn_tok_encode(t, text, size, flags, plain, nplain, &ids, &err) != TN_OK)
        fail_msg("%s", err.text);
    for (size_t i = 0; i < ids.n; i++)
        tn_buf_printf(&b, "%d ", ids.id[i]);
    tn_ids_close(&ids);
    return b.data != NULL ? tn_buf_take(&b) : calloc(1, 1);
}

static void encodes(const tn_tok *t, const char *text, uint32_t flags, const char *wanted)
{
    char *ids = encode(t, text, strlen(text), flags, NULL, 0);
    assert_string_equal(ids, wanted);
    free(ids);
}

static void decodes(const tn_tok *t, const int32_t *ids, size_t n, bool keep, const char *wanted)
{
    tn_err err;
    tn_buf b;
    tn_buf_open(&b, 1u << 20);
    if (tn_tok_decode(t, ids, n, keep, &b, &err) != TN_OK)
        fail_msg("%s", err.text);
    assert_string_equal(b.data != NULL ? b.data : "", wanted);
    tn_buf_close(&b);
}
#define DECODES(t, keep, wanted, ...) \
    decodes(t, (const int32_t[]){__VA_ARGS__}, sizeof((const int32_t[]){__VA_ARGS__}) / 4, keep, \
            wanted)

static void byte_level(void **state)
{
    (void)state;
    tn_tok *t = must_open(&(fixture){.pre = LEVEL, .decoder = LEVEL});
    encodes(t, "", 0, "");
    encodes(t, "the", 0, "257 ");
    encodes(t, "the the", 0, "257 259 ");  /* by way of " t" and "he" */
    encodes(t, "then", 0, "257 110 ");
    encodes(t, "aaaaaaa", 0, "263 262 97 ");
    encodes(t, "h\xc3\xa9", 0, "104 195 169 ");
    encodes(t, "a  b", 0, "97 32 32 98 ");
    assert_int_equal(tn_tok_count(t), 267);
    DECODES(t, true, "the the \xef\xbf\xbd!", 257, 259, 32, 0xe4, 0xbd, 33);
    DECODES(t, true, "\xe4\xbd\xa0", 0xe4, 0xbd, 0xa0);
    tn_tok_close(t);
}

static void sentence_piece(void **state)
{
    (void)state;
    tn_tok *t = must_open(&(fixture){
        .sentence_piece = true, .normalizer = SPM_NORMALIZER, .decoder = SPM_DECODER,
        .options = "\"byte_fallback\":true,\"fuse_unk\":true,\"unk_token\":\"<unk>\","});
    int32_t low_the = tn_tok_find(t, LOW "the"), in = tn_tok_find(t, "in");
    char wanted[64];
    snprintf(wanted, sizeof wanted, "%d %d 198 169 ", low_the, in); /* <0xC3> <0xA6> */
    encodes(t, "thein\xc3\xa6", 0, wanted);
    DECODES(t, true, "the in", low_the, tn_tok_find(t, LOW), in);
    DECODES(t, true, "\xc3\xa6", 198, 169);
    DECODES(t, true, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd", 198, 169, 198);
    tn_tok_close(t);
}

static void frames(void **state)
{
    (void)state;
    tn_tok *t = must_open(&(fixture){
        .pre = LEVEL, .added = "[" TOKEN(300, "<s>", CONTROL) "," TOKEN(301, "</s>", CONTROL) "]",
        .post = "{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\"},{\"type\":"
                "\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"b\",\"type_id\":0}},"
                "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}},{\"SpecialToken\":{\"id\":\"e\"}}],"
                "\"special_tokens\":{\"b\":{\"ids\":[300]},\"e\":{\"ids\":[301,301]}}}]}"});
    encodes(t, "the", 0, "257 ");
    encodes(t, "the", TN_TOK_ADD_SPECIAL, "300 257 301 301 ");
    encodes(t, "", TN_TOK_ADD_SPECIAL, "300 301 301 ");
    tn_tok_close(t);
}

/* K16 */
static void control_tokens(void **state)
{
    (void)state;
    tn_tok *t = must_open(&(fixture){
        .pre = LEVEL, .decoder = LEVEL,
        .added = "[" TOKEN(300, "<e>", CONTROL) "," TOKEN(301, "<t>", PLAIN) "]"});
    const char text[] = "<e>a<e><t>";
    char *ids;
    encodes(t, text, 0, "300 97 300 301 ");
    encodes(t, text, TN_TOK_PLAIN, "60 101 62 97 60 101 62 301 ");
    ids = encode(t, text, strlen(text), 0, (const size_t[]){0}, 1);
    assert_string_equal(ids, "60 101 62 97 300 301 ");
    free(ids);
    ids = encode(t, text, strlen(text), 0, (const size_t[]){1, 4, 9}, 3);
    assert_string_equal(ids, "300 97 60 101 62 301 ");
    free(ids);
    DECODES(t, true, "<e>a<t>", 300, 97, 301);
    DECODES(t, false, "a<t>", 300, 97, 301);
    assert_true(tn_tok_is_special(t, 300));
    assert_false(tn_tok_is_special(t, 301));
    assert_false(tn_tok_is_special(t, -1));
    assert_false(tn_tok_is_special(t, INT32_MAX));
    uint32_t size;
    assert_string_equal(tn_tok_special_at(t, 0, &size), "<e>");
    assert_int_equal(size, 3);
    assert_null(tn_tok_special_at(t, 1, &size));
    tn_tok_close(t);
}

/* Tokens that are looked for after normalization has moved the text. */
static void moved_control_tokens(void **state)
{
    (void)state;
    tn_tok *t = must_open(&(fixture){
        .pre = LEVEL,
        .normalizer = "{\"type\":\"Replace\",\"pattern\":{\"String\":\"!\"},\"content\":\"!!!!\"}",
        .added = "[" TOKEN(300, "<e>", "\"special\":true,\"normalized\":true") "]"});
    const char text[] = "!<e>!<e>";
    char *ids = encode(t, text, strlen(text), 0, (const size_t[]){5}, 1);
    assert_string_equal(ids, "33 33 33 33 300 33 33 33 33 60 101 62 ");
    free(ids);
    ids = encode(t, text, strlen(text), 0, (const size_t[]){1}, 1);
    assert_string_equal(ids, "33 33 33 33 60 101 62 33 33 33 33 300 ");
    free(ids);
    encodes(t, text, TN_TOK_PLAIN, "33 33 33 33 60 101 62 33 33 33 33 60 101 62 ");
    tn_tok_close(t);
}

static void bad_text(void **state)
{
    static const char *const bad[] = {"a\xc0\x80", "a\xed\xa0\x80", "a\xf5\x80\x80\x80", "a\xe2\x82",
                                      "a\x80", "a\xff", "a\xf4\x90\x80\x80", "a\xe0\x80\x80"};
    tn_err err;
    tn_ids ids = {0};
    (void)state;
    tn_tok *t = must_open(&(fixture){.pre = LEVEL});
    assert_int_equal(tn_tok_encode(t, "x", 1, 0, NULL, 0, &ids, &err), TN_OK);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(tn_tok_encode(t, bad[i], strlen(bad[i]), 0, NULL, 0, &ids, &err),
                         TN_REFUSED);
        assert_string_equal(err.code, "invalid_utf8");
        assert_non_null(strstr(err.text, "byte 1"));
        assert_int_equal(ids.n, 1);
    }
    tn_ids_close(&ids);
    tn_tok_close(t);
}

/* K09, K17 */
static void every_id(void **state)
{
    static const int32_t outside[] = {-1, INT32_MIN, INT32_MAX, 1 << 20};
    (void)state;
    tn_tok *t = must_open(&(fixture){
        .sentence_piece = true, .normalizer = SPM_NORMALIZER, .decoder = SPM_DECODER,
        .added = "[" TOKEN(900, "<0xZZ>", PLAIN) "," TOKEN(901, "<0x-1>", PLAIN) ","
                 TOKEN(902, "<0x100>", PLAIN) "," TOKEN(903, "<0x 1>", PLAIN) "]"});
    uint32_t size;
    for (int32_t id = 0; id <= (int32_t)tn_tok_count(t); id++) {
        tn_err err;
        tn_buf b;
        tn_buf_open(&b, 1u << 20);
        bool has = tn_tok_spelling(t, id, &size) != NULL;
        tn_status st = tn_tok_decode(t, &id, 1, true, &b, &err);
        assert_int_equal(st, has ? TN_OK : TN_REFUSED);
        assert_true(has == (tn_tok_bytes(t, id, &size) != NULL));
        tn_buf_close(&b);
    }
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++) {
        tn_err err;
        tn_buf b;
        tn_buf_open(&b, 1u << 20);
        assert_int_equal(tn_tok_decode(t, &outside[i], 1, true, &b, &err), TN_REFUSED);
        assert_null(tn_tok_bytes(t, outside[i], &size));
        assert_null(tn_tok_spelling(t, outside[i], &size));
        tn_buf_close(&b);
    }
    DECODES(t, true, "<0xZZ><0x-1><0x100><0x 1>", 900, 901, 902, 903);
    assert_string_equal(tn_tok_bytes(t, tn_tok_find(t, LOW "the"), &size), " the");
    assert_int_equal(size, 4);
    assert_memory_equal(tn_tok_bytes(t, tn_tok_find(t, "<0xC3>"), &size), "\xc3", 2);
    assert_int_equal(size, 1);
    assert_string_equal(tn_tok_spelling(t, tn_tok_find(t, "<0xC3>"), &size), "<0xC3>");
    assert_int_equal(tn_tok_find(t, "nothing"), -1);
    tn_tok_close(t);
}

static void streams(const fixture *f, const char *text)
{
    tn_err err;
    tn_ids ids = {0};
    tn_tok *t = must_open(f);
    assert_int_equal(tn_tok_encode(t, text, strlen(text), 0, NULL, 0, &ids, &err), TN_OK);
    tn_buf whole, parts;
    tn_detok *d = NULL;
    tn_buf_open(&whole, 1u << 20);
    tn_buf_open(&parts, 1u << 20);
    assert_int_equal(tn_tok_decode(t, ids.id, ids.n, true, &whole, &err), TN_OK);
    assert_int_equal(tn_detok_open(t, true, &d, &err), TN_OK);
    for (size_t i = 0; i < ids.n; i++)
        tn_detok_push(d, ids.id[i], &parts);
    tn_detok_finish(d, &parts);
    assert_string_equal(parts.data != NULL ? parts.data : "", whole.data != NULL ? whole.data : "");
    tn_detok_close(d);
    tn_buf_close(&whole);
    tn_buf_close(&parts);
    tn_ids_close(&ids);
    tn_tok_close(t);
}

static void streamed_is_whole(void **state)
{
    static const char *const decoders[] = {
        NULL, LEVEL, SPM_DECODER, "{\"type\":\"Metaspace\",\"replacement\":\"a\"}",
        "{\"type\":\"BPEDecoder\",\"suffix\":\"e\"}", "{\"type\":\"Fuse\"}",
        "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},{\"type\":\"Replace\","
        "\"pattern\":{\"String\":\"the\"},\"content\":\"T\"}]}",
        "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},{\"type\":\"Replace\","
        "\"pattern\":{\"Regex\":\"[a-h]+\"},\"content\":\"_\"},{\"type\":\"ByteLevel\"}]}",
        "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},{\"type\":\"Strip\","
        "\"content\":\"a\",\"start\":2,\"stop\":3}]}"};
    static const char *const texts[] = {"", "a", "aaaa", "the in\xc3\xa9 then \xe4\xbd\xa0 aaa",
                                        "<0x41>the", "aa aa the"};
    (void)state;
    for (size_t i = 0; i < sizeof decoders / sizeof *decoders; i++)
        for (size_t k = 0; k < sizeof texts / sizeof *texts; k++) {
            streams(&(fixture){.pre = LEVEL, .decoder = decoders[i]}, texts[k]);
            streams(&(fixture){.sentence_piece = true, .normalizer = SPM_NORMALIZER,
                               .decoder = decoders[i],
                               .options = "\"byte_fallback\":true,"}, texts[k]);
        }
}

static void pushed(tn_detok *d, int32_t id, const char *wanted)
{
    tn_buf b;
    tn_buf_open(&b, 1u << 20);
    tn_detok_push(d, id, &b);
    assert_string_equal(b.data != NULL ? b.data : "", wanted);
    tn_buf_close(&b);
}

static void finished(tn_detok *d, const char *wanted)
{
    tn_buf b;
    tn_buf_open(&b, 1u << 20);
    tn_detok_finish(d, &b);
    assert_string_equal(b.data != NULL ? b.data : "", wanted);
    tn_buf_close(&b);
}

static void pieces(void **state)
{
    tn_err err;
    tn_detok *d = NULL;
    (void)state;
    tn_tok *t = must_open(&(fixture){.pre = LEVEL, .decoder = LEVEL});
    assert_int_equal(tn_detok_open(t, true, &d, &err), TN_OK);
    pushed(d, 257, "the");
    pushed(d, 0xf0, "");
    pushed(d, 0x9f, "");
    pushed(d, 0x98, "");
    pushed(d, 0x80, "\xf0\x9f\x98\x80");
    pushed(d, 0xe4, "");
    pushed(d, 33, "\xef\xbf\xbd!");
    pushed(d, -5, "");
    pushed(d, 0xe4, "");
    finished(d, "\xef\xbf\xbd");
    tn_detok_close(d);
    tn_tok_close(t);
    t = must_open(&(fixture){.sentence_piece = true, .normalizer = SPM_NORMALIZER,
                             .decoder = SPM_DECODER, .options = "\"byte_fallback\":true,"});
    int32_t the = tn_tok_find(t, LOW "the");
    assert_int_equal(tn_detok_open(t, true, &d, &err), TN_OK);
    pushed(d, the, "the"); /* the first blank goes */
    pushed(d, the, " the");
    pushed(d, 3 + 0xc3, "");
    pushed(d, 3 + 0xa9, "");
    pushed(d, the, "\xc3\xa9 the");
    tn_detok_close(d);
    assert_int_equal(tn_detok_open(t, true, &d, &err), TN_OK);
    tn_detok_prime(d, (const int32_t[]){the, 3 + 'A', 3 + 0xc3}, 3);
    pushed(d, 3 + 0xa9, "");            /* completes the prompt's last character */
    pushed(d, the, "\xc3\xa9 the");     /* and the prompt's own A does not come again */
    tn_detok_close(d);
    tn_tok_close(t);
}

/* Anything quadratic would take hours here. */
static void long_texts(void **state)
{
    const size_t size = 1u << 20;
    char *text = malloc(size);
    tn_err err;
    tn_ids ids = {0};
    (void)state;
    assert_non_null(text);
    alarm(300);
    const fixture f[] = {
        {.pre = LEVEL, .normalizer = "{\"type\":\"NFC\"}",
         .added = "[" TOKEN(300, "<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<<x", CONTROL) ","
                  TOKEN(301, "\\n", "\"rstrip\":true," PLAIN) ","
                  TOKEN(302, "\\t", "\"lstrip\":true," PLAIN) "]"},
        {.pre = LEVEL_ONLY},
        {.pre = "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\s+$\"},\"behavior\":\"Removed\"}"},
        {.sentence_piece = true, .normalizer = SPM_NORMALIZER,
         .options = "\"byte_fallback\":true,"},
        {.sentence_piece = true, .options = "\"unk_token\":\"<unk>\","}};
    static const char *const units[] = {"a", " ", "<", "\n", "\t", "\xcc\x81\xcc\xa7", "the ", "'",
                                        "\xe4\xbd\xa0", "1"};
    for (size_t i = 0; i < sizeof f / sizeof *f; i++) {
        tn_tok *t = must_open(&f[i]);
        for (size_t k = 0; k < sizeof units / sizeof *units; k++) {
            size_t n = strlen(units[k]), count = size / n;
            for (size_t at = 0; at < count; at++)
                memcpy(text + at * n, units[k], n);
            ids.n = 0;
            if (tn_tok_encode(t, text, count * n, 0, NULL, 0, &ids, &err) != TN_OK)
                fail_msg("%s", err.text);
            assert_true(ids.n > 0 || i == 2 || i == 4);
        }
        tn_tok_close(t);
    }
    alarm(0);
    tn_ids_close(&ids);
    free(text);
}

/* A pattern that looks far ahead in vain, from everywhere. */
static void costly_pattern(void **state)
{
    const size_t size = 1u << 20;
    char *text = malloc(size);
    tn_err err;
    tn_ids ids = {0};
    (void)state;
    assert_non_null(text);
    memset(text, 'a', size);
    tn_tok *t = must_open(&(fixture){.pre = "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a+b\"},"
                                            "\"behavior\":\"Isolated\"}"});
    alarm(300);
    assert_int_equal(tn_tok_encode(t, text, 1000, 0, NULL, 0, &ids, &err), TN_OK);
    assert_int_equal(tn_tok_encode(t, text, size, 0, NULL, 0, &ids, &err), TN_REFUSED);
    assert_string_equal(err.code, "pattern_limit");
    alarm(0);
    tn_tok_close(t);
    tn_ids_close(&ids);
    free(text);
}

typedef struct shared {
    const tn_tok *t;
    int failed;
} shared;

static void *encode_often(void *arg)
{
    shared *s = arg;
    for (int i = 0; i < 200; i++) {
        tn_err err;
        tn_ids ids = {0};
        static const char text[] = "the then in aaaa the 12 \xc3\xa9";
        if (tn_tok_encode(s->t, text, sizeof text - 1, 0, NULL, 0, &ids, &err) != TN_OK ||
            ids.n != 13)
            s->failed = (int)ids.n + 1;
        tn_ids_close(&ids);
    }
    return NULL;
}

static void many_threads(void **state)
{
    pthread_t thread[4];
    shared s[4];
    (void)state;
    tn_tok *t = must_open(&(fixture){.pre = LEVEL, .normalizer = "{\"type\":\"NFC\"}"});
    for (int i = 0; i < 4; i++) {
        s[i] = (shared){.t = t};
        assert_int_equal(pthread_create(&thread[i], NULL, encode_often, &s[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(thread[i], NULL);
        assert_int_equal(s[i].failed, 0);
    }
    tn_tok_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(byte_level),        cmocka_unit_test(sentence_piece),
        cmocka_unit_test(frames),            cmocka_unit_test(control_tokens),
        cmocka_unit_test(moved_control_tokens), cmocka_unit_test(bad_text),
        cmocka_unit_test(every_id),          cmocka_unit_test(streamed_is_whole),
        cmocka_unit_test(pieces),            cmocka_unit_test(long_texts),
        cmocka_unit_test(costly_pattern),    cmocka_unit_test(many_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
