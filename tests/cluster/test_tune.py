"""Sweeps on a real Ray, started once: scores, stops, divergence; and the parts that need none."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.tune.search import Searcher

from bench.cluster.proposals import OptunaProposals
from bench.cluster.session import Session, connect
from bench.cluster.tune import Halving, ModelSweep, _Judge, _SideBySide
from bench.config.space import Range, Space, Values
from bench.config.tune import TuneOptions
from bench.learning.data.datasets import Dataset
from bench.learning.inputs import Inputs
from bench.reporting.store import Store
from bench.reporting.sweeps import read_swept
from bench.spec import Job, Recipe, Record, Status
from bench.workflows.plan import Plan
from bench.workflows.sweep_progress import SweepView
from bench.workflows.tune import Search

GOOD_FIRST = 0
"""The search seed with which the first of two listed values is drawn first."""
RATES = (1e-3, 1e-2, 10.0)


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with connect(None) as connected:
        yield connected


def search(folder: Path, data: Dataset, **asked: Any) -> Search:
    options = TuneOptions.model_validate(
        {
            "models": "cnn",
            "optimizer": "sgd",
            "batch_size": 20,
            "epochs": 2,
            "results": folder,
            "cpus_per_worker": 2,  # one process that imports torch is enough here
            **asked,
        }
    )
    store = Store(folder)
    store.prepare()
    job = Job(model="cnn", dataset=data.info, recipe=options.recipe(data.info.train_images))
    return Search(options, Plan([job], data, {"cnn 28": Inputs(data, None)}), store, *options.searched())


def by_rate(folder: Path) -> dict[float, Record]:
    return {record.lr: record for record in Store(folder).records()[0]}


def test_test_labels_change_nothing_and_what_diverges_is_never_chosen(
    session: Session, tiny: Dataset, tmp_path: Path
) -> None:
    test = tiny.test
    labels = np.random.default_rng(0).permutation(test.labels)
    permuted = dataclasses.replace(tiny, test=dataclasses.replace(test, labels=labels))
    asked = {"lr_grid": RATES, "scheduler": "fifo", "validation_size": 50}
    winners = {}
    for name, data in (("as it is", tiny), ("permuted", permuted)):
        one = search(tmp_path / name, data, **asked)
        one.search(session)
        winners[name] = one.winners()

    found, other = by_rate(tmp_path / "as it is"), by_rate(tmp_path / "permuted")
    assert set(found) == set(other) == set(RATES)
    for rate, record in found.items():
        assert record.validation_accuracy == other[rate].validation_accuracy
        assert record.model_sha256 == other[rate].model_sha256
        assert record.test_accuracy is record.test_loss is record.checkpoint is None
        assert record.judged_on == "validation"
    assert not list((tmp_path / "as it is" / "predictions").iterdir())
    (winner,), (same,) = winners.values()
    assert winner.recipe == same.recipe
    assert (winner.judged_on, winner.sweep_id, winner.recipe.validation_size) == ("test", None, 0)

    diverged = found[10.0]
    assert diverged.status is Status.DIVERGED
    assert "nan" in (diverged.reason or "") or "inf" in (diverged.reason or "")
    finished = [record for record in found.values() if record.status is Status.OK]
    assert {record.lr for record in finished} >= {1e-3, 1e-2}
    best = max(record.validation_accuracy or 0 for record in finished)
    assert found[winner.recipe.lr].status is Status.OK
    assert found[winner.recipe.lr].validation_accuracy == best
    assert (winner.lr_source or "").startswith("sweep ")
    (swept,) = read_swept(Store(tmp_path / "as it is"))
    assert swept.cost.diverged == 1
    assert swept.sweep.finished_at is not None

    # The same again finds everything there: nothing left to train.
    again = search(tmp_path / "as it is", tiny, **asked)
    assert again.left() == 0
    assert [job.recipe for job in again.winners()] == [winner.recipe]


@pytest.mark.slow
def test_more_trials_go_on_with_the_sweep_and_are_judged_by_the_earlier_ones(
    session: Session, tiny: Dataset, tmp_path: Path
) -> None:
    good, hopeless = 0.003, 1e-9
    asked = {"lr_grid": (good, hopeless), "optimizer": "adam", "epochs": 3, "seeds": (0, 1), "search_seed": GOOD_FIRST}
    search(tmp_path, tiny, **asked, trials=1).search(session)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "runs").glob("*.parquet")}
    assert {record.lr for record in Store(tmp_path).records()[0]} == {good}
    assert len(before) == 2

    more = search(tmp_path, tiny, **asked)
    assert more.left() == 1
    more.search(session)
    done = {(record.lr, record.seed): record for record in Store(tmp_path).records()[0]}
    assert all(file.stat().st_mtime_ns == time for file, time in before.items())
    assert [done[good, seed].status for seed in (0, 1)] == [Status.OK, Status.OK]
    stopped = done[hopeless, 0]
    assert (stopped.status, stopped.epochs_done) == (Status.STOPPED, 1)
    assert stopped.validation_accuracy is not None
    assert len(Store(tmp_path).epochs(stopped.run_id)) == 1
    assert (hopeless, 1) not in done  # the other seeds are for trials that are not stopped
    (swept,) = read_swept(Store(tmp_path))
    assert (swept.cost.trials, swept.cost.stopped, swept.cost.epochs) == (2, 1, 7)
    assert [job.recipe.lr for job in more.winners()] == [good]


def test_a_time_budget_ends_the_search_and_what_was_begun_goes_on_later(
    session: Session, tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Time is over as soon as a trial has done two epochs.
    show = SweepView.epoch
    now = [0.0]

    def epoch(self: SweepView, run_id: str, accuracies: Sequence[float]) -> None:
        show(self, run_id, accuracies)
        now[0] += len(accuracies) >= 2

    monkeypatch.setattr(SweepView, "epoch", epoch)
    monkeypatch.setattr("bench.cluster.tune.time", SimpleNamespace(monotonic=lambda: now[0]))
    asked = {"lr_grid": (0.001, 0.01, 0.1), "scheduler": "fifo", "epochs": 100, "time_budget": 0.5}
    store = Store(tmp_path)
    search(tmp_path, tiny, **asked).search(session)
    begun = store.records()[0]
    assert begun
    assert {record.status for record in begun} == {Status.INTERRUPTED}
    assert all("time budget" in (record.reason or "") for record in begun)
    epochs = {record.run_id: len(store.epochs(record.run_id)) for record in begun}
    assert max(epochs.values()) >= 2
    assert {file.stem for file in (tmp_path / "unfinished").iterdir()} <= set(epochs)

    again = search(tmp_path, tiny, **asked)
    assert again.left() == 3
    assert again.winners() == []
    # tests/test_tune.py kills a whole sweep, and lets it go on


# --- parts that need no Ray ------------------------------------------------------------------------------------------


def judge(halving: Halving | None, history: Mapping[str, Sequence[float]] | None = None) -> _Judge:
    sweep = ModelSweep("cnn", [], 0, halving, history=history or {})
    return _Judge([sweep], stop=lambda run: None, tell=lambda row: None, lost=lambda lost: None)


def test_half_of_the_trials_go_on_at_each_rung() -> None:
    one = judge(Halving(epochs=8, grace_period=2, reduction_factor=2))
    assert one.judge("cnn", "first", 1, 0.1)  # nobody to compare with, and grace
    assert one.judge("cnn", "first", 2, 0.1)
    assert one.judge("cnn", "better", 2, 0.2)
    assert not one.judge("cnn", "worse", 2, 0.05)
    assert one.judge("cnn", "first", 3, 0.01)  # no rung


def test_earlier_trials_count_and_an_interrupted_one_is_the_same_when_it_goes_on() -> None:
    one = judge(Halving(epochs=8, grace_period=1, reduction_factor=2), {"a": [0.9, 0.95], "b": [0.8]})
    assert not one.judge("cnn", "new", 1, 0.5)
    assert one.judge("cnn", "b", 1, 0.1)  # was judged at this rung before
    assert judge(None).judge("cnn", "new", 1, 0.0)


def test_trials_are_dealt_out_so_that_no_model_waits_for_another(tiny: Dataset) -> None:
    def jobs(model: str, count: int) -> list[Job]:
        return [Job(model=model, dataset=tiny.info, recipe=Recipe(lr=0.1 + number)) for number in range(count)]

    announced: list[Job] = []
    sweeps = [ModelSweep("a", jobs("a", 4), 0), ModelSweep("b", jobs("b", 2), 0)]
    dealer = _SideBySide(sweeps, announced.append)
    for number in range(4):  # as many as there are places
        dealer.suggest(f"{number}")
    assert sorted(job.model for job in announced) == ["a", "a", "b", "b"]
    dealer.on_trial_complete("0")
    dealer.suggest("4")
    dealer.suggest("5")
    assert dealer.suggest("6") == Searcher.FINISHED
    assert [job.model for job in announced].count("a") == 4


def test_optuna_proposes_what_is_new_and_learns_from_what_is_known(tiny: Dataset) -> None:
    pytest.importorskip("optuna")
    space = Space(ranges={"lr": Range(low=1e-4, high=1e-1, log=True)}, lists={"batch_size": (16, 32)})

    def job_of(values: Values) -> Job:
        return Job(model="cnn", dataset=tiny.info, recipe=Recipe.model_validate(values))

    taken = job_of({"lr": 0.01, "batch_size": 16}).job_id
    known = [({"lr": 0.01, "batch_size": 16}, 0.9), ({"lr": 0.0001, "batch_size": 32}, 0.1)]
    proposals = OptunaProposals(space, job_of, scores=known, taken=[taken], count=12, seed=0)
    found = []
    while (job := proposals.propose()) is not None:
        found.append(job)
        proposals.told(job.job_id, None if len(found) % 3 == 0 else 1 - abs(math.log10(job.recipe.lr) + 2))
    assert len(found) == 12
    ids = {job.job_id for job in found}
    assert len(ids) == 12
    assert taken not in ids
    assert all(1e-4 <= job.recipe.lr <= 1e-1 and job.recipe.batch_size in (16, 32) for job in found)
