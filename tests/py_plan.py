# SPDX-License-Identifier: Apache-2.0
"""`tenon plan`: what it says a model takes is what serving takes, for 1, 2 and 4 ranks; yes and no
with what would fit; folders without weights; a card that is not there."""
import json
import os
import re
import shutil
import subprocess
import tempfile

from tenonlib import PLUGINS, Counter, Server, make_hybrid, make_model, run, write_ini, write_json

check = Counter()
folder = tempfile.mkdtemp(prefix="tenon-plan-")
ini = write_ini(os.path.join(folder, "t.ini"), plugins=("cpu", "shared", "awq", "gptq", "http"))
hybrid = make_hybrid(os.path.join(folder, "hybrid"))
llama = make_model(os.path.join(folder, "llama"), tied=False)
BUDGET = re.compile(r"context (\d+); (weights .*)$", re.M)


def plan(model, *args, code=0, conf=ini):
    r = run("plan", model, "--config", conf, "--json", *args)
    assert r.returncode == code, (r.returncode, r.stdout, r.stderr)
    return json.loads(r.stdout)


def served(model, *args, conf=ini):
    """Context and budget that serving logs."""
    with Server(conf, model, *args) as s:
        return BUDGET.search(s.text()).groups()


def told(model, *args, conf=ini):
    """Context and budget that a plan prints."""
    r = run("plan", model, "--config", conf, *args)
    assert r.returncode == 0, (r.returncode, r.stdout, r.stderr)
    return (re.search(r"^yes: context (\d+)", r.stdout, re.M)[1],
            re.search(r"^budget +(weights .*)$", r.stdout, re.M)[1])


for name, model, args in (
        ("as it is", hybrid, ()),
        ("two ranks", hybrid, ("-tp", "2")),
        ("a bounded memory", hybrid, ("--memory", "6MiB", "--max-num-seqs", "3")),
        ("two ranks of a bounded memory", hybrid, ("-tp", "2", "--memory", "3MiB")),
        ("two ranks of a llama", llama, ("-tp", "2", "--max-num-seqs", "5")),
        ("a number of blocks", llama, ("--num-gpu-blocks-override", "70")),
        ("bytes of cache", llama, ("--kv-cache-memory-bytes", "1MiB")),
        ("exact, requantized", hybrid, ("--exact", "--dense", "int8", "--head", "int8"))):
    with check(f"what is planned is what is served: {name}"):
        assert told(model, *args) == served(model, *args)

with check("the budget is told before the first weight is read"):
    import numpy as np
    from safetensors.numpy import load_file, save_file
    bad = os.path.join(folder, "bad")
    shutil.copytree(llama, bad)
    weights = load_file(os.path.join(bad, "model.safetensors"))
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = np.nan
    save_file(weights, os.path.join(bad, "model.safetensors"), metadata={"format": "pt"})
    with Server(ini, bad, "--strict-weights", wait=False) as s:
        assert s.process.wait(60) == 65, s.text()
        assert BUDGET.search(s.text()).groups() == told(bad), s.text()

wide = os.path.join(folder, "wide")
shutil.copytree(llama, wide)
with open(os.path.join(wide, "config.json"), encoding="utf-8") as f:
    config = json.load(f)
config.update(num_attention_heads=8, head_dim=16, num_key_value_heads=4)
write_json(os.path.join(wide, "config.json"), config)
for name in os.listdir(wide):
    if name != "config.json":
        os.remove(os.path.join(wide, name))
with check("what is planned is what is served: four ranks of a folder without weights"):
    args = ("-tp", "4", "--load-format", "dummy")
    assert told(wide, *args) == served(wide, *args)
with check("a folder without weights wants dummy ones"):
    r = run("plan", wide, "--config", ini)
    assert r.returncode == 66 and "safetensors" in r.stderr, (r.returncode, r.stderr)

with check("a plan joins nobody: a communicator that cannot work here does not matter"):
    cards = write_ini(os.path.join(folder, "cards.ini"), plugins=("cpu", "awq", "nccl"))
    assert plan(llama, "-tp", "2", conf=cards)["ranks"] == 2

with check("the parts are the whole, and a rank's part is less"):
    one, two = plan(hybrid), plan(hybrid, "-tp", "2")
    for p in (one, two):
        assert sum(p["weights"].values()) == p["weight_bytes"], p
        assert p["cache_bytes"] == p["blocks"] * p["block_bytes"]
        assert p["states_bytes"] == p["slots"] * p["slot_bytes"] > 0
        assert p["total_bytes"] == (p["weight_bytes"] + p["workspace_bytes"] + p["states_bytes"] +
                                    p["cache_bytes"])
        assert p["total_bytes"] <= p["rank_memory"] <= p["device_memory"]
    assert two["ranks"] == 2 and two["slot_bytes"] * 2 == one["slot_bytes"]
    for part in ("dense", "head_embedding"):
        assert one["weights"][part] / 2 <= two["weights"][part] < one["weights"][part]

