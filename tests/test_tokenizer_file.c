/* SPDX-License-Identifier: Apache-2.0 */
/* test_tokenizer_file.c - what a tokenizer.json may not say, and the sentence it gets. */
#include "tokfixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static tn_status open_text(const char *text, size_t size, uint32_t vocab_max, tn_err *err)
{
    tn_tok *t = NULL;
    err->text[0] = 0;
    tn_status st = tn_tok_open_text(text, size, "tokenizer.json", vocab_max, &t, err);
    assert_true((st == TN_OK) == (t != NULL));
    tn_tok_close(t);
    return st;
}

/* Refused as data, with all of `wanted` (words parted by '|') in the sentence. */
static void refused(const char *text, size_t size, uint32_t vocab_max, const char *wanted)
{
    tn_err err;
    char word[128];
    tn_status st = open_text(text, size, vocab_max, &err);
    if (st != TN_DATA)
        fail_msg("wanted a refusal (%s), got status %d: %s", wanted, st, err.text);
    for (const char *p = wanted; *p != 0;) {
        size_t n = strcspn(p, "|");
        snprintf(word, sizeof word, "%.*s", (int)n, p);
        if (strstr(err.text, word) == NULL)
            fail_msg("wanted \"%s\" in: %s", word, err.text);
        p += n + (p[n] == '|');
    }
}

static void refused_fixture(const fixture *f, const char *wanted)
{
    char *text = fixture_text(f);
    refused(text, strlen(text), 0, wanted);
    free(text);
}

/* The file with the first `from` replaced. */
static char *replaced(const fixture *f, const char *from, const char *to)
{
    char *text = fixture_text(f), *at = strstr(text, from);
    tn_buf b;
    assert_non_null(at);
    tn_buf_open(&b, 1u << 24);
    tn_buf_put(&b, text, (size_t)(at - text));
    tn_buf_puts(&b, to);
    tn_buf_puts(&b, at + strlen(from));
    free(text);
    return tn_buf_take(&b);
}

static void refused_edit(const char *from, const char *to, const char *wanted)
{
    const fixture f = {.pre = LEVEL, .decoder = LEVEL};
    char *text = replaced(&f, from, to);
    refused(text, strlen(text), 0, wanted);
    free(text);
}

static const fixture level = {.pre = LEVEL, .decoder = LEVEL};

static void sound_files_open(void **state)
{
    (void)state;
    const fixture all[] = {
        {.pre = LEVEL, .decoder = LEVEL},
        {.pre = LEVEL, .decoder = LEVEL, .pairs = true},
        {.sentence_piece = true, .normalizer = SPM_NORMALIZER, .decoder = SPM_DECODER,
         .options = "\"byte_fallback\":true,\"unk_token\":\"<unk>\",\"dropout\":null,"
                    "\"continuing_subword_prefix\":\"\",\"end_of_word_suffix\":null,"}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        tn_err err;
        tn_tok *t = fixture_open(&all[i], &err);
        if (t == NULL)
            fail_msg("%s", err.text);
        tn_tok_close(t);
    }
}

static void stays_closed(const char *dir, tn_status st, const char *part)
{
    tn_tok *t = NULL;
    tn_err err = {.text = ""};
    tn_status found = tn_tok_open(dir, 0, &t, &err);
    if (found != st || strstr(err.text, part) == NULL)
        fail_msg("status %d, \"%s\"; expected %d and \"%s\"", found, err.text, st, part);
}

