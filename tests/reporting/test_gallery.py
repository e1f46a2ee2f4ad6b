"""Which plots a results folder gets: python -m pytest tests/reporting/test_gallery.py"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import recorded, stored_in
from PIL import Image

from bench.config.space import Range, Space
from bench.learning.data import datasets
from bench.reporting import gallery, images, mistakes, plots, style
from bench.reporting.entries import Entry, comparisons
from bench.reporting.gallery import Gallery, data_key, draw
from bench.reporting.html import write_report
from bench.reporting.mistakes import best_jobs
from bench.reporting.store import Store
from bench.reporting.summary import look, write_summary
from bench.reporting.sweeps import Sweep, write_sweep
from bench.reporting.tables import confused_table
from bench.spec import DatasetInfo, EpochRecord, Job, Predictions, Recipe, Record, Result, Status, Timing

Make = Callable[..., Record]
START = datetime(2026, 1, 2, tzinfo=UTC)
LABELS = (np.arange(1000) % 10).astype(np.int16)
PIXELS = np.random.default_rng(0).integers(0, 256, (1000, 1, 8, 8), dtype=np.uint8)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "results")
    store.prepare()
    return store


@pytest.fixture(autouse=True)
def no_pngs(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take most of the time and say nothing here."""
    monkeypatch.setattr(style, "png", lambda figure: b"a picture")


def answers(wrong: slice) -> Predictions:
    """Right but for some images."""
    predicted = LABELS.copy()
    predicted[wrong] = (predicted[wrong] + 1) % 10
    return Predictions(LABELS, predicted, np.linspace(0.5, 1, 1000, dtype=np.float32))


def keep(store: Store, record: Record, said: Predictions | None = None, *, epochs: int = 0) -> Record:
    rows = [
        EpochRecord(run_id=record.run_id, epoch=one, train_loss=1.0, train_accuracy=0.5, seconds=1, images_per_second=1)
        for one in range(1, epochs + 1)
    ]
    return stored_in(store, Result(record, rows, said))


def timed(store: Store, record: Record, milliseconds: float, **fields: Any) -> None:
    known = {"kind": "inference", "backend": "eager", "batch_size": 1, "contended": False, "device": "cpu"}
    known |= {"threads": 2} | fields
    rows = [
        Timing(
            run_id=record.run_id,
            sample=sample,
            seconds=milliseconds / 1000,
            precision="fp32",
            measured_at=START,
            **known,
        )
        for sample in range(5)
    ]
    store.write_timings(record.run_id, rows)


def drawn(store: Store) -> Gallery:
    records, _ = store.records()
    (found,) = draw(store, records, comparisons(records, store)).values()
    return found


def names(found: Gallery) -> list[str]:
    return [plot.name.removeprefix("mnist-5k-") for plot in found.plots]


def test_curves_of_one_epoch_are_not_drawn(store: Store, make_record: Make) -> None:
    keep(store, make_record(test_accuracy=0.9), epochs=1)
    found = drawn(store)
    assert names(found) == ["accuracy", "accuracy-parameters"]
    assert "Every run has one epoch, so there are no learning curves." in found.notes

    keep(store, make_record("mobilenet", test_accuracy=0.8), epochs=2)
    assert "learning-curves" in names(drawn(store))


def test_each_plot_is_an_svg_and_a_png_and_has_a_title(store: Store, make_record: Make) -> None:
    keep(store, make_record(test_accuracy=0.9), epochs=2)

    found = drawn(store)

    assert names(found) == ["accuracy", "accuracy-parameters", "learning-curves"]
    files = {file.name for file in (store.root / "plots").iterdir()}
    assert files == {f"{plot.name}.{ending}" for plot in found.plots for ending in ("svg", "png")}
    for plot in found.plots:
        assert (store.root / "plots" / f"{plot.name}.svg").read_text() == plot.svg
        assert "mnist-5k" in plot.title and "\n" not in plot.title


def test_nothing_is_drawn_where_nothing_finished(store: Store, make_record: Make) -> None:
    keep(store, make_record(status=Status.FAILED))

    assert drawn(store) == Gallery()
    assert draw(store, [], []) == {}


