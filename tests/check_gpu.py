#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""check_gpu.py FOLDER MODELS - whether the plugin cuda computes what it should, on a machine with a
card and without a compiler. FOLDER is what `make gpu-folder` gathers, MODELS a folder of model
folders. One line a check; the last line counts them.

    doctor      the card opens
    kernels     every kernel against its plain twin, over odd shapes and adversarial inputs
    sanitizer   the same under compute-sanitizer, on small shapes, where it is installed
    replays     a captured step run again and again gives equal bits
    reference   greedy tokens against a model's reference.json; only near ties may differ
    nll         mean NLL against the exact mode of the device cpu, requantized weights too
    crowd       a prompt alone and among 64; beside cancelled, preempted and NaN-ed requests
    ptx         with code for compute_75 alone the same tokens and NLL (--ptx, or FOLDER/ptx75)

Only Python's own library is used. --simulated shortens everything for a simulated card."""
import argparse
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
KERNELS = ("cuda_attend", "cuda_delta", "cuda_sample", "test_cuda_device")
QUANTS = ("awq", "gptq")


class Skip(Exception):
    """There is nothing to check here."""


class Checks:
    def __init__(self, only, listing):
        self.only, self.listing = only, listing
        self.passed = self.failed = 0

    def run(self, group, name, what, *args):
        """A check passes unless it raises; what it returns is told behind its name."""
        if self.only and group not in self.only:
            return
        if self.listing:
            print(f"{group}: {name}")
            return
        begun = time.monotonic()
        try:
            told = what(*args)
        except Skip as e:
            print(f"skip {group}: {name}: {e}", flush=True)
            return
        except (AssertionError, OSError, LookupError, ValueError, subprocess.SubprocessError) as e:
            self.failed += 1
            print(f"FAIL {group}: {name}: {type(e).__name__}: {e}", flush=True)
            return
        self.passed += 1
        print(f"ok   {group}: {name} ({time.monotonic() - begun:.1f} s)" +
              (f": {told}" if told else ""), flush=True)


# ------------------------------------------------------------------------------------ programs

