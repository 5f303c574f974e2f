/* SPDX-License-Identifier: Apache-2.0 */
/* http_guard.c - who may ask: keys, hosts, origins; and what MHD lets pass but we do not. */
#include "http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#define KEYS_MAX 1024u
#define KEY_FILE_MAX 65536u

/* Of names that outlive the process; what it guards lies beside the keys themselves. */
static const uint64_t owner_key[2] = {0x73656e77656e6f6bu, 0x6576696c74756f6eu};

static uint64_t rotl(uint64_t x, int b)
{
    return x << b | x >> (64 - b);
}

static void sip_round(uint64_t v[4])
{
    v[0] += v[1]; v[1] = rotl(v[1], 13); v[1] ^= v[0]; v[0] = rotl(v[0], 32);
    v[2] += v[3]; v[3] = rotl(v[3], 16); v[3] ^= v[2];
    v[0] += v[3]; v[3] = rotl(v[3], 21); v[3] ^= v[0];
    v[2] += v[1]; v[1] = rotl(v[1], 17); v[1] ^= v[2]; v[2] = rotl(v[2], 32);
}

/* SipHash-2-4 (Aumasson, Bernstein 2012) with `tweak` in the key, so that two tweaks give 128
 * bits. Comparing these hashes instead of keys tells a stranger nothing by its time. */
static uint64_t sip_hash(const uint64_t key[2], uint64_t tweak, const char *text, size_t n)
{
    uint64_t k0 = key[0] ^ tweak, k1 = key[1] + tweak;
    uint64_t v[4] = {k0 ^ 0x736f6d6570736575u, k1 ^ 0x646f72616e646f6du,
                     k0 ^ 0x6c7967656e657261u, k1 ^ 0x7465646279746573u};
    for (size_t i = 0; i <= n / 8; i++) {
        uint64_t m = 0;
        size_t left = n - i * 8;
        if (left >= 8)
            memcpy(&m, text + i * 8, 8);
        else {
            memcpy(&m, text + i * 8, left);
            m |= (uint64_t)n << 56;
        }
        v[3] ^= m;
        sip_round(v);
        sip_round(v);
        v[0] ^= m;
    }
    v[2] ^= 0xff;
    for (int i = 0; i < 4; i++)
        sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

static tn_status add_key(http_server *s, const char *text, size_t n, tn_err *err)
{
    if (n == 0)
        return TN_OK;
    if (s->nkey == KEYS_MAX)
        return tn_fail(err, TN_CONFIG, "http: api_key: more than %u keys", KEYS_MAX);
    http_key *bigger = realloc(s->key, (s->nkey + 1) * sizeof *s->key);
    if (bigger == NULL)
        return tn_fail(err, TN_NO_MEMORY, "http: no memory for the keys");
    s->key = bigger;
    http_key *k = &s->key[s->nkey++];
    k->hash[0] = sip_hash(s->hash_key, 0, text, n);
    k->hash[1] = sip_hash(s->hash_key, 1, text, n);
    snprintf(k->salt, sizeof k->salt, "%016llx%016llx",
             (unsigned long long)sip_hash(s->hash_key, 2, text, n),
             (unsigned long long)sip_hash(s->hash_key, 3, text, n));
    snprintf(k->owner, sizeof k->owner, "%016llx%016llx",
             (unsigned long long)sip_hash(owner_key, 0, text, n),
             (unsigned long long)sip_hash(owner_key, 1, text, n));
    return TN_OK;
}

/* One key a line. A file that others may read is no secret and is refused. */
static tn_status read_key_file(http_server *s, const char *path, tn_err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) != 0) {
        int e = errno;
        if (fd >= 0)
            close(fd);
        return tn_fail(err, e == ENOENT ? TN_NOINPUT : TN_NOPERM, "http: api_key_file %s: %s",
                       path, strerror(e));
    }
    char *text = NULL;
    ssize_t n = -1;
    tn_status result = TN_OK;
    if (!S_ISREG(st.st_mode) || st.st_size > (off_t)KEY_FILE_MAX)
        result = tn_fail(err, TN_CONFIG, "http: api_key_file %s: not a file of at most %u bytes",
                         path, KEY_FILE_MAX);
    else if (st.st_mode & 077)
        result = tn_fail(err, TN_NOPERM, "http: api_key_file %s: mode %04o lets others read it; "
                         "expected 0600", path, (unsigned)(st.st_mode & 07777));
    else if ((text = malloc(KEY_FILE_MAX)) == NULL || (n = read(fd, text, KEY_FILE_MAX)) < 0)
        result = tn_fail(err, TN_IO, "http: api_key_file %s: cannot read it", path);
    close(fd);
    for (ssize_t from = 0; result == TN_OK && from < n;) {
        ssize_t to = from;
        while (to < n && text[to] != '\n')
            to++;
        ssize_t end = to;
        while (end > from && (text[end - 1] == '\r' || text[end - 1] == ' '))
            end--;
        result = add_key(s, text + from, (size_t)(end - from), err);
        from = to + 1;
    }
    free(text);
    if (result == TN_OK && s->nkey == 0)
        result = tn_fail(err, TN_CONFIG, "http: api_key_file %s: holds no key", path);
    return result;
}

