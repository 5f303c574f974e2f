# SPDX-License-Identifier: Apache-2.0
"""Models through the commands: importing, quantizing both ways, switching by one word of the
INI, the fixed forms of complete, eval and bench, and what is refused with which exit code."""
import json
import math
import os
import pathlib
import shutil
import subprocess
import tempfile

import requests

from quant_ref import bf16_bits, load, save   # before tenonlib, which forgets this folder
from bench_opening import make_wide
from tenonlib import Counter, PREFIX, Server, TENON, TOP, make_model, run, write_ini, write_json

check = Counter()
folder = tempfile.mkdtemp(prefix="tenon-models-")
plain = make_model(os.path.join(folder, "plain"))
untied = make_model(os.path.join(folder, "untied"), seed=2, tied=False)
ini = write_ini(os.path.join(folder, "t.ini"))
text = os.path.join(folder, "text.txt")
with open(text, "w", encoding="utf-8") as f:
    f.write("The quick brown fox jumps over the lazy dog. Zürich, 東京 and 🙂. " * 30)


def complete(model, *args, exact=True):
    r = run("complete", model, "--config", ini, "--prompt", "The quick brown", "--max-tokens", "24",
            "--temperature", "0", "--ignore-eos", "--json", *(["--cpu-exact"] if exact else []), *args)
    assert r.returncode == 0, r.stderr
    return json.loads(r.stdout)


def evaluate(model, *args):
    r = run("eval", model, "--config", ini, "--text", text, "--max-tokens", "300", "--json", *args)
    assert r.returncode == 0, r.stderr
    return json.loads(r.stdout)


def fails(code, *args, words=()):
    r = run(*args)
    assert r.returncode == code, (args, r.returncode, r.stderr)
    line = r.stderr.strip().splitlines()[-1]
    assert line.startswith("tenon: "), r.stderr
    for w in words:
        assert w in line, (w, line)


def edit(model, name, change):
    path = os.path.join(model, name)
    with open(path, encoding="utf-8") as f:
        value = json.load(f)
    change(value)
    write_json(path, value)


def broken(change, source=plain, name="config.json"):
    path = os.path.join(folder, "broken")
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(source, path)
    edit(path, name, change)
    return path


with check("complete: the fixed form"):
    r = complete(plain, "--logprobs", "3")
    assert sorted(r) == ["finish_reason", "logprobs", "prompt_token_ids", "text", "token_ids"]
    assert len(r["token_ids"]) == 24 == len(r["logprobs"]) and r["finish_reason"] == "length"
    for i, step in enumerate(r["logprobs"]):
        assert step["token"] == r["token_ids"][i] == step["top"][0][0]
        assert len(step["top"]) == 3 and step["logprob"] == step["top"][0][1]

with check("types that a device does not offer are refused by name"):
    ask = ("complete", plain, "--config", ini, "--prompt", "x", "--max-tokens", "2")
    for name in ("fp8", "fp8_e4m3"):
        fails(69, *ask, "--kv-cache-dtype", name, words=("a cache of type f8_e4m3 is not offered",))
    for name in ("float16", "bfloat16", "float32"):
        assert run(*ask, "--dtype", name).returncode == 0

with check("eval: the fixed form"):
    e = evaluate(plain)
    assert e["tokens"] == 300 and abs(math.exp(e["mean_nll"]) - e["perplexity"]) < 1e-3 * e["perplexity"]
    exact = evaluate(plain, "--cpu-exact")
    assert abs(exact["mean_nll"] - e["mean_nll"]) < 0.005 * exact["mean_nll"]

with check("eval in pieces is eval at once"):
    a = evaluate(plain, "--cpu-exact", "--max-num-batched-tokens", "7")
    assert a["mean_nll"] == evaluate(plain, "--cpu-exact")["mean_nll"]

