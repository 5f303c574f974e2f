/* SPDX-License-Identifier: Apache-2.0 */
/* teamwire.h - frames between rank 0 and one other rank, over a stream socket.
 *
 *   | kind u32 | status u32 | size u64 | size bytes |     in the machine's own order: a
 *                                                        handshake comes before anything else
 *
 * Sockets are non-blocking; every wait looks at a clock, which begins anew when this process was
 * stopped meanwhile. */
#ifndef TN_TEAMWIRE_H
#define TN_TEAMWIRE_H

#include <tenon/plugin.h>

#include "buf.h"

/* What frames say. */
enum {
    TN_WIRE_HELLO = 0x74656d01, TN_WIRE_BEAT, TN_WIRE_ROUND, TN_WIRE_VERDICT, TN_WIRE_SHARE,
    TN_WIRE_STEP, TN_WIRE_BLOCK_COPY, TN_WIRE_STATE_COPY, TN_WIRE_BLOCK_READ, TN_WIRE_BLOCK_WRITE,
    TN_WIRE_STATE_READ, TN_WIRE_STATE_WRITE, TN_WIRE_REPLY, TN_WIRE_FAIL, TN_WIRE_BYE
};

#define TN_WIRE_SIZE_MAX ((uint64_t)1 << 32)

typedef struct tn_frame {
    uint32_t kind;
    uint32_t status;             /* a tn_status, or a number that belongs to the kind */
    uint64_t size;               /* bytes that follow */
} tn_frame;

/* Makes a descriptor ready for the two below. */
tn_status tn_wire_ready(int fd, tn_err *err);
/* Sends a frame of two pieces of data. TN_TIMEOUT when the other side takes nothing for `ms`,
 * TN_UNAVAILABLE when it is gone. A frame that was cut ends the connection's use. */
tn_status tn_wire_send(int fd, const tn_frame *f, const void *a, uint64_t na, const void *b,
                       uint64_t nb, uint32_t ms, tn_err *err);
/* Receives one frame whole into `to`, whose ceiling bounds it. `ms` is how long nothing may come;
 * UINT32_MAX: for ever. TN_UNAVAILABLE: the other side is gone. */
tn_status tn_wire_recv(int fd, tn_frame *f, tn_buf *to, uint32_t ms, tn_err *err);

#endif