tn_status http_guard_keys(http_server *s, tn_err *err)
{
    void *x = s->h->ctx;
    tn_status st = TN_OK;
    for (uint32_t i = 0; i < s->h->opt_count(x, "api_key") && st == TN_OK; i++) {
        const char *k = s->h->opt_item(x, "api_key", i);
        st = add_key(s, k, strlen(k), err);
    }
    const char *file = s->h->opt_text(x, "api_key_file");
    if (st == TN_OK && file[0] != 0)
        st = read_key_file(s, file, err);
    return st;
}

static tn_status refuse(tn_err *err, const char *code, const char *text)
{
    tn_fail(err, TN_NOPERM, "%s", text);
    snprintf(err->code, sizeof err->code, "%s", code);
    return TN_NOPERM;
}

static enum MHD_Result count_keys(void *user, enum MHD_ValueKind kind, const char *key,
                                  const char *value)
{
    (void)kind;
    (void)value;
    *(uint32_t *)user += strcasecmp(key, "Authorization") == 0;
    return MHD_YES;
}

/* Of two keys a proxy may have checked the other one. */
static tn_status check_key(http_server *s, struct MHD_Connection *c, char salt[33], tn_err *err)
{
    const char *given = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Authorization");
    uint32_t ngiven = 0;
    MHD_get_connection_values(c, MHD_HEADER_KIND, count_keys, &ngiven);
    bool bearer = ngiven == 1 && given != NULL && strncasecmp(given, "Bearer ", 7) == 0;
    const char *key = bearer ? given + 7 : "";
    size_t n = strlen(key);
    uint64_t a = sip_hash(s->hash_key, 0, key, n), b = sip_hash(s->hash_key, 1, key, n);
    const http_key *hit = NULL;
    for (uint32_t i = 0; i < s->nkey; i++) /* all of them, whichever fits */
        if (((s->key[i].hash[0] ^ a) | (s->key[i].hash[1] ^ b)) == 0)
            hit = &s->key[i];
    if (!bearer || hit == NULL)
        return refuse(err, "invalid_api_key", "the API key is missing or wrong; expected "
                      "\"Authorization: Bearer KEY\"");
    memcpy(salt, hit->salt, sizeof hit->salt);
    return TN_OK;
}

static bool listed(http_server *s, const char *option, const char *value)
{
    uint32_t n = s->h->opt_count(s->h->ctx, option);
    for (uint32_t i = 0; i < n; i++) {
        const char *item = s->h->opt_item(s->h->ctx, option, i);
        if (strcmp(item, "*") == 0 || strcasecmp(item, value) == 0)
            return true;
    }
    return false;
}

/* "localhost", 127.0.0.0/8 or [::1]. A name such as 127.example.org is anybody's. */
static bool is_this_machine(const char *name)
{
    struct in_addr a;
    if (inet_pton(AF_INET, name, &a) == 1)
        return ntohl(a.s_addr) >> 24 == 127;
    return strcasecmp(name, "localhost") == 0 || strcmp(name, "[::1]") == 0;
}

/* A page on the web can make a browser talk to this machine; its Host or Origin tells. */
static tn_status check_host(http_server *s, struct MHD_Connection *c, tn_err *err)
{
    const char *host = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Host");
    if (host == NULL || (!s->loopback && s->h->opt_count(s->h->ctx, "allowed_hosts") == 0))
        return TN_OK;
    char name[256];
    snprintf(name, sizeof name, "%s", host);
    char *colon = strrchr(name, ':');
    if (colon != NULL && strchr(colon, ']') == NULL)
        *colon = 0;
    if ((s->loopback && is_this_machine(name)) || listed(s, "allowed_hosts", name))
        return TN_OK;
    return refuse(err, "host_not_allowed", "the Host header names a machine that this server "
                  "does not answer for; expected one of allowed_hosts");
}

