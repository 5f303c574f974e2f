/* SPDX-License-Identifier: Apache-2.0 */
/* import_tokenizer.c - tokenizer.json and its companions from a vocabulary.
 *
 * Tokens that GGUF calls control become special added tokens, user-defined ones added tokens
 * that are not special; both stay in the vocabulary under their ids. */
#include "import_vocab.h"

#include "buf.h"
#include "quote.h"
#include "utf8seq.h"

#include <stdlib.h>
#include <string.h>

static void put_text(tn_buf *b, const char *text)
{
    tn_buf_put_json(b, text, strlen(text));
}

static void put_token(const tn_import_vocab *v, int64_t id, tn_buf *b)
{
    tn_buf_put_json(b, v->token[id].text, (size_t)v->token[id].size);
}

static bool has_token(const tn_import_vocab *v, int64_t id)
{
    return id != TN_IMPORT_NO_ID && (uint64_t)id < v->listed;
}

static bool is_special(const tn_import_vocab *v, uint64_t i)
{
    return v->type[i] == TN_TOKEN_CONTROL || v->type[i] == TN_TOKEN_UNKNOWN;
}

static bool is_added(const tn_import_vocab *v, uint64_t i)
{
    return is_special(v, i) || v->type[i] == TN_TOKEN_USER;
}

/* ------------------------------------------------------------------------- tokenizer.json */

static void put_added(const tn_import_vocab *v, tn_buf *b)
{
    bool first = true;
    tn_buf_puts(b, "  \"added_tokens\": [");
    for (uint64_t i = 0; i < v->listed; i++) {
        if (!is_added(v, i))
            continue;
        tn_buf_printf(b, "%s\n    {\"id\": %llu, \"content\": ", first ? "" : ",",
                      (unsigned long long)i);
        put_token(v, (int64_t)i, b);
        tn_buf_printf(b, ", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, "
                      "\"normalized\": false, \"special\": %s}",
                      is_special(v, i) ? "true" : "false");
        first = false;
    }
    tn_buf_puts(b, first ? "],\n" : "\n  ],\n");
}

static void put_normalizer(const tn_import_vocab *v, tn_buf *b)
{
    tn_buf_puts(b, "  \"normalizer\": ");
    if (v->pre != NULL) {
        tn_buf_puts(b, v->pre->nfc ? "{\"type\": \"NFC\"},\n" : "null,\n");
        return;
    }
    tn_buf_puts(b, "{\"type\": \"Sequence\", \"normalizers\": [");
    if (v->add_space)
        tn_buf_puts(b, "{\"type\": \"Prepend\", \"prepend\": \"\u2581\"}, ");
    tn_buf_puts(b, "{\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, "
                "\"content\": \"\u2581\"}]},\n");
}

static void put_byte_level(tn_buf *b, bool use_regex)
{
    tn_buf_printf(b, "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, "
                  "\"trim_offsets\": true, \"use_regex\": %s}", use_regex ? "true" : "false");
}

static void put_pre(const tn_import_vocab *v, tn_buf *b)
{
    static const char digits[] = "\n    {\"type\": \"Digits\", \"individual_digits\": true},";
    tn_buf_puts(b, "  \"pre_tokenizer\": ");
    if (v->pre == NULL) {
        tn_buf_puts(b, "null,\n");
        return;
    }
    tn_buf_puts(b, "{\"type\": \"Sequence\", \"pretokenizers\": [");
    if (v->pre->digits_first)
        tn_buf_puts(b, digits);
    for (uint32_t i = 0; i < TN_PRE_SPLITS && v->pre->split[i] != NULL; i++) {
        tn_buf_puts(b, "\n    {\"type\": \"Split\", \"pattern\": {\"Regex\": ");
        put_text(b, v->pre->split[i]);
        tn_buf_puts(b, "}, \"behavior\": \"Isolated\", \"invert\": false},");
    }
    if (v->pre->digits_last)
        tn_buf_puts(b, digits);
    tn_buf_puts(b, "\n    ");
    put_byte_level(b, v->pre->gpt2);
    tn_buf_puts(b, "\n  ]},\n");
}

