/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_conf.c - any bytes as an INI file, then as values of a table. */
#include "buf.h"
#include "conf.h"
#include "option.h"
#include "settings.h"

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What a configuration prints must read back to the same values. */
static void read_back(const tn_values *v)
{
    tn_buf b;
    tn_conf *c = NULL;
    tn_err err;
    tn_settings again;
    tn_buf_open(&b, 1 << 20);
    tn_values_print(v, &b);
    if (b.failed || tn_conf_open_text(b.data, b.len, "printed", &c, &err) != TN_OK
        || tn_settings_open(c, &again, &err) != TN_OK)
        abort();
    for (uint32_t i = 0; i < v->n; i++)
        if (v->value[i].i != again.values->value[i].i)
            abort();
    tn_settings_close(&again);
    tn_conf_close(c);
    tn_buf_close(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    tn_conf *c = NULL;
    tn_settings s;
    tn_model_settings m;
    tn_err err = {.text = ""};
    if (tn_conf_open_text((const char *)data, size, "fuzz.ini", &c, &err) != TN_OK) {
        if (err.text[0] == 0)
            abort();
        return 0;
    }
    if (tn_settings_open(c, &s, &err) == TN_OK) {
        read_back(s.values);
        tn_settings_close(&s);
    }
    for (uint32_t i = 0; i < tn_conf_count(c, TN_CONF_MODEL); i++)
        if (tn_model_settings_open(c, tn_conf_name(c, TN_CONF_MODEL, i), &m, &err) == TN_OK)
            tn_model_settings_close(&m);
    tn_conf_close(c);
    return 0;
}
