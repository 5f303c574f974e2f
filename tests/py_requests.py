# SPDX-License-Identifier: Apache-2.0
"""Requests that are wrong: JSON and UTF-8 (rows J) and sampling parameters (rows P) of the
contract on bad input, row by row, with neighbours that the rows do not name. Every refusal is
asked for plain and as a stream, over both generation routes where both have the field."""
import itertools
import json
import os
import re
import shutil
import socket
import tempfile
import threading
import time

import requests

from tenonlib import TOP, Counter, Server, make_model, write_ini

CHAT, COMPLETE = "/v1/chat/completions", "/v1/completions"
MESSAGES = [{"role": "user", "content": "x"}]
CONTEXT = 512

check = Counter()
folder = tempfile.mkdtemp(prefix="tenon-requests-")
model = make_model(os.path.join(folder, "tiny"))
ini = write_ini(os.path.join(folder, "t.ini"))
url = None


def post(path, body):
    """A dict is sent as JSON, bytes and text as they are."""
    if isinstance(body, dict):
        body = json.dumps(body)
    if isinstance(body, str):
        body = body.encode()
    return requests.post(url + path, data=body, headers={"Content-Type": "application/json"},
                         timeout=60)


def is_error(r, status, code, param=None):
    """What the contract says of every error: one sentence that names the field and the rule,
    nothing of the house inside."""
    assert r.status_code == status, (r.status_code, status, r.text[:300])
    assert r.headers["Content-Type"] == "application/json", r.headers
    assert list(r.json()) == ["error"], r.text
    e = r.json()["error"]
    assert sorted(e) == ["code", "message", "param", "type"], e
    assert e["code"] == code, (e, code)
    assert e["type"] == "invalid_request_error", e
    if param is not None:
        assert e["param"] == param, (e, param)
        assert e["message"].startswith(param + ": ") or code == "duplicate_key", e
    text = e["message"]
    assert "expected " in text and "\n" not in text and len(text.encode()) < 1024, text
    assert not re.search(r"0x[0-9a-f]{5}|\.[ch]:|tn_|" + folder, text), text
    return e


def refuse(path, fields, code, param=None, status=400):
    base = {"messages": MESSAGES} if path == CHAT else {"prompt": "x"}
    for stream in (False, True):
        e = is_error(post(path, {**base, "stream": stream, **fields}), status, code, param)
    return e


def accept(path, fields):
    base = {"messages": MESSAGES} if path == CHAT else {"prompt": "x"}
    r = post(path, {**base, "max_tokens": 2, **fields})
    assert r.status_code == 200, (fields, r.status_code, r.text[:300])
    return r.json()


def refuse_both(fields, code, param=None):
    for path in (CHAT, COMPLETE):
        refuse(path, fields, code, param)


def raw_both(text, code, param=None, status=400):
    for path in (CHAT, COMPLETE, "/tokenize", "/detokenize"):
        is_error(post(path, text), status, code, param)


def metric(name):
    found = re.findall(rf"^{name}(?:_total)?\{{[^}}]*\}} (\S+)$", get("/metrics").text, re.M)
    assert len(found) == 1, (name, found)
    return float(found[0])


def get(path, **headers):
    return requests.get(url + path, headers=headers, timeout=60)


def files_open(pid, at_most=0):
    """The least seen in a while, or the first count within bounds: connections that were just
    closed need a moment."""
    least = 1 << 20
    for _ in range(100 if at_most else 20):
        least = min(least, len(os.listdir(f"/proc/{pid}/fd")))
        if least <= at_most:
            break
        time.sleep(0.05)
    return least


def all_is_well(pid, golden, files):
    """The contract's invariants: whatever came, the next client sees nothing of it."""
    assert get("/health").status_code == 200
    assert canary() == golden
    for _ in range(100):
        counts = [metric("tenon:requests_" + n) for n in (
            "accepted", "completed", "cancelled", "timed_out", "failed", "rejected")]
        if (counts[0] == sum(counts[1:]) and not metric("vllm:num_requests_running")
                and not metric("vllm:kv_cache_usage_perc")):
            break
        time.sleep(0.05)
    assert counts[0] == sum(counts[1:]) and counts[4] == 0, counts
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
        assert metric("vllm:" + name) == 0, name
    now = files_open(pid, files)
    assert now <= files, (now, files)


def canary():
    return accept(COMPLETE, {"prompt": "The quick", "max_tokens": 8, "temperature": 0})[
        "choices"][0]["text"]


# ---------------------------------------------------------------------- the errors themselves


def kinds_of_errors():
    with check("1.1: every refusal has its status, type and code"):
        host = url[7:].encode()
        plain = {"Content-Type": "text/plain"}
        rows = [
            (get("/nope"), 404, "invalid_request_error", "not_found"),
            (get("/v1/models/nope"), 404, "invalid_request_error", "model_not_found"),
            (get("/v1/models/" + "m" * 1000), 404, "invalid_request_error", "model_not_found"),
            (post(COMPLETE, {"prompt": "x", "model": "m" * 100000}), 404, "invalid_request_error",
             "model_not_found"),
            (get(COMPLETE), 405, "invalid_request_error", "method_not_allowed"),
            (requests.post(url + COMPLETE, data="{}", headers=plain, timeout=60), 415,
             "invalid_request_error", "unsupported_media_type"),
            (get("/v1/models", Host="evil.example"), 403, "permission_error", "host_not_allowed"),
            (get("/v1/models", Origin="https://evil.example"), 403, "permission_error",
             "origin_not_allowed"),
            (post(COMPLETE, b" " * ((8 << 20) + 1)), 413, "invalid_request_error",
             "body_too_large"),
        ]
        for r, status, kind, code in rows:
            e = r.json()["error"]
            assert (r.status_code, e["type"], e["code"]) == (status, kind, code), r.text
            assert "expected " in e["message"] and len(e["message"]) < 300, e
            assert host.decode() not in e["message"], e


