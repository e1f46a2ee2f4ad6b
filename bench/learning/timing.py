"""How fast a trained model is, alone on its machine: training steps and answers, raw samples kept.

Several models are timed in turns, a short block of each in every round, so that a machine that slows down or warms up
does so for all of them. Right before and after each block a yardstick is timed: a training step of a small network
that never changes. One session on a shared machine is often a tenth faster or slower than the next in everything at
once; relative to the yardstick they agree to a few percent, so that two versions can be compared that were timed a week
apart. Whether the machine was free is measured, not assumed: a round during which other processes used more than a
tenth of the machine's processor time is timed again, and marked if that does not help.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from statistics import fmean
from typing import Literal

import psutil
import safetensors.torch
import torch
from torch import Tensor, nn

from bench.learning import measure
from bench.learning.build import build
from bench.learning.execute import Inputs, spec_of
from bench.learning.features import fold, usable
from bench.learning.optimizers import make_optimizer
from bench.learning.precision import arithmetic, precision_on
from bench.learning.preprocessing import BATCH, DeviceSplit, Preprocessor
from bench.learning.process import prepare_process, small_numbers_are_zero
from bench.learning.training import Trainee, on_features, on_images, training_step
from bench.spec import Run, Timing

ROUNDS, FEWEST_ROUNDS = 40, 6
LONGEST_SECONDS = 60
"""After this no further round begins, if there were FEWEST_ROUNDS."""
BLOCK_SECONDS = 0.03
"""How long a block lasts at least."""
WARM_UP_SECONDS = 0.1
"""Of every call, before the first round. In the rounds one call warms up, if it is shorter than a block: what the
yardstick left in the caches is a thousandth of a longer one."""
MOST_RETRIES = 6
"""How many rounds in all are timed again because something else was using the machine; it may never be free."""
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
    long: bool = False
    """Whether it takes longer than BLOCK_SECONDS."""


@small_numbers_are_zero()
def time_models(subjects: Sequence[Subject], *, device: str, threads: int) -> list[Timing]:
    """Time every subject's training step, and its answers to one image and to a batch of 250.

    A training step is what the run really did: where a frozen backbone's features are used, a step of the head.

    Args:
        subjects: what to time.
        device: as torch names it.
        threads: CPU threads to compute with.
    """
    prepare_process(threads)
    yardstick = make_yardstick(device)
    _repeat(yardstick, device, seconds=WARM_UP_SECONDS)
    calls = [_warm(call, device) for subject in subjects for call in _calls(subject, device)]
    name = str(measure.machine(device, threads)["device"])
    counts = [0] * len(calls)
    found: list[Timing] = []
    retries = MOST_RETRIES
    end = time.perf_counter() + LONGEST_SECONDS
    for number in range(ROUNDS):
        if number >= FEWEST_ROUNDS and time.perf_counter() > end:
            break
        blocks, share = _round(calls, yardstick, device)
        while share > CONTENDED_SHARE and retries > 0:
            retries -= 1
            again, others = _round(calls, yardstick, device)
            if others < share:
                blocks, share = again, others
        for position, (call, block) in enumerate(zip(calls, blocks, strict=True)):
            for seconds in block.samples:
                found.append(
                    Timing(
                        run_id=call.run.id,
                        kind=call.kind,
                        batch_size=call.batch_size,
                        sample=counts[position],
                        seconds=seconds,
                        yardstick_seconds=block.yardstick,
                        contended=share > CONTENDED_SHARE,
                        device=name,
                        threads=threads,
                        precision=call.precision,
                        peak_memory_mb=block.memory,
                        measured_at=block.measured_at,
                    )
                )
                counts[position] += 1
    return found


def make_yardstick(device: str) -> Callable[[], object]:
    """A training step that is the same in every session: convolutions, as in what is timed, 36 MFLOP an image.

    Two timings relative to it can only be compared if both were taken with the same version of torch.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
            *(nn.Flatten(), nn.Linear(64, 10)),
        )
        images = torch.randn(16, 16, 28, 28)
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = images.to(device, memory_format=torch.channels_last)

    def once() -> None:
        network.zero_grad()
        network(images).sum().backward()

    return once


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


def _warm(call: _Call, device: str) -> _Call:
    samples = _repeat(call.once, device, seconds=WARM_UP_SECONDS)
    return replace(call, long=min(samples) > BLOCK_SECONDS)


def _step(trainee: Trainee, run: Run, precision: str) -> Callable[[], object]:
    parameters = [parameter for parameter in trainee.module.parameters() if parameter.requires_grad]
    # so slow that nothing diverges, however many steps are timed
    optimizer = make_optimizer(parameters, run.recipe.model_copy(update={"lr": 1e-9}))
    batches = [
        part for part in torch.split(trainee.positions, run.recipe.batch_size) if len(part) == run.recipe.batch_size
    ]
    next_batch, smoothing = 0, run.recipe.label_smoothing

    def once() -> object:
        nonlocal next_batch
        batch = batches[next_batch % len(batches)]
        next_batch += 1
        return training_step(trainee.module, optimizer, trainee, batch, precision=precision, label_smoothing=smoothing)

    trainee.training_mode()
    return once


@dataclass(frozen=True)
class _Block:
    """Samples of one call that follow each other."""

    samples: list[float]
    """Seconds."""
    yardstick: float
    """Its mean seconds, right before and after."""
    memory: float | None
    """Peak, 10^6 bytes."""
    measured_at: datetime


def _round(calls: Sequence[_Call], yardstick: Callable[[], object], device: str) -> tuple[list[_Block], float]:
    """(a block of each call, how much of the machine other processes used)."""
    watch = _OthersShare()
    blocks = []
    (before,) = _repeat(yardstick, device)
    for call in calls:
        memory = measure.PeakMemory(device)
        if not call.long:
            _repeat(call.once, device)
        samples = _repeat(call.once, device, seconds=BLOCK_SECONDS)
        (after,) = _repeat(yardstick, device)
        blocks.append(_Block(samples, fmean((before, after)), memory.megabytes(), datetime.now(UTC)))
        before = after
    return blocks, watch.share()


def _repeat(once: Callable[[], object], device: str, *, seconds: float = 0.0) -> list[float]:
    """Seconds of each call, called once and so long at least."""
    samples: list[float] = []
    on_gpu = device.startswith("cuda")
    end = time.perf_counter() + seconds
    while not samples or time.perf_counter() < end:
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
