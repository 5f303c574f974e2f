#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How long a checkpoint of very many tensors takes to open: makes a folder with the names of a
Qwen3-Next in compressed-tensors (layers x experts x 3 projections x packed, scale, shape) whose
tensors are tiny, split over shards with an index, and times `tenon serve --print-tensors` on it.

    tests/bench_opening.py [--layers 48] [--experts 512] [--shards 10] [--rounds 5] [--keep DIR]"""
import argparse
import json
import os
import shutil
import statistics
import struct
import tempfile
import time

import numpy as np

from tenonlib import make_tokenizer, run, write_ini, write_json

HIDDEN, GROUP, WIDTH, VOCAB = 64, 32, 32, 416
HEADS, KV, DIM = 2, 1, 32
KEYS, VALUES, STATE = 2, 4, 16
TYPES = {"BF16": 2, "I32": 4, "I64": 8}


def packed(out, name, n, k):
    out[name + ".weight_packed"] = ("I32", [n, k // 8])
    out[name + ".weight_scale"] = ("BF16", [n, k // GROUP])
    out[name + ".weight_shape"] = ("I64", [2], (n, k))


def gated(out, at):
    for name, n, k in (("gate_proj", WIDTH, HIDDEN), ("up_proj", WIDTH, HIDDEN), ("down_proj", HIDDEN, WIDTH)):
        packed(out, at + name, n, k)


def layer(i, experts):
    """Every fourth layer attends, as in the model."""
    out, at, mlp = {}, f"model.layers.{i}.", f"model.layers.{i}.mlp."
    for n in ("input_layernorm", "post_attention_layernorm"):
        out[f"{at}{n}.weight"] = ("BF16", [HIDDEN])
    if i % 4 == 3:
        for n, rows, k in (("q", 2 * HEADS * DIM, HIDDEN), ("k", KV * DIM, HIDDEN), ("v", KV * DIM, HIDDEN),
                           ("o", HIDDEN, HEADS * DIM)):
            out[f"{at}self_attn.{n}_proj.weight"] = ("BF16", [rows, k])
        for n in "qk":
            out[f"{at}self_attn.{n}_norm.weight"] = ("BF16", [DIM])
    else:
        d, channels = at + "linear_attn.", (2 * KEYS + VALUES) * STATE
        out[d + "in_proj_qkvz.weight"] = ("BF16", [channels + VALUES * STATE, HIDDEN])
        out[d + "in_proj_ba.weight"] = ("BF16", [2 * VALUES, HIDDEN])
        out[d + "conv1d.weight"] = ("BF16", [channels, 1, 4])
        out[d + "A_log"] = out[d + "dt_bias"] = ("BF16", [VALUES])
        out[d + "norm.weight"] = ("BF16", [STATE])
        out[d + "out_proj.weight"] = ("BF16", [HIDDEN, VALUES * STATE])
    out[mlp + "gate.weight"] = ("BF16", [experts, HIDDEN])
    out[mlp + "shared_expert_gate.weight"] = ("BF16", [1, HIDDEN])
    gated(out, mlp + "shared_expert.")
    for e in range(experts):
        gated(out, f"{mlp}experts.{e}.")
    return out


def bytes_of(kind, shape):
    return TYPES[kind] * int(np.prod(shape))


def write_shard(path, tensors):
    """Zeros, but for the shapes."""
    header, at, body = {"__metadata__": {"format": "pt"}}, 0, bytearray()
    for name, (kind, shape, *value) in tensors.items():
        size = bytes_of(kind, shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + size]}
        body += struct.pack("<2q", *value[0]) if value else bytes(size)
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + body)


def make_wide(folder, layers, experts, shards):
    """Returns the number of tensors."""
    os.makedirs(folder, exist_ok=True)
    tensors = {"model.embed_tokens.weight": ("BF16", [VOCAB, HIDDEN])}
    for i in range(layers):
        tensors.update(layer(i, experts))
    tensors["model.norm.weight"] = ("BF16", [HIDDEN])
    tensors["lm_head.weight"] = ("BF16", [VOCAB, HIDDEN])
    names = list(tensors)
    places, each = {}, -(-len(names) // shards)
    for s in range(shards):
        file = f"model-{s + 1:05}-of-{shards:05}.safetensors"
        part = {n: tensors[n] for n in names[s * each:(s + 1) * each]}
        write_shard(os.path.join(folder, file), part)
        places.update(dict.fromkeys(part, file))
    write_json(os.path.join(folder, "model.safetensors.index.json"), {
        "metadata": {"total_size": sum(bytes_of(t[0], t[1]) for t in tensors.values())},
        "weight_map": places})
    make_tokenizer(folder)
    scheme = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": GROUP}
    write_json(os.path.join(folder, "config.json"), {
        "architectures": ["Qwen3NextForCausalLM"], "model_type": "qwen3_next", "hidden_size": HIDDEN,
        "num_hidden_layers": layers, "num_attention_heads": HEADS, "num_key_value_heads": KV,
        "head_dim": DIM, "intermediate_size": WIDTH, "vocab_size": VOCAB, "full_attention_interval": 4,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "rope_theta": 1e4, "hidden_act": "silu",
        "partial_rotary_factor": 0.25, "num_experts": experts, "num_experts_per_tok": min(10, experts),
        "moe_intermediate_size": WIDTH, "shared_expert_intermediate_size": WIDTH, "norm_topk_prob": True,
        "decoder_sparse_step": 1, "mlp_only_layers": [], "linear_num_key_heads": KEYS,
        "linear_num_value_heads": VALUES, "linear_key_head_dim": STATE, "linear_value_head_dim": STATE,
        "linear_conv_kernel_dim": 4, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
        "quantization_config": {
            "quant_method": "compressed-tensors", "format": "pack-quantized",
            "ignore": ["lm_head", "re:.*mlp.gate$", "re:.*shared_expert_gate$", "re:.*self_attn.*",
                       "re:.*linear_attn.*"],
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": scheme}}}})
    return len(tensors)


def main():
    p = argparse.ArgumentParser()
    for name, number in (("layers", 48), ("experts", 512), ("shards", 10), ("rounds", 5)):
        p.add_argument("--" + name, type=int, default=number)
    p.add_argument("--keep", help="a folder to make it in and leave it")
    a = p.parse_args()
    top = a.keep or tempfile.mkdtemp(prefix="tenon-opening-")
    model = os.path.join(top, "model")
    n = make_wide(model, a.layers, a.experts, a.shards)
    ini = write_ini(os.path.join(top, "t.ini"))
    times = []
    for _ in range(a.rounds + 1):  # the first one warms
        begun = time.monotonic()
        r = run("serve", model, "--config", ini, "--print-tensors")
        times.append(time.monotonic() - begun)
        assert r.returncode == 0, r.stderr
    print(f"{n} tensors in {a.shards} shards: first {times[0]:.2f} s, then median "
          f"{statistics.median(times[1:]):.2f} s of {a.rounds} ({min(times[1:]):.2f} to {max(times[1:]):.2f})")
    if not a.keep:
        shutil.rmtree(top)


if __name__ == "__main__":
    main()
