# SPDX-License-Identifier: Apache-2.0
"""Tool calls and reasoning over HTTP, with the official OpenAI client.

The model says what it is told: its weights are a table from each token to the next, and every
token of a script occurs once. A script's tokens are cut at random places, so that tags, names
and JSON arrive in pieces."""
import json
import os
import random
import re
import shutil
import tempfile

import numpy as np
import openai
import requests
from safetensors.numpy import save_file
from tokenizers import AddedToken

from tenonlib import TOP, Counter, Server, make_tokenizer, run, write_ini, write_json

check = Counter()
folder = tempfile.mkdtemp(prefix="tenon-tools-")


def hermes(name, arguments):
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


PARIS, OSLO = '{"city": "Paris", "days": 3}', '{"city": "Oslo \\"Ж\\" 🙂", "near": [1.5, null, {}]}'
CODER = ("<tool_call>\n<function=get_weather>\n<parameter=city>\nRio\n</parameter>\n<parameter=days>\n"
         "7\n</parameter>\n<parameter=near>\n[1, \"x\"]\n</parameter>\n<parameter=note>\na \"b\"\n<i>"
         "\n</parameter>\n</function>\n</tool_call>")
SCRIPTS = {
    "plain": "Just words, <no> call.",
    "one": hermes("get_weather", PARIS),
    "two": "Both, then:\n" + hermes("get_weather", '{"city":"Rome"}') + "\n" + hermes("add", OSLO),
    "odd": 'See: <tool_call>\n{"name": "get_weather", oops}\n</tool_call> end',
    "broken": 'Go <tool_call>{"name": "add", "arguments": {"a": [1, 2}}\n</tool_call> so',
    "thought": "<think>\nIt is raining?\n</think>\n\nNo, dry.",
    "opened": "The prompt opened this.</think>Done.",
    "endless": "I never stop thinking",
    "both": "Weather first.\n</think>\n\n" + hermes("get_weather", '{"city": "Bern"}'),
    "coder": "Looking.\n" + CODER,
}


def cut(text, taken, r):
    """The text as chunks, none of which is taken or occurs twice."""
    chunks, at = [], 0
    while at < len(text):
        end = min(len(text), at + r.randint(1, 6))
        while text[at:end] in taken and end < len(text):
            end += 1
        if text[at:end] in taken:
            at -= len(chunks[-1])
            taken.discard(chunks.pop())
            end = len(text)
        chunks.append(text[at:end])
        taken.add(text[at:end])
        at = end
    assert "".join(chunks) == text
    return chunks


def make_script_model(path, texts, special=()):
    """One token leads to the next: embeddings are one-hot, layers add nothing, and the head is
    the table. The prompt's last token says which script begins. What is special is a token of
    its own, and occurs once."""
    os.makedirs(path)
    t = make_tokenizer(path)
    r, taken, scripts = random.Random(4), {*t.get_vocab(), *special}, {}
    for name, text in texts.items():
        parts = re.split("(" + "|".join(map(re.escape, special)) + ")", text) if special else [text]
        scripts[name] = [c for p in parts if p for c in ([p] if p in special else cut(p, taken, r))]
    starts = {name: f"⟦{name}⟧" for name in scripts}  # no chunk has these brackets
    t.add_tokens([AddedToken(c, normalized=False) for c in
                  [*starts.values(), *(c for s in scripts.values() for c in s if c not in special)]])
    t.add_special_tokens([AddedToken(c, special=True, normalized=False) for c in special])
    t.save(os.path.join(path, "tokenizer.json"))
    config = json.load(open(os.path.join(path, "tokenizer_config.json"), encoding="utf-8"))
    template = open(os.path.join(TOP, "tests", "data", "templates", "thinking.jinja"),
                    encoding="utf-8").read()
    config["chat_template"] = template + "{{- '⟦' + (script or 'plain') + '⟧' }}"
    write_json(os.path.join(path, "tokenizer_config.json"), config)
    size = t.get_vocab_size() + -t.get_vocab_size() % 32
    head = np.zeros((size, size), np.float16)
    for name, chunks in scripts.items():
        ids = [t.token_to_id(x) for x in (starts[name], *chunks)] + [2]
        assert len(set(ids)) == len(ids)
        head[ids[1:], ids[:-1]] = 4
    w = {"model.embed_tokens": np.eye(size, dtype=np.float16), "lm_head": head}
    p = "model.layers.0."
    for n, rows, cols in (("self_attn.q_proj", 64, size), ("self_attn.k_proj", 32, size),
                          ("self_attn.v_proj", 32, size), ("self_attn.o_proj", size, 64),
                          ("mlp.gate_proj", 32, size), ("mlp.up_proj", 32, size),
                          ("mlp.down_proj", size, 32)):
        w[p + n] = np.zeros((rows, cols), np.float16)
    for n in (p + "input_layernorm", p + "post_attention_layernorm", "model.norm"):
        w[n] = np.ones(size, np.float16)
    save_file({k + ".weight": v for k, v in w.items()}, os.path.join(path, "model.safetensors"),
              metadata={"format": "pt"})
    write_json(os.path.join(path, "config.json"), {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": size,
        "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        "intermediate_size": 32, "vocab_size": size, "max_position_embeddings": 16384,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False,
        "hidden_act": "silu", "torch_dtype": "float16", "bos_token_id": 0, "eos_token_id": 2})
    write_json(os.path.join(path, "generation_config.json"), {"eos_token_id": [2]})
    return path


