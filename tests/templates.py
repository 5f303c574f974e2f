#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""templates.py - renders templates with tenon and with jinja2 and compares.

  tests/templates.py DRIVER [FILE ...]

DRIVER is the program built from jinja_driver.c. Without files: the snippets of
template_snippets.py, templates made at random (SEED in the environment chooses which), then the
chat templates of tests/data/templates over many conversations. Further files are chat
templates too (text, or a tokenizer_config.json).

jinja2 is set up as transformers' apply_chat_template sets it up. Where jinja2 refuses, tenon
must refuse; where it prints, tenon must print the same bytes."""
import datetime
import functools
import itertools
import json
import os
import subprocess
import sys
import warnings

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

import template_random as randoms
import template_snippets as snippets

HERE = os.path.dirname(os.path.abspath(__file__))
NOW = 1700000000
TAG = "CONTINUE_FINAL_MESSAGE_TAG "


class Generation(jinja2.ext.Extension):
    """{% generation %}, which prints its body."""
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_run"), [], [], body).set_lineno(line)

    @jinja2.pass_eval_context
    def _run(self, context, caller):
        return caller()


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                          sort_keys=sort_keys)

    def strftime_now(format):
        return datetime.datetime.fromtimestamp(NOW).strftime(format)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                        extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = strftime_now
    return env


class Tenon:
    def __init__(self, driver):
        self.p = subprocess.Popen([driver], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, what):
        self.p.stdin.write(json.dumps(dict(what, now=NOW)).encode() + b"\n")
        self.p.stdin.flush()
        line = self.p.stdout.readline()
        if not line:
            sys.exit("the driver died on: %r" % (what.get("source"),))
        return json.loads(line)


class Report:
    def __init__(self):
        self.same = self.refused = 0
        self.wrong = []

    def check(self, name, reference, got, detail=""):
        """reference: (True, text) or (False, reason)."""
        ok, text = reference
        if ok and got.get("ok") and got["text"] == text:
            self.same += 1
        elif not ok and not got.get("ok"):
            self.refused += 1
        else:
            mine = got["text"] if got.get("ok") else "refused: " + str(got.get("error"))
            self.wrong.append("%s%s\n    jinja2: %r\n    tenon:  %r"
                              % (name, detail, text if ok else "refused: " + text, mine))

    def line(self, what):
        print("%s: %d equal, %d refused by both, %d different"
              % (what, self.same, self.refused, len(self.wrong)))


def reference(env, source, variables):
    """Python's own limits are no part of the comparison: a text too long for memory there is one
    that tenon refuses."""
    try:
        text = env.from_string(source).render(**variables)
        text.encode("utf-8")
        return True, text
    except Exception as e:  # jinja2 lets any exception of Python out
        return False, "%s: %s" % (type(e).__name__, e)


# Where Python goes on with longer integers or more memory than a render has, tenon refuses.
REFUSED_HERE = {"9223372036854775807 + 1", "9223372036854775808", "3037000500 * 3037000500",
                "10 ** 19", "1e300|int", "'a' * 10 ** 12"}


def too_large(expression):
    return "1000000000" in expression or "10 ** 12" in expression or "60000000" in expression


def compare_snippets(tenon, env):
    report = Report()
    for expression in snippets.EXPRESSIONS.strip("\n").split("\n"):
        source = "{{ " + expression + " }}"
        got = tenon.ask({"source": source, "vars": snippets.VARS})
        if expression in REFUSED_HERE or too_large(expression):
            report.check(expression, (False, "a limit"), got)
        else:
            report.check(expression, reference(env, source, snippets.VARS), got)
    for source in snippets.STATEMENTS:
        report.check(source, reference(env, source, snippets.VARS),
                     tenon.ask({"source": source, "vars": snippets.VARS}))
    report.line("snippets")
    return report


def compare_whitespace(tenon, env):
    report = Report()
    sources = list(snippets.WHITESPACE_MORE)
    for a, b in itertools.product(snippets.WHITESPACE_TAGS, snippets.WHITESPACE_ENDS):
        for x, y, z in itertools.product(snippets.WHITESPACE_TEXTS, repeat=3):
            sources.append(x + a + y + b + z)
    for source in sources:
        report.check(repr(source), reference(env, source, snippets.VARS),
                     tenon.ask({"source": source, "vars": snippets.VARS}))
    report.line("whitespace")
    return report


# What Python prints of objects without a text of their own is an address; what jinja2 folds
# into a constant it looks up more leniently; and Python's integers have no end.
NO_TEXT = ("object at 0x", "gener", "missing", "built-in", "0x7f")
OTHER_RULES = ("overflow", "64 bits", "memory", "real power", "not subscriptable", "'slice'")


def compare_random(tenon, env, seed, count):
    report = Report()
    made = [(s, snippets.VARS) for s in randoms.expressions(seed, count)]
    made += [(s, randoms.SCOPE_VARS) for s in randoms.programs(seed, count)]
    for source, variables in made:
        ref = reference(env, source, variables)
        got = tenon.ask({"source": source, "vars": variables})
        printed = ref[1].lower() + ref[1].lower()[::-1]
        if any(w in printed for w in NO_TEXT) or "RecursionError" in ref[1]:
            continue
        if not got.get("ok") and any(w in got["error"] for w in OTHER_RULES):
            continue
        report.check(source, ref, got)
    report.line("at random, seed %d" % seed)
    if report.same + report.refused + len(report.wrong) < len(made) * 2 // 3:
        report.wrong.append("most templates at random were left out: nothing was compared")
    return report


# ---------------------------------------------------------------------------- chat templates

TOOLS = [
    {"type": "function", "function": {
        "name": "get_weather", "description": "Weather at a place <now> & \"later\"",
        "parameters": {"type": "object", "properties": {
            "city": {"type": "string", "description": "Name of the city"},
            "unit": {"type": "string", "enum": ["C", "F"], "default": "C"},
            "days": {"type": ["integer", "null"], "minimum": 1}},
            "required": ["city"]},
        "return": {"type": "string"}}},
    {"type": "function", "function": {
        "name": "größe", "description": "",
        "parameters": {"type": "object", "properties": {
            "list": {"type": "array", "items": {"type": "number"}},
            "o": {"type": "object", "properties": {"a": {"type": "boolean"}}}}, "required": []}}},
]


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return dict({"role": "assistant", "content": text}, **more)


def call(name, arguments, id="abcdef123"):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def conversations():
    system = {"role": "system", "content": "You are a *careful* helper.\nTwo lines."}
    calls = assistant("", tool_calls=[call("get_weather", {"city": "Zürich", "days": 2})])
    two_calls = assistant("Let me look.", tool_calls=[
        call("get_weather", {"city": "O'Hare \"x\"", "unit": "F"}),
        call("größe", {"list": [1, 2.5, None], "o": {"a": True}}, "abcdef124")])
    result = {"role": "tool", "name": "get_weather", "tool_call_id": "abcdef123",
              "content": "{\"temp\": 21.5}"}
    result2 = {"role": "tool", "name": "größe", "tool_call_id": "abcdef124", "content": "12 m"}
    return {
        "one": [user("Hi")],
        "system": [system, user("Hi")],
        "empty user": [user("")],
        "blanks": [user("  \n padded \n\n")],
        "turns": [system, user("Hi"), assistant("Hello!"), user("How are you?")],
        "turns without system": [user("Hi"), assistant(" Hello! "), user("And now?"), assistant("x")],
        "unicode": [user("日本語 😀 ßtraße\u00a0\u2028x"), assistant("Ελληνικά"), user("ok")],
        "markup": [user("<b>&amp; {{ 7*7 }} {% raw %} <|im_end|> [INST] </s>"), assistant("<x>"), user("y")],
        "tools": [system, user("Weather?"), calls, result, assistant("21.5 degrees")],
        "tools open": [user("Weather?"), calls, result],
        "two calls": [user("Both"), two_calls, result, result2, assistant("done"), user("thanks")],
        "reasoning": [user("2+2"), assistant("4", reasoning_content="two and two", thinking="two and two"),
                      user("3+3"), assistant("6", reasoning_content="hm", thinking="hm")],
        "think": [user("2+2"), assistant("<think>\nlong\n</think>\n\n4"), user("go on")],
        "two systems": [system, user("a"), {"role": "system", "content": "later"}, user("b")],
        "wrong order": [assistant("first"), user("second"), user("third")],
        "unknown role": [user("a"), {"role": "critic", "content": "b"}],
        "parts": [user([{"type": "text", "text": "part one"}, {"type": "text", "text": "part two"}])],
        "none": [],
    }


def settings():
    yield "", {}
    yield " +gen", {"add_generation": True}
    yield " +tools", {"tools": TOOLS, "add_generation": True}
    yield " -thinking", {"add_generation": True, "kwargs": {"enable_thinking": False, "date_string": "1 Jan 2025"}}
    yield " +final", {"continue_final": True}


SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


def continued(text, final):
    if final.strip() not in text or TAG.strip() not in text:
        raise ValueError("the final message does not appear")
    at = text.rindex(TAG.strip())
    return text[:at] if text[at:at + len(TAG)] == TAG else text[:at].rstrip()


@functools.lru_cache(maxsize=4)
def compiled(env, source):
    return env.from_string(source)


def chat_reference(env, source, messages, how, special):
    """What transformers would give, with the messages as tenon hands them over."""
    try:
        template = compiled(env, source)
        messages = json.loads(json.dumps(messages))
        final = None
        if how.get("continue_final"):
            last = messages[-1]
            if isinstance(last["content"], list):
                final = last["content"][-1]["text"]
                last["content"][-1]["text"] += TAG
            else:
                final = last["content"]
                last["content"] += TAG
        text = template.render(messages=messages, tools=how.get("tools"), documents=None,
                               add_generation_prompt=how.get("add_generation", False),
                               **dict(special, **how.get("kwargs", {})))
        if final is not None:
            text = continued(text, final)
        if text == "":
            raise ValueError("the prompt is empty")
        return True, text
    except Exception as e:
        return False, "%s: %s" % (type(e).__name__, e)


def compare_chat(tenon, env, name, source, report):
    """Through the template's variables, so that nothing but the interpreter is compared."""
    for (title, messages), (mode, how) in itertools.product(conversations().items(), settings()):
        if how.get("continue_final"):
            continue
        ref = chat_reference(env, source, messages, how, SPECIAL)
        variables = dict(SPECIAL, messages=messages, tools=how.get("tools"), documents=None,
                         add_generation_prompt=how.get("add_generation", False), **how.get("kwargs", {}))
        got = tenon.ask({"source": source, "vars": variables})
        if got.get("ok") and got["text"] == "":
            got = {"ok": False, "error": "empty"}
        report.check(name, ref, got, " [%s%s]" % (title, mode))


