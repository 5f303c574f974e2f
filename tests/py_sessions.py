# SPDX-License-Identifier: Apache-2.0
"""Conversations as files, end to end: what one process saved another goes on with, token for
token, and computes nothing of it again; whatever is wrong with a file, a name or an owner is
refused by name and changes nothing."""
import ctypes
import json
import os
import resource
import shutil
import socket
import stat
import tempfile

from tenonlib import Counter, Server, make_hybrid, make_model, run, write_ini

import requests

check = Counter()
folder = tempfile.mkdtemp(prefix="tenon-sessions-")
ini = write_ini(os.path.join(folder, "tenon.ini"))
kept = os.path.join(folder, "kept")
os.mkdir(kept)
dense = make_model(os.path.join(folder, "dense"))
other = make_model(os.path.join(folder, "other"), seed=2)
hybrid = make_hybrid(os.path.join(folder, "hybrid"))
drafting = make_hybrid(os.path.join(folder, "drafting"), mtp=True)
TEXT = "The quick brown fox jumps over the lazy dog, and a model counts: " * 3


def serve(model, *more):
    return Server(ini, model, "--session-dir", kept, "--block-size", "16", "--enable-prompt-tokens-details",
                  *more)


def complete(s, prompt, n, key=None):
    r = requests.post(s.url + "/v1/completions", headers=auth(key), json={
        "prompt": prompt, "max_tokens": n, "temperature": 0, "ignore_eos": True, "return_token_ids": True})
    assert r.status_code == 200, r.text
    c, u = r.json()["choices"][0], r.json()["usage"]
    return c["prompt_token_ids"], c["token_ids"], u["prompt_tokens_details"]["cached_tokens"]


def auth(key):
    return {"Authorization": "Bearer " + key} if key else {}


def call(s, what, key=None, **body):
    return requests.post(s.url + "/v1/sessions/" + what, headers=auth(key), json=body)


def done(r):
    assert r.status_code == 200, r.text
    return r.json()["tokens"], r.json()["cached_tokens"]


def refused(r, status, code):
    assert (r.status_code, r.json()["error"]["code"]) == (status, code), r.text
    assert folder not in r.text, r.text  # no path leaves the house


def path_of(name, where=kept):
    found = [f for f in os.listdir(where) if f.startswith(name + ".")]
    assert len(found) == 1, found
    return os.path.join(where, found[0])


def goes_on(name, model, *more):
    """One process says 20 tokens and is saved; another, which never saw them, says what the first
    would have said next."""
    with serve(model, *more) as s:
        ids, reply, cached = complete(s, TEXT, 20)
        assert cached == 0 and len(reply) == 20
        tokens, known = done(call(s, "save", session=name, prompt=ids + reply))
        assert tokens == len(ids) + 20 and known > len(ids) // 2, (tokens, known)
        _, want, here = complete(s, ids + reply + ids[:5], 40)
        assert here == known, (here, known)
        s.stop()
    with serve(model, *more) as s:
        assert done(call(s, "restore", session=name)) == (tokens, known)
        _, got, there = complete(s, ids + reply + ids[:5], 40)
        assert (got, there) == (want, here), (got, want, there, here)
        assert done(call(s, "save", session=name + "-again", prompt=ids + reply))[1] >= known
        s.stop()
    return known


with check("a dense model goes on in another process, and computes no block again"):
    assert goes_on("dense", dense) % 16 == 0
    assert stat.S_IMODE(os.stat(path_of("dense")).st_mode) == 0o600
    assert not [f for f in os.listdir(kept) if f.startswith(".")]

with check("the exact mode too"):
    goes_on("exact", dense, "--cpu-exact")

with check("a hybrid model goes on behind the very last token of its state"):
    known = goes_on("hybrid", hybrid)
    assert known % 16 != 0, known  # a state and an open block, not only full ones

with check("a hybrid model that drafts: pending rows are settled before they are saved"):
    for drafts in ("1", "3"):
        goes_on("drafting" + drafts, drafting, "--drafts", drafts)

with check("forks part ways; neither knows of the other"):
    with serve(hybrid) as s:
        ids, reply, _ = complete(s, TEXT, 20)
        both = done(call(s, "save", session="trunk", prompt=ids + reply))
        assert done(call(s, "fork", session="trunk", to="branch")) == both
        refused(call(s, "fork", session="trunk", to="branch"), 409, "session_exists")
        refused(call(s, "fork", session="trunk", to="trunk"), 409, "session_exists")
        refused(call(s, "fork", session="nothing", to="x"), 404, "session_not_found")
        want = [complete(s, ids + reply + [t], 20)[1] for t in (5, 6)]
        s.stop()
    with open(path_of("trunk"), "rb") as a, open(path_of("branch"), "rb") as b:
        assert a.read() == b.read()
    for name, t, w in (("trunk", 5, want[0]), ("branch", 6, want[1])):
        with serve(hybrid) as s:
            assert done(call(s, "restore", session=name)) == both
            _, got, cached = complete(s, ids + reply + [t], 20)
            assert (got, cached) == (w, both[1]), (got, w)
            s.stop()

