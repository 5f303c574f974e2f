#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""jinja_unicode.py - writes runtime/jinja_unicode.c from what Python itself answers.

Templates are compared with jinja2, so the tables hold exactly what str.isalpha, str.upper and
their like say, asked one code point at a time.

  tests/jinja_unicode.py > runtime/jinja_unicode.c
  tests/jinja_unicode.py --check runtime/jinja_unicode.c    (another Python may know a newer
      Unicode: then only code points both know are worth comparing, and this says so)
"""
import sys
import unicodedata

TOP = 0x110000
BITS = ["ALPHA", "DECIMAL", "DIGIT", "NUMERIC", "LOWER", "UPPER", "TITLE", "PRINT",
        "IGNORABLE", "START", "CONTINUE"]


def ignorable(c):
    """Case_Ignorable as str.lower sees it: a final sigma looks through such characters."""
    return ("A\u03a3" + c + "B").lower()[1] == "\u03c3" and not cased(c)


def cased(c):
    return c.islower() or c.isupper() or c.istitle()


def bits(cp):
    c = chr(cp)
    if 0xD800 <= cp < 0xE000:
        return 0
    answers = [c.isalpha(), c.isdecimal(), c.isdigit(), c.isnumeric(), c.islower(), c.isupper(),
               c.istitle() and not c.isupper(), c.isprintable(), ignorable(c),
               c.isidentifier(), ("a" + c).isidentifier()]
    return sum(1 << i for i, yes in enumerate(answers) if yes)


def ranges():
    out, last = [], None
    for cp in range(TOP):
        b = bits(cp)
        if b != last:
            out.append((cp, b))
            last = b
    return out


def runs(convert):
    """(first, count, stride, delta) of the one-to-one mappings; the others apart."""
    out, special = [], []
    for cp in range(TOP):
        if 0xD800 <= cp < 0xE000:
            continue
        to = convert(chr(cp))
        if to == chr(cp):
            continue
        if len(to) > 1:
            special.append((cp, to))
            continue
        delta = ord(to) - cp
        if out:
            first, count, stride, d = out[-1]
            last = first + (count - 1) * stride
            step = cp - last
            if d == delta and (count == 1 and step in (1, 2) or count > 1 and step == stride):
                out[-1] = (first, count + 1, step, d)
                continue
        out.append((cp, 1, 1, delta))
    return out, special


def table(kind, name, rows, per_line):
    print("const %s %s[] = {" % (kind, name))
    for i in range(0, len(rows), per_line):
        print("    " + " ".join(r + "," for r in rows[i:i + per_line]))
    print("};")
    print("const size_t %s_count =\n    sizeof %s / sizeof %s[0];\n" % (name, name, name))


def main():
    print("/* SPDX-License-Identifier: Apache-2.0 */")
    print("/* jinja_unicode.c - what Unicode %s says of each code point; written by\n"
          " * tests/jinja_unicode.py, do not edit. */" % unicodedata.unidata_version)
    print('#include "jinja_text.h"\n')
    print("/* Code points from here to the next entry have these TN_JCHAR_ bits: cp << 11 | bits. */")
    table("uint32_t", "tn_jchar_table", ["0x%08x" % (cp << 11 | b) for cp, b in ranges()], 8)
    titles = {}
    for name, convert in (("upper", str.upper), ("lower", str.lower), ("title", str.title),
                          ("fold", str.casefold)):
        rows, special = runs(convert)
        if name in ("title", "fold"):
            # Only where they differ from upper and lower.
            base = str.upper if name == "title" else str.lower
            rows, special = [], []
            for cp in range(TOP):
                if not 0xD800 <= cp < 0xE000 and convert(chr(cp)) != base(chr(cp)):
                    special.append((cp, convert(chr(cp))))
        else:
            print("/* first, count, stride, delta */")
            table("tn_jcase_run", "tn_jcase_%s" % name,
                  ["{0x%04x, %d, %d, %d}" % r for r in rows], 4)
        titles[name] = special
    for name, special in titles.items():
        table("tn_jcase_special", "tn_jcase_%s_special" % name,
              ["{0x%04x, {%s}}" % (cp, ", ".join("0x%04x" % ord(c) for c in to))
               for cp, to in special], 2)


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "--check":
        import contextlib
        import io
        with open(sys.argv[2], encoding="utf-8") as f:
            have = f.read()
        made = io.StringIO()
        with contextlib.redirect_stdout(made):
            main()
        if made.getvalue() == have:
            print("equal")
        elif ("Unicode %s " % unicodedata.unidata_version) not in have:
            print("this Python knows Unicode %s, the table another: not compared"
                  % unicodedata.unidata_version)
        else:
            sys.exit("the table differs from what this Python says")
    else:
        main()
