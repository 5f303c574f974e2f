# SPDX-License-Identifier: Apache-2.0
"""The INI and the command line: rows I of the contract on bad input, row by row, with
neighbours. A bad INI is given to `serve --check` and to `serve`: both must say the same."""
import ctypes
import json
import os
import pty
import resource
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request

from tenonlib import PLUGINS, TENON, Counter, Server, free_port, make_model, run, write_ini

check = Counter()
folder = tempfile.mkdtemp(prefix="tenon-commandline-")
model = make_model(os.path.join(folder, "tiny"))
good = write_ini(os.path.join(folder, "good.ini"))
ini = os.path.join(folder, "t.ini")
HEAD = f"[tenon]\nplugin_path = {PLUGINS}\n"
FRONT = HEAD + "[plugin cpu]\n[plugin http]\n"


def fails(code, text, *args, **more):
    """Ends with this code, nothing on standard output, one line on standard error."""
    r = subprocess.run([TENON, *args], text=True, capture_output=True, timeout=60, **more)
    assert r.returncode == code, (args, r.returncode, r.stderr)
    lines = [x for x in r.stderr.splitlines() if x.startswith("tenon: ")]
    assert len(lines) == 1 and r.stderr.endswith("\n"), r.stderr
    assert text in lines[0], (text, r.stderr)
    assert r.stdout == "", r.stdout
    return lines[0]


CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_NET_BIND_SERVICE = 1, 2, 10
PR_CAPBSET_DROP = 24


def without(*capabilities):
    """In a child: what it executes lacks these, even for root, who may do all otherwise."""
    if os.getuid() == 0:
        for c in capabilities:
            assert ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, c, 0, 0, 0) == 0


def can_be_without():
    """A container's root may lack the right to give rights up."""
    try:
        subprocess.run(["true"], preexec_fn=lambda: without(CAP_NET_BIND_SERVICE), check=True)
        return True
    except subprocess.SubprocessError:
        return False


def bad_ini(code, text, path=ini):
    """The same verdict and sentence, whether it is looked at or served (row I16)."""
    said = fails(code, text, "serve", "--check", "--config", path)
    assert fails(code, text, "serve", model, "--config", path) == said


def write(content):
    with open(ini, "wb") as f:
        f.write(content if isinstance(content, bytes) else content.encode())


def refuse(code, text, content):
    write(content)
    bad_ini(code, text)


def sound(content):
    write(content)
    r = run("serve", "--check", "--config", ini)
    assert r.returncode == 0, r.stderr


