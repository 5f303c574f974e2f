# SPDX-License-Identifier: Apache-2.0
"""Communicators through the installed program: the conformance test of those that need a
launcher or a card (a fake one here), and what their sentences say."""
import os
import re
import shutil
import socket
import struct
import subprocess
import tempfile
import time

from tenonlib import PLUGINS, TENON, TOP, Counter

check = Counter()
LAUNCHER = "mpirun --oversubscribe --enable-recovery -n {n}"
# Tests run as root in containers, which Open MPI wants said.
ENV = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
for key in list(ENV):
    if key.startswith(("OMPI_COMM_", "PMI")):
        del ENV[key]


def plugin_check(name, *args):
    r = subprocess.run([TENON, "plugin", "check", "--run", f"{PLUGINS}/{name}.so", *args], text=True,
                       capture_output=True, timeout=300, env=ENV)
    return r.returncode, r.stdout, r.stderr


def says(out, *lines):
    for line in lines:
        assert line in out, (line, out)


def shared():
    with check("shared: nothing is left behind by ranks that were killed, stopped or turned away"):
        before = set(os.listdir("/dev/shm"))
        code, out, err = plugin_check("shared")
        assert code == 0, (out, err)
        says(out, "ok    8 ranks: sums of f32, f16, bf16, i32 (the same bits on all)",
             "ok    2 ranks, the last killed: after 2", "ok    a second rank 1 is turned away")
        assert "the last stopped: after 10" in out and "rank 3 (process" in out, out
        assert set(os.listdir("/dev/shm")) - before == set()


def doors():
    with open("/proc/net/unix", encoding="utf-8") as f:
        return set(re.findall(r"@(tenon-shared-[0-9a-f]{32})\n", f.read()))


def knock(name, data):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.settimeout(5)
    s.connect("\0" + name)
    if data:
        s.send(data)
    return s


def letter(kind, version=1, rank=1, nrank=2, pid=None):
    return struct.pack("=IIIIiIQ256s", kind, version, rank, nrank, pid or os.getpid(), 0, 65536, b"")


def strangers():
    """What comes to rank 0's socket while it waits: noise, half letters, false ones, silence."""
    with tempfile.TemporaryDirectory(prefix="tenon-comm-") as folder, \
            check("shared: strangers at the door are turned away, and the ranks still meet"):
        launcher = os.path.join(folder, "late.sh")
        with open(launcher, "w", encoding="utf-8") as f:
            f.write('#!/bin/sh\nshift\n"$@" &\nsleep 2\n"$@" &\nwait\n')
        os.chmod(launcher, 0o700)
        before = doors()
        p = subprocess.Popen([TENON, "plugin", "bench", f"{PLUGINS}/shared.so", "--launcher",
                              f"{launcher} {{n}}"], text=True, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE)
        end = time.monotonic() + 10
        while not doors() - before and time.monotonic() < end:
            time.sleep(0.01)
        name = (doors() - before).pop()
        hello, ready = 0x736801, 0x736803
        kept = [knock(name, b"") for _ in range(20)]
        for data in (b"x", os.urandom(288), os.urandom(5000), letter(0), letter(ready)):
            assert knock(name, data).recv(4096) == b"", data[:20]
        for data, why in ((letter(hello, version=2), b"protocol 2"), (letter(hello, nrank=3), b"of 3"),
                          (letter(hello, rank=0), b"rank 0 is there already"),
                          (letter(hello, rank=7), b"rank 7 of 2"), (letter(hello, pid=1), b"process 1 ")):
            answer = knock(name, data).recv(4096)
            assert why in answer, (why, answer)
        s = knock(name, letter(hello))  # takes the seat, and ends
        assert len(s.recv(4096)) == len(letter(hello))
        s.close()
        out, err = p.communicate(timeout=60)
        assert p.returncode == 0 and out.startswith("shared, 2 ranks: "), (out, err)
        for s in kept:
            s.close()