class Place:
    """The folder, the options, and configurations for it."""
    def __init__(self, o):
        self.o = o
        self.scratch = tempfile.mkdtemp(prefix="tenon-gpu-")
        self.tenon = os.path.join(o.folder, "bin", "tenon")
        self.environment = dict(os.environ)
        libs = os.path.join(o.folder, "libs")
        self.environment["LD_LIBRARY_PATH"] = ":".join(
            p for p in (libs, os.environ.get("LD_LIBRARY_PATH", "")) if p)
        self.ini = self.write_ini("own.ini", None)

    def write_ini(self, name, plugin):
        """The INI with the folder's own plugin cuda, or another file."""
        path = os.path.join(self.scratch, name)
        plugins = os.path.join(self.o.folder, "lib", "tenon")
        with open(path, "w", encoding="utf-8") as f:
            f.write(f"[tenon]\nplugin_path = {os.path.abspath(plugins)}\n[plugin cuda]\n")
            f.write(f"file = {os.path.abspath(plugin)}\n" if plugin else "")
            for p in ("cpu", "http") + QUANTS:
                f.write(f"[plugin {p}]\n" if os.path.exists(f"{plugins}/{p}.so") else "")
        return path

    def call(self, *args, limit=None):
        """Standard output of a program that must end with 0."""
        r = subprocess.run(args, env=self.environment, text=True, timeout=limit or self.o.limit,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        last = (r.stdout + r.stderr).strip().splitlines()[-3:]
        assert r.returncode == 0, f"{os.path.basename(args[0])} ended with {r.returncode}: " + \
            " | ".join(last)
        return r.stdout

    def program(self, name):
        path = os.path.join(self.o.folder, "tests", name)
        if not os.path.exists(path):
            raise Skip(f"there is no {path}")
        return path

    def json(self, *args):
        return json.loads(self.call(self.tenon, *args, "--json"))


def check_doctor(place, ini, wanted):
    r = place.json("doctor", "--config", ini, "--device", "cuda")
    card = r["devices"][0]
    assert wanted in card["facts"]["kernels"], card["facts"]["kernels"]
    return f"{card['name']}, {card['arch']}, driver {card['facts'].get('driver', '?')}, " \
           f"{card['bandwidth'] / 1e9:.0f} GB/s, kernels {card['facts']['kernels']}"


def check_kernel(place, name):
    said = place.call(place.program(name), limit=place.o.limit).splitlines()
    wrong = [line for line in said if line.startswith("FAIL")]
    assert not wrong, wrong[0]
    return said[-1] if said else ""


def check_sanitized(place, tool, name):
    sanitizer = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not os.path.exists(sanitizer):
        raise Skip("compute-sanitizer is not installed")
    small = ["--few"] if name.startswith("test_") else ["--small"]
    place.call(sanitizer, "--tool", tool, "--error-exitcode", "9", place.program(name), *small)


def check_replays(place):
    said = place.call(place.program("test_cuda_device"), "--replays", str(place.o.replays))
    return next(line for line in said.splitlines() if "replays each" in line)


# -------------------------------------------------------------------------------------- server

class Server:
    def __init__(self, place, ini, model, *args):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = tempfile.NamedTemporaryFile("w+", dir=place.scratch, suffix=".log")
        self.limit = place.o.limit
        self.process = subprocess.Popen(
            [place.tenon, "serve", model, "--config", ini, "--port", str(self.port), "--device", "cuda",
             *args], stdout=self.log, stderr=subprocess.STDOUT, env=place.environment)

    def __enter__(self):
        until = time.monotonic() + self.limit
        while time.monotonic() < until and self.process.poll() is None:
            try:
                urllib.request.urlopen(self.url + "/health", timeout=5).read()
                return self
            except OSError:
                time.sleep(0.05)
        self.process.kill()
        self.process.wait()
        with open(self.log.name, encoding="utf-8") as f:
            raise AssertionError("the server did not come up: " + f.read()[-400:])

    def __exit__(self, *exc):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()

    def open(self, body):
        r = urllib.request.Request(self.url + "/v1/completions", json.dumps(body).encode(),
                                   {"Content-Type": "application/json"})
        return urllib.request.urlopen(r, timeout=self.limit)

    def greedy(self, ids, n):
        """[(token, how far its log-probability is above the next best)]."""
        with self.open({"prompt": ids, "max_tokens": n, "temperature": 0, "ignore_eos": True,
                        "return_token_ids": True, "logprobs": 2}) as r:
            c = json.load(r)["choices"][0]
        gaps = []
        for top in c["logprobs"]["top_logprobs"]:
            best = sorted(top.values(), reverse=True)
            gaps.append(best[0] - best[1] if len(best) > 1 else 99.0)
        return list(zip(c["token_ids"], gaps))

    def metric(self, name):
        text = urllib.request.urlopen(self.url + "/metrics", timeout=self.limit).read().decode()
        found = re.findall(rf"^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)$", text, re.M)
        assert found, f"no metric {name}"
        return sum(map(float, found))


def at_once(calls):
    """The results of calls in threads of their own; the first that raised raises."""
    out = [None] * len(calls)

    def work(i):
        try:
            out[i] = calls[i]()
        except Exception as e:  # pylint: disable=broad-except
            out[i] = e
    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(calls))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return out


def same_tokens(found, wanted, tie, what):
    """Up to the first place where they differ; there the two must have been nearly equal."""
    assert not isinstance(found, Exception), f"{what}: {found}"
    assert len(found) == len(wanted), f"{what}: {len(found)} tokens, not {len(wanted)}"
    for i, ((a, gap_a), (b, gap_b)) in enumerate(zip(found, wanted)):
        if a != b:
            gap = min(gap_a, gap_b)
            assert gap <= tie, f"{what}: token {i} is {a}, not {b}; the best is {gap:.4f} ahead"
            return 1
    return 0


# -------------------------------------------------------------------------------------- models

class Model:
    def __init__(self, path):
        self.path, self.name = path, os.path.basename(path)
        with open(os.path.join(path, "config.json"), encoding="utf-8") as f:
            self.config = json.load(f)
        self.reference = []
        if os.path.exists(os.path.join(path, "reference.json")):
            with open(os.path.join(path, "reference.json"), encoding="utf-8") as f:
                self.reference = json.load(f)

    def prompts(self):
        if not self.reference:
            raise Skip("it has no reference.json")
        return self.reference