with check("bench latency: the fixed form"):
    r = run("bench", "latency", plain, "--config", ini, "--input-len", "32", "--output-len", "8",
            "--batch-size", "2", "--repeat", "1", "--json")
    assert r.returncode == 0, r.stderr
    b = json.loads(r.stdout)
    for key in ("prefill_tok_s", "decode_tok_s", "ttft_s", "bytes_per_token", "bandwidth_bytes_s",
                "bandwidth_ratio"):
        assert b[key] > 0, (key, b)

with check("bench throughput"):
    r = run("bench", "throughput", plain, "--config", ini, "--input-len", "16", "--output-len", "4",
            "--num-prompts", "6", "--json")
    assert r.returncode == 0 and json.loads(r.stdout)["requests"] == 6, r.stderr

VARIANTS = [("awq", "4", "32", "gemm"), ("awq", "4", "64", "gemv"), ("awq", "4", "64", "gemv_fast"),
            ("awq", "4", "32", "pack-quantized"), ("awq", "8", "-1", "pack-quantized"),
            ("gptq", "4", "32", "gptq"), ("gptq", "4", "64", "gptq_v2"), ("gptq", "8", "32", "gptq"),
            ("gptq", "3", "32", "gptq"), ("gptq", "2", "32", "gptq_v2")]
reference = evaluate(plain, "--cpu-exact")["mean_nll"]
made = {}
for quant, bits, group, variant in VARIANTS:
    name = f"{quant}-{bits}-{variant}"
    with check(f"quantize {name}, and read it back"):
        out = os.path.join(folder, name)
        r = run("quantize", plain, "--quant", quant, "--bits", bits, "--group-size", group,
                "--variant", variant, "--output", out, "--config", ini)
        assert r.returncode == 0, r.stderr
        made[name] = out
        e = evaluate(out, "--cpu-exact")["mean_nll"]
        assert math.isfinite(e)
        if bits == "8":
            assert abs(e - reference) < 0.02 * reference, (e, reference)
        fast = evaluate(out)["mean_nll"]
        assert abs(fast - e) < 0.005 * e, (fast, e)

with check("quantize again is refused, and so is an occupied folder"):
    fails(65, "quantize", made["awq-4-gemm"], "--quant", "awq", "--output", folder + "/x", "--config", ini)
    fails(73, "quantize", plain, "--quant", "awq", "--output", made["awq-4-gemm"], "--config", ini)
    fails(73, "quantize", plain, "--quant", "awq", "--output", ini, "--config", ini)

with check("one word of the INI switches AWQ for GPTQ"):
    answers = {}
    for name in ("awq-4-gemm", "gptq-4-gptq"):
        section = f"[model default]\npath = {made[name]}\nquant = {name[:4].rstrip('-')}\n"
        with Server(write_ini(os.path.join(folder, "s.ini"), tail=section)) as s:
            r = requests.post(s.url + "/v1/completions", json={
                "prompt": "The quick brown", "max_tokens": 24, "temperature": 0, "ignore_eos": True})
            answers[name] = r.json()["choices"][0]["text"]
            assert s.stop() == 0
    for name, found in answers.items():
        assert found == complete(made[name], exact=False)["text"], name

with check("names that people bring along"):
    for name in ("awq_marlin", "compressed-tensors"):
        made_by = "awq-4-gemm" if name == "awq_marlin" else "awq-4-pack-quantized"
        r = run("complete", made[made_by], "--quantization", name, "--prompt", "x", "--max-tokens", "2",
                "--config", ini)
        assert r.returncode == 0, r.stderr

with check("a wrong pair is refused naming both"):
    fails(65, "complete", made["awq-4-gemm"], "--quant", "gptq", "--prompt", "x", "--config", ini,
          words=("gptq", "awq"))
    fails(65, "complete", made["gptq-4-gptq"], "--quant", "awq", "--prompt", "x", "--config", ini,
          words=("gptq", "awq"))
    fails(65, "complete", plain, "--quant", "awq", "--prompt", "x", "--config", ini, words=("awq",))
    fails(78, "complete", plain, "--tensor-parallel-size", "2", "--prompt", "x", "--config", ini,
          words=("tensor_parallel_size: 2", "communicator"))
    fails(78, "complete", plain, "--quant", "nope", "--prompt", "x", "--config", ini, words=("nope",))

