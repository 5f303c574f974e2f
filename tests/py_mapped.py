# SPDX-License-Identifier: Apache-2.0
"""Mixtures of experts larger than memory: experts = mapped answers token for token as memory
does, from every kind of file, and takes little memory of its own; load_format = dummy serves a
config.json."""
import json
import os
import re
import shutil
import tempfile

import numpy as np
import requests
from safetensors.numpy import load_file, save_file

from tenonlib import Counter, Server, make_tokenizer, run, write_ini, write_json

check = Counter()
folder = tempfile.mkdtemp(prefix="tenon-mapped-")
ini = write_ini(os.path.join(folder, "t.ini"))
HIDDEN, WIDTH, EXPERTS, TOP, LAYERS = 256, 128, 32, 4, 2
PACKED = EXPERTS * 3 * HIDDEN * WIDTH // 2 * 9 // 8  # bytes of a layer's experts, about


def make_moe(path):
    """A qwen3_moe of random weights whose experts are most of it."""
    os.makedirs(path)
    vocab = make_tokenizer(path).get_vocab_size()
    vocab += -vocab % 16
    r, w = np.random.default_rng(7), {}

    def matrix(name, n, k, gain=1.0):
        w[name + ".weight"] = (r.standard_normal((n, k)) * gain / np.sqrt(k)).astype(np.float16)

    matrix("model.embed_tokens", vocab, HIDDEN, 4.0)
    for i in range(LAYERS):
        p = f"model.layers.{i}."
        for name, n in (("q", 256), ("k", 128), ("v", 128), ("o", 256)):
            matrix(f"{p}self_attn.{name}_proj", n, 256)
        for name in ("q", "k"):
            w[f"{p}self_attn.{name}_norm.weight"] = np.ones(64, np.float16)
        matrix(p + "mlp.gate", EXPERTS, HIDDEN, 2.0)
        for e in range(EXPERTS):
            matrix(f"{p}mlp.experts.{e}.gate_proj", WIDTH, HIDDEN)
            matrix(f"{p}mlp.experts.{e}.up_proj", WIDTH, HIDDEN)
            matrix(f"{p}mlp.experts.{e}.down_proj", HIDDEN, WIDTH)
        for name in ("input_layernorm", "post_attention_layernorm"):
            w[p + name + ".weight"] = np.ones(HIDDEN, np.float16)
    w["model.norm.weight"] = np.ones(HIDDEN, np.float16)
    save_file(w, path + "/model.safetensors", metadata={"format": "pt"})
    write_json(path + "/config.json", {
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 64, "intermediate_size": 256, "moe_intermediate_size": WIDTH,
        "num_experts": EXPERTS, "num_experts_per_tok": TOP, "norm_topk_prob": True,
        "decoder_sparse_step": 1, "mlp_only_layers": [], "vocab_size": vocab,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "tie_word_embeddings": True, "hidden_act": "silu", "torch_dtype": "float16",
        "eos_token_id": 2})
    return path


def answer(model, *args):
    r = run("complete", model, "--config", ini, "--prompt", "The quick brown fox jumps over the",
            "--max-tokens", "32", "--temperature", "0", "--ignore-eos", "--logprobs", "2", "--json", *args)
    assert r.returncode == 0, r.stderr
    return json.loads(r.stdout)


def own_memory(server):
    with open(f"/proc/{server.process.pid}/status", encoding="utf-8") as f:
        return int(re.search(r"RssAnon:\s+(\d+) kB", f.read()).group(1)) * 1024


plain = make_moe(os.path.join(folder, "plain"))
made = {"plain": plain}
for name, args in {"awq": ["--quant", "awq", "--group-size", "32", "--variant", "gemm"],
                   "packed": ["--quant", "awq", "--group-size", "32", "--variant", "pack-quantized"],
                   "gptq": ["--quant", "gptq", "--group-size", "32"]}.items():
    with check(f"quantize {name}"):
        r = run("quantize", plain, *args, "--output", os.path.join(folder, name), "--config", ini)
        assert r.returncode == 0, r.stderr
        made[name] = os.path.join(folder, name)

