/* SPDX-License-Identifier: Apache-2.0 */
/* throws.cc - L12: throws through the C interface. */
#include <tenon/plugin.h>

static uint32_t claims(void *, const tn_view *, tn_err *)
{
    return 0;
}

static tn_status form_of(void *, const tn_view *, const tn_module *, const tn_rect *, tn_form *,
                         tn_err *)
{
    return TN_NOINPUT;
}

static tn_status cut(void *, const tn_view *, const tn_module *, uint64_t *, uint64_t *, tn_err *)
{
    return TN_OK;
}

static tn_status read_it(void *, const tn_view *, const tn_module *, const tn_rect *, uint64_t,
                         uint64_t, tn_block *, tn_err *)
{
    return TN_NOINPUT;
}

static tn_status init(const tn_host *, void **, tn_err *)
{
    throw 1;
}

static tn_status start(void *, tn_err *)
{
    return TN_OK;
}

static void stop(void *)
{
}

static const tn_quant table = {sizeof(tn_quant), 0, nullptr, claims, form_of, cut, read_it,
                               nullptr, nullptr, nullptr, nullptr};

extern "C" const tn_plugin tn_plugin_entry = {
    TN_ABI_MAJOR, TN_ABI_MINOR, sizeof(tn_plugin), TN_KIND_QUANT, "bad", "1", "Throws.", nullptr,
    0, 0, &table, nullptr, init, start, nullptr, stop};
