"""What a benchmark decides between trainings: variants to jobs, and how many seeds --until-ci still needs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from factories import DIGITS, job_of, record_of, result_of, stored_in

import bench.run
from bench.config.command_line import build_parser, parse
from bench.config.run import Options
from bench.errors import UserError
from bench.learning.data import datasets
from bench.reporting.entries import labels_of
from bench.reporting.formats import seed_list
from bench.reporting.store import Store
from bench.spec import Job, Recipe, Result
from bench.workflows.plan import Plan, make_plan
from bench.workflows.report import write_pages
from bench.workflows.run import Benchmark, connect_as


def test_each_variant_is_a_job_that_differs_in_what_it_says(tmp_path: Path) -> None:
    options = Options(
        models=("cnn",),
        dataset="synthetic",
        weights=("none",),
        epochs=7,
        variants=({"train_size": 100}, {"models": ["mobilenet"], "image_size": 64, "epochs": 1}),
    )

    jobs = make_plan(options).jobs

    assert [(job.model, job.recipe.epochs, job.recipe.train_size, job.recipe.image_size) for job in jobs] == [
        ("cnn", 7, 100, None),
        ("mobilenet", 1, None, 64),
    ]


@pytest.mark.parametrize(
    ("variant", "words"),
    [
        ({"batchsize": 3}, ["number 1", "'batchsize'", "batch_size"]),
        ({"epochs": 0}, ["number 1", "epochs", "greater than or equal to 1"]),
        ({"dataset": "mnist"}, ["number 1", "'dataset'"]),
        ({"train_size": 5000}, ["--train-size", "5,000"]),
    ],
)
def test_a_variant_that_cannot_be_is_refused(variant: dict[str, object], words: list[str]) -> None:
    with pytest.raises(UserError) as refused:
        make_plan(Options(models=("cnn",), dataset="synthetic", variants=(variant,)))

    assert all(word in str(refused.value) for word in words)


def test_a_target_is_judged_on_a_tenth_unless_another_size_is_asked_for() -> None:
    assert Options().recipe(4000).validation_size == 0
    assert Options(target_accuracy=0.9).recipe(4000).validation_size == 400
    assert Options(target_accuracy=0.9, validation_size=50).recipe(4000).validation_size == 50


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--seeds", "3407"], ["3,407 seeds of each; --seeds 3407 is a count; for the seed 3407 write --seed 3407"]),
        (["--seeds", "42"], ["42 seeds of each; --seeds 42 is a count; for the seed 42 write --seed 42"]),
        (["--seeds", "20"], []),
        (["--seed", "3407"], []),
        (["--seeds", "1", "3407"], []),
    ],
    ids=str,
)
def test_a_count_that_may_be_meant_as_a_seed_is_noted(words: list[str], expected: list[str]) -> None:
    parser = build_parser(Options, "bench.run", "")
    options = parse(parser, Options, ["--models", "cnn", "--dataset", "synthetic", *words])

    plan = make_plan(options)

    assert list(plan.notes) == expected
    assert len(plan.jobs[0].seeds) == len(options.chosen_seeds)


def test_a_cache_that_others_can_write_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    options = Options(models=("cnn",), dataset="synthetic")
    assert make_plan(options).notes == []
    tmp_path.chmod(0o777)
    note = f"features and decoded pictures are not kept: every user can write to {tmp_path} (BENCH_CACHE)"
    assert make_plan(options).notes == [note]


def test_many_seeds_are_printed_as_a_number() -> None:
    assert seed_list([3, 1]) == "3 1"
    assert seed_list(range(3407)) == "3,407, from 0 to 3406"


def test_jobs_of_one_model_are_told_apart_while_they_train() -> None:
    recipe = job_of().recipe
    jobs = [job_of(), job_of(recipe=recipe.model_copy(update={"lr": 0.5})), job_of("mobilenet")]

    labels = labels_of({job.job_id: vars(job) | vars(job.recipe) for job in jobs})

    assert list(labels.values()) == ["cnn (lr 0.001)", "cnn (lr 0.5)", "mobilenet"]


def benchmark_of(tmp_path: Path, *jobs: Job, **options: object) -> Benchmark:
    store = Store(tmp_path)
    store.prepare()
    plan = Plan(list(jobs), datasets.load("synthetic"), {"cnn": None}, None)
    return Benchmark(Options(models=("cnn",), **options), plan, store)


def finish(benchmark: Benchmark, accuracies: list[float]) -> None:
    for run, accuracy in zip(benchmark.jobs[0].runs(), accuracies, strict=True):
        outcome = result_of(record_of(seed=run.seed, test_accuracy=accuracy))
        benchmark.ended[run.id] = stored_in(benchmark.store, outcome)


def test_eager_mode_is_prepared_first_whatever_is_asked_for(tmp_path: Path) -> None:
    benchmark = benchmark_of(tmp_path, job_of(), backends=("onnxruntime", "compile"))

    assert benchmark._backends() == ["eager", "compile", "onnxruntime"]


def test_seeds_are_added_until_the_interval_is_narrow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark = benchmark_of(tmp_path, job_of(dataset=DIGITS, seeds=(0,)), until_ci=0.5, max_seeds=50)

    finish(benchmark, [0.98])
    (more,) = benchmark._too_wide()
    assert more.seeds == (1, 2)  # below three seeds there is no interval

    finish(benchmark, [0.98, 0.985, 0.982])
    (more,) = benchmark._too_wide()
    assert more.seeds[0] == 3
    assert len(more.seeds) <= 3  # at most twice as many as there were

    count = len(benchmark.jobs[0].seeds)
    finish(benchmark, [0.981 + 0.0001 * (seed % 3) for seed in range(count)])
    assert benchmark._too_wide() == []
    assert f"{count} seeds" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("recipes", "words"),
    [
        ([Recipe()], "(1,000 training and 200 test images)"),
        ([Recipe(train_size=500)], "(500 of 1,000 training and 200 test images)"),
        ([Recipe(validation_size=400)], "(600 of 1,000 training and 200 test images)"),
        ([Recipe(train_size=500), Recipe()], "(500 to 1,000 of 1,000 training and 200 test images)"),
    ],
)
def test_the_first_line_and_the_report_say_on_how_many_images_is_trained(
    recipes: list[Recipe], words: str, tmp_path: Path
) -> None:
    data = datasets.load("synthetic").info
    jobs = [job_of(dataset=data, recipe=recipe) for recipe in recipes]
    benchmark = benchmark_of(tmp_path, *jobs)

    assert f"training nothing on synthetic {words}" in benchmark._describe([], [])

    for recipe in recipes:
        benchmark.store.write(Result(record_of(dataset=data, recipe=recipe)))
    write_pages(benchmark.store)
    for page in ("summary.md", "report.html"):
        assert f"synthetic: {words[1:-1]}" in (tmp_path / page).read_text()


def test_seeds_are_added_to_runs_that_are_all_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"until_ci": 0.01, "max_seeds": 4, "no_timing": True}
    earlier = benchmark_of(tmp_path, job_of(dataset=DIGITS, seeds=(0, 1, 2)), **options)
    finish(earlier, [0.9, 0.95, 0.99])
    benchmark = benchmark_of(tmp_path, job_of(dataset=DIGITS, seeds=(0, 1, 2)), **options)
    asked_for: list[Job] = []
    monkeypatch.setattr(benchmark, "_with_ray", lambda missing, session: asked_for.extend(missing))

    benchmark.run()

    assert [job.seeds for job in asked_for] == [(3,)]


def test_seeds_end_at_the_most_allowed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark = benchmark_of(tmp_path, job_of(dataset=DIGITS, seeds=(0, 1, 2)), until_ci=0.01, max_seeds=4)

    finish(benchmark, [0.9, 0.95, 0.99])
    (more,) = benchmark._too_wide()
    assert more.seeds == (3,)
    finish(benchmark, [0.9, 0.95, 0.99, 0.93])
    assert benchmark._too_wide() == []

    said = capsys.readouterr().out
    assert "--max-seeds" in said
    assert "4 seeds" in said


@pytest.mark.parametrize(
    ("arguments", "lines", "first"),
    [([], 4, "No arguments: this compares"), (["--epochs", "1"], 1, "finding data and weights for cnn, mobilenet")],
)
def test_on_a_terminal_a_command_says_at_once_what_it_does(
    arguments: list[str], lines: int, first: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bench.workflows.run.run_benchmark", lambda options: 0)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)

    assert bench.run.main(arguments) == 0

    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == lines
    assert printed[0].startswith(first)


def test_a_command_that_starts_its_own_ray_beside_a_cluster_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    connect_as(Options())
    assert "--address auto uses the cluster at 10.0.0.1:6379" in capsys.readouterr().out
    connect_as(Options(address="auto"))
    assert capsys.readouterr().out == ""