def overload():
    with check("1.1: 429 carries Retry-After in whole seconds"):
        seen = []

        def ask():
            seen.append(post(COMPLETE, {"prompt": "x", "max_tokens": 400, "ignore_eos": True}))

        threads = [threading.Thread(target=ask) for _ in range(12)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        full = [r for r in seen if r.status_code != 200]
        assert full and len(full) < 12, [r.status_code for r in seen]
        for r in full:
            e = r.json()["error"]
            assert (r.status_code, e["type"], e["code"]) == (429, "rate_limit_error", "queue_full")
            assert re.fullmatch("[1-9]|[1-5][0-9]|60", r.headers["Retry-After"]), r.headers
            assert "expected " in e["message"], e
    with check("more prompts than the queue can ever hold: no try will do"):
        for n in (2, 64):
            e = is_error(post(COMPLETE, {"prompt": ["x"] * n, "max_tokens": 1}), 400, "value_out_of_range",
                         "prompt")
            assert f"{n} prompts; expected at most 1," in e["message"], e
            is_error(post(COMPLETE, {"prompt": ["x"] * n, "max_tokens": 1, "model": "default"}), 400,
                     "value_out_of_range", "prompt")
        is_error(post(COMPLETE, {"prompt": ["x"] * 2, "max_tokens": 1, "model": "none"}), 404, "model_not_found")
        accept(COMPLETE, {"prompt": ["x"], "max_tokens": 1})


# ------------------------------------------------------------------------------ JSON and UTF-8


def bodies():
    with check("J01: bodies that are no object"):
        for text in (b"", b"   ", b"\xef\xbb\xbf", b"\xef\xbb\xbf{}", b"null", b"[]", b'"x"', b"1",
                     b"true", b"\0", b"\n\t"):
            raw_both(text, "invalid_json")
        for text in (b"null", b"[]", b'"x"', b"1"):
            message = post(CHAT, text).json()["error"]["message"]
            assert message.startswith("body: ") and message.endswith("expected an object"), message
    with check("J02: {}"):
        is_error(post(CHAT, b"{}"), 400, "missing_field", "messages")
        is_error(post(COMPLETE, b"{}"), 400, "missing_field", "prompt")
        is_error(post("/tokenize", b"{}"), 400, "missing_field")
        is_error(post("/detokenize", b"{}"), 400, "missing_field", "tokens")
    with check("J04: almost JSON"):
        good = '{"prompt":"x","messages":[{"role":"user","content":"x"}],"max_tokens":2'
        for tail in ("} x", "}{}", "} {}", ",}", "}//", "}/**/", ',"a":1,}', ",'a':1}", ',"a":NaN}',
                     ',"a":Infinity}', ',"a":-Infinity}', ',"a":0x1}', ',"a":01}', ',"a":+1}',
                     ',"a":1.}', ',"a":.5}', ',"a":1e}', ',"a":-}', ',"a":1e999}', ',"a":tru}',
                     ',"a":True}', ',"a":[1,]}', ',"a":[,1]}', ',"a"}', ',"a":}', ',a:1}', "",
                     "}\0", ',"a":"\t"}', ',"a":"\\q"}', ',"a":"', "}]"):
            for path in (CHAT, COMPLETE):
                is_error(post(path, good + tail), 400, "invalid_json")
        assert post(COMPLETE, good + "} \r\n\t ").status_code == 200
    with check("J05: depth"):
        for n, fits in ((63, True), (64, False)):  # the body itself is one level
            text = '{"prompt":"x","max_tokens":2,"a":' + "[" * n + "]" * n + "}"
            r = post(COMPLETE, text)
            assert r.status_code == (200 if fits else 400), (n, r.text)
            if not fits:
                is_error(r, 400, "too_deep")
        for arguments, code in (("[" * 65, "too_deep"), ("{\"a\":" * 100000, "too_deep"),
                                ("[" * 65 + "]" * 65, "too_deep"), ("{\"a\":1,\"a\":2}", "duplicate_key"),
                                ("{\"a\":", "invalid_json"), ("{\"a\":\"\\ud800\"}", "invalid_json")):
            call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
            refuse(CHAT, {"messages": [*MESSAGES, {"role": "assistant", "content": None,
                                                   "tool_calls": [call]}]}, code)
        raw_both(b"[" * 100000, "too_deep")
        raw_both(b'{"a":' * 100000, "too_deep")
        raw_both(b'{"a":' + b"[" * (4 << 20), "too_deep")
    with check("J06: keys that stand twice"):
        raw_both('{"prompt":"x","prompt":"x"}', "duplicate_key")
        raw_both('{"prompt":"x","\\u0070rompt":"x"}', "duplicate_key")
        raw_both('{"a":{"b":[{"c":1,"c":1}]}}', "duplicate_key")
        raw_both('{"messages":[{"role":"user","role":"user","content":"x"}]}', "duplicate_key")
        raw_both('{"":1,"":2}', "duplicate_key")
    with check("J10: a string as long as the longest body, and one byte more"):
        limit = 8 << 20
        head, tail = b'{"prompt":"', b'"}'
        text = head + b"a" * (limit - len(head) - len(tail)) + tail
        is_error(post(COMPLETE, text), 400, "context_length_exceeded", "prompt")
        is_error(post(COMPLETE, text + b" "), 413, "body_too_large")
        for length in (limit + 1, 1 << 31, 1 << 32, 1 << 63, 1 << 64):
            answer = send_head(b"Content-Length: %d\r\n" % length)
            assert b" 413 " in answer.split(b"\r\n")[0], (length, answer[:200])
    with check("J21: 2^31 newlines in chunks"):
        answer, sent = send_chunks(b"\n" * 65536, 32768)
        assert b" 413 " in answer.split(b"\r\n")[0], answer[:200]
        assert sent < 64 << 20, sent  # it does not wait for the end


def connect():
    s = socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])))
    s.settimeout(30)
    return s


def send_head(extra):
    with connect() as s:
        s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
                  b"application/json\r\n" + extra + b"\r\n")
        return s.recv(4096)


