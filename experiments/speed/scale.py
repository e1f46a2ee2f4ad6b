"""Many workers, many runs: where the design ends.

    python experiments/speed/scale.py [workers] [runs] [report] [train]

``workers``: a thousand simulated workers send real messages through Ray to one coordinator, from a few processes, as
often as real ones do; a driver takes them. Messages a second, how old they are when the driver has them, memory; and
the rate at which the states that runs resume from go through. ``runs``: ten thousand runs are planned, placed and
stored, and a thousand are handed to Ray that turn out to have ended. ``report``: ``bench.report`` over a hundred
thousand stored runs with epochs and predictions, of fifty jobs. ``train``: ``bench.run --models cnn mobilenet`` with
fifty seeds of each on mnist-5k, one epoch, untimed: its seconds beside what its runs took themselves, divided by the
CPUs; then the same at another learning rate, which should extract no features.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from measuring import ROOT, markdown, run_bench, timed, write_page

from bench.cluster.placement import Group, Need, Node, place
from bench.cluster.session import connect
from bench.config.run import Options
from bench.reporting.store import Store
from bench.spec import DatasetInfo, EpochRecord, Job, Measured, Outcome, Predictions, Progress, Recipe, Saved, Status
from bench.workflows.plan import make_plan
from bench.workflows.record import assemble

JOBS = 50
SENDERS = 4
"""The processes that act as workers."""
STATES, STATE_BYTES = 40, 30_000_000
"""The states that are sent, and the size of each: of MobileNetV2, with Adam's two moments."""
SUBMITTED = 1000
"""The groups that are handed to Ray."""

_REPORT = """
import sys
from bench.report import main

code = main(sys.argv[1:])
# not getrusage: what it says of memory begins with that of the process that started this one
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")))
sys.exit(code)
"""


