"""What bench.evaluate prints of a model's predictions, by the number of classes and of their images."""

from __future__ import annotations

import numpy as np

from bench.reporting.evaluation import Assessment, assessment_text
from bench.reporting.scores import confusion, most_confused, scores_of
from bench.reporting.stats import wilson
from bench.spec import Predictions


def text_of(labels: list[int], predicted: list[int], classes: int) -> str:
    """The text on images with these classes and predictions; the five most probable classes follow the predicted."""
    true, first = np.array(labels, np.int16), np.array(predicted, np.int16)
    top = (first[:, None] + np.arange(min(5, classes))) % classes
    shares = np.full(top.shape, 0.1, np.float32)
    said = Predictions(true, first, shares[:, 0].copy(), top.astype(np.int16), shares)
    table = confusion(true, first, classes)
    figures = Assessment(
        title="a model",
        class_names=tuple(f"class {number}" for number in range(classes)),
        confusion=table,
        interval=wilson(int(np.trace(table)), len(true)),
        class_intervals=[wilson(int(table[k, k]), int(table[k].sum())) for k in range(classes)],
        scores=scores_of(said, classes),
        confused=most_confused(true, first),
        loss=1.0,
        mean_confidence=0.1,
        images_per_second=1.0,
        latency_p50_ms=1.0,
        latency_p95_ms=1.0,
        threads=1,
        blank=0,
    )
    return " ".join(assessment_text(figures).split())


def test_few_even_classes_have_neither_top_5_nor_balanced_accuracy() -> None:
    text = text_of([0, 1, 2] * 2, [0, 1, 2] * 2, 3)

    assert "accuracy 100.00 % (6 of 6)" in text
    assert "confusion matrix" in text
    for words in ("top-5", "balanced", "F1", "most often confused"):
        assert words not in text


def test_uneven_classes_have_balanced_accuracy_and_f1() -> None:
    text = text_of([0, 0, 0, 1], [0, 0, 0, 0], 2)

    assert "accuracy 75.00 % (3 of 4)" in text
    assert "balanced accuracy 50.00 %" in text
    assert f"macro-F1 {100 * (6 / 7 + 0) / 2:.2f} %" in text


def test_ten_classes_have_top_5_accuracy() -> None:
    # of class 1 the five are 7, 8, 9, 0, 1; of class 2 they are 8, 9, 0, 1, 2; of class 3 they are 4 to 8
    assert "top-5 accuracy 75.00 %" in text_of([0, 1, 2, 3], [0, 7, 8, 4], 10)


def test_more_than_30_classes_have_the_pairs_most_often_confused_instead_of_a_matrix() -> None:
    labels = list(range(31)) * 2
    text = text_of(labels, [7 if label == 5 else label for label in labels], 31)

    assert "confusion matrix" not in text
    assert "the classes most often confused" in text
    assert "class 5 class 7 2 100.00 %" in text
    assert "every image was classified right" in text_of(labels, labels, 31)
