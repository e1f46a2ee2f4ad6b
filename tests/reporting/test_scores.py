"""Scores are what their formulas say, for even and uneven classes, and for classes without test images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.reporting.scores import (
    Pair,
    balanced_accuracy,
    calibration_error,
    confusion,
    imbalance,
    macro_f1,
    most_confused,
    scores_of,
    top5_accuracy,
)
from bench.spec import Predictions


def answers(labels: Sequence[int], ranked: Sequence[Sequence[int]], surest: float = 0.5) -> Predictions:
    """Predictions with these most probable classes, each with half of the probability of the one before it."""
    top = np.array(ranked, dtype=np.int16)
    shares = np.broadcast_to(surest * 0.5 ** np.arange(top.shape[1]), top.shape).astype(np.float32)
    return Predictions(np.array(labels, dtype=np.int16), top[:, 0].copy(), shares[:, 0].copy(), top, shares)


def said_with(right: list[bool], probability: list[float]) -> Predictions:
    labels = np.zeros(len(right), np.int16)
    return Predictions(labels, np.array([0 if ok else 1 for ok in right], np.int16), np.array(probability, np.float32))


@st.composite
def predictions(draw: st.DrawFn, classes: int = 12) -> Predictions:
    """Predictions of up to 60 images, some classes often without any."""
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=1, max_size=60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return answers(labels, [rng.permutation(classes)[:5] for _ in labels])


def accuracy(said: Predictions) -> float:
    return float((said.labels == said.predicted).mean())


# --- by hand ------------------------------------------------------------------------------------------------------

# six images of class 0, three of class 1, one of class 2, none of class 3
BY_HAND = answers([0] * 6 + [1] * 3 + [2], [[0], [0], [0], [0], [0], [1], [1], [1], [3], [0]])


def test_balanced_accuracy_by_hand() -> None:
    assert balanced_accuracy(BY_HAND) == pytest.approx((5 / 6 + 2 / 3 + 0 / 1) / 3)


def test_macro_f1_by_hand_is_over_the_classes_with_images() -> None:
    of_0 = 2 * (5 / 6) * (5 / 6) / (5 / 6 + 5 / 6)  # six were predicted to be of class 0, five of them rightly
    of_1 = 2 * (2 / 3) * (2 / 3) / (2 / 3 + 2 / 3)
    assert macro_f1(BY_HAND) == pytest.approx((of_0 + of_1 + 0) / 3)


def test_imbalance_by_hand_leaves_out_a_class_without_images() -> None:
    assert imbalance(BY_HAND) == 6


def test_a_class_without_images_makes_no_nan() -> None:
    said = answers([0, 0, 5], [[0, 1], [7, 0], [5, 0]])

    scores = scores_of(said, 10).model_dump()

    assert all(np.isfinite(value) for value in scores.values())
    assert scores["test_balanced_accuracy"] == pytest.approx((1 / 2 + 1) / 2)
    assert scores["test_macro_f1"] == pytest.approx((2 / 3 + 1) / 2)


def test_top_5_accuracy_by_hand() -> None:
    said = answers([4, 9, 9, 2], [[4, 0, 1, 2, 3], [4, 0, 1, 2, 9], [0, 1, 2, 3, 4], [4, 2, 1, 0, 3]])
    assert top5_accuracy(said) == 3 / 4


def test_top_5_accuracy_is_given_from_ten_classes_on_and_where_the_five_are_stored() -> None:
    said = answers([4, 9], [[4, 0, 1, 2, 3], [4, 0, 1, 2, 9]])
    without = Predictions(said.labels, said.predicted, said.probability)

    assert scores_of(said, 10).test_top5_accuracy == 1
    assert scores_of(said, 9).test_top5_accuracy is None
    assert scores_of(without, 10).test_top5_accuracy is None
    assert scores_of(without, 10).test_balanced_accuracy == 0.5


# --- for all predictions ------------------------------------------------------------------------------------------


@given(said=predictions())
def test_top_5_accuracy_is_at_least_the_accuracy(said: Predictions) -> None:
    top5 = top5_accuracy(said)

    assert top5 is not None
    assert accuracy(said) <= top5 <= 1


@given(each=st.integers(1, 5), seed=st.integers(0, 2**32 - 1))
def test_balanced_accuracy_is_the_accuracy_where_classes_are_even(each: int, seed: int) -> None:
    labels = list(range(7)) * each
    rng = np.random.default_rng(seed)
    said = answers(labels, rng.integers(0, 7, (len(labels), 1)).tolist())

    assert balanced_accuracy(said) == pytest.approx(accuracy(said))
    assert imbalance(said) == 1


@given(said=predictions())
def test_scores_are_shares_and_all_of_them_1_without_a_mistake(said: Predictions) -> None:
    for score in (balanced_accuracy(said), macro_f1(said), calibration_error(said)):
        assert 0 <= score <= 1
    right = Predictions(said.labels, said.labels, said.probability)
    assert (balanced_accuracy(right), macro_f1(right), most_confused(right.labels, right.predicted)) == (1, 1, [])


@given(said=predictions(), seed=st.integers(0, 2**32 - 1))
def test_neither_the_order_of_the_images_nor_the_numbers_of_the_classes_matter(said: Predictions, seed: int) -> None:
    rng = np.random.default_rng(seed)
    order, renamed = rng.permutation(len(said.labels)), rng.permutation(12).astype(np.int16)
    assert said.top_classes is not None
    assert said.top_probabilities is not None
    other = Predictions(
        renamed[said.labels[order]],
        renamed[said.predicted[order]],
        said.probability[order],
        renamed[said.top_classes[order]],
        said.top_probabilities[order],
    )

    one, again = scores_of(said, 12).model_dump(), scores_of(other, 12).model_dump()

    assert again == pytest.approx(one)


@given(said=predictions(), most=st.integers(1, 200))
def test_the_pairs_most_often_confused_are_the_largest_cells_of_the_confusion_matrix(
    said: Predictions, most: int
) -> None:
    table = confusion(said.labels, said.predicted, 12)
    images = table.sum(axis=1)
    np.fill_diagonal(table, 0)

    pairs = most_confused(said.labels, said.predicted, most)

    assert [pair.count for pair in pairs] == sorted(table[table > 0].tolist(), reverse=True)[:most]
    for pair in pairs:
        assert table[pair.true, pair.predicted] == pair.count
        assert pair.share == pytest.approx(pair.count / images[pair.true])
    assert pairs == sorted(pairs, key=lambda pair: (-pair.count, pair.true, pair.predicted))


def test_the_pairs_most_often_confused_by_hand() -> None:
    assert most_confused(BY_HAND.labels, BY_HAND.predicted, 2) == [Pair(0, 1, 1, 1 / 6), Pair(1, 3, 1, 1 / 3)]


# --- confusion and calibration --------------------------------------------------------------------------------------


def test_the_confusion_matrix_counts_each_pair_of_classes() -> None:
    random = np.random.default_rng(0)
    labels, predicted = random.integers(0, 7, (2, 500)).astype(np.int16)
    table = confusion(labels, predicted, 7)
    for true in range(7):
        for said in range(7):
            assert table[true, said] == ((labels == true) & (predicted == said)).sum()


def test_calibration_error_by_hand() -> None:
    # bins of a tenth: (0.5, 0.6] holds two, one right: |1/2 - 0.55|; (0.9, 1] holds two, both right: |1 - 0.96|
    said = said_with([True, False, True, True], [0.52, 0.58, 0.95, 0.97])
    assert calibration_error(said, bins=10) == pytest.approx((2 * 0.05 + 2 * 0.04) / 4, abs=1e-6)
    # a border belongs to the bin below it
    assert calibration_error(said_with([True, False], [0.5, 0.41]), bins=2) == pytest.approx(0.045, abs=1e-6)
    assert calibration_error(said_with([True], [1.0])) == 0


def test_a_calibrated_model_has_next_to_no_error() -> None:
    random = np.random.default_rng(0)
    probability = random.uniform(0.1, 1, 100_000)
    right = random.uniform(size=100_000) < probability
    assert calibration_error(said_with(list(right), list(probability))) < 0.01
