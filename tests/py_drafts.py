# SPDX-License-Identifier: Apache-2.0
"""Drafting by a module that is quantized otherwise than the rest: what is said stays what is
said without drafts, however the module's weights lie in the files and whatever the config says
of them."""
import json
import os
import re
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import requests
from safetensors.numpy import load_file, save_file

from tenonlib import Counter, Server, TEXT, make_hybrid, run, write_ini, write_json

LAYERS, SPARE = 4, 8    # of the model, and of the larger one whose layers become the module
WORDS = 3               # tokens that can be said: so some drafts stand

check = Counter()
folder = tempfile.mkdtemp(prefix="tenon-drafts-")
ini = write_ini(os.path.join(folder, "t.ini"))
pool = ThreadPoolExecutor(5)
PROMPTS = (TEXT[:60], TEXT[20:90], "x")


def of_drafting(name):
    """What a tensor of the larger model is called in the module; None: no part of it."""
    name = re.sub(r"^model\.layers\.5\.", "mtp.layers.0.", name)
    name = re.sub(r"^model\.layers\.7\.mlp\.down_proj\.", "mtp.fc.", name)   # the same shape
    for here, there in (("model.layers.7.input_layernorm", "mtp.pre_fc_norm_embedding"),
                        ("model.layers.7.post_attention_layernorm", "mtp.pre_fc_norm_hidden"),
                        ("model.layers.6.input_layernorm", "mtp.norm")):
        name = name.replace(here, there)
    return name if name.startswith("mtp.") else None


def of_model(name):
    at = re.match(r"model\.layers\.(\d+)\.", name)
    return at is None or int(at[1]) < LAYERS


def edit_config(model, change):
    for name in ("config.json", "quantize_config.json"):
        path = os.path.join(model, name)
        if os.path.exists(path):
            with open(path, encoding="utf-8") as f:
                config = json.load(f)
            change(config, config.get("quantization_config", config))
            write_json(path, config)


def quantized(name, *args):
    path = os.path.join(folder, name)
    r = run("quantize", large, *args, "--bits", "4", "--group-size", "32", "--output", path, "--config", ini)
    assert r.returncode == 0, r.stderr
    return path


def out_of_order(w):
    """Columns of every module in groups by chance, as desc_act leaves them."""
    for at, name in enumerate(sorted(w)):
        if name.endswith(".g_idx"):
            w[name] = np.random.default_rng(at).permutation(w[name])


def join(name, trunk, module, change=lambda c, q: None, desc_act=False):
    """A model of the trunk's layers and the module's drafting; both are larger models."""
    path = shutil.copytree(trunk, os.path.join(folder, name))
    w = {n: v for n, v in load_file(trunk + "/model.safetensors").items() if of_model(n)}
    parts = {of_drafting(n): v for n, v in load_file(module + "/model.safetensors").items() if of_drafting(n)}
    w.update(parts)
    if desc_act:
        out_of_order(w)
    save_file(w, path + "/model.safetensors", metadata={"format": "pt"})

    def edit(c, q):
        if "num_hidden_layers" in c:
            c["num_hidden_layers"] = LAYERS
        if desc_act:
            q["desc_act"] = True
        change(c, q)
    edit_config(path, edit)
    return path, parts


def speak(model, *args):
    """Ids of three replies, the drafts that stood, and the warnings."""
    with Server(ini, model, "--cpu-exact", *args) as s:
        said = [requests.post(s.url + "/v1/completions", json={
            "prompt": p, "max_tokens": 120, "temperature": 0, "ignore_eos": True,
            "return_token_ids": True}).json()["choices"][0]["token_ids"] for p in PROMPTS]
        lines = requests.get(s.url + "/metrics").text.splitlines()
        stood = sum(float(line.split()[-1]) for line in lines
                    if line.startswith("vllm:spec_decode_num_accepted_tokens_total"))
        warned = [line for line in s.text().splitlines() if " warn " in line]
        assert s.stop() == 0
    return said, stood, warned


def same_with_drafts(model, nwarn, *args):
    runs = list(pool.map(lambda drafts: speak(model, "--drafts", str(drafts), "--threads", "1", *args), range(5)))
    for drafts, (said, _, warned) in enumerate(runs):
        assert said == runs[0][0], (drafts, said, runs[0][0])
        assert len(warned) == nwarn, warned
    assert sum(stood for _, stood, _ in runs) > 0, "no draft ever stood"


