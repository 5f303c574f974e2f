# SPDX-License-Identifier: Apache-2.0
"""A dozen faults of ranks, by tests/ranks_faults.py: a signal, a rank and a phase each, so that
every phase is met; and ranks that never come."""
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time

import ranks_faults
from tenonlib import Counter, TENON

check = Counter()
folder = tempfile.mkdtemp(prefix="tenon-pyfaults-")
world = ranks_faults.World(folder, timeout=1, seed=int(time.time()))
KILL, STOP = signal.SIGKILL, signal.SIGSTOP
for phase, rank, sig in [
        ("handshake", 1, KILL), ("handshake", 0, STOP), ("compile", 0, KILL), ("compile", 1, STOP),
        ("load", 1, KILL), ("load", 0, STOP), ("prefill", 1, KILL), ("prefill", 0, STOP),
        ("decode", 1, STOP), ("decode", 0, KILL), ("idle", 1, STOP), ("drain", 1, KILL)]:
    with check(f"{phase}: rank {rank}, {sig.name}"):
        r = ranks_faults.Round(world, phase, rank, sig).run()
        assert not r.wrong, (r.wrong, r.server.text()[-3000:])


def start(*args, **env):
    begun = time.monotonic()
    p = subprocess.run([TENON, "complete", world.model, "--config", world.ini, "--prompt", "x", *args],
                       text=True, capture_output=True, timeout=60, env=dict(os.environ, **env))
    return p, time.monotonic() - begun


for busy in (False, True):
    with check(f"all ranks are frozen for longer than the timeout, {'decoding' if busy else 'idle'}, and go on"):
        s = ranks_faults.Server(world)
        try:
            s.wait_ready()
            ranks = [*ranks_faults.children_of(s.process.pid), s.process.pid]
            c = ranks_faults.Client(s.port, 40) if busy else None
            ranks_faults.wait_for(lambda: not busy or c.first, 20)
            for pid in ranks:
                os.kill(pid, STOP)
            time.sleep(4)
            for pid in ranks:
                os.kill(pid, signal.SIGCONT)
            c = c or ranks_faults.Client(s.port, 8)
            c.join(30)
            assert c.saw == "whole", (c.saw, s.text()[-2000:])
            time.sleep(2) # nobody is missed later either
            assert ranks_faults.health(s.port) == 200, s.text()[-2000:]
            s.process.terminate()
            assert s.process.wait(20) == 0, s.text()[-2000:]
        finally:
            for pid in filter(ranks_faults.is_there, ranks):
                os.kill(pid, KILL)
            s.process.wait()


HOSTS = ("--tensor-parallel-size", "2", "--nnodes", "2", "--rank-patience", "1", "--rank-timeout", "1")
port = str(ranks_faults.free_port())
with check("a rank that never comes is named, in time"):
    p, took = start(*HOSTS, "--master-port", port)
    assert p.returncode == 69 and "rank 1 of 2 did not come within 1 s" in p.stderr, p
    assert took < 5, took
with check("and so is a rank 0 that is not there"):
    p, took = start(*HOSTS, "--master-port", port, "--node-rank", "1")
    assert p.returncode == 69 and re.search(r"rank 1: no rank 0 at 127.0.0.1:\d+ within 1 s", p.stderr), p
    assert took < 5, took
shutil.rmtree(folder, ignore_errors=True)
check.finish()
