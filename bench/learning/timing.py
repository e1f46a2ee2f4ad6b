"""Timing of a trained model's training steps and inference, alone on its machine; raw samples are kept.

Models and back ends are timed in turns, a short block of each in every round, so that a machine that slows down or
warms up affects all of them alike. Right before and after each block a reference step is timed: a training step of a
small network that never changes. On a shared machine everything in one session is often a tenth faster or slower than
in the next; relative to the reference step, sessions agree to a few percent, so that versions timed a week apart can be
compared. A round during which other processes used more than a tenth of the machine's processor time is timed again,
and marked if that does not help.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from statistics import fmean, median
from typing import Literal

import numpy as np
import psutil
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.learning import cost, energy
from bench.learning.augmentation import augmentation_of
from bench.learning.backends import backend
from bench.learning.backends.deploy import deploy
from bench.learning.backends.protocol import Prepared, Request
from bench.learning.checkpoint import Trained
from bench.learning.data.dataset import Split
from bench.learning.data.preprocessing import DeviceSplit, Preprocessor, as_tensor, batch_of, in_turn
from bench.learning.execute import built
from bench.learning.features import embedding_of, fold
from bench.learning.inputs import Inputs
from bench.learning.limits import BLOCK_SECONDS, FEWEST_ROUNDS, LONGEST_SECONDS, ROUNDS, WARM_UP_SECONDS
from bench.learning.models.architecture import ModelSpec
from bench.learning.optimizers import make_optimizer
from bench.learning.precision import arithmetic, precision_on
from bench.learning.process import flush_denormals, prepare_process, synchronise
from bench.learning.training import Trainee, on_features, on_images, training_step
from bench.spec import Deployment, Run, Timed, Timing, TimingProgress

EAGER = "eager"
MOST_CALIBRATION_IMAGES = 512
"""The largest number of training images that calibrate a quantised model's activations."""
TRAINING_BATCHES = 8
"""The largest number of different batches that are trained on in turns."""
MOST_RETRIES = 6
"""The number of rounds in all that are timed again because the machine was in use; it may never be free."""
REPORT_SECONDS = 1.0
"""The seconds between two reports of the progress."""
PASS_ON_SECONDS = 0.02
"""The seconds after a report in which nothing is timed, while others pass it on."""
CONTENDED_SHARE = 0.1
"""The share of the machine's processor time above which other processes disturb the timing."""

Kind = Literal["training", "extraction", "head", "inference"]
Report = Callable[[TimingProgress], None]


@dataclass(frozen=True)
class Subject:
    """A run whose trained model is to be timed."""

    run: Run
    checkpoint: bytes
    inputs: Inputs
    """The run's inputs, with at least a batch of training images in random order, and all test images."""


@dataclass(frozen=True)
class _Call:
    """A function to time, and its description."""

    run_id: str
    kind: Kind
    batch_size: int
    once: Callable[[], object]
    precision: str
    device: str
    """The device as torch names it."""
    backend: str = EAGER
    long: bool = False
    """True if a call takes longer than BLOCK_SECONDS."""


@flush_denormals()
def time_models(
    subjects: Sequence[Subject],
    *,
    backends: Sequence[str] = (),
    device: str,
    threads: int,
    report: Report = lambda progress: None,
) -> Timed:
    """Time the training of every subject, and the inference of one image and of a batch by each back end.

    Training is timed as the run did it: steps of the whole model, or the extraction of a frozen backbone's features and
    steps of the head. A back end answers all test images before it is timed; one that cannot is left out.

    Args:
        subjects: the trained models to time.
        backends: names of back ends to time besides eager, which is always timed.
        device: as torch names it.
        threads: CPU threads to compute with.
        report: called with the progress, about once a second.
    """
    prepare_process(threads)
    timed = Timed()
    calls: list[_Call] = []
    names = list(dict.fromkeys((EAGER, *backends)))
    for subject in subjects:
        for call in _calls(subject, names, device, threads, timed.deployments):
            calls.append(call)
            if timed.deployments:
                report(TimingProgress(len(timed.deployments)))

    def report_rounds(seconds_left: float) -> None:
        report(TimingProgress(len(timed.deployments), seconds_left))
        time.sleep(PASS_ON_SECONDS)

    timings = list(_timed(calls, threads, report=report_rounds))
    joules = _energies(calls, device)  # after the timing, as it would heat the machine
    for row in timings:
        each = joules.get((row.run_id, row.kind, row.backend, row.batch_size))
        timed.timings.append(row if each is None else row.model_copy(update={"joules_per_image": each}))
    return timed


