"""Many runs: a command that trains a hundred, and the report over ten thousand that are stored.

    python experiments/speed/scale.py [--seeds 50] [--stored 10000] [--out results/reference/speed]

The first is ``bench.run --models cnn mobilenet`` with so many seeds of each on mnist-5k, one epoch, untimed: its
seconds beside what its runs took themselves, divided by the CPUs. Then the same again at another learning rate, which
should extract no features. The second is ``bench.report`` over runs with epochs and predictions like those, of fifty
jobs.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from measuring import ROOT, markdown, run_bench, timed, write_page

from bench.reporting.store import Store
from bench.spec import DatasetInfo, EpochRecord, Job, Measured, Outcome, Predictions, Recipe, Status
from bench.workflows.record import assemble

JOBS = 50

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


def fill(results: Path, runs: int) -> None:
    """Store ``runs`` finished runs of :data:`JOBS` jobs, like those on mnist-5k, with some wrong answers in each."""
    store, random = Store(results), np.random.default_rng(0)
    store.prepare()
    data = DatasetInfo(name="mnist-5k", sha256="0" * 64, train_images=4000, test_images=1000, classes=10)
    labels = np.arange(1000, dtype=np.int16) % 10
    began = datetime(2026, 1, 1, tzinfo=UTC)
    for number in range(JOBS):
        recipe = Recipe(lr=(1 + number // 2) / 10_000)
        seeds = tuple(range(runs // JOBS))
        for run in Job(model=("cnn", "mobilenet")[number % 2], dataset=data, recipe=recipe, seeds=seeds).runs():
            wrong = random.random(1000) < 0.02 + 0.002 * number
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


def report(results: Path) -> tuple[float, float, float]:
    """Run bench.report; return (seconds on the clock, seconds of CPU, peak memory in 10^6 bytes)."""
    before = os.times()
    command = [sys.executable, "-c", _REPORT, "--results", str(results)]
    seconds, printed = timed(command, cwd=ROOT)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return seconds, cpu, int(printed.split()[-2]) * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--stored", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=ROOT / "results/reference/speed")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="bench-scale-") as folder:
        fill(Path(folder), options.stored)
        for which in ("first", "second"):
            seconds, cpu, memory = report(Path(folder))
            figures = f"{seconds:.1f} s, {cpu:.1f} s of CPU, {memory:,.0f} MB at the most"
            rows.append([f"report over {options.stored:,} runs, {which} time", figures])
            print(rows[-1], flush=True)
    rows += train_many(options.seeds)
    text = write_page(
        options.out / "scale.md",
        "Many runs",
        f"Command: `python experiments/speed/scale.py --seeds {options.seeds} --stored {options.stored}`",
        markdown(rows, ["What", "Figure"]),
    )
    print(text, end="")


if __name__ == "__main__":
    main()
