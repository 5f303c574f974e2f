/* SPDX-License-Identifier: Apache-2.0 */
/* json.h - a strict JSON reader (RFC 8259) into the read-only tree of plugin.h.
 *
 * Refuses, with the byte offset: anything outside the grammar, invalid UTF-8, lone
 * surrogates, duplicate keys, nesting deeper than the limit, trailing text. Integers that
 * fit int64 stay exact. Strings keep U+0000 (use `text` with `count`). err->code is one of
 * "invalid_json", "invalid_utf8", "too_deep", "duplicate_key". */
#ifndef TN_JSON_READ_H
#define TN_JSON_READ_H

#include <tenon/plugin.h>

#include <stdbool.h>
#include <stddef.h>

#define TN_JSON_DEPTH_REQUEST 64
#define TN_JSON_DEPTH_FILE 128

/* Parses `size` bytes (not necessarily NUL-terminated; copied, so the source may go).
 * `what` names the source in errors ("config.json"). `*doc` owns every node; close it. */
tn_status tn_json_open(const char *text, size_t size, const char *what, uint32_t depth_max,
                       tn_json_doc **doc, tn_err *err);
void tn_json_close(tn_json_doc *doc);
const tn_json *tn_json_root(const tn_json_doc *doc);
bool tn_json_is_key(const tn_json *member, const char *key); /* of an object */

/* Reads a whole file of at most `size_max` bytes and parses it. TN_NOINPUT when absent. */
tn_status tn_json_open_file(const char *path, size_t size_max, tn_json_doc **doc, tn_err *err);

/* Typed reads of a member. Absent and null give the fallback; another type is an error that
 * names `what` and the key (err->param = key, err->code = "wrong_type"). */
tn_status tn_json_get_int(const tn_json *o, const char *key, const char *what, int64_t fallback,
                          int64_t least, int64_t greatest, int64_t *out, tn_err *err);
tn_status tn_json_get_float(const tn_json *o, const char *key, const char *what, double fallback,
                            double *out, tn_err *err);
tn_status tn_json_get_bool(const tn_json *o, const char *key, const char *what, bool fallback,
                           bool *out, tn_err *err);
/* Borrowed from the document; an embedded NUL is refused. */
tn_status tn_json_get_text(const tn_json *o, const char *key, const char *what,
                           const char *fallback, const char **out, tn_err *err);

struct tn_buf;
/* Writes a tree back. `python` gives json.dumps(ensure_ascii=False) separators (", ", ": "),
 * else none. `indent` > 0 pretty-prints with that many blanks a level. */
void tn_json_write(const tn_json *v, bool python, int indent, struct tn_buf *out);

#endif