def _energies(calls: Sequence[_Call], device: str) -> dict[tuple[str, str, str, int], float]:
    """Return the joules for each image that is answered; of no call if nothing counts them."""
    meter = energy.meter_of(device)
    measured: dict[tuple[str, str, str, int], float] = {}
    for call in calls if meter is not None else ():
        # a back end that takes images from the CPU may compute on either
        if meter is None or call.kind != "inference" or call.device != device:
            continue
        with contextlib.suppress(OSError):
            wait = functools.partial(synchronise, torch.device(call.device))
            joules = energy.joules_of(call.once, meter, wait=wait, seconds=energy.SECONDS)
            measured[call.run_id, call.kind, call.backend, call.batch_size] = joules / call.batch_size
    return measured


@flush_denormals()
def time_inference(trained: Trained, images: NDArray[np.uint8], *, rounds: int = 10) -> tuple[NDArray[np.float64], int]:
    """Time eager's inference of a batch on the CPU; return (seconds of each sample, number of threads used).

    Args:
        trained: the model.
        images: the batch, uint8 [images, channels, height, width].
        rounds: number of blocks of samples.
    """
    images, threads = images.copy(), torch.get_num_threads()
    request = Request(trained, 0, images, images, (len(images),), "cpu", threads, "fp32")
    call = _answering("", EAGER, backend(EAGER).prepare(request), as_tensor(images), len(images))
    return np.array([timing.seconds for timing in _timed([call], threads, rounds)]), threads


def _timed(
    calls: Sequence[_Call],
    threads: int,
    rounds: int | None = None,
    *,
    report: Callable[[float], None] = lambda seconds_left: None,
) -> Iterator[Timing]:
    """Time ``calls`` in turns, and yield each sample; tell ``report`` the seconds that the rounds still take."""
    references = {call.device: make_reference_step(call.device) for call in calls}
    for device, step in references.items():
        _repeat(step, device, seconds=WARM_UP_SECONDS)
    calls = [_warm(call) for call in calls]
    machines = {device: cost.machine(device, threads) for device in references}
    where = {device: {key: machine[key] for key in ("node", "device", "cpu")} for device, machine in machines.items()}
    counts = [0] * len(calls)
    retries = MOST_RETRIES
    start = reported = time.perf_counter()
    end = start + LONGEST_SECONDS * len({call.run_id for call in calls})
    most = rounds or ROUNDS
    took: list[float] = []
    for number in range(most):
        now = time.perf_counter()
        if number >= FEWEST_ROUNDS and now > end:
            break
        if number > 0 and now - reported >= REPORT_SECONDS:
            each = median(took)
            # the round in which the time is up is finished
            report(min((most - number) * each, max(end - now + each, (FEWEST_ROUNDS - number) * each)))
            reported = time.perf_counter()
        blocks, share = _round(calls, references)
        took.append(time.perf_counter() - now)
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
                    **where[call.device],
                    threads=threads,
                    precision=call.precision,
                    peak_memory_mb=block.memory,
                    measured_at=block.measured_at,
                )
                counts[position] += 1