/* K01 */
static void files_that_are_none(void **state)
{
    char dir[] = "/tmp/tok-test-XXXXXX", path[64];
    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    stays_closed(dir, TN_NOINPUT, "tokenizer.json: no such file");
    assert_int_equal(mkdir(path, 0700), 0);
    stays_closed(dir, TN_DATA, "tokenizer.json: a folder; expected a regular file");
    rmdir(path);
    assert_int_equal(mkfifo(path, 0600), 0);
    stays_closed(dir, TN_DATA, "tokenizer.json: a FIFO");
    unlink(path);
    assert_int_equal(symlink("/dev/zero", path), 0);
    stays_closed(dir, TN_DATA, "tokenizer.json: a device");
    unlink(path);
    assert_int_equal(symlink("tokenizer.json", path), 0);
    stays_closed(dir, TN_DATA, "tokenizer.json: a loop of links");
    unlink(path);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    stays_closed(dir, TN_DATA, "tokenizer.json:0");
    fputs("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", f);
    fflush(f);
    stays_closed(dir, TN_DATA, "tokenizer.json:0: a Git LFS pointer");
    assert_int_equal(ftruncate(fileno(f), 0), 0);
    assert_int_equal(ftruncate(fileno(f), 2147483648LL), 0);
    stays_closed(dir, TN_DATA, "2147483648 bytes; expected at most 268435456");
    assert_int_equal(ftruncate(fileno(f), 268435457), 0);
    stays_closed(dir, TN_DATA, "268435457 bytes");
    assert_int_equal(ftruncate(fileno(f), 268435456), 0);
    stays_closed(dir, TN_DATA, "tokenizer.json:0"); /* looked into: it is all NULs */
    fclose(f);
    assert_int_equal(chmod(dir, 0755), 0);
    assert_int_equal(chmod(path, 0), 0);
    if (geteuid() != 0 || seteuid(65534) == 0) { /* root gives up its rights */
        stays_closed(dir, TN_NOPERM, "tokenizer.json: no permission");
        if (getuid() == 0)
            assert_int_equal(seteuid(0), 0);
    }
    unlink(path);
    rmdir(dir);
}

/* K02 */
static void broken_bytes(void **state)
{
    (void)state;
    char *text = fixture_text(&level);
    size_t size = strlen(text);
    refused("", 0, 0, "tokenizer.json:0");
    for (size_t i = 1; i <= 200; i++) {
        size_t cut = size * i / 201;
        tn_err err;
        size_t at = SIZE_MAX;
        assert_int_equal(open_text(text, cut, 0, &err), TN_DATA);
        if (sscanf(err.text, "tokenizer.json:%zu:", &at) != 1 || at > cut)
            fail_msg("cut at %zu: %s", cut, err.text);
    }
    free(text);
    text = replaced(&level, "{", "\xef\xbb\xbf{");
    refused(text, strlen(text), 0, "tokenizer.json:0");
    free(text);
    refused_edit("\"h\":104", "\"\xff\":104", "invalid UTF-8");
    refused_edit("\"added_tokens\":[]", "\"added_tokens\":[\"\xc0\x80\"]", "tokenizer.json:|UTF-8");
    refused_edit("\"decoder\":", "\"decoder\":null,\"decoder\":", "tokenizer.json:|twice");
    refused_edit("\"decoder\":", "\"decoder\":{\"a\":1,\"a\":1},\"x\":", "decoder|a");
    refused_edit("\"version\":", "\"\":NaN,\"version\":", "tokenizer.json:4:");
    refused_edit("\"h\":104", "\"\\ud800\":104", "escape");
    refused_edit("\"version\":\"1.0\"", "\"version\":\"2.0\"", "2.0|1.0");
}

/* K04 */
static void models(void **state)
{
    (void)state;
    refused_edit("\"type\":\"BPE\"", "\"type\":\"Unigram\"", "Unigram|BPE");
    refused_edit("\"type\":\"BPE\",", "", "type|BPE");
    refused_edit("\"model\":", "\"other\":", "model|missing");
    refused_edit("\"type\":\"BPE\"", "\"type\":7", "type");
    refused_edit("\"type\":\"BPE\",", "\"type\":\"BPE\",\"dropout\":0.1,", "dropout");
    refused_edit("\"type\":\"BPE\",", "\"type\":\"BPE\",\"end_of_word_suffix\":\"</w>\",",
                 "end_of_word_suffix");
    refused_edit("\"type\":\"BPE\",", "\"type\":\"BPE\",\"fuse_unk\":3,", "fuse_unk");
    refused_edit("\"type\":\"BPE\",", "\"type\":\"BPE\",\"type\":\"BPE\",", "twice");
    refused_edit("\"merges\":[", "\"merges\":[\"t q\",", "tq");
    refused_edit("\"merges\":[", "\"merges\":[\"t\",", "merge 0");
    refused_edit("\"merges\":[", "\"merges\":[\"a b c\",", "merge 0");
    refused_edit("\"merges\":[", "\"merges\":[[\"t\"],", "expected");
    refused_edit("\"merges\":[", "\"merges\":[[\"t\",\"\"],", "empty");
    refused_edit("\"merges\":[", "\"merges\":[7,", "string");
}

