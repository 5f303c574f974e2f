# SPDX-License-Identifier: Apache-2.0
"""Drives the HTTP frontend with the official OpenAI client and with requests."""
import concurrent.futures
import json
import os
import socket
import tempfile
import time

import openai
import requests

from tenonlib import Counter, Server, make_model, write_ini, write_json

check = Counter()
folder = tempfile.mkdtemp(prefix="tenon-api-")
model = make_model(os.path.join(folder, "tiny"))
ini = write_ini(os.path.join(folder, "t.ini"))


def raises(kind, status, call, code=None, param=None):
    try:
        call()
    except kind as e:
        assert e.status_code == status, (e.status_code, status)
        body = e.body or {}
        if code is not None:
            assert body.get("code") == code, body
        if param is not None:
            assert body.get("param") == param, body
        return
    raise AssertionError(f"expected {kind.__name__} {status}")


def drain(stream):
    text, finish, usage = {}, {}, None
    for event in stream:
        if event.usage is not None:
            usage = event.usage
        for c in event.choices:
            piece = c.delta.content if hasattr(c, "delta") else c.text
            text[c.index] = text.get(c.index, "") + (piece or "")
            if c.finish_reason is not None:
                assert c.index not in finish
                finish[c.index] = c.finish_reason
    return text, finish, usage


def basics(c, url):
    with check("models"):
        m = c.models.list().data
        assert [x.id for x in m] == ["default"], m
        assert c.models.retrieve("default").id == "default"
        raises(openai.NotFoundError, 404, lambda: c.models.retrieve("nope"))
        for r in (requests.get(url + "/v1/models/nope"),
                  requests.post(url + "/v1/completions", json={"model": "nope", "prompt": "x"})):
            assert r.json()["error"]["message"] == "The model `nope` does not exist; expected default", r.text
    with check("health, ping, version, load"):
        assert requests.get(url + "/health").status_code == 200
        assert requests.get(url + "/ping").status_code == 200
        assert requests.post(url + "/ping").status_code == 200
        assert requests.get(url + "/version").json()["version"].count(".") == 2
        assert requests.get(url + "/load").json() == {"server_load": 0}
    with check("chat"):
        r = c.chat.completions.create(model="default", max_tokens=8, temperature=0,
                                      messages=[{"role": "user", "content": "Hello there"}])
        assert r.object == "chat.completion" and r.choices[0].message.role == "assistant"
        assert r.choices[0].finish_reason in ("length", "stop")
        assert r.usage.total_tokens == r.usage.prompt_tokens + r.usage.completion_tokens
        assert r.usage.completion_tokens <= 8
    with check("chat streamed equals chat"):
        args = dict(model="default", max_tokens=24, temperature=0,
                    messages=[{"role": "system", "content": "Be short."},
                              {"role": "user", "content": "What is 2 + 2? 🙂"}])
        whole = c.chat.completions.create(**args)
        text, finish, usage = drain(c.chat.completions.create(
            stream=True, stream_options={"include_usage": True}, **args))
        assert text[0] == whole.choices[0].message.content, (text, whole)
        assert finish[0] == whole.choices[0].finish_reason
        assert usage.completion_tokens == whole.usage.completion_tokens
    with check("content parts"):
        args = dict(model="default", max_tokens=8, temperature=0)
        a = c.chat.completions.create(messages=[{"role": "user", "content": "ab\ncd"}], **args)
        b = c.chat.completions.create(messages=[{"role": "user", "content": [
            {"type": "text", "text": "ab"}, {"type": "text", "text": "cd"}]}], **args)
        assert a.choices[0].message.content == b.choices[0].message.content
    with check("completions, list of prompts, n"):
        r = c.completions.create(model="default", prompt=["one", "two"], n=2, max_tokens=5, seed=7,
                                 temperature=1.5)
        assert [x.index for x in r.choices] == [0, 1, 2, 3]
        again = c.completions.create(model="default", prompt=["one", "two"], n=2, max_tokens=5,
                                     seed=7, temperature=1.5)
        assert [x.text for x in r.choices] == [x.text for x in again.choices]
        assert r.choices[0].text != r.choices[1].text or r.choices[2].text != r.choices[3].text
        assert r.usage.completion_tokens == 20 or any(x.finish_reason == "stop" for x in r.choices)
    with check("completions streamed, n = 4"):
        text, finish, _ = drain(c.completions.create(model="default", prompt="one", n=4, seed=3,
                                                     max_tokens=6, stream=True))
        assert sorted(text) == [0, 1, 2, 3] and sorted(finish) == [0, 1, 2, 3]
    with check("greedy n = 4 gives four equal choices"):
        r = c.completions.create(model="default", prompt="one", n=4, max_tokens=6, temperature=0)
        assert len({x.text for x in r.choices}) == 1
    with check("token ids as prompt"):
        ids = requests.post(url + "/tokenize", json={"prompt": "The quick brown"}).json()["tokens"]
        a = c.completions.create(model="default", prompt=ids, max_tokens=6, temperature=0)
        b = c.completions.create(model="default", prompt="The quick brown", max_tokens=6,
                                 temperature=0)
        assert a.choices[0].text == b.choices[0].text


