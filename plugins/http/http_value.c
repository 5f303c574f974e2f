/* SPDX-License-Identifier: Apache-2.0 */
/* http_value.c - one JSON value, byte by byte: checked as it comes and written out anew. */
#include "http_value.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEYS_SIZE_MAX ((size_t)4 << 20)

/*           {            "key"          :          value            , or }
 *   VALUE ----> KEY_0 -----------> COLON ---> VALUE ------> AFTER ---------> ... DONE
 *     | [
 *     +---> VALUE_0  (an item or the end) */
enum {
    VALUE,    /* a value must begin */
    VALUE_0,  /* a value, or the end of an empty list */
    KEY,      /* a key must begin */
    KEY_0,    /* a key, or the end of an empty object */
    COLON,
    AFTER,    /* a comma or the end of the container */
    STRING,
    ESCAPE,   /* behind a backslash */
    UNICODE,  /* the digits of \u */
    LOW,      /* behind a high surrogate: the backslash of the low one */
    LOW_U,    /* and its u */
    WORD,     /* a number, true, false or null */
    DONE,
    BAD,
};

void http_value_open(http_value *v, uint32_t depth_max)
{
    *v = (http_value){.state = VALUE, .depth_max = depth_max};
    http_text_open(&v->keys, KEYS_SIZE_MAX);
}

