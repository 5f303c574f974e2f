/* SPDX-License-Identifier: Apache-2.0 */
/* tokbytes.c - a tokenizer for a model that came without one: ids 0 .. 255 are bytes, every
 * other id is written "<id>". It is spelled as a tokenizer.json, so nothing else knows of it. */
#include "buf.h"
#include "tokenizer.h"

#define TEXT_MAX ((size_t)1 << 30)

/* The character that stands for a byte in byte-level vocabularies: itself where it can be seen,
 * else the next one from U+0100 on. */
static uint32_t character_of(uint32_t byte)
{
    uint32_t hidden = 0;
    for (uint32_t b = 0; b <= byte; b++) {
        bool seen = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        if (b == byte)
            return seen ? b : 256 + hidden;
        hidden += !seen;
    }
    return 0;
}

static void put_entry(tn_buf *out, uint32_t id)
{
    tn_buf_printf(out, id > 0 ? ",\"" : "\"");
    uint32_t c = id < 256 ? character_of(id) : 0;
    if (id >= 256)
        tn_buf_printf(out, "<%u>", id);
    else
        tn_buf_printf(out, "\\u%04x", c);
    tn_buf_printf(out, "\":%u", id);
}

tn_status tn_tok_open_bytes(uint32_t vocab, tn_tok **out, tn_err *err)
{
    tn_buf text;
    if (vocab < 256)
        return tn_fail(err, TN_DATA, "config.json: vocab_size: %u; expected at least 256 for a model "
                       "without a tokenizer.json, whose tokens are bytes", vocab);
    tn_buf_open(&text, TEXT_MAX);
    tn_buf_printf(&text, "{\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
                  "\"use_regex\":false},\"decoder\":{\"type\":\"ByteLevel\"},\"model\":"
                  "{\"type\":\"BPE\",\"merges\":[],\"vocab\":{");
    for (uint32_t id = 0; id < vocab; id++)
        put_entry(&text, id);
    tn_buf_printf(&text, "}}}");
    tn_status st = text.failed ? tn_fail(err, TN_NO_MEMORY, "no memory for a tokenizer of bytes")
                               : tn_tok_open_text(text.data, text.len, "tokenizer of bytes", vocab,
                                                  out, err);
    tn_buf_close(&text);
    return st;
}
