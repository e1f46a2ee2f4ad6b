"""The accuracy on each class, from stored predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from factories import record_of

from bench.reporting.per_class import by_class_notes, by_class_table
from bench.reporting.store import Store
from bench.reporting.summary import look, render
from bench.spec import DatasetInfo, Predictions, Result


def stored(root: Path, classes: int, answers: dict[str, list[list[int]]], labels: list[int]) -> Store:
    store = Store(root)
    store.prepare()
    data = DatasetInfo(name="photos", sha256="d" * 64, train_images=100, test_images=len(labels), classes=classes)
    for model, seeds in answers.items():
        for seed, predicted in enumerate(seeds):
            accuracy = float(np.mean(np.array(predicted) == np.array(labels)))
            record = record_of(model, seed=seed, dataset=data, test_accuracy=accuracy)
            said = Predictions(np.int16(labels), np.int16(predicted), np.full(len(labels), 0.5, dtype=np.float32))
            store.write(Result(record, predictions=said))
    return store


def test_the_seeds_of_a_job_are_counted_together(tmp_path: Path) -> None:
    labels = [0, 0, 1, 1]
    store = stored(tmp_path, 3, {"cnn": [[0, 0, 1, 1], [0, 1, 1, 1]], "mobilenet": [[0, 0, 0, 1]]}, labels)

    seen = look(store)
    table = by_class_table(seen.comparisons[0])

    assert table is not None
    assert list(table.headers) == ["Class", "cnn", "mobilenet"]
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["0", "75.00 %", "100.00 %"],
        ["1", "100.00 %", "50.00 %"],
        ["2", "-", "-"],  # no test image is of this class
    ]
    assert "2 seeds together, 8 answers" in by_class_notes(seen.comparisons[0])[0]
    assert "### Accuracy by class on photos" in render(seen)


def test_of_many_classes_the_worst_are_shown(tmp_path: Path) -> None:
    labels = list(range(40)) * 2
    predicted = [*range(40), *([0] * 35), *range(35, 40)]

    table = by_class_table(look(stored(tmp_path, 40, {"cnn": [predicted]}, labels)).comparisons[0])

    assert table is not None
    assert len(table.rows) == 30
    assert {row[1].text for row in table.rows} == {"50.00 %"}


def test_without_predictions_there_is_no_table(tmp_path: Path) -> None:
    (comparison,) = look(Store(tmp_path), [record_of()]).comparisons

    assert by_class_table(comparison) is None


@pytest.mark.parametrize("name", ["a|b", "<i>"])
def test_a_class_may_have_any_name(name: str, tmp_path: Path) -> None:
    from bench.reporting import images

    store = stored(tmp_path, 2, {"cnn": [[0, 1]]}, [0, 1])
    images.save(tmp_path, "d" * 64, np.zeros((2, 1, 30, 30), np.uint8), np.array([0, 1]), (name, "other"))

    page = render(look(store))

    assert name not in page.replace("\\|", "|") if name == "<i>" else "a\\|b" in page