/* K05, K06 */
static void vocabularies(void **state)
{
    (void)state;
    refused_edit("\"h\":104", "\"h\":-1", "\"h\"|range");
    refused_edit("\"h\":104", "\"h\":2147483648", "\"h\"|range");
    refused_edit("\"h\":104", "\"h\":9223372036854775808", "\"h\"|range");
    refused_edit("\"h\":104", "\"h\":null", "\"h\"");
    refused_edit("\"h\":104", "\"h\":[104]", "\"h\"");
    refused_edit("\"h\":104", "\"h\":1048576", "\"h\"|1048575");
    refused_edit("\"h\":104", "\"h\":1.5", "\"h\"");
    refused_edit("\"h\":104", "\"h\":\"x\"", "\"h\"");
    refused_edit("\"h\":104", "\"h\":103", "\"h\"|\"g\"|103");
    refused_edit("\"h\":104", "\"g\":104", "\"g\"|twice");
    char *text = fixture_text(&level);
    refused(text, strlen(text), 200, "range|199");
    free(text);
    const char empty[] = "{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]}}";
    refused(empty, strlen(empty), 0, "empty");
    text = replaced(&level, "\"h\":104", "\"h\":5000"); /* a gap is no fault */
    tn_err err;
    assert_int_equal(open_text(text, strlen(text), 0, &err), TN_OK);
    free(text);
    tn_buf b;
    tn_buf_open(&b, 1u << 26);
    tn_buf_puts(&b, "{\"model\":{\"type\":\"BPE\",\"vocab\":{");
    for (unsigned i = 0; i < TN_LEXICON_MAX; i++)
        tn_buf_printf(&b, "%s\"w%u\":%u", i > 0 ? "," : "", i, i);
    size_t most = b.len;
    tn_buf_puts(&b, "},\"merges\":[]}}");
    if (open_text(b.data, b.len, 0, &err) != TN_OK) /* at the limit */
        fail_msg("%s", err.text);
    b.len = most;
    tn_buf_puts(&b, ",\"more\":1048576},\"merges\":[]}}");
    refused(b.data, b.len, 0, "\"more\"|1048575");
    b.len = most;
    tn_buf_puts(&b, ",\"more\":1048575},\"merges\":[]}}");
    refused(b.data, b.len, 0, "more than 1048576 tokens");
    tn_buf_close(&b);
}

#define ADDED(members) "[{" members "}]"