def files():
    with check("I01: what is no INI"):
        bad_ini(66, "cannot be opened: No such file", os.path.join(folder, "none.ini"))
        bad_ini(66, "cannot be opened: No such file", os.path.join(folder, "no", "none.ini"))
        bad_ini(66, "expected an INI file", "")
        bad_ini(78, "not a regular file", folder)
        bad_ini(78, "not a regular file", "/dev/zero")
        os.mkfifo(os.path.join(folder, "fifo.ini"))
        bad_ini(78, "not a regular file", os.path.join(folder, "fifo.ini"))
        with open(ini, "wb") as f:
            f.truncate(1 << 30)
        bad_ini(78, "more than 1048576 bytes")
        refuse(78, ":1: ", b"\x7fELF\x02\x01\x01" + bytes(64))
        refuse(78, ":2: control character 0x00", b"[tenon]\nlog_level = in\0fo\n")
        refuse(78, ":2: bytes that are not UTF-8", b"[tenon]\nlog_level = \xff\n")
        refuse(78, ":1: ", (FRONT).encode("utf-16"))
    with check("I01: what is an INI all the same"):
        sound("")
        sound("\ufeff" + FRONT)
        sound(FRONT.replace("\n", "\r\n"))
        sound(FRONT.rstrip("\n"))
        sound("\n\n; nothing\n" + FRONT)
    with check("I01: an INI that may not be read"):
        if can_be_without():
            os.chmod(good, 0)
            fails(77, "cannot be opened: Permission denied", "serve", "--check", "--config", good,
                  preexec_fn=lambda: without(CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH))
            os.chmod(good, 0o644)
    with check("I02: what an INI may not hold"):
        refuse(78, ":1: a line of 1048576 bytes; expected at most 4096", b"x" * (1 << 20))
        refuse(78, "more than 1048576 bytes", b"\n" * ((1 << 20) + 1))
        refuse(78, ":4: a line of 5007 bytes", FRONT[:len(HEAD)] + "[plugin http]\nhost = "
               + "x" * 5000 + "\n")
        for content, text in (
                ("[tenon\n", ":1: a [ without its ]"), ("[tenon]\nword\n", ':2: "word"; expected'),
                ("port = 1\n", ":1: key port before any section"),
                (FRONT + "port = 1\nport = 2\n", ":6: key port a second time"),
                (FRONT + "[plugin cpu]\n", ":5: section [plugin cpu] a second time"),
                (FRONT + "prot = 1\n", ':5: unknown key "prot" in [plugin http]; expected one'),
                (FRONT + "[plugni x]\n", ":5: unknown section"),
                (FRONT + "[model m]\npth = x\n", ':6: unknown key "pth" in [model m]; expected'),
                (HEAD + "log_levle = info\n", ':3: unknown key "log_levle"'),
                ("[tenon]\nlog_level = loud\n", ":2: [tenon] log_level = \"loud\"; expected")):
            refuse(78, text, content)
        for content, near in ((FRONT + "prot = 1\n", "port"), (FRONT + "[model m]\npth = x\n", "path"),
                              (HEAD + "log_levle = info\n", "log_level"),
                              (FRONT + "[plugni x]\n", "plugin"), (HEAD + "[plugin htpt]\n", "http")):
            refuse(78, "nearest: " + near, content)
    with check("I02, 1.1: numbers at their limits"):
        for key, most in (("port", 65535), ("http_threads", 64), ("connection_limit", 1000000)):
            sound(f"{FRONT}{key} = {most}\n")
            for v in (most + 1, 1 << 63, 1 << 64, -1, "1.5", "0x10", "", "1e3", "٣"):
                refuse(78, f":5: [plugin http] {key} = ", f"{FRONT}{key} = {v}\n")
        sound(FRONT + "body_limit = 1GiB\n")
        for v in ((1 << 30) + 1, 1023, 1 << 63, "1TiB", "-1", "8 MB x"):
            refuse(78, ":5: [plugin http] body_limit = ", f"{FRONT}body_limit = {v}\n")
        sound(HEAD + "[model m]\nqueue = 65536\nmax_logprobs = 1024\n")
        refuse(78, ":4: [model m] queue = ", HEAD + "[model m]\nqueue = 65537\n")
        refuse(78, ":4: [model m] max_logprobs = ", HEAD + "[model m]\nmax_logprobs = 1025\n")
    with check("I05: where plugins may not be"):
        away = os.path.join(folder, "away")
        os.makedirs(away, exist_ok=True)
        for v, text in (("http.so", "expected an absolute path"), ("./http.so", "expected an absolute path"),
                        (f"{PLUGINS}/../tenon/http.so", "without .."), (PLUGINS, "is no regular file"),
                        (f"{away}/none.so", "No such file"), (f"{away}/..", "without ..")):
            refuse(78, ":4: plugin file ", f"{HEAD}[plugin http]\nfile = {v}\n")
            refuse(78, text, f"{HEAD}[plugin http]\nfile = {v}\n")
        for v, text in (("lib/tenon", "expected an absolute folder"), (away, "no http.so in plugin_path"),
                        (good, "no http.so in plugin_path"), (f"{folder}/none", "no http.so"),
                        (f"{PLUGINS}/../tenon", "without .."), ("", "no http.so in plugin_path (empty)")):
            refuse(78, text, f"[tenon]\nplugin_path = {v}\n[plugin http]\n")
        os.mkdir(os.path.join(away, "http.so"))
        refuse(78, "is no regular file", f"[tenon]\nplugin_path = {away}\n[plugin http]\n")
    with check("I06: an INI includes nothing, so no ring of them can be"):
        refuse(78, ':2: unknown key "include"', f"[tenon]\ninclude = {ini}\n")
        refuse(78, f':1: "!include {folder[:8]}', f"!include {ini}\n")
        refuse(78, ":1: unknown section", f"[include {os.path.basename(ini)}]\n")
        refuse(78, ":1: key include before any section", f"include = {ini}\n")


