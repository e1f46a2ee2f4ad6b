"""What an image takes in each part of a run, by other runs of the command, else by earlier commands, else by cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from bench.spec import Record, Run, Status

Part = Literal["begin", "features", "training", "testing"]
PARTS: tuple[Part, ...] = ("begin", "features", "training", "testing")
"""The parts of a run, in order: its model is built, a frozen backbone's features are extracted, ..."""

Network = tuple[str, int]
"""A model, and the image size that it sees: what the cost of an image depends on."""

HEAD_SECONDS = 30e-6
"""Seconds of a head's training for each image, until one was seen (results/reference/five-seeds-cpu2)."""
MACS_PER_PIXEL = 4_000
"""Multiply-accumulates for each pixel of a model that nothing is known of: the cnn has 3,400, mobilenet 6,100."""
_PASSES: dict[Part, int] = {"begin": 0, "features": 1, "training": 3, "testing": 1}
"""How often an image goes through the network: training has a backward pass, which costs two forward ones."""


@dataclass
class Total:
    """Seconds, and the number of images (or of whatever took them)."""

    seconds: float = 0.0
    number: float = 0.0

    def add(self, seconds: float, number: float) -> None:
        """Add further seconds and images."""
        self.seconds += seconds
        self.number += number

    def plus(self, seconds: float, number: float) -> Total:
        """Return the total with further seconds and images."""
        return Total(self.seconds + seconds, self.number + number)

    @property
    def each(self) -> float:
        """Return the seconds for each."""
        return self.seconds / self.number


@dataclass
class Paces:
    """What images took."""

    of_jobs: dict[tuple[str, Part], Total] = field(default_factory=dict)
    """By job and part."""
    of_networks: dict[tuple[Network, Part, bool], Total] = field(default_factory=dict)
    """By network, part, and whether only a head was trained on features."""
    earlier: dict[tuple[Network, Part, bool], Total] = field(default_factory=dict)
    """The same, of earlier commands."""
    macs: dict[Network, float] = field(default_factory=dict)
    """Multiply-accumulates to classify an image."""

    def copy(self) -> Paces:
        """Return a copy whose totals of this command can be added to."""
        return replace(self, of_jobs=dict(self.of_jobs), of_networks=dict(self.of_networks))

    def learn(self, record: Record, *, earlier: bool = False) -> None:
        """Take over what a finished run measured; ``earlier`` if another command trained it."""
        if record.status is not Status.OK or record.input_size is None:
            return
        network = record.model, record.input_size
        if record.macs:
            self.macs[network] = record.macs
        for part, seconds, images in parts_of(record):
            if not images or not seconds:
                continue
            key = network, part, part == "training" and record.features_cached is not None
            (self.earlier if earlier else self.of_networks).setdefault(key, Total()).add(seconds, images)
            if not earlier:
                self.of_jobs.setdefault((record.job_id, part), Total()).add(seconds, images)

    def add(self, run: Run, part: Part, seconds: float, images: float) -> None:
        """Take over what a part of a run that is under way took so far."""
        job = run.job_id, part
        network = network_of(run), part, part == "training" and on_features(run)
        self.of_jobs[job] = self.of_jobs.get(job, Total()).plus(seconds, images)
        self.of_networks[network] = self.of_networks.get(network, Total()).plus(seconds, images)

    def of(self, run: Run, part: Part) -> float | None:
        """Return the seconds for each image in a part of a run; None while nothing is known of any run."""
        return next(self._guesses(run, part), None)

    def _guesses(self, run: Run, part: Part) -> Iterator[float]:
        """Yield the paces that are known, the best first."""
        network = network_of(run)
        key = network, part, part == "training" and on_features(run)
        if (run.job_id, part) in self.of_jobs:
            yield self.of_jobs[run.job_id, part].each
        if key in self.of_networks:
            yield self.of_networks[key].each
        if not key[2]:  # other passes of images through the same network
            others: Iterable[Part] = ("features", "testing", "training")
            alike = ((other, self.of_networks.get((network, other, False))) for other in others)
            yield from (total.each * _PASSES[part] / _PASSES[other] for other, total in alike if total is not None)
        if key in self.earlier:
            yield self.earlier[key].each
        if key[2]:
            yield HEAD_SECONDS
        if (each := self._seconds_for_a_mac()) is not None:
            yield each * self._macs_of(network) * _PASSES[part]

    def _seconds_for_a_mac(self) -> float | None:
        whole = Total()
        for (network, part, of_head), total in self.of_networks.items():
            if not of_head:
                whole.add(total.seconds, total.number * self._macs_of(network) * _PASSES[part])
        return whole.each if whole.number else None

    def _macs_of(self, network: Network) -> float:
        return self.macs.get(network) or MACS_PER_PIXEL * network[1] ** 2


def parts_of(record: Record) -> list[tuple[Part, float, float]]:
    """Return (part, seconds, images) of a finished run: what it extracted, trained on (and validated), and tested."""
    extracted, tested = record.feature_seconds or 0.0, record.test_seconds or 0.0
    trained = (record.train_seconds or 0.0) - extracted + (record.validation_seconds or 0.0)
    return [
        ("features", extracted, record.train_images),
        ("training", trained, (record.images_per_epoch or 0) * (record.epochs_done or 0)),
        ("testing", tested, record.test_images),
    ]


def network_of(run: Run) -> Network:
    """Return the run's model and the image size that it sees."""
    return run.model, run.input.image_size


def on_features(run: Run) -> bool:
    """Return whether a run trains a head on features, as far as its recipe tells."""
    recipe = run.recipe
    changes = recipe.augment != "none" or recipe.mixup or recipe.cutmix
    return run.weights != "none" and recipe.trainable == "head" and recipe.bn_mode == "eval" and not changes


def images_of(run: Run, part: Part) -> float:
    """Return the number of images that go through the network in a part of a run."""
    return {
        "begin": 0,
        "features": run.dataset.train_images,
        "training": run.images_per_epoch * run.recipe.epochs,
        "testing": run.dataset.test_images,
    }[part]
