# SPDX-License-Identifier: Apache-2.0
"""A second opinion on whole models: the forward pass of the families with experts and with
Gated DeltaNet (qwen3_next, qwen3_5, qwen3_5_moe, qwen3_moe, mixtral), in float64, written from
the families' description and as slowly as it reads. `Oracle(folder).logits(ids)` is one row of
logits a token; nothing is cached, chunked or fused, and DeltaNet is its recurrence.

`near` is the least distance between the last expert that was chosen and the first that was
not: where it is tiny, another order of additions may choose otherwise. Equal experts are told
apart by their numbers, whatever the order."""
import json
import os

import numpy as np

from quant_ref import dequantize, load

# What a family means when config.json does not say; "layers" of a hybrid are every fourth.
FAMILIES = {
    "qwen3_next": {"hybrid": True, "norm_topk_prob": True, "num_experts": 512,
                   "partial_rotary_factor": 0.25, "shared_expert_intermediate_size": 512},
    "qwen3_5": {"hybrid": True, "partial_rotary_factor": 0.25, "split": True},
    "qwen3_5_moe": {"hybrid": True, "norm_topk_prob": True, "partial_rotary_factor": 0.25,
                    "shared_expert_intermediate_size": 512, "split": True},
    "qwen3_moe": {"norm_topk_prob": False, "qk_norm": True},
    "mixtral": {"norm_topk_prob": True, "num_experts": 8},
}


def sigmoid(x):
    return 0.5 * (1 + np.tanh(0.5 * x))


def silu(x):
    return x * sigmoid(x)


def softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def rms(x, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)


