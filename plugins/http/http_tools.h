/* SPDX-License-Identifier: Apache-2.0 */
/* http_tools.h - finds the tool calls in a reply, piece by piece.
 *
 *     <tool_call>                              <tool_call>
 *     {"name": NAME, "arguments": {...}}       <function=NAME>
 *     </tool_call>                             <parameter=P>
 *                                              VALUE
 *     the hermes form                          </parameter>
 *                                              </function>
 *                                              </tool_call>
 *                                              the qwen3_coder form
 *
 * Text goes in, in any pieces; events come out. What the events say together does not depend
 * on where the pieces were cut:
 *
 *     CONTENT   text outside of calls
 *     BEGIN     a call, with its function's name
 *     ARGUMENTS the next part of its arguments, an object in JSON
 *     END       the call is whole
 *     BROKEN    the call that had begun is none: this is all its text
 *
 * Between BEGIN and its END or BROKEN nothing but ARGUMENTS comes. A call that is wrong before
 * its BEGIN is CONTENT. So all text comes back either as CONTENT or BROKEN, or is in a call
 * that is whole; only blanks around calls are dropped. At the end of the text a call that
 * lacks only its closing tag is whole.
 *
 * Nothing is held but the text of the call under way, at most HTTP_CALL_MAX bytes; a longer
 * one is broken. The hermes form takes members in any order and ignores further ones;
 * arguments that are null or absent are {}. */
#ifndef HTTP_TOOLS_H
#define HTTP_TOOLS_H

#include "http_value.h"

#define HTTP_CALL_MAX (256u * 1024u)
#define HTTP_CALL_NAME_MAX 256u

/* Forms that are looked for. */
#define HTTP_FORM_HERMES 1u
#define HTTP_FORM_XML 2u

enum { HTTP_SAYS_CONTENT, HTTP_SAYS_BEGIN, HTTP_SAYS_ARGUMENTS, HTTP_SAYS_END, HTTP_SAYS_BROKEN };

/* Types that a function's schema lets a parameter have. */
#define HTTP_MAY_TEXT 1u
#define HTTP_MAY_NULL 2u
#define HTTP_MAY_BOOL 4u
#define HTTP_MAY_OTHER 8u

typedef struct http_tools_sink {
    void *ctx;
    void (*event)(void *ctx, uint32_t kind, const char *text, size_t size);
    /* HTTP_MAY_* of a parameter, 0 when nothing is known of it. The qwen3_coder form asks. */
    uint32_t (*types)(void *ctx, const char *function, const char *parameter);
} http_tools_sink;

/* All members are private; http_calljson.c and http_callxml.c read the two forms of a call. */
typedef struct http_tools {
    http_tools_sink to;
    uint32_t forms, state;
    uint32_t matched;            /* bytes of the tag under way */
    bool fresh;                  /* nothing but blanks since the start or the last call */
    uint32_t nwhole;             /* calls that ended well */
    http_text said;              /* content not yet handed on */
    http_text raw;               /* blanks before a call, and the call under way */
    /* The call under way. */
    bool xml;                    /* in the qwen3_coder form */
    bool ready, begun;           /* BEGIN may go out; is out */
    uint32_t name_size;          /* 0: not known */
    char name[HTTP_CALL_NAME_MAX + 1];
    http_text out;               /* JSON: hermes, the whole body; qwen3_coder, the arguments */
    size_t sent, limit;          /* in `out`: arguments handed on; that may be handed on */
    /* In the hermes form. */
    http_value value;            /* the body */
    uint32_t member;             /* whose value is under way */
    size_t member_at;            /* where that began, in `out` */
    bool has_arguments, arguments_end;
    /* In the qwen3_coder form. */
    uint32_t place;              /* in its grammar */
    const char *tag;             /* under way, borrowed */
    uint32_t may, nparameter, parameter_size, tail_size;
    bool value_begun;
    char parameter[HTTP_CALL_NAME_MAX + 1];
    char tail[16];               /* of a value: what may belong to its closing tag */
    http_text held;              /* a value that is no text */
    http_text names;             /* of the parameters so far, each terminated */
} http_tools;

void http_tools_open(http_tools *t, uint32_t forms, const http_tools_sink *to);
void http_tools_close(http_tools *t);
void http_tools_put(http_tools *t, const char *text, size_t size);
/* No text follows. */
void http_tools_end(http_tools *t);
/* Memory ran out; events are missing. */
bool http_tools_has_failed(const http_tools *t);

/* The bodies of a call, byte by byte from the first: HTTP_VALUE_MORE, DONE or BAD. They write
 * `out` and move `limit`, and set `name` and `ready`. */
void http_calljson_open(http_tools *t);
uint32_t http_calljson_put(http_tools *t, char c);
void http_callxml_open(http_tools *t);
uint32_t http_callxml_put(http_tools *t, char c);

#endif
