/* SPDX-License-Identifier: Apache-2.0 */
/* tinytok.c - a tokenizer of 261 tokens, written to a folder at run time. */
#include "tinytok.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "buf.h"

/* The character that byte-level BPE writes for a byte: printable ones stand for themselves,
 * the others follow from U+0100 on in their order. */
static unsigned spelled(unsigned byte)
{
    unsigned other = 256;
    for (unsigned b = 0; b < 256; b++) {
        bool plain = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        if (b == byte)
            return plain ? b : other;
        other += !plain;
    }
    return 0;
}

static void put_vocab(tn_buf *out)
{
    tn_buf one;
    tn_buf_open(&one, 16);
    for (unsigned b = 0; b < 256; b++) {
        tn_buf_reset(&one);
        tn_buf_put_utf8(&one, spelled(b));
        tn_buf_put_json(out, one.data, one.len);
        tn_buf_printf(out, ":%u,", b);
    }
    tn_buf_close(&one);
    tn_buf_puts(out, "\"ab\":256,\"abc\":257,\"\xc4\xa0x\":258");
}

static void put_added(tn_buf *out, int id, const char *text)
{
    tn_buf_printf(out, "{\"id\":%d,\"content\":\"%s\",\"single_word\":false,\"lstrip\":false,"
                  "\"rstrip\":false,\"normalized\":false,\"special\":true}", id, text);
}

static void put_tokenizer(tn_buf *out)
{
    tn_buf_puts(out, "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,"
                "\"added_tokens\":[");
    put_added(out, TINY_END, "<|end|>");
    tn_buf_putc(out, ',');
    put_added(out, TINY_START, "<|start|>");
    tn_buf_puts(out, "],\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"ByteLevel\","
                "\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true},"
                "\"post_processor\":null,\"decoder\":{\"type\":\"ByteLevel\","
                "\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":true},"
                "\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,"
                "\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,"
                "\"fuse_unk\":false,\"byte_fallback\":false,\"ignore_merges\":false,"
                "\"vocab\":{");
    put_vocab(out);
    tn_buf_puts(out, "},\"merges\":[\"a b\",\"ab c\",\"\xc4\xa0 x\"]}}");
}

static bool write_file(const char *path, const char *text, size_t size)
{
    FILE *f = fopen(path, "wb");
    if (f == NULL)
        return false;
    bool ok = fwrite(text, 1, size, f) == size;
    return fclose(f) == 0 && ok;
}

tn_tok *tiny_open(tn_err *err)
{
    static const char config[] = "{\"eos_token\":\"<|end|>\",\"bos_token\":null}";
    char dir[] = "/tmp/tinytok-XXXXXX", file[64], second[64];
    tn_tok *tok = NULL;
    tn_buf text;
    if (mkdtemp(dir) == NULL)
        return NULL;
    snprintf(file, sizeof file, "%s/tokenizer.json", dir);
    snprintf(second, sizeof second, "%s/tokenizer_config.json", dir);
    tn_buf_open(&text, 1 << 20);
    put_tokenizer(&text);
    if (!text.failed && write_file(file, text.data, text.len) &&
        write_file(second, config, sizeof config - 1) &&
        tn_tok_open(dir, TINY_VOCAB, &tok, err) != TN_OK)
        tok = NULL;
    tn_buf_close(&text);
    unlink(file);
    unlink(second);
    rmdir(dir);
    return tok;
}
