# SPDX-License-Identifier: Apache-2.0
"""Ranks that somebody else starts: mpirun, srun (its environment alone), and hosts that each start
their own (nnodes), here processes of one machine and two network name spaces with a cable between
them, which is pulled out."""
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time

from ranks_faults import Client, children_of, is_there, wait_for
from tenonlib import PLUGINS, TENON, TEXT, Counter, free_port, make_hybrid, write_ini

check = Counter()
folder = tempfile.mkdtemp(prefix="tenon-launch-")
model = make_hybrid(os.path.join(folder, "m"))
INI = {name: write_ini(os.path.join(folder, name + ".ini"), plugins=("cpu", "http"),
                       tail=f"[plugin {name}]\ntimeout = 4\n") for name in ("shared", "mpi")}
KEY = "0123456789abcdef-for-a-test"
ENV = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
for _name in list(ENV):
    if _name.startswith(("OMPI_COMM_", "PMI", "SLURM", "MASTER_", "TENON_TEAM")):
        del ENV[_name]
MPIRUN = ("mpirun", "--oversubscribe", "-n", "2")
ASK = ("--prompt", TEXT[:60], "--max-tokens", "16", "--temperature", "0", "--ignore-eos", "--cpu-exact",
       "--json")
TWO = ("--cpu-exact", "--tensor-parallel-size", "2", "--rank-timeout", "4", "--rank-patience", "15")


def complete(*args, comm="shared", before=(), **env):
    return subprocess.run([*before, TENON, "complete", model, "--config", INI[comm], *ASK, *args],
                          text=True, capture_output=True, timeout=60, env=dict(ENV, **env))


def start(command, *args, comm="shared", before=(), **env):
    out = tempfile.TemporaryFile("w+")
    log = tempfile.NamedTemporaryFile("w+", suffix=".log", dir=folder)
    p = subprocess.Popen([*before, TENON, command, model, "--config", INI[comm], *args], stdout=out,
                         stderr=log, stdin=subprocess.DEVNULL, env=dict(ENV, **env))
    p.out, p.log = out, log
    return p


def text(p):
    with open(p.log.name, encoding="utf-8", errors="replace") as f:
        return f.read()


def printed(p):
    p.out.seek(0)
    return p.out.read()


def ready(p, seconds=30):
    wait_for(lambda: "listening on" in text(p) or p.poll() is not None, seconds)
    assert p.poll() is None, text(p)


def end(*all_):
    for p in all_:
        for pid in [p.pid, *below(p.pid)]:
            if is_there(pid):
                os.kill(pid, signal.SIGKILL)
        p.wait()


def below(pid):
    found = []
    for c in children_of(pid):
        found += [c, *below(c)]
    return found


def ranks_below(pid):
    """Processes of tenon by their rank, as the launcher's environment has it."""
    found = {}
    for c in below(pid):
        try:
            with open(f"/proc/{c}/environ", "rb") as f:
                m = re.search(rb"(?:^|\0)OMPI_COMM_WORLD_RANK=(\d+)", f.read())
            if m and os.path.basename(os.readlink(f"/proc/{c}/exe")) == "tenon":
                found[int(m[1])] = c
        except OSError:
            pass
    return found


