/* SPDX-License-Identifier: Apache-2.0 */
/* nccl_group.h - the communicator `nccl`: what its files share.
 *
 * Neither NCCL nor CUDA is needed to build it: libnccl and the driver are opened when the plugin
 * starts, and the few functions and numbers that are used are declared here, as their public
 * interface has had them since NCCL 2.14. */
#ifndef TN_NCCL_GROUP_H
#define TN_NCCL_GROUP_H

#include <tenon/plugin.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GROUP_RANKS_MAX 128u
#define NCCL_ID_SIZE 128u      /* of an id; ours has more room behind it */

/* ncclResult_t, ncclRedOp_t, ncclDataType_t */
enum { NCCL_SUCCESS = 0, NCCL_IN_PROGRESS = 7 };
enum { NCCL_SUM = 0 };
enum {
    NCCL_I8 = 0, NCCL_U8 = 1, NCCL_I32 = 2, NCCL_U32 = 3, NCCL_I64 = 4, NCCL_U64 = 5, NCCL_F16 = 6,
    NCCL_F32 = 7, NCCL_F64 = 8, NCCL_BF16 = 9
};
#define CUDA_NOT_READY 600

typedef struct nccl_id {
    char bytes[NCCL_ID_SIZE];
} nccl_id;

/* The settings of a communicator as of 2.14, which later libraries read by its version. */
typedef struct nccl_config {
    size_t size;
    unsigned magic, version;
    int blocking;
} nccl_config;

typedef struct nccl_lib {
    int (*version)(int *v);
    int (*unique_id)(nccl_id *id);
    int (*init)(void **comm, int nrank, nccl_id id, int rank, nccl_config *c);
    int (*split)(void *comm, int color, int key, void **out, nccl_config *c); /* 2.18, or NULL */
    int (*state)(void *comm, int *code);
    int (*abort)(void *comm);
    int (*finalize)(void *comm);
    int (*destroy)(void *comm);
    const char *(*text)(int code);
    const char *(*last)(void *comm);
    int (*reduce)(const void *in, void *out, size_t n, int type, int op, void *comm, void *stream);
    int (*gather)(const void *in, void *out, size_t n, int type, void *comm, void *stream);
    int (*broadcast)(const void *in, void *out, size_t n, int type, int root, void *comm,
                     void *stream);
    /* the driver */
    int (*cu_init)(unsigned flags);
    int (*cu_count)(int *n);
    int (*cu_device)(int *d, int i);
    int (*cu_bus)(char *text, int size, int d);
    int (*cu_retain)(void **ctx, int d);
    int (*cu_release)(int d);
    int (*cu_push)(void *ctx);
    int (*cu_pop)(void **ctx);
    int (*cu_take)(unsigned long long *p, size_t size);
    int (*cu_give)(unsigned long long p);
    int (*cu_stream)(void **s, unsigned flags);
    int (*cu_stream_end)(void *s);
    int (*cu_query)(void *s);
    void *nccl, *cuda;         /* the libraries */
} nccl_lib;

/* What ranks of one host tell each other beside NCCL, which hears neither of an abort nor of a
 * dead process of its own host. Named by the id, unnamed as soon as all have joined. */
enum { PAGE_HERE = 1, PAGE_GONE = 2 };
enum { FAULT_NONE = 0, FAULT_DEAD = 1, FAULT_GONE = 2, FAULT_HUNG = 3, FAULT_NCCL = 4 };

typedef struct nccl_seat {
    _Atomic uint32_t state;    /* 0: on another host */
    _Atomic int32_t pid;
    _Atomic uint64_t space;    /* process name space */
    _Atomic uint64_t card;     /* which of the machine's; 0: not known yet */
    _Atomic uint64_t calls;    /* made so far */
} nccl_seat;

typedef struct nccl_page {
    _Atomic uint32_t aborted;
    _Atomic uint32_t fault;    /* FAULT_* << 16 | rank */
    nccl_seat seat[GROUP_RANKS_MAX];
} nccl_page;

typedef struct nccl_self {
    const tn_host *h;
    nccl_lib lib;
} nccl_self;

typedef struct nccl_end nccl_end;

typedef struct nccl_group {
    const tn_host *h;
    const nccl_lib *lib;
    pthread_mutex_t lock;      /* around NCCL: an abort takes the communicator away */
    void *comm;                /* NULL after abort */
    void *first;               /* what it was split from, while that is not ended */
    nccl_end *end;             /* after abort: the thread that does it */
    _Atomic int code;          /* NCCL's, with FAULT_NCCL */
    void *ctx;                 /* the device's primary context */
    int device;
    void *stream;              /* for barriers */
    unsigned long long scratch;
    uint32_t rank, nrank, timeout_s;
    nccl_page *page;
    uint64_t calls;            /* of this rank */
    _Atomic uint64_t least_calls, least_since; /* of the slowest rank of this host, and since when */
    _Atomic uint64_t last_look;
    _Atomic uint64_t gone_since; /* the first rank left; 0: none did */
    int watch[GROUP_RANKS_MAX]; /* pidfds, -1: none */
} nccl_group;

/* nccl_lib.c */
tn_status nccl_open(const tn_host *h, nccl_lib *lib, tn_err *err);
void nccl_close(nccl_lib *lib);
tn_status nccl_say(const nccl_lib *lib, int code, const char *what, tn_err *err);

/* nccl_end.c: ends a communicator, peacefully or not, in a thread; NULL: there is none. */
nccl_end *nccl_end_begin(const nccl_lib *lib, void *ctx, void *comm, bool is_abort);
/* False: it takes longer, and is left to itself. `e` is gone either way. */
bool nccl_end_wait(nccl_end *e, uint32_t ms);

/* nccl_page.c */
tn_status nccl_page_open(nccl_group *g, const char *name, tn_err *err);
void nccl_page_unlink(const char *name);
void nccl_page_watch(nccl_group *g);
void nccl_page_close(nccl_group *g);
/* TN_UNAVAILABLE, with the ranks that have no seat. */
tn_status nccl_say_missing(const nccl_group *g, const char *what, tn_err *err);
void nccl_page_call(nccl_group *g);  /* this rank made another call */
/* The sentence for what is wrong, if anything is. */
tn_status nccl_check(const nccl_group *g, tn_err *err);
/* Looks for ranks that ended, left or fell behind. [any] */
void nccl_look(nccl_group *g);
void nccl_fault(nccl_group *g, uint32_t what, uint32_t rank);

/* nccl_card.c: seen cards are counted from 0 on again behind the last. Ranks that share one are
 * made hosts of their own, which NCCL wants. After the page is open. */
tn_status nccl_card_of(const nccl_group *g, uint32_t device, int *out, tn_err *err);
void nccl_card_share(nccl_group *g, uint32_t device, const char *name);

/* nccl_join.c */
tn_status nccl_make_id(void *self, uint8_t id[TN_COMM_ID_SIZE], tn_err *err);
tn_status nccl_join(void *self, const uint8_t id[TN_COMM_ID_SIZE], uint32_t rank, uint32_t nrank,
                    uint32_t device, uint32_t timeout_ms, void **out, tn_err *err);
void nccl_leave(void *group);
void nccl_abort(void *group);
/* Waits until NCCL is done with what returned `code`; 0: until the group's timeout. */
tn_status nccl_settle(nccl_group *g, void *comm, int code, uint64_t deadline_ms, const char *what,
                      tn_err *err);
/* A sum over one number on the group's own stream, waited for. */
tn_status nccl_meet(nccl_group *g, uint64_t count, uint64_t deadline_ms, tn_err *err);

#endif
