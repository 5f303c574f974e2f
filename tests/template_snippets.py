# SPDX-License-Identifier: Apache-2.0
"""Small templates for tests/templates.py: each is rendered by tenon and by jinja2, and both must
print the same or both must refuse. `VARS` is what they see."""

from template_filters import MORE_EXPRESSIONS
from template_statements import STATEMENTS  # noqa: F401

VARS = {
    "s": "Hello World", "u": "Ünïcödé ßtraße ΑΣ Σ x", "e": "", "z": "日本語テキスト", "ws": " \t a b \n ",
    "n": 42, "neg": -7, "zero": 0, "f": 3.75, "big": 9007199254740993, "tiny": 1e-7, "huge": 1e22,
    "t": True, "no": False, "nil": None,
    "l": [3, 1, 2], "ls": ["b", "A", "c", "a"], "empty": [], "nest": [[1, 2], [3, [4, 5]]],
    "mix": [1, "a", None, True, 2.5, [1], {"k": "v"}],
    "d": {"b": 1, "a": 2, "C": 3}, "dd": {"x": {"y": {"z": "deep"}}, "items": "it", "list": [1, 2]},
    "users": [{"name": "Bob", "age": 30, "city": "NY"}, {"name": "alice", "age": 25, "city": "LA"},
              {"name": "Carl", "age": 25, "city": "ny"}, {"name": "dora", "city": "LA", "age": 41}],
    "html": "<a href=\"x\">1 & 2's</a>", "multi": "one\ntwo\r\nthree\n\nfive",
    "long": "The quick brown fox jumps over the lazy dog and runs away", "q": "it's \"quoted\"",
    "emoji": "a😀b👍🏽c", "ctrl": "a\u0001b\u007f\u0085\u2028z\u00a0", "num": "12.5", "int": "007",
    "tab": "a\tbc\td", "huge_float": 1e308,
}