with check("a chat is saved by its messages"):
    talk = [{"role": "user", "content": "Count for me, please: " + TEXT}]
    body = {"temperature": 0, "max_tokens": 12, "ignore_eos": True}
    with serve(hybrid) as s:
        r = requests.post(s.url + "/v1/chat/completions", json={"messages": talk, **body}).json()
        talk.append({"role": "assistant", "content": r["choices"][0]["message"]["content"]})
        tokens, known = done(call(s, "save", session="chat", messages=talk, add_generation_prompt=False))
        assert known > 20, known
        talk.append({"role": "user", "content": "Go on"})
        want = requests.post(s.url + "/v1/chat/completions", json={"messages": talk, **body}).json()
        s.stop()
    with serve(hybrid) as s:
        done(call(s, "restore", session="chat"))
        got = requests.post(s.url + "/v1/chat/completions", json={"messages": talk, **body}).json()
        assert got["choices"][0]["message"] == want["choices"][0]["message"]
        assert got["usage"]["prompt_tokens_details"]["cached_tokens"] >= known

with check("what was not computed here is saved as its tokens, with a warning"):
    with serve(dense) as s:
        r = call(s, "save", session="strange", prompt=TEXT).json()
        assert r["tokens"] > 0 and r["cached_tokens"] == 0 and "nothing of this" in r["warning"], r
        r = call(s, "restore", session="strange").json()
        assert r["cached_tokens"] == 0 and "warning" not in r, r
        complete(s, TEXT, 4)
        r = call(s, "save", session="strange", prompt=TEXT).json()
        assert r["cached_tokens"] > 0 and "warning" not in r, r
