# SPDX-License-Identifier: Apache-2.0
"""`tenon doctor`: what it prints of plugins and devices, for people and for scripts, and how it
ends when one of them does not work here."""
import json
import os
import shutil
import socket
import subprocess
import tempfile

from tenonlib import PLUGINS, TENON, TOP, Counter

check = Counter()
folder = tempfile.mkdtemp(prefix="tenon-doctor-")
ini = os.path.join(folder, "t.ini")
HEAD = f"[tenon]\nplugin_path = {PLUGINS}\n"
odd = os.path.join(folder, "odd.so")
subprocess.run([os.environ.get("CC", "cc"), "-std=c11", "-D_GNU_SOURCE", "-O1", "-w", "-shared", "-fPIC",
                "-fvisibility=hidden", "-Wl,-z,relro", f"-I{TOP}/include",
                f"{TOP}/tests/badplugins/device_odd.c", "-o", odd], check=True)


def doctor(text, code, *args):
    """Standard output; the one line of standard error where it fails."""
    with open(ini, "w", encoding="utf-8") as f:
        f.write(HEAD + text)
    r = subprocess.run([TENON, "doctor", "--config", ini, *args], text=True, capture_output=True,
                       timeout=120)
    assert r.returncode == code, (r.returncode, r.stdout, r.stderr)
    assert (r.stderr == "") == (code == 0) and r.stderr.count("\n") <= 1, r.stderr
    return r.stdout, r.stderr


def report(text, code, *args):
    return json.loads(doctor(text, code, "--json", *args)[0])


with check("the table, for people"):
    out, _ = doctor("[plugin cpu]\n[plugin awq]\n[plugin http]\n", 0)
    lines = out.splitlines()
    assert lines[0].startswith("tenon ") and ", contract 1." in lines[0], out
    for word in ("  cpu              device  opens", "  awq              quant   opens",
                 "  http             front   loads", "cpu 0: ", "  levels               ",
                 "  bandwidth            ", "  huge pages           "):
        assert word in out, (word, out)
    assert all(c == "\n" or " " <= c for c in out)

with check("one JSON object, for scripts"):
    r = report("[plugin cpu]\nthreads = 1\n[plugin gptq]\n", 0)
    assert r["healthy"] is True
    assert [(p["name"], p["kind"], p["works"], p["why"]) for p in r["plugins"]] == [
        ("cpu", "device", True, None), ("gptq", "quant", True, None)]
    d, = r["devices"]
    assert d["plugin"] == "cpu" and d["index"] == 0 and "1 thread," in d["name"]
    assert d["bandwidth"] > 1e8 and 0 < d["memory_free"] <= d["memory_total"]
    assert d["arch"] in d["facts"]["levels"] and " of " in d["facts"]["cores"]

with check("options of plugins are flags"):
    assert "3 threads" in report("[plugin cpu]\n", 0, "--threads", "3")["devices"][0]["name"]
    assert report("[plugin cpu]\n", 0, "--cpu.isa", "scalar")["devices"][0]["arch"] == "scalar"

with check("a frontend whose port is taken loads all the same"):
    with socket.create_server(("127.0.0.1", 0)) as s:
        port = s.getsockname()[1]
        assert report(f"[plugin cpu]\n[plugin http]\nport = {port}\n", 0)["healthy"]

for how, code, sentence in (("probe", 69, "plugin odd: probe: odd: no card was found"),
                            ("init", 77, "plugin odd: init: odd: may not"),
                            ("info", 70, "x")):
    for required in ("yes", "no"):
        with check(f"no {how}, required = {required}: one sentence, {code}, and the others go on"):
            text = f"[plugin odd]\nfile = {odd}\nodd = {how}\nrequired = {required}\n[plugin cpu]\n"
            out, err = doctor(text, code)
            assert err.startswith("tenon: " + sentence), err
            assert "\ncpu 0: " in out, out
            r = report(text, code)
            found = {d["plugin"]: d for d in r["devices"]}
            assert r["healthy"] is False and "why" not in found.pop("cpu"), r
            gone = [["plugin", "index", "why"]] if how == "info" else []
            assert [list(d) for d in found.values()] == gone, r
            assert how == "info" or r["plugins"][0]["why"] == sentence

with check("--device looks at one alone, be it in the INI or not"):
    bad = f"[plugin odd]\nfile = {odd}\nodd = probe\n"
    assert report(bad + "[plugin cpu]\n", 0, "--device", "cpu")["healthy"]
    r = report(bad, 0, "--device", "cpu")
    assert [p["name"] for p in r["plugins"]] == ["cpu"] and len(r["devices"]) == 1
    doctor(bad, 69, "--device", "odd")
    assert "no nope.so" in doctor("", 78, "--device", "nope")[1]
    doctor("", 64, "--device", "../cpu")

with check("what a device says of itself cannot leave its line"):
    r = report(f"[plugin odd]\nfile = {odd}\nodd = report\n", 0)
    facts = r["devices"][0]["facts"]
    assert facts["plain"] == "as it is" and all(" " <= c for t in facts.values() for c in t)
    out, _ = doctor(f"[plugin odd]\nfile = {odd}\nodd = report\n", 0)
    assert all(c == "\n" or " " <= c for c in out) and max(map(len, out.splitlines())) < 700
    report(f"[plugin odd]\nfile = {odd}\nodd = name\n", 0)

with check("a device that dies in its report is named"):
    _, err = doctor(f"[plugin odd]\nfile = {odd}\nodd = report_crash\n", 70)
    assert err.startswith("tenon: plugin odd: signal 6 while in report of odd"), err

with check("an INI that is wrong is refused as everywhere"):
    assert "t.ini:4" in doctor("[plugin cpu]\nthreds = 1\n", 78)[1]
    doctor("[plugin cpu]\nfile = /nowhere/cpu.so\n", 78)
    doctor("", 64, "word")
    doctor("", 64, "--jsn")

shutil.rmtree(folder)
check.finish()
