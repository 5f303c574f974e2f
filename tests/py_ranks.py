# SPDX-License-Identifier: Apache-2.0
"""Tensor parallel on the CPU: ranks that share a model say what one says alone, from every kind of
file, served or not; a rank that is lost ends the server, and leaves nobody behind."""
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import requests
from safetensors.numpy import load_file, save_file

from tenonlib import (Counter, Server, TENON, TEXT, free_port, make_experts, make_hybrid, run, write_ini,
                      write_json)

check = Counter()
folder = tempfile.mkdtemp(prefix="tenon-ranks-")
ini = write_ini(os.path.join(folder, "t.ini"),
                plugins=("cpu", "shared", "awq", "gptq", "http"))


def answer(model, n, *args):
    r = run("complete", model, "--config", ini, "--prompt", TEXT[:60], "--max-tokens", "24",
            "--temperature", "0", "--ignore-eos", "--cpu-exact", "--json",
            "--tensor-parallel-size", str(n), *args)
    assert r.returncode == 0, r.stderr
    return json.loads(r.stdout)["token_ids"]


def ranks_of(server):
    """Processes of ranks that the server has started."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/status", encoding="utf-8") as f:
                if re.search(rf"^PPid:\t{server.process.pid}$", f.read(), re.M):
                    found.append(int(pid))
        except OSError:
            pass
    return found


def is_there(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as f:
            return f.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def quantized(source, name, *args):
    path = os.path.join(folder, name)
    r = run("quantize", source, *args, "--bits", "4", "--output", path, "--config", ini)
    assert r.returncode == 0, r.stderr
    return path


def act_order(source, name):
    """The GPTQ folder as if columns had been quantized in another order: its rows of codes are moved,
    and g_idx says where their scales are."""
    path = os.path.join(folder, name)
    shutil.copytree(source, path)
    file = os.path.join(path, "model.safetensors")
    w = load_file(file)
    for key in [k for k in w if k.endswith(".qweight")]:
        words, n = w[key].shape
        nibbles = (w[key].view(np.uint32)[:, None, :] >> (4 * np.arange(8, dtype=np.uint32))[:, None]) & 15
        order = np.random.default_rng(words).permutation(8 * words)  # of gate and up the same
        moved = nibbles.reshape(8 * words, n)[order].reshape(words, 8, n)
        w[key] = np.bitwise_or.reduce(moved << (4 * np.arange(8, dtype=np.uint32))[:, None], 1
                                      ).astype(np.uint32).view(np.int32)
        index = key[:-len("qweight")] + "g_idx"
        w[index] = np.ascontiguousarray(w[index][order])
    save_file(w, file, metadata={"format": "pt"})
    for config in ("config.json", "quantize_config.json"):
        file = os.path.join(path, config)
        if os.path.exists(file):
            with open(file, encoding="utf-8") as f:
                c = json.load(f)
            c.get("quantization_config", c)["desc_act"] = True
            write_json(file, c)
    return path


def asked(s, **body):
    r = requests.post(s.url + "/v1/completions", json={
        "max_tokens": 16, "temperature": 0, "ignore_eos": True, "return_token_ids": True, **body})
    assert r.status_code == 200, r.text
    return r.json()


def ids_of(s, **body):
    return asked(s, **body)["choices"][0]["token_ids"]


def streamed(s, **body):
    text = ""
    with requests.post(s.url + "/v1/completions", stream=True, json={
            "max_tokens": 16, "temperature": 0, "ignore_eos": True, "stream": True, **body}) as r:
        for line in r.iter_lines():
            if line.startswith(b"data: {"):
                text += json.loads(line[6:])["choices"][0]["text"]
    return text


DRAWN = {"temperature": 0.9, "seed": 11}
WAYS = {
    "greedy": {}, "long": {"prompt": TEXT[:200]}, "drawn": DRAWN,
    "cut": {**DRAWN, "top_k": 9, "top_p": 0.9, "min_p": 0.01},
    "penalties": {**DRAWN, "repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.4},
    "bias": {"logit_bias": {"17": 40, "300": 39.5}}, "forbidden": {"logit_bias": {"17": -100}},
    "allowed": {"allowed_token_ids": [5, 60, 61, 99, 260, 300]},
    "allowed and drawn": {**DRAWN, "allowed_token_ids": [5, 60, 61, 99, 260, 300],
                          "presence_penalty": 1.5},
}


def everything(model, n, *args):
    """What `n` ranks say in all ways of asking."""
    with Server(ini, model, "--cpu-exact", "--rank-check", "--block-size", "16", "--max-model-len", "256",
                "--enable-prompt-tokens-details", "--tensor-parallel-size", str(n), *args) as s:
        with ThreadPoolExecutor(4) as pool:
            said = dict(zip(WAYS, pool.map(lambda b: ids_of(s, **{"prompt": TEXT[:70], **b}),
                                           WAYS.values())))
        said["stream"] = streamed(s, prompt=TEXT[30:90])
        assert said["stream"] == asked(s, prompt=TEXT[30:90])["choices"][0]["text"]
        begun = asked(s, prompt=TEXT[:200], max_tokens=40)["choices"][0]
        known = begun["prompt_token_ids"] + begun["token_ids"]
        more = asked(s, prompt=known + [5], max_tokens=30)
        cached = more["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert cached > len(known) // 2, more["usage"]
        said["gone on"] = more["choices"][0]["token_ids"], cached
        assert s.stop() == 0, s.text()
        read = [int(x) for x in re.findall(r"rank \d+: read .*?\((\d+) bytes\)", s.text())]
        assert len(read) == (n if n > 1 else 0), s.text()
    return said, read


plain = make_hybrid(os.path.join(folder, "plain"))
wide = make_experts(os.path.join(folder, "wide"))
made = {"plain": plain}
for name, args in {"awq": ["--quant", "awq"], "gptq": ["--quant", "gptq"],
                   "pack": ["--quant", "awq", "--variant", "pack-quantized"]}.items():
    with check(f"quantize {name}"):
        made[name] = quantized(plain, name, *args, "--group-size", "32")
with check("quantize experts in groups that no rank's width is a multiple of"):
    made["wide"] = quantized(wide, "wide-awq", "--quant", "awq", "--group-size", "128")
with check("act-order"):
    made["act-order"] = act_order(made["gptq"], "act-order")

sizes = {"plain": (2, 3, 4, 8), "awq": (2, 8), "gptq": (4,), "pack": (2, 8), "act-order": (3, 4, 8),
         "wide": (4, 8)}
for name, model in made.items():
    alone, _ = everything(model, 1)
    with check(f"{name}: the ways of asking are told apart"):
        assert len({str(v) for v in alone.values()}) > len(WAYS) - 2, alone
    for n in sizes[name]:
        with check(f"{name}: {n} ranks say what one says"):
            said, read = everything(model, n)
            assert said == alone, {k: (said[k], alone[k]) for k in alone if said[k] != alone[k]}
            size = os.path.getsize(os.path.join(model, "model.safetensors"))
            assert max(read) < size * (0.75 if n < 4 else 0.6), (read, size)
with check("a rank reads what the plan says"):
    planned = run("plan", made["awq"], "--config", ini, "--tensor-parallel-size", "2", "--json")
    planned = json.loads(planned.stdout)["file_bytes"]
    _, read = everything(made["awq"], 2)
    assert abs(planned - read[0]) < 0.001 * planned, (planned, read)  # rounded strip by strip

with check("a rank's 192 columns of groups of 128 are in groups of 64"):
    r = run("serve", made["wide"], "--config", ini, "--tensor-parallel-size", "4", "--print-tensors")
    assert re.search(r"layers\.0\.mlp\.experts\.down +w4g/64z? +128 x 192 ", r.stdout), r.stdout + r.stderr
for name in ("plain", "awq"):
    with check(f"{name}: prompts in pieces"):
        assert answer(made[name], 2, "--max-num-batched-tokens", "16") == answer(made[name], 1)

drafting = make_hybrid(os.path.join(folder, "drafting"), mtp=True)
with check("ranks draft, and say what one says without drafts"):
    alone, _ = everything(drafting, 1)
    for n in (2, 4):
        said, _ = everything(drafting, n, "--drafts", "2")
        assert said == alone, {k: (said[k], alone[k]) for k in alone if said[k] != alone[k]}


def session(s, what, **body):
    r = requests.post(s.url + "/v1/sessions/" + what, json=body)
    return r.status_code, r.json()


def keeping(n):
    return Server(ini, plain, "--cpu-exact", "--session-dir", kept, "--block-size", "16",
                  "--enable-prompt-tokens-details", "--tensor-parallel-size", str(n))


kept = os.path.join(folder, "kept")
os.mkdir(kept)
for n in (2, 4):
    with check(f"{n} ranks: saved, forked, restored by others of as many, refused by one"):
        with keeping(n) as s:
            first = asked(s, prompt=TEXT[:150], max_tokens=20)["choices"][0]
            known = first["prompt_token_ids"] + first["token_ids"]
            saved = session(s, "save", session=f"talk{n}", prompt=known)
            assert saved[0] == 200 and saved[1]["cached_tokens"] > 20, saved
            assert session(s, "fork", session=f"talk{n}", to=f"branch{n}")[0] == 200
            want = ids_of(s, prompt=known + [5], max_tokens=20)
            s.stop()
        with keeping(n) as s:
            status, back = session(s, "restore", session=f"branch{n}")
            assert status == 200, back
            assert all(back[k] == saved[1][k] for k in ("tokens", "cached_tokens")), (back, saved)
            got = asked(s, prompt=known + [5], max_tokens=20)
            assert got["choices"][0]["token_ids"] == want
            assert got["usage"]["prompt_tokens_details"]["cached_tokens"] == saved[1]["cached_tokens"]
            s.stop()
        with keeping(1) as s:
            status, why = session(s, "restore", session=f"talk{n}")
            assert status >= 400 and why["error"]["code"] == "session_mismatch", why
            assert "the same weights, ranks" in why["error"]["message"], why
            assert ids_of(s, prompt=known + [5], max_tokens=20) == want
            s.stop()


def started_apart(other, *args):
    """Two processes that a launcher would start; the second has a folder or flags of its own."""
    port, ranks = free_port(), []
    for r in (0, 1):
        env = dict(os.environ, PMI_RANK=str(r), PMI_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        ranks.append(subprocess.Popen(
            [TENON, "complete", (plain, other)[r], "--config", ini, "--prompt", "x", "--max-tokens", "3",
             "--tensor-parallel-size", "2", *(args if r else ())], env=env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    return [(p.communicate(timeout=60)[1], p.returncode) for p in ranks]


def changed(name, file, change):
    path = os.path.join(folder, name)
    shutil.copytree(plain, path)
    change(os.path.join(path, file))
    return path


def last_byte(path):
    with open(path, "r+b") as f:
        f.seek(-1, os.SEEK_END)
        last = f.read(1)
        f.seek(-1, os.SEEK_END)
        f.write(bytes([last[0] ^ 1]))


def other_type(path):
    w = load_file(path)
    w["model.layers.1.mlp.up_proj.weight"] = w["model.layers.1.mlp.up_proj.weight"].astype(np.float32)
    save_file(w, path, metadata={"format": "pt"})


def other_eps(path):
    with open(path, encoding="utf-8") as f:
        write = json.load(f)
    write_json(path, {**write, "rms_norm_eps": 1e-5})


with check("ranks of one folder come together"):
    assert [code for _, code in started_apart(plain)] == [0, 0]
for name, apart in {
        "tensor model.layers.1.mlp.up_proj.weight":
            [changed("typed", "model.safetensors", other_type)],
        "file model.safetensors": [changed("bit", "model.safetensors", last_byte)],
        "config.json": [changed("eps", "config.json", other_eps)],
        "form of model.layers.0.": [plain, "--dense", "int8"],
        "context, batch": [plain, "--max-model-len", "100"]}.items():
    with check(f"a rank that differs is refused by name: {name}"):
        for said, code in started_apart(*apart):
            assert code == 65 and f"rank 1: {name}" in said and "differs" in said, (code, said)

with check("a number of ranks that does not divide is refused with those that do"):
    r = run("complete", plain, "--config", ini, "--prompt", "x", "--tensor-parallel-size", "7")
    assert r.returncode == 78 and "expected one of 1, 2, 3, 4, 8, 16\n" in r.stderr, r.stderr

with check("no communicator is loaded"):
    alone = write_ini(os.path.join(folder, "alone.ini"))
    r = run("complete", plain, "--config", alone, "--prompt", "x", "--tensor-parallel-size", "2")
    assert r.returncode == 78 and "communicator" in r.stderr, r.stderr

bodies = [{"prompt": TEXT[i:i + 50], "max_tokens": 16, "temperature": 0, "ignore_eos": True}
          for i in range(6)]
found = {}
for n in (1, 2):
    with check(f"{n} ranks serve several at once, and end"):
        with Server(ini, plain, "--cpu-exact", "--tensor-parallel-size", str(n)) as s:
            with ThreadPoolExecutor(6) as pool:
                found[n] = list(pool.map(
                    lambda b: requests.post(s.url + "/v1/completions",
                                            json=b).json()["choices"][0]["text"], bodies))
            ranks = ranks_of(s)
            assert len(ranks) == n - 1, ranks
            assert s.stop() == 0, s.text()
            assert not any(map(is_there, ranks))
with check("and say the same"):
    assert found[1] == found[2]

with check("a rank is killed while nothing runs"):
    with Server(ini, plain, "--tensor-parallel-size", "2") as s:
        os.kill(ranks_of(s)[0], signal.SIGKILL)
        begun, codes = time.monotonic(), []
        while s.process.poll() is None and time.monotonic() - begun < 10:
            try:
                codes.append(requests.get(s.url + "/health", timeout=2).status_code)
            except requests.RequestException:
                pass
            time.sleep(0.05)
        assert s.process.wait(10) == 70, s.text()
        assert 503 in codes, codes
        assert "signal 9" in s.text(), s.text()

with check("a rank is killed under way: the client is told"):
    with Server(ini, plain, "--tensor-parallel-size", "2") as s:
        body = {"prompt": TEXT[:40], "max_tokens": 400, "ignore_eos": True, "stream": True}
        with requests.post(s.url + "/v1/completions", json=body, stream=True, timeout=30) as reply:
            lines = reply.iter_lines()
            next(lines)
            os.kill(ranks_of(s)[0], signal.SIGKILL)
            rest = b"\n".join(lines)
        assert b'"error"' in rest, rest[-400:]
        assert s.process.wait(10) == 70, s.text()

with check("rank 0 is killed: the others are gone within 5 s"):
    with Server(ini, plain, "--tensor-parallel-size", "2") as s:
        ranks = ranks_of(s)
        s.process.kill()
        s.process.wait()
        until = time.monotonic() + 5
        while any(map(is_there, ranks)) and time.monotonic() < until:
            time.sleep(0.05)
        assert not any(map(is_there, ranks))

check.finish()
