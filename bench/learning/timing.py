"""How fast a trained model is, alone on its machine: training steps and answers, raw samples kept.

Models and back ends are timed in turns, a short block of each in every round, so that a machine that slows down or
warms up does so for all of them. Right before and after each block a reference step is timed: a training step of a
small network that never changes. One session on a shared machine is often a tenth faster or slower than the next in
everything at once; relative to the reference step they agree to a few percent, so that two versions can be compared
that were timed a week apart. Whether the machine was free is measured, not assumed: a round during which other
processes used more than a tenth of the machine's processor time is timed again, and marked if that does not help.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from statistics import fmean
from typing import Literal

import numpy as np
import psutil
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.learning import measure
from bench.learning.backends import backend
from bench.learning.backends.deploy import deploy
from bench.learning.backends.protocol import Prepared, Request
from bench.learning.build import build
from bench.learning.evaluation import Trained
from bench.learning.execute import Inputs, spec_of
from bench.learning.features import fold, usable
from bench.learning.models import ModelSpec
from bench.learning.optimizers import make_optimizer
from bench.learning.precision import arithmetic, precision_on
from bench.learning.preprocessing import BATCH, DeviceSplit, Preprocessor, as_tensor
from bench.learning.process import flush_denormals, prepare_process
from bench.learning.training import Trainee, on_features, on_images, training_step
from bench.spec import Deployment, Run, Timing

EAGER = "eager"
MOST_CALIBRATION_IMAGES = 512
"""Training images that a quantised model takes the ranges of its activations from."""
TRAINING_BATCHES = 8
"""At most so many different ones are trained on in turns."""
SIZES = (1, BATCH)
"""Images at once, of answers."""
ROUNDS, FEWEST_ROUNDS = 40, 6
LONGEST_SECONDS = 60
"""After this no further round begins, if there were FEWEST_ROUNDS."""
BLOCK_SECONDS = 0.03
"""How long a block lasts at least."""
WARM_UP_SECONDS = 0.1
"""Of every call, before the first round. In the rounds one call warms up, if it is shorter than a block: what the
reference step left in the caches is a thousandth of a longer one."""
MOST_RETRIES = 6
"""How many rounds in all are timed again because something else was using the machine; it may never be free."""
CONTENDED_SHARE = 0.1
"""Of the machine's processor time, used by others: more than that disturbs."""

Kind = Literal["training", "extraction", "head", "inference"]


@dataclass(frozen=True)
class Subject:
    """A run whose trained model is to be timed."""

    run: Run
    checkpoint: bytes
    inputs: Inputs
    """With some training images in random order, at least a batch of them, and all test images."""


@dataclass(frozen=True)
class Measured:
    """What timing models gave."""

    timings: list[Timing] = field(default_factory=list)
    deployments: list[Deployment] = field(default_factory=list)
    """Of each model and back end, one that failed too."""


@dataclass(frozen=True)
class _Call:
    """One thing to time."""

    run_id: str
    kind: Kind
    batch_size: int
    once: Callable[[], object]
    precision: str
    device: str
    """As torch names it."""
    backend: str = EAGER
    long: bool = False
    """Whether it takes longer than BLOCK_SECONDS."""


@flush_denormals()
def time_models(subjects: Sequence[Subject], *, backends: Sequence[str] = (), device: str, threads: int) -> Measured:
    """Time how every subject is trained, and its answers to one image and to a batch of 250 by each back end.

    Training is what the run really did: steps of the whole model; or the features of a frozen backbone, and steps of
    its head. A back end answers all test images before it is timed; one that cannot is left out.

    Args:
        subjects: what to time.
        backends: by name, beyond eager, which is always among them.
        device: as torch names it.
        threads: CPU threads to compute with.
    """
    prepare_process(threads)
    measured = Measured()
    calls: list[_Call] = []
    for subject in subjects:
        calls += _calls(subject, list(dict.fromkeys((EAGER, *backends))), device, threads, measured.deployments)
    measured.timings.extend(_timed(calls, threads))
    return measured


@flush_denormals()
def time_one_image(trained: Trained, image: NDArray[np.uint8], *, rounds: int = 10) -> tuple[NDArray[np.float64], int]:
    """Return (seconds that eager takes for one image on the CPU, by sample; the threads that it computes with).

    Args:
        trained: the model.
        image: uint8 [channels, height, width].
        rounds: blocks of samples.
    """
    images = image[None].copy()
    threads = torch.get_num_threads()
    request = Request(trained, 0, images, images, (1,), "cpu", threads, "fp32")
    call = _answering("", EAGER, backend(EAGER).prepare(request), as_tensor(images), 1)
    return np.array([timing.seconds for timing in _timed([call], threads, rounds)]), threads


