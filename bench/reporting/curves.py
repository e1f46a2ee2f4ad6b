"""Plots of one run, for the tools that runs are exported to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bench.spec import EpochRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def training_curves(epochs: Sequence[EpochRecord]) -> Figure:
    """Loss and accuracy of the training batches, epoch by epoch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")  # not pyplot: no window, no global state
    numbers = [epoch.epoch for epoch in epochs]
    for axis, title, values in zip(
        figure.subplots(1, 2),
        ("training loss (nats)", "training accuracy (%)"),
        ([epoch.train_loss for epoch in epochs], [100 * epoch.train_accuracy for epoch in epochs]),
        strict=True,
    ):
        axis.plot(numbers, values, marker="o")
        axis.set(xlabel="epoch", title=title)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    return figure


def confusion_matrix(labels: NDArray[np.int16], predicted: NDArray[np.int16], classes: int) -> Figure:
    """How often each class was taken for each, with the share of the true class as the shade."""
    from matplotlib.figure import Figure

    table = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(table, (labels.astype(np.int64), predicted.astype(np.int64)), 1)
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(6, 5.4), layout="constrained")
    axis = figure.subplots()
    shown = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(shown, ax=axis, label="share of the true class")
    axis.set(xlabel="predicted class", ylabel="true class", title="confusion matrix, test images")
    if classes <= 20:
        axis.set(xticks=range(classes), yticks=range(classes))
        for (row, column), count in np.ndenumerate(table):
            if count:
                colour = "white" if shares[row, column] > 0.5 else "black"
                axis.text(column, row, str(count), ha="center", va="center", fontsize=7, color=colour)
    return figure