with check("two models behind one port"):
    tail = f"[model a]\npath = {made['awq-4-gemm']}\n[model g]\npath = {made['gptq-4-gptq']}\n"
    with Server(write_ini(os.path.join(folder, "two.ini"), tail=tail)) as s:
        names = [m["id"] for m in requests.get(s.url + "/v1/models").json()["data"]]
        assert names == ["a", "g"], names
        for n, d in (("a", "awq-4-gemm"), ("g", "gptq-4-gptq")):
            r = requests.post(s.url + "/v1/completions", json={
                "model": n, "prompt": "The quick brown", "max_tokens": 24, "temperature": 0,
                "ignore_eos": True})
            assert r.json()["choices"][0]["text"] == complete(made[d], exact=False)["text"]

with check("a stranger's 4-bit format in one screen of C serves a model"):
    import numpy as np
    from safetensors.numpy import load_file, save_file
    so = os.path.join(folder, "tiny4.so")
    subprocess.run(["cc", "-shared", "-fPIC", "-fvisibility=hidden", "-I", os.path.join(PREFIX, "include"),
                    os.path.join(TOP, "plugins/skeleton/tiny4.c"), "-o", so], check=True)
    own = os.path.join(folder, "tiny4")
    shutil.copytree(plain, own)
    rounded = os.path.join(folder, "rounded")
    shutil.copytree(plain, rounded)
    full, packed, plain_again = load_file(plain + "/model.safetensors"), {}, {}
    for name, w in full.items():
        plain_again[name] = packed[name] = w
        if "_proj" in name:
            w = w.astype(np.float32)
            step = np.maximum(np.abs(w).reshape(w.shape[0], -1, 32).max(2) / 7, 1e-8).astype(np.float16)
            step = step.astype(np.float32)
            code = np.clip(np.rint(w / np.repeat(step, 32, 1)) + 8, 0, 15).astype(np.uint8)
            del packed[name]
            packed[name[:-6] + "q4"] = code[:, 0::2] | code[:, 1::2] << 4
            packed[name[:-6] + "step"] = step
            plain_again[name] = ((code.astype(np.float32) - 8) * np.repeat(step, 32, 1)).astype(np.float32)
    save_file(packed, own + "/model.safetensors")
    save_file(plain_again, rounded + "/model.safetensors")
    edit(own, "config.json", lambda c: c.update(quantization_config={"quant_method": "tiny4"}))
    with open(ini, encoding="utf-8") as f:
        both = os.path.join(folder, "tiny4.ini")
        with open(both, "w", encoding="utf-8") as g:
            g.write(f.read() + f"[plugin tiny4]\nfile = {so}\n")
    r = run("complete", own, "--config", both, "--prompt", "The quick brown", "--max-tokens", "24",
            "--temperature", "0", "--ignore-eos", "--json", "--cpu-exact")
    assert r.returncode == 0, r.stderr
    assert json.loads(r.stdout)["token_ids"] == complete(rounded)["token_ids"]
    assert run("plugin", "check", so).returncode == 0

with check("greedy with and without prefix reuse"):
    with Server(ini, plain) as a, Server(ini, plain, "--no-prefix-caching") as b:
        prompt = "The quick brown fox jumps over the lazy dog. " * 6
        for tail in ("one", "two", "one"):
            body = {"prompt": prompt + tail, "max_tokens": 20, "temperature": 0, "ignore_eos": True}
            x, y = (requests.post(s.url + "/v1/completions", json=body).json()["choices"][0]["text"]
                    for s in (a, b))
            assert x == y
        hits = [l for l in requests.get(a.url + "/metrics").text.splitlines()
                if l.startswith("vllm:prefix_cache_hits_total")]
        assert float(hits[0].rsplit(" ", 1)[1]) > 0, hits

