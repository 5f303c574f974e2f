/* SPDX-License-Identifier: Apache-2.0 */
/* siphash.c - SipHash-2-4 with 128 bits of output, over words or over bytes as they come. */
#include "siphash.h"

#include <string.h>

static uint64_t turn(uint64_t x, int n)
{
    return x << n | x >> (64 - n);
}

static void sip_round(tn_sip *s)
{
    s->a += s->b;
    s->b = turn(s->b, 13) ^ s->a;
    s->a = turn(s->a, 32);
    s->c += s->d;
    s->d = turn(s->d, 16) ^ s->c;
    s->a += s->d;
    s->d = turn(s->d, 21) ^ s->a;
    s->c += s->b;
    s->b = turn(s->b, 17) ^ s->c;
    s->c = turn(s->c, 32);
}

void tn_sip_open(tn_sip *s, const uint64_t secret[2])
{
    s->a = secret[0] ^ UINT64_C(0x736f6d6570736575);
    s->b = secret[1] ^ UINT64_C(0x646f72616e646f6d) ^ 0xee;
    s->c = secret[0] ^ UINT64_C(0x6c7967656e657261);
    s->d = secret[1] ^ UINT64_C(0x7465646279746573);
    s->size = 0;
    s->part = 0;
}

void tn_sip_word(tn_sip *s, uint64_t word)
{
    s->d ^= word;
    sip_round(s);
    sip_round(s);
    s->a ^= word;
}

/* The last word, and what comes out. */
static void finish(tn_sip *s, uint64_t word, uint64_t out[2])
{
    tn_sip_word(s, word);
    s->c ^= 0xee;
    for (int i = 0; i < 4; i++)
        sip_round(s);
    out[0] = s->a ^ s->b ^ s->c ^ s->d;
    s->b ^= 0xdd;
    for (int i = 0; i < 4; i++)
        sip_round(s);
    out[1] = s->a ^ s->b ^ s->c ^ s->d;
}

void tn_sip_close(tn_sip *s, uint64_t size, uint64_t out[2])
{
    finish(s, size << 56, out);
}

static void put_byte(tn_sip *s, uint8_t byte)
{
    s->part |= (uint64_t)byte << s->size % 8 * 8;
    if (++s->size % 8 == 0) {
        tn_sip_word(s, s->part);
        s->part = 0;
    }
}

void tn_sip_put(tn_sip *s, const void *data, uint64_t size)
{
    const uint8_t *at = data, *end = at + size;
    while (at < end && s->size % 8 != 0)
        put_byte(s, *at++);
    for (; end - at >= 8; at += 8) {
        uint64_t word = 0;
        for (int i = 0; i < 8; i++)
            word |= (uint64_t)at[i] << 8 * i;
        tn_sip_word(s, word);
        s->size += 8;
    }
    while (at < end)
        put_byte(s, *at++);
}

void tn_sip_done(tn_sip *s, uint64_t out[2])
{
    finish(s, s->size << 56 | s->part, out);
}
