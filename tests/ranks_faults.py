# SPDX-License-Identifier: Apache-2.0
"""Ranks that are killed or stopped at every phase of their life: what is seen of it, and when.

    python3 tests/ranks_faults.py [--rounds 100] [--ranks 2] [--seed 1] [--timeout 2]
                                  [--device cuda --communicators peer,nccl]

Each round starts a server with several ranks, waits for a phase, and sends SIGKILL or SIGSTOP to
one rank. Then it looks at what clients were told, the exit code, the time until all that was
known, and at what was left behind: processes, shared memory, sockets. A stopped rank 0 is
continued once the others are gone, as whoever looks after it would. Prints a table."""
import argparse
import json
import os
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import threading
import time

from tenonlib import TENON, TEXT, free_port, make_model, write_ini

PHASES = ("load", "handshake", "compile", "prefill", "decode", "idle", "drain")
LINES = {"load": "loading weights", "handshake": "shaking hands", "compile": "compiling"}
PATIENCE = 6                     # seconds for all ranks to come
GRACE = 8                        # and for all to be over, beside what it takes to notice


def children_of(pid):
    found = []
    try: # all threads' children at once, where the kernel has that list
        for t in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{t}/children", encoding="utf-8") as f:
                found += map(int, f.read().split())
        return found
    except OSError:
        found = []
    for p in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{p}/status", encoding="utf-8") as f:
                if re.search(rf"^PPid:\t{pid}$", f.read(), re.M):
                    found.append(int(p))
        except OSError:
            pass
    return found


def rank_of(pid):
    try:
        with open(f"/proc/{pid}/environ", "rb") as f:
            m = re.search(rb"(?:^|\0)TENON_RANK=\d+/(\d+)/", f.read())
    except OSError:
        return None
    return int(m[1]) if m else None


def is_there(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as f:
            return f.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def sockets():
    with open("/proc/net/unix", encoding="utf-8") as f:
        return set(re.findall(r"(@tenon-\S+)", f.read()))


def wait_for(true, seconds):
    end = time.monotonic() + seconds
    while True:
        got = true()
        if got or time.monotonic() > end:
            return got
        time.sleep(0.002)


class Server:
    """A server whose log is read line by line as it comes: phases last a few milliseconds."""
    def __init__(self, world):
        self.port = free_port()
        self.lines, self.news = [], threading.Condition()
        self.process = subprocess.Popen(
            [TENON, "serve", world.model, "--config", world.ini, "--port", str(self.port), *world.args],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            line = line.decode(errors="replace").rstrip()
            with self.news:
                self.lines.append(line)
                self.news.notify_all()

    def text(self):
        with self.news:
            return "\n".join(self.lines)

    def wait_line(self, what, seconds):
        with self.news:
            return self.news.wait_for(lambda: any(what in x for x in self.lines) or
                                      not self.reader.is_alive(), seconds)

    def wait_ready(self):
        if not self.wait_line("listening on", 30) or self.process.poll() is not None:
            raise RuntimeError("the server did not come up:\n" + self.text())


class Client(threading.Thread):
    """One streamed request: when its first token came, and how it ended."""
    def __init__(self, port, max_tokens):
        super().__init__(daemon=True)
        self.port, self.max_tokens = port, max_tokens
        self.first = self.ended = None
        self.saw = "nothing"
        self.start()

    def run(self):
        body = json.dumps({"prompt": TEXT[:600], "max_tokens": self.max_tokens, "stream": True,
                           "ignore_eos": True, "temperature": 0}).encode()
        data = b""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 60) as s:
                s.settimeout(60)
                s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                          b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                          % (len(body), body))
                while part := s.recv(65536):
                    data += part
                    if self.first is None and b'"text"' in data:
                        self.first = time.monotonic()
        except OSError:
            pass
        self.ended = time.monotonic()
        if b"[DONE]" in data:
            self.saw = "whole"
        elif b'"error"' in data:
            self.saw = "error " + data.split()[1].decode() if b" 200 " not in data[:20] else "error event"
        else:
            self.saw = "cut"


def health(port):
    try:
        with socket.create_connection(("127.0.0.1", port), 2) as s:
            s.settimeout(2)
            s.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return int(s.recv(4096).split()[1])
    except (OSError, IndexError, ValueError):
        return 0


class Watcher(threading.Thread):
    """When /health says 503 for the first time."""
    def __init__(self, port):
        super().__init__(daemon=True)
        self.port, self.bad, self.over = port, None, False
        self.start()

    def run(self):
        while not self.over and self.bad is None:
            if health(self.port) == 503:
                self.bad = time.monotonic()
            time.sleep(0.02)