def post(port, body, host="127.0.0.1"):
    data = json.dumps(body).encode()
    with socket.create_connection((host, port), 30) as s:
        s.settimeout(30)
        s.sendall(b"POST /v1/completions HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                  b"Content-Length: %d\r\n\r\n%s" % (len(data), data))
        got = b""
        while part := s.recv(65536):
            got += part
    return got.decode()


BODY = {"prompt": TEXT[:60], "max_tokens": 16, "temperature": 0, "ignore_eos": True}
with check("one rank alone answers"):
    r = complete()
    assert r.returncode == 0, r.stderr
    WANTED = json.loads(r.stdout)


def launched(comm):
    with check(f"mpirun, {comm}: complete says what one rank says, and once"):
        r = complete("--tensor-parallel-size", "2", comm=comm, before=MPIRUN)
        assert r.returncode == 0, r.stderr
        assert len(r.stdout.splitlines()) == 1, r.stdout
        assert json.loads(r.stdout) == WANTED, (r.stdout, WANTED)
    with check(f"mpirun, {comm}: serves, streams, and ends in good order"):
        port = free_port()
        p = start("serve", *TWO, "--port", str(port), comm=comm, before=MPIRUN)
        try:
            ready(p)
            pieces = re.findall(r"^data: (\{.*\})", post(port, dict(BODY, stream=True)), re.M)
            said = "".join(c["text"] for x in pieces for c in json.loads(x)["choices"])
            assert len(pieces) > 4 and said == WANTED["text"], (said, WANTED)
            ranks = ranks_below(p.pid)
            assert sorted(ranks) == [0, 1], ranks
            os.kill(ranks[1], signal.SIGTERM) # it is rank 0 that lets the others go
            time.sleep(0.3)
            assert is_there(ranks[1])
            os.kill(ranks[0], signal.SIGTERM)
            assert p.wait(20) == 0, text(p)
            assert printed(p) == "", printed(p)
            assert text(p).count("listening on") == 1, text(p)
        finally:
            end(p)
    for victim in (1, 0):
        with check(f"mpirun, {comm}: rank {victim} is killed while it decodes"):
            port = free_port()
            p = start("serve", *TWO, "--port", str(port), comm=comm, before=MPIRUN)
            try:
                ready(p)
                ranks = ranks_below(p.pid)
                c = Client(port, 300)
                wait_for(lambda: c.first, 20)
                os.kill(ranks[victim], signal.SIGKILL)
                c.join(10)
                assert c.saw == ("error event" if victim else "cut"), (c.saw, text(p))
                assert p.wait(20) != 0
                assert not any(map(is_there, ranks.values()))
            finally:
                end(p)


def mpirun():
    if shutil.which("mpirun") is None:
        print("skip  launchers: no mpirun")
        return
    launched("shared")
    with check("mpirun: SIGTERM to itself ends all"):
        p = start("serve", *TWO, "--port", str(free_port()), before=MPIRUN)
        try:
            ready(p)
            ranks = ranks_below(p.pid)
            p.terminate()
            p.wait(20)
            assert wait_for(lambda: not any(map(is_there, ranks.values())), 5), text(p)
        finally:
            end(p)
    with check("mpirun: a number of ranks that is not tensor_parallel_size is refused"):
        r = complete("--tensor-parallel-size", "4", before=MPIRUN)
        assert r.returncode == 78 and "4, but 2 ranks were started" in r.stderr, r.stderr
        assert r.stdout == "", r.stdout
    with check("mpirun: mp starts ranks itself, launcher or not"):
        r = complete("--tensor-parallel-size", "2", "--distributed-executor-backend", "mp",
                     before=("mpirun", "-n", "1"))
        assert r.returncode == 0 and json.loads(r.stdout) == WANTED, (r.stdout, r.stderr)
    if not os.path.exists(f"{PLUGINS}/mpi.so"):
        print("skip  launchers: the plugin mpi is not built")
        return
    launched("mpi")
    with check("the communicator mpi without mpirun says what it wants"):
        r = complete("--tensor-parallel-size", "2", comm="mpi")
        assert r.returncode == 69 and "not started by mpirun or srun" in r.stderr, r.stderr


def srun():
    env = dict(SLURM_STEP_ID="0", SLURM_JOB_ID="77", SLURM_NTASKS="2", MASTER_PORT=str(free_port()))
    with check("srun's environment: two tasks are two ranks"):
        p = start("complete", *ASK, "--tensor-parallel-size", "2", **env, SLURM_PROCID="1", SLURM_LOCALID="1")
        try:
            r = complete("--tensor-parallel-size", "2", **env, SLURM_PROCID="0", SLURM_LOCALID="0")
            assert r.returncode == 0 and json.loads(r.stdout) == WANTED, (r.stdout, r.stderr)
            assert p.wait(20) == 0 and printed(p) == "", (text(p), printed(p))
        finally:
            end(p)
    with check("a task number beyond the number of tasks is refused"):
        r = complete("--tensor-parallel-size", "2", **env, SLURM_PROCID="2")
        assert r.returncode == 78 and "SLURM_PROCID is 2" in r.stderr, r.stderr
    with check("a batch script of Slurm's is no task: tenon starts the ranks"):
        r = complete("--tensor-parallel-size", "2", SLURM_JOB_ID="77", SLURM_NTASKS="2", SLURM_PROCID="0")
        assert r.returncode == 0 and json.loads(r.stdout) == WANTED, (r.stdout, r.stderr)


def hosts(n, nrank=2):
    port = str(free_port())
    return ("--tensor-parallel-size", str(nrank), "--nnodes", str(n), "--master-addr", "127.0.0.1",
            "--master-port", port, "--rank-patience", "4", "--rank-timeout", "2", "--cpu-exact")


def nodes():
    for args, code, what in [
            (("--nnodes", "3"), 78, "2 ranks on 3 hosts"),
            (("--nnodes", "2", "--node-rank", "2"), 78, "node_rank: 2 of 2"),
            (("--nnodes", "2", "--headless"), 78, "headless: this is host 0"),
            (("--nnodes", "2", "--master-addr", "192.0.2.1"), 78, "TENON_TEAM_KEY: not set"),
            (("--distributed-executor-backend", "external_launcher"), 78, "expected mpirun or srun"),
            (("--distributed-executor-backend", "ray"), 64, "expected one of auto, mp, external_launcher")]:
        with check(" ".join(args) + " is refused"):
            r = complete("--tensor-parallel-size", "2", *args)
            assert r.returncode == code and what in r.stderr, (r.returncode, r.stderr)
    with check("two hosts of two ranks: serve, stream, end"):
        flags, port = hosts(2, 4), free_port()
        far = start("serve", *flags, "--node-rank", "1", "--headless", TENON_TEAM_KEY=KEY)
        near = start("serve", *flags, "--port", str(port), TENON_TEAM_KEY=KEY)
        try:
            ready(near)
            assert len(children_of(near.pid)) == 1 and len(children_of(far.pid)) == 1
            pieces = re.findall(r"^data: (\{.*\})", post(port, dict(BODY, stream=True)), re.M)
            said = "".join(c["text"] for x in pieces for c in json.loads(x)["choices"])
            assert said == WANTED["text"], (said, WANTED)
            ranks = [*children_of(near.pid), *children_of(far.pid)]
            near.terminate()
            assert near.wait(20) == 0 and far.wait(20) == 0, (text(near), text(far))
            assert printed(near) == printed(far) == "" and not any(map(is_there, ranks))
        finally:
            end(near, far)
    with check("a variable that names code to load is taken out, and said so"):
        r = complete(NCCL_NET_PLUGIN="evil", OMPI_MCA_mca_base_component_path="/tmp/evil")
        assert r.returncode == 0, r.stderr
        for name in ("NCCL_NET_PLUGIN", "OMPI_MCA_mca_base_component_path"):
            assert f"environment: {name} may name code to load: taken out" in r.stderr, r.stderr
        r = complete("--keep-environment", "NCCL_NET_PLUGIN", NCCL_NET_PLUGIN="evil")
        assert r.returncode == 0 and "taken out" not in r.stderr, r.stderr
    with check("a rank of the other host is killed: all end"):
        flags = hosts(2, 4)
        far = start("serve", *flags, "--node-rank", "1", TENON_TEAM_KEY=KEY)
        near = start("serve", *flags, "--port", str(free_port()), TENON_TEAM_KEY=KEY)
        try:
            ready(near)
            ranks = [*children_of(near.pid), *children_of(far.pid)]
            os.kill(children_of(far.pid)[0], signal.SIGKILL)
            assert near.wait(20) == 70, text(near)
            assert "rank 3 is lost" in text(near), text(near)
            far.wait(20)
            assert wait_for(lambda: not any(map(is_there, ranks)), 5)
        finally:
            end(near, far)
    for what, other, sentence in [
            ("key", dict(TENON_TEAM_KEY=KEY + "!"), "it has another key or version"),
            ("size", dict(TENON_TEAM_KEY=KEY), "it is rank 2 of 4; rank 0 has a team of 2")]:
        with check(f"a host with another {what} is turned away, with a sentence to both"):
            flags = hosts(2)
            wrong = flags if what == "key" else ("--tensor-parallel-size", "4", *flags[2:])
            near = start("complete", *ASK, *flags, "--rank-patience", "2", TENON_TEAM_KEY=KEY)
            try:
                r = complete(*wrong, "--node-rank", "1", **other)
                assert r.returncode == 69 and sentence in r.stderr, r.stderr
                assert near.wait(20) == 69 and sentence in text(near), text(near)
                assert "rank 1 of 2 did not come within 2 s" in text(near), text(near)
            finally:
                end(near)


def strangers():
    """Bytes on the ranks' port, and many who say nothing, hold up nobody."""
    flags = hosts(2)
    at = ("127.0.0.1", int(flags[7]))
    near = start("complete", *ASK, *flags, TENON_TEAM_KEY=KEY)
    held = []

    def knock(data):
        s = None
        for _ in range(200):
            try:
                s = socket.create_connection(at, 2)
                break
            except OSError:
                time.sleep(0.02)
        s.settimeout(3)
        question = s.recv(64)
        s.sendall(data(question) if callable(data) else data)
        held.append(s)
        return s

    def closed(s):
        try:
            while s.recv(4096):
                pass
            return True
        except ConnectionError:
            return True
        except TimeoutError:
            return False

    with check("strangers at the ranks' port are dropped, and the ranks still meet"):
        try:
            hello = 0x74656d01
            for data in (os.urandom(4096), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 4, b"\0" * 56,
                         struct.pack("=IIQ", hello, 0, 1 << 40) + b"x" * 40,
                         struct.pack("=IIQ", hello, 0, 40) + os.urandom(40),
                         lambda q: struct.pack("=IIQ", hello, 0, 40) + q[16:56]): # its own words
                assert closed(knock(data)), data
            for _ in range(70):
                knock(b"")
                knock(b"\1\2\3")
            r = complete(*flags, "--node-rank", "1", TENON_TEAM_KEY=KEY)
            assert r.returncode == 0 and r.stdout == "", r.stderr
            assert near.wait(20) == 0 and json.loads(printed(near)) == WANTED, text(near)
            assert "was turned away" in text(near), text(near)
        finally:
            for s in held:
                s.close()
            end(near)


def unit():
    """The unit starts anew what a new start can help, and nothing else."""
    path = os.path.join(os.path.dirname(os.path.dirname(TENON)), "share", "tenon", "tenon.service")
    with check("tenon.service: what it runs is there, and what it does not start anew"):
        with open(path, encoding="utf-8") as f:
            said = f.read()
        assert "@" not in re.sub(r"^#.*", "", said, flags=re.M), said
        command = re.search(r"^ExecStart=(\S+) serve --config (\S+)$", said, re.M)
        assert os.path.samefile(command[1], TENON) and os.path.exists(command[2]), command
        codes = re.search(r"^RestartPreventExitStatus=(.*)$", said, re.M)[1].split()
        assert codes == ["64", "65", "66", "77", "78"], codes
        assert re.search(r"^KillMode=mixed$", said, re.M) and re.search(r"^LimitMEMLOCK=infinity$", said, re.M)
    if shutil.which("systemd-analyze") is None:
        print("skip  tenon.service: no systemd-analyze")
        return
    with check("tenon.service: systemd finds nothing wrong with it"):
        r = subprocess.run(["systemd-analyze", "verify", "--man=no", path], text=True, capture_output=True)
        assert r.returncode == 0 and path not in r.stderr, r


A, B = f"tenon-{os.getpid()}-a", f"tenon-{os.getpid()}-b"
NET = ("10.213.77.1", "10.213.77.2")


def ip(*words):
    subprocess.run(("ip", *words), check=True, capture_output=True)


def lay_cable():
    ip("netns", "add", A)
    ip("netns", "add", B)
    ip("link", "add", "ta", "netns", A, "type", "veth", "peer", "name", "tb", "netns", B)
    for space, link, address in ((A, "ta", NET[0]), (B, "tb", NET[1])):
        ip("-n", space, "addr", "add", address + "/24", "dev", link)
        ip("-n", space, "link", "set", "lo", "up")
        ip("-n", space, "link", "set", link, "up")


def across(command, comm):
    """The same command in both name spaces: rank 0's process, and rank 1's."""
    flags = ("--tensor-parallel-size", "2", "--nnodes", "2", "--master-addr", NET[0], "--master-port", "29777",
             "--rank-patience", "5", "--rank-timeout", "2", "--cpu-exact")
    more = ASK if command == "complete" else ("--port", "8000")
    far = start(command, *flags, *more, "--node-rank", "1", comm=comm, before=("ip", "netns", "exec", B),
                TENON_TEAM_KEY=KEY)
    near = start(command, *flags, *more, comm=comm, before=("ip", "netns", "exec", A), TENON_TEAM_KEY=KEY)
    return near, far


def agent():
    path = os.path.join(folder, "agent.sh")
    with open(path, "w", encoding="utf-8") as f:
        f.write(f'#!/bin/sh\ncase $1 in {NET[0]}) s={A};; *) s={B};; esac\nshift\n'
                'exec ip netns exec $s sh -c "$*"\n')
    os.chmod(path, 0o700)
    return path


def two_networks():
    made = False
    try:
        lay_cable()
        made = True
    except (OSError, subprocess.CalledProcessError) as e:
        print(f"skip  two hosts: no network name spaces ({getattr(e, 'stderr', b'') or e})")
    try:
        if made:
            between()
    finally:
        for space in (A, B):
            subprocess.run(("ip", "netns", "del", space), capture_output=True)


def between():
    with check("shared across hosts is refused by the rank that is elsewhere, and rank 0 repeats it"):
        near, far = across("complete", "shared")
        try:
            assert far.wait(20) == 69 and "on another host than rank 0" in text(far), text(far)
            assert near.wait(20) == 69 and "on another host than rank 0" in text(near), text(near)
        finally:
            end(near, far)
    if not os.path.exists(f"{PLUGINS}/mpi.so") or shutil.which("mpirun") is None:
        print("skip  two hosts: no mpirun, or the plugin mpi is not built")
        return
    launch = ("ip", "netns", "exec", A, "mpirun", "--oversubscribe", "--host", ",".join(NET), "-n", "2",
              "--mca", "plm_rsh_agent", agent(), "--mca", "btl", "tcp,self",
              "--mca", "btl_tcp_if_include", "10.213.77.0/24", "--mca", "oob_tcp_if_include",
              "10.213.77.0/24", "-x", "TENON_TEAM_KEY", "-x", "MASTER_ADDR")
    env = dict(TENON_TEAM_KEY=KEY, MASTER_ADDR=NET[0])
    with check("mpirun over two hosts: complete says what one rank says"):
        r = complete("--tensor-parallel-size", "2", comm="mpi", before=launch, **env)
        assert r.returncode == 0 and json.loads(r.stdout) == WANTED, (r.stdout, r.stderr)
    with check("mpirun over two hosts: without a key nobody is believed"):
        r = complete("--tensor-parallel-size", "2", comm="mpi", before=launch, MASTER_ADDR=NET[0],
                     TENON_TEAM_KEY="short")
        assert r.returncode == 78 and "TENON_TEAM_KEY: too short" in r.stderr, r.stderr
    with check("the cable is pulled while they decode: clients are told, all end"):
        pull(launch, env, True)
    with check("the cable is pulled while they are idle: all end"):
        ip("-n", A, "link", "set", "ta", "up")
        pull(launch, env, False)


def pull(launch, env, busy):
    p = start("serve", *TWO, "--port", "8000", comm="mpi", before=launch, **env)
    try:
        ready(p)
        ranks = ranks_below(p.pid)
        assert sorted(ranks) == [0, 1], ranks
        if busy:
            ask = subprocess.Popen(
                ["ip", "netns", "exec", A, "python3", "-c", "import sys; sys.path.insert(0, sys.argv[1])\n"
                 "from ranks_faults import Client\nc = Client(8000, 300)\n"
                 "while not (c.first or c.ended): pass\nprint('first', flush=True)\nc.join()\nprint(c.saw)",
                 os.path.dirname(os.path.abspath(__file__))], stdout=subprocess.PIPE, text=True, env=ENV)
            assert ask.stdout.readline() == "first\n", text(p)
        ip("-n", A, "link", "set", "ta", "down")
        if busy:
            begun = time.monotonic()
            saw = ask.communicate(timeout=30)[0].strip()
            took = time.monotonic() - begun
            assert saw == "error event", (saw, text(p))
            assert took < 15, took
        assert wait_for(lambda: not any(map(is_there, ranks.values())), 20), text(p)
        # mpirun waits on for its daemon beyond the cable; that is not ours to end
        assert re.search(r"rank 1.*(not heard of|lost|did not come)", text(p)), text(p)
    finally:
        end(p)


mpirun()
srun()
nodes()
strangers()
unit()
two_networks()
shutil.rmtree(folder, ignore_errors=True)
check.finish()