def yarn(inv, dims, theta, o, context):
    """Frequencies that turn often stay, slow ones are divided by the factor, with a ramp
    between; returns them and what cosines and sines are multiplied by."""
    factor, length = o["factor"], o.get("original_max_position_embeddings", context)

    def pair(turns):
        return dims * np.log(length / (2 * np.pi * turns)) / (2 * np.log(theta))
    low, high = pair(o.get("beta_fast", 32)), pair(o.get("beta_slow", 1))
    if o.get("truncate", True):
        low, high = np.floor(low), np.ceil(high)
    low, high = max(low, 0), min(high, dims - 1)
    if low == high:
        high += 0.001
    ramp = np.clip((np.arange(dims // 2) - low) / (high - low), 0, 1)
    grow = np.log(factor) if factor > 1 else 0.0
    scale = 0.1 * grow + 1
    if o.get("mscale") and o.get("mscale_all_dim"):
        scale = (0.1 * o["mscale"] * grow + 1) / (0.1 * o["mscale_all_dim"] * grow + 1)
    return inv * (1 - ramp) + inv / factor * ramp, o.get("attention_factor", scale)


def delta_rule(q, k, v, g, beta):
    """Every head's memory [dk, dv] forgets, is asked what it returns for the key, is corrected
    towards the value, and is read with the query. All [T, heads, ...]."""
    S = np.zeros((v.shape[1], k.shape[2], v.shape[2]))
    out = np.empty_like(v)
    for t in range(len(v)):
        S = np.exp(g[t])[:, None, None] * S
        d = beta[t][:, None] * (v[t] - np.einsum("hkv,hk->hv", S, k[t]))
        S = S + k[t][:, :, None] * d[:, None, :]
        out[t] = np.einsum("hkv,hk->hv", S, q[t])
    return out


def unit(x):
    return x / np.sqrt((x * x).sum(-1, keepdims=True) + 1e-6)


def conv(m, w):
    """Causal, one channel at a time; the last column of w [channels, kernel] meets the token
    itself."""
    past = np.concatenate([np.zeros((w.shape[1] - 1, m.shape[1])), m])
    return silu(sum(past[j:j + len(m)] * w[:, j] for j in range(w.shape[1])))


def choose(logits, n, renormalise):
    """Weights [T, experts], zero where an expert was not among the best n (of equals the first
    counts), and the closest that a choice was without being a tie."""
    p = softmax(logits)
    order = np.argsort(-np.round(p, 13), axis=1, kind="stable")
    ranked = np.take_along_axis(p, order, 1)
    gap = ranked[:, n - 1] - ranked[:, n] if n < p.shape[1] else np.ones(1)
    weight = np.zeros_like(p)
    np.put_along_axis(weight, order[:, :n], ranked[:, :n], 1)
    if renormalise:
        weight /= weight.sum(1, keepdims=True)
    return weight, gap[np.abs(gap) > 1e-13].min(initial=1)


class Oracle:
    def __init__(self, folder):
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
            outer = json.load(f)
        self.c = c = outer.get("text_config", outer)
        kind = outer["model_type"]
        kind = kind[:-5] if kind.endswith("_text") else kind
        self.usual = FAMILIES[kind]
        self.quant = outer.get("quantization_config", {})
        self.tensors = load(folder)
        self.prefix = "model." if c is outer else "model.language_model."
        self.hybrid, self.split = self.usual.get("hybrid"), self.usual.get("split")
        self.mixtral = kind == "mixtral"
        self.tied = c.get("tie_word_embeddings", outer.get("tie_word_embeddings", False))
        self.eps = self.key("rms_norm_eps", 1e-6)
        self.heads = c["num_attention_heads"]
        self.kv_heads = c.get("num_key_value_heads", self.heads)
        self.head_dim = c.get("head_dim", c["hidden_size"] // self.heads)
        self.near = np.inf

    def key(self, name, usual=None):
        return self.c.get(name, self.usual.get(name, usual))

    def t(self, name):
        """A tensor of the model, in float64; quantized modules by their formats' rules."""
        for full in (self.prefix + name, name):
            if full in self.tensors:
                return self.tensors[full].astype(np.float64)
        raise KeyError(self.prefix + name)

    def linear(self, x, module, n):
        """x W' + b, where W has n rows; a bias is whatever the file has."""
        full = module if module == "lm_head" else self.prefix + module
        w = dequantize(self.tensors, full, self.quant, n, x.shape[-1]).astype(np.float64)
        assert w.shape == (n, x.shape[-1]), (full, w.shape, n, x.shape[-1])
        b = self.tensors.get(full + ".bias")
        return x @ w.T + (0 if b is None else b.astype(np.float64))

    def norm(self, x, name):
        """Hybrids keep their weights around zero, the others around one."""
        return rms(x, self.eps) * (self.t(name + ".weight") + (1 if self.hybrid else 0))

    # ------------------------------------------------------------------------ attention
    def rope(self, x):
        """Rotates the first dimensions of [T, heads, head_dim], the first half of them paired
        with the second."""
        o = self.c.get("rope_parameters") or self.c.get("rope_scaling") or {}
        theta = o.get("rope_theta", self.key("rope_theta", 10000.0))
        part = o.get("partial_rotary_factor", self.key("partial_rotary_factor", 1.0))
        dims, scale = int(self.head_dim * part), 1.0
        inv = theta ** (-np.arange(0, dims, 2) / dims)
        kind = o.get("rope_type", o.get("type", "default"))
        if kind == "yarn":
            inv, scale = yarn(inv, dims, theta, o, self.c["max_position_embeddings"])
        else:
            assert kind == "default", kind
        angle = np.arange(len(x))[:, None, None] * inv
        cos, sin = scale * np.cos(angle), scale * np.sin(angle)
        a, b = x[..., :dims // 2], x[..., dims // 2:dims]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin, x[..., dims:]], -1)

    def attention(self, x, at):
        T, H, K, D = len(x), self.heads, self.kv_heads, self.head_dim
        q = self.linear(x, at + "q_proj", H * D * (2 if self.hybrid else 1)).reshape(T, H, -1)
        q, gate = q[..., :D], q[..., D:]
        k = self.linear(x, at + "k_proj", K * D).reshape(T, K, D)
        v = self.linear(x, at + "v_proj", K * D).reshape(T, K, D)
        if self.hybrid or self.usual.get("qk_norm"):
            q, k = self.norm(q, at + "q_norm"), self.norm(k, at + "k_norm")
        q, k = self.rope(q), self.rope(k)
        out = np.empty((T, H, D))
        future = np.triu(np.full((T, T), -np.inf), 1)
        for h in range(H):
            kv = h // (H // K)
            out[:, h] = softmax(q[:, h] @ k[:, kv].T / np.sqrt(D) + future) @ v[:, kv]
        if self.hybrid:
            out = out * sigmoid(gate)
        return self.linear(out.reshape(T, H * D), at + "o_proj", x.shape[1])

    # --------------------------------------------------------------------------- DeltaNet
    def delta_inputs(self, x, at, Hk, Hv, dk, dv):
        """q | k | v side by side, z, b, a; per key head interleaved in qwen3_next's files."""
        T, r = len(x), Hv // Hk
        if self.split:
            return (self.linear(x, at + "in_proj_qkv", 2 * Hk * dk + Hv * dv),
                    self.linear(x, at + "in_proj_z", Hv * dv).reshape(T, Hv, dv),
                    self.linear(x, at + "in_proj_b", Hv), self.linear(x, at + "in_proj_a", Hv))
        p = self.linear(x, at + "in_proj_qkvz", 2 * Hk * dk + 2 * Hv * dv).reshape(T, Hk, -1)
        q, k, v, z = np.split(p, [dk, 2 * dk, 2 * dk + r * dv], axis=2)
        b, a = np.split(self.linear(x, at + "in_proj_ba", 2 * Hv).reshape(T, Hk, 2 * r), 2, axis=2)
        m = np.concatenate([part.reshape(T, -1) for part in (q, k, v)], 1)
        return m, z.reshape(T, Hv, dv), b.reshape(T, Hv), a.reshape(T, Hv)

    def delta(self, x, at):
        T = len(x)
        Hk, Hv = self.key("linear_num_key_heads", 16), self.key("linear_num_value_heads", 32)
        dk, dv = self.key("linear_key_head_dim", 128), self.key("linear_value_head_dim", 128)
        m, z, b, a = self.delta_inputs(x, at, Hk, Hv, dk, dv)
        m = conv(m, self.t(at + "conv1d.weight")[:, 0])
        q, k, v = np.split(m, [Hk * dk, 2 * Hk * dk], axis=1)
        q, k = (np.repeat(unit(u.reshape(T, Hk, dk)), Hv // Hk, axis=1) for u in (q, k))
        g = -np.exp(self.t(at + "A_log")) * softplus(a + self.t(at + "dt_bias"))
        out = delta_rule(q / np.sqrt(dk), k, v.reshape(T, Hv, dv), g, sigmoid(b))
        act = sigmoid if self.key("output_gate_type", "silu") == "sigmoid" else silu
        out = rms(out, self.eps) * self.t(at + "norm.weight") * act(z)
        return self.linear(out.reshape(T, Hv * dv), at + "out_proj", x.shape[1])

    # --------------------------------------------------------------------------- experts
    def gated(self, x, gate, up, down, width):
        return self.linear(silu(self.linear(x, gate, width)) * self.linear(x, up, width), down,
                           self.c["hidden_size"])

    def mlp(self, x, at):
        return self.gated(x, at + "gate_proj", at + "up_proj", at + "down_proj",
                          self.c["intermediate_size"])

    def expert(self, x, at, e):
        width = self.key("moe_intermediate_size", self.c.get("intermediate_size"))
        if self.prefix + at + "experts.gate_up_proj" in self.tensors:
            gate_up = x @ self.t(at + "experts.gate_up_proj")[e].T
            return (silu(gate_up[:, :width]) * gate_up[:, width:]) @ \
                self.t(at + "experts.down_proj")[e].T
        names = ("w1", "w3", "w2") if self.mixtral else ("gate_proj", "up_proj", "down_proj")
        return self.gated(x, *(f"{at}experts.{e}.{n}" for n in names), width)

    def experts(self, x, at):
        E = self.key("num_local_experts" if self.mixtral else "num_experts",
                     self.usual.get("num_experts"))
        weight, near = choose(self.linear(x, at + "gate", E), self.c["num_experts_per_tok"],
                              self.key("norm_topk_prob"))
        self.near = min(self.near, near)
        out = np.zeros_like(x)
        for e in range(E):
            rows = weight[:, e] > 0
            if rows.any():
                out[rows] += weight[rows, e, None] * self.expert(x[rows], at, e)
        shared = self.key("shared_expert_intermediate_size", 0)
        if shared:
            s = at + "shared_expert."
            out += sigmoid(self.linear(x, at + "shared_expert_gate", 1)) * self.gated(
                x, s + "gate_proj", s + "up_proj", s + "down_proj", shared)
        return out

    # ---------------------------------------------------------------------------- model
    def attends(self, i):
        if "layer_types" in self.c:
            return self.c["layer_types"][i] == "full_attention"
        return not self.hybrid or (i + 1) % self.key("full_attention_interval", 4) == 0

    def has_experts(self, i):
        n = self.key("num_local_experts" if self.mixtral else "num_experts", 0)
        return n > 0 and i not in self.key("mlp_only_layers", []) and \
            (i + 1) % self.key("decoder_sparse_step", 1) == 0

    def logits(self, ids):
        x = self.t("embed_tokens.weight")[np.asarray(ids)]
        for i in range(self.c["num_hidden_layers"]):
            at = f"layers.{i}."
            h = self.norm(x, at + "input_layernorm")
            x = x + (self.attention(h, at + "self_attn.") if self.attends(i)
                     else self.delta(h, at + "linear_attn."))
            h = self.norm(x, at + "post_attention_layernorm")
            block = at + ("block_sparse_moe." if self.mixtral else "mlp.")
            x = x + (self.experts(h, block) if self.has_experts(i) else self.mlp(h, at + "mlp."))
        x = self.norm(x, "norm")
        if self.tied:
            return x @ self.t("embed_tokens.weight").T
        return self.linear(x, "lm_head", self.c["vocab_size"])
