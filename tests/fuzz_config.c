/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_config.c - any bytes as config.json and as generation_config.json; a config that is
 * taken must give a whole recipe (small ones only: memory grows with the layers). */
#include "genconf.h"
#include "json.h"
#include "graph.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    tn_json_doc *doc = NULL;
    tn_err err;
    if (tn_json_open((const char *)data, size, "config.json", 64, &doc, &err) != TN_OK)
        return 0;
    tn_model_conf c;
    tn_genconf g;
    tn_genconf_open(&g);
    (void)tn_genconf_read(&g, tn_json_root(doc), "generation_config.json", 1000, &err);
    if (tn_model_conf_read(tn_json_root(doc), &c, &err) == TN_OK && c.layers <= 64) {
        tn_draft d;
        if (tn_graph_build(&c, &(tn_graph_ask){.act_dtype = TN_F16, .npos = c.context}, &d, &err) != TN_OK)
            __builtin_trap();
        tn_draft_close(&d);
    }
    tn_json_close(doc);
    return 0;
}