def reports(c, url):
    with check("chat logprobs"):
        r = c.chat.completions.create(model="default", max_tokens=4, temperature=0, logprobs=True,
                                      top_logprobs=3, messages=[{"role": "user", "content": "x"}])
        content = r.choices[0].logprobs.content
        assert len(content) == r.usage.completion_tokens
        for t in content:
            assert len(t.top_logprobs) == 3
            assert t.top_logprobs[0].logprob == t.logprob <= 0
            assert bytes(t.bytes).decode("utf-8", "replace") == t.token
    with check("completion logprobs and echo"):
        r = c.completions.create(model="default", prompt="The quick", max_tokens=3, temperature=0,
                                 logprobs=2, echo=True)
        p = r.choices[0].logprobs
        assert r.choices[0].text.startswith("The quick")
        assert len(p.tokens) == len(p.token_logprobs) == len(p.top_logprobs) == len(p.text_offset)
        assert p.token_logprobs[0] is None and p.top_logprobs[0] is None
        assert len(p.tokens) == r.usage.total_tokens
        assert "".join(p.tokens[:r.usage.prompt_tokens]) == "The quick"
    with check("echo with max_tokens 0"):
        r = c.completions.create(model="default", prompt="The quick", max_tokens=0, echo=True)
        assert r.choices[0].text == "The quick" and r.usage.completion_tokens == 0
    with check("prompt_logprobs"):
        r = requests.post(url + "/v1/completions", json={
            "prompt": "The quick brown", "max_tokens": 1, "prompt_logprobs": 1}).json()
        lp = r["choices"][0]["prompt_logprobs"]
        assert lp[0] is None and len(lp) == r["usage"]["prompt_tokens"]
        assert all(min(v["rank"] for v in e.values()) == 1 for e in lp[1:])
    with check("tokenize and detokenize"):
        t = requests.post(url + "/tokenize", json={"prompt": "naïve 🙂", "return_token_strs": True}).json()
        assert t["count"] == len(t["tokens"]) == len(t["token_strs"])
        assert t["max_model_len"] == 512
        d = requests.post(url + "/detokenize", json={"tokens": t["tokens"]}).json()
        assert d == {"prompt": "naïve 🙂"}
        m = requests.post(url + "/tokenize", json={
            "messages": [{"role": "user", "content": "hi"}]}).json()
        d = requests.post(url + "/detokenize", json={"tokens": m["tokens"]}).json()
        assert d["prompt"] == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n", d
    with check("control tokens in user text stay text"):
        m = requests.post(url + "/tokenize", json={
            "messages": [{"role": "user", "content": "a<|im_end|>b"}]}).json()["tokens"]
        assert m.count(2) == 1, m
    with check("return_token_ids"):
        r = requests.post(url + "/v1/completions", json={
            "prompt": "The quick", "max_tokens": 3, "return_token_ids": True,
            "temperature": 0}).json()["choices"][0]
        assert len(r["token_ids"]) == 3 and len(r["prompt_token_ids"]) > 0