def _timed(calls: Sequence[_Call], threads: int, rounds: int | None = None) -> Iterator[Timing]:
    """Time calls in turns."""
    references = {call.device: make_reference_step(call.device) for call in calls}
    for device, step in references.items():
        _repeat(step, device, seconds=WARM_UP_SECONDS)
    calls = [_warm(call) for call in calls]
    names = {device: str(measure.machine(device, threads)["device"]) for device in references}
    counts = [0] * len(calls)
    retries = MOST_RETRIES
    end = time.perf_counter() + LONGEST_SECONDS
    for number in range(rounds or ROUNDS):
        if number >= FEWEST_ROUNDS and time.perf_counter() > end:
            break
        blocks, share = _round(calls, references)
        while share > CONTENDED_SHARE and retries > 0:
            retries -= 1
            again, others = _round(calls, references)
            if others < share:
                blocks, share = again, others
        for position, (call, block) in enumerate(zip(calls, blocks, strict=True)):
            for seconds in block.samples:
                yield Timing(
                    run_id=call.run_id,
                    kind=call.kind,
                    backend=call.backend,
                    batch_size=call.batch_size,
                    sample=counts[position],
                    seconds=seconds,
                    reference_seconds=block.reference,
                    contended=share > CONTENDED_SHARE,
                    device=names[call.device],
                    threads=threads,
                    precision=call.precision,
                    peak_memory_mb=block.memory,
                    measured_at=block.measured_at,
                )
                counts[position] += 1


def make_reference_step(device: str) -> Callable[[], object]:
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


# --- what is timed -----------------------------------------------------------------------------------------------


def _calls(
    subject: Subject, backends: Sequence[str], device: str, threads: int, deployments: list[Deployment]
) -> Iterator[_Call]:
    """All that is timed of one model; how its back ends answered is added to ``deployments``."""
    run, recipe, data = subject.run, subject.run.recipe, subject.inputs.dataset
    if subject.inputs.plugin is not None:
        subject.inputs.plugin.load()
    spec = spec_of(run)
    model = build(spec, run.dataset.classes, subject.inputs.weights, run.seed, trainable=recipe.trainable)
    model.load_state_dict(safetensors.torch.load(subject.checkpoint))
    trained = Trained(copy.deepcopy(model).eval(), spec, data.class_names, {})  # apart from what training changes
    precision = precision_on(device, recipe.precision)
    yield from _training(run, model, spec, DeviceSplit.of(data.train, "cpu"), device, precision)
    request = Request(
        trained=trained,
        checkpoint_bytes=len(subject.checkpoint),
        example=data.train.images[:1],
        calibration=data.train.images[:MOST_CALIBRATION_IMAGES],
        batch_sizes=SIZES,
        device=device,
        threads=threads,
        precision=precision,
    )
    images = as_tensor(data.train.images[:BATCH])
    images = torch.cat([images] * -(-BATCH // len(images)))[:BATCH]
    eager = None
    for name in backends:
        row, prepared, logits = deploy(name, request, run.id, data.test, eager)
        deployments.append(row)
        if prepared is not None:
            eager = logits if eager is None else eager
            yield from (_answering(run.id, name, prepared, images[:size], size) for size in SIZES)


def _training(
    run: Run, model: nn.Module, spec: ModelSpec, images: DeviceSplit, device: str, precision: str
) -> Iterator[_Call]:
    """Training as the recipe does it: steps of the whole model; or a backbone's features, and steps of its head."""
    recipe = run.recipe
    few = slice(0, TRAINING_BATCHES * recipe.batch_size)
    data = DeviceSplit(images.images[few].to(device), images.labels[few].to(device))
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if not usable(model, spec, recipe.bn_mode):
        trainee = on_images(model, spec, data, recipe.bn_mode)
        yield _Call(run.id, "training", recipe.batch_size, _step(trainee, run, precision), precision, device)
        return
    folded, prepare = fold(model, spec), Preprocessor(spec, device)
    several = images.images[:BATCH].to(device)

    def extract(pixels: Tensor) -> Tensor:
        with torch.no_grad(), arithmetic(device, precision):
            features: Tensor = folded.embed(prepare(pixels)).float()  # type: ignore[operator]
        return features

    trainee = on_features(model, spec, data, extract(data.images))
    yield _Call(run.id, "extraction", len(several), lambda: extract(several).cpu(), precision, device)
    yield _Call(run.id, "head", recipe.batch_size, _step(trainee, run, precision), precision, device)


def _answering(run_id: str, name: str, prepared: Prepared, images: Tensor, size: int) -> _Call:
    images, answer = images.to(prepared.device), prepared.answer
    return _Call(run_id, "inference", size, lambda: answer(images), prepared.precision, prepared.device, name)


def _warm(call: _Call) -> _Call:
    samples = _repeat(call.once, call.device, seconds=WARM_UP_SECONDS)
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
    reference: float
    """Mean seconds of the reference step right before and after."""
    memory: float | None
    """Peak, 10^6 bytes."""
    measured_at: datetime


def _round(calls: Sequence[_Call], references: Mapping[str, Callable[[], object]]) -> tuple[list[_Block], float]:
    """(a block of each call, how much of the machine other processes used).

    Args:
        calls: what to time.
        references: the reference step of each device.
    """
    watch = _OthersShare()
    blocks = []
    before = {device: _repeat(step, device)[0] for device, step in references.items()}
    for call in calls:
        memory = measure.PeakMemory(call.device)
        if not call.long:
            _repeat(call.once, call.device)
        samples = _repeat(call.once, call.device, seconds=BLOCK_SECONDS)
        (after,) = _repeat(references[call.device], call.device)
        blocks.append(_Block(samples, fmean((before[call.device], after)), memory.megabytes(), datetime.now(UTC)))
        before[call.device] = after
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