/* BOS before a text and EOS behind it, where the model wants them. */
static void put_template(const tn_import_model *m, const tn_import_vocab *v, tn_buf *b)
{
    static const char ids[2] = {'A', 'B'};
    tn_buf_puts(b, "{\"type\": \"TemplateProcessing\"");
    for (int pair = 0; pair < 2; pair++) {
        tn_buf_printf(b, ", \"%s\": [", pair == 0 ? "single" : "pair");
        for (int part = 0; part <= pair; part++) {
            const char *sep = part > 0 ? ", " : "";
            if (v->add_bos) {
                tn_buf_printf(b, "%s{\"SpecialToken\": {\"id\": ", sep);
                put_token(v, m->bos, b);
                tn_buf_printf(b, ", \"type_id\": %d}}", part);
                sep = ", ";
            }
            tn_buf_printf(b, "%s{\"Sequence\": {\"id\": \"%c\", \"type_id\": %d}}", sep,
                          ids[part], part);
            if (v->add_eos) {
                tn_buf_puts(b, ", {\"SpecialToken\": {\"id\": ");
                put_token(v, m->eos, b);
                tn_buf_printf(b, ", \"type_id\": %d}}", part);
            }
        }
        tn_buf_putc(b, ']');
    }
    tn_buf_puts(b, ", \"special_tokens\": {");
    const int64_t used[2] = {v->add_bos ? m->bos : m->eos, m->eos};
    int n = v->add_bos && v->add_eos && m->bos != m->eos ? 2 : 1;
    for (int i = 0; i < n; i++) {
        tn_buf_puts(b, i > 0 ? ", " : "");
        put_token(v, used[i], b);
        tn_buf_puts(b, ": {\"id\": ");
        put_token(v, used[i], b);
        tn_buf_printf(b, ", \"ids\": [%lld], \"tokens\": [", (long long)used[i]);
        put_token(v, used[i], b);
        tn_buf_puts(b, "]}");
    }
    tn_buf_puts(b, "}}");
}

static void put_post(const tn_import_model *m, const tn_import_vocab *v, tn_buf *b)
{
    tn_buf_puts(b, "  \"post_processor\": ");
    if (v->add_bos || v->add_eos)
        put_template(m, v, b);
    else
        tn_buf_puts(b, "null");
    tn_buf_puts(b, ",\n");
}

static void put_decoder(const tn_import_vocab *v, tn_buf *b)
{
    tn_buf_puts(b, "  \"decoder\": ");
    if (v->pre != NULL) {
        tn_buf_puts(b, "{\"type\": \"ByteLevel\", \"add_prefix_space\": true, "
                    "\"trim_offsets\": true, \"use_regex\": true},\n");
        return;
    }
    tn_buf_puts(b, "{\"type\": \"Sequence\", \"decoders\": [{\"type\": \"Replace\", \"pattern\": "
                "{\"String\": \"\u2581\"}, \"content\": \" \"}, {\"type\": \"ByteFallback\"}, "
                "{\"type\": \"Fuse\"}");
    if (v->add_space)
        tn_buf_puts(b, ", {\"type\": \"Strip\", \"content\": \" \", \"start\": 1, \"stop\": 0}");
    tn_buf_puts(b, "]},\n");
}

static void put_model(const tn_import_vocab *v, tn_buf *b)
{
    bool sentence = v->pre == NULL;
    tn_buf_puts(b, "  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n"
                "    \"unk_token\": ");
    if (sentence && has_token(v, v->unk))
        put_token(v, v->unk, b);
    else
        tn_buf_puts(b, "null");
    tn_buf_printf(b, ",\n    \"continuing_subword_prefix\": null,\n"
                  "    \"end_of_word_suffix\": null,\n    \"fuse_unk\": %s,\n"
                  "    \"byte_fallback\": %s,\n    \"ignore_merges\": %s,\n    \"vocab\": {",
                  sentence ? "true" : "false", v->byte_fallback ? "true" : "false",
                  !sentence && v->pre->ignore_merges ? "true" : "false");
    for (uint64_t i = 0; i < v->listed; i++) {
        tn_buf_puts(b, i > 0 ? ",\n      " : "\n      ");
        put_token(v, (int64_t)i, b);
        tn_buf_printf(b, ": %llu", (unsigned long long)i);
    }
    tn_buf_puts(b, "\n    },\n    \"merges\": [");
    for (uint64_t i = 0; i < v->nmerge; i++) {
        tn_buf_puts(b, i > 0 ? ",\n      [" : "\n      [");
        put_token(v, v->merge[i].left, b);
        tn_buf_puts(b, ", ");
        put_token(v, v->merge[i].right, b);
        tn_buf_putc(b, ']');
    }
    tn_buf_puts(b, "\n    ]\n  }\n}\n");
}

tn_status tn_import_tokenizer(const tn_import_model *m, const tn_import_vocab *v, tn_buf *out,
                              tn_err *err)
{
    for (uint64_t i = 0; i < v->nmerge; i++)
        if (v->merge[i].left >= v->listed || v->merge[i].right >= v->listed ||
            v->merge[i].made >= v->listed)
            return tn_fail(err, TN_DATA, "%s: merge %llu makes or uses an unused token; expected "
                           "tokens in use", tn_gguf_path(m->g), (unsigned long long)i);
    tn_buf_puts(out, "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n"
                "  \"padding\": null,\n");
    put_added(v, out);
    put_normalizer(v, out);
    put_pre(v, out);
    put_post(m, v, out);
    put_decoder(v, out);
    put_model(v, out);
    return TN_OK;
}

/* ------------------------------------------------------------------------- the companions */