def train_many(seeds: int) -> list[list[str]]:
    """Run two commands, one after the other, with one cache; return rows of (what, figure)."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="bench-cache-") as cache:
        for lr in ("0.001", "0.002"):
            whole = run_bench("--dataset", "mnist-5k", "--epochs", "1", "--seeds", str(seeds), "--lr", lr, cache=cache)
            trained = sum((row["train_seconds"] or 0) + (row["test_seconds"] or 0) for row in whole.rows)
            bound = 1.5 * trained / (os.cpu_count() or 1) + 20
            extracted = sum(row["features_cached"] is False for row in whole.rows)
            rows += [
                [f"{len(whole.rows)} runs at lr {lr}, the whole command", f"{whole.seconds:.1f} s"],
                ["their own training and evaluation, all together", f"{trained:.1f} s"],
                ["1.5 times that divided by the CPUs, and 20 s", f"{bound:.1f} s"],
                ["runs that extracted features", str(extracted)],
            ]
    return rows


def fill(results: Path, runs: int, numbers: Sequence[int] = range(JOBS)) -> None:
    """Store finished runs, like those on mnist-5k, with some wrong answers in each.

    Args:
        results: the results folder.
        runs: the number of runs of all :data:`JOBS` jobs.
        numbers: which of the jobs are stored.
    """
    store, generator = Store(results), np.random.default_rng(numbers[0])
    store.prepare()
    data = DatasetInfo(name="mnist-5k", sha256="0" * 64, train_images=4000, test_images=1000, classes=10)
    labels = np.arange(1000, dtype=np.int16) % 10
    began = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=numbers[0])
    for number in numbers:
        recipe = Recipe(lr=(1 + number // 2) / 10_000)
        seeds = tuple(range(runs // JOBS))
        for run in Job(model=("cnn", "mobilenet")[number % 2], dataset=data, recipe=recipe, seeds=seeds).runs():
            wrong = generator.random(1000) < 0.02 + 0.002 * number
            predicted = np.where(wrong, (labels + 1) % 10, labels).astype(np.int16)
            began += timedelta(seconds=10)
            measured = Measured(
                status=Status.OK,
                started_at=began,
                ended_at=began + timedelta(seconds=9),
                test_accuracy=float((~wrong).mean()),
                test_correct=int((~wrong).sum()),
                epochs_done=5,
                train_seconds=8.0,
                total_parameters=225_034,
                trainable_parameters=225_034,
            )
            epochs = [
                EpochRecord(
                    run_id=run.id,
                    epoch=epoch,
                    train_loss=1 / epoch,
                    train_accuracy=0.9,
                    seconds=1.6,
                    images_per_second=2500,
                )
                for epoch in range(1, 6)
            ]
            probability = np.full(1000, 0.9, dtype=np.float32)
            answers = Predictions(labels, predicted, probability)
            store.write(assemble(run, Outcome(run.id, measured, epochs, answers)))


def simulate_workers(count: int, seconds: float) -> list[list[str]]:
    """Let ``count`` simulated workers report for ``seconds``; return rows of (what, figure)."""
    with connect(None) as session:
        import ray

        from bench.cluster.coordinator import start_coordinator
        from bench.cluster.tasks import report_seconds

        coordinator = start_coordinator({}, 2)
        process = psutil.Process(ray.get(coordinator.__ray_call__.remote(lambda self: os.getpid())))
        before = process.memory_info().rss
        interval = report_seconds(count)

        def report_as(numbers: range, until: float) -> int:
            """Report as these workers do; the images done stand for the milliseconds since 1970."""
            next_at = {number: time.time() + interval * number / count for number in numbers}
            sent = 0
            while (now := time.time()) < until:
                for number, at in next_at.items():
                    if at <= now:
                        next_at[number] += interval
                        coordinator.put.remote(Progress(f"run-{number}", 1, 5, int(1000 * time.time()), 60_000))
                        sent += 1
                time.sleep(0.01)
            return sent

        sender = ray.remote(num_cpus=0)(report_as)
        until = time.time() + seconds
        parts = [range(first, count, SENDERS) for first in range(SENDERS)]
        sending = [sender.remote(numbers, until) for numbers in parts]
        ages, begun, cpu = [], time.time(), process.cpu_times()
        while time.time() < until + 2:
            events = ray.get(coordinator.take.remote(0.25))
            ages += [time.time() - event.images_done / 1000 for event in events]
        sent, used = sum(ray.get(sending)), process.cpu_times()
        share = (used.user + used.system - cpu.user - cpu.system) / (time.time() - begun)
        rows = [
            [f"messages of {count:,} workers, each reporting every {interval:g} s", f"{sent / seconds:,.0f} a second"],
            ["taken by the driver (of each run, only the latest)", f"{len(ages) / seconds:,.0f} a second"],
            ["age of a line of progress, median and 99 %", f"{np.median(ages):.2f} s, {np.quantile(ages, 0.99):.2f} s"],
            ["the coordinator's share of one CPU", f"{100 * share:.0f} %"],
            ["memory that it took for this", f"{(process.memory_info().rss - before) / 1e6:,.0f} MB"],
        ]
        del session
        return rows + send_states(coordinator, ray)


def send_states(coordinator: Any, ray: Any) -> list[list[str]]:
    """Send the states of :data:`STATES` runs through the coordinator to this process."""

    def save(run: str) -> None:
        ray.get(coordinator.put.remote(Saved(run, os.urandom(STATE_BYTES))))

    saver = ray.remote(num_cpus=0)(save)
    begun = time.time()
    saving, received = [saver.remote(f"run-{number}") for number in range(STATES)], 0
    while received < STATES:
        received += sum(isinstance(event, Saved) for event in ray.get(coordinator.take.remote(0.25)))
    ray.get(saving)
    rate = STATES * STATE_BYTES / 1e6 / (time.time() - begun)
    return [[f"states of {STATE_BYTES / 1e6:.0f} MB from worker to driver", f"{rate:,.0f} MB/s"]]


def plan_many(count: int) -> list[list[str]]:
    """Plan, place and store ``count`` runs, and hand :data:`SUBMITTED` to Ray; return rows of (what, figure)."""
    rows = []

    def note(what: str, begun: float) -> None:
        rows.append([what, f"{time.time() - begun:.1f} s"])
        print(rows[-1], flush=True)

    with tempfile.TemporaryDirectory(prefix="bench-scale-") as folder:
        options = Options(models=("cnn", "mobilenet"), dataset="mnist-5k", seeds=count // 2, results=Path(folder))
        begun = time.time()
        plan = make_plan(options)
        runs = [run for job in plan.jobs for run in job.runs()]
        note(f"{len(runs):,} runs planned", begun)
        begun = time.time()
        groups = place(plan.jobs, [Node(cpus=64, gpus=8) for _ in range(125)])
        note(f"{len(groups):,} groups placed on 125 nodes of 8 GPUs", begun)
        begun = time.time()
        fill(Path(folder), count)
        note(f"{count:,} runs stored", begun)
        begun = time.time()
        records, _ = Store(Path(folder)).records()
        note(f"{len(records):,} records read", begun)
        with connect(None) as session:
            import ray

            from bench.cluster.coordinator import start_coordinator
            from bench.cluster.tasks import SharedInputs, Work, submit
            from bench.learning.inputs import inputs_of

            coordinator = start_coordinator({}, 2)
            inputs = SharedInputs.put(plan.inputs, coordinator, mapped=session.shares_files)
            few = [Group(group.runs, Need(1, 1, 0)) for group in groups[:SUBMITTED]]
            ended = [run for group in few for run in group.runs]
            ray.get([coordinator.end.remote(run, Status.FAILED, "not trained") for run in ended])
            begun = time.time()
            read = inputs_of(few[0].runs[0], inputs)
            work = [Work(group, read, coordinator, oom_backoff=False, report_seconds=1.0) for group in few]
            submitted = [submit(each, max_failures=2) for each in work]
            note(f"{SUBMITTED:,} groups handed to Ray", begun)
            ray.get(submitted)
            note(f"until their {SUBMITTED:,} tasks found that there is nothing to train", begun)
    return rows


def report(results: Path) -> tuple[float, float, float]:
    """Run bench.report; return (seconds on the clock, seconds of CPU, peak memory in 10^6 bytes)."""
    before = os.times()
    command = [sys.executable, "-c", _REPORT, "--results", str(results)]
    seconds, printed = timed(command, cwd=ROOT)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return seconds, cpu, int(printed.split()[-2]) * 1024 / 1e6


def report_many(stored: int) -> list[list[str]]:
    """Report twice over ``stored`` runs; return rows of (what, figure)."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="bench-scale-") as folder:
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(fill, [Path(folder)] * JOBS, [stored] * JOBS, [[number] for number in range(JOBS)]))
        for which in ("first", "second"):
            seconds, cpu, memory = report(Path(folder))
            figures = f"{seconds:.1f} s, {cpu:.1f} s of CPU, {memory:,.0f} MB at the most"
            rows.append([f"report over {stored:,} runs, {which} time", figures])
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    parts: dict[str, Callable[[], list[list[str]]]] = {
        "workers": lambda: simulate_workers(options.workers, options.seconds),
        "runs": lambda: plan_many(options.runs),
        "report": lambda: report_many(options.stored),
        "train": lambda: train_many(options.seeds),
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*parts, []], default=list(parts))
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--stored", type=int, default=100_000)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--out", type=Path, default=ROOT / "results/reference/speed")
    options = parser.parse_args()
    rows = [row for name in options.parts for row in parts[name]()]
    text = write_page(
        options.out / "scale.md",
        "Many workers, many runs",
        f"Command: `python experiments/speed/scale.py {' '.join(options.parts)}`",
        markdown(rows, ["What", "Figure"]),
    )
    print(text, end="")


if __name__ == "__main__":
    main()