EXPRESSIONS = (r"""
1 + 2 * 3
(1 + 2) * 3
7 // 2
-7 // 2
7 // -2
7 % 3
-7 % 3
7 % -3
7.5 % 2
-7.5 // 2
2 ** 10
2 ** -1
-2 ** 2
2 ** 3 ** 2
10 / 4
10 / 5
1 / 3
1 / 0
1 // 0
1 % 0
1.0 / 0
0 ** -1
2 ** 62
2 ** 0.5
1e308 * 10
1e16
1e15
123456789012345678
0.1 + 0.2
1e22
1e-5
0.0001
100000.0
5e-324
1.7976931348623157e308
2.5e-8
1.0
-0.0
1_000_000
0x1F
0o17
0b101
1.5e3
1e3
1_0.5_0
tiny
huge
big
big + 0.0
n + f
n - 50
n / 8
n * -1
+n
-neg
- -3
t + t
t * 3
not t
not nil
not not 3
1 < 2 < 3
1 < 3 < 2
1 == 1.0
1 == true
"1" == 1
"a" < "b"
"a" < 1
[1, 2] < [1, 3]
[1, 2] == [1, 2]
(1, 2) == [1, 2]
{"a": 1} == {"a": 1.0}
nil == none
nil is none
nil < 1
undefined_thing == undefined_other
undefined_thing == none
undefined_thing < 1
undefined_thing + 1
undefined_thing.x
undefined_thing["x"]
undefined_thing()
undefined_thing
d.nope
d.nope.x
d["nope"]["x"]
l[10]
l[10].x
l["x"]
s.nope
s["nope"]
n.nope
nil.x
nil["x"]
"a" ~ 1 ~ none ~ true ~ 1.5 ~ [1]
"a" + "b"
"a" + 1
1 + "a"
"ab" * 3
3 * "ab"
"ab" * -1
[1] * 3
[1] + [2]
[1] + (2,)
(1,) + (2, 3)
"ab" * 1.5
l * "a"
[1, 2, 3]
[1, 2, 3,]
[]
()
(1,)
(1, 2)
{}
{"a": 1, "b": [1, 2], 3: none, none: true, 1.5: "x", (1, 2): "t"}
{"a": 1, "a": 2}
{1: "a", true: "b", 1.0: "c"}
{[1]: 2}
"a" in s
"ell" in s
"x" not in s
1 in s
none in s
3 in l
"b" in d
1 in d
[1, 2] in nest
"a" in undefined_thing
"a" in none
undefined_thing in "abc"
undefined_thing in [1]
2 in range(5)
2.0 in range(5)
"a" if t
"a" if no
"a" if no else "b"
"a" if t else "b" if t else "c"
(none if no else none) is none
t and "x"
no and "x"
no or "x"
e or 0 or none
t and no or "y"
1 and 2 and 3
0 or "" or [] or "last"
s[0]
s[-1]
s[100]
s[1:4]
s[::-1]
s[::2]
s[-3:]
s[:-3]
s[5:2]
s[10:2:-2]
s[::0]
s[none:3]
s["a":]
z[1]
z[1:3]
z[::-1]
emoji[1]
emoji[1:4]
emoji[::-1]
l[0]
l[-1]
l[1:]
l[::-1]
l[:2] + l[2:]
nest[1][1][0]
(1, 2, 3)[1:]
range(10)[2:8:2]
range(10)[3]
range(10)[-1]
range(3)
range(1, 10, 3)|list
range(10, 0, -3)|list
range(0)|list
range(5)|length
range(1, 2, 0)
range(1000000)
range(3.5)
range("3")
dd.x.y.z
dd["x"]["y"]["z"]
dd["items"]
dd.list
dd.x["y"].z
d.items()
d.keys()
d.values()
d.items()|list
d.get("a")
d.get("zz")
d.get("zz", "dflt")
d.get()
d.copy()
d.pop("a")
d.update({"a": 1})
d.clear
d.setdefault("q", 1)
l.append(4)
l.pop()
l.sort()
l.index(1)
l.index(99)
l.count(1)
l.copy()
[1, 1, 2].count(1)
(1, 1).count(1)
s.upper()
s.lower()
s.title()
s.capitalize()
s.swapcase()
s.casefold()
u.upper()
u.lower()
u.title()
u.capitalize()
u.swapcase()
u.casefold()
u|upper
u|lower
u|title
u|capitalize
"ǆungla ŉ ﬁ İstanbul"|upper
"ǆungla ŉ ﬁ İstanbul".title()
"ǅ İI"|lower
"ΑΣ ΑΣΑ Σ ΣΑ Α.Σ Α'Σ"|lower
s.split()
s.split("o")
s.split("o", 1)
s.split(none, 1)
s.split("")
s.split(sep="l", maxsplit=2)
s.rsplit("o", 1)
s.rsplit(none, 1)
"  a  b  c ".split()
"  a  b  c ".split(none, 1)
"  a  b  c ".rsplit(none, 1)
"a,b,,c".split(",")
"a,b,,c".rsplit(",", 2)
"".split()
"".split(",")
"aXXbXXc".split("XX")
"aaaa".split("aa")
"aaaaa".rsplit("aa")
multi.splitlines()
multi.splitlines(true)
ctrl.splitlines()
"a\x0bb\x0cc\x1cd".splitlines()
ws.strip()
ws.lstrip()
ws.rstrip()
"xxhixx".strip("x")
"abcba".strip("ab")
"abcba".lstrip("ab")
"éàhié".strip("éà")
"x".strip(1)
s.strip(none)
s.startswith("Hell")
s.startswith(("x", "H"))
s.startswith("ello", 1)
s.endswith("ld")
s.endswith(("x", "ld"))
s.endswith("ld", 0, 5)
s.startswith(1)
s.startswith("")
s.find("o")
s.find("o", 5)
s.find("zz")
s.rfind("o")
s.index("o")
s.index("zz")
s.rindex("o")
s.count("o")
s.count("")
s.count("o", 5)
z.find("語")
z.rfind("テ")
z.count("日")
emoji.find("b")
s.find("o", -4)
s.find("", 100)
s.replace("o", "0")
s.replace("o", "0", 1)
s.replace("", "-")
s.replace("", "-", 3)
"aaa".replace("aa", "b")
"".replace("", "x")
z.replace("", ".")
s.join(["a", "b"])
", ".join(ls)
", ".join([1, 2])
", ".join("abc")
"".join([])
s.center(20)
s.center(21, "*")
s.ljust(15, ".") ~ "|"
s.rjust(15, ".")
s.zfill(15)
"-5".zfill(5)
"+5".zfill(5)
"abc".zfill(2)
s.center(3)
"ab".center(5, "xy")
tab.expandtabs()
tab.expandtabs(4)
tab.expandtabs(tabsize=0)
s.partition(" ")
s.rpartition("o")
s.partition("zz")
s.rpartition("zz")
s.partition("")
s.removeprefix("Hello")
s.removesuffix("World")
s.removeprefix("x")
s.isalpha()
"abc".isalpha()
"".isalpha()
"12".isdigit()
"²".isdigit()
"²".isdecimal()
"½".isnumeric()
"½".isalnum()
"a1".isalnum()
"a 1".isalnum()
"a".islower()
"A".isupper()
"1".islower()
"Hello World".istitle()
"hello".istitle()
" \t".isspace()
"".isspace()
"a_1".isidentifier()
"1a".isidentifier()
"été".isidentifier()
"a\n".isprintable()
"é".isascii()
"abc".isascii()
"日本".isalpha()
"٣".isdigit()
"{} {}".format(1, "a")
"{0} {1} {0}".format(1, 2)
"{a} {b}".format(a=1, b=2)
"{x.y.z}".format(x=dd.x) if false else "{x[y][z]}".format(x=dd.x)
"{0.upper}".format("x") is defined
"{:>10}|{:<10}|{:^10}".format("a", "b", "c")
"{:05d} {:+d} {:x} {:X} {:o} {:b} {:#x} {:,}".format(42, 42, 255, 255, 8, 5, 255, 1234567)
"{:.2f} {:.0f} {:e} {:g} {:%}".format(3.14159, 2.5, 12345.678, 0.0001, 0.25)
"{:10.3f}|{:<10.2e}|{:+.1f}".format(3.14159, 1234.5, 2.0)
"{!r} {!s} {!a}".format("é", "é", "é")
"{:{w}.{p}f}".format(3.14159, w=10, p=2)
"{{}} {}".format(1)
"{".format(1)
"}".format(1)
"{} {0}".format(1, 2)
"{5}".format(1)
"{a}".format(b=1)
"{:d}".format("a")
"{:s}".format(1)
"{:.3}".format("abcdef")
"{:.3}".format(3.14159)
"{:.3}".format(1234567.0)
"{:.3}".format(100.0)
"{:.4}".format(100.0)
"{:.1}".format(5.0)
"{:.2}".format(0.000012345)
"{:.10}".format(1.5)
"{}".format(1e16)
"{:g} {:g} {:g}".format(1e10, 123456, 1234567)
"{:08.3f}".format(-3.14159)
"{:08,}".format(1234)
"{:010,.2f}".format(1234.5)
"{:_}".format(1234567)
"{:_x}".format(65535)
"{:c}".format(65)
"{:,}".format("a")
"{:>5}".format(true)
"{}".format(true)
"{:d}".format(true)
"{}".format(none)
"{:5}".format(none)
"{}".format([1, 2])
"{:*^9}".format("é")
"{:=+5d}".format(3)
"{:n}".format(1234)
"{a.name}".format(a=users[0])
"{0[name]}".format(users[0])
"{0[0]}".format(l)
"{x}".format_map({"x": 5})
"{:.50f}".format(0.1)
"{:f} {:F} {:e} {}".format(huge_float, -huge_float, num|replace("12.5", "nan")|float, num|replace("12.5", "-inf")|float)
"%s %d %5.2f" % ("a", 3, 2.5)
"%s" % "x"
"%s" % [1, 2]
"%s and %s" % ("a",)
"%s" % ("a", "b")
"%(a)s %(b)d" % {"a": 1, "b": 2}
"%(zz)s" % {"a": 1}
"%5s|%-5s|%05d|%+d|% d|%x|%X|%o|%#x|%#o" % ("a", "b", 42, 42, 42, 255, 255, 8, 255, 8)
"%e %E %g %G" % (12345.678, 0.00012, 1e-10, 1e20)
"%.3s|%10.2f|%-10.1e|" % ("abcdef", 3.14159, 1234.5)
"%c%c" % ("a", 66)
"%%" % ()
"%r %a" % ("é'", "é")
"%d" % 3.9
"%d" % "3"
"%x" % 3.5
"%z" % 1
"%n" % 1
"%" % 1
"%*d|%-*d|%.*f" % (5, 42, 5, 42, 2, 3.14159)
"abc" % ()
"abc" % 1
"abc" % {"a": 1}
"%s" % none
"%s %s" % (none, true)
"%i%%" % 50
"%05.1f|%+.0f" % (2.55, 0.5)
"%s"|format("x")
"%s %s"|format(1, 2)
"%(a)s"|format(a=5)
"%s"|format
s|length
l|length
d|length
z|length
emoji|count
n|length
nil|length
undefined_thing|length
l|first
l|last
empty|first
empty|last
s|first
s|last
d|first
d|last
nil|first
undefined_thing|first
undefined_thing|last
range(3)|last
z|max
z|min
z|sort
"日" < "本" and "本" < "語" and "a" < "c" and "é" < "ÿ"
"{:}"|max
l|sum
empty|sum
[1.5, 2]|sum
ls|sum
users|sum(attribute="age")
l|sum(start=10)
[[1], [2]]|sum(start=[])
l|min
l|max
ls|min
ls|max
ls|min(case_sensitive=true)
ls|max(true)
empty|max
users|max(attribute="age")
users|min(attribute="name")
mix|max
l|sort
l|sort(reverse=true)
ls|sort
ls|sort(case_sensitive=true)
ls|sort(true, true)
mix|sort
[none, none]|sort
d|sort
"cab"|sort
users|sort(attribute="age")|map(attribute="name")|list
users|sort(attribute="age,name")|map(attribute="name")|list
users|sort(attribute="name", reverse=true)|map(attribute="name")|join(",")
users|sort(attribute="nope")|length
d|dictsort
d|dictsort(true)
d|dictsort(false, "value")
d|dictsort(by="value", reverse=true)
d|dictsort(by="x")
l|dictsort
undefined_thing|dictsort
ls|unique|list
ls|unique(case_sensitive=true)|list
[1, 1.0, true, 2]|unique|list
users|unique(attribute="city")|map(attribute="name")|list
[[1], [1]]|unique|list
l|join
l|join("-")
ls|join(", ")
users|join("; ", attribute="name")
[none, true, 1.5]|join(" ")
"abc"|join("-")
d|join(",")
n|join
undefined_thing|join("x")
l|reverse|list
s|reverse
z|reverse
d|reverse|list
n|reverse
nil|reverse
l|map("string")|list
ls|map("upper")|join
ls|map("replace", "a", "X")|list
users|map(attribute="name")|list
users|map(attribute="nope")|list
users|map(attribute="nope", default="?")|list
users|map(attribute="nope.x", default="?")|list
nest|map("length")|list
nest|map(attribute=0)|list
nest|map("first")|list
l|map("nofilter")|list
empty|map("nofilter")|list
empty|map|list
l|map|list
l|map(attribute="x", foo=1)|list
l|select("odd")|list
l|select("greaterthan", 1)|list
l|select(">", 1)|list
l|reject("odd")|list
mix|select|list
mix|reject|list
mix|select("string")|list
mix|select("mapping")|list
users|selectattr("age", "equalto", 25)|map(attribute="name")|list
users|selectattr("age", ">=", 30)|list|length
users|rejectattr("city", "in", ["LA"])|map(attribute="name")|list
users|selectattr("nope")|list
users|rejectattr("nope", "defined")|list|length
users|selectattr("name", "nope")|list
""" + MORE_EXPRESSIONS)


