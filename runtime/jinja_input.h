/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_input.h - a request's messages and tools as the values a template expects.
 *
 * The JSON trees are never changed; the values are made anew, with user text marked
 * (jinja_guard.h). On the way they take the form vLLM and transformers give them:
 *  - the role developer becomes system when the template does not know it;
 *  - content that is a list of text parts is joined with newlines unless the template loops
 *    over content; content that is missing or null is empty;
 *  - arguments of tool calls that are JSON in a string become the object they spell;
 *  - reasoning is found as reasoning_content and thinking, whichever name it came under. */
#ifndef TN_JINJA_INPUT_H
#define TN_JINJA_INPUT_H

#include "jinja_guard.h"
#include "jinja_shape.h"

#define TN_JCONTINUE_TAG "CONTINUE_FINAL_MESSAGE_TAG "

typedef struct tn_jinput {
    tn_jrun *r;
    tn_jguard guard;
    tn_jshape shape;
    struct tn_jparsed *parsed;  /* documents made of arguments; closed at the end */
    tn_jval final;              /* what continue_final continues, marked; MISSING: nothing */
} tn_jinput;

void tn_jinput_close(tn_jinput *in);
/* A JSON tree with its texts marked. */
bool tn_jinput_value(tn_jinput *in, const tn_json *v, tn_jval *out);
/* `messages` is a list. With continue_final the last one's text ends with the tag. */
bool tn_jinput_messages(tn_jinput *in, const tn_json *messages, bool continue_final, tn_jval *out);

#endif
