"""Stored runs as event files for TensorBoard: one folder for each run, replaced if the run was trained again."""

from __future__ import annotations

import io
import logging
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.errors import UserError
from bench.reporting.exports.common import digest, facts, figures, parameters, plots
from bench.reporting.store import Store
from bench.spec import Record

MARK = ".exported"
"""The file with the digest of the run that a folder shows."""


def export_tensorboard(store: Store, records: Sequence[Record], folder: Path) -> str:
    """Write event files, except of runs that are there unchanged; return a line that says what was done, and one
    for each run whose predictions cannot be used.

    Raises:
        UserError: the folder cannot be written, or holds a folder of a run's name that bench.export did not write.
    """
    added = replaced = 0
    problems: list[str] = []
    logging.getLogger("tensorboardX").setLevel(logging.ERROR)  # it warns of NaN, as in the loss of a diverged run
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for record in records:
            target = folder / record.run_id
            mark = target / MARK
            if mark.is_file() and mark.read_text() == digest(record):
                continue
            if target.exists() and not mark.is_file():
                raise UserError(f"--tensorboard: {target} was not written by bench.export; move it away")
            replaced += target.exists()
            added += not target.exists()
            # TensorBoard skips names with a leading dot, so it shows only runs that are whole
            work = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder))
            try:
                _write(work, store, record, problems)
                (work / MARK).write_text(digest(record))
                work.chmod(0o755)
                if target.exists():
                    shutil.rmtree(target)
                work.rename(target)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise UserError(f"--tensorboard: cannot write to {folder}: {error.strerror or error}") from None
    unchanged = len(records) - added - replaced
    return "\n".join([f"{folder}: {added} added, {replaced} replaced, {unchanged} there already", *problems])


def _write(folder: Path, store: Store, record: Record, problems: list[str]) -> None:
    import numpy as np
    from PIL import Image
    from tensorboardX import SummaryWriter
    from tensorboardX.summary import hparams

    started, ended = record.started_at.timestamp(), record.ended_at.timestamp()
    with SummaryWriter(str(folder)) as writer:
        measured = figures(record)
        for summary in hparams(dict(parameters(record)), {f"run/{name}": value for name, value in measured.items()}):
            writer.file_writer.add_summary(summary, walltime=started)
        at = started
        for epoch in store.epochs(record.run_id):
            at += epoch.seconds
            for name, value in epoch.model_dump(exclude={"run_id", "epoch"}, exclude_none=True).items():
                writer.add_scalar(f"epoch/{name}", value, epoch.epoch, walltime=at)
        for name, value in measured.items():
            writer.add_scalar(f"run/{name}", value, record.epochs, walltime=ended)
        rows = {**parameters(record), **facts(record)}
        cells = [f"| {name} | {str(value).replace('|', ' ')} |" for name, value in rows.items()]
        writer.add_text("run", "\n".join(["| what | value |", "|---|---|", *cells]), record.epochs, walltime=ended)
        for name, png in plots(store, record, problems):
            pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
            writer.add_image(f"plot/{name}", pixels, record.epochs, walltime=ended, dataformats="HWC")