class Round:
    """One server, one fault."""
    def __init__(self, world, phase, rank, sig):
        self.world, self.phase, self.rank, self.sig = world, phase, rank, sig
        self.victim, self.others = None, []
        self.wrong = []
        self.clients = []

    def find(self):
        """The processes, before the fault: looking takes longer than some phases, and the ranks of
        a dead rank 0 are nobody's children."""
        children = children_of(self.server.process.pid)
        every = {0: self.server.process.pid}
        every.update({rank_of(p): p for p in children})
        if len(children) < self.world.ranks - 1 or self.rank not in every:
            return False
        self.victim = every[self.rank]
        self.others = [p for p in [every[0]] + children if p != self.victim]
        return True

    def reach(self):
        """Waits for the phase; the ranks that are there, by number."""
        w, s = self.world, self.server
        rng = w.rng
        if self.phase in LINES:
            wait_for(self.find, 30)
            s.wait_line(f"rank {self.rank} of {w.ranks}: {LINES[self.phase]}", 30)
            if self.phase == "load": # the others are over in a moment
                time.sleep(rng.random() * w.spread[self.phase] / 2)
            return
        s.wait_ready()
        self.find()
        if self.phase == "idle":
            time.sleep(rng.random() * 0.3)
            return
        self.clients = [Client(s.port, w.reply) for _ in range(2)]
        if self.phase == "prefill":
            time.sleep(w.prefill * (0.1 + 0.6 * rng.random()))
            return
        wait_for(lambda: all(c.first or c.ended for c in self.clients), 30)
        time.sleep(rng.random() * 0.1)
        if self.phase == "drain":
            s.process.send_signal(signal.SIGTERM)
            s.wait_line("draining", 5)
            time.sleep(rng.random() * 0.1)

    def expect(self, true, what):
        if not true:
            self.wrong.append(what)

    def run(self):
        w = self.world
        self.server = Server(w)
        try:
            self.go()
        finally:
            watched = {self.server.process.pid, *self.others, *children_of(self.server.process.pid)}
            for pid in watched:
                if is_there(pid):
                    os.kill(pid, signal.SIGKILL)
            self.server.process.wait()
            self.server.reader.join(5)
            self.server.process.stdout.close()
        return self

    def go(self):
        w, s = self.world, self.server
        self.reach()
        victim, others = self.victim, self.others
        if victim is None or s.process.poll() is not None:
            self.expect(False, "the server was gone before the fault: " + s.text()[-300:])
            return
        os.kill(victim, self.sig)
        begun = time.monotonic()
        self.classify()
        watcher = Watcher(s.port)
        notice = (w.timeout if self.sig == signal.SIGSTOP else 0) + (PATIENCE if self.phase in LINES else 0)
        if self.rank == 0:
            left = wait_for(lambda: not any(map(is_there, others)), notice + GRACE)
            self.seen = time.monotonic() - begun
            self.expect(left, "ranks are still there")
            if self.sig == signal.SIGSTOP:
                self.expect(s.process.poll() is None, "rank 0 ended while it was stopped")
                os.kill(victim, signal.SIGCONT)
        try:
            self.code = s.process.wait(notice + GRACE)
        except Exception:  # noqa: BLE001
            self.code = None
        over = time.monotonic()
        for c in self.clients:
            c.join(5)
        watcher.over = True
        watcher.join(5)
        if self.rank != 0:
            marks = [c.ended for c in self.clients] + [over]
            marks += [watcher.bad] if self.phase != "drain" else [] # it says so anyhow
            self.seen = min(m for m in marks if m is not None) - begun
        self.over = over - begun
        self.saw = sorted({c.saw for c in self.clients}) + (["503"] if watcher.bad else [])
        self.judge()

    def classify(self):
        """What the victim said last is where the fault met it."""
        time.sleep(0.005)
        mine = [x for x in self.server.text().splitlines() if f": rank {self.rank} of " in x]
        for phase, line in LINES.items():
            if mine and mine[-1].endswith(line):
                self.phase = phase
        if self.phase in LINES and mine and mine[-1].endswith(("following", "serving")):
            self.phase = "idle"

    def judge(self):
        served = self.phase not in LINES
        killed0 = self.rank == 0 and self.sig == signal.SIGKILL
        wanted = -9 if killed0 else 70 if served else 69
        self.expect(self.code == wanted, f"exit code {self.code}, expected {wanted}")
        for c in self.clients:
            self.expect(c.saw in (("cut",) if killed0 else ("error event", "error 503")),
                        f"a client saw {c.saw}")
        gone = wait_for(lambda: not any(map(is_there, self.others + [self.victim])), 5)
        self.expect(gone, "processes are left")
        self.expect(not wait_for_empty(lambda: set(os.listdir("/dev/shm")) - self.world.shm), "shared memory is left")
        self.expect(not wait_for_empty(lambda: sockets() - self.world.doors), "sockets are left")
        if not killed0:
            self.expect(re.search(r"^(tenon: |.* error ).*\brank \d", self.server.text(), re.M),
                        "no sentence names the rank")


def wait_for_empty(what, seconds=3):
    """Others on this machine come and go; what stays is ours."""
    end = time.monotonic() + seconds
    while what() and time.monotonic() < end:
        time.sleep(0.05)
    return what()


