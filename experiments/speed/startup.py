"""How long from the start of the command until both jobs train?

    python experiments/speed/startup.py [--times 5] [--out results/reference/speed]

Runs ``python -m bench.run --models cnn mobilenet`` on mnist-5k for one epoch, several times, each with empty results,
the machine otherwise idle. A job trains from when its model is built and its data are on the device: what follows is
the first step of the CNN, and the first batch through MobileNetV2's frozen backbone.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from measuring import ROOT, markdown, run_bench, write_page


def run_once() -> dict[str, float]:
    """Seconds from the start of the process: until each job trains, and until the end of the command."""
    whole = run_bench("--dataset", "mnist-5k", "--epochs", "1")
    begun = {row["model"]: row["started_at"].timestamp() - whole.began + row["setup_seconds"] for row in whole.rows}
    return {"both": max(begun.values()), **begun, "whole": whole.seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "results/reference/speed")
    options = parser.parse_args()
    found = []
    for number in range(options.times):
        found.append(run_once())
        print(
            f"{number + 1}: {', '.join(f'{name} {seconds:.1f} s' for name, seconds in found[-1].items())}", flush=True
        )
    names = {"cnn": "CNN trains", "mobilenet": "MobileNetV2 trains", "both": "both train", "whole": "the command ends"}
    rows = []
    for key, name in names.items():
        values = [one[key] for one in found]
        rows.append([name, f"{statistics.median(values):.1f} s", f"{min(values):.1f} s", f"{max(values):.1f} s"])
    text = write_page(
        options.out / "startup.md",
        "From the start of the command until the jobs train",
        f"Command: `python experiments/speed/startup.py --times {options.times}`; {options.times} runs",
        markdown(rows, ["Until", "Median", "Least", "Most"]),
    )
    print(text, end="")


if __name__ == "__main__":
    main()