def send_chunks(piece, most):
    sent = 0
    with connect() as s:
        s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
                  b"application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            for _ in range(most):
                s.sendall(b"%x\r\n" % len(piece) + piece + b"\r\n")
                sent += len(piece)
        except OSError:
            pass
        try:
            return s.recv(4096), sent
        except OSError:
            return b"", sent


def texts():
    with check("J12: bytes that are no UTF-8"):
        bad = [b"\xc0\x80", b"\xc1\xbf", b"\xe0\x80\x80", b"\xf0\x80\x80\x80", b"\xed\xa0\x80",
               b"\xed\xbf\xbf", b"\xf5\x80\x80\x80", b"\xf4\x90\x80\x80", b"\xff", b"\xfe", b"\xe2\x82",
               b"\xf0\x9f\x99", b"\x80", b"\xbf", b"a\x80b", b"\xc3(", b"\xf8\x88\x80\x80\x80"]
        for text in bad:
            head = b'{"messages":[{"role":"user","content":"'
            e = is_error(post(CHAT, head + text + b'"}]}'), 400, "invalid_utf8")
            at = len(head) + (1 if text == b"a\x80b" else 0)
            assert f"byte {at}:" in e["message"], (text, e)
            raw_both(b'{"prompt":"' + text + b'"}', "invalid_utf8")
            raw_both(b'{"' + text + b'":1}', "invalid_utf8")
        for coding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32"):
            r = post(COMPLETE, '{"prompt":"x"}'.encode(coding))
            assert r.status_code == 400 and r.json()["error"]["code"] in (
                "invalid_utf8", "invalid_json"), r.text
    with check("J13: halves of surrogate pairs"):
        for text in ("\\ud800", "\\udc00\\ud800", "\\ud83d", "\\ud83dx", "\\ud83d\\n", "\\ud83d\\u0041",
                     "\\ude42", "a\\ud83d\\ud83d\\ude42", "\\uD83D\\uDE4", "\\ud83d\\u"):
            for stream in ("false", "true"):
                for path in (CHAT, COMPLETE):
                    is_error(post(path, '{"stream":%s,"prompt":"%s","messages":[{"role":"user",'
                                  '"content":"%s"}]}' % (stream, text, text)), 400, "invalid_json")
        assert post(COMPLETE, '{"prompt":"\\uD83D\\uDE42","max_tokens":2}').status_code == 200
    with check("J14: U+0000 is kept in content, refused in names"):
        ids = post("/tokenize", {"prompt": "a\0b"}).json()["tokens"]
        assert post("/detokenize", {"tokens": ids}).json() == {"prompt": "a\0b"}
        ids = post("/tokenize", {"messages": [{"role": "user", "content": "a\0b"}]}).json()["tokens"]
        assert "a\0b" in post("/detokenize", {"tokens": ids}).json()["prompt"]
        echo = accept(COMPLETE, {"prompt": "a\0b", "echo": True, "max_tokens": 0})
        assert echo["choices"][0]["text"] == "a\0b", echo
        refuse_both({"model": "default\0"}, "value_out_of_range", "model")
        refuse_both({"stop": "a\0"}, "value_out_of_range", "stop")
        refuse_both({"user": "a\0"}, "value_out_of_range", "user")
        refuse_both({"bad_words": ["a\0"]}, "value_out_of_range", "bad_words")
        for role in ("user\0", "user\0x", "\0"):
            refuse(CHAT, {"messages": [{"role": role, "content": "x"}]}, "value_out_of_range",
                   "messages[0].role")
        part = {"type": "text\0", "text": "x"}
        refuse(CHAT, {"messages": [{"role": "user", "content": [part]}]}, "unsupported",
               "messages[0].content[0]")
        refuse(CHAT, {"response_format": {"type": "text\0"}}, "unsupported", "response_format")
        tool = {"type": "function", "function": {"name": "f\0"}}
        refuse(CHAT, {"tools": [tool], "tool_choice": "none"}, "value_out_of_range",
               "tools[0].function.name")
        tool = {"type": "function\0", "function": {"name": "f"}}
        refuse(CHAT, {"tools": [tool], "tool_choice": "none"}, "value_out_of_range", "tools[0]")
        tool = {"type": "function", "function": {"name": "f"}}
        refuse(CHAT, {"tools": [tool], "tool_choice": "none\0"}, "value_out_of_range", "tool_choice")


INTEGERS = ("max_tokens", "n", "best_of", "seed", "top_k", "min_tokens", "prompt_logprobs",
            "truncate_prompt_tokens", "priority")
NUMBERS = ("temperature", "top_p", "min_p", "repetition_penalty", "frequency_penalty",
           "presence_penalty", "typical_p")
SWITCHES = ("stream", "ignore_eos", "include_stop_str_in_output", "skip_special_tokens",
            "spaces_between_special_tokens", "echo", "return_token_ids",
            "return_tokens_as_token_ids", "add_special_tokens")
OTHERS = ("model", "user", "metadata", "stop", "stop_token_ids", "bad_words", "allowed_token_ids",
          "logit_bias", "stream_options", "logprobs", "cache_salt", "suffix", "response_format")
CHAT_ONLY = ("max_completion_tokens", "top_logprobs", "tools", "tool_choice", "chat_template",
             "chat_template_kwargs", "add_generation_prompt", "continue_final_message")
IGNORED = ("request_id", "parallel_tool_calls", "store", "service_tier", "reasoning_effort",
           "include_reasoning", "documents", "length_penalty")