class World:
    """What the rounds share."""
    def __init__(self, folder, ranks=2, timeout=2, seed=1, device="cpu", communicators=("shared",)):
        self.rng = random.Random(seed)
        self.ranks, self.timeout = ranks, timeout
        self.reply = 400 if device == "cpu" else 7000 # a card has said 400 in no time
        self.model = make_model(os.path.join(folder, "m"), layers=24, hidden=256,
                                context=self.reply + 1000)
        self.ini = write_ini(os.path.join(folder, "t.ini"), plugins=(device, "http"),
                             tail="".join(f"[plugin {c}]\ntimeout = {timeout}\n"
                                          for c in communicators))
        self.args = ("--device", device, *(("--cpu-exact",) if device == "cpu" else ()),
                     "--tensor-parallel-size", str(ranks), "--rank-timeout", str(timeout),
                     "--rank-patience", str(PATIENCE), "--max-num-batched-tokens", "16",
                     "--max-num-seqs", "4", "--log-level", "debug", "--no-prefix-caching")
        self.measure()
        self.shm, self.doors = set(os.listdir("/dev/shm")), sockets()

    def measure(self):
        """How long the phases take here, from one server in peace."""
        s = Server(self)
        s.wait_ready()
        begun = time.monotonic()
        c = Client(s.port, 4)
        c.join(60)
        assert c.saw == "whole", (c.saw, s.text())
        self.prefill = c.first - begun
        stamps = re.findall(r"T(\d\d):(\d\d):([\d.]+)Z debug core: rank 0 of \d+: (.+)", s.text())
        at = {t[3]: int(t[0]) * 3600 + int(t[1]) * 60 + float(t[2]) for t in stamps}
        s.process.terminate()
        assert s.process.wait(20) == 0, s.text()
        begins = [at[LINES[p]] for p in ("handshake", "compile", "load")] + [at["serving"]]
        self.spread = {p: max(0.0, begins[i + 1] - begins[i])
                       for i, p in enumerate(("handshake", "compile", "load"))}


def plan(rounds, ranks, rng):
    """Every signal, rank and phase in turn, in an order of its own."""
    every = [(p, r, s) for s in (signal.SIGKILL, signal.SIGSTOP) for p in PHASES for r in range(ranks)]
    out = []
    while len(out) < rounds:
        rng.shuffle(every)
        out += every
    return out[:rounds]


def table(done):
    rows = ["| phase | rank | signal | rounds | noticed, s (median, most) | over, s (most) | exit | clients saw | wrong |",
            "|---|---|---|---|---|---|---|---|---|"]
    groups = {}
    for r in done:
        groups.setdefault((PHASES.index(r.phase), r.rank, r.sig.name), []).append(r)
    for (p, rank, sig), all_ in sorted(groups.items()):
        seen = [r.seen for r in all_ if hasattr(r, "seen")]
        over = [r.over for r in all_ if hasattr(r, "over")]
        codes = sorted({str(getattr(r, "code", "?")) for r in all_})
        saw = sorted({x for r in all_ for x in getattr(r, "saw", [])})
        rows.append(f"| {PHASES[p]} | {rank} | {sig} | {len(all_)} | "
                    + (f"{statistics.median(seen):.2f}, {max(seen):.2f} | {max(over):.2f}" if seen and over else "- | -")
                    + f" | {', '.join(codes)} | {', '.join(saw) or '-'} | {sum(bool(r.wrong) for r in all_)} |")
    return "\n".join(rows)


def main():
    a = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    a.add_argument("--rounds", type=int, default=100)
    a.add_argument("--ranks", type=int, default=2)
    a.add_argument("--seed", type=int, default=1)
    a.add_argument("--timeout", type=int, default=2)
    a.add_argument("--device", default="cpu")
    a.add_argument("--communicators", default="shared", help="comma separated")
    a.add_argument("--verbose", action="store_true")
    o = a.parse_args()
    folder = tempfile.mkdtemp(prefix="tenon-faults-")
    world = World(folder, o.ranks, o.timeout, o.seed, o.device,
                  o.communicators.split(","))
    done = []
    for phase, rank, sig in plan(o.rounds, o.ranks, world.rng):
        r = Round(world, phase, rank, sig).run()
        done.append(r)
        if o.verbose or r.wrong:
            print(f"{len(done)} {phase} rank {rank} {sig.name}: {getattr(r, 'code', '?')} "
                  f"{getattr(r, 'saw', '')} {getattr(r, 'seen', 0):.2f} s {'; '.join(r.wrong)}", flush=True)
        if r.wrong:
            print("    " + "\n    ".join(r.server.text().splitlines()[-8:]), flush=True)
    print(table(done))
    wrong = sum(bool(r.wrong) for r in done)
    print(f"{len(done) - wrong} passed, {wrong} failed")
    shutil.rmtree(folder, ignore_errors=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
