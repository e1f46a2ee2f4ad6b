"""The index of a results folder: a copy of what runs/ holds, in one file that is read a thousand times faster.

The files in runs/ are what counts: a line is used only while its file has the size and the state that the line names.
On a disk each record adds its line; an object cannot grow, so there the index is written when many records are read.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from bench.errors import UserError
from bench.reporting.files import State, read, write_whole
from bench.spec import SCHEMA_VERSION, Record
from bench.storage import Place

NAME = ".index.jsonl"
WORTH_AN_INDEX = 100
"""The fewest files that must have been read to write an index; a small folder is left as it is."""


class Line(BaseModel):
    """A line of the index."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    size: int
    changed: int | str
    """What :class:`bench.reporting.files.State` calls so."""
    record: Record

    def holds_for(self, state: State) -> bool:
        """Return whether the file is still the one that was read."""
        return (self.size, self.changed) == state

    def as_bytes(self) -> bytes:
        """Return the line, set off from a torn one before it."""
        return b"\n" + self.model_dump_json().encode() + b"\n"


def read_index(root: Place) -> tuple[dict[str, Line], int]:
    """Return (lines by the name of their file, number of all lines); lines that cannot be read are skipped."""
    try:
        lines = [line for line in read(root / NAME).split(b"\n") if line]
    except OSError:
        return {}, 0
    index = {}
    for line in lines:
        with suppress(ValidationError):
            parsed = Line.model_validate_json(line)
            if parsed.record.schema_version <= SCHEMA_VERSION:
                index[parsed.file] = parsed
    return index, len(lines)


def write_index(root: Place, lines: Iterable[Line]) -> None:
    """Write the index anew, unless the folder may only be read."""
    with suppress(OSError, UserError):
        write_whole(root / NAME, b"".join(line.as_bytes() for line in lines))


def add_to_index(root: Place, file: str, state: State, record: Record) -> None:
    """Add the line of a record on a disk; without it the record is there just the same."""
    if isinstance(root, Path):
        line = Line(file=file, size=state.size, changed=state.changed, record=record)
        # unbuffered, so that several commands can share a folder
        with suppress(OSError), (root / NAME).open("ab", buffering=0) as index:
            index.write(line.as_bytes())
