"""Ids that depend on what determines the result and on nothing else; records that keep unknown as null."""

from __future__ import annotations

import json
import re
from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from bench.spec import DatasetInfo, Deployment, EpochRecord, Job, Recipe, Record, Run, Status, Timing, slug

DATASET = {"name": "mnist", "sha256": "d" * 64, "train_images": 60000, "test_images": 10000, "classes": 10}
JOB = {
    "model": "cnn",
    "dataset": DATASET,
    "recipe": {"epochs": 3, "batch_size": 32, "lr": 0.01},
    "weights": "file mine.pth",
    "weights_sha256": "a" * 64,
    "workers": 2,
    "plugin_sha256": "b" * 64,
    "seeds": (4,),
}


def run_of(**changes: object) -> Run:
    return Job.model_validate({**JOB, **changes}).runs()[0]


def test_an_id_does_not_depend_on_the_order_of_fields() -> None:
    def turned(value: object) -> object:
        return {key: turned(value[key]) for key in reversed(value)} if isinstance(value, dict) else value

    assert Job.model_validate(turned(JOB)).runs()[0].id == run_of().id


def test_an_id_does_not_depend_on_the_order_of_jobs_or_seeds() -> None:
    def ids(models: list[str], seeds: tuple[int, ...]) -> set[str]:
        jobs = [Job.model_validate({**JOB, "model": model, "seeds": seeds}) for model in models]
        return {run.id for job in jobs for run in job.runs()}

    assert ids(["cnn", "mobilenet"], (0, 1, 7)) == ids(["mobilenet", "cnn"], (7, 0, 1))


@pytest.mark.parametrize(
    "change",
    [
        {"model": "mobilenet"},
        {"dataset": {**DATASET, "sha256": "c" * 64}},
        {"recipe": {**JOB["recipe"], "epochs": 4}},
        {"recipe": {**JOB["recipe"], "batch_size": 64}},
        {"recipe": {**JOB["recipe"], "lr": 0.02}},
        {"recipe": {**JOB["recipe"], "bn_mode": "train"}},
        {"weights_sha256": "c" * 64},
        {"weights_sha256": None},
        {"workers": 1},
        {"seeds": (5,)},
        {"plugin_sha256": "c" * 64},
        {"plugin_sha256": None},
    ],
    ids=str,
)
def test_an_id_differs_with_all_that_determines_the_result(change: dict[str, object]) -> None:
    assert run_of(**change).id != run_of().id


def test_an_id_does_not_depend_on_how_the_weights_are_called() -> None:
    assert run_of(weights="file renamed.pth").id == run_of().id


def test_runs_that_differ_only_in_the_seed_share_their_job_id() -> None:
    runs = Job.model_validate({**JOB, "seeds": (0, 1, 2)}).runs()

    assert [run.seed for run in runs] == [0, 1, 2]
    assert len({run.job_id for run in runs}) == 1
    assert len({run.id for run in runs}) == 3


def test_ids_stay_what_they_are_from_version_to_version() -> None:
    """If this fails, stored runs would be trained again or taken for others: keep the ids, or raise ID_VERSION."""
    plain = Job(model="cnn", dataset=DatasetInfo.model_validate(DATASET), recipe=Recipe()).runs()[0]

    assert run_of().id == "cnn-mnist-seed4-7931912a7227"
    assert plain.id == "cnn-mnist-seed0-c7174a8192fd"


@given(st.text() | st.from_regex(r"[./\\a :~]*", fullmatch=True))
def test_a_slug_is_one_plain_file_name(name: str) -> None:
    short = slug(name)

    assert re.fullmatch(r"[A-Za-z0-9._-]{1,40}", short)
    assert not short.startswith(".")  # neither hidden, nor '.' or '..'
    for path in (PurePosixPath("here", short), PureWindowsPath("here", short)):
        assert path.parent.name == "here"
        assert path.name == short


@given(st.text(alphabet="abcXYZ019._-", min_size=1, max_size=40).filter(lambda text: text[0] != "."))
def test_a_plain_name_is_its_own_slug(name: str) -> None:
    assert slug(name) == name


@given(st.text(max_size=80), st.text(max_size=80))
def test_models_whose_slugs_agree_still_have_ids_of_their_own(one: str, other: str) -> None:
    assert (run_of(model=one).id == run_of(model=other).id) == (one == other)


@pytest.mark.parametrize("status", Status)
def test_records_round_trip(status: Status, make_record) -> None:
    record = make_record(status=status, plugin_sha256="f" * 64, weights="file a.pth", weights_sha256="0" * 64)

    assert Record.model_validate(record.model_dump()) == record
    assert Record.model_validate(json.loads(record.model_dump_json())) == record


@pytest.mark.parametrize("row", [Record, EpochRecord, Timing, Deployment])
def test_every_column_but_version_numbers_says_what_it_means(row: type[BaseModel]) -> None:
    silent = {name for name, field in row.model_fields.items() if not field.description}

    assert {name for name in silent if not name.endswith("_version")} == set()


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"batch_size": 0}, {"lr": 0}, {"lr": float("nan")}, {"layers": 3}])
def test_a_recipe_refuses_nonsense(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Recipe.model_validate(wrong)
