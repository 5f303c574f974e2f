# SPDX-License-Identifier: Apache-2.0
"""Bad plugins met through the installed program: those rows L of the contract on bad input that
need a model or a command line. Most rows are in test_badplugins.c and test_loader.c."""
import json
import os
import shutil
import subprocess
import tempfile

import requests

from tenonlib import PLUGINS, TENON, TOP, Counter, Server, make_model, run

check = Counter()
folder = tempfile.mkdtemp(prefix="tenon-plugins-")
model = make_model(os.path.join(folder, "tiny"))
ini = os.path.join(folder, "t.ini")
HEAD = f"[tenon]\nplugin_path = {PLUGINS}\n"


def build(source, name, *flags):
    """NAME.so of a folder of its own, from tests/badplugins."""
    place = os.path.join(folder, name)
    os.makedirs(place, exist_ok=True)
    so = os.path.join(place, name + ".so")
    subprocess.run([os.environ.get("CC", "cc"), "-std=c11", "-D_GNU_SOURCE", "-O1", "-w", "-shared",
                    "-fPIC", "-fvisibility=hidden", "-Wl,-z,relro", f"-I{TOP}/include",
                    f"{TOP}/tests/badplugins/{source}", "-o", so, *flags], check=True)
    return so


def write(text):
    with open(ini, "w", encoding="utf-8") as f:
        f.write(text)


def fails(code, text, *args, **more):
    r = subprocess.run([TENON, *(args or ("serve", model, "--config", ini))], text=True,
                       capture_output=True, timeout=60, **more)
    assert r.returncode == code, (r.returncode, r.stderr)
    last = r.stderr.splitlines()[-1]
    assert last.startswith("tenon: ") and text in last, (text, r.stderr)
    assert all(c == "\n" or c >= " " for c in r.stderr), r.stderr
    return last


def kinds():
    with check("L04: a plugin of another kind than its setting says"):
        for key, value in (("quant", "cpu"), ("quant", "http"), ("quant", "nope")):
            write(f"{HEAD}[plugin cpu]\n[plugin awq]\n[plugin http]\n[model m]\npath = {model}\n"
                  f"{key} = {value}\n")
            fails(78, f"{key} = {value}: no such quantization is loaded", "serve", "--config", ini)
        for value in ("awq", "http", "nope"):
            write(f"{HEAD}[plugin cpu]\n[plugin awq]\n[plugin http]\n[model m]\npath = {model}\n"
                  f"device = {value}\n")
            fails(78, f"device: {value}; no such device plugin is loaded", "serve", "--config", ini)
        write(HEAD + "[plugin cpu]\n")
        fails(78, "no frontend is loaded")
        write(HEAD + "[plugin http]\n")
        fails(78, "device: auto; no such device plugin is loaded")


def lives():
    for source, text in (("init_segfault.c", "signal 11"), ("init_abort.c", "signal 6"),
                         ("init_exit.c", "called exit")):
        with check(f"L10: serve and {source}"):
            so = build(source, "bad")
            write(f"{HEAD}[plugin cpu]\n[plugin bad]\nfile = {so}\n[plugin http]\n")
            fails(70, f"plugin bad: {text} while in init of bad")
    with check("L02, L08: --check reads the file, and runs nothing of it"):
        for source, text in (("no_entry.c", "does not export"), ("null_init.c", "has no init")):
            so = build(source, "bad")
            write(f"{HEAD}[plugin bad]\nfile = {so}\n")
            last = fails(69, f"plugin {so}: ", "serve", "--check", "--config", ini)
            assert text in last, last
        so = build("init_segfault.c", "bad")
        write(f"{HEAD}[plugin bad]\nfile = {so}\n")
        assert run("serve", "--check", "--config", ini).returncode == 0


