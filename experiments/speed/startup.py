"""How long from the start of the command until both jobs train, and where do the seconds go?

    python experiments/speed/startup.py [--times 5] [--out results/reference/speed]

Runs ``python -m bench.run --models cnn mobilenet`` on mnist-5k for one epoch, several times, the machine otherwise
idle: each time with an empty cache, as on a new machine, and again with what is in the cache then. Results are empty
each time. A job trains from when its model is built and its data are on the device: what follows is the first step of
the CNN, and the first batch through MobileNetV2's frozen backbone (with a filled cache its features are there).

The parts are those of further runs, in a process (startup_parts.py) that calls what ``bench.run`` calls and then asks
Ray, by ``ray.timeline``, when each job's task began in its worker. They are the parts of the job that trains last, one
after the other, so that their sum is the time until both train.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from measuring import ROOT, environment, markdown, run_bench, timed, write_page

PARTS = Path(__file__).with_name("startup_parts.py")
OPTIONS = ("--dataset", "mnist-5k", "--epochs", "1")
UNTIL = {"cnn": "CNN trains", "mobilenet": "MobileNetV2 trains", "both": "both train", "whole": "the command ends"}


def run_whole(cache: str) -> dict[str, float]:
    """Run the command; return the seconds until each job trains, until both do, and until the command ends."""
    whole = run_bench(*OPTIONS, cache=cache)
    begun = {row["model"]: row["started_at"].timestamp() - whole.began + row["setup_seconds"] for row in whole.rows}
    return {**begun, "both": max(begun.values()), "whole": whole.seconds}


def parts_of_run(cache: str) -> dict[str, float]:
    """Run this script's ``--parts`` in a new process; return the seconds of each part, in order."""
    with tempfile.TemporaryDirectory(prefix="bench-speed-") as folder:
        command = [sys.executable, str(PARTS), "--models", "cnn", "mobilenet", "--weights", "bundled"]
        command += ["--no-timing", "--results", f"{folder}/results", *OPTIONS]
        _, printed = timed(command, env=environment(cache), cwd=folder)
        parts: dict[str, float] = json.loads(printed.splitlines()[-1])
        return parts


def figures(values: Sequence[float]) -> list[str]:
    """Return median, least and most."""
    return [f"{figure(values):.1f} s" for figure in (statistics.median, min, max)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "results/reference/speed")
    options = parser.parse_args()
    measured: dict[str, list[dict[str, float]]] = {"empty": [], "filled": []}
    in_parts: list[dict[str, float]] = []
    for number in range(options.times):
        with tempfile.TemporaryDirectory(prefix="bench-cache-") as cache:
            for kind, several in measured.items():
                several.append(run_whole(cache))
                shown = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in several[-1].items())
                print(f"{number + 1}, cache {kind}: {shown}", flush=True)
            in_parts.append(parts_of_run(cache))
            shown = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in in_parts[-1].items())
            print(f"{number + 1}, parts: {shown}", flush=True)
    rows = [
        [kind, name, *figures([run[key] for run in several])]
        for kind, several in measured.items()
        for key, name in UNTIL.items()
    ]
    parts = [[name, *figures([run[name] for run in in_parts])] for name in in_parts[0]]
    parts.append(["both train", *figures([sum(run.values()) for run in in_parts])])
    text = write_page(
        options.out / "startup.md",
        "From the start of the command until the jobs train",
        f"Command: `python experiments/speed/startup.py --times {options.times}`; {options.times} runs of each kind",
        markdown(rows, ["Cache", "Until", "Median", "Least", "Most"]),
        "Where the seconds go until both train, with a filled cache:",
        markdown(parts, ["Part", "Median", "Least", "Most"]),
    )
    print(text, end="")


if __name__ == "__main__":
    main()
