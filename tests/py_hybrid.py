# SPDX-License-Identifier: Apache-2.0
"""Models with experts and with Gated DeltaNet, made small and odd, against the forward pass of
hybrid_ref.py: greedy tokens, log-probabilities, the likelihood of a text, prompts in pieces,
quantized files, and configurations that do not tell what the files hold."""
import json
import os
import pathlib
import re
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

os.environ["OPENBLAS_NUM_THREADS"] = "1"   # for matrices this small threads only wait

import numpy as np
import requests

from hybrid_ref import Oracle, choose, conv, delta_rule, log_softmax, rms, silu, unit, yarn
from quant_ref import bf16_bits, dequantize, load, save
from tenonlib import Counter, Server, TEXT, make_tokenizer, run, write_ini, write_json

TIE = 1e-3          # a token that is worse than the best by less is as good
CLOSE = 3e-4        # between float32 and float64, in log-probabilities
NEAR = 1e-6         # between probabilities of experts, as float32 can be trusted to tell apart
LENGTHS = (1, 2, 3, 5, 40, 130)
PIECES = ("--max-num-batched-tokens", "7", "--max-num-seqs", "1")

check = Counter()
folder = tempfile.mkdtemp(prefix="tenon-hybrid-")
ini = write_ini(os.path.join(folder, "t.ini"), plugins=("cpu", "awq", "gptq", "http"))
words = os.path.join(folder, "words")
os.mkdir(words)
tokenizer = make_tokenizer(words)


def text_of(n):
    """A text of n tokens; each length begins elsewhere."""
    begin = 3 * n % 50
    return next(t for t in (TEXT[begin:begin + i] for i in range(1, len(TEXT)))
                if len(tokenizer.encode(t).ids) == n)


prompts = {}
for length in LENGTHS:
    prompts[length] = os.path.join(folder, f"{length}.txt")
    with open(prompts[length], "w", encoding="utf-8") as f:
        f.write(text_of(length))


# --------------------------------------------------------------------------- making models
COMMON = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
          "num_key_value_heads": 2, "head_dim": 32, "rms_norm_eps": 1e-6, "vocab_size": 416,
          "max_position_embeddings": 512, "hidden_act": "silu", "bos_token_id": 0,
          "eos_token_id": 2}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 32}
DELTA = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 32,
         "linear_value_head_dim": 32, "linear_conv_kernel_dim": 4}
ROPE = {"rope_theta": 10000.0}
BASE = {
    "qwen3_next": {**COMMON, **EXPERTS, **DELTA, **ROPE, "shared_expert_intermediate_size": 64,
                   "partial_rotary_factor": 0.25, "full_attention_interval": 4,
                   "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [],
                   "tie_word_embeddings": False, "torch_dtype": "bfloat16", "rope_scaling": None,
                   "attention_bias": False, "intermediate_size": 96},
    "qwen3_5": {**COMMON, **DELTA, "intermediate_size": 96, "dtype": "bfloat16",
                "layer_types": ["linear_attention"] * 3 + ["full_attention"],
                "attn_output_gate": True, "mamba_ssm_dtype": "float32",
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e4,
                                    "partial_rotary_factor": 0.25, "mrope_section": [2, 1, 1],
                                    "mrope_interleaved": True}},
    "qwen3_moe": {**COMMON, **EXPERTS, **ROPE, "norm_topk_prob": True, "dtype": "bfloat16",
                  "use_sliding_window": False, "sliding_window": None, "max_window_layers": 3,
                  "intermediate_size": 96, "tie_word_embeddings": False},
    "mixtral": {**COMMON, **ROPE, "num_local_experts": 8, "num_experts_per_tok": 2,
                "intermediate_size": 96, "torch_dtype": "bfloat16", "sliding_window": None,
                "output_router_logits": False, "tie_word_embeddings": False},
}
BASE["qwen3_5_moe"] = {**BASE["qwen3_5"], **EXPERTS, "shared_expert_intermediate_size": 64}
BASE["qwen3_5_moe"].pop("intermediate_size")
CLASSES = {"qwen3_next": "Qwen3Next", "qwen3_5": "Qwen3_5", "qwen3_5_moe": "Qwen3_5Moe",
           "qwen3_moe": "Qwen3Moe", "mixtral": "Mixtral"}


