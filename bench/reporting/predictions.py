"""A run's predictions as a Parquet table: one row per test image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bench.spec import SCHEMA_VERSION, TOP, Predictions

_ROUNDING = 1e-5
"""The most by which a softmax in float32 may exceed 1."""


def _column(name: str, kind: pa.DataType, description: str, *, nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={"description": description})


PREDICTIONS_SCHEMA = pa.schema(
    [
        _column("image", pa.int32(), "position in the test split"),
        _column("label", pa.int16(), "true class"),
        _column("predicted", pa.int16(), "predicted class"),
        _column("probability", pa.float32(), "softmax of the predicted class"),
        # not of a fixed length, which would differ between data sets: all files are one table
        _column("top_classes", pa.list_(pa.int16()), f"the {TOP} most probable classes", nullable=True),
        _column("top_probabilities", pa.list_(pa.float32()), "softmax of each of them", nullable=True),
    ],
    metadata={"schema_version": str(SCHEMA_VERSION)},
)


def to_table(predictions: Predictions) -> pa.Table:
    """Return predictions as a table with the columns of ``PREDICTIONS_SCHEMA``."""
    images = len(predictions.labels)
    columns: list[Any] = [np.arange(images), predictions.labels, predictions.predicted, predictions.probability]
    for values in (predictions.top_classes, predictions.top_probabilities):
        if values is None:
            columns.append([None] * images)
        else:
            starts = np.arange(images + 1, dtype=np.int32) * np.int32(values.shape[1])
            columns.append(pa.ListArray.from_arrays(starts, values.ravel()))
    return pa.table(dict(zip(PREDICTIONS_SCHEMA.names, columns, strict=True)), PREDICTIONS_SCHEMA)


def from_table(table: pa.Table) -> Predictions:
    """Return the predictions in a stored table, in the order of the images; of an earlier version without top five.

    Raises:
        KeyError: a column is missing.
        ValueError: a column has another type, or lists of different lengths.
    """
    for column in PREDICTIONS_SCHEMA:
        if column.nullable and column.name not in table.column_names:
            table = table.append_column(column, pa.nulls(len(table), column.type))
    table = table.select(PREDICTIONS_SCHEMA.names).cast(PREDICTIONS_SCHEMA).sort_by("image")
    arrays: list[Any] = [_as_array(column.combine_chunks()) for column in table.columns[1:]]
    return Predictions(*arrays)


def _as_array(values: pa.Array) -> NDArray[Any] | None:
    """Return numbers as [images], and lists as [images, length]; None if all are null."""
    if pa.types.is_list(values.type):
        if values.null_count == len(values):
            return None
        return np.from_dlpack(values.flatten()).reshape(len(values), -1)
    return np.from_dlpack(values)  # not to_numpy(), which imports pandas


def check(predictions: Predictions, classes: int) -> None:
    """Check that predictions are those of a model with this number of classes.

    Raises:
        ValueError: there are none, or a label, a class or a probability is none; the message says which.
    """
    if not len(predictions.labels):
        raise ValueError("there are none")
    chosen = {"a label": predictions.labels, "a predicted class": predictions.predicted}
    if predictions.top_classes is not None:
        chosen["one of the five most probable classes"] = predictions.top_classes
    for what, numbers in chosen.items():
        strange = numbers[(numbers < 0) | (numbers >= classes)]
        if strange.size:
            raise ValueError(f"{what} is {strange[0]}, but there are {classes} classes, numbered from 0")
    shares = predictions.probability
    if not ((shares >= 0) & (shares <= 1 + _ROUNDING)).all():  # NaN is neither
        raise ValueError("a probability is not between 0 and 1")
