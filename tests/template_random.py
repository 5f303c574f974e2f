# SPDX-License-Identifier: Apache-2.0
"""Templates made at random for tests/templates.py: expressions over the snippets' variables,
and statements that assign, loop, call and capture, to compare who sees which variable."""
import random

ATOMS = """1 0 -3 2.5 "" "abc" "a b,c" none true [] [1,2,3] ["b","a"] {} {"a":1,"b":[2]} (1,2)
range(4) undef "ÀΣx" d.b users[0] users[1].name l[0] nest 1e3 "12" s u e z n neg f t nil ls mix d
users html multi long "%s-%d" "{}:{}" """.replace("a b,c", "a\u00a0b,c").split()
FILTERS = """abs batch(2) batch(2,"f") capitalize center(7) count default("z") default("z",true)
dictsort e first float forceescape format(1) groupby("city") indent(2) int join join("-") last
length list lower items map("upper") map(attribute="name") map("length") map(attribute=0) max min
reject select("string") selectattr("age") rejectattr("age","gt",26) replace("a","ZZ") reverse round
round(1) safe select slice(2) sort sort(reverse=true) string striptags sum title tojson
tojson(indent=1) trim truncate(5) truncate(6,true,"",0) unique upper urlencode wordwrap(5)
xmlattr""".split()
TESTS = """defined undefined none boolean true false integer float number string mapping sequence
iterable callable odd even divisibleby(3) lower upper sameas(none) escaped in([1,"a"]) eq(1)
ne("a") gt(1) lt("b")""".split()
METHODS = """upper() lower() title() strip() lstrip("a") split() split(",") split("b",1)
rsplit(none,1) splitlines() startswith("a") endswith("c") replace("a","b") find("b") count("a")
index("b") join(["x","y"]) isdigit() items()|list keys()|list get("a") zfill(6) partition("-")
format(1,2) center(6) casefold() swapcase() capitalize() expandtabs(3) istitle() isalnum()
rfind("a") removeprefix("a")""".split()
OPERATORS = ["+", "-", "*", "/", "//", "%", "**", "~", "==", "!=", "<", ">", "<=", ">=", "and",
             "or", "in", "not in"]
SUBSCRIPTS = ["0", "-1", "1:", "::-1", '"a"', '"name"', ":2", "::2", "1:-1"]


def expression(r, depth):
    def inner():
        return expression(r, depth - 1)

    kind = r.random()
    if depth <= 0 or kind < .15:
        return r.choice(ATOMS)
    if kind < .45:
        return "(%s)|%s" % (inner(), r.choice(FILTERS))
    if kind < .55:
        return "(%s).%s" % (inner(), r.choice(METHODS))
    if kind < .62:
        return "(%s is %s%s)" % (inner(), r.choice(["", "not "]), r.choice(TESTS))
    if kind < .82:
        return "(%s %s %s)" % (inner(), r.choice(OPERATORS), inner())
    if kind < .86:
        return "(%s if %s else %s)" % (inner(), inner(), inner())
    if kind < .92:
        return "(%s)[%s]" % (inner(), r.choice(SUBSCRIPTS))
    if kind < .95:
        return "[%s, %s]" % (inner(), inner())
    return '{"k": %s}' % inner() if kind < .97 else "(not %s)" % inner()


NAMES = ["a", "b", "c", "d"]
MACROS = ["m", "n"]
SCOPE_VARS = {"a": 1, "b": [1, 2, 3], "e": {"x": 1, "y": 2}}


