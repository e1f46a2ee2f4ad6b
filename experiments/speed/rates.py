"""How close to the machine? Training and feature extraction beside the machine's own matrix-product rate.

    python experiments/speed/rates.py --data-dir DIR [--threads 2] [--out results/reference/speed]

The peak is measured here and now: products of two 2048 x 2048 matrices, for a quarter of a second right before and
after each block of what is measured, so that a shared machine's slow moments count for both. All figures are medians
of nine blocks, the machine otherwise idle.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from measuring import ROOT, markdown, write_page

from bench.learning import datasets, measure
from bench.learning.build import build
from bench.learning.features import fold
from bench.learning.models import MODELS
from bench.learning.precision import arithmetic, native_bf16
from bench.learning.preprocessing import BATCH, DeviceSplit, Preprocessor
from bench.learning.process import prepare_process
from bench.learning.training import make_optimizer, on_images, training_step
from bench.learning.weights import find
from bench.spec import Recipe

STEPS, BLOCKS = 20, 9


def seconds_of(once: Callable[[], object], times: int) -> float:
    """Seconds for so many calls."""
    start = time.perf_counter()
    for _ in range(times):
        once()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak(device: str, dtype: torch.dtype) -> Callable[[], float]:
    """What measures the floating-point operations per second of a large matrix product, for a quarter of a second."""
    size = 8192 if device == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    seconds_of(lambda: a @ b, 2)
    times = max(1, round(0.25 / seconds_of(lambda: a @ b, 1)))
    return lambda: 2 * size**3 * times / seconds_of(lambda: a @ b, times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=ROOT / "results/reference/speed")
    options = parser.parse_args()
    prepare_process(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    data = DeviceSplit.of(datasets.load("mnist", options.data_dir).train, device)
    rows = []
    for precision in ("fp32", "bf16") if native_bf16(device) else ("fp32",):
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        products = peak(device, dtype)
        cnn = MODELS["cnn"]
        model = build(cnn, 10, None, 0).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        trainee = on_images(model, cnn, data, "eval")
        trainee.training_mode()
        optimizer = make_optimizer(list(model.parameters()), Recipe())
        batches = iter(torch.randperm(len(data.labels), device=device).split(64))

        def train(trainee=trainee, optimizer=optimizer, batches=batches, precision=precision) -> None:  # type: ignore[no-untyped-def]
            training_step(trainee.module, optimizer, trainee, next(batches), precision=precision)

        # forward, and the gradients of inputs and of weights, which cost as much again each; also those that pooling
        # makes zero, which need not be computed
        step_flops = 3 * 2 * measure.macs(model, cnn) * 64

        mobilenet = MODELS["mobilenet"]
        weights = find("bundled", "mobilenet", mobilenet.sources)
        folded = fold(build(mobilenet, 10, weights, 0).to(device), mobilenet)
        prepare = Preprocessor(mobilenet, device)

        @torch.no_grad()
        def embed(folded=folded, prepare=prepare, precision=precision) -> None:  # type: ignore[no-untyped-def]
            with arithmetic(device, precision):
                folded.embed(prepare(data.images[:BATCH]))

        for what, once, images, flops, times in (
            ("CNN, training, batch 64", train, 64, step_flops, STEPS),
            ("MobileNetV2, features at 32 x 32, batch 250", embed, BATCH, 2 * 6_277_248 * BATCH, 8),
        ):
            seconds_of(once, 5)
            rates, tops, shares = [], [], []
            for _ in range(BLOCKS):
                before = products()
                seconds = seconds_of(once, times) / times
                rates.append(images / seconds)
                tops.append(statistics.fmean([before, products()]))
                shares.append(flops / seconds / tops[-1])
            rows.append(
                [
                    what,
                    precision,
                    f"{statistics.median(rates):,.0f} images/s",
                    f"{statistics.median(tops) / 1e9:,.0f} GFLOP/s",
                    f"{100 * statistics.median(shares):.0f} %",
                ]
            )
    headers = ["What", "Precision", "Rate", "Matrix-product peak", "Share of the peak"]
    table = markdown(rows, headers)
    write_page(
        options.out / "rates.md",
        "Rates beside the machine's peak",
        "Command: `python experiments/speed/rates.py --data-dir DIR`",
        table,
        "The CNN's share counts its forward pass three times: for itself and for the gradients of inputs and weights, "
        "also where pooling and ReLU make those zero, so that they are not computed, and as if Winograd's convolution "
        "multiplied as often as the plain one; so it may be more than all.",
        threads=options.threads,
    )
    print(table)


if __name__ == "__main__":
    main()
