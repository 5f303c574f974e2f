# SPDX-License-Identifier: Apache-2.0
"""Tensor parallel on the CPU: ranks that share a model say what one says alone, from every kind of
file, served or not; a rank that is lost ends the server, and leaves nobody behind."""
import json
import os
import re
import signal
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import requests

from tenonlib import Counter, Server, TEXT, make_hybrid, run, write_ini

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


plain = make_hybrid(os.path.join(folder, "plain"))
made = {"plain": plain}
for name, args in {"awq": ["--quant", "awq"], "gptq": ["--quant", "gptq"]}.items():
    with check(f"quantize {name}"):
        path = os.path.join(folder, name)
        r = run("quantize", plain, *args, "--bits", "4", "--group-size", "32", "--output", path,
                "--config", ini)
        assert r.returncode == 0, r.stderr
        made[name] = path

for name, model in made.items():
    with check(f"{name}: two ranks say what one says"):
        assert answer(model, 2, "--rank-check") == answer(model, 1)
    with check(f"{name}: prompts in pieces"):
        assert answer(model, 2, "--max-num-batched-tokens", "16") == answer(model, 1)

with check("a number of ranks that does not divide is refused with those that do"):
    r = run("complete", plain, "--config", ini, "--prompt", "x", "--tensor-parallel-size", "7")
    assert r.returncode == 78 and "expected one of 1, 2" in r.stderr, r.stderr

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
