from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bench.learning.data.splits import by_class, train_and_validation

LABELS = st.lists(st.integers(0, 4), min_size=2, max_size=200).map(lambda labels: np.array(labels, np.int64))


@given(LABELS, st.integers(0, 5))
def test_any_beginning_has_the_classes_in_their_proportions(labels: np.ndarray, seed: int) -> None:
    order = by_class(labels, seed)

    assert sorted(order) == list(range(len(labels)))
    for size in range(len(labels) + 1):
        for label in np.unique(labels):
            share = size * np.mean(labels == label)
            assert abs(np.sum(labels[order[:size]] == label) - share) <= len(np.unique(labels))


@given(LABELS, st.data())
def test_held_out_images_are_never_trained_on_and_the_same_for_every_seed(
    labels: np.ndarray, data: st.DataObject
) -> None:
    validation_size = data.draw(st.integers(0, len(labels) - 1))
    train_size = data.draw(st.none() | st.integers(1, len(labels) - validation_size))
    wanted = {"validation_size": validation_size, "train_size": train_size}

    train, held_out = train_and_validation(labels, **wanted, seed=1)
    again, also_held_out = train_and_validation(labels, **wanted, seed=2)

    assert not set(train) & set(held_out)
    assert len(held_out) == validation_size
    assert len(train) == len(again) == (len(labels) - validation_size if train_size is None else train_size)
    assert list(held_out) == list(also_held_out)


def test_with_nothing_asked_for_all_images_are_trained_on_in_their_order() -> None:
    train, held_out = train_and_validation(np.array([1, 0, 1, 1]), validation_size=0, train_size=None, seed=3)

    assert list(train) == [0, 1, 2, 3]
    assert len(held_out) == 0


def test_two_seeds_draw_different_images() -> None:
    labels = np.repeat(np.arange(10), 50)

    drawn = [train_and_validation(labels, validation_size=0, train_size=20, seed=seed)[0] for seed in (0, 1)]

    assert set(drawn[0]) != set(drawn[1])
    assert [np.bincount(labels[one], minlength=10).tolist() for one in drawn] == [[2] * 10] * 2