SCHEMA = {"type": "object", "properties": {
    "city": {"type": "string"}, "days": {"type": "integer"}, "near": {"type": ["array", "null"]},
    "note": {"type": "string"}}}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "Weather.",
                                           "parameters": SCHEMA}},
         {"function": {"strict": False, "name": "add"}, "type": "function"}]
HELLO = [{"role": "user", "content": "Weather?"}]


class Talk:
    """Asks for a script, whole or as a stream; both give the same shape."""
    def __init__(self, url):
        self.url = url
        self.client = openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0)

    def create(self, script, messages=HELLO, kwargs=None, body=None, **more):
        return self.client.chat.completions.create(
            model="default", messages=messages, temperature=0, **more,
            extra_body={"chat_template_kwargs": {"script": script, **(kwargs or {})}, **(body or {})})

    def whole(self, script, **more):
        c = self.create(script, **more).choices[0]
        calls = [(x.id, x.function.name, x.function.arguments) for x in c.message.tool_calls or []]
        assert all(x.type == "function" for x in c.message.tool_calls or [])
        return {"content": c.message.content, "calls": calls, "finish": c.finish_reason,
                "reasoning": c.message.model_extra.get("reasoning")}

    def streamed(self, script, index=0, **more):
        told = {"content": "", "calls": [], "finish": None, "reasoning": ""}
        for event in self.create(script, stream=True, **more):
            for c in event.choices:
                assert told["finish"] is None or c.index != index
                if c.index != index:
                    continue
                told["finish"] = c.finish_reason
                told["content"] += c.delta.content or ""
                told["reasoning"] += c.delta.model_extra.get("reasoning") or ""
                for x in c.delta.tool_calls or []:
                    if x.id is not None:
                        assert x.index == len(told["calls"]) and x.type == "function"
                        assert x.function.arguments == ""
                        told["calls"].append([x.id, x.function.name, []])
                    else:
                        assert x.index == len(told["calls"]) - 1
                        assert x.type is None and x.function.name is None and x.function.arguments
                        told["calls"][-1][2].append(x.function.arguments)
        told["fragments"] = [len(x[2]) for x in told["calls"]]
        told["calls"] = [(i, n, "".join(a)) for i, n, a in told["calls"]]
        return told

    def agree(self, script, content, calls, finish, reasoning=None, **more):
        for told in (self.whole(script, **more), self.streamed(script, **more)):
            assert (told["content"] or None) == content, told
            assert [x[1:] for x in told["calls"]] == calls, told
            assert told["finish"] == finish, told
            assert (told["reasoning"] or None) == reasoning, told
            for x in told["calls"]:
                assert re.fullmatch(r"chatcmpl-tool-[0-9a-f]{32}", x[0]), x
                json.loads(x[2])
        return told

    def prompt(self, messages, **more):
        r = requests.post(self.url + "/tokenize", json={"messages": messages, **more}).json()
        return requests.post(self.url + "/detokenize", json={"tokens": r["tokens"]}).json()["prompt"]

    def refuse(self, body, code, param=None):
        for stream in (False, True):
            r = requests.post(self.url + "/v1/chat/completions",
                              json={"messages": HELLO, "stream": stream, **body})
            assert r.status_code == 400, (r.status_code, r.text[:300])
            e = r.json()["error"]
            assert e["code"] == code and "expected " in e["message"], e
            assert param is None or e["param"] == param, e
        return e["message"]


