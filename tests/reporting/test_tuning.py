"""What came of a sweep: the winner, the expected best, the cost, the page."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from factories import DIGITS, START, job_of, recorded
from hypothesis import given
from hypothesis import strategies as st

from bench.config.space import Range, Space
from bench.reporting.store import Store
from bench.reporting.sweeps import (
    Sweep,
    Swept,
    Trial,
    at_the_edge,
    choose,
    cost_of,
    expected_best,
    read_sweeps,
    read_swept,
    scores_of,
    trials_of,
    write_sweep,
)
from bench.reporting.tuning import render_tuning, sections, write_tuning
from bench.spec import EpochRecord, Recipe, Record, Result, Status

SCORES = st.lists(st.floats(min_value=0, max_value=1), min_size=1, max_size=8)


def sweep_of(**changes: Any) -> Sweep:
    about: dict[str, Any] = {
        "sweep_id": "1a2b3c4d",
        "model": "cnn",
        "dataset": DIGITS,
        "weights": "none",
        "weights_sha256": None,
        "plugin_sha256": None,
        "recipe": Recipe(validation_size=400),
        "space": Space(ranges={"lr": Range(low=1e-4, high=1e-1, log=True)}),
        "seeds": (0,),
        "search": "random",
        "search_seed": 0,
        "scheduler": "asha",
        "grace_period": 1,
        "reduction_factor": 3.0,
        "trials": 4,
        "gpus_per_trial": 0.0,
        "started_at": START,
        "finished_at": START,
    }
    return Sweep.model_validate(about | changes)


def trial_record(lr: float, accuracy: float | None, status: Status = Status.OK, **more: Any) -> Record:
    seed = more.pop("seed", 0)
    recipe = Recipe(lr=lr, validation_size=400, **more.pop("recipe", {}))
    run = job_of(
        more.pop("model", "cnn"), recipe=recipe, judged_on="validation", sweep_id="1a2b3c4d", seeds=(seed,)
    ).runs()[0]
    measured = {"threads": 1, "device": "cpu", "epochs_done": 5, "train_seconds": 4.0} | more
    times = {"started_at": START, "ended_at": START + timedelta(seconds=10)}
    return recorded(run, status=status, validation_accuracy=accuracy, **times, **measured)


def trials(*records: Record, seeds: int = 1) -> list[Trial]:
    return trials_of(sweep_of(seeds=tuple(range(seeds))), records)


# --- the winner ------------------------------------------------------------------------------------------------------


def test_the_most_accurate_wins_and_of_several_the_lowest_learning_rate() -> None:
    best = choose(trials(trial_record(0.1, 0.9), trial_record(0.01, 0.98), trial_record(0.001, 0.98)))
    assert best is not None
    assert best.values == {"lr": 0.001}


@pytest.mark.parametrize("status", [Status.DIVERGED, Status.FAILED, Status.INTERRUPTED, Status.OOM, Status.TIMEOUT])
def test_what_did_not_finish_never_wins(status: Status) -> None:
    better = trial_record(0.1, 0.99, status, reason="nan")
    best = choose(trials(better, trial_record(0.01, 0.5)))
    assert best is not None
    assert best.values == {"lr": 0.01}
    assert choose(trials(better)) is None


def test_a_stopped_trial_wins_only_where_none_was_trained_to_the_end() -> None:
    stopped = trial_record(0.1, 0.99, Status.STOPPED)
    best = choose(trials(stopped, trial_record(0.01, 0.5)))
    assert best is not None
    assert best.values == {"lr": 0.01}
    alone = choose(trials(stopped))
    assert alone is not None
    assert alone.values == {"lr": 0.1}
    assert choose([]) is None


def test_the_score_is_the_mean_over_the_seeds_and_a_trial_without_all_of_them_is_not_done() -> None:
    lucky = [trial_record(0.1, 0.99, seed=0), trial_record(0.1, 0.51, seed=1)]
    steady = [trial_record(0.01, 0.8, seed=0), trial_record(0.01, 0.8, seed=1)]
    half = [trial_record(0.001, 1.0, seed=0)]
    found = trials(*lucky, *steady, *half, seeds=2)
    assert {trial.values["lr"]: trial.status for trial in found}[0.001] is Status.INTERRUPTED
    best = choose(found)
    assert best is not None
    assert best.values == {"lr": 0.01}
    assert best.score == pytest.approx(0.8)


def test_a_seed_that_diverged_spoils_its_trial() -> None:
    found = trials(
        trial_record(0.1, 0.99, seed=0), trial_record(0.1, None, Status.DIVERGED, seed=1, reason="nan"), seeds=2
    )
    assert found[0].status is Status.DIVERGED
    assert choose(found) is None


def test_records_of_other_sweeps_and_of_runs_are_no_trials(make_record: Callable[..., Record]) -> None:
    other = trial_record(0.1, 0.9).model_copy(update={"sweep_id": "another"})
    assert trials(other, make_record()) == []


# --- the expected best -----------------------------------------------------------------------------------------------


@given(SCORES)
def test_the_expected_best_is_the_mean_over_all_choices(scores: list[float]) -> None:
    brute = [
        statistics.fmean(max(chosen) for chosen in itertools.combinations(scores, k)) for k in range(1, len(scores) + 1)
    ]
    assert expected_best(scores) == pytest.approx(brute, abs=1e-12)


@given(SCORES)
def test_the_expected_best_grows_from_the_mean_to_the_best(scores: list[float]) -> None:
    curve = expected_best(scores)
    assert curve[0] == pytest.approx(statistics.fmean(scores), abs=1e-12)
    assert curve[-1] == pytest.approx(max(scores), abs=1e-12)
    assert all(later >= earlier - 1e-12 for earlier, later in itertools.pairwise(curve))
    assert all(statistics.fmean(scores) - 1e-12 <= value <= max(scores) for value in curve)


def test_a_diverged_trial_counts_as_a_guess_and_a_failed_one_not_at_all() -> None:
    found = trials(
        trial_record(0.1, None, Status.DIVERGED),
        trial_record(0.01, None, Status.FAILED),
        trial_record(0.001, 0.7, Status.STOPPED),
        trial_record(0.0001, 0.9),
    )
    assert sorted(scores_of(found)) == [0.1, 0.7, 0.9]
    assert expected_best([]) == []


# --- cost and warnings -----------------------------------------------------------------------------------------------


def test_the_cost_is_what_the_trials_held() -> None:
    found = trials(
        trial_record(0.1, 0.9, threads=2),  # 10 s by the clock
        trial_record(0.01, 0.9, Status.STOPPED, train_seconds=20.0, validation_seconds=1.0, epochs_done=2),  # resumed
        trial_record(0.001, None, Status.DIVERGED, epochs_done=None),
    )
    cost = cost_of(sweep_of(), found)
    assert (cost.trials, cost.stopped, cost.diverged, cost.unfinished, cost.epochs) == (3, 1, 1, 0, 7)
    assert cost.cpu_seconds == pytest.approx(10 * 2 + 21 + 10)
    assert str(cost) == "3 trials, 7 epochs, 51 CPU s"
    assert Swept(sweep_of(), found, None, []).source == f"sweep 1a2b3c4d: {cost}"


def test_on_a_gpu_its_share_is_what_counts() -> None:
    cost = cost_of(sweep_of(gpus_per_trial=0.5), trials(trial_record(0.1, 0.9, device="NVIDIA H100", threads=4)))
    assert cost.cpu_seconds == 0
    assert str(cost) == "1 trial, 5 epochs, 5 GPU s"


@pytest.mark.parametrize(
    ("best", "said"),
    [(0.0001, "is the lowest tried: a better one may lie below"), (0.1, "highest tried"), (0.01, None)],
)
def test_a_best_value_at_the_edge_is_warned_of(best: float, said: str | None) -> None:
    found = trials(*(trial_record(lr, 0.9 if lr == best else 0.5) for lr in (0.0001, 0.001, 0.01, 0.1)))
    winner = choose(found)
    assert winner is not None
    warnings = at_the_edge(sweep_of(), found, winner)
    assert [said in warning for warning in warnings] == ([True] if said else [])


def test_a_diverged_neighbour_shows_that_the_edge_was_passed() -> None:
    found = trials(trial_record(0.001, 0.5), trial_record(0.01, 0.9), trial_record(0.1, None, Status.DIVERGED))
    winner = choose(found)
    assert winner is not None
    assert at_the_edge(sweep_of(), found, winner) == []


def test_of_two_listed_values_one_is_always_at_the_edge_which_is_no_news() -> None:
    sweep = sweep_of(space=Space(lists={"batch_size": (32, 64)}))
    found = trials_of(
        sweep, [trial_record(0.1, score, recipe={"batch_size": n}) for n, score in ((32, 0.9), (64, 0.8))]
    )
    winner = choose(found)
    assert winner is not None
    assert winner.values == {"batch_size": 32}
    assert at_the_edge(sweep, found, winner) == []


# --- the store and the pages -----------------------------------------------------------------------------------------


def test_sweeps_are_read_back_the_latest_first_and_foreign_files_left_out(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.prepare()
    older = sweep_of(sweep_id="older", finished_at=START.replace(hour=1))
    for sweep in (older, sweep_of()):
        write_sweep(store, sweep)
    (tmp_path / "sweeps" / "torn.json").write_text("{")
    assert read_sweeps(tmp_path) == [sweep_of(), older]


def test_the_page_says_what_was_found_and_what_it_cost(tmp_path: Path, make_record: Callable[..., Record]) -> None:
    store = Store(tmp_path)
    store.prepare()
    write_sweep(store, sweep_of())
    records = [
        trial_record(0.0001, 0.9, Status.STOPPED, reason="others | were better"),
        trial_record(0.01, 0.98),
        trial_record(0.1, None, Status.DIVERGED, reason="the loss is nan"),
    ]
    for record in records:
        epochs = [
            EpochRecord(run_id=record.run_id, epoch=1, train_loss=1, train_accuracy=0.5, seconds=1, images_per_second=1)
        ]
        store.write(Result(record, epochs))
    store.write(Result(make_record(lr_source="sweep 1a2b3c4d: 3 trials", test_accuracy=0.97)))
    store.write(Result(make_record(seed=1, lr_source=None, test_accuracy=0.5)))
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "mnist-5k-0123-accuracy-lr.svg").touch()
    swept = read_swept(store)
    page = write_tuning(store, swept)
    assert page is not None
    text = page.read_text()
    assert "validation accuracy 98.00 % on 400 held-out images" in text
    assert "spent: 3 trials, 15 epochs, 30 CPU s; 1 stopped early, 1 diverged" in text
    assert "retrained on all training images: test accuracy 97.00 %" in text
    assert "98.00 % (best)" in text
    assert r"others \| were better" in text
    assert "](plots/mnist-5k-0123-accuracy-lr.svg)" in text
    assert "Dodge" in text
    assert "\n".join(sections(swept)).startswith("## Sweeps")
    assert render_tuning(swept) == render_tuning(swept)


def test_without_sweeps_there_is_no_page(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.prepare()
    assert write_tuning(store, read_swept(store)) is None
    assert sections([]) == []