large = make_hybrid(os.path.join(folder, "large"), layers=SPARE)
few = load_file(large + "/model.safetensors")
head = few["lm_head.weight"]
head[:] = np.where(np.arange(len(head))[:, None] // WORDS == 4, head, 0)
save_file(few, large + "/model.safetensors", metadata={"format": "pt"})
gptq = quantized("gptq", "--quant", "gptq")
packed = quantized("packed", "--quant", "awq", "--variant", "pack-quantized")
gemm = quantized("gemm", "--quant", "awq", "--variant", "gemm")


def also_drafting(_, q):
    """Its names are among those that are quantized."""
    q.pop("modules_in_block_to_quantize", None)


def all_said(_, q):
    """The config says nothing of the module: it is quantized as all is."""
    for key in ("ignore", "modules_to_not_convert"):
        q[key] = [n for n in q.get(key) or [] if "mtp" not in n]


CASES = [
    ("all plain", large, large, {}, 0),
    ("gptq, all quantized", gptq, gptq, {"change": also_drafting}, 0),
    ("gptq, a part of the module that the config does not name", gptq, gptq, {}, 1),
    ("gptq, all quantized, columns out of order", gptq, gptq, {"desc_act": True, "change": also_drafting}, 0),
    ("gptq, a plain module, columns of the rest out of order", gptq, large,
     {"desc_act": True, "change": lambda _, q: q.update(dynamic={r"-:^mtp\..*": {}})}, 0),
    ("compressed-tensors, all quantized", packed, packed, {"change": all_said}, 0),
    ("compressed-tensors, a quantized module that the config calls plain", packed, packed, {}, 1),
    ("compressed-tensors, a plain module", packed, large, {}, 0),
    ("compressed-tensors, a plain module that the config calls quantized", packed, large, {"change": all_said}, 1),
    ("AutoAWQ, all quantized", gemm, gemm, {"change": all_said}, 0),
    ("AutoAWQ, a plain module", gemm, large, {}, 0),
]
for number, (name, trunk, module, how, nwarn) in enumerate(CASES):
    with check(f"drafts change nothing: {name}"):
        path, parts = join(f"case{number}", trunk, module, **how)
        packed_parts = [n for n in parts if n.endswith((".qweight", ".weight_packed"))]
        assert len(packed_parts) == (0 if module == large else 8), sorted(parts)
        r = run("serve", path, "--config", ini, "--drafts", "2", "--print-tensors")
        forms = {line.split()[0]: line.split()[1] for line in r.stdout.splitlines() if line.startswith("mtp.")}
        assert forms["mtp.fc"] == forms["mtp.layers.0.mlp.down_proj"], forms
        assert forms["mtp.fc"].startswith("f16" if module == large else "w4g"), forms
        same_with_drafts(path, nwarn)

with check("drafts change nothing: a module of another folder, plain or quantized in its own way"):
    bare, _ = join("bare", gptq, gptq, desc_act=True, change=also_drafting)
    save_file({n: v for n, v in load_file(bare + "/model.safetensors").items() if not n.startswith("mtp.")},
              bare + "/model.safetensors", metadata={"format": "pt"})
    same_with_drafts(bare, 0, "--draft-path", join("second", large, large)[0])
    for number, module in enumerate((gptq, packed)):
        second, _ = join(f"third{number}", module, module, change=also_drafting if module == gptq else all_said)
        same_with_drafts(bare, 0, "--draft-path", second)
        r = run("serve", bare, "--config", ini, "--drafts", "2", "--draft-path", second, "--print-tensors")
        owner = {line.split()[0]: line.split()[5] for line in r.stdout.splitlines() if line.startswith("mtp.")}
        assert owner["mtp.fc"] == ("gptq" if module == gptq else "awq"), owner

with check("a quantized module of a folder that does not say how is refused"):
    told = json.load(open(second + "/config.json"))
    del told["quantization_config"]
    json.dump(told, open(second + "/config.json", "w"))
    r = run("complete", bare, "--config", ini, "--drafts", "1", "--draft-path", second, "--prompt", "x")
    assert r.returncode == 65 and "mtp.fc.weight_packed is there instead of mtp.fc.weight" in r.stderr, r

shutil.rmtree(folder)
check.finish()