class Maker:
    """Random tensors of a configuration. Gains are such that attention prefers some tokens,
    routers some experts, and states forget at once, slowly, or hardly."""
    def __init__(self, kind, c, prefix, seed, fused, twins):
        self.kind, self.c, self.prefix, self.fused, self.twins = kind, c, prefix, fused, twins
        self.hybrid = kind not in ("qwen3_moe", "mixtral")
        self.r = np.random.default_rng(seed)
        self.w = {}

    def put(self, name, values):
        self.w[self.prefix + name] = values.astype(np.float32)

    def matrix(self, name, n, k, gain=1.0, bias=False):
        self.put(name + ".weight", self.r.standard_normal((n, k)) * gain / np.sqrt(k))
        if bias:
            self.put(name + ".bias", self.r.standard_normal(n) * 0.4)

    def norm(self, name, n, middle=None):
        middle = (0 if self.hybrid else 1) if middle is None else middle
        self.put(name + ".weight", middle + self.r.standard_normal(n) * 0.25)

    def attention(self, at):
        c, hidden, dim = self.c, self.c["hidden_size"], self.c["head_dim"]
        q, kv, bias = c["num_attention_heads"] * dim, c["num_key_value_heads"] * dim, \
            c.get("attention_bias", False)
        self.matrix(at + "q_proj", q * (2 if self.hybrid else 1), hidden, 1.5, bias)
        self.matrix(at + "k_proj", kv, hidden, 1.5, bias)
        self.matrix(at + "v_proj", kv, hidden, 1, bias)
        self.matrix(at + "o_proj", hidden, q, 1, bias)
        if self.kind != "mixtral":
            self.norm(at + "q_norm", dim, 0.5 if self.hybrid else 1.5)
            self.norm(at + "k_norm", dim)

    def delta(self, at):
        c, hidden = self.c, self.c["hidden_size"]
        Hk, Hv = c["linear_num_key_heads"], c["linear_num_value_heads"]
        k, v = Hk * c["linear_key_head_dim"], Hv * c["linear_value_head_dim"]
        if self.kind == "qwen3_next":
            self.matrix(at + "in_proj_qkvz", 2 * k + 2 * v, hidden)
            self.matrix(at + "in_proj_ba", 2 * Hv, hidden)
        else:
            self.matrix(at + "in_proj_qkv", 2 * k + v, hidden)
            for name, n in (("z", v), ("b", Hv), ("a", Hv)):
                self.matrix(at + "in_proj_" + name, n, hidden)
        self.put(at + "conv1d.weight",
                 self.r.standard_normal((2 * k + v, 1, c["linear_conv_kernel_dim"])) * 0.7)
        self.put(at + "A_log", np.log(np.exp(self.r.uniform(np.log(0.02), np.log(16), Hv))))
        step = np.exp(self.r.uniform(np.log(0.001), np.log(0.5), Hv))
        self.put(at + "dt_bias", step + np.log(-np.expm1(-step)))   # softplus of it is step
        self.norm(at + "norm", c["linear_value_head_dim"], 1)
        self.matrix(at + "out_proj", hidden, v)

    def gated(self, at, width, names=("gate_proj", "up_proj", "down_proj")):
        hidden = self.c["hidden_size"]
        for name, n, k in zip(names, (width, width, hidden), (hidden, hidden, width)):
            self.matrix(at + name, n, k, 1.4)

    def experts(self, at):
        c, hidden = self.c, self.c["hidden_size"]
        mixtral = self.kind == "mixtral"
        E = c["num_local_experts" if mixtral else "num_experts"]
        width = c["intermediate_size" if mixtral else "moe_intermediate_size"]
        shared = c.get("shared_expert_intermediate_size", 512) if self.hybrid else 0
        self.matrix(at + "gate", E, hidden, 2)
        if self.twins:
            rows = self.w[self.prefix + at + "gate.weight"]
            rows[E // 2:] = rows[:E // 2]
        if self.fused:
            self.put(at + "experts.gate_up_proj",
                     self.r.standard_normal((E, 2 * width, hidden)) * 1.4 / np.sqrt(hidden))
            self.put(at + "experts.down_proj",
                     self.r.standard_normal((E, hidden, width)) * 1.4 / np.sqrt(width))
        for e in range(0 if self.fused else E):
            self.gated(f"{at}experts.{e}.", width,
                       *([("w1", "w3", "w2")] if mixtral else []))
        if shared:
            self.matrix(at + "shared_expert_gate", 1, hidden)
            self.gated(at + "shared_expert.", shared)

    def layer(self, i, attends, experts):
        at, hidden = f"layers.{i}.", self.c["hidden_size"]
        self.norm(at + "input_layernorm", hidden)
        self.norm(at + "post_attention_layernorm", hidden)
        if attends:
            self.attention(at + "self_attn.")
        else:
            self.delta(at + "linear_attn.")
        if experts:
            self.experts(at + ("block_sparse_moe." if self.kind == "mixtral" else "mlp."))
        else:
            self.gated(at + "mlp.", self.c["intermediate_size"])

    def tensors(self, attends, experts, tied):
        hidden, vocab = self.c["hidden_size"], self.c["vocab_size"]
        self.put("embed_tokens.weight",
                 self.r.standard_normal((vocab, hidden)) * (0.3 if tied else 1))
        self.norm("norm", hidden)
        for i, (a, e) in enumerate(zip(attends, experts)):
            self.layer(i, a, e)
        if not tied:
            self.prefix = ""
            self.matrix("lm_head", vocab, hidden, 2.5)
        return self.w


def stored(tensors, dtype):
    """In the file's type; "mixed" keeps vectors in float32 beside bf16 matrices."""
    def one(v):
        if dtype == "fp32" or (dtype == "mixed" and v.ndim == 1):
            return v
        return v.astype(np.float16) if dtype == "fp16" else ("bf16", bf16_bits(v))
    return {name: one(v) for name, v in tensors.items()}


def write_model(path, config, tensors):
    save(pathlib.Path(path), tensors, {})
    write_json(os.path.join(path, "config.json"), config)
    for name in os.listdir(words):
        shutil.copy(os.path.join(words, name), path)
    return path


def make(name, kind, change=(), drop=(), dtype="bf16", fused=False, nested=False, more=(), seed=1,
         twins=False):
    """A model folder. `change` and `drop` alter the usual configuration of the kind; `twins`
    are experts that routers cannot tell apart."""
    c = {k: v for k, v in {**BASE[kind], **dict(change)}.items() if k not in drop}
    count = c["num_hidden_layers"]
    types = c.get("layer_types")
    every = c.get("full_attention_interval", 4)
    hybrid = kind not in ("qwen3_moe", "mixtral")
    attends = [not hybrid or (types[i] == "full_attention" if types else (i + 1) % every == 0)
               for i in range(count)]
    sparse = c.get("num_experts", 0) + c.get("num_local_experts", 0) > 0
    experts = [sparse and i not in c.get("mlp_only_layers", []) and
               (i + 1) % c.get("decoder_sparse_step", 1) == 0 for i in range(count)]
    m = Maker(kind, c, "model.language_model." if nested else "model.", seed, fused, twins)
    w = m.tensors(attends, experts, c.get("tie_word_embeddings", False))
    for extra, shape in dict(more).items():
        w[extra] = m.r.standard_normal(shape).astype(np.float32)
    c = {"model_type": kind, "architectures": [CLASSES[kind] + "ForCausalLM"], **c}
    if nested:
        c = {"model_type": kind, "architectures": [CLASSES[kind] + "ForConditionalGeneration"],
             "text_config": {k: v for k, v in {**c, "model_type": kind + "_text"}.items()
                             if k != "architectures"}, "vision_config": {"depth": 1},
             "tie_word_embeddings": c.get("tie_word_embeddings", False)}
    return write_model(os.path.join(folder, name), c, stored(w, dtype))


# ------------------------------------------------------------------------------ comparing
def complete(model, n, *args, tokens=8):
    """The answer, and the lines of the log: a slow machine also sees how far loading is."""
    r = run("complete", model, "--config", ini, "--prompt-file", prompts[n], "--max-tokens",
            str(tokens), "--temperature", "0", "--ignore-eos", "--json", "--logprobs", "5",
            "--cpu-exact", "--kv-cache-memory", "8MiB", *args)
    assert r.returncode == 0, r.stderr
    log = re.findall(r"^\S+Z (?:warn|error) .*", r.stderr, re.M)
    return json.loads(r.stdout), "\n".join(log)


def evaluate(model, n, *args, exact=True):
    r = run("eval", model, "--config", ini, "--text", prompts[n], "--max-tokens", str(n), "--json",
            "--kv-cache-memory", "8MiB", *(["--cpu-exact"] if exact else []), *args)
    assert r.returncode == 0, r.stderr
    return json.loads(r.stdout)


def compare(oracle, answer):
    """Returns the oracle's log-probabilities of prompt and answer."""
    ids, made = answer["prompt_token_ids"], answer["token_ids"]
    rows = log_softmax(oracle.logits(ids + made))
    for i, (token, step) in enumerate(zip(made, answer["logprobs"], strict=True)):
        row = rows[len(ids) - 1 + i]
        best = np.sort(row)[::-1][:5]
        assert best[0] - row[token] < TIE, (len(ids), i, token, int(row.argmax()))
        for rank, (other, value) in enumerate(step["top"]):
            for wanted in (row[other], best[rank]):
                worst.append(abs(value - wanted))
                assert worst[-1] < CLOSE, (len(ids), i, other, value, wanted)
    return rows


def compare_all(model, lengths=LENGTHS):
    """Prompts of all lengths, in one piece and in pieces of 7; returns what was warned of."""
    long = [n for n in lengths if n > 7]
    whole = [pool.submit(complete, model, n) for n in lengths]
    pieces = [pool.submit(complete, model, n, *PIECES) for n in long]
    texts = [pool.submit(evaluate, model, lengths[-1], *a) for a in ((), PIECES)]
    oracle = Oracle(model)
    for n, job in zip(lengths, whole):
        answer, warned = job.result()
        assert len(answer["prompt_token_ids"]) == n and len(answer["token_ids"]) == 8
        rows = compare(oracle, answer)
    assert [job.result()[0] for job in pieces] == [whole[lengths.index(n)].result()[0] for n in long]
    assert oracle.near > NEAR, f"a choice of experts hangs by {oracle.near}; take another seed"
    ids = answer["prompt_token_ids"]
    wanted = -np.mean([rows[i - 1][ids[i]] for i in range(1, len(ids))])
    for job in texts:
        e = job.result()
        assert e["tokens"] == len(ids) and abs(e["mean_nll"] - wanted) < 1e-3 * wanted, (e, wanted)
    return warned


pool = ThreadPoolExecutor(2)
worst = []

with check("the reference gives the numbers that were worked out by hand"):
    x, z = np.array([0.5, -1, 2, 0.25]), np.array([1, -2, 0.5, 0])
    assert np.allclose(rms(x, 1e-6) * [1, 0.5, 2, 1.5] * silu(z), [0.3171776, 0.1034349, 1.0802427, 0])
    assert np.allclose(rms(x, 1e-6) * (1 + np.array([0, -0.5, 1, 0.25])),
                       [0.4338608, -0.4338608, 3.4708860, 0.2711630])
    assert np.allclose(conv(np.arange(1, 6.0)[:, None], np.array([[.1, .2, .3, .4]]))[:, 0],
                       [0.2394751, 0.8252861, 1.7615942, 2.8577224, 3.9280552])
    q, k = (unit(np.array(u, float))[:, None] for u in ([[3, 4], [1, 0], [0, 2]], [[1, 0], [3, 4], [1, 1]]))
    v = np.array([[1, 2], [-1, 0.5], [2, -3]], float)[:, None]
    g = np.array([-1.7105285, -1.0237851, -2.2873293])[:, None]
    beta = np.array([0.5, 0.7310586, 0.2689414])[:, None]
    assert np.allclose(delta_rule(q / np.sqrt(2), k, v, g, beta)[:, 0],
                       [[0.2121319, 0.4242638], [-0.2165800, 0.3422443], [0.2316375, -0.3977464]])
    weight, _ = choose(np.array([[1, 3, -2, 3, 0.5, 2]]), 3, True)
    assert np.allclose(weight, [[0, 0.4223188, 0, 0.4223188, 0, 0.1553624]])
    assert choose(np.zeros((1, 4)), 2, False)[0].tolist() == [[0.25, 0.25, 0, 0]]
    inv, scale = yarn(1e7 ** (-np.arange(0, 64, 2) / 64), 64, 1e7,
                      {"factor": 4.0, "original_max_position_embeddings": 262144}, 0)
    assert np.allclose(inv[[0, 14, 15, 18, 22, 31]], [1, 8.659643234e-4, 4.742398227e-4, 7.217387404e-5,
                                                      3.849816315e-6, 4.137042750e-8], rtol=1e-8)
    assert abs(scale - 1.1386294361) < 1e-9

L, A = "linear_attention", "full_attention"
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "factor": 4.0,
        "original_max_position_embeddings": 64}