def types():
    with check("J08: other types where an integer is due"):
        for name in INTEGERS + ("max_completion_tokens", "top_logprobs"):
            for value in (1.5, "5", True, False, [1], {}, "", "NaN"):
                refuse(CHAT, {name: value}, "wrong_type", name)
                if name not in CHAT_ONLY:
                    refuse(COMPLETE, {name: value}, "wrong_type", name)
        refuse(COMPLETE, {"logprobs": 1.5}, "wrong_type", "logprobs")
        refuse(COMPLETE, {"logprobs": True}, "wrong_type", "logprobs")
        for name in NUMBERS:
            for value in ("1", True, [1], {}, "NaN"):
                refuse_both({name: value}, "wrong_type", name)
        for name in ("stop_token_ids", "allowed_token_ids"):
            for value in ([1.5], ["5"], [True], [None], [[1]], 1, "1", {}):
                refuse_both({name: value}, "wrong_type", name)
    with check("J09: stream and other switches"):
        for name in SWITCHES:
            for value in ("false", 1, 0, "", []):
                for path in (CHAT, COMPLETE):
                    base = {"messages": MESSAGES} if path == CHAT else {"prompt": "x"}
                    is_error(post(path, {**base, name: value}), 400, "wrong_type", name)
        r = post(COMPLETE, {"prompt": "x", "max_tokens": 2, "stream": None})
        assert r.headers["Content-Type"] == "application/json"
        for options in ({"include_usage": "yes"}, {"include_usage": 1}, [], "x", 1):
            for path in (CHAT, COMPLETE):
                base = {"messages": MESSAGES} if path == CHAT else {"prompt": "x"}
                is_error(post(path, {**base, "stream": True, "stream_options": options}), 400,
                         "wrong_type")
    with check("J16, J17: unknown fields have no effect"):
        whole = canary()
        for name in ("__proto__", "", "\n", "constructor", "a" * 5000, "é\0", "Prompt", "prompt "):
            r = accept(COMPLETE, {"prompt": "The quick", "max_tokens": 8, "temperature": 0,
                                  name: {"prompt": "other"}})
            assert r["choices"][0]["text"] == whole, name
            accept(CHAT, {"messages": [{"role": "user", "content": "x", name: 1}], name: None})
    with check("J18: null for each field in turn"):
        for name in INTEGERS + NUMBERS + SWITCHES + OTHERS + IGNORED:
            accept(CHAT, {"max_tokens": None, "max_completion_tokens": 2, name: None})
            accept(COMPLETE, {name: None, **({"max_tokens": 2} if name != "max_tokens" else {})})
        for name in CHAT_ONLY:
            accept(CHAT, {name: None})
        for fields in ({"prompt": None, "messages": MESSAGES}, {"prompt": "x", "messages": None},
                       {"prompt": "x", "model": None, "add_special_tokens": None,
                        "return_token_strs": None}):
            assert post("/tokenize", fields).status_code == 200, fields
        is_error(post("/tokenize", {"prompt": None}), 400, "missing_field", "messages")
        is_error(post("/detokenize", {"tokens": None}), 400, "missing_field", "tokens")
        is_error(post("/tokenize", {"prompt": "x", "messages": MESSAGES}), 400,
                 "value_out_of_range", "prompt")
        refuse(CHAT, {"messages": None}, "missing_field", "messages")
        refuse(COMPLETE, {"prompt": None}, "missing_field", "prompt")
        for name in ("role", "content"):
            refuse(CHAT, {"messages": [{"role": "user", "content": "x", name: None}]},
                   "missing_field", f"messages[0].{name}")
        accept(CHAT, {"messages": [{"role": "user", "content": "x", "name": None,
                                    "tool_calls": None, "tool_call_id": None}]})


def conversations():
    def said(content):
        return {"messages": [{"role": "user", "content": content}]}

    with check("J20: messages"):
        refuse(CHAT, {"messages": []}, "value_out_of_range", "messages")
        for n in (4097, 100001):
            e = refuse(CHAT, {"messages": MESSAGES * n}, "value_out_of_range", "messages")
            assert str(n) in e["message"] and "4096" in e["message"], e
        refuse(CHAT, {"messages": MESSAGES * 4096}, "context_length_exceeded", "messages")
        for value in ({}, "x", 1, True, {"role": "user", "content": "x"}):
            refuse(CHAT, {"messages": value}, "wrong_type", "messages")
        for value in (1, "x", None, [], True):
            refuse(CHAT, {"messages": MESSAGES + [value]}, "wrong_type", "messages[1]")
        for role in ("x", "", "User", "function", "user ", "a" * 100000, "\u00fc" * 100):
            e = refuse(CHAT, {"messages": [{"role": role, "content": "x"}]}, "value_out_of_range",
                       "messages[0].role")
            assert len(e["message"]) < 300, e
        for role in (1, None, True, []):
            r = post(CHAT, {"messages": [{"role": role, "content": "x"}]})
            is_error(r, 400, "wrong_type" if role is not None else "missing_field",
                     "messages[0].role")
        refuse(CHAT, {"messages": [{"content": "x"}]}, "missing_field", "messages[0].role")
    with check("J20: content"):
        refuse(CHAT, said(None), "missing_field", "messages[0].content")
        for value in (1, 1.5, True, {}, {"type": "text", "text": "x"}):
            refuse(CHAT, said(value), "wrong_type", "messages[0].content")
        for part in ({"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/x"}},
                     {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}},
                     {"type": "input_audio", "input_audio": {}}, {"type": "file"}, {"type": ""},
                     {"type": "refusal", "refusal": "x"}, {"type": "x" * 10000}):
            for parts in ([part], [{"type": "text", "text": "x"}, part]):
                refuse(CHAT, said(parts), "unsupported", f"messages[0].content[{len(parts) - 1}]")
        for part in ("x", 1, None, []):
            refuse(CHAT, said([part]), "wrong_type", "messages[0].content[0]")
        for part in ({}, {"text": "x"}, {"type": None, "text": "x"}, {"type": 1, "text": "x"}):
            refuse(CHAT, said([part]), "missing_field", "messages[0].content[0]")
        for part in ({"type": "text"}, {"type": "text", "text": None}, {"type": "text", "text": 1}):
            refuse(CHAT, said([part]), "wrong_type", "messages[0].content[0]")
    with check("J20: no address in a request is ever asked"):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            s.listen(1)
            s.settimeout(0.3)
            link = f"http://127.0.0.1:{s.getsockname()[1]}/x"
            refuse(CHAT, said([{"type": "image_url", "image_url": {"url": link}}]), "unsupported")
            accept(CHAT, {**said(link), "metadata": {"url": link}})
            try:
                s.accept()
            except TimeoutError:
                return
            raise AssertionError("somebody came")


