/* SPDX-License-Identifier: Apache-2.0 */
/* tokfixture.h - small tokenizer.json texts for the tokenizer's tests.
 *
 * byte-level: the 256 bytes (id = byte), then the words of `merges` in order, each made of two
 * earlier ones. SentencePiece: <unk> <s> </s>, the 256 byte tokens, then single characters,
 * then the merges. */
#ifndef TN_TOKFIXTURE_H
#define TN_TOKFIXTURE_H

#include "bpe.h"
#include "buf.h"
#include "tokenizer.h"

#include <stdlib.h>
#include <string.h>

typedef struct fixture {
    const char *added, *normalizer, *pre, *post, *decoder; /* JSON, NULL: null or [] */
    const char *options;  /* members of the model, with a comma behind */
    bool sentence_piece;
    bool pairs;           /* merges as lists, not texts */
} fixture;

#define LEVEL "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true}"
#define LEVEL_ONLY "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}"
#define SPM_DECODER "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":" \
    "{\"String\":\"\xe2\x96\x81\"},\"content\":\" \"},{\"type\":\"ByteFallback\"}," \
    "{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]}"
#define SPM_NORMALIZER "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\"," \
    "\"prepend\":\"\xe2\x96\x81\"},{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"}," \
    "\"content\":\"\xe2\x96\x81\"}]}"
#define BLANK_CHAR "\xc4\xa0" /* the blank in byte-level spelling */
#define LOW "\xe2\x96\x81"    /* SentencePiece's blank */

typedef struct merge {
    const char *left, *right;
} merge;

static const merge level_merges[] = {{"t", "h"}, {"th", "e"}, {BLANK_CHAR, "t"},
                                     {BLANK_CHAR "t", "he"}, {"h", "e"}, {BLANK_CHAR, "the"},
                                     {"i", "n"}, {"a", "a"}, {"aa", "aa"}, {"1", "2"},
                                     {BLANK_CHAR, BLANK_CHAR}, {"in", "in"}};
static const merge spm_merges[] = {{"t", "h"}, {"th", "e"}, {LOW, "the"}, {LOW, "t"},
                                   {"i", "n"}, {"a", "a"}, {"aa", "aa"}, {LOW, LOW}};
static const char *const spm_chars[] = {LOW, "a", "e", "h", "i", "n", "t", "x", "."};

static void fixture_word(tn_buf *b, const char *word, uint32_t *id)
{
    tn_buf_puts(b, *id > 0 ? "," : "");
    tn_buf_put_json(b, word, strlen(word));
    tn_buf_printf(b, ":%u", (*id)++);
}

static void fixture_merges(tn_buf *b, const merge *m, size_t n, bool pairs)
{
    for (size_t i = 0; i < n; i++) {
        tn_buf_puts(b, i > 0 ? "," : "");
        if (pairs)
            tn_buf_printf(b, "[\"%s\",\"%s\"]", m[i].left, m[i].right);
        else
            tn_buf_printf(b, "\"%s %s\"", m[i].left, m[i].right);
    }
}

static void fixture_join(const merge *m, char out[64])
{
    snprintf(out, 64, "%s%s", m->left, m->right);
}

/* Does an earlier merge make the same word? */
static bool fixture_made(const merge *m, size_t n)
{
    char word[64], other[64];
    fixture_join(&m[n], word);
    for (size_t i = 0; i < n; i++) {
        fixture_join(&m[i], other);
        if (strcmp(word, other) == 0)
            return true;
    }
    return false;
}

static void fixture_vocab(tn_buf *b, const fixture *f, const merge *m, size_t n)
{
    uint32_t id = 0;
    char word[64];
    static const char *const names[] = {"<unk>", "<s>", "</s>"};
    for (size_t i = 0; f->sentence_piece && i < 3; i++)
        fixture_word(b, names[i], &id);
    for (unsigned i = 0; i < 256; i++) {
        tn_buf one;
        tn_buf_open(&one, 16);
        tn_buf_put_utf8(&one, tn_byte_char((uint8_t)i));
        snprintf(word, sizeof word, "<0x%02X>", i);
        fixture_word(b, f->sentence_piece ? word : one.data, &id);
        tn_buf_close(&one);
    }
    for (size_t i = 0; f->sentence_piece && i < sizeof spm_chars / sizeof *spm_chars; i++)
        fixture_word(b, spm_chars[i], &id);
    for (size_t i = 0; i < n; i++) {
        fixture_join(&m[i], word);
        if (!fixture_made(m, i))
            fixture_word(b, word, &id);
    }
}

/* The text of a tokenizer.json; free it. */
static char *fixture_text(const fixture *f)
{
    tn_buf b;
    const merge *m = f->sentence_piece ? spm_merges : level_merges;
    size_t n = f->sentence_piece ? sizeof spm_merges / sizeof *spm_merges
                                 : sizeof level_merges / sizeof *level_merges;
    tn_buf_open(&b, 1u << 26);
    tn_buf_printf(&b, "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,"
                  "\"added_tokens\":%s,\"normalizer\":%s,\"pre_tokenizer\":%s,"
                  "\"post_processor\":%s,\"decoder\":%s,\"model\":{\"type\":\"BPE\",%s\"vocab\":{",
                  f->added ? f->added : "[]", f->normalizer ? f->normalizer : "null",
                  f->pre ? f->pre : "null", f->post ? f->post : "null",
                  f->decoder ? f->decoder : "null", f->options ? f->options : "");
    fixture_vocab(&b, f, m, n);
    tn_buf_puts(&b, "},\"merges\":[");
    fixture_merges(&b, m, n, f->pairs);
    tn_buf_puts(&b, "]}}");
    return tn_buf_take(&b);
}

/* NULL with the sentence in err when it does not open. */
static tn_tok *fixture_open(const fixture *f, tn_err *err)
{
    tn_tok *t = NULL;
    char *text = fixture_text(f);
    if (tn_tok_open_text(text, strlen(text), "tokenizer.json", 0, &t, err) != TN_OK)
        t = NULL;
    free(text);
    return t;
}

#endif