void http_value_close(http_value *v)
{
    http_text_close(&v->keys);
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

/* ------------------------------------------------------------------------------- strings */

static void put_byte(unsigned char c, http_text *out)
{
    static const char brief[] = "\"\\\b\f\n\r\t", letter[] = "\"\\bfnrt";
    const char *at = c != 0 ? strchr(brief, c) : NULL;
    char esc[3] = {'\\', 0, 0};
    if (at != NULL) {
        esc[1] = letter[at - brief];
        http_text_put(out, esc, 2);
    } else if (c < 0x20) {
        http_text_printf(out, "\\u%04x", c);
    } else {
        http_text_put(out, &c, 1);
    }
}

void http_value_escape(const char *text, size_t size, http_text *out)
{
    for (size_t i = 0; i < size; i++)
        put_byte((unsigned char)text[i], out);
}

static void put_code(uint32_t c, http_text *out)
{
    char b[4];
    size_t n = 0;
    if (c < 0x80) {
        put_byte((unsigned char)c, out);
        return;
    }
    if (c >= 0x10000)
        b[n++] = (char)(0xF0 | c >> 18);
    if (c >= 0x800)
        b[n++] = (char)(c >= 0x10000 ? 0x80 | (c >> 12 & 63) : 0xE0 | c >> 12);
    b[n] = (char)(c >= 0x800 ? 0x80 | (c >> 6 & 63) : 0xC0 | c >> 6);
    b[n + 1] = (char)(0x80 | (c & 63));
    http_text_put(out, b, n + 2);
}

static uint32_t key_size_at(const http_value *v, size_t at)
{
    uint32_t size;
    memcpy(&size, v->keys.data + at, sizeof size);
    return size;
}

/* Remembers the key that has just been written out; false when its object has it already. */
static bool take_key(http_value *v, const http_text *out)
{
    const char *key = out->data + v->string_at + 1;
    uint32_t size = (uint32_t)(out->len - v->string_at - 2);
    for (size_t at = v->level_at[v->depth]; at < v->keys.len;) {
        uint32_t n = key_size_at(v, at);
        if (n == size && memcmp(v->keys.data + at + sizeof n, key, n) == 0)
            return false;
        at += sizeof n + n;
    }
    http_text_put(&v->keys, &size, sizeof size);
    http_text_put(&v->keys, key, size);
    return !v->keys.failed && ++v->level_keys[v->depth] <= HTTP_VALUE_KEYS;
}

const char *http_value_key(const http_value *v, size_t *size)
{
    const char *key = "";
    *size = 0;
    for (size_t at = v->level_at[v->depth]; at < v->keys.len;) {
        *size = key_size_at(v, at);
        key = v->keys.data + at + sizeof(uint32_t);
        at += sizeof(uint32_t) + *size;
    }
    return key;
}

static uint32_t end_value(http_value *v)
{
    v->state = v->depth == 0 ? DONE : AFTER;
    return v->state;
}

static uint32_t in_string(http_value *v, char c, http_text *out)
{
    if (c == '\\')
        return v->state = ESCAPE;
    if (c != '"') {
        put_byte((unsigned char)c, out);
        return STRING;
    }
    http_text_put(out, "\"", 1);
    if (!v->key)
        return end_value(v);
    if (out->failed || !take_key(v, out))
        return v->state = BAD;
    return v->state = COLON;
}

static uint32_t in_escape(http_value *v, char c, http_text *out)
{
    static const char letter[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
    const char *at = c != 0 ? strchr(letter, c) : NULL;
    if (c == 'u') {
        v->code = v->digits = 0;
        return v->state = UNICODE;
    }
    if (at == NULL)
        return v->state = BAD;
    put_byte((unsigned char)meant[at - letter], out);
    return v->state = STRING;
}

/* The fourth digit is in: a character, or half of one. */
static uint32_t end_unicode(http_value *v, http_text *out)
{
    bool high = v->code >= 0xD800 && v->code < 0xDC00, low = v->code >= 0xDC00 && v->code < 0xE000;
    if (low != (v->high != 0))
        return v->state = BAD;
    if (high) {
        v->high = v->code;
        return v->state = LOW;
    }
    put_code(low ? 0x10000 + ((v->high - 0xD800) << 10) + (v->code - 0xDC00) : v->code, out);
    v->high = 0;
    return v->state = STRING;
}

static uint32_t in_unicode(http_value *v, char c, http_text *out)
{
    uint32_t d = c >= '0' && c <= '9'   ? (uint32_t)(c - '0')
                 : c >= 'a' && c <= 'f' ? (uint32_t)(c - 'a' + 10)
                 : c >= 'A' && c <= 'F' ? (uint32_t)(c - 'A' + 10)
                                        : 16;
    if (d == 16)
        return v->state = BAD;
    v->code = v->code * 16 + d;
    return ++v->digits == 4 ? end_unicode(v, out) : UNICODE;
}

/* --------------------------------------------------------------------- numbers and names */

static const char *skip_digits(const char *p)
{
    while (*p >= '0' && *p <= '9')
        p++;
    return p;
}

static bool is_number(const char *p)
{
    const char *first = *p == '-' ? p + 1 : p, *at = skip_digits(first);
    if (at == first || (*first == '0' && at > first + 1))
        return false;
    if (*at == '.') {
        const char *from = at + 1;
        at = skip_digits(from);
        if (at == from)
            return false;
    }
    if (*at == 'e' || *at == 'E') {
        const char *from = at + 1 + (at[1] == '+' || at[1] == '-');
        at = skip_digits(from);
        if (at == from)
            return false;
    }
    return *at == 0 && isfinite(strtod(p, NULL)); /* a fraction cut by a locale stays finite */
}

/* The word has ended: out with it. */
static uint32_t end_word(http_value *v, http_text *out)
{
    v->word[v->word_size] = 0;
    if (strcmp(v->word, "true") != 0 && strcmp(v->word, "false") != 0 &&
        strcmp(v->word, "null") != 0 && !is_number(v->word))
        return v->state = BAD;
    http_text_put(out, v->word, v->word_size);
    return end_value(v);
}

static bool is_word(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || c == 'E' || c == '-' || c == '+' ||
           c == '.';
}

/* ----------------------------------------------------------------------------- structure */

static uint32_t open_level(http_value *v, char c, http_text *out)
{
    if (v->depth == v->depth_max)
        return v->state = BAD;
    v->depth++;
    v->open[v->depth - 1] = c;
    v->level_at[v->depth] = v->keys.len;
    v->level_keys[v->depth] = 0;
    http_text_put(out, &c, 1);
    return v->state = c == '{' ? KEY_0 : VALUE_0;
}

static uint32_t close_level(http_value *v, char c, http_text *out)
{
    if (v->open[v->depth - 1] != (c == '}' ? '{' : '['))
        return v->state = BAD;
    http_text_put(out, &c, 1);
    v->keys.len = v->level_at[v->depth];
    v->depth--;
    return end_value(v);
}

static uint32_t begin_string(http_value *v, bool key, http_text *out)
{
    v->key = key;
    v->high = 0;
    v->string_at = out->len;
    http_text_put(out, "\"", 1);
    return v->state = STRING;
}

static uint32_t begin_value(http_value *v, char c, http_text *out)
{
    if (c == '{' || c == '[')
        return open_level(v, c, out);
    if (c == '"')
        return begin_string(v, false, out);
    if (c == ']' && v->state == VALUE_0)
        return close_level(v, c, out);
    if (!is_word(c))
        return v->state = BAD;
    v->word[0] = c;
    v->word_size = 1;
    return v->state = WORD;
}

static uint32_t begin_key(http_value *v, char c, http_text *out)
{
    if (c == '"')
        return begin_string(v, true, out);
    if (c == '}' && v->state == KEY_0)
        return close_level(v, c, out);
    return v->state = BAD;
}

static uint32_t after_value(http_value *v, char c, http_text *out)
{
    if (c != ',')
        return c == '}' || c == ']' ? close_level(v, c, out) : (v->state = BAD);
    http_text_put(out, ", ", 2);
    return v->state = v->open[v->depth - 1] == '{' ? KEY : VALUE;
}

static uint32_t after_key(http_value *v, char c, http_text *out)
{
    if (c != ':')
        return v->state = BAD;
    http_text_put(out, ": ", 2);
    return v->state = VALUE;
}

static uint32_t in_word(http_value *v, char c, http_text *out)
{
    if (is_word(c)) {
        if (v->word_size == HTTP_VALUE_NUMBER)
            return v->state = BAD;
        v->word[v->word_size++] = c;
        return WORD;
    }
    if (end_word(v, out) == BAD || is_blank(c))
        return v->state;
    return v->depth > 0 ? after_value(v, c, out) : (v->state = BAD);
}

static uint32_t step(http_value *v, char c, http_text *out)
{
    bool text = v->state >= STRING && v->state <= WORD;
    if (!text && is_blank(c))
        return v->state;
    switch (v->state) {
    case VALUE:
    case VALUE_0: return begin_value(v, c, out);
    case KEY:
    case KEY_0: return begin_key(v, c, out);
    case COLON: return after_key(v, c, out);
    case AFTER: return after_value(v, c, out);
    case STRING: return in_string(v, c, out);
    case ESCAPE: return in_escape(v, c, out);
    case UNICODE: return in_unicode(v, c, out);
    case LOW: return v->state = c == '\\' ? LOW_U : BAD;
    case LOW_U: v->code = v->digits = 0; return v->state = c == 'u' ? UNICODE : BAD;
    case WORD: return in_word(v, c, out);
    default: return v->state = BAD;
    }
}

static uint32_t verdict(uint32_t state)
{
    return state == DONE ? HTTP_VALUE_DONE : state == BAD ? HTTP_VALUE_BAD : HTTP_VALUE_MORE;
}

uint32_t http_value_put(http_value *v, char byte, http_text *out)
{
    return verdict(step(v, byte, out));
}

uint32_t http_value_end(http_value *v, http_text *out)
{
    if (v->state == WORD && v->depth == 0)
        end_word(v, out);
    return v->state == DONE ? HTTP_VALUE_DONE : HTTP_VALUE_BAD;
}

bool http_value_is_due(const http_value *v)
{
    return v->state == VALUE;
}

bool http_value_has_ended(const http_value *v)
{
    return v->state == AFTER;
}

bool http_value_text(const char *text, size_t size, uint32_t depth_max, http_text *out)
{
    http_value v;
    size_t was = out->len;
    http_value_open(&v, depth_max);
    uint32_t how = HTTP_VALUE_MORE;
    for (size_t i = 0; i < size && how != HTTP_VALUE_BAD; i++)
        how = http_value_put(&v, text[i], out);
    how = http_value_end(&v, out);
    http_value_close(&v);
    if (how != HTTP_VALUE_DONE && !out->failed)
        out->len = was;
    return how == HTTP_VALUE_DONE;
}
