#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""unicode_table.py - writes runtime/unicode_table.c from what Hugging Face tokenizers answers.

Token ids must be those of that library, on any machine, so the tables say exactly what its
regular expressions and normalizers say (they do not all follow one version of Unicode), asked
one code point at a time.

  tests/unicode_table.py > runtime/unicode_table.c
  tests/unicode_table.py --check runtime/unicode_table.c
"""
import os
import sys

# Beside this file lies one with the name of the library.
sys.path = [p for p in sys.path if os.path.abspath(p or ".") != os.path.dirname(
    os.path.abspath(__file__))]
import tokenizers  # noqa: E402
from tokenizers import Regex, normalizers, pre_tokenizers  # noqa: E402

CATEGORIES = ("Cn Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So "
              "Zs Zl Zp Cc Cf Co Cs").split()
ALL = [cp for cp in range(0x110000) if not 0xD800 <= cp < 0xE000]
TEXT = "".join(map(chr, ALL))


def of_class(name):
    """The code points that the regular expression class matches."""
    return set(map(ord, normalizers.Replace(Regex("[^%s]" % name), "").normalize_str(TEXT)))


def split_off(pre_tokenizer):
    return {cp for cp in ALL if len(pre_tokenizer.pre_tokenize_str("a" + chr(cp) + "a")) > 1}


def classes():
    """Category in the low 5 bits, then: numeric for Digits, punctuation for Punctuation."""
    out = [0] * 0x110000
    for cp in range(0xD800, 0xE000):
        out[cp] = CATEGORIES.index("Cs")
    for i, name in enumerate(CATEGORIES[:-1]):
        for cp in of_class(r"\p{%s}" % name):
            out[cp] = i
    for cp in split_off(pre_tokenizers.Digits(individual_digits=True)):
        out[cp] |= 32
    for cp in split_off(pre_tokenizers.Punctuation()):
        out[cp] |= 64
    return out


def normal_forms():
    """What keeps a code point from standing in text of each form without a closer look."""
    forms = [n.normalize_str for n in (normalizers.NFC(), normalizers.NFD(),
                                       normalizers.NFKC(), normalizers.NFKD())]
    nfc, nfd = forms[0], forms[1]
    strip = normalizers.StripAccents().normalize_str
    out = [0] * 0x110000
    second = set()
    for cp in ALL:
        second.update(nfd(chr(cp))[1:])
    for cp in ALL:
        c = chr(cp)
        ordered = any(nfd("a" + s) != "a" + s for s in (c + "\u0334", "\u0315" + c))
        ordered = ordered and nfd(c) == c or cp in (0x344, 0xf73, 0xf75, 0xf81)
        for i, form in enumerate(forms):
            if form(c) != c or ordered or (i % 2 == 0 and c in second):
                out[cp] |= 1 << i
        if ordered:
            out[cp] |= 16
        if nfc(c) != c:
            out[cp] |= 32
        if strip("a" + c) == "a":
            out[cp] |= 64
    return out


def ranges(values):
    last = None
    for cp, v in enumerate(values):
        if v != last:
            yield cp << 11 | v
            last = v


def array(name, values):
    words = ["0x%08x," % v for v in ranges(values)]
    lines = ["    " + " ".join(words[i:i + 8]) for i in range(0, len(words), 8)]
    return "const uint32_t %s[] = {\n%s\n};\nconst uint32_t %s_count = sizeof %s / 4;\n" % (
        name, "\n".join(lines), name, name)


def source():
    return """/* SPDX-License-Identifier: Apache-2.0 */
/* unicode_table.c - what tokenizers %s says of each code point; written by
 * tests/unicode_table.py, do not edit. */
#include "unicode.h"

/* Code points from here to the next entry: cp << 11 | category | TN_UC_ bits. */
%s
/* The same with TN_UF_ bits. */
%s""" % (tokenizers.__version__, array("tn_unicode_class", classes()),
         array("tn_unicode_form", normal_forms()))


def main():
    if sys.argv[1:2] == ["--check"]:
        with open(sys.argv[2], encoding="utf-8") as f:
            have = f.read().split("#include", 1)[1]
        if have != source().split("#include", 1)[1]:
            sys.exit("%s differs from what tokenizers %s says" % (sys.argv[2],
                                                                tokenizers.__version__))
        return
    sys.stdout.write(source())


main()
