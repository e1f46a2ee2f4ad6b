"""How many seconds beside plain PyTorch? Whole processes in alternation, the machine otherwise idle.

    python experiments/speed/compare.py --data-dir DIR [--pairs 3] [--scripts 1] [--out results/reference/speed]

Each pair runs ``python -m bench.run --models cnn mobilenet`` and ideal.py, the best plain loop that one would write by
hand; the first ``--scripts`` pairs also run baseline.py, a plain script as one usually writes it (16 minutes on two
cores). Which is first changes from pair to pair. bench.run starts with an empty cache each time, so that no features of
an earlier run help it, and without its timing of speed and latency, which the other two do not do either.
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
CONTENDERS = {"bench": "bench.run", "ideal": "ideal.py", "script": "baseline.py"}
"""The contenders, and their names on the page."""
MODELS = ("cnn", "mobilenet")


@dataclass(frozen=True)
class Measured:
    """The figures of one whole process."""

    pair: int
    contender: str
    seconds: float
    accuracies: dict[str, float]
    """Share of test images classified right, by model."""


def measure(pair: int, contender: str, data_dir: Path, epochs: int) -> Measured:
    """Run one contender and return its figures."""
    options = ["--data-dir", str(data_dir), "--epochs", str(epochs)]
    if contender == "bench":
        whole = run_bench("--dataset", "mnist", *options)
        accuracies = {row["model"]: row["test_accuracy"] for row in whole.rows}
        return Measured(pair, contender, whole.seconds, accuracies)
    file = HERE / CONTENDERS[contender]
    seconds, printed = timed([sys.executable, str(file), *options, "--seed", str(pair)])
    answer = json.loads(printed.splitlines()[-1])
    return Measured(pair, contender, seconds, {name: answer[name] for name in MODELS})


def ratios(rows: Sequence[Measured], over: str, under: str) -> list[float]:
    """Return the quotients of two contenders' seconds, pair by pair."""
    seconds = {(row.pair, row.contender): row.seconds for row in rows}
    pairs = sorted({row.pair for row in rows})
    return [
        seconds[pair, over] / seconds[pair, under]
        for pair in pairs
        if (pair, over) in seconds and (pair, under) in seconds
    ]


def page(rows: Sequence[Measured]) -> list[str]:
    """Return the tables: every process, and the ratios."""
    cells = [
        [
            row.pair + 1,
            CONTENDERS[row.contender],
            f"{row.seconds:.1f} s",
            *(f"{100 * row.accuracies[name]:.2f} %" for name in MODELS),
        ]
        for row in rows
    ]
    parts = [markdown(cells, ["Pair", "What", "Seconds", "CNN", "MobileNetV2"])]
    summary = []
    for over, under in (("bench", "ideal"), ("script", "bench"), ("script", "ideal")):
        values = ratios(rows, over, under)
        if values:
            figures = [f"{figure(values):.2f}" for figure in (min, statistics.median, max)]
            summary.append([f"{CONTENDERS[over]} / {CONTENDERS[under]}", len(values), *figures])
    return [*parts, markdown(summary, ["Ratio of seconds", "Pairs", "Least", "Median", "Most"])]


def write(options: argparse.Namespace, rows: Sequence[Measured]) -> str:
    """Write the figures so far, after each process so that nothing is lost; return the text of the page."""
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "compare.json").write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    command = f"--pairs {options.pairs} --scripts {options.scripts} --epochs {options.epochs}"
    return write_page(
        options.out / "compare.md",
        f"Whole processes on MNIST, {options.epochs} epochs, fp32: bench.run beside plain PyTorch",
        f"Command: `python experiments/speed/compare.py --data-dir DIR {command}`",
        *page(rows),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--scripts", type=int, default=0, help="pairs that run baseline.py, too (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "results/reference/speed")
    options = parser.parse_args()
    rows: list[Measured] = []
    text = ""
    for pair in range(options.pairs):
        contenders = ["bench", "ideal", *(["script"] if pair < options.scripts else [])]
        for contender in contenders if pair % 2 == 0 else contenders[::-1]:
            rows.append(measure(pair, contender, options.data_dir.resolve(), options.epochs))
            print(f"pair {pair + 1}: {CONTENDERS[contender]} {rows[-1].seconds:.1f} s", flush=True)
            text = write(options, rows)
    print(text, end="")


if __name__ == "__main__":
    main()