with check("head = int8"):
    e = evaluate(untied, "--cpu-exact")["mean_nll"]
    assert abs(evaluate(untied, "--head", "int8")["mean_nll"] - e) < 0.01 * e

with check("print-config, print-recipe, print-tensors, check"):
    r = run("serve", plain, "--config", ini, "--max-model-len", "128", "--print-config")
    assert r.returncode == 0, r.stderr
    line = [l for l in r.stdout.splitlines() if l.startswith("max_model_len")][0]
    assert "128" in line and "--max-model-len" in line, line
    again = os.path.join(folder, "again.ini")
    with open(again, "w", encoding="utf-8") as f:
        f.write(r.stdout)
    assert run("serve", "--config", again, "--check").returncode == 0
    r = run("serve", plain, "--config", ini, "--print-recipe")
    assert "LINEAR" in r.stdout and "mixer_out  PICK" in r.stdout, r.stdout
    r = run("serve", made["gptq-4-gptq"], "--config", ini, "--print-tensors")
    assert "w4g/32" in r.stdout and "gptq" in r.stdout and "core" in r.stdout

with check("a config.json that names no dtype: the weights' own is taken, and said"):
    w = load(plain)
    kinds = {"F16": ("f16", w), "F32": ("f32", {k: v.astype("float32") for k, v in w.items()}),
             "BF16": ("bf16", {k: ("bf16", bf16_bits(v.astype("float32"))) for k, v in w.items()})}
    kinds["BF16, norms in F32"] = ("bf16", {k: v if v[1].ndim > 1 else w[k].astype("float32")
                                             for k, v in kinds["BF16"][1].items()})
    for kind, (short, tensors) in kinds.items():
        for value in ({}, {"torch_dtype": None}, {"dtype": None}):
            p = broken(lambda c: (c.pop("torch_dtype"), c.update(value)))
            save(pathlib.Path(p, "made"), tensors, {})
            os.replace(p + "/made/model.safetensors", p + "/model.safetensors")
            shutil.rmtree(p + "/made")
            r = run("serve", p, "--config", ini, "--print-recipe")
            assert r.returncode == 0 and f" buffer h          [tokens, 64] {short}\n" in r.stdout, (kind, r)
        with Server(ini, p) as s:
            assert f"names no dtype: taken to be {kind.split(',')[0]}, as most" in s.text(), s.text()
            assert s.stop() == 0
    p = broken(lambda c: c.update(torch_dtype="bfloat16"))  # what the config names stays
    r = run("serve", p, "--config", ini, "--print-recipe")
    assert " buffer h          [tokens, 64] bf16\n" in r.stdout, r

with check("INI and command line: exit codes and nearest names"):
    def conf(body):
        p = os.path.join(folder, "bad.ini")
        with open(p, "w", encoding="utf-8") as f:
            f.write(body)
        return p
    fails(66, "serve", plain, "--config", folder + "/absent.ini")
    fails(78, "serve", "--check", "--config", conf("[tenom]\n"), words=("bad.ini:1", "tenon"))
    fails(78, "serve", "--check", "--config", conf("[model a]\npth = /x\n"), words=("bad.ini:2", "path"))
    fails(78, "serve", "--check", "--config", conf("[model a]\nmax_num_seqs = 0\n"), words=("bad.ini:2",))
    with open(ini, encoding="utf-8") as f:
        good = f.read()
    fails(78, "serve", "--check", "--config", conf(good.replace("[plugin http]\n", "[plugin http]\nprot = 1\n")),
          words=("port",))
    fails(64, "serve", plain, "--config", ini, "--prot", "1", words=("port",))
    fails(64, "complete", plain, "--config", ini)
    fails(64, "complet", words=("complete",))
    fails(66, "complete", folder + "/absent", "--config", ini, "--prompt", "x")
    assert run("--version").stdout.startswith("tenon ")