NEW = {"rope_parameters": {"rope_type": "default", "rope_theta": 5e4, "partial_rotary_factor": 0.5},
       "dtype": "bfloat16"}
OLD_ROPE = ("rope_theta", "partial_rotary_factor", "rope_scaling", "torch_dtype")
MODELS = {
    "as released": ("qwen3_next", {}),
    "as many key heads as value heads": ("qwen3_next", {"linear_num_key_heads": 4}),
    "three value heads a key head": ("qwen3_next", {"linear_num_value_heads": 6}, {"dtype": "fp16"}),
    "one value head": ("qwen3_next", {"linear_num_key_heads": 1, "linear_num_value_heads": 1}),
    "narrow keys, wide values": ("qwen3_next", {"linear_key_head_dim": 16, "linear_value_head_dim": 40,
                                                "linear_num_value_heads": 6}),
    "wide keys, narrow values": ("qwen3_next", {"linear_key_head_dim": 40, "linear_value_head_dim": 8}),
    "one expert": ("qwen3_next", {"num_experts": 1, "num_experts_per_tok": 1}),
    "all experts": ("qwen3_next", {"num_experts_per_tok": 8}),
    "one expert of eight": ("qwen3_next", {"num_experts_per_tok": 1, "norm_topk_prob": False}),
    "no shared expert": ("qwen3_next", {"shared_expert_intermediate_size": 0}),
    "wide experts, odd counts": ("qwen3_next", {"num_experts": 13, "num_experts_per_tok": 5,
                                                "moe_intermediate_size": 80,
                                                "shared_expert_intermediate_size": 48}),
    "experts that tie": ("qwen3_next", {}, {"twins": True}),
    "probabilities as they are": ("qwen3_next", {"norm_topk_prob": False}),
    "dense layers by their numbers": ("qwen3_next", {"mlp_only_layers": [0, 3]}),
    "dense layers by steps": ("qwen3_next", {"decoder_sparse_step": 2}),
    "dense layers by both": ("qwen3_next", {"decoder_sparse_step": 2, "mlp_only_layers": [1]}),
    "no experts at all": ("qwen3_next", {"num_experts": 0}),
    "two attention layers in a row": ("qwen3_next", {"layer_types": [A, A, L, A]},
                                      {"drop": ("full_attention_interval",)}),
    "attention only": ("qwen3_next", {"full_attention_interval": 1, "num_hidden_layers": 3}),
    "DeltaNet only": ("qwen3_next", {"full_attention_interval": 7, "num_hidden_layers": 3}),
    "one layer": ("qwen3_next", {"num_hidden_layers": 1, "layer_types": [L]}),
    "heads of 64": ("qwen3_next", {"head_dim": 64}, {"dtype": "fp32"}),
    "heads of 256, one of them for keys": ("qwen3_next", {"head_dim": 256, "num_key_value_heads": 1,
                                                          "rope_theta": 1e7}),
    "a kernel of 2": ("qwen3_next", {"linear_conv_kernel_dim": 2}),
    "a kernel of 7": ("qwen3_next", {"linear_conv_kernel_dim": 7}),
    "gates of sigmoids": ("qwen3_next", {"output_gate_type": "sigmoid"}),
    "gates by their other name": ("qwen3_next", {"output_gate_type": "swish"}, {"dtype": "mixed"}),
    "half of the dimensions turn": ("qwen3_next", {"partial_rotary_factor": 0.5}),
    "all dimensions turn": ("qwen3_next", {"partial_rotary_factor": 1.0}),
    "biases": ("qwen3_next", {"attention_bias": True, "full_attention_interval": 2}),
    "a tied head": ("qwen3_next", {"tie_word_embeddings": True}, {"dtype": "fp16"}),
    "a large epsilon": ("qwen3_next", {"rms_norm_eps": 0.05}),
    "YaRN, spelled anew": ("qwen3_next", {**NEW, "rope_parameters": YARN}, {"drop": OLD_ROPE}),
    "YaRN, spelled as of old": ("qwen3_next", {"rope_scaling": {
        "type": "yarn", "factor": 2.5, "original_max_position_embeddings": 100, "beta_fast": 8,
        "attention_factor": 1.3}, "full_attention_interval": 2}),
    "YaRN that does not round": ("qwen3_moe", {"rope_scaling": {
        "rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 48, "beta_slow": 0.5,
        "truncate": False, "mscale": 0.7, "mscale_all_dim": 1.2}}),
    "spelled anew": ("qwen3_next", {**NEW, "layer_types": [L, A, L, A]}, {"drop": OLD_ROPE}),
    "little said": ("qwen3_next", {}, {"drop": (
        "full_attention_interval", "norm_topk_prob", "partial_rotary_factor", "rope_theta",
        "mlp_only_layers", "decoder_sparse_step", "rms_norm_eps", "attention_bias", "torch_dtype",
        "tie_word_embeddings", "shared_expert_intermediate_size", "hidden_act")}),
    "experts in one tensor": ("qwen3_next", {}, {"fused": True}),
    "a drafting layer that nobody asked for": ("qwen3_next", {}, {"more": {"mtp.fc.weight": (64, 128)}}),
    "qwen3_5": ("qwen3_5", {"linear_num_value_heads": 6}, {"nested": True}),
    "qwen3_5 with a tied head": ("qwen3_5", {"tie_word_embeddings": True}, {"nested": True}),
    "qwen3_5, text alone": ("qwen3_5", {"model_type": "qwen3_5_text"}, {"dtype": "mixed"}),
    "qwen3_5_moe": ("qwen3_5_moe", {}, {"nested": True, "fused": True, "dtype": "mixed",
                                        "more": {"model.visual.blocks.0.mlp.weight": (8, 8)}}),
    "qwen3_5_moe, one tensor an expert": ("qwen3_5_moe", {"num_experts_per_tok": 1}, {"nested": True}),
    "qwen3_5_moe that says little": ("qwen3_5_moe", {}, {"nested": True, "drop": (
        "shared_expert_intermediate_size", "attn_output_gate", "mamba_ssm_dtype", "dtype")}),
    "qwen3_moe": ("qwen3_moe", {"mlp_only_layers": [2]}),
    "qwen3_moe that says nothing of its probabilities": ("qwen3_moe", {}, {"drop": ("norm_topk_prob",)}),
    "qwen3_moe with biases": ("qwen3_moe", {"attention_bias": True}, {"fused": True}),
    "mixtral": ("mixtral", {}),
    "mixtral, one expert a token": ("mixtral", {"num_experts_per_tok": 1, "num_key_value_heads": 4},
                                    {"dtype": "fp32"}),
}
for number, (name, (kind, change, *how)) in enumerate(MODELS.items()):
    with check(name):
        path = make(f"m{number}", kind, change, seed=number + 1, **(how[0] if how else {}))
        warned = compare_all(path)
        assert warned == "", warned
        shutil.rmtree(path)

