#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""bench_llamacpp.py - tenon and llama.cpp on the same model, interleaved in one run, as ratios.

    bench_llamacpp.py build FOLDER
        builds llama.cpp natively from PyPI's llama-cpp-python (its source travels in the sdist)
    bench_llamacpp.py run FOLDER --gguf Q4_0.gguf --model DIR [--tenon FILE] [--rounds 5] [--threads 2]
        DIR is the same model quantized to 4 bits in groups of 32. Where FILE.gguf is no Q4_0 yet,
        `FOLDER/build/bin/llama-quantize --allow-requantize IN.gguf OUT.gguf Q4_0` makes it one.

One round measures each program once in each shape; the median over the rounds counts, and the
ratio's spread is that of the rounds. A machine that other work shares moves both sides alike
within a round, not between rounds."""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys

SDIST = "llama-cpp-python==0.3.36"
TOOLS = ["llama-bench", "llama-batched-bench", "llama-quantize"]
SHAPES = [  # name, batch, prompt tokens, reply tokens, what is compared
    ("decode, batch 1", 1, 128, 64, "decode"),
    ("decode, batch 8, in all", 8, 128, 64, "decode"),
    ("prefill, 512 tokens", 1, 512, 2, "prefill"),
]


def run(argv, **how):
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, **how)
    if done.returncode != 0:
        sys.exit(f"bench_llamacpp: {argv[0]} ended with {done.returncode}: {done.stderr[-800:]}")
    return done.stdout


def build(folder):
    folder.mkdir(parents=True, exist_ok=True)
    run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "llama-cpp-python",
         "-d", folder, SDIST])
    sdist = next(folder.glob("llama_cpp_python-*.tar.gz"))
    run(["tar", "-xf", sdist, "-C", folder])
    source = next(folder.glob("llama_cpp_python-*/vendor/llama.cpp"))
    run(["cmake", "-S", source, "-B", folder / "build", "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON",
         "-DLLAMA_CURL=OFF", "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF",
         "-DLLAMA_BUILD_TOOLS=ON", "-DLLAMA_BUILD_SERVER=OFF"])
    run(["cmake", "--build", folder / "build", "-j2", "--target"] + TOOLS)


def tenon(args, extra, batch, prompt, reply):
    out = run([args.tenon, "bench", "latency", args.model, "--device", "cpu", "--threads", args.threads,
               "--input-len", prompt, "--output-len", reply, "--batch-size", batch, "--repeat", 1, "--json"]
              + (["--config", args.config] if args.config else []) + extra)
    return json.loads(out)


def llama(args, batch, prompt, reply):
    out = run([args.folder / "build/bin/llama-batched-bench", "-m", args.gguf, "-c", 8192, "-npp", prompt,
               "-ntg", reply, "-npl", batch, "-t", args.threads, "--output-format", "jsonl"])
    line = next(x for x in out.splitlines() if x.startswith("{"))
    found = json.loads(line)
    return {"prefill_tok_s": found["speed_pp"], "decode_tok_s": found["speed_tg"]}


def compare(args):
    rows = {}
    for k in range(args.rounds):
        for name, batch, prompt, reply, what in SHAPES:
            sides = [("llama", lambda: llama(args, batch, prompt, reply)),
                     ("tenon", lambda: tenon(args, [], batch, prompt, reply)),
                     ("int8", lambda: tenon(args, ["--head", "int8"], batch, prompt, reply))]
            for side, measure in sides[k % 3:] + sides[:k % 3]:
                found = measure()
                rows.setdefault(name, {}).setdefault(side, []).append(found[what + "_tok_s"])
                if side == "tenon" and batch == 1 and what == "decode":
                    rows[name].setdefault("share", []).append(found["bandwidth_ratio"])
                    rows[name].setdefault("GB/s", []).append(found["bandwidth_bytes_s"] / 1e9)
            print(f"round {k + 1} of {args.rounds}: {name}", file=sys.stderr)
    print(f"{'tok/s, median of ' + str(args.rounds):26} {'llama.cpp':>10} {'tenon':>8} {'ratio':>6} "
          f"{'(rounds)':>12} {'head int8':>10} {'ratio':>6}")
    for name, found in rows.items():
        mid = {side: statistics.median(v) for side, v in found.items()}
        ratios = [a / b for a, b in zip(found["tenon"], found["llama"])]
        print(f"{name:26} {mid['llama']:10.1f} {mid['tenon']:8.1f} {statistics.median(ratios):6.2f} "
              f"{min(ratios):5.2f}-{max(ratios):5.2f} {mid['int8']:11.1f} {mid['int8'] / mid['llama']:6.2f}")
        if "share" in mid:
            print(f"{'  tenon, share of bound':26} {mid['share']:.2f} of {mid['GB/s']:.1f} GB/s "
                  f"({min(found['share']):.2f}-{max(found['share']):.2f})")


def main():
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("what", choices=["build", "run"])
    cli.add_argument("folder", type=pathlib.Path)
    cli.add_argument("--gguf", type=pathlib.Path)
    cli.add_argument("--model", type=pathlib.Path)
    cli.add_argument("--config", type=pathlib.Path, help="tenon's INI, where plugins are not installed")
    cli.add_argument("--tenon", default="tenon")
    cli.add_argument("--rounds", type=int, default=5)
    cli.add_argument("--threads", type=int, default=2)
    args = cli.parse_args()
    if args.what == "build":
        build(args.folder)
    elif args.gguf is None or args.model is None:
        cli.error("run: expected --gguf FILE and --model DIR")
    else:
        compare(args)


if __name__ == "__main__":
    main()