def test_plots_that_are_no_longer_drawn_go_and_other_files_stay(store: Store, make_record: Make) -> None:
    keep(store, make_record(), epochs=1)
    folder = store.root / "plots"
    drawn(store)
    for name in ("old-accuracy-latency.svg", "old-wrong-a-not-b.png", "mine.svg", "notes.txt", "my-accuracy.pdf"):
        (folder / name).write_text("kept?")

    drawn(store)

    there = {file.name for file in folder.iterdir()}
    assert {"mine.svg", "notes.txt", "my-accuracy.pdf", "mnist-5k-accuracy.svg"} <= there
    assert not {"old-accuracy-latency.svg", "old-wrong-a-not-b.png"} & there


def test_data_sets_of_one_name_have_plots_of_their_own(store: Store, make_record: Make) -> None:
    one = make_record()
    other = one.model_copy(update={"run_id": "other", "dataset_sha256": "0" * 64})
    keep(store, one)
    keep(store, other)
    records, _ = store.records()

    found = draw(store, records, comparisons(records))

    assert set(found) == {data_key(one), data_key(other)}
    assert len({plot.name for drawing in found.values() for plot in drawing.plots}) == 4


def test_latency_is_drawn_from_exclusive_timings_only_and_machine_by_machine(store: Store, make_record: Make) -> None:
    cnn, mobilenet, mlp = (keep(store, make_record(model)) for model in ("cnn", "mobilenet", "mlp"))
    timed(store, cnn, 1.0, contended=True)
    found = drawn(store)
    assert "accuracy-latency" not in names(found)
    assert any("while other jobs used the machine" in note for note in found.notes)

    timed(store, cnn, 1.0)
    timed(store, mobilenet, 2.0)
    found = drawn(store)
    assert "accuracy-latency" in names(found) and not any("while other jobs" in note for note in found.notes)

    timed(store, mlp, 0.1, device="NVIDIA H100")
    titles = [plot.svg for plot in drawn(store).plots if "latency" in plot.name]
    assert len(titles) == 2
    assert sorted("NVIDIA H100" in text for text in titles) == sorted("Some Processor" in text for text in titles)


def test_sizes_of_the_training_set_make_a_curve(store: Store, make_record: Make) -> None:
    for size in (100, None):
        keep(store, make_record(recipe=Recipe(train_size=size), images_per_epoch=size or 4000))
    keep(store, make_record("mobilenet"))

    found = drawn(store)

    (curve,) = [plot for plot in found.plots if plot.name.endswith("train-size")]
    assert ">cnn<" in curve.svg and ">mobilenet<" not in curve.svg


def test_runs_that_differ_in_more_than_their_size_are_no_curve(store: Store, make_record: Make) -> None:
    keep(store, make_record(recipe=Recipe(train_size=100)))
    keep(store, make_record(recipe=Recipe(lr=0.5)))

    assert "accuracy-train-size" not in names(drawn(store))


def test_a_sweep_is_a_curve_with_its_winner(store: Store, make_record: Make) -> None:
    first = make_record()
    info = first.dataset_sha256
    job = Job.model_validate(
        {
            "model": "cnn",
            "dataset": {"name": "mnist-5k", "sha256": info, "train_images": 4000, "test_images": 1000, "classes": 10},
            "recipe": Recipe(validation_size=500),
            "judged_on": "validation",
            "sweep_id": "abc",
        }
    )
    sweep = Sweep(
        **job.model_dump(include={"model", "weights", "weights_sha256", "plugin_sha256"}),
        sweep_id="abc",
        dataset=job.dataset,
        recipe=job.recipe,
        space=Space(ranges={"lr": Range(low=1e-4, high=1e-1, log=True)}),
        seeds=(0,),
        search="random",
        search_seed=0,
        scheduler="asha",
        grace_period=1,
        reduction_factor=3,
        trials=3,
        gpus_per_trial=0,
        started_at=START,
        finished_at=START,
    )
    write_sweep(store, sweep)
    for lr, accuracy, status in ((1e-3, 0.9, Status.OK), (1e-2, 0.95, Status.OK), (0.1, 0.97, Status.STOPPED)):
        trial = job.model_copy(update={"recipe": Recipe(validation_size=500, lr=lr)}).runs()[0]
        record = recorded(trial, status=status, started_at=START, ended_at=START, validation_accuracy=accuracy)
        keep(store, record)

    found = drawn(store)

    assert names(found) == ["accuracy-lr"]  # trials never saw the test images
    assert "cnn: best at 0.01" in found.plots[0].svg
    assert "mnist-5k" in found.plots[0].title


