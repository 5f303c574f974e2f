# SPDX-License-Identifier: Apache-2.0
"""What the Python tests share: a tiny model made on the spot, a server to talk to, and a
counter that prints the closing line."""
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.request

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# Scripts beside this one have the names of packages.
sys.path = [p for p in sys.path if os.path.abspath(p or ".") != os.path.join(TOP, "tests")]
PREFIX = os.environ.get("TENON_PREFIX_DIR", os.path.join(TOP, "prefix"))
TENON = os.path.join(PREFIX, "bin", "tenon")
PLUGINS = os.path.join(PREFIX, "lib", "tenon")

TEXT = ("The quick brown fox jumps over the lazy dog. A model answers questions, writes code and "
        "counts: 0 1 2 3 4 5 6 7 8 9. for (int i = 0; i < n; i++) { sum += x[i]; } "
        "Zürich, naïve café, 東京, Москва, 🙂🚀. ") * 8
TEMPLATE = ("{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
            "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, ensure_ascii=False, indent=1)


def make_tokenizer(folder):
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    t.train_from_iterator([TEXT], trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in special])
    t.save(os.path.join(folder, "tokenizer.json"))
    write_json(os.path.join(folder, "tokenizer_config.json"),
               {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>",
                "tokenizer_class": "PreTrainedTokenizerFast", "chat_template": TEMPLATE})
    return t