def addresses():
    base = ["serve", model, "--config", good]
    with check("I04: a port in use"):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            s.listen(1)
            port = s.getsockname()[1]
            text = f"127.0.0.1 port {port}: Address already in use"
            fails(69, text, *base, "--port", str(port))
            # Before anything is loaded: the folder is not even there.
            fails(69, text, "serve", "/no/such", "--config", good, "--port", str(port))
            r = run("serve", "--check", "--config", good, "--port", str(port))
            assert r.returncode == 0 and "sound, but for now: plugin http: init: http: cannot bind" in r.stderr, r
            r = run("serve", model, "--print-recipe", "--config", good, "--port", str(port))
            assert r.returncode == 0 and r.stderr == "", r
    with check("I04: a privileged port"):
        with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", encoding="ascii") as f:
            closed = int(f.read()) > 1
        if closed and can_be_without():
            fails(77, "127.0.0.1 port 1: Permission denied", *base, "--port", "1",
                  preexec_fn=lambda: without(CAP_NET_BIND_SERVICE))
    with check("I04, I16: a bad address"):
        for host in ("999.1.1.1", "1.2.3.4.5", "::g", "[::1]", "nonsense.invalid", "", "a b"):
            refuse(78, f"host {host}: ", f"{FRONT}host = {host}\n")
        fails(69, "port ", *base, "--port", "0", "--host", "192.0.2.1")  # not of this machine
        for v in ("-1", "65536", "x", "", "80 80"):
            fails(64, "--port", *base, "--port", v)
            fails(64, "--port", *base, "--check", "--port", v)
    with check("I04: IPv6"):
        try:
            with socket.socket(socket.AF_INET6) as s:
                s.bind(("::1", 0))
        except OSError:
            return
        with Server(good, model, "--host", "::1", wait=False) as server:
            server.url = f"http://[::1]:{server.port}"
            server.wait_ready()
            assert f"listening on http://[::1]:{server.port}" in server.text()
            assert server.stop() == 0


def flags():
    with check("I09: words that are no flags"):
        fails(64, "unknown command \"nope\"", "nope")
        fails(64, "unknown command \"--nope\"", "--nope")
        fails(64, "did you mean serve?", "sevre")
        for command in (["serve", model], ["complete", model], ["eval", model], ["bench", "latency", model]):
            at = ["--config", good]
            fails(64, "nope", *command, *at, "--nope")
            fails(64, "--max-model-len", *command, *at, "--max-modle-len", "5")
            fails(64, "--seed wants a value", *command, *at, "--seed")
            fails(64, "--config wants a value", *command, "--config")
            fails(64, "--seed", *command, *at, "--seed", "x")
        fails(64, "unexpected word", "serve", model, "word", "--config", good)
        fails(64, "--check", "serve", model, "--config", good, "--check=1")
        fails(64, "drain_timeout", *["serve", model, "--config", good], "--drain-timeout", "x")
        r = run("serve", "--print-config", "--config", good, "--drain-timeout", "7")
        assert "drain_timeout = 7 ; from command line --drain-timeout" in r.stdout, r.stdout
        r = run()
        assert r.returncode == 64 and "COMMAND" in r.stderr and r.stdout == "", r
        fails(64, 'unknown command "?[2Jx"', "\x1b[2Jx")
        for words in (["--temperature", "nan"], ["--temperature", "inf"], ["--temperature", "-1"],
                      ["--temperature", "2.00000001"], ["--temperature", "1,5"], ["--top-p", "0"],
                      ["--top-p", "1.00000001"], ["--logprobs", "21"], ["--max-tokens", "-1"],
                      ["--max-tokens", str(1 << 63)], ["--max-tokens", "513"], ["--seed", "1.5"]):
            said = fails(64, "expected", "complete", model, "--config", good, "--prompt", "x", *words)
            assert words[0].strip("-").replace("-", "_") in said.replace("-", "_") or (
                "maximum context length" in said), said
        fails(64, "prompt", "complete", model, "--config", good, "--prompt", "")
    with check("I09: help into a closed pipe and a full disk"):
        for args in (["--help"], ["--version"], ["serve", "--help", "--config", good],
                     ["complete", "--help", "--config", good], ["chat", "--help", "--config", good],
                     ["bench", "--help", "--config", good], ["import", "--help"], ["plugin", "--help"],
                     ["serve", "--print-config", "--config", good]):
            r = subprocess.run([TENON, *args], text=True, capture_output=True, timeout=60)
            assert r.returncode == 0 and r.stdout != "", (args, r)
            reader, writer = os.pipe()
            os.close(reader)
            full = os.open("/dev/full", os.O_WRONLY)
            for out in (writer, full):
                r = subprocess.run([TENON, *args], text=True, stdout=out, stderr=subprocess.PIPE,
                                   timeout=60)
                assert r.returncode == 74, (args, r)
                assert r.stderr.startswith("tenon: standard output: "), r
                os.close(out)


