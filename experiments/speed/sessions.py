"""By how much do timed sessions of the same models differ, in seconds and in reference steps?

    python experiments/speed/sessions.py [--sessions 11] [--out results/reference/speed]

Each session is a new process that times both built-in models as bench.run does after the training. Then every session
is compared with every other one, as ``bench.compare OLD NEW --fail "throughput:-5%"`` does: how often is there an
alarm, and how often is a model found whose samples are made a tenth slower? What the last column of the table shows is
where ``timing_stats.RELATIVE_SESSION_TO_SESSION`` comes from.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from measuring import ROOT, markdown, write_page

from bench.config.run import Options
from bench.learning.data import datasets
from bench.learning.execute import built
from bench.learning.timing import Subject, time_models
from bench.reporting import timing_stats, verdicts
from bench.reporting.comparison import Pair
from bench.reporting.entries import Entry
from bench.reporting.speed import Speeds, summarise
from bench.reporting.store import Store
from bench.spec import Job, Measured, Outcome, Recipe, Record, Status, Timing
from bench.workflows.compare import check, read_limits
from bench.workflows.plan import make_plan
from bench.workflows.record import assemble

NAMES = ("cnn", "mobilenet")
WAYS = ("training", "single", "batches")
LIMITS = read_limits("throughput:-5%")
SLOWER = 0.9


def time_once(folder: Path, threads: int) -> None:
    """Time each model once, and store the samples in a results folder."""
    plan = make_plan(Options(models=NAMES, dataset="mnist-5k", epochs=1))
    subjects = []
    for job in plan.jobs:
        (run,) = job.runs()
        inputs = plan.inputs[run.inputs_key]
        state = built(run, inputs)[0].state_dict()
        content = safetensors.torch.save({key: value.contiguous() for key, value in state.items()})
        subjects.append(Subject(run, content, inputs))
    rows = time_models(subjects, device="cuda:0" if torch.cuda.is_available() else "cpu", threads=threads).timings
    store = Store(folder)
    store.prepare()
    for subject in subjects:
        store.write_timings(subject.run.id, [row for row in rows if row.run_id == subject.run.id])


def read(folder: Path) -> dict[str, list[Timing]]:
    """Return the samples of a session, by model."""
    store = Store(folder)
    return {run_id.split("-")[0]: store.timings(run_id) for run_id in store.timed()}


def spreads(sessions: Sequence[dict[str, Speeds]]) -> list[list[str]]:
    """Return the rows of the table: standard deviations over the sessions, in percent."""
    rows = []
    for name, way in itertools.product(NAMES, WAYS):
        speeds = [getattr(session[name], way) for session in sessions]
        units = [speed.in_reference_steps() for speed in speeds]
        raw = np.log([np.median(speed.seconds) for speed in speeds]).std(ddof=1)
        relative = np.log([np.median(np.concatenate(unit[0])) for unit in units]).std(ddof=1)
        within = math.sqrt(float(np.mean([timing_stats.block_variance(unit, 50)[0] for unit in units])))
        beyond = math.sqrt(max(0.0, relative**2 - within**2))
        rows.append([f"{name}, {way}", *(f"{100 * value:.1f} %" for value in (raw, relative, within, beyond))])
    return rows


@functools.cache
def record_of(name: str) -> Record:
    """Return a finished run of a model; a comparison needs one beside the timings."""
    now = datetime.now(UTC)
    (run,) = Job(model=name, dataset=datasets.load("synthetic").info, recipe=Recipe()).runs()
    measured = Measured(status=Status.OK, started_at=now, ended_at=now)
    return assemble(run, Outcome(run.id, measured)).record


def broken(old: dict[str, Speeds], new: dict[str, Speeds]) -> list[str]:
    """Return the limits that ``new`` breaks."""
    pairs = []
    for name in NAMES:
        record = record_of(name)
        sides = [
            verdicts.Side(version, Entry(name, [record], speeds[name]), Store(Path("nowhere")))
            for version, speeds in (("OLD", old), ("NEW", new))
        ]
        pairs.append(Pair(name, name, [verdicts.speed(metric, *sides) for metric in LIMITS[0].metrics]))
    return check(pairs, LIMITS).broken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=11)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=ROOT / "results/reference/speed")
    parser.add_argument("--once", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once is not None:
        time_once(options.once, options.threads)
        return
    taken: list[dict[str, list[Timing]]] = []
    with tempfile.TemporaryDirectory(prefix="bench-sessions-") as folder:
        for number in range(options.sessions):
            results = Path(folder) / str(number)
            command = [sys.executable, __file__, "--once", str(results), "--threads", str(options.threads)]
            subprocess.run(command, check=True)
            taken.append(read(results))
            print(f"session {number + 1} of {options.sessions}", flush=True)
    sessions = [{name: summarise([rows]) for name, rows in session.items()} for session in taken]
    slowed = [
        {
            name: summarise([[row.model_copy(update={"seconds": row.seconds / SLOWER}) for row in rows]])
            for name, rows in session.items()
        }
        for session in taken
    ]
    pairs = list(itertools.permutations(range(len(sessions)), 2))
    alarms = sum(bool(broken(sessions[old], sessions[new])) for old, new in pairs)
    named = {
        name: sum(
            any(line.startswith(name) for line in broken(sessions[old], sessions[new] | {name: slowed[new][name]}))
            for old, new in pairs
        )
        for name in NAMES
    }
    headers = ["What", "In seconds", "In reference steps", "Seen within a session", "Not seen within"]
    text = write_page(
        options.out / "sessions.md",
        "How much timed sessions of the same models differ",
        f"Command: `python experiments/speed/sessions.py --sessions {len(sessions)}`",
        "Relative standard deviations over the sessions, each a new process.",
        markdown(spreads(sessions), headers),
        f'Of {len(pairs)} comparisons of a session with another one, `--fail "throughput:-5%"` gave a false alarm in '
        f"{alarms}. With the samples of one model made a tenth slower it named that model in "
        + " and ".join(f"{count} ({name})" for name, count in named.items())
        + f" of {len(pairs)}.",
        threads=options.threads,
    )
    print(text, end="")


if __name__ == "__main__":
    main()
