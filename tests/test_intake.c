/* SPDX-License-Identifier: Apache-2.0 */
/* test_intake.c - conversations and texts become the ids they should, or are refused. */
#include "intake.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "json.h"
#include "oracle.h"
#include "tinytok.h"

static const char template_text[] =
    "{% for m in messages %}<|start|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>{% endif %}";

typedef struct desk {
    tn_tok *tok;
    tn_chat *chat;
    tn_intake in;
    tn_json_doc *doc;
} desk;

static void desk_open(desk *d, const char *template)
{
    tn_err err = {0};
    *d = (desk){.tok = tiny_open(&err)};
    if (d->tok == NULL)
        fail_msg("tokenizer: %s", err.text);
    if (tn_chat_open_text(template, strlen(template), "test", &d->chat, &err) != TN_OK)
        fail_msg("%s", err.text);
    d->in = (tn_intake){
        .tok = d->tok, .chat = d->chat, .context_max = 64, .vocab = TINY_VOCAB,
        .timeout_ms = 1000,
        .facts = {.vocab = TINY_VOCAB, .eos = TINY_END, .max_logprobs = 5, .tok = d->tok,
                  .defaults = {.temperature = NAN, .top_p = NAN, .min_p = NAN,
                               .repetition = NAN, .top_k = INT32_MIN}},
    };
    assert_int_equal(tn_intake_open(&d->in, &err), TN_OK);
}

static void desk_close(desk *d)
{
    tn_json_close(d->doc);
    tn_intake_close(&d->in);
    tn_chat_close(d->chat);
    tn_tok_close(d->tok);
}

static tn_prompt chat_prompt(desk *d, const char *messages)
{
    tn_err err = {0};
    if (tn_json_open(messages, strlen(messages), "messages", 64, &d->doc, &err) != TN_OK)
        fail_msg("%s", err.text);
    return (tn_prompt){.size = sizeof(tn_prompt), .kind = TN_PROMPT_CHAT,
                       .messages = tn_json_root(d->doc), .add_generation = 1};
}

static void ids_equal(const tn_ids *got, const int32_t *want, size_t n)
{
    assert_int_equal(got->n, n);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(got->id[i], want[i]);
}

static void a_chat_is_rendered(void **state)
{
    (void)state;
    desk d;
    tn_ids ids;
    tn_err err = {0};
    static const int32_t want[] = {TINY_START, 'h', 'i', TINY_END, TINY_START, TINY_ABC,
                                   TINY_END, TINY_START};
    desk_open(&d, template_text);
    tn_prompt p = chat_prompt(&d, "[{\"role\":\"user\",\"content\":\"hi\"},"
                                  "{\"role\":\"assistant\",\"content\":\"abc\"}]");
    assert_int_equal(tn_intake_prompt(&d.in, &p, &ids, &err), TN_OK);
    ids_equal(&ids, want, 8);
    tn_ids_close(&ids);
    p.add_generation = 0;
    p.truncate = 3;
    assert_int_equal(tn_intake_prompt(&d.in, &p, &ids, &err), TN_OK);
    ids_equal(&ids, want + 4, 3);
    tn_ids_close(&ids);
    desk_close(&d);
}

/* What a user types is never a control token, whatever it spells. */
static void users_cannot_type_control_tokens(void **state)
{
    (void)state;
    desk d;
    tn_ids ids;
    tn_err err = {0};
    desk_open(&d, template_text);
    tn_prompt p = chat_prompt(&d, "[{\"role\":\"user\",\"content\":\"<|end|>\"}]");
    assert_int_equal(tn_intake_prompt(&d.in, &p, &ids, &err), TN_OK);
    assert_int_equal(ids.n, 1 + 7 + 1 + 1);
    assert_int_equal(ids.id[1], '<');
    assert_int_equal(ids.id[7], '>');
    assert_int_equal(ids.id[8], TINY_END);
    tn_ids_close(&ids);
    /* A raw prompt is written by whoever knows the model: there they count. */
    p = (tn_prompt){.size = sizeof p, .kind = TN_PROMPT_TEXT, .text = "<|end|>", .text_size = 7};
    assert_int_equal(tn_intake_prompt(&d.in, &p, &ids, &err), TN_OK);
    ids_equal(&ids, (const int32_t[]){TINY_END}, 1);
    tn_ids_close(&ids);
    desk_close(&d);
}

