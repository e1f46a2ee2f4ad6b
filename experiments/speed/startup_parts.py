"""The command of startup.py in parts: prints the seconds of each part until both jobs train, as JSON.

It imports no more than ``python -m bench.run`` does, so that its parts are those of the command.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence

EVENTS_SECONDS = 10
"""Seconds that Ray may take to report when tasks began; it collects this about once a second."""


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

    with connect(options.address) as session:
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


if __name__ == "__main__":
    run_in_parts(sys.argv[1:])