with check("damaged files: refused, and nothing of them is found in the cache"):
    with open(path_of("dense"), "rb") as f:
        whole = f.read()
    size = len(whole)
    with serve(dense) as s:
        ids, _, _ = complete(s, TEXT, 1)
        s.stop()

    def spoiled(at):
        return whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1:]

    bad = {"empty": b"", "short": whole[:100], "cut": whole[:-1], "half": whole[:size // 2], "long": whole + b"x",
           "magic": spoiled(0), "version": spoiled(8), "order": spoiled(12), "print": spoiled(16), "sizes": spoiled(48),
           "ids": spoiled(256), "block": spoiled(size // 2), "sum": spoiled(size - 1), "noise": os.urandom(size)}
    with serve(dense) as s:
        for name, data in bad.items():
            with open(path_of("dense").replace("dense.", name + "."), "wb") as f:
                f.write(data)
            refused(call(s, "restore", session=name), 400, "session_invalid")
            refused(call(s, "fork", session=name, to=name + "-2"), 400, "session_invalid")
            assert run("session", path_of(name)).returncode == 65
        assert complete(s, ids, 1)[2] == 0
        os.mkfifo(path_of("dense").replace("dense.", "pipe."))
        refused(call(s, "restore", session="pipe"), 400, "session_invalid")
        assert requests.get(s.url + "/metrics").text.count("kv_cache_usage") > 0
        done(call(s, "restore", session="dense"))
        assert complete(s, ids, 1)[2] > 0
        s.stop()

with check("another model, another cache: session_mismatch"):
    for model, more in ((other, ()), (hybrid, ()), (dense, ("--cpu-exact",)), (dense, ("--kv-cache-dtype", "float32"))):
        with serve(model, *more) as s:
            refused(call(s, "restore", session="dense"), 400, "session_mismatch")
            s.stop()
    with serve(dense, "--max-model-len", "256") as s:  # a shorter context is no other model
        done(call(s, "restore", session="dense"))
        s.stop()
    with serve(dense, "--max-model-len", "64") as s:
        refused(call(s, "restore", session="dense"), 413, "session_too_large")
        s.stop()

with check("names are no paths"):
    with serve(dense) as s:
        for name in ("", "..", "../x", "a/b", "/etc/passwd", "a\\b", "a b", "ä", "x" * 65, ".." * 40, "a\n", "%2e"):
            for what in ("save", "restore", "fork"):
                r = call(s, what, session=name, prompt="x", to="ok")
                if name == "..":  # letters enough, and no path: a file called so, with its ending
                    assert r.status_code in (200, 404), r.text
                else:
                    refused(r, 400, "value_out_of_range")
            if name != "..":
                refused(call(s, "fork", session="dense", to=name), 400, "value_out_of_range")
        for body in ({}, {"session": 5}, {"session": ["x"]}, {"session": None}):
            assert call(s, "restore", **body).status_code == 400
        assert call(s, "save", session="x").json()["error"]["code"] == "missing_field"
        assert call(s, "save", session="x", prompt=[-1]).status_code == 400
        assert call(s, "save", session="x", prompt=[10 ** 6]).status_code == 400
        assert call(s, "save", session="x", prompt="a", messages=[]).status_code == 400
        assert call(s, "restore", session="x", model="nobody").json()["error"]["code"] == "model_not_found"
        assert requests.get(s.url + "/v1/sessions/save").status_code == 405
        refused(call(s, "save", session="x", prompt=[5] * 600), 413, "session_too_large")
        assert set(os.listdir(folder)) == {"tenon.ini", "kept", "dense", "other", "hybrid", "drafting"}
        s.stop()

with check("without session_dir nothing is offered"):
    with Server(ini, dense) as s:
        for what in ("save", "restore", "fork"):
            refused(call(s, what, session="dense", prompt="x", to="y"), 404, "sessions_not_offered")
    for bad in (folder + "/absent", ini):
        r = run("serve", dense, "--config", ini, "--port", "0", "--session-dir", bad)
        assert r.returncode == 78 and "session_dir" in r.stderr, r.stderr
    with serve(dense, "--no-prefix-caching") as s:
        refused(call(s, "save", session="off", prompt="x"), 404, "sessions_not_offered")

with check("two keys have two name spaces, in every process"):
    keys = ("--api-key", "first,second")
    with serve(dense, *keys) as s:
        ids, _, _ = complete(s, TEXT, 1, "first")
        known = done(call(s, "save", "first", session="mine", prompt=ids))[1]
        assert known > 0
        refused(call(s, "restore", "second", session="mine"), 404, "session_not_found")
        refused(call(s, "fork", "second", session="mine", to="yours"), 404, "session_not_found")
        assert done(call(s, "save", "second", session="mine", prompt=ids))[1] == 0  # its own, and its own cache
        assert call(s, "restore", session="mine").status_code == 401
        refused(call(s, "restore", "first", session="dense"), 404, "session_not_found")
        s.stop()
    with serve(dense, *keys) as s:
        assert done(call(s, "restore", "first", session="mine"))[1] == known
        assert complete(s, ids, 1, "second")[2] == 0
        assert complete(s, ids, 1, "first")[2] > 0
        refused(call(s, "restore", "first", session="mine", cache_salt="x"), 404, "session_not_found")
        done(call(s, "save", "first", session="mine", cache_salt="x", prompt=ids))
        s.stop()

with check("session_space bounds what clients can fill"):
    small = os.path.join(folder, "small")
    os.mkdir(small)
    with Server(ini, dense, "--session-dir", small, "--block-size", "16", "--session-space", "200KiB") as s:
        ids = list(range(5, 80))
        codes = []
        for i in range(40):
            requests.post(s.url + "/v1/completions", json={"prompt": ids, "max_tokens": 1})
            codes.append(call(s, "save", session=f"s{i}", prompt=ids))
        assert codes[0].status_code == 200
        refused(codes[-1], 413, "session_too_large")
        assert sum(os.path.getsize(os.path.join(small, f)) for f in os.listdir(small)) <= 200 * 1024
        assert call(s, "save", session="s0", prompt=ids).status_code == 200  # replaced, not added
        s.stop()
    shutil.rmtree(small)

with check("what a writer that was killed left behind is gone with the next start"):
    dead = ".gone.0.session.0123456789abcdef"
    for name in (dead, ".bystander", "keep.session.txt"):
        with open(os.path.join(kept, name), "w", encoding="utf-8") as f:
            f.write("x")
    before = set(os.listdir(kept))
    with serve(dense) as s:
        assert set(os.listdir(kept)) == before - {dead}
        s.stop()
    for name in (".bystander", "keep.session.txt"):
        os.remove(os.path.join(kept, name))


def few_rights():
    """Root writes where nobody may, unless it gives that right up."""
    if os.geteuid() == 0:
        assert ctypes.CDLL(None, use_errno=True).prctl(24, 1, 0, 0, 0) == 0  # CAPBSET_DROP, DAC_OVERRIDE


with check("a folder that is read-only, gone or full: one sentence, and the older file stays whole"):
    locked = os.path.join(folder, "locked")
    os.mkdir(locked)
    at = ("--session-dir", locked, "--block-size", "16", "--enable-prompt-tokens-details")
    ids = list(range(5, 105))

    def stays(s):
        with open(path_of("talk", locked), "rb") as f:
            assert f.read() == whole
        assert len(os.listdir(locked)) == 1
        assert call(s, "restore", session="talk").status_code == 200
        assert requests.get(s.url + "/health").status_code == 200

    with Server(ini, dense, *at, preexec_fn=few_rights) as s:
        complete(s, ids, 1)
        done(call(s, "save", session="talk", prompt=ids))
        with open(path_of("talk", locked), "rb") as f:
            whole = f.read()
        os.chmod(locked, 0o500)
        refused(call(s, "save", session="talk", prompt=ids), 503, "session_io")
        refused(call(s, "fork", session="talk", to="other"), 503, "session_io")
        stays(s)
        os.chmod(locked, 0o700)
        os.rename(locked, locked + "-away")
        refused(call(s, "save", session="talk", prompt=ids), 503, "session_io")
        refused(call(s, "restore", session="talk"), 404, "session_not_found")
        os.rename(locked + "-away", locked)
        stays(s)
        s.stop()
    most = len(whole) // 2
    with Server(ini, dense, *at,
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))) as s:
        complete(s, ids, 1)
        refused(call(s, "save", session="talk", prompt=ids), 503, "session_io")
        refused(call(s, "fork", session="talk", to="other"), 503, "session_io")
        stays(s)
        s.stop()

with check("a client that leaves while its conversation is saved"):
    with Server(ini, dense, *at) as s:
        complete(s, ids, 1)
        body = json.dumps({"session": "talk", "prompt": ids + [7]}).encode()
        head = f"POST /v1/sessions/save HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n" \
               f"Content-Length: {len(body)}\r\n\r\n"
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", s.port)) as c:
                c.sendall(head.encode() + body)
        assert requests.get(s.url + "/health").status_code == 200
        assert s.stop() == 0
    assert len(os.listdir(locked)) == 1, os.listdir(locked)
    assert run("session", path_of("talk", locked)).returncode == 0
    shutil.rmtree(locked)

with check("tenon complete --session: two processes say what one would"):
    one = ["complete", dense, "--config", ini, "--temperature", "0", "--ignore-eos", "--json", "--block-size", "16"]
    for model in (dense, hybrid, drafting):
        one[1] = model
        more = ["--drafts", "2"] if model == drafting else []
        file = os.path.join(folder, "talk")
        want = json.loads(run(*one, *more, "-p", TEXT, "-n", "40").stdout)["token_ids"]
        a = run(*one, *more, "-p", TEXT, "-n", "20", "--session", file)
        assert a.returncode == 0, a.stderr
        told = json.loads(run("session", file, "--json").stdout)
        assert told["tokens"] == len(json.loads(a.stdout)["prompt_token_ids"]) + 20, told
        b = run(*one, *more, "-n", "20", "--session", file)
        assert b.returncode == 0, b.stderr
        a, b = json.loads(a.stdout), json.loads(b.stdout)
        assert a["token_ids"] + b["token_ids"] == want, (a, b, want)
        assert b["cached_tokens"] == told["cached_tokens"] > 0, (b["cached_tokens"], told)
        assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
        r = run(*one[:1], other, *one[2:], "-n", "20", "--session", file)
        assert r.returncode == 65 and "another model" in r.stderr, r.stderr
        os.truncate(file, 300)
        r = run(*one, *more, "-n", "20", "--session", file)
        assert r.returncode == 65 and "expected" in r.stderr and os.path.getsize(file) == 300, r.stderr
        os.remove(file)
    assert run(*one, "-n", "1", "--session", file).returncode == 64  # no file yet, and no prompt
    r = run(*one, "-p", "x", "-n", "1", "--session", folder + "/absent/file")
    assert r.returncode == 73 and "folder" in r.stderr, r.stderr

with check("tenon chat --session: the conversation goes on"):
    chat = ["chat", hybrid, "--config", ini, "--max-tokens", "6", "--temperature", "0", "--block-size", "16"]
    file = os.path.join(folder, "chatted")
    want = run(*chat, stdin="Hello\nAnd now?\n")
    a = run(*chat, "--session", file, stdin="Hello\n")
    assert a.returncode == 0, a.stderr
    b = run(*chat, "--session", file, stdin="And now?\n")
    assert b.returncode == 0, b.stderr
    assert a.stdout + b.stdout == want.stdout, (a.stdout, b.stdout, want.stdout)
    assert "note" in run("session", file).stdout
    os.remove(file)

shutil.rmtree(folder)
check.finish()
