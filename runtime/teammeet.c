/* SPDX-License-Identifier: Apache-2.0 */
/* teammeet.c - ranks that find rank 0 by its address: a launcher's, or those of other hosts.
 *
 *     rank 0                                          rank r
 *     its nonce, the number of ranks         -->
 *                                            <--      its nonce, rank, size, a proof of the key
 *     a proof of the key, or why not         -->
 *
 * The key itself is never sent, and each side knows of the other that it has it before anything
 * else is believed. Who connects to the port besides is dropped, and holds up nobody: all who have
 * connected are listened to at once, each for HELLO_MS at most. */
#include "teamparts.h"

#include "siphash.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define HELLO_MS 5000u
#define COME_AGAIN_MS 100u
#define KEY_MIN 16u
#define GUESTS_MAX 64u           /* who have connected and not yet said who they are */
#define NS_A_MS 1000000u

typedef struct hello {
    uint64_t nonce[2];           /* of the side that says it */
    uint64_t proof[2];
    uint32_t rank, nrank;
} hello;

enum { SAID_BY_RANK = 1, SAID_BY_FIRST = 2 };

static void prove(const char *key, uint32_t who, const hello *first, const hello *other,
                  uint64_t proof[2])
{
    const uint64_t secret[2] = {0x74656e6f6e207465, 0x616d206b65792031};
    uint64_t derived[2];
    tn_sip s;
    tn_sip_open(&s, secret);
    tn_sip_put(&s, key, strlen(key));
    tn_sip_done(&s, derived);
    tn_sip_open(&s, derived);
    tn_sip_put(&s, &who, sizeof who);
    tn_sip_put(&s, first->nonce, sizeof first->nonce);
    tn_sip_put(&s, other->nonce, sizeof other->nonce);
    tn_sip_put(&s, &other->rank, sizeof other->rank);
    tn_sip_put(&s, &other->nrank, sizeof other->nrank);
    tn_sip_done(&s, proof);
}

/* In a time that does not tell where they differ. */
static bool is_same_proof(const uint64_t a[2], const uint64_t b[2])
{
    return ((a[0] ^ b[0]) | (a[1] ^ b[1])) == 0;
}

/* Beyond this machine the key must be a secret. On it a launcher's own name of the job will do
 * to tell teams apart. */
static bool is_loopback(const struct sockaddr *a)
{
    return a->sa_family == AF_INET
               ? ntohl(((const struct sockaddr_in *)(const void *)a)->sin_addr.s_addr) >> 24 == 127
               : IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)a)->sin6_addr);
}

static tn_status find_key(const struct addrinfo *to, const char **key, tn_err *err)
{
    static const char *const jobs[] = {"PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid",
                                       "SLURM_JOB_ID", "PMI_KVS"};
    bool local = true; /* all that the name stands for: any of them may be the one that is used */
    for (; to != NULL; to = to->ai_next)
        local = local && is_loopback(to->ai_addr);
    *key = getenv("TENON_TEAM_KEY");
    if (*key != NULL && strlen(*key) >= KEY_MIN)
        return TN_OK;
    if (*key != NULL || !local)
        return tn_fail(err, TN_CONFIG, "TENON_TEAM_KEY: %s; ranks on several hosts prove to each "
                       "other that they belong together; expected the same secret of at least %u "
                       "characters on all of them", *key != NULL ? "too short" : "not set", KEY_MIN);
    for (size_t i = 0; i < sizeof jobs / sizeof *jobs && *key == NULL; i++)
        *key = getenv(jobs[i]);
    if (*key == NULL)
        *key = "";
    return TN_OK;
}

static tn_status resolve(const char *address, struct addrinfo **out, tn_err *err)
{
    char host[256];
    const char *colon = strrchr(address, ':');
    size_t n = colon != NULL ? (size_t)(colon - address) : 0;
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    if (n == 0 || n >= sizeof host)
        return tn_fail(err, TN_CONFIG, "master_addr: \"%.200s\"; expected HOST:PORT", address);
    memcpy(host, address, n);
    host[n] = 0;
    int e = getaddrinfo(host, colon + 1, &hints, out);
    return e == 0 ? TN_OK : tn_fail(err, TN_CONFIG, "master_addr: %.200s: %s; expected the address "
                                    "of rank 0's host", address, gai_strerror(e));
}

