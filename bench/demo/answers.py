"""The answers of the trained models in a results folder to a picture. This module does not depend on the page."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.demo.drawing import to_mnist
from bench.errors import UserError
from bench.learning.checkpoint import Trained, load_trained
from bench.learning.evaluation import probabilities
from bench.learning.models import weights
from bench.reporting.entries import labels_of
from bench.reporting.files import State, listed, local_copy
from bench.reporting.store import Store
from bench.storage import Place

ENDING = ".safetensors"
TOP = 3
"""The number of classes that an answer names."""


@dataclass(frozen=True)
class Answer:
    """The answer of one model to a picture."""

    model: str
    """A name that no other answer has: the label, and the seed where several seeds were trained."""
    label: str
    """The name of the job, as in the report: the model, and what differs among its jobs."""
    test_accuracy: float | None
    """The share of test images classified right, of the data set trained on; None if the checkpoint does not say."""
    dataset: str | None
    """The name of the data set trained on; None if the checkpoint does not say."""
    class_names: tuple[str, ...]
    top: list[tuple[str, float]]
    """The most probable classes with their probabilities, best first."""
    milliseconds: float
    """The time for the answer, without preprocessing."""


@dataclass(frozen=True)
class Answers:
    """The answers of all models to one picture."""

    seen: NDArray[np.uint8] | None
    """uint8 [28, 28]: the image that the models were shown; None if the picture holds no ink."""
    answers: list[Answer]
    preprocessing_ms: float = 0.0
    problems: tuple[str, ...] = ()
    """A line for each checkpoint that cannot be used."""


class Shelf:
    """The checkpoints in a results folder, each loaded once, and again if its file has changed."""

    def __init__(self, results: Place) -> None:
        self.folder = results / "checkpoints"
        self._loaded: dict[tuple[str, State], Trained | str] = {}
        """A model, or why it cannot be used, by the name and state of its file."""
        self._named: dict[str, tuple[str, str]] = {}
        self._lock = threading.Lock()  # the page answers several visitors at once

    def models(self) -> tuple[dict[str, Trained], tuple[str, ...]]:
        """Return (models by run id, a line for each checkpoint that cannot be used), as the folder is now."""
        loaded = {}
        with self._lock:
            for key in listed(self.folder, ENDING).items():
                with suppress(FileNotFoundError):  # deleted just now
                    loaded[key] = self._loaded.get(key) or _load(self.folder / key[0])
            self._loaded = loaded
        models = {name.removesuffix(ENDING): entry for (name, _), entry in loaded.items() if isinstance(entry, Trained)}
        return models, tuple(entry for entry in loaded.values() if isinstance(entry, str))

    def answer(self, picture: Image.Image) -> Answers:
        """Show ``picture`` to every model as an MNIST digit; return the answers, those of the best model first."""
        start = time.perf_counter()
        seen = to_mnist(picture)
        preprocessing_ms = 1000 * (time.perf_counter() - start)
        models, problems = self.models()
        if seen is None:
            return Answers(None, [], preprocessing_ms, problems)
        names = self._names(models)
        answers = []
        for run_id, trained in models.items():
            start = time.perf_counter()
            shares = probabilities(trained, seen[None, None])[0]
            milliseconds = 1000 * (time.perf_counter() - start)
            best = np.argsort(-shares, kind="stable")[:TOP]
            answers.append(
                Answer(
                    model=names[run_id][1],
                    label=names[run_id][0],
                    test_accuracy=_number(trained.about.get("test_accuracy")),
                    dataset=trained.about.get("dataset"),
                    class_names=trained.class_names,
                    top=[(trained.class_names[k], float(shares[k])) for k in best],
                    milliseconds=milliseconds,
                )
            )
        answers.sort(key=lambda answer: -(answer.test_accuracy or 0.0))
        return Answers(seen, answers, preprocessing_ms, problems)

    def _names(self, models: Mapping[str, Trained]) -> dict[str, tuple[str, str]]:
        """Return (label of the job, name of the run) by run id; a checkpoint without a record is called by its file."""
        if self._named.keys() != models.keys():
            records = {record.run_id: record for record in Store(self.folder.parent).records()[0]}
            there = [records[run_id] for run_id in models if run_id in records]
            labels = labels_of({record.job_id: vars(record) for record in there})
            self._named = {}
            seeds = Counter(record.job_id for record in there)
            alone = len(models) == 1
            for run_id, trained in models.items():
                name = trained.spec.name if alone else run_id
                self._named[run_id] = name, name
            for record in there:
                label = labels[record.job_id]
                name = f"{label}, seed {record.seed}" if seeds[record.job_id] > 1 else label
                self._named[record.run_id] = label, name
        return self._named


def _load(file: Place) -> Trained | str:
    try:
        with local_copy(file) as copy:
            stored = weights.read(copy, f"file {file.name}")
        trained = load_trained(stored)
        probabilities(trained, np.zeros((1, 1, 28, 28), dtype=np.uint8))  # the first call is slow
        return trained
    except UserError as error:
        return str(error)


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
