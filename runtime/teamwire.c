/* SPDX-License-Identifier: Apache-2.0 */
/* teamwire.c - frames between two ranks. */
#include "teamwire.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define SLICE_MS 1000u
#define LATE_MS 2000u            /* a slice that much longer: we were stopped, not the others */

tn_status tn_wire_ready(int fd, tn_err *err)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ||
        fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
        return tn_fail(err, TN_OS, "socket between ranks: %s", strerror(errno));
    return TN_OK;
}

static uint64_t clock_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / 1000000u;
}

/* Waits for one of `events`; TN_TIMEOUT after `ms` (UINT32_MAX: never). In slices, so that a time
 * in which nobody ran here is not held against the other side. */
static tn_status await(int fd, short events, uint32_t ms, tn_err *err)
{
    struct pollfd p = {.fd = fd, .events = events};
    uint32_t left = ms;
    for (;;) {
        uint32_t slice = left < SLICE_MS ? left : SLICE_MS;
        uint64_t begun = clock_ms();
        int n = poll(&p, 1, (int)slice);
        uint64_t passed = clock_ms() - begun;
        if (n > 0)
            return TN_OK;
        if (n < 0 && errno != EINTR)
            return tn_fail(err, TN_OS, "socket between ranks: poll: %s", strerror(errno));
        if (passed > slice + LATE_MS)
            left = ms;
        else if (ms != UINT32_MAX)
            left -= passed < left ? (uint32_t)passed : left;
        if (left == 0)
            return tn_fail(err, TN_TIMEOUT, "nothing came for %u ms", ms);
    }
}

static tn_status gone(tn_err *err, const char *why)
{
    return tn_fail(err, TN_UNAVAILABLE, "the connection ended%s%s", why[0] != 0 ? ": " : "", why);
}

/* Takes `n` sent bytes off the list. */
static void advance(struct iovec **v, int *nv, size_t n)
{
    while (*nv > 0 && n >= (*v)->iov_len) {
        n -= (*v)->iov_len;
        (*v)++;
        (*nv)--;
    }
    if (*nv > 0) {
        (*v)->iov_base = (char *)(*v)->iov_base + n;
        (*v)->iov_len -= n;
    }
}

tn_status tn_wire_send(int fd, const tn_frame *f, const void *a, uint64_t na, const void *b,
                       uint64_t nb, uint32_t ms, tn_err *err)
{
    tn_frame head = *f;
    head.size = na + nb;
    struct iovec all[3] = {{&head, sizeof head}, {(void *)(uintptr_t)a, na},
                           {(void *)(uintptr_t)b, nb}};
    struct iovec *v = all;
    int nv = 3;
    if (head.size > TN_WIRE_SIZE_MAX)
        return tn_fail(err, TN_INTERNAL, "a frame between ranks of %llu bytes; expected at most "
                       "%llu", (unsigned long long)head.size,
                       (unsigned long long)TN_WIRE_SIZE_MAX);
    advance(&v, &nv, 0);
    while (nv > 0) {
        struct msghdr m = {.msg_iov = v, .msg_iovlen = (size_t)nv};
        ssize_t n = sendmsg(fd, &m, MSG_NOSIGNAL);
        if (n >= 0) {
            advance(&v, &nv, (size_t)n);
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            tn_status st = await(fd, POLLOUT, ms, err);
            if (st != TN_OK)
                return st;
        } else if (errno != EINTR) {
            return gone(err, strerror(errno));
        }
    }
    return TN_OK;
}

static tn_status take(int fd, char *to, uint64_t size, uint32_t ms, tn_err *err)
{
    while (size > 0) {
        ssize_t n = recv(fd, to, size < ((size_t)1 << 30) ? size : (size_t)1 << 30, 0);
        if (n > 0) {
            to += n;
            size -= (uint64_t)n;
        } else if (n == 0) {
            return gone(err, "");
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            tn_status st = await(fd, POLLIN, ms, err);
            if (st != TN_OK)
                return st;
        } else if (errno != EINTR) {
            return gone(err, strerror(errno));
        }
    }
    return TN_OK;
}

tn_status tn_wire_recv(int fd, tn_frame *f, tn_buf *to, uint32_t ms, tn_err *err)
{
    tn_buf_reset(to);
    tn_status st = take(fd, (char *)f, sizeof *f, ms, err);
    if (st != TN_OK)
        return st;
    if (f->kind < TN_WIRE_HELLO || f->kind > TN_WIRE_BYE)
        return tn_fail(err, TN_DATA, "bytes that no rank sends");
    if (f->size == 0)
        return TN_OK;
    if (f->size >= to->max || !tn_buf_room(to, f->size))
        return tn_fail(err, TN_NO_MEMORY, "no memory for %llu bytes from another rank",
                       (unsigned long long)f->size);
    st = take(fd, to->data, f->size, ms, err);
    if (st == TN_OK)
        to->len = f->size;
    return st;
}
