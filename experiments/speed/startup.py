"""How long from the start of the command until both jobs train?

    python experiments/speed/startup.py [--times 5] [--out results/reference/speed]

Runs ``python -m bench.run --models cnn mobilenet`` on mnist-5k for one epoch, several times, the machine otherwise
idle: each time with an empty cache, as on a new machine, where the loops of kernels.c are compiled meanwhile; and again
with what is in the cache then, as from then on. Results are empty each time. A job trains from when its model is built
and its data are on the device: what follows is the first step of the CNN, and the first batch through MobileNetV2's
frozen backbone (in the second run its features are in the cache).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from measuring import ROOT, markdown, run_bench, write_page


def run_once(cache: str) -> dict[str, float]:
    """Seconds from the start of the process: until each job trains, and until the end of the command."""
    whole = run_bench("--dataset", "mnist-5k", "--epochs", "1", cache=cache)
    begun = {row["model"]: row["started_at"].timestamp() - whole.began + row["setup_seconds"] for row in whole.rows}
    return {"both": max(begun.values()), **begun, "whole": whole.seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "results/reference/speed")
    options = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {"empty": [], "filled": []}
    for number in range(options.times):
        with tempfile.TemporaryDirectory(prefix="bench-cache-") as cache:
            for kind, several in found.items():
                several.append(run_once(cache))
                shown = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in several[-1].items())
                print(f"{number + 1}, cache {kind}: {shown}", flush=True)
    names = {"cnn": "CNN trains", "mobilenet": "MobileNetV2 trains", "both": "both train", "whole": "the command ends"}
    rows = []
    for kind, several in found.items():
        for key, name in names.items():
            values = [one[key] for one in several]
            figures = [f"{figure(values):.1f} s" for figure in (statistics.median, min, max)]
            rows.append([kind, name, *figures])
    text = write_page(
        options.out / "startup.md",
        "From the start of the command until the jobs train",
        f"Command: `python experiments/speed/startup.py --times {options.times}`; {options.times} runs of each kind",
        markdown(rows, ["Cache", "Until", "Median", "Least", "Most"]),
    )
    print(text, end="")


if __name__ == "__main__":
    main()