# ---------------------------------------------------------------------------------- parameters


def out(fields):
    assert len(fields) == 1
    refuse_both(fields, "value_out_of_range", next(iter(fields)))


def raw_number(name, number):
    """A number as the JSON text says it, beyond what Python would write."""
    for path, stream in itertools.product((CHAT, COMPLETE), ("false", "true")):
        r = post(path, '{"prompt":"x","messages":[{"role":"user","content":"x"}],"stream":%s,'
                 '"%s":%s}' % (stream, name, number))
        yield r


def numbers():
    with check("P01: temperature"):
        for v in (-1, 2.0001, 1e308, -1e308, 3, -1e-9, -1e-300, 2.00000001, 1 << 63):
            out({"temperature": v})
        for v in (-0.0, 0, 2, 2.0, 1e-300, 1e-5):
            for path in (CHAT, COMPLETE):
                accept(path, {"temperature": v})
        zero = accept(COMPLETE, {"temperature": 0, "max_tokens": 8})["choices"][0]["text"]
        assert accept(COMPLETE, {"temperature": -0.0, "max_tokens": 8})["choices"][0]["text"] == zero
        for text in ("NaN", "Infinity", "-Infinity", "1e309", "-1e309"):
            for r in raw_number("temperature", text):
                is_error(r, 400, "invalid_json")
    with check("P02: top_p"):
        for v in (0, -0.0, -1, 1.0001, -1e-300, 1.00000001, 1e308):
            out({"top_p": v})
        for v in (1, 1.0, 0.5, 1e-300, 0.9999999999):
            accept(CHAT, {"top_p": v})
        for r in raw_number("top_p", "NaN"):
            is_error(r, 400, "invalid_json")
    with check("P04: min_p, typical_p"):
        for v in (-1, 2, 1.00000001, -1e-300):
            out({"min_p": v})
        for v in (0, 1, 0.3):
            accept(CHAT, {"min_p": v})
        for v in (-1, 2, 0, 0.5, 1.00000001):
            refuse_both({"typical_p": v}, "unsupported", "typical_p")
        accept(CHAT, {"typical_p": 1})
        for name in ("min_p", "typical_p"):
            for r in raw_number(name, "NaN"):
                is_error(r, 400, "invalid_json")
    with check("P05: penalties"):
        for name in ("frequency_penalty", "presence_penalty"):
            for v in (2.0001, -2.0001, 2.00000001, -2.00000001, 1e308):
                out({name: v})
            for v in (2, -2, 0, -0.0):
                accept(CHAT, {name: v})
        for v in (0, -0.0, -1, 1e-30, 1e-300, 1e308):
            out({"repetition_penalty": v})
        for v in (0.5, 1, 2):
            accept(CHAT, {"repetition_penalty": v})
        for name in NUMBERS:
            for text in ("NaN", "Infinity", "-Infinity"):
                for r in raw_number(name, text):
                    is_error(r, 400, "invalid_json")
    with check("numbers at the edges of the integers"):
        for name in INTEGERS:
            for v in (1 << 63, 1 << 64, -(1 << 63) - 1, 10 ** 300):
                out({name: v})
            for v in (-(1 << 63), -(1 << 31) - 1, -7):
                out({name: v})
        for name in ("n", "best_of", "top_k", "min_tokens", "prompt_logprobs", "priority"):
            out({name: (1 << 63) - 1})
            out({name: 1 << 32})
        refuse(CHAT, {"max_tokens": (1 << 63) - 1}, "context_length_exceeded", "messages")
        refuse(COMPLETE, {"max_tokens": (1 << 63) - 1}, "context_length_exceeded", "prompt")


