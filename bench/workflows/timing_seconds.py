"""How long the timing after the training takes: it follows from its rules in :mod:`bench.learning.timing`.

Of each model, a block of each of its calls is timed in every round. The rounds end after a limit of seconds, but there
are some in any case; before them every model is prepared for each back end, and answers all test images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.learning.limits import (
    BLOCK_SECONDS,
    FEWEST_ROUNDS,
    LARGEST_BATCH,
    LONGEST_SECONDS,
    MOST_PIXELS,
    ROUNDS,
    WARM_UP_SECONDS,
)
from bench.spec import Run
from bench.workflows.paces import Part, images_of, on_features

REFERENCE_SECONDS = 0.006
"""Seconds of the reference step (results/reference/mnist-cpu2)."""
START_SECONDS = 4.0
"""Seconds until the process that times has started and has its data."""
PAGES_SECONDS = 1.5
"""Seconds that the verdicts and plots of speed take."""
PREPARE_SECONDS = {"eager": 0.1, "compile": 24.0, "onnxruntime": 4.0, "onnxruntime-int8": 4.5, "openvino": 4.0}
"""Seconds to prepare a model for each back end (the mean of cnn and mobilenet, on two days)."""
BATCH, PIXELS = LARGEST_BATCH, MOST_PIXELS["cpu"]
"""The images of a batch, at most, and its pixels, at most."""
GAIN = 0.7
"""With n times the CPUs a model answers n ** 0.7 times as many images (mobilenet in results/reference/mnist-cpu2)."""


@dataclass(frozen=True)
class TimingSeconds:
    """How many seconds the timing takes."""

    prepare: tuple[float, ...] = ()
    """For each model and back end, in their order, until it has answered all test images; the start included."""
    rounds: float = 0.0
    pages: float = 0.0
    """What the pages take longer than without it."""

    @property
    def total(self) -> float:
        """Return the seconds until it ends."""
        return sum(self.prepare) + self.rounds

    def on_a_slower_machine(self, factor: float) -> TimingSeconds:
        """Return them where all takes so many times as long but the rounds, which follow from this machine's paces."""
        return TimingSeconds(tuple(factor * each for each in self.prepare), self.rounds, factor * self.pages)


def timing_seconds(
    runs: Sequence[Run], backends: Sequence[str], pace: Callable[[Run, Part], float | None], *, more_cpus: float = 1.0
) -> TimingSeconds:
    """Return how many seconds the timing takes; what is not known counts as quick.

    Args:
        runs: one of each job whose model is timed.
        backends: the back ends, eager among them, in the order in which a model is prepared for them.
        pace: the seconds for each image in a part of a run's training; None where it is not known.
        more_cpus: how many times as many CPUs time as train.
    """
    if not runs:
        return TimingSeconds()
    prepare: list[float] = []
    one_round = warm_up = 0.0
    for run in runs:
        batch = min(BATCH, max(1, PIXELS // run.input.image_size**2))
        answer = (pace(run, "testing") or 0.0) / more_cpus**GAIN
        step = (pace(run, "training") or 0.0) / more_cpus**GAIN * run.recipe.batch_size
        calls = [step, *([batch * answer] if on_features(run) else []), *[answer, batch * answer] * len(backends)]
        for name in backends:
            prepare.append(PREPARE_SECONDS.get(name, 0.0) + images_of(run, "testing") * answer)
        one_round += sum(_block(seconds) for seconds in calls)
        warm_up += sum(max(WARM_UP_SECONDS, seconds) for seconds in calls)
    within = min(ROUNDS * one_round, max(LONGEST_SECONDS * len(runs), FEWEST_ROUNDS * one_round))
    return TimingSeconds((START_SECONDS + prepare[0], *prepare[1:]), warm_up + within, PAGES_SECONDS)


def _block(seconds: float) -> float:
    """Return the time of a block of calls of so many seconds, with its warm-up and its reference step."""
    if seconds >= BLOCK_SECONDS:
        return seconds + REFERENCE_SECONDS
    return BLOCK_SECONDS + 1.5 * seconds + REFERENCE_SECONDS
