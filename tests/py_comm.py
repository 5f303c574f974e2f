# SPDX-License-Identifier: Apache-2.0
"""Communicators through the installed program: the conformance test of those that need a
launcher, and what their sentences say."""
import os
import shutil
import subprocess

from tenonlib import PLUGINS, TENON, Counter

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


shared()
mpi()
check.finish()