with check("two hosts of two ranks each take a machine's memory by halves"):
    p = plan(wide, "-tp", "4", "--nnodes", "2", "--load-format", "dummy", "--gpu-memory", "64MiB")
    assert p["rank_memory"] == 32 << 20, p

with check("a recipe of one of several ranks can be printed"):
    r = run("serve", hybrid, "--config", ini, "-tp", "2", "--print-tensors")
    assert r.returncode == 0 and "lm_head" in r.stdout, r.stderr

with check("yes: as many sequences as there is room for"):
    p = plan(llama, "--memory", "2700KiB", "--max-num-seqs", "4")
    assert p["fits"] and p["context"] == 512 and p["sequences"] == 4
    most = p["most_full_sequences"]
    assert plan(llama, "--memory", "2700KiB", "--max-num-seqs", str(most))["full_sequences"] == most
    more = plan(llama, "--memory", "2700KiB", "--max-num-seqs", str(most + 1), "--max-model-len", "512")
    assert more["full_sequences"] <= most, (most, more)
    table = p["longest_context"]
    assert list(table) == ["1", "4", "8", "16", "32", "64"]
    assert all(a >= b for a, b in zip(list(table.values()), list(table.values())[1:])), table

with check("the table is true: what it says fits, and a block more does not"):
    args = ("--memory", "2700KiB", "--max-num-seqs", "16")
    n = plan(llama, *args)["longest_context"]["16"]
    assert 0 < n < 512, n
    assert plan(llama, *args, "--max-model-len", str(n))["full_sequences"] == 16
    assert plan(llama, *args, "--max-model-len", str(n + 32))["full_sequences"] < 16

with check("no: which change would help, and it does"):
    args = ("--memory", "3600KiB", "--max-num-seqs", "64", "--max-model-len", "512")
    p = plan(hybrid, *args, code=69)
    assert not p["fits"] and p["missing_bytes"] > 0 and p["would_fit"], p
    for change in p["would_fit"]:
        more = []
        for pair in change.split(", "):
            key, value = pair.split(" = ")
            more += [f"--{key}", value]
        assert plan(hybrid, *args, *more)["fits"], change
    with Server(ini, hybrid, *args, wait=False) as s:
        assert s.process.wait(60) == 69, s.text()
    r = run("plan", hybrid, "--config", ini, *args)
    assert r.returncode == 69 and "\nno: " in r.stdout and "would fit: " in r.stdout, r.stdout
    gap = p["missing_bytes"]
    assert plan(hybrid, *args[2:], "--memory", str(3600 * 1024 + gap))["fits"]
    plan(hybrid, *args[2:], "--memory", str(3600 * 1024 + gap - 4096), code=69)

with check("a size in the place of the machine's own"):
    p = plan(llama, "--gpu-memory", "8MiB")
    assert p["device_memory"] == 8 << 20 and p["fits"] and p["total_bytes"] <= 8 << 20, p
    assert plan(llama, "--gpu-memory", "8MiB", "-tp", "2")["rank_memory"] == 4 << 20
    assert not plan(llama, "--gpu-memory", "500KiB", code=69)["fits"]
    half = plan(llama, "--gpu-memory", "8MiB", "--gpu-memory-utilization", "0.5")
    assert half["rank_memory"] == 4 << 20
    p = plan(llama, "--gpu-memory", "8MiB", "--memory", "9MiB", code=0)
    p = plan(llama, "--gpu-memory", "8MiB", "--num-gpu-blocks-override", "100000", code=69)
    assert "the device gives a rank" in p["why"], p

for args, code, words in (
        ((hybrid, "--gpu-memory", "much"), 64, "--gpu-memory"),
        ((hybrid, "--gpu-memory", "-1"), 64, "--gpu-memory"),
        ((hybrid, "--gpu-memory", "0"), 64, "--gpu-memory"),
        ((hybrid, "more"), 64, "unexpected word"),
        ((hybrid, "--tensor-parallel-size", "7"), 78, "expected one of 1, 2"),
        ((hybrid, "--max-model-len", "513"), 78, "max_model_len"),
        ((hybrid, "--gpu-memory-utilization", "2"), 64, "gpu_memory_utilization"),
        ((hybrid, "--device", "abacus"), 78, "abacus"),
        ((hybrid, "--kv-cache-dtype", "fp8"), 69, "f8_e4m3"),
        ((folder,), 66, "config.json"),
        ((os.path.join(folder, "none"),), 66, "none"),
        ((), 64, "no model")):
    with check(f"refused in one sentence: {' '.join(map(os.path.basename, args))}"):
        r = run("plan", *args, "--config", ini)
        assert words in r.stderr and r.stderr.count("\n") == 1, r.stderr
        assert r.returncode == code and r.stdout == "", (r.returncode, r.stdout, r.stderr)