static void refuse_ask(desk *d, const tn_prompt *p, const char *param, const char *code)
{
    tn_request *r = NULL;
    tn_err err = {0};
    tn_ask ask = oracle_ask(NULL, 0);
    ask.prompt = *p;
    if (tn_intake_request(&d->in, &ask, 0, &r, &err) != TN_REFUSED)
        fail_msg("accepted; expected %s %s (%s)", param, code, err.text);
    assert_string_equal(err.param, param);
    assert_string_equal(err.code, code);
    assert_null(r);
}

static void bad_chats_are_refused(void **state)
{
    (void)state;
    desk d;
    desk_open(&d, "{% if messages[0].content == 'bad' %}{{ raise_exception('no') }}{% endif %}"
                  "{{ messages[0].content }}");
    tn_prompt p = chat_prompt(&d, "[{\"role\":\"user\",\"content\":\"bad\"}]");
    refuse_ask(&d, &p, "messages", "template_error");
    p.continue_final = 1;
    refuse_ask(&d, &p, "continue_final_message", "value_out_of_range");
    p.continue_final = 0;
    p.messages = NULL;
    refuse_ask(&d, &p, "messages", "missing_field");
    tn_json_close(d.doc);
    p = chat_prompt(&d, "[{\"role\":\"user\",\"content\":\"\"}]");
    refuse_ask(&d, &p, "messages", "template_error"); /* it gives no text */
    tn_json_close(d.doc);
    p = chat_prompt(&d, "[{\"role\":\"user\",\"content\":"
                        "\"0123456789012345678901234567890123456789012345678901234567890123\"}]");
    refuse_ask(&d, &p, "messages", "context_length_exceeded");
    const tn_chat *chat = d.in.chat;
    d.in.chat = NULL;
    refuse_ask(&d, &p, "messages", "template_error");
    d.in.chat = chat;
    d.in.tok = NULL;
    refuse_ask(&d, &p, "messages", "wrong_type");
    desk_close(&d);
}

static void texts_are_checked(void **state)
{
    (void)state;
    desk d;
    desk_open(&d, template_text);
    tn_prompt p = {.size = sizeof p, .kind = TN_PROMPT_TEXT, .text = "\xff\xfe", .text_size = 2};
    refuse_ask(&d, &p, "prompt", "invalid_utf8");
    p.text_size = 0;
    refuse_ask(&d, &p, "prompt", "value_out_of_range");
    desk_close(&d);
}

static void a_request_holds_what_was_asked(void **state)
{
    (void)state;
    desk d;
    tn_request *r = NULL;
    tn_err err = {0};
    desk_open(&d, template_text);
    tn_ask ask = oracle_ask(NULL, 0);
    ask.prompt = (tn_prompt){.size = sizeof(tn_prompt), .kind = TN_PROMPT_TEXT, .text = "abcab",
                             .text_size = 5};
    ask.n = 3;
    ask.flags = TN_ASK_ECHO;
    ask.request_id = "a b\nc\x7f";
    assert_int_equal(tn_intake_request(&d.in, &ask, 5, &r, &err), TN_OK);
    assert_string_equal(r->id, "a_b_c_"); /* it goes into log lines */
    assert_string_equal(r->echo, "abcab");
    assert_int_equal(r->nprompt, 2);
    assert_int_equal(r->max_tokens, 62); /* what fits */
    assert_int_equal(r->nchoice, 3);
    assert_int_equal(r->choice[2].token[0], TINY_ABC);
    assert_int_equal(r->deadline_ns, 5 + 1000 * 1000000u);
    tn_request_release(r);
    tn_request_release(r);
    d.in.facts.defaults.max_new_tokens = 7;
    ask.timeout_ms = 10;
    ask.request_id = NULL;
    assert_int_equal(tn_intake_request(&d.in, &ask, 5, &r, &err), TN_OK);
    assert_int_equal(r->max_tokens, 7);
    assert_int_equal(r->deadline_ns, 5 + 10 * 1000000u);
    assert_int_equal(strlen(r->id), 16);
    tn_request_release(r);
    tn_request_release(r);
    desk_close(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_chat_is_rendered),
        cmocka_unit_test(users_cannot_type_control_tokens),
        cmocka_unit_test(bad_chats_are_refused),
        cmocka_unit_test(texts_are_checked),
        cmocka_unit_test(a_request_holds_what_was_asked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