/* ------------------------------------------------------------------------------ rank 0 */

/* One who connected. */
typedef struct guest {
    int fd;                      /* -1: the place is free */
    uint64_t until;              /* ns */
    hello asked;                 /* what rank 0 has said */
    size_t have;
    char said[sizeof(tn_frame) + sizeof(hello)];
} guest;

typedef struct door {
    tn_team *t;
    const char *key;
    int fd;
    guest guest[GUESTS_MAX];
} door;

static void set_nodelay(int fd)
{
    int one = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
}

static tn_status listen_at(const struct addrinfo *a, const char *address, int *out, tn_err *err)
{
    int why = 0;
    for (; a != NULL; a = a->ai_next) {
        int one = 1, fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd >= 0)
            (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (fd >= 0 && bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, 64) == 0) {
            *out = fd;
            return tn_wire_ready(fd, err);
        }
        why = errno;
        if (fd >= 0)
            close(fd);
    }
    return tn_fail(err, TN_UNAVAILABLE, "rank 0: cannot listen for other ranks at %.200s: %s",
                   address, strerror(why));
}

static void dismiss(guest *g)
{
    close(g->fd);
    g->fd = -1;
}

/* A proof that is right makes what else is wrong worth a sentence to both. */
static void refuse(door *d, guest *g, const char *why)
{
    tn_err err;
    const tn_frame f = {.kind = TN_WIRE_HELLO, .status = TN_UNAVAILABLE};
    tn_log_put(d->t->log, TN_LOG_WARN, "core", NULL, "rank 0: a rank was turned away: %s", why);
    (void)tn_wire_send(g->fd, &f, why, strlen(why), NULL, 0, 0, &err);
    dismiss(g);
}

/* All that guest g has to say is there. */
static void admit(door *d, guest *g)
{
    tn_team *t = d->t;
    tn_frame f;
    hello h, mine = {.nrank = t->nrank};
    uint64_t wanted[2];
    char why[160];
    tn_err err;
    memcpy(&f, g->said, sizeof f);
    memcpy(&h, g->said + sizeof f, sizeof h);
    prove(d->key, SAID_BY_RANK, &g->asked, &h, wanted);
    if (f.kind != TN_WIRE_HELLO || f.size != sizeof h || !is_same_proof(wanted, h.proof)) {
        refuse(d, g, "it has another key or version (TENON_TEAM_KEY, or the launcher's job)");
        return;
    }
    if (h.nrank != t->nrank || h.rank == 0 || h.rank >= t->nrank) {
        snprintf(why, sizeof why, "it is rank %u of %u; rank 0 has a team of %u", h.rank, h.nrank,
                 t->nrank);
        refuse(d, g, why);
        return;
    }
    if (t->peer[h.rank].fd >= 0) {
        snprintf(why, sizeof why, "there is a rank %u already", h.rank);
        refuse(d, g, why);
        return;
    }
    prove(d->key, SAID_BY_FIRST, &g->asked, &h, mine.proof);
    if (tn_wire_send(g->fd, &(tn_frame){.kind = TN_WIRE_HELLO}, &mine, sizeof mine, NULL, 0, 0,
                     &err) != TN_OK) {
        dismiss(g);
        return;
    }
    set_nodelay(g->fd);
    tn_team_seat(t, h.rank, g->fd);
    g->fd = -1;
}

static void hear_guest(door *d, guest *g)
{
    ssize_t n = recv(g->fd, g->said + g->have, sizeof g->said - g->have, 0);
    if (n > 0) {
        g->have += (size_t)n;
        if (g->have == sizeof g->said)
            admit(d, g);
    } else if (n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)) {
        tn_log_put(d->t->log, TN_LOG_WARN, "core", NULL, "somebody connected to the ranks' port who "
                   "is no rank of this team: dropped");
        dismiss(g);
    }
}

/* Whoever waits longest makes room. */
static guest *free_place(door *d)
{
    guest *oldest = &d->guest[0];
    for (uint32_t i = 0; i < GUESTS_MAX; i++) {
        if (d->guest[i].fd < 0)
            return &d->guest[i];
        if (d->guest[i].until < oldest->until)
            oldest = &d->guest[i];
    }
    dismiss(oldest);
    return oldest;
}

