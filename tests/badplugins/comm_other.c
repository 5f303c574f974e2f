/* SPDX-License-Identifier: Apache-2.0 */
/* comm_other.c - the skeleton's communicator with one promise broken, by -DBITS, -DSTATUS or
 * -DCROWD. */
#define tn_plugin_entry honest_entry
#include "../../plugins/skeleton/comm_shared.c"
#undef tn_plugin_entry

extern TN_EXPORT const tn_plugin tn_plugin_entry;

/* Sums that round differ in their last bit on rank 1. */
static tn_status reduce_otherwise(void *group_, void *x, uint64_t count, uint32_t dtype,
                                  void *stream, tn_err *err)
{
    tn_status st = all_reduce(group_, x, count, dtype, stream, err);
    uint32_t *u = x;
#if defined(BITS)
    if (st == TN_OK && ((group *)group_)->rank == 1 && (u[0] & 0xfffu) != 0)
        u[0] ^= 1u;
#endif
#if defined(STATUS)
    if (st == TN_CANCELLED)
        st = TN_UNAVAILABLE;
#endif
    (void)u;
    return st;
}

static tn_status join_anyhow(void *self, const uint8_t id[TN_COMM_ID_SIZE], uint32_t rank,
                             uint32_t nrank, uint32_t device, uint32_t timeout_ms, void **out,
                             tn_err *err)
{
#if defined(CROWD)
    if (rank >= nrank)
        return TN_OK;
#endif
    return join(self, id, rank, nrank, device, timeout_ms, out, err);
}

static const tn_comm other = {
    .size = sizeof(tn_comm),
    .flags = TN_COMM_HOST,
    .make_id = make_id,
    .join = join_anyhow,
    .all_reduce = reduce_otherwise,
    .all_gather = all_gather,
    .broadcast = broadcast,
    .barrier = barrier,
    .abort = abort_group,
    .health = health,
    .leave = leave,
};

const tn_plugin tn_plugin_entry = {
    .abi_major = TN_ABI_MAJOR,
    .abi_minor = TN_ABI_MINOR,
    .size = sizeof(tn_plugin),
    .kind = TN_KIND_COMM,
    .name = "comm_other",
    .version = "1.0",
    .summary = "Joins ranks, but.",
    .table = &other,
    .init = init,
    .start = start,
    .stop = stop,
};