/* K08 */
static void added_tokens(void **state)
{
    static const struct {
        const char *added, *wanted;
    } cases[] = {
        {ADDED("\"id\":300,\"content\":\"\""), "empty"},
        {ADDED("\"id\":300"), "empty"},
        {ADDED("\"id\":-1,\"content\":\"<x>\""), "<x>"},
        {ADDED("\"id\":1048576,\"content\":\"<x>\""), "<x>"},
        {ADDED("\"id\":1.5,\"content\":\"<x>\""), "<x>"},
        {ADDED("\"content\":\"<x>\""), "<x>"},
        {ADDED("\"id\":5,\"content\":\"<x>\""), "<x>|5"},
        {ADDED("\"id\":5,\"content\":\"the\""), "the|5|257"},
        {ADDED("\"id\":300,\"content\":\"<x>\",\"special\":3"), "special"},
        {"[{\"id\":300,\"content\":\"a\\tb\"},{\"id\":301,\"content\":\"a\\tb\"}]", "twice"},
        {"[{\"id\":300,\"content\":\"<x>\"},{\"id\":300,\"content\":\"<y>\"}]", "<y>|300"},
        {"{}", "list"},
        {"[3]", "added token"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refused_fixture(&(fixture){.pre = LEVEL, .added = cases[i].added}, cases[i].wanted);
    refused_fixture(&(fixture){.normalizer = "{\"type\":\"Strip\"}",
                               .added = ADDED("\"id\":300,\"content\":\" \\n\"")}, "empty once");
    refused_fixture(&(fixture){.normalizer = "{\"type\":\"Lowercase\"}",
                               .added = "[{\"id\":300,\"content\":\"<A>\"},"
                                        "{\"id\":301,\"content\":\"<a>\"}]"}, "both|<a>");
    char *big = malloc(1u << 20);
    tn_buf b;
    assert_non_null(big);
    memset(big, 'x', (1u << 20) - 1);
    big[(1u << 20) - 1] = 0;
    tn_buf_open(&b, 1u << 22);
    tn_buf_printf(&b, "[{\"id\":300,\"content\":\"%s\"}]", big);
    refused_fixture(&(fixture){.added = b.data}, "too long");
    tn_buf_close(&b);
    free(big);
    char *text = fixture_text(&(fixture){.added = ADDED("\"id\":300,\"content\":\"<x>\"")});
    refused(text, strlen(text), 280, "<x>|279"); /* beyond the embedding */
    free(text);
}

/* K12, K13, K14 and parts of unknown or wrong shape */
static void parts(void **state)
{
    static const struct {
        fixture f;
        const char *wanted;
    } cases[] = {
        {{.options = "\"unk_token\":\"<nope>\","}, "unk_token|<nope>"},
        {{.options = "\"byte_fallback\":true,"}, "byte_fallback|<0x00>"},
        {{.pre = "{\"type\":\"Magic\"}"}, "pre_tokenizer|Magic|ByteLevel"},
        {{.pre = "{}"}, "pre_tokenizer|absent"},
        {{.pre = "7"}, "pre_tokenizer"},
        {{.pre = "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Odd\"}"}, "Odd"},
        {{.pre = "{\"type\":\"Split\",\"behavior\":\"Removed\"}"}, "pattern"},
        {{.pre = "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\"},\"behavior\":\"Removed\"}"},
         "empty"},
        {{.pre = "{\"type\":\"Metaspace\",\"replacement\":\"ab\"}"}, "replacement"},
        {{.pre = "{\"type\":\"Metaspace\",\"replacement\":\"a\",\"prepend_scheme\":\"no\"}"},
         "prepend_scheme"},
        {{.pre = "{\"type\":\"Sequence\"}"}, "Sequence"},
        {{.normalizer = "{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"!!\"}"},
         "normalizer|Precompiled|NFC"},
        {{.normalizer = "{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"AAAA\"}"},
         "normalizer|Precompiled"}, /* none is read, so a sound one is refused too */
        {{.normalizer = "{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"}}"}, "content"},
        {{.decoder = "{\"type\":\"CTC\"}"}, "decoder|CTC|ByteLevel"},
        {{.decoder = "{\"type\":\"Strip\",\"content\":\" \",\"start\":-1,\"stop\":0}"}, "start"},
        {{.post = "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<b>\","
                  "\"type_id\":0}}],\"special_tokens\":{}}"}, "post_processor|<b>"},
        {{.post = "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<b>\","
                  "\"type_id\":0}}],\"special_tokens\":{\"<b>\":{\"ids\":[9999]}}}"}, "9999"},
        {{.post = "{\"type\":\"TemplateProcessing\",\"single\":[{\"Sequence\":{\"id\":\"B\"}}]}"},
         "Sequence"},
        {{.post = "{\"type\":\"Magic\"}"}, "post_processor|Magic"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refused_fixture(&cases[i].f, cases[i].wanted);
    tn_buf b;
    char *huge = malloc((8u << 20) + 1);
    assert_non_null(huge);
    memset(huge, 'A', 8u << 20);
    huge[8u << 20] = 0;
    tn_buf_open(&b, 1u << 24);
    tn_buf_printf(&b, "{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"%s\"}", huge);
    refused_fixture(&(fixture){.normalizer = b.data}, "normalizer|longer than 8388608");
    tn_buf_close(&b);
    free(huge);
}

/* K10 */
static void patterns(void **state)
{
    static const struct {
        const char *pattern, *wanted;
    } cases[] = {
        {"(a+)+", "repetition"}, {"(a*)*b", "repetition"}, {"(a|aa)+$", "repetition"},
        {"((a{1,5})+){2,}", "repetition"}, {"a**", "repetition"}, {"(?<=a)b", "look-behind"},
        {"(?<!a)b", "look-behind"}, {"\\\\p{Nonsense}", "pattern"}, {"\\\\p{L", "pattern"},
        {"\\\\pL", "pattern"}, {"[[:nope:]]", "class"}, {"[", "class"}, {"[b-a]", "range"},
        {"(", "group"}, {")", "')'"}, {"*a", "repeat"}, {"a{5,2}", "count"},
        {"a{1,100000}", "count"}, {"(a)\\\\1", "escape"}, {"\\\\k<x>", "escape"}, {"(?(1)a)", "group"},
        {"\\\\", "backslash"}, {"\\\\x{110000}", "code point"}, {"(?x)a", "option"},
    };
    char pre[512];
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(pre, sizeof pre, "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"%s\"},"
                 "\"behavior\":\"Isolated\",\"invert\":false}", cases[i].pattern);
        refused_fixture(&(fixture){.pre = pre}, cases[i].wanted);
    }
    char *deep = malloc(8192);
    assert_non_null(deep);
    memset(deep, 0, 8192);
    for (size_t i = 0; i < 1000; i++)
        memcpy(deep + i, "(", 1);
    tn_buf b;
    tn_buf_open(&b, 1u << 20);
    tn_buf_printf(&b, "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"%s\"},\"behavior\":"
                  "\"Isolated\"}", deep);
    refused_fixture(&(fixture){.pre = b.data}, "deep");
    tn_buf_close(&b);
    free(deep);
}

static void write_file(const char *dir, const char *name, const char *text)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

/* K18 */
static void named_tokens(void **state)
{
    tn_err err;
    char dir[] = "/tmp/tok-test-XXXXXX", path[64];
    (void)state;
    assert_non_null(mkdtemp(dir));
    char *text = fixture_text(&(fixture){.pre = LEVEL,
                                         .added = ADDED("\"id\":300,\"content\":\"<x>\"")});
    write_file(dir, "tokenizer.json", text);
    free(text);
    static const struct {
        const char *config;
        tn_status st;
        int32_t bos, eos;
    } cases[] = {
        {"{}", TN_OK, -1, -1},
        {"{\"bos_token\":null,\"eos_token\":\"the\"}", TN_OK, -1, 257},
        {"{\"bos_token\":{\"content\":\"<x>\",\"lstrip\":false},\"eos_token\":\"<x>\"}", TN_OK, 300,
         300},
        {"{\"bos_token\":\"<s>\"}", TN_DATA, 0, 0},
        {"{\"eos_token\":{\"content\":\"<s>\"}}", TN_DATA, 0, 0},
        {"{\"eos_token\":7}", TN_DATA, 0, 0},
        {"{\"eos_token\":{}}", TN_DATA, 0, 0},
        {"[]", TN_DATA, 0, 0},
        {"{", TN_DATA, 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tn_tok *t = NULL;
        write_file(dir, "tokenizer_config.json", cases[i].config);
        tn_status st = tn_tok_open(dir, 0, &t, &err);
        if (st != cases[i].st)
            fail_msg("%s: status %d: %s", cases[i].config, st, err.text);
        if (st == TN_OK) {
            assert_int_equal(tn_tok_bos(t), cases[i].bos);
            assert_int_equal(tn_tok_eos(t), cases[i].eos);
        } else if (strstr(cases[i].config, "<s>") != NULL) {
            assert_non_null(strstr(err.text, "tokenizer_config.json"));
            assert_non_null(strstr(err.text, "tokenizer.json"));
            assert_non_null(strstr(err.text, "<s>"));
        }
        tn_tok_close(t);
    }
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    unlink(path);
    snprintf(path, sizeof path, "%s/tokenizer_config.json", dir);
    unlink(path);
    rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sound_files_open), cmocka_unit_test(files_that_are_none),
        cmocka_unit_test(broken_bytes),     cmocka_unit_test(models),
        cmocka_unit_test(vocabularies),     cmocka_unit_test(added_tokens),
        cmocka_unit_test(parts),            cmocka_unit_test(patterns),
        cmocka_unit_test(named_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
