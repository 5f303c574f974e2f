#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks the rules of the house that a compiler does not: who may include whom, one licence
line a file, no file of more than a thousand lines, file names that are unique.

Inside runtime/ a file may include its own layer and those before it. A plugin includes
<tenon/plugin.h>, libraries, and its own folder."""
import os
import re
import subprocess
import sys

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LINES_MOST = 1000

# Layers in order; each name is a header of runtime/ without ".h", or a prefix ending in "*".
LAYERS = [
    ("tools", "arena buf json log metric number nearest names plain quote utf8seq unicode* floats "
              "commchoice commcount commtrial conf* option settings speculative flags* progress pattern "
              "regex* scanner newer siphash cleanenv"),
    ("files", "safetensors checkpoint ckpt* filemap jsonscan stwriter sessionfile gguf ggml_types import* "
              "tokenizer tok* bpe pretoken* normal* added decod* detok ids lexicon jinja_* chat*"),
    ("wall", "wall* guard manners elffile plugin_*"),
    ("model", "modelconf* rope recipe* graph* loader* dummy budget sampling genconf quantize kv states "
              "fingerprint share"),
    ("serving", "request prefix payoff scheduler schedstate draftsteps engine* output intake servestats recheck "
                "parcel session team*"),
    ("house", "plugin_cmd served servedalike servedparts servedplan servedstats servedteam house fronthost frontsession answer command cmd_* main"),
]


def layer_of(name):
    best = None
    for i, (_, members) in enumerate(LAYERS):
        for m in members.split():
            if name == m or (m.endswith("*") and name.startswith(m[:-1])):
                exact = len(m) if not m.endswith("*") else len(m) - 1
                if best is None or exact > best[1]:
                    best = (i, exact)
    return None if best is None else best[0]


def files():
    out = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=TOP, text=True,
                         capture_output=True)
    if out.returncode == 0:
        return sorted(set(out.stdout.split()))
    found = []
    for base, dirs, names in os.walk(TOP):
        dirs[:] = [d for d in dirs if not d.startswith(".")]
        found += [os.path.relpath(os.path.join(base, n), TOP) for n in names]
    return found


def check_runtime(path, text, wrong):
    name = os.path.splitext(os.path.basename(path))[0]
    mine = layer_of(name)
    if mine is None:
        wrong(f"{path}: belongs to no layer; name it in tests/house_rules.py")
        return
    for inc in re.findall(r'^#include "([^"]+)"', text, re.M):
        other = layer_of(os.path.splitext(os.path.basename(inc))[0])
        if other is None:
            wrong(f"{path}: includes {inc}, which belongs to no layer")
        elif other > mine:
            wrong(f"{path}: layer {LAYERS[mine][0]} includes {inc} of the later layer "
                  f"{LAYERS[other][0]}")


def check_plugin(path, text, wrong):
    folder = os.path.dirname(path)
    for inc in re.findall(r'^#include "([^"]+)"', text, re.M):
        if not os.path.exists(os.path.join(TOP, folder, inc)):
            wrong(f"{path}: includes {inc} from outside its folder")
    for inc in re.findall(r"^#include <tenon/([^>]+)>", text, re.M):
        if inc != "plugin.h":
            wrong(f"{path}: includes <tenon/{inc}>; the contract is <tenon/plugin.h>")


def main():
    failures = []
    checks = 0
    seen = {}
    # The core may not know a plugin by name.
    plugin_names = re.compile(r'"(awq|gptq|cuda|nccl|mpi)(\.so)?"')
    for path in files():
        full = os.path.join(TOP, path)
        base = os.path.basename(path)
        code = path.endswith((".c", ".h", ".py", ".sh", ".cu", ".cuh", ".cpp", ".inc")) or path in (
            "configure.ac", "autogen.sh", "quickstart", "runtests", ".ci/run")
        if not os.path.isfile(full) or not code:
            continue
        text = open(full, encoding="utf-8").read()
        checks += 1
        if "SPDX-License-Identifier: Apache-2.0" not in "\n".join(text.split("\n")[:4]):
            failures.append(f"{path}: no SPDX line in its first lines")
        n = text.count("\n")
        if n > LINES_MOST:
            failures.append(f"{path}: {n} lines; expected at most {LINES_MOST}")
        if path.endswith((".c", ".h", ".cu", ".cuh", ".cpp")) and seen.setdefault(base, path) != path:
            failures.append(f"{path}: the name {base} is taken by {seen[base]}")
        if path.startswith("runtime/"):
            check_runtime(path, text, failures.append)
            if plugin_names.search(text):
                failures.append(f"{path}: names a plugin: {plugin_names.search(text).group(0)}")
        elif path.startswith("plugins/") and path.endswith((".c", ".h", ".cu", ".cuh")):
            check_plugin(path, text, failures.append)
    for f in failures:
        print(f)
    print(f"{checks - len(failures)} passed, {len(failures)} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
