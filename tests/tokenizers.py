#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""tokenizers.py - compares tenon's tokenizer with Hugging Face's, id by id.

  tests/tokenizers.py DRIVER [--cases N] [--seed N] [--only NAME] [--model DIR] [--sweep]

DRIVER is the program built from tests/tok_driver.c. For each family of toksets.py a small
tokenizer is trained and both sides encode and decode the same texts: written ones and random
ones. --model compares on a folder with a tokenizer.json instead; --sweep adds every code point."""
import argparse
import os
import random
import subprocess
import sys
import tempfile

# This file has the name of the library it compares with. A neighbour that imports the library
# may find this file first: then it gets the library all the same.
if __name__ == "tokenizers":
    sys.modules.pop("tokenizers")
sys.path = [p for p in sys.path if os.path.abspath(p or ".") != os.path.dirname(
    os.path.abspath(__file__))]
import tokenizers  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

sys.path.append(os.path.dirname(os.path.abspath(__file__)))
import toksets  # noqa: E402

ADD_SPECIAL, PLAIN = 1, 2


class Driver:
    """Our side, behind two pipes."""

    def __init__(self, program, folder):
        self.p = subprocess.Popen([program, folder], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE)
        hello = self.p.stdout.readline().decode().rstrip("\n")
        if hello != "ok":
            raise RuntimeError(hello)

    def ask(self, data):
        self.p.stdin.write(data)
        self.p.stdin.flush()
        head = self.p.stdout.readline()
        if head.startswith(b"ok "):
            return self.p.stdout.read(int(head[3:]))
        raise RuntimeError(head.decode("utf-8", "replace") or "the driver died")

    def encode(self, text, flags, plain=()):
        data = text.encode()
        head = "E %d %d %d\n%s\n" % (flags, len(plain), len(data), " ".join(map(str, plain)))
        return [int(i) for i in self.ask(head.encode() + data).split()]

    def decode(self, ids, keep):
        line = "D %d %d\n%s\n" % (keep, len(ids), " ".join(map(str, ids)))
        return self.ask(line.encode()).decode()

    def stream(self, ids, keep, nprime=0):
        line = "S %d %d %d\n%s\n" % (keep, nprime, len(ids), " ".join(map(str, ids)))
        return self.ask(line.encode())

    def close(self):
        self.p.stdin.close()
        if self.p.wait() != 0:
            raise RuntimeError("the driver ended with %d" % self.p.returncode)


WRITTEN = [
    "", " ", "  ", "a", " a", "a ", "\n", "\r\n", "\n\n\n", " \n a", "a  b", "a   \n  b", "\t\tx",
    "it's IT'S it'\u017f we'LL they'Re 'tis ''s don''t", "hello<|endoftext|>world", "<|im_start|>",
    "<think>\n\n</think>", " <left> <right> x <both>  y", "word words aword word.", "<a><b><c><a><b",
    "NormMe normme NORMME", "e\u0301te\u0301 \u00e9t\u00e9", "<sn> <sn>a", "<s></s><unk>", "  two words  ",
    "a\u0300\u0316\u0327 A\u030a \u212b \u1e9b\u0323", "\uac00\u11a8 \u1100\u1161\u11a8", "\u0958\u0928\u093c",
    "\u200b\u200d\ufeff\u2028\u2029\u0085\u00a0\u3000x", "\x00\x01\x02\x7f\x80\x9f", "\ufffd\uffff\U0010ffff",
    "12345678901 \u0661\u0662\u0663 \u00bd\u2167 1.000,00", "HTTPServer camelCase ABCdef\u00c9t\u00c9 \u01c5x",
    "!!!a ??b //c \\d -e", "\u4f60\u597d\u4e16\u754c\u3053\u3093\u306b\u3061\u306f\ud55c\uad6d\uc5b4", "x" * 300, "ab" * 400,
    " " * 500 + "x", "\n " * 200, "\u2581\u2581a\u2581", "<0x41><0xE2><0x0A>", "\u0120\u010a", "a" * 50 + " " * 50,
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\U0001f3fd\u2764\ufe0f", "\u0e01\u0e33\u0e49", "\u0130\u0131\u1e9e\u03a3\u03c3\u03c2",
    "\ufdfa\u3300\u2474\uff76\uff9e", "<\uff5cUser\uff5c>\u2581", "[INST] hi [/INST]", "'s", "'", "''", "'S'T",
]

RANGES = [(0x20, 0x7e), (0x20, 0x7e), (0, 0x20), (0x80, 0x24f), (0x250, 0x36f), (0x370, 0x5ff),
          (0x600, 0x9ff), (0xe00, 0x0fff), (0x1100, 0x11ff), (0x1e00, 0x20ff), (0x2100, 0x27ff),
          (0x2e80, 0x30ff), (0x3400, 0x9fff), (0xa000, 0xd7ff), (0xf900, 0xffff),
          (0x10000, 0x1ffff), (0x20000, 0x2ffff), (0, 0x10ffff)]
BITS = ["'s", "'LL", " ", "  ", "\n", "\r\n", "\t", "<think>", "<|im_end|>", "<|endoftext|>", "<s>",
        "</s>", "<sn>", "<both>", "<left>", "<right>", "NormMe", "word", "1", "23", "456", "\u0301",
        "\u0327", "\u0316", "\u200d", "\ufe0f", "\u00a0", "\u3000", "\u00e9", "e\u0301", "\uac00", "\u11a8", ".", "...",
        "/", "-", "_", "\u2581", "<0x0A>", "\U0001f600", "A", "bC", "DeF", "\u0130", "\u017f", "K", "the"]


def random_text(rng):
    out = []
    words = toksets.TEXT.split(" ")
    for _ in range(rng.choice((1, 3, 8, 30))):
        kind = rng.random()
        if kind < 0.35:
            out.append(rng.choice(BITS))
        elif kind < 0.6:
            at = rng.randrange(len(words))
            out.append(" ".join(words[at:at + rng.randrange(1, 6)]))
        elif kind < 0.7:
            at = rng.randrange(len(toksets.TEXT))
            out.append(toksets.TEXT[at:at + rng.randrange(20)])
        else:
            low, high = rng.choice(RANGES)
            cps = [rng.randint(low, high) for _ in range(rng.randrange(1, 8))]
            out.append("".join(chr(c) for c in cps if not 0xd800 <= c < 0xe000))
    return "".join(out)


class Comparison:
    def __init__(self, name, hf, ours):
        self.name, self.hf, self.ours = name, hf, ours
        self.checks, self.failed = 0, 0
        self.ids = sorted(hf.get_vocab().values())

    def check(self, what, text, want, have):
        self.checks += 1
        if want == have:
            return
        self.failed += 1
        if self.failed <= 5:
            at = next((i for i, (a, b) in enumerate(zip(want, have)) if a != b),
                      min(len(want), len(have)))
            print("%s: %s of %.300r differs at %d\n   wanted %r\n   got    %r" % (
                self.name, what, text, at, want[max(at - 3, 0):at + 9], have[max(at - 3, 0):at + 9]))

    def encode(self, text):
        ids = None
        for flags in (0, ADD_SPECIAL):
            ids = self.hf.encode(text, add_special_tokens=bool(flags)).ids
            self.check("encode %d" % flags, text, ids, self.ours.encode(text, flags))
        self.hf.encode_special_tokens = True
        plain = self.hf.encode(text, add_special_tokens=False).ids
        self.hf.encode_special_tokens = False
        self.check("encode plain", text, plain, self.ours.encode(text, PLAIN))
        return ids

    def decode(self, ids):
        for keep in (0, 1):
            want = self.hf.decode(ids, skip_special_tokens=not keep)
            self.check("decode %d" % keep, ids, want, self.ours.decode(ids, keep))
            streamed = self.ours.stream(ids, keep).replace(b"\xff", b"")
            self.check("stream %d" % keep, ids, want.encode(), streamed)

    def text(self, text):
        self.decode(self.encode(text))


def sweep(c):
    """Every code point, between letters and in a row."""
    cps = [chr(i) for i in range(0x110000) if not 0xd800 <= i < 0xe000]
    for i in range(0, len(cps), 512):
        part = cps[i:i + 512]
        for text in ("".join(part), "a".join(part)):
            c.check("sweep at %x" % ord(part[0]), "", c.hf.encode(text, add_special_tokens=False).ids,
                    c.ours.encode(text, 0))


def compare(name, hf, driver, folder, args, cases):
    rng = random.Random("%s %s" % (args.seed, name))
    ours = Driver(driver, folder)
    c = Comparison(name, hf, ours)
    for text in WRITTEN + [toksets.TEXT]:
        c.text(text)
    for _ in range(cases):
        c.text(random_text(rng))
        c.decode([rng.choice(c.ids) for _ in range(rng.randrange(12))])
    for i in (c.ids if args.model else rng.sample(c.ids, min(len(c.ids), 200))):
        c.check("decode", i, hf.decode([i], skip_special_tokens=False), ours.decode([i], 1))
    if args.sweep:
        sweep(c)
    ours.close()
    return c


def main():
    a = argparse.ArgumentParser()
    a.add_argument("driver")
    a.add_argument("--cases", type=int, default=60)
    a.add_argument("--seed", type=int, default=1)
    a.add_argument("--only")
    a.add_argument("--model")
    a.add_argument("--sweep", action="store_true")
    args = a.parse_args()
    checks = failed = ran = 0
    todo = list(toksets.families()) + list(toksets.parts()) + list(toksets.patterns())
    if args.model:
        path = os.path.join(args.model, "tokenizer.json")
        todo = [(args.model, lambda: Tokenizer.from_file(path))]
    for name, make in todo:
        if args.only and args.only not in name:
            continue
        ran += 1
        with tempfile.TemporaryDirectory() as folder:
            hf = make()
            if not args.model:
                hf.save(os.path.join(folder, "tokenizer.json"))
                hf = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
            try:
                c = compare(name, hf, args.driver, args.model or folder, args,
                            args.cases if not name.startswith("pattern") else args.cases // 3)
                checks += c.checks
                failed += c.failed > 0
                if c.failed:
                    print("%s: %d of %d differ" % (name, c.failed, c.checks))
            except RuntimeError as e:
                failed += 1
                print("%s: %s" % (name, e))
    print("tokenizers %s: %d checks" % (tokenizers.__version__, checks))
    print("%d passed, %d failed" % (ran - failed, failed))
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