# ------------------------------------------------------------------------- prompts in pieces
plain = {kind: make(kind, kind, *more, seed=70 + i, nested=kind == "qwen3_5_moe") for i, (kind, *more) in
         enumerate((("qwen3_next",), ("qwen3_5_moe",), ("mixtral",), ("qwen3_moe", {"mlp_only_layers": [1]})))}
for kind in ("qwen3_next", "qwen3_5_moe"):
    with check(f"{kind}: a state is carried from piece to piece"):
        jobs = [pool.submit(complete, plain[kind], 130, "--max-num-seqs", "1",
                            "--max-num-batched-tokens", str(size), tokens=20)
                for size in (1, 2, 3, 63, 64, 65, 512)]
        answers = [job.result()[0] for job in jobs]
        compare(Oracle(plain[kind]), answers[-1])
        for a in answers:
            assert a == answers[-1]

with check("the fast mode, on plain weights"):
    for kind, path in plain.items():
        slow, fast = evaluate(path, 130)["mean_nll"], evaluate(path, 130, exact=False)["mean_nll"]
        assert abs(slow - fast) < 1e-3 * slow, (kind, slow, fast)


for kind in ("qwen3_next", "qwen3_5_moe"):
    with check(f"{kind}: a state of one's own in a crowd, and one that is found again"):
        ids = complete(plain[kind], 130)[0]["prompt_token_ids"]
        asked = [ids[:n] for n in (130, 97, 64, 33, 2, 71, 120, 16)] * 2 + [ids[5:90], ids]
        oracle, best = Oracle(plain[kind]), {}
        with Server(ini, plain[kind], "--cpu-exact", "--max-num-seqs", "3", "--snapshot-interval", "16",
                    "--max-num-batched-tokens", "40", "--state-snapshots", "5", "--block-size", "16",
                    "--kv-cache-memory", "8MiB", "--prefix-check", "1") as server:
            def ask(prompt):
                r = requests.post(server.url + "/v1/completions", json={
                    "prompt": prompt, "max_tokens": 12, "temperature": 0, "ignore_eos": True,
                    "return_token_ids": True})
                assert r.status_code == 200, r.text
                return r.json()["choices"][0]["token_ids"]
            with ThreadPoolExecutor(6) as crowd:
                answers = list(crowd.map(ask, asked))
            hits = [line for line in requests.get(server.url + "/metrics").text.splitlines()
                    if line.startswith("vllm:prefix_cache_hits_total")]
            assert float(hits[0].rsplit(" ", 1)[1]) > 0, hits
            checks = {}
            for _ in range(100):
                text = requests.get(server.url + "/metrics").text
                checks = {m[1]: float(m[2]) for m in
                          re.finditer(r'tenon:prefix_checks_total\{.*result="(\w+)"\} (\S+)', text)}
                if checks.get("same", 0) > 0:
                    break
                time.sleep(0.05)
            assert checks["same"] > 0 and checks["different"] == 0, (checks, server.text())
            assert server.stop() == 0
        for prompt, answer in zip(asked, answers, strict=True):
            assert best.setdefault(str(prompt), answer) == answer, (len(prompt), answer)
            rows = oracle.logits(prompt + answer)[len(prompt) - 1:-1]
            assert all(row.max() - row[token] < TIE for row, token in zip(rows, answer, strict=True))