def completes(server):
    body = b'{"prompt": "The quick brown fox jumps over the lazy dog, again and again", "max_tokens": 4, "temperature": 0}'
    r = urllib.request.Request(server.url + "/v1/completions", body,
                               {"Content-Type": "application/json"})
    return urllib.request.urlopen(r, timeout=30).read().split(b'"text":')[1].split(b',"logprobs"')[0]


def surroundings():
    def lives(*args, **more):
        with Server(good, model, *args, **more) as server:
            text = completes(server)
            assert server.stop() == 0, server.text()
        return text

    golden = lives()
    with check("I10: the same numbers and keys in every locale"):
        places = {}
        for name in ("de_DE", "tr_TR"):  # compiled on the spot where their sources are there
            made = os.path.join(folder, "locales", name + ".UTF-8")
            os.makedirs(os.path.dirname(made), exist_ok=True)
            if shutil.which("localedef"):
                subprocess.run(["localedef", "-i", name, "-f", "UTF-8", made], capture_output=True)
        places["LOCPATH"] = os.path.join(folder, "locales")
        write(FRONT + "[model m]\noverride_generation_config = {\"top_p\": 0.25}\nmemory = 1.5GiB\n")
        printed = set()
        for name in ("C", "de_DE.UTF-8", "tr_TR.UTF-8", "nonsense"):
            env = {**os.environ, **places, "LANG": name, "LC_ALL": name}
            r = subprocess.run([TENON, "serve", "--print-config", "--config", ini], env=env,
                               text=True, capture_output=True, timeout=60)
            assert r.returncode == 0, r.stderr
            printed.add(r.stdout)
            assert lives(env=env) == golden
        assert len(printed) == 1
    with check("I12: without HOME, TMPDIR and PATH"):
        assert lives(env={}) == golden
        assert lives(env={"HOME": "/no/such", "TMPDIR": "/no/such", "PATH": ""}) == golden
    with check("I13: 16 open files"):
        few = resource.RLIMIT_NOFILE, (16, 16)
        said = fails(71, "16 open files are allowed; expected 1064", "serve", model, "--config", good,
                     "--port", "0", preexec_fn=lambda: resource.setrlimit(*few))
        assert "connection_limit" in said
        fails(71, "16 open files are allowed; expected 68", "serve", model, "--config", good,
              "--port", "0", "--connection-limit", "4",
              preexec_fn=lambda: resource.setrlimit(*few))
        enough = resource.RLIMIT_NOFILE, (68, 68)
        assert lives("--connection-limit", "4",
                     preexec_fn=lambda: resource.setrlimit(*enough)) == golden
        soft = resource.RLIMIT_NOFILE, (16, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        assert lives(preexec_fn=lambda: resource.setrlimit(*soft)) == golden  # raised
    with check("R20: stacks of 64 KiB"):
        small = resource.RLIMIT_STACK, (64 << 10, 64 << 10)
        assert lives(preexec_fn=lambda: resource.setrlimit(*small)) == golden
    with check("I12, a neighbour: without standard files"):
        def close_all():
            for fd in range(3):
                os.close(fd)

        with Server(good, model, preexec_fn=close_all) as server:
            assert completes(server) == golden
            for fd in range(3):
                assert os.readlink(f"/proc/{server.process.pid}/fd/{fd}") == "/dev/null"
            assert server.stop() == 0
    with check("I14: a working directory that is read-only or gone"):
        place = os.path.join(folder, "cwd")
        os.mkdir(place, 0o500)
        assert lives(cwd=place) == golden
        assert lives(cwd="/proc") == golden
        assert lives(preexec_fn=lambda: (os.chdir(place), os.rmdir(place))) == golden


class Terminal:
    """`tenon chat` on a terminal of its own."""

    def __init__(self, *args):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execv(TENON, [TENON, "chat", model, "--config", good, *args])
        self.said = ""

    def hears(self, text, seconds=30):
        """Reads on until the terminal shows it; what came before is forgotten."""
        end = time.monotonic() + seconds
        while text not in self.said:
            assert time.monotonic() < end, (text, self.said)
            if select.select([self.fd], [], [], 0.1)[0]:
                try:
                    self.said += os.read(self.fd, 65536).decode(errors="replace")
                except OSError:  # the other end is gone
                    assert text in self.said, (text, self.said)
        before, self.said = self.said.split(text, 1)
        return before

    def types(self, text):
        os.write(self.fd, text.encode())

    def code(self):
        for _ in range(500):
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                os.close(self.fd)
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.02)
        os.kill(self.pid, signal.SIGKILL)
        raise AssertionError(("still there", self.said))


