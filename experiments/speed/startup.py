"""How long from the start of the command until both jobs train, and where do the seconds go?

    python experiments/speed/startup.py [--times 5] [--out results/reference/speed]

Runs ``python -m bench.run --models cnn mobilenet`` on mnist-5k for one epoch, several times, the machine otherwise
idle: each time with an empty cache, as on a new machine, and again with what is in the cache then. Results are empty
each time. A job trains from when its model is built and its data are on the device: what follows is the first step of
the CNN, and the first batch through MobileNetV2's frozen backbone (with a filled cache its features are there).

The parts are those of further runs, in a process that calls what ``bench.run`` calls and then asks Ray, by
``ray.timeline``, when each job's task began in its worker. They are the parts of the job that trains last, one after
the other, so that their sum is the time until both train.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from measuring import ROOT, environment, markdown, run_bench, timed, write_page

OPTIONS = ("--dataset", "mnist-5k", "--epochs", "1")
UNTIL = {"cnn": "CNN trains", "mobilenet": "MobileNetV2 trains", "both": "both train", "whole": "the command ends"}
EVENTS_SECONDS = 10
"""Seconds that Ray may take to report when tasks began; it collects this about once a second."""


def run_whole(cache: str) -> dict[str, float]:
    """Run the command; return the seconds until each job trains, until both do, and until the command ends."""
    whole = run_bench(*OPTIONS, cache=cache)
    begun = {row["model"]: row["started_at"].timestamp() - whole.began + row["setup_seconds"] for row in whole.rows}
    return {**begun, "both": max(begun.values()), "whole": whole.seconds}


def run_in_parts(arguments: Sequence[str]) -> None:
    """Print the seconds of each part until both jobs train, as JSON. This process stands for the command."""
    from bench.workflows.phases import Phases

    phases = Phases("Python started, options read")
    from bench.config.command_line import build_parser, parse
    from bench.config.run import Options
    from bench.workflows.run import Benchmark, prepare

    options = parse(build_parser(Options, "startup.py", ""), Options, arguments)
    phases.enter("data and weights found")
    store, plan = prepare(options)
    phases.enter("Ray imported and started")
    from bench.cluster.session import connect
    from bench.workflows.report import prepare_pages

    with connect(options.address, meanwhile=prepare_pages) as session:
        phases.enter("a worker takes the task")
        Benchmark(options, plan, store, phases).run(session)
        task_began = moments_of_tasks()
    records, _ = store.records()
    last = max(records, key=lambda record: record.started_at.timestamp() + (record.setup_seconds or 0.0))
    started_at = last.started_at.timestamp()
    task_at = max(moment for moment in task_began if moment < started_at)
    parts, ray_ready = {}, 0.0
    for name, start, end in phases.spans[:3]:
        parts[name], ray_ready = end - start, end
    parts["a worker takes the task"] = task_at - ray_ready
    parts["the worker imports torch, gets its data"] = started_at - task_at
    parts["model built"] = last.setup_seconds or 0.0
    print(json.dumps(parts))


def moments_of_tasks() -> list[float]:
    """Return when Ray's workers began the tasks that train, in seconds since the epoch."""
    import ray

    deadline = time.monotonic() + EVENTS_SECONDS
    while time.monotonic() < deadline:
        events = [event for event in ray.timeline() if event["name"].endswith("train_group")]
        if len(events) == 2:
            return [event["ts"] / 1e6 for event in events]
        time.sleep(0.5)
    raise TimeoutError("Ray does not tell when the tasks began")


def parts_of_run(cache: str) -> dict[str, float]:
    """Run this script's ``--parts`` in a new process; return the seconds of each part, in order."""
    with tempfile.TemporaryDirectory(prefix="bench-speed-") as folder:
        command = [sys.executable, __file__, "--parts", "--models", "cnn", "mobilenet", "--weights", "bundled"]
        command += ["--no-timing", "--results", f"{folder}/results", *OPTIONS]
        _, printed = timed(command, env=environment(cache), cwd=folder)
        parts: dict[str, float] = json.loads(printed.splitlines()[-1])
        return parts


def figures(values: Sequence[float]) -> list[str]:
    """Return median, least and most."""
    return [f"{figure(values):.1f} s" for figure in (statistics.median, min, max)]


def main() -> None:
    if sys.argv[1:2] == ["--parts"]:
        run_in_parts(sys.argv[2:])
        return
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
