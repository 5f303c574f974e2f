# SPDX-License-Identifier: Apache-2.0
"""Small templates for tests/templates.py: each is rendered by tenon and by jinja2, and both must
print the same or both must refuse. `VARS` is what they see."""

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

EXPRESSIONS = r"""
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
users|selectattr|list
l|select("odd")|length
l|select("odd")|first
l|select("odd")|last
l|select("odd")|list|last
l|batch(2)|list
l|batch(2, "x")|list
l|batch(0)|list
range(7)|batch(3, 0)|list
l|slice(2)|list
range(10)|slice(3)|list
range(10)|slice(3, "x")|list
l|slice(0)|list
users|groupby("city")|list|length
users|groupby("city")|map(attribute="grouper")|list
users|groupby("city", case_sensitive=true)|map(attribute="grouper")|list
(users|groupby("city"))[0].list|map(attribute="name")|join(",")
(users|groupby("city"))[0][0]
users|groupby("zip", default="none")|map(attribute="grouper")|list
(users|groupby("age"))|map("first")|list
d|items|list
undefined_thing|items|list
l|items|list
"abc"|list
d|list
undefined_thing|list
n|list
nil|default("x")
undefined_thing|default("x")
undefined_thing|d("x")
e|default("x")
e|default("x", true)
zero|default("x", boolean=true)
undefined_thing|default
d.nope|default("x")
d.nope.nope|default("x")
s|replace("o", "0")
s|replace("o", "0", 1)
s|replace("o")
n|replace("4", "5")
s|trim
ws|trim
"xxaxx"|trim("x")
n|trim
undefined_thing|trim
s|upper
n|upper
undefined_thing|upper
nil|upper
s|title
"foo-bar (baz) [qux] {a} <b> it's o'neil"|title
"ßeta Éa ÇA"|title
s|wordcount
"a-b c_d e.f é"|wordcount
e|wordcount
s|center(20)
s|center(20) ~ "|"
s|center
n|center(10)
multi|indent
multi|indent(2)
multi|indent(2, true)
multi|indent(2, first=true, blank=true)
multi|indent("> ")
multi|indent(width=0)
multi|indent(-1)
e|indent
n|indent
undefined_thing|indent
nil|indent
"\n\na\n"|indent
long|truncate(20)
long|truncate(20, true)
long|truncate(20, false, "…")
long|truncate(20, leeway=0)
long|truncate(20, true, end="", leeway=0)
long|truncate(2)
s|truncate(9)
s|truncate(5, true, "..", 0)
s|truncate(5, leeway=-1)
undefined_thing|truncate
l|truncate(5)
n|truncate(5)
long|wordwrap(20)
long|wordwrap(10, wrapstring="|")
long|wordwrap(3)
long|wordwrap(3, false)
long|wordwrap(0)
"a well-known long-term mother-in-law -- yes--no self-made"|wordwrap(9)
"a well-known long-term mother-in-law -- yes--no self-made"|wordwrap(9, break_on_hyphens=false)
"  leading and   inner   blanks  "|wordwrap(8)
multi|wordwrap(3)
"aaaaaaaaaa-bbbbbbbbbbbbbbbb-cc"|wordwrap(7)
"x"|wordwrap(5, wrapstring=none)
e|wordwrap(0)
"12"|int
"12.7"|int
"abc"|int
"abc"|int(5)
" 12 "|int
"1_000"|int
"1__0"|int
"0x1f"|int
"0x1f"|int(base=16)
"1f"|int(0, 16)
"0b11"|int(0, 2)
"0b11"|int(0, 0)
"z"|int(base=36)
"10"|int(base=1)
"٣"|int
3.99|int
-3.99|int
true|int
nil|int
nil|int(7)
l|int
undefined_thing|int
1e300|int
"1e3"|int
"inf"|int
"nan"|int(1)
"-5"|int
"+5"|int
"- 5"|int
"12"|float
"1.5e3"|float
"abc"|float
"abc"|float(2)
nil|float
undefined_thing|float
"inf"|float
"nan"|float
" 1.5 "|float
"1_0.5"|float
5|float
true|float
n|abs
neg|abs
-1.5|abs
true|abs
s|abs
undefined_thing|abs
f|round
2.5|round
3.5|round
-2.5|round
f|round(1)
2.675|round(2)
42.55|round(1, "floor")
42.51|round(1, "ceil")
42|round
42|round(-1)
45|round(-1)
55|round(-1)
1234.5|round(-2)
42.55|round(0, "up")
s|round
undefined_thing|round
42|round(1, "ceil")
-1.1|round(0, "ceil")
0.5|round|int
1e300|round(2)
123.456|round(-1, "floor")
s|string
n|string
undefined_thing|string
nil|string
l|string
s|escape
html|e
html|safe
html|forceescape
html|e|e
html|e ~ "<b>"
(html|e) + "<b>"
"<b>" + (html|e)
(html|e) * 2
(html|e)|upper
(html|e)|replace("&", "+")
(html|safe)|length
(html|safe)[0:3] + "<"
("<%s>"|safe) % "<x>"
("<{}>"|safe).format("<x>")
("<"|safe).join(["<a>", "b"])
["<", "<"|safe]|join("<")
(html|e) is escaped
html is escaped
[html|safe]
html|striptags
"<!-- c --> a <b>x</b>  &amp; &lt;y&gt; &#65; &#x42;"|striptags
html|urlencode
"a b/c?d=é&f"|urlencode
d|urlencode
[["a b", 1], ["c", "é/"]]|urlencode
n|urlencode
{"class": "x", "id": none, "n": 1, "v": "<\"&'"}|xmlattr
{"a": 1}|xmlattr(false)
{"a b": 1}|xmlattr
{}|xmlattr
undefined_thing|xmlattr
1|filesizeformat
500|filesizeformat
1500|filesizeformat
1500|filesizeformat(true)
123456789|filesizeformat
"1e12"|filesizeformat(binary=true)
1e30|filesizeformat
mix|tojson
d|tojson
d|tojson(sort_keys=true)
d|tojson(indent=2)
d|tojson(indent=0)
d|tojson(indent="--")
d|tojson(true)
dd|tojson(indent=4)
mix|tojson(indent=1)
u|tojson
u|tojson(ensure_ascii=true)
emoji|tojson(ensure_ascii=true)
ctrl|tojson
ctrl|tojson(true)
q|tojson
html|tojson
"a/b\\c\"\n\t\r\b\f\x00\x1f"|tojson
1.0|tojson
1e100|tojson
big|tojson
nil|tojson
t|tojson
undefined_thing|tojson
(1, 2)|tojson
{1: 2, none: 3, true: 4, 1.5: 5}|tojson
{(1, 2): 3}|tojson
range(3)|tojson
l|select|tojson
[[], {}, [[]], {"a": {}}]|tojson(indent=2)
d|tojson(separators=(",", ":"))
d|tojson(separators=[", ", " = "], indent=2)
d|tojson(separators=(",",))
{"b": 1, "a": {"d": 1, "c": 2}}|tojson(sort_keys=true, indent=1)
{"b": 1, 2: 3}|tojson(sort_keys=true)
mix|pprint
users|pprint
dd|pprint
long|pprint
(long ~ " " ~ long)|pprint
[long, long ~ long]|pprint
{"k": long ~ " " ~ long, "a": 1}|pprint
multi ~ long ~ long
(multi ~ "\n" ~ long ~ long)|pprint
{"b": 1, "a": {"d": [1, 2, 3], "c": ()}}|pprint
s|pprint
(1,)|pprint
[users, [long, (long, long)], {"deep": {"deeper": users}}]|pprint
n is defined
undefined_thing is defined
undefined_thing is undefined
nil is defined
nil is none
n is none
t is boolean
1 is boolean
t is true
1 is true
no is false
zero is false
n is integer
t is integer
f is integer
f is float
n is float
n is number
t is number
s is number
s is string
n is string
d is mapping
l is mapping
l is sequence
s is sequence
d is sequence
n is sequence
undefined_thing is sequence
range(3) is sequence
(l|select) is sequence
d.items() is sequence
l is iterable
n is iterable
undefined_thing is iterable
d.keys() is iterable
nil is iterable
range is callable
s.upper is callable
undefined_thing is callable
n is callable
n is odd
n is even
3 is odd
-3 is odd
3.5 is odd
s is odd
n is divisibleby 7
n is divisibleby(5)
n is divisibleby 0
undefined_thing is odd
s is lower
"abc" is lower
"ABC" is upper
n is lower
none is sameas none
n is sameas n
[] is sameas []
l is sameas l
1 is in [1, 2]
"a" is in "abc"
"a" is not in "abc"
n is eq 42
n is equalto(42)
n is ne 42
n is gt 5
n is ge 42
n is lt 5
n is le 42
n is lessthan 50
n is greaterthan 50
s is gt 5
n is not none
n is not defined
not n is none
n is defined and s is string
"upper" is filter
"nope" is filter
"odd" is test
"nope" is test
1 is string or 2 is number
namespace(a=1).a
namespace(a=1)["a"]
namespace(a=1).b
namespace({"a": 1}, b=2)
namespace(a=1) is mapping
namespace() is iterable
namespace([("a", 1)]).a
"a" in namespace(a=1)
dict(a=1, b=2)
dict({"x": 1}, y=2)
dict([("a", 1), ["b", 2]])
dict(d)
dict(5)
dict([1])
dict([(1, 2, 3)])
dict(**d)
dict.fromkeys(["a", "b"])
dict.fromkeys("ab", 0)
joiner()()
joiner("x") is callable
(1).bit_length()
(1.5).is_integer()
(2.0).is_integer()
(5).real
true.imag
s.__class__
s.__class__.__mro__
[].__class__.__base__
d.__getitem__
d["__class__"]
s._private
namespace(_x=1)._x
raise_exception("boom")
raise_exception(1)
raise_exception()
strftime_now("%Y-%m-%d")
strftime_now("%d %b %Y, %H:%M:%S %A %B %p %j %y %%")
strftime_now("%-d %-m %e|%f|%z|%Z|%q|%")
strftime_now("")
strftime_now(5)
mix
[nil, t, 1.0, "a'b", 'c"d', "e'f\"g", "\n\t\\", "é", "\x00\x7f\xa0\u200b\ud7ff\U0001F600"]
ctrl ~ "x"
[ctrl]
(1, "a", (2,))
d.items()
d
users[0]
[undefined_thing]
"a" "b" 'c'
'\n\t\x41\u00e9\101\q\\'
"\é\日\😀"
'it\'s'
"tab\	x"
s|upper|lower|title
s | upper
(s)|upper
-n|abs
-1|abs
2 ** 3|abs
1 + 2|string
(1 + 2)|string ~ "x"
n|string + "a"
l|join(",")|upper
not l
l is defined is true
not undefined_thing
s.upper().lower().title()
s.split()[0][0].upper()
s.split(*[" "])
s.split(**{"sep": "o"})
s.replace(*["o", "0"], **{})
s.upper(1)
s.upper(x=1)
s.split(1, 2, 3)
s.replace("a")
l|join(d="x")
l|join(", ", d="x")
l|join(foo=1)
s|upper(1)
l[0, 1]
d[1:2]
nil[1:2]
undefined_thing[1:2]
n[0]
l.0
nest.1.1.0
nest[1].1[0]
[[1, 2], [3]][0].1
{"a": {"b": 1}}.a.b
{"items": 1}["items"]
{"a": 1}.a
1.5.real
"%s" % undefined_thing
[1, 2, 3][l[1]]
{"x": 1}["x" if t else "y"]
l|map("int")|sum
["1", "2"]|map("int")|sum
(l|map("string"))|join
users|map(attribute="name")|map("upper")|map("replace", "A", "_")|join(" ")
users|selectattr("age", "gt", 25)|rejectattr("name", "eq", "Bob")|map(attribute="name")|first
[3, [1, 2]]|string
{"a": undefined_thing}
[1,2]|first + 5
"a" * 3 ~ "b" * 2
1 if n > 5 and n < 100 else 2
n in [1, 42] and "yes"
n not in [1, 42] or "no"
not n in [1, 42]
"a" < "b" and "b" < "c"
"é" > "z"
[1, "a"] < [1, "b"]
[1] < ["a"]
1 == 1 == 1
1 != 2 != 1
1 in [1] == true
1,
1, 2
(1)
"abc"["upper"]()
"abc"[1:][0]
"日本"[-1:]
s[s|length - 1]
range(5)|list|length
"x"|list|tojson
9223372036854775807
9223372036854775807 + 1
9223372036854775808
-9223372036854775807 - 1
3037000500 * 3037000500
10 ** 19
10 ** 18
1 is not string
"" ~ ""
none ~ none
"a" ~ undefined_thing ~ "b"
(undefined_thing|default({})).x
({}).x is defined
({}|default(5)).y is defined
"ab" in ["ab"]
"a,b;c".replace(",", ";").split(";")|last
"<think>x</think>y".split("</think>")[-1].lstrip("\n")
"<think>x</think>y".split("</think>")[0].split("<think>")[-1]
"Σ".lower() ~ "ΑΣ".lower() ~ "ΑΣ.".lower()
"ﬃ".upper() ~ "ŉ".upper() ~ "ΐ".upper()
"ÀÉ".casefold() ~ "ẞß".casefold()
"\u0130".lower()|length
"a\u0301".title()
"\u1c5".title() if false else "ǅ".swapcase()
"x" if undefined_thing else "y"
"x" if d.nope is not defined else "y"
loop
loop.index
self is defined and false
caller is defined
varargs is defined
"a\
b"
true and false or not false
True == true
None == none
False
[true, True, none, None]
"{:>{}}".format("a", 5)
"{0:{1}}".format("a", ">5")
"{:{}{}}".format(1, ">", 5)
"%s" % (("a", "b"),)
"%s %s" % ["a", "b"]
"{}".format(d.nope)
"{:>5}".format(d.nope)
"{:.2f}".format("1")
"{:z.1f}".format(-0.04)
"{:,.3f}".format(1234567.891)
"{:<+8.2f}|".format(1.5)
"{:e}".format(0.0)
"{:g}".format(0.00001234)
"{:#.3g}".format(1.0)
"{:.0e}".format(12345.0)
"{:%}".format(1)
"{:.1%}".format(0.1234)
"{:d}".format(1.5)
"{:x}".format(1.5)
"{:5c}|".format(97)
"{:<5d}|{:^5d}|{:05}|{:-^9}".format(1, 2, 3, 4)
"{:+x} {:#b} {:#o}".format(10, 5, 8)
"{!x}".format(1)
"{a[b]}".format(a={"b": 3})
"{a[b}".format(a={"b": 3})
"{a.b.c}".format(a={"b": {"c": 9}})
"{:.5000f}".format(1.0)|length
"{:>1000000000}".format(1)
"%1000000000d" % 1
"a" * 1000000000
"a" * 10 ** 12
[1] * 1000000000
s.center(1000000000)
s|center(1000000000)
s.ljust(1000000000)
multi|indent(1000000000)
"aaaa".replace("", "x" * 60000000)
s.zfill(1000000000)
tab.expandtabs(1000000000)
"""