BUILD = os.environ.get("TENON_BUILD", "")
SIMULATED = os.path.join(BUILD, ".libs", "cudasim_plugin.so")
MAKE = ["make", "-C", BUILD, "--silent", "cudasim_plugin.la", "simcomm.la"]
if BUILD and subprocess.run(MAKE + ["-n"], capture_output=True).returncode == 0:
    subprocess.run(MAKE, check=True, capture_output=True)
    os.environ["CUDASIM_MEMORY"] = str(64 << 20)
    card = os.path.join(folder, "card.ini")
    plugins = os.path.join(folder, "plugins")
    shutil.copytree(PLUGINS, plugins)
    shutil.copy(SIMULATED, os.path.join(plugins, "cuda.so"))
    with open(card, "w", encoding="utf-8") as f:
        f.write(f"[tenon]\nplugin_path = {plugins}\n[plugin cpu]\n[plugin cuda]\nrequired = no\n"
                "pack_threads = 2\n[plugin http]\n")
    # The simulated card has four multiprocessors, and no driver that keeps memory for itself.
    size = ("--gpu-memory", "64MiB", "--cuda.plan-multiprocessors", "4", "--cuda.plan-kept", "0")
    big = make_model(os.path.join(folder, "big"), hidden=256, tied=False)
    for name, args in (("as it is", ()), ("fp8", ("--kv-cache-dtype", "fp8")),
                       ("half of it", ("--gpu-memory-utilization", "0.5", "--max-num-seqs", "64")),
                       ("int8", ("--dense", "int8", "--head", "int8"))):
        with check(f"a card that is not there is as the one that is: {name}"):
            there = served(big, "--device", "cuda", *args, conf=card)
            os.environ["CUDASIM_NO_DEVICE"] = "1"
            try:
                assert told(big, *size, *args, conf=card) == there
            finally:
                del os.environ["CUDASIM_NO_DEVICE"]
    with check("two ranks: of cards of half the size, as when they share one of the whole size"):
        joined = os.path.join(folder, "joined.ini")
        with open(card, encoding="utf-8") as f, open(joined, "w", encoding="utf-8") as to:
            to.write(f.read() + f"[plugin simcomm]\nfile = {BUILD}/.libs/simcomm.so\n")
        there = served(big, "--device", "cuda", "-tp", "2", conf=joined)
        half = ("--gpu-memory", "32MiB", *size[2:])
        assert told(big, *half, "-tp", "2", conf=card) == there
    os.environ["CUDASIM_NO_DEVICE"] = "1"
    with check("a card of 16 GiB, without a card"):
        four = plan(big, "--gpu-memory", "16GiB", "-tp", "4", "--load-format", "dummy", conf=card)
        assert four["rank_memory"] == int(0.9 * (16 << 30)) - (1 << 30), four
        assert four["weight_bytes"] < plan(big, "--gpu-memory", "16GiB", conf=card)["weight_bytes"] / 2
        p = plan(big, "--gpu-memory", "16GiB", "--gpu-arch", "7.5", conf=card)
        assert p["device"] == "cuda" and p["arch"] == "sm_75", p
        assert p["device_memory"] == 16 << 30
        assert p["rank_memory"] == int(0.9 * (16 << 30)) - (1 << 30), p
    with check("the operator's device goes first"):
        p = plan(big, "--gpu-memory", "16GiB", "--device", "cpu", conf=card)
        assert p["device"] == "cpu" and p["device_memory"] == 16 << 30
    with check("an unknown capability"):
        r = run("plan", big, "--config", card, "--gpu-memory", "16GiB", "--gpu-arch", "1.0")
        assert r.returncode in (64, 78) and "plan_arch" in r.stderr, (r.returncode, r.stderr)
    with check("no: a cache of fp8 would do"):
        most = plan(big, *size, "--max-num-seqs", "1", "--kv-cache-dtype", "fp8", conf=card)
        tight = most["weight_bytes"] + most["workspace_bytes"] + 24 * most["block_bytes"]
        p = plan(big, *size, "--memory", str(tight), "--max-num-seqs", "1", "--max-model-len", "512",
                 code=69, conf=card)
        assert "kv_cache_dtype = fp8" in p["would_fit"], p
        assert "tensor_parallel_size = 2" in p["would_fit"], p
    with check("nothing is served by it"):
        r = run("complete", big, "--config", card, "--device", "cuda", "--prompt", "x",
                "--plan-memory", "64MiB", "--plan-kept", "0")
        assert r.returncode == 69 and "only a card to plan for" in r.stderr, r.stderr

with check("help names the flags"):
    r = run("plan", "--help", "--config", ini)
    assert r.returncode == 0 and "--gpu-memory" in r.stdout and "--max-model-len" in r.stdout

check.finish()
