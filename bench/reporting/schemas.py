"""The Parquet schemas of what is stored, made from the models of the rows."""

from __future__ import annotations

import datetime
import types
import typing
from enum import StrEnum
from typing import Any

import pyarrow as pa
from pydantic import BaseModel

from bench.spec import SCHEMA_VERSION, Deployment, EpochRecord, Record, Timing

_ARROW_TYPES: dict[Any, pa.DataType] = {
    int: pa.int64(),
    float: pa.float64(),
    str: pa.string(),
    bool: pa.bool_(),
    datetime.datetime: pa.timestamp("us", tz="UTC"),
}


def schema_of(row: type[BaseModel]) -> pa.Schema:
    """Return the Parquet schema of a flat row: one column per field, in order, its description as metadata."""
    columns = []
    for name, field in row.model_fields.items():
        annotation: Any = field.annotation
        if isinstance(annotation, types.UnionType):
            annotation = next(part for part in typing.get_args(annotation) if part is not type(None))
        if typing.get_origin(annotation) is typing.Literal or issubclass(annotation, StrEnum):
            annotation = str
        metadata = {"description": field.description} if field.description else None
        columns.append(pa.field(name, _ARROW_TYPES[annotation], nullable=not field.is_required(), metadata=metadata))
    return pa.schema(columns, metadata={"schema_version": str(SCHEMA_VERSION)})


RUNS_SCHEMA = schema_of(Record)
EPOCHS_SCHEMA = schema_of(EpochRecord)
TIMINGS_SCHEMA = schema_of(Timing)
DEPLOYMENTS_SCHEMA = schema_of(Deployment)