with check("config.json: refused by name, exit 65"):
    for change, word in [
            (lambda c: c.update(architectures=["GPT2LMHeadModel"]), "LlamaForCausalLM"),  # C02
            (lambda c: c.update(architectures=[]), "architectures"),
            (lambda c: c.update(hidden_size=2 ** 24, intermediate_size=2 ** 24, head_dim=4096,  # C04
                                num_attention_heads=65536, num_hidden_layers=1024), "embed_tokens"),
            (lambda c: c.update(rope_theta=math.nan), "config.json:"),  # C05
            (lambda c: c.update(rope_scaling=[]), "rope_scaling"),
            (lambda c: c.update(max_position_embeddings=0), "max_position_embeddings"),  # C06
            (lambda c: c.update(max_position_embeddings=10 ** 12), "max_position_embeddings"),
            (lambda c: c.update(rms_norm_eps=math.nan), "config.json:"),  # C08
            (lambda c: c.update(tie_word_embeddings=False), "lm_head.weight"),  # C10
            (lambda c: c.update(model_type="a\nb\x1b[1m"), "a?b?[1m"),
            (lambda c: c.update(model_type="gpt9"), "model_type"),
            (lambda c: c.update(hidden_size=2 ** 62), "hidden_size"),
            (lambda c: c.update(rope_theta=0), "rope_theta"),
            (lambda c: c.update(rms_norm_eps=-1), "rms_norm_eps"),
            (lambda c: c.update(eos_token_id=10 ** 6), "eos_token_id"),
            (lambda c: c.update(num_hidden_layers=3), "model.layers.2"),
            (lambda c: c.update(intermediate_size=64), "gate_proj"),
            (lambda c: c.update(rope_scaling={"rope_type": "odd", "factor": 2}), "odd")]:
        fails(65, "complete", broken(change), "--config", ini, "--prompt", "x", words=(word,))

with check("C01: config.json missing, empty, a list, a folder, unreadable"):
    p = broken(lambda c: None)
    os.remove(p + "/config.json")
    fails(66, "complete", p, "--config", ini, "--prompt", "x", words=("config.json",))
    for found in ("", "[]", "{", '{"model_type": "llama", "model_type": "llama"}'):  # C14
        with open(p + "/config.json", "w", encoding="utf-8") as f:
            f.write(found)
        fails(65, "complete", p, "--config", ini, "--prompt", "x", words=("config.json:",))
    os.remove(p + "/config.json")
    os.mkdir(p + "/config.json")
    fails(65, "complete", p, "--config", ini, "--prompt", "x", words=("config.json", "a folder"))

with check("§1.1: what may not be read is exit 77"):
    for name in ("config.json", "model.safetensors", "tokenizer.json", "generation_config.json"):
        p = broken(lambda c: None)
        os.chmod(folder, 0o755)
        os.chmod(p + "/" + name, 0)
        r = subprocess.run([TENON, "complete", p, "--config", ini, "--prompt", "x"], text=True,
                           capture_output=True, user=65534 if os.getuid() == 0 else None)
        assert r.returncode == 77 and name in r.stderr, (name, r)

with check("C06: a context that does not fit shows what the memory went to"):
    p = broken(lambda c: c.update(max_position_embeddings=2 ** 27))
    small = ("--config", ini, "--prompt", "x", "--max-tokens", "2", "--kv-cache-memory", "1M")
    for more in ((), ("--max-num-seqs", "1024")):
        r = run("complete", p, *small, *more)
        assert r.returncode == 0 and "cut from 134217728 to" in r.stderr, r
        assert "weights" in r.stderr and "blocks of" in r.stderr, r.stderr
    fails(69, "complete", p, *small, "--max-model-len", "1000000", words=("max_model_len", "weights", "blocks of"))

with check("C10, C13: a head beside tied embeddings and fields of other models are passed over"):
    want = complete(plain)["token_ids"]
    p = broken(lambda c: c.update(tie_word_embeddings=True), source=untied)
    assert complete(p)["token_ids"] != complete(untied)["token_ids"]
    p = broken(lambda c: c.update(num_experts=8, num_local_experts="x", moe_intermediate_size=-1))
    assert complete(p)["token_ids"] == want

