/* SPDX-License-Identifier: Apache-2.0 */
/* http_error.c - what a failure looks like on the wire.
 *
 * Clients retry 408, 409, 429 and 5xx by themselves, so what would fail again is a 4xx, and a
 * 500 carries x-should-retry: false. Sentences from inside the house (paths, plugins) do not
 * leave it: they are in the log. */
#include "http.h"

#include <stdio.h>
#include <string.h>

typedef struct known {
    const char *code;
    uint32_t status;
    const char *type;
} known;

/* By the code, where the code alone decides. */
static const known by_code[] = {
    {"invalid_api_key", 401, "authentication_error"},
    {"host_not_allowed", 403, "permission_error"},
    {"origin_not_allowed", 403, "permission_error"},
    {"not_found", 404, "invalid_request_error"},
    {"model_not_found", 404, "invalid_request_error"},
    {"session_not_found", 404, "invalid_request_error"},
    {"sessions_not_offered", 404, "invalid_request_error"},
    {"method_not_allowed", 405, "invalid_request_error"},
    {"request_read_timeout", 408, "timeout_error"},
    {"session_exists", 409, "invalid_request_error"},
    {"cache_full", 409, "rate_limit_error"},
    {"body_too_large", 413, "invalid_request_error"},
    {"session_too_large", 413, "invalid_request_error"},
    {"unsupported_media_type", 415, "invalid_request_error"},
    {"queue_full", 429, "rate_limit_error"},
    {"model_nan", 500, "internal_error"},
    {"loading", 503, "unavailable_error"},
    {"draining", 503, "unavailable_error"},
    {"engine_down", 503, "unavailable_error"},
    {"request_timeout", 504, "timeout_error"},
};

static const known by_status[] = {
    {"invalid_request", 400, "invalid_request_error"},
    {"queue_full", 429, "rate_limit_error"},
    {"bug", 500, "internal_error"},
    {"engine_down", 503, "unavailable_error"},
    {"request_timeout", 504, "timeout_error"},
};

static const known *find(tn_status st, const tn_err *err)
{
    for (size_t i = 0; i < sizeof by_code / sizeof *by_code; i++)
        if (strcmp(err->code, by_code[i].code) == 0)
            return &by_code[i];
    switch (st) {
    case TN_REFUSED:
    case TN_UNSUPPORTED: return &by_status[0];
    case TN_BUSY: return &by_status[1];
    case TN_TIMEOUT: return &by_status[4];
    case TN_UNAVAILABLE:
    case TN_NO_MEMORY:
    case TN_CANCELLED:
    case TN_CUT: return &by_status[3];
    default: return &by_status[2];
    }
}

uint32_t http_error_status(tn_status st, const tn_err *err, const char **type, const char **code)
{
    const known *k = find(st, err);
    *type = k->type;
    *code = err->code[0] != 0 ? err->code : k->code;
    return k->status;
}

void http_reply_error(http_text *out, tn_status st, const tn_err *err, bool event)
{
    const char *type, *code, *text = err->text;
    uint32_t status = http_error_status(st, err, &type, &code);
    if (status == 500 && strcmp(code, "model_nan") != 0)
        text = "the server failed on this request; its log says why";
    http_text_puts(out, event ? "data: {\"error\":{\"message\":" : "{\"error\":{\"message\":");
    http_text_json(out, text, strlen(text));
    http_text_puts(out, ",\"type\":");
    http_text_json(out, type, strlen(type));
    http_text_puts(out, ",\"param\":");
    if (err->param[0] != 0)
        http_text_json(out, err->param, strlen(err->param));
    else
        http_text_puts(out, "null");
    http_text_puts(out, ",\"code\":");
    http_text_json(out, code, strlen(code));
    http_text_puts(out, event ? "}}\n\n" : "}}");
}
