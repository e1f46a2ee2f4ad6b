"""Timing alone: what is timed, how samples are kept, and that company on the machine is noticed."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from factories import CNN, built_in, weights_named
from torch.utils.flop_counter import FlopCounterMode

from bench.learning import energy, timing
from bench.learning.checkpoint import Trained
from bench.learning.context import LocalContext
from bench.learning.data import datasets
from bench.learning.data.datasets import Dataset
from bench.learning.execute import Inputs, execute
from bench.learning.timing import Subject, make_reference_step, time_inference, time_models
from bench.learning.timing_process import time_in_a_process
from bench.reporting.speed import summarise
from bench.spec import Job, Recipe, Timed, TimingProgress

pytestmark = pytest.mark.heavy


def subject_of(model: str, data: Dataset) -> Subject:
    weights = weights_named("bundled", model)
    form = built_in(model).input
    (run,) = Job(model=model, dataset=data.info, recipe=Recipe(epochs=1, batch_size=32), input=form).runs()
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
def test_each_model_is_timed_in_every_way_and_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    data = datasets.load("synthetic")
    subjects = [subject_of(model, data) for model in ("cnn", "mobilenet")]

    progress: list[TimingProgress] = []
    monkeypatch.setattr(timing, "REPORT_SECONDS", 0.0)

    measured = time_models(subjects, device="cpu", threads=1, report=progress.append)

    assert [each.prepared for each in progress if each.rounds_left is None][-1] == 2
    lefts = [each.rounds_left for each in progress if each.rounds_left is not None]
    assert len(lefts) == timing.ROUNDS - 1
    assert lefts[-1] < lefts[0]
    rows = measured.timings
    answers = (("inference", 1), ("inference", 250))
    ways = [
        [(subject.run.id, *way) for way in (*training, *answers)]
        for subject, training in zip(subjects, ((("training", 32),), (("extraction", 250), ("head", 32))), strict=True)
    ]
    assert {(row.run_id, row.kind, row.batch_size) for row in rows} == {way for each in ways for way in each}
    for each in ways:
        for way in each:
            own = [row for row in rows if (row.run_id, row.kind, row.batch_size) == way]
            assert [row.sample for row in own] == list(range(len(own)))
            assert len({row.measured_at for row in own}) == timing.ROUNDS
            assert all(row.seconds > 0 and row.reference_seconds is not None for row in own)
    assert {(row.backend, row.device, row.threads, row.precision) for row in rows} == {("eager", "cpu", 1, "fp32")}
    assert [(row.run_id, row.agreement) for row in measured.deployments] == [(one.run.id, 1.0) for one in subjects]


@pytest.mark.usefixtures("short")
def test_training_a_whole_model_does_not_change_the_one_that_answers() -> None:
    calls = list(timing._calls(subject_of("cnn", datasets.load("synthetic")), ["eager"], "cpu", 1, []))
    (step,) = (call.once for call in calls if call.kind == "training")
    (answer,) = (call.once for call in calls if (call.kind, call.batch_size) == ("inference", 250))
    before = answer()

    step()

    assert isinstance(before, torch.Tensor)
    assert torch.equal(before, answer())  # dropout is off


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

    rows = time_models([subject_of("cnn", datasets.load("synthetic"))], device="cpu", threads=1).timings

    single = {row.measured_at: row.contended for row in rows if (row.kind, row.batch_size) == ("inference", 1)}
    assert [single[moment] for moment in sorted(single)] == [False, False, True, True]
    assert rounds == []


@pytest.mark.usefixtures("short")
def test_slow_models_are_timed_in_fewer_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "LONGEST_SECONDS", 0)
    monkeypatch.setattr(timing, "FEWEST_ROUNDS", 2)

    rows = time_models([subject_of("cnn", datasets.load("synthetic"))], device="cpu", threads=1).timings

    assert len({row.measured_at for row in rows if row.kind == "training"}) == 2


def test_the_reference_step_is_the_same_work_and_leaves_the_random_numbers_alone() -> None:
    before = torch.random.get_rng_state()

    step = make_reference_step("cpu")
    with FlopCounterMode(display=False) as counter:
        step()

    assert counter.get_total_flops() == 578_088_960
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.usefixtures("short")
def test_one_image_is_timed_by_the_same_code() -> None:
    subject = subject_of("cnn", datasets.load("synthetic"))
    trained = Trained(CNN.build(10).eval(), CNN, subject.inputs.dataset.class_names, {})

    seconds, threads = time_inference(trained, subject.inputs.dataset.test.images[:1], rounds=3)

    assert len(seconds) >= 3
    assert 0 < seconds.min() < 5
    assert threads == torch.get_num_threads()


def test_a_process_of_its_own_times_the_same_and_says_why_it_failed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, modules_after: Callable[[str], set[str]]
) -> None:
    subject = subject_of("cnn", datasets.load("synthetic"))

    *progress, measured = time_in_a_process([subject], backends=(), device="cpu", threads=1)

    assert progress[0] == TimingProgress(1)
    assert all(isinstance(each, TimingProgress) for each in progress)
    assert isinstance(measured, Timed)
    file = tmp_path / "timed"
    file.write_bytes(pickle.dumps([*progress, measured]))
    reading = f"import pickle; pickle.load(open({str(file)!r}, 'rb'))"
    assert "torch" not in modules_after(reading), "the driver would import torch, which takes seconds"
    assert {(row.kind, row.batch_size) for row in measured.timings} == {
        ("training", subject.run.recipe.batch_size),
        ("inference", 1),
        ("inference", 250),
    }
    assert {row.run_id for row in measured.timings} == {subject.run.id}
    assert [row.backend for row in measured.deployments] == ["eager"]
    monkeypatch.setenv("PYTHONMALLOC", "no such thing")  # with which no Python starts
    with pytest.raises(RuntimeError):
        list(time_in_a_process([subject], backends=(), device="cpu", threads=1))


class Counting:
    """A meter that has counted 3 J whenever it is read."""

    def joules(self) -> float:
        return 3.0


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("meter", [Counting(), None], ids=["counted", "not counted"])
def test_energy_is_stored_where_something_counts_it(meter: Counting | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "SECONDS", 0.0)  # one call
    monkeypatch.setattr(energy, "meter_of", lambda device: meter)
    subject = subject_of("cnn", datasets.load("synthetic"))

    rows = time_models([subject], device="cpu", threads=1).timings

    counted = {(row.kind, row.batch_size): row.joules_per_image for row in rows}
    answered = {1: 3.0, 250: 3.0 / 250} if meter is not None else {1: None, 250: None}
    assert counted == {("training", 32): None} | {("inference", size): each for size, each in answered.items()}
    speeds = summarise([rows])
    assert speeds.batches is not None
    assert speeds.batches.joules_per_image == answered[250]