def find_models(folder):
    found = []
    for name in sorted(os.listdir(folder)) if folder else []:
        path = os.path.join(folder, name)
        weights = os.path.isdir(path) and any(f.endswith(".safetensors") for f in os.listdir(path))
        if weights and os.path.exists(os.path.join(path, "config.json")):
            found.append(Model(path))
    return found


def reference_gap(entry, step, token):
    """How far the reference's best is above `token` before its step-th token; None: not told."""
    if step == 0:
        top = dict(map(tuple, entry["last_logits_top"]))
    elif "steps_top5" in entry:
        top = dict(map(tuple, entry["steps_top5"][step]))
    else:
        return None
    return max(top.values()) - top[token] if token in top else 99.0


def check_reference(place, ini, model, tie):
    n, ties, tokens = place.o.tokens, 0, 0
    entries = model.prompts()[:place.o.prompts]
    with Server(place, ini, model.path, "--max-num-seqs", "8", "--max-model-len", "256") as s:
        answers = at_once([lambda e=e: s.greedy(e["ids"], n) for e in entries])
    for e, found in zip(entries, answers):
        assert not isinstance(found, Exception), found
        for i, (token, gap) in enumerate(found[:len(e["greedy"])]):
            if token == e["greedy"][i]:
                tokens += 1
                continue
            told = reference_gap(e, i, token)
            gap = gap if told is None else told
            assert gap <= tie, f"\"{e['prompt'][:40]}\", token {i}: {token}, the reference " \
                f"has {e['greedy'][i]}, which is {gap:.4f} ahead"
            ties += 1
            break
    return f"{tokens} tokens of {len(entries)} prompts, {ties} ended at a tie"


def text_file(place, model):
    if place.o.text:
        return place.o.text
    path = os.path.join(place.scratch, "text.txt")
    with open(path, "w", encoding="utf-8") as f:
        f.write("\n".join(e["text"] for e in model.prompts()))
    return path


def evaluate(place, ini, model, *args):
    r = place.json("eval", model.path, "--config", ini, "--text", text_file(place, model),
                   "--max-tokens", str(place.o.nll_tokens), *args)
    return r["mean_nll"]


def check_nll(place, model, settings, most):
    """Against the exact mode with the weights as the files have them; devices round in their own
    ways where they requantize."""
    exact = evaluate(place, place.ini, model, "--device", "cpu", "--cpu-exact")
    found = evaluate(place, place.ini, model, "--device", "cuda", *settings)
    told = f"{found:.6f}, exact {exact:.6f}: {(found / exact - 1) * 100:+.3f} %"
    assert abs(found / exact - 1) <= most, told
    return told


# --------------------------------------------------------------------------------------- crowds

