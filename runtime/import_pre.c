/* SPDX-License-Identifier: Apache-2.0 */
/* import_pre.c - the ways to cut text that GGUF files name by tokenizer.ggml.pre.
 *
 * The expressions are the data of published tokenizers. Characters beyond ASCII are written as
 * code points: some of them would not survive a tool that normalises what it saves. */
#include "import_vocab.h"

#include "buf.h"

#include <string.h>

static const char cut_llama3[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|"
    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
static const char cut_qwen2[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|"
    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
static const char cut_qwen35[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}|"
    " ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
static const char cut_tekken[] =
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|"
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|"
    "\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
static const char cut_gpt4o[] =
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+("
    "?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*("
    "?i:'s|'t|'re|'ve|'m|'ll|'d)?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|"
    "\\s+(?!\\S)|\\s+";
static const char cut_seed[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1}|"
    " ?[^\\s\\p{L}\\p{N}\r\n]+|\\s*[\r\n]+|\\s+(?!\\S)|\\s+";
static const char cut_dsv3[] =
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|"
    "[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|"
    "\\s+(?!\\S)|\\s+";

/* Cased letters, as deepseek-llm lists them. */
static const char cut_cased[] =
    "\\s?["
    "A-Za-z\u00B5\u00C0-\u00D6\u00D8-\u00F6\u00F8-\u01BA\u01BC-\u01BF\u01C4-\u0293\u0295-"
    "\u02AF\u0370-\u0373\u0376\u0377\u037B-\u037D\u037F\u0386\u0388-\u038A\u038C\u038E-"
    "\u03A1\u03A3-\u03F5\u03F7-\u0481\u048A-\u052F\u0531-\u0556\u10A0-\u10C5\u13A0-\u13F5"
    "\u13F8-\u13FD\u1C90-\u1CBA\u1CBD-\u1CBF\u1D00-\u1D2B\u1D6B-\u1D77\u1D79-\u1D9A\u1E00-"
    "\u1F15\u1F18-\u1F1D\u1F20-\u1F45\u1F48-\u1F4D\u1F50-\u1F57\u1F59\u1F5B\u1F5D\u1F5F-"
    "\u1F7D\u1F80-\u1FB4\u1FB6-\u1FBC\u1FBE\u1FC2-\u1FC4\u1FC6-\u1FCC\u1FD0-\u1FD3\u1FD6-"
    "\u1FDB\u1FE0-\u1FEC\u1FF2-\u1FF4\u1FF6-\u1FFC\u2102\u2107\u210A-\u2113\u2115\u2119-"
    "\u211D\u2124\u2126\u2128\u212A-\u212D\u212F-\u2134\u2139\u213C-\u213F\u2145-\u2149"
    "\u214E\u2183\u2184\u2C00-\u2C7B\u2C7E-\u2CE4\u2CEB-\u2CEE\u2CF2\u2CF3\uA640-\uA66D"
    "\uA680-\uA69B\uA722-\uA76F\uA771-\uA787\uA78B-\uA78E\uAB70-\uABBF\uFB00-\uFB06\uFB13-"
    "\uFB17\uFF21-\uFF3A\uFF41-\uFF5A\U00010400-\U0001044F\U000104B0-\U000104D3\U000104D8-"
    "\U000104FB\U00010C80-\U00010CB2\U00010CC0-\U00010CF2\U000118A0-\U000118DF\U0001E900-"
    "\U0001E943"
    "]+";
static const char cut_marks[] =
    "\\s?[!-/:-~\uFF01-\uFF0F\uFF1A-\uFF5E\u2018-\u201F\u3000-\u3002]+";
static const char cut_cjk[] =
    "[\u4E00-\u9FA5\u0800-\u4E00\uAC00-\uD7FF]+";
static const char cut_kana[] =
    "[\u4E00-\u9FA5\u3040-\u309F\u30A0-\u30FF]+";

static const tn_import_pre pres[] = {
    {.name = {"gpt-2", "default", "phi-2", "gigachat", "a.x-4.0", "mellum", "exaone4", "trillion"},
     .gpt2 = true},
    {.name = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"},
     .digits_first = true, .gpt2 = true},
    {.name = {"llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "midm-2.0"},
     .split = {cut_llama3}, .ignore_merges = true, .add_bos = true},
    {.name = {"smaug-bpe", "dbrx", "glm4", "chatglm-bpe"}, .split = {cut_llama3}},
    {.name = {"qwen2"}, .split = {cut_qwen2}, .nfc = true},
    {.name = {"deepseek-r1-qwen", "megrez", "stablelm2", "hunyuan", "kormo"},
     .split = {cut_qwen2}},
    {.name = {"qwen35"}, .split = {cut_qwen35}, .nfc = true},
    {.name = {"tekken"}, .split = {cut_tekken}, .ignore_merges = true, .add_bos = true},
    {.name = {"gpt-4o", "llama4"}, .split = {cut_gpt4o}},
    {.name = {"seed-coder"}, .split = {cut_seed}},
    {.name = {"deepseek-llm"},
     .split = {"[\r\n]", cut_cased, cut_marks, "\\s+$", cut_cjk}, .digits_last = true},
    {.name = {"deepseek-coder"}, .split = {"[\r\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", cut_cjk},
     .digits_last = true},
    {.name = {"deepseek-v3", "hunyuan-dense"},
     .split = {"\\p{N}{1,3}", cut_kana, cut_dsv3}},
};
#define NPRE (sizeof pres / sizeof pres[0])

const tn_import_pre *tn_import_pre_find(const char *name, uint64_t size)
{
    for (size_t i = 0; i < NPRE; i++)
        for (size_t j = 0; pres[i].name[j] != NULL; j++)
            if (strlen(pres[i].name[j]) == size && memcmp(pres[i].name[j], name, (size_t)size) == 0)
                return &pres[i];
    return NULL;
}

void tn_import_pre_list(tn_buf *out)
{
    for (size_t i = 0; i < NPRE; i++)
        for (size_t j = 0; pres[i].name[j] != NULL; j++)
            tn_buf_printf(out, "%s%s", i + j > 0 ? ", " : "", pres[i].name[j]);
}
