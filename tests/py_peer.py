# SPDX-License-Identifier: Apache-2.0
"""The communicator peer on a simulated card: the conformance test through the cards' memory and
through the host's, and the trial that finds links which are refused or swallow what they get."""
import os
import shutil
import subprocess
import sys
import tempfile

from tenonlib import TENON, Counter

check = Counter()
BUILD = os.environ.get("TENON_BUILD", "")
MAKE = ["make", "-C", BUILD, "--silent", "cudasim_peer.la", "cudasim_plugin.la"]
if not BUILD or subprocess.run(MAKE + ["-n"], capture_output=True).returncode != 0:  # no such rule
    print("there is no simulated card in this build\n0 passed, 0 failed")
    sys.exit(0)
subprocess.run(MAKE, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

folder = tempfile.mkdtemp(prefix="tenon-peer-")
for source, name in (("cudasim_peer", "peer"), ("cudasim_plugin", "cuda")):
    shutil.copy(os.path.join(BUILD, ".libs", source + ".so"), os.path.join(folder, name + ".so"))
# What is waited for here is processors, of which there may be few: no measuring.
SETS = ["--set", "one_shot=16384", "--set", "timeout=3"]


def plugin(verb, *args, **env):
    r = subprocess.run([TENON, "plugin", verb, f"{folder}/peer.so", "--device", f"{folder}/cuda.so",
                        *SETS, *args], text=True, capture_output=True, timeout=400,
                       env=dict(os.environ, **env))
    return r.returncode, r.stdout, r.stderr


WARNING = "mailboxes go to the host's memory"
for way in ("cards", "host"):
    with check(f"peer: the conformance test on a simulated card, way = {way}"):
        before = set(os.listdir("/dev/shm"))
        code, out, err = plugin("check", "--run", "--set", f"way={way}")
        assert code == 0, (out, err)
        for line in ("ok    2 ranks: sums of f32, f16, bf16, i32 (the same bits on all)",
                     "ok    8 ranks: sums of f32, f16, bf16, i32 (the same bits on all)",
                     "ok    4 ranks, the last killed: after ", "ok    3 ranks, the last gone in peace",
                     "ok    a second rank 1 is turned away"):
            assert line in out, (line, out)
        assert "2 ranks, the last stopped: after 1" in out and WARNING not in err, (out, err)
        assert set(os.listdir("/dev/shm")) - before == set()
with check("peer: a link that is refused, and one that swallows what it gets, are done without"):
    for ipc, why in (("refused", "they cannot open each other's memory"), ("deaf", "in time")):
        code, out, err = plugin("check", "--run", CUDASIM_IPC=ipc)
        assert code == 0 and WARNING in err and why in err, (ipc, out, err)
with check("peer: way = cards wants cards that reach each other"):
    code, out, err = plugin("bench", "--set", "way=cards", CUDASIM_IPC="refused")
    assert code == 69 and "peer: the cards of 2 ranks do not reach each other" in err, (out, err)
shutil.rmtree(folder)
check.finish()