def make_model(folder, seed=1, layers=2, hidden=64, context=512, tied=True):
    """A llama of random weights: deterministic, and different enough per token that two
    prompts do not answer alike."""
    import numpy as np
    from safetensors.numpy import save_file
    os.makedirs(folder, exist_ok=True)
    vocab = make_tokenizer(folder).get_vocab_size()
    vocab += -vocab % 16
    heads, kv, dim, inter = 4, 2, hidden // 4, hidden * 2
    r = np.random.default_rng(seed)
    w = {}

    def matrix(name, n, k, gain=1.0):
        w[name + ".weight"] = (r.standard_normal((n, k)) * gain / np.sqrt(k)).astype(np.float16)

    matrix("model.embed_tokens", vocab, hidden, 4.0)
    for i in range(layers):
        p = f"model.layers.{i}."
        matrix(p + "self_attn.q_proj", heads * dim, hidden, 2.0)
        matrix(p + "self_attn.k_proj", kv * dim, hidden, 2.0)
        matrix(p + "self_attn.v_proj", kv * dim, hidden)
        matrix(p + "self_attn.o_proj", hidden, heads * dim)
        matrix(p + "mlp.gate_proj", inter, hidden)
        matrix(p + "mlp.up_proj", inter, hidden)
        matrix(p + "mlp.down_proj", hidden, inter)
        for n in ("input_layernorm", "post_attention_layernorm"):
            w[p + n + ".weight"] = np.ones(hidden, np.float16)
    w["model.norm.weight"] = np.ones(hidden, np.float16)
    if not tied:
        matrix("lm_head", vocab, hidden, 2.0)
    save_file(w, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    write_json(os.path.join(folder, "config.json"), {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv,
        "intermediate_size": inter, "vocab_size": vocab, "max_position_embeddings": context,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": tied,
        "hidden_act": "silu", "torch_dtype": "float16", "bos_token_id": 0, "eos_token_id": 2})
    write_json(os.path.join(folder, "generation_config.json"), {"eos_token_id": [2]})
    return folder


def make_hybrid(folder, seed=1, layers=4, hidden=64, context=512, mtp=False, attend=(2, 1, 32),
                states=(2, 4, 16), experts=0):
    """A Qwen3-Next of random weights: every second layer attends, the others keep a state; with
    `mtp` it brings the module that drafts. attend: query and KV heads, their size; states: key and
    value heads, their size; experts: so many in each layer, two a token, and a shared one."""
    import numpy as np
    from safetensors.numpy import save_file
    os.makedirs(folder, exist_ok=True)
    vocab = make_tokenizer(folder).get_vocab_size()
    vocab += -vocab % 16
    heads, kv, dim = attend
    inter = hidden * 2
    kh, vh, kd, vd = *states, states[2]
    r = np.random.default_rng(seed)
    w = {}

    def matrix(name, n, k, gain=1.0):
        w[name + ".weight"] = (r.standard_normal((n, k)) * gain / np.sqrt(k)).astype(np.float16)

    def vector(name, n, gain=0.1):
        w[name] = (r.standard_normal(n) * gain).astype(np.float16)

    def mlp(p):
        for e in [f"experts.{i}." for i in range(experts)] + ["shared_expert."] if experts else [""]:
            matrix(p + f"mlp.{e}gate_proj", inter, hidden)
            matrix(p + f"mlp.{e}up_proj", inter, hidden)
            matrix(p + f"mlp.{e}down_proj", hidden, inter)
        if experts:
            matrix(p + "mlp.gate", experts, hidden, 2.0)
            matrix(p + "mlp.shared_expert_gate", 1, hidden)
        for n in ("input_layernorm.weight", "post_attention_layernorm.weight"):
            vector(p + n, hidden)

    def attention(p):
        matrix(p + "self_attn.q_proj", 2 * heads * dim, hidden, 2.0)
        matrix(p + "self_attn.k_proj", kv * dim, hidden, 2.0)
        matrix(p + "self_attn.v_proj", kv * dim, hidden)
        matrix(p + "self_attn.o_proj", hidden, heads * dim)
        vector(p + "self_attn.q_norm.weight", dim)
        vector(p + "self_attn.k_norm.weight", dim)

    def delta(p):
        channels = 2 * kh * kd + vh * vd
        matrix(p + "linear_attn.in_proj_qkvz", channels + vh * vd, hidden, 2.0)
        matrix(p + "linear_attn.in_proj_ba", 2 * vh, hidden)
        w[p + "linear_attn.conv1d.weight"] = r.standard_normal((channels, 1, 4)).astype(np.float16)
        vector(p + "linear_attn.A_log", vh, 0.5)
        vector(p + "linear_attn.dt_bias", vh, 0.5)
        w[p + "linear_attn.norm.weight"] = np.ones(vd, np.float16)
        matrix(p + "linear_attn.out_proj", hidden, vh * vd)

    matrix("model.embed_tokens", vocab, hidden, 4.0)
    matrix("lm_head", vocab, hidden, 2.0)
    vector("model.norm.weight", hidden)
    for i in range(layers):
        p = f"model.layers.{i}."
        (attention if i % 2 else delta)(p)
        mlp(p)
    if mtp:
        attention("mtp.layers.0.")
        mlp("mtp.layers.0.")
        matrix("mtp.fc", hidden, 2 * hidden)
        for n in ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm"):
            vector(f"mtp.{n}.weight", hidden)
    save_file(w, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    write_json(os.path.join(folder, "config.json"), {
        "architectures": ["Qwen3NextForCausalLM"], "model_type": "qwen3_next", "hidden_size": hidden,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv,
        "head_dim": dim, "intermediate_size": inter, "vocab_size": vocab, "full_attention_interval": 2,
        "max_position_embeddings": context, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "partial_rotary_factor": 0.25, "num_experts": experts, "num_experts_per_tok": min(2, experts),
        "moe_intermediate_size": inter, "shared_expert_intermediate_size": inter if experts else 0,
        "norm_topk_prob": True, "decoder_sparse_step": 1, "linear_num_key_heads": kh,
        "linear_num_value_heads": vh, "linear_key_head_dim": kd, "linear_value_head_dim": vd,
        "linear_conv_kernel_dim": 4, "tie_word_embeddings": False, "hidden_act": "silu",
        "torch_dtype": "float16", "bos_token_id": 0, "eos_token_id": 2})
    write_json(os.path.join(folder, "generation_config.json"), {"eos_token_id": [2]})
    return folder


def make_experts(folder, seed=1, layers=2, hidden=128, width=768, nexpert=4, context=512):
    """A Qwen3 mixture of experts of random weights, whose experts are as wide as the ones of 30B."""
    import numpy as np
    from safetensors.numpy import save_file
    os.makedirs(folder, exist_ok=True)
    vocab = make_tokenizer(folder).get_vocab_size()
    vocab += -vocab % 16
    heads, kv, dim = 4, 2, 64
    r = np.random.default_rng(seed)
    w = {}

    def matrix(name, n, k, gain=1.0):
        w[name + ".weight"] = (r.standard_normal((n, k)) * gain / np.sqrt(k)).astype(np.float16)

    matrix("model.embed_tokens", vocab, hidden, 4.0)
    matrix("lm_head", vocab, hidden, 2.0)
    w["model.norm.weight"] = np.ones(hidden, np.float16)
    for i in range(layers):
        p = f"model.layers.{i}."
        matrix(p + "self_attn.q_proj", heads * dim, hidden, 2.0)
        matrix(p + "self_attn.k_proj", kv * dim, hidden, 2.0)
        matrix(p + "self_attn.v_proj", kv * dim, hidden)
        matrix(p + "self_attn.o_proj", hidden, heads * dim)
        matrix(p + "mlp.gate", nexpert, hidden, 4.0)
        for e in range(nexpert):
            matrix(p + f"mlp.experts.{e}.gate_proj", width, hidden)
            matrix(p + f"mlp.experts.{e}.up_proj", width, hidden)
            matrix(p + f"mlp.experts.{e}.down_proj", hidden, width, 4.0)
        for n in ("input_layernorm", "post_attention_layernorm"):
            w[p + n + ".weight"] = np.ones(hidden, np.float16)
        for n in ("q_norm", "k_norm"):
            w[p + "self_attn." + n + ".weight"] = np.ones(dim, np.float16)
    save_file(w, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    write_json(os.path.join(folder, "config.json"), {
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_size": hidden,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv,
        "head_dim": dim, "intermediate_size": width, "moe_intermediate_size": width,
        "num_experts": nexpert, "num_experts_per_tok": 2, "norm_topk_prob": True,
        "decoder_sparse_step": 1, "mlp_only_layers": [], "vocab_size": vocab,
        "max_position_embeddings": context, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "tie_word_embeddings": False, "hidden_act": "silu", "torch_dtype": "float16",
        "bos_token_id": 0, "eos_token_id": 2})
    write_json(os.path.join(folder, "generation_config.json"), {"eos_token_id": [2]})
    return folder


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def write_ini(path, plugins=("cpu", "awq", "gptq", "http"), http="", tail=""):
    with open(path, "w", encoding="utf-8") as f:
        f.write(f"[tenon]\nplugin_path = {PLUGINS}\n")
        for p in plugins:
            f.write(f"[plugin {p}]\n" + (http if p == "http" else ""))
        f.write(tail)
    return path


class Server:
    def __init__(self, ini, *args, wait=True, **popen):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = tempfile.NamedTemporaryFile("w+", suffix=".log")
        self.process = subprocess.Popen(
            [TENON, "serve", "--config", ini, "--port", str(self.port), *args],
            stdout=self.log, stderr=subprocess.STDOUT, **popen)
        if wait:
            self.wait_ready()

    def wait_ready(self):
        for _ in range(600):
            if self.process.poll() is not None:
                break
            try:
                urllib.request.urlopen(self.url + "/health", timeout=5).read()
                return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError("the server did not come up:\n" + self.text())

    def text(self):
        with open(self.log.name, encoding="utf-8") as f:
            return f.read()

    def stop(self, sig=signal.SIGTERM, timeout=60):
        if self.process.poll() is None:
            self.process.send_signal(sig)
        code = self.process.wait(timeout)
        return code

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if exc[0] is not None:
            print(self.text()[-4000:])


def run(*args, stdin=None, timeout=300):
    return subprocess.run([TENON, *args], input=stdin, text=True, capture_output=True,
                          timeout=timeout)


class Counter:
    """`with check("name"): assert ...` - each block is one test."""
    def __init__(self):
        self.passed = self.failed = 0
        self.name = None

    def __call__(self, name):
        self.name = name
        return self

    def __enter__(self):
        return self

    def __exit__(self, kind, value, tb):
        if kind is None:
            self.passed += 1
            return False
        if issubclass(kind, (KeyboardInterrupt, SystemExit)):
            return False
        self.failed += 1
        print(f"FAIL {self.name}")
        traceback.print_exception(kind, value, tb)
        return True

    def finish(self):
        print(f"{self.passed} passed, {self.failed} failed")
        sys.exit(1 if self.failed else 0)