with check("quantize gptq, columns grouped out of order"):
    made["act-order"] = shutil.copytree(made["gptq"], os.path.join(folder, "act-order"))
    file = made["act-order"] + "/model.safetensors"
    w, orders = load_file(file), {}
    for tensor in sorted(w):
        if tensor.endswith(".g_idx"):  # gate and up share their input, so their order too
            key = re.sub("(gate|up)_proj", "", tensor)
            orders.setdefault(key, np.random.default_rng(len(orders)).permutation(w[tensor]))
            w[tensor] = orders[key]
    assert len(orders) >= LAYERS * EXPERTS * 2, len(orders)
    save_file(w, file, metadata={"format": "pt"})
    for name in ("config.json", "quantize_config.json"):
        with open(f"{made['act-order']}/{name}", encoding="utf-8") as f:
            config = json.load(f)
        config.get("quantization_config", config)["desc_act"] = True
        write_json(f"{made['act-order']}/{name}", config)

for name, model in made.items():
    with check(f"{name}: mapped answers as memory does, whatever is kept"):
        want = answer(model)
        for kept in ("0", "1KiB", str(PACKED // 3)):
            assert answer(model, "--experts", "mapped", "--experts-memory", kept) == want, kept
        assert answer(model, "--experts", "mapped", "--max-num-batched-tokens", "16") == want

with check("many at once, and the memory that is taken"):
    bodies = [{"prompt": f"The quick brown {i}", "max_tokens": 24, "temperature": 0, "ignore_eos": True}
              for i in range(6)]
    found, taken = {}, {}
    for mode in ("memory", "mapped"):
        args = ["--experts", mode, "--experts-memory", str(PACKED // 3), "--max-model-len", "256"]
        with Server(ini, made["plain"], *args) as s:
            found[mode] = [requests.post(s.url + "/v1/completions", json=b).json()["choices"][0]["text"]
                           for b in bodies]
            taken[mode] = own_memory(s)
            said = s.text()
            assert s.stop() == 0
    assert found["memory"] == found["mapped"]
    assert "experts " in said and ", mapped)" in said, said
    saved = LAYERS * EXPERTS * 3 * HIDDEN * WIDTH * 2 - PACKED // 3
    assert taken["memory"] - taken["mapped"] > saved * 0.8, (taken, saved)

with check("a model of config.json alone"):
    dummy = os.path.join(folder, "dummy")
    os.makedirs(dummy)
    with open(plain + "/config.json", encoding="utf-8") as f:
        config = json.load(f)
    config.update(vocab_size=300, tie_word_embeddings=False)
    config["num_hidden_layers"] = 48
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True}
    write_json(dummy + "/config.json", config)
    r = run("complete", dummy, "--config", ini, "--prompt", "x")
    assert r.returncode == 66, r
    want = answer(dummy, "--load-format", "dummy")
    assert want == answer(dummy, "--load-format", "dummy")
    assert want == answer(dummy, "--load-format", "dummy", "--experts", "mapped", "--experts-memory", "1M")
    assert len(set(want["token_ids"])) > 16 and want["text"]
    assert all(-20 < t["logprob"] < 0 for t in want["logprobs"]), want
    r = run("serve", dummy, "--config", ini, "--load-format", "dummy", "--print-tensors")
    assert re.search(r"experts.down +w4g/32 +256 x 128 +dummy", r.stdout), r.stdout
    assert re.search(r"self_attn.q_proj +f16 ", r.stdout), r.stdout

with check("a token's bytes are those of the experts it chooses"):
    r = run("bench", "latency", plain, "--config", ini, "--input-len", "8", "--output-len", "4",
            "--repeat", "1", "--json")
    assert r.returncode == 0, r.stderr
    experts = LAYERS * TOP * 3 * HIDDEN * WIDTH * 2
    rest = os.path.getsize(plain + "/model.safetensors") - experts // TOP * EXPERTS
    bytes_each = json.loads(r.stdout)["bytes_per_token"]
    assert experts < bytes_each < experts + 1.5 * rest, (bytes_each, experts, rest)

with check("a mapped file that is cut short while serving is told of"):
    short = shutil.copytree(plain, os.path.join(folder, "short"))
    with Server(ini, short, "--experts", "mapped", "--experts-memory", "1M") as server:
        os.truncate(short + "/model.safetensors", 200_000)
        try:
            requests.post(server.url + "/v1/completions", timeout=30,
                          json={"prompt": "The quick brown fox " * 8, "max_tokens": 64, "temperature": 0})
        except requests.RequestException:
            pass
        assert server.process.wait(30) == 70, server.text()
        assert "signal 7 in its code (a file was cut short" in server.text(), server.text()

shutil.rmtree(folder)
check.finish()
