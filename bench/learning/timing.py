"""How fast a trained model is, alone on its machine: training steps and answers, raw samples kept.

Several models are timed in turns, a short block of each in every round, so that a machine that slows down or warms up
does so for all of them. Whether the machine was really free is measured, not assumed: a block during which other
processes used more than a tenth of the machine's processor time is timed again, and marked if that does not help.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import psutil
import safetensors.torch
import torch
from torch import Tensor

from bench.learning import measure
from bench.learning.build import build
from bench.learning.eager import postpone_compiler
from bench.learning.execute import Inputs, spec_of
from bench.learning.features import fold, usable
from bench.learning.precision import arithmetic, precision_on
from bench.learning.preprocessing import BATCH, DeviceSplit, Preprocessor
from bench.learning.training import Trainee, make_optimizer, on_features, on_images, training_step
from bench.spec import Run, Timing

ROUNDS = 6
BLOCK_SECONDS = 0.25
"""How long a block lasts at least, unless it has MOST_SAMPLES before."""
WARM_UP_SECONDS = 0.1
FEWEST_SAMPLES, MOST_SAMPLES = 3, 50
MOST_RETRIES = 6
"""How many blocks in all are timed again because something else was using the machine; it may never be free."""
CONTENDED_SHARE = 0.1
"""Of the machine's processor time, used by others: more than that disturbs."""
_TRAINING_BATCHES = 8


@dataclass(frozen=True)
class Subject:
    """A run whose trained model is to be timed."""

    run: Run
    checkpoint: bytes
    inputs: Inputs


@dataclass(frozen=True)
class _Call:
    """One thing to time."""

    run: Run
    kind: Literal["training", "inference"]
    batch_size: int
    once: Callable[[], object]
    precision: str


def time_models(subjects: Sequence[Subject], *, device: str, threads: int) -> list[Timing]:
    """Time every subject's training step, and its answers to one image and to a batch of 250.

    A training step is what the run really did: where a frozen backbone's features are used, a step of the head.

    Args:
        subjects: what to time.
        device: as torch names it.
        threads: CPU threads to compute with.
    """
    postpone_compiler()
    torch.set_num_threads(threads)
    calls = [call for subject in subjects for call in _calls(subject, device)]
    found: list[Timing] = []
    counts = [0] * len(calls)
    retries = _Retries()
    for round_number in range(ROUNDS):
        for position, call in enumerate(calls):
            samples, memory, contended = _block(call, device, retries, first=round_number == 0)
            measured_at = datetime.now(UTC)
            for seconds in samples:
                found.append(
                    Timing(
                        run_id=call.run.id,
                        kind=call.kind,
                        batch_size=call.batch_size,
                        sample=counts[position],
                        seconds=seconds,
                        contended=contended,
                        device=str(measure.machine(device, threads)["device"]),
                        threads=threads,
                        precision=call.precision,
                        peak_memory_mb=memory,
                        measured_at=measured_at,
                    )
                )
                counts[position] += 1
    return found


def _calls(subject: Subject, device: str) -> list[_Call]:
    run, recipe = subject.run, subject.run.recipe
    if subject.inputs.plugin is not None:
        subject.inputs.plugin.load()
    spec = spec_of(run)
    model = build(spec, run.dataset.classes, subject.inputs.weights, run.seed, trainable=recipe.trainable)
    model.load_state_dict(safetensors.torch.load(subject.checkpoint))
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    precision = precision_on(device, recipe.precision)
    prepare = Preprocessor(spec, device)
    folded = fold(model, spec)

    all_images = DeviceSplit.of(subject.inputs.dataset.train, "cpu")
    few = slice(0, _TRAINING_BATCHES * recipe.batch_size)
    data = DeviceSplit(all_images.images[few].to(device), all_images.labels[few].to(device))

    def answer(images: Tensor) -> Callable[[], object]:
        def once() -> object:
            with torch.inference_mode(), arithmetic(device, precision):
                return folded(prepare(images))

        return once

    if usable(model, spec, recipe.bn_mode):
        with torch.no_grad(), arithmetic(device, precision):
            features: Tensor = folded.embed(prepare(data.images)).float()  # type: ignore[operator]
        trainee = on_features(model, spec, data, features)
    else:
        trainee = on_images(model, spec, data, recipe.bn_mode)
    several = torch.cat([data.images] * (BATCH // len(data.labels) + 1))[:BATCH]
    return [
        _Call(run, "training", recipe.batch_size, _step(trainee, run, precision), precision),
        _Call(run, "inference", 1, answer(data.images[:1]), precision),
        _Call(run, "inference", BATCH, answer(several), precision),
    ]


def _step(trainee: Trainee, run: Run, precision: str) -> Callable[[], object]:
    parameters = [parameter for parameter in trainee.module.parameters() if parameter.requires_grad]
    # so slow that nothing diverges, however many steps are timed
    optimizer = make_optimizer(parameters, run.recipe.model_copy(update={"lr": 1e-9}))
    batches = [
        part for part in torch.split(trainee.positions, run.recipe.batch_size) if len(part) == run.recipe.batch_size
    ]
    next_batch = 0

    def once() -> object:
        nonlocal next_batch
        batch = batches[next_batch % len(batches)]
        next_batch += 1
        return training_step(trainee.module, optimizer, trainee, batch, precision=precision)

    trainee.training_mode()
    return once


@dataclass
class _Retries:
    left: int = MOST_RETRIES

    def take(self) -> bool:
        self.left -= 1
        return self.left >= 0


def _block(call: _Call, device: str, retries: _Retries, *, first: bool) -> tuple[list[float], float | None, bool]:
    """(seconds of each sample, peak memory in 10^6 bytes, whether something else used the machine)."""
    _repeat(call.once, device, seconds=2 * WARM_UP_SECONDS if first else 0)
    best: tuple[list[float], float | None, float] | None = None
    while True:
        memory = measure.PeakMemory(device)
        _repeat(call.once, device, seconds=WARM_UP_SECONDS)
        watch = _OthersShare()
        samples = _repeat(call.once, device, seconds=BLOCK_SECONDS)
        share = watch.share()
        if best is None or share < best[2]:
            best = samples, memory.megabytes(), share
        if best[2] <= CONTENDED_SHARE or not retries.take():
            return best[0], best[1], best[2] > CONTENDED_SHARE


def _repeat(once: Callable[[], object], device: str, *, seconds: float) -> list[float]:
    samples: list[float] = []
    on_gpu = device.startswith("cuda")
    end = time.perf_counter() + seconds
    while len(samples) < FEWEST_SAMPLES or (time.perf_counter() < end and len(samples) < MOST_SAMPLES):
        if on_gpu:
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        once()
        if on_gpu:
            torch.cuda.synchronize(device)
        samples.append(time.perf_counter() - start)
    return samples


class _OthersShare:
    """How much of the machine's processor time other processes use, from the moment this object is made."""

    def __init__(self) -> None:
        self._machine, self._own, self._start = self._busy(), time.process_time(), time.perf_counter()

    @staticmethod
    def _busy() -> float:
        times = psutil.cpu_times()
        return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)

    def share(self) -> float:
        """0 when the machine is free, 1 when others use all of it."""
        elapsed = time.perf_counter() - self._start
        # the system counts in hundredths of a second, so a difference below 0 is none
        others = self._busy() - self._machine - (time.process_time() - self._own)
        return max(0.0, others) / (elapsed * (psutil.cpu_count() or 1))
