/* SPDX-License-Identifier: Apache-2.0 */
/* jinja_shape.h - what a chat template expects of its messages, read off its tree. */
#ifndef TN_JINJA_SHAPE_H
#define TN_JINJA_SHAPE_H

#include "jinja_value.h"

typedef struct tn_jshape {
    bool parts;          /* it loops over a message's content: lists of parts stay lists */
    bool tests_string;   /* it asks whether something is a string: plain content may stay so */
    bool developer;      /* it knows the role developer */
    bool text_arguments; /* it wants a call's arguments as text; set by probing, see chat.c */
} tn_jshape;

tn_jshape tn_jshape_of(const tn_jinja *t);

#endif