STATEMENTS = [
    "{% if t %}a{% endif %}", "{% if no %}a{% else %}b{% endif %}",
    "{% if no %}a{% elif t %}b{% else %}c{% endif %}",
    "{% if no %}a{% elif no %}b{% elif nil %}c{% else %}d{% endif %}",
    "{% if 1, 2 %}a{% endif %}", "{% if %}a{% endif %}", "{% if t %}", "{% endif %}", "{% else %}",
    "{% if t: %}a{% endif %}",
    "{% for x in l %}{{ x }},{% endfor %}", "{% for x in empty %}a{% else %}none{% endfor %}",
    "{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}"
    "{{ loop.first }}{{ loop.last }}{{ loop.length }}|{% endfor %}",
    "{% for x in l %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }};{% endfor %}",
    "{% for x in l %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }}{% endfor %}",
    "{% for x in l %}{{ loop.cycle('a', 'b') }}{% endfor %}",
    "{% for x in l %}{{ loop.cycle() }}{% endfor %}",
    "{% for x in [1,1,2,2,1] %}{{ loop.changed(x) }},{% endfor %}",
    "{% for x in [1,1,2] %}{{ loop.changed(x, 1) }}{{ loop.changed(x) }},{% endfor %}",
    "{% for x in l %}{{ loop.depth }}{{ loop.depth0 }}{{ loop }}{% endfor %}",
    "{% for x in l %}{{ loop.nope }}{{ loop.nope is defined }}{% endfor %}",
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for k, v in d|items %}{{ k }}={{ v }};{% endfor %}",
    "{% for k, v in d|dictsort %}{{ k }}={{ v }};{% endfor %}",
    "{% for k in d %}{{ k }}{% endfor %}", "{% for c in z %}[{{ c }}]{% endfor %}",
    "{% for a, b in nest %}{{ a }}-{{ b }};{% endfor %}",
    "{% for a, (b, c) in [[1, [2, 3]]] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "{% for (a, b) in [[1, 2]] %}{{ a }}{{ b }}{% endfor %}",
    "{% for a, b in [[1, 2, 3]] %}{% endfor %}", "{% for a, b in [[1]] %}{% endfor %}",
    "{% for a, b in [1] %}{% endfor %}", "{% for a, b in ['xy'] %}{{ a }}{{ b }}{% endfor %}",
    "{% for a, in [[1], [2]] %}{{ a }}{% endfor %}",
    "{% for x in n %}{% endfor %}", "{% for x in nil %}{% endfor %}",
    "{% for x in undefined_thing %}a{% else %}b{% endfor %}",
    "{% for x in l if x > 1 %}{{ x }}{{ loop.index }}{{ loop.length }}{% endfor %}",
    "{% for x in l if x > 5 %}a{% else %}none{% endfor %}",
    "{% for k, v in d.items() if v > 1 %}{{ k }}{{ v }}{{ loop.last }}{% endfor %}",
    "{% for x in l if loop.index > 1 %}{{ x }}{% endfor %}",
    "{% set ns = namespace(go=true) %}{% for x in [1,2,3,4] if ns.go %}{{ x }}"
    "{% if x == 2 %}{% set ns.go = false %}{% endif %}{% endfor %}",
    "{% set ns = namespace(go=true) %}{% for x in [1,2,3,4] if ns.go %}{{ x }}{{ loop.last }}"
    "{% if x == 2 %}{% set ns.go = false %}{% endif %}{% endfor %}",
    "{% for x in l %}{% for y in l %}{{ loop.index }}{{ x }}{{ y }} {% endfor %}{{ loop.index }}"
    "{% endfor %}",
    "{% for x in l %}{% set outer = loop %}{% for y in l %}{{ outer.index }}{{ loop.index }} "
    "{% endfor %}{% endfor %}",
    "{% for x in l %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in l %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in l %}{% continue %}{% else %}else{% endfor %}",
    "{% for x in l %}{% break %}{% else %}else{% endfor %}",
    "{% for x in l %}{{ x }}{% if x == 1 %}{% break %}{% endif %}{% else %}else{% endfor %}",
    "{% for x in l %}{% for y in l %}{% if y == 1 %}{% break %}{% endif %}{{ y }}{% endfor %}"
    "{% endfor %}",
    "{% break %}", "{% if t %}{% continue %}{% endif %}",
    "{% for x in l %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}",
    "{% for x in l %}{% set y %}a{% break %}{% endset %}{{ y }}{% endfor %}after",
    "{% for x in l %}{% filter upper %}a{% if loop.index == 2 %}{% continue %}{% endif %}b"
    "{% endfilter %}{% endfor %}",
    "{% for x in l recursive %}{{ x }}{% endfor %}",
    "{% for x in nest recursive %}{% if x is iterable %}[{{ loop(x) }}]{% else %}{{ x }}"
    "{{ loop.depth }}{% endif %}{% endfor %}",
    "{% for x in [[1, [2]], 3] recursive %}{% if x is iterable %}({{ loop(x) }}){% else %}"
    "{{ x }}.{{ loop.depth0 }}{% endif %}{% else %}E{% endfor %}",
    "{% for x in l %}{{ loop(l) }}{% endfor %}",
    "{% for x in [1, [2, 3]] if x recursive %}{{ loop(x) if x is iterable else x }}{% endfor %}",
    "{% for loop in l %}{% endfor %}", "{% for x in l %}{% set loop = 1 %}{% endfor %}",
    "{% set loop = 5 %}{{ loop }}", "{{ loop }}x",
    "{% for x in l %}{% set y = x %}{% endfor %}{{ y }}",
    "{% set y = 0 %}{% for x in l %}{% set y = y + x %}{{ y }},{% endfor %}{{ y }}",
    "{% set ns = namespace(y=0) %}{% for x in l %}{% set ns.y = ns.y + x %}{% endfor %}{{ ns.y }}",
    "{% set x = 5 %}{% for x in l %}{{ x }}{% endfor %}{{ x }}",
    "{% for x in l %}{% endfor %}{{ x }}",
    "{% if t %}{% set x = 1 %}{% endif %}{{ x }}", "{% if no %}{% set x = 1 %}{% endif %}{{ x }}",
    "{% if no %}{% set s = 1 %}{% endif %}{{ s }}", "{% set s = s + '!' %}{{ s }}",
    "{% set x = x %}{{ x }}", "{{ x }}{% set x = 1 %}{{ x }}", "{{ s }}{% set s = 1 %}{{ s }}",
    "{% for i in l %}{{ s }}{% set s = i %}{{ s }},{% endfor %}{{ s }}",
    "{% for i in l %}{% if i == 1 %}{% set s = i %}{% endif %}{{ s }},{% endfor %}{{ s }}",
    "{% for i in l %}{{ q2 }}{% set q2 = i %}{{ q2 }},{% endfor %}{{ q2 }}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set a, b = [1, 2] %}{{ a }}{{ b }}",
    "{% set (a, b) = 'xy' %}{{ a }}{{ b }}", "{% set a, b = 1 %}", "{% set a, b = [1] %}",
    "{% set a = 1, 2 %}{{ a }}", "{% set a = 1, %}{{ a }}", "{% set a %}", "{% set = 1 %}",
    "{% set 1 = 2 %}", "{% set a.b = 1 %}", "{% set d.b = 1 %}{{ d }}", "{% set true = 1 %}",
    "{% set a[0] = 1 %}", "{% set [a, b] = [1, 2] %}", "{% set a = b = 1 %}",
    "{% set x %}abc{{ n }}{% endset %}{{ x }}", "{% set x | upper %}abc{% endset %}{{ x }}",
    "{% set x | replace('a', s) | upper %}abc{% endset %}{{ x }}{{ s }}",
    "{% set x %}{% set y = 1 %}{{ y }}{% endset %}{{ x }}{{ y }}",
    "{% set x | length %}abc{% endset %}{{ x + 1 }}",
    "{% set ns = namespace() %}{% set ns.x %}block{% endset %}{{ ns.x }}",
    "{% set ns = namespace(a=1) %}{% set ns.a, ns.b = 2, 3 %}{{ ns.a }}{{ ns.b }}{{ ns }}",
    "{% set ns = namespace(a=[]) %}{% for x in l %}{% set ns.a = ns.a + [x * 2] %}{% endfor %}"
    "{{ ns.a }}",
    "{% set ns = namespace() %}{% set ns.self = ns %}{{ ns.self.self is defined }}",
    "{% set nope.x = 1 %}", "{% with %}{% set a = 1 %}{{ a }}{% endwith %}{{ a }}",
    "{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}",
    "{% with a = 1, b = a %}{{ b }}{% endwith %}", "{% with s = s ~ '!' %}{{ s }}{% endwith %}{{ s }}",
    "{% with a = 1 %}{% with a = 2 %}{{ a }}{% endwith %}{{ a }}{% endwith %}",
    "{% with a = 1 %}{% set s = a %}{{ s }}{% endwith %}{{ s }}",
    "{% macro m(a, b=2) %}{{ a }}-{{ b }}{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(b=5, a=4) }}",
    "{% macro m(a, b=2) %}{{ a }}{{ b }}{% endmacro %}{{ m() }}",
    "{% macro m(a) %}{{ a.x }}{% endmacro %}{{ m() }}", "{% macro m() %}{% endmacro %}{{ m(1) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(b=2) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, a=2) }}",
    "{% macro m(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, x=4) }}{{ m(1) }}",
    "{% macro m() %}{{ kwargs.x }}{% endmacro %}{{ m(x=1) }}{{ m() }}",
    "{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}",
    "{% macro m(a=b, b=2) %}{{ a }}|{{ b }}{% endmacro %}{{ m() }}",
    "{% macro m(a, a) %}{% endmacro %}", "{% macro m(a=1, b) %}{% endmacro %}",
    "{% macro m(x) %}{{ x }}{{ n }}{{ later }}{% endmacro %}{{ m(1) }}{% set later = 5 %}{{ m(1) }}",
    "{% set v = 1 %}{% macro m() %}{{ v }}{% endmacro %}{{ m() }}{% set v = 2 %}{{ m() }}",
    "{% macro m() %}{% set v = 9 %}{{ v }}{% endmacro %}{{ m() }}{{ v }}",
    "{% set v = 1 %}{% macro m() %}{% set v = 9 %}{{ v }}{% endmacro %}{{ m() }}{{ v }}",
    "{% for i in l %}{% macro m() %}{{ i }}{% endmacro %}{{ m() }}{% endfor %}",
    "{% macro f(n) %}{% if n > 0 %}{{ n }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}",
    "{% macro f(x) %}{% if x is iterable and x is not string %}[{% for y in x %}{{ f(y) }}"
    "{% if not loop.last %},{% endif %}{% endfor %}]{% else %}{{ x }}{% endif %}{% endmacro %}"
    "{{ f(nest) }}",
    "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}B{% endmacro %}{{ a() }}",
    "{{ a() }}{% macro a() %}A{% endmacro %}",
    "{% macro m() %}  x  {% endmacro %}[{{ m() | trim }}][{{ m()|length }}]",
    "{% macro m() %}<{% endmacro %}{{ m() ~ '>' }}{{ m() + 'x' }}{{ m() is string }}",
    "{% macro m(a, b=1) %}{% endmacro %}{{ m.name }}{{ m.arguments }}{{ m.catch_kwargs }}"
    "{{ m.catch_varargs }}{{ m.caller }}{{ m }}",
    "{% macro m() %}{{ caller() }}{% endmacro %}{{ m.caller }}",
    "{% macro m() %}({{ caller() }}){% endmacro %}{% call m() %}body{% endcall %}",
    "{% macro m() %}({{ caller(1, 2) }}){% endmacro %}{% call(a, b) m() %}{{ a }}{{ b }}{% endcall %}",
    "{% macro m(x) %}{{ x }}({{ caller() }}){% endmacro %}{% call m(5) %}{{ n }}{% endcall %}",
    "{% macro m() %}x{% endmacro %}{% call m() %}body{% endcall %}",
    "{% macro m() %}{{ caller() }}{% endmacro %}{{ m() }}",
    "{% macro m() %}{% if caller is defined %}{{ caller() }}{% else %}none{% endif %}{% endmacro %}"
    "{{ m() }}{% call m() %}y{% endcall %}",
    "{% macro m(caller=none) %}{{ caller is none }}{% endmacro %}{{ m() }}",
    "{% macro m(caller) %}{{ caller() }}{% endmacro %}", "{% call 5 %}{% endcall %}",
    "{% call s.upper() %}x{% endcall %}", "{% macro m(x) %}{{ caller(x) }}{% endmacro %}"
    "{% for i in l %}{% call(y) m(i) %}{{ y }}{{ i }};{% endcall %}{% endfor %}",
    "{% macro m() %}{{ varargs|length }}{{ caller() if caller else '' }}{% endmacro %}{{ m(1,2) }}",
    "{% macro m(a) %}{% macro inner(b) %}{{ a }}{{ b }}{% endmacro %}{{ inner(2) }}{% endmacro %}"
    "{{ m(1) }}",
    "{% macro loop() %}{% endmacro %}{{ loop() }}",
    "{% filter upper %}abc {{ s }}{% endfilter %}", "{% filter replace('a', 'b')|upper %}aa{% endfilter %}",
    "{% filter trim %}  x  {% endfilter %}", "{% filter length %}abc{% endfilter %}",
    "{% filter indent(2) %}a\nb{% endfilter %}",
    "{% filter upper %}{% set w = 1 %}{{ w }}{% endfilter %}{{ w }}",
    "{% filter list %}abc{% endfilter %}",
    "{% raw %}{{ x }}{% if %}{# c #}{% endraw %}", "{%- raw -%}  {{ x }}  {%- endraw -%}  y",
    "{% raw %}\n  a\n  {% endraw %}\nb", "{% raw %}{% raw %}{% endraw %}", "{% raw %}x",
    "a{% raw %}  b{% endraw %}\n  c", "  {% raw %}  x  {% endraw %}  ",
    "a {# comment #} b", "a {#- comment -#} b", "a\n  {# comment #}\n  b", "{# unclosed",
    "{# a {{ b }} {% c %} #}x", "{#- -#}", "{##}x", "{#-#}x", "{#+ +#}\nx",
    "{% print s %}", "{% print s, n %}", "{% print %}",
    "{% generation %}a{{ s }}{% endgeneration %}b", "{% generation %}{% set gg = 1 %}{% endgeneration %}{{ gg }}",
    "{% for x in l %}{% generation %}{{ loop.index }}{{ x }}{% endgeneration %}{% endfor %}",
    "{%- generation -%}  x  {%- endgeneration -%}  y",
    "{% block a %}x{{ s }}{% endblock %}", "{% block a %}x{% endblock a %}", "{% block a %}{% endblock b %}",
    "{% set v = 1 %}{% block a %}{{ v }}{% set v = 2 %}{{ v }}{% endblock %}{{ v }}",
    "{% for i in l %}{% block a %}{{ i }}{% endblock %}{% endfor %}",
    "{% for i in l %}{% block a scoped %}{{ i }}{{ loop.index }}{% endblock %}{% endfor %}",
    "{% block a %}{% endblock %}{% block a %}{% endblock %}", "{% block a required %}{% endblock %}",
    "{% block a required %}x{% endblock %}", "{% block a-b %}{% endblock %}",
    "{% macro mm() %}M{% endmacro %}{% block a %}{{ mm() }}{% endblock %}",
    "{% autoescape true %}{{ html }}{{ html|safe }}{{ '<' ~ html }}{% endautoescape %}{{ html }}",
    "{% autoescape true %}{% set x %}<{{ html }}>{% endset %}{{ x }}{% endautoescape %}",
    "{% autoescape true %}{{ ['<', '>'|safe]|join('&') }}{{ [1, '<'] }}{% endautoescape %}",
    "{% autoescape true %}{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m('<') }}{% endautoescape %}",
    "{% autoescape true %}{{ html|replace('a', '<') }}{{ {'a': '<'}|xmlattr }}{% endautoescape %}",
    "{% autoescape false %}{{ html }}{% endautoescape %}",
    "{% do l.append(1) %}", "{% debug %}", "{% unknown %}", "{% trans %}x{% endtrans %}",
    "{{ }}", "{% %}", "{{ 1 2 }}", "{{ 1 + }}", "{{ (1 }}", "{{ 1) }}", "{{ [1 }}", "{{ {1: } }}", "{{ {1} }}",
    "{{ a b }}", "{{ 'a }}", "{{ \"a }}", "{{ a. }}", "{{ a.'b' }}", "{{ a[ }}", "{{ a[] }}", "{{ | upper }}",
    "{{ a | }}", "{{ a is }}", "{{ a is not }}", "{{ f(a=1, 2) }}", "{{ f(a=1, a=2) }}", "{{ f(**a, *b) }}",
    "{{ f(*a, *b) }}", "{{ !a }}", "{{ a ! b }}", "{{ a && b }}", "{{ a ? b : c }}", "{{ $x }}", "{{ a; b }}",
    "{{ 1.e }}", "{{ 1..2 }}", "{{ 0777 }}", "{{ 00 }}", "{{ 1__0 }}", "{{ 0x }}", "{{ @a }}", "{{ a }",
    "{{ a", "{% if a", "{% set x = 1", "{{ a }} }}", "{ { a } }", "{{{ a }}}", "{{ {} }}", "{{ {'a': {'b': 1}} }}",
    "{{ {'a': {'b': 1}}.a.b}}", "{{ '}}' }}", "{{ '%}' }}{% if '%}' %}x{% endif %}", "{{ \"{{\" }}",
    "{% for x in %}{% endfor %}", "{% for in l %}{% endfor %}", "{% for x of l %}{% endfor %}",
    "{% for x in l %}{% else %}{% else %}{% endfor %}", "{% if a %}{% endfor %}", "{% for x.y in l %}{% endfor %}",
    "{% macro %}{% endmacro %}", "{% macro m %}{% endmacro %}", "{% macro 1() %}{% endmacro %}",
    "{% extends 'x' %}", "{% include 'x' %}", "{% import 'x' as y %}", "{% from 'x' import y %}",
    "{{ '\\x4' }}", "{{ '\\u12' }}", "{{ '\\U00110000' }}",
    "{{ -}}", "{{- 1 -}} x", "x {{- 1 }}", "{{+ 1 }}", "{{ 1 +}}",
    "{{ [1, 2\n, 3] }}", "{{ 1\n+\n2 }}", "{%\nif t\n%}a{%\nendif\n%}",
    "{{ not }}", "{{ and }}", "{{ in }}", "{{ if }}", "{{ is }}", "{{ 1 if }}", "{{ not not }}",
    "{{ a if b if c }}", "{{ 1 if no if t }}", "{{ 1 is 2 }}",
    "{{ x.y.z.w }}", "{{ s.x.y }}", "{{ d.a.b }}", "{{ d.a.b.c }}",
    "{{ messages[0]['role'] }}", "{{ raise_exception('a') if no else 'ok' }}",
    "{{ l|map('upper') is string }}", "{% set g = l|map('string') %}{{ g|list }}{{ g|list }}",
    "{% set g = l|select %}{% for x in g %}{{ x }}{{ loop.length }}{% endfor %}{{ g|list }}",
    "{% set g = l|select %}{% for x in g %}{{ x }}{{ loop.last }}{% endfor %}",
    "{% set g = [1,2,3,4]|select %}{% for x in g %}{{ x }}{{ g|first }}{% endfor %}",
    "{% set g = l|reverse %}{{ g|first }}{{ g|first }}{{ g|list }}", "{% if l|select('none') %}truthy{% endif %}",
    "{% if empty %}a{% else %}b{% endif %}", "{% if {} %}a{% endif %}", "{% if 0.0 %}a{% endif %}",
    "{% if '' %}a{% endif %}", "{% if ' ' %}a{% endif %}", "{% if range(0) %}a{% endif %}",
    "{% if namespace() %}a{% endif %}", "{% if (0,) %}a{% endif %}", "{% if () %}a{% endif %}",
    "{% set x = joiner(', ') %}{% for i in l %}{{ x() }}{{ i }}{% endfor %}",
    "{{ dict(a=1).update(b=2) }}", "{% set x = [] %}{{ x.append(1) }}", "{% set x = [] %}{{ x.append is defined }}",
    "{{ s.format is defined }}{{ ''.format_map is defined }}", "{% set f = '{}'.format %}{{ f(1) }}",
    "{% set f = s.upper %}{{ f() }}", "{{ [s.upper][0]() }}", "{{ (s.upper)() }}",
    "{% for f in ['upper', 'lower'] %}{{ s[f]() }}{% endfor %}",
    "{{ range(3)|map('string')|map('upper')|list }}", "{{ users|map('items')|map('list')|list|length }}",
    "{% set _x = 1 %}{{ _x }}", "{% set été = 1 %}{{ été }}", "{% set x1_ = 1 %}{{ x1_ }}",
    "{{ 'a'.b is defined }}{{ 'a'.upper is defined }}", "{{ d.items is callable }}{{ d.b is callable }}",
    "{% set x = 1 %}{% if t %}{% set x = 2 %}{% endif %}{{ x }}",
    "{% set x = 1 %}{% for i in l %}{% if t %}{% set x = 2 %}{% endif %}{{ x }}{% endfor %}{{ x }}",
    "{% for i in l %}{% with y = i %}{% set z2 = y %}{% endwith %}{{ z2 }}{{ y }}{% endfor %}",
    "{% macro m(l) %}{% for x in l %}{{ x }}{% endfor %}{{ x }}{% endmacro %}{{ m([1]) }}{{ m(l) }}",
    "{% set m = 5 %}{% macro m() %}M{% endmacro %}{{ m() }}", "{% macro m() %}M{% endmacro %}{% set m = 5 %}{{ m }}",
    "{% if m is defined %}yes{% endif %}{% macro m() %}{% endmacro %}{% if m is defined %}yes{% endif %}",
    "{% set range = 5 %}{{ range }}", "{% set namespace = 1 %}{{ namespace }}",
    "{{ range.x is defined }}{{ raise_exception is callable }}{{ joiner }}{{ namespace }}{{ dict }}",
    "{% for c in emoji %}{{ loop.index }}{{ c }}{% endfor %}", "{% for x in 'ab' %}{{ x }}{{ loop.nextitem }}{% endfor %}",
    "{% for x in range(3) %}{{ loop.length }}{{ x }}{% endfor %}", "{% for x in d.values() %}{{ x }}{{ loop.length }}{% endfor %}",
    "{% for x in (l|map('string')) %}{{ x }}{{ loop.revindex }}{% endfor %}",
    "{% for g in users|groupby('city') %}{{ g.grouper }}:{{ g.list|length }};{{ g }}{% endfor %}",
    "{% for c, us in users|groupby('city') %}{{ c }}{% for u2 in us %}{{ u2.name }}{% endfor %};{% endfor %}",
    "{% for row in range(5)|batch(2, 'x') %}{{ row }}{{ loop.last }}{% endfor %}",
    "{% for x in l %}{% for x in [9] %}{{ x }}{% endfor %}{{ x }}{% endfor %}",
    "{% for x in l %}{{ x }}{% set x = 7 %}{{ x }}{% endfor %}",
    "{% for i in [1] %}{% for j in [2] %}{% set q3 = 1 %}{% endfor %}{{ q3 }}{% endfor %}",
    "{{ caller() }}", "{% macro m() %}{{ self }}{% endmacro %}x",
    "{% set x = namespace(a=namespace(b=1)) %}{{ x.a.b }}", "{% set x.a = 1 %}",
    "{% set ns = namespace(l=l) %}{% for i in ns.l %}{% set ns.l = [] %}{{ i }}{% endfor %}",
    "{% set a = 'x' %}{% set b = a + 'y' %}{% set c = a + 'z' %}{{ a }}{{ b }}{{ c }}",
    "{% set a = [1] %}{% set b = a + [2] %}{% set c = b + [3] %}{% set e2 = b + [4] %}{{ a }}{{ b }}{{ c }}{{ e2 }}",
    "{% set p = 'a' ~ s %}{% set q4 = p ~ '1' %}{% set r4 = p ~ '2' %}{{ p }}{{ q4 }}{{ r4 }}{{ p[1:] ~ 'z' }}",
    "{{ 'abc'|attr('upper') }}" if False else "{{ 1 }}",
]

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