def stops(c, url):
    whole = c.completions.create(model="default", prompt="The quick", max_tokens=24, temperature=0,
                                 extra_body={"ignore_eos": True}).choices[0].text
    with check("stop string, cut and kept"):
        stop = whole[8:12]
        at = whole.index(stop)
        r = requests.post(url + "/v1/completions", json={
            "prompt": "The quick", "max_tokens": 24, "temperature": 0, "ignore_eos": True,
            "stop": [stop]}).json()["choices"][0]
        assert r["text"] == whole[:at], (r, whole)
        assert r["finish_reason"] == "stop" and r["stop_reason"] == stop
        r = requests.post(url + "/v1/completions", json={
            "prompt": "The quick", "max_tokens": 24, "temperature": 0, "ignore_eos": True,
            "stop": stop, "include_stop_str_in_output": True}).json()["choices"][0]
        assert r["text"] == whole[:at + len(stop)]
    with check("stop string, streamed"):
        text, finish, _ = drain(c.completions.create(
            model="default", prompt="The quick", max_tokens=24, temperature=0, stop=[stop],
            stream=True, extra_body={"ignore_eos": True}))
        assert text[0] == whole[:at] and finish[0] == "stop"
    with check("stop_token_ids"):
        ids = requests.post(url + "/v1/completions", json={
            "prompt": "The quick", "max_tokens": 24, "temperature": 0, "ignore_eos": True,
            "return_token_ids": True}).json()["choices"][0]["token_ids"]
        r = requests.post(url + "/v1/completions", json={
            "prompt": "The quick", "max_tokens": 24, "temperature": 0, "ignore_eos": True,
            "stop_token_ids": [ids[3]]}).json()
        assert r["choices"][0]["stop_reason"] == ids[3]
        assert r["usage"]["completion_tokens"] == ids.index(ids[3]) + 1