def make_reference_step(device: str) -> Callable[[], object]:
    """Return a training step that is the same in every session: convolutions, as in the models, 36 MFLOP per image.

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
    """Yield all calls to time of a subject, and add the results of its back ends to ``deployments``."""
    run, recipe, data = subject.run, subject.run.recipe, subject.inputs.dataset
    model, spec = built(run, subject.inputs)
    model.load_state_dict(safetensors.torch.load(subject.checkpoint))
    trained = Trained(copy.deepcopy(model).eval(), spec, data.class_names, {})  # training changes the model
    precision = precision_on(device, recipe.precision)
    yield from _training(run, model, spec, data.train, device, precision)
    batch = batch_of(spec.input, device)
    request = Request(
        trained=trained,
        checkpoint_bytes=len(subject.checkpoint),
        example=data.train.images[:1],
        calibration=data.train.images[:MOST_CALIBRATION_IMAGES],
        batch_sizes=(1, batch),
        device=device,
        threads=threads,
        precision=precision,
    )
    images = as_tensor(data.train.images[:batch])
    images = torch.cat([images] * -(-batch // len(images)))[:batch]
    eager = None
    for name in backends:
        row, prepared, logits = deploy(name, request, run.id, data.test, eager)
        deployments.append(row)
        if prepared is not None:
            eager = logits if eager is None else eager
            yield from (_answering(run.id, name, prepared, images[:size], size) for size in request.batch_sizes)


def _training(
    run: Run, model: nn.Module, spec: ModelSpec, train: Split, device: str, precision: str
) -> Iterator[_Call]:
    """Yield the recipe's training calls: steps of the whole model, or feature extraction and steps of the head."""
    recipe = run.recipe
    few = slice(0, TRAINING_BATCHES * recipe.batch_size)
    data = DeviceSplit.of(Split(train.images[few], train.labels[few]), device)
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    augmentation = augmentation_of(recipe, run.seed, images=len(data.labels), classes=run.dataset.classes)
    embedding = None if augmentation is not None else embedding_of(model, spec, recipe.bn_mode)
    if embedding is None:
        if augmentation is not None:
            augmentation.begin(1)
        trainee = on_images(model, spec, data, recipe.bn_mode, augmentation=augmentation)
        yield _Call(run.id, "training", recipe.batch_size, _step(trainee, run, precision), precision, device)
        return
    backbone, prepare = fold(embedding, spec), Preprocessor(spec.input, device)
    several = as_tensor(train.images[: batch_of(spec.input, device)]).to(device)

    def extract(pixels: Tensor) -> Tensor:
        with torch.no_grad(), arithmetic(device, precision):
            features: Tensor = backbone(prepare(pixels)).float()
        return features

    trainee = on_features(model, spec, data, extract(as_tensor(train.images[few]).to(device)))
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
    # a learning rate so small that nothing diverges, however many steps are timed
    optimizer = make_optimizer(parameters, run.recipe.model_copy(update={"lr": 1e-9}))
    batches = [
        part for part in torch.split(trainee.positions, run.recipe.batch_size) if len(part) == run.recipe.batch_size
    ]
    next_batch, smoothing = 0, run.recipe.label_smoothing

    def once() -> object:
        nonlocal next_batch
        batch = batches[next_batch % len(batches)]
        next_batch += 1
        (images,) = in_turn(trainee.inputs, [batch], batch.device)
        return training_step(
            trainee.module, optimizer, trainee, batch, images, precision=precision, label_smoothing=smoothing
        )

    trainee.training_mode()
    return once


@dataclass(frozen=True)
class _Block:
    """Consecutive samples of a call."""

    samples: list[float]
    """Seconds of each sample."""
    reference: float
    """Mean seconds of the reference step right before and after."""
    memory: float | None
    """Peak memory, 10^6 bytes."""
    measured_at: datetime


def _round(calls: Sequence[_Call], references: Mapping[str, Callable[[], object]]) -> tuple[list[_Block], float]:
    """Time a round; return (a block of each call, the share of the machine that other processes used).

    Args:
        calls: what to time.
        references: the reference step of each device.
    """
    watch = _OthersShare()
    blocks = []
    before = {device: _repeat(step, device)[0] for device, step in references.items()}
    for call in calls:
        memory = cost.PeakMemory(call.device)
        if not call.long:
            _repeat(call.once, call.device)
        samples = _repeat(call.once, call.device, seconds=BLOCK_SECONDS)
        (after,) = _repeat(references[call.device], call.device)
        blocks.append(_Block(samples, fmean((before[call.device], after)), memory.megabytes(), datetime.now(UTC)))
        before[call.device] = after
    return blocks, watch.share()


def _repeat(once: Callable[[], object], device: str, *, seconds: float = 0.0) -> list[float]:
    """Call ``once`` at least one time, and again until ``seconds`` have passed; return the seconds of each call."""
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
    """The share of the machine's processor time that other processes have used since this object was made."""

    def __init__(self) -> None:
        self._machine, self._own, self._start = self._busy(), time.process_time(), time.perf_counter()

    @staticmethod
    def _busy() -> float:
        times = psutil.cpu_times()
        return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)

    def share(self) -> float:
        """Return the share: 0 if the machine is free, 1 if other processes use all of it."""
        elapsed = time.perf_counter() - self._start
        # the system counts in hundredths of a second, so the difference may come out below 0
        others = self._busy() - self._machine - (time.process_time() - self._own)
        return max(0.0, others) / (elapsed * (psutil.cpu_count() or 1))