def calls(talk):
    weather = [("get_weather", PARIS)]
    with check("a call, whole and streamed"):
        told = talk.agree("one", None, weather, "tool_calls", tools=TOOLS)
        assert told["fragments"][0] > 2, told
    with check("a reply without calls"):
        talk.agree("plain", SCRIPTS["plain"], [], "stop", tools=TOOLS)
    with check("two calls behind text; parallel_tool_calls"):
        two = [("get_weather", '{"city": "Rome"}'), ("add", OSLO)]
        told = talk.agree("two", "Both, then:\n", two, "tool_calls", tools=TOOLS)
        assert told["calls"][0][0] != told["calls"][1][0]
        talk.agree("two", "Both, then:\n", two[:1], "tool_calls", tools=TOOLS,
                   parallel_tool_calls=False)
    with check("without tools and with tool_choice none the text stays text"):
        talk.agree("one", SCRIPTS["one"], [], "stop")
        talk.agree("one", SCRIPTS["one"], [], "stop", tools=TOOLS, tool_choice="none")
        talk.agree("one", SCRIPTS["one"], [], "stop", body={"tools": []})
    with check("what is no call comes back"):
        talk.agree("odd", SCRIPTS["odd"], [], "stop", tools=TOOLS)
        assert talk.whole("broken", tools=TOOLS) == {
            "content": SCRIPTS["broken"], "calls": [], "finish": "stop", "reasoning": None}
        told = talk.streamed("broken", tools=TOOLS)
        assert told["content"] == SCRIPTS["broken"] and told["finish"] == "stop", told
        assert [x[1:] for x in told["calls"]] == [("add", '{"a": [1, ')], told
    with check("a call that max_tokens cuts"):
        told = talk.whole("one", tools=TOOLS, max_tokens=12)
        assert told["finish"] == "length" and told["calls"] == [], told
        assert SCRIPTS["one"].startswith(told["content"]) and len(told["content"]) > 12, told
    with check("the client's own stream helper puts the calls together"):
        with talk.client.chat.completions.stream(
                model="default", messages=HELLO, temperature=0, tools=TOOLS[:1],
                extra_body={"chat_template_kwargs": {"script": "two"}}) as stream:
            m = stream.get_final_completion().choices[0].message
        assert m.content == "Both, then:\n", m
        assert [x.function.arguments for x in m.tool_calls] == ['{"city": "Rome"}', OSLO], m
    with check("n = 3: every call has an id of its own"):
        r = talk.create("two", tools=TOOLS, n=3)
        ids = [x.id for c in r.choices for x in c.message.tool_calls]
        assert len(ids) == 6 and len(set(ids)) == 6, ids
        for i in range(3):
            told = talk.streamed("two", index=i, tools=TOOLS, n=3)
            assert [x[1] for x in told["calls"]] == ["get_weather", "add"], told
    with check("log-probabilities, usage and token ids beside calls"):
        events = list(talk.create("one", tools=TOOLS, stream=True, logprobs=True, top_logprobs=1,
                                  stream_options={"include_usage": True},
                                  body={"return_token_ids": True}))
        tokens = [t for e in events for c in e.choices if c.logprobs
                  for t in c.logprobs.content]
        ids = [i for e in events for c in e.choices for i in c.model_extra.get("token_ids") or []]
        assert len(tokens) == len(ids) == events[-1].usage.completion_tokens
        assert "".join(t.token for t in tokens[:-1]) == SCRIPTS["one"]


