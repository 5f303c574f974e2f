/* SPDX-License-Identifier: Apache-2.0 */
/* nccl_lib.c - opens libnccl and the driver, and finds their functions. */
#include "nccl_group.h"

#include <dlfcn.h>

#define VERSION_LEAST 21400    /* communicators that do not block */

typedef struct symbol {
    const char *name;
    size_t at;                 /* in nccl_lib */
    bool is_optional;
} symbol;

#define AT(member) offsetof(nccl_lib, member)

static const symbol of_nccl[] = {
    {"ncclGetVersion", AT(version), false},
    {"ncclGetUniqueId", AT(unique_id), false},
    {"ncclCommInitRankConfig", AT(init), false},
    {"ncclCommSplit", AT(split), true},
    {"ncclCommGetAsyncError", AT(state), false},
    {"ncclCommAbort", AT(abort), false},
    {"ncclCommFinalize", AT(finalize), false},
    {"ncclCommDestroy", AT(destroy), false},
    {"ncclGetErrorString", AT(text), false},
    {"ncclGetLastError", AT(last), false},
    {"ncclAllReduce", AT(reduce), false},
    {"ncclAllGather", AT(gather), false},
    {"ncclBroadcast", AT(broadcast), false},
};

static const symbol of_driver[] = {
    {"cuInit", AT(cu_init), false},
    {"cuDeviceGetCount", AT(cu_count), false},
    {"cuDeviceGet", AT(cu_device), false},
    {"cuDeviceGetPCIBusId", AT(cu_bus), false},
    {"cuDevicePrimaryCtxRetain", AT(cu_retain), false},
    {"cuDevicePrimaryCtxRelease_v2", AT(cu_release), false},
    {"cuCtxPushCurrent_v2", AT(cu_push), false},
    {"cuCtxPopCurrent_v2", AT(cu_pop), false},
    {"cuMemAlloc_v2", AT(cu_take), false},
    {"cuMemFree_v2", AT(cu_give), false},
    {"cuStreamCreate", AT(cu_stream), false},
    {"cuStreamDestroy_v2", AT(cu_stream_end), false},
    {"cuStreamQuery", AT(cu_query), false},
};

/* What a library says of itself when it cannot be opened is one line of dlerror. */
static tn_status open_library(const char *name, const char *what, void **out, tn_err *err)
{
    *out = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (*out != NULL)
        return TN_OK;
    const char *why = dlerror();
    return tn_fail(err, TN_UNAVAILABLE, "nccl: no %s: %.300s", what, why != NULL ? why : name);
}

static tn_status find(void *library, const char *file, const symbol *s, size_t n, nccl_lib *lib,
                      tn_err *err)
{
    for (size_t i = 0; i < n; i++) {
        void *f = dlsym(library, s[i].name);
        if (f == NULL && !s[i].is_optional)
            return tn_fail(err, TN_UNAVAILABLE, "nccl: %.200s has no %s", file, s[i].name);
        memcpy((char *)lib + s[i].at, &f, sizeof f);
    }
    return TN_OK;
}

tn_status nccl_say(const nccl_lib *lib, int code, const char *what, tn_err *err)
{
    const char *last = lib->last(NULL);
    bool more = last != NULL && last[0] != 0;
    return tn_fail(err, TN_UNAVAILABLE, "nccl: %s: %.200s%s%.500s", what, lib->text(code),
                   more ? ": " : "", more ? last : "");
}

static tn_status look_at_cards(const nccl_lib *lib, tn_err *err)
{
    int n = 0, code = lib->cu_init(0);
    if (code == 0)
        code = lib->cu_count(&n);
    if (code != 0 || n == 0)
        return tn_fail(err, TN_UNAVAILABLE, "nccl: the driver finds no card (code %d)", code);
    return TN_OK;
}

void nccl_close(nccl_lib *lib)
{
    if (lib->nccl != NULL)
        dlclose(lib->nccl);
    if (lib->cuda != NULL)
        dlclose(lib->cuda);
}

tn_status nccl_open(const tn_host *h, nccl_lib *lib, tn_err *err)
{
    const char *file = h->opt_text(h->ctx, "library"), *driver = h->opt_text(h->ctx, "driver");
    int version = 0;
    *lib = (nccl_lib){.nccl = NULL};
    tn_status st = open_library(driver, "NVIDIA driver", &lib->cuda, err);
    if (st == TN_OK)
        st = find(lib->cuda, driver, of_driver, sizeof of_driver / sizeof of_driver[0], lib, err);
    if (st == TN_OK)
        st = look_at_cards(lib, err);
    if (st == TN_OK)
        st = open_library(file, "NCCL library", &lib->nccl, err);
    if (st == TN_OK)
        st = find(lib->nccl, file, of_nccl, sizeof of_nccl / sizeof of_nccl[0], lib, err);
    if (st == TN_OK && (lib->version(&version) != NCCL_SUCCESS || version < VERSION_LEAST))
        st = tn_fail(err, TN_UNAVAILABLE, "nccl: %.200s is version %d; expected %d or later", file,
                     version, VERSION_LEAST);
    if (st == TN_OK)
        return TN_OK;
    nccl_close(lib);
    return st;
}