with check("C12: generation_config.json, exit 65; the override is the INI's, exit 78"):
    for value in (math.nan, -1, "hot"):
        p = broken(lambda c: c.update(temperature=value), name="generation_config.json")
        fails(65, "complete", p, "--config", ini, "--prompt", "x", words=("generation_config.json",))
    fails(78, "complete", plain, "--config", ini, "--prompt", "x", "--override-generation-config",
          '{"temperature": NaN}', words=("override_generation_config",))

with check("quantization_config: refused by name, exit 65"):
    gptq, awq = made["gptq-4-gptq"], made["awq-4-gemm"]

    def q(source, **kw):
        def change(c):
            c["quantization_config"].update(kw)
        path = broken(change, source)
        if os.path.exists(path + "/quantize_config.json"):
            os.remove(path + "/quantize_config.json")
        return path
    for source, word in ((awq, "qweight"), (gptq, "qweight"), (made["awq-4-pack-quantized"], "weight_packed")):
        p = broken(lambda c: c.pop("quantization_config"), source)
        for name in ("quantize_config.json", "quant_config.json"):
            if os.path.exists(p + "/" + name):
                os.remove(p + "/" + name)
        fails(65, "complete", p, "--config", ini, "--prompt", "x", words=(word, "expected a quantization_config"))
    for source, change, words in [
            (gptq, {"quant_method": "odd"}, ("odd", "; awq: ", "; gptq: ")),  # Q01 (gptq, {"bits": 5}, ("bits",)),
            (gptq, {"bits": "4"}, ("bits",)), (awq, {"bits": 3}, ("bits",)),
            (awq, {"version": "odd"}, ("version",)), (awq, {"quant_method": "gptq"}, ("gptq",)),
            (gptq, {"quant_method": "awq"}, ("awq",))]:
        fails(65, "complete", q(source, **change), "--config", ini, "--prompt", "x", words=words)

def rewritten(change, source=plain):
    """A copy whose tensors went through change(tensors)."""
    path = broken(lambda c: None, source)
    tensors = load_file(path + "/model.safetensors")
    change(tensors)
    save_file(tensors, path + "/model.safetensors")
    return path

with check("W18: an index with a wrong total_size, refused unless lax_index"):
    p = broken(lambda c: None)
    names = list(load_file(p + "/model.safetensors"))
    write_json(p + "/model.safetensors.index.json",
               {"metadata": {"total_size": 7}, "weight_map": {n: "model.safetensors" for n in names}})
    fails(65, "complete", p, "--config", ini, "--prompt", "x", words=("total_size is 7", "lax_index"))
    r = run("complete", p, "--config", ini, "--prompt", "The quick brown", "--max-tokens", "24",
            "--temperature", "0", "--ignore-eos", "--json", "--cpu-exact", "--lax-index")
    assert r.returncode == 0 and "total_size 7" in r.stderr, r.stderr
    assert json.loads(r.stdout)["token_ids"] == complete(plain)["token_ids"]
    r = run("quantize", p, "--quant", "awq", "--group-size", "32", "--output", folder + "/lax", "--config", ini)
    assert r.returncode == 0, r.stderr
    os.remove(p + "/model.safetensors")
    fails(66, "complete", p, "--config", ini, "--prompt", "x", words=("model.safetensors", "does not exist"))

with check("W20: weights that are NaN load and are counted; strict_weights refuses"):
    def spoil(t):
        t["model.layers.0.mlp.up_proj.weight"][3, :2] = np.nan
        t["model.norm.weight"][5] = np.inf
    p = rewritten(spoil)
    args = ("complete", p, "--config", ini, "--prompt", "x", "--max-tokens", "1")
    r = run(*args)
    assert "3 values of its weights are NaN or infinite" in r.stderr, r
    fails(65, *args, "--strict-weights", words=("up_proj", "2 values", "strict_weights"))
    for quant in ("awq", "gptq"):
        fails(65, "quantize", p, "--quant", quant, "--group-size", "32", "--output", folder + "/odd-" + quant,
              "--config", ini, words=("up_proj", "not finite"))
    assert "NaN" not in run("complete", plain, "--config", ini, "--prompt", "x", "--max-tokens", "1",
                            "--strict-weights").stderr