def conversation(talk):
    with check("a reply goes back into the conversation"):
        m = talk.create("two", tools=TOOLS).choices[0].message
        messages = [*HELLO, m.model_dump(exclude_none=True),
                    *({"role": "tool", "tool_call_id": x.id, "content": "dry"} for x in m.tool_calls)]
        talk.agree("plain", SCRIPTS["plain"], [], "stop", messages=messages, tools=TOOLS)
        text = talk.prompt(messages, tools=TOOLS)
        assert '{"name": "add", "arguments": ' + OSLO + "}" in text, text
        assert "\n<result>\ndry\n</result>\n<result>\ndry\n</result><|im_end|>" in text, text
        empty = dict(m.model_dump(exclude_none=True), content=None)
        talk.agree("plain", SCRIPTS["plain"], [], "stop", messages=[*HELLO, empty], tools=TOOLS)
    with check("tools are rendered in one order"):
        text = talk.prompt(HELLO, tools=TOOLS)
        first = json.dumps(TOOLS[0])
        assert first in text and list(TOOLS[0]["function"]) == ["name", "description", "parameters"]
        assert ('\n{"type": "function", "function": {"name": "add", "description": null, '
                '"parameters": null, "strict": false}}\n') in text, text
        a = talk.prompt(HELLO, tools=[{"function": {"parameters": SCHEMA, "description": "Weather.",
                                                    "name": "get_weather"}, "type": "function"}])
        assert a == talk.prompt(HELLO, tools=TOOLS[:1]) == talk.prompt(
            HELLO, tools=TOOLS[:1], tool_choice="required")


