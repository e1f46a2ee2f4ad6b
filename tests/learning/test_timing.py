"""Timing alone: what is timed, how samples are kept, and that company on the machine is noticed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.learning import datasets, timing
from bench.learning.context import LocalContext
from bench.learning.datasets import Dataset
from bench.learning.execute import Inputs, execute
from bench.learning.models import MODELS
from bench.learning.timing import Subject, make_yardstick, time_models
from bench.learning.weights import find
from bench.spec import Job, Recipe, Timing


def subject_of(model: str, data: Dataset) -> Subject:
    weights = find("bundled", model, MODELS[model].sources) if model == "mobilenet" else None
    (run,) = Job(model=model, dataset=data.info, recipe=Recipe(epochs=1, batch_size=32)).runs()
    inputs = Inputs(data, weights)
    outcome = execute(run, inputs, LocalContext())
    assert outcome.checkpoint is not None
    return Subject(run, outcome.checkpoint, inputs)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "ROUNDS", 4)
    monkeypatch.setattr(timing, "BLOCK_SECONDS", 0.01)
    monkeypatch.setattr(timing, "WARM_UP_SECONDS", 0.0)
    monkeypatch.setattr(timing, "MOST_RETRIES", 0)


@pytest.mark.usefixtures("short")
def test_each_model_is_timed_in_every_way_and_every_round() -> None:
    data = datasets.load("synthetic")
    subjects = [subject_of(model, data) for model in ("cnn", "mobilenet")]

    rows = time_models(subjects, device="cpu", threads=1)

    for subject in subjects:
        for kind, batch_size in (("training", 32), ("inference", 1), ("inference", 250)):
            own = [row for row in rows if (row.run_id, row.kind, row.batch_size) == (subject.run.id, kind, batch_size)]
            assert [row.sample for row in own] == list(range(len(own)))
            assert len({row.measured_at for row in own}) == timing.ROUNDS
            assert all(row.seconds > 0 and row.yardstick_seconds is not None for row in own)
    assert {(row.device, row.threads, row.precision) for row in rows} == {("cpu", 1, "fp32")}


@pytest.fixture
def company() -> Iterator[None]:
    """Other processes that keep every processor busy."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    time.sleep(0.5)
    yield
    for process in busy:
        process.kill()
        process.wait()


@pytest.mark.usefixtures("company")
def test_company_on_the_machine_is_noticed() -> None:
    watch = timing._OthersShare()
    end = time.perf_counter() + 0.5
    while time.perf_counter() < end:
        pass

    assert watch.share() > timing.CONTENDED_SHARE


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What other processes used in each further round, instead of what they do."""
    shares: list[float] = []
    monkeypatch.setattr(timing._OthersShare, "share", lambda _: shares.pop(0))
    return shares


@pytest.mark.usefixtures("short")
def test_a_disturbed_round_is_timed_again_and_marked_if_that_does_not_help(
    rounds: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "MOST_RETRIES", 3)
    rounds += [0.0, 0.5, 0.01, 0.5, 0.3, 0.4, 0.5]  # good; once more; twice more in vain; no more

    rows = time_models([subject_of("cnn", datasets.load("synthetic"))], device="cpu", threads=1)

    single = {row.measured_at: row.contended for row in rows if (row.kind, row.batch_size) == ("inference", 1)}
    assert [single[moment] for moment in sorted(single)] == [False, False, True, True]
    assert rounds == []


@pytest.mark.usefixtures("short")
def test_slow_models_are_timed_in_fewer_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "LONGEST_SECONDS", 0)
    monkeypatch.setattr(timing, "FEWEST_ROUNDS", 2)

    rows = time_models([subject_of("cnn", datasets.load("synthetic"))], device="cpu", threads=1)

    assert len({row.measured_at for row in rows if row.kind == "training"}) == 2


def test_the_yardstick_is_the_same_work_and_leaves_the_random_numbers_alone() -> None:
    before = torch.random.get_rng_state()

    yardstick = make_yardstick("cpu")
    with FlopCounterMode(display=False) as counter:
        yardstick()

    assert counter.get_total_flops() == 578_088_960
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_timing_is_a_flat_row() -> None:
    assert {name for name, field in Timing.model_fields.items() if not field.description} == set()
