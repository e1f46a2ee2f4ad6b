"""Runs the commands as a user does: a process, its exit code, what it printed."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    def __str__(self) -> str:
        return f"exit code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


def environment(**more: str) -> dict[str, str]:
    """The environment of a command, without network: only what is on disk is used."""
    proxy = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "no_proxy": "127.0.0.1,localhost"}
    return {**os.environ, "PYTHONPATH": str(ROOT), **proxy, **more}


def command(module: str, *arguments: object, cwd: Path, timeout: float = 240, timing: bool = False, **more: str) -> Ran:
    """``python -m MODULE ARGUMENTS`` in ``cwd``; a benchmark without its timing unless ``timing`` asks for it."""
    if module == "bench.run" and not timing:
        arguments = (*arguments, "--no-timing")
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=cwd,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


class Running:
    """A command in a process group of its own, with its output in a file."""

    def __init__(self, folder: Path, words: list[str], **more: str) -> None:
        self.log = folder / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bench.run", *words, "--no-timing"],
                cwd=folder,
                env=environment(**more),
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def wait_for(self, what: Callable[[str], bool], seconds: float = 90) -> str:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if what(self.log.read_text()):
                return self.log.read_text()
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError("not seen in time:\n" + self.log.read_text())

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def workers(self) -> list[psutil.Process]:
        """The processes that train, as Ray calls them."""
        found = []
        for one in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
                if " ".join(one.cmdline()).startswith(("ray::train_group", "ray::RayTrainWorker")):
                    found.append(one)
        return found

    def kill_after(self, seconds: float) -> bool:
        """Kill the command unless it ends within ``seconds``; return whether it was killed. Its workers have ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        killed = self.process.poll() is None
        workers = self.workers() if killed else []
        if killed:
            self.process.kill()
        self.process.wait()
        assert gone(workers, 20) == [], "a worker outlived the driver"
        return killed


def write_at_once(script: str, *writers: tuple[str, ...], given: object, cwd: Path) -> None:
    """Run a Python script once for each tuple of arguments, all at the same time; each reads ``given`` as a pickle."""
    processes = [
        subprocess.Popen([sys.executable, "-c", script, *arguments], cwd=cwd, env=environment(), stdin=subprocess.PIPE)
        for arguments in writers
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(pickle.dumps(given))
        process.stdin.close()
    assert [process.wait(120) for process in processes] == [0] * len(processes)


@contextlib.contextmanager
def ray_node(*words: str, env: dict[str, str]) -> Iterator[psutil.Process]:
    """``ray start WORDS`` for as long as the block lasts; what else uses Ray on the machine is left alone."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        with log.open("w") as out:
            process = psutil.Popen(
                [str(Path(sys.executable).with_name("ray")), "start", "--block", *words],
                cwd="/",
                env={**env, "PYTHONUNBUFFERED": "1"},
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
        try:
            end = time.monotonic() + 60
            while "Ray runtime started" not in log.read_text():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.1)
            yield process
        finally:
            family = [process, *process.children(recursive=True)] if process.poll() is None else []
            for one in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
            gone(family, 20)


def gone(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Those that are still there after ``seconds``."""
    return psutil.wait_procs(processes, timeout=seconds)[1]
