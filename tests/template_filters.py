# SPDX-License-Identifier: Apache-2.0
"""template_filters.py - the second half of template_snippets.py's expressions."""

MORE_EXPRESSIONS = r"""users|selectattr|list
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
