# SPDX-License-Identifier: Apache-2.0
"""tests/check_gpu.py against a simulated card: it finds nothing in what is right, and says so when
a reference, a program or a plugin is wrong. What it checks on a card is its own matter."""
import json
import os
import shutil
import subprocess
import sys
import tempfile

from tenonlib import PLUGINS, TENON, TOP, Counter, make_model, run, write_ini, write_json

check = Counter()
BUILD = os.environ.get("TENON_BUILD", "")
SIMULATED = os.path.join(BUILD, ".libs", "cudasim_plugin.so")
MAKE = ["make", "-C", BUILD, "--silent", "cudasim_plugin.la"]
if not BUILD or subprocess.run(MAKE + ["-n"], capture_output=True).returncode != 0:  # no such rule
    print("there is no simulated card in this build\n0 passed, 0 failed")
    sys.exit(0)
subprocess.run(MAKE, check=True, stdout=subprocess.DEVNULL)

folder = tempfile.mkdtemp(prefix="tenon-gpu-test-")
gpu, models = os.path.join(folder, "gpu"), os.path.join(folder, "models")
for name in ("bin", "lib/tenon", "tests"):
    os.makedirs(os.path.join(gpu, name))
os.symlink(TENON, f"{gpu}/bin/tenon")
for name in ("cpu", "awq", "gptq", "http"):
    os.symlink(f"{PLUGINS}/{name}.so", f"{gpu}/lib/tenon/{name}.so")
shutil.copy(SIMULATED, f"{gpu}/lib/tenon/cuda.so")
model = make_model(os.path.join(models, "tiny"), hidden=256, tied=False)
ini = write_ini(os.path.join(folder, "t.ini"))


def program(name, text):
    path = f"{gpu}/tests/{name}"
    with open(path, "w", encoding="utf-8") as f:
        f.write(f"#!/bin/sh\n{text}\n")
    os.chmod(path, 0o755)


def checked(*args):
    r = subprocess.run([sys.executable, f"{TOP}/tests/check_gpu.py", gpu, models, "--simulated", "--limit",
                        "120", *args], text=True, capture_output=True, timeout=900)
    last = r.stdout.strip().splitlines()[-1]
    assert (r.returncode == 0) == last.endswith(" 0 failed"), r.stdout + r.stderr
    return r.stdout


def make_reference():
    entries = []
    for prompt in ("The quick brown", "A model answers"):
        r = run("complete", model, "--config", ini, "--prompt", prompt, "--max-tokens", "12",
                "--temperature", "0", "--ignore-eos", "--json", "--logprobs", "5", "--cpu-exact")
        assert r.returncode == 0, r.stderr
        c = json.loads(r.stdout)
        tops = [step["top"] for step in c["logprobs"]]
        entries.append({"prompt": prompt, "ids": c["prompt_token_ids"], "greedy": c["token_ids"],
                        "text": prompt + c["text"], "last_logits_top": tops[0], "steps_top5": tops})
    write_json(os.path.join(model, "reference.json"), entries)
    return entries


reference = make_reference()

with check("--list says what would be checked, and runs nothing"):
    out = checked("--list")
    for line in ("doctor: the card opens", "kernels: cuda_delta", "replays: 20 times", "reference: tiny",
                 "nll: tiny, head = int8", "crowd: tiny: beside NaN"):
        assert line in out.splitlines(), (line, out)

with check("a simulated card passes"):
    program("cuda_attend", "echo ok all of it")
    program("test_cuda_device", 'echo "$2 replays each: delta 1, model 2"')
    out = checked()
    assert "FAIL" not in out, out
    for line in ("ok   doctor: ", "ok   kernels: cuda_attend", "skip kernels: cuda_delta",
                 "ok   replays: 20 times", "ok   reference: tiny", "ok   nll: tiny (", "ok   nll: tiny, head",
                 "ok   nll: tiny, cache = fp8", "ok   crowd: tiny: alone", "ok   crowd: tiny: beside cancelled",
                 "ok   crowd: tiny: beside NaN"):
        assert line in out, (line, out)

with check("what the card does not offer is refused by name"):
    card = os.path.join(folder, "card.ini")
    with open(card, "w", encoding="utf-8") as f:
        f.write(f"[plugin cuda]\nfile = {gpu}/lib/tenon/cuda.so\n[plugin cpu]\nfile = {PLUGINS}/cpu.so\n")
    for flag, name, words in (("--dtype", "bfloat16", "the device cuda computes in float16"),
                              ("--kv-cache-dtype", "bfloat16", "kv_cache_dtype: bfloat16 is not offered")):
        r = run("complete", model, "--config", card, "--prompt", "x", "--max-tokens", "1", "--device",
                "cuda", flag, name)
        assert r.returncode == 69 and words in r.stderr, r.stderr

with check("a program that fails, or says so, is told"):
    program("cuda_attend", "echo ok one; echo FAIL two; exit 0")
    program("cuda_sample", "echo it broke; exit 3")
    out = checked("--only", "kernels")
    assert "FAIL kernels: cuda_attend: AssertionError: FAIL two" in out, out
    assert "FAIL kernels: cuda_sample: AssertionError: cuda_sample ended with 3: it broke" in out, out

with check("a wrong reference is told, a near tie is not"):
    wrong = json.loads(json.dumps(reference))
    best, second = wrong[0]["steps_top5"][2][:2]
    wrong[0]["greedy"][2] = second[0]
    second[1] = best[1] + 5
    write_json(os.path.join(model, "reference.json"), wrong)
    assert "token 2: " in checked("--only", "reference")
    second[1] = best[1] + 0.0005
    write_json(os.path.join(model, "reference.json"), wrong)
    out = checked("--only", "reference")
    assert "ok   reference: tiny" in out and "1 ended at a tie" in out, out

with check("a card that does not open is told"):
    shutil.copy(f"{PLUGINS}/awq.so", f"{gpu}/lib/tenon/cuda.so")
    assert "FAIL doctor: the card opens" in checked("--only", "doctor")

shutil.rmtree(folder)
check.finish()