def refusals(talk):
    f = {"type": "function", "function": {"name": "f"}}

    def named(name):
        return [{"type": "function", "function": {"name": name}}]

    with check("tool_choice that is not offered says so"):
        for choice in ("required", {"type": "function", "function": {"name": "f"}}):
            assert "constrained" in talk.refuse({"tools": [f], "tool_choice": choice}, "unsupported",
                                                "tool_choice")
        for choice in ("always", "", "auto\0", {"type": "function", "function": {"name": "g"}}, {},
                       {"type": "function"}, {"type": "x", "function": {"name": "f"}},
                       {"type": "function", "function": {"name": 5}}):
            talk.refuse({"tools": [f], "tool_choice": choice}, "value_out_of_range", "tool_choice")
        for choice in (5, True, ["auto"]):
            talk.refuse({"tools": [f], "tool_choice": choice}, "wrong_type", "tool_choice")
        for choice in ("auto", "required", f):
            talk.refuse({"tool_choice": choice}, "value_out_of_range", "tool_choice")
            talk.refuse({"tools": [], "tool_choice": choice}, "value_out_of_range", "tool_choice")
        talk.refuse({"tools": [f], "parallel_tool_calls": "yes"}, "wrong_type",
                    "parallel_tool_calls")
        talk.refuse({"include_reasoning": 1}, "wrong_type", "include_reasoning")
    with check("T01: tools"):
        for v in ({}, "x", 1, True):
            talk.refuse({"tools": v}, "wrong_type", "tools")
        many = [{"type": "function", "function": {"name": f"f{i}"}} for i in range(129)]
        talk.refuse({"tools": many}, "value_out_of_range", "tools")
        assert talk.create("plain", tools=many[:128], max_tokens=1).choices
        for n, fits in ((65536, True), (65537, False)):
            tool = {"type": "function", "function": {"name": "f", "description": "d" * n}}
            r = requests.post(talk.url + "/v1/chat/completions",
                              json={"messages": HELLO, "tools": [tool], "max_tokens": 1}).json()
            code = "context_length_exceeded" if fits else "value_out_of_range"
            assert r["error"]["code"] == code, r
        for v in (1, None, "x", [], {}, {"type": "function"}, {"type": "x", "function": {"name": "f"}}):
            talk.refuse({"tools": [v]}, "value_out_of_range")
        for key, v in (("description", 5), ("parameters", []), ("parameters", "x"), ("strict", "yes")):
            tool = {"type": "function", "function": {"name": "f", key: v}}
            talk.refuse({"tools": [tool]}, "wrong_type", f"tools[0].function.{key}")
    with check("T02: names"):
        for name in ("", "a b", "f" * 65, "../x", "f\0", "é", "a.b", None, 5, []):
            talk.refuse({"tools": named(name)}, "value_out_of_range", "tools[0].function.name")
        assert talk.create("plain", tools=named("f" * 64), max_tokens=1).choices
        talk.refuse({"tools": [f, f]}, "value_out_of_range", "tools")
    with check("T20: calls and their answers in the conversation"):
        def said(arguments, **more):
            call = {"id": "x", "type": "function",
                    "function": {"name": "f", "arguments": arguments}, **more}
            return {"messages": [*HELLO, {"role": "assistant", "content": None, "tool_calls": [call]}]}

        where = "messages[1].tool_calls[0]"
        for text in ("x", "{", "{'a': 1}", "{}x", '{"a": NaN}'):
            talk.refuse(said(text), "invalid_json", where + ".function.arguments")
        for n in (65, 200, 100000):
            talk.refuse(said('{"a":' * n + "1" + "}" * n), "too_deep", where + ".function.arguments")
        talk.refuse(said('{"a":1,"a":2}'), "duplicate_key", where + ".function.arguments")
        for v in (5, True, []):
            talk.refuse(said(v), "wrong_type", where + ".function.arguments")
        talk.refuse(said("{}", id=5), "wrong_type", where + ".id")
        talk.refuse(said("{}", type="x"), "value_out_of_range", where)
        for v in ("", "{}", {}, None, '{"a": [1]}'):
            assert requests.post(talk.url + "/v1/chat/completions",
                                 json={**said(v), "max_tokens": 1}).status_code == 200, v
        tool = {"role": "tool", "content": "x"}
        talk.refuse({"messages": [*HELLO, tool]}, "missing_field", "messages[1].tool_call_id")
        talk.refuse({"messages": [*HELLO, {**tool, "tool_call_id": 5}]}, "wrong_type",
                    "messages[1].tool_call_id")
    with check("P28: constrained output beside tools"):
        for form in ({"type": "json_object"}, {"type": "json_schema", "json_schema": {"name": "x"}}):
            talk.refuse({"tools": [f], "response_format": form}, "unsupported", "response_format")
        talk.agree("one", None, [("get_weather", PARIS)], "tool_calls", tools=TOOLS,
                   response_format={"type": "text"})


def reasoning(talk):
    with check("a thought that the reply opens, and one that the prompt opened"):
        talk.agree("thought", "\n\nNo, dry.", [], "stop", "\nIt is raining?\n")
        talk.agree("opened", "Done.", [], "stop", "The prompt opened this.")
    with check("a thought without an end is all thought"):
        talk.agree("endless", None, [], "stop", SCRIPTS["endless"])
        m = talk.create("endless").choices[0].message
        assert m.content is None and m.model_extra["reasoning_content"] == SCRIPTS["endless"]
    with check("enable_thinking false: all is content"):
        talk.agree("endless", SCRIPTS["endless"], [], "stop", kwargs={"enable_thinking": False})
        talk.agree("opened", SCRIPTS["opened"], [], "stop", kwargs={"enable_thinking": False})
    with check("include_reasoning false drops it"):
        talk.agree("opened", "Done.", [], "stop", body={"include_reasoning": False})
    with check("a call behind a thought"):
        talk.agree("both", None, [("get_weather", '{"city": "Bern"}')], "tool_calls",
                   "Weather first.\n", tools=TOOLS)
        talk.agree("one", None, [], "stop", SCRIPTS["one"], tools=TOOLS)  # it never left the thought
    with check("a message that is continued shows whether it thinks"):
        for text, thinks in (("<think>So", True), ("<think>a</think>So", False), ("So", False)):
            said = [*HELLO, {"role": "assistant", "content": text + "⟦opened⟧",
                             "reasoning_content": ""}]
            told = talk.whole("plain", messages=said, body={"continue_final_message": True,
                                                            "add_generation_prompt": False})
            assert told["content"] == ("Done." if thinks else SCRIPTS["opened"]), told
            assert told["reasoning"] == ("The prompt opened this." if thinks else None), told


