"""A small trained result for the tests of what is done with trained models: bench.evaluate, bench.export, the page."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.learning.context import LocalContext
from bench.learning.data import datasets
from bench.learning.data.datasets import Dataset
from bench.learning.execute import Inputs, execute
from bench.reporting.store import Store
from bench.spec import Job, Recipe, Record
from bench.workflows.record import assemble


@dataclass(frozen=True)
class Results:
    folder: Path
    data: Dataset
    record: Record
    """Of the CNN that was trained best."""

    @property
    def checkpoint(self) -> Path:
        return self.folder / str(self.record.checkpoint)


@functools.cache
def trained() -> Results:
    """A results folder with two CNNs trained on mnist-5k in this process, without Ray; once for all tests.

    Tests that write into it take a copy.
    """
    folder = Path(tempfile.mkdtemp(prefix="bench-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    data = datasets.load("mnist-5k")
    store = Store(folder)
    store.prepare()
    records = []
    for epochs in (3, 1):
        (run,) = Job(model="cnn", dataset=data.info, recipe=Recipe(epochs=epochs)).runs()
        result = assemble(run, execute(run, Inputs(data, None), LocalContext(threads=1)))
        store.write(result)
        records.append(result.record)
    return Results(folder, data, records[0])


def mnist_folder() -> Path:
    """The folder with the whole MNIST; the test is skipped where there is none."""
    folder = os.environ.get("BENCH_MNIST_DIR")
    if not folder:
        pytest.skip("needs the whole MNIST: BENCH_MNIST_DIR is not set")
    return Path(folder).absolute()
