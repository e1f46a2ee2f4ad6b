"""A stand-in for SLURM's srun and scontrol, over the machines that MACHINES names: {"NAME": process id}, as JSON.

It takes the options that deploy/slurm/ uses, starts the command once on each node with its own environment, as srun
does, and exits with the highest exit code.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys


def scontrol(words: list[str]) -> int:
    """Print the names of a node list: scontrol show hostnames NAME,NAME."""
    assert words[:2] == ["show", "hostnames"], words
    print("\n".join(words[2].split(",")))
    return 0


def srun(words: list[str]) -> int:
    """Run a command on nodes."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--ntasks", type=int, required=True)
    parser.add_argument("--ntasks-per-node", type=int)
    parser.add_argument("--nodelist")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    asked = parser.parse_args(words)
    pids: dict[str, int] = json.loads(os.environ["MACHINES"])
    names = asked.nodelist.split(",") if asked.nodelist else list(pids)
    assert len(names) == asked.nodes == asked.ntasks, (names, asked)
    started = []
    for name in names:
        pid = pids[name]
        inside = ("nsenter", "--target", str(pid), "--mount", "--net", "--pid", "--uts", "--ipc")
        words = ["setpriv", "--pdeathsig", "KILL", *inside, f"--wd=/proc/{pid}/root/tmp/work", *asked.command]
        environ = {**os.environ, "HOME": "/tmp/home", "TMPDIR": "/tmp", "SLURMD_NODENAME": name}
        started.append(subprocess.Popen(words, env={**environ, "SLURM_CPUS_ON_NODE": "1"}, stdin=subprocess.DEVNULL))
    return max(process.wait() for process in started)


if __name__ == "__main__":
    sys.exit((scontrol if sys.argv[1] == "scontrol" else srun)(sys.argv[2:]))
