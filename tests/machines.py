"""Machines with nothing in common, on this one: Linux namespaces joined by a bridge.

Each machine has its own processes, network, host name and /tmp, with its home, cache and results in it; of this machine
it sees the installed Python packages only. All of it ends with the process that made it, however that ends.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
from running import ROOT, Ran

PORT = 6379
_TOOLS = ("ip", "unshare", "nsenter", "setpriv", "mount")
_ENDS_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL")
_BIN = Path(sys.executable).parent
WORK = "/tmp/work"
"""The folder that commands run in, as a machine sees it."""

# Keeps the folders given, which may lie in /tmp, and hides the others; `trap` lets the kernel reap orphans.
_PREPARE = """
set -e
hostname "$1"; ip link set lo up
hide=$2; keep=$3
fd=3
for folder in $keep; do eval "exec $fd<$folder"; fd=$((fd + 1)); done
mount -t tmpfs -o size=4g tmpfs /tmp
mount -t tmpfs -o size=4g tmpfs /dev/shm
fd=3
for folder in $keep; do
    if [ ! -e "$folder" ]; then mkdir -p "$folder"; mount -c --bind "/proc/self/fd/$fd" "$folder"; fi
    eval "exec $fd<&-"; fd=$((fd + 1))
done
mkdir -p /tmp/home /tmp/work /tmp/empty
printf '127.0.0.1 localhost\n%s %s\n' "$4" "$1" > /tmp/hosts
mount --bind /tmp/hosts /etc/hosts
mount --bind /dev/null /etc/resolv.conf
for folder in $hide; do mount --bind /tmp/empty "$folder"; done
touch /tmp/ready
trap '' CHLD
exec sleep infinity
"""


def why_not() -> str | None:
    """Return why there can be no machines here; None if there can."""
    if os.geteuid() != 0:
        return "needs root, for namespaces"
    absent = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if absent:
        return f"needs {', '.join(absent)} (util-linux, iproute2)"
    tried = subprocess.run(["unshare", "--mount", "--net", "--pid", "--fork", "true"], capture_output=True, check=False)
    return None if tried.returncode == 0 else f"namespaces are not allowed here: {tried.stderr.decode().strip()}"


@functools.cache
def _packages_of_bench() -> list[str]:
    """Return the folders that `import bench` would find, in the checkout and where it is installed from."""
    code = "import importlib.util; print(importlib.util.find_spec('bench').origin)"
    words, environ = [sys.executable, "-c", code], {"PATH": os.environ["PATH"]}
    installed = subprocess.run(words, cwd="/", env=environ, capture_output=True, text=True, check=False)
    here = importlib.util.find_spec("bench")
    assert here is not None and here.origin is not None
    return sorted({str(Path(origin).parent) for origin in (here.origin, installed.stdout.strip()) if origin})


class Machine:
    """A machine: an address on the bridge, and processes that see only its own files."""

    def __init__(self, name: str, number: int, *, has_bench: bool) -> None:
        """Start it; ``number`` is the last part of its address, and ``has_bench`` whether this package is there."""
        self.name, self.address = name, f"10.77.0.{number}"
        hidden = [] if has_bench else _packages_of_bench()
        others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != str(ROOT)]
        kept = [str(path) for path in (ROOT, sys.prefix, sys.base_prefix, *others)]
        self._path = os.pathsep.join([str(ROOT)] * has_bench + others)
        self._outer = psutil.Popen(
            [
                *_ENDS_WITH_PARENT,
                *("unshare", "--kill-child", "--fork", "--pid", "--mount-proc", "--mount", "--net", "--uts", "--ipc"),
                *("sh", "-c", _PREPARE, "-", name, " ".join(hidden), " ".join(kept), self.address),
            ],
            stdin=subprocess.DEVNULL,
        )
        self.pid = self._first_process()
        self.variables: dict[str, str] = {}
        """Environment variables of all commands on it."""

    def _first_process(self) -> int:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            for child in self._outer.children():
                if child.name() == "sleep" and Path(f"/proc/{child.pid}/root/tmp/ready").exists():
                    return int(child.pid)
            assert self._outer.poll() is None, f"{self.name} did not start"
            time.sleep(0.02)
        raise AssertionError(f"{self.name} did not start in time")

    @property
    def tmp(self) -> Path:
        """Return its /tmp, as seen from here."""
        return Path(f"/proc/{self.pid}/root/tmp")

    @property
    def work(self) -> Path:
        """Return the folder that its commands run in, as seen from here."""
        return self.tmp / Path(WORK).name

    def start(self, *words: str, log: Path | None = None, **variables: str) -> psutil.Popen:
        """Start a command on it, in the folder ``work``."""
        environ = {
            **{name: value for name, value in os.environ.items() if name.startswith(("LANG", "LC_"))},
            "PYTHONPATH": self._path,
            "PATH": f"{_BIN}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": "/tmp/home",
            "TMPDIR": "/tmp",
            "PYTHONUNBUFFERED": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
            **self.variables,
            **variables,
        }
        namespaces = ("--mount", "--net", "--pid", "--uts", "--ipc")
        inside = ("nsenter", "--target", str(self.pid), *namespaces, f"--wd={self.work}")
        with contextlib.ExitStack() as files:
            out = files.enter_context(log.open("ab")) if log else subprocess.PIPE
            return psutil.Popen(
                [*_ENDS_WITH_PARENT, *inside, *words],
                env=environ,
                stdout=out,
                stderr=subprocess.STDOUT if log else subprocess.PIPE,
                stdin=subprocess.DEVNULL,
                text=True,
            )

    def run(self, *words: str, timeout: float = 120, **variables: str) -> Ran:
        """Run a command on it to its end."""
        process = self.start(*words, **variables)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"{shlex.join(words)} on {self.name} did not end:\n{out}\n{err}") from None
        return Ran(process.returncode, out, err)

    def bench(self, *words: str, timeout: float = 120, **variables: str) -> Ran:
        """Run ``python -m bench.run WORDS`` on it to its end."""
        return self.run(*bench_run(*words), timeout=timeout, **variables)

    def kill(self) -> None:
        """Pull its plug: its processes end, and its address answers no more."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self._outer.kill()
        self._outer.wait(20)


