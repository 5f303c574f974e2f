#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""gguf_ref.py - `tenon import` against the Python packages gguf, safetensors and tokenizers.

    gguf_ref.py [--command "./tenon import {gguf} {dir} --plain {dtype}"] [--types Q4_K,...]

For every tensor type and every output type a model of random blocks is written with gguf,
imported, and each tensor compared bit for bit with gguf's own dequantization, put in order and
narrowed with numpy. Then two vocabularies are imported and tokenizers must load them and give
the ids that a tokenizer built directly gives. Without the packages: exit 77, a skipped test."""
import argparse
import json
import pathlib
import shlex
import subprocess
import sys
import tempfile

# A script beside this one may have the name of a package.
HERE = str(pathlib.Path(__file__).resolve().parent)
sys.path = [p for p in sys.path if str(pathlib.Path(p or ".").resolve()) != HERE]

try:
    import gguf
    import numpy as np
    import safetensors
    import tokenizers
except ImportError as e:
    print(f"skipped: {e}")
    sys.exit(77)

TYPES = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]
SCALES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q4_K": [0, 2],
          "Q5_K": [0, 2], "Q6_K": [208]}  # where a block holds halves
LAYERS, HIDDEN, INTER, HEADS, KV, HEAD = 2, 512, 768, 8, 2, 64


def random_blocks(rng, name, rows, cols):
    """Rows of blocks whose values are finite and fit a half."""
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    if name == "F32":
        return (rng.standard_normal((rows, cols)) * 3).astype(np.float32).view(np.uint8)
    if name == "F16":
        return (rng.standard_normal((rows, cols)) * 3).astype(np.float16).view(np.uint8)
    if name == "BF16":
        return ((rng.standard_normal((rows, cols)) * 3).astype(np.float32).view(np.uint32) >> 16
                ).astype(np.uint16).view(np.uint8)
    b = rng.integers(0, 256, (rows, cols // block, size), dtype=np.uint8)
    for at in SCALES[name]:
        scale = (rng.standard_normal((rows, cols // block)) * 0.01).astype(np.float16)
        b[:, :, at:at + 2] = scale[:, :, None].view(np.uint8)
    return b.reshape(rows, -1)


def narrow(w, dtype):
    """The bits of w as the type, rounded to nearest even."""
    if dtype == "float32":
        return w.astype(np.float32).view(np.uint32)
    if dtype == "float16":
        return w.astype(np.float16).view(np.uint16)
    u = w.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((u + 0x7fff + (u >> 16 & 1)) >> 16).astype(np.uint16)


def in_order(w, heads):
    return w.reshape(heads, w.shape[0] // heads // 2, 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def read_safetensors(path):
    """name -> (dtype, bits), from the file itself: numpy has no bf16."""
    data = pathlib.Path(path).read_bytes()
    n = int.from_bytes(data[:8], "little")
    assert n % 8 == 0, "header not a multiple of 8"
    head = json.loads(data[8:8 + n])
    assert head.pop("__metadata__") == {"format": "pt"}
    out = {}
    for name, t in head.items():
        a, b = t["data_offsets"]
        kind = np.uint32 if t["dtype"] == "F32" else np.uint16
        out[name] = (t["dtype"], np.frombuffer(data[8 + n + a:8 + n + b], kind).reshape(t["shape"]))
    return out


def write_vocab(w, tokens, types, merges):
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("qwen2")
    w.add_token_list(tokens)
    w.add_token_types(types)
    w.add_token_merges(merges)
    w.add_eos_token_id(0)


def tensors_of(arch):
    yield "token_embd.weight", "model.embed_tokens.weight", 64, HIDDEN, 0
    for i in range(LAYERS):
        b, m = f"blk.{i}.", f"model.layers.{i}."
        swap = (HEADS, KV) if arch == "llama" else (0, 0)
        yield b + "attn_norm.weight", m + "input_layernorm.weight", 0, HIDDEN, 0
        yield b + "attn_q.weight", m + "self_attn.q_proj.weight", HEADS * HEAD, HIDDEN, swap[0]
        yield b + "attn_k.weight", m + "self_attn.k_proj.weight", KV * HEAD, HIDDEN, swap[1]
        yield b + "attn_v.weight", m + "self_attn.v_proj.weight", KV * HEAD, HIDDEN, 0
        yield b + "attn_output.weight", m + "self_attn.o_proj.weight", HIDDEN, HEADS * HEAD, 0
        yield b + "ffn_norm.weight", m + "post_attention_layernorm.weight", 0, HIDDEN, 0
        yield b + "ffn_gate.weight", m + "mlp.gate_proj.weight", INTER, HIDDEN, 0
        yield b + "ffn_up.weight", m + "mlp.up_proj.weight", INTER, HIDDEN, 0
        yield b + "ffn_down.weight", m + "mlp.down_proj.weight", HIDDEN, INTER, 0
        if arch == "qwen2":
            for p, n in (("q", HEADS), ("k", KV), ("v", KV)):
                yield f"{b}attn_{p}.bias", f"{m}self_attn.{p}_proj.bias", 0, n * HEAD, 0
    yield "output_norm.weight", "model.norm.weight", 0, HIDDEN, 0
    yield "output.weight", "lm_head.weight", 64, HIDDEN, 0


def write_model(path, arch, name, rng):
    w = gguf.GGUFWriter(str(path), arch)
    w.add_block_count(LAYERS)
    w.add_context_length(256)
    w.add_embedding_length(HIDDEN)
    w.add_feed_forward_length(INTER)
    w.add_head_count(HEADS)
    w.add_head_count_kv(KV)
    w.add_layer_norm_rms_eps(1e-6)
    write_vocab(w, ["<e>", "a", "b", "ab"], [3, 1, 1, 1], ["a b"])
    want = {}
    for from_name, to_name, rows, cols, heads in tensors_of(arch):
        kind = name if rows else "F32"
        q = gguf.GGMLQuantizationType[kind]
        raw = random_blocks(rng, kind, max(rows, 1), cols)
        if kind == "F32":
            raw = raw.view(np.float32)
        elif kind == "F16":
            raw = raw.view(np.float16)
        v = gguf.dequantize(raw, q).astype(np.float32)
        if not rows:
            raw, v = raw[0], v[0]
        w.add_tensor(from_name, raw, raw_dtype=q)
        want[to_name] = in_order(v, heads) if heads else v
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return want


def run(command, **names):
    line = [part.format(**names) for part in shlex.split(command)]
    r = subprocess.run(line, capture_output=True, text=True)
    if r.returncode != 0:
        sys.exit(f"{' '.join(line)}: exit {r.returncode}: {r.stderr.strip()}")


def check_types(command, types, tmp):
    rng = np.random.default_rng(7)
    for name in types:
        arch = "qwen2" if name in ("Q5_0", "Q6_K") else "llama"
        model = tmp / f"{name}.gguf"
        want = write_model(model, arch, name, rng)
        for dtype, short in (("float16", "F16"), ("bfloat16", "BF16"), ("float32", "F32")):
            out = tmp / f"{name}-{dtype}"
            run(command, gguf=model, dir=out, dtype=dtype)
            got = read_safetensors(out / "model.safetensors")
            assert sorted(got) == sorted(want), (name, set(got) ^ set(want))
            for key, v in want.items():
                kind, bits = got[key]
                assert kind == short and bits.shape == v.shape, (name, key, kind, bits.shape)
                assert np.array_equal(bits, narrow(v, dtype)), f"{name} {dtype} {key}: bits differ"
            if dtype != "bfloat16":
                with safetensors.safe_open(str(out / "model.safetensors"), "np") as f:
                    for key in want:  # the package reads the same
                        kind = np.uint32 if dtype == "float32" else np.uint16
                        assert np.array_equal(f.get_tensor(key).view(kind), got[key][1])
        print(f"{name}: {len(want)} tensors equal in three types")


def byte_letters():
    """The letters that stand for bytes in byte-level vocabularies."""
    plain = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    letters, n = {b: chr(b) for b in plain}, 0
    for b in range(256):
        if b not in letters:
            letters[b] = chr(256 + n)
            n += 1
    return [letters[b] for b in range(256)]


def check_byte_level(command, tmp):
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
    from tokenizers import pre_tokenizers as pre
    merges = ["\u0120 t", "h e", "\u0120t he", "1 2", "i n", "\u00c3 \u00a9"]
    tokens = byte_letters() + [m.replace(" ", "") for m in merges] + ["<|end|>", "<tool>"]
    types = [1] * (len(tokens) - 2) + [3, 4]
    path, out = tmp / "bpe.gguf", tmp / "bpe"
    vocab_model(path, lambda w: write_vocab(w, tokens, types, merges), len(tokens))
    run(command, gguf=path, dir=out, dtype="float16")
    t = Tokenizer(models.BPE(vocab={x: i for i, x in enumerate(tokens)},
                             merges=[tuple(m.split(" ")) for m in merges]))
    cut = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
           r"|\s*[\r\n]+|\s+(?!\S)|\s+")
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre.Sequence([pre.Split(Regex(cut), "isolated"),
                                    pre.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens([AddedToken("<|end|>", normalized=False, special=True)])
    t.add_tokens([AddedToken("<tool>", normalized=False)])
    same_ids(Tokenizer.from_file(str(out / "tokenizer.json")), t, "byte-level")


def check_sentencepiece(command, tmp):
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
    pieces = [("\u2581", -9.), ("a", -10.), ("b", -11.), ("t", -12.), ("h", -13.), ("e", -14.),
              ("th", -1.), ("the", -2.), ("\u2581the", -3.), ("\u2581t", -4.), ("he", -5.)]
    head = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    tokens = head + [p for p, _ in pieces] + ["[X]"]
    scores = [0.] * len(head) + [s for _, s in pieces] + [-1000.]
    types = [2, 3, 3] + [6] * 256 + [1] * len(pieces) + [4]

    def write(w):
        w.add_tokenizer_model("llama")
        w.add_token_list(tokens)
        w.add_token_scores(scores)
        w.add_token_types(types)
        w.add_bos_token_id(1)
        w.add_eos_token_id(2)
        w.add_unk_token_id(0)
    path, out = tmp / "spm.gguf", tmp / "spm"
    vocab_model(path, write, len(tokens))
    run(command, gguf=path, dir=out, dtype="float16")
    ids = {x: i for i, x in enumerate(tokens)}
    merges = []
    for p, s in pieces:
        cuts = sorted(((p[:i], p[i:]) for i in range(1, len(p)) if p[:i] in ids and p[i:] in ids),
                      key=lambda c: (ids[c[0]], ids[c[1]]))
        merges += [(l, r, s) for l, r in cuts]
    merges.sort(key=lambda m: (m[2], len(m[0]), len(m[1])), reverse=True)
    t = Tokenizer(models.BPE(vocab=ids, merges=[m[:2] for m in merges], unk_token="<unk>",
                             fuse_unk=True, byte_fallback=True))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"),
                                         normalizers.Replace(" ", "\u2581")])
    t.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(),
                                   decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    t.add_special_tokens([AddedToken(x, normalized=False, special=True)
                          for x in ("<unk>", "<s>", "</s>")])
    t.add_tokens([AddedToken("[X]", normalized=False)])
    t.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1",
                                                     special_tokens=[("<s>", 1)])
    same_ids(Tokenizer.from_file(str(out / "tokenizer.json")), t, "SentencePiece")


def vocab_model(path, write, count):
    """The smallest model around a vocabulary."""
    w = gguf.GGUFWriter(str(path), "llama")
    w.add_block_count(1)
    w.add_context_length(16)
    w.add_embedding_length(4)
    w.add_feed_forward_length(4)
    w.add_head_count(2)
    write(w)
    for name, rows in (("token_embd.weight", count), ("output_norm.weight", 0),
                       ("blk.0.attn_norm.weight", 0), ("blk.0.ffn_norm.weight", 0),
                       *((f"blk.0.{n}.weight", 4) for n in ("attn_q", "attn_k", "attn_v",
                         "attn_output", "ffn_gate", "ffn_up", "ffn_down"))):
        w.add_tensor(name, np.zeros((rows, 4) if rows else 4, np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def same_ids(got, want, what):
    texts = ["the the  the", "ab<|end|>the[X]b", "12 112'S in\u00e9 cafe\u0301\r\n\r\n  x", "",
             "\U0001f642 <tool> </s>th e", "<s>  the\tb", "\u6771\u4eac!?? 'LL"]
    for text in texts:
        for special in (False, True):
            a = got.encode(text, add_special_tokens=special).ids
            b = want.encode(text, add_special_tokens=special).ids
            assert a == b, (what, text, a, b)
            assert got.decode(a) == want.decode(b), (what, text, got.decode(a), want.decode(b))
    assert got.encode("a", "b").ids == want.encode("a", "b").ids
    print(f"{what}: {len(texts)} texts give equal ids")


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--command", default="./tenon import {gguf} {dir} --plain {dtype}")
    ap.add_argument("--types", default=",".join(TYPES))
    a = ap.parse_args()
    with tempfile.TemporaryDirectory() as d:
        check_types(a.command, a.types.split(","), pathlib.Path(d))
        check_byte_level(a.command, pathlib.Path(d))
        check_sentencepiece(a.command, pathlib.Path(d))


if __name__ == "__main__":
    main()