def paths():
    with check("L20: only the INI's own path is opened"):
        decoys = os.path.join(folder, "decoys")
        os.makedirs(decoys)
        so = build("load_exits.c", "http", '-DNAME="http"')  # whoever opens it ends with 70
        for name in ("http.so", "cpu.so", "libhttp.so"):
            shutil.copy(so, os.path.join(decoys, name))
        write(HEAD + "[plugin cpu]\n[plugin http]\n")
        for path in (decoys, ":" + decoys, "."):
            env = {**os.environ, "LD_LIBRARY_PATH": path}
            r = subprocess.run([TENON, "serve", "--check", "--config", ini], cwd=decoys, env=env,
                               text=True, capture_output=True, timeout=60)
            assert r.returncode == 0, (path, r)
        write(f"[tenon]\nplugin_path = {decoys}\n[plugin http]\n")  # it would be one
        fails(70, "plugin http: called exit while in loading of http", "serve", "--check",
              "--config", ini)


def completes(server, **fields):
    return requests.post(server.url + "/v1/completions", timeout=30, json={
        "prompt": "The quick", "max_tokens": 3, "temperature": 0, **fields})


def devices():
    so = build("device_odd.c", "odd")

    def odd(what):
        write(f"{HEAD}[plugin odd]\nfile = {so}\nodd = {what}\n[plugin http]\n")

    for what, text in (("block_tokens", "plugin odd: its info says 4294967295 tokens a cache block"),
                       ("weights", "plugin odd: its compile asks for 18446744073709551615 bytes for weights"),
                       ("workspace", "plugin odd: its compile asks for"),
                       ("block", "plugin odd: its compile asks for 18446744073709551 bytes for a cache")):
        with check(f"L16: a device with odd {what}"):
            odd(what)
            fails(69, text)
    with check("L16: a device whose info fails with a status and text out of bounds"):
        odd("info")
        fails(70, "xxxx")
    for what in ("nothing", "name", "top"):
        with check(f"L16: a device with odd {what} is served"):
            odd(what)
            with Server(ini, model) as server:
                assert completes(server).json()["choices"][0]["finish_reason"] == "length"
                r = completes(server, logprobs=4, echo=True, n=2).json()
                assert len(r["choices"]) == 2 and json.dumps(r, allow_nan=False)
                assert all(c == "\n" or c >= " " for c in server.text()), server.text()
                assert server.stop() == 0
    with check("L16: tokens outside the vocabulary end their request alone"):
        odd("token")
        with Server(ini, model) as server:
            for fields in ({}, {"n": 4}, {"logprobs": 3}):
                r = completes(server, **fields)
                assert r.status_code == 500 and r.json()["error"]["code"] == "bug", r.text
                assert r.headers["x-should-retry"] == "false"
            r = completes(server, stream=True).text
            assert '"error"' in r and "[DONE]" not in r, r
            assert requests.get(server.url + "/health", timeout=5).status_code == 200
            echo = completes(server, max_tokens=0, echo=True)
            assert echo.json()["choices"][0]["text"] == "The quick"
            assert server.stop() == 0
    with check("P32: a model that yields NaN ends the request with model_nan"):
        odd("nan")
        with Server(ini, model) as server:
            for fields in ({}, {"n": 4}, {"logprobs": 3}, {"max_tokens": 0, "echo": True, "logprobs": 1}):
                r = completes(server, **fields)
                assert r.status_code == 500 and r.json()["error"]["code"] == "model_nan", r.text
                assert r.headers["x-should-retry"] == "false"
            r = completes(server, stream=True).text
            assert '"code":"model_nan"' in r and "[DONE]" not in r, r
            assert requests.get(server.url + "/health", timeout=5).status_code == 200
            assert server.stop() == 0
    for what in ("few", "many", "null", "run"):
        with check(f"L16: a device that breaks its word with {what} is lost"):
            odd(what)
            with Server(ini, model) as server:
                r = completes(server)
                assert r.status_code == 503 and r.json()["error"]["code"] == "engine_down", r.text
                assert requests.get(server.url + "/health", timeout=5).status_code == 503
                assert "its device failed" in server.text()
                server.stop()
    with check("L08: a device without bandwidth cannot be measured"):
        odd("nothing")
        fails(69, "device odd does not measure its bandwidth", "bench", "latency", model, "--config",
              ini, "--input-len", "4", "--output-len", "2", "--repeat", "1")


for group in (kinds, lives, paths, devices):
    group()
shutil.rmtree(folder)
check.finish()