# ------------------------------------------------------------------------------- long context
# No experts: over thousands of tokens some choice between two would hang by nothing.
STRETCHED = {"num_experts": 0, "max_position_embeddings": 1024, "rope_scaling": {
    "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}}
lines = [f"{i}: {TEXT[11 * i % 200:][:40]}\n" for i in range(170)]
LONG = os.path.join(folder, "long.txt")


def go_on(model, text, n, *args):
    with open(LONG, "w", encoding="utf-8") as f:
        f.write(text)
    r = run("complete", model, "--config", ini, "--prompt-file", LONG, "--max-tokens", str(n), "--temperature", "0",
            "--ignore-eos", "--json", "--logprobs", "5", "--cpu-exact", "--kv-cache-memory", "24MiB",
            "--max-num-seqs", "1", *args)
    assert r.returncode == 0, r.stderr
    return json.loads(r.stdout)


with check("max_model_len beyond the window is refused but with YaRN"):
    path = make("stretched", "qwen3_next", STRETCHED, seed=90)
    bare = make("bare", "qwen3_next", {**STRETCHED, "rope_scaling": None}, seed=90)
    for model, most in ((bare, 1024), (path, 4096)):
        assert go_on(model, "a", 2, "--max-model-len", str(most))["token_ids"]
        r = run("complete", model, "--config", ini, "-p", "a", "--max-model-len", str(most + 1))
        assert r.returncode == 78 and r.stdout == "", r
        assert len(r.stderr.splitlines()) == 1 and f"max_model_len: {most + 1};" in r.stderr, r.stderr
        assert f"allows at most {most} " in r.stderr and "YaRN" in r.stderr, r.stderr

with check("thousands of tokens: row after row, in chunks, in pieces"):
    text = "".join(lines)
    whole = go_on(path, text, 8)
    oracle, length = Oracle(path), len(whole["prompt_token_ids"])
    assert 3000 < length < 4000, length
    compare(oracle, whole)
    assert go_on(path, text, 8, "--max-num-batched-tokens", "100") == whole
    chunked = go_on(path, text, 8, "--delta", "chunked")
    compare(oracle, chunked)
    assert chunked["logprobs"] != whole["logprobs"]   # the option was heard

with check("thousands of tokens: saved half-way, and gone on with in another process"):
    kept = os.path.join(folder, "kept.session")
    first = go_on(path, "".join(lines[:85]), 3, "--session", kept)
    then = go_on(path, "".join(lines[85:]), 20, "--session", kept)
    assert then["cached_tokens"] >= len(first["prompt_token_ids"]), then["cached_tokens"]
    with Server(ini, path, "--cpu-exact", "--max-num-seqs", "1", "--kv-cache-memory", "24MiB") as server:
        r = requests.post(server.url + "/v1/completions", json={
            "prompt": then["prompt_token_ids"], "max_tokens": 20, "temperature": 0, "ignore_eos": True,
            "return_token_ids": True})
        assert r.status_code == 200 and server.stop() == 0, r.text
    assert r.json()["choices"][0]["token_ids"] == then["token_ids"]
    os.remove(kept)
shutil.rmtree(path)


# --------------------------------------------------------------------------- quantized files
def quantize(name, source, quant, bits, variant, *args):
    out = os.path.join(folder, name)
    r = run("quantize", source, "--quant", quant, "--bits", bits, "--group-size", "32",
            "--variant", variant, "--output", out, "--config", ini, *args)
    assert r.returncode == 0, r.stderr
    return out


def packed_modules(path):
    """Names without layer and expert numbers."""
    names = (re.fullmatch(r"(.*)\.(qweight|weight_packed)", t) for t in load(path))
    return {re.sub(r"\b\d+\b", "#", m[1].split("layers.")[1]) for m in names if m}


MIXER = {f"#.self_attn.{p}_proj" for p in "qkvo"}
SHARED = {f"#.mlp.shared_expert.{p}_proj" for p in ("gate", "up", "down")}
ROUTED = {f"#.mlp.experts.#.{p}_proj" for p in ("gate", "up", "down")}
DENSE = {f"#.mlp.{p}_proj" for p in ("gate", "up", "down")}
WANTED = {
    "qwen3_next": MIXER | SHARED | ROUTED | {"#.linear_attn.in_proj_qkvz", "#.linear_attn.out_proj"},
    "qwen3_5_moe": MIXER | SHARED | ROUTED | {
        "#.linear_attn.in_proj_qkv", "#.linear_attn.in_proj_z", "#.linear_attn.out_proj"},
    "qwen3_moe": MIXER | ROUTED | DENSE,
    "mixtral": MIXER | {f"#.block_sparse_moe.experts.#.w{i}" for i in (1, 2, 3)},
}
VARIANTS = [("qwen3_next", "awq", "4", "gemm"), ("qwen3_next", "awq", "4", "gemv"),
            ("qwen3_next", "awq", "4", "pack-quantized"),
            ("qwen3_next", "awq", "4", "pack-quantized", "--symmetric"),
            ("qwen3_next", "awq", "8", "pack-quantized"), ("qwen3_next", "gptq", "4", "gptq"),
            ("qwen3_next", "gptq", "8", "gptq"), ("qwen3_next", "gptq", "4", "gptq_v2", "--symmetric"),
            ("qwen3_5_moe", "awq", "4", "gemm"), ("qwen3_5_moe", "awq", "8", "pack-quantized"),
            ("qwen3_5_moe", "gptq", "4", "gptq"), ("mixtral", "awq", "4", "gemm"),
            ("mixtral", "awq", "4", "pack-quantized"), ("mixtral", "gptq", "8", "gptq"),
            ("qwen3_moe", "awq", "4", "pack-quantized"), ("qwen3_moe", "gptq", "4", "gptq")]
made = {}
for kind, *how in VARIANTS:
    name = "-".join([kind, *how])
    with check(f"quantized, and read back: {name}"):
        made[name] = quantize(name, plain[kind], *how)
        assert packed_modules(made[name]) == WANTED[kind], packed_modules(made[name])
        warned = compare_all(made[name], (5, 130))
        assert warned == "", warned

with check("experts that share a tensor are not quantized"):
    r = run("quantize", make("fused", "qwen3_next", fused=True), "--quant", "awq", "--output",
            os.path.join(folder, "refused"), "--config", ini)
    assert r.returncode == 64 and "experts.gate_up_proj" in r.stderr, r


def unpacked(source, name, pattern, change):
    """A copy whose modules that match `pattern` are plain, and whose quantization_config
    `change` has altered."""
    tensors = load(source)
    with open(os.path.join(source, "config.json"), encoding="utf-8") as f:
        config = json.load(f)
    shapes = {t[:-7]: v.shape for t, v in load(plain["qwen3_next"]).items() if t.endswith(".weight")}
    for module, shape in shapes.items():
        parts = [t for t in tensors if t.rsplit(".", 1)[0] == module]
        if f"{module}.weight" in tensors or not re.search(pattern, module):
            continue
        values = dequantize(tensors, module, config["quantization_config"], *shape)
        for t in parts:
            del tensors[t]
        tensors[module + ".weight"] = values
    change(config["quantization_config"])
    out = os.path.join(folder, name)
    return write_model(out, config, {t: np.ascontiguousarray(v) for t, v in tensors.items()})


NOT_EXPERTS = r"self_attn|linear_attn|shared_expert"
PLAIN = ["re:.*self_attn.*", "re:.*linear_attn.*", "re:.*mlp.gate$", "re:.*shared_expert_gate$", "lm_head"]
ROUTER = ["re:.*mlp.gate$", "re:.*shared_expert_gate$", "lm_head", "re:.*in_proj_ba$"]
PACKED, GEMM = "qwen3_next-awq-4-pack-quantized---symmetric", "qwen3_next-awq-4-gemm"
GPTQ = "qwen3_next-gptq-4-gptq"
LIES = [
    ("honest, by patterns", PACKED, NOT_EXPERTS, {"ignore": PLAIN + ["re:.*shared_expert.*"]}, 0),
    ("the shared expert is plain, the config says packed", PACKED, NOT_EXPERTS, {"ignore": PLAIN}, 1),
    ("the shared expert is packed, the config says plain", PACKED, "self_attn|linear_attn",
     {"ignore": PLAIN + ["re:.*shared_expert.*"]}, 1),
    ("both, of different modules", PACKED, "shared_expert|self_attn", {"ignore": PLAIN}, 1),
    ("nothing is said to be plain", PACKED, NOT_EXPERTS, {"ignore": []}, 1),
    ("everything is said to be plain", PACKED, NOT_EXPERTS, {"ignore": ["Linear"]}, 1),
    ("other names are said to be plain", PACKED, NOT_EXPERTS,
     {"ignore": ["model.language_model.layers.0.mlp.shared_expert.up_proj"]}, 1),
    ("AutoAWQ, packed though said to be plain", GEMM, "self_attn",
     {"modules_to_not_convert": ["mlp.gate", "shared_expert"]}, 1),
    ("AutoAWQ, honest", GEMM, NOT_EXPERTS,
     {"modules_to_not_convert": [".mlp.gate", "shared_expert", "self_attn", "linear_attn", "lm_head"]}, 0),
    ("AutoAWQ, plain though not said to be", GEMM, NOT_EXPERTS, {"modules_to_not_convert": None}, 0),
    # The flagship's release: one projection of the shared expert, where the config is silent about it.
    ("one projection of the shared expert is plain", PACKED, r"shared_expert\.down_proj", {"ignore": ROUTER}, 1),
    ("one projection of the shared expert is plain, and said to be", PACKED, r"shared_expert\.down_proj",
     {"ignore": ROUTER + ["re:.*shared_expert.down_proj$"]}, 0),
    ("the mixer's joint projection is plain", PACKED, "in_proj_qkvz", {"ignore": ROUTER}, 1),
    ("the mixer's joint projection is plain, and said to be", PACKED, "in_proj_qkvz",
     {"ignore": ROUTER + [f"model.layers.{i}.linear_attn.in_proj_qkvz" for i in range(3)]}, 0),
    ("the mixer's joint projection is packed, and said to be plain", PACKED, "self_attn",
     {"ignore": ROUTER + ["re:.*self_attn.*", "re:.*linear_attn.in_proj_qkvz$"]}, 1),
    ("joint names of what the file has in parts", PACKED, r"self_attn\.[qkv]_proj|shared_expert\.(gate|up)_proj",
     {"ignore": ROUTER + ["model.layers.3.self_attn.qkv_proj", "re:.*shared_expert.gate_up_proj$"]}, 1),
    ("names without their beginning", PACKED, "self_attn",
     {"ignore": ROUTER + [f"layers.3.self_attn.{p}_proj" for p in "qkvo"]}, 1),
    ("names with another beginning", PACKED, "self_attn",
     {"ignore": ROUTER + [f"language_model.model.layers.3.self_attn.{p}_proj" for p in "qkvo"]}, 1),
    ("names of classes", PACKED, "self_attn", {"ignore": ROUTER + ["Qwen3NextAttention", "Embedding"]}, 1),
    ("a module drafting would use, of which the file has none", PACKED, "self_attn",
     {"ignore": ROUTER + ["re:.*self_attn.*", "re:^mtp.*", "mtp.fc"]}, 0),
    ("AutoAWQ, one projection of the shared expert", GEMM, r"shared_expert\.down_proj",
     {"modules_to_not_convert": ["mlp.gate", "shared_expert_gate", "lm_head"]}, 0),
    ("AutoAWQ, joint names", GEMM, "in_proj_qkvz|self_attn",
     {"modules_to_not_convert": ["mlp.gate", "shared_expert_gate", "qkv_proj", "in_proj"]}, 0),
    ("GPTQ, one projection of the shared expert, and said to be plain", GPTQ, r"shared_expert\.down_proj",
     {"dynamic": {r"-:.*shared_expert\.down_proj": {}}}, 0),
    ("GPTQ, the mixer's joint projection is packed, and said to be plain", GPTQ, "self_attn",
     {"dynamic": {"-:.*in_proj_qkvz": {}}}, 1),
    ("GPTQ, packed though said to be plain", GPTQ, "self_attn", {"dynamic": {"-:.*shared_expert.*": {}}}, 1),
    ("GPTQ, plain though said to be packed", GPTQ, "shared_expert", {}, 1),
]
for number, (name, source, pattern, change, count) in enumerate(LIES):
    with check(f"what the config says: {name}"):
        path = unpacked(made[source], f"lie{number}", pattern, lambda q: q.update(change))
        warned = compare_all(path, (5, 130)).strip().splitlines()
        assert len(warned) == count, warned

with check("experts of a layer in two forms are refused by name"):
    for pattern, two in ((r"experts\.3\.down_proj", ("experts.0.down_proj", "experts.3.down_proj")),
                         (r"layers\.1\..*experts\.\d\.gate_proj", ("experts.0.gate_proj", "experts.0.up_proj"))):
        path = unpacked(made[PACKED], "forms", pattern, lambda q: q.update(ignore=ROUTER))
        r = run("complete", path, "--config", ini, "--prompt", "x", "--max-tokens", "1")
        assert r.returncode == 65 and "differ in form" in r.stderr and all(n in r.stderr for n in two), r
        shutil.rmtree(path)

if worst:
    print(f"greatest difference of a log-probability: {max(worst):.2g}")
if "TENON_KEEP" not in os.environ:
    shutil.rmtree(folder)
check.finish()
