"""How much faster than a plain script? Both as whole processes, in alternation, the machine otherwise idle.

    python experiments/speed/compare.py --data-dir DIR [--pairs 3] [--epochs 5] [--out results/reference/speed]

Each pair runs baseline.py and ``python -m bench.run --models cnn mobilenet``, one after the other, in turn first
and second. bench.run starts with an empty cache each time, so that no features of an earlier run help it,
and without its timing of speed and latency, which the script does not do either. The table says seconds, accuracy and
the ratio of each pair, and the median of the ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from measuring import ROOT, markdown, run_bench, write_page

HERE = Path(__file__).parent


def run_baseline(options: argparse.Namespace, seed: int) -> tuple[float, dict[str, float]]:
    """(seconds of the whole process, accuracies)."""
    command = [sys.executable, str(HERE / "baseline.py"), "--data-dir", str(options.data_dir)]
    command += ["--epochs", str(options.epochs), "--seed", str(seed)]
    start = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    said = json.loads(done.stdout.splitlines()[-1])
    return seconds, {name: said[name] for name in ("cnn", "mobilenet")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--precision", choices=("fp32", "bf16", "auto"), default="fp32")
    parser.add_argument("--out", type=Path, default=ROOT / "results/reference/speed")
    options = parser.parse_args()
    options.data_dir = options.data_dir.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    arguments = ["--dataset", "mnist", "--data-dir", str(options.data_dir), "--epochs", str(options.epochs)]
    arguments += ["--precision", options.precision]
    rows: list[dict[str, float]] = []
    for pair in range(options.pairs):
        found: dict[str, tuple[float, dict[str, float]]] = {}
        for which in ("script", "bench") if pair % 2 == 0 else ("bench", "script"):
            if which == "script":
                found[which] = run_baseline(options, seed=pair)
            else:
                whole = run_bench(*arguments)
                found[which] = whole.seconds, {row["model"]: row["test_accuracy"] for row in whole.rows}
            print(f"pair {pair + 1}: {which} {found[which][0]:.1f} s {found[which][1]}", flush=True)
        rows.append(
            {
                "script_seconds": found["script"][0],
                "bench_seconds": found["bench"][0],
                "ratio": found["script"][0] / found["bench"][0],
                **{f"script_{name}": value for name, value in found["script"][1].items()},
                **{f"bench_{name}": value for name, value in found["bench"][1].items()},
            }
        )
        write(options, rows)
    print(f"written: {options.out}")


def write(options: argparse.Namespace, rows: list[dict[str, float]]) -> None:
    """The table so far; after each pair, so that nothing is lost."""
    name = f"compare-{options.precision}"
    (options.out / f"{name}.json").write_text(json.dumps(rows, indent=2) + "\n")
    headers = ["Pair", "Script", "bench.run", "Ratio", "Script: CNN, MobileNetV2", "bench.run: CNN, MobileNetV2"]
    cells = [
        [
            number,
            f"{row['script_seconds']:.1f} s",
            f"{row['bench_seconds']:.1f} s",
            f"{row['ratio']:.2f}",
            f"{100 * row['script_cnn']:.2f} %, {100 * row['script_mobilenet']:.2f} %",
            f"{100 * row['bench_cnn']:.2f} %, {100 * row['bench_mobilenet']:.2f} %",
        ]
        for number, row in enumerate(rows, start=1)
    ]
    write_page(
        options.out / f"{name}.md",
        f"Whole processes on MNIST, {options.epochs} epochs, {options.precision}: a plain script and bench.run",
        "Command: `python experiments/speed/compare.py --data-dir DIR "
        f"--pairs {options.pairs} --epochs {options.epochs} --precision {options.precision}`",
        markdown(cells, headers),
        f"Median ratio of {len(rows)} pair{'s' if len(rows) != 1 else ''}: "
        f"{statistics.median(row['ratio'] for row in rows):.2f}",
    )


if __name__ == "__main__":
    main()