static void welcome(door *d)
{
    tn_err err;
    int fd = accept4(d->fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        return;
    guest *g = free_place(d);
    *g = (guest){.fd = fd, .until = tn_team_now() + (uint64_t)HELLO_MS * NS_A_MS,
                 .asked = {.nrank = d->t->nrank}};
    if (getentropy(g->asked.nonce, sizeof g->asked.nonce) != 0 || tn_wire_ready(fd, &err) != TN_OK ||
        tn_wire_send(fd, &(tn_frame){.kind = TN_WIRE_HELLO}, &g->asked, sizeof g->asked, NULL, 0, 0,
                     &err) != TN_OK)
        dismiss(g);
}

static void listen_once(door *d)
{
    struct pollfd p[GUESTS_MAX + 1];
    for (uint32_t i = 0; i < GUESTS_MAX; i++)
        p[i] = (struct pollfd){.fd = d->guest[i].fd, .events = POLLIN};
    p[GUESTS_MAX] = (struct pollfd){.fd = d->fd, .events = POLLIN};
    if (poll(p, GUESTS_MAX + 1, COME_AGAIN_MS) < 0)
        return;
    for (uint32_t i = 0; i < GUESTS_MAX; i++) {
        guest *g = &d->guest[i];
        if (g->fd >= 0 && p[i].revents != 0)
            hear_guest(d, g);
        else if (g->fd >= 0 && tn_team_now() > g->until)
            dismiss(g);
    }
    if (p[GUESTS_MAX].revents != 0)
        welcome(d);
}

static uint32_t missing(const tn_team *t)
{
    uint32_t n = 0;
    for (uint32_t r = 1; r < t->nrank; r++)
        n += t->peer[r].fd < 0;
    return n;
}

static tn_status name_missing(const tn_team *t, uint32_t seconds, tn_err *err)
{
    char list[160] = "";
    bool one = missing(t) == 1;
    for (uint32_t r = 1; r < t->nrank; r++)
        if (t->peer[r].fd < 0 && strlen(list) + 8 < sizeof list)
            snprintf(list + strlen(list), sizeof list - strlen(list), "%s%u",
                     list[0] != 0 ? ", " : "", r);
    return tn_fail(err, TN_UNAVAILABLE, "rank%s %s of %u did not come within %u s", one ? "" : "s",
                   list, t->nrank, seconds);
}

static tn_status await_all(tn_team *t, const tn_team_setup *setup, const struct addrinfo *a,
                           const char *key, tn_err *err)
{
    uint64_t until = tn_team_now() + (uint64_t)setup->patience * 1000 * NS_A_MS;
    door *d = calloc(1, sizeof *d);
    if (d == NULL)
        return tn_fail(err, TN_NO_MEMORY, "no memory to wait for other ranks");
    *d = (door){.t = t, .key = key, .fd = -1};
    for (uint32_t i = 0; i < GUESTS_MAX; i++)
        d->guest[i].fd = -1;
    tn_status st = listen_at(a, setup->address, &d->fd, err);
    while (st == TN_OK && missing(t) > 0) {
        listen_once(d);
        if (missing(t) > 0 && tn_team_now() > until)
            st = name_missing(t, setup->patience, err);
    }
    for (uint32_t i = 0; i < GUESTS_MAX; i++)
        if (d->guest[i].fd >= 0)
            dismiss(&d->guest[i]);
    if (d->fd >= 0)
        close(d->fd);
    free(d);
    return st;
}

/* -------------------------------------------------------------------------- other ranks */

/* Connects, or says why not. */
static int knock(const struct addrinfo *a, int *why)
{
    int e = ETIMEDOUT, fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    socklen_t size = sizeof e;
    *why = errno;
    if (fd < 0 || connect(fd, a->ai_addr, a->ai_addrlen) == 0)
        return fd;
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    e = errno;
    if (e == EINPROGRESS && poll(&p, 1, HELLO_MS) > 0)
        (void)getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &size);
    if (e == 0)
        return fd;
    *why = e == EINPROGRESS ? ETIMEDOUT : e;
    close(fd);
    return -1;
}