def sizes():
    with check("P08: max_tokens and max_completion_tokens"):
        refuse(CHAT, {"max_tokens": 2, "max_completion_tokens": 3}, "value_out_of_range",
               "max_tokens")
        accept(CHAT, {"max_tokens": 2, "max_completion_tokens": 2})
        refuse(CHAT, {"max_completion_tokens": 0}, "value_out_of_range", "max_completion_tokens")
        refuse(CHAT, {"max_completion_tokens": -1}, "value_out_of_range", "max_completion_tokens")
    with check("P09: n"):
        for v in (0, -1, 9, 10 ** 9):
            out({"n": v})
        assert len(accept(COMPLETE, {"n": 8})["choices"]) == 8
    with check("P10: best_of"):
        refuse_both({"n": 2, "best_of": 1}, "value_out_of_range", "best_of")
        refuse_both({"best_of": 0}, "value_out_of_range", "best_of")
        refuse_both({"best_of": 3}, "value_out_of_range", "best_of")
        for path in (CHAT, COMPLETE):
            base = {"messages": MESSAGES} if path == CHAT else {"prompt": "x"}
            is_error(post(path, {**base, "n": 2, "best_of": 2, "stream": True}), 400,
                     "value_out_of_range", "best_of")
            accept(path, {"n": 2, "best_of": 2})
            accept(path, {"best_of": 1})
    with check("a query of many items is refused at once"):
        for item, n in (("a=1", 65), ("a", 500), ("", 1000), ("a=1", 8000)):
            with socket.create_connection(("127.0.0.1", server.port), timeout=5) as c:
                c.sendall(b"GET /health?" + "&".join([item] * n).encode() + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                said = c.makefile("rb").read().decode()
            assert said.startswith("HTTP/1.1 400 "), said
            assert f"the query has {n} items; expected at most 64" in said, said
        assert requests.get(url + "/health?" + "a=1&" * 63).status_code == 200
    vocab = vocabulary()
    with check("P12: prompt_logprobs"):
        for v in (-1, vocab, vocab - 1, 21):
            is_error(post(COMPLETE, {"prompt": "x", "prompt_logprobs": v}), 400,
                     "value_out_of_range", "prompt_logprobs")
            is_error(post(CHAT, {"messages": MESSAGES, "prompt_logprobs": v}), 400,
                     "value_out_of_range", "prompt_logprobs")
        accept(COMPLETE, {"prompt": "The quick", "prompt_logprobs": 20})
        refuse(CHAT, {"logprobs": True, "top_logprobs": -1}, "value_out_of_range", "top_logprobs")
        refuse(CHAT, {"logprobs": True, "top_logprobs": 21}, "value_out_of_range")
        refuse(COMPLETE, {"logprobs": 21}, "value_out_of_range", "logprobs")
        refuse(COMPLETE, {"logprobs": -1}, "value_out_of_range", "logprobs")
        accept(CHAT, {"logprobs": True, "top_logprobs": 20})
        accept(COMPLETE, {"logprobs": 20})
    with check("P13: echo with max_tokens 0"):
        for n in (1, 3):
            r = accept(COMPLETE, {"prompt": "The quick", "echo": True, "max_tokens": 0, "n": n})
            assert [c["text"] for c in r["choices"]] == ["The quick"] * n, r
            assert r["usage"]["completion_tokens"] == 0
        refuse(COMPLETE, {"max_tokens": 0}, "value_out_of_range", "max_tokens")
        refuse(CHAT, {"max_tokens": 0, "echo": True}, "value_out_of_range", "max_tokens")
    with check("P14: logit_bias"):
        for key in ("AI", "-1", str(vocab), str(1 << 40), "1.5", "", " 1", "1 ", "+1", "0x1", "1e1",
                    "\u0661", "1\0", str(1 << 31), str(1 << 64), "9" * 5000):
            refuse_both({"logit_bias": {key: 1}}, "value_out_of_range", "logit_bias")
        for v in (100.1, -100.1, 1e308, 100.000001, -100.000001):
            refuse_both({"logit_bias": {"5": v}}, "value_out_of_range", "logit_bias")
        for v in ("1", None, True, [], {}):
            refuse_both({"logit_bias": {"5": v}}, "wrong_type", "logit_bias")
        for value in ([], "x", 1, [[1, 2]]):
            refuse_both({"logit_bias": value}, "wrong_type", "logit_bias")
        for r in raw_number("logit_bias", '{"5":NaN}'):
            is_error(r, 400, "invalid_json")
        refuse_both({"logit_bias": {"1": 1, "01": 1}}, "duplicate_key", "logit_bias")
        # More entries than this vocabulary has: the count is looked at first.
        e = refuse(CHAT, {"logit_bias": {str(i): 1 for i in range(1025)}}, "value_out_of_range",
                   "logit_bias")
        assert "1025" in e["message"] and "1024" in e["message"], e
        accept(CHAT, {"logit_bias": {str(vocab - 1): 100, "0": -100}})
    with check("P16: stop_token_ids"):
        for ids in ([vocab], [-1], [1 << 31], [1 << 40], [1, 2, vocab]):
            refuse_both({"stop_token_ids": ids}, "value_out_of_range", "stop_token_ids")
            refuse_both({"allowed_token_ids": ids}, "value_out_of_range", "allowed_token_ids")
        refuse_both({"stop_token_ids": list(range(129))}, "value_out_of_range", "stop_token_ids")
        accept(CHAT, {"stop_token_ids": list(range(128))})
        accept(CHAT, {"stop_token_ids": []})
        refuse_both({"allowed_token_ids": []}, "value_out_of_range", "allowed_token_ids")
    with check("P17: seed"):
        for v in (-2, 1 << 63, 1 << 64, -(1 << 63)):
            out({"seed": v})
        refuse_both({"seed": 1.5}, "wrong_type", "seed")
        for v in (-1, 0, (1 << 63) - 1):
            accept(COMPLETE, {"seed": v})
    with check("P18: user, metadata"):
        refuse_both({"user": "u" * (1 << 20)}, "value_out_of_range", "user")
        refuse_both({"user": 5}, "wrong_type", "user")
        refuse_both({"metadata": {str(i): "x" for i in range(17)}}, "value_out_of_range",
                    "metadata")
        refuse_both({"metadata": "x"}, "wrong_type", "metadata")
        accept(CHAT, {"user": "u" * 1024, "metadata": {str(i): "x" for i in range(16)}})
    with check("limits of the table: tools"):
        tools = [{"type": "function", "function": {"name": f"f{i}"}} for i in range(129)]
        accept(CHAT, {"tools": tools[:128], "tool_choice": "none"})
        refuse(CHAT, {"tools": tools, "tool_choice": "none"}, "value_out_of_range", "tools")
    with check("limits of the table: stops"):
        accept(CHAT, {"stop": ["s" * 256] * 16})
        refuse_both({"stop": ["s"] * 17}, "value_out_of_range", "stop")
        refuse_both({"stop": ["s" * 257]}, "value_out_of_range", "stop[0]")


def vocabulary():
    with open(os.path.join(model, "config.json"), encoding="utf-8") as f:
        return json.load(f)["vocab_size"]


def prompts():
    vocab = vocabulary()
    with check("P20: prompts"):
        for v in ("", [], [[]], [-1], [vocab], [1 << 40], [[1], [vocab]], ["x", ""], [[1], []],
                  ["x"] * 10000, ["x"] * 65, [[1]] * 65, [-(1 << 63)], [[1 << 63]]):
            r = post(COMPLETE, {"prompt": v, "max_tokens": 2})
            code = "wrong_type" if v == [[1 << 63]] else "value_out_of_range"
            is_error(r, 400, code, "prompt")
            is_error(post(COMPLETE, {"prompt": v, "stream": True}), 400, code, "prompt")
        for v in ([1, "x"], ["x", 1], ["x", [1]], [[1], "x"], [[1], 1], [1, [1]], [1.5], [True],
                  [None], [[None]], [["x"]], [[[1]]], {}, 1, True, [{}]):
            for stream in (False, True):
                is_error(post(COMPLETE, {"prompt": v, "stream": stream}), 400, "wrong_type",
                         "prompt")
        r = accept(COMPLETE, {"prompt": ["x"] * 64, "max_tokens": 1})
        assert [c["index"] for c in r["choices"]] == list(range(64))
        is_error(post("/detokenize", {"tokens": [vocab]}), 400, "value_out_of_range", "tokens")
        for v in ([-1], [1 << 31], [1.5], ["1"], [None]):
            is_error(post("/detokenize", {"tokens": v}), 400, "value_out_of_range", "tokens")
        for v in ({}, "x", 1):
            is_error(post("/detokenize", {"tokens": v}), 400, "wrong_type", "tokens")
    with check("P21: content \"\""):
        r = accept(CHAT, {"messages": [{"role": "user", "content": ""}]})
        assert r["usage"]["prompt_tokens"] > 0
        accept(CHAT, {"messages": [{"role": "user", "content": []}]})
    with check("P22: a prompt around the context's end"):
        for stream in (False, True):
            r = post(COMPLETE, {"prompt": [10] * (CONTEXT - 1), "stream": stream,
                                "max_tokens": 1, "ignore_eos": True})
            assert r.status_code == 200, r.text
            for n in (CONTEXT, CONTEXT + 1, 100000):
                e = is_error(post(COMPLETE, {"prompt": [10] * n, "stream": stream,
                                             "max_tokens": 1}),
                             400, "context_length_exceeded", "prompt")
                assert f" {CONTEXT} tokens" in e["message"] and f"({n} in" in e["message"], e
            long = [{"role": "user", "content": "x " * 5000}]
            e = is_error(post(CHAT, {"messages": long, "stream": stream}), 400,
                         "context_length_exceeded", "messages")
            n = post("/tokenize", {"messages": long}).json()["count"]
            assert f"({n} in" in e["message"], (n, e)
        r = accept(COMPLETE, {"prompt": [10] * (CONTEXT - 1), "max_tokens": 1, "ignore_eos": True})
        assert r["usage"]["completion_tokens"] == 1
        r = post(CHAT, {"messages": MESSAGES, "truncate_prompt_tokens": 4, "max_tokens": 1})
        assert r.json()["usage"]["prompt_tokens"] == 4
        for n, kept in ((1, CONTEXT - 1), (5, CONTEXT - 5), (CONTEXT - 1, 1), (None, CONTEXT - 16)):
            r = post(COMPLETE, {"prompt": [10] * (CONTEXT + 7), "truncate_prompt_tokens": -1, "max_tokens": n,
                                "ignore_eos": True})
            assert r.status_code == 200, r.text
            assert r.json()["usage"]["prompt_tokens"] == kept, r.json()["usage"]
        r = post(CHAT, {"messages": long, "truncate_prompt_tokens": -1, "max_tokens": 3})
        assert r.json()["usage"]["prompt_tokens"] == CONTEXT - 3, r.text
        is_error(post(COMPLETE, {"prompt": [10] * 9, "truncate_prompt_tokens": -1, "max_tokens": CONTEXT}),
                 400, "context_length_exceeded", "prompt")
    with check("P24: min_tokens"):
        refuse_both({"min_tokens": 3, "max_tokens": 2}, "value_out_of_range", "min_tokens")
        refuse_both({"min_tokens": CONTEXT, "max_tokens": None}, "value_out_of_range",
                    "min_tokens")
        refuse_both({"min_tokens": -1}, "value_out_of_range", "min_tokens")
        accept(CHAT, {"min_tokens": 2, "max_tokens": 2})
    with check("P25: ignore_eos without max_tokens ends at the context"):
        r = post(CHAT, {"messages": MESSAGES, "ignore_eos": True, "temperature": 0}).json()
        assert r["choices"][0]["finish_reason"] == "length", r
        assert r["usage"]["total_tokens"] == CONTEXT, r["usage"]
    with check("P26: priority"):
        for v in (-1, 1, 1 << 40):
            out({"priority": v})
        accept(CHAT, {"priority": 0})
    with check("P28, P29: what is not offered is refused, not left out"):
        for form in ({"type": "json_object"}, {"type": "json_schema", "json_schema": {}},
                     {"type": "x"}):
            refuse_both({"response_format": form}, "unsupported", "response_format")
        refuse_both({"response_format": {}}, "missing_field", "response_format")
        for form in ("json", 1, [], True):
            r = post(CHAT, {"messages": MESSAGES, "response_format": form})
            assert r.status_code == 400, r.text
        accept(COMPLETE, {"response_format": {"type": "text"}})
        tool = {"type": "function", "function": {"name": "f"}}
        refuse(CHAT, {"tools": [tool], "response_format": {"type": "json_object"}}, "unsupported")
        refuse(CHAT, {"tools": [tool]}, "unsupported", "tool_choice")
        for suffix in ("x", "", "s" * (8 << 20 >> 1), "s" * ((8 << 20) - 64)):
            refuse(COMPLETE, {"suffix": suffix}, "unsupported", "suffix")
        is_error(post(COMPLETE, {"prompt": "x", "suffix": "s" * (8 << 20)}), 413, "body_too_large")
        for name in ("structured_outputs", "guided_json", "guided_regex", "guided_choice",
                     "guided_grammar"):
            refuse_both({name: {"regex": "a"}}, "unsupported", name)
            accept(CHAT, {name: None})
        refuse_both({"use_beam_search": True}, "unsupported", "use_beam_search")
        accept(CHAT, {"use_beam_search": False})
    with check("P30: greedy n = 4"):
        r = accept(CHAT, {"n": 4, "temperature": 0, "max_tokens": 12})
        assert len(r["choices"]) == 4
        assert len({c["message"]["content"] for c in r["choices"]}) == 1


def streamed_text(path, body):
    text = ""
    r = post(path, {**body, "stream": True})
    assert r.status_code == 200, r.text
    events = [e[6:] for e in r.text.split("\n\n") if e.startswith("data: ")]
    assert events[-1] == "[DONE]"
    for e in events[:-1]:
        for c in json.loads(e)["choices"]:
            if c["index"] == 0:
                text += c["text"]
    return text


def matrix():
    """P06: what only reports or repeats changes no token, whatever it stands beside."""
    steering = {
        "penalties": {"repetition_penalty": 1.3, "frequency_penalty": 0.5, "presence_penalty": -0.5},
        "bias": {"logit_bias": {"40": 3, "41": -100}, "bad_words": ["the"]},
        "cuts": {"temperature": 0.9, "top_p": 0.8, "top_k": 20, "min_p": 0.01},
        "length": {"min_tokens": 12},
    }
    looking = {
        "logprobs": {"logprobs": 3},
        "prompt logprobs": {"prompt_logprobs": 2},
        "n": {"n": 2},
        "ids": {"return_token_ids": True},
        "stream": None,
    }
    base = {"prompt": "The quick brown fox jumps over", "max_tokens": 16, "seed": 5,
            "temperature": 0.9}

    def told(fields, names):
        body = dict(fields)
        for name in names:
            body.update(looking[name] or {})
        if "stream" in names:
            return streamed_text(COMPLETE, body)
        return accept(COMPLETE, body)["choices"][0]["text"]

    for a, b in itertools.combinations_with_replacement(steering, 2):
        with check(f"P06: {a} and {b}, alone and beside what reports"):
            fields = {**base, **steering[a], **steering[b]}
            alone = told({**fields, "cache_salt": a + b}, [])
            assert alone == told(fields, [])  # and again, its prompt cached by now
            assert alone == told(fields, [])
            for names in itertools.chain.from_iterable(
                    itertools.combinations(looking, k) for k in (1, 2)):
                if set(names) != {"prompt logprobs", "stream"}:
                    assert told(fields, names) == alone, names


def strict():
    with check("J16: the manual lists the fields that are known"):
        with open(os.path.join(TOP, "plugins", "http", "http_ask.c"), encoding="utf-8") as f:
            known = re.search(r"known_fields\[\] = \{(.*?)\};", f.read(), re.S)[1]
        with open(os.path.join(TOP, "docs", "tenon.1"), encoding="utf-8") as f:
            manual = re.search(r"\.SH REQUESTS\n(.*?)\n\.SH", f.read(), re.S)[1]
        missing = [n for n in re.findall('"(\\w+)"', known) if not re.search(rf"\b{n}\b", manual)]
        assert not missing, missing
    with check("J16: strict"):
        for name in ("nope", "__proto__", "", "\n", "a" * 5000, "Prompt", "prompt\0", "é"):
            refuse_both({name: 1}, "unknown_field")
            refuse_both({name: None}, "unknown_field")
            is_error(post("/tokenize", {"prompt": "x", name: 1}), 400, "unknown_field")
            is_error(post("/detokenize", {"tokens": [1], name: 1}), 400, "unknown_field")
        assert post("/tokenize", {"messages": MESSAGES, "tools": None}).status_code == 200
        assert post("/detokenize", {"tokens": [1], "model": None}).status_code == 200
        r = post(COMPLETE, {"prompt": "x", "a" * 5000: 1}).json()["error"]
        assert len(r["message"]) < 300 and len(r["param"]) < 300, r
        for name in INTEGERS + NUMBERS + SWITCHES + OTHERS + CHAT_ONLY + IGNORED:
            accept(CHAT, {"max_tokens": None, "max_completion_tokens": 2, name: None})


with Server(ini, model) as server:
    url = server.url
    golden = canary()
    files = files_open(server.process.pid)
    for group in (kinds_of_errors, bodies, texts, types, conversations, numbers, sizes, prompts, matrix):
        group()
        with check(f"all is well after {group.__name__}"):
            all_is_well(server.process.pid, golden, files)
    with check("SIGTERM ends with 0"):
        assert server.stop() == 0
    with check("nothing was a bug"):
        assert "bug" not in server.text() and "ERROR" not in server.text(), server.text()[-2000:]

with Server(write_ini(os.path.join(folder, "s.ini"), http="strict = yes\n"), model) as server:
    url = server.url
    strict()

tail = "[model default]\nqueue = 1\nmax_num_seqs = 1\n"
with Server(write_ini(os.path.join(folder, "q.ini"), tail=tail), model) as server:
    url = server.url
    overload()

with check("1.1: what draining cuts off is told so, and the exit says 75"):
    tail = "[model default]\nmax_num_batched_tokens = 1\n"
    path = write_ini(os.path.join(folder, "d.ini"), tail=tail)
    with Server(path, model, "--drain-timeout", "0", "--cpu-exact") as server:
        url = server.url
        seen = []

        def ask(stream):
            r = requests.post(url + COMPLETE, timeout=30, json={
                "prompt": ["x"] * 8, "max_tokens": 500, "n": 8, "ignore_eos": True,
                "stream": stream})
            seen.append((r.status_code, r.text, r.headers))

        threads = [threading.Thread(target=ask, args=(i % 2 == 0,)) for i in range(8)]
        for t in threads:
            t.start()
        for _ in range(1000):
            if metric("tenon:requests_accepted") >= 64:  # each of the eight has come
                break
        assert server.stop() == 75, server.text()
        for t in threads:
            t.join()
        assert len(seen) == 8, len(seen)  # nobody saw a broken connection
        for status, text, headers in seen:
            if status == 503:
                assert json.loads(text)["error"]["code"] == "draining", text
                assert 1 <= int(headers["Retry-After"]) <= 60
            elif text.startswith("data: "):
                assert text.endswith("data: [DONE]\n\n") or '"code":"draining"' in text, text[-300:]

shutil.rmtree(folder)
check.finish()
