"""Division of the training images into those to train on and those held out, from their labels, without torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_HELD_OUT_SEED = 20_240_601
"""Fixed, so that every run on a data set is validated on the same images."""


def by_class(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Return all positions, int64 [images], in an order each beginning of which keeps the classes' proportions."""
    generator = np.random.default_rng(seed)
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        # the k-th image of n in its class stands at (k + offset) / n of the whole order
        place[generator.permutation(members)] = (np.arange(len(members)) + generator.random()) / len(members)
    return np.argsort(place, kind="stable")


def train_and_validation(
    labels: NDArray[np.int64], *, validation_size: int, train_size: int | None, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (positions to train on, positions held out), both int64 and ascending.

    Args:
        labels: labels of all training images.
        validation_size: how many images to hold out; they are the same for every seed.
        train_size: how many of the other images to train on, drawn with ``seed``; None means all.
        seed: the run's seed.
    """
    order = by_class(labels, _HELD_OUT_SEED)
    held_out, rest = np.sort(order[:validation_size]), np.sort(order[validation_size:])
    if train_size is not None:
        rest = np.sort(rest[by_class(labels[rest], seed)[:train_size]])
    return rest, held_out