const char *http_guard_origin(http_server *s, struct MHD_Connection *c)
{
    const char *origin = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Origin");
    return origin != NULL && listed(s, "allowed_origins", origin) ? origin : NULL;
}

tn_status http_guard_check(http_server *s, struct MHD_Connection *c, bool open, char salt[33],
                           tn_err *err)
{
    salt[0] = 0;
    tn_status st = s->nkey > 0 && !open ? check_key(s, c, salt, err) : TN_OK;
    if (st == TN_OK)
        st = check_host(s, c, err);
    if (st == TN_OK && http_guard_origin(s, c) == NULL &&
        MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Origin") != NULL)
        st = refuse(err, "origin_not_allowed", "pages of this origin may not use the server; "
                    "expected one of allowed_origins");
    return st;
}

static tn_status refuse_media(tn_err *err, const char *text)
{
    tn_fail(err, TN_REFUSED, "%s", text);
    snprintf(err->code, sizeof err->code, "unsupported_media_type");
    return TN_REFUSED;
}

tn_status http_guard_body(struct MHD_Connection *c, tn_err *err)
{
    const char *type = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Content-Type");
    const char *coding = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Content-Encoding");
    static const char json[] = "application/json";
    if (coding != NULL && strcasecmp(coding, "identity") != 0)
        return refuse_media(err, "Content-Encoding is not accepted; expected the body as it is");
    if (type == NULL || strncasecmp(type, json, sizeof json - 1) != 0)
        return refuse_media(err, "the Content-Type is missing or another; expected "
                            "application/json");
    const char *rest = type + sizeof json - 1;
    while (*rest == ' ' || *rest == ';')
        rest++;
    if (*rest == 0 || strcasecmp(rest, "charset=utf-8") == 0 ||
        strcasecmp(rest, "charset=\"utf-8\"") == 0)
        return TN_OK;
    return refuse_media(err, "the Content-Type has an unknown parameter; expected "
                        "application/json; charset=utf-8");
}

typedef struct framing {
    uint32_t hosts, lengths, codings;
    bool odd;                    /* a name that is no token, a coding that is not read */
} framing;

/* RFC 9110's tchar. MHD keeps "Transfer-Encoding " as a name of its own, while a proxy before
 * us may take it for the real one and see other requests in the same bytes. */
static bool is_token(const char *p, size_t n)
{
    static const char others[] = "!#$%&'*+-.^_`|~";
    size_t i = 0;
    while (i < n && ((p[i] >= '0' && p[i] <= '9') || (p[i] >= 'a' && p[i] <= 'z') ||
                     (p[i] >= 'A' && p[i] <= 'Z') ||
                     memchr(others, p[i], sizeof others - 1) != NULL))
        i++;
    return n > 0 && i == n;
}

static enum MHD_Result count_framing(void *user, enum MHD_ValueKind kind, const char *key,
                                     size_t key_size, const char *value, size_t value_size)
{
    framing *f = user;
    bool coding = strcasecmp(key, "Transfer-Encoding") == 0;
    (void)kind;
    (void)value_size;
    f->hosts += strcasecmp(key, "Host") == 0;
    f->lengths += strcasecmp(key, "Content-Length") == 0;
    f->codings += coding;
    f->odd = f->odd || !is_token(key, key_size) ||
             (coding && (value == NULL || strcasecmp(value, "chunked") != 0));
    return MHD_YES;
}

tn_status http_guard_framing(struct MHD_Connection *c, tn_err *err)
{
    framing f = {0};
    MHD_get_connection_values_n(c, MHD_HEADER_KIND, count_framing, &f);
    if (f.hosts <= 1 && f.lengths <= 1 && f.codings <= 1 && f.lengths + f.codings <= 1 && !f.odd)
        return TN_OK;
    tn_fail(err, TN_REFUSED, "the request's framing is ambiguous; expected names without blanks, "
            "one Host and one of Content-Length and Transfer-Encoding: chunked");
    snprintf(err->code, sizeof err->code, "bad_framing");
    return TN_REFUSED;
}