# Whitespace: every combination of these pieces is tried.
WHITESPACE_TAGS = ["{% if t %}", "{%- if t %}", "{%+ if t %}", "{% if t -%}", "{% if t +%}", "{%- if t -%}"]
WHITESPACE_ENDS = ["{% endif %}", "{%- endif %}", "{% endif -%}", "{%+ endif +%}"]
WHITESPACE_TEXTS = ["", " ", "\n", "  \n  ", "x\n  ", "\r\n \t", "\u00a0\n\u2003"]
WHITESPACE_MORE = [
    "{{ s }}\n", "{{ s -}}\n  x", "x  \n  {{- s }}", "{{ s }}\n\n", "  {{ s }}  ", "a\n\n\n", "a\r\nb\rc\n", "\n", "\n\n",
    "", " ", "  {# c #}\n x", "  {# c -#}\n x", "x\n  {#- c #}\n y", "{# c #}\n\n x", "a {# c #}  {% if t %}b{% endif %}",
    "  {% set a = 1 %}\n  {% set b = 2 %}\n{{ a }}{{ b }}", "{% for x in l %}\n  {{ x }}\n{% endfor %}\n",
    "{% for x in l -%}\n  {{ x }}\n{%- endfor %}\n", "{% for x in l +%}\n  {{ x }}\n{%+ endfor %}\n",
    "x{% if t %}\ny{% endif %}\nz", "x {% if t %} y {% endif %} z", "{{ s }}  {% if t %}a{% endif %}",
    "{{ s }}\n  {% if t %}a{% endif %}", "{% if t %}{{ s }}\n{% endif %}x", "{% if t %}   {% if t %}x{% endif %}{% endif %}",
    "\t{% if t %}\t\n\tx\t{% endif %}\t\n", "{% if t -%}   \n\n   {% if t %}x{% endif %}{%- endif %}",
    "{%- if t %}\n\n{%- endif %}", "{% raw -%}\n  x\n{%- endraw %}\n  y", "  {%- raw %} x {% endraw -%}  y",
    "{% macro m() %}\n  x\n{% endmacro %}\n[{{ m() }}]", "{% set x %}\n  a\n{% endset %}\n[{{ x }}]",
    "{% filter upper %}\n  a\n{% endfilter %}\n", "a\n{%- if t %}b{% endif %}", "a \t\n {%+ if t %}b{% endif %}",
    "\x0b{% if t %}a{% endif %}", "x\u2028  {% if t %}a{% endif %}", "{% if t %}\x0b\n{% endif %}", "\ufeffx",
]