class Statements:
    """Programs over four names, whose values are shown again and again."""

    def __init__(self, r):
        self.r = r

    def show(self):
        return "(" + ",".join("{{ %s }}" % v for v in NAMES) + ")"

    def value(self):
        r, kind = self.r, self.r.random()
        name = r.choice(NAMES)
        if kind < .5:
            return name
        if kind < .6:
            return str(r.randint(0, 3))
        if kind < .7:
            return '(%s|default(0)) ~ "x"' % name
        if kind < .75:
            return "ns.%s" % r.choice("pq")
        if kind < .8:
            return r.choice(["loop.index", "loop is defined"])
        if kind < .9:
            return "[%s, %s]" % (name, r.choice(NAMES))
        return "%s is defined" % r.choice(NAMES + MACROS)

    def body(self, depth):
        return "".join(self.one(depth) for _ in range(self.r.randint(1, 3)))

    def loop(self, depth):
        r = self.r
        target, over = r.choice(NAMES), r.choice(
            ["[1,2]", "b", "range(2)", "[[1,2],[3,4]]", "e.items()", "[]", '"ab"',
             '[1,2,3]|select("odd")'])
        if r.random() < .2:
            target, over = "a, b", r.choice(["[[1,2],[3,4]]", "e.items()"])
        test = r.choice([""] * 4 + [" if %s" % r.choice(NAMES), " if ns.p"])
        control = r.choice([""] * 6 + ["{% if loop.first %}{% continue %}{% endif %}",
                                       "{% if loop.index > 1 %}{% break %}{% endif %}"])
        orelse = "{% else %}E" + self.body(depth) if r.random() < .3 else ""
        return "{%% for %s in %s%s %%}%s%s%s{%% endfor %%}" % (target, over, test, control,
                                                              self.body(depth), orelse)

    def branch(self, depth):
        r = self.r
        elif_ = "{%% elif %s %%}" % self.value() + self.body(depth) if r.random() < .3 else ""
        orelse = "{% else %}" + self.body(depth) if r.random() < .5 else ""
        return "{%% if %s %%}%s%s%s{%% endif %%}" % (self.value(), self.body(depth), elif_, orelse)

    def macro(self, depth):
        r = self.r
        args = ", ".join(r.sample(NAMES, r.randint(0, 2)))
        if args and r.random() < .4:
            args += "=%d" % r.randint(5, 9)
        extra = r.choice(["", "", "{{ varargs }}", "{{ caller() if caller }}", "{{ kwargs }}"])
        return "{%% macro %s(%s) %%}%s%s{%% endmacro %%}" % (r.choice(MACROS), args, extra,
                                                            self.body(depth))

    def one(self, depth):
        r, kind = self.r, self.r.random()
        m, name = r.choice(MACROS), r.choice(NAMES)
        if depth <= 0 or kind < .2:
            return self.show()
        if kind < .4:
            return "{%% set %s = %s %%}" % (r.choice(NAMES * 3 + ["ns.p", "ns.q", "a, b"]),
                                           self.value())
        if kind < .47:
            return "{%% set %s %%}%s{%% endset %%}" % (name, self.body(depth - 1))
        if kind < .6:
            return self.loop(depth - 1)
        if kind < .72:
            return self.branch(depth - 1)
        if kind < .8:
            return self.macro(depth - 1)
        if kind < .88:
            args = ", ".join(self.value() for _ in range(r.randint(0, 2)))
            return "{{ %s(%s) if %s is defined and %s is callable }}" % (m, args, m, m)
        if kind < .92:
            return "{%% with %s = %s, %s = %s %%}%s{%% endwith %%}" % (
                name, self.value(), r.choice(NAMES), self.value(), self.body(depth - 1))
        if kind < .95:
            return "{% filter upper %}" + self.body(depth - 1) + "{% endfilter %}"
        if kind < .98:
            return ("{%% if %s is defined and %s is callable %%}{%% call %s() %%}%s{%% endcall %%}"
                    "{%% endif %%}" % (m, m, m, self.body(depth - 1)))
        return "{% generation %}" + self.body(depth - 1) + "{% endgeneration %}"

    def program(self):
        return ("{% set ns = namespace(p=1, q=2) %}"
                + "".join(self.one(4) for _ in range(self.r.randint(2, 6))) + self.show() + "{{ ns }}")


def expressions(seed, count):
    r = random.Random(seed)
    for _ in range(count):
        yield "{{ " + expression(r, r.randint(1, 4)) + " }}"


def programs(seed, count):
    s = Statements(random.Random(seed))
    for _ in range(count):
        yield s.program()