model = make_script_model(os.path.join(folder, "script"), SCRIPTS)
ini = write_ini(os.path.join(folder, "t.ini"))

with Server(ini, model, "--enable-auto-tool-choice", "--tool-call-parser", "hermes") as server:
    talk = Talk(server.url)
    calls(talk)
    conversation(talk)
    refusals(talk)
    with check("the other form is text here"):
        talk.agree("coder", SCRIPTS["coder"], [], "stop", tools=TOOLS)
    with check("nothing was a bug"):
        assert server.stop() == 0
        assert "bug" not in server.text() and "ERROR" not in server.text(), server.text()[-2000:]

with Server(ini, model, "--enable-auto-tool-choice", "--tool-call-parser=hermes",
            "--reasoning-parser", "qwen3") as server:
    reasoning(Talk(server.url))

coder = write_ini(os.path.join(folder, "c.ini"), http="enable_auto_tool_choice = yes\n"
                  "tool_call_parser = auto\nreasoning_parser = deepseek_r1\n"
                  "exclude_tools_when_tool_choice_none = yes\n")
with Server(coder, model, "--reasoning-parser", "none") as server:
    talk = Talk(server.url)
    with check("the qwen3_coder form, with types from the schema"):
        talk.agree("coder", "Looking.\n", [("get_weather", '{"city": "Rio", "days": 7, "near": '
                                            '[1, "x"], "note": "a \\"b\\"\\n<i>"}')],
                   "tool_calls", tools=TOOLS)
    with check("and hermes beside it"):
        talk.agree("one", None, [("get_weather", PARIS)], "tool_calls", tools=TOOLS)
    with check("tools that tool_choice none keeps out of the prompt"):
        r = talk.create("plain", tools=TOOLS, tool_choice="none")
        assert r.usage.prompt_tokens == talk.create("plain").usage.prompt_tokens
with Server(coder, model) as server:
    with check("deepseek_r1 heeds no enable_thinking"):
        Talk(server.url).agree("endless", None, [], "stop", SCRIPTS["endless"],
                               kwargs={"enable_thinking": False})

tagged = make_script_model(os.path.join(folder, "tagged"),
                           {"plain": "Hm.</think>Yes: " + hermes("get_weather", PARIS) + "<|note|>"},
                           special=("<tool_call>", "</tool_call>", "</think>", "<|note|>"))
with Server(ini, tagged, "--enable-auto-tool-choice", "--tool-call-parser", "hermes",
            "--reasoning-parser", "qwen3") as server:
    with check("tags that are special tokens are seen"):
        talk = Talk(server.url)
        talk.agree("plain", "Yes: <|note|>", [("get_weather", PARIS)], "tool_calls", "Hm.",
                   tools=TOOLS)
        bare = "Hm.Yes: " + hermes("get_weather", PARIS)[11:-12]
        talk.agree("plain", bare, [], "stop", kwargs={"enable_thinking": False})

with check("a parser must be named"):
    r = run("serve", "--config", ini, model, "--enable-auto-tool-choice")
    assert r.returncode == 78 and "tool_call_parser" in r.stderr, (r.returncode, r.stderr)
    r = run("serve", "--config", ini, model, "--check", "--tool-call-parser", "nope")
    assert r.returncode == 64 and "hermes" in r.stderr, (r.returncode, r.stderr)
with check("auto without a parser is refused"):
    with Server(ini, model) as server:
        talk = Talk(server.url)
        for choice in ({}, {"tool_choice": "auto"}):
            assert "--tool-call-parser" in talk.refuse({"tools": TOOLS, **choice}, "unsupported",
                                                       "tool_choice")
        talk.agree("one", SCRIPTS["one"], [], "stop", tools=TOOLS, tool_choice="none")

shutil.rmtree(folder)
check.finish()
