# SPDX-License-Identifier: Apache-2.0
"""What /metrics says of each rank: memory, steps, the time in sums and gathers, the skew. Scraped
from two ranks while they serve, from one alone, and while one of two is held up."""
import os
import re
import signal
import tempfile
import threading
import time

import requests

from tenonlib import Counter, Server, TEXT, make_hybrid, write_ini

check = Counter()
folder = tempfile.mkdtemp(prefix="tenon-rankstats-")
ini = write_ini(os.path.join(folder, "t.ini"), plugins=("cpu", "shared", "http"))
model = make_hybrid(os.path.join(folder, "m"))
SERIES = re.compile(r'^(tenon_rank_\w+)\{([^}]*)\} (\S+)$', re.M)


def scrape(server):
    found = {}
    for name, labels, value in SERIES.findall(requests.get(server.url + "/metrics").text):
        label = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        found[name, label.get("rank"), label.get("kind")] = float(value)
    return found


def until(server, true, seconds=15):
    """Scrapes until what it finds is as wanted; the other ranks' news come every other second."""
    end = time.monotonic() + seconds
    while True:
        found = scrape(server)
        if true(found) or time.monotonic() > end:
            return found
        time.sleep(0.2)


def ask(server, n=100):
    r = requests.post(server.url + "/v1/completions", json={
        "prompt": TEXT[:40], "max_tokens": n, "ignore_eos": True, "temperature": 0})
    assert r.status_code == 200, r.text


with Server(ini, model, "--tensor-parallel-size", "2") as s:
    with check("two ranks: memory before the first step"):
        m = until(s, lambda m: ("tenon_rank_resident_bytes", "1", None) in m)
        for rank in "01":
            size = [m["tenon_rank_device_memory_bytes", rank, k] for k in ("total", "used", "free")]
            assert size[0] == size[1] + size[2] > 1 << 28, size
            assert 1 << 20 < m["tenon_rank_resident_bytes", rank, None] < size[0], m
        assert not any(name.startswith("tenon_rank_device_temp") for name, _, _ in m), m
    with check("two ranks: steps while they serve"):
        going = threading.Event()

        def keep():
            while not going.is_set():
                ask(s)

        thread = threading.Thread(target=keep)
        thread.start()
        m = until(s, lambda m: min(m.get(("tenon_rank_comm_share", r, None), 0) for r in "01") > 0)
        later = until(s, lambda n: all(n["tenon_rank_steps_total", r, None] >
                                       m["tenon_rank_steps_total", r, None] for r in "01"))
        going.set()
        thread.join()
        for rank in "01":
            steps = later["tenon_rank_steps_total", rank, None]
            calls = later["tenon_rank_comm_calls_total", rank, None]
            # Four layers of two sums, the embedding's, and the gather of the logits.
            assert 8 <= calls / steps <= 12, (calls, steps)
            in_steps = later["tenon_rank_step_seconds_total", rank, None]
            in_calls = later["tenon_rank_comm_seconds_total", rank, None]
            assert 0 < in_calls < in_steps < 600, (in_calls, in_steps)
            assert 0 < later["tenon_rank_comm_share", rank, None] <= 1
            assert later["tenon_rank_comm_bytes_total", rank, None] >= calls * 64 * 4
        assert later["tenon_rank_skew_seconds", None, None] >= 0
    with check("two ranks: both have done the same steps and calls in the end"):
        same = ("tenon_rank_steps_total", "tenon_rank_comm_calls_total",
                "tenon_rank_comm_bytes_total")
        m = until(s, lambda m: all(m[n, "0", None] == m[n, "1", None] for n in same))
        for n in same:
            assert m[n, "0", None] == m[n, "1", None], m
    with check("a rank that is held up shows in the skew and in the other's waiting"):
        other = next(int(p) for p in filter(str.isdigit, os.listdir("/proc"))
                     if os.path.exists(f"/proc/{p}/status") and
                     f"PPid:\t{s.process.pid}\n" in open(f"/proc/{p}/status", encoding="utf-8").read())
        before = scrape(s)
        os.kill(other, signal.SIGSTOP)
        thread = threading.Thread(target=ask, args=(s,))
        thread.start()
        time.sleep(1.5)
        os.kill(other, signal.SIGCONT)
        thread.join()
        name = "tenon_rank_comm_seconds_total"
        m = until(s, lambda m: m[name, "0", None] > before[name, "0", None] + 1.2)
        assert m[name, "0", None] > before[name, "0", None] + 1.2, (before, m)
    assert s.stop() == 0, s.text()

with Server(ini, model) as s:
    with check("one alone: memory, and nothing of steps together"):
        m = until(s, lambda m: ("tenon_rank_resident_bytes", "0", None) in m)
        assert m["tenon_rank_device_memory_bytes", "0", "total"] > 1 << 28
        assert {rank for _, rank, _ in m} == {"0"}, m
        assert not any("comm" in name or "skew" in name for name, _, _ in m), m
    assert s.stop() == 0, s.text()

check.finish()