def helps():
    with check("--help is about the command, --help-all about every key"):
        for command, own, most in ((["serve"], "--print-config", 60), (["chat"], "--system", 60),
                                   (["complete"], "--prompt", 70), (["quantize"], "--variant", 40),
                                   (["bench", "latency"], "--input-len", 60)):
            brief, whole = (run(*command, h, "--config", good).stdout for h in ("--help", "--help-all"))
            assert own in brief and own in whole, brief
            assert len(brief.splitlines()) < most and "--snapshot-interval" not in brief, brief
            assert "--snapshot-interval" in whole and "options of [plugin http]" in whole, whole
        assert "--port V" in run("serve", "--help", "--config", good).stdout
        assert "keys of" not in run("import", "--help").stdout
        said = run("quantize", "--help", "--config", good).stdout
        assert said.startswith("tenon quantize MODEL_DIR --quant NAME --output DIR "), said
    with check("what quantize and import cannot write leaves no folder behind"):
        out = os.path.join(folder, "out")
        for args in (["awq", "--variant", "foo"], ["awq", "--bits", "3"], ["awq", "--group-size", "7"],
                     ["gptq", "--variant", "foo"], ["gptq", "--bits", "5"]):
            fails(64, "", "quantize", model, "--output", out, "--config", good, "--quant", *args)
            assert not os.path.exists(out), (args, os.listdir(out))
        os.mkdir(out)
        fails(64, "", "quantize", model, "--output", out, "--config", good, "--quant", "awq", "--bits", "3")
        assert os.listdir(out) == []  # it was there before
        os.rmdir(out)


def endlessly(path, *args):
    return subprocess.run([TENON, "chat", path, "--config", good, "--temperature", "0",
                           "--override-generation-config", '{"eos_token_id": []}', *args],
                          text=True, capture_output=True, timeout=120, input="x\n")


