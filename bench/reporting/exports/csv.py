"""The stored runs as a CSV file."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from bench.errors import UserError
from bench.reporting.files import write_whole
from bench.reporting.formats import counted
from bench.spec import Record


def export_csv(records: Sequence[Record], file: Path) -> str:
    """Write one row per run with all columns: unknown values empty, times in ISO 8601; return a line that says so.

    Raises:
        UserError: the file cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list(Record.model_fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(record.model_dump(mode="json") for record in records)
    try:
        write_whole(file.absolute(), text.getvalue().encode())
    except OSError as error:
        raise UserError(f"--csv: cannot write {file}: {error.strerror or error}") from None
    return f"{file}: {counted(len(records), 'run')}, {len(Record.model_fields)} columns"