def compare_requests(tenon, env, name, source, report):
    """Through tn_chat_render, where it hands messages over unchanged."""
    for (title, messages), (mode, how) in itertools.product(conversations().items(), settings()):
        if title in ("parts", "none", "reasoning"):
            continue
        special = {}
        ref = chat_reference(env, source, messages, how, special)
        got = tenon.ask({"source": source, "chat": dict(how, messages=messages)})
        report.check(name, ref, got, " [request, %s%s]" % (title, mode))


def chat_sources(paths):
    for path in paths:
        with open(path, encoding="utf-8") as f:
            text = f.read()
        if not path.endswith(".json"):
            yield os.path.basename(path), text
            continue
        templates = json.loads(text).get("chat_template")
        if isinstance(templates, str):
            templates = [{"name": "default", "template": templates}]
        for t in templates or []:
            yield "%s (%s)" % (os.path.basename(path), t["name"]), t["template"]


def main():
    driver, more = sys.argv[1], sys.argv[2:]
    warnings.simplefilter("ignore")  # of Python about what jinja2 made of a template
    tenon, env = Tenon(driver), environment()
    reports = []
    if not more:
        reports += [compare_snippets(tenon, env), compare_whitespace(tenon, env),
                    compare_random(tenon, env, int(os.environ.get("SEED", "1")), 1500)]
        folder = os.path.join(HERE, "data", "templates")
        more = [os.path.join(folder, n) for n in sorted(os.listdir(folder))]
    chat, requests = Report(), Report()
    for name, source in chat_sources(more):
        printed = chat.same
        compare_chat(tenon, env, name, source, chat)
        if chat.same == printed:
            print("%s prints nothing: it proves nothing" % name)
        compare_requests(tenon, env, name, source, requests)
    chat.line("chat templates")
    requests.line("chat requests")
    wrong = [w for r in reports + [chat, requests] for w in r.wrong]
    for w in wrong[:int(os.environ.get("SHOW", "40"))]:
        print("DIFFERENT", w)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