def bench_run(*words: str) -> list[str]:
    """Return the command ``python -m bench.run WORDS``, without timing."""
    return [sys.executable, "-m", "bench.run", *words, "--no-timing"]


class Site:
    """Some machines on one bridge, and the token that a Ray cluster on them asks for."""

    def __init__(self) -> None:
        self.token = secrets.token_hex(32)
        self._switch = Machine("switch", 254, has_bench=False)
        self.machines: list[Machine] = []
        forward = "echo 1 > /proc/sys/net/ipv4/ip_forward"  # so that addresses elsewhere are refused at once
        bridge = "ip link add bridge type bridge && ip link set bridge up && ip addr add 10.77.0.254/24 dev bridge"
        self._on_switch(f"{bridge} && {forward}")

    def _on_switch(self, script: str) -> None:
        done = self._switch.run("sh", "-c", script)
        assert done.code == 0, done

    def add(self, name: str, *, has_bench: bool = False, delay_ms: float = 0, loss: float = 0) -> Machine:
        """Add a machine; what goes to it and comes from it may be delayed, and lost by chance (a share of packets)."""
        machine = Machine(name, len(self.machines) + 1, has_bench=has_bench)
        self.machines.append(machine)
        port = f"to-{name}"
        to_machine = ["ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(machine.pid)]
        subprocess.run(["nsenter", "--target", str(self._switch.pid), "--net", *to_machine], check=True)
        there = (
            f"ip addr add {machine.address}/24 dev eth0 && ip link set eth0 up && ip route add default via 10.77.0.254"
        )
        if delay_ms or loss:  # one more cable, and a process between the two
            self._on_switch(f"ip link add {port}-a type veth peer name {port}-b && ip link set {port}-a master bridge")
            self._on_switch(f"ip link set {port}-a up && ip link set {port}-b up && ip link set {port} up")
            relay = [sys.executable, str(Path(__file__).with_name("relay.py")), port, f"{port}-b"]
            self._switch.start(*relay, str(delay_ms / 1000), str(loss), log=Path(os.devnull))
        else:
            self._on_switch(f"ip link set {port} master bridge && ip link set {port} up")
            limit = "gso_max_segs 1"  # so that the loss of a frame is the loss of a packet
            there = f"ip link set dev eth0 {limit} && {there}"
        done = machine.run("sh", "-c", there)
        assert done.code == 0, done
        machine.variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token, "RAY_USAGE_STATS_ENABLED": "0"}
        return machine

    def link(self, machine: Machine, state: str) -> None:
        """Plug the cable of a machine in ('up') or out ('down')."""
        self._on_switch(f"ip link set to-{machine.name} {state}")

    def close(self) -> None:
        """Switch all machines off."""
        for machine in (*self.machines, self._switch):
            machine.kill()


@contextlib.contextmanager
def site() -> Iterator[Site]:
    """Make a site for as long as the block lasts."""
    made = Site()
    try:
        yield made
    finally:
        made.close()


def start_head(machine: Machine, *words: str, **variables: str) -> psutil.Popen:
    """Start Ray's head on a machine; see :func:`wait_for_ray`."""
    return _start_ray(machine, ("--head", f"--port={PORT}", *words), variables)


def join(machine: Machine, head: Machine, *words: str, **variables: str) -> psutil.Popen:
    """Make a machine a node of the cluster; see :func:`wait_for_ray`."""
    return _start_ray(machine, (f"--address={head.address}:{PORT}", *words), variables)


def _start_ray(machine: Machine, words: Sequence[str], variables: dict[str, str]) -> psutil.Popen:
    options = ("--block", f"--node-ip-address={machine.address}", "--object-store-memory=200000000")
    return machine.start(str(_BIN / "ray"), "start", *options, *words, log=_ray_log(machine), **variables)


def wait_for_ray(machine: Machine, process: psutil.Popen) -> None:
    """Wait until Ray runs on a machine; ``process`` started it."""
    log = _ray_log(machine)
    until(lambda: "Ray runtime started" in log.read_text(), 150, log.read_text, process)


def _ray_log(machine: Machine) -> Path:
    return machine.tmp / "ray-start.log"


def until(
    what: Callable[[], bool],
    seconds: float,
    said: Callable[[], str] = lambda: "",
    process: psutil.Popen | None = None,
) -> None:
    """Wait until ``what`` is true; fail after ``seconds``, or when ``process`` ends."""
    end = time.monotonic() + seconds
    while not what():
        assert process is None or process.poll() is None or what(), f"it ended:\n{said()}"
        assert time.monotonic() < end, f"not so in {seconds:g} s:\n{said()}"
        time.sleep(0.1)