def test_confusion_and_what_only_one_gets_wrong(store: Store, make_record: Make) -> None:
    cnn, mobilenet = make_record("cnn", test_accuracy=0.98), make_record("mobilenet", test_accuracy=0.95)
    keep(store, cnn, answers(slice(0, 20)))
    keep(store, mobilenet, answers(slice(10, 60)))

    found = drawn(store)
    assert [name.split("-")[:2] for name in names(found)[2:]] == [["confusion", "cnn"], ["confusion", "mobilenet"]]
    assert any("test images are not in images/" in note for note in found.notes)

    images.save(store.root, cnn.dataset_sha256, PIXELS, LABELS, [f"class{number}" for number in range(10)])
    found = drawn(store)
    assert [name for name in names(found) if "wrong" in name] == [
        f"wrong-cnn-{cnn.job_id}-not-mobilenet-{mobilenet.job_id}",
        f"wrong-mobilenet-{mobilenet.job_id}-not-cnn-{cnn.job_id}",
    ]
    titles = [plot.title for plot in found.plots if "wrong" in plot.name]
    assert titles == [
        "cnn wrong, mobilenet right: 10 of 1,000 test images",
        "mobilenet wrong, cnn right: 40 of 1,000 test images",
    ]
    assert "true class9" in found.plots[-1].svg
    assert not found.notes


MANY = DatasetInfo(name="birds", sha256="e" * 64, train_images=4000, test_images=1000, classes=50)