/* The named tokens, a line each; `more`: others follow in the object. */
static void put_names(const tn_import_model *m, const tn_import_vocab *v, bool more, tn_buf *b)
{
    const struct {
        const char *name;
        int64_t id;
    } named[] = {{"bos_token", m->bos}, {"eos_token", m->eos}, {"unk_token", v->unk},
                 {"pad_token", m->pad}};
    bool first = true;
    for (size_t i = 0; i < sizeof named / sizeof named[0]; i++) {
        if (!has_token(v, named[i].id))
            continue;
        tn_buf_printf(b, "%s  \"%s\": ", first ? "" : ",\n", named[i].name);
        put_token(v, named[i].id, b);
        first = false;
    }
    tn_buf_puts(b, first ? "" : more ? ",\n" : "\n");
}

void tn_import_special_map(const tn_import_model *m, const tn_import_vocab *v, tn_buf *out)
{
    tn_buf_puts(out, "{\n");
    put_names(m, v, false, out);
    tn_buf_puts(out, "}\n");
}

/* A model with several templates has the plain one and tokenizer.chat_template.NAME for each
 * name in tokenizer.chat_templates. Only then the config carries them; else the plain one is a
 * file of its own. */
static tn_status put_template_named(const tn_import_model *m, const tn_gguf_text *name, bool first,
                                    tn_buf *b, tn_err *err)
{
    char key[128];
    tn_gguf_text text = {0};
    tn_quoted q;
    snprintf(key, sizeof key, "tokenizer.chat_template%s%.*s", name->size > 0 ? "." : "",
             name->size < 64 ? (int)name->size : 64, name->text);
    tn_status st = tn_gguf_get_text(m->g, key, &text, err);
    if (st != TN_OK)
        return st;
    if (text.text == NULL || name->size > 64 || !tn_is_utf8(name->text, (size_t)name->size) ||
        !tn_is_utf8(text.text, (size_t)text.size))
        return tn_fail(err, TN_DATA, "%s: chat template %s is missing or no UTF-8; expected it "
                       "under \"tokenizer.chat_template.NAME\"", tn_gguf_path(m->g),
                       tn_quote(&q, name->text, (size_t)name->size));
    tn_buf_printf(b, "%s\n    {\"name\": ", first ? "" : ",");
    if (name->size > 0)
        tn_buf_put_json(b, name->text, (size_t)name->size);
    else
        put_text(b, "default");
    tn_buf_puts(b, ", \"template\": ");
    tn_buf_put_json(b, text.text, (size_t)text.size);
    tn_buf_putc(b, '}');
    return TN_OK;
}

static tn_status put_templates(const tn_import_model *m, tn_buf *b, tn_err *err)
{
    const tn_gguf_kv *names = tn_gguf_find(m->g, "tokenizer.chat_templates");
    const tn_gguf_text plain = {.text = "", .size = 0};
    tn_gguf_text *name = NULL;
    bool first = true;
    if (names == NULL || names->count == 0)
        return TN_OK;
    tn_status st = tn_gguf_texts(m->g, names, &name, err);
    if (st != TN_OK)
        return st;
    tn_buf_puts(b, ",\n  \"chat_template\": [");
    if (tn_gguf_find(m->g, "tokenizer.chat_template") != NULL) {
        st = put_template_named(m, &plain, first, b, err);
        first = false;
    }
    for (uint64_t i = 0; i < names->count && st == TN_OK; i++) {
        st = name[i].size > 0 ? put_template_named(m, &name[i], first, b, err) : TN_OK;
        first = first && name[i].size == 0;
    }
    tn_buf_puts(b, "\n  ]");
    free(name);
    return st;
}

/* tokenizer_class: the names of particular tokenizers make some readers build the cutting of
 * text themselves and ignore tokenizer.json's; this one does not. */
tn_status tn_import_tokenizer_config(const tn_import_model *m, const tn_import_vocab *v,
                                     tn_buf *out, tn_err *err)
{
    bool first = true;
    tn_buf_puts(out, "{\n");
    put_names(m, v, true, out);
    tn_buf_printf(out, "  \"add_bos_token\": %s,\n  \"add_eos_token\": %s,\n"
                  "  \"add_prefix_space\": %s,\n  \"added_tokens_decoder\": {",
                  v->add_bos ? "true" : "false", v->add_eos ? "true" : "false",
                  v->pre == NULL && v->add_space ? "true" : "false");
    for (uint64_t i = 0; i < v->listed; i++) {
        if (!is_added(v, i))
            continue;
        tn_buf_printf(out, "%s\n    \"%llu\": {\"content\": ", first ? "" : ",",
                      (unsigned long long)i);
        put_token(v, (int64_t)i, out);
        tn_buf_printf(out, ", \"lstrip\": false, \"normalized\": false, \"rstrip\": false, "
                      "\"single_word\": false, \"special\": %s}",
                      is_special(v, i) ? "true" : "false");
        first = false;
    }
    tn_buf_printf(out, "%s},\n  \"clean_up_tokenization_spaces\": false,\n"
                  "  \"model_max_length\": %llu,\n"
                  "  \"tokenizer_class\": \"PreTrainedTokenizerFast\"", first ? "" : "\n  ",
                  (unsigned long long)m->context);
    tn_status st = put_templates(m, out, err);
    tn_buf_puts(out, "\n}\n");
    return st;
}
