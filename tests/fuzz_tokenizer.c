/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_tokenizer.c - strangers' tokenizer.json, and strangers' text through sound ones.
 *
 * The first byte chooses: 0xff reads the rest as a file; else its low bits choose a fixture and
 * the flags, the second byte the plain offsets, and the rest is text. What must hold: text
 * that is UTF-8 encodes; ids decode; streamed and whole decoding agree; byte-level text
 * without a normalizer comes back. */
#include "tokfixture.h"

#include "unicode.h"

#define CHECK(ok) ((ok) ? (void)0 : __builtin_trap())

static const char added[] =
    "[{\"id\":300,\"content\":\"<|x|>\",\"special\":true,\"normalized\":false},"
    "{\"id\":301,\"content\":\"ba\",\"special\":false,\"normalized\":false,\"single_word\":true},"
    "{\"id\":302,\"content\":\" \",\"special\":false,\"normalized\":false,\"rstrip\":true},"
    "{\"id\":303,\"content\":\"<l>\",\"special\":true,\"normalized\":true,\"lstrip\":true},"
    "{\"id\":304,\"content\":\"\\u00e9t\",\"special\":true,\"normalized\":true}]";

#define SPLIT(re) "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" re "\"},\"behavior\":" \
    "\"MergedWithNext\",\"invert\":false}"
#define SEQUENCE(a, b) "{\"type\":\"Sequence\",\"pretokenizers\":[" a "," b "]}"

static const fixture fixtures[] = {
    {.pre = LEVEL, .decoder = LEVEL},
    {.pre = LEVEL, .decoder = LEVEL, .added = added, .normalizer = "{\"type\":\"NFC\"}"},
    {.pre = SEQUENCE(SPLIT("\\\\s+(?=\\\\S)|[a-z&&[^ei]]+|\\\\p{Han}"), LEVEL_ONLY),
     .decoder = LEVEL, .added = added, .normalizer = "{\"type\":\"NFKD\"}"},
    {.sentence_piece = true, .normalizer = SPM_NORMALIZER, .decoder = SPM_DECODER,
     .options = "\"byte_fallback\":true,\"fuse_unk\":true,\"unk_token\":\"<unk>\",",
     .added = added},
    {.sentence_piece = true, .decoder = "{\"type\":\"Metaspace\",\"replacement\":\"" LOW "\"}",
     .pre = "{\"type\":\"Metaspace\",\"replacement\":\"" LOW "\",\"prepend_scheme\":\"first\"}",
     .options = "\"fuse_unk\":true,\"unk_token\":\"<unk>\","},
    {.sentence_piece = true, .normalizer = "{\"type\":\"Strip\"}",
     .decoder = "{\"type\":\"BPEDecoder\",\"suffix\":\"e\"}"},
};

static void round_trip(const tn_tok *t, const tn_ids *ids, bool keep, tn_buf *out)
{
    tn_err err;
    tn_detok *d = NULL;
    tn_buf streamed;
    tn_buf_open(&streamed, 1u << 26);
    CHECK(tn_tok_decode(t, ids->id, ids->n, keep, out, &err) == TN_OK);
    CHECK(tn_utf8_check((const uint8_t *)out->data, out->len) == out->len);
    CHECK(tn_detok_open(t, keep, &d, &err) == TN_OK);
    for (size_t i = 0; i < ids->n; i++)
        tn_detok_push(d, ids->id[i], &streamed);
    tn_detok_finish(d, &streamed);
    CHECK(streamed.len == out->len && memcmp(streamed.data ? streamed.data : "", out->data
          ? out->data : "", out->len) == 0);
    tn_detok_close(d);
    tn_buf_close(&streamed);
}

static void use(const tn_tok *t, const char *text, size_t size, uint32_t flags, size_t plain,
                bool exact)
{
    tn_err err;
    tn_ids ids = {0};
    tn_buf out;
    size_t plain_at[2] = {plain, plain + 7};
    bool valid = tn_utf8_check((const uint8_t *)text, size) == size;
    tn_status st = tn_tok_encode(t, text, size, flags, plain_at, 2, &ids, &err);
    CHECK(valid || (st == TN_REFUSED && ids.n == 0));
    CHECK(!valid || st == TN_OK || st == TN_REFUSED);
    tn_buf_open(&out, 1u << 26);
    round_trip(t, &ids, true, &out);
    CHECK(!exact || !valid || (out.len == size && memcmp(out.data ? out.data : "", text, size) == 0));
    tn_buf_reset(&out);
    round_trip(t, &ids, false, &out);
    tn_buf_close(&out);
    tn_ids_close(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    tn_err err;
    tn_tok *t = NULL;
    if (size < 2)
        return 0;
    const char *rest = (const char *)data + 2;
    if (data[0] == 0xff) {
        if (tn_tok_open_text(rest, size - 2, "fuzz", data[1] > 250 ? 300 : 0, &t, &err) == TN_OK)
            use(t, "the <|x|> aa\xc3\xa9\n  1.\xf0\x9f\x98\x80", 21, 0, 4, false);
        tn_tok_close(t);
        return 0;
    }
    size_t which = (data[0] >> 2) % (sizeof fixtures / sizeof *fixtures);
    static tn_tok *opened[sizeof fixtures / sizeof *fixtures]; /* opening takes longer than use */
    if (opened[which] == NULL)
        opened[which] = fixture_open(&fixtures[which], &err);
    CHECK(opened[which] != NULL);
    use(opened[which], rest, size - 2, data[0] & 3, data[1], which == 0);
    return 0;
}