def mpi():
    if not os.path.exists(f"{PLUGINS}/mpi.so") or shutil.which("mpirun") is None:
        print("skip  mpi: not built, or no mpirun")
        return
    with check("mpi: without a launcher it says so, and a rank alone needs none"):
        code, out, err = plugin_check("mpi")
        assert code == 0, (out, err)
        says(out, "ok    1 rank: sums", "skip  rank 0 of 2: join: mpi: this process was not started by "
             "mpirun or srun")
    with check("mpi: the conformance test under mpirun, ranks killed and stopped included"):
        code, out, err = plugin_check("mpi", "--launcher", LAUNCHER)
        assert code == 0, (out, err)
        says(out, "ok    8 ranks: sums of f32, f16, bf16, i32 (the same bits on all)",
             "ok    4 ranks, the last killed: after 2", "ok    3 ranks, the last gone in peace")
        assert "4 ranks, the last stopped: after 10" in out and ": mpi: rank 3 (process" in out, out
    with check("mpi: the same over TCP, as between hosts"):
        code, out, err = plugin_check("mpi", "--launcher", LAUNCHER + " --mca btl self,tcp "
                                      "--mca btl_tcp_if_include lo")
        assert code == 0, (out, err)


def build_fake(folder, name, *flags):
    so = os.path.join(folder, name + ".so")
    subprocess.run([os.environ.get("CC", "cc"), "-std=gnu11", "-D_GNU_SOURCE", "-O1", "-w", "-shared",
                    "-fPIC", "-fvisibility=hidden", "-Wl,-z,relro", f"-I{TOP}/include",
                    f"{TOP}/tests/badplugins/fakenccl.c", "-o", so, *flags, "-lpthread", "-lm", "-ldl"],
                   check=True)
    return so


def nccl():
    with check("nccl: without a driver or a library its probe says so"):
        code, out, err = plugin_check("nccl", "--set", "driver=libno-such.so.1")
        assert code == 69, (out, err)
        says(out, "nccl: no NVIDIA driver: libno-such.so.1")
    with tempfile.TemporaryDirectory(prefix="tenon-nccl-") as folder:
        library = build_fake(folder, "libfakenccl", "-DLIBRARY")
        card = build_fake(folder, "fakecard", f'-DLIBRARY_FILE="{library}"')
        fake = ["--set", f"driver={library}", "--device", card]
        with check("nccl: no library"):
            code, out, err = plugin_check("nccl", *fake, "--set", "library=libno-such.so.2")
            assert code == 69, (out, err)
            says(out, "nccl: no NCCL library: libno-such.so.2")
        with check("nccl: a graph that holds calls of a group holds up nobody who leaves it"):
            r = subprocess.run([TENON, "plugin", "bench", f"{PLUGINS}/nccl.so", *fake, "--set",
                                f"library={library}"], text=True, capture_output=True, timeout=60,
                               env=dict(ENV, FAKENCCL_GRAPHS="1"))
            assert r.returncode == 0 and r.stdout.startswith("nccl, 2 ranks: "), (r.stdout, r.stderr)
            assert "a captured graph still holds calls of a group" in r.stderr, r.stderr
        for split in ("yes", "no"):
            with check(f"nccl: the conformance test on a fake card, split = {split}"):
                before = set(os.listdir("/dev/shm"))
                code, out, err = plugin_check("nccl", *fake, "--set", f"library={library}", "--set",
                                              f"split={split}")
                assert code == 0, (out, err)
                assert set(os.listdir("/dev/shm")) - before == set()
                says(out, "ok    8 ranks: sums of f32, f16, bf16, i32 (the same bits on all)",
                     "ok    4 ranks, the last killed: after 2", "ok    3 ranks, the last gone in peace",
                     "ok    a second rank 1 is turned away")
                assert "2 ranks, the last stopped: after 10" in out, out


def times():
    with check("bench prints a table, and says what is wrong"):
        r = subprocess.run([TENON, "plugin", "bench", f"{PLUGINS}/shared.so", "--ranks", "3"], text=True,
                           capture_output=True, timeout=120)
        assert r.returncode == 0 and r.stdout.startswith("shared, 3 ranks: "), (r.stdout, r.stderr)
        rows = [line.split() for line in r.stdout.splitlines()[2:]]
        assert [int(x[0]) for x in rows] == [4, 1024, 8192, 16384, 65536, 262144, 1048576, 4194304,
                                             16777216], rows
        assert all(float(x) > 0 for row in rows for x in row[1:4]), rows
        for args, code, text in ((["--ranks", "0"], 64, "--ranks 0"), (["--ranks", "9"], 64, "1 to 8"),
                                 (["--device", "/no/such.so"], 66, "--device /no/such.so")):
            r = subprocess.run([TENON, "plugin", "bench", f"{PLUGINS}/shared.so", *args], text=True,
                               capture_output=True, timeout=60)
            assert r.returncode == code and text in r.stderr, (args, r.returncode, r.stderr)


shared()
strangers()
mpi()
nccl()
times()
check.finish()