static tn_status read_hello(int fd, tn_buf *b, uint32_t ms, hello *h, tn_err *err)
{
    tn_frame f;
    tn_status st = tn_wire_recv(fd, &f, b, ms, err);
    if (st != TN_OK)
        return TN_BUSY; /* it may have had no time for us */
    if (f.kind == TN_WIRE_HELLO && f.status != TN_OK)
        return tn_fail(err, TN_UNAVAILABLE, "rank 0 turned this rank away: %.*s",
                       (int)(b->len < 300 ? b->len : 300), b->data != NULL ? b->data : "");
    if (f.kind != TN_WIRE_HELLO || b->len != sizeof *h)
        return tn_fail(err, TN_UNAVAILABLE, "who listens there is no rank 0 of tenon's");
    memcpy(h, b->data, sizeof *h);
    return TN_OK;
}

/* TN_BUSY: it may go better another time. */
static tn_status introduce(tn_team *t, int fd, const char *key, tn_err *err)
{
    tn_buf b;
    hello first, again, h = {.rank = t->rank, .nrank = t->nrank};
    uint64_t wanted[2];
    tn_buf_open(&b, 1024);
    tn_status st = read_hello(fd, &b, HELLO_MS, &first, err);
    if (st == TN_OK && getentropy(h.nonce, sizeof h.nonce) != 0)
        st = tn_fail(err, TN_OS, "rank %u: no random numbers: %s", t->rank, strerror(errno));
    if (st == TN_OK) {
        prove(key, SAID_BY_RANK, &first, &h, h.proof);
        st = tn_wire_send(fd, &(tn_frame){.kind = TN_WIRE_HELLO}, &h, sizeof h, NULL, 0, HELLO_MS,
                          err) == TN_OK ? read_hello(fd, &b, HELLO_MS, &again, err) : TN_BUSY;
    }
    tn_buf_close(&b);
    if (st != TN_OK)
        return st;
    prove(key, SAID_BY_FIRST, &first, &h, wanted);
    return is_same_proof(wanted, again.proof)
               ? TN_OK : tn_fail(err, TN_UNAVAILABLE, "who listens there has not the key of this team");
}

/* One attempt, at each address that the name has. */
static tn_status come_once(tn_team *t, const struct addrinfo *a, const char *key, char *why,
                           size_t size, tn_err *err)
{
    tn_status st = TN_BUSY;
    for (; st == TN_BUSY && a != NULL; a = a->ai_next) {
        int e = 0, fd = knock(a, &e);
        if (fd < 0) {
            snprintf(why, size, "%s", strerror(e));
            continue;
        }
        set_nodelay(fd);
        st = introduce(t, fd, key, err);
        if (st == TN_BUSY)
            snprintf(why, size, "%.200s", err->text);
        if (st == TN_OK)
            tn_team_seat(t, 0, fd);
        else
            close(fd);
    }
    return st;
}

/* Rank 0 may come up later: tried again until patience ends. */
static tn_status come_to(tn_team *t, const tn_team_setup *setup, const struct addrinfo *a,
                         const char *key, tn_err *err)
{
    uint64_t until = tn_team_now() + (uint64_t)setup->patience * 1000 * NS_A_MS;
    char why[240] = "";
    for (;;) {
        tn_status st = come_once(t, a, key, why, sizeof why, err);
        if (st != TN_BUSY) {
            tn_err how = *err;
            return st == TN_OK ? st : tn_fail(err, st, "rank %u: %.200s: %.700s", t->rank,
                                              setup->address, how.text);
        }
        if (tn_team_now() > until)
            return tn_fail(err, TN_UNAVAILABLE, "rank %u: no rank 0 at %.200s within %u s: %s",
                           t->rank, setup->address, setup->patience, why);
        const struct timespec nap = {.tv_nsec = COME_AGAIN_MS * NS_A_MS};
        nanosleep(&nap, NULL);
    }
}

tn_status tn_team_meet(tn_team *t, const tn_team_setup *setup, tn_err *err)
{
    struct addrinfo *a = NULL;
    const char *key = NULL;
    tn_status st = resolve(setup->address, &a, err);
    if (st == TN_OK)
        st = find_key(a, &key, err);
    if (st == TN_OK && t->rank == 0)
        st = await_all(t, setup, a, key, err);
    else if (st == TN_OK)
        st = come_to(t, setup, a, key, err);
    if (a != NULL)
        freeaddrinfo(a);
    return st;
}
