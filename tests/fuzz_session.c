/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_session.c - any bytes as a saved conversation.
 *
 * A head is hardly ever true by chance: with an odd first byte its checksum, and the file's
 * length as far as it goes, are put right before it is read. Bytes live in memory. */
#include "sessionfile.h"
#include "siphash.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define HEAD 256u
#define FILE_MAX_BYTES 65536u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int ok)
{
    if (!ok)
        abort();
}

static void make_true(uint8_t *bytes)
{
    static const uint64_t secret[2] = {UINT64_C(0x6e6f6e6574), 1};
    const uint32_t order = 0x01020304, version = TN_SESSION_VERSION;
    uint64_t sum[2];
    tn_sip s;
    memcpy(bytes, "tenonses", 8);
    memcpy(bytes + 8, &version, sizeof version);
    memcpy(bytes + 12, &order, sizeof order);
    tn_sip_open(&s, secret);
    tn_sip_put(&s, bytes, HEAD - sizeof sum);
    tn_sip_done(&s, sum);
    memcpy(bytes + HEAD - sizeof sum, sum, sizeof sum);
}

static void read_parts(tn_session_file *f, const tn_session_head *h, size_t size)
{
    uint8_t part[512];
    tn_err err = {.text = ""};
    tn_status st = TN_OK;
    check(tn_session_file_size(h) <= size);
    check(h->ncached <= h->nid && h->block_tokens > 0);
    uint64_t left = tn_session_parts_size(h);
    for (uint64_t n; left > 0 && st == TN_OK; left -= n) {
        n = left < sizeof part ? left : sizeof part;
        st = tn_session_get(f, part, n, &err);
    }
    check(st == TN_OK);
    if (tn_session_check(f, &err) != TN_OK)
        check(err.text[0] != 0);
    check(tn_session_get(f, part, 1, &err) == TN_INTERNAL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t bytes[FILE_MAX_BYTES];
    static int fd = -1;
    char path[64];
    tn_session_file *f = NULL;
    tn_session_head head;
    tn_err err = {.text = ""};
    if (fd < 0)
        fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (fd < 0 || size == 0 || size > sizeof bytes)
        return 0;
    memcpy(bytes, data + 1, --size);
    if (data[0] % 2 == 1 && size >= HEAD)
        make_true(bytes);
    check(ftruncate(fd, 0) == 0);
    check(pwrite(fd, bytes, size, 0) == (ssize_t)size);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    tn_status st = tn_session_open(path, "fuzz", &f, &head, &err);
    if (st == TN_OK)
        read_parts(f, &head, size);
    else
        check(err.text[0] != 0);
    tn_session_close(f);
    return 0;
}
