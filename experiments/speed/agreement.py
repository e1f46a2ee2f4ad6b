"""Does bench time a model as torch.utils.benchmark does?

    python experiments/speed/agreement.py [--rounds 10] [--out results/reference/speed]

Both time the same two models, untrained, on the same images, one after the other in every round, so that a machine that
becomes slower slows both. What is printed is bench's median seconds divided by torch's, round by round.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import numpy as np
import torch
from measuring import markdown, write_page
from torch.utils.benchmark import Timer

from bench.config.run import Options
from bench.learning.checkpoint import Trained
from bench.learning.data.preprocessing import Preprocessor, batch_of
from bench.learning.execute import built
from bench.learning.process import prepare_process
from bench.learning.timing import time_inference
from bench.workflows.plan import make_plan


def by_torch(trained: Trained, images: torch.Tensor) -> float:
    """Return the median seconds of a batch, by PyTorch's own timer."""
    prepare = Preprocessor(trained.spec.input, "cpu")
    with torch.inference_mode():
        timer = Timer(
            "model(prepare(images))",
            globals={"model": trained.module, "prepare": prepare, "images": images},
            num_threads=torch.get_num_threads(),
        )
        return timer.blocked_autorange(min_run_time=1.0).median


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    prepare_process(torch.get_num_threads())
    plan = make_plan(Options(models=("cnn", "mobilenet"), dataset="mnist-5k"))
    rows = []
    for job in plan.jobs:
        (run,) = job.runs()
        inputs = plan.inputs[run.inputs_key]
        module, spec = built(run, inputs)
        trained = Trained(copy.deepcopy(module).eval(), spec, inputs.dataset.class_names, {})
        for size in (1, batch_of(spec.input, "cpu")):
            images = inputs.dataset.test.array[:size]
            by_torch(trained, torch.from_numpy(images.copy()))
            ratios = []
            for _ in range(options.rounds):
                seconds, _ = time_inference(trained, images, rounds=12)
                ratios.append(float(np.median(seconds)) / by_torch(trained, torch.from_numpy(images.copy())))
            middle, low, high = np.median(ratios), min(ratios), max(ratios)
            rows.append([f"{job.model}, {size} at once", f"{middle:.3f}", f"{low:.3f} to {high:.3f}"])
            print(*rows[-1], flush=True)
    table = markdown(rows, ["", "bench / torch.utils.benchmark, median", "range"])
    if options.out is not None:
        title = "Does bench time a model as torch.utils.benchmark does?"
        write_page(options.out / "agreement.md", title, table, threads=torch.get_num_threads())


if __name__ == "__main__":
    main()
