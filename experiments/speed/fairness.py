"""Does a model measure the same whoever brought it? The built-in networks beside a user's copies of them.

    python experiments/speed/fairness.py --data-dir DIR [--seeds 3] [--epochs 2] [--out results/reference/speed]

One command trains and times all four; then ``bench.compare`` says of each pair what it finds. Equal seeds give equal
predictions; speeds are not distinguishable, and differ by less than 5 %.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
from measuring import ROOT, environment, markdown, timed, write_page

COPIES = Path(__file__).with_name("copies.py")
PAIRS = (("cnn", f"{COPIES}:Net"), ("mobilenet", f"{COPIES}:Transfer"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "results/reference/speed")
    options = parser.parse_args()
    words = ["--models", *PAIRS[0], *PAIRS[1], "--weights", "bundled"]
    words += ["--dataset", "mnist", "--data-dir", str(options.data_dir.resolve())]
    words += ["--seeds", str(options.seeds), "--epochs", str(options.epochs)]
    with tempfile.TemporaryDirectory(prefix="bench-speed-") as folder:
        settings = environment(f"{folder}/cache")
        python = [sys.executable, "-m"]
        timed([*python, "bench.run", *words, "--results", f"{folder}/results"], env=settings, cwd=folder)
        runs = pq.read_table(f"{folder}/results/runs").to_pylist()
        comparisons = [
            timed([*python, "bench.compare", *pair, "--results", f"{folder}/results"], env=settings, cwd=folder)[1]
            for pair in PAIRS
        ]
    answers = {(run["model"], run["seed"]): (run["test_accuracy"], run["predictions_sha256"]) for run in runs}
    rows = [
        [
            *pair,
            seed,
            *(f"{100 * answers[model, seed][0]:.2f} %" for model in pair),
            "equal" if answers[pair[0], seed] == answers[pair[1], seed] else "different",
        ]
        for pair in PAIRS
        for seed in range(options.seeds)
    ]
    table = markdown(rows, ["Built in", "Copy", "Seed", "Accuracy", "Of the copy", "Predictions"])
    title = f"Two copies of one network, MNIST, {options.epochs} epochs"
    print(write_page(options.out / "fairness.md", title, table, *(f"```\n{text.strip()}\n```" for text in comparisons)))


if __name__ == "__main__":
    main()