def chats():
    with check("chat: Ctrl-C at the prompt takes the line back, on an empty one ends"):
        t = Terminal()
        t.hears("> ")
        t.types("half a line\x03")
        t.hears("^C")
        assert "ends the conversation" not in t.hears("> ")
        t.types("\x03")
        t.hears("Ctrl-C again")
        t.hears("> ")
        t.types("/nope\r")  # between the two: the first one is forgotten
        t.hears('no command "/nope"')
        t.hears("> ")
        t.types("\x03")
        t.hears("Ctrl-C again")
        t.hears("> ")
        t.types("\x03")
        assert t.code() == 0
    with check("chat: Ctrl-C stops a reply, and Ctrl-D ends; what is typed may be any text"):
        t = Terminal("--max-tokens", "400", "--override-generation-config", '{"eos_token_id": []}')
        t.hears("> ")
        t.types("Zürich 東京\r")
        assert "Zürich 東京" in t.hears("\r\n")
        t.types("\x03")
        t.hears("> ")
        t.types("/help\r")
        for text in ("/reset", "/exit", "/quit", "/help", "Ctrl-C"):
            t.hears(text)
        t.hears("> ")
        t.types("\x04")
        assert t.code() == 0
    with check("chat: a word that is no command goes nowhere, a blank before it sends it"):
        r = subprocess.run([TENON, "chat", model, "--config", good, "-n", "2"], text=True,
                           capture_output=True, timeout=60, input="/nope x\n")
        assert r.returncode == 0 and r.stdout == "" and 'no command "/nope"' in r.stderr, r
        r = subprocess.run([TENON, "chat", model, "--config", good, "-n", "2"], text=True,
                           capture_output=True, timeout=60, input=" /nope x\n")
        assert r.returncode == 0 and r.stdout != "" and r.stderr == "", r
    with check("chat: a reply ends by itself"):
        endless = make_model(os.path.join(folder, "endless"), context=4096)
        # A session's text is tokenized again, and random text comes out longer: half as much, about.
        for more, least, most in (([], 1000, 2000), (["--max-tokens", "8"], 8, 100)):
            file = os.path.join(folder, "talk")
            r = endlessly(endless, "--session", file, *more)
            assert r.returncode == 0, r
            kept = subprocess.run([TENON, "session", file, "--json"], text=True, capture_output=True, timeout=60)
            tokens = json.loads(kept.stdout)["tokens"]
            os.unlink(file)
            assert least <= tokens < most, (more, tokens)
        r = endlessly(endless, "--max-model-len", "512")  # less fits than a reply may have
        assert r.returncode == 0 and r.stdout != "" and r.stderr == "", r


def hangups():
    def told(server, text, before):
        for _ in range(200):
            if text in server.text()[before:]:
                return
            time.sleep(0.02)
        raise AssertionError((text, server.text()[before:]))

    with check("I08: SIGHUP with a broken INI"):
        path = os.path.join(folder, "hup.ini")
        write_ini(path)
        with open(path, encoding="utf-8") as f:
            whole = f.read()
        with Server(path, model) as server:
            golden = completes(server)
            bad = ("[tenon\n", whole + "port = 1\n[plugin http]\n", whole + "prot = 1\n",
                   whole + "port = 99999\n", whole + "[model m]\npth = /x\n", "[tenon]\nlog_level = x\n",
                   whole + "[plugin more]\nrequired = perhaps\n", "\0", None)
            for content in bad:
                before = len(server.text())
                if content is None:
                    os.unlink(path)
                else:
                    with open(path, "w", encoding="utf-8") as f:
                        f.write(content)
                server.process.send_signal(signal.SIGHUP)
                told(server, "the old configuration stays", before)
                assert " error core: SIGHUP: " in server.text()[before:], server.text()[before:]
                assert completes(server) == golden
            before = len(server.text())
            with open(path, "w", encoding="utf-8") as f:
                f.write(whole)
            server.process.send_signal(signal.SIGHUP)
            told(server, "SIGHUP: the INI is sound", before)
            assert server.stop() == 0


def idle_signals():
    with check("R12: signals that mean nothing"):
        with Server(write_ini(os.path.join(folder, "idle.ini")), model) as server:
            golden = completes(server)
            for sig in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGPIPE, signal.SIGCHLD):
                server.process.send_signal(sig)
                assert completes(server) == golden, sig
            assert server.stop() == 0


