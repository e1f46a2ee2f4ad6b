"""Synthetic images, for tests and for machines without any other data set."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from bench.errors import UserError
from bench.learning.data.dataset import Dataset, Split, digest, register


@register("synthetic")
def _synthetic(data_dir: Path | None) -> Dataset:
    """Make 1,000 training and 200 test images of ten easy classes: a bright bar in one of ten places, in noise."""
    if data_dir is not None:
        raise UserError("synthetic images are made, not read; leave out --data-dir")
    random = np.random.default_rng(0)
    splits = []
    for count in (1000, 200):
        labels = np.arange(count, dtype=np.int64) % 10
        images = random.integers(0, 120, size=(count, 1, 28, 28), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            top, left = 1 + 14 * (label // 5), 1 + 5 * (label % 5)
            image[0, top : top + 12, left : left + 4] += 120
        splits.append(Split(images, labels))
    contents = [hashlib.sha256(split.array.tobytes()).hexdigest() for split in splits]
    return Dataset("synthetic", digest(contents), splits[0], splits[1], tuple("0123456789"))
