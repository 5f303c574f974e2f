#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Quantized checkpoints, made and read by numpy, against tenon's plugins.

  quant_ref.py --driver quant_driver --plugins DIR [--model DIR ...]

Reading: small checkpoints in every layout are packed here, and quant_driver (a built plugin on
real files) has to give back the values that numpy computes from the formats' description.
Writing: quant_driver writes checkpoints, numpy dequantizes them, and the codes have to be those
that the formats' conventions choose. Where the formats' own tools are installed (torch with
compressed_tensors, gptqmodel or awq) they decompress what was written, too.

--model DIR compares a whole checkpoint instead: every quantized module of it. Values must be
equal, not close: (code - zero) * scale in float32 is one rounding on both sides.
"""
import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

ORDER = np.array([0, 2, 4, 6, 1, 3, 5, 7])      # AWQ gemm: field i of a word is column ORDER[i]


# ----------------------------------------------------------------------- 16-bit numbers
def bf16_bits(x):
    u = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype(np.uint16)


def bf16_value(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def load(directory):
    """Every tensor of a checkpoint; bf16 as float32."""
    out = {}
    for path in sorted(Path(directory).glob("*.safetensors")):
        raw = path.read_bytes()
        n = int.from_bytes(raw[:8], "little")
        for name, t in json.loads(raw[8:8 + n]).items():
            if name == "__metadata__":
                continue
            a, b = t["data_offsets"]
            data = raw[8 + n + a:8 + n + b]
            kind = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I8": "i1", "U8": "u1", "I16": "<i2",
                    "I32": "<i4", "I64": "<i8"}[t["dtype"]]
            v = np.frombuffer(data, kind).reshape(t["shape"])
            out[name] = bf16_value(v) if t["dtype"] == "BF16" else v
    return out


def save(directory, tensors, quant):
    """bf16 tensors are given as ("bf16", bits); safetensors.numpy has no such type."""
    directory.mkdir(parents=True)
    plain = {k: v for k, v in tensors.items() if not isinstance(v, tuple)}
    if len(plain) == len(tensors):
        save_file(plain, str(directory / "model.safetensors"))
    else:
        header, at, blobs = {}, 0, []
        for name, v in tensors.items():
            dtype, a = ("BF16", v[1]) if isinstance(v, tuple) else (
                {"f4": "F32", "f2": "F16", "i1": "I8", "u1": "U8", "i2": "I16", "i4": "I32",
                 "i8": "I64"}[v.dtype.str[1:]], v)
            b = np.ascontiguousarray(a).tobytes()
            header[name] = {"dtype": dtype, "shape": list(a.shape), "data_offsets": [at, at + len(b)]}
            at += len(b)
            blobs.append(b)
        h = json.dumps(header).encode()
        h += b" " * (-len(h) % 8)
        (directory / "model.safetensors").write_bytes(len(h).to_bytes(8, "little") + h + b"".join(blobs))
    (directory / "config.json").write_text(json.dumps({"model_type": "llama",
                                                       "quantization_config": quant}))


# ------------------------------------------------------------------------------ packing
def pack_rows(codes, bits):
    """[n, k] unsigned codes to words [n, ceil(k * bits / 32)], a dense stream along k."""
    n, k = codes.shape
    planes = ((codes[:, :, None] >> np.arange(bits)) & 1).astype(np.uint8).reshape(n, k * bits)
    planes = np.pad(planes, ((0, 0), (0, -(k * bits) % 32)))
    return np.ascontiguousarray(np.packbits(planes, axis=1, bitorder="little")).view("<i4")


def unpack_rows(words, bits, k):
    planes = np.unpackbits(np.ascontiguousarray(words).view(np.uint8).reshape(words.shape[0], -1),
                           axis=1, bitorder="little")[:, :k * bits]
    return (planes.reshape(words.shape[0], k, bits) << np.arange(bits)).sum(2)


def gemm_pack(columns):
    """[rows, n] codes, eight output columns a word."""
    fields = columns.reshape(columns.shape[0], -1, 8)[:, :, ORDER].astype(np.uint32)
    return (fields << (4 * np.arange(8, dtype=np.uint32))).sum(2).astype(np.uint32).view(np.int32)


def gemm_unpack(words):
    fields = (words.view(np.uint32)[:, :, None] >> (4 * np.arange(8, dtype=np.uint32))) & 15
    out = np.empty_like(fields)
    out[:, :, ORDER] = fields
    return out.reshape(words.shape[0], -1).astype(np.int64)


def fast_places(n, k):
    """gemv_fast: for each (n, k) the row, the half-word and the nibble that hold its code."""
    r, c = np.meshgrid(np.arange(n), np.arange(k), indexing="ij")
    return r // 4, c // 64 * 64 + r % 4 * 16 + c // 32 % 2 * 8 + c % 8, c // 8 % 4


def zero_words(k, g):
    m = {32: 4, 64: 2}.get(g, 1)
    return -(-(-(-(k // g) // 8)) // m) * m


# ------------------------------------------------------------------------- dequantizing
def dequantize(T, name, quant, n, k):
    """Values [n, k] of a module, from its tensors and the description of the formats."""
    def t(part):
        return T[f"{name}.{part}"]
    if f"{name}.weight" in T:
        return t("weight").astype(np.float32)
    if f"{name}.q4" in T:
        codes = unpack_rows(t("q4"), 4, k) - 8
        return codes.astype(np.float32) * np.repeat(t("step"), 32, 1)
    if f"{name}.weight_packed" in T:
        scheme = next(iter(quant["config_groups"].values()))["weights"]
        bits, half = scheme["num_bits"], 1 << (scheme["num_bits"] - 1)
        q = unpack_rows(t("weight_packed"), bits, k) - half
        s = t("weight_scale").astype(np.float32).reshape(-1, t("weight_scale").shape[-1])
        s = np.broadcast_to(s, (n, s.shape[1]))
        g = np.arange(k) // (scheme.get("group_size") or k) if s.shape[1] > 1 else np.zeros(k, int)
        order = T.get(f"{name}.weight_g_idx")
        if order is not None and (order >= 0).all():
            g = order
        z = np.zeros(s.shape, np.int64)
        if f"{name}.weight_zero_point" in T:
            z = t("weight_zero_point")
            z = z.astype(np.int64) if z.dtype == np.int8 else unpack_rows(z.T, bits, n).T - half
        return (q - z[:, g]).astype(np.float32) * s[:, g]
    s = t("scales").astype(np.float32)
    if quant.get("quant_method") == "awq" or "awq" in quant.get("packing_format", ""):
        group = quant.get("group_size", 128)
        group = k if group == -1 else group
        g = np.arange(k) // group
        version = quant.get("version", "gemm")
        if version == "gemv":
            q, z = unpack_rows(t("qweight"), 4, k), unpack_rows(t("qzeros"), 4, s.shape[1])
            return (q - z[:, g]).astype(np.float32) * s[:, g]
        if version == "gemv_fast":
            row, at, nibble = fast_places(n, k)
            q = (t("qweight").view(np.uint16)[row, at] >> (4 * nibble)) & 15
            z = np.rint(-t("qzeros").astype(np.float32) / np.where(s == 0, 1, s)).T.astype(np.int64)
            return (q.astype(np.int64) - z[:, g]).astype(np.float32) * s.T[:, g]
        q, z = gemm_unpack(t("qweight")), gemm_unpack(t("qzeros"))
        return ((q - z[g]).astype(np.float32) * s[g]).T
    bits = t("qweight").shape[0] * 32 // k
    q, z = unpack_rows(t("qweight").T, bits, k), unpack_rows(t("qzeros"), bits, n)
    if quant.get("checkpoint_format", quant.get("format", "gptq")) == "gptq":
        z = (z + 1) & ((1 << bits) - 1)
    group = quant.get("group_size", -1)
    g = T[f"{name}.g_idx"] if f"{name}.g_idx" in T else np.arange(k) // (k if group < 0 else group)
    return (q - z[g].T).astype(np.float32) * s[g].T


# -------------------------------------------------------------------------- the driver
class Driver:
    def __init__(self, path, plugins):
        self.path, self.plugins = path, Path(plugins)

    def run(self, plugin, args, lines):
        so = next(p for p in (self.plugins / f"{plugin}.so", self.plugins / ".libs" / f"{plugin}.so",
                              self.plugins / plugin / ".libs" / f"{plugin}.so") if p.exists())
        r = subprocess.run([self.path, str(so), *map(str, args)], input="\n".join(lines) + "\n",
                           text=True, capture_output=True)
        if r.returncode != 0:
            raise SystemExit(f"quant_driver {plugin} {args}: {r.stderr.strip()}")
        return r.stdout

    def read(self, plugin, directory, modules):
        """modules: (name, n, k) or (name, n, k, row0, row1, col0, col1)."""
        with tempfile.NamedTemporaryFile() as f:
            text = self.run(plugin, ["read", directory, f.name],
                            [" ".join(map(str, m)) for m in modules])
            flat, at, out = np.fromfile(f.name, np.float32), 0, []
        for m in modules:
            rows, cols = (m[4] - m[3], m[6] - m[5]) if len(m) == 7 else m[1:3]
            out.append(flat[at:at + rows * cols].reshape(rows, cols))
            at += rows * cols
        return out, text


def check(what, found, wanted):
    if found.shape != wanted.shape or not np.array_equal(found, wanted):
        bad = np.argwhere(found != wanted)
        raise SystemExit(f"{what}: {len(bad)} of {wanted.size} values differ, first at "
                         f"{bad[0].tolist()}: {found[tuple(bad[0])]!r}, wanted {wanted[tuple(bad[0])]!r}")


# ----------------------------------------------------------------------------- reading
def made(rng):
    """(plugin, quantization_config, tensors, n, k) of small checkpoints in every layout."""
    def scales(shape):
        return (rng.random(shape) * 0.1 + 0.001).astype(np.float16)

    def awq(n, k, g, version):
        ng = k // g
        q, z, s = rng.integers(0, 16, (n, k)), rng.integers(0, 16, (n, ng)), scales((n, ng))
        if version == "gemm":
            t = {"qweight": gemm_pack(q.T), "qzeros": gemm_pack(z.T), "scales": s.T}
        else:
            wide = zero_words(k, g) * 8
            zp, sp = (np.pad(a, ((0, 0), (0, wide - ng))) for a in (z, s))
            t = {"qweight": pack_rows(q, 4), "qzeros": pack_rows(zp, 4), "scales": sp}
            if version == "gemv_fast":
                w = np.zeros((n // 4, k), np.uint16)
                row, at, nibble = fast_places(n, k)
                np.bitwise_or.at(w, (row, at), (q << (4 * nibble)).astype(np.uint16))
                t = {"qweight": w.view(np.int16), "scales": sp.T,
                     "qzeros": (-(sp.astype(np.float32) * zp)).astype(np.float16).T}
        return "awq", {"quant_method": "awq", "bits": 4, "group_size": g, "zero_point": True,
                       "version": version}, t, n, k

    def gptq(n, k, g, bits, fmt, order):
        ng = -(-k // g)
        q, z = rng.integers(0, 1 << bits, (n, k)), rng.integers(0, 1 << bits, (n, ng))
        t = {"qweight": pack_rows(q, bits).T, "scales": scales((ng, n)),
             "qzeros": pack_rows(((z - (fmt == "gptq")) & ((1 << bits) - 1)).T, bits)}
        if order:
            t["g_idx"] = rng.permutation(np.arange(k) // g).astype(np.int32)
        return "gptq", {"quant_method": "gptq", "bits": bits, "group_size": g, "desc_act": order,
                        "sym": False, "checkpoint_format": fmt}, t, n, k

    def packed(n, k, g, bits, sym, order):
        ng = 1 if g is None else -(-k // g)
        half = 1 << (bits - 1)
        q, z = rng.integers(0, 2 * half, (n, k)), rng.integers(0, 2 * half, (n, ng))
        t = {"weight_packed": pack_rows(q, bits), "weight_shape": np.array([n, k], np.int64),
             "weight_scale": ("bf16", bf16_bits(rng.random((n, ng)) * 0.1 + 0.01))}
        if not sym:
            t["weight_zero_point"] = pack_rows(z.T, bits).T
        if order:
            t["weight_g_idx"] = rng.permutation(np.arange(k) // g).astype(np.int32)
        w = {"num_bits": bits, "type": "int", "symmetric": sym, "group_size": g,
             "strategy": "channel" if g is None else "group", "actorder": "group" if order else None}
        return "awq", {"quant_method": "compressed-tensors", "format": "pack-quantized",
                       "config_groups": {"group_0": {"targets": ["Linear"], "weights": w}},
                       "ignore": ["m.plain"], "version": "0.19.0"}, t, n, k

    for n, k, g in ((192, 576, 64), (64, 128, 32), (8, 256, 256)):
        for version in ("gemm", "gemv", "gemv_fast"):
            yield awq(n, k, g, version)
    for bits in (2, 3, 4, 8):
        for fmt in ("gptq", "gptq_v2"):
            for order in (False, True):
                yield gptq(96, 192, 32, bits, fmt, order)
    yield gptq(64, 576, 128, 4, "gptq", False)
    for bits in (1, 2, 3, 4, 5, 6, 7, 8):
        for sym in (True, False):
            yield packed(40, 128, 32, bits, sym, False)
    yield packed(48, 192, 64, 4, False, True)
    yield packed(33, 100, None, 8, True, False)
    yield packed(7, 36, None, 4, False, False)


def check_reading(driver, tmp):
    rng, count = np.random.default_rng(1), 0
    for i, (plugin, quant, tensors, n, k) in enumerate(made(rng)):
        d = tmp / f"read{i}"
        extra = (rng.random((24, 40)) - 0.5).astype(np.float16)
        save(d, {**{f"m.l.{p}": np.ascontiguousarray(t) if not isinstance(t, tuple) else t
                    for p, t in tensors.items()}, "m.plain.weight": extra}, quant)
        T = load(d)
        want = dequantize(T, "m.l", quant, n, k)
        rects = [(0, n, 0, k), (n // 3, n, k // 4, k // 2), (0, n, k // 2, k), (1, n - 1, 3, k - 5)]
        got, text = driver.read(plugin, d, [("m.l", n, k, *r) for r in rects] + [("m.plain", 24, 40)])
        for r, g in zip(rects, got):
            check(f"{quant} {n}x{k} {r}", g, want[r[0]:r[1], r[2]:r[3]])
        check("a plain module", got[-1], extra.astype(np.float32))
        if "log " in text and "greatest field" not in text:   # that one is due: zeros are random
            raise SystemExit(f"{quant}: {text}")
        count += 1
    print(f"reading: {count} checkpoints equal numpy's values")


# ----------------------------------------------------------------------------- writing
def conventions(quant, w, group, bits):
    """Values that the formats' conventions choose for w [n, k], scales rounded as stored."""
    n, k = w.shape
    g = w.reshape(n, k // group, group)
    lo, hi = g.min(2, keepdims=True), g.max(2, keepdims=True)
    top, half = np.float32((1 << bits) - 1), np.float32(1 << (bits - 1))
    lo0, hi0 = np.minimum(lo, 0), np.maximum(hi, 0)
    most = np.maximum(-lo, hi)
    method = quant["quant_method"]
    if method == "awq":
        s = np.maximum(hi - lo, np.float32(1e-5)) / top
    elif method == "gptq":
        s = 2 * most / top if quant["sym"] else (hi0 - lo0) / top
    else:
        sym = quant["config_groups"]["group_0"]["weights"]["symmetric"]
        s = most / (top / 2) if sym else (hi0 - lo0) / top
    packed = method == "compressed-tensors"
    s = bf16_value(bf16_bits(s)) if packed else s.astype(np.float16).astype(np.float32)
    if method == "awq":
        z = np.clip(-np.rint(lo / s), 0, top)
    elif method == "gptq":
        z = np.full_like(s, half) if quant["sym"] else np.clip(np.rint(-lo0 / s), 0, top)
    else:
        z = np.full_like(s, half) if sym else np.clip(np.rint(-half - lo0 / s), -half, half - 1) + half
    q = np.clip(np.rint(g / s) + z, 0, top)
    return ((q - z) * s).reshape(n, k).astype(np.float32)


VARIANTS = ([("awq", v, 4, g, 0) for v in ("gemm", "gemv", "gemv_fast") for g in (32, 64, 128)]
            + [("awq", "pack-quantized", b, g, s) for b in (4, 8) for g in (32, 128, -1) for s in (0, 1)]
            + [("gptq", v, b, g, s) for v in ("gptq", "gptq_v2") for b in (2, 3, 4, 8)
               for g in (32, -1) for s in (0, 1)])


def check_writing(driver, tmp):
    rng = np.random.default_rng(2)
    shapes = {"model.layers.0.mlp.up_proj": (192, 256), "model.layers.1.mlp.down_proj": (64, 384)}
    W = {m: (rng.standard_normal(s) * 0.1).astype(np.float32) for m, s in shapes.items()}
    for m, w in W.items():
        w.tofile(tmp / f"{m}.f32")
    for i, (plugin, variant, bits, group, sym) in enumerate(VARIANTS):
        d = tmp / f"write{i}"
        d.mkdir()
        driver.run(plugin, ["write", d, variant, bits, group, sym, 0, 0],
                   [f"{m} {n} {k} {tmp / (m + '.f32')}" for m, (n, k) in shapes.items()])
        T, quant = load(d), json.loads((d / "config.json").read_text())["quantization_config"]
        back, text = driver.read(plugin, d, [(m, *s) for m, s in shapes.items()])
        for (m, (n, k)), b in zip(shapes.items(), back):
            v = dequantize(T, m, quant, n, k)
            what = f"{plugin} {variant} {bits} bits group {group} sym {sym}, {m}"
            check(f"{what}: read back", b, v)
            check(f"{what}: conventions", v, conventions(quant, W[m], k if group < 0 else group, bits))
        ask_tools(T, quant, shapes)
    print(f"writing: {len(VARIANTS)} variants equal numpy's rounding; tools: "
          + (", ".join(f"{t} agreed on {c} modules" for t, c in TOOLS.items()) or "none installed"))


# ------------------------------------------------------------------------------- tools
TOOLS = {}


def ask_tools(T, quant, shapes):
    """The formats' own decompression, where it can be imported; what cannot is not counted."""
    try:
        import torch
    except ImportError:
        return
    for m, (n, k) in shapes.items():
        t = {p.rsplit(".", 1)[1]: torch.from_numpy(v.copy()) for p, v in T.items()
             if p.rsplit(".", 1)[0] == m}
        try:
            if quant["quant_method"] == "compressed-tensors":
                tool = "compressed-tensors"
                from compressed_tensors.compressors import BaseCompressor
                from compressed_tensors.quantization import QuantizationScheme
                scheme = QuantizationScheme.model_validate(quant["config_groups"]["group_0"])
                c = BaseCompressor.get_value_from_registry("pack-quantized")
                w = c.decompress(t, scheme)["weight"]
            elif quant["quant_method"] == "awq" and quant["version"] == "gemm":
                tool = "autoawq"
                from awq.utils.packing_utils import dequantize_gemm
                w = dequantize_gemm(t["qweight"], t["qzeros"], t["scales"].float(), 4,
                                    quant["group_size"]).T
            elif quant["quant_method"] == "gptq":
                tool = "gptqmodel"
                from gptqmodel.nn_modules.qlinear.torch import TorchLinear
                from gptqmodel.utils.model import convert_gptq_v1_to_v2_format_module
                lin = TorchLinear(bits=quant["bits"], group_size=quant["group_size"], desc_act=False,
                                  sym=quant["sym"], in_features=k, out_features=n, bias=False,
                                  register_buffers=True)
                for b in ("qweight", "qzeros", "scales", "g_idx"):
                    getattr(lin, b).data = t[b].clone()
                if quant["checkpoint_format"] == "gptq":
                    convert_gptq_v1_to_v2_format_module(lin, bits=quant["bits"], pack_dtype=torch.int32)
                lin.scales.data = lin.scales.data.float()
                lin.post_init()
                w = lin.dequantize_weight().T
            else:
                continue
        except ImportError:
            continue
        check(f"{tool}, {m}", w.to(torch.float32).numpy(), dequantize(T, m, quant, n, k))
        TOOLS[tool] = TOOLS.get(tool, 0) + 1


# ------------------------------------------------------------------------- whole models
def check_model(driver, directory):
    T = load(directory)
    quant = json.loads((Path(directory) / "config.json").read_text())["quantization_config"]
    plugin = "gptq" if quant["quant_method"] == "gptq" else "awq"
    modules = []
    for name in sorted(T):
        m = re.fullmatch(r"(.*)\.(qweight|weight_packed)", name)
        if m and m[2] == "weight_packed":
            modules.append((m[1], *map(int, T[f"{m[1]}.weight_shape"])))
        elif m and plugin == "awq":
            modules.append((m[1], T[name].shape[1] * 8, T[name].shape[0]))
        elif m:
            modules.append((m[1], T[name].shape[1], T[name].shape[0] * 32 // quant["bits"]))
        elif name.endswith(".weight") and T[name].ndim == 2:
            modules.append((name[:-7], *T[name].shape))
    asks, wants = [], []
    for name, n, k in modules:
        w = dequantize(T, name, quant, n, k)
        cuts = [(0, n, 0, k), (0, n // 2, 0, k), (n // 2, n, 0, k)]
        cuts += [(0, n, k * i // 4, k * (i + 1) // 4) for i in range(4)]
        for r in cuts:
            if r[0] < r[1] and r[2] < r[3]:
                asks.append((name, n, k, *r))
                wants.append(w[r[0]:r[1], r[2]:r[3]])
    got, text = driver.read(plugin, directory, asks)
    for a, g, w in zip(asks, got, wants):
        check(f"{directory} {a}", g, w)
    forms = {re.sub(r"^\S+ (kind .*?) cols.*", r"\1", line) for line in text.splitlines()}
    print(f"{directory}: {len(modules)} modules, {len(asks)} rectangles equal; "
          f"{'; '.join(sorted(f for f in forms))}")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--driver", required=True)
    ap.add_argument("--plugins", required=True, help="folder with awq.so and gptq.so")
    ap.add_argument("--model", action="append", default=[])
    a = ap.parse_args()
    driver = Driver(a.driver, a.plugins)
    for m in a.model:
        check_model(driver, m)
    if not a.model:
        with tempfile.TemporaryDirectory() as tmp:
            check_reading(driver, Path(tmp))
            check_writing(driver, Path(tmp))


if __name__ == "__main__":
    sys.exit(main())
