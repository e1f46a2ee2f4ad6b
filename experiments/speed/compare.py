"""How many seconds beside plain PyTorch? Whole processes in alternation, the machine otherwise idle.

    python experiments/speed/compare.py --data-dir DIR [--rounds 3] [--scripts 1] [--out results/reference/speed]

Each round runs ``python -m bench.run --models cnn mobilenet`` and ideal.py, the best plain loop that one would write by
hand, in both of its ways: one model after the other with all threads, and, as bench.run does it, both at the same time
with half the threads each. The first ``--scripts`` rounds also run baseline.py, a plain script as one usually writes it
(8 minutes on two cores). Which is first changes from round to round. bench.run starts with an empty cache each time, so
that no features of an earlier run help it, and without its timing of speed and latency, which the others do not do
either.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from measuring import ROOT, markdown, run_bench, timed, write_page

HERE = Path(__file__).parent
CONTENDERS = {
    "bench": "bench.run",
    "ideal": "ideal.py",
    "together": "ideal.py --together",
    "script": "baseline.py",
}
"""The contenders, and their names on the page: what is typed, but for the folder of the data."""
MODELS = ("cnn", "mobilenet")


@dataclass(frozen=True)
class Measured:
    """The figures of one whole process."""

    round: int
    contender: str
    seconds: float
    accuracies: dict[str, float]
    """Share of test images classified right, by model."""


def measure(number: int, contender: str, data_dir: Path, epochs: int) -> Measured:
    """Run one contender and return its figures."""
    options = ["--data-dir", str(data_dir), "--epochs", str(epochs)]
    if contender == "bench":
        whole = run_bench("--dataset", "mnist", *options)
        accuracies = {row["model"]: row["test_accuracy"] for row in whole.rows}
        return Measured(number, contender, whole.seconds, accuracies)
    file, *words = CONTENDERS[contender].split()
    seconds, printed = timed([sys.executable, str(HERE / file), *words, *options, "--seed", str(number)])
    answer = json.loads(printed.splitlines()[-1])
    return Measured(number, contender, seconds, {name: answer[name] for name in MODELS})


def ratios(rows: Sequence[Measured], over: str, under: str) -> list[float]:
    """Return the quotients of two contenders' seconds, round by round."""
    seconds = {(row.round, row.contender): row.seconds for row in rows}
    rounds = sorted({row.round for row in rows})
    return [
        seconds[number, over] / seconds[number, under]
        for number in rounds
        if (number, over) in seconds and (number, under) in seconds
    ]


def page(rows: Sequence[Measured]) -> list[str]:
    """Return the tables: every process, and the ratios."""
    cells = [
        [
            row.round + 1,
            CONTENDERS[row.contender],
            f"{row.seconds:.1f} s",
            *(f"{100 * row.accuracies[name]:.2f} %" for name in MODELS),
        ]
        for row in rows
    ]
    parts = [markdown(cells, ["Round", "What", "Seconds", "CNN", "MobileNetV2"])]
    summary = []
    for over, under in (("bench", "ideal"), ("bench", "together"), ("script", "bench"), ("script", "ideal")):
        values = ratios(rows, over, under)
        if values:
            figures = [f"{figure(values):.2f}" for figure in (min, statistics.median, max)]
            summary.append([f"{CONTENDERS[over]} / {CONTENDERS[under]}", len(values), *figures])
    return [*parts, markdown(summary, ["Ratio of seconds", "Rounds", "Least", "Median", "Most"])]


def write(options: argparse.Namespace, rows: Sequence[Measured]) -> str:
    """Write the figures so far, after each process so that nothing is lost; return the text of the page."""
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "compare.json").write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    command = f"--rounds {options.rounds} --scripts {options.scripts} --epochs {options.epochs}"
    return write_page(
        options.out / "compare.md",
        f"Whole processes on MNIST, {options.epochs} epochs, fp32: bench.run beside plain PyTorch",
        f"Command: `python experiments/speed/compare.py --data-dir DIR {command}`",
        *page(rows),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--scripts", type=int, default=0, help="rounds that run baseline.py, too (default: %(default)s)"
    )
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "results/reference/speed")
    options = parser.parse_args()
    rows: list[Measured] = []
    text = ""
    for number in range(options.rounds):
        contenders = ["together", "bench", "ideal", *(["script"] if number < options.scripts else [])]
        for contender in contenders if number % 2 == 0 else contenders[::-1]:
            rows.append(measure(number, contender, options.data_dir.resolve(), options.epochs))
            print(f"round {number + 1}: {CONTENDERS[contender]} {rows[-1].seconds:.1f} s", flush=True)
            text = write(options, rows)
    print(text, end="")


if __name__ == "__main__":
    main()