def some_prompts(model, n):
    """Prompts that differ: the reference's, and these turned round."""
    ids = [e["ids"] for e in model.prompts()]
    return [ids[i % len(ids)][i // len(ids) % 5:] + ids[(i * 3 + 1) % len(ids)] for i in range(n)]


def check_crowd(place, model):
    n, crowd = place.o.tokens, place.o.crowd
    prompts = some_prompts(model, crowd)
    with Server(place, place.ini, model.path, "--max-num-seqs", str(crowd), "--max-model-len", "256",
                "--no-enable-prefix-caching") as s:
        chosen = range(0, crowd, max(1, crowd // 4))
        alone = {i: s.greedy(prompts[i], n) for i in chosen}
        together = at_once([lambda p=p: s.greedy(p, n) for p in prompts])
        replayed = s.metric("cuda_graph_steps_total")
    ties = sum(same_tokens(together[i], alone[i], place.o.tie, f"prompt {i}") for i in chosen)
    assert all(not isinstance(t, Exception) for t in together), together
    assert replayed > 0, "no step ran as a graph"
    return f"{len(alone)} of {crowd} prompts, {ties} ended at a tie, {replayed:.0f} steps replayed"


def leave_early(server, prompt, n):
    """A client that goes after the first piece of its stream."""
    body = {"prompt": prompt, "max_tokens": n, "temperature": 0, "ignore_eos": True, "stream": True}
    with server.open(body) as r:
        r.readline()


def beside(place, server, prompts, others):
    """Greedy tokens of the prompts alone, and while `others` go on: the ties met."""
    n = place.o.tokens
    alone = [server.greedy(p, n) for p in prompts]
    answers = at_once([lambda p=p: server.greedy(p, n) for p in prompts] + others)
    return sum(same_tokens(a, b, place.o.tie, f"neighbour {i}")
               for i, (a, b) in enumerate(zip(answers, alone))), answers[len(prompts):]


def check_cancelled(place, model):
    prompts = some_prompts(model, 12)
    with Server(place, place.ini, model.path, "--max-num-seqs", "12", "--max-model-len", "256",
                "--no-enable-prefix-caching") as s:
        ties, _ = beside(place, s, prompts[:6],
                         [lambda p=p: leave_early(s, p, 200) for p in prompts[6:]])
        gone = s.metric("tenon:requests_cancelled_total")
    assert gone > 0, "nothing was cancelled"
    return f"{gone:.0f} cancelled beside 6, {ties} ended at a tie"


UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def block_bytes(server):
    """Of one cache block, as the server's log has it."""
    with open(server.log.name, encoding="utf-8") as f:
        found = re.search(r"cache ([0-9.]+) (\w+) \((\d+) blocks of (\d+) tokens", f.read())
    assert found, "the log does not tell the size of the cache"
    return int(float(found[1]) * UNITS[found[2]] / int(found[3])) + 1, int(found[4])


def check_preempted(place, model):
    """A cache that holds a few of the sequences that want it."""
    prompts = some_prompts(model, 16)
    longest = max(map(len, prompts)) + max(place.o.tokens, 40)
    settings = ("--max-num-seqs", "16", "--max-model-len", str(longest), "--no-enable-prefix-caching")
    with Server(place, place.ini, model.path, *settings) as s:
        size, tokens = block_bytes(s)
    blocks = 4 * (longest // tokens + 1)
    with Server(place, place.ini, model.path, *settings, "--kv-cache-memory", str(blocks * size)) as s:
        ties, _ = beside(place, s, prompts, [])
        count = s.metric("vllm:num_preemptions_total")
    if count == 0:
        raise Skip("the cache was large enough for all")
    return f"{count:.0f} preemptions among 16, {ties} ended at a tie"


NAN = {"F32": b"\0\0\xc0\x7f", "F16": b"\0\x7e", "BF16": b"\xc0\x7f"}


def poison(path, token):
    """One row of the embedding becomes NaN, in place."""
    for name in sorted(os.listdir(path)):
        if not name.endswith(".safetensors"):
            continue
        with open(os.path.join(path, name), "r+b") as f:
            size = struct.unpack("<Q", f.read(8))[0]
            for key, t in json.loads(f.read(size)).items():
                if key.endswith("embed_tokens.weight"):
                    value = NAN[t["dtype"]]
                    row = t["shape"][1] * len(value)
                    f.seek(8 + size + t["data_offsets"][0] + token * row)
                    f.write(value * t["shape"][1])
                    return
    raise Skip("its embedding was not found")


def check_poisoned(place, model):
    if model.config.get("tie_word_embeddings", True):
        raise Skip("a NaN of its tied embedding would be in every logit")
    prompts = some_prompts(model, 8)
    used = {t for e in model.reference for t in e["ids"] + e["greedy"]}
    token = next(t for t in range(10, model.config["vocab_size"]) if t not in used)
    path = os.path.join(place.scratch, "poisoned")
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(model.path, path)
    poison(path, token)
    bad = prompts[0][:3] + [token]
    with Server(place, place.ini, path, "--max-num-seqs", "8", "--max-model-len", "256",
                "--no-enable-prefix-caching") as s:
        ties, answers = beside(place, s, prompts[1:5], [lambda: s.greedy(bad, place.o.tokens)] * 3)
        counted = s.metric("cuda_nonfinite_rows_total")
    shutil.rmtree(path)
    for a in answers:
        assert isinstance(a, urllib.error.HTTPError) and a.code == 500, f"a NaN was answered: {a}"
    assert counted > 0, "no layer counted it"
    return f"3 refused beside 4, {counted:.0f} rows counted, {ties} ended at a tie"


# ------------------------------------------------------------------------------------------ ptx

def check_ptx_nll(place, ini, model):
    own = evaluate(place, place.ini, model, "--device", "cuda")
    other = evaluate(place, ini, model, "--device", "cuda")
    assert abs(other / own - 1) <= place.o.nll, f"{other:.6f}, with own code {own:.6f}"
    return f"{other:.6f}, with own code {own:.6f}"


def check_ptx(place, checks, models):
    plugin = place.o.ptx or os.path.join(place.o.folder, "ptx75", "cuda.so")
    if not os.path.exists(plugin):
        return
    ini = place.write_ini("ptx.ini", plugin)
    checks.run("ptx", "the card compiles it anew", check_doctor, place, ini, "compute_75")
    for m in models:
        # products in other shapes: sums are rounded in other places
        checks.run("ptx", f"{m.name}: reference", check_reference, place, ini, m, 5 * place.o.tie)
        checks.run("ptx", f"{m.name}: NLL", check_ptx_nll, place, ini, m)


# ----------------------------------------------------------------------------------------- main

F8_CACHE = ("--kv-cache-dtype", "fp8")
INT8 = {"dense": ("--dense", "int8"), "head": ("--head", "int8")}


def check_model(place, checks, m):
    checks.run("reference", m.name, check_reference, place, place.ini, m, place.o.tie)
    checks.run("nll", m.name, check_nll, place, m, (), place.o.nll)
    for what, settings in INT8.items():
        checks.run("nll", f"{m.name}, {what} = int8", check_nll, place, m, settings, place.o.int8)
    checks.run("nll", f"{m.name}, cache = fp8", check_nll, place, m, F8_CACHE, place.o.f8)
    checks.run("crowd", f"{m.name}: alone and among {place.o.crowd}", check_crowd, place, m)
    checks.run("crowd", f"{m.name}: beside cancelled requests", check_cancelled, place, m)
    checks.run("crowd", f"{m.name}: preempted", check_preempted, place, m)
    checks.run("crowd", f"{m.name}: beside NaN", check_poisoned, place, m)


def options():
    p = argparse.ArgumentParser(description="Checks the plugin cuda on a card.")
    p.add_argument("folder", help="what `make gpu-folder` gathered")
    p.add_argument("models", nargs="?", help="a folder of model folders")
    p.add_argument("--only", default="", help="groups to check, comma separated")
    p.add_argument("--list", action="store_true", help="only say what would be checked")
    p.add_argument("--simulated", action="store_true", help="a simulated card: few and short")
    p.add_argument("--ptx", help="a plugin with code for compute_75 alone")
    p.add_argument("--tools", default=",".join(TOOLS), help="of compute-sanitizer, comma separated")
    p.add_argument("--text", help="a text for NLL (the references' texts)")
    p.add_argument("--limit", type=int, default=600, help="seconds that one program may take")
    p.add_argument("--replays", type=int, help="of a captured step (10000)")
    p.add_argument("--tokens", type=int, help="greedy tokens a prompt (64)")
    p.add_argument("--tie", type=float, default=1e-3, help="a gap of logits that is none (0.001)")
    p.add_argument("--nll", type=float, default=2e-3, help="greatest share that NLL may be off (0.002)")
    p.add_argument("--int8", type=float, default=1e-2, help="the same with int8 weights (0.01)")
    p.add_argument("--f8", type=float, default=2e-2, help="the same with a cache of fp8 (0.02)")
    o = p.parse_args()
    o.replays = o.replays or (20 if o.simulated else 10000)
    o.tokens = o.tokens or (6 if o.simulated else 64)
    o.prompts = 2 if o.simulated else 1000
    o.crowd = 5 if o.simulated else 64
    o.nll_tokens = 40 if o.simulated else 2048
    return o


def main():
    o = options()
    place = Place(o)
    checks = Checks([g for g in o.only.split(",") if g], o.list)
    models = find_models(o.models)
    try:
        checks.run("doctor", "the card opens", check_doctor, place, place.ini, "sm_")
        for name in KERNELS:
            checks.run("kernels", name, check_kernel, place, name)
        checks.run("replays", f"{o.replays} times", check_replays, place)
        for m in models:
            check_model(place, checks, m)
        check_ptx(place, checks, models)
        for tool in () if o.simulated else o.tools.split(","):
            for name in KERNELS:
                checks.run("sanitizer", f"{tool}, {name}", check_sanitized, place, tool, name)
    finally:
        shutil.rmtree(place.scratch, ignore_errors=True)
    print(f"{checks.passed} passed, {checks.failed} failed")
    return 1 if checks.failed else 0


if __name__ == "__main__":
    sys.exit(main())