def errors(c, url):
    msg = [{"role": "user", "content": "x"}]

    def chat(**kw):
        return lambda: c.chat.completions.create(**{"model": "default", "messages": msg, **kw})

    cases = [
        (openai.NotFoundError, 404, chat(model="nope"), "model_not_found", "model"),
        (openai.BadRequestError, 400, chat(temperature=-1), "value_out_of_range", "temperature"),
        (openai.BadRequestError, 400, chat(temperature=2.0001), "value_out_of_range", "temperature"),
        (openai.BadRequestError, 400, chat(top_p=0), "value_out_of_range", "top_p"),
        (openai.BadRequestError, 400, chat(max_tokens=0), "value_out_of_range", "max_tokens"),
        (openai.BadRequestError, 400, chat(n=0), "value_out_of_range", "n"),
        (openai.BadRequestError, 400, chat(n=9), "value_out_of_range", "n"),
        (openai.BadRequestError, 400, chat(stop=""), None, None),
        (openai.BadRequestError, 400, chat(stream_options={"include_usage": True}),
         "value_out_of_range", "stream_options"),
        (openai.BadRequestError, 400, chat(top_logprobs=2), "value_out_of_range", "top_logprobs"),
        (openai.BadRequestError, 400, chat(logprobs=True, top_logprobs=21), None, None),
        (openai.BadRequestError, 400, chat(max_tokens=4000), "context_length_exceeded", None),
        (openai.BadRequestError, 400, chat(messages=[]), "value_out_of_range", "messages"),
        (openai.BadRequestError, 400, chat(messages=[{"role": "x", "content": "y"}]),
         "value_out_of_range", "messages[0].role"),
        (openai.BadRequestError, 400, chat(messages=[{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/x"}}]}]), "unsupported",
         "messages[0].content[0]"),
        (openai.BadRequestError, 400, chat(logit_bias={"AI": 1}), "value_out_of_range", "logit_bias"),
        (openai.BadRequestError, 400, chat(response_format={"type": "json_object"}), "unsupported",
         "response_format"),
        (openai.BadRequestError, 400, chat(frequency_penalty=2.1), "value_out_of_range",
         "frequency_penalty"),
        (openai.BadRequestError, 400, chat(seed=-2), "value_out_of_range", "seed"),
    ]
    for i, case in enumerate(cases):
        with check(f"error {i}: {case[3]} {case[4]}"):
            raises(*case)
    raw = [
        ("", 400, "invalid_json"), ("null", 400, "invalid_json"), ("[]", 400, "invalid_json"),
        ("{}", 400, "missing_field"), ("{} {}", 400, "invalid_json"),
        ('{"messages":[],"messages":[]}', 400, "duplicate_key"),
        ('{"a":' + "[" * 100 + "]" * 100 + "}", 400, "too_deep"),
        ('{"messages":[{"role":"user","content":"\\ud800"}]}', 400, "invalid_json"),
        ('{"messages":[{"role":"user","content":"x"}],"stream":"false"}', 400, "wrong_type"),
        ('{"messages":[{"role":"user","content":"x"}],"max_tokens":1.5}', 400, "wrong_type"),
        ('{"messages":[{"role":"user","content":"x"}],"max_tokens":"5"}', 400, "wrong_type"),
        ('{"messages":[{"role":"user","content":"x"}],"max_tokens":true}', 400, "wrong_type"),
    ]
    for body, status, code in raw:
        with check(f"raw {body[:40]!r}"):
            r = requests.post(url + "/v1/chat/completions", data=body.encode(),
                              headers={"Content-Type": "application/json"})
            assert r.status_code == status, (r.status_code, r.text)
            assert r.json()["error"]["code"] == code, r.text
    with check("invalid UTF-8"):
        r = requests.post(url + "/v1/completions", data=b'{"prompt":"\xC0\x80"}',
                          headers={"Content-Type": "application/json"})
        assert r.status_code == 400 and r.json()["error"]["code"] == "invalid_utf8"
    with check("null fields are absent"):
        fields = ["temperature", "top_p", "n", "stop", "max_tokens", "seed", "stream", "logit_bias",
                  "logprobs", "presence_penalty", "user", "tools", "stream_options"]
        for f in fields:
            r = requests.post(url + "/v1/chat/completions",
                              json={"messages": msg, "max_completion_tokens": 2, f: None})
            assert r.status_code == 200, (f, r.text)
    with check("media types, methods, paths"):
        assert requests.post(url + "/v1/completions", data="x").status_code == 415
        assert requests.post(url + "/v1/completions", json={"prompt": "x"},
                             headers={"Content-Encoding": "gzip"}).status_code == 415
        r = requests.get(url + "/v1/completions")
        assert r.status_code == 405 and r.headers["Allow"] == "POST"
        assert requests.get(url + "/nope").json()["error"]["code"] == "not_found"
        assert requests.options(url + "/v1/models").status_code == 204
        assert requests.head(url + "/health").status_code == 200
        big = requests.post(url + "/v1/completions", data=b"x" * (9 << 20),
                            headers={"Content-Type": "application/json"})
        assert big.status_code == 413, big.status_code
    with check("strangers' pages"):
        r = requests.get(url + "/v1/models", headers={"Origin": "https://evil.example"})
        assert r.status_code == 403 and "Access-Control-Allow-Origin" not in r.headers
        assert requests.get(url + "/v1/models", headers={"Host": "evil.example"}).status_code == 403
    with check("context edge"):
        ids = [10] * 511
        assert requests.post(url + "/v1/completions", json={"prompt": ids, "max_tokens": 1}).status_code == 200
        for n in (512, 513):
            for stream in (False, True):
                r = requests.post(url + "/v1/completions",
                                  json={"prompt": [10] * n, "max_tokens": 1, "stream": stream})
                assert r.status_code == 400, r.status_code
                assert "maximum context length" in r.json()["error"]["message"]


def crowd(c, url):
    prompts = [f"The quick brown fox number {i} says" for i in range(16)]

    def ask(p, **kw):
        return c.completions.create(model="default", prompt=p, max_tokens=20, temperature=0,
                                    extra_body={"ignore_eos": True}, **kw).choices[0].text

    with check("greedy alone, in a crowd of 16, streamed, and again"):
        alone = [ask(p) for p in prompts]
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            together = list(pool.map(ask, prompts))
        assert together == alone
        streamed = [drain(c.completions.create(model="default", prompt=p, max_tokens=20,
                                               temperature=0, stream=True,
                                               extra_body={"ignore_eos": True}))[0][0] for p in prompts]
        assert streamed == alone
    with check("a seeded request in a crowd"):
        def seeded(_):
            return c.completions.create(model="default", prompt="Once", max_tokens=16, seed=11,
                                        temperature=1.2).choices[0].text
        first = seeded(0)
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            others = [pool.submit(ask, p) for p in prompts]
            assert list(pool.map(seeded, range(4))) == [first] * 4
            for o in others:
                o.result()


def metric(url, name):
    total = 0.0
    for line in requests.get(url + "/metrics").text.splitlines():
        if line.startswith(name + "{") or line.startswith(name + " "):
            total += float(line.rsplit(" ", 1)[1])
    return total


def leavers(url):
    with check("a client that leaves frees its slot"):
        host, port = url[7:].split(":")
        body = json.dumps({"prompt": "The", "max_tokens": 480, "ignore_eos": True, "stream": True,
                           "temperature": 0}).encode()
        for _ in range(8):
            s = socket.create_connection((host, int(port)))
            s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
                      b"application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            s.recv(256)
            s.close()
        for _ in range(100):
            if metric(url, "vllm:num_requests_running") == 0:
                break
            time.sleep(0.05)
        assert metric(url, "vllm:num_requests_running") == 0
        assert metric(url, "vllm:kv_cache_usage_perc") == 0


def framing(url):
    host, port = url[7:].split(":")
    cases = [
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding : chunked\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length : 5\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    ]
    for i, text in enumerate(cases):
        with check(f"framing {i}"):
            s = socket.create_connection((host, int(port)))
            s.settimeout(10)
            s.sendall(text)
            reply = s.recv(4096)
            assert b" 400 " in reply.split(b"\r\n")[0] and (i < 3 or b"bad_framing" in reply)
            s.close()


with Server(ini, model) as server:
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
    basics(client, server.url)
    reports(client, server.url)
    stops(client, server.url)
    errors(client, server.url)
    crowd(client, server.url)
    framing(server.url)
    leavers(server.url)
    with check("metrics add up"):
        text = requests.get(server.url + "/metrics").text
        assert "# TYPE vllm:time_to_first_token_seconds histogram" in text
        assert 'model_name="default"' in text
    with check("SIGTERM ends with 0"):
        assert server.stop() == 0

with Server(write_ini(os.path.join(folder, "k.ini"), http="api_key = sesame, open\n"), model) as server:
    with check("API keys"):
        good = openai.OpenAI(base_url=server.url + "/v1", api_key="sesame", max_retries=0)
        bad = openai.OpenAI(base_url=server.url + "/v1", api_key="wrong", max_retries=0)
        good.models.list()
        raises(openai.AuthenticationError, 401, bad.models.list, "invalid_api_key")
        for path in ("/v1/models", "/metrics", "/version", "/tokenize", "//v1/models", "/V1/models"):
            r = requests.get(server.url + path)
            assert r.status_code == 401 and r.headers["WWW-Authenticate"] == "Bearer", path
        assert requests.get(server.url + "/health").status_code == 200
        host, port = server.url[7:].split(":")
        for keys in (("sesame", "wrong"), ("wrong", "sesame"), ("sesame", "sesame")):
            with socket.create_connection((host, int(port))) as s:
                s.settimeout(10)
                s.sendall(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n" +
                          b"".join(b"Authorization: Bearer %s\r\n" % k.encode() for k in keys) + b"\r\n")
                assert b" 401 " in s.recv(4096).split(b"\r\n")[0], keys

usual = make_model(os.path.join(folder, "usual"))
write_json(os.path.join(usual, "generation_config.json"),
           {"eos_token_id": [], "do_sample": True, "temperature": 0.0, "max_new_tokens": 6})
ask = {"model": "default", "messages": [{"role": "user", "content": "The quick"}], "ignore_eos": True}


def says(server, **more):
    r = requests.post(server.url + "/v1/chat/completions", json={**ask, **more}).json()
    return r["choices"][0]["message"]["content"], r["usage"]["completion_tokens"]


with check("sampling defaults come from generation_config.json, a request's own values go first"):
    with Server(ini, usual) as server:
        greedy = says(server, temperature=0, max_tokens=6)
        assert says(server) == greedy, (says(server), greedy)
        assert greedy[1] == 6, greedy
        assert says(server, max_tokens=9)[1] == 9
        assert says(server, temperature=2, seed=5) != greedy
    with Server(ini, usual, "--generation-config", "vllm") as server:
        assert says(server, seed=5, max_tokens=6) == says(server, seed=5, max_tokens=6, temperature=1, top_p=1)
        assert says(server, seed=5, max_tokens=6) != greedy
        assert says(server)[1] > 6

check.finish()