def long_reply(server):
    body = b'{"prompt": "x", "max_tokens": 480, "n": 8, "ignore_eos": true}'
    r = urllib.request.Request(server.url + "/v1/completions", body, {"Content-Type": "application/json"})

    def ask():
        try:
            urllib.request.urlopen(r, timeout=30).read()
        except OSError:
            pass

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for t in threads:
        t.start()
    while b'server_load":0' in urllib.request.urlopen(server.url + "/load", timeout=30).read():
        time.sleep(0.01)
    return threads


def ends():
    slow = ("--cpu-exact", "--max-num-batched-tokens", "1", "--max-num-seqs", "1", "--queue", "1000")
    with check("a second signal ends at once what drains"):
        with Server(good, model, "--drain-timeout", "300", *slow) as server:
            threads = long_reply(server)
            server.process.send_signal(signal.SIGTERM)
            while "draining" not in server.text():
                time.sleep(0.01)
            server.process.send_signal(signal.SIGINT)
            assert server.process.wait(timeout=10) == -signal.SIGINT, server.text()
            for t in threads:
                t.join()
    with check("what draining cuts off is told once"):
        with Server(good, model, "--drain-timeout", "0", *slow) as server:
            threads = long_reply(server)
            assert server.stop() == 75, server.text()
            text = server.text()
            assert text.count("replies were still running") == 1 and text.count("cut off after") <= 1, text
            assert text.rstrip().endswith("info core: stopped"), text
            for t in threads:
                t.join()
    with check("a model without chat template is warned of at the start"):
        bare = shutil.copytree(model, os.path.join(folder, "bare"))
        path = os.path.join(bare, "tokenizer_config.json")
        with open(path, encoding="utf-8") as f:
            config = json.load(f)
        del config["chat_template"]
        with open(path, "w", encoding="utf-8") as f:
            json.dump(config, f)
        with Server(good, bare) as server:
            assert "warn core: model default has no chat template" in server.text(), server.text()
            assert server.stop() == 0
    with check("a line for each request, unless switched off"):
        for more, n in (((), 1), (("--no-access-log",), 0), (("--disable-uvicorn-access-log",), 0)):
            with Server(good, model, *more) as server:
                completes(server)
                urllib.request.urlopen(server.url + "/health", timeout=30).read()
                try:
                    urllib.request.urlopen(server.url + "/secret%0Apath", timeout=30)
                except urllib.error.HTTPError:
                    pass
                assert server.stop() == 0
                text = server.text()
                assert "warn core: model" not in text, text
                assert text.count("info http: 127.0.0.1 POST /v1/completions 200, 0.") == n, text
                assert text.count("127.0.0.1 - (no such path) 404, 0.") == n and "secret" not in text, text
                assert "/health" not in text, text


def checks():
    with check("I16: --check says what serve would, and needs no model and no device"):
        sound(FRONT)
        sound(FRONT + "[model m]\npath = /no/such\n")
        sound(f"{HEAD}[plugin http]\nport = {free_port()}\n")
        key = os.path.join(folder, "keys")
        refuse(66, "api_key_file", f"{FRONT}api_key_file = {key}\n")
        with open(key, "w", encoding="utf-8") as f:
            f.write("sesame\n")
        os.chmod(key, 0o644)
        refuse(77, "lets others read it; expected 0600", f"{FRONT}api_key_file = {key}\n")
        os.chmod(key, 0o600)
        sound(f"{FRONT}api_key_file = {key}\n")
        text = os.path.join(folder, "text.so")
        with open(text, "w", encoding="utf-8") as f:
            f.write("#!/bin/sh\n")
        refuse(69, f"plugin {text}: ", f"{HEAD}[plugin http]\nfile = {text}\n")


for group in (files, addresses, flags, surroundings, helps, chats, ends, hangups, idle_signals, checks):
    group()
shutil.rmtree(folder)
check.finish()
