"""Which training images a run trains on, and which are held out. Plain arithmetic on labels, no torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_HELD_OUT_SEED = 20_240_601
"""Fixed, so that every run on a data set is validated on the same images."""


def by_class(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """All positions in an order any beginning of which has the classes in their proportions: int64 [images]."""
    generator = np.random.default_rng(seed)
    place = np.empty(len(labels))
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        # the k-th image of n in its class stands at (k + offset) / n of the whole order
        place[generator.permutation(own)] = (np.arange(len(own)) + generator.random()) / len(own)
    return np.argsort(place, kind="stable")


def train_and_validation(
    labels: NDArray[np.int64], *, validation_size: int, train_size: int | None, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(positions to train on, positions held out), both ascending: int64.

    Args:
        labels: of all training images.
        validation_size: how many to hold out; the same ones whatever the seed.
        train_size: how many of the others to train on, drawn with ``seed``; None is all.
        seed: of the run.
    """
    order = by_class(labels, _HELD_OUT_SEED)
    held_out, rest = np.sort(order[:validation_size]), np.sort(order[validation_size:])
    if train_size is not None:
        rest = np.sort(rest[by_class(labels[rest], seed)[:train_size]])
    return rest, held_out