with check("M13: chat_template as a file: absent 66, no file or too long 65, never waited for"):
    pipe, large = os.path.join(folder, "pipe"), os.path.join(folder, "large.jinja")
    os.mkfifo(pipe)
    with open(large, "w", encoding="utf-8") as f:
        f.write("x" * (1048576 + 1))
    for given, code, word in ((pipe, 65, "a FIFO"), (folder, 65, "a folder"), ("/dev/zero", 65, "a device"),
                              (large, 65, "1048577 bytes"), (folder + "/absent", 66, "absent"),
                              ("{{ x|nope }}", 65, "1:6: no filter")):
        fails(code, "complete", plain, "--config", ini, "--prompt", "x", "--chat-template", given, words=(word,))
    p = broken(lambda c: None)
    os.mkfifo(p + "/vocab.json")  # one of the files that quantize copies
    fails(65, "quantize", p, "--quant", "awq", "--group-size", "32", "--output", folder + "/copied",
          "--config", ini, words=("vocab.json", "a FIFO"))

with check("K01, C01: what is no file is told apart and never waited for, exit 65"):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json",
                 "model.safetensors", "chat_template.jinja", "special_tokens_map.json", "quantize_config.json"):
        for make, word in ((os.mkfifo, "a FIFO"), (os.mkdir, "a folder"),
                           (lambda to: os.symlink("/dev/zero", to), name)):
            p = broken(lambda c: None)
            if os.path.exists(p + "/" + name):
                os.remove(p + "/" + name)
            make(p + "/" + name)
            fails(65, "complete", p, "--config", ini, "--prompt", "x", words=(name, word))

with check("M01: two templates of one name, exit 65"):
    p = broken(lambda c: c.update(chat_template=[{"name": "default", "template": t} for t in "ab"]),
               name="tokenizer_config.json")
    fails(65, "complete", p, "--config", ini, "--prompt", "x", words=("two templates",))

with check("M01: no template: completions work, the chat route gives 400 template_error"):
    p = broken(lambda c: c.pop("chat_template"), name="tokenizer_config.json")
    with Server(ini, p) as s:
        body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
        r = requests.post(s.url + "/v1/chat/completions", json=body)
        assert (r.status_code, r.json()["error"]["code"]) == (400, "template_error"), r.text
        r = requests.post(s.url + "/v1/completions", json={"prompt": "x", "max_tokens": 2})
        assert r.status_code == 200, r.text

with check("M04, M09, M17: a template that fails is the request's 400, and the next is served"):
    for source in ("{% set n = namespace(x='x') %}{% for i in range(40) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
                   "{{ 'a' * 10**9 }}", "{{ 1 / 0 }}", "{% if false %}x{% endif %}",
                   "{{ messages.append(1) }}"):
        p = broken(lambda c: c.update(chat_template="{% if x %}" + source + "{% else %}ok{% endif %}"),
                   name="tokenizer_config.json")
        with Server(ini, p) as s:
            body = {"messages": [{"role": "user", "content": "{{ 7*7 }}"}], "max_tokens": 2}
            r = requests.post(s.url + "/v1/chat/completions", json={**body, "chat_template_kwargs": {"x": 1}})
            assert (r.status_code, r.json()["error"]["code"]) == (400, "template_error"), (source, r.text)
            r = requests.post(s.url + "/v1/chat/completions", json=body)
            assert r.status_code == 200, r.text

