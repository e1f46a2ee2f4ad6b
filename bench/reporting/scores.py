"""The figures of one model's predictions: top-5 and balanced accuracy, macro-F1, calibration error, confusion.

A class without test images has neither a recall nor an F1 score: means over classes are over those that have some.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.spec import Predictions, Scores

CALIBRATION_BINS = 15
"""The number of bins of the calibration error, as in Guo et al., 2017."""
FEWEST_FOR_TOP5 = 10
"""The fewest classes with which top-5 accuracy is given; with fewer, guessing reaches more than half of it."""
UNEVEN = 1.5
"""Test classes are uneven if the largest has more than this many images for each of the smallest: then balanced
accuracy and macro-F1 are shown. MNIST's ten classes, 892 to 1,135 images, are even."""
MOST_CLASSES = 30
"""The most classes of a confusion matrix that is shown; with more, the pairs most often confused are listed."""
MOST_PAIRS = 10
"""The most pairs of classes in such a list."""


def scores_of(predictions: Predictions, classes: int) -> Scores:
    """Return the columns of :class:`bench.spec.Record` that follow from a run's predictions.

    Args:
        predictions: those of all test images; at least one.
        classes: the number of classes.
    """
    return Scores(
        test_top5_accuracy=top5_accuracy(predictions) if classes >= FEWEST_FOR_TOP5 else None,
        test_balanced_accuracy=balanced_accuracy(predictions),
        test_macro_f1=macro_f1(predictions),
        test_calibration_error=calibration_error(predictions),
        test_imbalance=imbalance(predictions),
    )


def top5_accuracy(predictions: Predictions) -> float | None:
    """Return the share of images whose class is among the five most probable; None if these are not stored."""
    if predictions.top_classes is None:
        return None
    return float((predictions.top_classes == predictions.labels[:, None]).any(axis=1).mean())


def balanced_accuracy(predictions: Predictions) -> float:
    """Return the mean over the classes with images of their recall: the share of their images classified right."""
    images, _, right = _counts(predictions)
    return float((right / images).mean())


def macro_f1(predictions: Predictions) -> float:
    """Return the mean over the classes with images of F1, the harmonic mean of precision and recall.

    F1 is twice the images of a class that were classified right, over its images plus the predictions of it.
    """
    images, predicted, right = _counts(predictions)
    return float((2 * right / (images + predicted)).mean())


def imbalance(predictions: Predictions) -> float:
    """Return the images of the largest class for each of the smallest, of the classes that have images."""
    images, _, _ = _counts(predictions)
    return float(images.max() / images.min())


def _counts(predictions: Predictions) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return (images, predictions of it, images classified right) of each class that has images, int64 [classes]."""
    labels, predicted = predictions.labels, predictions.predicted
    most = int(max(labels.max(), predicted.max())) + 1
    images, answers, right = (
        np.bincount(numbers, minlength=most) for numbers in (labels, predicted, labels[labels == predicted])
    )
    has_images = images > 0
    return images[has_images], answers[has_images], right[has_images]


def calibration_error(predictions: Predictions, bins: int = CALIBRATION_BINS) -> float:
    """Return the expected calibration error (ECE), a share: the mean distance of confidence and accuracy.

    The images are put into ``bins`` of equal width by confidence, where an edge belongs to the bin below; the mean over
    the bins is weighted by images. Guo et al., On Calibration of Modern Neural Networks, ICML 2017, equation 3.
    """
    confidence = predictions.probability.astype(np.float64)
    right = predictions.labels == predictions.predicted
    number = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gap = np.bincount(number, weights=right - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(right))


def confusion(labels: NDArray[np.integer], predicted: NDArray[np.integer], classes: int) -> NDArray[np.int64]:
    """Count how often each class was taken for each: int64 [true class, predicted class]."""
    table = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(table, (labels.astype(np.int64), predicted.astype(np.int64)), 1)
    return table


@dataclass(frozen=True)
class Pair:
    """Two classes, of which the first was taken for the second."""

    true: int
    predicted: int
    count: int
    """The number of images of the true class that were taken for the other."""
    share: float
    """The share of the true class's images."""


def most_confused(labels: NDArray[np.integer], predicted: NDArray[np.integer], most: int = MOST_PAIRS) -> list[Pair]:
    """Return the ``most`` ordered pairs of classes most often confused, the most frequent first, then by number.

    Args:
        labels: [predictions]: the true classes; of several seeds, one after the other.
        predicted: [predictions]: the classes predicted.
        most: the largest number of pairs.
    """
    wrong = labels != predicted
    pairs, counts = np.unique(np.stack([labels[wrong], predicted[wrong]]), axis=1, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:most]  # np.unique has sorted the pairs by number
    images = np.bincount(labels)
    return [
        Pair(int(true), int(other), int(count), float(count / images[true]))
        for true, other, count in zip(*pairs[:, order], counts[order], strict=True)
    ]