def of_many(wrong: slice) -> Predictions:
    """Right but for some images, of fifty classes with twenty images each."""
    labels = (np.arange(1000) // 20).astype(np.int16)
    predicted = labels.copy()
    predicted[wrong] = (predicted[wrong] + 1) % 50
    return Predictions(labels, predicted, np.full(1000, 0.5, dtype=np.float32))


def test_of_many_classes_the_pairs_most_often_confused_are_listed_and_no_matrix_is_drawn(
    store: Store, make_record: Make
) -> None:
    cnn = make_record("cnn", dataset=MANY, test_accuracy=0.9)
    keep(store, cnn, of_many(slice(35, 120)))  # five of class 1, all of 2 to 5
    keep(store, make_record("mobilenet", dataset=MANY, test_accuracy=0.8), of_many(slice(0, 3)))
    names_of_birds = [f"bird|{number}" for number in range(50)]
    labels = of_many(slice(0, 0)).labels
    images.save(store.root, MANY.sha256, np.zeros((1000, 3, 8, 8), np.uint8), labels, names_of_birds)

    overview = look(store)
    table = confused_table(overview.comparisons[0])
    assert table is not None
    rows = [[cell.text for cell in row] for row in table.rows]
    assert rows == [
        ["cnn", "bird|2", "bird|3", "20", "100.00 %"],
        ["cnn", "bird|3", "bird|4", "20", "100.00 %"],
        ["cnn", "bird|4", "bird|5", "20", "100.00 %"],
        ["cnn", "bird|5", "bird|6", "20", "100.00 %"],
        ["cnn", "bird|1", "bird|2", "5", "25.00 %"],
        ["mobilenet", "bird|0", "bird|1", "3", "15.00 %"],
    ]
    page = write_summary(store, overview).read_text()
    assert "### Classes most often confused on birds" in page
    assert "bird\\|5" in page
    assert "Confused classes, cnn: 1,000 test images." in page
    html_page = write_report(store, overview).read_text()
    assert "Classes most often confused on birds" in html_page
    assert "bird|5" in html_page
    assert not any("confusion" in file.name for file in (store.root / "plots").iterdir())
    assert any("wrong" in file.name for file in (store.root / "plots").iterdir())


def test_of_thirty_classes_a_matrix_is_drawn_and_nothing_is_listed(store: Store, make_record: Make) -> None:
    thirty = MANY.model_copy(update={"classes": 30})
    labels = (np.arange(1000) % 30).astype(np.int16)
    said = Predictions(labels, labels[::-1].copy(), np.full(1000, 0.5, dtype=np.float32))
    keep(store, make_record("cnn", dataset=thirty), said)

    overview = look(store)

    assert confused_table(overview.comparisons[0]) is None
    assert any("confusion-cnn" in plot.name for plot in drawn(store).plots)


def test_photos_of_mixed_sizes_that_models_disagree_on_are_shown(
    store: Store, make_record: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    for channel, name in ((0, "red"), (2, "blue")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(20):
            pixels = rng.integers(0, 40, (96 + 6 * number, 224 - 6 * number, 3), dtype=np.uint8)
            pixels[..., channel] += 200
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.jpg", quality=95)
    data = datasets.load(f"folder:{tmp_path / 'photos'}")
    labels = data.test.labels.astype(np.int16)
    images.save(store.root, data.sha256, data.test.images, labels, data.class_names, dataset=data.name)
    sure = np.linspace(0.6, 0.9, len(labels), dtype=np.float32)
    for model, answer in (("cnn", 0), ("mobilenet", 1)):  # each always gives one answer
        said = Predictions(labels, np.full_like(labels, answer), sure)
        keep(store, make_record(model, dataset=data.info, test_accuracy=0.5), said)
    sheets: list[np.ndarray[Any, Any]] = []
    draw_sheet = plots.wrong_answers

    def spy(pixels: np.ndarray[Any, Any], *texts: Any, **more: Any) -> Any:
        sheets.append(pixels)
        return draw_sheet(pixels, *texts, **more)

    monkeypatch.setattr(plots, "wrong_answers", spy)

    found = drawn(store)

    assert [plot.title for plot in found.plots if "wrong" in plot.name] == [
        "cnn wrong, mobilenet right: 4 of 8 test images",
        "mobilenet wrong, cnn right: 4 of 8 test images",
    ]
    assert not found.notes
    assert [sheet.shape[:2] for sheet in sheets] == [(4, 3), (4, 3)]
    red, blue = sheets  # blue is class 0: cnn says it of all, and is wrong where a photo is red
    assert (red.mean(axis=(0, 2, 3)).round(-2) == [200, 0, 0]).all()
    assert (blue.mean(axis=(0, 2, 3)).round(-2) == [0, 0, 200]).all()


def test_predictions_of_other_images_are_not_shown_beside_these(store: Store, make_record: Make) -> None:
    cnn = make_record("cnn", test_accuracy=0.98)
    keep(store, cnn, answers(slice(0, 20)))
    keep(store, make_record("mobilenet"), answers(slice(10, 60)))
    images.save(store.root, cnn.dataset_sha256, PIXELS[:500], LABELS[:500], [str(number) for number in range(10)])

    found = drawn(store)

    assert not any("wrong" in name for name in names(found))
    assert any("not of the images that are stored" in note for note in found.notes)


def test_two_models_that_err_alike_have_no_grid_but_a_line(store: Store, make_record: Make) -> None:
    cnn = make_record("cnn", test_accuracy=0.98)
    keep(store, cnn, answers(slice(0, 20)))
    keep(store, make_record("mobilenet", test_accuracy=0.97), answers(slice(0, 30)))
    images.save(store.root, cnn.dataset_sha256, PIXELS, LABELS, [str(number) for number in range(10)])

    found = drawn(store)

    assert any("no test image that cnn gets wrong and mobilenet gets right" in note for note in found.notes)
    assert sum("wrong" in name for name in names(found)) == 1


def test_however_many_jobs_there_are_only_a_few_are_read(
    store: Store, make_record: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [
        make_record(model, seed=seed, recipe=Recipe(lr=lr / 1000), test_accuracy=lr / 1000)
        for model in ("cnn", "mobilenet")
        for lr in range(1, 41)
        for seed in range(3)
    ]
    read: list[str] = []
    monkeypatch.setattr(Store, "epochs", lambda self, run_id: read.append(run_id) or [])
    monkeypatch.setattr(Store, "predictions", lambda self, run_id: read.append(run_id))

    (found,) = draw(store, records, comparisons(records, store)).values()

    assert len(set(read)) <= 3 * (gallery.MOST_CURVES + mistakes.MOST_JOBS)
    assert any("Of 80 jobs the plots show 12" in note for note in found.notes)
    assert sum(len(plot.svg) for plot in found.plots) < 200_000


def test_the_best_jobs_are_each_models_best_and_then_the_next(make_record: Make) -> None:
    entries = [
        Entry(f"{model} {value}", [make_record(model, test_accuracy=value)])
        for model, value in (("cnn", 0.9), ("cnn", 0.95), ("cnn", 0.92), ("mobilenet", 0.5), ("mlp", 0.4))
    ]

    chosen = [entry.label for entry in best_jobs(entries, 4)]

    assert chosen == ["cnn 0.95", "mobilenet 0.5", "mlp 0.4", "cnn 0.92"]