with check("K17: ids outside the vocabulary, 400"):
    with Server(ini, plain) as s:
        with open(plain + "/tokenizer.json", encoding="utf-8") as f:
            size = len(json.load(f)["model"]["vocab"])
        assert size < 400  # the rest of the embedding is padding
        for bad in (-1, size, 400, 2 ** 31, 2 ** 63, 1.5, "1"):
            r = requests.post(s.url + "/detokenize", json={"tokens": [1, bad]})
            assert r.status_code == 400, (bad, r.status_code, r.text)
            r = requests.post(s.url + "/v1/completions", json={
                "prompt": [1, bad], "max_tokens": 1, "echo": True, "logprobs": 2})
            assert r.status_code == 400, (bad, r.status_code, r.text)
        r = requests.post(s.url + "/detokenize", json={"tokens": list(range(size))})
        assert r.status_code == 200, r.text

with check("tokenizer and weights: refused, exit 65 or 66"):
    p = broken(lambda c: None)
    os.remove(p + "/tokenizer.json")
    fails(66, "complete", p, "--config", ini, "--prompt", "x", words=("tokenizer.json",))
    p = broken(lambda c: c["model"].update(type="Odd"), name="tokenizer.json")
    fails(65, "complete", p, "--config", ini, "--prompt", "x", words=("Odd",))
    p = broken(lambda c: None)
    size = os.path.getsize(p + "/model.safetensors")
    os.truncate(p + "/model.safetensors", size - 100)
    fails(65, "complete", p, "--config", ini, "--prompt", "x", words=("model.safetensors",))
    with open(p + "/model.safetensors", "w", encoding="utf-8") as f:
        f.write("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    fails(65, "complete", p, "--config", ini, "--prompt", "x", words=("LFS",))

with check("C17: links out of the folder: refused unless allowed"):
    for name in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"):
        p = broken(lambda c: None)
        outside = os.path.join(folder, "blob")
        os.replace(p + "/" + name, outside)
        os.symlink(outside, p + "/" + name)
        fails(65, "complete", p, "--config", ini, "--prompt", "x", words=("link", name))
        r = run("complete", p, "--config", ini, "--prompt", "x", "--max-tokens", "2", "--allow-links")
        assert r.returncode == 0, r.stderr

with check("a checkpoint of many tensors, each rule about one layer: none is matched in vain"):
    wide = os.path.join(folder, "wide")
    assert make_wide(wide, 48, 96, 10) == 48 * 97 * 9 + 519

    def tell(*rules):
        edit(wide, "config.json", lambda c: c["quantization_config"].update(ignore=list(rules)))
        r = run("serve", wide, "--config", ini, "--print-tensors")
        assert r.returncode == 0, r.stderr
        assert r.stderr == "", r.stderr
        rows = [line.split() for line in r.stdout.splitlines()]
        assert sum(row[1] == "w4g/32" for row in rows) == 48 * 5
        assert sum(int(row[-2]) for row in rows[1:]) == size
        return r.stdout

    with open(os.path.join(wide, "model.safetensors.index.json"), encoding="utf-8") as f:
        size = json.load(f)["metadata"]["total_size"]
    others = r"re:.*(self_attn|linear_attn|mlp\.gate|shared_expert_gate).*"
    assert tell("lm_head", others) == tell("lm_head", others, *(
        rf"re:model\.layers\.{i}\.mlp\.experts\.{e}\.none$" for i in range(48) for e in range(80)))
    shutil.rmtree(wide)

with check("the port is taken: exit 69, names the address"):
    with Server(ini, plain) as s:
        fails(69, "serve", plain, "--config", ini, "--port", str(s.port), words=(str(s.port),))

with check("chat reads lines from a pipe"):
    r = run("chat", plain, "--config", ini, "--max-tokens", "4", "--temperature", "0", stdin="Hello\n/reset\nHi\n")
    assert r.returncode == 0 and r.stdout.count("\n") >= 2, r

with check("a closed pipe is an error, not a death by signal"):
    p = subprocess.Popen([TENON, "--help"], stdout=subprocess.PIPE)
    p.stdout.close()
    assert p.wait() >= 0

shutil.rmtree(folder)
check.finish()
